//! What a feed asks for where the ERP cannot answer: windows too wide for it, an outage, answers too
//! long, one second that cannot be read, a refused question, and an operator who decides meanwhile.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use wdt_connector::testing::clock::Timestamp;

use crate::kit::{
    connector::Connector,
    erp::Kind,
    promises::{feed, feed_name, judge, settle, topic},
    records::Reader,
    rewriter::{Passage, Rewriter, replaced},
    rig::{PATIENCE, Rig},
    until,
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

fn ago(span: Duration) -> Timestamp {
    Timestamp::now().minus(span).floor_second()
}

/// One query of a feed, as it arrives at the ERP.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Query {
    /// Seconds since 1970, both included; `None`: asked by number.
    window: Option<(i64, i64)>,
    page_no: u32,
    page_size: u32,
    status: Option<String>,
}

impl Query {
    /// `None` where the request is no query.
    fn of(request: &str) -> Option<Self> {
        let text = plain(request);
        let number = |name: &str| -> Option<u32> {
            let rest = text.split_once(name)?.1;
            let end = rest.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(rest.len());
            rest[..end].parse().ok()
        };
        let instant = |name: &str| -> Option<i64> {
            let rest = text.split_once(name)?.1;
            let digit = rest.find(|digit: char| digit.is_ascii_digit())?;
            let instant = Timestamp::from_beijing(rest.get(digit..digit + 19)?)?;
            Some(instant.seconds())
        };
        Some(Self {
            window: instant("start_time").zip(instant("end_time")),
            page_no: number("page_no=")?,
            page_size: number("page_size=")?,
            status: text
                .split("status=")
                .nth(1)
                .map(|rest| rest.chars().take_while(char::is_ascii_digit).collect()),
        })
    }

    fn seconds(&self) -> i64 {
        self.window.map_or(0, |(start, end)| end - start)
    }

    fn holds(&self, second: Timestamp) -> bool {
        self.window.is_some_and(|(start, end)| (start..=end).contains(&second.seconds()))
    }
}

/// Without percent-encoding.
fn plain(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let pair = [rest.next().unwrap_or_default(), rest.next().unwrap_or_default()];
                u8::from_str_radix(&String::from_utf8_lossy(&pair), 16).unwrap_or(b'?')
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Every query that arrived, in order.
type Asked = Arc<Mutex<Vec<Query>>>;

fn all_of(asked: &Asked) -> Vec<Query> {
    asked.lock().expect("no panic holds this lock").clone()
}

/// Puts a door before the ERP that sees every query of the feed and may answer it.
fn before(
    rig: &mut Rig,
    kind: Kind,
    door: impl Fn(&Query, usize) -> Passage + Send + Sync + 'static,
) -> (Rewriter, Asked) {
    changed(rig, kind, door, |_, answer| answer)
}

/// The same with a hand on the answers.
fn changed(
    rig: &mut Rig,
    kind: Kind,
    door: impl Fn(&Query, usize) -> Passage + Send + Sync + 'static,
    change: impl Fn(&Query, Vec<u8>) -> Vec<u8> + Send + Sync + 'static,
) -> (Rewriter, Asked) {
    let (section, url) = match kind {
        Kind::EnterpriseOutbounds => ("erp.enterprise", rig.erp.enterprise_url()),
        Kind::Returns | Kind::FlagshipOutbounds => ("erp.flagship", rig.erp.flagship_url()),
    };
    let asked = Asked::default();
    let list = Arc::clone(&asked);
    let rewriter = Rewriter::with_door(
        url,
        move |request| {
            let Some(query) = Query::of(request) else { return Passage::Through };
            let mut list = list.lock().expect("no panic holds this lock");
            list.push(query.clone());
            door(&query, list.len())
        },
        move |request, answer| match Query::of(request) {
            Some(query) => change(&query, answer),
            None => answer,
        },
    );
    let url = rewriter.url(url);
    rig.config.set(section, "url", url);
    (rewriter, asked)
}

fn rig(what: &str, kind: Kind, start: Duration) -> Rig {
    let mut rig = match kind {
        Kind::Returns => Rig::with_partitions(what, 1).purchase_returns(),
        Kind::FlagshipOutbounds => Rig::with_partitions(what, 1).return_outbounds("flagship"),
        Kind::EnterpriseOutbounds => Rig::with_partitions(what, 1).return_outbounds("enterprise"),
    };
    let section = format!("feeds.{}", feed_name(kind));
    rig.config.set(&section, "start_at", ago(start).to_string());
    rig
}

fn published(rig: &Rig, kind: Kind) -> Reader {
    let mut reader = Reader::new(topic(rig, kind));
    reader.finish();
    reader
}

fn beyond(connector: &Connector, kind: Kind, name: &str, at: Timestamp) {
    let at = at.to_string();
    until(&format!("{name} to come beyond {at}"), PATIENCE, || {
        let now = feed(connector, kind)[name].clone();
        now.as_str().is_some_and(|now| now > at.as_str()).then_some(())
    });
}

fn run(rig: &Rig, code: i32, arguments: &[&str]) -> String {
    let (ended, said) = rig.said(arguments);
    assert_eq!(ended, Some(code), "{arguments:?}: {said}");
    said
}

/// An ERP that does not answer for windows of more than `most`.
fn too_wide(what: &str, kind: Kind, most: Duration, answer: Passage, at_once: bool) {
    const RECORDS: usize = 12;
    let mut rig = rig(what, kind, DAY * 60);
    rig.erp.seed_between(kind, RECORDS, ago(DAY * 59), ago(HOUR));
    let most = i64::try_from(most.as_secs()).unwrap();
    let refused = Arc::new(Mutex::new(Vec::<(i64, i64)>::new()));
    let list = Arc::clone(&refused);
    let (_rewriter, asked) = before(&mut rig, kind, move |query, _| {
        if query.seconds() <= most {
            return Passage::Through;
        }
        list.lock().expect("no panic holds this lock").extend(query.window);
        answer.clone()
    });
    let refused = || refused.lock().expect("no panic holds this lock").clone();
    let connector = rig.start();
    settle(&connector, kind);
    assert_eq!(judge(&rig, kind, &published(&rig, kind)).events, RECORDS);
    let (all, unlike) = (refused(), {
        let mut unlike = refused();
        unlike.dedup();
        unlike
    });
    assert!(!unlike.is_empty());
    if at_once {
        assert_eq!(all, unlike, "a window was asked for again although it is too wide");
    }
    // A length that failed is tried again after 1, 2, 4… windows. The enterprise feed also measures
    // its window rule and reads shipping days, each of which learns the length by itself.
    let others = if kind == Kind::EnterpriseOutbounds { 3 + 3 } else { 0 };
    assert!(unlike.len() <= 6 + others, "{} windows were too wide: {unlike:?}", unlike.len());
    crate::parts::say(&format!("{what}: {} calls, {} refused", all_of(&asked).len(), all.len()));

    let (from, to) = (ago(DAY * 60).to_string(), ago(MINUTE).to_string());
    let period = ["--feed", feed_name(kind), "--from", &from, "--to", &to];
    let said = run(&rig, 0, &[&["backfill", "--dry-run"], &period[..]].concat());
    assert!(said.contains(&format!("{RECORDS} records")) && said.contains("asked with"), "{said}");
    let said = run(&rig, 0, &[&["backfill", "--follow"], &period[..]].concat());
    assert!(
        said.contains(&format!("finished: {RECORDS} records read, 0 events published")),
        "{said}"
    );
    let said = run(&rig, 0, &[&["verify"], &period[..]].concat());
    assert!(
        said.contains(&format!("{RECORDS} records compared")) && said.contains("0 differences"),
        "{said}"
    );
}

#[test]
fn windows_that_time_out_at_the_gateway_are_halved() {
    let gateway = Passage::Answer(504, "<html>504 Gateway Time-out</html>".to_owned());
    too_wide("wide504", Kind::Returns, DAY * 3, gateway, false);
}

#[test]
fn a_window_that_the_erp_calls_too_wide_is_halved_at_once() {
    let text = r#"{"status":100,"message":"您的查询时间过宽,查询时间不能大于7天"}"#;
    let refusal = Passage::Answer(200, text.to_owned());
    too_wide("wide7", Kind::Returns, DAY * 7, refusal, true);
}

#[test]
fn a_window_that_the_enterprise_edition_calls_too_wide_is_halved_at_once() {
    let text = r#"{"code":2104,"message":"start_time与end_time时间跨度不能超过最大范围 7天"}"#;
    let refusal = Passage::Answer(200, text.to_owned());
    too_wide("wideent", Kind::EnterpriseOutbounds, DAY * 7, refusal, true);
}

/// Everything fails for a while; the first query of a feed that is answered again is the one that
/// failed.
fn outage(what: &str, begins_at: i64) {
    let kind = Kind::Returns;
    const FAILURES: usize = 30;
    let mut rig = rig(what, kind, DAY * 60);
    rig.erp.seed_between(kind, 5, ago(DAY * 59), ago(HOUR));
    let (failing, over) = (AtomicBool::new(false), Arc::new(AtomicBool::new(false)));
    let failed = Arc::new(Mutex::new(Vec::new()));
    let (list, ended) = (Arc::clone(&failed), Arc::clone(&over));
    let (_rewriter, asked) = before(&mut rig, kind, move |query, number| {
        let mut list = list.lock().expect("no panic holds this lock");
        if query.seconds() >= begins_at {
            failing.store(true, Ordering::SeqCst);
        }
        if !failing.load(Ordering::SeqCst) || ended.load(Ordering::SeqCst) {
            return Passage::Through;
        }
        // The question whether the ERP is up asks for one row.
        if list.len() >= FAILURES && query.page_size > 1 {
            ended.store(true, Ordering::SeqCst);
            return Passage::Through;
        }
        list.push((number, query.clone()));
        if list.len() % 2 == 0 { Passage::Cut } else { Passage::Answer(502, String::new()) }
    });
    let connector = rig.start();
    until("the outage to be over", PATIENCE, || over.load(Ordering::SeqCst).then_some(()));
    settle(&connector, kind);
    assert_eq!(judge(&rig, kind, &published(&rig, kind)).events, 5);
    let failed = failed.lock().expect("no panic holds this lock").clone();
    let (first, last) = (failed.first().unwrap(), failed.last().unwrap());
    let wide: Vec<&Query> =
        failed.iter().map(|(_, query)| query).filter(|query| query.page_size > 1).collect();
    assert!(wide.len() > FAILURES / 3, "{wide:?}");
    assert!(wide.iter().all(|query| **query == first.1), "another window was asked for: {wide:?}");
    // What comes after it is the same window, and then the rest in windows as long as before.
    let after: Vec<Query> = all_of(&asked).into_iter().skip(last.0).collect();
    assert_eq!(after[0], first.1);
    let next = &after[1];
    assert_eq!(next.window.unwrap().0, first.1.window.unwrap().1, "{next:?}");
    assert!(
        next.seconds() >= first.1.seconds(),
        "{} s after {} s: the outage shortened the windows",
        next.seconds(),
        first.1.seconds()
    );
    assert!(!connector.log().contains("halving"), "{}", connector.log());
}

#[test]
fn an_outage_shortens_no_window() {
    outage("outage", 8 * 86_400 - 10);
}

#[test]
fn what_an_outage_left_behind_is_one_window() {
    let kind = Kind::Returns;
    let mut rig = rig("behind", kind, HOUR);
    let down = Arc::new(AtomicBool::new(false));
    let (door, failed) = (Arc::clone(&down), Arc::new(Mutex::new(0)));
    let count = Arc::clone(&failed);
    let (_rewriter, asked) = before(&mut rig, kind, move |query, number| {
        let mut failed = count.lock().expect("no panic holds this lock");
        if !door.load(Ordering::SeqCst) {
            return Passage::Through;
        }
        if *failed >= 40 && query.page_size > 1 {
            door.store(false, Ordering::SeqCst);
            *failed = number;
            return Passage::Through;
        }
        *failed += 1;
        Passage::Answer(502, String::new())
    });
    let connector = rig.start();
    settle(&connector, kind);
    rig.erp.add_one(kind);
    down.store(true, Ordering::SeqCst);
    until("the outage to be over", PATIENCE, || (!down.load(Ordering::SeqCst)).then_some(()));
    settle(&connector, kind);
    let at = *failed.lock().expect("no panic holds this lock");
    let after: Vec<Query> = all_of(&asked).into_iter().skip(at - 1).collect();
    let end = after[0].window.unwrap().1;
    let next = after.iter().find(|query| query.window.is_some_and(|(start, _)| start == end));
    let next = next.unwrap_or_else(|| panic!("no window from {end} on: {after:?}"));
    // Forty failures with their pauses take longer than that.
    assert!(next.seconds() >= 5, "{next:?} after {:?}", after[0]);
    assert_eq!(feed(&connector, kind)["unproven"], json!([]));
    assert!(!connector.log().contains("cannot be read"), "{}", connector.log());
    judge(&rig, kind, &published(&rig, kind));
}

#[test]
fn answers_that_are_too_long_are_asked_for_with_fewer_rows() {
    let kind = Kind::Returns;
    let mut rig = rig("long", kind, HOUR);
    rig.erp.seed_between(kind, 230, ago(MINUTE * 50), ago(MINUTE * 40));
    // As if every record had a remark of 400 kB: a hundred are more than 32 MiB.
    let wide = Arc::new(AtomicBool::new(true));
    let padded = Arc::clone(&wide);
    let (_rewriter, asked) = changed(
        &mut rig,
        kind,
        |_, _| Passage::Through,
        move |_, answer| {
            if !padded.load(Ordering::SeqCst) {
                return answer;
            }
            let name = b"\"return_no\":";
            let mut padding = vec![b' '; 400_000];
            padding.extend_from_slice(name);
            replaced(&answer, name, &padding)
        },
    );
    let connector = rig.start();
    settle(&connector, kind);
    assert_eq!(judge(&rig, kind, &published(&rig, kind)).events, 230);
    let mut sizes: Vec<u32> = all_of(&asked).iter().map(|query| query.page_size).collect();
    sizes.dedup();
    assert_eq!(sizes[..2], [100, 50], "{sizes:?}");
    assert!(connector.log().contains("answer is too long"), "{}", connector.log());
    // And back.
    wide.store(false, Ordering::SeqCst);
    let so_far = all_of(&asked).len();
    until("pages as long as configured", PATIENCE, || {
        all_of(&asked)[so_far..].iter().any(|query| query.page_size == 100).then_some(())
    });
}

fn show(rig: &Rig) -> Value {
    let output = rig.verb(&["feeds", "show", "--json"], b"");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

#[test]
fn a_second_that_cannot_be_read_is_listed_and_passed() {
    let kind = Kind::Returns;
    let mut rig = rig("second", kind, MINUTE * 10);
    let second = ago(MINUTE * 5);
    let one = Duration::from_secs(1);
    let hidden = rig.erp.seed_between(kind, 3, second, second);
    rig.erp.seed_between(kind, 4, second.minus(one), second.minus(one));
    rig.erp.seed_between(kind, 4, second.plus(one), second.plus(one));
    rig.erp.seed_between(kind, 20, ago(MINUTE * 9), second.minus(one));
    rig.erp.seed_between(kind, 20, second.plus(one), ago(MINUTE * 2));
    let broken = Arc::new(AtomicBool::new(true));
    let door = Arc::clone(&broken);
    let (_rewriter, _) = before(&mut rig, kind, move |query, _| {
        let fails = door.load(Ordering::SeqCst) && query.holds(second);
        if fails { Passage::Answer(502, String::new()) } else { Passage::Through }
    });
    let connector = rig.start();
    let now = Timestamp::now();
    beyond(&connector, kind, "watermark", now);
    beyond(&connector, kind, "late_watermark", now);
    let listed = |connector: &Connector| feed(connector, kind)["unproven"].clone();
    let list = listed(&connector);
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
    let entry = list[0].clone();
    assert!(
        entry["from"].as_str() <= Some(&second.to_string())
            && entry["to"].as_str() >= Some(&second.to_string()),
        "{entry} is not {second}"
    );
    let gauge = "wdt_connector_feed_unproven_windows";
    assert_eq!(connector.metric(gauge, &[feed_name(kind)]), 1.0);
    let reader = published(&rig, kind);
    assert_eq!(reader.seen.len(), 48);
    assert!(reader.seen.iter().all(|record| !hidden.contains(&record.key_text())));

    assert_eq!(show(&rig)["unproven"][0]["from"], entry["from"]);
    let said = run(&rig, 0, &["feeds", "show"]);
    assert!(said.contains("unproven") && said.contains(entry["from"].as_str().unwrap()), "{said}");
    let (from, to) = (ago(MINUTE * 9).to_string(), ago(MINUTE).to_string());
    let verify = ["verify", "--feed", feed_name(kind), "--from", &from, "--to", &to];
    let said = run(&rig, 1, &verify);
    assert!(said.contains("not verified") && said.contains("0 differences"), "{said}");

    assert_eq!(connector.terminate(MINUTE).code(), Some(0));
    let connector = rig.start();
    beyond(&connector, kind, "watermark", Timestamp::now());
    assert_eq!(listed(&connector)[0]["from"], entry["from"]);
    assert_eq!(connector.metric(gauge, &[feed_name(kind)]), 1.0);

    broken.store(false, Ordering::SeqCst);
    settle(&connector, kind);
    assert_eq!(connector.metric(gauge, &[feed_name(kind)]), 0.0);
    let reader = published(&rig, kind);
    assert_eq!(judge(&rig, kind, &reader).events, 51);
    let late: Vec<Value> = reader.seen[48..].iter().map(|record| rig.json(record)).collect();
    // Passed in the first read, so they belong to it.
    assert!(late.iter().all(|event| event["op"] == "r"), "{late:?}");
    assert_eq!(show(&rig)["unproven"], json!([]));
    run(&rig, 0, &verify);

    // What was published before its second broke is not a difference, it is not verified.
    broken.store(true, Ordering::SeqCst);
    let said = run(&rig, 1, &verify);
    assert!(said.contains("not verified") && said.contains("0 differences"), "{said}");
}

/// A published record whose `modified` goes back while the late pass is behind it.
fn older(what: &str, answer: Passage) {
    let kind = Kind::Returns;
    let mut rig = rig(what, kind, HOUR);
    rig.config.set("feeds.purchase_returns.late_pass", "lag", "12s").set(
        "feeds.purchase_returns.late_pass",
        "interval",
        "1s",
    );
    let (_rewriter, asked) = before(&mut rig, kind, move |query, _| {
        if query.window.is_none() { answer.clone() } else { Passage::Through }
    });
    let connector = rig.start();
    let number = rig.erp.add_one(kind);
    let mut reader = Reader::new(topic(&rig, kind));
    reader.at_least(1, PATIENCE);
    let first = rig.json(&reader.seen[0]);
    let modified = first["after"]["modified"].as_str().expect("an instant").to_owned();
    let back = Timestamp(
        modified.parse::<jiff::Timestamp>().expect("an instant").as_millisecond() - 2_000,
    );
    rig.erp.modify(kind, &number, &json!({"remark": "went back", "modified": back.to_beijing()}));
    reader.at_least(2, PATIENCE);
    let second = rig.json(&reader.seen[1]);
    assert_eq!(second["after"]["remark"], "went back");
    assert_eq!(second["op"], "u");
    // The pass goes on.
    beyond(&connector, kind, "late_watermark", Timestamp(back.0 + 4_000));
    assert!(
        connector.metric("wdt_connector_feed_out_of_order_rows_total", &["result=\"confirmed\""])
            >= 1.0
    );
    assert!(all_of(&asked).iter().any(|query| query.window.is_none()), "it was asked by number");
    assert!(
        all_of(&asked).iter().any(|query| query.window == Some((back.seconds(), back.seconds()))),
        "and then by its second"
    );
    settle(&connector, kind);
    assert_eq!(feed(&connector, kind)["state"], "live");
}

#[test]
fn a_record_whose_question_by_number_is_refused_is_asked_for_by_its_second() {
    let text = r#"{"status":100,"message":"采购退货单不存在"}"#;
    older("older", Passage::Answer(200, text.to_owned()));
}

#[test]
fn a_record_whose_question_by_number_is_not_answered_is_asked_for_by_its_second() {
    older("older502", Passage::Answer(502, String::new()));
}

/// Neither question about an older version is answered; the window that shows it always is.
#[test]
fn a_record_that_cannot_be_asked_for_is_asked_for_less_and_less_often() {
    let kind = Kind::Returns;
    let mut rig = rig("deferred", kind, HOUR);
    rig.config.set("feeds.purchase_returns.late_pass", "lag", "12s");
    let (left, mended) = (Mutex::new(0), Arc::new(AtomicBool::new(false)));
    let (mend, answered) = (Arc::clone(&mended), Arc::new(Mutex::new(Vec::new())));
    let list = Arc::clone(&answered);
    let (_rewriter, asked) = before(&mut rig, kind, move |query, number| {
        let mut left = left.lock().expect("no panic holds this lock");
        let fails = Passage::Answer(502, String::new());
        if mend.load(Ordering::SeqCst) {
            return Passage::Through;
        }
        if query.window.is_none() {
            // Three attempts at its second as well.
            *left = 3;
            return fails;
        }
        if query.seconds() > 0 {
            return Passage::Through;
        }
        if *left > 0 {
            *left -= 1;
            return fails;
        }
        list.lock().expect("no panic holds this lock").push(number);
        Passage::Through
    });
    let connector = rig.start();
    let number = rig.erp.add_one(kind);
    let mut reader = Reader::new(topic(&rig, kind));
    reader.at_least(1, PATIENCE);
    let back = ago(Duration::from_secs(5)).to_beijing();
    rig.erp.modify(kind, &number, &json!({"remark": "went back", "modified": back}));
    let answered = || answered.lock().expect("no panic holds this lock").clone();
    until("the second to be read again five times", PATIENCE, || {
        (answered().len() >= 5).then_some(())
    });
    let reads = answered();
    let others =
        all_of(&asked)[reads[3]..reads[4] - 1].iter().filter(|query| query.seconds() > 0).count();
    // Sixteen poll intervals, after two, four and eight of them; there is a window a second.
    assert!(others >= 3, "{others} polls between two reads of {reads:?}");
    assert_eq!(feed(&connector, kind)["unproven"].as_array().map(Vec::len), Some(1));
    mended.store(true, Ordering::SeqCst);
    settle(&connector, kind);
    reader.at_least(2, PATIENCE);
    assert_eq!(judge(&rig, kind, &published(&rig, kind)).events, 2);
}

/// Pages of one second that holds thirty of them, each of which takes a while.
const PAGES: u32 = 30;

/// The last page is no full one: nobody asks what comes after it.
const DENSE: usize = 10 * PAGES as usize - 5;

fn dense(what: &str, start: Duration) -> (Rig, Timestamp) {
    let mut rig = rig(what, Kind::Returns, start);
    let second = ago(MINUTE * 5);
    rig.config.set("feeds.purchase_returns", "page_size", 10);
    rig.erp.seed_between(Kind::Returns, DENSE, second, second);
    rig.erp.adjust(&json!({"latency_ms": 250}));
    (rig, second)
}

/// The pages of the second that were asked for.
fn pages(asked: &Asked, second: Timestamp) -> Vec<u32> {
    let of_it =
        |query: &Query| query.holds(second) && query.seconds() <= 1 && query.page_size == 10;
    all_of(asked).iter().filter(|query| of_it(query)).map(|query| query.page_no).collect()
}

#[test]
fn a_feed_paused_in_a_long_read_stops_and_goes_on_at_the_same_page() {
    let kind = Kind::Returns;
    let (mut rig, second) = dense("pausing", MINUTE * 10);
    let (_rewriter, asked) = before(&mut rig, kind, |_, _| Passage::Through);
    let connector = rig.start();
    until("some pages", PATIENCE, || (pages(&asked, second).len() >= 4).then_some(()));
    run(&rig, 0, &["feeds", "pause", "--feed", feed_name(kind)]);
    until("the feed to pause", PATIENCE, || {
        (feed(&connector, kind)["state"] == "paused").then_some(())
    });
    let asked_then = pages(&asked, second);
    assert!(asked_then.len() < PAGES as usize - 5, "{asked_then:?}");
    // Takes longer than a page.
    run(&rig, 0, &["feeds", "show"]);
    assert_eq!(pages(&asked, second), asked_then, "a page was asked for in a pause");
    run(&rig, 0, &["feeds", "resume", "--feed", feed_name(kind)]);
    beyond(&connector, kind, "watermark", second);
    let mut all = pages(&asked, second);
    // The page that was on its way is asked for again.
    all.dedup();
    let expected: Vec<u32> = std::iter::once(0).chain((0..PAGES).rev()).collect();
    assert_eq!(all[..expected.len()], expected);
    rig.erp.adjust(&json!({"latency_ms": 0}));
    settle(&connector, kind);
    assert_eq!(judge(&rig, kind, &published(&rig, kind)).events, DENSE);
}

#[test]
fn a_backfill_called_off_in_a_long_read_asks_for_no_further_page() {
    let kind = Kind::Returns;
    let (mut rig, second) = dense("calloff", MINUTE);
    let (_rewriter, asked) = before(&mut rig, kind, |_, _| Passage::Through);
    let connector = rig.start();
    until("the first read to end", PATIENCE, || {
        (feed(&connector, kind)["state"] == "live").then_some(())
    });
    let (from, to) = (ago(MINUTE * 6).to_string(), ago(MINUTE * 2).to_string());
    let name = feed_name(kind);
    run(&rig, 0, &["backfill", "--feed", name, "--from", &from, "--to", &to]);
    until("some pages", PATIENCE, || (pages(&asked, second).len() >= 4).then_some(()));
    run(&rig, 0, &["backfill", "--feed", name, "--cancel"]);
    until("the backfill to be called off", PATIENCE, || {
        show(&rig)["backfill"].is_null().then_some(())
    });
    let asked_then = pages(&asked, second);
    assert!(asked_then.len() < PAGES as usize - 5, "{asked_then:?}");
    beyond(&connector, kind, "watermark", Timestamp::now());
    assert_eq!(pages(&asked, second), asked_then, "a page was asked for after that");
    assert_eq!(show(&rig)["last_backfill"]["end"], "cancelled");
}

/// A backfill that needs a person, beside a live pass that goes on.
fn blocked(
    what: &str,
    door: impl Fn(&Query) -> Passage + Send + Sync + 'static,
    change: impl Fn(&Query, Vec<u8>) -> Vec<u8> + Send + Sync + 'static,
    error: &str,
) {
    let kind = Kind::Returns;
    let mut rig = rig(what, kind, MINUTE);
    rig.config.set("feeds.purchase_returns", "page_size", 20);
    rig.erp.seed_between(kind, 90, ago(HOUR * 3), ago(HOUR * 2));
    let (_rewriter, _) = changed(&mut rig, kind, move |query, _| door(query), change);
    let connector = rig.start();
    settle(&connector, kind);
    let (from, to) = (ago(HOUR * 4).to_string(), ago(HOUR).to_string());
    run(&rig, 0, &["backfill", "--feed", feed_name(kind), "--from", &from, "--to", &to]);
    until("the feed to be blocked", PATIENCE, || {
        (feed(&connector, kind)["state"] == "blocked").then_some(())
    });
    // Two late passes and many live ones later it still is.
    let read = |pass: &str| {
        connector.metric("wdt_connector_feed_windows_total", &[&format!("pass=\"{pass}\"")])
    };
    let (live, late) = (read("live"), read("late"));
    until("both passes to go on", PATIENCE, || {
        let status = feed(&connector, kind);
        assert_eq!(status["state"], "blocked", "{status}");
        assert!(status["error"].as_str().is_some_and(|text| text.contains(error)), "{status}");
        (read("live") >= live + 5.0 && read("late") >= late + 2.0).then_some(())
    });
    let state = |state: &str| {
        connector
            .metric("wdt_connector_feed_state", &[feed_name(kind), &format!("state=\"{state}\"")])
    };
    assert_eq!((state("blocked"), state("live")), (1.0, 0.0));
    // What a person does ends it.
    run(&rig, 0, &["backfill", "--feed", feed_name(kind), "--cancel"]);
    until("the feed to be live", PATIENCE, || {
        (feed(&connector, kind)["state"] == "live").then_some(())
    });
}

fn before_an_hour_ago(query: &Query) -> bool {
    query.window.is_some_and(|(_, end)| end < ago(HOUR / 2).seconds())
}

#[test]
fn a_source_that_ignores_the_page_number_blocks_the_feed_for_a_person() {
    let first = Mutex::new(Vec::new());
    blocked(
        "paging",
        |_| Passage::Through,
        move |query, answer| {
            let mut first = first.lock().expect("no panic holds this lock");
            if before_an_hour_ago(query) && query.page_no > 0 {
                return first.clone();
            }
            if before_an_hour_ago(query) {
                first.clone_from(&answer);
            }
            answer
        },
        "same page",
    );
}

#[test]
fn a_query_that_is_refused_by_a_known_text_blocks_the_feed_for_a_person() {
    blocked("refused", refusing("采购退货单不存在"), |_, answer| answer, "采购退货单不存在");
}

#[test]
fn a_query_that_is_refused_by_an_unknown_text_blocks_the_feed_for_a_person() {
    blocked("unknown", refusing("未知的拒绝"), |_, answer| answer, "未知的拒绝");
}

/// Refuses what lies in the past but for the survey before the order, and whatever asks for one
/// row: whether the ERP is up.
fn refusing(text: &str) -> impl Fn(&Query) -> Passage + Send + Sync + 'static {
    let answer = format!(r#"{{"status":100,"message":"{text}"}}"#);
    let surveyed = AtomicBool::new(false);
    move |query| {
        if before_an_hour_ago(query) && !surveyed.swap(true, Ordering::SeqCst) {
            Passage::Through
        } else if before_an_hour_ago(query) || query.page_size == 1 {
            Passage::Answer(200, answer.clone())
        } else {
            Passage::Through
        }
    }
}

/// Empty answers of an outage are no proof that a window is empty.
fn emptied(what: &str, kind: Kind, body: &str) {
    let mut rig = rig(what, kind, HOUR * 2);
    rig.erp.seed_between(kind, 60, ago(HOUR), ago(HOUR / 2));
    let out = Arc::new(AtomicBool::new(true));
    let (outage, body) = (Arc::clone(&out), body.to_owned());
    let (_rewriter, _) = before(&mut rig, kind, move |_, _| {
        if outage.load(Ordering::SeqCst) {
            Passage::Answer(200, body.clone())
        } else {
            Passage::Through
        }
    });
    let connector = rig.start();
    let end = ago(HOUR / 2).to_string();
    until("the records to be passed and their window to be listed", PATIENCE, || {
        let feed = feed(&connector, kind);
        let passed = feed["watermark"].as_str().is_some_and(|at| at > end.as_str());
        (passed && !feed["unproven"].as_array()?.is_empty()).then_some(())
    });
    out.store(false, Ordering::SeqCst);
    let mut reader = Reader::new(topic(&rig, kind));
    reader.at_least(60, PATIENCE);
    settle(&connector, kind);
    reader.finish();
    assert_eq!(judge(&rig, kind, &reader).events, 60);
}

#[test]
fn empty_answers_of_an_outage_hide_nothing() {
    emptied("emptied", Kind::FlagshipOutbounds, r#"{"status":0,"data":null}"#);
}

#[test]
fn empty_answers_of_an_enterprise_outage_hide_nothing() {
    emptied("emptiede", Kind::EnterpriseOutbounds, r#"{"code":0,"message":"OK"}"#);
}
