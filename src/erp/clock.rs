//! The ERP's clock, as the `Date` of its answers shows it: one per account, for both routes.
//!
//! Our wall clock may be set at any time. What the ERP's clock shows is therefore carried on by the
//! suspend-proof clock, and our wall clock has a part only in the difference that people are told.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::clock::{Moment, Timestamp};

/// A good measurement is preferred to later, worse ones for this long: clocks drift.
const SAMPLE_KEPT_MS: u64 = 300_000;
/// `Date` is cut to a second.
const DATE_CUT_MS: u64 = 1000;

/// One answer's `Date`, written between the question and the answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub date: Timestamp,
    pub asked: Moment,
    /// The same on our wall clock.
    pub asked_wall: Timestamp,
    /// Milliseconds between request and answer: the less, the better known.
    pub took: u64,
}

impl Sample {
    /// (ERP's clock − ours) in milliseconds: the middle of the second `Date` names against the
    /// middle of the exchange.
    pub(crate) fn skew(self) -> i64 {
        self.date.0 + 500 - self.asked_wall.0.saturating_add_unsigned(self.took / 2)
    }

    fn received(self) -> Moment {
        self.asked.plus(Duration::from_millis(self.took))
    }

    /// Whether both cannot be true of the same two clocks: one of them was set in between.
    fn contradicts(self, other: Self) -> bool {
        self.skew().abs_diff(other.skew())
            > DATE_CUT_MS.saturating_add(self.took.saturating_add(other.took) / 2)
    }

    fn replaces(self, best: Self) -> bool {
        self.took <= best.took
            || self.received().0.saturating_sub(best.received().0) > SAMPLE_KEPT_MS
            || self.contradicts(best)
    }
}

/// What the ERP's clock shows at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ErpNow {
    pub at_most: Timestamp,
    /// When the question was asked whose answer told.
    pub asked: Moment,
}

/// The ERP's clock at one moment; the default is one that nobody has seen yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ErpTime {
    /// From its latest answer, refusals included.
    pub latest: Option<ErpNow>,
    /// (ERP's clock − ours) in milliseconds by the best measurement, for people.
    pub skew_ms: Option<i64>,
    /// What it shows at the earliest, from its latest answer that was no refusal.
    pub at_least: Option<Timestamp>,
    /// Distance of the clocks by that answer.
    error: Duration,
}

impl ErpTime {
    /// The earlier of our clock, which shows `ours`, and the ERP's lower bound. A window that ends
    /// before it (less the lag) is closed for both.
    ///
    /// The bound grows with the suspend-proof clock, so setting ours forward moves no window's end.
    /// A drift of that clock (at most 0.5 ‰) stays within the tolerated error for hours, and the
    /// `Date` of every page is checked against the window's end besides.
    ///
    /// Refusals have no part in it. An ERP that refuses our clock shows no records, and windows
    /// that end by its clock could leave nothing to ask for: nobody would see it mended.
    #[must_use]
    pub(crate) fn now(&self, ours: Timestamp) -> Timestamp {
        self.at_least.map_or(ours, |erp| erp.min(ours))
    }

    /// The measured distance between both clocks; zero before the first answer.
    #[must_use]
    pub(crate) fn error(&self) -> Duration {
        self.error
    }
}

/// One account's clock.
#[derive(Debug, Default)]
pub(crate) struct ErpClock(Mutex<Heard>);

#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    best: Option<Sample>,
    latest: Option<Sample>,
    /// The latest that came with a success.
    accepted: Option<Sample>,
}

impl ErpClock {
    /// Learns from an answer of the ERP. `accepted`: it did what it was asked to.
    pub(crate) fn learn(&self, sample: Sample, accepted: bool) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.best.is_none_or(|best| sample.replaces(best)) {
            heard.best = Some(sample);
        }
        // A slow answer to an earlier question may come in late.
        let later = |known: Option<Sample>| known.is_none_or(|known| known.asked <= sample.asked);
        if later(heard.latest) {
            heard.latest = Some(sample);
        }
        if accepted && later(heard.accepted) {
            heard.accepted = Some(sample);
        }
    }

    /// The clock at `now`.
    pub(crate) fn at(&self, now: Moment) -> ErpTime {
        let heard = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ErpTime {
            latest: heard.latest.map(|sample| ErpNow {
                at_most: Timestamp(sample.date.0.saturating_add_unsigned(DATE_CUT_MS))
                    .plus(sample.asked.until(now)),
                asked: sample.asked,
            }),
            skew_ms: heard.best.map(Sample::skew),
            at_least: heard.accepted.map(|sample| sample.date.plus(sample.received().until(now))),
            // One wrong `Date` must not keep everybody from asking again.
            error: heard
                .accepted
                .filter(|sample| now.0.saturating_sub(sample.received().0) <= SAMPLE_KEPT_MS)
                .map_or(Duration::ZERO, |sample| {
                    Duration::from_millis(sample.skew().unsigned_abs())
                }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(asked: u64, asked_wall: i64, took: u64, date: i64) -> Sample {
        Sample {
            date: Timestamp(date),
            asked: Moment(asked),
            asked_wall: Timestamp(asked_wall),
            took,
        }
    }

    #[test]
    fn the_best_known_skew_is_kept() {
        let clock = ErpClock::default();
        let skew = || clock.at(Moment(0)).skew_ms;
        let learn = |asked, asked_wall, took, date| {
            let sample = sample(asked, asked_wall, took, date);
            clock.learn(sample, true);
            sample.skew()
        };
        assert_eq!(skew(), None);
        assert_eq!(learn(0, 10_000, 1000, 15_000), 5000);
        assert_eq!(learn(1, 20_000, 100, 24_000), 4450);
        assert_eq!(learn(2, 30_000, 5000, 33_000), 1000);
        assert_eq!(skew(), Some(4450));
        // Five minutes later the worse one counts.
        assert_eq!(learn(300_102, 330_000, 5000, 333_000), 1000);
        assert_eq!(skew(), Some(1000));
        // An hour apart: no longer the same clocks.
        assert_eq!(learn(300_103, 3_640_000, 9000, 43_000), -3_601_000);
        assert_eq!(skew(), Some(-3_601_000));
    }

    #[test]
    fn the_erps_clock_goes_on_whatever_ours_is_set_to() {
        let clock = ErpClock::default();
        assert_eq!(clock.at(Moment(0)), ErpTime::default());
        clock.learn(sample(5_000, 1, 10, 70_000), true);
        let told = Some(ErpNow { at_most: Timestamp(71_500), asked: Moment(5_000) });
        assert_eq!(clock.at(Moment(5_500)).latest, told);
        // A slow answer to an earlier question comes in late.
        clock.learn(sample(4_000, 900_000_000, 5_000, 74_000), true);
        assert_eq!(clock.at(Moment(5_500)).latest, told);
        clock.learn(sample(6_000, 2, 10, 1_000), false);
        assert_eq!(
            clock.at(Moment(6_000)).latest.map(|now| now.at_most),
            Some(Timestamp(2_000)),
            "it was set back"
        );
    }

    #[test]
    fn windows_end_by_the_earlier_clock_and_no_refusal_moves_them() {
        let clock = ErpClock::default();
        let now = |at, ours| clock.at(Moment(at)).now(Timestamp(ours));
        assert_eq!(now(0, 1_000_000), Timestamp(1_000_000), "unknown");
        clock.learn(sample(0, 1_000_000, 100, 997_000), true);
        assert_eq!(now(100, 1_000_100), Timestamp(997_000));
        assert_eq!(now(60_100, 1_060_100), Timestamp(1_057_000), "it goes on");
        assert_eq!(now(60_100, 4_660_100), Timestamp(1_057_000), "ours was set forward");
        assert_eq!(now(60_100, 500_000), Timestamp(500_000), "ours was set back");
        // It was set back an hour, and refuses.
        clock.learn(sample(70_000, 1_070_000, 100, -2_530_000), false);
        assert_eq!(now(70_100, 1_070_100), Timestamp(1_067_000));
        assert_eq!(clock.at(Moment(70_100)).error(), Duration::from_millis(2_550));
        assert_eq!(
            clock.at(Moment(70_100)).latest.map(|now| now.at_most),
            Some(Timestamp(-2_528_900))
        );
        clock.learn(sample(80_000, 1_080_000, 100, 1_180_000), true);
        assert_eq!(now(80_100, 1_080_100), Timestamp(1_080_100), "an ERP that is ahead");
        assert_eq!(clock.at(Moment(80_100)).error(), Duration::from_millis(100_450));
    }
}
