//! The figures of the README's section on sizing, measured small.

use std::time::Duration;

use wdt_connector::testing::schema::EntryKind;

use crate::{
    kit::{
        commands::command,
        records::{Record, read_all},
        rig::Rig,
    },
    parts::say,
};

/// Kafka's own bytes around a record in a batch of many: lengths, deltas, attributes.
const AROUND: usize = 12;

fn bytes<'a>(records: impl IntoIterator<Item = &'a Record>) -> usize {
    records
        .into_iter()
        .map(|one| {
            one.key.as_ref().map_or(0, Vec::len) + one.value.as_ref().map_or(0, Vec::len) + AROUND
        })
        .sum()
}

#[test]
fn the_journal_needs_what_the_readme_says() {
    const COMMANDS: usize = 500;
    let rig = Rig::new("sizing").commands("avro");
    rig.erp.take_anything();
    // Numbers as long as real ones.
    rig.send(
        &(0..COMMANDS)
            .map(|number| {
                command(
                    &format!("TH2026112400{number:05}"),
                    &format!("4f6b1f0e-5b1d-4b8e-9f57-0000000{number:05}"),
                )
            })
            .collect::<Vec<_>>(),
    );
    let connector = rig.start();
    rig.results(COMMANDS);
    rig.wait_committed(i64::try_from(COMMANDS).unwrap());
    let journal = read_all(&rig.topics.journal);
    let of = |kind: EntryKind| {
        journal
            .iter()
            .filter(|one| one.value.is_some() && rig.journal(one).kind == kind)
            .collect::<Vec<_>>()
    };
    let (intents, outcomes) = (of(EntryKind::Intent), of(EntryKind::Outcome));
    assert_eq!(
        (intents.len(), outcomes.len()),
        (COMMANDS, COMMANDS),
        "two entries for a command without faults"
    );
    let (intent, outcome) = (bytes(intents) / COMMANDS, bytes(outcomes) / COMMANDS);
    let result = bytes(&read_all(&rig.topics.results)) / COMMANDS;
    say(&format!(
        "bytes per command: journal {intent} of the intent and {outcome} of the outcome, so {} MB per million commands once compacted and {} MB before; result {result}; memory of the process at most {} MB",
        outcome,
        intent + outcome,
        connector.memory("VmHWM") / 1024,
    ));
    // As the README says: 300 MB per million once compacted, 600 MB before.
    assert!(outcome <= 300 && intent <= 300, "{intent}, {outcome}");
    assert!(connector.terminate(Duration::from_secs(20)).success());
}
