//! Outcomes older than the dedupe horizon are forgotten: their owner writes tombstones, a few at a time, in its transactions.
//!
//! An open intent never expires, and neither does a command in doubt: somebody has yet to decide about it. A record that is
//! older than the horizon is looked for in the ERP before its first call (`Engine::is_old`), so forgetting costs a look-up,
//! never an order.

use std::{collections::HashSet, sync::Arc, time::Duration};

use crate::{
    clock::{Moment, Timestamp},
    kafka::{Lease, Outgoing},
    schema::{EntryKind, JournalEntry, Outcome},
};

use super::{engine::Engine, settle::journal_key};

/// Entries looked at in one step.
const STEP: usize = 500;
/// Between two steps of one pass.
const PAUSE: Duration = Duration::from_millis(250);
/// Tombstones in one transaction, at most.
pub(super) const MOST: usize = 200;

/// Where the pass over the journal stands.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    due: Moment,
    /// The next partition, and the key after which to go on.
    place: Option<(i32, Option<Vec<u8>>)>,
}

/// Between two passes: a hundredth of the horizon.
fn rest(horizon: Duration) -> Duration {
    (horizon / 100).clamp(Duration::from_secs(1), Duration::from_secs(3600))
}

/// Whether the entry may be forgotten.
pub(super) fn expired(entry: &JournalEntry, now: Timestamp, horizon: Duration) -> bool {
    entry.kind == EntryKind::Outcome
        && entry.outcome.is_some_and(|outcome| outcome != Outcome::InDoubt)
        && entry.written_at < now.minus(horizon)
}

impl Engine<'_> {
    /// One step of the pass, when it is due.
    pub(super) fn sweep(&mut self, now: Moment) {
        if now < self.sweep.due || self.expired.len() >= MOST {
            return;
        }
        let horizon = self.parts.settings.commands.dedupe_horizon;
        let (from, after) = self.sweep.place.take().unwrap_or((i32::MIN, None));
        let Some((number, lease)) =
            self.partitions.range(from..).find(|(_, partition)| !partition.draining).map(|(number, partition)| (*number, partition.lease))
        else {
            self.sweep.due = now.plus(rest(horizon));
            return;
        };
        let after = after.filter(|_| number == from);
        let page = match self.store.page(number, after.as_deref(), STEP) {
            Ok(page) => page,
            Err(fault) => {
                self.cache_failed = Some(fault.to_string());
                return;
            }
        };
        let wall = Timestamp::now();
        for (key, value) in &page {
            if self.parts.codec.decode_journal(value).is_ok_and(|entry| expired(&entry, wall, horizon)) {
                self.expired.push((lease, key.clone()));
            }
        }
        self.sweep.due = now.plus(PAUSE);
        self.sweep.place =
            Some(if page.len() < STEP { (number + 1, None) } else { (number, page.into_iter().next_back().map(|(key, _)| key)) });
    }

    /// The tombstones of the next transaction. A key that is being worked on keeps its entry.
    pub(super) fn forget(&mut self) -> Vec<(Lease, Vec<u8>, Outgoing)> {
        if self.expired.is_empty() {
            return Vec::new();
        }
        let busy: HashSet<Vec<u8>> =
            self.slots.values().map(|slot| journal_key(&slot.accepted.command.return_no, &slot.accepted.command.command_id)).collect();
        let now = self.expired.split_off(self.expired.len().saturating_sub(MOST));
        let kept = now.into_iter().filter(|(lease, key)| {
            let partition = self.partitions.get(&lease.partition).filter(|partition| partition.lease == *lease);
            partition.is_some_and(|partition| !partition.open.contains_key(key)) && !busy.contains(key)
        });
        kept.map(|(lease, key)| {
            let tombstone = Outgoing {
                topic: Arc::clone(&self.names.journal),
                partition: Some(lease.partition),
                key: Some(key.clone()),
                value: None,
                headers: Vec::new(),
            };
            (lease, key, tombstone)
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::settle::bare_entry;

    #[test]
    fn only_settled_outcomes_expire() {
        let horizon = Duration::from_secs(10);
        let now = Timestamp(20_000);
        let of = |kind, outcome, written_at| JournalEntry { outcome, ..bare_entry(kind, 0, "W", Timestamp(written_at)) };
        assert!(expired(&of(EntryKind::Outcome, Some(Outcome::Created), 9_999), now, horizon));
        assert!(expired(&of(EntryKind::Outcome, Some(Outcome::Rejected), 0), now, horizon));
        assert!(!expired(&of(EntryKind::Outcome, Some(Outcome::Created), 10_000), now, horizon));
        assert!(!expired(&of(EntryKind::Outcome, Some(Outcome::InDoubt), 0), now, horizon), "a person has to decide yet");
        for kind in [EntryKind::Intent, EntryKind::Barrier, EntryKind::Proof] {
            assert!(!expired(&of(kind, None, 0), now, horizon));
        }
    }

    #[test]
    fn passes_are_paced_by_the_horizon() {
        assert_eq!(rest(Duration::from_secs(5)), Duration::from_secs(1));
        assert_eq!(rest(Duration::from_secs(30 * 24 * 3600)), Duration::from_secs(3600));
    }
}
