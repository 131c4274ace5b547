//! Everything the admin API offers, in process.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    ledger::{Counts, Duplicate, Ledger, Order, Request, Summary},
    mischief::{RuleState, parse_rules},
    record::{Change, Edition, Kind},
    render,
    seed::Seeding,
    world::{Adjust, World},
};

/// A handle on a running simulator; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Control(Arc<World>);

impl Control {
    pub(super) fn new(world: Arc<World>) -> Self {
        Self(world)
    }

    /// Makes up records; their numbers in order of their ids.
    ///
    /// # Errors
    /// One sentence: a time that is none, or a return number that exists.
    pub(crate) fn seed(&self, kind: Kind, seeding: &Seeding) -> Result<Vec<String>, String> {
        self.0.seed(kind, seeding)
    }

    /// Changes one record by its number (`return_no` or `order_no`).
    ///
    /// # Errors
    /// One sentence: no such record, or a time that is none.
    pub(crate) fn modify(&self, kind: Kind, number: &str, change: &Change) -> Result<(), String> {
        self.0.modify(kind, number, change)
    }

    /// Modifies this many records at random, as somebody in the warehouse would.
    pub(crate) fn churn(&self, count: u32) {
        self.0.churn(count);
    }

    /// Changes settings.
    pub(crate) fn adjust(&self, adjust: &Adjust) {
        self.0.adjust(adjust);
    }

    /// Adds rules to the script (`createOrder:applied_timeout=3x,query:5xx=0.01`).
    ///
    /// # Errors
    /// One sentence naming the rule that cannot be read; then none is added.
    pub(crate) fn add_faults(&self, rules: &str) -> Result<(), String> {
        let rules = parse_rules(rules)?;
        self.0.lock().mischief.add(rules);
        Ok(())
    }

    /// Forgets the script.
    pub(crate) fn clear_faults(&self) {
        self.0.lock().mischief.clear();
    }

    /// The script and how often each rule has struck; spent rules are gone.
    #[must_use]
    pub(crate) fn faults(&self) -> Vec<RuleState> {
        self.0.lock().mischief.list()
    }

    /// The ledger in short.
    #[must_use]
    pub(crate) fn summary(&self) -> Summary {
        let at_ms = self.0.at_ms();
        let mut state = self.0.lock();
        state.returns.advance(at_ms);
        state.outbounds.advance(at_ms);
        let mut summary = Summary {
            purchase_returns: state.returns.len() as u64,
            outbounds: state.outbounds.len() as u64,
            modifications: state.background.done,
            faults: state.mischief.struck(),
            not_visible_yet: (state.returns.pending() + state.outbounds.pending()) as u64,
            ..Summary::default()
        };
        state.ledger.sum_up(&mut summary);
        summary
    }

    /// Requests by call and how they ended.
    #[must_use]
    pub(crate) fn counters(&self) -> BTreeMap<&'static str, Counts> {
        self.0.lock().ledger.counts()
    }

    /// The kept requests with a number above `after`, oldest first.
    #[must_use]
    pub(crate) fn requests(&self, after: u64, limit: usize) -> Vec<Request> {
        self.0.lock().ledger.requests(after, limit)
    }

    /// Orders that requests made, oldest first; of one return when it is given.
    #[must_use]
    pub(crate) fn orders(&self, return_no: Option<&str>) -> Vec<Order> {
        let state = self.0.lock();
        let made = state
            .ledger
            .made
            .iter()
            .filter_map(|made| Some((made, state.outbounds.by_id(made.outbound_id)?)));
        made.filter(|(_, order)| {
            return_no.is_none_or(|return_no| *order.src_order_no == *return_no)
        })
        .map(|(made, order)| Ledger::order(made, order))
        .collect()
    }

    /// Markers that more than one order carries.
    #[must_use]
    pub(crate) fn duplicates(&self) -> Vec<Duplicate> {
        let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for order in self.orders(None) {
            if let Some(marker) = order.marker {
                groups.entry(marker).or_default().push(order.order_no);
            }
        }
        let more = groups.into_iter().filter(|(_, orders)| orders.len() > 1);
        more.map(|(marker, orders)| Duplicate { marker, orders }).collect()
    }

    /// Records as the ERP holds them now, visible or not, by id, each as the JSON its query
    /// answers. (Purchase returns exist in the flagship's form only.)
    #[must_use]
    pub(crate) fn records(
        &self,
        kind: Kind,
        edition: Edition,
        skip: usize,
        limit: usize,
    ) -> Vec<String> {
        let state = self.0.lock();
        let written = |write: &dyn Fn(&mut String)| {
            let mut json = String::with_capacity(2048);
            write(&mut json);
            json
        };
        match kind {
            Kind::PurchaseReturns => {
                let records = state.returns.all().iter().skip(skip).take(limit);
                records
                    .map(|record| written(&|json| render::purchase_return(json, record)))
                    .collect()
            }
            Kind::Outbounds => {
                let records = state.outbounds.all().iter().skip(skip).take(limit);
                records
                    .map(|record| written(&|json| render::outbound(json, record, edition)))
                    .collect()
            }
        }
    }

    /// One record as the ERP holds it now, by its number.
    #[must_use]
    pub(crate) fn record(&self, kind: Kind, edition: Edition, number: &str) -> Option<String> {
        let state = self.0.lock();
        let mut json = String::new();
        match kind {
            Kind::PurchaseReturns => {
                render::purchase_return(&mut json, state.returns.by_number(number)?)
            }
            Kind::Outbounds => {
                render::outbound(&mut json, state.outbounds.by_number(number)?, edition)
            }
        }
        Some(json)
    }
}

/// Modifies records in the background at the rate that is set, at most some tens of thousands a
/// second.
pub(super) async fn churn(world: Arc<World>, stop: CancellationToken) {
    const TICKS_PER_SECOND: f64 = 50.0;
    let mut rate = world.churn.subscribe();
    let mut ticks = interval(Duration::from_millis(20));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut owed = 0.0_f64;
    loop {
        let now = *rate.borrow_and_update();
        let next = async {
            if now > 0.0 {
                ticks.tick().await;
            } else {
                // Only a new rate can end this wait; without a sender nothing is left to do.
                let _ = rate.changed().await;
            }
        };
        tokio::select! {
            () = next => {}
            () = stop.cancelled() => return,
        }
        owed += now.max(0.0) / TICKS_PER_SECOND;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, and cut on purpose"
        )]
        let due = owed as u32;
        owed -= f64::from(due);
        world.churn(due);
    }
}
