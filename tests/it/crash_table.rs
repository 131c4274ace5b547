//! The crash table: the process is killed at every named point of the command pipeline, at every
//! call of a transaction; every answer of the ERP and of the broker is lost once after it was
//! carried out. One order and one result each.

use std::{
    collections::BTreeSet,
    os::unix::process::ExitStatusExt as _,
    sync::{Mutex, atomic::Ordering},
};

use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use wdt_connector::testing::{
    config::Partitioner, crash::Point, schema::CreateReturnOutbound, sink::partition_of,
};

use crate::{
    kit::{
        commands::{avro, command},
        connector::Connector,
        kafka_proxy::{KafkaProxy, Request},
        ledger::Verdict,
        records::Sender,
        rig::{PATIENCE, Rig},
        topics, until, wait,
    },
    parts::{PrivateBroker, broker},
};

/// Points of the change pipeline have a table of their own; `repartition` has its own test.
const ELSEWHERE: [&str; 4] = ["window.", "changes.", "state.", "repartition."];
/// Rows that run at the same time.
const ABREAST: usize = 6;

/// How a process is brought to a point.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// Two commands of one return, one after the other.
    Plain,
    /// The first call is applied and not answered: it is asked about, and found.
    Found,
    /// The first call is lost on the way: it is asked about in both ways, and absent.
    Absent,
    /// An earlier process was killed with a call on the wire: its journal is read.
    Heir,
    /// The process is told to end while a call is on the wire.
    Ended,
    /// The results topic refuses the first outcome: the transaction is aborted.
    Refused,
    /// The commands stand in another partition than their key's: they are forwarded.
    Misplaced,
}

/// Which passages of a point are crashed at: of the three transactions of a command the first is
/// the takeover's barrier, the second an intent's, the third an outcome's.
fn rows() -> Vec<(Point, u32, Way)> {
    let mut rows = Vec::new();
    for point in Point::ALL
        .iter()
        .copied()
        .filter(|point| !ELSEWHERE.iter().any(|prefix| point.name().starts_with(prefix)))
    {
        let (passages, way): (&[u32], Way) = match point {
            Point::TxnBeginning
            | Point::TxnBegun
            | Point::TxnDelivered
            | Point::TxnOffsetsSending
            | Point::TxnOffsetsSent
            | Point::TxnCommitting
            | Point::TxnCommitted => (&[1, 2, 3], Way::Plain),
            // An outcome is two records: the journal's and the result.
            Point::TxnSent => (&[1, 2, 3, 4], Way::Plain),
            Point::TxnAborting | Point::TxnAborted => (&[1], Way::Refused),
            Point::TakeOverRead => (&[1, 2], Way::Heir),
            Point::TakeOverOffsets | Point::TakeOverBarrier | Point::TakeOverDone => {
                (&[1], Way::Heir)
            }
            Point::GroupRevoking | Point::GroupDrained => (&[1], Way::Ended),
            Point::LookUpAsking | Point::LookUpAnswered | Point::FindingJudged => {
                (&[1], Way::Found)
            }
            Point::LookUpHalf => (&[1], Way::Absent),
            Point::CommandForwarded => (&[1, 2], Way::Misplaced),
            _ => (&[1], Way::Plain),
        };
        rows.extend(passages.iter().map(|passage| (point, *passage, way)));
    }
    // A forwarding transaction comes after those of the takeover and before the intent's.
    for point in [
        Point::TxnSent,
        Point::TxnDelivered,
        Point::TxnOffsetsSent,
        Point::TxnCommitting,
        Point::TxnCommitted,
    ] {
        rows.extend([2, 3, 4].map(|passage| (point, passage, Way::Misplaced)));
    }
    rows.push((Point::OutcomeCommitted, 1, Way::Misplaced));
    rows
}

/// Runs every row, some abreast; panics with all that failed.
fn abreast<T: Send + std::fmt::Debug>(rows: Vec<T>, run: impl Fn(&T) + Sync) {
    let queue = Mutex::new(rows.into_iter());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..ABREAST {
            scope.spawn(|| {
                loop {
                    let Some(row) = queue.lock().expect("no panic holds this lock").next() else {
                        return;
                    };
                    if let Err(panic) =
                        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&row)))
                    {
                        let why = panic
                            .downcast_ref::<String>()
                            .cloned()
                            .unwrap_or_else(|| "without a word".into());
                        failed
                            .lock()
                            .expect("no panic holds this lock")
                            .push(format!("{row:?}: {why}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panic holds this lock");
    assert!(failed.is_empty(), "{} rows failed:\n{}", failed.len(), failed.join("\n"));
}

/// Only what the command pipeline needs, in one partition.
fn small_rig(result_limit: &str) -> Rig {
    rig_with(1, result_limit)
}

fn rig_with(partitions: i32, result_limit: &str) -> Rig {
    let rig = Rig::bare("crash").commands("avro");
    let names = &rig.topics;
    topics::create(&[
        (&names.commands, partitions, &[]),
        (&names.results, 1, &[("max.message.bytes", result_limit)]),
        (&names.commands_dlq, 1, &[]),
        (&names.journal, partitions, &[("cleanup.policy", "compact")]),
    ]);
    rig.erp.take_anything();
    rig
}

/// Two commands of one return: the second waits for the first.
fn pair() -> Vec<CreateReturnOutbound> {
    vec![command("K", "first"), command("K", "second")]
}

/// Sends them to the one of two partitions that is not their key's.
fn misplace(rig: &Rig, commands: &[CreateReturnOutbound]) {
    let sender = Sender::new();
    for one in commands {
        let key = one.return_no.as_bytes();
        let own = partition_of(key, 2, Partitioner::Murmur2).expect("a partition");
        sender.send_to(&rig.topics.commands, 1 - own, Some(key), Some(&avro(one)));
    }
    sender.flush();
}

fn killed(connector: &mut Connector, row: &str) {
    let status = connector.wait_end(PATIENCE).unwrap_or_else(|| panic!("{row} was never reached"));
    assert_eq!(status.signal(), Some(9), "{row}: it ended with {status}");
}

fn crash(&(point, passage, way): &(Point, u32, Way)) {
    let row = format!("{}={}*off->kill", point.name(), passage - 1);
    let rig = match way {
        Way::Refused => small_rig("100"),
        Way::Misplaced => rig_with(2, "1048588"),
        Way::Plain | Way::Found | Way::Absent | Way::Heir | Way::Ended => small_rig("1048588"),
    };
    let mut commands = pair();
    match way {
        Way::Plain | Way::Refused | Way::Misplaced => {}
        Way::Found => rig.erp.faults("createOrder:applied_reset=1x"),
        Way::Absent => rig.erp.faults("createOrder:reset=1x"),
        Way::Heir => {
            // One outcome and one open intent, whose order is made without an answer.
            commands.insert(0, command("EARLIER", "settled"));
            commands.insert(1, command("EARLIER", "open"));
            let earlier = rig.start();
            rig.send(&commands[..1]);
            rig.results(1);
            rig.erp.faults("createOrder:applied_timeout=1x");
            rig.send(&commands[1..2]);
            until("an order without an answer", PATIENCE, || {
                (rig.erp.order_count() == 2).then_some(())
            });
            earlier.kill();
            rig.send(&commands[2..]);
        }
        Way::Ended => rig.erp.faults("createOrder:slow(500ms)=1x"),
    }
    match way {
        Way::Heir => {}
        Way::Misplaced => misplace(&rig, &commands),
        Way::Plain | Way::Found | Way::Absent | Way::Ended | Way::Refused => rig.send(&commands),
    }
    let mut doomed = rig.spawn_with(&[("FAILPOINTS", &row)]);
    if way == Way::Ended {
        until("a call on the wire", PATIENCE, || (rig.erp.creates().received >= 1).then_some(()));
        doomed.ask_to_end();
    }
    killed(&mut doomed, &row);
    if way == Way::Refused {
        let limit = AlterConfig::new(ResourceSpecifier::Topic(&rig.topics.results))
            .set("max.message.bytes", "1048588");
        let done = wait(broker().admin().alter_configs([&limit], &AdminOptions::new()))
            .expect("the broker answers");
        assert!(done.iter().all(Result::is_ok), "{done:?}");
    }
    // The stream goes on: a later order shows that lookups see this warehouse, and so that absence
    // means absence.
    commands.push(command("LATER", "herald"));
    rig.send(&commands[commands.len() - 1..]);
    let _heir = rig.spawn();
    let results = rig.results(commands.len());
    rig.wait_committed(i64::try_from(commands.len()).expect("a few"));
    Verdict::of(&rig, &commands, &results).assert_each_once(commands.len(), &row);
}

#[test]
fn killed_at_every_point_of_the_command_route() {
    let rows = rows();
    let covered: BTreeSet<Point> = rows.iter().map(|(point, ..)| *point).collect();
    let missing: Vec<&Point> = Point::ALL
        .iter()
        .filter(|point| {
            !covered.contains(point)
                && !ELSEWHERE.iter().any(|prefix| point.name().starts_with(prefix))
        })
        .collect();
    assert!(missing.is_empty(), "points without a row: {missing:?}");
    broker();
    abreast(rows, crash);
}

/// A fault of the ERP, alone on its pipeline: the command's order and result are one each.
fn erp_row(faults: &[&str]) {
    let rig = small_rig("1048588");
    let _connector = rig.start();
    let mut commands = vec![command("FIRST", "herald")];
    rig.send(&commands);
    rig.results(1);
    for (at, fault) in faults.iter().enumerate() {
        rig.erp.only_faults(fault);
        commands.push(command(&format!("R{at}"), "lost"));
        rig.send(&commands[commands.len() - 1..]);
        let results = rig.results(commands.len());
        for part in fault.split(',') {
            let name = part.split('=').next().expect("a rule");
            assert!(!rig.erp.armed(name), "{fault} did not strike");
        }
        Verdict::of(&rig, &commands, &results).assert_each_once(commands.len(), fault);
    }
}

#[test]
fn every_answer_of_the_erp_lost_after_it_was_applied() {
    let calls = [
        "applied_timeout",
        "applied_reset",
        "applied_5xx",
        "applied_garbage",
        "truncated",
        "applied_database",
    ];
    let answers = ["timeout", "reset", "5xx", "garbage", "truncated"];
    let rows: Vec<Vec<String>> = vec![
        calls.iter().map(|end| format!("createOrder:{end}=1x")).collect(),
        // The first query of a lookup, and the second, which is made only when the first shows
        // nothing.
        answers
            .iter()
            .map(|end| format!("createOrder:applied_reset=1x,outbounds:{end}=1x"))
            .collect(),
        answers.iter().map(|end| format!("createOrder:reset=1x,outbounds:{end}=@2")).collect(),
    ];
    broker();
    abreast(rows, |faults| erp_row(&faults.iter().map(String::as_str).collect::<Vec<_>>()));
}

#[test]
fn every_answer_of_a_transactions_broker_lost_after_it_was_carried_out() {
    let mut proxy = KafkaProxy::new();
    let Some(node) = PrivateBroker::behind(
        proxy.port(),
        "every_answer_of_a_transactions_broker_lost_after_it_was_carried_out",
    ) else {
        return;
    };
    proxy.run(node.proxied_port());
    // Barrier, intent, outcome; the producer is made once.
    let rows: Vec<(Request, u32)> = Request::ALL
        .into_iter()
        .flat_map(|request| {
            (0..if request == Request::InitProducerId { 1 } else { 3 })
                .map(move |after| (request, after))
        })
        .collect();
    abreast(rows, |(request, after)| {
        let rig = Rig::on("answers", &proxy.bootstrap(), node.client(), 1).commands("avro");
        rig.erp.take_anything();
        let commands = pair();
        rig.send(&commands);
        let sprung = proxy.lose_answer(*request, &rig.application_id, *after);
        let _connector = rig.start();
        let results = rig.results(commands.len());
        assert!(sprung.load(Ordering::SeqCst), "the answer was not lost");
        rig.wait_committed(2);
        Verdict::of(&rig, &commands, &results)
            .assert_each_once(commands.len(), &format!("{request:?} after {after}"));
    });
}

#[test]
fn the_process_of_a_release_build_has_no_such_points() {
    // Whatever builds the tests says which it is; `benches/storm.rs` looks into the release binary
    // itself.
    assert_eq!(wdt_connector::testing::crash::COMPILED, cfg!(debug_assertions));
    let source = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/crash.rs"))
        .expect("the source");
    let uses: Vec<usize> = source.match_indices("\"FAILPOINTS\"").map(|(at, _)| at).collect();
    assert_eq!(uses.len(), 1, "FAILPOINTS is read in one place");
    let function = source[..uses[0]].rfind("\n#[cfg(debug_assertions)]").expect("a guard");
    assert!(
        !source[function + 1..uses[0]].contains("\n}\n"),
        "the function that reads FAILPOINTS is compiled out of release builds"
    );
}
