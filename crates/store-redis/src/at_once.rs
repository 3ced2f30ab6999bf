//! What goes to a single server in one request: claims in commands of its own, which take it a quarter of the time of a script,
//! and the steps of a whole batch behind each other, which takes the client less than a request for each.

use bytes::Bytes;
use futures_util::future::{join, join_all};
use idempotency_core::{Claim, Inserted, StoreCommand, StoreError, StoreReply};
use redis::{Pipeline, RedisResult, Value};
use time::OffsetDateTime;

use crate::{
    RedisStore,
    error::{is_no_write_taken, is_unknown_script, store_error, unexpected},
    line::Line,
    link::of_hash,
    scripts::{UPDATE, millis},
    updates::{self, updated},
    value::{self, Left},
};

/// How many bytes go in one request: what is behind a large body is not to wait for it.
const MOST_BYTES: usize = 256 * 1024;

/// What `PTTL` says of a key that is not there.
const GONE: i64 = -2;

/// Asks for what is free, or what is there and how long it lasts. Another's command may come in between the two.
pub(crate) fn ask(commands: &mut Pipeline, key: &[u8], value: &[u8], claim: &Claim) {
    let lasts = millis(claim.lease) + millis(claim.retention);
    commands.cmd("SET").arg(key).arg(value).arg("NX").arg("GET").arg("PX").arg(lasts);
    commands.cmd("PTTL").arg(key);
}

/// What the answer means. `None`: that can only be judged in one step, by the script.
pub(crate) fn judge(
    [was, left]: [RedisResult<Value>; 2],
    claim: &Claim,
    now: OffsetDateTime,
) -> Result<Option<Inserted>, StoreError> {
    let (was, left) = match (was.map_err(store_error), left.map_err(store_error)?) {
        // The script reads what is there all the same.
        (Err(error), _) if is_no_write_taken(&error) => return Ok(None),
        (was, Value::Int(left)) => (was?, left),
        _ => return Err(unexpected()),
    };
    match was {
        Value::Nil => Ok(Some(Inserted::Claimed)),
        // It went between the two, or is what whoever waits for replicas leaves for a moment.
        Value::BulkString(was) if was.is_empty() || left == GONE => Ok(None),
        Value::BulkString(was) => {
            let record = value::read(Bytes::from(was), Left { left, now })?;
            // One's own is claimed again. And what ran may have been settled between the two, and lasts for another time: that
            // it has lapsed is not believed.
            let runs_elsewhere = record.owner != claim.owner && !record.is_lapsed(now);
            Ok((record.state.is_settled() || runs_elsewhere).then_some(Inserted::Exists(record)))
        }
        _ => Err(unexpected()),
    }
}

/// Each command is answered by itself.
pub(crate) async fn apply(
    store: &RedisStore,
    line: &Line,
    batch: &[StoreCommand],
    now: OffsetDateTime,
) -> Vec<Result<StoreReply, StoreError>> {
    // Who may not write at present says so to each.
    let may_write = store.may_write(now).is_ok();
    let (mut requests, mut alone) = (vec![Request::default()], Vec::new());
    for (number, command) in batch.iter().enumerate() {
        if requests.last().is_none_or(|last| last.bytes >= MOST_BYTES) {
            requests.push(Request::default());
        }
        let request = requests.last_mut().filter(|_| may_write);
        if !request.is_some_and(|request| request.add(store, number, command)) {
            alone.push(number);
        }
    }
    let together = join_all(requests.into_iter().map(|request| request.send(store, line, batch, now)));
    let call = |number: usize| async move { (number, batch[number].call(store, now).await) };
    let (together, apart) = join(together, join_all(alone.into_iter().map(call))).await;
    let (answered, left): (Vec<_>, Vec<_>) = together
        .into_iter()
        .flatten()
        .map(|(number, answer)| (number, answer.transpose()))
        .partition(|(_, answer)| answer.is_some());
    let again = join_all(left.into_iter().map(|(number, _)| call(number))).await;
    let answered = answered.into_iter().filter_map(|(number, answer)| Some((number, answer?)));
    let mut answers: Vec<_> = answered.chain(apart).chain(again).collect();
    answers.sort_unstable_by_key(|(number, _)| *number);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// Commands behind each other, and which of a batch they are.
#[derive(Default)]
struct Request {
    commands: Pipeline,
    asked: Vec<usize>,
    bytes: usize,
}

impl Request {
    /// Whether it is one that goes with others.
    fn add(&mut self, store: &RedisStore, number: usize, command: &StoreCommand) -> bool {
        match command {
            StoreCommand::Insert(claim) if claim.takes_over.is_none() => {
                let value = value::claim(claim);
                self.bytes += value.len();
                ask(&mut self.commands, &store.key(&claim.id), &value, claim);
            }
            StoreCommand::Update(update) => {
                let args = updates::args(store, update);
                let args = args.each_ref().map(|arg| &**arg);
                self.bytes += args.iter().map(|arg| arg.len()).sum::<usize>();
                self.commands.add_command(of_hash(&UPDATE, &store.key(&update.id), &args));
            }
            _ => return false,
        }
        self.asked.push(number);
        true
    }

    /// `None` of what is to be asked once more, alone.
    async fn send(
        self,
        store: &RedisStore,
        line: &Line,
        batch: &[StoreCommand],
        now: OffsetDateTime,
    ) -> Vec<(usize, Result<Option<StoreReply>, StoreError>)> {
        if self.asked.is_empty() {
            return Vec::new();
        }
        let mut answers = match line.send_all(&self.commands, store.deadline()).await {
            Ok(answers) => answers.into_iter(),
            Err(error) => return self.asked.into_iter().map(|number| (number, Err(error.clone()))).collect(),
        };
        let answered = |number: usize| (number, read(&batch[number], &mut answers, now));
        self.asked.into_iter().map(answered).collect()
    }
}

/// What a command of a request was answered.
fn read(
    command: &StoreCommand,
    answers: &mut impl Iterator<Item = RedisResult<Value>>,
    now: OffsetDateTime,
) -> Result<Option<StoreReply>, StoreError> {
    let answer = answers.next().ok_or_else(unexpected)?;
    if let StoreCommand::Insert(claim) = command {
        let left = answers.next().ok_or_else(unexpected)?;
        return Ok(judge([answer, left], claim, now)?.map(StoreReply::Inserted));
    }
    match answer.map_err(store_error) {
        Err(error) if is_unknown_script(&error) => Ok(None),
        answer => updated(answer?).map(|updated| Some(StoreReply::Updated(updated))),
    }
}
