//! The loop over partitions: one task owns every state, everything slow happens elsewhere and comes
//! back as [`Happened`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use crate::{
    background,
    board::Pulse,
    clock::{Moment, Timestamp},
    config::Edition,
    erp::{Answer, Call, Erp, Permit, Place, Work},
    kafka::{
        Asked, CommitFault, Delivered, Group, GroupEvent, GroupFault, GroupState, Lease, Restored,
        Store, TakeOverFault, Threads, Transactor,
    },
    schema::{JournalEntry, LearnFault, Outcome},
    telemetry::Trace,
};

use super::{
    Parts, ROLE,
    breaker::Breaker,
    bundle::Sightings,
    commit::Commit,
    journal::{Ending, Finding, Life, Timing, may_be_forgotten, untimed_is_new},
    letter::{Spared, credibly_sent, replays},
    partition::{Partition, Remembered, Restoring},
    placement::{Misplacements, is_forwarded},
    retry::Pauses,
    settle::Names,
    sweep::Sweep,
    validate::Accepted,
    visibility::{Check, Checked, References},
};

/// Names a command while it is worked on.
pub(super) type SlotId = u64;

/// A command that is being worked on.
#[derive(Debug)]
pub(super) struct Slot {
    pub lease: Lease,
    pub record: Arc<Delivered>,
    pub accepted: Accepted,
    pub received: Moment,
    pub life: Life,
    /// The committed intent's send-by.
    pub send_by: Option<Moment>,
    pub permit: Option<Permit>,
    pub pauses: Option<Pauses>,
    /// The breaker's stretch in which the last unknown answer counted as an attempt.
    pub counted_in: Option<u64>,
    /// The same of an unlisted refusal ([`Breaker::refusals`]).
    pub refused_in: Option<u64>,
    /// Where its deciding absence stands in the order of events, and the account that was asked.
    pub absent: Option<(u64, u64)>,
    /// The recorded outcome a copy of a command in doubt repeats.
    pub recorded: Option<Box<JournalEntry>>,
    /// Together with `due` it says the one place where the slot stands; whoever finds its id
    /// elsewhere passes over it.
    pub waits: Waits,
    /// When its one timer goes off, if it has one ([`Engine::wake_at`]).
    pub due: Option<Moment>,
    pub trace: Trace,
}

/// What a slot waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Waits {
    /// In the line for a permit, or for a pause before that line.
    Admission,
    Permit,
    /// For the transaction that carries its intent.
    Intent,
    /// For room on the wire.
    Wire,
    Answer,
    /// For the one question about all open intents.
    Sighting,
    /// For the time of its lookup.
    Ask,
    Finding,
    /// For a check that lookups see our orders in its warehouse.
    Visibility,
    /// For the transaction that carries its outcome.
    Settlement,
}

/// A record whose end is known and has to be committed.
#[derive(Debug)]
pub(super) struct Ready {
    pub lease: Lease,
    pub record: Arc<Delivered>,
    pub stands: Stands,
    pub received: Moment,
    /// Set when the record stands at the front of its key's line.
    pub key: Option<String>,
    pub end: End,
    /// What its dead letter leaves out, and why.
    pub spared: (Spared, String),
}

/// Where a record stands whose end is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stands {
    /// Among the commands, at an offset that is to be committed.
    Command(i64),
    /// Nowhere any more: what is known of it is its open intent.
    Gone,
    /// In the control topic, until its tombstone takes it away.
    Decision,
}

impl Stands {
    /// The offset that is to be committed.
    pub(super) fn offset(self) -> Option<i64> {
        match self {
            Self::Command(offset) => Some(offset),
            Self::Gone | Self::Decision => None,
        }
    }
}

#[derive(Debug)]
pub(super) enum End {
    /// The end of a life: journal, result, dead letter if in doubt.
    Life { slot: SlotId, ending: Ending },
    /// A copy: the recorded outcome again.
    Copy { entry: Box<JournalEntry> },
    /// A person's decision: the entry that settles the command.
    Decided { entry: Box<JournalEntry> },
    /// A person's decision that cannot be carried out, or what poses as one, and why.
    Refused(String),
    /// A person's decision about an earlier version of the entry.
    Passed,
    /// `INVALID` or `EXPIRED`: a result without a journal entry.
    Plain { outcome: Outcome, return_no: String, command_id: String, violations: Vec<String> },
    /// Nobody can be answered.
    Poison(String),
    /// It stands in another partition than its key's: a copy goes there, and is answered there.
    /// `sent`: when it was first sent, as the copy says it.
    Forwarded { to: i32, return_no: String, command_id: String, sent: Option<Timestamp> },
}

/// What comes back from elsewhere.
#[derive(Debug)]
pub(super) enum Happened {
    /// `None`: what waited for the permit has panicked.
    Permitted(SlotId, Option<Permit>),
    /// `None`: what waited for the place has panicked.
    Placed(Option<Place>),
    Answered {
        slot: SlotId,
        answer: Answer,
        epoch: Option<u64>,
    },
    LookedUp {
        slot: SlotId,
        finding: Finding,
        /// [`Erp::account`] of the lookup.
        account: u64,
        was_probe: bool,
    },
    Probed(Result<(), String>),
    Checked {
        warehouse_no: String,
        checked: Checked,
    },
    Committed(Result<(), CommitFault>),
    Restored(Vec<Lease>, Result<Vec<(Restored, Remembered)>, TakeOverFault>),
    /// Whether everything that earlier owners wrote to the control topic is known.
    CaughtUp(Lease, Result<(), String>),
    Learnt {
        lease: Lease,
        id: u32,
        result: Result<(), LearnFault>,
    },
    Sighted {
        leases: Vec<Lease>,
        result: Result<Sightings, String>,
    },
    /// A partition's log is begun anew, and why: the same for the next session.
    BegunAnew(String),
}

/// Brings the engine what came of a task it waits for; of a task that ends without a word, as a
/// panic ends it, what was agreed on for that case: nothing waits for ever.
pub(super) struct Word {
    happened: mpsc::UnboundedSender<Happened>,
    otherwise: Option<Happened>,
}

impl Word {
    pub(super) fn new(happened: &mpsc::UnboundedSender<Happened>, otherwise: Happened) -> Self {
        Self { happened: happened.clone(), otherwise: Some(otherwise) }
    }

    /// Starts the task.
    pub(super) fn after(self, work: impl Future<Output = Happened> + Send + 'static) {
        background::task(async move { self.tell(work.await) });
    }

    fn tell(mut self, what: Happened) {
        self.otherwise = Some(what);
    }
}

impl Drop for Word {
    fn drop(&mut self) {
        if let Some(what) = self.otherwise.take() {
            // The engine may have ended meanwhile.
            let _ = self.happened.send(what);
        }
    }
}

/// What is said of a task that ended without a word.
pub(super) const ABNORMAL: &str =
    "the task ended abnormally, which is a defect of the connector; the log has its place";

/// A partition's way back to the group.
#[derive(Debug)]
struct Drain {
    leases: Vec<Lease>,
    deadline: Moment,
    /// Dropped or sent on when everything that can be finished is committed.
    done: Option<oneshot::Sender<()>>,
}

/// Why the loop ended.
#[derive(Debug)]
pub(super) enum Ended {
    Shutdown,
    /// What was committed is not known: begin again from the log.
    Restart(String),
    /// The membership stopped working. `standstill`: nothing was settled since it began, although a
    /// broker answered lately.
    Stopped {
        reason: String,
        standstill: bool,
    },
    Failed(String),
}

/// Longest the loop sleeps: status and pulse.
const TURN: Duration = Duration::from_millis(500);
/// How often the status is put on the board.
const REPORT: Duration = Duration::from_millis(500);
/// Until a takeover begins again without the leases that ended.
const AGAIN: Duration = Duration::from_millis(200);
/// Events taken in one turn before the loop looks after everything else.
const TAKE: usize = 200;

pub(super) struct Engine<'a> {
    pub parts: &'a Parts,
    pub names: Names,
    pub timing: Timing,
    pub partition_count: i32,
    pub group: Group,
    pub transactor: Transactor,
    pub store: Store,
    pub happened: mpsc::UnboundedSender<Happened>,
    pub partitions: BTreeMap<i32, Partition>,
    pub slots: HashMap<SlotId, Slot>,
    pub next_slot: SlotId,
    timers: BTreeSet<(Moment, SlotId)>,
    pub admission: VecDeque<SlotId>,
    pub permits_pending: usize,
    pub intents: VecDeque<SlotId>,
    pub wire: VecDeque<SlotId>,
    /// Calls on the wire.
    pub flying: usize,
    /// Calls that were answered since the running transaction began, and while one ran lately.
    pub freed: usize,
    pub freed_lately: usize,
    /// A place on the wire for the next call, and whether one is waited for.
    pub place: Option<Place>,
    pub place_wanted: bool,
    pub ready: VecDeque<Ready>,
    /// Commands of which the ERP said something that a restart must know.
    pub notes: Vec<SlotId>,
    /// Orders of ours that exist for certain.
    pub references: References,
    /// Checks that lookups see our orders, by warehouse.
    pub checks: HashMap<String, Check>,
    /// Absences and checks so far: their order.
    pub order: u64,
    /// Journal keys of intents that certainly had no effect and are taken back before their
    /// partition is given away.
    pub withdrawn: Vec<(Lease, Vec<u8>)>,
    /// Journal keys of outcomes older than the dedup window.
    pub expired: Vec<(Lease, Vec<u8>)>,
    pub sweep: Sweep,
    pub misplacements: Misplacements,
    /// Who paused the pipeline, in words.
    pub paused: Option<String>,
    pub committing: Option<Commit>,
    pub commit_after: Moment,
    pub commit_pauses: Pauses,
    /// Decisions that could not be committed are taken again then, and none before.
    pub decisions_at: Option<Moment>,
    /// Records that pose as decisions are not logged before.
    pub forged_after: Moment,
    /// Offsets behind transaction markers are not committed alone before.
    pub passes_at: Moment,
    pub breaker: Breaker,
    pub group_state: GroupState,
    pub probing: bool,
    held: bool,
    /// Whether the circuit was open when it was looked at last.
    open: bool,
    restoring: BTreeSet<Lease>,
    /// Partitions whose logs are being begun anew.
    pub beginning_anew: usize,
    joined: bool,
    drains: Vec<Drain>,
    /// The local cache failed: the session cannot go on.
    pub cache_failed: Option<String>,
    reported: Moment,
    was_ready: bool,
    /// Partitions the quota was last told of.
    claimed: Option<usize>,
    pub counts: Counts,
}

fn partition_numbers(leases: &[Lease]) -> Vec<i32> {
    leases.iter().map(|lease| lease.partition).collect()
}

/// Tells the quota which part of the commands is this instance's.
fn claim(erp: &Erp, share: f64) {
    for call in [Call::CreateOrder, Call::QueryOutbounds] {
        erp.quota().set_share(call, Work::Commands, share);
    }
}

/// For the status: since this process began.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub received: u64,
    pub results: BTreeMap<&'static str, u64>,
    pub duplicates: u64,
    pub recovered: u64,
    pub dead_letters: u64,
    /// Records written to their key's partition.
    pub forwarded: u64,
    pub transactions: u64,
    pub calls: u64,
    pub lookups: u64,
    pub restored_entries: u64,
    /// Questions about all open intents at once, and what they settled.
    pub bundles: u64,
    pub sighted: u64,
    /// Outcomes forgotten after the dedup window.
    pub forgotten: u64,
}

impl<'a> Engine<'a> {
    pub(super) fn new(
        parts: &'a Parts,
        timing: Timing,
        partition_count: i32,
        group: Group,
        transactor: Transactor,
        store: Store,
        happened: mpsc::UnboundedSender<Happened>,
    ) -> Self {
        Self {
            names: Names::from(&parts.settings.topics),
            group_state: GroupState::watch(
                &parts.settings.kafka,
                &parts.controls,
                &group,
                Asked {
                    role: ROLE,
                    partitions: (0..partition_count).collect(),
                    offsets: true,
                    written: vec![
                        parts.settings.topics.commands.clone(),
                        parts.settings.topics.results.clone(),
                        parts.settings.topics.commands_dlq.clone(),
                        parts.settings.topics.control.clone(),
                    ],
                    drain: parts.settings.commands.drain_timeout,
                },
            ),
            parts,
            timing,
            partition_count,
            group,
            transactor,
            store,
            happened,
            partitions: BTreeMap::new(),
            slots: HashMap::new(),
            next_slot: 0,
            timers: BTreeSet::new(),
            admission: VecDeque::new(),
            permits_pending: 0,
            intents: VecDeque::new(),
            wire: VecDeque::new(),
            flying: 0,
            freed: 0,
            freed_lately: 0,
            place: None,
            place_wanted: false,
            ready: VecDeque::new(),
            notes: Vec::new(),
            references: References::default(),
            checks: HashMap::new(),
            order: 0,
            withdrawn: Vec::new(),
            expired: Vec::new(),
            sweep: Sweep::default(),
            misplacements: Misplacements::default(),
            paused: None,
            committing: None,
            commit_after: Moment(0),
            commit_pauses: Pauses::from(Duration::from_millis(50)),
            decisions_at: None,
            forged_after: Moment(0),
            passes_at: Moment(0),
            breaker: Breaker::default(),
            probing: false,
            held: false,
            open: false,
            restoring: BTreeSet::new(),
            beginning_anew: 0,
            joined: false,
            drains: Vec::new(),
            cache_failed: None,
            reported: Moment(0),
            was_ready: false,
            claimed: None,
            counts: Counts::default(),
        }
    }

    /// Runs until the membership ends.
    pub(super) async fn run(
        mut self,
        mut events: mpsc::UnboundedReceiver<GroupEvent>,
        mut happened: mpsc::UnboundedReceiver<Happened>,
        pulse: &Pulse,
        silence: Duration,
    ) -> Ended {
        let (mut leaving, mut threads) = (false, Threads::new(silence));
        let mut controls = self.parts.controls.clone();
        self.heed();
        loop {
            let sleep = self.sleep();
            tokio::select! {
                () = self.parts.shutdown.cancelled(), if !leaving => {
                    leaving = true;
                    self.commit_at_once();
                    let group = self.group.clone();
                    background::task(async move { group.leave().await });
                }
                event = events.recv() => match event {
                    Some(event) => if let Err(ended) = self.group_event(event) { return ended },
                    None if leaving => return Ended::Shutdown,
                    None => return Ended::Restart("the consumer's thread ended".into()),
                },
                () = controls.changed() => self.heed(),
                Some(what) = happened.recv() => if let Err(ended) = self.happened(what) { return ended },
                () = tokio::time::sleep(sleep) => {}
            }
            for _ in 0..TAKE {
                let Ok(what) = happened.try_recv() else { break };
                if let Err(ended) = self.happened(what) {
                    return ended;
                }
            }
            pulse.beat();
            let restored = || self.being_restored();
            if let Some(fault) = threads.hanging(&self.group, &self.group_state, restored) {
                return self.stopped(&fault);
            }
            if let Err(fault) = self.turn() {
                return Ended::Failed(fault);
            }
            if !leaving && self.commands_are_missing() {
                return Ended::Restart(format!("{} does not exist", self.names.commands));
            }
        }
    }

    /// The consumer would wait without a word, and go on in a topic made again from the offset where
    /// it stood in the old one.
    fn commands_are_missing(&self) -> bool {
        let view = self.group_state.view();
        let commands = view.leaders.as_ref().and_then(|all| all.get(&*self.names.commands));
        commands.is_some_and(|commands| commands.count == 0)
    }

    fn sleep(&self) -> Duration {
        let now = Moment::now();
        let due = self.timers.first().map(|(at, _)| *at);
        let probe = self.breaker.probe_at().filter(|_| !self.probing);
        let commit = (self.commit_after > now).then_some(self.commit_after);
        [due, probe, commit]
            .into_iter()
            .flatten()
            .map(|at| now.until(at))
            .min()
            .unwrap_or(TURN)
            .min(TURN)
    }

    /// The slot waits for this until then; its earlier timer is void.
    pub(super) fn wake_at(&mut self, id: SlotId, waits: Waits, at: Moment) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.waits = waits;
        if let Some(before) = slot.due.replace(at) {
            self.timers.remove(&(before, id));
        }
        self.timers.insert((at, id));
    }

    /// The next slot whose timer has gone off.
    pub(super) fn next_due(&mut self, now: Moment) -> Option<SlotId> {
        while let Some((at, id)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, id));
            // Of a slot that is gone a timer may be left.
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.due = None;
                return Some(id);
            }
        }
        None
    }

    /// Everything that follows from what happened.
    fn turn(&mut self) -> Result<(), String> {
        let now = Moment::now();
        self.claim();
        if self.decisions_at.is_some_and(|at| at <= now) {
            self.take_decisions();
        }
        self.work_orphans(now);
        self.due(now);
        self.sweep(now);
        self.probe(now);
        self.check(now);
        self.admit(now);
        self.send(now);
        self.commit(now)?;
        self.finish_drains(now);
        self.hold();
        if self.reported.until(now) >= REPORT || self.readiness().is_ok() != self.was_ready {
            self.reported = now;
            self.was_ready = self.readiness().is_ok();
            self.look_for_removed();
            self.report();
        }
        Ok(())
    }

    /// The quota is shared by partitions: this instance's part of the commands' calls, lookups
    /// included.
    fn claim(&mut self) {
        let owned = self.restoring.len()
            + self.partitions.values().filter(|partition| !partition.draining).count();
        if self.claimed != Some(owned) {
            self.claimed = Some(owned);
            claim(&self.parts.erp, owned as f64 / f64::from(self.partition_count.max(1)));
        }
    }

    /// A pause that grew with earlier failures says nothing about the next transaction, and a drain
    /// can be shorter than it.
    fn commit_at_once(&mut self) {
        self.commit_pauses.reset();
        self.commit_after = Moment(0);
    }

    fn group_event(&mut self, event: GroupEvent) -> Result<(), Ended> {
        if !matches!(event, GroupEvent::Records(_)) {
            self.commit_at_once();
        }
        match event {
            GroupEvent::Assigned(leases) => {
                tracing::debug!(
                    kafka.partitions = ?partition_numbers(&leases),
                    "partitions assigned"
                );
                if leases.iter().any(|lease| lease.partition >= self.partition_count) {
                    return Err(Ended::Restart(
                        "the commands topic has got more partitions".into(),
                    ));
                }
                self.joined = true;
                self.restore(leases, Duration::ZERO);
            }
            GroupEvent::Revoking { leases, done } => {
                tracing::info!(
                    kafka.partitions = ?partition_numbers(&leases),
                    "partitions being revoked; draining"
                );
                let deadline = Moment::now().plus(self.parts.settings.commands.drain_timeout);
                for lease in &leases {
                    if let Some(partition) = self.partitions.get_mut(&lease.partition) {
                        partition.draining = true;
                    }
                    self.withdraw_all(*lease);
                }
                // Decisions still stand in their topic: the next owner carries them out, and no
                // drain waits for a topic that may not be written.
                self.ready
                    .retain(|of| of.stands != Stands::Decision || !leases.contains(&of.lease));
                self.drains.push(Drain { leases, deadline, done: Some(done) });
            }
            GroupEvent::Lost(leases) => {
                self.joined = false;
                tracing::warn!(
                    kafka.partitions = ?partition_numbers(&leases),
                    "partitions lost; open intents left to next owner"
                );
                for lease in leases {
                    self.drop_partition(lease);
                }
            }
            GroupEvent::Records(records) => {
                for record in records {
                    self.delivered(record);
                }
            }
            GroupEvent::Passed(passed) => {
                for (lease, offset) in passed {
                    if let Some(partition) = self
                        .partitions
                        .get_mut(&lease.partition)
                        .filter(|partition| partition.lease == lease)
                    {
                        partition.prefix.pass(offset);
                        partition.log.passed(offset);
                    }
                }
            }
            GroupEvent::Stopped(fault) => return Err(self.stopped(&fault)),
            GroupEvent::Failed(fault) => return Err(Ended::Failed(fault.to_string())),
        }
        Ok(())
    }

    /// What the journal is restored for now, in words.
    fn being_restored(&self) -> String {
        let partitions: Vec<i32> = self.restoring.iter().map(|lease| lease.partition).collect();
        format!("partitions {partitions:?} of {}", self.names.journal)
    }

    fn stopped(&self, fault: &GroupFault) -> Ended {
        let answered = self.group_state.view().answered_lately();
        let standstill = answered && self.counts.results.is_empty();
        Ended::Stopped { reason: fault.to_string(), standstill }
    }

    fn happened(&mut self, what: Happened) -> Result<(), Ended> {
        match what {
            Happened::Permitted(slot, permit) => self.permitted(slot, permit),
            Happened::Placed(place) => self.placed(place),
            Happened::Answered { slot, answer, epoch } => self.answered(slot, answer, epoch),
            Happened::LookedUp { slot, finding, account, was_probe } => {
                self.looked_up(slot, finding, account, was_probe)
            }
            Happened::Probed(result) => self.probed(result),
            Happened::Checked { warehouse_no, checked } => self.checked(&warehouse_no, checked),
            Happened::Committed(result) => return self.committed(result),
            Happened::Restored(leases, result) => return self.restored(&leases, result),
            Happened::CaughtUp(lease, result) => self.caught_up(lease, result),
            Happened::Learnt { lease, id, result } => self.learnt(lease, id, result),
            Happened::Sighted { leases, result } => self.sighted(&leases, result),
            Happened::BegunAnew(reason) => {
                self.beginning_anew -= 1;
                // What loses one log loses several: a restart in between would lose the rest's word.
                if self.beginning_anew == 0 {
                    return Err(Ended::Restart(reason));
                }
            }
        }
        Ok(())
    }

    /// Takes new partitions over; nothing is delivered from them before.
    fn restore(&mut self, leases: Vec<Lease>, pause: Duration) {
        let leases: Vec<Lease> =
            leases.into_iter().filter(|lease| self.group.owns(*lease)).collect();
        if leases.is_empty() {
            return;
        }
        self.restoring.extend(leases.iter().copied());
        let restoring = Restoring {
            settings: Arc::clone(&self.parts.settings),
            codec: Arc::clone(&self.parts.codec),
            names: self.names.clone(),
            store: self.store.clone(),
            group: self.group.clone(),
            transactor: self.transactor.clone(),
            metrics: Arc::clone(&self.parts.metrics),
            partitions: self.partition_count,
        };
        let word = Word::new(
            &self.happened,
            Happened::Restored(leases.clone(), Err(TakeOverFault::Refused(ABNORMAL.to_owned()))),
        );
        let happened = self.happened.clone();
        word.after(async move {
            tokio::time::sleep(pause).await;
            let restored = |some: Vec<(Restored, Remembered)>| {
                let leases = some.iter().map(|(restored, _)| restored.lease).collect();
                // The engine may have ended meanwhile.
                let _ = happened.send(Happened::Restored(leases, Ok(some)));
            };
            let result = restoring.run(leases.clone(), restored).await;
            Happened::Restored(leases, result.map(|()| Vec::new()))
        });
    }

    fn restored(
        &mut self,
        leases: &[Lease],
        result: Result<Vec<(Restored, Remembered)>, TakeOverFault>,
    ) -> Result<(), Ended> {
        // Those that ended meanwhile are nobody's business any more.
        let leases: Vec<Lease> =
            leases.iter().copied().filter(|lease| self.restoring.remove(lease)).collect();
        match result {
            Ok(all) => {
                let now = Moment::now();
                for (restored, mut journal) in all {
                    let lease = restored.lease;
                    if !leases.contains(&lease) || !self.group.owns(lease) {
                        continue;
                    }
                    tracing::info!(
                        kafka.partition = lease.partition,
                        kafka.offset = restored.committed.as_ref().map(|(offset, _)| *offset),
                        entries = restored.entries,
                        open_intents = journal.open.len(),
                        "partition restored"
                    );
                    self.removed(lease.partition, restored.removed);
                    self.counts.restored_entries += restored.entries;
                    let lag = self.parts.settings.max_visibility_lag;
                    self.references.merge(std::mem::take(&mut journal.references), lag);
                    self.partitions
                        .insert(lease.partition, Partition::new(&restored, journal, now));
                    self.group.start(lease);
                }
                self.ask_for_all(&leases);
                self.take_decisions();
                Ok(())
            }
            Err(TakeOverFault::NotOwner(_)) => {
                self.restore(leases, AGAIN);
                Ok(())
            }
            Err(TakeOverFault::Fenced(reason) | TakeOverFault::Refused(reason)) => {
                Err(Ended::Failed(reason))
            }
            Err(fault @ TakeOverFault::Shorter { .. }) => {
                let reason = fault.to_string();
                self.log_reset(&reason);
                Err(Ended::Restart(reason))
            }
            Err(fault @ TakeOverFault::Emptied { .. }) => Err(Ended::Failed(format!(
                "{fault}: the journal was lost, so orders could be created twice; restore the topic, or declare it lost with `wdt-connector journal declare-lost --yes`"
            ))),
        }
    }

    /// Gives back every partition that has nothing left to finish, or no time.
    fn finish_drains(&mut self, now: Moment) {
        let mut drains = std::mem::take(&mut self.drains);
        for drain in &mut drains {
            let open = drain.leases.iter().any(|lease| self.unfinished(*lease));
            if !open || now >= drain.deadline {
                let partitions = partition_numbers(&drain.leases);
                if open {
                    let calls =
                        self.slots.values().filter(|slot| slot.waits == Waits::Answer).count();
                    tracing::warn!(
                        kafka.partitions = ?partitions,
                        calls_in_flight = calls,
                        settlements = self.ready.len(),
                        committing = self.committing.is_some(),
                        "drain timeout; open intents left to next owner"
                    );
                } else {
                    tracing::info!(
                        kafka.partitions = ?partitions,
                        "partitions drained and revoked"
                    );
                }
                for lease in std::mem::take(&mut drain.leases) {
                    self.drop_partition(lease);
                }
                if let Some(done) = drain.done.take() {
                    let _ = done.send(());
                }
                // Until the next assignment, be it an empty one.
                self.joined = false;
            }
        }
        drains.retain(|drain| drain.done.is_some());
        self.drains = drains;
    }

    /// Whether something of this partition is on the wire or on its way into a transaction.
    fn unfinished(&self, lease: Lease) -> bool {
        self.ready.iter().any(|ready| ready.lease == lease)
            || self.notes.iter().any(|id| self.slots.get(id).is_some_and(|of| of.lease == lease))
            || self.withdrawn.iter().any(|(of, _)| *of == lease)
            || self.committing.as_ref().is_some_and(|commit| commit.concerns(lease))
            || self.slots.values().any(|slot| {
                slot.lease == lease && matches!(slot.waits, Waits::Answer | Waits::Settlement)
            })
    }

    /// Forgets a partition; its open intents are left to the next owner.
    pub(super) fn drop_partition(&mut self, lease: Lease) {
        if self.partitions.get(&lease.partition).is_some_and(|partition| partition.lease == lease) {
            self.partitions.remove(&lease.partition);
            if let Err(fault) = self.store.clear(lease.partition) {
                tracing::warn!(
                    kafka.partition = lease.partition,
                    error = %fault,
                    "failed to clear journal cache"
                );
            }
        }
        self.restoring.remove(&lease);
        self.slots.retain(|_, slot| slot.lease != lease);
        self.ready.retain(|ready| ready.lease != lease);
        self.withdrawn.retain(|(of, _)| *of != lease);
        self.expired.retain(|(of, _)| *of != lease);
    }

    /// The circuit breaker pauses consumption; the member keeps polling.
    fn hold(&mut self) {
        let open = self.breaker.is_open();
        let hold = open || self.paused.is_some();
        for partition in self.partitions.values() {
            if hold {
                self.group.pause(partition.lease);
            } else if self.held {
                self.group.resume(partition.lease);
            }
        }
        self.held = hold;
        // Of other reasons is said where they are found.
        if open != self.open {
            self.open = open;
            if let super::breaker::Circuit::Open { reason, .. } = self.breaker.circuit() {
                tracing::warn!(
                    error = %reason,
                    "circuit breaker opened; consumption paused until the ERP answers again"
                );
            } else {
                tracing::info!("circuit breaker no longer open; consumption resumed");
            }
        }
    }

    /// Partitions that are being taken over.
    pub(super) fn restoring(&self) -> usize {
        self.restoring.len()
    }

    /// What an operator decided for all instances: while the pipeline is paused nothing new is
    /// called; lookups and decisions about commands go on.
    fn heed(&mut self) {
        self.take_decisions();
        let paused = self.parts.controls.pause_of(ROLE).map(|decision| {
            let said = |field: &str| {
                decision.get(field).and_then(|value| value.as_str()).unwrap_or("unknown").to_owned()
            };
            format!(
                "paused by {} at {}; `wdt-connector commands resume` ends that",
                said("by"),
                said("at")
            )
        });
        match (&self.paused, &paused) {
            (None, Some(reason)) => tracing::warn!(%reason, "command pipeline paused"),
            (Some(_), None) => tracing::info!("command pipeline resumed"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        self.paused = paused;
    }

    /// Whether every assigned partition is restored; owning none is fine.
    pub(super) fn readiness(&self) -> Result<(), String> {
        if !self.joined {
            return Err("the instance is not a member of its consumer group now".into());
        }
        if self.restoring.is_empty() {
            Ok(())
        } else {
            let restoring: Vec<i32> = self.restoring.iter().map(|lease| lease.partition).collect();
            Err(format!("partitions {restoring:?} are being restored"))
        }
    }

    /// Whether the record is older than what the journal is certain to remember.
    pub(super) fn is_old(&self, record: &Delivered) -> bool {
        let now = self.parts.erp.later_clock(Edition::Flagship);
        let window = self.parts.settings.commands.dedup_window;
        let partition = self.partitions.get(&record.lease.partition);
        // What is sent again has been read before, and so may have been what was forwarded.
        let new = replays(record).is_none()
            && !is_forwarded(record)
            && partition.is_some_and(|of| untimed_is_new(record.offset, of.forgotten_to));
        let lost_at = partition.and_then(|partition| partition.lost_at);
        may_be_forgotten(credibly_sent(record, now), now, window, lost_at, new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_heard_of() {
        let (happened, mut heard) = mpsc::unbounded_channel();
        let word = Word::new(&happened, Happened::Probed(Err(ABNORMAL.to_owned())));
        word.after(async {
            assert!(probed().is_err(), "on purpose");
            Happened::Probed(probed())
        });
        assert!(
            matches!(heard.recv().await, Some(Happened::Probed(Err(reason))) if reason == ABNORMAL)
        );
        Word::new(&happened, Happened::Probed(Err(ABNORMAL.to_owned())))
            .after(async { Happened::Probed(probed()) });
        assert!(matches!(heard.recv().await, Some(Happened::Probed(Ok(())))));
        assert!(heard.try_recv().is_err(), "once each");
    }

    fn probed() -> Result<(), String> {
        Ok(())
    }
}
