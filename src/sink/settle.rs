//! Hop 6: outcomes, intents and offsets become the records of one transaction.

use std::sync::Arc;

use crate::{
    clock::{Timestamp, millis},
    config::Topics,
    explanation::Explanation,
    kafka::{Delivered, Outgoing},
    schema::{
        Codec, CommandResult, EntryKind, ExplanationFields, JournalEntry, Outcome, SchemaFault,
    },
};

use super::journal::{ANSWERED, Ending, Life, Timing};

/// The names of the topics the pipeline writes, shared by every record.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub commands: Arc<str>,
    pub results: Arc<str>,
    pub commands_dlq: Arc<str>,
    pub journal: Arc<str>,
    pub control: Arc<str>,
}

impl Names {
    /// The same where the records come from the control topic.
    #[must_use]
    pub(super) fn of_decisions(&self) -> Self {
        Self { commands: Arc::clone(&self.control), ..self.clone() }
    }
}

impl From<&Topics> for Names {
    fn from(topics: &Topics) -> Self {
        Self {
            commands: topics.commands.as_str().into(),
            results: topics.results.as_str().into(),
            commands_dlq: topics.commands_dlq.as_str().into(),
            journal: topics.journal.as_str().into(),
            control: topics.control.as_str().into(),
        }
    }
}

#[cfg(test)]
impl Names {
    /// Short ones for tests.
    pub(super) fn short() -> Self {
        Self {
            commands: "c".into(),
            results: "r".into(),
            commands_dlq: "d".into(),
            journal: "j".into(),
            control: "k".into(),
        }
    }
}

/// The journal's key of a command: a JSON array, so that no two pairs are the same text.
#[must_use]
pub(crate) fn journal_key(return_no: &str, command_id: &str) -> Vec<u8> {
    serde_json::json!([return_no, command_id]).to_string().into_bytes()
}

/// What every journal key of a return begins with.
#[must_use]
pub(super) fn journal_prefix(return_no: &str) -> Vec<u8> {
    let mut key = serde_json::json!([return_no]).to_string();
    key.pop();
    key.push(',');
    key.into_bytes()
}

/// The entry an intent is.
#[must_use]
pub(super) fn intent_entry(
    life: &Life,
    key: (&str, &str),
    warehouse_no: &str,
    written_at: Timestamp,
    timing: &Timing,
) -> JournalEntry {
    JournalEntry {
        kind: EntryKind::Intent,
        version: life.version + 1,
        attempt: i32::try_from(life.next_attempt()).unwrap_or(i32::MAX),
        first_intent_at: life.first_intent_at.or(Some(written_at)),
        bound_ms: i64::try_from(millis(timing.bound())).unwrap_or(i64::MAX),
        candidates: life.dismissed.clone(),
        ..entry(life, key, warehouse_no, written_at)
    }
}

/// The intent again with what the ERP said since: of a probably created order a restart must not
/// call again, and what was refused is no attempt without an answer.
#[must_use]
pub(super) fn noted_entry(
    life: &Life,
    key: (&str, &str),
    warehouse_no: &str,
    written_at: Timestamp,
    timing: &Timing,
) -> JournalEntry {
    let attempt = i32::try_from(life.attempt).unwrap_or(i32::MAX);
    let intent = intent_entry(life, key, warehouse_no, written_at, timing);
    let bound_ms = if life.rejection.is_some() { ANSWERED } else { intent.bound_ms };
    JournalEntry { attempt, bound_ms, ..intent }
}

/// The entry an outcome is.
#[must_use]
pub(super) fn outcome_entry(
    life: &Life,
    ending: &Ending,
    key: (&str, &str),
    warehouse_no: &str,
    written_at: Timestamp,
) -> JournalEntry {
    JournalEntry {
        kind: EntryKind::Outcome,
        version: life.version + 1,
        outcome: Some(ending.outcome),
        outbound_no: ending.outbound_no.clone(),
        explanation: explanation(life, ending).into(),
        candidates: ending.candidates.clone(),
        recovered: ending.recovered,
        ..entry(life, key, warehouse_no, written_at)
    }
}

/// Why a person must decide, or what the ERP's text means.
fn explanation(life: &Life, ending: &Ending) -> Option<Explanation> {
    ending.reason.clone().or_else(|| life.last_refusal.as_ref()?.explanation.clone())
}

fn entry(
    life: &Life,
    (return_no, command_id): (&str, &str),
    warehouse_no: &str,
    written_at: Timestamp,
) -> JournalEntry {
    let said = life.last_refusal.as_ref();
    JournalEntry {
        kind: EntryKind::Intent,
        version: life.version,
        return_no: return_no.to_owned(),
        command_id: command_id.to_owned(),
        warehouse_no: warehouse_no.to_owned(),
        fingerprint: life.fingerprint.to_vec(),
        marker: life.marker.clone(),
        attempt: i32::try_from(life.attempt).unwrap_or(i32::MAX),
        refusals: life.refusals,
        bound_ms: 0,
        first_intent_at: life.first_intent_at,
        written_at,
        source_partition: life.source_partition,
        source_offset: life.source_offset,
        outcome: None,
        outbound_no: None,
        erp_code: said.map(|refusal| refusal.code),
        erp_message: said.map(|refusal| refusal.message.clone()),
        explanation: said.and_then(|refusal| refusal.explanation.clone()).into(),
        warning: life.warning.clone(),
        candidates: Vec::new(),
        recovered: false,
        resolved: false,
        first_attempt_at: life.first_attempt_at,
        last_attempt_at: life.last_attempt_at,
        nonce: None,
        partitions: None,
    }
}

/// A journal entry that belongs to no command: a barrier.
#[must_use]
pub(super) fn bare_entry(
    kind: EntryKind,
    partition: i32,
    warehouse_no: &str,
    written_at: Timestamp,
) -> JournalEntry {
    JournalEntry {
        kind,
        version: 1,
        return_no: String::new(),
        command_id: String::new(),
        warehouse_no: warehouse_no.to_owned(),
        fingerprint: Vec::new(),
        marker: String::new(),
        attempt: 0,
        refusals: 0,
        bound_ms: 0,
        first_intent_at: None,
        written_at,
        source_partition: partition,
        source_offset: -1,
        outcome: None,
        outbound_no: None,
        erp_code: None,
        erp_message: None,
        explanation: ExplanationFields::default(),
        warning: None,
        candidates: Vec::new(),
        recovered: false,
        resolved: false,
        first_attempt_at: None,
        last_attempt_at: None,
        nonce: None,
        partitions: None,
    }
}

/// A result's fields that do not come from the journal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    pub topic: &'a str,
    pub record: &'a Delivered,
    pub settled_at: Timestamp,
}

/// The result of a command that has a journal entry: its own settlement, or its recorded outcome
/// again.
#[must_use]
pub(super) fn result_of(
    entry: &JournalEntry,
    duplicate: bool,
    origin: Origin<'_>,
) -> CommandResult {
    CommandResult {
        command_id: entry.command_id.clone(),
        return_no: entry.return_no.clone(),
        outcome: entry.outcome.unwrap_or(Outcome::InDoubt),
        outbound_no: entry.outbound_no.clone(),
        erp_code: entry.erp_code,
        erp_message: entry.erp_message.clone(),
        explanation: entry.explanation.clone(),
        warning: entry.warning.clone(),
        violations: Vec::new(),
        candidates: entry.candidates.clone(),
        attempts: entry.attempt,
        recovered: entry.recovered,
        duplicate,
        resolved: entry.resolved,
        first_attempt_at: entry.first_attempt_at,
        last_attempt_at: entry.last_attempt_at,
        settled_at: origin.settled_at,
        source_topic: origin.topic.to_owned(),
        source_partition: origin.record.lease.partition,
        source_offset: origin.record.offset,
    }
}

/// The result of a command that never touches the journal: `INVALID` or `EXPIRED`.
#[must_use]
pub(super) fn result_without_entry(
    outcome: Outcome,
    (return_no, command_id): (&str, &str),
    violations: Vec<String>,
    origin: Origin<'_>,
) -> CommandResult {
    CommandResult {
        command_id: command_id.to_owned(),
        return_no: return_no.to_owned(),
        outcome,
        outbound_no: None,
        erp_code: None,
        erp_message: None,
        explanation: ExplanationFields::default(),
        warning: None,
        violations,
        candidates: Vec::new(),
        attempts: 0,
        recovered: false,
        duplicate: false,
        resolved: false,
        first_attempt_at: None,
        last_attempt_at: None,
        settled_at: origin.settled_at,
        source_topic: origin.topic.to_owned(),
        source_partition: origin.record.lease.partition,
        source_offset: origin.record.offset,
    }
}

/// Bytes of a trace header that travel on: W3C's own bound on `tracestate` is 512 characters.
const MOST_TRACE: usize = 4096;
/// One of each; a sender may repeat them.
const TRACE_HEADERS: usize = 2;

/// The record of a result; W3C trace headers travel from the command.
///
/// # Errors
/// [`SchemaFault`] when the value does not fit its schema.
pub(super) fn result_record(
    codec: &Codec,
    names: &Names,
    result: &CommandResult,
    command: &Delivered,
) -> Result<Outgoing, SchemaFault> {
    let of_trace = |(key, value): &&(String, Option<Vec<u8>>)| {
        (key == "traceparent" || key == "tracestate")
            && value.as_ref().is_none_or(|value| value.len() <= MOST_TRACE)
    };
    let headers = command.headers.iter().filter(of_trace).take(TRACE_HEADERS).cloned().collect();
    Ok(Outgoing {
        topic: Arc::clone(&names.results),
        partition: None,
        key: Some(result.return_no.clone().into_bytes()),
        value: Some(codec.encode_result(result)?),
        headers,
    })
}

/// The record of a journal entry, in the partition of the same number.
///
/// # Errors
/// [`SchemaFault`] when the value does not fit its schema.
pub(super) fn journal_record(
    codec: &Codec,
    names: &Names,
    partition: i32,
    key: Vec<u8>,
    entry: &JournalEntry,
) -> Result<Outgoing, SchemaFault> {
    Ok(Outgoing {
        topic: Arc::clone(&names.journal),
        partition: Some(partition),
        key: Some(key),
        value: Some(codec.encode_journal(entry)?),
        headers: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journal_keys_are_unambiguous_and_share_their_returns_prefix() {
        assert_eq!(journal_key("R\"1", "c"), br#"["R\"1","c"]"#);
        assert_ne!(journal_key("a", "b\",\"c"), journal_key("a\",\"b", "c"));
        assert!(journal_key("R1", "c").starts_with(&journal_prefix("R1")));
        assert!(!journal_key("R12", "c").starts_with(&journal_prefix("R1")));
    }
}
