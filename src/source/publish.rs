//! Hop 5: events + state + checkpoint → one transaction.
//!
//! State travels with its events, so a batch that was committed is never published again, whatever
//! happens to the window it belongs to; the checkpoint comes with the last batch, so it never
//! passes anything unpublished.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::millis,
    config::Feed,
    crash::{self, Point},
    kafka::{Batch, CommitFault, Group, Lease, Outgoing, Position, Store, StoreFault, Transactor},
    metrics::{Hop, Metrics},
};

use super::change::{Piece, Told};

/// The most events of one transaction. The cost of a transaction hardly depends on their number
/// (`docs/kafka.md#commit-latency`). Sending them takes far less than the transaction timeout, and
/// librdkafka's queue has room for them.
pub(crate) const BATCH: usize = 500;

pub(crate) const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Why nothing more can be published under this lease.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum PublishFault {
    #[error("the feed's partition is no longer owned")]
    NotOwner,
    /// The feed must be taken over again from the log.
    #[error("{0}")]
    Unknown(String),
    #[error("{0}")]
    Fenced(String),
    /// Nothing was written: these pieces have to become smaller.
    #[error("{reason}")]
    TooLarge { pieces: Vec<Excess>, reason: String },
    #[error(transparent)]
    Store(#[from] StoreFault),
}

/// A piece, by its place, with a record that its topic does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excess {
    Event(usize),
    State(usize),
}

impl Excess {
    /// The piece's place.
    #[must_use]
    pub(crate) fn at(self) -> usize {
        match self {
            Self::Event(at) | Self::State(at) => at,
        }
    }
}

/// Commits what a feed publishes and brings the local store to the same point.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    pub feed: Feed,
    pub group: Group,
    pub transactor: Transactor,
    pub lease: Lease,
    pub store: Store,
    pub metrics: Arc<Metrics>,
    pub cancel: CancellationToken,
}

impl Publisher {
    /// Commits at most [`BATCH`] pieces, and the checkpoint where this is the window's last batch.
    /// An aborted transaction is repeated as it was until the feed is given up.
    ///
    /// # Errors
    /// [`PublishFault`].
    pub(crate) async fn publish(
        &self,
        pieces: &[Piece],
        checkpoint: Option<&Arc<Outgoing>>,
    ) -> Result<(), PublishFault> {
        if pieces.is_empty() && checkpoint.is_none() {
            return Ok(());
        }
        self.commit(pieces, checkpoint).await?;
        crash::point(Point::ChangesPublished);
        let states = pieces.iter().map(|piece| &piece.state).chain(checkpoint);
        let entries =
            states.map(|state| (state.key.as_deref().unwrap_or_default(), state.value.as_deref()));
        self.store.apply(self.feed.partition(), entries)?;
        crash::point(Point::StateCached);
        for piece in pieces {
            match piece.told {
                Told::Event(op) => self.metrics.feed_event(self.feed, op),
                Told::DeadLetter => self.metrics.dead_letter(self.feed.name(), "record_error"),
            }
        }
        Ok(())
    }

    async fn commit(
        &self,
        pieces: &[Piece],
        checkpoint: Option<&Arc<Outgoing>>,
    ) -> Result<(), PublishFault> {
        let mut pause = PAUSE;
        loop {
            let events = pieces.iter().map(|piece| &piece.event);
            let records: Vec<Arc<Outgoing>> = events
                .chain(pieces.iter().map(|piece| &piece.state))
                .chain(checkpoint)
                .cloned()
                .collect();
            let count = records.len();
            // The position carries no meaning of its own: offsets in a transaction are what makes
            // the broker check that the group's generation is still ours.
            let position = Position { lease: self.lease, offset: 0, metadata: String::new() };
            let batch = Batch { group: self.group.clone(), positions: vec![position], records };
            let began = Instant::now();
            let result = self.transactor.commit(batch).await;
            let done = |result| {
                self.metrics.transaction("feeds", result, count, began.elapsed());
                self.metrics.hop(Hop::Publish(self.feed), result);
                self.metrics.hop_seconds(Hop::Publish(self.feed), began.elapsed());
            };
            match result {
                Ok(()) => {
                    done("committed");
                    return Ok(());
                }
                Err(CommitFault::NotOwner(_)) => {
                    done("refused");
                    return Err(PublishFault::NotOwner);
                }
                Err(CommitFault::Unknown(reason)) => {
                    done("unknown");
                    return Err(PublishFault::Unknown(reason));
                }
                Err(CommitFault::Fenced(reason)) => {
                    done("refused");
                    return Err(PublishFault::Fenced(reason));
                }
                Err(CommitFault::TooLarge { records, reason }) => {
                    done("aborted");
                    let excess: Vec<Excess> =
                        records.into_iter().filter_map(|at| excess(at, pieces.len())).collect();
                    if excess.is_empty() {
                        // The checkpoint: nothing of it can be left out.
                        self.rest(&mut pause, &reason).await?;
                    } else {
                        return Err(PublishFault::TooLarge { pieces: excess, reason });
                    }
                }
                Err(CommitFault::Aborted(reason) | CommitFault::Denied { reason, .. }) => {
                    done("aborted");
                    self.rest(&mut pause, &reason).await?;
                }
            }
        }
    }

    /// Until the same batch is tried again.
    ///
    /// # Errors
    /// The feed is given up meanwhile.
    pub(crate) async fn rest(
        &self,
        pause: &mut Duration,
        reason: &str,
    ) -> Result<(), PublishFault> {
        tracing::warn!(
            feed = self.feed.name(),
            error = %reason,
            retry_after_ms = millis(*pause),
            "transaction aborted; retrying the same batch"
        );
        self.cancel
            .run_until_cancelled(tokio::time::sleep(*pause))
            .await
            .ok_or(PublishFault::NotOwner)?;
        *pause = (*pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

/// Whose record stands at this place of a batch: all events, all states, the checkpoint.
fn excess(at: usize, pieces: usize) -> Option<Excess> {
    match at {
        at if at < pieces => Some(Excess::Event(at)),
        at if at < pieces * 2 => Some(Excess::State(at - pieces)),
        _ => None,
    }
}
