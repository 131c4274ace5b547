//! A scenario: which records were sent, which times hold, what may go wrong; explored by
//! `stateright`.

use std::{sync::Arc, time::Duration};

use stateright::{Model, Property};

use crate::{
    clock::Timestamp,
    decimal::Decimal,
    kafka::Lease,
    schema::{CommandLine, CreateReturnOutbound, EntryKind, JournalEntry, Outcome},
    sink::{
        decision::{Decision, Found, Judgement, Verdict},
        engine::Waits,
        journal::Timing,
        settle::bare_entry,
        validate::{Accepted, validate},
    },
};

use super::{
    rules::Rules,
    world::{Command, Left, NOW, Noted, Order, Partition, Phase, Process, Running, Shown, World},
};

/// One record of the commands topic.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub partition: usize,
    pub offset: i64,
    pub command: Command,
    /// Names the return, the key of the record.
    pub of_return: u8,
    pub accepted: Arc<Accepted>,
    /// When the sender says it was sent.
    pub stamped: Option<Timestamp>,
    /// Nothing is wrong with it: it must never end `INVALID`.
    pub good: bool,
    /// Its header says that it was redriven.
    pub replayed: bool,
}

/// Times in milliseconds: S, C, Z and L of `docs/delivery.md#timing-inequalities`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub send_by: u64,
    pub call: u64,
    pub settle: u64,
    pub spacing: u64,
    /// F, D and V of `docs/delivery.md#assumptions`, which the world decides.
    pub freeze: u64,
    pub delay: u64,
    pub visibility: u64,
}

#[derive(Clone)]
pub(super) struct Scenario {
    pub name: &'static str,
    pub rules: Rules,
    pub log: Vec<Sent>,
    pub partitions: usize,
    pub times: Times,
    pub timing: Timing,
    pub left: Left,
    /// The ERP may refuse any call.
    pub refuses: bool,
    /// The ERP refuses whatever comes after the first order of a return: its state has moved on.
    pub one_per_return: bool,
    /// What the ERP refuses it refuses with a text that is not listed.
    pub unlisted: bool,
    /// What the ERP refuses it refuses because the return is not approved yet, which is waited for.
    pub unapproved: bool,
    /// The ERP says that it made the order, and that something failed after that.
    pub says_made: bool,
    /// That order is in none of the lookups' answers.
    pub made_elsewhere: bool,
    /// Lookups never show an order: a permission filter.
    pub blind: bool,
    /// The dedup window may pass.
    pub ages: bool,
    /// Group offsets may be lost after that.
    pub resets: bool,
    /// How far the successor's clock runs ahead, where instants of different processes are
    /// compared.
    pub skew: u64,
    /// Time passes only while nobody has anything to do: for scenarios about the order of things.
    pub hurried: bool,
    /// A person may have to decide.
    pub doubtful: bool,
    /// What a person decided about the first command before anything else happens.
    pub decided: Option<Verdict>,
}

/// What may happen next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    Tick,
    /// A process puts a transaction together and begins it with its first part.
    Begin(usize),
    /// A transaction's next part.
    Proceed(usize),
    /// A call is released, or its intent found run out.
    Call(usize, i64),
    /// A frozen request is written to the socket.
    Leave(usize),
    /// The ERP carries a request out (or refuses it) and the answer arrives, or is lost.
    Arrive {
        request: usize,
        refused: bool,
        lost: bool,
    },
    /// A request never reaches the ERP.
    Vanish(usize),
    TimeOut(usize, i64),
    /// `fresh`: orders not yet certain to be visible are shown already.
    LookUp {
        process: usize,
        offset: i64,
        fresh: bool,
        fails: bool,
    },
    /// A check that lookups see our orders, for a command that waits for one.
    Check {
        process: usize,
        offset: i64,
    },
    /// A check that nobody waits for.
    CheckEarly(usize),
    /// A permission is narrowed: these queries show nothing any more.
    Filter([bool; 2]),
    /// An order comes into a status outside the list.
    Unlist(usize),
    TakeOver(usize),
    /// The group gives the partition to the other process while its owner goes on unaware.
    Move,
    /// The former owner's rebalance callback: new metadata, ownership ends.
    Learn(usize),
    /// The former owner's pipeline learns of it as well.
    Drop(usize),
    Crash(usize),
    /// The group gives an ownerless partition to this process, restarted if it was down.
    Assign(usize),
    /// The coordinator ends a dead process's transaction.
    Expire(usize),
    Revoke(usize),
    Release(usize),
    Strip(usize),
    /// Retention deletes the first record of the log.
    Delete,
    Age,
    Reset,
}

/// One command per letter: return and command id; a capital differs in content.
fn accepted(of_return: u8, id: u8, content: u8) -> Arc<Accepted> {
    let line = CommandLine {
        spec_no: format!("spec{content}"),
        num: Decimal::parse("1").unwrap(),
        unit_name: None,
        position_no: None,
        batch_no: None,
        expire_date: None,
        defect: None,
        remark: None,
    };
    Arc::new(
        validate(CreateReturnOutbound {
            command_id: format!("c{id}"),
            return_no: format!("R{of_return}"),
            warehouse_no: "W".into(),
            logistics_code: None,
            create_mode: None,
            remark: None,
            details: vec![line],
            issued_at: None,
            expires_at: None,
        })
        .unwrap(),
    )
}

impl Scenario {
    /// `log`: per record the return, the command id and the content, at offsets from 0.
    pub(super) fn new(name: &'static str, log: &[(u8, u8, u8)], left: Left) -> Self {
        let log = log
            .iter()
            .zip(0..)
            .map(|((of_return, id, content), offset)| Sent {
                partition: 0,
                offset,
                command: of_return * 4 + id,
                of_return: *of_return,
                accepted: accepted(*of_return, *id, *content),
                stamped: Some(Timestamp(0)),
                good: *content == 0,
                replayed: false,
            })
            .collect();
        let scenario = Self {
            name,
            rules: Rules::ALL,
            log,
            partitions: 1,
            times: Times {
                send_by: 1,
                call: 1,
                settle: 1,
                spacing: 1,
                freeze: 0,
                delay: 1,
                visibility: 1,
            },
            timing: Timing {
                intent_ttl: Duration::ZERO,
                call_timeout: Duration::ZERO,
                apply_grace: Duration::ZERO,
                lookup_interval: Duration::ZERO,
                lookup_timeout: Duration::ZERO,
                max_attempts: 2,
                unapproved_retry_timeout: Duration::ZERO,
            },
            left,
            refuses: false,
            one_per_return: false,
            unlisted: false,
            unapproved: false,
            says_made: false,
            made_elsewhere: false,
            blind: false,
            ages: false,
            resets: false,
            skew: 0,
            hurried: false,
            doubtful: false,
            decided: None,
        };
        scenario.with(|_| {})
    }

    /// The scenario with something changed; the rules' times follow.
    pub(super) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        let Times { send_by, call, settle, spacing, .. } = self.times;
        let ms = Duration::from_millis;
        self.timing = Timing {
            intent_ttl: ms(send_by),
            call_timeout: ms(call),
            apply_grace: ms(settle),
            lookup_interval: ms(spacing),
            lookup_timeout: ms(send_by + call + settle + spacing + 1),
            // For ever: no moment is as long past.
            unapproved_retry_timeout: ms(if self.unapproved { NOW.0 } else { 0 }),
            ..self.timing
        };
        self
    }

    /// With one rule (or more, where either alone suffices) taken out.
    pub(super) fn without(mut self, change: impl FnOnce(&mut Rules)) -> Self {
        change(&mut self.rules);
        self
    }

    /// Equal for scenarios that differ in nothing but their name and their rules.
    pub(super) fn key(&self) -> String {
        let log: Vec<_> = self
            .log
            .iter()
            .map(|sent| {
                let place = (sent.partition, sent.offset, sent.stamped, sent.replayed);
                (place, sent.command, sent.accepted.fingerprint)
            })
            .collect();
        let flags = (
            self.refuses,
            self.one_per_return,
            (self.unlisted, self.unapproved, self.says_made, self.made_elsewhere),
            self.blind,
            self.ages,
            self.resets,
            self.hurried,
            (self.doubtful, &self.decided),
        );
        format!(
            "{log:?} {} {:?} {:?} {flags:?} {}",
            self.partitions, self.times, self.left, self.skew
        )
    }

    /// Longer ago makes no difference to any rule.
    pub(super) fn floor(&self) -> u64 {
        let Times { send_by, call, settle, spacing, .. } = self.times;
        send_by + call + settle + spacing + 1
    }

    pub(super) fn sent(&self, partition: usize) -> impl Iterator<Item = &Sent> {
        self.log.iter().filter(move |sent| sent.partition == partition)
    }

    pub(super) fn record(&self, partition: usize, offset: i64) -> &Sent {
        self.sent(partition).find(|sent| sent.offset == offset).unwrap()
    }

    /// Every record has its result, and everything is committed; where one was deleted, no intent
    /// of it is open.
    pub(super) fn finished(&self, world: &World) -> bool {
        self.log.iter().all(|sent| {
            let partition = &world.partitions[sent.partition];
            let open = || {
                let noted = partition.journal.get(&sent.command);
                noted.is_some_and(|noted| noted.entry.kind == EntryKind::Intent)
            };
            deleted(world, sent) && !open()
                || world.results.contains_key(&(sent.partition, sent.offset))
                    && partition.offset > sent.offset
        })
    }

    fn of_running(
        &self,
        world: &World,
        process: usize,
        running: &Running,
        found: &mut Vec<Action>,
    ) {
        let intends =
            running.slots.values().any(|slot| slot.waits == Waits::Intent) && !running.draining;
        if world.open[process].is_none()
            && (intends
                || !running.ready.is_empty()
                || !running.withdrawn.is_empty()
                || running.slots.values().any(|slot| slot.note))
        {
            found.push(Action::Begin(process));
        }
        for (offset, slot) in &running.slots {
            match slot.waits {
                Waits::Wire if !running.draining => found.push(Action::Call(process, *offset)),
                // An answer that never comes and an order that no lookup shows are together beyond
                // what any rule can know.
                Waits::Answer if NOW.0 >= slot.at.0 + self.times.call && !self.made_elsewhere => {
                    found.push(Action::TimeOut(process, *offset))
                }
                Waits::Visibility if !running.draining => {
                    found.push(Action::Check { process, offset: *offset });
                }
                Waits::Ask if NOW >= slot.at && !running.draining => {
                    let unsettled = world.orders.iter().any(|order| {
                        order.command == slot.command && order.age < self.times.visibility
                    });
                    let blind = world.blind == [true, true];
                    for fresh in
                        [true, false].into_iter().filter(|fresh| !fresh || unsettled && !blind)
                    {
                        found.push(Action::LookUp {
                            process,
                            offset: *offset,
                            fresh,
                            fails: false,
                        });
                    }
                    if world.left.failures > 0 {
                        found.push(Action::LookUp {
                            process,
                            offset: *offset,
                            fresh: false,
                            fails: true,
                        });
                    }
                }
                _ => {}
            }
        }
        // Only where a rule is taken out does anybody use what this shows.
        if (self.rules.covers)(0, 1) && running.checked.is_none() && !running.slots.is_empty() {
            found.push(Action::CheckEarly(process));
        }
        let owner = world.partitions[partition_of(running.lease)].owner == Some(process);
        if owner && world.left.drains > 0 && !running.draining {
            found.push(Action::Revoke(process));
        }
        let unfinished = running
            .slots
            .values()
            .any(|slot| slot.note || matches!(slot.waits, Waits::Answer | Waits::Settlement))
            || world.open[process].is_some();
        // A drain that runs out of time is a crash.
        if owner && running.draining && !(self.made_elsewhere && unfinished) {
            found.push(Action::Release(process));
        }
    }

    fn of_requests(&self, world: &World, found: &mut Vec<Action>) {
        for (at, request) in world.requests.iter().enumerate() {
            if request.frozen {
                found.push(Action::Leave(at));
                continue;
            }
            let spent = self.one_per_return
                && world.orders.iter().any(|order| order.command == request.command);
            for (refused, lost) in [(false, false), (false, true), (true, false), (true, true)] {
                let may = if refused { self.refuses || spent } else { !spent };
                if may && (!lost || world.left.losses > 0 && request.by.is_some()) {
                    found.push(Action::Arrive { request: at, refused, lost });
                }
            }
            if world.left.losses > 0 {
                found.push(Action::Vanish(at));
            }
        }
    }

    fn of_processes(&self, world: &World, found: &mut Vec<Action>) {
        for (at, process) in world.processes.iter().enumerate() {
            if world.open[at].is_some() {
                found.push(if process.phase == Phase::Down {
                    Action::Expire(at)
                } else {
                    Action::Proceed(at)
                });
            }
            let lease = match &process.phase {
                Phase::Down | Phase::Idle => None,
                Phase::TakingOver(taking) => {
                    found.push(Action::TakeOver(at));
                    Some(taking.lease)
                }
                Phase::Running(running) => {
                    self.of_running(world, at, running, found);
                    Some(running.lease)
                }
            };
            if let Some(lease) = lease
                && world.partitions[partition_of(lease)].owner != Some(at)
            {
                found.push(if process.standing.ownership.owns(lease) {
                    Action::Learn(at)
                } else {
                    Action::Drop(at)
                });
            }
            if world.left.crashes > 0
                && process.phase != Phase::Down
                && (lease.is_some() || world.open[at].is_some())
            {
                found.push(Action::Crash(at));
            }
        }
        for partition in &world.partitions {
            match partition.owner {
                None => found.extend(
                    (0..2)
                        .filter(|at| {
                            matches!(world.processes[*at].phase, Phase::Down | Phase::Idle)
                        })
                        .map(Action::Assign),
                ),
                Some(owner) => {
                    if world.left.moves > 0
                        && matches!(world.processes[1 - owner].phase, Phase::Idle)
                    {
                        found.push(Action::Move);
                    }
                }
            }
        }
    }
}

fn deleted(world: &World, sent: &Sent) -> bool {
    sent.offset < world.partitions[sent.partition].log_start
}

/// The partition of a lease, as an index.
pub(super) fn partition_of(lease: Lease) -> usize {
    usize::try_from(lease.partition).unwrap()
}

impl Model for Scenario {
    type State = World;
    type Action = Action;

    /// Every partition is owned and restored, and nothing has been sent.
    fn init_states(&self) -> Vec<World> {
        let mut world = World {
            processes: [Process::default(), Process::default()],
            open: [None, None],
            partitions: vec![Partition::default(); self.partitions],
            generation: 0,
            results: std::collections::BTreeMap::new(),
            requests: Vec::new(),
            orders: Vec::new(),
            left: self.left,
            blind: [self.blind; 2],
            unanswered: 0,
            aged: false,
            reset: false,
        };
        if let (Some(verdict), Some(sent)) = (&self.decided, self.log.first()) {
            let entry = Arc::new(decided(sent, verdict));
            world.partitions[0].journal.insert(sent.command, Noted { entry, age: 0 });
        }
        for partition in 0..self.partitions {
            world.assign(partition, partition);
        }
        world.generation = 1;
        for partition in 0..self.partitions {
            world.processes[partition].standing.rejoined(Some(1));
            while matches!(world.processes[partition].phase, Phase::TakingOver(_)) {
                assert!(
                    world.take_over(self, partition),
                    "nothing stands in the way of the first takeover"
                );
            }
        }
        vec![world]
    }

    fn actions(&self, world: &World, found: &mut Vec<Action>) {
        let overdue = world.requests.iter().any(|request| {
            request.age >= if request.frozen { self.times.freeze } else { self.times.delay }
        });
        self.of_requests(world, found);
        self.of_processes(world, found);
        let busy = |action: &Action| {
            matches!(
                action,
                Action::Begin(_)
                    | Action::Proceed(_)
                    | Action::Call(..)
                    | Action::TakeOver(_)
                    | Action::LookUp { .. }
                    | Action::Check { .. }
            )
        };
        if !overdue && (!self.hurried || !found.iter().any(busy)) {
            found.push(Action::Tick);
        }
        if world.left.strips > 0 {
            found.extend(
                world
                    .orders
                    .iter()
                    .enumerate()
                    .filter(|(_, order)| order.marked)
                    .map(|(at, _)| Action::Strip(at)),
            );
        }
        if world.left.filters > 0 {
            found.extend([[true, false], [false, true], [true, true]].map(Action::Filter));
        }
        if world.left.unlists > 0 {
            let listed = |(_, order): &(usize, &Order)| order.shown == Shown::Both;
            let orders = world.orders.iter().enumerate().filter(listed);
            found.extend(orders.map(|(at, _)| Action::Unlist(at)));
        }
        if world.left.deletions > 0 {
            found.push(Action::Delete);
        }
        if self.ages && !world.aged && world.requests.is_empty() {
            found.push(Action::Age);
        }
        if self.resets
            && world.aged
            && !world.reset
            && world.partitions.iter().all(|partition| partition.owner.is_none())
            && world.open.iter().all(Option::is_none)
        {
            found.push(Action::Reset);
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        world.carry_out(self, action).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_ORDER, |_, world: &World| {
                world.orders.iter().enumerate().all(|(at, order)| {
                    world.orders.iter().skip(at + 1).all(|other| other.command != order.command)
                })
            }),
            Property::always(ONE_RESULT, |_, world: &World| {
                world.results.values().all(|results| results.len() < 2)
            }),
            Property::always(OFFSETS, |scenario: &Scenario, world: &World| {
                scenario.log.iter().all(|sent| {
                    world.partitions[sent.partition].offset <= sent.offset
                        || deleted(world, sent)
                        || world.results.contains_key(&(sent.partition, sent.offset))
                })
            }),
            Property::always(CREATED, |scenario: &Scenario, world: &World| {
                told(scenario, world, Outcome::Created)
                    .all(|command| world.orders.iter().any(|order| order.command == command))
            }),
            Property::always(REJECTED, |scenario: &Scenario, world: &World| {
                told(scenario, world, Outcome::Rejected)
                    .all(|command| world.orders.iter().all(|order| order.command != command))
            }),
            Property::always(IN_ORDER, |scenario: &Scenario, world: &World| {
                let done = |sent: &Sent| world.results.contains_key(&(sent.partition, sent.offset));
                scenario.log.iter().filter(|sent| done(sent)).all(|sent| {
                    let before = |other: &&Sent| {
                        (other.partition, other.of_return) == (sent.partition, sent.of_return)
                            && other.offset < sent.offset
                    };
                    let done = |other: &Sent| done(other) || deleted(world, other);
                    world.reset || scenario.log.iter().filter(before).all(done)
                })
            }),
            Property::always(GOOD, |scenario: &Scenario, world: &World| {
                scenario.log.iter().filter(|sent| sent.good).all(|sent| {
                    world
                        .results
                        .get(&(sent.partition, sent.offset))
                        .is_none_or(|results| !results.contains(&Outcome::Invalid))
                })
            }),
            Property::always(FINAL, |scenario: &Scenario, world: &World| {
                scenario.decided != Some(Verdict::NoOrder) || world.orders.is_empty()
            }),
            Property::always(DOUBT, |scenario: &Scenario, world: &World| {
                scenario.doubtful || told(scenario, world, Outcome::InDoubt).next().is_none()
            }),
            Property::always(UNANSWERED, |scenario: &Scenario, world: &World| {
                !scenario.unapproved
                    || world.unanswered >= scenario.timing.max_attempts
                    || told(scenario, world, Outcome::InDoubt).next().is_none()
            }),
            Property::sometimes(FINISHED, |scenario: &Scenario, world: &World| {
                scenario.finished(world)
            }),
        ]
    }
}

/// The entry of a command that was in doubt, as a decision leaves it.
fn decided(sent: &Sent, verdict: &Verdict) -> JournalEntry {
    let command = &sent.accepted.command;
    let (return_no, command_id) = (command.return_no.clone(), command.command_id.clone());
    let in_doubt = JournalEntry {
        return_no: return_no.clone(),
        command_id: command_id.clone(),
        fingerprint: sent.accepted.fingerprint.to_vec(),
        outcome: Some(Outcome::InDoubt),
        ..bare_entry(EntryKind::Outcome, 0, "W", Timestamp(0))
    };
    let found = Found { verdict: verdict.clone(), by: String::new(), at: String::new() };
    let decision = Decision { return_no, command_id, partition: 0, version: 1, found };
    match decision.judge(Some(&in_doubt), Timestamp(0)) {
        Judgement::Settled(entry) => JournalEntry { version: 1, ..*entry },
        other => unreachable!("{other:?}"),
    }
}

fn told<'a>(
    scenario: &'a Scenario,
    world: &'a World,
    outcome: Outcome,
) -> impl Iterator<Item = Command> + 'a {
    let has = move |sent: &&Sent| {
        world
            .results
            .get(&(sent.partition, sent.offset))
            .is_some_and(|results| results.contains(&outcome))
    };
    scenario.log.iter().filter(has).map(|sent| sent.command)
}

pub(super) const ONE_ORDER: &str = "at most one order per command";
pub(super) const ONE_RESULT: &str = "one result per delivered record";
pub(super) const OFFSETS: &str = "offsets never past an unfinished command";
pub(super) const CREATED: &str = "CREATED never without an order";
pub(super) const REJECTED: &str = "no REJECTED with an order";
pub(super) const IN_ORDER: &str = "results of one key in offset order";
pub(super) const GOOD: &str = "a good copy stays good";
pub(super) const FINAL: &str = "no order after a decision that there will be none";
pub(super) const DOUBT: &str = "IN_DOUBT only where a person must decide";
pub(super) const UNANSWERED: &str = "IN_DOUBT only after max_attempts without an answer";
pub(super) const FINISHED: &str = "everything finished";
