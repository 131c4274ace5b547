//! When a pipeline whose consumer stopped working is begun anew, and when the process ends instead.

use std::{sync::OnceLock, time::Duration};

use crate::{clock::Moment, config::Settings};

/// Restarts of a pipeline, one after the other without anything moved, before the process ends.
const IN_VAIN: u32 = 3;
/// Before a pipeline begins anew.
const PAUSE: Duration = Duration::from_secs(1);

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Begin anew after this pause.
    Restart(Duration),
    /// A new process may do what a new consumer could not.
    EndProcess,
}

/// The restarts of one pipeline so far.
#[derive(Debug)]
pub(crate) struct Restarts {
    /// The process is not ended before.
    not_before: Moment,
    in_vain: u32,
}

impl Restarts {
    /// A process that ends takes every lookup bound of its commands with it: the next one waits for
    /// them anew (`docs/delivery.md#unknown-outcomes`). Ends of processes that are at least such a bound
    /// and a lookup apart leave each of them the time to decide.
    pub(crate) fn new(settings: &Settings) -> Self {
        static STARTED: OnceLock<Moment> = OnceLock::new();
        let commands = &settings.commands;
        let bound = commands.intent_ttl + commands.call_timeout + commands.apply_grace;
        let started = *STARTED.get_or_init(Moment::now);
        Self { not_before: started.plus(bound + commands.lookup_interval), in_vain: 0 }
    }

    /// The consumer stopped working. `standstill`: nothing moved since it began, although a broker
    /// answers.
    pub(crate) fn after(&mut self, standstill: bool, now: Moment) -> Next {
        self.in_vain = if standstill { self.in_vain + 1 } else { 0 };
        if self.in_vain >= IN_VAIN && now >= self.not_before {
            Next::EndProcess
        } else {
            Next::Restart(PAUSE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_ends_after_restarts_in_vain_and_not_before_commands_could_be_decided() {
        let restart = Next::Restart(PAUSE);
        let mut restarts = Restarts { not_before: Moment(100), in_vain: 0 };
        for (standstill, now, next) in [
            (true, 200, restart),
            (true, 200, restart),
            (false, 200, restart),
            (true, 200, restart),
            (true, 200, restart),
            (true, 200, Next::EndProcess),
            (true, 99, restart),
            (true, 100, Next::EndProcess),
        ] {
            assert_eq!(restarts.after(standstill, Moment(now)), next, "at {now}");
        }
    }
}
