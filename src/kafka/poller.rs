//! The polling thread of a membership: it polls, whatever happens, hands out, and mends its
//! consumer.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{self, AssertUnwindSafe},
    sync::{Arc, atomic::Ordering, mpsc as std_mpsc},
    thread,
    time::Duration,
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::sync::mpsc;

use crate::{
    background,
    clock::Moment,
    config::KafkaSettings,
    crash::{self, Fault},
};

use super::{
    Delivered, GroupEvent, GroupFault, GroupOptions, Lease,
    client::{consumer_config, group_id, heartbeat_interval, instance_id},
    headers,
    membership::{Callbacks, Shared},
    rights::{complain, read_denial},
    unreadable::{is_unreadable, unreadable},
    watchdog::{Look, Patience, Sight, Watchdog},
};

/// Records handed over in one event, at most; more would only delay the first.
const BATCH: usize = 500;
/// Panics within [`PANIC_WINDOW`] after which the membership fails: the same record or event causes
/// the next one as well, and a process that ends is noticed.
const MAX_PANICS: usize = 3;
const PANIC_WINDOW: Duration = Duration::from_secs(60);
/// How long the thread sleeps without a record; bounds how late a pause or a start is carried out.
const POLL: Duration = Duration::from_millis(100);
const POLL_WHILE_HELD: Duration = Duration::from_millis(10);
/// Bytes of records that are handed out and not released, of all partitions: beyond it those that
/// hold any are paused.
const MOST_BYTES: usize = 32 * 1024 * 1024;
/// Bytes handed over in one turn.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// A value beyond this is not taken into memory a second time: it is named by its size alone
/// ([`Delivered::left_out`]). Brokers take a megabyte by default, compressed; what it expands to
/// nobody limits.
const LARGEST_VALUE: usize = 1024 * 1024;
/// Fetched of one partition in one answer, compressed. lz4 expands up to 255 times, and librdkafka
/// unpacks an answer whole: this, and the commands topic's `max.message.bytes`, bound what a
/// partition's share of one answer can become.
const FETCH_PARTITION_BYTES: &str = "131072";
/// Quiet partitions asked about in one turn, and how long each may take: the polling must go on.
const ASKED: usize = 8;
const ANSWER: Duration = Duration::from_secs(1);
/// What waking librdkafka may cost where a broker does not answer.
const WAKE: Duration = Duration::from_millis(100);

/// How long it may take to end once nothing is left to be drained. It may be what hangs.
pub(crate) const LEAVE: Duration = Duration::from_secs(5);
/// How much longer than a session a member stays away that wants to be forgotten: the broker looks
/// at sessions by a timer of its own.
const REJOIN_MARGIN: Duration = Duration::from_secs(1);

/// Why the thread ends.
enum Over {
    /// Another membership may do better.
    Stopped(GroupFault),
    Failed(GroupFault),
}

/// The polling thread.
pub(super) struct Poller {
    kafka: KafkaSettings,
    options: GroupOptions,
    consumer: BaseConsumer<Callbacks>,
    shared: Arc<Shared>,
    events: mpsc::UnboundedSender<GroupEvent>,
    watchdog: Watchdog,
    /// Leases the last turn knew.
    known: BTreeSet<Lease>,
    /// Leases librdkafka was told to hold back (every lease begins paused).
    paused: BTreeSet<Lease>,
    /// How far the pipeline was told that partitions are passed.
    passed: BTreeMap<Lease, i64>,
    /// What is handed out is more than [`MOST_BYTES`], or was and is not yet half of it.
    heavy: bool,
    /// The client met an error after which it does nothing more.
    broken: Option<String>,
    /// A provoked fault strikes once.
    sabotaged: bool,
    /// When the thread panicked lately.
    panics: Vec<Moment>,
}

impl Poller {
    /// Makes the consumer and subscribes it.
    ///
    /// # Errors
    /// [`GroupFault`] for options librdkafka refuses.
    pub(super) fn new(
        kafka: &KafkaSettings,
        options: GroupOptions,
        shared: Arc<Shared>,
        events: mpsc::UnboundedSender<GroupEvent>,
    ) -> Result<Self, GroupFault> {
        let consumer = consumer(kafka, &options, &shared, &events)?;
        subscribe(&consumer, &options)?;
        Ok(Self {
            kafka: kafka.clone(),
            options,
            consumer,
            shared,
            events,
            watchdog: Watchdog::new(Patience::of(kafka)),
            known: BTreeSet::new(),
            paused: BTreeSet::new(),
            passed: BTreeMap::new(),
            heavy: false,
            broken: None,
            sabotaged: false,
            panics: Vec::new(),
        })
    }

    /// Until the membership is left, or cannot go on.
    pub(super) fn run(mut self) {
        while !self.shared.leaving.load(Ordering::Acquire) {
            self.shared.beat();
            let turn = panic::catch_unwind(AssertUnwindSafe(|| {
                self.steer();
                self.turn()?;
                self.watch()
            }));
            let turn = turn.unwrap_or_else(|_| self.panicked());
            if let Err(over) = turn {
                let _ = self.events.send(match over {
                    Over::Stopped(fault) => GroupEvent::Stopped(fault),
                    Over::Failed(fault) => GroupEvent::Failed(fault),
                });
                return self.abandon();
            }
            if self.events.is_closed() {
                return self.abandon();
            }
        }
        self.depart();
    }

    /// Replaces the consumer, whose partitions are then restored from their committed offsets. A
    /// panic that went on unwinding would close the consumer on the way, which waits for a drain
    /// that nobody is left to answer for.
    fn panicked(&mut self) -> Result<(), Over> {
        let now = Moment::now();
        self.panics.retain(|at| now < at.plus(PANIC_WINDOW));
        self.panics.push(now);
        if self.panics.len() < MAX_PANICS {
            return self.replace("its thread panicked; the log has the place");
        }
        Err(Over::Stopped(GroupFault(format!(
            "the thread that polls {} panicked {MAX_PANICS} times within {} s; report it with the places in the log",
            self.options.topic,
            PANIC_WINDOW.as_secs()
        ))))
    }

    /// One poll, and whatever is there already besides.
    fn turn(&mut self) -> Result<(), Over> {
        // Where nothing is ever fetched, nothing is to be resumed in good time.
        let held = !self.paused.is_empty() && self.options.pending_limit > 0;
        let wait = if held { POLL_WHILE_HELD } else { POLL };
        let mut batches: BTreeMap<i32, Vec<Delivered>> = BTreeMap::new();
        let mut polled = self.consumer.poll(wait);
        let (mut taken, mut bytes) = (0, 0);
        while let Some(next) = polled {
            match next {
                Ok(message) => {
                    taken += 1;
                    if let Some(record) = self.deliver(&message) {
                        bytes += record.size();
                        batches.entry(record.lease.partition).or_default().push(record);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "consumer poll failed");
                    self.trouble(&error)?;
                }
            }
            if taken >= BATCH || bytes >= BATCH_BYTES {
                break;
            }
            polled = self.consumer.poll(Duration::ZERO);
        }
        for batch in batches.into_values() {
            let _ = self.events.send(GroupEvent::Records(batch));
        }
        Ok(())
    }

    /// What an error means for the membership. A fatal one arrives without its cause, which the
    /// client knows.
    fn trouble(&mut self, error: &KafkaError) -> Result<(), Over> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::FencedInstanceId) => {
                match self.consumer.client().fatal_error() {
                    Some((RDKafkaErrorCode::FencedInstanceId, _)) => {
                        self.shared.fenced.store(true, Ordering::Release);
                        Err(Over::Failed(GroupFault(
                            "another process joined the group with the same kafka.instance_ordinal; every instance needs an ordinal of its own, so this one stops"
                                .into(),
                        )))
                    }
                    Some((code, reason)) => {
                        self.broken = Some(format!("{code}: {reason}"));
                        Ok(())
                    }
                    None => Ok(()),
                }
            }
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed,
            ) => {
                if let Some(sentence) = read_denial(
                    error,
                    &self.options.topic,
                    &group_id(&self.kafka, &self.options.role),
                ) {
                    complain(&sentence);
                }
                Ok(())
            }
            Some(code @ RDKafkaErrorCode::UnknownTopicOrPartition) => {
                tracing::warn!(
                    kafka.group = group_id(&self.kafka, &self.options.role),
                    kafka.topic = self.options.topic,
                    error = %code,
                    "consumer group cannot read its topic"
                );
                Ok(())
            }
            Some(_) if is_unreadable(error) => {
                let read = self.known.difference(&self.paused);
                let places = read.map(|lease| (lease.partition, None));
                Err(Over::Failed(GroupFault(unreadable(&self.options.topic, places, error))))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Looks at what the statistics say, and makes a new consumer when this one does not come back
    /// by itself.
    fn watch(&mut self) -> Result<(), Over> {
        self.sabotage();
        if self.shared.rejoin.swap(false, Ordering::AcqRel) {
            return self.rejoin();
        }
        if let Some(reason) = self.broken.take() {
            return self.replace(&reason);
        }
        let Some(sight) = self.consumer.context().sight() else { return Ok(()) };
        self.pass(&sight);
        let wanted: Vec<i32> =
            self.known.difference(&self.paused).map(|lease| lease.partition).collect();
        match self.watchdog.look(&sight, &wanted, Moment::now()) {
            Look::Fine => Ok(()),
            Look::Ask(partitions) => {
                for partition in partitions.into_iter().take(ASKED) {
                    if let Ok((_, end)) =
                        self.consumer.fetch_watermarks(&self.options.topic, partition, ANSWER)
                    {
                        self.watchdog.heard(partition, end, Moment::now());
                    }
                }
                Ok(())
            }
            Look::Replace(reason) => self.replace(&reason),
        }
    }

    /// A new consumer in place of one that cannot go on: ownership ends, and begins anew with its
    /// assignment.
    fn replace(&mut self, reason: &str) -> Result<(), Over> {
        tracing::warn!(
            kafka.group = group_id(&self.kafka, &self.options.role),
            error = %reason,
            "consumer did not recover; replacing it"
        );
        self.renew()?;
        self.subscribe()
    }

    /// Leaves the group in good order for as long as it takes the group to forget this member, and
    /// joins again.
    fn rejoin(&mut self) -> Result<(), Over> {
        let session = Patience::of(&self.kafka).idle;
        tracing::warn!(
            kafka.group = group_id(&self.kafka, &self.options.role),
            kafka.session_timeout_ms = session.as_millis(),
            "leaving the group for a session, so that it assigns its partitions anew"
        );
        self.drain();
        let closing = self.renew()?;
        // Until it is closed, the old consumer sends heartbeats.
        let closed = Moment::now().plus(LEAVE);
        let mut back = None;
        while back.is_none_or(|back| Moment::now() < back)
            && !self.shared.leaving.load(Ordering::Acquire)
            && !self.events.is_closed()
        {
            self.shared.beat();
            let over = closing.as_ref().is_none_or(thread::JoinHandle::is_finished);
            if back.is_none() && (over || Moment::now() >= closed) {
                back = Some(Moment::now().plus(session + REJOIN_MARGIN));
            }
            thread::sleep(POLL);
        }
        // Asked for again meanwhile: this is what was asked for.
        self.shared.rejoin.store(false, Ordering::Release);
        self.subscribe()
    }

    /// Joins, unless the membership is over: it could end one that has begun in its place.
    fn subscribe(&self) -> Result<(), Over> {
        if self.shared.leaving.load(Ordering::Acquire) || self.events.is_closed() {
            return Ok(());
        }
        subscribe(&self.consumer, &self.options).map_err(Over::Failed)
    }

    /// A new consumer that has not subscribed yet; what the old one owned is lost. The thread that
    /// closes the old one.
    fn renew(&mut self) -> Result<Option<thread::JoinHandle<()>>, Over> {
        let fresh = consumer(&self.kafka, &self.options, &self.shared, &self.events)
            .map_err(Over::Failed)?;
        self.consumer.context().retire();
        self.shared.lose(&self.events);
        let stuck = std::mem::replace(&mut self.consumer, fresh);
        let closing = background::close("close-consumer", stuck);
        self.known.clear();
        self.paused.clear();
        self.passed.clear();
        self.watchdog.forget();
        Ok(closing)
    }

    /// Tells how far the consumer has come in partitions of which nothing is outstanding. Behind
    /// the last record stand the markers of its transaction: who committed the offset after that
    /// record alone would lag for ever.
    fn pass(&mut self, sight: &Sight) {
        let membership = self.shared.lock();
        let mut passed = Vec::new();
        for lease in membership.standing.ownership.all() {
            let Some(handed) = sight.partitions.get(&lease.partition).map(|seen| seen.handed)
            else {
                continue;
            };
            // What was handed out by the time of the statistics is finished if nothing is
            // outstanding now.
            let idle = membership
                .flow
                .get(&lease.partition)
                .is_some_and(|flow| flow.started && flow.outstanding.load(Ordering::Relaxed) == 0);
            if idle && handed >= 0 && self.passed.get(&lease).is_none_or(|before| handed > *before)
            {
                passed.push((lease, handed));
            }
        }
        drop(membership);
        self.passed.extend(passed.iter().copied());
        if !passed.is_empty() {
            let _ = self.events.send(GroupEvent::Passed(passed));
        }
    }

    /// For the tests of the watchdog: what nobody tells the application, once there is something to
    /// lose.
    fn sabotage(&mut self) {
        if self.sabotaged || self.known.difference(&self.paused).next().is_none() {
            return;
        }
        crash::panic_if(Fault::PollPanicAlways, &self.options.topic);
        crash::hang_once_if(Fault::PollHangOnce);
        crash::hang_if(Fault::PollHang);
        crash::hang_unwinding_if(Fault::UnwindHang);
        if crash::fault(Fault::PollPanic) {
            self.sabotaged = true;
            crash::panic_if(Fault::PollPanic, &self.options.topic);
        } else if crash::fault(Fault::LeaveGroup) {
            self.sabotaged = true;
            self.consumer.unsubscribe();
        } else if crash::fault(Fault::StopFetching) {
            self.sabotaged = true;
            tracing::info!("injected fault: consumer stops fetching");
            if let Ok(all) = self.consumer.assignment() {
                let _ = self.consumer.pause(&all);
            }
        }
    }

    /// Pauses and resumes what the pipeline wants held, and what holds too many records.
    fn steer(&mut self) {
        let mut pause = TopicPartitionList::new();
        let mut resume = TopicPartitionList::new();
        let membership = self.shared.lock();
        let owned: BTreeSet<Lease> = membership.standing.ownership.all().into_iter().collect();
        self.paused.retain(|lease| owned.contains(lease));
        self.passed.retain(|lease, _| owned.contains(lease));
        let bytes = membership.flow.values().map(|flow| flow.bytes).sum::<usize>();
        let was_heavy = self.heavy;
        self.heavy = bytes >= if was_heavy { MOST_BYTES / 2 } else { MOST_BYTES };
        for lease in &owned {
            if !self.known.contains(lease) {
                self.paused.insert(*lease);
            }
            let Some(flow) = membership.flow.get(&lease.partition) else { continue };
            let paused = self.paused.contains(lease);
            let outstanding = flow.outstanding.load(Ordering::Relaxed);
            let full = if paused {
                outstanding > self.options.pending_limit / 2
            } else {
                outstanding >= self.options.pending_limit
            };
            let hold = !flow.started || flow.held || full || (self.heavy && outstanding > 0);
            if hold && !paused {
                pause.add_partition(&self.options.topic, lease.partition);
                self.paused.insert(*lease);
            } else if !hold && paused {
                resume.add_partition(&self.options.topic, lease.partition);
                self.paused.remove(lease);
            }
        }
        drop(membership);
        self.known = owned;
        for (list, result) in [
            (pause.count(), self.apply(&pause, true)),
            (resume.count(), self.apply(&resume, false)),
        ] {
            if let (1.., Err(error)) = (list, result) {
                tracing::warn!(%error, "failed to pause or resume partitions");
            }
        }
        // Large records are in no hurry: each fetch of them costs as much memory again.
        if !was_heavy {
            self.wake(&resume);
        }
    }

    /// Has the resumed partitions fetched at once. librdkafka's thread for a broker all of whose
    /// partitions were paused sleeps for up to a second and is not told of a resumption; any
    /// request to that broker wakes it.
    ///
    /// All brokers are asked at once: a second request would wait for the end of the fetch that the
    /// first one has set going.
    fn wake(&self, resumed: &TopicPartitionList) {
        let mut ends = TopicPartitionList::new();
        for partition in resumed.elements() {
            // An end in the place of a time is how librdkafka is asked for the end.
            let end =
                ends.add_partition_offset(&self.options.topic, partition.partition(), Offset::End);
            if let Err(error) = end {
                tracing::debug!(%error, "partition not asked about; fetched a little later");
            }
        }
        if ends.count() > 0
            && let Err(error) = self.consumer.offsets_for_times(ends, WAKE)
        {
            tracing::debug!(%error, "brokers not asked; resumed partitions are fetched later");
        }
    }

    fn apply(&self, list: &TopicPartitionList, pause: bool) -> Result<(), KafkaError> {
        if list.count() == 0 {
            return Ok(());
        }
        if pause { self.consumer.pause(list) } else { self.consumer.resume(list) }
    }

    fn deliver(&self, message: &rdkafka::message::BorrowedMessage<'_>) -> Option<Delivered> {
        let (headers, unreadable_headers) = headers::read(message);
        let mut membership = self.shared.lock();
        let lease =
            membership.standing.ownership.leases(&[message.partition()]).first().copied()?;
        let length = message.payload().map_or(0, <[u8]>::len);
        let left_out = (length > LARGEST_VALUE).then_some(length);
        let record = Delivered {
            lease,
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().filter(|_| left_out.is_none()).map(<[u8]>::to_vec),
            left_out,
            headers,
            unreadable_headers,
            timestamp: message.timestamp().to_millis(),
        };
        if let Some(flow) = membership.flow.get_mut(&lease.partition) {
            flow.outstanding.fetch_add(1, Ordering::Relaxed);
            flow.bytes += record.size();
        }
        Some(record)
    }

    /// Leaving in good order: everything owned is finished first.
    fn depart(self) {
        self.drain();
        self.shared.closing.store(true, Ordering::Release);
    }

    /// Has everything owned finished; ownership ends with it.
    fn drain(&self) {
        let leases = self.shared.lock().standing.ownership.all();
        if !leases.is_empty() {
            let mut all = TopicPartitionList::new();
            for lease in &leases {
                all.add_partition(&self.options.topic, lease.partition);
            }
            let _ = self.consumer.pause(&all);
        }
        let (stop, stopped) = std_mpsc::channel::<()>();
        let callbacks = Callbacks::new(
            Arc::clone(&self.shared),
            self.events.clone(),
            self.options.topic.clone(),
        );
        // Without a thread the channel closes at once: nothing is drained, and the next owner looks.
        let drain = background::thread("drain", move || {
            callbacks.revoke(leases, false);
            let _ = stop.send(());
        });
        // The member polls on while it drains, so that it is not thrown out of the group half-way.
        while stopped.recv_timeout(Duration::from_millis(20))
            == Err(std_mpsc::RecvTimeoutError::Timeout)
        {
            let _ = self.consumer.poll(Duration::ZERO);
        }
        let _ = drain.map(thread::JoinHandle::join);
    }

    /// Nothing can be finished any more: ownership ends at once.
    fn abandon(&self) {
        self.shared.leaving.store(true, Ordering::Release);
        self.shared.closing.store(true, Ordering::Release);
        self.shared.lose(&self.events);
    }
}

/// A consumer that will join as the stable member of this instance.
fn consumer(
    kafka: &KafkaSettings,
    options: &GroupOptions,
    shared: &Arc<Shared>,
    events: &mpsc::UnboundedSender<GroupEvent>,
) -> Result<BaseConsumer<Callbacks>, GroupFault> {
    let mut config = consumer_config(kafka, &options.role, &group_id(kafka, &options.role));
    config
        .set("group.instance.id", instance_id(kafka, &options.role))
        // Eager: each generation is a whole assignment. A cooperative rebalance has two phases, and
        // a static member that stops between them leaves partitions without an owner for good
        // (`docs/kafka.md#static-membership-and-assignors`).
        .set("partition.assignment.strategy", "range")
        .set("statistics.interval.ms", Patience::of(kafka).interval().as_millis().to_string());
    if !kafka.properties.contains_key("fetch.message.max.bytes") {
        config.set("fetch.message.max.bytes", FETCH_PARTITION_BYTES);
    }
    if !kafka.properties.contains_key("heartbeat.interval.ms") {
        config.set("heartbeat.interval.ms", heartbeat_interval(kafka).as_millis().to_string());
    }
    let callbacks = Callbacks::new(Arc::clone(shared), events.clone(), options.topic.clone());
    config.create_with_context(callbacks).map_err(|error| {
        GroupFault(format!(
            "no Kafka consumer could be made from [kafka]: {error}; correct the option it names"
        ))
    })
}

fn subscribe(consumer: &BaseConsumer<Callbacks>, options: &GroupOptions) -> Result<(), GroupFault> {
    consumer.subscribe(&[&options.topic]).map_err(|error| {
        GroupFault(format!("topic {} cannot be subscribed to: {error}", options.topic))
    })
}
