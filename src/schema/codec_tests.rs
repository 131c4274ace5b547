//! Byte by byte against `apache-avro`, the kept files of `tests/schemas/golden`, and bytes nobody
//! meant.

use std::{
    fs,
    path::PathBuf,
    sync::{LazyLock, Mutex},
};

use apache_avro::{
    Schema as Reference, reader::datum::GenericDatumReader, types::Value as Avro,
    writer::datum::GenericDatumWriter,
};
use axum::http::StatusCode;
use proptest::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};

use super::super::registry;
use super::*;
use crate::{
    clock::Timestamp,
    config::{Edition, Feed},
    decimal::Decimal,
    erp::record,
    explanation::Explanation,
    schema::{
        Checkpoint, CommandLine, CreateMode, EntryKind, ExplanationFields, Op, Outcome, Source,
        StateKind, UnprovenWindow, datum::put_long, learnt::MAX_LEARNT, parser::ours, schemas,
        shape::Shape,
    },
};

/// Every optional field is there where its bit of `seed` is set.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        // Knuth's MMIX generator: enough to mix options.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.roll() & 1 == 1).then(|| make(self))
    }
    fn flag(&mut self) -> bool {
        self.roll() & 1 == 1
    }
    fn text(&mut self) -> String {
        "旺店通 a\"b\\ ".repeat(usize::try_from(self.roll() % 12).unwrap())
    }
    fn option(&mut self) -> Option<String> {
        self.maybe(Self::text)
    }
    fn explanation(&mut self) -> ExplanationFields {
        self.maybe(|dice| Explanation::new(dice.text(), dice.text())).into()
    }
    fn texts(&mut self) -> Vec<String> {
        (0..self.roll() % 4).map(|_| self.text()).collect()
    }
    fn bytes(&mut self) -> Vec<u8> {
        (0..self.roll() % 40).map(|at| u8::try_from(at).unwrap()).collect()
    }
    fn long(&mut self) -> i64 {
        let bits = self.roll() % 63;
        (self.0.cast_signed()) >> bits
    }
    fn int(&mut self) -> i32 {
        i32::try_from(self.long() >> 33).unwrap_or(0)
    }
    fn instant(&mut self) -> Timestamp {
        Timestamp(self.long() / 1_000_000)
    }
    fn when(&mut self) -> Option<Timestamp> {
        self.maybe(Self::instant)
    }
    fn decimal(&mut self) -> Decimal {
        Decimal::from_unscaled(i128::from(self.long())).unwrap()
    }
    fn outcome(&mut self) -> Outcome {
        [Outcome::Created, Outcome::Rejected, Outcome::Invalid, Outcome::InDoubt, Outcome::Expired]
            [usize::try_from(self.roll() % 5).unwrap()]
    }

    fn command(&mut self) -> CreateReturnOutbound {
        CreateReturnOutbound {
            command_id: self.text(),
            return_no: self.text(),
            warehouse_no: self.text(),
            logistics_code: self.option(),
            create_mode: self.maybe(|dice| {
                [CreateMode::Draft, CreateMode::Submitted, CreateMode::Approved]
                    [usize::try_from(dice.roll() % 3).unwrap()]
            }),
            remark: self.option(),
            details: (0..self.roll() % 4)
                .map(|_| CommandLine {
                    spec_no: self.text(),
                    num: self.decimal(),
                    unit_name: self.option(),
                    position_no: self.option(),
                    batch_no: self.option(),
                    expire_date: self.option(),
                    defect: self.maybe(Self::flag),
                    remark: self.option(),
                })
                .collect(),
            issued_at: self.when(),
            expires_at: self.when(),
        }
    }
    fn result(&mut self) -> CommandResult {
        CommandResult {
            command_id: self.text(),
            return_no: self.text(),
            outcome: self.outcome(),
            outbound_no: self.option(),
            erp_code: self.maybe(Self::long),
            erp_message: self.option(),
            explanation: self.explanation(),
            warning: self.option(),
            violations: self.texts(),
            candidates: self.texts(),
            attempts: self.int(),
            recovered: self.flag(),
            duplicate: self.flag(),
            resolved: self.flag(),
            first_attempt_at: self.when(),
            last_attempt_at: self.when(),
            settled_at: self.instant(),
            source_topic: self.text(),
            source_partition: self.int(),
            source_offset: self.long(),
        }
    }
    fn journal(&mut self) -> JournalEntry {
        JournalEntry {
            kind: [EntryKind::Intent, EntryKind::Outcome, EntryKind::Barrier]
                [usize::try_from(self.roll() % 3).unwrap()],
            version: self.long(),
            return_no: self.text(),
            command_id: self.text(),
            warehouse_no: self.text(),
            fingerprint: self.bytes(),
            marker: self.text(),
            attempt: self.int(),
            bound_ms: self.long(),
            first_intent_at: self.when(),
            written_at: self.instant(),
            source_partition: self.int(),
            source_offset: self.long(),
            outcome: self.maybe(Self::outcome),
            outbound_no: self.option(),
            erp_code: self.maybe(Self::long),
            erp_message: self.option(),
            explanation: self.explanation(),
            warning: self.option(),
            candidates: self.texts(),
            recovered: self.flag(),
            resolved: self.flag(),
            first_attempt_at: self.when(),
            last_attempt_at: self.when(),
            nonce: self.option(),
            partitions: self.maybe(Self::int),
            refusals: self.int(),
        }
    }
    fn feed_state(&mut self) -> FeedState {
        FeedState {
            kind: [
                StateKind::Checkpoint,
                StateKind::Record,
                StateKind::DeadLetter,
                StateKind::Barrier,
            ][usize::try_from(self.roll() % 4).unwrap()],
            feed: self.text(),
            record_id: self.option(),
            number: self.option(),
            modified: self.when(),
            asked_at: self.when(),
            content_hash: self.bytes(),
            version: self.bytes(),
            checkpoint: self.maybe(|dice| Checkpoint {
                account: dice.text(),
                edition: dice.text(),
                start_at: dice.instant(),
                watermark: dice.instant(),
                late_watermark: dice.instant(),
                snapshot: dice.flag(),
                filters_hash: dice.text(),
                backfill_from: dice.when(),
                backfill_to: dice.when(),
                backfill_position: dice.when(),
                backfill_id: dice.option(),
                backfill_rows: dice.maybe(Dice::long),
                backfill_events: dice.maybe(Dice::long),
                backfill_last: dice.option(),
                backfill_end: dice.option(),
                watermark_id: dice.option(),
                shipped_recent_at: dice.when(),
                shipped_older_at: dice.when(),
                skipped_to: dice.when(),
                unproven: (0..dice.roll() % 3)
                    .map(|_| UnprovenWindow {
                        from: dice.instant(),
                        to: dice.instant(),
                        since: dice.instant(),
                        snapshot: dice.flag(),
                        records_since: dice.when(),
                    })
                    .collect(),
            }),
            nonce: self.option(),
        }
    }
    fn source(&mut self) -> Source {
        Source {
            version: self.text(),
            connector: "wdt".to_owned(),
            name: self.text(),
            ts_ms: self.instant(),
            snapshot: self.option(),
            db: self.text(),
            table: self.text(),
            edition: self.text(),
            sid: self.text(),
            query: self.text(),
            window_start: self.when(),
            window_end: self.when(),
            command_id: self.option(),
            marker: self.option(),
        }
    }
}

fn settings() -> RegistrySettings {
    RegistrySettings {
        url: "http://127.0.0.1:9/".to_owned(),
        auth: None,
        register: true,
        ca_file: None,
    }
}

const ALL: [Subject; 6] = [
    Subject::Command,
    Subject::Result,
    Subject::Journal,
    Subject::PurchaseReturnEnvelope,
    Subject::ReturnOutboundEnvelope,
    Subject::FeedState,
];

/// As after a start with a registry that gave the ids 1 to 6.
fn confluent() -> Codec {
    let mut codec = Codec::single_object();
    codec.registry = Some(RwLock::new(Arc::new(Registry::new(&settings()).unwrap())));
    codec.ids = ALL.into_iter().zip(1..).collect();
    codec.own =
        codec.ids.iter().map(|(subject, id)| (*id, Arc::clone(catalog().of(*subject)))).collect();
    codec
}

/// The schema as `apache-avro` sees it, parsed once: property tests ask often.
fn parsed(text: &'static str) -> &'static Reference {
    static PARSED: LazyLock<Mutex<HashMap<&'static str, &'static Reference>>> =
        LazyLock::new(Mutex::default);
    PARSED.lock().unwrap().entry(text).or_insert_with(|| Box::leak(Box::new(ours(text).unwrap())))
}

/// `apache-avro`'s own bytes.
fn reference(subject: Subject, value: &impl Serialize) -> Vec<u8> {
    let schema = parsed(catalog().of(subject).text);
    GenericDatumWriter::builder(schema)
        .human_readable(false)
        .build()
        .unwrap()
        .write_ser_to_vec(value)
        .unwrap()
}

/// What `apache-avro` reads, in the form of `to_json`.
pub(crate) fn reference_json(text: &'static str, mut datum: &[u8]) -> Value {
    fn plain(value: Avro) -> Value {
        match value {
            Avro::Null => Value::Null,
            Avro::Boolean(value) => value.into(),
            Avro::Int(value) => value.into(),
            Avro::Long(value) => value.into(),
            Avro::TimestampMillis(value) => Timestamp(value).to_string().into(),
            Avro::Bytes(value) => data_encoding::HEXLOWER.encode(&value).into(),
            Avro::String(value) | Avro::Enum(_, value) => value.into(),
            Avro::Decimal(value) => Decimal::from_avro(&Vec::<u8>::try_from(&value).unwrap())
                .unwrap()
                .to_string()
                .into(),
            Avro::Union(_, value) => plain(*value),
            Avro::Array(items) => items.into_iter().map(plain).collect::<Vec<_>>().into(),
            Avro::Map(entries) => {
                Value::Object(entries.into_iter().map(|(key, value)| (key, plain(value))).collect())
            }
            Avro::Record(fields) => {
                Value::Object(fields.into_iter().map(|(key, value)| (key, plain(value))).collect())
            }
            other => panic!("{other:?}"),
        }
    }
    let schema = parsed(text);
    let value =
        GenericDatumReader::builder(schema).build().unwrap().read_value(&mut datum).unwrap();
    assert!(datum.is_empty(), "everything is read");
    plain(value)
}

proptest! {
    #[test]
    fn values_are_written_as_apache_avro_writes_them_and_read_back(seed: u64) {
        let mut dice = Dice(seed);
        let (single, registered) = (Codec::single_object(), confluent());
        let (command, result, journal, state) = (dice.command(), dice.result(), dice.journal(), dice.feed_state());
        for codec in [&single, &registered] {
            let header = if codec.registry.is_some() { 5 } else { 10 };
            let bytes = codec.encode_command(&command).unwrap();
            prop_assert_eq!(&bytes[header..], reference(Subject::Command, &command));
            prop_assert_eq!(codec.decode_command(&bytes), Ok(command.clone()));
            prop_assert_eq!(codec.to_json(&bytes), Ok(reference_json(catalog().command.text, &bytes[header..])));
            let bytes = codec.encode_result(&result).unwrap();
            prop_assert_eq!(&bytes[header..], reference(Subject::Result, &result));
            prop_assert_eq!(codec.decode_result(&bytes), Ok(result.clone()));
            let bytes = codec.encode_journal(&journal).unwrap();
            prop_assert_eq!(&bytes[header..], reference(Subject::Journal, &journal));
            prop_assert_eq!(codec.decode_journal(&bytes), Ok(journal.clone()));
            let bytes = codec.encode_feed_state(&state).unwrap();
            prop_assert_eq!(&bytes[header..], reference(Subject::FeedState, &state));
            prop_assert_eq!(codec.decode_feed_state(&bytes), Ok(state.clone()));
        }
        // What one framing's owner wrote, the other reads.
        prop_assert_eq!(registered.decode_journal(&single.encode_journal(&journal).unwrap()), Ok(journal));
    }

    #[test]
    fn translation_to_the_same_schema_changes_nothing(seed: u64) {
        let mut dice = Dice(seed);
        for (known, datum) in [
            (&catalog().command, reference(Subject::Command, &dice.command())),
            (&catalog().result, reference(Subject::Result, &dice.result())),
            (&catalog().journal, reference(Subject::Journal, &dice.journal())),
            (&catalog().feed_state, reference(Subject::FeedState, &dice.feed_state())),
        ] {
            let (mut cursor, mut out) = (Cursor::new(&datum), Vec::new());
            prop_assert_eq!(translate(known.schema.root(), known.schema.root(), &mut cursor, &mut out), Ok(()));
            prop_assert_eq!(&out, &datum);
        }
    }

    #[test]
    fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200), which in 0_usize..8, seed: u64, at: usize, flip: u8) {
        let codec = confluent();
        let known = schemas()[which];
        let mut framed = SINGLE_OBJECT.to_vec();
        framed.extend_from_slice(&known.fingerprint.to_le_bytes());
        framed.extend_from_slice(&bytes);
        let mut damaged = codec.encode_command(&Dice(seed).command()).unwrap();
        let at = at % damaged.len();
        damaged[at] ^= flip;
        for bytes in [&bytes, &framed, &damaged, &damaged[..at].to_vec()] {
            let _ = codec.decode_command(bytes);
            let _ = codec.decode_result(bytes);
            let _ = codec.decode_journal(bytes);
            let _ = codec.decode_feed_state(bytes);
            let _ = codec.to_json(bytes);
            let _ = codec.current_datum(Subject::ReturnOutboundEnvelope, bytes);
        }
    }

    #[test]
    fn integers_and_decimals_take_apache_avros_form(long: i64, unscaled in -9_999_999_999_999_999_999_i128..=9_999_999_999_999_999_999) {
        let mut out = Vec::new();
        put_long(&mut out, long);
        let schema = Reference::Long;
        prop_assert_eq!(&out, &GenericDatumWriter::builder(&schema).build().unwrap().write_ser_to_vec(&long).unwrap());
        prop_assert_eq!(Cursor::new(&out).long(), Ok(long));
        let decimal = Decimal::from_unscaled(unscaled).unwrap();
        let mut out = Vec::new();
        decimal.put(&mut out);
        prop_assert_eq!(&out[1..], decimal.to_avro());
        prop_assert_eq!(Decimal::take(&mut Cursor::new(&out)), Ok(decimal));
    }
}

/// What an older version wrote is read with the defaults of the fields it did not have.
#[test]
fn every_field_with_a_default_may_be_younger_than_an_entry() {
    let mut dice = Dice(5);
    let mut tried = 0;
    for (known, datum) in [
        (&catalog().command, reference(Subject::Command, &dice.command())),
        (&catalog().result, reference(Subject::Result, &dice.result())),
        (&catalog().journal, reference(Subject::Journal, &dice.journal())),
        (&catalog().feed_state, reference(Subject::FeedState, &dice.feed_state())),
        (&catalog().return_outbound, sample_record(Feed::ReturnOutbounds, Edition::Enterprise)),
        (&catalog().purchase_return, sample_record(Feed::PurchaseReturns, Edition::Flagship)),
    ] {
        let root = known.schema.root();
        let Shape::Record(id) = root.shape else { panic!("a record") };
        let whole = to_json(root, &mut Cursor::new(&datum)).unwrap();
        for (at, field) in root.record(*id).fields.iter().enumerate() {
            let Some(default) = &field.default else { continue };
            let older = known.schema.without(at);
            let (mut written, mut read) = (Vec::new(), Vec::new());
            translate(root, older.root(), &mut Cursor::new(&datum), &mut written).unwrap();
            translate(older.root(), root, &mut Cursor::new(&written), &mut read).unwrap();
            let mut wanted = whole.clone();
            wanted[&field.name] =
                to_json(root.at(&field.shape), &mut Cursor::new(default)).unwrap();
            assert_eq!(
                to_json(root, &mut Cursor::new(&read)).unwrap(),
                wanted,
                "{}.{}",
                known.name,
                field.name
            );
            tried += 1;
        }
    }
    assert!(tried > 100, "{tried} fields");
}

fn malformed<T: std::fmt::Debug>(read: Result<T, DecodeFault>) -> String {
    match read {
        Err(DecodeFault::Malformed(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_read_says_why() {
    let codec = Codec::single_object();
    let good = codec.encode_command(&Dice(1).command()).unwrap();
    let mut long = good.clone();
    long.push(0);
    assert_eq!(
        malformed(codec.decode_command(&long)),
        "the value cannot be read as CreateReturnOutbound: has 1 bytes after its end"
    );
    assert!(malformed(codec.decode_command(&good[..good.len() - 1])).ends_with("ends too early"));
    assert!(malformed(codec.decode_command(b"{}")).contains("begins neither with"));
    assert!(malformed(codec.decode_command(&[])).contains("begins neither with"));
    assert_eq!(
        malformed(codec.decode_command(&[0, 0, 0, 0, 7, 1, 2])),
        "the value was written with schema id 7 of a schema registry, but none is configured: set schema_registry.url"
    );
    assert_eq!(
        confluent().decode_command(&[0, 0, 0, 0, 7, 1, 2]),
        Err(DecodeFault::UnknownSchemaId(7))
    );
    assert!(
        malformed(codec.decode_command(&[0xc3, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0]))
            .contains("fingerprint 0807060504030201")
    );
    let result = codec.encode_result(&Dice(1).result()).unwrap();
    assert_eq!(
        malformed(codec.decode_command(&result)),
        "the value is a CommandResult, but a CreateReturnOutbound belongs here"
    );
    // A length of 2^62 and nothing behind it.
    let mut huge = good[..10].to_vec();
    put_long(&mut huge, 1 << 62);
    assert!(malformed(codec.decode_command(&huge)).contains("at most"));
}

#[test]
fn a_decimal_beyond_19_digits_is_no_command() {
    let codec = Codec::single_object();
    let mut command = Dice(0).command();
    command.details = vec![];
    let mut bytes = codec.encode_command(&command).unwrap();
    let tail = 2
        + usize::from(command.issued_at.is_some()) * 10
        + usize::from(command.expires_at.is_some()) * 10;
    assert!(tail < bytes.len());
    command.issued_at = None;
    command.expires_at = None;
    bytes = codec.encode_command(&command).unwrap();
    bytes.truncate(bytes.len() - 3);
    // One line: an empty spec_no, a num of 10^19.
    bytes.extend_from_slice(&[
        2, 0, 18, 0x00, 0x8a, 0xc7, 0x23, 0x04, 0x89, 0xe8, 0x00, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ]);
    assert!(malformed(codec.decode_command(&bytes)).contains("15 digits before the decimal point"));
}

fn learnt(codec: &Codec, id: u32, text: &str) {
    let lesson = Lesson::Readable(Arc::new(Schema::parse(text, &[]).unwrap()));
    codec.learnt.write().unwrap().insert(id, lesson, text.len());
}

/// A sender's own schema: other names, other order, wider and narrower types, fields missing and
/// fields too many.
#[test]
fn a_sender_may_write_with_a_schema_of_its_own() {
    let codec = confluent();
    let text = json!({"type": "record", "name": "Order", "namespace": "com.example", "fields": [
        {"name": "details", "type": {"type": "array", "items": {"type": "record", "name": "Item", "fields": [
            {"name": "num", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
            {"name": "colour", "type": {"type": "enum", "name": "Colour", "symbols": ["RED", "BLUE"]}},
            {"name": "spec_no", "type": ["string", "null"]},
            {"name": "defect", "type": "boolean"},
        ]}}},
        {"name": "warehouse_no", "type": "bytes"},
        {"name": "issued_at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "return_no", "type": "string"},
        {"name": "create_mode", "type": "string"},
        {"name": "weights", "type": {"type": "map", "values": "double"}},
        {"name": "command_id", "type": "string"},
    ]})
    .to_string();
    learnt(&codec, 77, &text);
    let schema = ours(&text).unwrap();
    let item = Avro::Record(vec![
        ("num".to_owned(), Avro::Decimal(apache_avro::Decimal::from([0x27, 0x10]))),
        ("colour".to_owned(), Avro::Enum(1, "BLUE".to_owned())),
        ("spec_no".to_owned(), Avro::Union(0, Box::new(Avro::String("sku".to_owned())))),
        ("defect".to_owned(), Avro::Boolean(true)),
    ]);
    let value = Avro::Record(vec![
        ("details".to_owned(), Avro::Array(vec![item])),
        ("warehouse_no".to_owned(), Avro::Bytes(b"w".to_vec())),
        ("issued_at".to_owned(), Avro::TimestampMicros(1_700_000_000_123_456)),
        ("return_no".to_owned(), Avro::String("r".to_owned())),
        ("create_mode".to_owned(), Avro::String("APPROVED".to_owned())),
        ("weights".to_owned(), Avro::Map([("a".to_owned(), Avro::Double(1.5))].into())),
        ("command_id".to_owned(), Avro::String("c".to_owned())),
    ]);
    let mut bytes = vec![0, 0, 0, 0, 77];
    bytes.extend(
        GenericDatumWriter::builder(&schema).build().unwrap().write_value_to_vec(value).unwrap(),
    );
    let wanted = CreateReturnOutbound {
        command_id: "c".to_owned(),
        return_no: "r".to_owned(),
        warehouse_no: "w".to_owned(),
        logistics_code: None,
        create_mode: Some(CreateMode::Approved),
        remark: None,
        details: vec![CommandLine {
            spec_no: "sku".to_owned(),
            num: Decimal::parse("100").unwrap(),
            unit_name: None,
            position_no: None,
            batch_no: None,
            expire_date: None,
            defect: Some(true),
            remark: None,
        }],
        issued_at: Some(Timestamp(1_700_000_000_123)),
        expires_at: None,
    };
    assert_eq!(codec.decode_command(&bytes), Ok(wanted));
    assert_eq!(codec.to_json(&bytes).unwrap()["details"][0]["num"], "100.0000");
}

/// A command whose quantity and deadline are of these types, and their datums.
fn command_of(
    num: (&str, &[u8]),
    expires_at: (&str, &[u8]),
) -> Result<CreateReturnOutbound, DecodeFault> {
    let codec = confluent();
    let text = format!(
        r#"{{"type":"record","name":"C","fields":[{{"name":"command_id","type":"string"}},{{"name":"return_no","type":"string"}},
        {{"name":"warehouse_no","type":"string"}},{{"name":"expires_at","type":{}}},
        {{"name":"details","type":{{"type":"array","items":{{"type":"record","name":"L","fields":[{{"name":"spec_no","type":"string"}},{{"name":"num","type":{}}}]}}}}}}]}}"#,
        expires_at.0, num.0
    );
    learnt(&codec, 79, &text);
    let mut bytes = vec![0, 0, 0, 0, 79];
    bytes.extend(b"\x02c\x02r\x02w");
    bytes.extend(expires_at.1);
    bytes.extend(b"\x02\x02s");
    bytes.extend(num.1);
    bytes.push(0);
    codec.decode_command(&bytes)
}

/// A timestamp of 2026.
const MILLIS: (&str, &[u8]) = ("\"long\"", &[0x80, 0x90, 0x8a, 0xba, 0xc9, 0x67]);
/// 2.5 as the schema of the command has it.
const QUANTITY: (&str, &[u8]) =
    (r#"{"type":"bytes","logicalType":"decimal","precision":19,"scale":4}"#, &[4, 0x61, 0xa8]);

#[test]
fn a_quantity_is_exact_or_refused_by_name() {
    fn read(text: &str, datum: &[u8]) -> Result<String, DecodeFault> {
        command_of((text, datum), MILLIS).map(|command| command.details[0].num.to_string())
    }
    assert_eq!(read(QUANTITY.0, QUANTITY.1), Ok("2.5000".to_owned()));
    let big = r#"{"type":"bytes","logicalType":"big-decimal"}"#;
    for (datum, wanted) in [
        (&[6, 2, 25, 2][..], "2.5000"),
        (&[6, 2, 0x19, 1], "250.0000"),
        (&[8, 4, 0xff, 0x06, 4], "-2.5000"),
        (&[8, 4, 0x00, 0xfa, 4], "2.5000"),
    ] {
        assert_eq!(read(big, datum), Ok(wanted.to_owned()), "{datum:?}");
    }
    let connect = r#"{"type":"bytes","connect.parameters":{"scale":"2"},"connect.name":"org.apache.kafka.connect.data.Decimal"}"#;
    let unsure = "is written as bytes without a valid logicalType decimal";
    for (text, datum, reason) in [
        ("\"bytes\"", &[4, 0x61, 0xa8][..], unsure),
        (connect, &[4, 0, 0xfa], unsure),
        (r#"{"type":"bytes","logicalType":"decimal","scale":2}"#, &[4, 0, 0xfa], unsure),
        (
            r#"{"type":"bytes","logicalType":"decimal","precision":2,"scale":6}"#,
            &[6, 0x26, 0x25, 0xa0],
            unsure,
        ),
        (r#"{"type":"bytes","logicalType":"uuid"}"#, &[4, 0x61, 0xa8], unsure),
        (big, &[4, 2, 25], "ends too early"),
        (big, &[8, 2, 25, 2, 0], "bytes after its end"),
        (big, &[8, 2, 0x19, 0x80, 0x01], "beyond the 4th decimal place"),
        (r#"{"type":"fixed","name":"F","size":2}"#, &[0x61, 0xa8], "is written as fixed"),
        (
            r#"{"type":"fixed","name":"F","size":12,"logicalType":"duration"}"#,
            &[0; 12],
            "is written as fixed",
        ),
        ("\"long\"", &[5], "is written as long"),
        ("\"double\"", &[0; 8], "is written as double"),
        ("\"string\"", &[4, b'1', b'0'], "is written as string"),
    ] {
        let refused = malformed(command_of((text, datum), MILLIS));
        assert!(
            refused.contains("field details: field num: ") && refused.contains(reason),
            "{text} {datum:?}: {refused}"
        );
    }
}

#[test]
fn an_instant_is_in_a_known_unit_or_refused_by_name() {
    fn read(text: &str, datum: &[u8]) -> Result<Option<i64>, DecodeFault> {
        command_of(QUANTITY, (text, datum)).map(|command| command.expires_at.map(|at| at.0))
    }
    let long = |value: i64| {
        let mut datum = Vec::new();
        put_long(&mut datum, value);
        datum
    };
    for (text, value) in [
        ("\"long\"", 1_767_323_045_000),
        (r#"{"type":"long","logicalType":"timestamp-millis"}"#, 1_767_323_045_000),
        (r#"{"type":"long","logicalType":"timestamp-micros"}"#, 1_767_323_045_000_000),
        (r#"{"type":"long","logicalType":"timestamp-nanos"}"#, 1_767_323_045_000_000_000),
    ] {
        assert_eq!(read(text, &long(value)), Ok(Some(1_767_323_045_000)), "{text}");
    }
    for (text, name) in [
        (r#"{"type":"int","logicalType":"date"}"#, "date"),
        (r#"{"type":"int","logicalType":"time-millis"}"#, "time-millis"),
        (r#"{"type":"long","logicalType":"time-micros"}"#, "time-micros"),
        (r#"{"type":"long","logicalType":"local-timestamp-millis"}"#, "local-timestamp-millis"),
        (r#"{"type":"long","logicalType":"local-timestamp-micros"}"#, "local-timestamp-micros"),
        (r#"{"type":"long","logicalType":"local-timestamp-nanos"}"#, "local-timestamp-nanos"),
    ] {
        for text in [text.to_owned(), format!(r#"["null",{text}]"#)] {
            let datum = long(32_872);
            let datum = if text.starts_with('[') { [&[2][..], &datum].concat() } else { datum };
            let refused = malformed(command_of(QUANTITY, (&text, &datum)));
            let wanted = format!("field expires_at: is written as {name}");
            assert!(refused.contains(&wanted), "{text}: {refused}");
        }
    }
}

#[test]
fn a_field_without_default_that_the_writer_lacks_is_named() {
    let codec = confluent();
    learnt(
        &codec,
        78,
        r#"{"type":"record","name":"X","fields":[{"name":"command_id","type":"string"}]}"#,
    );
    assert_eq!(
        malformed(codec.decode_command(&[0, 0, 0, 0, 78, 0])),
        "the value cannot be read as CreateReturnOutbound: field return_no: is missing in the writer's schema and has no default"
    );
}

/// Entries of a released version carry another id; they are read without learning anything.
#[tokio::test]
async fn ids_of_released_versions_are_known_from_the_start() {
    let (fake, settings) = registry::tests::Fake::start(StatusCode::OK, r#"{"id":21}"#).await;
    fake.answers_once(StatusCode::OK, r#"{"id":20}"#);
    let older = r#"{"type":"record","name":"CommandResult","fields":[
        {"name":"command_id","type":"string"},{"name":"return_no","type":"string"},
        {"name":"outcome","type":{"type":"enum","name":"Outcome","symbols":["CREATED"]}},
        {"name":"settled_at","type":{"type":"long","logicalType":"timestamp-millis"}},{"name":"source_topic","type":"string"},
        {"name":"source_partition","type":"int"},{"name":"source_offset","type":"long"}]}"#;
    let released = [
        ("CommandResult", older),
        ("JournalEntry", older),
        ("CommandResult", catalog().result.text),
    ];
    let codec = Codec::connect_with(
        Some(&settings),
        &registry::tests::topics(),
        &[Subject::Result],
        &released,
    )
    .await
    .unwrap();
    assert_eq!(fake.asked().len(), 2, "the older one looked up, the current one registered");
    let result =
        codec.decode_result(&[0, 0, 0, 0, 20, 2, b'c', 2, b'r', 0, 2, 2, b't', 4, 6]).unwrap();
    assert_eq!(
        (result.outcome, result.settled_at, result.source_offset, result.resolved),
        (Outcome::Created, Timestamp(1), 3, false)
    );
    assert_eq!(codec.encode_result(&result).unwrap()[..5], [0, 0, 0, 0, 21]);
}

#[test]
fn what_is_learnt_is_bounded() {
    let codec = confluent();
    for id in 100..3_000 {
        learnt(
            &codec,
            id,
            r#"{"type":"record","name":"X","fields":[{"name":"a","type":"string"}]}"#,
        );
    }
    let learnt = codec.learnt.read().unwrap();
    assert_eq!((learnt.by_id.len(), learnt.order.len()), (MAX_LEARNT, MAX_LEARNT));
    assert!(learnt.by_id.contains_key(&2_999) && !learnt.by_id.contains_key(&100));
}

#[tokio::test]
async fn what_is_learnt_is_bounded_by_its_text() {
    let (fake, settings) = registry::tests::Fake::start(StatusCode::OK, "").await;
    let codec = Codec::connect(Some(&settings), &registry::tests::topics(), &[]).await.unwrap();
    let missing = r#"{"error_code":40403,"message":"Schema not found"}"#;
    fake.answers(StatusCode::NOT_FOUND, missing);
    assert!(matches!(codec.learn(1).await, Err(LearnFault::Missing(_))));
    let large = format!(r#"{{"type":"string","doc":"{}"}}"#, "x".repeat(1_000_000));
    fake.answers(StatusCode::OK, &serde_json::json!({ "schema": large }).to_string());
    for id in 2..30 {
        codec.learn(id).await.unwrap();
    }
    let kept = || {
        let learnt = codec.learnt.read().unwrap();
        assert_eq!(learnt.by_id.len(), learnt.order.len());
        (learnt.by_id.keys().copied().min(), learnt.by_id.len())
    };
    assert_eq!(kept(), (Some(22), 8), "the oldest are forgotten");
}

#[test]
fn a_kept_record_is_given_back_as_it_was() {
    let codec = Codec::single_object();
    let datum = sample_record(Feed::ReturnOutbounds, Edition::Flagship);
    let kept = codec.keep(Subject::ReturnOutboundEnvelope, &datum);
    assert!(
        matches!(codec.current_datum(Subject::ReturnOutboundEnvelope, &kept), Ok(Cow::Borrowed(same)) if same == datum)
    );
    assert!(
        malformed(codec.current_datum(Subject::PurchaseReturnEnvelope, &kept))
            .contains("belongs here")
    );
    let known = &catalog().return_outbound;
    let (mut cursor, mut out) = (Cursor::new(&datum), Vec::new());
    translate(known.schema.root(), known.schema.root(), &mut cursor, &mut out).unwrap();
    assert_eq!(out, datum);
}

/// The datum of the record in the ERP's own example.
fn sample_record(feed: Feed, edition: Edition) -> Vec<u8> {
    let (text, list) = match (feed, edition) {
        (Feed::PurchaseReturns, _) => (
            include_str!("../../tests/schemas/samples/flagship-purchase-return-query.json"),
            "/data/order/0",
        ),
        (Feed::ReturnOutbounds, Edition::Flagship) => (
            include_str!("../../tests/schemas/samples/flagship-outbound-query.json"),
            "/data/order/0",
        ),
        (Feed::ReturnOutbounds, Edition::Enterprise) => (
            include_str!("../../tests/schemas/samples/enterprise-outbound-query.json"),
            "/stockout_list/0",
        ),
    };
    let answer: Value = serde_json::from_str(text).unwrap();
    record::decode(feed, edition, answer.pointer(list).unwrap().to_string().as_bytes())
        .unwrap()
        .datum
}

fn envelope(codec: &Codec, subject: Subject, edition: Edition, before: bool) -> Vec<u8> {
    let feed = if subject == Subject::PurchaseReturnEnvelope {
        Feed::PurchaseReturns
    } else {
        Feed::ReturnOutbounds
    };
    let after = sample_record(feed, edition);
    let mut source = Dice(7).source();
    source.ts_ms = Timestamp(1_660_117_751_000);
    let op = if before { Op::Update } else { Op::Read };
    let parts = EnvelopeParts {
        before: before.then_some(after.as_slice()),
        after: &after,
        source: &source,
        op,
        ts_ms: Timestamp(1_700_000_000_001),
    };
    codec.encode_envelope(subject, &parts).unwrap()
}

#[test]
fn only_envelopes_carry_changes() {
    let (codec, source) = (Codec::single_object(), Dice(7).source());
    let parts = EnvelopeParts {
        before: None,
        after: &[],
        source: &source,
        op: Op::Create,
        ts_ms: Timestamp(0),
    };
    assert!(codec.encode_envelope(Subject::Journal, &parts).is_err());
}

/// The kept files: what was written once is still written so, and still read.
/// `tests/schemas/read_golden.py` reads them with another implementation. Run with
/// `UPDATE_EXPECT=1` after a schema has changed; `tests/schemas/released` keeps the earlier values.
#[test]
fn golden_files_are_still_written_and_read() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/schemas/golden");
    for (framing, codec) in [("single", Codec::single_object()), ("confluent", confluent())] {
        let outbound =
            |edition, before| envelope(&codec, Subject::ReturnOutboundEnvelope, edition, before);
        let mut files = vec![
            (
                "PurchaseReturnEnvelope.read",
                envelope(&codec, Subject::PurchaseReturnEnvelope, Edition::Flagship, false),
            ),
            (
                "PurchaseReturnEnvelope.update",
                envelope(&codec, Subject::PurchaseReturnEnvelope, Edition::Flagship, true),
            ),
            ("ReturnOutboundEnvelope.flagship", outbound(Edition::Flagship, false)),
            ("ReturnOutboundEnvelope.enterprise", outbound(Edition::Enterprise, true)),
        ];
        if framing == "single" {
            for (file, subject, feed) in [
                ("PurchaseReturn.kept", Subject::PurchaseReturnEnvelope, Feed::PurchaseReturns),
                ("ReturnOutbound.kept", Subject::ReturnOutboundEnvelope, Feed::ReturnOutbounds),
            ] {
                files.push((file, codec.keep(subject, &sample_record(feed, Edition::Flagship))));
            }
        }
        for (name, seed) in [("a", 3), ("b", 11), ("c", 42)] {
            let mut dice = Dice(seed);
            let (command, result, journal, state) =
                (dice.command(), dice.result(), dice.journal(), dice.feed_state());
            let named = |schema: &str| -> &'static str {
                Box::leak(format!("{schema}.{name}").into_boxed_str())
            };
            for (file, bytes, reads) in [
                (
                    named("CreateReturnOutbound"),
                    codec.encode_command(&command).unwrap(),
                    codec.decode_command(&read(&folder, named("CreateReturnOutbound"), framing))
                        == Ok(command),
                ),
                (
                    named("CommandResult"),
                    codec.encode_result(&result).unwrap(),
                    codec.decode_result(&read(&folder, named("CommandResult"), framing))
                        == Ok(result),
                ),
                (
                    named("JournalEntry"),
                    codec.encode_journal(&journal).unwrap(),
                    codec.decode_journal(&read(&folder, named("JournalEntry"), framing))
                        == Ok(journal),
                ),
                (
                    named("FeedState"),
                    codec.encode_feed_state(&state).unwrap(),
                    codec.decode_feed_state(&read(&folder, named("FeedState"), framing))
                        == Ok(state),
                ),
            ] {
                assert!(
                    reads || updating(),
                    "{file}.{framing}: the kept bytes are read as something else"
                );
                files.push((file, bytes));
            }
        }
        for (file, bytes) in files {
            let json = codec.to_json(&bytes).unwrap();
            if updating() {
                fs::write(folder.join(format!("{file}.{framing}.bin")), &bytes).unwrap();
                fs::write(folder.join(format!("{file}.json")), format!("{json:#}\n")).unwrap();
            }
            assert_eq!(bytes, read(&folder, file, framing), "{file}.{framing}");
            let kept = fs::read_to_string(folder.join(format!("{file}.json"))).unwrap();
            assert_eq!(json, serde_json::from_str::<Value>(&kept).unwrap(), "{file}");
            let schema = schemas()
                .into_iter()
                .find(|info| file.starts_with(&format!("{}.", info.name)))
                .unwrap();
            let datum = &bytes[if framing == "single" { 10 } else { 5 }..];
            assert_eq!(
                json,
                reference_json(schema.text, datum),
                "{file}: apache-avro reads the same"
            );
        }
    }
}

fn updating() -> bool {
    std::env::var_os("UPDATE_EXPECT").is_some()
}

fn read(folder: &std::path::Path, file: &str, framing: &str) -> Vec<u8> {
    fs::read(folder.join(format!("{file}.{framing}.bin"))).unwrap_or_default()
}
