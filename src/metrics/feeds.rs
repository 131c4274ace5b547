//! What the change pipeline counts.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{metrics::family::Family, registry::Registry};

use crate::config::Feed;

use super::{Feeds, MAX_DRIFT_FIELDS, Metrics, Name, add, event_seconds, histograms, late_seconds};

/// What a feed may be doing.
const STATES: [&str; 7] =
    ["elsewhere", "restoring", "snapshot", "live", "waiting", "blocked", "paused"];

impl Feeds {
    pub(super) fn new(r: &mut Registry) -> Self {
        Self {
            events: add(r, Name::FeedEvents, Family::default()),
            event_seconds: histograms(r, Name::FeedEventLatency, event_seconds),
            state: add(r, Name::FeedState, Family::default()),
            progress: add(r, Name::FeedProgress, Family::default()),
            windows: add(r, Name::FeedWindows, Family::default()),
            rows: add(r, Name::FeedRows, Family::default()),
            pages: add(r, Name::FeedPages, Family::default()),
            lag: add(r, Name::FeedLagSeconds, Family::default()),
            entered: add(r, Name::FeedClosedWindowChanges, Family::default()),
            incomplete: add(r, Name::FeedIncompleteReads, Family::default()),
            unproven: add(r, Name::FeedUnprovenWindows, Family::default()),
            not_shown: add(r, Name::FeedRowsNotShown, Family::default()),
            too_late: add(r, Name::FeedRowsTooLate, Family::default()),
            late_rows: add(r, Name::FeedLateRows, Family::default()),
            late_seconds: histograms(r, Name::FeedLateRowDelay, late_seconds),
            older: add(r, Name::FeedOutOfOrderRows, Family::default()),
            drift: add(r, Name::FeedSchemaDrift, Family::default()),
            drift_fields: Mutex::default(),
        }
    }
}

impl Metrics {
    /// One change event was committed; `op` is `r`, `c` or `u`.
    pub(crate) fn feed_event(&self, feed: Feed, op: &'static str) {
        self.feeds.events.get_or_create(&[("feed", feed.name()), ("op", op)]).inc();
    }

    /// How long after its modified time a change was published, outside of a first read and a
    /// backfill.
    pub(crate) fn feed_event_seconds(&self, feed: Feed, took: Duration) {
        self.feeds
            .event_seconds
            .get_or_create(&[("feed", feed.name())])
            .observe(took.as_secs_f64());
    }

    /// Gauge: the state a feed is in.
    pub(crate) fn feed_state(&self, feed: Feed, state: &'static str) {
        for known in STATES {
            self.feeds
                .state
                .get_or_create(&[("feed", feed.name()), ("state", known)])
                .set(if state == known { 1.0 } else { 0.0 });
        }
    }

    /// Gauge: how far the first read (`snapshot`) or a `backfill` is, 0 to 1; 1 when there is none.
    pub(crate) fn feed_progress(&self, feed: Feed, what: &'static str, ratio: f64) {
        self.feeds.progress.get_or_create(&[("feed", feed.name()), ("what", what)]).set(ratio);
    }

    /// One window was read: rows seen, rows unchanged, pages asked for.
    pub(crate) fn feed_window(
        &self,
        feed: Feed,
        pass: &'static str,
        rows: u64,
        unchanged: u64,
        pages: u32,
    ) {
        let (feed, pass) = (("feed", feed.name()), ("pass", pass));
        self.feeds.windows.get_or_create(&[feed, pass]).inc();
        self.feeds.rows.get_or_create(&[feed, pass, ("content", "unchanged")]).inc_by(unchanged);
        self.feeds
            .rows
            .get_or_create(&[feed, pass, ("content", "changed")])
            .inc_by(rows.saturating_sub(unchanged));
        self.feeds.pages.get_or_create(&[feed, pass]).inc_by(u64::from(pages));
    }

    /// Gauge: how far the watermark of a pass (`live`, `late`) is behind now; `None` for a feed
    /// that runs elsewhere.
    pub(crate) fn feed_lag(&self, feed: &'static str, pass: &'static str, lag: Option<Duration>) {
        let labels = [("feed", feed), ("pass", pass)];
        match lag {
            Some(lag) => {
                self.feeds.lag.get_or_create(&labels).set(lag.as_secs_f64());
            }
            None => {
                self.feeds.lag.remove(&labels);
            }
        }
    }

    /// The count alarm of a window: something entered a closed window (visibility is
    /// underestimated).
    pub(crate) fn feed_entered(&self, feed: Feed) {
        self.feeds.entered.get_or_create(&[("feed", feed.name())]).inc();
    }

    /// The pages of a read show fewer records than the ERP counted.
    pub(crate) fn feed_incomplete(&self, feed: Feed) {
        self.feeds.incomplete.get_or_create(&[("feed", feed.name())]).inc();
    }

    /// Gauge: windows that were passed although no read of them proved to be complete.
    pub(crate) fn feed_unproven(&self, feed: Feed, windows: usize) {
        self.feeds.unproven.get_or_create(&[("feed", feed.name())]).set(windows as f64);
    }

    /// Records that the ERP counts and does not show to this account.
    pub(crate) fn feed_not_shown(&self, feed: Feed, rows: u64) {
        self.feeds.not_shown.get_or_create(&[("feed", feed.name())]).inc_by(rows);
    }

    /// Records that entered a window which both passes had read.
    pub(crate) fn feed_too_late(&self, feed: Feed, rows: u64) {
        self.feeds.too_late.get_or_create(&[("feed", feed.name())]).inc_by(rows);
    }

    /// A row the first pass missed and the late pass published, and how late it was.
    pub(crate) fn feed_late_row(&self, feed: Feed, late: Duration) {
        self.feeds.late_rows.get_or_create(&[("feed", feed.name())]).inc();
        self.feeds.late_seconds.get_or_create(&[("feed", feed.name())]).observe(late.as_secs_f64());
    }

    /// A modified time older than the state's was `confirmed` by number, `skipped`, or `deferred`
    /// since the question was not answered.
    pub(crate) fn feed_older(&self, feed: Feed, result: &'static str) {
        self.feeds.older.get_or_create(&[("feed", feed.name()), ("result", result)]).inc();
    }

    /// A field that deviates from the schema: `unknown`, `retyped` or `missing`.
    ///
    /// The field's name is the ERP's word: after the first 200 names the rest count as `other`, so
    /// that memory stays bounded.
    pub(crate) fn drift(&self, feed: Feed, kind: &'static str, field: &str) {
        let field = {
            let mut known = self.feeds.drift_fields.lock().unwrap_or_else(PoisonError::into_inner);
            let short: String = field.chars().filter(|ch| !ch.is_control()).take(100).collect();
            if known.contains(&short)
                || (known.len() < MAX_DRIFT_FIELDS && known.insert(short.clone()))
            {
                short
            } else {
                "other".to_owned()
            }
        };
        let labels =
            vec![("feed", feed.name().to_owned()), ("kind", kind.to_owned()), ("field", field)];
        self.feeds.drift.get_or_create(&labels).inc();
    }
}
