//! Commands in doubt, a person's decisions about them, and what is sent again: through the
//! program's own verbs.

use std::collections::BTreeMap;

use serde_json::Value;
use wdt_connector::testing::{
    schema::{CommandResult, Outcome},
    sink::decision::{Decision, Found, Verdict},
};

use crate::parts::broker;

use crate::kit::{
    commands::{avro, command, json_bytes},
    erp::Kind,
    records::{Record, Sender, read_all},
    rig::{PATIENCE, Rig},
    topics, until,
};

/// Runs a verb that must succeed; its stdout as JSON, one value a line.
fn lines(rig: &Rig, arguments: &[&str]) -> Vec<Value> {
    let output = rig.verb(arguments, b"");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect()
}

fn rig(what: &str) -> Rig {
    let rig = Rig::with_partitions(what, 1).commands("avro");
    rig.erp.approve(["CT-1".to_owned(), "CT-2".to_owned()]);
    rig
}

/// One command whose order is made without its marker and whose answer is lost: in doubt, with that
/// order as its suspect.
fn in_doubt(rig: &Rig) -> (CommandResult, String) {
    rig.erp.faults("createOrder:strip_remark=1x,createOrder:applied_timeout=1x");
    rig.send(&[command("CT-1", "c-1")]);
    let result = rig.results(1).remove(0);
    let order = rig.erp.orders().remove(0).order_no;
    assert_eq!(
        (result.outcome, &result.candidates),
        (Outcome::InDoubt, &vec![order.clone()]),
        "{result:?}"
    );
    (result, order)
}

fn header(letter: &Record, name: &str) -> Value {
    serde_json::from_str(&letter.header(name).unwrap_or_else(|| panic!("no {name} in {letter:?}")))
        .expect("JSON")
}

#[test]
fn a_person_decides_about_a_command_in_doubt_once_and_for_all() {
    let rig = rig("decide");
    let connector = rig.start();
    let (_, order) = in_doubt(&rig);
    let calls = rig.erp.creates().received;

    // Everything a person needs stands in the dead letter, in the lists, in /status and in the
    // metrics.
    let letters = read_all(&rig.topics.commands_dlq);
    assert_eq!(letters.len(), 1);
    let facts = header(&letters[0], "wdt-in-doubt");
    assert_eq!(facts["candidates"], serde_json::json!([order]));
    assert!(
        facts["remark_as_sent"]
            .as_str()
            .is_some_and(|remark| remark.starts_with('#') && remark.ends_with("退货 test")),
        "{facts}"
    );
    let listed = lines(&rig, &["commands", "list", "--json"]);
    assert_eq!(
        (listed.len(), listed[0]["state"].as_str(), listed[0]["command_id"].as_str()),
        (1, Some("IN_DOUBT"), Some("c-1"))
    );
    until("the command in /status and the metrics", PATIENCE, || {
        let pipeline = connector.status()["sections"]["commands"].clone();
        (pipeline["awaiting_resolution"] == 1
            && pipeline["commands_awaiting_resolution"][0]["candidates"]
                == serde_json::json!([order])
            && connector.metric("wdt_connector_commands_awaiting_resolution", &[]) >= 1.0)
            .then_some(())
    });

    // A typing error is noticed before it becomes an outcome.
    let (code, text) = rig.said(&["commands", "resolve", "CT-1", "c-1", "--order", "CK-TYPO"]);
    assert!(code == Some(1) && text.contains(&order), "{text}");
    let (code, text) = rig.said(&["commands", "resolve", "CT-1", "c-1", "--order", &order]);
    assert!(code == Some(0) && text.contains("CREATED"), "{text}");
    let results = rig.results(2);
    assert_eq!(
        (results[1].outcome, results[1].outbound_no.as_deref()),
        (Outcome::Created, Some(order.as_str()))
    );
    assert!(results[1].resolved && !results[1].duplicate, "{:?}", results[1]);
    assert_eq!(results[1].source_topic, rig.topics.control);
    assert_eq!(tombstones(&rig).len(), 1);

    // Decided once: a second decision is refused, a copy yields the decision, and nothing is ever
    // called.
    let (code, text) = rig.said(&["commands", "resolve", "CT-1", "c-1", "--no-order"]);
    assert!(code == Some(1) && text.contains("CREATED"), "{text}");
    rig.send(&[command("CT-1", "c-1")]);
    let results = rig.results(3);
    assert_eq!(
        (results[2].outcome, results[2].duplicate, results[2].resolved),
        (Outcome::Created, true, true)
    );
    assert_eq!((rig.erp.creates().received, rig.erp.orders().len()), (calls, 1));
    assert!(lines(&rig, &["commands", "list", "--json"]).is_empty());
    let shown = lines(&rig, &["commands", "show", "CT-1", "c-1", "--json"]).remove(0);
    assert_eq!(
        (shown["entry"]["state"].as_str(), shown["results"].as_array().map(Vec::len)),
        (Some("CREATED"), Some(3)),
        "{shown}"
    );
    assert_eq!(shown["dead_letters"][0]["reason"], "in_doubt");
    let (code, text) = rig.said(&["commands", "show", "CT-1", "c-1"]);
    assert!(code == Some(0) && text.contains(&order) && text.contains("resolved"), "{text}");
    until("nothing left to decide", PATIENCE, || {
        (connector.metric("wdt_connector_commands_awaiting_resolution", &[]) == 0.0).then_some(())
    });
}

/// Write on the commands topic is a sender's right: it decides nothing and allows no second call.
#[test]
fn a_sender_can_neither_decide_nor_allow_a_redrive() {
    let rig = rig("forged");
    let connector = rig.start();
    let (_, _) = in_doubt(&rig);
    let sender = Sender::new();
    for version in 1..=4 {
        let value = serde_json::json!({"wdt_control": {"resolve": {
            "return_no": "CT-1", "command_id": "c-1", "version": version,
            "verdict": "not_created", "by": "alice@ops-desk",
        }}});
        let (key, value) = (Some(&b"CT-1"[..]), value.to_string().into_bytes());
        sender.send(&rig.topics.commands, key, Some(&value), &[("wdt-control", "resolve")]);
    }
    let copy = avro(&command("CT-1", "c-1"));
    for headers in [&[("wdt-redrive-count", "1")][..], &[("wdt-control", "resolve")]] {
        sender.send(&rig.topics.commands, Some(b"CT-1"), Some(&copy), headers);
    }
    sender.flush();
    rig.wait_committed(7);
    let results = rig.results(2);
    assert!(
        results.iter().all(|one| !one.resolved && one.outcome == Outcome::InDoubt),
        "{results:?}"
    );
    assert_eq!((rig.erp.order_count(), rig.erp.creates().received), (1, 1));
    let forged = |letter: &&Record| {
        letter.header("__connect.errors.exception.class.name").as_deref()
            == Some("resolution_rejected")
    };
    let letters = read_all(&rig.topics.commands_dlq);
    let reasons: Vec<_> = letters
        .iter()
        .filter(forged)
        .filter_map(|letter| letter.header("__connect.errors.exception.message"))
        .collect();
    assert_eq!(reasons.len(), 5, "{reasons:?}");
    assert!(
        reasons.iter().all(|reason| reason.contains("decisions are records of")),
        "{reasons:?}"
    );
    assert!(connector.log().contains("decision among the commands refused"));
    let (code, text) = rig.said(&["dlq", "redrive"]);
    assert!(code == Some(0) && text.contains("0 sent again"), "{text}");
    assert_eq!(rig.erp.order_count(), 1);
}

/// A decision about a command of the only partition, as `commands resolve` writes it.
fn decision(return_no: &str, command_id: &str, version: i64, verdict: Verdict) -> Decision {
    Decision {
        return_no: return_no.into(),
        command_id: command_id.into(),
        partition: 0,
        version,
        found: Found { verdict, by: "a test".into(), at: "now".into() },
    }
}

fn decide(rig: &Rig, decisions: &[Decision]) {
    let sender = Sender::new();
    for one in decisions {
        let (key, value) = (one.key().to_string(), one.value().to_string());
        sender.send(&rig.topics.control, Some(key.as_bytes()), Some(value.as_bytes()), &[]);
    }
    sender.flush();
}

/// How many tombstones the control topic holds, by key.
fn tombstones(rig: &Rig) -> BTreeMap<Vec<u8>, usize> {
    let mut found = BTreeMap::new();
    for record in read_all(&rig.topics.control).iter().filter(|record| record.value.is_none()) {
        *found.entry(record.key.clone().unwrap_or_default()).or_default() += 1;
    }
    found
}

fn refusals(rig: &Rig) -> Vec<String> {
    let all = read_all(&rig.topics.commands_dlq);
    let ours = all.iter().filter(|letter| {
        letter.header("__connect.errors.topic").as_deref() == Some(&rig.topics.control)
    });
    ours.filter_map(|letter| letter.header("__connect.errors.exception.message")).collect()
}

#[test]
fn a_decision_about_something_else_is_refused_once_or_passed_over() {
    let rig = rig("stale");
    let connector = rig.start();
    let (_, order) = in_doubt(&rig);
    let created = || Verdict::Created(order.clone());
    let elsewhere = Decision { partition: 7, ..decision("CT-1", "c-1", 2, created()) };
    let all = [
        decision("CT-1", "c-1", 1, created()),
        decision("CT-1", "c-1", 9, created()),
        decision("CT-1", "c-absent", 1, Verdict::NoOrder),
        elsewhere,
    ];
    decide(&rig, &all);
    let sender = Sender::new();
    let unreadable = decision("CT-2", "c", 1, Verdict::NoOrder).key().to_string();
    for key in [unreadable.as_bytes(), b"[\"decision\", 5]"] {
        sender.send(&rig.topics.control, Some(key), Some(b"{}"), &[]);
    }
    sender.flush();
    until("every tombstone", PATIENCE, || (tombstones(&rig).len() == 6).then_some(()));
    let parts = ["version 9", "no such command", "no partition 7", "cannot be read"];
    let reasons = until("every refusal", PATIENCE, || {
        let reasons = refusals(&rig);
        (reasons.len() == 5).then_some(reasons)
    });
    for part in parts {
        assert!(reasons.iter().any(|reason| reason.contains(part)), "{part}: {reasons:?}");
    }
    assert!(connector.log().contains("decision passed over"), "{}", connector.log());
    assert_eq!(rig.results(1).len(), 1, "a refused decision is no result");
    let pipeline = connector.status()["sections"]["commands"].clone();
    assert_eq!(pipeline["awaiting_resolution"], 1, "{pipeline}");

    // Reported once: nothing of it is left for whoever comes next.
    connector.kill();
    let _connector = rig.start();
    let (code, text) = rig.said(&["commands", "resolve", "CT-1", "c-1", "--order", &order]);
    assert!(code == Some(0) && text.contains("CREATED"), "{text}");
    assert_eq!(refusals(&rig).len(), 5);
    assert!(tombstones(&rig).values().all(|count| *count == 1));
    let (code, text) = rig.said(&["dlq", "redrive"]);
    assert!(code == Some(0) && text.contains("0 sent again"), "{text}");
}

/// What the broker takes compressed, the connector's producer may not take as a tombstone's key.
#[test]
fn a_giant_record_of_the_control_topic_stops_nothing() {
    let rig = rig("giant");
    let connector = rig.start();
    let (_, order) = in_doubt(&rig);
    let mut config = broker().client();
    config.set("compression.type", "gzip").set("message.max.bytes", "8000000");
    let sender = Sender::with(config);
    let giant = "x".repeat(3_000_000);
    let long = decision(&giant, "c-1", 2, Verdict::NoOrder).key().to_string();
    let key = decision("CT-2", "c-1", 2, Verdict::NoOrder).key().to_string();
    for (key, value) in [(&long, "{}"), (&key, &giant)] {
        sender.send(&rig.topics.control, Some(key.as_bytes()), Some(value.as_bytes()), &[]);
    }
    sender.flush();
    until("the giant to be refused", PATIENCE, || (refusals(&rig).len() == 1).then_some(()));
    connector.wait_log("control record with a key of", PATIENCE);
    rig.send(&[command("CT-2", "c-2")]);
    assert_eq!(rig.results(2).remove(1).outcome, Outcome::Created);
    let (code, text) = rig.said(&["commands", "resolve", "CT-1", "c-1", "--order", &order]);
    assert!(code == Some(0) && text.contains("CREATED"), "{text}");
}

/// What is decided in a control topic that was made again while the connector runs is heard.
#[test]
fn decisions_of_a_control_topic_that_was_made_again_are_heard() {
    for standing in [0, 3] {
        let rig = rig("again");
        let connector = rig.start();
        let (_, order) = in_doubt(&rig);
        for _ in 0..standing {
            assert_eq!(rig.said(&["commands", "pause"]).0, Some(0));
        }
        if standing > 0 {
            connector.wait_log("command pipeline paused", PATIENCE);
        }
        topics::delete(&rig.topics.control);
        topics::create(&[(&rig.topics.control, 1, &[("cleanup.policy", "compact")])]);
        if standing > 0 {
            connector.wait_log("command pipeline resumed", PATIENCE);
        }
        let (code, text) = rig.said(&["commands", "resolve", "CT-1", "c-1", "--order", &order]);
        assert!(code == Some(0) && text.contains("CREATED"), "{standing}: {text}");
    }
}

/// A typing error may name an order of the same return.
#[test]
fn an_order_that_carries_another_commands_marker_is_not_this_ones() {
    let rig = rig("othermarker");
    let _connector = rig.start();
    rig.send(&[command("CT-1", "c-0")]);
    let other = rig.results(1).remove(0).outbound_no.expect("created");
    rig.erp.faults("createOrder:strip_remark=1x,createOrder:applied_timeout=1x");
    rig.send(&[command("CT-1", "c-1")]);
    assert_eq!(rig.results(2).remove(1).outcome, Outcome::InDoubt);
    let (code, text) = rig.said(&["commands", "resolve", "CT-1", "c-1", "--order", &other]);
    assert!(code == Some(1) && text.contains("another command's marker"), "{text}");
    let arguments = ["commands", "resolve", "CT-1", "c-1", "--order", &other, "--skip-erp-check"];
    let (code, text) = rig.said(&arguments);
    assert!(code == Some(0) && text.contains("CREATED"), "{text}");
}

#[test]
fn decisions_keep_their_place_in_the_returns_order() {
    let rig = rig("order");
    let _connector = rig.start();
    let (first, order) = in_doubt(&rig);
    // A slow command of the same return is being called: the decision waits for it.
    rig.erp.faults("createOrder:slow(1500ms)=1x");
    rig.send(&[command("CT-1", "c-2")]);
    until("the slow call", PATIENCE, || (rig.erp.creates().received >= 2).then_some(()));
    decide(&rig, &[decision("CT-1", "c-1", 2, Verdict::Created(order.clone()))]);
    let results = rig.results(3);
    let sources: Vec<_> =
        results.iter().map(|result| (&*result.source_topic, result.source_offset)).collect();
    let (commands, control) = (&*rig.topics.commands, &*rig.topics.control);
    assert_eq!(sources, [(commands, first.source_offset), (commands, 1), (control, 0)]);
    assert!(
        results[2].resolved && results[2].outbound_no.as_deref() == Some(order.as_str()),
        "{:?}",
        results[2]
    );
    assert_eq!(rig.erp.orders().len(), 2);
}

/// Its outcome and its tombstone are one transaction: whenever the owner dies, whoever comes next
/// finds the decision undone and there, or done and gone.
#[test]
fn a_decision_that_nobody_was_there_for_is_carried_out_once_whatever_dies() {
    let rig = rig("nobody");
    // The takeover's transaction is the first one.
    let deaths = [
        "outcome.drafted=kill",
        "txn.delivered=1*off->kill",
        "txn.committed=1*off->kill",
        "outcome.committed=kill",
        "outcome.cached=kill",
    ];
    rig.erp.approve((3..=6).map(|number| format!("CT-{number}")));
    let (connector, mut undone) = (rig.start(), Vec::new());
    for number in 1..=6 {
        let return_no = format!("CT-{number}");
        rig.erp.faults("createOrder:strip_remark=1x,createOrder:applied_timeout=1x");
        rig.send(&[command(&return_no, "c-1")]);
        let result = rig.results(number).remove(number - 1);
        assert_eq!(result.outcome, Outcome::InDoubt, "{result:?}");
        undone.push(decision(&return_no, "c-1", 2, Verdict::Created(result.candidates[0].clone())));
    }
    connector.kill();
    for (death, one) in deaths.into_iter().zip(&undone) {
        decide(&rig, std::slice::from_ref(one));
        let mut doomed = rig.spawn_with(&[("FAILPOINTS", death)]);
        assert!(doomed.wait_end(PATIENCE).is_some(), "{death}");
    }
    decide(&rig, &undone[5..]);
    let _connector = rig.start();
    let results = rig.results(12);
    for one in &undone {
        let of_one: Vec<_> =
            results.iter().filter(|result| result.return_no == one.return_no).collect();
        assert!(of_one.len() == 2 && of_one[1].resolved, "{of_one:?}");
        assert_eq!(of_one[1].outcome, Outcome::Created);
    }
    let gone = tombstones(&rig);
    assert_eq!((gone.len(), gone.values().sum::<usize>()), (6, 6), "{gone:?}");
    assert!(refusals(&rig).is_empty());
    assert_eq!(rig.erp.creates().received, 6);
}

/// "No order" for good: neither `dlq redrive` nor a sender's header brings it back.
#[test]
fn what_is_not_to_be_created_is_not_created_by_a_redrive() {
    let rig = rig("final");
    let _connector = rig.start();
    in_doubt(&rig);
    let (code, text) = rig.said(&["commands", "resolve", "CT-1", "c-1", "--no-order"]);
    assert!(code == Some(0) && text.contains("REJECTED"), "{text}");
    let (code, text) = rig.said(&["dlq", "redrive"]);
    assert!(
        code == Some(0) && text.contains("no order is created") && text.contains("0 sent again"),
        "{text}"
    );
    let copy = avro(&command("CT-1", "c-1"));
    let sender = Sender::new();
    let redriven = [("wdt-redrive-count", "1")];
    sender.send(&rig.topics.commands, Some(b"CT-1"), Some(&copy), &redriven);
    sender.flush();
    let result = rig.results(3).remove(2);
    assert_eq!(
        (result.outcome, result.duplicate, result.resolved),
        (Outcome::Rejected, true, true),
        "{result:?}"
    );
    assert_eq!((rig.erp.order_count(), rig.erp.creates().received), (1, 1));
}

#[test]
fn what_a_person_found_not_to_exist_is_created_by_a_replay_and_only_by_one() {
    let rig = rig("replay");
    let _connector = rig.start();
    let (_, suspect) = in_doubt(&rig);
    // In doubt and nothing found: a replay would only repeat the lookups, so it is left out.
    let (code, text) = rig.said(&["dlq", "redrive"]);
    assert!(code == Some(0) && text.contains("resolve") && text.contains("0 sent again"), "{text}");

    let (code, text) = rig.said(&["commands", "resolve", "CT-1", "c-1", "--no-order-redrivable"]);
    assert!(code == Some(0) && text.contains("REJECTED"), "{text}");
    rig.send(&[command("CT-1", "c-1")]);
    let results = rig.results(3);
    assert_eq!((results[1].outcome, results[1].resolved), (Outcome::Rejected, true));
    assert_eq!(
        (results[2].outcome, results[2].duplicate),
        (Outcome::Rejected, true),
        "a sender's copy creates nothing"
    );
    let (code, text) = rig.said(&["commands", "replay", "--from-time", "1h"]);
    assert!(code == Some(0) && text.contains("2 commands sent again"), "{text}");
    let results = rig.results(5);
    let copies: Vec<_> =
        results[3..].iter().map(|result| (result.outcome, result.duplicate)).collect();
    assert_eq!(copies, [(Outcome::Rejected, true); 2], "nor does a replay of what was read before");
    assert_eq!(rig.erp.orders().len(), 1);

    let (code, text) = rig.said(&["dlq", "redrive", "--dry-run"]);
    assert!(code == Some(0) && text.contains("1 would be sent"), "{text}");
    let (code, text) = rig.said(&["dlq", "redrive"]);
    assert!(code == Some(0) && text.contains("1 sent again"), "{text}");
    let result = rig.results(6).remove(5);
    assert_eq!(
        (result.outcome, result.duplicate, result.recovered),
        (Outcome::Created, false, false),
        "{result:?}"
    );
    let orders = rig.erp.orders();
    assert_eq!(orders.len(), 2);
    assert!(
        orders.iter().any(|order| Some(&order.order_no) == result.outbound_no.as_ref()
            && order.order_no != suspect)
    );
    // Again: the journal knows the outcome now.
    let (code, text) = rig.said(&["dlq", "redrive"]);
    assert!(code == Some(0) && text.contains("0 sent again") && text.contains("CREATED"), "{text}");
    assert_eq!(rig.erp.orders().len(), 2);
}

#[test]
fn a_copy_of_a_command_in_doubt_asks_again_and_never_calls() {
    let rig = rig("copydoubt");
    let _connector = rig.start();
    let (_, order) = in_doubt(&rig);
    let calls = rig.erp.creates().received;
    rig.send(&[command("CT-1", "c-1")]);
    let results = rig.results(2);
    assert_eq!(
        (results[1].outcome, results[1].duplicate, &results[1].candidates),
        (Outcome::InDoubt, true, &vec![order.clone()])
    );
    // Somebody puts the marker back: the next copy finds it.
    let marker = header(&read_all(&rig.topics.commands_dlq)[0], "wdt-in-doubt")["marker"]
        .as_str()
        .unwrap()
        .to_owned();
    rig.erp.modify(Kind::FlagshipOutbounds, &order, &serde_json::json!({"remark": marker}));
    rig.send(&[command("CT-1", "c-1")]);
    let result = rig.results(3).remove(2);
    assert_eq!(
        (result.outcome, result.recovered, result.outbound_no.as_deref()),
        (Outcome::Created, true, Some(order.as_str())),
        "{result:?}"
    );
    assert_eq!(rig.erp.creates().received, calls);
}

#[test]
fn a_copy_waits_while_the_first_is_being_asked_about_and_other_returns_do_not() {
    let rig = rig("asking");
    let _connector = rig.start();
    rig.erp.only_faults("query:5xx=1,createOrder:applied_timeout=1x");
    rig.send(&[command("CT-1", "c-1")]);
    until("the order nobody was told of", PATIENCE, || (rig.erp.order_count() == 1).then_some(()));
    rig.send(&[command("CT-1", "c-1"), command("CT-2", "c-1")]);
    // Same partition, other return: created while the first is in doubt.
    let other = rig.results(1).remove(0);
    assert_eq!((other.return_no.as_str(), other.outcome), ("CT-2", Outcome::Created), "{other:?}");
    rig.erp.only_faults("");
    let results = rig.results(3);
    let ends: Vec<_> = results[1..]
        .iter()
        .map(|result| (result.outcome, result.recovered, result.duplicate))
        .collect();
    assert_eq!(
        ends,
        [(Outcome::Created, true, false), (Outcome::Created, true, true)],
        "{results:?}"
    );
    assert_eq!((rig.erp.creates().received, rig.erp.order_count()), (2, 2));
}

#[test]
fn several_orders_with_one_marker_are_a_persons_to_sort_out() {
    let rig = rig("several");
    let connector = rig.start();
    rig.send(&[command("CT-1", "c-0")]);
    let other = rig.results(1).remove(0).outbound_no.expect("created");
    // While nobody can be asked, somebody copies the remark of the second order over that of the
    // first.
    rig.erp.only_faults("query:5xx=1,createOrder:applied_database=1x");
    rig.send(&[command("CT-1", "c-1")]);
    let second = until("the order", PATIENCE, || {
        rig.erp.orders().into_iter().find(|order| order.order_no != other)
    });
    rig.erp.modify(Kind::FlagshipOutbounds, &other, &serde_json::json!({"remark": second.remark}));
    rig.erp.only_faults("");
    let result = rig.results(2).remove(1);
    let mut named = result.candidates.clone();
    named.sort();
    let mut both = vec![second.order_no, other];
    both.sort();
    assert_eq!((result.outcome, named), (Outcome::InDoubt, both), "{result:?}");
    // What the ERP said stands beside the reason, in the result, the dead letter and /status.
    let said = |code: &Value, message: &Value| {
        code == 4 && message.as_str().is_some_and(|text| text.contains("数据库错误"))
    };
    let explanation = result.explanation.both().expect("a reason");
    assert!(explanation.en().contains("several outbound orders"), "{result:?}");
    assert!(said(&result.erp_code.into(), &result.erp_message.clone().into()), "{result:?}");
    let facts = header(&read_all(&rig.topics.commands_dlq)[0], "wdt-in-doubt");
    assert!(said(&facts["erp_code"], &facts["erp_message"]), "{facts}");
    assert_eq!(facts["explanation_zh"], explanation.zh());
    until("the decision in /status", PATIENCE, || {
        let decision =
            connector.status()["sections"]["commands"]["commands_awaiting_resolution"][0].clone();
        (said(&decision["erp_code"], &decision["erp_message"])
            && decision["explanation"] == explanation.en())
        .then_some(())
    });
}

#[test]
fn dead_letters_are_listed_shown_and_sent_again_byte_for_byte_until_the_cap() {
    let mut rig = Rig::with_partitions("dlq", 2).commands("avro");
    rig.erp.approve(["CT-1".to_owned()]);
    let good = json_bytes(&command("CT-1", "c-1"));
    let sender = Sender::new();
    // JSON where Avro is expected, and something nobody can read.
    sender.send(&rig.topics.commands, Some(b"CT-1"), Some(&good), &[("mine", "kept")]);
    sender.send(&rig.topics.commands, Some(b"\xff"), Some(b"\xfe"), &[]);
    sender.flush();
    let connector = rig.start();
    rig.wait_committed(2);
    assert!(connector.terminate(PATIENCE).success());
    let listed = lines(&rig, &["dlq", "list", "--json"]);
    assert_eq!(
        listed.iter().filter(|letter| letter["reason"] == "undecodable").count(),
        2,
        "{listed:?}"
    );
    let (code, text) = rig.said(&["dlq", "list"]);
    assert!(code == Some(0) && text.contains("2 undecodable"), "{text}");
    let letter =
        listed.iter().find(|letter| letter["key"] == "CT-1").expect("the command's letter");
    let place = format!("{}:{}", letter["partition"], letter["offset"]);
    let (code, text) = rig.said(&["dlq", "show", &place]);
    assert!(
        code == Some(0) && text.contains("\"warehouse_no\"") && text.contains("mine"),
        "{text}"
    );
    assert_eq!(rig.said(&["dlq", "show", "0:999"]).0, Some(1));
    assert_eq!(
        rig.said(&["dlq", "redrive", "--reason", "invalid"]).1.matches("0 sent again").count(),
        1
    );

    // The mistake is mended, and the letters go back.
    rig.config.set("commands", "format", "json");
    let _connector = rig.start();
    let (code, text) =
        rig.said(&["dlq", "redrive", "--reason", "undecodable", "--max-redrives", "2"]);
    assert!(code == Some(0) && text.contains("2 sent again"), "{text}");
    let result = rig.results(1).remove(0);
    assert_eq!((result.outcome, result.duplicate), (Outcome::Created, false), "{result:?}");
    let again: Vec<Record> = read_all(&rig.topics.commands)
        .into_iter()
        .filter(|record| record.header("wdt-redrive-count").is_some())
        .collect();
    let command = again
        .iter()
        .find(|record| record.key.as_deref() == Some(b"CT-1"))
        .expect("the command again");
    assert_eq!(
        (command.value.as_deref(), command.header("mine").as_deref()),
        (Some(&good[..]), Some("kept"))
    );
    assert!(
        command.headers.iter().all(|(name, _)| !name.starts_with("__connect.errors.")),
        "{:?}",
        command.headers
    );
    rig.wait_committed(4);
    // Who names a letter whose record died again is told so.
    let older = listed.iter().find(|letter| letter["key"] != "CT-1").expect("the other letter");
    let older = format!("{}:{}", older["partition"], older["offset"]);
    let (_, text) = rig.said(&["dlq", "redrive", "--only", &older, "--dry-run"]);
    assert!(text.contains(&format!("{older} left out")) && text.contains("1 left out"), "{text}");
    // What has an outcome is left out; what died again has a count, and the cap ends it.
    let (_, text) = rig.said(&["dlq", "redrive", "--max-redrives", "2"]);
    assert!(text.contains("1 sent again") && text.contains("CREATED"), "{text}");
    rig.wait_committed(5);
    let (_, text) = rig.said(&["dlq", "redrive", "--max-redrives", "2"]);
    assert!(text.contains("0 sent again") && text.contains("redriven 2 times"), "{text}");
    assert_eq!(rig.erp.orders().len(), 1);
}

#[test]
fn a_feeds_dead_letter_is_read_again_by_the_backfill_that_is_named() {
    let rig = Rig::new("feedletters").purchase_returns();
    let numbers = rig.erp.seed(Kind::Returns, 3);
    rig.erp.modify(
        Kind::Returns,
        &numbers[1],
        &serde_json::json!({"set": {"modified": "not a time"}}),
    );
    let _connector = rig.start();
    until("the letter", PATIENCE, || (read_all(&rig.topics.feeds_dlq).len() == 1).then_some(()));
    let listed = lines(&rig, &["dlq", "list", "--feeds", "--json"]);
    assert!(
        listed.len() == 1
            && listed[0]["reason"] == "record_error"
            && listed[0]["message"].as_str().is_some_and(|text| text.contains("modified")),
        "{listed:?}"
    );
    let place = format!("{}:{}", listed[0]["partition"], listed[0]["offset"]);
    let (code, text) = rig.said(&["dlq", "show", "--feeds", &place]);
    assert!(code == Some(0) && text.contains(&numbers[1]), "{text}");
    let (code, text) = rig.said(&["dlq", "redrive", "--feeds"]);
    assert!(
        code == Some(0)
            && text.contains("purchase_returns: 1 records")
            && text.contains("backfill"),
        "{text}"
    );
}

#[test]
fn commands_sent_again_from_an_offset_or_a_time_are_answered_by_the_journal() {
    let rig = Rig::with_partitions("again", 2).commands("avro");
    let commands: Vec<_> = (0..10).map(|number| command(&format!("CT-{number}"), "c")).collect();
    rig.erp.approve(commands.iter().map(|one| one.return_no.clone()));
    let _connector = rig.start();
    rig.send(&commands);
    rig.results(10);
    let calls = rig.erp.creates().received;
    let (code, text) = rig.said(&["commands", "replay", "--from-time", "1h", "--dry-run"]);
    assert!(code == Some(0) && text.contains("10 commands would be sent"), "{text}");
    assert_eq!(read_all(&rig.topics.commands).len(), 10);
    let (code, text) = rig.said(&["commands", "replay", "--from-time", "1h"]);
    assert!(code == Some(0) && text.contains("10 commands sent again"), "{text}");
    let results = rig.results(20);
    assert_eq!(
        results
            .iter()
            .filter(|result| result.duplicate && result.outcome == Outcome::Created)
            .count(),
        10,
        "{results:?}"
    );
    let (code, text) = rig.said(&["commands", "replay", "--from-offset", "0:0"]);
    assert!(
        code == Some(0) && text.contains("redriven records and resolutions left out"),
        "{text}"
    );
    assert_eq!(
        rig.said(&["commands", "replay", "--from-offset", "7:0"]).0,
        Some(1),
        "a partition that is not there"
    );
    assert_eq!((rig.erp.creates().received, rig.erp.orders().len()), (calls, 10));
    let copied = avro(&commands[0]);
    assert!(
        read_all(&rig.topics.commands)
            .iter()
            .filter(|record| record.value.as_deref() == Some(&copied[..]))
            .count()
            >= 2
    );
}
