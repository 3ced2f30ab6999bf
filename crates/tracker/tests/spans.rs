//! What somebody sees who follows one request.

use std::{
    io,
    sync::{Arc, Mutex},
};

use idempotency_tracker::Tracked;
use tracing::Instrument;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::support::*;

/// Whatever is written to it.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_spans_of_a_request_lead_from_its_caller_through_the_tracker_to_the_store() {
    let written = Written::default();
    let writer = written.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_span_events(FmtSpan::CLOSE)
        .with_ansi(false)
        .without_time()
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        virtual_time(async {
            let tracker = spawn(FaultyStore::new()).await;
            let first = async {
                let permit = init(&tracker, id(1)).await;
                permit.complete("done").await.unwrap();
            };
            first.instrument(tracing::info_span!("first")).await;
            let retry = async {
                let answer = tracker.track((id(1), payload())).await;
                assert!(matches!(answer, Ok(Tracked::Cached { .. })));
            };
            retry.instrument(tracing::info_span!("retry")).await;
        });
    });
    let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    let path = |line: &str| Some(line.trim_start().strip_suffix(": close")?.rsplit_once(": ")?.0.to_owned());
    let closed: Vec<String> = text.lines().filter_map(path).collect();
    let short = id(1);
    let expected = [
        &format!(r#"DEBUG first:track{{id={short}}}:store{{operation="insert" outcome="claimed"}}"#),
        &format!(r#"DEBUG first:track{{id={short} outcome="init"}}"#),
        &format!(
            r#"DEBUG first:settle{{id={short} change="complete"}}:store{{operation="complete" outcome="applied"}}"#
        ),
        &format!(r#"DEBUG first:settle{{id={short} change="complete"}}"#),
        "INFO first",
        &format!(r#"DEBUG retry:track{{id={short}}}:store{{operation="insert" outcome="exists"}}"#),
        &format!(r#"DEBUG retry:track{{id={short} outcome="cached"}}"#),
        "INFO retry",
    ];
    assert_eq!(closed, expected, "{text}");
}
