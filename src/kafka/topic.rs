//! Questions about topics.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::config::KafkaSettings;

use super::client::client_config;

const TIMEOUT: Duration = Duration::from_secs(10);

/// How many partitions each topic has; `None` for one that does not exist.
///
/// # Errors
/// One sentence when the broker does not answer.
pub async fn partition_counts(kafka: &KafkaSettings, topics: &[&str]) -> Result<Vec<Option<i32>>, String> {
    let config = client_config(kafka, "metadata");
    let servers = kafka.bootstrap_servers.clone();
    let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
    let ask = move || {
        let consumer: BaseConsumer = config.create().map_err(|error| format!("no Kafka client could be made from [kafka]: {error}"))?;
        topics
            .iter()
            .map(|topic| {
                let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT).map_err(|error| {
                    format!("Kafka at {servers} does not answer ({error}); check kafka.bootstrap_servers and that the broker runs")
                })?;
                let count = metadata.topics().iter().find(|found| found.name() == topic).map_or(0, |found| found.partitions().len());
                Ok(i32::try_from(count).ok().filter(|count| *count > 0))
            })
            .collect()
    };
    tokio::task::spawn_blocking(ask).await.map_err(|error| format!("the question about topics ended abnormally: {error}"))?
}
