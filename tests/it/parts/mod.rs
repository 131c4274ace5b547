//! The real parts the tests run on: Apache Kafka and a schema registry, fetched once through Maven,
//! started and ended by the run itself.

pub mod acls;
mod cache;
pub mod certificates;
pub mod cgroup;
mod connect;
pub mod guard;
mod java;
mod kafka;
mod ports;
mod registry;

pub use connect::Worker;
pub use kafka::{ABORT_SCAN, LockedBroker, PrivateBroker, TwoBrokers, broker};
/// The password of every user of a locked broker.
pub fn kafka_password() -> &'static str {
    kafka::PASSWORD
}

pub use ports::free_port;
pub use registry::registry;

/// Runs `start` once for all tests. Its panic fails the test that came first with the reason; the
/// others don't repeat a fetch or a start that took its time to fail.
fn once<T>(
    cell: &'static std::sync::OnceLock<Option<T>>,
    what: &str,
    start: impl FnOnce() -> T,
) -> &'static T {
    let mut reason = None;
    let started = cell.get_or_init(|| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(start))
            .map_err(|panic| reason = Some(panic))
            .ok()
    });
    match (started, reason) {
        (Some(started), _) => started,
        (None, Some(panic)) => std::panic::resume_unwind(panic),
        (None, None) => panic!("{what} could not be started: the first test that failed says why"),
    }
}

/// Writes one line to stderr past libtest's capture, so that a person sees why a run takes long or
/// leaves something out.
pub fn say(line: &str) {
    use std::io::Write as _;
    let mut stderr = std::io::stderr().lock();
    // A closed stderr is no reason to fail a test.
    let _ = writeln!(stderr, "{line}");
}
