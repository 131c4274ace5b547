//! Whose turn it is: the most urgent pass that is due, unless another one has been passed over too
//! often. Where a page takes longer than a feed's interval (a slow ERP, a short quota), the live
//! pass is due whenever a turn begins, and would go first for ever. Pure.

use std::{cmp::Reverse, collections::HashMap};

use super::window::Pass;

const PASSES: usize = Pass::ALL.len();

/// How many turns of others a pass that is due lets go first: it has at least a tenth of them, less
/// what other passes claim in the same way.
const PATIENCE: u32 = 9;

/// How often each pass was passed over, one after the other, since it was due.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(HashMap<Pass, u32>);

impl Turns {
    /// The order in which the passes are asked whether they have something to read: whoever was
    /// passed over too often, the longest first, then by urgency.
    pub(super) fn order(&self) -> [Pass; PASSES] {
        let mut order = Pass::ALL;
        order.sort_by_key(|pass| {
            let passed = self.0.get(pass).copied().unwrap_or(0);
            Reverse(if passed >= PATIENCE { passed } else { 0 })
        });
        order
    }

    /// `pass` had a turn, or nothing to read when it was asked.
    pub(super) fn went(&mut self, pass: Pass) {
        self.0.remove(&pass);
    }

    /// Another pass goes first; whoever is not `waiting` has not been passed over.
    pub(super) fn pass_over(&mut self, pass: Pass, waiting: bool) {
        if waiting {
            let passed = self.0.entry(pass).or_default();
            *passed = passed.saturating_add(1);
        } else {
            self.0.remove(&pass);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(pass: Pass) -> usize {
        Pass::ALL.iter().position(|one| *one == pass).unwrap()
    }

    /// One turn as the feed has it: who went.
    fn turn(turns: &mut Turns, due: &[bool; PASSES]) -> Option<Pass> {
        let next = turns.order().into_iter().find(|pass| due[place(*pass)])?;
        turns.went(next);
        for other in Pass::ALL {
            if other != next {
                turns.pass_over(other, due[place(other)]);
            }
        }
        Some(next)
    }

    proptest! {
        #[test]
        fn no_pass_that_stays_due_waits_for_long(
            all in prop::collection::vec(prop::array::uniform::<_, PASSES>(prop::bool::weighted(0.9)), 1..300)
        ) {
            let mut turns = Turns::default();
            let mut waits = [0_u32; PASSES];
            for due in all {
                let went = turn(&mut turns, &due);
                for pass in Pass::ALL {
                    let waited = &mut waits[place(pass)];
                    *waited = if due[place(pass)] && went != Some(pass) { *waited + 1 } else { 0 };
                    prop_assert!(*waited < PATIENCE + PASSES as u32, "{pass:?} waits for ever");
                }
            }
        }
    }

    #[test]
    fn urgency_decides_as_long_as_nobody_has_waited_too_long() {
        let mut turns = Turns::default();
        let all = [true; PASSES];
        let went: Vec<Pass> = (0..40).filter_map(|_| turn(&mut turns, &all)).collect();
        assert!(went[..9].iter().all(|pass| *pass == Pass::Live), "{went:?}");
        for pass in Pass::ALL {
            assert!(went[9..].contains(&pass), "{pass:?} in {went:?}");
        }
        let live = went.iter().filter(|pass| **pass == Pass::Live).count();
        assert!(live * 2 > went.len(), "{live} of {went:?}");
        // Due now and then, it goes when nobody more urgent is.
        let mut turns = Turns::default();
        let mut idle = [false; PASSES];
        idle[place(Pass::Late)] = true;
        assert_eq!(turn(&mut turns, &idle), Some(Pass::Late));
    }
}
