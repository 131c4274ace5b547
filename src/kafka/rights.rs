//! What Kafka's authorizer has to allow, and the sentence that names what it denies.
//!
//! A client library tells of a denial by a code that names neither the right nor the thing; whoever
//! made the request knows both, and says so here, once a minute for each: a right may be granted
//! while the connector waits for it.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::clock::Moment;

/// The same denial is not said again before this.
const AGAIN: Duration = Duration::from_secs(60);
/// Denials remembered; there are as many as topics, groups and ids in use.
const REMEMBERED: usize = 64;

/// What a right is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Resource {
    Topic(String),
    Group(String),
    /// Every transactional id that begins so: one per instance.
    TransactionalIds(String),
}

impl fmt::Display for Resource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(name) => write!(out, "topic {name}"),
            Self::Group(name) => write!(out, "group {name}"),
            Self::TransactionalIds(prefix) => {
                write!(out, "transactional ids that begin with {prefix}")
            }
        }
    }
}

/// What is done with it. `Read` and `Write` imply `Describe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Operation {
    Read,
    Write,
    Describe,
    DescribeConfigs,
}

impl Operation {
    /// As `kafka-acls --operation` wants it.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "Read",
            Self::Write => "Write",
            Self::Describe => "Describe",
            Self::DescribeConfigs => "DescribeConfigs",
        }
    }
}

/// The sentence for a right that is missing.
#[must_use]
pub(crate) fn denial(operation: Operation, resource: &Resource) -> String {
    format!(
        "Kafka denies {} on {resource}; grant it to the connector's account (`wdt-connector check --acls` prints every right it needs)",
        operation.name()
    )
}

/// Whether an error is a denial.
pub(super) fn is_denial(error: &KafkaError) -> bool {
    error.rdkafka_error_code().is_some_and(is_denial_code)
}

/// Whether a topic was denied; a reader that joins no group may be denied its coordinator without
/// missing it.
pub(super) fn is_topic_denial(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed)
}

/// Whether a code is a denial.
pub(super) fn is_denial_code(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::TransactionalIdAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
    )
}

/// What reading `topic` as a member of `group` was denied, if that is what the error says.
pub(super) fn read_denial(error: &KafkaError, topic: &str, group: &str) -> Option<String> {
    match error.rdkafka_error_code()? {
        RDKafkaErrorCode::TopicAuthorizationFailed => {
            Some(denial(Operation::Read, &Resource::Topic(topic.to_owned())))
        }
        RDKafkaErrorCode::GroupAuthorizationFailed => {
            Some(denial(Operation::Read, &Resource::Group(group.to_owned())))
        }
        _ => None,
    }
}

/// Logs a denial unless that was done a moment ago.
pub(super) fn complain(sentence: &str) {
    static SAID: Mutex<Option<HashMap<String, Moment>>> = Mutex::new(None);
    let now = Moment::now();
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    let said = said.get_or_insert_default();
    if said.get(sentence).is_some_and(|at| at.until(now) < AGAIN) {
        return;
    }
    if said.len() >= REMEMBERED {
        said.clear();
    }
    said.insert(sentence.to_owned(), now);
    tracing::error!("{sentence}");
}

/// What a client hears of its connections: a door that stays shut is said once a minute, the rest
/// is for debugging.
pub(super) fn heard(error: &KafkaError, reason: &str) {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::SSL | RDKafkaErrorCode::Authentication) => {
            complain(&format!("no connection to Kafka: {}", door(lasting(reason))))
        }
        Some(_) | None => tracing::debug!(%error, kafka.log.message = reason, "librdkafka error"),
    }
}

/// A refused certificate's reason with what OpenSSL does not tell apart.
pub(super) fn door(reason: &str) -> String {
    if reason.contains("certificate verify failed") {
        format!(
            "{reason}; or it has expired, or is for another name: `openssl s_client -connect host:port` shows it"
        )
    } else {
        reason.to_owned()
    }
}

/// The reason without what differs each time: the attempt's duration, and how often it was
/// repeated.
fn lasting(reason: &str) -> &str {
    reason.split(" (after ").next().unwrap_or(reason)
}

/// The topic in librdkafka's log line about a partition that could not join a transaction: its
/// response carries the name, which no error of the client does.
pub(super) fn denied_in_log<'a>(facility: &str, line: &'a str) -> Option<&'a str> {
    if facility != "ADDPARTS" || !line.contains("authorization failed") {
        return None;
    }
    line.split("partition \"").nth(1)?.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_names_right_and_thing() {
        let sentence = denial(Operation::Write, &Resource::Topic("wdt.journal".into()));
        assert!(sentence.starts_with("Kafka denies Write on topic wdt.journal; "), "{sentence}");
        let error = KafkaError::MessageConsumption(RDKafkaErrorCode::GroupAuthorizationFailed);
        assert!(
            read_denial(&error, "t", "wdt.commands")
                .unwrap()
                .contains("Read on group wdt.commands")
        );
        assert!(is_denial(&error));
        assert_eq!(
            lasting("ssl: handshake failed (after 5ms in state X)"),
            "ssl: handshake failed"
        );
        assert_eq!(
            read_denial(
                &KafkaError::MessageConsumption(RDKafkaErrorCode::BrokerTransportFailure),
                "t",
                "g"
            ),
            None
        );
    }

    #[test]
    fn the_topic_is_read_out_of_the_log_line() {
        let line = "[thrd:127.0.0.1:9092/1]: 127.0.0.1:9092/1: Failed to add partition \"wdt.results\" [0] to transaction: Broker: Topic authorization failed";
        assert_eq!(denied_in_log("ADDPARTS", line), Some("wdt.results"));
        assert_eq!(
            denied_in_log(
                "ADDPARTS",
                "Failed to add partition \"x\" [0] to transaction: Broker: Not coordinator"
            ),
            None
        );
        assert_eq!(denied_in_log("FAIL", line), None);
    }
}
