//! The commit loop: one transaction at a time carries every outcome that is ready and every intent
//! that is waiting, so that a thousand commands in flight cost a handful of transactions.
//!
//! What is atomic with what, and why: `docs/delivery.md#atomic-settlement`.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

use crate::{
    clock::{Moment, Timestamp},
    config::Partitioner,
    crash::{self, Point},
    kafka::{
        Batch, Change, CommitFault, Delivered, GroupView, Leaders, Lease, Outgoing, Position,
        Prefix, REST, borrowed,
    },
    metrics::Hop,
    schema::{Outcome, SchemaFault},
};

use super::{
    engine::{ABNORMAL, End, Ended, Engine, Happened, Ready, Slot, SlotId, Stands, Waits, Word},
    intake::told,
    journal::{Way, written},
    letter::{Death, dead_letter, doubt_letter, doubt_reason, spare},
    partition::{Partition, forgotten_entry},
    placement::{denied, forwarded},
    settle::{
        Origin, intent_entry, journal_key, journal_record, noted_entry, outcome_entry, result_of,
        result_record, result_without_entry,
    },
    story::Tale,
    validate::{Misplaced, partition_of, remark_as_sent},
};

/// Between transactions that commit nothing but offsets behind transaction markers.
const PASS_PAUSE: Duration = Duration::from_secs(5);
/// Until decisions are tried again whose tombstones the broker denied: each try aborts a transaction.
const DECISIONS_PAUSE: Duration = Duration::from_secs(10);
/// The same of decisions whose topics have no leader: each try is a look at what is known.
const LEADER_PAUSE: Duration = Duration::from_secs(1);
/// Commands in one transaction, at most: bounds its size and the time the next one waits.
const MOST: usize = 1000;

/// A transaction on its way.
#[derive(Debug)]
pub(super) struct Commit {
    intents: Vec<(SlotId, Moment, Timestamp, u32)>,
    ready: Vec<Ready>,
    /// One for each of `ready`.
    tales: Vec<Tale>,
    notes: Vec<SlotId>,
    withdrawn: Vec<(Lease, Vec<u8>)>,
    expired: Vec<(Lease, Vec<u8>)>,
    /// How far the commands were read when these are forgotten.
    forgotten: Vec<(Lease, i64)>,
    /// The fence of every partition that is spoken for, by its number.
    positions: BTreeMap<i32, Position>,
    /// What the cache of the journal learns once it is committed.
    changes: BTreeMap<i32, Vec<Change>>,
    begun: Moment,
    records: usize,
    /// Dead letters and forwarded records, which are not the connector's own: their places among
    /// the records, and whose they are.
    copies: Vec<(usize, Lease, i64)>,
    /// Places of the tombstones of decisions.
    tombstones: Vec<usize>,
}

impl Commit {
    pub(super) fn concerns(&self, lease: Lease) -> bool {
        self.positions.get(&lease.partition).is_some_and(|position| position.lease == lease)
    }

    pub(super) fn intends(&self, id: SlotId) -> bool {
        self.intents.iter().any(|(of, ..)| *of == id)
    }

    pub(super) fn intents(&self) -> usize {
        self.intents.len()
    }

    /// The records whose copies stand at these places.
    fn copies_at(&self, places: &[usize]) -> Vec<(Lease, i64)> {
        let refused = self.copies.iter().filter(|(at, ..)| places.contains(at));
        refused.map(|(_, lease, offset)| (*lease, *offset)).collect()
    }
}

/// A transaction of so few records carried next to nothing that had to wait for it.
const FEW: usize = 4;

/// Between the end of a transaction and the putting together of the next one, which carries what
/// comes in meanwhile. The producer rests as long ([`REST`]); where there is little to gather, the
/// last part of its rest is left to it alone: its thread keeps to it exactly, a timer here rounds
/// up by a millisecond.
fn gather(carried: usize) -> Duration {
    if carried > FEW { REST } else { REST / 2 }
}

/// What a transaction may carry of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    Outcome,
    Intent,
    Withdrawal,
}

/// Whether a transaction that carries this must also carry the partition's offset: always. Kafka
/// fences a stale owner only where it commits offsets; an intent without one would pass.
pub(super) const fn needs_offset(carried: Carried) -> bool {
    match carried {
        Carried::Outcome | Carried::Intent | Carried::Withdrawal => true,
    }
}

/// The records of a transaction while it is put together.
struct Draft {
    commit: Commit,
    records: Vec<Outgoing>,
}

impl Draft {
    /// Whether the transaction may carry something of a partition: not without its fence, which is
    /// added where it is missing.
    fn carries(&mut self, carried: Carried, lease: Lease, prefix: &Prefix) -> bool {
        !needs_offset(carried) || self.fences(lease, prefix)
    }

    fn fences(&mut self, lease: Lease, prefix: &Prefix) -> bool {
        if let Entry::Vacant(place) = self.commit.positions.entry(lease.partition) {
            let Some((offset, metadata)) = prefix.position() else { return false };
            place.insert(Position { lease, offset, metadata });
        }
        true
    }
}

/// Whether the producer may put a record with this key into a partition without a leader. Without a
/// key it takes any.
fn goes_to_lost(topic: &Leaders, key: Option<&[u8]>) -> bool {
    !topic.lost.is_empty()
        && key
            .and_then(|key| partition_of(key, topic.count, Partitioner::Murmur2))
            .is_none_or(|partition| topic.lost.contains(&partition))
}

impl Engine<'_> {
    /// Begins a transaction if there is something to commit and none is on its way.
    pub(super) fn commit(&mut self, now: Moment) -> Result<(), String> {
        if let Some(reason) = self.cache_failed.take() {
            return Err(reason);
        }
        if self.committing.is_some()
            || now < self.commit_after
            || (self.ready.is_empty()
                && self.intents.is_empty()
                && self.notes.is_empty()
                && self.withdrawn.is_empty()
                && self.expired.is_empty()
                && !self.passes(now))
        {
            return Ok(());
        }
        self.passes_at = now.plus(PASS_PAUSE);
        let draft = self.draft(now).map_err(|fault| {
            format!(
                "a record does not fit its own schema, which is a defect of the connector: {fault}"
            )
        })?;
        let Some(Draft { commit, records }) = draft else { return Ok(()) };
        let batch = Batch {
            group: self.group.clone(),
            positions: commit.positions.values().cloned().collect(),
            records: records.into_iter().map(Arc::new).collect(),
        };
        self.committing = Some(commit);
        self.freed_lately = std::mem::take(&mut self.freed).max(self.freed_lately / 2);
        self.counts.transactions += 1;
        let transactor = self.transactor.clone();
        let word = Word::new(
            &self.happened,
            Happened::Committed(Err(CommitFault::Unknown(ABNORMAL.to_owned()))),
        );
        word.after(async move { Happened::Committed(transactor.commit(batch).await) });
        Ok(())
    }

    /// Whether markers behind the last record wait to be committed, in a partition without
    /// anything unfinished: each transaction commits them anyway, so this is for idle ones.
    fn passes(&self, now: Moment) -> bool {
        now >= self.passes_at && self.partitions.values().any(|partition| self.passes_of(partition))
    }

    fn passes_of(&self, partition: &Partition) -> bool {
        !partition.draining
            && partition.prefix.moves()
            && partition.prefix.unfinished() == 0
            && self.group.owns(partition.lease)
    }

    fn draft(&mut self, now: Moment) -> Result<Option<Draft>, SchemaFault> {
        let commit = Commit {
            intents: Vec::new(),
            ready: Vec::new(),
            tales: Vec::new(),
            notes: Vec::new(),
            withdrawn: Vec::new(),
            expired: Vec::new(),
            forgotten: Vec::new(),
            positions: BTreeMap::new(),
            changes: BTreeMap::new(),
            begun: now,
            records: 0,
            copies: Vec::new(),
            tombstones: Vec::new(),
        };
        let mut draft = Draft { commit, records: Vec::new() };
        let written_at = Timestamp::now();

        let (view, mut waiting) = (self.group_state.view(), VecDeque::new());
        for _ in 0..self.ready.len().min(MOST) {
            let Some(ready) = self.ready.pop_front() else { break };
            let decision = ready.stands == Stands::Decision;
            match self.decisions_at.filter(|at| decision && now < *at) {
                Some(at) => self.put_back(&ready, at),
                None if !self.without_leader(&view, &ready) => draft.commit.ready.push(ready),
                None if decision => self.put_back(&ready, now.plus(LEADER_PAUSE)),
                None => waiting.push_back(ready),
            }
        }
        // Behind what was not looked at yet.
        self.ready.append(&mut waiting);
        self.hold_back_what_does_not_fit(&mut draft);
        let ready = std::mem::take(&mut draft.commit.ready);
        for ready in ready {
            let tale = self.settle(&mut draft, &ready, written_at)?;
            draft.commit.tales.push(tale);
            crash::point(Point::OutcomeDrafted);
            draft.commit.ready.push(ready);
        }
        for _ in 0..self.intents.len().min(MOST) {
            let Some(id) = self.intents.pop_front() else { break };
            self.intend(&mut draft, id, now, written_at)?;
            crash::point(Point::IntentDrafted);
        }
        for id in std::mem::take(&mut self.notes) {
            self.note(&mut draft, id, written_at)?;
        }
        for (lease, key) in std::mem::take(&mut self.withdrawn) {
            let Some(partition) = self.owned(lease) else { continue };
            if !draft.carries(Carried::Withdrawal, partition.lease, &partition.prefix) {
                self.withdrawn.push((lease, key));
                continue;
            }
            draft.records.push(Outgoing {
                topic: Arc::clone(&self.names.journal),
                partition: Some(lease.partition),
                key: Some(key.clone()),
                value: None,
                headers: Vec::new(),
            });
            draft.commit.withdrawn.push((lease, key));
        }
        let mut forgotten = self.forget();
        forgotten.retain(|(lease, key, _)| {
            let carried = self.owned(*lease).is_some_and(|partition| {
                draft.carries(Carried::Withdrawal, partition.lease, &partition.prefix)
            });
            if !carried {
                self.expired.push((*lease, key.clone()));
            }
            carried
        });
        let mut read_to = BTreeMap::<Lease, i64>::new();
        for (lease, ..) in &forgotten {
            if let Some(partition) = self.partitions.get(&lease.partition) {
                read_to.insert(*lease, partition.log.read_to());
            }
        }
        // What is forwarded is remembered elsewhere, and forgotten there without a word to this
        // partition: read once more, it may be one of those.
        for ready in &draft.commit.ready {
            if matches!(ready.end, End::Forwarded { sent: None, .. }) {
                let to = read_to.entry(ready.lease).or_default();
                *to = (*to).max(ready.record.offset + 1);
            }
        }
        for (lease, to) in read_to {
            let Some(partition) = self.partitions.get(&lease.partition) else { continue };
            if partition.forgotten_to.is_none_or(|known| known < to) {
                let (key, entry) = forgotten_entry(lease.partition, to, written_at);
                let (codec, names) = (&self.parts.codec, &self.names);
                draft.records.push(journal_record(codec, names, lease.partition, key, &entry)?);
                draft.commit.forgotten.push((lease, to));
            }
        }
        for (lease, key, tombstone) in forgotten {
            draft.records.push(tombstone);
            draft.commit.changes.entry(lease.partition).or_default().push((key.clone(), None));
            draft.commit.expired.push((lease, key));
        }
        for partition in self.partitions.values().filter(|partition| self.passes_of(partition)) {
            draft.fences(partition.lease, &partition.prefix);
        }
        draft.commit.records = draft.records.len();
        Ok((!draft.records.is_empty() || !draft.commit.positions.is_empty()).then_some(draft))
    }

    /// Whether a record of this outcome would go to a partition without a leader, which would hold
    /// up the transaction, and every later one of the same producer.
    fn without_leader(&self, view: &GroupView, ready: &Ready) -> bool {
        let Some(leaders) = &view.leaders else {
            // Known in a moment; without a broker there is no transaction either.
            return true;
        };
        let lost = |topic: &str, key: Option<&[u8]>| {
            leaders.get(topic).is_some_and(|topic| goes_to_lost(topic, key))
        };
        let result = match &ready.end {
            End::Life { slot, .. } => {
                self.slots.get(slot).map(|slot| slot.accepted.command.return_no.as_str())
            }
            End::Copy { entry } | End::Decided { entry } => Some(entry.return_no.as_str()),
            End::Plain { return_no, .. } => Some(return_no.as_str()),
            End::Refused(_) | End::Passed | End::Poison(_) | End::Forwarded { .. } => None,
        };
        let standing = |topic: &Leaders| topic.count > 0 && topic.lost.is_empty();
        if ready.stands == Stands::Decision
            && !leaders.get(&*self.names.control).is_some_and(standing)
        {
            return true;
        }
        if let End::Forwarded { to, .. } = &ready.end
            && leaders.get(&*self.names.commands).is_some_and(|topic| topic.lost.contains(to))
        {
            return true;
        }
        let letter = match &ready.end {
            End::Life { ending, .. } => ending.outcome == Outcome::InDoubt,
            End::Copy { .. } | End::Decided { .. } | End::Passed | End::Forwarded { .. } => false,
            End::Plain { outcome, .. } => *outcome == Outcome::Invalid,
            End::Refused(_) | End::Poison(_) => true,
        };
        result.is_some_and(|return_no| lost(&self.names.results, Some(return_no.as_bytes())))
            || (letter && lost(&self.names.commands_dlq, ready.record.key.as_deref()))
    }

    /// What settles ahead of the committed prefix is named in the offset's metadata; what does not
    /// fit there waits.
    fn hold_back_what_does_not_fit(&mut self, draft: &mut Draft) {
        let mut offsets: BTreeMap<Lease, Vec<i64>> = BTreeMap::new();
        for ready in &draft.commit.ready {
            offsets.entry(ready.lease).or_default().extend(ready.stands.offset());
        }
        offsets.retain(|lease, offsets| {
            let Some(partition) = self.owned(*lease) else { return false };
            offsets.sort_unstable();
            loop {
                let then = partition.prefix.with_finished(offsets.iter().copied());
                if draft.carries(Carried::Outcome, *lease, &then) {
                    return true;
                }
                if offsets.pop().is_none() {
                    return false;
                }
            }
        });
        let (fitting, held): (Vec<Ready>, Vec<Ready>) =
            std::mem::take(&mut draft.commit.ready).into_iter().partition(|ready| {
                let fit = offsets.get(&ready.lease);
                fit.is_some_and(|fit| ready.stands.offset() <= fit.last().copied())
            });
        draft.commit.ready = fitting;
        let owned: Vec<Ready> =
            held.into_iter().filter(|ready| self.owned(ready.lease).is_some()).collect();
        self.ready.extend(owned);
    }

    fn owned(&self, lease: Lease) -> Option<&Partition> {
        self.partitions.get(&lease.partition).filter(|partition| partition.lease == lease)
    }

    pub(super) fn owned_mut(&mut self, lease: Lease) -> Option<&mut Partition> {
        self.partitions.get_mut(&lease.partition).filter(|partition| partition.lease == lease)
    }

    /// Result, journal entry and dead letter of one ended record.
    fn settle(
        &self,
        draft: &mut Draft,
        ready: &Ready,
        settled_at: Timestamp,
    ) -> Result<Tale, SchemaFault> {
        let (mut tale, mut letter) = (Tale::default(), None);
        let decision = ready.stands == Stands::Decision;
        let (codec, of_decisions) = (&self.parts.codec, self.names.of_decisions());
        let names = if decision { &of_decisions } else { &self.names };
        let connector = &self.parts.settings.kafka.application_id;
        if decision {
            draft.commit.tombstones.push(draft.records.len());
            draft.records.push(Outgoing {
                topic: Arc::clone(&names.control),
                partition: Some(ready.record.lease.partition),
                key: ready.record.key.clone(),
                value: None,
                headers: Vec::new(),
            });
        }
        let origin = Origin { topic: &names.commands, record: &ready.record, settled_at };
        let partition = ready.lease.partition;
        match &ready.end {
            End::Life { slot, ending } => {
                let Some(slot) = self.slots.get(slot) else { return Ok(tale) };
                let command = &slot.accepted.command;
                let pair = (command.return_no.as_str(), command.command_id.as_str());
                let entry =
                    outcome_entry(&slot.life, ending, pair, &command.warehouse_no, settled_at);
                let duplicate = slot.recorded.is_some();
                let written = written(Way::Life { outcome: ending.outcome, copy: duplicate });
                let recorded = slot.recorded.as_deref().filter(|_| !written.entry);
                if written.entry {
                    let key = journal_key(pair.0, pair.1);
                    let record = journal_record(codec, names, partition, key.clone(), &entry)?;
                    draft
                        .commit
                        .changes
                        .entry(partition)
                        .or_default()
                        .push((key, record.value.clone()));
                    draft.records.push(record);
                }
                let result = result_of(recorded.unwrap_or(&entry), duplicate, origin);
                draft.records.push(result_record(codec, names, &result, &ready.record)?);
                if written.letter {
                    let remark = remark_as_sent(&slot.life.marker, command.remark.as_deref());
                    let settled = recorded.unwrap_or(&entry);
                    letter = Some(doubt_letter(names, &ready.record, settled, &remark, connector));
                    let reason = doubt_reason(settled);
                    tale.death = Some((Death::InDoubt, reason.en().to_owned()));
                    tale.death_zh = Some(reason.zh().to_owned());
                }
                tale.result = Some(result);
            }
            End::Copy { entry } => {
                let result = result_of(entry, true, origin);
                draft.records.push(result_record(codec, names, &result, &ready.record)?);
                tale.result = Some(result);
            }
            End::Decided { entry } => {
                let key = journal_key(&entry.return_no, &entry.command_id);
                let record = journal_record(codec, names, partition, key.clone(), entry)?;
                draft
                    .commit
                    .changes
                    .entry(partition)
                    .or_default()
                    .push((key, record.value.clone()));
                draft.records.push(record);
                let result = result_of(entry, false, origin);
                draft.records.push(result_record(codec, names, &result, &ready.record)?);
                tale.result = Some(result);
            }
            End::Refused(reason) => tale.death = Some((Death::Refused, reason.clone())),
            End::Passed => {}
            End::Plain { outcome, return_no, command_id, violations } => {
                let result = result_without_entry(
                    *outcome,
                    (return_no, command_id),
                    violations.clone(),
                    origin,
                );
                draft.records.push(result_record(codec, names, &result, &ready.record)?);
                let letter = written(Way::Plain { outcome: *outcome }).letter;
                tale.death = letter.then(|| (Death::Invalid, violations.join("; ")));
                tale.result = Some(result);
            }
            End::Poison(reason) => tale.death = Some((Death::Undecodable, reason.clone())),
            End::Forwarded { to, sent, .. } => {
                draft.commit.copies.push((
                    draft.records.len(),
                    ready.record.lease,
                    ready.record.offset,
                ));
                draft.records.push(forwarded(names, &ready.record, *to, *sent));
                crash::point(Point::CommandForwarded);
            }
        }
        if let Some((death, reason)) = &tale.death {
            let letter = letter
                .unwrap_or_else(|| dead_letter(names, &ready.record, *death, reason, connector));
            let (spared, why) = &ready.spared;
            let (lease, offset) = (ready.record.lease, ready.record.offset);
            draft.commit.copies.push((draft.records.len(), lease, offset));
            draft.records.push(spare(letter, &ready.record, *spared, why, names));
        }
        Ok(tale)
    }

    fn intend(
        &mut self,
        draft: &mut Draft,
        id: SlotId,
        now: Moment,
        written_at: Timestamp,
    ) -> Result<(), SchemaFault> {
        let Some(slot) = self.slots.get(&id).filter(|slot| slot.waits == Waits::Intent) else {
            return Ok(());
        };
        let Some(partition) = self.owned(slot.lease).filter(|partition| !partition.draining) else {
            return Ok(());
        };
        if !draft.carries(Carried::Intent, partition.lease, &partition.prefix) {
            self.intents.push_back(id);
            return Ok(());
        }
        let command = &slot.accepted.command;
        let pair = (command.return_no.as_str(), command.command_id.as_str());
        let entry = intent_entry(&slot.life, pair, &command.warehouse_no, written_at, &self.timing);
        draft.records.push(journal_record(
            &self.parts.codec,
            &self.names,
            slot.lease.partition,
            journal_key(pair.0, pair.1),
            &entry,
        )?);
        draft.commit.intents.push((
            id,
            now.plus(self.timing.intent_ttl),
            written_at,
            slot.life.next_attempt(),
        ));
        Ok(())
    }

    /// What the ERP said goes into the command's open intent, unless the command is settled or goes
    /// on with another intent.
    fn note(
        &mut self,
        draft: &mut Draft,
        id: SlotId,
        written_at: Timestamp,
    ) -> Result<(), SchemaFault> {
        let open = |slot: &&Slot| slot.waits != Waits::Settlement && slot.life.is_noted();
        let Some(slot) = self.slots.get(&id).filter(open) else { return Ok(()) };
        let Some(partition) = self.owned(slot.lease) else { return Ok(()) };
        if !draft.carries(Carried::Intent, partition.lease, &partition.prefix) {
            self.notes.push(id);
            return Ok(());
        }
        let command = &slot.accepted.command;
        let pair = (command.return_no.as_str(), command.command_id.as_str());
        let entry = noted_entry(&slot.life, pair, &command.warehouse_no, written_at, &self.timing);
        let key = journal_key(pair.0, pair.1);
        let partition = slot.lease.partition;
        let record = journal_record(&self.parts.codec, &self.names, partition, key, &entry)?;
        draft.records.push(record);
        draft.commit.notes.push(id);
        Ok(())
    }

    /// The transaction is over.
    pub(super) fn committed(&mut self, result: Result<(), CommitFault>) -> Result<(), Ended> {
        let Some(commit) = self.committing.take() else { return Ok(()) };
        let now = Moment::now();
        let word = match &result {
            Ok(()) => "committed",
            Err(
                CommitFault::Aborted(_) | CommitFault::TooLarge { .. } | CommitFault::Denied { .. },
            ) => "aborted",
            Err(CommitFault::NotOwner(_)) => "refused",
            Err(CommitFault::Unknown(_) | CommitFault::Fenced(_)) => "unknown",
        };
        self.parts.metrics.transaction("commands", word, commit.records, commit.begun.until(now));
        self.parts.metrics.hop_seconds(Hop::Settle, commit.begun.until(now));
        match result {
            Ok(()) => {
                self.commit_pauses.reset();
                // What comes in meanwhile goes into the next one.
                self.commit_after = now.plus(gather(commit.records));
                self.apply(commit, now).map_err(Ended::Failed)
            }
            Err(CommitFault::Aborted(reason)) => {
                tracing::info!(error = %reason, "transaction aborted; retrying");
                self.commit_after = now.plus(self.commit_pauses.next_pause());
                self.take_back(commit);
                Ok(())
            }
            Err(CommitFault::TooLarge { records, reason }) => {
                let copies = commit.copies_at(&records);
                let mut stuck = copies.len() < records.len();
                self.take_back(commit);
                for (lease, offset) in copies {
                    stuck |= !self.spare(lease, offset, &reason);
                }
                if stuck {
                    // Nothing can be left out of a result or a journal entry: it waits for a topic
                    // that takes it.
                    tracing::warn!(
                        error = %reason,
                        "record too large for its topic, transaction aborted; retrying"
                    );
                    self.commit_after = now.plus(self.commit_pauses.next_pause());
                }
                Ok(())
            }
            Err(CommitFault::Denied { records, reason }) => {
                let copies = commit.copies_at(&records);
                let decisions = records.iter().any(|at| commit.tombstones.contains(at));
                self.take_back(commit);
                let why = denied(self.parts.settings.commands.partitioner);
                let mut answered = false;
                for (lease, offset) in copies {
                    answered |= self.do_not_forward(lease, offset, &why);
                }
                if decisions {
                    self.decisions_at = Some(now.plus(DECISIONS_PAUSE));
                    tracing::warn!(error = %reason, "failed to carry out decisions; they wait");
                } else if answered {
                    self.misplacements.denied(now);
                    tracing::warn!(
                        error = %reason,
                        "failed to forward misplaced commands; they are INVALID"
                    );
                } else {
                    tracing::info!(error = %reason, "transaction aborted; retrying");
                    self.commit_after = now.plus(self.commit_pauses.next_pause());
                }
                Ok(())
            }
            Err(CommitFault::NotOwner(leases)) => {
                self.take_back(commit);
                for lease in leases {
                    self.drop_partition(lease);
                }
                Ok(())
            }
            Err(CommitFault::Unknown(reason)) => Err(Ended::Restart(reason)),
            Err(CommitFault::Fenced(reason)) => Err(Ended::Failed(reason)),
        }
    }

    /// The dead letter of a record leaves out more the next time, and a record that was to be
    /// forwarded is answered where it stands; `false` where nothing is left to be left out.
    fn spare(&mut self, lease: Lease, offset: i64, reason: &str) -> bool {
        if self.do_not_forward(lease, offset, &format!("it could not be forwarded: {reason}")) {
            return true;
        }
        let Some(ready) = self.ready_of(lease, offset) else { return true };
        let Some(more) = ready.spared.0.more() else { return false };
        ready.spared = (more, reason.to_owned());
        true
    }

    /// A record that was to be forwarded and cannot be is invalid; `false` for any other one.
    fn do_not_forward(&mut self, lease: Lease, offset: i64, reason: &str) -> bool {
        let Some(ready) = self.ready_of(lease, offset) else { return false };
        let End::Forwarded { to, return_no, command_id, .. } = &ready.end else { return false };
        let misplaced = Misplaced::Partition {
            partition: lease.partition,
            return_no: return_no.clone(),
            expected: *to,
        };
        ready.end = End::Plain {
            outcome: Outcome::Invalid,
            return_no: return_no.clone(),
            command_id: command_id.clone(),
            violations: told(vec![misplaced.to_string(), reason.to_owned()]),
        };
        true
    }

    fn ready_of(&mut self, lease: Lease, offset: i64) -> Option<&mut Ready> {
        let wanted = |of: &Delivered| of.lease == lease && of.offset == offset;
        self.ready.iter_mut().find(|ready| wanted(&ready.record))
    }

    /// Nothing of it happened: everything goes back to where it waited.
    fn take_back(&mut self, commit: Commit) {
        for ready in commit.ready.into_iter().rev() {
            if self.owned(ready.lease).is_some() {
                self.ready.push_front(ready);
            }
        }
        for (id, ..) in commit.intents.into_iter().rev() {
            self.intents.push_front(id);
        }
        self.notes.extend(commit.notes);
        self.withdrawn.extend(commit.withdrawn);
        self.expired.extend(commit.expired);
    }

    fn apply(&mut self, commit: Commit, now: Moment) -> Result<(), String> {
        if !commit.ready.is_empty() {
            crash::point(Point::OutcomeCommitted);
        }
        let changes =
            commit.changes.iter().map(|(partition, changes)| (*partition, borrowed(changes)));
        if !commit.changes.is_empty() {
            self.store.apply_all(changes).map_err(|fault| fault.to_string())?;
        }
        for ready in &commit.ready {
            if let (Some(offset), Some(partition)) =
                (ready.stands.offset(), self.owned_mut(ready.lease))
            {
                partition.prefix.finish(offset);
            }
        }
        for Position { lease, offset, .. } in commit.positions.values() {
            if let Some(partition) = self
                .partitions
                .get_mut(&lease.partition)
                .filter(|partition| partition.lease == *lease)
            {
                partition.prefix.committed(*offset);
                for (key, value) in commit.changes.get(&lease.partition).into_iter().flatten() {
                    let entry = value
                        .as_deref()
                        .and_then(|bytes| self.parts.codec.decode_journal(bytes).ok());
                    if let Some(entry) = entry {
                        partition.settled(key, &entry);
                    }
                }
            }
        }
        if !commit.changes.is_empty() {
            crash::point(Point::OutcomeCached);
        }
        for (id, send_by, written_at, attempt) in commit.intents {
            crash::point(Point::IntentCommitted);
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.life.intended(attempt, written_at);
                slot.send_by = Some(send_by);
                slot.waits = Waits::Wire;
                let lease = slot.lease;
                self.parts.metrics.hop_seconds(Hop::Journal, slot.received.until(now));
                let command = &slot.accepted.command;
                self.parts.board.step(
                    (&command.return_no, &command.command_id),
                    Hop::Journal.name(),
                    "intent",
                    None,
                );
                self.wire.push_back(id);
                if self.partitions.get(&lease.partition).is_some_and(|partition| partition.draining)
                {
                    self.withdraw(id);
                    // What is not called here any more needs no room.
                    if let Some(slot) = self.slots.get_mut(&id) {
                        slot.permit = None;
                    }
                }
            }
        }
        for id in commit.notes {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.life.version += 1;
            }
        }
        for (lease, read_to) in commit.forgotten {
            if let Some(partition) = self.owned_mut(lease) {
                partition.forgotten_to = Some(read_to);
            }
        }
        self.counts.forgotten += u64::try_from(commit.expired.len()).unwrap_or(u64::MAX);
        let mut released: BTreeMap<Lease, usize> = BTreeMap::new();
        for (ready, tale) in commit.ready.into_iter().zip(commit.tales) {
            *released.entry(ready.lease).or_default() +=
                usize::from(ready.stands.offset().is_some());
            self.account(&ready, now);
            self.tell_settled(&ready, &tale, now);
            if let End::Life { slot, .. } = &ready.end {
                self.slots.remove(slot);
            }
            if let Some(key) = &ready.key {
                self.next_of(ready.lease, key);
            }
        }
        for (lease, count) in released {
            self.group.release(lease, count);
        }
        Ok(())
    }

    /// The front command of a key is done: the next one begins.
    pub(super) fn next_of(&mut self, lease: Lease, key: &str) {
        let Some(partition) =
            self.partitions.get_mut(&lease.partition).filter(|partition| partition.lease == lease)
        else {
            return;
        };
        if let Some(line) = partition.keys.get_mut(key) {
            line.pop_front();
            if line.is_empty() {
                partition.keys.remove(key);
            } else {
                self.begin(lease, key);
            }
        }
    }

    fn account(&mut self, ready: &Ready, now: Moment) {
        let metrics = Arc::clone(&self.parts.metrics);
        let (outcome, duplicate, death) = match &ready.end {
            End::Life { slot, ending } => {
                self.counts.recovered += u64::from(ending.recovered);
                let duplicate = self.slots.get(slot).is_some_and(|slot| slot.recorded.is_some());
                (
                    Some(ending.outcome),
                    duplicate,
                    (ending.outcome == Outcome::InDoubt).then_some(Death::InDoubt),
                )
            }
            End::Copy { entry } => (entry.outcome, true, None),
            End::Decided { entry } => (entry.outcome, false, None),
            End::Refused(_) => (None, false, Some(Death::Refused)),
            End::Passed => (None, false, None),
            End::Plain { outcome, .. } => {
                (Some(*outcome), false, (*outcome == Outcome::Invalid).then_some(Death::Invalid))
            }
            End::Poison(_) => (None, false, Some(Death::Undecodable)),
            End::Forwarded { .. } => {
                self.counts.forwarded += 1;
                // Its copy is what is settled.
                return metrics.command_forwarded();
            }
        };
        if let Some(outcome) = outcome {
            let name = outcome.name();
            *self.counts.results.entry(name).or_default() += 1;
            self.counts.duplicates += u64::from(duplicate);
            metrics.command_settled(name, duplicate);
        }
        if let Some(death) = death {
            self.counts.dead_letters += 1;
            metrics.dead_letter("commands", death.label());
        }
        let since_record = ready
            .record
            .timestamp
            .and_then(|at| u64::try_from(Timestamp::now().0 - at).ok())
            .map(Duration::from_millis);
        metrics.command_seconds(ready.received.until(now), since_record);
    }
}
