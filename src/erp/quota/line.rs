//! A line of callers of one class, and how often others went first.
//!
//! The same order holds for both things a call waits for, its permit and its place on the wire:
//! whoever was passed over too often (its floor), else the most urgent class.

use std::{cmp::Reverse, collections::VecDeque};

use crate::erp::Class;

/// How many calls of others a waiting class lets go first: its floor is one in so many and one, 5 %
/// or 2.5 %. The three patient classes together take less than a tenth from the urgent ones this
/// way.
fn patience(class: Class) -> u32 {
    match class {
        Class::Lookup | Class::Command => 19,
        Class::Feed | Class::LatePass | Class::Backfill => 39,
    }
}

/// Leaves what is saved up to the urgent ones.
pub(super) fn is_patient(class: Class) -> bool {
    match class {
        Class::Lookup | Class::Command => false,
        Class::Feed | Class::LatePass | Class::Backfill => true,
    }
}

#[derive(Debug)]
pub(super) struct Line<T> {
    pub waiting: VecDeque<T>,
    /// How often others went first.
    passed: u32,
    /// How often those were lookups or commands.
    yielded: u32,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), passed: 0, yielded: 0 }
    }
}

impl<T> Line<T> {
    /// Its floor, against whoever: also from what is saved up for the urgent classes.
    pub(super) fn overdue(&self, class: Class) -> bool {
        self.yielded >= patience(class)
    }

    /// Who goes first is less: floors, then urgency, among the patient classes again with their
    /// floors.
    pub(super) fn rank(&self, class: Class) -> impl Ord + use<T> {
        let beyond = |count: u32| Reverse(if count >= patience(class) { count } else { 0 });
        (beyond(self.yielded), is_patient(class), beyond(self.passed), class)
    }

    /// Its first went.
    pub(super) fn went(&mut self) {
        (self.passed, self.yielded) = (0, 0);
    }

    /// Somebody of class `first` went in its stead.
    pub(super) fn pass_over(&mut self, first: Class) {
        if !self.waiting.is_empty() {
            self.passed += 1;
            self.yielded += u32::from(!is_patient(first));
        }
    }
}
