//! Every kind of bad input, one after the other; after each the stream goes on.

use wdt_connector::testing::schema::{
    CommandResult, CreateReturnOutbound, ExplanationFields, Outcome,
};

use crate::kit::{
    commands::{avro, command, json_bytes, line},
    raw_producer,
    records::{Reader, Record, Sender, read_all},
    rig::{PATIENCE, Rig},
};

/// Sends `bad`, then a good command, waits for the good one's result, and returns all results but
/// that one.
fn through(
    rig: &Rig,
    bad: &[(&[u8], Option<&[u8]>)],
    good: &[u8],
) -> (Vec<CommandResult>, Vec<Record>) {
    let sender = Sender::new();
    for (key, value) in bad {
        sender.send(&rig.topics.commands, Some(key), *value, &[("origin", "a test")]);
    }
    sender.send(&rig.topics.commands, Some(b"CT-GOOD"), Some(good), &[]);
    sender.flush();
    rig.wait_committed(i64::try_from(bad.len() + 1).unwrap());
    let mut reader = Reader::new(&rig.topics.results);
    reader.until("the good command's result", PATIENCE, |seen| {
        seen.iter().any(|record| record.key_text() == "CT-GOOD")
    });
    reader.finish();
    let results: Vec<_> = reader.seen.iter().map(|record| rig.result(record)).collect();
    let (good, others): (Vec<_>, Vec<_>) =
        results.into_iter().partition(|result| result.return_no == "CT-GOOD");
    assert_eq!(
        good.iter().map(|result| result.outcome).collect::<Vec<_>>(),
        [Outcome::Created],
        "the stream goes on"
    );
    (others, read_all(&rig.topics.commands_dlq))
}

fn rig(what: &str, format: &str) -> Rig {
    let rig = Rig::with_partitions(what, 1).commands(format);
    rig.erp.approve(["CT-GOOD".to_owned(), "CT-1".to_owned()]);
    rig
}

/// A dead letter is the original, byte for byte, with its headers and Kafka Connect's error
/// headers.
fn assert_original(letter: &Record, topic: &str, offset: i64, key: &[u8], value: Option<&[u8]>) {
    assert_eq!((letter.key.as_deref(), letter.value.as_deref()), (Some(key), value));
    assert_eq!(letter.header("origin").as_deref(), Some("a test"), "the sender's headers are kept");
    assert_eq!(letter.header("__connect.errors.topic").as_deref(), Some(topic));
    assert_eq!(letter.header("__connect.errors.partition").as_deref(), Some("0"));
    assert_eq!(letter.header("__connect.errors.offset"), Some(offset.to_string()));
    let reason = letter.header("__connect.errors.exception.message");
    assert!(reason.is_some_and(|reason| !reason.is_empty()), "{letter:?}");
}

#[test]
fn undecodable_avro_goes_to_the_dead_letters_as_it_came() {
    let rig = rig("undecodable", "avro");
    let _connector = rig.start();
    let whole = avro(&command("CT-1", "c"));
    let truncated = &whole[..whole.len() - 3];
    let mut foreign = whole.clone();
    foreign[2..10].copy_from_slice(&[9; 8]);
    let framed = [&[0, 0, 15, 66, 64][..], &whole[10..]].concat();
    let mut wrong_schema = rig.codec().encode_result(&a_result()).unwrap();
    wrong_schema.push(0);
    let bad: Vec<(&[u8], Option<&[u8]>)> = vec![
        (b"CT-1", Some(b"not avro at all")),
        (b"CT-1", Some(truncated)),
        (b"CT-1", Some(&foreign)),
        (b"CT-1", Some(&framed)),
        (b"CT-1", Some(&wrong_schema)),
        (b"CT-1", Some(b"")),
        (b"CT-1", None),
        (b"\xff\xfe", Some(b"\xff\xfe")),
    ];
    let (results, letters) = through(&rig, &bad, &avro(&command("CT-GOOD", "good")));
    assert!(results.is_empty(), "{results:?}");
    assert_eq!(letters.len(), bad.len());
    for (offset, (letter, (key, value))) in letters.iter().zip(&bad).enumerate() {
        assert_original(letter, &rig.topics.commands, i64::try_from(offset).unwrap(), key, *value);
    }
    assert_eq!(rig.erp.creates().received, 1);
}

#[test]
fn undecodable_json_goes_to_the_dead_letters_as_it_came() {
    let rig = rig("nojson", "json");
    let _connector = rig.start();
    let bad: Vec<(&[u8], Option<&[u8]>)> = vec![
        (b"CT-1", Some(b"{\"command_id\": ")),
        (b"CT-1", Some(b"[]")),
        (b"CT-1", Some(b"\xff")),
        (b"CT-1", None),
    ];
    let (results, letters) = through(&rig, &bad, &json_bytes(&command("CT-GOOD", "good")));
    assert!(results.is_empty(), "{results:?}");
    assert_eq!(letters.len(), bad.len());
    for (offset, (letter, (key, value))) in letters.iter().zip(&bad).enumerate() {
        assert_original(letter, &rig.topics.commands, i64::try_from(offset).unwrap(), key, *value);
    }
}

#[test]
fn an_unknown_field_of_a_json_command_is_invalid_by_name() {
    let rig = rig("unknown", "json");
    let _connector = rig.start();
    let mut value: serde_json::Value =
        serde_json::from_slice(&json_bytes(&command("CT-1", "c"))).unwrap();
    value["warehouse"] = "typo".into();
    let bytes = value.to_string().into_bytes();
    let (results, letters) =
        through(&rig, &[(b"CT-1", Some(&bytes))], &json_bytes(&command("CT-GOOD", "good")));
    assert_invalid(&results, "warehouse");
    assert_original(&letters[0], &rig.topics.commands, 0, b"CT-1", Some(&bytes));
}

fn assert_invalid(results: &[CommandResult], word: &str) {
    assert_eq!(results.len(), 1, "{results:?}");
    assert_eq!(results[0].outcome, Outcome::Invalid, "{results:?}");
    assert!(
        results[0].violations.iter().any(|violation| violation.contains(word)),
        "{word} is not named in {:?}",
        results[0].violations
    );
}

/// One wrong command: `INVALID` naming `words`, a dead letter, no call.
fn invalid(rig: &Rig, wrong: &CreateReturnOutbound, words: &[&str]) {
    let bytes = avro(wrong);
    let key = wrong.return_no.as_bytes();
    let (results, letters) =
        through(rig, &[(key, Some(&bytes))], &avro(&command("CT-GOOD", "good")));
    for word in words {
        assert_invalid(&results, word);
    }
    assert_eq!(letters.len(), 1);
    assert_original(&letters[0], &rig.topics.commands, 0, key, Some(&bytes));
    assert_eq!(rig.erp.creates().received, 1, "only the good one is called");
}

#[test]
fn everything_wrong_with_a_command_is_named_at_once() {
    let rig = rig("violations", "avro");
    let _connector = rig.start();
    let mut wrong = command("CT-1", "c");
    wrong.warehouse_no = "W".repeat(500);
    wrong.remark = Some("备".repeat(256));
    wrong.details = vec![line("SKU-00001", "0"), line("SKU-00002", "-1")];
    invalid(&rig, &wrong, &["warehouse_no", "remark", "details[0].num", "details[1].num"]);
}

#[test]
fn a_command_without_lines_is_invalid() {
    let rig = rig("nolines", "avro");
    let _connector = rig.start();
    let mut wrong = command("CT-1", "c");
    wrong.details.clear();
    invalid(&rig, &wrong, &["details"]);
}

#[test]
fn a_quantity_beyond_the_decimal_and_an_unknown_mode_are_invalid() {
    let rig = rig("decimal", "json");
    let _connector = rig.start();
    let mut value: serde_json::Value =
        serde_json::from_slice(&json_bytes(&command("CT-1", "c"))).unwrap();
    value["details"][0]["num"] = "1.00001".into();
    value["create_mode"] = "MAYBE".into();
    let bytes = value.to_string().into_bytes();
    let (results, letters) =
        through(&rig, &[(b"CT-1", Some(&bytes))], &json_bytes(&command("CT-GOOD", "good")));
    assert_invalid(&results, "num");
    assert_invalid(&results, "create_mode");
    assert_original(&letters[0], &rig.topics.commands, 0, b"CT-1", Some(&bytes));
}

#[test]
fn a_known_id_with_other_content_is_invalid_and_keeps_the_first_outcome() {
    let rig = rig("otherid", "avro");
    let _connector = rig.start();
    let first = command("CT-1", "same");
    let mut other = first.clone();
    other.details = vec![line("SKU-00001", "3")];
    let (first, other) = (avro(&first), avro(&other));
    let bad: Vec<(&[u8], Option<&[u8]>)> =
        vec![(b"CT-1", Some(&first)), (b"CT-1", Some(&other)), (b"CT-1", Some(&first))];
    let (results, letters) = through(&rig, &bad, &avro(&command("CT-GOOD", "good")));
    let seen: Vec<_> = results.iter().map(|result| (result.outcome, result.duplicate)).collect();
    assert_eq!(
        seen,
        [(Outcome::Created, false), (Outcome::Invalid, false), (Outcome::Created, true)]
    );
    assert_invalid(&results[1..2], "command_id");
    assert_eq!(letters.len(), 1);
    assert_original(&letters[0], &rig.topics.commands, 1, b"CT-1", Some(&other));
    assert_eq!(rig.erp.orders().len(), 2);
}

#[test]
fn a_key_that_is_not_the_return_is_invalid() {
    let rig = rig("key", "avro");
    let _connector = rig.start();
    let bytes = avro(&command("CT-1", "c"));
    let (results, letters) =
        through(&rig, &[(b"CT-2", Some(&bytes))], &avro(&command("CT-GOOD", "good")));
    assert_invalid(&results, "key");
    assert_original(&letters[0], &rig.topics.commands, 0, b"CT-2", Some(&bytes));
    assert_eq!(rig.erp.creates().received, 1);
}

#[test]
fn what_the_erp_refuses_is_rejected_with_its_own_words() {
    let rig = rig("rejected", "avro");
    let _connector = rig.start();
    let bytes = avro(&command("CT-ABSENT", "c"));
    let (results, letters) =
        through(&rig, &[(b"CT-ABSENT", Some(&bytes))], &avro(&command("CT-GOOD", "good")));
    assert_eq!(results.len(), 1);
    let result = &results[0];
    assert_eq!((result.outcome, result.erp_code), (Outcome::Rejected, Some(100)), "{result:?}");
    assert!(
        result.erp_message.as_deref().is_some_and(|text| text.contains("采购退货单不存在")),
        "{result:?}"
    );
    let explanation = result.explanation.both().unwrap_or_else(|| panic!("{result:?}"));
    assert_eq!(
        (explanation.en(), explanation.zh()),
        ("there is no such purchase return", "采购退货单不存在")
    );
    assert!(letters.is_empty(), "a refusal is no dead letter: {letters:?}");
}

fn a_result() -> CommandResult {
    CommandResult {
        command_id: "c".to_owned(),
        return_no: "CT-1".to_owned(),
        outcome: Outcome::Created,
        outbound_no: None,
        erp_code: None,
        erp_message: None,
        explanation: ExplanationFields::default(),
        warning: None,
        violations: Vec::new(),
        candidates: Vec::new(),
        attempts: 1,
        recovered: false,
        duplicate: false,
        resolved: false,
        first_attempt_at: None,
        last_attempt_at: None,
        settled_at: wdt_connector::testing::clock::Timestamp::now(),
        source_topic: "t".to_owned(),
        source_partition: 0,
        source_offset: 0,
    }
}

/// Kafka's header names are bytes; rdkafka panics on one that is not UTF-8, which ended the polling
/// thread for good.
#[test]
fn header_names_that_are_not_utf8_go_to_the_dead_letters_and_the_stream_goes_on() {
    let rig = rig("header-names", "avro");
    rig.erp.approve(["CT-2".to_owned()]);
    let connector = rig.start();
    let address = rig.broker.get("bootstrap.servers").unwrap().to_owned();
    let value = avro(&command("CT-1", "c"));
    let many: Vec<(&[u8], &[u8])> = std::iter::repeat_n((&b"\xff"[..], &b""[..]), 20_000).collect();
    let headers: [&[(&[u8], &[u8])]; 2] =
        [&[(b"origin", b"a test"), (b"trace\xff\xfe", b"x"), (b"later", b"kept")], &many];
    for headers in headers {
        raw_producer::send(&address, &rig.topics.commands, 0, b"CT-1", &value, headers);
    }
    let good = avro(&command("CT-GOOD", "c"));
    let sender = Sender::new();
    sender.send(&rig.topics.commands, Some(b"CT-GOOD"), Some(&good), &[]);
    sender.flush();
    rig.wait_committed(3);

    let letters = read_all(&rig.topics.commands_dlq);
    assert_eq!(letters.len(), 2, "{letters:?}");
    assert_original(&letters[0], &rig.topics.commands, 0, b"CT-1", Some(&value));
    assert_eq!(letters[0].header("later").as_deref(), Some("kept"));
    assert_eq!(letters[0].header("wdt-unreadable-headers").as_deref(), Some("1"));
    assert_eq!(letters[1].header("wdt-unreadable-headers").as_deref(), Some("20000"));
    let orders = rig.erp.orders();
    assert!(orders.len() == 1 && rig.results(1)[0].return_no == "CT-GOOD", "{orders:?}");
    assert!(!connector.log().contains("panicked"), "{}", connector.log());

    // The operator's commands read such records as well; a copy of one would lack what it had.
    let replay = ["commands", "replay", "--from-offset", "0:0", "--dry-run"];
    let output = rig.verb(&replay, b"");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("1 commands would be sent again"), "{said}");
    assert!(said.contains("2 with header names that are not UTF-8"), "{said}");
    let tail = ["tail", "--dead-letters", "--from-beginning", "--count", "2"];
    assert!(rig.verb(&tail, b"").status.success());
    assert!(connector.terminate(PATIENCE).success());
}
