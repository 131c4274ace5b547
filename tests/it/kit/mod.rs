//! What every scenario needs around the connector: topics, records, the process itself, the ERP it
//! talks to.

pub mod clash;
pub mod collector;
pub mod commands;
pub mod config;
pub mod connector;
pub mod erp;
pub mod fleet;
pub mod follower;
pub mod group;
pub mod http;
pub mod journal;
pub mod kafka_proxy;
pub mod ledger;
pub mod promises;
pub mod proxy;
pub mod raw_member;
pub mod raw_producer;
pub mod records;
pub mod rewriter;
pub mod rig;
pub mod tls;
pub mod topics;
pub mod watch;

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// Asks `probe` until it answers, at most `limit`; panics with `what` when it never does.
///
/// Waiting on a condition of another process can only poll; the pause between two probes is no
/// synchronisation.
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain: {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Chance that a printed seed repeats.
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// A number below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    /// One of these.
    pub fn any<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.roll(all.len() as u64)).expect("an index")]
    }

    /// Less than this many milliseconds.
    pub fn up_to(&mut self, ms: u64) -> Duration {
        Duration::from_millis(self.roll(ms))
    }
}

/// A name nobody else uses, this run or another on the same broker:
/// `<what>-<pid>-<start>-<number>`.
pub fn unique(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a clock after 1970")
        .as_secs();
    format!("{what}-{}-{:x}-{}", std::process::id(), since, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The runtime for what is asynchronous in the tests: admin calls, the in-process simulator, the
/// codec's registry.
pub fn runtime() -> &'static tokio::runtime::Runtime {
    static SHARED: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    SHARED.get_or_init(|| {
        // A TLS provider has to be there before anything builds an HTTP client; a second
        // installation is refused, harmlessly.
        let _ = rustls::crypto::ring::default_provider().install_default();
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime")
    })
}

/// Runs asynchronous work to its end from a test's own thread.
pub fn wait<F: Future>(work: F) -> F::Output {
    runtime().block_on(work)
}
