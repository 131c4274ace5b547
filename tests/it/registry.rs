//! Both pipelines and a real schema registry: its reasons at the start, its absence later.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use rdkafka::{Offset, TopicPartitionList, admin::AdminOptions};
use serde_json::json;
use wdt_connector::testing::{
    config::Partitioner,
    schema::{CommandResult, Outcome},
    sink::partition_of,
};

use crate::{
    kit::{
        commands::command,
        connector::Connector,
        erp::Kind,
        follower::Follower,
        http,
        proxy::Proxy,
        records::{Reader, Record, Sender, committed, read_all},
        rig::{PATIENCE, Rig},
        until, wait,
    },
    parts::{broker, registry},
};

const JSON: (&str, &str) = ("content-type", "application/vnd.schemaregistry.v1+json");

fn ask(method: &str, path: &str, body: &serde_json::Value) -> http::Answer {
    let answer = http::exchange(
        method,
        &format!("{}{path}", registry().url()),
        &[JSON],
        Some(body.to_string().as_bytes()),
    );
    answer.unwrap_or_else(|fault| panic!("{method} {path}: {fault}"))
}

#[test]
fn an_incompatible_schema_stops_the_start_with_the_registrys_reason() {
    let rig = Rig::new("incompat").purchase_returns().with_registry();
    let subject = format!("{}-value", rig.topics.purchase_returns);
    let other = json!({"type": "record", "name": "Envelope", "namespace": "io.wdt.connector.purchase_returns", "fields": [{"name": "op", "type": "int"}]});
    let registered = ask(
        "POST",
        &format!("/subjects/{subject}/versions"),
        &json!({"schema": other.to_string()}),
    );
    assert_eq!(registered.status, 200, "{}", registered.body);
    let policy = ask("PUT", &format!("/config/{subject}"), &json!({"compatibility": "BACKWARD"}));
    assert_eq!(policy.status, 200, "{}", policy.body);
    let mut connector = rig.spawn();
    until("the start to be given up", PATIENCE, || (!connector.running()).then_some(()));
    let log = connector.log();
    assert!(log.contains(&subject) && log.contains("409"), "{log}");
    assert_eq!(connector.terminate(Duration::from_secs(5)).code(), Some(1));
}

#[test]
fn subjects_are_only_verified_where_registering_is_off() {
    let mut rig = Rig::new("verified").purchase_returns().with_registry();
    rig.erp.seed(Kind::Returns, 3);
    rig.config.set("schema_registry", "register", false);
    let mut connector = rig.spawn();
    until("the start to be given up", PATIENCE, || (!connector.running()).then_some(()));
    assert!(connector.log().contains("schema_registry.register"), "{}", connector.log());
    let subject = format!("{}-value", rig.topics.purchase_returns);
    assert_eq!(
        http::get(&format!("{}/subjects/{subject}/versions", registry().url())).unwrap().status,
        404,
        "nothing was registered"
    );
    // Somebody else registers them, as an operator's pipeline does.
    let names = [
        (subject, "PurchaseReturnEnvelope"),
        (format!("{}-value", rig.topics.feeds_state), "FeedState"),
    ];
    for (subject, schema) in names {
        let text = std::fs::read_to_string(format!(
            "{}/schemas/{schema}.avsc",
            env!("CARGO_MANIFEST_DIR")
        ))
        .unwrap();
        let answer =
            ask("POST", &format!("/subjects/{subject}/versions"), &json!({"schema": text}));
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let _connector = rig.start();
    Reader::new(&rig.topics.purchase_returns).at_least(3, PATIENCE);
}

/// Puts a proxy between the connector and the registry.
fn through_proxy(rig: &mut Rig) -> Proxy {
    let address = registry().url().trim_start_matches("http://").split('/').next().unwrap();
    let proxy = Proxy::to(address);
    rig.config.set("schema_registry", "url", registry().url().replace(address, &proxy.address()));
    proxy
}

#[test]
fn with_the_registry_gone_known_schemas_go_on() {
    let mut rig =
        Rig::new("regdown").purchase_returns().return_outbounds("flagship").with_registry();
    let proxy = through_proxy(&mut rig);
    rig.erp.seed(Kind::Returns, 3);
    let mut connector = rig.start();
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    reader.at_least(3, PATIENCE);
    proxy.refuse(true);
    proxy.cut();
    let asked = proxy.accepted();
    let number = rig.erp.add_one(Kind::Returns);
    reader.until("a change without a registry", PATIENCE, |seen| {
        seen.iter().any(|record| record.key_text() == number)
    });
    assert_eq!(rig.json(reader.seen.last().unwrap())["after"]["return_no"], number.as_str());
    assert_eq!(proxy.accepted(), asked, "nobody was asked");
    assert!(connector.running());
    // A start needs it, and says so.
    connector.kill();
    let mut connector = rig.spawn();
    until("the start to be given up", PATIENCE, || (!connector.running()).then_some(()));
    assert!(connector.log().contains("schema registry"), "{}", connector.log());
    proxy.refuse(false);
    let _connector = rig.start();
    let number = rig.erp.add_one(Kind::Returns);
    reader.until("a change with it again", PATIENCE, |seen| {
        seen.iter().any(|record| record.key_text() == number)
    });
}

/// What the page says of a part whose new files were refused.
fn refused(connector: &Connector, part: &str) -> Option<String> {
    let pointer = format!("/sections/reload/refused/{part}");
    connector.status().pointer(&pointer)?.as_str().map(str::to_owned)
}

#[test]
fn registry_credentials_are_tried_before_they_are_taken() {
    let mut rig = Rig::new("regauth").purchase_returns().with_registry();
    let proxy = through_proxy(&mut rig);
    // user:wrong
    proxy.forbid("dXNlcjp3cm9uZw==");
    let auth = rig.path("registry.auth");
    std::fs::write(&auth, "user:right").unwrap();
    rig.config.set("schema_registry", "auth_file", auth.display().to_string());
    rig.erp.seed(Kind::Returns, 3);
    let mut connector = rig.start();
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    reader.at_least(3, PATIENCE);

    std::fs::write(&auth, "user:wrong").unwrap();
    until("a refused password", PATIENCE, || {
        assert!(connector.running(), "{}", connector.log());
        refused(&connector, "registry").filter(|reason| reason.contains("401"))
    });
    assert_eq!(connector.metric("wdt_connector_last_reload_successful", &[]), 0.0);
    let number = rig.erp.add_one(Kind::Returns);
    reader.until("a change with the credentials before", PATIENCE, |seen| {
        seen.iter().any(|record| record.key_text() == number)
    });

    // What nobody can judge now is judged later, also if the file does not change again.
    proxy.refuse(true);
    proxy.cut();
    std::fs::write(&auth, "user:newer").unwrap();
    until("a password that nobody can judge", PATIENCE, || {
        assert!(connector.running(), "{}", connector.log());
        refused(&connector, "registry").filter(|reason| !reason.contains("401"))
    });
    proxy.listen_in();
    proxy.refuse(false);
    until("a password that is taken", PATIENCE, || {
        refused(&connector, "registry").is_none().then_some(())
    });
    assert!(String::from_utf8_lossy(&proxy.heard()).contains("dXNlcjpuZXdlcg=="));
    assert_eq!(connector.metric("wdt_connector_last_reload_successful", &[]), 1.0);
}

#[test]
fn kafka_credentials_are_replaced_while_the_registry_is_away() {
    let mut rig = Rig::new("regawaykafka").purchase_returns().with_registry();
    let proxy = through_proxy(&mut rig);
    // A plain broker takes any password; what matters is that every client is built anew.
    let password = rig.path("kafka.password");
    std::fs::write(&password, "first").unwrap();
    rig.config.set("kafka", "sasl_password_file", password.display().to_string());
    rig.erp.seed(Kind::Returns, 3);
    let mut connector = rig.start();
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    reader.at_least(3, PATIENCE);
    proxy.refuse(true);
    proxy.cut();
    std::fs::write(&password, "second").unwrap();
    connector.wait_log("restarting pipelines with new credentials", PATIENCE);
    let number = rig.erp.add_one(Kind::Returns);
    reader.until("a change from the clients built anew", PATIENCE, |seen| {
        assert!(connector.running(), "{}", connector.log());
        seen.iter().any(|record| record.key_text() == number)
    });
}

/// A return that stands in this partition of four, different for every `nth`.
fn return_in(partition: i32, nth: usize) -> String {
    let all = (0..).map(|number| format!("CT-{number}"));
    all.filter(|name| partition_of(name.as_bytes(), 4, Partitioner::Murmur2) == Some(partition))
        .nth(nth)
        .unwrap()
}

/// Registers what another program's next version writes: one field more, at the end. Returns its
/// id.
fn next_version(rig: &Rig, field: &str) -> u32 {
    let text = std::fs::read_to_string(format!(
        "{}/schemas/CreateReturnOutbound.avsc",
        env!("CARGO_MANIFEST_DIR")
    ))
    .unwrap();
    let mut next: serde_json::Value = serde_json::from_str(&text).unwrap();
    next["fields"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": field, "type": ["null", "string"], "default": null}));
    let registered = ask(
        "POST",
        &format!("/subjects/{}-next-value/versions", rig.topics.commands),
        &json!({"schema": next.to_string()}),
    );
    assert_eq!(registered.status, 200, "{}", registered.body);
    u32::try_from(registered.json()["id"].as_u64().unwrap()).unwrap()
}

fn send_known(rig: &Rig, sender: &Sender, return_no: &str) {
    let bytes = rig.codec().encode_command(&command(return_no, "c")).unwrap();
    sender.send(&rig.topics.commands, Some(return_no.as_bytes()), Some(&bytes), &[]);
}

/// A command in the next version's schema.
fn send_new(rig: &Rig, sender: &Sender, id: u32, return_no: &str) {
    let datum = rig.codec().encode_command(&command(return_no, "c")).unwrap().split_off(5);
    let bytes = [&[0][..], &id.to_be_bytes(), &datum, &[0]].concat();
    sender.send(&rig.topics.commands, Some(return_no.as_bytes()), Some(&bytes), &[]);
}

#[test]
fn what_waits_behind_a_new_schema_goes_on_when_another_partition_learnt_it() {
    let mut rig = Rig::new("reglearnt").commands("avro").with_registry();
    let proxy = through_proxy(&mut rig);
    rig.erp.take_anything();
    let (id, sender) = (next_version(&rig, "hint"), Sender::new());
    let _connector = rig.start();
    let mut reader = Reader::new(&rig.topics.results);
    send_known(&rig, &sender, &return_in(0, 0));
    reader.at_least(1, PATIENCE);

    // The question of the first partition is on its way for long.
    proxy.cut();
    proxy.listen_in();
    proxy.delay(Duration::from_secs(20));
    send_new(&rig, &sender, id, &return_in(0, 1));
    (2..4).for_each(|nth| send_known(&rig, &sender, &return_in(0, nth)));
    sender.flush();
    let question = format!("/schemas/ids/{id}");
    until("the question", PATIENCE, || {
        String::from_utf8_lossy(&proxy.heard()).contains(&question).then_some(())
    });
    // The second partition's is answered, and then the first one's fails.
    proxy.delay(Duration::ZERO);
    send_new(&rig, &sender, id, &return_in(1, 0));
    sender.flush();
    reader.at_least(2, PATIENCE);
    proxy.cut();
    reader.at_least(5, PATIENCE);
    let settled: BTreeSet<String> = reader.seen.iter().map(Record::key_text).collect();
    assert_eq!(settled, (0..4).map(|nth| return_in(0, nth)).chain([return_in(1, 0)]).collect());
}

#[test]
fn with_the_registry_gone_a_new_schema_waits_and_other_partitions_go_on() {
    let mut rig = Rig::new("regnew").commands("avro").with_registry();
    let proxy = through_proxy(&mut rig);
    rig.erp.take_anything();
    let (id, sender) = (next_version(&rig, "note"), Sender::new());
    let known = |return_no: &str| send_known(&rig, &sender, return_no);
    let new = |return_no: &str| send_new(&rig, &sender, id, return_no);
    let mut connector = rig.start();
    let mut reader = Reader::new(&rig.topics.results);
    known(&return_in(0, 0));
    reader.at_least(1, PATIENCE);

    proxy.refuse(true);
    proxy.cut();
    new(&return_in(0, 1));
    // Behind it in its partition, and in the others.
    (2..4).for_each(|nth| known(&return_in(0, nth)));
    (1..4).for_each(|partition| known(&return_in(partition, 0)));
    sender.flush();
    reader.at_least(4, PATIENCE);
    connector.wait_log("schema registry unavailable; commands wait", PATIENCE);
    let asked = proxy.accepted();
    until("the registry to be asked again", PATIENCE, || {
        (proxy.accepted() > asked + 1).then_some(())
    });
    reader.finish();
    let settled: BTreeSet<String> = reader.seen.iter().map(Record::key_text).collect();
    let expected = (0..4).map(|partition| return_in(partition, 0)).collect();
    assert_eq!(
        settled, expected,
        "what stands behind the new schema waits, other partitions go on"
    );
    assert!(read_all(&rig.topics.commands_dlq).is_empty(), "the record is not to blame");
    let of_partition_0 =
        committed(&format!("{}.commands", rig.application_id), &rig.topics.commands);
    assert_eq!(
        of_partition_0.iter().find(|(partition, _)| *partition == 0),
        Some(&(0, 1)),
        "nothing is passed over"
    );
    assert!(connector.running());

    proxy.refuse(false);
    reader.at_least(7, PATIENCE);
    rig.wait_committed(7);
    reader.finish();
    let results: Vec<CommandResult> = reader.seen.iter().map(|record| rig.result(record)).collect();
    assert_eq!(results.len(), 7);
    assert!(
        results.iter().all(|result| result.outcome == Outcome::Created && !result.duplicate),
        "{results:?}"
    );
    assert_eq!(rig.erp.orders().len(), 7);
    assert!(read_all(&rig.topics.commands_dlq).is_empty());
}

#[test]
fn what_waits_for_a_schema_is_settled_although_retention_took_it_meanwhile() {
    let mut rig = Rig::new("regtaken").commands("avro").with_registry();
    let proxy = through_proxy(&mut rig);
    rig.erp.take_anything();
    let (id, sender) = (next_version(&rig, "taken"), Sender::new());
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.results);
    proxy.refuse(true);
    proxy.cut();
    send_new(&rig, &sender, id, &return_in(0, 0));
    (1..4).for_each(|nth| send_known(&rig, &sender, &return_in(0, nth)));
    sender.flush();
    connector.wait_log("schema registry unavailable; commands wait", PATIENCE);
    let lag = |records: u64| {
        until("what the broker says", PATIENCE, || {
            let now = connector.status()["sections"]["commands"]["now"].clone();
            (now["consumer_lag_records"] == records).then_some(())
        });
    };
    lag(4);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&rig.topics.commands, 0, Offset::End).unwrap();
    let admin = broker().admin();
    wait(admin.delete_records(&list, &AdminOptions::new())).expect("the records are deleted");
    lag(0);
    proxy.refuse(false);
    reader.at_least(4, PATIENCE);
    reader.finish();
    assert_eq!(reader.seen.len(), 4);
    let section = &connector.status()["sections"]["commands"];
    assert_eq!((&section["log_resets"], &section["removed_unread"]), (&0.into(), &0.into()));
}

/// Names in any script, a field of no bytes, a type that contains itself, and types that stand
/// under subjects of their own.
#[test]
fn a_sender_s_own_schema_may_refer_to_others_and_use_any_names() {
    let rig = Rig::new("regrefs").commands("avro").with_registry();
    rig.erp.take_anything();
    let register = |name: &str, schema: serde_json::Value, references: serde_json::Value| {
        let subject = format!("{}-{name}", rig.topics.commands);
        let body =
            json!({"schema": schema.to_string(), "schemaType": "AVRO", "references": references});
        let registered = ask("POST", &format!("/subjects/{subject}/versions"), &body);
        assert_eq!(registered.status, 200, "{name}: {}", registered.body);
        let reference = json!([{"name": name, "subject": subject, "version": 1}]);
        (u32::try_from(registered.json()["id"].as_u64().unwrap()).unwrap(), reference)
    };
    let cause = json!({"type": "record", "name": "com.ex.Cause", "fields": [{"name": "next", "type": ["null", "Cause"]}]});
    let (_, causes) = register("com.ex.Cause", cause, json!([]));
    let line = json!({"type": "record", "name": "com.ex.Line", "fields": [
        {"name": "spec_no", "type": "string"},
        {"name": "num", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
        {"name": "cause", "type": ["null", "Cause"]},
    ]});
    let (_, lines) = register("com.ex.Line", line, causes);
    let order = json!({"type": "record", "name": "采购退货", "namespace": "com.ex.Jobs", "fields": [
        {"name": "备注", "type": "string"},
        {"name": "command_id", "type": "string"},
        {"name": "return_no", "type": "string"},
        {"name": "warehouse_no", "type": "string"},
        {"name": "nothing", "type": "null"},
        {"name": "details", "type": {"type": "array", "items": "com.ex.Line"}},
    ]});
    let (id, _) = register("order", order, lines);
    let _connector = rig.start();
    let datum = b"\x02x\x02c\x08CT-1\x02w\x02\x02s\x04\x00\xfa\x02\x02\x00\x00";
    let bytes = [&[0][..], &id.to_be_bytes(), datum].concat();
    let sender = Sender::new();
    sender.send(&rig.topics.commands, Some(b"CT-1"), Some(&bytes), &[]);
    sender.flush();
    rig.wait_committed(1);
    assert!(read_all(&rig.topics.commands_dlq).is_empty());
    let results = rig.results(1);
    assert_eq!((results[0].outcome, results[0].return_no.as_str()), (Outcome::Created, "CT-1"));
    assert_eq!(rig.erp.orders().len(), 1);
}

/// A command whose schema no registry has.
fn send_rubbish(rig: &Rig, sender: &Sender, id: u32, return_no: &str) {
    let bytes = [&[0][..], &id.to_be_bytes(), b"\x02c"].concat();
    sender.send(&rig.topics.commands, Some(return_no.as_bytes()), Some(&bytes), &[]);
}

/// Puts a node that lags between the connector and the registry.
fn through_follower(rig: &mut Rig) -> Follower {
    let follower = Follower::of(registry().url());
    rig.config.set("schema_registry", "url", follower.url());
    follower
}

#[test]
fn a_schema_that_the_registry_knows_late_is_waited_for() {
    let mut rig = Rig::new("reglate").commands("avro").with_registry();
    let follower = through_follower(&mut rig);
    rig.erp.take_anything();
    let (id, sender) = (next_version(&rig, "late"), Sender::new());
    follower.hide(id);
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.results);
    // Thirteen in three partitions; the fourth one has none and goes on.
    (0..13).for_each(|nth| send_new(&rig, &sender, id, &return_in(nth % 3, nth as usize)));
    send_known(&rig, &sender, &return_in(3, 0));
    sender.flush();
    reader.at_least(1, PATIENCE);
    connector.wait_log("schema id unknown to the registry; commands wait", PATIENCE);
    until("the registry to be asked again", PATIENCE, || (follower.asked(id) > 4).then_some(()));
    reader.finish();
    assert_eq!(reader.seen.iter().map(Record::key_text).collect::<Vec<_>>(), [return_in(3, 0)]);

    follower.show(id);
    reader.at_least(14, PATIENCE);
    rig.wait_committed(14);
    reader.finish();
    let results: Vec<CommandResult> = reader.seen.iter().map(|record| rig.result(record)).collect();
    assert_eq!(results.len(), 14);
    assert!(
        results.iter().all(|result| result.outcome == Outcome::Created && !result.duplicate),
        "{results:?}"
    );
    assert!(read_all(&rig.topics.commands_dlq).is_empty(), "none was to blame");
}

/// One that never comes costs its partition 30 s, each further one 2 s; other partitions nothing.
#[test]
fn schema_ids_that_never_come_are_dead_letters_and_do_not_stop_the_partition() {
    let mut rig = Rig::new("regnever").commands("avro").with_registry();
    let follower = through_follower(&mut rig);
    rig.erp.take_anything();
    let sender = Sender::new();
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.results);
    let rubbish = |nth: u32| 2_000_000_000 + nth;
    let begun = Instant::now();
    for nth in 0..20 {
        // Each id twice: it is waited for once.
        (0..2).for_each(|_| send_rubbish(&rig, &sender, rubbish(nth), &return_in(0, 0)));
    }
    send_known(&rig, &sender, &return_in(0, 0));
    send_known(&rig, &sender, &return_in(1, 0));
    sender.flush();
    reader.at_least(1, PATIENCE);
    assert_eq!(reader.seen[0].key_text(), return_in(1, 0), "other partitions go on");
    reader.at_least(2, PATIENCE);
    let took = begun.elapsed();
    rig.wait_committed(42);
    let letters = read_all(&rig.topics.commands_dlq);
    assert_eq!(letters.len(), 40);
    for letter in &letters {
        let reason = letter.header("__connect.errors.exception.message").unwrap();
        assert!(
            reason.contains("could not give schema 20000000") && reason.contains("404"),
            "{reason}"
        );
    }
    // 30 s for the first, 2 s for each further one; the rest is the machine's.
    assert!(
        (Duration::from_secs(68)..Duration::from_secs(100)).contains(&took),
        "{took:?} for 20 unknown ids"
    );
    assert!(follower.asked(rubbish(0)) <= 40 && follower.asked(rubbish(19)) <= 6);
    let waits = connector.log().matches("schema id unknown to the registry").count();
    assert_eq!(waits, 20, "each is said once");
}
