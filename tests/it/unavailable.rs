//! Partitions without a leader: the commands of the others go on, and theirs do when it is back.

use std::time::{Duration, Instant};

use rdkafka::admin::PartitionAssignment;
use wdt_connector::testing::{config::Partitioner, schema::CreateReturnOutbound, sink};

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

/// Two brokers, and commands of which some need the second.
struct Loss {
    brokers: TwoBrokers,
    rig: Rig,
    /// Settled before the second broker is lost; then sent when it is: for partitions that stay, and
    /// for the one that is lost.
    before: (Vec<CreateReturnOutbound>, Vec<CreateReturnOutbound>),
    after: (Vec<CreateReturnOutbound>, Vec<CreateReturnOutbound>),
}

impl Loss {
    /// A connector that has settled the first commands.
    fn coming(
        what: &str,
        split_topic: impl FnOnce(&TopicNames) -> &str,
    ) -> Option<(Self, Connector)> {
        let (brokers, rig) = placed(what, split_topic)?;
        let loss = Self { brokers, rig, before: some("LA", 20), after: some("LB", 40) };
        let connector = loss.rig.start();
        loss.rig.send(&loss.before.0);
        loss.rig.send(&loss.before.1);
        loss.rig.results(20);
        Some((loss, connector))
    }

    /// The second broker goes without a word: what the connector has on its way then is for the lost
    /// partition as well.
    fn strike(&mut self, connector: &Connector) {
        self.brokers.kill_second();
        self.rig.send(&self.after.1);
        connector.wait_log("Connection refused", PATIENCE);
    }

    /// What does not need the second broker is settled; the time it took is said.
    fn settled_soon(&self, what: &str) {
        let (began, count) = (Instant::now(), 20 + self.after.0.len());
        let mut reader = self.rig.reader(&self.rig.topics.results);
        reader.at_least(count, SOON);
        say(&format!("{what}: {count} results after {:?}", began.elapsed()));
    }

    /// The second broker comes back: everything is settled, once.
    fn ends(mut self) {
        self.brokers.restart_second();
        let results = self.rig.results(60);
        let all: Vec<_> = [self.before.0, self.before.1, self.after.0, self.after.1].concat();
        Verdict::of(&self.rig, &all, &results).assert_each_once(60, "after the broker's return");
    }
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
    let Some((mut loss, connector)) = Loss::coming("lost-before", |topics| &topics.journal) else {
        return;
    };
    assert_eq!(connector.terminate(PATIENCE).code(), Some(0));
    loss.brokers.kill_second();
    topics::wait_led(&loss.rig.broker, &loss.rig.topics.journal, 3);
    loss.rig.send(&loss.after.0);
    loss.rig.send(&loss.after.1);
    let connector = loss.rig.spawn();
    loss.settled_soon("lost before the takeover");
    assert_named(&connector, &loss.rig);
    loss.ends();
}

/// The intents of the lost partition go into the transaction that cannot be finished.
#[test]
fn a_partition_lost_while_running_does_not_hold_up_the_others() {
    let Some((mut loss, connector)) = Loss::coming("lost-while", |topics| &topics.journal) else {
        return;
    };
    loss.strike(&connector);
    loss.rig.send(&loss.after.0);
    loss.settled_soon("lost while running");
    assert_named(&connector, &loss.rig);
    loss.ends();
}

/// The abort of its last transaction waits for the lost partition, and with it the transactional id.
#[test]
fn a_process_that_starts_while_its_transactional_id_is_blocked_goes_on() {
    let Some((mut loss, connector)) = Loss::coming("lost-start", |topics| &topics.journal) else {
        return;
    };
    loss.strike(&connector);
    connector.wait_log("have no leader", PATIENCE);
    connector.kill();
    loss.rig.send(&loss.after.0);
    let _connector = loss.rig.spawn();
    // An initialization that does not end comes first.
    let mut reader = loss.rig.reader(&loss.rig.topics.results);
    reader.at_least(20 + loss.after.0.len(), SOON * 2);
    loss.ends();
}

/// A result's partition is its key's: commands of every partition have results there.
#[test]
fn a_results_partition_lost_while_running_does_not_hold_up_the_others() {
    let Some((mut loss, connector)) = Loss::coming("lost-results", |topics| &topics.results) else {
        return;
    };
    loss.strike(&connector);
    loss.rig.send(&loss.after.0);
    // What is in the lost partition cannot be read now.
    let readable = loss.before.0.len() + loss.after.0.len();
    loss.rig.reader(&loss.rig.topics.results).at_least(readable, SOON);
    let sentence = "partitions have no leader; what goes there waits";
    connector.wait_log(sentence, PATIENCE);
    // Written now and then.
    until("the partition in /status", PATIENCE, || {
        let status = connector.status();
        let lost = &status["sections"]["commands"]["partitions_without_leader"];
        (lost[&loss.rig.topics.results] == serde_json::json!([LOST])).then_some(())
    });
    loss.ends();
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
