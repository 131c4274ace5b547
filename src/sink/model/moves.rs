//! What each action does. Every decision is one of the [`Rules`](super::rules::Rules); what is left
//! here is what the engine does with them, and what Kafka and the ERP do by themselves.

use std::{collections::HashSet, sync::Arc, time::Duration};

use crate::{
    clock::Moment,
    config::Partitioner,
    erp::{Answer, Layer, NotExecuted, OutboundHead, Refusal},
    explanation::Explanation,
    kafka::{ISOLATION, Lease, Prefix},
    schema::{EntryKind, JournalEntry, Outcome},
    sink::{
        call::Question,
        commit::Carried,
        engine::Waits,
        journal::{Doubt, Finding, Known, Life, Sight, Step, Verdict, Visibility, Way},
        settle::{bare_entry, intent_entry, noted_entry, outcome_entry},
    },
};

use super::{
    order::{Part, TakeOverPart},
    scenario::{Action, Scenario, Sent, partition_of},
    world::{
        Command, End, Journal, NOW, Noted, Order, Phase, Process, Request, Running, Shown, Slot,
        TakingOver, Txn, World, wall,
    },
};

const HORIZON: Duration = Duration::from_secs(1000);

const SIGHT: Sight = Sight { now: NOW, circuit_closed: true };

fn refusal(unapproved: bool) -> Refusal {
    Refusal { code: 1, message: String::new(), explanation: None, unapproved }
}

impl World {
    /// `false`: the action cannot be carried out now.
    pub(super) fn carry_out(&mut self, scenario: &Scenario, action: Action) -> bool {
        match action {
            Action::Tick => {
                self.tick(scenario.floor(), scenario.skew > 0);
                for order in &mut self.orders {
                    order.age = (order.age + 1).min(scenario.times.visibility);
                }
            }
            Action::Begin(process) => self.begin_transaction(scenario, process),
            Action::Proceed(process) => self.proceed(scenario, process),
            Action::Call(process, offset) => self.call(scenario, process, offset),
            Action::Leave(request) => {
                self.requests[request].frozen = false;
                self.requests[request].age = 0;
            }
            Action::Arrive { request, refused, lost } => {
                self.arrive(scenario, request, refused, lost)
            }
            Action::Vanish(request) => {
                self.requests.remove(request);
                self.left.losses -= 1;
            }
            Action::TimeOut(process, offset) => {
                self.nobody_waits(process, Some(offset));
                self.unanswered += u32::from(scenario.unapproved);
                self.answered(
                    scenario,
                    process,
                    offset,
                    Answer::Unknown { reason: String::new(), refusal: None },
                );
            }
            Action::LookUp { process, offset, fresh, fails } => {
                self.look_up(scenario, process, offset, fresh, fails)
            }
            Action::Check { process, offset } => self.check(scenario, process, offset),
            Action::CheckEarly(process) => {
                let seen = (scenario.rules.both_show)(!self.blind[0], !self.blind[1]);
                if let Some(running) = self.running(process) {
                    running.checked = Some(seen);
                }
            }
            Action::Filter(queries) => {
                self.left.filters -= 1;
                for (blind, filtered) in self.blind.iter_mut().zip(queries) {
                    *blind |= filtered;
                }
            }
            Action::Unlist(order) => {
                self.left.unlists -= 1;
                self.orders[order].shown = Shown::Unlisted;
            }
            Action::TakeOver(process) => return self.take_over(scenario, process),
            Action::Move => {
                self.left.moves -= 1;
                let Some(owner) = self.partitions[0].owner else { return false };
                self.assign(1 - owner, 0);
            }
            Action::Learn(process) => {
                let generation = self.generation;
                let standing = &mut self.processes[process].standing;
                let all = standing.ownership.all();
                standing.ownership.release(&all);
                standing.rejoined(Some(generation));
            }
            Action::Drop(process) => self.drop_partition(process),
            Action::Crash(process) => {
                self.unanswered += u32::from(scenario.unapproved);
                self.crash(process);
            }
            Action::Assign(process) => {
                if self.processes[process].phase == Phase::Down {
                    // Its transactional id is initialised anew first.
                    self.end_transaction(process);
                }
                let Some(partition) =
                    self.partitions.iter().position(|partition| partition.owner.is_none())
                else {
                    return false;
                };
                self.assign(process, partition);
            }
            Action::Expire(process) => self.end_transaction(process),
            Action::Revoke(process) => self.revoke(scenario, process),
            Action::Release(process) => {
                let standing = &mut self.processes[process].standing;
                let all = standing.ownership.all();
                standing.ownership.release(&all);
                self.drop_partition(process);
                self.partitions[0].owner = None;
            }
            Action::Strip(order) => {
                self.left.strips -= 1;
                self.orders[order].marked = false;
            }
            Action::Delete => {
                self.left.deletions -= 1;
                self.partitions[0].log_start += 1;
            }
            Action::Age => self.age(scenario),
            Action::Reset => {
                self.reset = true;
                self.results.clear();
                for partition in &mut self.partitions {
                    (partition.offset, partition.metadata) = (0, String::new());
                }
            }
        }
        true
    }

    // ---- the group

    /// A rebalance: a new generation in which `process` owns the partition.
    pub(super) fn assign(&mut self, process: usize, partition: usize) {
        self.generation += 1;
        self.partitions[partition].owner = Some(process);
        let process = &mut self.processes[process];
        if process.phase == Phase::Down {
            *process = Process::default();
        }
        let leases =
            process.standing.assigned(&[i32::try_from(partition).unwrap()], Some(self.generation));
        let taking = TakingOver {
            lease: leases[0],
            next: 0,
            committed: (0, String::new()),
            before: Journal::new(),
        };
        process.phase = Phase::TakingOver(taking);
    }

    fn crash(&mut self, process: usize) {
        self.left.crashes -= 1;
        self.requests.retain(|request| !request.frozen || request.by != Some(process));
        self.nobody_waits(process, None);
        self.processes[process] = Process { phase: Phase::Down, ..Process::default() };
        for partition in
            self.partitions.iter_mut().filter(|partition| partition.owner == Some(process))
        {
            partition.owner = None;
        }
        let orphan = self.open[process].take().filter(|txn| txn.delivered || txn.accepted);
        // Nobody is left to commit it: only that it is pending matters.
        self.open[process] = orphan.map(|txn| Txn {
            entries: Vec::new(),
            results: Vec::new(),
            intents: Vec::new(),
            settled: Vec::new(),
            withdrawn: Vec::new(),
            position: None,
            ..txn
        });
    }

    fn drop_partition(&mut self, process: usize) {
        self.nobody_waits(process, None);
        self.processes[process].phase = Phase::Idle;
    }

    fn nobody_waits(&mut self, process: usize, offset: Option<i64>) {
        for request in &mut self.requests {
            if request.by == Some(process) && offset.is_none_or(|offset| request.offset == offset) {
                request.by = None;
            }
        }
    }

    /// A graceful revocation begins: nothing new is begun, idle intents are taken back.
    fn revoke(&mut self, scenario: &Scenario, process: usize) {
        self.left.drains -= 1;
        let intended: Vec<i64> = self.open[process]
            .iter()
            .flat_map(|txn| txn.intents.iter().map(|(offset, ..)| *offset))
            .collect();
        let Some(running) = self.running(process) else { return };
        running.draining = true;
        let all: Vec<i64> =
            running.slots.keys().copied().filter(|offset| !intended.contains(offset)).collect();
        for offset in all {
            running.withdraw(scenario, offset);
        }
    }

    // ---- the takeover

    /// The next part; `false` while it has to wait.
    pub(super) fn take_over(&mut self, scenario: &Scenario, process: usize) -> bool {
        let Phase::TakingOver(taking) = &self.processes[process].phase else { return false };
        let mut taking = taking.clone();
        let (at, lease) = (partition_of(taking.lease), taking.lease);
        let parts = scenario.rules.take_over;
        let others: Vec<usize> = (0..2).filter(|other| *other != process).collect();
        match parts[taking.next] {
            TakeOverPart::Offsets => {
                // Its own as well: one that was on its way when the partition went and came back.
                let pending = self
                    .open
                    .iter()
                    .flatten()
                    .any(|txn| txn.accepted && txn.lease.partition == lease.partition);
                // An unstable fetch answers with what was committed before; a stable one is asked
                // again.
                if pending && scenario.rules.isolation == ISOLATION {
                    return false;
                }
                taking.committed =
                    (self.partitions[at].offset, self.partitions[at].metadata.clone());
            }
            TakeOverPart::Barrier => {
                let fenced = (scenario.rules.fence)(&self.processes[process].standing, &[lease]);
                if self.open[process].is_some() || fenced != Ok(self.generation) {
                    return false;
                }
                (self.partitions[at].offset, self.partitions[at].metadata) =
                    taking.committed.clone();
                taking.before = self.partitions[at].journal.clone();
                for other in others {
                    if let Some(txn) = self.open[other]
                        .as_mut()
                        .filter(|txn| txn.lease.partition == lease.partition)
                    {
                        txn.before_barrier = txn.delivered;
                    }
                }
            }
            TakeOverPart::Read => {
                if !parts.contains(&TakeOverPart::Barrier) {
                    taking.before = self.partitions[at].journal.clone();
                }
                if others
                    .iter()
                    .any(|other| self.open[*other].as_ref().is_some_and(|txn| txn.before_barrier))
                {
                    return false;
                }
            }
        }
        taking.next += 1;
        if taking.next < parts.len() {
            self.processes[process].phase = Phase::TakingOver(taking);
        } else {
            let mut running = Running {
                lease,
                checked: None,
                forgotten_to: self.partitions[at].forgotten_to,
                prefix: Prefix::restore(taking.committed.0, &taking.committed.1, String::new()),
                known: taking.before,
                restored_at: NOW,
                lines: std::collections::BTreeMap::new(),
                slots: std::collections::BTreeMap::new(),
                orphans: std::collections::BTreeSet::new(),
                ready: Vec::new(),
                withdrawn: Vec::new(),
                draining: false,
            };
            let begins = taking.committed.0.max(self.partitions[at].log_start);
            for sent in scenario.sent(at) {
                if sent.offset >= begins {
                    running.delivered(scenario, sent, self.aged);
                } else if (scenario.rules.is_gone)(sent.offset, begins) {
                    running.gone(scenario, sent, self.aged);
                }
            }
            self.processes[process].phase = Phase::Running(running);
        }
        true
    }

    // ---- transactions

    fn begin_transaction(&mut self, scenario: &Scenario, process: usize) {
        let aged = self.aged;
        let Some(running) = self.running(process) else { return };
        let rules = &scenario.rules;
        let mut txn = Txn {
            lease: running.lease,
            next: 0,
            delivered: false,
            accepted: false,
            before_barrier: false,
            entries: Vec::new(),
            results: Vec::new(),
            position: None,
            intents: Vec::new(),
            settled: std::mem::take(&mut running.ready),
            withdrawn: std::mem::take(&mut running.withdrawn),
            notes: Vec::new(),
        };
        let mut carried = Vec::new();
        for (offset, end) in &txn.settled {
            carried.push(Carried::Outcome);
            let sent = scenario.record(partition_of(txn.lease), *offset);
            let (way, outcome) = match end {
                End::Life { ending, copy } => {
                    (Some(Way::Life { outcome: ending.outcome, copy: *copy }), ending.outcome)
                }
                End::Copy(outcome) => (None, *outcome),
                End::Plain(outcome) => (Some(Way::Plain { outcome: *outcome }), *outcome),
            };
            if way.is_some_and(|way| (rules.written)(way).entry) {
                txn.entries.push((
                    sent.command,
                    Some(Arc::new(entry_of_end(running, sent, *offset, end, aged))),
                ));
            }
            txn.results.push((*offset, outcome));
        }
        let waiting = running
            .slots
            .iter()
            .filter(|(_, slot)| slot.waits == Waits::Intent && !running.draining);
        for (offset, slot) in waiting {
            carried.push(Carried::Intent);
            let sent = scenario.record(partition_of(txn.lease), *offset);
            let entry = intent_entry(&slot.life, pair(sent), "W", wall(aged), &scenario.timing);
            txn.entries.push((sent.command, Some(Arc::new(JournalEntry { version: 1, ..entry }))));
            txn.intents.push((
                *offset,
                slot.life.next_attempt(),
                NOW.plus(scenario.timing.intent_ttl),
            ));
        }
        for (offset, slot) in running.slots.iter_mut().filter(|(_, slot)| slot.note) {
            slot.note = false;
            if slot.waits != Waits::Settlement && (rules.noted)(&slot.life) {
                carried.push(Carried::Intent);
                let sent = scenario.record(partition_of(txn.lease), *offset);
                let entry = noted_entry(&slot.life, pair(sent), "W", wall(aged), &scenario.timing);
                let entry = Arc::new(JournalEntry { version: 1, ..entry });
                txn.entries.push((sent.command, Some(entry)));
                txn.notes.push(*offset);
            }
        }
        for command in &txn.withdrawn {
            carried.push(Carried::Withdrawal);
            txn.entries.push((*command, None));
        }
        txn.position = if carried.into_iter().any(rules.needs_offset) {
            let settled = txn.settled.iter().map(|(offset, _)| *offset);
            (rules.position)(&running.prefix.with_finished(settled))
        } else {
            None
        };
        let lease = txn.lease;
        self.open[process] = Some(txn);
        // The transactor looks before it begins.
        if self.fenced(scenario, process, lease).is_err() {
            self.refuse(process);
            return;
        }
        self.proceed(scenario, process);
    }

    /// The metadata a transaction would send its offset with; a transaction without one is not
    /// fenced at all.
    fn fenced(&self, scenario: &Scenario, process: usize, lease: Lease) -> Result<Option<u8>, ()> {
        let Some(txn) = &self.open[process] else { return Err(()) };
        if txn.position.is_none() {
            return Ok(None);
        }
        (scenario.rules.fence)(&self.processes[process].standing, &[lease])
            .map(Some)
            .map_err(|_| ())
    }

    fn proceed(&mut self, scenario: &Scenario, process: usize) {
        let Some(txn) = &self.open[process] else { return };
        let lease = txn.lease;
        match scenario.rules.transaction[txn.next] {
            Part::Records => {
                if let Some(txn) = &mut self.open[process] {
                    txn.delivered = true;
                }
            }
            Part::Offsets => match self.fenced(scenario, process, lease) {
                Err(()) => return self.refuse(process),
                Ok(Some(generation)) if generation != self.generation => {
                    return self.take_back(process);
                }
                Ok(position) => {
                    if let Some(txn) = &mut self.open[process] {
                        txn.accepted = position.is_some();
                    }
                }
            },
            Part::End => return self.commit(scenario, process),
        }
        if let Some(txn) = &mut self.open[process] {
            txn.next += 1;
        }
    }

    /// Not the owner: aborted, and the partition forgotten; not if it came back with another lease
    /// meanwhile.
    fn refuse(&mut self, process: usize) {
        let Some(txn) = self.open[process].take() else { return };
        if self.running(process).is_some_and(|running| running.lease == txn.lease) {
            self.drop_partition(process);
        }
    }

    /// Aborted: everything goes back to where it waited.
    fn take_back(&mut self, process: usize) {
        let Some(txn) = self.open[process].take() else { return };
        if let Some(running) = self.running(process).filter(|running| running.lease == txn.lease) {
            running.ready = [txn.settled, std::mem::take(&mut running.ready)].concat();
            running.withdrawn.extend(txn.withdrawn);
            for offset in &txn.notes {
                if let Some(slot) = running.slots.get_mut(offset) {
                    slot.note = true;
                }
            }
        }
    }

    /// The coordinator or a new producer with the same id ends what a dead process left open.
    fn end_transaction(&mut self, process: usize) {
        self.open[process] = None;
    }

    fn commit(&mut self, scenario: &Scenario, process: usize) {
        let Some(txn) = self.open[process].take() else { return };
        let at = partition_of(txn.lease);
        let note = |journal: &mut Journal| {
            for (command, entry) in &txn.entries {
                match entry {
                    Some(entry) => {
                        drop(journal.insert(*command, Noted { entry: Arc::clone(entry), age: 0 }))
                    }
                    None => drop(journal.remove(command)),
                }
            }
        };
        note(&mut self.partitions[at].journal);
        for other in (0..2).filter(|other| *other != process) {
            if let Phase::TakingOver(taking) = &mut self.processes[other].phase
                && txn.before_barrier
            {
                note(&mut taking.before);
            }
        }
        for (offset, outcome) in &txn.results {
            self.results.entry((at, *offset)).or_default().push(*outcome);
        }
        if let Some((offset, metadata)) = &txn.position {
            (self.partitions[at].offset, self.partitions[at].metadata) =
                (*offset, metadata.clone());
        }
        let aged = self.aged;
        if let Some(running) = self.running(process).filter(|running| running.lease == txn.lease) {
            running.apply(scenario, txn, aged);
        }
    }

    // ---- the ERP

    fn call(&mut self, scenario: &Scenario, process: usize, offset: i64) {
        let owned = {
            let process = &self.processes[process];
            let Phase::Running(running) = &process.phase else { return };
            process.standing.ownership.owns(running.lease)
        };
        let Some(slot) = self.running(process).and_then(|running| running.slots.get_mut(&offset))
        else {
            return;
        };
        let Some(send_by) = (scenario.rules.released)(slot.send_by, NOW) else {
            slot.send_by = None;
            slot.waits = Waits::Intent;
            return;
        };
        if !(scenario.rules.may_send)(owned, send_by, NOW) {
            self.answered(scenario, process, offset, Answer::NotExecuted(NotExecuted::Withheld));
            return;
        }
        slot.waits = Waits::Answer;
        slot.at = NOW;
        let command = slot.command;
        self.requests.push(Request {
            by: Some(process),
            offset,
            command,
            frozen: scenario.times.freeze > 0,
            age: 0,
        });
    }

    fn arrive(&mut self, scenario: &Scenario, request: usize, refused: bool, lost: bool) {
        let request = self.requests.remove(request);
        if !refused {
            let shown = if scenario.made_elsewhere { Shown::Never } else { Shown::Both };
            self.orders.push(Order { command: request.command, age: 0, marked: true, shown });
        }
        self.left.losses -= u8::from(lost);
        if let Some(process) = request.by.filter(|_| !lost) {
            let answer = if refused {
                if scenario.unlisted {
                    Answer::Unlisted { refusal: refusal(false), layer: Layer::Outer }
                } else {
                    Answer::Rejected(refusal(scenario.unapproved))
                }
            } else if scenario.says_made {
                Answer::ProbablyCreated(refusal(false))
            } else {
                Answer::Created { outbound_no: String::new() }
            };
            self.answered(scenario, process, request.offset, answer);
        }
    }

    fn answered(&mut self, scenario: &Scenario, process: usize, offset: i64, answer: Answer) {
        let Some(running) = self.running(process) else { return };
        let Some(slot) = running.slots.get_mut(&offset) else { return };
        let withheld = matches!(answer, Answer::NotExecuted(NotExecuted::Withheld));
        let send_by = slot.send_by.unwrap_or(NOW);
        let step =
            (scenario.rules.answered)(&mut slot.life, answer, send_by, true, NOW, &scenario.timing);
        if withheld {
            slot.send_by = None;
        }
        slot.note = (scenario.rules.noted)(&slot.life);
        running.step(scenario, offset, step);
    }

    fn look_up(
        &mut self,
        scenario: &Scenario,
        process: usize,
        offset: i64,
        fresh: bool,
        fails: bool,
    ) {
        self.left.failures -= u8::from(fails);
        let (orders, blind) = (self.orders.clone(), self.blind);
        let Some(running) = self.running(process) else { return };
        let sent = scenario.record(partition_of(running.lease), offset);
        let heads: Vec<OutboundHead> = orders
            .iter()
            .zip(0..)
            .filter(|(order, _)| fresh || order.age >= scenario.times.visibility)
            .filter(|(order, _)| match order.shown {
                Shown::Both => blind != [true, true],
                Shown::Unlisted => !blind[1],
                Shown::Never => false,
            })
            .filter(|(order, _)| return_of(order.command) == sent.of_return)
            .map(|(order, at)| head(scenario, order, at))
            .collect();
        let claimed: HashSet<String> = running
            .known
            .iter()
            .filter(|(command, _)| {
                **command != sent.command && return_of(**command) == sent.of_return
            })
            .filter_map(|(_, noted)| noted.entry.outbound_no.clone())
            .collect();
        let Some(slot) = running.slots.get_mut(&offset) else { return };
        let question = Question {
            return_no: sent.accepted.command.return_no.clone(),
            marker: slot.life.marker.clone(),
            since: slot.life.first_intent_at.or(sent.stamped),
            claimed,
        };
        let finding = if fails {
            Finding::Failed(String::new())
        } else {
            (scenario.rules.finding_of)(&heads, &question, NOW)
        };
        let step = (scenario.rules.looked_up)(&mut slot.life, finding, SIGHT, &scenario.timing);
        let waits = matches!(step, Step::AwaitVisibility { .. });
        running.step(scenario, offset, step);
        // An earlier check decides only where that rule is taken out.
        if waits && running.checked == Some(true) && (scenario.rules.covers)(0, 1) {
            running.checked(scenario, offset, Visibility::Seen);
        }
    }

    /// A check is sent after the absence was answered, or the time for one is over.
    fn check(&mut self, scenario: &Scenario, process: usize, offset: i64) {
        let seen = (scenario.rules.both_show)(!self.blind[0], !self.blind[1]);
        let Some(running) = self.running(process) else { return };
        let visibility = if seen && (scenario.rules.covers)(1, 0) {
            Visibility::Seen
        } else {
            Visibility::Blind(Explanation::new("", ""))
        };
        running.checked(scenario, offset, visibility);
    }

    /// The dedup window passes: whatever has outlived it is forgotten.
    fn age(&mut self, scenario: &Scenario) {
        self.aged = true;
        let forget = |journal: &mut Journal| {
            journal.retain(|_, noted| !(scenario.rules.expired)(&noted.entry, wall(true), HORIZON))
        };
        for (at, partition) in self.partitions.iter_mut().enumerate() {
            let before = partition.journal.len();
            forget(&mut partition.journal);
            if partition.journal.len() < before {
                partition.forgotten_to = Some(i64::try_from(scenario.sent(at).count()).unwrap());
            }
        }
        for process in &mut self.processes {
            match &mut process.phase {
                Phase::Running(running) => {
                    forget(&mut running.known);
                    let at = partition_of(running.lease);
                    running.forgotten_to = self.partitions[at].forgotten_to;
                }
                Phase::TakingOver(taking) => forget(&mut taking.before),
                Phase::Down | Phase::Idle => {}
            }
        }
        for order in &mut self.orders {
            order.age = scenario.times.visibility;
        }
    }
}

impl Running {
    fn delivered(&mut self, scenario: &Scenario, sent: &Sent, aged: bool) {
        if !self.prefix.deliver(sent.offset) {
            return;
        }
        let return_no = &sent.accepted.command.return_no;
        let partitions = i32::try_from(scenario.partitions).unwrap();
        let placed = (scenario.rules.placement)(
            Some(return_no.as_bytes()),
            return_no,
            self.lease.partition,
            partitions,
            Partitioner::Murmur2,
        );
        if placed.is_err() {
            self.ready.push((sent.offset, End::Plain(Outcome::Invalid)));
            return;
        }
        let line = self.lines.entry(sent.of_return).or_default();
        let ahead = line.len();
        line.push_back(sent.offset);
        if (scenario.rules.its_turn)(ahead) {
            self.begin(scenario, sent.offset, aged);
        }
    }

    /// The first record of a command is where its intent says it stands.
    fn gone(&mut self, scenario: &Scenario, sent: &Sent, aged: bool) {
        let open = |noted: &Noted| noted.entry.kind == EntryKind::Intent;
        let first = scenario.log.iter().find(|other| other.command == sent.command);
        if first.is_none_or(|first| first.offset != sent.offset)
            || !self.known.get(&sent.command).is_some_and(open)
        {
            return;
        }
        self.orphans.insert(sent.offset);
        let line = self.lines.entry(sent.of_return).or_default();
        let ahead = line.len();
        line.push_back(sent.offset);
        if (scenario.rules.its_turn)(ahead) {
            self.begin(scenario, sent.offset, aged);
        }
    }

    fn begin(&mut self, scenario: &Scenario, offset: i64, aged: bool) {
        let sent = scenario.record(partition_of(self.lease), offset);
        let entry = self.known.get(&sent.command).map(|noted| JournalEntry {
            // What a comparison of instants would compare: when it was written, by the clock of
            // whoever reads it.
            written_at: crate::clock::Timestamp(i64::try_from(NOW.0 - noted.age).unwrap()),
            ..JournalEntry::clone(&noted.entry)
        });
        let old = (scenario.rules.may_be_forgotten)(
            sent.stamped,
            wall(aged),
            HORIZON,
            None,
            (scenario.rules.untimed_is_new)(offset, self.forgotten_to),
        );
        let known = Known {
            entry,
            restored_at: self.restored_at,
            old,
            replayed: sent.replayed,
            now: NOW,
            now_wall: wall(aged),
        };
        let verdict = (scenario.rules.judge)(
            &sent.accepted,
            self.lease.partition,
            offset,
            known,
            &scenario.timing,
        );
        let (life, waits, copy) = match verdict {
            Verdict::Fresh(life) => {
                let waits = if (scenario.rules.released)(None, NOW).is_some() {
                    Waits::Wire
                } else {
                    Waits::Intent
                };
                (life, waits, false)
            }
            Verdict::Resume(life) if self.orphans.remove(&offset) => {
                let doubt = life.doubt.map(|doubt| Doubt { orphaned: true, ..doubt });
                (Life { doubt, ..life }, Waits::Ask, false)
            }
            Verdict::LookFirst(life) | Verdict::Resume(life) => (life, Waits::Ask, false),
            Verdict::Repeat(life, _) => (life, Waits::Ask, true),
            Verdict::Duplicate(entry) => {
                return self
                    .ready
                    .push((offset, End::Copy(entry.outcome.unwrap_or(Outcome::InDoubt))));
            }
            Verdict::Conflict => return self.ready.push((offset, End::Plain(Outcome::Invalid))),
            Verdict::Expired => return self.ready.push((offset, End::Plain(Outcome::Expired))),
        };
        // What no rule turns on would only multiply the states.
        let life = Life { version: 0, source_offset: 0, ..life };
        self.slots.insert(
            offset,
            Slot { command: sent.command, life, send_by: None, waits, at: NOW, copy, note: false },
        );
    }

    fn checked(&mut self, scenario: &Scenario, offset: i64, visibility: Visibility) {
        let Some(slot) = self.slots.get_mut(&offset) else { return };
        let step = (scenario.rules.checked)(&mut slot.life, visibility, SIGHT, &scenario.timing);
        self.step(scenario, offset, step);
    }

    fn step(&mut self, scenario: &Scenario, offset: i64, step: Step) {
        let Some(slot) = self.slots.get_mut(&offset) else { return };
        slot.at = NOW;
        match step {
            Step::Intend => {
                slot.send_by = None;
                slot.waits = Waits::Intent;
            }
            Step::Later { .. } | Step::Again => {
                if slot.life.doubt.is_some() {
                    slot.send_by = None;
                }
                slot.waits = if (scenario.rules.released)(slot.send_by, NOW).is_some() {
                    Waits::Wire
                } else {
                    Waits::Intent
                };
            }
            Step::Ask { at } => {
                slot.waits = Waits::Ask;
                slot.at = at.max(NOW);
            }
            Step::AwaitVisibility { until } => {
                slot.waits = Waits::Visibility;
                slot.at = until.max(NOW);
            }
            Step::Settle(ending) => {
                slot.waits = Waits::Settlement;
                let copy = slot.copy;
                self.ready.push((offset, End::Life { ending, copy }));
            }
        }
    }

    /// A transaction of this owner is committed.
    fn apply(&mut self, scenario: &Scenario, txn: Txn, aged: bool) {
        for (offset, _) in &txn.settled {
            self.prefix.finish(*offset);
        }
        if let Some((offset, _)) = &txn.position {
            self.prefix.committed(*offset);
        }
        for (command, entry) in txn.entries {
            if let Some(entry) = entry.filter(|entry| entry.kind == EntryKind::Outcome) {
                self.known.insert(command, Noted { entry, age: 0 });
            }
        }
        for (offset, attempt, send_by) in txn.intents {
            if let Some(slot) = self.slots.get_mut(&offset) {
                slot.life.intended(attempt, wall(aged));
                slot.life.version = 0;
                slot.send_by = Some(send_by);
                slot.waits = Waits::Wire;
                if self.draining {
                    self.withdraw(scenario, offset);
                }
            }
        }
        for (offset, _) in txn.settled {
            self.slots.remove(&offset);
            let of_return = scenario.record(partition_of(self.lease), offset).of_return;
            let Some(line) = self.lines.get_mut(&of_return) else { continue };
            line.retain(|waiting| *waiting != offset);
            let next = line.front().copied();
            let begun = |offset: &i64| {
                self.slots.contains_key(offset)
                    || self.ready.iter().any(|(ready, _)| ready == offset)
            };
            if let Some(next) = next.filter(|next| !begun(next) && !self.draining) {
                self.begin(scenario, next, aged);
            }
        }
    }

    fn withdraw(&mut self, scenario: &Scenario, offset: i64) {
        let Some(slot) = self.slots.get(&offset) else { return };
        if matches!(slot.waits, Waits::Intent | Waits::Wire)
            && (scenario.rules.may_be_withdrawn)(&slot.life)
        {
            self.withdrawn.push(slot.command);
            self.slots.remove(&offset);
        }
    }
}

fn pair(sent: &Sent) -> (&str, &str) {
    (&sent.accepted.command.return_no, &sent.accepted.command.command_id)
}

pub(super) fn return_of(command: Command) -> u8 {
    command / 4
}

fn entry_of_end(
    running: &Running,
    sent: &Sent,
    offset: i64,
    end: &End,
    aged: bool,
) -> JournalEntry {
    match (end, running.slots.get(&offset)) {
        (End::Life { ending, .. }, Some(slot)) => {
            let entry = outcome_entry(&slot.life, ending, pair(sent), "W", wall(aged));
            JournalEntry { version: 1, ..entry }
        }
        // Only a rule taken out comes here.
        (End::Life { .. } | End::Copy(_) | End::Plain(_), _) => JournalEntry {
            outcome: Some(Outcome::Invalid),
            fingerprint: sent.accepted.fingerprint.to_vec(),
            ..bare_entry(EntryKind::Outcome, running.lease.partition, "W", wall(aged))
        },
    }
}

fn head(scenario: &Scenario, order: &Order, at: u32) -> OutboundHead {
    let marker = scenario
        .log
        .iter()
        .find(|sent| sent.command == order.command)
        .map(|sent| sent.accepted.marker.clone());
    OutboundHead {
        stockout_id: at.to_string(),
        order_no: format!("CK{at}"),
        src_order_no: None,
        warehouse_no: None,
        remark: if order.marked { marker.unwrap_or_default() } else { "rewritten".into() },
        create_time: Some(wall(false)),
        status: None,
    }
}

/// What a comparison of instants makes of an entry's bound: the writer's instant by the reader's
/// clock, which is ahead.
pub(super) fn bound_by_instant(entry: &JournalEntry, skew: u64) -> Moment {
    let written = u64::try_from(entry.written_at.0).unwrap();
    Moment(written + u64::try_from(entry.bound_ms).unwrap() - skew)
}
