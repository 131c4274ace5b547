//! What the pipeline says about itself.

use std::time::Duration;

use serde_json::json;

use crate::{clock::Timestamp, erp::Call, metrics::CommandsNow, schema::JournalEntry};

use super::{
    ROLE,
    breaker::Circuit,
    engine::{Engine, Waits},
};

/// Commands named in a list of the status, at most.
const SHOWN: usize = 20;

/// A command that ended in doubt: what a person needs to decide.
fn waiting_for_decision(entry: &JournalEntry) -> serde_json::Value {
    json!({
        "return_no": entry.return_no,
        "command_id": entry.command_id,
        "since": entry.written_at.to_string(),
        "explanation": entry.explanation.en(),
        "explanation_zh": entry.explanation.zh(),
        "erp_code": entry.erp_code,
        "erp_message": entry.erp_message,
        "candidates": entry.candidates,
        "marker": entry.marker,
        "version": entry.version,
    })
}

impl Engine<'_> {
    /// Records behind the committed offsets, over every owned partition; `None` while the broker
    /// has not said.
    fn lag(&self) -> Option<u64> {
        self.ends.watch(self.partitions.keys().copied());
        let behind = |partition: &super::partition::Partition| {
            let end = self.ends.end(partition.lease.partition)?;
            Some(u64::try_from(end - partition.prefix.next()).unwrap_or(0))
        };
        self.partitions.values().map(behind).sum()
    }

    /// The first commands that wait for a person, from the cache of the journal.
    fn decisions(&self) -> Vec<serde_json::Value> {
        let keys = self
            .partitions
            .iter()
            .flat_map(|(partition, of)| of.in_doubt.keys().map(|key| (*partition, key.as_slice())));
        // An entry that cannot be read is told where it is used.
        keys.take(SHOWN)
            .filter_map(|(partition, key)| {
                self.recorded(partition, key).ok()?.as_ref().map(waiting_for_decision)
            })
            .collect()
    }

    /// Puts the pipeline's section on the board and its gauges into the metrics.
    pub(super) fn report(&self) {
        let waiting = |what: Waits| self.slots.values().filter(|slot| slot.waits == what).count();
        let in_doubt = self.slots.values().filter(|slot| slot.life.doubt.is_some()).count();
        let pending: usize =
            self.partitions.values().map(|partition| partition.prefix.unfinished()).sum();
        let open_intents = self.slots.values().filter(|slot| slot.send_by.is_some()).count()
            + self.partitions.values().map(|partition| partition.open.len()).sum::<usize>();
        let (circuit, reason) = match self.breaker.circuit() {
            Circuit::Closed { .. } => ("closed", None),
            Circuit::Open { reason, .. } => ("open", Some(reason.as_str())),
            Circuit::Half { reason, .. } => ("half_open", Some(reason.as_str())),
        };
        let (now, lag) = (Timestamp::now(), self.lag());
        let oldest = self
            .slots
            .values()
            .filter(|slot| slot.life.doubt.is_some())
            .filter_map(|slot| slot.life.last_attempt_at)
            .min();
        self.parts.metrics.commands_now(CommandsNow {
            pending,
            calls: self.flying,
            open_intents,
            unverified: in_doubt,
            unverified_age: Duration::from_millis(
                oldest.map_or(0, |at| u64::try_from(now.0 - at.0).unwrap_or(0)),
            ),
            circuit,
        });
        if let Some(records) = lag {
            self.parts.metrics.consumer_lag(self.group.id(), records);
        }
        let undecided = self.partitions.values().flat_map(|partition| partition.in_doubt.values());
        let waits_since = undecided.clone().copied().min();
        let waiting_for = Duration::from_millis(
            waits_since.map_or(0, |at| u64::try_from(now.0 - at.0).unwrap_or(0)),
        );
        self.parts.metrics.commands_undecided(undecided.count(), waiting_for);
        self.parts.metrics.paused(ROLE, self.paused.is_some());
        self.parts.metrics.partitions(ROLE, self.partitions.len(), self.restoring());
        let partitions: Vec<_> = self
            .partitions
            .values()
            .map(|partition| json!({ "partition": partition.lease.partition, "committed_offset": partition.prefix.next(), "pending": partition.prefix.unfinished(), "draining": partition.draining }))
            .collect();
        let awaiting: usize =
            self.partitions.values().map(|partition| partition.in_doubt.len()).sum();
        let decisions = self.decisions();
        let doubts: Vec<_> = self
            .slots
            .values()
            .filter(|slot| slot.life.doubt.is_some())
            .take(SHOWN)
            .map(|slot| json!({ "return_no": slot.accepted.command.return_no, "command_id": slot.accepted.command.command_id, "attempt": slot.life.attempt, "since": slot.life.last_attempt_at.map(|at| at.to_string()) }))
            .collect();
        self.parts.board.set(
            ROLE,
            json!({
                "paused": self.standstill(),
                "circuit": circuit,
                "circuit_reason": reason,
                "received": self.counts.received,
                "results": self.counts.results,
                "duplicates": self.counts.duplicates,
                "recovered": self.counts.recovered,
                "dead_letters": self.counts.dead_letters,
                "transactions": self.counts.transactions,
                "calls": self.counts.calls,
                "lookups": self.counts.lookups,
                "restored_entries": self.counts.restored_entries,
                "bulk_lookups": self.counts.bundles,
                "settled_by_bulk_lookup": self.counts.sighted,
                "expired_outcomes": self.counts.forgotten,
                "now": {
                    "pending": pending,
                    "consumer_lag_records": lag,
                    "consumer_lag_seconds": lag.map(|lag| (lag as f64 * 60.0 / self.parts.erp.quota().rate(Call::CreateOrder)).ceil()),
                    "waiting_for_quota": waiting(Waits::Permit) + waiting(Waits::Admission),
                    "waiting_for_commit": waiting(Waits::Intent) + waiting(Waits::Settlement),
                    "calls_in_flight": self.flying,
                    "open_intents": open_intents,
                    "unverified": in_doubt,
                },
                "unverified_commands": doubts,
                "awaiting_resolution": awaiting,
                "commands_awaiting_resolution": decisions,
                "partitions": partitions,
            }),
        );
        self.parts.board.ready(ROLE, self.readiness());
    }
}
