//! Whether an end stays in reach: the whole graph, searched backwards from the states in which
//! everything is finished.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
};

use stateright::Model;

use super::scenario::Scenario;

/// How many states there are, and how many of them cannot reach a finished one any more.
pub(super) fn explore(scenario: &Scenario) -> (usize, usize) {
    // 64 bits of a hash name a state, as stateright itself does it.
    let hasher = RandomState::new();
    let mut names: HashMap<u64, u32> = HashMap::new();
    let mut into: Vec<Vec<u32>> = Vec::new();
    let mut finished = Vec::new();
    let mut waiting = VecDeque::new();
    let mut name = |state, from: Option<u32>, waiting: &mut VecDeque<_>| {
        let next = u32::try_from(into.len()).unwrap();
        let at = *names.entry(hasher.hash_one(&state)).or_insert(next);
        if at == next {
            into.push(Vec::new());
            if scenario.finished(&state) {
                finished.push(at);
            }
            waiting.push_back((at, state));
        }
        into[at as usize].extend(from);
    };
    for state in scenario.init_states() {
        name(state, None, &mut waiting);
    }
    while let Some((at, state)) = waiting.pop_front() {
        for next in scenario.next_states(&state) {
            name(next, Some(at), &mut waiting);
        }
    }
    let mut reaches = vec![false; into.len()];
    let mut waiting = finished;
    while let Some(at) = waiting.pop() {
        if !std::mem::replace(&mut reaches[at as usize], true) {
            waiting.extend(&into[at as usize]);
        }
    }
    (reaches.len(), reaches.iter().filter(|reaches| !**reaches).count())
}
