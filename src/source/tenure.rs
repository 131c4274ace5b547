//! One feed between a takeover and the end of its lease: whose turn it is, and window ▶ fetch of
//! that turn.
//!
//! A turn is one page. The live pass goes first when it is due, the others read a page at a time
//! in between, and a pass that was passed over too often goes first all the same ([`Turns`]). What a
//! pass has read is published before another pass asks for anything, so what was asked for later was
//! also published later.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::{
    background,
    board::Pulse,
    clock::{Moment, Timestamp, millis},
    config::{FeedSettings, duration_text},
    crash::{self, Point},
    erp::{Class, ErpTime, QueryFault},
    kafka::control::Controls,
    metrics::Hop,
    schema::UnprovenWindow,
};

use super::{
    both_ways,
    change::{Scribe, call_of},
    entered,
    feed::{BEAT, FeedTask, Stop},
    fetch::{Ended, FetchFault, Rules, Step, WindowRead},
    obey::Woken,
    page_size::PageSize,
    pass::{Counts, OpenRead},
    publish::Publisher,
    query,
    reader::Reader,
    remedy::{Remedy, asked_elsewhere, remedy},
    retries::Retries,
    rounds::Shipped,
    status::{FeedPhase, Progress, late_advice, missed_advice, progress},
    story,
    stretch::{Stretch, Turned},
    turns::Turns,
    window::{Cursor, Pace, Pass, TooFar, Window, closes_at, window_of},
};

/// The position of a backfill is written at least this often while it moves.
const BACKFILL_EVERY: Duration = Duration::from_secs(1);

/// Pauses after a failed window: 0.5 s, doubled each time up to this (or the poll interval, where
/// that is shorter).
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How often progress is logged.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What a pass does next.
enum Turn {
    /// It goes on with the window it reads.
    Open,
    /// The window was published.
    Moved { caught_up: bool },
    /// The window has to be chosen anew, after this pause.
    Anew(Duration),
    /// The page failed; it is asked for again after this pause.
    Failed(Duration),
}

/// An answer, or why there is none.
enum Asked {
    Answered(Result<crate::erp::Page, QueryFault>),
    /// An operator decided something meanwhile.
    Decided,
}

/// What is known of answers without records. One without a count may be the ERP's usual form, or
/// that of an outage: windows that it ends are listed until it comes again later, and always where
/// the ERP counts its empty answers otherwise.
#[derive(Debug, Default)]
struct Empties {
    counted: bool,
    confirmed: bool,
}

impl Empties {
    fn believable(&self, read: &WindowRead) -> bool {
        self.confirmed && !self.counted && !read.counted_empty()
    }
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

/// When a pass is due, how long its windows are, what it reads now.
struct Schedule {
    due: Instant,
    pace: Pace,
    open: Option<OpenRead>,
    /// Failures in a row, for the pauses between them.
    failures: u32,
    /// Why it does not come on.
    trouble: Option<(FeedPhase, String)>,
}

impl Schedule {
    fn new(pace: Pace) -> Self {
        Self { due: Instant::now(), pace, open: None, failures: 0, trouble: None }
    }

    /// A page was read: the ERP is there.
    fn answered(&mut self) {
        self.failures = 0;
        if matches!(self.trouble, Some((FeedPhase::Waiting, _))) {
            self.trouble = None;
        }
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
    pub(super) unsaved: bool,
    /// When the ERP's clock was last seen not to lie behind the watermark.
    clock_seen: Option<Moment>,
    /// What it showed at least, and when that was.
    clock_shown: Option<(Moment, Timestamp)>,
    /// The ERP's clock lies further behind the watermark than the feed follows it.
    too_far: bool,
    live: Schedule,
    late: Schedule,
    rounds: Schedule,
    backfill: Schedule,
    unproven: Schedule,
    turns: Turns,
    pub(super) shipped: Shipped,
    retries: Retries,
    empties: Empties,
    pub(super) page_size: PageSize,
    stretch: Stretch,
    first_read: Began,
    backfilling: Began,
    /// When progress was logged last.
    told: Option<Instant>,
    /// Counts beside the passes: once per takeover, and again and again.
    pub(super) both_ways: Option<AbortOnDropHandle<()>>,
    pub(super) entered: Option<AbortOnDropHandle<()>>,
    /// Records that the account may not see were told of.
    not_shown_told: bool,
    /// Deviating fields that were logged already.
    pub drift: HashSet<(String, &'static str)>,
}

impl<'a> Tenure<'a> {
    /// Begins where `cursor` stands.
    pub(super) fn new(
        task: &'a FeedTask,
        pulse: &'a Pulse,
        scribe: Scribe,
        cursor: Cursor,
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
        task.status.feed(task.feed, |status| {
            status.state = if at.snapshot { FeedPhase::Snapshot } else { FeedPhase::Live };
            status.stand(&cursor);
            status.shipped_window_rule = None;
            status.shipped_window_rule_measured_at = None;
        });
        task.status.ready();
        let began = |position| Began { at: Instant::now(), position, rows: 0 };
        let (first_read, backfilling) =
            (began(at.watermark), began(at.backfill_position.unwrap_or_default()));
        let budget = query::page_budget(task.feed, settings);
        let schedule = || Schedule::new(Pace::new(budget));
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
            unsaved: false,
            clock_seen: None,
            clock_shown: None,
            too_far: false,
            live: schedule(),
            late: schedule(),
            rounds: Schedule::new(Pace::long(budget)),
            backfill: schedule(),
            unproven: schedule(),
            turns: Turns::default(),
            shipped: Shipped::new(task.feed, settings),
            retries: Retries::new(settings.poll_interval),
            empties: Empties::default(),
            page_size: PageSize::new(query::page_size(task.feed, settings)),
            stretch: Stretch::new(settings.poll_interval),
            first_read,
            backfilling,
            told: None,
            both_ways: None,
            entered: None,
            not_shown_told: false,
            drift: HashSet::new(),
        }
    }

    fn schedule(&mut self, pass: Pass) -> &mut Schedule {
        match pass {
            Pass::Live => &mut self.live,
            Pass::Late => &mut self.late,
            Pass::Shipped => &mut self.rounds,
            Pass::Backfill => &mut self.backfill,
            Pass::Unproven => &mut self.unproven,
        }
    }

    fn interval(&self, pass: Pass) -> Duration {
        match pass {
            Pass::Live => self.stretch.interval(),
            Pass::Backfill | Pass::Unproven => self.settings.poll_interval,
            Pass::Late => self.settings.late_pass.interval,
            // How often it looks whether a round is due, which costs nothing.
            Pass::Shipped => self.settings.shipped_pass.interval.min(BEAT),
        }
    }

    /// One page of the pass whose turn it is, or a sleep until one is due.
    pub(super) async fn turn(&mut self) -> Result<(), Stop> {
        self.pulse.beat();
        self.obey().await?;
        if self.held().await? {
            return Ok(());
        }
        self.follow_the_erps_clock().await?;
        let began = Instant::now();
        for pass in self.turns.order() {
            if !self.waits(pass, began) {
                continue;
            }
            self.turns.went(pass);
            if pass == Pass::Shipped && self.measurement_is_due(began) {
                return self.measure_window_rule().await;
            }
            let open = match self.schedule(pass).open.take() {
                Some(open) => open,
                None => match self.choose(pass, began) {
                    Some(open) => open,
                    None => continue,
                },
            };
            for other in Pass::ALL {
                let waiting = self.waits(other, began);
                if other != pass {
                    self.turns.pass_over(other, waiting);
                }
            }
            self.flush_others(pass).await?;
            return self.step(open, began).await;
        }
        let due = Pass::ALL.map(|pass| self.schedule(pass).due).into_iter().min().unwrap_or(began);
        let due = due.min(Instant::now() + BEAT);
        match self.wait(due.saturating_duration_since(Instant::now())).await? {
            Woken::Due | Woken::Decided => Ok(()),
        }
    }

    /// Whether a pass could have this turn.
    fn waits(&mut self, pass: Pass, began: Instant) -> bool {
        self.schedule(pass).due <= began && !self.waits_for_the_snapshot(pass)
    }

    /// The end of the first read holds a batch back, since only the last event says that it is the
    /// last; nothing may overtake it.
    fn waits_for_the_snapshot(&self, pass: Pass) -> bool {
        pass != Pass::Live && self.live.open.as_ref().is_some_and(|open| open.holds_back())
    }

    /// Begins the next window of a pass; `None`: there is none now.
    fn choose(&mut self, pass: Pass, began: Instant) -> Option<OpenRead> {
        let (limits, interval) = (self.limits(), self.interval(pass));
        let pace = self.schedule(pass).pace;
        let window = match pass {
            Pass::Live => self
                .cursor
                .next(pass, limits, &pace)
                .or_else(|| self.cursor.glance(limits, self.cursor.checkpoint().start_at)),
            Pass::Shipped => self.round_window(limits, &pace),
            Pass::Backfill => {
                self.skip_shipping_days();
                self.cursor.next(pass, limits, &pace)
            }
            Pass::Late => self.cursor.next(pass, limits, &pace),
            Pass::Unproven => self.retries.due(self.cursor.unproven(), began),
        };
        let Some(window) = window else {
            self.schedule(pass).due = began + interval;
            return None;
        };
        crash::point(Point::WindowChosen);
        let feed = self.task.feed;
        self.task.parts.metrics.hop(Hop::Window(feed), pass.name());
        let whole = pass == Pass::Unproven;
        let rules = Rules {
            call: call_of(feed, self.settings.edition),
            page_size: self.page_size.now(),
            longest_page: self.page_size.longest(),
            budget: (!whole).then(|| pace.budget()),
            splittable: !whole && window.splittable(),
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
        let span = tracing::info_span!(
            "window",
            feed = feed.name(),
            pass = pass.name(),
            window.start = %window.start,
            window.end = %window.end
        );
        let listed = self.cursor.unproven().iter().find(|listed| window_of(listed) == window);
        let (queries, since) = match pass {
            Pass::Shipped => (
                query::of_shipped(feed, self.settings, window),
                Some(self.cursor.checkpoint().start_at),
            ),
            Pass::Backfill if self.cursor.in_shipping_days() => (
                query::of_shipped(feed, self.settings, window),
                self.cursor.checkpoint().backfill_from,
            ),
            Pass::Unproven => (
                query::of_window(feed, self.settings, window),
                listed.and_then(|listed| listed.records_since),
            ),
            Pass::Live | Pass::Late | Pass::Backfill => {
                (query::of_window(feed, self.settings, window), None)
            }
        };
        let read = WindowRead::new(queries, rules);
        let ends_snapshot = self.cursor.checkpoint().snapshot
            && !self.cursor.after(pass, window, limits).checkpoint().snapshot;
        let snapshot = match pass {
            Pass::Backfill => true,
            Pass::Live | Pass::Late | Pass::Shipped => self.cursor.checkpoint().snapshot,
            Pass::Unproven => listed.is_some_and(|listed| listed.snapshot),
        };
        let mut open = OpenRead::new(pass, window, limits, read, span, ends_snapshot, snapshot);
        open.since = since;
        Some(open)
    }

    /// One page of a window, and what follows from it for its pass.
    async fn step(&mut self, mut open: OpenRead, began: Instant) -> Result<(), Stop> {
        let pass = open.pass;
        let turn = self.advance(&mut open).await?;
        // As it is now: the quota may have been short.
        let interval = self.interval(pass);
        let now = Instant::now();
        let schedule = self.schedule(pass);
        match turn {
            Turn::Open => schedule.open = Some(open),
            Turn::Moved { caught_up } => {
                (schedule.failures, schedule.trouble) = (0, None);
                schedule.due = if caught_up { began + interval } else { began };
            }
            Turn::Anew(pause) => schedule.due = now + pause,
            Turn::Failed(pause) => {
                schedule.open = Some(open);
                schedule.due = now + pause;
            }
        }
        self.show();
        Ok(())
    }

    async fn advance(&mut self, open: &mut OpenRead) -> Result<Turn, Stop> {
        if open.wants_a_page() {
            let page = match self.ask(open).await? {
                Asked::Decided => return Ok(Turn::Open),
                Asked::Answered(Ok(page)) => page,
                Asked::Answered(Err(fault)) => return self.failed(open, fault.into()).await,
            };
            match open.read.consume(page) {
                Err(fault) => return self.failed(open, fault).await,
                Ok((rows, step)) => {
                    open.failures = 0;
                    self.schedule(open.pass).answered();
                    open.shown(rows);
                    match step {
                        Step::More => {}
                        Step::Again(shortfall) => self.reader(open.pass).fell_short(shortfall),
                        Step::Ended(ended) => open.ended = Some(ended),
                    }
                }
            }
        }
        // Interrupted by a decision: the rows that are left are compared in the next turn.
        if !self.publish(open).await? {
            return Ok(Turn::Open);
        }
        match open.ended.take() {
            None => Ok(Turn::Open),
            Some(ended) => self.ended(open, ended).await,
        }
    }

    /// Asks for a window's next page.
    async fn ask(&mut self, open: &mut OpenRead) -> Result<Asked, Stop> {
        let Some((selection, request)) = open.read.request() else {
            return Err(Stop::TakeOver("a window without queries was read".to_owned()));
        };
        let mut reader = self.reader(open.pass);
        let began = Instant::now();
        let fetch = tracing::info_span!(parent: &open.span, "fetch", page.number = request.page_no);
        // The live pass waits for the answer: what may never be answered gets one attempt.
        let once = open.pass == Pass::Unproven;
        let asking = async {
            if once {
                reader.once(selection, request).await
            } else {
                reader.ask(selection, request).await
            }
        };
        let asked = self.undecided(asking.instrument(fetch)).await?;
        open.fetching += began.elapsed();
        open.waited += reader.waited();
        self.note(&reader);
        Ok(asked.map_or(Asked::Decided, Asked::Answered))
    }

    /// A window was read, or has to be chosen anew.
    async fn ended(&mut self, open: &mut OpenRead, ended: Ended) -> Result<Turn, Stop> {
        let (feed, pass, window) = (self.task.feed, open.pass, open.window);
        self.page_size.seen(&open.read);
        let metrics = &self.task.parts.metrics;
        metrics.hop(Hop::Fetch(feed), story::ended(ended));
        metrics.hop_seconds(Hop::Fetch(feed), open.fetching);
        if pass == Pass::Live {
            self.adapt(open.waited);
        }
        // The same form, a poll interval later.
        self.empties.confirmed |= pass == Pass::Unproven && open.read.uncounted();
        match ended {
            Ended::TooEarly => {
                tracing::info!(
                    feed = feed.name(),
                    erp.clock_skew_ms = self.erp_time().skew_ms,
                    "ERP clock is behind the window's end; choosing the window again"
                );
                self.give_up(open).await?;
                if pass == Pass::Unproven {
                    self.retries.failed(window);
                }
                // The clock has been read by now, so the next choice differs; no faster than the
                // ERP's own second.
                Ok(Turn::Anew(Duration::from_millis(250).min(self.settings.poll_interval)))
            }
            Ended::TooLarge { pages } => {
                tracing::debug!(
                    feed = feed.name(),
                    pass = pass.name(),
                    window.length_s = window.seconds(),
                    pages,
                    "window exceeds its page budget; shortening it"
                );
                self.give_up(open).await?;
                self.schedule(pass).pace.too_large(window, pages);
                Ok(Turn::Anew(Duration::ZERO))
            }
            Ended::Split => {
                tracing::info!(
                    feed = feed.name(),
                    pass = pass.name(),
                    window.length_s = window.seconds(),
                    "two reads contradict the ERP's counts; halving the window"
                );
                self.give_up(open).await?;
                self.schedule(pass).pace.halve(window);
                Ok(Turn::Anew(Duration::ZERO))
            }
            Ended::Unproven(_) if pass == Pass::Unproven => {
                self.give_up(open).await?;
                self.retries.failed(window);
                Ok(Turn::Anew(Duration::ZERO))
            }
            Ended::Complete if open.read.uncounted() && !self.empties.believable(&open.read) => {
                if pass == Pass::Unproven {
                    self.give_up(open).await?;
                    self.retries.failed(window);
                    return Ok(Turn::Anew(Duration::ZERO));
                }
                tracing::warn!(
                    feed = feed.name(),
                    pass = pass.name(),
                    window.start = %window.start,
                    window.end = %window.end,
                    "empty answers came without a count; the window is read again later"
                );
                let next = self.reached(open, window);
                self.pass_unproven(open, next, window).await
            }
            Ended::Complete => {
                self.empties.counted |= open.read.counted_empty();
                let next = self.reached(open, window);
                self.finish(open, next).await
            }
            Ended::Unproven(shortfall) => {
                tracing::error!(
                    feed = feed.name(),
                    pass = pass.name(),
                    window.start = %window.start,
                    window.end = %window.end,
                    rows = shortfall.shown,
                    erp.total = shortfall.counted,
                    "no read of this second shows what the ERP counts; it is read again later"
                );
                let next = self.reached(open, window);
                self.pass_unproven(open, next, window).await
            }
        }
    }

    /// Where the passes stand once a window has been published.
    fn reached(&self, open: &mut OpenRead, window: Window) -> Cursor {
        open.reached = window.end;
        let next = self.cursor.after(open.pass, window, open.limits);
        match self.shipped.round {
            Some(round) if open.pass == Pass::Shipped && window.end >= round.to => {
                next.after_round(round)
            }
            Some(_) | None => next,
        }
    }

    /// Puts a window on the list of those that are read again, and goes on behind it.
    async fn pass_unproven(
        &mut self,
        open: &mut OpenRead,
        next: Cursor,
        window: Window,
    ) -> Result<Turn, Stop> {
        // It may become part of a longer one, of shipping days.
        let since = self.cursor.checkpoint().start_at.min(window.start);
        open.doubts.push((window, open.since.or(Some(since))));
        self.finish(open, next).await
    }

    /// Publishes what is left of a window, with the checkpoint.
    async fn finish(&mut self, open: &mut OpenRead, next: Cursor) -> Result<Turn, Stop> {
        let mut next = next;
        for (window, records_since) in std::mem::take(&mut open.doubts) {
            // One that is listed again has been passed before.
            let passed = self.cursor.unproven().iter().find(|listed| window_of(listed) == window);
            let listed = UnprovenWindow {
                from: window.start,
                to: window.end,
                since: passed.map_or_else(Timestamp::now, |passed| passed.since),
                snapshot: open.snapshot,
                records_since,
            };
            match next.listed(listed) {
                Some(more) => next = more,
                None => {
                    self.give_up(open).await?;
                    let pause = self.longest_pause() * 5;
                    let why = "more stretches of time could not be read than the feed lists; \
                               see the unproven windows in /status and mend the ERP's answers";
                    self.schedule(open.pass).trouble = Some((FeedPhase::Blocked, why.to_owned()));
                    return Ok(Turn::Anew(pause));
                }
            }
        }
        crash::point(Point::WindowFetched);
        let next = self.publish_last(open, next).await?;
        let feed = self.task.feed;
        self.page_size.accepted(feed, &open.read);
        self.tell_not_shown(open.read.not_shown());
        self.task.parts.metrics.feed_window(
            feed,
            open.pass.name(),
            open.read.records(),
            open.unchanged(),
            open.read.calls(),
        );
        self.schedule(open.pass).pace.read(open.window, open.read.pages());
        if open.pass == Pass::Unproven && listed(&next, open.window) {
            self.retries.failed(open.window);
        }
        Ok(self.moved(open, next))
    }

    /// Records that the ERP counts and does not show: the account may not see them.
    fn tell_not_shown(&mut self, rows: u64) {
        if rows == 0 {
            return;
        }
        let feed = self.task.feed;
        self.task.parts.metrics.feed_not_shown(feed, rows);
        self.task.status.feed(feed, |status| status.rows_not_shown += rows);
        if !std::mem::replace(&mut self.not_shown_told, true) {
            tracing::warn!(
                feed = feed.name(),
                rows,
                "ERP counts records that it does not show: the account may not see them \
                 (仓库权限). They are not published; grant the permission and run a backfill"
            );
        }
    }

    /// Drops a window that is chosen anew; what was read of it and is new is published all the
    /// same.
    pub(super) async fn give_up(&mut self, open: &mut OpenRead) -> Result<(), Stop> {
        if !open.ends_snapshot {
            self.flush(open).await?;
        }
        self.told_of(open.pass, &open.counts);
        if open.pass == Pass::Backfill {
            self.cursor = self.cursor.clone().counted(0, open.counts.events);
        }
        Ok(())
    }

    /// Publishes what the other passes have read: what this one reads is newer.
    async fn flush_others(&mut self, pass: Pass) -> Result<(), Stop> {
        for other in Pass::ALL {
            if other != pass
                && let Some(mut open) = self.schedule(other).open.take()
            {
                let flushed = self.flush(&mut open).await;
                self.schedule(other).open = Some(open);
                flushed?;
            }
        }
        Ok(())
    }

    /// What the feed is doing, by the most urgent pass that does not come on.
    fn show(&mut self) {
        let trouble = Pass::ALL.into_iter().find_map(|pass| self.schedule(pass).trouble.clone());
        let snapshot = self.cursor.checkpoint().snapshot;
        let unproven = self.cursor.unproven();
        self.task.parts.metrics.feed_unproven(self.task.feed, unproven.len());
        self.task.status.feed(self.task.feed, |status| {
            (status.state, status.error) = match trouble {
                Some((phase, error)) => (phase, Some(error)),
                None if snapshot => (FeedPhase::Snapshot, None),
                None => (FeedPhase::Live, None),
            };
            status.unproven(unproven);
        });
    }

    /// Goes back with the ERP's clock where somebody set it behind the watermark; what was
    /// published is not published again.
    async fn follow_the_erps_clock(&mut self) -> Result<(), Stop> {
        let feed = self.task.feed;
        let (limits, time) = (self.limits(), self.erp_time());
        let Some(erp) = time.latest else { return Ok(()) };
        // Nobody has looked since the watermark was written where the feed has just begun.
        let unseen = self.clock_seen.map_or_else(
            || self.cursor.checkpoint().watermark.until(Timestamp::now()),
            |seen| seen.until(Moment::now()),
        );
        // Set back while nobody looked, it may have come to the watermark again by itself. What the
        // late pass reads once more needs nothing.
        let now = Moment::now();
        let shown = time.at_least.map(|least| (now, least));
        let before = std::mem::replace(&mut self.clock_shown, shown);
        let set_back = before.is_some_and(|(at, least)| {
            erp.at_most.until(least.plus(at.until(now))) > self.settings.late_pass.lag / 2
        });
        let start = self.cursor.checkpoint().start_at;
        match self.cursor.behind(erp.at_most, unseen, limits, start, set_back) {
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
                self.moved_elsewhere();
                let cursor = &self.cursor;
                self.task.status.feed(feed, |status| status.stand(cursor));
            }
            Some(Err(TooFar(back))) if !std::mem::replace(&mut self.too_far, true) => {
                tracing::error!(
                    feed = feed.name(),
                    erp.clock_behind_s = back.as_secs(),
                    "ERP clock was set back further than the feed follows it. Correct the clock, \
                     or run `wdt-connector feeds set-watermark`"
                );
            }
            Some(Err(TooFar(_))) => {}
        }
        Ok(())
    }

    /// A pass has nothing to read any more: what it had shown is published, its trouble is over.
    pub(super) async fn end_pass(&mut self, pass: Pass) -> Result<(), Stop> {
        if let Some(mut open) = self.schedule(pass).open.take() {
            self.give_up(&mut open).await?;
        }
        let schedule = self.schedule(pass);
        (schedule.failures, schedule.trouble, schedule.due) = (0, None, Instant::now());
        Ok(())
    }

    /// Every pass looks at once.
    pub(super) fn due_now(&mut self) {
        let now = Instant::now();
        for pass in Pass::ALL {
            self.schedule(pass).due = now;
        }
    }

    /// The passes stand elsewhere: windows that were chosen by another checkpoint are not read on.
    pub(super) fn moved_elsewhere(&mut self) {
        for pass in Pass::ALL {
            self.schedule(pass).open = None;
        }
        self.shipped.round = None;
        // What enters a window that was counted may be what is read again.
        self.entered = None;
        self.due_now();
    }

    /// A backfill was ordered or called off: its pace and its estimate begin anew.
    pub(super) fn backfill_begins(&mut self) {
        let position = self.cursor.checkpoint().backfill_position;
        let budget = query::page_budget(self.task.feed, self.settings);
        self.backfill = Schedule::new(Pace::new(budget));
        self.backfilling =
            Began { at: Instant::now(), position: position.unwrap_or_default(), rows: 0 };
        // Its first window may take long.
        let progress = self.backfill_progress();
        self.task.status.feed(self.task.feed, |status| status.backfill = progress);
    }

    /// How far an ordered backfill is.
    pub(super) fn backfill_progress(&self) -> Option<Progress> {
        let at = self.cursor.checkpoint();
        let ((from, to), position) =
            at.backfill_from.zip(at.backfill_to).zip(at.backfill_position)?;
        Some(self.backfilling.progress(from, to, position))
    }

    /// Reads on behalf of a pass.
    pub(super) fn reader(&self, pass: Pass) -> Reader {
        let class = match pass {
            Pass::Live => Class::Feed,
            Pass::Late | Pass::Shipped => Class::LatePass,
            Pass::Backfill | Pass::Unproven => Class::Backfill,
        };
        let parts = &self.task.parts;
        let call = call_of(self.task.feed, self.settings.edition);
        Reader::new(parts.erp.clone(), Arc::clone(&parts.metrics), self.task.feed, call, class)
    }

    /// The ERP's clock as it stands now.
    pub(super) fn erp_time(&self) -> ErpTime {
        self.task.parts.erp.clock(self.settings.edition)
    }

    /// Tells the status page what a reader did.
    pub(super) fn note(&self, reader: &Reader) {
        let (calls, skew) = (reader.calls(), self.erp_time().skew_ms);
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
        // What the operator's tools read there is as true as `/status`.
        self.unsaved
            || now.watermark != then.watermark
            || now.late_watermark != then.late_watermark
            || now.snapshot != then.snapshot
            || now.unproven != then.unproven
            || now.shipped_recent_at != then.shipped_recent_at
            || now.shipped_older_at != then.shipped_older_at
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
    fn told_of(&self, pass: Pass, counts: &Counts) {
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

    fn moved(&mut self, open: &OpenRead, next: Cursor) -> Turn {
        let (pass, window, limits) = (open.pass, open.window, open.limits);
        self.told_of(pass, &open.counts);
        let caught_up = match pass {
            Pass::Live => window.end >= limits.live,
            Pass::Late => window.end >= limits.late.min(next.checkpoint().watermark),
            Pass::Shipped => self.round_moved(open),
            Pass::Backfill => next.checkpoint().backfill_position.is_none(),
            Pass::Unproven => next.unproven().is_empty(),
        };
        let was_snapshot = self.cursor.checkpoint().snapshot;
        self.cursor = next;
        let at = self.cursor.checkpoint().clone();
        let feed = self.task.feed;
        let start = at.start_at;
        let records = open.read.records();
        match pass {
            Pass::Live => self.first_read.rows += records,
            Pass::Late | Pass::Shipped | Pass::Unproven => {}
            Pass::Backfill => self.backfilling.rows += records,
        }
        let first_read =
            at.snapshot.then(|| self.first_read.progress(start, limits.live, at.watermark));
        let backfill = self.backfill_progress();
        self.tell(first_read.as_ref().or(backfill.as_ref()));
        self.task.status.feed(feed, |status| {
            status.window(window);
            status.stand(&self.cursor);
            status.rows += records;
            status.unchanged += open.unchanged();
            status.progress = first_read;
            status.backfill = backfill;
        });
        match pass {
            Pass::Backfill if caught_up => {
                let (rows, events) =
                    (at.backfill_rows.unwrap_or(0), at.backfill_events.unwrap_or(0));
                tracing::info!(feed = feed.name(), rows, events, "backfill finished");
            }
            Pass::Unproven if !listed(&self.cursor, window) => tracing::info!(
                feed = feed.name(),
                window.start = %window.start,
                window.end = %window.end,
                events = open.counts.events,
                "unproven window read again, completely"
            ),
            Pass::Live | Pass::Late | Pass::Shipped | Pass::Backfill | Pass::Unproven => {}
        }
        if pass == Pass::Late {
            self.measure();
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

    /// Measures what reading does not show, beside it and after a late window: a feed that has just
    /// begun has more urgent calls to make.
    fn measure(&mut self) {
        let (feed, end) = (self.task.feed, self.cursor.checkpoint().late_watermark);
        let (settings, status) = (self.settings, &self.task.status);
        if self.both_ways.is_none() && both_ways::applies(feed, settings) {
            let reader = self.reader(Pass::Late);
            let look = both_ways::look(feed, settings.clone(), reader, end, status.clone());
            self.both_ways = Some(AbortOnDropHandle::new(background::task(look)));
        }
        if self.entered.as_ref().is_none_or(AbortOnDropHandle::is_finished)
            && let Some(window) = entered::window(settings, end)
        {
            let (reader, metrics) = (self.reader(Pass::Late), Arc::clone(&self.task.parts.metrics));
            let look =
                entered::look(feed, settings.clone(), reader, window, metrics, status.clone());
            self.entered = Some(AbortOnDropHandle::new(background::task(look)));
        }
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

    pub(super) fn longest_pause(&self) -> Duration {
        self.settings.poll_interval.max(Duration::from_secs(1)).min(LONGEST_PAUSE)
    }

    /// A page failed: says what is wrong, and decides what is asked for next.
    async fn failed(&mut self, open: &mut OpenRead, fault: FetchFault) -> Result<Turn, Stop> {
        let (feed, pass, window) = (self.task.feed, open.pass, open.window);
        self.task.parts.metrics.hop(Hop::Fetch(feed), story::failed(&fault));
        open.failures = open.failures.saturating_add(1);
        let failures = self.schedule(pass).failures;
        self.schedule(pass).failures = failures.saturating_add(1);
        let longest = self.longest_pause();
        let growing =
            (Duration::from_millis(500) * 2_u32.saturating_pow(failures.min(16))).min(longest);
        let warn = |pause: Duration| {
            tracing::warn!(
                feed = feed.name(),
                pass = pass.name(),
                window.start = %window.start,
                window.end = %window.end,
                retry_after_ms = millis(pause),
                error = %fault,
                "window read failed; retrying"
            );
        };
        if pass == Pass::Unproven {
            warn(growing);
            if matches!(fault, FetchFault::Query(QueryFault::TooLong { .. })) {
                self.page_size.halve();
            }
            self.give_up(open).await?;
            self.retries.failed(window);
            return Ok(Turn::Anew(growing));
        }
        let mut next = remedy(&fault, open.failures);
        if next == Remedy::AskElsewhere {
            next = match self.answers_elsewhere(open).await? {
                Some(answered) => asked_elsewhere(&fault, answered),
                None => Remedy::Wait,
            };
        }
        if next == Remedy::SmallerPages && !self.page_size.halve() {
            next = Remedy::Shorten;
        }
        let too_wide = matches!(fault, FetchFault::Query(QueryFault::TooWide { .. }));
        if next == Remedy::Shorten && too_wide && !window.splittable() {
            next = Remedy::Person { anew: true };
        }
        let trouble = |this: &mut Self, phase| {
            this.schedule(pass).trouble = Some((phase, fault.to_string()));
        };
        match next {
            Remedy::Wait | Remedy::AskElsewhere => {
                warn(growing);
                trouble(self, FeedPhase::Waiting);
                Ok(Turn::Failed(growing))
            }
            Remedy::Person { anew } => {
                let pause = if anew { longest * 5 } else { longest };
                warn(pause);
                trouble(self, FeedPhase::Blocked);
                if anew {
                    self.give_up(open).await?;
                    return Ok(Turn::Anew(pause));
                }
                Ok(Turn::Failed(pause))
            }
            Remedy::SmallerPages => {
                tracing::warn!(
                    feed = feed.name(),
                    pass = pass.name(),
                    page.size = self.page_size.now(),
                    error = %fault,
                    "answer is too long; asking for fewer rows a page"
                );
                self.give_up(open).await?;
                Ok(Turn::Anew(Duration::ZERO))
            }
            Remedy::Shorten if window.splittable() => {
                tracing::warn!(
                    feed = feed.name(),
                    pass = pass.name(),
                    window.start = %window.start,
                    window.end = %window.end,
                    error = %fault,
                    "window cannot be read; halving it"
                );
                self.give_up(open).await?;
                self.schedule(pass).pace.halve(window);
                Ok(Turn::Anew(Duration::ZERO))
            }
            Remedy::Shorten => {
                tracing::error!(
                    feed = feed.name(),
                    pass = pass.name(),
                    window.start = %window.start,
                    window.end = %window.end,
                    error = %fault,
                    "this second cannot be read although the ERP answers; it is read again later"
                );
                // The boundary second belongs to it as well: the next window begins behind it. The
                // first read ends only with a window that was chosen to.
                let second = Duration::from_secs(1);
                let limit = open.limits.live;
                let limit = if open.ends_snapshot { limit } else { limit.minus(second) };
                // The last second of a backfill is part of it.
                let last = self.cursor.checkpoint().backfill_to.filter(|_| pass == Pass::Backfill);
                let limit = last.map_or(limit, |to| limit.min(to.minus(second)));
                let end = window.end.plus(second).min(limit).max(window.end);
                let behind = Window { end, ..window };
                let next = self.reached(open, behind);
                self.pass_unproven(open, next, window).await
            }
        }
    }

    /// Whether the ERP answers a query for another second; `None`: an operator decided something
    /// meanwhile.
    async fn answers_elsewhere(&mut self, open: &OpenRead) -> Result<Option<bool>, Stop> {
        let mut second = self.limits().latest_second();
        if second.start <= open.window.end && open.window.start <= second.end {
            // Long before the feed's beginning there is nothing that could be wrong.
            let start = self.cursor.checkpoint().start_at;
            second.end = start.minus(Duration::from_secs(86_400));
            second.start = second.end.minus(Duration::from_secs(1));
        }
        let Some(selection) =
            query::of_window(self.task.feed, self.settings, second).into_iter().next()
        else {
            return Ok(Some(false));
        };
        let request = crate::erp::PageRequest { page_no: 0, page_size: 1, count: true };
        let mut reader = self.reader(open.pass);
        let answer = self.undecided(reader.ask(&selection, request)).await?;
        self.note(&reader);
        Ok(answer.map(|answer| answer.is_ok()))
    }
}

/// Whether a window is among those that are read again.
fn listed(cursor: &Cursor, window: Window) -> bool {
    cursor.unproven().iter().any(|listed| window_of(listed) == window)
}

/// For people: whole seconds, where there are any.
fn rounded(span: Duration) -> Duration {
    if span < Duration::from_secs(1) {
        Duration::from_millis(millis(span))
    } else {
        Duration::from_secs(span.as_secs())
    }
}
