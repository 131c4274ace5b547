//! What Kafka does not take because of its size: left out and said so, told as a dead letter, or
//! waited for with a reason; never tried for ever in everybody's way.

use rdkafka::ClientConfig;
use serde_json::json;
use wdt_connector::testing::{config::Partitioner, schema::Outcome, sink::partition_of};

use crate::{
    kit::{
        commands::{command, json_bytes, line},
        erp::Kind,
        records::{Reader, Sender, read_all},
        rig::{PATIENCE, Rig},
        topics, until,
    },
    parts::broker,
};

/// A sender without our producer's bound on a record; what it sends is small on the wire.
fn generous() -> ClientConfig {
    let mut client = broker().client();
    client.set("message.max.bytes", "4000000").set("compression.type", "lz4");
    client
}

/// Text that no compression makes shorter than about half.
fn noise(length: usize, mut seed: u64) -> String {
    let letters = std::iter::repeat_with(|| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        char::from(
            b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"
                [usize::try_from(seed % 64).unwrap()],
        )
    });
    letters.take(length).collect()
}

/// The commands topic takes a megabyte, compressed: what comes out of it can be more than our own
/// records may have.
#[test]
fn what_is_too_large_to_be_answered_whole_is_answered_in_short() {
    let rig = Rig::with_partitions("toolarge", 1).commands("json");
    rig.erp.take_anything();
    let connector = rig.start();
    let sender = Sender::with(generous());
    let send = |key: &[u8], value: &[u8], headers: &[(&str, &str)]| {
        sender.send(&rig.topics.commands, Some(key), Some(value), headers);
        sender.flush();
    };
    let long = "x".repeat(900_000);
    let lines = vec![json!({"spec_no": 1}); 40_000];
    // 0: a value that our producer does not take.
    send(b"CT-0", &vec![b'x'; 1_020_000], &[("origin", "a test")]);
    // 1: 80,000 violations.
    let many_lines =
        json!({"command_id": "c", "return_no": "CT-1", "warehouse_no": "W", "details": lines})
            .to_string()
            .into_bytes();
    send(b"CT-1", &many_lines, &[]);
    // 2: ids without end.
    send(
        long.as_bytes(),
        json!({"command_id": "c", "return_no": long, "warehouse_no": "W", "details": []})
            .to_string()
            .as_bytes(),
        &[],
    );
    // 3: a field whose name is as long.
    let mut odd =
        json!({"command_id": "c", "return_no": "CT-3", "warehouse_no": "W", "details": []});
    odd[&long] = 1.into();
    send(b"CT-3", odd.to_string().as_bytes(), &[]);
    // 4: a good command under a trace without end.
    send(
        b"CT-4",
        &json_bytes(&command("CT-4", "c")),
        &[
            ("tracestate", &long),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ],
    );
    // 5: everything about it is large.
    send(long.as_bytes(), &vec![b'y'; 1_000_000], &[("origin", &long)]);
    send(b"CT-6", &json_bytes(&command("CT-6", "c")), &[]);
    rig.wait_committed(7);

    let results = rig.results(5);
    let of = |return_no: &str| {
        results
            .iter()
            .find(|result| result.return_no == return_no)
            .unwrap_or_else(|| panic!("{return_no}"))
    };
    assert_eq!(
        (of("CT-4").outcome, of("CT-6").outcome),
        (Outcome::Created, Outcome::Created),
        "the stream goes on"
    );
    let answered = read_all(&rig.topics.results);
    let traced = answered.iter().find(|record| record.key_text() == "CT-4").unwrap();
    assert!(
        traced.header("traceparent").is_some() && traced.header("tracestate").is_none(),
        "a trace without end does not travel on"
    );
    let many = &of("CT-1").violations;
    assert!(
        many.len() <= 101 && many.last().unwrap().contains("79900 more"),
        "{} {:?}",
        many.len(),
        many.last()
    );
    assert!(
        of("CT-3").violations.iter().any(|violation| violation.ends_with('…')),
        "{:?}",
        of("CT-3").violations.len()
    );
    let nameless = results.iter().find(|result| result.return_no.starts_with("xxx")).unwrap();
    assert!(
        nameless.outcome == Outcome::Invalid && nameless.return_no.len() < 2000,
        "{}",
        nameless.return_no.len()
    );

    let letters = read_all(&rig.topics.commands_dlq);
    let letter = |offset: usize| {
        let found = letters
            .iter()
            .find(|letter| letter.header("__connect.errors.offset") == Some(offset.to_string()));
        found.unwrap_or_else(|| panic!("no dead letter of offset {offset}"))
    };
    let reason =
        |offset: usize| letter(offset).header("__connect.errors.exception.message").unwrap();
    assert_eq!(letters.len(), 5);
    assert!(
        letter(0).value.is_none()
            && reason(0).contains("left out")
            && reason(0).contains("offset 0"),
        "{}",
        reason(0)
    );
    assert_eq!(
        (letter(0).key_text(), letter(0).header("origin")),
        ("CT-0".to_owned(), Some("a test".to_owned())),
        "only the value is left out"
    );
    assert!(letter(1).value.as_ref() == Some(&many_lines), "what fits is whole");
    assert!(
        letter(5).value.is_none()
            && letter(5).key.is_none()
            && letter(5).header("origin").is_none(),
        "{}",
        reason(5)
    );
    let left_out = [0, 1, 5].map(|offset| letter(offset).header("wdt-omitted"));
    assert_eq!(left_out, [Some("value".to_owned()), None, Some("everything".to_owned())]);
    assert!(reason(5).contains("left out") && reason(5).contains("offset 5"), "{}", reason(5));
    assert_eq!(rig.erp.orders().len(), 2);
    drop(connector);
}

#[test]
fn topics_that_take_less_cost_a_dead_letters_value_or_make_the_route_wait_with_a_reason() {
    let rig = Rig::with_partitions("smalltopics", 1).commands("json");
    rig.erp.take_anything();
    topics::alter(&rig.topics.commands_dlq, &[("max.message.bytes", "3000")]);
    let connector = rig.start();
    let sender = Sender::new();
    for number in 0..3 {
        sender.send(
            &rig.topics.commands,
            Some(b"CT-0"),
            Some(noise(9_000, 7 + number).as_bytes()),
            &[],
        );
    }
    sender.send(&rig.topics.commands, Some(b"CT-0"), Some(b"small"), &[]);
    sender.flush();
    rig.send_json(&[command("CT-1", "c")]);
    assert_eq!(rig.results(1)[0].outcome, Outcome::Created, "the stream goes on");
    rig.wait_committed(5);
    let letters = read_all(&rig.topics.commands_dlq);
    let sizes: Vec<_> = letters.iter().map(|letter| letter.value.as_ref().map(Vec::len)).collect();
    assert_eq!(sizes, [None, None, None, Some(5)]);
    let reason = letters[0].header("__connect.errors.exception.message").unwrap();
    assert!(
        reason.contains(&rig.topics.commands_dlq) && reason.contains("max.message.bytes"),
        "{reason}"
    );
    // What is not in the letter cannot be sent again from there: each is told by its place, and no
    // tombstone goes out.
    let output = rig.verb(&["dlq", "redrive"], b"");
    let (out, told) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && out.contains("1 sent again, 3 left out, 0 refused"),
        "{out}{told}"
    );
    for offset in 0..3 {
        let place = format!(
            "its value was left out of the letter and stood in {}, partition 0, offset {offset}",
            rig.topics.commands
        );
        assert_eq!(told.lines().filter(|line| line.contains(&place)).count(), 1, "{told}");
    }
    assert!(
        read_all(&rig.topics.commands).iter().all(|record| record.value.is_some()),
        "a tombstone was sent"
    );

    // Nothing can be left out of a result: the pipeline waits, says for what, and goes on by
    // itself.
    topics::alter(&rig.topics.results, &[("max.message.bytes", "150")]);
    rig.send_json(&[command("CT-2", "c")]);
    connector.wait_log(&format!("{} does not take a record", rig.topics.results), PATIENCE);
    topics::alter(&rig.topics.results, &[("max.message.bytes", "1048588")]);
    assert!(rig.results(2).iter().all(|result| result.outcome == Outcome::Created));
    assert_eq!(rig.erp.creates().received, 2);
}

#[test]
fn a_change_that_its_topic_does_not_take_goes_to_the_dead_letters_and_the_feed_goes_on() {
    let rig = Rig::new("smallchanges").purchase_returns();
    let numbers = rig.erp.seed(Kind::Returns, 200);
    let connector = rig.start();
    let mut events = Reader::new(&rig.topics.purchase_returns);
    events.at_least(200, PATIENCE);
    // Altered while the connector runs: one batch of all of these is too large, each event by
    // itself is not.
    topics::alter(&rig.topics.purchase_returns, &[("max.message.bytes", "6000")]);
    for number in &numbers {
        rig.erp.modify(
            Kind::Returns,
            number,
            &json!({"remark": noise(1000, 11 + u64::try_from(number.len()).unwrap())}),
        );
    }
    events.until("every modification", PATIENCE, |seen| seen.len() >= 400);
    assert!(read_all(&rig.topics.feeds_dlq).is_empty());
    connector.wait_log("every record is sent in a batch of its own", PATIENCE);
    // A record of its own that is too large, then together with its `before` only.
    let (large, larger) = (&numbers[0], &numbers[1]);
    rig.erp.modify(Kind::Returns, larger, &json!({"remark": noise(12_000, 5)}));
    rig.erp.modify(Kind::Returns, large, &json!({"remark": noise(4_500, 3)}));
    let mut dead = Reader::new(&rig.topics.feeds_dlq);
    dead.at_least(1, PATIENCE);
    let reason = dead.seen[0].header("__connect.errors.exception.message").unwrap();
    assert!(
        reason.contains(&rig.topics.purchase_returns) && reason.contains("max.message.bytes"),
        "{reason}"
    );
    assert!(
        String::from_utf8_lossy(dead.seen[0].value.as_ref().unwrap()).contains(larger.as_str()),
        "its JSON is kept"
    );
    let last = |events: &Reader, number: &str| {
        events
            .seen
            .iter()
            .rfind(|record| record.key_text() == number)
            .map(|record| rig.json(record))
    };
    rig.erp.modify(Kind::Returns, large, &json!({"remark": noise(4_500, 4)}));
    events.until("the event without `before`", PATIENCE, |seen| {
        seen.iter()
            .filter(|record| record.key_text() == *large)
            .any(|record| rig.json(record)["before"].is_null() && rig.json(record)["op"] == "u")
    });
    // What shrinks again is published again, after the version that was published last.
    rig.erp.modify(Kind::Returns, larger, &json!({"remark": "short"}));
    until("the record that fits again", PATIENCE, || {
        events.finish();
        last(&events, larger)
            .filter(|event| event["after"]["remark"] == "short")
            .map(|event| assert_eq!(event["op"], "u"))
    });
    dead.finish();
    assert_eq!(dead.seen.len(), 1, "told once");
    // `check` says it before.
    let said = String::from_utf8_lossy(&rig.verb(&["check"], b"").stdout).into_owned();
    assert!(
        said.contains("max.message.bytes = 6000")
            && said.contains("a larger change goes to the dead letters"),
        "{said}"
    );
}

/// The copy has more headers than the record, and its topic may take less than it did.
#[test]
fn a_misplaced_command_too_large_to_be_forwarded_is_invalid() {
    let rig = Rig::with_partitions("largecopy", 2).commands("json");
    rig.erp.take_anything();
    let mut large = command("CT-1", "c");
    large.details = (1..3000).map(|seed| line(&noise(40, seed), "1")).collect();
    let own = partition_of(b"CT-1", 2, Partitioner::Murmur2).unwrap();
    let sender = Sender::new();
    sender.send_to(&rig.topics.commands, 1 - own, Some(b"CT-1"), Some(&json_bytes(&large)));
    let good = command("CT-2", "c");
    let own = partition_of(b"CT-2", 2, Partitioner::Murmur2).unwrap();
    sender.send_to(&rig.topics.commands, 1 - own, Some(b"CT-2"), Some(&json_bytes(&good)));
    sender.flush();
    topics::alter(&rig.topics.commands, &[("max.message.bytes", "20000")]);
    let _connector = rig.start();
    let results = rig.results(2);
    let of = |return_no: &str| {
        results.iter().find(|result| result.return_no == return_no).expect("a result")
    };
    assert_eq!(of("CT-2").outcome, Outcome::Created);
    let said = of("CT-1").violations.join("; ");
    assert_eq!(of("CT-1").outcome, Outcome::Invalid);
    assert!(said.contains("into partition") && said.contains("could not be forwarded"), "{said}");
    let letters = read_all(&rig.topics.commands_dlq);
    assert_eq!((letters.len(), letters[0].value.as_deref()), (1, Some(&json_bytes(&large)[..])));
    assert_eq!(rig.erp.order_count(), 1);
}
