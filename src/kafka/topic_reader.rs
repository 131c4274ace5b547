//! Reads one topic outside of a group: everything but what a group's members are given (`poller`).
//!
//! Nothing is passed over: a batch that cannot be read is an error, and partitions that stand still
//! although there is something to read are read on by a new consumer.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    message::BorrowedMessage,
};

use crate::{
    background,
    clock::Moment,
    config::KafkaSettings,
    crash::{self, Fault},
};

use super::{
    client::{Quiet, consumer_config, group_id},
    rights::is_denial_code,
    unreadable::{is_unreadable, unreadable},
    watchdog::Patience,
};

/// One request about a topic; a broker that is busy with a restart answers within it.
const REQUEST: Duration = Duration::from_secs(10);

/// Why a topic cannot be read: one sentence, and the client's error.
#[derive(Debug)]
pub(super) struct ReadFault {
    pub sentence: String,
    pub cause: KafkaError,
}

/// What one poll brought.
pub(super) enum Polled<'a> {
    Record(BorrowedMessage<'a>),
    /// This partition was read to the end of what is committed.
    End(i32),
    /// Nothing for now.
    Nothing,
}

/// Where the reading of a partition stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    /// Everything before it was read.
    pub next: i64,
    /// Where what is committed ended when somebody last looked.
    pub end: i64,
    /// The same, when the consumer began.
    begun: i64,
    /// The consumer has said that the end was reached, so nothing is left before `begun`: compaction
    /// may have emptied the last batches.
    ended: bool,
}

impl Place {
    /// From where a log begins and ends.
    pub(super) fn of((next, end): (i64, i64)) -> Self {
        Self { next, end, ..Self::default() }
    }
}

/// Reads partitions of one topic.
pub(super) struct TopicReader {
    kafka: KafkaSettings,
    role: &'static str,
    group: String,
    topic: String,
    consumer: Arc<BaseConsumer<Quiet>>,
    /// The partitions that are being read.
    open: BTreeMap<i32, Place>,
    /// When they were last looked at.
    looked: Moment,
    /// The last poll brought nothing.
    idle: bool,
}

impl TopicReader {
    /// A reader that has not begun. `role` names the client and `group` the group whose committed
    /// offsets it can be asked for; it is never joined.
    pub(super) fn open(
        kafka: &KafkaSettings,
        role: &'static str,
        group: &str,
        topic: &str,
    ) -> Result<Self, KafkaError> {
        Ok(Self::on(connect(kafka, role, group)?, kafka, role, group, topic))
    }

    /// A reader that has not begun, on a client from [`connect`].
    pub(super) fn on(
        consumer: Arc<BaseConsumer<Quiet>>,
        kafka: &KafkaSettings,
        role: &'static str,
        group: &str,
        topic: &str,
    ) -> Self {
        Self {
            kafka: kafka.clone(),
            role,
            group: group.to_owned(),
            topic: topic.to_owned(),
            consumer,
            open: BTreeMap::new(),
            looked: Moment::now(),
            idle: false,
        }
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// The topic's partitions; none when it does not exist.
    pub(super) fn partitions(&self) -> Result<Vec<i32>, ReadFault> {
        partitions(&self.consumer, &self.topic, REQUEST).map_err(|cause| {
            let what = match cause.rdkafka_error_code() {
                Some(code) if is_denial_code(code) => format!("{} cannot be read", self.topic),
                Some(_) | None => "no broker answers".to_owned(),
            };
            ReadFault { sentence: format!("{what}: {cause}"), cause }
        })
    }

    /// Where the log of a partition begins, and where what is committed of it ends.
    pub(super) fn log(&self, partition: i32) -> Result<Place, ReadFault> {
        let asked = self.consumer.fetch_watermarks(&self.topic, partition, REQUEST);
        asked.map(Place::of).map_err(|cause| self.refused(cause))
    }

    /// The same of every partition.
    pub(super) fn logs(&self) -> Result<BTreeMap<i32, Place>, ReadFault> {
        let partitions = self.partitions()?.into_iter();
        partitions.map(|partition| Ok((partition, self.log(partition)?))).collect()
    }

    /// The offset of a partition's first record at or after a time, in milliseconds since 1970.
    pub(super) fn since(&self, partition: i32, at: i64) -> Result<Option<i64>, ReadFault> {
        // A time in an offset's place is how librdkafka is asked for the offset.
        let asked = self
            .list([(partition, at.max(0))])
            .and_then(|asked| self.consumer.offsets_for_times(asked, REQUEST));
        let answer = asked.map_err(|cause| self.refused(cause))?;
        Ok(match answer.find_partition(&self.topic, partition).map(|found| found.offset()) {
            Some(Offset::Offset(offset)) => Some(offset),
            _ => None,
        })
    }

    /// Reads these partitions and no other from now on. Their places are known offsets: librdkafka
    /// waits half a second before it looks for a partition's beginning by itself.
    pub(super) fn begin(&mut self, open: BTreeMap<i32, Place>) -> Result<(), ReadFault> {
        let begun = |place: Place| Place { begun: place.end, ended: false, ..place };
        self.open = open.into_iter().map(|(partition, place)| (partition, begun(place))).collect();
        (self.looked, self.idle) = (Moment::now(), false);
        self.list(self.open.iter().map(|(partition, place)| (*partition, place.next)))
            .and_then(|list| self.consumer.assign(&list))
            .map_err(|cause| self.refused(cause))
    }

    /// Reads this partition no further.
    pub(super) fn leave(&mut self, partition: i32) {
        if self.open.remove(&partition).is_some()
            && let Ok(list) = self.list([(partition, 0)])
            && let Err(error) = self.consumer.pause(&list)
        {
            tracing::debug!(%error, kafka.topic = self.topic, "partition not paused; still fetched");
        }
    }

    /// Where the reading of every partition stands, markers of transactions included.
    pub(super) fn positions(&self) -> BTreeMap<i32, i64> {
        let positions = self.consumer.position().unwrap_or_default();
        let place = |(partition, place): (&i32, &Place)| {
            let found = positions.find_partition(&self.topic, *partition);
            match found.map(|found| found.offset()) {
                Some(Offset::Offset(offset)) => (*partition, offset.max(place.next)),
                _ => (*partition, place.next),
            }
        };
        self.open.iter().map(place).collect()
    }

    /// Waits for what comes next, not longer than `wait` unless the broker has to be asked why
    /// nothing does.
    ///
    /// # Errors
    /// A batch cannot be read, or the topic cannot for good.
    pub(super) fn poll(&mut self, wait: Duration) -> Result<Polled<'_>, ReadFault> {
        if self.idle && self.looked.until(Moment::now()) >= Patience::of(&self.kafka).idle {
            self.look()?;
        }
        let polled = self.consumer.poll(wait);
        self.idle = polled.is_none();
        let error = match polled {
            None => return Ok(Polled::Nothing),
            Some(Ok(message)) => {
                if crash::once(Fault::ReadingStandsStill) {
                    self.stand_still();
                }
                return Ok(Polled::Record(message));
            }
            // One topic per consumer, so the partition's number names it.
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.open.entry(partition).and_modify(|place| place.ended = true);
                return Ok(Polled::End(partition));
            }
            Some(Err(error)) => error,
        };
        if is_unreadable(&error) {
            let places = self.positions().into_iter().map(|(partition, at)| (partition, Some(at)));
            let sentence = unreadable(&self.topic, places, &error);
            return Err(ReadFault { sentence, cause: error });
        }
        if cannot_be_read(&error) {
            return Err(self.refused(error));
        }
        // librdkafka reconnects by itself.
        tracing::debug!(%error, kafka.topic = self.topic, "topic read failed; reading continues");
        Ok(Polled::Nothing)
    }

    /// Reads on with a new consumer where a partition has not moved since the last look, although
    /// there was something to read then.
    fn look(&mut self) -> Result<(), ReadFault> {
        self.looked = Moment::now();
        let mut still = None;
        for (partition, next) in self.positions() {
            // A broker that does not answer has nothing to give: that proves nothing.
            let Ok(Place { end, .. }) = self.log(partition) else { return Ok(()) };
            let Some(place) = self.open.get_mut(&partition) else { continue };
            let read = if place.ended { next.max(place.begun) } else { next };
            if place.next == next && read < place.end {
                still = Some((partition, next));
            }
            (place.next, place.end) = (next, end);
        }
        let Some((partition, next)) = still else { return Ok(()) };
        tracing::warn!(
            kafka.topic = self.topic,
            error = %format!("partition {partition} has stood still at offset {next}"),
            "reading does not move; reading on with a new consumer"
        );
        self.renew()?;
        self.begin(self.open.clone())
    }

    /// A new client in place of the present one, whose buffers hold what comes behind a fault.
    pub(super) fn renew(&mut self) -> Result<(), ReadFault> {
        let fresh = connect(&self.kafka, self.role, &self.group);
        let fresh = fresh.map_err(|cause| self.refused(cause))?;
        background::close("close-consumer", std::mem::replace(&mut self.consumer, fresh));
        Ok(())
    }

    /// Stops fetching, as a defect would.
    pub(super) fn stand_still(&self) {
        let _ = self.consumer.assignment().and_then(|all| self.consumer.pause(&all));
    }

    fn list(
        &self,
        places: impl IntoIterator<Item = (i32, i64)>,
    ) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::new();
        for (partition, at) in places {
            list.add_partition_offset(&self.topic, partition, Offset::Offset(at))?;
        }
        Ok(list)
    }

    fn refused(&self, cause: KafkaError) -> ReadFault {
        ReadFault { sentence: format!("{} cannot be read: {cause}", self.topic), cause }
    }
}

const QUEUED: &str = "queued.max.messages.kbytes";
/// What a reader fetches ahead. The cache takes a restored record later than it arrives, so all of
/// this fills up: with the 16 MB of other consumers a restart took some 27 MB more memory.
const QUEUED_KB: &str = "4096";

/// A client that joins no group and can be asked for the offsets of one.
pub(super) fn connect(
    kafka: &KafkaSettings,
    role: &str,
    group: &str,
) -> Result<Arc<BaseConsumer<Quiet>>, KafkaError> {
    let mut config = consumer_config(kafka, role, group);
    if !kafka.properties.contains_key(QUEUED) {
        config.set(QUEUED, QUEUED_KB);
    }
    config.set("enable.partition.eof", "true").create_with_context(Quiet).map(Arc::new)
}

/// A topic's partitions; none when it does not exist. One that may not be seen, or has no leader yet,
/// is an error, since it is not one that is missing.
pub(super) fn partitions<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    timeout: Duration,
) -> Result<Vec<i32>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), timeout)?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return Ok(Vec::new());
    };
    match found.error().map(RDKafkaErrorCode::from) {
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            Ok(Vec::new())
        }
        Some(code) => Err(KafkaError::MetadataFetch(code)),
        None => Ok(found.partitions().iter().map(|partition| partition.id()).collect()),
    }
}

/// Where the log of a partition ends, with what is not committed yet. Only a client that reads that
/// as well is told: the others, the last stable offset.
pub(super) fn whole_end(
    kafka: &KafkaSettings,
    role: &str,
    topic: &str,
    partition: i32,
    timeout: Duration,
) -> Result<i64, KafkaError> {
    let client: BaseConsumer<Quiet> = consumer_config(kafka, role, &group_id(kafka, role))
        .set("isolation.level", "read_uncommitted")
        .create_with_context(Quiet)?;
    Ok(client.fetch_watermarks(topic, partition, timeout)?.1)
}

/// Whether an error of a reader is for good.
fn cannot_be_read(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::Authentication
        )
    )
}
