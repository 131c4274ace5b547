//! The takeover of partitions, in the only order that is sound (`docs/kafka.md#takeover-order`).

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};
use tokio::sync::mpsc;

use crate::{
    background,
    clock::Moment,
    config::KafkaSettings,
    crash::{self, Fault, Point},
};

use super::{
    Batch, CommitFault, Group, Leaders, Lease, Outgoing, Position, Transactor,
    client::Quiet,
    offsets::{NEVER_TAKEN_OVER, begun_anew, is_anew, nonce_of},
    rights::{complain, read_denial},
    topic_reader::{Place, Polled, ReadFault, TopicReader, connect, whole_end},
    unreadable::is_unreadable,
};

/// One partition to take over.
#[derive(Clone, Debug)]
pub(crate) struct TakeOver {
    pub lease: Lease,
    /// Written to the compacted topic and read up to; recognised by key and value, so its value
    /// carries a nonce.
    pub barrier: Outgoing,
}

/// What a takeover found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Restored {
    pub lease: Lease,
    /// The stable committed offset of the group and its metadata; `None` when nothing was ever
    /// committed.
    pub committed: Option<(i64, String)>,
    /// What the barrier was committed with: the same, or the topic's first offset.
    pub position: Position,
    /// Where the log of the compacted topic's partition begins. Compaction alone never moves it.
    pub first: i64,
    /// Records of the group's topic that are gone from the log, and nobody had read.
    pub removed: u64,
    /// Where the log of the group's topic ended; `None` where it was begun anew, so that its offsets
    /// are not those of earlier outcomes.
    pub end: Option<i64>,
    /// Entries read before the barrier, tombstones included.
    pub entries: u64,
}

/// Why a takeover did not finish.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum TakeOverFault {
    /// These leases ended meanwhile; begin again with those that still hold.
    #[error("partitions {0:?} are no longer owned")]
    NotOwner(Vec<Lease>),
    /// Another process uses the same `kafka.instance_ordinal`.
    #[error("{0}")]
    Fenced(String),
    /// The caller's `apply` refused an entry.
    #[error("{0}")]
    Refused(String),
    /// Offsets are committed, and the compacted topic's partition holds nothing: it was lost.
    /// Nothing was written.
    #[error(
        "partition {partition} of {topic} is empty although offset {offset} of the group is committed"
    )]
    Emptied { topic: String, partition: i32, offset: i64 },
    /// The log of the group's topic ends before the committed offset. It is begun anew: that is
    /// committed, and holds from the next assignment on.
    #[error(
        "partition {partition} of {topic} ends at offset {end} although offset {offset} of the group is committed: its log lost records, or was made again; it is read from its beginning"
    )]
    Shorter { topic: String, partition: i32, offset: i64, end: i64 },
}

/// Receives every entry of the compacted topic: partition, offset, key, value (`None`: a tombstone).
pub(crate) type Apply = Box<dyn FnMut(i32, i64, &[u8], Option<&[u8]>) -> Result<(), String> + Send>;

/// How long one request for offsets may take; pending transactions make it time out, and it is
/// asked again.
const REQUEST: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(200);
/// In the client's id.
const ROLE: &str = "restore";
/// How long a log has to end before the committed offset until that is believed: a new leader may
/// not know yet how far the log is replicated.
const SHORTER_FOR: Duration = Duration::from_secs(30);

/// Takes partitions over, as [`take_over_each`] does, and gives all of them at once.
///
/// # Errors
/// [`TakeOverFault`].
pub(crate) async fn take_over(
    kafka: &KafkaSettings,
    group: &Group,
    transactor: &Transactor,
    partitions: Vec<TakeOver>,
    apply: Apply,
) -> Result<Vec<Restored>, TakeOverFault> {
    let (ready, mut restored) = mpsc::unbounded_channel();
    let cancel = Cancel::default();
    take_over_each(kafka, group, transactor, partitions, apply, ready, &cancel).await?;
    let mut all = Vec::new();
    while let Some(one) = restored.recv().await {
        all.push(one);
    }
    Ok(all)
}

/// Takes partitions over: waits for the stable committed offsets (asked again while a transaction
/// is pending), writes the barriers in one transaction with those same offsets, reads the compacted
/// topic from its beginning under `read_committed` up to the barriers, handing every entry before
/// them to `apply`, and each partition to `ready` as soon as its barrier was read.
///
/// A partition that has to be waited for, because it has no leader or a transaction is pending,
/// holds up no other: those that need not wait go ahead.
///
/// The compacted topic is the barriers' topic; its partition is the lease's number. Asks again by
/// itself while the broker is away; ends early only as [`TakeOverFault`] says. `apply` may already
/// have been called when it does, and is not called any more.
///
/// # Errors
/// [`TakeOverFault`].
pub(crate) async fn take_over_each(
    kafka: &KafkaSettings,
    group: &Group,
    transactor: &Transactor,
    partitions: Vec<TakeOver>,
    apply: Apply,
    ready: mpsc::UnboundedSender<Restored>,
    cancel: &Cancel,
) -> Result<(), TakeOverFault> {
    if partitions.is_empty() {
        return Ok(());
    }
    let taking = Taking {
        kafka,
        group,
        transactor,
        apply: Arc::new(Mutex::new(apply)),
        ready,
        stop: Arc::clone(&cancel.0),
        shorter: Arc::default(),
    };
    taking.batch(partitions).await
}

/// Ends the blocking half of a takeover, when it is told to or dropped.
#[derive(Debug, Default)]
pub(crate) struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub(crate) fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Drop for Cancel {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// One takeover, whose partitions may go their own ways.
struct Taking<'a> {
    kafka: &'a KafkaSettings,
    group: &'a Group,
    transactor: &'a Transactor,
    apply: Arc<Mutex<Apply>>,
    ready: mpsc::UnboundedSender<Restored>,
    stop: Arc<AtomicBool>,
    /// Since when the logs of these partitions end before what is committed.
    shorter: Arc<Mutex<BTreeMap<i32, Moment>>>,
}

/// How far some partitions came together.
enum Together {
    Done,
    /// All have to wait.
    Wait,
    /// These can go ahead, those have to wait.
    Part(Vec<TakeOver>, Vec<TakeOver>),
}

impl Taking<'_> {
    /// Takes these over; the other partitions of the takeover end with the first fault.
    fn batch(
        &self,
        partitions: Vec<TakeOver>,
    ) -> Pin<Box<dyn Future<Output = Result<(), TakeOverFault>> + Send + '_>> {
        Box::pin(async move {
            let result = self.whole(partitions).await;
            if result.is_err() {
                self.stop.store(true, Ordering::Relaxed);
            }
            result
        })
    }

    async fn whole(&self, partitions: Vec<TakeOver>) -> Result<(), TakeOverFault> {
        let reader = Arc::new(Reader::open(self.kafka, self.group)?);
        let apart = loop {
            match self.together(&reader, &partitions).await {
                Ok(Together::Done) => break Ok(None),
                Ok(Together::Wait) => tokio::time::sleep(PAUSE).await,
                Ok(Together::Part(ready, rest)) => break Ok(Some((ready, rest))),
                Err(fault) => break Err(fault),
            }
        };
        // Waits for a tenth of a second, and whoever waits for the takeover would with it.
        background::close("close-consumer", reader);
        let Some((ready, rest)) = apart? else { return Ok(()) };
        // Both to their ends: nothing of a takeover that failed may be applied when the next one
        // begins.
        let (ready, rest) = tokio::join!(self.batch(ready), self.batch(rest));
        worse(ready, rest)
    }

    /// In the order of `TAKE_OVER`, which the model explores.
    async fn together(
        &self,
        reader: &Arc<Reader>,
        partitions: &[TakeOver],
    ) -> Result<Together, TakeOverFault> {
        let leases: Vec<Lease> = partitions.iter().map(|partition| partition.lease).collect();
        still_owned(self.group, &leases, &self.stop)?;
        let committed = self.offsets(reader, partitions).await?;
        if committed.is_empty() {
            return Ok(Together::Wait);
        }
        if committed.len() < partitions.len() {
            let (ready, rest) = partitions
                .iter()
                .cloned()
                .partition(|partition| committed.contains_key(&partition.lease.partition));
            return Ok(Together::Part(ready, rest));
        }
        crash::point(Point::TakeOverOffsets);
        if let Some(fault) = self.begin_anew(partitions, &committed).await? {
            return Err(fault);
        }

        still_owned(self.group, &leases, &self.stop)?;
        let positions = partitions.iter().filter_map(|partition| {
            let committed: &Committed = committed.get(&partition.lease.partition)?;
            Some(committed.position(partition.lease))
        });
        let records = partitions.iter().map(|partition| {
            Arc::new(Outgoing {
                partition: Some(partition.lease.partition),
                ..partition.barrier.clone()
            })
        });
        let (positions, records) = (positions.collect(), records.collect());
        // One of them may have lost its leader meanwhile.
        if !try_commit_fenced(self.group, self.transactor, positions, records).await? {
            return Ok(Together::Wait);
        }
        crash::point(Point::TakeOverBarrier);

        still_owned(self.group, &leases, &self.stop)?;
        self.read(reader, partitions, &committed).await?;
        Ok(Together::Done)
    }

    /// Commits that the logs that are shorter than what is committed are begun anew; the fault that
    /// says so.
    async fn begin_anew(
        &self,
        partitions: &[TakeOver],
        committed: &BTreeMap<i32, Committed>,
    ) -> Result<Option<TakeOverFault>, TakeOverFault> {
        let shorter: Vec<(Lease, &Committed)> = partitions
            .iter()
            .filter_map(|one| Some((one.lease, committed.get(&one.lease.partition)?)))
            .filter(|(_, committed)| committed.shorter)
            .collect();
        let Some((lease, first)) = shorter.first() else { return Ok(None) };
        let positions = shorter.iter().map(|(lease, committed)| {
            begun_anew(*lease, committed.first, nonce_of(&committed.metadata))
        });
        commit_fenced(self.group, self.transactor, positions.collect(), Vec::new()).await?;
        Ok(Some(TakeOverFault::Shorter {
            topic: self.group.topic().to_owned(),
            partition: lease.partition,
            offset: first.offset,
            end: first.end,
        }))
    }

    /// The stable offsets of those partitions that can be taken over now, held against both logs.
    async fn offsets(
        &self,
        reader: &Arc<Reader>,
        partitions: &[TakeOver],
    ) -> Result<BTreeMap<i32, Committed>, TakeOverFault> {
        let Some(first) = partitions.first() else { return Ok(BTreeMap::new()) };
        let topic = Arc::clone(&first.barrier.topic);
        let asked: Vec<i32> = partitions.iter().map(|one| one.lease.partition).collect();
        let ask = |asked: Vec<i32>| {
            let (asking, group) = (Arc::clone(reader), self.group.clone());
            let (topic, shorter) = (Arc::clone(&topic), Arc::clone(&self.shorter));
            blocking(self.group, move || {
                let led = asking.led(group.topic(), &asking.led(&topic, &asked));
                let Some(offsets) = asking.stable_offsets(&group, &led) else {
                    return Ok((BTreeMap::new(), led));
                };
                Ok((asking.held_against(&group, &topic, offsets, &shorter)?, Vec::new()))
            })
        };
        let (found, apart) = ask(asked).await?;
        if apart.len() < 2 {
            return Ok(found);
        }
        // One pending transaction fails the question about all of them.
        let alone = apart.into_iter().map(|partition| ask(vec![partition]));
        let alone = futures_util::future::try_join_all(alone).await?;
        Ok(alone.into_iter().flat_map(|(found, _)| found).collect())
    }

    async fn read(
        &self,
        reader: &Arc<Reader>,
        partitions: &[TakeOver],
        committed: &BTreeMap<i32, Committed>,
    ) -> Result<(), TakeOverFault> {
        let Some(first) = partitions.first() else { return Ok(()) };
        let topic = Arc::clone(&first.barrier.topic);
        let leases = partitions.iter().map(|partition| partition.lease).collect();
        let open = partitions
            .iter()
            .filter_map(|wanted| {
                let (partition, wanted) = (wanted.lease.partition, wanted.clone());
                let committed = committed.get(&partition)?.clone();
                let place = committed.memory;
                Some((partition, Reading { wanted, committed, place, entries: 0 }))
            })
            .collect();
        let (kafka, group) = (self.kafka.clone(), self.group.clone());
        let (consumer, apply, ready, stop) = (
            Arc::clone(&reader.0),
            Arc::clone(&self.apply),
            self.ready.clone(),
            Arc::clone(&self.stop),
        );
        blocking(self.group, move || {
            let restore = Restore {
                group: &group,
                leases,
                reader: TopicReader::on(consumer, &kafka, ROLE, group.group_id(), &topic),
                topic,
                open,
                apply: &apply,
                ready,
                stop: &stop,
            };
            restore.run()
        })
        .await
    }
}

/// Of two faults the one that says more: partitions that were cancelled say that they ended.
pub(crate) fn worse(
    one: Result<(), TakeOverFault>,
    other: Result<(), TakeOverFault>,
) -> Result<(), TakeOverFault> {
    match (one, other) {
        (Err(TakeOverFault::NotOwner(mut ended)), Err(TakeOverFault::NotOwner(more))) => {
            ended.extend(more);
            Err(TakeOverFault::NotOwner(ended))
        }
        (Err(TakeOverFault::NotOwner(_)), Err(fault)) => Err(fault),
        (one, other) => one.and(other),
    }
}

async fn blocking<T: Send + 'static>(
    group: &Group,
    work: impl FnOnce() -> Result<T, TakeOverFault> + Send + 'static,
) -> Result<T, TakeOverFault> {
    let runs = group.begin_restore();
    let work = move || {
        let _runs = runs;
        work()
    };
    match background::blocking("restore", work).await {
        Ok(result) => result,
        Err(error) => Err(TakeOverFault::Refused(format!("the restore ended abnormally: {error}"))),
    }
}

/// A committed offset with its metadata, or the topic's first offset where nothing was committed.
#[derive(Clone, Debug)]
struct Committed {
    offset: i64,
    metadata: String,
    was_committed: bool,
    /// Where the log of the group's topic begins.
    first: i64,
    /// Where it ends.
    end: i64,
    /// That is before the offset, and has been for long enough.
    shorter: bool,
    /// The log of the compacted topic.
    memory: Place,
}

impl Committed {
    fn position(&self, lease: Lease) -> Position {
        Position { lease, offset: self.offset, metadata: self.metadata.clone() }
    }
}

/// Commits records that may as well stand twice, with the offsets that are committed already: until
/// it is done, or the leases are over.
///
/// # Errors
/// [`TakeOverFault::NotOwner`], [`TakeOverFault::Fenced`].
pub(crate) async fn commit_fenced(
    group: &Group,
    transactor: &Transactor,
    positions: Vec<Position>,
    records: Vec<Arc<Outgoing>>,
) -> Result<(), TakeOverFault> {
    while !try_commit_fenced(group, transactor, positions.clone(), records.clone()).await? {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// The same, once; `false` when it was not committed, or nobody knows.
async fn try_commit_fenced(
    group: &Group,
    transactor: &Transactor,
    positions: Vec<Position>,
    records: Vec<Arc<Outgoing>>,
) -> Result<bool, TakeOverFault> {
    match transactor.commit(Batch { group: group.clone(), positions, records }).await {
        Ok(()) => Ok(true),
        // Unknown is harmless here: a barrier that was written after all is read past.
        Err(
            CommitFault::Aborted(reason)
            | CommitFault::Unknown(reason)
            | CommitFault::TooLarge { reason, .. }
            | CommitFault::Denied { reason, .. },
        ) => {
            tracing::info!(error = %reason, "restore transaction not committed; retrying");
            Ok(false)
        }
        Err(CommitFault::NotOwner(leases)) => Err(TakeOverFault::NotOwner(leases)),
        Err(CommitFault::Fenced(reason)) => Err(TakeOverFault::Fenced(reason)),
    }
}

fn refused(fault: ReadFault) -> TakeOverFault {
    TakeOverFault::Refused(fault.sentence)
}

fn still_owned(group: &Group, leases: &[Lease], stop: &AtomicBool) -> Result<(), TakeOverFault> {
    group.restoring();
    let ended = group.ended(leases);
    if !ended.is_empty() || stop.load(Ordering::Relaxed) {
        return Err(TakeOverFault::NotOwner(ended));
    }
    Ok(())
}

/// A consumer of its own that never joins the group: it only asks for the group's offsets and reads
/// one topic.
struct Reader(Arc<BaseConsumer<Quiet>>, KafkaSettings);

impl Reader {
    fn open(kafka: &KafkaSettings, group: &Group) -> Result<Self, TakeOverFault> {
        let consumer = connect(kafka, ROLE, group.group_id()).map_err(|error| {
            TakeOverFault::Refused(format!("no consumer for the restore could be made: {error}"))
        })?;
        Ok(Self(consumer, kafka.clone()))
    }

    /// Those of a topic's partitions that have a leader; the others are named once a minute. A
    /// record for one of them would hold up the transaction, and the coordinator then holds up the
    /// producer until the partition is back.
    fn led(&self, topic: &str, asked: &[i32]) -> Vec<i32> {
        if asked.is_empty() {
            return Vec::new();
        }
        let metadata = match self.0.fetch_metadata(Some(topic), REQUEST) {
            Ok(metadata) => metadata,
            Err(error) => {
                tracing::debug!(%error, "failed to fetch topic metadata; retrying");
                return Vec::new();
            }
        };
        let leaders = Leaders::of(&metadata, topic);
        let (led, unled): (Vec<i32>, Vec<i32>) =
            asked.iter().partition(|partition| leaders.leads(**partition));
        if !unled.is_empty() {
            complain(&format!(
                "partitions {unled:?} of {topic} have no leader, so their takeover waits; start the brokers that hold their replicas"
            ));
        }
        led
    }

    /// `None`: not now. A pending transaction of the predecessor ends here as well: it is waited
    /// for, never read past.
    fn stable_offsets(
        &self,
        group: &Group,
        asked: &[i32],
    ) -> Option<BTreeMap<i32, Option<(i64, String)>>> {
        if asked.is_empty() {
            return None;
        }
        match self.ask_offsets(group.topic(), asked) {
            Ok(found) => Some(found),
            Err(error) => {
                if let Some(sentence) = read_denial(&error, group.topic(), group.group_id()) {
                    complain(&sentence);
                }
                tracing::debug!(%error, "failed to fetch stable committed offsets; retrying");
                None
            }
        }
    }

    /// Those of which both logs could be asked. A log that does not answer is asked again: nothing
    /// is taken over on the word of one that did not.
    fn held_against(
        &self,
        group: &Group,
        topic: &str,
        offsets: BTreeMap<i32, Option<(i64, String)>>,
        shorter: &Mutex<BTreeMap<i32, Moment>>,
    ) -> Result<BTreeMap<i32, Committed>, TakeOverFault> {
        let mut found = BTreeMap::new();
        for (partition, committed) in offsets {
            let logs = self.0.fetch_watermarks(topic, partition, REQUEST).and_then(|memory| {
                let (first, mut end) =
                    self.0.fetch_watermarks(group.topic(), partition, REQUEST)?;
                // Offsets that an operator set may stand behind the last stable one.
                if committed.as_ref().is_some_and(|(offset, _)| *offset > end) {
                    end = whole_end(&self.1, ROLE, group.topic(), partition, REQUEST)?;
                }
                Ok((memory, (first, end)))
            });
            let ((memory, memory_end), (first, end)) = match logs {
                Ok(logs) => logs,
                Err(error) => {
                    tracing::debug!(%error, "failed to fetch watermarks; retrying");
                    continue;
                }
            };
            let was_committed = committed.is_some();
            let (offset, metadata) = committed.unwrap_or((first, NEVER_TAKEN_OVER.to_owned()));
            // A log that lost its end may begin later than at 0.
            let offset = if is_anew(&metadata) { offset.max(first) } else { offset };
            // Whose takeover was never finished remembers nothing yet.
            let remembers = nonce_of(&metadata).is_none_or(|nonce| !nonce.is_empty());
            if was_committed && remembers && memory >= memory_end {
                return Err(TakeOverFault::Emptied { topic: topic.to_owned(), partition, offset });
            }
            let mut known = shorter.lock().unwrap_or_else(PoisonError::into_inner);
            let shorter = offset > end;
            if shorter {
                let since = *known.entry(partition).or_insert_with(Moment::now);
                if since.until(Moment::now()) < SHORTER_FOR {
                    // Without the end, which grows: each new one would be said.
                    complain(&format!(
                        "partition {partition} of {} ends before the committed offset {offset}; its takeover waits, since a new leader may not know the end yet",
                        group.topic()
                    ));
                    continue;
                }
            } else {
                known.remove(&partition);
            }
            drop(known);
            let memory = Place::of((memory, memory_end));
            let one = Committed { offset, metadata, was_committed, first, end, shorter, memory };
            found.insert(partition, one);
        }
        Ok(found)
    }

    fn ask_offsets(
        &self,
        topic: &str,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, Option<(i64, String)>>, KafkaError> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(topic, *partition);
        }
        let answer = self.0.committed_offsets(list, REQUEST)?;
        let mut found = BTreeMap::new();
        for element in answer.elements() {
            element.error()?;
            let committed = match element.offset() {
                Offset::Offset(offset) => Some((offset, element.metadata().to_owned())),
                _ => None,
            };
            found.insert(element.partition(), committed);
        }
        Ok(found)
    }
}

/// A partition of the compacted topic that is being read.
struct Reading {
    wanted: TakeOver,
    committed: Committed,
    place: Place,
    entries: u64,
}

/// The reading of the compacted topic, up to every partition's barrier.
struct Restore<'a> {
    group: &'a Group,
    leases: Vec<Lease>,
    topic: Arc<str>,
    reader: TopicReader,
    open: BTreeMap<i32, Reading>,
    apply: &'a Mutex<Apply>,
    ready: mpsc::UnboundedSender<Restored>,
    stop: &'a AtomicBool,
}

impl Restore<'_> {
    fn run(mut self) -> Result<(), TakeOverFault> {
        crash::hang_if(Fault::RestoreHang);
        crash::hang_once_if(Fault::RestoreHangOnce);
        // The error of a batch that cannot be read names no partition: from then on they are read
        // one by one, each from where it stands.
        let mut alone = false;
        while !self.open.is_empty() {
            let most = if alone { 1 } else { usize::MAX };
            let some: Vec<i32> = self.open.keys().copied().take(most).collect();
            let Some(fault) = self.pass(&some)? else { continue };
            if some.len() == 1 {
                return Err(refused(fault));
            }
            // Said before anything else: librdkafka may not survive its next look at the batch
            // (`docs/kafka.md#batches-that-cannot-be-read`).
            tracing::error!(
                error = %fault.sentence,
                "unreadable batch found; reading the partitions one by one"
            );
            alone = true;
            self.reader.renew().map_err(refused)?;
        }
        Ok(())
    }

    /// A partition was read to its barrier.
    fn hand_over(&mut self, partition: i32) {
        let Some(Reading { wanted, committed, entries, .. }) = self.open.remove(&partition) else {
            return;
        };
        crash::point(Point::TakeOverDone);
        let removed = committed.first.saturating_sub(committed.offset);
        // Who does not wait for it any more has cancelled the takeover.
        let _ = self.ready.send(Restored {
            lease: wanted.lease,
            position: committed.position(wanted.lease),
            first: committed.memory.next,
            removed: u64::try_from(removed).unwrap_or(0),
            end: (!is_anew(&committed.metadata)).then_some(committed.end),
            committed: committed.was_committed.then_some((committed.offset, committed.metadata)),
            entries,
        });
    }

    /// Reads these partitions to their barriers, each from where it stands; or to a batch that cannot
    /// be read.
    fn pass(&mut self, some: &[i32]) -> Result<Option<ReadFault>, TakeOverFault> {
        let places = some.iter().filter_map(|at| Some((*at, self.open.get(at)?.place)));
        self.reader.begin(places.collect()).map_err(refused)?;
        while some.iter().any(|partition| self.open.contains_key(partition)) {
            let polled = self.reader.poll(PAUSE);
            // With every message: nothing of an ended lease may reach what its successor has begun
            // to fill.
            still_owned(self.group, &self.leases, self.stop)?;
            let message = match polled {
                Ok(Polled::Record(message)) => message,
                Ok(Polled::End(_) | Polled::Nothing) => continue,
                Err(fault) if is_unreadable(&fault.cause) => return Ok(Some(fault)),
                Err(ReadFault { cause, .. }) => {
                    if let Some(sentence) = read_denial(&cause, &self.topic, self.group.group_id())
                    {
                        complain(&sentence);
                    }
                    tracing::debug!(error = %cause, "topic read failed; restore continues");
                    continue;
                }
            };
            let partition = message.partition();
            let Some(reading) = self.open.get_mut(&partition) else { continue };
            let barrier = &reading.wanted.barrier;
            if message.key() == barrier.key.as_deref()
                && message.payload() == barrier.value.as_deref()
            {
                drop(message);
                self.reader.leave(partition);
                self.hand_over(partition);
            } else {
                reading.entries += 1;
                reading.place.next = message.offset() + 1;
                let mut apply = self.apply.lock().unwrap_or_else(PoisonError::into_inner);
                let key = message.key().unwrap_or_default();
                apply(partition, message.offset(), key, message.payload())
                    .map_err(TakeOverFault::Refused)?;
                drop((apply, message));
                crash::point(Point::TakeOverRead);
                if crash::once(Fault::RestoreStandsStill) {
                    tracing::info!("injected fault: restore stops fetching");
                    self.reader.stand_still();
                }
            }
        }
        Ok(None)
    }
}
