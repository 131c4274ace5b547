//! Client configuration: the operator's options below, what correctness rests on above.

use std::time::Duration;

use rdkafka::{
    ClientConfig, ClientContext, config::RDKafkaLogLevel, consumer::ConsumerContext,
    error::KafkaError,
};
use secrecy::ExposeSecret;

use crate::config::KafkaSettings;

use super::rights::heard;

/// Every consumer's `isolation.level`: offsets are stable ones, and records those of committed
/// transactions.
pub(crate) const ISOLATION: &str = "read_committed";

/// Longest time an open transaction of a frozen owner may block its successor's restore: #5 of
/// `docs/delivery.md#timing-inequalities`.
pub(crate) const TRANSACTION_TIMEOUT_MS: u64 = 10_000;

/// Whoever uses the client says what went wrong; librdkafka's lines would only stand between.
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
        heard(&error, reason);
    }
}

impl ConsumerContext for Quiet {}

/// The options every client of ours starts from. `role` ends up in the client id, which brokers log
/// and meter.
pub(crate) fn client_config(kafka: &KafkaSettings, role: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (key, value) in &kafka.properties {
        config.set(key, value);
    }
    config.set("bootstrap.servers", &kafka.bootstrap_servers);
    config.set("client.id", client_id(kafka, role));
    if let Some(password) = &kafka.sasl_password {
        config.set("sasl.password", password.expose_secret());
    }
    if let Some(password) = &kafka.ssl_key_password {
        config.set("ssl.key.password", password.expose_secret());
    }
    for (key, value) in [
        // Half a second is librdkafka's pause after a refused connection; a restarted broker is
        // found sooner this way.
        ("reconnect.backoff.max.ms", "1000"),
        // The first pause, and twice as long as a new client waits between its connection to a
        // bootstrap server and the next one.
        ("reconnect.backoff.ms", "22"),
        // Histograms for a broker that may ask for them (KIP-714): 100 KB per client and broker,
        // kept whether one asks or not.
        ("enable.metrics.push", "false"),
    ] {
        if !kafka.properties.contains_key(key) {
            config.set(key, value);
        }
    }
    config.set_log_level(RDKafkaLogLevel::Warning);
    config
}

/// A consumer that only ever sees committed records, with its buffers bounded: gzip, snappy and lz4
/// batches have no cap on what they expand to.
pub(crate) fn consumer_config(kafka: &KafkaSettings, role: &str, group: &str) -> ClientConfig {
    let mut config = client_config(kafka, role);
    for (key, value) in [
        ("receive.message.max.bytes", "8388608"),
        ("fetch.max.bytes", "4194304"),
        ("queued.max.messages.kbytes", "16384"),
        ("fetch.wait.max.ms", "100"),
        ("fetch.error.backoff.ms", "100"),
        // A full buffer is looked at again after this; librdkafka's own second made a long restore
        // wait most of its time.
        ("fetch.queue.backoff.ms", "20"),
    ] {
        if !kafka.properties.contains_key(key) {
            config.set(key, value);
        }
    }
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        // A question about a topic must not create it.
        .set("allow.auto.create.topics", "false")
        .set("isolation.level", ISOLATION)
        .set("check.crcs", "true");
    config
}

/// Bytes of the largest record a producer of ours takes: librdkafka's `message.max.bytes`.
#[must_use]
pub(crate) fn largest_record(kafka: &KafkaSettings) -> usize {
    kafka
        .properties
        .get("message.max.bytes")
        .and_then(|bytes| bytes.parse().ok())
        .unwrap_or(1_000_000)
}

/// How often a group member sends heartbeats. The response announces a rebalance, and an eager
/// rebalance ends with the last member's join: until then every partition waits. librdkafka's
/// default is 3 s.
pub(super) fn heartbeat_interval(kafka: &KafkaSettings) -> Duration {
    let millis = kafka.properties.get("heartbeat.interval.ms").and_then(|value| value.parse().ok());
    Duration::from_millis(millis.unwrap_or(500))
}

/// The client id of a role, by which brokers meter and a group's description names its members:
/// `application_id-instance-role`.
pub(super) fn client_id(kafka: &KafkaSettings, role: &str) -> String {
    format!("{}-{}-{role}", kafka.application_id, kafka.instance_ordinal)
}

/// The group id of a role: `application_id.role`.
pub(crate) fn group_id(kafka: &KafkaSettings, role: &str) -> String {
    format!("{}.{role}", kafka.application_id)
}

/// The stable name of this instance within a role: `application_id.role.instance`; static member
/// and transactional id.
pub(crate) fn instance_id(kafka: &KafkaSettings, role: &str) -> String {
    format!("{}.{role}.{}", kafka.application_id, kafka.instance_ordinal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_options_come_before_ours() {
        let kafka =
            |text| crate::config::from_toml(text, std::iter::empty()).unwrap().settings.kafka;
        let ours = client_config(&kafka(""), "test");
        assert_eq!(
            (ours.get("enable.metrics.push"), ours.get("reconnect.backoff.max.ms")),
            (Some("false"), Some("1000"))
        );
        let theirs = client_config(
            &kafka("[kafka.properties]\n\"enable.metrics.push\" = \"true\"\n"),
            "test",
        );
        assert_eq!(
            (theirs.get("enable.metrics.push"), theirs.get("reconnect.backoff.max.ms")),
            (Some("true"), Some("1000"))
        );
    }
}
