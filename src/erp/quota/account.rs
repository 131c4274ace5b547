//! One appkey: its budgets, and the lines of those who wait for a permit.
//!
//! Who goes next, of those whose budget allows it: see [`super::line`]. Where lookups or commands pay from the same budget, the patient
//! classes (feeds, late passes, backfills) leave them the saved-up burst and live on what would be
//! lost otherwise. So urgent calls wait no longer beside them than alone, but for the floors, which
//! together are less than a tenth.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use crate::{
    background,
    clock::{Timestamp, millis},
    config::{Edition, QuotaScope, QuotaSettings},
    crash::{self, Fault},
    erp::{
        Call, Class,
        budget::{Budget, Ready},
    },
};

use super::{
    BudgetStatus, Permit,
    line::{Line, is_patient},
    place::Places,
    share::{Shares, Work},
};

/// What one budget pays for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Call(Call),
    Account(Edition),
}

impl Key {
    pub(super) fn pays_for(self, call: Call) -> bool {
        match self {
            Self::Call(own) => own == call,
            Self::Account(edition) => call.edition() == edition,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Call(call) => call.name(),
            Self::Account(Edition::Flagship) => "flagship",
            Self::Account(Edition::Enterprise) => "enterprise",
        }
    }
}

/// One appkey: its budgets, its lines, its places on the wire.
#[derive(Debug)]
pub(super) struct Account {
    state: Mutex<State>,
    /// Something happened that may let somebody through earlier.
    pub changed: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    scope: QuotaScope,
    edition: Edition,
    settings: QuotaSettings,
    budgets: BTreeMap<Key, Budget>,
    shares: Shares,
    lines: BTreeMap<(Key, Class), Line<Waiting>>,
    pub places: Places,
    /// Whether the task that serves the lines is alive.
    pub serving: bool,
}

#[derive(Debug)]
struct Waiting {
    call: Call,
    since: Instant,
    sender: oneshot::Sender<Permit>,
}

impl Account {
    pub(super) fn new(settings: &QuotaSettings, edition: Edition) -> Self {
        let now = Instant::now();
        let mut state = State {
            scope: settings.scope,
            edition,
            settings: *settings,
            budgets: BTreeMap::new(),
            shares: Shares::new(settings.share),
            lines: BTreeMap::new(),
            places: Places::new(part_of(settings.max_concurrent_calls, settings.share), now),
            serving: false,
        };
        for call in Call::ALL.into_iter().filter(|call| call.edition() == edition) {
            state.budget(call);
        }
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A permit at once, or a place in the line.
    pub(super) fn enter(
        self: &Arc<Self>,
        call: Call,
        class: Class,
    ) -> Result<Permit, oneshot::Receiver<Permit>> {
        let now = Instant::now();
        let mut state = self.lock();
        let nobody_waits = !state.serving;
        let key = state.key(call);
        let keep = if is_patient(class) { state.kept(key) } else { 0 };
        if nobody_waits && state.budget(call).ready(now, keep) == Ready::Now {
            state.take(key, now);
            return Ok(self.permit(call, class));
        }
        let (sender, receiver) = oneshot::channel();
        state.lines.entry((key, class)).or_default().waiting.push_back(Waiting {
            call,
            since: now,
            sender,
        });
        state.serving = true;
        drop(state);
        if nobody_waits {
            background::task(serve(Arc::clone(self), Alive(Some(Arc::clone(self)))));
        } else {
            self.changed.notify_one();
        }
        Err(receiver)
    }

    fn permit(self: &Arc<Self>, call: Call, class: Class) -> Permit {
        Permit {
            call,
            class,
            waited: Duration::ZERO,
            account: Arc::clone(self),
            place: None,
            sent: None,
        }
    }
}

/// Ends the lines when the task that serves them dies with its runtime, so that nobody waits for
/// ever.
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
            crash::panic_once_if(Fault::QuotaPanic);
            loop {
                match state.turn(now) {
                    Turn::Grant(class, waiting) => granted.push((class, waiting)),
                    Turn::Empty => {
                        // Under the same lock as the last look at the lines: whoever comes next
                        // starts a new task. What was let pass is kept: a class whose callers come
                        // one by one has its floor as well.
                        state.serving = false;
                        break None;
                    }
                    Turn::Wait(until) => break Some(until),
                }
            }
        };
        for (class, waiting) in granted {
            // Nobody there any more: the permit comes back and is dropped, outside the lock it
            // takes.
            drop(waiting.sender.send(account.permit(waiting.call, class)));
        }
        match turn {
            None => {
                // Already marked as ended; the next task may be alive by now and must keep its
                // lines.
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
    /// One permit to the head of a line of this class; its budget has paid already.
    Grant(Class, Waiting),
    /// Nobody waits.
    Empty,
    /// Until this instant or a change; without an instant, until a change.
    Wait(Option<Instant>),
}

impl State {
    fn key(&self, call: Call) -> Key {
        match self.scope {
            QuotaScope::Call => Key::Call(call),
            QuotaScope::Account => Key::Account(self.edition),
        }
    }

    /// The budget that pays for a call.
    pub(super) fn budget(&mut self, call: Call) -> &mut Budget {
        let (key, settings, shares) = (self.key(call), &self.settings, &self.shares);
        self.budgets.entry(key).or_insert_with(|| {
            let now = Instant::now();
            let mut budget = Budget::new(settings.calls_per_minute, settings.burst, now);
            budget.set_share(shares.whole(key), now);
            budget
        })
    }

    fn take(&mut self, key: Key, now: Instant) {
        if let Some(budget) = self.budgets.get_mut(&key) {
            budget.take(now);
        }
    }

    /// What patient classes leave saved up in a budget.
    fn kept(&self, key: Key) -> u32 {
        let burst = self.budgets.get(&key).map_or(1, Budget::burst);
        if self.shares.mixed(key) { burst - 1 } else { 0 }
    }

    fn turn(&mut self, now: Instant) -> Turn {
        for line in self.lines.values_mut() {
            while line.waiting.front().is_some_and(|waiting| waiting.sender.is_closed()) {
                line.waiting.pop_front();
            }
        }
        if self.lines.values().all(|line| line.waiting.is_empty()) {
            return Turn::Empty;
        }
        let mut next: Option<Instant> = None;
        let mut free = Vec::new();
        for ((key, class), line) in self.lines.iter().filter(|(_, line)| !line.waiting.is_empty()) {
            let keep =
                if is_patient(*class) && !line.overdue(*class) { self.kept(*key) } else { 0 };
            match self.budgets.get_mut(key).map_or(Ready::Later, |budget| budget.ready(now, keep)) {
                Ready::Now => free.push((line.rank(*class), (*key, *class))),
                Ready::At(at) => next = Some(next.map_or(at, |next| next.min(at))),
                Ready::Later => {}
            }
        }
        free.sort();
        let Some(chosen) = free.first().map(|(_, line)| *line) else { return Turn::Wait(next) };
        let Some(waiting) = self.lines.get_mut(&chosen).and_then(|line| line.waiting.pop_front())
        else {
            return Turn::Wait(next);
        };
        for (other, line) in self.lines.iter_mut().filter(|(other, _)| other.0 == chosen.0) {
            if *other == chosen {
                line.went();
            } else {
                line.pass_over(chosen.1);
            }
        }
        self.take(chosen.0, now);
        Turn::Grant(chosen.1, waiting)
    }

    /// See [`super::Quota::set_share`]; whether that was something new.
    pub(super) fn set_share(&mut self, call: Call, work: Work, share: f64, now: Instant) -> bool {
        if !self.shares.set(call, work, share) {
            return false;
        }
        let key = self.key(call);
        let whole = self.shares.whole(key);
        self.budget(call).set_share(whole, now);
        // The ERP counts concurrent calls by account, whatever the scope of the budgets.
        let share = self.shares.whole(Key::Account(self.edition));
        self.places.set_most(part_of(self.settings.max_concurrent_calls, share));
        true
    }

    pub(super) fn status(&mut self, now: Instant) -> Vec<BudgetStatus> {
        let (out, max_in_flight_calls) = (self.places.out(), self.places.open(now));
        let (lines, waiting_for_place) = (&self.lines, self.places.waiting());
        let waits = |key: Key, class: Class| {
            let line = lines.get(&(key, class)).into_iter().flat_map(|line| &line.waiting);
            line.filter(|waiting| !waiting.sender.is_closed())
                .map(|waiting| millis(now.saturating_duration_since(waiting.since)))
        };
        let by_class = |value: &dyn Fn(Class) -> usize| {
            Class::ALL.iter().map(|class| (class.name(), value(*class))).collect()
        };
        self.budgets
            .iter_mut()
            .map(|(key, budget)| {
                let waiting: BTreeMap<&'static str, usize> =
                    by_class(&|class| waits(*key, class).count());
                let longest =
                    |class: &Class| (class.name(), waits(*key, *class).max().unwrap_or(0));
                let rate = budget.rate_at(now);
                BudgetStatus {
                    call: key.name(),
                    share: rounded(budget.share()),
                    rate: rounded(rate),
                    burst: budget.burst(),
                    used: Class::ALL
                        .iter()
                        .map(|class| class.name())
                        .zip(budget.used(now))
                        .collect(),
                    left: budget.left(now),
                    waiting_for_seconds: rounded(
                        waiting.values().sum::<usize>() as f64 * 60.0 / rate,
                    ),
                    waiting,
                    waiting_ms: Class::ALL.iter().map(longest).collect(),
                    refused: budget.refusals(),
                    cooldown_until: budget.resting(now).map(|left| Timestamp::now().plus(left)),
                    out,
                    max_in_flight_calls,
                    waiting_for_place,
                }
            })
            .collect()
    }
}

/// So many of `whole`, at least 1.
fn part_of(whole: u32, share: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a u32, between 0 and the whole"
    )]
    let part = (f64::from(whole) * share + 1e-9).floor() as u32;
    part.max(1)
}

/// For people: two decimals.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
