//! What a membership knows of itself, and the rebalance callbacks that keep it true.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use rdkafka::{
    ClientContext, Statistics, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata, Rebalance},
    error::KafkaError,
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    clock::Moment,
    crash::{self, Point},
};

use super::{GroupEvent, Lease, ownership::Standing, rights::heard, watchdog::Sight};

/// What the thread, the callbacks and every handle share.
#[derive(Default)]
pub(super) struct Shared {
    membership: Mutex<Membership>,
    /// Set by `Group::leave`.
    pub leaving: AtomicBool,
    /// Everything is finished, and the consumer is about to be closed.
    pub closing: AtomicBool,
    /// A younger process has taken the place of this static member.
    pub fenced: AtomicBool,
    /// Set by `Group::rejoin`.
    pub rejoin: AtomicBool,
    /// When the polling thread last came by, as a [`Moment`].
    pub beat: AtomicU64,
    /// The same of the threads that restore partitions, and how many run.
    pub restore_beat: AtomicU64,
    pub restores: AtomicUsize,
}

/// Ownership and the metadata that goes with it: only ever changed together.
#[derive(Default)]
pub(super) struct Membership {
    pub standing: Standing<Arc<ConsumerGroupMetadata>>,
    /// Per owned partition: what the pipeline wants, and how much it holds.
    pub flow: BTreeMap<i32, Flow>,
}

#[derive(Default)]
pub(super) struct Flow {
    pub started: bool,
    pub held: bool,
    pub outstanding: Arc<AtomicUsize>,
    /// What those records hold, roughly: records that are released give back an average share.
    pub bytes: usize,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Membership> {
        self.membership.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The polling thread is alive.
    pub(super) fn beat(&self) {
        self.beat.store(Moment::now().0, Ordering::Relaxed);
    }

    /// Ends everything at once: nothing can be finished any more. What was owned until now.
    pub(super) fn end(&self) -> Vec<Lease> {
        let mut membership = self.lock();
        let leases = membership.standing.ownership.all();
        membership.standing.ownership.release(&leases);
        membership.flow.clear();
        membership.standing.rejoined(None);
        leases
    }

    /// As [`Shared::end`], and says so.
    pub(super) fn lose(&self, events: &mpsc::UnboundedSender<GroupEvent>) {
        let leases = self.end();
        if !leases.is_empty() {
            let _ = events.send(GroupEvent::Lost(leases));
        }
    }
}

/// The rebalance callbacks of one consumer; they run on the polling thread.
pub(super) struct Callbacks {
    shared: Arc<Shared>,
    /// Gone with the retirement: the pipeline's events end with the last consumer that speaks, not
    /// with one that never closes.
    events: Mutex<Option<mpsc::UnboundedSender<GroupEvent>>>,
    topic: String,
    /// What the last statistics said, until the watchdog has looked at it.
    sight: Mutex<Option<Sight>>,
}

impl Callbacks {
    pub(super) fn new(
        shared: Arc<Shared>,
        events: mpsc::UnboundedSender<GroupEvent>,
        topic: String,
    ) -> Self {
        Self { shared, events: Mutex::new(Some(events)), topic, sight: Mutex::new(None) }
    }

    /// Nothing this consumer hears from now on changes the membership.
    pub(super) fn retire(&self) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Another consumer has taken this one's place: whatever it still hears is nobody's business.
    fn retired(&self) -> bool {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Tells the pipeline; `false` when nobody listens.
    fn tell(&self, event: GroupEvent) -> bool {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.as_ref().is_some_and(|events| events.send(event).is_ok())
    }

    /// What the statistics have said since the last question.
    pub(super) fn sight(&self) -> Option<Sight> {
        self.sight.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Hands the leases to the pipeline to finish, waits, and only then ends them.
    pub(super) fn revoke(&self, leases: Vec<Lease>, lost: bool) {
        if leases.is_empty() {
            return;
        }
        if lost {
            self.end(&leases);
            self.tell(GroupEvent::Lost(leases));
            return;
        }
        crash::point(Point::GroupRevoking);
        let (done, finished) = oneshot::channel();
        if self.tell(GroupEvent::Revoking { leases: leases.clone(), done }) {
            // The pipeline bounds its drain below max.poll.interval.ms; a dropped sender ends the
            // wait as well.
            let _ = finished.blocking_recv();
        }
        crash::point(Point::GroupDrained);
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

impl ClientContext for Callbacks {
    fn error(&self, error: KafkaError, reason: &str) {
        heard(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        *self.sight.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Sight::of(&statistics, &self.topic));
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<i32> {
    list.elements()
        .iter()
        .map(rdkafka::topic_partition_list::TopicPartitionListElem::partition)
        .collect()
}

impl ConsumerContext for Callbacks {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if self.retired() {
            return;
        }
        match rebalance {
            Rebalance::Revoke(list) => {
                let leases = self.shared.lock().standing.ownership.leases(&partitions(list));
                self.revoke(leases, consumer.assignment_lost());
            }
            Rebalance::Assign(_) | Rebalance::Error(_) => {}
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if self.retired() {
            return;
        }
        // Also an assignment without new partitions comes here: the generation has changed all the
        // same. Not while closing: a group that is being closed may never answer the question (seen
        // as a hang at shutdown). A member that drains before it leaves needs it to commit.
        let closing = self.shared.closing.load(Ordering::Acquire);
        let metadata = if closing { None } else { consumer.group_metadata().map(Arc::new) };
        match rebalance {
            Rebalance::Assign(list) => {
                // Before any record can be handed out: nothing is fetched until the pipeline has
                // taken the partition over.
                if list.count() > 0
                    && let Err(error) = consumer.pause(list)
                {
                    tracing::warn!(%error, "failed to pause newly assigned partitions");
                }
                let mut membership = self.shared.lock();
                let assigned = partitions(list);
                let leases = membership.standing.assigned(&assigned, metadata);
                for partition in assigned {
                    membership.flow.insert(partition, Flow::default());
                }
                drop(membership);
                if !leases.is_empty() {
                    crash::point(Point::GroupAssigned);
                }
                // What the statistics said of an earlier assignment is over.
                self.sight();
                self.tell(GroupEvent::Assigned(leases));
            }
            Rebalance::Revoke(_) => self.shared.lock().standing.rejoined(metadata),
            Rebalance::Error(error) => tracing::warn!(%error, "rebalance failed"),
        }
    }
}
