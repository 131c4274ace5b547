//! Where a bracket of JSON is closed, 64 bytes at a time: a record is passed over, not read.
//!
//! Quotes, backslashes and brackets of a block become bits, and what stands between quotes does not
//! count. In text that is no JSON (a backslash outside a string, `[` closed by `}`) a bracket may
//! be found elsewhere than byte by byte; that text is no JSON from wherever to wherever.

use wide::u8x16;

/// Bytes of a block: a bit each.
const BLOCK: usize = 64;

/// Which bytes of a block are what.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    quotes: u64,
    backslashes: u64,
    opening: u64,
    closing: u64,
}

impl Marks {
    fn of(block: &[u8; BLOCK]) -> Self {
        let mut marks = Self::default();
        for (lanes, shift) in block.as_chunks::<16>().0.iter().zip([0, 16, 32, 48]) {
            let lanes = u8x16::from(*lanes);
            let equal = |lanes: u8x16, byte| {
                u64::from(lanes.simd_eq(u8x16::splat(byte)).to_bitmask()) << shift
            };
            // `[` and `{` differ in this bit alone, and so do `]` and `}`.
            let curly = lanes | u8x16::splat(b'[' ^ b'{');
            marks.quotes |= equal(lanes, b'"');
            marks.backslashes |= equal(lanes, b'\\');
            marks.opening |= equal(curly, b'{');
            marks.closing |= equal(curly, b'}');
        }
        marks
    }
}

/// What a block takes over from the one before.
#[derive(Clone, Copy, Debug, Default)]
struct Carry {
    /// All bits, where a string is open.
    inside: u64,
    /// The first bit, where a backslash came last.
    escaped: u64,
}

impl Carry {
    /// The brackets of a block that stand outside strings: opening, closing.
    fn brackets(&mut self, marks: Marks) -> (u64, u64) {
        let mut escaped = std::mem::take(&mut self.escaped);
        let mut left = marks.backslashes & !escaped;
        while left != 0 {
            let backslash = left & left.wrapping_neg();
            escaped |= backslash << 1;
            self.escaped = backslash >> (BLOCK - 1);
            left &= !(backslash | backslash << 1);
        }
        let inside = between(marks.quotes & !escaped) ^ self.inside;
        self.inside = (inside.cast_signed() >> (BLOCK - 1)).cast_unsigned();
        (marks.opening & !inside, marks.closing & !inside)
    }
}

/// From every odd bit that is set up to, but not with, the next one.
fn between(quotes: u64) -> u64 {
    [1, 2, 4, 8, 16, 32].into_iter().fold(quotes, |parity, shift| parity ^ parity << shift)
}

/// Behind the bracket that closes the `depth` brackets (at least one) that are open at `at`,
/// outside of any string.
pub(super) fn closed(text: &[u8], at: usize, mut depth: usize) -> Option<usize> {
    let mut carry = Carry::default();
    let (blocks, rest) = text.get(at..)?.as_chunks::<BLOCK>();
    let mut last = [b' '; BLOCK];
    last.get_mut(..rest.len())?.copy_from_slice(rest);
    for (index, block) in blocks.iter().chain([&last]).enumerate() {
        let (opening, closing) = carry.brackets(Marks::of(block));
        // Only where that many are closed can it be the last one.
        if (closing.count_ones() as usize) < depth {
            depth = depth + opening.count_ones() as usize - closing.count_ones() as usize;
            continue;
        }
        let mut left = opening | closing;
        while left != 0 {
            let bracket = left & left.wrapping_neg();
            left ^= bracket;
            if opening & bracket != 0 {
                depth += 1;
                continue;
            }
            depth -= 1;
            if depth == 0 {
                return Some(at + index * BLOCK + bracket.trailing_zeros() as usize + 1);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same, byte by byte.
    fn plainly(text: &[u8], at: usize, mut depth: usize) -> Option<usize> {
        let mut bytes = text.iter().enumerate().skip(at).peekable();
        let mut inside = false;
        while let Some((index, byte)) = bytes.next() {
            match byte {
                // Nothing else means anything else behind a backslash.
                b'\\' => drop(bytes.next_if(|(_, next)| matches!(next, b'"' | b'\\'))),
                b'"' => inside = !inside,
                b'{' | b'[' if !inside => depth += 1,
                b'}' | b']' if !inside => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Some(index + 1);
            }
        }
        None
    }

    #[test]
    fn blocks_end_anywhere() {
        for length in 0..200 {
            let text = format!(r#"{}"{{\\\"}}]"[{{}}]}} }}"#, " ".repeat(length));
            assert_eq!(closed(text.as_bytes(), 0, 1), Some(text.len() - 2), "{length}");
            assert_eq!(closed(text.as_bytes(), 0, 2), Some(text.len()), "{length}");
            assert_eq!(closed(text.as_bytes(), 0, 3), None, "{length}");
        }
        assert_eq!(closed(b"}", 1, 1), None);
        assert_eq!(closed(b"}", 2, 1), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn brackets_are_closed_where_they_are_byte_by_byte(text in r#"([\[\]{}"\\]|[\[\]{}a ]|旺|[a-z ]{0,70}){0,60}"#, at in 0..8_usize, depth in 1..4_usize) {
            let at = at.min(text.len());
            prop_assert_eq!(closed(text.as_bytes(), at, depth), plainly(text.as_bytes(), at, depth));
        }
    }
}
