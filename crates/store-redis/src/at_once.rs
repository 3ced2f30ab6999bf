//! What goes to a single server in one request: claims in commands of its own, which take it a quarter of the time of a script,
//! and the steps of a whole batch behind each other, which takes the client less than a request for each.

use bytes::Bytes;
use futures_util::future::{join, join_all};
use idempotency_core::{Claim, Inserted, StoreCommand, StoreError, StoreReply};
use redis::{Pipeline, RedisResult, Value};
use time::{Duration, OffsetDateTime};
use tokio::time::Instant;

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
    let lasts = (millis(claim.lease) + millis(claim.retention)).max(1);
    commands.cmd("SET").arg(key).arg(value).arg("NX").arg("GET").arg("PX").arg(lasts);
    commands.cmd("PTTL").arg(key);
}

/// What the answer means, which has taken so long at most. `None`: that can only be judged in one step, by the script.
pub(crate) fn judge(
    [was, left]: [RedisResult<Value>; 2],
    claim: &Claim,
    now: OffsetDateTime,
    took: Duration,
) -> Result<Option<Inserted>, StoreError> {
    let was = match was.map_err(store_error) {
        // The script reads what is there all the same.
        Err(error) if is_no_write_taken(&error) => return Ok(None),
        Ok(Value::Nil) => return Ok(Some(Inserted::Claimed)),
        Ok(Value::BulkString(was)) => Bytes::from(was),
        Ok(_) => return Err(unexpected()),
        Err(error) => return Err(error),
    };
    // What whoever waits for replicas leaves for a moment is empty.
    let Ok(Value::Int(left)) = left else { return Ok(None) };
    if was.is_empty() || left == GONE || value::is_of_another(&was, left) {
        return Ok(None);
    }
    let record = value::read(was, Left { left, now })?;
    // One's own is claimed again. And what ran may have been settled between the two, and lasts for another time: that it has
    // lapsed is not believed, nor that it will have by the time at which it is judged.
    let runs_elsewhere = record.owner != claim.owner && !record.is_lapsed(now.saturating_add(took));
    Ok((record.state.is_settled() || runs_elsewhere).then_some(Inserted::Exists(record.into())))
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
    let deadline = store.deadline();
    let together = join_all(requests.into_iter().map(|request| request.send(line, batch, now, deadline)));
    let call = async |number: usize| (number, batch[number].call(store, now).await);
    let (together, apart) = join(together, join_all(alone.into_iter().map(call))).await;
    let answered = together.into_iter().flatten().map(async |(number, answer)| {
        let answer = match (answer, &batch[number]) {
            (Err(error), _) => Err(error),
            (Ok(Some(reply)), _) => Ok(reply),
            (Ok(None), StoreCommand::Insert(claim)) => {
                let inserted = store.insert_by_script(claim, &value::claim(claim), now, deadline).await;
                inserted.map(StoreReply::Inserted)
            }
            (Ok(None), StoreCommand::Update(update)) => {
                store.update_until(update, deadline).await.map(StoreReply::Updated)
            }
            (Ok(None), command) => command.call(store, now).await,
        };
        (number, answer)
    });
    let mut answers = join_all(answered).await;
    answers.extend(apart);
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
        line: &Line,
        batch: &[StoreCommand],
        now: OffsetDateTime,
        deadline: Instant,
    ) -> Vec<(usize, Result<Option<StoreReply>, StoreError>)> {
        if self.asked.is_empty() {
            return Vec::new();
        }
        let mut answers = match line.send_all(&self.commands, deadline).await {
            Ok(answers) => answers.into_iter(),
            Err(error) => return self.asked.into_iter().map(|number| (number, Err(error.clone()))).collect(),
        };
        let answered = |number: usize| (number, read(&batch[number], &mut answers, now, line.limit()));
        self.asked.into_iter().map(answered).collect()
    }
}

/// What a command of a request was answered.
fn read(
    command: &StoreCommand,
    answers: &mut impl Iterator<Item = RedisResult<Value>>,
    now: OffsetDateTime,
    took: Duration,
) -> Result<Option<StoreReply>, StoreError> {
    let answer = answers.next().ok_or_else(unexpected)?;
    if let StoreCommand::Insert(claim) = command {
        let left = answers.next().ok_or_else(unexpected)?;
        return Ok(judge([answer, left], claim, now, took)?.map(StoreReply::Inserted));
    }
    match answer.map_err(store_error) {
        Err(error) if is_unknown_script(&error) => Ok(None),
        answer => updated(answer?).map(|updated| Some(StoreReply::Updated(updated))),
    }
}

#[cfg(test)]
mod tests {
    use idempotency_core::{
        Change, Fingerprint, Owner, Record, RequestId, State, StoreErrorKind, Update, Write,
    };
    use redis::{ErrorKind, ServerErrorKind};

    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
    const TOOK: Duration = Duration::seconds(1);

    fn claim(owner: u128) -> Claim {
        let mut claim = Claim::new(
            RequestId::from_bytes([1; 32]),
            Owner::from_u128(owner),
            Fingerprint::derive(None, []),
        );
        (claim.lease, claim.retention) =
            (Duration::seconds(30).unsigned_abs(), Duration::seconds(600).unsigned_abs());
        claim
    }

    fn judged(was: Vec<u8>, left: RedisResult<Value>) -> Result<Option<Inserted>, StoreError> {
        judge([Ok(Value::BulkString(was)), left], &claim(9), NOW, TOOK)
    }

    fn running(claim: &Claim) -> Record {
        let Write::Put(record) = Record::on_insert(None, claim, NOW).write else { panic!("free") };
        record
    }

    fn completed() -> Vec<u8> {
        let change = Change::Complete { response: "done".into(), retention: claim(1).retention };
        let update = Update::new(claim(1).id, claim(1).owner, change);
        let Write::Put(record) = Record::on_update(Some(&running(&claim(1))), &update, NOW).write else {
            panic!("running")
        };
        value::record(&record, NOW).0
    }

    fn replica() -> RedisResult<Value> {
        Err((ErrorKind::Server(ServerErrorKind::MasterDown), "a replica by now").into())
    }

    /// Another's command may have come in between the value and the time that it has left.
    #[test]
    fn only_what_is_certain_is_judged_without_the_script() {
        let running = value::claim(&claim(1));
        // Leases lapse 600 s before the expiry.
        for (left, is_judged) in [
            (629_000, true),
            (602_000, true),
            // Settled meanwhile, as long as the claim said or for another time; or about to lapse.
            (600_500, false),
            (600_000, false),
            (60_000, false),
            // Claimed anew, for longer.
            (700_000, false),
            (GONE, false),
        ] {
            let judged = judged(running.clone(), Ok(Value::Int(left))).unwrap();
            assert_eq!(judged.is_some(), is_judged, "{left}");
        }
        let Some(Inserted::Exists(record)) = judged(running, Ok(Value::Int(629_999))).unwrap() else {
            panic!()
        };
        assert_eq!((record.claimed_at, record.expires_at), (NOW, NOW + Duration::seconds(630)));

        let Some(Inserted::Exists(record)) = judged(completed(), Ok(Value::Int(599_999))).unwrap() else {
            panic!()
        };
        assert!(record.state.is_settled());
        assert_eq!(record.expires_at, NOW + Duration::seconds(600));
        // Of a claim that came after it.
        assert_eq!(judged(completed(), Ok(Value::Int(630_000))).unwrap(), None);
        // One's own is to be claimed again, and a claim is one whatever became of the server after it.
        assert_eq!(judged(value::claim(&claim(9)), Ok(Value::Int(629_000))).unwrap(), None);
        assert_eq!(
            judge([Ok(Value::Nil), replica()], &claim(9), NOW, TOOK).unwrap(),
            Some(Inserted::Claimed)
        );
        assert_eq!(judged(completed(), replica()).unwrap(), None);
        let error = judged(completed(), Ok(Value::Int(-1))).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Corrupt);
    }

    #[test]
    fn a_record_is_written_with_the_times_that_it_has_left() {
        const HUNDRED_YEARS: Duration = Duration::weeks(5218);
        let running = |lease: Duration, retention: Duration| {
            let mut claim = claim(1);
            (claim.lease, claim.retention) = (lease.unsigned_abs(), retention.unsigned_abs());
            running(&claim)
        };
        let ms = Duration::milliseconds;
        for (record, passed) in [
            (running(ms(30_000), ms(600_000)), ms(10_000)),
            (running(ms(30_000), ms(600_000)), Duration::microseconds(10_500)),
            // A lease that has lapsed.
            (running(ms(30_000), ms(600_000)), ms(40_000)),
            // A claim that lasts for longer than anything is counted.
            (running(ms(30_000), HUNDRED_YEARS * 2), ms(10_000)),
        ] {
            let now = NOW + passed;
            let (value, left) = value::record(&record, now);
            // As it is read when its last millisecond has begun.
            let read = value::read(value.into(), Left { left: left - 1, now }).unwrap();
            let (State::Processing { lease_until: is }, State::Processing { lease_until: was }) =
                (read.state, record.state)
            else {
                panic!("running")
            };
            assert!((ms(0)..=ms(1)).contains(&(is - was)), "{is} {was}");
            assert!((ms(-1)..=ms(1)).contains(&(read.claimed_at - record.claimed_at)), "{}", read.claimed_at);
        }
        let expired = running(ms(1), ms(1));
        assert!(value::record(&expired, NOW + ms(3)).1 < 0);
        assert_eq!(value::record(&expired, NOW + ms(2)).1, 0);
    }
}
