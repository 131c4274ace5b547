//! Open intents whose record does not come back, or comes back as something else.

use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use wdt_connector::testing::schema::{CommandResult, JournalEntry, Outcome};

use crate::kit::{
    commands::{command, json_bytes},
    connector::Connector,
    journal,
    records::read_all,
    rig::{PATIENCE, Rig},
    topics, until, wait,
};

/// What the ERP made of the call that nobody heard of.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    Applied,
    Lost,
}

/// A process is killed with the call of `CT/c` on the wire, and no lookup has shown anything.
fn killed(what: &str, format: &str, call: Call) -> Rig {
    let rig = Rig::with_partitions(what, 1).commands(format);
    rig.erp.approve(["CT".to_owned()]);
    let connector = rig.start();
    rig.erp.only_faults(match call {
        Call::Applied => "query:5xx=1,createOrder:applied_timeout=1x",
        Call::Lost => "query:5xx=1,createOrder:timeout=1x",
    });
    match format {
        "avro" => rig.send(&[command("CT", "c")]),
        _ => rig.send_json(&[command("CT", "c")]),
    }
    until("the call", PATIENCE, || (rig.erp.creates().received == 1).then_some(()));
    until("the call carried out", PATIENCE, || {
        (call == Call::Lost || rig.erp.order_count() == 1).then_some(())
    });
    connector.kill();
    rig.erp.only_faults("");
    rig
}

/// As retention does it, with all there is.
fn delete_all(rig: &Rig) {
    let admin: AdminClient<DefaultClientContext> = rig.broker.create().expect("an admin client");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&rig.topics.commands, 0, Offset::End).expect("an offset");
    wait(admin.delete_records(&list, &AdminOptions::new())).expect("the records are deleted");
}

fn open_intents(connector: &Connector) -> u64 {
    connector.status()["sections"]["commands"]["now"]["open_intents"].as_u64().unwrap_or(u64::MAX)
}

/// The one result of the orphan, and nothing open any more.
fn settled(rig: &Rig, connector: &Connector) -> CommandResult {
    let result = rig.results(1).remove(0);
    assert_eq!((result.return_no.as_str(), result.command_id.as_str()), ("CT", "c"), "{result:?}");
    assert_eq!((result.source_partition, result.source_offset), (0, 0), "{result:?}");
    assert_eq!(result.source_topic, rig.topics.commands);
    assert!(read_all(&rig.topics.control).is_empty(), "it is no decision");
    until("nothing open", PATIENCE, || (open_intents(connector) == 0).then_some(()));
    let listed = rig.said(&["commands", "list", "--open"]);
    assert!(!listed.1.contains("\"CT\""), "{listed:?}");
    result
}

#[test]
fn an_intent_whose_record_was_deleted_is_looked_up_and_found() {
    let rig = killed("deletedfound", "avro", Call::Applied);
    delete_all(&rig);
    let connector = rig.start();
    let result = settled(&rig, &connector);
    assert_eq!(
        (result.outcome, result.recovered, result.duplicate),
        (Outcome::Created, true, false)
    );
    assert_eq!(result.outbound_no.as_deref(), Some(rig.erp.orders()[0].order_no.as_str()));
    assert!(read_all(&rig.topics.commands_dlq).is_empty());
    // Once, whoever asks again.
    drop(connector);
    let connector = rig.start();
    rig.send(&[command("CT", "c")]);
    let copy = rig.results(2).remove(1);
    assert_eq!((copy.outcome, copy.duplicate), (Outcome::Created, true));
    assert_eq!((open_intents(&connector), rig.erp.creates().received), (0, 1));
}

#[test]
fn an_intent_whose_record_was_deleted_ends_in_doubt_after_the_bound_and_is_resolved() {
    let mut rig = killed("deletedabsent", "avro", Call::Lost);
    rig.config.set("commands", "apply_grace", "8s");
    delete_all(&rig);
    let connector = rig.start();
    // A copy waits behind it, and ends as its duplicate.
    connector.wait_log("command.next_step=\"lookup\"", PATIENCE);
    rig.send(&[command("CT", "c")]);
    assert!(read_all(&rig.topics.results).is_empty(), "an early absence decides nothing");
    let result = settled(&rig, &connector);
    assert_eq!((result.outcome, result.duplicate), (Outcome::InDoubt, false), "{result:?}");
    let copy = rig.results(2).remove(1);
    assert_eq!((copy.outcome, copy.duplicate), (Outcome::InDoubt, true), "{copy:?}");
    assert_eq!(copy.source_offset, 1);
    assert_eq!(rig.erp.creates().received, 1, "nothing is called again");
    let letters = read_all(&rig.topics.commands_dlq);
    assert_eq!(letters[0].header("wdt-omitted").as_deref(), Some("value"), "{letters:?}");
    let decided = rig.said(&["commands", "resolve", "CT", "c", "--no-order"]);
    assert_eq!(decided.0, Some(0), "{decided:?}");
    let resolved = rig.results(3).remove(2);
    assert_eq!((resolved.outcome, resolved.resolved), (Outcome::Rejected, true), "{resolved:?}");
}

#[test]
fn a_copy_that_is_read_before_its_intent_is_an_orphan_settles_it() {
    let rig = killed("copyfirst", "avro", Call::Applied);
    delete_all(&rig);
    rig.send(&[command("CT", "c")]);
    let connector = rig.start();
    until("nothing open", PATIENCE, || (open_intents(&connector) == 0).then_some(()));
    rig.send(&[command("CT", "c")]);
    let results = rig.results(2);
    let all: Vec<_> = results
        .iter()
        .map(|result| (result.source_offset, result.outcome, result.duplicate))
        .collect();
    let orphan_first = (0, Outcome::Created, false);
    let copy_first = (1, Outcome::Created, false);
    assert!(
        all == [copy_first, (2, Outcome::Created, true)]
            || all.starts_with(&[orphan_first, (1, Outcome::Created, true)]),
        "{results:?}"
    );
    assert_eq!(rig.erp.creates().received, 1);
}

#[test]
fn an_intent_whose_record_stands_in_another_partition_is_looked_up_once_that_had_its_time() {
    let mut rig = killed("moved", "avro", Call::Applied);
    let entry = read_all(&rig.topics.journal)
        .iter()
        .filter(|record| record.value.is_some() && record.key_text() == "[\"CT\",\"c\"]")
        .map(|record| rig.journal(record))
        .next_back()
        .expect("an intent");
    delete_all(&rig);
    let moved = [command("CT", "c")].into_iter();
    journal::write_as(rig.broker.clone(), &rig.topics.journal, 1, moved, 1, |_, _, _, _| {
        JournalEntry { source_partition: 5, source_offset: 77, ..entry.clone() }
    });
    rig.config.set("commands", "lookup_timeout", "8s");
    let connector = rig.start();
    assert_eq!(open_intents(&connector), 1);
    let result = rig.results(1).remove(0);
    assert_eq!((result.outcome, result.recovered), (Outcome::Created, true), "{result:?}");
    assert_eq!((result.source_partition, result.source_offset), (5, 77));
    until("nothing open", PATIENCE, || (open_intents(&connector) == 0).then_some(()));
}

#[test]
fn an_intent_whose_log_was_made_again_is_looked_up_although_no_record_reaches_its_offset() {
    let mut rig = Rig::with_partitions("madeagain", 1).commands("avro");
    rig.erp.take_anything();
    let connector = rig.start();
    rig.send(&[command("A", "a"), command("B", "b")]);
    rig.results(2);
    rig.wait_committed(2);
    rig.erp.only_faults("query:5xx=1,createOrder:applied_timeout=1x");
    rig.send(&[command("CT", "c")]);
    until("the order", PATIENCE, || (rig.erp.order_count() == 3).then_some(()));
    connector.kill();
    rig.erp.only_faults("");
    topics::delete(&rig.topics.commands);
    topics::create(&[(&rig.topics.commands, 1, &[])]);
    rig.config.set("commands", "lookup_timeout", "8s");
    let connector = rig.start();
    assert_eq!(open_intents(&connector), 1);
    let result = rig.results(3).remove(2);
    assert_eq!((result.outcome, result.recovered), (Outcome::Created, true), "{result:?}");
    assert_eq!((result.return_no.as_str(), result.source_offset), ("CT", 2));
    until("nothing open", PATIENCE, || (open_intents(&connector) == 0).then_some(()));
}

#[test]
fn an_intent_below_offsets_that_were_set_forward_is_looked_up() {
    let rig = killed("setforward", "avro", Call::Applied);
    until("nobody in the group", PATIENCE, || {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rig.reset_offset(0, 1))).ok()
    });
    let connector = rig.start();
    let result = settled(&rig, &connector);
    assert_eq!((result.outcome, result.recovered), (Outcome::Created, true));
}

#[test]
fn a_record_that_became_unreadable_over_its_own_intent_gets_what_the_intent_came_to() {
    for (call, outcome) in [(Call::Applied, Outcome::Created), (Call::Lost, Outcome::InDoubt)] {
        let mut rig = killed("unreadable", "json", call);
        // As Avro it is nothing.
        rig.config.set("commands", "format", "avro");
        let connector = rig.start();
        let result = settled(&rig, &connector);
        assert_eq!((result.outcome, result.duplicate), (outcome, false), "{result:?}");
        let letters = read_all(&rig.topics.commands_dlq);
        assert_eq!(letters.len(), usize::from(call == Call::Lost), "{letters:?}");
        assert!(
            letters.iter().all(|letter| letter.value == Some(json_bytes(&command("CT", "c")))),
            "as it stood there"
        );
        rig.wait_committed(1);
        // One that was never called is what it was.
        rig.send_json(&[command("CT", "d")]);
        until("the dead letter", PATIENCE, || {
            (read_all(&rig.topics.commands_dlq).len() > letters.len()).then_some(())
        });
        assert_eq!(rig.results(1).len(), 1);
    }
}

#[test]
fn an_orphan_is_settled_once_wherever_the_process_is_killed() {
    for point in [
        "lookup.answered",
        "finding.judged",
        "outcome.drafted",
        "txn.delivered",
        "outcome.committed",
    ] {
        let rig = killed("orphankilled", "avro", Call::Applied);
        delete_all(&rig);
        let passage = if point.starts_with("txn") { "1*off->kill" } else { "kill" };
        let mut connector = rig.spawn_with(&[("FAILPOINTS", &format!("{point}={passage}"))]);
        let ended = connector.wait_end(PATIENCE);
        assert!(ended.is_some_and(|status| !status.success()), "{point}");
        let connector = rig.start();
        let result = settled(&rig, &connector);
        assert_eq!((result.outcome, result.recovered), (Outcome::Created, true), "{point}");
        assert_eq!(rig.results(1).len(), 1, "{point}");
    }
}
