//! Commands in another partition than their key's: whatever partitioner their senders use, each is
//! forwarded once to the right one and comes to one order and one result.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;
use wdt_connector::testing::{
    clock::Timestamp,
    config::Partitioner,
    schema::{CreateReturnOutbound, Outcome},
    sink::partition_of,
};

use crate::kit::{
    commands::{avro, command},
    connector::Connector,
    http,
    ledger::Verdict,
    records::{Reader, Sender, read_all},
    rig::{PATIENCE, Rig},
    until,
};

const PARTITIONS: i32 = 4;

fn place(return_no: &str, partitioner: Partitioner) -> i32 {
    partition_of(return_no.as_bytes(), PARTITIONS, partitioner).unwrap()
}

fn commands(prefix: &str, count: usize) -> Vec<CreateReturnOutbound> {
    (0..count).map(|number| command(&format!("{prefix}-{number:03}"), "c")).collect()
}

fn section(connector: &Connector) -> Value {
    connector.status()["sections"]["commands"].clone()
}

/// Sends one to the partition after its key's.
fn misplace(rig: &Rig, one: &CreateReturnOutbound, headers: &[(&str, &str)]) {
    let sender = Sender::new();
    sender.send_headed_to(
        &rig.topics.commands,
        (place(&one.return_no, Partitioner::Murmur2) + 1) % PARTITIONS,
        Some(one.return_no.as_bytes()),
        Some(&avro(one)),
        headers,
    );
    sender.flush();
}

#[test]
fn senders_with_the_other_partitioner_are_served_and_told_of_once() {
    for (configured, other, senders) in [
        (Partitioner::Murmur2, Partitioner::Crc32, "consistent_random"),
        (Partitioner::Crc32, Partitioner::Murmur2, "murmur2_random"),
    ] {
        let names = match configured {
            Partitioner::Murmur2 => ["murmur2", "crc32"],
            Partitioner::Crc32 | Partitioner::Any => ["crc32", "murmur2"],
        };
        let mut rig = Rig::with_partitions("otherhash", PARTITIONS).commands("avro");
        rig.config.set("commands", "partitioner", names[0]);
        rig.erp.take_anything();
        let all = commands("CT", 24);
        let connector = rig.start();
        assert_eq!(http::get(&connector.url("/readyz")).unwrap().status, 200);
        let sender = Sender::partitioned(rig.broker.clone(), senders);
        for one in &all {
            let headers = [
                ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
                ("origin", "a test"),
            ];
            sender.send(
                &rig.topics.commands,
                Some(one.return_no.as_bytes()),
                Some(&avro(one)),
                &headers,
            );
        }
        sender.flush();
        let results = rig.results(24);
        Verdict::of(&rig, &all, &results).assert_each_once(24, names[0]);
        assert!(read_all(&rig.topics.commands_dlq).is_empty());

        let misplaced: Vec<&CreateReturnOutbound> = all
            .iter()
            .filter(|one| place(&one.return_no, configured) != place(&one.return_no, other))
            .collect();
        assert!(misplaced.len() > 6, "{}", misplaced.len());
        let (originals, copies): (Vec<_>, Vec<_>) = read_all(&rig.topics.commands)
            .into_iter()
            .partition(|record| record.header("wdt-forwarded").is_none());
        assert_eq!((originals.len(), copies.len()), (24, misplaced.len()));
        let originals: BTreeMap<String, _> = originals
            .into_iter()
            .map(|record| {
                (format!("{}:{}:{}", rig.topics.commands, record.partition, record.offset), record)
            })
            .collect();
        for copy in copies {
            let original = &originals[&copy.header("wdt-forwarded").unwrap()];
            assert_eq!((&copy.key, &copy.value), (&original.key, &original.value));
            assert_eq!(copy.headers[..2], original.headers[..]);
            assert!(copy.header("wdt-original-timestamp").is_some(), "{copy:?}");
            assert_eq!(copy.partition, place(&copy.key_text(), configured));
        }
        let traced = read_all(&rig.topics.results);
        assert!(traced.iter().all(|record| record.header("traceparent").is_some()), "{traced:?}");
        until("the counts of what was forwarded", PATIENCE, || {
            let section = section(&connector);
            let advice = section["partitioner_advice"].as_str().unwrap_or_default();
            (section["forwarded"].as_u64() == u64::try_from(misplaced.len()).ok()
                && section["received"].as_u64() == u64::try_from(24 + misplaced.len()).ok()
                && advice.contains(&format!("commands.partitioner = \"{}\" and run", names[1])))
            .then_some(())
        });
        let counted = connector.metric("wdt_connector_commands_forwarded_total", &[]);
        assert!((counted - misplaced.len() as f64).abs() < 0.5, "{counted}");
        let log = connector.log();
        let said: Vec<&str> =
            log.lines().filter(|line| line.contains("outside their key's partition")).collect();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains(senders_setting(configured)), "{said:?}");
        assert!(connector.terminate(Duration::from_secs(20)).success());
    }
}

fn senders_setting(partitioner: Partitioner) -> &'static str {
    match partitioner {
        Partitioner::Murmur2 => "partitioner=murmur2_random",
        Partitioner::Crc32 | Partitioner::Any => "partitioner=consistent_random",
    }
}

#[test]
fn a_copy_in_another_partition_is_forwarded_and_answered_by_the_journal() {
    let rig = Rig::with_partitions("elsewhere", PARTITIONS).commands("avro");
    rig.erp.take_anything();
    let all = commands("CT", 12);
    let _connector = rig.start();
    rig.send(&all);
    rig.results(12);
    let calls = rig.erp.creates().received;
    misplace(&rig, &all[0], &[]);
    let results = rig.results(13);
    let copy = results.iter().find(|result| result.duplicate).expect("a copy's result");
    assert_eq!(
        (copy.return_no.as_str(), copy.outcome, copy.source_partition),
        (
            all[0].return_no.as_str(),
            Outcome::Created,
            place(&all[0].return_no, Partitioner::Murmur2)
        )
    );
    assert_eq!((rig.erp.creates().received, rig.erp.order_count()), (calls, 12));
    assert!(read_all(&rig.topics.commands_dlq).is_empty());
}

#[test]
fn what_is_misplaced_again_or_invalid_is_answered_where_it_stands() {
    let rig = Rig::with_partitions("again", PARTITIONS).commands("avro");
    rig.erp.take_anything();
    let connector = rig.start();
    misplace(&rig, &command("CT-1", "c"), &[("wdt-forwarded", "elsewhere:0:7")]);
    let empty = CreateReturnOutbound { details: Vec::new(), ..command("CT-2", "c") };
    misplace(&rig, &empty, &[]);
    let other_key = command("CT-3", "c");
    let sender = Sender::new();
    sender.send(&rig.topics.commands, Some(b"another key"), Some(&avro(&other_key)), &[]);
    sender.flush();
    let results = rig.results(3);
    let violations: BTreeMap<&str, String> = results
        .iter()
        .map(|result| {
            assert_eq!(result.outcome, Outcome::Invalid, "{result:?}");
            (result.return_no.as_str(), result.violations.join("; "))
        })
        .collect();
    for (return_no, parts) in [
        ("CT-1", &["into partition", "forwarded before", "elsewhere:0:7"][..]),
        ("CT-2", &["into partition", "details"]),
        ("CT-3", &["key is not return_no"]),
    ] {
        let said = &violations[return_no];
        assert!(parts.iter().all(|part| said.contains(part)), "{return_no}: {said}");
    }
    assert_eq!((rig.erp.order_count(), read_all(&rig.topics.commands).len()), (0, 3));
    // Sent again from the dead letters it goes to its key's partition, and may be forwarded anew.
    let output = rig.verb(&["dlq", "redrive", "--reason", "invalid"], b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    until("the order of what was only misplaced", PATIENCE, || {
        (rig.erp.order_count() == 1).then_some(())
    });
    let redriven = read_all(&rig.topics.commands);
    let redriven = redriven.iter().rfind(|record| record.key_text() == "CT-1").expect("redriven");
    assert_eq!(redriven.header("wdt-forwarded"), None);
    assert_eq!(section(&connector)["forwarded"], 0);
}

/// A producer with librdkafka's defaults, two instances, one of which is killed while it forwards.
#[test]
fn two_instances_forward_to_each_other_and_a_killed_one_loses_and_doubles_nothing() {
    let mut rig = Rig::with_partitions("twoforward", PARTITIONS).commands("avro");
    rig.erp.take_anything();
    rig.erp.latency(Duration::from_millis(20));
    let returns: Vec<String> = (0..30).map(|number| format!("CT-{number:02}")).collect();
    let all: Vec<CreateReturnOutbound> = ["first", "second", "third", "fourth"]
        .iter()
        .flat_map(|id| returns.iter().map(move |return_no| command(return_no, id)))
        .collect();
    let sender = Sender::partitioned(rig.broker.clone(), "consistent_random");
    let send = |some: &[CreateReturnOutbound]| {
        for one in some {
            sender.send(
                &rig.topics.commands,
                Some(one.return_no.as_bytes()),
                Some(&avro(one)),
                &[],
            );
        }
        sender.flush();
    };
    let first = rig.spawn_logged(&[("FAILPOINTS", "command.forwarded=10*off->kill")], "first.log");
    let mut first = first.ready();
    rig.config.set("kafka", "instance_ordinal", 1);
    let second = rig.spawn_logged(&[], "second.log").ready();
    // Some of what is sent now is the doomed one's to forward, until it is killed at it.
    for some in all.chunks(15) {
        send(some);
    }
    let status = first.wait_end(PATIENCE).expect("it forwards until it is killed");
    assert!(!status.success(), "{status}");
    rig.config.set("kafka", "instance_ordinal", 0);
    let heir = rig.spawn_logged(&[], "heir.log");
    let results = rig.results(all.len());
    Verdict::of(&rig, &all, &results).assert_each_once(all.len(), "two instances");
    assert!(read_all(&rig.topics.commands_dlq).is_empty());
    let (forwarded, originals): (Vec<_>, Vec<_>) = read_all(&rig.topics.commands)
        .into_iter()
        .partition(|record| record.header("wdt-forwarded").is_some());
    assert_eq!(originals.len(), all.len());
    let misplaced = originals
        .iter()
        .filter(|record| record.partition != place(&record.key_text(), Partitioner::Murmur2))
        .count();
    assert_eq!(forwarded.len(), misplaced, "each once");
    drop((second, heir));
}

/// Its partition's journal forgets what was forwarded there; the place it was forwarded from still
/// knows that it was read.
#[test]
fn forwarded_records_of_unknown_time_are_looked_for_when_they_are_read_again() {
    let mut rig = Rig::with_partitions("untimedforward", PARTITIONS).commands("avro");
    rig.erp.take_anything();
    let all: Vec<_> = commands("UF", 100)
        .into_iter()
        .filter(|one| place(&one.return_no, Partitioner::Murmur2) == 1)
        .take(4)
        .collect();
    let connector = rig.start();
    for one in &all[..3] {
        let (key, at) = (Some(one.return_no.as_bytes()), Timestamp(1_700_000_000));
        Sender::new().send_at(&rig.topics.commands, 0, key, Some(&avro(one)), at);
    }
    rig.results(3);
    rig.wait_committed(6);
    connector.kill();
    rig.config.set("commands", "dedup_window", "1s");
    let connector = rig.start();
    // Its answer tells the ERP's clock, without which nothing is forgotten.
    rig.send(&all[3..]);
    Reader::new(&rig.topics.journal).until("three tombstones", PATIENCE, |seen| {
        let gone = seen.iter().filter(|record| record.value.is_none());
        gone.map(|record| record.key.clone()).collect::<BTreeSet<_>>().len() >= 3
    });
    assert!(connector.terminate(PATIENCE).success());
    rig.reset_offset(0, 0);
    let _connector = rig.start();
    let results = rig.results(7);
    assert_eq!(rig.erp.order_count(), 4, "nothing is created twice: {results:?}");
}

/// What was forwarded left no entry where it stood: the count's record says which partitioner
/// holds, in every partition.
#[test]
fn another_partitioner_is_refused_by_partitions_that_only_forwarded() {
    let mut rig = Rig::with_partitions("mixed", PARTITIONS).commands("avro");
    rig.erp.take_anything();
    let all = commands("MX", 10);
    let first = rig.start();
    for one in &all {
        misplace(&rig, one, &[]);
    }
    rig.results(all.len());
    rig.config.set("kafka", "instance_ordinal", 1);
    for partitioner in ["crc32", "any"] {
        rig.config.set("commands", "partitioner", partitioner);
        let mut second = rig.spawn();
        let ended = second.wait_end(PATIENCE).expect("it ends by itself");
        assert_eq!(ended.code(), Some(1), "{partitioner}");
        let log = second.log();
        let said = format!("commands.partitioner = \"murmur2\" and it is \"{partitioner}\" now");
        assert!(log.contains(&said) || log.contains(&said.replace('"', "\\\"")), "{log}");
    }
    for one in &all {
        misplace(&rig, one, &[]);
    }
    rig.results(2 * all.len());
    assert_eq!(rig.erp.order_count(), 10);
    assert!(first.terminate(PATIENCE).success());
}

#[test]
fn a_replay_sends_a_forwarded_command_once_and_to_its_keys_partition() {
    let rig = Rig::with_partitions("replayed", PARTITIONS).commands("avro");
    rig.erp.take_anything();
    let one = &commands("CT", 1)[0];
    let right = place(&one.return_no, Partitioner::Murmur2);
    let connector = rig.start();
    misplace(&rig, one, &[]);
    rig.results(1);
    rig.wait_committed(2);
    assert!(connector.terminate(Duration::from_secs(20)).success());
    // Whichever of the two is chosen, it is sent.
    for partition in [right, (right + 1) % PARTITIONS] {
        let from = format!("{partition}:0");
        let (code, text) = rig.said(&["commands", "replay", "--from-offset", &from, "--dry-run"]);
        assert!(code == Some(0) && text.contains("1 commands would be sent again"), "{text}");
    }
    // What claims to be the copy of another command does not keep that one back.
    let other = command("OTHER", "c");
    let claim = format!("{}:{}:0", rig.topics.commands, (right + 1) % PARTITIONS);
    misplace(&rig, &other, &[("wdt-forwarded", &claim)]);
    let (code, text) = rig.said(&["commands", "replay", "--from-time", "1h"]);
    assert!(code == Some(0) && text.contains("2 commands sent again"), "{text}");
    for record in read_all(&rig.topics.commands) {
        if record.header("wdt-redrive-count").is_some() {
            assert_eq!(record.partition, place(&record.key_text(), Partitioner::Murmur2));
        }
    }
}
