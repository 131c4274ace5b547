//! What the operator's commands read of a topic: chosen partitions, from chosen offsets or a time,
//! to the end as it is now.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};

use crate::config::KafkaSettings;

use super::{
    client::{consumer_config, group_id},
    tool::{Quiet, Seen, ToolFault, cannot_be_read, seen},
    unreadable::{is_unreadable, unreadable},
};

const REQUEST: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(200);

/// Where a scan begins, in every partition it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Beginning,
    /// The first record written at or after this time, in milliseconds since 1970.
    Time(i64),
    /// These offsets; partitions that are not named are not read.
    Offsets(BTreeMap<i32, i64>),
    /// The same, and up to these offsets, which are not read themselves.
    Ranges(BTreeMap<i32, (i64, i64)>),
}

/// A topic that can be scanned.
pub(crate) struct Scan {
    consumer: BaseConsumer<Quiet>,
    topic: String,
    /// By partition: where it begins and ends.
    ranges: BTreeMap<i32, (i64, i64)>,
}

impl std::fmt::Debug for Scan {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Scan")
            .field("topic", &self.topic)
            .field("ranges", &self.ranges)
            .finish_non_exhaustive()
    }
}

impl Scan {
    /// Finds out what there is to read; of all partitions, or of `only` these. Blocks.
    ///
    /// # Errors
    /// [`ToolFault`] when no broker answers, the topic or a partition does not exist, or reading is
    /// refused.
    pub(crate) fn open(
        kafka: &KafkaSettings,
        topic: &str,
        only: Option<&[i32]>,
        from: &From,
    ) -> Result<Self, ToolFault> {
        let consumer: BaseConsumer<Quiet> =
            consumer_config(kafka, "tool", &group_id(kafka, "tool"))
                .set("enable.partition.eof", "true")
                .create_with_context(Quiet)
                .map_err(|error| {
                    ToolFault(format!("the Kafka client cannot be created: {error}"))
                })?;
        let refused = |error: KafkaError| ToolFault(format!("{topic} cannot be read: {error}"));
        // All topics: a request for one by name could create it where the broker creates topics by
        // itself.
        let metadata = consumer
            .fetch_metadata(None, REQUEST)
            .map_err(|error| ToolFault(format!("no broker answers: {error}")))?;
        let known: Vec<i32> = metadata
            .topics()
            .iter()
            .filter(|found| found.name() == topic)
            .flat_map(|found| found.partitions().iter().map(|partition| partition.id()))
            .collect();
        if known.is_empty() {
            return Err(ToolFault(format!(
                "the topic {topic} does not exist; wdt-connector topics creates what is missing"
            )));
        }
        let named: Vec<i32> = match from {
            From::Offsets(offsets) => offsets.keys().copied().collect(),
            From::Ranges(ranges) => ranges.keys().copied().collect(),
            From::Beginning | From::Time(_) => only.unwrap_or(&known).to_vec(),
        };
        if let Some(absent) = named.iter().find(|partition| !known.contains(partition)) {
            return Err(ToolFault(format!(
                "{topic} has no partition {absent}; it has {}",
                known.len()
            )));
        }
        let mut ranges = BTreeMap::new();
        for partition in named {
            let (first, mut end) =
                consumer.fetch_watermarks(topic, partition, REQUEST).map_err(refused)?;
            let begin = match from {
                From::Ranges(ranges) => {
                    let (begin, limit) = ranges.get(&partition).copied().unwrap_or((first, end));
                    end = end.min(limit);
                    begin.max(first)
                }
                From::Beginning => first,
                From::Offsets(offsets) => {
                    offsets.get(&partition).copied().unwrap_or(first).max(first)
                }
                From::Time(at) => {
                    let mut asked = TopicPartitionList::new();
                    asked
                        .add_partition_offset(topic, partition, Offset::Offset(*at))
                        .map_err(refused)?;
                    let answer = consumer.offsets_for_times(asked, REQUEST).map_err(refused)?;
                    match answer.find_partition(topic, partition).map(|found| found.offset()) {
                        Some(Offset::Offset(offset)) => offset,
                        _ => end,
                    }
                }
            };
            if begin < end {
                ranges.insert(partition, (begin, end));
            }
        }
        Ok(Self { consumer, topic: topic.to_owned(), ranges })
    }

    /// Where every partition ends now. Blocks.
    ///
    /// # Errors
    /// As [`Scan::open`].
    pub(crate) fn ends(
        kafka: &KafkaSettings,
        topic: &str,
    ) -> Result<BTreeMap<i32, i64>, ToolFault> {
        let none = Self::open(kafka, topic, Some(&[]), &From::Beginning)?;
        let refused = |error: KafkaError| ToolFault(format!("{topic} cannot be read: {error}"));
        let metadata = none.consumer.fetch_metadata(None, REQUEST).map_err(refused)?;
        metadata
            .topics()
            .iter()
            .filter(|found| found.name() == topic)
            .flat_map(|found| found.partitions())
            .map(|partition| {
                let (_, end) = none
                    .consumer
                    .fetch_watermarks(topic, partition.id(), REQUEST)
                    .map_err(refused)?;
                Ok((partition.id(), end))
            })
            .collect()
    }

    /// The offsets a role's group has committed; partitions without one are left out. Blocks.
    ///
    /// # Errors
    /// [`ToolFault`] when no broker answers or a transaction is pending.
    pub(crate) fn committed(
        kafka: &KafkaSettings,
        role: &str,
        topic: &str,
    ) -> Result<BTreeMap<i32, i64>, ToolFault> {
        let group = group_id(kafka, role);
        let refused = |error: KafkaError| {
            ToolFault(format!("the offsets of the group {group} cannot be read: {error}"))
        };
        let consumer: BaseConsumer<Quiet> =
            consumer_config(kafka, "tool", &group).create_with_context(Quiet).map_err(refused)?;
        let mut list = TopicPartitionList::new();
        for partition in Self::ends(kafka, topic)?.into_keys() {
            list.add_partition(topic, partition);
        }
        let answer = consumer.committed_offsets(list, REQUEST).map_err(refused)?;
        let found = answer.elements().into_iter().filter_map(|element| match element.offset() {
            Offset::Offset(offset) => Some((element.partition(), offset)),
            _ => None,
        });
        Ok(found.collect())
    }

    /// How many members a role's group has, static ones included whose session has not ended yet.
    /// Blocks.
    ///
    /// # Errors
    /// [`ToolFault`] when no broker answers.
    pub(crate) fn members(kafka: &KafkaSettings, role: &str) -> Result<usize, ToolFault> {
        let group = group_id(kafka, role);
        let refused = |error: KafkaError| {
            ToolFault(format!("the members of the group {group} cannot be read: {error}"))
        };
        let consumer: BaseConsumer<Quiet> =
            consumer_config(kafka, "tool", &group).create_with_context(Quiet).map_err(refused)?;
        let groups = consumer.fetch_group_list(Some(&group), REQUEST).map_err(refused)?;
        Ok(groups.groups().iter().map(|group| group.members().len()).sum())
    }

    /// How many offsets there are to read; records may be fewer.
    #[must_use]
    pub(crate) fn length(&self) -> u64 {
        self.ranges.values().map(|(begin, end)| u64::try_from(end - begin).unwrap_or(0)).sum()
    }

    /// Hands over every committed record, in offset order within a partition, and how many offsets
    /// are behind it in all. Ends early when `visit` answers `false`. Blocks.
    ///
    /// # Errors
    /// [`ToolFault`] when reading is refused.
    pub(crate) fn run(self, mut visit: impl FnMut(Seen, u64) -> bool) -> Result<(), ToolFault> {
        let refused =
            |error: KafkaError| ToolFault(format!("{} cannot be read: {error}", self.topic));
        let mut list = TopicPartitionList::new();
        for (partition, (begin, _)) in &self.ranges {
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(*begin))
                .map_err(refused)?;
        }
        self.consumer.assign(&list).map_err(refused)?;
        let mut open = self.ranges.clone();
        let mut behind: u64 = 0;
        let passed = |from: i64, to: i64| u64::try_from(to - from).unwrap_or(0);
        while !open.is_empty() {
            match self.consumer.poll(POLL) {
                None => {}
                Some(Ok(message)) => {
                    let record = seen(&message);
                    let Some((at, end)) = open.get_mut(&record.partition) else { continue };
                    if record.offset >= *end {
                        behind += passed(*at, *end);
                        open.remove(&record.partition);
                        continue;
                    }
                    behind += passed(*at, record.offset + 1);
                    *at = record.offset + 1;
                    if *at >= *end {
                        open.remove(&record.partition);
                    }
                    if !visit(record, behind) {
                        return Ok(());
                    }
                }
                // The end of what is committed: a transaction that is still open holds back the
                // rest.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    if let Some((at, end)) = open.remove(&partition) {
                        behind += passed(at, end);
                    }
                }
                Some(Err(error)) if is_unreadable(&error) => {
                    let places = open.iter().map(|(partition, (at, _))| (*partition, Some(*at)));
                    return Err(ToolFault(unreadable(&self.topic, places, &error)));
                }
                Some(Err(error)) if cannot_be_read(&error) => return Err(refused(error)),
                // librdkafka reconnects by itself.
                Some(Err(error)) => {
                    tracing::debug!(
                        %error,
                        kafka.topic = self.topic,
                        "topic read failed; reading continues"
                    )
                }
            }
        }
        Ok(())
    }
}
