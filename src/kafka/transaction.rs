//! One transactional producer on a thread of its own.
//!
//! A batch is committed as a whole, or certainly not at all, or its outcome is unknown. In the last
//! case the producer is replaced and the owner restores from the topic
//! (`docs/kafka.md#errors-of-transactions`).

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
    util::Timeout,
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    background,
    clock::Moment,
    config::KafkaSettings,
    crash::{self, Fault, Point},
};

use super::{
    Group, Leaders, Lease,
    client::{
        TRANSACTION_TIMEOUT_MS, client_config, heartbeat_interval, instance_id, largest_record,
    },
    rights::{self, Operation, Resource},
};

/// One record to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub topic: Arc<str>,
    /// `None`: murmur2 of the key, as Java clients do.
    pub partition: Option<i32>,
    pub key: Option<Vec<u8>>,
    /// `None`: a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Outgoing {
    /// Bytes of key, value and headers.
    #[must_use]
    pub fn size(&self) -> usize {
        let of = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        of(&self.key)
            + of(&self.value)
            + self.headers.iter().map(|(name, value)| name.len() + of(value)).sum::<usize>()
    }
}

/// An input offset that is committed together with the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub lease: Lease,
    /// The next offset to be read.
    pub offset: i64,
    /// At most 4 KB.
    pub metadata: String,
}

/// What goes into one transaction. Every batch needs a position for each partition it speaks for:
/// that is its fence.
#[derive(Debug)]
pub(crate) struct Batch {
    pub group: Group,
    pub positions: Vec<Position>,
    pub records: Vec<Arc<Outgoing>>,
}

/// What became of a batch that was not committed.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CommitFault {
    /// These leases are over; nothing was written. The rest may be tried again without them.
    #[error("partitions {0:?} are no longer owned")]
    NotOwner(Vec<Lease>),
    /// Nothing was written; the same batch may be tried again.
    #[error("the transaction was aborted: {0}")]
    Aborted(String),
    /// Nothing was written: these records, by their place in the batch, are each too large by
    /// themselves, for their topic or for the producer. The same batch may be tried again with
    /// smaller ones in their place.
    #[error("{reason}")]
    TooLarge { records: Vec<usize>, reason: String },
    /// Nothing was written: the account may not write to the topics of these records, by their place
    /// in the batch. The same batch may be tried again without them, or once that is granted.
    #[error("{reason}")]
    Denied { records: Vec<usize>, reason: String },
    /// Nobody knows. A new producer has fenced the old one by the time this is returned, or some
    /// lease is over, or the transaction is being aborted and a partition without a leader keeps it
    /// from ending: whatever was committed stays, and every partition concerned must be taken over
    /// again from the log.
    #[error("the outcome of the transaction is unknown: {0}")]
    Unknown(String),
    /// Stop: another process uses the same `kafka.instance_ordinal`, or the topic that everything is
    /// remembered in was replaced. Nothing was written.
    #[error("{0}")]
    Fenced(String),
}

type Request = (Batch, oneshot::Sender<Result<(), CommitFault>>);

/// A handle on the producer's thread; cheap to clone. Batches are committed one after the other;
/// the thread ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Transactor {
    requests: mpsc::UnboundedSender<Request>,
}

impl Transactor {
    /// Starts the thread; `role` is part of the transactional id (`application_id.role.instance`).
    /// `topic` is one that is written to. With `remembers`, its offsets have to grow for ever: where
    /// they do not, it was made again or lost its end, and the pipeline has to stop
    /// ([`CommitFault::Fenced`]).
    ///
    /// # Errors
    /// The reason as a sentence when the operating system gives no thread.
    pub(crate) fn start(
        kafka: &KafkaSettings,
        role: &str,
        topic: &str,
        remembers: bool,
    ) -> Result<Self, String> {
        let (requests, receiver) = mpsc::unbounded_channel();
        let batch_bytes = kafka
            .properties
            .get("batch.size")
            .and_then(|bytes| bytes.parse().ok())
            .unwrap_or(BATCH_BYTES);
        let writer = Writer {
            kafka: kafka.clone(),
            role: role.to_owned(),
            requests: receiver,
            producer: None,
            batch_bytes,
            memory: remembers.then(|| Arc::new(Memory::of(topic))),
            topic: topic.to_owned(),
            panics: 0,
        };
        background::thread(&format!("txn-{role}"), move || writer.run())
            .map_err(|error| format!("the transaction thread could not be started: {error}"))?;
        Ok(Self { requests })
    }

    /// Commits a batch: every record delivered, then the offsets sent with the group's metadata,
    /// then the commit.
    ///
    /// # Errors
    /// [`CommitFault`].
    pub(crate) async fn commit(&self, batch: Batch) -> Result<(), CommitFault> {
        let (reply, answer) = oneshot::channel();
        if self.requests.send((batch, reply)).is_err() {
            return Err(CommitFault::Fenced(
                "its thread has ended, which is a defect of the connector; start the process again"
                    .into(),
            ));
        }
        answer.await.unwrap_or_else(|_| {
            Err(CommitFault::Unknown("the producer's thread ended within the transaction".into()))
        })
    }
}

/// Counts deliveries. A commit takes 100 ms longer if a delivery report is still unserved
/// (`docs/kafka.md#commit-latency`).
#[derive(Default)]
struct Deliveries {
    count: Mutex<Count>,
    changed: Condvar,
}

#[derive(Default)]
struct Count {
    outstanding: usize,
    failed: Option<KafkaError>,
    /// Places of the records that were too large, alone or together with others.
    too_large: Vec<usize>,
    /// Topics that the account may not write to.
    denied: BTreeSet<String>,
    /// Why the topic that everything is remembered in is not the one it was.
    replaced: Option<String>,
    /// Partitions of that topic of which a batch came without its offset: librdkafka counts on from
    /// that for the batch's other records.
    unplaced: BTreeSet<i32>,
}

impl Deliveries {
    fn lock(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, records: usize) {
        *self.lock() = Count { outstanding: records, ..Count::default() };
    }

    /// Waits until every record was delivered or failed; librdkafka's `message.timeout.ms` bounds
    /// it.
    fn finish(&self) -> Count {
        let mut count = self.lock();
        while count.outstanding > 0 {
            count = self.changed.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut *count)
    }

    /// The account may not write to a topic. Says so.
    fn deny(&self, topic: &str) {
        rights::complain(&rights::denial(Operation::Write, &Resource::Topic(topic.to_owned())));
        self.lock().denied.insert(topic.to_owned());
    }

    /// Where a record was written in the topic that everything is remembered in.
    fn placed(&self, memory: &Memory, partition: i32, offset: i64) {
        let mut count = self.lock();
        // What was delivered by a retry may come without its offset.
        if offset < 0 {
            count.unplaced.insert(partition);
        }
        if !count.unplaced.contains(&partition)
            && let Some(reason) = memory.replaced(partition, offset)
        {
            count.replaced = Some(reason);
        }
    }

    /// The fate of the record at this place of the batch.
    fn one(&self, at: usize, failed: Option<KafkaError>) {
        let mut count = self.lock();
        count.outstanding = count.outstanding.saturating_sub(1);
        if failed.as_ref().is_some_and(is_too_large) {
            count.too_large.push(at);
        }
        if count.failed.is_none() {
            count.failed = failed;
        }
        if count.outstanding == 0 {
            self.changed.notify_all();
        }
    }
}

/// The topic that everything is remembered in.
struct Memory {
    topic: String,
    /// The last offset that was written, by partition.
    written: Mutex<BTreeMap<i32, i64>>,
}

impl Memory {
    fn of(topic: &str) -> Self {
        Self { topic: topic.to_owned(), written: Mutex::default() }
    }

    /// What is wrong when a record was written at this offset.
    fn replaced(&self, partition: i32, offset: i64) -> Option<String> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let before = written.insert(partition, offset)?;
        (offset <= before).then(|| {
            format!(
                "partition {partition} of {} took a record at offset {offset} after one at {before}: it was made again, or lost its end; restore the topic, or declare it lost with `wdt-connector journal declare-lost --yes`",
                self.topic
            )
        })
    }
}

struct Reports {
    deliveries: Arc<Deliveries>,
    memory: Option<Arc<Memory>>,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        match rights::denied_in_log(facility, line) {
            Some(topic) => self.deliveries.deny(topic),
            None => tracing::debug!(
                kafka.log.level = ?level,
                kafka.log.facility = facility,
                kafka.log.message = line,
                "librdkafka log"
            ),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        rights::heard(&error, reason);
    }
}

impl ProducerContext for Reports {
    /// The record's place in its batch.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, at: usize) {
        if let Err((error, record)) = result
            && rights::is_denial(error)
        {
            self.deliveries.deny(record.topic());
        }
        if let (Ok(record), Some(memory)) = (result, &self.memory)
            && record.topic() == memory.topic
        {
            self.deliveries.placed(memory, record.partition(), record.offset());
        }
        self.deliveries.one(at, result.as_ref().err().map(|(error, _)| error.clone()));
    }
}

/// A producer with the thread that serves its events, such as delivery reports; both end together.
///
/// `rdkafka`'s `ThreadedProducer` is the same, but waits with a timeout of whole milliseconds: what
/// is left of the last one counts as none, and it is spent asking without a pause. That is a
/// hundredth of a core, for as long as the producer lives.
struct Served {
    producer: Arc<BaseProducer<Reports>>,
    over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Served {
    fn start(producer: BaseProducer<Reports>) -> Result<Self, KafkaError> {
        let (producer, over) = (Arc::new(producer), Arc::new(AtomicBool::new(false)));
        let (served, ended) = (Arc::clone(&producer), Arc::clone(&over));
        let thread = background::thread("txn-reports", move || {
            while !ended.load(Ordering::Relaxed) {
                served.poll(SERVE);
            }
        });
        let thread = thread.map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(Self { producer, over, thread: Some(thread) })
    }
}

impl std::ops::Deref for Served {
    type Target = BaseProducer<Reports>;

    fn deref(&self) -> &Self::Target {
        &self.producer
    }
}

impl Drop for Served {
    /// Waits, so that nothing of the producer is left when a successor with its id begins.
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // A panic of it was logged where it happened.
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

struct Live {
    producer: Served,
    deliveries: Arc<Deliveries>,
}

/// The thread that owns the producer.
struct Writer {
    kafka: KafkaSettings,
    role: String,
    requests: mpsc::UnboundedReceiver<Request>,
    producer: Option<Live>,
    /// `batch.size`: of the records of one batch on the wire together, before compression. A larger
    /// record is alone in its batch; with 1, every record is.
    batch_bytes: usize,
    topic: String,
    memory: Option<Arc<Memory>>,
    /// Panics since the last transaction that was committed.
    panics: u32,
}

/// What a step of a transaction says about it.
enum Step {
    /// The broker says that nothing happened and an abort makes it so.
    Abort(String),
    /// The same, because of the records at these places.
    TooLarge(Vec<usize>),
    /// The same, because the account may not write to these topics.
    Denied(BTreeSet<String>),
    /// Drop the producer; nobody knows.
    Rebuild(String),
    /// A partition of the transaction has no leader. The coordinator accepts no other transaction
    /// of this id until it has told that partition of the abort.
    Blocked(String),
    /// The topic that everything is remembered in was replaced.
    Replaced(String),
    /// Another producer took the transactional id.
    Fenced(String),
    /// The coordinator has no such transaction: another producer took the id, or the coordinator
    /// ended it by itself.
    InvalidState(String),
}

/// How many transactional ids of this process were given up as blocked ([`Step::Blocked`]). Both
/// pipelines go on to the next one together: their ids differ in the role.
static GIVEN_UP: AtomicU32 = AtomicU32::new(0);

/// The instance's own id, and a spare one while that is blocked. What fences a stale owner is the
/// group's member and generation, whatever id its producer has.
fn transactional_id(kafka: &KafkaSettings, role: &str) -> String {
    let own = instance_id(kafka, role);
    match GIVEN_UP.load(Ordering::Relaxed) {
        0 => own,
        spare => format!("{own}.{spare}"),
    }
}

/// Between the end of a transaction and the next one's beginning. The broker answers a commit
/// before it has written the markers; who begins earlier than that is told so and waits 20 ms,
/// which librdkafka does not let us choose.
pub const REST: Duration = Duration::from_millis(2);
/// How often a retriable step is tried again before the producer is given up: `UnsupportedFeature`
/// claims to be retriable for ever.
const RETRIES: u32 = 30;
/// Panics in a row after which the thread ends, and the process with it, which is noticed: the same
/// records cause the next one as well.
const MAX_PANICS: u32 = 3;
/// Half of the smallest `max.message.bytes` we recommend, so that a topic that refuses a batch of
/// this size refuses a record. A transaction of 2,000 records takes as long as with librdkafka's
/// default of 1,000,000; with less it takes longer (`docs/kafka.md#record-and-batch-size`).
const BATCH_BYTES: usize = 65_536;
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How long the serving thread waits for an event; also how long a producer's end may take. A little
/// more than whole milliseconds: librdkafka waits for those, and the wait is over when they are.
const SERVE: Duration = Duration::from_micros(100_050);
const OFFSETS_TIMEOUT: Duration = Duration::from_secs(5);
const INIT_TIMEOUT: Duration = Duration::from_secs(10);
/// For a broker to be connected before the producer is initialised; without one it is all the same.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECT_PAUSE: Duration = Duration::from_millis(10);
/// After which an abort that has not ended asks whether a partition has lost its leader; the abort
/// itself has no end.
const ABORT_TIMEOUT: Duration = Duration::from_secs(5);
/// The question for a topic's leaders.
const METADATA_TIMEOUT: Duration = Duration::from_secs(3);

impl Writer {
    fn run(mut self) {
        // The predecessor's open transaction ends here, so that nobody waits for its timeout.
        self.revive(|| false);
        let mut ended: Option<Instant> = None;
        while let Some((batch, reply)) = self.requests.blocking_recv() {
            // Who gave up waiting may have given up its partitions, and this place to a successor.
            if reply.is_closed() {
                continue;
            }
            if let Some(left) = ended.and_then(|ended| REST.checked_sub(ended.elapsed())) {
                thread::sleep(left);
            }
            let result = panic::catch_unwind(AssertUnwindSafe(|| self.commit(&batch)));
            let result = match result {
                Ok(result) => result,
                Err(_) if self.panicked(&batch) => Err(CommitFault::Unknown(
                    "the producer's thread panicked; the log has the place".to_owned(),
                )),
                // Whoever waits hears of it as the channels close.
                Err(panic) => panic::resume_unwind(panic),
            };
            if result.is_ok() {
                self.panics = 0;
            }
            ended = Some(Instant::now());
            let _ = reply.send(result);
        }
    }

    /// A new producer in place of the one whose transaction panicked, unless that happens again and
    /// again.
    fn panicked(&mut self, batch: &Batch) -> bool {
        self.panics += 1;
        if self.panics == MAX_PANICS {
            return false;
        }
        self.producer = None;
        let leases = batch.positions.iter().map(|position| position.lease);
        self.revive(|| batch.group.fence(leases.clone()).is_err());
        true
    }

    /// Makes sure that there is an initialised producer, however long the broker stays away; but
    /// for one that nobody wants any more, as after a restart of the pipeline: it would fence its
    /// successor.
    fn revive(&mut self, in_vain: impl Fn() -> bool) {
        let mut reported = false;
        while self.producer.is_none() && !self.requests.is_closed() && !in_vain() {
            match self.build() {
                Ok(live) => self.producer = Some(live),
                Err(error) => {
                    if rights::is_denial(&error) {
                        let id =
                            Resource::TransactionalIds(transactional_id(&self.kafka, &self.role));
                        rights::complain(&rights::denial(Operation::Write, &id));
                        // The right may be for the instance's own id alone.
                        GIVEN_UP.store(0, Ordering::Relaxed);
                    }
                    if !reported {
                        tracing::warn!(
                            pipeline = %self.role,
                            %error,
                            "transactional producer failed to initialize; retrying"
                        );
                        reported = true;
                    }
                    thread::sleep(RETRY_PAUSE);
                }
            }
        }
    }

    /// Whether a younger process has taken this instance's place. A fenced producer alone does not
    /// say so; the group does, whose static member the younger process replaces as well: at the
    /// second heartbeat this one knows it. Meanwhile no new producer is made: it would fence the
    /// younger's.
    fn replaced(&self, group: &Group) -> bool {
        let patience = heartbeat_interval(&self.kafka) * 2 + Duration::from_secs(1);
        let asked = Moment::now();
        while !group.fenced() {
            if asked.until(Moment::now()) > patience {
                return false;
            }
            thread::sleep(RETRY_PAUSE);
        }
        true
    }

    fn build(&self) -> Result<Live, KafkaError> {
        let deliveries = Arc::new(Deliveries::default());
        let mut config = client_config(&self.kafka, &self.role);
        config
            .set("transactional.id", transactional_id(&self.kafka, &self.role))
            .set("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS.to_string())
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // Where a key decides, a Java client must come to the same partition.
            .set("partitioner", "murmur2_random")
            .set("batch.size", self.batch_bytes.to_string())
            .set("linger.ms", "0");
        if !self.kafka.properties.contains_key("compression.type")
            && !self.kafka.properties.contains_key("compression.codec")
        {
            config.set("compression.type", "lz4");
        }
        let producer = Served::start(config.create_with_context(Reports {
            deliveries: Arc::clone(&deliveries),
            memory: self.memory.clone(),
        })?)?;
        crash::point(Point::TxnInitialising);
        self.connect(&producer);
        if let Err(error) = producer.init_transactions(INIT_TIMEOUT) {
            // A transaction of the process before this one may wait for such a partition, too.
            if some_partition_has_no_leader(&producer) {
                GIVEN_UP.fetch_add(1, Ordering::Relaxed);
            }
            background::close("close-producer", producer);
            return Err(error);
        }
        crash::point(Point::TxnInitialised);
        tracing::debug!(pipeline = %self.role, "transactional producer ready");
        Ok(Live { producer, deliveries })
    }

    /// Waits until a broker has answered, though not for long. Without one that is connected,
    /// librdkafka looks for the transaction coordinator again after half a second, once or twice;
    /// and its first connection ends as soon as it has learnt the brokers' own addresses.
    fn connect(&self, producer: &BaseProducer<Reports>) {
        let until = Instant::now() + CONNECT_TIMEOUT;
        while let Err(error) = self.ask(producer) {
            tracing::debug!(pipeline = %self.role, %error, "producer not connected yet");
            if Instant::now() + CONNECT_PAUSE > until {
                return;
            }
            thread::sleep(CONNECT_PAUSE);
        }
    }

    /// A question to the leader of a partition that is written to. A producer that asks for a topic
    /// by its name can have it made, so it asks only where the metadata of all topics names it.
    fn ask(&self, producer: &BaseProducer<Reports>) -> Result<(), KafkaError> {
        let metadata = producer.client().fetch_metadata(None, CONNECT_TIMEOUT)?;
        if metadata.topics().iter().any(|topic| topic.name() == self.topic) {
            producer.client().fetch_watermarks(&self.topic, 0, CONNECT_TIMEOUT)?;
        }
        Ok(())
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), CommitFault> {
        let fence = || batch.group.fence(batch.positions.iter().map(|position| position.lease));
        let in_vain = || fence().is_err();
        loop {
            if let Err(ended) = fence() {
                return Err(CommitFault::NotOwner(ended));
            }
            self.revive(in_vain);
            let Some(live) = &self.producer else {
                return Err(match fence() {
                    Err(ended) => CommitFault::NotOwner(ended),
                    Ok(_) => CommitFault::Aborted("nobody waits for it any more".to_owned()),
                });
            };
            let step = match live.write(batch) {
                Ok(Ok(())) => return Ok(()),
                // The leases ended between the first check and the offsets.
                Ok(Err(ended)) => match live.abort(batch) {
                    Ok(()) => return Err(CommitFault::NotOwner(ended)),
                    Err(step) => step,
                },
                Err(Step::Abort(reason)) => match live.abort(batch) {
                    Ok(()) => match live.leaderless(batch) {
                        Some(reason) => Step::Blocked(reason),
                        None => return Err(CommitFault::Aborted(reason)),
                    },
                    Err(step) => step,
                },
                Err(Step::Denied(topics)) => match live.abort(batch) {
                    Ok(()) => return Err(denied(batch, &topics)),
                    // librdkafka ends a transaction to which the broker has added no partition,
                    // which the broker refuses. No commit was asked for: nothing is committed.
                    Err(Step::InvalidState(_)) => {
                        self.producer = None;
                        self.revive(in_vain);
                        return Err(denied(batch, &topics));
                    }
                    Err(step) => step,
                },
                Err(Step::Replaced(reason)) => {
                    // Whatever comes of it: nothing was committed, and nothing more will be.
                    let _ = live.abort(batch);
                    return Err(CommitFault::Fenced(reason));
                }
                Err(Step::TooLarge(refused)) => match live.abort(batch) {
                    Ok(()) => match self.judge(batch, &refused) {
                        Some(fault) => return Err(fault),
                        None => continue,
                    },
                    Err(step) => step,
                },
                Err(step) => step,
            };
            let given_up = self.producer.take();
            if let Step::Blocked(_) = &step {
                GIVEN_UP.fetch_add(1, Ordering::Relaxed);
                background::close("close-producer", given_up);
            } else {
                drop(given_up);
            }
            return Err(match step {
                Step::Abort(reason) | Step::Rebuild(reason) | Step::Blocked(reason) => {
                    self.revive(in_vain);
                    CommitFault::Unknown(reason)
                }
                Step::TooLarge(_) | Step::Denied(_) | Step::Replaced(_) => {
                    self.revive(in_vain);
                    CommitFault::Unknown(
                        "records were refused and the transaction could not be aborted".to_owned(),
                    )
                }
                Step::Fenced(reason) | Step::InvalidState(reason)
                    if self.replaced(&batch.group) =>
                {
                    CommitFault::Fenced(format!(
                        "another process uses the same kafka.instance_ordinal ({reason}); every instance needs an ordinal of its own, so this one stops"
                    ))
                }
                // A coordinator that ends a transaction by itself bumps the epoch as well: then
                // nobody took our place.
                Step::Fenced(reason) | Step::InvalidState(reason) => {
                    self.revive(in_vain);
                    CommitFault::Unknown(reason)
                }
            });
        }
    }

    /// Which of the refused records are too large by themselves. A topic refuses a batch as a whole,
    /// so where none of them was alone for certain, every record is from now on, without a right to
    /// read the topic's options.
    fn judge(&mut self, batch: &Batch, refused: &[usize]) -> Option<CommitFault> {
        let sized =
            |at: &usize| batch.records.get(*at).map(|record| (*at, record.size(), &record.topic));
        let alone: Vec<_> = refused
            .iter()
            .filter_map(sized)
            .filter(|(_, bytes, _)| *bytes > self.batch_bytes)
            .collect();
        let Some((_, bytes, topic)) = alone.first() else {
            self.batch_bytes = 1;
            tracing::info!(
                pipeline = %self.role,
                "batch too large for a topic; every record is sent in a batch of its own from now on"
            );
            self.producer = None;
            return None;
        };
        let reason = format!(
            "{topic} does not take a record of {bytes} bytes; raise its max.message.bytes, and message.max.bytes in kafka.properties ({}) where that is less",
            largest_record(&self.kafka)
        );
        Some(CommitFault::TooLarge { records: alone.iter().map(|(at, ..)| *at).collect(), reason })
    }
}

impl Live {
    /// The whole transaction. The inner error names leases that ended before the offsets were sent.
    ///
    /// `EndTxn` is not checked for the group's generation, so a stale owner whose offsets were
    /// accepted before a rebalance can still commit after it. Whoever reads its stable offsets waits
    /// for every such transaction, and finds all of its records, because they were delivered before
    /// the offsets were sent. The model of the command pipeline has this order, and a test compares.
    fn write(&self, batch: &Batch) -> Result<Result<(), Vec<Lease>>, Step> {
        crash::point(Point::TxnBeginning);
        self.producer.begin_transaction().map_err(|error| classify(&error))?;
        crash::point(Point::TxnBegun);
        crash::hang_if(Fault::TransactionHang);
        crash::panic_once_if(Fault::TransactionPanic);
        crash::panic_if(Fault::TransactionPanicAlways, &());
        self.deliver(batch)?;
        if let Err(ended) = self.send_offsets(batch)? {
            return Ok(Err(ended));
        }
        crash::point(Point::TxnCommitting);
        // Any other timeout here would leave librdkafka and the broker in disagreement.
        retried(|| self.producer.commit_transaction(Timeout::Never))?;
        crash::point(Point::TxnCommitted);
        Ok(Ok(()))
    }

    /// Writes every record and waits for the broker's word on each.
    fn deliver(&self, batch: &Batch) -> Result<(), Step> {
        self.deliveries.begin(batch.records.len());
        for (at, record) in batch.records.iter().enumerate() {
            match self.send(at, record) {
                Ok(()) => crash::point(Point::TxnSent),
                // What was never queued has no report of its own. The others are sent on, to hear
                // of them as well.
                Err(error) if is_too_large(&error) => self.deliveries.one(at, Some(error)),
                Err(error) => {
                    for at in at..batch.records.len() {
                        self.deliveries.one(at, None);
                    }
                    // What was refused before may be why nothing more is taken.
                    let Count { denied, .. } = self.deliveries.finish();
                    return Err(if denied.is_empty() {
                        delivery(&error)
                    } else {
                        Step::Denied(denied)
                    });
                }
            }
        }
        let Count { failed, too_large, denied, replaced, .. } = self.deliveries.finish();
        if let Some(reason) = replaced {
            return Err(Step::Replaced(reason));
        }
        if !denied.is_empty() {
            return Err(Step::Denied(denied));
        }
        if !too_large.is_empty() {
            return Err(Step::TooLarge(too_large));
        }
        if let Some(error) = failed {
            return Err(delivery(&error));
        }
        crash::point(Point::TxnDelivered);
        Ok(())
    }

    /// The inner error names leases that ended.
    fn send_offsets(&self, batch: &Batch) -> Result<Result<(), Vec<Lease>>, Step> {
        let metadata =
            match batch.group.fence(batch.positions.iter().map(|position| position.lease)) {
                Ok(metadata) => metadata,
                Err(ended) => return Ok(Err(ended)),
            };
        let mut offsets = TopicPartitionList::new();
        for position in &batch.positions {
            let mut element = offsets.add_partition(batch.group.topic(), position.lease.partition);
            element
                .set_offset(Offset::Offset(position.offset))
                .map_err(|error| Step::Abort(error.to_string()))?;
            element.set_metadata(&position.metadata);
        }
        crash::point(Point::TxnOffsetsSending);
        retried(|| {
            let sent =
                self.producer.send_offsets_to_transaction(&offsets, &metadata, OFFSETS_TIMEOUT);
            if let Err(error) = &sent
                && let Some(sentence) =
                    rights::read_denial(error, batch.group.topic(), batch.group.group_id())
            {
                rights::complain(&sentence);
            }
            sent
        })?;
        crash::point(Point::TxnOffsetsSent);
        Ok(Ok(()))
    }

    fn send(&self, at: usize, record: &Outgoing) -> Result<(), KafkaError> {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in &record.headers {
            headers = headers.insert(Header { key, value: value.as_deref() });
        }
        let mut next: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(&record.topic, at);
        if !record.headers.is_empty() {
            next = next.headers(headers);
        }
        if let Some(partition) = record.partition {
            next = next.partition(partition);
        }
        if let Some(key) = &record.key {
            next = next.key(key);
        }
        if let Some(value) = &record.value {
            next = next.payload(value);
        }
        loop {
            match self.producer.send(next) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    next = back;
                    thread::sleep(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    fn abort(&self, batch: &Batch) -> Result<(), Step> {
        crash::point(Point::TxnAborting);
        let mut blocked = None;
        let aborted = retried(|| {
            loop {
                match self.producer.abort_transaction(ABORT_TIMEOUT) {
                    // The same call again goes on waiting.
                    Err(KafkaError::Transaction(error))
                        if error.code() == RDKafkaErrorCode::OperationTimedOut =>
                    {
                        blocked = self.leaderless(batch);
                        if blocked.is_some() {
                            return Err(KafkaError::Canceled);
                        }
                    }
                    done => return done,
                }
            }
        });
        if let Some(reason) = blocked {
            return Err(Step::Blocked(reason));
        }
        aborted.map_err(|step| match step {
            Step::Abort(reason) => Step::Rebuild(reason),
            step => step,
        })?;
        crash::point(Point::TxnAborted);
        Ok(())
    }

    /// The sentence about partitions of a batch that have no leader, by the broker's word. Where a
    /// record's key chooses the partition, it may be any of the topic.
    fn leaderless(&self, batch: &Batch) -> Option<String> {
        let mut named: BTreeMap<&str, BTreeSet<Option<i32>>> = BTreeMap::new();
        for record in &batch.records {
            named.entry(&record.topic).or_default().insert(record.partition);
        }
        named.into_iter().find_map(|(topic, partitions)| {
            let client = self.producer.client();
            let metadata = client.fetch_metadata(Some(topic), METADATA_TIMEOUT).ok()?;
            let named = |one: &i32| partitions.contains(&None) || partitions.contains(&Some(*one));
            let lost: Vec<i32> =
                Leaders::of(&metadata, topic).lost.into_iter().filter(named).collect();
            (!lost.is_empty()).then(|| {
                format!(
                    "partitions {lost:?} of {topic} have no leader; the others go on without them, start the brokers that hold their replicas"
                )
            })
        })
    }
}

/// Whether the cluster has a partition without a leader, by the broker's word.
fn some_partition_has_no_leader(producer: &BaseProducer<Reports>) -> bool {
    producer.client().fetch_metadata(None, METADATA_TIMEOUT).is_ok_and(|metadata| {
        metadata.topics().iter().any(|topic| !Leaders::of_topic(topic).lost.is_empty())
    })
}

/// The records of a batch for topics that the account may not write to.
fn denied(batch: &Batch, topics: &BTreeSet<String>) -> CommitFault {
    let of = |record: &Outgoing| topics.contains(&*record.topic);
    let records = batch.records.iter().enumerate().filter(|(_, record)| of(record));
    let named: Vec<&str> = topics.iter().map(String::as_str).collect();
    CommitFault::Denied {
        records: records.map(|(at, _)| at).collect(),
        reason: rights::denial(Operation::Write, &Resource::Topic(named.join(", "))),
    }
}

/// Refused by the broker, or by the producer itself.
fn is_too_large(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge)
}

fn retried(mut step: impl FnMut() -> Result<(), KafkaError>) -> Result<(), Step> {
    let mut tries = 0;
    loop {
        match step() {
            Ok(()) => return Ok(()),
            Err(KafkaError::Transaction(error))
                if error.is_retriable() && !error.txn_requires_abort() && tries < RETRIES =>
            {
                tries += 1;
                thread::sleep(RETRY_PAUSE);
            }
            Err(error) => return Err(classify(&error)),
        }
    }
}

/// Only `KafkaError::Transaction` carries librdkafka's flags; whatever has none costs the producer.
fn classify(error: &KafkaError) -> Step {
    match error {
        KafkaError::Transaction(inner) => match inner.code() {
            RDKafkaErrorCode::Fenced
            | RDKafkaErrorCode::ProducerFenced
            | RDKafkaErrorCode::InvalidProducerEpoch => Step::Fenced(inner.string()),
            RDKafkaErrorCode::InvalidTransactionalState => Step::InvalidState(inner.string()),
            _ if inner.txn_requires_abort() => Step::Abort(inner.string()),
            _ => Step::Rebuild(inner.string()),
        },
        other => Step::Rebuild(other.to_string()),
    }
}

/// A record that was not delivered leaves the transaction abortable.
fn delivery(error: &KafkaError) -> Step {
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::Fenced
            | RDKafkaErrorCode::ProducerFenced
            | RDKafkaErrorCode::InvalidProducerEpoch,
        ) => Step::Fenced(error.to_string()),
        Some(RDKafkaErrorCode::Fatal) => Step::Rebuild(error.to_string()),
        Some(_) | None => Step::Abort(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_made_again_is_told_by_its_offsets() {
        let memory = Memory::of("journal");
        let replaced = |partition, offset| memory.replaced(partition, offset).is_some();
        assert!(!replaced(0, 7) && !replaced(0, 9) && !replaced(1, 3));
        assert!(!replaced(0, 10) && replaced(0, 10));
    }

    /// librdkafka counts on from the offset that it was not told: -1, 0, 1 and so on.
    #[test]
    fn a_batch_without_offsets_is_of_no_topic_made_again() {
        use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

        let broker = crate::kafka::mock::MockBroker::start(&[("journal", 1)]).unwrap();
        let deliveries = Arc::new(Deliveries::default());
        let memory = Some(Arc::new(Memory::of("journal")));
        let reports = Reports { deliveries: Arc::clone(&deliveries), memory };
        let producer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", broker.bootstrap_servers())
            .set("enable.idempotence", "true")
            .set("linger.ms", "200")
            .create_with_context(reports)
            .and_then(Served::start)
            .unwrap();
        let batch = || {
            deliveries.begin(3);
            for at in 0..3 {
                let record = BaseRecord::<[u8], [u8], usize>::with_opaque_to("journal", at);
                assert!(producer.send(record.partition(0).payload(b"entry")).is_ok());
            }
            deliveries.finish()
        };
        assert!(batch().replaced.is_none());
        let duplicate = RDKafkaRespErr::RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER;
        broker.refuse(RDKafkaApiKey::Produce, &[duplicate]);
        let Count { failed, replaced, .. } = batch();
        assert_eq!((failed, replaced), (None, None));
        assert!(batch().replaced.is_none());
    }
}
