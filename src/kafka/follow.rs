//! Follows a topic from its first record for as long as somebody wants to know: for what is kept
//! beside a pipeline, never for what a pipeline decides by (that is read up to a barrier, in
//! `restore`).

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
};

use crate::{background, config::KafkaSettings};

use super::{
    client::{consumer_config, group_id},
    rights::complain,
    unreadable::{is_unreadable, unreadable},
};

/// What is seen of the topic.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Followed<'a> {
    /// One committed record; `None` is a tombstone.
    Record { partition: i32, key: &'a [u8], value: Option<&'a [u8]> },
    /// Nothing more for now: every partition was read to its end, or the topic does not exist.
    Quiet,
}

/// Ends the reading when dropped.
#[derive(Debug)]
pub(crate) struct Follower(Arc<AtomicBool>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How long one poll waits; also how often the reader looks whether it should stop.
const POLL: Duration = Duration::from_millis(100);
const REQUEST: Duration = Duration::from_secs(5);
/// A topic that is missing or cannot be read is tried again after this.
const MISSING_PAUSE: Duration = Duration::from_secs(30);

/// The topic's trouble is logged here, not by librdkafka.
#[derive(Clone, Copy, Debug)]
struct Silent;

impl ClientContext for Silent {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(
            kafka.log.level = ?level,
            kafka.log.facility = facility,
            kafka.log.message = message,
            "librdkafka log"
        );
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, kafka.log.message = reason, "librdkafka error");
    }
}

impl ConsumerContext for Silent {}

/// Begins to read on a thread of its own; no group is joined, nothing is committed.
///
/// # Errors
/// One sentence when no client can be made or no thread be started.
pub(crate) fn follow(
    kafka: &KafkaSettings,
    role: &str,
    topic: &str,
    on: impl FnMut(Followed<'_>) + Send + 'static,
) -> Result<Follower, String> {
    let consumer: BaseConsumer<Silent> = consumer_config(kafka, role, &group_id(kafka, role))
        .set("enable.partition.eof", "true")
        .create_with_context(Silent)
        .map_err(|error| format!("no Kafka client for {topic} could be made: {error}"))?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut reader = Reader { consumer, topic: topic.to_owned(), stop: Arc::clone(&stop), on };
    background::lasting_thread(role, move || reader.run())
        .map_err(|error| format!("the reader of {topic} could not be started: {error}"))?;
    Ok(Follower(stop))
}

struct Reader<F> {
    consumer: BaseConsumer<Silent>,
    topic: String,
    stop: Arc<AtomicBool>,
    on: F,
}

impl<F: FnMut(Followed<'_>)> Reader<F> {
    fn run(&mut self) {
        while !self.stopped() {
            match self.begin() {
                Ok(partitions) if partitions.is_empty() => {
                    (self.on)(Followed::Quiet);
                    self.pause(MISSING_PAUSE);
                }
                Ok(partitions) => self.read(&partitions),
                Err(error) => {
                    tracing::debug!(%error, kafka.topic = self.topic, "topic unreadable; retrying");
                    self.pause(POLL);
                }
            }
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn pause(&self, span: Duration) {
        let until = Instant::now() + span;
        while !self.stopped() && Instant::now() < until {
            thread::sleep(POLL);
        }
    }

    /// Assigns every partition from its first record; none when the topic does not exist.
    fn begin(&self) -> Result<BTreeSet<i32>, KafkaError> {
        // All topics: a request for one by name could create it where the broker creates topics by
        // itself.
        let metadata = self.consumer.fetch_metadata(None, REQUEST)?;
        let found = metadata.topics().iter().filter(|found| found.name() == self.topic);
        let partitions: BTreeSet<i32> = found
            .flat_map(|found| found.partitions().iter().map(|partition| partition.id()))
            .collect();
        let mut list = TopicPartitionList::new();
        for partition in &partitions {
            // A known offset spares librdkafka's half-second wait for its next look at the
            // partition's leader.
            let (first, _) = self.consumer.fetch_watermarks(&self.topic, *partition, REQUEST)?;
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(first))?;
        }
        self.consumer.assign(&list)?;
        Ok(partitions)
    }

    fn read(&mut self, partitions: &BTreeSet<i32>) {
        let mut unread = partitions.clone();
        while !self.stopped() {
            match self.consumer.poll(POLL) {
                None if unread.is_empty() => (self.on)(Followed::Quiet),
                None => {}
                Some(Ok(message)) => {
                    (self.on)(Followed::Record {
                        partition: message.partition(),
                        key: message.key().unwrap_or_default(),
                        value: message.payload(),
                    });
                }
                // One topic per consumer, so the partition's number names it.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    unread.remove(&partition);
                    if unread.is_empty() {
                        (self.on)(Followed::Quiet);
                    }
                }
                // Begun again from the first record, and never called read to the end meanwhile.
                Some(Err(error)) if is_unreadable(&error) => {
                    let places = partitions.iter().map(|partition| (*partition, None));
                    complain(&unreadable(&self.topic, places, &error));
                    return self.pause(MISSING_PAUSE);
                }
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
    }
}
