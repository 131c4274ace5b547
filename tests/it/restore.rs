//! What the journal remembers: through restarts, long lists, compaction, and settlements ahead of
//! the committed offset.

use std::collections::BTreeMap;

use wdt_connector::testing::{
    clock::Timestamp,
    schema::{CreateReturnOutbound, EntryKind, JournalEntry},
};

use crate::kit::{
    commands::{WAREHOUSE, command},
    journal,
    ledger::Verdict,
    records::{Sender, read_all},
    rig::{PATIENCE, Rig},
    topics, until,
};

fn some(what: &str, count: usize) -> Vec<CreateReturnOutbound> {
    (0..count)
        .map(|number| command(&format!("{what}{number:05}"), &format!("cmd-{number}")))
        .collect()
}

#[test]
fn twenty_thousand_outcomes_are_remembered_after_a_restart() {
    let rig = Rig::new("many").commands("avro");
    rig.erp.take_anything();
    let commands = some("MA", 20_000);
    journal::write(rig.broker.clone(), &rig.topics.journal, 4, commands.iter().cloned(), 500);
    let connector = rig.start();
    rig.send(&commands);
    let results = rig.results(commands.len());
    assert_eq!(results.len(), commands.len());
    for result in &results {
        let number: usize = result.command_id.trim_start_matches("cmd-").parse().expect("a number");
        let expected = format!("CK-OLD-{number}");
        assert!(
            result.duplicate && result.outbound_no.as_deref() == Some(expected.as_str()),
            "{result:?}"
        );
    }
    assert_eq!(rig.erp.creates().received, 0, "nothing was called");
    drop(connector);
}

/// An entry of no command: harmless, and what the journal grows by.
fn grow(rig: &Rig, sender: &Sender) {
    let mut entry: JournalEntry = journal::outcome(&command("", ""), 0, -1, "");
    entry.kind = EntryKind::Barrier;
    entry.outcome = None;
    entry.outbound_no = None;
    entry.fingerprint = Vec::new();
    entry.written_at = Timestamp::now();
    let value = rig.codec().encode_journal(&entry).expect("an entry fits its schema");
    let key = serde_json::json!(["#grown", WAREHOUSE]).to_string();
    sender.send_to(&rig.topics.journal, 0, Some(key.as_bytes()), Some(&value));
    sender.flush();
}

/// How often each command has an entry.
fn entries(rig: &Rig) -> BTreeMap<(String, String), Vec<EntryKind>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for record in read_all(&rig.topics.journal).iter().filter(|record| record.value.is_some()) {
        let entry = rig.journal(record);
        if matches!(entry.kind, EntryKind::Intent | EntryKind::Outcome) {
            found.entry((entry.return_no, entry.command_id)).or_default().push(entry.kind);
        }
    }
    found
}

#[test]
fn outcomes_and_open_intents_survive_compaction() {
    let mut rig = Rig::bare("compact").commands("avro");
    let names = rig.topics.clone();
    let eager = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "300"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("delete.retention.ms", "100"),
        ("min.compaction.lag.ms", "0"),
    ];
    topics::create(&[
        (&names.commands, 1, &[]),
        (&names.results, 1, &[]),
        (&names.commands_dlq, 1, &[]),
        (&names.journal, 1, &eager),
    ]);
    rig.erp.take_anything();
    rig.config.set("commands", "call_timeout", "60s");
    let commands = some("CO", 103);
    let connector = rig.start();
    rig.send(&commands[..100]);
    rig.results(100);
    // Three intents stay open: their orders are made without an answer.
    rig.erp.faults("createOrder:applied_timeout=3x");
    rig.send(&commands[100..]);
    until("three orders without an answer", PATIENCE, || {
        (rig.erp.order_count() == 103).then_some(())
    });
    connector.kill();
    let sender = Sender::new();
    until("a compacted journal", PATIENCE, || {
        grow(&rig, &sender);
        (entries(&rig).values().map(Vec::len).sum::<usize>() == 103).then_some(())
    });
    let after = entries(&rig);
    assert_eq!(after.values().filter(|kinds| **kinds == [EntryKind::Outcome]).count(), 100);
    assert_eq!(after.values().filter(|kinds| **kinds == [EntryKind::Intent]).count(), 3);
    // A hundred intents were written before their outcomes, and are gone.
    let written = read_all(&rig.topics.journal).iter().map(|record| record.offset).max();
    assert!(written >= Some(203), "the log goes up to {written:?}");

    rig.config.set("commands", "call_timeout", "2s");
    let calls = rig.erp.creates().received;
    let _connector = rig.start();
    rig.send(&commands[..100]);
    let results = rig.results(203);
    let (copies, firsts): (Vec<_>, Vec<_>) =
        results.into_iter().partition(|result| result.duplicate);
    assert_eq!(copies.len(), 100);
    let verdict = Verdict::of(&rig, &commands, &firsts);
    verdict.assert_each_once(commands.len(), "after the compaction");
    assert_eq!(
        (verdict.recovered, rig.erp.creates().received),
        (3, calls),
        "the open ones are found, nothing is called again"
    );
}

#[test]
fn what_settled_ahead_of_the_committed_offset_is_not_settled_again() {
    let mut rig = Rig::with_partitions("ahead", 1).commands("avro");
    rig.erp.take_anything();
    rig.config.set("commands", "call_timeout", "60s");
    let commands = some("AH", 61);
    // The first holds the offset back; the others settle ahead of it.
    rig.erp.faults("createOrder:applied_timeout=1x");
    let connector = rig.start();
    rig.send(&commands[..1]);
    until("the first call", PATIENCE, || (rig.erp.creates().received == 1).then_some(()));
    rig.send(&commands[1..31]);
    rig.results(30);
    assert_eq!(rig.committed_sum(), 0, "the committed offset waits for the first command");
    connector.kill();
    // A second life settles some more ahead, remembers the first's, and dies as well.
    rig.erp.faults("outbounds:timeout=1000x");
    let connector = rig.start();
    rig.send(&commands[31..]);
    until("the others' results", PATIENCE, || {
        (rig.reader(&rig.topics.results).finish().len() >= 60).then_some(())
    });
    connector.kill();
    rig.erp.only_faults("");
    rig.config.set("commands", "call_timeout", "2s");
    let _connector = rig.start();
    let results = rig.results(commands.len());
    rig.wait_committed(61);
    let verdict = Verdict::of(&rig, &commands, &results);
    verdict.assert_each_once(commands.len(), "settled ahead");
    assert_eq!(rig.erp.creates().received, 61, "nothing was called twice");
}
