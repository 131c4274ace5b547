//! The elements of a JSON array, as they stand there.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Elements that are kept at most: as many as the ERP's largest page has records, or a record may
/// have lines.
pub(super) const MOST_KEPT: usize = 10_000;

/// An array. Beyond [`MOST_KEPT`] its elements are counted only: one of millions costs no memory.
#[derive(Default)]
pub(super) struct Elements<'a> {
    pub(super) first: Vec<&'a RawValue>,
    pub(super) count: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for Elements<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Counting;
        impl<'de> Visitor<'de> for Counting {
            type Value = Elements<'de>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an array")
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Elements<'de>, S::Error> {
                let mut elements = Elements::default();
                while elements.count < MOST_KEPT {
                    let Some(element) = seq.next_element()? else { return Ok(elements) };
                    elements.first.push(element);
                    elements.count += 1;
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    elements.count += 1;
                }
                Ok(elements)
            }
        }
        deserializer.deserialize_seq(Counting)
    }
}
