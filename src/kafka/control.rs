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
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    thread,
    time::Duration,
};

use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};
use serde_json::Value;
use tokio::sync::watch;

use crate::{
    background,
    config::{KafkaSettings, Partitioner},
    crash::{self, Fault},
};

use super::{
    client::{consumer_config, group_id},
    rights::{
        Operation, Resource, complain, denial, heard, is_denial, is_denial_code, is_topic_denial,
    },
    tool::{Sender, ToolFault},
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
/// How often the reader looks whether it should stop.
const POLL: Duration = Duration::from_millis(200);
const REQUEST: Duration = Duration::from_secs(5);
/// A missing topic is looked for again after this long; somebody may have created it.
const MISSING_PAUSE: Duration = Duration::from_secs(30);

/// Follows the control topic; cheap to clone. The reader ends with the last clone.
#[derive(Clone, Debug)]
pub(crate) struct Controls {
    known: watch::Receiver<Option<Known>>,
    /// Everything before it is in `known`; [`NOWHERE`] while the topic is read from its start.
    position: Arc<AtomicI64>,
    /// The reader's.
    client: Weak<BaseConsumer<Quiet>>,
    _reader: Arc<Stop>,
}

#[derive(Debug, Default)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The topic's trouble is logged here, not by librdkafka.
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

impl Controls {
    /// Begins to read on a thread of its own. `role` names the group whose committed offsets the
    /// client can be asked for; it never joins it.
    ///
    /// # Errors
    /// One sentence when no Kafka client can be made from the configuration.
    pub(crate) fn follow(kafka: &KafkaSettings, topic: &str, role: &str) -> Result<Self, String> {
        let consumer: BaseConsumer<Quiet> =
            consumer_config(kafka, "control", &group_id(kafka, role))
                .set("enable.partition.eof", "true")
                .create_with_context(Quiet)
                .map_err(|error| format!("no Kafka client for {topic} could be made: {error}"))?;
        let consumer = Arc::new(consumer);
        let client = Arc::downgrade(&consumer);
        let (sender, known) = watch::channel(None);
        let (stop, position) = (Stop::default(), Arc::new(AtomicI64::new(NOWHERE)));
        let mut reader = Reader {
            position: Arc::clone(&position),
            consumer,
            topic: topic.to_owned(),
            sender,
            stop: Arc::clone(&stop.0),
            known: Known::default(),
        };
        background::lasting_thread("control", move || reader.run())
            .map_err(|error| format!("the reader of {topic} could not be started: {error}"))?;
        Ok(Self { known, position, client, _reader: Arc::new(stop) })
    }

    /// The reader's client, for questions that need no partition assigned: a client costs some
    /// hundred kilobytes, three threads, and a connection to every broker.
    pub(super) fn client(&self) -> Weak<BaseConsumer<Quiet>> {
        Weak::clone(&self.client)
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
        // Only a client that reads what is not committed is told the end behind it.
        let end = move || {
            let client: BaseConsumer<Quiet> =
                consumer_config(&kafka, "control", &group_id(&kafka, "control"))
                    .set("isolation.level", "read_uncommitted")
                    .create_with_context(Quiet)?;
            client.fetch_watermarks(&topic, PARTITION, REQUEST)
        };
        let asked = background::blocking("control end", end).await;
        let (_, end) = asked
            .map_err(|error| error.to_string())?
            .map_err(|error: KafkaError| error.to_string())?;
        let until = std::time::Instant::now() + REQUEST;
        while self.position.load(Ordering::Acquire) < end {
            if std::time::Instant::now() >= until {
                return Err(format!("its reader has not come to offset {end}"));
            }
            tokio::time::sleep(POLL / 4).await;
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

struct Reader {
    consumer: Arc<BaseConsumer<Quiet>>,
    topic: String,
    sender: watch::Sender<Option<Known>>,
    stop: Arc<AtomicBool>,
    position: Arc<AtomicI64>,
    known: Known,
}

impl Reader {
    fn run(&mut self) {
        while !self.stopped() {
            match self.begin() {
                Ok(true) => self.read(),
                Ok(false) => {
                    tracing::debug!(
                        kafka.topic = self.topic,
                        "control topic missing; nothing is paused"
                    );
                    self.tell();
                    self.pause(MISSING_PAUSE);
                }
                // A broker that does not answer is waited for: whoever needs to know what is
                // decided waits too.
                Err(error) => {
                    if is_denial(&error) {
                        complain(&denial(Operation::Read, &Resource::Topic(self.topic.clone())));
                    }
                    tracing::debug!(
                        %error,
                        kafka.topic = self.topic,
                        "control topic unreadable; retrying"
                    );
                    self.pause(POLL);
                }
            }
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.sender.is_closed()
    }

    fn pause(&self, span: Duration) {
        let until = std::time::Instant::now() + span;
        while !self.stopped() && std::time::Instant::now() < until {
            thread::sleep(POLL);
        }
    }

    /// Assigns the partition from its first offset; `false` when the topic does not exist.
    fn begin(&mut self) -> Result<bool, KafkaError> {
        // Read again from the start, perhaps after a panic half-way; told only once it is read.
        self.position.store(NOWHERE, Ordering::Release);
        self.known = Known::default();
        // All topics: a request for one by name could create it where the broker creates topics by
        // itself.
        let metadata = self.consumer.fetch_metadata(None, REQUEST)?;
        if !metadata
            .topics()
            .iter()
            .any(|topic| topic.name() == self.topic && !topic.partitions().is_empty())
        {
            // One that may not be seen is not one that is missing: what is paused there must not
            // begin.
            let named = self.consumer.fetch_metadata(Some(&self.topic), REQUEST)?;
            let code =
                named.topics().iter().find_map(|topic| topic.error()).map(RDKafkaErrorCode::from);
            return match code.filter(|code| is_denial_code(*code)) {
                Some(code) => Err(KafkaError::MetadataFetch(code)),
                None => Ok(false),
            };
        }
        let (first, end) = self.consumer.fetch_watermarks(&self.topic, PARTITION, REQUEST)?;
        if first >= end {
            self.tell();
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, PARTITION, Offset::Offset(first))?;
        self.consumer.assign(&list)?;
        Ok(true)
    }

    /// Until the topic is another one than was read.
    fn read(&mut self) {
        let (mut at_end, mut next) = (false, 0);
        while !self.stopped() {
            match self.consumer.poll(POLL) {
                None => {}
                Some(Ok(message)) if message.offset() < next => return self.made_again(),
                Some(Ok(message)) => {
                    next = message.offset() + 1;
                    crash::panic_once_if(Fault::ControlPanic);
                    self.known.apply(
                        message.key().unwrap_or_default(),
                        message.payload(),
                        (message.offset(), message.timestamp().to_millis()),
                    );
                    if at_end {
                        self.tell();
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    if at_end && self.is_shorter() {
                        return self.made_again();
                    }
                    at_end = true;
                    self.tell();
                }
                // librdkafka reconnects by itself.
                Some(Err(error)) => {
                    if is_topic_denial(&error) {
                        complain(&denial(Operation::Read, &Resource::Topic(self.topic.clone())));
                    }
                    tracing::debug!(
                        %error,
                        kafka.topic = self.topic,
                        "topic read failed; reading continues"
                    );
                }
            }
            if at_end {
                self.position.store(self.read_to(), Ordering::Release);
            }
        }
    }

    /// Whether the topic ends before what was read.
    fn is_shorter(&self) -> bool {
        let ends = self.consumer.fetch_watermarks(&self.topic, PARTITION, REQUEST);
        ends.is_ok_and(|(_, end)| end < self.position.load(Ordering::Acquire))
    }

    fn made_again(&self) {
        tracing::warn!(
            kafka.topic = self.topic,
            "control topic was made again; what was decided before does not hold any more"
        );
    }

    /// Behind what was read, the markers of transactions included.
    fn read_to(&self) -> i64 {
        let positions = self.consumer.position();
        let offset = positions
            .ok()
            .and_then(|all| Some(all.find_partition(&self.topic, PARTITION)?.offset()));
        match offset {
            Some(Offset::Offset(offset)) => offset,
            _ => NOWHERE,
        }
    }

    fn tell(&self) {
        self.sender.send_if_modified(|known| {
            let changed = known.as_ref() != Some(&self.known);
            if changed {
                *known = Some(self.known.clone());
            }
            changed
        });
    }
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
