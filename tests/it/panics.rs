//! A panic of any part is said in one line, and the part goes on, or the process ends.

use std::time::Duration;

use wdt_connector::testing::schema::CreateReturnOutbound;

use crate::kit::{
    commands::command,
    connector::Connector,
    http,
    ledger::Verdict,
    rig::{PATIENCE, Rig},
    until,
};

fn some(count: usize) -> Vec<CreateReturnOutbound> {
    (0..count).map(|number| command(&format!("PA{number:04}"), &format!("cmd-{number}"))).collect()
}

/// A connector with JSON log lines in which one part will panic once.
fn start(rig: &mut Rig, fault: &str) -> Connector {
    rig.config.set("log", "format", "json");
    rig.erp.take_anything();
    rig.spawn_with(&[("FAILPOINTS", &format!("{fault}=inject"))]).ready()
}

/// The panic is a line of the log like any other, with its place.
fn said_once(connector: &Connector) {
    let log = connector.log();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect();
    let panics: Vec<_> = lines.iter().filter(|line| !line["panic.location"].is_null()).collect();
    assert_eq!(panics.len(), 1, "{log}");
    assert!(panics[0]["error"].as_str().unwrap().contains("on purpose"), "{}", panics[0]);
    assert_eq!(panics[0]["level"], "ERROR");
}

/// Every command is settled once although one part panics on the way.
fn settles_all(fault: &str, rig: Rig) {
    let mut rig = rig.commands("avro");
    let connector = start(&mut rig, fault);
    let commands = some(30);
    rig.send(&commands);
    let results = rig.results(commands.len());
    Verdict::of(&rig, &commands, &results).assert_each_once(commands.len(), fault);
    said_once(&connector);
    assert_eq!(connector.terminate(PATIENCE).code(), Some(0));
}

#[test]
fn commands_are_settled_although_the_wait_for_a_permit_panics() {
    let mut rig = Rig::new("permit-panic");
    // The one place would be lost for good.
    rig.config.set("commands", "max_in_flight", 1);
    settles_all("permit-panic", rig);
}

#[test]
fn commands_are_settled_although_the_quota_panics() {
    let mut rig = Rig::new("quota-panic");
    // Ten a second: commands stand in the quota's lines, which are served by what panics.
    rig.config.set("quota", "calls_per_minute", 600).set("quota", "burst", 1);
    settles_all("quota-panic", rig);
}

#[test]
fn commands_are_settled_although_the_transaction_thread_panics() {
    settles_all("transaction-panic", Rig::new("transaction-panic"));
}

#[test]
fn a_pause_is_obeyed_although_the_reader_of_the_control_topic_panics() {
    let mut rig = Rig::new("control-panic").commands("avro");
    let connector = start(&mut rig, "control-panic");
    for (verb, paused) in [("pause", true), ("resume", false)] {
        assert!(rig.verb(&["commands", verb], b"").status.success());
        until(&format!("{verb} to be obeyed"), PATIENCE, || {
            let labels = ["pipeline=\"commands\""];
            let seen = connector.metric("wdt_connector_pipeline_paused", &labels) == 1.0;
            (seen == paused).then_some(())
        });
    }
    said_once(&connector);
}

#[test]
fn the_listener_answers_after_a_panic() {
    let mut rig = Rig::new("listener-panic").commands("avro");
    // The first connection, by which the start waits for readiness, meets it.
    let connector = start(&mut rig, "listener-panic");
    assert_eq!(http::get(&connector.url("/healthz")).unwrap().status, 200);
    said_once(&connector);
}

#[test]
fn the_quota_is_reported_after_a_panic() {
    let mut rig = Rig::new("report-panic").commands("avro");
    let connector = start(&mut rig, "report-panic");
    until("the quota's section", Duration::from_secs(20), || {
        connector.status()["sections"]["quota"].is_array().then_some(())
    });
    said_once(&connector);
}

#[test]
fn a_transaction_thread_that_panics_again_and_again_ends_the_process() {
    for rig in
        [Rig::new("commands-panic").commands("avro"), Rig::new("feeds-panic").purchase_returns()]
    {
        let mut connector = rig.spawn_with(&[("FAILPOINTS", "transaction-panic-always=inject")]);
        let status = connector.wait_end(PATIENCE).expect("the process ends by itself");
        assert_eq!(status.code(), Some(1), "{}", connector.log());
        assert!(connector.log().contains("its thread has ended"), "{}", connector.log());
    }
}
