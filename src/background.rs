//! Threads and blocking work beside the caller, named for as long as they run, and the log line of a
//! panic.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    collections::BTreeMap,
    io, panic,
    sync::{Mutex, PoisonError, TryLockError},
    thread,
};

use tokio::task::JoinHandle;

/// What runs, by its number.
static RUNNING: Mutex<(u64, BTreeMap<u64, String>)> = Mutex::new((0, BTreeMap::new()));

/// Names something for as long as it lives.
#[derive(Debug)]
pub(crate) struct Running(u64);

impl Running {
    pub(crate) fn named(name: &str) -> Self {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.0 += 1;
        let number = running.0;
        running.1.insert(number, name.to_owned());
        Self(number)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&self.0);
    }
}

/// What runs now and has to end before the process can, oldest first. Never waits: whoever asks may
/// be the last to answer.
pub(crate) fn running() -> Vec<String> {
    match RUNNING.try_lock() {
        Ok(running) => running.1.values().cloned().collect(),
        Err(TryLockError::Poisoned(running)) => running.into_inner().1.values().cloned().collect(),
        Err(TryLockError::WouldBlock) => Vec::new(),
    }
}

/// Starts a thread that ends with its work. What it leaves behind (a closed channel) has to tell
/// whoever waits for it.
///
/// # Errors
/// When the operating system gives no thread.
pub(crate) fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let named = name.to_owned();
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _running = Running::named(&named);
        work();
    })?;
    Ok(())
}

/// Starts blocking work; a panic is an error of the handle.
pub(crate) fn blocking<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    tokio::task::spawn_blocking(move || {
        let _running = Running::named(name);
        work()
    })
}

fn said(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message")
}

/// Makes a log line of every panic from now on: pipelines of logs lose what standard error holds
/// besides.
pub(crate) fn log_panics() {
    let otherwise = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !tracing::dispatcher::has_been_set() {
            return otherwise(info);
        }
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
        let location = info.location().map(ToString::to_string);
        tracing::error!(
            error = %said(info.payload()),
            thread.name = thread::current().name().unwrap_or("unnamed"),
            panic.location = location,
            panic.backtrace = backtrace.map(|frames| frames.to_string()),
            "panicked, which is a defect of the connector; report it"
        );
    }));
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn what_runs_is_named_until_it_ends() {
        let (end, ended) = mpsc::channel::<()>();
        thread("named-for-a-test", move || {
            let _ = ended.recv();
        })
        .unwrap();
        let named = || running().iter().any(|name| name == "named-for-a-test");
        while !named() {
            thread::yield_now();
        }
        drop(end);
        while named() {
            thread::yield_now();
        }
    }
}
