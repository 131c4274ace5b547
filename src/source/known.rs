//! What was published last, of as many records as were seen lately: in most reads nothing is new,
//! and what is known needs no lookup, no thread and no memory for its text.
//!
//! Only a hint: what is not in here is looked up in the store. What is in here is true, because
//! whatever is published goes in.

use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_64;

/// Records of a generation: what a table of 65,536 places holds, 1.6 MB.
const GENERATION: usize = 57_344;

/// The content hash of the version published last, by the hash of its record's id; the older of two
/// generations is forgotten.
#[derive(Debug)]
pub(super) struct Known {
    most: usize,
    young: FxHashMap<u64, [u8; 16]>,
    old: FxHashMap<u64, [u8; 16]>,
}

impl Default for Known {
    fn default() -> Self {
        Self::of(GENERATION)
    }
}

impl Known {
    /// For `most` to twice as many records.
    #[must_use]
    pub(super) fn of(most: usize) -> Self {
        Self { most, young: FxHashMap::default(), old: FxHashMap::default() }
    }

    /// The version published last of record `id` has this content. To be called for whatever is
    /// published.
    pub(super) fn keep(&mut self, id: &str, hash: [u8; 16]) {
        if self.young.len() >= self.most {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(xxh3_64(id.as_bytes()), hash);
    }

    /// Whether the version published last of record `id` is known to have this content. Two ids of
    /// one hash push each other out: their contents differ, since a record's content holds its id.
    #[must_use]
    pub(super) fn holds(&self, id: &str, hash: &[u8; 16]) -> bool {
        let key = xxh3_64(id.as_bytes());
        self.young.get(&key).or_else(|| self.old.get(&key)) == Some(hash)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_seen_lately_is_known() {
        let mut known = Known::of(10);
        for id in 0..1_000_u64 {
            known.keep(&id.to_string(), [7; 16]);
            for lately in id.saturating_sub(9)..=id {
                assert!(known.holds(&lately.to_string(), &[7; 16]), "{lately} at {id}");
            }
            assert!(known.young.len() + known.old.len() <= 20);
        }
        assert!(!known.holds("1", &[7; 16]));
    }

    proptest! {
        #[test]
        fn nothing_is_known_that_is_not_so(most in 1..4_usize, kept in prop::collection::vec((0..6_u8, 0..3_u8), 0..60)) {
            let (mut known, mut published) = (Known::of(most), BTreeMap::new());
            for (id, content) in kept {
                known.keep(&id.to_string(), [content; 16]);
                published.insert(id, content);
                for (id, content) in (0..6).flat_map(|id| (0..3).map(move |content| (id, content))) {
                    let holds = known.holds(&id.to_string(), &[content; 16]);
                    prop_assert!(!holds || published.get(&id) == Some(&content), "{} {}", id, content);
                }
            }
        }
    }
}
