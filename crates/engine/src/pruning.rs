use std::time::Duration;

use idempotency_core::{Pruned, StoreCommand, StoreError, StoreErrorKind, StoreReply};

use crate::{Answer, Call, Caller, Command, Config, Refused, moment::Moment};

/// When expired records are pruned: one step at a time, so that requests pass between steps.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Pruning {
    next: Option<Moment>,
    running: bool,
    deleted: usize,
    callers: Vec<Caller>,
}

impl Pruning {
    pub(crate) fn new(config: &Config, now: Moment, entropy: u64) -> Self {
        Self {
            next: config.prune_every.map(|every| now.after(with_jitter(every, entropy))),
            running: false,
            deleted: 0,
            callers: Vec::new(),
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running
    }

    /// When the next run is due.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.next.filter(|_| !self.running)
    }

    /// The time for a run has come, or not yet.
    pub(crate) fn tick(&mut self, config: &Config, now: Moment, entropy: u64, out: &mut Vec<Command>) {
        if self.deadline().is_some_and(|next| next <= now) {
            // Nodes that were started together must not prune together.
            self.next = config.prune_every.map(|every| now.after(with_jitter(every, entropy)));
            self.step(config, out);
        }
    }

    pub(crate) fn ask(&mut self, config: &Config, caller: Caller, out: &mut Vec<Command>) {
        self.callers.push(caller);
        if !self.running {
            self.step(config, out);
        }
    }

    pub(crate) fn replied(
        &mut self,
        config: &Config,
        reply: Result<StoreReply, StoreError>,
        draining: bool,
        out: &mut Vec<Command>,
    ) {
        self.running = false;
        let answer = match reply {
            Ok(StoreReply::Pruned(Pruned { deleted, more })) => {
                self.deleted += deleted;
                // A store that deletes nothing and promises more must not spin us.
                if more && deleted > 0 && !draining {
                    self.step(config, out);
                    return;
                }
                Ok(self.deleted)
            }
            Ok(_) => {
                Err(StoreError::new(StoreErrorKind::Other, "the store did not answer what it was asked"))
            }
            Err(error) => Err(error),
        };
        let answer = answer
            .map_err(|error| Refused::Unavailable { retry_after: config.store_limit, source: Some(error) });
        self.deleted = 0;
        let callers = self.callers.drain(..);
        out.extend(callers.map(|caller| Command::Answer(caller, Answer::Pruned(answer.clone()))));
    }

    fn step(&mut self, config: &Config, out: &mut Vec<Command>) {
        self.running = true;
        out.push(Command::Call {
            call: Call::Prune,
            command: StoreCommand::Prune { limit: config.prune_limit },
        });
    }
}

/// Nine to eleven tenths of the interval.
fn with_jitter(every: Duration, entropy: u64) -> Duration {
    every / 10 * 9 + (every / 5).mul_f64(entropy as f64 / u64::MAX as f64)
}
