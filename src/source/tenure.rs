//! One feed between a takeover and the end of its lease: whose turn it is, and window ▶ fetch of
//! that turn.
//!
//! The live pass goes first whenever it is due; late pass and backfill read one window at a time in
//! between, so what was asked for later was also published later.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::Instrument as _;

use crate::{
    board::Pulse,
    clock::{Moment, Timestamp, millis},
    config::{FeedSettings, duration_text},
    crash::{self, Point},
    erp::{Class, Page, PageRequest, QueryFault, Selection},
    kafka::control::Controls,
    metrics::Hop,
};

use super::{
    change::{Scribe, call_of},
    feed::{BEAT, FeedTask, Stop, beating},
    fetch::{Ask, FetchFault, Gathered, Rules, gather},
    known::Known,
    obey::Woken,
    pass::{Counts, Reading},
    publish::Publisher,
    query,
    reader::Reader,
    status::{FeedPhase, Progress, late_advice, missed_advice, progress},
    story::fetched,
    stretch::{Stretch, Turned},
    window::{Cursor, ErpClock, Limits, Pace, Pass, TooFar, Window, closes_at},
};

/// An unchanged watermark is written at least this often. In between it only lives in memory:
/// losing it means that windows are read again, and since state travels with its events nothing of
/// them is published again. So an idle feed costs Kafka one small transaction in five minutes
/// instead of one a poll.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(300);

/// The position of a backfill is written at least this often while it moves.
const BACKFILL_EVERY: Duration = Duration::from_secs(1);

/// Pauses after a failed window: 0.5 s, doubled each time up to this (or the poll interval, where
/// that is shorter).
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How often progress is logged.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What a pass does next.
enum Turn {
    /// A window was published.
    Moved { caught_up: bool },
    /// The window has to be chosen anew: too large, or not closed yet by the ERP's clock.
    Again,
    /// It failed; not before this pause.
    Failed(Duration),
}

/// Where this process began, for the estimates.
struct Began {
    at: Instant,
    position: Timestamp,
    rows: u64,
}

impl Began {
    fn progress(&self, from: Timestamp, to: Timestamp, position: Timestamp) -> Progress {
        progress(from, to, position, self.position, self.rows, self.at.elapsed())
    }
}

/// Asks like its reader, and recognises what was published.
struct Knowing<'a> {
    reader: &'a mut Reader,
    known: &'a Known,
}

impl Ask for Knowing<'_> {
    async fn ask(&mut self, selection: &Selection, page: PageRequest) -> Result<Page, QueryFault> {
        self.reader.ask(selection, page).await
    }

    fn entered(&mut self, distinct: u64, count: u64) {
        self.reader.entered(distinct, count);
    }

    fn knows(&self, id: &str, hash: &[u8; 16]) -> bool {
        self.known.holds(id, hash)
    }
}

/// When a pass is due, how long its windows are, how often it failed in a row.
struct Schedule {
    due: Instant,
    pace: Pace,
    failures: u32,
}

impl Schedule {
    fn new(settings: &FeedSettings) -> Self {
        Self { due: Instant::now(), pace: Pace::new(settings.max_pages_per_window), failures: 0 }
    }
}

/// One feed between a takeover and the end of its lease.
pub(super) struct Tenure<'a> {
    pub task: &'a FeedTask,
    pub settings: &'a FeedSettings,
    pub scribe: Scribe,
    pub publisher: Publisher,
    pub(super) pulse: &'a Pulse,
    /// Stands where everything before it has been published.
    pub cursor: Cursor,
    pub(super) controls: Controls,
    /// By an operator.
    pub(super) paused: bool,
    saved: Instant,
    /// The stored checkpoint lacks more than a moved watermark.
    unsaved: bool,
    pub(super) clock: ErpClock,
    /// When the ERP's clock was last seen not to lie behind the watermark.
    clock_seen: Option<Moment>,
    /// The ERP's clock lies further behind the watermark than the feed follows it.
    too_far: bool,
    live: Schedule,
    late: Schedule,
    backfill: Schedule,
    stretch: Stretch,
    first_read: Began,
    backfilling: Began,
    /// When progress was logged last.
    told: Option<Instant>,
    /// What was published last, as far as it was seen lately.
    pub(super) known: Known,
    /// Deviating fields that were logged already.
    pub drift: HashSet<(String, &'static str)>,
}

impl<'a> Tenure<'a> {
    /// Begins where `cursor` stands; `unsaved` when that is more than the stored checkpoint says.
    pub(super) fn new(
        task: &'a FeedTask,
        pulse: &'a Pulse,
        scribe: Scribe,
        cursor: Cursor,
        unsaved: bool,
    ) -> Self {
        let settings = task.settings();
        let at = cursor.checkpoint();
        let publisher = Publisher {
            feed: task.feed,
            group: task.group.clone(),
            transactor: task.transactor.clone(),
            lease: task.lease,
            store: task.store.clone(),
            metrics: Arc::clone(&task.parts.metrics),
            cancel: task.cancel.clone(),
        };
        let clock = ErpClock::default();
        let limits = Limits::at(Timestamp::now(), &clock, settings);
        task.status.feed(task.feed, |status| {
            status.state = if at.snapshot { FeedPhase::Snapshot } else { FeedPhase::Live };
            status.stand(&cursor, limits);
        });
        task.status.ready();
        let began = |position| Began { at: Instant::now(), position, rows: 0 };
        let (first_read, backfilling) =
            (began(at.watermark), began(at.backfill_position.unwrap_or_default()));
        let schedule = || Schedule::new(settings);
        Self {
            task,
            settings,
            scribe,
            publisher,
            pulse,
            cursor,
            controls: task.parts.controls.clone(),
            paused: false,
            saved: Instant::now(),
            unsaved,
            clock,
            clock_seen: None,
            too_far: false,
            live: schedule(),
            late: schedule(),
            backfill: schedule(),
            stretch: Stretch::new(settings.poll_interval),
            first_read,
            backfilling,
            told: None,
            known: Known::default(),
            drift: HashSet::new(),
        }
    }

    fn schedule(&mut self, pass: Pass) -> &mut Schedule {
        match pass {
            Pass::Live => &mut self.live,
            Pass::Late => &mut self.late,
            Pass::Backfill => &mut self.backfill,
        }
    }

    fn interval(&self, pass: Pass) -> Duration {
        match pass {
            Pass::Live => self.stretch.interval(),
            Pass::Backfill => self.settings.poll_interval,
            Pass::Late => self.settings.late_pass.interval,
        }
    }

    /// One window of the most urgent pass that is due, or a sleep until one is.
    pub(super) async fn turn(&mut self) -> Result<(), Stop> {
        self.pulse.beat();
        self.obey().await?;
        if self.held().await? {
            return Ok(());
        }
        self.follow_the_erps_clock().await?;
        let began = Instant::now();
        for pass in [Pass::Live, Pass::Late, Pass::Backfill] {
            let interval = self.interval(pass);
            if self.schedule(pass).due > began {
                continue;
            }
            let limits = self.limits();
            let pace = self.schedule(pass).pace;
            if let Some(lag) = self.cursor.lag(pass, limits.now) {
                self.task.parts.metrics.feed_lag(self.task.feed, pass.name(), lag);
            }
            let glance = || {
                self.cursor.glance(limits, self.settings.start_at).filter(|_| pass == Pass::Live)
            };
            let Some(window) = self.cursor.next(pass, limits, &pace).or_else(glance) else {
                self.schedule(pass).due = began + interval;
                continue;
            };
            let turn = self.pass(pass, window, limits).await?;
            // As it is now: the quota may have been short.
            let interval = self.interval(pass);
            let schedule = self.schedule(pass);
            match turn {
                Turn::Moved { caught_up } => {
                    schedule.failures = 0;
                    schedule.due = if caught_up { began + interval } else { began };
                }
                Turn::Again => {}
                Turn::Failed(pause) => {
                    schedule.failures = schedule.failures.saturating_add(1);
                    schedule.due = Instant::now() + pause;
                }
            }
            return Ok(());
        }
        let due =
            self.live.due.min(self.late.due).min(self.backfill.due).min(Instant::now() + BEAT);
        match self.wait(due.saturating_duration_since(Instant::now())).await? {
            Woken::Due | Woken::Decided => Ok(()),
        }
    }

    /// Goes back with the ERP's clock where somebody set it behind the watermark; what was
    /// published is not published again.
    async fn follow_the_erps_clock(&mut self) -> Result<(), Stop> {
        let (feed, edition) = (self.task.feed, self.settings.edition);
        let limits = self.limits();
        let Some(erp) = self.task.parts.erp.clock_now(edition) else { return Ok(()) };
        let unseen = self.clock_seen.map_or(Duration::ZERO, |seen| seen.until(Moment::now()));
        match self.cursor.behind(erp.at_most, unseen, limits, self.settings.start_at) {
            None => (self.clock_seen, self.too_far) = (Some(erp.asked), false),
            Some(Ok(next)) => {
                self.too_far = false;
                let (before, after) =
                    (self.cursor.checkpoint().watermark, next.checkpoint().watermark);
                tracing::warn!(
                    feed = feed.name(),
                    previous_watermark = %before,
                    watermark = %after,
                    "ERP clock was set back behind the watermark; reading the time between again"
                );
                self.save(next).await?;
                self.due_now();
                let cursor = &self.cursor;
                self.task.status.feed(feed, |status| status.stand(cursor, limits));
            }
            Some(Err(TooFar(back))) if !std::mem::replace(&mut self.too_far, true) => {
                tracing::error!(
                    feed = feed.name(),
                    erp.clock_behind_s = back.as_secs(),
                    "ERP clock is too far behind the watermark; feed waits. Correct the clock, \
                     or run `wdt-connector feeds set-watermark`"
                );
            }
            Some(Err(TooFar(_))) => {}
        }
        Ok(())
    }

    /// Every pass looks at once.
    pub(super) fn due_now(&mut self) {
        let now = Instant::now();
        (self.live.due, self.late.due, self.backfill.due) = (now, now, now);
    }

    /// A backfill was ordered or called off: its pace and its estimate begin anew.
    pub(super) fn backfill_begins(&mut self) {
        let position = self.cursor.checkpoint().backfill_position;
        self.backfill = Schedule::new(self.settings);
        self.backfilling =
            Began { at: Instant::now(), position: position.unwrap_or_default(), rows: 0 };
        if position.is_none() {
            self.task.status.feed(self.task.feed, |status| status.backfill = None);
        }
    }

    /// Reads one window and publishes what is new in it.
    async fn pass(&mut self, pass: Pass, window: Window, limits: Limits) -> Result<Turn, Stop> {
        let feed = self.task.feed;
        let pace = self.schedule(pass).pace;
        let rules = Rules {
            call: call_of(feed, self.settings.edition),
            page_size: query::page_size(feed, self.settings),
            budget: Some(pace.budget()),
            splittable: window.splittable(),
            // Where unsafe timing is allowed a lag may be shorter than the visibility; then it is
            // what can be asked for.
            closes_at: Some(closes_at(
                window,
                self.settings
                    .max_visibility_lag
                    .min(self.settings.safety_lag)
                    .min(self.settings.late_pass.lag),
            )),
        };
        let queries = query::of_window(feed, self.settings, window);
        crash::point(Point::WindowChosen);
        let mut reader = self.reader(pass);
        let mut knowing = Knowing { reader: &mut reader, known: &self.known };
        let began = Instant::now();
        let span = tracing::info_span!(
            "window",
            feed = feed.name(),
            pass = pass.name(),
            window.start = %window.start,
            window.end = %window.end
        );
        let fetch = tracing::info_span!(parent: &span, "fetch");
        let fetching = beating(self.pulse, gather(&mut knowing, &queries, rules)).instrument(fetch);
        let gathered = self.task.cancel.run_until_cancelled(fetching).await;
        self.note(&reader);
        if pass == Pass::Live {
            self.adapt(reader.waited());
        }
        let metrics = &self.task.parts.metrics;
        metrics.hop(Hop::Window(feed), pass.name());
        if let Some(gathered) = &gathered {
            metrics.hop(Hop::Fetch(feed), fetched(gathered));
            metrics.hop_seconds(Hop::Fetch(feed), began.elapsed());
        }
        match gathered {
            None => Err(Stop::Over),
            Some(Err(fault)) => Ok(Turn::Failed(self.failed(pass, window, &fault))),
            Some(Ok(Gathered::TooEarly)) => {
                tracing::info!(
                    feed = feed.name(),
                    erp.clock_skew_ms = self.clock.skew_ms(),
                    "ERP clock is behind the window's end; choosing the window again"
                );
                // The clock has been read by now, so the next choice differs; no faster than the
                // ERP's own second.
                let pause = Duration::from_millis(250).min(self.settings.poll_interval);
                Ok(Turn::Failed(pause))
            }
            Some(Ok(Gathered::TooLarge { pages })) => {
                tracing::debug!(
                    feed = feed.name(),
                    pass = pass.name(),
                    window.length_s = window.seconds(),
                    pages,
                    "window exceeds its page budget; shortening it"
                );
                self.schedule(pass).pace.too_large(window, pages);
                Ok(Turn::Again)
            }
            Some(Ok(Gathered::Split)) => {
                self.schedule(pass).pace.split(window);
                Ok(Turn::Again)
            }
            Some(Ok(Gathered::Rows { rows, known, pages, calls })) => {
                crash::point(Point::WindowFetched);
                let count = rows.len() + known;
                let mut reading = Reading {
                    pass,
                    window,
                    limits,
                    rows: count,
                    next: self.cursor.after(pass, window, limits),
                };
                let publish = tracing::info_span!(parent: &span, "publish", rows = count);
                match self.publish(rows, known, &mut reading).instrument(publish).await? {
                    Ok(counts) => {
                        self.task.parts.metrics.feed_window(
                            feed,
                            pass.name(),
                            count,
                            counts.unchanged,
                            calls as usize,
                        );
                        self.schedule(pass).pace.read(window, pages);
                        Ok(self.moved(reading, counts))
                    }
                    Err(fault) => Ok(Turn::Failed(self.failed(pass, window, &fault))),
                }
            }
        }
    }

    /// Reads on behalf of a pass.
    pub(super) fn reader(&self, pass: Pass) -> Reader {
        let class = match pass {
            Pass::Live => Class::Feed,
            Pass::Late => Class::LatePass,
            Pass::Backfill => Class::Backfill,
        };
        let parts = &self.task.parts;
        let call = call_of(self.task.feed, self.settings.edition);
        Reader::new(
            parts.erp.clone(),
            Arc::clone(&parts.metrics),
            self.task.feed,
            call,
            class,
            self.clock,
        )
    }

    /// Keeps what a reader learnt.
    pub(super) fn note(&mut self, reader: &Reader) {
        self.clock = reader.clock();
        let (calls, skew) = (reader.calls(), self.clock.skew_ms());
        self.task.status.feed(self.task.feed, |status| {
            status.calls += calls;
            status.clock_skew_ms = skew;
        });
    }

    /// Polls less often while the quota is short, and says so.
    fn adapt(&mut self, waited: Duration) {
        let turned = self.stretch.after(waited);
        let (feed, configured, now) =
            (self.task.feed, self.settings.poll_interval, self.stretch.interval());
        let (quota_wait_ms, poll_interval_ms) = (millis(waited), millis(now));
        let (waited, every) = (rounded(waited), duration_text(rounded(now)));
        let why = self.stretch.is_stretched().then(|| {
            format!(
                "a read waited {} for the ERP's quota, so the feed polls every {every} instead of {}",
                duration_text(waited),
                duration_text(configured)
            )
        });
        match turned {
            Turned::Short => tracing::warn!(
                feed = feed.name(),
                quota.wait_ms = quota_wait_ms,
                poll_interval_ms,
                "quota is short; feed polls less often"
            ),
            Turned::Relaxed => tracing::info!(
                feed = feed.name(),
                quota.wait_ms = quota_wait_ms,
                poll_interval_ms,
                "quota is sufficient again; feed polls at its configured interval"
            ),
            Turned::Nothing => {}
        }
        self.task.status.feed(feed, |status| {
            status.poll_interval_ms = Some(poll_interval_ms);
            status.poll_interval_reason = why;
        });
    }

    /// Whether the checkpoint must be written though nothing was published.
    pub(super) fn must_save(&self, next: &Cursor) -> bool {
        let (now, then) = (self.cursor.checkpoint(), next.checkpoint());
        self.unsaved
            || self.saved.elapsed() >= CHECKPOINT_EVERY
            || now.snapshot != then.snapshot
            // Whoever ordered it follows it there; and its windows are worth not being read again.
            || now.backfill_position.is_some() != then.backfill_position.is_some()
            || now.backfill_position != then.backfill_position && self.saved.elapsed() >= BACKFILL_EVERY
    }

    /// Called with every checkpoint that was committed.
    pub(super) fn is_saved(&mut self) {
        self.saved = Instant::now();
        self.unsaved = false;
    }

    /// Says what was published, and what follows from it for a person.
    pub(super) fn told_of(&self, pass: Pass, counts: &Counts) {
        let feed = self.task.feed;
        self.task.status.feed(feed, |status| {
            status.events += counts.events as u64;
            status.dead_letters += counts.dead_letters as u64;
            status.latest_late_row_ms =
                status.latest_late_row_ms.max(counts.latest_late_row.map(millis));
            if let Some(late) = counts.latest_late_row {
                status.advice = Some(late_advice(feed, late));
            } else if pass == Pass::Backfill && counts.missed > 0 {
                status.advice = Some(missed_advice(feed, counts.missed));
            }
        });
    }

    fn moved(&mut self, reading: Reading, counts: Counts) -> Turn {
        let Reading { pass, window, limits, rows, next } = reading;
        self.told_of(pass, &counts);
        let caught_up = match pass {
            Pass::Live => window.end >= limits.live,
            Pass::Late => window.end >= limits.late.min(next.checkpoint().watermark),
            Pass::Backfill => next.checkpoint().backfill_position.is_none(),
        };
        let was_snapshot = self.cursor.checkpoint().snapshot;
        self.cursor = next;
        let at = self.cursor.checkpoint().clone();
        let feed = self.task.feed;
        let start = self.settings.start_at;
        match pass {
            Pass::Live => self.first_read.rows += rows as u64,
            Pass::Late => {}
            Pass::Backfill => self.backfilling.rows += rows as u64,
        }
        let first_read =
            at.snapshot.then(|| self.first_read.progress(start, limits.live, at.watermark));
        let backfill = at
            .backfill_from
            .zip(at.backfill_to)
            .zip(at.backfill_position)
            .map(|((from, to), position)| self.backfilling.progress(from, to, position));
        self.tell(first_read.as_ref().or(backfill.as_ref()));
        self.task.status.feed(feed, |status| {
            status.window(window);
            status.stand(&self.cursor, limits);
            status.rows += rows as u64;
            status.unchanged += counts.unchanged as u64;
            status.state = if at.snapshot { FeedPhase::Snapshot } else { FeedPhase::Live };
            status.progress = first_read;
            status.backfill = backfill;
        });
        if pass == Pass::Backfill && caught_up {
            let (rows, events) = (at.backfill_rows.unwrap_or(0), at.backfill_events.unwrap_or(0));
            tracing::info!(feed = feed.name(), rows, events, "backfill finished");
        }
        if was_snapshot && !at.snapshot {
            tracing::info!(
                feed = feed.name(),
                watermark = %at.watermark,
                "snapshot finished; feed is live"
            );
        }
        Turn::Moved { caught_up }
    }

    /// Logs how far the past has been read, at most every few seconds.
    fn tell(&mut self, progress: Option<&Progress>) {
        let Some(progress) = progress else { return };
        if self.told.is_some_and(|told| told.elapsed() < TELL_EVERY) {
            return;
        }
        self.told = Some(Instant::now());
        tracing::info!(
            feed = self.task.feed.name(),
            progress.position,
            progress.percent,
            progress.rows_per_s = progress.rows_per_second,
            progress.remaining_s = progress.remaining_seconds,
            "snapshot or backfill in progress"
        );
    }

    /// Says what is wrong, and how long to wait before the same window again.
    fn failed(&mut self, pass: Pass, window: Window, fault: &FetchFault) -> Duration {
        let poll = self.settings.poll_interval.max(Duration::from_secs(1)).min(LONGEST_PAUSE);
        let failures = self.schedule(pass).failures.min(16);
        let growing = (Duration::from_millis(500) * 2_u32.saturating_pow(failures)).min(poll);
        let (phase, pause) = match fault {
            FetchFault::Query(
                QueryFault::Throttled { .. }
                | QueryFault::Unreachable { .. }
                | QueryFault::Unusable { .. },
            ) => (FeedPhase::Waiting, growing),
            FetchFault::Query(QueryFault::Misconfigured { .. }) => (FeedPhase::Blocked, poll),
            FetchFault::Query(QueryFault::Rejected { .. }) | FetchFault::PagingIgnored { .. } => {
                (FeedPhase::Blocked, poll * 5)
            }
        };
        tracing::warn!(
            feed = self.task.feed.name(),
            pass = pass.name(),
            window.start = %window.start,
            window.end = %window.end,
            retry_after_ms = millis(pause),
            error = %fault,
            "window read failed; retrying"
        );
        self.task.status.feed(self.task.feed, |status| {
            status.state = phase;
            status.error = Some(fault.to_string());
        });
        pause
    }
}

/// For people: whole seconds, where there are any.
fn rounded(span: Duration) -> Duration {
    if span < Duration::from_secs(1) {
        Duration::from_millis(millis(span))
    } else {
        Duration::from_secs(span.as_secs())
    }
}
