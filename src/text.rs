//! Texts of others that are repeated: never without a bound.

/// A text of at most so many characters, and … where it was longer.
#[must_use]
pub(crate) fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(
            (shortened("一二三", 3), shortened("一二三四", 3)),
            ("一二三".to_owned(), "一二三…".to_owned())
        );
    }
}
