//! Questions about topics.

use std::{fmt, sync::Arc, time::Duration};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};

use crate::{background, config::KafkaSettings};

use super::{
    admin::{Admin, Complaints, explained},
    client::{consumer_config, group_id},
    rights::{Operation, Resource, denial, is_denial},
    topic_reader::{partitions, whole_end},
};

const TIMEOUT: Duration = Duration::from_secs(10);

/// How many partitions each topic has; `None` for one that does not exist.
///
/// # Errors
/// One sentence when the broker does not answer, or denies the account a topic.
pub(crate) async fn partition_counts(
    kafka: &KafkaSettings,
    topics: &[&str],
) -> Result<Vec<Option<i32>>, String> {
    let config = consumer_config(kafka, "metadata", &group_id(kafka, "metadata"));
    let servers = kafka.bootstrap_servers.clone();
    let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
    let ask = move || {
        let complaints = Complaints::default();
        let consumer: BaseConsumer<Complaints> = config
            .create_with_context(complaints.clone())
            .map_err(|error| format!("no Kafka client could be made from [kafka]: {error}"))?;
        let count = |topic: &String| match partitions(&consumer, topic, TIMEOUT) {
            Ok(found) => Ok(i32::try_from(found.len()).ok().filter(|count| *count > 0)),
            Err(error) if is_denial(&error) => {
                Err(denial(Operation::Describe, &Resource::Topic(topic.clone())))
            }
            Err(error) => {
                let reason = explained(&consumer, &complaints, &error);
                Err(format!(
                    "Kafka at {servers} does not answer ({reason}); check kafka.bootstrap_servers and that the broker runs"
                ))
            }
        };
        let counts = topics.iter().map(count).collect();
        // Waits for a tenth of a second, and the start of a pipeline would with it.
        background::close("close-consumer", consumer);
        counts
    };
    background::blocking("topic check", ask)
        .await
        .map_err(|error| format!("the question about topics ended abnormally: {error}"))?
}

/// Whether a topic that everything is remembered in is compacted and nothing else: a retention would
/// delete what must never be forgotten.
///
/// # Errors
/// One sentence when its `cleanup.policy` says otherwise. Where that may not be read, a warning says
/// so.
pub(crate) async fn check_compacted(kafka: &KafkaSettings, topic: &str) -> Result<(), String> {
    let options = async { Admin::connect(kafka)?.options(&[topic]).await };
    let unknown = match options.await {
        Ok(mut topics) => match topics.remove(topic).and_then(|mut of| of.remove("cleanup.policy"))
        {
            Some(policy) if policy == "compact" => return Ok(()),
            Some(policy) => {
                return Err(format!(
                    "{topic} has cleanup.policy = {policy}, so what it remembers would be deleted; run `kafka-configs --alter --entity-type topics --entity-name {topic} --add-config cleanup.policy=compact`"
                ));
            }
            None => denial(Operation::DescribeConfigs, &Resource::Topic(topic.to_owned())),
        },
        Err(fault) => fault.to_string(),
    };
    tracing::warn!(
        kafka.topic = topic,
        error = %unknown,
        "cleanup.policy not verified; make sure that it is compact and nothing else"
    );
    Ok(())
}

/// What a group has yet to settle of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unsettled {
    /// Records from the committed offsets to the end of the log, of all partitions. Markers of
    /// transactions count as records, so behind a sender that uses them it is a little less.
    pub records: u64,
    /// Records between the committed offsets and the beginning of the log, which are gone.
    pub removed: u64,
    /// Partitions whose log ends before the committed offset: partition, that offset, the end.
    pub shorter: Vec<(i32, i64, i64)>,
}

/// How many records of a topic a group has yet to settle; keeps one connection.
#[derive(Clone)]
pub(crate) struct Backlog {
    consumer: Arc<BaseConsumer>,
    kafka: KafkaSettings,
    topic: String,
}

impl fmt::Debug for Backlog {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Backlog({})", self.topic)
    }
}

impl Backlog {
    /// Of the group of `role`. Never joins it.
    ///
    /// # Errors
    /// One sentence for options librdkafka refuses.
    pub(crate) fn of(kafka: &KafkaSettings, role: &str, topic: &str) -> Result<Self, String> {
        let consumer: BaseConsumer = consumer_config(kafka, "backlog", &group_id(kafka, role))
            .create()
            .map_err(|error| format!("no Kafka client could be made from [kafka]: {error}"))?;
        Ok(Self { consumer: Arc::new(consumer), kafka: kafka.clone(), topic: topic.to_owned() })
    }

    /// Asks for it.
    ///
    /// # Errors
    /// One sentence when the broker does not answer or the topic does not exist.
    pub(crate) async fn count(&self) -> Result<Unsettled, String> {
        let this = self.clone();
        background::blocking("backlog", move || this.ask())
            .await
            .map_err(|error| format!("the question about offsets ended abnormally: {error}"))?
    }

    fn ask(&self) -> Result<Unsettled, String> {
        let unanswered =
            |error| format!("Kafka does not say how much of {} is left: {error}", self.topic);
        let mut list = TopicPartitionList::new();
        for partition in partitions(&self.consumer, &self.topic, TIMEOUT).map_err(unanswered)? {
            list.add_partition(&self.topic, partition);
        }
        if list.count() == 0 {
            return Err(format!("the topic {} does not exist", self.topic));
        }
        let committed = self.consumer.committed_offsets(list, TIMEOUT).map_err(unanswered)?;
        let mut found = Unsettled::default();
        for partition in committed.elements() {
            let (low, high) = self
                .consumer
                .fetch_watermarks(&self.topic, partition.partition(), TIMEOUT)
                .map_err(unanswered)?;
            let next = match partition.offset() {
                Offset::Offset(offset) => offset,
                _ => low,
            };
            found.records += u64::try_from(high - next.max(low)).unwrap_or(0);
            found.removed += u64::try_from(low - next).unwrap_or(0);
            if next > high {
                // Offsets that an operator set may stand behind the last stable one.
                let at = partition.partition();
                let end = whole_end(&self.kafka, "backlog", &self.topic, at, TIMEOUT)
                    .map_err(unanswered)?;
                if next > end {
                    found.shorter.push((at, next, end));
                }
            }
        }
        Ok(found)
    }
}
