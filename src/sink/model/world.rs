//! What a state of the model is: two processes, the log, the ERP, and what may still go wrong.
//!
//! Moments are kept relative to [`NOW`]: a tick moves them one millisecond into the past instead of
//! moving the clock, and what is so long past that no rule can tell the difference is forgotten.
//! States that differ only in when they happen are one state, so the graph is finite without a last
//! tick.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use crate::{
    clock::{Moment, Timestamp},
    kafka::{Lease, Prefix, Standing},
    schema::{JournalEntry, Outcome},
    sink::{
        engine::Waits,
        journal::{Ending, Life},
    },
};

/// Every process's clock, always.
pub(super) const NOW: Moment = Moment(1_000);

/// Names one command, whoever sent how many copies of it.
pub(super) type Command = u8;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub processes: [Process; 2],
    /// Each process's transaction that is begun and not over; a dead one's stays until the
    /// coordinator ends it.
    pub open: [Option<Txn>; 2],
    pub partitions: Vec<Partition>,
    /// The group's.
    pub generation: u8,
    pub results: BTreeMap<(usize, i64), Vec<Outcome>>,
    pub requests: Vec<Request>,
    pub orders: Vec<Order>,
    pub left: Left,
    /// Whether the queries with and without `status` show nothing any more: a permission filter.
    pub blind: [bool; 2],
    /// Calls without an answer, and crashes, where the scenario counts them.
    pub unanswered: u32,
    /// The dedup window has passed.
    pub aged: bool,
    /// Group offsets were lost once.
    pub reset: bool,
}

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Left {
    pub crashes: u8,
    pub moves: u8,
    pub drains: u8,
    /// Requests or answers lost.
    pub losses: u8,
    /// Lookups that fail.
    pub failures: u8,
    /// Remarks rewritten by hand.
    pub strips: u8,
    /// Permissions narrowed.
    pub filters: u8,
    /// Orders that come into a status outside the list.
    pub unlists: u8,
    /// Records deleted from the log, the first one first.
    pub deletions: u8,
}

/// What Kafka holds of one partition number: offsets of the commands, entries of the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Partition {
    pub owner: Option<usize>,
    pub journal: Journal,
    pub offset: i64,
    pub metadata: String,
    /// Records below are deleted.
    pub log_start: i64,
    /// As the journal says it: see [`Running::forgotten_to`].
    pub forgotten_to: Option<i64>,
}

pub(super) type Journal = BTreeMap<Command, Noted>;

/// An entry and, where the scenario compares instants of different processes, how long ago it was
/// written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Noted {
    pub entry: Arc<JournalEntry>,
    pub age: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub standing: Standing<u8>,
    pub phase: Phase,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    Down,
    #[default]
    Idle,
    TakingOver(TakingOver),
    Running(Running),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TakingOver {
    pub lease: Lease,
    /// The next part of the takeover.
    pub next: usize,
    pub committed: (i64, String),
    /// What stands before the barrier.
    pub before: Journal,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Running {
    pub lease: Lease,
    pub prefix: Prefix,
    pub known: Journal,
    pub restored_at: Moment,
    /// Offsets by return, in order; the front one is being worked on.
    pub lines: BTreeMap<u8, VecDeque<i64>>,
    pub slots: BTreeMap<i64, Slot>,
    /// Offsets of records that are gone, and whose intent is open.
    pub orphans: BTreeSet<i64>,
    pub ready: Vec<(i64, End)>,
    pub withdrawn: Vec<Command>,
    pub draining: bool,
    /// What a check showed that no absence had waited for.
    pub checked: Option<bool>,
    /// The offset behind everything that had been read when an outcome was forgotten.
    pub forgotten_to: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    pub command: Command,
    pub life: Life,
    pub send_by: Option<Moment>,
    pub waits: Waits,
    /// When the call left, or when the lookup is due.
    pub at: Moment,
    /// A copy of a command in doubt.
    pub copy: bool,
    /// What the ERP said has to go into the journal.
    pub note: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum End {
    Life { ending: Ending, copy: bool },
    Copy(Outcome),
    Plain(Outcome),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Txn {
    pub lease: Lease,
    /// The next part.
    pub next: usize,
    pub delivered: bool,
    pub accepted: bool,
    /// Its records stand before the successor's barrier.
    pub before_barrier: bool,
    pub entries: Vec<(Command, Option<Arc<JournalEntry>>)>,
    pub results: Vec<(i64, Outcome)>,
    pub position: Option<(i64, String)>,
    pub intents: Vec<(i64, u32, Moment)>,
    pub settled: Vec<(i64, End)>,
    pub withdrawn: Vec<Command>,
    pub notes: Vec<i64>,
}

/// A call of `createOrder` on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Request {
    /// Who waits for the answer; nobody after a timeout or a crash.
    pub by: Option<usize>,
    pub offset: i64,
    pub command: Command,
    /// Checked, not yet written: the process is frozen.
    pub frozen: bool,
    /// Since it was checked while frozen, since it was written after that.
    pub age: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Order {
    pub command: Command,
    pub age: u64,
    pub marked: bool,
    pub shown: Shown,
}

/// Which queries show an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Shown {
    Both,
    /// Only the one without `status`.
    Unlisted,
    /// Neither: it exists as a document of another kind.
    Never,
}

impl World {
    pub(super) fn running(&mut self, process: usize) -> Option<&mut Running> {
        match &mut self.processes[process].phase {
            Phase::Running(running) => Some(running),
            Phase::Down | Phase::Idle | Phase::TakingOver(_) => None,
        }
    }

    /// One millisecond passes. `floor`: what is longer ago makes no difference to any rule.
    pub(super) fn tick(&mut self, floor: u64, skewed: bool) {
        for process in &mut self.processes {
            if let Phase::Running(running) = &mut process.phase {
                running.tick(floor);
                if skewed {
                    age(&mut running.known, floor);
                }
            }
            if let Phase::TakingOver(taking) = &mut process.phase
                && skewed
            {
                age(&mut taking.before, floor);
            }
        }
        for txn in self.open.iter_mut().flatten() {
            for (_, _, send_by) in &mut txn.intents {
                pass(send_by, floor);
            }
        }
        for partition in &mut self.partitions {
            if skewed {
                age(&mut partition.journal, floor);
            }
        }
        for request in &mut self.requests {
            request.age += 1;
        }
    }
}

fn age(journal: &mut Journal, most: u64) {
    for noted in journal.values_mut() {
        noted.age = (noted.age + 1).min(most);
    }
}

fn pass(moment: &mut Moment, floor: u64) {
    *moment = Moment(moment.0.saturating_sub(1).max(NOW.0 - floor));
}

impl Running {
    fn tick(&mut self, floor: u64) {
        pass(&mut self.restored_at, floor);
        for slot in self.slots.values_mut() {
            if let Some(send_by) = &mut slot.send_by {
                pass(send_by, floor);
            }
            match slot.waits {
                Waits::Answer => pass(&mut slot.at, floor),
                Waits::Ask | Waits::Visibility => pass(&mut slot.at, 0),
                Waits::Admission
                | Waits::Permit
                | Waits::Intent
                | Waits::Wire
                | Waits::Sighting
                | Waits::Finding
                | Waits::Settlement => {}
            }
            if let Some(since) = &mut slot.life.unapproved_since {
                pass(since, floor);
            }
            if let Some(doubt) = &mut slot.life.doubt {
                pass(&mut doubt.bound, floor);
                for since in
                    [&mut doubt.failing_since, &mut doubt.blind_since].into_iter().flatten()
                {
                    pass(since, floor);
                }
            }
        }
    }
}

/// The wall clock: only entries' and records' ages are told by it.
pub(super) fn wall(aged: bool) -> Timestamp {
    Timestamp(if aged { i64::from(u32::MAX) } else { 0 })
}
