//! Section by section: keys → checked settings.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use secrecy::{ExposeSecret, SecretString};

use crate::clock::Timestamp;

use super::{
    CommandFormat, CommandSettings, Edition, Effective, EnterpriseSettings, ErpConnection, Feed,
    FeedSettings, Filters, FlagshipSettings, HttpSettings, KafkaSettings, LatePass, Loaded,
    LogFormat, LogSettings, Mistake, Partitioner, QuotaScope, QuotaSettings, RegistrySettings,
    Settings, ShippedPass, Topics, TraceSettings, document::Document, effective, keys::Kind,
    properties, reader::Reader, timing, values,
};

/// The enterprise edition's largest page.
const ENTERPRISE_PAGE: u32 = 30;

/// Checks everything; all mistakes or the settings.
pub(super) fn settings(document: Document) -> Result<Loaded, Vec<Mistake>> {
    let mut reader = Reader::new(document);
    let settings = read(&mut reader);
    conclude(reader, settings)
}

/// The same, with every value that is in force, right or wrong.
pub(super) fn inspect(document: Document) -> Effective {
    let mut reader = Reader::new(document);
    let settings = read(&mut reader);
    let values = effective::values(&reader, &settings);
    match conclude(reader, settings) {
        Ok(loaded) => Effective { values, warnings: loaded.warnings, mistakes: Vec::new() },
        Err(mistakes) => Effective { values, warnings: Vec::new(), mistakes },
    }
}

/// Every key there is, and what it takes: those that reading the defaults asks for.
pub(super) fn keys() -> BTreeMap<String, Kind> {
    let document = Document::assemble(None, std::iter::empty()).unwrap_or_default();
    let mut reader = Reader::new(document);
    read(&mut reader);
    reader.known().clone()
}

fn conclude(mut reader: Reader, mut settings: Settings) -> Result<Loaded, Vec<Mistake>> {
    let mut warnings = quota_warnings(&settings);
    warnings.extend(properties::unverified(&settings.kafka.properties));
    let unsafe_times = timing::violations(&settings);
    if settings.allow_unsafe_timing {
        warnings.extend(
            unsafe_times.into_iter().map(|mistake| format!("unsafe timing: {}", mistake.sentence)),
        );
    } else if reader.mistakes.is_empty() {
        // A value that could not be read stands in as something else: relations of it would be
        // noise.
        reader.mistakes.extend(unsafe_times.into_iter().map(|mistake| Mistake {
            sentence: format!(
                "{} (or set allow_unsafe_timing = true, for tests only)",
                mistake.sentence
            ),
            ..mistake
        }));
    } else {
        let wrong: Vec<String> =
            reader.mistakes.iter().map(|mistake| mistake.key.clone()).collect();
        reader
            .mistakes
            .extend(unsafe_times.into_iter().filter(|mistake| !touches(&mistake.sentence, &wrong)));
    }
    let instance = format!("{}.{}", settings.kafka.application_id, settings.kafka.instance_ordinal);
    settings.cache_dir.push(instance);
    let mistakes = reader.finish();
    if mistakes.is_empty() { Ok(Loaded { settings, warnings }) } else { Err(mistakes) }
}

/// Whether a relation speaks of a key whose value could not be read.
fn touches(sentence: &str, wrong: &[String]) -> bool {
    wrong
        .iter()
        .filter_map(|key| key.rsplit('.').next())
        .any(|name| !name.is_empty() && sentence.contains(name))
}

fn quota_warnings(settings: &Settings) -> Vec<String> {
    let QuotaSettings { calls_per_minute, burst, .. } = settings.quota;
    let most = calls_per_minute.saturating_add(burst);
    if most <= 60 {
        return Vec::new();
    }
    vec![format!(
        "quota.calls_per_minute + quota.burst = {calls_per_minute} + {burst} = {most} calls in the worst minute, and the ERP refuses the 61st; lower one of them unless your contract allows more"
    )]
}

fn read(reader: &mut Reader) -> Settings {
    let kafka = kafka(reader);
    let max_visibility_lag = reader.duration_or_zero("erp.max_visibility_lag");
    let settings = Settings {
        allow_unsafe_timing: reader.flag("allow_unsafe_timing"),
        cache_dir: cache_dir(reader),
        schema_registry: schema_registry(reader),
        topics: topics(reader),
        flagship: flagship(reader),
        enterprise: enterprise(reader),
        quota: QuotaSettings {
            scope: reader.choice(
                "quota.scope",
                &[("call", QuotaScope::Call), ("account", QuotaScope::Account)],
                QuotaScope::Call,
            ),
            calls_per_minute: reader.number("quota.calls_per_minute", 1..=10_000_000),
            burst: reader.number("quota.burst", 1..=10_000_000),
            share: reader.fraction("quota.share"),
            max_concurrent_calls: reader.number("quota.max_concurrent_calls", 1..=10_000),
        },
        commands: commands(reader),
        purchase_returns: feed(reader, Feed::PurchaseReturns, max_visibility_lag),
        return_outbounds: feed(reader, Feed::ReturnOutbounds, max_visibility_lag),
        max_visibility_lag,
        http: http(reader),
        log: log(reader),
        traces: traces(reader),
        secret_files: std::mem::take(&mut reader.secret_files),
        kafka,
    };
    accounts(reader, &settings);
    settings
}

fn kafka(reader: &mut Reader) -> KafkaSettings {
    let properties = properties::read(reader);
    KafkaSettings {
        bootstrap_servers: reader.text(
            "kafka.bootstrap_servers",
            "allowed are brokers as \"host:port,host:port\"",
            values::is_bootstrap,
        ),
        application_id: reader.text(
            "kafka.application_id",
            "allowed are 1 to 200 letters, digits, dots, hyphens and underscores",
            |text| values::is_kafka_name(text) && text.len() <= 200,
        ),
        instance_ordinal: reader.number("kafka.instance_ordinal", 0..=9999),
        properties: properties.free,
        sasl_password: reader.secret("kafka.sasl_password").or(properties.sasl_password),
        ssl_key_password: reader.secret("kafka.ssl_key_password").or(properties.ssl_key_password),
    }
}

fn cache_dir(reader: &mut Reader) -> PathBuf {
    let configured = reader.path("cache_dir");
    configured.unwrap_or_else(|| {
        reader.cache_home().map_or_else(std::env::temp_dir, PathBuf::from).join("wdt-connector")
    })
}

fn schema_registry(reader: &mut Reader) -> Option<RegistrySettings> {
    let url = reader.web_address("schema_registry.url", false);
    let auth = reader.secret("schema_registry.auth");
    let register = reader.flag("schema_registry.register");
    let ca_file = reader.readable("schema_registry.ca_file");
    if auth
        .as_ref()
        .is_some_and(|auth| !auth.expose_secret().is_empty() && !auth.expose_secret().contains(':'))
    {
        reader.mistake(
            "schema_registry.auth",
            "schema_registry.auth is not allowed; allowed is \"user:password\"".to_owned(),
        );
    }
    if url.is_none() && auth.is_some() && !reader.is_set("schema_registry.url") {
        reader.mistake(
            "schema_registry.url",
            "schema_registry.url is missing though schema_registry.auth is set; set the registry's address, or remove auth".to_owned(),
        );
    }
    url.map(|url| RegistrySettings { url, auth, register, ca_file })
}

fn traces(reader: &mut Reader) -> Option<TraceSettings> {
    let endpoint = reader.web_address("telemetry.otlp_endpoint", false);
    let ca_file = reader.readable("telemetry.ca_file");
    endpoint.map(|endpoint| TraceSettings { endpoint, ca_file })
}

fn topics(reader: &mut Reader) -> Topics {
    let mut names: Vec<(&str, String)> = Vec::new();
    let mut name = |key: &'static str| {
        let text = reader.text(
            &format!("topics.{key}"),
            "allowed are 1 to 249 letters, digits, dots, hyphens and underscores",
            values::is_kafka_name,
        );
        if let Some((other, _)) = names.iter().find(|(_, taken)| *taken == text && !text.is_empty())
        {
            let sentence = format!(
                "topics.{key} = {text:?} is also the name of topics.{other}; every topic needs a name of its own"
            );
            reader.mistake(&format!("topics.{key}"), sentence);
        }
        names.push((key, text.clone()));
        text
    };
    Topics {
        commands: name("commands"),
        results: name("results"),
        commands_dlq: name("commands_dlq"),
        journal: name("journal"),
        purchase_returns: name("purchase_returns"),
        return_outbounds: name("return_outbounds"),
        feeds_state: name("feeds_state"),
        feeds_dlq: name("feeds_dlq"),
        control: name("control"),
    }
}

/// What both editions' sections share; `None` without a `url`. A secret alone asks for none:
/// environments are often shared.
fn connection(reader: &mut Reader, section: &str, account_keys: &[&str]) -> Option<ErpConnection> {
    let url_key = format!("{section}.url");
    let url = reader.web_address(&url_key, false);
    let connect_timeout = reader.duration(&format!("{section}.connect_timeout"));
    let ca_file = reader.readable(&format!("{section}.ca_file"));
    let proxy = reader.web_address(&format!("{section}.proxy"), true);
    if url.is_none()
        && !reader.is_set(&url_key)
        && account_keys.iter().any(|key| reader.is_set(&format!("{section}.{key}")))
    {
        reader.mistake(&url_key, format!("{url_key} is missing though other keys of the account are set; set the ERP's address"));
    }
    // A refused address still counts as configured, so that its missing companions are named at
    // once.
    let present = url.is_some() || reader.is_set(&url_key);
    present.then(|| ErpConnection { url: url.unwrap_or_default(), connect_timeout, ca_file, proxy })
}

fn account_text(reader: &mut Reader, key: &str, needed: bool) -> String {
    let fits = |text: &str| {
        !text.trim().is_empty() && text.chars().count() <= 255 && !text.contains(char::is_control)
    };
    if needed {
        reader.text(key, "allowed is the text the ERP gave you for this account", fits)
    } else {
        reader
            .text_if_any(key, "allowed is the text the ERP gave you for this account", fits)
            .unwrap_or_default()
    }
}

fn account_secret(reader: &mut Reader, key: &str, needed: bool) -> SecretString {
    let secret = reader.secret(key);
    if secret.is_none() && needed {
        let variable = format!("WDT__{}", key.to_ascii_uppercase().replace('.', "__"));
        reader.mistake(key, format!("{key} is missing; set {key}_file to a file that holds it, or the environment variable {variable}"));
    }
    secret.unwrap_or_default()
}

fn flagship(reader: &mut Reader) -> Option<FlagshipSettings> {
    let connection = connection(reader, "erp.flagship", &["sid", "key"]);
    let needed = connection.is_some();
    let sid = account_text(reader, "erp.flagship.sid", needed);
    let key = account_text(reader, "erp.flagship.key", needed);
    let secret = account_secret(reader, "erp.flagship.secret", needed);
    let text = secret.expose_secret();
    if !text.is_empty()
        && text.split_once(':').is_none_or(|(secret, salt)| secret.is_empty() || salt.is_empty())
    {
        let sentence = "erp.flagship.secret is not allowed; allowed is the appsecret as the ERP shows it, \"secret:salt\" with a colon between";
        reader.mistake("erp.flagship.secret", sentence.to_owned());
    }
    let rejected_texts = reader.texts("erp.flagship.rejected_texts");
    connection.map(|connection| FlagshipSettings { connection, sid, key, secret, rejected_texts })
}

fn enterprise(reader: &mut Reader) -> Option<EnterpriseSettings> {
    let connection = connection(reader, "erp.enterprise", &["sid", "appkey"]);
    let needed = connection.is_some();
    let sid = account_text(reader, "erp.enterprise.sid", needed);
    let appkey = account_text(reader, "erp.enterprise.appkey", needed);
    let appsecret = account_secret(reader, "erp.enterprise.appsecret", needed);
    connection.map(|connection| EnterpriseSettings { connection, sid, appkey, appsecret })
}

fn commands(reader: &mut Reader) -> CommandSettings {
    CommandSettings {
        enabled: reader.flag("commands.enabled"),
        format: reader.choice(
            "commands.format",
            &[("avro", CommandFormat::Avro), ("json", CommandFormat::Json)],
            CommandFormat::Avro,
        ),
        partitioner: reader.choice(
            "commands.partitioner",
            &[
                ("murmur2", Partitioner::Murmur2),
                ("crc32", Partitioner::Crc32),
                ("any", Partitioner::Any),
            ],
            Partitioner::Murmur2,
        ),
        max_in_flight: usize::try_from(reader.number("commands.max_in_flight", 1..=10_000))
            .unwrap_or(1),
        call_timeout: reader.duration("commands.call_timeout"),
        intent_ttl: reader.duration("commands.intent_ttl"),
        apply_grace: reader.duration_or_zero("commands.apply_grace"),
        lookup_interval: reader.duration("commands.lookup_interval"),
        lookup_timeout: reader.duration("commands.lookup_timeout"),
        max_attempts: reader.number("commands.max_attempts", 1..=1000),
        max_process_pause: reader.duration_or_zero("commands.max_process_pause"),
        max_apply_delay: reader.duration_or_zero("commands.max_apply_delay"),
        dedup_window: reader.duration("commands.dedup_window"),
        drain_timeout: reader.duration_or_zero("commands.drain_timeout"),
        unapproved_retry_timeout: reader.duration_or_zero("commands.unapproved_retry_timeout"),
    }
}

fn feed(reader: &mut Reader, feed: Feed, max_visibility_lag: Duration) -> FeedSettings {
    let section = format!("feeds.{}", feed.name());
    let key = |name: &str| format!("{section}.{name}");
    let enabled = reader.flag(&key("enabled"));
    let edition = match feed {
        Feed::PurchaseReturns => Edition::Flagship,
        Feed::ReturnOutbounds => reader.choice(
            &key("edition"),
            &[("flagship", Edition::Flagship), ("enterprise", Edition::Enterprise)],
            Edition::Flagship,
        ),
    };
    let start_at = reader.instant(&key("start_at"));
    if enabled && start_at.is_none() && !reader.is_set(&key("start_at")) {
        let sentence = format!(
            "{} is missing; the feed needs the instant from which on changes are read, such as \"2026-01-01T00:00:00+08:00\"",
            key("start_at")
        );
        reader.mistake(&key("start_at"), sentence);
    }
    FeedSettings {
        enabled,
        edition,
        start_at: start_at.unwrap_or(Timestamp(0)),
        poll_interval: reader.duration(&key("poll_interval")),
        safety_lag: reader.duration_or_zero(&key("safety_lag")),
        page_size: page_size(reader, &key("page_size"), edition),
        max_pages_per_window: reader.number(&key("max_pages_per_window"), 1..=10_000),
        max_visibility_lag: reader
            .duration_if_any(&key("max_visibility_lag"))
            .unwrap_or(max_visibility_lag),
        late_pass: LatePass {
            interval: reader.duration(&key("late_pass.interval")),
            lag: reader.duration(&key("late_pass.lag")),
        },
        shipped_pass: match feed {
            Feed::PurchaseReturns => ShippedPass::default(),
            Feed::ReturnOutbounds => ShippedPass {
                interval: reader.duration(&key("shipped_pass.interval")),
                older_interval: reader.duration(&key("shipped_pass.older_interval")),
            },
        },
        filters: filters(reader, &key("filters"), feed),
    }
}

fn page_size(reader: &mut Reader, key: &str, edition: Edition) -> u32 {
    match edition {
        Edition::Flagship => reader.number(key, 1..=10_000),
        Edition::Enterprise if reader.is_set(key) => reader.number(key, 1..=ENTERPRISE_PAGE),
        Edition::Enterprise => reader.number(key, 1..=10_000).min(ENTERPRISE_PAGE),
    }
}

fn filters(reader: &mut Reader, section: &str, feed: Feed) -> Filters {
    let short = |text: &str| {
        !text.trim().is_empty() && text.chars().count() <= 40 && !text.contains(char::is_control)
    };
    let warehouse_key = format!("{section}.warehouse_no");
    let provider_key = format!("{section}.provider_no");
    let warehouse_no = reader.text_if_any(
        &warehouse_key,
        "allowed is one warehouse number, of at most 40 characters and none of them a control character",
        short,
    );
    let provider_no = reader.text_if_any(
        &provider_key,
        "allowed is one provider number, of at most 40 characters and none of them a control character",
        short,
    );
    let digits = |text: &str| {
        !text.is_empty() && text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let status_key = format!("{section}.status");
    let status = match feed {
        Feed::PurchaseReturns => {
            reader.text_if_any(&status_key, "allowed is one status number such as \"40\"", digits)
        }
        Feed::ReturnOutbounds => reader.text_if_any(
            &status_key,
            "allowed are status numbers such as \"110\" or \"50,110\"",
            |text| text.split(',').all(digits),
        ),
    };
    let (absent, key, call) = match feed {
        Feed::PurchaseReturns => (&warehouse_no, &warehouse_key, "purchase returns"),
        Feed::ReturnOutbounds => (&provider_no, &provider_key, "outbound orders"),
    };
    if absent.is_some() {
        let place = reader.place(key);
        reader.mistake(key, format!("{key} ({place}) cannot be used, because the ERP's query for {call} has no such filter; remove it"));
    }
    Filters { warehouse_no, provider_no, status }
}

fn http(reader: &mut Reader) -> HttpSettings {
    let listen = reader.socket("http.listen");
    let token = reader.secret("http.token");
    if !listen.ip().is_loopback() && token.is_none() {
        let place = reader.place("http.listen");
        reader.mistake(
            "http.token",
            format!("http.listen = \"{listen}\" ({place}) is not a loopback address and therefore needs a token; set http.token_file or WDT__HTTP__TOKEN, or listen on 127.0.0.1"),
        );
    }
    HttpSettings { listen, token }
}

fn log(reader: &mut Reader) -> LogSettings {
    LogSettings {
        format: reader.choice(
            "log.format",
            &[("human", LogFormat::Human), ("json", LogFormat::Json)],
            LogFormat::Human,
        ),
        level: reader.text(
            "log.level",
            "allowed are filters such as \"info\" or \"wdt_connector::sink=debug,info\"",
            |text| {
                !text.trim().is_empty()
                    && tracing_subscriber::EnvFilter::builder().parse(text).is_ok()
            },
        ),
    }
}

/// Each enabled pipeline needs its account.
fn accounts(reader: &mut Reader, settings: &Settings) {
    let mut need = |pipeline: &str, edition: Edition| {
        let (there, section) = match edition {
            Edition::Flagship => (settings.flagship.is_some(), "erp.flagship"),
            Edition::Enterprise => (settings.enterprise.is_some(), "erp.enterprise"),
        };
        let key = format!("{section}.url");
        if !there && !reader.mistakes.iter().any(|mistake| mistake.key == key) {
            reader.mistake(
                &key,
                format!(
                    "{key} is missing though {pipeline} is enabled; fill in the section [{section}]"
                ),
            );
        }
    };
    if settings.commands.enabled {
        need("commands", Edition::Flagship);
    }
    for feed in Feed::ALL {
        let section = settings.feed(feed);
        if section.enabled {
            need(&format!("feeds.{}", feed.name()), section.edition);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{document::Document, reader::Reader};
    use super::*;

    /// Keys that are secrets and stand only in the environment.
    const BY_ENVIRONMENT: [&str; 6] = [
        "kafka.sasl_password",
        "kafka.ssl_key_password",
        "schema_registry.auth",
        "erp.flagship.secret",
        "erp.enterprise.appsecret",
        "http.token",
    ];

    #[test]
    fn the_default_file_documents_every_key() {
        let document = Document::assemble(None, std::iter::empty()).unwrap();
        let mut reader = Reader::new(document);
        read(&mut reader);
        let shown = super::super::DEFAULTS
            .lines()
            .map(|line| line.strip_prefix('#').unwrap_or(line))
            .collect::<Vec<_>>();
        for key in reader.known().keys() {
            if BY_ENVIRONMENT.contains(&key.as_str())
                || key.contains(".filters.")
                || key.contains(".late_pass.")
                || key.contains(".shipped_pass.")
            {
                continue;
            }
            let name = key.rsplit('.').next().unwrap();
            assert!(
                shown.iter().any(|line| line.starts_with(&format!("{name} ="))),
                "{key} is not in the default file"
            );
        }
        assert!(reader.finish().is_empty());
    }
}
