//! Follows a topic from its first record for as long as somebody wants to know: for what is kept
//! beside a pipeline, never for what a pipeline decides by (that is read up to a barrier, in
//! `restore`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rdkafka::Message;

use crate::{background, config::KafkaSettings};

use super::{
    client::group_id,
    rights::{Operation, Resource, complain, denial, is_topic_denial},
    topic_reader::{Polled, ReadFault, TopicReader},
    unreadable::is_unreadable,
};

/// What is seen of the topic.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Followed<'a> {
    /// It is read from its first record on, perhaps not for the first time.
    Begun,
    /// One committed record; `value` `None` is a tombstone.
    Record {
        partition: i32,
        offset: i64,
        /// Milliseconds since 1970.
        timestamp: Option<i64>,
        key: &'a [u8],
        value: Option<&'a [u8]>,
    },
    /// Nothing more for now: every partition was read to its end, which is before this offset, or
    /// the topic does not exist.
    Quiet(&'a BTreeMap<i32, i64>),
}

/// Ends the reading when dropped.
#[derive(Debug)]
pub(crate) struct Follower(Arc<AtomicBool>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

const FETCH_WAIT: &str = "fetch.wait.max.ms";
const FETCH_WAIT_MS: &str = "1000";
/// How long one poll waits; also how often the reader looks whether it should stop.
const POLL: Duration = Duration::from_millis(100);
/// A topic that is missing or has a batch that cannot be read is tried again after this; somebody
/// may have created or mended it.
const MISSING_PAUSE: Duration = Duration::from_secs(30);

/// Begins to read on a thread of its own; no group is joined, nothing is committed.
///
/// # Errors
/// One sentence when no client can be made or no thread be started.
pub(crate) fn follow(
    kafka: &KafkaSettings,
    role: &'static str,
    topic: &str,
    on: impl FnMut(Followed<'_>) + Send + 'static,
) -> Result<Follower, String> {
    let reader = open(kafka, role, &group_id(kafka, role), topic)?;
    follow_with(reader, role, on)
}

/// A reader for [`follow_with`]. Nobody waits behind its fetches, which are answered at once when
/// there is something: the longer they wait, the less a quiet topic costs.
///
/// # Errors
/// One sentence when no client can be made.
pub(super) fn open(
    kafka: &KafkaSettings,
    role: &'static str,
    group: &str,
    topic: &str,
) -> Result<TopicReader, String> {
    let mut kafka = kafka.clone();
    kafka.properties.entry(FETCH_WAIT.to_owned()).or_insert_with(|| FETCH_WAIT_MS.to_owned());
    TopicReader::open(&kafka, role, group, topic)
        .map_err(|error| format!("no Kafka client for {topic} could be made: {error}"))
}

/// The same with a reader that has not begun.
///
/// # Errors
/// One sentence when no thread can be started.
pub(super) fn follow_with(
    reader: TopicReader,
    thread: &str,
    on: impl FnMut(Followed<'_>) + Send + 'static,
) -> Result<Follower, String> {
    let topic = reader.topic().to_owned();
    let stop = Arc::new(AtomicBool::new(false));
    let mut reading = Reading { reader, stop: Arc::clone(&stop), on };
    background::lasting_thread(thread, move || reading.run())
        .map_err(|error| format!("the reader of {topic} could not be started: {error}"))?;
    Ok(Follower(stop))
}

struct Reading<F> {
    reader: TopicReader,
    stop: Arc<AtomicBool>,
    on: F,
}

impl<F: FnMut(Followed<'_>)> Reading<F> {
    fn run(&mut self) {
        while !self.stopped() {
            let topic = self.reader.topic().to_owned();
            let pause = match self.read() {
                Ok(()) => MISSING_PAUSE,
                // Begun again from the first record, and never called read to the end meanwhile.
                Err(ReadFault { sentence, cause }) if is_unreadable(&cause) => {
                    complain(&sentence);
                    MISSING_PAUSE
                }
                // A broker that does not answer is waited for: whoever needs to know what stands
                // there waits too.
                Err(ReadFault { cause, .. }) => {
                    if is_topic_denial(&cause) {
                        complain(&denial(Operation::Read, &Resource::Topic(topic.clone())));
                    }
                    tracing::debug!(error = %cause, kafka.topic = topic, "topic unreadable; retrying");
                    POLL
                }
            };
            let until = Instant::now() + pause;
            while !self.stopped() && Instant::now() < until {
                thread::sleep(POLL);
            }
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Reads until nobody wants to know more, or the topic is missing.
    fn read(&mut self) -> Result<(), ReadFault> {
        (self.on)(Followed::Begun);
        let logs = self.reader.logs()?;
        if logs.is_empty() {
            (self.on)(Followed::Quiet(&BTreeMap::new()));
            return Ok(());
        }
        // The consumer tells of an end only after a fetch that has waited in vain.
        let mut unread: BTreeMap<i32, i64> = logs
            .iter()
            .filter(|(_, log)| log.next < log.end)
            .map(|(partition, log)| (*partition, log.end))
            .collect();
        let mut read_to: BTreeMap<i32, i64> = BTreeMap::new();
        // Whose end was reached: perhaps that of another log.
        let mut ended: BTreeSet<i32> = BTreeSet::new();
        self.reader.begin(logs)?;
        // Something came since what was read to the end was told last.
        let mut news = true;
        // The last poll brought no record, or the last one that stood there in the beginning.
        let mut pause = true;
        while !self.stopped() {
            // Behind whatever comes, markers of transactions as well, an end is told.
            if unread.is_empty() && news && pause {
                (self.on)(Followed::Quiet(&self.reader.positions()));
                news = false;
            }
            match self.reader.poll(POLL)? {
                Polled::Record(message)
                    if message.offset()
                        < read_to.get(&message.partition()).copied().unwrap_or(0) =>
                {
                    break;
                }
                Polled::Record(message) => {
                    read_to.insert(message.partition(), message.offset() + 1);
                    (self.on)(Followed::Record {
                        partition: message.partition(),
                        offset: message.offset(),
                        timestamp: message.timestamp().to_millis(),
                        key: message.key().unwrap_or_default(),
                        value: message.payload(),
                    });
                    news = true;
                    let (partition, next) = (message.partition(), message.offset() + 1);
                    pause = unread.get(&partition).is_some_and(|end| *end <= next);
                    if pause {
                        unread.remove(&partition);
                    }
                }
                Polled::End(partition) => {
                    unread.remove(&partition);
                    ended.insert(partition);
                    (news, pause) = (true, true);
                }
                // Asked once nothing more comes, not behind each record. A broker that does not
                // answer proves nothing.
                Polled::Nothing => {
                    pause = true;
                    if !unread.is_empty() {
                        let positions = self.reader.positions();
                        unread.retain(|partition, end| {
                            positions.get(partition).is_none_or(|at| at < end)
                        });
                    }
                    if let Some(partition) = ended.first().copied() {
                        match self.is_shorter(partition) {
                            Ok(true) => break,
                            Ok(false) => {
                                ended.remove(&partition);
                            }
                            Err(_) => {}
                        }
                    }
                }
            }
        }
        if self.stopped() {
            return Ok(());
        }
        tracing::warn!(
            kafka.topic = self.reader.topic(),
            "topic was made again; reading it from its beginning, and what stood in the old one is forgotten"
        );
        self.read()
    }

    /// Whether a partition ends before what was read of it.
    fn is_shorter(&self, partition: i32) -> Result<bool, ReadFault> {
        let end = self.reader.log(partition)?.end;
        Ok(self.reader.positions().get(&partition).is_some_and(|read_to| end < *read_to))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use rdkafka::{
        producer::{BaseProducer, BaseRecord, Producer},
        types::{RDKafkaApiKey, RDKafkaRespErr},
    };

    use super::*;
    use crate::kafka::mock::MockBroker;

    fn kafka(broker: &MockBroker) -> KafkaSettings {
        let text = format!("[kafka]\nbootstrap_servers = \"{}\"", broker.bootstrap_servers());
        crate::config::from_toml(&text, std::iter::empty()).unwrap().settings.kafka
    }

    /// Whoever waits for the end of a topic begins its work then: a start, for one.
    #[test]
    fn an_empty_topic_is_at_its_end_before_a_fetch_has_told_it() {
        let broker = MockBroker::start(&[("topic", 1)]).unwrap();
        broker.refuse(RDKafkaApiKey::Fetch, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN; 1_000]);
        let (sender, quiet) = mpsc::channel();
        let _follower = follow(&kafka(&broker), "test", "topic", move |followed| {
            if let Followed::Quiet(positions) = followed {
                let _ = sender.send(positions.clone());
            }
        })
        .unwrap();
        let positions = quiet.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!(positions.get(&0), Some(&0));
    }

    /// Each record is followed by the end of its partition.
    #[test]
    fn a_record_at_the_end_costs_no_question_and_no_second_reading() {
        let broker = MockBroker::start(&[("topic", 1)]).unwrap();
        let servers = broker.bootstrap_servers();
        let producer: BaseProducer =
            rdkafka::ClientConfig::new().set("bootstrap.servers", &servers).create().unwrap();
        let (sender, seen) = mpsc::channel();
        let _follower = follow(&kafka(&broker), "test", "topic", move |followed| {
            let word = match followed {
                Followed::Begun => "begun",
                Followed::Record { .. } => "record",
                Followed::Quiet(_) => "quiet",
            };
            let _ = sender.send(word);
        })
        .unwrap();
        let mut last = "";
        let mut next = || {
            let limit = Duration::from_secs(30);
            let new = loop {
                let word = seen.recv_timeout(limit).unwrap();
                // The end is told again and again.
                if word != "quiet" || last != "quiet" {
                    break word;
                }
            };
            last = new;
            new
        };
        assert_eq!([next(), next()], ["begun", "quiet"]);
        let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN;
        broker.refuse(RDKafkaApiKey::ListOffsets, &[refused; 20]);
        for _ in 0..3 {
            producer.send(BaseRecord::<[u8], [u8]>::to("topic").payload(b"x")).ok().unwrap();
            producer.flush(Duration::from_secs(30)).unwrap();
            assert_eq!([next(), next()], ["record", "quiet"]);
        }
    }
}
