//! A disk that changed a byte under a broker: whoever reads it says so by name and takes nothing
//! behind it as read.

use wdt_connector::testing::schema::CreateReturnOutbound;

use crate::{
    kit::{
        commands::command,
        connector::Connector,
        records::Sender,
        rig::{PATIENCE, Rig},
        until,
    },
    parts::PrivateBroker,
};

const AT_A_TIME: usize = 20;

/// A broker of its own, and commands that were settled on it by a connector that has ended.
fn settled(
    what: &str,
    partitions: i32,
    count: usize,
) -> Option<(PrivateBroker, Rig, Vec<CreateReturnOutbound>)> {
    let broker = PrivateBroker::start(what)?;
    let rig = Rig::on(what, &broker.bootstrap(), broker.client(), partitions).commands("avro");
    rig.erp.take_anything();
    let commands: Vec<_> = (0..count)
        .map(|number| command(&format!("CO{number:03}"), &format!("cmd-{number}")))
        .collect();
    let connector = rig.start();
    // A few at a time: several batches, and none too small.
    for (turn, some) in commands.chunks(AT_A_TIME).enumerate() {
        rig.send(some);
        rig.results((turn + 1) * AT_A_TIME);
    }
    assert_eq!(connector.terminate(PATIENCE).code(), Some(0));
    Some((broker, rig, commands))
}

#[test]
fn a_journal_batch_that_cannot_be_read_ends_the_takeover_by_name() {
    let Some((mut broker, rig, commands)) = settled("bad-journal", 2, 5 * AT_A_TIME) else {
        return;
    };
    broker.stop();
    let offset = broker.corrupt(&rig.topics.journal, 1);
    broker.restart();
    // Copies: with a forgotten outcome each would become an order again.
    rig.send(&commands);
    let mut connector = rig.spawn();
    let status = connector.wait_end(PATIENCE).expect("the process ends by itself");
    let log = connector.log();
    assert_eq!(status.code(), Some(1), "{log}");
    let place = format!("a batch of {} cannot be read", rig.topics.journal);
    assert!(log.contains(&place), "{log}");
    let sentence = log.lines().rfind(|line| line.contains(&place)).unwrap_or_default();
    assert!(sentence.contains("in partition 1 (read up to offset "), "{sentence}");
    let (_, read_to) = sentence.split_once("read up to offset ").unwrap();
    let read_to: i64 = read_to.split(')').next().unwrap().parse().unwrap();
    assert!(read_to > 0 && read_to <= offset, "read up to {read_to}, the batch is at {offset}");
    assert_eq!(rig.erp.orders().len(), commands.len(), "no second order");
    let listed = rig.verb(&["commands", "list"], b"");
    let said = String::from_utf8_lossy(&listed.stderr);
    assert!(!listed.status.success() && said.contains(&place), "{said}");
    // The other topics are as they were.
    let mut results = rig.reader(&rig.topics.results);
    results.at_least(commands.len(), PATIENCE);
}

#[test]
fn a_commands_batch_that_cannot_be_read_ends_the_membership_by_name() {
    let Some((mut broker, rig, commands)) = settled("bad-commands", 1, AT_A_TIME) else { return };
    let more: Vec<_> = (0..3 * AT_A_TIME)
        .map(|number| command(&format!("CM{number:03}"), &format!("cmd-{number}")))
        .collect();
    for some in more.chunks(AT_A_TIME) {
        rig.send(some);
    }
    broker.stop();
    broker.corrupt(&rig.topics.commands, 0);
    broker.restart();
    let mut connector = rig.spawn();
    let status = connector.wait_end(PATIENCE).expect("the process ends by itself");
    let log = connector.log();
    assert_eq!(status.code(), Some(1), "{log}");
    let place = format!("a batch of {} cannot be read", rig.topics.commands);
    let sentence = log.lines().rfind(|line| line.contains(&place)).unwrap_or_default();
    assert!(sentence.contains("in partition 0"), "{log}");
    let orders = rig.erp.orders();
    let distinct: std::collections::BTreeSet<_> =
        orders.iter().map(|order| (&order.return_no, &order.marker)).collect();
    assert_eq!(orders.len(), distinct.len(), "no second order");
    assert!(orders.len() >= commands.len() && orders.len() < commands.len() + more.len());
}

#[test]
fn what_was_decided_holds_while_a_control_batch_cannot_be_read() {
    let Some((mut broker, mut rig, _)) = settled("bad-control", 1, AT_A_TIME) else { return };
    // Shorter than the verb that is run while the connector is frozen.
    rig.config.kafka_property("fetch.wait.max.ms", "100");
    assert!(rig.verb(&["commands", "pause"], b"").status.success());
    let mut connector = rig.start();
    let paused = |connector: &Connector| {
        connector.metric("wdt_connector_pipeline_paused", &["pipeline=\"commands\""])
    };
    until("the pause to be obeyed", PATIENCE, || (paused(&connector) == 1.0).then_some(()));
    // Whoever is frozen asks for nothing; what it has asked for is answered before the verb ends.
    connector.freeze();
    assert!(rig.verb(&["tail", "--results"], b"").status.success());
    let sender = Sender::with(rig.broker.clone());
    let note = serde_json::json!({"note": "x".repeat(1000)}).to_string();
    sender.send_to(&rig.topics.control, 0, Some(br#"["note","bad"]"#), Some(note.as_bytes()));
    sender.flush();
    assert!(rig.verb(&["commands", "resume"], b"").status.success());
    broker.stop();
    broker.corrupt(&rig.topics.control, 0);
    broker.restart();
    connector.thaw();
    let place = format!("a batch of {} cannot be read", rig.topics.control);
    connector.wait_log(&place, PATIENCE);
    assert_eq!(paused(&connector), 1.0, "what stands behind the batch is not taken as read");
    assert!(connector.running(), "it goes on with what it knew");
}
