//! A history as lines of text: a beginning when it begins, an end when it has ended, so that whoever is killed in between
//! has said what he was about to do.

use std::{collections::HashMap, io, io::BufRead, str::FromStr, time::Duration};

use idempotency_core::{Owner, RequestId};

use super::{Answer, Call, Heard, Operation, Stage};

/// `> number began id operation ...`
pub(crate) fn begun(number: u64, call: &Call) -> String {
    let id = hex(call.id.as_bytes());
    format!("> {number} {} {id} {}\n", call.began, operation(&call.operation))
}

/// `< number ended answer ...`, or nothing where nothing was heard.
pub(crate) fn ended(number: u64, ended: u64, heard: &Heard) -> Option<String> {
    match heard {
        Heard::Answer(answer) => Some(format!("< {number} {ended} {}\n", self::answer(answer))),
        Heard::Nothing => None,
        Heard::NotDone => Some(format!("< {number} {ended} not_done\n")),
    }
}

fn operation(operation: &Operation) -> String {
    let nanos = Duration::as_nanos;
    match operation {
        Operation::Insert { owner, payload, takes_over, lease, retention } => {
            let takes_over = takes_over.map_or_else(|| "-".to_owned(), |owner| name(&owner));
            let (lease, retention) = (nanos(lease), nanos(retention));
            format!("insert {} {payload} {takes_over} {lease} {retention}", name(owner))
        }
        Operation::Renew { owner, lease, retention } => {
            format!("renew {} {} {}", name(owner), nanos(lease), nanos(retention))
        }
        Operation::Complete { owner, response, retention } => {
            format!("complete {} {response} {}", name(owner), nanos(retention))
        }
        Operation::Halt { owner, at_shutdown, retention } => {
            format!("halt {} {} {}", name(owner), u8::from(*at_shutdown), nanos(retention))
        }
        Operation::Release { owner } => format!("release {}", name(owner)),
        Operation::Forget { owner } => format!("forget {}", name(owner)),
        Operation::Lookup => "lookup".to_owned(),
        Operation::Work { owner } => format!("work {}", name(owner)),
    }
}

fn answer(answer: &Answer) -> String {
    match answer {
        Answer::Claimed => "claimed".to_owned(),
        Answer::Exists { owner, payload, stage } => {
            let stage = match stage {
                Stage::Processing => "processing".to_owned(),
                Stage::Completed(response) => format!("completed {response}"),
                Stage::Halted => "halted".to_owned(),
            };
            format!("exists {} {payload} {stage}", name(owner))
        }
        Answer::Nothing => "nothing".to_owned(),
        Answer::Applied => "applied".to_owned(),
        Answer::AlreadyApplied => "already_applied".to_owned(),
        Answer::Refused => "refused".to_owned(),
        Answer::Done => "done".to_owned(),
    }
}

/// Reads what a [`Recorder`](super::Recorder) of one process has written. A last line that was cut off is left out, lines
/// of other programs are passed over.
///
/// ```
/// let calls = idempotency_store_testkit::history::read(&b"> 0 17 0000"[..]).unwrap();
/// assert!(calls.is_empty());
/// ```
///
/// # Errors
///
/// Of reading.
pub fn read(reader: impl io::Read) -> io::Result<Vec<Call>> {
    let mut open = HashMap::new();
    let mut calls = Vec::new();
    let (mut reader, mut line) = (io::BufReader::new(reader), Vec::new());
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        // One that has no end may say something else than was meant.
        let Some(line) = line.strip_suffix(b"\n").and_then(|line| str::from_utf8(line).ok()) else {
            continue;
        };
        let mut words = Words(line.split(' '));
        match words.0.next() {
            Some(">") => {
                if let Some((number, call)) = words.begun() {
                    open.insert(number, call);
                }
            }
            Some("<") => {
                if let Some((number, ended)) = words.ended()
                    && let Some(mut call) = open.remove(&number)
                    && let Some(ended) = ended
                {
                    call.ended = Some(ended);
                    calls.push(call);
                }
            }
            _ => {}
        }
    }
    calls.extend(open.into_values());
    Ok(calls)
}

struct Words<'line>(std::str::Split<'line, char>);

impl Words<'_> {
    fn begun(&mut self) -> Option<(u64, Call)> {
        let (number, began, id) = (self.number()?, self.number()?, RequestId::from_bytes(self.bytes()?));
        let operation = match self.0.next()? {
            "insert" => Operation::Insert {
                owner: self.owner()?,
                payload: self.number()?,
                takes_over: match self.0.next()? {
                    "-" => None,
                    owner => Some(Owner::from_bytes(bytes(owner)?)),
                },
                lease: self.duration()?,
                retention: self.duration()?,
            },
            "renew" => Operation::Renew {
                owner: self.owner()?,
                lease: self.duration()?,
                retention: self.duration()?,
            },
            "complete" => Operation::Complete {
                owner: self.owner()?,
                response: self.number()?,
                retention: self.duration()?,
            },
            "halt" => Operation::Halt {
                owner: self.owner()?,
                at_shutdown: self.number::<u8>()? == 1,
                retention: self.duration()?,
            },
            "release" => Operation::Release { owner: self.owner()? },
            "forget" => Operation::Forget { owner: self.owner()? },
            "lookup" => Operation::Lookup,
            "work" => Operation::Work { owner: self.owner()? },
            _ => return None,
        };
        Some((number, Call { id, operation, began, ended: None }))
    }

    /// The answer is `None` where it is known that nothing was done.
    fn ended(&mut self) -> Option<(u64, Option<(u64, Answer)>)> {
        let (number, ended) = (self.number()?, self.number()?);
        let answer = match self.0.next()? {
            "claimed" => Answer::Claimed,
            "exists" => Answer::Exists {
                owner: self.owner()?,
                payload: self.number()?,
                stage: match self.0.next()? {
                    "processing" => Stage::Processing,
                    "completed" => Stage::Completed(self.number()?),
                    "halted" => Stage::Halted,
                    _ => return None,
                },
            },
            "nothing" => Answer::Nothing,
            "applied" => Answer::Applied,
            "already_applied" => Answer::AlreadyApplied,
            "refused" => Answer::Refused,
            "done" => Answer::Done,
            "not_done" => return Some((number, None)),
            _ => return None,
        };
        Some((number, Some((ended, answer))))
    }

    fn number<N: FromStr>(&mut self) -> Option<N> {
        self.0.next()?.parse().ok()
    }

    fn duration(&mut self) -> Option<Duration> {
        let nanos: u128 = self.number()?;
        Some(Duration::new(u64::try_from(nanos / 1_000_000_000).ok()?, (nanos % 1_000_000_000) as u32))
    }

    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        bytes(self.0.next()?)
    }

    fn owner(&mut self) -> Option<Owner> {
        Some(Owner::from_bytes(self.bytes()?))
    }
}

fn name(owner: &Owner) -> String {
    hex(owner.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes<const N: usize>(hex: &str) -> Option<[u8; N]> {
    if hex.len() != 2 * N || !hex.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}
