//! The bare client, also for the benchmarks beside peers, which include this file.

use idempotency_core::RequestId;
use idempotency_store_testkit::servers::Redis;
use redis::{IntoConnectionInfo, aio::ConnectionManager, io::tcp::TcpSettings};

/// The client by itself, with arguments that are ready.
pub(crate) struct Bare {
    connection: ConnectionManager,
    insert: String,
    update: String,
    body: Vec<u8>,
}

impl Bare {
    /// Responses have so many bytes.
    pub(crate) async fn open(redis: &Redis, len: usize) -> Self {
        // Without it the client would wait for a call to fill its packet.
        let settings = TcpSettings::default().set_nodelay(true);
        let server = redis.url().into_connection_info().expect("an address").set_tcp_settings(settings);
        let client = redis::Client::open(server).expect("a client");
        let mut connection = client.get_connection_manager().await.expect("a server");
        let common = include_str!("../../src/scripts/common.lua");
        let insert = format!("{common}\n{}", include_str!("../../src/scripts/insert.lua"));
        let update =
            format!("#!lua flags=allow-oom\n{common}\n{}", include_str!("../../src/scripts/update.lua"));
        let mut hashes = Vec::new();
        for script in [insert, update] {
            let loaded = redis::cmd("SCRIPT").arg("LOAD").arg(script).query_async(&mut connection).await;
            hashes.push(loaded.expect("a script"));
        }
        let (update, insert) = (hashes.pop().expect("two"), hashes.pop().expect("two"));
        Self { connection, insert, update, body: vec![7; len] }
    }

    /// A claim and a put. The claim by a script, or by what takes the server a quarter of that.
    pub(crate) async fn cycle(&self, number: u64, by_script: bool) {
        let (mut connection, key) = (self.connection.clone(), key(number));
        let value = &value(number)[..];
        if by_script {
            let mut insert = redis::cmd("EVALSHA");
            insert.arg(&self.insert).arg(1).arg(&key).arg(value).arg(LEASE).arg(RETENTION).arg("");
            let _: redis::Value = insert.query_async(&mut connection).await.expect("a claim");
        } else {
            let mut claim = redis::pipe();
            claim.cmd("SET").arg(&key).arg(value).arg("NX").arg("GET").arg("PX").arg(LEASE + RETENTION);
            claim.cmd("PTTL").arg(&key);
            let _: redis::Value = claim.query_async(&mut connection).await.expect("a claim");
        }
        let mut update = redis::cmd("EVALSHA");
        update.arg(&self.update).arg(1).arg(key).arg(&owner(number)[..]).arg("complete").arg(RETENTION);
        update.arg("bare:settled").arg(id(number).as_bytes()).arg("1").arg(&[0u8; 32][..]).arg(&self.body);
        let answer: i64 = update.query_async(&mut connection).await.expect("a put");
        assert_eq!(answer, 1);
    }
}

/// Milliseconds.
const LEASE: u64 = 15_000;
const RETENTION: u64 = 86_400_000;

fn key(number: u64) -> Vec<u8> {
    [&b"bare:"[..], id(number).as_bytes()].concat()
}

fn owner(number: u64) -> [u8; 16] {
    u128::from(number).to_be_bytes()
}

/// What `src/value.rs` says, with a fingerprint of zeros.
fn value(number: u64) -> [u8; 104] {
    let mut value = [0; 104];
    value[0] = 1;
    value[3..19].copy_from_slice(&owner(number));
    value[52..60].copy_from_slice(&(LEASE + RETENTION).to_le_bytes());
    value[60..68].copy_from_slice(&RETENTION.to_le_bytes());
    value[100] = 104;
    value
}

pub(crate) fn id(number: u64) -> RequestId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    RequestId::from_bytes(bytes)
}
