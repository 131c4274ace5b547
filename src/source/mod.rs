//! The change pipeline: each change of an ERP record becomes one change event.
//!
//! ```text
//!            ┌──────────────── one task per owned feed (feed.rs) ────────────────┐
//! group ──▶  │ window ──▶ fetch ──▶ diff ──▶ change ──▶ publish ──▶ change topic │
//! (feeds.    │   ▲        ERP, a     state,    bytes      │         + state      │
//!  state)    │   │        page ◀──── hash first ◀─────────┤         + checkpoint │
//!            │   └─────── all that was counted is shown ◀─┘                      │
//!            └───────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The owner of partition i of `wdt.feeds.state` owns feed i. A new owner waits for stable offsets
//! and its barrier, restores the last published versions into a local cache, and resumes from the
//! checkpoint.
//!
//! Events and state are committed in one transaction, so a repeated window publishes nothing twice.
//! The checkpoint comes with the last of a window's. Intermediate versions between two polls are not
//! captured. The guarantees and their assumptions are in `docs/delivery.md#change-pipeline`.

pub(crate) mod audit;
mod both_ways;
pub mod change;
pub mod diff;
pub(crate) mod entered;
mod feed;
pub mod fetch;
pub(crate) mod markers;
mod obey;
pub(crate) mod order;
mod page_size;
mod pass;
pub(crate) mod publish;
pub(crate) mod query;
pub(crate) mod reader;
mod remedy;
mod retries;
mod rounds;
pub(crate) mod shipped;
pub(crate) mod status;
mod story;
pub(crate) mod stretch;
mod tenure;
mod turns;
pub(crate) mod window;

#[cfg(test)]
mod cursor_model;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    background,
    board::Board,
    clock::Moment,
    config::{Feed, FeedSettings, Settings},
    erp::{Erp, Work},
    kafka::{
        Asked, Group, GroupEvent, GroupFault, GroupOptions, GroupState, LEAVE, Lease, POLL_MARGIN,
        Store, StoreFault, Threads, Transactor, check_compacted, control::Controls,
    },
    metrics::Metrics,
    restarts::{Next, Restarts},
    schema::{Codec, SchemaFault},
};

use feed::FeedTask;
pub(crate) use markers::{JournalMarkers, MarkerIndex, NoMarkers};
use status::{FeedPhase, StatusBoard};

/// What the change pipeline is made of.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub settings: Arc<Settings>,
    pub erp: Erp,
    pub codec: Arc<Codec>,
    pub metrics: Arc<Metrics>,
    pub board: Board,
    pub shutdown: CancellationToken,
    /// What an operator decided for all instances.
    pub controls: Controls,
    pub markers: Arc<dyn MarkerIndex>,
}

/// Why the change pipeline ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PipelineFault {
    #[error("the feeds' membership of their consumer group ended: {0}")]
    Group(#[from] GroupFault),
    /// The membership stopped working. `standstill`: no feed has moved since it began, although a
    /// broker answered lately.
    #[error("the feeds' membership of their consumer group stopped working: {fault}")]
    Stopped { fault: GroupFault, standstill: bool },
    #[error("the feeds have no producer: {0}")]
    Producer(String),
    #[error("the feeds' producer was fenced: {0}")]
    Fenced(String),
    #[error("the feeds' local cache failed: {0}")]
    Store(#[from] StoreFault),
    /// The compacted topic holds what this connector cannot read.
    #[error("{0}")]
    State(String),
    #[error("the feeds' own state does not fit its schema: {0}")]
    Schema(#[from] SchemaFault),
    #[error("a feed's task ended unexpectedly: {0}")]
    Task(#[from] JoinError),
}

/// The main loop turns at least this often, whatever happens.
const TICK: Duration = Duration::from_secs(5);
/// The role of this pipeline in group, client and transactional ids.
pub(crate) const ROLE: &str = "feeds";
/// How long a feed that is given back may take to end its transaction, which takes milliseconds
/// where a broker answers; never longer than `commands.drain_timeout`, which bounds a shutdown.
const DRAIN: Duration = Duration::from_secs(20);

/// The settings of a feed.
#[must_use]
pub(crate) fn settings_of(settings: &Settings, feed: Feed) -> &FeedSettings {
    match feed {
        Feed::PurchaseReturns => &settings.purchase_returns,
        Feed::ReturnOutbounds => &settings.return_outbounds,
    }
}

/// Runs the enabled feeds this instance owns until [`Parts::shutdown`].
///
/// # Errors
/// [`PipelineFault`]: the process must stop or a person must act. An ERP or a broker that is away
/// is no error.
pub(crate) async fn run(parts: Parts) -> Result<(), PipelineFault> {
    let mut restarts = Restarts::new(&parts.settings);
    loop {
        let (began, silence) = (Moment::now(), restarts.silence_limit(DRAIN + POLL_MARGIN));
        let (fault, standstill) = match session(parts.clone(), silence).await {
            Err(PipelineFault::Stopped { fault, standstill }) => (fault, standstill),
            ended => return ended,
        };
        let pause = match restarts.after(began.until(Moment::now()), standstill, Moment::now()) {
            Next::Restart(pause) => pause,
            Next::EndProcess => return Err(fault.into()),
        };
        tracing::warn!(error = %fault, "feeds restarting from their committed state");
        parts.board.ready(ROLE, Err(fault.to_string()));
        tokio::select! {
            () = parts.shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// From joining the group to leaving it. The polling thread may be silent for `silence`.
async fn session(parts: Parts, silence: Duration) -> Result<(), PipelineFault> {
    let enabled: Vec<Feed> =
        Feed::ALL.into_iter().filter(|feed| settings_of(&parts.settings, *feed).enabled).collect();
    // Nothing is ever fetched through the membership.
    let options = GroupOptions {
        role: ROLE.to_owned(),
        topic: parts.settings.topics.feeds_state.clone(),
        pending_limit: 0,
    };
    let (group, events) = Group::join(&parts.settings.kafka, options)?;
    let group_state = GroupState::watch(
        &parts.settings.kafka,
        &parts.controls,
        &group,
        Asked {
            role: ROLE,
            partitions: Feed::ALL.into_iter().map(Feed::partition).collect(),
            // Of their own topic feeds read nothing behind what is committed.
            offsets: false,
            written: Vec::new(),
            drain: DRAIN,
        },
    );
    let (kafka, state) = (parts.settings.kafka.clone(), parts.settings.topics.feeds_state.clone());
    let compacted = async move { check_compacted(&kafka, &state).await };
    let pipeline = Pipeline {
        group_state,
        threads: Threads::new(silence),
        transactor: Transactor::start(
            &parts.settings.kafka,
            ROLE,
            &parts.settings.topics.feeds_state,
            false,
        )
        .map_err(PipelineFault::Producer)?,
        store: Store::create(&parts.settings.cache_dir, "feeds")?,
        status: StatusBoard::new(parts.board.clone(), Arc::clone(&parts.metrics), &enabled),
        group,
        enabled,
        running: HashMap::new(),
        tasks: JoinSet::new(),
        parts,
    };
    tokio::select! {
        ended = pipeline.run(events) => ended,
        Err(reason) = compacted => Err(PipelineFault::State(reason)),
    }
}

struct Pipeline {
    parts: Parts,
    enabled: Vec<Feed>,
    group: Group,
    group_state: GroupState,
    threads: Threads,
    transactor: Transactor,
    store: Store,
    status: StatusBoard,
    running: HashMap<Lease, Running>,
    tasks: JoinSet<(Lease, Result<(), PipelineFault>)>,
}

struct Running {
    feed: Feed,
    cancel: CancellationToken,
    abort: AbortHandle,
}

impl Pipeline {
    /// The quota is shared by partitions: whoever owns a feed makes all of its calls.
    fn claim(&self) {
        for feed in &self.enabled {
            let owned = self
                .running
                .values()
                .any(|running| running.feed == *feed && !running.cancel.is_cancelled());
            let call = change::call_of(*feed, settings_of(&self.parts.settings, *feed).edition);
            self.parts.erp.quota().set_share(call, Work::Feeds, if owned { 1.0 } else { 0.0 });
        }
    }

    async fn run(
        mut self,
        mut events: mpsc::UnboundedReceiver<GroupEvent>,
    ) -> Result<(), PipelineFault> {
        let pulse = self.parts.board.pulse("feeds", TICK * 12);
        let mut tick = tokio::time::interval(TICK);
        let mut leaving = None;
        let shutdown = self.parts.shutdown.clone();
        let result = loop {
            pulse.beat();
            self.claim();
            let ended = tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.event(event).await,
                    None if leaving.is_some() => break Ok(()),
                    None => break Err(GroupFault("the thread of the feeds' group membership ended, which is a defect of the connector; start the process again".to_owned()).into()),
                },
                Some(ended) = self.tasks.join_next() => self.ended(ended),
                () = shutdown.cancelled(), if leaving.is_none() => {
                    // The last `Revoking` comes through `events`, so they go on being served
                    // meanwhile.
                    let group = self.group.clone();
                    leaving = Some(background::task(async move { group.leave().await }));
                    Ok(())
                }
                _ = tick.tick() => self.check(),
            };
            if let Err(fault) = ended {
                break Err(fault);
            }
        };
        for running in self.running.values() {
            running.cancel.cancel();
        }
        self.tasks.shutdown().await;
        // Nobody answers its last `Revoking` any more: leaving must not wait for that.
        drop(events);
        self.group.abandon(LEAVE).await;
        if let Some(leaving) = leaving {
            leaving.abort();
        }
        result
    }

    /// Whether feeds have an owner, and the threads they wait for are alive.
    fn check(&mut self) -> Result<(), PipelineFault> {
        self.status.unowned(&self.group_state.view().unowned);
        let restored = || self.group.topic().to_owned();
        match self.threads.hanging(&self.group, &self.group_state, restored) {
            Some(fault) => Err(self.stopped(fault)),
            None => Ok(()),
        }
    }

    fn stopped(&self, fault: GroupFault) -> PipelineFault {
        let standstill = self.group_state.view().answered_lately() && !self.status.moved();
        PipelineFault::Stopped { fault, standstill }
    }

    async fn event(&mut self, event: GroupEvent) -> Result<(), PipelineFault> {
        match event {
            GroupEvent::Assigned(leases) => {
                for lease in leases {
                    self.begin(lease).await?;
                }
                self.status.joined(true);
                Ok(())
            }
            GroupEvent::Revoking { leases, done } => {
                // A running transaction is finished, everything else is dropped: the next owner
                // reads it again.
                let result = self.end(&leases, false).await;
                // Nobody listening any more means that ownership is over already.
                let _ = done.send(());
                self.status.joined(false);
                result
            }
            GroupEvent::Lost(leases) => {
                tracing::warn!(
                    kafka.partitions = ?partitions(&leases),
                    "feed partitions lost; uncommitted work abandoned"
                );
                let result = self.end(&leases, true).await;
                self.status.joined(false);
                result
            }
            // Nothing is fetched: state is read by takeovers, with consumers of their own.
            GroupEvent::Records(_) | GroupEvent::Passed(_) => Ok(()),
            GroupEvent::Stopped(fault) => Err(self.stopped(fault)),
            GroupEvent::Failed(fault) => Err(fault.into()),
        }
    }

    /// Starts the feed whose partition was assigned, once nothing of an earlier lease on it runs
    /// any more.
    async fn begin(&mut self, lease: Lease) -> Result<(), PipelineFault> {
        let Some(feed) =
            self.enabled.iter().copied().find(|feed| feed.partition() == lease.partition)
        else {
            return Ok(());
        };
        let earlier: Vec<Lease> = self
            .running
            .keys()
            .copied()
            .filter(|other| other.partition == lease.partition)
            .collect();
        self.end(&earlier, true).await?;
        self.status.feed(feed, |status| status.state = FeedPhase::Restoring);
        let cancel = CancellationToken::new();
        let task = FeedTask {
            parts: self.parts.clone(),
            feed,
            group: self.group.clone(),
            transactor: self.transactor.clone(),
            store: self.store.clone(),
            status: self.status.clone(),
            lease,
            cancel: cancel.clone(),
        };
        let abort = self.tasks.spawn(async move { (lease, task.run().await) });
        self.running.insert(lease, Running { feed, cancel, abort });
        Ok(())
    }

    /// Ends the tasks of some leases and waits until they are gone. What they are committing is
    /// waited for, but not for long: a broker may be away. Whether that was committed, the next
    /// owner reads from the log.
    async fn end(&mut self, leases: &[Lease], abort: bool) -> Result<(), PipelineFault> {
        let drain = DRAIN.min(self.parts.settings.commands.drain_timeout);
        let mut patience = pin!(tokio::time::sleep(if abort { Duration::ZERO } else { drain }));
        for running in leases.iter().filter_map(|lease| self.running.get(lease)) {
            running.cancel.cancel();
        }
        let (mut result, mut aborted) = (Ok(()), false);
        while leases.iter().any(|lease| self.running.contains_key(lease)) {
            tokio::select! {
                ended = self.tasks.join_next() => match ended {
                    Some(ended) => result = result.and(self.ended(ended)),
                    None => break,
                },
                () = &mut patience, if !aborted => {
                    aborted = true;
                    for running in leases.iter().filter_map(|lease| self.running.get(lease)) {
                        if !abort {
                            tracing::warn!(
                                feed = running.feed.name(),
                                "transaction did not finish before revocation; \
                                 leaving it to the next owner"
                            );
                        }
                        running.abort.abort();
                    }
                }
            }
        }
        result
    }

    fn ended(
        &mut self,
        ended: Result<(Lease, Result<(), PipelineFault>), JoinError>,
    ) -> Result<(), PipelineFault> {
        let (gone, result) = match ended {
            Ok((lease, result)) => (vec![lease], result),
            Err(error) => {
                // A task that was aborted or panicked has no lease to tell; its handle knows that
                // it is gone.
                let gone = self
                    .running
                    .iter()
                    .filter(|(_, running)| running.abort.is_finished())
                    .map(|(lease, _)| *lease)
                    .collect();
                (gone, if error.is_cancelled() { Ok(()) } else { Err(error.into()) })
            }
        };
        for running in gone.iter().filter_map(|lease| self.running.remove(lease)) {
            self.status.feed(running.feed, |status| status.state = FeedPhase::Elsewhere);
        }
        result
    }
}

fn partitions(leases: &[Lease]) -> Vec<i32> {
    leases.iter().map(|lease| lease.partition).collect()
}
