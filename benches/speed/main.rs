//! How fast, and beside it what the parts could do at best, in the same run on the same broker and
//! simulator.
//!
//! `cargo bench --bench speed` (release profile) runs everything and takes about a quarter of an
//! hour on two cores; `-- <part of a case's name>` runs some of it. One JSON line per case on
//! stdout, progress on stderr. The simulator runs as a process of its own, so that only the
//! connector's CPU and memory are counted. Linux only (`/proc`).
//!
//! Measured is the program as `cargo build --release` links it, which is done first; with
//! `--as-is`, whatever program stands in its place.

#![allow(unreachable_pub, reason = "the kit's modules are written as a library's")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::large_futures,
    clippy::cast_precision_loss,
    reason = "a measurement that cannot go on ends where it stands"
)]

#[path = "../../tests/it/kit/mod.rs"]
#[allow(dead_code, reason = "shared with the tests, which use another share of it")]
mod kit;
#[path = "../../tests/it/parts/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the tests, which use another share of it")]
mod parts;

mod calls;
mod ceiling;
mod changes;
mod commands;
mod figures;
mod idle;
mod latency;
mod loader;
mod micro;
mod restore;
mod start;

use std::{ffi::OsString, path::Path, process::Command, time::Duration};

use serde_json::Value;

/// Longer than any target: a slow run is a figure, not a failure.
const PATIENCE: Duration = Duration::from_secs(600);

type Case = (&'static str, fn() -> Vec<Value>);

const CASES: [Case; 13] = [
    ("micro", micro::steps),
    ("start", start::start),
    ("idle", idle::idle),
    ("after_a_kill", calls::after_a_kill),
    ("calls_per_command", calls::per_command),
    ("commands_latency_0", commands::without_latency),
    ("commands_latency_50ms", commands::with_latency),
    ("commands_growth", commands::growth),
    ("added_latency", latency::added),
    ("first_read", changes::first_read),
    ("unchanged", changes::unchanged),
    ("records_growth", changes::growth),
    ("restore", restore::growth),
];

/// `cargo bench` has linked the program with what the tests add to its dependencies: with tokio's
/// clock for tests, a first read takes 7 % more CPU.
fn link_as_shipped() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut build = Command::new(cargo);
    // What cargo tells a benchmark of its package: build scripts that read it would run again.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|of_the_package| name.to_string_lossy().starts_with(of_the_package))
        {
            build.env_remove(name);
        }
    }
    build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))).args([
        "build",
        "--release",
        "--locked",
        "--bin",
        "wdt-connector",
    ]);
    assert!(build.status().expect("cargo runs").success(), "the program is built");
}

fn main() {
    // cargo bench passes `--bench`; what is left is a filter.
    let (options, wanted): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with("--"));
    if !options.iter().any(|option| option == "--as-is") {
        link_as_shipped();
    }
    parts::broker();
    for (name, run) in CASES {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())) {
            parts::say(&format!("running {name}"));
            for mut line in run() {
                line["case"] = name.into();
                println!("{line}");
            }
        }
    }
}
