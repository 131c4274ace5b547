//! Logs that are not what they were: topics made again, emptied in part, set to be deleted, or
//! shorter than what a group has committed. Nothing is created twice, nothing is passed over without
//! a word.

use std::{collections::HashMap, sync::atomic::Ordering, time::Duration};

use rdkafka::{
    Offset, TopicPartitionList,
    admin::AdminOptions,
    producer::{BaseProducer, BaseRecord, Producer},
};
use wdt_connector::testing::schema::{CommandResult, CreateReturnOutbound, Outcome};

use crate::{
    kit::{
        commands::command,
        connector::Connector,
        http, journal,
        kafka_proxy::{KafkaProxy, Request},
        records::{Sender, read_all},
        rig::{PATIENCE, Rig},
        topics, unique, until, wait,
    },
    parts::{PrivateBroker, broker},
};

/// Longer than the 30 s that a log has to end before the committed offset, and a takeover.
const BELIEVED: Duration = Duration::from_secs(90);

fn some(what: &str, count: usize) -> Vec<CreateReturnOutbound> {
    let one = |number| command(&format!("{what}{number:03}"), &format!("cmd-{number}"));
    (0..count).map(one).collect()
}

/// Commands that a connector has settled that is running.
fn settled(what: &str, count: usize) -> (Rig, Vec<CreateReturnOutbound>, Connector) {
    let rig = Rig::with_partitions(what, 1).commands("avro");
    rig.erp.take_anything();
    let commands = some("A", count);
    let connector = rig.start();
    rig.send(&commands);
    rig.results(count);
    rig.wait_committed(i64::try_from(count).unwrap());
    (rig, commands, connector)
}

fn stop(connector: Connector) {
    assert_eq!(connector.terminate(PATIENCE).code(), Some(0));
}

/// The topic loses everything and is there again.
fn make_again(topic: &str, policy: &str) {
    topics::delete(topic);
    topics::create(&[(topic, 1, &[("cleanup.policy", policy)])]);
}

fn delete_records(topic: &str, before: i64) {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(before)).unwrap();
    // Without its client the answer never comes.
    let admin = broker().admin();
    wait(admin.delete_records(&list, &AdminOptions::new())).expect("the broker deletes records");
}

/// A start that must end by itself, refused in these words.
fn refused(rig: &Rig, words: &str) {
    let (code, said) = rig.said(&["run"]);
    assert!(code == Some(1) && said.contains(words), "{code:?} {said}");
}

/// Waits for so many results of a log that has to be believed first, and gives all there are.
fn results(rig: &Rig, count: usize) -> Vec<CommandResult> {
    let mut reader = rig.reader(&rig.topics.results);
    reader.at_least(count, BELIEVED);
    reader.finish();
    reader.seen.iter().map(|record| rig.result(record)).collect()
}

/// One result each, whatever else there is.
fn results_of(results: &[CommandResult], commands: &[CreateReturnOutbound]) {
    for one in commands {
        let of = results.iter().filter(|result| {
            result.return_no == one.return_no && result.command_id == one.command_id
        });
        assert_eq!(of.count(), 1, "{one:?} in {results:?}");
    }
}

fn each_created_once(rig: &Rig, commands: usize) {
    let orders = rig.erp.orders();
    let mut by_return: HashMap<&str, u32> = HashMap::new();
    for order in &orders {
        *by_return.entry(&order.return_no).or_default() += 1;
    }
    assert!(by_return.values().all(|count| *count == 1), "{by_return:?}");
    assert_eq!(orders.len(), commands);
}

#[test]
fn a_commands_log_made_again_under_a_running_owner_is_begun_anew() {
    let (rig, _, connector) = settled("anew-running", 20);
    make_again(&rig.topics.commands, "delete");
    // More than were committed: the first of them must not pass for ones that were read.
    let fresh = some("B", 60);
    rig.send(&fresh);
    let results = results(&rig, 20 + 60);
    results_of(&results, &fresh);
    each_created_once(&rig, 80);
    drop(connector);
}

/// As many records as were read: no offset goes backwards, and none is out of range.
#[test]
fn a_missing_commands_topic_is_not_ready_and_is_read_from_its_beginning_once_it_is_back() {
    let (rig, _, connector) = settled("missing", 3);
    topics::delete(&rig.topics.commands);
    until("the topic to be missed", PATIENCE, || {
        let answer = http::get(&connector.url("/readyz")).ok()?;
        (answer.status != 200 && answer.body.contains(&rig.topics.commands)).then_some(())
    });
    topics::create(&[(&rig.topics.commands, 1, &[("cleanup.policy", "delete")])]);
    let fresh = some("B", 3);
    rig.send(&fresh);
    let results = rig.results(6);
    results_of(&results, &fresh);
    each_created_once(&rig, 6);
    drop(connector);
}

/// The partition's log is gone and the offsets are not, while a connector runs and while none does.
#[test]
fn a_commands_log_lost_with_its_disk_swallows_no_command() {
    let Some(mut kafka) = PrivateBroker::start("a lost disk") else { return };
    let mut rig = Rig::on("disk", &kafka.bootstrap(), kafka.client(), 1).commands("avro");
    rig.config.kafka_property("session.timeout.ms", "30000");
    rig.erp.take_anything();
    let connector = rig.start();
    let first = some("A", 20);
    rig.send(&first);
    rig.results(20);
    rig.wait_committed(20);

    kafka.stop();
    kafka.lose(&rig.topics.commands, 0);
    kafka.restart();
    let second = some("B", 30);
    rig.send(&second);
    let mut reader = rig.reader(&rig.topics.results);
    reader.at_least(50, BELIEVED);
    assert!(connector.metric("wdt_connector_commands_log_resets_total", &[]) >= 1.0);
    each_created_once(&rig, 50);
    rig.wait_committed(30);
    stop(connector);

    kafka.stop();
    kafka.lose(&rig.topics.commands, 0);
    kafka.restart();
    let third = some("C", 5);
    rig.send(&third);
    let _connector = rig.spawn();
    reader.at_least(55, BELIEVED);
    reader.finish();
    let results: Vec<_> = reader.seen.iter().map(|record| rig.result(record)).collect();
    for commands in [&first, &second, &third] {
        results_of(&results, commands);
    }
    each_created_once(&rig, 55);
}

/// Each of them has grown past what was committed by the time of the restart.
#[test]
fn commands_logs_lost_with_a_disk_together_are_all_begun_anew() {
    let Some(mut kafka) = PrivateBroker::start("lost together") else { return };
    let mut rig = Rig::on("together", &kafka.bootstrap(), kafka.client(), 4).commands("avro");
    rig.config.kafka_property("session.timeout.ms", "30000");
    rig.erp.take_anything();
    let connector = rig.start();
    rig.send(&some("A", 40));
    rig.results(40);
    rig.wait_committed(40);
    kafka.stop();
    (0..4).for_each(|partition| kafka.lose(&rig.topics.commands, partition));
    kafka.restart();
    let fresh = some("B", 120);
    rig.send(&fresh);
    let results = results(&rig, 160);
    results_of(&results, &fresh);
    each_created_once(&rig, 160);
    stop(connector);
}

#[test]
fn a_commands_log_shorter_than_the_committed_offset_is_begun_anew_and_said() {
    let (rig, commands, connector) = settled("anew-shorter", 20);
    stop(connector);
    make_again(&rig.topics.commands, "delete");
    // The broker forgets a topic's offsets with the topic; those of a backup it does not.
    rig.reset_offset(0, 1000);
    let fresh = some("B", 5);
    rig.send(&fresh);
    let (code, said) = rig.said(&["check"]);
    assert!(code == Some(1) && said.contains("although offset 1000 is committed"), "{said}");

    let connector = rig.spawn();
    connector.wait_log("its takeover waits", PATIENCE);
    rig.send(&commands[..5]);
    let results = results(&rig, 30);
    results_of(&results, &fresh);
    each_created_once(&rig, 25);
    let copies = results.iter().filter(|result| result.duplicate).count();
    assert_eq!(copies, 5, "what the journal knows is a duplicate");
    connector.wait_log("ends at offset 10 although offset 1000", PATIENCE);
    assert_eq!(connector.log().matches("its takeover waits").count(), 1, "said once a minute");
    assert_eq!(connector.status()["sections"]["commands"]["log_resets"], 1);
    assert!(connector.metric("wdt_connector_commands_log_resets_total", &[]) >= 1.0);
    // Once: the next start goes on from where this one stood.
    rig.wait_committed(10);
    stop(connector);
    let connector = rig.start();
    rig.send(&some("C", 1));
    rig.results(31);
    assert!(connector.metric("wdt_connector_commands_log_resets_total", &[]) == 0.0);
}

/// Offsets set to the end of the log stand behind the last stable offset while a sender's
/// transaction is open.
#[test]
fn offsets_behind_an_open_transaction_are_no_shorter_log() {
    let (rig, _, connector) = settled("open-transaction", 20);
    stop(connector);
    let sender: BaseProducer = broker()
        .client()
        .set("transactional.id", unique("sender"))
        .set("transaction.timeout.ms", "600000")
        .create()
        .expect("a producer");
    sender.init_transactions(PATIENCE).expect("a producer id");
    sender.begin_transaction().expect("a transaction");
    for number in 0..5 {
        let record = BaseRecord::<str, str>::to(&rig.topics.commands).key("A000").payload("{}");
        sender.send(record.partition(0)).unwrap_or_else(|_| panic!("record {number}"));
    }
    sender.flush(PATIENCE).expect("delivered");
    rig.reset_offset(0, 25);
    let (_, said) = rig.said(&["check"]);
    assert!(!said.contains("although offset 25 is committed"), "{said}");

    let connector = rig.start();
    assert!(!connector.log().contains("commands log replaced"), "{}", connector.log());
    sender.commit_transaction(PATIENCE).expect("committed");
    rig.send(&some("B", 1));
    rig.results(21);
    each_created_once(&rig, 21);
}

#[test]
fn what_retention_removed_unread_is_told_by_one_takeover() {
    let (rig, _, connector) = settled("removed-once", 5);
    stop(connector);
    rig.send(&some("B", 5));
    delete_records(&rig.topics.commands, 10);
    for removed in [5, 0] {
        let connector = rig.start();
        assert_eq!(connector.status()["sections"]["commands"]["removed_unread"], removed);
        stop(connector);
    }
    let _connector = rig.start();
    rig.send(&some("C", 1));
    rig.results(6);
    each_created_once(&rig, 6);
}

#[test]
fn what_was_gone_before_the_first_start_is_not_missed() {
    let rig = Rig::with_partitions("before", 1).commands("avro");
    rig.erp.take_anything();
    rig.send(&some("A", 5));
    delete_records(&rig.topics.commands, 3);
    let connector = rig.start();
    rig.results(2);
    rig.send(&some("B", 1));
    rig.results(3);
    let lag = "wdt_connector_consumer_lag_records";
    until("an answer about the log", PATIENCE, || {
        (connector.metric(lag, &[]) == 0.0 && connector.metrics().contains(lag)).then_some(())
    });
    assert!(connector.metric("wdt_connector_commands_removed_unread_total", &[]) == 0.0);
}

#[test]
fn records_that_retention_took_unread_are_counted_and_said() {
    let (rig, _, connector) = settled("unread", 4);
    stop(connector);
    let fresh = some("B", 12);
    rig.send(&fresh);
    // The last marker of the connector's own transactions is no record of this topic.
    delete_records(&rig.topics.commands, 10);
    let (code, said) = rig.said(&["check"]);
    assert!(said.contains("removed up to 6 records"), "{code:?} {said}");
    let connector = rig.start();
    let results = rig.results(4 + 6);
    results_of(&results, &fresh[6..]);
    each_created_once(&rig, 10);
    connector.wait_log("removed by retention before they were read", PATIENCE);
    assert_eq!(connector.status()["sections"]["commands"]["removed_unread"], 6);

    // While it runs and reads nothing.
    let paused = rig.said(&["commands", "pause", "--by", "t"]);
    assert_eq!(paused.0, Some(0), "{paused:?}");
    until("the pause", PATIENCE, || {
        connector.status()["sections"]["commands"]["paused"].is_string().then_some(())
    });
    rig.send(&some("C", 8));
    until("the log's end", PATIENCE, || {
        delete_records(&rig.topics.commands, 20);
        (connector.metric("wdt_connector_commands_removed_unread_total", &[]) > 6.0).then_some(())
    });
}

#[test]
fn a_journal_made_again_under_a_running_owner_ends_it_before_a_call() {
    let (rig, commands, mut connector) = settled("journal-running", 20);
    make_again(&rig.topics.journal, "compact");
    rig.send(&some("B", 3));
    let status = connector.wait_end(PATIENCE).expect("the process ends by itself");
    let log = connector.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("it was made again, or lost its end"), "{log}");
    assert_eq!(rig.erp.orders().len(), 20, "no call on the word of a journal that forgot");
    drop(connector);

    // However often it is tried.
    for _ in 0..2 {
        refused(&rig, "declare-lost");
    }
    assert!(rig.verb(&["journal", "declare-lost", "--yes"], b"").status.success());
    let _connector = rig.start();
    rig.send(&commands);
    rig.results(20 + 3 + 20);
    each_created_once(&rig, 23);
}

/// The trouble that loses a log is the trouble that makes the question about it fail.
#[test]
fn a_lost_journal_is_refused_although_its_broker_does_not_answer_at_first() {
    let mut proxy = KafkaProxy::new();
    let Some(mut kafka) = PrivateBroker::behind(proxy.port(), "a lost journal") else { return };
    proxy.run(kafka.proxied_port());
    let rig = Rig::on("unanswered", &proxy.bootstrap(), kafka.client(), 1).commands("avro");
    rig.erp.take_anything();
    let connector = rig.start();
    let commands = some("A", 5);
    rig.send(&commands);
    rig.results(5);
    rig.wait_committed(5);
    stop(connector);
    kafka.stop();
    kafka.lose(&rig.topics.journal, 0);
    kafka.restart();
    rig.send(&commands);
    // More than librdkafka tries within the 3 s of one request.
    let client = format!("{}-0-restore", rig.application_id);
    let lost: Vec<_> =
        (0..12).map(|_| proxy.lose_answer(Request::ListOffsets, &client, 0)).collect();
    for _ in 0..2 {
        refused(&rig, "declare-lost");
    }
    assert!(lost.iter().all(|sprung| sprung.load(Ordering::SeqCst)), "the answers were not lost");
    assert_eq!(rig.erp.orders().len(), 5);
}

#[test]
fn a_journal_that_is_not_the_one_of_the_offsets_is_refused() {
    let (rig, commands, connector) = settled("journal-other", 5);
    stop(connector);
    make_again(&rig.topics.journal, "compact");
    // Not empty: a takeover that was cut off, or another program, has written to it.
    let other = some("Z", 1);
    journal::write(rig.broker.clone(), &rig.topics.journal, 1, other.into_iter(), 1);
    for _ in 0..3 {
        refused(&rig, "is not the journal that offset");
    }
    rig.send(&commands);
    assert!(rig.verb(&["journal", "declare-lost", "--yes"], b"").status.success());
    let connector = rig.start();
    rig.results(10);
    each_created_once(&rig, 5);
    stop(connector);
    // Declared once is not declared for ever.
    make_again(&rig.topics.journal, "compact");
    journal::write(rig.broker.clone(), &rig.topics.journal, 1, some("Y", 1).into_iter(), 1);
    refused(&rig, "is not the journal that offset");
}

#[test]
fn a_lost_journal_is_refused_for_offsets_that_were_set_to_the_beginning() {
    let (rig, _, connector) = settled("journal-earliest", 3);
    stop(connector);
    make_again(&rig.topics.journal, "compact");
    rig.reset_offset(0, 0);
    refused(&rig, "is empty although offset 0 of the group is committed");
    journal::write(rig.broker.clone(), &rig.topics.journal, 1, some("Z", 1).into_iter(), 1);
    refused(&rig, "is not the journal that offset 0");
    each_created_once(&rig, 3);
}

/// Both logs are others, and the offsets are a backup's without metadata.
#[test]
fn a_lost_journal_is_refused_once_the_commands_log_is_begun_anew() {
    let (rig, commands, connector) = settled("journal-anew", 3);
    stop(connector);
    make_again(&rig.topics.journal, "compact");
    journal::write(rig.broker.clone(), &rig.topics.journal, 1, some("Z", 1).into_iter(), 1);
    make_again(&rig.topics.commands, "delete");
    rig.reset_offset(0, 1000);
    rig.send(&commands);
    let mut connector = rig.spawn();
    connector.wait_log("ends at offset 3 although offset 1000", BELIEVED);
    assert_eq!(connector.wait_end(BELIEVED).and_then(|status| status.code()), Some(1));
    assert!(connector.log().contains("is not the journal that offset 0"), "{}", connector.log());
    each_created_once(&rig, 3);
}

/// As after a log that lost its end, whose beginning retention had taken long before.
#[test]
fn a_log_begun_anew_that_does_not_begin_at_offset_0_lost_nothing_unread() {
    let (rig, _, connector) = settled("anew-later", 10);
    stop(connector);
    delete_records(&rig.topics.commands, 8);
    let nonce = read_all(&rig.topics.journal)
        .iter()
        .rfind(|record| record.key_text().starts_with("[\"#takeover\""))
        .and_then(|record| rig.journal(record).nonce)
        .expect("a takeover");
    rig.commit(0, 0, &format!("2:{nonce}:!"));
    let connector = rig.start();
    rig.send(&some("B", 1));
    rig.results(10 + 2 + 1);
    rig.wait_committed(11);
    stop(connector);
    let connector = rig.start();
    rig.send(&some("C", 1));
    rig.results(10 + 2 + 2);
    assert!(!connector.log().contains("removed by retention"), "{}", connector.log());
    assert_eq!(connector.status()["sections"]["commands"]["removed_unread"], 0);
}

#[test]
fn a_journal_that_lost_its_beginning_is_refused() {
    let (rig, commands, connector) = settled("journal-partly", 5);
    stop(connector);
    topics::alter(&rig.topics.journal, &[("cleanup.policy", "delete")]);
    refused(&rig, "cleanup.policy = delete");
    delete_records(&rig.topics.journal, 8);
    topics::alter(&rig.topics.journal, &[("cleanup.policy", "compact")]);
    for _ in 0..2 {
        refused(&rig, "begins at offset 8 and not at 0");
    }
    assert!(rig.verb(&["journal", "declare-lost", "--yes"], b"").status.success());
    for _ in 0..2 {
        let connector = rig.start();
        stop(connector);
    }
    rig.send(&commands);
    let connector = rig.start();
    rig.results(10);
    each_created_once(&rig, 5);
    drop(connector);
}

#[test]
fn an_unreadable_journal_entry_is_named_and_forgotten_once_it_is_superseded() {
    let (rig, commands, connector) = settled("journal-garbage", 2);
    stop(connector);
    let key = journal::key(&commands[0]);
    let sender = Sender::new();
    let whole = read_all(&rig.topics.journal)
        .into_iter()
        .rfind(|record| record.key.as_deref() == Some(&key[..]))
        .and_then(|record| record.value)
        .expect("an entry");
    sender.send_to(&rig.topics.journal, 0, Some(&key), Some(b"\xC3\x01garbage"));
    sender.flush();
    let place = read_all(&rig.topics.journal).last().expect("a record").offset;
    let words = format!(
        "the entry of {} in partition 0 of {} at offset {place} cannot be read",
        String::from_utf8_lossy(&key),
        rig.topics.journal
    );
    for _ in 0..2 {
        refused(&rig, &words);
    }
    sender.send_to(&rig.topics.journal, 0, Some(&key), Some(&whole));
    sender.flush();
    let _connector = rig.start();
    rig.send(&commands);
    let results = rig.results(4);
    assert_eq!(results.iter().filter(|result| result.duplicate).count(), 2, "{results:?}");
    assert!(results.iter().all(|result| result.outcome == Outcome::Created));
    each_created_once(&rig, 2);
}
