//! How long a partition waits for schema ids that the registry does not know.

use std::{collections::VecDeque, time::Duration};

use crate::clock::Moment;

/// For the first one: a registry's followers may know a new schema late.
const LONG: Duration = Duration::from_secs(30);
/// For others shortly after one that never came: a sender may write any number of them.
const SHORT: Duration = Duration::from_secs(2);
/// How long after one that never came the wait is short, and there is none for the same one.
const SHORT_FOR: Duration = Duration::from_secs(60);
/// Ids that are remembered: more are not given up within that time, as each was waited for.
const MOST: usize = 64;

/// Of one partition.
#[derive(Debug, Default)]
pub(super) struct Patience {
    waits: Option<Waits>,
    /// What was given up, and when; the last one at the end.
    given_up: VecDeque<(u32, Moment)>,
}

/// What is waited for.
#[derive(Debug)]
struct Waits {
    id: u32,
    until: Moment,
    /// At last.
    asked: Moment,
}

/// What follows when the registry does not know an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The partition begins to wait for it.
    Begins,
    GoesOn,
    /// It has waited long enough.
    Over,
}

impl Patience {
    /// The registry, asked now, does not know this id.
    pub(super) fn missing(&mut self, id: u32, now: Moment) -> Wait {
        match &mut self.waits {
            Some(waits) if waits.id == id => {
                waits.asked = now;
                if now < waits.until {
                    return Wait::GoesOn;
                }
                self.unusable(id, now);
                Wait::Over
            }
            Some(_) | None => {
                let mut lately = self.given_up.iter().filter(|(_, at)| at.until(now) < SHORT_FOR);
                if lately.clone().any(|(given_up, _)| *given_up == id) {
                    return Wait::Over;
                }
                let short = lately.next().is_some();
                let until = now.plus(if short { SHORT } else { LONG });
                self.waits = Some(Waits { id, until, asked: now });
                Wait::Begins
            }
        }
    }

    /// The registry did not answer: that time is no part of the wait.
    pub(super) fn unanswered(&mut self, id: u32, now: Moment) {
        if let Some(waits) = self.waits.as_mut().filter(|waits| waits.id == id) {
            waits.until = waits.until.plus(waits.asked.until(now));
            waits.asked = now;
        }
    }

    /// This id will never be readable, whether it was waited for or not.
    pub(super) fn unusable(&mut self, id: u32, now: Moment) {
        if self.waits.take_if(|waits| waits.id == id).is_some() {
            self.given_up.push_back((id, now));
            if self.given_up.len() > MOST {
                self.given_up.pop_front();
            }
        }
    }

    /// What was waited for is known.
    pub(super) fn learnt(&mut self) {
        self.waits = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000)
    }

    /// Seconds a partition stands still for an id that never comes, asked for every second.
    fn stands_still(patience: &mut Patience, id: u32, from: u64) -> u64 {
        assert_eq!(patience.missing(id, at(from)), Wait::Begins);
        (1..).find(|waited| patience.missing(id, at(from + waited)) == Wait::Over).unwrap()
    }

    #[test]
    fn the_first_unknown_id_is_waited_for_and_a_flood_of_them_does_not_stop_a_partition() {
        let mut patience = Patience::default();
        let mut now = stands_still(&mut patience, 0, 0);
        assert_eq!(now, 30);
        for id in 1..20 {
            now += stands_still(&mut patience, id, now);
            assert_eq!(patience.missing(id, at(now + 1)), Wait::Over, "each once");
        }
        assert_eq!(now, 30 + 19 * 2);
        // A minute after the last of them a new schema is given its time again.
        assert_eq!(stands_still(&mut patience, 20, now + 59), 2);
        assert_eq!(stands_still(&mut patience, 21, now + 61 + 60), 30);
    }

    #[test]
    fn an_id_that_comes_late_shortens_nothing() {
        let mut patience = Patience::default();
        for id in 0..5 {
            assert_eq!(patience.missing(id, at(0)), Wait::Begins);
            assert_eq!(patience.missing(id, at(29)), Wait::GoesOn);
            patience.learnt();
        }
        assert_eq!(stands_still(&mut patience, 5, 30), 30);
    }

    #[test]
    fn an_outage_is_no_part_of_the_wait() {
        let mut patience = Patience::default();
        patience.unanswered(1, at(0));
        assert_eq!(patience.missing(1, at(1)), Wait::Begins);
        assert_eq!(patience.missing(1, at(11)), Wait::GoesOn);
        for second in (0..3_600).step_by(10) {
            patience.unanswered(1, at(20 + second));
        }
        assert_eq!(patience.missing(1, at(3_611)), Wait::GoesOn);
        patience.unanswered(2, at(3_620));
        assert_eq!(patience.missing(1, at(3_629)), Wait::GoesOn);
        assert_eq!(patience.missing(1, at(3_630)), Wait::Over);
    }

    #[test]
    fn only_what_was_waited_for_in_vain_shortens_the_next_wait() {
        let mut patience = Patience::default();
        patience.unusable(1, at(0));
        assert_eq!(patience.missing(2, at(1)), Wait::Begins);
        assert_eq!(patience.missing(2, at(28)), Wait::GoesOn);
        // Another partition has waited for it before.
        patience.unusable(2, at(29));
        assert_eq!(stands_still(&mut patience, 3, 30), 2);
    }
}
