//! Partitions without a leader, by the broker's word.

use std::collections::BTreeSet;

use rdkafka::metadata::{Metadata, MetadataTopic};

/// The partitions of a topic, and which of them have no leader: a record for one of those holds up
/// its transaction, and every later one of the same transactional id
/// (`docs/kafka.md#partitions-without-a-leader`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leaders {
    pub count: i32,
    pub lost: BTreeSet<i32>,
}

impl Leaders {
    /// No partitions where the metadata do not know the topic.
    pub(super) fn of(metadata: &Metadata, topic: &str) -> Self {
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        found.map(Self::of_topic).unwrap_or_default()
    }

    pub(super) fn of_topic(topic: &MetadataTopic) -> Self {
        let partitions = topic.partitions();
        let lost = partitions.iter().filter(|one| one.leader() < 0).map(|one| one.id());
        Self { count: i32::try_from(partitions.len()).unwrap_or(i32::MAX), lost: lost.collect() }
    }

    /// Whether a partition exists and has a leader.
    pub(super) fn leads(&self, partition: i32) -> bool {
        (0..self.count).contains(&partition) && !self.lost.contains(&partition)
    }
}
