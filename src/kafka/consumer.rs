//! Membership of a consumer group: one OS thread that polls, callbacks that keep ownership true.
//!
//! The thread never waits for the pipeline except while partitions are revoked: it polls on, so
//! that the member stays in the group whatever the ERP does, and holds partitions back by pausing
//! them.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rdkafka::consumer::ConsumerGroupMetadata;
use tokio::sync::{mpsc, oneshot};

use crate::{background, clock::Moment, config::KafkaSettings};

use super::{
    client::group_id,
    headers::Headers,
    membership::{Flow, Shared},
    poller::Poller,
};

/// Ownership of one partition during one assignment; a later assignment of the same partition has
/// another epoch.
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
    /// The size of a value that is too large to be read; `value` is then `None`, and no tombstone.
    pub left_out: Option<usize>,
    pub headers: Headers,
    /// Headers whose names are not UTF-8; they are not among `headers`.
    pub unreadable_headers: usize,
    /// Milliseconds since 1970, where the record carries a time.
    pub timestamp: Option<i64>,
}

impl Delivered {
    /// Bytes it holds in memory.
    pub(super) fn size(&self) -> usize {
        let headers = self
            .headers
            .iter()
            .map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len))
            .sum::<usize>();
        self.key.as_ref().map_or(0, Vec::len)
            + self.value.as_ref().map_or(0, Vec::len)
            + headers
            + size_of::<Self>()
    }
}

/// What a group tells its pipeline, in order.
#[derive(Debug)]
pub(crate) enum GroupEvent {
    /// New partitions; nothing is fetched from them until [`Group::start`].
    Assigned(Vec<Lease>),
    /// Finish what can be finished and commit it, then send on `done` (or drop it). Ownership ends
    /// right after.
    Revoking { leases: Vec<Lease>, done: oneshot::Sender<()> },
    /// Ownership has ended already: abort, commit nothing.
    Lost(Vec<Lease>),
    /// Records of one partition in offset order.
    Records(Vec<Delivered>),
    /// Everything below these offsets was delivered and released, transaction markers included,
    /// which are never delivered.
    Passed(Vec<(Lease, i64)>),
    /// The membership is over, and another one may do better.
    Stopped(GroupFault),
    /// The membership is over for good.
    Failed(GroupFault),
}

/// Why a membership ended or could not begin: one sentence.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct GroupFault(pub String);

/// Which group to join and how.
#[derive(Clone, Debug)]
pub(crate) struct GroupOptions {
    /// `application_id` + `.` + this is the group id and part of the client id: `commands`,
    /// `feeds`.
    pub role: String,
    pub topic: String,
    /// Records handed out and not yet released ([`Group::release`]), per partition; beyond it the
    /// partition is paused. With 0 nothing is ever fetched.
    pub pending_limit: usize,
}

/// A handle on the membership; cheap to clone.
#[derive(Clone)]
pub(crate) struct Group {
    shared: Arc<Shared>,
    topic: Arc<str>,
    group_id: Arc<str>,
    ended: tokio::sync::watch::Receiver<bool>,
}

/// A thread that restores partitions.
pub(super) struct RestoreRuns(Arc<Shared>);

impl Drop for RestoreRuns {
    fn drop(&mut self) {
        self.0.restores.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Group {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Group")
            .field("group_id", &self.group_id)
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

impl Group {
    /// Joins; events arrive until [`Group::leave`].
    ///
    /// # Errors
    /// [`GroupFault`] for options librdkafka refuses.
    pub(crate) fn join(
        kafka: &KafkaSettings,
        options: GroupOptions,
    ) -> Result<(Self, mpsc::UnboundedReceiver<GroupEvent>), GroupFault> {
        let shared = Arc::new(Shared::default());
        shared.beat();
        // Bounded by the pauses at `pending_limit`, not by the channel: a full channel would stop
        // the polling.
        let (events, receiver) = mpsc::unbounded_channel();
        let group_id = group_id(kafka, &options.role);
        let topic: Arc<str> = options.topic.as_str().into();
        let (end, ended) = tokio::sync::watch::channel(false);
        let name = format!("poll-{}", options.role);
        let poller = Poller::new(kafka, options, Arc::clone(&shared), events)?;
        background::thread(&name, move || {
            poller.run();
            let _ = end.send(true);
        })
        .map_err(|error| GroupFault(format!("the polling thread could not be started: {error}")))?;
        Ok((Self { shared, topic, group_id: group_id.into(), ended }, receiver))
    }

    /// The topic of this membership.
    #[must_use]
    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// The group's id.
    #[must_use]
    pub(crate) fn group_id(&self) -> &str {
        &self.group_id
    }

    /// Whether a younger process has joined with the same `kafka.instance_ordinal`.
    pub(super) fn fenced(&self) -> bool {
        self.shared.fenced.load(Ordering::Acquire)
    }

    /// Whether this very assignment still holds.
    #[must_use]
    pub(crate) fn owns(&self, lease: Lease) -> bool {
        self.shared.lock().standing.ownership.owns(lease)
    }

    /// Those of `leases` that are over.
    #[must_use]
    pub(crate) fn ended(&self, leases: &[Lease]) -> Vec<Lease> {
        self.shared.lock().standing.ownership.ended(leases.iter().copied())
    }

    /// The group's metadata if every lease still holds, under one lock; otherwise the leases that
    /// are over.
    pub(super) fn fence(
        &self,
        leases: impl IntoIterator<Item = Lease>,
    ) -> Result<Arc<ConsumerGroupMetadata>, Vec<Lease>> {
        let leases: Vec<Lease> = leases.into_iter().collect();
        self.shared.lock().standing.fence(&leases).map(Arc::clone)
    }

    /// Begins fetching an assigned partition, from its committed offset.
    pub(crate) fn start(&self, lease: Lease) {
        self.with_flow(lease, |flow| flow.started = true);
    }

    /// Holds back a partition; the consumer keeps polling.
    pub(crate) fn pause(&self, lease: Lease) {
        self.with_flow(lease, |flow| flow.held = true);
    }

    /// Ends [`Group::pause`].
    pub(crate) fn resume(&self, lease: Lease) {
        self.with_flow(lease, |flow| flow.held = false);
    }

    /// Gives back `count` records that were handed out: they are finished.
    pub(crate) fn release(&self, lease: Lease, count: usize) {
        self.with_flow(lease, |flow| {
            let held = flow.outstanding.load(Ordering::Relaxed);
            let given_back = count.min(held);
            flow.bytes -=
                if given_back == held { flow.bytes } else { flow.bytes / held * given_back };
            flow.outstanding.store(held - given_back, Ordering::Relaxed);
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

    /// Drains, leaves, waits for a session and joins again: a static member that is away for that
    /// long is removed, which starts a rebalance.
    pub(super) fn rejoin(&self) {
        self.shared.rejoin.store(true, Ordering::Release);
    }

    /// A restore is alive.
    pub(crate) fn restoring(&self) {
        self.shared.restore_beat.store(Moment::now().0, Ordering::Relaxed);
    }

    /// A thread restores partitions from now on, until this is dropped.
    pub(super) fn begin_restore(&self) -> RestoreRuns {
        self.restoring();
        self.shared.restores.fetch_add(1, Ordering::Relaxed);
        RestoreRuns(Arc::clone(&self.shared))
    }

    /// How long the threads that restore partitions have given no sign of life; zero when there are
    /// none.
    pub(super) fn restore_silent_for(&self) -> Duration {
        match self.shared.restores.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            _ => Moment(self.shared.restore_beat.load(Ordering::Relaxed)).until(Moment::now()),
        }
    }

    /// How long the polling thread has not come back to its loop; a drain is part of the loop.
    pub(super) fn silent_for(&self) -> Duration {
        Moment(self.shared.beat.load(Ordering::Relaxed)).until(Moment::now())
    }

    /// Leaves: a last `Revoking` for everything owned, then the channel closes. A static member
    /// keeps its assignment reserved until the session times out.
    pub(crate) async fn leave(&self) {
        self.shared.leaving.store(true, Ordering::Release);
        let mut ended = self.ended.clone();
        // An error means that the thread is gone already.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// As [`Group::leave`], for a membership whose events nobody takes any more. A thread that does
    /// not end within `limit` is abandoned: ownership is over, and the member that joins in its
    /// place fences it.
    pub(crate) async fn abandon(&self, limit: Duration) {
        if tokio::time::timeout(limit, self.leave()).await.is_err() {
            tracing::error!(
                kafka.group = %self.group_id,
                "the polling thread does not end; it is abandoned"
            );
        }
        // Nothing that still has this membership may go on in its name.
        self.shared.end();
    }
}
