//! Notices a thread that does not come back. Pure.

use std::time::Duration;

use crate::clock::Moment;

/// Between the first look that finds a thread silent and the one that believes it: when a frozen
/// process goes on, its threads do so in any order.
const CONFIRM: Duration = Duration::from_secs(5);

/// Since when a thread has been found silent.
#[derive(Debug, Default)]
pub(crate) struct Silence(Option<Moment>);

impl Silence {
    /// Whether the thread hangs. It was last heard of `silent` ago, and may be silent for `limit`.
    pub(crate) fn look(&mut self, silent: Duration, limit: Duration, now: Moment) -> bool {
        if silent <= limit {
            self.0 = None;
            return false;
        }
        self.0.get_or_insert(now).until(now) >= CONFIRM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_hangs_that_stays_silent_between_two_looks() {
        let second = Duration::from_secs;
        let mut silence = Silence::default();
        assert!(!silence.look(second(20), second(20), Moment(0)));
        assert!(!silence.look(second(21), second(20), Moment(1000)));
        assert!(silence.look(second(26), second(20), Moment(6000)));
    }

    #[test]
    fn a_process_that_was_frozen_proves_nothing() {
        let second = Duration::from_secs;
        let mut silence = Silence::default();
        assert!(!silence.look(second(600), second(20), Moment(600_000)));
        assert!(!silence.look(second(1), second(20), Moment(606_000)), "it came by meanwhile");
        assert!(!silence.look(second(21), second(20), Moment(626_000)));
    }
}
