//! Doors for the fuzz tests and the measurements: what an answer of the ERP comes to, as one word
//! of a closed set, and requests that are written but not sent.

use bytes::Bytes;

use crate::config::{Feed, FlagshipSettings};

use super::{
    Answer, BuildFault, Call, NotExecuted, OrderRequest, OutboundHead, QueryFault,
    answer::{Context, Room, created, queried},
    edition::Flagship,
    http::Reply,
    page::{self, RawRecord},
    record::{self, MOST_LINES},
};

/// The signature of the request that was answered; an answer that repeats it must not pass it on.
pub const SIGNATURE: &str = "00f3e310f4d39b63fbfa13ef27f51254";

/// What an answer to a query for a page of 100 is read with.
const ROOM: Room = Room { rows: 100, lines: MOST_LINES };

fn context() -> Context<'static> {
    Context { signature: SIGNATURE, skew: Some(-3000), rejected_texts: &[] }
}

/// How many records an answer to a query has; they are found and not read.
#[must_use]
pub fn records(call: Call, body: &Bytes) -> usize {
    let reply = Reply { status: 200, date: None, body: body.clone() };
    queried(call, &reply, ROOM, &context()).outcome.map_or(0, |page| page.rows.len())
}

/// An answer to one of the four calls, with every record in it.
///
/// # Errors
/// The text in which the signature stands.
pub fn answer(call: Call, status: u16, body: &[u8]) -> Result<&'static str, String> {
    let reply = Reply { status, date: None, body: Bytes::copy_from_slice(body) };
    if call == Call::CreateOrder {
        return create(&reply, &context());
    }
    let rows = match queried(call, &reply, ROOM, &context()).outcome {
        Ok(rows) => rows.rows,
        Err(fault) => {
            quiet(&fault.to_string())?;
            return Ok(match fault {
                QueryFault::Throttled { .. } => "throttled",
                QueryFault::Unreachable { .. } => "unreachable",
                QueryFault::Unusable { .. } => "unusable",
                QueryFault::Unlisted { .. } => "unlisted",
                QueryFault::Misconfigured { .. } => "misconfigured",
                QueryFault::TooWide { .. } => "too wide",
                QueryFault::TooLong { .. } => "too long",
                QueryFault::Rejected { .. } => "rejected",
            });
        }
    };
    let (feed, edition) = (page::feed_of(call), call.edition());
    let mut word = "no record";
    for RawRecord { json, .. } in &rows {
        let read = record::decode(feed, edition, json);
        // Only outbound orders are looked up.
        let head = (feed == Feed::ReturnOutbounds).then(|| OutboundHead::read(json));
        word = match (read, head) {
            (Ok(record), _) if record.drift.is_empty() => "a record",
            (Ok(_), _) => "a record with drift",
            (Err(_), Some(Ok(_))) => "only its head",
            (Err(_), Some(Err(_)) | None) => "a misfit",
        };
    }
    Ok(word)
}

fn create(reply: &Reply, context: &Context<'_>) -> Result<&'static str, String> {
    Ok(match created(reply, context).outcome {
        Answer::Created { .. } => "created",
        Answer::Rejected(refusal) => {
            quiet(&refusal.message)?;
            "rejected"
        }
        Answer::Unlisted { refusal, .. } => {
            quiet(&refusal.message)?;
            "unlisted"
        }
        Answer::ProbablyCreated(refusal) => {
            quiet(&refusal.message)?;
            "probably created"
        }
        Answer::NotExecuted(NotExecuted::Throttled { message }) => {
            quiet(&message)?;
            "throttled"
        }
        Answer::NotExecuted(NotExecuted::Unreachable { .. } | NotExecuted::Withheld) => "not sent",
        Answer::Unknown { reason, refusal } => {
            quiet(&reason)?;
            quiet(refusal.as_ref().map_or("", |refusal| refusal.message.as_str()))?;
            "unknown"
        }
        Answer::Misconfigured(refusal) => {
            quiet(&refusal.message)?;
            "misconfigured"
        }
    })
}

fn quiet(text: &str) -> Result<(), String> {
    if text.contains(SIGNATURE) { Err(text.to_owned()) } else { Ok(()) }
}

/// A flagship account that connects to nothing.
#[derive(Debug)]
pub struct Unsent(Flagship);

impl Unsent {
    /// Of these settings.
    ///
    /// # Errors
    /// As [`super::Erp::new`].
    pub fn new(settings: &FlagshipSettings) -> Result<Self, BuildFault> {
        Flagship::new(settings).map(Self)
    }

    /// Writes, addresses and signs a `createOrder`; gives the bytes of URL and body together.
    ///
    /// # Errors
    /// Only a defect makes one.
    pub fn create_order(&self, order: &OrderRequest) -> Result<usize, serde_json::Error> {
        self.0.write_order(order)
    }
}
