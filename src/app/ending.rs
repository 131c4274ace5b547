//! How the process ends: asked to by a signal, and in time whatever is broken.
//!
//! Nothing here depends on the pipelines' runtime, whose threads may all be blocked. One thread
//! listens for signals on a small runtime of its own. Another one holds the deadline; it neither
//! logs nor takes a lock of anybody else before the deadline has passed.

use std::{
    io, process,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::background;

/// What may follow `commands.drain_timeout`: leaving the groups, last answers of the listener, last
/// traces. With [`LAST_WORD`], and half a second for the system to end the process, it is the 5 s that
/// the documentation promises.
const AFTER_DRAIN: Duration = Duration::from_millis(3500);
/// What the deadline's own sentence may take: nobody may be reading standard error.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The process's end; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    begun: CancellationToken,
    deadline: Arc<Deadline>,
    /// From the beginning of the end to the deadline.
    within: Duration,
}

impl Ending {
    /// An end that has not begun. A drain may take `drain_timeout`.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub(crate) fn new(drain_timeout: Duration) -> io::Result<Self> {
        let deadline = Arc::new(Deadline::default());
        let watched = Arc::clone(&deadline);
        thread::Builder::new().name("deadline".to_owned()).spawn(move || watched.watch())?;
        Ok(Self { begun: CancellationToken::new(), deadline, within: drain_timeout + AFTER_DRAIN })
    }

    /// Begins the end at SIGTERM or SIGINT; a second signal ends the process at once.
    ///
    /// # Errors
    /// When signals cannot be listened for.
    pub(crate) fn begin_at_signals(&self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("signals cannot be listened for")?;
        let registering = runtime.enter();
        let mut terminate =
            signal(SignalKind::terminate()).context("SIGTERM cannot be listened for")?;
        let mut interrupt =
            signal(SignalKind::interrupt()).context("SIGINT cannot be listened for")?;
        drop(registering);
        let ending = self.clone();
        let listen = async move {
            for second in [false, true] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if second {
                    ending.deadline.change(|times| times.second_signal = true);
                } else {
                    ending.begin();
                    tracing::info!(
                        "shutting down: draining work in flight; a second signal exits immediately"
                    );
                }
            }
        };
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || runtime.block_on(listen))
            .context("signals cannot be listened for")?;
        Ok(())
    }

    /// The end begins now, unless it has.
    pub(crate) fn begin(&self) {
        let at = Instant::now() + self.within;
        self.deadline.change(|times| {
            times.end = Some(times.end.map_or(at, |end| end.min(at)));
            // Whatever restarts ends now.
            times.restart = None;
        });
        self.begun.cancel();
    }

    /// Cancelled when the end begins.
    pub(crate) fn begun(&self) -> &CancellationToken {
        &self.begun
    }

    /// Everything is drained: what is left may be cut off.
    pub(crate) fn drained(&self) {
        self.deadline.change(|times| times.drained = true);
    }

    /// The connector has ended, and its process goes on.
    pub(crate) fn ended(&self) {
        self.deadline.change(|times| times.end = None);
    }

    /// The pipelines are to stop in time for a restart with new credentials.
    pub(super) fn restarting(&self) {
        let at = Instant::now() + self.within;
        self.deadline.change(|times| times.restart = times.end.is_none().then_some(at));
    }

    /// They have stopped.
    pub(super) fn restarted(&self) {
        self.deadline.change(|times| times.restart = None);
    }
}

#[derive(Debug, Default)]
struct Deadline {
    times: Mutex<Times>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Times {
    end: Option<Instant>,
    restart: Option<Instant>,
    second_signal: bool,
    drained: bool,
}

/// Why the process ends before everything has ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overdue {
    SecondSignal,
    Drained,
    End,
    Restart,
}

impl Times {
    /// What is due, or when to look again.
    fn due(&self, now: Instant) -> Result<Overdue, Option<Instant>> {
        if self.second_signal {
            return Ok(Overdue::SecondSignal);
        }
        if self.end.is_some_and(|at| at <= now) {
            return Ok(if self.drained { Overdue::Drained } else { Overdue::End });
        }
        if self.restart.is_some_and(|at| at <= now) {
            return Ok(Overdue::Restart);
        }
        Err([self.end, self.restart].into_iter().flatten().min())
    }
}

impl Deadline {
    fn lock(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Times)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn watch(&self) {
        let mut times = self.lock();
        let overdue = loop {
            let now = Instant::now();
            times = match times.due(now) {
                Ok(overdue) => break overdue,
                Err(None) => self.changed.wait(times).unwrap_or_else(PoisonError::into_inner),
                Err(Some(at)) => {
                    let waited = self.changed.wait_timeout(times, at - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        };
        drop(times);
        end(overdue);
    }
}

fn end(overdue: Overdue) {
    let kill = || {
        // Nobody is left to hear of an error.
        let _ = kill_process(getpid(), Signal::KILL);
    };
    // A pipe that nobody reads, or an exit handler of a library, could hold up even this.
    let executioner = thread::Builder::new().spawn(move || {
        thread::sleep(LAST_WORD);
        kill();
    });
    if executioner.is_err() {
        return kill();
    }
    let running = background::running().join(", ");
    let running = if running.is_empty() { "nothing that has a name" } else { &running };
    match overdue {
        Overdue::SecondSignal => tracing::error!(
            running,
            "ended at once by a second signal; open intents are looked up at the next start"
        ),
        Overdue::Drained => tracing::warn!(
            running,
            "work is drained, but the process did not end in time; ended it"
        ),
        Overdue::End => tracing::error!(
            running,
            "shutdown did not finish in time; ended the process; \
             open intents are looked up at the next start"
        ),
        Overdue::Restart => tracing::error!(
            running,
            "pipelines did not stop in time for new credentials; ended the process; \
             open intents are looked up at the next start"
        ),
    }
    process::exit(i32::from(overdue != Overdue::Drained));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_first_counts_and_a_drained_process_ends_well() {
        let now = Instant::now();
        let later = now + Duration::from_secs(9);
        let mut times = Times::default();
        assert_eq!(times.due(now), Err(None));
        times.restart = Some(later);
        assert_eq!(times.due(now), Err(Some(later)));
        assert_eq!(times.due(later), Ok(Overdue::Restart));
        times.end = Some(now);
        assert_eq!(times.due(now), Ok(Overdue::End));
        times.drained = true;
        assert_eq!(times.due(now), Ok(Overdue::Drained));
        times.second_signal = true;
        assert_eq!(times.due(now), Ok(Overdue::SecondSignal));
    }
}
