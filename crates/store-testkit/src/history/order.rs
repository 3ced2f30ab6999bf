//! Puts the claims of an id one after the other.
//!
//! Mostly there is one way to do it: who must have been there earlier was there earlier. Where windows overlap or a claim
//! can have ended in two ways the likelier one is tried first, and the other one if that does not work out.

use super::{
    check::Broken,
    life::{Ended, FOREVER, Life},
};

/// How many claims are looked at for the next one: more than this are hardly begun at the same time.
const CANDIDATES: usize = 8;

/// How many steps are tried for each claim, and in any case. A history that is wrong would be tried in every order.
const STEPS: usize = 16;
const FIRST_STEPS: usize = 4096;

/// A claim to be placed behind those before it; `None`: all of them are.
struct Step {
    placed: usize,
    life: Option<usize>,
    /// The earliest moment at which it can begin, and whether nothing is there until then.
    free_from: u64,
    is_gap: bool,
}

/// Whether there is an order in which each claim began when it could, with a gap for each answer that nothing is there.
/// What nobody has seen may have been there, too.
///
/// # Errors
///
/// What was wrong with the likeliest order.
pub(crate) fn find(mut lives: Vec<Life>, unseen: &[Life], empty: &[(u64, u64)]) -> Result<(), Broken> {
    lives.sort_unstable_by_key(|life| (life.alive.before, life.alive.after));
    let (placed, is_placed) = (Vec::new(), vec![false; lives.len()]);
    let mut search = Search { lives: &lives, unseen, empty, placed, is_placed, first: 0 };
    let mut steps = vec![];
    search.add(&mut steps, |_| Ok(vec![Ended { over: 0, free_from: 0, is_gap: true }]))?;
    let mut likeliest = None;
    for _ in 0..FIRST_STEPS + STEPS * lives.len() {
        let Some(step) = steps.pop() else { break };
        match search.take(&step, &mut steps) {
            Ok(is_found) if is_found => return Ok(()),
            Ok(_) => {}
            Err(broken) => drop(likeliest.get_or_insert(broken)),
        }
    }
    Err(likeliest.expect("a step that is not the last one fails or adds more"))
}

struct Search<'a> {
    lives: &'a [Life],
    unseen: &'a [Life],
    empty: &'a [(u64, u64)],
    /// Which claim, from when on it could begin, and whether there was a gap.
    placed: Vec<(usize, u64, bool)>,
    is_placed: Vec<bool>,
    /// All before this one have a place.
    first: usize,
}

impl Search<'_> {
    /// Whether that was the last one.
    fn take(&mut self, step: &Step, steps: &mut Vec<Step>) -> Result<bool, Broken> {
        for (index, ..) in self.placed.drain(step.placed..) {
            self.is_placed[index] = false;
            self.first = self.first.min(index);
        }
        let Some(index) = step.life else {
            return self.check_gaps(step).map(|()| true);
        };
        self.placed.push((index, step.free_from, step.is_gap));
        self.is_placed[index] = true;
        while self.is_placed.get(self.first).is_some_and(|is_placed| *is_placed) {
            self.first += 1;
        }
        let begun = self.lives[index].begin(step.free_from)?;
        self.add(steps, |next| self.ends(index, begun, next))?;
        Ok(false)
    }

    /// How this one can have ended before that one began.
    fn ends(&self, index: usize, begun: u64, next: Option<usize>) -> Result<Vec<Ended>, Broken> {
        let (life, next) = (&self.lives[index], next.map(|next| &self.lives[next]));
        let settled = life.settle(begun)?;
        let (mut possible, mut refused) = (Vec::new(), None);
        for ended in life.ends(settled, next, self.unseen)? {
            match life.refusals(settled, ended.over) {
                Ok(began) if began <= begun => possible.push(ended),
                // It began later than it could have, and so all that follows is later.
                Ok(began) => possible.extend(life.ends(life.settle(began)?, next, self.unseen)?),
                Err(broken) => refused = Some(broken),
            }
        }
        match refused {
            Some(broken) if possible.is_empty() => Err(broken),
            _ => Ok(possible),
        }
    }

    /// All that may come next, the likeliest of them last.
    fn add(
        &self,
        steps: &mut Vec<Step>,
        ends: impl Fn(Option<usize>) -> Result<Vec<Ended>, Broken>,
    ) -> Result<(), Broken> {
        let placed = self.placed.len();
        let to = |life| {
            move |ended: Ended| Step { placed, life, free_from: ended.free_from, is_gap: ended.is_gap }
        };
        let mut waiting = self.waiting();
        let first = waiting.next();
        // Another one may come before it unless it was there only after the first had been.
        let before = first.map_or(0, |first| self.lives[first].alive.before);
        let others = waiting.take(CANDIDATES).filter(|other| self.lives[*other].alive.after <= before);
        let others: Vec<usize> = others.collect();
        for other in others.into_iter().rev() {
            steps.extend(ends(Some(other)).unwrap_or_default().into_iter().rev().map(to(Some(other))));
        }
        steps.extend(ends(first)?.into_iter().rev().map(to(first)));
        Ok(())
    }

    /// Those that have no place yet.
    fn waiting(&self) -> impl Iterator<Item = usize> {
        (self.first..self.lives.len()).filter(|index| !self.is_placed[*index])
    }

    /// Each answer that nothing is there needs a gap.
    fn check_gaps(&self, end: &Step) -> Result<(), Broken> {
        let mut gaps = Vec::new();
        if end.is_gap {
            gaps.push((end.free_from, FOREVER));
        }
        // A claim cannot begin later than those behind it.
        let mut latest = FOREVER;
        for (index, free_from, is_gap) in self.placed.iter().rev() {
            latest = latest.min(self.lives[*index].latest_start());
            if *is_gap {
                gaps.push((*free_from, latest));
            }
        }
        gaps.reverse();
        for (began, ended) in self.empty {
            let gap = gaps.partition_point(|gap| gap.1 < *began);
            if gaps.get(gap).is_none_or(|gap| gap.0 > *ended) {
                return Err((
                    "I6",
                    format!("nothing was there between {began} and {ended}, but a claim was"),
                ));
            }
        }
        Ok(())
    }
}
