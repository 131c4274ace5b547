//! Which offsets of a partition are finished: a contiguous prefix that is committed, and what
//! finished ahead of it.

use std::collections::BTreeMap;

use data_encoding::BASE64_NOPAD;

/// Kafka's default `offset.metadata.max.bytes` is 4096; what does not fit waits for the prefix.
const METADATA_LIMIT: usize = 4000;

/// The finished offsets of one partition. Offsets need not be dense: transaction markers and
/// compaction leave gaps, and an offset that was never delivered does not hold the prefix back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Prefix {
    /// Everything below is finished; the next offset to be committed.
    next: i64,
    /// Everything below was delivered, or is nothing that could be: a transaction marker.
    passed: i64,
    /// Delivered offsets at or above `next`, in order: finished or not.
    pending: BTreeMap<i64, bool>,
    /// Offsets an earlier owner finished ahead of its prefix, as closed runs; re-reading them is
    /// not a copy.
    settled_before: Vec<(i64, i64)>,
}

impl Prefix {
    /// Begins at a committed offset with the metadata that was committed beside it.
    #[must_use]
    pub(crate) fn restore(next: i64, metadata: &str) -> Self {
        Self {
            next,
            passed: next,
            pending: BTreeMap::new(),
            settled_before: decode(next, metadata),
        }
    }

    /// Notes a delivered offset. `false`: it is below the prefix, delivered already, or was settled
    /// by an earlier owner; there is nothing to do for it.
    pub(crate) fn deliver(&mut self, offset: i64) -> bool {
        if offset < self.next || self.pending.contains_key(&offset) {
            return false;
        }
        let settled = self.settled_before.iter().any(|(from, to)| (*from..=*to).contains(&offset));
        self.pending.insert(offset, settled);
        !settled
    }

    /// Notes that everything below an offset was delivered, and that what could not be is nothing
    /// to wait for.
    pub(crate) fn pass(&mut self, offset: i64) {
        self.passed = self.passed.max(offset);
    }

    /// Whether a commit would move the prefix.
    #[must_use]
    pub(crate) fn moves(&self) -> bool {
        self.committable() > self.next
    }

    /// Notes that a delivered offset is finished.
    pub(crate) fn finish(&mut self, offset: i64) {
        if let Some(done) = self.pending.get_mut(&offset) {
            *done = true;
        }
        // Nothing is popped here: the prefix moves only when it is taken for a commit.
    }

    /// Takes a finish back (the transaction that would have recorded it was aborted).
    pub(crate) fn unfinish(&mut self, offset: i64) {
        if let Some(done) = self.pending.get_mut(&offset) {
            *done = false;
        }
    }

    /// What to commit now: the next offset to be read, and the metadata that names what finished
    /// ahead of it. `None` when the metadata would not fit.
    #[must_use]
    pub(crate) fn position(&self) -> Option<(i64, String)> {
        let next = self.committable();
        let ahead = self.ahead(next);
        let text = encode(next, &ahead);
        (text.len() <= METADATA_LIMIT).then_some((next, text))
    }

    /// Drops what the committed prefix covers.
    pub(crate) fn committed(&mut self, next: i64) {
        self.pending = self.pending.split_off(&next);
        self.next = self.next.max(next);
        self.passed = self.passed.max(next);
        self.settled_before.retain(|(_, to)| *to >= next);
    }

    /// The offset everything below which is finished.
    #[must_use]
    pub(crate) fn next(&self) -> i64 {
        self.next
    }

    /// Delivered offsets that are not finished.
    #[must_use]
    pub(crate) fn unfinished(&self) -> usize {
        self.pending.values().filter(|done| !**done).count()
    }

    fn committable(&self) -> i64 {
        match self.pending.iter().find(|(_, done)| !**done) {
            Some((offset, _)) => *offset,
            None => {
                let delivered = self.pending.last_key_value().map(|(offset, _)| offset + 1);
                delivered.unwrap_or(self.next).max(self.passed)
            }
        }
    }

    /// Finished runs at or above `next`, those of an earlier owner that were not delivered yet
    /// included.
    fn ahead(&self, next: i64) -> Vec<(i64, i64)> {
        let mut runs: Vec<(i64, i64)> = Vec::new();
        let mut open: Option<(i64, i64)> = None;
        for (offset, done) in self.pending.range(next..) {
            open = match (open, *done) {
                // Gaps between two finished neighbours hold nothing deliverable, so one run covers
                // them.
                (Some((from, _)), true) => Some((from, *offset)),
                (None, true) => Some((*offset, *offset)),
                (Some(run), false) => {
                    runs.push(run);
                    None
                }
                (None, false) => None,
            };
        }
        runs.extend(open);
        let delivered =
            self.pending.last_key_value().map_or(self.next, |(offset, _)| offset + 1).max(next);
        runs.extend(
            self.settled_before
                .iter()
                .filter(|(_, to)| *to >= delivered)
                .map(|(from, to)| ((*from).max(delivered), *to)),
        );
        runs
    }
}

/// `1:` and base64 of varints: for each run the distance from the end of the one before (from
/// `next` for the first), then its length less one.
fn encode(next: i64, runs: &[(i64, i64)]) -> String {
    if runs.is_empty() {
        return String::new();
    }
    let mut bytes = Vec::with_capacity(runs.len() * 3);
    let mut at = next;
    for (from, to) in runs {
        varint(&mut bytes, from - at);
        varint(&mut bytes, to - from);
        at = to + 1;
    }
    format!("1:{}", BASE64_NOPAD.encode(&bytes))
}

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut value = u64::try_from(value).unwrap_or(0);
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

/// The inverse of [`encode`]; metadata of another program, or none, is no run at all.
fn decode(next: i64, metadata: &str) -> Vec<(i64, i64)> {
    let Some(bytes) =
        metadata.strip_prefix("1:").and_then(|text| BASE64_NOPAD.decode(text.as_bytes()).ok())
    else {
        return Vec::new();
    };
    let mut numbers = Vec::new();
    let (mut value, mut shift) = (0_i64, 0_u32);
    for byte in bytes {
        if shift > 56 {
            return Vec::new();
        }
        value |= i64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            numbers.push(value);
            (value, shift) = (0, 0);
        } else {
            shift += 7;
        }
    }
    let mut at = Some(next);
    let runs = numbers.as_chunks::<2>().0.iter().map(|[gap, length]| {
        let from = at?.checked_add(*gap)?;
        let to = from.checked_add(*length)?;
        at = to.checked_add(1);
        // No log has an offset so high that there is none behind it.
        at.map(|_| (from, to))
    });
    runs.collect::<Option<Vec<_>>>().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_prefix_stops_at_the_first_unfinished_offset() {
        let mut prefix = Prefix::restore(10, "");
        for offset in [10, 11, 13, 14, 15] {
            assert!(prefix.deliver(offset));
        }
        prefix.finish(11);
        prefix.finish(14);
        assert_eq!(prefix.position().unwrap().0, 10);
        prefix.finish(10);
        let (next, metadata) = prefix.position().unwrap();
        assert_eq!(next, 13, "12 was never delivered and holds nothing back");
        prefix.committed(next);

        let mut successor = Prefix::restore(next, &metadata);
        assert!(successor.deliver(13));
        assert!(!successor.deliver(14), "settled ahead by the predecessor");
        assert!(successor.deliver(15));
    }

    #[test]
    fn what_a_predecessor_settled_is_handed_on_before_it_is_delivered_again() {
        let mut prefix = Prefix::restore(5, &encode(5, &[(7, 9), (12, 12)]));
        assert!(prefix.deliver(5));
        let (next, metadata) = prefix.position().unwrap();
        assert_eq!((next, decode(next, &metadata)), (5, vec![(7, 9), (12, 12)]));
        prefix.finish(5);
        let (next, metadata) = prefix.position().unwrap();
        assert_eq!((next, decode(next, &metadata)), (6, vec![(7, 9), (12, 12)]));
    }

    #[test]
    fn an_aborted_finish_is_taken_back() {
        let mut prefix = Prefix::restore(0, "");
        prefix.deliver(0);
        prefix.finish(0);
        prefix.unfinish(0);
        assert_eq!(prefix.position().unwrap().0, 0);
    }

    #[test]
    fn strange_metadata_is_no_run() {
        for text in [
            "",
            "hello",
            "1:!!!",
            "1:////////////////////////",
            "1:f39/f39/f39/f38Bf39/f39/f39/f38B",
        ] {
            assert!(Prefix::restore(0, text).deliver(0), "{text}");
        }
    }

    proptest! {
        /// However offsets finish and whenever owners change, every offset is processed once and
        /// the committed offset never passes an unfinished one.
        #[test]
        fn every_offset_is_processed_once(gaps in proptest::collection::vec(1_i64..4, 1..60), order in proptest::collection::vec(0_usize..1000, 0..200), takeover in 0_usize..60) {
            let offsets: Vec<i64> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
            let mut processed: BTreeMap<i64, u32> = BTreeMap::new();
            let mut prefix = Prefix::restore(0, "");
            let mut todo: Vec<i64> = offsets.iter().copied().filter(|offset| prefix.deliver(*offset)).collect();
            for (step, pick) in order.iter().enumerate() {
                if todo.is_empty() { break; }
                let offset = todo.remove(pick % todo.len());
                prefix.finish(offset);
                *processed.entry(offset).or_default() += 1;
                let (next, metadata) = prefix.position().unwrap();
                prop_assert!(todo.iter().all(|open| *open >= next));
                prefix.committed(next);
                if step % 60 == takeover {
                    prefix = Prefix::restore(next, &metadata);
                    todo = offsets.iter().copied().filter(|offset| *offset >= next && prefix.deliver(*offset)).collect();
                }
            }
            for offset in todo { prefix.finish(offset); *processed.entry(offset).or_default() += 1; }
            prop_assert!(offsets.iter().all(|offset| processed.get(offset) == Some(&1)));
            prop_assert_eq!(prefix.position().unwrap().0, offsets.last().unwrap() + 1);
        }
    }
}
