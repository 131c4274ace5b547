//! A person's decision about a command in doubt: a record of the control topic, which operators and
//! the connector may write and senders may not. Pure.
//!
//! Its key is the JSON array `["decision", return_no, command_id, journal partition, version]`, its
//! value says what was found and by whom. The owner of the journal's partition carries it out in
//! the key's order, and writes its tombstone in the transaction of what came of it: a decision that
//! is still there is judged again, by whoever owns the partition then.
//!
//! Records of the commands topic decide nothing: Write there is a sender's right.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    clock::Timestamp,
    explanation::Explanation,
    kafka::{
        Delivered, Lease,
        control::{DECISION, PARTITION, Resolution},
    },
    schema::{EntryKind, JournalEntry, Outcome},
};

/// The header by which a record of the commands topic asks to be taken for a decision.
pub const HEADER: &str = "wdt-control";

/// Characters of any text in it.
const MOST_TEXT: usize = 255;

/// What [`JournalEntry::nonce`] says of a `REJECTED` command that a redrive may have created.
const REDRIVABLE: &str = "redrivable";

/// What the person found in the ERP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The outbound order with this number is the command's.
    Created(String),
    /// There is no outbound order of this command, and there will be none.
    NoOrder,
    /// There is none, and a redrive may have it created.
    NoOrderRedrivable,
}

/// A decision about one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub return_no: String,
    pub command_id: String,
    /// The journal's partition in which the command's entry stands.
    pub partition: i32,
    /// Version of the journal entry the person has seen; a decision about an older one is passed
    /// over.
    pub version: i64,
    pub found: Found,
}

/// The record's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    pub verdict: Verdict,
    /// Who decided, for the record.
    pub by: String,
    /// When, for the record.
    pub at: String,
}

/// What comes of a decision at the front of its key's line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The entry that settles the command as the person decided.
    Settled(Box<JournalEntry>),
    /// The entry has a later version: it was carried out before, or came too late.
    Passed(i64),
    /// It answers something the journal does not say: why, as a sentence.
    Refused(String),
}

/// What stands in a key.
type Key = (String, String, String, i32, i64);

/// The partition whose owner carries out, or refuses, the decision with this key.
pub(super) fn owner(key: &[u8], partitions: i32) -> i32 {
    let named = serde_json::from_slice::<Key>(key).ok().map(|(.., partition, _)| partition);
    // What no partition is named for is refused by somebody, so that it is not left lying there.
    named.filter(|partition| (0..partitions).contains(partition)).unwrap_or(0)
}

/// The decision's record. Its lease is nobody's: the control topic belongs to no member.
pub(super) fn record(key: &[u8], resolution: &Resolution) -> Arc<Delivered> {
    Arc::new(Delivered {
        lease: Lease { partition: PARTITION, epoch: 0 },
        offset: resolution.offset,
        key: Some(key.to_vec()),
        value: Some(resolution.value.clone()),
        left_out: None,
        unreadable_headers: 0,
        headers: Vec::new(),
        timestamp: resolution.timestamp,
    })
}

/// Whether a person decided that there is no order and a redrive may have it created.
pub(crate) fn permits_redrive(entry: &JournalEntry) -> bool {
    entry.outcome == Some(Outcome::Rejected)
        && entry.resolved
        && entry.nonce.as_deref() == Some(REDRIVABLE)
}

impl Decision {
    /// The record's key.
    #[must_use]
    pub fn key(&self) -> Value {
        json!([DECISION, self.return_no, self.command_id, self.partition, self.version])
    }

    /// The record's value.
    #[must_use]
    pub fn value(&self) -> Value {
        json!(self.found)
    }

    /// Reads a record of the control topic.
    ///
    /// # Errors
    /// Why it is no decision, as a sentence for its dead letter.
    pub fn read(record: &Delivered, partitions: i32) -> Result<Self, String> {
        let unreadable = |error| format!("the decision cannot be read: {error}");
        let bytes = |of: &Option<Vec<u8>>| of.clone().unwrap_or_default();
        let (_, return_no, command_id, partition, version) =
            serde_json::from_slice::<Key>(&bytes(&record.key)).map_err(unreadable)?;
        let found = serde_json::from_slice(&bytes(&record.value)).map_err(unreadable)?;
        if !(0..partitions).contains(&partition) {
            return Err(format!(
                "the decision was not carried out: the journal has no partition {partition}; decide again"
            ));
        }
        Self { return_no, command_id, partition, version, found }.bounded()
    }

    /// What it says ends up in the journal.
    fn bounded(self) -> Result<Self, String> {
        let order = match &self.found.verdict {
            Verdict::Created(order) => order.as_str(),
            Verdict::NoOrder | Verdict::NoOrderRedrivable => "",
        };
        for (field, text) in [
            ("return_no", &*self.return_no),
            ("command_id", &self.command_id),
            ("by", &self.found.by),
            ("verdict", order),
        ] {
            if text.chars().count() > MOST_TEXT {
                return Err(format!(
                    "the decision was not carried out: its {field} has more than {MOST_TEXT} characters"
                ));
            }
        }
        Ok(self)
    }

    /// What comes of it, given the command's entry.
    #[must_use]
    pub fn judge(&self, entry: Option<&JournalEntry>, decided_at: Timestamp) -> Judgement {
        let refused =
            |why: String| Judgement::Refused(format!("the decision was not carried out: {why}"));
        let Some(entry) = entry else {
            return refused("the journal knows no such command".into());
        };
        if entry.version > self.version {
            return Judgement::Passed(entry.version);
        }
        match (entry.kind, entry.outcome) {
            (EntryKind::Outcome, Some(Outcome::InDoubt)) => {}
            (EntryKind::Outcome, Some(outcome)) => {
                return refused(format!(
                    "the command is not in doubt, its outcome is {}",
                    outcome.name()
                ));
            }
            (EntryKind::Intent | EntryKind::Outcome | EntryKind::Barrier, _) => {
                return refused(
                    "the command is still being worked on, and no person has to decide".into(),
                );
            }
        }
        if entry.version != self.version {
            return refused(format!(
                "it answers version {} of the journal entry, which is at version {}; look again",
                self.version, entry.version
            ));
        }
        let by = &self.found.by;
        let none = |explanation| (Outcome::Rejected, None, entry.candidates.clone(), explanation);
        let (outcome, outbound_no, candidates, explanation) = match &self.found.verdict {
            Verdict::Created(order) => (
                Outcome::Created,
                Some(order.clone()),
                Vec::new(),
                Explanation::new(
                    format!("{by} decided that this order is the command's"),
                    format!("{by} 判定此出库单属于该指令"),
                ),
            ),
            Verdict::NoOrder => none(Explanation::new(
                format!("{by} decided that no order was created, and that none will be"),
                format!("{by} 判定未创建出库单，且不再创建"),
            )),
            // The candidates stay: a redrive must not suspect again what the person has looked at.
            Verdict::NoOrderRedrivable => none(Explanation::new(
                format!("{by} decided that no order was created; `dlq redrive` has it created"),
                format!("{by} 判定未创建出库单；如需创建，请用 dlq redrive 重新投递其死信"),
            )),
        };
        let redrivable = self.found.verdict == Verdict::NoOrderRedrivable;
        Judgement::Settled(Box::new(JournalEntry {
            version: entry.version + 1,
            outcome: Some(outcome),
            outbound_no,
            candidates,
            explanation: explanation.into(),
            recovered: false,
            resolved: true,
            nonce: redrivable.then(|| REDRIVABLE.to_owned()),
            written_at: decided_at,
            ..entry.clone()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::settle::bare_entry;

    fn decision(verdict: Verdict) -> Decision {
        Decision {
            return_no: "R1".into(),
            command_id: "c1".into(),
            partition: 1,
            version: 3,
            found: Found { verdict, by: "ops".into(), at: "now".into() },
        }
    }

    fn written(key: &[u8], value: &[u8]) -> Arc<Delivered> {
        record(key, &Resolution { offset: 9, timestamp: None, value: value.to_vec() })
    }

    fn in_doubt() -> JournalEntry {
        JournalEntry {
            version: 3,
            attempt: 2,
            return_no: "R1".into(),
            command_id: "c1".into(),
            outcome: Some(Outcome::InDoubt),
            candidates: vec!["CK7".into()],
            ..bare_entry(EntryKind::Outcome, 0, "W", Timestamp(1))
        }
    }

    fn settled(verdict: Verdict, entry: &JournalEntry) -> JournalEntry {
        match decision(verdict).judge(Some(entry), Timestamp(5)) {
            Judgement::Settled(entry) => *entry,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_decision_is_read_back_or_refused() {
        for verdict in
            [Verdict::Created("CK7".into()), Verdict::NoOrder, Verdict::NoOrderRedrivable]
        {
            let wanted = decision(verdict);
            let (key, value) = (wanted.key().to_string(), wanted.value().to_string());
            let record = written(key.as_bytes(), value.as_bytes());
            assert_eq!(Decision::read(&record, 2), Ok(wanted));
            assert!(Decision::read(&record, 1).unwrap_err().contains("no partition 1"));
            assert_eq!((owner(key.as_bytes(), 2), owner(key.as_bytes(), 1)), (1, 0));
        }
        let good = decision(Verdict::NoOrder);
        let (key, value) = (good.key().to_string(), good.value().to_string());
        for (key, value) in [
            (&*key, "{}"),
            (&key, "{\"verdict\":\"no_order\",\"by\":\"x\",\"at\":\"y\",\"z\":1}"),
            ("[\"decision\",\"R1\",\"c1\"]", &value),
            ("[\"decision\"", &value),
        ] {
            let read = Decision::read(&written(key.as_bytes(), value.as_bytes()), 2);
            assert!(read.unwrap_err().contains("cannot be read"), "{key}");
        }
        let long = Decision { command_id: "x".repeat(256), ..good };
        assert!(long.bounded().unwrap_err().contains("command_id"));
    }

    #[test]
    fn a_decision_settles_the_entry_it_answers() {
        let created = settled(Verdict::Created("CK7".into()), &in_doubt());
        assert_eq!(
            (created.outcome, created.outbound_no.as_deref(), created.resolved),
            (Some(Outcome::Created), Some("CK7"), true)
        );
        assert_eq!((created.version, created.written_at, created.attempt), (4, Timestamp(5), 2));
        for (verdict, redrivable) in [(Verdict::NoOrder, false), (Verdict::NoOrderRedrivable, true)]
        {
            let not = settled(verdict, &in_doubt());
            assert_eq!(
                (not.outcome, &not.outbound_no, &not.candidates, permits_redrive(&not)),
                (Some(Outcome::Rejected), &None, &vec!["CK7".to_owned()], redrivable)
            );
        }
        assert!(!permits_redrive(&created) && !permits_redrive(&in_doubt()));
    }

    #[test]
    fn a_decision_about_anything_else_is_refused_or_passed_over() {
        let known = in_doubt();
        let created = JournalEntry { outcome: Some(Outcome::Created), ..known.clone() };
        let open = JournalEntry { kind: EntryKind::Intent, outcome: None, ..known.clone() };
        let earlier = JournalEntry { version: 2, ..known.clone() };
        let judged =
            |entry: Option<&JournalEntry>| decision(Verdict::NoOrder).judge(entry, Timestamp(5));
        for (entry, part) in [
            (None, "no such command"),
            (Some(created), "CREATED"),
            (Some(open), "worked on"),
            (Some(earlier), "version 2"),
        ] {
            let Judgement::Refused(reason) = judged(entry.as_ref()) else { panic!("{part}") };
            assert!(reason.contains(part), "{reason}");
        }
        let carried_out = settled(Verdict::NoOrder, &known);
        assert_eq!(judged(Some(&carried_out)), Judgement::Passed(4));
    }
}
