//! One owned feed from its assignment to the end of its lease: take over, restore, serve, and again
//! where nobody knows what was committed.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    board::Pulse,
    clock::{Moment, Timestamp, millis},
    config::{Feed, FeedSettings},
    kafka::{Group, Lease, Loader, Store, TakeOver, TakeOverFault, Transactor, take_over},
    schema::{Checkpoint, Codec, DecodeFault, LearnFault},
};

use super::{
    Parts, PipelineFault,
    change::{Scribe, StateKey, call_of},
    order::{BackfillOrder, WatermarkOrder},
    publish::PublishFault,
    query, settings_of,
    status::{FeedPhase, StatusBoard},
    tenure::Tenure,
    window::{Cursor, Limits, Resumed},
};

/// The loop beats at least this often while it waits for something that may take long.
pub(super) const BEAT: Duration = Duration::from_secs(10);

/// How long the outbound feed waits for the index of commands at most, and how often it looks.
const MARKERS_PATIENCE: Duration = Duration::from_secs(120);
const MARKERS_PAUSE: Duration = Duration::from_millis(50);

/// Everything one feed needs under one lease.
pub(super) struct FeedTask {
    pub parts: Parts,
    pub feed: Feed,
    pub group: Group,
    pub transactor: Transactor,
    pub store: Store,
    pub status: StatusBoard,
    pub lease: Lease,
    pub cancel: CancellationToken,
}

/// Why a tenure ended.
#[derive(Debug)]
pub(super) enum Stop {
    /// Revoked, lost or shutting down.
    Over,
    /// Nobody knows what was committed: read it from the log.
    TakeOver(String),
    Fault(PipelineFault),
}

impl From<PublishFault> for Stop {
    fn from(fault: PublishFault) -> Self {
        match fault {
            PublishFault::NotOwner => Self::Over,
            PublishFault::Unknown(reason) | PublishFault::TooLarge { reason, .. } => {
                Self::TakeOver(reason)
            }
            PublishFault::Fenced(reason) => Self::Fault(PipelineFault::Fenced(reason)),
            PublishFault::Store(fault) => Self::Fault(fault.into()),
        }
    }
}

impl<F: Into<PipelineFault>> From<F> for Stop {
    fn from(fault: F) -> Self {
        Self::Fault(fault.into())
    }
}

impl FeedTask {
    /// Until the lease ends.
    pub(super) async fn run(self) -> Result<(), PipelineFault> {
        let name = match self.feed {
            Feed::PurchaseReturns => "feeds.purchase_returns",
            Feed::ReturnOutbounds => "feeds.return_outbounds",
        };
        // Generous: a commit alone may wait for a broker that restarts.
        let pulse = self.parts.board.pulse(name, Duration::from_secs(600));
        loop {
            match Box::pin(self.tenure(&pulse)).await {
                Stop::Over => return Ok(()),
                Stop::TakeOver(reason) => {
                    tracing::warn!(
                        feed = self.feed.name(),
                        error = %reason,
                        "transaction outcome unknown; restoring the feed again"
                    );
                }
                Stop::Fault(fault) => return Err(fault),
            }
        }
    }

    async fn tenure(&self, pulse: &Pulse) -> Stop {
        let mut tenure = match self.begin(pulse).await {
            Ok(tenure) => tenure,
            Err(stop) => return stop,
        };
        loop {
            if let Err(stop) = tenure.turn().await {
                return stop;
            }
        }
    }

    pub(super) fn settings(&self) -> &FeedSettings {
        settings_of(&self.parts.settings, self.feed)
    }

    async fn begin<'a>(&'a self, pulse: &'a Pulse) -> Result<Tenure<'a>, Stop> {
        self.status.feed(self.feed, |status| status.state = FeedPhase::Restoring);
        self.status.ready();
        let settings = self.settings();
        let edition = settings.edition;
        let parts = &self.parts;
        let sid = parts.erp.sid(call_of(self.feed, edition));
        let (codec, markers) = (Arc::clone(&parts.codec), Arc::clone(&parts.markers));
        let scribe = Scribe::new(
            &parts.settings.topics,
            &parts.settings.kafka,
            self.feed,
            edition,
            &sid,
            codec,
            markers,
        );
        let stored = self.restore(&scribe, pulse).await?;
        // Before the first poll: a feed that is paused stays so through restarts and moves.
        self.cancel
            .run_until_cancelled(beating(pulse, parts.controls.settled()))
            .await
            .ok_or(Stop::Over)?;
        self.wait_for_markers(pulse).await?;
        let identity = query::identity(self.feed, settings, &sid);
        let resumed = Cursor::resume(stored.clone(), &identity);
        let (mut cursor, resumed) = resumed.map_err(|foreign| {
            let topic = &parts.settings.topics.feeds_state;
            PipelineFault::State(format!("feed {} in {topic}: {foreign}", self.feed.name()))
        })?;
        if resumed == Resumed::First {
            let decisions = parts.controls.now();
            cursor = cursor.begun_after(
                WatermarkOrder::of(&decisions, self.feed),
                BackfillOrder::of(&decisions, self.feed),
            );
        }
        let limits = Limits::at(Timestamp::now(), &parts.erp.clock(edition), settings);
        if matches!(resumed, Resumed::FiltersChanged | Resumed::EarlierStart) {
            cursor = cursor.late_from(limits.late);
        }
        if query::shipped_queries(self.feed, settings) > 0 {
            let now = limits.now;
            let begins = match resumed {
                Resumed::First | Resumed::FiltersChanged | Resumed::EarlierStart => true,
                Resumed::AsLeft | Resumed::LaterStart => false,
            };
            cursor = cursor.with_shipped_pass(begins, now);
        }
        let at = cursor.checkpoint();
        match resumed {
            Resumed::First => {
                tracing::info!(
                    feed = self.feed.name(),
                    watermark = %at.watermark,
                    "snapshot started"
                )
            }
            Resumed::AsLeft => {
                tracing::info!(
                    feed = self.feed.name(),
                    watermark = %at.watermark,
                    "feed resumed from its checkpoint"
                )
            }
            Resumed::FiltersChanged => tracing::info!(
                feed = self.feed.name(),
                start_at = %settings.start_at,
                watermark = %at.watermark,
                "feed filters changed; reading everything since start_at again"
            ),
            Resumed::EarlierStart if at.snapshot => tracing::info!(
                feed = self.feed.name(),
                start_at = %at.start_at,
                "start_at is earlier; first read begins again"
            ),
            Resumed::EarlierStart => tracing::info!(
                feed = self.feed.name(),
                start_at = %at.start_at,
                watermark = %at.watermark,
                "start_at is earlier; reading what lies before as a backfill"
            ),
            Resumed::LaterStart => tracing::info!(
                feed = self.feed.name(),
                start_at = %at.start_at,
                watermark = %at.watermark,
                "configured start_at is later than the state's, which stays; nothing is removed"
            ),
        }
        let saved = stored.as_ref() == Some(at);
        let mut tenure = Tenure::new(self, pulse, scribe, cursor);
        if !saved {
            // What the operator's tools read there is as true as `/status`.
            tenure.save(tenure.cursor.clone()).await?;
        }
        Ok(tenure)
    }

    /// Waits until the index of commands knows the journal as it is now. What it never comes to
    /// know stays null: an outbound order is worth more than the name of its command.
    async fn wait_for_markers(&self, pulse: &Pulse) -> Result<(), Stop> {
        let patience = Instant::now() + MARKERS_PATIENCE;
        while self.feed == Feed::ReturnOutbounds && !self.parts.markers.ready() {
            pulse.beat();
            if Instant::now() >= patience {
                tracing::warn!(
                    feed = self.feed.name(),
                    "command index not loaded; outbound orders are published without command ids"
                );
                break;
            }
            if self.cancel.run_until_cancelled(tokio::time::sleep(MARKERS_PAUSE)).await.is_none() {
                return Err(Stop::Over);
            }
        }
        Ok(())
    }

    /// Takes the feed's partition over and fills the local store; gives the checkpoint found.
    async fn restore(&self, scribe: &Scribe, pulse: &Pulse) -> Result<Option<Checkpoint>, Stop> {
        let began = Instant::now();
        let partition = self.feed.partition();
        self.store.clear(partition)?;
        let loading = Loading(Arc::new(Mutex::new(Some(Loader::new(self.store.clone())))));
        let apply = {
            let (loader, metrics) = (Arc::clone(&loading.0), Arc::clone(&self.parts.metrics));
            Box::new(move |partition: i32, _: i64, key: &[u8], value: Option<&[u8]>| {
                metrics.restored("feeds");
                match &mut *loader.lock().unwrap_or_else(PoisonError::into_inner) {
                    Some(loader) => {
                        loader.push(partition, key, value).map_err(|fault| fault.to_string())
                    }
                    None => Err("the takeover was given up".to_owned()),
                }
            })
        };
        let nonce = format!("{}-{}-{}", std::process::id(), Moment::now().0, self.lease.epoch);
        let partitions = vec![TakeOver { lease: self.lease, barrier: scribe.barrier(nonce)? }];
        let taking =
            take_over(&self.parts.settings.kafka, &self.group, &self.transactor, partitions, apply);
        let entries: u64 = match self.cancel.run_until_cancelled(beating(pulse, taking)).await {
            None | Some(Err(TakeOverFault::NotOwner(_))) => return Err(Stop::Over),
            Some(Err(TakeOverFault::Fenced(reason))) => {
                return Err(PipelineFault::Fenced(reason).into());
            }
            Some(Err(TakeOverFault::Refused(reason))) => {
                return Err(PipelineFault::State(reason).into());
            }
            // A feed's committed offset is always 0, which is never past an empty topic.
            Some(Err(fault @ (TakeOverFault::Emptied { .. } | TakeOverFault::Shorter { .. }))) => {
                return Err(PipelineFault::State(fault.to_string()).into());
            }
            Some(Ok(restored)) => restored.iter().map(|restored| restored.entries).sum(),
        };
        if let Some(mut loader) = loading.end() {
            loader.flush()?;
        }
        tracing::info!(
            feed = self.feed.name(),
            entries,
            duration_ms = millis(began.elapsed()),
            "feed restored"
        );
        let Some(bytes) = self.store.get(partition, StateKey::checkpoint(self.feed).bytes())?
        else {
            return Ok(None);
        };
        loop {
            match self.parts.codec.decode_feed_state(&bytes) {
                Ok(state) => return Ok(state.checkpoint),
                Err(DecodeFault::UnknownSchemaId(id)) => {
                    learn(&self.parts.codec, &self.cancel, id).await?
                }
                Err(DecodeFault::Malformed(reason)) => {
                    let reason = format!(
                        "the checkpoint of feed {} cannot be read: {reason}",
                        self.feed.name()
                    );
                    return Err(PipelineFault::State(reason).into());
                }
            }
        }
    }
}

/// Ends the loading of the store with the takeover: what still runs of one that was dropped must
/// not write into the state of the next.
struct Loading(Arc<Mutex<Option<Loader>>>);

impl Loading {
    fn end(&self) -> Option<Loader> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        self.end();
    }
}

/// Asks the registry for a schema the state was written with, as long as that takes.
pub(super) async fn learn(codec: &Codec, cancel: &CancellationToken, id: u32) -> Result<(), Stop> {
    loop {
        match cancel.run_until_cancelled(codec.learn(id)).await {
            None => return Err(Stop::Over),
            Some(Ok(())) => return Ok(()),
            Some(Err(LearnFault::Unusable(reason))) => {
                return Err(PipelineFault::State(format!(
                    "the feeds' state was written with schema id {id}, which is unusable: {reason}"
                ))
                .into());
            }
            Some(Err(LearnFault::Missing(reason) | LearnFault::Unavailable(reason))) => {
                tracing::warn!(
                    schema.id = id,
                    error = %reason,
                    "failed to fetch a schema of the feed state; retrying"
                );
                if cancel
                    .run_until_cancelled(tokio::time::sleep(Duration::from_secs(2)))
                    .await
                    .is_none()
                {
                    return Err(Stop::Over);
                }
            }
        }
    }
}

/// Waits for something that has its own timeouts, beating meanwhile.
pub(super) async fn beating<T>(pulse: &Pulse, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    loop {
        pulse.beat();
        if let Ok(done) = tokio::time::timeout(BEAT, &mut work).await {
            return done;
        }
    }
}
