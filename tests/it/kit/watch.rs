//! Watches from outside whether every partition of commands and every feed has an owner, and how
//! long one had none.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{group::GroupProbe, http};
use crate::parts::{ABORT_SCAN, say};

/// Between two looks at every instance.
const LOOK: Duration = Duration::from_millis(100);
/// An instance that does not answer in this time is not known to own anything.
const ANSWER: Duration = Duration::from_secs(1);
/// Beyond the time-outs: a rebalance, a restore, and a loaded machine.
const MARGIN: Duration = Duration::from_secs(5);

/// Longest time something may stand still after the last disturbance: the session of a member that
/// is gone, or the transaction it left open, whichever ends later, and [`MARGIN`].
pub fn bound(session: Duration) -> Duration {
    session.max(transaction_timeout() + ABORT_SCAN) + MARGIN
}

/// `TRANSACTION_TIMEOUT_MS` of the connector's producers, which no option changes.
fn transaction_timeout() -> Duration {
    const SOURCE: &str = include_str!("../../../src/kafka/client.rs");
    let digits: String = SOURCE
        .split_once("TRANSACTION_TIMEOUT_MS: u64 = ")
        .expect("src/kafka/client.rs sets TRANSACTION_TIMEOUT_MS")
        .1
        .chars()
        .take_while(|one| *one != ';')
        .filter(char::is_ascii_digit)
        .collect();
    Duration::from_millis(digits.parse().expect("milliseconds"))
}

/// What has an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A partition of the commands topic.
    Commands(i32),
    /// A feed, and with it a partition of `feeds.state`.
    Feed(&'static str),
}

impl std::fmt::Display for Part {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Commands(partition) => write!(out, "partition {partition} of commands"),
            Self::Feed(feed) => write!(out, "the feed {feed}"),
        }
    }
}

/// What was seen of one part.
#[derive(Debug)]
struct Seen {
    owned_at: Instant,
    /// The present time without an owner has been found too long.
    told: bool,
}

#[derive(Debug)]
struct Scene {
    /// Where the instances listen that run and are not frozen, by ordinal.
    running: BTreeMap<usize, String>,
    parts: BTreeMap<Part, Seen>,
    disturbed_at: Instant,
    /// The broker is down or cannot be reached.
    cut_off: bool,
    /// Of every feed, the latest watermark seen.
    watermarks: BTreeMap<&'static str, String>,
    longest: Duration,
    longest_undisturbed: Duration,
    faults: Vec<String>,
}

impl Scene {
    /// What one look at every instance has shown.
    fn looked(
        &mut self,
        statuses: &BTreeMap<usize, Value>,
        bound: Duration,
        groups: &[GroupProbe],
    ) {
        let now = Instant::now();
        if self.cut_off {
            self.disturbed_at = now;
        }
        let mut late = Vec::new();
        for (part, seen) in &mut self.parts {
            self.longest = self.longest.max(now - seen.owned_at);
            let undisturbed = now - seen.owned_at.max(self.disturbed_at);
            self.longest_undisturbed = self.longest_undisturbed.max(undisturbed);
            if statuses.values().any(|status| owns(status, *part)) {
                (seen.owned_at, seen.told) = (now, false);
            } else if undisturbed > bound && !seen.told {
                seen.told = true;
                late.push(format!(
                    "{part} has no owner for {:?}, {undisturbed:?} after the last disturbance",
                    now - seen.owned_at
                ));
            }
        }
        for status in statuses.values() {
            for (feed, latest) in &mut self.watermarks {
                let is = status["sections"]["feeds"][*feed]["watermark"].as_str().unwrap_or("");
                if is > latest.as_str() {
                    is.clone_into(latest);
                }
            }
        }
        if late.is_empty() {
            return;
        }
        let groups: Vec<String> =
            groups.iter().map(|one| format!("{} is {:?}", one.group(), one.now())).collect();
        let owned = statuses.iter().map(|(ordinal, status)| {
            let of = |status: &Value| status["sections"]["commands"]["partitions"].to_string();
            format!("instance {ordinal} owns {}", of(status))
        });
        let owned: Vec<String> = owned.collect();
        late.iter().for_each(|fault| say(fault));
        say(&format!("{}; {}", groups.join(", "), owned.join(", ")));
        self.faults.extend(late);
    }
}

/// Whether an instance says it owns this: a partition that is restored and is not being given back,
/// a feed that is not elsewhere.
fn owns(status: &Value, part: Part) -> bool {
    let sections = &status["sections"];
    match part {
        Part::Commands(partition) => {
            sections["commands"]["partitions"].as_array().is_some_and(|all| {
                all.iter().any(|one| one["partition"] == partition && one["draining"] == false)
            })
        }
        Part::Feed(feed) => {
            sections["feeds"][feed]["state"].as_str().is_some_and(|state| state != "elsewhere")
        }
    }
}

/// The watching thread; it ends with this value.
#[derive(Debug)]
pub struct Watch {
    scene: Arc<Mutex<Scene>>,
    bound: Duration,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins to watch. Whatever has no owner for longer than `bound` after the last disturbance is
    /// a fault; it is told with what these groups are then.
    pub fn start(parts: &[Part], bound: Duration, groups: Vec<GroupProbe>) -> Self {
        let now = Instant::now();
        let seen = |part: &Part| (*part, Seen { owned_at: now, told: false });
        let feeds = parts.iter().filter_map(|part| match part {
            Part::Feed(feed) => Some((*feed, String::new())),
            Part::Commands(_) => None,
        });
        let scene = Arc::new(Mutex::new(Scene {
            running: BTreeMap::new(),
            parts: parts.iter().map(seen).collect(),
            disturbed_at: now,
            cut_off: false,
            watermarks: feeds.collect(),
            longest: Duration::ZERO,
            longest_undisturbed: Duration::ZERO,
            faults: Vec::new(),
        }));
        let over = Arc::new(AtomicBool::new(false));
        let (shared, ended) = (Arc::clone(&scene), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let running = lock(&shared).running.clone();
                let statuses: BTreeMap<usize, Value> = running
                    .iter()
                    .filter_map(|(ordinal, url)| {
                        let answer = http::get_within(url, ANSWER).ok()?;
                        Some((*ordinal, serde_json::from_str(&answer.body).ok()?))
                    })
                    .collect();
                lock(&shared).looked(&statuses, bound, &groups);
                std::thread::sleep(LOOK);
            }
        });
        Self { scene, bound, over, thread: Some(thread) }
    }

    /// An instance was started, or goes on after it was frozen; its `/status` is at `url`.
    pub fn running(&self, ordinal: usize, url: String) {
        let mut scene = self.disturbed();
        scene.running.insert(ordinal, url);
    }

    /// An instance is told to end, or ends, or is frozen.
    pub fn gone(&self, ordinal: usize) {
        let mut scene = self.disturbed();
        scene.running.remove(&ordinal);
    }

    /// The broker is down or cannot be reached from now on, or no longer.
    pub fn cut_off(&self, cut_off: bool) {
        self.disturbed().cut_off = cut_off;
    }

    /// Something happens that excuses a standstill for a while.
    pub fn disturb(&self) {
        drop(self.disturbed());
    }

    fn disturbed(&self) -> MutexGuard<'_, Scene> {
        let mut scene = lock(&self.scene);
        scene.disturbed_at = Instant::now();
        scene
    }

    /// When the last disturbance was.
    pub fn disturbed_at(&self) -> Instant {
        lock(&self.scene).disturbed_at
    }

    /// Until when everything has to move again.
    pub fn deadline(&self) -> Instant {
        self.disturbed_at() + self.bound
    }

    /// The latest watermark seen of every feed.
    pub fn watermarks(&self) -> BTreeMap<&'static str, String> {
        lock(&self.scene).watermarks.clone()
    }

    /// Notes what stood still although it had an owner.
    pub fn fault(&self, what: String) {
        say(&what);
        lock(&self.scene).faults.push(what);
    }

    /// What stood still for too long.
    pub fn faults(&self) -> Vec<String> {
        lock(&self.scene).faults.clone()
    }

    /// Longest time something had no owner: at all, and counted from the last disturbance.
    pub fn longest(&self) -> (Duration, Duration) {
        let scene = lock(&self.scene);
        (scene.longest, scene.longest_undisturbed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed; a second one here would hide the test's own.
            let _ = thread.join();
        }
    }
}

fn lock(scene: &Mutex<Scene>) -> MutexGuard<'_, Scene> {
    scene.lock().unwrap_or_else(PoisonError::into_inner)
}
