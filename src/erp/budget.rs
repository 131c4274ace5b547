//! One budget: how many calls of one kind may leave, and when. Pure: every method is told what time
//! it is.
//!
//! Pacing is GCRA, kept as a level of tokens so that the rate may change at any time, and starts
//! empty. On top of it a window of the last calls, permits not yet used included, holds the sum
//! below rate + burst whatever the time between a permit and its call. The window is a little
//! longer than the ERP's minute: calls arrive differently late.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::Class;

const MINUTE: Duration = Duration::from_secs(60);
/// The ERP counts calls when they arrive. As long as no call travels this much longer than another,
/// no minute of the ERP's holds more calls than this window of ours.
const JITTER: Duration = Duration::from_secs(2);
const WINDOW: Duration = Duration::from_secs(60 + JITTER.as_secs());
/// Above this rate the last minute is not remembered call by call: no ERP counts that far,
/// benchmarks do.
const WINDOW_UP_TO: u32 = 6000;
/// Timers are no finer than this, so a budget that grants faster may catch up on that much.
const TIMER: Duration = Duration::from_millis(10);
/// A whole call, less what adding up fractions loses.
const ONE: f64 = 1.0 - 1e-6;
/// Lowest rate refusals lead to, in calls a minute: enough to notice that the ERP has recovered.
const LOWEST: f64 = 5.0;
/// What a refusal leaves of the calls the ERP had room for: less than them, or it refuses again
/// soon.
const LOWERED: f64 = 0.75;
/// One refusal never takes more than half: it may have had a reason that is over.
const LOWERED_MOST: f64 = 0.5;
/// The first quiet minute gives back this much of the configured rate, the second twice as much,
/// and so on: gently where the last refusal was met, and all of it within a quarter of an hour.
const REGAINED: f64 = 0.01;
/// The ERP counts by the minute; integrators get through again after 3 to 31 s.
const FIRST_REST: Duration = Duration::from_secs(10);
const LONGEST_REST: Duration = MINUTE;

/// When the next call may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    Now,
    At(Instant),
    /// When a permit that is out has been used or given back.
    Later,
}

/// The budget of one (appkey, call).
#[derive(Debug)]
pub(super) struct Budget {
    calls_per_minute: u32,
    configured_burst: u32,
    share: f64,
    /// The part of the rate that refusals have left, 0 to 1.
    pace: f64,
    pace_since: Instant,
    /// Quiet minutes in a row since the last refusal.
    quiet: u32,
    /// Calls saved up, as of `level_at`; grows by the rate up to the burst.
    level: f64,
    level_at: Instant,
    /// When the calls of the last minute left.
    sent: VecDeque<Instant>,
    /// Permits that are out, unused.
    reserved: usize,
    resting_until: Option<Instant>,
    next_rest: Duration,
    last_refusal: Option<Instant>,
    refusals: u64,
    usage: Usage,
}

impl Budget {
    pub(super) fn new(calls_per_minute: u32, burst: u32, now: Instant) -> Self {
        Self {
            calls_per_minute: calls_per_minute.max(1),
            configured_burst: burst.max(1),
            share: 1.0,
            pace: 1.0,
            pace_since: now,
            quiet: 0,
            // Empty: a process that restarts every few seconds must not get a full burst each time.
            level: 0.0,
            level_at: now,
            sent: VecDeque::new(),
            reserved: 0,
            resting_until: None,
            next_rest: FIRST_REST,
            last_refusal: None,
            refusals: 0,
            usage: Usage::new(now),
        }
    }

    /// Calls a minute in force, what quiet minutes have given back included.
    pub(super) fn rate_at(&mut self, now: Instant) -> f64 {
        self.regain(now);
        self.rate()
    }

    /// Calls a minute in force: configured × share × what refusals have left.
    fn rate(&self) -> f64 {
        let share = f64::from(self.calls_per_minute) * self.share;
        (share * self.pace).max(share.min(LOWEST))
    }

    /// At least 1. What refusals took from the rate they took from the burst as well.
    pub(super) fn burst(&self) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a u32, between 0 and the whole"
        )]
        let burst =
            (f64::from(self.configured_burst) * self.share * self.pace + 1e-9).floor() as u32;
        burst.max(1)
    }

    /// This instance's part, 0 to 1.
    pub(super) fn share(&self) -> f64 {
        self.share
    }

    pub(super) fn refusals(&self) -> u64 {
        self.refusals
    }

    /// How long the budget still rests after a refusal.
    pub(super) fn resting(&self, now: Instant) -> Option<Duration> {
        self.resting_until
            .and_then(|until| until.checked_duration_since(now))
            .filter(|left| !left.is_zero())
    }

    /// Calls of the last minute, by class in the order of [`Class::ALL`].
    pub(super) fn used(&self, now: Instant) -> [u32; 5] {
        self.usage.last_minute(now)
    }

    /// Calls that may still leave within the minute that ends now; 0 while the budget rests.
    pub(super) fn left(&mut self, now: Instant) -> u32 {
        self.regain(now);
        if self.resting(now).is_some() {
            return 0;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a u32, between 0 and the whole"
        )]
        let most = (self.rate() + 1e-9).floor() as u32 + self.burst();
        let used: u32 = self.used(now).iter().sum();
        most.saturating_sub(used).saturating_sub(u32::try_from(self.reserved).unwrap_or(u32::MAX))
    }

    /// This instance's part of the budget: rate and burst are scaled by it.
    pub(super) fn set_share(&mut self, share: f64, now: Instant) {
        self.refill(now);
        self.share = if share.is_finite() { share.clamp(0.01, 1.0) } else { 1.0 };
    }

    /// Calls a second.
    fn pace_per_second(&self) -> f64 {
        self.rate() / 60.0
    }

    /// Most calls that may be saved up.
    fn capacity(&self) -> f64 {
        f64::from(self.burst()).max(self.pace_per_second() * TIMER.as_secs_f64())
    }

    fn refill(&mut self, now: Instant) {
        if let Some(passed) = now.checked_duration_since(self.level_at) {
            self.level =
                (self.level + passed.as_secs_f64() * self.pace_per_second()).min(self.capacity());
            self.level_at = now;
        }
    }

    /// Most calls any [`WINDOW`] may hold; `None` where nobody counts.
    fn cap(&self) -> Option<usize> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a u32, between 0 and the whole"
        )]
        let rate = (f64::from(self.calls_per_minute) * self.share).floor() as usize;
        let burst = usize::try_from(self.burst()).unwrap_or(usize::MAX);
        (self.calls_per_minute <= WINDOW_UP_TO).then(|| rate + burst)
    }

    /// Whether a permit may be given now that leaves `keep` calls saved up for others, and if not,
    /// when to ask again.
    pub(super) fn ready(&mut self, now: Instant, keep: u32) -> Ready {
        self.regain(now);
        if let Some(until) = self.resting_until.filter(|until| *until > now) {
            return Ready::At(until);
        }
        self.refill(now);
        let keep = keep.min(self.burst() - 1);
        let kept = f64::from(keep);
        if self.level < kept + ONE {
            let wait = Duration::from_secs_f64((kept + 1.0 - self.level) / self.pace_per_second());
            // Never "at once": whoever waits for it would ask again without end.
            return Ready::At(now + wait.max(Duration::from_micros(1)));
        }
        let Some(cap) = self.cap() else { return Ready::Now };
        while self.sent.front().is_some_and(|sent| *sent + WINDOW <= now) {
            self.sent.pop_front();
        }
        let beyond =
            (self.sent.len() + self.reserved + usize::try_from(keep).unwrap_or(0)).checked_sub(cap);
        // That many and one more have to leave the window first.
        let Some(beyond) = beyond else { return Ready::Now };
        self.sent.get(beyond).map_or(Ready::Later, |last| Ready::At(*last + WINDOW))
    }

    /// Gives a permit out.
    pub(super) fn take(&mut self, now: Instant) {
        self.refill(now);
        self.level -= 1.0;
        self.reserved += 1;
    }

    /// Takes an unused permit back.
    pub(super) fn give_back(&mut self) {
        self.level = (self.level + 1.0).min(self.capacity());
        self.reserved = self.reserved.saturating_sub(1);
    }

    /// A permit was used: its call leaves now.
    pub(super) fn spend(&mut self, class: Class, now: Instant) {
        self.reserved = self.reserved.saturating_sub(1);
        if self.calls_per_minute <= WINDOW_UP_TO {
            self.sent.push_back(now);
        }
        self.usage.count(class, now);
    }

    /// The ERP's quota refused a call that left at `sent`. Calls that left before an earlier
    /// refusal was known teach nothing new: a burst refused as a whole counts once.
    pub(super) fn refused(&mut self, sent: Instant, now: Instant) {
        self.refusals += 1;
        if self.last_refusal.is_some_and(|last| sent <= last) {
            return;
        }
        self.last_refusal = Some(now);
        self.refill(now);
        // What left within the minute before the refusal is what the ERP had room for, as long as
        // others go on as they did.
        let had_room = f64::from(self.used(now).iter().sum::<u32>().saturating_sub(1));
        let until = (now + self.next_rest).max(self.room_at(had_room).unwrap_or(now));
        self.resting_until = Some(until);
        self.next_rest = (self.next_rest * 2).min(LONGEST_REST);
        let rate = self.rate();
        let lowered = (had_room.min(rate) * LOWERED).max(rate * LOWERED_MOST);
        let whole = f64::from(self.calls_per_minute) * self.share;
        self.pace = (lowered / whole).max(LOWEST / whole).min(1.0);
        self.pace_since = now;
        self.quiet = 0;
        // What the rest would save up must not leave at once when it ends.
        self.level = 1.0;
        self.level_at = until;
    }

    /// When the ERP's minute has room again, where it was filled by our own calls for the most
    /// part: just after a start all of them are young, and the first has to be a minute old.
    fn room_at(&self, had_room: f64) -> Option<Instant> {
        let oldest = self
            .sent
            .front()
            .copied()
            .filter(|_| had_room * 2.0 >= f64::from(self.calls_per_minute) * self.share);
        oldest.map(|oldest| oldest + WINDOW)
    }

    /// The ERP answered a call that left at `sent`: after that, the next rest is a short one again.
    pub(super) fn answered(&mut self, sent: Instant) {
        if self.resting_until.is_none_or(|until| sent >= until) {
            self.next_rest = FIRST_REST;
        }
    }

    /// Quiet minutes give back what refusals took.
    fn regain(&mut self, now: Instant) {
        while self.pace < 1.0 && now.saturating_duration_since(self.pace_since) >= MINUTE {
            self.refill(self.pace_since + MINUTE);
            self.quiet += 1;
            self.pace = (self.pace + REGAINED * f64::from(self.quiet)).min(1.0);
            self.pace_since += MINUTE;
        }
    }
}

/// Calls of the last minute by class, in slots of one second.
#[derive(Debug)]
struct Usage {
    origin: Instant,
    slots: VecDeque<(u64, [u32; 5])>,
}

impl Usage {
    fn new(origin: Instant) -> Self {
        Self { origin, slots: VecDeque::new() }
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.origin).as_secs()
    }

    fn count(&mut self, class: Class, now: Instant) {
        let second = self.second(now);
        if self.slots.back().is_none_or(|(slot, _)| *slot != second) {
            while self.slots.front().is_some_and(|(slot, _)| slot + 60 <= second) {
                self.slots.pop_front();
            }
            self.slots.push_back((second, [0; 5]));
        }
        if let Some((_, counts)) = self.slots.back_mut() {
            *of_class(counts, class) += 1;
        }
    }

    fn last_minute(&self, now: Instant) -> [u32; 5] {
        let second = self.second(now);
        let mut sum = [0; 5];
        for (_, counts) in self.slots.iter().filter(|(slot, _)| slot + 60 > second) {
            sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        sum
    }
}

/// The place of a class among five values in the order of [`Class::ALL`].
pub(super) fn of_class<T>(values: &mut [T; 5], class: Class) -> &mut T {
    let [lookup, command, feed, late_pass, backfill] = values;
    match class {
        Class::Lookup => lookup,
        Class::Command => command,
        Class::Feed => feed,
        Class::LatePass => late_pass,
        Class::Backfill => backfill,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: f64) -> Duration {
        Duration::from_secs_f64(count)
    }

    /// How long to wait, in whole milliseconds.
    fn in_millis(ready: Ready, now: Instant) -> Option<u128> {
        match ready {
            Ready::Now => Some(0),
            Ready::At(later) => Some((later - now + Duration::from_micros(5)).as_millis()),
            Ready::Later => None,
        }
    }

    /// Takes and uses whatever is ready between `from` and `from + span`; returns when.
    fn drain(budget: &mut Budget, from: Instant, span: Duration) -> Vec<Instant> {
        let (mut now, mut calls) = (from, Vec::new());
        while now < from + span {
            match budget.ready(now, 0) {
                Ready::Now => {
                    budget.take(now);
                    budget.spend(Class::Command, now);
                    calls.push(now);
                }
                Ready::At(later) => now = later,
                Ready::Later => unreachable!(),
            }
        }
        calls
    }

    #[test]
    fn it_starts_empty() {
        let start = Instant::now();
        let mut budget = Budget::new(50, 10, start);
        assert_eq!(in_millis(budget.ready(start, 0), start), Some(1200));
        assert_eq!(drain(&mut budget, start, seconds(60.0)).len(), 49);
    }

    #[test]
    fn a_saved_burst_and_the_rate_stay_below_sixty() {
        let start = Instant::now();
        let mut budget = Budget::new(50, 10, start);
        let calls = drain(&mut budget, start + seconds(600.0), seconds(600.0));
        assert!(calls.iter().take(10).all(|call| *call == start + seconds(600.0)));
        for (position, first) in calls.iter().enumerate() {
            let within =
                calls.iter().skip(position).take_while(|call| **call < *first + MINUTE).count();
            assert!(within <= 60, "{within}");
        }
    }

    #[test]
    fn permits_used_late_count_when_they_are_used() {
        let start = Instant::now();
        let mut budget = Budget::new(50, 10, start);
        let mut now = start;
        let mut out = 0;
        loop {
            match budget.ready(now, 0) {
                Ready::Now => {
                    budget.take(now);
                    out += 1;
                }
                Ready::At(later) => now = later,
                Ready::Later => break,
            }
        }
        assert_eq!(out, 60);
        for _ in 0..out {
            budget.spend(Class::Command, now);
        }
        assert_eq!(budget.ready(now, 0), Ready::At(now + WINDOW));
        assert_eq!(budget.used(now), [0, 60, 0, 0, 0]);
        assert_eq!(budget.used(now + MINUTE), [0; 5]);
    }

    #[test]
    fn an_unused_permit_comes_back() {
        let start = Instant::now();
        let mut budget = Budget::new(60, 1, start);
        let now = start + seconds(1.0);
        assert_eq!(budget.ready(now, 0), Ready::Now);
        budget.take(now);
        assert_eq!(in_millis(budget.ready(now, 0), now), Some(1000));
        budget.give_back();
        assert_eq!(budget.ready(now, 0), Ready::Now);
    }

    #[test]
    fn refusals_rest_longer_and_slow_down_and_are_forgotten() {
        let start = Instant::now();
        let mut budget = Budget::new(50, 10, start);
        let mut now = start + seconds(100.0);
        for rest in [10.0, 20.0, 40.0, 60.0, 60.0] {
            budget.refused(now, now);
            // The rest of the same burst.
            budget.refused(now, now + seconds(0.1));
            assert_eq!(budget.resting(now), Some(seconds(rest)));
            assert_eq!(budget.ready(now, 0), Ready::At(now + seconds(rest)));
            now += seconds(rest);
        }
        assert_eq!(budget.refusals(), 10);
        // Nothing had left before: halved each time, down to the lowest.
        assert!((budget.rate() - 5.0).abs() < 1e-9, "{}", budget.rate());
        // No burst after the rest: one now, the next an interval later.
        assert_eq!(budget.ready(now, 0), Ready::Now);
        budget.take(now);
        budget.spend(Class::Feed, now);
        assert!(matches!(budget.ready(now, 0), Ready::At(later) if later > now + seconds(3.0)));
        budget.answered(now);
        let low = budget.rate();
        budget.ready(now + seconds(121.0), 0);
        assert!(
            (budget.rate() - low - 2.5).abs() < 1e-9,
            "the second and third minute gave 1 and 1.5 back: {}",
            budget.rate()
        );
        budget.ready(now + seconds(900.0), 0);
        assert!((budget.rate() - 50.0).abs() < 1e-9);
        let later = now + seconds(3600.0);
        budget.refused(later, later);
        assert_eq!(budget.resting(later), Some(FIRST_REST));
    }

    #[test]
    fn the_rate_never_falls_below_five() {
        let start = Instant::now();
        let mut budget = Budget::new(50, 10, start);
        for round in 1..100 {
            let now = start + seconds(f64::from(round));
            budget.refused(now, now);
        }
        assert!((budget.rate() - 5.0).abs() < 1e-9);
        let mut small = Budget::new(3, 1, start);
        small.refused(start + MINUTE, start + MINUTE);
        assert!((small.rate() - 3.0).abs() < 1e-9);
    }

    #[test]
    fn a_refusal_leaves_a_little_less_than_the_erp_had_room_for() {
        let start = Instant::now();
        let mut budget = Budget::new(50, 10, start);
        // Another program takes the rest: the 36th call is refused after 35 within a minute.
        let calls = drain(&mut budget, start, seconds(36.0 * 1.2 + 0.1));
        assert_eq!(calls.len(), 36);
        let last = calls[35];
        budget.refused(last, last);
        assert!((budget.rate() - 35.0 * LOWERED).abs() < 1e-9, "{}", budget.rate());
        assert_eq!((budget.burst(), budget.left(last)), (5, 0));
        assert_eq!(
            budget.resting(last).map(|rest| rest.as_secs_f64().round()),
            Some(20.0),
            "until the first of them is out of the minute"
        );
        assert_eq!(budget.left(last + FIRST_REST + MINUTE), 26 + 5);
    }

    #[test]
    fn whoever_keeps_calls_for_others_takes_only_what_would_be_lost() {
        let start = Instant::now();
        let mut budget = Budget::new(60, 10, start);
        let now = start + seconds(5.0);
        assert_eq!(budget.ready(now, 0), Ready::Now);
        assert_eq!(in_millis(budget.ready(now, 9), now), Some(5000));
        let now = start + seconds(10.0);
        assert_eq!(budget.ready(now, 9), Ready::Now);
        budget.take(now);
        assert_eq!(in_millis(budget.ready(now, 9), now), Some(1000));
        assert_eq!(budget.ready(now, 8), Ready::Now);
    }

    #[test]
    fn a_share_scales_rate_and_burst() {
        let start = Instant::now();
        let mut budget = Budget::new(60, 10, start);
        budget.set_share(1.0 / 3.0, start);
        assert!((budget.rate() - 20.0).abs() < 1e-9);
        assert_eq!(budget.burst(), 3);
        budget.set_share(0.0, start);
        assert_eq!(budget.burst(), 1);
        assert!(budget.rate() > 0.0);
    }
}
