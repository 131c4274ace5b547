//! What the feeds say about themselves: section `feeds` of `/status`, and readiness.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::Serialize;

use crate::{
    board::Board,
    clock::{Timestamp, millis},
    config::Feed,
    metrics::Metrics,
    schema::UnprovenWindow,
};

use super::window::{Cursor, Pass, Window};

/// What a feed is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FeedPhase {
    /// Not enabled here, or owned by another instance.
    Elsewhere,
    Restoring,
    Snapshot,
    Live,
    /// The ERP does not answer; the window is tried again.
    Waiting,
    /// The ERP refuses the account or the query: a person must act.
    Blocked,
    /// An operator paused it for all instances.
    Paused,
}

impl FeedPhase {
    /// The word for metrics and the status.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Elsewhere => "elsewhere",
            Self::Restoring => "restoring",
            Self::Snapshot => "snapshot",
            Self::Live => "live",
            Self::Waiting => "waiting",
            Self::Blocked => "blocked",
            Self::Paused => "paused",
        }
    }
}

/// How far the first read is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Progress {
    pub from: String,
    pub to: String,
    pub position: String,
    pub percent: f64,
    pub rows_per_second: f64,
    /// Until the end, were time to go on as densely as so far; `None` before anything was read.
    pub remaining_seconds: Option<u64>,
}

/// A window that no read has proven to be complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Unproven {
    pub from: String,
    pub to: String,
    /// When it was passed.
    pub since: String,
}

/// One feed's part of the section; instants are RFC 3339.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FeedStatus {
    pub state: FeedPhase,
    /// No instance is assigned it, in a stable consumer group or one whose rebalance does not end.
    pub unowned: bool,
    /// Where live and late pass stand.
    #[serde(skip)]
    stands: Option<[Timestamp; 2]>,
    pub watermark: Option<String>,
    pub late_watermark: Option<String>,
    pub lag_ms: Option<u64>,
    /// The same for the late pass.
    pub late_lag_ms: Option<u64>,
    /// What the windows of shipped enterprise orders go over: `modified`, `consign_time`, or
    /// `unknown`, which is read as `consign_time`.
    pub shipped_window_rule: Option<&'static str>,
    /// When that was measured last.
    pub shipped_window_rule_measured_at: Option<String>,
    /// When the last complete reads of shipping days began.
    pub shipped_recent_at: Option<String>,
    pub shipped_older_at: Option<String>,
    pub last_window: Option<[String; 2]>,
    pub windows: u64,
    pub rows: u64,
    pub unchanged: u64,
    pub events: u64,
    pub dead_letters: u64,
    pub calls: u64,
    /// In force now; more than configured while the quota is short.
    pub poll_interval_ms: Option<u64>,
    /// Why the feed polls less often than configured.
    pub poll_interval_reason: Option<String>,
    pub progress: Option<Progress>,
    pub backfill: Option<Progress>,
    /// (ERP's clock − ours).
    pub clock_skew_ms: Option<i64>,
    /// Windows that were passed and are read again until a read proves to be complete.
    pub unproven: Vec<Unproven>,
    /// Records that the ERP counted and did not show to this account, since the start.
    pub rows_not_shown: u64,
    /// Records that entered windows which both passes had read, since the start.
    pub rows_too_late: u64,
    /// What to do where the ERP shows fewer statuses without `status` than with all of them.
    pub status_default: Option<String>,
    /// The latest a row was found that the first pass had missed.
    pub latest_late_row_ms: Option<u64>,
    pub advice: Option<String>,
    pub error: Option<String>,
}

impl FeedStatus {
    fn new() -> Self {
        Self {
            state: FeedPhase::Elsewhere,
            unowned: false,
            stands: None,
            watermark: None,
            late_watermark: None,
            lag_ms: None,
            late_lag_ms: None,
            shipped_window_rule: None,
            shipped_window_rule_measured_at: None,
            shipped_recent_at: None,
            shipped_older_at: None,
            last_window: None,
            windows: 0,
            rows: 0,
            unchanged: 0,
            events: 0,
            dead_letters: 0,
            calls: 0,
            poll_interval_ms: None,
            poll_interval_reason: None,
            progress: None,
            backfill: None,
            clock_skew_ms: None,
            unproven: Vec::new(),
            rows_not_shown: 0,
            rows_too_late: 0,
            status_default: None,
            latest_late_row_ms: None,
            advice: None,
            error: None,
        }
    }

    /// Notes where the passes stand.
    pub(crate) fn stand(&mut self, cursor: &Cursor) {
        let at = cursor.checkpoint();
        self.stands = Some([at.watermark, at.late_watermark]);
        self.shipped_recent_at = at.shipped_recent_at.map(|at| at.to_string());
        self.shipped_older_at = at.shipped_older_at.map(|at| at.to_string());
    }

    /// Measures how far the passes are behind `now`; gives it for the live and the late one.
    fn measure(&mut self, now: Timestamp) -> [Option<Duration>; 2] {
        [self.watermark, self.late_watermark] = match self.stands {
            Some(stands) => stands.map(|at| Some(at.to_string())),
            None => [None, None],
        };
        let lags = match self.stands {
            Some(stands) => stands.map(|at| Some(lag(now, at))),
            None => [None, None],
        };
        [self.lag_ms, self.late_lag_ms] = lags.map(|lag| lag.map(millis));
        lags
    }

    /// Notes a window that was published.
    pub(crate) fn window(&mut self, window: Window) {
        self.windows += 1;
        self.last_window = Some([window.start.to_string(), window.end.to_string()]);
    }

    /// Notes the windows that are read again.
    pub(crate) fn unproven(&mut self, listed: &[UnprovenWindow]) {
        self.unproven = listed
            .iter()
            .map(|listed| Unproven {
                from: listed.from.to_string(),
                to: listed.to.to_string(),
                since: listed.since.to_string(),
            })
            .collect();
    }
}

/// How far a watermark is behind now, by this machine's clock: for `/status`, the metrics and the
/// operator's tools alike.
#[must_use]
pub(crate) fn lag(now: Timestamp, watermark: Timestamp) -> Duration {
    watermark.until(now)
}

/// What to do when the late pass found what the first one had missed.
#[must_use]
pub(crate) fn late_advice(feed: Feed, late: Duration) -> String {
    format!(
        "the ERP showed a record up to {} s after its modified time: raise feeds.{}.safety_lag to that, and keep late_pass.lag well above it",
        late.as_secs(),
        feed.name()
    )
}

/// What to do when a backfill found what both passes had missed.
#[must_use]
pub(crate) fn missed_advice(feed: Feed, missed: usize) -> String {
    format!(
        "a backfill found {missed} records that both passes had missed: the ERP shows records later than the late pass looks, so raise feeds.{}.late_pass.lag",
        feed.name()
    )
}

/// How far from `from` to `to`, after `rows` rows in `spent`, begun at `began`.
#[must_use]
pub(crate) fn progress(
    from: Timestamp,
    to: Timestamp,
    position: Timestamp,
    began: Timestamp,
    rows: u64,
    spent: Duration,
) -> Progress {
    let whole = (to.0 - from.0).max(1) as f64;
    let gone = (position.0 - began.0).max(0) as f64;
    let seconds = spent.as_secs_f64().max(0.001);
    let remaining = (gone > 0.0).then(|| seconds * (to.0 - position.0).max(0) as f64 / gone);
    Progress {
        from: from.to_string(),
        to: to.to_string(),
        position: position.to_string(),
        percent: ((position.0 - from.0) as f64 / whole * 1000.0).round().clamp(0.0, 1000.0) / 10.0,
        rows_per_second: (rows as f64 / seconds * 10.0).round() / 10.0,
        remaining_seconds: remaining
            .map(|seconds| Duration::from_secs_f64(seconds.min(1e12)).as_secs()),
    }
}

/// Every feed's status and what follows from them for the board; shared by the pipeline and its
/// feeds.
#[derive(Clone, Debug)]
pub(crate) struct StatusBoard {
    board: Board,
    metrics: Arc<Metrics>,
    feeds: Arc<Mutex<BTreeMap<&'static str, FeedStatus>>>,
    joined: Arc<AtomicBool>,
}

/// Why the feeds are not ready between two assignments.
const NOT_JOINED: &str = "the instance is not a member of the feeds' consumer group now";

impl StatusBoard {
    /// A section with every enabled feed, none of them owned.
    #[must_use]
    pub(crate) fn new(board: Board, metrics: Arc<Metrics>, feeds: &[Feed]) -> Self {
        let feeds = feeds.iter().map(|feed| (feed.name(), FeedStatus::new())).collect();
        let (feeds, joined) = (Arc::new(Mutex::new(feeds)), Arc::default());
        let this = Self { board, metrics, feeds, joined };
        this.board.ready("feeds", Err(NOT_JOINED.to_owned()));
        let (feeds, metrics) = (Arc::clone(&this.feeds), Arc::clone(&this.metrics));
        this.board.make("feeds", move || section(&feeds, &metrics));
        this
    }

    /// Changes one feed's status.
    pub(crate) fn feed(&self, feed: Feed, change: impl FnOnce(&mut FeedStatus)) {
        let mut feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(status) = feeds.get_mut(feed.name()) else { return };
        change(status);
        if status.state == FeedPhase::Elsewhere {
            // Where it stands now only its owner knows.
            status.stands = None;
        }
        self.metrics.feed_state(feed, status.state.name());
        for (what, progress) in [("snapshot", &status.progress), ("backfill", &status.backfill)] {
            self.metrics.feed_progress(
                feed,
                what,
                progress.as_ref().map_or(1.0, |progress| progress.percent / 100.0),
            );
        }
    }

    /// Called when the set of owned feeds or what is restored of it changes: ready unless one is
    /// being restored. An ERP that is down leaves a feed ready.
    pub(crate) fn ready(&self) {
        if !self.joined.load(Ordering::Relaxed) {
            self.board.ready("feeds", Err(NOT_JOINED.to_owned()));
            return;
        }
        let (restoring, owned): (Vec<&str>, usize) = {
            let feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
            let restoring = feeds
                .iter()
                .filter(|(_, status)| status.state == FeedPhase::Restoring)
                .map(|(name, _)| *name)
                .collect();
            (
                restoring,
                feeds.values().filter(|status| status.state != FeedPhase::Elsewhere).count(),
            )
        };
        self.metrics.partitions("feeds", owned - restoring.len(), restoring.len());
        let state = if restoring.is_empty() {
            Ok(())
        } else {
            Err(format!("the state of {} is being restored", restoring.join(", ")))
        };
        self.board.ready("feeds", state);
    }

    /// Which feeds no instance is assigned: by their partitions.
    pub(crate) fn unowned(&self, partitions: &BTreeSet<i32>) {
        self.metrics.partitions_unowned("feeds", partitions.len());
        for feed in Feed::ALL {
            let unowned = partitions.contains(&feed.partition());
            self.feed(feed, |status| status.unowned = unowned);
        }
    }

    /// Whether the instance is a member of the feeds' group now.
    pub(crate) fn joined(&self, joined: bool) {
        self.joined.store(joined, Ordering::Relaxed);
        self.ready();
    }

    /// Whether some feed has read a window.
    pub(crate) fn moved(&self) -> bool {
        let feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        feeds.values().any(|status| status.windows > 0)
    }
}

/// The section as of now; the gauges of what it measures are set with it.
fn section(
    feeds: &Mutex<BTreeMap<&'static str, FeedStatus>>,
    metrics: &Metrics,
) -> serde_json::Value {
    let now = Timestamp::now();
    let mut feeds = feeds.lock().unwrap_or_else(PoisonError::into_inner);
    for (feed, status) in feeds.iter_mut() {
        let [live, late] = status.measure(now);
        metrics.feed_lag(feed, Pass::Live.name(), live);
        metrics.feed_lag(feed, Pass::Late.name(), late);
    }
    serde_json::to_value(&*feeds).unwrap_or_else(|error| {
        tracing::error!(%error, "failed to show the feeds' status");
        serde_json::Value::Null
    })
}
