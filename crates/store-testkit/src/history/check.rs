//! The checker. Linear in the number of calls but for sorting: every claim has an owner of its own, so that an answer says
//! of which claim it speaks, and all that is left open is *when* a claim began, was settled and ended.
//!
//! Each of those is a moment that must lie after the latest of some instants and before the earliest of others. The
//! moments of an id form one chain, since one claim ends before the next begins; so the earliest choice of each is the
//! best one. An answer "nothing is there" needs a gap between two claims. `order.rs` finds the chain.

use std::{collections::HashMap, error::Error, fmt};

use idempotency_core::{Owner, RequestId};

use super::{
    Answer, Call, Operation, Stage, Summary,
    life::{End, FOREVER, Life},
    order,
};

/// What is wrong with a history.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// Which promise was broken: `I1` to `I8`.
    pub promise: &'static str,
    /// Of which request.
    pub id: RequestId,
    /// By whom and how.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {:?}: {}", self.promise, self.id, self.message)
    }
}

impl Error for Violation {}

/// A promise and how it was broken.
pub(crate) type Broken = (&'static str, String);

/// Whether there is an order of all calls, each between its beginning and its end, in which every answer is right.
///
/// The calls may be in any order. The checker is never too strict for histories in which
///
/// * an owner is claimed once, however often the call is repeated: not anew after its record expired, and not by a late
///   copy of an insert that lands after its release;
/// * what ends a claim began after some answer had told of that claim;
/// * renewals are as durable as all else. Where a crash may cost the last of them, note them as unanswered.
///
/// It is more lenient than a store may be in these: a refused update says only that the claim does not stand any more, a
/// refused `Forget` says nothing, that a claim has lapsed is a right to take it over, never a duty, and a claim that no
/// answer tells of may have come and gone.
///
/// It goes through the claims of an id in the likeliest order. Where their windows overlap it tries others, a bounded number
/// of them: a right history of very many claims at the same moment could be judged wrong.
///
/// # Errors
///
/// The first promise that was found broken.
pub fn check(calls: &[Call]) -> Result<Summary, Violation> {
    let mut by_id: HashMap<RequestId, Vec<&Call>> = HashMap::new();
    for call in calls {
        by_id.entry(call.id).or_default().push(call);
    }
    let unanswered = calls.iter().filter(|call| call.ended.is_none()).count();
    let mut summary = Summary { calls: calls.len(), ids: by_id.len(), claims: 0, unanswered };
    for (id, calls) in by_id {
        let claims = check_one(&calls).map_err(|(promise, message)| Violation { promise, id, message })?;
        summary.claims += claims;
    }
    Ok(summary)
}

/// All calls of one id; returns how many claims came to life.
fn check_one(calls: &[&Call]) -> Result<usize, Broken> {
    let mut owners: HashMap<Owner, Life> = HashMap::new();
    let mut empty = Vec::new();
    // Whoever judges one call must have heard of those that began before it.
    let mut calls = calls.to_vec();
    calls.sort_unstable_by_key(|call| call.began);
    for call in &calls {
        note(call, &mut owners, &mut empty)?;
    }
    owners.values().try_for_each(Life::check_work)?;
    let (lives, unseen): (Vec<Life>, Vec<Life>) = owners.into_values().partition(Life::has_lived);
    lives.iter().try_for_each(Life::check_expiry)?;
    let count = lives.len();
    order::find(lives, &unseen, &empty)?;
    Ok(count)
}

/// What one call tells of whom.
fn note(call: &Call, owners: &mut HashMap<Owner, Life>, empty: &mut Vec<(u64, u64)>) -> Result<(), Broken> {
    let (began, ended) = (call.began, call.ended.map_or(FOREVER, |(ended, _)| ended));
    let answer = call.ended.map(|(_, answer)| answer);
    if let Some(Answer::Exists { owner, payload, stage }) = answer {
        let life = owners.entry(owner).or_insert_with(|| Life::new(owner));
        if stage == Stage::Processing {
            life.in_time(began)?;
        }
        life.seen(payload, stage, began, ended)?;
    }
    let Some(owner) = call.operation.owner() else {
        if answer == Some(Answer::Nothing) {
            empty.push((began, ended));
        }
        return Ok(());
    };
    let life = owners.entry(owner).or_insert_with(|| Life::new(owner));
    match call.operation {
        Operation::Insert { payload, takes_over, lease, retention, .. } => {
            life.inserted(payload, takes_over, began, answer.is_none_or(|answer| answer == Answer::Claimed))?;
            match answer {
                Some(Answer::Claimed) => {
                    life.start.before = life.start.before.min(ended);
                    life.sign(began, Some(ended), lease, retention);
                    life.seen(payload, Stage::Processing, began, ended)?;
                }
                None => life.sign(began, None, lease, retention),
                Some(Answer::Exists { owner: other, stage: Stage::Processing, .. }) if other == owner => {
                    return Err(("I1", format!("{owner:?} heard of its own claim as somebody else's")));
                }
                Some(Answer::Exists { owner: other, payload: its, stage: Stage::Halted })
                    if takes_over == Some(other) && its == payload =>
                {
                    return Err(("I8", format!("{owner:?} was not given what {other:?} had halted")));
                }
                Some(_) => {}
            }
        }
        Operation::Renew { lease, retention, .. } => match answer {
            Some(Answer::Applied) => {
                life.in_time(began)?;
                life.sign(began, Some(ended), lease, retention);
                life.processing(began, ended);
            }
            Some(_) => life.refused.push((began, ended)),
            None => life.sign(began, None, lease, retention),
        },
        Operation::Complete { response, retention, .. } => {
            life.completes.asked(response, began, answer, retention);
            match answer {
                Some(Answer::Applied) => {
                    life.in_time(began)?;
                    life.applied(Stage::Completed(response), began, ended)?;
                }
                Some(Answer::AlreadyApplied) => life.observed(Stage::Completed(response), began, ended)?,
                Some(_) => life.refused.push((began, ended)),
                None => {}
            }
        }
        Operation::Halt { at_shutdown, retention, .. } => {
            life.halts.asked(u64::from(at_shutdown), began, answer, retention);
            match answer {
                Some(Answer::Applied) => {
                    life.in_time(began)?;
                    life.applied(Stage::Halted, began, ended)?;
                }
                Some(Answer::AlreadyApplied) => life.observed(Stage::Halted, began, ended)?,
                Some(_) => life.refused.push((began, ended)),
                None => {}
            }
        }
        Operation::Release { .. } => match answer {
            Some(Answer::Applied) => {
                life.processing(began, ended);
                life.ended(End::Released, began, Some(ended))?;
            }
            None => life.ended(End::Released, began, None)?,
            Some(_) => life.refused.push((began, ended)),
        },
        Operation::Forget { .. } => match answer {
            Some(Answer::Applied) => life.ended(End::Forgotten, began, Some(ended))?,
            None => life.ended(End::Forgotten, began, None)?,
            Some(_) => {}
        },
        Operation::Lookup => {}
        Operation::Work { .. } => life.works(began)?,
    }
    Ok(())
}
