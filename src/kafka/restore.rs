//! The takeover of partitions, in the only order that is sound (`docs/kafka.md#takeover-order`).

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};

use crate::{
    background,
    clock::Moment,
    config::KafkaSettings,
    crash::{self, Fault, Point},
};

use super::{
    Batch, CommitFault, Group, Lease, Outgoing, Position, Transactor,
    client::consumer_config,
    order::{TAKE_OVER, TakeOverPart},
    rights::{complain, read_denial},
    unreadable::{is_unreadable, unreadable},
    watchdog::Patience,
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
}

/// Receives every entry of the compacted topic: partition, key, value (`None`: a tombstone).
pub(crate) type Apply = Box<dyn FnMut(i32, &[u8], Option<&[u8]>) -> Result<(), String> + Send>;

/// How long one request for offsets may take; pending transactions make it time out, and it is
/// asked again.
const REQUEST: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(200);

/// Takes partitions over: waits for the stable committed offsets (asked again while a transaction
/// is pending), writes the barriers in one transaction with those same offsets, reads the compacted
/// topic from its beginning under `read_committed` up to the barriers, handing every entry before
/// them to `apply`.
///
/// The compacted topic is the barriers' topic; its partition is the lease's number. Asks again by
/// itself while the broker is away; ends early only as [`TakeOverFault`] says. `apply` may already
/// have been called when it does.
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
    let reader = Arc::new(Reader::open(kafka, group)?);
    let cancelled = CancelOnDrop(Arc::new(AtomicBool::new(false)));

    let mut committed = BTreeMap::new();
    let mut restored = Vec::new();
    let mut apply = Some(apply);
    for part in TAKE_OVER {
        let (reader, group, stop) = (Arc::clone(&reader), group.clone(), Arc::clone(&cancelled.0));
        match part {
            TakeOverPart::Offsets => {
                let leases: Vec<Lease> =
                    partitions.iter().map(|partition| partition.lease).collect();
                committed = blocking(move || reader.stable_offsets(&group, &leases, &stop)).await?;
                crash::point(Point::TakeOverOffsets);
            }
            TakeOverPart::Memory => {
                let (partitions, committed) = (partitions.clone(), committed.clone());
                blocking(move || reader.check_memory(&partitions, &committed)).await?;
            }
            TakeOverPart::Barrier => {
                let positions = partitions.iter().filter_map(|partition| {
                    committed
                        .get(&partition.lease.partition)
                        .map(|committed| committed.position(partition.lease))
                });
                let records = partitions.iter().map(|partition| {
                    Arc::new(Outgoing {
                        partition: Some(partition.lease.partition),
                        ..partition.barrier.clone()
                    })
                });
                commit_fenced(&group, transactor, positions.collect(), records.collect()).await?;
                crash::point(Point::TakeOverBarrier);
            }
            TakeOverPart::Read => {
                let (Some(apply), Some(first)) = (apply.take(), partitions.first()) else {
                    continue;
                };
                let topic = Arc::clone(&first.barrier.topic);
                let (kafka, committed) = (kafka.clone(), committed.clone());
                let leases = partitions.iter().map(|partition| partition.lease).collect();
                let open = partitions
                    .iter()
                    .map(|wanted| {
                        let wanted = wanted.clone();
                        (wanted.lease.partition, Reading { wanted, next: None, entries: 0 })
                    })
                    .collect();
                restored = blocking(move || {
                    let restore = Restore {
                        kafka: &kafka,
                        group: &group,
                        leases,
                        topic,
                        reader,
                        open,
                        apply,
                        stop: &stop,
                        patience: Patience::of(&kafka).idle,
                        sabotage: true,
                    };
                    restore.run(committed)
                })
                .await?;
            }
        }
        tracing::debug!(restore.step = ?part, "restore step finished");
    }
    crash::point(Point::TakeOverDone);
    Ok(restored)
}

/// Ends the blocking half when the future is dropped.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TakeOverFault> + Send + 'static,
) -> Result<T, TakeOverFault> {
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
    loop {
        match transactor
            .commit(Batch {
                group: group.clone(),
                positions: positions.clone(),
                records: records.clone(),
            })
            .await
        {
            // Unknown is harmless here: a barrier that was written after all is read past.
            Ok(()) => return Ok(()),
            Err(
                CommitFault::Aborted(reason)
                | CommitFault::Unknown(reason)
                | CommitFault::TooLarge { reason, .. },
            ) => {
                tracing::info!(error = %reason, "restore transaction not committed; retrying");
                tokio::time::sleep(PAUSE).await;
            }
            Err(CommitFault::NotOwner(leases)) => return Err(TakeOverFault::NotOwner(leases)),
            Err(CommitFault::Fenced(reason)) => return Err(TakeOverFault::Fenced(reason)),
        }
    }
}

fn still_owned(group: &Group, leases: &[Lease], stop: &AtomicBool) -> Result<(), TakeOverFault> {
    let ended = group.ended(leases);
    if !ended.is_empty() || stop.load(Ordering::Relaxed) {
        return Err(TakeOverFault::NotOwner(ended));
    }
    Ok(())
}

/// A consumer of its own that never joins the group: it only asks for the group's offsets and reads
/// one topic.
struct Reader(BaseConsumer);

impl Reader {
    fn open(kafka: &KafkaSettings, group: &Group) -> Result<Self, TakeOverFault> {
        consumer_config(kafka, "restore", group.group_id()).create().map(Self).map_err(|error| {
            TakeOverFault::Refused(format!("no consumer for the restore could be made: {error}"))
        })
    }

    fn stable_offsets(
        &self,
        group: &Group,
        leases: &[Lease],
        stop: &AtomicBool,
    ) -> Result<BTreeMap<i32, Committed>, TakeOverFault> {
        loop {
            still_owned(group, leases, stop)?;
            match self.ask_offsets(group.topic(), leases) {
                Ok(found) => return Ok(found),
                // A pending transaction of the predecessor ends here as well: it is waited for,
                // never read past.
                Err(error) => {
                    if let Some(sentence) = read_denial(&error, group.topic(), group.group_id()) {
                        complain(&sentence);
                    }
                    tracing::debug!(%error, "failed to fetch stable committed offsets; retrying");
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    fn check_memory(
        &self,
        partitions: &[TakeOver],
        committed: &BTreeMap<i32, Committed>,
    ) -> Result<(), TakeOverFault> {
        for take_over in partitions {
            let (topic, partition) = (&take_over.barrier.topic, take_over.lease.partition);
            let Some(committed) = committed
                .get(&partition)
                .filter(|committed| committed.was_committed && committed.offset > 0)
            else {
                continue;
            };
            // A broker that does not answer now is asked again by the reading itself.
            if let Ok((first, end)) = self.0.fetch_watermarks(topic, partition, REQUEST)
                && first >= end
            {
                return Err(TakeOverFault::Emptied {
                    topic: topic.to_string(),
                    partition,
                    offset: committed.offset,
                });
            }
        }
        Ok(())
    }

    fn ask_offsets(
        &self,
        topic: &str,
        leases: &[Lease],
    ) -> Result<BTreeMap<i32, Committed>, KafkaError> {
        let mut list = TopicPartitionList::new();
        for lease in leases {
            list.add_partition(topic, lease.partition);
        }
        let answer = self.0.committed_offsets(list, REQUEST)?;
        let mut found = BTreeMap::new();
        for element in answer.elements() {
            element.error()?;
            let committed = match element.offset() {
                Offset::Offset(offset) => Committed {
                    offset,
                    metadata: element.metadata().to_owned(),
                    was_committed: true,
                },
                _ => {
                    let (first, _) =
                        self.0.fetch_watermarks(topic, element.partition(), REQUEST)?;
                    Committed { offset: first, metadata: String::new(), was_committed: false }
                }
            };
            found.insert(element.partition(), committed);
        }
        Ok(found)
    }
}

/// A partition of the compacted topic that is being read.
struct Reading {
    wanted: TakeOver,
    /// Where the reading goes on; `None` before it began.
    next: Option<i64>,
    entries: u64,
}

/// How the reading of some partitions ended.
enum Pass {
    Done,
    /// A batch of one of them could not be read.
    Unreadable(KafkaError),
    /// There was something to read, and nothing came.
    StoodStill,
}

/// The reading of the compacted topic, up to every partition's barrier.
struct Restore<'a> {
    kafka: &'a KafkaSettings,
    group: &'a Group,
    leases: Vec<Lease>,
    topic: Arc<str>,
    reader: Arc<Reader>,
    open: BTreeMap<i32, Reading>,
    apply: Apply,
    stop: &'a AtomicBool,
    /// How long nothing may come although there is something to read.
    patience: Duration,
    /// A provoked fault strikes once.
    sabotage: bool,
}

impl Restore<'_> {
    fn run(
        mut self,
        mut committed: BTreeMap<i32, Committed>,
    ) -> Result<Vec<Restored>, TakeOverFault> {
        crash::hang_if(Fault::RestoreHang);
        let mut entries = BTreeMap::new();
        // The error of a batch that cannot be read names no partition: from then on they are read
        // one by one, each from where it stands.
        let mut alone = false;
        while !self.open.is_empty() {
            let most = if alone { 1 } else { usize::MAX };
            let some: Vec<i32> = self.open.keys().copied().take(most).collect();
            match (self.pass(&some, &mut entries)?, some.as_slice()) {
                (Pass::Done, _) => {}
                (Pass::Unreadable(error), [partition]) => {
                    let read_to = self.open.get(partition).and_then(|reading| reading.next);
                    let sentence = unreadable(&self.topic, [(*partition, read_to)], &error);
                    return Err(TakeOverFault::Refused(sentence));
                }
                (Pass::Unreadable(error), _) => {
                    // Said before anything else: librdkafka may not survive its next look at the
                    // batch (`docs/kafka.md#batches-that-cannot-be-read`).
                    let places = self.open.iter().map(|(partition, at)| (*partition, at.next));
                    tracing::error!(
                        error = %unreadable(&self.topic, places, &error),
                        "unreadable batch found; reading the partitions one by one"
                    );
                    alone = true;
                    self.renew()?;
                }
                (Pass::StoodStill, _) => self.renew()?,
            }
        }
        still_owned(self.group, &self.leases, self.stop)?;
        Ok(std::mem::take(&mut self.leases)
            .into_iter()
            .filter_map(|lease| {
                let found = committed.remove(&lease.partition)?;
                Some(Restored {
                    lease,
                    position: found.position(lease),
                    committed: found.was_committed.then_some((found.offset, found.metadata)),
                    entries: entries.get(&lease.partition).copied().unwrap_or(0),
                })
            })
            .collect())
    }

    /// A new client in place of the present one, whose buffers hold what comes behind a fault.
    fn renew(&mut self) -> Result<(), TakeOverFault> {
        let fresh = Arc::new(Reader::open(self.kafka, self.group)?);
        let old = std::mem::replace(&mut self.reader, fresh);
        // Closing waits for brokers that may not answer.
        if let Err(error) = background::thread("close-consumer", move || drop(old)) {
            tracing::debug!(%error, "no thread to close a consumer; closed it in place");
        }
        Ok(())
    }

    /// Reads these partitions to their barriers, each from where it stands.
    fn pass(
        &mut self,
        some: &[i32],
        entries: &mut BTreeMap<i32, u64>,
    ) -> Result<Pass, TakeOverFault> {
        let consumer = Arc::clone(&self.reader);
        let mut list = TopicPartitionList::new();
        for partition in some {
            let next = self.open.get(partition).and_then(|reading| reading.next);
            // A known first offset spares librdkafka's half-second wait for its next look at the
            // partition's leader.
            let from = next.map_or_else(
                || {
                    consumer
                        .0
                        .fetch_watermarks(&self.topic, *partition, REQUEST)
                        .map_or(Offset::Beginning, |(first, _)| Offset::Offset(first))
                },
                Offset::Offset,
            );
            list.add_partition_offset(&self.topic, *partition, from)
                .map_err(|error| TakeOverFault::Refused(error.to_string()))?;
        }
        consumer.0.assign(&list).map_err(|error| TakeOverFault::Refused(error.to_string()))?;
        let mut moved = Moment::now();
        while some.iter().any(|partition| self.open.contains_key(partition)) {
            let polled = consumer.0.poll(PAUSE);
            // With every message: nothing of an ended lease may reach what its successor has begun
            // to fill.
            still_owned(self.group, &self.leases, self.stop)?;
            let message = match polled {
                Some(Ok(message)) => message,
                Some(Err(error)) if is_unreadable(&error) => return Ok(Pass::Unreadable(error)),
                Some(Err(error)) => {
                    if let Some(sentence) = read_denial(&error, &self.topic, self.group.group_id())
                    {
                        complain(&sentence);
                    }
                    tracing::debug!(%error, "topic read failed; restore continues");
                    continue;
                }
                None if moved.until(Moment::now()) < self.patience => continue,
                None => match self.behind(some) {
                    Some((partition, next, end)) => {
                        tracing::warn!(
                            kafka.topic = %self.topic,
                            error = %format!("partition {partition} has stood still at offset {next} of {end}"),
                            "restore does not move; reading on with a new consumer"
                        );
                        return Ok(Pass::StoodStill);
                    }
                    // Nothing can be read now, or no broker says so: that proves nothing.
                    None => {
                        moved = Moment::now();
                        continue;
                    }
                },
            };
            moved = Moment::now();
            let partition = message.partition();
            let Some(reading) = self.open.get_mut(&partition) else { continue };
            let barrier = &reading.wanted.barrier;
            if message.key() == barrier.key.as_deref()
                && message.payload() == barrier.value.as_deref()
            {
                entries.insert(partition, reading.entries);
                self.open.remove(&partition);
            } else {
                reading.entries += 1;
                reading.next = Some(message.offset() + 1);
                (self.apply)(partition, message.key().unwrap_or_default(), message.payload())
                    .map_err(TakeOverFault::Refused)?;
                crash::point(Point::TakeOverRead);
                if self.sabotage && crash::fault(Fault::RestoreStandsStill) {
                    self.sabotage = false;
                    tracing::info!("injected fault: restore stops fetching");
                    let _ = consumer.0.pause(&list);
                }
            }
        }
        Ok(Pass::Done)
    }

    /// A partition with something to read behind where its reading stands: partition, that offset,
    /// and the end.
    fn behind(&self, some: &[i32]) -> Option<(i32, i64, i64)> {
        some.iter().find_map(|partition| {
            let reading = self.open.get(partition)?;
            let (first, end) =
                self.reader.0.fetch_watermarks(&self.topic, *partition, REQUEST).ok()?;
            let next = reading.next.unwrap_or(first);
            (next < end).then_some((*partition, next, end))
        })
    }
}
