//! Doors for the fuzz tests: what a record of the commands topic comes to, as one word of a closed
//! set.

use crate::{
    clock::Timestamp,
    config::{CommandFormat, Partitioner},
    kafka::{Delivered, Lease, Outgoing, Prefix, tool::Seen},
    schema::Codec,
    telemetry::Trace,
};

use super::{
    command::{Parsed, parse},
    decision::{self, Decision},
    letter::{self, Death, Letter, Replay, Spared, dead_letter, first_sent, spare},
    placement::{FORWARDED, forwarded},
    settle::Names,
    validate::{check_placement, remark_as_sent, validate},
};

/// A command in one of the formats, read and validated.
#[must_use]
pub fn command(bytes: &[u8], format: CommandFormat, codec: &Codec) -> &'static str {
    let record = Delivered {
        lease: Lease { partition: 0, epoch: 1 },
        offset: 0,
        key: None,
        value: Some(bytes.to_vec()),
        left_out: None,
        unreadable_headers: 0,
        headers: Vec::new(),
        timestamp: None,
    };
    match parse(&record, format, codec) {
        Parsed::Poison(_) => "poison",
        Parsed::Unlearnt(_) => "an unknown schema id",
        Parsed::Invalid { .. } => "invalid fields",
        Parsed::Command(command) => match validate(*command) {
            Err(_) => "invalid",
            Ok(accepted) => {
                let command = &accepted.command;
                let _ = remark_as_sent(&accepted.marker, command.remark.as_deref());
                match check_placement(
                    Some(command.return_no.as_bytes()),
                    &command.return_no,
                    0,
                    1,
                    Partitioner::Murmur2,
                ) {
                    Ok(()) => "a command",
                    Err(_) => "a defect",
                }
            }
        },
    }
}

/// What surrounds the value of a record: headers, key and time, and what becomes of them in a dead
/// letter, in the operator's hands, and in the record that is sent again.
///
/// # Errors
/// A promise that does not hold.
pub fn record(bytes: &[u8]) -> Result<&'static str, String> {
    let record = delivered(bytes);
    let (word, death) = reading(&record);
    let names = Names {
        commands: "commands".into(),
        results: "results".into(),
        commands_dlq: "commands.dlq".into(),
        journal: "journal".into(),
        control: "control".into(),
    };
    let age = first_sent(&record);
    if record.timestamp.is_some_and(|own| age.is_none_or(|age| age.0 > own)) {
        return Err(format!("{age:?} is younger than the record's own time"));
    }
    let whole = dead_letter(&names, &record, death, "a reason", "a connector");
    if (&whole.key, &whole.value) != (&record.key, &record.value) {
        return Err("the dead letter is not the record".to_owned());
    }
    let read = Letter::read(seen(&whole));
    if (read.label.as_str(), read.reason.as_str(), read.source)
        != (death.label(), "a reason", Some((record.lease.partition, record.offset)))
    {
        return Err(format!("a header of the sender says what the letter says: {read:?}"));
    }
    let senders = |headers: &[(String, Option<Vec<u8>>)]| -> Vec<_> {
        let ours = |name: &str| {
            name.starts_with(letter::PREFIX)
                || [
                    letter::FIRST_SENT,
                    letter::REPLAY,
                    letter::DOUBT,
                    letter::LEFT_OUT,
                    letter::UNREADABLE,
                    FORWARDED,
                ]
                .contains(&name)
        };
        headers.iter().filter(|(name, _)| !ours(name)).cloned().collect()
    };
    if let Replay::Of(again) = read.replay("commands", Some(0), u32::MAX) {
        if (&again.key, &again.value) != (&record.key, &record.value) {
            return Err("what is sent again is not the record".to_owned());
        }
        if senders(&again.headers) != senders(&record.headers) {
            return Err(format!("the sender's headers have become {:?}", again.headers));
        }
        let copy = Delivered { headers: again.headers, unreadable_headers: 0, ..record.clone() };
        if age.is_some() && first_sent(&copy) != age {
            return Err(format!("a copy is of {:?}, not {age:?}", first_sent(&copy)));
        }
    }
    let copy = forwarded(&names, &record, 1, Some(age.unwrap_or(Timestamp(0))));
    let kept = copy.headers.get(..record.headers.len()) == Some(&record.headers[..]);
    if (&copy.key, &copy.value, kept) != (&record.key, &record.value, true) {
        return Err(format!("what is forwarded is not the record: {copy:?}"));
    }
    let copy = Delivered { headers: copy.headers, timestamp: Some(i64::MAX), ..record.clone() };
    if first_sent(&copy) != Some(age.unwrap_or(Timestamp(0))) {
        return Err(format!("a forwarded record is of {:?}, not {age:?}", first_sent(&copy)));
    }
    let smaller = [Spared::Value, Spared::Everything]
        .map(|spared| spare(whole.clone(), &record, spared, "too large", &names));
    for letter in smaller {
        let read = Letter::read(seen(&letter));
        if letter.value.is_some() || !read.left_out || !read.reason.contains("left out") {
            return Err(format!("a letter without its value says {read:?}"));
        }
        let _ = read.json().to_string();
    }
    Ok(word)
}

/// What the pipeline makes of a record, and which dead letter it would become.
fn reading(record: &Delivered) -> (&'static str, Death) {
    if record.unreadable_headers > 0 {
        return ("unreadable names", Death::Undecodable);
    }
    if record.headers.iter().any(|(name, _)| name == decision::HEADER) {
        return ("among the commands", Death::Refused);
    }
    if Decision::read(record, 1).is_ok() {
        return ("a decision", Death::Refused);
    }
    match parse(record, CommandFormat::Json, &Codec::single_object()) {
        Parsed::Poison(_) | Parsed::Unlearnt(_) => ("poison", Death::Undecodable),
        Parsed::Invalid { .. } => ("invalid", Death::Invalid),
        Parsed::Command(command) => {
            let pair = (command.return_no.as_str(), command.command_id.as_str());
            let _ = Trace::begin(pair, &record.headers);
            let _ = letter::replays(record);
            let key = record.key.as_deref();
            match check_placement(key, &command.return_no, 0, 1, Partitioner::Murmur2) {
                Ok(()) => ("a command", Death::InDoubt),
                Err(_) => ("another key", Death::Invalid),
            }
        }
    }
}

fn seen(letter: &Outgoing) -> Seen {
    Seen {
        topic: letter.topic.to_string(),
        partition: 0,
        offset: 7,
        timestamp: Some(i64::MAX),
        key: letter.key.clone(),
        value: letter.value.clone(),
        headers: letter.headers.clone(),
        unreadable_headers: 0,
    }
}

/// Big-endian.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

/// A record out of bytes: time (8 bytes, -1 is none), key, number of headers, names and values,
/// then the value. A text is its length in two bytes, 0xffff for null, and its bytes. What is
/// missing at the end is null.
fn delivered(bytes: &[u8]) -> Delivered {
    let mut rest = bytes;
    let mut take = |length: usize| -> &[u8] {
        let (taken, left) = rest.split_at(length.min(rest.len()));
        rest = left;
        taken
    };
    let time = number(take(8)).cast_signed();
    let mut nullable = || {
        let length = number(take(2));
        (length < 0xffff).then(|| take(usize::try_from(length).unwrap_or(0)).to_vec())
    };
    let key = nullable();
    let count = nullable().map_or(0, |bytes| number(&bytes));
    let (mut headers, mut unreadable_headers) = (Vec::new(), 0);
    // As many as a record of this size can have.
    for _ in 0..count.min(u64::try_from(bytes.len()).unwrap_or(0)) {
        match String::from_utf8(nullable().unwrap_or_default()) {
            Ok(name) => headers.push((name, nullable())),
            Err(_) => {
                unreadable_headers += 1;
                nullable();
            }
        }
    }
    Delivered {
        lease: Lease { partition: 0, epoch: 1 },
        offset: 42,
        key,
        value: nullable(),
        left_out: None,
        unreadable_headers,
        headers,
        timestamp: (time != -1).then_some(time),
    }
}

/// The metadata beside a committed offset.
#[must_use]
pub fn offset_metadata(bytes: &[u8]) -> &'static str {
    let text = String::from_utf8_lossy(bytes);
    let mut prefix = Prefix::restore(0, &text, String::new());
    let mut skipped = false;
    for offset in 0..16 {
        skipped |= !prefix.deliver(offset);
        prefix.finish(offset);
    }
    match (prefix.position(), skipped) {
        (None, _) => "does not fit",
        (Some(_), true) => "settled ahead",
        (Some(_), false) => "nothing ahead",
    }
}
