//! A progress bar that shares the terminal with the log's lines.

use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::ProgressBar;

static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// The bar that is drawn below the log, if one is; whoever holds it must not log.
pub(crate) fn bar() -> MutexGuard<'static, Option<ProgressBar>> {
    BAR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes something while the bar makes way for it.
pub(super) fn aside<T>(write: impl FnOnce() -> T) -> T {
    match &*bar() {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}
