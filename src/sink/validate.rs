//! Hop 2: a command is accepted, or every violation is named. Pure.

use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};

use crate::{
    clock::Timestamp,
    config::Partitioner,
    schema::{CommandLine, CreateReturnOutbound},
};

/// A command that may be sent, with what identifies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    pub command: CreateReturnOutbound,
    /// SHA-256 of the business content: equal for copies, different when anything that reaches the
    /// ERP differs.
    pub fingerprint: [u8; 32],
    /// `#` and 13 characters of base32 over return and command id; stands in front of the remark.
    pub marker: String,
}

/// Characters of marker and space in front of the sender's remark.
const MARKER_COST: usize = 15;

/// Checks lengths (the ERP document's, in characters), required fields, quantities and the sender's
/// partitioning.
///
/// # Errors
/// Every violation, one sentence each, naming the field.
pub(super) fn validate(command: CreateReturnOutbound) -> Result<Accepted, Vec<String>> {
    let mut found = Vec::new();
    id(&mut found, "command_id", &command.command_id, 64);
    id(&mut found, "return_no", &command.return_no, 40);
    id(&mut found, "warehouse_no", &command.warehouse_no, 40);
    optional(&mut found, "logistics_code", command.logistics_code.as_deref(), 60);
    instant(&mut found, "issued_at", command.issued_at);
    instant(&mut found, "expires_at", command.expires_at);
    if let Some(remark) = &command.remark {
        text(&mut found, "remark", remark, 0, 255 - MARKER_COST);
    }
    if command.details.is_empty() {
        found.push("details must have at least one line".into());
    }
    for (at, line) in command.details.iter().enumerate() {
        check_line(&mut found, at, line);
    }
    if !found.is_empty() {
        return Err(found);
    }
    Ok(Accepted {
        fingerprint: fingerprint(&command),
        marker: marker(&command.return_no, &command.command_id),
        command,
    })
}

fn check_line(found: &mut Vec<String>, at: usize, line: &CommandLine) {
    let name = |field: &str| format!("details[{at}].{field}");
    id(found, &name("spec_no"), &line.spec_no, 40);
    if !line.num.is_positive() {
        found.push(format!("{} is {}; it must be greater than 0", name("num"), line.num));
    }
    optional(found, &name("unit_name"), line.unit_name.as_deref(), 40);
    optional(found, &name("position_no"), line.position_no.as_deref(), 50);
    optional(found, &name("batch_no"), line.batch_no.as_deref(), 50);
    optional(found, &name("expire_date"), line.expire_date.as_deref(), 50);
    optional(found, &name("remark"), line.remark.as_deref(), 255);
}

/// The years 2000 to 2100 in milliseconds since 1970.
const PLAUSIBLE: std::ops::Range<i64> = 946_684_800_000..4_102_444_800_000;

/// An instant far away is one in another unit: seconds read as milliseconds lie in 1970, and a
/// deadline there would have passed.
fn instant(found: &mut Vec<String>, name: &str, at: Option<Timestamp>) {
    if let Some(at) = at.filter(|at| !PLAUSIBLE.contains(&at.0)) {
        found.push(format!(
            "{name} is {}, which is no instant between 2000 and 2100 in milliseconds since 1970",
            at.0
        ));
    }
}

/// What is compared, searched for and typed again must not hold what nobody sees.
fn id(found: &mut Vec<String>, name: &str, value: &str, most: usize) {
    text(found, name, value, 1, most);
    if let Some(hidden) = value.chars().find(|character| is_hidden(*character)) {
        found.push(format!(
            "{name} contains the invisible character U+{:04X}; remove it",
            u32::from(hidden)
        ));
    }
}

/// Zero-width and bidirectional formatting characters (Unicode's `Default_Ignorable_Code_Point` and
/// `Bidi_Control`, as far as texts meet them).
fn is_hidden(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
    )
}

fn optional(found: &mut Vec<String>, name: &str, value: Option<&str>, most: usize) {
    if let Some(value) = value {
        text(found, name, value, 0, most);
    }
}

fn text(found: &mut Vec<String>, name: &str, value: &str, least: usize, most: usize) {
    let length = value.chars().count();
    if length < least {
        found.push(format!("{name} is empty; {least} to {most} characters are allowed"));
    } else if length > most {
        found.push(format!("{name} has {length} characters; at most {most} are allowed"));
    }
    if let Some(wide) = value.chars().find(|character| u32::from(*character) > 0xffff) {
        found.push(format!(
            "{name} contains the character U+{:X}; the ERP stores no character beyond U+FFFF",
            u32::from(wide)
        ));
    }
    if let Some(control) = value.chars().find(|character| character.is_control()) {
        found.push(format!(
            "{name} contains the control character U+{:04X}; the ERP has no use for it",
            u32::from(control)
        ));
    }
}

/// A record that does not stand where copies of it would.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misplaced {
    #[error("the record's key is not return_no; copies of a command must have the same key")]
    Key,
    #[error(
        "the record is in partition {partition}, but commands.partitioner puts return_no {return_no:?} into partition {expected}"
    )]
    Partition { partition: i32, return_no: String, expected: i32 },
}

/// Whether key and partition are where copies of this command would be as well; otherwise two
/// owners could judge them.
///
/// # Errors
/// [`Misplaced`], with the violation as its sentence.
pub(super) fn check_placement(
    key: Option<&[u8]>,
    return_no: &str,
    partition: i32,
    partitions: i32,
    partitioner: Partitioner,
) -> Result<(), Misplaced> {
    if key != Some(return_no.as_bytes()) {
        return Err(Misplaced::Key);
    }
    match partition_of(return_no.as_bytes(), partitions, partitioner) {
        Some(expected) if expected != partition => {
            Err(Misplaced::Partition { partition, return_no: return_no.to_owned(), expected })
        }
        Some(_) | None => Ok(()),
    }
}

/// The partition a sender's client chooses for a key; `None` where nothing is expected.
#[must_use]
pub fn partition_of(key: &[u8], partitions: i32, partitioner: Partitioner) -> Option<i32> {
    let count = u32::try_from(partitions).ok().filter(|count| *count > 0)?;
    let hash = match partitioner {
        Partitioner::Murmur2 => murmur2(key) & 0x7fff_ffff,
        Partitioner::Crc32 => crc32(key),
        Partitioner::Any => return None,
    };
    i32::try_from(hash % count).ok()
}

/// `org.apache.kafka.common.utils.Utils.murmur2`.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = 0x9747_b28c_u32 ^ length;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// CRC-32 (IEEE), as librdkafka's `consistent` partitioners use it.
fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}

/// `#` and 13 characters of base32 (65 bits) of SHA-256 over return and command id.
#[must_use]
pub fn marker(return_no: &str, command_id: &str) -> String {
    let mut hash = Sha256::new();
    field(&mut hash, Some(return_no));
    field(&mut hash, Some(command_id));
    let digest: [u8; 32] = hash.finalize().into();
    let text = BASE32_NOPAD.encode(digest.get(..10).unwrap_or_default());
    format!("#{}", text.get(..13).unwrap_or(&text))
}

/// The marker of ours with which a remark begins; it may be anybody's, of any characters.
#[must_use]
pub(crate) fn marker_of(remark: &str) -> Option<&str> {
    let candidate = remark.get(..14)?;
    let code = candidate.strip_prefix('#')?;
    let ends = remark.get(14..).is_none_or(|rest| rest.is_empty() || rest.starts_with(' '));
    (ends && code.bytes().all(|byte| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte)))
        .then_some(candidate)
}

/// The remark as sent: marker, space, the sender's remark. In front it survives truncation and
/// appended notes.
#[must_use]
pub(super) fn remark_as_sent(marker: &str, remark: Option<&str>) -> String {
    match remark {
        Some(remark) if !remark.is_empty() => format!("{marker} {remark}"),
        Some(_) | None => marker.to_owned(),
    }
}

/// SHA-256 of what reaches the ERP: equal for copies of a command.
#[must_use]
pub fn fingerprint(command: &CreateReturnOutbound) -> [u8; 32] {
    let mut hash = Sha256::new();
    field(&mut hash, Some(&command.return_no));
    field(&mut hash, Some(&command.warehouse_no));
    field(&mut hash, command.logistics_code.as_deref());
    field(&mut hash, command.create_mode.map(|mode| mode.name()));
    field(&mut hash, command.remark.as_deref());
    hash.update(u64::try_from(command.details.len()).unwrap_or(u64::MAX).to_be_bytes());
    for line in &command.details {
        field(&mut hash, Some(&line.spec_no));
        hash.update(line.num.unscaled().to_be_bytes());
        for text in
            [&line.unit_name, &line.position_no, &line.batch_no, &line.expire_date, &line.remark]
        {
            field(&mut hash, text.as_deref());
        }
        hash.update([line.defect.map_or(2, u8::from)]);
    }
    hash.finalize().into()
}

/// Length first, so that no two different sequences of fields are the same bytes; a missing field
/// is no empty one.
fn field(hash: &mut Sha256, text: Option<&str>) {
    match text {
        None => hash.update([0]),
        Some(text) => {
            hash.update([1]);
            hash.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(text.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decimal::Decimal;

    fn command() -> CreateReturnOutbound {
        CreateReturnOutbound {
            command_id: "c1".into(),
            return_no: "R1".into(),
            warehouse_no: "W1".into(),
            logistics_code: None,
            create_mode: None,
            remark: Some("破损".into()),
            details: vec![CommandLine {
                spec_no: "s".into(),
                num: Decimal::parse("1.5").unwrap(),
                unit_name: None,
                position_no: None,
                batch_no: None,
                expire_date: None,
                defect: Some(false),
                remark: None,
            }],
            issued_at: None,
            expires_at: None,
        }
    }

    #[test]
    fn lengths_are_counted_in_characters_with_the_marker() {
        let mut long = command();
        long.remark = Some("货".repeat(240));
        let accepted = validate(long.clone()).unwrap();
        assert_eq!(
            remark_as_sent(&accepted.marker, accepted.command.remark.as_deref()).chars().count(),
            255
        );
        long.remark = Some("货".repeat(241));
        assert_eq!(
            validate(long).unwrap_err(),
            vec!["remark has 241 characters; at most 240 are allowed"]
        );
    }

    #[test]
    fn every_violation_is_named() {
        let mut bad = command();
        bad.command_id = String::new();
        bad.return_no = "r".repeat(41);
        bad.warehouse_no = "a\u{0}b".into();
        bad.details[0].num = Decimal::parse("-1").unwrap();
        bad.details[0].spec_no = "s".repeat(41);
        let violations = validate(bad).unwrap_err().join("\n");
        for part in [
            "command_id is empty",
            "return_no has 41",
            "warehouse_no contains the control character U+0000",
            "details[0].num is -1.0000",
            "details[0].spec_no has 41",
        ] {
            assert!(violations.contains(part), "{part}: {violations}");
        }
        let mut empty = command();
        empty.details.clear();
        assert_eq!(validate(empty).unwrap_err(), vec!["details must have at least one line"]);
    }

    #[test]
    fn instants_in_other_units_and_characters_nobody_sees_are_named() {
        let mut bad = command();
        bad.command_id = "c\u{200b}1".into();
        bad.return_no = "R\u{202e}1".into();
        bad.remark = Some("破损\u{1f4e6}".into());
        bad.issued_at = Some(Timestamp(1_767_323_045));
        bad.expires_at = Some(Timestamp(1_767_323_045_000_000));
        assert_eq!(
            validate(bad).unwrap_err(),
            [
                "command_id contains the invisible character U+200B; remove it",
                "return_no contains the invisible character U+202E; remove it",
                "issued_at is 1767323045, which is no instant between 2000 and 2100 in milliseconds since 1970",
                "expires_at is 1767323045000000, which is no instant between 2000 and 2100 in milliseconds since 1970",
                "remark contains the character U+1F4E6; the ERP stores no character beyond U+FFFF",
            ]
        );
        let mut good = command();
        good.expires_at = Some(Timestamp(946_684_800_000));
        good.remark = Some("\u{ffff}".into());
        assert!(validate(good).is_ok());
    }

    #[test]
    fn copies_have_one_fingerprint_and_other_content_another() {
        let first = validate(command()).unwrap();
        let mut copy = command();
        copy.issued_at = Some(Timestamp(946_684_800_005));
        assert_eq!(validate(copy).unwrap().fingerprint, first.fingerprint);
        let changes: [fn(&mut CreateReturnOutbound); 5] = [
            |command| command.remark = None,
            |command| command.details[0].defect = None,
            |command| command.details[0].num = Decimal::parse("1.6").unwrap(),
            |command| command.details.push(command.details[0].clone()),
            |command| command.logistics_code = Some(String::new()),
        ];
        for change in changes {
            let mut other = command();
            change(&mut other);
            assert_ne!(validate(other).unwrap().fingerprint, first.fingerprint);
        }
    }

    #[test]
    fn markers_are_found_where_they_stand() {
        let marker = marker("R1", "c1");
        assert_eq!(marker.len(), 14);
        assert_ne!(marker, super::marker("R1c", "1"));
        assert_eq!(marker_of(&remark_as_sent(&marker, Some("破损"))), Some(marker.as_str()));
        assert_eq!(marker_of(&marker), Some(marker.as_str()));
        for text in [
            "",
            "#short",
            "破损破损破损破损破损破损",
            "外箱破损 6",
            "外箱破损 6 件",
            "#abcdefghijklm x",
            &format!("{marker}X"),
            &format!(" {marker}"),
        ] {
            assert_eq!(marker_of(text), None, "{text}");
        }
    }

    /// Expected values from Apache Kafka's `UtilsTest.testMurmur2` and from zlib.
    #[test]
    fn partitioners_agree_with_their_clients() {
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(partition_of(b"x", 0, Partitioner::Murmur2), None);
        assert!(
            check_placement(
                Some(b"R1"),
                "R1",
                partition_of(b"R1", 6, Partitioner::Murmur2).unwrap(),
                6,
                Partitioner::Murmur2
            )
            .is_ok()
        );
        assert!(check_placement(Some(b"R2"), "R1", 0, 6, Partitioner::Any).is_err());
    }
}
