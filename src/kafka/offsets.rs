//! Which offsets of a partition are finished: a contiguous prefix that is committed, and what
//! finished ahead of it.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::BASE64_NOPAD;

use super::{Lease, Position};

/// Characters that name the runs. Kafka's default `offset.metadata.max.bytes` is 4096, and the nonce
/// has to fit as well; what does not fit waits for the prefix.
const RUNS_LIMIT: usize = 4000;

/// The finished offsets of one partition. Offsets need not be dense: transaction markers and
/// compaction leave gaps, and an offset that was never delivered does not hold the prefix back.
///
/// Holds the offsets that are not finished and the runs of those that are, so its size does not
/// depend on how much was finished behind a slow front.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Prefix {
    /// Everything below is finished; the next offset to be committed.
    next: i64,
    /// Everything below was delivered, or is nothing that could be: a transaction marker.
    passed: i64,
    /// Delivered, and not finished.
    unfinished: BTreeSet<i64>,
    /// Finished ahead of `next`, as closed runs by their first offset, those of an earlier owner
    /// included: re-reading them is not a copy. Two runs have something unfinished between them, or
    /// something that was not delivered yet.
    finished: BTreeMap<i64, i64>,
    /// The nonce of the journal's newest takeover, which the metadata carries.
    nonce: String,
}

impl Prefix {
    /// Begins at a committed offset with the metadata that was committed beside it. `nonce`: of the
    /// takeover that begins it.
    #[must_use]
    pub(crate) fn restore(next: i64, metadata: &str, nonce: String) -> Self {
        let finished = decode(next, metadata).into_iter().collect();
        Self { next, passed: next, unfinished: BTreeSet::new(), finished, nonce }
    }

    /// Notes a delivered offset. `false`: it is below the prefix, delivered already, or was settled
    /// by an earlier owner; there is nothing to do for it.
    pub(crate) fn deliver(&mut self, offset: i64) -> bool {
        if offset < self.passed {
            return false;
        }
        self.passed = offset + 1;
        let before = self.finished.range(..=offset).next_back();
        let settled = before.is_some_and(|(_, to)| *to >= offset);
        if !settled {
            self.unfinished.insert(offset);
        }
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

    /// Notes that a delivered offset is finished: its transaction was committed.
    pub(crate) fn finish(&mut self, offset: i64) {
        if !self.unfinished.remove(&offset) {
            return;
        }
        // Gaps between two finished neighbours hold nothing deliverable, so one run covers them.
        let (mut from, mut to) = (offset, offset);
        let before = self.finished.range(..offset).next_back().map(|(from, to)| (*from, *to));
        if let Some(run) = before
            && self.unfinished.range(run.1..offset).next().is_none()
        {
            from = run.0;
        }
        let after = self.finished.range(offset..self.passed).next().map(|(from, to)| (*from, *to));
        if let Some(run) = after
            && self.unfinished.range(offset..run.0).next().is_none()
        {
            self.finished.remove(&run.0);
            to = run.1;
        }
        self.finished.insert(from, to);
    }

    /// The same prefix once these are finished as well: what a transaction that settles them commits.
    #[must_use]
    pub(crate) fn with_finished(&self, offsets: impl IntoIterator<Item = i64>) -> Self {
        let mut then = self.clone();
        for offset in offsets {
            then.finish(offset);
        }
        then
    }

    /// What to commit now: the next offset to be read, and the metadata that names what finished
    /// ahead of it. `None` when that does not fit, which only a new finish can bring about.
    #[must_use]
    pub(crate) fn position(&self) -> Option<(i64, String)> {
        let next = self.committable();
        let runs = self.finished.iter().filter(|(_, to)| **to >= next);
        let runs = encode(next, runs.map(|(from, to)| ((*from).max(next), *to)));
        (runs.len() <= RUNS_LIMIT).then(|| (next, format!("{FORMAT}{}:{runs}", self.nonce)))
    }

    /// Drops what the committed prefix covers.
    pub(crate) fn committed(&mut self, next: i64) {
        self.next = self.next.max(next);
        self.passed = self.passed.max(next);
        self.unfinished = self.unfinished.split_off(&self.next);
        self.finished.retain(|_, to| *to >= next);
    }

    /// The offset everything below which is finished.
    #[must_use]
    pub(crate) fn next(&self) -> i64 {
        self.next
    }

    /// The nonce that the metadata carries.
    #[must_use]
    pub(crate) fn nonce(&self) -> &str {
        &self.nonce
    }

    /// Delivered offsets that are not finished.
    #[must_use]
    pub(crate) fn unfinished(&self) -> usize {
        self.unfinished.len()
    }

    fn committable(&self) -> i64 {
        self.unfinished.first().copied().unwrap_or(self.passed)
    }
}

/// What the metadata begins with; then a nonce, `:` and the runs.
const FORMAT: &str = "2:";

/// Metadata of an offset that was committed before any takeover was finished, so that nothing can
/// have been remembered.
pub(super) const NEVER_TAKEN_OVER: &str = "2::";
/// In place of the nonce: another program had set the offset.
const UNKNOWN: &str = "?";
/// In place of the runs: the log is begun anew from this offset.
const ANEW: &str = "!";

/// Whether the log was begun anew from the offset that this was committed with.
#[must_use]
pub(super) fn is_anew(metadata: &str) -> bool {
    metadata
        .strip_prefix(FORMAT)
        .and_then(|text| text.split_once(':'))
        .is_some_and(|(_, runs)| runs == ANEW)
}

/// What is committed to begin a log anew: nothing of it is settled.
#[must_use]
pub(crate) fn begun_anew(lease: Lease, offset: i64, nonce: Option<&str>) -> Position {
    let nonce = nonce.unwrap_or(UNKNOWN);
    Position { lease, offset, metadata: format!("{FORMAT}{nonce}:{ANEW}") }
}

/// The nonce in a committed offset's metadata; `None` in that of another program.
#[must_use]
pub(crate) fn nonce_of(metadata: &str) -> Option<&str> {
    let (nonce, _) = metadata.strip_prefix(FORMAT)?.split_once(':')?;
    (nonce != UNKNOWN).then_some(nonce)
}

/// Base64 of varints: for each run the distance from the end of the one before (from `next` for the
/// first), then its length less one.
fn encode(next: i64, runs: impl Iterator<Item = (i64, i64)>) -> String {
    let mut bytes = Vec::new();
    let mut at = next;
    for (from, to) in runs {
        varint(&mut bytes, from - at);
        varint(&mut bytes, to - from);
        at = to + 1;
    }
    BASE64_NOPAD.encode(&bytes)
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
    let Some(bytes) = metadata
        .strip_prefix(FORMAT)
        .and_then(|text| BASE64_NOPAD.decode(text.split_once(':')?.1.as_bytes()).ok())
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

    fn begin(next: i64, metadata: &str) -> Prefix {
        Prefix::restore(next, metadata, "n".to_owned())
    }

    fn text(next: i64, runs: &[(i64, i64)]) -> String {
        format!("2:n:{}", encode(next, runs.iter().copied()))
    }

    #[test]
    fn the_prefix_stops_at_the_first_unfinished_offset() {
        let mut prefix = begin(10, "");
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

        let mut successor = begin(next, &metadata);
        assert!(successor.deliver(13));
        assert!(!successor.deliver(14), "settled ahead by the predecessor");
        assert!(successor.deliver(15));
    }

    #[test]
    fn what_a_predecessor_settled_is_handed_on_before_it_is_delivered_again() {
        let mut prefix = begin(5, &text(5, &[(7, 9), (12, 12)]));
        assert!(prefix.deliver(5));
        let (next, metadata) = prefix.position().unwrap();
        assert_eq!((next, decode(next, &metadata)), (5, vec![(7, 9), (12, 12)]));
        prefix.finish(5);
        let (next, metadata) = prefix.position().unwrap();
        assert_eq!((next, decode(next, &metadata)), (6, vec![(7, 9), (12, 12)]));
        prefix.pass(8);
        let (next, metadata) = prefix.position().unwrap();
        assert_eq!((next, decode(next, &metadata)), (8, vec![(8, 9), (12, 12)]));
    }

    #[test]
    fn what_is_only_drafted_is_not_finished() {
        let mut prefix = begin(0, "");
        prefix.deliver(0);
        assert_eq!(prefix.with_finished([0]).position().unwrap().0, 1);
        assert_eq!(prefix.position().unwrap().0, 0);
    }

    #[test]
    fn memory_does_not_grow_with_what_is_finished_behind_a_slow_front() {
        let mut prefix = begin(0, "");
        for offset in 0..100_000 {
            assert!(prefix.deliver(offset * 2), "every other offset is a transaction marker");
            if offset > 0 {
                prefix.finish(offset * 2);
            }
        }
        assert_eq!((prefix.unfinished.len(), prefix.finished.len()), (1, 1));
        assert_eq!(prefix.position().unwrap().0, 0);
    }

    #[test]
    fn the_nonce_is_carried_and_that_of_other_metadata_is_unknown() {
        let prefix = Prefix::restore(3, "", "0-1-2".to_owned());
        let (_, metadata) = prefix.position().unwrap();
        assert_eq!(nonce_of(&metadata), Some("0-1-2"));
        assert_eq!([nonce_of(""), nonce_of("2"), nonce_of("3:a:b")], [None; 3]);
        let anew = begun_anew(Lease { partition: 0, epoch: 1 }, 3, nonce_of("")).metadata;
        assert_eq!((nonce_of(&anew), is_anew(&anew)), (None, true));
    }

    #[test]
    fn strange_metadata_is_no_run() {
        for text in [
            "",
            "hello",
            "2:!!!",
            "2::!!!",
            "2:n:////////////////////////",
            "2:n:f39/f39/f39/f38Bf39/f39/f39/f38B",
        ] {
            assert!(begin(0, text).deliver(0), "{text}");
        }
    }

    proptest! {
        /// However offsets finish and whenever owners change, every offset is processed once, the
        /// committed offset never passes an unfinished one, and what is committed with nothing new
        /// finished is no longer than what was committed before.
        #[test]
        fn every_offset_is_processed_once(gaps in proptest::collection::vec(1_i64..4, 1..60), order in proptest::collection::vec(0_usize..1000, 0..200), takeover in 0_usize..60) {
            let offsets: Vec<i64> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
            let mut processed: BTreeMap<i64, u32> = BTreeMap::new();
            let mut prefix = begin(0, "");
            let mut todo: Vec<i64> = offsets.iter().copied().filter(|offset| prefix.deliver(*offset)).collect();
            for (step, pick) in order.iter().enumerate() {
                if todo.is_empty() { break; }
                let offset = todo.remove(pick % todo.len());
                let then = prefix.with_finished([offset]);
                let (next, metadata) = then.position().unwrap();
                prefix.finish(offset);
                prop_assert_eq!(&prefix, &then);
                *processed.entry(offset).or_default() += 1;
                prop_assert!(todo.iter().all(|open| *open >= next));
                prefix.committed(next);
                prop_assert!(prefix.position().unwrap().1.len() <= metadata.len());
                if step % 60 == takeover {
                    prefix = begin(next, &metadata);
                    todo.clear();
                    for offset in offsets.iter().copied().filter(|offset| *offset >= next) {
                        if prefix.deliver(offset) {
                            todo.push(offset);
                        }
                        prop_assert!(prefix.position().unwrap().1.len() <= metadata.len());
                    }
                }
            }
            for offset in todo { prefix.finish(offset); *processed.entry(offset).or_default() += 1; }
            prop_assert!(offsets.iter().all(|offset| processed.get(offset) == Some(&1)));
            prop_assert_eq!(prefix.position().unwrap().0, offsets.last().unwrap() + 1);
        }
    }
}
