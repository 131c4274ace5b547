//! The operator's tools, on a real broker and a real registry.

use std::process::Output;

use serde_json::{Value, json};

use crate::{
    kit::{
        commands::command,
        connector, http, records,
        rig::{PATIENCE, Rig},
    },
    parts::registry,
};

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn both(output: &Output) -> String {
    format!("{}{}", stdout(output), stderr(output))
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|fault| panic!("no JSON ({fault}): {}", both(output)))
}

const SHEET: &str = "command_id,return_no,warehouse_no,spec_no,num,line_remark\r\n\
    c-1,CSV-1,WH-SH-01,SKU-00001,2,\"one, two\"\r\n\
    c-1,CSV-1,WH-SH-01,SKU-00002,0.5,\r\n\
    c-2,CSV-2,WH-SH-01,SKU-00001,many,\r\n\
    c-3,CSV-3,WH-SH-01,SKU-00001,1,\r\n\
    c-3,CSV-3,WH-SH-02,SKU-00002,1,\r\n\
    c-4,CSV-4,WH-SH-01,SKU-00001\r\n\
    c-5,CSV-5,WH-SH-01,SKU-00001,5,\r\n";

#[test]
fn a_sheet_is_sent_and_what_is_wrong_is_named_by_line() {
    let rig = Rig::new("sheet").commands("avro");
    let dry = rig.verb(&["send", "--csv", "--dry-run"], SHEET.as_bytes());
    assert_eq!(dry.status.code(), Some(1), "{}", both(&dry));
    assert!(stdout(&dry).starts_with("2 commands good, nothing sent, 3 refused"), "{}", both(&dry));
    assert!(records::read_all(&rig.topics.commands).is_empty(), "a dry run sends nothing");

    let sent = rig.verb(&["send", "--csv"], SHEET.as_bytes());
    assert_eq!(sent.status.code(), Some(1), "{}", both(&sent));
    for part in ["line 4: details[0].num", "line 6: warehouse_no", "line 7: the row has 4 cells"] {
        assert!(stderr(&sent).contains(part), "{part:?} is not in {}", both(&sent));
    }
    let all = records::read_all(&rig.topics.commands);
    let mut keys: Vec<String> = all
        .iter()
        .map(|record| {
            String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).into_owned()
        })
        .collect();
    keys.sort();
    assert_eq!(keys, ["CSV-1", "CSV-5"]);
    let first = all.iter().find(|record| record.key.as_deref() == Some(b"CSV-1")).unwrap();
    let command = rig.codec().decode_command(first.value.as_deref().unwrap()).unwrap();
    assert_eq!(command.details.len(), 2);
    assert_eq!(command.details[0].remark.as_deref(), Some("one, two"));

    let wrong = rig.verb(&["send", "--csv"], b"id,colour\n1,2\n");
    assert_eq!(wrong.status.code(), Some(1), "{}", both(&wrong));
    assert!(stderr(&wrong).contains("unknown columns"), "{}", both(&wrong));
}

#[test]
fn results_are_found_by_key_and_by_time() {
    let rig = Rig::new("tailkey").commands("json");
    let numbers = ["TK-1", "TK-2", "TK-3"];
    rig.erp.approve(numbers.iter().map(|number| (*number).to_owned()));
    let lines: String = numbers
        .iter()
        .map(|number| format!("{}\n", json!({"command_id": "c", "return_no": number, "warehouse_no": "WH-SH-01", "details": [{"spec_no": "SKU-00001", "num": "1"}]})))
        .collect();
    let sent = rig.verb(&["send"], lines.as_bytes());
    assert!(sent.status.success(), "{}", both(&sent));
    let _connector = rig.start();
    rig.results(3);
    let tail = |arguments: &[&str]| {
        let output = rig.verb(&[&["tail", "--results"], arguments].concat(), b"");
        assert!(output.status.success(), "{}", both(&output));
        stdout(&output)
            .lines()
            .map(|line| {
                serde_json::from_str::<Value>(line).unwrap()["return_no"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(tail(&["--since", "1h", "--key", "TK-2"]), ["TK-2"]);
    assert_eq!(tail(&["--since", "1h"]).len(), 3);
    assert!(tail(&["--since", "2100-01-01T00:00:00Z"]).is_empty());
}

#[test]
fn a_reading_that_stands_still_goes_on_with_a_new_consumer() {
    let rig = Rig::with_partitions("scan-still", 1).commands("avro");
    rig.erp.take_anything();
    let connector = rig.start();
    rig.send(&[command("SS-1", "c-1"), command("SS-2", "c-2"), command("SS-3", "c-3")]);
    rig.results(3);
    assert_eq!(connector.terminate(PATIENCE).code(), Some(0));
    for arguments in
        [&["tail", "--results", "--since", "1h"][..], &["commands", "show", "SS-3", "c-3"]]
    {
        let sound = rig.verb(arguments, b"");
        assert!(sound.status.success() && stdout(&sound).contains("c-3"), "{}", both(&sound));
        let mut still = rig.verb_command(arguments);
        still.env("FAILPOINTS", "reading-stands-still=inject");
        let still = connector::finish(&mut still, b"", PATIENCE);
        assert_eq!(both(&still), both(&sound), "{arguments:?}");
    }
}

#[test]
fn check_speaks_json() {
    let mut rig = Rig::new("checkjson").commands("avro");
    let good = document(&rig.verb(&["check", "--json"], b""));
    assert_eq!(good["result"], "warning", "one broker is a warning: {good:#}");
    let subjects: Vec<&str> = good["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["subject"].as_str().unwrap())
        .collect();
    assert!(subjects.iter().any(|subject| subject.contains("journal")), "{subjects:?}");
    assert!(subjects.iter().any(|subject| subject.starts_with("calls per day")), "{subjects:?}");
    rig.config.set("topics", "results", "no.such.topic");
    let output = rig.verb(&["check", "--json"], b"");
    assert_eq!(output.status.code(), Some(1));
    let bad = document(&output);
    assert_eq!(bad["result"], "bad");
    let finding = bad["findings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["subject"] == "no.such.topic")
        .unwrap();
    assert!(
        finding["level"] == "bad"
            && finding["advice"]
                .as_str()
                .is_some_and(|advice| advice.contains("wdt-connector topics")),
        "{finding}"
    );
}

#[test]
fn the_registry_is_compared_before_anything_is_written() {
    let mut rig = Rig::new("schemas").commands("avro").with_registry();
    rig.config.set("schema_registry", "register", false);
    let missing = rig.verb(&["schemas", "check"], b"");
    assert_eq!(missing.status.code(), Some(1), "{}", both(&missing));
    assert_eq!(stdout(&missing).matches("✗").count(), 3, "{}", both(&missing));
    let registered = rig.verb(&["schemas", "register"], b"");
    assert!(registered.status.success(), "{}", both(&registered));
    let good = rig.verb(&["schemas", "check"], b"");
    assert!(
        good.status.success() && stdout(&good).matches("registered with id").count() == 3,
        "{}",
        both(&good)
    );

    // Somebody else's schema under a subject that is ours.
    let foreign = json!({ "schema": "{\"type\":\"record\",\"name\":\"Other\",\"fields\":[{\"name\":\"x\",\"type\":\"long\"}]}" });
    let taken = format!("{}.taken", rig.application_id);
    let base = registry().url().trim_end_matches('/').to_owned();
    let answer = http::post(&format!("{base}/subjects/{taken}-value/versions"), &foreign).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let rule = http::exchange(
        "PUT",
        &format!("{base}/config/{taken}-value"),
        &[("Content-Type", "application/json")],
        Some(b"{\"compatibility\":\"BACKWARD\"}"),
    )
    .unwrap();
    assert_eq!(rule.status, 200, "{}", rule.body);
    rig.config.set("topics", "results", taken.as_str());
    let refused = rig.verb(&["schemas", "check"], b"");
    assert_eq!(refused.status.code(), Some(1), "{}", both(&refused));
    assert!(stdout(&refused).contains("not compatible"), "{}", both(&refused));
}

#[test]
fn the_configuration_is_shown_with_its_origins_and_every_mistake_with_its_place() {
    let mut rig = Rig::bare("showconfig").commands("avro");
    let printed = rig.verb(&["config", "print", "--json"], b"");
    assert!(printed.status.success(), "{}", both(&printed));
    let values = document(&printed);
    let find = |key: &str| {
        values
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["key"] == key)
            .unwrap_or_else(|| panic!("{key} is not shown"))
    };
    assert_eq!(find("commands.max_attempts")["origin"], "default");
    let enabled = find("commands.enabled");
    assert!(
        enabled["origin"] == "file" && enabled["line"].as_u64().is_some_and(|line| line > 0),
        "{enabled}"
    );
    assert!(!both(&printed).contains(rig.erp.flagship_secret()), "a secret is never printed");

    rig.config
        .set("commands", "format", "xml")
        .set("commands", "max_attempts", 0)
        .set("quota", "bursts", 3);
    let checked = rig.verb(&["config", "check", "--json"], b"");
    assert_eq!(checked.status.code(), Some(2), "{}", both(&checked));
    let mistakes = document(&checked)["mistakes"].clone();
    let keys: Vec<&str> =
        mistakes.as_array().unwrap().iter().map(|one| one["key"].as_str().unwrap()).collect();
    for key in ["commands.format", "commands.max_attempts", "quota.bursts"] {
        assert!(keys.contains(&key), "{key} is not in {mistakes:#}");
    }
    assert!(
        mistakes
            .as_array()
            .unwrap()
            .iter()
            .all(|one| one["line"].is_u64() && one["column"].is_u64()),
        "{mistakes:#}"
    );
    let good = rig.verb(&["config", "schema"], b"");
    assert_eq!(document(&good)["title"], "wdt-connector configuration");
}
