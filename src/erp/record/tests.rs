//! The ERP's own examples, its quirks, and JSON that nobody meant.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    decimal::Decimal,
    schema::{Codec, Subject, catalog},
};

fn subject(feed: Feed) -> Subject {
    match feed {
        Feed::PurchaseReturns => Subject::PurchaseReturnEnvelope,
        Feed::ReturnOutbounds => Subject::ReturnOutboundEnvelope,
    }
}

/// The datum as people see it, which `apache-avro` must see too.
fn shown(feed: Feed, record: &Record) -> Value {
    let codec = Codec::single_object();
    let json = codec.to_json(&codec.keep(subject(feed), &record.datum)).unwrap();
    let text = catalog().record_of(subject(feed)).text;
    assert_eq!(json, crate::schema::reference_json(text, &record.datum));
    json
}

fn outbound(json: &Value) -> Result<Record, Misfit> {
    decode(Feed::ReturnOutbounds, Edition::Flagship, json.to_string().as_bytes())
}

/// A `modified` for records of which it does not matter.
const SOME_DAY: i64 = 1_660_117_751_000;

fn small() -> Value {
    json!({"stockout_id": 1, "order_no": "CK1", "modified": SOME_DAY, "details_list": []})
}

fn with(changes: Value) -> Value {
    let mut record = small();
    for (key, value) in changes.as_object().unwrap() {
        record[key] = value.clone();
    }
    record
}

/// Every documented field of an example arrives, and nothing else is claimed.
fn compare(sent: &Value, shown: &Value, path: &str) {
    for (key, sent) in sent.as_object().unwrap() {
        let got = shown.get(key).or_else(|| shown.get("details_list")).unwrap();
        let path = format!("{path}.{key}");
        let text = sent.as_str().map_or_else(|| sent.to_string(), str::to_owned);
        match (sent, got) {
            (Value::Array(sent), Value::Array(got)) => {
                assert_eq!(sent.len(), got.len(), "{path}");
                sent.iter().zip(got).for_each(|(sent, got)| compare(sent, got, &path));
            }
            (_, Value::String(got)) => {
                let same = *got == text
                    || Decimal::parse(&text).is_ok_and(|decimal| decimal.to_string() == *got)
                    || text.parse().is_ok_and(|ms| Timestamp(ms).to_string() == *got)
                    || Timestamp::from_beijing(&text)
                        .is_some_and(|instant| instant.to_string() == *got);
                assert!(same, "{path}: {text} became {got}");
            }
            (_, Value::Number(got)) => assert_eq!(text, got.to_string(), "{path}"),
            (Value::Bool(sent), got) => assert_eq!(*got, *sent, "{path}"),
            other => panic!("{path}: {other:?}"),
        }
    }
    assert_eq!(shown["extra"], json!({}), "{path}");
}

#[test]
fn the_erps_examples_arrive_whole() {
    for (feed, edition, text, list) in [
        (
            Feed::PurchaseReturns,
            Edition::Flagship,
            include_str!("../../../tests/schemas/samples/flagship-purchase-return-query.json"),
            "/data/order/0",
        ),
        (
            Feed::ReturnOutbounds,
            Edition::Flagship,
            include_str!("../../../tests/schemas/samples/flagship-outbound-query.json"),
            "/data/order/0",
        ),
        (
            Feed::ReturnOutbounds,
            Edition::Enterprise,
            include_str!("../../../tests/schemas/samples/enterprise-outbound-query.json"),
            "/stockout_list/0",
        ),
    ] {
        let answer: Value = serde_json::from_str(text).unwrap();
        let sent = answer.pointer(list).unwrap();
        let record = decode(feed, edition, sent.to_string().as_bytes()).unwrap();
        // The custom attributes, which its examples leave out, are documented all the same.
        let drift: Vec<&Drift> = record
            .drift
            .iter()
            .filter(|drift| !drift.field.ends_with("prop1") && !drift.field.ends_with("prop2"))
            .collect();
        assert!(drift.is_empty(), "{drift:?}");
        compare(sent, &shown(feed, &record), "");
    }
}

#[test]
fn an_outbound_orders_attributes_are_texts_and_its_receivers_places_are_numbers() {
    let sent = with(json!({
        "prop1": "加急", "prop2": "", "receiver_country": "0", "receiver_province": "330000",
        "receiver_city": 330_100, "receiver_district": "余杭区",
    }));
    let record = outbound(&sent).unwrap();
    let json = shown(Feed::ReturnOutbounds, &record);
    assert_eq!((&json["prop1"], &json["prop2"]), (&json!("加急"), &json!("")));
    assert_eq!(
        [&json["receiver_country"], &json["receiver_province"], &json["receiver_city"]],
        [&json!(0), &json!(330_000), &json!(330_100)]
    );
    // A name where a number is documented is kept, and counted.
    assert_eq!(json["receiver_district"], Value::Null);
    assert_eq!(json["extra"], json!({"receiver_district": r#""余杭区""#}));
    let retyped = Drift { field: "receiver_district".to_owned(), kind: DriftKind::Retyped };
    assert!(record.drift.contains(&retyped), "{:?}", record.drift);
}

#[test]
fn the_head_is_what_the_route_needs() {
    let record =
        outbound(&with(json!({"src_order_no": "CR1", "status": "110", "remark": "#ABC hello"})))
            .unwrap();
    assert_eq!(
        (record.id.as_str(), record.number.as_str(), record.modified),
        ("1", "CK1", Timestamp(1_660_117_751_000))
    );
    assert_eq!(
        (record.return_no.as_deref(), record.status, record.remark.as_deref()),
        (Some("CR1"), Some(110), Some("#ABC hello"))
    );
    let bare = outbound(&with(json!({"src_order_no": "", "remark": null}))).unwrap();
    assert_eq!((bare.return_no, bare.status, bare.remark), (None, None, None));
    let json = json!({"return_id": "7", "return_no": "CR7", "modified": "2022-08-10 15:49:11", "detail_list": [], "remark": "x"});
    let record =
        decode(Feed::PurchaseReturns, Edition::Flagship, json.to_string().as_bytes()).unwrap();
    assert_eq!(
        (record.id.as_str(), record.return_no.as_deref(), record.remark),
        ("7", Some("CR7"), None)
    );
    assert_eq!(record.modified, Timestamp(1_660_117_751_000));
}

#[test]
fn both_spellings_of_the_lines_are_read() {
    for name in ["detail_list", "details_list"] {
        let json = json!({"stockout_id": 1, "order_no": "CK1", "modified": SOME_DAY, name: [{"rec_id": 5}]});
        assert_eq!(
            shown(Feed::ReturnOutbounds, &outbound(&json).unwrap())["details_list"][0]["rec_id"],
            5
        );
        let json = json!({"return_id": 1, "return_no": "CR1", "modified": SOME_DAY, name: [{"rec_id": 5}]});
        let record =
            decode(Feed::PurchaseReturns, Edition::Flagship, json.to_string().as_bytes()).unwrap();
        assert_eq!(shown(Feed::PurchaseReturns, &record)["detail_list"][0]["rec_id"], 5);
    }
}

#[test]
fn unknown_fields_are_kept_and_retyped_ones_too() {
    let line = json!({"rec_id": [1], "colour": "red", "position_details_list": [{"position_no": [5], "new": 1.50}]});
    let record = outbound(&with(
        json!({"extra": {"a": 1}, "new": null, "status": {"code": 5}, "details_list": [line, {"colour": "blue"}]}),
    ));
    let record = record.unwrap();
    let json = shown(Feed::ReturnOutbounds, &record);
    assert_eq!(json["status"], Value::Null);
    assert_eq!(
        json["extra"],
        json!({"extra": r#"{"a":1}"#, "new": "null", "status": r#"{"code":5}"#})
    );
    assert_eq!(json["details_list"][0]["extra"], json!({"rec_id": "[1]", "colour": r#""red""#}));
    assert_eq!(
        json["details_list"][0]["position_details_list"][0]["extra"],
        json!({"position_no": "[5]", "new": "1.5"})
    );
    let sent = record.drift.iter().filter(|drift| drift.kind != DriftKind::Missing);
    let mut drift: Vec<(&str, DriftKind)> =
        sent.map(|drift| (drift.field.as_str(), drift.kind)).collect();
    drift.sort_by_key(|(field, _)| *field);
    assert_eq!(
        drift,
        [
            ("details_list.colour", DriftKind::Unknown),
            ("details_list.position_details_list.new", DriftKind::Unknown),
            ("details_list.position_details_list.position_no", DriftKind::Retyped),
            ("details_list.rec_id", DriftKind::Retyped),
            ("extra", DriftKind::Unknown),
            ("new", DriftKind::Unknown),
            ("status", DriftKind::Retyped),
        ]
    );
}

#[test]
fn a_field_that_its_edition_should_send_and_does_not_is_missing() {
    let missing = |edition, json: &Value| -> Vec<String> {
        let record = decode(Feed::ReturnOutbounds, edition, json.to_string().as_bytes()).unwrap();
        record
            .drift
            .into_iter()
            .filter(|drift| drift.kind == DriftKind::Missing)
            .map(|drift| drift.field)
            .collect()
    };
    let sent = with(json!({"src_order_no": null, "details_list": [{"rec_id": null}]}));
    let (flagship, enterprise) =
        (missing(Edition::Flagship, &sent), missing(Edition::Enterprise, &sent));
    let has = |fields: &[String], name: &str| fields.iter().any(|field| field == name);
    assert!(
        !has(&flagship, "src_order_no") && !has(&flagship, "details_list.rec_id"),
        "null is sent"
    );
    assert!(has(&flagship, "remark") && has(&enterprise, "remark"), "both editions have it");
    assert!(has(&flagship, "seq_no") && !has(&enterprise, "seq_no"));
    assert!(has(&enterprise, "outer_no") && !has(&flagship, "outer_no"));
    assert!(!has(&flagship, "extra"), "ours, not the ERP's");
}

#[test]
fn position_lines_of_another_type_are_kept_as_text() {
    for positions in [json!("none"), json!({"a": 1}), json!([1]), json!([null])] {
        let record =
            outbound(&with(json!({"details_list": [{"position_details_list": positions}]})))
                .unwrap();
        let line = &shown(Feed::ReturnOutbounds, &record)["details_list"][0];
        assert_eq!(line["position_details_list"], Value::Null);
        assert_eq!(line["extra"], json!({"position_details_list": positions.to_string()}));
    }
}

#[test]
fn a_record_without_lines_has_none() {
    let missing = Drift { field: "details_list".to_owned(), kind: DriftKind::Missing };
    let mut lacking = small();
    lacking.as_object_mut().unwrap().remove("details_list");
    for (json, counted) in [
        (lacking, true),
        (with(json!({"details_list": null})), false),
        (with(json!({"details_list": ""})), false),
        (with(json!({"details_list": "  "})), false),
        (with(json!({"details_list": {}})), false),
        (with(json!({"details_list": []})), false),
    ] {
        let record = outbound(&json).unwrap();
        let shown = shown(Feed::ReturnOutbounds, &record);
        assert_eq!((&shown["details_list"], &shown["extra"]), (&json!([]), &json!({})), "{json}");
        assert_eq!(record.drift.contains(&missing), counted, "{json}");
    }
    for (nothing, wanted) in
        [(json!(null), json!(null)), (json!(""), json!([])), (json!({}), json!([]))]
    {
        let sent = with(json!({"details_list": [{"position_details_list": nothing}]}));
        let line =
            shown(Feed::ReturnOutbounds, &outbound(&sent).unwrap())["details_list"][0].clone();
        assert_eq!((&line["position_details_list"], &line["extra"]), (&wanted, &json!({})));
    }
}

#[test]
fn a_decimal_that_does_not_fit_is_null_and_kept_as_text() {
    let record = outbound(&with(json!({
        "goods_total_cost": "9.94241234", "goods_count": 1e15, "post_fee": true,
        "weight": 3.300_000_000_000_000_3, "goods_total_amount": "5.00000000",
        "details_list": [{"goods_count": "2", "weight": "heavy"}],
    })))
    .unwrap();
    let json = shown(Feed::ReturnOutbounds, &record);
    for field in ["goods_total_cost", "goods_count", "post_fee", "weight"] {
        assert_eq!(json[field], Value::Null, "{field}");
        let retyped = Drift { field: field.to_owned(), kind: DriftKind::Retyped };
        assert!(record.drift.contains(&retyped), "{field}: {:?}", record.drift);
    }
    assert_eq!(json["goods_total_amount"], "5.0000");
    assert_eq!(
        json["extra"],
        json!({
            "goods_total_cost": r#""9.94241234""#, "goods_count": "1000000000000000.0",
            "post_fee": "true", "weight": "3.3000000000000003",
        })
    );
    let line = &json["details_list"][0];
    assert_eq!((&line["goods_count"], &line["weight"]), (&json!("2.0000"), &Value::Null));
    assert_eq!(line["extra"], json!({"weight": r#""heavy""#}));
}

#[test]
fn numbers_are_texts_where_texts_are_documented() {
    let text = r#"{"stockout_id":1,"order_no":8,"src_order_no":20260101,"modified":1660117751000,"remark":0,"receiver_telno":13812345678901234567890,"prop1":1.50,"details_list":[{"spec_no":6901234567890}]}"#;
    let record = decode(Feed::ReturnOutbounds, Edition::Flagship, text.as_bytes()).unwrap();
    assert_eq!((record.number.as_str(), record.return_no.as_deref()), ("8", Some("20260101")));
    assert_eq!(record.remark.as_deref(), Some("0"));
    let json = shown(Feed::ReturnOutbounds, &record);
    assert_eq!(
        [&json["order_no"], &json["receiver_telno"], &json["prop1"], &json["remark"]],
        ["8", "13812345678901234567890", "1.50", "0"]
    );
    assert_eq!(json["details_list"][0]["spec_no"], "6901234567890");
    assert_eq!(json["extra"], json!({}));
    assert!(record.drift.iter().all(|drift| drift.kind == DriftKind::Missing));
}

#[test]
fn no_instant_is_none_and_every_form_of_one_is_read() {
    for nothing in [json!(0), json!("0"), json!("0000-00-00"), json!("1970-01-01 08:00:00")] {
        let json = shown(
            Feed::ReturnOutbounds,
            &outbound(&with(json!({"consign_time": nothing}))).unwrap(),
        );
        assert_eq!(
            (&json["consign_time"], &json["extra"]),
            (&Value::Null, &json!({})),
            "{nothing}"
        );
        let misfit = outbound(&with(json!({"modified": nothing}))).unwrap_err();
        assert_eq!(misfit.to_string(), "modified is missing", "{nothing}");
    }
    for form in [
        "2022-08-10T15:49:11",
        "2022-08-10T07:49:11.000Z",
        "2022-08-10T15:49:11+08:00",
        "2022-08-10 15:49:11.0",
        "Aug 10, 2022 3:49:11 PM",
        "Wed Aug 10 15:49:11 CST 2022",
    ] {
        let record = outbound(&with(json!({"modified": form, "consign_time": form}))).unwrap();
        assert_eq!(record.modified, Timestamp(SOME_DAY), "{form}");
        let json = shown(Feed::ReturnOutbounds, &record);
        assert_eq!(json["consign_time"], json["modified"], "{form}");
    }
}

#[test]
fn a_consign_time_that_is_absent_until_shipped_is_not_missing() {
    for edition in [Edition::Flagship, Edition::Enterprise] {
        let record = decode(Feed::ReturnOutbounds, edition, small().to_string().as_bytes());
        let drift = record.unwrap().drift;
        assert!(drift.iter().any(|drift| drift.field == "order_no" || drift.field == "remark"));
        assert!(drift.iter().all(|drift| drift.field != "consign_time"), "{drift:?}");
    }
}

#[test]
fn what_may_be_missing_null_or_empty_becomes_null() {
    for nothing in [Value::Null, json!("")] {
        let record = outbound(&with(json!({
            "status": nothing, "goods_count": nothing, "consign_time": nothing, "seq_no": nothing,
            "details_list": [{"defect": nothing, "rec_id": nothing}],
        })));
        let json = shown(Feed::ReturnOutbounds, &record.unwrap());
        for field in ["status", "goods_count", "consign_time", "seq_no", "weight"] {
            assert_eq!(json[field], Value::Null, "{field}");
        }
        assert_eq!(json["details_list"][0]["defect"], Value::Null);
        assert_eq!(json["extra"], json!({}));
    }
    let json = shown(
        Feed::ReturnOutbounds,
        &outbound(&with(json!({"remark": "", "consign_time": "0000-00-00 00:00:00"}))).unwrap(),
    );
    assert_eq!((&json["remark"], &json["consign_time"]), (&json!(""), &Value::Null));
}

#[test]
fn of_repeated_keys_the_last_one_counts() {
    let text = r#"{"stockout_id":1,"stockout_id":2,"order_no":"a","order_no":"b","modified":1,"modified":1660117751000,"details_list":5,"detail_list":[],"x":1,"x":2}"#;
    let record = decode(Feed::ReturnOutbounds, Edition::Enterprise, text.as_bytes()).unwrap();
    assert_eq!(
        (record.id.as_str(), record.number.as_str(), record.modified),
        ("2", "b", Timestamp(SOME_DAY))
    );
    assert_eq!(shown(Feed::ReturnOutbounds, &record)["extra"], json!({"x": "2"}));
}

#[test]
fn only_what_must_fit_makes_a_misfit() {
    for (changes, id, sentence) in [
        (json!({"stockout_id": null}), None, "stockout_id is missing"),
        (json!({"stockout_id": "x"}), None, "stockout_id is not an integer"),
        (json!({"order_no": ""}), Some("1"), "order_no is missing or not a text"),
        (json!({"order_no": [5]}), Some("1"), "order_no is missing or not a text"),
        (json!({"modified": null}), Some("1"), "modified is missing"),
        (json!({"modified": "0000-00-00 00:00:00"}), Some("1"), "modified is missing"),
        (
            json!({"modified": "yesterday"}),
            Some("1"),
            "modified is neither epoch milliseconds nor a date with a time of day",
        ),
        (
            json!({"modified": 1_660_117_751}),
            Some("1"),
            "modified is neither epoch milliseconds nor a date with a time of day",
        ),
        (json!({"details_list": {"a": 1}}), Some("1"), "details_list is not an array of objects"),
        (json!({"details_list": [[]]}), Some("1"), "details_list is not an array of objects"),
        (json!({"details_list": [null]}), Some("1"), "details_list is not an array of objects"),
    ] {
        let misfit = outbound(&with(changes)).unwrap_err();
        assert_eq!((misfit.id.as_deref(), misfit.to_string().as_str()), (id, sentence));
    }
    assert_eq!(outbound(&json!([1])).unwrap_err().to_string(), "record is not a JSON object");
}

#[test]
fn a_record_is_bounded() {
    let misfit = |changes: Value| outbound(&with(changes)).unwrap_err().to_string();
    let lines = |count: usize| vec![json!({}); count];
    assert!(outbound(&with(json!({"details_list": lines(10_000)}))).is_ok());
    assert_eq!(
        misfit(json!({"details_list": lines(10_001)})),
        "details_list has more than 10000 lines"
    );
    let within = json!({"position_details_list": lines(9_999)});
    assert!(outbound(&with(json!({"details_list": [within]}))).is_ok());
    assert_eq!(
        misfit(json!({"details_list": [within, {}]})),
        "details_list.position_details_list has more than 10000 lines"
    );
    assert_eq!(
        misfit(json!({"details_list": [{"position_details_list": lines(10_000)}]})),
        "details_list.position_details_list has more than 10000 lines"
    );
    let fields = |count: usize| -> Value {
        (0..count)
            .map(|number| (format!("new_{number}"), json!(1)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    assert!(outbound(&with(fields(1000))).is_ok());
    assert_eq!(
        misfit(fields(1001)),
        "record has more than 1000 fields that the schema does not know"
    );
    assert_eq!(
        misfit(json!({"details_list": [fields(1001)]})),
        "details_list has more than 1000 fields that the schema does not know"
    );
}

#[test]
fn a_broken_byte_makes_a_misfit() {
    let json = b"{\"stockout_id\":1,\"order_no\":\"a\",\"modified\":1660117751000,\"details_list\":[],\"remark\":\"\xe7\xa0\"}";
    let misfit = decode(Feed::ReturnOutbounds, Edition::Flagship, json).unwrap_err();
    assert_eq!(misfit.to_string(), "record is not UTF-8 from byte 85 on");
}

#[test]
fn numbers_never_pass_through_a_float() {
    let text = r#"{"stockout_id":"9007199254740993","order_no":"a","modified":"2022-08-10 15:49:11","goods_count":123456789012345.6789,"details_list":[]}"#;
    let record = decode(Feed::ReturnOutbounds, Edition::Enterprise, text.as_bytes()).unwrap();
    assert_eq!(record.id, "9007199254740993");
    assert_eq!(shown(Feed::ReturnOutbounds, &record)["goods_count"], "123456789012345.6789");
}

#[test]
fn the_order_of_the_erps_fields_does_not_matter() {
    let one = r#"{"stockout_id":1,"order_no":"a","modified":1660117751000,"details_list":[],"y":1,"z":{"b":[1.50,"\u65fa"],"a":{}}}"#;
    let two = r#"{"z": {"a": {}, "b": [1.50, "旺"]}, "y":1,"details_list":[],"modified":1660117751000,"order_no":"a","stockout_id":1}"#;
    let decode = |text: &str| {
        decode(Feed::ReturnOutbounds, Edition::Flagship, text.as_bytes()).unwrap().datum
    };
    // Whichever order came before.
    let all: Vec<_> = [one, two, two, one, two, one, one].into_iter().map(decode).collect();
    assert!(all.iter().all(|datum| *datum == all[0]));
}

#[test]
fn content_is_all_but_the_order_of_lines() {
    let feed = Feed::ReturnOutbounds;
    let datum = |lines: Value| {
        outbound(&with(json!({"details_list": lines, "remark": "x", "new": [2, 1]}))).unwrap().datum
    };
    let all = datum(json!([
        {"rec_id": 1, "new": 1, "position_details_list": [{"position_no": "a"}, {"position_no": "b"}]},
        {"rec_id": 2, "position_details_list": null},
        {"rec_id": 3},
    ]));
    for (lines, wanted) in [
        (
            json!([
                {"rec_id": 3, "position_details_list": []},
                {"rec_id": 1, "new": 1, "position_details_list": [{"position_no": "b"}, {"position_no": "a"}]},
                {"rec_id": 2},
            ]),
            true,
        ),
        (json!([{"rec_id": 1, "new": 1}, {"rec_id": 2}, {"rec_id": 3}]), false),
        (json!([{"rec_id": 1}, {"rec_id": 2}]), false),
        (json!([]), false),
    ] {
        assert_eq!(same(feed, &all, &datum(lines.clone())), wanted, "{lines}");
    }
    assert!(!same(feed, b"", &all) && !same(feed, &all[..all.len() - 1], &all));
    assert!(!same(feed, &[all.as_slice(), b"\0"].concat(), &all));
}

/// JSON of any kind, with field names of the schemas among the keys.
fn any_json() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        proptest::sample::select(vec![
            "stockout_id",
            "return_id",
            "order_no",
            "return_no",
            "modified",
            "status",
            "goods_count",
            "details_list",
            "detail_list",
            "position_details_list",
            "rec_id",
            "defect",
            "weight",
            "remark",
            "extra",
            "is_reserved",
            "consign_time",
            "num",
        ])
        .prop_map(str::to_owned),
        ".{0,6}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-2_i64..200).prop_map(Value::from),
        (-2_i64..200).prop_map(|number| Value::from(number.to_string())),
        ".{0,8}".prop_map(Value::from),
        proptest::sample::select(vec![
            "2023-02-07 14:23:27",
            "0000-00-00 00:00:00",
            "1.2345",
            "0.10",
            "",
            "1e4"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 60, 8, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key.clone(), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_is_a_record_or_a_misfit(value in any_json(), complete: bool, flagship: bool) {
        let mut value = value;
        if let (true, Value::Object(object)) = (complete, &mut value) {
            for (key, given) in [("stockout_id", json!(1)), ("return_id", json!(1)), ("order_no", json!("a")), ("return_no", json!("b")), ("modified", json!(SOME_DAY))] {
                object.insert(key.to_owned(), given);
            }
            object.entry("details_list").or_insert(json!([]));
        }
        let edition = if flagship { Edition::Flagship } else { Edition::Enterprise };
        for feed in Feed::ALL {
            if let Ok(record) = decode(feed, edition, value.to_string().as_bytes()) {
                let json = shown(feed, &record);
                let fields = value.as_object().unwrap();
                let one_order = content(feed, &record.datum);
                prop_assert!(matches!(one_order, Cow::Owned(_)), "not read by its own table");
                // Nothing is lost: what is neither null nor empty stands in its field or in
                // `extra`.
                for (key, sent) in fields {
                    let kept = json["extra"].get(key).is_some_and(|text| text.as_str() == Some(&canonical(&sent.to_string())));
                    let shown = json.get(key).is_some_and(|shown| !shown.is_null());
                    let nothing = sent.is_null() || sent.as_str().is_some_and(|text| text.trim().is_empty() || text.starts_with("0000-"))
                        // The instant 0, however it is written.
                        || sent.as_f64().or_else(|| sent.as_str()?.trim().parse().ok()) == Some(0.0);
                    prop_assert!(kept || shown || nothing || key.contains("list"), "{} of {}", key, value);
                }
            }
        }
    }
}
