//! The program as an operator meets it: start, configuration mistakes, probes, signals.

use std::{process::Command, time::Duration};

use crate::kit::{
    connector::{self, PROGRAM},
    http,
    rig::{PATIENCE, Rig},
};

/// Stdout and stderr as text.
fn said(output: &std::process::Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn every_mistake_of_a_configuration_is_a_sentence_and_the_exit_code_is_2() {
    let mut rig = Rig::bare("mistakes").commands("avro");
    rig.config
        .set("commands", "call_timeout", "soon")
        .set("commands", "format", "xml")
        .set("commands", "no_such_key", 1)
        .set("kafka", "bootstrap_servers", "")
        .kafka_property("acks", "1")
        .set("erp.flagship", "url", "not an address");
    let (file, _) = rig.write_config();
    let started = std::time::Instant::now();
    let output = connector::verb(&file, &["run"], b"", Duration::from_secs(10));
    let took = started.elapsed();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(took < Duration::from_secs(1), "it took {took:?}");
    for word in [
        "call_timeout",
        "soon",
        "format",
        "xml",
        "no_such_key",
        "bootstrap_servers",
        "acks",
        "url",
        "not an address",
    ] {
        assert!(text.contains(word), "`{word}` is not named in:\n{text}");
    }
    assert!(!text.contains("panicked"), "{text}");
    assert!(!text.contains(rig.erp.flagship_secret()), "a secret is never printed:\n{text}");
}

#[test]
fn unsafe_timing_is_refused_unless_allowed() {
    let mut rig = Rig::bare("timing").commands("avro");
    rig.config.set("", "allow_unsafe_timing", false);
    let output = rig.verb(&["run"], b"");
    let text = said(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("max_process_pause") && text.contains("allow_unsafe_timing"), "{text}");
}

#[test]
fn a_missing_file_and_a_wrong_argument_are_said_plainly() {
    let output = connector::finish(
        Command::new(PROGRAM).args(["--config", "/no/such/file.toml", "run"]),
        b"",
        PATIENCE,
    );
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("/no/such/file.toml"), "{}", said(&output));
    let output = connector::finish(Command::new(PROGRAM).arg("fly"), b"", PATIENCE);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}

#[test]
fn help_of_every_verb_shows_an_example() {
    for verb in ["run", "demo", "simulate", "check", "topics", "send", "tail", "commands", "dlq"] {
        let output = connector::finish(Command::new(PROGRAM).args([verb, "--help"]), b"", PATIENCE);
        assert!(output.status.success(), "{verb}: {}", said(&output));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            text.contains(&format!("wdt-connector {verb}"))
                && text.to_lowercase().contains("example"),
            "{verb}:\n{text}"
        );
    }
}

#[test]
fn the_listener_answers() {
    let rig = Rig::new("listener").commands("avro").purchase_returns();
    let connector = rig.start();
    assert_eq!(http::get(&connector.url("/healthz")).unwrap().status, 200);
    assert_eq!(http::get(&connector.url("/readyz")).unwrap().status, 200);
    assert!(connector.status().is_object());
    let metrics = connector.metrics();
    assert!(
        metrics.contains("wdt_connector_") && metrics.trim_end().ends_with("# EOF"),
        "{metrics}"
    );
    let page = http::get(&connector.url("/")).unwrap();
    assert!(page.status == 200 && page.body.contains("<html"), "{}", page.body);
    assert_eq!(http::get(&connector.url("/no-such-page")).unwrap().status, 404);
    assert_eq!(connector.terminate(Duration::from_secs(20)).code(), Some(0));
}

#[test]
fn an_idle_connector_ends_with_zero_and_starts_again_at_once() {
    let rig = Rig::new("idle").commands("avro").purchase_returns().return_outbounds("enterprise");
    for _ in 0..2 {
        assert_eq!(rig.start().terminate(Duration::from_secs(20)).code(), Some(0));
    }
}

#[test]
fn a_broker_that_is_not_there_is_named() {
    let mut rig = Rig::bare("nobroker").commands("avro");
    let port = crate::parts::free_port();
    rig.config.set("kafka", "bootstrap_servers", format!("127.0.0.1:{port}"));
    let output = rig.verb(&["check"], b"");
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&port.to_string()), "{text}");
}

#[test]
fn the_demo_proves_its_promises() {
    let mut demo = Command::new(PROGRAM);
    demo.args(["demo", "--for", "5s", "--commands", "50", "--seed", "7"]);
    let output = connector::finish(&mut demo, b"", PATIENCE);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(
        !said(&output).contains('\u{1b}'),
        "without a terminal it prints plain lines:\n{}",
        said(&output)
    );
}

#[test]
fn the_demo_runs_on_a_real_broker() {
    let mut demo = Command::new(PROGRAM);
    demo.args([
        "demo",
        "--kafka",
        crate::parts::broker().bootstrap(),
        "--for",
        "5s",
        "--commands",
        "50",
    ]);
    let output = connector::finish(&mut demo, b"", PATIENCE);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}
