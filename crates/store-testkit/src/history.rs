//! What callers saw of a store, and whether a store that keeps the promises could have shown them that.

mod check;
mod life;
mod lines;
mod order;
mod recorder;
mod settles;

use std::{fmt, time::Duration};

use idempotency_core::{
    Body, Change, Digest, HaltReason, Inserted, Owner, Record, RequestId, State, StoreCommand, StoreError,
    StoreReply, StoredResponse, Updated,
};

pub use check::{Violation, check};
pub use lines::read;
pub use recorder::{RecordedStore, Recorder};

/// One call of a store as its caller saw it: when it began, and when and with what it came back, if it did.
///
/// ```
/// use idempotency_core::{Owner, RequestId};
/// use idempotency_store_testkit::history::{Answer, Call, Operation, check};
/// use std::time::Duration;
///
/// let claim = |owner, began| Call {
///     id: RequestId::from_bytes([1; 32]),
///     operation: Operation::Insert {
///         owner: Owner::from_u128(owner),
///         payload: 7,
///         takes_over: None,
///         lease: Duration::from_secs(15),
///         retention: Duration::from_secs(60),
///     },
///     began,
///     ended: Some((began + 10, Answer::Claimed)),
/// };
///
/// assert!(check(&[claim(1, 0)]).is_ok());
/// // Nothing came between: the second one should have heard of the first.
/// assert_eq!(check(&[claim(1, 0), claim(2, 20)]).unwrap_err().promise, "I1");
/// ```
///
/// Instants are nanoseconds on one clock for all callers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Call {
    /// The request.
    pub id: RequestId,
    /// What was asked.
    pub operation: Operation,
    /// When it was sent at the earliest.
    pub began: u64,
    /// When the answer was there, and what it was. `None`: it never came, so what was asked may happen at any time after.
    pub ended: Option<(u64, Answer)>,
}

/// What was asked. Payloads and responses are numbers that differ where they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `insert`
    Insert {
        /// Of the claim.
        owner: Owner,
        /// Stands for the fingerprint.
        payload: u64,
        /// Of the claim.
        takes_over: Option<Owner>,
        /// Of the claim.
        lease: Duration,
        /// Of the claim.
        retention: Duration,
    },
    /// `update` with `Renew`
    Renew {
        /// Who asks.
        owner: Owner,
        /// From the moment it is applied.
        lease: Duration,
        /// After the lease.
        retention: Duration,
    },
    /// `update` with `Complete`
    Complete {
        /// Who asks.
        owner: Owner,
        /// Stands for the response.
        response: u64,
        /// From the moment it is applied.
        retention: Duration,
    },
    /// `update` with `Halt`
    Halt {
        /// Who asks.
        owner: Owner,
        /// At shutdown: a put may still follow.
        at_shutdown: bool,
        /// From the moment it is applied.
        retention: Duration,
    },
    /// `update` with `Release`
    Release {
        /// Who asks.
        owner: Owner,
    },
    /// `update` with `Forget`
    Forget {
        /// Whose record.
        owner: Owner,
    },
    /// `lookup`
    Lookup,
    /// The caller began to work, which it may once.
    Work {
        /// By which claim.
        owner: Owner,
    },
}

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// To `insert`.
    Claimed,
    /// What is there, to `insert` and `lookup`.
    Exists {
        /// Of the record.
        owner: Owner,
        /// Of the record.
        payload: u64,
        /// Of the record.
        stage: Stage,
    },
    /// Nothing is there, to `lookup`.
    Nothing,
    /// To an update.
    Applied,
    /// To an update.
    AlreadyApplied,
    /// `Fenced` or `NotFound`, to an update.
    Refused,
    /// To `Work`.
    Done,
}

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// It is being worked on.
    Processing,
    /// It has this response.
    Completed(u64),
    /// Its outcome is unknown.
    Halted,
}

impl Operation {
    /// What a command stands for in a history, and the id that it is about. `None` for what no promise speaks of.
    pub(crate) fn of(command: &StoreCommand) -> Option<(RequestId, Self)> {
        Some(match command {
            StoreCommand::Insert(claim) => (
                claim.id,
                Self::Insert {
                    owner: claim.owner,
                    payload: number(claim.fingerprint.as_bytes()),
                    takes_over: claim.takes_over,
                    lease: claim.lease,
                    retention: claim.retention,
                },
            ),
            StoreCommand::Update(update) => {
                let owner = update.owner;
                let operation = match &update.change {
                    Change::Renew { lease, retention } => {
                        Self::Renew { owner, lease: *lease, retention: *retention }
                    }
                    Change::Complete { response, retention } => {
                        Self::Complete { owner, response: response_number(response), retention: *retention }
                    }
                    Change::Halt { reason, retention } => Self::Halt {
                        owner,
                        at_shutdown: *reason == HaltReason::Shutdown,
                        retention: *retention,
                    },
                    Change::Release => Self::Release { owner },
                    _ => Self::Forget { owner },
                };
                (update.id, operation)
            }
            StoreCommand::Lookup(id) => (*id, Self::Lookup),
            _ => return None,
        })
    }
}

impl Operation {
    /// Who asks, or whose record is meant.
    pub fn owner(&self) -> Option<Owner> {
        match *self {
            Self::Insert { owner, .. }
            | Self::Renew { owner, .. }
            | Self::Complete { owner, .. }
            | Self::Halt { owner, .. }
            | Self::Release { owner }
            | Self::Forget { owner }
            | Self::Work { owner } => Some(owner),
            Self::Lookup => None,
        }
    }
}

impl Answer {
    /// What a reply stands for in a history.
    pub(crate) fn of(reply: &Result<StoreReply, StoreError>) -> Heard {
        let answer = match reply {
            Ok(StoreReply::Inserted(Inserted::Claimed)) => Self::Claimed,
            Ok(StoreReply::Inserted(Inserted::Exists(record)) | StoreReply::Found(Some(record))) => {
                Self::exists(record)
            }
            Ok(StoreReply::Found(None)) => Self::Nothing,
            Ok(StoreReply::Updated(Updated::Applied)) => Self::Applied,
            Ok(StoreReply::Updated(Updated::AlreadyApplied)) => Self::AlreadyApplied,
            Ok(StoreReply::Updated(Updated::Fenced | Updated::NotFound)) => Self::Refused,
            Err(error) if !error.was_not_applied() => return Heard::Nothing,
            _ => return Heard::NotDone,
        };
        Heard::Answer(answer)
    }

    fn exists(record: &Record) -> Self {
        let stage = match &record.state {
            State::Processing { .. } => Stage::Processing,
            State::Completed(response) => Stage::Completed(response_number(response)),
            State::Halted(_) => Stage::Halted,
        };
        Self::Exists { owner: record.owner, payload: number(record.fingerprint.as_bytes()), stage }
    }
}

/// What a caller knows of a call that has come back.
pub(crate) enum Heard {
    Answer(Answer),
    /// It may have been done, or be done later.
    Nothing,
    /// It was not done, and will not be.
    NotDone,
}

/// The digest of the bytes that are there, and not the one that stands beside them.
fn response_number(response: &StoredResponse) -> u64 {
    let digest = match response.body() {
        Body::Kept(bytes) => Digest::of(bytes),
        Body::NotKept => response.digest(),
    };
    number(digest.as_bytes())
}

fn number(hash: &[u8; 32]) -> u64 {
    u64::from_le_bytes(*hash.first_chunk().expect("32 bytes are more than 8"))
}

/// What a history that keeps the promises came to.
///
/// ```
/// assert_eq!(idempotency_store_testkit::history::check(&[]).unwrap().calls, 0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Summary {
    /// How many calls were checked.
    pub calls: usize,
    /// How many ids they were about.
    pub ids: usize,
    /// How many claims came to life.
    pub claims: usize,
    /// How many calls never came back.
    pub unanswered: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, ids, claims, unanswered } = self;
        write!(f, "{calls} calls on {ids} ids, {claims} claims, {unanswered} calls unanswered, nothing wrong")
    }
}
