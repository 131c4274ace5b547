//! The last minutes in figures, for the page's charts: a sample every other second, taken from the
//! board's sections.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Map, Value, json};

use crate::{board::Board, clock::Timestamp};

/// Ten minutes.
const KEPT: usize = 300;
const EVERY: Duration = Duration::from_secs(2);

/// The samples, oldest first, and how many were ever taken.
#[derive(Clone, Debug, Default)]
pub(super) struct History(Arc<Mutex<(u64, VecDeque<Value>)>>);

impl History {
    /// Takes samples until it is dropped.
    pub(super) async fn run(self, board: Board) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let sample = sample(&Value::Object(
                board
                    .sections()
                    .into_iter()
                    .map(|(name, section)| (name.to_owned(), section))
                    .collect(),
            ));
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.0 += 1;
            state.1.push_back(sample);
            if state.1.len() > KEPT {
                state.1.pop_front();
            }
        }
    }

    /// What was taken after sample number `seen`, and the number of the last one.
    pub(super) fn since(&self, seen: u64) -> (u64, Vec<Value>) {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = usize::try_from(state.0.saturating_sub(seen)).unwrap_or(KEPT).min(state.1.len());
        (state.0, state.1.iter().skip(state.1.len() - new).cloned().collect())
    }
}

/// The figures of one moment. Counters stay counters: the page makes rates of them.
fn sample(sections: &Value) -> Value {
    let at = |pointer: &str| sections.pointer(pointer).cloned().unwrap_or_default();
    let settled: u64 = at("/commands/results")
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, count)| count.as_u64())
        .sum();
    let fields = |value: &Value, names: &[&str]| -> Value {
        names
            .iter()
            .map(|name| ((*name).to_owned(), value.get(name).cloned().unwrap_or_default()))
            .collect::<Map<_, _>>()
            .into()
    };
    let feeds: Map<String, Value> = at("/feeds")
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, feed)| (name.clone(), fields(feed, &["events", "rows", "lag_ms"])))
        .collect();
    let quota: Map<String, Value> = at("/quota")
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|budget| {
            Some((
                budget.get("call")?.as_str()?.to_owned(),
                fields(budget, &["used", "rate", "burst"]),
            ))
        })
        .collect();
    json!({
        "at": Timestamp::now().0,
        "received": at("/commands/received"),
        "settled": settled,
        "dead_letters": at("/commands/dead_letters"),
        "pending": at("/commands/now/pending"),
        "lag": at("/commands/now/consumer_lag_records"),
        "in_flight": at("/commands/now/calls_in_flight"),
        "unverified": at("/commands/now/unverified"),
        "feeds": feeds,
        "quota": quota,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn samples_are_taken_numbered_and_bounded() {
        let (board, history) = (Board::default(), History::default());
        board.set("commands", json!({ "received": 7, "results": { "CREATED": 3, "REJECTED": 2 }, "now": { "pending": 2 } }));
        board.set("quota", json!([{ "call": "create_order", "used": { "command": 4 }, "rate": 50.0, "burst": 10 }]));
        let task = tokio::spawn(history.clone().run(board));
        tokio::time::sleep(EVERY * 400).await;
        task.abort();
        let (taken, all) = history.since(0);
        assert!(taken > KEPT as u64 && all.len() == KEPT, "{taken}");
        assert_eq!((&all[0]["received"], &all[0]["settled"]), (&json!(7), &json!(5)));
        assert_eq!(all[0]["quota"]["create_order"]["used"]["command"], 4);
        assert_eq!(history.since(taken - 2).1.len(), 2);
        assert!(history.since(taken).1.is_empty());
    }
}
