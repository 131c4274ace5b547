//! Membership of a consumer group: one OS thread that polls, callbacks that keep ownership true.
//!
//! The thread never waits for the route except while partitions are revoked: it polls on, so that the member stays in the
//! group whatever the ERP does, and holds partitions back by pausing them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc as std_mpsc,
    },
    thread,
    time::Duration,
};

use rdkafka::{
    ClientContext, Message, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata, Rebalance},
    error::{KafkaError, RDKafkaErrorCode},
    message::Headers,
};
use tokio::sync::{mpsc, oneshot};

use crate::config::KafkaSettings;

use super::{
    client::{consumer_config, group_id, instance_id},
    ownership::Standing,
};

/// Ownership of one partition during one assignment; a later assignment of the same partition has another epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lease {
    pub partition: i32,
    pub epoch: u64,
}

/// One record as it was delivered.
#[derive(Clone, Debug)]
pub struct Delivered {
    pub lease: Lease,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Milliseconds since 1970, where the record carries a time.
    pub timestamp: Option<i64>,
}

/// What a group tells its route, in order.
#[derive(Debug)]
pub enum GroupEvent {
    /// New partitions; nothing is fetched from them until [`Group::start`].
    Assigned(Vec<Lease>),
    /// Finish what can be finished and commit it, then send on `done` (or drop it). Ownership ends right after.
    Revoking { leases: Vec<Lease>, done: oneshot::Sender<()> },
    /// Ownership has ended already: abort, commit nothing.
    Lost(Vec<Lease>),
    /// Records of one partition in offset order.
    Records(Vec<Delivered>),
    /// The membership is over for good.
    Failed(GroupFault),
}

/// Why a membership ended or could not begin: one sentence.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct GroupFault(pub String);

/// Which group to join and how.
#[derive(Clone, Debug)]
pub struct GroupOptions {
    /// `application_id` + `.` + this is the group id and part of the client id: `commands`, `feeds`.
    pub role: String,
    pub topic: String,
    /// Records handed out and not yet released ([`Group::release`]), per partition; beyond it the partition is paused.
    pub pending_limit: usize,
}

/// Records handed over in one event, at most; more would only delay the first.
const BATCH: usize = 500;
/// How long the thread sleeps without a record; bounds how late a pause or a start is carried out.
const POLL: Duration = Duration::from_millis(100);
const POLL_WHILE_HELD: Duration = Duration::from_millis(10);

/// What the thread, the callbacks and every handle share.
#[derive(Default)]
struct Shared {
    membership: Mutex<Membership>,
    /// Set by [`Group::leave`].
    leaving: AtomicBool,
}

/// Ownership and the metadata that goes with it: only ever changed together.
#[derive(Default)]
struct Membership {
    standing: Standing<Arc<ConsumerGroupMetadata>>,
    /// Per owned partition: what the route wants, and how much it holds.
    flow: BTreeMap<i32, Flow>,
}

#[derive(Default)]
struct Flow {
    started: bool,
    held: bool,
    outstanding: Arc<AtomicUsize>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Membership> {
        self.membership.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle on the membership; cheap to clone.
#[derive(Clone)]
pub struct Group {
    shared: Arc<Shared>,
    topic: Arc<str>,
    group_id: Arc<str>,
    ended: tokio::sync::watch::Receiver<bool>,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Group").field("group_id", &self.group_id).field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl Group {
    /// Joins; events arrive until [`Group::leave`].
    ///
    /// # Errors
    /// [`GroupFault`] for options librdkafka refuses.
    pub fn join(kafka: &KafkaSettings, options: GroupOptions) -> Result<(Self, mpsc::UnboundedReceiver<GroupEvent>), GroupFault> {
        let shared = Arc::new(Shared::default());
        // Bounded by the pauses at `pending_limit`, not by the channel: a full channel would stop the polling.
        let (events, receiver) = mpsc::unbounded_channel();
        let group_id = group_id(kafka, &options.role);
        let mut config = consumer_config(kafka, &options.role, &group_id);
        config.set("group.instance.id", instance_id(kafka, &options.role));
        if !kafka.properties.contains_key("partition.assignment.strategy") {
            config.set("partition.assignment.strategy", "cooperative-sticky");
        }
        let context = Callbacks { shared: Arc::clone(&shared), events: events.clone() };
        let consumer: BaseConsumer<Callbacks> = config
            .create_with_context(context)
            .map_err(|error| GroupFault(format!("no Kafka consumer could be made from [kafka]: {error}; correct the option it names")))?;
        consumer
            .subscribe(&[&options.topic])
            .map_err(|error| GroupFault(format!("topic {} cannot be subscribed to: {error}", options.topic)))?;
        let (end, ended) = tokio::sync::watch::channel(false);
        let poller = Poller {
            consumer,
            shared: Arc::clone(&shared),
            events,
            topic: options.topic.clone(),
            limit: options.pending_limit,
            paused: BTreeSet::new(),
        };
        thread::Builder::new()
            .name(format!("poll-{}", options.role))
            .spawn(move || {
                poller.run();
                let _ = end.send(true);
            })
            .map_err(|error| GroupFault(format!("the polling thread could not be started: {error}")))?;
        Ok((Self { shared, topic: options.topic.into(), group_id: group_id.into(), ended }, receiver))
    }

    /// The topic of this membership.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The group's id.
    #[must_use]
    pub fn group_id(&self) -> &str {
        &self.group_id
    }

    /// Whether this very assignment still holds.
    #[must_use]
    pub fn owns(&self, lease: Lease) -> bool {
        self.shared.lock().standing.ownership.owns(lease)
    }

    /// The group's metadata if every lease still holds, under one lock; otherwise the leases that are over.
    pub(super) fn fence(&self, leases: impl IntoIterator<Item = Lease>) -> Result<Arc<ConsumerGroupMetadata>, Vec<Lease>> {
        let leases: Vec<Lease> = leases.into_iter().collect();
        self.shared.lock().standing.fence(&leases).map(Arc::clone)
    }

    /// Begins fetching an assigned partition, from its committed offset.
    pub fn start(&self, lease: Lease) {
        self.with_flow(lease, |flow| flow.started = true);
    }

    /// Holds back a partition; the consumer keeps polling.
    pub fn pause(&self, lease: Lease) {
        self.with_flow(lease, |flow| flow.held = true);
    }

    /// Ends [`Group::pause`].
    pub fn resume(&self, lease: Lease) {
        self.with_flow(lease, |flow| flow.held = false);
    }

    /// Gives back `count` records that were handed out: they are finished.
    pub fn release(&self, lease: Lease, count: usize) {
        self.with_flow(lease, |flow| {
            let _ = flow.outstanding.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| Some(held.saturating_sub(count)));
        });
    }

    fn with_flow(&self, lease: Lease, change: impl FnOnce(&mut Flow)) {
        let mut membership = self.shared.lock();
        if membership.standing.ownership.owns(lease)
            && let Some(flow) = membership.flow.get_mut(&lease.partition)
        {
            change(flow);
        }
    }

    /// Leaves: a last `Revoking` for everything owned, then the channel closes. A static member keeps its assignment
    /// reserved until the session times out.
    pub async fn leave(&self) {
        self.shared.leaving.store(true, Ordering::Release);
        let mut ended = self.ended.clone();
        // An error means that the thread is gone already.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

/// The rebalance callbacks; they run on the polling thread.
struct Callbacks {
    shared: Arc<Shared>,
    events: mpsc::UnboundedSender<GroupEvent>,
}

impl ClientContext for Callbacks {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(error = %error, reason, "Kafka consumer error");
    }
}

impl Callbacks {
    /// Hands the leases to the route to finish, waits, and only then ends them.
    fn revoke(&self, leases: Vec<Lease>, lost: bool) {
        if leases.is_empty() {
            return;
        }
        if lost {
            self.end(&leases);
            let _ = self.events.send(GroupEvent::Lost(leases));
            return;
        }
        let (done, finished) = oneshot::channel();
        if self.events.send(GroupEvent::Revoking { leases: leases.clone(), done }).is_ok() {
            // The route bounds its drain below max.poll.interval.ms; a dropped sender ends the wait as well.
            let _ = finished.blocking_recv();
        }
        self.end(&leases);
    }

    fn end(&self, leases: &[Lease]) {
        let mut membership = self.shared.lock();
        membership.standing.ownership.release(leases);
        for lease in leases {
            membership.flow.remove(&lease.partition);
        }
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<i32> {
    list.elements().iter().map(rdkafka::topic_partition_list::TopicPartitionListElem::partition).collect()
}

impl ConsumerContext for Callbacks {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(list) => {
                let leases = self.shared.lock().standing.ownership.leases(&partitions(list));
                self.revoke(leases, consumer.assignment_lost());
            }
            Rebalance::Assign(_) | Rebalance::Error(_) => {}
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        // Also an assignment without new partitions comes here: the generation has changed all the same.
        // Not while leaving: a group that is being closed may never answer the question (seen as a hang at shutdown).
        let leaving = self.shared.leaving.load(Ordering::Acquire);
        let metadata = if leaving { None } else { consumer.group_metadata().map(Arc::new) };
        match rebalance {
            Rebalance::Assign(list) => {
                // Before any record can be handed out: nothing is fetched until the route has taken the partition over.
                if list.count() > 0
                    && let Err(error) = consumer.pause(list)
                {
                    tracing::warn!(%error, "assigned partitions could not be paused");
                }
                let mut membership = self.shared.lock();
                let assigned = partitions(list);
                let leases = membership.standing.assigned(&assigned, metadata);
                for partition in assigned {
                    membership.flow.insert(partition, Flow::default());
                }
                drop(membership);
                let _ = self.events.send(GroupEvent::Assigned(leases));
            }
            Rebalance::Revoke(_) => self.shared.lock().standing.rejoined(metadata),
            Rebalance::Error(error) => tracing::warn!(%error, "rebalance failed"),
        }
    }
}

/// The polling thread.
struct Poller {
    consumer: BaseConsumer<Callbacks>,
    shared: Arc<Shared>,
    events: mpsc::UnboundedSender<GroupEvent>,
    topic: String,
    limit: usize,
    /// Leases librdkafka was told to hold back (every lease begins paused).
    paused: BTreeSet<Lease>,
}

impl Poller {
    fn run(mut self) {
        let mut known: BTreeSet<Lease> = BTreeSet::new();
        while !self.shared.leaving.load(Ordering::Acquire) {
            self.steer(&mut known);
            let wait = if self.paused.is_empty() { POLL } else { POLL_WHILE_HELD };
            let mut batches: BTreeMap<i32, Vec<Delivered>> = BTreeMap::new();
            let mut polled = self.consumer.poll(wait);
            let mut taken = 0;
            while let Some(next) = polled {
                match next {
                    Ok(message) => {
                        taken += 1;
                        if let Some(record) = self.deliver(&message) {
                            batches.entry(record.lease.partition).or_default().push(record);
                        }
                    }
                    Err(error) => {
                        if let Some(fault) = fatal(&error) {
                            let _ = self.events.send(GroupEvent::Failed(fault));
                            self.abandon();
                            return;
                        }
                        tracing::debug!(%error, "poll");
                    }
                }
                if taken >= BATCH {
                    break;
                }
                polled = self.consumer.poll(Duration::ZERO);
            }
            for batch in batches.into_values() {
                let _ = self.events.send(GroupEvent::Records(batch));
            }
            if self.events.is_closed() {
                self.abandon();
                return;
            }
        }
        self.depart();
    }

    /// Pauses and resumes what the route wants held, and what holds too many records.
    fn steer(&mut self, known: &mut BTreeSet<Lease>) {
        let mut pause = TopicPartitionList::new();
        let mut resume = TopicPartitionList::new();
        let membership = self.shared.lock();
        let owned: BTreeSet<Lease> = membership.standing.ownership.all().into_iter().collect();
        self.paused.retain(|lease| owned.contains(lease));
        for lease in &owned {
            if !known.contains(lease) {
                self.paused.insert(*lease);
            }
            let Some(flow) = membership.flow.get(&lease.partition) else { continue };
            let paused = self.paused.contains(lease);
            let outstanding = flow.outstanding.load(Ordering::Relaxed);
            let full = if paused { outstanding > self.limit / 2 } else { outstanding >= self.limit };
            let hold = !flow.started || flow.held || full;
            if hold && !paused {
                pause.add_partition(&self.topic, lease.partition);
                self.paused.insert(*lease);
            } else if !hold && paused {
                resume.add_partition(&self.topic, lease.partition);
                self.paused.remove(lease);
            }
        }
        drop(membership);
        *known = owned;
        for (list, result) in [(pause.count(), self.apply(&pause, true)), (resume.count(), self.apply(&resume, false))] {
            if let (1.., Err(error)) = (list, result) {
                tracing::warn!(%error, "a partition could not be paused or resumed");
            }
        }
    }

    fn apply(&self, list: &TopicPartitionList, pause: bool) -> Result<(), KafkaError> {
        if list.count() == 0 {
            return Ok(());
        }
        if pause { self.consumer.pause(list) } else { self.consumer.resume(list) }
    }

    fn deliver(&self, message: &rdkafka::message::BorrowedMessage<'_>) -> Option<Delivered> {
        let membership = self.shared.lock();
        let lease = membership.standing.ownership.leases(&[message.partition()]).first().copied()?;
        if let Some(flow) = membership.flow.get(&lease.partition) {
            flow.outstanding.fetch_add(1, Ordering::Relaxed);
        }
        drop(membership);
        Some(Delivered {
            lease,
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: message
                .headers()
                .map(|headers| headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect())
                .unwrap_or_default(),
            timestamp: message.timestamp().to_millis(),
        })
    }

    /// Leaving in good order: everything owned is finished first.
    fn depart(self) {
        let leases = self.shared.lock().standing.ownership.all();
        if !leases.is_empty() {
            let mut all = TopicPartitionList::new();
            for lease in &leases {
                all.add_partition(&self.topic, lease.partition);
            }
            let _ = self.consumer.pause(&all);
        }
        let (stop, stopped) = std_mpsc::channel::<()>();
        let callbacks = Callbacks { shared: Arc::clone(&self.shared), events: self.events.clone() };
        let drain = thread::spawn(move || {
            callbacks.revoke(leases, false);
            let _ = stop.send(());
        });
        // The member polls on while it drains, so that it is not thrown out of the group half-way.
        while stopped.recv_timeout(Duration::from_millis(20)) == Err(std_mpsc::RecvTimeoutError::Timeout) {
            let _ = self.consumer.poll(Duration::ZERO);
        }
        let _ = drain.join();
    }

    /// Nothing can be finished any more: ownership ends at once.
    fn abandon(&self) {
        self.shared.leaving.store(true, Ordering::Release);
        let mut membership = self.shared.lock();
        let leases = membership.standing.ownership.all();
        membership.standing.ownership.release(&leases);
        membership.flow.clear();
        drop(membership);
        if !leases.is_empty() {
            let _ = self.events.send(GroupEvent::Lost(leases));
        }
    }
}

/// Errors after which this member cannot go on.
fn fatal(error: &KafkaError) -> Option<GroupFault> {
    match error {
        KafkaError::MessageConsumptionFatal(RDKafkaErrorCode::FencedInstanceId)
        | KafkaError::MessageConsumption(RDKafkaErrorCode::FencedInstanceId) => Some(GroupFault(
            "another process joined the group with the same kafka.instance; every instance needs an ordinal of its own, so this one stops"
                .into(),
        )),
        KafkaError::MessageConsumptionFatal(code) => Some(GroupFault(format!("the consumer cannot go on: {code}"))),
        KafkaError::MessageConsumption(
            code @ (RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::UnknownTopicOrPartition),
        ) => {
            tracing::warn!(%code, "the group cannot read its topic");
            None
        }
        _ => None,
    }
}
