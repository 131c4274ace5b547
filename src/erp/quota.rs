//! One budget per (appkey, call): pacing, priorities, concurrency, adaptation to refusals.
//!
//! Whoever waits stands in a line per (call, class). A free budget goes to the most urgent class, except that a line
//! passed over 19 times goes first: so every class that waits gets at least a twentieth. A line is served by
//! a task that lives only while somebody waits.

mod account;

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use tokio::time::Instant;

use crate::{
    clock::Timestamp,
    config::{Edition, QuotaSettings},
};

use super::{Call, Class};
use account::Account;

/// Which of the ERP's two quotas refused a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::erp) enum Limit {
    Frequency,
    Concurrency,
}

/// Every budget of this process; shared.
#[derive(Clone, Debug)]
pub struct Quota {
    flagship: Arc<Account>,
    enterprise: Arc<Account>,
}

impl Quota {
    /// Empty budgets for both accounts.
    #[must_use]
    pub fn new(settings: &QuotaSettings) -> Self {
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

    /// Waits until a call of this kind may leave. Dropping the future gives the place in the line up.
    pub async fn acquire(&self, call: Call, class: Class) -> Permit {
        let account = self.account(call);
        loop {
            let waiting = match account.enter(call, class) {
                Ok(permit) => return permit,
                Err(waiting) => waiting,
            };
            // An error means that the line's task died with its runtime: stand in line again.
            if let Ok(permit) = waiting.await {
                return permit;
            }
        }
    }

    /// This instance's part of a call's budget, 0 to 1: rate and burst are scaled by it, the burst to no less than 1.
    pub fn set_share(&self, call: Call, share: f64) {
        let account = self.account(call);
        if let Some(budget) = account.lock().budgets.get_mut(&call) {
            budget.set_share(share, Instant::now());
        }
        account.changed.notify_one();
    }

    /// Every budget as it is now, for `/status`.
    #[must_use]
    pub fn status(&self) -> Vec<BudgetStatus> {
        let now = Instant::now();
        [&self.flagship, &self.enterprise].into_iter().flat_map(|account| account.lock().status(now)).collect()
    }
}

/// One budget as `/status` shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BudgetStatus {
    /// [`Call::name`].
    pub call: &'static str,
    /// Calls a minute in force now.
    pub rate: f64,
    pub burst: u32,
    /// Calls of the last minute, by class.
    pub used: BTreeMap<&'static str, u32>,
    /// Who waits for a permit, by class.
    pub waiting: BTreeMap<&'static str, usize>,
    /// Calls the ERP's quota has refused since the start.
    pub refused: u64,
    /// Nothing leaves before this instant, because of a refusal.
    pub cooling_until: Option<Timestamp>,
    /// Permits of the whole account that are out, and how many may be.
    pub out: u32,
    pub out_limit: u32,
}

/// The right to make one call. Dropping it unused gives back what can be given back; dropping it at all frees its
/// place among the concurrent calls, so it is kept until the answer is there.
#[derive(Debug)]
pub struct Permit {
    /// For which call.
    pub call: Call,
    /// On whose behalf.
    pub class: Class,
    account: Arc<Account>,
    sent: Option<Instant>,
}

impl Permit {
    /// The call leaves now.
    pub(super) fn spend(&mut self) {
        if self.sent.is_none() {
            let now = Instant::now();
            self.sent = Some(now);
            if let Some(budget) = self.account.lock().budgets.get_mut(&self.call) {
                budget.spend(self.class, now);
            }
        }
    }

    /// The ERP's quota refused the call.
    pub(super) fn refused(&self, limit: Limit) {
        let now = Instant::now();
        let sent = self.sent.unwrap_or(now);
        let mut state = self.account.lock();
        if let Some(budget) = state.budgets.get_mut(&self.call) {
            budget.refused(sent, now);
        }
        match limit {
            Limit::Frequency => {}
            Limit::Concurrency => state.narrow(sent, now),
        }
    }

    /// The ERP answered, whatever it said.
    pub(super) fn answered(&self) {
        if let (Some(sent), Some(budget)) = (self.sent, self.account.lock().budgets.get_mut(&self.call)) {
            budget.answered(sent);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.account.lock();
        state.out = state.out.saturating_sub(1);
        if self.sent.is_none()
            && let Some(budget) = state.budgets.get_mut(&self.call)
        {
            budget.give_back();
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
