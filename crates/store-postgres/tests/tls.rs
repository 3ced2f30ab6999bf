//! Encrypted connections, with a certificate of one's own.

use std::fs;

use idempotency_core::{Inserted, Store, StoreErrorKind};
use idempotency_store_postgres::PostgresConfig;
use idempotency_store_testkit::servers::Postgres;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::support::*;

/// A certificate for this machine and its key, and the one above it.
fn certify() -> (String, String, String) {
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut root = CertificateParams::new(Vec::new()).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = root.self_signed(&root_key).unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let server = CertificateParams::new(names).unwrap();
    let server = server.signed_by(&key, &Issuer::new(root, root_key)).unwrap();
    (server.pem(), key.serialize_pem(), certificate.pem())
}

#[test]
fn a_server_with_a_certificate_that_is_trusted_is_used_and_no_other() {
    run(async {
        let (certificate, key, root) = certify();
        let mut postgres = Postgres::start(&[]);
        // Written by the server itself, so that it may read them.
        for (name, text) in [("server.crt", &certificate), ("server.key", &key)] {
            let path = postgres.data().join(name);
            fs::write(&path, text).unwrap();
            postgres.give_away(&path);
        }
        postgres.sql("ALTER SYSTEM SET ssl = on");
        tokio::task::block_in_place(|| postgres.restart());
        let url = format!("postgres://payments@localhost:{}/postgres?sslmode=require", postgres.port());
        let config = PostgresConfig::new(url);
        let store = set_up(config.clone().root_certificate(root)).await.unwrap();
        assert_eq!(store.insert(&claim(1), now()).await.unwrap(), Inserted::Claimed);
        let encrypted = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND application_name = 'idempotency'";
        assert_ne!(postgres.sql(encrypted), "0");
        let (_, _, other) = certify();
        for stranger in [config.clone(), config.root_certificate(other)] {
            let error = set_up(stranger).await.unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error:?}");
        }
    });
}
