//! One event, one line: whatever a sender, the ERP or a registry wrote, it cannot begin a line of
//! its own.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use super::terminal::aside;

/// Control characters, line separators and marks that turn the reading direction, written out.
#[must_use]
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    if !text.contains(is_forging) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 16);
    for ch in text.chars() {
        if is_forging(ch) {
            // Also what JSON calls it: none of them is beyond four digits.
            line.push_str(&format!("\\u{:04x}", u32::from(ch)));
        } else {
            line.push(ch);
        }
    }
    Cow::Owned(line)
}

fn is_forging(ch: char) -> bool {
    ch.is_control()
        || matches!(ch, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}')
}

/// Standard error for log lines. A formatter hands over each event in one piece that ends in the
/// line's end.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogLines {
    /// The formatter's own colours are let through; what it formats it has freed of escapes
    /// already.
    pub colours: bool,
}

impl Write for LogLines {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let line = if self.colours {
            Cow::Owned(line.replace('\n', "\\n").replace('\r', "\\r"))
        } else {
            one_line(line)
        };
        // In one piece: standard error has no buffer, so every piece is a system call.
        let mut line = line.into_owned();
        line.push('\n');
        aside(|| io::stderr().lock().write_all(line.as_bytes()))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_begins_a_line_of_its_own() {
        assert_eq!(one_line("退货 😀 'quoted' ; : \"x\""), "退货 😀 'quoted' ; : \"x\"");
        let forged = one_line("a\r\n2026-01-01 ERROR forged\u{1b}[2J\u{202e}\u{2028}\u{0}");
        assert!(!forged.contains(is_forging), "{forged:?}");
        assert!(forged.contains("\\u000a2026-01-01"), "{forged}");
    }
}
