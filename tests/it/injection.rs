//! Texts made to break out of where they stand: they reach the ERP as they are, or are refused by name.

use crate::kit::{
    commands::{command, json_bytes},
    connector::Connector,
    records::Sender,
    rig::{PATIENCE, Rig},
    until,
};
use wdt_connector::schema::Outcome;

/// Harmless to an ERP, dangerous to whoever builds a line, a query, a signature or a page out of them.
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

/// Control characters, each refused by name.
const REFUSED: [(&str, &str); 5] = [
    ("nul \u{0}", "U+0000"),
    ("line\r\n2026-01-01T00:00:00Z ERROR forged", "U+000D"),
    ("escape \u{1b}[2J", "U+001B"),
    ("next line \u{85}", "U+0085"),
    ("delete \u{7f}", "U+007F"),
];

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
        .map(|text| text.chars().take(40).collect::<String>())
        .zip(UNHARMED)
        .enumerate()
        .map(|(number, (return_no, remark))| {
            let mut one = command(&return_no, &format!("c{number};:'\"😀"));
            one.remark = Some(remark.to_owned());
            one
        })
        .collect();
    for one in &all {
        sender.send(&rig.topics.commands, Some(one.return_no.as_bytes()), Some(&json_bytes(one)), &[]);
    }
    for (number, (text, _)) in REFUSED.iter().enumerate() {
        let mut one = command(&format!("CT-{number}"), "c");
        one.remark = Some((*text).to_owned());
        sender.send(&rig.topics.commands, Some(one.return_no.as_bytes()), Some(&json_bytes(&one)), &[]);
    }
    sender.flush();
    let results = rig.results(all.len() + REFUSED.len());
    let orders = rig.erp.orders();
    for one in &all {
        let order: Vec<_> = orders.iter().filter(|order| order.return_no == one.return_no).collect();
        assert_eq!(order.len(), 1, "one order for {:?}: {order:?}", one.return_no);
        let marker = order[0].marker.as_deref().expect("a marker");
        assert_eq!(order[0].remark, format!("{marker} {}", one.remark.as_deref().unwrap()), "the remark as it was sent");
        let result = results.iter().find(|result| result.return_no == one.return_no).unwrap();
        assert_eq!((result.outcome, &result.command_id), (Outcome::Created, &one.command_id));
    }
    assert_eq!(orders.len(), all.len(), "nothing else was made");
    for (number, (text, name)) in REFUSED.iter().enumerate() {
        let result = results.iter().find(|result| result.return_no == format!("CT-{number}")).unwrap();
        assert_eq!(result.outcome, Outcome::Invalid);
        let named = result.violations.iter().any(|violation| violation.contains("remark") && violation.contains(name));
        assert!(named, "{text:?}: {:?}", result.violations);
    }
}

/// What a forged line would look like in either format.
const FORGED: &str = "\n2026-01-01T00:00:00.000000Z ERROR forged\n{\"level\":\"ERROR\",\"message\":\"forged\"}\r\u{1b}[2K\u{2028}";

fn every_line_is_our_own(connector: &Connector, json: bool) {
    let log = connector.log();
    for line in log.lines() {
        if json {
            let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|fault| panic!("no JSON ({fault}): {line}"));
            assert!(value["message"] != "forged", "{line}");
        } else {
            let ours = line.get(..4).is_some_and(|year| year.bytes().all(|byte| byte.is_ascii_digit())) && !line.contains("Z ERROR forged");
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
            sender.send(&rig.topics.commands, Some(one.return_no.as_bytes()), Some(&json_bytes(&one)), &[("h", FORGED)]);
        }
        sender.send(&rig.topics.commands, Some(FORGED.as_bytes()), Some(FORGED.as_bytes()), &[(FORGED, "v")]);
        let field = serde_json::json!({"return_no": "CT-3", "command_id": "c", FORGED: FORGED}).to_string();
        sender.send(&rig.topics.commands, Some(b"CT-3"), Some(field.as_bytes()), &[]);
        // A decision of somebody with the right to write one.
        sender.send(&rig.topics.control, Some(serde_json::json!(["route", FORGED]).to_string().as_bytes()), Some(b"{}"), &[]);
        sender.send(&rig.topics.control, Some(FORGED.as_bytes()), Some(FORGED.as_bytes()), &[]);
        sender.flush();
        rig.wait_committed(4);
        until("the passed-over decision", PATIENCE, || connector.log().contains("passed over").then_some(()));
        every_line_is_our_own(&connector, format == "json");
    }
}
