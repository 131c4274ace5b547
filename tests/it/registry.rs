//! The change route and a real schema registry: its reasons at the start, its absence later.

use std::time::Duration;

use serde_json::json;

use crate::{
    kit::{
        erp::Kind,
        http,
        proxy::Proxy,
        records::Reader,
        rig::{PATIENCE, Rig},
        until,
    },
    parts::registry,
};

const JSON: (&str, &str) = ("content-type", "application/vnd.schemaregistry.v1+json");

fn ask(method: &str, path: &str, body: &serde_json::Value) -> http::Answer {
    let answer = http::exchange(method, &format!("{}{path}", registry().url()), &[JSON], Some(body.to_string().as_bytes()));
    answer.unwrap_or_else(|fault| panic!("{method} {path}: {fault}"))
}

#[test]
fn an_incompatible_schema_stops_the_start_with_the_registrys_reason() {
    let rig = Rig::new("incompat").purchase_returns().with_registry();
    let subject = format!("{}-value", rig.topics.purchase_returns);
    let other = json!({"type": "record", "name": "Envelope", "namespace": "io.wdt.connector.purchase_returns", "fields": [{"name": "op", "type": "int"}]});
    let registered = ask("POST", &format!("/subjects/{subject}/versions"), &json!({"schema": other.to_string()}));
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
    assert_eq!(http::get(&format!("{}/subjects/{subject}/versions", registry().url())).unwrap().status, 404, "nothing was registered");
    // Somebody else registers them, as an operator's pipeline does.
    let names = [(subject, "PurchaseReturnEnvelope"), (format!("{}-value", rig.topics.feeds_state), "FeedState")];
    for (subject, schema) in names {
        let text = std::fs::read_to_string(format!("{}/schemas/{schema}.avsc", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let answer = ask("POST", &format!("/subjects/{subject}/versions"), &json!({"schema": text}));
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let _connector = rig.start();
    Reader::new(&rig.topics.purchase_returns).at_least(3, PATIENCE);
}

#[test]
fn with_the_registry_gone_known_schemas_go_on() {
    let mut rig = Rig::new("regdown").purchase_returns().return_outbounds("flagship").with_registry();
    let address = registry().url().trim_start_matches("http://").split('/').next().unwrap().to_owned();
    let proxy = Proxy::to(&address);
    let through = registry().url().replace(&address, &proxy.address());
    rig.config.set("schema_registry", "url", through);
    rig.erp.seed(Kind::Returns, 3);
    let mut connector = rig.start();
    let mut reader = Reader::new(&rig.topics.purchase_returns);
    reader.at_least(3, PATIENCE);
    proxy.refuse(true);
    proxy.cut();
    let asked = proxy.accepted();
    let number = rig.erp.add_one(Kind::Returns);
    reader.until("a change without a registry", PATIENCE, |seen| seen.iter().any(|record| record.key_text() == number));
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
    reader.until("a change with it again", PATIENCE, |seen| seen.iter().any(|record| record.key_text() == number));
}
