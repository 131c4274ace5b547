//! The rules of the command pipeline, each the function or constant the product itself uses; an
//! ablation swaps one.

use std::time::Duration;

use crate::{
    clock::{Moment, Timestamp},
    config::Partitioner,
    erp::{Answer, OutboundHead},
    kafka::{ISOLATION, Lease, Prefix, Standing},
    schema::JournalEntry,
    sink::{
        call::{Question, finding_of},
        commit::{Carried, needs_offset},
        journal::{
            Finding, Known, Life, Sight, Step, Timing, Verdict, Visibility, Way, Written,
            both_show, covers, judge, may_be_forgotten, may_send, released, untimed_is_new,
            written,
        },
        orphan::is_gone,
        partition::its_turn,
        sweep::expired,
        validate::{Accepted, Misplaced, check_placement},
    },
};

use super::order::{Part, TAKE_OVER, TRANSACTION, TakeOverPart};

type Judge = fn(&Accepted, i32, i64, Known, &Timing) -> Verdict;
type Answered = fn(&mut Life, Answer, Moment, bool, Moment, &Timing) -> Step;
type Placement = fn(Option<&[u8]>, &str, i32, i32, Partitioner) -> Result<(), Misplaced>;

type Forgotten = fn(Option<Timestamp>, Timestamp, Duration, Option<Timestamp>, bool) -> bool;
type UntimedIsNew = fn(i64, Option<i64>) -> bool;
type Checked = fn(&mut Life, Visibility, Sight, &Timing) -> Step;
type Fence = fn(&Standing<u8>, &[Lease]) -> Result<u8, Vec<Lease>>;

#[derive(Clone, Copy)]
pub(super) struct Rules {
    pub judge: Judge,
    pub released: fn(Option<Moment>, Moment) -> Option<Moment>,
    pub may_send: fn(bool, Moment, Moment) -> bool,
    pub answered: Answered,
    pub looked_up: fn(&mut Life, Finding, Sight, &Timing) -> Step,
    pub checked: Checked,
    pub covers: fn(u64, u64) -> bool,
    pub both_show: fn(bool, bool) -> bool,
    pub noted: fn(&Life) -> bool,
    pub untimed_is_new: UntimedIsNew,
    pub finding_of: fn(&[OutboundHead], &Question, Moment) -> Finding,
    pub written: fn(Way) -> Written,
    pub may_be_withdrawn: fn(&Life) -> bool,
    pub may_be_forgotten: Forgotten,
    pub expired: fn(&JournalEntry, Timestamp, Duration) -> bool,
    pub its_turn: fn(usize) -> bool,
    pub is_gone: fn(i64, i64) -> bool,
    pub placement: Placement,
    pub needs_offset: fn(Carried) -> bool,
    pub position: fn(&Prefix) -> Option<(i64, String)>,
    pub fence: Fence,
    pub transaction: [Part; 3],
    pub take_over: &'static [TakeOverPart],
    pub isolation: &'static str,
}

impl Rules {
    /// The product's.
    pub(super) const ALL: Self = Self {
        judge,
        released,
        may_send,
        answered: Life::answered,
        looked_up: Life::looked_up,
        checked: Life::checked,
        covers,
        both_show,
        noted: Life::is_noted,
        untimed_is_new,
        finding_of,
        written,
        may_be_withdrawn: Life::may_be_withdrawn,
        may_be_forgotten,
        expired,
        its_turn,
        is_gone,
        placement: check_placement,
        needs_offset,
        position: Prefix::position,
        fence: |standing, leases| standing.fence(leases).copied(),
        transaction: TRANSACTION,
        take_over: &TAKE_OVER,
        isolation: ISOLATION,
    };
}
