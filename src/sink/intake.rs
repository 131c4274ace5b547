//! From a delivered record to a command in its key's line, and from the front of the line to what
//! the journal makes of it.

use std::{sync::Arc, time::Duration};

use crate::{
    clock::{Moment, Timestamp},
    config::Edition,
    crash::{self, Point},
    kafka::{Delivered, Lease},
    metrics::Hop,
    schema::{EntryKind, LearnFault, Outcome},
    telemetry::Trace,
    text::shortened,
};

use super::{
    command::{Parsed, parse},
    decision::{self, Decision, Judgement},
    engine::{ABNORMAL, End, Engine, Happened, Ready, Slot, Stands, Waits, Word},
    journal::{Known, Verdict, judge, orphaned},
    letter::{Spared, credibly_sent, first_sent, replays},
    partition::{Queued, Work, its_turn},
    patience::Wait,
    settle::journal_key,
    validate::{Misplaced, check_placement, validate},
};

/// Characters of a name that are repeated in an answer; no valid one is longer.
const MOST_NAME: usize = 255;
/// Violations that are named, the first ones, and characters of each: it may quote a name of any
/// length.
const MOST_VIOLATIONS: usize = 100;
const MOST_VIOLATION: usize = 255;
/// Between two log lines about records that pose as decisions: whoever sends one can send many.
const FORGED_PAUSE: Duration = Duration::from_secs(60);
/// Until the registry is asked again for a schema, or the control topic for its end.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Characters of what the page says of a step.
const MOST_DETAIL: usize = 1000;

/// The violations as they are answered.
pub(super) fn told(violations: Vec<String>) -> Vec<String> {
    let more = violations.len().saturating_sub(MOST_VIOLATIONS);
    let named = violations
        .iter()
        .take(MOST_VIOLATIONS)
        .map(|violation| shortened(violation, MOST_VIOLATION));
    named.chain((more > 0).then(|| format!("and {more} more"))).collect()
}

impl Engine<'_> {
    /// One record, as it comes from the group.
    pub(super) fn delivered(&mut self, record: Delivered) {
        let lease = record.lease;
        let Some(partition) =
            self.partitions.get_mut(&lease.partition).filter(|partition| partition.lease == lease)
        else {
            return;
        };
        let read_to = partition.log.read_to();
        if !partition.log.delivered(record.offset, Moment::now()) {
            return self.begin_anew(lease, record.offset, read_to);
        }
        self.take(record);
    }

    fn take(&mut self, record: Delivered) {
        let lease = record.lease;
        let Some(partition) = self.partitions.get_mut(&lease.partition) else { return };
        if !partition.unlearnt.is_empty() {
            partition.unlearnt.push_back(record);
            return;
        }
        if !partition.prefix.deliver(record.offset) {
            // An earlier owner settled it: reading it again is no copy.
            self.group.release(lease, 1);
            return;
        }
        partition.read_at = first_sent(&record);
        crash::point(Point::CommandDelivered);
        self.counts.received += 1;
        self.parts.metrics.command_received();
        self.read(record);
    }

    fn read(&mut self, record: Delivered) {
        let received = Moment::now();
        let lease = record.lease;
        let settings = &self.parts.settings.commands;
        if record.unreadable_headers > 0 {
            // A header may be what makes a record a resolution, or ages it: without one of them
            // nobody knows what the record is.
            let reason = format!(
                "{} of the record's headers have names that are not UTF-8; they are not in this dead letter",
                record.unreadable_headers
            );
            self.parts.metrics.hop(Hop::Command, "undecodable");
            return self.poison(record, received, reason);
        }
        if record.headers.iter().any(|(name, _)| name == decision::HEADER) {
            if self.forged_after <= received {
                self.forged_after = received.plus(FORGED_PAUSE);
                tracing::warn!(
                    kafka.topic = &*self.names.commands,
                    kafka.partition = lease.partition,
                    kafka.offset = record.offset,
                    "decision among the commands refused"
                );
            }
            let reason = format!(
                "nothing is decided by a record of the commands topic (header {}): decisions are records of {}, which `wdt-connector commands resolve` writes",
                decision::HEADER,
                self.names.control
            );
            return self.end(lease, Arc::new(record), received, None, End::Refused(reason));
        }
        let parsed = parse(&record, settings.format, &self.parts.codec);
        self.parts.metrics.hop(Hop::Command, parsed.word());
        match parsed {
            Parsed::Poison(reason) => self.poison(record, received, reason),
            Parsed::Unlearnt(id) => {
                if let Some(partition) = self.partitions.get_mut(&lease.partition) {
                    partition.unlearnt.push_front(record);
                }
                self.learn(lease, id, Duration::ZERO);
            }
            Parsed::Invalid { return_no, command_id, violations } => {
                let pair = (return_no, command_id);
                self.invalid(Arc::new(record), received, None, pair, violations)
            }
            Parsed::Command(command) => {
                crash::point(Point::CommandRead);
                let placed = check_placement(
                    record.key.as_deref(),
                    &command.return_no,
                    lease.partition,
                    self.partition_count,
                    settings.partitioner,
                );
                let (return_no, command_id) =
                    (command.return_no.clone(), command.command_id.clone());
                let mut trace = Trace::begin((&return_no, &command_id), &record.headers);
                match (placed, validate(*command)) {
                    (Ok(()), Ok(accepted)) => {
                        self.passed((&return_no, &command_id), Hop::Validate, "accepted", None);
                        trace.enter(Hop::Journal);
                        if let Some(partition) = self.partitions.get_mut(&lease.partition) {
                            let key = journal_key(&return_no, &command_id);
                            partition.awaited.read(record.offset, &key);
                        }
                        let (record, work) = (Arc::new(record), Work::Command(accepted));
                        self.enqueue(lease, Queued { record, received, work, trace });
                    }
                    (Err(Misplaced::Partition { expected, .. }), Ok(_)) => {
                        let work = Work::Misplaced { return_no, command_id, to: expected };
                        let record = Arc::new(record);
                        self.enqueue(lease, Queued { record, received, work, trace });
                    }
                    (placed, validated) => {
                        let violations = (placed.err().map(|misplaced| misplaced.to_string()))
                            .into_iter()
                            .chain(validated.err().unwrap_or_default())
                            .collect();
                        self.invalid(
                            Arc::new(record),
                            received,
                            None,
                            (return_no, command_id),
                            violations,
                        );
                    }
                }
            }
        }
    }

    /// A good command that stands in another partition than its key's goes there: copies of it are
    /// judged by what that partition's journal knows. Nothing is known of it here: a partition
    /// whose journal holds entries of other keys than its own is not taken over.
    fn forward(
        &mut self,
        record: Arc<Delivered>,
        received: Moment,
        (return_no, command_id): (String, String),
        to: i32,
    ) {
        let (lease, key) = (record.lease, Some(return_no.clone()));
        let configured = self.parts.settings.commands.partitioner;
        if let Some(why) = self.misplacements.refusal(&record, configured, Moment::now()) {
            let partition = lease.partition;
            let misplaced =
                Misplaced::Partition { partition, return_no: return_no.clone(), expected: to };
            let violations = vec![misplaced.to_string(), why];
            return self.invalid(record, received, key, (return_no, command_id), violations);
        }
        self.misplacements.seen(
            &self.names.commands,
            &return_no,
            lease.partition,
            self.partition_count,
            configured,
        );
        let detail = Some(format!("to partition {to}"));
        self.passed((&return_no, &command_id), Hop::Validate, "forwarded", detail);
        // A record of unknown time that is new here is new there: the copy's own time is as good. One
        // that may have been read before stays one that is looked for before its first call.
        let now = self.parts.erp.later_clock(Edition::Flagship);
        let known = credibly_sent(&record, now).is_some() || self.is_old(&record);
        let sent = known.then(|| first_sent(&record).unwrap_or(Timestamp(0)));
        self.end(lease, record, received, key, End::Forwarded { to, return_no, command_id, sent });
    }

    fn invalid(
        &mut self,
        record: Arc<Delivered>,
        received: Moment,
        key: Option<String>,
        (return_no, command_id): (String, String),
        violations: Vec<String>,
    ) {
        // Whatever its size was, its answer has to fit into a record.
        let (return_no, command_id) =
            (shortened(&return_no, MOST_NAME), shortened(&command_id, MOST_NAME));
        let violations = told(violations);
        let why = violations.join("; ");
        self.passed(
            (&return_no, &command_id),
            Hop::Validate,
            "invalid",
            Some(shortened(&why, MOST_DETAIL)),
        );
        let end = End::Plain { outcome: Outcome::Invalid, return_no, command_id, violations };
        match key {
            None => self.unreadable(record, received, &why, end),
            Some(_) => self.end(record.lease, record, received, key, end),
        }
    }

    /// Nobody can be answered.
    fn poison(&mut self, record: Delivered, received: Moment, reason: String) {
        let (record, why) = (Arc::new(record), reason.clone());
        self.unreadable(record, received, &why, End::Poison(reason));
    }

    pub(super) fn end(
        &mut self,
        lease: Lease,
        record: Arc<Delivered>,
        received: Moment,
        key: Option<String>,
        end: End,
    ) {
        // A record that is gone stands for itself under another lease.
        let stands =
            if record.lease == lease { Stands::Command(record.offset) } else { Stands::Gone };
        self.ended(stands, lease, record, received, key, end);
    }

    /// As [`Engine::end`], of a decision.
    fn end_decision(
        &mut self,
        lease: Lease,
        record: Arc<Delivered>,
        received: Moment,
        key: Option<String>,
        end: End,
    ) {
        self.ended(Stands::Decision, lease, record, received, key, end);
    }

    fn ended(
        &mut self,
        stands: Stands,
        lease: Lease,
        record: Arc<Delivered>,
        received: Moment,
        key: Option<String>,
        end: End,
    ) {
        let spared = (Spared::Nothing, String::new());
        self.ready.push_back(Ready { lease, record, stands, received, key, end, spared });
    }

    /// Takes a decision out of its line again: it stands in its topic, and no command waits until
    /// that topic can be written.
    pub(super) fn put_back(&mut self, decision: &Ready, until: Moment) {
        self.decisions_at = self.decisions_at.max(Some(until));
        let Some(partition) = self.owned_mut(decision.lease) else { return };
        let key = decision.record.key.as_deref().unwrap_or_default();
        // A newer one of the same key may stand in the line already.
        if partition.taken.get(key) == Some(&decision.record.offset) {
            partition.taken.remove(key);
        }
        if let Some(key) = &decision.key {
            self.next_of(decision.lease, key);
        }
    }

    /// Puts the decisions of the control topic that are this instance's, and new to it, into the
    /// lines of their keys. Those of other partitions are other instances'.
    pub(super) fn take_decisions(&mut self) {
        let now = Moment::now();
        if self.decisions_at.is_some_and(|at| now < at) {
            return;
        }
        self.decisions_at = None;
        let standing = self.parts.controls.resolutions();
        for partition in self.partitions.values_mut() {
            partition.taken.retain(|key, _| standing.contains_key(key));
        }
        let mut asking = Vec::new();
        for (key, resolution) in &*standing {
            let number = decision::owner(key, self.partition_count);
            let Some(partition) =
                self.partitions.get_mut(&number).filter(|partition| !partition.draining)
            else {
                continue;
            };
            if partition.caught_up != Some(true) {
                // An earlier owner may have refused it, or carried it out, a moment ago.
                if partition.caught_up.replace(false).is_none() {
                    asking.push(partition.lease);
                }
                continue;
            }
            let before = partition.taken.insert(key.clone(), resolution.offset);
            if before == Some(resolution.offset) {
                continue;
            }
            let (lease, received) = (partition.lease, Moment::now());
            let record = decision::record(key, resolution);
            match Decision::read(&record, self.partition_count) {
                Ok(decision) => {
                    let mut trace = Trace::begin((&decision.return_no, &decision.command_id), &[]);
                    trace.enter(Hop::Journal);
                    let work = Work::Decision(decision);
                    self.enqueue(lease, Queued { record, received, work, trace });
                }
                Err(reason) => {
                    self.end_decision(lease, record, received, None, End::Refused(reason))
                }
            }
        }
        for lease in asking {
            self.catch_up(lease, Duration::ZERO);
        }
    }

    fn catch_up(&self, lease: Lease, pause: Duration) {
        let (controls, settings) = (self.parts.controls.clone(), Arc::clone(&self.parts.settings));
        let abnormal = Happened::CaughtUp(lease, Err(ABNORMAL.to_owned()));
        Word::new(&self.happened, abnormal).after(async move {
            tokio::time::sleep(pause).await;
            let result = controls.catch_up(&settings.kafka, &settings.topics.control).await;
            Happened::CaughtUp(lease, result)
        });
    }

    pub(super) fn caught_up(&mut self, lease: Lease, result: Result<(), String>) {
        let Some(partition) =
            self.partitions.get_mut(&lease.partition).filter(|partition| partition.lease == lease)
        else {
            return;
        };
        match result {
            Ok(()) => {
                partition.caught_up = Some(true);
                self.take_decisions();
            }
            Err(reason) => {
                tracing::warn!(
                    kafka.topic = &*self.names.control,
                    kafka.partition = lease.partition,
                    error = %reason,
                    "failed to read decisions to the end of their topic; they wait, retrying"
                );
                self.catch_up(lease, ASK_AGAIN);
            }
        }
    }

    fn learn(&self, lease: Lease, id: u32, pause: Duration) {
        let codec = Arc::clone(&self.parts.codec);
        let abnormal = Err(LearnFault::Unavailable(ABNORMAL.to_owned()));
        let word = Word::new(&self.happened, Happened::Learnt { lease, id, result: abnormal });
        word.after(async move {
            tokio::time::sleep(pause).await;
            let result = codec.learn(id).await;
            Happened::Learnt { lease, id, result }
        });
    }

    /// The schema of the record that holds its partition back is known now, or never will be, or it
    /// is asked for again: another partition may have learnt it meanwhile.
    pub(super) fn learnt(&mut self, lease: Lease, id: u32, result: Result<(), LearnFault>) {
        let Some(partition) =
            self.partitions.get_mut(&lease.partition).filter(|partition| partition.lease == lease)
        else {
            return;
        };
        let now = Moment::now();
        let refused = match result {
            Ok(()) => {
                partition.patience.learnt();
                None
            }
            Err(LearnFault::Unusable(reason)) => {
                partition.patience.unusable(id, now);
                Some(reason)
            }
            Err(LearnFault::Missing(reason)) => match partition.patience.missing(id, now) {
                Wait::Over => Some(reason),
                wait @ (Wait::Begins | Wait::GoesOn) => {
                    if wait == Wait::Begins {
                        tracing::warn!(
                            kafka.partition = lease.partition,
                            schema.id = id,
                            error = %reason,
                            "schema id unknown to the registry; commands wait up to 30 s for it"
                        );
                    }
                    return self.learn(lease, id, ASK_AGAIN);
                }
            },
            Err(LearnFault::Unavailable(reason)) => {
                partition.patience.unanswered(id, now);
                tracing::warn!(
                    kafka.partition = lease.partition,
                    schema.id = id,
                    error = %reason,
                    "schema registry unavailable; commands wait, retrying"
                );
                return self.learn(lease, id, ASK_AGAIN);
            }
        };
        let mut waiting = std::mem::take(&mut partition.unlearnt);
        let Some(first) = waiting.pop_front() else { return };
        match refused {
            None => self.read(first),
            Some(reason) => self.poison(first, now, reason),
        }
        // The first may wait for the next unknown schema already; everything else keeps its place
        // behind it.
        for record in waiting {
            self.take(record);
        }
    }

    /// Commands with the same key run one after the other, in offset order.
    pub(super) fn enqueue(&mut self, lease: Lease, queued: Queued) {
        crash::point(Point::CommandAccepted);
        let key = queued.work.key().to_owned();
        let Some(partition) = self.partitions.get_mut(&lease.partition) else { return };
        let line = partition.keys.entry(key.clone()).or_default();
        let ahead = line.len();
        line.push_back(queued);
        if its_turn(ahead) {
            self.begin(lease, &key);
        }
    }

    /// The front command of a key is judged by what the journal knows.
    pub(super) fn begin(&mut self, lease: Lease, key: &str) {
        let Some(partition) = self
            .partitions
            .get(&lease.partition)
            .filter(|partition| partition.lease == lease && !partition.draining)
        else {
            return;
        };
        let Some(queued) = partition.keys.get(key).and_then(|line| line.front()) else { return };
        let (record, work, received) =
            (Arc::clone(&queued.record), queued.work.clone(), queued.received);
        let trace = queued.trace.clone();
        let (return_no, command_id) = match &work {
            Work::Command(accepted) => {
                (accepted.command.return_no.clone(), accepted.command.command_id.clone())
            }
            Work::Misplaced { return_no, command_id, .. } => {
                (return_no.clone(), command_id.clone())
            }
            Work::Decision(decision) => (decision.return_no.clone(), decision.command_id.clone()),
            Work::Orphan(known) => {
                (known.command.return_no.clone(), known.command.command_id.clone())
            }
        };
        let (now, journal_key) = (Moment::now(), journal_key(&return_no, &command_id));
        let entry = match partition.open.get(&journal_key) {
            Some(entry) => Ok(Some(entry.clone())),
            None => self.recorded(lease.partition, &journal_key),
        };
        let entry = match entry {
            Ok(entry) => entry,
            Err(reason) => {
                // The cache failed: the restart rebuilds it; nothing is decided without it.
                self.cache_failed = Some(reason);
                return;
            }
        };
        let restored_at = partition.restored_at;
        let (accepted, verdict) = match work {
            Work::Command(accepted) => {
                let known = Known {
                    entry,
                    restored_at,
                    old: self.is_old(&record),
                    replayed: replays(&record).is_some_and(|times| times > 0),
                    now,
                    now_wall: self.parts.erp.earlier_clock(Edition::Flagship),
                };
                let verdict = judge(&accepted, lease.partition, record.offset, known, &self.timing);
                (accepted, verdict)
            }
            Work::Orphan(known) => match entry {
                Some(entry) if entry.kind == EntryKind::Intent => {
                    let life = orphaned(&known, &entry, restored_at, &self.timing);
                    (*known, Verdict::Resume(life))
                }
                // A copy was settled before it.
                entry => return self.settled_by_copy(lease, record, received, key, entry),
            },
            Work::Misplaced { to, .. } => {
                return self.forward(record, received, (return_no, command_id), to);
            }
            Work::Decision(decision) => {
                let end = match decision.judge(entry.as_ref(), Timestamp::now()) {
                    Judgement::Settled(entry) => End::Decided { entry },
                    Judgement::Refused(reason) => End::Refused(reason),
                    Judgement::Passed(version) => {
                        tracing::info!(
                            command.id = command_id,
                            command.return_no = return_no,
                            "decision passed over: it answers version {}, the command is at {version}",
                            decision.version
                        );
                        End::Passed
                    }
                };
                return self.end_decision(lease, record, received, Some(key.to_owned()), end);
            }
        };
        let front = Some(key.to_owned());
        let (metrics, board) = (&self.parts.metrics, &self.parts.board);
        let mut slot = |life, recorded, waits| {
            let id = self.next_slot;
            self.next_slot += 1;
            let slot = Slot {
                lease,
                record: Arc::clone(&record),
                accepted: accepted.clone(),
                received,
                life,
                send_by: None,
                permit: None,
                pauses: None,
                counted_in: None,
                refused_in: None,
                absent: None,
                recorded,
                waits,
                due: None,
                trace: trace.clone(),
            };
            self.slots.insert(id, slot);
            id
        };
        metrics.hop(Hop::Journal, verdict.word());
        board.step((&return_no, &command_id), Hop::Journal.name(), verdict.word(), None);
        crash::point(Point::CommandJudged);
        match verdict {
            Verdict::Fresh(life) => {
                let id = slot(life, None, Waits::Admission);
                self.admission.push_back(id);
            }
            Verdict::LookFirst(life) => {
                let id = slot(life, None, Waits::Ask);
                self.wake_at(id, Waits::Ask, now);
            }
            Verdict::Resume(life) => {
                let id = slot(life, None, Waits::Sighting);
                self.resume(id);
            }
            Verdict::Repeat(life, recorded) => {
                let id = slot(life, Some(recorded), Waits::Ask);
                self.wake_at(id, Waits::Ask, now);
            }
            Verdict::Duplicate(entry) => {
                self.end(lease, record, received, front, End::Copy { entry })
            }
            Verdict::Conflict => {
                let violations = vec!["command_id was used before for this return_no with other content; use a new command_id".into()];
                self.end(
                    lease,
                    record,
                    received,
                    front,
                    End::Plain { outcome: Outcome::Invalid, return_no, command_id, violations },
                );
            }
            Verdict::Expired => {
                self.end(
                    lease,
                    record,
                    received,
                    front,
                    End::Plain {
                        outcome: Outcome::Expired,
                        return_no,
                        command_id,
                        violations: Vec::new(),
                    },
                );
            }
        }
    }

    /// The outcome recorded for a command, from the cache of the journal.
    pub(super) fn recorded(
        &self,
        partition: i32,
        key: &[u8],
    ) -> Result<Option<crate::schema::JournalEntry>, String> {
        match self.store.get(partition, key).map_err(|fault| fault.to_string())? {
            None => Ok(None),
            Some(bytes) => {
                self.parts.codec.decode_journal(&bytes).map(Some).map_err(|fault| {
                    format!("a journal entry in the cache cannot be read: {fault}")
                })
            }
        }
    }
}
