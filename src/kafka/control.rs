//! What an operator decided for all instances: a small compacted topic that everyone reads.
//!
//! A record's key is a JSON array such as `["pipeline","commands"]`, its value a JSON object; the
//! newest of a key holds, a tombstone takes it back. The topic has one partition. Where it is
//! missing, nothing was decided. A person's decision about a command is kept as it stands there:
//! the command pipeline reads it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use rdkafka::consumer::BaseConsumer;
use serde_json::Value;
use tokio::sync::watch;

use crate::{
    background,
    config::{KafkaSettings, Partitioner},
    crash::{self, Fault},
};

use super::{
    client::{Quiet, group_id},
    follow::{Followed, Follower, follow_with, open},
    tool::{Sender, ToolFault},
    topic_reader::{connect, whole_end},
};

/// Everything that was decided, by key.
pub(crate) type Decisions = BTreeMap<Vec<String>, Value>;

/// Decisions about commands that wait to be carried out, by key.
pub(crate) type Resolutions = BTreeMap<Vec<u8>, Arc<Resolution>>;

/// A decision about a command, as it stands in the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolution {
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp: Option<i64>,
    pub value: Vec<u8>,
}

/// What the keys of decisions about commands begin with.
pub(crate) const DECISION: &str = "decision";

/// Bytes of the longest key: two names of 255 characters, each written as `\u0000` at worst, fit. A
/// producer does not take a tombstone of any size, although a broker holds its key compressed.
const MOST_KEY: usize = 4096;

/// What was read so far.
#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    decisions: Arc<Decisions>,
    resolutions: Arc<Resolutions>,
}

/// The topic's only partition.
pub(crate) const PARTITION: i32 = 0;
/// Before every offset.
const NOWHERE: i64 = -1;
/// How often it is looked whether the reader has come to the topic's end.
const POLL: Duration = Duration::from_millis(50);
const REQUEST: Duration = Duration::from_secs(5);

/// Follows the control topic; cheap to clone. The reader ends with the last clone.
#[derive(Clone, Debug)]
pub(crate) struct Controls {
    known: watch::Receiver<Option<Known>>,
    /// Everything before it is in `known`; [`NOWHERE`] while the topic is read from its start.
    position: Arc<AtomicI64>,
    asking: Arc<Asking>,
    _reader: Arc<Follower>,
}

/// A client for questions of the pipelines.
struct Asking(Option<Arc<BaseConsumer<Quiet>>>);

impl std::fmt::Debug for Asking {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Asking")
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        background::close("close-consumer", self.0.take());
    }
}

impl Controls {
    /// Begins to read on a thread of its own. `role` names the group whose committed offsets the
    /// client can be asked for; it never joins it.
    ///
    /// # Errors
    /// One sentence when no Kafka client can be made from the configuration.
    pub(crate) fn follow(kafka: &KafkaSettings, topic: &str, role: &str) -> Result<Self, String> {
        let reader = open(kafka, "control", &group_id(kafka, role), topic)?;
        let asking = connect(kafka, "questions", &group_id(kafka, role))
            .map_err(|error| format!("no Kafka client for questions could be made: {error}"))?;
        let (sender, known) = watch::channel(None);
        let position = Arc::new(AtomicI64::new(NOWHERE));
        let (read_to, mut reading) = (Arc::clone(&position), Known::default());
        let reader = follow_with(reader, "control", move |seen| match seen {
            // What was told holds until everything is read again.
            Followed::Begun => {
                read_to.store(NOWHERE, Ordering::Release);
                reading = Known::default();
            }
            Followed::Record { offset, timestamp, key, value, .. } => {
                crash::panic_once_if(Fault::ControlPanic);
                reading.apply(key, value, (offset, timestamp));
            }
            Followed::Quiet(positions) => {
                sender.send_if_modified(|known| {
                    let changed = known.as_ref() != Some(&reading);
                    if changed {
                        *known = Some(reading.clone());
                    }
                    changed
                });
                let position = positions.get(&PARTITION).copied().unwrap_or(NOWHERE);
                read_to.store(position, Ordering::Release);
            }
        })?;
        Ok(Self {
            known,
            position,
            asking: Arc::new(Asking(Some(asking))),
            _reader: Arc::new(reader),
        })
    }

    /// The client for questions that need no partition assigned, one for both pipelines: it costs
    /// some hundred kilobytes, three threads, and a connection to every broker. It is not the
    /// reader's, behind whose fetches every question would wait for `fetch.wait.max.ms`, and with
    /// the answers about partitions' leaders the first result.
    pub(super) fn client(&self) -> Weak<BaseConsumer<Quiet>> {
        self.asking.0.as_ref().map(Arc::downgrade).unwrap_or_default()
    }

    /// Waits until the topic was read to its end once, or is known to be missing; then what is
    /// decided now.
    pub(crate) async fn settled(&self) -> Arc<Decisions> {
        let mut known = self.known.clone();
        match known.wait_for(Option::is_some).await {
            Ok(known) => known.clone().unwrap_or_default().decisions,
            // The reader has ended; what it last knew holds.
            Err(_) => self.now(),
        }
    }

    /// What is decided as far as it was read.
    #[must_use]
    pub(crate) fn now(&self) -> Arc<Decisions> {
        self.known.borrow().clone().unwrap_or_default().decisions
    }

    /// Decisions about commands that wait, as far as it was read.
    #[must_use]
    pub(crate) fn resolutions(&self) -> Arc<Resolutions> {
        self.known.borrow().clone().unwrap_or_default().resolutions
    }

    /// Waits until everything is known that stands in the topic now, be it of a transaction that is
    /// just being committed.
    ///
    /// # Errors
    /// Why the topic's end is not known, or not reached in good time.
    pub(crate) async fn catch_up(&self, kafka: &KafkaSettings, topic: &str) -> Result<(), String> {
        let (kafka, topic) = (kafka.clone(), topic.to_owned());
        let end = move || whole_end(&kafka, "control", &topic, PARTITION, REQUEST);
        let asked = background::blocking("control end", end).await;
        let end = asked.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let until = std::time::Instant::now() + REQUEST;
        while self.position.load(Ordering::Acquire) < end {
            if std::time::Instant::now() >= until {
                return Err(format!("its reader has not come to offset {end}"));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Waits for the next change; never ends when there can be none.
    pub(crate) async fn changed(&mut self) {
        if self.known.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The decision that pauses a pipeline (`commands`, or a feed's name), if one does:
    /// `{"state":"paused","by":…,"at":…}`.
    #[must_use]
    pub(crate) fn pause_of(&self, pipeline: &str) -> Option<Value> {
        let decisions = self.now();
        decisions
            .get(&pipeline_key(pipeline))
            .filter(|value| value.get("state").and_then(Value::as_str) == Some("paused"))
            .cloned()
    }
}

/// The key under which a pipeline is paused and resumed.
#[must_use]
pub(crate) fn pipeline_key(pipeline: &str) -> Vec<String> {
    vec!["pipeline".to_owned(), pipeline.to_owned()]
}

/// Writes one decision for all instances; `None` takes it back. Ends when every in-sync replica has
/// it, with its offset.
///
/// # Errors
/// [`ToolFault`] when no broker answers, the topic is missing, or the record is refused.
pub(crate) async fn decide(
    kafka: &KafkaSettings,
    topic: &str,
    key: impl Into<Value>,
    value: Option<&Value>,
) -> Result<i64, ToolFault> {
    let (key, value) = (key.into().to_string(), value.map(Value::to_string));
    let sender = Sender::connect(kafka, Partitioner::Any)?;
    let (verifier, name) = (sender.clone(), topic.to_owned());
    background::blocking("topic check", move || verifier.verify(&name))
        .await
        .map_err(|error| ToolFault(format!("asking for {topic} ended early: {error}")))??;
    let (_, offset) = sender
        .queue_change(topic, PARTITION, key.as_bytes(), value.as_deref().map(str::as_bytes))?
        .await?;
    Ok(offset)
}

/// Whether a key is that of a decision about a command, or was meant to be.
fn is_resolution(key: &[u8]) -> bool {
    let named = serde_json::from_slice::<Vec<Value>>(key)
        .is_ok_and(|key| key.first().and_then(Value::as_str) == Some(DECISION));
    named || key.starts_with(format!("[\"{DECISION}\"").as_bytes())
}

impl Known {
    fn apply(&mut self, key: &[u8], value: Option<&[u8]>, (offset, timestamp): Place) {
        if key.len() > MOST_KEY {
            tracing::warn!(
                kafka.offset = offset,
                "control record with a key of {} bytes skipped",
                key.len()
            );
            return;
        }
        if !is_resolution(key) {
            return apply(Arc::make_mut(&mut self.decisions), key, value);
        }
        let resolutions = Arc::make_mut(&mut self.resolutions);
        match value {
            None => resolutions.remove(key),
            Some(value) => {
                let resolution = Resolution { offset, timestamp, value: value.to_vec() };
                resolutions.insert(key.to_vec(), Arc::new(resolution))
            }
        };
    }
}

/// Offset and time of a record.
type Place = (i64, Option<i64>);

/// A record that is no decision is named and passed over: the topic may hold what a later version
/// writes.
fn apply(decisions: &mut Decisions, key: &[u8], value: Option<&[u8]>) {
    let Ok(key) = serde_json::from_slice::<Vec<String>>(key) else {
        tracing::warn!("control record with an unknown key skipped");
        return;
    };
    match value.map(serde_json::from_slice::<Value>) {
        None => {
            decisions.remove(&key);
        }
        Some(Ok(value)) => {
            decisions.insert(key, value);
        }
        Some(Err(error)) => {
            tracing::warn!(kafka.key = ?key, %error, "control record that is not JSON skipped")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_decision_of_a_key_holds_and_a_tombstone_takes_it_back() {
        let mut decisions = Decisions::new();
        apply(&mut decisions, br#"["pipeline","commands"]"#, Some(br#"{"state":"paused"}"#));
        apply(&mut decisions, br#"["pipeline","commands"]"#, Some(b"not json"));
        apply(&mut decisions, b"nonsense", Some(b"{}"));
        assert_eq!(
            decisions.get(&pipeline_key("commands")).and_then(|value| value["state"].as_str()),
            Some("paused")
        );
        apply(&mut decisions, br#"["pipeline","commands"]"#, None);
        assert!(decisions.is_empty());
    }

    #[test]
    fn decisions_about_commands_are_kept_as_they_stand_until_their_tombstone() {
        let mut known = Known::default();
        let keys = [&br#"["decision","R","c",0,2]"#[..], br#"[ "decision", 7]"#, br#"["decision""#];
        for (key, offset) in keys.into_iter().zip(7..) {
            known.apply(key, Some(b"\xff"), (offset, None));
        }
        known.apply(br#"["pipeline","commands"]"#, Some(b"{}"), (10, None));
        assert_eq!((known.resolutions.len(), known.decisions.len()), (3, 1));
        assert_eq!(known.resolutions[keys[0]].offset, 7);
        for key in keys {
            known.apply(key, None, (11, None));
        }
        assert!(known.resolutions.is_empty());
        let long = format!(r#"["decision","{}","c",0,2]"#, "x".repeat(MOST_KEY));
        known.apply(long.as_bytes(), Some(b"{}"), (12, None));
        assert!(known.resolutions.is_empty());
    }
}
