//! What the operator's commands ask of the cluster: reachability, topics, their policies.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext,
    admin::{
        AdminClient, AdminOptions, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
    },
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};

use crate::{background, config::KafkaSettings};

use super::{
    client::{client_config, consumer_config, group_id},
    rights::{door, is_denial_code},
};

/// One attempt to get metadata.
const METADATA_ATTEMPT: Duration = Duration::from_secs(2);
const EVENTS: usize = 16;
const EVENT_WAIT: Duration = Duration::from_millis(20);
/// An administrative request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the controller may take until a new topic is there.
const CREATE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long every broker may take to hear of it.
const PROPAGATION: Duration = Duration::from_secs(10);
const PROPAGATION_PAUSE: Duration = Duration::from_millis(100);

/// Why the cluster could not be asked: one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct AdminFault(pub String);

/// The cluster as its metadata show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cluster {
    pub brokers: usize,
    pub topics: BTreeMap<String, TopicShape>,
}

/// Size of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TopicShape {
    pub partitions: i32,
    /// Of the partition that has the fewest.
    pub replicas: i32,
}

/// A topic to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicPlan {
    pub name: String,
    pub partitions: i32,
    pub replicas: i32,
    /// Topic options, such as `cleanup.policy`.
    pub options: Vec<(&'static str, String)>,
}

/// Options of `[kafka] properties` that librdkafka does not know, or whose value it refuses, with
/// its reason.
#[must_use]
pub(crate) fn unusable_properties(kafka: &KafkaSettings) -> Vec<(String, String)> {
    kafka
        .properties
        .iter()
        .filter_map(|(key, value)| {
            let mut alone = ClientConfig::new();
            alone.set(key, value);
            match alone.create_native_config() {
                Ok(_) => None,
                Err(KafkaError::ClientConfig(_, reason, _, _)) => Some((key.clone(), reason)),
                Err(error) => Some((key.clone(), error.to_string())),
            }
        })
        .collect()
}

/// Remembers the client's last complaint: a timeout alone does not say that the password was
/// wrong.
#[derive(Clone, Debug, Default)]
pub(super) struct Complaints(Arc<Mutex<Option<String>>>);

impl Complaints {
    fn set(&self, text: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.to_owned());
    }

    pub(super) fn last(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for Complaints {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, reason: &str) {
        // "All brokers are down" only repeats what the complaint before it said.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown)
            || self.last().is_none()
        {
            self.set(reason);
        }
    }
}

impl ConsumerContext for Complaints {}

/// Asks for the metadata of the whole cluster, for at most `patience`. Blocks: call it from a
/// blocking task.
///
/// # Errors
/// [`AdminFault`] with the client's own reason when no broker answers.
pub(crate) fn look(kafka: &KafkaSettings, patience: Duration) -> Result<Cluster, AdminFault> {
    let complaints = Complaints::default();
    let consumer: BaseConsumer<Complaints> =
        consumer_config(kafka, "check", &group_id(kafka, "check"))
            .create_with_context(complaints.clone())
            .map_err(|error| AdminFault(format!("the Kafka client cannot be created: {error}")))?;
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // All topics: asking for one by name could create it where the broker creates topics by
        // itself.
        match consumer
            .fetch_metadata(None, METADATA_ATTEMPT.min(left.max(Duration::from_millis(1))))
        {
            Ok(metadata) => {
                let topics = metadata.topics().iter().map(|topic| {
                    let replicas = topic
                        .partitions()
                        .iter()
                        .map(|partition| partition.replicas().len())
                        .min()
                        .unwrap_or(0);
                    let shape = TopicShape {
                        partitions: size(topic.partitions().len()),
                        replicas: size(replicas),
                    };
                    (topic.name().to_owned(), shape)
                });
                return Ok(Cluster { brokers: metadata.brokers().len(), topics: topics.collect() });
            }
            Err(error) => {
                let reason = explained(&consumer, &complaints, &error);
                if Instant::now() >= deadline {
                    return Err(AdminFault(format!(
                        "no broker of {} answers: {reason}",
                        kafka.bootstrap_servers
                    )));
                }
            }
        }
    }
}

/// Why a request got no answer: the client's own complaint, where it made one.
pub(super) fn explained(
    consumer: &BaseConsumer<Complaints>,
    complaints: &Complaints,
    error: &KafkaError,
) -> String {
    // Serves the error events that explain the timeout; there are a few per connection attempt.
    for _ in 0..EVENTS {
        if consumer.poll(EVENT_WAIT).is_none() {
            break;
        }
    }
    door(&complaints.last().unwrap_or_else(|| error.to_string()))
}

fn size(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Changes and describes topics.
pub(crate) struct Admin {
    client: AdminClient<Complaints>,
    kafka: KafkaSettings,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Admin")
    }
}

impl Admin {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// [`AdminFault`] for options librdkafka refuses.
    pub(crate) fn connect(kafka: &KafkaSettings) -> Result<Self, AdminFault> {
        let client = client_config(kafka, "admin")
            .create_with_context(Complaints::default())
            .map_err(|error| AdminFault(format!("the Kafka client cannot be created: {error}")))?;
        Ok(Self { client, kafka: kafka.clone() })
    }

    /// [`look`] from an asynchronous context.
    ///
    /// # Errors
    /// As [`look`].
    pub(crate) async fn cluster(&self, patience: Duration) -> Result<Cluster, AdminFault> {
        let kafka = self.kafka.clone();
        background::blocking("cluster metadata", move || look(&kafka, patience))
            .await
            .map_err(|error| AdminFault(format!("asking for metadata ended early: {error}")))?
    }

    /// The effective options of existing topics, by topic and name; a topic whose options the
    /// account may not read is left out.
    ///
    /// # Errors
    /// [`AdminFault`] when the cluster refuses, naming what is missing.
    pub(crate) async fn options(
        &self,
        topics: &[&str],
    ) -> Result<BTreeMap<String, BTreeMap<String, String>>, AdminFault> {
        if topics.is_empty() {
            return Ok(BTreeMap::new());
        }
        let resources: Vec<ResourceSpecifier<'_>> =
            topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let described =
            self.client.describe_configs(&resources, &AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT))).await.map_err(
                |error| AdminFault(format!("the topics' options cannot be read: {error}; the account needs DescribeConfigs on them")),
            )?;
        let mut found = BTreeMap::new();
        for (resource, topic) in described.into_iter().zip(topics) {
            let resource = match resource {
                Ok(resource) => resource,
                // Left out: whoever asked sees that this topic's options are not known.
                Err(code) if is_denial_code(code) => continue,
                Err(code) => {
                    return Err(AdminFault(format!(
                        "the options of {topic} cannot be read: {code}"
                    )));
                }
            };
            let rdkafka::admin::OwnedResourceSpecifier::Topic(name) = &resource.specifier else {
                continue;
            };
            let options = resource
                .entries
                .iter()
                .filter_map(|entry| Some((entry.name.clone(), entry.value.clone()?)));
            found.insert(name.clone(), options.collect());
        }
        Ok(found)
    }

    /// Creates topics and waits until the metadata show them; one that is there meanwhile is no
    /// error.
    ///
    /// # Errors
    /// [`AdminFault`] naming every topic that could not be created and the broker's reason.
    pub(crate) async fn create(&self, plans: &[TopicPlan]) -> Result<(), AdminFault> {
        if plans.is_empty() {
            return Ok(());
        }
        let topics: Vec<NewTopic<'_>> = plans
            .iter()
            .map(|plan| {
                let topic = NewTopic::new(
                    &plan.name,
                    plan.partitions,
                    TopicReplication::Fixed(plan.replicas),
                );
                plan.options.iter().fold(topic, |topic, (key, value)| topic.set(key, value))
            })
            .collect();
        let options = AdminOptions::new()
            .request_timeout(Some(REQUEST_TIMEOUT))
            .operation_timeout(Some(CREATE_TIMEOUT));
        let results = self.client.create_topics(&topics, &options).await.map_err(|error| {
            AdminFault(format!("no topic could be created: {error}; the account needs Create on the topics or the cluster"))
        })?;
        let failed: Vec<String> = results
            .into_iter()
            .filter_map(|result| match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => None,
                Err((topic, code)) => Some(format!("{topic}: {code}")),
            })
            .collect();
        if !failed.is_empty() {
            return Err(AdminFault(format!(
                "these topics could not be created: {}",
                failed.join(", ")
            )));
        }
        self.wait_for(plans).await
    }

    /// Gives an existing topic more partitions and waits until the metadata show them.
    ///
    /// # Errors
    /// [`AdminFault`] with the broker's reason; it never takes partitions away.
    pub(crate) async fn grow(&self, topic: &str, partitions: i32) -> Result<(), AdminFault> {
        let count = usize::try_from(partitions).unwrap_or(0);
        let options = AdminOptions::new()
            .request_timeout(Some(REQUEST_TIMEOUT))
            .operation_timeout(Some(CREATE_TIMEOUT));
        let refused = |reason: String| {
            AdminFault(format!(
                "{topic} could not be given {partitions} partitions: {reason}; the account needs Alter on it"
            ))
        };
        let results = self
            .client
            .create_partitions([&NewPartitions::new(topic, count)], &options)
            .await
            .map_err(|error| refused(error.to_string()))?;
        if let Some(Err((_, code))) = results.into_iter().next() {
            return Err(refused(code.to_string()));
        }
        let deadline = Instant::now() + PROPAGATION;
        while self
            .cluster(REQUEST_TIMEOUT)
            .await?
            .topics
            .get(topic)
            .is_none_or(|shape| shape.partitions < partitions)
        {
            if Instant::now() >= deadline {
                return Err(AdminFault(format!(
                    "{topic} was given {partitions} partitions, which do not appear yet; try again in a moment"
                )));
            }
            tokio::time::sleep(PROPAGATION_PAUSE).await;
        }
        Ok(())
    }

    async fn wait_for(&self, plans: &[TopicPlan]) -> Result<(), AdminFault> {
        let deadline = Instant::now() + PROPAGATION;
        loop {
            let cluster = self.cluster(REQUEST_TIMEOUT).await?;
            let absent: Vec<&str> = plans
                .iter()
                .map(|plan| plan.name.as_str())
                .filter(|name| !cluster.topics.contains_key(*name))
                .collect();
            if absent.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(AdminFault(format!(
                    "these topics were created but do not appear yet: {}; try again in a moment",
                    absent.join(", ")
                )));
            }
            tokio::time::sleep(PROPAGATION_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kafka(text: &str) -> KafkaSettings {
        crate::config::from_toml(text, std::iter::empty()).unwrap().settings.kafka
    }

    #[test]
    fn options_librdkafka_does_not_know_are_named() {
        let kafka = kafka(
            "[kafka.properties]\n\"linger.msec\" = 1\n\"linger.ms\" = 2\n\"security.protocol\" = \"tls\"\n",
        );
        let found = unusable_properties(&kafka);
        let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["linger.msec", "security.protocol"]);
        assert!(found.iter().all(|(_, reason)| !reason.is_empty()), "{found:?}");
    }

    #[test]
    fn an_absent_broker_is_named_with_the_reason() {
        // Bound and closed again: nobody listens there.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let kafka = kafka(&format!("[kafka]\nbootstrap_servers = \"127.0.0.1:{port}\"\n"));
        let AdminFault(reason) = look(&kafka, Duration::from_millis(500)).unwrap_err();
        assert!(
            reason.contains(&format!("127.0.0.1:{port}")) && reason.contains("refused"),
            "{reason}"
        );
    }
}
