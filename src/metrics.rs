//! Every metric of the program, by name, in one place.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Metric, Registry},
};

use crate::{
    clock::Timestamp,
    config::Feed,
    erp::{Call, Class},
};

/// Label names and values; all of them words of closed sets.
type Labels<const N: usize> = [(&'static str, &'static str); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Histograms<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;
type Float = Gauge<f64, AtomicU64>;

/// Fields that may appear as a label; the ERP's further inventions are counted together as `other`.
const MAX_DRIFT_FIELDS: usize = 200;

/// Every family: `wdt_connector_` goes before, `_total` after a counter.
#[derive(Clone, Copy, Debug)]
enum Name {
    Build,
    ProcessStart,
    CommandsReceived,
    CommandResults,
    CommandSeconds,
    CommandsPending,
    CommandsInDoubt,
    IntentsOpen,
    DeadLetterRecords,
    ErpCalls,
    ErpCallSeconds,
    ErpCallsInFlight,
    Transactions,
    TransactionRecords,
    TransactionSeconds,
    FeedEvents,
    FeedWindows,
    FeedRows,
    FeedPages,
    FeedLagSeconds,
    FeedEnteredWindows,
    FeedLateRows,
    FeedLateSeconds,
    FeedOlderRows,
    FeedDriftFields,
}

impl Name {
    /// The name without prefix and suffix, and the help text.
    const fn text(self) -> (&'static str, &'static str) {
        match self {
            Self::Build => ("build", "Version of the running program"),
            Self::ProcessStart => ("process_start_time_seconds", "When the process started, in seconds since 1970"),
            Self::CommandsReceived => ("commands_received", "Command records delivered by Kafka"),
            Self::CommandResults => ("command_results", "Results committed, by outcome and whether the command was a duplicate"),
            Self::CommandSeconds => ("command_seconds", "From a command's delivery to its committed result"),
            Self::CommandsPending => ("commands_pending", "Commands delivered and not yet settled"),
            Self::CommandsInDoubt => ("commands_in_doubt", "Keys held back by a command in doubt"),
            Self::IntentsOpen => ("intents_open", "Intents without outcome"),
            Self::DeadLetterRecords => ("dead_letter_records", "Records that went to the dead letters, by route and reason"),
            Self::ErpCalls => ("erp_calls", "Calls to the ERP, by call, class and result"),
            Self::ErpCallSeconds => ("erp_call_seconds", "Duration of one call to the ERP"),
            Self::ErpCallsInFlight => ("erp_calls_in_flight", "Calls of the command route on the wire"),
            Self::Transactions => ("transactions", "Kafka transactions, by route and result"),
            Self::TransactionRecords => ("transaction_records", "Records written in committed transactions"),
            Self::TransactionSeconds => ("transaction_seconds", "Duration of one Kafka transaction"),
            Self::FeedEvents => ("feed_events", "Change events committed, by feed and operation"),
            Self::FeedWindows => ("feed_windows", "Windows read, by feed and pass"),
            Self::FeedRows => ("feed_rows", "Rows read, by feed, pass and whether their content had changed"),
            Self::FeedPages => ("feed_pages", "Pages asked for, by feed and pass"),
            Self::FeedLagSeconds => ("feed_lag_seconds", "How far the watermark of a pass is behind now"),
            Self::FeedEnteredWindows => ("feed_entered_windows", "Closed windows that something entered: max_visibility is underestimated"),
            Self::FeedLateRows => ("feed_late_rows", "Rows the first pass missed and the late pass published"),
            Self::FeedLateSeconds => ("feed_late_seconds", "How late such rows were"),
            Self::FeedOlderRows => ("feed_older_rows", "Rows older than the state, asked for by number: confirmed or skipped"),
            Self::FeedDriftFields => ("feed_drift_fields", "Fields of ERP records that deviate from the schema"),
        }
    }
}

/// All metric families; shared behind an `Arc`, every method is cheap.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    commands_received: Counter,
    command_results: Counters<2>,
    command_seconds: Histogram,
    commands_pending: Gauge,
    commands_in_doubt: Gauge,
    intents_open: Gauge,
    dead_letters: Counters<2>,
    erp_calls: Counters<3>,
    erp_call_seconds: Histograms<1>,
    erp_calls_in_flight: Gauge,
    transactions: Counters<2>,
    transaction_records: Counters<1>,
    transaction_seconds: Histograms<1>,
    feed_events: Counters<2>,
    feed_windows: Counters<2>,
    feed_rows: Counters<3>,
    feed_pages: Counters<2>,
    feed_lag: Family<Labels<2>, Float>,
    feed_entered: Counters<1>,
    feed_late_rows: Counters<1>,
    feed_late_seconds: Histograms<1>,
    feed_older: Counters<2>,
    drift: Family<Vec<(&'static str, String)>, Counter>,
    drift_fields: Mutex<HashSet<String>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// From a call on loopback to a time-out.
fn call_seconds() -> Histogram {
    Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0])
}

/// From a row that was a second late to one that needed a person.
fn late_seconds() -> Histogram {
    Histogram::new([1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 86_400.0])
}

/// From a quiet command to one in doubt for hours.
fn command_seconds() -> Histogram {
    Histogram::new([0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0, 7200.0])
}

fn add<M: Metric + Clone>(registry: &mut Registry, name: Name, metric: M) -> M {
    let (name, help) = name.text();
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// All families, registered.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("wdt_connector");
        let r = &mut registry;
        let (name, help) = Name::Build.text();
        r.register(name, help, Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let start = add(r, Name::ProcessStart, Float::default());
        start.set(Duration::from_millis(u64::try_from(Timestamp::now().0).unwrap_or(0)).as_secs_f64());
        let command_results: Counters<2> = add(r, Name::CommandResults, Family::default());
        for outcome in ["CREATED", "REJECTED", "INVALID", "IN_DOUBT", "EXPIRED"] {
            drop(command_results.get_or_create(&[("outcome", outcome), ("duplicate", "false")]));
        }
        Self {
            commands_received: add(r, Name::CommandsReceived, Counter::default()),
            command_results,
            command_seconds: add(r, Name::CommandSeconds, command_seconds()),
            commands_pending: add(r, Name::CommandsPending, Gauge::default()),
            commands_in_doubt: add(r, Name::CommandsInDoubt, Gauge::default()),
            intents_open: add(r, Name::IntentsOpen, Gauge::default()),
            dead_letters: add(r, Name::DeadLetterRecords, Family::default()),
            erp_calls: add(r, Name::ErpCalls, Family::default()),
            erp_call_seconds: add(r, Name::ErpCallSeconds, Family::new_with_constructor(call_seconds as fn() -> Histogram)),
            erp_calls_in_flight: add(r, Name::ErpCallsInFlight, Gauge::default()),
            transactions: add(r, Name::Transactions, Family::default()),
            transaction_records: add(r, Name::TransactionRecords, Family::default()),
            transaction_seconds: add(r, Name::TransactionSeconds, Family::new_with_constructor(call_seconds as fn() -> Histogram)),
            feed_events: add(r, Name::FeedEvents, Family::default()),
            feed_windows: add(r, Name::FeedWindows, Family::default()),
            feed_rows: add(r, Name::FeedRows, Family::default()),
            feed_pages: add(r, Name::FeedPages, Family::default()),
            feed_lag: add(r, Name::FeedLagSeconds, Family::default()),
            feed_entered: add(r, Name::FeedEnteredWindows, Family::default()),
            feed_late_rows: add(r, Name::FeedLateRows, Family::default()),
            feed_late_seconds: add(r, Name::FeedLateSeconds, Family::new_with_constructor(late_seconds as fn() -> Histogram)),
            feed_older: add(r, Name::FeedOlderRows, Family::default()),
            drift: add(r, Name::FeedDriftFields, Family::default()),
            drift_fields: Mutex::default(),
            registry,
        }
    }

    /// The text of `/metrics` (OpenMetrics).
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            // Writing to a String does not fail; a scrape that did would have to look incomplete, which this does without `# EOF`.
            text.clear();
        }
        text
    }

    /// One command record was delivered.
    pub fn command_received(&self) {
        self.commands_received.inc();
    }

    /// One result was committed: `CREATED`…, and whether it was a duplicate.
    pub fn command_settled(&self, outcome: &'static str, duplicate: bool) {
        let duplicate = if duplicate { "true" } else { "false" };
        self.command_results.get_or_create(&[("outcome", outcome), ("duplicate", duplicate)]).inc();
    }

    /// One record went to the dead letters of `route` (`commands`, a feed's name) for `reason` (a closed set of words).
    pub fn dead_letter(&self, route: &'static str, reason: &'static str) {
        self.dead_letters.get_or_create(&[("route", route), ("reason", reason)]).inc();
    }

    /// One call to the ERP ended: `ok`, `rejected`, `throttled`, `unreachable`, `unknown`, `misconfigured`, `withheld`.
    pub fn erp_call(&self, call: Call, class: Class, result: &'static str, took: Duration) {
        let name = call_name(call);
        self.erp_calls.get_or_create(&[("call", name), ("class", class_name(class)), ("result", result)]).inc();
        self.erp_call_seconds.get_or_create(&[("call", name)]).observe(took.as_secs_f64());
    }

    /// From a command's delivery to its committed result.
    pub fn command_seconds(&self, took: Duration) {
        self.command_seconds.observe(took.as_secs_f64());
    }

    /// One transaction ended: `committed`, `aborted`, `unknown`, `refused`.
    pub fn transaction(&self, route: &'static str, result: &'static str, records: usize, took: Duration) {
        self.transactions.get_or_create(&[("route", route), ("result", result)]).inc();
        self.transaction_seconds.get_or_create(&[("route", route)]).observe(took.as_secs_f64());
        if result == "committed" {
            self.transaction_records.get_or_create(&[("route", route)]).inc_by(count(records));
        }
    }

    /// Gauge: commands delivered and not yet settled; calls on the wire; open intents; keys in doubt.
    pub fn commands_now(&self, pending: usize, calls: usize, open_intents: usize, in_doubt: usize) {
        for (gauge, value) in [
            (&self.commands_pending, pending),
            (&self.erp_calls_in_flight, calls),
            (&self.intents_open, open_intents),
            (&self.commands_in_doubt, in_doubt),
        ] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }

    /// One change event was committed; `op` is `r`, `c` or `u`.
    pub fn feed_event(&self, feed: Feed, op: &'static str) {
        self.feed_events.get_or_create(&[("feed", feed.name()), ("op", op)]).inc();
    }

    /// One window was read: rows seen, rows unchanged, pages asked for.
    pub fn feed_window(&self, feed: Feed, pass: &'static str, rows: usize, unchanged: usize, pages: usize) {
        let (feed, pass) = (("feed", feed.name()), ("pass", pass));
        self.feed_windows.get_or_create(&[feed, pass]).inc();
        self.feed_rows.get_or_create(&[feed, pass, ("content", "unchanged")]).inc_by(count(unchanged));
        self.feed_rows.get_or_create(&[feed, pass, ("content", "changed")]).inc_by(count(rows.saturating_sub(unchanged)));
        self.feed_pages.get_or_create(&[feed, pass]).inc_by(count(pages));
    }

    /// Gauge: how far the watermark of a pass (`live`, `late`) is behind now.
    pub fn feed_lag(&self, feed: Feed, pass: &'static str, lag: Duration) {
        self.feed_lag.get_or_create(&[("feed", feed.name()), ("pass", pass)]).set(lag.as_secs_f64());
    }

    /// The count alarm of a window: something entered a closed window (visibility is underestimated).
    pub fn feed_entered(&self, feed: Feed) {
        self.feed_entered.get_or_create(&[("feed", feed.name())]).inc();
    }

    /// A row the first pass missed and the late pass published, and how late it was.
    pub fn feed_late_row(&self, feed: Feed, late: Duration) {
        self.feed_late_rows.get_or_create(&[("feed", feed.name())]).inc();
        self.feed_late_seconds.get_or_create(&[("feed", feed.name())]).observe(late.as_secs_f64());
    }

    /// A modified time older than the state's was confirmed by number, or skipped.
    pub fn feed_older(&self, feed: Feed, confirmed: bool) {
        let result = if confirmed { "confirmed" } else { "skipped" };
        self.feed_older.get_or_create(&[("feed", feed.name()), ("result", result)]).inc();
    }

    /// A field that deviates from the schema: `unknown` or `retyped`.
    ///
    /// The field's name is the ERP's word: after the first 200 names the rest count as `other`, so that memory stays bounded.
    pub fn drift(&self, feed: Feed, kind: &'static str, field: &str) {
        let field = {
            let mut known = self.drift_fields.lock().unwrap_or_else(PoisonError::into_inner);
            let short: String = field.chars().filter(|ch| !ch.is_control()).take(100).collect();
            if known.contains(&short) || (known.len() < MAX_DRIFT_FIELDS && known.insert(short.clone())) {
                short
            } else {
                "other".to_owned()
            }
        };
        let labels = vec![("feed", feed.name().to_owned()), ("kind", kind.to_owned()), ("field", field)];
        self.drift.get_or_create(&labels).inc();
    }
}

fn count(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

fn call_name(call: Call) -> &'static str {
    match call {
        Call::CreateOrder => "create_order",
        Call::QueryPurchaseReturns => "query_purchase_returns",
        Call::QueryOutbounds => "query_outbounds",
        Call::QueryOutboundsEnterprise => "query_outbounds_enterprise",
    }
}

fn class_name(class: Class) -> &'static str {
    match class {
        Class::Lookup => "lookup",
        Class::Command => "command",
        Class::Feed => "feed",
        Class::LatePass => "late_pass",
        Class::Backfill => "backfill",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch_everything(metrics: &Metrics) {
        let second = Duration::from_secs(1);
        metrics.command_received();
        metrics.command_settled("CREATED", true);
        metrics.dead_letter("commands", "undecodable");
        metrics.erp_call(Call::CreateOrder, Class::Command, "ok", second);
        metrics.command_seconds(second);
        metrics.transaction("commands", "committed", 7, second);
        metrics.commands_now(1, 2, 3, 4);
        metrics.feed_event(Feed::PurchaseReturns, "r");
        metrics.feed_window(Feed::PurchaseReturns, "live", 10, 4, 2);
        metrics.feed_lag(Feed::PurchaseReturns, "live", Duration::from_millis(1500));
        metrics.feed_entered(Feed::ReturnOutbounds);
        metrics.feed_late_row(Feed::ReturnOutbounds, second);
        metrics.feed_older(Feed::ReturnOutbounds, false);
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
            "wdt_connector_erp_calls_total{call=\"create_order\",class=\"command\",result=\"ok\"} 1",
            "wdt_connector_transaction_records_total{route=\"commands\"} 7",
            "wdt_connector_commands_in_doubt 4",
            "wdt_connector_feed_rows_total{feed=\"purchase_returns\",pass=\"live\",content=\"changed\"} 6",
            "wdt_connector_feed_lag_seconds{feed=\"purchase_returns\",pass=\"live\"} 1.5",
            "wdt_connector_feed_drift_fields_total{feed=\"return_outbounds\",kind=\"unknown\",field=\"detail_list.\\\"new\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.contains(concat!("wdt_connector_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1")));
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
                assert!(family.starts_with("wdt_connector_"), "{line}");
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
        assert_eq!(text.matches("wdt_connector_feed_drift_fields_total{").count(), MAX_DRIFT_FIELDS + 1);
        assert!(text.contains("field=\"other\"} 800"));
    }
}
