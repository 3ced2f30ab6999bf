use std::{
    future::Future,
    pin::Pin,
    task::{self, Poll},
    time::Duration,
};

use actix::{ActorFuture, Context};
use idempotency_engine::{Event, Moment};
use rand::Rng;
use time::OffsetDateTime;
use tokio::time::{Instant, Sleep, sleep};

use super::{ABANDONED_GRACE, RequestTracker, vigil::Vigil};
use crate::backend::Returned;

/// How many inputs are taken in before the commands they lead to go out together.
const INPUTS_A_ROUND: usize = 256;

/// How often the answers of a store that never waits are carried out in the same round: a claim takes one, and one who waits for
/// it another.
const AT_ONCE: usize = 4;

/// What the actor does whenever it is woken: takes in what has come, lets the engine decide, carries it out.
///
/// One future for everything, since every future in an actor's context is polled at each wake.
pub(super) struct Drive {
    returned: Vec<Returned>,
    timer: Pin<Box<Sleep>>,
    /// When the timer fires: at the engine's deadline or earlier.
    armed: Option<Moment>,
    /// On a thread of its own.
    vigil: Option<Vigil>,
}

impl ActorFuture<RequestTracker> for Drive {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        actor: &mut RequestTracker,
        ctx: &mut Context<RequestTracker>,
        task: &mut task::Context<'_>,
    ) -> Poll<()> {
        let this = &mut *self;
        let now = actor.parts.clock.now();

        actor.inherit(now);
        let from_inbox = actor.estate.borrow_mut().take(task, INPUTS_A_ROUND);
        let first_setup = actor.backend.poll(now, task, &actor.meters, &mut this.returned);
        if let Some(first_setup) = first_setup {
            actor.report_start(ctx, first_setup);
        }
        if let Some(event) = actor.backend.changed() {
            actor.decide(now, event);
        }
        let mut worked = from_inbox || !this.returned.is_empty();

        for returned in this.returned.drain(..) {
            actor.returned(now, returned);
        }
        // One by one: if one of them is the death of this actor, the next one has the others.
        while let Some(input) = actor.next_input() {
            actor.take_in(input, now);
            worked = true;
        }
        actor.tell_when_quiet();
        if actor.is_left_alone(ctx) {
            tracing::info!("the last handle is gone");
            actor.begin_shutdown(now, ABANDONED_GRACE, None);
        }
        if actor.engine.deadline().is_some_and(|deadline| deadline <= now.into()) {
            let entropy = actor.random.next_u64();
            actor.decide(now, Event::Deadline { entropy });
        }
        let mut sent = actor.carry_out(ctx, now, &mut this.returned);
        for _ in 0..AT_ONCE {
            if this.returned.is_empty() {
                break;
            }
            for returned in this.returned.drain(..) {
                actor.returned(now, returned);
            }
            sent |= actor.carry_out(ctx, now, &mut this.returned);
        }
        sent |= !this.returned.is_empty();
        actor.measure();

        let worked = this.arm(actor, now, task) || sent || worked;
        if this.stays_awake(worked) || worked {
            // Not in a loop: the backend's actor and the timers live on this thread too.
            task.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drive {
    pub(super) fn new(has_a_thread: bool) -> Self {
        Self {
            returned: Vec::new(),
            timer: Box::pin(sleep(Duration::ZERO)),
            armed: None,
            vigil: has_a_thread.then(Vigil::new),
        }
    }

    /// Whether the thread is to stay awake for what may come.
    #[expect(
        clippy::disallowed_methods,
        reason = "how long a thread stays awake is real time, not the tracker's"
    )]
    fn stays_awake(&mut self, worked: bool) -> bool {
        let Some(vigil) = &mut self.vigil else { return false };
        let now = std::time::Instant::now();
        if worked {
            vigil.worked(now);
        }
        !worked && vigil.looks_again(now)
    }

    /// Sees to it that the actor is woken at the engine's deadline. A timer that would fire earlier is left as it is:
    /// it then finds nothing to do, which is cheaper than moving it at every event. True if it is due already.
    fn arm(&mut self, actor: &RequestTracker, now: OffsetDateTime, task: &mut task::Context<'_>) -> bool {
        if self.armed.is_some() && self.timer.as_mut().poll(task).is_ready() {
            self.armed = None;
        }
        let Some(deadline) = actor.engine.deadline() else { return false };
        if deadline <= now.into() {
            return true;
        }
        if self.armed.is_none_or(|armed| deadline < armed) {
            self.timer.as_mut().reset(Instant::now() + Moment::from(now).until(deadline));
            self.armed = Some(deadline);
            return self.timer.as_mut().poll(task).is_ready();
        }
        false
    }
}
