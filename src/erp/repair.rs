//! An answer that is no JSON because of a few bytes of texts: some installations send control
//! characters as they are, or cut a text within a character.
//!
//! The copy has the control characters escaped, which loses nothing, and every broken sequence of
//! bytes replaced by U+FFFD. What held a broken one is given as it came.

use std::ops::Range;

use bytes::Bytes;

/// Repairs of one answer at most, so that one of nothing else costs no memory. Records whose
/// remarks have lines need some hundreds.
const MOST_REPAIRS: usize = 10_000;

/// Bytes that a repair adds at most: `\u0000` for one.
const MAX_REPAIR: usize = 5;

/// A repaired copy, and where it differs.
pub(super) struct Repaired<'a> {
    original: &'a Bytes,
    pub(super) text: Bytes,
    /// In the order of the text.
    repairs: Vec<Repair>,
}

struct Repair {
    original: Range<usize>,
    copy: Range<usize>,
    /// The bytes were no UTF-8.
    broken: bool,
}

impl<'a> Repaired<'a> {
    /// `None`: nothing can be repaired, or there is too much of it.
    pub(super) fn of(original: &'a Bytes) -> Option<Self> {
        // Room for all repairs: to grow would double it.
        let room = MAX_REPAIR * MOST_REPAIRS.min(original.len());
        let mut text = String::with_capacity(original.len() + room);
        let mut repairs = Vec::new();
        let (mut inside, mut escaped, mut at) = (false, false, 0);
        let mut replace = |text: &mut String, from: Range<usize>, by: &str, broken| {
            let start = text.len();
            text.push_str(by);
            repairs.push(Repair { original: from, copy: start..text.len(), broken });
            repairs.len() <= MOST_REPAIRS
        };
        for chunk in original.utf8_chunks() {
            let valid = chunk.valid();
            let mut copied = 0;
            for (index, byte) in valid.bytes().enumerate() {
                match byte {
                    _ if !inside => inside = byte == b'"',
                    _ if escaped => escaped = false,
                    b'\\' => escaped = true,
                    b'"' => inside = false,
                    0..0x20 => {
                        text.push_str(valid.get(copied..index)?);
                        copied = index + 1;
                        let found = at + index;
                        if !replace(&mut text, found..found + 1, &format!("\\u{byte:04x}"), false) {
                            return None;
                        }
                    }
                    _ => {}
                }
            }
            text.push_str(valid.get(copied..)?);
            at += valid.len();
            let broken = chunk.invalid();
            if !broken.is_empty() {
                if !replace(&mut text, at..at + broken.len(), "\u{fffd}", true) {
                    return None;
                }
                at += broken.len();
                escaped = false;
            }
        }
        (!repairs.is_empty()).then(|| Self { original, text: text.into(), repairs })
    }

    /// Broken sequences in all of the text.
    pub(super) fn broken(&self) -> usize {
        self.repairs.iter().filter(|repair| repair.broken).count()
    }

    /// A part of the copy that begins and ends between repairs, and how many broken sequences it
    /// has: as it came, if there is one, else as it was repaired.
    pub(super) fn part(&self, part: &str) -> (Bytes, usize) {
        let start = (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        let copy = start..start + part.len();
        let before = |place| self.repairs.partition_point(|repair| repair.copy.start < place);
        let within = self.repairs.get(before(copy.start)..before(copy.end)).unwrap_or_default();
        let broken = within.iter().filter(|repair| repair.broken).count();
        if broken == 0 {
            return (self.text.slice(copy), 0);
        }
        (self.original.slice(self.back(copy.start)..self.back(copy.end)), broken)
    }

    /// Where in the original a place of the copy is.
    fn back(&self, place: usize) -> usize {
        let before = self.repairs.partition_point(|repair| repair.copy.end <= place);
        match before.checked_sub(1).and_then(|last| self.repairs.get(last)) {
            Some(last) => last.original.end + (place - last.copy.end),
            None => place,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn repaired(text: &[u8]) -> Option<String> {
        let bytes = Bytes::copy_from_slice(text);
        Repaired::of(&bytes).map(|repaired| String::from_utf8(repaired.text.to_vec()).unwrap())
    }

    #[test]
    fn only_texts_are_repaired() {
        for (text, expected) in [
            (
                &b"{\"a\":\"one\ntwo\tthree\x00\"}"[..],
                Some(r#"{"a":"one\u000atwo\u0009three\u0000"}"#),
            ),
            (b"{\n\t\"a\" :\r\n1}", None),
            (b"{\"a\":\"\\\"\n\"}", Some(r#"{"a":"\"\u000a"}"#)),
            (
                b"{\"a\":\"\xe7\xa0\",\"b\":\"\xe7\xa0\x81\"}",
                Some("{\"a\":\"\u{fffd}\",\"b\":\"码\"}"),
            ),
            // No escape, so it stays no JSON.
            (b"{\"a\":\"\\\n\"}", None),
            (b"", None),
        ] {
            assert_eq!(repaired(text).as_deref(), expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn an_answer_of_nothing_else_is_not_repaired() {
        assert!(repaired(&[b"\"".as_slice(), &[b'\n'; MOST_REPAIRS]].concat()).is_some());
        assert!(repaired(&[b"\"".as_slice(), &[b'\n'; MOST_REPAIRS + 1]].concat()).is_none());
        assert!(repaired(&[0xff; MOST_REPAIRS + 1]).is_none());
    }

    proptest! {
        #[test]
        fn every_place_leads_back(pieces in prop::collection::vec(prop_oneof![
            "[a-z旺\"\\\\ ]{0,4}".prop_map(String::into_bytes),
            Just(b"\n".to_vec()),
            Just(b"\xe7\xa0".to_vec()),
            Just(b"\xff".to_vec()),
        ], 0..12)) {
            let original = Bytes::from(pieces.concat());
            if let Some(repaired) = Repaired::of(&original) {
                let text = std::str::from_utf8(&repaired.text).unwrap();
                prop_assert_eq!(repaired.back(text.len()), original.len());
                for (start, _) in text.char_indices() {
                    let within = repaired.repairs.iter().any(|repair| repair.copy.start < start && start < repair.copy.end);
                    if !within {
                        let (part, broken) = repaired.part(&text[start..]);
                        let rest = &original[repaired.back(start)..];
                        prop_assert_eq!(broken > 0, std::str::from_utf8(rest).is_err());
                        if broken > 0 {
                            prop_assert_eq!(&part[..], rest);
                        } else {
                            prop_assert_eq!(&part[..], &text.as_bytes()[start..]);
                        }
                    }
                }
            }
        }
    }
}
