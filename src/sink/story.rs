//! What happens to a command, told: metrics per hop, its way on the board, the last results and
//! dead letters.

use serde_json::json;

use crate::{
    board::Story,
    clock::Moment,
    erp::{Answer, Call},
    metrics::Hop,
    schema::{CommandResult, CreateReturnOutbound, Outcome},
    text::shortened,
};

use super::{
    command::Parsed,
    engine::{Engine, Ready},
    journal::{Finding, Step, Verdict},
    letter::Death,
};

impl Parsed {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Command(_) => "command",
            Self::Invalid { .. } => "invalid",
            Self::Poison(_) => "undecodable",
            Self::Unlearnt(_) => "awaiting_schema",
        }
    }
}

impl Verdict {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Fresh(_) => "fresh",
            Self::LookFirst(_) => "look_first",
            Self::Resume(_) => "resume",
            Self::Repeat(..) => "repeat",
            Self::Duplicate(_) => "duplicate",
            Self::Conflict => "conflict",
            Self::Expired => "expired",
        }
    }
}

impl Finding {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Found(_) => "found",
            Self::Suspects(_) => "suspects",
            Self::Absent { .. } => "absent",
            Self::Failed(_) => "failed",
        }
    }

    pub(super) fn detail(&self) -> Option<String> {
        match self {
            Self::Found(orders) | Self::Suspects(orders) => Some(orders.join(", ")),
            Self::Failed(reason) => Some(reason.clone()),
            Self::Absent { .. } => None,
        }
    }
}

impl Step {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Intend => "new_intent",
            Self::Again => "retry",
            Self::Later { .. } => "retry_later",
            Self::Ask { .. } => "lookup",
            Self::AwaitVisibility { .. } => "await_visibility",
            Self::Settle(_) => "settle",
        }
    }
}

/// A call on the wire: what its log line says.
#[derive(Debug)]
pub(super) struct Asked {
    return_no: String,
    command_id: String,
    attempt: u32,
    trace_id: Option<String>,
    sent: Moment,
}

impl Asked {
    pub(super) fn about(
        command: &CreateReturnOutbound,
        attempt: u32,
        trace_id: Option<&str>,
    ) -> Self {
        Self {
            return_no: command.return_no.clone(),
            command_id: command.command_id.clone(),
            attempt,
            trace_id: trace_id.map(str::to_owned),
            sent: Moment::now(),
        }
    }

    /// One line for each call, by which a command and its sender's trace are found.
    pub(super) fn answered(self, answer: &Answer) {
        tracing::Span::current()
            .record("erp.call", Call::CreateOrder.name())
            .record("erp.result", answer.word());
        tracing::info!(
            command.id = self.command_id,
            command.return_no = self.return_no,
            command.attempt = self.attempt,
            trace.id = self.trace_id,
            erp.call = Call::CreateOrder.name(),
            erp.result = answer.word(),
            duration_ms = crate::clock::millis(self.sent.until(Moment::now())),
            "ERP call finished"
        );
    }
}

/// What there is to tell of a record once it is committed.
#[derive(Debug, Default)]
pub(super) struct Tale {
    pub result: Option<CommandResult>,
    pub death: Option<(Death, String)>,
    /// The dead letter's reason in Chinese, where there is one.
    pub death_zh: Option<String>,
}

impl Engine<'_> {
    /// A command passed a hop.
    pub(super) fn passed(
        &self,
        pair: (&str, &str),
        hop: Hop,
        outcome: &'static str,
        detail: Option<String>,
    ) {
        self.parts.metrics.hop(hop, outcome);
        self.parts.board.step(pair, hop.name(), outcome, detail);
    }

    /// A record is settled: its result and its dead letter are committed.
    pub(super) fn tell_settled(&self, ready: &Ready, tale: &Tale, now: Moment) {
        let board = &self.parts.board;
        if let Some(result) = &tale.result {
            let pair = (result.return_no.as_str(), result.command_id.as_str());
            self.parts.metrics.hop(Hop::Settle, result.outcome.name());
            // What the ERP said last about a command in doubt is not why a person must decide.
            let words = result.erp_message.as_ref().filter(|_| result.outcome != Outcome::InDoubt);
            let detail = result.outbound_no.as_ref().or(words).cloned();
            let (hop, outcome) = (Hop::Settle.name(), result.outcome.name());
            match result.explanation.both().filter(|_| detail.is_none()) {
                Some(explanation) => board.explained_step(pair, hop, outcome, &explanation),
                None => board.step(pair, hop, outcome, detail),
            }
            board.tell(
                Story::Result,
                json!({
                    "return_no": result.return_no, "command_id": result.command_id, "outcome": result.outcome.name(),
                    "outbound_no": result.outbound_no, "erp_code": result.erp_code, "erp_message": result.erp_message,
                    "explanation": result.explanation.en(), "explanation_zh": result.explanation.zh(), "warning": result.warning,
                    "violations": result.violations, "candidates": result.candidates, "attempts": result.attempts,
                    "recovered": result.recovered, "duplicate": result.duplicate, "resolved": result.resolved,
                    "took_ms": crate::clock::millis(ready.received.until(now)),
                    "partition": ready.record.lease.partition, "offset": ready.record.offset,
                }),
            );
            tracing::debug!(
                command.id = result.command_id,
                command.return_no = result.return_no,
                command.outcome = result.outcome.name(),
                command.outbound_no = result.outbound_no,
                command.duplicate = result.duplicate,
                "command settled"
            );
        }
        if let Some((death, reason)) = &tale.death {
            board.tell(
                Story::DeadLetter,
                json!({
                    "pipeline": "commands", "reason": death.label(), "detail": shortened(reason, 1000),
                    "detail_zh": tale.death_zh.as_deref().map(|reason| shortened(reason, 1000)),
                    "key": ready.record.key.as_deref().map(|key| shortened(&String::from_utf8_lossy(key), 255)),
                    "partition": ready.record.lease.partition, "offset": ready.record.offset,
                }),
            );
        }
    }
}
