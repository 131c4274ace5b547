//! Asks the ERP for pages on behalf of one pass: waits for the quota, counts.

use std::{sync::Arc, time::Duration};

use crate::{
    config::{Edition, Feed},
    erp::{Call, Class, Erp, ErpTime, Page, PageRequest, QueryFault, Selection},
    metrics::Metrics,
};

use super::fetch::{Ended, FetchFault, Row, Rules, Shortfall, Step, WindowRead};

/// For one page as a whole; a page with its count may take the ERP long.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);

/// Attempts at one page before the window is given up for now. A page that is read later than
/// planned is as good: what the reading order promises does not depend on how long it takes.
const ATTEMPTS: u32 = 3;

const PAUSE: Duration = Duration::from_millis(200);

/// One pass's access to the ERP.
#[derive(Debug)]
pub(crate) struct Reader {
    erp: Erp,
    metrics: Arc<Metrics>,
    feed: Feed,
    call: Call,
    class: Class,
    calls: u64,
    waited: Duration,
}

impl Reader {
    /// Reads `feed` with the priority of `class`.
    #[must_use]
    pub(crate) fn new(
        erp: Erp,
        metrics: Arc<Metrics>,
        feed: Feed,
        call: Call,
        class: Class,
    ) -> Self {
        Self { erp, metrics, feed, call, class, calls: 0, waited: Duration::ZERO }
    }

    /// The ERP's clock as it stands now.
    #[must_use]
    pub(crate) fn clock(&self) -> ErpTime {
        self.erp.clock(match self.call {
            Call::QueryOutboundsEnterprise => Edition::Enterprise,
            Call::CreateOrder | Call::QueryPurchaseReturns | Call::QueryOutbounds => {
                Edition::Flagship
            }
        })
    }

    /// Calls made.
    #[must_use]
    pub(crate) fn calls(&self) -> u64 {
        self.calls
    }

    /// How long the quota let it wait, all calls together.
    #[must_use]
    pub(crate) fn waited(&self) -> Duration {
        self.waited
    }

    /// Asks for one page, once.
    ///
    /// # Errors
    /// [`QueryFault`].
    pub(crate) async fn once(
        &mut self,
        selection: &Selection,
        page: PageRequest,
    ) -> Result<Page, QueryFault> {
        let permit = self.erp.quota().acquire(self.call, self.class).await;
        self.calls += 1;
        self.waited += permit.waited;
        self.erp.query(permit, selection, page, PAGE_TIMEOUT).await
    }
}

impl Reader {
    /// Asks for one page, up to [`ATTEMPTS`] times.
    ///
    /// # Errors
    /// [`QueryFault`] of the last attempt.
    pub(crate) async fn ask(
        &mut self,
        selection: &Selection,
        page: PageRequest,
    ) -> Result<Page, QueryFault> {
        let mut attempt = 1;
        loop {
            match self.once(selection, page).await {
                Err(
                    QueryFault::Throttled { .. }
                    | QueryFault::Unreachable { .. }
                    | QueryFault::Unusable { .. }
                    | QueryFault::Unlisted { .. },
                ) if attempt < ATTEMPTS => {
                    tokio::time::sleep(PAUSE * attempt).await;
                    attempt += 1;
                }
                Ok(page) => return Ok(page),
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Reads all of a question about record `id`: by its number, or its second. Gives the rows that
    /// are its versions, the latest last.
    ///
    /// # Errors
    /// [`FetchFault`].
    pub(crate) async fn versions(
        &mut self,
        queries: Vec<Selection>,
        rules: Rules,
        id: &str,
    ) -> Result<(Vec<Row>, Ended), FetchFault> {
        let mut read = WindowRead::new(queries, rules);
        let mut shown = Vec::new();
        while let Some((selection, request)) = read.request() {
            let page = self.ask(selection, request).await?;
            let (rows, step) = read.consume(page)?;
            shown.extend(rows.into_iter().filter(|row| row.id.as_deref() == Some(id)));
            match step {
                Step::More => {}
                Step::Again(shortfall) => self.fell_short(shortfall),
                Step::Ended(ended) => return Ok((shown, ended)),
            }
        }
        Ok((shown, Ended::Complete))
    }

    /// Counts a read that showed fewer records than the ERP counted.
    pub(crate) fn fell_short(&self, shortfall: Shortfall) {
        let Shortfall { shown, counted, entered } = shortfall;
        if entered {
            self.metrics.feed_entered(self.feed);
            tracing::warn!(
                feed = self.feed.name(),
                rows = shown,
                erp.total = counted,
                "closed window gained records during the read; reading it again. \
                 If this repeats, raise max_visibility_lag and safety_lag"
            );
        } else {
            self.metrics.feed_incomplete(self.feed);
            tracing::info!(
                feed = self.feed.name(),
                rows = shown,
                erp.total = counted,
                "pages show fewer records than the ERP counted; reading them again"
            );
        }
    }
}
