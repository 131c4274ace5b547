//! The change pipeline: a first read, then the same records read again unchanged.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wdt_connector::testing::clock::Timestamp;

use crate::{
    PATIENCE, ceiling,
    figures::{exponent, finish, peak_mb, per_1000, rig, round},
    kit::{connector::Connector, erp::Kind, records::Reader, until},
};

const RECORDS: usize = 100_000;
/// Records of an answer, as configured by default.
const PAGE: usize = 100;

struct Read {
    seconds: f64,
    cpu: f64,
    peak_mb: f64,
    line: Value,
}

fn read(count: usize, beside: bool) -> Read {
    let mut rig = rig("speed-read").purchase_returns();
    rig.config.set("feeds.purchase_returns", "poll_interval", "60s");
    rig.config.set("feeds.purchase_returns.late_pass", "interval", "600s");
    rig.erp.seed(Kind::Returns, count);
    let mut events = Reader::new(&rig.topics.purchase_returns);
    let began = Instant::now();
    let mut connector = rig.spawn();
    let ready = connector.wait_ready().as_secs_f64();
    events.at_least(count, PATIENCE);
    let (seconds, cpu) = (began.elapsed().as_secs_f64() - ready, connector.cpu_seconds());
    let peak_mb = peak_mb(&connector);
    finish(connector);
    let per_second = count as f64 / seconds;
    let mut line = json!({
        "records": count, "seconds": round(seconds), "per_second": per_second.round(), "cpu_seconds_per_1000": per_1000(cpu, count),
        "per_cpu_second": (count as f64 / cpu).round(), "peak_rss_mb": peak_mb,
    });
    if beside {
        let values: Vec<(Vec<u8>, Vec<u8>)> = events
            .seen
            .iter()
            .map(|record| {
                (record.key.clone().unwrap_or_default(), record.value.clone().unwrap_or_default())
            })
            .collect();
        let bare = ceiling::produce(&values);
        line["bytes_per_event"] = (values.iter().map(|(_, value)| value.len()).sum::<usize>()
            / values.len().max(1))
        .into();
        line["bare_producer_per_second"] = bare.round().into();
        line["of_bare_producer"] = round(per_second / bare).into();
    }
    Read { seconds, cpu, peak_mb, line }
}

pub fn first_read() -> Vec<Value> {
    vec![read(RECORDS, true).line]
}

/// Two sizes, which should cost the same per record.
pub fn unchanged() -> Vec<Value> {
    [RECORDS, 4 * RECORDS].map(again).into()
}

/// Everything once more through a backfill of the same period, which finds nothing new: a hash and
/// a lookup per record.
fn again(count: usize) -> Value {
    let mut rig = rig("speed-unchanged").purchase_returns();
    let now = Timestamp::now();
    let (from, to) = (
        now.minus(Duration::from_secs(7_200)).floor_second(),
        now.minus(Duration::from_secs(60)).floor_second(),
    );
    rig.config
        .set("feeds.purchase_returns", "start_at", from.to_string())
        .set("feeds.purchase_returns", "poll_interval", "60s")
        .set("feeds.purchase_returns.late_pass", "interval", "600s");
    rig.erp.seed_between(Kind::Returns, count, from, to);
    let mut events = Reader::new(&rig.topics.purchase_returns);
    let connector = rig.start();
    events.at_least(count, PATIENCE);
    let reread = |connector: &Connector| {
        connector.metric("wdt_connector_feed_rows_total", &["pass=\"backfill\""])
    };
    let (period, cpu_before) =
        ([from.to_string(), to.plus(Duration::from_secs(1)).to_string()], connector.cpu_seconds());
    let [from, to] = period.each_ref().map(String::as_str);
    let ordered =
        rig.verb(&["backfill", "--feed", "purchase_returns", "--from", from, "--to", to], b"");
    assert!(ordered.status.success(), "{}", String::from_utf8_lossy(&ordered.stderr));
    until("the backfill to begin", PATIENCE, || (reread(&connector) > 0.0).then_some(()));
    let (began, rows_before) = (Instant::now(), reread(&connector));
    until("the backfill", PATIENCE, || (reread(&connector) as usize >= count).then_some(()));
    let (seconds, cpu, rows) =
        (began.elapsed().as_secs_f64(), connector.cpu_seconds() - cpu_before, reread(&connector));
    events.finish();
    assert_eq!(events.seen.len(), count, "nothing is published again");
    finish(connector);
    let page: usize =
        rig.erp.page(Kind::Returns, 0, PAGE).iter().map(|record| record.to_string().len()).sum();
    json!({
        "records": rows, "seconds": round(seconds), "per_second": ((rows - rows_before) / seconds).round(),
        "per_cpu_second": (rows / cpu).round(), "cpu_seconds_per_1000": per_1000(cpu, rows as usize),
        "received_and_dropped_per_cpu_second": (PAGE as f64 / ceiling::receive(page, 1_000)).round(),
    })
}

pub fn growth() -> Vec<Value> {
    let sizes = [2_000, 20_000, 200_000];
    let runs: Vec<Read> = sizes.iter().map(|count| read(*count, false)).collect();
    let exponents = |value: fn(&Read) -> f64| -> Vec<f64> {
        (1..sizes.len())
            .map(|at| {
                exponent((sizes[at - 1], value(&runs[at - 1])), (sizes[at], value(&runs[at])))
            })
            .collect()
    };
    let exponents = json!({
        "sizes": sizes, "exponent_seconds": exponents(|run| run.seconds), "exponent_cpu": exponents(|run| run.cpu),
        "exponent_peak_rss": exponents(|run| run.peak_mb),
    });
    runs.into_iter().map(|run| run.line).chain([exponents]).collect()
}
