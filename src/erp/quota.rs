//! The ERP's quota: pacing, priorities, concurrency, adaptation to refusals, and this instance's
//! share of all of it.
//!
//! ```text
//! acquire(call, class) ─▶ line per (budget, class) ─▶ budget (rate, burst, rest after a refusal) ─▶ Permit
//! Permit ─▶ line per (account, class) ─▶ place on the wire (concurrent calls) ─▶ one call
//! ```
//!
//! A budget pays for one call of an appkey, or for all of them (`quota.scope`). Whoever waits
//! stands in a line per (budget, class). A free budget goes to the most urgent class, with a floor
//! for each of the others ([`mod@line`]). A line is served by a task that lives only while somebody
//! waits. A place on the wire is taken right before the call leaves ([`place`]), so a permit may be
//! held for as long as a transaction takes.

mod account;
mod line;
mod place;
mod share;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::time::Instant;

use crate::{
    clock::Timestamp,
    config::{Edition, QuotaSettings},
};

use super::{Call, Class};
use account::Account;

pub(crate) use place::Place;
pub(crate) use share::Work;

/// Which of the ERP's two quotas refused a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::erp) enum Limit {
    Frequency,
    Concurrency,
}

/// Every budget of this process; shared.
#[derive(Clone, Debug)]
pub(crate) struct Quota {
    flagship: Arc<Account>,
    enterprise: Arc<Account>,
}

impl Quota {
    /// Empty budgets for both accounts.
    #[must_use]
    pub(crate) fn new(settings: &QuotaSettings) -> Self {
        Self {
            flagship: Arc::new(Account::new(settings, Edition::Flagship)),
            enterprise: Arc::new(Account::new(settings, Edition::Enterprise)),
        }
    }

    fn account(&self, call: Call) -> &Arc<Account> {
        match call.edition() {
            Edition::Flagship => &self.flagship,
            Edition::Enterprise => &self.enterprise,
        }
    }

    /// Waits until the rate allows a call of this kind. Dropping the future gives the place in the
    /// line up.
    pub(crate) async fn acquire(&self, call: Call, class: Class) -> Permit {
        let account = self.account(call);
        let began = Instant::now();
        loop {
            let waiting = match account.enter(call, class) {
                Ok(permit) => return permit,
                Err(waiting) => waiting,
            };
            // An error means that the line's task died with its runtime: stand in line again.
            if let Ok(mut permit) = waiting.await {
                permit.waited = began.elapsed();
                return permit;
            }
        }
    }

    /// A place on the wire for a call of this kind, if one is free and nobody waits for one.
    pub(crate) fn place_at_once(&self, call: Call) -> Option<Place> {
        self.account(call).place_at_once()
    }

    /// Waits for a place on the wire. Dropping the future gives the place in the line up.
    pub(crate) async fn place(&self, call: Call, class: Class) -> Place {
        self.account(call).place(class).await
    }

    /// What a call of this kind may count on now: whoever collects permits ahead of the wire has
    /// no use for more, and others may.
    #[must_use]
    pub(crate) fn room(&self, call: Call) -> Room {
        let now = Instant::now();
        let mut state = self.account(call).lock();
        let places = usize::try_from(state.places.free(now)).unwrap_or(usize::MAX);
        let budget = state.budget(call);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "calls a second, positive, far below the largest usize"
        )]
        let second = (budget.rate_at(now) / 60.0).ceil() as usize;
        let permits = usize::try_from(budget.burst()).unwrap_or(usize::MAX).saturating_add(second);
        Room { places, permits }
    }

    /// Which part of the work that makes this call is this instance's, 0 to 1. Budgets are scaled
    /// by it: rate, burst and concurrent calls, the last two to no less than 1. Work that was never
    /// named takes no part.
    pub(crate) fn set_share(&self, call: Call, work: Work, share: f64) {
        let account = self.account(call);
        if account.lock().set_share(call, work, share, Instant::now()) {
            tracing::debug!(
                erp.call = call.name(),
                pipeline = work.name(),
                quota.share = share,
                "quota share of this instance changed"
            );
        }
        account.changed.notify_one();
        account.seat();
    }

    /// Calls a minute that are in force for a call in this instance now.
    #[must_use]
    pub(crate) fn rate(&self, call: Call) -> f64 {
        self.account(call).lock().budget(call).rate_at(Instant::now())
    }

    /// Every budget as it is now, for `/status`.
    #[must_use]
    pub(crate) fn status(&self) -> Vec<BudgetStatus> {
        let now = Instant::now();
        [&self.flagship, &self.enterprise]
            .into_iter()
            .flat_map(|account| account.lock().status(now))
            .collect()
    }
}

/// One budget as `/status` shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct BudgetStatus {
    /// [`Call::name`], or the edition's where all calls of an account share one budget.
    pub call: &'static str,
    /// This instance's part of the budget, 0 to 1.
    pub share: f64,
    /// Calls a minute in force now, in this instance.
    pub rate: f64,
    pub burst: u32,
    /// Calls of the last minute, by class.
    pub used: BTreeMap<&'static str, u32>,
    /// Calls this minute may still hold.
    pub left: u32,
    /// Who waits for a permit, by class.
    pub waiting: BTreeMap<&'static str, usize>,
    /// How long those who wait have waited at most, by class.
    pub waiting_ms: BTreeMap<&'static str, u64>,
    /// Until all who wait now have their permits, at this rate.
    pub waiting_for_seconds: f64,
    /// Calls the ERP's quota has refused since the start.
    pub refused: u64,
    /// Nothing leaves before this instant, because of a refusal.
    pub cooldown_until: Option<Timestamp>,
    /// Calls of the whole account that are under way, and how many may be.
    pub out: u32,
    pub max_in_flight_calls: u32,
    /// Callers of the whole account who have a permit and wait for a place on the wire; the command
    /// pipeline counts as one.
    pub waiting_for_place: usize,
}

/// What an account has to give now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Free places on the wire.
    pub places: usize,
    /// Most permits its budget gives within a second.
    pub permits: usize,
}

/// The right to make one call. Dropping it unused gives back what can be given back; dropping it at
/// all frees its place on the wire, so it is kept until the answer is there.
#[derive(Debug)]
pub(crate) struct Permit {
    /// For which call.
    pub call: Call,
    /// On whose behalf.
    pub class: Class,
    /// How long it was waited for, and for its place.
    pub waited: Duration,
    account: Arc<Account>,
    place: Option<Place>,
    sent: Option<Instant>,
}

impl Permit {
    /// Its place on the wire.
    pub(crate) fn put(&mut self, place: Place) {
        self.place = Some(place);
    }

    /// Waits for a place on the wire, unless it has one.
    pub(super) async fn take_place(&mut self) {
        if self.place.is_none() {
            let began = Instant::now();
            self.place = Some(self.account.place(self.class).await);
            self.waited += began.elapsed();
        }
    }

    /// The call leaves now.
    pub(super) fn spend(&mut self) {
        if self.sent.is_none() {
            let now = Instant::now();
            self.sent = Some(now);
            self.account.lock().budget(self.call).spend(self.class, now);
        }
    }

    /// The ERP's quota refused the call.
    pub(super) fn refused(&self, limit: Limit) {
        let now = Instant::now();
        let sent = self.sent.unwrap_or(now);
        let mut state = self.account.lock();
        state.budget(self.call).refused(sent, now);
        match limit {
            Limit::Frequency => {}
            Limit::Concurrency => state.places.narrow(sent, now),
        }
    }

    /// The ERP answered, whatever it said.
    pub(super) fn answered(&self) {
        if let Some(sent) = self.sent {
            self.account.lock().budget(self.call).answered(sent);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.account.lock();
        if self.sent.is_none() {
            state.budget(self.call).give_back();
        }
        let somebody_waits = state.serving;
        drop(state);
        if somebody_waits {
            self.account.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
