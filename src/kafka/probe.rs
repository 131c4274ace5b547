//! Whether each right is there, found out without leaving anything behind.
//!
//! Brokers can list an account's own rights (KIP-430), but rdkafka has no safe call that asks for
//! them. Each right is therefore tried with a request that the broker authorizes and then refuses
//! for another reason: a record larger than the topic takes, an offset of a partition that does not
//! exist.

use std::time::{Duration, Instant};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, BaseRecord, Producer},
};

use crate::config::KafkaSettings;

use super::{
    admin::Complaints,
    client::{client_config, consumer_config, group_id},
    rights::{Operation, Resource, denial, is_denial, is_denial_code, is_topic_denial},
};

/// For one right. A denial is answered at once; this is for a broker that is slow.
const PATIENCE: Duration = Duration::from_secs(10);
/// One request, where a denial comes another way.
const ATTEMPT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(100);
/// Above this a record too large for the topic is too large to be sent for a look.
const LARGEST_RECORD: usize = 8 * 1024 * 1024;
/// No topic has this partition.
const NO_PARTITION: i32 = i32::MAX - 1;

/// What is known about a right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Granted,
    /// The sentence that names it.
    Denied(String),
    /// Why it could not be found out.
    Unknown(String),
}

/// Looks for one right; `largest` is the topic's `max.message.bytes` where it is known. Blocks:
/// call it from a blocking task.
#[must_use]
pub(crate) fn right(
    kafka: &KafkaSettings,
    operation: Operation,
    resource: &Resource,
    topic: &str,
    largest: Option<usize>,
) -> Found {
    let answer = match (operation, resource) {
        (Operation::Read, Resource::Topic(name)) => read_topic(kafka, name),
        (Operation::Write, Resource::Topic(name)) => write_topic(kafka, name, largest),
        (Operation::Read, Resource::Group(group)) => read_group(kafka, group, topic),
        (Operation::Write, Resource::TransactionalIds(prefix)) => transactional_id(kafka, prefix),
        (Operation::Describe, Resource::Topic(name)) => see_topic(kafka, name),
        (Operation::Describe | Operation::DescribeConfigs, _)
        | (Operation::Read, Resource::TransactionalIds(_))
        | (Operation::Write, Resource::Group(_)) => {
            return Found::Unknown(format!("{} cannot be tried", operation.name()));
        }
    };
    match answer {
        Ok(()) => Found::Granted,
        Err(Refusal::Denied) => Found::Denied(denial(operation, resource)),
        Err(Refusal::Other(reason)) => Found::Unknown(format!(
            "{} on {resource} could not be tried: {reason}",
            operation.name()
        )),
    }
}

enum Refusal {
    Denied,
    Other(String),
}

impl From<KafkaError> for Refusal {
    fn from(error: KafkaError) -> Self {
        if is_denial(&error) { Self::Denied } else { Self::Other(error.to_string()) }
    }
}

fn consumer(kafka: &KafkaSettings, group: &str) -> Result<BaseConsumer<Complaints>, KafkaError> {
    let mut config = consumer_config(kafka, "check", group);
    // A commit waits this long for a coordinator the account may not look for.
    config.set("enable.partition.eof", "true").set("coordinator.query.interval.ms", "2000");
    config.create_with_context(Complaints::default())
}

/// Asked for by name, a topic the account may not see is told apart from one that does not exist.
fn see_topic(kafka: &KafkaSettings, topic: &str) -> Result<(), Refusal> {
    // A consumer's request never creates a topic.
    let consumer = consumer(kafka, &group_id(kafka, "check"))?;
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
    match metadata
        .topics()
        .iter()
        .find(|found| found.name() == topic)
        .and_then(|found| found.error())
    {
        None => Ok(()),
        Some(error) => match RDKafkaErrorCode::from(error) {
            code if is_denial_code(code) => Err(Refusal::Denied),
            code => Err(Refusal::Other(code.to_string())),
        },
    }
}

/// A fetch at the partition's end: nothing comes but its end, or the denial.
fn read_topic(kafka: &KafkaSettings, topic: &str) -> Result<(), Refusal> {
    see_topic(kafka, topic)?;
    let consumer = consumer(kafka, &group_id(kafka, "check"))?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::End)?;
    consumer.assign(&list)?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match consumer.poll(POLL) {
            Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => return Ok(()),
            // Of the group's coordinator nothing is wanted here, and it may well be denied.
            Some(Err(error)) if is_topic_denial(&error) => return Err(Refusal::Denied),
            Some(Err(_)) | None => {}
        }
    }
    Err(Refusal::Other(format!("no answer within {PATIENCE:?}")))
}

/// A record just larger than the topic takes: refused as such, or denied before.
fn write_topic(kafka: &KafkaSettings, topic: &str, largest: Option<usize>) -> Result<(), Refusal> {
    see_topic(kafka, topic)?;
    let Some(largest) = largest else {
        // What is not refused would stand in the topic.
        let reason = "its max.message.bytes is not known without DescribeConfigs, and a record that it takes would stay in it";
        return Err(Refusal::Other(reason.to_owned()));
    };
    if largest > LARGEST_RECORD {
        return Err(Refusal::Other(format!(
            "it takes records of {largest} bytes, and only a larger one would be refused"
        )));
    }
    let size = largest + 1024;
    let mut config = client_config(kafka, "check");
    config
        .set("message.max.bytes", (size + 64 * 1024).to_string())
        .set("compression.type", "none")
        .set("acks", "all")
        .set("enable.idempotence", "false")
        .set("message.timeout.ms", PATIENCE.as_millis().to_string());
    let reports = Reports::default();
    let producer: BaseProducer<Reports> = config.create_with_context(reports.clone())?;
    let value = vec![0_u8; size];
    producer
        .send(BaseRecord::<[u8], [u8]>::to(topic).partition(0).key(b"check").payload(&value))
        .map_err(|(error, _)| error)?;
    let deadline = Instant::now() + PATIENCE * 2;
    while Instant::now() < deadline {
        producer.poll(POLL);
        let Some(code) = reports.take() else { continue };
        return match code {
            RDKafkaErrorCode::MessageSizeTooLarge => Ok(()),
            code if is_denial_code(code) => Err(Refusal::Denied),
            code => Err(Refusal::Other(code.to_string())),
        };
    }
    Err(Refusal::Other(format!("no answer within {:?}", PATIENCE * 2)))
}

/// The fate of the one record.
#[derive(Clone, Default)]
struct Reports(std::sync::Arc<std::sync::Mutex<Option<RDKafkaErrorCode>>>);

impl Reports {
    fn take(&self) -> Option<RDKafkaErrorCode> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}

impl rdkafka::ClientContext for Reports {
    fn log(&self, _: rdkafka::config::RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, _: KafkaError, _: &str) {}
}

impl rdkafka::producer::ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &rdkafka::message::DeliveryResult<'_>, (): ()) {
        let code = match result {
            // It was written after all: the topic's limit was raised a moment ago.
            Ok(_) => RDKafkaErrorCode::MessageSizeTooLarge,
            Err((error, _)) => error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail),
        };
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(code);
    }
}

/// An offset for a partition that does not exist: refused as such, or denied before. The group's
/// members are not disturbed.
fn read_group(kafka: &KafkaSettings, group: &str, topic: &str) -> Result<(), Refusal> {
    let consumer = consumer(kafka, group)?;
    let of_group = |error: &KafkaError| {
        error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed)
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, 0);
        let Err(error) = consumer.committed_offsets(list, ATTEMPT) else { break };
        if of_group(&error) {
            return Err(Refusal::Denied);
        }
        if is_denial(&error) {
            // Of the topic, which the broker looks at after the group.
            break;
        }
        // That the coordinator may not be looked for is told by an event; the request itself only
        // times out.
        while let Some(event) = consumer.poll(POLL) {
            if event.is_err_and(|error| of_group(&error)) {
                return Err(Refusal::Denied);
            }
        }
        if Instant::now() >= deadline {
            return Err(error.into());
        }
    }
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, NO_PARTITION, Offset::Offset(0))?;
    match consumer.commit(&list, CommitMode::Sync) {
        Err(error) if of_group(&error) => Err(Refusal::Denied),
        // "Unknown partition", or "unknown member" of a group that others are in: both come after
        // the authorization.
        Ok(()) | Err(_) => Ok(()),
    }
}

/// An id beside those of the instances: initialising one of theirs would end its transactions.
fn transactional_id(kafka: &KafkaSettings, prefix: &str) -> Result<(), Refusal> {
    let mut config = client_config(kafka, "check");
    config.set("transactional.id", format!("{prefix}check")).set("transaction.timeout.ms", "10000");
    let producer: BaseProducer<Reports> = config.create_with_context(Reports::default())?;
    Ok(producer.init_transactions(PATIENCE)?)
}
