//! What differs between the ERP's two product lines: parameters, signature, form of the request.

mod enterprise;
mod flagship;

use reqwest::Url;

use crate::{
    clock::{Moment, Timestamp, millis},
    config::ErpConnection,
};

use super::{
    Call, Page, PageRequest, QueryFault, Refusal,
    answer::{Context, Judged, Room, queried},
    client::BuildFault,
    clock::{ErpClock, Sample},
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
    /// Where it has a `Date`.
    sample: Option<Sample>,
    asked_at: Moment,
    asked_at_wall: Timestamp,
}

impl Exchange {
    fn context<'a>(&'a self, rejected_texts: &'a [String]) -> Context<'a> {
        Context { signature: &self.signature, skew: self.sample.map(Sample::skew), rejected_texts }
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
        let took = millis(asked_at.until(Moment::now()));
        let sample = |date| Sample { date, asked: asked_at, asked_wall: asked_at_wall, took };
        let sample = reply.date.map(sample);
        Ok(Exchange { reply, signature: signed.signature, sample, asked_at, asked_at_wall })
    }

    /// Reads the answer to a query, and the clock off it.
    fn page(
        &self,
        exchange: &Exchange,
        call: Call,
        asked: PageRequest,
        most_lines: usize,
    ) -> Judged<Result<Page, QueryFault>> {
        let room = Room { rows: asked.page_size, lines: most_lines };
        let judged = queried(call, &exchange.reply, room, &exchange.context(&[]));
        self.learn(exchange, &judged, judged.outcome.is_ok());
        judged.map(|outcome| {
            outcome.map(|rows| Page {
                rows: rows.rows,
                total_count: rows.total_count.filter(|_| asked.count),
                erp_date: exchange.reply.date,
                asked_at: exchange.asked_at,
                asked_at_wall: exchange.asked_at_wall,
            })
        })
    }

    /// Reads the clock off an answer that was judged; `accepted`: the ERP did what it was asked to.
    /// What is not the documented JSON may be a gateway's, and so may its `Date`.
    fn learn<T>(&self, exchange: &Exchange, judged: &Judged<T>, accepted: bool) {
        if judged.documented
            && let Some(sample) = exchange.sample
        {
            self.clock.learn(sample, accepted);
        }
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
        Failure::TooLong(reason) => QueryFault::TooLong { call, reason },
    };
    Judged::plain(Err(fault))
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
