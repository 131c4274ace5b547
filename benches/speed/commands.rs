//! Commands end to end: consumed, journaled, called, settled, on the full exactly-once path.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    PATIENCE, ceiling,
    figures::{Configuration, exponent, finish, median, peak_mb, per_1000, round},
    kit::{commands::command, records::Reader},
    loader,
};

const COMMANDS: usize = 20_000;
/// Calls in flight where nothing else is said: the default of `max_in_flight`.
const IN_FLIGHT: usize = 64;
/// Runs of the default configuration and of the tuned one, one after the other.
const ROUNDS: usize = 3;
/// Calls of the bare loader: long enough for a steady figure.
const LOADED: usize = 60_000;

/// One run of the connector over commands that wait in the topic.
struct Run {
    seconds: f64,
    cpu: f64,
    peak_mb: f64,
    line: Value,
}

/// `beside`: the bare loops are measured on the same simulator and the same topic right after.
fn run(
    configuration: Configuration,
    count: usize,
    in_flight: usize,
    latency: Duration,
    format: &str,
    beside: bool,
) -> Run {
    let mut rig = configuration.rig("speed-commands").commands(format);
    rig.config.set("commands", "max_in_flight", in_flight);
    let all: Vec<_> = (0..count)
        .map(|number| command(&format!("CT{number:06}"), &format!("cmd-{number}")))
        .collect();
    rig.erp.take_anything();
    if format == "json" {
        rig.send_json(&all);
    } else {
        rig.send(&all);
    }
    if !latency.is_zero() {
        rig.erp.latency(latency);
    }
    let mut results = Reader::new(&rig.topics.results);
    let mut connector = rig.spawn();
    connector.wait_ready();
    let (began, cpu_before) = (Instant::now(), connector.cpu_seconds());
    results.at_least(count, PATIENCE);
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), connector.cpu_seconds() - cpu_before);
    let peak_mb = peak_mb(&connector);
    assert_eq!(rig.erp.order_count(), count as u64, "one order each");
    finish(connector);
    let per_second = count as f64 / seconds;
    let mut line = json!({
        "configuration": configuration.name(), "commands": count, "max_in_flight": in_flight, "erp_latency_ms": latency.as_millis(), "format": format,
        "seconds": round(seconds), "per_second": per_second.round(), "cpu_seconds_per_1000": per_1000(cpu, count), "peak_rss_mb": peak_mb,
        "calls_per_result": round(rig.erp.creates().received as f64 / count as f64),
    });
    if beside {
        let loader = loader::calls_per_second(&rig.erp, LOADED, 32);
        let loop_per_second = ceiling::consume_and_produce(&rig.topics.commands, count);
        line["bare_loader_calls_per_second"] = loader.round().into();
        line["of_bare_loader"] = round(per_second / loader).into();
        line["bare_transaction_loop_per_second"] = loop_per_second.round().into();
        line["of_bare_transaction_loop"] = round(per_second / loop_per_second).into();
    }
    if !latency.is_zero() {
        line["of_in_flight_over_latency"] =
            round(per_second * latency.as_secs_f64() / in_flight as f64).into();
    }
    Run { seconds, cpu, peak_mb, line }
}

/// The default configuration and the tuned one in turns, and what the first reaches of the second.
fn side_by_side(count: usize, latency: Duration) -> Vec<Value> {
    let (mut lines, mut defaults, mut tuned) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (configuration, seconds) in
            [(Configuration::Default, &mut defaults), (Configuration::Tuned, &mut tuned)]
        {
            let run = run(configuration, count, IN_FLIGHT, latency, "avro", latency.is_zero());
            seconds.push(run.seconds);
            lines.push(run.line);
        }
    }
    let of_tuned = median(tuned) / median(defaults);
    lines.push(json!({
        "commands": count, "erp_latency_ms": latency.as_millis(), "default_of_tuned": round(of_tuned),
    }));
    lines
}

pub fn without_latency() -> Vec<Value> {
    use Configuration::{Default, Tuned};
    // The first to come meets a broker that has compiled nothing yet.
    let mut cold = run(Default, COMMANDS, IN_FLIGHT, Duration::ZERO, "avro", true).line;
    cold["first_on_this_broker"] = true.into();
    let mut lines = vec![cold];
    lines.extend(side_by_side(COMMANDS, Duration::ZERO));
    lines.push(run(Tuned, COMMANDS, IN_FLIGHT, Duration::ZERO, "json", false).line);
    for (in_flight, count) in [(1, 2_000), (8, 10_000), (512, COMMANDS), (1000, COMMANDS)] {
        lines.push(run(Tuned, count, in_flight, Duration::ZERO, "avro", false).line);
    }
    lines
}

pub fn with_latency() -> Vec<Value> {
    let latency = Duration::from_millis(50);
    let mut lines = side_by_side(10_000, latency);
    for (in_flight, count) in [(1, 200), (8, 1_600), (512, COMMANDS), (1000, COMMANDS)] {
        lines.push(run(Configuration::Tuned, count, in_flight, latency, "avro", false).line);
    }
    lines
}

pub fn growth() -> Vec<Value> {
    let sizes = [2_000, 20_000, 200_000];
    let runs: Vec<Run> = sizes
        .iter()
        .map(|count| run(Configuration::Tuned, *count, IN_FLIGHT, Duration::ZERO, "avro", false))
        .collect();
    let exponents = |value: fn(&Run) -> f64| -> Vec<f64> {
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
