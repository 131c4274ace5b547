//! What the route says about itself.

use std::time::Duration;

use serde_json::json;

use crate::{clock::Timestamp, metrics::CommandsNow};

use super::{
    ROLE,
    breaker::Circuit,
    engine::{Engine, Waits},
};

impl Engine<'_> {
    /// Records behind the committed offsets, over every owned partition; `None` while the broker has not said.
    fn lag(&self) -> Option<u64> {
        self.ends.watch(self.partitions.keys().copied());
        let behind = |partition: &super::partition::Partition| {
            let end = self.ends.end(partition.lease.partition)?;
            Some(u64::try_from(end - partition.prefix.next()).unwrap_or(0))
        };
        self.partitions.values().map(behind).sum()
    }

    /// Puts the route's section on the board and its gauges into the metrics.
    pub(super) fn report(&self) {
        let waiting = |what: Waits| self.slots.values().filter(|slot| slot.waits == what).count();
        let in_doubt = self.slots.values().filter(|slot| slot.life.doubt.is_some()).count();
        let pending: usize = self.partitions.values().map(|partition| partition.prefix.unfinished()).sum();
        let open_intents = self.slots.values().filter(|slot| slot.send_by.is_some()).count()
            + self.partitions.values().map(|partition| partition.open.len()).sum::<usize>();
        let (circuit, reason) = match self.breaker.circuit() {
            Circuit::Closed { .. } => ("closed", None),
            Circuit::Open { reason, .. } => ("open", Some(reason.as_str())),
            Circuit::Half { reason, .. } => ("half_open", Some(reason.as_str())),
        };
        let (now, lag) = (Timestamp::now(), self.lag());
        let oldest = self.slots.values().filter(|slot| slot.life.doubt.is_some()).filter_map(|slot| slot.life.last_attempt_at).min();
        self.parts.metrics.commands_now(CommandsNow {
            pending,
            calls: self.flying,
            open_intents,
            in_doubt,
            in_doubt_age: Duration::from_millis(oldest.map_or(0, |at| u64::try_from(now.0 - at.0).unwrap_or(0))),
            circuit,
            lag,
        });
        self.parts.metrics.partitions(ROLE, self.partitions.len(), self.restoring());
        let partitions: Vec<_> = self
            .partitions
            .values()
            .map(|partition| json!({ "partition": partition.lease.partition, "committed_offset": partition.prefix.next(), "pending": partition.prefix.unfinished(), "draining": partition.draining }))
            .collect();
        let doubts: Vec<_> = self
            .slots
            .values()
            .filter(|slot| slot.life.doubt.is_some())
            .take(20)
            .map(|slot| json!({ "return_no": slot.accepted.command.return_no, "command_id": slot.accepted.command.command_id, "attempt": slot.life.attempt, "since": slot.life.last_attempt_at.map(|at| at.to_string()) }))
            .collect();
        self.parts.board.set(
            ROLE,
            json!({
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
                "now": {
                    "pending": pending,
                    "lag_records": lag,
                    "waiting_for_quota": waiting(Waits::Permit) + waiting(Waits::Admission),
                    "waiting_for_commit": waiting(Waits::Intent) + waiting(Waits::Settlement),
                    "calls_in_flight": self.flying,
                    "open_intents": open_intents,
                    "in_doubt": in_doubt,
                },
                "in_doubt_commands": doubts,
                "partitions": partitions,
            }),
        );
        self.parts.board.ready(ROLE, self.readiness());
    }
}
