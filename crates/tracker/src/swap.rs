//! Another backend under a running tracker: copy what is settled while requests run, hold, carry the rest, flip, resume.
//!
//! Until the flip nothing has changed: whatever fails before it, the tracker goes on with the store that it had. The flip
//! itself cannot fail.

mod new_backend;
mod policy;

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use idempotency_core::{
    Capabilities, Change, Claim, Clock, Inserted, Record, RequestId, Restored, SecretCheck, Setup, Store,
    StoreCommand, StoreError, StoreErrorKind, StoreReply, Survives, Update,
};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use crate::{
    Error, ErrorKind, StoreBatch, StoreReplies,
    backend::StartBackend,
    inbox::{Inbox, Input, Reply},
    store_actor::Child,
};

pub(crate) use self::new_backend::NewBackend;
use self::policy::Records;
pub use self::policy::{SwapPolicy, SwapReport};

/// How many records are copied together while requests run. Each may have a body of a mebibyte.
const PAGE: usize = 64;

/// How many ids are looked at again together while calls are held: most of them are small, and each batch is a commit.
const CARRIED: usize = 256;

/// What the actor does for a swap.
pub(crate) enum Step {
    /// Starts the new backend actor, and notes which ids are written from now on.
    Begin {
        start: StartBackend,
        capabilities: Capabilities,
        policy: SwapPolicy,
        reply: Reply<Result<Begun, Error>>,
    },
    /// Answered with those of a page that are not settled and noted, for these are carried anyhow.
    Unnoted { records: Vec<(RequestId, Record)>, reply: Reply<Vec<(RequestId, Record)>> },
    /// Answered with the ids that were noted so far, and that something is going on for; those are noted anew.
    Noted { reply: Reply<Vec<RequestId>> },
    /// Holds calls. Answered when none is under way any more.
    Hold { reply: Reply<Held> },
    /// The new backend from now on; answered with what starts the old one, which must live as long as it is spoken to.
    Flip { start: StartBackend, new: Child, capabilities: Capabilities, reply: Reply<StartBackend> },
    /// On with the old one.
    Resume,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Begin { .. } => "Begin",
            Self::Unnoted { .. } => "Unnoted",
            Self::Noted { .. } => "Noted",
            Self::Hold { .. } => "Hold",
            Self::Flip { .. } => "Flip",
            Self::Resume => "Resume",
        })
    }
}

/// Both backends, and where the number of copied records is shown.
pub(crate) struct Begun {
    pub(crate) old: Child,
    pub(crate) old_capabilities: Capabilities,
    pub(crate) new: Child,
    pub(crate) copied: Arc<AtomicUsize>,
}

/// What must be looked at once more.
pub(crate) struct Held {
    /// Ids that were written since the beginning, or that something is going on for.
    pub(crate) ids: Vec<RequestId>,
    pub(crate) live: Vec<Claim>,
}

/// Whether the policy forbids it; said by the actor, which knows what it has.
pub(crate) fn check(policy: &SwapPolicy, old: Capabilities, new: Capabilities) -> Result<(), Error> {
    policy.refusal(old, new).map_or(Ok(()), |reason| Err(Error::not_swapped(reason)))
}

pub(crate) struct Swap {
    pub(crate) inbox: Inbox,
    /// The actor that it was asked of. One that takes its place knows nothing of the swap, which ends then.
    pub(crate) actor: u64,
    pub(crate) start: StartBackend,
    pub(crate) capabilities: Capabilities,
    pub(crate) policy: SwapPolicy,
    pub(crate) secret_check: SecretCheck,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store_limit: Duration,
    /// How long calls may be held, renewals among them.
    pub(crate) longest_pause: Duration,
}

/// Lets the tracker go on with what it has, unless the flip came first.
struct Undo(Option<(Inbox, u64)>);

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some((inbox, actor)) = self.0.take() {
            inbox.push(Input::Swap { actor, step: Step::Resume });
        }
    }
}

/// What has been done so far.
#[derive(Default)]
struct Progress {
    /// The releases of running claims that a copy may have put into the new store.
    copied: Vec<Update>,
    /// The same of those that were looked at while calls were held, which are to leave one of the two.
    carried: Vec<Update>,
    /// How many records the new store had to have while calls were held.
    looked_at: usize,
}

/// A swap that has happened.
struct Swapped {
    report: SwapReport,
    /// Starts the old backend actor, which must live as long as it is spoken to.
    old_start: StartBackend,
}

impl Swap {
    pub(crate) async fn run(self) -> Result<SwapReport, Error> {
        let (reply, begun) = oneshot::channel();
        let (start, policy) = (self.start.clone(), self.policy.clone());
        let capabilities = self.capabilities;
        self.tell(Step::Begin { start, capabilities, policy, reply: Some(reply) });
        let begun = begun.await.map_err(|_| self.inbox.closed())??;
        let mut undo = Undo(Some((self.inbox.clone(), self.actor)));
        let mut progress = Progress::default();
        match self.carry_over(&begun, &mut progress, &mut undo).await {
            Ok(swapped) => Ok(self.leave(&begun, progress, swapped).await),
            Err(error) => {
                // First of all: what is held must not wait until a store that may hang has been tidied up.
                drop(undo);
                tracing::warn!(%error, "the swap did not happen");
                // Claims that live on in the old store would block their ids in the new one, should it be tried again.
                progress.carried.append(&mut progress.copied);
                self.release(&begun.new, &progress.carried).await;
                // Together with the new store the old one would be closed, which is still in use.
                if self.policy.records != Records::ReadThrough {
                    let _ = self.ask(&begun.new, vec![StoreCommand::Close]).await;
                }
                Err(error)
            }
        }
    }

    fn tell(&self, step: Step) {
        self.inbox.push(Input::Swap { actor: self.actor, step });
    }

    /// The old store, which nobody uses any more.
    async fn leave(&self, begun: &Begun, progress: Progress, swapped: Swapped) -> SwapReport {
        let report = swapped.report;
        if self.policy.records == Records::ReadThrough {
            tracing::info!(?report, to = self.policy.to, "swapped; the old store is read through");
            return report;
        }
        if report.retired {
            self.release(&begun.old, &progress.carried).await;
        } else if begun.old_capabilities.durability.local > Survives::Memory {
            // What runs is left there as it is: whoever starts on it all the same hears that its outcome is unknown.
            tracing::error!("the old store could not be retired: do not start on it again");
        }
        let _ = self.ask(&begun.old, vec![StoreCommand::Close]).await;
        drop(swapped.old_start);
        tracing::info!(?report, to = self.policy.to, "swapped");
        report
    }

    async fn carry_over(
        &self,
        begun: &Begun,
        progress: &mut Progress,
        undo: &mut Undo,
    ) -> Result<Swapped, Error> {
        let setup = StoreCommand::Setup(Setup::new(self.secret_check, self.clock.now()));
        self.all(&begun.new, vec![setup], "the new store refused to be set up").await?;
        let again = match self.policy.records {
            Records::Copied => {
                let mut again = self.copy(begun, progress).await?;
                again.append(&mut self.catch_up(begun, progress).await?);
                again
            }
            Records::ReadThrough | Records::Forgotten => Vec::new(),
        };
        let copied = begun.copied.load(Ordering::Relaxed);

        let since = Instant::now();
        // Renewals are held, too. If it takes too long nothing has changed, and no lease has lapsed.
        let live = timeout(self.longest_pause, self.hold_and_carry(begun, again, progress)).await;
        let live = live.map_err(|_| Error::not_swapped("what had to be carried took too long"))??;
        // While calls are held, so that nothing is acknowledged before: a node that is killed after the flip and started
        // again on the old store would not know of it.
        let retired = self.policy.records != Records::ReadThrough && self.retire(&begun.old).await;

        let (start, new) = (self.start.clone(), begun.new.clone());
        let capabilities = start.store().capabilities();
        let (reply, flipped) = oneshot::channel();
        self.tell(Step::Flip { start, new, capabilities, reply: Some(reply) });
        undo.0 = None;
        let Ok(old_start) = flipped.await else {
            tracing::error!(
                retired,
                "the tracker died at the moment of the swap and goes on with the old store"
            );
            return Err(Error::not_swapped("the tracker died at the moment of the swap"));
        };
        let (carried, pause) = (progress.looked_at, since.elapsed());
        Ok(Swapped { report: SwapReport { copied, carried, live, pause, retired }, old_start })
    }

    /// What was written while all of it was copied, again and again until little is left. Returns that little, which is
    /// carried while calls are held.
    async fn catch_up(&self, begun: &Begun, progress: &mut Progress) -> Result<Vec<RequestId>, Error> {
        let mut before = usize::MAX;
        loop {
            let (reply, noted) = oneshot::channel();
            self.tell(Step::Noted { reply: Some(reply) });
            let noted = noted.await.map_err(|_| self.inbox.closed())?;
            // A round that leaves half as much to do as the last one is as fast as those who write.
            if noted.len() <= CARRIED || noted.len() > before / 2 {
                return Ok(noted);
            }
            for ids in noted.chunks(CARRIED) {
                self.carry(begun, ids, &[], progress).await?;
            }
            progress.looked_at = 0;
            before = noted.len();
        }
    }

    /// Returns how many claims live here.
    async fn hold_and_carry(
        &self,
        begun: &Begun,
        again: Vec<RequestId>,
        progress: &mut Progress,
    ) -> Result<usize, Error> {
        let (reply, held) = oneshot::channel();
        self.tell(Step::Hold { reply: Some(reply) });
        let held = held.await.map_err(|_| self.inbox.closed())?;
        // What is read through is moved when it is asked for, what runs with its next renewal.
        let mut ids = if self.policy.records == Records::ReadThrough { Vec::new() } else { held.ids };
        ids.extend(again);
        ids.sort_unstable();
        ids.dedup();
        for ids in ids.chunks(CARRIED) {
            self.carry(begun, ids, &held.live, progress).await?;
        }
        Ok(held.live.len())
    }

    /// Whether a start on it is refused from now on.
    async fn retire(&self, old: &Child) -> bool {
        let retire = self.ask(old, vec![StoreCommand::Retire { to: self.policy.to.clone() }]);
        let replies = timeout(self.longest_pause, retire).await;
        replies.is_ok_and(|replies| replies.is_ok_and(|replies| replies.iter().all(Result::is_ok)))
    }

    /// While requests run: what is there, page after page. Returns the ids for which the new store had something else.
    ///
    /// What was settled meanwhile was noted, and is carried. A copy that took it along would not end where requests write
    /// faster.
    async fn copy(&self, begun: &Begun, progress: &mut Progress) -> Result<Vec<RequestId>, Error> {
        let (mut cursor, mut in_the_way) = (None, Vec::new());
        loop {
            let scan = StoreCommand::Scan { cursor, limit: PAGE };
            let replies = self.all(&begun.old, vec![scan], "the old store cannot be scanned").await?;
            let page = one(replies, StoreReply::page)?;
            let (reply, unnoted) = oneshot::channel();
            self.tell(Step::Unnoted { records: page.records, reply: Some(reply) });
            let records = unnoted.await.map_err(|_| self.inbox.closed())?;
            // Noted before it is known whether they got there: releasing what is not there does no harm.
            progress.copied.extend(records.iter().filter_map(running));
            let restores: Vec<_> = records
                .into_iter()
                .map(|(id, record)| StoreCommand::Restore { id, record: record.into() })
                .collect();
            let count = restores.len();
            let ids: Vec<_> = restores.iter().filter_map(|restore| restore.id().copied()).collect();
            let replies = self.all(&begun.new, restores, "a record cannot be copied").await?;
            for (id, reply) in ids.into_iter().zip(replies) {
                if let StoreReply::Restored(Restored::Exists(_)) = reply {
                    in_the_way.push(id);
                }
            }
            begun.copied.fetch_add(count, Ordering::Relaxed);
            cursor = page.next;
            if cursor.is_none() {
                return Ok(in_the_way);
            }
        }
    }

    /// Makes the new store have of these ids exactly what the old one has. Those that are written meanwhile are carried
    /// again.
    async fn carry(
        &self,
        begun: &Begun,
        ids: &[RequestId],
        live: &[Claim],
        progress: &mut Progress,
    ) -> Result<(), Error> {
        let lookups: Vec<_> = ids.iter().copied().map(StoreCommand::Lookup).collect();
        let in_new = self.all(&begun.new, lookups.clone(), "the new store cannot be read").await?;
        let in_old = self.all(&begun.old, lookups, "the old store cannot be read").await?;
        let (mut removals, mut restores) = (Vec::new(), Vec::new());
        for ((id, old), new) in ids.iter().zip(in_old).zip(in_new) {
            let (old, new) = (old.found().map_err(failed)?, new.found().map_err(failed)?);
            let is_live = live.iter().find(|claim| claim.id == *id);
            // Without a copy only what runs comes along.
            let copies = self.policy.records == Records::Copied;
            let old = old.filter(|_| copies || is_live.is_some());
            if let Some(record) = &old {
                progress.looked_at += 1;
                progress.carried.extend(running(&(*id, record.clone())));
            }
            if new.as_ref() == old.as_ref() {
                // It got there while requests ran.
                continue;
            }
            if let Some(new) = new {
                removals.push(StoreCommand::Update(new.removal(*id).into()));
            }
            match (old, is_live) {
                (Some(record), _) => restores.push(StoreCommand::Restore { id: *id, record: record.into() }),
                (None, Some(claim)) => {
                    progress.carried.push(Update::new(*id, claim.owner, Change::Release));
                    self.claim_anew(begun, claim).await?;
                }
                (None, None) => {}
            }
        }
        self.all(&begun.new, removals, "a record cannot be replaced").await?;
        for reply in self.all(&begun.new, restores, "a record cannot be carried over").await? {
            if let StoreReply::Restored(Restored::Exists(_)) = reply {
                return Err(Error::not_swapped("somebody else writes to the new store"));
            }
        }
        Ok(())
    }

    /// A live claim of which the old store has no record any more is claimed in the new one by its owner.
    async fn claim_anew(&self, begun: &Begun, claim: &Claim) -> Result<(), Error> {
        let mut claim = claim.clone();
        claim.takes_over = None;
        let replies = self
            .all(&begun.new, vec![StoreCommand::Insert(claim.into())], "a claim cannot be carried over")
            .await?;
        match one(replies, StoreReply::inserted)? {
            Inserted::Claimed => Ok(()),
            Inserted::Exists(_) | Inserted::Busy => {
                Err(Error::not_swapped("somebody else writes to the new store"))
            }
        }
    }

    /// Claims that live on in the other store.
    async fn release(&self, aside: &Child, claims: &[Update]) {
        for claims in claims.chunks(CARRIED) {
            let releases = claims.iter().map(|claim| StoreCommand::Update(claim.clone().into())).collect();
            if let Err(error) = self.ask(aside, releases).await {
                tracing::warn!(%error, "claims that were carried over are still in the store that was left");
            }
        }
    }

    /// Sends in pages, and fails with the first that fails.
    async fn all(
        &self,
        backend: &Child,
        commands: Vec<StoreCommand>,
        reason: &'static str,
    ) -> Result<Vec<StoreReply>, Error> {
        let replies = self.ask(backend, commands).await?;
        let resent = replies.resent;
        let replies: Result<Vec<StoreReply>, StoreError> = replies.into_iter().collect();
        let replies = replies.map_err(|error| Error::not_swapped(reason).because(error))?;
        if resent {
            // A late copy would undo what is written after it.
            let error =
                StoreError::new(StoreErrorKind::TimedOut, "it was answered only when it was repeated");
            return Err(Error::not_swapped(reason).because(error));
        }
        Ok(replies)
    }

    async fn ask(&self, backend: &Child, commands: Vec<StoreCommand>) -> Result<StoreReplies, Error> {
        if commands.is_empty() {
            return Ok(StoreReplies::from(Vec::new()));
        }
        let count = commands.len();
        let sent = backend.recipient.send(StoreBatch { commands, now: self.clock.now() });
        match timeout(self.store_limit * 4, sent).await {
            Ok(Ok(replies)) if replies.len() == count => Ok(replies),
            Ok(_) => Err(Error::not_swapped("a backend actor died")),
            Err(_) => Err(Error::not_swapped("a backend does not answer")),
        }
    }
}

/// The release of a record, if it is a running one.
fn running((id, record): &(RequestId, Record)) -> Option<Update> {
    (!record.state.is_settled()).then(|| record.removal(*id))
}

fn one<T>(mut replies: Vec<StoreReply>, answer: fn(StoreReply) -> Result<T, StoreError>) -> Result<T, Error> {
    answer(replies.pop().unwrap_or(StoreReply::Done)).map_err(failed)
}

fn failed(error: StoreError) -> Error {
    Error::not_swapped("a store did not answer what it was asked").because(error)
}

impl Error {
    pub(crate) fn not_swapped(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::NotSwapped(reason.into()))
    }
}
