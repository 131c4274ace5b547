//! Partitions that nobody owns, or whose owner stands still: noticed, said and mended by the
//! instances themselves. And a lag that is nothing but records.

use std::time::Duration;

use rdkafka::{
    ClientConfig,
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};
use wdt_connector::testing::schema::CreateReturnOutbound;

use crate::{
    kit::{
        commands::{avro, command},
        connector::Connector,
        ledger::Verdict,
        raw_member::Leader,
        rig::{PATIENCE, Rig},
        unique, until,
    },
    parts::broker,
};

const LAG: &str = "wdt_connector_consumer_lag_records";
const UNOWNED: &str = "wdt_connector_partitions_unowned";

fn some(what: &str, count: usize) -> Vec<CreateReturnOutbound> {
    (0..count)
        .map(|number| command(&format!("{what}{number:04}"), &format!("cmd-{number}")))
        .collect()
}

/// A group that is stable for good, with a member that was assigned half of the partitions and a
/// leader that assigns the rest to nobody: what a rebalance that was interrupted at the wrong moment
/// has left behind.
#[test]
fn partitions_that_a_stable_group_assigns_to_nobody_are_noticed_and_assigned_again() {
    let rig = Rig::with_partitions("half-owned", 4).commands("avro");
    rig.erp.take_anything();
    let leader = Leader::join(
        broker().bootstrap(),
        &format!("{}.commands", rig.application_id),
        &rig.topics.commands,
        &[&[0, 1]],
    );
    let connector = rig.start();
    until("half of the partitions", PATIENCE, || {
        (connector.metric("wdt_connector_partitions_owned", &["commands"]) == 2.0).then_some(())
    });
    let commands = some("HO", 40);
    rig.send(&commands);
    until("partitions that are known to have no owner", PATIENCE, || {
        (connector.metric(UNOWNED, &["commands"]) == 2.0).then_some(())
    });
    assert_eq!(
        connector.status()["sections"]["commands"]["unowned_partitions"],
        serde_json::json!([2, 3])
    );
    until("the lag of partitions that nobody owns", PATIENCE, || {
        [2, 3]
            .iter()
            .all(|of| connector.metric(LAG, &[&format!("partition=\"{of}\"")]) > 0.0)
            .then_some(())
    });
    connector.wait_log("partitions are assigned to no instance", PATIENCE);
    connector.wait_log("leaving the group for a session", PATIENCE);
    // It has gone, so whoever joins next is assigned everything.
    leader.leave();
    let results = rig.results(commands.len());
    Verdict::of(&rig, &commands, &results).assert_each_once(commands.len(), "half owned");
    until("a group whose partitions all have owners", PATIENCE, || {
        (connector.metric(UNOWNED, &["commands"]) == 0.0
            && connector.metric(LAG, &["group"]) == 0.0)
            .then_some(())
    });
    assert!(connector.log().contains("these partitions have an owner again"), "it says so");
}

/// A thread cannot be ended from outside: the pipeline begins anew beside it.
#[test]
fn a_pipeline_whose_polling_thread_hangs_begins_anew() {
    let rig = Rig::with_partitions("poll-hang", 1).commands("avro");
    rig.erp.take_anything();
    let commands = some("PH", 20);
    let mut connector = rig.spawn_with(&[("FAILPOINTS", "poll-hang-once=inject")]).ready();
    rig.send(&commands);
    let results = rig.results(commands.len());
    Verdict::of(&rig, &commands, &results).assert_each_once(commands.len(), "hung");
    let log = connector.log();
    assert!(log.contains("has not come back for"), "{log}");
    assert!(log.contains("the polling thread does not end; it is abandoned"), "{log}");
    assert!(connector.running());
    assert!(connector.terminate(Duration::from_secs(30)).success(), "it ends in good order");
}

#[test]
fn a_pipeline_whose_restore_hangs_begins_anew() {
    let rig = Rig::with_partitions("restore-hang", 2).commands("avro");
    rig.erp.take_anything();
    let commands = some("RH", 20);
    rig.send(&commands);
    let mut connector = rig.spawn_with(&[("FAILPOINTS", "restore-hang-once=inject")]);
    let results = rig.results(commands.len());
    Verdict::of(&rig, &commands, &results).assert_each_once(commands.len(), "hung");
    let log = connector.log();
    assert!(log.contains("the thread that restores partitions [0, 1] of"), "{log}");
    assert!(connector.running());
}

/// No endless loop either: a new process may do what a new consumer could not.
#[test]
fn a_pipeline_whose_polling_thread_hangs_again_and_again_ends_the_process() {
    let mut rig = Rig::with_partitions("poll-hangs", 1).commands("avro");
    rig.config.set("commands", "drain_timeout", "1s");
    rig.send(&some("PA", 1));
    let mut connector = rig.spawn_with(&[("FAILPOINTS", "poll-hang=inject")]);
    let status = connector.wait_end(PATIENCE * 2).expect("the process ends by itself");
    assert_eq!(status.code(), Some(1), "{}", connector.log());
    let restarts = connector.log().matches("restarting from committed offsets").count();
    // The first round may have settled the command before the thread hung.
    assert!((2..=3).contains(&restarts), "{restarts}: {}", connector.log());
}

/// Sends one command in a transaction of its own: behind it stands the marker of the commit.
fn send_in_a_transaction(rig: &Rig, one: &CreateReturnOutbound) {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", broker().bootstrap())
        .set("transactional.id", unique("sender"))
        .set("partitioner", "murmur2_random")
        .create()
        .unwrap();
    let limit = Duration::from_secs(30);
    producer.init_transactions(limit).unwrap();
    producer.begin_transaction().unwrap();
    let (key, value) = (one.return_no.as_bytes(), avro(one));
    producer
        .send(BaseRecord::to(&rig.topics.commands).key(key).payload(&value))
        .map_err(|e| e.0)
        .unwrap();
    producer.commit_transaction(limit).unwrap();
}

fn no_lag(what: &str, of: &[&Connector]) {
    until(what, PATIENCE, || {
        of.iter()
            .all(|one| {
                // Every instance reports every partition, whoever owns it.
                let text = one.metrics();
                let lags: Vec<&str> =
                    text.lines().filter(|line| line.starts_with(&format!("{LAG}{{"))).collect();
                lags.len() == 2 && lags.iter().all(|line| line.ends_with(" 0"))
            })
            .then_some(())
    });
}

#[test]
fn the_marker_of_a_senders_transaction_is_no_lag() {
    let mut rig = Rig::with_partitions("markers", 2).commands("avro");
    rig.erp.take_anything();
    let commands = some("MK", 3);
    let first = rig.start();
    rig.config.set("kafka", "instance_ordinal", 1);
    rig.config.set("", "cache_dir", rig.path("second-cache").display().to_string());
    let second = rig.start();
    for one in &commands {
        send_in_a_transaction(&rig, one);
    }
    let results = rig.results(commands.len());
    Verdict::of(&rig, &commands, &results).assert_each_once(commands.len(), "in transactions");
    // Three commands and three markers: who reads the group's offsets sees no lag either.
    rig.wait_committed(6);
    no_lag("two instances without lag", &[&first, &second]);
    // Nothing is committed again and again, and a restart begins there.
    let before = first.metric("wdt_connector_transactions_total", &[])
        + second.metric("wdt_connector_transactions_total", &[]);
    assert!(before < 30.0, "{before} transactions of three commands");
    assert!(first.terminate(Duration::from_secs(30)).success());
    rig.config.set("kafka", "instance_ordinal", 0);
    let again = rig.start();
    no_lag("no lag after a restart", &[&again, &second]);
    assert_eq!(rig.erp.order_count(), 3);
}
