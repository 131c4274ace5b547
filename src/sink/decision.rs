//! A person's decision about a command in doubt: a control record in the commands topic, with the
//! command's own key, so that the owner carries it out in the key's order. Pure.
//!
//! The record is told from a command by its header [`HEADER`]; its value is JSON whose only field
//! is `wdt_control`, which no version of a command can be: an older connector finds neither Avro
//! nor `return_no` in it and dead-letters it.

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    explanation::Explanation,
    kafka::Delivered,
    schema::{EntryKind, JournalEntry, Outcome},
};

/// The header that makes a record of the commands topic a control record.
pub const HEADER: &str = "wdt-control";
/// Its only value so far.
pub const RESOLVE: &str = "resolve";

/// Characters of any text in it.
const MOST_TEXT: usize = 255;

/// What the person found in the ERP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The outbound order with this number is the command's.
    Created(String),
    /// There is no outbound order of this command.
    NotCreated,
}

/// A decision about one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    pub return_no: String,
    pub command_id: String,
    /// Version of the journal entry the person has seen; a decision about an older one is refused.
    pub version: i64,
    pub verdict: Verdict,
    /// Who decided, for the record.
    pub by: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    wdt_control: Control,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Control {
    Resolve(Decision),
}

impl Decision {
    /// The record's value.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        // A struct of strings and numbers always is JSON.
        serde_json::to_vec(&Envelope { wdt_control: Control::Resolve(self.clone()) })
            .unwrap_or_default()
    }

    /// Reads a control record; `None` for any other record.
    ///
    /// # Errors
    /// Why it is no decision, as a sentence for its dead letter.
    #[must_use]
    pub fn read(record: &Delivered) -> Option<Result<Self, String>> {
        let (_, verb) = record.headers.iter().find(|(name, _)| name == HEADER)?;
        if verb.as_deref() != Some(RESOLVE.as_bytes()) {
            return Some(Err(format!(
                "the header {HEADER} asks for something this version does not know; it knows {RESOLVE}"
            )));
        }
        let read = serde_json::from_slice::<Envelope>(record.value.as_deref().unwrap_or_default());
        let read = read
            .map(|Envelope { wdt_control: Control::Resolve(decision) }| decision)
            .map_err(|error| format!("the control record cannot be read: {error}"));
        Some(read.and_then(Self::bounded))
    }

    /// What it says ends up in the journal.
    fn bounded(self) -> Result<Self, String> {
        let order = match &self.verdict {
            Verdict::Created(order) => order.as_str(),
            Verdict::NotCreated => "",
        };
        for (field, text) in [
            ("return_no", &*self.return_no),
            ("command_id", &self.command_id),
            ("by", &self.by),
            ("verdict", order),
        ] {
            if text.chars().count() > MOST_TEXT {
                return Err(format!(
                    "the control record was not carried out: its {field} has more than {MOST_TEXT} characters"
                ));
            }
        }
        Ok(self)
    }

    /// The entry that settles the command as the person decided.
    ///
    /// # Errors
    /// Why the decision cannot be carried out: it answers something the journal does not say (any
    /// longer).
    pub fn settle(
        &self,
        entry: Option<&JournalEntry>,
        decided_at: Timestamp,
    ) -> Result<JournalEntry, String> {
        let Some(entry) = entry else {
            return Err(
                "the decision was not carried out: the journal knows no such command".into()
            );
        };
        let outcome = match (entry.kind, entry.outcome) {
            (EntryKind::Outcome, Some(outcome)) => outcome,
            (EntryKind::Intent | EntryKind::Outcome | EntryKind::Barrier, _) => {
                return Err("the decision was not carried out: the command is still being worked on, and no person has to decide".into());
            }
        };
        if outcome != Outcome::InDoubt {
            return Err(format!(
                "the decision was not carried out: the command is not in doubt, its outcome is {}",
                outcome.name()
            ));
        }
        if entry.version != self.version {
            return Err(format!(
                "the decision was not carried out: it answers version {} of the journal entry, which is at version {} by now; look again",
                self.version, entry.version
            ));
        }
        let (outcome, outbound_no, candidates, explanation) = match &self.verdict {
            Verdict::Created(order) => (
                Outcome::Created,
                Some(order.clone()),
                Vec::new(),
                Explanation::new(
                    format!("{} decided that this order is the command's", self.by),
                    format!("{} 判定此出库单属于该指令", self.by),
                ),
            ),
            // The candidates stay: a replay must not suspect again what the person has looked at.
            Verdict::NotCreated => (
                Outcome::Rejected,
                None,
                entry.candidates.clone(),
                Explanation::new(
                    format!(
                        "{} decided that no order was created; `dlq redrive` has it created",
                        self.by
                    ),
                    format!(
                        "{} 判定未创建出库单；如需创建，请用 dlq redrive 重新投递其死信",
                        self.by
                    ),
                ),
            ),
        };
        Ok(JournalEntry {
            version: entry.version + 1,
            outcome: Some(outcome),
            outbound_no,
            candidates,
            explanation: explanation.into(),
            recovered: false,
            resolved: true,
            written_at: decided_at,
            ..entry.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kafka::Lease,
        sink::{command, settle::bare_entry},
    };

    fn decision(verdict: Verdict) -> Decision {
        Decision {
            return_no: "R1".into(),
            command_id: "c1".into(),
            version: 3,
            verdict,
            by: "ops".into(),
        }
    }

    fn record(header: Option<&str>, value: &[u8]) -> Delivered {
        Delivered {
            lease: Lease { partition: 0, epoch: 1 },
            offset: 9,
            key: Some(b"R1".to_vec()),
            value: Some(value.to_vec()),
            left_out: None,
            unreadable_headers: 0,
            headers: header
                .map(|value| (HEADER.to_owned(), Some(value.as_bytes().to_vec())))
                .into_iter()
                .collect(),
            timestamp: None,
        }
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

    #[test]
    fn a_decision_is_read_by_its_header_and_is_no_command_without_it() {
        let wanted = decision(Verdict::Created("CK7".into()));
        let bytes = wanted.bytes();
        assert_eq!(Decision::read(&record(Some(RESOLVE), &bytes)), Some(Ok(wanted)));
        assert_eq!(Decision::read(&record(None, &bytes)), None);
        // What a version that does not know the header makes of it: nobody is answered, it goes to
        // the dead letters.
        assert!(matches!(command::parse_json(&bytes), command::Parsed::Poison(_)));
        for (header, value) in [
            ("forget", &bytes[..]),
            (RESOLVE, b"{}"),
            (RESOLVE, b"\xff"),
            (RESOLVE, b"{\"wdt_control\":{\"resolve\":{}}}"),
        ] {
            assert!(
                matches!(Decision::read(&record(Some(header), value)), Some(Err(_))),
                "{header}"
            );
        }
    }

    #[test]
    fn a_decision_settles_the_entry_it_answers() {
        let created = decision(Verdict::Created("CK7".into()))
            .settle(Some(&in_doubt()), Timestamp(5))
            .unwrap();
        assert_eq!(
            (created.outcome, created.outbound_no.as_deref(), created.resolved),
            (Some(Outcome::Created), Some("CK7"), true)
        );
        assert_eq!((created.version, created.written_at, created.attempt), (4, Timestamp(5), 2));
        let not = decision(Verdict::NotCreated).settle(Some(&in_doubt()), Timestamp(5)).unwrap();
        assert_eq!(
            (not.outcome, not.outbound_no, not.candidates),
            (Some(Outcome::Rejected), None, vec!["CK7".to_owned()])
        );
    }

    #[test]
    fn a_decision_about_anything_else_is_refused_with_the_reason() {
        let known = in_doubt();
        let created = JournalEntry { outcome: Some(Outcome::Created), ..known.clone() };
        let open = JournalEntry { kind: EntryKind::Intent, outcome: None, ..known.clone() };
        let later = JournalEntry { version: 4, ..known };
        for (entry, part) in [
            (None, "no such command"),
            (Some(created), "CREATED"),
            (Some(open), "worked on"),
            (Some(later), "version 4"),
        ] {
            let reason =
                decision(Verdict::NotCreated).settle(entry.as_ref(), Timestamp(5)).unwrap_err();
            assert!(reason.contains(part), "{reason}");
        }
    }
}
