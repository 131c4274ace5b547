//! Printing that survives a closed pipe.

use std::io::{self, Write};

use crate::telemetry::one_line;

/// Nobody reads standard output any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed;

/// One line on standard output, flushed, so that a reader behind a pipe sees it at once.
///
/// # Errors
/// [`Closed`] when nobody reads any longer: the verb then ends quietly.
pub(super) fn say(line: &str) -> Result<(), Closed> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|_| Closed)
}

/// Bytes on standard output as they are.
///
/// # Errors
/// As [`say`].
pub(super) fn write(bytes: &[u8]) -> Result<(), Closed> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|_| Closed)
}

/// One line on standard error, whatever it quotes; there is nobody to tell when that fails.
pub(super) fn complain(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", one_line(line));
}
