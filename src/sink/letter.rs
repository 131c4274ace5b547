//! Dead letters of the command pipeline: what could not be done, byte for byte, with everything a
//! person needs beside it.

use std::{sync::Arc, time::Duration};

use crate::{
    clock::Timestamp,
    config::Partitioner,
    explanation::Explanation,
    kafka::{Delivered, Outgoing, tool::Seen},
    schema::JournalEntry,
    text::shortened,
};

use super::{placement::FORWARDED, settle::Names, validate::partition_of};

/// What Kafka Connect's error headers begin with (KIP-298; values are UTF-8).
pub(crate) const PREFIX: &str = "__connect.errors.";
/// When the record was first sent, in milliseconds since 1970: a replay must not make it younger.
pub(crate) const FIRST_SENT: &str = "wdt-original-timestamp";
/// How often the record was redriven from the dead letters; 0 for a copy that `commands replay`
/// sent.
pub(crate) const REPLAY: &str = "wdt-redrive-count";
/// What a person needs to decide about a command in doubt, as JSON.
pub(crate) const DOUBT: &str = "wdt-in-doubt";
/// What of the record a dead letter leaves out ([`Spared`]): such a letter cannot be sent again.
pub(crate) const LEFT_OUT: &str = "wdt-omitted";

/// How many of the record's headers a dead letter lacks, because their names are not UTF-8 and
/// librdkafka's bindings cannot write them.
pub(crate) const UNREADABLE: &str = "wdt-unreadable-headers";

/// Why a record is a dead letter; a closed set, also the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Death {
    Undecodable,
    Invalid,
    InDoubt,
    /// A person's decision that could not be carried out.
    Refused,
}

impl Death {
    /// The metric's label, and the header `__connect.errors.exception.class.name`.
    #[must_use]
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable",
            Self::Invalid => "invalid",
            Self::InDoubt => "in_doubt",
            Self::Refused => "resolution_rejected",
        }
    }

    /// Kafka Connect's stage names.
    fn stage(self) -> &'static str {
        match self {
            Self::Undecodable => "VALUE_CONVERTER",
            Self::Invalid | Self::Refused => "TRANSFORMATION",
            Self::InDoubt => "TASK_PUT",
        }
    }
}

/// How often the record was replayed from the dead letters, which means it: what a person permitted
/// to be created is created then. 0 for a mere copy (`commands replay`), `None` for what came from
/// its sender, who can write the header as well.
#[must_use]
pub(crate) fn replays(record: &Delivered) -> Option<u32> {
    number(&record.headers, REPLAY)
}

/// When the record was first sent: what a replay says, or else the record's own time.
#[must_use]
pub(crate) fn first_sent(record: &Delivered) -> Option<Timestamp> {
    let own = record.timestamp.map(Timestamp);
    // Never younger than the log says: a header is anybody's.
    match (number(&record.headers, FIRST_SENT).map(Timestamp), own) {
        (Some(said), Some(own)) => Some(said.min(own)),
        (said, own) => said.or(own),
    }
}

/// 2020-01-01: no record of a product that did not exist is older.
const EARLIEST: Timestamp = Timestamp(1_577_836_800_000);
/// Clocks of senders differ; a record from further in the future has a wrong time.
const AHEAD: Duration = Duration::from_secs(24 * 3600);

/// [`first_sent`], unless it cannot be true: seconds taken for milliseconds lie in 1970.
#[must_use]
pub(crate) fn credibly_sent(record: &Delivered, now: Timestamp) -> Option<Timestamp> {
    first_sent(record).filter(|at| (EARLIEST..=now.plus(AHEAD)).contains(at))
}

/// A header that holds a number, the last of its name.
pub(crate) fn number<T: std::str::FromStr>(
    headers: &[(String, Option<Vec<u8>>)],
    name: &str,
) -> Option<T> {
    let (_, value) = headers.iter().rfind(|(key, _)| key == name)?;
    std::str::from_utf8(value.as_deref()?).ok()?.parse().ok()
}

/// What a dead letter leaves out, because its topic or the producer does not take it whole; the
/// record itself stands in the commands topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Spared {
    #[default]
    Nothing,
    Value,
    /// Key and the sender's headers as well.
    Everything,
}

impl Spared {
    /// The next smaller letter; `None` where nothing is left to be left out.
    #[must_use]
    pub(crate) fn more(self) -> Option<Self> {
        match self {
            Self::Nothing => Some(Self::Value),
            Self::Value => Some(Self::Everything),
            Self::Everything => None,
        }
    }

    /// The header [`LEFT_OUT`].
    fn header(self) -> Option<(String, Option<Vec<u8>>)> {
        let word = match self {
            Self::Nothing => return None,
            Self::Value => "value",
            Self::Everything => "everything",
        };
        Some((LEFT_OUT.to_owned(), Some(word.as_bytes().to_vec())))
    }
}

/// Characters of a reason that are repeated: it may quote what it is about.
const MOST_REASON: usize = 4000;

/// The same letter with less in it: `reason` says why.
#[must_use]
pub(crate) fn spare(
    mut letter: Outgoing,
    record: &Delivered,
    spared: Spared,
    reason: &str,
    names: &Names,
) -> Outgoing {
    let what = match spared {
        Spared::Nothing => return letter,
        Spared::Value => "the value is",
        Spared::Everything => {
            letter.key = None;
            letter.headers.retain(|(name, _)| {
                name.starts_with(PREFIX) || [FIRST_SENT, DOUBT, UNREADABLE].contains(&name.as_str())
            });
            "key, value and the sender's headers are"
        }
    };
    letter.value = None;
    letter.headers.retain(|(name, _)| name != LEFT_OUT);
    letter.headers.extend(spared.header());
    let message = format!("{PREFIX}exception.message");
    for (_, value) in letter.headers.iter_mut().filter(|(name, _)| *name == message) {
        let said = value.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        let told = format!(
            "{}; {what} left out here ({reason}) and stands in {}, partition {}, offset {}",
            shortened(&said, 1000),
            names.commands,
            record.lease.partition,
            record.offset
        );
        *value = Some(told.into_bytes());
    }
    letter
}

/// A dead letter: key, value and headers byte for byte, Kafka Connect's error headers besides.
#[must_use]
pub(crate) fn dead_letter(
    names: &Names,
    record: &Delivered,
    death: Death,
    reason: &str,
    connector: &str,
) -> Outgoing {
    let reason = &*shortened(reason, MOST_REASON);
    let ours = |name: &str| {
        name.starts_with(PREFIX) || [FIRST_SENT, DOUBT, LEFT_OUT, UNREADABLE].contains(&name)
    };
    let mut headers: Vec<(String, Option<Vec<u8>>)> =
        record.headers.iter().filter(|(name, _)| !ours(name)).cloned().collect();
    headers.extend(record.left_out.and(Spared::Value.header()));
    if record.unreadable_headers > 0 {
        let count = record.unreadable_headers.to_string().into_bytes();
        headers.push((UNREADABLE.to_owned(), Some(count)));
    }
    if let Some(sent) = first_sent(record) {
        headers.push((FIRST_SENT.to_owned(), Some(sent.0.to_string().into_bytes())));
    }
    let partition = record.lease.partition.to_string();
    let offset = record.offset.to_string();
    for (name, value) in [
        ("topic", &*names.commands),
        ("partition", &partition),
        ("offset", &offset),
        ("connector.name", connector),
        ("task.id", &partition),
        ("stage", death.stage()),
        ("class.name", "wdt_connector::sink"),
        ("exception.class.name", death.label()),
        ("exception.message", reason),
    ] {
        headers.push((format!("{PREFIX}{name}"), Some(value.as_bytes().to_vec())));
    }
    Outgoing {
        topic: Arc::clone(&names.commands_dlq),
        partition: None,
        key: record.key.clone(),
        value: record.value.clone(),
        headers,
    }
}

/// Why a person has to decide, in one line.
#[must_use]
pub(crate) fn doubt_reason(entry: &JournalEntry) -> Explanation {
    let (marker, explanation) = (&entry.marker, &entry.explanation);
    let orders = |none: &str| {
        if entry.candidates.is_empty() { none.to_owned() } else { entry.candidates.join(", ") }
    };
    Explanation::new(
        format!(
            "{} [marker {marker}, orders {}]",
            explanation.en().unwrap_or("in doubt"),
            orders("none")
        ),
        format!("{} [标记 {marker}，出库单 {}]", explanation.zh().unwrap_or("存疑"), orders("无")),
    )
}

/// The dead letter of a command in doubt: `entry` is what the journal says of it, `remark` what was
/// sent to the ERP.
#[must_use]
pub(crate) fn doubt_letter(
    names: &Names,
    record: &Delivered,
    entry: &JournalEntry,
    remark: &str,
    connector: &str,
) -> Outgoing {
    let mut letter =
        dead_letter(names, record, Death::InDoubt, doubt_reason(entry).en(), connector);
    let facts = serde_json::json!({
        "return_no": entry.return_no,
        "command_id": entry.command_id,
        "warehouse_no": entry.warehouse_no,
        "marker": entry.marker,
        "remark_as_sent": remark,
        "candidates": entry.candidates,
        "explanation": entry.explanation.en(),
        "explanation_zh": entry.explanation.zh(),
        "erp_code": entry.erp_code,
        "erp_message": entry.erp_message,
        "attempts": entry.attempt,
        "first_intent_at": entry.first_intent_at.map(|at| at.to_string()),
        "last_attempt_at": entry.last_attempt_at.map(|at| at.to_string()),
        "version": entry.version,
    });
    letter.headers.push((DOUBT.to_owned(), Some(facts.to_string().into_bytes())));
    letter
}

/// A record of a dead letter topic as the operator's commands see it; also any record that may be
/// sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Letter {
    pub partition: i32,
    pub offset: i64,
    /// When the letter was written, in milliseconds since 1970.
    pub written_at: Option<Timestamp>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// [`Death::label`], or a feed's word for it.
    pub label: String,
    /// The sentence that says why.
    pub reason: String,
    /// Partition and offset of the record it was.
    pub source: Option<(i32, i64)>,
    /// The topic of the record it was.
    pub source_topic: Option<String>,
    /// The record's value, or all of it, does not stand here but only there.
    pub left_out: bool,
    pub first_sent: Option<Timestamp>,
    pub replays: Option<u32>,
    /// It is a control record, no command.
    pub control: bool,
}

/// A record to be sent again, or why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Replay {
    Of(Outgoing),
    /// It was sent again often enough.
    Capped,
}

impl Letter {
    /// Reads the headers of a record.
    #[must_use]
    pub(crate) fn read(record: Seen) -> Self {
        let text = |name: &str| {
            let (_, value) =
                record.headers.iter().rfind(|(key, _)| key.strip_prefix(PREFIX) == Some(name))?;
            Some(String::from_utf8_lossy(value.as_deref()?).into_owned())
        };
        let source = text("partition")
            .and_then(|text| text.parse().ok())
            .zip(text("offset").and_then(|text| text.parse().ok()));
        let own = record.timestamp.map(Timestamp);
        let said = number(&record.headers, FIRST_SENT).map(Timestamp);
        Self {
            label: text("exception.class.name").unwrap_or_default(),
            reason: text("exception.message").unwrap_or_default(),
            source,
            source_topic: text("topic"),
            left_out: record.headers.iter().any(|(name, _)| name == LEFT_OUT),
            first_sent: said.into_iter().chain(own).min(),
            replays: number(&record.headers, REPLAY),
            control: record.headers.iter().any(|(name, _)| name == super::decision::HEADER),
            partition: record.partition,
            offset: record.offset,
            written_at: own,
            key: record.key,
            value: record.value,
            headers: record.headers,
        }
    }

    /// The same key and value once more: its own headers kept, the count of replays grown, the age
    /// of the first sending.
    #[must_use]
    pub(crate) fn replay(&self, topic: &str, partition: Option<i32>, most: u32) -> Replay {
        let times = self.replays.unwrap_or(0);
        if times >= most {
            Replay::Capped
        } else {
            Replay::Of(self.once_more(topic, partition, times + 1))
        }
    }

    /// A copy, which is answered with what is known.
    #[must_use]
    pub(crate) fn copy(&self, topic: &str, partition: Option<i32>) -> Outgoing {
        self.once_more(topic, partition, 0)
    }

    /// Its key's partition among so many; where it `was` without a key or a partitioner.
    #[must_use]
    pub(crate) fn place(&self, partitions: i32, by: Partitioner, was: Option<i32>) -> Option<i32> {
        let of_key = self.key.as_deref().and_then(|key| partition_of(key, partitions, by));
        of_key.or(was).filter(|partition| *partition < partitions)
    }

    /// Topic, partition and offset of the record that an instance forwarded as this one, as its
    /// header says.
    #[must_use]
    pub(crate) fn forwarded_from(&self) -> Option<(&str, i32, i64)> {
        let (_, value) = self.headers.iter().rfind(|(name, _)| name == FORWARDED)?;
        let (place, offset) = std::str::from_utf8(value.as_deref()?).ok()?.rsplit_once(':')?;
        let (topic, partition) = place.rsplit_once(':')?;
        Some((topic, partition.parse().ok()?, offset.parse().ok()?))
    }

    fn once_more(&self, topic: &str, partition: Option<i32>, times: u32) -> Outgoing {
        let ours = |name: &str| {
            name.starts_with(PREFIX)
                || [FIRST_SENT, REPLAY, DOUBT, LEFT_OUT, UNREADABLE, FORWARDED].contains(&name)
        };
        let mut headers: Vec<_> =
            self.headers.iter().filter(|(name, _)| !ours(name)).cloned().collect();
        headers.push((REPLAY.to_owned(), Some(times.to_string().into_bytes())));
        if let Some(sent) = self.first_sent {
            headers.push((FIRST_SENT.to_owned(), Some(sent.0.to_string().into_bytes())));
        }
        Outgoing {
            topic: topic.into(),
            partition,
            key: self.key.clone(),
            value: self.value.clone(),
            headers,
        }
    }

    /// Without its value, for people and programs.
    #[must_use]
    pub(crate) fn json(&self) -> serde_json::Value {
        let doubt = self.headers.iter().rfind(|(name, _)| name == DOUBT).and_then(|(_, value)| {
            serde_json::from_slice::<serde_json::Value>(value.as_deref()?).ok()
        });
        serde_json::json!({
            "partition": self.partition,
            "offset": self.offset,
            "written_at": self.written_at.map(|at| at.to_string()),
            "key": self.key.as_deref().map(String::from_utf8_lossy),
            "reason": self.label,
            "message": self.reason,
            "source_partition": self.source.map(|(partition, _)| partition),
            "source_offset": self.source.map(|(_, offset)| offset),
            "omitted": self.left_out,
            "original_timestamp": self.first_sent.map(|at| at.to_string()),
            "redrives": self.replays.unwrap_or(0),
            "in_doubt": doubt,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kafka::Lease, schema::EntryKind, sink::settle::bare_entry};

    fn record() -> Delivered {
        Delivered {
            lease: Lease { partition: 3, epoch: 1 },
            offset: 42,
            key: Some(vec![0xff]),
            value: None,
            left_out: None,
            unreadable_headers: 0,
            headers: vec![
                ("mine".into(), None),
                ("__connect.errors.topic".into(), Some(b"old".to_vec())),
            ],
            timestamp: Some(7000),
        }
    }

    fn header(letter: &Outgoing, name: &str) -> Vec<Option<Vec<u8>>> {
        letter
            .headers
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
            .collect()
    }

    #[test]
    fn a_time_before_the_product_or_far_ahead_is_none() {
        let now = Timestamp(1_796_000_000_000);
        let day = 24 * 3_600_000;
        let sent = |at: i64| credibly_sent(&Delivered { timestamp: Some(at), ..record() }, now);
        assert_eq!(sent(now.0 / 1000), None, "seconds");
        assert_eq!((sent(EARLIEST.0 - 1), sent(EARLIEST.0)), (None, Some(EARLIEST)));
        assert_eq!(sent(now.0 + day), Some(Timestamp(now.0 + day)));
        assert_eq!(sent(now.0 + day + 1), None);
        let redriven = Delivered {
            timestamp: Some(now.0),
            headers: vec![(FIRST_SENT.into(), Some(b"1796000000".to_vec()))],
            ..record()
        };
        assert_eq!(credibly_sent(&redriven, now), None, "no younger than it says");
    }

    #[test]
    fn a_dead_letter_keeps_what_was_sent_and_says_why() {
        let letter =
            dead_letter(&Names::short(), &record(), Death::Undecodable, "kein Avro", "app");
        assert_eq!(
            (letter.key.as_deref(), letter.value.as_deref(), &*letter.topic),
            (Some(&[0xff][..]), None, "d")
        );
        assert_eq!(header(&letter, "mine"), vec![None]);
        assert_eq!(header(&letter, "__connect.errors.topic"), vec![Some(b"c".to_vec())]);
        assert_eq!(header(&letter, "__connect.errors.offset"), vec![Some(b"42".to_vec())]);
        assert_eq!(
            header(&letter, "__connect.errors.exception.message"),
            vec![Some("kein Avro".as_bytes().to_vec())]
        );
        assert_eq!(header(&letter, FIRST_SENT), vec![Some(b"7000".to_vec())]);
    }

    #[test]
    fn a_letter_leaves_out_the_value_then_everything_of_the_sender_and_says_so() {
        let sent = Delivered {
            value: Some(vec![7; 9]),
            headers: vec![("mine".into(), Some(b"h".to_vec()))],
            ..record()
        };
        let whole =
            dead_letter(&Names::short(), &sent, Death::Undecodable, &"x".repeat(9000), "app");
        let message = |letter: &Outgoing| {
            String::from_utf8(
                header(letter, "__connect.errors.exception.message").pop().unwrap().unwrap(),
            )
            .unwrap()
        };
        assert_eq!(message(&whole).chars().count(), MOST_REASON + 1);
        assert_eq!(spare(whole.clone(), &sent, Spared::Nothing, "", &Names::short()), whole);
        let less = spare(whole.clone(), &sent, Spared::Value, "d is small", &Names::short());
        assert_eq!(
            (less.key.as_deref(), less.value.as_deref(), header(&less, "mine").len()),
            (Some(&[0xff][..]), None, 1)
        );
        assert_eq!(
            (header(&whole, LEFT_OUT), header(&less, LEFT_OUT)),
            (vec![], vec![Some(b"value".to_vec())])
        );
        assert!(
            message(&less).ends_with(
                "the value is left out here (d is small) and stands in c, partition 3, offset 42"
            ),
            "{}",
            message(&less)
        );
        let least = spare(whole, &sent, Spared::Everything, "d is small", &Names::short());
        assert_eq!(header(&least, LEFT_OUT), vec![Some(b"everything".to_vec())]);
        // The consumer may have left it out already.
        let named = dead_letter(
            &Names::short(),
            &Delivered { value: None, left_out: Some(9), ..record() },
            Death::Undecodable,
            "large",
            "app",
        );
        assert_eq!(header(&named, LEFT_OUT), vec![Some(b"value".to_vec())]);
        assert_eq!(
            header(
                &spare(named, &sent, Spared::Everything, "d is small", &Names::short()),
                LEFT_OUT
            ),
            vec![Some(b"everything".to_vec())]
        );
        assert_eq!(
            (least.key.as_deref(), header(&least, "mine").len(), header(&least, FIRST_SENT).len()),
            (None, 0, 1)
        );
        assert_eq!(
            (Spared::Nothing.more(), Spared::Everything.more()),
            (Some(Spared::Value), None)
        );
    }

    #[test]
    fn a_replay_is_as_old_as_its_first_sending() {
        let mut replayed = record();
        replayed.headers.push((FIRST_SENT.into(), Some(b"5000".to_vec())));
        replayed.headers.push((REPLAY.into(), Some(b"2".to_vec())));
        assert_eq!((first_sent(&replayed), replays(&replayed)), (Some(Timestamp(5000)), Some(2)));
        assert_eq!(
            header(
                &dead_letter(&Names::short(), &replayed, Death::Invalid, "x", "app"),
                FIRST_SENT
            ),
            vec![Some(b"5000".to_vec())]
        );
        // A header from the future makes nothing younger.
        replayed.headers.push((FIRST_SENT.into(), Some(b"9000".to_vec())));
        assert_eq!((first_sent(&replayed), replays(&record())), (Some(Timestamp(7000)), None));
    }

    #[test]
    fn the_letter_of_a_doubt_holds_what_a_person_needs() {
        let entry = JournalEntry {
            marker: "#M".into(),
            candidates: vec!["CK1".into(), "CK2".into()],
            explanation: Explanation::new("why", "原因").into(),
            version: 4,
            ..bare_entry(EntryKind::Outcome, 3, "W1", Timestamp(1))
        };
        let letter = doubt_letter(&Names::short(), &record(), &entry, "#M remark", "app");
        let facts = header(&letter, DOUBT).pop().unwrap().unwrap();
        let facts: serde_json::Value = serde_json::from_slice(&facts).unwrap();
        assert_eq!(facts["candidates"], serde_json::json!(["CK1", "CK2"]));
        assert_eq!(
            (facts["remark_as_sent"].as_str(), facts["version"].as_i64()),
            (Some("#M remark"), Some(4))
        );
        assert_eq!(
            (facts["explanation"].as_str(), facts["explanation_zh"].as_str()),
            (Some("why"), Some("原因"))
        );
        assert_eq!(doubt_reason(&entry).zh(), "原因 [标记 #M，出库单 CK1, CK2]");
        let reason = header(&letter, "__connect.errors.exception.message").pop().unwrap().unwrap();
        assert_eq!(String::from_utf8(reason).unwrap(), "why [marker #M, orders CK1, CK2]");
    }

    /// What a reader of the dead letters sees of a letter.
    fn read(letter: &Outgoing) -> Letter {
        Letter::read(Seen {
            topic: "d".into(),
            partition: 5,
            offset: 8,
            timestamp: Some(9000),
            key: letter.key.clone(),
            value: letter.value.clone(),
            headers: letter.headers.clone(),
            unreadable_headers: 0,
        })
    }

    #[test]
    fn a_letter_is_sent_again_as_it_was_with_its_age_and_a_count() {
        let mut forwarded = record();
        forwarded.headers.push((FORWARDED.into(), Some(b"c:1:2".to_vec())));
        let mut letter =
            read(&dead_letter(&Names::short(), &forwarded, Death::Invalid, "num is 0", "app"));
        assert!(letter.headers.contains(&forwarded.headers[2]), "a person sees where it came from");
        assert_eq!(
            (letter.label.as_str(), letter.reason.as_str(), letter.source),
            ("invalid", "num is 0", Some((3, 42)))
        );
        assert_eq!(
            (letter.first_sent, letter.replays, letter.control),
            (Some(Timestamp(7000)), None, false)
        );
        for times in ["1", "2"] {
            let Replay::Of(again) = letter.replay("c", Some(1), 2) else { panic!("sent again") };
            assert_eq!(
                (again.key.as_deref(), again.value.as_deref(), again.partition),
                (Some(&[0xff][..]), None, Some(1))
            );
            let mut left: Vec<_> = again
                .headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_deref()))
                .collect();
            left.sort_unstable();
            assert_eq!(
                left,
                [
                    ("mine", None),
                    (FIRST_SENT, Some(&b"7000"[..])),
                    (REPLAY, Some(times.as_bytes()))
                ]
            );
            let delivered = Delivered { headers: again.headers, timestamp: Some(9500), ..record() };
            letter =
                read(&dead_letter(&Names::short(), &delivered, Death::Invalid, "num is 0", "app"));
        }
        assert_eq!(letter.replay("c", None, 2), Replay::Capped);
    }
}
