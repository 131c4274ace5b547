//! SIGTERM ends the process in time whatever is broken.

use std::{
    fs,
    io::Write as _,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use wdt_connector::testing::schema::CreateReturnOutbound;

use crate::{
    kit::{
        commands::command,
        connector::{self, Connector},
        kafka_proxy::KafkaProxy,
        rig::{PATIENCE, Rig},
        until,
    },
    parts::{PrivateBroker, guard},
};

/// `commands.drain_timeout` of the tests, and what may come on top of it.
const LIMIT: Duration = Duration::from_secs(5 + 5);

fn some(count: usize) -> Vec<CreateReturnOutbound> {
    (0..count).map(|number| command(&format!("SH{number:04}"), &format!("cmd-{number}"))).collect()
}

/// SIGTERM now; panics when the process is still there after [`LIMIT`].
fn end_in_time(connector: &mut Connector, what: &str) -> ExitStatus {
    let asked = Instant::now();
    connector.ask_to_end();
    let status = connector.wait_end(PATIENCE);
    let took = asked.elapsed();
    assert!(
        status.is_some() && took <= LIMIT,
        "{what}: {status:?} after {took:?}\n{}",
        connector.log()
    );
    status.unwrap()
}

/// A thread hangs while commands are worked on, and SIGTERM arrives.
fn hangs(fault: &str) -> (ExitStatus, String) {
    let rig = Rig::with_partitions(fault, 1).commands("avro").purchase_returns();
    rig.erp.take_anything();
    rig.send(&some(10));
    let mut connector = rig.spawn_with(&[("FAILPOINTS", &format!("{fault}=inject"))]);
    connector.wait_log("injected fault: thread hangs", PATIENCE);
    (end_in_time(&mut connector, fault), connector.log())
}

/// What hangs keeps the pipeline from draining: the process says so, names it, and fails.
fn hangs_and_fails(fault: &str, running: &str) {
    let (status, log) = hangs(fault);
    assert_eq!(status.code(), Some(1), "{log}");
    let said = log.lines().find(|line| line.contains("shutdown did not finish in time"));
    let said = said.unwrap_or_else(|| panic!("{log}"));
    assert!(said.contains("open intents are looked up at the next start"), "{said}");
    assert!(said.contains(running), "{running} is not named: {said}");
}

#[test]
fn sigterm_ends_in_time_although_the_polling_thread_hangs() {
    hangs_and_fails("poll-hang", "poll-commands");
}

#[test]
fn sigterm_ends_in_time_although_a_panic_hangs_in_its_unwinding() {
    hangs_and_fails("unwind-hang", "poll-commands");
}

#[test]
fn sigterm_ends_in_time_although_the_whole_runtime_hangs() {
    hangs_and_fails("runtime-hang", "pipeline commands");
}

/// The drain ends all the same: what is not committed is left to the next owner.
#[test]
fn sigterm_ends_in_time_although_the_transaction_thread_hangs() {
    let (status, log) = hangs("transaction-hang");
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn sigterm_ends_in_time_although_a_restore_hangs() {
    let (status, log) = hangs("restore-hang");
    assert_eq!(status.code(), Some(0), "{log}");
}

/// Both pipelines on a broker of their own, with work in flight.
fn busy(rig: &Rig) -> Connector {
    rig.erp.take_anything();
    let connector = rig.start();
    let commands = some(40);
    rig.send(&commands[..20]);
    rig.results(20);
    rig.erp.latency(Duration::from_millis(300));
    rig.send(&commands[20..]);
    until("calls on the wire", PATIENCE, || (rig.erp.creates().received > 20).then_some(()));
    connector
}

#[test]
fn sigterm_ends_in_time_although_the_broker_is_frozen() {
    let Some(mut broker) = PrivateBroker::start("a frozen broker at SIGTERM") else { return };
    let rig = Rig::on("frozen-broker", &broker.bootstrap(), broker.client(), 2)
        .commands("avro")
        .purchase_returns();
    let mut connector = busy(&rig);
    broker.process().signal(Signal::STOP);
    let status = end_in_time(&mut connector, "a frozen broker");
    broker.process().signal(Signal::CONT);
    assert_eq!(status.code(), Some(0), "{}", connector.log());
}

#[test]
fn sigterm_ends_in_time_although_the_broker_cannot_be_reached() {
    let mut proxy = KafkaProxy::new();
    let Some(broker) = PrivateBroker::behind(proxy.port(), "an unreachable broker at SIGTERM")
    else {
        return;
    };
    proxy.run(broker.proxied_port());
    let rig = Rig::on("unreachable-broker", &proxy.bootstrap(), broker.client(), 2)
        .commands("avro")
        .purchase_returns();
    let mut connector = busy(&rig);
    proxy.refuse(true);
    proxy.cut();
    let status = end_in_time(&mut connector, "an unreachable broker");
    assert_eq!(status.code(), Some(0), "{}", connector.log());
}

#[test]
fn sigterm_ends_at_once_although_the_broker_was_never_there() {
    let mut rig = Rig::bare("no-broker").commands("avro").purchase_returns();
    let port = crate::parts::free_port();
    rig.config.set("kafka", "bootstrap_servers", format!("127.0.0.1:{port}"));
    let mut connector = rig.spawn();
    connector.wait_log("command pipeline waiting for its topics", PATIENCE);
    let status = end_in_time(&mut connector, "no broker");
    assert_eq!(status.code(), Some(0), "{}", connector.log());
}

/// Stopping the pipelines for new credentials has the same deadline; a supervisor then starts the
/// process again, with the new ones.
#[test]
fn new_credentials_end_a_process_whose_pipelines_do_not_stop() {
    let mut rig = Rig::with_partitions("reload-hang", 1).commands("avro");
    let password = rig.path("kafka.password");
    fs::write(&password, "first").unwrap();
    rig.config.set("kafka", "sasl_password_file", password.display().to_string());
    rig.erp.take_anything();
    rig.send(&some(1));
    let mut connector = rig.spawn_with(&[("FAILPOINTS", "poll-hang=inject")]);
    connector.wait_log("injected fault: thread hangs", PATIENCE);
    fs::write(&password, "second").unwrap();
    connector.wait_log("new secrets or certificates in use", PATIENCE);
    let asked = Instant::now();
    let status = connector.wait_end(PATIENCE).expect("it ends");
    assert!(asked.elapsed() <= LIMIT, "after {:?}\n{}", asked.elapsed(), connector.log());
    assert_eq!(status.code(), Some(1), "{}", connector.log());
    let sentence = "pipelines did not stop in time for new credentials";
    assert!(connector.log().contains(sentence), "{}", connector.log());
}

/// Nobody reads standard error, as where a log collector hangs: every log line blocks, the last one
/// as well.
#[test]
fn sigterm_ends_in_time_although_nobody_reads_the_log() {
    let rig = Rig::bare("full-pipe").commands("avro");
    let (_reader, mut full) = std::io::pipe().unwrap();
    // A pipe of Linux holds 64 KB: the next byte blocks.
    full.write_all(&[b'x'; 65_536]).unwrap();
    let (file, _) = rig.write_config();
    let mut command = connector::command(&file, &["run"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(full);
    let mut process = guard::spawn(&mut command).unwrap();
    let threads = format!("/proc/{}/task", process.pid());
    until("signals to be listened for", PATIENCE, || {
        let mut threads = fs::read_dir(&threads).unwrap().flatten();
        let named = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("comm"));
        threads.any(|thread| named(thread).is_ok_and(|name| name == "signals\n")).then_some(())
    });
    let asked = Instant::now();
    process.signal(Signal::TERM);
    let status = process.wait(PATIENCE);
    assert!(asked.elapsed() <= LIMIT, "{status:?} after {:?}", asked.elapsed());
    assert!(status.is_some_and(|status| !status.success()), "{status:?}");
}
