//! The plain producer of the operator's commands, and records as they read them (`scan`); the
//! pipelines use neither.

use std::time::Duration;

use rdkafka::{
    Message,
    error::KafkaError,
    message::{BorrowedMessage, Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer},
};

use crate::config::{KafkaSettings, Partitioner};

use super::{
    Outgoing,
    client::{Quiet, client_config},
    headers::{self, Headers},
};

/// Metadata of one topic.
const METADATA_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the log could not be read or written: one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ToolFault(pub String);

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
