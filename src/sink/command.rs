//! Hop 1: a delivered record becomes a command, or says why it is none.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    clock::Timestamp,
    config::CommandFormat,
    decimal::Decimal,
    kafka::Delivered,
    schema::{Codec, CommandLine, CreateMode, CreateReturnOutbound, DecodeFault},
};

/// What a record turned out to be.
#[derive(Debug)]
pub(super) enum Parsed {
    /// A command whose fields have the right types; nothing else is known of it yet.
    Command(Box<CreateReturnOutbound>),
    /// Readable enough to answer, not to be a command.
    Invalid { return_no: String, command_id: String, violations: Vec<String> },
    /// Nobody can be answered: dead letters, byte for byte.
    Poison(String),
    /// Its registry schema has to be learnt first.
    Unlearnt(u32),
}

/// Reads the value of a record.
#[must_use]
pub(super) fn parse(record: &Delivered, format: CommandFormat, codec: &Codec) -> Parsed {
    if let Some(size) = record.left_out {
        return Parsed::Poison(format!(
            "the value has {size} bytes, more than any command; it is left out here and stands in the commands topic, partition {}, offset {}",
            record.lease.partition, record.offset
        ));
    }
    let Some(value) = &record.value else {
        return Parsed::Poison("the record is a tombstone; a command needs a value".into());
    };
    match format {
        CommandFormat::Avro => match codec.decode_command(value) {
            Ok(command) => Parsed::Command(Box::new(command)),
            Err(DecodeFault::UnknownSchemaId(id)) => Parsed::Unlearnt(id),
            Err(DecodeFault::Malformed(reason)) => Parsed::Poison(reason),
        },
        CommandFormat::Json => parse_json(value),
    }
}

/// Which command a value is about, as far as it can be read: (`return_no`, `command_id`). A schema
/// that is met for the first time is learnt; blocks then.
#[must_use]
pub(crate) fn identify(
    value: &[u8],
    format: CommandFormat,
    codec: &Codec,
    runtime: &tokio::runtime::Handle,
) -> Option<(String, String)> {
    match format {
        CommandFormat::Json => match parse_json(value) {
            Parsed::Command(command) => Some((command.return_no, command.command_id)),
            Parsed::Invalid { return_no, command_id, .. } => Some((return_no, command_id)),
            Parsed::Poison(_) | Parsed::Unlearnt(_) => None,
        },
        CommandFormat::Avro => {
            let command = match codec.decode_command(value) {
                Err(DecodeFault::UnknownSchemaId(id)) => runtime
                    .block_on(codec.learn(id))
                    .ok()
                    .and_then(|()| codec.decode_command(value).ok()),
                read => read.ok(),
            };
            command.map(|command| (command.return_no, command.command_id))
        }
    }
}

/// The fields of one JSON object, taken one by one; what is left over is unknown.
struct Fields {
    path: String,
    raw: BTreeMap<String, Box<RawValue>>,
    violations: Vec<String>,
}

impl Fields {
    fn of(path: String, object: Object) -> Self {
        let violations = object
            .repeated
            .iter()
            .map(|name| {
                format!("{path}{name} is given more than once; which one holds is not guessed")
            })
            .collect();
        Self { path, raw: object.raw, violations }
    }

    fn name(&self, field: &str) -> String {
        format!("{}{field}", self.path)
    }

    /// A field that may be missing or null.
    fn optional<T: DeserializeOwned>(&mut self, field: &str, kind: &str) -> Option<T> {
        let raw = self.raw.remove(field)?;
        match serde_json::from_str::<Option<T>>(raw.get()) {
            Ok(value) => value,
            Err(_) => {
                self.violations.push(format!("{} must be {kind}", self.name(field)));
                None
            }
        }
    }

    /// A field that has to be there; a default stands in so that every other violation is found as
    /// well.
    fn required<T: DeserializeOwned + Default>(&mut self, field: &str, kind: &str) -> T {
        let before = self.violations.len();
        self.optional(field, kind).unwrap_or_else(|| {
            if self.violations.len() == before {
                self.violations.push(format!("{} is missing", self.name(field)));
            }
            T::default()
        })
    }

    /// A decimal as JSON number or string; never through a float.
    fn decimal(&mut self, field: &str) -> Decimal {
        let Some(raw) = self.raw.remove(field) else {
            self.violations.push(format!("{} is missing", self.name(field)));
            return Decimal::ZERO;
        };
        let text =
            serde_json::from_str::<String>(raw.get()).unwrap_or_else(|_| raw.get().to_owned());
        Decimal::parse(&text).unwrap_or_else(|fault| {
            self.violations.push(format!("{} {fault}", self.name(field)));
            Decimal::ZERO
        })
    }

    /// An instant: RFC 3339 text or milliseconds since 1970.
    fn instant(&mut self, field: &str) -> Option<Timestamp> {
        let raw = self.raw.remove(field)?;
        if raw.get() == "null" {
            return None;
        }
        let read = match serde_json::from_str::<String>(raw.get()) {
            Ok(text) => text
                .parse::<jiff::Timestamp>()
                .ok()
                .map(|instant| Timestamp(instant.as_millisecond())),
            Err(_) => raw.get().parse::<i64>().ok().map(Timestamp),
        };
        if read.is_none() {
            self.violations.push(format!(
                "{} must be an RFC 3339 instant or milliseconds since 1970",
                self.name(field)
            ));
        }
        read
    }

    /// Every field nobody asked for is a violation by name.
    fn finish(mut self) -> Vec<String> {
        let names: Vec<String> = self.raw.keys().map(|field| self.name(field)).collect();
        self.violations
            .extend(names.into_iter().map(|name| format!("{name} is not a field of a command")));
        self.violations
    }
}

/// A JSON object as it is written: what a name that comes twice means is not guessed.
#[derive(Default)]
struct Object {
    raw: BTreeMap<String, Box<RawValue>>,
    /// Names that came more than once.
    repeated: BTreeSet<String>,
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut object = Object::default();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    if object.raw.insert(name.clone(), value).is_some() {
                        object.repeated.insert(name);
                    }
                }
                Ok(object)
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// What is in front of the JSON, in words; `None` where nothing is.
fn prefix(bytes: &[u8]) -> Option<String> {
    match bytes {
        [0xef, 0xbb, 0xbf, ..] => Some(
            "the value begins with a byte order mark (EF BB BF); send the JSON without it".into(),
        ),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            Some("the value begins with a byte order mark of UTF-16; send JSON in UTF-8".into())
        }
        [0, a, b, c, d, ..] => Some(format!(
            "the value begins with the header of a schema registry (byte 0 and schema id {}); send the JSON without it, or Avro with commands.format = \"avro\"",
            u32::from_be_bytes([*a, *b, *c, *d])
        )),
        _ => None,
    }
}

pub(super) fn parse_json(bytes: &[u8]) -> Parsed {
    if let Some(reason) = prefix(bytes) {
        return Parsed::Poison(reason);
    }
    let object: Object = match serde_json::from_slice(bytes) {
        Ok(object) => object,
        Err(error) => return Parsed::Poison(format!("the value is not a JSON object: {error}")),
    };
    let mut fields = Fields::of(String::new(), object);
    let return_no: String = fields.required("return_no", "a string");
    let command_id: String = fields.required("command_id", "a string");
    if return_no.is_empty() && command_id.is_empty() {
        return Parsed::Poison(
            "the JSON object has neither return_no nor command_id, so nobody can be answered"
                .into(),
        );
    }
    let create_mode =
        fields.optional::<String>("create_mode", "DRAFT, SUBMITTED or APPROVED").and_then(|mode| {
            let known = CreateMode::from_name(&mode);
            if known.is_none() {
                fields.violations.push("create_mode must be DRAFT, SUBMITTED or APPROVED".into());
            }
            known
        });
    let lines: Vec<Object> = fields.required("details", "an array of objects");
    let mut line_violations = Vec::new();
    let details = lines
        .into_iter()
        .enumerate()
        .map(|(at, object)| {
            let mut line = Fields::of(format!("details[{at}]."), object);
            let read = CommandLine {
                spec_no: line.required("spec_no", "a string"),
                num: line.decimal("num"),
                unit_name: line.optional("unit_name", "a string"),
                position_no: line.optional("position_no", "a string"),
                batch_no: line.optional("batch_no", "a string"),
                expire_date: line.optional("expire_date", "a string"),
                defect: line.optional("defect", "true or false"),
                remark: line.optional("remark", "a string"),
            };
            line_violations.extend(line.finish());
            read
        })
        .collect();
    let command = CreateReturnOutbound {
        command_id,
        return_no,
        warehouse_no: fields.required("warehouse_no", "a string"),
        logistics_code: fields.optional("logistics_code", "a string"),
        create_mode,
        remark: fields.optional("remark", "a string"),
        details,
        issued_at: fields.instant("issued_at"),
        expires_at: fields.instant("expires_at"),
    };
    let mut violations = fields.finish();
    violations.extend(line_violations);
    if violations.is_empty() {
        Parsed::Command(Box::new(command))
    } else {
        Parsed::Invalid { return_no: command.return_no, command_id: command.command_id, violations }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_command_keeps_every_digit() {
        let json = br#"{"command_id":"c1","return_no":"R1","warehouse_no":"W1","create_mode":"APPROVED","remark":null,
            "details":[{"spec_no":"s","num":999999999999999.9999},{"spec_no":"t","num":"1.5","defect":true}],"expires_at":"2026-01-02T03:04:05Z"}"#;
        let Parsed::Command(command) = parse_json(json) else { panic!("a command") };
        assert_eq!(command.details[0].num.to_string(), "999999999999999.9999");
        assert_eq!(command.details[1].num.to_string(), "1.5000");
        assert_eq!(command.create_mode, Some(CreateMode::Approved));
        assert_eq!(command.expires_at, Some(Timestamp(1_767_323_045_000)));
    }

    #[test]
    fn every_violation_of_a_json_command_is_named() {
        let json = br#"{"command_id":"c1","return_no":"R1","wharehouse_no":"W1","details":[{"spec_no":1,"num":"0.00001","colour":"red"}],"create_mode":"NOW","expires_at":"soon"}"#;
        let Parsed::Invalid { violations, .. } = parse_json(json) else { panic!("invalid") };
        for part in [
            "warehouse_no is missing",
            "wharehouse_no is not a field",
            "details[0].spec_no must be a string",
            "details[0].num has digits beyond",
            "details[0].colour is not a field",
            "create_mode must be",
            "expires_at must be",
        ] {
            assert!(
                violations.iter().any(|violation| violation.contains(part)),
                "{part}: {violations:?}"
            );
        }
    }

    #[test]
    fn names_that_come_twice_are_violations() {
        let json = br#"{"command_id":"c1","return_no":"R1","warehouse_no":"W1","remark":"a","details":[{"spec_no":"s","num":"1","num":"50"}],"remark":"a"}"#;
        let Parsed::Invalid { violations, .. } = parse_json(json) else { panic!("invalid") };
        assert_eq!(
            violations,
            [
                "remark is given more than once; which one holds is not guessed",
                "details[0].num is given more than once; which one holds is not guessed",
            ]
        );
    }

    #[test]
    fn what_stands_in_front_of_the_json_is_named() {
        for (bytes, part) in [
            (&b"\xef\xbb\xbf{}"[..], "a byte order mark (EF BB BF)"),
            (b"\xff\xfe{\0", "UTF-16"),
            (b"\0\0\0\0\x4d{\"command_id\":\"c\"}", "schema id 77"),
        ] {
            let Parsed::Poison(reason) = parse_json(bytes) else { panic!("{bytes:?}") };
            assert!(reason.contains(part), "{reason}");
        }
    }

    #[test]
    fn what_nobody_can_be_answered_for_is_poison() {
        for bytes in [&b""[..], b"[]", b"{", b"{}", b"\xff\xfe", b"42"] {
            assert!(matches!(parse_json(bytes), Parsed::Poison(_)), "{bytes:?}");
        }
    }
}
