//! What the pipeline says about itself.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;

use crate::{
    clock::Timestamp,
    erp::Call,
    explanation::Explanation,
    kafka::{GroupView, Offsets},
    metrics::CommandsNow,
    schema::JournalEntry,
};

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
    /// Offsets behind what is committed, by partition: of the own ones by what was committed last,
    /// of all others by what the broker said. Without those of which it has not said anything.
    fn lag(&self, view: &GroupView) -> BTreeMap<i32, u64> {
        let behind = |(partition, offsets): (&i32, &Offsets)| {
            let own = self.partitions.get(partition).map(|own| own.prefix.next());
            let committed = own.or(offsets.committed);
            (*partition, Offsets { committed, ..*offsets }.lag())
        };
        view.offsets.iter().map(behind).collect()
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
        let (now, view) = (Timestamp::now(), self.group_state.view());
        let lag = self.lag(&view);
        let all = (lag.len() == usize::try_from(self.partition_count).unwrap_or(0))
            .then(|| lag.values().sum::<u64>());
        let own = all.map(|_| {
            lag.iter().filter(|(of, _)| self.partitions.contains_key(of)).map(|(_, lag)| lag).sum()
        });
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
        for (partition, records) in &lag {
            self.parts.metrics.consumer_lag(self.group.group_id(), *partition, *records);
        }
        self.parts.metrics.partitions_unowned(ROLE, view.unowned.len());
        let undecided = self.partitions.values().flat_map(|partition| partition.in_doubt.values());
        let waits_since = undecided.clone().copied().min();
        let waiting_for = Duration::from_millis(
            waits_since.map_or(0, |at| u64::try_from(now.0 - at.0).unwrap_or(0)),
        );
        self.parts.metrics.commands_undecided(undecided.count(), waiting_for);
        self.parts.metrics.paused(ROLE, self.paused.is_some());
        self.parts.metrics.partitions(ROLE, self.partitions.len(), self.restoring());
        let without_leader: BTreeMap<_, _> = view
            .leaders
            .iter()
            .flatten()
            .filter(|(_, leaders)| !leaders.lost.is_empty())
            .map(|(topic, leaders)| (topic, &leaders.lost))
            .collect();
        let partitions: Vec<_> = self
            .partitions
            .values()
            .map(|partition| json!({ "partition": partition.lease.partition, "committed_offset": partition.prefix.next(), "pending": partition.prefix.unfinished(), "draining": partition.draining }))
            .collect();
        let awaiting: usize =
            self.partitions.values().map(|partition| partition.in_doubt.len()).sum();
        let decisions = self.decisions();
        let (log_resets, removed_unread) = self.parts.metrics.commands_log();
        let doubts: Vec<_> = self
            .slots
            .values()
            .filter(|slot| slot.life.doubt.is_some())
            .take(SHOWN)
            .map(|slot| {
                // Why lookups decide nothing there, as the last visibility check has it.
                let blind = slot.life.doubt.as_ref().and_then(|doubt| doubt.blind.as_ref());
                json!({
                    "return_no": slot.accepted.command.return_no,
                    "command_id": slot.accepted.command.command_id,
                    "attempt": slot.life.attempt,
                    "since": slot.life.last_attempt_at.map(|at| at.to_string()),
                    "explanation": blind.map(Explanation::en),
                    "explanation_zh": blind.map(Explanation::zh),
                })
            })
            .collect();
        self.parts.board.set(
            ROLE,
            json!({
                "paused": self.paused,
                "circuit": circuit,
                "circuit_reason": reason,
                "received": self.counts.received,
                "results": self.counts.results,
                "duplicates": self.counts.duplicates,
                "recovered": self.counts.recovered,
                "dead_letters": self.counts.dead_letters,
                "forwarded": self.counts.forwarded,
                "log_resets": log_resets,
                "removed_unread": removed_unread,
                "partitioner_advice": self.misplacements.advice(
                    self.partition_count,
                    self.parts.settings.commands.partitioner,
                ),
                "transactions": self.counts.transactions,
                "calls": self.counts.calls,
                "lookups": self.counts.lookups,
                "restored_entries": self.counts.restored_entries,
                "bulk_lookups": self.counts.bundles,
                "settled_by_bulk_lookup": self.counts.sighted,
                "expired_outcomes": self.counts.forgotten,
                "now": {
                    "pending": pending,
                    "consumer_lag_records": all,
                    "consumer_lag_seconds": own.map(|lag: u64| (lag as f64 * 60.0 / self.parts.erp.quota().rate(Call::CreateOrder)).ceil()),
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
                "unowned_partitions": view.unowned,
                "partitions_without_leader": without_leader,
            }),
        );
        self.parts.board.ready(ROLE, self.readiness());
    }
}
