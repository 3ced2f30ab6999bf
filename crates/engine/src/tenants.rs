use std::collections::{BTreeMap, VecDeque};

use idempotency_core::Tenant;

use crate::moment::Moment;

/// In how many parts a retention is counted: what is stored counts for that much longer at most.
const PARTS: u32 = 16;

/// How many tenants are known before those are looked for who have nothing any more.
const MANY: usize = 1024;

/// What each tenant has here: claims, and bytes that this node has stored for him.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Tenants {
    shares: BTreeMap<Tenant, Share>,
    /// How many there were when they were tidied up last.
    kept: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Share {
    in_flight: usize,
    /// Bytes, and when the last of them has expired; in the order of these moments.
    stored: VecDeque<(Moment, u64)>,
    total: u64,
}

impl Share {
    fn expire(&mut self, now: Moment) {
        let expired = self.stored.partition_point(|(expired, _)| *expired <= now);
        self.total -= self.stored.drain(..expired).map(|(_, bytes)| bytes).sum::<u64>();
    }
}

impl Tenants {
    pub(crate) fn in_flight(&self, tenant: Tenant) -> usize {
        self.shares.get(&tenant).map_or(0, |share| share.in_flight)
    }

    /// Bytes that have not expired, or did so lately.
    pub(crate) fn stored(&self, tenant: Tenant, now: Moment) -> u64 {
        let Some(share) = self.shares.get(&tenant) else { return 0 };
        let expired = share.stored.iter().take_while(|(expired, _)| *expired <= now);
        share.total - expired.map(|(_, bytes)| bytes).sum::<u64>()
    }

    /// A lane counted for the one, and counts for the other from now on.
    pub(crate) fn replace(&mut self, before: (Option<Tenant>, usize), after: (Option<Tenant>, usize)) {
        if before == after {
            return;
        }
        if let Some(tenant) = before.0
            && let Some(share) = self.shares.get_mut(&tenant)
        {
            share.in_flight -= before.1;
            if share.in_flight == 0 && share.stored.is_empty() {
                self.shares.remove(&tenant);
            }
        }
        if let (Some(tenant), true) = (after.0, after.1 > 0) {
            self.shares.entry(tenant).or_default().in_flight += after.1;
        }
    }

    /// Something was stored for this tenant, which is kept for so long.
    pub(crate) fn store(&mut self, tenant: Tenant, bytes: u64, now: Moment, retention: std::time::Duration) {
        if self.shares.len() > 2 * self.kept.max(MANY) {
            self.tidy(now);
        }
        let share = self.shares.entry(tenant).or_default();
        share.expire(now);
        share.total += bytes;
        let (expires, part) = (now.after(retention), retention / PARTS);
        let at = share.stored.partition_point(|(last, _)| *last < expires);
        match share.stored.get_mut(at).filter(|(last, _)| *last <= expires.after(part)) {
            Some((_, counted)) => *counted += bytes,
            None => share.stored.insert(at, (expires.after(part), bytes)),
        }
    }

    /// Forgets those who have nothing any more.
    fn tidy(&mut self, now: Moment) {
        self.shares.retain(|_, share| {
            share.expire(now);
            share.in_flight > 0 || share.total > 0
        });
        self.kept = self.shares.len();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use time::OffsetDateTime;

    use super::*;

    const HOUR: Duration = Duration::from_secs(60 * 60);

    #[test]
    fn bytes_count_until_they_expire_and_a_sixteenth_longer_at_most() {
        let (mut tenants, alice) = (Tenants::default(), Tenant::from_bytes([1; 16]));
        let start = Moment::from(OffsetDateTime::UNIX_EPOCH);
        for minute in 0..60 {
            tenants.store(alice, 100, start.after(HOUR * minute / 60), HOUR);
        }
        let at = |time| tenants.stored(alice, start.after(time));
        assert_eq!(at(HOUR * 59 / 60), 6_000);
        assert_eq!(at(HOUR), 6_000, "not a moment too early, for they are there");
        let (half, all) = (at(HOUR * 3 / 2), at(HOUR * 2));
        assert!((3_000..=3_500).contains(&half) && all <= 500, "{half}, then {all}");
        assert_eq!(at(HOUR * 33 / 16), 0);
        let parts = tenants.shares[&alice].stored.len();
        assert!(parts <= PARTS as usize + 1, "an hour is {parts} parts");
        tenants.tidy(start.after(HOUR * 3));
        assert_eq!(tenants, Tenants::default());
    }

    #[test]
    fn what_is_kept_for_long_makes_nothing_else_count_for_longer() {
        let (mut tenants, alice) = (Tenants::default(), Tenant::from_bytes([1; 16]));
        let start = Moment::from(OffsetDateTime::UNIX_EPOCH);
        tenants.store(alice, 1, start, HOUR * 24);
        for _ in 0..10 {
            tenants.store(alice, 100, start, HOUR);
        }
        assert_eq!(tenants.stored(alice, start), 1_001);
        assert_eq!(tenants.stored(alice, start.after(HOUR * 2)), 1);
    }

    #[test]
    fn tenants_who_have_nothing_any_more_are_forgotten() {
        let mut tenants = Tenants::default();
        let start = Moment::from(OffsetDateTime::UNIX_EPOCH);
        for number in 0..10_000_u32 {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            tenants.store(Tenant::from_bytes(bytes), 100, start.after(HOUR * number), HOUR);
            assert!(tenants.shares.len() <= 2 * MANY + 1);
        }
    }

    #[test]
    fn a_tenant_is_not_forgotten_while_anything_of_him_is_there() {
        let (alice, bob) = (Tenant::from_bytes([1; 16]), Tenant::from_bytes([2; 16]));
        let start = Moment::from(OffsetDateTime::UNIX_EPOCH);
        let mut tenants = Tenants::default();
        // Something is stored, and the last claim ends.
        tenants.store(alice, 100, start, HOUR);
        tenants.replace((None, 0), (Some(alice), 1));
        tenants.replace((Some(alice), 1), (None, 0));
        assert_eq!(tenants.stored(alice, start), 100);
        // One of two claims ends, and nothing is stored.
        tenants.replace((None, 0), (Some(bob), 1));
        tenants.replace((None, 0), (Some(bob), 1));
        tenants.replace((Some(bob), 1), (None, 0));
        assert_eq!(tenants.in_flight(bob), 1);
        tenants.tidy(start);
        assert_eq!((tenants.stored(alice, start), tenants.in_flight(bob)), (100, 1));
    }

    #[test]
    fn claims_move_with_their_lane() {
        let (mut tenants, alice, bob) =
            (Tenants::default(), Tenant::from_bytes([1; 16]), Tenant::from_bytes([2; 16]));
        tenants.replace((None, 0), (Some(alice), 2));
        tenants.replace((Some(alice), 2), (Some(bob), 1));
        assert_eq!((tenants.in_flight(alice), tenants.in_flight(bob)), (0, 1));
        tenants.replace((Some(bob), 1), (None, 0));
        assert_eq!(tenants.in_flight(bob), 0);
    }
}
