//! Who owns what, and for how long: restarts, two processes with one ordinal, members that leave
//! without a word, ends.

use std::time::{Duration, Instant};

use crate::kit::{
    commands::command,
    ledger::Verdict,
    rig::{PATIENCE, Rig},
    topics, until,
};

fn some(what: &str, count: usize) -> Vec<wdt_connector::testing::schema::CreateReturnOutbound> {
    (0..count)
        .map(|number| command(&format!("{what}{number:04}"), &format!("cmd-{number}")))
        .collect()
}

#[test]
fn of_two_processes_with_one_ordinal_the_elder_stops_and_says_so() {
    let mut rig = Rig::new("ordinal").commands("avro");
    rig.erp.take_anything();
    rig.erp.latency(Duration::from_millis(100));
    rig.config.set("commands", "max_in_flight", 4);
    let commands = some("OR", 200);
    let mut elder = rig.start();
    rig.send(&commands);
    until("the middle of the stream", PATIENCE, || (rig.erp.order_count() >= 20).then_some(()));
    rig.config.set("", "cache_dir", rig.path("second-cache").display().to_string());
    let mut younger = rig.spawn();
    let status = elder.wait_end(PATIENCE).expect("the elder stops");
    assert!(!status.success(), "{status}");
    younger.wait_log("same kafka.instance_ordinal", PATIENCE);
    // The stream goes on in the younger, also with intents the elder left open.
    let results = rig.results(commands.len());
    Verdict::of(&rig, &commands, &results).assert_each_once(commands.len(), "two processes");
    assert!(younger.running());
}

#[test]
fn a_restart_after_kill_9_calls_again_at_once() {
    let mut rig = Rig::new("again").commands("avro");
    // Without a stable member the partitions would stay reserved for the dead one this long.
    rig.config
        .kafka_property("session.timeout.ms", "45000")
        .kafka_property("heartbeat.interval.ms", "3000");
    rig.erp.take_anything();
    let commands = some("AG", 40);
    let connector = rig.start();
    rig.send(&commands[..20]);
    rig.results(20);
    connector.kill();
    rig.send(&commands[20..]);
    let (before, started) = (rig.erp.creates().received, Instant::now());
    let _connector = rig.spawn();
    until("a call", PATIENCE, || (rig.erp.creates().received > before).then_some(()));
    let took = started.elapsed();
    crate::parts::say(&format!("from exec to the first call after a kill -9: {took:?}"));
    assert!(
        took < Duration::from_secs(30),
        "it took {took:?}: the partitions waited for the dead member's session"
    );
    let results = rig.results(commands.len());
    Verdict::of(&rig, &commands, &results).assert_each_once(commands.len(), "restarted");
}

/// One partition, a short session, and a consumer that stops working without a word, once.
fn sabotaged(fault: &str) {
    let rig = Rig::with_partitions(fault, 1).commands("avro");
    rig.erp.take_anything();
    let commands = some("SA", 30);
    rig.send(&commands[..10]);
    let connector = rig.spawn_with(&[("FAILPOINTS", &format!("{fault}=inject"))]).ready();
    rig.send(&commands[10..]);
    let results = rig.results(commands.len());
    Verdict::of(&rig, &commands, &results).assert_each_once(commands.len(), fault);
    assert!(
        connector.log().contains("consumer did not recover; replacing it"),
        "{fault} did not strike"
    );
}

#[test]
fn a_consumer_that_left_its_group_is_replaced() {
    sabotaged("leave-group");
}

#[test]
fn a_consumer_whose_thread_panics_is_replaced() {
    sabotaged("poll-panic");
}

/// No hang, no endless loop: the process ends, and says what to report.
#[test]
fn a_consumer_whose_thread_panics_again_and_again_ends_the_process() {
    let rig = Rig::with_partitions("poll-panics", 1).commands("avro");
    rig.send(&some("SP", 1));
    let mut connector = rig.spawn_with(&[("FAILPOINTS", "poll-panic-always=inject")]);
    let status = connector.wait_end(PATIENCE).expect("the process ends by itself");
    assert_eq!(status.code(), Some(1), "{}", connector.log());
    let sentence = "panicked 3 times within 60 s; report it";
    assert!(connector.log().contains(sentence), "{}", connector.log());
}

#[test]
fn a_consumer_that_stands_still_is_replaced() {
    let rig = Rig::with_partitions("stand-still", 1).commands("avro");
    rig.erp.take_anything();
    let commands = some("ST", 30);
    let connector = rig.spawn_with(&[("FAILPOINTS", "stop-fetching=inject")]).ready();
    connector.wait_log("consumer stops fetching", PATIENCE);
    rig.send(&commands);
    let results = rig.results(commands.len());
    Verdict::of(&rig, &commands, &results).assert_each_once(commands.len(), "stop-fetching");
    assert!(connector.log().contains("has stood still"), "the watchdog has seen it");
}

#[test]
fn a_restore_that_stands_still_reads_on_with_a_new_consumer() {
    let rig = Rig::with_partitions("restore-still", 2).commands("avro");
    rig.erp.take_anything();
    let commands = some("RS", 30);
    let connector = rig.start();
    rig.send(&commands[..20]);
    rig.results(20);
    assert_eq!(connector.terminate(PATIENCE).code(), Some(0));
    // Copies of all that was settled: each needs its outcome from the journal.
    rig.send(&commands[..20]);
    rig.send(&commands[20..]);
    let connector = rig.spawn_with(&[("FAILPOINTS", "restore-stands-still=inject")]).ready();
    let results = rig.results(50);
    let (copies, first): (Vec<_>, Vec<_>) =
        results.into_iter().partition(|result| result.duplicate);
    assert_eq!(copies.len(), 20, "{copies:?}");
    Verdict::of(&rig, &commands, &first).assert_each_once(commands.len(), "restored");
    let log = connector.log();
    assert!(log.contains("restore stops fetching"), "the fault did not strike");
    assert!(log.contains("reading does not move; reading on with a new consumer"), "{log}");
}

#[test]
fn a_process_frozen_beyond_its_poll_interval_comes_back() {
    let mut rig = Rig::new("frozen").commands("avro");
    rig.config.kafka_property("max.poll.interval.ms", "6000");
    rig.erp.take_anything();
    let commands = some("FR", 60);
    let mut connector = rig.start();
    rig.send(&commands[..20]);
    rig.results(20);
    connector.freeze();
    rig.send(&commands[20..40]);
    // Longer than session and poll interval: the group has forgotten this member, and so has its
    // own client.
    std::thread::sleep(Duration::from_secs(8));
    connector.thaw();
    rig.send(&commands[40..]);
    let results = rig.results(commands.len());
    Verdict::of(&rig, &commands, &results).assert_each_once(commands.len(), "frozen");
    assert!(connector.running(), "it came back by itself");
}

#[test]
fn a_drain_ends_in_its_time_although_the_erp_does_not_answer() {
    let mut rig = Rig::new("bounded").commands("avro");
    rig.config.set("commands", "drain_timeout", "2s").set("commands", "call_timeout", "60s");
    rig.erp.take_anything();
    rig.erp.faults("createOrder:applied_timeout=5x");
    let commands = some("BD", 5);
    let connector = rig.start();
    rig.send(&commands);
    until("calls on the wire", PATIENCE, || (rig.erp.creates().received == 5).then_some(()));
    let asked = Instant::now();
    let status = connector.terminate(PATIENCE);
    let took = asked.elapsed();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(30), "the drain took {took:?}, call_timeout is 60 s");
    // What was given up on is asked about by the next run: all of it was applied.
    rig.config.set("commands", "call_timeout", "2s");
    let _connector = rig.start();
    let results = rig.results(commands.len());
    let verdict = Verdict::of(&rig, &commands, &results);
    verdict.assert_each_once(commands.len(), "after the drain");
    assert_eq!(verdict.recovered, 5);
}

/// After the eighth of them in a row the pause lasts 4.5 s at least; the drain has 2 s.
#[test]
fn a_drain_after_many_aborted_transactions_tries_at_once() {
    let mut rig = Rig::with_partitions("aborted", 1).commands("json");
    rig.config.set("commands", "drain_timeout", "2s");
    rig.erp.take_anything();
    topics::alter(&rig.topics.results, &[("max.message.bytes", "150")]);
    let commands = some("AB", 1);
    let mut connector = rig.start();
    rig.send_json(&commands);
    until("eight aborted transactions", PATIENCE, || {
        (connector.log().matches("record too large for its topic").count() >= 8).then_some(())
    });
    topics::alter(&rig.topics.results, &[("max.message.bytes", "1048588")]);
    connector.ask_to_end();
    let status = connector.wait_end(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", connector.log());
    assert!(!connector.log().contains("drain timeout"), "{}", connector.log());
    Verdict::of(&rig, &commands, &rig.results(1)).assert_each_once(1, "drained");
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut rig = Rig::new("twice").commands("avro");
    rig.config.set("commands", "drain_timeout", "100s").set("commands", "call_timeout", "100s");
    rig.erp.take_anything();
    rig.erp.faults("createOrder:applied_timeout=1x");
    let commands = some("TW", 1);
    let mut connector = rig.start();
    rig.send(&commands);
    until("a call on the wire", PATIENCE, || (rig.erp.creates().received == 1).then_some(()));
    connector.ask_to_end();
    connector.wait_log("a second signal exits immediately", PATIENCE);
    assert!(connector.running(), "it drains");
    connector.ask_to_end();
    let asked = Instant::now();
    let status = connector.wait_end(PATIENCE).expect("it ends");
    assert!(
        asked.elapsed() < Duration::from_secs(30),
        "it took {:?}, the drain may take 100 s",
        asked.elapsed()
    );
    assert_eq!(status.code(), Some(1), "it did not end in good order");
}
