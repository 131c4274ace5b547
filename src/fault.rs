//! The one word both routes share about what went wrong: what the caller does next.

use std::{error::Error, fmt};

/// What a failure asks of whoever meets it. Module errors map to one of these; nothing decides by
/// reading texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It had no effect and may work later: try again after a pause.
    Retry,
    /// It will never work with this input: record why, go on with the next.
    Reject,
    /// Nobody knows whether it had an effect: ask before doing anything again.
    Ambiguous,
    /// This process must stop, or a person must act.
    Fatal,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Retry => "retry",
            Self::Reject => "reject",
            Self::Ambiguous => "ambiguous",
            Self::Fatal => "fatal",
        })
    }
}

/// An error and its causes in one line, each once: the text of an HTTP client's error leaves the
/// cause out, others repeat it.
#[must_use]
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}
