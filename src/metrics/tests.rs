use std::{collections::BTreeSet, fmt::Write as _, path::Path, time::Duration};

use crate::{
    config::{Edition, Feed},
    erp::{BudgetStatus, Call, Class},
};

use super::{
    names::{Kind, LABELS, STAGE_RESULTS},
    *,
};

fn touch_everything(metrics: &Metrics) {
    let second = Duration::from_secs(1);
    metrics.command_received();
    metrics.command_settled("CREATED", true);
    metrics.dead_letter("commands", "undecodable");
    metrics.erp_call(Call::CreateOrder, Class::Command, "ok", second);
    metrics.erp_permit(Call::CreateOrder, Class::Command, second);
    metrics.command_seconds(second, Some(second));
    metrics.transaction("commands", "committed", 7, second);
    let now = CommandsNow {
        pending: 1,
        calls: 2,
        open_intents: 3,
        unverified: 4,
        unverified_age: second,
        circuit: "open",
    };
    metrics.commands_now(now);
    metrics.partitions_unowned("commands", 1);
    metrics.consumer_lag("wdt-connector.commands", 2, 9);
    metrics.commands_undecided(5, second);
    metrics.hop(Hop::Journal, "fresh");
    metrics.hop_seconds(Hop::Publish(Feed::PurchaseReturns), second);
    metrics.partitions("feeds", 2, 1);
    metrics.restored("commands");
    metrics.paused("commands", true);
    metrics.reloaded("erp", false);
    metrics.last_reload_successful(false);
    metrics.health(true, false, &[("commands", second)]);
    metrics.process(1.5, 20 << 20, 30);
    metrics.erp_unseen();
    metrics.erp_skew(Edition::Enterprise, -1500);
    metrics.quota(&[BudgetStatus {
        share: 1.0,
        left: 0,
        waiting_ms: [("lookup", 1500)].into(),
        waiting_for_seconds: 0.0,
        call: "create_order",
        rate: 50.0,
        burst: 10,
        used: [("command", 7)].into(),
        waiting: [("lookup", 3)].into(),
        refused: 2,
        cooldown_until: Some(Timestamp::now().plus(second)),
        out: 1,
        max_in_flight_calls: 64,
        waiting_for_place: 0,
    }]);
    metrics.feed_state(Feed::PurchaseReturns, "live");
    metrics.feed_progress(Feed::PurchaseReturns, "snapshot", 0.5);
    metrics.feed_event_seconds(Feed::PurchaseReturns, second);
    metrics.feed_event(Feed::PurchaseReturns, "r");
    metrics.feed_window(Feed::PurchaseReturns, "live", 10, 4, 2);
    metrics.feed_lag("purchase_returns", "live", Some(Duration::from_millis(1500)));
    metrics.feed_entered(Feed::ReturnOutbounds);
    metrics.feed_incomplete(Feed::ReturnOutbounds);
    metrics.feed_unproven(Feed::ReturnOutbounds, 1);
    metrics.feed_not_shown(Feed::ReturnOutbounds, 2);
    metrics.feed_too_late(Feed::ReturnOutbounds, 2);
    metrics.feed_late_row(Feed::ReturnOutbounds, second);
    metrics.feed_older(Feed::ReturnOutbounds, "skipped");
    metrics.drift(Feed::ReturnOutbounds, "unknown", "detail_list.\"new\n");
}

#[test]
fn every_family_is_rendered_under_its_name() {
    let metrics = Metrics::new();
    touch_everything(&metrics);
    let text = metrics.render();
    for line in [
        "wdt_connector_commands_received_total 1",
        "wdt_connector_command_results_total{outcome=\"CREATED\",duplicate=\"true\"} 1",
        "wdt_connector_command_results_total{outcome=\"IN_DOUBT\",duplicate=\"false\"} 0",
        "wdt_connector_erp_calls_total{call=\"create_order\",priority=\"command\",result=\"ok\"} 1",
        "wdt_connector_transaction_records_total{pipeline=\"commands\"} 7",
        "wdt_connector_commands_unverified 4",
        "wdt_connector_commands_awaiting_resolution 5",
        "wdt_connector_commands_awaiting_resolution_age_seconds 1.0",
        "wdt_connector_consumer_lag_records{group=\"wdt-connector.commands\",partition=\"2\"} 9",
        "wdt_connector_commands_circuit_breaker{state=\"open\"} 1.0",
        "wdt_connector_commands_circuit_breaker{state=\"closed\"} 0.0",
        "wdt_connector_stage_results_total{pipeline=\"commands\",stage=\"journal\",result=\"fresh\"} 1",
        "wdt_connector_quota_used_calls{call=\"create_order\",priority=\"command\"} 7.0",
        "wdt_connector_quota_refusals_total{call=\"create_order\"} 2",
        "process_cpu_seconds_total 1.5",
        "wdt_connector_feed_state{feed=\"purchase_returns\",state=\"live\"} 1.0",
        "wdt_connector_erp_clock_skew_seconds{edition=\"enterprise\"} -1.5",
        "wdt_connector_feed_rows_total{feed=\"purchase_returns\",pass=\"live\",content=\"changed\"} 6",
        "wdt_connector_feed_lag_seconds{feed=\"purchase_returns\",pass=\"live\"} 1.5",
        "wdt_connector_feed_schema_drift_total{feed=\"return_outbounds\",kind=\"unknown\",field=\"detail_list.\\\"new\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(text.contains(concat!(
        "wdt_connector_build_info{version=\"",
        env!("CARGO_PKG_VERSION"),
        "\"} 1"
    )));
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn the_text_is_shaped_like_open_metrics() {
    let metrics = Metrics::new();
    touch_everything(&metrics);
    let text = metrics.render();
    let mut family = String::new();
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE ")) {
            family = rest.split(' ').next().unwrap().to_owned();
            assert!(
                family.starts_with("wdt_connector_") || family.starts_with("process_"),
                "{line}"
            );
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        assert!(sample.starts_with(&family), "{line} stands outside its family {family}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
}

#[test]
fn invented_fields_do_not_grow_the_labels_without_bound() {
    let metrics = Metrics::new();
    for number in 0..1000 {
        metrics.drift(Feed::PurchaseReturns, "unknown", &format!("field_{number}"));
    }
    let text = metrics.render();
    assert_eq!(
        text.matches("wdt_connector_feed_schema_drift_total{").count(),
        MAX_DRIFT_FIELDS + 1
    );
    assert!(text.contains("field=\"other\"} 800"));
}

/// A sample's label names, `le` of a histogram's buckets left out.
fn labels(sample: &str) -> BTreeSet<&str> {
    let Some((_, inside)) = sample.trim_end_matches('}').split_once('{') else {
        return BTreeSet::new();
    };
    inside
        .split("\",")
        .filter_map(|pair| pair.split_once("=\""))
        .map(|(name, _)| name)
        .filter(|name| *name != "le")
        .collect()
}

#[test]
fn every_name_of_the_list_is_registered_with_its_kind_and_its_labels() {
    let metrics = Metrics::new();
    touch_everything(&metrics);
    let text = metrics.render();
    for name in Name::ALL {
        let about = name.about();
        let full = about.full_name();
        let (kind, suffixes): (_, &[&str]) = match about.kind {
            Kind::Info => ("info", &["_info"]),
            Kind::Counter => ("counter", &["_total"]),
            Kind::Gauge => ("gauge", &[""]),
            Kind::Histogram => ("histogram", &["_sum", "_count", "_bucket"]),
        };
        assert!(
            text.contains(&format!("# TYPE {full} {kind}\n")),
            "{full} is no {kind} in\n{text}"
        );
        let samples: Vec<&str> = text
            .lines()
            .filter(|line| {
                suffixes
                    .iter()
                    .any(|suffix| line.split(['{', ' ']).next() == Some(&format!("{full}{suffix}")))
            })
            .collect();
        assert!(!samples.is_empty(), "{full} has no sample");
        for sample in samples {
            let found = labels(sample.rsplit_once(' ').unwrap().0);
            assert_eq!(found, about.labels.iter().copied().collect(), "{sample}");
        }
        assert!(
            about.labels.iter().all(|label| LABELS.iter().any(|(known, _)| known == label)),
            "a label of {full} is not explained"
        );
    }
    assert_eq!(text.matches("# TYPE ").count(), Name::ALL.len());
}

/// The text of `deploy/metrics.md`.
fn reference() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         Served at `/metrics` (OpenMetrics). Written from the list in `src/metrics/names.rs`; the test\n\
         `the_reference_is_up_to_date` fails when the two differ and writes this file anew with `UPDATE_EXPECT=1`.\n\n\
         | metric | kind | labels | what it says |\n|---|---|---|---|\n",
    );
    for name in Name::ALL {
        let about = name.about();
        let (kind, suffix) = match about.kind {
            Kind::Info => ("info", "_info"),
            Kind::Counter => ("counter", "_total"),
            Kind::Gauge => ("gauge", ""),
            Kind::Histogram => ("histogram", ""),
        };
        let labels: Vec<String> = about.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(
            text,
            "| `{}{suffix}` | {kind} | {} | {} |",
            about.full_name(),
            labels.join(", "),
            about.help
        );
    }
    text.push_str("\n| label | its words |\n|---|---|\n");
    for (label, words) in LABELS {
        let _ = writeln!(text, "| `{label}` | {words} |");
    }
    text.push_str("\n`result` of `wdt_connector_stage_results_total`:\n\n| stage | its results |\n|---|---|\n");
    for (stage, words) in STAGE_RESULTS {
        let _ = writeln!(text, "| {stage} | {words} |");
    }
    text
}

#[test]
fn the_reference_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/metrics.md");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, reference()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        written,
        reference(),
        "deploy/metrics.md is not what the list of metrics says; run this test with UPDATE_EXPECT=1"
    );
}
