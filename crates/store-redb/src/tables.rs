//! What is in the file, and what one command does to it inside a transaction.

use idempotency_core::{
    Claim, Inserted, Pruned, Record, RequestId, Restored, Setup, State, StoreCommand, StoreError,
    StoreErrorKind, StoreReply, Update, Updated, Write,
};
use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};
use time::OffsetDateTime;

use crate::{
    error::Failure,
    records::{Applied, Instant, Place, Records, Stored, expires_at, own},
};

/// The version of the tables. A file with a later one is refused. One with the first has its running records among the settled,
/// where they are found, too.
pub(crate) const SCHEMA: u32 = 2;

/// The ids in the order in which they are looked at for pruning.
const EXPIRY: TableDefinition<&[u8; 44], ()> = TableDefinition::new("expiry");

/// `schema`, `identity`, `secret`, `moved_to`.
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// How often a prune goes on over records that were only noted too early.
const STEPS: usize = 64;

/// The tables within one transaction.
pub(crate) struct Tables<'txn> {
    records: Records<Table<'txn, &'static [u8; 32], &'static [u8]>>,
    expiry: Table<'txn, &'static [u8; 44], ()>,
    meta: Table<'txn, &'static str, &'static [u8]>,
    /// Whether anything was written, and whether it must be on the disk before it is acknowledged.
    pub(crate) wrote: bool,
    pub(crate) must_sync: bool,
    /// The value that is being written; one buffer for all of a transaction.
    value: Vec<u8>,
}

impl<'txn> Tables<'txn> {
    /// Makes the tables that are not there yet.
    pub(crate) fn open(txn: &'txn WriteTransaction) -> Result<Self, Failure> {
        Ok(Self {
            records: Records::open(txn)?,
            expiry: txn.open_table(EXPIRY)?,
            meta: txn.open_table(META)?,
            wrote: false,
            must_sync: false,
            value: Vec::new(),
        })
    }

    /// Notes version and identity in a new file, or a version that is later than what the file had, and refuses a file of a
    /// later version or of something else. Returns the identity.
    pub(crate) fn check_schema(&mut self, is_new: bool, identity: u64) -> Applied<u64> {
        if is_new {
            self.meta.insert("schema", &SCHEMA.to_le_bytes()[..])?;
            self.meta.insert("identity", &identity.to_le_bytes()[..])?;
            self.touched(true);
            return Ok(Ok(identity));
        }
        let read = |name| -> Result<Option<Vec<u8>>, Failure> {
            Ok(self.meta.get(name)?.map(|found| found.value().to_vec()))
        };
        let schema = read("schema")?.and_then(|found| found.try_into().ok()).map(u32::from_le_bytes);
        let identity = read("identity")?.and_then(|found| found.try_into().ok()).map(u64::from_le_bytes);
        let refused = match (schema, identity) {
            (Some(SCHEMA), Some(identity)) => return Ok(Ok(identity)),
            (Some(1), Some(identity)) => {
                // A version that knows one table only must not find a file with two.
                self.meta.insert("schema", &SCHEMA.to_le_bytes()[..])?;
                self.touched(true);
                return Ok(Ok(identity));
            }
            (Some(schema), _) if schema != SCHEMA => {
                let message = format!("the file has schema {schema}, and this version knows {SCHEMA}");
                StoreError::new(StoreErrorKind::Misconfigured, message)
            }
            _ => StoreError::new(StoreErrorKind::Misconfigured, "the file is a database of something else"),
        };
        Ok(Err(refused.not_applied()))
    }

    pub(crate) fn apply(&mut self, command: &StoreCommand, now: OffsetDateTime) -> Applied<StoreReply> {
        Ok(match command {
            StoreCommand::Setup(setup) => self.setup(setup)?.map(|()| StoreReply::Done),
            StoreCommand::Lookup(id) => {
                self.records.lookup(id, now)?.map(|found| StoreReply::Found(found.map(Box::new)))
            }
            StoreCommand::Insert(claim) => self.insert(claim, now)?.map(StoreReply::Inserted),
            StoreCommand::Update(update) => self.update(update, now)?.map(StoreReply::Updated),
            StoreCommand::Prune { limit } => Ok(StoreReply::Pruned(self.prune(now, *limit)?)),
            StoreCommand::Restore { id, record } => self.restore(id, record, now)?.map(StoreReply::Restored),
            StoreCommand::Retire { to } => {
                self.meta.insert("moved_to", to.as_bytes())?;
                self.touched(true);
                Ok(StoreReply::Done)
            }
            other => {
                let message = format!("the redb store does not offer `{}`", other.name());
                Err(StoreError::new(StoreErrorKind::Unsupported, message).not_applied())
            }
        })
    }

    fn setup(&mut self, setup: &Setup) -> Applied<()> {
        if let Some(to) = self.meta.get("moved_to")? {
            let message = format!("the records moved to {}", String::from_utf8_lossy(to.value()));
            return Ok(Err(StoreError::new(StoreErrorKind::Moved, message).not_applied()));
        }
        let known = self.meta.get("secret")?.map(|known| known.value() == setup.secret_check.as_bytes());
        match known {
            Some(true) => {}
            Some(false) => {
                let message = "the records were made with another secret (or with none)";
                return Ok(Err(StoreError::new(StoreErrorKind::WrongSecret, message).not_applied()));
            }
            None => {
                self.meta.insert("secret", &setup.secret_check.as_bytes()[..])?;
                self.touched(true);
            }
        }
        Ok(Ok(()))
    }

    fn insert(&mut self, claim: &Claim, now: OffsetDateTime) -> Applied<Inserted> {
        let stored = own!(self.read(&claim.id)?);
        let step = Record::on_insert(stored.as_ref().map(|stored| &stored.record), claim, now);
        own!(self.write(&claim.id, stored.as_ref(), step.write, true)?);
        Ok(Ok(step.answer))
    }

    fn update(&mut self, update: &Update, now: OffsetDateTime) -> Applied<Updated> {
        let stored = own!(self.read(&update.id)?);
        let step = Record::on_update(stored.as_ref().map(|stored| &stored.record), update, now);
        let must_sync = !matches!(update.change, idempotency_core::Change::Renew { .. });
        own!(self.write(&update.id, stored.as_ref(), step.write, must_sync)?);
        Ok(Ok(step.answer))
    }

    fn restore(&mut self, id: &RequestId, record: &Record, now: OffsetDateTime) -> Applied<Restored> {
        let stored = own!(self.read(id)?);
        let step = Record::on_restore(stored.as_ref().map(|stored| &stored.record), record, now);
        own!(self.write(id, stored.as_ref(), step.write, true)?);
        Ok(Ok(step.answer))
    }

    fn read(&self, id: &RequestId) -> Applied<Option<Stored>> {
        let found = self.records.find(id.as_bytes())?;
        Ok(found.map(|(place, value)| Stored::read(place, value.value())).transpose())
    }

    fn write(
        &mut self,
        id: &RequestId,
        stored: Option<&Stored>,
        write: Write,
        must_sync: bool,
    ) -> Applied<()> {
        match write {
            Write::Keep => return Ok(Ok(())),
            Write::Put(record) => {
                let expires_at = instant(record.expires_at);
                // Looked at no later than it expires. What is noted may be earlier: a renewal then moves nothing, and
                // neither does a settle, which is most of what happens.
                let noted = stored.map(|stored| stored.noted).filter(|noted| *noted <= expires_at);
                let look_at = noted.unwrap_or_else(|| instant(earliest_expiry(&record)));
                self.value.clear();
                self.value.extend_from_slice(&look_at);
                self.value.extend_from_slice(&expires_at);
                // Before anything is written, for it may fail.
                own!(idempotency_frame::encode_to(&record, &mut self.value));
                if noted.is_none() {
                    if let Some(stored) = stored {
                        self.expiry.remove(&key(&stored.noted, id))?;
                    }
                    self.expiry.insert(&key(&look_at, id), ())?;
                }
                let before = stored.map(|stored| stored.place);
                self.records.put(id.as_bytes(), before, Place::of(&record), &self.value)?;
            }
            Write::Delete => {
                if let Some(stored) = stored {
                    self.expiry.remove(&key(&stored.noted, id))?;
                    self.records.remove(id.as_bytes(), stored.place)?;
                }
            }
        }
        self.touched(must_sync);
        Ok(Ok(()))
    }

    /// Deletes `limit` expired records at most. Those that were only noted too early are noted for later; a step goes on
    /// over them, within reason, until it has something to show.
    fn prune(&mut self, now: OffsetDateTime, limit: usize) -> Result<Pruned, Failure> {
        let now = instant(now);
        let mut pruned = Pruned::default();
        for _ in 0..STEPS {
            pruned = self.prune_step(&now, limit)?;
            if pruned.deleted > 0 || !pruned.more {
                break;
            }
        }
        Ok(pruned)
    }

    fn prune_step(&mut self, now: &Instant, limit: usize) -> Result<Pruned, Failure> {
        let end = key(now, &RequestId::from_bytes([0xff; 32]));
        let mut due: Vec<[u8; 44]> = Vec::new();
        for entry in self.expiry.range::<&[u8; 44]>(..=&end)?.take(limit.saturating_add(1)) {
            due.push(*entry?.0.value());
        }
        let more = due.len() > limit;
        due.truncate(limit);
        let mut deleted = 0;
        for key_of_due in &due {
            let (noted, id) = parts(key_of_due);
            let found = match self.records.find(id)? {
                Some((place, value)) if value.value().starts_with(noted) => {
                    Some((place, value.value().to_vec()))
                }
                _ => None,
            };
            self.expiry.remove(key_of_due)?;
            // Else an entry of a record that is gone, or is noted elsewhere.
            let Some((place, mut value)) = found else { continue };
            match expires_at(&value) {
                Some(expires_at) if expires_at > *now => {
                    value[..12].copy_from_slice(&expires_at);
                    self.records.put(id, Some(place), place, &value)?;
                    self.expiry.insert(&key(&expires_at, &RequestId::from_bytes(*id)), ())?;
                }
                _ => {
                    self.records.remove(id, place)?;
                    deleted += 1;
                }
            }
        }
        if !due.is_empty() {
            // The last step of a prune, so that it does not begin again after a crash, or on a disk that is full.
            self.touched(deleted > 0 && !more);
        }
        Ok(Pruned { deleted, more })
    }

    fn touched(&mut self, must_sync: bool) {
        self.wrote = true;
        self.must_sync |= must_sync;
    }
}

/// When the record would expire if it were settled the moment it was claimed.
fn earliest_expiry(record: &Record) -> OffsetDateTime {
    match record.state {
        State::Processing { lease_until } => {
            record.expires_at.saturating_sub((lease_until - record.claimed_at).max(time::Duration::ZERO))
        }
        State::Completed(_) | State::Halted(_) => record.expires_at,
    }
}

fn instant(instant: OffsetDateTime) -> Instant {
    let mut bytes = [0; 12];
    // With the sign flipped, times before 1970 come first.
    bytes[..8].copy_from_slice(&(instant.unix_timestamp() ^ i64::MIN).to_be_bytes());
    bytes[8..].copy_from_slice(&instant.nanosecond().to_be_bytes());
    bytes
}

fn key(instant: &Instant, id: &RequestId) -> [u8; 44] {
    let mut key = [0; 44];
    key[..12].copy_from_slice(instant);
    key[12..].copy_from_slice(id.as_bytes());
    key
}

fn parts(key: &[u8; 44]) -> (&[u8], &[u8; 32]) {
    let (noted, id) = key.split_at(12);
    (noted, id.try_into().expect("44 bytes are 12 and 32"))
}
