//! Secrets stay where they are: after every verb and fault, nothing that was said or written holds
//! one.

use std::{collections::BTreeSet, fs, process::Output, sync::Mutex, thread, time::Duration};

use data_encoding::BASE64;
use serde_json::json;
use wdt_connector::testing::clock::Timestamp;

use crate::{
    kit::{
        collector::FakeCollector,
        commands::{command, json_bytes},
        connector,
        erp::Kind,
        http,
        proxy::Proxy,
        records::{Reader, Sender, read_all},
        rig::{PATIENCE, Rig},
        until,
    },
    parts::free_port,
};

/// Everything that was said, by who said it.
#[derive(Default)]
struct Said(Vec<(String, Vec<u8>)>);

impl Said {
    fn hear(&mut self, who: impl Into<String>, what: impl Into<Vec<u8>>) {
        self.0.push((who.into(), what.into()));
    }

    fn output(&mut self, who: &str, output: &Output) {
        self.hear(format!("{who}: stdout"), output.stdout.clone());
        self.hear(format!("{who}: stderr"), output.stderr.clone());
    }

    fn topic(&mut self, topic: &str) {
        for record in read_all(topic) {
            let headers = record
                .headers
                .iter()
                .flat_map(|(key, value)| [key.as_bytes(), value])
                .flatten()
                .copied();
            let bytes = record
                .key
                .iter()
                .chain(&record.value)
                .flatten()
                .copied()
                .chain(headers)
                .collect::<Vec<u8>>();
            self.hear(topic, bytes);
        }
    }

    /// Who said it, if anybody did.
    fn who_said(&self, secret: &str) -> Option<&str> {
        let found = self
            .0
            .iter()
            .find(|(_, what)| what.windows(secret.len()).any(|window| window == secret.as_bytes()));
        found.map(|(who, _)| who.as_str())
    }

    /// Who said something of a signature's form, if anybody did: one that was made and never sent
    /// is nowhere to be heard.
    fn who_said_what_may_be_a_signature(&self, but: &str) -> Option<(&str, String)> {
        self.0.iter().filter(|(who, _)| who != but).find_map(|(who, what)| {
            let mut words = what.split(|byte| !byte.is_ascii_hexdigit());
            let word = words.find(|word| {
                word.len() == SIGNATURE && word.iter().all(|byte| !byte.is_ascii_uppercase())
            })?;
            Some((who.as_str(), String::from_utf8_lossy(word).into_owned()))
        })
    }
}

/// Hexadecimal digits of a signature.
const SIGNATURE: usize = 32;

/// The values of `sign` in requests that were listened in on.
fn signatures(heard: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(heard);
    let values = text
        .split("sign=")
        .skip(1)
        .map(|rest| rest.chars().take_while(char::is_ascii_hexdigit).collect::<String>());
    values.filter(|value| value.len() == SIGNATURE).collect()
}

/// The fault of each answer to `createOrder`, in this order; every command meets one.
const FAULTS: [&str; 12] = [
    "5xx",
    "garbage",
    "throttle",
    "concurrency",
    "applied_timeout",
    "applied_reset",
    "applied_garbage",
    "truncated",
    "inner_reject",
    "database",
    "no_status",
    "other",
];

/// Commands sent while the ERP is gone.
const LAST: usize = 6;

/// A rig with every kind of secret, both accounts and the collector listened in on.
struct Ears {
    rig: Rig,
    flagship: Proxy,
    enterprise: Proxy,
    collector: FakeCollector,
    secrets: Vec<String>,
    said: Said,
}

impl Ears {
    fn new(what: &str) -> Self {
        let mut rig = Rig::new(what)
            .commands("json")
            .purchase_returns()
            .return_outbounds("enterprise")
            .with_registry();
        let flagship = Proxy::to(rig.erp.address());
        let enterprise = Proxy::to(rig.erp.address());
        flagship.listen_in();
        enterprise.listen_in();
        let address = rig.erp.address().to_owned();
        let secrets = configure(&mut rig, &flagship.address(), &enterprise.address(), &address);
        let collector = FakeCollector::start();
        rig.config.set("telemetry", "otlp_endpoint", collector.url.clone());
        rig.erp.take_anything();
        let numbers = rig.erp.seed(Kind::Returns, 3);
        rig.erp.modify(Kind::Returns, &numbers[0], &json!({"set": {"modified": "not a time"}}));
        rig.erp.seed(Kind::EnterpriseOutbounds, 2);
        Self { rig, flagship, enterprise, collector, secrets, said: Said::default() }
    }

    /// Commands for these returns, and one record that is none.
    fn send(&self, returns: &[String]) {
        let sender = Sender::new();
        for return_no in returns {
            sender.send(
                &self.rig.topics.commands,
                Some(return_no.as_bytes()),
                Some(&json_bytes(&command(return_no, "c"))),
                &[],
            );
        }
        sender.flush();
    }

    fn feeds_are_read(&self) {
        Reader::new(&self.rig.topics.purchase_returns).at_least(2, PATIENCE);
        Reader::new(&self.rig.topics.return_outbounds).at_least(2, PATIENCE);
    }

    /// Panics if anything that was said, written or sent holds a secret, or one of at least `count`
    /// signatures.
    fn nothing_was_said(mut self, count: usize) {
        for (_, topic) in self.rig.topics.entries() {
            self.said.topic(topic);
        }
        let traces = self.collector.received();
        assert!(traces.windows(4).any(|text| text == b"CT-0"), "traces were sent");
        self.said.hear("the collector", traces);
        let signatures: BTreeSet<String> = signatures(&self.flagship.heard())
            .into_iter()
            .chain(signatures(&self.enterprise.heard()))
            .collect();
        assert!(signatures.len() >= count, "only {} signatures were heard", signatures.len());
        for secret in self.secrets.iter().chain(&signatures) {
            assert_eq!(self.said.who_said(secret), None, "{secret} was said");
        }
        // Of ours only the hash of a feed's filters has this form.
        assert_eq!(
            self.said.who_said_what_may_be_a_signature(&self.rig.topics.feeds_state),
            None,
            "what is it?"
        );
    }
}

/// A record that is no command.
const NO_COMMAND: &[u8] = b"{\"return_no\": \"CT-BAD\", \"sign\": 1}";

#[test]
fn no_secret_is_said_by_any_fault_or_panic() {
    let mut ears = Ears::new("secrets");
    for fault in FAULTS {
        ears.rig.erp.faults(&format!("createOrder:{fault}=1x"));
    }
    let connector = ears.rig.start();
    ears.send(&(0..20).map(|number| format!("CT-{number}")).collect::<Vec<_>>());
    let sender = Sender::new();
    sender.send(&ears.rig.topics.commands, Some(b"CT-BAD"), Some(NO_COMMAND), &[]);
    sender.flush();
    Reader::new(&ears.rig.topics.results).at_least(21, PATIENCE);
    ears.feeds_are_read();
    // The account refused, the ERP gone.
    for fault in ["signature", "sid", "clock"] {
        ears.rig.erp.faults(&format!("all:{fault}=2x"));
        until(&format!("{fault} to be met"), PATIENCE, || {
            (!ears.rig.erp.armed(fault)).then_some(())
        });
    }
    ears.flagship.refuse(true);
    ears.flagship.cut();
    // As many as open the circuit by one failed call each: a call that breaks off is asked for, not
    // made again.
    ears.send(&(0..LAST).map(|number| format!("CT-LAST-{number}")).collect::<Vec<_>>());
    connector.wait_log("circuit breaker opened", PATIENCE);
    ears.flagship.refuse(false);
    Reader::new(&ears.rig.topics.results).at_least(21 + LAST, PATIENCE);
    for path in ["/", "/status", "/metrics", "/healthz", "/readyz", "/status?token=x"] {
        ears.said.hear(path, http::get(&connector.url(path)).unwrap().body);
    }
    assert_eq!(connector.terminate(PATIENCE).code(), Some(0));

    // A defect that says all it has at hand: settings, clients, an answer.
    let mut connector =
        ears.rig.spawn_with(&[("FAILPOINTS", "panic=inject"), ("RUST_BACKTRACE", "full")]).ready();
    ears.send(&["CT-PANIC".to_owned()]);
    let ended = connector.wait_end(PATIENCE).expect("a pipeline that panicked ends the process");
    assert_eq!(ended.code(), Some(1), "{ended}");
    let log = connector.log();
    let panicked = log.split_once("on purpose, with").expect("it panicked").1;
    assert!(
        panicked.contains(ears.rig.erp.flagship_sid()) && panicked.contains("panic.backtrace"),
        "{panicked}"
    );
    ears.said.hear("log", log);
    assert!(
        ears.said.who_said("CT-19").is_some() && ears.said.who_said("librdkafka").is_some(),
        "what was said was looked at"
    );
    ears.nothing_was_said(30);
}

#[test]
fn no_secret_is_said_by_any_verb() {
    let mut ears = Ears::new("verbs");
    let connector = ears.rig.start();
    ears.send(&(0..3).map(|number| format!("CT-{number}")).collect::<Vec<_>>());
    let sender = Sender::new();
    sender.send(&ears.rig.topics.commands, Some(b"CT-BAD"), Some(NO_COMMAND), &[]);
    sender.flush();
    Reader::new(&ears.rig.topics.results).at_least(4, PATIENCE);
    ears.feeds_are_read();
    // One for a person.
    ears.rig.erp.faults("createOrder:strip_remark=1x,createOrder:applied_reset=1x");
    ears.send(&["CT-DOUBT".to_owned()]);
    let mut letters = Reader::new(&ears.rig.topics.commands_dlq);
    letters.at_least(2, PATIENCE);
    let letter = format!("{}:{}", letters.seen[0].partition, letters.seen[0].offset);

    good_verbs(&ears.rig, &mut ears.said, &letter);
    // The same questions to an ERP that breaks off, and to one that refuses.
    for fault in ["all:reset=1", "all:signature=1"] {
        ears.rig.erp.only_faults(fault);
        for arguments in [
            &["check"][..],
            &["dlq", "redrive", "--only", &letter],
            &[
                "verify",
                "--feed",
                "purchase_returns",
                "--from",
                "2026-01-01T00:00:00Z",
                "--to",
                "2100-01-01T00:00:00Z",
            ],
            &[
                "verify",
                "--feed",
                "return_outbounds",
                "--from",
                "2026-01-01T00:00:00Z",
                "--to",
                "2100-01-01T00:00:00Z",
            ],
            &[
                "backfill",
                "--feed",
                "return_outbounds",
                "--from",
                "2026-01-01T00:00:00Z",
                "--to",
                "2100-01-01T00:00:00Z",
            ],
        ] {
            let output = ears.rig.verb(arguments, b"");
            ears.said.output(&arguments.join(" "), &output);
        }
    }
    ears.rig.erp.only_faults("");
    wrong_configurations(&mut ears.rig, &mut ears.said);
    ears.said.hear("log", connector.log());
    assert_eq!(connector.terminate(PATIENCE).code(), Some(0));
    assert!(
        ears.said.who_said("CT-DOUBT").is_some() && ears.said.who_said("complete -F").is_some(),
        "what was said was looked at"
    );
    ears.nothing_was_said(10);
}

/// Gives the rig every kind of secret there is; returns them, and the forms in which they travel.
fn configure(rig: &mut Rig, flagship: &str, enterprise: &str, address: &str) -> Vec<String> {
    let token = "listener-token-2f7c";
    let auth = "registry-user:registry-pass-99aa";
    let kafka = "kafka-pass-31e8";
    let key = "key-pass-77b0";
    let files =
        [("token", token), ("auth", auth), ("kafka", kafka), ("key", key)].map(|(name, secret)| {
            let file = rig.path(name);
            fs::write(&file, secret).unwrap();
            file.display().to_string()
        });
    let [token_file, auth_file, kafka_file, key_file] = files;
    let through = |url: &str, proxy: &str| url.replace(address, proxy);
    let (one, other) =
        (through(rig.erp.flagship_url(), flagship), through(rig.erp.enterprise_url(), enterprise));
    rig.config
        .set("http", "token_file", token_file)
        .set("schema_registry", "auth_file", auth_file)
        .set("kafka", "sasl_password_file", kafka_file)
        .set("kafka", "ssl_key_password_file", key_file)
        .set("erp.flagship", "url", one)
        .set("erp.enterprise", "url", other)
        .set("log", "level", "trace")
        .set("log", "format", "json");
    let (secret, salt) = rig.erp.flagship_secret().split_once(':').unwrap();
    let mut secrets: Vec<String> =
        [token, "registry-pass-99aa", kafka, key, secret, salt, rig.erp.enterprise_secret()]
            .map(str::to_owned)
            .to_vec();
    secrets.push(BASE64.encode(auth.as_bytes()));
    secrets
}

/// Every verb that is not `run`, each with the exit code it ends with where it must be one.
fn good_verbs(rig: &Rig, said: &mut Said, letter: &str) {
    let line = [json_bytes(&command("CT-0", "again")), b"\n{\n".to_vec()].concat();
    let ago = |seconds: u64| {
        Timestamp::now().minus(Duration::from_secs(seconds)).floor_second().to_string()
    };
    let (from, to) = (ago(9 * 86_400), ago(5));
    let period = |verb: &[&'static str], feed: &'static str| -> Vec<String> {
        verb.iter()
            .copied()
            .chain(["--feed", feed, "--from", &from, "--to", &to])
            .map(str::to_owned)
            .collect()
    };
    let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
    let ask = |arguments: &[String], input: &[u8], code: Option<i32>| {
        let output = rig.verb(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), input);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            code.is_none_or(|code| output.status.code() == Some(code)),
            "{arguments:?}: {}: {errors}",
            output.status
        );
        // A verb that only complained about its arguments would prove nothing.
        assert!(code.is_some() || output.status.code() != Some(2), "{arguments:?}: {errors}");
        output
    };
    let asking = [
        (words("check"), &b""[..], None),
        (words("check --json"), b"", None),
        (words("check --acls"), b"", Some(0)),
        (words("config print"), b"", Some(0)),
        (words("config print --json"), b"", Some(0)),
        (words("config print --changed"), b"", Some(0)),
        (words("config check"), b"", Some(0)),
        (words("config schema"), b"", Some(0)),
        (words("config reference"), b"", Some(0)),
        (words("schemas print"), b"", Some(0)),
        (words("schemas print CommandResult"), b"", Some(0)),
        (words("schemas check"), b"", Some(0)),
        (words("schemas register"), b"", Some(0)),
        (words("topics"), b"", Some(0)),
        (words("journal declare-lost"), b"", Some(2)),
        (words("commands list --json"), b"", Some(0)),
        (words("commands list --outcome CREATED"), b"", Some(0)),
        (words("commands show CT-0 c"), b"", Some(0)),
        (words("commands show CT-DOUBT c --json"), b"", Some(0)),
        (words("commands resolve CT-DOUBT c --order CK-THAT-IS-NONE"), b"", Some(1)),
        (words("commands replay --from-time 1h --dry-run"), b"", Some(0)),
        (words("dlq list"), b"", Some(0)),
        (words("dlq list --json"), b"", Some(0)),
        (vec!["dlq".to_owned(), "show".to_owned(), letter.to_owned()], b"", Some(0)),
        (words("dlq redrive --dry-run"), b"", None),
        (words("dlq redrive --feeds"), b"", None),
        (words("feeds show"), b"", Some(0)),
        (words("feeds show --json"), b"", Some(0)),
        (period(&["backfill", "--dry-run"], "return_outbounds"), b"", Some(0)),
        (period(&["verify"], "purchase_returns"), b"", None),
        (period(&["verify"], "return_outbounds"), b"", Some(0)),
        (words("tail --results --from-beginning"), b"", Some(0)),
        (words("tail --dead-letters --from-beginning"), b"", Some(0)),
        (words("tail --from-beginning"), b"", Some(0)),
        (words("completions bash"), b"", Some(0)),
        (words("man"), b"", Some(0)),
        (words("--help"), b"", Some(0)),
    ];
    let (queue, heard) = (Mutex::new(asking.iter()), Mutex::new(std::mem::take(said)));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let Some((arguments, input, code)) = queue.lock().unwrap().next() else {
                        return;
                    };
                    let output = ask(arguments, input, *code);
                    heard.lock().unwrap().output(&arguments.join(" "), &output);
                }
            });
        }
    });
    *said = heard.into_inner().unwrap();
    for (arguments, input, code) in [
        (words("commands pause"), &b""[..], Some(0)),
        (words("commands resume"), b"", Some(0)),
        (words("feeds pause --feed purchase_returns"), b"", Some(0)),
        (words("feeds resume --feed purchase_returns"), b"", Some(0)),
        (period(&["backfill"], "purchase_returns"), b"", Some(0)),
        (
            vec![
                "feeds".to_owned(),
                "set-watermark".to_owned(),
                "--feed".to_owned(),
                "purchase_returns".to_owned(),
                "--to".to_owned(),
                from.clone(),
            ],
            b"",
            Some(0),
        ),
        (words("send"), &line, Some(1)),
    ] {
        said.output(&arguments.join(" "), &ask(&arguments, input, code));
    }
    // A secret that comes by environment is masked as well.
    let mut shown = rig.verb_command(&["config", "print"]);
    let output = connector::finish(
        shown.env("WDT__ERP__FLAGSHIP__SECRET", "by-environment-5c:salt-5c"),
        b"",
        PATIENCE,
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("secret") && !text.contains("by-environment") && !text.contains("salt-5c"),
        "{text}"
    );
}

/// Configurations with something wrong: named without being quoted.
fn wrong_configurations(rig: &mut Rig, said: &mut Said) {
    let good = rig.config.clone();
    // Each is refused or fails with a sentence that quotes what is wrong.
    for (section, key, value) in [
        ("erp.flagship", "secret", "s3cret-in-file:salt-in-file"),
        ("kafka", "sasl_password", "pass-in-file-1"),
        ("schema_registry", "auth", "user:pass-in-file-2"),
        ("http", "token", "token-in-file-3"),
        ("erp.flagship", "url", "http://user:pass-in-url@127.0.0.1/"),
        ("erp.flagship", "proxy", "http://user:pass-in-proxy@127.0.0.1:1/"),
        ("schema_registry", "url", "http://user:pass-in-url@127.0.0.1/"),
        ("telemetry", "otlp_endpoint", "http://user:pass-in-url@127.0.0.1/"),
    ] {
        rig.config = good.clone();
        rig.config.set(section, key, value);
        let output = rig.verb(&["run"], b"");
        assert_eq!(output.status.code(), Some(2), "{section}.{key}");
        let mut alone = Said::default();
        alone.output(key, &output);
        let secret = value.split("://user:").last().unwrap().split(['@', ':']).next().unwrap();
        assert_eq!(
            alone.who_said(secret).or(alone.who_said("-in-file")),
            None,
            "{section}.{key} is quoted"
        );
        said.output(key, &output);
    }
    rig.config = good.clone();
    rig.config
        .kafka_property("security.protocol", "SASL_PLAINTEXT")
        .kafka_property("sasl.mechanisms", "PLAIN")
        .kafka_property("sasl.username", "u");
    said.output("check with a password the broker does not ask for", &rig.verb(&["check"], b""));
    rig.config = good.clone();
    rig.config.set("kafka", "bootstrap_servers", format!("127.0.0.1:{}", free_port()));
    said.output("check without a broker", &rig.verb(&["check"], b""));
    rig.config = good;
}
