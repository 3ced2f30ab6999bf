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

/// The charges really made, in order. What it holds is never changed, only added to.
#[derive(Debug)]
pub(crate) enum Ledger {
    Memory(Mutex<Vec<Charge>>),
    /// One JSON object a line. Opened for append, so that several processes may share it.
    File(Mutex<File>, PathBuf),
}

impl Ledger {
    pub(crate) fn in_memory() -> Self {
        Self::Memory(Mutex::default())
    }

    pub(crate) fn in_file(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        if !fs::read(path)?.ends_with(b"\n") && file.metadata()?.len() > 0 {
            // A line that was cut off when the disk was full, or the power gone.
            file.write_all(b"\n")?;
        }
        let ledger = Self::File(Mutex::new(file), path.to_owned());
        ledger.charges()?;
        Ok(ledger)
    }

    pub(crate) fn append(&self, charge: Charge) -> io::Result<()> {
        match self {
            Self::Memory(charges) => charges.lock().unwrap_or_else(PoisonError::into_inner).push(charge),
            Self::File(file, _) => {
                let mut line = serde_json::to_vec(&charge)?;
                line.push(b'\n');
                // One write, so that lines of several processes do not mix.
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.write_all(&line)?;
                file.sync_data()?;
            }
        }
        Ok(())
    }

    pub(crate) fn charges(&self) -> io::Result<Vec<Charge>> {
        match self {
            Self::Memory(charges) => Ok(charges.lock().unwrap_or_else(PoisonError::into_inner).clone()),
            Self::File(_, path) => {
                let text = fs::read_to_string(path)?;
                let whole = text.lines().filter_map(|line| {
                    serde_json::from_str(line)
                        .inspect_err(|error| tracing::warn!(%error, "a line of the ledger cannot be read"))
                        .ok()
                });
                Ok(whole.collect())
            }
        }
    }
}
