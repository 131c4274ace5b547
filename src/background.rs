//! Threads and tasks beside the caller. All of them are started here, which a test enforces, so that
//! a panic in one is never a part that is missing without a word:
//!
//! ```text
//! thread, blocking       end with their work; whoever waits for them is told, and while they run
//!                        they can be named
//! lasting_thread, _task  are wanted for as long as the process: begun again after a panic
//! ```
//!
//! The place of a panic is logged by [`log_panics`].

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    collections::BTreeMap,
    io,
    panic::{self, AssertUnwindSafe},
    sync::{Mutex, PoisonError, TryLockError},
    thread,
    time::Duration,
};

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use crate::clock::millis;

/// Until something is begun again after a panic: what caused it may last, and a sentence every few
/// seconds is enough.
const PAUSE: Duration = Duration::from_secs(5);

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

/// Starts a thread that ends with its work. Whoever waits for it has to learn of its end: by the
/// handle, or by a channel that closes.
///
/// # Errors
/// When the operating system gives no thread.
pub(crate) fn thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<thread::JoinHandle<T>> {
    let named = name.to_owned();
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _running = Running::named(&named);
        work()
    })
}

/// Drops a client on a thread of its own: closing it waits for brokers that may not answer. The
/// thread, unless there is none and it was closed in place.
pub(crate) fn close<T: Send + 'static>(
    name: &'static str,
    client: T,
) -> Option<thread::JoinHandle<()>> {
    thread(name, move || drop(client))
        .inspect_err(|error| tracing::debug!(%error, "no thread for {name}; closed in place"))
        .ok()
}

/// Starts a thread for what has to go on until it returns by itself.
///
/// # Errors
/// When the operating system gives no thread.
pub(crate) fn lasting_thread(
    name: &str,
    mut work: impl FnMut() + Send + 'static,
) -> io::Result<()> {
    let named = name.to_owned();
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        while let Err(panic) = panic::catch_unwind(AssertUnwindSafe(&mut work)) {
            begins_again(&named, &*panic);
            thread::sleep(PAUSE);
        }
    })?;
    Ok(())
}

/// Starts a task for what has to go on until it returns by itself, or the handle is dropped.
pub(crate) fn lasting_task<F: Future<Output = ()> + Send>(
    name: &'static str,
    mut work: impl FnMut() -> F + Send + 'static,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        // The call is within as well: it may panic before there is a future.
        while let Err(panic) = AssertUnwindSafe(async { work().await }).catch_unwind().await {
            begins_again(name, &*panic);
            tokio::time::sleep(PAUSE).await;
        }
    }))
}

/// Starts a task whose end somebody waits for, by its handle or by what it drops.
pub(crate) fn task<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    tokio::spawn(work)
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

fn begins_again(name: &str, panic: &(dyn Any + Send)) {
    tracing::error!(
        error = %said(panic),
        thread.name = name,
        retry_after_ms = millis(PAUSE),
        "background work panicked, which is a defect of the connector; starting it again"
    );
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

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_begins_again_and_ends_with_its_handle() {
        let (begun, mut beginnings) = tokio::sync::mpsc::unbounded_channel();
        let handle = lasting_task("test", move || {
            begun.send(()).unwrap();
            let first = begun.clone();
            async move {
                if first.strong_count() < 4 {
                    panic!("on purpose");
                }
            }
        });
        for _ in 0..3 {
            beginnings.recv().await.unwrap();
        }
        drop(handle);
        while beginnings.recv().await.is_some() {}
    }

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
