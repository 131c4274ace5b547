//! Outcomes older than the dedup window are forgotten: their owner writes tombstones, a few at a
//! time, in its transactions.
//!
//! An open intent never expires, and neither does a command in doubt: somebody has yet to decide
//! about it. A record that is older than the horizon is looked for in the ERP before its first call
//! (`Engine::is_old`), so forgetting costs a lookup, never an order. What counts is the time of
//! what is being read: a copy that waits in a backlog finds its outcome still. Nor does a clock
//! that somebody set forward make outcomes old: the ERP's has to agree.

use std::{collections::HashSet, sync::Arc, time::Duration};

use crate::{
    clock::{Moment, Timestamp},
    config::Edition,
    kafka::{Lease, Outgoing},
    schema::{EntryKind, JournalEntry, Outcome},
};

use super::{engine::Engine, partition::Partition, settle::journal_key};

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

/// The time against which outcomes are old: now where everything is read, else that of the newest
/// record that was.
fn as_of(
    now: Timestamp,
    end: Option<i64>,
    read_to: i64,
    read_at: Option<Timestamp>,
) -> Option<Timestamp> {
    if end? <= read_to { Some(now) } else { read_at.map(|at| at.min(now)) }
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
        let horizon = self.parts.settings.commands.dedup_window;
        let (from, after) = self.sweep.place.take().unwrap_or((i32::MIN, None));
        let Some((number, partition)) =
            self.partitions.range(from..).find(|(_, partition)| !partition.draining)
        else {
            self.sweep.due = now.plus(rest(horizon));
            return;
        };
        let (number, lease) = (*number, partition.lease);
        let Some(erp) = self.parts.erp.clock(Edition::Flagship).latest else {
            // Nothing is forgotten by a clock that nobody has compared with the ERP's.
            (self.sweep.due, self.sweep.place) = (now.plus(PAUSE), Some((from, after)));
            return;
        };
        let Some(as_of) = as_of(
            Timestamp::now().min(erp.at_most),
            self.group_state.end(number),
            partition.log.read_to(),
            partition.read_at,
        ) else {
            (self.sweep.due, self.sweep.place) = (now.plus(PAUSE), Some((number + 1, None)));
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
        for (key, value) in &page {
            if self
                .parts
                .codec
                .decode_journal(value)
                .is_ok_and(|entry| expired(&entry, as_of, horizon))
            {
                self.expired.push((lease, key.clone()));
            }
        }
        self.sweep.due = now.plus(PAUSE);
        self.sweep.place = Some(if page.len() < STEP {
            (number + 1, None)
        } else {
            (number, page.into_iter().next_back().map(|(key, _)| key))
        });
    }

    /// The tombstones of the next transaction. A key that is being worked on keeps its entry.
    pub(super) fn forget(&mut self) -> Vec<(Lease, Vec<u8>, Outgoing)> {
        if self.expired.is_empty() {
            return Vec::new();
        }
        let busy: HashSet<Vec<u8>> = self
            .slots
            .values()
            .map(|slot| {
                journal_key(&slot.accepted.command.return_no, &slot.accepted.command.command_id)
            })
            .collect();
        // Copies that wait for their turn are answered by the entry.
        let waits = |partition: &Partition, key: &[u8]| {
            serde_json::from_slice::<(String, String)>(key)
                .is_ok_and(|(return_no, _)| partition.keys.contains_key(&return_no))
        };
        let (now, horizon) = (Timestamp::now(), self.parts.settings.commands.dedup_window);
        let next = self.expired.split_off(self.expired.len().saturating_sub(MOST));
        let kept = next.into_iter().filter(|(lease, key)| {
            let partition =
                self.partitions.get(&lease.partition).filter(|partition| partition.lease == *lease);
            let idle = partition.is_some_and(|partition| {
                !partition.open.contains_key(key) && !waits(partition, key)
            }) && !busy.contains(key);
            // It may have been settled anew since it was looked at.
            idle && self
                .recorded(lease.partition, key)
                .is_ok_and(|entry| entry.is_some_and(|entry| expired(&entry, now, horizon)))
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
        let of = |kind, outcome, written_at| JournalEntry {
            outcome,
            ..bare_entry(kind, 0, "W", Timestamp(written_at))
        };
        assert!(expired(&of(EntryKind::Outcome, Some(Outcome::Created), 9_999), now, horizon));
        assert!(expired(&of(EntryKind::Outcome, Some(Outcome::Rejected), 0), now, horizon));
        assert!(!expired(&of(EntryKind::Outcome, Some(Outcome::Created), 10_000), now, horizon));
        assert!(
            !expired(&of(EntryKind::Outcome, Some(Outcome::InDoubt), 0), now, horizon),
            "a person has to decide yet"
        );
        for kind in [EntryKind::Intent, EntryKind::Barrier] {
            assert!(!expired(&of(kind, None, 0), now, horizon));
        }
    }

    #[test]
    fn a_backlog_is_judged_by_its_own_time() {
        let now = Timestamp(100);
        assert_eq!(as_of(now, Some(7), 7, Some(Timestamp(5))), Some(now), "everything is read");
        assert_eq!(as_of(now, Some(9), 7, Some(Timestamp(5))), Some(Timestamp(5)));
        assert_eq!(
            as_of(now, Some(9), 7, Some(Timestamp(500))),
            Some(now),
            "a sender's clock may be ahead"
        );
        assert_eq!(
            (as_of(now, Some(9), 7, None), as_of(now, None, 7, Some(now))),
            (None, None),
            "nothing is known: nothing expires"
        );
    }

    #[test]
    fn passes_are_paced_by_the_horizon() {
        assert_eq!(rest(Duration::from_secs(5)), Duration::from_secs(1));
        assert_eq!(rest(Duration::from_secs(30 * 24 * 3600)), Duration::from_secs(3600));
    }
}
