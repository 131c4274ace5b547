//! Texts made to break out of where they stand: they reach the ERP as they are, or are refused by
//! name.

use std::time::Duration;

use serde_json::json;
use wdt_connector::testing::{clock::Timestamp, schema::Outcome};

use crate::kit::{
    commands::{command, json_bytes},
    connector::Connector,
    erp::Kind,
    records::{Reader, Sender},
    rig::{PATIENCE, Rig},
    until,
};

/// Harmless to an ERP, dangerous to whoever builds a line, a query, a signature or a page out of
/// them.
const UNHARMED: [&str; 9] = [
    "quotes ' \" ` ´ “ ” and \\ and \\\\",
    "RTL \u{202e}gnp.exe\u{202c} \u{2066}x\u{2069}",
    "four bytes 😀 𠮷 🇨🇳",
    "04-sign:0032-00000000000000000000000000000000;02-no:0001-1",
    "a=1&sign=b&sid=c#d?e%00%0a+ +",
    "<script>alert(1)</script> &amp; ${jndi:x} {{7*7}}",
    "\u{2028}separators\u{2029} \u{feff}bom \u{200b}zero",
    "'; DROP TABLE orders; --",
    "  blanks around  ",
];

/// Control characters, and what the ERP does not store: each refused by name.
const REFUSED: [(&str, &str); 6] = [
    ("nul \u{0}", "U+0000"),
    ("line\r\n2026-01-01T00:00:00Z ERROR forged", "U+000D"),
    ("escape \u{1b}[2J", "U+001B"),
    ("next line \u{85}", "U+0085"),
    ("delete \u{7f}", "U+007F"),
    ("emoji \u{1f600}", "U+1F600"),
];

fn unseen(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
}

#[test]
fn texts_reach_the_erp_unharmed_or_are_refused_by_name() {
    let rig = Rig::new("injection").commands("json");
    rig.erp.take_anything();
    // The first answers are lost, so that orders are looked for by these numbers as well.
    rig.erp.faults("createOrder:applied_timeout=4x");
    let _connector = rig.start();
    let sender = Sender::new();
    let all: Vec<_> = UNHARMED
        .iter()
        .enumerate()
        .map(|(number, text)| {
            // The ERP stores no character beyond U+FFFF, and ids hold none that nobody sees.
            let remark: String = text.chars().filter(|one| u32::from(*one) <= 0xffff).collect();
            let return_no: String = remark.chars().filter(|one| !unseen(*one)).take(40).collect();
            let mut one = command(&return_no, &format!("c{number};:'\""));
            one.remark = Some(remark);
            one
        })
        .collect();
    for one in &all {
        sender.send(
            &rig.topics.commands,
            Some(one.return_no.as_bytes()),
            Some(&json_bytes(one)),
            &[],
        );
    }
    for (number, (text, _)) in REFUSED.iter().enumerate() {
        let mut one = command(&format!("CT-{number}"), "c");
        one.remark = Some((*text).to_owned());
        sender.send(
            &rig.topics.commands,
            Some(one.return_no.as_bytes()),
            Some(&json_bytes(&one)),
            &[],
        );
    }
    sender.flush();
    let results = rig.results(all.len() + REFUSED.len());
    let orders = rig.erp.orders();
    for one in &all {
        let order: Vec<_> =
            orders.iter().filter(|order| order.return_no == one.return_no).collect();
        assert_eq!(order.len(), 1, "one order for {:?}: {order:?}", one.return_no);
        let marker = order[0].marker.as_deref().expect("a marker");
        assert_eq!(
            order[0].remark,
            format!("{marker} {}", one.remark.as_deref().unwrap()),
            "the remark as it was sent"
        );
        let result = results.iter().find(|result| result.return_no == one.return_no).unwrap();
        assert_eq!((result.outcome, &result.command_id), (Outcome::Created, &one.command_id));
    }
    assert_eq!(orders.len(), all.len(), "nothing else was made");
    for (number, (text, name)) in REFUSED.iter().enumerate() {
        let result =
            results.iter().find(|result| result.return_no == format!("CT-{number}")).unwrap();
        assert_eq!(result.outcome, Outcome::Invalid);
        let named = result
            .violations
            .iter()
            .any(|violation| violation.contains("remark") && violation.contains(name));
        assert!(named, "{text:?}: {:?}", result.violations);
    }
}

/// The enterprise edition signs `02-no:0001-1;…`, lengths in characters, and sends a form: the
/// return's number of a record stands in it when that record is asked for by itself.
#[test]
fn numbers_of_enterprise_records_are_signed_and_sent_unharmed() {
    let rig = Rig::new("signed").return_outbounds("enterprise");
    let hour = Duration::from_secs(3600);
    let ago = |hours: u32| Timestamp::now().minus(hour * hours).floor_second();
    let numbers: Vec<String> =
        UNHARMED.iter().map(|text| text.chars().take(40).collect()).collect();
    let orders: Vec<String> = numbers
        .iter()
        .map(|return_no| {
            let seeding = json!({"count": 1, "edition": "enterprise", "return_no": return_no, "status": 110, "from": ago(1).to_beijing(), "to": ago(1).to_beijing()});
            rig.erp.made(Kind::EnterpriseOutbounds, &seeding).remove(0)
        })
        .collect();
    let connector = rig.start();
    let mut reader = Reader::new(&rig.topics.return_outbounds);
    reader.at_least(orders.len(), PATIENCE);
    // Each looks older than what was published: the ERP is asked about it by its return's number,
    // and believed.
    for order in &orders {
        rig.erp.modify(
            Kind::EnterpriseOutbounds,
            order,
            &json!({"remark": "again", "modified": ago(2).to_beijing()}),
        );
    }
    let (from, to) = (ago(3).to_string(), (ago(1).minus(hour / 2)).to_string());
    let output = rig.verb(
        &["backfill", "--feed", "return_outbounds", "--from", &from, "--to", &to, "--follow"],
        b"",
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    reader.at_least(2 * orders.len(), PATIENCE);
    reader.finish();
    assert_eq!(reader.seen.len(), 2 * orders.len());
    for (order, return_no) in orders.iter().zip(&numbers) {
        let events: Vec<_> = reader
            .seen
            .iter()
            .filter(|record| record.key_text() == *order)
            .map(|record| rig.json(record))
            .collect();
        assert_eq!(events.len(), 2, "{return_no:?}: {events:?}");
        assert_eq!(
            (&events[1]["after"]["src_order_no"], &events[1]["after"]["remark"]),
            (&json!(return_no), &json!("again"))
        );
    }
    let confirmed =
        connector.metric("wdt_connector_feed_out_of_order_rows_total", &["result=\"confirmed\""]);
    assert_eq!(
        confirmed,
        orders.len() as f64,
        "each was asked for by its number, and the signature held"
    );
    let log = connector.log();
    assert!(!log.contains("签名") && !log.contains("window read failed"), "{log}");
}

#[test]
fn a_filter_of_the_enterprise_query_is_signed_and_sent_unharmed_or_refused_by_name() {
    for text in [UNHARMED[3], "' \" \\ ; : - & = + % %00 # é \u{202e}😀\u{202c}"] {
        let text: String = text.chars().take(40).collect();
        let mut rig = Rig::new("filter").return_outbounds("enterprise");
        rig.config.set("feeds.return_outbounds.filters", "warehouse_no", text.clone());
        let seeding = |warehouse: &str| json!({"count": 1, "edition": "enterprise", "status": 110, "warehouse_no": warehouse, "from": Timestamp::now().minus(Duration::from_secs(600)).to_beijing(), "to": Timestamp::now().minus(Duration::from_secs(600)).to_beijing()});
        let mine = rig.erp.made(Kind::EnterpriseOutbounds, &seeding(&text)).remove(0);
        rig.erp.made(Kind::EnterpriseOutbounds, &seeding("W-OTHER"));
        let connector = rig.start();
        let mut reader = Reader::new(&rig.topics.return_outbounds);
        reader.at_least(1, PATIENCE);
        until("the first read's end", PATIENCE, || {
            (connector.status()["sections"]["feeds"]["return_outbounds"]["state"] == "live")
                .then_some(())
        });
        reader.finish();
        assert_eq!(
            reader.seen.iter().map(|record| record.key_text()).collect::<Vec<_>>(),
            [mine],
            "{text:?}"
        );
        assert_eq!(rig.json(&reader.seen[0])["after"]["warehouse_no"], *text);
    }
    // (A file cannot hold the last of them: TOML refuses it.)
    for (text, _) in &REFUSED[..4] {
        let mut rig = Rig::bare("refused").return_outbounds("enterprise");
        rig.config.set("feeds.return_outbounds.filters", "warehouse_no", *text);
        let output = rig.verb(&["run"], b"");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains("feeds.return_outbounds.filters.warehouse_no")
                && said.contains("control character"),
            "{said}"
        );
        assert!(said.lines().all(|line| !line.contains(text)), "{said}");
    }
}

/// What a forged line would look like in either format.
const FORGED: &str = "\n2026-01-01T00:00:00.000000Z ERROR forged\n{\"level\":\"ERROR\",\"message\":\"forged\"}\r\u{1b}[2K\u{2028}";

fn every_line_is_our_own(connector: &Connector, json: bool) {
    let log = connector.log();
    for line in log.lines() {
        if json {
            let value: serde_json::Value = serde_json::from_str(line)
                .unwrap_or_else(|fault| panic!("no JSON ({fault}): {line}"));
            assert!(value["message"] != "forged", "{line}");
        } else {
            let ours =
                line.get(..4).is_some_and(|year| year.bytes().all(|byte| byte.is_ascii_digit()))
                    && !line.contains("Z ERROR forged");
            // Escaped it stands in a line of ours: behind a target, never at the beginning.
            assert!(ours || line.contains("wdt_connector"), "{line}");
        }
    }
    assert!(!log.contains(['\u{1b}', '\u{2028}', '\r']), "control characters reached the log");
}

#[test]
fn log_lines_cannot_be_forged() {
    for format in ["human", "json"] {
        let mut rig = Rig::new("forged").commands("json");
        rig.config.set("log", "format", format).set("log", "level", "trace");
        rig.erp.take_anything();
        let connector = rig.start();
        let sender = Sender::new();
        let mut remark = command("CT-1", "c");
        remark.remark = Some(FORGED.to_owned());
        let mut id = command("CT-2", FORGED);
        id.warehouse_no = FORGED.to_owned();
        for one in [remark, id] {
            sender.send(
                &rig.topics.commands,
                Some(one.return_no.as_bytes()),
                Some(&json_bytes(&one)),
                &[("h", FORGED)],
            );
        }
        sender.send(
            &rig.topics.commands,
            Some(FORGED.as_bytes()),
            Some(FORGED.as_bytes()),
            &[(FORGED, "v")],
        );
        let field =
            serde_json::json!({"return_no": "CT-3", "command_id": "c", FORGED: FORGED}).to_string();
        sender.send(&rig.topics.commands, Some(b"CT-3"), Some(field.as_bytes()), &[]);
        // A decision of somebody with the right to write one.
        sender.send(
            &rig.topics.control,
            Some(serde_json::json!(["pipeline", FORGED]).to_string().as_bytes()),
            Some(b"{}"),
            &[],
        );
        sender.send(&rig.topics.control, Some(FORGED.as_bytes()), Some(FORGED.as_bytes()), &[]);
        sender.flush();
        rig.wait_committed(4);
        until("the passed-over decision", PATIENCE, || {
            connector.log().contains("control record with an unknown key skipped").then_some(())
        });
        every_line_is_our_own(&connector, format == "json");
    }
}
