//! The state that `/healthz`, `/readyz` and `/status` report: heartbeats of the loops, readiness of
//! the parts, sections of JSON, and the most recent events.

mod stories;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{clock::Moment, explanation::Explanation};

pub(crate) use stories::Story;
use stories::{Stories, Ways};

/// Shared between the pipelines (who write) and the listener (who reads); cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    pulses: BTreeMap<&'static str, (Arc<AtomicU64>, Duration)>,
    ready: BTreeMap<&'static str, Result<(), String>>,
    sections: BTreeMap<&'static str, Section>,
    stories: Stories,
    ways: Ways,
}

/// A part of `/status`: as it was set, or made when somebody asks.
#[derive(Clone)]
enum Section {
    Set(serde_json::Value),
    Made(Arc<dyn Fn() -> serde_json::Value + Send + Sync>),
}

impl std::fmt::Debug for Section {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Set(_) => "Set",
            Self::Made(_) => "Made",
        })
    }
}

/// One loop's sign of life; nobody expects one any more once it is dropped, however the loop ended.
#[derive(Debug)]
pub(crate) struct Pulse {
    name: &'static str,
    beat: Arc<AtomicU64>,
    board: Board,
}

impl Pulse {
    /// Called once every turn of the loop.
    pub(crate) fn beat(&self) {
        self.beat.store(Moment::now().0, Ordering::Relaxed);
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        let pulses = &mut self.board.lock().pulses;
        // A loop of the same name may have begun already.
        if pulses.get(self.name).is_some_and(|(beat, _)| Arc::ptr_eq(beat, &self.beat)) {
            pulses.remove(self.name);
        }
    }
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces a loop that turns at least once every `limit`; unhealthy when it does not.
    #[must_use]
    pub(crate) fn pulse(&self, name: &'static str, limit: Duration) -> Pulse {
        let beat = Arc::new(AtomicU64::new(Moment::now().0));
        self.lock().pulses.insert(name, (Arc::clone(&beat), limit));
        Pulse { name, beat, board: self.clone() }
    }

    /// Says whether a part is ready, or why not. A part that never spoke is not asked for.
    pub(crate) fn ready(&self, part: &'static str, state: Result<(), String>) {
        self.lock().ready.insert(part, state);
    }

    /// Replaces a section of `/status`.
    pub(crate) fn set(&self, section: &'static str, value: serde_json::Value) {
        self.lock().sections.insert(section, Section::Set(value));
    }

    /// Has a section of `/status` made whenever somebody asks: ages in it are then true.
    pub(crate) fn make(
        &self,
        section: &'static str,
        make: impl Fn() -> serde_json::Value + Send + Sync + 'static,
    ) {
        self.lock().sections.insert(section, Section::Made(Arc::new(make)));
    }

    /// Tells what happened: an object, to which its time (unless it has one) and number are added.
    /// The last of each kind stay.
    pub(crate) fn tell(&self, story: Story, value: serde_json::Value) {
        self.lock().stories.tell(story, value);
    }

    /// The last stories by kind, newest first, and how many were told so far.
    #[must_use]
    pub(crate) fn stories(&self) -> (u64, serde_json::Value) {
        let inner = self.lock();
        (inner.stories.told(), inner.stories.show())
    }

    /// How many stories were told so far.
    #[must_use]
    pub(crate) fn told(&self) -> u64 {
        self.lock().stories.told()
    }

    /// Notes that a command (return number, command id) passed a hop; the last commands' ways stay.
    pub(crate) fn step(
        &self,
        pair: (&str, &str),
        hop: &'static str,
        outcome: &'static str,
        detail: Option<String>,
    ) {
        self.lock().ways.step(pair, hop, outcome, detail, None);
    }

    /// As [`Board::step`], with what the outcome means.
    pub(crate) fn explained_step(
        &self,
        pair: (&str, &str),
        hop: &'static str,
        outcome: &'static str,
        explanation: &Explanation,
    ) {
        let [en, zh] = [explanation.en(), explanation.zh()].map(|text| Some(text.to_owned()));
        self.lock().ways.step(pair, hop, outcome, en, zh);
    }

    /// The way of a command through this instance; `None` when it was not seen lately.
    #[must_use]
    pub(crate) fn way(&self, return_no: &str, command_id: &str) -> Option<serde_json::Value> {
        self.lock().ways.show(return_no, command_id)
    }

    /// Every loop and how long it has been silent.
    #[must_use]
    pub(crate) fn silences(&self) -> Vec<(&'static str, Duration)> {
        let now = Moment::now();
        self.lock()
            .pulses
            .iter()
            .map(|(name, (beat, _))| (*name, Moment(beat.load(Ordering::Relaxed)).until(now)))
            .collect()
    }

    /// Loops that are late, with how late.
    #[must_use]
    pub(crate) fn stalled(&self) -> Vec<(&'static str, Duration)> {
        let now = Moment::now();
        self.lock()
            .pulses
            .iter()
            .filter_map(|(name, (beat, limit))| {
                let silent = Moment(beat.load(Ordering::Relaxed)).until(now);
                (silent > *limit).then_some((*name, silent))
            })
            .collect()
    }

    /// Parts that are not ready, with their reasons; empty when everything is.
    #[must_use]
    pub(crate) fn unready(&self) -> Vec<(&'static str, String)> {
        self.lock()
            .ready
            .iter()
            .filter_map(|(part, state)| state.as_ref().err().map(|reason| (*part, reason.clone())))
            .collect()
    }

    /// Every section, by name, as of now.
    #[must_use]
    pub(crate) fn sections(&self) -> BTreeMap<&'static str, serde_json::Value> {
        let sections = self.lock().sections.clone();
        // Whoever makes one has locks of its own.
        let made = |section| match section {
            Section::Set(value) => value,
            Section::Made(make) => make(),
        };
        sections.into_iter().map(|(name, section)| (name, made(section))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_is_expected_as_long_as_its_loop_lives() {
        let board = Board::default();
        let names =
            |board: &Board| board.silences().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        let first = board.pulse("loop", Duration::ZERO);
        let successor = board.pulse("loop", Duration::ZERO);
        drop(first);
        assert_eq!(names(&board), ["loop"], "another of the same name has begun");
        drop(successor);
        assert!(names(&board).is_empty());
    }
}
