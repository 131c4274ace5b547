//! Notices threads that do not come back.

use std::time::Duration;

use crate::clock::Moment;

use super::{Group, GroupFault, GroupState};

/// How long the polling thread may take for one round besides a drain: it asks brokers, for up to
/// 10 s.
pub(crate) const POLL_MARGIN: Duration = Duration::from_secs(15);
/// How long a thread that restores may give no sign of life although a broker answers: each of its
/// requests takes up to 10 s.
const RESTORE_MARGIN: Duration = Duration::from_secs(30);
/// Between the first look that finds a thread silent and the one that believes it: when a frozen
/// process goes on, its threads do so in any order.
const CONFIRM: Duration = Duration::from_secs(5);

/// Since when a thread has been found silent.
#[derive(Debug, Default)]
struct Silence(Option<Moment>);

impl Silence {
    /// Whether the thread hangs. It was last heard of `silent` ago, and may be silent for `limit`.
    fn look(&mut self, silent: Duration, limit: Duration, now: Moment) -> bool {
        if silent <= limit {
            self.0 = None;
            return false;
        }
        self.0.get_or_insert(now).until(now) >= CONFIRM
    }
}

/// The threads that a pipeline waits for: the polling one of its membership, and those that restore.
#[derive(Debug)]
pub(crate) struct Threads {
    poll: Silence,
    restore: Silence,
    /// How long the polling thread may be silent.
    limit: Duration,
}

impl Threads {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { poll: Silence::default(), restore: Silence::default(), limit }
    }

    /// The sentence about one that hangs. `restored` says what is being restored.
    pub(crate) fn hanging(
        &mut self,
        group: &Group,
        state: &GroupState,
        restored: impl FnOnce() -> String,
    ) -> Option<GroupFault> {
        let now = Moment::now();
        let (what, silent) = if self.poll.look(group.silent_for(), self.limit, now) {
            (format!("polls {}", group.topic()), group.silent_for())
        } else if self.restore.look(group.restore_silent_for(), RESTORE_MARGIN, now)
            && state.view().answered_lately()
        {
            (format!("restores {}", restored()), group.restore_silent_for())
        } else {
            return None;
        };
        let seconds = silent.as_secs();
        Some(GroupFault(format!("the thread that {what} has not come back for {seconds} s")))
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
