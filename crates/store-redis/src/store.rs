use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::stream::BoxStream;
use futures_util::future::join_all;
use idempotency_core::{
    CallersClock, Capabilities, Claim, Clock, Cursor, Inserted, Page, Pruned, Record, RequestId, Restored,
    Setup, Store, StoreCommand, StoreError, StoreErrorKind, StoreReply, Update, Updated,
};
use redis::{Pipeline, Value};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::{
    RedisConfig, at_once,
    error::unexpected,
    link::Link,
    push::Push,
    scripts::{INSERT, LOOKUP, MARK, RESTORE, UPDATE, WATCH, millis},
    setup::{self, Inspection},
    slots::Node,
    updates,
    value::{self, Left},
    waits::Acknowledged,
};

/// The store on a server or a cluster that many nodes share; see the [crate](crate).
///
/// ```no_run
/// use idempotency_store_redis::{RedisConfig, RedisStore};
///
/// # async fn open() {
/// let store = RedisStore::open("redis://127.0.0.1").unwrap();
/// // Or a cluster:
/// let store = RedisStore::open(RedisConfig::cluster(["redis://127.0.0.1:7000", "redis://127.0.0.1:7001"])).unwrap();
/// # }
/// ```
///
/// Calls of all callers share one connection and go one behind the other without waiting for each other. A call that is
/// given up may be applied all the same; it is repeated by owner.
pub struct RedisStore {
    config: RedisConfig,
    link: Arc<Link>,
    push: Push,
    inspection: Inspection,
    channel: Arc<[u8]>,
    callers: CallersClock,
}

impl RedisStore {
    /// Connects at the first call, in the background, and again whenever the connection is lost.
    ///
    /// # Errors
    ///
    /// `Misconfigured`: the URL makes no sense, or leads to another machine without encryption.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn open(config: impl Into<RedisConfig>) -> Result<Self, StoreError> {
        let config = config.into();
        let clients = config.clients()?;
        let channel: Arc<[u8]> = format!("{}settled", config.prefix).into_bytes().into();
        let link = Arc::new(Link::new(&config, clients[0].clone())?);
        let push = Push::start(clients, channel.clone());
        let (inspection, callers) = (Inspection::default(), CallersClock::new());
        Ok(Self { config, link, push, inspection, channel, callers })
    }

    pub(crate) fn key(&self, id: &RequestId) -> Vec<u8> {
        [self.config.prefix.as_bytes(), b"r:", id.as_bytes()].concat()
    }

    /// What belongs to the store and to no record.
    fn store_key(&self) -> String {
        format!("{}store", self.config.prefix)
    }

    /// What is stored, as the scripts answer it: the time that it has left, and the value if there is one.
    fn record(&self, answer: Value, now: OffsetDateTime) -> Result<Answer, StoreError> {
        let Value::Array(parts) = answer else { return Err(unexpected()) };
        let mut parts = parts.into_iter();
        let Some(Value::Int(left)) = parts.next() else { return Err(unexpected()) };
        Ok(match parts.next() {
            None => Answer::Nothing,
            Some(Value::Int(code)) => Answer::Code(code),
            Some(Value::BulkString(value)) => {
                Answer::Record(value::read(Bytes::from(value), Left { left, now })?)
            }
            Some(_) => return Err(unexpected()),
        })
    }

    async fn mark(&self, name: &[u8], value: &[u8], how: &[u8]) -> Result<(), StoreError> {
        let key = self.store_key();
        let deadline = self.link.deadline();
        match self.link.run_and_wait(&MARK, key.as_bytes(), &[name, value, how], deadline).await? {
            (_, Acknowledged(true)) => Ok(()),
            (_, Acknowledged(false)) => Err(too_few_replicas()),
        }
    }

    /// The check value of the secret, and where the records moved to.
    async fn said(&self) -> Result<(Option<Vec<u8>>, Option<String>), StoreError> {
        let mut command = redis::cmd("HMGET");
        command.arg(self.store_key()).arg("secret").arg("moved");
        redis::from_redis_value(self.link.send(&command).await?).map_err(|_| unexpected())
    }

    /// What the server says of a node's records from a cursor on.
    async fn page_of(
        &self,
        node: Option<&Node>,
        from: &str,
        limit: usize,
    ) -> Result<(String, Vec<RequestId>), StoreError> {
        let mut command = redis::cmd("SCAN");
        let pattern = format!("{}r:*", escaped(&self.config.prefix));
        command.arg(from).arg("MATCH").arg(pattern).arg("COUNT").arg(limit.max(1));
        let answer = self.link.send_to(node, command).await?;
        let (next, keys): (String, Vec<Vec<u8>>) =
            redis::from_redis_value(answer).map_err(|_| unexpected())?;
        let ids = keys.iter().filter_map(|key| Some(RequestId::from_bytes(*key.last_chunk()?))).collect();
        Ok((next, ids))
    }

    /// Those that are there still.
    async fn read_all(&self, ids: Vec<RequestId>) -> Result<Vec<(RequestId, Record)>, StoreError> {
        let now = self.callers.now();
        let reads = ids.into_iter().map(async |id| Ok(self.read(&id, now).await?.map(|record| (id, record))));
        join_all(reads).await.into_iter().filter_map(Result::transpose).collect()
    }

    async fn read(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        let answer = self.link.run(&LOOKUP, &self.key(id), &[b"0"]).await?;
        self.record(answer, now)?.found()
    }

    /// The same with what its replicas have.
    async fn read_for_good(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        let deadline = self.link.deadline();
        let (answer, acknowledged) =
            self.link.run_and_wait(&LOOKUP, &self.key(id), &[b"1"], deadline).await?;
        match self.record(answer, now)?.found()? {
            Some(record) if record.state.is_settled() && acknowledged == Acknowledged(false) => {
                Err(too_few_replicas().not_applied())
            }
            found => Ok(found),
        }
    }

    pub(crate) fn waits(&self) -> &'static [u8] {
        if self.config.durability.replicas > 0 { b"1" } else { b"0" }
    }

    /// Whether the server is what it must be, when it was last looked at.
    pub(crate) fn may_write(&self, now: OffsetDateTime) -> Result<(), StoreError> {
        self.callers.note(now);
        self.inspection.verdict()
    }

    /// Where settled ids are told of.
    pub(crate) fn channel(&self) -> &[u8] {
        &self.channel
    }

    /// Of a call that begins now.
    pub(crate) fn deadline(&self) -> Instant {
        self.link.deadline()
    }

    /// In one step, whatever is there.
    pub(crate) async fn insert_by_script(
        &self,
        claim: &Claim,
        value: &[u8],
        now: OffsetDateTime,
        deadline: Instant,
    ) -> Result<Inserted, StoreError> {
        let (lease, retention) = (number(millis(claim.lease)), number(millis(claim.retention)));
        let takes_over = claim.takes_over;
        let args: [&[u8]; 5] = [
            value,
            &lease,
            &retention,
            takes_over.as_ref().map_or(&[], |owner| &owner.as_bytes()[..]),
            self.waits(),
        ];
        let (answer, acknowledged) =
            self.link.run_and_wait(&INSERT, &self.key(&claim.id), &args, deadline).await?;
        match self.record(answer, now)? {
            Answer::Code(lapses) if acknowledged == Acknowledged(false) => {
                if lapses != 0 && claim.takes_over.is_none() {
                    self.give_back(claim, lapses, deadline).await;
                }
                Err(too_few_replicas())
            }
            Answer::Code(_) => Ok(Inserted::Claimed),
            // What only the primary knows may be gone with it, and must not be replayed.
            Answer::Record(record) if record.state.is_settled() && acknowledged == Acknowledged(false) => {
                Err(too_few_replicas().not_applied())
            }
            Answer::Record(record) => Ok(Inserted::Exists(record.into())),
            Answer::Nothing => Err(unexpected()),
        }
    }

    pub(crate) async fn update_until(
        &self,
        update: &Update,
        deadline: Instant,
    ) -> Result<Updated, StoreError> {
        let args = updates::args(self, update);
        let args = args.each_ref().map(|arg| &**arg);
        match self.link.run_and_wait(&UPDATE, &self.key(&update.id), &args, deadline).await? {
            (_, Acknowledged(false)) => Err(too_few_replicas()),
            (answer, _) => updates::updated(answer),
        }
    }

    /// A claim that too few replicas have is not one: it is given back, unless its owner has extended it meanwhile. A takeover
    /// is not: it would be forgotten that its first caller may have done the work.
    async fn give_back(&self, claim: &Claim, lapses: i64, deadline: Instant) {
        let args: [&[u8]; 6] = [
            claim.owner.as_bytes(),
            b"give_back",
            b"0",
            &self.channel,
            claim.id.as_bytes(),
            &lapses.to_string().into_bytes(),
        ];
        if let Err(error) = self.link.run_until(&UPDATE, &self.key(&claim.id), &args, deadline).await {
            tracing::warn!(%error, "a claim without its replicas stands until its lease lapses");
        }
    }
}

/// What was measured stands in ARCHITECTURE.md.
const BATCHES: usize = 4;

enum Answer {
    Nothing,
    Code(i64),
    Record(Record),
}

impl Answer {
    fn found(self) -> Result<Option<Record>, StoreError> {
        match self {
            Self::Record(record) => Ok(Some(record)),
            Self::Nothing => Ok(None),
            Self::Code(_) => Err(unexpected()),
        }
    }
}

/// Matches nothing but itself.
fn escaped(prefix: &str) -> String {
    prefix.chars().flat_map(|c| r"\*?[]".contains(c).then_some('\\').into_iter().chain([c])).collect()
}

#[async_trait]
impl Store for RedisStore {
    async fn setup(&self, setup: &Setup) -> Result<(), StoreError> {
        self.link.connect().await?;
        setup::verify(&self.link, self.config.durability).await??;
        self.callers.note(setup.now);
        // Also shows that the user may do what the steps do, and wait.
        self.mark(b"secret", setup.secret_check.as_bytes(), b"once").await?;
        let (secret, moved) = self.said().await?;
        if let Some(to) = moved {
            let message = format!("the records moved to {to}");
            return Err(StoreError::new(StoreErrorKind::Moved, message).not_applied());
        }
        if secret.is_none_or(|secret| secret != setup.secret_check.as_bytes()) {
            let message = "the store was set up with another secret";
            return Err(StoreError::new(StoreErrorKind::WrongSecret, message).not_applied());
        }
        if !self.push.is_ready(self.config.call_limit).await {
            match self.push.failure() {
                Some(error) if error.kind() == StoreErrorKind::Misconfigured => return Err(error),
                // Hints that do not come are not missed.
                error => tracing::warn!(?error, "nobody tells of settled ids yet"),
            }
        }
        self.inspection.begin(self.link.clone(), self.config.durability, self.push.is_subscribed());
        Ok(())
    }

    async fn lookup(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        self.callers.note(now);
        match self.read(id, now).await? {
            Some(record) if record.state.is_settled() && self.config.durability.replicas > 0 => {
                self.read_for_good(id, now).await
            }
            found => Ok(found),
        }
    }

    async fn insert(&self, claim: &Claim, now: OffsetDateTime) -> Result<Inserted, StoreError> {
        self.may_write(now)?;
        let deadline = self.link.deadline();
        let (key, value) = (self.key(&claim.id), value::claim(claim));
        if claim.takes_over.is_none()
            && let Some(line) = self.link.alone()
        {
            let mut commands = Pipeline::with_capacity(2);
            at_once::ask(&mut commands, &key, &value, claim);
            let answers = line.send_all(&commands, deadline).await?;
            let answers = answers.try_into().map_err(|_| unexpected())?;
            if let Some(inserted) = at_once::judge(answers, claim, now, line.limit())? {
                return Ok(inserted);
            }
        }
        self.insert_by_script(claim, &value, now, deadline).await
    }

    async fn update(&self, update: &Update, now: OffsetDateTime) -> Result<Updated, StoreError> {
        self.may_write(now)?;
        self.update_until(update, self.link.deadline()).await
    }

    /// The server does it by itself.
    async fn prune(&self, _: OffsetDateTime, _: usize) -> Result<Pruned, StoreError> {
        Ok(Pruned { deleted: 0, more: false })
    }

    /// To a single server in as few requests as their bytes allow.
    async fn apply(
        &self,
        batch: &[StoreCommand],
        now: OffsetDateTime,
    ) -> Vec<Result<StoreReply, StoreError>> {
        match self.link.alone() {
            Some(line) => at_once::apply(self, line, batch, now).await,
            None => join_all(batch.iter().map(|command| command.call(self, now))).await,
        }
    }

    /// Node by node. The cursor says which, where there, and which slots each had when it began.
    async fn scan(&self, cursor: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        let nonsense = || StoreError::new(StoreErrorKind::Invalid, "this is no cursor").not_applied();
        let (mut at, mut from, mut began) = (None, "0".to_owned(), None);
        if let Some(cursor) = cursor {
            let text = std::str::from_utf8(cursor.as_bytes()).map_err(|_| nonsense())?;
            let (text, of_slots) = text.rsplit_once(' ').ok_or_else(nonsense)?;
            began = Some(of_slots.parse::<u64>().map_err(|_| nonsense())?);
            let (node, rest) = text.rsplit_once(' ').ok_or_else(nonsense)?;
            rest.parse::<u64>().map_err(|_| nonsense())?;
            from = rest.to_owned();
            at = match node {
                "" => None,
                node => {
                    let (host, port) = node.rsplit_once(':').ok_or_else(nonsense)?;
                    Some((host.to_owned(), port.parse().map_err(|_| nonsense())?))
                }
            };
        }
        let (primaries, of_slots) = self.link.primaries().await?;
        if began.is_some_and(|began| began != of_slots) {
            // What moved against the direction of the scan would be missed.
            let message = "slots were moved while the cluster was scanned: it is to begin again";
            return Err(StoreError::new(StoreErrorKind::Unavailable, message).not_applied());
        }
        let at: Option<Node> = at.or_else(|| primaries.first().cloned());
        let (next, ids) = self.page_of(at.as_ref(), &from, limit).await?;
        let cursor_at = |node: &Option<Node>, from: &str| {
            let node = node.as_ref().map(|(host, port)| format!("{host}:{port}")).unwrap_or_default();
            Some(Cursor::new(format!("{node} {from} {of_slots}").into_bytes()))
        };
        let next = match next.as_str() {
            "0" => {
                let following = primaries.into_iter().find(|node| Some(node) > at.as_ref() && at.is_some());
                following.and_then(|node| cursor_at(&Some(node), "0"))
            }
            more => cursor_at(&at, more),
        };
        Ok(Page { records: self.read_all(ids).await?, next })
    }

    async fn restore(
        &self,
        id: &RequestId,
        record: &Record,
        now: OffsetDateTime,
    ) -> Result<Restored, StoreError> {
        self.inspection.verdict()?;
        let deadline = self.link.deadline();
        let (value, left) = value::record(record, now);
        let args: [&[u8]; 2] = [&value, &left.to_string().into_bytes()];
        let (answer, acknowledged) = self.link.run_and_wait(&RESTORE, &self.key(id), &args, deadline).await?;
        match self.record(answer, now)? {
            Answer::Code(0) if acknowledged == Acknowledged(false) => Err(too_few_replicas()),
            Answer::Code(0) => Ok(Restored::Restored),
            Answer::Code(1) => Ok(Restored::Expired),
            Answer::Record(record) => Ok(Restored::Exists(record.into())),
            Answer::Code(_) | Answer::Nothing => Err(unexpected()),
        }
    }

    async fn watch(&self, id: &RequestId, now: OffsetDateTime) -> Result<Option<Record>, StoreError> {
        self.link.run(&WATCH, &self.key(id), &[]).await?;
        self.lookup(id, now).await
    }

    fn settled(&self) -> Option<BoxStream<'static, RequestId>> {
        Some(self.push.hints())
    }

    async fn retire(&self, to: &str) -> Result<(), StoreError> {
        self.mark(b"moved", to.as_bytes(), b"anew").await
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.durability = self.config.durability;
        capabilities.shared = true;
        capabilities.native_expiry = true;
        capabilities.scan = true;
        capabilities.restore = true;
        capabilities.push = true;
        // A single server works one call off after the other: none waits for a slow one that would not wait for it anyhow.
        capabilities.batches = if self.link.alone().is_some() { BATCHES } else { 0 };
        capabilities
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.push.stop();
        self.inspection.stop();
        Ok(())
    }
}

fn too_few_replicas() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "too few replicas have acknowledged it in time")
}

pub(crate) fn number(number: u64) -> Vec<u8> {
    number.to_string().into_bytes()
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("config", &self.config).finish_non_exhaustive()
    }
}
