//! Steps at random, on few ids and within little time, so that places and instants are used again and again.

use std::{collections::BTreeMap, time::Duration};

use idempotency_core::{Change, Fingerprint, Owner};

use super::*;

/// From the same seed the same numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % end
    }
}

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds)
}

fn all(records: &Records, limit: usize) -> BTreeMap<RequestId, Record> {
    let (mut found, mut cursor) = (BTreeMap::new(), None);
    loop {
        let page = records.scan(cursor.as_ref(), limit).unwrap();
        assert!(page.records.len() <= limit);
        for (id, record) in page.records {
            assert!(found.insert(id, record).is_none(), "nothing is touched, and so nothing is there twice");
        }
        cursor = page.next;
        if cursor.is_none() {
            return found;
        }
    }
}

fn write(model: &mut BTreeMap<RequestId, Record>, id: RequestId, write: Write) {
    match write {
        Write::Put(record) => drop(model.insert(id, record)),
        Write::Delete => drop(model.remove(&id)),
        Write::Keep => {}
    }
}

/// What is pruned is due, and due before whatever is left.
fn prune(records: &mut Records, model: &mut BTreeMap<RequestId, Record>, now: OffsetDateTime, limit: usize) {
    let due = model.values().filter(|record| record.is_expired(now)).count();
    let pruned = records.prune(now, limit);
    assert_eq!(pruned, Pruned { deleted: due.min(limit), more: due > limit });
    let left = all(records, 7);
    let next = left.values().map(|record| record.expires_at).min();
    model.retain(|id, record| {
        let stays = left.contains_key(id);
        assert!(stays || (record.is_expired(now) && next.is_none_or(|next| record.expires_at <= next)));
        stays
    });
}

#[test]
fn it_holds_what_the_table_says_and_prunes_what_is_due() {
    for seed in 0..300 {
        let random = &mut Random(seed);
        let mut records = Records::new(MemoryConfig::new());
        let (mut model, mut now, mut most) = (BTreeMap::new(), 0_i64, 0);
        let retentions: Vec<u64> = (0..=random.below(7)).map(|_| random.below(40)).collect();
        for _ in 0..400 {
            // It may stand still, and go back.
            now += [0, 0, 0, 1, 3, -1][random.below(6) as usize];
            let number = random.below(12);
            let (id, owner) = (RequestId::from_bytes([number as u8; 32]), Owner::from_u128(number.into()));
            let retention = Duration::from_secs(retentions[random.below(retentions.len() as u64) as usize]);
            let change = match random.below(8) {
                0..3 => {
                    let mut claim = Claim::new(id, owner, Fingerprint::derive(None, []));
                    (claim.lease, claim.retention) = (Duration::from_secs(random.below(5)), retention);
                    let step = Record::on_insert(model.get(&id), &claim, at(now));
                    assert_eq!(records.insert(&claim, at(now)).unwrap(), step.answer);
                    write(&mut model, id, step.write);
                    None
                }
                3 => {
                    prune(&mut records, &mut model, at(now), random.below(4) as usize);
                    None
                }
                4 | 5 => Some(Change::Complete { response: "a".into(), retention }),
                6 => Some(Change::Forget),
                _ => Some(Change::Release),
            };
            if let Some(change) = change {
                let update = Update::new(id, owner, change);
                let step = Record::on_update(model.get(&id), &update, at(now));
                assert_eq!(records.update(&update, at(now)), step.answer);
                write(&mut model, id, step.write);
            }
            assert_eq!(all(&records, 1 + random.below(9) as usize), model, "seed {seed}");
            assert!(records.listed() >= model.len());
            most = most.max(records.listed());
        }
        assert!(most < 100, "{most} entries for at most twelve records");
        prune(&mut records, &mut model, at(1_000), usize::MAX);
        assert_eq!((records.len(), records.used()), (0, 0));
    }
}
