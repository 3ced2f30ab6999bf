use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

/// One charge that was really made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Charge {
    pub(crate) id: String,
    pub(crate) amount: u64,
    pub(crate) currency: String,
}

/// The charges really made, in order: a file to which one JSON object a line is only ever added. Several processes
/// may share it.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: Mutex<File>,
    path: PathBuf,
}

impl Ledger {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        if !fs::read(path)?.ends_with(b"\n") && file.metadata()?.len() > 0 {
            // A line that was cut off when the disk was full, or the power gone.
            file.write_all(b"\n")?;
        }
        let ledger = Self { file: Mutex::new(file), path: path.to_owned() };
        ledger.charges()?;
        Ok(ledger)
    }

    pub(crate) fn append(&self, charge: &Charge) -> io::Result<()> {
        let mut line = serde_json::to_vec(charge)?;
        line.push(b'\n');
        // One write, so that lines of several processes do not mix.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&line)?;
        file.sync_data()
    }

    pub(crate) fn charges(&self) -> io::Result<Vec<Charge>> {
        let text = fs::read_to_string(&self.path)?;
        let whole = text.lines().filter_map(|line| {
            serde_json::from_str(line)
                .inspect_err(|error| tracing::warn!(%error, "a line of the ledger cannot be read"))
                .ok()
        });
        Ok(whole.collect())
    }
}
