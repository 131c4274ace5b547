//! The storm of `tests/it/storm.rs` for as long as one likes, on a release build: one JSON line at
//! the end of each.
//!
//! `cargo bench --bench storm -- --minutes 15 --seed 7`: half of the time over two instances, half
//! over three, or all of it with `--instances 2`. Exit code 1 when a command has two orders, or
//! none, or no result, or when a partition of commands or a feed stood still for too long.

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
#[path = "shared/option.rs"]
mod option;
#[path = "../tests/it/parts/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the tests, which use another share of it")]
mod parts;
#[path = "../tests/it/storm.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the tests, which use another share of it")]
mod storm;

use std::{process::ExitCode, time::Duration};

use option::option;
use serde_json::json;

/// Failpoints are compiled out: not even the name of their variable is left.
fn without_crash_points() -> bool {
    let program = std::fs::read(kit::connector::PROGRAM).expect("the program under test");
    let holds = |name: &[u8]| program.windows(name.len()).any(|part| part == name);
    !holds(b"FAILPOINTS")
}

/// One storm of this many instances; whether everything held.
fn storm(seed: u64, instances: usize, at_least: Duration, clean: bool) -> bool {
    // As many minutes of the one as of the other.
    let troubles = &[storm::STORM, storm::REBALANCES, storm::REBALANCES];
    let plan = storm::Plan { seed, instances, troubles, at_least, unsound: false };
    let Some(report) = storm::storm(&plan) else { return false };
    let verdict = &report.verdict;
    let total = |wanted: fn(&str) -> bool| {
        let among = report.counts.iter().filter(|(name, _)| wanted(name));
        among.map(|(_, count)| *count).sum::<u32>()
    };
    println!(
        "{}",
        json!({
            "case": "storm", "seed": report.seed, "instances": report.instances,
            "minutes": report.took.as_secs_f64() / 60.0,
            "commands": report.commands,
            "kills": total(|name| name.starts_with("killed")),
            "freezes": total(|name| name.starts_with("frozen")),
            "restarts_in_rebalances":
            total(|name| name.ends_with("in a rebalance") && !name.starts_with("frozen")),
            "freezes_in_rebalances":
            total(|name| name.ends_with("in a rebalance") && name.starts_with("frozen")),
            "troubles": report.counts, "erp_faults_percent": 20, "orders": verdict.orders,
            "results": verdict.results,
            "duplicates": verdict.duplicates.len(), "losses": verdict.losses.len(),
            "repeated_results": verdict.repeated.len(),
            "not_created": verdict.wrong.len(), "recovered": verdict.recovered,
            "ended_by_themselves": report.ended_by_themselves.len(),
            "stood_still": report.stood_still.len(), "allowed_s": report.bound.as_secs_f64(),
            "longest_without_owner_s": report.longest_unowned.as_secs_f64(),
            "longest_without_owner_after_a_trouble_s":
            report.longest_unowned_undisturbed.as_secs_f64(),
            "longest_until_moving_after_a_trouble_s": report.longest_until_moving.as_secs_f64(),
            "create_calls_per_command": report.creates as f64 / report.commands as f64,
            "settled_after_s": report.settled_after.as_secs_f64(),
            "release_without_crash_points": clean,
        })
    );
    let faults = [
        &report.stood_still,
        &verdict.duplicates,
        &verdict.losses,
        &verdict.repeated,
        &verdict.wrong,
        &report.ended_by_themselves,
    ];
    faults.into_iter().flatten().for_each(|fault| parts::say(fault));
    faults.iter().all(|faults| faults.is_empty()) && verdict.orders == report.commands
}

fn main() -> ExitCode {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a clock after 1970");
    let seed = option("--seed", now.as_secs());
    let clean = without_crash_points();
    let sizes = match option("--instances", 0) {
        0 => vec![2, 3],
        size => vec![usize::try_from(size).expect("a number of instances")],
    };
    let each = Duration::from_secs(option("--minutes", 10) * 60)
        / u32::try_from(sizes.len()).expect("few");
    // Each in any case: what one has shown says nothing of the other.
    let sound: Vec<bool> = sizes.into_iter().map(|size| storm(seed, size, each, clean)).collect();
    if clean && sound.into_iter().all(|one| one) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
