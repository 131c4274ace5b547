//! The ERP's calls, one attempt each.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    clock::Timestamp,
    config::{Edition, Settings},
    metrics::Metrics,
};

use super::{
    Answer, Call, Class, NotExecuted, OrderRequest, Page, PageRequest, Permit, QueryFault, Quota,
    Refusal, Selection, SharedGuard,
    answer::Judged,
    clock::ErpTime,
    edition::{Enterprise, Flagship},
    record::MOST_LINES,
};

/// Why no client could be built: one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BuildFault(pub String);

/// Both editions' clients and the quota they share; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Erp(Arc<Inner>);

/// The clients of one set of credentials.
#[derive(Debug)]
struct Accounts {
    flagship: Option<Flagship>,
    enterprise: Option<Enterprise>,
}

impl Accounts {
    fn new(settings: &Settings) -> Result<Self, BuildFault> {
        Ok(Self {
            flagship: settings.flagship.as_ref().map(Flagship::new).transpose()?,
            enterprise: settings.enterprise.as_ref().map(Enterprise::new).transpose()?,
        })
    }
}

#[derive(Debug)]
struct Inner {
    accounts: RwLock<Arc<Accounts>>,
    /// How often the accounts were replaced.
    replaced: AtomicU64,
    quota: Quota,
    metrics: Arc<Metrics>,
}

impl Erp {
    /// Clients for the accounts that are configured. Connects to nothing.
    ///
    /// # Errors
    /// [`BuildFault`] for an address, CA file, proxy or secret that cannot be used.
    pub(crate) fn new(settings: &Settings, metrics: Arc<Metrics>) -> Result<Self, BuildFault> {
        Ok(Self(Arc::new(Inner {
            accounts: RwLock::new(Arc::new(Accounts::new(settings)?)),
            replaced: AtomicU64::new(0),
            quota: Quota::new(&settings.quota),
            metrics,
        })))
    }

    /// Takes the credentials and certificate authorities of `settings` from now on; a call on the
    /// wire ends as it began.
    ///
    /// # Errors
    /// [`BuildFault`]; then everything stays as it was.
    pub(crate) fn replace_accounts(&self, settings: &Settings) -> Result<(), BuildFault> {
        let accounts = Arc::new(Accounts::new(settings)?);
        *self.0.accounts.write().unwrap_or_else(PoisonError::into_inner) = accounts;
        self.0.replaced.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Which accounts are in force: another number once they were replaced.
    pub(crate) fn account(&self) -> u64 {
        self.0.replaced.load(Ordering::Acquire)
    }

    fn accounts(&self) -> Arc<Accounts> {
        Arc::clone(&self.0.accounts.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The budgets.
    #[must_use]
    pub(crate) fn quota(&self) -> &Quota {
        &self.0.quota
    }

    /// The account behind a call, for `source.sid`; empty when it is not configured.
    #[must_use]
    pub(crate) fn sid(&self, call: Call) -> String {
        let accounts = self.accounts();
        let sid = match call.edition() {
            Edition::Flagship => accounts.flagship.as_ref().map(Flagship::sid),
            Edition::Enterprise => accounts.enterprise.as_ref().map(Enterprise::sid),
        };
        sid.unwrap_or_default().to_owned()
    }

    /// The clock of an edition's ERP as it stands now: from the `Date` of its answers and this
    /// machine's suspend-proof clock, so that nobody changes it by setting ours. Other credentials
    /// begin with a clock that nobody has seen.
    #[must_use]
    pub(crate) fn clock(&self, edition: Edition) -> ErpTime {
        let accounts = self.accounts();
        let clock = match edition {
            Edition::Flagship => accounts.flagship.as_ref().map(Flagship::clock),
            Edition::Enterprise => accounts.enterprise.as_ref().map(Enterprise::clock),
        };
        clock.unwrap_or_default()
    }

    /// The earlier of our clock and the ERP's, as far as it is known: what must not come too early
    /// goes by it.
    #[must_use]
    pub(crate) fn earlier_clock(&self, edition: Edition) -> Timestamp {
        let ours = Timestamp::now();
        self.clock(edition).latest.map_or(ours, |erp| erp.at_most.min(ours))
    }

    /// The later of the two: what must not come too late goes by it.
    #[must_use]
    pub(crate) fn later_clock(&self, edition: Edition) -> Timestamp {
        let ours = Timestamp::now();
        self.clock(edition).latest.map_or(ours, |erp| erp.at_most.max(ours))
    }

    /// `wms.stockout.PurchaseReturn.createOrder`: one attempt, never repeated by the client. The
    /// guard is asked once the call has its place on the wire, and once more when the body is about
    /// to leave. Dropping the future leaves the effect unknown, as a timeout does.
    pub(crate) async fn create_order(
        &self,
        mut permit: Permit,
        order: &OrderRequest,
        timeout: Duration,
        guard: SharedGuard,
    ) -> Answer {
        permit.take_place().await;
        let begun = Instant::now();
        let accounts = self.accounts();
        let answer = match &accounts.flagship {
            None => Answer::Misconfigured(not_configured(Call::CreateOrder)),
            Some(_) if !guard.may_send() => Answer::NotExecuted(NotExecuted::Withheld),
            Some(flagship) => {
                permit.spend();
                let judged = flagship.create_order(order, timeout, guard).await;
                let heard = match &judged.outcome {
                    Answer::Created { .. }
                    | Answer::Rejected(_)
                    | Answer::Unlisted { .. }
                    | Answer::ProbablyCreated(_)
                    | Answer::Misconfigured(_) => true,
                    Answer::NotExecuted(_) | Answer::Unknown { .. } => false,
                };
                self.learn(&permit, heard, judged, Some(&order.return_no))
            }
        };
        self.measure(&permit, answer.word(), begun);
        answer
    }

    /// One page of a query: one attempt, `timeout` from its place on the wire on. `permit.call`
    /// says which query.
    ///
    /// # Errors
    /// [`QueryFault`].
    pub(crate) async fn query(
        &self,
        mut permit: Permit,
        selection: &Selection,
        page: PageRequest,
        timeout: Duration,
    ) -> Result<Page, QueryFault> {
        permit.take_place().await;
        let begun = Instant::now();
        let call = permit.call;
        let misconfigured = Err(QueryFault::Misconfigured { call, refusal: not_configured(call) });
        let lines = match permit.class {
            // Orders are looked up by their heads; nothing is made of their lines.
            Class::Lookup => usize::MAX,
            Class::Command | Class::Feed | Class::LatePass | Class::Backfill => MOST_LINES,
        };
        let accounts = self.accounts();
        let judged = match (call.edition(), &accounts.flagship, &accounts.enterprise) {
            (Edition::Flagship, None, _) | (Edition::Enterprise, _, None) => None,
            (Edition::Flagship, Some(flagship), _) => {
                permit.spend();
                Some(flagship.query(call, selection, page, lines, timeout).await)
            }
            (Edition::Enterprise, _, Some(enterprise)) => {
                permit.spend();
                Some(enterprise.query(selection, page, lines, timeout).await)
            }
        };
        let outcome = match judged {
            None => misconfigured,
            Some(judged) => {
                let heard = match &judged.outcome {
                    Ok(_)
                    | Err(
                        QueryFault::Misconfigured { .. }
                        | QueryFault::TooWide { .. }
                        | QueryFault::Rejected { .. },
                    ) => true,
                    Err(
                        QueryFault::Throttled { .. }
                        | QueryFault::Unreachable { .. }
                        | QueryFault::Unusable { .. }
                        | QueryFault::Unlisted { .. }
                        | QueryFault::TooLong { .. },
                    ) => false,
                };
                self.learn(&permit, heard, judged, selection.return_no.as_deref())
            }
        };
        self.measure(&permit, query_result(&outcome), begun);
        outcome
    }

    /// Tells quota and counters what an attempt showed; `return_no` is what it was about.
    fn learn<T>(
        &self,
        permit: &Permit,
        heard: bool,
        judged: Judged<T>,
        return_no: Option<&str>,
    ) -> T {
        match judged.throttled {
            Some(limit) => permit.refused(limit),
            None if heard => permit.answered(),
            None => {}
        }
        if judged.unseen {
            self.0.metrics.erp_unseen();
            tracing::warn!(
                erp.call = permit.call.name(),
                command.return_no = return_no,
                "unknown ERP response: not in the table of error codes; report it"
            );
        }
        judged.outcome
    }

    fn measure(&self, permit: &Permit, result: &'static str, begun: Instant) {
        self.0.metrics.erp_call(permit.call, permit.class, result, begun.elapsed());
        self.0.metrics.erp_permit(permit.call, permit.class, permit.waited);
    }
}

fn not_configured(call: Call) -> Refusal {
    let section = match call.edition() {
        Edition::Flagship => "[erp.flagship]",
        Edition::Enterprise => "[erp.enterprise]",
    };
    let message = format!(
        "{section} is not configured, and {} needs it: give its url, account and secret",
        call.method()
    );
    Refusal { code: -1, message, explanation: None, unapproved: false }
}

fn query_result(outcome: &Result<Page, QueryFault>) -> &'static str {
    match outcome {
        Ok(_) => "ok",
        Err(QueryFault::Throttled { .. }) => "throttled",
        Err(QueryFault::Unreachable { .. }) => "unreachable",
        Err(
            QueryFault::Unusable { .. } | QueryFault::Unlisted { .. } | QueryFault::TooLong { .. },
        ) => "unknown",
        Err(QueryFault::Misconfigured { .. }) => "misconfigured",
        Err(QueryFault::TooWide { .. } | QueryFault::Rejected { .. }) => "rejected",
    }
}

#[cfg(test)]
mod tests;
