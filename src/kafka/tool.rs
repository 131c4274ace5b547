//! Plain producer and reader of the operator's commands (`send`, `tail`); the pipelines use
//! neither.

use std::{collections::BTreeSet, time::Duration};

use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::{KafkaSettings, Partitioner};

use super::{
    Outgoing,
    client::{client_config, consumer_config, group_id},
    headers::{self, Headers},
    unreadable::{is_unreadable, unreadable},
};

/// Metadata of one topic.
const METADATA_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a reader looks whether it should stop.
const POLL: Duration = Duration::from_millis(100);

/// Why the log could not be read or written: one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ToolFault(pub String);

/// The commands print their own errors; librdkafka's log lines would stand between the JSON lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quiet;

impl ClientContext for Quiet {
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

impl ConsumerContext for Quiet {}

/// An idempotent producer for commands.
#[derive(Clone)]
pub(crate) struct Sender {
    producer: FutureProducer<Quiet>,
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Sender")
    }
}

impl Sender {
    /// A producer that chooses partitions as the senders of commands do.
    ///
    /// # Errors
    /// [`ToolFault`] for options librdkafka refuses.
    pub(crate) fn connect(
        kafka: &KafkaSettings,
        partitioner: Partitioner,
    ) -> Result<Self, ToolFault> {
        let partitioner = match partitioner {
            Partitioner::Murmur2 | Partitioner::Any => "murmur2_random",
            Partitioner::Crc32 => "consistent_random",
        };
        let producer = client_config(kafka, "send")
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("partitioner", partitioner)
            .create_with_context(Quiet)
            .map_err(|error| ToolFault(format!("the Kafka client cannot be created: {error}")))?;
        Ok(Self { producer })
    }

    /// Asks whether the topic is there, without creating it. Blocks: call it from a blocking task.
    ///
    /// # Errors
    /// [`ToolFault`] when no broker answers or the topic does not exist.
    pub(crate) fn verify(&self, topic: &str) -> Result<(), ToolFault> {
        let metadata = self
            .producer
            .client()
            .fetch_metadata(None, METADATA_TIMEOUT)
            .map_err(|error| ToolFault(format!("no broker answers: {error}")))?;
        if metadata.topics().iter().any(|found| found.name() == topic) {
            return Ok(());
        }
        Err(ToolFault(format!(
            "the topic {topic} does not exist; create it, or run: wdt-connector topics --with-commands"
        )))
    }

    /// Hands one record to the client, in the order of the calls. The future ends when every
    /// in-sync replica has it, with partition and offset.
    ///
    /// # Errors
    /// [`ToolFault`], at once when the record cannot be queued (too large, queue full), later with
    /// the broker's reason.
    pub(crate) fn queue(
        &self,
        topic: &str,
        key: &str,
        value: &[u8],
    ) -> Result<impl Future<Output = Result<(i32, i64), ToolFault>> + use<>, ToolFault> {
        self.queue_record(FutureRecord::to(topic).key(key.as_bytes()).payload(value))
    }

    /// As [`Sender::queue`], into a partition of the caller's choice.
    ///
    /// # Errors
    /// As [`Sender::queue`].
    pub(crate) fn queue_to(
        &self,
        topic: &str,
        partition: i32,
        key: &[u8],
        value: &[u8],
    ) -> Result<impl Future<Output = Result<(i32, i64), ToolFault>> + use<>, ToolFault> {
        self.queue_record(FutureRecord::to(topic).partition(partition).key(key).payload(value))
    }

    /// As [`Sender::queue_to`]; without a value it is a tombstone.
    ///
    /// # Errors
    /// As [`Sender::queue`].
    pub(crate) fn queue_change(
        &self,
        topic: &str,
        partition: i32,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<impl Future<Output = Result<(i32, i64), ToolFault>> + use<>, ToolFault> {
        let record: FutureRecord<'_, [u8], [u8]> =
            FutureRecord::to(topic).partition(partition).key(key);
        self.queue_record(match value {
            Some(value) => record.payload(value),
            None => record,
        })
    }

    /// Hands over a record as it is, headers and all; `partition` `None`: the key decides.
    ///
    /// # Errors
    /// As [`Sender::queue`].
    pub(crate) fn queue_whole(
        &self,
        record: &Outgoing,
    ) -> Result<impl Future<Output = Result<(i32, i64), ToolFault>> + use<>, ToolFault> {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in &record.headers {
            headers = headers.insert(Header { key, value: value.as_deref() });
        }
        let mut next: FutureRecord<'_, [u8], [u8]> =
            FutureRecord::to(&record.topic).headers(headers);
        next.partition = record.partition;
        next.key = record.key.as_deref();
        next.payload = record.value.as_deref();
        self.queue_record(next)
    }

    fn queue_record(
        &self,
        record: FutureRecord<'_, [u8], [u8]>,
    ) -> Result<impl Future<Output = Result<(i32, i64), ToolFault>> + use<>, ToolFault> {
        let refused = |error: &KafkaError| ToolFault(format!("Kafka did not take it: {error}"));
        let delivery = self.producer.send_result(record).map_err(|(error, _)| refused(&error))?;
        Ok(async move {
            match delivery.await {
                Ok(Ok(delivered)) => Ok((delivered.partition, delivered.offset)),
                Ok(Err((error, _))) => Err(refused(&error)),
                Err(_) => {
                    Err(ToolFault("the Kafka client ended before it was delivered".to_owned()))
                }
            }
        })
    }
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    Beginning,
    /// So many records before the end of each partition.
    Last(u32),
    /// The first record written at or after this time, in milliseconds since 1970.
    Since(i64),
}

/// One record as the log holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Headers,
    /// Headers whose names are not UTF-8; they are not among `headers`.
    pub unreadable_headers: usize,
}

/// Reads committed records of one topic, all partitions, into `out`: to the end as it is now, or
/// with `follow` until `stop`. Blocks: call it from a blocking task. Ends quietly when nobody
/// receives any longer.
///
/// # Errors
/// [`ToolFault`] when no broker answers, the topic does not exist, or reading is refused.
pub(crate) fn read(
    kafka: &KafkaSettings,
    topic: &str,
    begin: Begin,
    follow: bool,
    out: &mpsc::Sender<Seen>,
    stop: &CancellationToken,
) -> Result<(), ToolFault> {
    // A group id is needed to read at all; nothing is joined or committed.
    let consumer: BaseConsumer<Quiet> = consumer_config(kafka, "tail", &group_id(kafka, "tail"))
        .set("enable.partition.eof", "true")
        .create_with_context(Quiet)
        .map_err(|error| ToolFault(format!("the Kafka client cannot be created: {error}")))?;
    let mut unread = assign(&consumer, topic, begin)?;
    while (follow || !unread.is_empty()) && !stop.is_cancelled() {
        match consumer.poll(POLL) {
            None => {}
            Some(Ok(message)) if out.blocking_send(seen(&message)).is_err() => return Ok(()),
            Some(Ok(_)) => {}
            // One topic per consumer, so the partition's number names it.
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                unread.remove(&partition);
            }
            Some(Err(error)) if is_unreadable(&error) => {
                let places = unread.iter().map(|partition| (*partition, None));
                return Err(ToolFault(unreadable(topic, places, &error)));
            }
            Some(Err(error)) if cannot_be_read(&error) => {
                return Err(ToolFault(format!("{topic} cannot be read: {error}")));
            }
            // librdkafka reconnects by itself.
            Some(Err(error)) => {
                tracing::debug!(
                    %error,
                    kafka.topic = topic,
                    "topic read failed; reading continues"
                )
            }
        }
    }
    Ok(())
}

/// Whether an error of a reader is for good.
pub(super) fn cannot_be_read(error: &KafkaError) -> bool {
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

fn assign(
    consumer: &BaseConsumer<Quiet>,
    topic: &str,
    begin: Begin,
) -> Result<BTreeSet<i32>, ToolFault> {
    // All topics: a request for one by name could create it where the broker creates topics by
    // itself.
    let metadata = consumer
        .fetch_metadata(None, METADATA_TIMEOUT)
        .map_err(|error| ToolFault(format!("no broker answers: {error}")))?;
    let partitions: BTreeSet<i32> = metadata
        .topics()
        .iter()
        .filter(|found| found.name() == topic)
        .flat_map(|found| found.partitions().iter().map(|partition| partition.id()))
        .collect();
    if partitions.is_empty() {
        return Err(ToolFault(format!(
            "the topic {topic} does not exist; wdt-connector topics creates what is missing"
        )));
    }
    let offset = match begin {
        Begin::Beginning => Offset::Beginning,
        Begin::Last(0) => Offset::End,
        Begin::Last(count) => Offset::OffsetTail(i64::from(count)),
        // A time in an offset's place is how librdkafka is asked for the offset.
        Begin::Since(at) => Offset::Offset(at.max(0)),
    };
    let mut list = TopicPartitionList::new();
    let refused = |error: KafkaError| ToolFault(format!("{topic} cannot be read: {error}"));
    for partition in &partitions {
        list.add_partition_offset(topic, *partition, offset).map_err(refused)?;
    }
    if let Begin::Since(_) = begin {
        list = consumer.offsets_for_times(list, METADATA_TIMEOUT).map_err(refused)?;
    }
    consumer.assign(&list).map_err(refused)?;
    Ok(partitions)
}

pub(super) fn seen(message: &BorrowedMessage<'_>) -> Seen {
    let (headers, unreadable_headers) = headers::read(message);
    Seen {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers,
        unreadable_headers,
    }
}
