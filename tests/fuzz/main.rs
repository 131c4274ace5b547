//! Bytes nobody meant, for everything that reads from outside: no panic, a typed outcome each,
//! allocation and time bounded.
//!
//! ```text
//! corpus (kept files) ─▶ mutate ─▶ target ─▶ one word of a closed set; every word must be seen
//! ```
//!
//! `cargo test --test fuzz` runs 100,000 inputs for each target; more with
//! `cargo test --release --test fuzz -- --inputs 15000000 [--target NAME] [--seed N]`.
//! A run is decided by its seed: an input that fails is printed and fails again.

#![allow(unreachable_pub, reason = "the kit's modules are written as a library's")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails where it stands"
)]

mod mutate;
mod targets;

use std::{
    collections::BTreeMap,
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    time::{Duration, Instant},
};

use peak_alloc::PeakAlloc;
use rustix::time::{ClockId, clock_gettime};

use mutate::{Corpus, Rng};
use targets::Target;

#[global_allocator]
static ALLOCATIONS: PeakAlloc = PeakAlloc;

/// What one input may allocate at most: this, and so much for each of its bytes.
const MOST_BYTES: usize = 512 * 1024;
const MOST_BYTES_PER_BYTE: usize = 64;
/// What one input may cost in CPU time, in a build without optimisation: this, and so much for each
/// kilobyte.
const MOST_TIME: Duration = Duration::from_millis(250);
const MOST_TIME_PER_KILOBYTE: Duration = Duration::from_millis(2);

struct Wanted {
    inputs: u64,
    seed: u64,
    target: Option<String>,
}

/// `None`: this run asks for other tests.
fn arguments() -> Option<Wanted> {
    let mut wanted = Wanted { inputs: 100_000, seed: 1, target: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || {
            arguments.next().and_then(|text| text.replace('_', "").parse().ok()).expect("a number")
        };
        match argument.as_str() {
            "--inputs" => wanted.inputs = number(),
            "--seed" => wanted.seed = number(),
            "--target" => wanted.target = arguments.next(),
            "--list" => return None,
            // `cargo test NAME` runs every test binary with the name.
            name if !name.starts_with('-') && !"fuzz".contains(name) => return None,
            _ => {}
        }
    }
    Some(wanted)
}

fn main() -> ExitCode {
    let Some(wanted) = arguments() else { return ExitCode::SUCCESS };
    let _ = rustls::crypto::ring::default_provider().install_default();
    // One line each from here: a caught panic is reported with its input.
    panic::set_hook(Box::new(|_| {}));
    let mut passed = 0;
    let mut failed = 0;
    for target in targets::all() {
        if wanted.target.as_ref().is_some_and(|name| name != target.name) {
            continue;
        }
        match run(&target, &wanted) {
            Ok(()) => passed += 1,
            Err(reason) => {
                failed += 1;
                println!("test fuzz::{} ... FAILED\n  {reason}", target.name);
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The largest of a run.
#[derive(Default)]
struct Most {
    bytes: usize,
    time: Duration,
}

fn run(target: &Target, wanted: &Wanted) -> Result<(), String> {
    let corpus = Corpus::read(target.corpus);
    let mut rng = Rng::new(wanted.seed);
    let mut trial = (target.trial)();
    let mut words: BTreeMap<&'static str, u64> = BTreeMap::new();
    let (mut from_valid, mut most) = (0_u64, Most::default());
    let begun = Instant::now();
    let inputs = wanted.inputs;
    for number in 0..inputs {
        if number % target.lifetime == 0 {
            trial = (target.trial)();
        }
        let input = corpus.next(number, &mut rng);
        from_valid += u64::from(input.from_valid);
        let (outcome, cost) = measured(|| trial(&input.bytes));
        let word = match outcome {
            Ok(Ok(word)) => word,
            Ok(Err(reason)) => return Err(failure(&input.bytes, number, &reason)),
            Err(panic) => return Err(failure(&input.bytes, number, &said(&*panic))),
        };
        // What a first use sets up for all is no cost of an input.
        if number > 0 {
            within_bounds(&input.bytes, &cost)
                .map_err(|reason| failure(&input.bytes, number, &reason))?;
            most = Most { bytes: most.bytes.max(cost.bytes), time: most.time.max(cost.time) };
        }
        *words.entry(word).or_default() += 1;
    }
    let took = begun.elapsed();
    let unseen: Vec<&str> =
        target.words.iter().copied().filter(|word| !words.contains_key(word)).collect();
    let unexpected: Vec<&str> =
        words.keys().copied().filter(|word| !target.words.contains(word)).collect();
    println!(
        "test fuzz::{} ... {} inputs in {:.1} s ({:.0} a second), {:.0} % from valid ones, at most {} KB allocated, {:.1} ms: {}",
        target.name,
        inputs,
        took.as_secs_f64(),
        inputs as f64 / took.as_secs_f64(),
        100.0 * from_valid as f64 / inputs as f64,
        most.bytes / 1024,
        most.time.as_secs_f64() * 1000.0,
        words.iter().map(|(word, count)| format!("{word} {count}")).collect::<Vec<_>>().join(", ")
    );
    if !unseen.is_empty() || !unexpected.is_empty() {
        return Err(format!(
            "never came to {unseen:?}; came to {unexpected:?} besides what is documented"
        ));
    }
    if from_valid * 2 < inputs {
        return Err("fewer than half of the inputs were made from valid ones".to_owned());
    }
    Ok(())
}

fn measured<T>(work: impl FnOnce() -> T) -> (std::thread::Result<T>, Most) {
    ALLOCATIONS.reset_peak_usage();
    let (bytes, begun) = (ALLOCATIONS.current_usage(), cpu());
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    let cost = Most {
        bytes: ALLOCATIONS.peak_usage().saturating_sub(bytes),
        time: cpu().saturating_sub(begun),
    };
    (outcome, cost)
}

/// CPU time of this thread: the machine's other work is not an input's cost.
fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

fn within_bounds(input: &[u8], cost: &Most) -> Result<(), String> {
    let bytes = MOST_BYTES + MOST_BYTES_PER_BYTE * input.len();
    if cost.bytes > bytes {
        return Err(format!("allocated {} bytes; {bytes} are allowed", cost.bytes));
    }
    let time =
        MOST_TIME + MOST_TIME_PER_KILOBYTE * u32::try_from(input.len() / 1024).unwrap_or(u32::MAX);
    if cost.time > time {
        return Err(format!("took {:?} of CPU time; {time:?} are allowed", cost.time));
    }
    Ok(())
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or("without a text"))
}

fn failure(input: &[u8], number: u64, reason: &str) -> String {
    let shown: String = input
        .iter()
        .take(2000)
        .flat_map(|byte| std::ascii::escape_default(*byte))
        .map(char::from)
        .collect();
    format!("input {number} of {} bytes: {reason}\n  b\"{shown}\"", input.len())
}
