//! Partitions without a leader: the commands of the others go on, and theirs do when it is back.

use std::time::{Duration, Instant};

use rdkafka::admin::PartitionAssignment;
use wdt_connector::testing::{
    config::Partitioner,
    schema::{CommandResult, CreateReturnOutbound},
    sink,
};

use crate::{
    kit::{
        commands::command,
        connector::Connector,
        ledger::Verdict,
        rig::{PATIENCE, Rig},
        topics, until,
    },
    parts::{TwoBrokers, say},
};

const PARTITIONS: i32 = 4;
/// Of the topics that are placed, the one on the second broker.
const LOST: i32 = 3;
/// "Within seconds": a broker's session, a transaction's time-out, and a loaded machine.
const SOON: Duration = Duration::from_secs(30);

/// Two brokers, the journal's partition [`LOST`] on the second, everything else on the first.
fn placed(what: &str) -> Option<(TwoBrokers, Rig)> {
    let brokers = TwoBrokers::start(what)?;
    let rig = Rig::bare_on(what, &brokers.bootstrap(), brokers.client()).commands("avro");
    rig.erp.take_anything();
    let first: [&[i32]; 4] = [&[1], &[1], &[1], &[1]];
    let split: [&[i32]; 4] = [&[1], &[1], &[1], &[TwoBrokers::SECOND]];
    let wanted = rig.topics.wanted(PARTITIONS);
    topics::create_placed(&rig.broker, &wanted, |topic| -> Option<PartitionAssignment<'_>> {
        let on: &[&[i32]] = if topic == rig.topics.journal { &split } else { &first };
        let (_, partitions, _) = wanted.iter().find(|(name, ..)| *name == topic)?;
        on.get(..usize::try_from(*partitions).ok()?)
    });
    Some((brokers, rig))
}

/// Commands of the partitions that stay, and of the one that is lost.
fn some(what: &str, count: usize) -> (Vec<CreateReturnOutbound>, Vec<CreateReturnOutbound>) {
    (0..count)
        .map(|number| command(&format!("{what}{number:04}"), &format!("cmd-{number}")))
        .partition(|one| {
            let key = one.return_no.as_bytes();
            sink::partition_of(key, PARTITIONS, Partitioner::Murmur2) != Some(LOST)
        })
}

fn settled_soon(rig: &Rig, count: usize, what: &str) -> Vec<CommandResult> {
    let began = Instant::now();
    let mut reader = rig.reader(&rig.topics.results);
    reader.at_least(count, SOON);
    say(&format!("{what}: {count} results after {:?}", began.elapsed()));
    reader.finish();
    reader.seen.iter().map(|record| rig.result(record)).collect()
}

/// The log says which partition and why, `/status` which.
fn assert_named(connector: &Connector, rig: &Rig) {
    let sentence = format!("partitions [{LOST}] of {} have no leader", rig.topics.journal);
    assert!(connector.log().contains(&sentence), "{}", connector.log());
    // Written now and then.
    until("the partition in /status", PATIENCE, || {
        let status = connector.status().to_string();
        status.contains(&format!("partitions [{LOST}] are being restored")).then_some(())
    });
}

#[test]
fn a_partition_lost_before_the_takeover_does_not_hold_up_the_others() {
    let Some((mut brokers, rig)) = placed("lost-before") else { return };
    let (before, lost_before) = some("LA", 20);
    let (after, lost_after) = some("LB", 40);
    let connector = rig.start();
    rig.send(&before);
    rig.send(&lost_before);
    rig.results(20);
    assert_eq!(connector.terminate(PATIENCE).code(), Some(0));
    brokers.kill_second();
    topics::wait_led(&rig.broker, &rig.topics.journal, 3);
    rig.send(&after);
    rig.send(&lost_after);
    let connector = rig.spawn();
    settled_soon(&rig, 20 + after.len(), "lost before the takeover");
    assert_named(&connector, &rig);
    brokers.restart_second();
    let results = rig.results(60);
    let all: Vec<_> = [before, lost_before, after, lost_after].concat();
    Verdict::of(&rig, &all, &results).assert_each_once(60, "after the broker's return");
}

/// Without a word: what the instance has on its way then is for the lost partition as well.
#[test]
fn a_partition_lost_while_running_does_not_hold_up_the_others() {
    let Some((mut brokers, rig)) = placed("lost-while") else { return };
    let (before, lost_before) = some("LC", 20);
    let (after, lost_after) = some("LD", 40);
    let connector = rig.start();
    rig.send(&before);
    rig.send(&lost_before);
    rig.results(20);
    brokers.kill_second();
    rig.send(&lost_after);
    // Its intent goes into the transaction that cannot be finished.
    connector.wait_log("Connection refused", PATIENCE);
    rig.send(&after);
    settled_soon(&rig, 20 + after.len(), "lost while running");
    assert_named(&connector, &rig);
    brokers.restart_second();
    let results = rig.results(60);
    let all: Vec<_> = [before, lost_before, after, lost_after].concat();
    Verdict::of(&rig, &all, &results).assert_each_once(60, "after the broker's return");
}
