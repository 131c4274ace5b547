//! What the registry said about schema ids met in messages.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::clock::Moment;

use super::shape::Shape;

/// Ids come from messages, which anybody may write: what is remembered about them is bounded.
pub(super) const MAX_LEARNT: usize = 1_000;
/// A missing id is asked for again after this: its schema may have reached the registry late.
pub(super) const UNUSABLE_FOR: Duration = Duration::from_secs(60);

/// The answers by id.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    pub(super) by_id: HashMap<u32, Lesson>,
    /// Oldest first.
    pub(super) order: VecDeque<u32>,
}

/// One answer.
#[derive(Clone, Debug)]
pub(super) enum Lesson {
    Readable(Arc<Shape>),
    Unusable { reason: String, until: Moment },
}

impl Learnt {
    /// Remembers an answer, and forgets the oldest beyond the bound.
    pub(super) fn insert(&mut self, id: u32, lesson: Lesson) {
        if self.by_id.insert(id, lesson).is_none() {
            self.order.push_back(id);
        }
        while self.order.len() > MAX_LEARNT {
            if let Some(oldest) = self.order.pop_front() {
                self.by_id.remove(&oldest);
            }
        }
    }
}
