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

/// Bytes of answer read at most. A page of 100 orders with many lines stays far below; an answer to
/// `createOrder` is a line.
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
    fn context<'a>(&'a self, rejected_texts: &'a [String]) -> Context<'a> {
        Context { signature: &self.signature, skew: self.skew, rejected_texts }
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
            .ok_or_else(|| {
                BuildFault(format!("erp.{section}.url is not an http:// or https:// address"))
            })?;
        Ok(Self { http: Http::new(section, connection)?, address, clock: ErpClock::default() })
    }

    async fn exchange(&self, signed: Signed) -> Result<Exchange, Failure> {
        let (asked_at, asked_at_wall) = (Moment::now(), Timestamp::now());
        let reply = self.http.exchange(signed.outgoing).await?;
        let took = asked_at.until(Moment::now());
        let skew =
            reply.date.map(|date| self.clock.learn(asked_at, asked_at_wall, millis(took), date));
        Ok(Exchange { reply, signature: signed.signature, skew, asked_at, asked_at_wall })
    }
}

/// A query that got no answer.
fn query_failure(call: Call, failure: Failure) -> Judged<Result<Page, QueryFault>> {
    let fault = match failure {
        // Queries have no guard; were there one, nothing would have left.
        Failure::Withheld => QueryFault::Unreachable {
            call,
            reason: "the request was called back before it left".to_owned(),
        },
        Failure::Unreachable(reason) => QueryFault::Unreachable { call, reason },
        Failure::Lost(reason) => QueryFault::Unusable { call, reason },
    };
    Judged { outcome: Err(fault), throttled: None, unseen: false }
}

/// A filter the ERP's query does not have: no call is made.
fn no_filter(call: Call, name: &str) -> QueryFault {
    let message =
        format!("{} has no filter {name}: take it out of the feed's filters", call.method());
    QueryFault::Rejected {
        call,
        refusal: Refusal { code: -1, message, explanation: None, unapproved: false },
    }
}

/// What the ERP's clock shows now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ErpNow {
    /// At the latest.
    pub at_most: Timestamp,
    /// When the question was asked whose answer told.
    pub asked: Moment,
}

/// The ERP's clock, from the `Date` of its answers (whole seconds, cut).
#[derive(Debug, Default)]
struct ErpClock(Mutex<Heard>);

#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    /// The best measurement.
    kept: Option<Sample>,
    /// The latest instant the ERP's clock can have shown when the latest question left; our wall
    /// clock has no part in it.
    latest: Option<(Moment, Timestamp)>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    skew: i64,
    /// Milliseconds between request and answer: the less, the better known.
    took: u64,
    at: Moment,
}

/// A good measurement is preferred to later, worse ones for this long: clocks drift.
const SAMPLE_KEPT_MS: u64 = 300_000;
/// `Date` is cut to a second.
const DATE_CUT_MS: u64 = 1000;

impl Sample {
    /// Whether both cannot be true of the same two clocks: one of them was set in between.
    fn contradicts(self, other: Self) -> bool {
        self.skew.abs_diff(other.skew)
            > DATE_CUT_MS.saturating_add(self.took.saturating_add(other.took) / 2)
    }
}

impl ErpClock {
    /// One answer's skew: the middle of the second `Date` names against the middle of the exchange.
    fn learn(&self, asked: Moment, asked_wall: Timestamp, took: u64, date: Timestamp) -> i64 {
        let middle = asked_wall.0.saturating_add_unsigned(took / 2);
        let sample = Sample { skew: date.0 + 500 - middle, took, at: Moment::now() };
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let replaces = |kept: Sample| {
            sample.took <= kept.took
                || sample.at.0.saturating_sub(kept.at.0) > SAMPLE_KEPT_MS
                || sample.contradicts(kept)
        };
        if heard.kept.is_none_or(replaces) {
            heard.kept = Some(sample);
        }
        if heard.latest.is_none_or(|(at, _)| at <= asked) {
            heard.latest = Some((asked, Timestamp(date.0.saturating_add_unsigned(DATE_CUT_MS))));
        }
        sample.skew
    }

    fn skew(&self) -> Option<i64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).kept.map(|sample| sample.skew)
    }

    /// What the ERP's clock shows at `now`, at the latest.
    fn at_most(&self, now: Moment) -> Option<ErpNow> {
        let heard = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.latest.map(|(asked, most)| ErpNow { at_most: most.plus(asked.until(now)), asked })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_known_skew_is_kept() {
        let clock = ErpClock::default();
        assert_eq!(clock.skew(), None);
        assert_eq!(clock.learn(Moment(0), Timestamp(10_000), 1000, Timestamp(15_000)), 5000);
        assert_eq!(clock.learn(Moment(1), Timestamp(20_000), 100, Timestamp(24_000)), 4450);
        assert_eq!(clock.learn(Moment(2), Timestamp(30_000), 5000, Timestamp(33_000)), 1000);
        assert_eq!(clock.skew(), Some(4450));
        // An hour apart: no longer the same clocks.
        assert_eq!(
            clock.learn(Moment(3), Timestamp(3_640_000), 5000, Timestamp(43_000)),
            -3_599_000
        );
        assert_eq!(clock.skew(), Some(-3_599_000));
    }

    #[test]
    fn the_erps_clock_goes_on_whatever_ours_is_set_to() {
        let clock = ErpClock::default();
        assert_eq!(clock.at_most(Moment(0)), None);
        clock.learn(Moment(5_000), Timestamp(1), 10, Timestamp(70_000));
        let told = ErpNow { at_most: Timestamp(71_500), asked: Moment(5_000) };
        assert_eq!(clock.at_most(Moment(5_500)), Some(told));
        // A slow answer to an earlier question comes in late.
        clock.learn(Moment(4_000), Timestamp(900_000_000), 5_000, Timestamp(74_000));
        assert_eq!(clock.at_most(Moment(5_500)), Some(told));
        clock.learn(Moment(6_000), Timestamp(2), 10, Timestamp(1_000));
        assert_eq!(
            clock.at_most(Moment(6_000)).map(|now| now.at_most),
            Some(Timestamp(2_000)),
            "it was set back"
        );
    }
}
