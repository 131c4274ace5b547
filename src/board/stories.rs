//! What happened lately, bounded: the last of each kind, and the way of the last commands.

use std::collections::{HashMap, VecDeque};

use serde_json::{Value, json};

use crate::clock::Timestamp;

/// How many of each kind are kept.
const KEPT: usize = 50;
/// Commands whose way is kept, and steps of one way: a command in doubt is asked about again and
/// again.
const WAYS: usize = 1000;
const STEPS: usize = 40;

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Story {
    /// A command's committed result.
    Result,
    /// A committed change event.
    Change,
    /// A record in the dead letters, with its reason.
    DeadLetter,
    /// Something an operator should know: pauses, reloads, circuit.
    Notice,
}

impl Story {
    const ALL: [Self; 4] = [Self::Result, Self::Change, Self::DeadLetter, Self::Notice];

    fn name(self) -> &'static str {
        match self {
            Self::Result => "results",
            Self::Change => "changes",
            Self::DeadLetter => "dead_letters",
            Self::Notice => "notices",
        }
    }
}

/// The last stories of each kind, newest first.
#[derive(Debug, Default)]
pub(super) struct Stories {
    told: u64,
    kept: [VecDeque<Value>; 4],
}

impl Stories {
    pub(super) fn tell(&mut self, story: Story, mut value: Value) {
        self.told += 1;
        if let Value::Object(fields) = &mut value {
            fields.insert("seq".to_owned(), self.told.into());
            fields.entry("at").or_insert_with(|| Timestamp::now().to_string().into());
        }
        for (of, kept) in Story::ALL.into_iter().zip(&mut self.kept) {
            if of == story {
                kept.push_front(value);
                kept.truncate(KEPT);
                return;
            }
        }
    }

    /// How many were told so far: whoever remembers it sees whether something is new.
    pub(super) fn told(&self) -> u64 {
        self.told
    }

    pub(super) fn show(&self) -> Value {
        Story::ALL
            .into_iter()
            .zip(&self.kept)
            .map(|(story, kept)| (story.name().to_owned(), json!(kept)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

/// One step of a command.
#[derive(Clone, Debug)]
struct Step {
    at: Timestamp,
    hop: &'static str,
    outcome: &'static str,
    detail: Option<String>,
    /// The detail in Chinese, where it is an explanation of ours.
    detail_zh: Option<String>,
}

/// The way of the last commands through the hops.
#[derive(Debug, Default)]
pub(super) struct Ways {
    by_pair: HashMap<(String, String), VecDeque<Step>>,
    /// In the order of their first steps.
    order: VecDeque<(String, String)>,
}

impl Ways {
    pub(super) fn step(
        &mut self,
        pair: (&str, &str),
        hop: &'static str,
        outcome: &'static str,
        detail: Option<String>,
        detail_zh: Option<String>,
    ) {
        let pair = (pair.0.to_owned(), pair.1.to_owned());
        let step = Step { at: Timestamp::now(), hop, outcome, detail, detail_zh };
        if let Some(steps) = self.by_pair.get_mut(&pair) {
            if steps.len() >= STEPS {
                // The beginning says more than the middle.
                steps.remove(STEPS / 2);
            }
            steps.push_back(step);
            return;
        }
        if self.order.len() >= WAYS
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_pair.remove(&oldest);
        }
        self.order.push_back(pair.clone());
        self.by_pair.insert(pair, VecDeque::from([step]));
    }

    pub(super) fn show(&self, return_no: &str, command_id: &str) -> Option<Value> {
        let steps = self.by_pair.get(&(return_no.to_owned(), command_id.to_owned()))?;
        let steps: Vec<Value> = steps
            .iter()
            .map(|step| json!({ "at": step.at.to_string(), "stage": step.hop, "result": step.outcome, "detail": step.detail, "detail_zh": step.detail_zh }))
            .collect();
        Some(json!({ "return_no": return_no, "command_id": command_id, "steps": steps }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stories_and_ways_stay_bounded_and_the_newest_stand_first() {
        let mut stories = Stories::default();
        for number in 0..1000 {
            stories.tell(Story::Change, json!({ "number": number }));
        }
        stories.tell(Story::Notice, json!({ "text": "paused" }));
        let shown = stories.show();
        assert_eq!(shown["changes"].as_array().unwrap().len(), KEPT);
        assert_eq!(
            (&shown["changes"][0]["number"], &shown["changes"][0]["seq"]),
            (&json!(999), &json!(1000))
        );
        assert_eq!(shown["notices"][0]["text"], "paused");
        assert_eq!(stories.told(), 1001);

        let mut ways = Ways::default();
        for number in 0..=WAYS {
            ways.step((&number.to_string(), "c"), "command", "command", None, None);
        }
        for _ in 0..100 {
            ways.step(("7", "c"), "call", "unknown", Some("lost".into()), None);
        }
        ways.step(("7", "c"), "settle", "CREATED", None, None);
        assert!(
            ways.show("0", "c").is_none() && ways.by_pair.len() == WAYS && ways.order.len() == WAYS
        );
        let shown = ways.show("7", "c").unwrap();
        let steps = shown["steps"].as_array().unwrap();
        assert_eq!(
            (steps.len(), &steps[0]["stage"], &steps[STEPS - 1]["result"]),
            (STEPS, &json!("command"), &json!("CREATED"))
        );
    }
}
