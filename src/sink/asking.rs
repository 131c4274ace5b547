//! A command in doubt is asked about: lookups, the proof that lookups can see anything, and the
//! probes of a broken circuit.

use std::{collections::HashSet, sync::Arc};

use tracing::Instrument as _;

use crate::{
    clock::Moment,
    crash::{self, Fault, Point},
    erp::Call,
    kafka::Lease,
    metrics::Hop,
};

use super::{
    call::{Question, ask, probe},
    engine::{ABNORMAL, Engine, Happened, Slot, SlotId, Waits, Word},
    journal::{Finding, Sight, Step},
    partition::{Confirmed, given_back},
    settle::{journal_key, journal_prefix},
};

impl Engine<'_> {
    /// Asks about a command; says whether the question is on its way. It is not while the partition
    /// is being given back: the next owner asks.
    pub(super) fn look_up(&mut self, id: SlotId, was_probe: bool) -> bool {
        let Some(slot) = self.slots.get_mut(&id) else { return false };
        if given_back(&self.partitions, slot.lease) {
            return false;
        }
        if crash::fault(Fault::Resend) {
            self.step(id, Step::Intend);
            return false;
        }
        slot.waits = Waits::Finding;
        slot.trace.enter(Hop::Call);
        let span = slot.trace.hop();
        let command = &slot.accepted.command;
        let mut claimed: HashSet<String> = slot.life.dismissed.iter().cloned().collect();
        let own = journal_key(&command.return_no, &command.command_id);
        let codec = &self.parts.codec;
        let scanned = self.store.scan(
            slot.lease.partition,
            &journal_prefix(&command.return_no),
            |key, value| {
                if key != own
                    && let Ok(entry) = codec.decode_journal(value)
                {
                    claimed.extend(entry.outbound_no);
                }
                true
            },
        );
        if let Err(fault) = scanned {
            self.cache_failed = Some(fault.to_string());
            return false;
        }
        let question = Question {
            return_no: command.return_no.clone(),
            marker: slot.life.marker.clone(),
            first_intent_at: slot.life.first_intent_at,
            claimed,
        };
        self.counts.lookups += 1;
        let (erp, settings) = (self.parts.erp.clone(), Arc::clone(&self.parts.settings));
        let failed = Finding::Failed(ABNORMAL.to_owned());
        let word =
            Word::new(&self.happened, Happened::LookedUp { slot: id, finding: failed, was_probe });
        let asking = async move {
            crash::point(Point::LookUpAsking);
            let finding = ask(&erp, &question, &settings.commands).await;
            crash::point(Point::LookUpAnswered);
            tracing::Span::current()
                .record("erp.call", Call::QueryOutbounds.name())
                .record("erp.result", finding.word());
            Happened::LookedUp { slot: id, finding, was_probe }
        };
        word.after(asking.instrument(span));
        true
    }

    pub(super) fn looked_up(&mut self, id: SlotId, finding: Finding, was_probe: bool) {
        let now = Moment::now();
        if was_probe {
            match &finding {
                // It may have failed for a reason of its own: only a question about nothing in
                // particular tells.
                Finding::Failed(_) if self.breaker.probe_at().is_some() => self.send_probe(),
                // The circuit has closed meanwhile.
                Finding::Failed(_) => self.probing = false,
                Finding::Found(_) | Finding::Suspects(_) | Finding::Absent { .. } => {
                    self.probed(Ok(()))
                }
            }
        }
        let (circuit_closed, stretch) = (self.breaker.closed(), self.breaker.stretch());
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.counted_in.is_some_and(|counted_in| counted_in != stretch) {
            slot.counted_in = None;
            slot.life.uncount();
        }
        let warehouse_no = slot.accepted.command.warehouse_no.clone();
        let lease = slot.lease;
        let seen = matches!(finding, Finding::Found(_));
        let proven = self.proofs.contains(&warehouse_no);
        if let Finding::Failed(reason) = &finding {
            tracing::debug!(
                command.id = slot.accepted.command.command_id,
                command.return_no = slot.accepted.command.return_no,
                error = %reason,
                "lookup failed"
            );
        }
        let pair =
            (slot.accepted.command.return_no.as_str(), slot.accepted.command.command_id.as_str());
        self.parts.metrics.hop(Hop::Call, finding.word());
        self.parts.board.step(pair, Hop::Call.name(), finding.word(), finding.detail());
        let found = finding.word();
        let step =
            slot.life.looked_up(finding, Sight { now, proven, circuit_closed }, &self.timing);
        crash::point(Point::FindingJudged);
        tracing::info!(
            command.id = slot.accepted.command.command_id,
            command.return_no = slot.accepted.command.return_no,
            command.attempt = slot.life.attempt,
            command.next_step = step.word(),
            erp.result = found,
            "lookup finished"
        );
        self.step(id, step);
        if seen {
            self.prove(lease, &warehouse_no);
        }
    }

    /// Lookups see our markers in this warehouse: whoever waited for that asks again. Journaled
    /// under `lease`.
    pub(super) fn prove(&mut self, lease: Lease, warehouse_no: &str) {
        if !self.proofs.insert(warehouse_no.to_owned()) {
            return;
        }
        self.new_proofs.push((lease, warehouse_no.to_owned()));
        self.confirmed.remove(warehouse_no);
        let now = Moment::now();
        let waits = |slot: &Slot| {
            slot.waits == Waits::Proof && slot.accepted.command.warehouse_no == warehouse_no
        };
        let waiting: Vec<SlotId> =
            self.slots.iter().filter(|(_, slot)| waits(slot)).map(|(id, _)| *id).collect();
        for id in waiting {
            self.wake_at(id, Waits::Ask, now);
        }
    }

    /// An order of the warehouse that exists for certain is looked up, only while somebody waits
    /// for the proof that such orders can be seen.
    pub(super) fn seek_proof(&mut self, warehouse_no: &str) {
        // Asked with every created order of an unproven warehouse, so only those that once began to
        // wait are looked at.
        let slots = &self.slots;
        self.unproven.retain(|id| slots.get(id).is_some_and(|slot| slot.waits == Waits::Proof));
        let awaited = self.unproven.iter().any(|id| {
            slots.get(id).is_some_and(|slot| slot.accepted.command.warehouse_no == warehouse_no)
        });
        let Some(confirmed) = self.confirmed.get(warehouse_no).cloned() else { return };
        let warehouse_no = warehouse_no.to_owned();
        if !awaited || !self.proof_sought.insert(warehouse_no.clone()) {
            return;
        }
        let Confirmed { return_no, marker } = confirmed;
        let (erp, settings) = (self.parts.erp.clone(), Arc::clone(&self.parts.settings));
        let word = Word::new(
            &self.happened,
            Happened::ProofSought { warehouse_no: warehouse_no.clone(), seen: false },
        );
        word.after(async move {
            // It becomes visible within max_visibility_lag, or the next created order is tried.
            let question =
                Question { return_no, marker, first_intent_at: None, claimed: HashSet::new() };
            let deadline = Moment::now()
                .plus(settings.max_visibility_lag)
                .plus(settings.commands.lookup_interval);
            let seen = loop {
                if matches!(ask(&erp, &question, &settings.commands).await, Finding::Found(_)) {
                    break true;
                }
                if Moment::now() >= deadline {
                    break false;
                }
                tokio::time::sleep(settings.commands.lookup_interval).await;
            };
            Happened::ProofSought { warehouse_no, seen }
        });
    }

    /// A probe goes out when one is due and no lookup did the same.
    pub(super) fn probe(&mut self, now: Moment) {
        if self.probing || self.breaker.probe_at().is_none_or(|at| at > now) {
            return;
        }
        self.send_probe();
    }

    fn send_probe(&mut self) {
        self.probing = true;
        let (erp, timeout) = (self.parts.erp.clone(), self.parts.settings.commands.call_timeout);
        let word = Word::new(&self.happened, Happened::Probed(Err(ABNORMAL.to_owned())));
        word.after(async move { Happened::Probed(probe(&erp, timeout).await) });
    }

    /// A probe was answered, or not.
    pub(super) fn probed(&mut self, answered: Result<(), String>) {
        self.probing = false;
        self.breaker.probed(answered, Moment::now());
    }
}
