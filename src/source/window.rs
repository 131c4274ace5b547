//! Hop 1: checkpoint + now → [`Window`]. Pure: `now` is always an argument.
//!
//! Three passes read the same feed, each with a position of its own in the checkpoint: the live
//! pass, the late pass behind it, and a backfill. A position only ever grows, and only by a window
//! that was read and published; it goes back when an operator says so, or when the ERP's clock does
//! ([`Cursor::behind`]). Windows whose reading proved nothing are listed in the checkpoint, and a
//! fourth pass reads them again.

use std::time::Duration;

use crate::{
    clock::{Timestamp, millis},
    config::{FeedSettings, ShippedPass},
    erp::ErpTime,
    schema::{Checkpoint, UnprovenWindow},
};

use super::order::{BackfillOrder, WatermarkOrder};

/// The ERP accepts at most 30 days between start and end; its own example is a second short of
/// that.
const LONGEST: i64 = 30 * 86_400 - 1;

/// How far back the shipped pass reads: twice an hour what was shipped in a week, since nearly all
/// changes of a shipped order (received, a remark) come within days; once a day what was shipped in
/// 30 days, which is the longest period one query takes. What changes later is seen by a backfill
/// over its shipping days only.
pub(crate) const RECENT_REACH: Duration = Duration::from_secs(7 * 86_400);
pub(crate) const OLDER_REACH: Duration = Duration::from_secs(30 * 86_400);

/// What a first window aims at before any count is known.
const FIRST_AIM: i64 = 86_400;

/// A measured clock error up to this much is part of `safety_lag` already (default 65 s = 60 s
/// visibility + 5 s).
const TOLERATED_ERROR: Duration = Duration::from_secs(5);

/// Windows that are listed at most: what a person looks through. Beyond that neighbours are joined.
const MOST_UNPROVEN: usize = 100;

/// A watermark follows the ERP's clock back at most so far by itself: a `Date` that is nonsense
/// must not have years read again.
const FURTHEST_BACK: Duration = Duration::from_secs(86_400);

/// The ERP's clock lies this far behind the watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooFar(pub Duration);

/// A closed interval of modified-time in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    pub start: Timestamp,
    pub end: Timestamp,
}

impl Window {
    /// The second that holds an instant.
    #[must_use]
    pub(crate) fn second_of(instant: Timestamp) -> Self {
        Self { start: instant.floor_second(), end: instant.floor_second() }
    }

    /// Seconds from start to end. Consecutive windows share a second, so a step is never shorter
    /// than one.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.end.seconds() - self.start.seconds()
    }

    /// Whether a record with this modified time is in it.
    #[must_use]
    pub(crate) fn holds(self, modified: Timestamp) -> bool {
        (self.start..=self.end).contains(&modified.floor_second())
    }

    /// Whether a shorter window could still make progress.
    #[must_use]
    pub fn splittable(self) -> bool {
        self.seconds() > 1
    }
}

/// Who reads: decides the position, the priority of the calls and what an unseen record is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Pass {
    Live,
    Late,
    /// Reads the days again on which orders were shipped: enterprise edition only.
    Shipped,
    Backfill,
    /// Reads the listed windows again.
    Unproven,
}

impl Pass {
    /// In the order of their urgency.
    pub(crate) const ALL: [Self; 5] =
        [Self::Live, Self::Late, Self::Shipped, Self::Backfill, Self::Unproven];

    /// Label of metrics and logs.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Late => "late",
            Self::Shipped => "shipped",
            Self::Backfill => "backfill",
            Self::Unproven => "unproven",
        }
    }
}

/// How far back the passes stay, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The earlier of both clocks.
    pub now: Timestamp,
    /// Live windows end here at the latest.
    pub live: Timestamp,
    /// Late windows end here at the latest; everything before it was visible long ago.
    pub late: Timestamp,
}

impl Limits {
    /// The limits at our clock's `ours`.
    #[must_use]
    pub(crate) fn at(ours: Timestamp, erp: &ErpTime, settings: &FeedSettings) -> Self {
        let now = erp.now(ours);
        let behind = |span| {
            now.minus(widened(span, erp.error(), settings.max_visibility_lag)).floor_second()
        };
        Self { now, live: behind(settings.safety_lag), late: behind(settings.late_pass.lag) }
    }

    /// The last second a window could hold.
    #[must_use]
    pub(crate) fn latest_second(self) -> Window {
        Window { start: self.live.minus(Duration::from_secs(1)), end: self.live }
    }
}

/// Most successes a length that failed before is waited with. Each failure of it costs up to three
/// attempts of a minute, so it is tried about once an hour of reading at last.
const LONGEST_WAIT: u32 = 64;

/// A length of window that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TooLong {
    seconds: i64,
    /// Successes of shorter windows before it is tried again; doubled each time it fails again.
    wait: u32,
    left: u32,
}

/// Widens `span`, a lag behind now, when the measured clock `error` exceeds what it allows for.
/// The lag stays ≥ clock error + visibility: #10 of `docs/delivery.md#timing-inequalities`.
fn widened(span: Duration, error: Duration, max_visibility_lag: Duration) -> Duration {
    if error <= TOLERATED_ERROR {
        span
    } else {
        (span + (error - TOLERATED_ERROR)).max(error + max_visibility_lag)
    }
}

/// How long a pass's next window should be, so that it stays within the page budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    seconds: i64,
    budget: u32,
    too_long: Option<TooLong>,
}

impl Pace {
    /// `budget` pages a window.
    #[must_use]
    pub(crate) fn new(budget: u32) -> Self {
        Self { seconds: FIRST_AIM, budget: budget.max(1), too_long: None }
    }

    /// The same, beginning with the longest windows the ERP accepts: where little is expected.
    #[must_use]
    pub(crate) fn long(budget: u32) -> Self {
        Self { seconds: LONGEST, ..Self::new(budget) }
    }

    /// The longest windows the ERP accepts, for asking what they hold.
    #[must_use]
    pub(crate) fn longest() -> Self {
        Self { seconds: LONGEST, budget: u32::MAX, too_long: None }
    }

    /// Pages a window may have.
    #[must_use]
    pub(crate) fn budget(&self) -> u32 {
        self.budget
    }

    /// The length that would have held four fifths of the budget, at the density just seen.
    fn fitting(&self, window: Window, pages: u32) -> i64 {
        let room = i64::from(self.budget).saturating_mul(4);
        window.seconds().saturating_mul(room) / i64::from(pages.max(1)).saturating_mul(5)
    }

    /// A window was read within the budget: grow, at most twofold, where it was as long as aimed
    /// at. A length that failed lately has to wait.
    pub(crate) fn read(&mut self, window: Window, pages: u32) {
        if window.seconds() < self.seconds {
            return;
        }
        match &mut self.too_long {
            Some(too_long) if window.seconds() >= too_long.seconds => self.too_long = None,
            Some(too_long) if too_long.left > 1 => {
                too_long.left -= 1;
                return;
            }
            Some(_) | None => {}
        }
        let grown = self.seconds.saturating_mul(2);
        self.seconds = self.fitting(window, pages).clamp(self.seconds, grown).min(LONGEST);
    }

    /// A window turned out to hold `pages` pages, more than the budget: shrink by as much.
    pub(crate) fn too_large(&mut self, window: Window, pages: u32) {
        self.seconds = self.fitting(window, pages).clamp(1, (window.seconds() / 2).max(1));
    }

    /// A window could not be read, or its reads contradict their counts: halve it. It is tried as
    /// long again after the next success, and later each time that fails.
    pub(crate) fn halve(&mut self, window: Window) {
        let seconds = window.seconds();
        let wait = match self.too_long {
            Some(before) if seconds >= before.seconds => {
                before.wait.saturating_mul(2).min(LONGEST_WAIT)
            }
            Some(_) | None => 1,
        };
        self.too_long = Some(TooLong { seconds, wait, left: wait });
        self.seconds = (seconds / 2).max(1);
    }

    /// The window from `position` towards `limit`; `None` when there is nothing to gain.
    #[must_use]
    pub(crate) fn window(&self, position: Timestamp, limit: Timestamp) -> Option<Window> {
        let length = self.seconds.clamp(1, LONGEST);
        let end = Timestamp(position.0.saturating_add(length.saturating_mul(1000))).min(limit);
        (end > position).then_some(Window { start: position, end })
    }
}

/// Which days a round of the shipped pass reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoundKind {
    Recent,
    Older,
}

/// One round of the shipped pass; a restart begins it anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Round {
    pub kind: RoundKind,
    /// The mark that it leaves.
    pub began: Timestamp,
    pub position: Timestamp,
    pub to: Timestamp,
}

/// What a feed's state is of. Ids of one account name other records in another, so account and
/// edition never change; other filters or an earlier start make it read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The account's `sid`.
    pub account: String,
    /// `flagship` or `enterprise`.
    pub edition: String,
    pub start_at: Timestamp,
    pub filters_hash: String,
}

/// The state is of another account or edition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}; {}", self.what(), Self::ADVICE)]
pub(crate) struct Foreign {
    stored: String,
    configured: String,
}

impl Foreign {
    /// What to do about it.
    pub(crate) const ADVICE: &str = "set the account back, or give this one topics and a kafka.application_id of its own (docs/delivery.md, Identity of a feed)";

    /// What is wrong.
    #[must_use]
    pub(crate) fn what(&self) -> String {
        let Self { stored, configured } = self;
        format!(
            "the state is of account {stored} and the configuration names account {configured}, whose ids mean other records: nothing of the feed was read or published"
        )
    }
}

impl Identity {
    /// Whether a state may be gone on with.
    ///
    /// # Errors
    /// [`Foreign`].
    pub(crate) fn owns(&self, at: &Checkpoint) -> Result<(), Foreign> {
        if at.account == self.account && at.edition == self.edition {
            return Ok(());
        }
        let name = |account: &str, edition: &str| format!("{account:?} ({edition})");
        Err(Foreign {
            stored: name(&at.account, &at.edition),
            configured: name(&self.account, &self.edition),
        })
    }

    /// A state that nothing was read into.
    fn begun(&self) -> Checkpoint {
        let start = self.start_at.floor_second();
        Checkpoint {
            account: self.account.clone(),
            edition: self.edition.clone(),
            start_at: start,
            watermark: start,
            late_watermark: start,
            snapshot: true,
            filters_hash: self.filters_hash.clone(),
            backfill_from: None,
            backfill_to: None,
            backfill_position: None,
            backfill_id: None,
            backfill_rows: None,
            backfill_events: None,
            backfill_last: None,
            backfill_end: None,
            watermark_id: None,
            shipped_recent_at: None,
            shipped_older_at: None,
            skipped_to: None,
            unproven: Vec::new(),
        }
    }
}

/// What [`Cursor::resume`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resumed {
    /// Nothing was ever read.
    First,
    AsLeft,
    /// The filters changed since: everything from the start to the watermark is read again.
    FiltersChanged,
    /// The start is earlier: what lies before the stored one is read.
    EarlierStart,
    /// The start is later: nothing follows from it, the stored one stays.
    LaterStart,
}

/// Where the three passes stand; what a checkpoint record holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    checkpoint: Checkpoint,
}

impl Cursor {
    /// Goes on from a stored checkpoint, or begins one.
    ///
    /// # Errors
    /// [`Foreign`]: the state is another account's.
    pub(crate) fn resume(
        stored: Option<Checkpoint>,
        identity: &Identity,
    ) -> Result<(Self, Resumed), Foreign> {
        let start = identity.start_at.floor_second();
        let Some(mut at) = stored else {
            return Ok((Self { checkpoint: identity.begun() }, Resumed::First));
        };
        identity.owns(&at)?;
        if at.backfill_position.is_some() && at.backfill_position >= at.backfill_to {
            end_backfill(&mut at, "finished");
        }
        let resumed = if at.filters_hash != identity.filters_hash {
            Resumed::FiltersChanged
        } else if start < at.start_at {
            Resumed::EarlierStart
        } else if start > at.start_at {
            return Ok((Self { checkpoint: at }, Resumed::LaterStart));
        } else {
            return Ok((Self { checkpoint: at }, Resumed::AsLeft));
        };
        if at.snapshot {
            // An unfinished first read begins again. Orders that were carried out stay so.
            let Checkpoint { backfill_last, backfill_end, watermark_id, unproven, .. } = at;
            let begun = identity.begun();
            let checkpoint =
                Checkpoint { backfill_last, backfill_end, watermark_id, unproven, ..begun };
            return Ok((Self { checkpoint }, resumed));
        }
        let to = match resumed {
            Resumed::EarlierStart => {
                // What another one had still to read, because of the filters or the start, is part
                // of it.
                let unread = at.backfill_to.filter(|_| at.backfill_id.is_none());
                unread.map_or(at.start_at, |to| to.max(at.start_at))
            }
            _ => at.watermark,
        };
        // Where nothing of what was read lies behind the start, nothing is read again.
        let backfill = (start < to).then_some((start, to));
        let checkpoint = Checkpoint {
            filters_hash: identity.filters_hash.clone(),
            start_at: start.min(at.watermark),
            backfill_from: backfill.map(|(from, _)| from),
            backfill_to: backfill.map(|(_, to)| to),
            backfill_position: backfill.map(|(from, _)| from),
            // One that was asked for is begun again afterwards, as its id is not among the
            // finished.
            backfill_id: None,
            backfill_rows: if backfill.is_some() { Some(0) } else { at.backfill_rows },
            backfill_events: if backfill.is_some() { Some(0) } else { at.backfill_events },
            ..at
        };
        Ok((Self { checkpoint }, resumed))
    }

    /// The same where something before the late watermark is read for the first time: the late pass
    /// goes over what may still enter there, which is `late` and later.
    #[must_use]
    pub(crate) fn late_from(mut self, late: Timestamp) -> Self {
        let at = &mut self.checkpoint;
        at.late_watermark = at.late_watermark.min(late.max(at.start_at));
        self
    }

    /// The same for one account, whose state it always is.
    #[cfg(test)]
    pub(crate) fn resumed(
        stored: Option<Checkpoint>,
        start_at: Timestamp,
        filters_hash: &str,
    ) -> (Self, Resumed) {
        let identity = Identity {
            account: "account".into(),
            edition: "flagship".into(),
            start_at,
            filters_hash: filters_hash.into(),
        };
        Self::resume(stored, &identity).unwrap()
    }

    /// The same for a feed that begins although orders stand: they were about a state which is
    /// gone. What is still wanted of a backfill is ordered again.
    #[must_use]
    pub(crate) fn begun_after(
        mut self,
        watermark: Option<WatermarkOrder>,
        backfill: Option<BackfillOrder>,
    ) -> Self {
        let at = &mut self.checkpoint;
        at.watermark_id = watermark.map(|order| order.id).or(at.watermark_id.take());
        if let Some(order) = backfill {
            (at.backfill_last, at.backfill_end) = (Some(order.id), Some("cancelled".to_owned()));
        }
        self
    }

    /// The windows that are read again.
    #[must_use]
    pub(crate) fn unproven(&self) -> &[UnprovenWindow] {
        &self.checkpoint.unproven
    }

    /// As it is written.
    #[must_use]
    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The next window of a pass, `None` when it has nothing to read yet.
    ///
    /// The late pass never passes the live one, and waits for the end of the snapshot.
    #[must_use]
    pub(crate) fn next(&self, pass: Pass, limits: Limits, pace: &Pace) -> Option<Window> {
        let at = &self.checkpoint;
        match pass {
            Pass::Live => pace.window(at.watermark, limits.live),
            Pass::Late if at.snapshot => None,
            Pass::Late => pace.window(at.late_watermark, limits.late.min(at.watermark)),
            Pass::Backfill => {
                let (from, to, at) = (at.backfill_from?, at.backfill_to?, at.backfill_position?);
                // Up to its beginning it reads shipping days, which is another question.
                pace.window(at, if at < from { from } else { to }.min(limits.live))
            }
            // Rounds and listed windows are due one by one, each at its own time.
            Pass::Shipped | Pass::Unproven => None,
        }
    }

    /// Where the passes stand once `window` has been published. `limits` are those the window was
    /// chosen with.
    ///
    /// A live window that lies as far back as the late pass stays is a late read as well, provided
    /// nothing unread lies between: so a first read of years isn't repeated, and the late pass
    /// begins where the first window began that reached further. That window doesn't count in part:
    /// what enters its end while its pages are read can hide a record at its beginning.
    #[must_use]
    pub(crate) fn after(&self, pass: Pass, window: Window, limits: Limits) -> Self {
        let mut at = self.checkpoint.clone();
        match pass {
            Pass::Live => {
                // A glance moves nothing, and so ends no first read.
                if window.end > at.watermark && window.end >= limits.live {
                    at.snapshot = false;
                }
                at.watermark = at.watermark.max(window.end);
                if window.end <= limits.late {
                    read_late(&mut at, window);
                }
            }
            Pass::Late => read_late(&mut at, window),
            Pass::Backfill if at.backfill_to.is_none_or(|to| window.end >= to) => {
                end_backfill(&mut at, "finished")
            }
            Pass::Backfill => at.backfill_position = Some(window.end),
            Pass::Shipped => {}
            Pass::Unproven => at.unproven.retain(|listed| window_of(listed) != window),
        }
        Self { checkpoint: at }
    }

    /// The same with a window on the list of those that are read again: what it holds could not be
    /// read, or not be proven to be all. `None` when the list is full of windows too far apart to
    /// be one: then nothing may pass it.
    #[must_use]
    pub(crate) fn listed(mut self, window: UnprovenWindow) -> Option<Self> {
        let list = &mut self.checkpoint.unproven;
        match list.iter_mut().find(|listed| listed.from <= window.from && window.to <= listed.to) {
            Some(listed) => join(listed, &window),
            None => {
                list.push(window);
                list.sort_by_key(|listed| (listed.from, listed.to));
            }
        }
        if list.len() > MOST_UNPROVEN {
            // The two that are closest become one, which holds what lies between them as well.
            let joined = |pair: &[UnprovenWindow]| match pair {
                [first, second] => second.to.max(first.to).seconds() - first.from.seconds(),
                _ => i64::MAX,
            };
            let (at, length) = list
                .windows(2)
                .map(joined)
                .enumerate()
                .min_by_key(|(_, length)| *length)
                .unwrap_or((0, i64::MAX));
            if length > LONGEST {
                return None;
            }
            let second = list.remove(at + 1);
            if let Some(first) = list.get_mut(at) {
                join(first, &second);
            }
        }
        Some(self)
    }

    /// The same with what a window of the backfill held, for whoever follows it.
    #[must_use]
    pub(crate) fn counted(mut self, rows: usize, events: usize) -> Self {
        let at = &mut self.checkpoint;
        let add = |sum: Option<i64>, more: usize| {
            Some(sum.unwrap_or(0).saturating_add_unsigned(more as u64))
        };
        (at.backfill_rows, at.backfill_events) =
            (add(at.backfill_rows, rows), add(at.backfill_events, events));
        self
    }

    /// Whether a record of this modified time was never asked for with these filters:
    /// changed filters or an earlier start have a backfill come there, or it is before the start.
    #[must_use]
    pub(crate) fn to_be_filled(&self, modified: Timestamp) -> bool {
        let at = &self.checkpoint;
        let due = at.backfill_position.zip(at.backfill_to).is_some_and(|(position, to)| {
            at.backfill_id.is_none() && (position..=to).contains(&modified.floor_second())
        });
        due || modified < at.start_at
    }

    /// Whether the live pass had been at this modified time and seen all there was, so that what
    /// the late pass finds there has come late.
    #[must_use]
    pub(crate) fn was_read(&self, modified: Timestamp) -> bool {
        let mut unproven = self.checkpoint.unproven.iter();
        !self.to_be_filled(modified) && !unproven.any(|listed| window_of(listed).holds(modified))
    }

    /// Carries an order about a backfill out; `None` when there is nothing (more) to do about it
    /// now.
    ///
    /// A backfill that changed filters started is finished first: without it records would stay
    /// unpublished.
    #[must_use]
    pub(crate) fn ordered(&self, order: &BackfillOrder) -> Option<Self> {
        let mut at = self.checkpoint.clone();
        let done = at.backfill_last.as_ref() == Some(&order.id);
        let running = at.backfill_position.is_some();
        let this_one = running && at.backfill_id.as_ref() == Some(&order.id);
        if done || (this_one && !order.cancelled) || (running && at.backfill_id.is_none()) {
            return None;
        }
        if running {
            // Called off, or replaced by a later order.
            end_backfill(&mut at, "cancelled");
        }
        let (from, to) = (order.from.floor_second(), order.to.floor_second());
        if order.cancelled || from >= to {
            let how = if order.cancelled { "cancelled" } else { "finished" };
            (at.backfill_last, at.backfill_end) = (Some(order.id.clone()), Some(how.to_owned()));
        } else {
            (at.backfill_from, at.backfill_to, at.backfill_position) =
                (Some(from), Some(to), Some(from));
            (at.backfill_id, at.backfill_rows, at.backfill_events) =
                (Some(order.id.clone()), Some(0), Some(0));
        }
        Some(Self { checkpoint: at })
    }

    /// Carries an order to set the watermark out, once by its id; it never comes closer to now than
    /// a window may end. Each pass that stands beyond it goes back; where both stand before it they
    /// skip what lies between, if the order allows that. Only the order tells whether a skip was
    /// meant: the watermark may have gone back since it was given.
    #[must_use]
    pub(crate) fn set(&self, order: &WatermarkOrder, limits: Limits) -> Option<Self> {
        if self.checkpoint.watermark_id.as_ref() == Some(&order.id) {
            return None;
        }
        let to = order.watermark.floor_second().min(limits.live);
        let mut at = Checkpoint { watermark_id: Some(order.id.clone()), ..self.checkpoint.clone() };
        if order.allow_skip && to > at.watermark {
            skip(&mut at, to)
        } else {
            go_back(&mut at, to)
        }
        Some(Self { checkpoint: at })
    }

    /// A glance at the ERP for a feed whose watermark lies ahead of the earlier clock, as after
    /// somebody has set one back: the last second a window could hold. It tells what the ERP's
    /// clock shows, or why the ERP refuses ours.
    #[must_use]
    pub(crate) fn glance(&self, limits: Limits, start: Timestamp) -> Option<Window> {
        let second = limits.latest_second();
        (self.checkpoint.watermark > limits.live && second.start >= start).then_some(second)
    }

    /// The passes once the ERP's own clock was set back behind the watermark, `erp` being the
    /// latest it can show: what is modified from then on bears times that were read already, so
    /// both passes go back behind them; `unseen` is how long ago its clock was last seen to be
    /// right. `None` where nothing has to be done, `Some(Err)` where it is more than
    /// [`FURTHEST_BACK`]: that is read again on a person's word only.
    #[must_use]
    pub(crate) fn behind(
        &self,
        erp: Timestamp,
        unseen: Duration,
        limits: Limits,
        start: Timestamp,
        set_back: bool,
    ) -> Option<Result<Self, TooFar>> {
        let at = &self.checkpoint;
        if erp >= at.watermark && !set_back {
            return None;
        }
        let reach = limits.late.until(limits.now).max(unseen);
        let to = erp.min(limits.now).minus(reach).floor_second().max(start.floor_second());
        let back = to.until(at.watermark);
        if back.is_zero() {
            return None;
        }
        if back > FURTHEST_BACK {
            return Some(Err(TooFar(back)));
        }
        let mut checkpoint = at.clone();
        go_back(&mut checkpoint, to);
        Some(Ok(Self { checkpoint }))
    }

    /// The same for a feed with a shipped pass, as a lease begins; `begins`: the checkpoint was made
    /// anew, or by other filters. What was modified since the beginning may have been shipped before
    /// it, so those days are read as well: as (part of) a backfill.
    #[must_use]
    pub(crate) fn with_shipped_pass(mut self, begins: bool, now: Timestamp) -> Self {
        let at = &mut self.checkpoint;
        let mark = if at.snapshot { now } else { at.late_watermark.min(now) };
        at.shipped_recent_at.get_or_insert(mark);
        at.shipped_older_at.get_or_insert(mark);
        if begins && at.backfill_position.is_none() {
            // The first read itself begins at the watermark.
            (at.backfill_from, at.backfill_to) = (Some(at.watermark), Some(at.watermark));
            at.backfill_position = at.backfill_from;
        }
        if begins { self.beginning_at_shipping_days() } else { self }
    }

    /// A backfill that has not begun, with the shipping days before its period.
    #[must_use]
    pub(crate) fn beginning_at_shipping_days(mut self) -> Self {
        let at = &mut self.checkpoint;
        if at.backfill_position == at.backfill_from {
            at.backfill_position = at.backfill_from.map(|from| from.minus(OLDER_REACH));
        }
        self
    }

    /// Whether the backfill still reads the shipping days before its period.
    #[must_use]
    pub(crate) fn in_shipping_days(&self) -> bool {
        let at = &self.checkpoint;
        at.backfill_position.zip(at.backfill_from).is_some_and(|(position, from)| position < from)
    }

    /// Whether a backfill that nobody ordered has still to come to what was shipped then.
    #[must_use]
    pub(crate) fn shipping_day_is_due(&self, shipped: Option<Timestamp>) -> bool {
        let at = &self.checkpoint;
        let days = at.backfill_position.zip(at.backfill_to);
        at.backfill_id.is_none()
            && shipped
                .zip(days)
                .is_some_and(|(shipped, (position, to))| position <= shipped && shipped < to)
    }

    /// The backfill without what is left of those days.
    #[must_use]
    pub(crate) fn past_shipping_days(mut self) -> Self {
        let at = &mut self.checkpoint;
        if at.backfill_position < at.backfill_from {
            at.backfill_position = at.backfill_from;
        }
        if at.backfill_position >= at.backfill_to {
            end_backfill(at, "finished");
        }
        self
    }

    /// The round of the shipped pass that is due, if one is.
    #[must_use]
    pub(crate) fn round(&self, pass: ShippedPass, limits: Limits) -> Option<Round> {
        let at = &self.checkpoint;
        let (recent, older) = (at.shipped_recent_at?, at.shipped_older_at?);
        let end = at.watermark.min(limits.live);
        // What was modified just before a round began may have been visible only after it.
        let lag = limits.late.until(limits.now);
        let (began, reach) =
            (limits.now, |mark: Timestamp, span| mark.minus(lag).minus(span).floor_second());
        let older_due = older.plus(pass.older_interval);
        let recent_is_due = limits.now >= recent.plus(pass.interval);
        // One of the recent days at most goes before it: where each takes longer than the interval
        // between them, the older days would never have their turn.
        let older_is_due = limits.now >= older_due;
        if at.snapshot {
            None
        } else if older_is_due && (recent >= older_due || !recent_is_due) {
            let to = recent.minus(RECENT_REACH).floor_second().min(end);
            let from = reach(older, OLDER_REACH).min(to);
            Some(Round { kind: RoundKind::Older, began, position: from, to })
        } else if recent_is_due {
            let from = reach(recent, RECENT_REACH).min(end);
            Some(Round { kind: RoundKind::Recent, began, position: from, to: end })
        } else {
            None
        }
    }

    /// A round was read to its end.
    #[must_use]
    pub(crate) fn after_round(mut self, round: Round) -> Self {
        let at = &mut self.checkpoint;
        match round.kind {
            RoundKind::Recent => at.shipped_recent_at = Some(round.began),
            RoundKind::Older => at.shipped_older_at = Some(round.began),
        }
        self
    }

    /// Shipped orders are shown by their modified time from now on: the late pass reads what rounds
    /// have not come to.
    #[must_use]
    pub(crate) fn late_behind_rounds(mut self, lag: Duration) -> Self {
        let at = &mut self.checkpoint;
        for mark in [at.shipped_recent_at, at.shipped_older_at].into_iter().flatten() {
            at.late_watermark = at.late_watermark.min(mark.minus(lag).floor_second());
        }
        self
    }

    /// At `measured` shipped orders were still shown by their modified time: what was modified until
    /// then, and read, needs no round.
    #[must_use]
    pub(crate) fn unshipped(mut self, measured: Timestamp) -> Self {
        let at = &mut self.checkpoint;
        let mark = Some(at.late_watermark.min(measured));
        (at.shipped_recent_at, at.shipped_older_at) = (mark, mark);
        self
    }
}

/// Makes one entry of two, the first of which begins earlier.
fn join(first: &mut UnprovenWindow, second: &UnprovenWindow) {
    first.to = first.to.max(second.to);
    first.since = first.since.min(second.since);
    first.snapshot |= second.snapshot;
    // No bound is the earliest.
    first.records_since = first.records_since.min(second.records_since);
}

/// The window of an entry of the list.
#[must_use]
pub(crate) fn window_of(listed: &UnprovenWindow) -> Window {
    Window { start: listed.from, end: listed.to }
}

// The late watermark moves in the three following functions only: forward by a late read that
// leaves nothing out, or by a skip that was ordered.

/// A window was read that lies as far back as the late pass stays.
fn read_late(at: &mut Checkpoint, window: Window) {
    if window.start <= at.late_watermark {
        at.late_watermark = at.late_watermark.max(window.end);
    }
}

/// What lies between is read again, by each pass that has been there.
fn go_back(at: &mut Checkpoint, to: Timestamp) {
    at.watermark = at.watermark.min(to);
    at.late_watermark = at.late_watermark.min(to);
    let earlier = |mark: Option<Timestamp>| mark.map(|mark| mark.min(to));
    at.shipped_recent_at = earlier(at.shipped_recent_at);
    at.shipped_older_at = earlier(at.shipped_older_at);
}

/// Nothing of what lies between is read.
fn skip(at: &mut Checkpoint, to: Timestamp) {
    (at.watermark, at.late_watermark) = (to, to);
    at.skipped_to = Some(to);
}

fn end_backfill(at: &mut Checkpoint, how: &str) {
    (at.backfill_from, at.backfill_to, at.backfill_position) = (None, None, None);
    if let Some(id) = at.backfill_id.take() {
        (at.backfill_last, at.backfill_end) = (Some(id), Some(how.to_owned()));
    }
}

/// `span` added to `from` as whole milliseconds, for the check of an answer against its window.
#[must_use]
pub(crate) fn closes_at(window: Window, max_visibility_lag: Duration) -> Timestamp {
    Timestamp(window.end.0.saturating_add_unsigned(millis(max_visibility_lag)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Moment,
        erp::clock::{ErpClock, Sample},
        source::tests::settings,
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1000)
    }

    fn window(start: i64, end: i64) -> Window {
        Window { start: at(start), end: at(end) }
    }

    fn limits(now: i64, live: i64, late: i64) -> Limits {
        Limits { now: at(now), live: at(live), late: at(late) }
    }

    #[test]
    fn windows_share_a_second_and_never_go_back() {
        let (mut cursor, _) = Cursor::resumed(None, at(1_000), "a");
        let mut pace = Pace::new(10);
        pace.halve(window(0, 20));
        let first = cursor.next(Pass::Live, limits(5_000, 1_015, 500), &pace).unwrap();
        assert_eq!(first, window(1_000, 1_010));
        cursor = cursor.after(Pass::Live, first, limits(5_000, 1_015, 500));
        assert!(cursor.checkpoint().snapshot);
        let second = cursor.next(Pass::Live, limits(5_000, 1_015, 500), &pace).unwrap();
        assert_eq!(second, window(1_010, 1_015));
        cursor = cursor.after(Pass::Live, second, limits(5_000, 1_015, 500));
        assert!(!cursor.checkpoint().snapshot);
        for live in [1_015, 1_000, 0] {
            assert_eq!(cursor.next(Pass::Live, limits(5_000, live, 500), &pace), None, "{live}");
        }
    }

    /// A feed that has read everything until `now`, in whole days since the epoch.
    fn shipped(now: i64) -> (Cursor, Limits) {
        let limits = limits(now * DAY, now * DAY - 65, now * DAY - 600);
        let (cursor, _) = Cursor::resumed(None, at(now * DAY - 600), "a");
        let read = window(now * DAY - 600, now * DAY - 65);
        let cursor = cursor.with_shipped_pass(true, limits.now).past_shipping_days();
        (cursor.after(Pass::Live, read, limits), limits)
    }

    const DAY: i64 = 86_400;
    const PASS: ShippedPass = ShippedPass {
        interval: Duration::from_secs(1_800),
        older_interval: Duration::from_secs(86_400),
    };

    #[test]
    fn rounds_reach_back_from_the_one_before_however_long_ago_that_was() {
        let (mut cursor, begin) = shipped(100);
        assert_eq!(cursor.round(PASS, begin), None, "the first is due an interval later");
        for (pause, days) in [(1_800, 7), (3 * DAY, 10)] {
            let mark = cursor.checkpoint().shipped_recent_at.unwrap().seconds();
            let now = mark + pause;
            let limits = limits(now, now - 65, now - 600);
            cursor.checkpoint.watermark = limits.live;
            let round = cursor.round(PASS, limits).unwrap();
            assert_eq!((round.kind, round.began), (RoundKind::Recent, at(now)));
            // What was modified up to the lag before the round began may not have been visible.
            assert_eq!(round.position, at(mark - 600 - 7 * DAY), "{days} days back");
            assert_eq!(round.to, limits.live);
            cursor = cursor.after_round(round);
        }
        // The older days follow, from 30 days before the last time, though a round of the recent
        // ones has fallen due again meanwhile.
        let recent = cursor.checkpoint().shipped_recent_at.unwrap().seconds();
        let now = recent + 90 * DAY;
        let round = cursor.round(PASS, limits(now, now - 65, now - 600)).unwrap();
        assert_eq!(round.kind, RoundKind::Older);
        assert_eq!(
            (round.position, round.to),
            (at(100 * DAY - 600 - 30 * DAY), at(recent - 7 * DAY))
        );
        cursor = cursor.after_round(round);
        let round = cursor.round(PASS, limits(now, now - 65, now - 600)).unwrap();
        assert_eq!((round.kind, round.position), (RoundKind::Recent, at(recent - 600 - 7 * DAY)));
        cursor = cursor.after_round(round);
        assert_eq!(cursor.round(PASS, limits(now + 1, now - 64, now - 599)), None);
    }

    #[test]
    fn rounds_that_take_longer_than_their_interval_leave_the_older_days_their_turn() {
        let (mut cursor, begin) = shipped(100);
        let (mut now, mut older) = (begin.now.seconds(), Vec::new());
        for _ in 0..200 {
            now += 2_400;
            let round = cursor.round(PASS, limits(now, now - 65, now - 600)).unwrap();
            if round.kind == RoundKind::Older {
                older.push((now - begin.now.seconds()) / 3_600);
            }
            cursor = cursor.after_round(round);
        }
        assert_eq!(older, [24, 49, 74, 98, 123], "hours");
    }

    #[test]
    fn marks_go_back_with_the_watermark_and_on_with_the_older_rule() {
        let (cursor, limits) = shipped(100);
        let to = at(90 * DAY);
        let order = WatermarkOrder { id: "w".into(), watermark: to, allow_skip: false };
        let back = cursor.set(&order, limits).unwrap();
        let marks = |cursor: &Cursor| {
            let at = cursor.checkpoint();
            (at.shipped_recent_at, at.shipped_older_at)
        };
        assert_eq!(marks(&back), (Some(to), Some(to)));
        assert_eq!(back.round(PASS, limits).unwrap().position, at(83 * DAY - 600));
        let erp = at(100 * DAY - 3_600);
        let behind = cursor.behind(erp, Duration::ZERO, limits, at(0), false).unwrap().unwrap();
        assert!(marks(&behind).0 < Some(erp) && marks(&behind).1 < Some(erp));
        // What has not been read yet is not passed, whatever was measured.
        let measured = cursor.clone().unshipped(limits.now);
        assert_eq!(marks(&measured).0, Some(cursor.checkpoint().late_watermark));
    }

    #[test]
    fn a_backfill_reads_the_shipping_days_before_its_period_first_and_cuts_there() {
        let (cursor, limits) = shipped(100);
        let order = BackfillOrder {
            id: "b".into(),
            from: at(80 * DAY),
            to: at(81 * DAY),
            cancelled: false,
        };
        let mut cursor = cursor.ordered(&order).unwrap().beginning_at_shipping_days();
        let pace = Pace::long(20);
        let first = cursor.next(Pass::Backfill, limits, &pace).unwrap();
        assert_eq!(first, window(50 * DAY, 80 * DAY - 1));
        assert!(cursor.in_shipping_days());
        let older_rule = cursor.clone().past_shipping_days();
        assert_eq!(
            older_rule.next(Pass::Backfill, limits, &pace),
            Some(window(80 * DAY, 81 * DAY))
        );
        cursor = cursor.after(Pass::Backfill, first, limits);
        let second = cursor.next(Pass::Backfill, limits, &pace).unwrap();
        assert_eq!(second, window(80 * DAY - 1, 80 * DAY), "no window crosses its beginning");
        cursor = cursor.after(Pass::Backfill, second, limits);
        assert!(!cursor.in_shipping_days() && cursor.checkpoint().backfill_position.is_some());
        // A restart does not read them once more.
        let stored = Some(cursor.checkpoint().clone());
        let cursor = Cursor::resumed(stored, at(100 * DAY - 600), "a")
            .0
            .with_shipped_pass(false, limits.now);
        assert!(!cursor.in_shipping_days());
        let last = cursor.next(Pass::Backfill, limits, &pace).unwrap();
        assert_eq!(last, window(80 * DAY, 81 * DAY));
        assert_eq!(cursor.after(Pass::Backfill, last, limits).checkpoint().backfill_position, None);
        // The first read has those days as well, and nothing behind them.
        let (first, _) = Cursor::resumed(None, at(80 * DAY), "a");
        let first = first.with_shipped_pass(true, limits.now);
        assert_eq!(first.checkpoint().backfill_position, Some(at(50 * DAY)));
        assert_eq!(first.past_shipping_days().checkpoint().backfill_position, None);
    }

    #[test]
    fn no_window_is_longer_than_the_erp_accepts() {
        let (cursor, _) = Cursor::resumed(None, at(0), "a");
        let mut pace = Pace::new(10);
        let far = limits(i64::MAX / 2000, i64::MAX / 2000, 0);
        for _ in 0..40 {
            let window = cursor.next(Pass::Live, far, &pace).unwrap();
            assert!(window.seconds() < 30 * 86_400);
            pace.read(window, 0);
        }
        assert_eq!(cursor.next(Pass::Live, far, &pace).unwrap().seconds(), LONGEST);
    }

    #[test]
    fn windows_find_the_page_budget() {
        // 7 pages a second, a budget of 100: about 14 seconds fit.
        let mut pace = Pace::new(100);
        let pages = |window: Window| u32::try_from(window.seconds() * 7).unwrap();
        let (cursor, _) = Cursor::resumed(None, at(0), "a");
        let far = limits(1 << 30, 1 << 30, 0);
        let mut too_large = 0;
        for _ in 0..20 {
            let window = cursor.next(Pass::Live, far, &pace).unwrap();
            if pages(window) > 100 {
                too_large += 1;
                pace.too_large(window, pages(window));
            } else {
                pace.read(window, pages(window));
            }
        }
        let settled = cursor.next(Pass::Live, far, &pace).unwrap();
        assert!((10..=14).contains(&settled.seconds()), "{settled:?}");
        assert_eq!(too_large, 1, "one call is enough to learn the density");
    }

    #[test]
    fn a_length_that_failed_is_tried_again_after_longer_and_longer() {
        let mut pace = Pace::new(10);
        let (cursor, _) = Cursor::resumed(None, at(0), "a");
        let far = limits(1 << 40, 1 << 40, 0);
        // What is longer than an hour cannot be read.
        let (mut failed, mut read, mut waits) = (0, 0, Vec::new());
        for _ in 0..400 {
            let window = cursor.next(Pass::Live, far, &pace).unwrap();
            if window.seconds() > 3_600 {
                failed += 1;
                waits.push(std::mem::take(&mut read));
                pace.halve(window);
            } else {
                assert!(window.seconds() > 1_000, "it stays near to what can be read");
                read += 1;
                pace.read(window, 0);
            }
        }
        assert_eq!(waits[..5], [0; 5], "a day is halved at once down to 45 minutes");
        assert_eq!(waits[5..11], [1, 2, 4, 8, 16, 32]);
        assert!(failed < 20 && waits[12..].iter().all(|wait| *wait == 64), "{waits:?}");
    }

    fn listed(from: i64, to: i64) -> UnprovenWindow {
        UnprovenWindow {
            from: at(from),
            to: at(to),
            since: at(9),
            snapshot: false,
            records_since: None,
        }
    }

    #[test]
    fn a_listed_window_stays_until_it_was_read() {
        let (cursor, _) = Cursor::resumed(None, at(0), "a");
        let cursor = cursor.listed(listed(10, 11)).unwrap().listed(listed(5, 6)).unwrap();
        let again = cursor.clone().listed(listed(10, 11)).unwrap();
        assert_eq!(again, cursor, "it is listed already");
        assert_eq!(cursor.unproven(), [listed(5, 6), listed(10, 11)]);
        let (resumed, _) = Cursor::resumed(Some(cursor.checkpoint().clone()), at(0), "a");
        let read = resumed.after(Pass::Unproven, window(5, 6), limits(900, 800, 700));
        assert_eq!(read.unproven(), [listed(10, 11)]);
        assert_eq!(read.checkpoint().watermark, at(0), "no pass has moved");
    }

    #[test]
    fn what_a_listed_window_may_publish_is_what_any_of_its_parts_may() {
        let since = |from, to, since: Option<i64>, snapshot| UnprovenWindow {
            records_since: since.map(at),
            snapshot,
            ..listed(from, to)
        };
        let one = |window| Cursor::resumed(None, at(0), "a").0.listed(window).unwrap();
        let within = one(since(5, 9, Some(700), false)).listed(since(6, 7, Some(300), true));
        assert_eq!(within.unwrap().unproven(), [since(5, 9, Some(300), true)]);
        let whole = one(since(5, 9, Some(700), false)).listed(since(6, 7, None, false)).unwrap();
        assert_eq!(whole.unproven(), [since(5, 9, None, false)]);
    }

    #[test]
    fn a_full_list_joins_its_closest_windows_and_refuses_what_is_too_far() {
        let (mut cursor, _) = Cursor::resumed(None, at(0), "a");
        for place in 0..100 {
            // The distances grow.
            cursor = cursor.listed(listed(place * place * 10, place * place * 10 + 1)).unwrap();
        }
        assert_eq!(cursor.unproven().len(), 100);
        cursor = cursor.listed(listed(900_000, 900_001)).unwrap();
        assert_eq!(cursor.unproven().len(), 100);
        assert_eq!(cursor.unproven()[0], listed(0, 11), "what lies between them as well");
        let (mut apart, _) = Cursor::resumed(None, at(0), "a");
        let month = 31 * 86_400;
        for place in 0..100 {
            apart = apart.listed(listed(place * month, place * month + 1)).unwrap();
        }
        assert_eq!(apart.listed(listed(200 * month, 200 * month + 1)), None);
    }

    #[test]
    fn one_dense_second_is_as_short_as_it_gets() {
        let mut pace = Pace::new(1);
        pace.too_large(window(0, 2), 1_000_000);
        let (cursor, _) = Cursor::resumed(None, at(0), "a");
        let shortest = cursor.next(Pass::Live, limits(100, 50, 0), &pace).unwrap();
        assert_eq!(shortest.seconds(), 1);
        assert!(!shortest.splittable());
    }

    #[test]
    fn the_late_pass_waits_for_the_snapshot_and_stays_behind_the_live_one() {
        let (cursor, _) = Cursor::resumed(None, at(0), "a");
        let pace = Pace::new(10);
        let first = limits(2_000, 1_935, 1_400);
        assert_eq!(cursor.next(Pass::Late, first, &pace), None);
        // All of it lies far back: read once, for both passes.
        let cursor = cursor.after(Pass::Live, window(0, 1_000), first);
        assert_eq!(cursor.checkpoint().late_watermark, at(1_000));
        // This one reaches further: the late pass reads it again, whole.
        let cursor = cursor.after(Pass::Live, window(1_000, 1_935), first);
        assert_eq!(cursor.checkpoint().late_watermark, at(1_000));
        assert_eq!(
            cursor.next(Pass::Late, limits(9_000, 8_935, 8_400), &pace),
            Some(window(1_000, 1_935))
        );
        let cursor = cursor.after(Pass::Late, window(1_000, 1_400), first);
        assert_eq!(cursor.next(Pass::Late, first, &pace), None);
    }

    #[test]
    fn changed_filters_start_a_backfill_up_to_the_watermark() {
        let stored = |snapshot| Checkpoint {
            watermark: at(5_000),
            late_watermark: at(4_000),
            snapshot,
            filters_hash: "a".into(),
            ..Cursor::resumed(None, at(100), "a").0.checkpoint().clone()
        };
        let (cursor, resumed) = Cursor::resumed(Some(stored(false)), at(100), "a");
        assert_eq!((cursor.checkpoint(), resumed), (&stored(false), Resumed::AsLeft));
        let (cursor, resumed) = Cursor::resumed(Some(stored(false)), at(100), "b");
        assert_eq!(resumed, Resumed::FiltersChanged);
        let now = limits(9_000, 8_000, 7_000);
        let pace = Pace::new(10);
        assert_eq!(cursor.next(Pass::Backfill, now, &pace), Some(window(100, 5_000)));
        assert_eq!(cursor.next(Pass::Live, now, &pace), Some(window(5_000, 8_000)));
        let half = cursor.after(Pass::Backfill, window(100, 600), now);
        assert_eq!(half.next(Pass::Backfill, now, &pace), Some(window(600, 5_000)));
        let (resumed, _) = Cursor::resumed(Some(half.checkpoint().clone()), at(100), "b");
        let done = resumed.after(Pass::Backfill, window(600, 5_000), now);
        assert_eq!(done.next(Pass::Backfill, now, &pace), None);
        let counted =
            Checkpoint { backfill_rows: Some(0), backfill_events: Some(0), ..stored(false) };
        assert_eq!(done.checkpoint(), &Checkpoint { filters_hash: "b".into(), ..counted });
        let (cursor, _) = Cursor::resumed(Some(stored(true)), at(100), "b");
        assert_eq!(cursor.checkpoint().watermark, at(100), "an unfinished first read begins again");
    }

    #[test]
    fn what_other_filters_show_is_not_late() {
        let (cursor, _) = Cursor::resumed(Some(begun_at_1000()), at(1_000), "b");
        let now = limits(9_000, 8_000, 7_000);
        let late = |cursor: &Cursor| [500, 1_500, 4_500, 5_000].map(|s| cursor.was_read(at(s)));
        assert_eq!(late(&cursor), [false, false, false, false], "its last second as well");
        let half = cursor.after(Pass::Backfill, window(1_000, 3_000), now);
        assert_eq!(late(&half), [false, true, false, false]);
        let done = half.after(Pass::Backfill, window(3_000, 5_000), now);
        assert_eq!(late(&done), [false, true, true, true]);
        // No backfill where the start lies beyond what was read.
        let (beyond, _) = Cursor::resumed(Some(begun_at_1000()), at(6_000), "b");
        assert_eq!(late(&beyond), [false, false, false, true]);
        let listed = done.clone().listed(listed(1_500, 1_501)).unwrap();
        assert_eq!(late(&listed), [false, false, true, true], "that second was never read");
        let ordered = done.ordered(&order("one", 1_000, 5_000)).unwrap();
        assert_eq!(late(&ordered), late(&done), "an ordered one reads again what was read");
    }

    fn order(id: &str, from: i64, to: i64) -> BackfillOrder {
        BackfillOrder { id: id.into(), from: at(from), to: at(to), cancelled: false }
    }

    #[test]
    fn a_backfill_is_carried_out_once_by_its_id_and_can_be_called_off() {
        let now = limits(9_000, 8_000, 7_000);
        let pace = Pace::new(10);
        let (idle, _) = Cursor::resumed(None, at(5_000), "a");
        let asked = order("one", 100, 600);
        let begun = idle.ordered(&asked).unwrap();
        assert_eq!(begun.next(Pass::Backfill, now, &pace), Some(window(100, 600)));
        assert_eq!(begun.ordered(&asked), None, "it runs already");
        let half = begun.after(Pass::Backfill, window(100, 300), now).counted(7, 2);
        let (resumed, _) = Cursor::resumed(Some(half.checkpoint().clone()), at(5_000), "a");
        assert_eq!(resumed.ordered(&asked), None, "a restart goes on where it stood");
        assert_eq!(resumed.next(Pass::Backfill, now, &pace), Some(window(300, 600)));
        let done = resumed.after(Pass::Backfill, window(300, 600), now).counted(1, 0);
        assert_eq!(done.next(Pass::Backfill, now, &pace), None);
        assert_eq!(done.ordered(&asked), None, "it is done");
        let end = |cursor: &Cursor| {
            (
                cursor.checkpoint().backfill_last.clone().unwrap(),
                cursor.checkpoint().backfill_end.clone().unwrap(),
            )
        };
        assert_eq!(end(&done), ("one".into(), "finished".into()));
        assert_eq!(
            (done.checkpoint().backfill_rows, done.checkpoint().backfill_events),
            (Some(8), Some(2))
        );

        let off = half.ordered(&BackfillOrder { cancelled: true, ..asked.clone() }).unwrap();
        assert_eq!(off.next(Pass::Backfill, now, &pace), None);
        assert_eq!(end(&off), ("one".into(), "cancelled".into()));
        assert_eq!(off.ordered(&asked), None, "called off for good");
        let other = half.ordered(&order("two", 700, 900)).unwrap();
        assert_eq!(
            other.next(Pass::Backfill, now, &pace),
            Some(window(700, 900)),
            "a later order replaces it"
        );
    }

    #[test]
    fn a_backfill_never_reads_what_is_not_closed_and_waits_for_one_of_changed_filters() {
        let pace = Pace::new(10);
        let (idle, _) = Cursor::resumed(None, at(5_000), "a");
        let open = idle.ordered(&order("one", 7_900, 99_000)).unwrap();
        assert_eq!(
            open.next(Pass::Backfill, limits(9_000, 8_000, 7_000), &pace),
            Some(window(7_900, 8_000))
        );
        let live = Checkpoint { snapshot: false, ..idle.checkpoint().clone() };
        let (filtered, _) = Cursor::resumed(Some(live), at(100), "b");
        assert_eq!(filtered.ordered(&order("one", 0, 50)), None);
        let done = filtered.after(Pass::Backfill, window(100, 5_000), limits(9_000, 8_000, 7_000));
        assert!(done.ordered(&order("one", 0, 50)).is_some());
    }

    #[test]
    fn a_backfill_of_nothing_ends_at_once_whoever_started_it() {
        let (first, _) = Cursor::resumed(None, at(5_000), "a");
        let live = Checkpoint { snapshot: false, ..first.checkpoint().clone() };
        // Other filters, and a start behind which nothing was read.
        let (filtered, resumed) = Cursor::resumed(Some(live.clone()), at(6_000), "b");
        assert_eq!(
            (resumed, filtered.checkpoint().backfill_position),
            (Resumed::FiltersChanged, None)
        );
        assert_eq!(
            (filtered.checkpoint().watermark, filtered.checkpoint().filters_hash.as_str()),
            (at(5_000), "b")
        );
        assert!(filtered.ordered(&order("one", 0, 50)).is_some());
        // One that an earlier version has stored.
        let stuck = Checkpoint {
            backfill_from: Some(at(6_000)),
            backfill_to: Some(at(5_000)),
            backfill_position: Some(at(6_000)),
            ..live
        };
        let (healed, resumed) = Cursor::resumed(Some(stuck), at(5_000), "a");
        assert_eq!((resumed, healed.checkpoint().backfill_position), (Resumed::AsLeft, None));
        assert!(healed.ordered(&order("one", 0, 50)).is_some());
        // Both ends within one second.
        let within = BackfillOrder {
            id: "two".into(),
            from: Timestamp(7_000_100),
            to: Timestamp(7_000_900),
            cancelled: false,
        };
        let done = healed.ordered(&within).unwrap();
        assert_eq!(
            (done.checkpoint().backfill_end.as_deref(), done.checkpoint().backfill_position),
            (Some("finished"), None)
        );
        assert_eq!(done.ordered(&within), None);
    }

    /// A state that was read from 1,000 to 5,000, the late pass up to 4,000.
    fn begun_at_1000() -> Checkpoint {
        Checkpoint {
            watermark: at(5_000),
            late_watermark: at(4_000),
            snapshot: false,
            ..Cursor::resumed(None, at(1_000), "a").0.checkpoint().clone()
        }
    }

    fn backfill(cursor: &Cursor) -> Option<(i64, i64, i64)> {
        let at = cursor.checkpoint();
        let (from, to) = at.backfill_from.zip(at.backfill_to)?;
        Some((from.seconds(), at.backfill_position?.seconds(), to.seconds()))
    }

    #[test]
    fn a_state_of_another_account_or_edition_is_refused() {
        let identity = |account: &str, edition: &str| Identity {
            account: account.into(),
            edition: edition.into(),
            start_at: at(0),
            filters_hash: "a".into(),
        };
        let stored = begun_at_1000();
        assert!(Cursor::resume(Some(stored.clone()), &identity("account", "flagship")).is_ok());
        for (account, edition) in [("other", "flagship"), ("account", "enterprise")] {
            let foreign =
                Cursor::resume(Some(stored.clone()), &identity(account, edition)).unwrap_err();
            let said = foreign.to_string();
            assert!(said.contains(r#"of account "account" (flagship)"#), "{said}");
            assert!(said.contains(&format!("{account:?} ({edition})")), "{said}");
        }
    }

    #[test]
    fn an_earlier_start_is_a_backfill_of_what_lies_before() {
        let now = limits(9_000, 8_000, 7_000);
        let pace = Pace::new(10);
        let (cursor, resumed) = Cursor::resumed(Some(begun_at_1000()), at(200), "a");
        assert_eq!((resumed, backfill(&cursor)), (Resumed::EarlierStart, Some((200, 200, 1_000))));
        let moved = cursor.checkpoint();
        assert_eq!(
            (moved.start_at, moved.watermark, moved.late_watermark, &moved.backfill_id),
            (at(200), at(5_000), at(4_000), &None)
        );
        assert_eq!(cursor.next(Pass::Live, now, &pace), Some(window(5_000, 8_000)));
        // A restart goes on; still earlier: with what was left.
        let half = cursor.after(Pass::Backfill, window(200, 600), now);
        let (again, resumed) = Cursor::resumed(Some(half.checkpoint().clone()), at(200), "a");
        assert_eq!((resumed, backfill(&again)), (Resumed::AsLeft, Some((200, 600, 1_000))));
        let (more, resumed) = Cursor::resumed(Some(half.checkpoint().clone()), at(100), "a");
        assert_eq!((resumed, backfill(&more)), (Resumed::EarlierStart, Some((100, 100, 1_000))));
        // With other filters as well: everything.
        let (all, resumed) = Cursor::resumed(Some(half.checkpoint().clone()), at(100), "b");
        assert_eq!((resumed, backfill(&all)), (Resumed::FiltersChanged, Some((100, 100, 5_000))));
        // And one that other filters began is not cut short.
        let part = all.after(Pass::Backfill, window(100, 600), now);
        let (more, _) = Cursor::resumed(Some(part.checkpoint().clone()), at(50), "b");
        assert_eq!(backfill(&more), Some((50, 50, 5_000)));
        // What was ordered begins again afterwards.
        let order = order("one", 2_000, 3_000);
        let (idle, _) = Cursor::resumed(Some(begun_at_1000()), at(1_000), "a");
        let ordered = idle.ordered(&order).unwrap();
        let (first, _) = Cursor::resumed(Some(ordered.checkpoint().clone()), at(200), "a");
        assert_eq!((backfill(&first), first.ordered(&order)), (Some((200, 200, 1_000)), None));
        let done = first.after(Pass::Backfill, window(200, 1_000), now);
        assert_eq!(backfill(&done.ordered(&order).unwrap()), Some((2_000, 2_000, 3_000)));
    }

    #[test]
    fn an_unfinished_first_read_begins_again_at_an_earlier_start() {
        let stored = Checkpoint { snapshot: true, ..begun_at_1000() };
        let (cursor, resumed) = Cursor::resumed(Some(stored.clone()), at(200), "a");
        assert_eq!(resumed, Resumed::EarlierStart);
        assert_eq!(cursor, Cursor::resumed(None, at(200), "a").0);
        // A start that had not come yet was a mistake.
        let (future, _) = Cursor::resumed(None, at(99_000), "a");
        let (cursor, _) = Cursor::resumed(Some(future.checkpoint().clone()), at(200), "a");
        assert_eq!(cursor.checkpoint().watermark, at(200));
    }

    #[test]
    fn a_feed_whose_late_pass_has_not_begun_begins_again_at_an_earlier_start() {
        // What enters late before the stored start would be read by no pass.
        let young = Checkpoint { late_watermark: at(1_000), ..begun_at_1000() };
        let (cursor, resumed) = Cursor::resumed(Some(young), at(200), "a");
        assert_eq!(resumed, Resumed::EarlierStart);
        let late = |limit| cursor.clone().late_from(at(limit)).checkpoint().late_watermark;
        assert_eq!([100, 500, 2_000].map(late), [at(200), at(500), at(1_000)]);
    }

    /// The order counts as done, so nothing else would come there again.
    #[test]
    fn what_a_backfill_left_unproven_outlives_a_first_read_that_begins_again() {
        let now = limits(100_000, 99_935, 99_400);
        let (first, _) = Cursor::resumed(None, at(50_000), "a");
        let ordered = first.ordered(&order("b", 1_000, 2_000)).unwrap();
        let done = ordered.after(Pass::Backfill, window(1_000, 2_000), now);
        let done = done.listed(listed(1_500, 1_501)).unwrap();
        for (start, filters) in [(50_000, "b"), (40_000, "a")] {
            let (again, _) = Cursor::resumed(Some(done.checkpoint().clone()), at(start), filters);
            assert_eq!(again.ordered(&order("b", 1_000, 2_000)), None);
            assert_eq!(again.unproven(), [listed(1_500, 1_501)], "{start} {filters}");
        }
    }

    #[test]
    fn a_later_start_removes_nothing_and_the_earliest_stays() {
        let (cursor, resumed) = Cursor::resumed(Some(begun_at_1000()), at(3_000), "a");
        assert_eq!((resumed, cursor.checkpoint()), (Resumed::LaterStart, &begun_at_1000()));
        // Back to where it was: nothing was missed meanwhile.
        let (cursor, resumed) = Cursor::resumed(Some(cursor.checkpoint().clone()), at(1_000), "a");
        assert_eq!((resumed, backfill(&cursor)), (Resumed::AsLeft, None));
        // With other filters it was: nobody has seen by them what lies before.
        let (other, _) = Cursor::resumed(Some(begun_at_1000()), at(3_000), "b");
        assert_eq!(backfill(&other), Some((3_000, 3_000, 5_000)));
        let (back, resumed) = Cursor::resumed(Some(other.checkpoint().clone()), at(1_000), "b");
        assert_eq!(
            (resumed, backfill(&back)),
            (Resumed::EarlierStart, Some((1_000, 1_000, 5_000)))
        );
    }

    #[test]
    fn an_order_about_a_state_that_is_gone_is_not_carried_out_again() {
        let fill = order("f", 100, 600);
        let (fresh, _) = Cursor::resumed(None, at(5_000), "a");
        let begun = fresh.begun_after(None, Some(fill.clone()));
        assert_eq!((begun.ordered(&fill), begun.checkpoint().backfill_position), (None, None));
        assert!(begun.ordered(&order("g", 100, 600)).is_some());
        let now = limits(9_000, 8_000, 7_000);
        let stands = WatermarkOrder { id: "w".into(), watermark: at(7_500), allow_skip: true };
        let (fresh, _) = Cursor::resumed(None, at(5_000), "a");
        let begun = fresh.begun_after(Some(stands.clone()), None);
        assert_eq!((begun.checkpoint().watermark, begun.set(&stands, now)), (at(5_000), None));
        assert!(begun.set(&WatermarkOrder { id: "v".into(), ..stands.clone() }, now).is_some());
        // Other filters during the first read begin it anew, and nothing that was ordered before.
        let (anew, _) = Cursor::resumed(Some(begun.checkpoint().clone()), at(5_000), "b");
        assert_eq!((anew.checkpoint().watermark, anew.set(&stands, now)), (at(5_000), None));
    }

    #[test]
    fn a_watermark_is_set_once_by_its_id_and_never_ahead_of_a_closed_window() {
        let (cursor, _) = Cursor::resumed(None, at(5_000), "a");
        let now = limits(9_000, 8_000, 7_000);
        let back = WatermarkOrder { id: "w".into(), watermark: at(300), allow_skip: false };
        let set = cursor.set(&back, now).unwrap();
        assert_eq!(
            (set.checkpoint().watermark, set.checkpoint().late_watermark),
            (at(300), at(300))
        );
        assert_eq!(set.set(&back, now), None);
        let order = |id: &str, allow_skip| WatermarkOrder {
            id: id.into(),
            watermark: at(99_000),
            allow_skip,
        };
        let ahead = set.set(&order("v", true), now).unwrap();
        assert_eq!(ahead.checkpoint().watermark, at(8_000));
        // Meant to go back, and the watermark went back further meanwhile: nothing is skipped.
        let stays = set.set(&order("u", false), now).unwrap();
        assert_eq!(
            (stays.checkpoint().watermark, stays.checkpoint().late_watermark),
            (at(300), at(300))
        );
        assert_eq!(stays.set(&order("u", false), now), None, "it is carried out all the same");
    }

    #[test]
    fn the_late_watermark_goes_forward_by_late_reads_and_skips_only() {
        let stored = Checkpoint {
            watermark: at(5_000),
            late_watermark: at(4_000),
            snapshot: false,
            ..Cursor::resumed(None, at(0), "a").0.checkpoint().clone()
        };
        let (cursor, _) = Cursor::resumed(Some(stored), at(0), "a");
        let now = limits(9_000, 8_000, 7_000);
        let set = |to| {
            let order = WatermarkOrder { id: "w".into(), watermark: at(to), allow_skip: true };
            let set = cursor.set(&order, now).unwrap();
            (set.checkpoint().watermark, set.checkpoint().late_watermark)
        };
        assert_eq!(
            set(4_500),
            (at(4_500), at(4_000)),
            "between the two: what is late is before it"
        );
        assert_eq!(set(5_000), (at(5_000), at(4_000)));
        assert_eq!(set(3_000), (at(3_000), at(3_000)));
        assert_eq!(set(6_000), (at(6_000), at(6_000)), "a skip, for both");
        // Whatever follows upon whatever: no second is behind the late watermark that the late pass
        // has not read, a live read that far back, or a skip.
        let mut dice = 1_u64;
        let mut roll = |sides: i64| {
            dice = dice
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            i64::try_from(dice >> 33).unwrap() % sides
        };
        let (mut cursor, mut read_late) = (cursor, 4_000);
        let pace = Pace::new(10);
        let mut now = 9_000;
        for step in 0..20_000 {
            now += roll(40) - 10;
            let far = limits(now, now - 1_000, now - 2_000);
            let before = cursor.checkpoint().clone();
            match roll(6) {
                0 | 1 => {
                    if let Some(window) = cursor.next(Pass::Live, far, &pace) {
                        if window.start.seconds() <= read_late && window.end <= far.late {
                            read_late = read_late.max(window.end.seconds());
                        }
                        cursor = cursor.after(Pass::Live, window, far);
                    }
                }
                2 | 3 => {
                    if let Some(window) = cursor.next(Pass::Late, far, &pace) {
                        assert!(window.start.seconds() <= read_late, "{window:?} {read_late}");
                        read_late = read_late.max(window.end.seconds());
                        cursor = cursor.after(Pass::Late, window, far);
                    }
                }
                4 => {
                    let to = at(now - 4_000 + roll(3_500));
                    let (id, allow_skip) = (step.to_string(), roll(2) == 0);
                    let order = WatermarkOrder { id, watermark: to, allow_skip };
                    cursor = cursor.set(&order, far).unwrap();
                    let to = to.min(far.live);
                    read_late = if allow_skip && to > before.watermark {
                        to.seconds()
                    } else {
                        read_late.min(to.seconds())
                    };
                }
                _ => {
                    let clock = at(now - roll(1_500));
                    if let Some(Ok(back)) = cursor.behind(clock, Duration::ZERO, far, at(0), false)
                    {
                        cursor = back;
                        read_late = read_late.min(cursor.checkpoint().watermark.seconds());
                    }
                }
            }
            let at = cursor.checkpoint();
            assert!(at.late_watermark.seconds() <= read_late, "{step}: {at:?} {read_late}");
            assert!(at.late_watermark <= at.watermark, "{step}: {at:?}");
        }
    }

    #[test]
    fn a_glance_ends_no_first_read() {
        let (cursor, _) = Cursor::resumed(None, at(100_000), "a");
        let ours_back = limits(96_400, 96_335, 95_800);
        let second = cursor.glance(ours_back, at(0)).unwrap();
        let after = cursor.after(Pass::Live, second, ours_back);
        assert_eq!(after, cursor, "it moves nothing");
    }

    #[test]
    fn a_watermark_follows_the_erps_clock_back_and_no_other() {
        let (cursor, _) = Cursor::resumed(None, at(100_000), "a");
        // Ours was set back, the ERP's was not: nothing to read again, but the ERP is asked.
        let short = Duration::from_secs(60);
        let ours_back = limits(96_400, 96_335, 95_800);
        assert_eq!(cursor.next(Pass::Live, ours_back, &Pace::new(10)), None);
        assert_eq!(cursor.glance(ours_back, at(0)), Some(window(96_334, 96_335)));
        assert_eq!(cursor.glance(ours_back, at(100_000)), None, "never before the feed's start");
        assert_eq!(cursor.behind(at(100_065), short, ours_back, at(0), false), None);
        let long = cursor
            .behind(at(96_401), Duration::from_secs(2_400), ours_back, at(0), false)
            .unwrap()
            .unwrap();
        assert_eq!(long.checkpoint().watermark, at(94_000), "as far as nobody looked");
        // Both were: the late pass's reach behind the earlier of them.
        let back = cursor.behind(at(96_401), short, ours_back, at(0), false).unwrap().unwrap();
        assert_eq!(
            (back.checkpoint().watermark, back.checkpoint().late_watermark),
            (at(95_800), at(95_800))
        );
        assert_eq!(back.behind(at(96_401), short, ours_back, at(0), false), None, "once");
        assert_eq!(
            cursor.behind(at(96_401), short, ours_back, at(100_000), false),
            None,
            "never before the feed's start"
        );
        // Only the ERP's, so that it refuses ours: known from its refusals.
        let right = limits(100_065, 100_000, 99_465);
        assert_eq!(cursor.glance(right, at(0)), None);
        assert_eq!(
            cursor
                .behind(at(96_401), short, right, at(0), false)
                .unwrap()
                .unwrap()
                .checkpoint()
                .watermark,
            at(95_801)
        );
        assert_eq!(
            cursor.behind(at(5_000), short, right, at(0), false),
            Some(Err(TooFar(Duration::from_secs(95_600)))),
            "a person decides"
        );
    }

    #[test]
    fn the_earlier_clock_counts_and_a_large_error_widens_the_lag() {
        let settings = settings();
        let clock = ErpClock::default();
        let learn = |asked, took, date| {
            let asked_wall = Timestamp(1_000_000);
            clock.learn(Sample { date, asked: Moment(asked), asked_wall, took }, true);
        };
        let limits = |now, ours| Limits::at(ours, &clock.at(Moment(now)), &settings);
        assert_eq!(limits(0, at(1_000)).live, at(935));
        learn(0, 100, at(1_004));
        assert_eq!(limits(100, at(1_000)).now, at(1_000), "an ERP that is ahead");
        assert_eq!(limits(100, at(1_000)).live, at(935));
        learn(1, 100, at(997));
        assert_eq!(limits(101, Timestamp(1_000_100)).now, at(997));
        assert_eq!(limits(101, Timestamp(1_000_100)).live, at(932));
        learn(2, 0, at(900));
        // 99.5 s behind: 65 s become 159.5 s, the same 60 s of visibility on top of the error.
        assert_eq!(limits(2, at(1_000)).live, at(740));
        learn(3, 0, at(1_100));
        assert_eq!(limits(3, at(1_000)).live, at(839), "100.5 s ahead");
    }
}
