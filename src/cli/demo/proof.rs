//! Whether the promises held: judged from the ERP's ledger and from what was read back from Kafka,
//! from nothing else. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::schema::{CommandResult, Outcome};

/// An order as the simulator's ledger has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LedgerOrder {
    pub order_no: String,
    pub return_no: String,
    /// The marker it was sent with.
    pub marker: Option<String>,
}

/// A change event as it was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Feed and number.
    pub key: (&'static str, String),
    pub op: String,
    /// The record after the change, as compared with the ERP's.
    pub face: Face,
    /// All of it, to tell repeated versions.
    pub after: String,
}

/// What of a record is compared: enough to tell two versions apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Face {
    /// Milliseconds since 1970.
    pub modified: i64,
    pub status: Option<i64>,
    pub remark: String,
}

/// Everything the judgement rests on.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    /// Records sent: commands and copies, invalid ones, garbage.
    pub commands: usize,
    pub invalid: usize,
    pub garbage: usize,
    pub results: Vec<CommandResult>,
    pub dead_letters: usize,
    pub orders: Vec<LedgerOrder>,
    pub events: Vec<Event>,
    /// What the ERP holds now.
    pub records: BTreeMap<(&'static str, String), Face>,
}

/// One line of the summary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub promise: &'static str,
    pub figures: String,
    /// What contradicts it; empty when it held.
    pub broken: Vec<String>,
}

/// Judges every promise.
pub(super) fn judge(evidence: &Evidence) -> Vec<Verdict> {
    vec![
        one_result_each(evidence),
        one_order_each(evidence),
        dead_letters(evidence),
        nothing_missed(evidence),
        nothing_twice(evidence),
    ]
}

fn one_result_each(evidence: &Evidence) -> Verdict {
    let mut by_record: BTreeMap<(i32, i64), usize> = BTreeMap::new();
    for result in &evidence.results {
        *by_record.entry((result.source_partition, result.source_offset)).or_default() += 1;
    }
    let mut broken: Vec<String> = by_record
        .iter()
        .filter(|(_, count)| **count > 1)
        .map(|((partition, offset), count)| {
            format!("the record {partition}/{offset} has {count} results")
        })
        .collect();
    let expected = evidence.commands + evidence.invalid;
    if by_record.len() != expected {
        broken.push(format!("{expected} records wait for a result, {} have one", by_record.len()));
    }
    Verdict {
        promise: "every record that can be read has exactly one result",
        figures: format!("{} of {expected}", by_record.len()),
        broken,
    }
}

fn one_order_each(evidence: &Evidence) -> Verdict {
    let mut broken = Vec::new();
    let mut by_marker: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for order in &evidence.orders {
        match &order.marker {
            Some(marker) => {
                by_marker.entry((&order.return_no, marker)).or_default().push(&order.order_no)
            }
            None => broken.push(format!("order {} carries no marker", order.order_no)),
        }
    }
    let duplicates: Vec<_> = by_marker.iter().filter(|(_, orders)| orders.len() > 1).collect();
    broken.extend(duplicates.iter().map(|((return_no, _), orders)| {
        format!("return {return_no} has the orders {} of one command", orders.join(", "))
    }));
    let known: BTreeSet<&str> =
        evidence.orders.iter().map(|order| order.order_no.as_str()).collect();
    let mut created: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for result in evidence.results.iter().filter(|result| result.outcome == Outcome::Created) {
        let order = result.outbound_no.as_deref().unwrap_or("");
        if !known.contains(order) {
            broken.push(format!(
                "{} of {} is CREATED without an order",
                result.command_id, result.return_no
            ));
        }
        let pair = (result.return_no.as_str(), result.command_id.as_str());
        if created.insert(pair, order).is_some_and(|before| before != order) {
            broken.push(format!(
                "{} of {} was told two order numbers",
                result.command_id, result.return_no
            ));
        }
    }
    let told: BTreeSet<&str> = created.values().copied().collect();
    broken.extend(
        known
            .iter()
            .filter(|order| !told.contains(**order))
            .map(|order| format!("order {order} exists, and no result says so")),
    );
    let undecided =
        evidence.results.iter().filter(|result| result.outcome == Outcome::InDoubt).count();
    Verdict {
        promise: "every command has at most one order, and exactly one where its result says CREATED",
        figures: format!(
            "{} orders, {} commands created, {} duplicates, {undecided} in doubt",
            known.len(),
            created.len(),
            duplicates.len()
        ),
        broken,
    }
}

fn dead_letters(evidence: &Evidence) -> Verdict {
    let in_doubt =
        evidence.results.iter().filter(|result| result.outcome == Outcome::InDoubt).count();
    let expected = evidence.invalid + evidence.garbage + in_doubt;
    let broken = if evidence.dead_letters == expected {
        Vec::new()
    } else {
        vec![format!("{expected} dead letters are due, {} are there", evidence.dead_letters)]
    };
    Verdict {
        promise: "bad input is kept in the dead letters and stops nothing",
        figures: format!("{} of {expected}", evidence.dead_letters),
        broken,
    }
}

fn nothing_missed(evidence: &Evidence) -> Verdict {
    let mut last: BTreeMap<&(&'static str, String), &Face> = BTreeMap::new();
    for event in &evidence.events {
        last.insert(&event.key, &event.face);
    }
    let mut broken = Vec::new();
    for (key, record) in &evidence.records {
        match last.get(key) {
            None => broken.push(format!("{} {} was never published", key.0, key.1)),
            Some(face) if *face != record => broken.push(format!(
                "{} {} is {record:?} in the ERP and {face:?} in Kafka",
                key.0, key.1
            )),
            Some(_) => {}
        }
    }
    let figures = format!(
        "{} records, {} events, {} missed",
        evidence.records.len(),
        evidence.events.len(),
        broken.len()
    );
    Verdict { promise: "the last event of every record is what the ERP holds", figures, broken }
}

fn nothing_twice(evidence: &Evidence) -> Verdict {
    let mut last: BTreeMap<&(&'static str, String), &str> = BTreeMap::new();
    let mut broken = Vec::new();
    for event in &evidence.events {
        let before = last.insert(&event.key, &event.after);
        if before == Some(&event.after) {
            broken.push(format!("{} {} was published twice", event.key.0, event.key.1));
        }
        if before.is_some() != (event.op == "u") {
            broken.push(format!(
                "{} {} came as {:?} {}",
                event.key.0,
                event.key.1,
                event.op,
                if before.is_some() { "again" } else { "first" }
            ));
        }
    }
    let count = |op: &str| evidence.events.iter().filter(|event| event.op == op).count();
    Verdict {
        promise: "no version is published twice",
        figures: format!("{} r, {} c, {} u", count("r"), count("c"), count("u")),
        broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Timestamp, schema::ExplanationFields};

    fn result(offset: i64, id: &str, outcome: Outcome, order: Option<&str>) -> CommandResult {
        CommandResult {
            command_id: id.into(),
            return_no: "R".into(),
            outcome,
            outbound_no: order.map(str::to_owned),
            erp_code: None,
            erp_message: None,
            explanation: ExplanationFields::default(),
            warning: None,
            violations: Vec::new(),
            candidates: Vec::new(),
            attempts: 1,
            recovered: false,
            duplicate: false,
            resolved: false,
            first_attempt_at: None,
            last_attempt_at: None,
            settled_at: Timestamp(0),
            source_topic: "t".into(),
            source_partition: 0,
            source_offset: offset,
        }
    }

    fn order(number: &str, marker: &str) -> LedgerOrder {
        LedgerOrder { order_no: number.into(), return_no: "R".into(), marker: Some(marker.into()) }
    }

    fn face(modified: i64) -> Face {
        Face { modified, status: Some(1), remark: String::new() }
    }

    fn event(op: &str, modified: i64) -> Event {
        Event {
            key: ("f", "1".into()),
            op: op.into(),
            face: face(modified),
            after: modified.to_string(),
        }
    }

    fn good() -> Evidence {
        Evidence {
            commands: 2,
            invalid: 1,
            garbage: 1,
            results: vec![
                result(0, "a", Outcome::Created, Some("CK1")),
                result(1, "b", Outcome::Rejected, None),
                result(2, "c", Outcome::Invalid, None),
            ],
            dead_letters: 2,
            orders: vec![order("CK1", "#A")],
            events: vec![event("r", 1), event("u", 2)],
            records: BTreeMap::from([(("f", "1".to_owned()), face(2))]),
        }
    }

    fn broken(change: impl FnOnce(&mut Evidence)) -> usize {
        let mut evidence = good();
        change(&mut evidence);
        judge(&evidence).iter().filter(|verdict| !verdict.broken.is_empty()).count()
    }

    #[test]
    fn a_good_run_holds() {
        assert_eq!(broken(|_| {}), 0);
    }

    #[test]
    fn every_broken_promise_is_noticed() {
        let breaks: [fn(&mut Evidence); 10] = [
            |evidence| evidence.results.push(result(0, "a", Outcome::Created, Some("CK1"))),
            |evidence| evidence.results.truncate(2),
            |evidence| evidence.orders.push(order("CK2", "#A")),
            |evidence| evidence.orders.push(order("CK2", "#B")),
            |evidence| evidence.orders.clear(),
            |evidence| evidence.dead_letters = 1,
            |evidence| evidence.events.truncate(1),
            |evidence| evidence.events.clear(),
            |evidence| evidence.events.push(event("u", 2)),
            |evidence| evidence.events.push(Event { op: "c".into(), ..event("c", 2) }),
        ];
        for (at, change) in breaks.into_iter().enumerate() {
            assert!(broken(change) > 0, "break {at} went unnoticed");
        }
    }
}
