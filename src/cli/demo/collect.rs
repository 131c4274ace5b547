//! Reads back what the connector published, says the interesting part of it, and knows when
//! everything is there.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Timestamp,
    config::Settings,
    kafka::{
        scan::{self, From},
        tool::Seen,
    },
    schema::{Codec, CommandResult, Outcome},
    simulator::{Edition, Kind, Simulator},
};

use super::{
    proof::{Event, Evidence, Face, LedgerOrder},
    script::Sort,
    tell,
};

/// Sentences of one kind that are worth a line; the rest is only counted.
const SENTENCES: usize = 6;
const FEEDS: [(&str, &str, Kind); 2] = [
    ("purchase_returns", "return_no", Kind::PurchaseReturns),
    ("return_outbounds", "order_no", Kind::Outbounds),
];

/// What was sent and read so far; cheap to clone.
#[derive(Clone)]
pub(super) struct Collector {
    state: Arc<Mutex<State>>,
    readers: Arc<tokio::sync::Mutex<JoinSet<()>>>,
    terminal: bool,
}

#[derive(Default)]
struct State {
    evidence: Evidence,
    said: BTreeMap<&'static str, usize>,
    faults: Vec<String>,
}

impl Collector {
    /// Reads results, dead letters and both change topics from their beginnings until `stop`.
    pub(super) fn start(settings: &Settings, stop: &CancellationToken) -> Self {
        let collector = Self {
            state: Arc::default(),
            readers: Arc::default(),
            terminal: io::stdout().is_terminal(),
        };
        let mut readers = JoinSet::new();
        let topics = &settings.topics;
        for (topic, what) in [
            (&topics.results, "results"),
            (&topics.commands_dlq, "commands_dlq"),
            (&topics.purchase_returns, "purchase_returns"),
            (&topics.return_outbounds, "return_outbounds"),
        ] {
            let (sender, mut receiver) = mpsc::channel(1000);
            let (kafka, topic, stop) = (settings.kafka.clone(), topic.clone(), stop.clone());
            let reading = collector.clone();
            readers.spawn_blocking(move || {
                if let Err(fault) =
                    scan::read(&kafka, &topic, &From::Beginning, true, &sender, &stop)
                {
                    reading.lock().faults.push(fault.to_string());
                }
            });
            let taking = collector.clone();
            readers.spawn(async move {
                let codec = Codec::single_object();
                while let Some(seen) = receiver.recv().await {
                    taking.take(what, &seen, &codec);
                }
            });
        }
        if let Ok(mut slot) = collector.readers.try_lock() {
            *slot = readers;
        }
        collector
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sent(&self, sort: Sort) {
        let mut state = self.lock();
        match sort {
            Sort::Command | Sort::Copy => state.evidence.commands += 1,
            Sort::Invalid => state.evidence.invalid += 1,
            Sort::Garbage => state.evidence.garbage += 1,
        }
    }

    fn take(&self, what: &'static str, seen: &Seen, codec: &Codec) {
        let bytes = seen.value.as_deref().unwrap_or_default();
        match what {
            "results" => match codec.decode_result(bytes) {
                Ok(result) => self.result(result),
                Err(fault) => self.lock().faults.push(format!("a result cannot be read: {fault}")),
            },
            "commands_dlq" => self.lock().evidence.dead_letters += 1,
            feed => match codec.to_json(bytes) {
                Ok(json) => {
                    if let Some((name, number, _)) = FEEDS.iter().find(|(name, ..)| *name == feed)
                        && let Some(event) = event(name, number, &json)
                    {
                        self.lock().evidence.events.push(event);
                    }
                }
                Err(fault) => self.lock().faults.push(format!("an event cannot be read: {fault}")),
            },
        }
    }

    fn result(&self, result: CommandResult) {
        let of = format!("{} of return {}", result.command_id, result.return_no);
        let order = result.outbound_no.clone().unwrap_or_default();
        let sentence = match (result.outcome, result.duplicate, result.recovered) {
            (_, true, _) => Some((
                "copy",
                format!(
                    "a copy of {of} came: its outcome again ({}), no call",
                    result.outcome.name()
                ),
            )),
            (Outcome::Created, false, true) => Some((
                "recovered",
                format!(
                    "the answer to {of} was lost: the ERP was asked, order {order} found, not sent again"
                ),
            )),
            (Outcome::Created, false, false) if result.attempts > 1 => Some((
                "again",
                format!(
                    "{of} had no effect at first: the ERP was asked, nothing found in time, sent once more, order {order}"
                ),
            )),
            (Outcome::Created, false, false) => {
                Some(("created", format!("{of} became order {order}")))
            }
            (Outcome::Rejected, ..) => Some((
                "rejected",
                format!("the ERP refused {of}: {}", result.erp_message.clone().unwrap_or_default()),
            )),
            (Outcome::Invalid, ..) => {
                Some(("invalid", format!("{of} was never sent: {}", result.violations.join("; "))))
            }
            (Outcome::InDoubt, ..) => Some((
                "in_doubt",
                format!("{of} needs a person: {}", result.explanation.en().unwrap_or_default()),
            )),
            (Outcome::Expired, ..) => None,
        };
        let mut state = self.lock();
        state.evidence.results.push(result);
        let Some((kind, sentence)) = sentence else { return };
        let said = state.said.entry(kind).or_default();
        *said += 1;
        let speak = *said <= SENTENCES;
        drop(state);
        if speak {
            self.end_of_line();
            tell(&format!("  {sentence}"));
        }
    }

    /// One line of progress; on a terminal it replaces itself.
    pub(super) fn speak(&self, doing: &str) {
        let state = self.lock();
        let evidence = &state.evidence;
        let created = evidence
            .results
            .iter()
            .filter(|result| result.outcome == Outcome::Created && !result.duplicate)
            .count();
        let recovered =
            evidence.results.iter().filter(|result| result.recovered && !result.duplicate).count();
        let line = format!(
            "{doing}: {} results, {created} orders created ({recovered} recovered), {} dead letters, {} change events",
            evidence.results.len(),
            evidence.dead_letters,
            evidence.events.len()
        );
        drop(state);
        if self.terminal {
            let mut out = io::stdout().lock();
            let _ = write!(out, "\r\u{1b}[K{line}").and_then(|()| out.flush());
        } else {
            tell(&line);
        }
    }

    /// Clears the line that replaces itself.
    pub(super) fn end_of_line(&self) {
        if self.terminal {
            let mut out = io::stdout().lock();
            let _ = write!(out, "\r\u{1b}[K").and_then(|()| out.flush());
        }
    }

    /// Whether every record was answered and the last event of every record is what the ERP holds.
    pub(super) fn complete(&self, simulator: &Simulator) -> bool {
        let mut evidence = self.lock().evidence.clone();
        fill(&mut evidence, simulator);
        let answered = evidence.results.len() >= evidence.commands + evidence.invalid;
        answered && super::proof::judge(&evidence).iter().all(|verdict| verdict.broken.is_empty())
    }

    /// Waits for the readers and adds what the ERP holds.
    pub(super) async fn finish(self, simulator: &Simulator) -> Evidence {
        let mut readers = self.readers.lock().await;
        while readers.join_next().await.is_some() {}
        let state = self.lock();
        for fault in &state.faults {
            super::output::complain(fault);
        }
        let mut evidence = state.evidence.clone();
        fill(&mut evidence, simulator);
        evidence
    }
}

/// The ERP's side.
fn fill(evidence: &mut Evidence, simulator: &Simulator) {
    let control = simulator.control();
    evidence.orders = control
        .orders(None)
        .into_iter()
        .map(|order| LedgerOrder {
            order_no: order.order_no,
            return_no: order.return_no,
            marker: order.marker,
        })
        .collect();
    for (feed, number, kind) in FEEDS {
        for json in control.records(kind, Edition::Flagship, 0, usize::MAX) {
            if let Ok(record) = serde_json::from_str::<Value>(&json)
                && let (Some(number), Some(face)) =
                    (record.get(number).and_then(Value::as_str), face(&record))
            {
                evidence.records.insert((feed, number.to_owned()), face);
            }
        }
    }
}

fn event(feed: &'static str, number: &str, json: &Value) -> Option<Event> {
    let after = json.get("after")?;
    Some(Event {
        key: (feed, after.get(number)?.as_str()?.to_owned()),
        op: json.get("op")?.as_str()?.to_owned(),
        face: face(after)?,
        after: after.to_string(),
    })
}

/// What is compared of a record, from the ERP's JSON and from ours alike.
fn face(record: &Value) -> Option<Face> {
    let modified = match record.get("modified")? {
        Value::Number(ms) => ms.as_i64()?,
        Value::String(text) => match Timestamp::from_beijing(text) {
            Some(instant) => instant.0,
            None => text.parse::<jiff::Timestamp>().ok()?.as_millisecond(),
        },
        _ => return None,
    };
    let status = record
        .get("status")
        .and_then(|status| status.as_i64().or_else(|| status.as_str()?.parse().ok()));
    let remark = record.get("remark").and_then(Value::as_str).unwrap_or_default().to_owned();
    Some(Face { modified, status, remark })
}
