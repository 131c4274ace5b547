//! Prometheus metrics: [`names`] lists every family, the other files count.
//!
//! `deploy/metrics.md` is generated from the same list; a test fails when the two differ.

mod commands;
mod erp;
mod feeds;
mod hop;
mod names;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Metric, Registry},
};

use crate::clock::Timestamp;

pub(crate) use commands::CommandsNow;
pub(crate) use hop::Hop;
use names::Name;

/// Label names and values; all of them words of closed sets.
type Labels<const N: usize> = [(&'static str, &'static str); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Histograms<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;
type Float = Gauge<f64, AtomicU64>;
type Gauges<const N: usize> = Family<Labels<N>, Float>;

/// Fields that may appear as a label; the ERP's further inventions are counted together as `other`.
const MAX_DRIFT_FIELDS: usize = 200;

/// All metric families; shared behind an `Arc`, every method is cheap.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    process: Process,
    ready: Gauge,
    healthy: Gauge,
    loop_silence: Gauges<1>,
    pipeline_paused: Gauges<1>,
    reloads: Counters<2>,
    last_reload_successful: Gauge,
    hop_outcomes: Counters<3>,
    hop_seconds: Histograms<2>,
    dead_letters: Counters<2>,
    transactions: Counters<2>,
    transaction_records: Counters<1>,
    transaction_seconds: Histograms<1>,
    partitions_owned: Gauges<1>,
    partitions_unowned: Gauges<1>,
    partitions_restoring: Gauges<1>,
    restored_records: Counters<1>,
    commands: Commands,
    erp_calls: Counters<3>,
    erp_call_seconds: Histograms<1>,
    erp_permit_seconds: Histograms<2>,
    erp_unseen: Counter,
    erp_skew: Gauges<1>,
    quota: Quota,
    feeds: Feeds,
}

#[derive(Debug)]
struct Process {
    cpu: Counter<f64, AtomicU64>,
    memory: Gauge,
    files: Gauge,
}

#[derive(Debug)]
struct Commands {
    received: Counter,
    forwarded: Counter,
    log_resets: Counter,
    removed_unread: Counter,
    results: Counters<2>,
    seconds: Histogram,
    end_to_end: Histogram,
    lag: Family<Vec<(&'static str, String)>, Gauge>,
    pending: Gauge,
    in_doubt: Gauge,
    in_doubt_age: Float,
    undecided: Gauge,
    undecided_age: Float,
    circuit: Gauges<1>,
    intents_open: Gauge,
    calls_in_flight: Gauge,
}

#[derive(Debug)]
struct Quota {
    rate: Gauges<1>,
    used: Gauges<2>,
    waiting: Gauges<2>,
    refusals: Counters<1>,
    resting: Gauges<1>,
}

#[derive(Debug)]
struct Feeds {
    events: Counters<2>,
    event_seconds: Histograms<1>,
    state: Gauges<2>,
    progress: Gauges<2>,
    windows: Counters<2>,
    rows: Counters<3>,
    pages: Counters<2>,
    lag: Gauges<2>,
    entered: Counters<1>,
    incomplete: Counters<1>,
    unproven: Gauges<1>,
    not_shown: Counters<1>,
    too_late: Counters<1>,
    late_rows: Counters<1>,
    late_seconds: Histograms<1>,
    older: Counters<2>,
    drift: Family<Vec<(&'static str, String)>, Counter>,
    drift_fields: Mutex<HashSet<String>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// From a call on loopback to a timeout.
fn call_seconds() -> Histogram {
    Histogram::new([
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    ])
}

/// From a permit that was there to a command at the end of a night's backlog.
fn permit_seconds() -> Histogram {
    Histogram::new([0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0])
}

/// From a row that was a second late to one that needed a person.
fn late_seconds() -> Histogram {
    Histogram::new([1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 86_400.0])
}

/// From a quiet command to one in doubt for hours.
fn command_seconds() -> Histogram {
    Histogram::new([
        0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0,
        7200.0,
    ])
}

/// From an event published at once to one that waited for a long outage.
fn event_seconds() -> Histogram {
    Histogram::new([1.0, 5.0, 15.0, 30.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0, 1800.0, 7200.0])
}

fn add<M: Metric + Clone>(registry: &mut Registry, name: Name, metric: M) -> M {
    let about = name.about();
    registry.register(about.full_name(), about.help, metric.clone());
    metric
}

fn histograms<const N: usize>(
    registry: &mut Registry,
    name: Name,
    make: fn() -> Histogram,
) -> Histograms<N> {
    add(registry, name, Family::new_with_constructor(make))
}

impl Metrics {
    /// All families, registered.
    #[must_use]
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let r = &mut registry;
        let about = Name::Build.about();
        r.register(
            about.full_name(),
            about.help,
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        let start = add(r, Name::ProcessStart, Float::default());
        start.set(
            Duration::from_millis(u64::try_from(Timestamp::now().0).unwrap_or(0)).as_secs_f64(),
        );
        Self {
            process: Process {
                cpu: add(r, Name::ProcessCpu, Counter::default()),
                memory: add(r, Name::ProcessMemory, Gauge::default()),
                files: add(r, Name::ProcessFiles, Gauge::default()),
            },
            ready: add(r, Name::Ready, Gauge::default()),
            healthy: add(r, Name::Healthy, Gauge::default()),
            loop_silence: add(r, Name::LoopHeartbeatAge, Family::default()),
            pipeline_paused: add(r, Name::PipelinePaused, Family::default()),
            reloads: add(r, Name::Reloads, Family::default()),
            last_reload_successful: {
                let gauge: Gauge = add(r, Name::LastReloadSuccessful, Gauge::default());
                gauge.set(1);
                gauge
            },
            hop_outcomes: add(r, Name::StageResults, Family::default()),
            hop_seconds: histograms(r, Name::StageDuration, command_seconds),
            dead_letters: add(r, Name::DeadLetterRecords, Family::default()),
            transactions: add(r, Name::Transactions, Family::default()),
            transaction_records: add(r, Name::TransactionRecords, Family::default()),
            transaction_seconds: histograms(r, Name::TransactionDuration, call_seconds),
            partitions_owned: add(r, Name::PartitionsOwned, Family::default()),
            partitions_unowned: add(r, Name::PartitionsUnowned, Family::default()),
            partitions_restoring: add(r, Name::PartitionsRestoring, Family::default()),
            restored_records: add(r, Name::RestoredRecords, Family::default()),
            commands: Commands::new(r),
            erp_calls: add(r, Name::ErpCalls, Family::default()),
            erp_call_seconds: histograms(r, Name::ErpCallDuration, call_seconds),
            erp_permit_seconds: histograms(r, Name::QuotaWait, permit_seconds),
            erp_unseen: add(r, Name::ErpUnknownResponses, Counter::default()),
            erp_skew: add(r, Name::ErpClockSkew, Family::default()),
            quota: Quota {
                rate: add(r, Name::QuotaCallsPerMinute, Family::default()),
                used: add(r, Name::QuotaUsed, Family::default()),
                waiting: add(r, Name::QuotaWaiting, Family::default()),
                refusals: add(r, Name::QuotaRefusals, Family::default()),
                resting: add(r, Name::QuotaCooldown, Family::default()),
            },
            feeds: Feeds::new(r),
            registry,
        }
    }

    /// The text of `/metrics` (OpenMetrics).
    #[must_use]
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            // Writing to a String does not fail; a scrape that did would have to look incomplete,
            // which this does without `# EOF`.
            text.clear();
        }
        text
    }

    /// What came out of a hop: a word of the hop's own closed set.
    pub(crate) fn hop(&self, hop: Hop, outcome: &'static str) {
        self.hops(hop, outcome, 1);
    }

    /// So many came out of a hop this way.
    pub(crate) fn hops(&self, hop: Hop, outcome: &'static str, times: usize) {
        self.hop_outcomes
            .get_or_create(&[
                ("pipeline", hop.pipeline()),
                ("stage", hop.name()),
                ("result", outcome),
            ])
            .inc_by(count(times));
    }

    /// How long a hop took, its waiting included.
    pub(crate) fn hop_seconds(&self, hop: Hop, took: Duration) {
        self.hop_seconds
            .get_or_create(&[("pipeline", hop.pipeline()), ("stage", hop.name())])
            .observe(took.as_secs_f64());
    }

    /// One record went to the dead letters of `pipeline` (`commands`, a feed's name) for `reason`
    /// (a closed set of words).
    pub(crate) fn dead_letter(&self, pipeline: &'static str, reason: &'static str) {
        self.dead_letters.get_or_create(&[("pipeline", pipeline), ("reason", reason)]).inc();
    }

    /// One transaction ended: `committed`, `aborted`, `unknown`, `refused`.
    pub(crate) fn transaction(
        &self,
        pipeline: &'static str,
        result: &'static str,
        records: usize,
        took: Duration,
    ) {
        self.transactions.get_or_create(&[("pipeline", pipeline), ("result", result)]).inc();
        self.transaction_seconds
            .get_or_create(&[("pipeline", pipeline)])
            .observe(took.as_secs_f64());
        if result == "committed" {
            self.transaction_records
                .get_or_create(&[("pipeline", pipeline)])
                .inc_by(count(records));
        }
    }

    /// Gauge: partitions of `pipeline` (`commands`, `feeds`) that were taken over, and that are
    /// being restored.
    pub(crate) fn partitions(&self, pipeline: &'static str, owned: usize, restoring: usize) {
        self.partitions_owned.get_or_create(&[("pipeline", pipeline)]).set(float(owned));
        self.partitions_restoring.get_or_create(&[("pipeline", pipeline)]).set(float(restoring));
    }

    /// Gauge: partitions that no member of the pipeline's group is assigned.
    pub(crate) fn partitions_unowned(&self, pipeline: &'static str, partitions: usize) {
        self.partitions_unowned.get_or_create(&[("pipeline", pipeline)]).set(float(partitions));
    }

    /// One record was read while restoring; called for each, so that progress shows.
    pub(crate) fn restored(&self, pipeline: &'static str) {
        self.restored_records.get_or_create(&[("pipeline", pipeline)]).inc();
    }

    /// Gauge: whether an operator has paused `pipeline` (`commands` or a feed's name).
    pub(crate) fn paused(&self, pipeline: &'static str, paused: bool) {
        self.pipeline_paused
            .get_or_create(&[("pipeline", pipeline)])
            .set(float(usize::from(paused)));
    }

    /// Secrets or certificates of a part (`erp`, `kafka`, `listener`, `registry`) were read anew:
    /// taken or refused.
    pub(crate) fn reloaded(&self, part: &'static str, taken: bool) {
        self.reloads
            .get_or_create(&[("part", part), ("result", if taken { "success" } else { "failure" })])
            .inc();
    }

    /// Gauge: whether the last reload of every part succeeded; true before the first.
    pub(crate) fn last_reload_successful(&self, successful: bool) {
        self.last_reload_successful.set(i64::from(successful));
    }

    /// Gauges of the probes, as of now: what they would say, and how long each loop has been
    /// silent.
    pub(crate) fn health(&self, ready: bool, healthy: bool, loops: &[(&'static str, Duration)]) {
        self.ready.set(i64::from(ready));
        self.healthy.set(i64::from(healthy));
        self.loop_silence.clear();
        for (name, silent) in loops {
            self.loop_silence.get_or_create(&[("loop", *name)]).set(silent.as_secs_f64());
        }
    }

    /// What the operating system says of this process: CPU seconds, resident bytes, open files.
    pub(crate) fn process(&self, cpu_seconds: f64, memory_bytes: u64, files: usize) {
        self.process.cpu.inner().store(cpu_seconds.to_bits(), Ordering::Relaxed);
        self.process.memory.set(i64::try_from(memory_bytes).unwrap_or(i64::MAX));
        self.process.files.set(i64::try_from(files).unwrap_or(i64::MAX));
    }
}

fn float(value: usize) -> f64 {
    f64::from(u32::try_from(value).unwrap_or(u32::MAX))
}

fn count(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
