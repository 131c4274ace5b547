//! One appkey: its budgets, its lines of waiters, its concurrent calls.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use crate::{
    clock::Timestamp,
    config::{Edition, QuotaSettings},
    erp::{
        Call, Class,
        budget::{Budget, Ready},
    },
};

use super::{BudgetStatus, Permit};

/// How many others may go before a waiting class: its floor is one in `PATIENCE` + 1, that is 5 %.
const PATIENCE: u32 = 19;
/// After a refusal for concurrency, one more call at once is tried every so often.
const WIDEN_EVERY: Duration = Duration::from_secs(60);

/// One appkey: its budgets, its lines, its concurrent calls.
#[derive(Debug)]
pub(super) struct Account {
    state: Mutex<State>,
    /// Something happened that may let somebody through earlier.
    pub changed: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub budgets: BTreeMap<Call, Budget>,
    lines: BTreeMap<(Call, Class), Line>,
    /// Permits that are out.
    pub out: u32,
    out_limit: u32,
    /// As configured.
    out_most: u32,
    narrowed_at: Instant,
    /// Whether the task that serves the lines is alive.
    pub serving: bool,
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<oneshot::Sender<Permit>>,
    /// How often others went first while this line could have.
    passed: u32,
}

impl Account {
    pub fn new(settings: &QuotaSettings, edition: Edition) -> Self {
        let now = Instant::now();
        let calls = Call::ALL.into_iter().filter(|call| call.edition() == edition);
        let out_most = settings.max_concurrent_calls.max(1);
        let state = State {
            budgets: calls.map(|call| (call, Budget::new(settings.calls_per_minute, settings.burst, now))).collect(),
            lines: BTreeMap::new(),
            out: 0,
            out_limit: out_most,
            out_most,
            narrowed_at: now,
            serving: false,
        };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A permit at once, or a place in the line.
    pub fn enter(self: &Arc<Self>, call: Call, class: Class) -> Result<Permit, oneshot::Receiver<Permit>> {
        let now = Instant::now();
        let mut state = self.lock();
        let nobody_waits = !state.serving;
        state.widen(now);
        if nobody_waits && state.out < state.out_limit && state.budgets.get_mut(&call).is_some_and(|budget| budget.ready(now) == Ready::Now)
        {
            state.take(call, now);
            return Ok(self.permit(call, class));
        }
        let (sender, receiver) = oneshot::channel();
        state.lines.entry((call, class)).or_default().waiting.push_back(sender);
        state.serving = true;
        drop(state);
        if nobody_waits {
            tokio::spawn(serve(Arc::clone(self), Alive(Some(Arc::clone(self)))));
        } else {
            self.changed.notify_one();
        }
        Err(receiver)
    }

    fn permit(self: &Arc<Self>, call: Call, class: Class) -> Permit {
        Permit { call, class, account: Arc::clone(self), sent: None }
    }
}

/// Ends the lines when the task that serves them dies with its runtime, so that nobody waits for ever.
struct Alive(Option<Arc<Account>>);

impl Drop for Alive {
    fn drop(&mut self) {
        let Some(account) = &self.0 else { return };
        let mut state = account.lock();
        state.serving = false;
        let lines = std::mem::take(&mut state.lines);
        drop(state);
        drop(lines);
    }
}

/// Serves an account's lines until they are empty.
async fn serve(account: Arc<Account>, mut alive: Alive) {
    loop {
        let mut granted = Vec::new();
        let now = Instant::now();
        let turn = {
            let mut state = account.lock();
            state.widen(now);
            loop {
                match state.turn(now) {
                    Turn::Grant(key, sender) => granted.push((key, sender)),
                    Turn::Empty => {
                        // Under the same lock as the last look at the lines: whoever comes next starts a new task.
                        state.serving = false;
                        state.lines.clear();
                        break None;
                    }
                    Turn::Wait(until) => break Some(until),
                }
            }
        };
        for ((call, class), sender) in granted {
            // Nobody there any more: the permit comes back and is dropped, outside the lock it takes.
            drop(sender.send(account.permit(call, class)));
        }
        match turn {
            None => {
                // Already marked as ended; the next task may be alive by now and must keep its lines.
                alive.0 = None;
                return;
            }
            Some(None) => account.changed.notified().await,
            Some(Some(until)) => {
                tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    () = account.changed.notified() => {}
                }
            }
        }
    }
}

/// What the lines' server does next.
enum Turn {
    /// One permit to the head of this line; it is counted as out already.
    Grant((Call, Class), oneshot::Sender<Permit>),
    /// Nobody waits.
    Empty,
    /// Until this instant or a change; without an instant, until a change.
    Wait(Option<Instant>),
}

impl State {
    fn take(&mut self, call: Call, now: Instant) {
        self.out += 1;
        if let Some(budget) = self.budgets.get_mut(&call) {
            budget.take(now);
        }
    }

    fn turn(&mut self, now: Instant) -> Turn {
        for line in self.lines.values_mut() {
            while line.waiting.front().is_some_and(oneshot::Sender::is_closed) {
                line.waiting.pop_front();
            }
            if line.waiting.is_empty() {
                line.passed = 0;
            }
        }
        if self.lines.values().all(|line| line.waiting.is_empty()) {
            return Turn::Empty;
        }
        if self.out >= self.out_limit {
            return Turn::Wait((self.out_limit < self.out_most).then(|| self.narrowed_at + WIDEN_EVERY));
        }
        let mut next: Option<Instant> = None;
        let mut free = Vec::new();
        for (call, budget) in &mut self.budgets {
            if !self.lines.iter().any(|((of, _), line)| of == call && !line.waiting.is_empty()) {
                continue;
            }
            match budget.ready(now) {
                Ready::Now => free.push(*call),
                Ready::At(at) => next = Some(next.map_or(at, |next| next.min(at))),
                Ready::Later => {}
            }
        }
        let mut candidates: Vec<_> =
            self.lines.iter_mut().filter(|((call, _), line)| free.contains(call) && !line.waiting.is_empty()).collect();
        // Lines that were passed over too often first, longest first; then by urgency.
        candidates.sort_by_key(|((_, class), line)| {
            let overdue = if line.passed >= PATIENCE { line.passed } else { 0 };
            (std::cmp::Reverse(overdue), *class, std::cmp::Reverse(line.passed))
        });
        let mut candidates = candidates.into_iter();
        let Some((key, line)) = candidates.next() else { return Turn::Wait(next) };
        let Some(sender) = line.waiting.pop_front() else { return Turn::Wait(next) };
        line.passed = 0;
        candidates.for_each(|(_, line)| line.passed += 1);
        let key = *key;
        self.take(key.0, now);
        Turn::Grant(key, sender)
    }

    /// Fewer calls at once, after a refusal for concurrency; a burst refused as a whole counts once.
    pub fn narrow(&mut self, sent: Instant, now: Instant) {
        if self.out_limit == self.out_most || sent > self.narrowed_at {
            self.out_limit = (self.out_limit * 7 / 10).max(1);
            self.narrowed_at = now;
        }
    }

    /// One more call at once for every quiet minute.
    fn widen(&mut self, now: Instant) {
        while self.out_limit < self.out_most && now.saturating_duration_since(self.narrowed_at) >= WIDEN_EVERY {
            self.out_limit += 1;
            self.narrowed_at += WIDEN_EVERY;
        }
    }

    pub fn status(&mut self, now: Instant) -> Vec<BudgetStatus> {
        let lines = &self.lines;
        let waiting = |call: Call, class: Class| {
            let line = lines.get(&(call, class));
            line.map_or(0, |line| line.waiting.iter().filter(|sender| !sender.is_closed()).count())
        };
        self.budgets
            .iter_mut()
            .map(|(call, budget)| BudgetStatus {
                call: call.name(),
                rate: budget.rate_at(now),
                burst: budget.burst(),
                used: Class::ALL.iter().map(|class| class.name()).zip(budget.used(now)).collect(),
                waiting: Class::ALL.iter().map(|class| (class.name(), waiting(*call, *class))).collect(),
                refused: budget.refusals(),
                cooling_until: budget.resting(now).map(|left| Timestamp::now().plus(left)),
                out: self.out,
                out_limit: self.out_limit,
            })
            .collect()
    }
}
