//! A command in doubt is asked about: lookups, and the probes of a broken circuit.

use std::{collections::HashSet, sync::Arc};

use tracing::Instrument as _;

use crate::{
    clock::Moment,
    config::Edition,
    crash::{self, Fault, Point},
    erp::Call,
    metrics::Hop,
};

use super::{
    call::{Question, ask, probe},
    engine::{ABNORMAL, Engine, Happened, SlotId, Waits, Word},
    journal::{Finding, Sight, Step},
    letter::credibly_sent,
    partition::given_back,
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
        let orphaned = slot.life.doubt.as_ref().is_some_and(|doubt| doubt.orphaned);
        if !orphaned && crash::fault(Fault::Resend) {
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
        let sent = || credibly_sent(&slot.record, self.parts.erp.later_clock(Edition::Flagship));
        let question = Question {
            return_no: command.return_no.clone(),
            marker: slot.life.marker.clone(),
            since: slot.life.first_intent_at.or_else(sent),
            claimed,
        };
        self.counts.lookups += 1;
        let (erp, settings) = (self.parts.erp.clone(), Arc::clone(&self.parts.settings));
        let failed = Finding::Failed(ABNORMAL.to_owned());
        let account = erp.account();
        let otherwise = Happened::LookedUp { slot: id, finding: failed, account, was_probe };
        let word = Word::new(&self.happened, otherwise);
        let asking = async move {
            crash::point(Point::LookUpAsking);
            let mut finding = ask(&erp, &question, &settings.commands).await;
            if erp.account() != account && matches!(finding, Finding::Absent { .. }) {
                finding = Finding::Failed("the credentials were replaced meanwhile".into());
            }
            crash::point(Point::LookUpAnswered);
            tracing::Span::current()
                .record("erp.call", Call::QueryOutbounds.name())
                .record("erp.result", finding.word());
            Happened::LookedUp { slot: id, finding, account, was_probe }
        };
        word.after(asking.instrument(span));
        true
    }

    pub(super) fn looked_up(
        &mut self,
        id: SlotId,
        finding: Finding,
        account: u64,
        was_probe: bool,
    ) {
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
        let circuit_closed = !self.breaker.is_open();
        self.order += 1;
        self.uncount(id);
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.absent = Some((self.order, account));
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
        let step = slot.life.looked_up(finding, Sight { now, circuit_closed }, &self.timing);
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
    }

    /// An answer that counted before the circuit opened was the outage's, or the account's, and not
    /// the command's.
    pub(super) fn uncount(&mut self, id: SlotId) {
        let (stretch, refusals) = (self.breaker.stretch(), self.breaker.refusals());
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.counted_in.is_some_and(|counted_in| counted_in != stretch) {
            slot.counted_in = None;
            slot.life.uncount();
        }
        if slot.refused_in.is_some_and(|refused_in| refused_in != refusals) {
            slot.refused_in = None;
            slot.life.uncount_refusal();
        }
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
