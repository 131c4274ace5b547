//! Hop 5: events + state + checkpoint → one transaction.
//!
//! State travels with its events, so a batch that was committed is never published again, whatever happens to the
//! window it belongs to; the checkpoint comes with the last batch, so it never passes anything unpublished.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Feed,
    crash::{self, Point},
    kafka::{Batch, CommitFault, Group, Lease, Outgoing, Position, Store, StoreFault, Transactor},
    metrics::{Hop, Metrics},
};

use super::change::{Piece, Told};

/// Events a transaction carries at most: enough to make its cost negligible (perf.md), few enough to stay far below
/// the transaction time-out and librdkafka's queue.
pub const BATCH: usize = 500;

const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Why nothing more can be published under this lease.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PublishFault {
    #[error("the feed's partition is no longer owned")]
    NotOwner,
    /// The feed must be taken over again from the log.
    #[error("{0}")]
    Unknown(String),
    #[error("{0}")]
    Fenced(String),
    #[error(transparent)]
    Store(#[from] StoreFault),
}

/// Commits what a feed publishes and brings the local store to the same point.
#[derive(Clone, Debug)]
pub struct Publisher {
    pub feed: Feed,
    pub group: Group,
    pub transactor: Transactor,
    pub lease: Lease,
    pub store: Store,
    pub metrics: Arc<Metrics>,
    pub cancel: CancellationToken,
}

impl Publisher {
    /// Commits at most [`BATCH`] pieces, and the checkpoint where this is the window's last batch. An aborted
    /// transaction is repeated as it was until the feed is given up.
    ///
    /// # Errors
    /// [`PublishFault`].
    pub async fn publish(&self, pieces: Vec<Piece>, checkpoint: Option<Outgoing>) -> Result<(), PublishFault> {
        let told: Vec<Told> = pieces.iter().map(|piece| piece.told).collect();
        let mut records = Vec::with_capacity(pieces.len() * 2 + 1);
        let mut entries = Vec::with_capacity(pieces.len() + 1);
        let states = pieces.into_iter().map(|piece| {
            records.push(piece.event);
            piece.state
        });
        for state in states.chain(checkpoint).collect::<Vec<_>>() {
            entries.push((state.key.clone().unwrap_or_default(), state.value.clone()));
            records.push(state);
        }
        if records.is_empty() {
            return Ok(());
        }
        self.commit(records).await?;
        crash::point(Point::ChangesPublished);
        self.store.apply(self.feed.partition(), &entries)?;
        crash::point(Point::StateCached);
        for told in told {
            match told {
                Told::Event(op) => self.metrics.feed_event(self.feed, op),
                Told::DeadLetter => self.metrics.dead_letter(self.feed.name(), "misfit"),
            }
        }
        Ok(())
    }

    async fn commit(&self, records: Vec<Outgoing>) -> Result<(), PublishFault> {
        let mut pause = PAUSE;
        loop {
            let count = records.len();
            // The position carries no meaning of its own: offsets in a transaction are what makes the broker check
            // that the group's generation is still ours.
            let position = Position { lease: self.lease, offset: 0, metadata: String::new() };
            let batch = Batch { group: self.group.clone(), positions: vec![position], records: records.clone() };
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
                Err(CommitFault::Aborted(reason)) => {
                    done("aborted");
                    tracing::warn!(feed.name = self.feed.name(), error = %reason, pause_ms = pause.as_millis(), "transaction aborted, the same batch again");
                    if self.cancel.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                        return Err(PublishFault::NotOwner);
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}
