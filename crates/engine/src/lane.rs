//! One request id: its queue of jobs, the one store call in flight, the live claim, and what may still come back.

mod claiming;
mod here;
mod settling;
mod waiting;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use idempotency_core::{
    Change, Claim, HaltReason, Owner, RequestId, StoreCommand, StoreError, StoreErrorKind, StoreReply,
    Tenant, Update,
};
use time::OffsetDateTime;

use self::{settling::size_of_body, waiting::Waiters};
use crate::{
    Adopted, Answer, Call, Caller, Command, Config, Happened, Refused, Track, Tracked,
    engine::Down,
    ghost::Ghost,
    job::{Claiming, Job, Settling},
    live_claim::{Ending, LiveClaim},
    moment::Moment,
    tenants::Tenants,
};

/// What a lane sees of the rest of the world while it handles one event.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) config: &'a Config,
    pub(crate) id: RequestId,
    pub(crate) now: OffsetDateTime,
    pub(crate) moment: Moment,
    /// What counts against bounds in other lanes.
    pub(crate) elsewhere: Counted,
    pub(crate) tenants: &'a Tenants,
    /// What this lane counts for among them so far, and for whom.
    pub(crate) among_tenants: (Option<Tenant>, usize),
    /// Bytes that were stored just now, and how long they are kept.
    pub(crate) stored: Option<(u64, Duration)>,
    pub(crate) draining: bool,
    pub(crate) down: Option<Down>,
    pub(crate) out: &'a mut Vec<Command>,
}

/// What counts against a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Counted {
    /// Claims that are live, on their way, or to be laid to rest.
    pub(crate) weight: usize,
    /// Callers that wait for what others make of it.
    pub(crate) waiting: usize,
    /// Bytes of results that the store did not take so far.
    pub(crate) deferred: usize,
}

impl Context<'_> {
    fn answer(&mut self, caller: Option<Caller>, answer: Answer) {
        if let Some(caller) = caller {
            self.out.push(Command::Answer(caller, answer));
        }
    }

    fn tracked(&mut self, caller: Option<Caller>, answer: Result<Tracked, Refused>) {
        self.answer(caller, Answer::Tracked(answer));
    }

    /// If its caller went away, it has none any more.
    fn dismiss(&mut self, claiming: &mut Claiming) {
        if claiming.gone
            && let Some(caller) = claiming.caller.take()
        {
            self.out.push(Command::Dismiss(caller));
        }
    }

    fn unavailable(&self, source: Option<StoreError>) -> Refused {
        let back = self.down.map_or(self.config.store_limit, |down| self.moment.until(down.until));
        let silent = || StoreError::new(StoreErrorKind::TimedOut, "the store does not answer");
        let source = source.or_else(|| (!self.down.is_some_and(|down| down.refuses)).then(silent));
        Refused::Unavailable { retry_after: back.max(Duration::from_secs(1)), source }
    }

    fn update(&self, owner: Owner, change: Change) -> StoreCommand {
        StoreCommand::Update(Update::new(self.id, owner, change).into())
    }

    /// Of a result that is not stored so far only the fact is kept.
    fn let_body_go(&mut self, owner: Owner) {
        self.out.push(Command::BodyLetGo { owner });
        self.happened(Happened::NotKept);
    }

    fn happened(&mut self, what: Happened) {
        self.out.push(Command::Happened(self.id, what));
    }
}

/// A job whose call is on its way to the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Flight {
    job: Job,
    sent_at: Moment,
}

/// All that is known of one id. Nothing is kept of an idle one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Lane {
    flight: Option<Flight>,
    queue: VecDeque<Job>,
    claim: Option<LiveClaim>,
    ghosts: Vec<Ghost>,
    waiters: Waiters,
    /// Whom it counts for.
    tenant: Option<Tenant>,
    /// Bytes of results that the store did not take so far.
    deferred: usize,
    /// The deadline that the engine has noted for this lane: its real one or an earlier one.
    pub(crate) armed: Option<Moment>,
}

// What comes in.
impl Lane {
    pub(crate) fn track(&mut self, caller: Caller, track: Track, cx: &mut Context<'_>) {
        let give_up = cx.moment.after(cx.config.track_patience());
        let claiming = Claiming::new(caller, track, give_up, cx.moment);
        if let Some(claiming) = self.answer_from_here(claiming, cx) {
            // Past the queue, which most lanes never need then.
            if self.flight.is_none() && self.queue.is_empty() {
                self.start_claiming(claiming, cx);
            } else {
                self.queue.push_back(Job::Claim(claiming));
            }
        }
    }

    /// The permit of this claim outlived the engine that made it.
    pub(crate) fn adopt(&mut self, adopted: Adopted, cx: &mut Context<'_>) {
        let ending = adopted.ending.clone();
        self.tenant = adopted.tenant;
        let mut live = LiveClaim::adopted(adopted, cx.moment);
        let owner = live.claim.owner;
        if ending.is_none() && live.renew_at.take().is_some() {
            self.queue.push_back(Job::Renew);
        }
        self.claim = Some(live);
        if let Some(change) = ending {
            self.deferred += size_of_body(&change);
            // It may have been sent, and more than once.
            let update = Update::new(cx.id, owner, change).into();
            let settling = Settling { attempts: 1, resent: true, ..Settling::new(update, None, cx) };
            self.begin_settling(settling, Ending::Failing, cx);
        }
    }

    /// Somebody may have settled what callers here wait for.
    pub(crate) fn hinted(&mut self, cx: &Context<'_>) {
        self.waiters.look_at(cx.moment);
    }

    /// The caller of a `Track` went away. What is under way for it goes on: it may be in the store already.
    pub(crate) fn gone(&mut self, caller: Caller, cx: &mut Context<'_>) {
        let is_its = |job: &Job| matches!(job, Job::Claim(claiming) if claiming.caller == Some(caller));
        if let Some(Flight { job, .. }) = &mut self.flight
            && is_its(job)
            && let Job::Claim(claiming) = job
        {
            claiming.gone = true;
        } else if let Some(index) = self.queue.iter().position(is_its)
            && let Some(Job::Claim(claiming)) = self.queue.get_mut(index)
        {
            claiming.gone = true;
            claiming.not_before = cx.moment;
            if !claiming.uncertain {
                self.queue.remove(index);
                cx.out.push(Command::Dismiss(caller));
            }
        } else if self.waiters.remove(caller) {
            cx.out.push(Command::Dismiss(caller));
        }
    }

    /// A permit was made and never reached its caller.
    pub(crate) fn undelivered(&mut self, owner: Owner, cx: &mut Context<'_>) {
        if self.claim.as_ref().is_some_and(|live| live.claim.owner == owner && live.ending == Ending::Open)
            && let Some(live) = self.end_claim(cx)
        {
            self.unwanted(live.claim, live.by_operator, live.uncertain, cx);
        }
    }

    pub(crate) fn settle(&mut self, update: Arc<Update>, caller: Option<Caller>, cx: &mut Context<'_>) {
        self.begin_settling(Settling::new(update, caller, cx), Ending::Settling, cx);
    }

    fn begin_settling(&mut self, settling: Settling, ending: Ending, cx: &mut Context<'_>) {
        if let Some(live) = self.claim.as_mut().filter(|live| live.claim.owner == settling.owner()) {
            live.ending = ending;
            // Also past the work limit: until the result is stored nobody is to take over.
            if live.renew_at.is_none() {
                live.renew_later(cx.moment);
            }
        }
        // The holder of a permit comes before those who ask what became of it.
        if self.flight.is_none() {
            self.start(Job::Settle(settling), cx);
        } else {
            self.queue.push_front(Job::Settle(settling));
        }
    }

    pub(crate) fn forget(&mut self, caller: Caller, owner: Owner, cx: &Context<'_>) {
        let give_up = cx.moment.after(cx.config.track_patience());
        self.queue.push_back(Job::Forget { caller: Some(caller), owner, give_up, resent: false });
    }

    /// What is under way has a copy.
    pub(crate) fn resent(&mut self) {
        match self.flight.as_mut().map(|flight| &mut flight.job) {
            Some(Job::Claim(claiming)) => claiming.uncertain |= !claiming.only_look,
            Some(Job::Settle(settling)) => settling.resent = true,
            Some(Job::Forget { resent, .. }) => *resent = true,
            // What is done twice here leaves what it left once.
            Some(Job::Renew | Job::Reclaim | Job::LayToRest(_) | Job::Look) | None => {}
        }
    }

    pub(crate) fn replied(&mut self, reply: Result<StoreReply, StoreError>, cx: &mut Context<'_>) {
        let Some(Flight { job, sent_at }) = self.flight.take() else {
            return;
        };
        match job {
            Job::Claim(claiming) => self.claim_replied(claiming, sent_at, reply, cx),
            Job::Renew => self.renew_replied(sent_at, reply, cx),
            Job::Reclaim => self.reclaim_replied(sent_at, reply, cx),
            Job::Settle(settling) => self.settle_replied(settling, reply, cx),
            Job::Forget { caller, resent, .. } => Self::forget_replied(caller, resent, reply, cx),
            Job::LayToRest(ghost) => self.rest_replied(ghost, reply, cx),
            Job::Look => self.look_replied(reply, cx),
        }
    }

    /// Does whatever is due by now.
    pub(crate) fn tick(&mut self, cx: &mut Context<'_>) {
        self.tick_patience(cx);
        self.tick_ghosts(cx);
        self.tick_claim(cx);
        self.tick_waiters(cx);
    }

    /// The tracker shuts down: nobody starts to work any more.
    pub(crate) fn drain(&mut self, cx: &mut Context<'_>) {
        for job in &mut self.queue {
            if let Job::Claim(claiming) = job {
                cx.tracked(claiming.caller.take(), Err(Refused::ShuttingDown));
            }
        }
        for waiter in self.waiters.take() {
            cx.tracked(waiter.caller, Err(Refused::ShuttingDown));
        }
    }

    /// The end: what is not stored by now is not stored by this node.
    pub(crate) fn tell_unstored(&mut self, cx: &mut Context<'_>) {
        if self
            .jobs()
            .any(|job| matches!(job, Job::Settle(it) if matches!(it.update.change, Change::Complete { .. })))
        {
            cx.happened(Happened::Unstored);
        }
    }

    /// The grace has passed: what still runs is halted, so that the next node need not wait for the lease. By policy
    /// that node may take over at once, so the permit no longer holds.
    pub(crate) fn halt_for_shutdown(&mut self, cx: &mut Context<'_>) {
        if let Some(LiveClaim { claim, ending: Ending::Open, .. }) = &self.claim {
            let owner = claim.owner;
            let change = Change::Halt { reason: HaltReason::Shutdown, retention: claim.retention };
            cx.out.push(Command::Lost { id: cx.id, owner });
            self.settle(Update::new(cx.id, owner, change).into(), None, cx);
        }
    }
}

// What goes out.
impl Lane {
    /// Lets the next job out, if none is in flight.
    pub(crate) fn pump(&mut self, cx: &mut Context<'_>) {
        while self.flight.is_none() {
            if self.queue.front().and_then(Job::not_before).is_some_and(|at| at > cx.moment) {
                return;
            }
            match self.queue.pop_front() {
                Some(job) => self.start(job, cx),
                None if self.looks_at().is_some_and(|at| at <= cx.moment) => self.look(cx),
                None => return,
            }
        }
    }

    fn start(&mut self, job: Job, cx: &mut Context<'_>) {
        match job {
            Job::Claim(claiming) => self.start_claiming(claiming, cx),
            Job::Renew | Job::Reclaim => self.start_renewing(job, cx),
            Job::Settle(settling) => {
                let command = StoreCommand::Update(settling.update.clone());
                self.send(Job::Settle(settling), command, cx);
            }
            Job::Forget { caller, owner, .. } => self.start_forgetting(caller, owner, job, cx),
            Job::LayToRest(ghost) => {
                let command = cx.update(ghost.owner, ghost.change.clone());
                self.send(Job::LayToRest(ghost), command, cx);
            }
            Job::Look => self.look(cx),
        }
    }

    fn send(&mut self, job: Job, command: StoreCommand, cx: &mut Context<'_>) {
        self.flight = Some(Flight { job, sent_at: cx.moment });
        cx.out.push(Command::Call { call: Call::Lane(cx.id), command });
    }
}

// What a lane knows by itself.
impl Lane {
    /// In flight first, then in the order in which they go.
    fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.flight.iter().map(|flight| &flight.job).chain(&self.queue)
    }

    fn end_claim(&mut self, cx: &mut Context<'_>) -> Option<LiveClaim> {
        let ended = self.claim.take()?;
        cx.out.push(Command::Ended { owner: ended.claim.owner });
        self.waiters.look_at(cx.moment);
        Some(ended)
    }

    fn lose_claim(&mut self, cx: &mut Context<'_>) {
        // First, since nothing is told to a permit whose claim has ended.
        if let Some(live) = &self.claim {
            cx.out.push(Command::Lost { id: cx.id, owner: live.claim.owner });
        }
        self.end_claim(cx);
    }

    fn tick_patience(&mut self, cx: &mut Context<'_>) {
        let now = cx.moment;
        let out_of_patience = |job: &Job| job.patience().is_some_and(|at| at <= now);
        if !self.jobs().any(out_of_patience) {
            return;
        }
        let jobs = self.flight.iter_mut().map(|flight| &mut flight.job).chain(&mut self.queue);
        for job in jobs.filter(|job| out_of_patience(job)) {
            match job {
                Job::Claim(claiming) => {
                    // If a copy may have got through, its turn comes at once, to be laid to rest or inherited.
                    claiming.not_before = now;
                    let refused = cx.unavailable(None);
                    cx.tracked(claiming.caller.take(), Err(refused));
                }
                Job::Settle(settling) => {
                    cx.answer(settling.caller.take(), Answer::Settled(crate::Settled::Deferred));
                    cx.happened(Happened::Deferred);
                }
                Job::Forget { caller, .. } => {
                    let refused = cx.unavailable(None);
                    cx.answer(caller.take(), Answer::Forgotten(Err(refused)));
                }
                Job::Renew | Job::Reclaim | Job::LayToRest(_) | Job::Look => {}
            }
        }
        self.queue.retain(|job| match job {
            Job::Claim(claiming) => claiming.caller.is_some() || claiming.uncertain,
            Job::Forget { caller, .. } => caller.is_some(),
            _ => true,
        });
    }

    fn tick_ghosts(&mut self, cx: &Context<'_>) {
        for ghost in self.ghosts.extract_if(.., |ghost| ghost.due <= cx.moment) {
            self.queue.push_front(Job::LayToRest(ghost));
        }
    }

    /// What the engine must be woken for, at the latest.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        let retry = match &self.flight {
            None => self.queue.front().and_then(Job::not_before),
            Some(_) => None,
        };
        // Those who wait lose their patience in the order in which they came; results stand in front of them.
        let settling = self.queue.iter().map_while(Job::settles).flatten().min();
        let patience = self.queue.iter().filter(|job| job.settles().is_none()).find_map(Job::patience);
        let in_flight = self.flight.as_ref().and_then(|flight| flight.job.patience());
        let claim = self.claim.as_ref().and_then(LiveClaim::deadline);
        let ghost = self.ghosts.iter().map(|ghost| ghost.due).min();
        let look = if self.flight.is_none() && self.queue.is_empty() { self.looks_at() } else { None };
        let waiter = self.waiters.first_until();
        let soonest = |one: Option<Moment>, other: Option<Moment>| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        [settling, patience, in_flight, claim, ghost, look, waiter].into_iter().fold(retry, soonest)
    }

    pub(crate) fn counted(&self) -> Counted {
        Counted { weight: self.weight(), waiting: self.waiters.len(), deferred: self.deferred }
    }

    /// Whom it counts for, and for how many claims.
    pub(crate) fn among_tenants(&self) -> (Option<Tenant>, usize) {
        (self.tenant, self.tenant.map_or(0, |_| self.weight()))
    }

    /// How many claims it counts for: the live one, those on their way, and those to be laid to rest.
    fn weight(&self) -> usize {
        let in_flight = self.flight.as_ref().is_some_and(|flight| flight.job.counts());
        // Only what was sent before and came back counts, and that stands in front.
        let retried = self.queue.iter().take(3).filter(|job| match job {
            Job::Claim(claiming) => claiming.uncertain,
            job => job.counts(),
        });
        usize::from(self.claim.is_some()) + self.ghosts.len() + usize::from(in_flight) + retried.count()
    }

    pub(crate) fn live(&self) -> Option<&Claim> {
        self.claim.as_ref().map(|live| &*live.claim)
    }

    pub(crate) fn is_live(&self) -> bool {
        self.claim.is_some()
    }

    /// Whether something is still to be done that a shutdown waits for.
    pub(crate) fn is_busy(&self) -> bool {
        self.flight.is_some() || !self.queue.is_empty() || self.claim.is_some()
    }

    pub(crate) fn is_idle(&self) -> bool {
        !self.is_busy() && self.ghosts.is_empty() && self.waiters.is_empty()
    }
}

/// For a reply of another kind than the command asked for: a backend out of step.
fn out_of_step() -> StoreError {
    StoreError::new(StoreErrorKind::Other, "the store did not answer what it was asked")
}
