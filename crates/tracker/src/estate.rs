//! What outlives the tracker actor. If it dies by a bug, another one is started on it, goes on renewing the claims whose
//! permits are still out there, and takes in what was sent meanwhile.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    mem,
    rc::Rc,
    sync::Arc,
    task,
    time::Duration,
};

use actix::Addr;
use foldhash::quality::RandomState;
use idempotency_core::{Change, Claim, Owner, RequestId, Tenant, Update};
use idempotency_engine::{Adopted, Event, Granted};
use time::OffsetDateTime;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    Error, Lease, RequestTracker, ShutdownReport,
    backend::StartBackend,
    host::TellAddr,
    inbox::{Inbox, Input},
};

/// After this time a death says nothing of the next one.
const LONG_AGO: Duration = Duration::from_secs(10);

/// On the one thread that the actors live on.
pub(crate) type SharedEstate = Rc<RefCell<Estate>>;

pub(crate) struct Estate {
    pub(crate) inbox: Inbox,
    pub(crate) receiver: mpsc::UnboundedReceiver<Input>,
    /// Taken from there, or from the mailbox, and not dealt with yet.
    pub(crate) taken: VecDeque<Input>,
    pub(crate) live: HashMap<Owner, Live, RandomState>,
    /// How holders ended their claims, as long as it is not stored; also of those whose claim is not live any more.
    pub(crate) unsettled: HashMap<Owner, Arc<Update>, RandomState>,
    /// Claims that were sent, and not answered for good yet.
    pub(crate) sent: HashMap<RequestId, SentClaim, RandomState>,
    /// What starts the backend actor: another one after a swap.
    pub(crate) backend: StartBackend,
    /// Who hears whether the store could be set up.
    pub(crate) started: Option<oneshot::Sender<Result<(), Error>>>,
    pub(crate) shutdown: Option<Shutdown>,
    /// Where the actor is, for handles.
    addr: TellAddr,
    /// The last handle is gone.
    abandoned: bool,
    /// How often the backend actor was restarted.
    pub(crate) restarts: u64,
    /// How often the tracker actor was replaced.
    pub(crate) replaced: u64,
    deaths: u32,
    died_at: Option<Instant>,
}

/// A claim whose permit is out there.
pub(crate) struct Live {
    pub(crate) lease: Lease,
    granted: Granted,
    since: OffsetDateTime,
    tenant: Option<Tenant>,
    /// Its permit came back: it never reached its caller.
    pub(crate) is_undelivered: bool,
}

impl Live {
    pub(crate) fn new(lease: Lease, granted: Granted, since: OffsetDateTime, tenant: Option<Tenant>) -> Self {
        Self { lease, granted, since, tenant, is_undelivered: false }
    }
}

/// A claim on its way.
pub(crate) struct SentClaim {
    pub(crate) claim: Arc<Claim>,
    /// In this round: it is forgotten when it is known in another place what became of it.
    pub(crate) answered: bool,
}

/// A shutdown that has begun.
pub(crate) struct Shutdown {
    /// From then on what still runs is halted.
    pub(crate) until: OffsetDateTime,
    /// Who waits for its end.
    pub(crate) waiting: Vec<oneshot::Sender<Result<ShutdownReport, Error>>>,
}

impl Estate {
    pub(crate) fn new(
        inbox: Inbox,
        receiver: mpsc::UnboundedReceiver<Input>,
        backend: StartBackend,
        started: oneshot::Sender<Result<(), Error>>,
        addr: TellAddr,
    ) -> SharedEstate {
        Rc::new(RefCell::new(Self {
            inbox,
            receiver,
            taken: VecDeque::new(),
            live: HashMap::default(),
            unsettled: HashMap::default(),
            sent: HashMap::default(),
            backend,
            started: Some(started),
            shutdown: None,
            addr,
            abandoned: false,
            restarts: 0,
            replaced: 0,
            deaths: 0,
            died_at: None,
        }))
    }

    /// The actor lives here from now on. Whoever asks for it after its end still has an address, at which nobody is.
    pub(crate) fn lives_at(&self, addr: Addr<RequestTracker>) {
        if !self.abandoned {
            self.addr.send_replace(Some(addr));
        }
    }

    /// The last handle is gone, and with it the address for handles: what keeps the actor from then on are others' addresses.
    pub(crate) fn abandon(&mut self) {
        self.abandoned = true;
        self.addr.send_replace(None);
    }

    /// Takes in so many at most of what has come. Whether anything was there; if not, the task is woken when something is.
    pub(crate) fn take(&mut self, task: &mut task::Context<'_>, most: usize) -> bool {
        // In its place: nothing is moved but what an actor that died has left.
        let mut taken = Vec::from(mem::take(&mut self.taken));
        let from_inbox = self.receiver.poll_recv_many(task, &mut taken, most);
        self.taken = taken.into();
        from_inbox.is_ready()
    }

    /// Nobody will shut it down.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned && self.shutdown.is_none()
    }

    /// What a new engine must know of the claims of the one before it.
    pub(crate) fn inherited(&self) -> Vec<Event> {
        let adopted = self.live.iter().map(|(owner, live)| {
            let said = self.unsettled.get(owner).map(|update| update.change.clone());
            Event::Adopt(Box::new(Adopted {
                claim: live.granted.claim.clone(),
                since: live.since.into(),
                held_until: live.lease.held_until(),
                work_until: live.granted.work_until,
                tenant: live.tenant,
                ending: said.or_else(|| live.is_undelivered.then_some(Change::Release)),
            }))
        });
        let late = self.unsettled.iter().filter(|(owner, _)| !self.live.contains_key(*owner));
        let late = late.map(|(_, update)| Event::Settle { update: update.clone(), caller: None });
        // Nobody has a permit for these.
        let sent = self.sent.values().map(|sent| &sent.claim);
        let sent = sent.filter(|claim| !self.live.contains_key(&claim.owner));
        adopted.chain(late).chain(sent.map(|claim| Event::Unwanted { claim: claim.clone() })).collect()
    }

    /// The actor has died. Returns when it is replaced: the first time at once, for one bug is an accident, then after 10 ms,
    /// doubling, up to 5 s.
    pub(crate) fn died(&mut self) -> Duration {
        let last = self.died_at.replace(Instant::now());
        if last.is_none_or(|last| last.elapsed() > LONG_AGO) {
            self.deaths = 0;
        }
        let back_off = match self.deaths {
            0 => Duration::ZERO,
            deaths => Duration::from_millis(10 << deaths.min(9)).min(Duration::from_secs(5)),
        };
        self.deaths += 1;
        self.replaced += 1;
        back_off
    }
}

/// Nobody renews these any more.
impl Drop for Estate {
    fn drop(&mut self) {
        self.inbox.end();
        self.live.values().for_each(|live| live.lease.lose());
    }
}
