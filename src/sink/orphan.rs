//! Open intents whose record does not come back: deleted, passed over by offsets that an operator
//! set, no longer readable, or in another partition since `topics repartition`. Marker, warehouse
//! and bound stand in the entry, so the ERP is asked all the same; what to call is gone with the
//! record.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    clock::Moment,
    kafka::{Delivered, Lease},
    schema::{CreateReturnOutbound, JournalEntry},
    telemetry::Trace,
};

use super::{
    engine::{End, Engine},
    partition::{Queued, Work},
    validate::Accepted,
};

/// Epoch of a lease under which nothing is delivered.
const NEVER: u64 = u64::MAX;

/// Open intents by where their record stands, until it is read.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    /// Offset in this partition and journal key.
    here: BTreeSet<(i64, Vec<u8>)>,
    /// Journal keys of records in other partitions, whose owners forward them, and of those whose
    /// place nobody knows, since the log was begun anew.
    elsewhere: Vec<Vec<u8>>,
}

impl Awaited {
    /// `end`: where the partition's log ends, unless it was begun anew. What would stand behind
    /// that stood in another log, and this one may never grow that far.
    pub(super) fn new(
        partition: i32,
        end: Option<i64>,
        open: &HashMap<Vec<u8>, JournalEntry>,
    ) -> Self {
        let mut awaited = Self::default();
        for (key, entry) in open {
            if entry.source_partition == partition
                && end.is_some_and(|end| entry.source_offset < end)
            {
                awaited.here.insert((entry.source_offset, key.clone()));
            } else {
                awaited.elsewhere.push(key.clone());
            }
        }
        awaited
    }

    /// The record at this offset is read, and is the one of this intent.
    pub(super) fn read(&mut self, offset: i64, key: &[u8]) {
        self.here.remove(&(offset, key.to_vec()));
    }

    /// The intents whose record stands at this offset.
    fn at(&self, offset: i64) -> impl Iterator<Item = &[u8]> {
        let all = self.here.range((offset, Vec::new())..);
        all.take_while(move |(at, _)| *at == offset).map(|(_, key)| key.as_slice())
    }

    /// The intents whose record does not come any more; `late`: those that would be forwarded had
    /// their time.
    fn gone(&mut self, passed: i64, late: bool) -> Vec<Vec<u8>> {
        let mut gone = if late { std::mem::take(&mut self.elsewhere) } else { Vec::new() };
        while self.here.first().is_some_and(|(offset, _)| is_gone(*offset, passed)) {
            gone.extend(self.here.pop_first().map(|(_, key)| key));
        }
        gone
    }
}

/// Whether a record at this offset will not be read any more: everything below `passed` was read,
/// or cannot be.
#[must_use]
pub(super) const fn is_gone(offset: i64, passed: i64) -> bool {
    offset < passed
}

/// The command of an entry, as far as the entry knows it: never to be sent.
fn known(entry: &JournalEntry) -> Accepted {
    Accepted {
        command: CreateReturnOutbound {
            command_id: entry.command_id.clone(),
            return_no: entry.return_no.clone(),
            warehouse_no: entry.warehouse_no.clone(),
            logistics_code: None,
            create_mode: None,
            remark: None,
            details: Vec::new(),
            issued_at: None,
            expires_at: None,
        },
        fingerprint: entry.fingerprint.as_slice().try_into().unwrap_or_default(),
        marker: entry.marker.clone(),
    }
}

/// What stands for a record that is gone: its place, and its value as one that is left out.
fn stand_in(entry: &JournalEntry) -> Delivered {
    Delivered {
        lease: Lease { partition: entry.source_partition, epoch: NEVER },
        offset: entry.source_offset,
        key: Some(entry.return_no.clone().into_bytes()),
        value: None,
        left_out: Some(0),
        headers: Vec::new(),
        unreadable_headers: 0,
        timestamp: None,
    }
}

impl Engine<'_> {
    /// Puts the open intents whose record is gone into their keys' lines.
    pub(super) fn work_orphans(&mut self, now: Moment) {
        let mut orphans = Vec::new();
        for partition in self.partitions.values_mut() {
            // What waits for a schema is not read yet.
            if partition.draining || !partition.unlearnt.is_empty() {
                continue;
            }
            let late = now >= partition.restored_at.plus(self.timing.lookup_timeout);
            for key in partition.awaited.gone(partition.log.read_to(), late) {
                // A copy may have settled it.
                let entry = partition.open.get(&key);
                orphans.extend(entry.map(|entry| (partition.lease, entry.clone())));
            }
        }
        for (lease, entry) in orphans {
            tracing::warn!(
                command.id = entry.command_id,
                command.return_no = entry.return_no,
                kafka.partition = entry.source_partition,
                kafka.offset = entry.source_offset,
                "record of an open intent is gone; looking up its order"
            );
            self.queue_orphan(lease, Arc::new(stand_in(&entry)), now, &entry);
        }
    }

    fn queue_orphan(
        &mut self,
        lease: Lease,
        record: Arc<Delivered>,
        received: Moment,
        entry: &JournalEntry,
    ) {
        let trace = Trace::begin((&entry.return_no, &entry.command_id), &record.headers);
        let work = Work::Orphan(Box::new(known(entry)));
        self.enqueue(lease, Queued { record, received, work, trace });
    }

    /// The front of a key's line was to be worked as an orphan, and a copy has settled it meanwhile:
    /// a record gets the outcome again, one that is gone got it then.
    pub(super) fn settled_by_copy(
        &mut self,
        lease: Lease,
        record: Arc<Delivered>,
        received: Moment,
        key: &str,
        entry: Option<JournalEntry>,
    ) {
        if record.lease != lease {
            return self.next_of(lease, key);
        }
        let end = match entry {
            Some(entry) => End::Copy { entry: Box::new(entry) },
            None => End::Poison("the journal does not know its command any more".into()),
        };
        self.end(lease, record, received, Some(key.to_owned()), end);
    }

    /// A record that is no command any more: where it was called as one before, its intent is
    /// worked, and decides what becomes of it.
    pub(super) fn unreadable(
        &mut self,
        record: Arc<Delivered>,
        received: Moment,
        reason: &str,
        end: End,
    ) {
        let lease = record.lease;
        let called = self.partitions.get_mut(&lease.partition).and_then(|partition| {
            let of_record = |key: &&[u8]| {
                let entry = partition.open.get(*key);
                entry.is_some_and(|entry| record.key.as_deref() == Some(entry.return_no.as_bytes()))
            };
            let key = partition.awaited.at(record.offset).find(of_record)?.to_vec();
            partition.awaited.read(record.offset, &key);
            partition.open.get(&key).cloned()
        });
        let Some(entry) = called else { return self.end(lease, record, received, None, end) };
        tracing::warn!(
            command.id = entry.command_id,
            command.return_no = entry.return_no,
            kafka.partition = lease.partition,
            kafka.offset = record.offset,
            error = %reason,
            "record of an open intent is unreadable; looking up its order"
        );
        self.queue_orphan(lease, record, received, &entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Timestamp, schema::EntryKind, sink::settle::bare_entry};

    fn intent(partition: i32, offset: i64) -> JournalEntry {
        let entry = bare_entry(EntryKind::Intent, partition, "W", Timestamp(1));
        JournalEntry { source_offset: offset, ..entry }
    }

    #[test]
    fn an_intent_is_awaited_until_its_record_is_read_or_passed() {
        let key = |name: &str| name.as_bytes().to_vec();
        let open = HashMap::from([
            (key("below"), intent(1, 3)),
            (key("read"), intent(1, 7)),
            (key("ahead"), intent(1, 8)),
            (key("moved"), intent(0, 5)),
            (key("behind"), intent(1, 9)),
        ]);
        let mut awaited = Awaited::new(1, Some(9), &open);
        assert_eq!(awaited.gone(5, false), [key("below")]);
        assert_eq!(awaited.at(7).collect::<Vec<_>>(), [b"read"]);
        awaited.read(7, b"read");
        assert!(awaited.gone(8, false).is_empty());
        let mut gone = awaited.gone(9, true);
        gone.sort();
        assert_eq!(gone, [key("ahead"), key("behind"), key("moved")]);
        assert!(awaited.gone(100, true).is_empty(), "each once");
    }
}
