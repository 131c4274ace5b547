//! The one list of metrics: name, kind, labels, help. `deploy/metrics.md` is written from it.

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Info,
    /// `_total` goes after its name.
    Counter,
    Gauge,
    Histogram,
}

/// What there is to say about a family.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "kind and labels are read by the test that keeps the reference true"
    )
)]
pub(super) struct About {
    pub kind: Kind,
    /// Without the prefix `wdt_connector_` and without a counter's `_total`; the names of
    /// `process_*` have no prefix, as Prometheus' client libraries export them.
    pub name: &'static str,
    pub labels: &'static [&'static str],
    /// One sentence without its full stop, as OpenMetrics text ends it.
    pub help: &'static str,
}

impl About {
    /// As it is exported, but for a counter's `_total`.
    pub(super) fn full_name(&self) -> String {
        if self.name.starts_with("process_") {
            self.name.to_owned()
        } else {
            format!("wdt_connector_{}", self.name)
        }
    }
}

macro_rules! names {
    ($($variant:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        /// Every family there is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Name {
            $($variant),*
        }

        impl Name {
            #[cfg(test)]
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub(super) const fn about(self) -> About {
                match self {
                    $(Self::$variant => About { kind: Kind::$kind, name: $name, labels: &[$($label),*], help: $help }),*
                }
            }
        }
    };
}

names! {
    Build: Info "build" ["version"] "Version of the running program";
    ProcessStart: Gauge "process_start_time_seconds" [] "When the process started, in seconds since 1970";
    ProcessCpu: Counter "process_cpu_seconds" [] "User and system CPU time spent so far";
    ProcessMemory: Gauge "process_resident_memory_bytes" [] "Memory in use";
    ProcessFiles: Gauge "process_open_fds" [] "Open file descriptors";
    Ready: Gauge "ready" [] "1 while /readyz answers 200: partitions assigned and restored";
    Healthy: Gauge "healthy" [] "1 while /healthz answers 200: every loop makes progress";
    LoopHeartbeatAge: Gauge "loop_heartbeat_age_seconds" ["loop"] "Time since a loop last made progress";
    PipelinePaused: Gauge "pipeline_paused" ["pipeline"] "1 while an operator has paused the pipeline";
    Reloads: Counter "reloads" ["part", "result"] "Reloads of secrets and certificates, by part and result";
    LastReloadSuccessful: Gauge "last_reload_successful" [] "1 while the last reload of every part succeeded; 0 while the files of some part were refused and its previous ones are in use";

    StageResults: Counter "stage_results" ["pipeline", "stage", "result"] "Results of a stage, counted once per record, window or transaction";
    StageDuration: Histogram "stage_duration_seconds" ["pipeline", "stage"] "Duration of a stage, including the time it waited";
    DeadLetterRecords: Counter "dead_letter_records" ["pipeline", "reason"] "Records written to a dead letter topic, by pipeline and reason";
    Transactions: Counter "transactions" ["pipeline", "result"] "Kafka transactions, by pipeline and result";
    TransactionRecords: Counter "transaction_records" ["pipeline"] "Records written in committed transactions";
    TransactionDuration: Histogram "transaction_duration_seconds" ["pipeline"] "Duration of one Kafka transaction";
    PartitionsOwned: Gauge "partitions_owned" ["pipeline"] "Partitions this instance owns";
    PartitionsUnowned: Gauge "partitions_unowned" ["pipeline"] "Partitions that no instance is assigned, in a stable consumer group or one whose rebalance does not end; every instance reports all of them";
    PartitionsRestoring: Gauge "partitions_restoring" ["pipeline"] "Partitions whose state is being restored; nothing is consumed from them meanwhile";
    RestoredRecords: Counter "restored_records" ["pipeline"] "Records read while restoring, counted as they are read";

    CommandsReceived: Counter "commands_received" [] "Command records delivered by Kafka";
    CommandsForwarded: Counter "commands_forwarded" [] "Command records found outside their key's partition and written to it; received once more there";
    CommandsLogResets: Counter "commands_log_resets" [] "Partitions of the commands topic that were read from their beginning again because their log ended before the committed offset, or was replaced";
    CommandsRemovedUnread: Counter "commands_removed_unread" [] "Offsets of the commands topic that retention removed before they were read; transaction markers among them count";
    CommandResults: Counter "command_results" ["outcome", "duplicate"] "Results committed, by outcome and whether the command was a duplicate";
    CommandDuration: Histogram "command_duration_seconds" [] "From a command's delivery to its committed result";
    CommandEndToEnd: Histogram "command_end_to_end_latency_seconds" [] "From the command record's own time to its committed result";
    ConsumerLag: Gauge "consumer_lag_records" ["group", "partition"] "Records behind the committed offset of a partition, up to the last stable offset: what stands behind a sender's open transaction is not counted; every instance reports every partition, whoever owns it";
    CommandsPending: Gauge "commands_pending" [] "Commands delivered and not yet settled";
    CommandsUnverified: Gauge "commands_unverified" [] "Commands whose outcome is unknown and is being looked up; they hold back their keys";
    CommandsUnverifiedAge: Gauge "commands_unverified_age_seconds" [] "Age of the oldest of them, 0 without one";
    CommandsAwaitingResolution: Gauge "commands_awaiting_resolution" [] "Commands that ended IN_DOUBT and await an operator's resolution";
    CommandsAwaitingResolutionAge: Gauge "commands_awaiting_resolution_age_seconds" [] "How long the oldest of them has waited, 0 without one";
    CommandsCircuitBreaker: Gauge "commands_circuit_breaker" ["state"] "1 for the state the circuit breaker is in";
    IntentsOpen: Gauge "intents_open" [] "Intents without outcome";

    ErpCalls: Counter "erp_calls" ["call", "priority", "result"] "Calls to the ERP, by call, priority and result";
    ErpCallDuration: Histogram "erp_call_duration_seconds" ["call"] "Duration of one call to the ERP";
    QuotaWait: Histogram "quota_wait_seconds" ["call", "priority"] "Time a call waited for the quota, by call and priority; of queries also for a place among the concurrent calls";
    ErpCallsInFlight: Gauge "erp_calls_in_flight" [] "Calls of the command pipeline in flight";
    ErpUnknownResponses: Counter "erp_unknown_responses" [] "Responses whose code or text is not in the table of known responses";
    ErpClockSkew: Gauge "erp_clock_skew_seconds" ["edition"] "How far the ERP's clock is ahead of this machine's";
    QuotaCallsPerMinute: Gauge "quota_calls_per_minute" ["call"] "Calls per minute in force now, after reductions for refused calls";
    QuotaUsed: Gauge "quota_used_calls" ["call", "priority"] "Calls made in the last minute";
    QuotaWaiting: Gauge "quota_waiting_calls" ["call", "priority"] "Calls waiting for the quota";
    QuotaRefusals: Counter "quota_refusals" ["call"] "Calls that the ERP refused because of its quota";
    QuotaCooldown: Gauge "quota_cooldown_seconds" ["call"] "Remaining cooldown after a refused call";

    FeedEvents: Counter "feed_events" ["feed", "op"] "Change events committed, by feed and operation";
    FeedEventLatency: Histogram "feed_event_latency_seconds" ["feed"] "From a record's modified time to its committed event, first read and backfill left out";
    FeedState: Gauge "feed_state" ["feed", "state"] "1 for the state the feed is in";
    FeedProgress: Gauge "feed_progress_ratio" ["feed", "what"] "How far the first read or a backfill is, 0 to 1; 1 when there is none";
    FeedWindows: Counter "feed_windows" ["feed", "pass"] "Windows read, by feed and pass";
    FeedRows: Counter "feed_rows" ["feed", "pass", "content"] "Rows read, by feed, pass and whether their content had changed";
    FeedPages: Counter "feed_pages" ["feed", "pass"] "Pages queried, by feed and pass";
    FeedLagSeconds: Gauge "feed_lag_seconds" ["feed", "pass"] "Time between now and the watermark of a pass, by the clock of this machine; absent where the feed runs elsewhere";
    FeedClosedWindowChanges: Counter "feed_closed_window_changes" ["feed"] "Closed windows in which a record appeared later: max_visibility_lag is too small";
    FeedIncompleteReads: Counter "feed_incomplete_reads" ["feed"] "Reads whose pages showed fewer records than the ERP counted; each is repeated";
    FeedUnprovenWindows: Gauge "feed_unproven_windows" ["feed"] "Windows that were passed although no read showed all that the ERP counts; each is read again";
    FeedRowsNotShown: Counter "feed_rows_not_shown" ["feed"] "Records that the ERP counts and does not show to the account (warehouse permission)";
    FeedRowsTooLate: Counter "feed_rows_too_late" ["feed"] "Records that entered windows which both passes had read; at least so many";
    FeedLateRows: Counter "feed_late_rows" ["feed"] "Rows that the live pass missed and the late pass published";
    FeedLateRowDelay: Histogram "feed_late_row_delay_seconds" ["feed"] "Delay of such rows";
    FeedOutOfOrderRows: Counter "feed_out_of_order_rows" ["feed", "result"] "Rows older than the published version, queried again by number: confirmed, skipped or deferred";
    FeedSchemaDrift: Counter "feed_schema_drift" ["feed", "kind", "field"] "Fields of ERP records that deviate from the schema";
}

/// Every label and the words it takes, for the reference.
#[cfg(test)]
pub(super) const LABELS: &[(&str, &str)] = &[
    (
        "call",
        "`create_order`, `query_purchase_returns`, `query_outbounds`, `query_outbounds_enterprise`; of budgets that pay for a whole account: `flagship`, `enterprise`",
    ),
    ("content", "`changed`, `unchanged`"),
    ("duplicate", "`true` for a copy of a command, whose outcome is repeated"),
    ("edition", "`flagship`, `enterprise`"),
    ("feed", "`purchase_returns`, `return_outbounds`"),
    ("field", "the ERP's own field name; after 200 names `other`"),
    ("group", "the consumer group's id, `kafka.application_id` followed by `.commands`"),
    (
        "kind",
        "`unknown` (not in the schema), `retyped` (another type than documented, or a number that does not fit), `missing` (documented and not sent)",
    ),
    ("loop", "`commands`, `feeds`, `feeds.purchase_returns`, `feeds.return_outbounds`"),
    ("op", "`r` first read or backfill, `c` new, `u` changed"),
    ("outcome", "`CREATED`, `REJECTED`, `INVALID`, `IN_DOUBT`, `EXPIRED`"),
    ("part", "`erp`, `kafka`, `listener`, `registry`"),
    ("partition", "a partition's number"),
    ("pass", "`live`, `late`, `shipped`, `backfill`, `unproven`"),
    (
        "pipeline",
        "`commands`, `purchase_returns`, `return_outbounds`; of transactions and partitions `commands`, `feeds`",
    ),
    ("priority", "`lookup` (unknown outcomes), `command`, `feed`, `late_pass`, `backfill`"),
    (
        "reason",
        "commands: `undecodable`, `invalid`, `in_doubt`, `resolution_rejected`; feeds: `record_error`",
    ),
    (
        "result",
        "stages: see the next table; calls: `ok`, `rejected`, `throttled`, `unreachable`, `unknown`, `misconfigured`, `withheld`, `unlisted`, `probably_created`; transactions: `committed`, `aborted`, `unknown`, `refused`; reloads: `success`, `failure`; out-of-order rows: `confirmed`, `skipped`, `deferred` (its second is read again)",
    ),
    (
        "stage",
        "commands: `command`, `validate`, `journal`, `call`, `outcome`, `settle`; feeds: `window`, `fetch`, `diff`, `change`, `publish`",
    ),
    (
        "state",
        "circuit: `closed`, `open`, `half_open`; feed: `elsewhere`, `restoring`, `snapshot`, `live`, `waiting` (the ERP does not answer), `blocked` (the ERP refuses the account or the query, or too many windows are unproven), `paused` (by an operator)",
    ),
    ("version", "of the program"),
    ("what", "`snapshot` (the first read), `backfill`"),
];

/// What each stage may come to, for the reference.
#[cfg(test)]
pub(super) const STAGE_RESULTS: &[(&str, &str)] = &[
    ("command", "`command`, `invalid`, `undecodable`, `awaiting_schema`"),
    ("validate", "`accepted`, `forwarded`, `invalid`"),
    ("journal", "`fresh`, `look_first`, `resume`, `repeat`, `duplicate`, `conflict`, `expired`"),
    (
        "call",
        "`ok`, `rejected`, `throttled`, `unreachable`, `withheld`, `unknown`, `misconfigured`; lookups: `found`, `suspects`, `absent`, `failed`",
    ),
    ("outcome", "`settle`, `new_intent`, `retry`, `retry_later`, `lookup`, `await_visibility`"),
    ("settle", "`CREATED`, `REJECTED`, `INVALID`, `IN_DOUBT`, `EXPIRED`"),
    ("window", "`live`, `late`, `shipped`, `backfill`, `unproven`"),
    (
        "fetch",
        "`rows`, `unproven`, `too_large`, `split`, `too_early`, `paging_ignored`, `throttled`, `unreachable`, `unusable`, `unlisted`, `too_wide`, `too_long`, `misconfigured`, `rejected`",
    ),
    ("diff", "`same`, `changed`, `requery`, `record_error`"),
    ("change", "`r`, `c`, `u`, `dead_letter`"),
    ("publish", "`committed`, `refused`, `unknown`, `aborted`"),
];
