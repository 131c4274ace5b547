//! One owned partition: its offsets, its keys, and what the journal said when it was taken over.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::mpsc;

use crate::{
    background,
    clock::{Moment, Timestamp},
    config::{Partitioner, Settings},
    kafka::{
        Apply, Cancel, Delivered, Group, Lease, Loader, Outgoing, Position, Prefix, Restored,
        Store, TakeOver, TakeOverFault, Transactor, commit_fenced, nonce_of,
        scan::{From, Scan},
        take_over_each,
        tool::ToolFault,
        worse,
    },
    metrics::Metrics,
    schema::{Codec, DecodeFault, EntryKind, JournalEntry, LearnFault, Outcome},
    telemetry::Trace,
};

use super::{
    bundle::Sightings,
    decision::Decision,
    input_log::InputLog,
    orphan::Awaited,
    patience::Patience,
    settle::{Names, bare_entry, journal_record},
    validate::Accepted,
    visibility::{Reference, References},
};

/// What waits for what came before it with the same key.
#[derive(Debug)]
pub(super) struct Queued {
    pub record: Arc<Delivered>,
    pub received: Moment,
    pub work: Work,
    pub trace: Trace,
}

/// What a record asks for.
#[derive(Clone, Debug)]
pub(super) enum Work {
    Command(Accepted),
    /// A command that stands in another partition than its key's, `to`.
    Misplaced {
        return_no: String,
        command_id: String,
        to: i32,
    },
    /// A person's decision about a command in doubt.
    Decision(Decision),
    /// The command of an open intent whose record is gone, or is no command any more, as far as its
    /// entry knows it.
    Orphan(Box<Accepted>),
}

impl Work {
    /// The key in whose order it is done.
    pub(super) fn key(&self) -> &str {
        match self {
            Self::Command(accepted) => &accepted.command.return_no,
            Self::Misplaced { return_no, .. } => return_no,
            Self::Decision(decision) => &decision.return_no,
            Self::Orphan(known) => &known.command.return_no,
        }
    }
}

/// Whether a command begins with so many of its key before it: they run one after the other, so
/// that two copies of one command never both find nothing in the journal.
pub(super) const fn its_turn(ahead: usize) -> bool {
    ahead == 0
}

/// What one owned partition holds in memory.
#[derive(Debug)]
pub(super) struct Partition {
    pub lease: Lease,
    pub prefix: Prefix,
    pub restored_at: Moment,
    /// Commands and decisions by `return_no`; the front one is being worked on.
    pub keys: HashMap<String, VecDeque<Queued>>,
    /// Decisions that were taken from the control topic and still stand there, by key: at which
    /// offset.
    pub taken: BTreeMap<Vec<u8>, i64>,
    /// Whether what earlier owners wrote to the control topic is known here; `None` until it
    /// matters, `false` while it is waited for.
    pub caught_up: Option<bool>,
    /// Open intents found at the takeover, by journal key.
    pub open: HashMap<Vec<u8>, JournalEntry>,
    /// Those of them whose record was not read yet.
    pub awaited: Awaited,
    /// Outcomes a person has to decide about, by journal key, and since when: the entries
    /// themselves stand in the [`Store`], so that a hundred thousand of them have room.
    pub in_doubt: BTreeMap<Vec<u8>, Timestamp>,
    /// What one query over all open intents has shown; `None` while it is being asked.
    pub sightings: Option<Sightings>,
    /// Records that wait for a schema to be learnt, and everything after them.
    pub unlearnt: VecDeque<Delivered>,
    pub patience: Patience,
    pub log: InputLog,
    /// When the last record that was delivered was sent.
    pub read_at: Option<Timestamp>,
    /// Nothing new is begun: the partition is being given back.
    pub draining: bool,
    /// The journal was declared lost then: what was sent before is looked for before its first
    /// call.
    pub lost_at: Option<Timestamp>,
    /// The offset behind everything that had been read when an outcome was forgotten last.
    pub forgotten_to: Option<i64>,
}

impl Partition {
    pub(super) fn new(restored: &Restored, journal: Remembered, restored_at: Moment) -> Self {
        let prefix = prefix_of(restored, journal.nonce);
        Self {
            lease: restored.lease,
            restored_at,
            keys: HashMap::new(),
            awaited: Awaited::new(restored.lease.partition, restored.end, &journal.open),
            taken: BTreeMap::new(),
            caught_up: None,
            open: journal.open,
            in_doubt: journal.in_doubt,
            sightings: Some(Sightings::new()),
            unlearnt: VecDeque::new(),
            patience: Patience::default(),
            log: InputLog::from(prefix.next()),
            prefix,
            read_at: None,
            draining: false,
            lost_at: journal.lost_at,
            // Its offsets are others now: nobody knows which of its records were read before.
            forgotten_to: journal.forgotten_to.map(|to| restored.end.map_or(i64::MAX, |_| to)),
        }
    }

    /// An outcome was committed.
    pub(super) fn settled(&mut self, key: &[u8], entry: &JournalEntry) {
        self.open.remove(key);
        if entry.outcome == Some(Outcome::InDoubt) {
            self.in_doubt.insert(key.to_vec(), entry.written_at);
        } else {
            self.in_doubt.remove(key);
        }
    }
}

/// What is finished of a partition that is taken over. What is gone from the log is passed: the next
/// takeover does not miss it again.
fn prefix_of(restored: &Restored, nonce: String) -> Prefix {
    let Position { offset, ref metadata, .. } = restored.position;
    let mut prefix = Prefix::restore(offset, metadata, nonce);
    prefix.committed(offset.saturating_add_unsigned(restored.removed));
    prefix
}

/// Whether nothing new is begun for a lease: its partition is being given back, or is gone.
pub(super) fn given_back(partitions: &BTreeMap<i32, Partition>, lease: Lease) -> bool {
    partitions.get(&lease.partition).is_none_or(|partition| partition.draining)
}

/// What a partition's journal said, as far as it has to be in memory; outcomes are in the
/// [`Store`].
#[derive(Debug, Default)]
pub(super) struct Remembered {
    pub open: HashMap<Vec<u8>, JournalEntry>,
    /// Outcomes a person has to decide about, and since when.
    pub in_doubt: BTreeMap<Vec<u8>, Timestamp>,
    /// It knows of commands at all.
    pub commands: bool,
    /// How many partitions the commands topic had when that was written down last; an earlier
    /// version did so with its barriers.
    pub counted: Option<i32>,
    /// It has a record of that count.
    pub keeps_count: bool,
    /// The offset behind everything that had been read when an outcome was forgotten last.
    pub forgotten_to: Option<i64>,
    /// The partitioner that this count was written with.
    partitioner: Option<String>,
    /// Orders of ours that the ERP confirmed.
    pub references: References,
    pub lost_at: Option<Timestamp>,
    /// The newest finished takeover: its nonce, which offsets committed since carry, and where the
    /// journal's log began then.
    taken_over: Option<(String, i64)>,
    /// The journal was declared lost since.
    declared: bool,
    /// Entries that cannot be read, by key: offset and reason.
    unreadable: BTreeMap<Vec<u8>, String>,
    /// The nonce of this takeover.
    nonce: String,
}

/// Offsets at the end of another partition's journal among which its count is looked for first.
const NEAR: i64 = 10_000;
/// Until the other partitions' journals are asked for again.
const OTHERS_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);

/// How long partitions wait for others that are ready shortly after them: together they cost one
/// question to the ERP about their open intents, not one each.
const GATHER: std::time::Duration = std::time::Duration::from_millis(300);

/// The nonce of a barrier that declares everything before it lost.
const LOST: &str = "lost";

/// The record that declares a partition of the journal lost: key and entry.
#[must_use]
pub(crate) fn lost_entry(partition: i32, at: Timestamp) -> (Vec<u8>, JournalEntry) {
    let key = serde_json::json!(["#lost", partition]).to_string().into_bytes();
    (
        key,
        JournalEntry {
            nonce: Some(LOST.to_owned()),
            ..bare_entry(EntryKind::Barrier, partition, "", at)
        },
    )
}

/// Whether a barrier declares everything before it lost.
#[must_use]
pub(crate) fn declares_lost(entry: &JournalEntry) -> bool {
    entry.kind == EntryKind::Barrier && entry.nonce.as_deref() == Some(LOST)
}

/// What the key of a [`count_entry`] begins with.
const COUNT: &[u8] = br##"["#count""##;

/// The record that says how many partitions commands and journal have from now on, and (as its
/// nonce) which partitioner gives a key one of them: key and entry.
/// No topic has 0 of them: that says that entries are being moved, and no instance runs.
#[must_use]
pub(crate) fn count_entry(
    partition: i32,
    partitions: i32,
    partitioner: Partitioner,
    at: Timestamp,
) -> (Vec<u8>, JournalEntry) {
    let nonce = Some(partitioner.name().to_owned());
    let key = serde_json::json!(["#count", partition]).to_string().into_bytes();
    (
        key,
        JournalEntry {
            nonce,
            partitions: Some(partitions),
            ..bare_entry(EntryKind::Barrier, partition, "", at)
        },
    )
}

/// What the key of a [`forgotten_entry`] begins with.
const FORGOTTEN: &[u8] = br##"["#forgotten""##;

/// The record that says how far the commands had been read when outcomes were forgotten: key and
/// entry. A record of unknown time before that may be one of theirs.
#[must_use]
pub(super) fn forgotten_entry(
    partition: i32,
    read_to: i64,
    at: Timestamp,
) -> (Vec<u8>, JournalEntry) {
    let key = serde_json::json!(["#forgotten", partition]).to_string().into_bytes();
    let entry = bare_entry(EntryKind::Barrier, partition, "", at);
    (key, JournalEntry { source_offset: read_to, ..entry })
}

/// What the key of a [`taken_over_entry`] begins with.
const TAKEN_OVER: &[u8] = br##"["#takeover""##;

/// The record that says that a takeover was finished, and where the journal's log began then: key
/// and entry. The offsets that are committed from then on carry its nonce, so that a journal that
/// lacks it is known not to be theirs.
fn taken_over_entry(
    partition: i32,
    nonce: &str,
    first: i64,
    at: Timestamp,
) -> (Vec<u8>, JournalEntry) {
    let key = serde_json::json!(["#takeover", partition]).to_string().into_bytes();
    let entry = bare_entry(EntryKind::Barrier, partition, "", at);
    (key, JournalEntry { nonce: Some(nonce.to_owned()), source_offset: first, ..entry })
}

fn barrier_key(partition: i32) -> Vec<u8> {
    serde_json::json!(["#barrier", partition]).to_string().into_bytes()
}

/// Everything a takeover of the journal needs; owned, since it runs as a task of its own.
pub(super) struct Restoring {
    pub settings: Arc<Settings>,
    pub codec: Arc<Codec>,
    pub names: Names,
    pub store: Store,
    pub group: Group,
    pub transactor: Transactor,
    pub metrics: Arc<Metrics>,
    pub partitions: i32,
}

impl Restoring {
    /// Takes the partitions over and reads their journal; gives them to `restored` as they are
    /// ready.
    ///
    /// # Errors
    /// [`TakeOverFault`], about those that were not given.
    pub(super) async fn run(
        self,
        leases: Vec<Lease>,
        restored: impl Fn(Vec<(Restored, Remembered)>),
    ) -> Result<(), TakeOverFault> {
        // The cache of a partition is its present owner's.
        let ended = self.group.ended(&leases);
        if !ended.is_empty() {
            return Err(TakeOverFault::NotOwner(ended));
        }
        for lease in &leases {
            self.store
                .clear(lease.partition)
                .map_err(|fault| TakeOverFault::Refused(fault.to_string()))?;
        }
        let take_overs =
            leases.iter().map(|lease| self.barrier(*lease)).collect::<Result<Vec<_>, _>>()?;
        let remembered: Arc<Mutex<BTreeMap<i32, Remembered>>> = Arc::default();
        let loader = Arc::new(Mutex::new(Loader::new(self.store.clone())));
        let apply = self.applier(Arc::clone(&remembered), Arc::clone(&loader));
        let (ready, mut handed) = mpsc::unbounded_channel();
        let cancel = Cancel::default();
        let kafka = &self.settings.kafka;
        let taking =
            take_over_each(kafka, &self.group, &self.transactor, take_overs, apply, ready, &cancel);
        let giving = async {
            let mut some = Vec::new();
            while handed.recv_many(&mut some, leases.len()).await > 0 {
                let more = async { while handed.recv_many(&mut some, leases.len()).await > 0 {} };
                // In vain where the next one takes longer.
                let _ = tokio::time::timeout(GATHER, more).await;
                let journals = self.complete(&leases, &some, &remembered, &loader).await;
                match journals {
                    Ok(journals) => restored(some.drain(..).zip(journals).collect()),
                    Err(fault) => {
                        cancel.cancel();
                        return Err(fault);
                    }
                }
            }
            Ok(())
        };
        let (taken, given) = tokio::join!(taking, giving);
        worse(taken, given)
    }

    /// What else has to be known and written before partitions that were read can be worked on.
    async fn complete(
        &self,
        leases: &[Lease],
        restored: &[Restored],
        remembered: &Mutex<BTreeMap<i32, Remembered>>,
        loader: &Arc<Mutex<Loader>>,
    ) -> Result<Vec<Remembered>, TakeOverFault> {
        let loader = Arc::clone(loader);
        // The reading holds the lock as well, and writes to the disk under it.
        background::blocking("journal cache", move || {
            loader.lock().unwrap_or_else(PoisonError::into_inner).flush()
        })
        .await
        .map_err(|error| TakeOverFault::Refused(error.to_string()))?
        .map_err(|fault| TakeOverFault::Refused(fault.to_string()))?;
        let mut journals: Vec<Remembered> = {
            let mut all = remembered.lock().unwrap_or_else(PoisonError::into_inner);
            let journal_of = |restored: &Restored| all.remove(&restored.lease.partition);
            restored.iter().map(journal_of).map(Option::unwrap_or_default).collect()
        };
        for (restored, journal) in restored.iter().zip(&journals) {
            self.check_entries(restored.lease.partition, journal)?;
            self.check_identity(restored, journal)?;
            journal.counted.map_or(Ok(()), |counted| self.check_count(counted))?;
            journal.partitioner.as_deref().map_or(Ok(()), |of| self.check_partitioner(of))?;
        }
        // A partition that knows no command may be one too many: then only the others can say so.
        if journals.iter().any(|journal| !journal.keeps_count && !journal.commands) {
            self.check_others(leases, restored).await?;
        }
        for (restored, journal) in restored.iter().zip(&mut journals) {
            journal.nonce = self.nonce(restored.lease);
        }
        self.finish(restored, &journals).await?;
        Ok(journals)
    }

    /// Every entry has to be read: one that is not may be an order that was created.
    fn check_entries(&self, partition: i32, journal: &Remembered) -> Result<(), TakeOverFault> {
        let Some((key, what)) = journal.unreadable.first_key_value() else { return Ok(()) };
        let others = match journal.unreadable.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        Err(TakeOverFault::Refused(format!(
            "the entry of {} in partition {partition} of {} {what}{others}; write what it was, or a tombstone where its command needs no answer any more, under the same key",
            String::from_utf8_lossy(key),
            self.names.journal
        )))
    }

    /// Whether this is the journal that was written together with the committed offsets, and whole.
    fn check_identity(
        &self,
        restored: &Restored,
        journal: &Remembered,
    ) -> Result<(), TakeOverFault> {
        let partition = restored.lease.partition;
        let refused = |what: String| {
            Err(TakeOverFault::Refused(format!(
                "partition {partition} of {} {what}, so orders could be created twice; restore the topic, or declare it lost with `wdt-connector journal declare-lost --yes`",
                self.names.journal
            )))
        };
        if journal.declared {
            return Ok(());
        }
        let first = journal.taken_over.as_ref().map_or(0, |(_, first)| *first);
        if restored.first > first {
            return refused(format!(
                "begins at offset {} and not at {first}, which compaction does not do: entries were deleted (its cleanup.policy must be compact and nothing else)",
                restored.first
            ));
        }
        let Some((offset, metadata)) = &restored.committed else { return Ok(()) };
        let known = journal.taken_over.as_ref().map(|(nonce, _)| nonce.as_str());
        let same = match nonce_of(metadata) {
            // Committed before any takeover was finished.
            Some("") => true,
            Some(nonce) => known == Some(nonce),
            // Set by another program, such as kafka-consumer-groups.
            None => known.is_some(),
        };
        if same {
            return Ok(());
        }
        refused(format!(
            "is not the journal that offset {offset} of the group was committed with: it lacks the takeover before that"
        ))
    }

    /// An entry stands in the partition of its command: with another count copies could be judged
    /// by two owners.
    fn check_count(&self, counted: i32) -> Result<(), TakeOverFault> {
        if counted == self.partitions {
            return Ok(());
        }
        if counted == 0 {
            return Err(TakeOverFault::Refused(format!(
                "{} was being migrated and is not whole; run `wdt-connector topics repartition` again with the same arguments",
                self.names.journal
            )));
        }
        Err(TakeOverFault::Refused(format!(
            "{} had {counted} partitions when its journal was written and has {} now, so copies of a command could be judged by two owners; stop every instance and run `wdt-connector topics repartition --partitions {}`",
            self.names.commands, self.partitions, self.partitions
        )))
    }

    /// Copies of a command go where the partitioner puts them: under another one to a partition whose
    /// journal does not know it. Forwarded commands leave no entry where they stood, so the entries
    /// do not tell.
    fn check_partitioner(&self, written_with: &str) -> Result<(), TakeOverFault> {
        let configured = self.settings.commands.partitioner.name();
        if written_with == configured {
            return Ok(());
        }
        Err(TakeOverFault::Refused(format!(
            "{} was written with commands.partitioner = \"{written_with}\" and it is \"{configured}\" now, so copies of a command could be judged by two owners; set it to what it was, or once all commands are settled under that, stop every instance, change it and run `wdt-connector topics repartition --partitions {}`",
            self.names.journal, self.partitions
        )))
    }

    /// Writes down that these are taken over, and the count where it is not yet, now that it is known
    /// to be right; the barrier, which comes before that is known, speaks of neither. From then on
    /// another count, or another journal, is refused however often it is tried.
    async fn finish(
        &self,
        restored: &[Restored],
        journals: &[Remembered],
    ) -> Result<(), TakeOverFault> {
        let now = Timestamp::now();
        let (mut records, mut positions) = (Vec::new(), Vec::new());
        for (restored, journal) in restored.iter().zip(journals) {
            let (lease, partition) = (restored.lease, restored.lease.partition);
            let taken = taken_over_entry(partition, &journal.nonce, restored.first, now);
            let partitioner = self.settings.commands.partitioner;
            let count = (!journal.keeps_count)
                .then(|| count_entry(partition, self.partitions, partitioner, now));
            for (key, entry) in [Some(taken), count].into_iter().flatten() {
                let record = journal_record(&self.codec, &self.names, partition, key, &entry)
                    .map_err(|fault| TakeOverFault::Refused(fault.to_string()))?;
                records.push(Arc::new(record));
            }
            let Position { offset, metadata, .. } = &restored.position;
            let prefix = prefix_of(restored, journal.nonce.clone());
            // What fitted before fits now.
            let (offset, metadata) = prefix.position().unwrap_or((*offset, metadata.clone()));
            positions.push(Position { lease, offset, metadata });
        }
        commit_fenced(&self.group, &self.transactor, positions, records).await
    }

    /// What all partitions say but those that were read: also the others of this takeover, which are
    /// still being read.
    async fn check_others(&self, own: &[Lease], read: &[Restored]) -> Result<(), TakeOverFault> {
        let others: Vec<i32> = (0..self.partitions)
            .filter(|partition| read.iter().all(|of| of.lease.partition != *partition))
            .collect();
        if others.is_empty() {
            return Ok(());
        }
        let counted = loop {
            match self.newest_counts(others.clone()).await? {
                Ok(counted) => break counted,
                // The broker went away, or a right is missing: a takeover waits for both.
                Err(fault) => {
                    tracing::warn!(
                        error = %fault,
                        "failed to read the journals of the other partitions; retrying"
                    )
                }
            }
            tokio::time::sleep(OTHERS_PAUSE).await;
            let ended = self.group.ended(own);
            if !ended.is_empty() {
                return Err(TakeOverFault::NotOwner(ended));
            }
        };
        counted.into_values().try_for_each(|(counted, partitioner)| {
            self.check_count(counted)?;
            partitioner.map_or(Ok(()), |partitioner| self.check_partitioner(&partitioner))
        })
    }

    /// By partition, the count it keeps. Of a young journal it is near the end: only where it is
    /// not the whole partition is read.
    async fn newest_counts(
        &self,
        partitions: Vec<i32>,
    ) -> Result<Result<BTreeMap<i32, (i32, Option<String>)>, ToolFault>, TakeOverFault> {
        let (kafka, topic, codec, runtime) = (
            self.settings.kafka.clone(),
            self.names.journal.to_string(),
            Arc::clone(&self.codec),
            tokio::runtime::Handle::current(),
        );
        let read = move || {
            let newest = |only: &[i32], from: &From| {
                let mut counted = BTreeMap::new();
                Scan::open(&kafka, &topic, Some(only), from)?.run(|record, _| {
                    let speaks = |key: &[u8]| key.starts_with(COUNT);
                    if record.key.as_deref().is_some_and(speaks)
                        && let Some(entry) = record
                            .value
                            .as_deref()
                            .and_then(|bytes| decode(&codec, &runtime, bytes, || ()).ok())
                        && let Some(count) = entry.partitions
                    {
                        counted.insert(record.partition, (count, entry.nonce));
                    }
                    true
                })?;
                Ok::<_, ToolFault>(counted)
            };
            let ends = Scan::ends(&kafka, &topic)?;
            let near = partitions.iter().filter_map(|partition| {
                Some((*partition, ends.get(partition)?.saturating_sub(NEAR).max(0)))
            });
            let mut counted = newest(&[], &From::Offsets(near.collect()))?;
            let far: Vec<i32> = partitions
                .into_iter()
                .filter(|partition| !counted.contains_key(partition))
                .collect();
            if !far.is_empty() {
                counted.extend(newest(&far, &From::Beginning)?);
            }
            Ok(counted)
        };
        background::blocking("journal count", read)
            .await
            .map_err(|error| TakeOverFault::Refused(error.to_string()))
    }

    /// Differs from that of every other takeover: each process has its own time of its start.
    fn nonce(&self, lease: Lease) -> String {
        format!(
            "{}-{}-{}-{:x}-{:x}",
            self.settings.kafka.instance_ordinal,
            std::process::id(),
            lease.epoch,
            Timestamp::now().0,
            Moment::now().0
        )
    }

    fn barrier(&self, lease: Lease) -> Result<TakeOver, TakeOverFault> {
        let mut entry = bare_entry(EntryKind::Barrier, lease.partition, "", Timestamp::now());
        entry.nonce = Some(self.nonce(lease));
        let value = self
            .codec
            .encode_journal(&entry)
            .map_err(|fault| TakeOverFault::Refused(fault.to_string()))?;
        let barrier = Outgoing {
            topic: Arc::clone(&self.names.journal),
            partition: Some(lease.partition),
            key: Some(barrier_key(lease.partition)),
            value: Some(value),
            headers: Vec::new(),
        };
        Ok(TakeOver { lease, barrier })
    }

    fn applier(
        &self,
        remembered: Arc<Mutex<BTreeMap<i32, Remembered>>>,
        loader: Arc<Mutex<Loader>>,
    ) -> Apply {
        let (metrics, group) = (Arc::clone(&self.metrics), self.group.clone());
        let lag = self.settings.max_visibility_lag;
        let (codec, runtime) = (Arc::clone(&self.codec), tokio::runtime::Handle::current());
        Box::new(move |partition, offset, key, value| {
            metrics.restored("commands");
            // Before any lock is taken: a schema may have to be waited for.
            let entry = value
                .map(|bytes| decode(&codec, &runtime, bytes, || group.restoring()))
                .transpose();
            let mut remembered = remembered.lock().unwrap_or_else(PoisonError::into_inner);
            let journal = remembered.entry(partition).or_default();
            // A later value, or a tombstone, supersedes one that cannot be read.
            journal.unreadable.remove(key);
            let entry = match entry {
                Ok(entry) => entry,
                Err(reason) => {
                    let what = format!("at offset {offset} cannot be read ({reason})");
                    journal.unreadable.insert(key.to_vec(), what);
                    return Ok(());
                }
            };
            let mut loader = loader.lock().unwrap_or_else(PoisonError::into_inner);
            let (Some(bytes), Some(entry)) = (value, entry) else {
                journal.open.remove(key);
                journal.in_doubt.remove(key);
                return loader.push(partition, key, None).map_err(|fault| fault.to_string());
            };
            journal.commands |= matches!(entry.kind, EntryKind::Intent | EntryKind::Outcome);
            match entry.kind {
                EntryKind::Barrier => {
                    if declares_lost(&entry) {
                        journal.lost_at = journal.lost_at.max(Some(entry.written_at));
                        journal.declared = true;
                    }
                    if key.starts_with(TAKEN_OVER) {
                        let nonce = entry.nonce.clone().unwrap_or_default();
                        journal.taken_over = Some((nonce, entry.source_offset));
                        journal.declared = false;
                    }
                    journal.counted = entry.partitions.or(journal.counted);
                    if key.starts_with(COUNT) {
                        journal.keeps_count = true;
                        journal.partitioner = entry.nonce.clone();
                    }
                    if key.starts_with(FORGOTTEN) {
                        journal.forgotten_to = Some(entry.source_offset);
                    }
                    Ok(())
                }
                EntryKind::Intent => {
                    journal.in_doubt.remove(key);
                    journal.open.insert(key.to_vec(), entry);
                    Ok(())
                }
                EntryKind::Outcome => {
                    journal.open.remove(key);
                    journal.in_doubt.remove(key);
                    if entry.outcome == Some(Outcome::InDoubt) {
                        journal.in_doubt.insert(key.to_vec(), entry.written_at);
                    } else if entry.outcome == Some(Outcome::Created) && !entry.resolved {
                        journal.references.note(
                            &entry.warehouse_no,
                            Reference {
                                return_no: entry.return_no,
                                marker: entry.marker,
                                created_at: entry.written_at,
                            },
                            lag,
                        );
                    }
                    loader.push(partition, key, Some(bytes)).map_err(|fault| fault.to_string())
                }
            }
        })
    }
}

/// Decodes an entry, learning its schema from the registry where that is needed; the registry may
/// be away for a while.
fn decode(
    codec: &Codec,
    runtime: &tokio::runtime::Handle,
    bytes: &[u8],
    alive: impl Fn(),
) -> Result<JournalEntry, String> {
    loop {
        alive();
        match codec.decode_journal(bytes) {
            Ok(entry) => return Ok(entry),
            Err(DecodeFault::Malformed(reason)) => return Err(reason),
            Err(DecodeFault::UnknownSchemaId(id)) => match runtime.block_on(codec.learn(id)) {
                Ok(()) => {}
                Err(LearnFault::Unusable(reason)) => return Err(reason),
                Err(LearnFault::Missing(reason) | LearnFault::Unavailable(reason)) => {
                    tracing::warn!(
                        schema.id = id,
                        error = %reason,
                        "failed to fetch a schema of the journal; journal restore waits, retrying"
                    );
                    runtime.block_on(tokio::time::sleep(std::time::Duration::from_secs(1)));
                }
            },
        }
    }
}
