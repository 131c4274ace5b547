//! One test's whole surroundings: topics, ERP, configuration, and the connector on them.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
    sync::OnceLock,
    time::Duration,
};

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
};
use serde_json::json;
use wdt_connector::testing::{
    clock::Timestamp,
    config,
    schema::{Codec, CommandResult, DecodeFault, JournalEntry, Subject},
};

use super::{
    commands,
    config::Config,
    connector::{self, Connector},
    erp::Erp,
    records::{self, Reader, Record, Sender},
    topics::TopicNames,
    unique, wait,
};
use crate::parts::{broker, free_port, guard::Folder, registry};

/// How long a scenario may take to come to what it waits for, on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Everything one test needs; nothing of it is shared with another test but the broker and the
/// registry.
pub struct Rig {
    /// Prefix of all names.
    pub application_id: String,
    pub topics: TopicNames,
    /// Change it before [`Self::start`]; each start writes it anew.
    pub config: Config,
    pub erp: Erp,
    /// Where the test's own clients find the broker.
    pub broker: ClientConfig,
    folder: Folder,
    /// Whether values go through the schema registry.
    framed: bool,
    codec: OnceLock<Codec>,
}

impl Rig {
    /// Topics with four partitions, an ERP of its own, a configuration with neither pipeline
    /// enabled, small times, and a quota that does not matter.
    pub fn new(what: &str) -> Self {
        Self::with_partitions(what, 4)
    }

    /// The same with another number of partitions.
    pub fn with_partitions(what: &str, partitions: i32) -> Self {
        let rig = Self::bare(what);
        rig.topics.create(partitions);
        rig
    }

    /// The same without creating any topic.
    pub fn bare(what: &str) -> Self {
        Self::around(what, Erp::start())
    }

    /// The same, on an ERP that was started some other way.
    pub fn around(what: &str, erp: Erp) -> Self {
        let application_id = unique(what);
        let topics = TopicNames::under(&application_id);
        let folder = Folder::new(what);
        let config = base(&application_id, broker().bootstrap(), &topics, &erp, &folder);
        Self {
            application_id,
            topics,
            config,
            erp,
            broker: broker().client(),
            folder,
            framed: false,
            codec: OnceLock::new(),
        }
    }

    /// The same on another broker than the shared one: the connector comes through `bootstrap`, the
    /// test's own clients through `broker`; topics have `partitions` partitions.
    pub fn on(what: &str, bootstrap: &str, broker: ClientConfig, partitions: i32) -> Self {
        let rig = Self::bare_on(what, bootstrap, broker);
        rig.topics.create_at(&rig.broker, partitions);
        rig
    }

    /// The same without creating any topic.
    pub fn bare_on(what: &str, bootstrap: &str, broker: ClientConfig) -> Self {
        let application_id = unique(what);
        let topics = TopicNames::under(&application_id);
        let folder = Folder::new(what);
        let erp = Erp::start();
        let config = base(&application_id, bootstrap, &topics, &erp, &folder);
        Self {
            application_id,
            topics,
            config,
            erp,
            broker,
            folder,
            framed: false,
            codec: OnceLock::new(),
        }
    }

    /// Enables the command pipeline; `format` is `avro` or `json`.
    pub fn commands(mut self, format: &str) -> Self {
        self.config.set("commands", "enabled", true).set("commands", "format", format);
        self
    }

    /// Enables the feed of purchase returns.
    pub fn purchase_returns(mut self) -> Self {
        feed(&mut self.config, "feeds.purchase_returns");
        self
    }

    /// Enables the feed of outbound orders from one edition: `flagship` or `enterprise`.
    pub fn return_outbounds(mut self, edition: &str) -> Self {
        feed(&mut self.config, "feeds.return_outbounds");
        self.config.set("feeds.return_outbounds", "edition", edition);
        if edition == "enterprise" {
            self.config.set("feeds.return_outbounds", "page_size", 30);
        }
        self
    }

    /// Uses the schema registry.
    pub fn with_registry(mut self) -> Self {
        self.config.set("schema_registry", "url", registry().url());
        self.framed = true;
        self
    }

    /// A path in the test's own folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes the configuration as it is now; returns the file and the listener's port.
    pub fn write_config(&self) -> (PathBuf, u16) {
        let port = free_port();
        let mut config = self.config.clone();
        config.set("http", "listen", format!("127.0.0.1:{port}"));
        // One file a start: a process that was started just before has perhaps not read its own
        // yet.
        let file = self.path(&format!("connector-{port}.toml"));
        fs::write(&file, config.text()).expect("a temporary file");
        (file, port)
    }

    /// Starts `run` and waits until it is ready.
    pub fn start(&self) -> Connector {
        self.spawn().ready()
    }

    /// Starts `run` without waiting.
    pub fn spawn(&self) -> Connector {
        self.spawn_with(&[])
    }

    /// Starts `run` with these variables in its environment, without waiting.
    pub fn spawn_with(&self, variables: &[(&str, &str)]) -> Connector {
        self.spawn_logged(variables, "connector.log")
    }

    /// The same with a log of another name: several instances have one each.
    pub fn spawn_logged(&self, variables: &[(&str, &str)], log: &str) -> Connector {
        let (file, port) = self.write_config();
        let mut command = connector::command(&file, &["run"]);
        command.envs(variables.iter().copied());
        // Not in the folder of the secrets: that one is watched for changes, and every line would
        // wake the watcher.
        let logs = self.path("logs");
        fs::create_dir_all(&logs).expect("a temporary folder");
        Connector::spawn_command(command, port, &logs.join(log))
    }

    /// Runs another verb of the program to its end.
    pub fn verb(&self, arguments: &[&str], input: &[u8]) -> Output {
        let (file, _) = self.write_config();
        connector::verb(&file, arguments, input, PATIENCE)
    }

    /// Exit code of a verb, and its stdout and stderr as text.
    pub fn said(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.verb(arguments, b"");
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        (output.status.code(), text)
    }

    /// What a verb says that ends with this exit code.
    pub fn ran(&self, code: i32, arguments: &[&str]) -> String {
        let (found, said) = self.said(arguments);
        assert_eq!(found, Some(code), "{arguments:?}: {said}");
        said
    }

    /// The command line of another verb, to be started by the caller.
    pub fn verb_command(&self, arguments: &[&str]) -> Command {
        let (file, _) = self.write_config();
        connector::command(&file, arguments)
    }

    /// The codec that reads this rig's values.
    pub fn codec(&self) -> &Codec {
        self.codec.get_or_init(|| {
            if !self.framed {
                return Codec::single_object();
            }
            let settings = config::RegistrySettings {
                url: registry().url().to_owned(),
                auth: None,
                register: true,
                ca_file: None,
            };
            wait(Codec::connect(Some(&settings), &self.settings_topics(), &[Subject::Command]))
                .expect("the registry answers")
        })
    }

    fn settings_topics(&self) -> config::Topics {
        let names = self.topics.clone();
        config::Topics {
            commands: names.commands,
            results: names.results,
            commands_dlq: names.commands_dlq,
            journal: names.journal,
            purchase_returns: names.purchase_returns,
            return_outbounds: names.return_outbounds,
            feeds_state: names.feeds_state,
            feeds_dlq: names.feeds_dlq,
            control: names.control,
        }
    }

    /// Reads with the codec; a schema id it meets for the first time is learnt.
    fn decode<T>(
        &self,
        record: &Record,
        read: impl Fn(&Codec, &[u8]) -> Result<T, DecodeFault>,
    ) -> T {
        let bytes = record.value.as_deref().unwrap_or_else(|| panic!("a tombstone: {record:?}"));
        assert_eq!(
            bytes.first(),
            Some(if self.framed { &0 } else { &0xc3 }),
            "the framing of {record:?}"
        );
        let codec = self.codec();
        match read(codec, bytes) {
            Err(DecodeFault::UnknownSchemaId(id)) => {
                wait(codec.learn(id)).unwrap_or_else(|fault| panic!("schema id {id}: {fault}"));
                read(codec, bytes)
            }
            answer => answer,
        }
        .unwrap_or_else(|fault| panic!("{fault}: {record:?}"))
    }

    /// A record of the results topic.
    pub fn result(&self, record: &Record) -> CommandResult {
        self.decode(record, Codec::decode_result)
    }

    /// A record of the journal.
    pub fn journal(&self, record: &Record) -> JournalEntry {
        self.decode(record, Codec::decode_journal)
    }

    /// Any of our Avro values as JSON.
    pub fn json(&self, record: &Record) -> serde_json::Value {
        self.decode(record, Codec::to_json)
    }

    /// Sends the commands in Avro, keyed by their return's number, and waits until they are
    /// written.
    pub fn send(&self, all: &[wdt_connector::testing::schema::CreateReturnOutbound]) {
        let sender = Sender::with(self.broker.clone());
        for one in all {
            let bytes = self.codec().encode_command(one).expect("a command fits its schema");
            sender.send(&self.topics.commands, Some(one.return_no.as_bytes()), Some(&bytes), &[]);
        }
        sender.flush();
    }

    /// Sends them in JSON.
    pub fn send_json(&self, all: &[wdt_connector::testing::schema::CreateReturnOutbound]) {
        let sender = Sender::with(self.broker.clone());
        for one in all {
            sender.send(
                &self.topics.commands,
                Some(one.return_no.as_bytes()),
                Some(&commands::json_bytes(one)),
                &[],
            );
        }
        sender.flush();
    }

    /// Waits for `count` results and decodes everything there is then.
    pub fn results(&self, count: usize) -> Vec<CommandResult> {
        let mut reader = self.reader(&self.topics.results);
        reader.at_least(count, PATIENCE);
        reader.finish();
        reader.seen.iter().map(|record| self.result(record)).collect()
    }

    /// A reader of one of this rig's topics.
    pub fn reader(&self, topic: &str) -> Reader {
        Reader::with(self.broker.clone(), topic)
    }

    /// As `kafka-consumer-groups --reset-offsets` does for one partition of the commands; nobody
    /// may be a member.
    pub fn reset_offset(&self, partition: i32, offset: i64) {
        self.commit(partition, offset, "");
    }

    /// The same with metadata.
    pub fn commit(&self, partition: i32, offset: i64, metadata: &str) {
        let group = format!("{}.commands", self.application_id);
        let consumer: BaseConsumer =
            self.broker.clone().set("group.id", &group).create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        let mut element = list.add_partition(&self.topics.commands, partition);
        element.set_offset(Offset::Offset(offset)).expect("an offset");
        element.set_metadata(metadata);
        super::until("the reset", PATIENCE, || consumer.commit(&list, CommitMode::Sync).ok());
    }

    /// The sum of the offsets that are committed for the commands topic.
    pub fn committed_sum(&self) -> i64 {
        let group = format!("{}.commands", self.application_id);
        records::committed_at(self.broker.clone(), &group, &self.topics.commands)
            .iter()
            .map(|(_, offset)| offset)
            .sum()
    }

    /// Waits until the offsets committed for the commands topic add up to `count`.
    pub fn wait_committed(&self, count: i64) {
        super::until(&format!("committed offsets that add up to {count}"), PATIENCE, || {
            (self.committed_sum() >= count).then_some(())
        });
    }
}

/// What every test's configuration starts from.
fn base(
    application_id: &str,
    bootstrap: &str,
    topics: &TopicNames,
    erp: &Erp,
    folder: &Folder,
) -> Config {
    let mut config = Config::default();
    config
        .set("", "allow_unsafe_timing", true)
        .set("", "cache_dir", folder.join("cache").display().to_string())
        .set("kafka", "bootstrap_servers", bootstrap)
        .set("kafka", "application_id", application_id)
        .set("kafka", "instance_ordinal", 0)
        .kafka_property("session.timeout.ms", "6000")
        .kafka_property("heartbeat.interval.ms", "500")
        .set("quota", "calls_per_minute", 600_000)
        .set("quota", "burst", 10_000)
        .set("quota", "max_concurrent_calls", 256)
        .set("log", "level", "info,wdt_connector=debug");
    for (key, name) in topics.entries() {
        config.set("topics", key, name);
    }
    // Their sum 2 + 1 + 1 s still exceeds what this ERP and this machine are assumed to do: 1 + 1 +
    // 1 s.
    config.set("erp", "max_visibility_lag", "1s");
    for (key, span) in [
        ("call_timeout", "2s"),
        ("intent_ttl", "2s"),
        ("apply_grace", "1s"),
        ("lookup_interval", "1s"),
        ("lookup_timeout", "60s"),
        ("max_process_pause", "1s"),
        ("max_apply_delay", "1s"),
        ("drain_timeout", "5s"),
    ] {
        config.set("commands", key, span);
    }
    let secret = folder.join("flagship.secret");
    fs::write(&secret, erp.flagship_secret()).expect("a temporary file");
    config
        .set("erp.flagship", "url", erp.flagship_url())
        .set("erp.flagship", "sid", erp.flagship_sid())
        .set("erp.flagship", "key", erp.flagship_key())
        .set("erp.flagship", "secret_file", secret.display().to_string())
        .set("erp.flagship", "connect_timeout", "900ms");
    let secret = folder.join("enterprise.secret");
    fs::write(&secret, erp.enterprise_secret()).expect("a temporary file");
    config
        .set("erp.enterprise", "url", erp.enterprise_url())
        .set("erp.enterprise", "sid", erp.enterprise_sid())
        .set("erp.enterprise", "appkey", erp.enterprise_key())
        .set("erp.enterprise", "appsecret_file", secret.display().to_string())
        .set("erp.enterprise", "connect_timeout", "900ms");
    config
}

/// Small times for one feed; what was modified within [`FEED_REACH`] is read.
fn feed(config: &mut Config, section: &str) {
    let start = Timestamp::now().minus(FEED_REACH).floor_second();
    for (key, value) in [
        ("enabled", json!(true)),
        ("start_at", json!(start.to_string())),
        ("poll_interval", json!("300ms")),
        ("safety_lag", json!("1s")),
        ("max_visibility_lag", json!("500ms")),
        ("page_size", json!(100)),
    ] {
        config.set(section, key, value);
    }
    let late_pass = format!("{section}.late_pass");
    config.set(&late_pass, "interval", "5s").set(&late_pass, "lag", "3s");
}

/// How far back the feeds of the tests start reading; the simulator makes up records of the last
/// seven days.
const FEED_REACH: Duration = Duration::from_secs(8 * 24 * 3600);
