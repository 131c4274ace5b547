//! Secrets stay where they are: after every verb and fault, nothing that was said or written holds one.

use std::{collections::BTreeSet, fs, process::Output};

use data_encoding::BASE64;

use crate::{
    kit::{
        commands::{command, json_bytes},
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
            let headers = record.headers.iter().flat_map(|(key, value)| [key.as_bytes(), value]).flatten().copied();
            let bytes = record.key.iter().chain(&record.value).flatten().copied().chain(headers).collect::<Vec<u8>>();
            self.hear(topic, bytes);
        }
    }

    /// Who said it, if anybody did.
    fn who_said(&self, secret: &str) -> Option<&str> {
        let found = self.0.iter().find(|(_, what)| what.windows(secret.len()).any(|window| window == secret.as_bytes()));
        found.map(|(who, _)| who.as_str())
    }
}

/// The values of `sign` in requests that were listened in on.
fn signatures(heard: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(heard);
    let values = text.split("sign=").skip(1).map(|rest| rest.chars().take_while(char::is_ascii_hexdigit).collect::<String>());
    values.filter(|value| value.len() == 32).collect()
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

#[test]
fn no_secret_is_said_by_any_verb_or_fault() {
    let mut rig = Rig::new("secrets").commands("json").purchase_returns().return_outbounds("enterprise").with_registry();
    let flagship = Proxy::to(rig.erp.address());
    let enterprise = Proxy::to(rig.erp.address());
    flagship.listen_in();
    enterprise.listen_in();
    let address = rig.erp.address().to_owned();
    let secrets = configure(&mut rig, &flagship.address(), &enterprise.address(), &address);
    let mut said = Said::default();

    rig.erp.take_anything();
    let numbers = rig.erp.seed(Kind::Returns, 3);
    rig.erp.modify(Kind::Returns, &numbers[0], &serde_json::json!({"set": {"modified": "not a time"}}));
    rig.erp.seed(Kind::EnterpriseOutbounds, 2);
    for fault in FAULTS {
        rig.erp.faults(&format!("createOrder:{fault}=1x"));
    }
    let connector = rig.start();
    let sender = Sender::new();
    for number in 0..20 {
        let return_no = format!("CT-{number}");
        sender.send(&rig.topics.commands, Some(return_no.as_bytes()), Some(&json_bytes(&command(&return_no, "c"))), &[]);
    }
    sender.send(&rig.topics.commands, Some(b"CT-BAD"), Some(b"{\"return_no\": \"CT-BAD\", \"sign\": 1}"), &[]);
    sender.flush();
    Reader::new(&rig.topics.results).at_least(21, PATIENCE);
    Reader::new(&rig.topics.purchase_returns).at_least(2, PATIENCE);
    Reader::new(&rig.topics.return_outbounds).at_least(2, PATIENCE);
    // The account refused, the ERP gone.
    for fault in ["signature", "sid", "clock"] {
        rig.erp.faults(&format!("all:{fault}=2x"));
        until(&format!("{fault} to be met"), PATIENCE, || (!rig.erp.armed(fault)).then_some(()));
    }
    flagship.refuse(true);
    flagship.cut();
    // As many as open the circuit by one failed call each: a call that breaks off is asked for, not made again.
    for number in 0..LAST {
        let return_no = format!("CT-LAST-{number}");
        sender.send(&rig.topics.commands, Some(return_no.as_bytes()), Some(&json_bytes(&command(&return_no, "c"))), &[]);
    }
    sender.flush();
    connector.wait_log("consumption pauses", PATIENCE);
    flagship.refuse(false);
    Reader::new(&rig.topics.results).at_least(21 + LAST, PATIENCE);
    for path in ["/", "/status", "/metrics", "/healthz", "/readyz", "/status?token=x"] {
        said.hear(path, http::get(&connector.url(path)).unwrap().body);
    }
    said.hear("log", connector.log());
    drop(connector);

    verbs(&mut rig, &mut said);
    for (_, topic) in rig.topics.entries() {
        said.topic(topic);
    }
    let signatures: BTreeSet<String> = signatures(&flagship.heard()).into_iter().chain(signatures(&enterprise.heard())).collect();
    assert!(signatures.len() > 30, "only {} signatures were heard", signatures.len());
    for secret in secrets.iter().chain(&signatures) {
        assert_eq!(said.who_said(secret), None, "{secret} was said");
    }
    assert!(said.who_said("CT-19").is_some() && said.who_said("librdkafka").is_some(), "what was said was looked at");
}

/// Gives the rig every kind of secret there is; returns them, and the forms in which they travel.
fn configure(rig: &mut Rig, flagship: &str, enterprise: &str, address: &str) -> Vec<String> {
    let token = "listener-token-2f7c";
    let auth = "registry-user:registry-pass-99aa";
    let kafka = "kafka-pass-31e8";
    let key = "key-pass-77b0";
    let files = [("token", token), ("auth", auth), ("kafka", kafka), ("key", key)].map(|(name, secret)| {
        let file = rig.path(name);
        fs::write(&file, secret).unwrap();
        file.display().to_string()
    });
    let [token_file, auth_file, kafka_file, key_file] = files;
    let through = |url: &str, proxy: &str| url.replace(address, proxy);
    let (one, other) = (through(rig.erp.flagship_url(), flagship), through(rig.erp.enterprise_url(), enterprise));
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
        [token, "registry-pass-99aa", kafka, key, secret, salt, rig.erp.enterprise_secret()].map(str::to_owned).to_vec();
    secrets.push(BASE64.encode(auth.as_bytes()));
    secrets
}

/// Every verb, good and with something wrong.
fn verbs(rig: &mut Rig, said: &mut Said) {
    let line = [json_bytes(&command("CT-0", "again")), b"\n{\n".to_vec()].concat();
    for (arguments, input) in [
        (&["check"][..], &b""[..]),
        (&["check", "--acls"], b""),
        (&["topics"], b""),
        (&["topics", "journal-lost"], b""),
        (&["send"], &line),
        (&["tail", "--results", "--from-beginning"], b""),
        (&["tail", "--dead-letters", "--from-beginning"], b""),
        (&["tail", "--from-beginning"], b""),
        (&["--help"], b""),
    ] {
        said.output(&arguments.join(" "), &rig.verb(arguments, input));
    }
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
    ] {
        rig.config = good.clone();
        rig.config.set(section, key, value);
        let output = rig.verb(&["run"], b"");
        assert_eq!(output.status.code(), Some(2), "{section}.{key}");
        let mut alone = Said::default();
        alone.output(key, &output);
        let secret = value.split("://user:").last().unwrap().split(['@', ':']).next().unwrap();
        assert_eq!(alone.who_said(secret).or(alone.who_said("-in-file")), None, "{section}.{key} is quoted");
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
