//! The storm of `tests/it/storm.rs` for as long as one likes, on a release build: one JSON line at
//! its end.
//!
//! `cargo bench --bench storm -- --minutes 15 --seed 7`. Exit code 1 when a command has two orders,
//! or none, or no result.

#![allow(unreachable_pub, reason = "the kit's modules are written as a library's")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::large_futures,
    reason = "a measurement that cannot go on ends where it stands"
)]

#[path = "../tests/it/kit/mod.rs"]
#[allow(dead_code, reason = "shared with the tests, which use another share of it")]
mod kit;
#[path = "../tests/it/parts/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the tests, which use another share of it")]
mod parts;
#[path = "../tests/it/storm.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the tests, which use another share of it")]
mod storm;

use std::{process::ExitCode, time::Duration};

use serde_json::json;

fn option(name: &str, default: u64) -> u64 {
    let arguments: Vec<String> = std::env::args().collect();
    let value =
        arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1));
    value.map_or(default, |value| {
        value.parse().unwrap_or_else(|_| panic!("{name} wants a number, not {value}"))
    })
}

/// Failpoints are compiled out: not even the name of their variable is left.
fn without_crash_points() -> bool {
    let program = std::fs::read(kit::connector::PROGRAM).expect("the program under test");
    let holds = |name: &[u8]| program.windows(name.len()).any(|part| part == name);
    !holds(b"FAILPOINTS")
}

fn main() -> ExitCode {
    let minutes = option("--minutes", 10);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a clock after 1970");
    let seed = option("--seed", now.as_secs());
    let clean = without_crash_points();
    let plan = storm::Plan { seed, at_least: Duration::from_secs(minutes * 60), unsound: false };
    let Some(report) = storm::storm(&plan) else { return ExitCode::FAILURE };
    let verdict = &report.verdict;
    let kills = report.counts.get("killed").copied().unwrap_or(0);
    println!(
        "{}",
        json!({
            "case": "storm", "seed": report.seed, "minutes": report.took.as_secs_f64() / 60.0, "commands": report.commands,
            "kills_survived": kills, "troubles": report.counts, "erp_faults_percent": 20, "orders": verdict.orders, "results": verdict.results,
            "duplicates": verdict.duplicates.len(), "losses": verdict.losses.len(), "repeated_results": verdict.repeated.len(),
            "not_created": verdict.wrong.len(), "recovered": verdict.recovered, "ended_by_themselves": report.ended_by_themselves.len(),
            "create_calls_per_command": report.creates as f64 / report.commands as f64, "settled_after_s": report.settled_after.as_secs_f64(),
            "release_without_crash_points": clean,
        })
    );
    for fault in [
        &verdict.duplicates,
        &verdict.losses,
        &verdict.repeated,
        &verdict.wrong,
        &report.ended_by_themselves,
    ]
    .into_iter()
    .flatten()
    {
        parts::say(fault);
    }
    let sound = verdict.duplicates.len()
        + verdict.losses.len()
        + verdict.repeated.len()
        + verdict.wrong.len()
        == 0;
    if sound && clean && verdict.orders == report.commands && report.ended_by_themselves.is_empty()
    {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
