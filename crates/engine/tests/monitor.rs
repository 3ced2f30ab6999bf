//! Watches what is done to one id, and knows the promises, but not the table.

use idempotency_core::{Change, HaltReason, Inserted, Record, State, Updated};
use time::OffsetDateTime;

/// The promises of the design, section 4, as far as a model of one id can break them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Promise {
    /// At most one `Init` in one generation.
    I1,
    /// Every replay is the one applied put of its generation.
    I3,
    /// Another fingerprint is a mismatch.
    I4,
    /// Nothing is applied for anybody but the owner.
    I5,
    /// Nothing is served or blocked after it expired.
    I7,
    /// A dead owner's retry hears `Halted`, or `Init` by policy.
    I8,
    /// What was done is stored as long as nobody took over.
    I10,
    /// Nothing unexpired is pruned.
    I12,
}

/// The current generation, and the first promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Monitor {
    /// Who made the claim that began the generation.
    holder: Option<u8>,
    inits: u8,
    /// Whose put was applied in it.
    put: Option<u8>,
    /// Its holder ended it by another word than a put, which a put of his own may not undo.
    ended: bool,
    /// Its holder went away without a word.
    died: bool,
    pub(crate) broken: Option<Promise>,
}

impl Monitor {
    fn breaks(&mut self, promise: Promise) {
        self.broken.get_or_insert(promise);
    }

    pub(crate) fn holder_died(&mut self, who: u8) {
        self.died |= self.holder == Some(who);
    }

    /// The store has answered an insert of `who`. `may_rerun`: by policy an orphan may be worked on again.
    pub(crate) fn inserted(
        &mut self,
        who: u8,
        takes_over: bool,
        may_rerun: bool,
        before: Option<&Record>,
        answer: &Inserted,
        now: OffsetDateTime,
    ) {
        match answer {
            Inserted::Busy => {}
            Inserted::Exists(record) => {
                if record.is_expired(now) {
                    self.breaks(Promise::I7);
                }
            }
            Inserted::Claimed => {
                let live = before.filter(|record| !record.is_expired(now));
                let begins = match live {
                    None => true,
                    // Who decided on a lease that had lapsed takes over what its owner halted since, too.
                    Some(record) => {
                        let is_halted = matches!(record.state, State::Halted(_));
                        self.holder != Some(who) && takes_over && (is_halted || record.is_orphan(now))
                    }
                };
                if begins {
                    let expired = before.is_some_and(|record| record.is_expired(now));
                    if live.is_none() && self.died && !expired && !may_rerun {
                        // Somebody works again although nobody knows what the dead one did.
                        self.breaks(Promise::I8);
                    }
                    let broken = self.broken;
                    *self = Self { holder: Some(who), broken, ..Self::default() };
                }
            }
        }
    }

    /// `Init` has reached its caller, who begins to work.
    pub(crate) fn init(&mut self) {
        self.inits += 1;
        if self.inits > 1 {
            self.breaks(Promise::I1);
        }
    }

    /// `Init` never reached its caller after all.
    pub(crate) fn never_begun(&mut self) {
        self.inits = self.inits.saturating_sub(1);
    }

    /// The store has answered an update of `who`.
    pub(crate) fn updated(
        &mut self,
        who: u8,
        change: &Change,
        before: Option<&Record>,
        after: Option<&Record>,
        answer: Updated,
        now: OffsetDateTime,
    ) {
        let live = before.filter(|record| !record.is_expired(now));
        let applied = live.is_some() && before != after;
        if applied && self.holder != Some(who) {
            self.breaks(Promise::I5);
        }
        match change {
            Change::Complete { .. } if applied => {
                if self.put.is_some_and(|put| put != who) {
                    self.breaks(Promise::I3);
                }
                self.put = Some(who);
            }
            Change::Complete { .. } => {
                let due = live.is_some() && self.holder == Some(who) && !self.ended;
                if due && answer == Updated::Fenced {
                    self.breaks(Promise::I10);
                }
            }
            // Said by the tracker on behalf of a holder who may still put.
            Change::Halt { reason: HaltReason::Shutdown, .. } => {}
            Change::Halt { .. } | Change::Release => self.ended |= self.holder == Some(who),
            _ => {}
        }
    }

    /// Records are deleted as expired.
    pub(crate) fn pruned(&mut self, deleted: Option<&Record>, now: OffsetDateTime) {
        if deleted.is_some_and(|record| !record.is_expired(now)) {
            self.breaks(Promise::I12);
        }
        // Its retention is over, and with it whatever was unknown.
        self.forgotten();
    }

    /// An operator deleted the record: whatever was unknown, he knows.
    pub(crate) fn forgotten(&mut self) {
        self.died = false;
        self.holder = None;
    }

    /// A caller is answered with a replay that the store gave out.
    pub(crate) fn replayed(&mut self, record: &Record, body_of: impl Fn(u8) -> &'static str) {
        let State::Completed(response) = &record.state else { return };
        let put = self.put.map(body_of);
        if put.map(str::as_bytes) != response.bytes().map(AsRef::as_ref) {
            self.breaks(Promise::I3);
        }
    }

    /// A caller hears `Processing` although the lease has lapsed.
    pub(crate) fn stuck(&mut self) {
        self.breaks(Promise::I8);
    }

    /// Another fingerprint than that of the record heard something else than `Mismatch`.
    pub(crate) fn not_a_mismatch(&mut self) {
        self.breaks(Promise::I4);
    }
}
