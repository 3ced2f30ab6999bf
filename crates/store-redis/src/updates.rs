//! What the script of an update gets, and what it says.

use std::{borrow::Cow, time::Duration};

use idempotency_core::{Change, StoreError, Update, Updated};
use redis::Value;

use crate::{
    RedisStore,
    error::unexpected,
    scripts::{code_of, millis},
    store::number,
    value,
};

pub(crate) fn args<'a>(store: &'a RedisStore, update: &'a Update) -> [Cow<'a, [u8]>; 9] {
    // What it is beside the retention: a lease, or what it became.
    let (retention, number_of, digest, body) = match &update.change {
        Change::Renew { lease, retention } => (*retention, millis(*lease), None, &[][..]),
        Change::Complete { response, retention } => {
            let (code, body) = value::response(response);
            (*retention, code.into(), Some(response.digest()), body)
        }
        Change::Halt { reason, retention } => (*retention, code_of(*reason).into(), None, &[][..]),
        _ => (Duration::ZERO, 0, None, &[][..]),
    };
    [
        update.owner.as_bytes().into(),
        update.change.name().as_bytes().into(),
        number(millis(retention)).into(),
        store.channel().into(),
        update.id.as_bytes().into(),
        number(number_of).into(),
        digest.map_or(Cow::Borrowed(&[]), |digest| digest.as_bytes().to_vec().into()),
        body.into(),
        store.waits().into(),
    ]
}

pub(crate) fn updated(answer: Value) -> Result<Updated, StoreError> {
    match answer {
        Value::Int(0) => Ok(Updated::NotFound),
        Value::Int(1) => Ok(Updated::Applied),
        Value::Int(2) => Ok(Updated::AlreadyApplied),
        Value::Int(3) => Ok(Updated::Fenced),
        _ => Err(unexpected()),
    }
}
