use std::time::Duration;

use secrecy::ExposeSecret;

use super::*;

fn env(pairs: &[(&str, &str)]) -> std::vec::IntoIter<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect::<Vec<_>>()
        .into_iter()
}

fn ok(text: &str, pairs: &[(&str, &str)]) -> Loaded {
    from_toml(text, env(pairs)).unwrap()
}

fn wrong(text: &str, pairs: &[(&str, &str)]) -> Vec<String> {
    from_toml(text, env(pairs)).unwrap_err().into_iter().map(|mistake| mistake.sentence).collect()
}

/// Exactly one mistake, containing every part.
#[track_caller]
fn one(text: &str, pairs: &[(&str, &str)], parts: &[&str]) {
    let found = wrong(text, pairs);
    assert_eq!(found.len(), 1, "{found:#?}");
    for part in parts {
        assert!(found[0].contains(part), "{part:?} is not in {:?}", found[0]);
    }
}

const ACCOUNT: &str = "[erp.flagship]\nurl = \"http://erp/openapi\"\nsid = \"s\"\nkey = \"k\"\n";
const SECRET: (&str, &str) = ("WDT__ERP__FLAGSHIP__SECRET", "hush:salt");

#[test]
fn the_defaults_are_the_documented_ones() {
    let Loaded { settings, warnings } = load(None, env(&[])).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert!(
        !settings.commands.enabled
            && !settings.purchase_returns.enabled
            && !settings.return_outbounds.enabled
    );
    assert_eq!(settings.commands.call_timeout, Duration::from_secs(30));
    assert_eq!(settings.commands.dedup_window, Duration::from_secs(30 * 86_400));
    assert_eq!(settings.purchase_returns.safety_lag, Duration::from_secs(65));
    assert_eq!(settings.topics.commands_dlq, "wdt.purchase-return.commands.dlq");
    assert_eq!(settings.http.listen.to_string(), "127.0.0.1:9600");
    assert!(
        settings.schema_registry.is_none()
            && settings.flagship.is_none()
            && settings.enterprise.is_none()
    );
    assert!(settings.cache_dir.ends_with("wdt-connector/wdt-connector.0"));
    assert!(settings.require_pipeline().is_err());
}

#[test]
fn a_whole_configuration_is_read() {
    let text = format!(
        "cache_dir = \"/c\"\n[commands]\nenabled = true\nformat = \"json\"\n{ACCOUNT}[feeds.return_outbounds]\nenabled = true\nstart_at = 2026-01-01T00:00:00+08:00\n\
         filters = {{ warehouse_no = \"W1\", status = \"50,110\" }}\n[kafka]\ninstance_ordinal = 3\nproperties = {{ \"security.protocol\" = \"SASL_SSL\", session.timeout.ms = 6000 }}\n"
    );
    let settings = ok(&text, &[SECRET]).settings;
    assert!(settings.require_pipeline().is_ok());
    assert_eq!(settings.commands.format, CommandFormat::Json);
    assert_eq!(settings.flagship.unwrap().secret.expose_secret(), "hush:salt");
    assert_eq!(settings.return_outbounds.start_at, Timestamp(1_767_196_800_000));
    assert_eq!(settings.return_outbounds.filters.status.as_deref(), Some("50,110"));
    assert_eq!(settings.kafka.properties["security.protocol"], "SASL_SSL");
    assert_eq!(settings.kafka.properties["session.timeout.ms"], "6000");
    assert_eq!(settings.cache_dir, Path::new("/c/wdt-connector.3"));
}

#[test]
fn the_environment_overrides_every_kind_of_key() {
    let settings = ok(
        "[commands]\nmax_in_flight = 3\n",
        &[
            ("WDT__KAFKA__BOOTSTRAP_SERVERS", "a:1,b:2"),
            ("WDT__KAFKA__PROPERTIES__SSL_CA_LOCATION", "/ca.pem"),
            ("WDT__COMMANDS__MAX_IN_FLIGHT", "7"),
            ("WDT__FEEDS__PURCHASE_RETURNS__START_AT", "2026-01-01T00:00:00Z"),
            ("WDT__FEEDS__PURCHASE_RETURNS__FILTERS__PROVIDER_NO", "P1"),
            ("WDT__SCHEMA_REGISTRY__REGISTER", "false"),
            ("WDT__SCHEMA_REGISTRY__URL", ""),
            ("WDT__KAFKA__SASL_PASSWORD", "hush"),
            ("PATH", "/bin"),
            ("WDT_CONFIG", "x"),
        ],
    )
    .settings;
    assert_eq!(settings.kafka.bootstrap_servers, "a:1,b:2");
    assert_eq!(settings.kafka.properties["ssl.ca.location"], "/ca.pem");
    assert_eq!(settings.commands.max_in_flight, 7);
    assert_eq!(settings.purchase_returns.start_at, Timestamp(1_767_225_600_000));
    assert_eq!(settings.purchase_returns.filters.provider_no.as_deref(), Some("P1"));
    assert_eq!(settings.kafka.sasl_password.unwrap().expose_secret(), "hush");
}

#[test]
fn unknown_keys_are_mistakes_with_a_place_and_a_guess() {
    one(
        "[commands]\ncall_timeuot = \"5s\"\n",
        &[],
        &["commands.call_timeuot", "line 2, column 1", "did you mean commands.call_timeout?"],
    );
    one("[comands]\n", &[], &["comands", "line 1"]);
    one("[comands]\nenabled = true\n", &[], &["comands.enabled", "line 2"]);
    one("kafka = 3\n", &[], &["kafka (", "is a section"]);
    one(
        "",
        &[("WDT__KAFKA__BOOTSTRAP_SERVER", "a:1")],
        &["environment WDT__KAFKA__BOOTSTRAP_SERVER", "did you mean kafka.bootstrap_servers?"],
    );
    one("", &[("WDT__NOTHING", "")], &["nothing", "WDT__NOTHING"]);
    one(
        "",
        &[("WDT__FEEDS__PURCHASE_RETURNS__EDITION", "enterprise")],
        &["feeds.purchase_returns.edition"],
    );
}

#[test]
fn all_mistakes_come_at_once() {
    let found = wrong(
        "alow_unsafe_timing = true\n[kafka]\nbootstrap_servers = \"nohost\"\ninstance_ordinal = -1\n[commands]\nformat = \"xml\"\nenabled = \"yes\"\ncall_timeout = 30\nmax_in_flight = 0\n\
         [quota]\nburst = 1.5\n[feeds.purchase_returns]\nenabled = true\n[topics]\nresults = \"a b\"\n[http]\nlisten = \"0.0.0.0:1\"\n[log]\nlevel = \"a=b=c\"\n",
        &[],
    );
    for part in [
        "alow_unsafe_timing",
        "\"nohost\"",
        "instance_ordinal = -1",
        "\"xml\"",
        "enabled = \"yes\"",
        "call_timeout = 30 ",
        "max_in_flight = 0",
        "quota.burst",
        "feeds.purchase_returns.start_at",
        "\"a b\"",
        "needs a token",
        "log.level",
        "erp.flagship.url",
    ] {
        assert_eq!(
            found.iter().filter(|sentence| sentence.contains(part)).count(),
            1,
            "{part}: {found:#?}"
        );
    }
    assert_eq!(found.len(), 13, "{found:#?}");
    assert!(found.iter().all(|sentence| !sentence.contains('\n')));
}

#[test]
fn broken_toml_is_told_by_line() {
    let found = wrong("[kafka]\ninstance_ordinal = \n", &[]);
    assert!(found[0].contains("line 2") && found[0].contains("no TOML"), "{found:?}");
    let found = load(Some(Path::new("/nowhere/at/all.toml")), env(&[])).unwrap_err();
    assert!(found[0].sentence.contains("/nowhere/at/all.toml"));
}

#[test]
fn secrets_come_by_file_or_environment_only_and_are_never_shown() {
    let in_file = format!(
        "{ACCOUNT}secret = \"topsecret:x\"\n[kafka]\nsasl_password = \"topsecret\"\nproperties = {{ \"sasl.password\" = \"topsecret\" }}\n"
    );
    let found = wrong(&in_file, &[]);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found.iter().all(|sentence| !sentence.contains("topsecret")), "{found:#?}");
    assert!(found.iter().any(|sentence| sentence.contains("WDT__ERP__FLAGSHIP__SECRET")));
    one(
        ACCOUNT,
        &[("WDT__ERP__FLAGSHIP__SECRET", "topsecret")],
        &["erp.flagship.secret", "secret:salt"],
    );
    one(ACCOUNT, &[], &["erp.flagship.secret is missing", "WDT__ERP__FLAGSHIP__SECRET"]);
    one(
        "[schema_registry]\nurl = \"http://u:topsecret@h/\"\n",
        &[],
        &["schema_registry.url", "password"],
    );
    let settings = ok(
        ACCOUNT,
        &[
            SECRET,
            ("WDT__HTTP__TOKEN", "hush"),
            ("WDT__KAFKA__PROPERTIES__SASL_OAUTHBEARER_CLIENT_SECRET", "hush"),
        ],
    )
    .settings;
    assert!(!format!("{settings:?}").contains("hush"));
}

#[test]
fn secret_files_are_read_without_their_last_newline() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "hush\n").unwrap();
    let text = format!(
        "[http]\nlisten = \"0.0.0.0:9600\"\ntoken_file = {:?}\n",
        path.display().to_string()
    );
    assert_eq!(ok(&text, &[]).settings.http.token.unwrap().expose_secret(), "hush");
    assert_eq!(
        ok(&text, &[("WDT__HTTP__TOKEN", "env")]).settings.http.token.unwrap().expose_secret(),
        "env"
    );
    std::fs::write(&path, "").unwrap();
    one(&text, &[], &["http.token_file", "is empty"]);
    std::fs::write(&path, "x".repeat(64 * 1024 + 1)).unwrap();
    one(&text, &[], &["http.token_file", "is larger than 65536 bytes"]);
    std::fs::remove_file(&path).unwrap();
    one(&text, &[], &["http.token_file", "cannot be read"]);
}

#[test]
fn properties_that_correctness_rests_on_are_refused() {
    for name in [
        "bootstrap.servers",
        "group.id",
        "group.instance.id",
        "group.protocol",
        "transactional.id",
        "transaction.timeout.ms",
        "enable.idempotence",
        "acks",
        "isolation.level",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "auto.offset.reset",
        "partitioner",
        "partition.assignment.strategy",
        "check.crcs",
    ] {
        one(
            &format!("[kafka]\nproperties = {{ \"{name}\" = \"x\" }}\n"),
            &[],
            &[&format!("kafka.properties.{name} "), "may not be set"],
        );
        let variable = format!("WDT__KAFKA__PROPERTIES__{}", name.to_uppercase().replace('.', "_"));
        one("", &[(&variable, "x")], &[&variable]);
    }
}

/// Commands and the feed of purchase returns, by environment.
const EVERYTHING_RUNS: [(&str, &str); 7] = [
    SECRET,
    ("WDT__ERP__FLAGSHIP__URL", "http://erp/openapi"),
    ("WDT__ERP__FLAGSHIP__SID", "s"),
    ("WDT__ERP__FLAGSHIP__KEY", "k"),
    ("WDT__COMMANDS__ENABLED", "true"),
    ("WDT__FEEDS__PURCHASE_RETURNS__ENABLED", "true"),
    ("WDT__FEEDS__PURCHASE_RETURNS__START_AT", "2026-01-01T00:00:00Z"),
];

#[test]
fn unsafe_times_are_refused_or_warned_about() {
    for (text, part) in [
        (
            "[commands]\nmax_process_pause = \"9s\"\n",
            "commands.max_process_pause = 9s must be at least 10s",
        ),
        ("[commands]\nmax_apply_delay = \"59s\"\n", "commands.max_apply_delay = 59s"),
        ("[erp]\nmax_visibility_lag = \"59999ms\"\n", "erp.max_visibility_lag = 59999ms"),
        (
            "[feeds.return_outbounds]\nmax_visibility_lag = \"59s\"\n",
            "feeds.return_outbounds.max_visibility_lag = 59s",
        ),
        (
            "[commands]\napply_grace = \"70s\"\n",
            "must be more than max_process_pause + max_apply_delay + erp.max_visibility_lag = 130s",
        ),
        (
            "[commands]\nlookup_timeout = \"165s\"\n",
            "must be more than intent_ttl + call_timeout + apply_grace + lookup_interval = 165s",
        ),
        ("[commands]\ndrain_timeout = \"300s\"\n", "max.poll.interval.ms = 5m"),
        ("[kafka.properties]\nmax.poll.interval.ms = 20000\n", "max.poll.interval.ms = 20s"),
        (
            "[feeds.purchase_returns]\nsafety_lag = \"64s\"\n",
            "feeds.purchase_returns.safety_lag = 64s",
        ),
        (
            "[feeds.purchase_returns]\nsafety_lag = \"10m\"\n",
            "feeds.purchase_returns.late_pass.lag = 10m must be more than safety_lag = 10m",
        ),
    ] {
        one(text, &EVERYTHING_RUNS, &[part, "allow_unsafe_timing"]);
        let mut env = EVERYTHING_RUNS.to_vec();
        env.push(("WDT__ALLOW_UNSAFE_TIMING", "true"));
        let allowed = ok(text, &env);
        assert!(
            allowed.warnings.len() == 1 && allowed.warnings[0].contains(part),
            "{:?}",
            allowed.warnings
        );
    }
    let early = "[feeds.purchase_returns.late_pass]\nlag = \"64s\"\n";
    let early = wrong(early, &EVERYTHING_RUNS);
    assert!(
        early.len() == 2
            && early[0].contains("more than safety_lag")
            && early[1].contains("at least"),
        "{early:?}"
    );
    one(
        "[erp.flagship]\nconnect_timeout = \"10s\"\n",
        &EVERYTHING_RUNS,
        &["erp.flagship.connect_timeout = 10s must be less than commands.max_process_pause"],
    );
    let longer = "[commands]\napply_grace = \"71s\"\nlookup_timeout = \"166s\"\n";
    assert!(from_toml(longer, env(&EVERYTHING_RUNS)).is_ok());
}

#[test]
fn a_feed_may_have_its_own_visibility_lag() {
    let text = "[erp]\nmax_visibility_lag = \"2m\"\n[feeds.return_outbounds]\nmax_visibility_lag = \"70s\"\n";
    let Loaded { settings, .. } = ok(text, &[]);
    assert_eq!(settings.max_visibility_lag, Duration::from_secs(120));
    assert_eq!(settings.purchase_returns.max_visibility_lag, Duration::from_secs(120));
    assert_eq!(settings.return_outbounds.max_visibility_lag, Duration::from_secs(70));
    // What runs is held to it: commands.apply_grace and the first feed's safety_lag are too short.
    assert_eq!(wrong(text, &EVERYTHING_RUNS).len(), 2, "{:?}", wrong(text, &EVERYTHING_RUNS));
}

#[test]
fn feeds_and_commands_need_their_accounts() {
    one("[commands]\nenabled = true\n", &[], &["erp.flagship.url is missing", "commands"]);
    one(
        "[feeds.return_outbounds]\nenabled = true\nedition = \"enterprise\"\nstart_at = \"2026-01-01T00:00:00Z\"\n",
        &[],
        &["erp.enterprise.url is missing", "feeds.return_outbounds"],
    );
    one("[erp.flagship]\nsid = \"x\"\n", &[], &["erp.flagship.url is missing"]);
    one(
        &format!("{ACCOUNT}[feeds.purchase_returns]\nenabled = true\n"),
        &[SECRET],
        &["feeds.purchase_returns.start_at is missing"],
    );
}

#[test]
fn the_enterprise_edition_has_small_pages() {
    let base = "[feeds.return_outbounds]\nedition = \"enterprise\"\n";
    assert_eq!(ok(base, &[]).settings.return_outbounds.page_size, 30);
    one(&format!("{base}page_size = 31\n"), &[], &["page_size = 31", "from 1 to 30"]);
}

#[test]
fn filters_the_erp_does_not_have_are_refused() {
    one(
        "[feeds.purchase_returns]\nfilters = { warehouse_no = \"W\" }\n",
        &[],
        &["feeds.purchase_returns.filters.warehouse_no"],
    );
    one(
        "[feeds.return_outbounds]\nfilters = { provider_no = \"P\" }\n",
        &[],
        &["feeds.return_outbounds.filters.provider_no"],
    );
    one("[feeds.purchase_returns]\nfilters = { status = \"40,60\" }\n", &[], &["status"]);
    assert_eq!(
        ok("[feeds.purchase_returns.filters]\nstatus = 40\n", &[])
            .settings
            .purchase_returns
            .filters
            .status
            .as_deref(),
        Some("40")
    );
}

#[test]
fn traces_go_to_a_web_address_without_credentials() {
    let traces = ok("[telemetry]\notlp_endpoint = \"http://c:4318\"\n", &[]).settings.traces;
    assert_eq!(traces, Some(TraceSettings { endpoint: "http://c:4318".to_owned(), ca_file: None }));
    one(
        "[telemetry]\notlp_endpoint = \"https://c\"\nca_file = \"/no/ca.pem\"\n",
        &[],
        &["telemetry.ca_file", "/no/ca.pem", "readable"],
    );
    one(
        "[telemetry]\notlp_endpoint = \"c:4317\"\n",
        &[],
        &["telemetry.otlp_endpoint", "allowed are addresses"],
    );
    one(
        "[telemetry]\notlp_endpoint = \"http://me:secret@c:4318\"\n",
        &[],
        &["telemetry.otlp_endpoint", "user name or password"],
    );
}

#[test]
fn more_than_the_quota_is_a_warning() {
    assert_eq!(ok("[quota]\ncalls_per_minute = 60\n", &[]).warnings.len(), 1);
}

#[test]
fn a_share_is_a_part_of_the_whole() {
    let near = |settings: &Settings, share: f64| (settings.quota.share - share).abs() < 1e-9;
    assert!(near(&ok("", &[]).settings, 1.0));
    assert!(near(&ok("[quota]\nshare = 0.25\n", &[]).settings, 0.25));
    assert!(near(&ok("", &[("WDT__QUOTA__SHARE", "0.5")]).settings, 0.5));
    for wrong in ["0", "0.0", "-0.5", "1.01", "2", "nan", "inf", "\"0.5\"", "true"] {
        let allowed = "allowed are numbers from 0.01 to 1";
        one(&format!("[quota]\nshare = {wrong}\n"), &[], &["quota.share", allowed]);
    }
}

#[test]
fn topics_need_names_of_their_own() {
    one("[topics]\nresults = \"x\"\njournal = \"x\"\n", &[], &["topics.journal", "topics.results"]);
}
