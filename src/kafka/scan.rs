//! What the operator's commands read of a topic: chosen partitions, from chosen offsets or a time,
//! to the end as it is now or until they have seen enough.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::KafkaSettings;

use super::{
    client::{Quiet, consumer_config, group_id},
    tool::{Seen, ToolFault, seen},
    topic_reader::{Place, Polled, ReadFault, TopicReader},
};

const REQUEST: Duration = Duration::from_secs(10);
/// How often a scan looks whether it should stop.
const POLL: Duration = Duration::from_millis(100);

/// Where a scan begins, in every partition it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Beginning,
    /// So many records before the end.
    Last(u32),
    /// The first record written at or after this time, in milliseconds since 1970.
    Time(i64),
    /// These offsets; partitions that are not named are not read.
    Offsets(BTreeMap<i32, i64>),
    /// The same, and up to these offsets, which are not read themselves.
    Ranges(BTreeMap<i32, (i64, i64)>),
}

/// A topic that can be scanned.
pub(crate) struct Scan {
    reader: TopicReader,
    /// By partition: where it begins and ends.
    ranges: BTreeMap<i32, Place>,
}

impl std::fmt::Debug for Scan {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Scan({}, {:?})", self.reader.topic(), self.ranges)
    }
}

impl std::convert::From<ReadFault> for ToolFault {
    fn from(fault: ReadFault) -> Self {
        Self(fault.sentence)
    }
}

impl Scan {
    fn reader(kafka: &KafkaSettings, topic: &str) -> Result<TopicReader, ToolFault> {
        TopicReader::open(kafka, "tool", &group_id(kafka, "tool"), topic)
            .map_err(|error| ToolFault(format!("the Kafka client cannot be created: {error}")))
    }

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
        let reader = Self::reader(kafka, topic)?;
        let known = reader.partitions()?;
        if known.is_empty() {
            return Err(ToolFault(format!(
                "the topic {topic} does not exist; wdt-connector topics creates what is missing"
            )));
        }
        let named: Vec<i32> = match from {
            From::Offsets(offsets) => offsets.keys().copied().collect(),
            From::Ranges(ranges) => ranges.keys().copied().collect(),
            From::Beginning | From::Last(_) | From::Time(_) => only.unwrap_or(&known).to_vec(),
        };
        if let Some(absent) = named.iter().find(|partition| !known.contains(partition)) {
            return Err(ToolFault(format!(
                "{topic} has no partition {absent}; it has {}",
                known.len()
            )));
        }
        let mut ranges = BTreeMap::new();
        for partition in named {
            let mut place = reader.log(partition)?;
            let begin = match from {
                From::Ranges(ranges) => {
                    let (begin, limit) =
                        ranges.get(&partition).copied().unwrap_or((place.next, place.end));
                    place.end = place.end.min(limit);
                    begin
                }
                From::Beginning => place.next,
                From::Last(count) => place.end - i64::from(*count),
                From::Offsets(offsets) => offsets.get(&partition).copied().unwrap_or(place.next),
                From::Time(at) => reader.since(partition, *at)?.unwrap_or(place.end),
            };
            place.next = place.next.max(begin);
            ranges.insert(partition, place);
        }
        Ok(Self { reader, ranges })
    }

    /// Where every partition ends now. Blocks.
    ///
    /// # Errors
    /// As [`Scan::open`].
    pub(crate) fn ends(
        kafka: &KafkaSettings,
        topic: &str,
    ) -> Result<BTreeMap<i32, i64>, ToolFault> {
        let logs = Self::reader(kafka, topic)?.logs()?.into_iter();
        Ok(logs.map(|(partition, log)| (partition, log.end)).collect())
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
        self.ranges.values().map(|place| passed(place.next, place.end)).sum()
    }

    /// Hands over every committed record, in offset order within a partition, and how many offsets
    /// are behind it in all. Ends early when `visit` answers `false`. Blocks.
    ///
    /// # Errors
    /// [`ToolFault`] when reading is refused.
    pub(crate) fn run(self, visit: impl FnMut(Seen, u64) -> bool) -> Result<(), ToolFault> {
        self.until(&CancellationToken::new(), false, visit)
    }

    /// The same until `stop`, and with `follow` beyond the end.
    fn until(
        mut self,
        stop: &CancellationToken,
        follow: bool,
        mut visit: impl FnMut(Seen, u64) -> bool,
    ) -> Result<(), ToolFault> {
        let mut open = self.ranges;
        open.retain(|_, place| follow || place.next < place.end);
        self.reader.begin(open.clone())?;
        let mut behind: u64 = 0;
        while !open.is_empty() && !stop.is_cancelled() {
            let (partition, offset, record) = match self.reader.poll(POLL)? {
                Polled::Nothing => continue,
                Polled::Record(message) => {
                    (message.partition(), message.offset(), Some(seen(&message)))
                }
                Polled::End(_) if follow => continue,
                // The end of what is committed: a transaction that is still open holds back the
                // rest.
                Polled::End(partition) => (partition, i64::MAX, None),
            };
            let Some(place) = open.get_mut(&partition) else { continue };
            let end = if follow { i64::MAX } else { place.end };
            let next = end.min(offset.saturating_add(1));
            behind += passed(place.next, next);
            place.next = next;
            if next >= end {
                open.remove(&partition);
                self.reader.leave(partition);
            }
            if let Some(record) = record.filter(|_| offset < end)
                && !visit(record, behind)
            {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn passed(from: i64, to: i64) -> u64 {
    u64::try_from(to - from).unwrap_or(0)
}

/// Reads committed records of one topic, all partitions, into `out`: to the end as it is now, or
/// with `follow` until `stop`. Blocks: call it from a blocking task. Ends quietly when nobody
/// receives any longer.
///
/// # Errors
/// As [`Scan::open`] and [`Scan::run`].
pub(crate) fn read(
    kafka: &KafkaSettings,
    topic: &str,
    from: &From,
    follow: bool,
    out: &mpsc::Sender<Seen>,
    stop: &CancellationToken,
) -> Result<(), ToolFault> {
    let scan = Scan::open(kafka, topic, None, from)?;
    scan.until(stop, follow, |record, _| out.blocking_send(record).is_ok())
}
