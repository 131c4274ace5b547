//! What the ERP's clients and the quota count.

use std::{sync::atomic::Ordering, time::Duration};

use crate::{
    clock::Timestamp,
    config::Edition,
    erp::{BudgetStatus, Call, Class},
};

use super::{Metrics, float};

impl Metrics {
    /// One call to the ERP ended: `ok`, `rejected`, `throttled`, `unreachable`, `unknown`,
    /// `misconfigured`, `withheld`.
    pub(crate) fn erp_call(&self, call: Call, class: Class, result: &'static str, took: Duration) {
        self.erp_calls
            .get_or_create(&[("call", call.name()), ("priority", class.name()), ("result", result)])
            .inc();
        self.erp_call_seconds.get_or_create(&[("call", call.name())]).observe(took.as_secs_f64());
    }

    /// One call had waited so long for its permit.
    pub(crate) fn erp_permit(&self, call: Call, class: Class, waited: Duration) {
        self.erp_permit_seconds
            .get_or_create(&[("call", call.name()), ("priority", class.name())])
            .observe(waited.as_secs_f64());
    }

    /// An answer that the table of known answers does not hold.
    pub(crate) fn erp_unseen(&self) {
        self.erp_unseen.inc();
    }

    /// Gauge: how many milliseconds the ERP's clock is ahead of this machine's.
    pub(crate) fn erp_skew(&self, edition: Edition, ahead_ms: i64) {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds between two clocks")]
        let seconds = ahead_ms as f64 / 1000.0;
        self.erp_skew.get_or_create(&[("edition", edition.name())]).set(seconds);
    }

    /// Gauges of the budgets, as they are now.
    pub(crate) fn quota(&self, budgets: &[BudgetStatus]) {
        for budget in budgets {
            let call = ("call", budget.call);
            self.quota.rate.get_or_create(&[call]).set(budget.rate);
            for class in Class::ALL.map(Class::name) {
                let labels = [call, ("priority", class)];
                self.quota
                    .used
                    .get_or_create(&labels)
                    .set(f64::from(budget.used.get(class).copied().unwrap_or(0)));
                self.quota
                    .waiting
                    .get_or_create(&labels)
                    .set(float(budget.waiting.get(class).copied().unwrap_or(0)));
            }
            // The budget counts by itself; both only ever grow.
            self.quota
                .refusals
                .get_or_create(&[call])
                .inner()
                .store(budget.refused, Ordering::Relaxed);
            let left =
                budget.cooldown_until.map_or(0, |until| (until.0 - Timestamp::now().0).max(0));
            self.quota
                .resting
                .get_or_create(&[call])
                .set(Duration::from_millis(u64::try_from(left).unwrap_or(0)).as_secs_f64());
        }
    }
}
