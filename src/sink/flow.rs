//! What a command goes through between its verdict and its end: admitted, called, answered,
//! settled.

use std::{sync::Arc, time::Duration};

use tracing::Instrument as _;

use crate::{
    clock::{Moment, Timestamp},
    config::Edition,
    crash::{self, Fault, Point},
    erp::{Answer, Call, Class, Layer, NotExecuted, Permit, Place},
    kafka::Lease,
    metrics::Hop,
    schema::Outcome,
};

use super::{
    breaker::Circuit,
    call::{Guard, order_request},
    engine::{ABNORMAL, End, Engine, Happened, SlotId, Waits, Word},
    journal::{Step, released},
    partition::given_back,
    retry::Pauses,
    settle::journal_key,
    story::Asked,
    visibility::Reference,
};

impl Engine<'_> {
    /// Carries out what was decided for a slot.
    pub(super) fn step(&mut self, id: SlotId, step: Step) {
        let now = Moment::now();
        self.parts.metrics.hop(Hop::Outcome, step.word());
        let Some(slot) = self.slots.get_mut(&id) else { return };
        match step {
            Step::Intend => {
                slot.trace.enter(Hop::Journal);
                slot.send_by = None;
                slot.waits = Waits::Admission;
                self.admission.push_back(id);
            }
            Step::Later { pause } => {
                if slot.life.doubt.is_some() {
                    // A decided absence begins a new attempt with an intent of its own.
                    slot.send_by = None;
                }
                self.wake_at(id, Waits::Admission, now.plus(pause));
            }
            Step::Again => {
                let pause = slot
                    .pauses
                    .get_or_insert_with(|| Pauses::from(Duration::from_millis(200)))
                    .next_pause();
                self.wake_at(id, Waits::Admission, now.plus(pause));
            }
            Step::Ask { at } => self.wake_at(id, Waits::Ask, at),
            Step::AwaitVisibility { until } => {
                let warehouse_no = slot.accepted.command.warehouse_no.clone();
                self.wake_at(id, Waits::Visibility, until);
                self.checks.entry(warehouse_no).or_default();
            }
            Step::Settle(ending) => {
                slot.waits = Waits::Settlement;
                slot.trace.enter(Hop::Settle);
                slot.trace.ended(ending.outcome.name());
                let (lease, record, received) =
                    (slot.lease, Arc::clone(&slot.record), slot.received);
                let key = Some(slot.accepted.command.return_no.clone());
                let created = (ending.outcome == Outcome::Created).then(|| {
                    let order = Reference {
                        return_no: slot.accepted.command.return_no.clone(),
                        marker: slot.life.marker.clone(),
                        created_at: Timestamp::now(),
                    };
                    (slot.accepted.command.warehouse_no.clone(), order)
                });
                self.end(lease, record, received, key, End::Life { slot: id, ending });
                if let Some((warehouse_no, order)) = created {
                    self.refer_to(&warehouse_no, order);
                }
            }
        }
    }

    /// Carries out everything whose time has come.
    pub(super) fn due(&mut self, now: Moment) {
        while let Some(id) = self.next_due(now) {
            let Some(slot) = self.slots.get(&id) else { continue };
            match slot.waits {
                Waits::Admission => self.admission.push_back(id),
                Waits::Visibility => self.no_check_in_time(id, now),
                Waits::Ask => match self.breaker.probe_at() {
                    // An open circuit is probed by one lookup at a time, when a probe is due.
                    Some(probe_at) if self.probing || probe_at > now => {
                        self.wake_at(
                            id,
                            Waits::Ask,
                            probe_at.max(now.plus(Duration::from_millis(200))),
                        );
                    }
                    // A question that does not leave probes nothing: the next one that is due does,
                    // or a probe of its own.
                    Some(_) => self.probing = self.look_up(id, true),
                    None => {
                        self.look_up(id, false);
                    }
                },
                Waits::Permit
                | Waits::Intent
                | Waits::Wire
                | Waits::Answer
                | Waits::Sighting
                | Waits::Finding
                | Waits::Settlement => {}
            }
        }
    }

    /// How many commands may be between their turn and the wire: one for every free place, and for
    /// those that become free while one transaction gathers them and the next commits their
    /// intents. What stands on the wire with a committed intent is then at most one transaction's
    /// worth ahead of the places: a fast ERP does not wait for intents, and at a slow one they do
    /// not run out. Permits that the budget gives in a second are enough, as others may need them.
    fn reach(&self) -> usize {
        let most = self.parts.settings.commands.max_in_flight;
        let room = self.parts.erp.quota().room(Call::CreateOrder);
        let free = most.saturating_sub(self.flying).min(room.places);
        let soon = self.freed_lately.saturating_mul(2).clamp(1, most.saturating_mul(8));
        (free + soon).min(room.permits)
    }

    /// Takes commands in line into the quota's, as far ahead of the wire as [`Engine::reach`] says.
    pub(super) fn admit(&mut self, now: Moment) {
        if self.paused.is_some() {
            return self.give_permits_back();
        }
        let most = match self.breaker.circuit() {
            Circuit::Closed { .. } => self.reach(),
            Circuit::Half { .. } => 1_usize.saturating_sub(self.flying),
            Circuit::Open { .. } => {
                self.give_permits_back();
                return;
            }
        };
        let ahead = self.committing.as_ref().map_or(0, super::commit::Commit::intents);
        while self.permits_pending + self.intents.len() + ahead + self.wire.len() < most {
            let Some(id) = self.admission.pop_front() else { break };
            let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.waits == Waits::Admission)
            else {
                continue;
            };
            if given_back(&self.partitions, slot.lease) {
                continue;
            }
            let deadline = slot.accepted.command.expires_at;
            if slot.life.first_intent_at.is_none()
                && deadline.is_some_and(|deadline| {
                    deadline < self.parts.erp.earlier_clock(Edition::Flagship)
                })
            {
                self.expire(id);
                continue;
            }
            if slot.permit.is_some() {
                self.permitted_now(id, now);
                continue;
            }
            slot.waits = Waits::Permit;
            self.permits_pending += 1;
            let quota = self.parts.erp.quota().clone();
            Word::new(&self.happened, Happened::Permitted(id, None)).after(async move {
                crash::panic_once_if(Fault::PermitPanic);
                let permit = quota.acquire(Call::CreateOrder, Class::Command).await;
                Happened::Permitted(id, Some(permit))
            });
        }
    }

    fn expire(&mut self, id: SlotId) {
        let Some(slot) = self.slots.remove(&id) else { return };
        let command = &slot.accepted.command;
        let end = End::Plain {
            outcome: Outcome::Expired,
            return_no: command.return_no.clone(),
            command_id: command.command_id.clone(),
            violations: Vec::new(),
        };
        let key = Some(command.return_no.clone());
        self.end(slot.lease, slot.record, slot.received, key, end);
    }

    /// While the circuit is open or the pipeline is paused nobody sits on a permit: lookups need
    /// the room.
    fn give_permits_back(&mut self) {
        // An intent that ran out on the wire stands in line with its permit.
        for id in &self.admission {
            if let Some(slot) = self.slots.get_mut(id) {
                slot.permit = None;
            }
        }
        for id in self.intents.drain(..).chain(self.wire.drain(..)).collect::<Vec<_>>() {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.permit = None;
                slot.waits = Waits::Admission;
                self.admission.push_front(id);
            }
        }
    }

    pub(super) fn permitted(&mut self, id: SlotId, permit: Option<Permit>) {
        self.permits_pending = self.permits_pending.saturating_sub(1);
        let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.waits == Waits::Permit) else {
            return;
        };
        if given_back(&self.partitions, slot.lease) {
            return;
        }
        let Some(permit) = permit else { return self.step(id, Step::Again) };
        slot.permit = Some(permit);
        crash::point(Point::CommandPermitted);
        self.permitted_now(id, Moment::now());
    }

    /// Before a partition is given away, intents that certainly had no effect are taken back: the
    /// next owner then calls at once instead of asking. Only first attempts: of a later one the
    /// earlier call is still in doubt.
    pub(super) fn withdraw_all(&mut self, lease: Lease) {
        let idle: Vec<SlotId> =
            self.slots.iter().filter(|(_, slot)| slot.lease == lease).map(|(id, _)| *id).collect();
        for id in idle {
            self.withdraw(id);
            // What is not called here any more needs no room.
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.permit = None;
            }
        }
    }

    /// As [`Engine::withdraw_all`], of one command.
    pub(super) fn withdraw(&mut self, id: SlotId) {
        let Some(slot) = self.slots.get(&id) else { return };
        let waits = match slot.waits {
            Waits::Admission | Waits::Permit | Waits::Wire => true,
            // An intent may be in the transaction that is on its way; it is taken back once that is
            // over.
            Waits::Intent => !self.committing.as_ref().is_some_and(|commit| commit.intends(id)),
            Waits::Answer
            | Waits::Sighting
            | Waits::Ask
            | Waits::Finding
            | Waits::Visibility
            | Waits::Settlement => false,
        };
        if !waits || !slot.life.may_be_withdrawn() {
            return;
        }
        let command = &slot.accepted.command;
        let key = journal_key(&command.return_no, &command.command_id);
        self.withdrawn.push((slot.lease, key));
        self.slots.remove(&id);
    }

    /// Permit first, then intent, then call; an intent that is still good is used again.
    fn permitted_now(&mut self, id: SlotId, now: Moment) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if released(slot.send_by, now).is_some() {
            slot.waits = Waits::Wire;
            self.wire.push_back(id);
        } else {
            slot.waits = Waits::Intent;
            self.intents.push_back(id);
        }
    }

    /// Calls leave while there are places on the wire; an intent that ran out is renewed, not used.
    pub(super) fn send(&mut self, now: Moment) {
        let most = self.parts.settings.commands.max_in_flight;
        while self.breaker.room(self.flying, most) > 0 {
            let Some(id) = self.wire.pop_front() else { break };
            let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.waits == Waits::Wire)
            else {
                continue;
            };
            if given_back(&self.partitions, slot.lease) {
                continue;
            }
            let Some(send_by) = released(slot.send_by, now) else {
                // The permit is kept for the renewed intent: without one it could only be renewed
                // for ever.
                slot.send_by = None;
                slot.waits = Waits::Admission;
                self.admission.push_front(id);
                continue;
            };
            let Some(mut permit) = slot.permit.take() else {
                slot.waits = Waits::Admission;
                self.admission.push_front(id);
                continue;
            };
            let quota = self.parts.erp.quota();
            let place = self.place.take().or_else(|| quota.place_at_once(Call::CreateOrder));
            let Some(place) = place else {
                slot.permit = Some(permit);
                self.wire.push_front(id);
                self.want_place();
                break;
            };
            permit.put(place);
            slot.waits = Waits::Answer;
            let at = Timestamp::now();
            slot.life.first_attempt_at.get_or_insert(at);
            slot.life.last_attempt_at = Some(at);
            self.flying += 1;
            self.counts.calls += 1;
            self.breaker.left();
            let epoch = self.breaker.epoch();
            let order = order_request(&slot.accepted.command, &slot.life.marker);
            let guard = Arc::new(Guard { group: self.group.clone(), lease: slot.lease, send_by });
            let (erp, timeout) =
                (self.parts.erp.clone(), self.parts.settings.commands.call_timeout);
            let unknown = Answer::Unknown { reason: ABNORMAL.to_owned(), refusal: None };
            let word =
                Word::new(&self.happened, Happened::Answered { slot: id, answer: unknown, epoch });
            slot.trace.enter(Hop::Call);
            let asked = Asked::about(&slot.accepted.command, slot.life.attempt, slot.trace.id());
            let calling = async move {
                crash::point(Point::CallLeaving);
                let answer = erp.create_order(permit, &order, timeout, guard).await;
                crash::point(Point::CallAnswered);
                asked.answered(&answer);
                Happened::Answered { slot: id, answer, epoch }
            };
            word.after(calling.instrument(slot.trace.hop()));
        }
        // Others may use it.
        self.place = None;
    }

    /// Stands in the line for places on behalf of whichever command leaves next: until then each of
    /// them may be withdrawn, renewed or paused.
    fn want_place(&mut self) {
        if self.place_wanted {
            return;
        }
        self.place_wanted = true;
        let quota = self.parts.erp.quota().clone();
        Word::new(&self.happened, Happened::Placed(None)).after(async move {
            Happened::Placed(Some(quota.place(Call::CreateOrder, Class::Command).await))
        });
    }

    /// [`Engine::send`] uses it in this turn, or gives it back.
    pub(super) fn placed(&mut self, place: Option<Place>) {
        self.place_wanted = false;
        self.place = place;
    }

    pub(super) fn answered(&mut self, id: SlotId, answer: Answer, epoch: Option<u64>) {
        let now = Moment::now();
        crash::panic_if(Fault::Panic, &(&self.parts.settings, &self.parts.erp, &answer));
        self.flying = self.flying.saturating_sub(1);
        self.freed += 1;
        match &answer {
            Answer::Created { .. } | Answer::Rejected(_) | Answer::ProbablyCreated(_) => {
                self.breaker.success()
            }
            Answer::Unlisted { refusal, layer: Layer::Outer } => {
                self.breaker.refused(id, refusal, now)
            }
            // The outer layer took the call: it is about this command alone.
            Answer::Unlisted { layer: Layer::Data, .. } => self.breaker.neutral(),
            // The ERP's database, which a command's own content can upset for ever.
            Answer::Unknown { reason, refusal: Some(_) } => {
                self.breaker.failure_of(id, reason, now)
            }
            Answer::NotExecuted(NotExecuted::Unreachable { reason })
            | Answer::Unknown { reason, refusal: None } => self.breaker.failure(reason, now),
            Answer::NotExecuted(NotExecuted::Throttled { .. } | NotExecuted::Withheld) => {
                self.breaker.neutral()
            }
            Answer::Misconfigured(refusal) => {
                let reason = format!(
                    "the ERP refuses createOrder with {}: {}{}",
                    refusal.code,
                    refusal.message,
                    refusal
                        .explanation
                        .as_ref()
                        .map(|explanation| format!(" ({})", explanation.en()))
                        .unwrap_or_default()
                );
                self.breaker.misconfigured(&reason, now);
            }
        }
        self.uncount(id);
        let refused = matches!(answer, Answer::Unlisted { layer: Layer::Outer, .. });
        let counts = match &answer {
            Answer::Unlisted { layer: Layer::Outer, .. } => self.breaker.refusals_count(),
            Answer::Unlisted { layer: Layer::Data, .. } => true,
            _ => epoch.is_some() && epoch == self.breaker.epoch(),
        };
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let unclear = match &answer {
            Answer::Unknown { reason, .. } => Some(reason.clone()),
            Answer::Unlisted { refusal, .. } | Answer::ProbablyCreated(refusal) => {
                Some(format!("{}: {}", refusal.code, refusal.message))
            }
            Answer::Created { .. }
            | Answer::Rejected(_)
            | Answer::NotExecuted(_)
            | Answer::Misconfigured(_) => None,
        };
        if let Some(reason) = unclear {
            tracing::warn!(
                command.id = slot.accepted.command.command_id,
                command.return_no = slot.accepted.command.return_no,
                command.attempt = slot.life.attempt,
                error = %reason,
                "createOrder outcome unknown; looking up the order"
            );
        }
        let pair =
            (slot.accepted.command.return_no.as_str(), slot.accepted.command.command_id.as_str());
        self.parts.metrics.hop(Hop::Call, answer.word());
        self.parts.board.step(pair, Hop::Call.name(), answer.word(), answer.detail());
        slot.counted_in = epoch.filter(|_| counts && matches!(answer, Answer::Unknown { .. }));
        slot.refused_in = (refused && counts).then(|| self.breaker.refusals());
        let withheld = matches!(answer, Answer::NotExecuted(NotExecuted::Withheld));
        let send_by = slot.send_by.unwrap_or(now);
        let step = slot.life.answered(answer, send_by, counts, now, &self.timing);
        if slot.life.is_noted() {
            self.notes.push(id);
        }
        crash::point(Point::AnswerJudged);
        if step == Step::Again && withheld {
            // The intent ran out on the way: renewed without a pause.
            slot.send_by = None;
            slot.waits = Waits::Admission;
            self.admission.push_front(id);
            return;
        }
        self.step(id, step);
    }
}
