//! Places on the wire: how many calls of an account may be under way at once.
//!
//! A call takes its place right before it leaves and gives it back with the answer. So nobody holds
//! one while it waits for anything but the ERP.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use crate::erp::Class;

use super::{account::Account, line::Line};

/// After a refusal for concurrency, one more call at once is tried every so often.
const WIDEN_EVERY: Duration = Duration::from_secs(60);

/// The right of one call to be under way. Dropping it gives it to whoever waits for one.
#[derive(Debug)]
pub(crate) struct Place {
    account: Arc<Account>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.account.lock().places.leave();
        self.account.seat();
    }
}

/// The places of one account.
#[derive(Debug)]
pub(super) struct Places {
    out: u32,
    /// What refusals have left of `most`.
    open: u32,
    /// As configured, this instance's part of it.
    most: u32,
    narrowed_at: Instant,
    lines: BTreeMap<Class, Line<oneshot::Sender<Place>>>,
}

impl Places {
    pub(super) fn new(most: u32, now: Instant) -> Self {
        let most = most.max(1);
        Self { out: 0, open: most, most, narrowed_at: now, lines: BTreeMap::new() }
    }

    /// Calls under way.
    pub(super) fn out(&self) -> u32 {
        self.out
    }

    /// How many may be under way at once now.
    pub(super) fn open(&mut self, now: Instant) -> u32 {
        self.widen(now);
        self.open
    }

    /// Callers who wait for a place.
    pub(super) fn waiting(&mut self) -> usize {
        self.forget_the_gone();
        self.lines.values().map(|line| line.waiting.len()).sum()
    }

    /// Places that nobody has and nobody waits for.
    pub(super) fn free(&mut self, now: Instant) -> u32 {
        if self.waiting() > 0 { 0 } else { self.open(now).saturating_sub(self.out) }
    }

    fn forget_the_gone(&mut self) {
        for line in self.lines.values_mut() {
            line.waiting.retain(|waiting| !waiting.is_closed());
        }
    }

    fn leave(&mut self) {
        self.out = self.out.saturating_sub(1);
    }

    /// Takes one of the free places.
    fn take(&mut self, now: Instant) -> bool {
        let free = self.free(now) > 0;
        self.out += u32::from(free);
        free
    }

    /// Takes a place for whoever is next, if there is one.
    fn next(&mut self, now: Instant) -> Option<oneshot::Sender<Place>> {
        self.forget_the_gone();
        if self.out >= self.open(now) {
            return None;
        }
        let waiting = self.lines.iter().filter(|(_, line)| !line.waiting.is_empty());
        let (first, _) = waiting.min_by_key(|(class, line)| line.rank(**class))?;
        let first = *first;
        let next = self.lines.get_mut(&first)?.waiting.pop_front()?;
        for (class, line) in &mut self.lines {
            if *class == first { line.went() } else { line.pass_over(first) }
        }
        self.out += 1;
        Some(next)
    }

    /// Fewer calls at once, after a refusal for concurrency; a burst refused as a whole counts
    /// once.
    pub(super) fn narrow(&mut self, sent: Instant, now: Instant) {
        if self.open == self.most || sent > self.narrowed_at {
            self.open = (self.open * 7 / 10).max(1);
            self.narrowed_at = now;
        }
    }

    /// One more call at once for every quiet minute. Nobody has to wake for it: as long as all
    /// places are taken, the next answer looks again.
    fn widen(&mut self, now: Instant) {
        while self.open < self.most
            && now.saturating_duration_since(self.narrowed_at) >= WIDEN_EVERY
        {
            self.open += 1;
            self.narrowed_at += WIDEN_EVERY;
        }
    }

    /// This instance's part has become another.
    pub(super) fn set_most(&mut self, most: u32) {
        let narrowed = self.open < self.most;
        self.open = if narrowed { self.open.min(most) } else { most };
        self.most = most;
    }
}

impl Account {
    /// A place, if one is free and nobody waits for it.
    pub(super) fn place_at_once(self: &Arc<Self>) -> Option<Place> {
        let taken = self.lock().places.take(Instant::now());
        taken.then(|| Place { account: Arc::clone(self) })
    }

    /// Waits for a place. Dropping the future gives the place in the line up.
    pub(super) async fn place(self: &Arc<Self>, class: Class) -> Place {
        loop {
            let (sender, receiver) = oneshot::channel();
            self.lock().places.lines.entry(class).or_default().waiting.push_back(sender);
            self.seat();
            // Its sender goes only with a place.
            if let Ok(place) = receiver.await {
                return place;
            }
        }
    }

    /// Gives free places to those who wait.
    pub(super) fn seat(self: &Arc<Self>) {
        loop {
            let next = self.lock().places.next(Instant::now());
            let Some(next) = next else { return };
            // Nobody there any more: the place comes back, outside the lock it takes.
            drop(next.send(Place { account: Arc::clone(self) }));
        }
    }
}
