//! Configuration: a TOML file and the environment, over compiled-in defaults, become checked
//! [`Settings`].
//!
//! ```text
//! defaults, file, environment ─▶ document (flat keys, each with its place) ─▶ reader (one check per key) ─▶ sections ─▶ timing ─▶ Settings
//! ```
//!
//! Every mistake is reported with its line and column, not only the first one.

mod document;
mod effective;
mod keys;
mod properties;
mod reader;
mod reference;
mod sections;
mod timing;
mod values;

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::Path, path::PathBuf, time::Duration};

use secrecy::SecretString;

use crate::clock::Timestamp;

pub(crate) use document::Place;
pub(crate) use effective::{Effective, Shown};
pub(crate) use reader::{Mistake, read_secret};
pub(crate) use reference::{markdown, schema};
pub(crate) use timing::CLOCK_ERROR;
pub(crate) use values::{duration_text, parse_duration, parse_instant};

use document::Document;

/// The defaults, every key documented: the text of `deploy/connector.default.toml`.
pub(crate) const DEFAULTS: &str = include_str!("../../deploy/connector.default.toml");

/// What [`load`] gives: the settings, and what the operator should hear about them.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub settings: Settings,
    /// One sentence each, for the caller to print.
    pub warnings: Vec<String>,
}

/// Reads the configuration file (none: the defaults alone), with the environment's
/// `WDT__SECTION__KEY` over it.
///
/// # Errors
/// Every mistake there is, in one sentence each; the caller prints them and exits with code 2.
pub(crate) fn load(
    path: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Loaded, Vec<Mistake>> {
    sections::settings(document(path, env)?)
}

/// Every value that is in force and where it comes from, mistakes and warnings besides.
///
/// # Errors
/// Where the file cannot be read or is no TOML.
pub(crate) fn inspect(
    path: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Effective, Vec<Mistake>> {
    Ok(sections::inspect(document(path, env)?))
}

fn document(
    path: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Document, Vec<Mistake>> {
    let Some(path) = path else { return Document::assemble(None, env) };
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        vec![Mistake::general(format!("the configuration file {name} cannot be read: {error}; name a readable TOML file with --config"))]
    })?;
    Document::assemble(Some((&name, &text)), env)
}

/// The same for a TOML text that is already at hand.
///
/// # Errors
/// As [`load`].
pub fn from_toml(
    text: &str,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Loaded, Vec<Mistake>> {
    sections::settings(Document::assemble(Some(("the configuration", text)), env)?)
}

impl Settings {
    /// Whether anything is there for `run` to do.
    ///
    /// # Errors
    /// The mistake that no pipeline is enabled.
    pub fn require_pipeline(&self) -> Result<(), Mistake> {
        if self.commands.enabled || Feed::ALL.iter().any(|feed| self.feed(*feed).enabled) {
            return Ok(());
        }
        Err(Mistake::general(
            "no pipeline is enabled; set commands.enabled, feeds.purchase_returns.enabled or feeds.return_outbounds.enabled to true"
                .to_owned(),
        ))
    }

    /// The section of a feed.
    #[must_use]
    pub fn feed(&self, feed: Feed) -> &FeedSettings {
        match feed {
            Feed::PurchaseReturns => &self.purchase_returns,
            Feed::ReturnOutbounds => &self.return_outbounds,
        }
    }
}

/// Everything the program was told, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Time relations that do not hold are warnings instead of errors.
    pub allow_unsafe_timing: bool,
    /// Folder of this instance's disposable caches: the configured one, then
    /// `application_id.instance_ordinal`.
    pub cache_dir: PathBuf,
    /// `[kafka]`
    pub kafka: KafkaSettings,
    /// `[schema_registry]`; `None` without a `url`: single-object encoding.
    pub schema_registry: Option<RegistrySettings>,
    /// `[topics]`
    pub topics: Topics,
    /// `erp.max_visibility_lag`; a feed may have its own.
    pub max_visibility_lag: Duration,
    /// `[erp.flagship]`; `None` when no `url` is given.
    pub flagship: Option<FlagshipSettings>,
    /// `[erp.enterprise]`; `None` when no `url` is given.
    pub enterprise: Option<EnterpriseSettings>,
    /// `[quota]`
    pub quota: QuotaSettings,
    /// `[commands]`
    pub commands: CommandSettings,
    /// `[feeds.purchase_returns]`
    pub purchase_returns: FeedSettings,
    /// `[feeds.return_outbounds]`
    pub return_outbounds: FeedSettings,
    /// `[http]`
    pub http: HttpSettings,
    /// `[log]`
    pub log: LogSettings,
    /// `[telemetry]`; `None` without an `otlp_endpoint`: no traces.
    pub traces: Option<TraceSettings>,
    /// The files that hold secrets, by the secret's key (`erp.flagship.secret`…): what is read
    /// again when they change.
    pub secret_files: BTreeMap<String, PathBuf>,
}

/// `[kafka]`
#[derive(Clone)]
pub struct KafkaSettings {
    /// `host:port,host:port`
    pub bootstrap_servers: String,
    /// Prefix of group ids, transactional ids and client ids.
    pub application_id: String,
    /// Stable ordinal of this instance (a StatefulSet's pod number).
    pub instance_ordinal: u32,
    /// Any other librdkafka option; those that correctness rests on were refused.
    pub properties: BTreeMap<String, String>,
    /// `sasl.password`, from `sasl_password_file` or the environment.
    pub sasl_password: Option<SecretString>,
    /// `ssl.key.password`, from `ssl_key_password_file` or the environment.
    pub ssl_key_password: Option<SecretString>,
}

impl KafkaSettings {
    /// What this process is called: `application_id.instance_ordinal`.
    #[must_use]
    pub fn instance_name(&self) -> String {
        format!("{}.{}", self.application_id, self.instance_ordinal)
    }
}

impl fmt::Debug for KafkaSettings {
    /// Values of free properties are left out: some of them are secrets.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("KafkaSettings")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("application_id", &self.application_id)
            .field("instance_ordinal", &self.instance_ordinal)
            .field("properties", &self.properties.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// `[schema_registry]`
#[derive(Clone, Debug)]
pub struct RegistrySettings {
    /// Base address; the Confluent API's paths are appended.
    pub url: String,
    /// `user:password` for HTTP basic authentication.
    pub auth: Option<SecretString>,
    /// Register schemas at start, or only verify that they are there.
    pub register: bool,
    /// A PEM file of additional certificate authorities, for an https address.
    pub ca_file: Option<PathBuf>,
}

/// `[telemetry]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSettings {
    /// Where traces go by OTLP.
    pub endpoint: String,
    /// A PEM file of additional certificate authorities, for an https address.
    pub ca_file: Option<PathBuf>,
}

/// `[topics]`: the names of all topics.
#[derive(Clone, Debug)]
pub struct Topics {
    pub commands: String,
    pub results: String,
    pub commands_dlq: String,
    pub journal: String,
    pub purchase_returns: String,
    pub return_outbounds: String,
    pub feeds_state: String,
    pub feeds_dlq: String,
    /// What an operator decided for all instances.
    pub control: String,
}

/// What both editions' connections share.
#[derive(Clone)]
pub struct ErpConnection {
    /// Endpoint (flagship) or base address (enterprise).
    pub url: String,
    /// For DNS, TCP and TLS together.
    pub connect_timeout: Duration,
    /// A PEM file of additional certificate authorities.
    pub ca_file: Option<PathBuf>,
    /// `http://host:port`; no proxy is used unless configured.
    pub proxy: Option<String>,
}

impl fmt::Debug for ErpConnection {
    /// The proxy is left out: its address may hold a password.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ErpConnection")
            .field("url", &self.url)
            .field("connect_timeout", &self.connect_timeout)
            .field("ca_file", &self.ca_file)
            .finish_non_exhaustive()
    }
}

/// `[erp.flagship]`
#[derive(Clone, Debug)]
pub struct FlagshipSettings {
    pub connection: ErpConnection,
    pub sid: String,
    /// The appkey.
    pub key: String,
    /// `secret:salt`, split at the first colon.
    pub secret: SecretString,
    /// Parts of texts by which `createOrder` rejects for good, besides those that the connector
    /// knows.
    pub rejected_texts: Vec<String>,
}

/// `[erp.enterprise]`
#[derive(Clone, Debug)]
pub struct EnterpriseSettings {
    pub connection: ErpConnection,
    pub sid: String,
    pub appkey: String,
    pub appsecret: SecretString,
}

/// What one budget is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaScope {
    /// Each call of an appkey has a budget of its own, as the ERP counts (`docs/erp.md#quotas`).
    Call,
    /// All calls of an appkey share one: the cautious reading.
    Account,
}

/// `[quota]`
#[derive(Clone, Copy, Debug)]
pub struct QuotaSettings {
    pub scope: QuotaScope,
    /// Per budget.
    pub calls_per_minute: u32,
    pub burst: u32,
    /// The part of rate, burst and concurrent calls that this deployment may use, 0.01 to 1.
    pub share: f64,
    /// Calls on the wire at once, per appkey.
    pub max_concurrent_calls: u32,
}

/// How values of the commands topic are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandFormat {
    Avro,
    Json,
}

/// Which partitioner the senders of commands use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partitioner {
    /// Java clients.
    Murmur2,
    /// librdkafka's default.
    Crc32,
    /// Not checked, at the operator's own risk.
    Any,
}

impl Partitioner {
    /// Its name in the configuration and in the journal.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Murmur2 => "murmur2",
            Self::Crc32 => "crc32",
            Self::Any => "any",
        }
    }
}

/// `[commands]`
#[derive(Clone, Debug)]
pub struct CommandSettings {
    pub enabled: bool,
    pub format: CommandFormat,
    pub partitioner: Partitioner,
    /// Calls on the wire at once.
    pub max_in_flight: usize,
    pub call_timeout: Duration,
    pub intent_ttl: Duration,
    pub apply_grace: Duration,
    pub lookup_interval: Duration,
    pub lookup_timeout: Duration,
    pub max_attempts: u32,
    pub max_process_pause: Duration,
    pub max_apply_delay: Duration,
    pub dedup_window: Duration,
    pub drain_timeout: Duration,
    /// How long a command whose return is not approved yet is sent again; zero: it is `REJECTED` at
    /// once.
    pub unapproved_retry_timeout: Duration,
}

/// Which product line answers a feed's query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Edition {
    Flagship,
    Enterprise,
}

impl Edition {
    /// The word for configuration, metrics, events and state.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Flagship => "flagship",
            Self::Enterprise => "enterprise",
        }
    }
}

/// One stream of changes from one ERP query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Feed {
    PurchaseReturns,
    ReturnOutbounds,
}

impl Feed {
    /// Both feeds; the position is the partition of the feed in `wdt.feeds.state`.
    pub const ALL: [Self; 2] = [Self::PurchaseReturns, Self::ReturnOutbounds];

    /// `purchase_returns` or `return_outbounds`, as in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PurchaseReturns => "purchase_returns",
            Self::ReturnOutbounds => "return_outbounds",
        }
    }

    /// The partition of `wdt.feeds.state` that holds this feed.
    #[must_use]
    pub fn partition(self) -> i32 {
        match self {
            Self::PurchaseReturns => 0,
            Self::ReturnOutbounds => 1,
        }
    }
}

/// `[feeds.*]`
#[derive(Clone, Debug)]
pub struct FeedSettings {
    pub enabled: bool,
    /// Always flagship for `purchase_returns`.
    pub edition: Edition,
    /// Records modified before this instant are not read. Required where the feed is enabled.
    pub start_at: Timestamp,
    pub poll_interval: Duration,
    pub safety_lag: Duration,
    pub page_size: u32,
    /// A window aims at no more pages than this.
    pub max_pages_per_window: u32,
    /// The feed's own, or `erp.max_visibility_lag`.
    pub max_visibility_lag: Duration,
    pub late_pass: LatePass,
    /// Used by the enterprise edition only.
    pub shipped_pass: ShippedPass,
    pub filters: Filters,
}

/// `late_pass = { interval, lag }`
#[derive(Clone, Copy, Debug)]
pub struct LatePass {
    /// Time between two late passes.
    pub interval: Duration,
    /// How far behind now a window of the late pass ends.
    pub lag: Duration,
}

/// `shipped_pass = { interval, older_interval }`
#[derive(Clone, Copy, Debug)]
pub struct ShippedPass {
    /// Time between two reads of the orders shipped lately.
    pub interval: Duration,
    /// The same for those shipped before, and between two measurements of the window rule.
    pub older_interval: Duration,
}

impl Default for ShippedPass {
    /// For feeds that have no such pass; the same as in the default file.
    fn default() -> Self {
        Self { interval: Duration::from_secs(1_800), older_interval: Duration::from_secs(86_400) }
    }
}

/// `filters = { warehouse_no, provider_no, status }`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    pub warehouse_no: Option<String>,
    pub provider_no: Option<String>,
    pub status: Option<String>,
}

/// `[http]`
#[derive(Clone, Debug)]
pub struct HttpSettings {
    pub listen: SocketAddr,
    /// Required when `listen` is not a loopback address.
    pub token: Option<SecretString>,
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct LogSettings {
    pub format: LogFormat,
    /// A filter of `tracing-subscriber`: `info`, `wdt_connector::sink=debug,info`…
    pub level: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Human,
    Json,
}

#[cfg(test)]
mod tests;
