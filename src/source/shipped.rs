//! Which window rule the enterprise query follows for shipped orders, measured. Pure.
//!
//! Older clients put the window over `modified` whatever the status, newer ones (V2.4.5.6 and later)
//! over `consign_time` from status 95 on (`docs/erp.md#queries`). An order that was modified
//! after the second it was shipped in tells them apart: it is shown by one of the two seconds. Only
//! an order that is shown proves anything; absence may have other reasons.

use std::collections::VecDeque;

use crate::{
    clock::Timestamp,
    config::{Edition, Feed, FeedSettings},
    erp::{Page, PageRequest, QueryFault, Selection, record},
};

use super::{
    query,
    reader::Reader,
    window::{Limits, OLDER_REACH, Window},
};

/// Orders that are tried; each costs up to two calls.
const MOST_TRIED: usize = 3;

/// What the window of shipped orders goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShippedRule {
    /// Not measured yet, or no order decides: read as `ConsignTime`, which costs calls and misses
    /// nothing.
    Unknown,
    Modified,
    ConsignTime,
}

impl ShippedRule {
    /// The word for status and logs.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Modified => "modified",
            Self::ConsignTime => "consign_time",
        }
    }

    /// Whether shipping days have to be read.
    #[must_use]
    pub(crate) fn by_shipping_time(self) -> bool {
        match self {
            Self::Unknown | Self::ConsignTime => true,
            Self::Modified => false,
        }
    }
}

/// An order that can tell the rules apart.
#[derive(Clone, Debug)]
struct Candidate {
    id: String,
    /// Asks for its status and warehouse.
    query: Selection,
    shipped: Timestamp,
    modified: Timestamp,
}

#[derive(Clone, Debug)]
enum Step {
    Look,
    Shipped(Candidate),
    Modified(Candidate),
    Found(ShippedRule),
}

/// One measurement: asks [`Measurement::question`] until there is none.
#[derive(Clone, Debug)]
pub(crate) struct Measurement {
    /// On the ERP's clock.
    pub began: Timestamp,
    feed: Feed,
    page_size: u32,
    /// End of the period in which it looks for orders.
    end: Timestamp,
    looks: VecDeque<Selection>,
    candidates: VecDeque<Candidate>,
    tried: usize,
    step: Step,
}

impl Measurement {
    /// One of a feed that asks for shipped orders: looks for them in the last 30 days.
    #[must_use]
    pub(crate) fn new(feed: Feed, settings: &FeedSettings, limits: Limits) -> Self {
        let end = limits.live;
        // The query's longest period is a second shorter than 30 days.
        let start = end.minus(OLDER_REACH).plus(std::time::Duration::from_secs(1));
        let mut looks: VecDeque<Selection> =
            query::of_shipped(feed, settings, Window { start, end }).into();
        // Completed orders are the likelier ones: somebody has touched them after the shipping.
        looks.make_contiguous().sort_by_key(|look| look.status.as_deref() != Some("110"));
        let mut this = Self {
            began: limits.now,
            feed,
            page_size: query::page_size(feed, settings),
            end,
            looks,
            candidates: VecDeque::new(),
            tried: 0,
            step: Step::Look,
        };
        if this.looks.is_empty() {
            this.step = Step::Found(ShippedRule::Unknown);
        }
        this
    }

    /// What was found, once nothing is left to ask.
    #[must_use]
    pub(crate) fn found(&self) -> Option<ShippedRule> {
        match self.step {
            Step::Found(rule) => Some(rule),
            Step::Look | Step::Shipped(_) | Step::Modified(_) => None,
        }
    }

    /// The page to ask for now.
    #[must_use]
    pub(crate) fn question(&self) -> Option<(Selection, PageRequest)> {
        let second = |order: &Candidate, at: Timestamp| {
            let at = at.floor_second();
            Selection { window: Some((at, at)), ..order.query.clone() }
        };
        let selection = match &self.step {
            Step::Look => self.looks.front()?.clone(),
            Step::Shipped(order) => second(order, order.shipped),
            Step::Modified(order) => second(order, order.modified),
            Step::Found(_) => return None,
        };
        Some((selection, PageRequest { page_no: 0, page_size: self.page_size, count: true }))
    }

    /// The ERP does not answer for so long a period: looks at the later half of it. `false`: the
    /// period is not what is wrong.
    pub(crate) fn shortened(&mut self, fault: &QueryFault) -> bool {
        match fault {
            QueryFault::TooWide { .. }
            | QueryFault::TooLong { .. }
            | QueryFault::Unusable { .. } => {}
            QueryFault::Throttled { .. }
            | QueryFault::Unreachable { .. }
            | QueryFault::Unlisted { .. }
            | QueryFault::Misconfigured { .. }
            | QueryFault::Rejected { .. } => return false,
        }
        let Step::Look = self.step else { return false };
        for look in &mut self.looks {
            let Some((start, end)) = look.window.filter(|(start, end)| end.0 - start.0 > 1_000)
            else {
                return false;
            };
            look.window = Some((Timestamp(start.0.midpoint(end.0)).floor_second(), self.end));
        }
        true
    }

    /// Takes the answer.
    pub(crate) fn answer(&mut self, page: &Page) {
        let shows =
            |order: &Candidate| page.rows.iter().any(|row| row.id.as_deref() == Some(&order.id));
        self.step = match std::mem::replace(&mut self.step, Step::Look) {
            Step::Look => {
                self.collect(page);
                self.next()
            }
            Step::Shipped(order) if shows(&order) => Step::Found(ShippedRule::ConsignTime),
            Step::Shipped(order) => Step::Modified(order),
            Step::Modified(order) if shows(&order) => Step::Found(ShippedRule::Modified),
            Step::Modified(_) => self.next(),
            found @ Step::Found(_) => found,
        };
    }

    fn collect(&mut self, page: &Page) {
        let Some(query) = self.looks.pop_front() else { return };
        for row in &page.rows {
            let Ok(order) = record::decode(self.feed, Edition::Enterprise, &row.json) else {
                continue;
            };
            let (Some(shipped), modified) = (consign_time(&row.json), order.modified) else {
                continue;
            };
            if shipped.floor_second() != modified.floor_second() {
                let query = query.clone();
                self.candidates.push_back(Candidate { id: order.id, query, shipped, modified });
            }
        }
    }

    fn next(&mut self) -> Step {
        if self.tried < MOST_TRIED
            && let Some(order) = self.candidates.pop_front()
        {
            self.tried += 1;
            return Step::Shipped(order);
        }
        if self.tried < MOST_TRIED && !self.looks.is_empty() {
            return Step::Look;
        }
        Step::Found(ShippedRule::Unknown)
    }
}

/// Measures beside the pipeline: 2 or 3 calls, at most 8. An ERP that does not answer leaves the
/// rule unknown; what is read next says why.
pub(crate) async fn measure(reader: &mut Reader, mut measurement: Measurement) -> ShippedRule {
    while let Some((selection, request)) = measurement.question() {
        match reader.ask(&selection, request).await {
            Ok(page) => measurement.answer(&page),
            Err(fault) if measurement.shortened(&fault) => {}
            Err(_) => break,
        }
    }
    measurement.found().unwrap_or(ShippedRule::Unknown)
}

/// When an order of the enterprise edition was shipped, by its JSON.
#[must_use]
pub(crate) fn consign_time(json: &[u8]) -> Option<Timestamp> {
    record::instant(json, "consign_time")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Moment, erp::page::RawRecord, source::tests::settings};

    const SHIPPED: &str = "2026-01-05 10:00:00";

    fn row(id: u32, status: &str, modified: &str) -> String {
        serde_json::json!({
            "stockout_id": id.to_string(), "order_no": format!("CK{id}"), "status": status,
            "consign_time": SHIPPED, "modified": modified, "details_list": [],
        })
        .to_string()
    }

    fn page(rows: &[String]) -> Page {
        Page {
            rows: rows
                .iter()
                .map(|row| RawRecord::new(Feed::ReturnOutbounds, row.clone().into()))
                .collect(),
            total_count: Some(rows.len() as u64),
            erp_date: None,
            asked_at: Moment::now(),
            asked_at_wall: Timestamp::now(),
        }
    }

    /// Measures an ERP that answers by `answers`; gives what was asked as well.
    fn measured(
        answers: impl Fn(&str, &str) -> Vec<String>,
    ) -> (ShippedRule, Vec<(String, String)>) {
        let settings = FeedSettings { edition: Edition::Enterprise, ..settings() };
        let now = Timestamp::from_beijing("2026-01-20 00:00:00").unwrap();
        let limits = Limits { now, live: now, late: now };
        let mut measurement = Measurement::new(Feed::ReturnOutbounds, &settings, limits);
        let mut asked = Vec::new();
        while let Some((query, request)) = measurement.question() {
            let (start, end) = query.window.unwrap();
            assert_eq!((request.page_no, request.page_size), (0, 30));
            let at = if start == end { start.to_beijing() } else { "30 days".to_owned() };
            let status = query.status.unwrap();
            measurement.answer(&page(&answers(&status, &at)));
            asked.push((status, at));
        }
        (measurement.found().unwrap(), asked)
    }

    #[test]
    fn one_order_modified_after_its_shipping_tells_the_rules_apart() {
        let modified = "2026-01-09 10:00:00";
        let (rule, asked) = measured(|status, at| match (status, at) {
            ("110", "30 days" | SHIPPED) => vec![row(7, "110", modified)],
            _ => Vec::new(),
        });
        assert_eq!((rule, asked.len()), (ShippedRule::ConsignTime, 2));
        let (rule, asked) = measured(|status, at| match (status, at) {
            ("110", "30 days" | "2026-01-09 10:00:00") => vec![row(7, "110", modified)],
            _ => Vec::new(),
        });
        assert_eq!((rule, asked.len()), (ShippedRule::Modified, 3));
        let (rule, asked) = measured(|status, at| match (status, at) {
            ("95", "30 days" | SHIPPED) => vec![row(8, "95", modified)],
            _ => Vec::new(),
        });
        assert_eq!((rule, asked.len()), (ShippedRule::ConsignTime, 3));
    }

    #[test]
    fn a_period_that_is_too_wide_for_the_erp_is_halved_down_to_a_second() {
        let settings = FeedSettings { edition: Edition::Enterprise, ..settings() };
        let now = Timestamp::from_beijing("2026-01-20 00:00:00").unwrap();
        let limits = Limits { now, live: now, late: now };
        let mut measurement = Measurement::new(Feed::ReturnOutbounds, &settings, limits);
        let call = crate::erp::Call::QueryOutboundsEnterprise;
        let wide = QueryFault::TooLong { call, reason: "long".to_owned() };
        let away = QueryFault::Unreachable { call, reason: "away".to_owned() };
        assert!(!measurement.shortened(&away));
        let mut lengths = Vec::new();
        loop {
            let (start, end) = measurement.question().unwrap().0.window.unwrap();
            assert_eq!(end, now);
            lengths.push((end.0 - start.0) / 1000);
            if lengths.len() > 40 || !measurement.shortened(&wide) {
                break;
            }
        }
        assert_eq!(lengths[..3], [2_591_999, 1_296_000, 648_000]);
        assert_eq!(lengths.last(), Some(&1));
        assert!(lengths.len() < 30, "{lengths:?}");
    }

    #[test]
    fn what_proves_nothing_leaves_the_rule_unknown_after_few_calls() {
        let (rule, asked) = measured(|_, _| Vec::new());
        assert_eq!((rule, asked.len()), (ShippedRule::Unknown, 2));
        // Shipped and never touched again: both rules show it by the same second.
        let (rule, asked) = measured(|status, at| match at {
            "30 days" => vec![row(7, status, SHIPPED)],
            _ => vec![row(7, status, SHIPPED)],
        });
        assert_eq!((rule, asked.len()), (ShippedRule::Unknown, 2));
        // Many that are shown by neither second, as when they move on meanwhile.
        let (rule, asked) = measured(|status, at| match at {
            "30 days" => (1..20).map(|id| row(id, status, "2026-01-09 10:00:00")).collect(),
            _ => Vec::new(),
        });
        assert_eq!((rule, asked.len()), (ShippedRule::Unknown, 7));
    }
}
