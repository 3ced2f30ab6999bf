//! Another backend under a running tracker: copy what is settled while requests run, hold, carry the rest, flip, resume.
//!
//! Until the flip nothing has changed: whatever fails before it, the tracker goes on with the store that it had. The flip
//! itself cannot fail.

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

use actix::Recipient;
use idempotency_core::{
    Capabilities, Change, Claim, Clock, Inserted, Record, RequestId, Restored, SecretCheck, Setup, Store,
    StoreCommand, StoreError, StoreReply, Survives, Update,
};
use tokio::{
    runtime,
    sync::oneshot,
    time::{Instant, timeout},
};

use crate::{
    ActorStore, Error, ErrorKind, ReadThrough, StoreBatch, StoreReplies,
    backend::{Start, StartBackend},
    host::backends,
    inbox::{Inbox, Input, Reply},
};

use self::policy::Records;
pub use self::policy::{SwapPolicy, SwapReport};

/// How many records are copied together while requests run. Each may have a body of a mebibyte.
const PAGE: usize = 64;

/// How many ids are looked at again together while calls are held: most of them are small, and each batch is a commit.
const CARRIED: usize = 256;

/// A backend that a tracker may move to.
pub(crate) struct NewBackend {
    store: Arc<dyn Store>,
    /// One that somebody else started.
    foreign: Option<Recipient<StoreBatch>>,
    pub(crate) capabilities: Capabilities,
}

impl NewBackend {
    pub(crate) fn store(store: impl Store) -> Self {
        Self { capabilities: store.capabilities(), store: Arc::new(store), foreign: None }
    }

    pub(crate) fn actor(recipient: Recipient<StoreBatch>, capabilities: Capabilities) -> Self {
        let store = ActorStore::new(recipient.clone(), capabilities);
        Self { capabilities: store.capabilities(), store: Arc::new(store), foreign: Some(recipient) }
    }

    /// What starts its actor, in front of the old store if it is to be read through. The store's own code runs on the
    /// runtime.
    pub(crate) fn start(
        self,
        policy: &SwapPolicy,
        old: Arc<dyn Store>,
        runtime: runtime::Handle,
        limit: Duration,
    ) -> StartBackend {
        match (policy.records, self.foreign) {
            (Records::ReadThrough, _) => {
                backends(Arc::new(ReadThrough::new(self.store, old)), limit)(runtime)
            }
            (_, Some(recipient)) => Arc::new(Foreign { recipient, store: self.store }),
            (_, None) => backends(Arc::new(self.store), limit)(runtime),
        }
    }
}

/// Started and supervised by somebody else: a restart finds the same one.
struct Foreign {
    recipient: Recipient<StoreBatch>,
    store: Arc<dyn Store>,
}

impl Start for Foreign {
    fn start(&self) -> Recipient<StoreBatch> {
        self.recipient.clone()
    }

    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }
}

/// What the actor does for a swap.
pub(crate) enum Step {
    /// Somebody wants one.
    Ask { backend: NewBackend, policy: SwapPolicy, reply: Reply<Result<SwapReport, Error>> },
    /// Starts the new backend actor, and notes which ids are written from now on.
    Begin {
        start: StartBackend,
        capabilities: Capabilities,
        policy: SwapPolicy,
        reply: Reply<Result<Begun, Error>>,
    },
    /// Holds calls. Answered when none is under way any more.
    Hold { reply: Reply<Held> },
    /// The new backend from now on; answered with what starts the old one, which must live as long as it is spoken to.
    Flip {
        start: StartBackend,
        new: Recipient<StoreBatch>,
        capabilities: Capabilities,
        reply: Reply<StartBackend>,
    },
    /// On with the old one.
    Resume,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ask { .. } => "Ask",
            Self::Begin { .. } => "Begin",
            Self::Hold { .. } => "Hold",
            Self::Flip { .. } => "Flip",
            Self::Resume => "Resume",
        })
    }
}

/// Both backends, and where the number of copied records is shown.
pub(crate) struct Begun {
    pub(crate) old: Recipient<StoreBatch>,
    pub(crate) old_capabilities: Capabilities,
    pub(crate) new: Recipient<StoreBatch>,
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
    pub(crate) start: StartBackend,
    pub(crate) capabilities: Capabilities,
    pub(crate) policy: SwapPolicy,
    pub(crate) secret_check: SecretCheck,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store_limit: Duration,
}

/// Lets the tracker go on with what it has, unless the flip came first.
struct Undo(Option<Inbox>);

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(inbox) = self.0.take() {
            inbox.push(Input::Swap(Step::Resume));
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

impl Swap {
    pub(crate) async fn run(self) -> Result<SwapReport, Error> {
        let (reply, begun) = oneshot::channel();
        let (start, policy) = (self.start.clone(), self.policy.clone());
        let capabilities = self.capabilities;
        self.inbox.push(Input::Swap(Step::Begin { start, capabilities, policy, reply: Some(reply) }));
        let begun = begun.await.map_err(|_| self.inbox.closed())??;
        let mut undo = Undo(Some(self.inbox.clone()));
        let (mut progress, mut old_start) = (Progress::default(), None);
        let swapped = self.carry_over(&begun, &mut progress, &mut undo, &mut old_start).await;
        // Claims that live on in the other store would block their ids in this one, should it be used again.
        let aside = match &swapped {
            Ok(_) => &begun.old,
            Err(_) => {
                progress.carried.append(&mut progress.copied);
                &begun.new
            }
        };
        self.release(aside, &progress.carried).await;
        let mut report = match swapped {
            Ok(report) => report,
            Err(error) => {
                // Together with the new store the old one would be closed, which is still in use.
                if self.policy.records != Records::ReadThrough {
                    let _ = self.ask(aside, vec![StoreCommand::Close]).await;
                }
                tracing::warn!(%error, "the swap did not happen");
                return Err(error);
            }
        };
        if self.policy.records == Records::ReadThrough {
            tracing::info!(?report, to = self.policy.to, "swapped; the old store is read through");
            return Ok(report);
        }
        let retired = self.ask(aside, vec![StoreCommand::Retire { to: self.policy.to.clone() }]).await;
        report.retired = retired.is_ok_and(|replies| replies.iter().all(Result::is_ok));
        let kept = begun.old_capabilities.durability.local > Survives::Memory;
        if kept && !report.retired {
            tracing::error!("the old store could not be retired: do not start on it again");
        }
        let _ = self.ask(aside, vec![StoreCommand::Close]).await;
        drop(old_start);
        tracing::info!(?report, to = self.policy.to, "swapped");
        Ok(report)
    }

    async fn carry_over(
        &self,
        begun: &Begun,
        progress: &mut Progress,
        undo: &mut Undo,
        old_start: &mut Option<StartBackend>,
    ) -> Result<SwapReport, Error> {
        let setup = StoreCommand::Setup(Setup::new(self.secret_check, self.clock.now()));
        self.all(&begun.new, vec![setup], "the new store refused to be set up").await?;
        let in_the_way = match self.policy.records {
            Records::Copied => self.copy(begun, progress).await?,
            Records::ReadThrough | Records::Forgotten => Vec::new(),
        };
        let copied = begun.copied.load(Ordering::Relaxed);

        let (reply, held) = oneshot::channel();
        let since = Instant::now();
        self.inbox.push(Input::Swap(Step::Hold { reply: Some(reply) }));
        // A call that does not end is given up by its own limits; this one is for a backend that has none.
        let held = timeout(self.store_limit * 4, held).await;
        let held = held.map_err(|_| Error::not_swapped("the calls under way did not end"))?;
        let held = held.map_err(|_| self.inbox.closed())?;
        // What is read through is moved when it is asked for, what runs with its next renewal.
        let mut ids = if self.policy.records == Records::ReadThrough { Vec::new() } else { held.ids };
        ids.extend(in_the_way);
        ids.sort_unstable();
        ids.dedup();
        for ids in ids.chunks(CARRIED) {
            self.carry(begun, ids, &held.live, progress).await?;
        }

        let (start, new) = (self.start.clone(), begun.new.clone());
        let capabilities = start.store().capabilities();
        let (reply, flipped) = oneshot::channel();
        self.inbox.push(Input::Swap(Step::Flip { start, new, capabilities, reply: Some(reply) }));
        undo.0 = None;
        *old_start = flipped.await.ok();
        let pause = since.elapsed();
        let carried = progress.looked_at;
        Ok(SwapReport { copied, carried, live: held.live.len(), pause, retired: false })
    }

    /// While requests run: what is there, page after page. Returns the ids for which the new store had something else.
    async fn copy(&self, begun: &Begun, progress: &mut Progress) -> Result<Vec<RequestId>, Error> {
        let (mut cursor, mut in_the_way) = (None, Vec::new());
        loop {
            let scan = StoreCommand::Scan { cursor, limit: PAGE };
            let replies = self.all(&begun.old, vec![scan], "the old store cannot be scanned").await?;
            let page = one(replies, StoreReply::page)?;
            // Noted before it is known whether they got there: releasing what is not there does no harm.
            progress.copied.extend(page.records.iter().filter_map(running));
            let restores: Vec<_> =
                page.records.into_iter().map(|(id, record)| StoreCommand::Restore { id, record }).collect();
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

    /// While calls are held: makes the new store have of these ids exactly what the old one has.
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
                removals.push(StoreCommand::Update(new.removal(*id)));
            }
            match (old, is_live) {
                (Some(record), _) => restores.push((*id, record)),
                (None, Some(claim)) => {
                    progress.carried.push(Update::new(*id, claim.owner, Change::Release));
                    self.claim_anew(begun, claim).await?;
                }
                (None, None) => {}
            }
        }
        self.all(&begun.new, removals, "a record cannot be replaced").await?;
        let commands =
            restores.iter().map(|(id, record)| StoreCommand::Restore { id: *id, record: record.clone() });
        let commands = commands.collect();
        for reply in self.all(&begun.new, commands, "a record cannot be carried over").await? {
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
        let replies =
            self.all(&begun.new, vec![StoreCommand::Insert(claim)], "a claim cannot be carried over").await?;
        match one(replies, StoreReply::inserted)? {
            Inserted::Claimed => Ok(()),
            Inserted::Exists(_) | Inserted::Busy => {
                Err(Error::not_swapped("somebody else writes to the new store"))
            }
        }
    }

    /// Claims that live on in the other store.
    async fn release(&self, aside: &Recipient<StoreBatch>, claims: &[Update]) {
        for claims in claims.chunks(CARRIED) {
            let releases = claims.iter().cloned().map(StoreCommand::Update).collect();
            if let Err(error) = self.ask(aside, releases).await {
                tracing::warn!(%error, "claims that were carried over are still in the store that was left");
            }
        }
    }

    /// Sends in pages, and fails with the first that fails.
    async fn all(
        &self,
        backend: &Recipient<StoreBatch>,
        commands: Vec<StoreCommand>,
        reason: &'static str,
    ) -> Result<Vec<StoreReply>, Error> {
        let replies = self.ask(backend, commands).await?;
        let replies: Result<Vec<StoreReply>, StoreError> = replies.into_iter().collect();
        replies.map_err(|error| Error::not_swapped(reason).because(error))
    }

    async fn ask(
        &self,
        backend: &Recipient<StoreBatch>,
        commands: Vec<StoreCommand>,
    ) -> Result<StoreReplies, Error> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let count = commands.len();
        let sent = backend.send(StoreBatch { commands, now: self.clock.now() });
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
