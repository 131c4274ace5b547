//! The Rust shape of the values of our topics; `schemas/*.avsc` is the contract, these structs
//! mirror it.

use serde::{Deserialize, Serialize};

use crate::{clock::Timestamp, decimal::Decimal, explanation::Explanation};

use super::datum::{avro_enum, avro_record};

/// `schemas/CreateReturnOutbound.avsc`: a request to create one outbound order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateReturnOutbound {
    pub command_id: String,
    pub return_no: String,
    pub warehouse_no: String,
    pub logistics_code: Option<String>,
    /// `None` leaves it to the ERP.
    pub create_mode: Option<CreateMode>,
    pub remark: Option<String>,
    pub details: Vec<CommandLine>,
    pub issued_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
}

/// In which state the ERP creates the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CreateMode {
    Draft,
    Submitted,
    Approved,
}

impl CreateMode {
    /// The ERP's `create_mode`.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Draft => 0,
            Self::Submitted => 1,
            Self::Approved => 2,
        }
    }

    /// The name in schemas and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Draft => "DRAFT",
            Self::Submitted => "SUBMITTED",
            Self::Approved => "APPROVED",
        }
    }

    /// The inverse of [`CreateMode::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Draft, Self::Submitted, Self::Approved].into_iter().find(|mode| mode.name() == name)
    }
}

/// One line of a [`CreateReturnOutbound`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandLine {
    pub spec_no: String,
    pub num: Decimal,
    pub unit_name: Option<String>,
    pub position_no: Option<String>,
    pub batch_no: Option<String>,
    pub expire_date: Option<String>,
    pub defect: Option<bool>,
    pub remark: Option<String>,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Outcome {
    Created,
    Rejected,
    Invalid,
    InDoubt,
    Expired,
}

impl Outcome {
    /// The name in schemas, metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Rejected => "REJECTED",
            Self::Invalid => "INVALID",
            Self::InDoubt => "IN_DOUBT",
            Self::Expired => "EXPIRED",
        }
    }
}

/// The fields `explanation` and `explanation_zh` of a value: what the ERP's text, or our reason,
/// means. Both are filled or neither is, unless another program wrote the value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ExplanationFields {
    explanation: Option<String>,
    explanation_zh: Option<String>,
}

impl ExplanationFields {
    /// In English.
    #[must_use]
    pub fn en(&self) -> Option<&str> {
        self.explanation.as_deref()
    }

    /// In Chinese.
    #[must_use]
    pub fn zh(&self) -> Option<&str> {
        self.explanation_zh.as_deref()
    }

    /// Both languages, where both are there.
    #[must_use]
    pub fn both(&self) -> Option<Explanation> {
        Some(Explanation::new(self.en()?.to_owned(), self.zh()?.to_owned()))
    }
}

impl From<Explanation> for ExplanationFields {
    fn from(both: Explanation) -> Self {
        Self { explanation: Some(both.en().to_owned()), explanation_zh: Some(both.zh().to_owned()) }
    }
}

impl From<Option<Explanation>> for ExplanationFields {
    fn from(both: Option<Explanation>) -> Self {
        both.map(Self::from).unwrap_or_default()
    }
}

/// `schemas/CommandResult.avsc`: one per delivered record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandResult {
    pub command_id: String,
    pub return_no: String,
    pub outcome: Outcome,
    pub outbound_no: Option<String>,
    pub erp_code: Option<i64>,
    pub erp_message: Option<String>,
    #[serde(flatten)]
    pub explanation: ExplanationFields,
    pub warning: Option<String>,
    pub violations: Vec<String>,
    /// Order numbers a person has to look at: several found, or suspects without marker.
    pub candidates: Vec<String>,
    pub attempts: i32,
    pub recovered: bool,
    pub duplicate: bool,
    pub resolved: bool,
    pub first_attempt_at: Option<Timestamp>,
    pub last_attempt_at: Option<Timestamp>,
    pub settled_at: Timestamp,
    pub source_topic: String,
    pub source_partition: i32,
    pub source_offset: i64,
}

/// What a [`JournalEntry`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EntryKind {
    /// Written before the ERP is called; never expires.
    Intent,
    /// How the command ended.
    Outcome,
    /// Written by a new owner; reading up to it proves the journal is complete.
    Barrier,
}

/// `schemas/JournalEntry.avsc`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JournalEntry {
    pub kind: EntryKind,
    /// Grows by one with every entry of the same key.
    pub version: i64,
    /// Empty for barriers.
    pub return_no: String,
    pub command_id: String,
    pub warehouse_no: String,
    /// SHA-256 of the business content; empty for barriers.
    #[serde(with = "apache_avro::serde::bytes")]
    pub fingerprint: Vec<u8>,
    /// `#` and 13 characters of base32.
    pub marker: String,
    /// Number of the attempt this intent allows, from 1.
    pub attempt: i32,
    /// Unlisted refusals the ERP has answered for this command so far.
    pub refusals: i32,
    /// send-by + call timeout + settle time as the writer was configured, in milliseconds.
    pub bound_ms: i64,
    /// When the first intent of this command was written.
    pub first_intent_at: Option<Timestamp>,
    /// When this entry was written.
    pub written_at: Timestamp,
    /// Where the command that wrote the first intent stands.
    pub source_partition: i32,
    pub source_offset: i64,
    /// Outcome entries only.
    pub outcome: Option<Outcome>,
    pub outbound_no: Option<String>,
    pub erp_code: Option<i64>,
    pub erp_message: Option<String>,
    #[serde(flatten)]
    pub explanation: ExplanationFields,
    pub warning: Option<String>,
    pub candidates: Vec<String>,
    pub recovered: bool,
    pub resolved: bool,
    pub first_attempt_at: Option<Timestamp>,
    pub last_attempt_at: Option<Timestamp>,
    /// Barriers only: which owner wrote it.
    pub nonce: Option<String>,
    /// Barriers only: how many partitions the commands topic had.
    pub partitions: Option<i32>,
}

/// What a [`FeedState`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StateKind {
    Checkpoint,
    /// The last published version of one record.
    Record,
    /// A record that went to the dead letters; only its hash stands here.
    DeadLetter,
    /// Written by a new owner; reading up to it proves the state is complete.
    Barrier,
}

/// `schemas/FeedState.avsc`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedState {
    pub kind: StateKind,
    pub feed: String,
    /// The record's id in the ERP (`return_id`, `stockout_id`); `None` for checkpoints and
    /// barriers.
    pub record_id: Option<String>,
    /// The record's number (`return_no`, `order_no`).
    pub number: Option<String>,
    /// The record's modified time.
    pub modified: Option<Timestamp>,
    /// When the answer that showed this version was asked for, on the wall clock of the writer.
    pub asked_at: Option<Timestamp>,
    /// xxh3-128 of the ERP's JSON text, big endian; empty for checkpoints and barriers.
    #[serde(with = "apache_avro::serde::bytes")]
    pub content_hash: Vec<u8>,
    /// The record as last published, Avro single-object encoding; empty unless `kind` is RECORD.
    #[serde(with = "apache_avro::serde::bytes")]
    pub version: Vec<u8>,
    pub checkpoint: Option<Checkpoint>,
    /// Barriers only: which owner wrote it.
    pub nonce: Option<String>,
}

/// How far a feed has been read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The ERP account (`sid`) that the state is of, and its edition.
    pub account: String,
    pub edition: String,
    /// What was modified before is not read.
    pub start_at: Timestamp,
    /// Everything modified up to here has been published.
    pub watermark: Timestamp,
    /// The same for the late pass.
    pub late_watermark: Timestamp,
    /// Still reading for the first time: events are `r`.
    pub snapshot: bool,
    /// Hash of the filters the state was built with.
    pub filters_hash: String,
    /// Where a running backfill stands: from, to, position.
    pub backfill_from: Option<Timestamp>,
    pub backfill_to: Option<Timestamp>,
    pub backfill_position: Option<Timestamp>,
    /// Who asked for the running one; `None` when changed filters or an earlier start did.
    pub backfill_id: Option<String>,
    /// What the running one, or the last one, has read and published.
    pub backfill_rows: Option<i64>,
    pub backfill_events: Option<i64>,
    /// The request that was carried out or cancelled last, and how it ended: `finished` or
    /// `cancelled`.
    pub backfill_last: Option<String>,
    pub backfill_end: Option<String>,
    /// The last order to set the watermark that was carried out.
    pub watermark_id: Option<String>,
    /// When the last complete read of the orders shipped lately began, and of those shipped before;
    /// `None` where the feed has no such pass.
    pub shipped_recent_at: Option<Timestamp>,
    pub shipped_older_at: Option<Timestamp>,
    /// Where an operator had the feed skip to last: what a backfill finds before was not missed.
    pub skipped_to: Option<Timestamp>,
    /// Windows that are read again until a read proves to be complete, in the order of their times.
    pub unproven: Vec<UnprovenWindow>,
}

/// A window that was passed although no read of it proved to be complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnprovenWindow {
    pub from: Timestamp,
    pub to: Timestamp,
    /// When it was passed, on the wall clock of the writer.
    pub since: Timestamp,
    /// Found in it, an unseen record is `r`: a first read or a backfill passed it.
    pub snapshot: bool,
    /// Unseen records that were modified before this do not belong to the feed: the window is one of
    /// shipping days.
    pub records_since: Option<Timestamp>,
}

/// `source` of a change event (Debezium's envelope, plus ours).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Of the connector.
    pub version: String,
    /// Always `wdt`.
    pub connector: String,
    /// `kafka.application_id`.
    pub name: String,
    /// The record's modified time.
    pub ts_ms: Timestamp,
    /// `true`, `last` or `false`, as Debezium writes it.
    pub snapshot: Option<String>,
    /// Required by Debezium's consumers: the account (`sid`).
    pub db: String,
    /// The feed's name.
    pub table: String,
    /// `flagship` or `enterprise`.
    pub edition: String,
    pub sid: String,
    /// The ERP's name of the call.
    pub query: String,
    pub window_start: Option<Timestamp>,
    pub window_end: Option<Timestamp>,
    /// The command behind an outbound order, where known.
    pub command_id: Option<String>,
    pub marker: Option<String>,
}

// In the order of the schemas; the tests hold every one against `apache-avro` and the `.avsc`.

avro_enum!(CreateMode { Draft = 0, Submitted = 1, Approved = 2 });
avro_enum!(Outcome { Created = 0, Rejected = 1, Invalid = 2, InDoubt = 3, Expired = 4 });
avro_enum!(EntryKind { Intent = 0, Outcome = 1, Barrier = 2 });
avro_enum!(StateKind { Checkpoint = 0, Record = 1, DeadLetter = 2, Barrier = 3 });
avro_record!(CreateReturnOutbound {
    command_id,
    return_no,
    warehouse_no,
    logistics_code,
    create_mode,
    remark,
    details,
    issued_at,
    expires_at,
});
avro_record!(CommandLine {
    spec_no,
    num,
    unit_name,
    position_no,
    batch_no,
    expire_date,
    defect,
    remark
});
// Not a record of its own: a record's datum is that of its fields, one behind the other.
avro_record!(ExplanationFields { explanation, explanation_zh });
avro_record!(CommandResult {
    command_id,
    return_no,
    outcome,
    outbound_no,
    erp_code,
    erp_message,
    explanation,
    warning,
    violations,
    candidates,
    attempts,
    recovered,
    duplicate,
    resolved,
    first_attempt_at,
    last_attempt_at,
    settled_at,
    source_topic,
    source_partition,
    source_offset,
});
avro_record!(JournalEntry {
    kind,
    version,
    return_no,
    command_id,
    warehouse_no,
    fingerprint,
    marker,
    attempt,
    refusals,
    bound_ms,
    first_intent_at,
    written_at,
    source_partition,
    source_offset,
    outcome,
    outbound_no,
    erp_code,
    erp_message,
    explanation,
    warning,
    candidates,
    recovered,
    resolved,
    first_attempt_at,
    last_attempt_at,
    nonce,
    partitions,
});
avro_record!(FeedState {
    kind,
    feed,
    record_id,
    number,
    modified,
    asked_at,
    content_hash,
    version,
    checkpoint,
    nonce
});
avro_record!(Checkpoint {
    account,
    edition,
    start_at,
    watermark,
    late_watermark,
    snapshot,
    filters_hash,
    backfill_from,
    backfill_to,
    backfill_position,
    backfill_id,
    backfill_rows,
    backfill_events,
    backfill_last,
    backfill_end,
    watermark_id,
    unproven,
    shipped_recent_at,
    shipped_older_at,
    skipped_to,
});
avro_record!(UnprovenWindow { from, to, since, snapshot, records_since });
avro_record!(Source {
    version,
    connector,
    name,
    ts_ms,
    snapshot,
    db,
    table,
    edition,
    sid,
    query,
    window_start,
    window_end,
    command_id,
    marker,
});
