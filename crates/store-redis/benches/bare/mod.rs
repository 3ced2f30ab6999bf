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

    /// A claim and a put.
    pub(crate) async fn cycle(&self, number: u64) {
        const LEASE: &str = "15000000";
        const RETENTION: &str = "86400000000";
        let mut connection = self.connection.clone();
        let (key, owner) =
            ([&b"bare:"[..], id(number).as_bytes()].concat(), u128::from(number).to_be_bytes());
        let mut insert = redis::cmd("EVALSHA");
        insert.arg(&self.insert).arg(1).arg(&key).arg(&owner[..]).arg(&[0u8; 33][..]);
        insert.arg(LEASE).arg(RETENTION).arg("").arg("");
        let _: redis::Value = insert.query_async(&mut connection).await.expect("a claim");
        let mut update = redis::cmd("EVALSHA");
        update
            .arg(&self.update)
            .arg(1)
            .arg(&key)
            .arg(&owner[..])
            .arg("complete")
            .arg(RETENTION)
            .arg("bare:settled");
        update.arg(id(number).as_bytes()).arg("1").arg(&[0u8; 32][..]).arg(&self.body);
        let answer: i64 = update.query_async(&mut connection).await.expect("a put");
        assert_eq!(answer, 1);
    }
}

pub(crate) fn id(number: u64) -> RequestId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    RequestId::from_bytes(bytes)
}
