//! Whether a dead letter may be sent again: what the journal and, where it cannot know, the ERP
//! say. Pure.

use crate::{
    schema::{EntryKind, JournalEntry, Outcome},
    sink::{
        decision::permits_redrive,
        letter::{Death, Letter},
    },
};

/// What is to be done with a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    /// Nothing can come of it twice.
    Send,
    /// The ERP has to be asked for the command's marker first.
    Ask(IfAbsent),
    /// Left out, for this reason.
    Leave(String),
}

/// What the ERP's "there is none" means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IfAbsent {
    /// It may be sent: its owner asks again, at the time that decides.
    Send,
    /// A replay would only repeat the lookups; a person has to decide.
    Leave,
}

/// What of a command's newest entry decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    kind: EntryKind,
    outcome: Option<Outcome>,
    resolved: bool,
    redrivable: bool,
    order: Option<String>,
}

impl From<&JournalEntry> for Known {
    fn from(entry: &JournalEntry) -> Self {
        let JournalEntry { kind, outcome, resolved, .. } = *entry;
        let (redrivable, order) = (permits_redrive(entry), entry.outbound_no.clone());
        Self { kind, outcome, resolved, redrivable, order }
    }
}

/// Judges by what the journal says of the command; `old`: the journal may have forgotten it.
pub(super) fn judge(letter: &Letter, entry: Option<&Known>, old: bool) -> Ruling {
    if letter.control || letter.label == Death::Refused.label() {
        return Ruling::Leave(
            "a decision is made anew with `commands resolve`, not redriven".into(),
        );
    }
    if letter.left_out {
        let place = letter.source_topic.as_deref().zip(letter.source).map(|(topic, (partition, offset))| {
            format!(" and stood in {topic}, partition {partition}, offset {offset}; if it still does, have it sent again from there")
        });
        return Ruling::Leave(format!(
            "its value was left out of the letter{}",
            place.unwrap_or_default()
        ));
    }
    if letter.value.is_none() {
        return Ruling::Leave("it is a tombstone, and a command needs a value".into());
    }
    let Some(entry) = entry else {
        return if old { Ruling::Ask(IfAbsent::Send) } else { Ruling::Send };
    };
    let leave = |what: &str| Ruling::Leave(what.to_owned());
    match (entry.kind, entry.outcome) {
        (EntryKind::Outcome, Some(Outcome::InDoubt)) => Ruling::Ask(IfAbsent::Leave),
        // The letter that `commands resolve --no-order-redrivable` speaks of. Another letter of the
        // same command was judged before.
        (EntryKind::Outcome, _) if entry.redrivable => Ruling::Ask(IfAbsent::Send),
        (EntryKind::Outcome, Some(Outcome::Rejected)) if entry.resolved => {
            leave("a person decided that no order is created; a new command needs a new command_id")
        }
        (EntryKind::Outcome, Some(outcome)) => {
            let order = entry
                .order
                .as_deref()
                .map(|order| format!(" with the order {order}"))
                .unwrap_or_default();
            Ruling::Leave(format!("the command is {}{order}", outcome.name()))
        }
        // The record an instance has open stands in another partition, or this one was forwarded
        // before its partition changed: the owner goes on with what it knows, and asks first.
        (EntryKind::Intent, _) if letter.label == Death::Invalid.label() => Ruling::Send,
        (EntryKind::Intent, _) => leave("the command is still being worked on"),
        (EntryKind::Outcome | EntryKind::Barrier, _) => {
            leave("the journal does not know how the command ended")
        }
    }
}

/// What the ERP's answer makes of it: the orders that carry the marker.
pub(super) fn answered(found: &[String], absent: IfAbsent, entry: Option<&Known>) -> Ruling {
    let in_doubt = entry.is_some_and(|entry| entry.outcome == Some(Outcome::InDoubt));
    match (found, absent) {
        // One order settles the doubt: the copy's lookup finds it.
        ([_], _) if in_doubt => Ruling::Send,
        ([], IfAbsent::Send) => Ruling::Send,
        ([], IfAbsent::Leave) => Ruling::Leave(
            "in doubt, and the ERP shows no order of it: decide with `commands resolve`".into(),
        ),
        (orders, _) => {
            Ruling::Leave(format!("the ERP has {} with this command's marker", orders.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::tool::Seen;

    fn letter(label: &str) -> Letter {
        let header =
            ("__connect.errors.exception.class.name".to_owned(), Some(label.as_bytes().to_vec()));
        let value = Some(b"v".to_vec());
        Letter::read(Seen {
            topic: "d".into(),
            partition: 0,
            offset: 0,
            timestamp: None,
            key: None,
            value,
            headers: vec![header],
            unreadable_headers: 0,
        })
    }

    fn entry(kind: EntryKind, outcome: Option<Outcome>, resolved: bool) -> Known {
        Known { kind, outcome, resolved, redrivable: false, order: None }
    }

    #[test]
    fn only_what_cannot_happen_twice_is_sent_without_asking() {
        assert_eq!(judge(&letter("invalid"), None, false), Ruling::Send);
        assert_eq!(judge(&letter("invalid"), None, true), Ruling::Ask(IfAbsent::Send));
        assert!(matches!(judge(&letter("resolution_rejected"), None, false), Ruling::Leave(_)));
        let doubt = entry(EntryKind::Outcome, Some(Outcome::InDoubt), false);
        assert_eq!(judge(&letter("in_doubt"), Some(&doubt), false), Ruling::Ask(IfAbsent::Leave));
        let decided = entry(EntryKind::Outcome, Some(Outcome::Rejected), true);
        let redrivable = Known { redrivable: true, ..decided.clone() };
        assert_eq!(
            judge(&letter("in_doubt"), Some(&redrivable), false),
            Ruling::Ask(IfAbsent::Send)
        );
        for settled in [
            entry(EntryKind::Outcome, Some(Outcome::Created), false),
            entry(EntryKind::Outcome, Some(Outcome::Created), true),
            entry(EntryKind::Outcome, Some(Outcome::Rejected), false),
            decided,
            entry(EntryKind::Intent, None, false),
        ] {
            assert!(
                matches!(judge(&letter("in_doubt"), Some(&settled), false), Ruling::Leave(_)),
                "{settled:?}"
            );
        }
    }

    #[test]
    fn a_copy_of_an_open_command_is_sent_where_its_record_was_turned_away() {
        let open = entry(EntryKind::Intent, None, false);
        assert_eq!(judge(&letter("invalid"), Some(&open), false), Ruling::Send);
        assert_eq!(judge(&letter("invalid"), Some(&open), true), Ruling::Send);
    }

    #[test]
    fn what_has_no_value_is_never_sent_and_the_place_of_one_left_out_is_named() {
        let header = |name: &str, value: &str| (name.to_owned(), Some(value.as_bytes().to_vec()));
        let bare = |headers| {
            Letter::read(Seen {
                topic: "d".into(),
                partition: 0,
                offset: 0,
                timestamp: None,
                key: None,
                value: None,
                headers,
                unreadable_headers: 0,
            })
        };
        let spared = bare(vec![
            header("wdt-omitted", "value"),
            header("__connect.errors.topic", "c"),
            header("__connect.errors.partition", "3"),
            header("__connect.errors.offset", "42"),
        ]);
        for old in [false, true] {
            let Ruling::Leave(reason) = judge(&spared, None, old) else {
                panic!("it is sent or asked for")
            };
            assert!(
                reason.contains("left out") && reason.contains("c, partition 3, offset 42"),
                "{reason}"
            );
            assert!(
                matches!(judge(&bare(vec![]), None, old), Ruling::Leave(reason) if reason.contains("tombstone"))
            );
        }
    }

    #[test]
    fn an_order_in_the_erp_is_never_made_again() {
        let doubt = entry(EntryKind::Outcome, Some(Outcome::InDoubt), false);
        let (one, two) = (["CK1".to_owned()], ["CK1".to_owned(), "CK2".to_owned()]);
        assert_eq!(
            answered(&one, IfAbsent::Leave, Some(&doubt)),
            Ruling::Send,
            "its copy settles it and calls nothing"
        );
        assert!(matches!(answered(&two, IfAbsent::Leave, Some(&doubt)), Ruling::Leave(_)));
        assert!(matches!(answered(&[], IfAbsent::Leave, Some(&doubt)), Ruling::Leave(_)));
        assert!(
            matches!(answered(&one, IfAbsent::Send, None), Ruling::Leave(reason) if reason.contains("CK1"))
        );
        assert_eq!(answered(&[], IfAbsent::Send, None), Ruling::Send);
    }
}
