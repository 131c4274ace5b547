//! Every rule of the table in `docs/delivery.md#ablations-command-pipeline` taken out, with the
//! property that breaks.

use crate::{
    clock::Moment,
    erp::Answer,
    schema::JournalEntry,
    sink::{
        call::finding_of,
        commit::Carried,
        decision::Verdict,
        journal::{
            Doubt, Ending, Finding, Known, Life, Step, Verdict as Judged, Visibility, Way, Written,
            judge, written,
        },
    },
};

use super::{
    moves::bound_by_instant,
    order::{Part, TakeOverPart},
    rules::Rules,
    scenario::{
        FINAL, GOOD, OFFSETS, ONE_ORDER, ONE_RESULT, REJECTED, Scenario, Times, UNANSWERED,
    },
    world::Left,
};

/// A rule taken out of a scenario, and what breaks.
pub(super) struct Ablation {
    pub scenario: Scenario,
    pub breaks: &'static str,
    /// The rules are whole; the world is not as it is assumed to be.
    pub of_the_world: bool,
}

pub(super) const NONE: Left = Left {
    crashes: 0,
    moves: 0,
    drains: 0,
    losses: 0,
    failures: 0,
    strips: 0,
    filters: 0,
    unlists: 0,
    deletions: 0,
};
pub(super) const ONE: &[(u8, u8, u8)] = &[(0, 0, 0)];
/// Two copies of one command.
pub(super) const COPIES: &[(u8, u8, u8)] = &[(0, 0, 0), (0, 0, 0)];

fn ablation(
    name: &'static str,
    log: &[(u8, u8, u8)],
    left: Left,
    breaks: &'static str,
    setting: impl FnOnce(&mut Scenario),
    without: impl FnOnce(&mut Rules),
) -> Ablation {
    let of_the_world = name.starts_with("assumption");
    Ablation {
        scenario: Scenario::new(name, log, left).with(setting).without(without),
        breaks,
        of_the_world,
    }
}

/// The rows of the table, in its order.
pub(super) fn all() -> Vec<Ablation> {
    let plain = |_: &mut Scenario| {};
    vec![
        ablation(
            "intent before call",
            ONE,
            Left { crashes: 1, ..NONE },
            ONE_ORDER,
            plain,
            |rules| {
                rules.released = |send_by, now| Some(send_by.unwrap_or(Moment(now.0 + 1)));
            },
        ),
        // Whoever sends late itself waits from when it heard of it: it is the successor that counts on
        // the send-by.
        ablation("send-by check", ONE, Left { moves: 1, ..NONE }, ONE_ORDER, plain, |rules| {
            rules.released = |send_by, _| send_by;
            rules.may_send = |owned, _, _| owned;
        }),
        ablation("ask in doubt", ONE, NONE, ONE_ORDER, plain, |rules| {
            rules.answered = |life, answer, send_by, counts, now, timing| match answer {
                Answer::Unknown { .. } => Step::Intend,
                answer => life.answered(answer, send_by, counts, now, timing),
            };
        }),
        ablation("wait before lookup", ONE, NONE, ONE_ORDER, plain, |rules| {
            rules.looked_up = |life, finding, sight, timing| {
                let Some(doubt) = life.doubt.take() else {
                    return life.looked_up(finding, sight, timing);
                };
                life.doubt = Some(Doubt { bound: Moment(0), ..doubt });
                life.looked_up(finding, sight, timing)
            };
        }),
        ablation(
            "failed lookup is not absent",
            ONE,
            Left { failures: 1, ..NONE },
            ONE_ORDER,
            plain,
            |rules| {
                rules.looked_up = |life, finding, sight, timing| {
                    let finding = match finding {
                        Finding::Failed(_) => Finding::Absent { asked_at: sight.now },
                        finding => finding,
                    };
                    life.looked_up(finding, sight, timing)
                };
            },
        ),
        ablation(
            "offsets in the intent's transaction",
            ONE,
            Left { moves: 1, ..NONE },
            ONE_ORDER,
            plain,
            |rules| {
                rules.needs_offset = |carried| carried != Carried::Intent;
            },
        ),
        // The guard of the call looks at ownership as well, so that it is the second result that
        // shows it.
        ablation(
            "metadata and ownership under one lock",
            ONE,
            Left { moves: 1, ..NONE },
            ONE_RESULT,
            plain,
            |rules| {
                rules.fence = |standing, _| standing.fence(&[]).copied();
            },
        ),
        ablation(
            "records before offsets, and stable offsets",
            ONE,
            Left { moves: 1, ..NONE },
            ONE_ORDER,
            plain,
            |rules| {
                records_after_offsets(rules);
                unstable(rules);
            },
        ),
        ablation(
            "barrier, and stable offsets",
            ONE,
            Left { moves: 1, ..NONE },
            ONE_ORDER,
            plain,
            |rules| {
                no_barrier(rules);
                unstable(rules);
            },
        ),
        ablation(
            "settle in one transaction",
            ONE,
            Left { moves: 1, ..NONE },
            ONE_RESULT,
            plain,
            |rules| {
                rules.needs_offset = |carried| carried != Carried::Outcome;
            },
        ),
        ablation(
            "one after the other per key",
            &[(0, 0, 0), (0, 0, 0)],
            NONE,
            ONE_ORDER,
            plain,
            |rules| {
                rules.its_turn = |_| true;
            },
        ),
        ablation("contiguous prefix", &[(0, 0, 0), (1, 0, 0)], NONE, OFFSETS, hurried, |rules| {
            rules.position = |prefix| {
                let mut all = prefix.clone();
                (0..8).for_each(|offset| all.finish(offset));
                all.position()
            };
        }),
        ablation(
            "durations instead of instants",
            ONE,
            Left { moves: 1, ..NONE },
            ONE_ORDER,
            |scenario| scenario.skew = 3,
            |rules| {
                rules.judge = |accepted, partition, offset, known, timing| {
                    let bound = known.entry.as_ref().map(|entry| bound_by_instant(entry, 3));
                    match (judge(accepted, partition, offset, known, timing), bound) {
                        (Judged::Resume(Life { doubt: Some(doubt), .. }), None) => {
                            unreachable!("no entry, yet in doubt: {doubt:?}")
                        }
                        (Judged::Resume(life), Some(bound)) => {
                            let doubt = life.doubt.clone().map(|doubt| Doubt { bound, ..doubt });
                            Judged::Resume(Life { doubt, ..life })
                        }
                        (verdict, _) => verdict,
                    }
                };
            },
        ),
        ablation(
            "suspect",
            ONE,
            Left { strips: 1, ..NONE },
            ONE_ORDER,
            |scenario| scenario.doubtful = true,
            |rules| {
                rules.finding_of =
                    |heads, question, asked_at| match finding_of(heads, question, asked_at) {
                        Finding::Suspects(_) => Finding::Absent { asked_at },
                        finding => finding,
                    };
            },
        ),
        ablation(
            "conflict leaves the entry alone",
            &[(0, 0, 0), (0, 0, 1), (0, 0, 0)],
            NONE,
            GOOD,
            hurried,
            |rules| {
                rules.written = |way| match way {
                    Way::Plain { .. } => Written { entry: true, ..written(way) },
                    Way::Life { .. } => written(way),
                };
            },
        ),
        ablation(
            "settled-ahead set",
            &[(0, 0, 0), (1, 0, 0)],
            Left { moves: 1, ..NONE },
            ONE_RESULT,
            hurried,
            |rules| {
                rules.position = |prefix| prefix.position().map(|(next, _)| (next, String::new()));
            },
        ),
        ablation(
            "one journal per id",
            &[(0, 0, 0), (0, 0, 0)],
            NONE,
            ONE_ORDER,
            two_partitions,
            |rules| {
                rules.placement = |_, _, _, _, _| Ok(());
            },
        ),
        ablation(
            "a redrive needs the verdict that permits it",
            COPIES,
            NONE,
            FINAL,
            redriven_in_vain,
            |rules| {
                rules.judge = |accepted, partition, offset, known, timing| {
                    let permitted = |entry: JournalEntry| JournalEntry {
                        nonce: entry.resolved.then(|| "redrivable".to_owned()),
                        ..entry
                    };
                    let known = Known { entry: known.entry.map(permitted), ..known };
                    judge(accepted, partition, offset, known, timing)
                };
            },
        ),
        // Either alone suffices.
        ablation(
            "open intents kept, and records of unknown time look first",
            ONE,
            Left { crashes: 1, ..NONE },
            ONE_ORDER,
            untimed,
            |rules| {
                rules.expired = |entry, now, horizon| entry.written_at < now.minus(horizon);
                rules.untimed_is_new = |_, _| true;
            },
        ),
        ablation(
            "old records look first",
            ONE,
            Left { crashes: 1, ..NONE },
            ONE_ORDER,
            forgetful,
            |rules| {
                rules.may_be_forgotten = |_, _, _, _, _| false;
            },
        ),
        ablation(
            "rejection of a later attempt looked up",
            ONE,
            NONE,
            REJECTED,
            very_late,
            |rules| {
                rules.answered = |life, answer, send_by, counts, now, timing| match answer {
                    Answer::Rejected(_) => Step::Settle(Ending::rejected(None)),
                    answer => life.answered(answer, send_by, counts, now, timing),
                };
            },
        ),
        ablation(
            "records of unknown time look first",
            ONE,
            Left { crashes: 1, ..NONE },
            ONE_ORDER,
            lost_and_untimed,
            |rules| {
                rules.untimed_is_new = |_, _| true;
            },
        ),
        ablation("an absence needs a check", ONE, NONE, ONE_ORDER, blind, |rules| {
            rules.looked_up =
                |life, finding, sight, timing| match life.looked_up(finding, sight, timing) {
                    Step::AwaitVisibility { .. } => life.checked(Visibility::Seen, sight, timing),
                    step => step,
                };
        }),
        ablation(
            "the check comes after the lookup",
            ONE,
            Left { filters: 1, ..NONE },
            ONE_ORDER,
            |scenario| scenario.doubtful = true,
            |rules| rules.covers = |_, _| true,
        ),
        ablation(
            "the check asks both queries",
            ONE,
            Left { filters: 1, unlists: 1, ..NONE },
            ONE_ORDER,
            |scenario| scenario.doubtful = true,
            |rules| rules.both_show = |with_status, _| with_status,
        ),
        ablation(
            "a probably created order is not called again",
            ONE,
            NONE,
            ONE_ORDER,
            elsewhere,
            |rules| {
                rules.looked_up = |life, finding, sight, timing| {
                    life.warning = None;
                    life.looked_up(finding, sight, timing)
                };
            },
        ),
        ablation(
            "a probably created order is noted",
            ONE,
            Left { drains: 1, ..NONE },
            ONE_ORDER,
            elsewhere,
            |rules| rules.noted = |_| false,
        ),
        ablation(
            "an unlisted refusal is looked up",
            ONE,
            NONE,
            REJECTED,
            |scenario| {
                scenario.unlisted = true;
                very_late(scenario);
            },
            |rules| {
                rules.answered = |life, answer, send_by, counts, now, timing| match answer {
                    Answer::Unlisted { .. } => Step::Settle(Ending::rejected(None)),
                    answer => life.answered(answer, send_by, counts, now, timing),
                };
            },
        ),
        ablation(
            "a refusal that is waited out keeps the attempt's number",
            ONE,
            Left { crashes: 1, losses: 1, ..NONE },
            UNANSWERED,
            unapproved,
            |rules| {
                rules.answered = |life, answer, send_by, counts, now, timing| {
                    let step = life.answered(answer, send_by, counts, now, timing);
                    life.uncounted = false;
                    step
                };
            },
        ),
        ablation("assumption D", ONE, NONE, ONE_ORDER, |scenario| scenario.times.delay = 5, |_| {}),
        ablation(
            "assumption F",
            ONE,
            NONE,
            ONE_ORDER,
            |scenario| scenario.times.freeze = 5,
            |_| {},
        ),
    ]
}

/// Rules of which either alone keeps a command to one order: each taken out by itself.
pub(super) fn redundant() -> Vec<Ablation> {
    let moved = Left { moves: 1, ..NONE };
    let plain = |_: &mut Scenario| {};
    vec![
        ablation(
            "records before offsets alone",
            ONE,
            moved,
            ONE_ORDER,
            plain,
            records_after_offsets,
        ),
        ablation("stable offsets alone", ONE, moved, ONE_ORDER, plain, unstable),
        ablation("barrier alone", ONE, moved, ONE_ORDER, plain, no_barrier),
        ablation(
            "open intents kept alone",
            ONE,
            Left { crashes: 1, ..NONE },
            ONE_ORDER,
            |scenario| scenario.ages = true,
            |rules| {
                rules.expired = |entry, now, horizon| entry.written_at < now.minus(horizon);
            },
        ),
    ]
}

fn records_after_offsets(rules: &mut Rules) {
    rules.transaction = [Part::Offsets, Part::Records, Part::End];
}

fn unstable(rules: &mut Rules) {
    rules.isolation = "read_uncommitted";
}

fn no_barrier(rules: &mut Rules) {
    rules.take_over = &[TakeOverPart::Offsets, TakeOverPart::Read];
}

pub(super) fn hurried(scenario: &mut Scenario) {
    scenario.hurried = true;
    scenario.times = Times { delay: 0, visibility: 0, ..scenario.times };
}

pub(super) fn two_partitions(scenario: &mut Scenario) {
    scenario.partitions = 2;
    // The copy was sent with another partitioner.
    if let Some(copy) = scenario.log.last_mut() {
        copy.partition = 1;
        copy.offset = 0;
        copy.good = false;
    }
}

/// A person decided that there is no order and none will be: the command is sent again, and redriven.
pub(super) fn redriven_in_vain(scenario: &mut Scenario) {
    scenario.decided = Some(Verdict::NoOrder);
    scenario.log[1].replayed = true;
}

/// A person decided that there is no order and permitted another call: the command is redriven, and
/// sent again.
pub(super) fn redriven(scenario: &mut Scenario) {
    scenario.decided = Some(Verdict::NoOrderRedrivable);
    scenario.log[0].replayed = true;
}

pub(super) fn untimed(scenario: &mut Scenario) {
    scenario.ages = true;
    for sent in &mut scenario.log {
        sent.stamped = None;
    }
}

pub(super) fn lost_and_untimed(scenario: &mut Scenario) {
    untimed(scenario);
    scenario.resets = true;
}

pub(super) fn forgetful(scenario: &mut Scenario) {
    scenario.ages = true;
    scenario.resets = true;
}

/// The ERP carries a request out long after the bound, and refuses what comes after the first order
/// of a return.
pub(super) fn very_late(scenario: &mut Scenario) {
    scenario.one_per_return = true;
    scenario.times.delay = 6;
}

/// A return that may be approved at any time, or never.
pub(super) fn unapproved(scenario: &mut Scenario) {
    scenario.refuses = true;
    scenario.unapproved = true;
    scenario.doubtful = true;
    scenario.timing.max_attempts = 3;
}

pub(super) fn blind(scenario: &mut Scenario) {
    scenario.blind = true;
    scenario.doubtful = true;
}

/// The ERP says that it made the order, and no lookup shows it: it exists as another document.
pub(super) fn elsewhere(scenario: &mut Scenario) {
    scenario.says_made = true;
    scenario.made_elsewhere = true;
    scenario.doubtful = true;
}
