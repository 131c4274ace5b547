//! Producing and reading records from outside the connector.

use std::time::{Duration, Instant};

use rdkafka::{
    ClientConfig, ClientContext, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, Headers as _, OwnedHeaders},
    producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer},
};

use wdt_connector::testing::clock::Timestamp;

use crate::parts::broker;

const LIMIT: Duration = Duration::from_secs(60);

/// One record as read.
#[derive(Clone, Debug)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Record {
    /// The key as text.
    pub fn key_text(&self) -> String {
        String::from_utf8_lossy(self.key.as_deref().unwrap_or_default()).into_owned()
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    }

    /// The value as JSON: one of our Avro values in single-object encoding through the product's
    /// codec.
    pub fn json(&self) -> serde_json::Value {
        let bytes = self
            .value
            .as_deref()
            .unwrap_or_else(|| panic!("a tombstone at {}/{}", self.partition, self.offset));
        wdt_connector::testing::schema::Codec::single_object().to_json(bytes).unwrap_or_else(
            |fault| panic!("the value at {}/{} is not ours: {fault}", self.partition, self.offset),
        )
    }
}

/// Delivery failures fail the test that sent.
#[derive(Debug)]
struct Deliveries;

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, report: &DeliveryResult<'_>, (): ()) {
        if let Err((fault, _)) = report {
            crate::parts::say(&format!("a record of the test was not delivered: {fault}"));
        }
    }
}

/// Sends records as a Java client would: `murmur2` over the key decides the partition.
pub struct Sender {
    producer: ThreadedProducer<Deliveries>,
}

impl Default for Sender {
    fn default() -> Self {
        Self::new()
    }
}

impl Sender {
    /// For the shared broker.
    pub fn new() -> Self {
        Self::with(broker().client())
    }

    /// For any broker.
    pub fn with(config: ClientConfig) -> Self {
        Self::partitioned(config, "murmur2_random")
    }

    /// The same with another of librdkafka's partitioners; `consistent_random` is its default.
    pub fn partitioned(mut config: ClientConfig, partitioner: &str) -> Self {
        config
            .set("partitioner", partitioner)
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("queue.buffering.max.messages", "500000");
        Self { producer: config.create_with_context(Deliveries).expect("a producer") }
    }

    /// Queues one record; [`Self::flush`] sees it through.
    pub fn send(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, &str)],
    ) {
        self.queue(topic, None, key, value, headers);
    }

    /// Queues one record for a partition of the caller's choice, wrong ones included.
    pub fn send_to(&self, topic: &str, partition: i32, key: Option<&[u8]>, value: Option<&[u8]>) {
        self.queue(topic, Some(partition), key, value, &[]);
    }

    /// The same with headers.
    pub fn send_headed_to(
        &self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, &str)],
    ) {
        self.queue(topic, Some(partition), key, value, headers);
    }

    /// Sends one record with a time of the caller's choice, wrong ones included.
    pub fn send_at(
        &self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        at: Timestamp,
    ) {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).timestamp(at.0);
        (record.partition, record.key, record.payload) = (Some(partition), key, value);
        self.producer.send(record).map_err(|(fault, _)| fault).expect("a record is queued");
        self.flush();
    }

    fn queue(
        &self,
        topic: &str,
        partition: Option<i32>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, &str)],
    ) {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic);
        record.partition = partition;
        record.key = key;
        record.payload = value;
        if !headers.is_empty() {
            let all = headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
                all.insert(Header { key, value: Some(*value) })
            });
            record = record.headers(all);
        }
        let deadline = Instant::now() + LIMIT;
        while let Err((fault, again)) = self.producer.send(record) {
            let full = matches!(fault, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
            assert!(
                full && Instant::now() < deadline,
                "a record for {topic} could not be queued: {fault}"
            );
            record = again;
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until everything queued has been acknowledged.
    pub fn flush(&self) {
        self.producer.flush(LIMIT).expect("the broker takes the test's records");
    }
}

/// Reads one topic from its beginning under `read_committed`, remembering what it has seen.
pub struct Reader {
    topic: String,
    consumer: BaseConsumer,
    /// Sees what is pending too, so that its high watermark is the true end of the log.
    watcher: BaseConsumer,
    partitions: Vec<i32>,
    /// Everything read so far, in the order of arrival (offset order within a partition).
    pub seen: Vec<Record>,
}

impl Reader {
    /// A reader of a topic of the shared broker.
    pub fn new(topic: &str) -> Self {
        Self::with(broker().client(), topic)
    }

    /// A reader at any broker.
    pub fn with(config: ClientConfig, topic: &str) -> Self {
        let mut reading = config.clone();
        reading
            .set("group.id", "wdt-tests-reader")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "earliest")
            .set("fetch.wait.max.ms", "50");
        let consumer: BaseConsumer = reading.create().expect("a consumer");
        let mut watching = config;
        watching.set("group.id", "wdt-tests-watcher").set("isolation.level", "read_uncommitted");
        let watcher: BaseConsumer = watching.create().expect("a consumer");
        let known = watcher.fetch_metadata(Some(topic), LIMIT).expect("the broker answers");
        let partitions: Vec<i32> =
            known.topics().iter().flat_map(|one| one.partitions()).map(|one| one.id()).collect();
        assert!(!partitions.is_empty(), "the topic {topic} does not exist");
        let mut list = TopicPartitionList::new();
        for partition in &partitions {
            list.add_partition_offset(topic, *partition, Offset::Beginning).expect("an offset");
        }
        consumer.assign(&list).expect("an assignment");
        Self { topic: topic.to_owned(), consumer, watcher, partitions, seen: Vec::new() }
    }

    /// Reads what arrives within `limit` or until `enough` says so of everything seen; panics with
    /// `what` otherwise.
    pub fn until(
        &mut self,
        what: &str,
        limit: Duration,
        mut enough: impl FnMut(&[Record]) -> bool,
    ) -> &[Record] {
        let deadline = Instant::now() + limit;
        let mut changed = true;
        loop {
            if changed && enough(&self.seen) {
                return &self.seen;
            }
            assert!(
                Instant::now() < deadline,
                "waited {limit:?} for {what} in {}; {} records were seen",
                self.topic,
                self.seen.len()
            );
            changed = self.poll(Duration::from_millis(100));
            // Whatever is fetched already is taken together: `enough` may look at all of it.
            while changed && self.poll(Duration::ZERO) {}
        }
    }

    /// Waits for at least `count` records.
    pub fn at_least(&mut self, count: usize, limit: Duration) -> &[Record] {
        self.until(&format!("{count} records"), limit, |seen| seen.len() >= count)
    }

    /// Reads to the end the log has now: until the position has passed the high watermark of every
    /// partition, which a transaction that is still open holds back.
    pub fn finish(&mut self) -> &[Record] {
        let ends: Vec<(i32, i64)> = self
            .partitions
            .iter()
            .map(|partition| {
                // A broker that has just created the topic may not lead its partitions yet.
                let end = super::until(&format!("the end of {}", self.topic), LIMIT, || {
                    self.watcher
                        .fetch_watermarks(&self.topic, *partition, LIMIT)
                        .ok()
                        .map(|(_, end)| end)
                });
                (*partition, end)
            })
            .collect();
        let deadline = Instant::now() + LIMIT;
        while !self.passed(&ends) {
            assert!(
                Instant::now() < deadline,
                "the end of {} was not reached: is a transaction left open?",
                self.topic
            );
            self.poll(Duration::from_millis(50));
        }
        &self.seen
    }

    /// Reads what is there, waiting at most `limit` for the first of it.
    pub fn read_on(&mut self, limit: Duration) {
        let mut more = self.poll(limit);
        while more {
            more = self.poll(Duration::ZERO);
        }
    }

    fn passed(&self, ends: &[(i32, i64)]) -> bool {
        let positions = self.consumer.position().expect("positions");
        ends.iter().all(|(partition, end)| {
            // An empty partition never gets a position.
            *end == 0
                || positions.find_partition(&self.topic, *partition).is_some_and(
                    |at| matches!(at.offset(), Offset::Offset(position) if position >= *end),
                )
        })
    }

    fn poll(&mut self, wait: Duration) -> bool {
        match self.consumer.poll(wait) {
            None => false,
            // A broker that a test kills; whoever reads has a deadline.
            Some(Err(fault))
                if matches!(
                    fault.rdkafka_error_code(),
                    Some(
                        RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown
                    )
                ) =>
            {
                false
            }
            Some(Err(fault)) => panic!("{} cannot be read: {fault}", self.topic),
            Some(Ok(message)) => {
                let headers = message.headers().map_or_else(Vec::new, |all| {
                    all.iter()
                        .map(|one| (one.key.to_owned(), one.value.unwrap_or_default().to_vec()))
                        .collect()
                });
                let record = Record {
                    partition: message.partition(),
                    offset: message.offset(),
                    key: message.key().map(<[u8]>::to_vec),
                    value: message.payload().map(<[u8]>::to_vec),
                    headers,
                };
                self.seen.push(record);
                true
            }
        }
    }
}

/// Everything committed in a topic up to its present end.
pub fn read_all(topic: &str) -> Vec<Record> {
    let mut reader = Reader::new(topic);
    reader.finish();
    reader.seen
}

/// The committed offsets of a group on a topic, by partition; partitions without one are left out.
pub fn committed(group: &str, topic: &str) -> Vec<(i32, i64)> {
    committed_at(broker().client(), group, topic)
}

/// The same at another broker.
pub fn committed_at(mut broker: ClientConfig, group: &str, topic: &str) -> Vec<(i32, i64)> {
    let consumer: BaseConsumer = broker
        .set("group.id", group)
        .set("isolation.level", "read_committed")
        .create()
        .expect("a consumer");
    let known = consumer.fetch_metadata(Some(topic), LIMIT).expect("the broker answers");
    let mut list = TopicPartitionList::new();
    for one in known.topics().iter().flat_map(|one| one.partitions()) {
        list.add_partition(topic, one.id());
    }
    let offsets = consumer.committed_offsets(list, LIMIT).expect("the broker answers");
    let found = offsets.elements().into_iter().filter_map(|one| match one.offset() {
        Offset::Offset(offset) => Some((one.partition(), offset)),
        _ => None,
    });
    found.collect()
}
