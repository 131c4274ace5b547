//! A tenure and what an operator decided: paused or running, a backfill asked for, a watermark set.

use std::time::Duration;

use serde_json::Value;

use crate::clock::Timestamp;

use super::{
    feed::{BEAT, Stop, beating},
    order::{BackfillOrder, WatermarkOrder},
    query,
    status::FeedPhase,
    tenure::Tenure,
    window::{Cursor, Limits},
};

/// What an idle wait ended with.
pub(super) enum Woken {
    Due,
    Decided,
}

impl Tenure<'_> {
    /// Carries out what was ordered and has not been yet; each becomes durable before anything is
    /// read by it.
    pub(super) async fn obey(&mut self) -> Result<(), Stop> {
        let feed = self.task.feed;
        let decisions = self.task.parts.controls.now();
        if let Some(order) = WatermarkOrder::of(&decisions, feed) {
            let limits = self.limits();
            if let Some(next) = self.cursor.set(&order, limits) {
                let (before, after) =
                    (self.cursor.checkpoint().watermark, next.checkpoint().watermark);
                tracing::warn!(
                    feed = feed.name(),
                    request.id = order.id,
                    previous_watermark = %before,
                    watermark = %after,
                    "watermark set by an operator; the time between is read again or skipped"
                );
                self.save(next).await?;
                self.moved_elsewhere();
                let cursor = &self.cursor;
                self.task.status.feed(feed, |status| status.stand(cursor));
            }
        }
        if let Some(order) = BackfillOrder::of(&decisions, feed)
            && let Some(next) = self.cursor.ordered(&order)
        {
            let next = if query::shipped_queries(feed, self.settings) > 0 {
                self.shipped.measure_anew();
                next.beginning_at_shipping_days()
            } else {
                next
            };
            let (from, to) = (order.from, order.to);
            if order.cancelled {
                tracing::info!(
                    feed = feed.name(),
                    request.id = order.id,
                    backfill.from = %from,
                    backfill.to = %to,
                    "backfill cancelled by an operator"
                );
            } else {
                tracing::info!(
                    feed = feed.name(),
                    request.id = order.id,
                    backfill.from = %from,
                    backfill.to = %to,
                    "backfill requested by an operator"
                );
            }
            self.save(next).await?;
            self.backfill_begins();
        }
        Ok(())
    }

    /// Whether the feed is paused; then this has waited for a while, or for another decision.
    pub(super) async fn held(&mut self) -> Result<bool, Stop> {
        let feed = self.task.feed;
        match self.task.parts.controls.pause_of(feed.name()) {
            None => {
                if std::mem::take(&mut self.paused) {
                    tracing::info!(feed = feed.name(), "feed resumed by an operator");
                    self.due_now();
                    let snapshot = self.cursor.checkpoint().snapshot;
                    self.task.status.feed(feed, |status| {
                        status.state = if snapshot { FeedPhase::Snapshot } else { FeedPhase::Live };
                        status.error = None;
                    });
                }
                Ok(false)
            }
            Some(decision) => {
                if !std::mem::replace(&mut self.paused, true) {
                    let sentence = paused_sentence(&decision);
                    tracing::info!(
                        feed = feed.name(),
                        reason = %sentence,
                        "feed paused by an operator"
                    );
                    self.task.status.feed(feed, |status| {
                        status.state = FeedPhase::Paused;
                        status.error = Some(sentence);
                    });
                    // Nothing is asked in a pause; both begin anew after it.
                    (self.both_ways, self.entered) = (None, None);
                }
                self.wait(BEAT).await?;
                Ok(true)
            }
        }
    }

    /// Sleeps, at most until another decision.
    pub(super) async fn wait(&mut self, span: Duration) -> Result<Woken, Stop> {
        let decided = self.controls.changed();
        let waiting = async {
            tokio::select! {
                () = tokio::time::sleep(span) => Woken::Due,
                () = decided => Woken::Decided,
            }
        };
        self.task.cancel.run_until_cancelled(waiting).await.ok_or(Stop::Over)
    }

    /// Does something that has its own timeouts; `None`: an operator decided something meanwhile.
    pub(super) async fn undecided<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<Option<T>, Stop> {
        // On the heap: it would be part of every future around it.
        let (work, decided) = (Box::pin(work), self.controls.changed());
        let working = async {
            tokio::select! {
                done = work => Some(done),
                () = decided => None,
            }
        };
        let working = beating(self.pulse, working);
        self.task.cancel.run_until_cancelled(working).await.ok_or(Stop::Over)
    }

    /// The limits as of now.
    pub(super) fn limits(&self) -> Limits {
        Limits::at(Timestamp::now(), &self.erp_time(), self.settings)
    }

    /// Makes a new cursor durable before it is used.
    pub(super) async fn save(&mut self, next: Cursor) -> Result<(), Stop> {
        let checkpoint = self.scribe.checkpoint(next.checkpoint())?.into();
        self.publisher.publish(&[], Some(&checkpoint)).await?;
        self.cursor = next;
        self.is_saved();
        Ok(())
    }
}

fn paused_sentence(decision: &Value) -> String {
    let word = |name: &str| decision.get(name).and_then(Value::as_str);
    let by = word("by").map(|by| format!(" by {by}")).unwrap_or_default();
    let at = word("at").map(|at| format!(" at {at}")).unwrap_or_default();
    format!("paused{by}{at}; wdt-connector feeds resume ends it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_names_who_and_when_as_far_as_it_is_known() {
        let sentence = paused_sentence(
            &serde_json::json!({"state": "paused", "by": "ann", "at": "2026-01-01T00:00:00Z"}),
        );
        assert!(sentence.starts_with("paused by ann at 2026-01-01T00:00:00Z; "), "{sentence}");
        assert!(paused_sentence(&serde_json::json!({"state": "paused"})).starts_with("paused; "));
    }
}
