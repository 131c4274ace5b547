//! Every kind of bad input, one after the other; after each the stream goes on.

use wdt_connector::testing::{
    clock::Timestamp,
    schema::{CommandResult, CreateReturnOutbound, ExplanationFields, Outcome},
};

use crate::kit::{
    Dice,
    commands::{avro, command, json_bytes, line},
    raw_producer::{self, Raw},
    records::{Reader, Record, Sender, read_all},
    rig::{PATIENCE, Rig},
    topics,
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

/// What surrounds a value, at random: names, keys and times that some client could write.
struct Surroundings(Dice);

impl Surroundings {
    fn pick<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        let at = self.0.roll(u64::try_from(all.len()).unwrap());
        all[usize::try_from(at).unwrap()]
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let length = self.0.roll(most + 1);
        (0..length).map(|_| u8::try_from(self.0.roll(256)).unwrap()).collect()
    }

    /// What the connector itself reads, what it writes, and anything else.
    fn name(&mut self) -> Vec<u8> {
        const NAMES: [&[u8]; 15] = [
            b"wdt-control",
            b"wdt-original-timestamp",
            b"wdt-redrive-count",
            b"wdt-in-doubt",
            b"wdt-omitted",
            b"wdt-unreadable-headers",
            b"__connect.errors.topic",
            b"__connect.errors.partition",
            b"__connect.errors.offset",
            b"__connect.errors.exception.message",
            b"traceparent",
            b"tracestate",
            b"",
            b"nul\0inside",
            b"\xff\xfe",
        ];
        if self.0.roll(4) == 0 { self.bytes(40) } else { self.pick(&NAMES).to_vec() }
    }

    fn header_value(&mut self) -> Option<Vec<u8>> {
        const VALUES: [&[u8]; 12] = [
            b"",
            b"0",
            b"-1",
            b"1",
            b"99999999999999999999",
            b"-9223372036854775808",
            b"9223372036854775807",
            b"resolve",
            b"forget",
            b"{}",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            b"\xf0\x28\x8c\x28\0",
        ];
        match self.0.roll(6) {
            0 => None,
            1 => Some(self.bytes(300)),
            _ => Some(self.pick(&VALUES).to_vec()),
        }
    }

    fn headers(&mut self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let count = match self.0.roll(20) {
            0 => 3000,
            1 => 0,
            _ => 1 + self.0.roll(6),
        };
        let mut headers: Vec<_> = (0..count).map(|_| (self.name(), self.header_value())).collect();
        // A name that stands there twice.
        if let (0, Some(first)) = (self.0.roll(5), headers.first().cloned()) {
            headers.push(first);
        }
        headers
    }

    fn record(&mut self, number: usize) -> Raw {
        let return_no = format!("CT-BAD-{number}");
        let value = match self.0.roll(6) {
            0 => None,
            1 => Some(self.bytes(200)),
            _ => Some(avro(&command(&return_no, "c"))),
        };
        let key = match self.0.roll(5) {
            0 => None,
            1 => Some(Vec::new()),
            2 => Some(self.bytes(30)),
            _ => Some(return_no.into_bytes()),
        };
        let now = Timestamp::now().0;
        let timestamp = *self.pick(&[&-1, &0, &1, &(now - 86_400_000), &now, &i64::MAX]);
        Raw { key, value, headers: self.headers(), timestamp }
    }
}

/// Whatever surrounds a value: every record is answered or a dead letter, the good commands between
/// them are carried out once, and the operator's commands read all of it.
#[test]
fn random_headers_keys_and_times_stop_nothing() {
    const SEED: u64 = 20_261_130;
    const ROUNDS: usize = 60;
    const BAD: usize = 5;
    let rig = Rig::with_partitions("surroundings", 1).commands("avro");
    rig.erp.take_anything();
    // What a broker takes of times is its operator's choice.
    let anything =
        [("message.timestamp.after.max.ms", "9223372036854775807"), ("retention.ms", "-1")];
    topics::alter(&rig.topics.commands, &anything);
    let mut connector = rig.start();
    let address = rig.broker.get("bootstrap.servers").unwrap().to_owned();
    let mut random = Surroundings(Dice(SEED));
    let now = Timestamp::now().0;
    let mut sent = 0;
    for round in 0..ROUNDS {
        for number in 0..BAD {
            let record = random.record(round * BAD + number);
            let code = raw_producer::try_send(&address, &rig.topics.commands, 0, &record);
            assert_eq!(code, 0, "seed {SEED}, round {round}: refused by the broker: {record:?}");
        }
        let return_no = format!("CT-GOOD-{round}");
        let good = Raw {
            key: Some(return_no.clone().into_bytes()),
            value: Some(avro(&command(&return_no, "good"))),
            headers: Vec::new(),
            timestamp: now,
        };
        assert_eq!(raw_producer::try_send(&address, &rig.topics.commands, 0, &good), 0);
        sent += BAD + 1;
    }
    rig.wait_committed(i64::try_from(sent).unwrap());

    let results: Vec<_> =
        read_all(&rig.topics.results).iter().map(|record| rig.result(record)).collect();
    let letters = read_all(&rig.topics.commands_dlq);
    for round in 0..ROUNDS {
        let return_no = format!("CT-GOOD-{round}");
        let own: Vec<_> = results.iter().filter(|one| one.return_no == return_no).collect();
        assert_eq!(own.len(), 1, "seed {SEED}: {return_no}: {own:?}");
        assert_eq!(own[0].outcome, Outcome::Created, "{own:?}");
    }
    let of_letter = |letter: &Record| -> i64 {
        // Of several headers of the name the connector's is the last.
        let (_, value) =
            letter.headers.iter().rfind(|(name, _)| name == "__connect.errors.offset").unwrap();
        String::from_utf8(value.clone()).unwrap().parse().unwrap()
    };
    let mut told: Vec<i64> = results.iter().map(|result| result.source_offset).collect();
    told.extend(letters.iter().map(of_letter));
    told.sort_unstable();
    told.dedup();
    let all: Vec<i64> = (0..i64::try_from(sent).unwrap()).collect();
    assert_eq!(told, all, "seed {SEED}: every record is answered or a dead letter");
    let mut orders: Vec<String> =
        rig.erp.orders().into_iter().map(|order| order.return_no).collect();
    let made = orders.len();
    orders.sort();
    orders.dedup();
    assert_eq!(orders.len(), made, "seed {SEED}: no return has two orders");

    let count = letters.len().to_string();
    let bad = results.iter().find(|result| result.return_no.starts_with("CT-BAD")).unwrap();
    let some_bad = bad.return_no.clone();
    for arguments in [
        &["dlq", "list", "--limit", "1000"][..],
        &["dlq", "list", "--json"],
        &["dlq", "redrive", "--dry-run"],
        &["commands", "list"],
        &["commands", "show", "CT-GOOD-0", "good"],
        &["commands", "show", &some_bad, "c"],
        &["commands", "replay", "--from-offset", "0:0", "--dry-run"],
        &["tail", "--dead-letters", "--from-beginning", "--count", &count],
        &["tail", "--results", "--from-beginning", "--count", "60"],
    ] {
        let output = rig.verb(arguments, b"");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
        assert!(output.status.success(), "{arguments:?}: {said}");
    }
    assert!(connector.running(), "{}", connector.log());
    assert!(!connector.log().contains("panicked"), "{}", connector.log());
    assert!(connector.terminate(PATIENCE).success());
}
