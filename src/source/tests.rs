//! Rows against state and back, with the real decoder, codec and keys.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    MarkerIndex, NoMarkers,
    change::{Piece, Scribe, Snapshot, StateKey, Told},
    diff::{Differ, Finding, Kept},
    fetch::Row,
    window::Window,
};
use crate::{
    clock::Timestamp,
    config::{Edition, Feed, FeedSettings, Filters, LatePass, ShippedPass, Topics},
    erp::page::RawRecord,
    schema::{Codec, Op, StateKind},
};

pub(super) fn settings() -> FeedSettings {
    FeedSettings {
        enabled: true,
        edition: Edition::Flagship,
        start_at: Timestamp(0),
        poll_interval: Duration::from_secs(60),
        safety_lag: Duration::from_secs(65),
        page_size: 100,
        max_pages_per_window: 10,
        max_visibility_lag: Duration::from_secs(60),
        late_pass: LatePass { interval: Duration::from_secs(300), lag: Duration::from_secs(600) },
        shipped_pass: ShippedPass::default(),
        filters: Filters::default(),
    }
}

const WINDOW: Window = Window { start: Timestamp(0), end: Timestamp(60_000) };

/// One feed whose topics are vectors.
struct Bench {
    feed: Feed,
    edition: Edition,
    codec: Arc<Codec>,
    scribe: Scribe,
    state: RefCell<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Bench {
    fn new(feed: Feed, edition: Edition, markers: Arc<dyn MarkerIndex>) -> Self {
        let topics = Topics {
            commands: "commands".into(),
            results: "results".into(),
            commands_dlq: "dead".into(),
            journal: "journal".into(),
            purchase_returns: "returns".into(),
            return_outbounds: "outbounds".into(),
            feeds_state: "state".into(),
            feeds_dlq: "feed-dead".into(),
            control: "control".into(),
        };
        let codec = Arc::new(Codec::single_object());
        let kafka = crate::config::from_toml(
            "[kafka]\napplication_id = \"wdt\"\nproperties = { \"message.max.bytes\" = \"20000\" }\n",
            std::iter::empty(),
        )
        .unwrap()
        .settings
        .kafka;
        let scribe =
            Scribe::new(&topics, &kafka, feed, edition, "seller", Arc::clone(&codec), markers);
        Self { feed, edition, codec, scribe, state: RefCell::default() }
    }

    fn row(&self, json: &serde_json::Value, asked_at: i64) -> Row {
        Row::new(RawRecord::new(self.feed, json.to_string().into()), Timestamp(asked_at))
    }

    fn compare(&self, row: Row) -> Finding {
        let lookup = |key: &StateKey| Ok(self.state.borrow().get(key.bytes()).cloned());
        let differ = Differ {
            feed: self.feed,
            edition: self.edition,
            codec: &self.codec,
            unseen: Op::Create,
            lookup: &lookup,
        };
        differ.compare(row).unwrap()
    }

    /// What is published for a row; `None` when nothing is.
    fn publish(&self, json: &serde_json::Value, asked_at: i64) -> Option<Piece> {
        let piece = match self.compare(self.row(json, asked_at)) {
            Finding::Told => return None,
            Finding::Change(change) => {
                match self.scribe.change(&change, WINDOW, Snapshot::No, Timestamp(1)) {
                    Ok(piece) => piece,
                    Err(misfit) => self.scribe.dead_letter(&change.row, &misfit).unwrap(),
                }
            }
            Finding::Misfit { row, misfit } => self.scribe.dead_letter(&row, &misfit).unwrap(),
            Finding::AskAgain { .. } => panic!("asked for again: {json}"),
        };
        let (key, value) = (piece.state.key.clone().unwrap(), piece.state.value.clone().unwrap());
        assert_eq!(piece.state.partition, Some(self.feed.partition()));
        self.state.borrow_mut().insert(key, value);
        Some(piece)
    }

    fn event(&self, json: &serde_json::Value, asked_at: i64) -> serde_json::Value {
        let piece = self.publish(json, asked_at).unwrap();
        self.codec.to_json(piece.event.value.as_deref().unwrap()).unwrap()
    }
}

fn order(modified: &str, status: u32) -> serde_json::Value {
    serde_json::json!({
        "stockout_id": "9258", "order_no": "CK2019051804", "src_order_no": "CR201905180002", "warehouse_no": "w", "status": status.to_string(),
        "remark": "#MARK hello", "modified": modified, "goods_count": "1.0000",
        "details_list": [{ "rec_id": "17746", "stockout_id": "9258", "spec_no": "s", "goods_count": "1.0000" }],
    })
}

fn outbounds() -> Bench {
    Bench::new(Feed::ReturnOutbounds, Edition::Enterprise, Arc::new(NoMarkers))
}

#[test]
fn a_record_is_created_once_and_updated_with_what_it_was() {
    let bench = outbounds();
    let first = order("2019-05-18 17:52:41", 95);
    let piece = bench.publish(&first, 10).unwrap();
    assert_eq!(piece.told, Told::Event("c"));
    assert_eq!(piece.event.key.as_deref(), Some(&b"CK2019051804"[..]));
    assert_eq!((&*piece.event.topic, piece.event.partition), ("outbounds", None));
    assert_eq!(piece.state.key.as_deref(), Some(&br#"["return_outbounds","9258"]"#[..]));
    let state = bench.codec.decode_feed_state(piece.state.value.as_deref().unwrap()).unwrap();
    assert_eq!(
        (state.kind, state.modified),
        (StateKind::Record, Timestamp::from_beijing("2019-05-18 17:52:41"))
    );

    assert!(bench.publish(&first, 20).is_none(), "the same JSON");
    let reordered: serde_json::Value =
        serde_json::from_str(&first.to_string().replace("1.0000", "1.00000")).unwrap();
    assert!(bench.publish(&reordered, 30).is_none(), "other text, same content");

    let event = bench.event(&order("2019-05-18 18:00:00", 110), 40);
    assert_eq!(event["op"], "u");
    assert_eq!(event["source"]["snapshot"], "false");
    assert_eq!(
        (&event["source"]["edition"], &event["source"]["db"]),
        (&"enterprise".into(), &"seller".into())
    );
    assert_eq!(event["before"]["modified"], "2019-05-18T09:52:41.000Z", "{event}");
    assert_eq!(event["after"]["modified"], "2019-05-18T10:00:00.000Z");
}

/// The order of lines is a database's, and may differ between two of its nodes.
#[test]
fn another_order_of_lines_or_of_unknown_members_is_no_change() {
    let bench = outbounds();
    let line = |id: &str, positions: &[&str]| {
        let positions: Vec<_> = positions
            .iter()
            .map(|id| serde_json::json!({ "position_no": id, "new": id }))
            .collect();
        serde_json::json!({ "rec_id": id, "position_details_list": positions })
    };
    let sent = |lines: [serde_json::Value; 3], unknown: &str| {
        let mut record = order("2019-05-18 17:52:41", 95);
        record["details_list"] = lines.into();
        let text = record.to_string();
        format!(r#"{},"unknown":{unknown}}}"#, text.strip_suffix('}').unwrap())
    };
    let row = |json: &str, at: i64| {
        Row::new(RawRecord::new(bench.feed, json.to_owned().into()), Timestamp(at))
    };
    let first =
        sent([line("1", &["a", "b"]), line("2", &[]), line("3", &["c"])], r#"{"a":1.0,"b":[1,2]}"#);
    let Finding::Change(change) = bench.compare(row(&first, 10)) else { panic!("unseen") };
    let piece = bench.scribe.change(&change, WINDOW, Snapshot::No, Timestamp(1)).unwrap();
    let (key, value) = (piece.state.key.clone().unwrap(), piece.state.value.clone().unwrap());
    bench.state.borrow_mut().insert(key, value);
    let shown = bench.codec.to_json(piece.event.value.as_deref().unwrap()).unwrap();
    let ids: Vec<_> =
        (0..3).map(|at| shown["after"]["details_list"][at]["rec_id"].clone()).collect();
    assert_eq!(ids, [1, 2, 3], "the event keeps the ERP's order");

    let other = sent(
        [line("3", &["c"]), line("1", &["b", "a"]), line("2", &[])],
        "{\"b\": [1, 2],\n\"a\": 1.0}",
    );
    assert!(matches!(bench.compare(row(&other, 20)), Finding::Told));
    let kept = Kept {
        modified: Timestamp(1),
        asked_at: Timestamp(1),
        datum: Some(change.record.datum.clone()),
    };
    let lookup = |_: &StateKey| Ok(None);
    let differ = Differ {
        feed: bench.feed,
        edition: bench.edition,
        codec: &bench.codec,
        unseen: Op::Create,
        lookup: &lookup,
    };
    assert!(matches!(differ.confirm(kept, row(&other, 30)), Finding::Told));

    // A position line moved to another line, and one that is there twice, are changes.
    for lines in [
        [line("1", &["a"]), line("2", &["b"]), line("3", &["c"])],
        [line("1", &["a", "b"]), line("3", &["c"]), line("3", &["c"])],
    ] {
        let changed = sent(lines, r#"{"a":1.0,"b":[1,2]}"#);
        assert!(matches!(bench.compare(row(&changed, 40)), Finding::Change(_)), "{changed}");
    }
    let changed = first.replace("[1,2]", "[2,1]");
    assert!(matches!(bench.compare(row(&changed, 50)), Finding::Change(_)), "{changed}");
}

#[test]
fn an_older_version_is_asked_for_and_then_believed() {
    let bench = outbounds();
    bench.publish(&order("2019-05-18 18:00:00", 95), 10).unwrap();
    let row = bench.row(&order("2019-05-18 17:00:00", 110), 20);
    let Finding::AskAgain { kept, record } = bench.compare(row.clone()) else {
        panic!("published unasked")
    };
    assert_eq!((record.status, record.return_no.as_deref()), (Some(110), Some("CR201905180002")));
    let lookup = |_: &StateKey| Ok(None);
    let differ = Differ {
        feed: bench.feed,
        edition: bench.edition,
        codec: &bench.codec,
        unseen: Op::Create,
        lookup: &lookup,
    };
    let same = bench.row(&order("2019-05-18 18:00:00", 95), 30);
    assert!(matches!(differ.confirm(kept.clone(), same), Finding::Told));
    let Finding::Change(change) = differ.confirm(kept, row) else { panic!("not believed") };
    assert_eq!(change.op, Op::Update);
    assert!(change.before.is_some());
}

#[test]
fn a_record_with_a_broken_byte_goes_to_the_dead_letters_as_it_came() {
    let bench = outbounds();
    let mut broken = order("2019-05-18 18:00:00", 95).to_string().into_bytes();
    let at = broken.windows(3).position(|three| three == b"\"CR").unwrap();
    broken[at + 1] = 0xe7;
    let lookup = |_: &StateKey| Ok(None);
    let differ = Differ {
        feed: bench.feed,
        edition: bench.edition,
        codec: &bench.codec,
        unseen: Op::Create,
        lookup: &lookup,
    };
    let row = Row::new(RawRecord::new(bench.feed, broken.clone().into()), Timestamp(10));
    assert_eq!(row.id.as_deref(), Some("9258"), "as far as that it can be read");
    let Ok(Finding::Misfit { row: raw, misfit }) = differ.compare(row.clone()) else {
        panic!("taken for a record")
    };
    assert_eq!(raw.json, broken, "byte for byte");
    assert!(misfit.to_string().starts_with("record is not UTF-8 from byte "), "{misfit}");
    let kept = Kept { modified: Timestamp(1), asked_at: Timestamp(1), datum: None };
    assert!(matches!(differ.confirm(kept, row), Finding::Misfit { .. }));
}

#[test]
fn a_misfit_goes_to_the_dead_letters_once_per_content() {
    let bench = outbounds();
    bench.publish(&order("2019-05-18 17:52:41", 95), 10).unwrap();
    let broken = order("yesterday", 95);
    let piece = bench.publish(&broken, 20).unwrap();
    assert_eq!(piece.told, Told::DeadLetter);
    assert_eq!(piece.event.value.as_deref(), Some(broken.to_string().as_bytes()), "byte for byte");
    assert_eq!(piece.event.key.as_deref(), Some(&br#"["return_outbounds","9258"]"#[..]));
    let headers: BTreeMap<_, _> = piece
        .event
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.clone().unwrap()))
        .collect();
    assert_eq!(headers["__connect.errors.topic"], b"outbounds");
    assert!(
        String::from_utf8_lossy(&headers["__connect.errors.exception.message"])
            .contains("modified")
    );
    assert!(bench.publish(&broken, 30).is_none());
    let event = bench.event(&order("2019-05-18 18:00:00", 110), 40);
    assert_eq!(event["op"], "u");
    assert_eq!(event["before"]["modified"], "2019-05-18T09:52:41.000Z", "the last good version");

    let nameless = serde_json::json!({ "order_no": "x" });
    let piece = bench.publish(&nameless, 50).unwrap();
    assert!(piece.event.key.as_deref().unwrap().starts_with(br##"["return_outbounds","#"##));
    assert!(bench.publish(&nameless, 60).is_none());
}

#[test]
fn a_record_that_kafka_does_not_take_goes_to_the_dead_letters_and_a_large_before_is_left_out() {
    let bench = outbounds();
    let sized = |modified, length| {
        let mut record = order(modified, 95);
        record["provider_name"] = "x".repeat(length).into();
        record
    };
    bench.publish(&sized("2019-05-18 17:52:41", 9_000), 10).unwrap();
    let piece = bench.publish(&sized("2019-05-18 17:52:42", 9_001), 20).unwrap();
    let event = bench.codec.to_json(piece.event.value.as_deref().unwrap()).unwrap();
    assert_eq!(
        (&event["op"], event["before"].is_null()),
        (&"u".into(), true),
        "both together are too large"
    );

    let huge = sized("2019-05-18 17:52:43", 30_000);
    let piece = bench.publish(&huge, 30).unwrap();
    assert_eq!((piece.told, piece.event.value.as_deref()), (Told::DeadLetter, None));
    let header = |name: &str| {
        piece
            .event
            .headers
            .iter()
            .find(|(key, _)| key == name)
            .and_then(|(_, value)| value.clone())
            .unwrap()
    };
    assert_eq!(header("wdt-record-bytes"), huge.to_string().len().to_string().into_bytes());
    assert!(
        String::from_utf8(header("__connect.errors.exception.message"))
            .unwrap()
            .contains("message.max.bytes")
    );
    assert_eq!(
        bench.event(&sized("2019-05-18 17:52:44", 10), 40)["op"],
        "u",
        "the last version that fitted is `before`"
    );
}

#[test]
fn an_unchanged_row_is_known_by_its_hash_without_being_decoded() {
    let bench = outbounds();
    let piece = bench.publish(&order("2019-05-18 17:52:41", 95), 10).unwrap();
    // The same id with JSON that cannot be decoded, under the hash that was published: a decode
    // would notice.
    let broken = bench.row(&order("yesterday", 95), 20);
    let mut state = bench.codec.decode_feed_state(piece.state.value.as_deref().unwrap()).unwrap();
    state.content_hash = broken.hash.to_vec();
    bench
        .state
        .borrow_mut()
        .insert(piece.state.key.clone().unwrap(), bench.codec.encode_feed_state(&state).unwrap());
    assert!(matches!(bench.compare(broken), Finding::Told));
}

#[test]
fn the_command_behind_an_order_stands_in_the_source_only() {
    struct One;
    impl MarkerIndex for One {
        fn lookup(&self, return_no: &str, remark: &str) -> Option<(String, String)> {
            (return_no == "CR201905180002" && remark.starts_with("#MARK "))
                .then(|| ("c-1".to_owned(), "#MARK".to_owned()))
        }
    }
    let bench = Bench::new(Feed::ReturnOutbounds, Edition::Enterprise, Arc::new(One));
    let event = bench.event(&order("2019-05-18 17:52:41", 95), 10);
    assert_eq!(
        (&event["source"]["command_id"], &event["source"]["marker"]),
        (&"c-1".into(), &"#MARK".into())
    );
    let event = outbounds().event(&order("2019-05-18 17:52:41", 95), 10);
    assert!(event["source"]["command_id"].is_null());
}

#[test]
fn checkpoints_and_barriers_have_keys_of_their_own() {
    let bench = outbounds();
    let checkpoint =
        super::window::Cursor::resumed(None, Timestamp(5_000), "f").0.checkpoint().clone();
    let written = bench.scribe.checkpoint(&checkpoint).unwrap();
    assert_eq!(
        (written.key.as_deref(), written.partition),
        (Some(&br#"["return_outbounds"]"#[..]), Some(1))
    );
    let state = bench.codec.decode_feed_state(written.value.as_deref().unwrap()).unwrap();
    assert_eq!((state.kind, state.checkpoint), (StateKind::Checkpoint, Some(checkpoint)));
    let barrier = bench.scribe.barrier("n".to_owned()).unwrap();
    assert_eq!(barrier.key.as_deref(), Some(&br##"["return_outbounds","#barrier"]"##[..]));
}
