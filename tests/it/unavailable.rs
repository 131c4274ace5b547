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
        topics::{self, TopicNames},
        until,
    },
    parts::{TwoBrokers, say},
};

const PARTITIONS: i32 = 4;
/// Of the topics that are placed, the one on the second broker.
const LOST: i32 = 3;
/// "Within seconds": a broker's session, a transaction's time-out, and a loaded machine.
const SOON: Duration = Duration::from_secs(30);

/// Two brokers, partition [`LOST`] of one topic on the second, everything else on the first.
fn placed(what: &str, split_topic: impl FnOnce(&TopicNames) -> &str) -> Option<(TwoBrokers, Rig)> {
    let brokers = TwoBrokers::start(what)?;
    let rig = Rig::bare_on(what, &brokers.bootstrap(), brokers.client()).commands("avro");
    rig.erp.take_anything();
    let first: [&[i32]; 4] = [&[1], &[1], &[1], &[1]];
    let split: [&[i32]; 4] = [&[1], &[1], &[1], &[TwoBrokers::SECOND]];
    let wanted = rig.topics.wanted(PARTITIONS);
    let split_topic = split_topic(&rig.topics);
    topics::create_placed(&rig.broker, &wanted, |topic| -> Option<PartitionAssignment<'_>> {
        let on: &[&[i32]] = if topic == split_topic { &split } else { &first };
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
    let Some((mut brokers, rig)) = placed("lost-before", |topics| &topics.journal) else { return };
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
    let Some((mut brokers, rig)) = placed("lost-while", |topics| &topics.journal) else { return };
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

/// The abort of its last transaction waits for the lost partition, and with it the transactional id.
#[test]
fn a_process_that_starts_while_its_transactional_id_is_blocked_goes_on() {
    let Some((mut brokers, rig)) = placed("lost-start", |topics| &topics.journal) else { return };
    let (before, lost_before) = some("LG", 20);
    let (after, lost_after) = some("LH", 40);
    let connector = rig.start();
    rig.send(&before);
    rig.send(&lost_before);
    rig.results(20);
    brokers.kill_second();
    rig.send(&lost_after);
    // Its intent stands in a transaction that cannot be finished.
    connector.wait_log("Connection refused", PATIENCE);
    connector.wait_log("have no leader", PATIENCE);
    connector.kill();
    rig.send(&after);
    let _connector = rig.spawn();
    // An initialization that does not end comes first.
    let mut reader = rig.reader(&rig.topics.results);
    reader.at_least(20 + after.len(), SOON * 2);
    brokers.restart_second();
    let results = rig.results(60);
    let all: Vec<_> = [before, lost_before, after, lost_after].concat();
    Verdict::of(&rig, &all, &results).assert_each_once(60, "after the broker's return");
}

/// A result's partition is its key's: commands of every partition have results there.
#[test]
fn a_results_partition_lost_while_running_does_not_hold_up_the_others() {
    let Some((mut brokers, rig)) = placed("lost-results", |topics| &topics.results) else { return };
    let (before, lost_before) = some("LE", 20);
    let (after, lost_after) = some("LF", 40);
    let connector = rig.start();
    rig.send(&before);
    rig.send(&lost_before);
    rig.results(20);
    brokers.kill_second();
    rig.send(&lost_after);
    connector.wait_log("Connection refused", PATIENCE);
    rig.send(&after);
    // The end of the lost partition cannot be asked for now, nor can what is in it be read.
    rig.reader(&rig.topics.results).at_least(before.len() + after.len(), SOON);
    let sentence = "partitions have no leader; what goes there waits";
    connector.wait_log(sentence, PATIENCE);
    // Written now and then.
    until("the partition in /status", PATIENCE, || {
        let status = connector.status();
        let lost = &status["sections"]["commands"]["partitions_without_leader"];
        (lost[&rig.topics.results] == serde_json::json!([LOST])).then_some(())
    });
    brokers.restart_second();
    let results = rig.results(60);
    let all: Vec<_> = [before, lost_before, after, lost_after].concat();
    Verdict::of(&rig, &all, &results).assert_each_once(60, "after the broker's return");
}

/// A partition that was added by hand knows of no command; only the others can say that there were
/// fewer of them when commands were settled.
#[test]
fn a_partition_added_by_hand_is_not_worked_on_before_the_others_have_been_asked() {
    let what = "lost-grown";
    let Some(mut brokers) = TwoBrokers::start(what) else { return };
    let rig = Rig::bare_on(what, &brokers.bootstrap(), brokers.client()).commands("avro");
    rig.erp.take_anything();
    let wanted = rig.topics.wanted(1);
    topics::create_placed(&rig.broker, &wanted, |topic| -> Option<PartitionAssignment<'_>> {
        let on: &[&[i32]] =
            if topic == rig.topics.journal { &[&[TwoBrokers::SECOND]] } else { &[&[1], &[1]] };
        let (_, partitions, _) = wanted.iter().find(|(name, ..)| *name == topic)?;
        on.get(..usize::try_from(*partitions).ok()?)
    });
    let commands: Vec<_> = (0..20).map(|number| command(&format!("GR{number:04}"), "c")).collect();
    let connector = rig.start();
    rig.send(&commands);
    rig.results(20);
    assert_eq!(connector.terminate(PATIENCE).code(), Some(0));
    for topic in [&rig.topics.commands, &rig.topics.journal] {
        topics::grow_at(&rig.broker, topic, 2, &[&[1]]);
    }
    brokers.kill_second();
    topics::wait_led(&rig.broker, &rig.topics.journal, 1);
    // Copies of what is settled; some hash to the partition that was added.
    rig.send(&commands);
    let mut connector = rig.spawn();
    connector.wait_log("partitions [0] of", PATIENCE);
    connector.wait_log("failed to read the journals of the other partitions", PATIENCE);
    assert_eq!(rig.erp.order_count(), 20, "no second order");
    brokers.restart_second();
    let status = connector.wait_end(PATIENCE).expect("the changed count is refused");
    assert_eq!(status.code(), Some(1));
    assert!(connector.log().contains("topics repartition --partitions 2"), "{}", connector.log());
    assert_eq!(rig.erp.order_count(), 20, "no second order");
}
