//! The ERP's inside: its records, its rules of the moment, and what every request goes through.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};

use super::{
    Call, SimulatorConfig,
    create::{self, Doing},
    ledger::Ledger,
    mischief::{End, Mischief, Plan},
    query,
    quota::MinuteQuota,
    record::{Change, Edition, Kind, Outbound, PurchaseReturn, Row as _},
    reply::{self, Refused},
    rng::Rng,
    seed::{self, Seeding},
    sign::Parameters,
    table::{PageOrder, Table},
    time::{Clock, span_ms},
};

pub(super) const FIRST_RETURN: u32 = 1_000;
pub(super) const FIRST_OUTBOUND: u32 = 1_600_000;
pub(super) const SEVEN_DAYS: i64 = 7 * 86_400;

/// How the ERP is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outage {
    #[default]
    None,
    /// Connections are accepted and reset at once; those that stand are reset too.
    Close,
    /// Nothing listens: connections are refused.
    Refuse,
}

/// Settings that can be changed while it runs; what is absent stays.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Adjust {
    pub latency_ms: Option<u64>,
    /// How far the ERP's clock runs ahead of this machine's; negative: behind.
    pub clock_offset_ms: Option<i64>,
    /// Calls in sixty seconds, for each call; 0: no limit.
    pub quota_per_minute: Option<u32>,
    /// All calls of an appkey count together.
    pub quota_by_account: Option<bool>,
    /// Requests of one appkey at once; 0: no limit.
    pub max_concurrent: Option<u32>,
    pub page_order: Option<PageOrder>,
    /// Neighbours of equal `modified` change places by chance on every query that sorts by it
    /// (`modified_asc`, `modified_desc`).
    pub shuffle_equal: Option<bool>,
    /// Most rows of a page, whatever was asked for, without a word; 0: as many as were.
    pub page_cap: Option<u64>,
    /// Statuses the flagship outbound query shows over a window without `status`; none: all.
    pub default_statuses: Option<Vec<i32>>,
    /// What the enterprise query's window is over for shipped orders.
    pub enterprise_window: Option<query::EnterpriseWindow>,
    /// Queries see every change this much later; 0: at once.
    pub visibility_ms: Option<u64>,
    /// Records modified a second by somebody in the background; 0: none.
    pub modifications_per_second: Option<f64>,
    /// The share of these that are new records instead, from 0 to 1.
    pub new_records: Option<f64>,
    /// The share of all records that nobody in the background modifies, from 0 to 1.
    pub resting_records: Option<f64>,
    /// The share of these that queries see later than the others, from 0 to 1.
    pub late_records: Option<f64>,
    /// How much later at most.
    pub late_records_ms: Option<u64>,
    pub outage: Option<Outage>,
    pub auto_returns: Option<bool>,
    pub add_warehouses: Vec<String>,
    pub add_specs: Vec<String>,
    pub add_carriers: Vec<String>,
    /// `createOrder` for these is answered with a lack of rights.
    pub forbidden_warehouses: Option<Vec<String>>,
    /// Records of these are silently left out of every query.
    pub hidden_warehouses: Option<Vec<String>>,
    /// Records of these are counted by every query and never shown.
    pub unpermitted_warehouses: Option<Vec<String>>,
    /// They are left out of the page that was cut, so that it is short; else before it is cut, so
    /// that the last one is.
    pub unpermitted_after_limit: Option<bool>,
    pub disabled_batches: Option<Vec<String>>,
}

/// What somebody does in the background, besides how often.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Background {
    pub new_records: f64,
    pub resting_records: f64,
    pub late_records: f64,
    pub late_records_ms: u64,
    /// Records modified and made so far.
    pub done: u64,
}

/// Everything behind one lock.
#[derive(Debug)]
pub(super) struct State {
    pub returns: Table<PurchaseReturn>,
    pub outbounds: Table<Outbound>,
    pub auto_returns: bool,
    pub warehouses: HashSet<String>,
    pub specs: HashSet<String>,
    pub carriers: HashSet<String>,
    pub forbidden_warehouses: HashSet<String>,
    pub disabled_batches: HashSet<String>,
    pub ledger: Ledger,
    pub mischief: Mischief,
    pub quotas: [MinuteQuota; 4],
    pub quota_by_account: bool,
    pub max_concurrent: Option<u32>,
    running: [u32; 2],
    pub latency: Duration,
    pub visibility_ms: Option<u64>,
    pub page_cap: Option<u64>,
    pub default_statuses: Vec<i32>,
    pub enterprise_window: query::EnterpriseWindow,
    pub background: Background,
    pub seed: u64,
    pub rng: Rng,
}

/// The simulated ERP.
#[derive(Debug)]
pub(super) struct World {
    pub clock: Clock,
    pub outage: watch::Sender<Outage>,
    pub churn: watch::Sender<f64>,
    started: Instant,
    state: Mutex<State>,
}

/// A request that may run; counts it as answered or not when it goes.
#[derive(Debug)]
pub(super) struct Open {
    world: Arc<World>,
    call: Call,
    pub seq: u64,
    applied: bool,
    answered: bool,
    /// The ERP's own answer left, so that the client can know.
    usable: bool,
    /// The answer was changed so that the client cannot know.
    obscured: bool,
    end: &'static str,
}

impl Open {
    /// What leaves for the client; `usable` when it is the ERP's own answer.
    pub(super) fn answered(mut self, end: &'static str, usable: bool) {
        (self.end, self.answered, self.usable) = (end, true, usable && !self.obscured);
    }

    /// Nothing will leave for the client.
    pub(super) fn unanswered(&mut self, end: &'static str) {
        self.end = end;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.world.lock();
        let running = state.running(self.call.edition());
        *running = running.saturating_sub(1);
        let counts = state.ledger.count(self.call);
        counts.answered += u64::from(self.answered);
        counts.applied_unanswered += u64::from(self.applied && !self.usable);
        if let Some(line) = state.ledger.line(self.seq) {
            (line.applied, line.answered, line.end) = (self.applied, self.answered, self.end);
        }
    }
}

impl State {
    fn new(config: &SimulatorConfig) -> Self {
        let quota = || MinuteQuota::new(config.quota_per_minute);
        let mut returns = Table::new(FIRST_RETURN, config.page_order, config.seed);
        let mut outbounds = Table::new(FIRST_OUTBOUND, config.page_order, config.seed);
        returns.shuffle_equal(config.shuffle_equal);
        outbounds.shuffle_equal(config.shuffle_equal);
        Self {
            returns,
            outbounds,
            auto_returns: config.auto_returns,
            warehouses: seed::WAREHOUSES.iter().map(|(no, _)| (*no).to_owned()).collect(),
            specs: (0..seed::SPECS).map(seed::spec_no).collect(),
            carriers: seed::CARRIERS
                .into_iter()
                .filter(|code| !code.is_empty())
                .map(str::to_owned)
                .collect(),
            forbidden_warehouses: HashSet::new(),
            disabled_batches: HashSet::new(),
            ledger: Ledger::new(config.request_log),
            mischief: Mischief::new(config.seed),
            quotas: [quota(), quota(), quota(), quota()],
            quota_by_account: config.quota_by_account,
            max_concurrent: config.max_concurrent,
            running: [0; 2],
            latency: config.latency,
            visibility_ms: None,
            page_cap: config.page_cap,
            default_statuses: Vec::new(),
            enterprise_window: config.enterprise_window,
            background: Background::default(),
            seed: config.seed,
            rng: Rng::new(config.seed ^ 0x5eed),
        }
    }

    fn running(&mut self, edition: Edition) -> &mut u32 {
        let [flagship, enterprise] = &mut self.running;
        match edition {
            Edition::Flagship => flagship,
            Edition::Enterprise => enterprise,
        }
    }

    fn quota(&mut self, call: Call) -> &mut MinuteQuota {
        let [create, returns, outbounds, enterprise] = &mut self.quotas;
        match call {
            Call::CreateOrder => create,
            // An account has one appkey in each edition, so its first call may count for all.
            Call::PurchaseReturns | Call::Outbounds if self.quota_by_account => create,
            Call::PurchaseReturns => returns,
            Call::Outbounds => outbounds,
            Call::EnterpriseOutbounds => enterprise,
        }
    }

    pub(super) fn change(
        &mut self,
        kind: Kind,
        id: u32,
        change: &Change,
        now: i64,
        at_ms: u64,
    ) -> bool {
        let late = change
            .visible_after_ms
            .or(self.visibility_ms)
            .filter(|late| *late > 0)
            .map(|late| at_ms + late);
        match kind {
            Kind::PurchaseReturns => {
                let Some(next) = self.returns.by_id(id).map(|record| record.changed(change, now))
                else {
                    return false;
                };
                self.returns.put(next, late);
            }
            Kind::Outbounds => {
                let Some(next) = self.outbounds.by_id(id).map(|record| record.changed(change, now))
                else {
                    return false;
                };
                self.outbounds.put(next, late);
            }
        }
        true
    }

    /// Modifies one record as somebody in the warehouse would; `late_ms`: queries see it that much
    /// later.
    pub(super) fn touch(
        &mut self,
        kind: Kind,
        id: u32,
        now: i64,
        at_ms: u64,
        late_ms: Option<u64>,
    ) -> bool {
        let change = match kind {
            Kind::PurchaseReturns => self
                .returns
                .by_id(id)
                .map(|record| seed::next_change_of_return(record, &mut self.rng, now)),
            Kind::Outbounds => self
                .outbounds
                .by_id(id)
                .map(|record| seed::next_change_of_outbound(record, &mut self.rng, now)),
        };
        change.is_some_and(|change| {
            let change = Change { visible_after_ms: late_ms, ..change };
            self.change(kind, id, &change, now, at_ms)
        })
    }

    /// Makes a new record beside this one, of its edition.
    pub(super) fn make(
        &mut self,
        kind: Kind,
        beside: u32,
        now: i64,
        at_ms: u64,
        late_ms: Option<u64>,
    ) -> bool {
        let late = late_ms.or(self.visibility_ms).filter(|late| *late > 0).map(|late| at_ms + late);
        match kind {
            Kind::PurchaseReturns => {
                let id = self.returns.next_id();
                let record = seed::purchase_return(self.seed, id, &Seeding::of(1), now);
                self.returns.put(record, late);
            }
            Kind::Outbounds => {
                let Some(edition) = self.outbounds.by_id(beside).map(|record| record.edition)
                else {
                    return false;
                };
                let seeding = Seeding { edition, ..Seeding::of(1) };
                let record = seed::outbound(self.seed, self.outbounds.next_id(), &seeding, now);
                self.outbounds.put(record, late);
            }
        }
        true
    }

    /// Modifies `count` of the records a query finds, before it answers.
    fn disturb(&mut self, query: &query::Query, count: u32, now: i64, at_ms: u64) {
        let kind = if query.call == Call::PurchaseReturns {
            Kind::PurchaseReturns
        } else {
            Kind::Outbounds
        };
        for _ in 0..count {
            let found = match kind {
                Kind::PurchaseReturns => self.returns.select(&query.selection),
                Kind::Outbounds => self.outbounds.select(&query.selection),
            };
            let id = self.rng.pick(&found);
            self.touch(kind, id, now, at_ms, None);
        }
    }
}

impl World {
    pub(super) fn new(config: &SimulatorConfig) -> Self {
        Self {
            clock: Clock::new(config.clock_offset_ms),
            outage: watch::Sender::new(Outage::None),
            churn: watch::Sender::new(config.modifications_per_second),
            started: Instant::now(),
            state: Mutex::new(State::new(config)),
        }
    }

    /// A panic elsewhere must not take the ledger with it: the lock is used as it was left.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the simulator started.
    pub(super) fn at_ms(&self) -> u64 {
        span_ms(self.started.elapsed())
    }

    /// Counts a request that is refused for its account, signature or timestamp.
    pub(super) fn refuse_account(&self, call: Call) {
        let at_ms = self.at_ms();
        let mut state = self.lock();
        let seq = state.ledger.receive(call, at_ms);
        let counts = state.ledger.count(call);
        counts.refused_account += 1;
        counts.answered += 1;
        if let Some(line) = state.ledger.line(seq) {
            (line.answered, line.end) = (true, "account");
        }
    }

    /// Quota, concurrency and the script, for one request with a good signature.
    ///
    /// # Errors
    /// The refusal's body.
    pub(super) fn admit(self: &Arc<Self>, call: Call) -> Result<(Open, Plan), Refused> {
        let at_ms = self.at_ms();
        let edition = call.edition();
        let mut state = self.lock();
        let seq = state.ledger.receive(call, at_ms);
        let full = state.max_concurrent.is_some_and(|most| *state.running(edition) >= most);
        if full || !state.quota(call).admit(at_ms) {
            let counts = state.ledger.count(call);
            counts.answered += 1;
            counts.refused_concurrency += u64::from(full);
            counts.refused_frequency += u64::from(!full);
            if let Some(line) = state.ledger.line(seq) {
                (line.answered, line.end) = (true, if full { "concurrency" } else { "frequency" });
            }
            return Err(if full {
                Refused::concurrency(edition)
            } else {
                Refused::frequency(edition)
            });
        }
        *state.running(edition) += 1;
        let mut plan = state.mischief.draw(call);
        plan.slow += state.latency;
        if plan.end != End::Answer {
            state.ledger.count(call).faulted += 1;
        }
        drop(state);
        let open = Open {
            world: Arc::clone(self),
            call,
            seq,
            applied: false,
            answered: false,
            usable: false,
            obscured: false,
            end: "gone",
        };
        Ok((open, plan))
    }

    /// Executes a request; the ERP's answer to it.
    pub(super) fn execute(
        &self,
        open: &mut Open,
        plan: &Plan,
        parameters: &Parameters,
        body: &[u8],
    ) -> Vec<u8> {
        let edition = open.call.edition();
        let done = if open.call == Call::CreateOrder {
            create::read(body)
                .and_then(|order| self.create(open, plan, order))
                .map(String::into_bytes)
        } else {
            self.query(open, plan, parameters, body)
        };
        match done {
            Ok(answer) => answer,
            Err(refused) => {
                self.lock().ledger.count(open.call).rejected += 1;
                refused.body(edition).into_bytes()
            }
        }
    }

    fn create(
        &self,
        open: &mut Open,
        plan: &Plan,
        order: create::OrderRequest,
    ) -> Result<String, Refused> {
        let (now, at_ms) = (self.clock.now(), self.at_ms());
        let mut state = self.lock();
        let visible_at_ms =
            plan.late_ms.or(state.visibility_ms).filter(|late| *late > 0).map(|late| at_ms + late);
        let doing = Doing { now, at_ms, request: open.seq, remark: plan.remark, visible_at_ms };
        let order_no = order.apply(&mut state, &doing)?;
        state.ledger.count(open.call).applied += 1;
        open.applied = true;
        Ok(match &plan.created {
            None => reply::data(0, &order_no),
            Some((status, text)) => {
                open.obscured = true;
                state.ledger.count(open.call).faulted += 1;
                reply::data(*status, text)
            }
        })
    }

    fn query(
        &self,
        open: &mut Open,
        plan: &Plan,
        parameters: &Parameters,
        body: &[u8],
    ) -> Result<Vec<u8>, Refused> {
        let (now, at_ms) = (self.clock.now(), self.at_ms());
        let mut state = self.lock();
        state.returns.advance(at_ms);
        state.outbounds.advance(at_ms);
        let mut query = match open.call.edition() {
            Edition::Flagship => query::read_flagship(open.call, parameters, body, &state)?,
            Edition::Enterprise => query::read_enterprise(parameters, state.enterprise_window)?,
        };
        query.narrow(&state.default_statuses);
        query.hide(&plan.hidden, now);
        state.disturb(&query, plan.modify, now, at_ms);
        if plan.ignore_page {
            query.page_no = 0;
        }
        query.page_size = query.page_size.min(state.page_cap.unwrap_or(u64::MAX));
        let steady = state.mischief.takes_low_counts(query.call, &query.selection);
        let found = query.find(&mut state, steady);
        // A page that nobody receives shows no fault.
        let shown = plan.end == End::Answer && !plan.ignore_page && query.over_window();
        let fault = shown.then(|| state.mischief.draw_page(&query, &found)).flatten();
        let answer = match fault {
            None => query.answer(&found),
            Some((fault, chance)) => fault.answer(&query, found, chance, |page_no| {
                query::Query { page_no, ..query.clone() }.find(&mut state, steady)
            }),
        };
        state.ledger.count(open.call).applied += 1;
        open.applied = true;
        Ok(answer)
    }
}
