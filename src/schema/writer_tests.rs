//! Commands written with schemas that Java and the registries accept, whatever else stands in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    time::Instant,
};

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{clock::Timestamp, decimal::Decimal};

use super::{
    Codec, CommandLine, CreateMode, CreateReturnOutbound, DecodeFault, Subject,
    catalog::catalog,
    datum::{Broken, Cursor, put_bytes, put_long},
    json::to_json,
    shape::Schema,
    translate::{skip, translate},
};

/// The fields of a command and what stands in front of, between and behind them.
struct Written {
    schema: Value,
    references: Vec<String>,
    before: Vec<u8>,
    after: Vec<u8>,
}

/// The command `c` of return `r`: two of `s` in warehouse `w`.
fn written() -> Written {
    Written {
        schema: json!({"type": "record", "name": "C", "fields": [
            {"name": "command_id", "type": "string"},
            {"name": "return_no", "type": "string"},
            {"name": "warehouse_no", "type": "string"},
            {"name": "details", "type": {"type": "array", "items": {"type": "record", "name": "L", "fields": [
                {"name": "spec_no", "type": "string"},
                {"name": "num", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
            ]}}},
        ]}),
        references: Vec::new(),
        before: Vec::new(),
        after: Vec::new(),
    }
}

/// With one field more in front, of this datum.
fn with_field(field: Value, datum: &[u8]) -> Written {
    let mut written = written();
    written.schema["fields"].as_array_mut().unwrap().insert(0, field);
    written.before = datum.to_vec();
    written
}

fn with(key: &str, value: &str) -> Written {
    let mut written = written();
    written.schema[key] = value.into();
    written
}

fn of_type(kind: Value, datum: &[u8]) -> Written {
    with_field(json!({"name": "x", "type": kind}), datum)
}

const DATUM: &[u8] = b"\x02c\x02r\x02w\x02\x02s\x04\x00\xc8\x00";

/// Reads it as a record of the topic, its schema under the id 9.
fn read(written: &Written) -> Result<Value, DecodeFault> {
    let text = written.schema.to_string();
    let schema = Schema::parse(&text, &written.references).map_err(DecodeFault::Malformed)?;
    let datum = [&written.before[..], DATUM, &written.after].concat();
    read_with(&schema, &datum)
}

fn command_with(schema: &Schema, datum: &[u8]) -> Result<CreateReturnOutbound, DecodeFault> {
    let command = &catalog().of(Subject::Command);
    let (mut cursor, mut out) = (Cursor::new(datum), Vec::new());
    translate(schema.root(), command.schema.root(), &mut cursor, &mut out)
        .and_then(|()| cursor.end())
        .map_err(|Broken(reason)| DecodeFault::Malformed(reason))?;
    let codec = Codec::single_object();
    codec.decode_command(&codec.keep(Subject::Command, &out))
}

fn read_with(schema: &Schema, datum: &[u8]) -> Result<Value, DecodeFault> {
    let read = command_with(schema, datum)?;
    Ok(json!({
        "command": [read.command_id, read.return_no, read.warehouse_no],
        "lines": read.details.iter().map(|line| json!([line.spec_no, line.num.to_string()])).collect::<Vec<_>>(),
    }))
}

fn wanted() -> Value {
    json!({"command": ["c", "r", "w"], "lines": [["s", "2.0000"]]})
}

fn refused(written: &Written) -> String {
    match read(written) {
        Err(DecodeFault::Malformed(reason)) => reason,
        other => panic!("{}: {other:?}", written.schema),
    }
}

fn longs(values: &[i64]) -> Vec<u8> {
    let mut out = Vec::new();
    values.iter().for_each(|value| put_long(&mut out, *value));
    out
}

/// What others call a valid schema and our parser did not, each with a command in it.
#[test]
fn schemas_that_java_and_the_registries_accept_are_read() {
    let cause = json!(["null", {"type": "record", "name": "Cause", "fields": [{"name": "next", "type": ["null", "Cause"]}]}]);
    let empty = || json!({"type": "record", "name": "E", "fields": []});
    let nothing = json!({"type": "fixed", "name": "F", "size": 0});
    let many = longs(&[1 << 60, 0]);
    for written in [
        // Names: Java reflection before 1.9, Debezium's topics, any script.
        with("namespace", "a.B$"),
        with("namespace", "a-b"),
        with("name", "采购退货"),
        with("name", "com.例子.采购-退货$1"),
        with_field(json!({"name": "备注", "type": "string"}), b"\x02x"),
        of_type(json!({"type": "enum", "name": "S", "symbols": ["完好", "破损"]}), &[2]),
        of_type(json!({"type": "enum", "name": "S", "symbols": ["A-B", ""], "default": "C"}), &[0]),
        // Defaults and aliases are a reader's.
        with_field(json!({"name": "x", "type": "string", "default": null}), b"\x02x"),
        with_field(json!({"name": "x", "type": "int", "default": "0"}), &[2]),
        with_field(json!({"name": "x", "type": ["string", "null"], "default": null}), &[2]),
        with_field(
            json!({"name": "x", "type": "int", "aliases": ["command_id", 7], "order": "up", "doc": 1}),
            &[2],
        ),
        // Values of no bytes.
        of_type("null".into(), &[]),
        of_type(empty(), &[]),
        of_type(nothing.clone(), &[]),
        of_type(json!({"type": "array", "items": "null"}), &many),
        of_type(json!({"type": "array", "items": empty()}), &many),
        of_type(json!({"type": "array", "items": nothing}), &longs(&[-(1 << 60), 0, 5, 0])),
        of_type(json!({"type": "map", "values": "null"}), b"\x04\x02a\x02b\x00"),
        of_type(json!({"type": "map", "values": empty()}), b"\x03\x04\x02a\x00\x00"),
        // Types that contain themselves.
        of_type(cause.clone(), &[0]),
        of_type(cause, &[2, 2, 2, 0]),
        of_type(
            json!({"type": "record", "name": "T", "fields": [{"name": "c", "type": {"type": "array", "items": "T"}}, {"name": "m", "type": {"type": "map", "values": "T"}}]}),
            &[2, 0, 0, 0, 2, 2, b'k', 0, 0, 0],
        ),
        // One whose every value contains another, so that it is always absent.
        of_type(
            json!(["null", {"type": "record", "name": "N", "fields": [{"name": "n", "type": "N"}]}]),
            &[0],
        ),
        // A type used before its definition (Java since 1.11.1), one of no namespace, an error.
        of_type(
            json!([{"type": "record", "name": "n.A", "fields": [{"name": "b", "type": "B"}]}, {"type": "record", "name": "n.B", "fields": [{"name": "c", "type": "int"}]}]),
            &[0, 2],
        ),
        of_type(
            json!([{"type": "enum", "name": "G", "symbols": ["X"]}, {"type": "record", "name": "n.A", "fields": [{"name": "g", "type": "G"}]}]),
            &[2, 0],
        ),
        of_type(
            json!({"type": "error", "name": "X", "fields": [{"name": "m", "type": "string"}]}),
            b"\x02x",
        ),
        // Words of Avro's as names, and a type in no namespace beside one in it.
        of_type(
            json!([{"type": "fixed", "name": "n.record", "size": 1}, {"type": "record", "name": "n.array", "fields": [
                {"name": "default", "type": "record"}, {"name": "aliases", "type": {"type": "enum", "name": "enum", "symbols": ["default", "doc"]}},
                {"name": "type", "type": {"type": "map", "values": ".int"}},
            ]}, {"type": "fixed", "name": "int", "size": 2}]),
            b"\x02a\x02\x02\x02kab\x00",
        ),
        of_type(
            json!({"type": "record", "name": "n.A", "fields": [{"name": "a", "type": {"type": "fixed", "name": "G", "namespace": "", "size": 1}},
                {"name": "b", "type": {"type": "fixed", "name": "G", "size": 2}}, {"name": "c", "type": "G"}, {"name": "d", "type": ".G"}]}),
            b"abbccd",
        ),
        // Types in brackets of their own, and what Java and Connect add to them.
        of_type(json!({"type": {"type": "string", "avro.java.string": "String"}}), b"\x02x"),
        of_type(
            json!({"type": "int", "connect.version": 1, "connect.parameters": {"a": "b"}, "logicalType": 5}),
            &[2],
        ),
        // Logical types that do not fit are as good as none where nobody reads them.
        of_type(json!({"type": "array", "items": "int", "logicalType": "date"}), &[2, 2, 0]),
        of_type(json!({"type": "map", "values": "int", "logicalType": "decimal"}), &[0]),
        of_type(json!({"type": "record", "name": "D", "fields": [], "logicalType": "uuid"}), &[]),
        of_type(
            json!({"type": "enum", "name": "D", "symbols": ["A"], "logicalType": "timestamp-millis"}),
            &[0],
        ),
        of_type(
            json!({"type": "bytes", "logicalType": "decimal", "precision": "4", "scale": []}),
            b"\x02a",
        ),
        of_type(json!({"type": "fixed", "name": "U", "size": 3, "logicalType": "uuid"}), b"abc"),
        of_type(json!({"type": "string", "logicalType": "timestamp-millis"}), b"\x02x"),
        of_type(
            json!({"type": "fixed", "name": "D", "size": 2, "logicalType": "decimal", "precision": 9}),
            b"ab",
        ),
    ] {
        assert_eq!(read(&written), Ok(wanted()), "{}", written.schema);
    }
}

#[test]
fn types_may_stand_in_schemas_that_one_refers_to() {
    let mut written = of_type(json!("com.ex.Cause"), &[2, b'x', 2]);
    written.references = vec![
        json!({"type": "enum", "name": "com.ex.Kind", "symbols": ["A", "B"]}).to_string(),
        json!({"type": "record", "name": "Cause", "namespace": "com.ex", "fields": [
            {"name": "text", "type": "string"}, {"name": "kind", "type": "Kind"},
        ]})
        .to_string(),
    ];
    assert_eq!(read(&written), Ok(wanted()));
    // A type may be used before its definition.
    written.references.reverse();
    assert_eq!(read(&written), Ok(wanted()));
    written.references.truncate(1);
    assert_eq!(
        refused(&written),
        "is not a valid Avro schema: it refers to com.ex.Kind, which it does not define"
    );
    written.references.push(written.references[0].clone());
    assert_eq!(refused(&written), "is not a valid Avro schema: it defines com.ex.Cause twice");
}

/// As Java does since 1.12, whose writers repeat them.
#[test]
fn the_same_enum_or_fixed_may_be_defined_twice_and_nothing_else() {
    let twice = |first: &Value, second: &Value| {
        let mut written = of_type(first.clone(), b"\x00");
        let after = json!({"name": "y", "type": second});
        written.schema["fields"].as_array_mut().unwrap().push(after);
        written.after = b"\x00".to_vec();
        written
    };
    let kind = json!({"type": "enum", "name": "n.E", "symbols": ["A", "B"]});
    let documented = json!({"type": "enum", "name": "E", "namespace": "n", "symbols": ["A", "B"], "doc": "d", "default": "A"});
    let fixed = json!({"type": "fixed", "name": "n.E", "size": 1});
    let decimal = json!({"type": "fixed", "name": "n.E", "size": 1, "logicalType": "decimal", "precision": 2, "scale": 1});
    let record = json!({"type": "record", "name": "n.E", "fields": [{"name": "a", "type": "int"}]});
    for (first, second) in
        [(&kind, &kind), (&kind, &documented), (&fixed, &fixed), (&decimal, &decimal)]
    {
        assert_eq!(read(&twice(first, second)), Ok(wanted()), "{second}");
        let mut written = twice(&json!("n.E"), second);
        written.references = vec![first.to_string()];
        assert_eq!(read(&written), Ok(wanted()), "{second}");
    }
    let other = json!({"type": "enum", "name": "n.E", "symbols": ["B", "A"]});
    let scaled = json!({"type": "fixed", "name": "n.E", "size": 1, "logicalType": "decimal", "precision": 2, "scale": 0});
    for (first, second) in [
        (&kind, &other),
        (&kind, &fixed),
        (&fixed, &decimal),
        (&decimal, &scaled),
        (&record, &record),
        (&record, &kind),
        (&kind, &record),
    ] {
        assert_eq!(
            refused(&twice(first, second)),
            "is not a valid Avro schema: it defines n.E twice",
            "{second}"
        );
    }
}

/// Java resolves a name where it stands, Avro's specification never outside of the namespace, so
/// that a name without one may mean two types: they differ in nothing but the scale.
#[test]
fn a_name_that_may_mean_two_types_is_refused() {
    let fixed = |namespace: &str, scale: u32| json!({"type": "fixed", "name": "G", "namespace": namespace, "size": 4, "logicalType": "decimal", "precision": 9, "scale": scale});
    let a = json!({"name": "a", "type": fixed("", 2)});
    let b = json!({"name": "b", "type": fixed("n", 4)});
    let c = json!({"name": "num", "type": "G"});
    let wanted = json!({"type": "record", "name": "W", "fields": [
        {"name": "num", "type": {"type": "bytes", "logicalType": "decimal", "precision": 19, "scale": 4}}]});
    let wanted = Schema::parse(&wanted.to_string(), &[]).unwrap();
    let read = |order: &[&Value]| {
        let text = json!({"type": "record", "name": "n.C", "fields": order}).to_string();
        let schema = Schema::parse(&text, &[])?;
        let datum: Vec<u8> = order
            .iter()
            .flat_map(|field| [0, 0, 0, if field["name"] == "num" { 250 } else { 0 }])
            .collect();
        let mut out = Vec::new();
        translate(schema.root(), wanted.root(), &mut Cursor::new(&datum), &mut out).unwrap();
        Ok(Decimal::from_avro(&out[1..]).unwrap().to_string())
    };
    let refused = Err("is not a valid Avro schema: it uses G before it defines n.G, and defines G without a namespace too: which is meant is not known; write n.G or .G".to_owned());
    for (order, result) in [
        ([&a, &b, &c], Ok("0.0250")),
        ([&b, &a, &c], Ok("0.0250")),
        ([&b, &c, &a], Ok("0.0250")),
        ([&a, &c, &b], Err(())),
        ([&c, &a, &b], Err(())),
        ([&c, &b, &a], Err(())),
    ] {
        let result = result.map(str::to_owned).or(refused.clone());
        assert_eq!(read(&order), result, "{order:?}");
    }
    // Where only one is there.
    assert_eq!(read(&[&a, &c]), Ok("2.5000".to_owned()));
    assert_eq!(read(&[&c, &a]), Ok("2.5000".to_owned()));
    assert_eq!(read(&[&c, &b]), Ok("0.0250".to_owned()));
    let full = json!({"name": "x", "type": "n.G"});
    assert!(read(&[&a, &c, &full]).unwrap_err().contains("refers to n.G, which it does not"));

    // What a schema refers to comes before it.
    let text = json!({"type": "record", "name": "n.C", "fields": [c, {"name": "x", "type": ".G"}]});
    let (a, b) = (fixed("", 2).to_string(), fixed("n", 4).to_string());
    let user = r#"{"type":"record","name":"n.U","fields":[{"name":"g","type":"G"}]}"#.to_owned();
    Schema::parse(&text.to_string(), &[a.clone(), b.clone()]).unwrap();
    Schema::parse(&text.to_string(), &[b.clone(), user.clone(), a.clone()]).unwrap();
    let between = Schema::parse(&text.to_string(), &[a, user, b]);
    assert_eq!(between.map(drop), refused.map(drop::<String>));
}

#[test]
fn a_quantity_whose_scale_is_not_known_says_what_to_declare() {
    let invalid = json!({"logicalType": "decimal", "precision": 4, "scale": 5});
    for kind in ["bytes", "fixed"] {
        let mut written = written();
        let num = &mut written.schema["fields"][3]["type"]["items"]["fields"][1]["type"];
        *num = json!({"type": kind, "name": "Q", "size": 2});
        for valid in [false, true] {
            if valid {
                num.as_object_mut().unwrap().extend(invalid.as_object().unwrap().clone());
            }
            let schema =
                json!({"type": "record", "name": "L", "fields": [{"name": "num", "type": num}]});
            let schema = Schema::parse(&schema.to_string(), &[]).unwrap();
            let wanted = json!({"type": "record", "name": "W", "fields": [
                {"name": "num", "type": {"type": "bytes", "logicalType": "decimal", "precision": 19, "scale": 4}}]});
            let wanted = Schema::parse(&wanted.to_string(), &[]).unwrap();
            let mut cursor = Cursor::new(b"\x02\x02");
            let refused = translate(schema.root(), wanted.root(), &mut cursor, &mut Vec::new());
            assert_eq!(
                refused.unwrap_err().0,
                format!(
                    "field num: is written as {kind} without a valid logicalType decimal, so its scale is not known; declare precision and scale in the writer's schema"
                )
            );
        }
    }
}

/// Old systems write texts in GBK, which Java replaces: only what is used has to be UTF-8.
#[test]
fn texts_that_nobody_reads_may_be_of_any_bytes() {
    let gbk = b"\x08\xcd\xcb\xbb\xf5";
    let map = |values: &str| json!({"type": "map", "values": values});
    for (kind, datum) in [
        (json!("string"), gbk.to_vec()),
        (json!(["null", "string"]), [&[2], &gbk[..]].concat()),
        (map("string"), [&[2], &gbk[..], gbk, &[0]].concat()),
        (map("null"), [&[2], &gbk[..], &[0]].concat()),
    ] {
        assert_eq!(read(&of_type(kind.clone(), &datum)), Ok(wanted()), "{kind}");
        let mut used = of_type(kind, &datum);
        used.schema["fields"][0]["name"] = "remark".into();
        let reason = refused(&used);
        assert!(reason.starts_with("field remark: "), "{reason}");
    }
    assert_eq!(
        refused(&with_field(json!({"name": "remark", "type": "string"}), gbk)),
        "field remark: holds a text that is not UTF-8"
    );
}

/// However wide its bytes are: `decimal(77,38)` is BigQuery's, ORC and Parquet pad a `fixed`.
#[test]
fn decimals_of_any_width_are_read_exactly_or_refused() {
    let quantity = |kind: &Value, datum: &[u8]| {
        let mut written = written();
        written.schema["fields"][3]["type"]["items"]["fields"][1]["type"] = kind.clone();
        let schema = Schema::parse(&written.schema.to_string(), &[]).unwrap();
        let datum = [b"\x02c\x02r\x02w\x02\x02s", datum, b"\x00"].concat();
        command_with(&schema, &datum).map(|command| command.details[0].num.to_string()).map_err(
            |fault| {
                let fault = fault.to_string();
                let (_, end) = fault.split_once("num: holds a decimal that ").expect(&fault);
                end.to_owned()
            },
        )
    };
    let bytes = |precision: u32, scale: u32| json!({"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale});
    let as_bytes = |datum: &[u8]| {
        let mut out = Vec::new();
        put_bytes(&mut out, datum);
        out
    };
    for size in [8, 16, 17, 20, 32, 100] {
        for (scale, unscaled) in [(2, 250_i64), (4, 25_000), (3, -2_500), (0, -2)] {
            let fixed = json!({"type": "fixed", "name": "Q", "size": size, "logicalType": "decimal", "precision": 15, "scale": scale});
            let fill = if unscaled < 0 { 0xff } else { 0 };
            let datum = [vec![fill; size - 8], unscaled.to_be_bytes().to_vec()].concat();
            let wanted = ["2.5000", "-2.5000", "-2.0000"]
                [usize::from(unscaled < 0) + usize::from(scale == 0)];
            assert_eq!(quantity(&fixed, &datum), Ok(wanted.to_owned()), "{size} {scale}");
            let padded = as_bytes(&datum);
            assert_eq!(quantity(&bytes(15, scale), &padded), Ok(wanted.to_owned()), "{size}");
        }
    }
    const WIDE: &str = "takes more than 64 bytes";
    const LARGE: &str = "has more than 15 digits before the decimal point";
    const PRECISE: &str = "has digits beyond the 4th decimal place";
    let wide = "38412efc5d70".repeat(11);
    for (precision, scale, unscaled, wanted) in [
        // 25 × 10^37, both signs, and one more.
        (77, 38, "00bc143fa4e250eb3117d955a000000000", Ok("2.5000")),
        (77, 38, "ff43ebc05b1daf14cee826aa6000000000", Ok("-2.5000")),
        (77, 38, "00bc143fa4e250eb3117d955a000000001", Err(PRECISE)),
        // 5 × 10^37, 10^39, −250,001 × 10^33.
        (38, 38, "259da6542d43623d04c5112000000000", Ok("0.5000")),
        (77, 37, "02f050fe938943acc45f65568000000000", Ok("100.0000")),
        (77, 38, "ff43eb8f0d576a873baf654f5600000000", Err(PRECISE)),
        // 10^53 - 10^34, the largest, and 10^53.
        (77, 38, "010b46c6cdd6e3e080a243f5a9774c5712719c00000000", Ok("999999999999999.9999")),
        (77, 38, "010b46c6cdd6e3e0828f4db456ff0c8ea0000000000000", Err(LARGE)),
        (77, 4, "446c3b15f9926687d2c40534fdb564000000000000", Err(LARGE)),
        (77, 0, "446c3b15f9926687d2c40534fdb564000000000000", Err(LARGE)),
        // 25 × 10^148 and 25 × 10^149 in 63 bytes; more than 64.
        (
            150,
            149,
            "0138d352e5096af1affe54ec0828a6ddf794eb197e9f76e88ecba59996f36eca6534757e479c94012b50098c90000000000000000000000000000000000000",
            Ok("2.5000"),
        ),
        (
            154,
            150,
            "0c38413cf25e2d70dfef5138519684ababd12efef23aa51593f477ffe58253e7f40c96eecc1dc80bb1205f7da0000000000000000000000000000000000000",
            Ok("2.5000"),
        ),
        (180, 100, &wide, Err(WIDE)),
        (1_000_000, 1_000_000, "05", Err(PRECISE)),
        (1_000_000, 1_000_000, "00", Ok("0.0000")),
        (9, 2, "", Err("is not a decimal number")),
        (9, 4, "", Err("is not a decimal number")),
    ] {
        let datum = data_encoding::HEXLOWER.decode(unscaled.as_bytes()).unwrap();
        let read = quantity(&bytes(precision, scale), &as_bytes(&datum));
        assert_eq!(read, wanted.map(str::to_owned).map_err(str::to_owned), "{scale} {unscaled}");
    }
    let big = json!({"type": "bytes", "logicalType": "big-decimal"});
    for (unscaled, scale, wanted) in [
        (&b"\x19"[..], 1, Ok("2.5000")),
        (&[0, 0, 0x19], 1, Ok("2.5000")),
        (&[0xff, 0xfe], -3, Ok("-2000.0000")),
        (&[1], i32::MIN, Err(LARGE)),
        (&[1], i32::MAX, Err(PRECISE)),
        (&[0], i32::MIN, Ok("0.0000")),
    ] {
        let inner = [as_bytes(unscaled), longs(&[scale.into()])].concat();
        let read = quantity(&big, &as_bytes(&inner));
        assert_eq!(read, wanted.map(str::to_owned).map_err(str::to_owned), "{scale} {unscaled:?}");
    }
}

/// Types and values of them, made up.
struct Maker {
    dice: u64,
    names: usize,
    /// Records that stand around the place, which may stand in it again.
    around: Vec<String>,
}

impl Maker {
    fn roll(&mut self, sides: u64) -> u64 {
        // Knuth's MMIX generator: enough to mix types.
        self.dice = self
            .dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % sides
    }
    fn name(&mut self) -> String {
        self.names += 1;
        let all = ["a.B$.", "a-b.", "采购.", "x y/", ""];
        format!("{}N{}", all[usize::try_from(self.roll(5)).unwrap()], self.names)
    }
    fn item(&mut self, depth: usize) -> (Value, Vec<u8>) {
        let leaves = 12;
        match self.roll(if depth == 0 { leaves } else { leaves + 6 }) {
            0 => ("null".into(), vec![]),
            1 => ("boolean".into(), vec![1]),
            2 => (json!({"type": "int", "logicalType": "date"}), longs(&[-5])),
            3 => ("long".into(), longs(&[i64::MIN])),
            4 => ("float".into(), vec![0; 4]),
            5 => ("double".into(), vec![0; 8]),
            6 => (json!({"type": "bytes", "logicalType": "decimal"}), b"\x04\xff\x00".to_vec()),
            7 => (json!({"type": "string", "default": 5}), b"\x04ab".to_vec()),
            8 => (json!({"type": "fixed", "name": self.name(), "size": 0}), vec![]),
            9 => (json!({"type": "fixed", "name": self.name(), "size": 3}), vec![7; 3]),
            10 => {
                (json!({"type": "enum", "name": self.name(), "symbols": ["破损", ""]}), longs(&[1]))
            }
            // A record around it, absent.
            11 => match self.around.last() {
                Some(around) => (json!(["null", around]), vec![0]),
                None => ("null".into(), vec![]),
            },
            12 | 13 => {
                let (items, datum) = self.item(depth - 1);
                let keyed = self.roll(2) == 0;
                let mut blocks = Vec::new();
                for _ in 0..self.roll(3) {
                    let count = 1 + self.roll(3);
                    let item = if keyed { [b"\x02k", &datum[..]].concat() } else { datum.clone() };
                    let block = item.repeat(usize::try_from(count).unwrap());
                    if self.roll(2) == 0 {
                        blocks.extend(longs(&[count.cast_signed()]));
                    } else {
                        let size = i64::try_from(block.len()).unwrap();
                        blocks.extend(longs(&[-count.cast_signed(), size]));
                    }
                    blocks.extend(block);
                }
                blocks.push(0);
                let kind = if keyed {
                    json!({"type": "map", "values": items})
                } else {
                    json!({"type": "array", "items": items})
                };
                (kind, blocks)
            }
            14 => {
                // Avro knows no union in a union, and none of one type twice.
                let (item, datum) = self.item(depth - 1);
                let enough = item.is_array() || item == "null" || item == "boolean";
                match self.roll(2) {
                    _ if enough => (item, datum),
                    0 => (json!(["null", item]), [longs(&[1]), datum].concat()),
                    _ => (json!([item, "boolean"]), [longs(&[0]), datum].concat()),
                }
            }
            _ => {
                let name = self.name();
                self.around.push(name.clone());
                let (mut fields, mut datum) = (Vec::new(), Vec::new());
                for at in 0..self.roll(4) {
                    let (kind, part) = self.item(depth - 1);
                    fields.push(json!({"name": format!("字段-{at}"), "type": kind, "default": {}}));
                    datum.extend(part);
                }
                self.around.pop();
                (json!({"type": "record", "name": name, "fields": fields}), datum)
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_else_a_sender_writes_is_gone_past(dice: u64, damage in any::<(usize, u8)>()) {
        let mut maker = Maker { dice, names: 0, around: Vec::new() };
        let mut written = written();
        for at in 0..4 {
            let (kind, datum) = maker.item(4);
            let field = json!({"name": format!("多余{at}"), "type": kind, "aliases": ["num"]});
            let fields = written.schema["fields"].as_array_mut().unwrap();
            if at % 2 == 0 {
                fields.insert(at / 2, field);
                written.before.extend(datum);
            } else {
                fields.push(field);
                written.after.extend(datum);
            }
        }
        prop_assert_eq!(read(&written), Ok(wanted()), "{}", written.schema);
        // And bytes nobody meant.
        let schema = Schema::parse(&written.schema.to_string(), &[]).unwrap();
        let mut datum = [&written.before[..], DATUM, &written.after].concat();
        let at = damage.0 % datum.len();
        datum[at] ^= damage.1;
        let _ = read_with(&schema, &datum);
        let _ = to_json(schema.root(), &mut Cursor::new(&datum));
        let _ = read_with(&schema, &datum[..at]);
    }
}

#[test]
fn what_is_no_schema_says_why() {
    for (schema, reason) in [
        (json!("nonsense"), "it refers to nonsense, which it does not define"),
        (json!(5), "Must be a JSON string, object or array"),
        (json!({}), "No `type` in complex type"),
        (json!({"type": "array"}), "No `items` in array"),
        (json!({"type": "record", "fields": []}), "its record has no name"),
        (json!({"type": "record", "name": "R"}), "No `fields` in record"),
        (
            json!({"type": "record", "name": "R", "fields": [{"type": "int"}]}),
            "No `name` in record field",
        ),
        (
            json!({"type": "record", "name": "R", "fields": [{"name": "a"}]}),
            "No `type` in record field",
        ),
        // Its bytes would be taken for those of the next one.
        (
            json!({"type": "record", "name": "R", "fields": ["a", {"name": "b", "type": "int"}]}),
            "the record R has a field that is no JSON object",
        ),
        (
            json!({"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}, {"name": "a", "type": "int"}]}),
            "Duplicate field name a",
        ),
        (json!({"type": "enum", "name": "E", "symbols": [1]}), "Unable to parse `symbols` in enum"),
        (json!({"type": "fixed", "name": "F", "size": -1}), "must be a positive integer: -1"),
        // As in Java.
        (json!(["int", ["null", "string"]]), "Unions may not directly contain a union"),
        (json!(["int", {"type": "int", "logicalType": "date"}]), "found at least two Int"),
        // Words of Avro's that are names of types here too.
        (
            json!([{"type": "fixed", "name": "record", "size": 1}, {"type": "record", "name": "R"}]),
            "No `fields` in record",
        ),
        (
            json!([{"type": "fixed", "name": "enum", "size": 1}, {"type": "enum", "name": "E"}]),
            "No `symbols` field in enum",
        ),
    ] {
        let refused = Schema::parse(&schema.to_string(), &[]).unwrap_err();
        assert!(
            refused.starts_with("is not a valid Avro schema: ") && refused.contains(reason),
            "{schema}: {refused}"
        );
    }
    let long = json!({"type": "record", "name": "R", "namespace": "n".repeat(1_000), "fields": []});
    assert_eq!(
        Schema::parse(&long.to_string(), &[]).unwrap_err(),
        "is not a valid Avro schema: it has a name of 1002 bytes; at most 1000 are read"
    );
    let field = json!({"name": "f".repeat(1_001), "type": "int"});
    let long = json!({"type": "record", "name": "R", "fields": [field]});
    assert!(Schema::parse(&long.to_string(), &[]).unwrap_err().contains("a name of 1001 bytes"));
    let fields: Vec<Value> = (0..5_000)
        .map(
            |at| json!({"name": "f", "type": {"type": "fixed", "name": at.to_string(), "size": 1}}),
        )
        .collect();
    let many =
        json!({"type": "record", "name": "R", "namespace": "n".repeat(900), "fields": fields});
    assert_eq!(
        Schema::parse(&many.to_string(), &[]).unwrap_err(),
        "is not a valid Avro schema: its names take more than 4194304 bytes with their namespaces"
    );
    let fixed = json!({"type": "fixed", "name": "F", "size": "9".repeat(100_000)});
    let quoted = Schema::parse(&fixed.to_string(), &[]).unwrap_err();
    assert!(quoted.contains("must be a positive integer") && quoted.len() < 2_100, "{quoted}");
    let nested = "[".repeat(5_000) + &"]".repeat(5_000);
    assert!(Schema::parse(&nested, &[]).unwrap_err().contains("not JSON"));
    assert!(Schema::parse("", &[]).unwrap_err().contains("not JSON"));
}

/// What has no place in a command is refused with the field's name, whatever its type is.
#[test]
fn a_needed_field_of_another_type_is_named() {
    let cause = json!({"type": "record", "name": "Cause", "fields": [{"name": "next", "type": ["null", "Cause"]}]});
    let endless = json!({"type": "record", "name": "N", "fields": [{"name": "n", "type": "N"}]});
    let kind = |name: &str, kind: &Value, datum: &[u8]| {
        let mut written = written();
        for field in written.schema["fields"].as_array_mut().unwrap() {
            if field["name"] == name {
                field["type"] = kind.clone();
            }
        }
        let schema = Schema::parse(&written.schema.to_string(), &[]).unwrap();
        match read_with(&schema, datum) {
            Err(DecodeFault::Malformed(reason)) => reason,
            other => panic!("{other:?}"),
        }
    };
    let many = [b"\x02c\x02r\x02w".to_vec(), longs(&[1 << 60, 0])].concat();
    let nulls = json!({"type": "array", "items": "null"});
    assert_eq!(
        kind("warehouse_no", &cause, b"\x02c\x02r\x02\x00\x00"),
        "field warehouse_no: is written as record, but string is wanted"
    );
    assert_eq!(
        kind("details", &cause, b"\x02c\x02r\x02w\x02\x00"),
        "field details: is written as record, but array is wanted"
    );
    assert_eq!(
        kind("command_id", &"null".into(), b"\x02r\x02w\x00"),
        "field command_id: is written as null, but string is wanted"
    );
    assert_eq!(
        kind("details", &nulls, &many),
        "field details: is written as null, but record is wanted"
    );
    let empty = json!({"type": "array", "items": {"type": "record", "name": "E", "fields": []}});
    assert_eq!(
        kind("details", &empty, &many),
        "field details: field spec_no: is missing in the writer's schema and has no default"
    );
    assert_eq!(
        kind("return_no", &endless, b"\x02c\x02w\x00"),
        "field return_no: is of the record N, every value of which contains another one"
    );
    let null = with_field(json!({"name": "remark", "type": "null"}), &[]);
    assert_eq!(read(&null), Ok(wanted()), "a field that may be absent");
    let string = Schema::parse("\"string\"", &[]).unwrap();
    assert_eq!(
        read_with(&string, b"\x02c"),
        Err(DecodeFault::Malformed("is written as string, but record is wanted".to_owned()))
    );
}

/// A value goes as deep as its sender likes, and no schema makes going past it dear.
#[test]
fn neither_depth_nor_width_harms() {
    let began = Instant::now();
    // A chain of a million, and one that branches; both behind a field that is needed.
    let node = json!({"type": "record", "name": "Node", "fields": [
        {"name": "next", "type": ["null", "Node"]}, {"name": "text", "type": "string"},
    ]});
    let depth = 1_000_000;
    let mut chain = vec![2; depth];
    chain.push(0);
    (0..depth).for_each(|_| put_bytes(&mut chain, b""));
    put_bytes(&mut chain, b"last");
    assert_eq!(read(&of_type(node, &chain)), Ok(wanted()));
    let tail = json!({"type": "record", "name": "Tail", "fields": [{"name": "next", "type": ["null", "Tail"]}]});
    let schema = Schema::parse(&tail.to_string(), &[]).unwrap();
    let mut chain = vec![2; depth];
    assert_eq!(skip(schema.root(), &mut Cursor::new(&chain)), Err(Broken::new("ends too early")));
    chain.push(0);
    assert_eq!(skip(schema.root(), &mut Cursor::new(&chain)), Ok(()));
    let shown = to_json(schema.root(), &mut Cursor::new(&chain)).unwrap_err().to_string();
    assert!(shown.contains("deeper than 100 levels"), "{shown}");

    // Records in each other, twice each: 2^2,000 values of no bytes; a chain of 2,000 records
    // around one byte, half a million times; as many nulls beside it.
    let nested = |inner: Value, twice: bool| {
        let levels = 2_000;
        let mut fields = vec![
            json!({"name": "f", "type": {"type": "record", "name": "R0", "fields": [{"name": "x", "type": inner}]}}),
        ];
        for at in 1..levels {
            let below = format!("R{}", at - 1);
            let mut of = vec![json!({"name": "a", "type": below})];
            of.extend(twice.then(|| json!({"name": "b", "type": below})));
            fields.push(json!({"name": format!("f{at}"), "type": [{"type": "record", "name": format!("R{at}"), "fields": of}, "null"]}));
        }
        let last = format!("R{}", levels - 1);
        // Only the last is not null.
        let mut nulls = longs(&vec![1; levels - 1]);
        fields.push(json!({"name": "all", "type": {"type": "array", "items": last}}));
        (fields, std::mem::take(&mut nulls))
    };
    for (inner, twice, first, items) in [
        ("null", true, vec![], longs(&[1 << 60, 0])),
        ("int", false, vec![0], [longs(&[500_000]), vec![2; 500_000], vec![0]].concat()),
    ] {
        let (fields, nulls) = nested(inner.into(), twice);
        let mut written = written();
        written.schema["fields"].as_array_mut().unwrap().splice(0..0, fields);
        written.before = [first, nulls, items].concat();
        assert_eq!(read(&written), Ok(wanted()), "{inner}");
    }
    let mut wide: Vec<Value> =
        (0..2_000).map(|at| json!({"name": format!("n{at}"), "type": "null"})).collect();
    wide.push(json!({"name": "x", "type": "boolean"}));
    let wide = json!({"type": "array", "items": {"type": "record", "name": "W", "fields": wide}});
    let datum = [longs(&[500_000]), vec![1; 500_000], vec![0]].concat();
    assert_eq!(read(&of_type(wide, &datum)), Ok(wanted()));
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}

/// What the parser keeps on the stack and in memory has the size of a schema's text.
#[test]
fn neither_deep_nor_large_schemas_harm() {
    let began = Instant::now();
    let levels = |open: &str, close: &str, most: usize| {
        let nested = |levels| format!("{}\"int\"{}", open.repeat(levels), close.repeat(levels));
        Schema::parse(&nested(most), &[]).unwrap();
        assert!(Schema::parse(&nested(128), &[]).unwrap_err().contains("recursion limit"));
    };
    levels(r#"{"type":"array","items":"#, "}", 127);
    levels(r#"{"type":"map","values":"#, "}", 127);
    levels(r#"{"type":"#, "}", 127);
    levels(r#"["null",{"type":"array","items":"#, "}]", 63);
    // Each in the one before, and each used before its definition.
    let deep = 40;
    let inside = (0..deep).fold("\"int\"".to_owned(), |inside, at| {
        format!(r#"{{"type":"record","name":"R{at}","fields":[{{"name":"a","type":{inside}}}]}}"#)
    });
    Schema::parse(&inside, &[]).unwrap();
    let records = 15_000;
    let chain = (0..records).map(|at| {
        let next = if at + 1 < records { format!("R{}", at + 1) } else { "int".to_owned() };
        json!({"type": "record", "name": format!("R{at}"), "fields": [{"name": "a", "type": next}]})
    });
    let chain = Value::Array(chain.collect()).to_string();
    assert!(chain.len() > 1_000_000);
    let schema = Schema::parse(&chain, &[]).unwrap();
    assert_eq!(skip(schema.root(), &mut Cursor::new(&[0, 2])), Ok(()));
    // In schemas that refer to each other.
    let texts: Vec<String> = (0..100)
        .map(|at| {
            let (open, close) = (r#"{"type":"array","items":"#.repeat(120), "}".repeat(120));
            format!(r#"{{"type":"record","name":"R{at}","fields":[{{"name":"a","type":{open}["null","R{}"]{close}}}]}}"#, at + 1)
        })
        .collect();
    let last = r#"{"type":"record","name":"R100","fields":[]}"#;
    Schema::parse(last, &texts).unwrap();
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}

#[test]
fn what_takes_no_bytes_is_shown_up_to_a_bound() {
    let schema = Schema::parse(r#"{"type":"array","items":"null"}"#, &[]).unwrap();
    let shown = |count| to_json(schema.root(), &mut Cursor::new(&longs(&[count, 0])));
    assert_eq!(shown(2), Ok(json!([null, null])));
    assert!(shown(1 << 60).unwrap_err().to_string().contains("too many to show"));
    let endless = r#"{"type":"record","name":"N","fields":[{"name":"n","type":"N"}]}"#;
    let schema = Schema::parse(endless, &[]).unwrap();
    assert!(to_json(schema.root(), &mut Cursor::new(&[])).is_err());
}

/// The command that the programs in `tests/schemas/writers` write.
fn kept() -> CreateReturnOutbound {
    let line = |spec_no: &str, num: &str, unit_name: Option<&str>, defect| CommandLine {
        spec_no: spec_no.to_owned(),
        num: Decimal::parse(num).unwrap(),
        unit_name: unit_name.map(str::to_owned),
        position_no: None,
        batch_no: None,
        expire_date: None,
        defect: Some(defect),
        remark: None,
    };
    CreateReturnOutbound {
        command_id: "w-1".to_owned(),
        return_no: "CT2026-001".to_owned(),
        warehouse_no: "WH-01".to_owned(),
        logistics_code: None,
        create_mode: Some(CreateMode::Submitted),
        remark: Some("破损退货".to_owned()),
        details: vec![
            line("SKU-1", "2.5", Some("件"), true),
            line("SKU-2", "1000.25", None, false),
        ],
        issued_at: Some(Timestamp(1_767_323_045_123)),
        expires_at: None,
    }
}

/// One command as Java Avro, fastavro, hamba/avro and goavro write it: read exactly, or refused
/// with this reason. `.ci/run schemas` writes the files again and compares.
#[test]
fn commands_of_other_libraries_are_read_exactly_or_refused_by_field() {
    const TEXT: &str = "field details: field num: is written as string, but decimal is wanted";
    const BYTES: &str = "field details: field num: is written as bytes without a valid logicalType decimal, so its scale is not known; declare precision and scale in the writer's schema";
    const DATE: &str = "field expires_at: is written as date, but null or timestamp is wanted";
    const LOCAL: &str =
        "field issued_at: is written as local-timestamp-millis, but null or timestamp is wanted";
    const DOUBLE: &str = "field details: field num: is written as double, but decimal is wanted";
    let mut wanted: BTreeMap<String, Option<&str>> = BTreeMap::new();
    for version in ["1.8.2", "1.11.4", "1.12.0"] {
        for (case, refused) in [
            ("own", None),
            ("blocks", None),
            ("reflect", None),
            ("names", None),
            ("names-blocks", None),
            ("fixed", None),
            ("big-decimal", None),
            ("reflect-text", Some(TEXT)),
            ("no-precision", Some(BYTES)),
            ("date", Some(DATE)),
        ] {
            // Java 1.8 has no such type.
            if (version, case) != ("1.8.2", "big-decimal") {
                wanted.insert(format!("java-{version}-{case}.json"), refused);
            }
        }
    }
    for (case, refused) in [
        ("fastavro-own", None),
        ("fastavro-micros", None),
        ("fastavro-fixed", None),
        ("fastavro-cause", None),
        ("fastavro-local", Some(LOCAL)),
        ("fastavro-double", Some(DOUBLE)),
        ("hamba-own", None),
        ("hamba-few", None),
        ("goavro-own", None),
    ] {
        wanted.insert(format!("{case}.json"), refused);
    }
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/schemas/written");
    let files = fs::read_dir(&folder).unwrap();
    let found: BTreeSet<String> =
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(found, wanted.keys().cloned().collect());
    for (file, refused) in wanted {
        let text = fs::read_to_string(folder.join(&file)).unwrap();
        let kept_file: BTreeMap<String, String> = serde_json::from_str(&text).unwrap();
        let schema = Schema::parse(&kept_file["schema"], &[])
            .unwrap_or_else(|reason| panic!("{file} {reason}"));
        let datum = data_encoding::HEXLOWER.decode(kept_file["datum"].as_bytes()).unwrap();
        let read = command_with(&schema, &datum);
        match refused {
            None => assert_eq!(read, Ok(kept()), "{file}"),
            Some(reason) => {
                assert_eq!(read, Err(DecodeFault::Malformed(reason.to_owned())), "{file}");
            }
        }
    }
}
