//! Brokers, registries and ERPs behind TLS, passwords and least privilege: what is missing is
//! named, nothing is waived.

use std::{
    fs,
    path::PathBuf,
    process::Output,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use wdt_connector::testing::{config::Partitioner, schema::Outcome, sink::partition_of};

use crate::{
    kit::{
        collector::FakeCollector,
        commands::{command, json_bytes},
        config::Config,
        connector::{self, Connector},
        erp::Kind,
        records::{Reader, Sender},
        rig::{PATIENCE, Rig},
        tls::TlsFront,
        topics::{TopicNames, Wanted, create_at},
        until,
    },
    parts::{
        LockedBroker, acls::Grant, certificates::Authority, free_port, guard::Folder,
        kafka_password, registry,
    },
};

/// One broker for all tests of this file: its users are known when it starts, their rights come
/// with the tests.
struct Locked {
    broker: LockedBroker,
    authority: PathBuf,
    password: PathBuf,
    _folder: Folder,
}

fn user(number: usize) -> String {
    format!("user-{number}")
}

fn locked() -> Option<&'static Locked> {
    static SHARED: OnceLock<Option<Locked>> = OnceLock::new();
    SHARED
        .get_or_init(|| {
            let folder = Folder::new("locked");
            let authority = Authority::new("the test's authority");
            let users: Vec<String> = (0..USERS).map(user).collect();
            let broker = LockedBroker::start("the locked-down tests", &authority, &users)?;
            let password = folder.join("kafka.password");
            fs::write(&password, kafka_password()).unwrap();
            Some(Locked {
                broker,
                authority: authority.write(folder.path(), "ca.pem"),
                password,
                _folder: folder,
            })
        })
        .as_ref()
}

/// Full rights, no rights, and one user for each right that is taken away.
const USERS: usize = 50;
const ALMIGHTY: usize = 0;
const NOBODY: usize = 1;
/// Does not forward.
const READER: usize = 2;
const FIRST_OF_TABLE: usize = 3;

impl Locked {
    /// Turns a configuration to the locked door.
    fn enter(&self, config: &mut Config, user: usize) {
        config
            .set("kafka", "bootstrap_servers", self.broker.bootstrap())
            .set("kafka", "sasl_password_file", self.password.display().to_string())
            .kafka_property("security.protocol", "SASL_SSL")
            .kafka_property("sasl.mechanisms", "SCRAM-SHA-512")
            .kafka_property("sasl.username", &self::user(user))
            .kafka_property("ssl.ca.location", &self.authority.display().to_string())
            .kafka_property("broker.address.family", "v4");
    }
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// [`until`] that shows what was said last when it gives up.
fn until_said(what: &str, mut probe: impl FnMut() -> (bool, String)) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (done, said) = probe();
        if done {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} in vain: {what}; said at last:\n{said}"
        );
    }
}

/// What `check --acls` prints, as grants to another user.
fn printed_rights(rig: &Rig, user: usize) -> Vec<Grant> {
    let output = rig.verb(&["check", "--acls"], b"");
    assert!(output.status.success(), "{}", text(&output));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let grants: Vec<Grant> = stdout
        .lines()
        .filter(|line| line.starts_with("kafka-acls "))
        .flat_map(|line| Grant::parse(line, &self::user(user)))
        .collect();
    assert!(grants.len() > 10, "{stdout}");
    grants
}

#[test]
fn both_routes_run_with_the_rights_that_check_prints() {
    let Some(locked) = locked() else { return };
    let mut rig =
        Rig::bare("locked").commands("json").purchase_returns().return_outbounds("enterprise");
    locked.enter(&mut rig.config, ALMIGHTY);
    create_at(&locked.broker.admin(), &rig.topics.wanted(2));
    locked.broker.allow(&printed_rights(&rig, ALMIGHTY));
    // Rights reach the broker a moment after they were granted.
    until_said("the rights to be there", || {
        let output = rig.verb(&["check"], b"");
        let said = text(&output);
        (output.status.code() == Some(0) && said.contains("are granted"), said)
    });
    rig.erp.seed(Kind::Returns, 5);
    rig.erp.approve(["CT-1".to_owned()]);
    let connector = rig.start();
    let sender = Sender::with(locked.broker.admin());
    sender.send(&rig.topics.commands, Some(b"CT-1"), Some(&json_bytes(&command("CT-1", "c"))), &[]);
    sender.send(&rig.topics.commands, Some(b"CT-2"), Some(b"not a command"), &[]);
    sender.flush();
    for (topic, count) in
        [(&rig.topics.results, 1), (&rig.topics.commands_dlq, 1), (&rig.topics.purchase_returns, 6)]
    {
        Reader::with(locked.broker.admin(), topic).at_least(count, PATIENCE);
    }
    assert_eq!(rig.erp.orders().len(), 1);
    assert!(!connector.log().contains("denies"), "{}", connector.log());
    assert_eq!(connector.terminate(Duration::from_secs(30)).code(), Some(0));
}

/// One right taken away from a user who has all the others, on topics of its own.
struct Case {
    missing: Grant,
    topics: TopicNames,
    file: PathBuf,
    port: u16,
    log: PathBuf,
}

impl Case {
    fn resource(&self) -> String {
        match self.missing.kind.as_str() {
            "transactional-id" => {
                format!("transactional ids that begin with {}", self.missing.name)
            }
            kind => format!("{kind} {}", self.missing.name),
        }
    }

    fn new(locked: &Locked, rig: &Rig, all: &[Grant], number: usize) -> (Self, Vec<Grant>) {
        let prefix = format!("{}.{number}", rig.application_id);
        let moved = |grant: &Grant| {
            let name = grant.name.replacen(&rig.application_id, &prefix, 1);
            Grant { name, user: user(FIRST_OF_TABLE + number), ..grant.clone() }
        };
        let missing = moved(&all[number]);
        let grants: Vec<Grant> = all.iter().map(moved).filter(|grant| *grant != missing).collect();
        let topics = TopicNames::under(&prefix);
        let mut config = rig.config.clone();
        locked.enter(&mut config, FIRST_OF_TABLE + number);
        let port = free_port();
        config
            .set("kafka", "application_id", prefix.clone())
            .set("", "cache_dir", rig.path(&format!("cache-{number}")).display().to_string())
            .set("http", "listen", format!("127.0.0.1:{port}"));
        for (key, name) in topics.entries() {
            config.set("topics", key, name);
        }
        let file = rig.path(&format!("{number}.toml"));
        fs::write(&file, config.text()).unwrap();
        (Self { missing, topics, file, port, log: rig.path(&format!("{number}.log")) }, grants)
    }
}

#[test]
fn every_right_that_is_missing_is_named_by_check_and_by_run() {
    let Some(locked) = locked() else { return };
    let rig = Rig::bare("rights").commands("json").purchase_returns().return_outbounds("flagship");
    rig.erp.take_anything();
    let misfit = rig.erp.seed(Kind::Returns, 2);
    rig.erp.modify(Kind::Returns, &misfit[0], &json!({"set": {"modified": "not a time"}}));
    rig.erp.seed(Kind::FlagshipOutbounds, 2);
    let all = printed_rights(&rig, ALMIGHTY);
    assert!(FIRST_OF_TABLE + all.len() <= USERS, "raise USERS to {}", FIRST_OF_TABLE + all.len());
    let (cases, grants): (Vec<Case>, Vec<Vec<Grant>>) =
        (0..all.len()).map(|number| Case::new(locked, &rig, &all, number)).unzip();
    let wanted: Vec<Wanted<'_>> = cases.iter().flat_map(|case| case.topics.wanted(1)).collect();
    create_at(&locked.broker.admin(), &wanted);
    locked.broker.allow(&grants.concat());
    let sender = Sender::with(locked.broker.admin());
    for (number, case) in cases.iter().enumerate() {
        let return_no = format!("CT-{number}");
        sender.send(
            &case.topics.commands,
            Some(return_no.as_bytes()),
            Some(&json_bytes(&command(&return_no, "c"))),
            &[],
        );
        sender.send(&case.topics.commands, Some(b"CT-BAD"), Some(b"not a command"), &[]);
    }
    sender.flush();
    // Some at a time: each is a process that joins two groups.
    let queue = std::sync::Mutex::new(cases.iter());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let Some(case) = queue.lock().unwrap().next() else { return };
                    named_by_check(case);
                    named_by_run(case);
                }
            });
        }
    });
}

/// One failed row with the right and the thing in it, and none about any other.
fn named_by_check(case: &Case) {
    let resource = case.resource();
    let sentence = format!("Kafka denies {} on {resource};", case.missing.operation);
    until_said(&sentence, || {
        let output = connector::verb(&case.file, &["check"], b"", PATIENCE);
        let said = text(&output);
        let denials: Vec<&str> =
            said.lines().filter(|line| line.contains("Kafka denies")).collect();
        // Rights reach the broker a moment after they were granted: until then others are missing
        // as well.
        let only = denials.iter().all(|line| line.contains(&resource));
        (only && output.status.code() == Some(1) && said.contains(&sentence), said)
    });
}

fn named_by_run(case: &Case) {
    let only_on_demand = case.missing.operation == "Write"
        && [&case.topics.control, &case.topics.commands].contains(&&case.missing.name);
    let remembers = [&case.topics.journal, &case.topics.feeds_state].contains(&&case.missing.name);
    if (case.missing.operation == "DescribeConfigs" && !remembers) || only_on_demand {
        // Of the other topics only `check` and `topics` look at the options; only a person's request
        // writes a decision, and only a misplaced command is forwarded.
        return;
    }
    let connector = Connector::spawn(&case.file, case.port, &case.log);
    let resource = case.resource();
    until(&format!("{} on {resource} to be missed", case.missing.operation), PATIENCE, || {
        let log = connector.log();
        log.lines()
            .any(|line| line.contains("Kafka denies") && line.contains(&resource))
            .then_some(())
    });
}

#[test]
fn a_misplaced_command_that_may_not_be_forwarded_is_invalid_until_the_right_is_granted() {
    let Some(locked) = locked() else { return };
    let mut rig = Rig::bare("unforwarded").commands("json");
    locked.enter(&mut rig.config, READER);
    rig.erp.take_anything();
    create_at(&locked.broker.admin(), &rig.topics.wanted(2));
    let (forwarding, others): (Vec<Grant>, Vec<Grant>) = printed_rights(&rig, READER)
        .into_iter()
        .partition(|grant| grant.name == rig.topics.commands && grant.operation == "Write");
    assert_eq!(forwarding.len(), 1);
    locked.broker.allow(&others);
    let denial = format!("Kafka denies Write on topic {};", rig.topics.commands);
    until_said("only the right to forward to be missing", || {
        let said = text(&rig.verb(&["check"], b""));
        let denials = said.lines().filter(|line| line.contains("Kafka denies")).count();
        (denials == 1 && said.contains(&denial), said)
    });
    let connector = rig.start();
    let sender = Sender::with(locked.broker.admin());
    let send = |number: usize, misplaced: i32| {
        let one = command(&format!("CT-{number}"), "c");
        let key = one.return_no.as_bytes();
        let own = partition_of(key, 2, Partitioner::Murmur2).unwrap();
        let to = (own + misplaced) % 2;
        sender.send_to(&rig.topics.commands, to, Some(key), Some(&json_bytes(&one)));
        sender.flush();
    };
    let mut reader = Reader::with(locked.broker.admin(), &rig.topics.results);
    for (number, misplaced) in [(0, 1), (1, 0), (2, 1)] {
        send(number, misplaced);
    }
    reader.at_least(3, PATIENCE);
    let mut ends: Vec<_> = reader.seen.iter().map(|record| rig.result(record)).collect();
    ends.sort_by(|one, other| one.return_no.cmp(&other.return_no));
    let outcomes: Vec<_> = ends.iter().map(|end| end.outcome).collect();
    assert_eq!(outcomes, [Outcome::Invalid, Outcome::Created, Outcome::Invalid]);
    for invalid in [&ends[0], &ends[2]] {
        let said = invalid.violations.join("; ");
        assert!(
            said.contains("into partition")
                && said.contains("Write on the commands topic")
                && said.contains("partitioner=murmur2_random"),
            "{said}"
        );
    }
    connector.wait_log(&denial, PATIENCE);
    assert_eq!(
        connector.log().matches("restarting from committed offsets").count(),
        0,
        "a denial costs no restore"
    );
    assert_eq!(
        (rig.erp.order_count(), connector.status()["sections"]["commands"]["forwarded"].as_u64()),
        (1, Some(0))
    );

    locked.broker.allow(&forwarding);
    let mut sent = 3;
    until("a command to be forwarded", PATIENCE, || {
        send(sent, 1);
        sent += 1;
        reader.at_least(sent, PATIENCE);
        let last = reader.seen.last().map(|record| rig.result(record))?;
        (last.outcome == Outcome::Created).then_some(())
    });
    assert_eq!(rig.erp.order_count(), 2);
    assert_eq!(connector.terminate(Duration::from_secs(30)).code(), Some(0));
}

#[test]
fn decisions_whose_tombstones_are_denied_wait_and_hold_nothing_else_up() {
    let Some(locked) = locked() else { return };
    let mut rig = Rig::bare("undecided").commands("json");
    locked.enter(&mut rig.config, READER);
    rig.erp.take_anything();
    create_at(&locked.broker.admin(), &rig.topics.wanted(1));
    let (deciding, others): (Vec<Grant>, Vec<Grant>) = printed_rights(&rig, READER)
        .into_iter()
        .partition(|grant| grant.name == rig.topics.control && grant.operation == "Write");
    assert_eq!(deciding.len(), 1);
    locked.broker.allow(&others);
    let connector = rig.start();
    let sender = Sender::with(locked.broker.admin());
    let key = Some(&br#"["decision","CT-1","c",0,2]"#[..]);
    sender.send(&rig.topics.control, key, Some(b"{}"), &[]);
    // One that stands in the line of its return.
    let lined = Some(&br#"["decision","CT-1","c-absent",0,2]"#[..]);
    let verdict = Some(&br#"{"verdict":"no_order","by":"a test","at":"now"}"#[..]);
    sender.send(&rig.topics.control, lined, verdict, &[]);
    sender.flush();
    connector.wait_log("failed to carry out decisions; they wait", PATIENCE);
    let one = json_bytes(&command("CT-1", "c"));
    sender.send(&rig.topics.commands, Some(b"CT-1"), Some(&one), &[]);
    sender.flush();
    let mut results = Reader::with(locked.broker.admin(), &rig.topics.results);
    results.at_least(1, PATIENCE);
    assert_eq!(rig.result(&results.seen[0]).outcome, Outcome::Created);
    assert!(!connector.log().contains("restarting from committed offsets"));
    assert_eq!(connector.terminate(Duration::from_secs(30)).code(), Some(0));

    let connector = rig.start();
    assert!(!connector.log().contains("drain timeout"), "the decision is left to the next owner");
    locked.broker.allow(&deciding);
    let mut letters = Reader::with(locked.broker.admin(), &rig.topics.commands_dlq);
    letters.at_least(1, PATIENCE);
    assert_eq!(letters.seen[0].key.as_deref(), key);
    assert_eq!(connector.terminate(Duration::from_secs(30)).code(), Some(0));
}

#[test]
fn a_certificate_or_password_that_is_wrong_is_one_sentence() {
    let Some(locked) = locked() else { return };
    let mut rig = Rig::bare("doors").commands("json");
    locked.enter(&mut rig.config, NOBODY);
    let stranger = Authority::new("somebody else").write(&rig.path(""), "stranger.pem");
    let wrong = rig.path("wrong.password");
    fs::write(&wrong, "not-the-password").unwrap();
    let (stranger, wrong) = (stranger.display().to_string(), wrong.display().to_string());
    let mut doors: Vec<(&str, Config, &[&str])> = Vec::new();
    let mut config = rig.config.clone();
    config.kafka_property("ssl.ca.location", &stranger);
    doors.push(("another authority", config, &["certificate verify failed", "ssl.ca.location"]));
    let mut config = rig.config.clone();
    config.set("kafka", "bootstrap_servers", locked.broker.expired_bootstrap());
    doors.push((
        "an expired certificate",
        config,
        &["certificate verify failed", "it has expired"],
    ));
    let mut config = rig.config.clone();
    config.set("kafka", "sasl_password_file", wrong);
    doors.push(("a wrong password", config, &["Authentication failed"]));
    for (what, config, words) in doors {
        rig.config = config;
        let output = rig.verb(&["check"], b"");
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{what}: {said}");
        let line = said
            .lines()
            .find(|line| line.starts_with("✗ kafka"))
            .unwrap_or_else(|| panic!("{what}: {said}"));
        assert!(words.iter().all(|word| line.contains(word)), "{what}: {line}");
        let connector = rig.spawn();
        until(&format!("{what} in the log"), PATIENCE, || {
            connector.log().contains(words[0]).then_some(())
        });
    }
}

#[test]
fn kafka_credentials_and_certificates_are_tried_before_they_are_taken() {
    let Some(locked) = locked() else { return };
    let mut rig = Rig::bare("rotated").purchase_returns();
    locked.enter(&mut rig.config, ALMIGHTY);
    let (password, authority) = (rig.path("own.password"), rig.path("own.pem"));
    fs::copy(&locked.password, &password).unwrap();
    fs::copy(&locked.authority, &authority).unwrap();
    rig.config
        .set("kafka", "sasl_password_file", password.display().to_string())
        .kafka_property("ssl.ca.location", &authority.display().to_string());
    create_at(&locked.broker.admin(), &rig.topics.wanted(2));
    locked.broker.allow(&printed_rights(&rig, ALMIGHTY));
    rig.erp.seed(Kind::Returns, 1);
    let mut connector = rig.start();
    let mut changes = Reader::with(locked.broker.admin(), &rig.topics.purchase_returns);
    changes.at_least(1, PATIENCE);

    let stranger = Authority::new("somebody else").write(&rig.path(""), "stranger.pem");
    for (file, content, word) in [
        (&password, b"not-the-password".to_vec(), "Authentication failed"),
        (&authority, fs::read(&stranger).unwrap(), "certificate verify failed"),
    ] {
        let before = fs::read(file).unwrap();
        fs::write(file, content).unwrap();
        let refused = |connector: &Connector| {
            let status = connector.status();
            status.pointer("/sections/reload/refused/kafka")?.as_str().map(str::to_owned)
        };
        until("a refusal", PATIENCE, || refused(&connector).filter(|why| why.contains(word)));
        let number = rig.erp.add_one(Kind::Returns);
        changes.until("a change with those before", PATIENCE, |seen| {
            seen.iter().any(|record| record.key_text() == number)
        });
        fs::write(file, before).unwrap();
        until("nothing refused", PATIENCE, || refused(&connector).is_none().then_some(()));
    }
    assert!(connector.running() && !connector.log().contains("restarting pipelines"));
}

#[test]
fn a_verification_that_is_switched_off_shouts() {
    let Some(locked) = locked() else { return };
    let mut rig = Rig::bare("shout").commands("json");
    locked.enter(&mut rig.config, NOBODY);
    rig.config.kafka_property("enable.ssl.certificate.verification", "false");
    let output = rig.verb(&["check"], b"");
    assert!(text(&output).contains("CERTIFICATE IS NOT VERIFIED"), "{}", text(&output));
    let connector = rig.spawn();
    connector.wait_log("CERTIFICATE IS NOT VERIFIED", PATIENCE);
}

#[test]
fn erp_and_registry_are_reached_over_tls_with_an_authority_of_their_own() {
    let mut rig = Rig::new("tls").commands("avro").with_registry();
    let authority = Authority::new("the test's authority");
    let identity = authority.sign(false);
    let erp = TlsFront::to(rig.erp.address(), &identity);
    let schemas = TlsFront::to(
        registry().url().trim_start_matches("http://").split('/').next().unwrap(),
        &identity,
    );
    let ca = authority.write(&rig.path(""), "ca.pem").display().to_string();
    let https = |url: &str, port: u16| {
        let path = url.trim_start_matches("http://").split_once('/').map_or("", |(_, path)| path);
        format!("https://localhost:{port}/{path}")
    };
    rig.config
        .set("erp.flagship", "url", https(rig.erp.flagship_url(), erp.port()))
        .set("erp.flagship", "ca_file", ca.clone())
        .set("schema_registry", "url", https(registry().url(), schemas.port()))
        .set("schema_registry", "ca_file", ca);
    rig.erp.approve(["CT-1".to_owned()]);
    let connector = rig.start();
    rig.send(&[command("CT-1", "c")]);
    assert_eq!(rig.results(1).len(), 1);
    assert_eq!(rig.erp.orders().len(), 1);
    assert_eq!(connector.terminate(Duration::from_secs(30)).code(), Some(0));

    // The same doors for somebody who trusts another authority, and with a certificate that has
    // expired.
    let stranger =
        Authority::new("somebody else").write(&rig.path(""), "stranger.pem").display().to_string();
    rig.config.set("erp.flagship", "ca_file", stranger.clone()).set(
        "schema_registry",
        "ca_file",
        stranger,
    );
    refused(&rig, "UnknownIssuer");
    let expired = authority.sign(true);
    let erp = TlsFront::to(rig.erp.address(), &expired);
    let schemas = TlsFront::to(
        registry().url().trim_start_matches("http://").split('/').next().unwrap(),
        &expired,
    );
    let ca = rig.path("ca.pem").display().to_string();
    rig.config
        .set("erp.flagship", "url", https(rig.erp.flagship_url(), erp.port()))
        .set("erp.flagship", "ca_file", ca.clone())
        .set("schema_registry", "url", https(registry().url(), schemas.port()))
        .set("schema_registry", "ca_file", ca);
    refused(&rig, "expired");
    assert_eq!(
        rig.erp.creates().received,
        1,
        "nothing was sent through a door that could not be trusted"
    );
}

#[test]
fn traces_reach_a_collector_over_tls_with_an_authority_of_its_own() {
    let mut rig = Rig::new("tlstraces").commands("avro");
    rig.erp.take_anything();
    let authority = Authority::new("the test's authority");
    let collector = FakeCollector::start();
    let front = TlsFront::to(collector.url.trim_start_matches("http://"), &authority.sign(false));
    let ca = authority.write(&rig.path(""), "ca.pem").display().to_string();
    let url = format!("https://localhost:{}", front.port());
    rig.config.set("telemetry", "otlp_endpoint", url.clone()).set("telemetry", "ca_file", ca);
    let connector = rig.start();
    rig.send(&[command("CT-1", "c")]);
    assert_eq!(rig.results(1).len(), 1);
    assert_eq!(connector.terminate(Duration::from_secs(30)).code(), Some(0));
    assert!(collector.holds(b"CT-1") && collector.holds(b"settle"), "its trace arrived");

    // Another authority, and nobody's but the system's: refused in one sentence, and the pipeline
    // goes on without traces.
    let received = collector.received().len();
    let stranger =
        Authority::new("somebody else").write(&rig.path(""), "stranger.pem").display().to_string();
    for (turn, ca) in [Some(stranger), None].into_iter().enumerate() {
        match ca {
            Some(ca) => rig.config.set("telemetry", "ca_file", ca),
            None => rig.config.remove("telemetry", Some("ca_file")),
        };
        let (file, port) = rig.write_config();
        let connector =
            Connector::spawn(&file, port, &rig.path(&format!("refused-{turn}.log"))).ready();
        rig.send(&[command(&format!("CT-{}", turn + 2), "c")]);
        assert_eq!(rig.results(turn + 2).len(), turn + 2);
        connector.wait_log("trace export failed", PATIENCE);
        let log = connector.log();
        let line = log.lines().find(|line| line.contains("trace export failed")).unwrap();
        assert!(
            [&*url, "UnknownIssuer", "telemetry.ca_file"].iter().all(|part| line.contains(part)),
            "{line}"
        );
        assert_eq!(connector.terminate(Duration::from_secs(30)).code(), Some(0));
    }
    assert_eq!(
        collector.received().len(),
        received,
        "nothing was sent through a door that could not be trusted"
    );

    // A file that is missing is a mistake of the configuration, one that holds no certificate is
    // named as well.
    rig.config.set("telemetry", "ca_file", rig.path("missing.pem").display().to_string());
    let output = rig.verb(&["run"], b"");
    assert!(
        output.status.code() == Some(2) && text(&output).contains("missing.pem"),
        "{}",
        text(&output)
    );
    let empty = rig.path("empty.pem");
    fs::write(&empty, "nothing of the kind\n").unwrap();
    rig.config.set("telemetry", "ca_file", empty.display().to_string());
    let output = rig.verb(&["run"], b"");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("telemetry.ca_file")
            && said.contains("empty.pem")
            && said.contains("no PEM certificate"),
        "{said}"
    );
}

/// `check` fails for the ERP and says why for the registry, one line each; `run` ends with the
/// registry's sentence.
fn refused(rig: &Rig, word: &str) {
    let output = rig.verb(&["check"], b"");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for row in ["✗ erp", "schema registry"] {
        let line =
            said.lines().find(|line| line.contains(row)).unwrap_or_else(|| panic!("{row}: {said}"));
        assert!(line.to_lowercase().contains(&word.to_lowercase()), "{word}: {line}");
    }
    let output = rig.verb(&["run"], b"");
    assert!(
        !output.status.success() && text(&output).to_lowercase().contains(&word.to_lowercase()),
        "{}",
        text(&output)
    );
}
