//! Places where a test kills the process: the crash table goes through all of them.
//!
//! `WDT_CRASH_AT=<name>` ends the process by SIGKILL at the first passage of that point, `<name>:3` at the third. Nothing
//! of it is in a release build.

/// Kills the process if the environment names this point. Called right after what the name says has happened.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    };

    static WANTED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static PASSED: AtomicU32 = AtomicU32::new(0);
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("WDT_CRASH_AT").ok()?;
        Some(match text.split_once(':') {
            Some((name, count)) => (name.to_owned(), count.parse().unwrap_or(1)),
            None => (text, 1),
        })
    });
    if let Some((wanted, count)) = wanted
        && wanted == name
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *count
    {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// Nothing: crash points are compiled out of release builds.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_name: &str) {}
