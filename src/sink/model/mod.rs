//! An exhaustive model of the command pipeline: the product's own rules (see [`rules`]) against two
//! processes, a partition that moves, a log with pending transactions, and an ERP that is slow,
//! deaf or wrong (`docs/delivery.md#ablations-command-pipeline`).
//!
//! [`world`] is a state, [`scenario`] what may happen in one and what must hold in all of them,
//! [`moves`] what an action does, [`ablations`] each rule taken out with what breaks then,
//! [`reach`] whether an end stays possible. Bounds are small (two processes, one to three records,
//! one of each fault), so "holds" is strong evidence and no proof.
//!
//! What is not modelled: permits and the quota, the breaker, how a person's decision comes into the
//! journal (what it permits is), the one question about many open intents (a lookup still decides),
//! and that attempts of a crashed owner count as unanswered in the journal.

mod ablations;
mod moves;
mod order;
mod reach;
mod rules;
mod scenario;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use stateright::{Checker, HasDiscoveries, Model};

use ablations::{
    Ablation, COPIES, NONE, ONE, blind, elsewhere, forgetful, hurried, lost_and_untimed, redriven,
    redriven_in_vain, unapproved, very_late,
};
use rules::Rules;
use scenario::{FINISHED, ONE_ORDER, Scenario};
use world::Left;

/// Two commands of different returns.
const KEYS: &[(u8, u8, u8)] = &[(0, 0, 0), (1, 0, 0)];
/// Two commands of one return.
const SIBLINGS: &[(u8, u8, u8)] = &[(0, 0, 0), (0, 1, 0)];

/// What has to hold, by what it is about.
fn one_command() -> Vec<Scenario> {
    vec![
        Scenario::new("takeover and lost answer", ONE, Left { moves: 1, losses: 1, ..NONE }),
        Scenario::new(
            "crash, lost answer, failed lookup",
            ONE,
            Left { crashes: 1, losses: 1, failures: 1, ..NONE },
        ),
        Scenario::new("two crashes", ONE, Left { crashes: 2, ..NONE }),
        Scenario::new("drain and lost answer", ONE, Left { drains: 1, losses: 1, ..NONE }),
        Scenario::new("refusals, crash, lost answer", ONE, Left { crashes: 1, losses: 1, ..NONE })
            .with(|scenario| {
                scenario.refuses = true;
                scenario.doubtful = true;
            }),
        Scenario::new(
            "rewritten remark, crash, lost answer",
            ONE,
            Left { crashes: 1, losses: 1, strips: 1, ..NONE },
        )
        .with(|scenario| scenario.doubtful = true),
        Scenario::new("no answer ever", ONE, Left { losses: 3, ..NONE })
            .with(|scenario| scenario.doubtful = true),
        Scenario::new(
            "frozen between check and write",
            ONE,
            Left { crashes: 1, losses: 1, ..NONE },
        )
        .with(|scenario| {
            scenario.times.freeze = 1;
            scenario.times.settle = 2;
        }),
        Scenario::new("late request, later attempt refused", ONE, Left { crashes: 1, ..NONE })
            .with(very_late),
        Scenario::new("lookups never show an order", ONE, Left { crashes: 1, losses: 1, ..NONE })
            .with(blind),
        Scenario::new(
            "permission narrowed, lost answer",
            ONE,
            Left { crashes: 1, losses: 1, filters: 1, unlists: 1, ..NONE },
        )
        .with(|scenario| scenario.doubtful = true),
        Scenario::new("unlisted refusals", ONE, Left { crashes: 1, losses: 1, ..NONE }).with(
            |scenario| {
                scenario.refuses = true;
                scenario.unlisted = true;
                scenario.doubtful = true;
            },
        ),
        Scenario::new("unapproved return", ONE, Left { crashes: 1, losses: 1, ..NONE })
            .with(unapproved),
        Scenario::new(
            "record deleted, crash, lost answer",
            ONE,
            Left { crashes: 1, losses: 1, deletions: 1, ..NONE },
        )
        .with(|scenario| scenario.doubtful = true),
        Scenario::new("made, and says so", ONE, Left { crashes: 1, losses: 1, ..NONE })
            .with(|scenario| scenario.says_made = true),
        Scenario::new("made elsewhere", ONE, Left { drains: 1, ..NONE }).with(elsewhere),
        Scenario::new("record of unknown time, lost offsets", ONE, Left { crashes: 1, ..NONE })
            .with(lost_and_untimed),
        Scenario::new("old record, lost offsets", ONE, Left { crashes: 1, losses: 1, ..NONE })
            .with(forgetful),
    ]
}

fn takeovers() -> Vec<Scenario> {
    vec![
        Scenario::new("takeover and crash", ONE, Left { moves: 1, crashes: 1, ..NONE }),
        Scenario::new("record deleted, takeover", ONE, Left { moves: 1, deletions: 1, ..NONE })
            .with(|scenario| scenario.doubtful = true),
    ]
}

fn several_records() -> Vec<Scenario> {
    vec![
        Scenario::new("copies, takeover", COPIES, Left { moves: 1, ..NONE }),
        Scenario::new("copies, crash, lost answer", COPIES, Left { crashes: 1, losses: 1, ..NONE }),
        Scenario::new(
            "copies, the first deleted, crash, lost answer",
            COPIES,
            Left { crashes: 1, losses: 1, deletions: 1, ..NONE },
        )
        .with(|scenario| scenario.doubtful = true)
        .with(hurried),
        Scenario::new(
            "redriven after a decision, crash, lost answer",
            COPIES,
            Left { crashes: 1, losses: 1, ..NONE },
        )
        .with(redriven),
        Scenario::new("redriven in vain, crash", COPIES, Left { crashes: 1, ..NONE })
            .with(redriven_in_vain),
        Scenario::new("copies in doubt", COPIES, Left { crashes: 1, strips: 1, ..NONE })
            .with(|scenario| scenario.doubtful = true),
        Scenario::new("two keys, takeover, crash", KEYS, Left { moves: 1, crashes: 1, ..NONE })
            .with(hurried),
        Scenario::new("two keys, drain, lost answer", KEYS, Left { drains: 1, losses: 1, ..NONE })
            .with(hurried),
        Scenario::new(
            "two records of unknown time, lost offsets, takeover",
            KEYS,
            Left { crashes: 1, moves: 1, ..NONE },
        )
        .with(lost_and_untimed)
        .with(hurried),
        Scenario::new(
            "two commands of one return",
            SIBLINGS,
            Left { crashes: 1, losses: 1, ..NONE },
        ),
        Scenario::new(
            "conflicting copy",
            &[(0, 0, 0), (0, 0, 1), (0, 0, 0)],
            Left { crashes: 1, ..NONE },
        )
        .with(hurried),
    ]
}

/// The scenarios of the ablations with every rule in place, each once: otherwise a broken property
/// would prove nothing.
fn whole() -> Vec<Scenario> {
    let settings: BTreeMap<String, Scenario> = ablations::all()
        .into_iter()
        .filter(|ablation| !ablation.of_the_world)
        .map(|ablation| ablation.scenario.without(|rules| *rules = Rules::ALL))
        .map(|scenario| (scenario.key(), scenario))
        .collect();
    settings.into_values().collect()
}

fn must_hold(scenarios: Vec<Scenario>) {
    for scenario in scenarios {
        let (name, begun) = (scenario.name, Instant::now());
        let checker =
            scenario.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        println!(
            "{name}: {} states, depth {}, {:?}",
            checker.unique_state_count(),
            checker.max_depth(),
            begun.elapsed()
        );
        let mut found = checker.discoveries();
        assert!(found.remove(FINISHED).is_some(), "{name}: never finished");
        if let Some((property, path)) = found.into_iter().next() {
            let world = path.last_state().clone();
            panic!("{name}: not \"{property}\" after {:?}, in {world:?}", path.into_actions());
        }
    }
}

#[test]
fn one_command_whatever_breaks() {
    must_hold(one_command());
}

#[test]
fn one_command_that_moves_and_crashes() {
    must_hold(takeovers());
}

#[test]
fn several_records_whatever_breaks() {
    must_hold(several_records());
}

#[test]
fn with_every_rule_the_ablations_hold() {
    must_hold(whole());
}

#[test]
fn without_any_one_rule_a_promise_is_broken() {
    let mut useless = Vec::new();
    for Ablation { scenario, breaks, .. } in ablations::all() {
        let (name, begun) = (scenario.name, Instant::now());
        let wanted = HasDiscoveries::AnyOf(BTreeSet::from([breaks]));
        let checker = scenario.checker().finish_when(wanted).spawn_bfs().join();
        match checker.discovery(breaks) {
            None => useless.push(format!(
                "without \"{name}\" nothing breaks \"{breaks}\" in {} states",
                checker.unique_state_count()
            )),
            Some(path) => println!(
                "without {name}: not {breaks}, {:?}, {:?}",
                begun.elapsed(),
                path.into_actions()
            ),
        }
    }
    assert!(useless.is_empty(), "{}", useless.join("\n"));
}

/// Either rule of each of these pairs is enough for one order per command: the rows "either
/// suffices" of `docs/delivery.md#ablations-command-pipeline`.
#[test]
fn either_of_two_rules_alone_keeps_one_order() {
    for Ablation { scenario, .. } in ablations::redundant() {
        let name = scenario.name;
        let checker = scenario
            .checker()
            .finish_when(HasDiscoveries::AnyOf(BTreeSet::from([ONE_ORDER])))
            .spawn_bfs()
            .join();
        println!("without {name}: {} states", checker.unique_state_count());
        let path = checker.discovery(ONE_ORDER).map(|path| path.into_actions());
        assert!(path.is_none(), "without \"{name}\": {path:?}");
    }
}

fn deleted() -> Scenario {
    Scenario::new("record deleted", ONE, Left { crashes: 1, losses: 1, deletions: 1, ..NONE })
        .with(|scenario| scenario.doubtful = true)
}

#[test]
fn an_intent_whose_record_is_gone_stays_open_unless_it_is_worked() {
    let (_, stuck) = reach::explore(&deleted().without(|rules| rules.is_gone = |_, _| false));
    assert!(stuck > 0);
}

/// Safety alone is easy to keep by doing nothing: from every state everything can still be
/// finished.
#[test]
fn an_end_stays_in_reach_of_every_state() {
    for scenario in [
        Scenario::new("takeover", ONE, Left { moves: 1, ..NONE }),
        Scenario::new(
            "crash, lost answer, failed lookup",
            ONE,
            Left { crashes: 1, losses: 1, failures: 1, ..NONE },
        ),
        Scenario::new("drain and lost answer", ONE, Left { drains: 1, losses: 1, ..NONE }),
        Scenario::new("refusals", ONE, Left { crashes: 1, losses: 1, ..NONE }).with(|scenario| {
            scenario.refuses = true;
            scenario.doubtful = true;
        }),
        Scenario::new("rewritten remark", ONE, Left { crashes: 1, strips: 1, ..NONE })
            .with(|scenario| scenario.doubtful = true),
        Scenario::new("lookups never show an order", ONE, Left { losses: 1, ..NONE }).with(blind),
        Scenario::new("two keys, takeover", KEYS, Left { moves: 1, ..NONE }).with(hurried),
        deleted(),
        Scenario::new("copies, crash, lost answer", COPIES, Left { crashes: 1, losses: 1, ..NONE }),
    ] {
        let begun = Instant::now();
        let (states, stuck) = reach::explore(&scenario);
        println!("{}: {states} states, {:?}", scenario.name, begun.elapsed());
        assert!(states > 100, "{}", scenario.name);
        assert_eq!(
            stuck, 0,
            "{}: states from which nothing can be finished any more",
            scenario.name
        );
    }
}
