//! What an operator does to a running connector: replaces secrets, follows one command, changes the
//! log, pauses a pipeline.

use std::{fs, time::Duration};

use serde_json::{Value, json};

use crate::kit::{
    collector::FakeCollector,
    commands,
    connector::Connector,
    http,
    records::{Reader, Sender, read_all},
    rig::{PATIENCE, Rig},
    until,
};

/// `count` commands whose returns the ERP accepts.
fn prepared(rig: &Rig, count: usize) -> Vec<wdt_connector::testing::schema::CreateReturnOutbound> {
    let all: Vec<_> = (0..count)
        .map(|number| commands::command(&format!("TH{number}"), &format!("c-{number}")))
        .collect();
    rig.erp.approve(all.iter().map(|command| command.return_no.clone()));
    all
}

fn section(connector: &Connector, pointer: &str) -> Value {
    connector.status().pointer(&format!("/sections/{pointer}")).cloned().unwrap_or_default()
}

/// Neither probe minds what the ERP does: nobody restarts a pod for it.
fn assert_probes(connector: &Connector) {
    for path in ["/healthz", "/readyz"] {
        assert_eq!(http::get(&connector.url(path)).unwrap().status, 200, "{path}");
    }
}

#[test]
fn a_secret_replaced_in_its_file_is_used_without_a_restart() {
    let rig = Rig::new("secret").commands("avro");
    let commands = prepared(&rig, 5);
    let secret = rig.path("flagship.secret");
    fs::write(&secret, "outdated:salt").unwrap();
    let mut connector = rig.start();
    let pid = connector.pid();
    rig.send(&commands);
    until("a pipeline that is stopped by the wrong secret", PATIENCE, || {
        (section(&connector, "commands/circuit") == "open").then_some(())
    });
    assert_probes(&connector);

    // Half a secret is none: the one before stays, and somebody is told.
    fs::write(&secret, "no colon in it").unwrap();
    let refused = until("a refused reload", PATIENCE, || {
        section(&connector, "reload/refused/erp").as_str().map(str::to_owned)
    });
    assert!(refused.contains("secret:salt"), "{refused}");
    assert_eq!(connector.metric("wdt_connector_last_reload_successful", &[]), 0.0);
    connector.wait_log("new secrets or certificates refused", PATIENCE);
    assert_probes(&connector);

    fs::write(&secret, rig.erp.flagship_secret()).unwrap();
    let results = rig.results(commands.len());
    assert!(results.iter().all(|result| result.outcome.name() == "CREATED"), "{results:?}");
    assert_eq!(rig.erp.order_count(), 5);
    assert_eq!(connector.metric("wdt_connector_last_reload_successful", &[]), 1.0);
    assert!(connector.running() && connector.pid() == pid);
    assert!(!connector.log().contains(rig.erp.flagship_secret()), "a secret is never logged");
}

#[test]
fn replaced_kafka_credentials_build_the_clients_anew_and_nothing_is_done_twice() {
    let mut rig = Rig::new("kafkasecret").commands("avro").purchase_returns();
    // A plain broker takes any password; what matters here is that every client is built anew with
    // commands on their way.
    let password = rig.path("kafka.password");
    fs::write(&password, "first").unwrap();
    rig.config.set("kafka", "sasl_password_file", password.display().to_string());
    let commands = prepared(&rig, 60);
    rig.erp.latency(Duration::from_millis(50));
    let connector = rig.start();
    rig.send(&commands[..30]);
    until("commands on their way", PATIENCE, || (rig.erp.creates().received >= 5).then_some(()));
    fs::write(&password, "second").unwrap();
    connector.wait_log("restarting pipelines with new credentials", PATIENCE);
    rig.send(&commands[30..]);
    let results = rig.results(commands.len());
    let mut created: Vec<_> = results.iter().map(|result| result.command_id.clone()).collect();
    created.sort();
    created.dedup();
    assert_eq!((created.len(), rig.erp.order_count()), (60, 60));
    assert_eq!(
        connector.metric("wdt_connector_reloads_total", &["part=\"kafka\"", "success"]),
        1.0
    );
    until("both pipelines again", PATIENCE, || {
        (http::get(&connector.url("/readyz")).unwrap().status == 200).then_some(())
    });
    // SIGHUP asks for the same, and is never the end of the process.
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(connector.pid()).unwrap()).unwrap(),
        rustix::process::Signal::HUP,
    )
    .unwrap();
    connector.wait_log("no secret or certificate has changed", PATIENCE);
    assert_eq!(connector.terminate(Duration::from_secs(20)).code(), Some(0));
}

#[test]
fn one_command_is_followed_by_its_id_through_log_status_metrics_and_traces() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let collector = FakeCollector::start();
    let mut rig = Rig::new("follow").commands("json").purchase_returns();
    rig.config
        .set("telemetry", "otlp_endpoint", collector.url.clone())
        .set("log", "format", "json")
        .set("log", "level", "info");
    let command = &prepared(&rig, 1)[0];
    let connector = rig.start();
    let sender = Sender::new();
    let value = commands::json_bytes(command);
    sender.send(
        &rig.topics.commands,
        Some(b"TH0"),
        Some(&value),
        &[("traceparent", &traceparent), ("tracestate", "a=b")],
    );
    sender.flush();

    let mut reader = Reader::new(&rig.topics.results);
    let record = reader.at_least(1, PATIENCE)[0].clone();
    assert_eq!(
        (record.header("traceparent").as_deref(), record.header("tracestate").as_deref()),
        (Some(&*traceparent), Some("a=b"))
    );

    connector.wait_log("ERP call finished", PATIENCE);
    let log = connector.log();
    let line = log.lines().find(|line| line.contains("ERP call finished")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(
        [&line["command.id"], &line["command.return_no"], &line["trace.id"], &line["erp.result"]],
        ["c-0", "TH0", TRACE, "ok"]
    );

    let way = until("the command's way to its end", PATIENCE, || {
        let way = http::get(&connector.url("/commands?return_no=TH0&command_id=c-0"))
            .ok()
            .filter(|way| way.status == 200)?
            .json();
        way["steps"].as_array()?.iter().any(|step| step["stage"] == "settle").then_some(way)
    });
    let hops: Vec<_> = way["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (step["stage"].as_str().unwrap(), step["result"].as_str().unwrap()))
        .collect();
    assert_eq!(
        hops,
        [
            ("validate", "accepted"),
            ("journal", "fresh"),
            ("journal", "intent"),
            ("call", "ok"),
            ("settle", "CREATED")
        ]
    );
    assert_eq!(connector.status()["recent"]["results"][0]["command_id"], "c-0");
    assert_eq!(
        connector.metric("wdt_connector_stage_results_total", &["stage=\"call\"", "result=\"ok\""]),
        1.0
    );
    assert_eq!(
        connector.metric("wdt_connector_command_end_to_end_latency_seconds_count", &[]),
        1.0
    );
    until("a lag the broker has told", PATIENCE, || {
        connector
            .metrics()
            .lines()
            .any(|line| {
                line.starts_with("wdt_connector_consumer_lag_records{") && line.ends_with("} 0")
            })
            .then_some(())
    });
    assert_eq!(
        http::get(&connector.url("/commands?return_no=TH0&command_id=other")).unwrap().status,
        404
    );

    // What is left is sent when the process ends.
    assert_eq!(connector.terminate(Duration::from_secs(20)).code(), Some(0));
    let trace: Vec<u8> =
        (0..16).map(|at| u8::from_str_radix(&TRACE[2 * at..2 * at + 2], 16).unwrap()).collect();
    assert!(collector.holds(&trace), "the sender's trace goes on");
    for text in [
        "command",
        "journal",
        "call",
        "settle",
        "c-0",
        "TH0",
        "CREATED",
        "create_order",
        "window",
        "fetch",
        "service.name",
    ] {
        assert!(collector.holds(text.as_bytes()), "{text} is in no span");
    }
    assert!(
        !collector.holds(rig.erp.flagship_secret().as_bytes())
            && !collector.holds(rig.erp.flagship_key().as_bytes())
    );
}

#[test]
fn a_collector_that_is_away_changes_nothing() {
    let mut rig = Rig::new("nocollector").commands("avro");
    rig.config.set(
        "telemetry",
        "otlp_endpoint",
        format!("http://127.0.0.1:{}", crate::parts::free_port()),
    );
    let commands = prepared(&rig, 3);
    let connector = rig.start();
    rig.send(&commands);
    assert_eq!(rig.results(3).len(), 3);
    connector.wait_log("trace export failed", PATIENCE);
    assert_eq!(connector.terminate(Duration::from_secs(30)).code(), Some(0));
}

#[test]
fn the_log_is_changed_and_a_route_is_told_while_the_connector_runs() {
    let mut rig = Rig::new("told").commands("avro");
    rig.config.set("log", "level", "info");
    let connector = rig.start();
    let put = |filter: &str| {
        http::exchange("PUT", &connector.url("/log"), &[], Some(filter.as_bytes())).unwrap()
    };
    assert!(!connector.log().contains(" DEBUG "));
    let refused = put("wdt_connector=loud");
    assert!(refused.status == 400 && refused.body.contains("is no log filter"), "{}", refused.body);
    assert_eq!(put("wdt_connector=debug,warn").json()["filter"], "wdt_connector=debug,warn");
    let commands = prepared(&rig, 1);
    rig.send(&commands);
    connector.wait_log(" DEBUG ", PATIENCE);
    assert_eq!(put("").json()["filter"], "info");
    assert_eq!(http::get(&connector.url("/log")).unwrap().json()["filter"], "info");

    for (action, state) in [("pause", "paused"), ("resume", "running")] {
        let answer = http::exchange(
            "POST",
            &connector.url(&format!("/pipelines/commands/{action}")),
            &[],
            None,
        )
        .unwrap();
        assert_eq!(
            (answer.status, answer.json()),
            (200, json!({ "pipeline": "commands", "state": state })),
            "{}",
            answer.body
        );
    }
    let told = read_all(&rig.topics.control);
    let value = |at: usize| -> Value {
        serde_json::from_slice(told[at].value.as_deref().unwrap()).unwrap()
    };
    let states: Vec<_> =
        (0..told.len()).map(|at| (told[at].key_text(), value(at)["state"].clone())).collect();
    let key = "[\"pipeline\",\"commands\"]".to_owned();
    assert_eq!(states, [(key.clone(), json!("paused")), (key, json!("running"))]);
    assert!(value(0)["by"].as_str().unwrap().contains(&rig.application_id));
}
