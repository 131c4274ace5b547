//! Single steps of both pipelines, each alone on one core: what the end-to-end figures are made of.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::{Value, json};
use wdt_connector::testing::{
    clock::Timestamp,
    config::{CommandFormat, Edition, ErpConnection, Feed, FlagshipSettings},
    erp::{self, Call, page::RawRecord, record},
    schema::{Codec, EnvelopeParts, FeedState, Op, Source, StateKind, Subject},
    sink,
    source::{
        change::StateKey,
        diff::{Differ, Finding},
        fetch::Row,
    },
};

use crate::{
    figures::round,
    kit::{
        commands::{avro, command, json_bytes},
        erp::{Erp, Kind},
    },
};

const WARM_UP: Duration = Duration::from_millis(200);
const RUN: Duration = Duration::from_millis(200);
const RUNS: usize = 9;
/// Rows of a page: what one answer of the ERP carries.
const PAGE: usize = 100;

/// Runs `work`, which does `items` of something, again and again; nanoseconds per item.
fn time(step: &str, items: usize, mut work: impl FnMut()) -> Value {
    let mut spell = |span: Duration| {
        let (began, mut turns) = (Instant::now(), 0_u32);
        while began.elapsed() < span {
            work();
            turns += 1;
        }
        began.elapsed().as_secs_f64() * 1e9 / f64::from(turns) / items as f64
    };
    spell(WARM_UP);
    let mut runs: Vec<f64> = (0..RUNS).map(|_| spell(RUN)).collect();
    runs.sort_by(f64::total_cmp);
    json!({
        "step": step, "ns_median": runs[RUNS / 2].round(), "ns_min": runs[0].round(), "ns_max": runs[RUNS - 1].round(),
        "per_second": round(1e9 / runs[RUNS / 2]).round(),
    })
}

pub fn steps() -> Vec<Value> {
    let mut lines = commands();
    lines.extend(records());
    lines
}

fn commands() -> Vec<Value> {
    let codec = Codec::single_object();
    let one = command("CT0000001", "cmd-0000001");
    let (as_avro, as_json) = (avro(&one), json_bytes(&one));
    let judged =
        |bytes: &[u8], format| assert_eq!(sink::fuzz::command(bytes, format, &codec), "a command");
    let unsent = erp::fuzz::Unsent::new(&FlagshipSettings {
        connection: ErpConnection {
            url: "http://127.0.0.1:9/openapi".to_owned(),
            connect_timeout: Duration::from_secs(1),
            ca_file: None,
            proxy: None,
        },
        sid: "sid".to_owned(),
        key: "key".to_owned(),
        secret: "secret:salt".into(),
        rejected_texts: Vec::new(),
    })
    .unwrap();
    let order = sink::order_request(&one, "#0123456789abc");
    let golden = |name: &str| {
        std::fs::read(format!("{}/tests/schemas/golden/{name}.bin", env!("CARGO_MANIFEST_DIR")))
            .unwrap()
    };
    let result = codec.decode_result(&golden("CommandResult.a.single")).unwrap();
    let entry = codec.decode_journal(&golden("JournalEntry.a.single")).unwrap();
    let as_entry = codec.encode_journal(&entry).unwrap();
    let sample = include_bytes!("../../src/erp/testdata/flagship-create-outbound-ok.json");
    vec![
        time("decode a command, Avro", 1, || {
            drop(black_box(codec.decode_command(black_box(&as_avro))))
        }),
        time("decode and validate a command, Avro", 1, || {
            judged(black_box(&as_avro), CommandFormat::Avro)
        }),
        time("decode and validate a command, JSON", 1, || {
            judged(black_box(&as_json), CommandFormat::Json)
        }),
        time("write, address and sign a createOrder", 1, || {
            drop(black_box(unsent.create_order(black_box(&order))))
        }),
        time("read the answer of a createOrder", 1, || {
            drop(black_box(erp::fuzz::answer(Call::CreateOrder, 200, black_box(sample))))
        }),
        time("encode a result", 1, || drop(black_box(codec.encode_result(black_box(&result))))),
        time("encode a journal entry", 1, || {
            drop(black_box(codec.encode_journal(black_box(&entry))))
        }),
        time("decode a journal entry", 1, || {
            drop(black_box(codec.decode_journal(black_box(&as_entry))))
        }),
    ]
}

fn records() -> Vec<Value> {
    let (feed, edition) = (Feed::PurchaseReturns, Edition::Flagship);
    let erp = Erp::start();
    erp.seed(Kind::Returns, PAGE);
    let orders: Vec<String> =
        erp.page(Kind::Returns, 0, PAGE).iter().map(Value::to_string).collect();
    let page = Bytes::from(format!(
        "{{\"status\":0,\"data\":{{\"total_count\":{PAGE},\"order\":[{}]}}}}",
        orders.join(",")
    ));
    let codec = Codec::single_object();
    let now = Timestamp::now();
    let rows: Vec<Row> = orders
        .iter()
        .map(|order| Row::new(RawRecord::new(feed, order.clone().into()), now))
        .collect();
    let decoded: Vec<record::Record> =
        rows.iter().map(|row| record::decode(feed, edition, &row.json).unwrap()).collect();
    let state = |hash: [u8; 16], record: &record::Record| FeedState {
        kind: StateKind::Record,
        feed: feed.name().to_owned(),
        record_id: Some(record.id.clone()),
        number: Some(record.number.clone()),
        modified: Some(record.modified),
        asked_at: Some(now),
        content_hash: hash.to_vec(),
        version: codec.keep(Subject::PurchaseReturnEnvelope, &record.datum),
        checkpoint: None,
        nonce: None,
    };
    // The state of every row, read as often as the disk would give it: once per row.
    let held = |hash: fn([u8; 16]) -> [u8; 16]| -> std::collections::HashMap<Vec<u8>, Vec<u8>> {
        rows.iter()
            .zip(&decoded)
            .map(|(row, record)| {
                (
                    StateKey::record(feed, &record.id).bytes().to_vec(),
                    codec.encode_feed_state(&state(hash(row.hash), record)).unwrap(),
                )
            })
            .collect()
    };
    let compare = |held: &std::collections::HashMap<Vec<u8>, Vec<u8>>| {
        let lookup = |key: &StateKey| Ok(held.get(key.bytes()).cloned());
        let differ = Differ { feed, edition, codec: &codec, unseen: Op::Create, lookup: &lookup };
        for row in &rows {
            assert!(
                matches!(black_box(differ.compare(row.clone())), Ok(Finding::Told)),
                "same content"
            );
        }
    };
    let (same, spelt_otherwise) = (held(|hash| hash), held(|_| [0; 16]));
    let source = source(now);
    let envelope = |record: &record::Record| {
        let parts = EnvelopeParts {
            before: Some(&record.datum),
            after: &record.datum,
            source: &source,
            op: Op::Update,
            ts_ms: now,
        };
        codec.encode_envelope(Subject::PurchaseReturnEnvelope, &parts).unwrap()
    };
    let mut lines = vec![
        time("read a page, per record", PAGE, || {
            assert_eq!(
                black_box(erp::fuzz::records(Call::QueryPurchaseReturns, black_box(&page))),
                PAGE
            );
        }),
        time("identify and hash a record", PAGE, || {
            for order in &orders {
                black_box(Row::new(RawRecord::new(feed, order.clone().into()), now));
            }
        }),
        time("decode a record", PAGE, || {
            rows.iter().for_each(|row| drop(black_box(record::decode(feed, edition, &row.json))))
        }),
        time("compare a record, unchanged", PAGE, || compare(&same)),
        time("compare a record, spelt otherwise", PAGE, || compare(&spelt_otherwise)),
        time("encode an event with before and after", PAGE, || {
            decoded.iter().for_each(|record| drop(black_box(envelope(record))))
        }),
        time("encode a state", PAGE, || {
            for (row, record) in rows.iter().zip(&decoded) {
                black_box(codec.encode_feed_state(&state(row.hash, record)).unwrap());
            }
        }),
    ];
    for line in &mut lines {
        line["record_bytes"] = (page.len() / PAGE).into();
    }
    lines
}

fn source(now: Timestamp) -> Source {
    Source {
        version: "1".to_owned(),
        connector: "wdt".to_owned(),
        name: "wdt".to_owned(),
        ts_ms: now,
        snapshot: Some("false".to_owned()),
        db: "sid".to_owned(),
        table: "purchase_returns".to_owned(),
        edition: "flagship".to_owned(),
        sid: "sid".to_owned(),
        query: "purchase.PurchaseReturn.queryWithDetail".to_owned(),
        window_start: Some(now),
        window_end: Some(now),
        command_id: None,
        marker: None,
    }
}
