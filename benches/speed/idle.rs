//! What a process costs that has nothing to do: CPU and wake-ups a second, by thread.

use std::{
    collections::{BTreeMap, HashMap},
    fs, thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    figures::{finish, round},
    kit::{connector::Connector, erp::Erp, rig::Rig},
};

/// Restoring, joining and the first polls are over by then.
const SETTLED: Duration = Duration::from_secs(15);
/// One poll of either feed at the default interval, and twelve looks of the watchdog.
const WATCHED: Duration = Duration::from_secs(60);

/// What a thread has done since it began.
#[derive(Clone, Copy, Default)]
struct Done {
    cpu_ns: u64,
    wakes: u64,
}

/// Every thread's name and what it has done.
fn threads(pid: u32) -> HashMap<String, (String, Done)> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return HashMap::new() };
    tasks
        .filter_map(|task| {
            let task = task.ok()?.path();
            let read = |file: &str| fs::read_to_string(task.join(file)).ok();
            // Nanoseconds on a core; `stat` counts whole ticks of 10 ms.
            let cpu_ns = read("schedstat")?.split(' ').next()?.parse().ok()?;
            let wakes = read("status")?
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?
                .trim()
                .parse()
                .ok()?;
            let name = read("comm")?.trim().to_owned();
            Some((task.file_name()?.to_string_lossy().into_owned(), (name, Done { cpu_ns, wakes })))
        })
        .collect()
}

/// The configuration as it comes: of what the kit sets, names, addresses and the pipelines are left.
fn defaults(mut rig: Rig) -> Rig {
    for property in ["session.timeout.ms", "heartbeat.interval.ms"] {
        rig.config.remove_kafka_property(property);
    }
    for section in ["quota", "log"] {
        rig.config.remove(section, None);
    }
    for (section, keep) in [
        ("commands", &["enabled", "format"][..]),
        ("feeds.purchase_returns", &["enabled", "start_at"]),
        ("feeds.return_outbounds", &["enabled", "start_at", "edition"]),
        ("feeds.purchase_returns.late_pass", &[]),
        ("feeds.return_outbounds.late_pass", &[]),
        ("erp", &[]),
    ] {
        rig.config.keep(section, keep);
    }
    rig.config.remove("", Some("allow_unsafe_timing"));
    rig.config.remove("erp.flagship", Some("connect_timeout"));
    rig.config.remove("erp.enterprise", Some("connect_timeout"));
    rig
}

fn watch(connector: &Connector, what: &str) -> Value {
    thread::sleep(SETTLED);
    let (began, before) = (Instant::now(), threads(connector.pid()));
    thread::sleep(WATCHED);
    let (seconds, after) = (began.elapsed().as_secs_f64(), threads(connector.pid()));
    let mut by_name: BTreeMap<String, Done> = BTreeMap::new();
    for (id, (name, now)) in &after {
        let then = before.get(id).map_or(Done::default(), |(_, then)| *then);
        let sum = by_name.entry(name.clone()).or_default();
        sum.cpu_ns += now.cpu_ns - then.cpu_ns;
        sum.wakes += now.wakes - then.wakes;
    }
    let ms = |done: &Done| round(done.cpu_ns as f64 / 1e6 / seconds);
    let all = by_name.values().fold(Done::default(), |sum, done| Done {
        cpu_ns: sum.cpu_ns + done.cpu_ns,
        wakes: sum.wakes + done.wakes,
    });
    let by_thread: BTreeMap<&String, Value> = by_name
        .iter()
        .map(|(name, done)| (name, json!([ms(done), round(done.wakes as f64 / seconds)])))
        .collect();
    json!({
        "configuration": what, "cpu_ms_per_second": ms(&all), "wakes_per_second": round(all.wakes as f64 / seconds),
        "threads": after.len(), "rss_mb": round(connector.memory("VmRSS") as f64 / 1024.0),
        "cpu_ms_and_wakes_per_second_by_thread": by_thread,
    })
}

fn of(rig: Rig, what: &str) -> Value {
    rig.topics.create(4);
    let rig = defaults(rig);
    let connector = rig.start();
    let line = watch(&connector, what);
    finish(connector);
    line
}

pub fn idle() -> Vec<Value> {
    let rig = || Rig::around("speed-idle", Erp::start());
    vec![
        of(rig().commands("avro"), "defaults, commands"),
        of(rig().purchase_returns().return_outbounds("flagship"), "defaults, both feeds"),
        of(
            rig().commands("avro").purchase_returns().return_outbounds("flagship"),
            "defaults, commands and both feeds",
        ),
    ]
}
