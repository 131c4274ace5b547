//! What differs between the ERP's two product lines: parameters, signature, form of the request.

mod enterprise;
mod flagship;

use std::sync::{Mutex, PoisonError};

use reqwest::Url;

use crate::{
    clock::{Moment, Timestamp, millis},
    config::ErpConnection,
};

use super::{
    Call, Page, QueryFault, Refusal,
    answer::{Context, Judged, Rows},
    client::BuildFault,
    http::{Failure, Http, Outgoing, Reply},
};

pub(super) use enterprise::Enterprise;
pub(super) use flagship::Flagship;

/// Bytes of answer read at most. A page of 100 orders with many lines stays far below; an answer to `createOrder` is a line.
const QUERY_CAP: usize = 32 << 20;
const CREATE_CAP: usize = 1 << 20;

/// A request and the signature that must not come back in a text.
struct Signed {
    outgoing: Outgoing,
    signature: String,
}

/// One answer and when its request left.
struct Exchange {
    reply: Reply,
    signature: String,
    /// The ERP's clock less ours, as this answer shows it.
    skew: Option<i64>,
    asked_at: Moment,
    asked_at_wall: Timestamp,
}

impl Exchange {
    fn context(&self) -> Context<'_> {
        Context { signature: &self.signature, skew: self.skew }
    }

    fn page(&self, rows: Rows, counted: bool) -> Page {
        Page {
            rows: rows.rows,
            total_count: rows.total_count.filter(|_| counted),
            erp_date: self.reply.date,
            asked_at: self.asked_at,
            asked_at_wall: self.asked_at_wall,
        }
    }
}

/// One account's connection.
struct Line {
    http: Http,
    /// Endpoint (flagship) or base with a closing slash (enterprise).
    address: Url,
    clock: ErpClock,
}

impl Line {
    fn new(section: &str, connection: &ErpConnection) -> Result<Self, BuildFault> {
        let address = Url::parse(connection.url.trim())
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| BuildFault(format!("erp.{section}.url is not an http:// or https:// address")))?;
        Ok(Self { http: Http::new(section, connection)?, address, clock: ErpClock::default() })
    }

    async fn exchange(&self, signed: Signed) -> Result<Exchange, Failure> {
        let (asked_at, asked_at_wall) = (Moment::now(), Timestamp::now());
        let reply = self.http.exchange(signed.outgoing).await?;
        let took = asked_at.until(Moment::now());
        let skew = reply.date.map(|date| self.clock.learn(asked_at_wall, millis(took), date));
        Ok(Exchange { reply, signature: signed.signature, skew, asked_at, asked_at_wall })
    }
}

/// A query that got no answer.
fn query_failure(call: Call, failure: Failure) -> Judged<Result<Page, QueryFault>> {
    let fault = match failure {
        // Queries have no guard; were there one, nothing would have left.
        Failure::Withheld => QueryFault::Unreachable { call, reason: "the request was called back before it left".to_owned() },
        Failure::Unreachable(reason) => QueryFault::Unreachable { call, reason },
        Failure::Lost(reason) => QueryFault::Unusable { call, reason },
    };
    Judged { outcome: Err(fault), throttled: None, unseen: false }
}

/// A filter the ERP's query does not have: no call is made.
fn no_filter(call: Call, name: &str) -> QueryFault {
    let message = format!("{} has no filter {name}: take it out of the feed's filters", call.method());
    QueryFault::Rejected { call, refusal: Refusal { code: -1, message, gloss: None, unapproved: false } }
}

/// The ERP's clock, from the `Date` of its answers (whole seconds, cut).
#[derive(Debug, Default)]
struct ErpClock(Mutex<Option<Sample>>);

#[derive(Clone, Copy, Debug)]
struct Sample {
    skew: i64,
    /// Milliseconds between request and answer: the less, the better known.
    took: u64,
    at: Moment,
}

/// A good measurement is preferred to later, worse ones for this long: clocks drift.
const SAMPLE_KEPT_MS: u64 = 300_000;

impl ErpClock {
    /// One answer's skew: the middle of the second `Date` names against the middle of the exchange.
    fn learn(&self, asked: Timestamp, took: u64, date: Timestamp) -> i64 {
        let middle = asked.0.saturating_add_unsigned(took / 2);
        let sample = Sample { skew: date.0 + 500 - middle, took, at: Moment::now() };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_none_or(|kept| sample.took <= kept.took || sample.at.0.saturating_sub(kept.at.0) > SAMPLE_KEPT_MS) {
            *kept = Some(sample);
        }
        sample.skew
    }

    fn skew(&self) -> Option<i64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|sample| sample.skew)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_known_skew_is_kept() {
        let clock = ErpClock::default();
        assert_eq!(clock.skew(), None);
        assert_eq!(clock.learn(Timestamp(10_000), 1000, Timestamp(15_000)), 5000);
        assert_eq!(clock.learn(Timestamp(20_000), 100, Timestamp(24_000)), 4450);
        assert_eq!(clock.learn(Timestamp(30_000), 5000, Timestamp(33_000)), 1000);
        assert_eq!(clock.skew(), Some(4450));
    }
}
