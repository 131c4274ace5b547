//! What the registry said about schema ids met in messages.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::clock::Moment;

use super::{codec::LearnFault, shape::Schema};

/// Ids come from messages, which anybody may write: what is remembered about them is bounded.
pub(super) const MAX_LEARNT: usize = 1_000;
/// Bytes of text that the schemas were read from, at most: what is kept of one takes up to 21 times
/// as much.
const MAX_TEXT: usize = 8 * 1024 * 1024;
/// An unusable id is asked for again after this: its schema may have reached the registry late.
pub(super) const UNUSABLE_FOR: Duration = Duration::from_secs(60);
/// How long an id may be missing before it is unusable: a registry answers from followers, which
/// may not know yet what a sender has registered.
pub(super) const MISSING_FOR: Duration = Duration::from_secs(30);
/// Least time between two questions for a missing id, whoever waits for it.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// A missing id that nobody asked for in this time is new again: whoever sends it now may have
/// registered it now.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// The answers by id.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    pub(super) by_id: HashMap<u32, Lesson>,
    /// With the bytes of its text; oldest first.
    pub(super) order: VecDeque<(u32, usize)>,
    /// Bytes of all texts.
    text: usize,
}

/// One answer.
#[derive(Clone, Debug)]
pub(super) enum Lesson {
    Readable(Arc<Schema>),
    /// The registry did not know it.
    Missing {
        reason: String,
        /// At first, with outages taken out, and at last.
        since: Moment,
        asked: Moment,
    },
    /// The registry has something that cannot be read from.
    Unusable {
        reason: String,
        asked: Moment,
    },
}

/// What follows when an id is met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The registry has to be asked.
    Ask,
    /// What is remembered.
    Told(Result<(), LearnFault>),
}

impl Learnt {
    /// Whether the registry has to be asked for this id now.
    pub(super) fn next(&self, id: u32, now: Moment) -> Next {
        match self.by_id.get(&id) {
            None => Next::Ask,
            Some(Lesson::Readable(_)) => Next::Told(Ok(())),
            Some(Lesson::Unusable { reason, asked }) => {
                if asked.until(now) < UNUSABLE_FOR {
                    Next::Told(Err(LearnFault::Unusable(reason.clone())))
                } else {
                    Next::Ask
                }
            }
            Some(Lesson::Missing { reason, since, asked }) => {
                let pause = asked.until(now);
                // The last answer decides only if it is from the end of the time.
                if since.until(*asked) >= MISSING_FOR && pause < UNUSABLE_FOR {
                    Next::Told(Err(LearnFault::Unusable(reason.clone())))
                } else if since.until(*asked) < MISSING_FOR && pause < ASK_EVERY {
                    Next::Told(Err(LearnFault::Missing(reason.clone())))
                } else {
                    Next::Ask
                }
            }
        }
    }

    /// The registry, asked now, has it, in so many bytes of text.
    pub(super) fn found(
        &mut self,
        id: u32,
        text: usize,
        schema: Result<Schema, String>,
        now: Moment,
    ) -> Result<(), LearnFault> {
        match schema {
            Ok(schema) => {
                self.insert(id, Lesson::Readable(Arc::new(schema)), text);
                Ok(())
            }
            Err(reason) => {
                let length = reason.len();
                self.insert(id, Lesson::Unusable { reason: reason.clone(), asked: now }, length);
                Err(LearnFault::Unusable(reason))
            }
        }
    }

    /// The registry, asked now, does not know it.
    pub(super) fn missing(&mut self, id: u32, reason: String, now: Moment) -> LearnFault {
        let since = match self.by_id.get(&id) {
            Some(Lesson::Missing { since, asked, .. }) if asked.until(now) < FORGOTTEN_AFTER => {
                *since
            }
            None | Some(Lesson::Missing { .. } | Lesson::Readable(_) | Lesson::Unusable { .. }) => {
                now
            }
        };
        let length = reason.len();
        self.insert(id, Lesson::Missing { reason: reason.clone(), since, asked: now }, length);
        if since.until(now) < MISSING_FOR {
            LearnFault::Missing(reason)
        } else {
            LearnFault::Unusable(reason)
        }
    }

    /// The registry did not answer: that time says nothing about the id.
    pub(super) fn unanswered(&mut self, id: u32, now: Moment) {
        if let Some(Lesson::Missing { since, asked, .. }) = self.by_id.get_mut(&id)
            && since.until(*asked) < MISSING_FOR
        {
            *since = since.plus(asked.until(now));
            *asked = now;
        }
    }

    /// Remembers an answer of so many bytes of text, and forgets the oldest beyond the bounds.
    pub(super) fn insert(&mut self, id: u32, lesson: Lesson, text: usize) {
        if self.by_id.insert(id, lesson).is_some() {
            let before = self.order.iter().position(|(known, _)| *known == id);
            let before = before.and_then(|at| self.order.remove(at));
            self.text -= before.map_or(0, |(_, text)| text);
        }
        self.order.push_back((id, text));
        self.text += text;
        while (self.order.len() > MAX_LEARNT || self.text > MAX_TEXT)
            && let Some((oldest, text)) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
            self.text -= text;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000)
    }
    fn missing() -> LearnFault {
        LearnFault::Missing("404".to_owned())
    }
    fn unusable() -> LearnFault {
        LearnFault::Unusable("404".to_owned())
    }

    /// Asks a registry that does not know it, where it has to be asked; whether it was.
    fn meet(learnt: &mut Learnt, id: u32, now: Moment) -> (LearnFault, bool) {
        match learnt.next(id, now) {
            Next::Ask => (learnt.missing(id, "404".to_owned(), now), true),
            Next::Told(told) => (told.unwrap_err(), false),
        }
    }

    #[test]
    fn a_missing_id_is_waited_for_once_and_then_asked_for_once_a_minute() {
        let mut learnt = Learnt::default();
        for second in 0..30 {
            assert_eq!(meet(&mut learnt, 5, at(second)), (missing(), true));
            let meanwhile = at(second).plus(Duration::from_millis(300));
            assert_eq!(meet(&mut learnt, 5, meanwhile), (missing(), false), "another partition");
        }
        for minute in 0..5 {
            let begins = 30 + minute * 60;
            assert_eq!(meet(&mut learnt, 5, at(begins)), (unusable(), true));
            assert_eq!(meet(&mut learnt, 5, at(begins + 59)), (unusable(), false));
        }
        assert_eq!(meet(&mut learnt, 6, at(1_000)), (missing(), true), "each id for itself");
    }

    #[test]
    fn an_outage_is_no_part_of_the_time_that_an_id_is_missing() {
        let mut learnt = Learnt::default();
        for second in 0..10 {
            assert_eq!(meet(&mut learnt, 5, at(second)), (missing(), true));
        }
        // An hour's, asked for every 10 s, and another one.
        for second in (0..3_600).step_by(10) {
            learnt.unanswered(5, at(20 + second));
        }
        learnt.unanswered(6, at(3_620));
        for second in 3_611..3_621 {
            assert_eq!(meet(&mut learnt, 5, at(second)), (missing(), true), "{second}");
        }
        learnt.unanswered(5, at(3_700));
        assert_eq!(meet(&mut learnt, 5, at(3_701)), (missing(), true));
        assert_eq!(meet(&mut learnt, 5, at(3_711)), (unusable(), true));
        // What was given up is asked for no sooner and no later.
        learnt.unanswered(5, at(3_762));
        assert_eq!(meet(&mut learnt, 5, at(3_763)), (unusable(), false));
        assert_eq!(meet(&mut learnt, 5, at(3_771)), (unusable(), true));
    }

    #[test]
    fn an_id_that_nobody_asked_for_in_ten_minutes_is_waited_for_again() {
        let mut learnt = Learnt::default();
        for second in 0..=30 {
            meet(&mut learnt, 5, at(second));
        }
        assert_eq!(meet(&mut learnt, 5, at(629)), (unusable(), true));
        assert_eq!(meet(&mut learnt, 5, at(1_229)), (missing(), true));
        for second in 1_230..1_259 {
            assert_eq!(meet(&mut learnt, 5, at(second)), (missing(), true));
        }
        assert_eq!(meet(&mut learnt, 5, at(1_259)), (unusable(), true));
        assert_eq!(meet(&mut learnt, 6, at(2_000)), (missing(), true));
        assert_eq!(meet(&mut learnt, 6, at(2_700)), (missing(), true));
    }

    #[test]
    fn an_id_that_was_missing_long_ago_is_asked_for_before_it_is_given_up() {
        let mut learnt = Learnt::default();
        assert_eq!(meet(&mut learnt, 5, at(0)), (missing(), true));
        assert_eq!(learnt.next(5, at(45)), Next::Ask);
        let schema = Schema::parse("\"int\"", &[]);
        assert_eq!(learnt.found(5, 5, schema, at(45)), Ok(()));
        assert_eq!(learnt.next(5, at(46)), Next::Told(Ok(())));
    }

    #[test]
    fn what_cannot_be_read_from_is_not_waited_for() {
        let mut learnt = Learnt::default();
        let unreadable = LearnFault::Unusable("x".to_owned());
        assert_eq!(learnt.found(5, 1, Err("x".to_owned()), at(0)), Err(unreadable.clone()));
        assert_eq!(learnt.next(5, at(59)), Next::Told(Err(unreadable)));
        assert_eq!(learnt.next(5, at(60)), Next::Ask);
    }

    #[test]
    fn the_latest_answers_are_kept_up_to_a_size_of_their_texts() {
        let mut learnt = Learnt::default();
        let schema = || Schema::parse("\"int\"", &[]);
        meet(&mut learnt, 0, at(0));
        for id in 1..=4 {
            learnt.found(id, MAX_TEXT / 4 - 3, schema(), at(0)).unwrap();
        }
        assert_eq!(learnt.by_id.len(), 5);
        // The oldest is the newest now, and in place of itself.
        learnt.found(0, MAX_TEXT / 2, schema(), at(1)).unwrap();
        let mut kept: Vec<u32> = learnt.by_id.keys().copied().collect();
        kept.sort_unstable();
        assert_eq!(kept, [0, 3, 4]);
        learnt.found(0, 1, schema(), at(1)).unwrap();
        learnt.found(5, MAX_TEXT / 2, schema(), at(1)).unwrap();
        assert_eq!(learnt.by_id.len(), 4);
    }
}
