//! Which record expires next.

use std::{
    collections::{BTreeSet, VecDeque},
    mem,
};

use crate::table::Slot;

/// How many queues there are: records may be kept for so many different times before they are sorted.
const QUEUES: usize = 4;

/// How many entries a part of a queue has: it grows by parts, so that nothing is moved.
const PART: usize = if cfg!(test) { 8 } else { 1024 };

/// How many entries of the queues may be out of date, whatever there is beside them.
const OUT_OF_DATE: usize = if cfg!(test) { 8 } else { 1024 };

/// When a record expires, in nanoseconds since 1970, and where it lies.
pub(crate) type Entry = (i64, Slot);

/// For every record there is an entry with its time. There may be others, which are out of date: an entry says where to look,
/// not what is there.
///
/// Records that are kept equally long expire in the order in which they were settled. They stand in a queue, where one
/// costs no search. Whatever fits in none is sorted, and so is what still runs, which is little, and moves on soon. Where records
/// are kept for more different times than there are queues, most of them may be sorted: then it is an index like any other.
#[derive(Debug, Default)]
pub(crate) struct Expiry {
    queues: [Queue; QUEUES],
    queued: usize,
    out_of_date: usize,
    /// Which part is looked through next.
    sifted: usize,
    sorted: BTreeSet<Entry>,
}

impl Expiry {
    /// `moves_on`: soon there will be another entry in its place.
    pub(crate) fn add(&mut self, entry: Entry, moves_on: bool) {
        let fits = |queue: &&mut Queue| queue.last().is_none_or(|(last, _)| last <= entry.0);
        let queue = if moves_on { None } else { self.queues.iter_mut().find(fits) };
        match queue {
            Some(queue) => {
                queue.push(entry);
                self.queued += 1;
            }
            None => drop(self.sorted.insert(entry)),
        }
    }

    /// Its record is gone, or has another entry.
    pub(crate) fn remove(&mut self, entry: &Entry) {
        if !self.sorted.remove(entry) {
            self.out_of_date += 1;
        }
    }

    /// The next one, if it is due by then.
    pub(crate) fn due(&self, now: i64) -> Option<Entry> {
        let queued = self.queues.iter().filter_map(Queue::first);
        queued.chain(self.sorted.first().copied()).min().filter(|(at, _)| *at <= now)
    }

    /// The next one was looked at, and was right or out of date.
    pub(crate) fn take(&mut self, next: &Entry, was_right: bool) {
        if self.sorted.remove(next) {
            return;
        }
        let Some(queue) = self.queues.iter_mut().find(|queue| queue.first() == Some(*next)) else { return };
        queue.pop();
        self.queued -= 1;
        if !was_right {
            // Not all of them are counted: one may have been right for a while, for another record in the same place.
            self.out_of_date = self.out_of_date.saturating_sub(1);
        }
    }

    /// More than a sixteenth of what is queued is out of date: it happens where records are deleted before their time.
    pub(crate) fn is_to_be_sifted(&self) -> bool {
        self.out_of_date > OUT_OF_DATE + self.queued / 16
    }

    /// Leaves out what is out of date in the next part: one at a time, so that nobody waits for all of them.
    pub(crate) fn sift(&mut self, is_right: impl Fn(&Entry) -> bool) {
        let parts: usize = self.queues.iter().map(|queue| queue.parts.len()).sum();
        let mut number = if self.sifted < parts { self.sifted } else { 0 };
        self.sifted = number + 1;
        for queue in &mut self.queues {
            if number < queue.parts.len() {
                let left_out = queue.sift(number, is_right);
                self.queued -= left_out;
                self.out_of_date = self.out_of_date.saturating_sub(left_out);
                return;
            }
            number -= queue.parts.len();
        }
    }

    /// How many entries there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.queued + self.sorted.len()
    }
}

/// Entries in the order of their times.
#[derive(Debug, Default)]
struct Queue {
    parts: VecDeque<Vec<Entry>>,
    /// How many of the first part were taken already.
    taken: usize,
}

impl Queue {
    fn first(&self) -> Option<Entry> {
        self.parts.front().and_then(|part| part.get(self.taken)).copied()
    }

    fn last(&self) -> Option<Entry> {
        self.parts.back().and_then(|part| part.last()).copied()
    }

    fn push(&mut self, entry: Entry) {
        match self.parts.back_mut() {
            Some(part) if part.len() < PART => part.push(entry),
            _ => {
                let mut part = Vec::with_capacity(PART);
                part.push(entry);
                self.parts.push_back(part);
            }
        }
    }

    fn pop(&mut self) {
        self.taken += 1;
        if self.parts.front().is_some_and(|part| self.taken == part.len()) {
            self.parts.pop_front();
            self.taken = 0;
        }
    }

    /// How many entries of this part were left out.
    fn sift(&mut self, number: usize, is_right: impl Fn(&Entry) -> bool) -> usize {
        let part = &mut self.parts[number];
        if number == 0 {
            part.drain(..mem::take(&mut self.taken));
        }
        let before = part.len();
        // Nor twice the same, where time stands still and a place is taken again and again.
        part.sort_unstable();
        part.dedup();
        part.retain(is_right);
        let left = part.len();
        if left < PART / 2 {
            part.shrink_to_fit();
        }
        if left == 0 {
            self.parts.remove(number);
        }
        before - left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_date_is_a_part_of_the_rest() {
        let mut expiry = Expiry::default();
        let mut right = BTreeSet::new();
        for at in 0..20_000_i64 {
            let entry = (at, Slot::from(at as u32));
            expiry.add(entry, false);
            right.insert(entry);
            if at % 10 > 0 {
                right.remove(&entry);
                expiry.remove(&entry);
                if expiry.is_to_be_sifted() {
                    expiry.sift(|entry| right.contains(entry));
                }
            }
            assert_eq!(expiry.out_of_date, expiry.queued - right.len());
        }
        let parts: usize = expiry.queues.iter().flat_map(|queue| &queue.parts).map(Vec::len).sum();
        assert_eq!(parts, expiry.queued, "nothing was taken");
        assert!(expiry.queued < 2 * right.len(), "{} for {}", expiry.queued, right.len());
        let mut found = BTreeSet::new();
        while let Some(entry) = expiry.due(i64::MAX) {
            let is_right = right.contains(&entry);
            expiry.take(&entry, is_right);
            found.extend(is_right.then_some(entry));
        }
        assert_eq!((found, expiry.queued, expiry.out_of_date), (right, 0, 0));
    }

    #[test]
    fn what_comes_out_of_order_is_found_in_order() {
        let mut expiry = Expiry::default();
        // Five times go down: more than there are queues.
        let times = [70, 60, 50, 40, 30, 20, 75, 80];
        for (number, at) in times.into_iter().enumerate() {
            expiry.add((at, Slot::from(number as u32)), at == 80);
        }
        let sorted: Vec<i64> = expiry.sorted.iter().map(|(at, _)| *at).collect();
        assert_eq!(sorted, [20, 30, 80], "80 runs");
        let mut found = Vec::new();
        while let Some(entry) = expiry.due(75) {
            expiry.take(&entry, true);
            found.push(entry.0);
        }
        assert_eq!(found, [20, 30, 40, 50, 60, 70, 75]);
        assert_eq!((expiry.queued, expiry.due(80)), (0, Some((80, Slot::from(7)))));
    }

    /// It was deleted, and another one with the same time lies in its place.
    #[test]
    fn an_entry_may_be_right_again_and_is_counted_no_further() {
        let entry = (10, Slot::from(1));
        let mut expiry = Expiry::default();
        expiry.add(entry, false);
        expiry.remove(&entry);
        expiry.add(entry, true);
        expiry.sift(|_| true);
        for was_right in [true, false] {
            assert_eq!(expiry.due(10), Some(entry));
            expiry.take(&entry, was_right);
        }
        assert_eq!((expiry.due(i64::MAX), expiry.queued, expiry.out_of_date), (None, 0, 0));
    }
}
