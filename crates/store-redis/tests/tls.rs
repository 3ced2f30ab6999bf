//! `rediss://`, with a certificate of one's own.

use std::{fs, net::TcpListener, path::Path};

use idempotency_core::{Inserted, Store, StoreErrorKind, Updated};
use idempotency_store_redis::RedisConfig;
use idempotency_store_testkit::servers::Redis;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::support::*;

/// Writes a certificate for this machine and its key; returns the one above it.
fn certify(folder: &Path) -> String {
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut root = CertificateParams::new(Vec::new()).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = root.self_signed(&root_key).unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let issuer = Issuer::new(root, root_key);
    let server = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    fs::write(folder.join("server.pem"), server.pem()).unwrap();
    fs::write(folder.join("server.key"), key.serialize_pem()).unwrap();
    fs::write(folder.join("root.pem"), certificate.pem()).unwrap();
    certificate.pem()
}

#[test]
fn a_server_with_a_certificate_that_is_trusted_is_used_and_no_other() {
    run(async {
        let folder = std::env::temp_dir().join(format!("idempotency-tls-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let root = certify(&folder);
        let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let _redis = Redis::start(&[
            "--tls-port",
            &port,
            "--tls-cert-file",
            &path("server.pem"),
            "--tls-key-file",
            &path("server.key"),
            "--tls-ca-cert-file",
            &path("root.pem"),
            "--tls-auth-clients",
            "no",
        ]);
        let config = RedisConfig::new(format!("rediss://localhost:{port}"));
        let store = set_up(config.clone().root_certificate(root)).await.unwrap();
        assert_eq!(store.insert(&claim(1), now()).await.unwrap(), Inserted::Claimed);
        assert_eq!(store.update(&complete(1, "done"), now()).await.unwrap(), Updated::Applied);
        // Nobody whom this system trusts has signed it, nor has another root.
        for stranger in [config.clone(), config.root_certificate(certify(&folder))] {
            let error = set_up(stranger).await.unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error:?}");
        }
        fs::remove_dir_all(&folder).unwrap();
    });
}
