//! What the broker allows at best: the bare loops a connector cannot beat.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    producer::{BaseProducer, BaseRecord, Producer as _},
    util::Timeout,
};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    kit::{topics, unique},
    parts::broker,
};

const LIMIT: Duration = Duration::from_secs(60);

/// A member of a group of its own.
fn member(source: &str) -> BaseConsumer {
    let mut config = broker().client();
    config
        .set("group.id", unique("ceiling-group"))
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed");
    let consumer: BaseConsumer = config.create().expect("a consumer");
    consumer.subscribe(&[source]).expect("a subscription");
    consumer
}

fn transactional() -> BaseProducer {
    let mut config = broker().client();
    config
        .set("transactional.id", unique("ceiling"))
        .set("linger.ms", "0")
        .set("compression.type", "lz4");
    let producer: BaseProducer = config.create().expect("a producer");
    producer.init_transactions(LIMIT).expect("transactions");
    producer
}

/// Ends a transaction whose records are on their way, with these next offsets by partition.
fn finish(
    producer: &BaseProducer,
    consumer: &BaseConsumer,
    source: &str,
    offsets: impl IntoIterator<Item = (i32, i64)>,
) {
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_millis(1));
    }
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        list.add_partition_offset(source, partition, Offset::Offset(offset)).expect("an offset");
    }
    let metadata = consumer.group_metadata().expect("a member");
    producer.send_offsets_to_transaction(&list, &metadata, LIMIT).expect("offsets");
    producer.commit_transaction(Timeout::Never).expect("a commit");
}

/// Consumes a topic and writes every record to another, in transactions that carry the offsets, as
/// large as they come (at most 500 records): records a second.
pub fn consume_and_produce(source: &str, count: usize) -> f64 {
    let target = unique("ceiling");
    topics::create(&[(&target, 4, &[("cleanup.policy", "delete")])]);
    let (consumer, producer) = (member(source), transactional());
    let mut done = 0;
    let mut began = None;
    while done < count {
        let Some(first) = consumer.poll(Duration::from_millis(200)) else { continue };
        began.get_or_insert_with(Instant::now);
        producer.begin_transaction().expect("a transaction");
        let mut offsets = std::collections::BTreeMap::new();
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(message) = next {
            let message = message.expect("a record");
            offsets.insert(message.partition(), message.offset() + 1);
            let record = BaseRecord::to(&target)
                .key(message.key().unwrap_or_default())
                .payload(message.payload().unwrap_or_default());
            producer.send(record).map_err(|(fault, _)| fault).expect("room in the queue");
            taken += 1;
            next = if taken < 500 { consumer.poll(Duration::ZERO) } else { None };
        }
        finish(&producer, &consumer, source, offsets);
        done += taken;
    }
    done as f64 / began.map_or(1.0, |began| began.elapsed().as_secs_f64())
}

/// A bare transaction of two records to two partitions, with an offset, `rest` after the one
/// before: sorted durations.
pub fn transactions(source: &str, count: usize, rest: Duration) -> Vec<Duration> {
    let bare = Bare::new(source);
    let mut took = Vec::with_capacity(count);
    // As many again come first: they meet a cold broker.
    for turn in 0..2 * count {
        thread::sleep(rest);
        let began = Instant::now();
        bare.transaction(2, 1);
        if turn >= count {
            took.push(began.elapsed());
        }
    }
    took.sort_unstable();
    took
}

/// What two transactions one after the other cost at best: `rate` pieces of work a second, each an
/// intent in one transaction and, `rest` later, an outcome of two records in another; what comes in
/// meanwhile goes into the next pair together. Sorted times from when a piece was due to the end of
/// its second transaction, without those of the first quarter.
pub fn pairs(source: &str, rate: usize, count: usize, rest: Duration) -> Vec<Duration> {
    let bare = Bare::new(source);
    let began = Instant::now();
    let due = |number: usize| began + Duration::from_secs_f64(number as f64 / rate as f64);
    let mut took = Vec::with_capacity(count);
    while took.len() < count {
        if let Some(left) = due(took.len()).checked_duration_since(Instant::now()) {
            thread::sleep(left);
        }
        let (first, now) = (took.len(), Instant::now());
        let together = (first..count).take_while(|number| due(*number) <= now).count();
        bare.transaction(1, together);
        thread::sleep(rest);
        bare.transaction(2, together);
        let end = Instant::now();
        took.extend((first..first + together).map(|number| end.duration_since(due(number))));
        thread::sleep(rest);
    }
    let mut took = took.split_off(count / 4);
    took.sort_unstable();
    took
}

/// What transactions of a group's member are made of.
struct Bare {
    target: String,
    consumer: BaseConsumer,
    producer: BaseProducer,
    source: String,
}

impl Bare {
    fn new(source: &str) -> Self {
        let target = unique("ceiling");
        topics::create(&[(&target, 2, &[("cleanup.policy", "delete")])]);
        let (consumer, producer) = (member(source), transactional());
        while consumer.poll(Duration::from_millis(200)).is_none() {}
        Self { target, consumer, producer, source: source.to_owned() }
    }

    /// So many records to each of so many partitions, with an offset.
    fn transaction(&self, partitions: i32, records: usize) {
        self.producer.begin_transaction().expect("a transaction");
        for partition in
            (0..partitions).flat_map(|partition| std::iter::repeat_n(partition, records))
        {
            let record =
                BaseRecord::<(), _>::to(&self.target).partition(partition).payload(&[b'x'; 600]);
            self.producer.send(record).map_err(|(fault, _)| fault).expect("room in the queue");
        }
        finish(&self.producer, &self.consumer, &self.source, [(0, 0)]);
        self.consumer.poll(Duration::ZERO);
    }
}

/// Answers of so many bytes, received one after the other with the connector's own HTTP client and
/// dropped: CPU seconds of the receiving thread, the kernel's share included, per answer.
pub fn receive(bytes: usize, answers: usize) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let answer = [
            format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n").into_bytes(),
            vec![b'x'; bytes],
        ]
        .concat();
        let mut request = [0; 4096];
        // One read is one request: they are small, and the next one waits for the answer.
        while stream.read(&mut request).is_ok_and(|length| length > 0) {
            stream.write_all(&answer).expect("a reader");
        }
    });
    let client = thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        // Fails only when one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        runtime.block_on(async {
            let client =
                reqwest::Client::builder().no_proxy().tls_certs_only([]).build().expect("a client");
            let one = || async {
                client
                    .post(&url)
                    .body("x")
                    .send()
                    .await
                    .expect("an answer")
                    .bytes()
                    .await
                    .expect("a body")
                    .len()
            };
            for _ in 0..answers / 10 {
                one().await;
            }
            let before = thread_cpu();
            for _ in 0..answers {
                assert_eq!(one().await, bytes, "a whole answer");
            }
            thread_cpu() - before
        })
    });
    let seconds = client.join().expect("the client");
    server.join().expect("the server");
    seconds / answers as f64
}

/// CPU seconds of this thread.
fn thread_cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Writes the same values to another topic as fast as the broker takes them: records a second.
pub fn produce(values: &[(Vec<u8>, Vec<u8>)]) -> f64 {
    let target = unique("ceiling");
    topics::create(&[(&target, 4, &[("cleanup.policy", "delete")])]);
    let mut config = broker().client();
    config
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("queue.buffering.max.messages", "1000000");
    let producer: BaseProducer = config.create().expect("a producer");
    let began = Instant::now();
    for (key, value) in values {
        let mut record = BaseRecord::to(&target).key(key).payload(value);
        while let Err((_, back)) = producer.send(record) {
            record = back;
            producer.poll(Duration::from_millis(5));
        }
    }
    producer.flush(LIMIT).expect("the broker takes them");
    values.len() as f64 / began.elapsed().as_secs_f64()
}
