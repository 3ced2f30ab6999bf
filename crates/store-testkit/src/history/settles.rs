//! The calls that settled a claim in one way, or may have.

use std::time::Duration;

use super::{
    Answer,
    life::{FOREVER, nanos},
};

#[derive(Debug, Default)]
pub(crate) struct Settles(Vec<Settle>);

#[derive(Debug)]
struct Settle {
    /// Tells it from others of its kind.
    number: u64,
    began: u64,
    retention: u64,
    was_applied: bool,
}

impl Settles {
    pub(crate) fn asked(&mut self, number: u64, began: u64, answer: Option<Answer>, retention: Duration) {
        if matches!(answer, None | Some(Answer::Applied)) {
            let (retention, was_applied) = (nanos(retention), answer.is_some());
            self.0.push(Settle { number, began, retention, was_applied });
        }
    }

    /// When the first of those with this number began, or the first of all.
    pub(crate) fn first(&self, number: Option<u64>) -> Option<u64> {
        let those = self.0.iter().filter(|settle| number.is_none_or(|number| settle.number == number));
        those.map(|settle| settle.began).min()
    }

    /// What was settled so expires no earlier.
    pub(crate) fn expires_after(&self) -> u64 {
        let until = |settle: &Settle| settle.began.saturating_add(settle.retention);
        let applied = self.0.iter().find(|settle| settle.was_applied).map(until);
        applied.or_else(|| self.0.iter().map(until).min()).unwrap_or(FOREVER)
    }

    pub(crate) fn longest(&self) -> u64 {
        self.0.iter().map(|settle| settle.retention).max().unwrap_or(FOREVER)
    }
}
