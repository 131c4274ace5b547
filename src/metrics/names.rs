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
    /// Without the prefix `wdt_connector_` and without a counter's `_total`.
    pub name: &'static str,
    pub labels: &'static [&'static str],
    /// One sentence without its full stop, as OpenMetrics text ends it.
    pub help: &'static str,
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
    Ready: Gauge "ready" [] "1 while /readyz says so: partitions assigned and restored";
    Healthy: Gauge "healthy" [] "1 while /healthz says so: every loop makes progress";
    LoopSilence: Gauge "loop_silence_seconds" ["loop"] "Time since a loop last turned";
    RoutePaused: Gauge "route_paused" ["route"] "1 while an operator has paused the route";
    Reloads: Counter "reloads" ["part", "result"] "Reloads of secrets and certificates, by part and whether the new ones were taken or refused";
    ReloadRefused: Gauge "reload_refused" [] "1 while the last reload was refused and the configuration before it is in force";

    HopOutcomes: Counter "hop_outcomes" ["route", "hop", "outcome"] "What came out of a hop, counted once per record, window or transaction";
    HopSeconds: Histogram "hop_seconds" ["route", "hop"] "How long a hop took, its waiting included";
    DeadLetterRecords: Counter "dead_letter_records" ["route", "reason"] "Records that went to the dead letters, by route and reason";
    Transactions: Counter "transactions" ["route", "result"] "Kafka transactions, by route and result";
    TransactionRecords: Counter "transaction_records" ["route"] "Records written in committed transactions";
    TransactionSeconds: Histogram "transaction_seconds" ["route"] "Duration of one Kafka transaction";
    PartitionsOwned: Gauge "partitions_owned" ["route"] "Partitions this instance has taken over";
    PartitionsRestoring: Gauge "partitions_restoring" ["route"] "Partitions that are being restored: nothing is read from them meanwhile";
    RestoredRecords: Counter "restored_records" ["route"] "Records read while restoring, counted as they are read";

    CommandsReceived: Counter "commands_received" [] "Command records delivered by Kafka";
    CommandResults: Counter "command_results" ["outcome", "duplicate"] "Results committed, by outcome and whether the command was a duplicate";
    CommandSeconds: Histogram "command_seconds" [] "From a command's delivery to its committed result";
    CommandEndToEnd: Histogram "command_end_to_end_seconds" [] "From the command record's own time to its committed result";
    CommandsLag: Gauge "commands_lag_records" [] "Records behind the committed offsets, over the partitions this instance owns";
    CommandsPending: Gauge "commands_pending" [] "Commands delivered and not yet settled";
    CommandsInDoubt: Gauge "commands_in_doubt" [] "Keys held back by a command in doubt";
    CommandsInDoubtAge: Gauge "commands_in_doubt_age_seconds" [] "Age of the oldest command in doubt, 0 without one";
    CommandsUndecided: Gauge "commands_undecided" [] "Commands that ended in doubt and wait for a person's decision";
    CommandsUndecidedAge: Gauge "commands_undecided_age_seconds" [] "How long the oldest of them has waited, 0 without one";
    CommandsCircuit: Gauge "commands_circuit" ["state"] "1 for the state the circuit breaker is in";
    IntentsOpen: Gauge "intents_open" [] "Intents without outcome";

    ErpCalls: Counter "erp_calls" ["call", "class", "result"] "Calls to the ERP, by call, class and result";
    ErpCallSeconds: Histogram "erp_call_seconds" ["call"] "Duration of one call to the ERP";
    ErpPermitSeconds: Histogram "erp_permit_seconds" ["call", "class"] "How long the quota let a call wait, by the class of who made it";
    ErpCallsInFlight: Gauge "erp_calls_in_flight" [] "Calls of the command route on the wire";
    ErpUnseenAnswers: Counter "erp_unseen_answers" [] "Answers whose code or text the table of known answers does not hold";
    ErpClockSkew: Gauge "erp_clock_skew_seconds" ["edition"] "How far the ERP's clock is ahead of this machine's";
    QuotaRate: Gauge "quota_rate_per_minute" ["call"] "Calls a minute in force now, what refusals took away deducted";
    QuotaUsed: Gauge "quota_used_calls" ["call", "class"] "Calls of the last minute";
    QuotaWaiting: Gauge "quota_waiting_calls" ["call", "class"] "Who waits for a permit";
    QuotaRefusals: Counter "quota_refusals" ["call"] "Calls the ERP's quota has refused";
    QuotaResting: Gauge "quota_resting_seconds" ["call"] "How long the budget still rests after a refusal";

    FeedEvents: Counter "feed_events" ["feed", "op"] "Change events committed, by feed and operation";
    FeedEventSeconds: Histogram "feed_event_seconds" ["feed"] "From a record's modified time to its committed event, first read and backfill left out";
    FeedState: Gauge "feed_state" ["feed", "state"] "1 for the state the feed is in";
    FeedProgress: Gauge "feed_progress_ratio" ["feed", "what"] "How far the first read or a backfill is, 0 to 1; 1 when there is none";
    FeedWindows: Counter "feed_windows" ["feed", "pass"] "Windows read, by feed and pass";
    FeedRows: Counter "feed_rows" ["feed", "pass", "content"] "Rows read, by feed, pass and whether their content had changed";
    FeedPages: Counter "feed_pages" ["feed", "pass"] "Pages asked for, by feed and pass";
    FeedLagSeconds: Gauge "feed_lag_seconds" ["feed", "pass"] "How far the watermark of a pass is behind now";
    FeedEnteredWindows: Counter "feed_entered_windows" ["feed"] "Closed windows that something entered: max_visibility_lag is underestimated";
    FeedLateRows: Counter "feed_late_rows" ["feed"] "Rows the first pass missed and the late pass published";
    FeedLateSeconds: Histogram "feed_late_seconds" ["feed"] "How late such rows were";
    FeedOlderRows: Counter "feed_older_rows" ["feed", "result"] "Rows older than the state, asked for by number: confirmed or skipped";
    FeedDriftFields: Counter "feed_drift_fields" ["feed", "kind", "field"] "Fields of ERP records that deviate from the schema";
}

/// Every label and the words it takes, for the reference.
#[cfg(test)]
pub(super) const LABELS: &[(&str, &str)] = &[
    (
        "call",
        "`create_order`, `query_purchase_returns`, `query_outbounds`, `query_outbounds_enterprise`; of budgets that pay for a whole account: `flagship`, `enterprise`",
    ),
    ("class", "`lookup` (commands in doubt), `command`, `feed`, `late_pass`, `backfill`"),
    ("content", "`changed`, `unchanged`"),
    ("duplicate", "`true` for a copy of a command, whose outcome is repeated"),
    ("edition", "`flagship`, `enterprise`"),
    ("feed", "`purchase_returns`, `return_outbounds`"),
    ("field", "the ERP's own field name; after 200 names `other`"),
    (
        "hop",
        "commands: `command`, `validate`, `journal`, `call`, `outcome`, `settle`; feeds: `window`, `fetch`, `diff`, `change`, `publish`",
    ),
    ("kind", "`unknown` (not in the schema), `retyped` (another type than documented)"),
    ("loop", "`commands`, `feeds`, `feeds.purchase_returns`, `feeds.return_outbounds`"),
    ("op", "`r` first read or backfill, `c` new, `u` changed"),
    (
        "outcome",
        "results: `CREATED`, `REJECTED`, `INVALID`, `IN_DOUBT`, `EXPIRED`; hops: their own words",
    ),
    ("part", "`erp`, `kafka`, `listener`, `registry`"),
    ("pass", "`live`, `late`, `backfill`"),
    ("reason", "commands: `undecodable`, `invalid`, `in_doubt`, `refused`; feeds: `misfit`"),
    (
        "result",
        "calls: `ok`, `rejected`, `throttled`, `unreachable`, `unknown`, `misconfigured`, `withheld`; transactions: `committed`, `aborted`, `unknown`, `refused`; reloads: `taken`, `refused`; older rows: `confirmed`, `skipped`",
    ),
    (
        "route",
        "`commands`, `purchase_returns`, `return_outbounds`; of transactions and partitions `commands`, `feeds`",
    ),
    (
        "state",
        "circuit: `closed`, `open`, `half_open`; feed: `elsewhere`, `restoring`, `snapshot`, `live`, `waiting`, `paused`, `held`",
    ),
    ("version", "of the program"),
    ("what", "`snapshot` (the first read), `backfill`"),
];
