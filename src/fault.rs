//! Formats an error together with its causes.

use std::error::Error;

/// An error and its causes in one line, each once: the text of an HTTP client's error leaves the
/// cause out, others repeat it.
#[must_use]
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
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
