//! The command pipeline on a real broker: commands in, orders and results out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use wdt_connector::testing::schema::{CommandResult, CreateReturnOutbound, EntryKind, Outcome};

use crate::kit::{
    commands::command,
    records::{Record, Sender, read_all},
    rig::{PATIENCE, Rig},
    topics, until,
};

/// `count` valid commands for as many returns, which the ERP knows and has approved.
fn prepared(rig: &Rig, count: usize) -> Vec<CreateReturnOutbound> {
    let all: Vec<_> = (0..count)
        .map(|number| command(&format!("CT{number:05}"), &format!("cmd-{number}")))
        .collect();
    rig.erp.approve(all.iter().map(|one| one.return_no.clone()));
    all
}

/// Every command: exactly one order in the ERP, exactly one result, `CREATED`, naming that order.
fn assert_each_once(rig: &Rig, commands: &[CreateReturnOutbound], results: &[CommandResult]) {
    let orders = rig.erp.orders();
    let by_return = orders.iter().fold(BTreeMap::<_, Vec<_>>::new(), |mut all, order| {
        all.entry(order.return_no.clone()).or_default().push(order.order_no.clone());
        all
    });
    let mut by_command = BTreeMap::<_, Vec<_>>::new();
    for result in results {
        by_command
            .entry((result.return_no.clone(), result.command_id.clone()))
            .or_default()
            .push(result);
    }
    for one in commands {
        let found = by_return.get(&one.return_no).map_or(&[][..], Vec::as_slice);
        assert_eq!(found.len(), 1, "orders of {}: {found:?}", one.return_no);
        let key = (one.return_no.clone(), one.command_id.clone());
        let own = by_command.get(&key).map_or(&[][..], Vec::as_slice);
        assert_eq!(own.len(), 1, "results of {key:?}: {own:?}");
        assert_eq!(
            (own[0].outcome, own[0].outbound_no.as_ref()),
            (Outcome::Created, Some(&found[0])),
            "{:?}",
            own[0]
        );
    }
    assert_eq!(orders.len(), commands.len());
    assert_eq!(results.len(), commands.len());
}

/// The last journal entry of every command is its outcome.
fn assert_journal_closed(rig: &Rig, count: usize) {
    let mut last = BTreeMap::new();
    for record in read_all(&rig.topics.journal) {
        if record.value.is_some() {
            let entry = match rig.journal(&record) {
                entry if entry.kind == EntryKind::Intent || entry.kind == EntryKind::Outcome => {
                    entry
                }
                _ => continue,
            };
            last.insert((entry.return_no.clone(), entry.command_id.clone()), entry);
        }
    }
    let open: Vec<_> = last.values().filter(|entry| entry.kind != EntryKind::Outcome).collect();
    assert!(open.is_empty(), "open intents: {open:?}");
    assert_eq!(last.len(), count);
}

fn two_hundred_commands(rig: &Rig, send: impl Fn(&[CreateReturnOutbound])) {
    let commands = prepared(rig, 200);
    let connector = rig.start();
    send(&commands);
    let results = rig.results(200);
    rig.wait_committed(200);
    assert_each_once(rig, &commands, &results);
    assert_journal_closed(rig, 200);
    assert_eq!(
        topics::config_of(&rig.topics.journal, "cleanup.policy").as_deref(),
        Some("compact")
    );
    assert!(read_all(&rig.topics.commands_dlq).is_empty());
    assert!(connector.terminate(Duration::from_secs(20)).success());
}

#[test]
fn avro_commands_become_orders_and_results() {
    let rig = Rig::new("avro").commands("avro");
    two_hundred_commands(&rig, |all| rig.send(all));
}

#[test]
fn json_commands_become_orders_and_results() {
    let rig = Rig::new("json").commands("json");
    two_hundred_commands(&rig, |all| rig.send_json(all));
}

#[test]
fn commands_and_results_go_through_the_registry() {
    let rig = Rig::new("registry").commands("avro").with_registry();
    let commands = prepared(&rig, 50);
    let _connector = rig.start();
    // Half in Confluent framing, half in single-object encoding: both are accepted.
    rig.send(&commands[..25]);
    let sender = Sender::new();
    for one in &commands[25..] {
        sender.send(
            &rig.topics.commands,
            Some(one.return_no.as_bytes()),
            Some(&crate::kit::commands::avro(one)),
            &[],
        );
    }
    sender.flush();
    let results = rig.results(50);
    assert_each_once(&rig, &commands, &results);
    let subjects = crate::kit::http::get(&format!("{}/subjects", crate::parts::registry().url()))
        .unwrap()
        .body;
    for topic in [&rig.topics.commands, &rig.topics.results, &rig.topics.journal] {
        assert!(
            subjects.contains(&format!("{topic}-value")),
            "{topic} has no subject in {subjects}"
        );
    }
}

#[test]
fn copies_of_a_command_yield_its_outcome_and_no_call() {
    let rig = Rig::new("copies").commands("avro");
    let commands = prepared(&rig, 10);
    let connector = rig.start();
    rig.send(&commands);
    rig.results(10);
    let calls = rig.erp.creates().received;
    rig.send(&commands);
    let results = rig.results(20);
    let (copies, firsts): (Vec<_>, Vec<_>) =
        results.into_iter().partition(|result| result.duplicate);
    assert_each_once(&rig, &commands, &firsts);
    assert_each_once(&rig, &commands, &copies);
    assert_eq!(rig.erp.creates().received, calls, "a copy is answered from the journal");
    // A restart remembers them just as well, and repeats nothing by itself.
    connector.kill();
    let _connector = rig.start();
    rig.send(&commands);
    let results = rig.results(30);
    assert_eq!((results.len(), results.iter().filter(|result| result.duplicate).count()), (30, 20));
    assert_eq!((rig.erp.creates().received, rig.erp.orders().len()), (calls, 10));
}

#[test]
fn copies_in_flight_are_one_command() {
    let rig = Rig::new("racing").commands("avro");
    let commands = prepared(&rig, 20);
    rig.erp.latency(Duration::from_millis(200));
    let _connector = rig.start();
    let thrice: Vec<_> =
        commands.iter().flat_map(|one| [one.clone(), one.clone(), one.clone()]).collect();
    rig.send(&thrice);
    let results = rig.results(60);
    let (copies, firsts): (Vec<_>, Vec<_>) =
        results.into_iter().partition(|result| result.duplicate);
    assert_eq!(copies.len(), 40);
    assert_each_once(&rig, &commands, &firsts);
}

#[test]
fn one_return_keeps_its_order_and_others_do_not_wait() {
    let rig = Rig::with_partitions("order", 1).commands("avro");
    let slow: Vec<_> = (0..5).map(|number| command("CT-SLOW", &format!("slow-{number}"))).collect();
    let quick: Vec<_> = (0..50)
        .map(|number| command(&format!("CT-{number}"), &format!("quick-{number}")))
        .collect();
    rig.erp.approve(
        slow.iter().chain(&quick).map(|one| one.return_no.clone()).collect::<BTreeSet<_>>(),
    );
    rig.erp.latency(Duration::from_millis(300));
    let _connector = rig.start();
    rig.send(&slow);
    rig.send(&quick);
    let results = rig.results(55);
    let offsets: Vec<_> = results
        .iter()
        .filter(|result| result.return_no == "CT-SLOW")
        .map(|result| result.source_offset)
        .collect();
    assert!(offsets.is_sorted() && offsets.len() == 5, "{offsets:?}");
    // All quick ones fit on the wire at once; five slow ones take five turns.
    let last_slow = results.iter().rposition(|result| result.return_no == "CT-SLOW").unwrap();
    assert!(last_slow >= 50, "the quick ones waited for the slow return: {last_slow}");
}

#[test]
fn trace_headers_travel_to_the_result() {
    let rig = Rig::new("trace").commands("avro");
    let commands = prepared(&rig, 1);
    let _connector = rig.start();
    let sender = Sender::new();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let bytes = crate::kit::commands::avro(&commands[0]);
    sender.send(
        &rig.topics.commands,
        Some(b"CT00000"),
        Some(&bytes),
        &[("traceparent", trace), ("tracestate", "a=b")],
    );
    sender.flush();
    rig.results(1);
    let record: &Record = &read_all(&rig.topics.results)[0];
    assert_eq!(record.header("traceparent").as_deref(), Some(trace));
    assert_eq!(record.header("tracestate").as_deref(), Some("a=b"));
    assert_eq!(record.key_text(), "CT00000");
}

#[test]
fn a_misconfigured_account_pauses_the_route_and_nothing_is_lost() {
    let rig = Rig::new("account").commands("avro");
    let commands = prepared(&rig, 30);
    let connector = rig.start();
    rig.erp.faults("all:sid=1");
    rig.send(&commands);
    until("the pause and its reason in /status", PATIENCE, || {
        let pipeline = connector.status()["sections"]["commands"].clone();
        (pipeline["circuit"] == "open" && pipeline["circuit_reason"].as_str()?.contains("sid"))
            .then_some(())
    });
    assert!(rig.erp.orders().is_empty());
    assert!(read_all(&rig.topics.results).is_empty());
    assert!(read_all(&rig.topics.commands_dlq).is_empty());
    rig.erp.only_faults("");
    let results = rig.results(30);
    assert_each_once(&rig, &commands, &results);
    assert!(read_all(&rig.topics.commands_dlq).is_empty());
}

#[test]
fn an_outage_of_the_erp_loses_nothing_and_dead_letters_nothing() {
    let rig = Rig::new("outage").commands("avro");
    let commands = prepared(&rig, 30);
    let connector = rig.start();
    rig.erp.adjust(&serde_json::json!({"outage": "refuse"}));
    rig.send(&commands);
    until("calls that do not reach the ERP", PATIENCE, || {
        (connector.metric("wdt_connector_erp_calls_total", &["unreachable"]) > 0.0).then_some(())
    });
    assert_eq!(
        crate::kit::http::get(&connector.url("/readyz")).unwrap().status,
        200,
        "an outage does not make it unready"
    );
    assert!(read_all(&rig.topics.results).is_empty());
    rig.erp.adjust(&serde_json::json!({"outage": "none"}));
    let results = rig.results(30);
    assert_each_once(&rig, &commands, &results);
    assert!(read_all(&rig.topics.commands_dlq).is_empty());
}

#[test]
fn sigterm_drains_and_ends_with_zero() {
    let rig = Rig::new("drain").commands("avro");
    let commands = prepared(&rig, 100);
    rig.erp.latency(Duration::from_millis(300));
    let connector = rig.start();
    rig.send(&commands);
    until("calls on the wire", PATIENCE, || (rig.erp.creates().received >= 10).then_some(()));
    let status = connector.terminate(Duration::from_secs(20));
    assert_eq!(status.code(), Some(0));
    let applied = rig.erp.orders().len();
    // What was applied before the end has its result already.
    assert_eq!(
        read_all(&rig.topics.results).len(),
        applied,
        "every call of the drained run was settled"
    );
    // The rest is done by the next run, each once: what was called or not is asked for, with an
    // order that is known to exist.
    let _connector = rig.start();
    let results = rig.results(commands.len());
    assert_each_once(&rig, &commands, &results);
}

#[test]
fn killed_three_times_every_command_has_one_order_and_one_result() {
    let rig = Rig::new("kill").commands("avro");
    rig.erp.latency(Duration::from_millis(100));
    let commands = prepared(&rig, 500);
    let mut connector = rig.start();
    rig.send(&commands);
    for turn in 1..=3_u64 {
        // In the middle of the stream one order is made whose answer is held back until the client
        // gives up.
        until("the middle of the stream", PATIENCE, || {
            (rig.erp.order_count() >= turn * 100).then_some(())
        });
        rig.erp.faults("createOrder:applied_timeout=1x");
        until("the call that will not be answered", PATIENCE, || {
            (!rig.erp.armed("applied_timeout")).then_some(())
        });
        let unanswered = rig.erp.creates().applied_unanswered;
        connector.kill();
        let orders = rig.erp.order_count();
        assert!(orders < 500, "the kill came too late to be in the middle: {orders} orders");
        until("a call that is applied and unanswered in the ledger", PATIENCE, || {
            (rig.erp.creates().applied_unanswered > unanswered).then_some(())
        });
        connector = rig.start();
    }
    let results = rig.results(500);
    rig.wait_committed(500);
    assert_each_once(&rig, &commands, &results);
    assert_journal_closed(&rig, 500);
    assert!(
        results.iter().any(|result| result.recovered),
        "what was applied and unanswered is found by its marker"
    );
    assert!(read_all(&rig.topics.commands_dlq).is_empty());
    drop(connector);
}

#[test]
fn a_lost_journal_is_refused_until_it_is_declared_and_then_nothing_is_created_twice() {
    let rig = Rig::new("lost").commands("avro");
    let commands = prepared(&rig, 40);
    let connector = rig.start();
    rig.send(&commands);
    rig.results(40);
    rig.wait_committed(40);
    assert!(connector.terminate(Duration::from_secs(20)).success());
    topics::delete(&rig.topics.journal);
    topics::create(&[(&rig.topics.journal, 4, &[("cleanup.policy", "compact")])]);

    // Twice: the first refusal leaves nothing behind that would let the second pass.
    for _ in 0..2 {
        let refused = rig.verb(&["run"], b"");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("declare-lost"), "{said}");
    }
    assert_eq!(
        rig.verb(&["journal", "declare-lost"], b"").status.code(),
        Some(2),
        "not without --yes"
    );
    assert!(rig.verb(&["journal", "declare-lost", "--yes"], b"").status.success());

    // Copies of everything: no journal knows them, so the ERP is asked first, and nothing is
    // created again.
    let _connector = rig.start();
    rig.send(&commands);
    let results = rig.results(80);
    assert_eq!(rig.erp.orders().len(), 40);
    assert!(results.iter().all(|result| result.outcome == Outcome::Created), "{results:?}");
    assert_eq!(results.iter().filter(|result| result.recovered).count(), 40, "{results:?}");
}
