//! One claim from its beginning to its end, and what the answers say about when each was.

use std::time::Duration;

use idempotency_core::Owner;

use super::{Stage, check::Broken, settles::Settles};

/// Later than everything.
pub(crate) const FOREVER: u64 = u64::MAX;

/// A moment between two instants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) after: u64,
    pub(crate) before: u64,
}

impl Window {
    const ANY: Self = Self { after: 0, before: FOREVER };

    /// Something was the case at a moment of a call. Of many such calls: it was not over before the last of them began,
    /// and had begun when the first of them ended.
    fn include(&mut self, began: u64, ended: u64) {
        self.after = self.after.max(began);
        self.before = self.before.min(ended);
    }
}

/// How a claim ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Released,
    Forgotten,
}

/// How a claim can have ended before another one began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    /// From when on its owner is refused.
    pub(crate) over: u64,
    /// From when on another one can begin, and whether nothing is there until then.
    pub(crate) free_from: u64,
    pub(crate) is_gap: bool,
}

#[derive(Debug)]
pub(crate) struct Life {
    owner: Owner,
    payload: Option<u64>,
    takes_over: Vec<Owner>,
    /// When it began.
    pub(crate) start: Window,
    asked: bool,
    /// When it was there, in whatever stage.
    pub(crate) alive: Window,
    processing: Window,
    halted: Window,
    completed: Window,
    response: Option<u64>,
    is_halted: bool,
    /// When a halt, and a put, were answered as applied.
    halt_applied: Option<u64>,
    put_applied: Option<u64>,
    pub(crate) halts: Settles,
    pub(crate) completes: Settles,
    ends: Vec<(End, u64, Option<u64>)>,
    /// When updates that were refused were sent, and came back.
    pub(crate) refused: Vec<(u64, u64)>,
    worked: Option<u64>,
    signs: Vec<Sign>,
    /// It lapses, and expires, no later than this.
    lapses_before: u64,
    expires_before: u64,
}

/// A call that kept it alive, or may have.
#[derive(Debug)]
struct Sign {
    began: u64,
    ended: Option<u64>,
    lapses: u64,
    retention: u64,
}

impl Life {
    pub(crate) fn new(owner: Owner) -> Self {
        Self {
            owner,
            payload: None,
            takes_over: Vec::new(),
            start: Window { after: FOREVER, before: FOREVER },
            asked: false,
            alive: Window::ANY,
            processing: Window::ANY,
            halted: Window::ANY,
            completed: Window::ANY,
            response: None,
            is_halted: false,
            halt_applied: None,
            put_applied: None,
            halts: Settles::default(),
            completes: Settles::default(),
            ends: Vec::new(),
            refused: Vec::new(),
            worked: None,
            signs: Vec::new(),
            lapses_before: 0,
            expires_before: 0,
        }
    }

    /// Some answer proves that it was there.
    pub(crate) fn has_lived(&self) -> bool {
        self.alive.before != FOREVER
    }

    pub(crate) fn inserted(
        &mut self,
        payload: u64,
        takes_over: Option<Owner>,
        began: u64,
        may_have_begun: bool,
    ) -> Result<(), Broken> {
        self.is_about(payload)?;
        if may_have_begun {
            self.takes_over.extend(takes_over);
            self.asked = true;
            self.start.after = self.start.after.min(began);
        }
        Ok(())
    }

    fn is_about(&mut self, payload: u64) -> Result<(), Broken> {
        if *self.payload.get_or_insert(payload) != payload {
            return Err(("I4", format!("the claim of {:?} is about another payload", self.owner)));
        }
        Ok(())
    }

    /// It gave a sign of life in a call.
    pub(crate) fn sign(&mut self, began: u64, ended: Option<u64>, lease: Duration, retention: Duration) {
        let (lease, retention) = (nanos(lease), nanos(retention));
        self.signs.push(Sign { began, ended, lapses: began.saturating_add(lease), retention });
        // What was not answered can only have come while the claim was there.
        let latest = match ended {
            Some(ended) => ended,
            None if self.expires_before != 0 => self.expires_before,
            None => FOREVER,
        };
        self.lapses_before = self.lapses_before.max(latest.saturating_add(lease));
        self.expires_before = self.expires_before.max(self.lapses_before.saturating_add(retention));
    }

    /// It lapses no earlier than this: no sign of life takes back what another one gave. Without one that was answered,
    /// whichever took effect was none before the first.
    fn lapses_after(&self) -> u64 {
        let answered = self.signs.iter().filter(|sign| sign.ended.is_some()).map(|sign| sign.lapses).max();
        answered.or_else(|| self.signs.iter().map(|sign| sign.lapses).min()).unwrap_or(FOREVER)
    }

    /// It expires no earlier than this. The last sign of life says how long a record is kept, also if that is shorter.
    fn expires_after(&self) -> u64 {
        let answered = self.signs.iter().filter(|sign| sign.ended.is_some());
        let last = answered.map(|sign| sign.began).max().unwrap_or(0);
        let may_be_last = self.signs.iter().filter(|sign| sign.ended.is_none_or(|ended| ended >= last));
        let retention = may_be_last.map(|sign| sign.retention).min();
        retention.map_or(FOREVER, |retention| self.lapses_after().saturating_add(retention))
    }

    /// An answer has told of it.
    pub(crate) fn seen(&mut self, payload: u64, stage: Stage, began: u64, ended: u64) -> Result<(), Broken> {
        self.is_about(payload)?;
        self.observed(stage, began, ended)
    }

    pub(crate) fn processing(&mut self, began: u64, ended: u64) {
        self.alive.include(began, ended);
        self.processing.include(began, ended);
    }

    /// It was in this stage at a moment of a call.
    pub(crate) fn observed(&mut self, stage: Stage, began: u64, ended: u64) -> Result<(), Broken> {
        self.alive.include(began, ended);
        match stage {
            Stage::Processing => self.processing.include(began, ended),
            Stage::Halted => {
                self.is_halted = true;
                self.halted.include(began, ended);
            }
            Stage::Completed(response) => {
                if *self.response.get_or_insert(response) != response {
                    return Err(("I3", format!("{:?} has two responses", self.owner)));
                }
                self.completed.include(began, ended);
            }
        }
        Ok(())
    }

    /// A call brought it into this stage.
    pub(crate) fn applied(&mut self, stage: Stage, began: u64, ended: u64) -> Result<(), Broken> {
        self.alive.include(began, ended);
        let twice = match stage {
            Stage::Processing => None,
            Stage::Halted => {
                self.is_halted = true;
                self.halted.before = self.halted.before.min(ended);
                self.halt_applied.replace(began)
            }
            Stage::Completed(response) => {
                if *self.response.get_or_insert(response) != response {
                    return Err(("I3", format!("two responses of {:?} were stored", self.owner)));
                }
                self.completed.before = self.completed.before.min(ended);
                self.put_applied.replace(began)
            }
        };
        match twice {
            Some(_) => Err(("I3", format!("{:?} was settled twice in the same way", self.owner))),
            None => Ok(()),
        }
    }

    pub(crate) fn ended(&mut self, end: End, began: u64, ended: Option<u64>) -> Result<(), Broken> {
        if let Some(ended) = ended {
            self.alive.include(began, ended);
            if self.ends.iter().any(|(_, _, applied)| applied.is_some()) {
                return Err(("I5", format!("the claim of {:?} ended twice", self.owner)));
            }
        }
        self.ends.push((end, began, ended));
        Ok(())
    }

    /// The earliest moment at which it can have begun.
    pub(crate) fn begin(&self, free_from: u64) -> Result<u64, Broken> {
        if !self.asked {
            return Err(("I1", format!("nobody was given the claim of {:?}, and it was there", self.owner)));
        }
        let start = self.start.after.max(free_from);
        if start > self.latest_start() {
            return Err(("I1", format!("the claim of {:?} began while another one stood", self.owner)));
        }
        Ok(start)
    }

    /// The latest moment at which it can have begun.
    pub(crate) fn latest_start(&self) -> u64 {
        self.start.before.min(self.alive.before)
    }

    /// The earliest moments at which it can have been settled for the first and for the last time, if it was.
    pub(crate) fn settle(&self, start: u64) -> Result<Option<(u64, u64)>, Broken> {
        let mut first = None;
        let mut last = start.max(self.processing.after);
        if self.is_halted {
            // Only a halt at shutdown may be followed by a put.
            let number = self.response.map(|_| 1);
            let Some(asked) = self.halts.first(number) else {
                return Err(("I5", format!("{:?} is halted, and nobody said so", self.owner)));
            };
            last = last.max(asked).max(self.halt_applied.unwrap_or(0));
            if last > self.halted.before {
                return Err(("I3", format!("{:?} was seen at work after it was halted", self.owner)));
            }
            first = Some(last);
            last = last.max(self.halted.after);
        }
        if let Some(response) = self.response {
            let Some(asked) = self.completes.first(Some(response)) else {
                return Err(("I3", format!("{:?} has a response that nobody put", self.owner)));
            };
            last = last.max(asked).max(self.put_applied.unwrap_or(0));
            if last > self.completed.before {
                return Err((
                    "I3",
                    format!("{:?} was seen without its response after it was stored", self.owner),
                ));
            }
            first = first.or(Some(last));
        }
        Ok(first.map(|first| (first, last)))
    }

    /// How it can have ended before the next one began, each as early as it can be. Some claims nobody has seen: one of
    /// them may have taken it over, and be gone as well.
    pub(crate) fn ends(
        &self,
        settled: Option<(u64, u64)>,
        next: Option<&Self>,
        unseen: &[Self],
    ) -> Result<Vec<Ended>, Broken> {
        let over = self.alive.after.max(settled.map_or(0, |settled| settled.1)).max(self.processing.after);
        let applied = self.ends.iter().find(|(_, _, ended)| ended.is_some()).copied();
        if let Some((end, began, Some(ended))) = applied {
            let Some(asked) = self.may_end(end, settled) else {
                return Err(("I5", format!("{:?} was ended in a stage that forbids it", self.owner)));
            };
            let end = over.max(began).max(asked);
            if end > ended {
                return Err(("I6", format!("{:?} was there after it had ended", self.owner)));
            }
            return Ok(vec![Ended { over: end, free_from: end, is_gap: true }]);
        }
        let vanished = self.vanished(settled).map(|vanished| vanished.max(over));
        let vanished = vanished.map(|over| Ended { over, free_from: over, is_gap: true });
        let taken_over_by_unseen = unseen.iter().filter_map(|unseen| {
            let over = self.taken_over_by(unseen, settled, over).ok()?.max(unseen.start.after);
            let free_from = unseen.vanished(None).map_or(FOREVER, |vanished| vanished.max(over));
            Some(Ended { over, free_from, is_gap: free_from != FOREVER })
        });
        let by_themselves = vanished.into_iter().chain(taken_over_by_unseen);
        let Some(next) = next else {
            let stays = Ended { over: FOREVER, free_from: FOREVER, is_gap: false };
            return Ok(by_themselves.chain([stays]).collect());
        };
        let mut ends: Vec<Ended> =
            by_themselves.filter(|ended| ended.free_from <= next.latest_start()).collect();
        match self.taken_over_by(next, settled, over) {
            Ok(over) => ends.push(Ended { over, free_from: over, is_gap: false }),
            Err(broken) if ends.is_empty() => return Err(broken),
            Err(_) => {}
        }
        Ok(ends)
    }

    /// When it can have expired, or ended by a call that was not answered.
    fn vanished(&self, settled: Option<(u64, u64)>) -> Option<u64> {
        let unanswered = self.ends.iter().filter_map(|(end, began, _)| {
            let asked = self.may_end(*end, settled)?;
            Some(asked.max(*began))
        });
        let expired = match settled {
            // Nobody saw it settled, and yet it may have been.
            None => {
                let settled = self.completes.expires_after().min(self.halts.expires_after());
                self.expires_after().min(settled)
            }
            Some(_) if self.response.is_some() => self.completes.expires_after(),
            Some(_) => self.halts.expires_after(),
        };
        unanswered.chain((expired != FOREVER).then_some(expired)).min()
    }

    /// The earliest moment at which another one can have taken it over.
    fn taken_over_by(&self, other: &Self, settled: Option<(u64, u64)>, over: u64) -> Result<u64, Broken> {
        if !other.takes_over.contains(&self.owner) {
            return Err(("I1", format!("{:?} was given what {:?} had", other.owner, self.owner)));
        }
        if other.payload != self.payload {
            let message =
                format!("{:?} took over the claim of {:?} for another payload", other.owner, self.owner);
            return Err(("I4", message));
        }
        // An orphan: halted, or silent for longer than its lease.
        let orphaned = match settled {
            Some(_) if self.response.is_some() => None,
            Some((_, last)) => Some(last),
            None => self.halts.first(None).into_iter().chain([self.lapses_after()]).min(),
        };
        match orphaned.map(|orphaned| orphaned.max(over)) {
            Some(orphaned) if orphaned <= other.latest_start() => Ok(orphaned),
            _ => Err(("I1", format!("{:?} took {:?} over before it was an orphan", other.owner, self.owner))),
        }
    }

    /// Whether it may be ended like this, and since when.
    fn may_end(&self, end: End, settled: Option<(u64, u64)>) -> Option<u64> {
        match (end, settled) {
            (End::Released, None) => Some(0),
            (End::Released, Some(_)) => None,
            (End::Forgotten, Some((_, last))) => Some(last),
            // A put or halt that never came back, or a lease that has lapsed.
            (End::Forgotten, None) => {
                let asked = self.halts.first(None).into_iter().chain(self.completes.first(None));
                let settled = asked.map(|asked| asked.max(self.processing.after));
                let lapsed = (self.lapses_after() != FOREVER).then(|| self.lapses_after());
                settled.chain(lapsed).min()
            }
        }
    }

    /// An update of the owner is refused only once the claim is settled or over, or before it began: a copy of the insert
    /// may come late. Returns when it can have begun at the earliest for that.
    pub(crate) fn refusals(&self, settled: Option<(u64, u64)>, end: u64) -> Result<u64, Broken> {
        let unanswered = match settled {
            // A halt at shutdown that nobody saw may have come before the put.
            Some(_) if !self.is_halted => self.halts.first(Some(1)),
            Some(_) => None,
            None => self.halts.first(None).into_iter().chain(self.completes.first(None)).min(),
        };
        let unanswered = unanswered.map(|asked| asked.max(self.processing.after));
        let over = settled.map(|settled| settled.0).into_iter().chain(unanswered).fold(end, u64::min);
        let too_early = self.refused.iter().filter(|(_, ended)| *ended < over).map(|(began, _)| *began);
        match too_early.max().unwrap_or(0) {
            began if began <= self.latest_start() => Ok(began),
            _ => Err(("I5", format!("{:?} was refused what was still its own", self.owner))),
        }
    }

    /// Nothing is shown after it has expired.
    pub(crate) fn check_expiry(&self) -> Result<(), Broken> {
        let is_late =
            |seen: Window, settles: &Settles| seen.after > seen.before.saturating_add(settles.longest());
        match is_late(self.completed, &self.completes) || is_late(self.halted, &self.halts) {
            true => Err(("I7", format!("what {:?} left was shown after it had expired", self.owner))),
            false => Ok(()),
        }
    }

    /// A running claim is neither shown nor moved on after it has expired. Of all calls those that began earlier are noted
    /// already: one that began later could only have kept it alive if it had itself come in time.
    pub(crate) fn in_time(&self, began: u64) -> Result<(), Broken> {
        match self.expires_before != 0 && !self.is_halted && began > self.expires_before {
            true => Err(("I7", format!("the claim of {:?} was alive after it had expired", self.owner))),
            false => Ok(()),
        }
    }

    /// The caller begins to work.
    pub(crate) fn works(&mut self, began: u64) -> Result<(), Broken> {
        match self.worked.replace(began) {
            Some(_) => Err(("I2", format!("{:?} worked twice", self.owner))),
            None => Ok(()),
        }
    }

    /// Nobody works before he was given the claim.
    pub(crate) fn check_work(&self) -> Result<(), Broken> {
        match self.worked.is_some_and(|began| began < self.start.before) {
            true => Err(("I2", format!("{:?} worked without a claim", self.owner))),
            false => Ok(()),
        }
    }
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(FOREVER)
}
