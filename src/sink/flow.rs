//! What a command goes through between its delivery and its end: judged, admitted, called, asked about.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tracing::Instrument as _;

use crate::{
    clock::{Moment, Timestamp},
    crash::{self, Fault, Point},
    erp::{Answer, Call, Class, NotExecuted, Permit},
    kafka::{Delivered, Lease},
    metrics::Hop,
    schema::{LearnFault, Outcome},
    telemetry::Trace,
};

use super::{
    breaker::Circuit,
    call::{Guard, Question, ask, order_request, probe},
    command::{Parsed, parse},
    decision::Decision,
    engine::{End, Engine, Happened, Ready, Slot, SlotId, Waits},
    journal::{Finding, Known, Sight, Step, Verdict, judge, released},
    letter::replays,
    partition::{Confirmed, Queued, Work, its_turn},
    placement::{Placement, Treatment, tells},
    retry::Pauses,
    settle::{journal_key, journal_prefix},
    story::Asked,
    validate::{check_placement, validate},
};

impl Engine<'_> {
    /// One record, as it comes from the group.
    pub(super) fn delivered(&mut self, record: Delivered) {
        let lease = record.lease;
        let Some(partition) = self.partitions.get_mut(&lease.partition).filter(|partition| partition.lease == lease) else { return };
        if !partition.unlearnt.is_empty() {
            partition.unlearnt.push_back(record);
            return;
        }
        if record.offset < partition.start || !partition.prefix.deliver(record.offset) {
            // An earlier owner settled it: reading it again is no copy.
            self.group.release(lease, 1);
            return;
        }
        crash::point(Point::CommandDelivered);
        self.counts.received += 1;
        self.parts.metrics.command_received();
        self.read(record);
    }

    fn read(&mut self, record: Delivered) {
        if self.placement.misfit().is_some() {
            return self.held_back.push(record);
        }
        let received = Moment::now();
        let lease = record.lease;
        let settings = &self.parts.settings.commands;
        if let Some(decision) = Decision::read(&record) {
            let placed = decision.and_then(|decision| {
                check_placement(record.key.as_deref(), &decision.return_no, lease.partition, self.partition_count, settings.partitioner)
                    .map(|()| decision)
            });
            return match placed {
                Ok(decision) => {
                    let mut trace = Trace::begin((&decision.return_no, &decision.command_id), &record.headers);
                    trace.enter(Hop::Journal);
                    self.enqueue(Queued { record: Arc::new(record), received, work: Work::Decision(decision), trace });
                }
                Err(reason) => self.end(lease, Arc::new(record), received, None, End::Refused(reason)),
            };
        }
        let parsed = parse(&record, settings.format, &self.parts.codec);
        self.parts.metrics.hop(Hop::Command, parsed.word());
        match parsed {
            Parsed::Poison(reason) => self.end(lease, Arc::new(record), received, None, End::Poison(reason)),
            Parsed::Unlearnt(id) => {
                if let Some(partition) = self.partitions.get_mut(&lease.partition) {
                    partition.unlearnt.push_front(record);
                }
                self.learn(lease, id, Duration::ZERO);
            }
            Parsed::Invalid { return_no, command_id, violations } => {
                self.invalid(lease, record, received, return_no, command_id, violations)
            }
            Parsed::Command(command) => {
                let key_fits = record.key.as_deref() == Some(command.return_no.as_bytes());
                crash::point(Point::CommandRead);
                let placed =
                    check_placement(record.key.as_deref(), &command.return_no, lease.partition, self.partition_count, settings.partitioner);
                let (return_no, command_id) = (command.return_no.clone(), command.command_id.clone());
                let mut trace = Trace::begin((&return_no, &command_id), &record.headers);
                match (placed, validate(*command)) {
                    (Ok(()), validated) => {
                        if tells(&return_no, lease.partition, self.partition_count, settings.partitioner) {
                            self.placement.fits();
                        }
                        match validated {
                            Ok(accepted) => {
                                self.passed((&return_no, &command_id), Hop::Validate, "accepted", None);
                                trace.enter(Hop::Journal);
                                self.enqueue(Queued { record: Arc::new(record), received, work: Work::Command(accepted), trace });
                            }
                            Err(violations) => self.invalid(lease, record, received, return_no, command_id, violations),
                        }
                    }
                    (Err(misplaced), validated) => {
                        if key_fits && self.held(&return_no, lease.partition) {
                            self.held_back.push(record);
                            return;
                        }
                        let violations = std::iter::once(misplaced).chain(validated.err().unwrap_or_default()).collect();
                        self.invalid(lease, record, received, return_no, command_id, violations);
                    }
                }
            }
        }
    }

    /// Whether a misplaced record waits for the judgement of its senders.
    fn held(&mut self, return_no: &str, partition: i32) -> bool {
        let configured = self.parts.settings.commands.partitioner;
        let was_fine = self.placement.misfit().is_none();
        let treatment = self.placement.misplaced(return_no, partition, self.partition_count, configured, Moment::now());
        if let Some(reason) = self.placement.misfit().filter(|_| was_fine) {
            tracing::error!(%reason, "the command route pauses; nothing was settled");
        }
        treatment == Treatment::Hold
    }

    /// Judges senders of few records in time, and settles what waited once it is known to be invalid.
    pub(super) fn judge_senders(&mut self, now: Moment) {
        if self.held_back.is_empty() {
            return;
        }
        let was_fine = self.placement.misfit().is_none();
        self.placement.due(self.partition_count, self.parts.settings.commands.partitioner, now);
        if let Some(reason) = self.placement.misfit().filter(|_| was_fine) {
            tracing::error!(%reason, "the command route pauses; nothing was settled");
        }
        if matches!(self.placement, Placement::Fits) {
            for record in std::mem::take(&mut self.held_back) {
                self.read(record);
            }
        }
    }

    fn invalid(
        &mut self,
        lease: Lease,
        record: Delivered,
        received: Moment,
        return_no: String,
        command_id: String,
        violations: Vec<String>,
    ) {
        self.passed((&return_no, &command_id), Hop::Validate, "invalid", Some(violations.join("; ")));
        self.end(lease, Arc::new(record), received, None, End::Plain { outcome: Outcome::Invalid, return_no, command_id, violations });
    }

    pub(super) fn end(&mut self, lease: Lease, record: Arc<Delivered>, received: Moment, key: Option<String>, end: End) {
        self.ready.push_back(Ready { lease, record, received, key, end });
    }

    fn learn(&self, lease: Lease, id: u32, pause: Duration) {
        let (codec, happened) = (Arc::clone(&self.parts.codec), self.happened.clone());
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let result = codec.learn(id).await;
            let _ = happened.send(Happened::Learnt { lease, result });
        });
    }

    /// The schema of the record that holds its partition back is known now, or never will be.
    pub(super) fn learnt(&mut self, lease: Lease, result: Result<(), LearnFault>) {
        let Some(partition) = self.partitions.get_mut(&lease.partition).filter(|partition| partition.lease == lease) else { return };
        let mut waiting = std::mem::take(&mut partition.unlearnt);
        let Some(first) = waiting.pop_front() else { return };
        match result {
            Ok(()) => self.read(first),
            Err(LearnFault::Unusable(reason)) => self.end(lease, Arc::new(first), Moment::now(), None, End::Poison(reason)),
            Err(LearnFault::Unavailable(reason)) => {
                tracing::warn!(partition = lease.partition, %reason, "commands wait for the schema registry");
                let Parsed::Unlearnt(id) = parse(&first, self.parts.settings.commands.format, &self.parts.codec) else {
                    return self.read(first);
                };
                waiting.push_front(first);
                if let Some(partition) = self.partitions.get_mut(&lease.partition) {
                    partition.unlearnt = waiting;
                }
                return self.learn(lease, id, Duration::from_secs(1));
            }
        }
        // The first may wait for the next unknown schema already; everything else keeps its place behind it.
        for record in waiting {
            self.delivered(record);
        }
    }

    /// Commands with the same key run one after the other, in offset order.
    fn enqueue(&mut self, queued: Queued) {
        crash::point(Point::CommandAccepted);
        let lease = queued.record.lease;
        let key = queued.work.key().to_owned();
        let Some(partition) = self.partitions.get_mut(&lease.partition) else { return };
        let line = partition.keys.entry(key.clone()).or_default();
        let ahead = line.len();
        line.push_back(queued);
        if its_turn(ahead) {
            self.begin(lease, &key);
        }
    }

    /// The front command of a key is judged by what the journal knows.
    pub(super) fn begin(&mut self, lease: Lease, key: &str) {
        let Some(partition) = self.partitions.get(&lease.partition).filter(|partition| partition.lease == lease && !partition.draining)
        else {
            return;
        };
        let Some(queued) = partition.keys.get(key).and_then(|line| line.front()) else { return };
        let (record, work, received) = (Arc::clone(&queued.record), queued.work.clone(), queued.received);
        let trace = queued.trace.clone();
        let (return_no, command_id) = match &work {
            Work::Command(accepted) => (accepted.command.return_no.clone(), accepted.command.command_id.clone()),
            Work::Decision(decision) => (decision.return_no.clone(), decision.command_id.clone()),
        };
        let journal_key = journal_key(&return_no, &command_id);
        let entry = match partition.open.get(&journal_key) {
            Some(entry) => Ok(Some(entry.clone())),
            None => self.recorded(lease.partition, &journal_key),
        };
        let entry = match entry {
            Ok(entry) => entry,
            Err(reason) => {
                // The cache failed: the restart rebuilds it; nothing is decided without it.
                self.cache_failed = Some(reason);
                return;
            }
        };
        let accepted = match work {
            Work::Command(accepted) => accepted,
            Work::Decision(decision) => {
                let end = match decision.settle(entry.as_ref(), Timestamp::now()) {
                    Ok(entry) => End::Decided { entry: Box::new(entry) },
                    Err(reason) => End::Refused(reason),
                };
                return self.end(lease, record, received, Some(key.to_owned()), end);
            }
        };
        let known = Known {
            entry,
            restored_at: partition.restored_at,
            old: self.is_old(&record),
            replayed: replays(&record).is_some(),
            now: Moment::now(),
            now_wall: Timestamp::now(),
        };
        let now = known.now;
        let front = Some(key.to_owned());
        let (metrics, board) = (&self.parts.metrics, &self.parts.board);
        let mut slot = |life, recorded, waits| {
            let id = self.next_slot;
            self.next_slot += 1;
            let slot = Slot {
                lease,
                record: Arc::clone(&record),
                accepted: accepted.clone(),
                received,
                life,
                send_by: None,
                permit: None,
                pauses: None,
                counted_in: None,
                recorded,
                waits,
                trace: trace.clone(),
            };
            self.slots.insert(id, slot);
            id
        };
        let verdict = judge(&accepted, lease.partition, record.offset, known, &self.timing);
        metrics.hop(Hop::Journal, verdict.word());
        board.step((&return_no, &command_id), Hop::Journal.name(), verdict.word(), None);
        crash::point(Point::CommandJudged);
        match verdict {
            Verdict::Fresh(life) => {
                let id = slot(life, None, Waits::Admission);
                self.admission.push_back(id);
            }
            Verdict::LookFirst(life) => {
                let id = slot(life, None, Waits::Ask);
                self.timers.insert((now, id));
            }
            Verdict::Resume(life) => {
                let id = slot(life, None, Waits::Sighting);
                self.resume(id);
            }
            Verdict::Repeat(life, recorded) => {
                let id = slot(life, Some(recorded), Waits::Ask);
                self.timers.insert((now, id));
            }
            Verdict::Duplicate(entry) => self.end(lease, record, received, front, End::Copy { entry }),
            Verdict::Conflict => {
                let violations = vec!["command_id was used before for this return_no with other content; use a new command_id".into()];
                self.end(lease, record, received, front, End::Plain { outcome: Outcome::Invalid, return_no, command_id, violations });
            }
            Verdict::Expired => {
                self.end(
                    lease,
                    record,
                    received,
                    front,
                    End::Plain { outcome: Outcome::Expired, return_no, command_id, violations: Vec::new() },
                );
            }
        }
    }

    /// The outcome recorded for a command, from the cache of the journal.
    fn recorded(&self, partition: i32, key: &[u8]) -> Result<Option<crate::schema::JournalEntry>, String> {
        match self.store.get(partition, key).map_err(|fault| fault.to_string())? {
            None => Ok(None),
            Some(bytes) => self
                .parts
                .codec
                .decode_journal(&bytes)
                .map(Some)
                .map_err(|fault| format!("a journal entry in the cache cannot be read: {fault}")),
        }
    }

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
                slot.waits = Waits::Admission;
                self.timers.insert((now.plus(pause), id));
            }
            Step::Again => {
                let pause = slot.pauses.get_or_insert_with(|| Pauses::from(Duration::from_millis(200))).next_pause();
                slot.waits = Waits::Admission;
                self.timers.insert((now.plus(pause), id));
            }
            Step::Ask { at } => {
                slot.waits = Waits::Ask;
                self.timers.insert((at, id));
            }
            Step::AwaitProof { until } => {
                slot.waits = Waits::Proof;
                self.unproven.push(id);
                self.timers.insert((until, id));
                let warehouse_no = slot.accepted.command.warehouse_no.clone();
                self.seek_proof(&warehouse_no);
            }
            Step::Settle(ending) => {
                slot.waits = Waits::Settlement;
                slot.trace.enter(Hop::Settle);
                slot.trace.ended(ending.outcome.name());
                let (lease, record, received) = (slot.lease, Arc::clone(&slot.record), slot.received);
                let key = Some(slot.accepted.command.return_no.clone());
                let confirmed = (ending.outcome == Outcome::Created)
                    .then(|| Confirmed { return_no: slot.accepted.command.return_no.clone(), marker: slot.life.marker.clone() });
                let warehouse_no = slot.accepted.command.warehouse_no.clone();
                self.end(lease, record, received, key, End::Life { slot: id, ending });
                if let Some(confirmed) = confirmed
                    && !self.proofs.contains(&warehouse_no)
                {
                    self.confirmed.insert(warehouse_no.clone(), confirmed);
                    self.seek_proof(&warehouse_no);
                }
            }
        }
    }

    /// Carries out everything whose time has come.
    pub(super) fn due(&mut self, now: Moment) {
        while let Some((at, id)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, id));
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            match slot.waits {
                Waits::Admission => self.admission.push_back(id),
                Waits::Ask | Waits::Proof => {
                    if let Some(probe_at) = self.breaker.probe_at() {
                        // An open circuit is probed by one look-up at a time, when a probe is due.
                        if self.probing || probe_at > now {
                            let later = probe_at.max(now.plus(Duration::from_millis(200)));
                            slot.waits = Waits::Ask;
                            self.timers.insert((later, id));
                            continue;
                        }
                        self.probing = true;
                        self.look_up(id, true);
                    } else {
                        self.look_up(id, false);
                    }
                }
                Waits::Permit | Waits::Intent | Waits::Wire | Waits::Answer | Waits::Sighting | Waits::Finding | Waits::Settlement => {}
            }
        }
    }

    fn look_up(&mut self, id: SlotId, was_probe: bool) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if self.partitions.get(&slot.lease.partition).is_none_or(|partition| partition.draining) {
            return;
        }
        if crash::fault(Fault::Resend) {
            return self.step(id, Step::Intend);
        }
        slot.waits = Waits::Finding;
        slot.trace.enter(Hop::Call);
        let span = slot.trace.hop();
        let command = &slot.accepted.command;
        let mut claimed: HashSet<String> = slot.life.dismissed.iter().cloned().collect();
        let own = journal_key(&command.return_no, &command.command_id);
        let codec = &self.parts.codec;
        let scanned = self.store.scan(slot.lease.partition, &journal_prefix(&command.return_no), |key, value| {
            if key != own
                && let Ok(entry) = codec.decode_journal(value)
            {
                claimed.extend(entry.outbound_no);
            }
            true
        });
        if let Err(fault) = scanned {
            self.cache_failed = Some(fault.to_string());
            return;
        }
        let question = Question {
            return_no: command.return_no.clone(),
            marker: slot.life.marker.clone(),
            first_intent_at: slot.life.first_intent_at,
            claimed,
        };
        self.counts.lookups += 1;
        let (erp, settings, happened) = (self.parts.erp.clone(), Arc::clone(&self.parts.settings), self.happened.clone());
        let asking = async move {
            crash::point(Point::LookUpAsking);
            let finding = ask(&erp, &question, &settings.commands).await;
            crash::point(Point::LookUpAnswered);
            tracing::Span::current().record("erp.call", Call::QueryOutbounds.name()).record("erp.answer", finding.word());
            let _ = happened.send(Happened::LookedUp { slot: id, finding, was_probe });
        };
        tokio::spawn(asking.instrument(span));
    }

    pub(super) fn looked_up(&mut self, id: SlotId, finding: Finding, was_probe: bool) {
        let now = Moment::now();
        if was_probe {
            self.probing = false;
            let answered = match &finding {
                Finding::Failed(reason) => Err(reason.clone()),
                Finding::Found(_) | Finding::Suspects(_) | Finding::Absent { .. } => Ok(()),
            };
            self.breaker.probed(answered, now);
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
            tracing::debug!(return_no = slot.accepted.command.return_no, %reason, "look-up failed");
        }
        let pair = (slot.accepted.command.return_no.as_str(), slot.accepted.command.command_id.as_str());
        self.parts.metrics.hop(Hop::Call, finding.word());
        self.parts.board.step(pair, Hop::Call.name(), finding.word(), finding.detail());
        let step = slot.life.looked_up(finding, Sight { now, proven, circuit_closed }, &self.timing);
        crash::point(Point::FindingJudged);
        tracing::info!(
            return_no = slot.accepted.command.return_no,
            command_id = slot.accepted.command.command_id,
            attempt = slot.life.attempt,
            found = seen,
            settled = matches!(step, Step::Settle(_)),
            again = matches!(step, Step::Intend),
            "asked about a command in doubt"
        );
        self.step(id, step);
        if seen {
            self.prove(lease, &warehouse_no);
        }
    }

    /// Look-ups see our markers in this warehouse: whoever waited for that asks again. Journaled under `lease`.
    pub(super) fn prove(&mut self, lease: Lease, warehouse_no: &str) {
        if !self.proofs.insert(warehouse_no.to_owned()) {
            return;
        }
        self.new_proofs.push((lease, warehouse_no.to_owned()));
        self.confirmed.remove(warehouse_no);
        let now = Moment::now();
        for (id, slot) in &mut self.slots {
            if slot.waits == Waits::Proof && slot.accepted.command.warehouse_no == warehouse_no {
                slot.waits = Waits::Ask;
                self.timers.insert((now, *id));
            }
        }
    }

    /// An order of the warehouse that exists for certain is looked up, only while somebody waits for the proof that such
    /// orders can be seen.
    fn seek_proof(&mut self, warehouse_no: &str) {
        // Asked with every created order of an unproven warehouse, so only those that once began to wait are looked at.
        let slots = &self.slots;
        self.unproven.retain(|id| slots.get(id).is_some_and(|slot| slot.waits == Waits::Proof));
        let awaited = self.unproven.iter().any(|id| slots.get(id).is_some_and(|slot| slot.accepted.command.warehouse_no == warehouse_no));
        let Some(confirmed) = self.confirmed.get(warehouse_no).cloned() else { return };
        let warehouse_no = warehouse_no.to_owned();
        if !awaited || !self.proof_sought.insert(warehouse_no.clone()) {
            return;
        }
        let Confirmed { return_no, marker } = confirmed;
        let (erp, settings, happened) = (self.parts.erp.clone(), Arc::clone(&self.parts.settings), self.happened.clone());
        tokio::spawn(async move {
            // It becomes visible within max_visibility, or the next created order is tried.
            let question = Question { return_no, marker, first_intent_at: None, claimed: HashSet::new() };
            let deadline = Moment::now().plus(settings.commands.max_visibility).plus(settings.commands.lookup_spacing);
            let seen = loop {
                if matches!(ask(&erp, &question, &settings.commands).await, Finding::Found(_)) {
                    break true;
                }
                if Moment::now() >= deadline {
                    break false;
                }
                tokio::time::sleep(settings.commands.lookup_spacing).await;
            };
            let _ = happened.send(Happened::ProofSought { warehouse_no, seen });
        });
    }

    /// A probe goes out when one is due and no look-up did the same.
    pub(super) fn probe(&mut self, now: Moment) {
        if self.probing || self.breaker.probe_at().is_none_or(|at| at > now) {
            return;
        }
        self.probing = true;
        let (erp, timeout, happened) = (self.parts.erp.clone(), self.parts.settings.commands.call_timeout, self.happened.clone());
        tokio::spawn(async move {
            let _ = happened.send(Happened::Probed(probe(&erp, timeout).await));
        });
    }

    /// Takes commands in line into the quota's: at most one transaction ahead of free places on the wire.
    pub(super) fn admit(&mut self, now: Moment) {
        if self.paused.is_some() {
            return self.give_permits_back();
        }
        let most = match self.breaker.circuit() {
            Circuit::Closed { .. } => self.parts.settings.commands.max_in_flight * 2,
            Circuit::Half { .. } => 1,
            Circuit::Open { .. } => {
                self.give_permits_back();
                return;
            }
        };
        let ahead = self.committing.as_ref().map_or(0, super::commit::Commit::intents);
        while self.permits_pending + self.intents.len() + ahead + self.wire.len() + self.flying < most {
            let Some(id) = self.admission.pop_front() else { break };
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            if self.partitions.get(&slot.lease.partition).is_none_or(|partition| partition.draining) {
                continue;
            }
            let deadline = slot.accepted.command.expires_at;
            if slot.life.first_intent_at.is_none() && deadline.is_some_and(|deadline| deadline < Timestamp::now()) {
                self.expire(id);
                continue;
            }
            if slot.permit.is_some() {
                self.permitted_now(id, now);
                continue;
            }
            slot.waits = Waits::Permit;
            self.permits_pending += 1;
            let (quota, happened) = (self.parts.erp.quota().clone(), self.happened.clone());
            tokio::spawn(async move {
                let permit = quota.acquire(Call::CreateOrder, Class::Command).await;
                let _ = happened.send(Happened::Permitted(id, permit));
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

    /// While the circuit is open or the route is paused nobody sits on a permit: look-ups need the room.
    fn give_permits_back(&mut self) {
        for id in self.intents.drain(..).chain(self.wire.drain(..)).collect::<Vec<_>>() {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.permit = None;
                slot.waits = Waits::Admission;
                self.admission.push_front(id);
            }
        }
    }

    pub(super) fn permitted(&mut self, id: SlotId, permit: Permit) {
        self.permits_pending = self.permits_pending.saturating_sub(1);
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.permit = Some(permit);
        crash::point(Point::CommandPermitted);
        self.permitted_now(id, Moment::now());
    }

    /// Before a partition is given away, intents that certainly had no effect are taken back: the next owner then calls
    /// at once instead of asking. Only first attempts: of a later one the earlier call is still in doubt.
    pub(super) fn withdraw_all(&mut self, lease: Lease) {
        let idle: Vec<SlotId> = self.slots.iter().filter(|(_, slot)| slot.lease == lease).map(|(id, _)| *id).collect();
        for id in idle {
            self.withdraw(id);
        }
    }

    /// As [`Engine::withdraw_all`], of one command.
    pub(super) fn withdraw(&mut self, id: SlotId) {
        let Some(slot) = self.slots.get(&id) else { return };
        let waits = match slot.waits {
            Waits::Admission | Waits::Permit | Waits::Wire => true,
            // An intent may be in the transaction that is on its way; it is taken back once that is over.
            Waits::Intent => !self.committing.as_ref().is_some_and(|commit| commit.intends(id)),
            Waits::Answer | Waits::Sighting | Waits::Ask | Waits::Finding | Waits::Proof | Waits::Settlement => false,
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

    /// Calls leave while there is room on the wire; an intent that ran out is renewed, not used.
    pub(super) fn send(&mut self, now: Moment) {
        let most = self.parts.settings.commands.max_in_flight;
        while self.breaker.room(self.flying, most) > 0 {
            let Some(id) = self.wire.pop_front() else { break };
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            if self.partitions.get(&slot.lease.partition).is_none_or(|partition| partition.draining) {
                continue;
            }
            let (Some(send_by), Some(permit)) = (released(slot.send_by, now), slot.permit.take()) else {
                slot.send_by = None;
                slot.waits = Waits::Intent;
                self.intents.push_back(id);
                continue;
            };
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
            let (erp, timeout, happened) = (self.parts.erp.clone(), self.parts.settings.commands.call_timeout, self.happened.clone());
            slot.trace.enter(Hop::Call);
            let asked = Asked::about(&slot.accepted.command, slot.life.attempt, slot.trace.id());
            let calling = async move {
                crash::point(Point::CallLeaving);
                let answer = erp.create_order(permit, &order, timeout, guard).await;
                crash::point(Point::CallAnswered);
                asked.answered(&answer);
                let _ = happened.send(Happened::Answered { slot: id, answer, epoch });
            };
            tokio::spawn(calling.instrument(slot.trace.hop()));
        }
    }

    pub(super) fn answered(&mut self, id: SlotId, answer: Answer, epoch: Option<u64>) {
        let now = Moment::now();
        self.flying = self.flying.saturating_sub(1);
        match &answer {
            Answer::Created { .. } | Answer::Rejected(_) => self.breaker.success(),
            Answer::NotExecuted(NotExecuted::Unreachable { reason }) | Answer::Unknown { reason } => self.breaker.failure(reason, now),
            Answer::NotExecuted(NotExecuted::Throttled { .. } | NotExecuted::Withheld) => self.breaker.neutral(),
            Answer::Misconfigured(refusal) => {
                let reason = format!(
                    "the ERP refuses createOrder with {}: {}{}",
                    refusal.code,
                    refusal.message,
                    refusal.gloss.map(|gloss| format!(" ({gloss})")).unwrap_or_default()
                );
                self.breaker.misconfigured(&reason, now);
            }
        }
        let counts = epoch.is_some() && epoch == self.breaker.epoch();
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if matches!(answer, Answer::Unknown { .. }) {
            tracing::warn!(
                return_no = slot.accepted.command.return_no,
                command_id = slot.accepted.command.command_id,
                attempt = slot.life.attempt,
                answer = ?answer,
                "nobody knows whether the ERP created the order; it is asked"
            );
        }
        let pair = (slot.accepted.command.return_no.as_str(), slot.accepted.command.command_id.as_str());
        self.parts.metrics.hop(Hop::Call, answer.word());
        self.parts.board.step(pair, Hop::Call.name(), answer.word(), answer.detail());
        slot.counted_in = epoch.filter(|_| counts && matches!(answer, Answer::Unknown { .. }));
        let withheld = matches!(answer, Answer::NotExecuted(NotExecuted::Withheld));
        let send_by = slot.send_by.unwrap_or(now);
        let step = slot.life.answered(answer, send_by, counts, now, &self.timing);
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
