//! Readers that share nothing with us: Debezium's transform in a Kafka Connect worker, and the
//! bytes laid out for fastavro (`tests/schemas/read_topics.py`, which `.ci/run` runs after the
//! tests).

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use serde_json::{Value, json};
use wdt_connector::testing::{clock::Timestamp, schema::CreateReturnOutbound};

use crate::{
    kit::{
        commands::command,
        erp::Kind,
        records::{Reader, Record, read_all},
        rig::{PATIENCE, Rig},
        until,
    },
    parts,
};

/// An instant as Java's `Date` shows it in UTC.
fn java_date(text: &str) -> Option<String> {
    let instant: jiff::Timestamp = text.parse().ok()?;
    Some(instant.strftime("%a %b %d %H:%M:%S UTC %Y").to_string())
}

/// What `Struct.toString` must show of one field; `None` when the field must not be there.
fn shown(name: &str, value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => {
            Some(format!("{name}={}", java_date(text).unwrap_or_else(|| text.clone())))
        }
        Value::Bool(_) | Value::Number(_) => Some(format!("{name}={value}")),
        Value::Array(_) => Some(format!("{name}=[")),
        Value::Object(_) => Some(format!("{name}={{")),
    }
}

#[test]
fn debezium_s_transform_flattens_our_envelopes_in_a_connect_worker() {
    let rig = Rig::new("debezium").purchase_returns().return_outbounds("flagship").with_registry();
    let returns = rig.erp.seed(Kind::Returns, 6);
    let orders = rig.erp.seed(Kind::FlagshipOutbounds, 6);
    let connector = rig.start();
    let (mut one, mut other) =
        (Reader::new(&rig.topics.purchase_returns), Reader::new(&rig.topics.return_outbounds));
    one.at_least(6, PATIENCE);
    other.at_least(6, PATIENCE);
    rig.erp.modify(Kind::Returns, &returns[0], &json!({"remark": "flattened, too"}));
    rig.erp.modify(Kind::FlagshipOutbounds, &orders[0], &json!({"remark": "flattened, too"}));
    one.at_least(7, PATIENCE);
    other.at_least(7, PATIENCE);
    assert_eq!(connector.terminate(Duration::from_secs(20)).code(), Some(0));

    let mut worker =
        parts::Worker::start(&[&rig.topics.purchase_returns, &rig.topics.return_outbounds]);
    let flattened = until("14 flattened records", PATIENCE, || {
        Some(worker.lines()).filter(|lines| lines.len() >= 14)
    });
    assert_eq!(flattened.len(), 14, "{}", worker.log());
    let (mut decimals, mut instants) = (0, 0);
    for record in one.seen.iter().chain(&other.seen) {
        let after = rig.json(record)["after"].clone();
        let fields = after.as_object().unwrap();
        let id = ["return_id", "stockout_id"]
            .into_iter()
            .find(|name| fields.contains_key(*name) && !fields["modified"].is_null())
            .unwrap();
        // The record itself and nothing of the envelope around it, and the version of this very
        // event.
        let begins = format!("Struct{{{id}={},", fields[id]);
        let modified = shown("modified", &fields["modified"]).unwrap();
        let matching: Vec<&String> = flattened
            .iter()
            .filter(|line| line.starts_with(&begins) && line.contains(&modified))
            .collect();
        assert_eq!(matching.len(), 1, "{begins} {modified} in {flattened:#?}");
        let line = matching[0];
        for envelope in ["before=", "source=", "op=u", "op=r", "window_start="] {
            assert!(!line.contains(envelope), "{envelope}: {line}");
        }
        // The lines of an order have fields of the same names.
        let lines =
            ["detail_list=", "details_list="].into_iter().find_map(|name| line.split_once(name));
        let head = lines.map_or(line.as_str(), |(head, _)| head);
        for (name, value) in fields {
            match shown(name, value) {
                Some(part) => assert!(line.contains(&part), "{part} is not in {line}"),
                None => assert!(
                    !head.contains(&format!(",{name}=")),
                    "{name} is null, and {head} shows it"
                ),
            }
            if let Value::String(text) = value {
                instants += usize::from(java_date(text).is_some());
                decimals += usize::from(text.rsplit_once('.').is_some_and(|(_, digits)| {
                    digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit())
                }));
            }
        }
    }
    assert!(
        decimals >= 14 && instants >= 14,
        "{decimals} decimals and {instants} instants were compared"
    );
}

/// Where the bytes are laid out; `.ci/run` reads them there.
fn laid_out(framing: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("topic-bytes").join(framing)
}

/// Every topic's values as they are, with what we read in them; fastavro has to read the same.
fn lay_out(rig: &Rig, framing: &str) {
    let folder = laid_out(framing);
    let _ = fs::remove_dir_all(&folder);
    let topics: BTreeMap<&str, Vec<Record>> = [
        ("commands", read_all(&rig.topics.commands)),
        ("results", read_all(&rig.topics.results)),
        ("journal", read_all(&rig.topics.journal)),
        ("purchase_returns", read_all(&rig.topics.purchase_returns)),
        ("return_outbounds", read_all(&rig.topics.return_outbounds)),
        ("feeds_state", read_all(&rig.topics.feeds_state)),
    ]
    .into();
    for (topic, records) in topics {
        let folder = folder.join(topic);
        fs::create_dir_all(&folder).unwrap();
        let values: Vec<&Record> = records.iter().filter(|record| record.value.is_some()).collect();
        assert!(!values.is_empty(), "nothing in {topic}");
        for (number, record) in values.iter().enumerate() {
            let bytes = record.value.as_deref().unwrap();
            fs::write(folder.join(format!("{number:03}.bin")), bytes).unwrap();
            fs::write(folder.join(format!("{number:03}.json")), rig.json(record).to_string())
                .unwrap();
            if framing == "confluent" {
                let id = u32::from_be_bytes(bytes[1..5].try_into().unwrap());
                let file = folder.join(format!("schema-{id}.avsc"));
                if !file.exists() {
                    let answer = crate::kit::http::get(&format!(
                        "{}/schemas/ids/{id}",
                        parts::registry().url()
                    ))
                    .unwrap();
                    fs::write(file, answer.json()["schema"].as_str().unwrap()).unwrap();
                }
            }
        }
    }
}

fn everything(rig: &Rig, framing: &str) {
    let commands: Vec<CreateReturnOutbound> =
        (0..8).map(|number| command(&format!("RD-{number}"), &format!("cmd-{number}"))).collect();
    rig.erp.seed(Kind::Returns, 8);
    rig.erp.approve(commands.iter().map(|one| one.return_no.clone()));
    let connector = rig.start();
    rig.send(&commands);
    rig.results(8);
    let mut orders = Reader::new(&rig.topics.return_outbounds);
    orders.at_least(8, PATIENCE);
    let number = orders.seen[0].key_text();
    rig.erp.modify(
        Kind::FlagshipOutbounds,
        &number,
        &json!({"remark": "旺店通", "modified": Timestamp::now().to_beijing()}),
    );
    orders.at_least(9, PATIENCE);
    let mut returns = Reader::new(&rig.topics.purchase_returns);
    returns.at_least(8, PATIENCE);
    assert_eq!(connector.terminate(Duration::from_secs(20)).code(), Some(0));
    lay_out(rig, framing);
}

#[test]
fn topics_are_laid_out_for_another_reader_without_a_registry() {
    everything(
        &Rig::new("bytes").commands("avro").purchase_returns().return_outbounds("flagship"),
        "single",
    );
}

#[test]
fn topics_are_laid_out_for_another_reader_with_a_registry() {
    everything(
        &Rig::new("framed")
            .commands("avro")
            .purchase_returns()
            .return_outbounds("flagship")
            .with_registry(),
        "confluent",
    );
}
