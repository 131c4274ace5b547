//! A consumer group, asked from outside: which half of a rebalance it is in.

use std::time::{Duration, Instant};

use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
};

/// Between two questions: the halves of a rebalance last some milliseconds each.
const ASK: Duration = Duration::from_millis(1);

/// The broker's states of a group that has members or had some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Empty,
    /// Waits until every member has joined anew.
    Preparing,
    /// Waits for the leader's assignment.
    Completing,
    Stable,
}

/// What a group is at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupNow {
    pub phase: Phase,
    pub members: usize,
}

/// Asks about one group.
pub struct GroupProbe {
    group: String,
    client: BaseConsumer,
}

impl GroupProbe {
    /// At any broker.
    pub fn new(broker: &ClientConfig, group: &str) -> Self {
        Self { group: group.to_owned(), client: broker.create().expect("a client") }
    }

    /// The group's id.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// What the broker says; `None` while it does not answer, or does not know the group.
    pub fn now(&self) -> Option<GroupNow> {
        let list = self.client.fetch_group_list(Some(&self.group), Duration::from_secs(1)).ok()?;
        let found = list.groups().iter().find(|one| one.name() == self.group)?;
        let phase = match found.state() {
            "Empty" => Phase::Empty,
            "PreparingRebalance" => Phase::Preparing,
            "CompletingRebalance" => Phase::Completing,
            "Stable" => Phase::Stable,
            _ => return None,
        };
        Some(GroupNow { phase, members: found.members().len() })
    }

    /// Asks again and again until `right` likes what the group is; `false` when it never does
    /// within `limit`.
    pub fn wait(&self, limit: Duration, mut right: impl FnMut(GroupNow) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            if self.now().is_some_and(&mut right) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(ASK);
        }
    }
}
