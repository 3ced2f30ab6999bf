use std::collections::HashMap;

use idempotency_core::{Claim, Inserted, Record, RequestId, Update, Updated, Write};
use time::OffsetDateTime;

/// The table of `core` over a map: what every store must answer like.
#[derive(Debug, Default)]
pub(crate) struct Model(HashMap<RequestId, Record>);

impl Model {
    pub(crate) fn insert(&mut self, claim: &Claim, now: OffsetDateTime) -> Inserted {
        let step = Record::on_insert(self.0.get(&claim.id), claim, now);
        self.write(claim.id, step.write);
        step.answer
    }

    pub(crate) fn update(&mut self, update: &Update, now: OffsetDateTime) -> Updated {
        let step = Record::on_update(self.0.get(&update.id), update, now);
        self.write(update.id, step.write);
        step.answer
    }

    pub(crate) fn lookup(&self, id: &RequestId, now: OffsetDateTime) -> Option<Record> {
        self.0.get(id).filter(|record| !record.is_expired(now)).cloned()
    }

    fn write(&mut self, id: RequestId, write: Write) {
        match write {
            Write::Keep => {}
            Write::Put(record) => drop(self.0.insert(id, record)),
            Write::Delete => drop(self.0.remove(&id)),
        }
    }
}
