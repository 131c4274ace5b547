//! What the command pipeline does when the world is not as it should be: outages, unapproved
//! returns, wrong partitions, pauses, expired memory, other assignors.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use serde_json::json;
use wdt_connector::testing::{
    clock::Timestamp,
    config::Partitioner,
    schema::{CommandResult, CreateReturnOutbound, EntryKind, Outcome},
    sink::partition_of,
};

use crate::kit::{
    commands::{avro, command},
    connector::Connector,
    erp::Kind,
    http,
    records::{Reader, Record, Sender, read_all},
    rig::{PATIENCE, Rig},
    topics, until,
};

fn approved(rig: &Rig, prefix: &str, count: usize) -> Vec<CreateReturnOutbound> {
    let all: Vec<_> =
        (0..count).map(|number| command(&format!("{prefix}-{number:03}"), "c")).collect();
    rig.erp.approve(all.iter().map(|one| one.return_no.clone()));
    all
}

fn pipeline(connector: &Connector) -> serde_json::Value {
    connector.status()["sections"]["commands"].clone()
}

/// One order and one `CREATED` result for each of the commands, among whatever else there is.
fn assert_once(rig: &Rig, commands: &[CreateReturnOutbound], results: &[CommandResult]) {
    let orders = rig.erp.orders();
    for one in commands {
        let made = orders.iter().filter(|order| order.return_no == one.return_no).count();
        let own: Vec<_> = results
            .iter()
            .filter(|result| result.return_no == one.return_no && !result.duplicate)
            .collect();
        assert_eq!(
            (made, own.len(), own[0].outcome),
            (1, 1, Outcome::Created),
            "{}: {own:?}",
            one.return_no
        );
    }
}

#[test]
fn every_kind_of_outage_pauses_and_nothing_is_given_up() {
    let mut rig = Rig::with_partitions("outages", 2).commands("avro");
    // Were an attempt counted, the second one would end in doubt.
    rig.config.set("commands", "max_attempts", 1);
    let first = approved(&rig, "FIRST", 1);
    let connector = rig.start();
    rig.send(&first);
    rig.results(1);
    let mut sent = 1;
    for (number, (faults, circuit)) in [
        ("all:5xx=1", "open"),
        ("all:timeout=1", "open"),
        ("all:signature=1", "open"),
        ("all:ip=1", "open"),
        // Reads work: one command at a time is let through.
        ("createOrder:permission=1", "half_open"),
        ("createOrder:throttle=1", "closed"),
    ]
    .into_iter()
    .enumerate()
    {
        let commands = approved(&rig, &format!("OUT{number}"), 8);
        let calls = rig.erp.creates().received;
        rig.erp.only_faults(faults);
        rig.send(&commands);
        until(&format!("{faults}: the circuit is {circuit}"), PATIENCE, || {
            let seen = pipeline(&connector)["circuit"] == circuit
                || (circuit == "half_open" && pipeline(&connector)["circuit"] == "open");
            (seen && rig.erp.creates().received > calls).then_some(())
        });
        assert_eq!(
            http::get(&connector.url("/readyz")).unwrap().status,
            200,
            "{faults}: an outage does not make it unready"
        );
        assert_eq!(
            read_all(&rig.topics.results).len(),
            sent,
            "{faults}: nothing is settled meanwhile"
        );
        rig.erp.only_faults("");
        sent += commands.len();
        let results = rig.results(sent);
        assert_once(&rig, &commands, &results);
        assert!(
            results.iter().all(|result| result.outcome == Outcome::Created),
            "{faults}: {results:?}"
        );
    }
    assert!(read_all(&rig.topics.commands_dlq).is_empty());
    assert_eq!(
        connector.log().matches("partition restored").count(),
        2,
        "the member never left its group"
    );
}

#[test]
fn an_unapproved_return_is_tried_again_and_holds_back_only_itself() {
    let mut rig = Rig::with_partitions("unapproved", 1).commands("avro");
    rig.config.set("commands", "unapproved_retry_timeout", "10m");
    rig.erp.approve(["CT-READY".to_owned(), "CT-WAITS".to_owned()]);
    rig.erp.modify(Kind::Returns, "CT-WAITS", &json!({"status": 30}));
    let connector = rig.start();
    rig.send(&[command("CT-WAITS", "c-1"), command("CT-WAITS", "c-2"), command("CT-READY", "c-1")]);
    let ready = rig.results(1).remove(0);
    assert_eq!(
        (ready.return_no.as_str(), ready.outcome),
        ("CT-READY", Outcome::Created),
        "another return does not wait"
    );
    assert_eq!(rig.erp.orders().len(), 1);
    // The pause between two tries is a twentieth of the time: a restart with a shorter one sees
    // several.
    assert!(connector.terminate(Duration::from_secs(20)).success());
    rig.config.set("commands", "unapproved_retry_timeout", "90s");
    let before = rig.erp.creates().received;
    let _connector = rig.start();
    until("a second try", PATIENCE, || (rig.erp.creates().received >= before + 2).then_some(()));
    rig.erp.modify(Kind::Returns, "CT-WAITS", &json!({"status": 40}));
    let results = rig.results(3);
    let ends: Vec<_> = results[1..]
        .iter()
        .map(|result| (result.command_id.as_str(), result.outcome, result.attempts))
        .collect();
    assert_eq!(
        ends,
        [("c-1", Outcome::Created, 1), ("c-2", Outcome::Created, 1)],
        "in order, and no attempt is counted"
    );
    assert!(read_all(&rig.topics.commands_dlq).is_empty());
}

#[test]
fn an_unapproved_return_is_rejected_when_the_time_is_over_or_none_is_given() {
    let mut rig = Rig::with_partitions("rejected", 1).commands("avro");
    rig.erp.approve(["CT-1".to_owned()]);
    rig.erp.modify(Kind::Returns, "CT-1", &json!({"status": 30}));
    let connector = rig.start();
    rig.send(&[command("CT-1", "c-1")]);
    assert_eq!(rig.results(1)[0].outcome, Outcome::Rejected);
    assert_eq!(rig.erp.creates().received, 1);
    assert!(connector.terminate(Duration::from_secs(20)).success());
    rig.config.set("commands", "unapproved_retry_timeout", "2s");
    let _connector = rig.start();
    rig.send(&[command("CT-1", "c-2")]);
    assert_eq!(rig.results(2)[1].outcome, Outcome::Rejected);
    assert!(rig.erp.creates().received >= 3, "it was tried again before");
}

#[test]
fn waiting_for_an_approval_counts_as_no_attempt_through_restarts_either() {
    let mut rig = Rig::with_partitions("unanswered", 1).commands("avro");
    rig.config.set("commands", "unapproved_retry_timeout", "20s").set(
        "commands",
        "max_attempts",
        3,
    );
    rig.erp.approve(["CT-SHOWN".to_owned(), "CT-WAITS".to_owned()]);
    rig.erp.modify(Kind::Returns, "CT-WAITS", &json!({"status": 30}));
    let mut connector = rig.start();
    rig.send(&[command("CT-SHOWN", "c")]);
    rig.results(1);
    rig.erp.only_faults("createOrder:timeout=1x");
    rig.send(&[command("CT-WAITS", "c")]);
    for gracefully in [true, false, true] {
        let before = rig.erp.creates().received;
        until("two tries", PATIENCE, || (rig.erp.creates().received >= before + 2).then_some(()));
        if gracefully {
            assert!(connector.terminate(Duration::from_secs(20)).success());
        } else {
            connector.kill();
        }
        connector = rig.start();
    }
    rig.erp.modify(Kind::Returns, "CT-WAITS", &json!({"status": 40}));
    let result = rig.results(2).remove(1);
    assert_eq!(
        (result.outcome, result.recovered, result.duplicate),
        (Outcome::Created, false, false),
        "{result:?}"
    );
    assert!((2..=3).contains(&result.attempts), "{result:?}");
    assert_eq!(rig.erp.orders().len(), 2);
}

#[test]
fn a_paused_route_begins_nothing_through_a_restart_and_goes_on_when_resumed() {
    let rig = Rig::with_partitions("pause", 2).commands("avro");
    let commands = approved(&rig, "CT", 10);
    let connector = rig.start();
    assert!(rig.verb(&["commands", "pause", "--by", "the night shift"], b"").status.success());
    until("the pause in /status", PATIENCE, || {
        pipeline(&connector)["paused"]
            .as_str()
            .is_some_and(|said| said.contains("night shift"))
            .then_some(())
    });
    assert!(connector.metric("wdt_connector_pipeline_paused", &["commands"]) >= 1.0);
    rig.send(&commands);
    connector.kill();
    let connector = rig.start();
    until("the pause after a restart", PATIENCE, || {
        pipeline(&connector)["paused"].is_string().then_some(())
    });
    assert_eq!((rig.erp.creates().received, read_all(&rig.topics.results).len()), (0, 0));
    assert!(rig.verb(&["commands", "resume"], b"").status.success());
    let results = rig.results(10);
    assert_once(&rig, &commands, &results);
    until("the end of the pause in /status", PATIENCE, || {
        pipeline(&connector)["paused"].is_null().then_some(())
    });
}

#[test]
fn look_ups_go_on_while_the_route_is_paused() {
    let rig = Rig::with_partitions("pausedoubt", 1).commands("avro");
    let commands = approved(&rig, "CT", 1);
    let connector = rig.start();
    rig.erp.only_faults("query:5xx=1,createOrder:applied_timeout=1x");
    rig.send(&commands);
    until("the order", PATIENCE, || (rig.erp.order_count() == 1).then_some(()));
    assert!(rig.verb(&["commands", "pause"], b"").status.success());
    until("the pause", PATIENCE, || pipeline(&connector)["paused"].is_string().then_some(()));
    rig.erp.only_faults("");
    let result = rig.results(1).remove(0);
    assert_eq!((result.outcome, result.recovered), (Outcome::Created, true));
}

#[test]
fn a_command_that_waited_for_a_visibility_check_is_called_once_however_long_it_is_held_up_then() {
    let mut rig = Rig::with_partitions("visible", 1).commands("avro");
    let limit = Duration::from_secs(12);
    rig.config.set("commands", "lookup_timeout", format!("{}s", limit.as_secs())).set(
        "erp",
        "max_visibility_lag",
        "3s",
    );
    let commands = approved(&rig, "CT", 2);
    let connector = rig.start();
    // Nothing was created, and no order of ours is there to check the lookups with: absence means
    // nothing yet.
    rig.erp.only_faults("createOrder:reset=1x");
    rig.send(&commands[..1]);
    let asked = |times: usize, how: &str| {
        until(how, PATIENCE, || {
            (connector.log().lines().filter(|line| line.contains(how)).count() >= times)
                .then_some(())
        });
    };
    asked(1, "command.next_step=\"await_visibility\"");
    let patient = Instant::now() + limit;
    rig.send(&commands[1..]);
    rig.results(1);
    // Before the second order must be visible.
    assert!(rig.verb(&["commands", "pause"], b"").status.success());
    until("the pause", PATIENCE, || pipeline(&connector)["paused"].is_string().then_some(()));
    asked(1, "command.next_step=\"new_intent\"");
    assert_eq!(rig.erp.creates().received, 2, "the pause came before the check");
    // When its patience would have ended it has been in line for long.
    until("the end of its patience", PATIENCE, || {
        (Instant::now() > patient + Duration::from_secs(1)).then_some(())
    });
    rig.erp.latency(Duration::from_millis(300));
    assert!(rig.verb(&["commands", "resume"], b"").status.success());
    let results = rig.results(2);
    assert_once(&rig, &commands, &results);
    assert_eq!((rig.erp.creates().received, rig.erp.order_count()), (3, 2));
}

#[test]
fn many_open_intents_after_a_crash_cost_one_question() {
    let rig = Rig::with_partitions("bundle", 2).commands("avro");
    let commands = approved(&rig, "CT", 20);
    let connector = rig.start();
    rig.erp.only_faults("query:5xx=1,createOrder:applied_timeout=1");
    rig.send(&commands);
    until("twenty orders nobody was told of", PATIENCE, || {
        (rig.erp.order_count() == 20).then_some(())
    });
    connector.kill();
    rig.erp.only_faults("");
    let asked = rig.erp.queries();
    let connector = rig.start();
    let results = rig.results(20);
    assert_once(&rig, &commands, &results);
    assert!(results.iter().all(|result| result.recovered), "{results:?}");
    let asked = rig.erp.queries() - asked;
    assert!(asked < 10, "{asked} questions for 20 open intents");
    until("how they were settled in /status", PATIENCE, || {
        (pipeline(&connector)["settled_by_bulk_lookup"].as_u64()? >= 15).then_some(())
    });
}

#[test]
fn outcomes_are_forgotten_after_the_horizon_but_open_intents_never_and_old_records_are_looked_for()
{
    let mut rig = Rig::with_partitions("horizon", 1).commands("avro");
    let commands = approved(&rig, "CT", 6);
    let connector = rig.start();
    rig.send(&commands[..5]);
    rig.results(5);
    // A refusal of the ERP's own: its clock is known by it, and nothing is looked up.
    rig.erp.only_faults("query:database=1,createOrder:applied_timeout=1x");
    rig.send(&commands[5..]);
    until("an order nobody was told of", PATIENCE, || (rig.erp.order_count() == 6).then_some(()));
    connector.kill();
    rig.config.set("commands", "dedup_window", "1s");
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.journal);
    reader.until("five tombstones", PATIENCE, |seen| {
        seen.iter()
            .filter(|record| record.value.is_none())
            .map(|record| record.key.clone())
            .collect::<BTreeSet<_>>()
            .len()
            >= 5
    });
    let open = format!("[\"{}\",\"c\"]", commands[5].return_no);
    let last = reader
        .finish()
        .iter()
        .rfind(|record| record.key_text() == open)
        .expect("the open intent")
        .clone();
    assert_eq!(rig.journal(&last).kind, EntryKind::Intent, "an open intent is never forgotten");
    until("their number in /status", PATIENCE, || {
        (pipeline(&connector)["expired_outcomes"] == 5).then_some(())
    });

    // Copies of what is forgotten: as old as they say they are, so the ERP is asked before anything
    // is called.
    rig.erp.only_faults("");
    let sender = Sender::new();
    for one in &commands[..5] {
        sender.send(
            &rig.topics.commands,
            Some(one.return_no.as_bytes()),
            Some(&avro(one)),
            &[("wdt-original-timestamp", "1000"), ("wdt-redrive-count", "0")],
        );
    }
    sender.flush();
    let results = rig.results(11);
    assert_eq!(rig.erp.order_count(), 6, "nothing is created twice");
    assert!(
        results[5..].iter().all(|result| result.outcome == Outcome::Created && result.recovered),
        "{results:?}"
    );
}

#[test]
fn a_deadline_ends_what_was_not_begun_and_never_what_was() {
    let rig = Rig::with_partitions("deadline", 1).commands("avro");
    let mut commands = approved(&rig, "CT", 2);
    commands[0].expires_at = Some(Timestamp::now().minus(Duration::from_secs(1)));
    let _connector = rig.start();
    rig.send(&commands[..1]);
    let result = rig.results(1).remove(0);
    assert_eq!((result.outcome, rig.erp.creates().received), (Outcome::Expired, 0));
    assert!(read_all(&rig.topics.commands_dlq).is_empty());
    // Called before its deadline, answered by a lookup after it.
    rig.erp.only_faults("query:5xx=1,createOrder:applied_timeout=1x");
    let deadline = Timestamp::now().plus(Duration::from_secs(8));
    commands[1].expires_at = Some(deadline);
    rig.send(&commands[1..]);
    until("the order", PATIENCE, || (rig.erp.order_count() == 1).then_some(()));
    until("the deadline", PATIENCE, || (Timestamp::now() > deadline).then_some(()));
    rig.erp.only_faults("");
    let result = rig.results(2).remove(1);
    assert_eq!((result.outcome, result.recovered), (Outcome::Created, true), "{result:?}");
}

#[test]
fn a_rejection_of_a_later_attempt_is_final_only_after_looking() {
    let rig = Rig::with_partitions("later", 1).commands("avro");
    let commands = approved(&rig, "CT", 2);
    let _connector = rig.start();
    rig.send(&commands[..1]);
    rig.results(1);
    rig.erp.only_faults("createOrder:timeout=1x");
    rig.send(&commands[1..]);
    until("the call without an answer", PATIENCE, || (!rig.erp.armed("timeout")).then_some(()));
    rig.erp.only_faults("createOrder:inner_reject=1x");
    until("the rejection", PATIENCE, || (!rig.erp.armed("inner_reject")).then_some(()));
    let asked = rig.erp.queries();
    let result = rig.results(2).remove(1);
    assert_eq!((result.outcome, result.attempts), (Outcome::Rejected, 2), "{result:?}");
    assert!(rig.erp.queries() > asked, "asked about after the rejection");
    assert_eq!(rig.erp.order_count(), 1);
}

#[test]
fn a_second_signal_ends_at_once_and_loses_nothing() {
    let mut rig = Rig::with_partitions("second", 1).commands("avro");
    rig.config.set("commands", "drain_timeout", "60s").set("commands", "call_timeout", "50s").set(
        "commands",
        "lookup_timeout",
        "5m",
    );
    let commands = approved(&rig, "CT", 3);
    rig.erp.only_faults("createOrder:timeout=1");
    let mut connector = rig.start();
    rig.send(&commands);
    until("calls on the wire", PATIENCE, || (rig.erp.creates().received == 3).then_some(()));
    connector.ask_to_end();
    connector.wait_log("a second signal exits immediately", PATIENCE);
    assert!(connector.running(), "it waits for the calls on the wire");
    let ended = connector.terminate(Duration::from_secs(20));
    assert_eq!(ended.code(), Some(1));
    rig.erp.only_faults("");
    rig.config.set("commands", "call_timeout", "2s");
    // An order of the warehouse proves that lookups can see one.
    let proof = approved(&rig, "PROOF", 1);
    let _connector = rig.start();
    rig.send(&proof);
    let results = rig.results(4);
    assert_once(&rig, &commands, &results);
}

#[test]
fn a_drain_that_runs_out_of_time_leaves_its_calls_to_the_next_owner() {
    let mut rig = Rig::with_partitions("drainout", 1).commands("avro");
    rig.config
        .set("commands", "drain_timeout", "500ms")
        .set("commands", "call_timeout", "30s")
        .set("commands", "lookup_timeout", "5m");
    let commands = approved(&rig, "CT", 4);
    rig.erp.only_faults("createOrder:slow(20s)=1");
    let connector = rig.start();
    rig.send(&commands);
    until("orders whose answers are on their way", PATIENCE, || {
        (rig.erp.order_count() == 4).then_some(())
    });
    assert_eq!(
        connector.terminate(Duration::from_secs(15)).code(),
        Some(0),
        "it does not wait for the answers"
    );
    assert!(read_all(&rig.topics.results).is_empty());
    rig.erp.only_faults("");
    rig.config.set("commands", "call_timeout", "2s");
    let _connector = rig.start();
    let results = rig.results(4);
    assert_once(&rig, &commands, &results);
    assert!(results.iter().all(|result| result.recovered), "{results:?}");
}

#[test]
fn partitions_given_back_during_an_outage_leave_nobody_without_probes() {
    let mut rig = Rig::new("openrain").commands("avro");
    // Everything is revoked from the first while the second joins: it drains for as long as calls
    // are on the wire.
    rig.config.set("commands", "call_timeout", "12s").set("commands", "drain_timeout", "8s").set(
        "commands",
        "lookup_timeout",
        "5m",
    );
    let (held, failing) = (approved(&rig, "HELD", 4), approved(&rig, "RESET", 40));
    let known = approved(&rig, "KNOWN", 1);
    let first = rig.start();
    // With an order that exists, absence of others can be believed.
    rig.send(&known);
    rig.results(1);
    rig.erp.only_faults("createOrder:timeout=4x");
    rig.send(&held);
    until("calls that are not answered", PATIENCE, || {
        (rig.erp.creates().received == 5).then_some(())
    });
    rig.erp.only_faults("createOrder:reset=1,query:5xx=1");
    rig.send(&failing);
    until("an open circuit", PATIENCE, || (pipeline(&first)["circuit"] == "open").then_some(()));
    rig.config.set("kafka", "instance_ordinal", 1);
    let second = rig.start();
    until("the second's partitions", PATIENCE, || {
        pipeline(&second)["partitions"].as_array().is_some_and(|all| all.len() == 2).then_some(())
    });
    rig.erp.only_faults("");
    let results = rig.results(45);
    assert_once(&rig, &held, &results);
    assert_once(&rig, &failing, &results);
    assert_eq!((results.len(), rig.erp.order_count()), (45, 45));
    first.wait_log("drain timeout", PATIENCE);
}

#[test]
fn look_ups_that_fail_for_reasons_of_their_own_keep_no_circuit_open() {
    let rig = Rig::with_partitions("ownreasons", 2).commands("avro");
    let (known, doubtful, fresh) =
        (approved(&rig, "KNOWN", 1), approved(&rig, "RESET", 8), approved(&rig, "FRESH", 4));
    let connector = rig.start();
    rig.send(&known);
    rig.results(1);
    // A refused question says that the ERP is there, and nothing about the command it was about.
    rig.erp.only_faults("createOrder:reset=1,query:throttle=1");
    rig.send(&doubtful);
    until("an open circuit", PATIENCE, || {
        (pipeline(&connector)["circuit"] == "open").then_some(())
    });
    rig.erp.only_faults("query:throttle=1");
    rig.send(&fresh);
    let mut reader = Reader::new(&rig.topics.results);
    reader.until("the fresh commands' results", PATIENCE, |seen| {
        let settled: BTreeSet<String> = seen.iter().map(Record::key_text).collect();
        fresh.iter().all(|one| settled.contains(&one.return_no))
    });
    rig.erp.only_faults("");
    let results = rig.results(1 + fresh.len() + doubtful.len());
    assert_once(&rig, &doubtful, &results);
    assert_once(&rig, &fresh, &results);
}

#[test]
fn an_instance_that_lost_its_partitions_while_frozen_adds_nothing() {
    let mut rig = Rig::with_partitions("lost", 2).commands("avro");
    let commands = approved(&rig, "CT", 40);
    rig.erp.latency(Duration::from_millis(200));
    let mut frozen = rig.start();
    rig.send(&commands[..20]);
    until("the stream", PATIENCE, || (rig.erp.order_count() >= 5).then_some(()));
    frozen.freeze();
    rig.config.set("kafka", "instance_ordinal", 1);
    let second = rig.start();
    rig.send(&commands[20..]);
    // The second one gets everything once the first one's session is over.
    let results = rig.results(40);
    frozen.thaw();
    frozen.wait_log("partitions lost", PATIENCE);
    assert_once(&rig, &commands, &results);
    assert_eq!((rig.results(40).len(), rig.erp.order_count()), (40, 40));
    drop((frozen, second));
}

#[test]
fn partitions_added_while_it_runs_stop_the_route_with_what_to_do() {
    let mut rig = Rig::with_partitions("growing", 2).commands("avro");
    rig.config.kafka_property("topic.metadata.refresh.interval.ms", "1000");
    let mut connector = rig.start();
    topics::grow(&rig.topics.commands, 4);
    until("its end", PATIENCE, || (!connector.running()).then_some(()));
    assert!(connector.log().contains("topics repartition --partitions 4"), "{}", connector.log());
}

#[test]
fn an_instance_that_joins_takes_partitions_over_without_a_second_order_or_result() {
    let mut rig = Rig::new("eager").commands("avro");
    let commands = approved(&rig, "CT", 120);
    rig.erp.latency(Duration::from_millis(150));
    let first = rig.start();
    rig.send(&commands[..60]);
    until("the stream", PATIENCE, || (rig.erp.order_count() >= 20).then_some(()));
    rig.config.set("kafka", "instance_ordinal", 1);
    // Everything is revoked from the first while the second joins.
    let second = rig.start();
    rig.send(&commands[60..]);
    until("more of the stream", PATIENCE, || (rig.erp.order_count() >= 70).then_some(()));
    assert!(first.terminate(Duration::from_secs(30)).success());
    let results = rig.results(120);
    assert_eq!(results.len(), 120, "one result each");
    assert_once(&rig, &commands, &results);
    assert_eq!(rig.erp.order_count(), 120);
    drop(second);
}

/// Where the newest entry of every command stands.
fn journal_places(rig: &Rig) -> BTreeMap<String, BTreeSet<i32>> {
    let mut places: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    for record in read_all(&rig.topics.journal) {
        let key = record.key_text();
        if key.starts_with("[\"#") {
            continue;
        }
        let own = places.entry(key).or_default();
        if record.value.is_some() {
            own.insert(record.partition)
        } else {
            own.remove(&record.partition)
        };
    }
    places
}

#[test]
fn more_partitions_are_refused_until_the_journal_has_migrated() {
    let rig = Rig::with_partitions("migrate", 2).commands("avro");
    let commands = approved(&rig, "CT", 24);
    let connector = rig.start();
    rig.send(&commands);
    rig.results(24);
    rig.wait_committed(24);
    // Running, or with unread commands, nothing is migrated.
    assert!(connector.terminate(Duration::from_secs(20)).success());
    let late = approved(&rig, "LATE", 1);
    rig.send(&late);
    let (code, text) = rig.said(&["topics", "repartition", "--partitions", "5"]);
    assert!(
        code == Some(1) && text.contains("1 commands") && text.contains("not settled"),
        "{text}"
    );
    let connector = rig.start();
    rig.results(25);
    rig.wait_committed(25);
    assert!(connector.terminate(Duration::from_secs(20)).success());

    // Somebody gives both topics more partitions by hand: the journal's own count is what is
    // believed.
    topics::grow(&rig.topics.commands, 5);
    let (code, text) = rig.said(&["run"]);
    assert!(code == Some(1) && text.contains("topics repartition --partitions 5"), "{text}");
    topics::grow(&rig.topics.journal, 5);
    // However often it is tried: a supervisor starts it again and again.
    for _ in 0..3 {
        let (code, text) = rig.said(&["run"]);
        assert!(code == Some(1) && text.contains("topics repartition --partitions 5"), "{text}");
    }
    // Nothing can be settled any more, so what has come meanwhile does not keep the way out closed.
    let stray = approved(&rig, "STRAY", 1);
    rig.send(&stray);
    let (code, text) = rig.said(&["topics", "repartition", "--partitions", "4"]);
    assert!(code == Some(1) && text.contains("no partitions away"), "{text}");
    let (code, text) = rig.said(&["topics", "repartition", "--partitions", "5"]);
    assert!(
        code == Some(0) && text.contains("5 partitions") && text.contains("1 commands"),
        "{text}"
    );
    // Now that instances run again, they settle what is left.
    let (code, text) = rig.said(&["topics", "repartition", "--partitions", "5"]);
    assert!(code == Some(1) && text.contains("not settled"), "{text}");
    for (key, places) in journal_places(&rig) {
        let pair: Vec<String> = serde_json::from_str(&key).expect("a key of ours");
        let belongs = partition_of(pair[0].as_bytes(), 5, Partitioner::Murmur2).unwrap();
        assert_eq!(places, BTreeSet::from([belongs]), "{key}");
    }

    // Copies of everything, now in the new partitions: the journal knows them all.
    let calls = rig.erp.creates().received;
    let connector = rig.start();
    rig.send(&commands);
    let results = rig.results(50);
    assert_eq!(
        results
            .iter()
            .filter(|result| result.duplicate && result.outcome == Outcome::Created)
            .count(),
        24
    );
    let of_stray: Vec<_> = results
        .iter()
        .filter(|result| result.return_no == stray[0].return_no)
        .map(|result| result.outcome)
        .collect();
    assert_eq!(
        of_stray,
        [Outcome::Created],
        "it was sent when there were as many partitions as now"
    );
    assert_eq!((rig.erp.creates().received, rig.erp.order_count()), (calls + 1, 26));
    // The tools know where everything stands now.
    let listed = rig.verb(&["commands", "list", "--all", "--json"], b"");
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(commands.iter().all(|one| text.contains(&one.return_no)), "{text}");
    rig.wait_committed(50);
    assert!(connector.terminate(Duration::from_secs(20)).success());
    let (code, text) = rig.said(&["topics", "repartition", "--partitions", "5"]);
    assert!(code == Some(0) && text.contains("0 entries moved"), "again: {text}");
}

#[test]
fn another_partitioner_is_refused_until_the_journal_has_migrated() {
    let mut rig = Rig::new("repartitioned").commands("avro");
    let commands = approved(&rig, "CT", 12);
    let connector = rig.start();
    rig.send(&commands[..11]);
    rig.results(11);
    rig.erp.only_faults("query:5xx=1,createOrder:applied_timeout=1x");
    rig.send(&commands[11..]);
    until("an order nobody was told of", PATIENCE, || (rig.erp.order_count() == 12).then_some(()));
    connector.kill();
    rig.erp.only_faults("");
    // What the journal knows stands where the earlier partitioner put it: a copy would come to a
    // partition that knows nothing of it, and an open intent would be left behind.
    rig.config.set("commands", "partitioner", "crc32");
    let refused = |rig: &Rig| {
        let (code, text) = rig.said(&["run"]);
        assert!(
            code == Some(1)
                && text.contains("commands.partitioner")
                && text.contains("topics repartition --partitions 4"),
            "{text}"
        );
    };
    refused(&rig);
    let repartition = ["topics", "repartition", "--partitions", "4"];
    let (code, text) = rig.said(&repartition);
    assert!(
        code == Some(1) && (text.contains("not settled") || text.contains("still open")),
        "{text}"
    );
    rig.config.set("commands", "partitioner", "murmur2");
    let connector = rig.start();
    let results = rig.results(12);
    assert_once(&rig, &commands, &results);
    rig.wait_committed(12);
    assert!(connector.terminate(Duration::from_secs(20)).success());

    rig.config.set("commands", "partitioner", "crc32");
    for _ in 0..2 {
        refused(&rig);
    }
    let (code, text) = rig.said(&repartition);
    assert_eq!(code, Some(0), "{text}");
    for (key, places) in journal_places(&rig) {
        let pair: Vec<String> = serde_json::from_str(&key).expect("a key of ours");
        let belongs = partition_of(pair[0].as_bytes(), 4, Partitioner::Crc32).unwrap();
        assert_eq!(places, BTreeSet::from([belongs]), "{key}");
    }
    // Copies from a sender that still uses the earlier one are forwarded to where they are known.
    let calls = rig.erp.creates().received;
    let _connector = rig.start();
    rig.send(&commands);
    let results = rig.results(24);
    assert_eq!(results.iter().filter(|result| result.duplicate).count(), 12);
    assert_eq!((rig.erp.creates().received, rig.erp.order_count()), (calls, 12));
}

#[test]
fn fewer_partitions_are_new_topics_filled_from_the_old() {
    let mut rig = Rig::with_partitions("fewer", 3).commands("avro");
    let commands = approved(&rig, "CT", 12);
    let connector = rig.start();
    rig.send(&commands);
    rig.results(12);
    rig.wait_committed(12);
    assert!(connector.terminate(Duration::from_secs(20)).success());
    let (old_commands, old_journal) = (rig.topics.commands.clone(), rig.topics.journal.clone());
    rig.topics.commands = format!("{old_commands}.2");
    rig.topics.journal = format!("{old_journal}.2");
    rig.config.set("topics", "commands", rig.topics.commands.clone()).set(
        "topics",
        "journal",
        rig.topics.journal.clone(),
    );
    assert!(
        rig.verb(&["topics", "--with-commands", "--partitions", "2"], b"").status.code() == Some(0)
    );
    let output = rig.verb(
        &[
            "topics",
            "repartition",
            "--from-journal",
            &old_journal,
            "--from-commands",
            &old_commands,
        ],
        b"",
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let calls = rig.erp.creates().received;
    let _connector = rig.start();
    rig.send(&commands);
    let results = rig.results(24);
    assert_eq!(results.iter().filter(|result| result.duplicate).count(), 12);
    assert_eq!(
        (rig.erp.creates().received, topics::partitions(&rig.topics.journal)),
        (calls, Some(2))
    );
}
