//! When a pipeline whose consumer stopped working is begun anew, and when the process ends instead.

use std::{sync::OnceLock, time::Duration};

use crate::{clock::Moment, config::Settings};

/// Restarts of a pipeline, one after the other without anything moved, before the process ends.
const IN_VAIN: u32 = 3;
/// Before a pipeline begins anew, doubled as often with each restart in a row: up to half a minute.
const PAUSE: Duration = Duration::from_secs(1);
const DOUBLINGS: u32 = 5;
/// A consumer that worked for so long ends such a row.
const QUIET: Duration = Duration::from_secs(600);

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
    /// How long commands in doubt need to be decided.
    bound: Duration,
    /// The process is not ended before.
    not_before: Moment,
    in_vain: u32,
    in_row: u32,
}

impl Restarts {
    /// A process that ends takes every lookup bound of its commands with it: the next one waits for
    /// them anew (`docs/delivery.md#unknown-outcomes`). Ends of processes that are at least such a bound
    /// and a lookup apart leave each of them the time to decide.
    pub(crate) fn new(settings: &Settings) -> Self {
        static STARTED: OnceLock<Moment> = OnceLock::new();
        let commands = &settings.commands;
        let bound = commands.intent_ttl
            + commands.call_timeout
            + commands.apply_grace
            + commands.lookup_interval;
        let started = *STARTED.get_or_init(Moment::now);
        Self { bound, not_before: started.plus(bound), in_vain: 0, in_row: 0 }
    }

    /// How long a thread may be silent that may usually be so for `usual`. After a restart in vain
    /// the next one leaves commands in doubt the time to be decided: the pipeline looks up and
    /// settles without it.
    pub(crate) fn silence_limit(&self, usual: Duration) -> Duration {
        if self.in_row == 0 { usual } else { usual.max(self.bound) }
    }

    /// The consumer stopped working, after so long. `standstill`: nothing moved since it began,
    /// although a broker answers.
    pub(crate) fn after(&mut self, lasted: Duration, standstill: bool, now: Moment) -> Next {
        if lasted > QUIET {
            self.in_row = 0;
        }
        self.in_row += 1;
        self.in_vain = if standstill { self.in_vain + 1 } else { 0 };
        if self.in_vain >= IN_VAIN && now >= self.not_before {
            Next::EndProcess
        } else {
            Next::Restart(PAUSE * 2_u32.pow((self.in_row - 1).min(DOUBLINGS)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_ends_after_restarts_in_vain_and_not_before_commands_could_be_decided() {
        let restart = |seconds| Next::Restart(Duration::from_secs(seconds));
        let bound = Duration::from_secs(165);
        let usual = Duration::from_secs(35);
        let mut restarts = Restarts { bound, not_before: Moment(100), in_vain: 0, in_row: 0 };
        assert_eq!(restarts.silence_limit(usual), usual);
        for (lasted, standstill, now, next) in [
            (1, true, 200, restart(1)),
            (1, true, 200, restart(2)),
            (1, false, 200, restart(4)),
            (601, true, 200, restart(1)),
            (1, true, 200, restart(2)),
            (1, true, 200, Next::EndProcess),
            (1, true, 99, restart(8)),
            (1, true, 100, Next::EndProcess),
            (1, false, 100, restart(32)),
            (1, false, 100, restart(32)),
        ] {
            let lasted = Duration::from_secs(lasted);
            assert_eq!(restarts.after(lasted, standstill, Moment(now)), next, "at {now}");
            assert_eq!(restarts.silence_limit(usual), bound, "commands in doubt are decided");
        }
    }
}
