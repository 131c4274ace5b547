//! The other verbs of the program, on a real broker.

use std::{collections::BTreeSet, process::Output};

use serde_json::Value;

use crate::kit::{
    commands::{command, json_bytes},
    rig::Rig,
    topics,
};

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The JSON lines of stdout.
fn lines(output: &Output) -> Vec<Value> {
    let stdout = String::from_utf8_lossy(&output.stdout);
    stdout
        .lines()
        .map(|line| {
            serde_json::from_str(line).unwrap_or_else(|fault| panic!("no JSON ({fault}): {line}"))
        })
        .collect()
}

#[test]
fn topics_creates_what_is_missing_and_verifies_the_rest() {
    let rig = Rig::bare("topics").commands("avro").purchase_returns();
    // The commands topic is the sender's; without it nothing says how many partitions the journal
    // needs.
    let output = rig.verb(&["topics", "--with-commands"], b"");
    assert!(output.status.success(), "{}", text(&output));
    let journal = topics::partitions(&rig.topics.journal);
    assert_eq!(topics::partitions(&rig.topics.commands), journal);
    assert!(journal.is_some_and(|count| count > 0));
    for topic in [&rig.topics.journal, &rig.topics.feeds_state] {
        assert_eq!(
            topics::config_of(topic, "cleanup.policy").as_deref(),
            Some("compact"),
            "{topic}"
        );
    }
    assert_eq!(topics::config_of(&rig.topics.results, "cleanup.policy").as_deref(), Some("delete"));
    assert_eq!(topics::partitions(&rig.topics.feeds_state), Some(2));
    let again = rig.verb(&["topics"], b"");
    assert!(again.status.success(), "{}", text(&again));
}

#[test]
fn a_journal_with_other_partitions_is_refused_with_the_way_out() {
    let rig = Rig::bare("partitions").commands("avro");
    topics::create(&[
        (&rig.topics.commands, 4, &[]),
        (&rig.topics.results, 4, &[]),
        (&rig.topics.commands_dlq, 4, &[]),
        (&rig.topics.journal, 3, &[("cleanup.policy", "compact")]),
    ]);
    let output = rig.verb(&["run"], b"");
    assert!(!output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("they must be equal"), "{}", text(&output));
}

#[test]
fn check_passes_on_a_working_configuration_and_names_what_fails() {
    let mut rig = Rig::new("check").commands("avro").purchase_returns();
    let output = rig.verb(&["check"], b"");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(
        !text(&output).contains(rig.erp.flagship_secret()),
        "a secret is never printed: {}",
        text(&output)
    );
    let wrong = rig.path("wrong.secret");
    std::fs::write(&wrong, "not-the-secret:not-the-salt").unwrap();
    rig.config.set("erp.flagship", "secret_file", wrong.display().to_string());
    let output = rig.verb(&["check"], b"");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    rig.config.set(
        "erp.flagship",
        "secret_file",
        rig.path("flagship.secret").display().to_string(),
    );
    rig.config.set("topics", "results", "no.such.topic");
    let output = rig.verb(&["check"], b"");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("no.such.topic"), "{}", text(&output));
}

#[test]
fn what_send_sends_comes_back_from_tail() {
    let rig = Rig::new("sendtail").commands("avro");
    let all: Vec<_> =
        (0..20).map(|number| command(&format!("CT-{number}"), &format!("cmd-{number}"))).collect();
    rig.erp.approve(all.iter().map(|one| one.return_no.clone()));
    let input: Vec<u8> =
        all.iter().flat_map(|one| [json_bytes(one), b"\n".to_vec()].concat()).collect();
    let sent = rig.verb(&["send"], &input);
    assert!(sent.status.success(), "{}", text(&sent));
    let _connector = rig.start();
    rig.results(20);
    let tailed = rig.verb(TAIL_RESULTS, b"");
    assert!(tailed.status.success(), "{}", text(&tailed));
    let returns: BTreeSet<String> = lines(&tailed)
        .iter()
        .map(|line| find(line, "return_no").and_then(Value::as_str).unwrap_or_default().to_owned())
        .collect();
    assert_eq!(returns, all.iter().map(|one| one.return_no.clone()).collect(), "{}", text(&tailed));
}

#[test]
fn send_names_the_line_that_is_no_command() {
    let rig = Rig::new("sendbad").commands("avro");
    let output = rig.verb(&["send"], b"{\"command_id\": \"c\"\n");
    assert!(!output.status.success(), "{}", text(&output));
    assert!(text(&output).contains('1'), "the line is named: {}", text(&output));
    assert!(crate::kit::records::read_all(&rig.topics.commands).is_empty());
}

/// Reads the results there are and ends.
const TAIL_RESULTS: &[&str] = &["tail", "--results", "--from-beginning"];

/// The first value of a key anywhere in a JSON document.
fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(fields) => {
            fields.get(key).or_else(|| fields.values().find_map(|inner| find(inner, key)))
        }
        Value::Array(items) => items.iter().find_map(|inner| find(inner, key)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}
