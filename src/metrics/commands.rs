//! What the command pipeline counts.

use std::time::Duration;

use prometheus_client::{
    metrics::counter::Counter, metrics::family::Family, metrics::gauge::Gauge, registry::Registry,
};

use super::{Commands, Counters, Float, Metrics, Name, add, command_seconds};

/// The circuit breaker's states.
const CIRCUITS: [&str; 3] = ["closed", "open", "half_open"];

/// Gauges of the command pipeline, put together every time it reports.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CommandsNow {
    /// Commands delivered and not yet settled.
    pub pending: usize,
    /// Calls on the wire.
    pub calls: usize,
    pub open_intents: usize,
    /// Commands whose outcome is unknown and is looked up, and the age of the oldest.
    pub unverified: usize,
    pub unverified_age: Duration,
    /// `closed`, `open`, `half_open`.
    pub circuit: &'static str,
}

impl Commands {
    pub(super) fn new(r: &mut Registry) -> Self {
        let results: Counters<2> = add(r, Name::CommandResults, Family::default());
        for outcome in ["CREATED", "REJECTED", "INVALID", "IN_DOUBT", "EXPIRED"] {
            drop(results.get_or_create(&[("outcome", outcome), ("duplicate", "false")]));
        }
        Self {
            received: add(r, Name::CommandsReceived, Counter::default()),
            forwarded: add(r, Name::CommandsForwarded, Counter::default()),
            log_resets: add(r, Name::CommandsLogResets, Counter::default()),
            removed_unread: add(r, Name::CommandsRemovedUnread, Counter::default()),
            results,
            seconds: add(r, Name::CommandDuration, command_seconds()),
            end_to_end: add(r, Name::CommandEndToEnd, command_seconds()),
            lag: add(r, Name::ConsumerLag, Family::default()),
            pending: add(r, Name::CommandsPending, Gauge::default()),
            in_doubt: add(r, Name::CommandsUnverified, Gauge::default()),
            in_doubt_age: add(r, Name::CommandsUnverifiedAge, Float::default()),
            undecided: add(r, Name::CommandsAwaitingResolution, Gauge::default()),
            undecided_age: add(r, Name::CommandsAwaitingResolutionAge, Float::default()),
            circuit: add(r, Name::CommandsCircuitBreaker, Family::default()),
            intents_open: add(r, Name::IntentsOpen, Gauge::default()),
            calls_in_flight: add(r, Name::ErpCallsInFlight, Gauge::default()),
        }
    }
}

impl Metrics {
    /// One command record was delivered.
    pub(crate) fn command_received(&self) {
        self.commands.received.inc();
    }

    /// One command record was written to its key's partition.
    pub(crate) fn command_forwarded(&self) {
        self.commands.forwarded.inc();
    }

    /// A partition of the commands topic was begun anew.
    pub(crate) fn commands_log_reset(&self) {
        self.commands.log_resets.inc();
    }

    /// Retention removed these before they were read.
    pub(crate) fn commands_removed_unread(&self, records: u64) {
        self.commands.removed_unread.inc_by(records);
    }

    /// Since the process began: partitions that were begun anew, and records that were removed
    /// unread.
    pub(crate) fn commands_log(&self) -> (u64, u64) {
        (self.commands.log_resets.get(), self.commands.removed_unread.get())
    }

    /// One result was committed: `CREATED`…, and whether it was a duplicate.
    pub(crate) fn command_settled(&self, outcome: &'static str, duplicate: bool) {
        let duplicate = if duplicate { "true" } else { "false" };
        self.commands
            .results
            .get_or_create(&[("outcome", outcome), ("duplicate", duplicate)])
            .inc();
    }

    /// How long a command took until its result was committed: from its delivery, and from its
    /// record's own time.
    pub(crate) fn command_seconds(&self, since_delivery: Duration, since_record: Option<Duration>) {
        self.commands.seconds.observe(since_delivery.as_secs_f64());
        if let Some(took) = since_record {
            self.commands.end_to_end.observe(took.as_secs_f64());
        }
    }

    /// Gauges: commands in doubt that wait for a person, and how long the oldest has.
    pub(crate) fn commands_undecided(&self, commands: usize, oldest: Duration) {
        self.commands.undecided.set(i64::try_from(commands).unwrap_or(i64::MAX));
        self.commands.undecided_age.set(oldest.as_secs_f64());
    }

    /// Gauges of the pipeline as it is now.
    pub(crate) fn commands_now(&self, now: CommandsNow) {
        let all = &self.commands;
        for (gauge, value) in [
            (&all.pending, now.pending),
            (&all.calls_in_flight, now.calls),
            (&all.intents_open, now.open_intents),
            (&all.in_doubt, now.unverified),
        ] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        all.in_doubt_age.set(now.unverified_age.as_secs_f64());
        for state in CIRCUITS {
            all.circuit.get_or_create(&[("state", state)]).set(if state == now.circuit {
                1.0
            } else {
                0.0
            });
        }
    }

    /// Gauge: offsets between what a consumer group has committed and the end of a partition,
    /// whoever owns it; not set before a broker has answered.
    pub(crate) fn consumer_lag(&self, group: &str, partition: i32, records: u64) {
        self.commands
            .lag
            .get_or_create(&vec![("group", group.to_owned()), ("partition", partition.to_string())])
            .set(i64::try_from(records).unwrap_or(i64::MAX));
    }
}
