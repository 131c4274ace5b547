//! The ERP's answers. One is first read into a row of the table of errors (`table.rs`), by code and
//! text, then judged; where it stands (outer layer or `data` of `createOrder`, a query) decides
//! what an unseen one is.

mod table;

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::{config::Edition, explanation::Explanation, text::shortened};

use super::{
    Answer, Call, Layer, NotExecuted, QueryFault, Refusal,
    elements::{Elements, MOST_KEPT},
    http::Reply,
    page::{self, RawRecord},
    quota::Limit,
    record::MOST_LINES,
    repair::Repaired,
    value::{self, Retyped, is_empty, optional},
};
use table::{Meaning, Row, enterprise_row, flagship_row, judge, row_of_text, says_created};

/// An answer, judged, and what the quota and the counters learn from it.
#[derive(Debug)]
pub(super) struct Judged<T> {
    pub outcome: T,
    pub throttled: Option<Limit>,
    /// The table does not know this code or text.
    pub unseen: bool,
    /// The documented JSON, refusals included: the ERP has spoken, not a gateway before it.
    pub documented: bool,
}

impl<T> Judged<T> {
    /// What is said without the ERP, or of an answer nobody can ascribe to it.
    pub(super) fn plain(outcome: T) -> Self {
        Self { outcome, throttled: None, unseen: false, documented: false }
    }

    /// What the ERP said.
    fn documented(outcome: T) -> Self {
        Self { documented: true, ..Self::plain(outcome) }
    }

    fn of(outcome: T, code: Option<i64>, meaning: Meaning) -> Self {
        let judged = Self::documented(outcome);
        match meaning {
            Meaning::Throttled(limit) => Self { throttled: Some(limit), ..judged },
            // A gateway's own JSON looks like that where it has no code.
            Meaning::Unseen => Self { unseen: true, documented: code.is_some(), ..judged },
            Meaning::Misconfigured
            | Meaning::Rejected
            | Meaning::Unapproved
            | Meaning::Ambiguous
            | Meaning::ProbablyCreated => judged,
        }
    }

    pub(super) fn map<U>(self, outcome: impl FnOnce(T) -> U) -> Judged<U> {
        Judged {
            outcome: outcome(self.outcome),
            throttled: self.throttled,
            unseen: self.unseen,
            documented: self.documented,
        }
    }
}

/// What a reader of answers knows beside the answer.
pub(super) struct Context<'a> {
    /// Never to be repeated in a text, should the ERP repeat it.
    pub signature: &'a str,
    /// How far the ERP's clock is ahead of ours, in milliseconds.
    pub skew: Option<i64>,
    /// `erp.flagship.rejected_texts`: parts of texts that the operator knows as rejections.
    pub rejected_texts: &'a [String],
}

impl Context<'_> {
    /// The ERP's words, without the signature and of bounded length.
    fn words(&self, text: Option<String>) -> String {
        const MOST: usize = 1000;
        let text = text.unwrap_or_default();
        let text =
            if self.signature.is_empty() { text } else { text.replace(self.signature, "…") };
        shortened(&text, MOST)
    }

    /// What the operator's list makes of a text that the table does not hold.
    fn listed(&self, row: Row, text: &str) -> Row {
        let listed = || self.rejected_texts.iter().any(|part| text.contains(part.as_str()));
        if row == Row::Unseen && listed() { Row::OperatorListed } else { row }
    }

    fn refusal(&self, row: Row, code: Option<i64>, mut message: String) -> (Meaning, Refusal) {
        let (meaning, explanation) = judge(row);
        if let (Row::Clock, Some(skew)) = (row, self.skew) {
            // The answer's own skew: the time it took is not in it by more than a second or so.
            let direction = if skew < 0 { "ahead of" } else { "behind" };
            message = format!(
                "{message} (our clock is about {} s {direction} the ERP's)",
                (skew.unsigned_abs() + 500) / 1000
            );
        }
        (
            meaning,
            Refusal {
                code: code.unwrap_or(-1),
                message,
                explanation,
                unapproved: meaning == Meaning::Unapproved,
            },
        )
    }
}

/// Both layers of a flagship answer, and an enterprise answer, as sent.
#[derive(Default, Deserialize)]
struct Sent<'a> {
    #[serde(borrow, default)]
    status: Option<&'a RawValue>,
    #[serde(borrow, default)]
    code: Option<&'a RawValue>,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    /// Also where it is null.
    #[serde(borrow, default, deserialize_with = "with_null")]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    total_count: Option<&'a RawValue>,
    #[serde(borrow, default, alias = "order")]
    stockout_list: Option<&'a RawValue>,
}

fn with_null<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

/// Why a body is not the documented JSON; nothing of the body is quoted.
fn undocumented(body: &[u8], what: &str) -> String {
    format!("its answer of {} bytes is not the documented JSON ({what})", body.len())
}

fn code_of(json: Option<&RawValue>) -> Result<Option<i64>, Retyped> {
    optional(json, value::code)
}

fn text_of(json: Option<&RawValue>) -> Result<Option<String>, Retyped> {
    Ok(optional(json, value::text)?.map(Cow::into_owned))
}

fn parse(body: &[u8]) -> Result<Sent<'_>, String> {
    let is_object = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    match serde_json::from_slice(body) {
        Ok(sent) if is_object => Ok(sent),
        Ok(_) => Err(undocumented(body, "no object")),
        Err(error) => Err(undocumented(
            body,
            &format!(
                "{:?} error in line {}, column {}",
                error.classify(),
                error.line(),
                error.column()
            ),
        )),
    }
}

/// Reads the answer to `createOrder`.
pub(super) fn created(reply: &Reply, context: &Context<'_>) -> Judged<Answer> {
    let unknown = |reason: String| Judged::plain(Answer::Unknown { reason, refusal: None });
    if !(200..300).contains(&reply.status) {
        return unknown(format!("it answered HTTP {}", reply.status));
    }
    let body = &reply.body;
    let sent = match parse(body) {
        Ok(sent) => sent,
        Err(reason) => return unknown(reason),
    };
    let (code, message) = match (code_of(sent.status), text_of(sent.message)) {
        (Ok(code), Ok(message)) => (code, context.words(message)),
        (Err(Retyped), _) => return unknown(undocumented(body, "status is not a whole number")),
        (_, Err(Retyped)) => {
            return unknown(undocumented(body, "message is neither a text nor a number"));
        }
    };
    let data = sent.data.filter(|data| data.get() != "null");
    if code == Some(0) {
        return created_data(body, data, context);
    }
    if code.is_none() && message.is_empty() {
        return unknown(undocumented(body, "neither status nor message"));
    }
    if code.is_none() && data.is_some() {
        return unknown(undocumented(body, "data without a status"));
    }
    // Whatever the outer layer says, the inner one may tell of an order.
    if let Some(data) = data.and_then(|data| parse(data.get().as_bytes()).ok())
        && let (Ok(code), Ok(message)) = (code_of(data.status), text_of(data.message))
    {
        let message = context.words(message);
        if says_created(Layer::Data, code, &message) {
            return judged(Row::CreatedNotApproved, code, message, Layer::Data, context);
        }
    }
    refused(flagship_row(code, &message), code, message, Layer::Outer, context)
}

/// Characters of an order number: the ERP document's length of `order_no`.
const LONGEST_NUMBER: usize = 40;

/// Whether a text can be an order number: anything longer, with blanks, with Chinese characters or
/// without a digit is a message (a sister call's own sample has one in this place).
fn is_number(text: &str) -> bool {
    text.len() <= LONGEST_NUMBER
        && text.bytes().all(|byte| byte.is_ascii_graphic())
        && text.bytes().any(|byte| byte.is_ascii_digit())
}

/// Reads `data` of a `createOrder` whose outer layer said yes.
fn created_data(body: &[u8], data: Option<&RawValue>, context: &Context<'_>) -> Judged<Answer> {
    let unknown = |what: &str| {
        Judged::plain(Answer::Unknown { reason: undocumented(body, what), refusal: None })
    };
    let Some(data) = data else { return unknown("no data") };
    let Ok(data) = parse(data.get().as_bytes()) else { return unknown("data is no object") };
    let (Ok(code), Ok(message)) = (code_of(data.status), text_of(data.message)) else {
        return unknown("data.status or data.message of another type");
    };
    match code {
        Some(0) => {
            let text = message.unwrap_or_default();
            match text.trim() {
                "" => unknown("no order number in data.message"),
                number if is_number(number) && !says_created(Layer::Data, Some(0), number) => {
                    Judged::documented(Answer::Created { outbound_no: number.to_owned() })
                }
                // Success without a number: whether the order is there is asked then.
                _ => {
                    let message = context.words(Some(text));
                    let row = if says_created(Layer::Data, Some(0), &message) {
                        Row::CreatedNotApproved
                    } else {
                        Row::NoNumber
                    };
                    judged(row, Some(0), message, Layer::Data, context)
                }
            }
        }
        Some(code) => {
            let message = context.words(message);
            refused(row_of_text(&message), Some(code), message, Layer::Data, context)
        }
        None => unknown("no data.status"),
    }
}

fn refused(
    row: Row,
    code: Option<i64>,
    message: String,
    layer: Layer,
    context: &Context<'_>,
) -> Judged<Answer> {
    // Before the table: a text of the table may follow the news that the order was made.
    let row = if says_created(layer, code, &message) { Row::CreatedNotApproved } else { row };
    judged(context.listed(row, &message), code, message, layer, context)
}

fn judged(
    row: Row,
    code: Option<i64>,
    message: String,
    layer: Layer,
    context: &Context<'_>,
) -> Judged<Answer> {
    let (meaning, refusal) = context.refusal(row, code, message);
    let answer = match (meaning, layer) {
        (Meaning::Throttled(_), Layer::Outer) => {
            Answer::NotExecuted(NotExecuted::Throttled { message: refusal.message })
        }
        (Meaning::Misconfigured, Layer::Outer) => Answer::Misconfigured(refusal),
        // Behind a success of the outer layer these are no reason to call again: the document may
        // exist, and only its approval be refused.
        (Meaning::Throttled(_) | Meaning::Misconfigured, Layer::Data) => {
            Answer::Unlisted { refusal, layer }
        }
        (Meaning::Rejected, Layer::Outer | Layer::Data) | (Meaning::Unapproved, Layer::Outer) => {
            Answer::Rejected(refusal)
        }
        (Meaning::Unapproved, Layer::Data) => {
            Answer::Rejected(Refusal { unapproved: false, ..refusal })
        }
        // A gateway's own JSON looks like that: nothing says that the ERP has read the request.
        (Meaning::Unseen, Layer::Outer) if code.is_none() => {
            Answer::Unknown { reason: said(code, &refusal), refusal: Some(refusal) }
        }
        (Meaning::Ambiguous, Layer::Outer | Layer::Data) => {
            Answer::Unknown { reason: said(code, &refusal), refusal: Some(refusal) }
        }
        (Meaning::ProbablyCreated, Layer::Outer | Layer::Data) => Answer::ProbablyCreated(refusal),
        (Meaning::Unseen, Layer::Outer | Layer::Data) => Answer::Unlisted { refusal, layer },
    };
    match (meaning, layer) {
        (Meaning::Throttled(_), Layer::Data) => Judged::documented(answer),
        (_, Layer::Outer | Layer::Data) => Judged::of(answer, code, meaning),
    }
}

/// A refusal in one clause.
fn said(code: Option<i64>, refusal: &Refusal) -> String {
    let code = code.map_or_else(|| "no code".to_owned(), |code| format!("code {code}"));
    let explanation =
        refusal.explanation.as_ref().map_or("not in the table of known answers", Explanation::en);
    format!("it answered with {code}: {} ({explanation})", refusal.message)
}

/// A query's rows and count, before the client adds the times.
#[derive(Debug)]
pub(super) struct Rows {
    pub rows: Vec<RawRecord>,
    pub total_count: Option<u64>,
    /// Of all rows, those of a row with more than a record may have left out: nothing is made of
    /// them.
    pub lines: usize,
}

/// How much of an answer to a query is taken.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// As many as were asked for.
    pub rows: u32,
    /// Of all rows together: each takes many times its bytes once it is decoded.
    pub lines: usize,
}

/// Reads the answer to a query.
///
/// One that is no JSON because of control characters or broken UTF-8 in texts is read with these
/// repaired (`repair.rs`). Only records may hold a broken byte: whatever else is said is said
/// exactly, or not at all.
pub(super) fn queried(
    call: Call,
    reply: &Reply,
    room: Room,
    context: &Context<'_>,
) -> Judged<Result<Rows, QueryFault>> {
    let unusable = |reason: String| Judged::plain(Err(QueryFault::Unusable { call, reason }));
    if let Some(fault) = http_fault(call, reply.status) {
        let throttled = matches!(fault, QueryFault::Throttled { .. }).then_some(Limit::Frequency);
        return Judged { throttled, ..Judged::plain(Err(fault)) };
    }
    let body = &reply.body;
    let repaired;
    let (sent, repaired) = match parse(body) {
        Ok(sent) => (sent, None),
        Err(reason) => {
            repaired = Repaired::of(body);
            let again = repaired.as_ref().map(|repaired| (parse(&repaired.text), repaired));
            match again {
                Some((Ok(sent), repaired)) => (sent, Some(repaired)),
                Some((Err(_), _)) | None => return unusable(reason),
            }
        }
    };
    let code = match call.edition() {
        Edition::Flagship => sent.status,
        Edition::Enterprise => sent.code,
    };
    let (Ok(code), Ok(message)) = (code_of(code), text_of(sent.message)) else {
        return unusable(undocumented(body, "status, code or message of another type"));
    };
    if code != Some(0) {
        if repaired.is_some_and(|repaired| repaired.broken() > 0) {
            return unusable(undocumented(body, "broken UTF-8"));
        }
        let message = context.words(message);
        let row = match call.edition() {
            Edition::Flagship => flagship_row(code, &message),
            Edition::Enterprise => enterprise_row(code, &message),
        };
        return query_refused(call, row, code, message, context);
    }
    let page = match call.edition() {
        Edition::Enterprise => Ok(sent),
        Edition::Flagship => match sent.data {
            None => Err(undocumented(body, "no data")),
            Some(data) if is_empty(data) => Ok(Sent::default()),
            Some(data) => {
                parse(data.get().as_bytes()).map_err(|_| undocumented(body, "data is no object"))
            }
        },
    };
    match page.and_then(|page| rows(call, &page, room.rows, body, repaired)) {
        Ok(Rows { lines, .. }) if lines > room.lines => {
            let reason = format!("its records have {lines} lines, more than {}", room.lines);
            Judged::documented(Err(QueryFault::TooLong { call, reason }))
        }
        Ok(rows) => Judged::documented(Ok(rows)),
        Err(reason) => unusable(reason),
    }
}

/// Records and count. Without a list there are no records, unless the count says that there are.
fn rows(
    call: Call,
    page: &Sent<'_>,
    page_size: u32,
    body: &Bytes,
    repaired: Option<&Repaired<'_>>,
) -> Result<Rows, String> {
    let wrong = |what: &str| undocumented(body, what);
    let total_count = optional(page.total_count, value::long)
        .map_err(|Retyped| wrong("total_count is not a whole number"))?
        .map(u64::try_from)
        .transpose()
        .map_err(|_| wrong("total_count below zero"))?;
    let list = match page.stockout_list {
        Some(list) if list.get().starts_with('[') => serde_json::from_str(list.get())
            .map_err(|_| wrong("the list of records is no array"))?,
        Some(list) if !is_empty(list) => return Err(wrong("the list of records is no array")),
        Some(_) | None if total_count.is_some_and(|count| count > 0) => {
            return Err(wrong("no list of records, and a total_count above 0"));
        }
        Some(_) | None => Elements::default(),
    };
    let most = usize::try_from(page_size).unwrap_or(usize::MAX).min(MOST_KEPT);
    if list.count > most {
        return Err(format!(
            "its answer has {} records, where {page_size} were asked for",
            list.count
        ));
    }
    let (mut broken, mut lines) = (0, 0);
    let rows = list.first.into_iter().map(|json| {
        let json = match repaired {
            None => body.slice_ref(json.get().as_bytes()),
            Some(repaired) => {
                let (json, of_it) = repaired.part(json.get());
                broken += of_it;
                json
            }
        };
        let (row, of_it) = RawRecord::outlined(page::feed_of(call), json);
        lines += if of_it > MOST_LINES { 0 } else { of_it };
        row
    });
    let rows = rows.collect();
    if repaired.is_some_and(|repaired| repaired.broken() > broken) {
        return Err(wrong("broken UTF-8 outside of the records"));
    }
    Ok(Rows { rows, total_count, lines })
}

fn query_refused(
    call: Call,
    row: Row,
    code: Option<i64>,
    message: String,
    context: &Context<'_>,
) -> Judged<Result<Rows, QueryFault>> {
    let (meaning, refusal) = context.refusal(row, code, message);
    let fault = match meaning {
        Meaning::Throttled(_) => QueryFault::Throttled { call, message: refusal.message },
        Meaning::Rejected if row == Row::WindowTooWide => QueryFault::TooWide { call, refusal },
        Meaning::Misconfigured => QueryFault::Misconfigured { call, refusal },
        Meaning::Rejected | Meaning::Unapproved => QueryFault::Rejected { call, refusal },
        // Without a code it is a gateway's own JSON, perhaps.
        Meaning::Unseen if code.is_some() => QueryFault::Unlisted { call, refusal },
        Meaning::Ambiguous | Meaning::ProbablyCreated | Meaning::Unseen => {
            QueryFault::Unusable { call, reason: said(code, &refusal) }
        }
    };
    Judged::of(Err(fault), code, meaning)
}

/// What a query's HTTP status alone says; `None` for a success. (`createOrder` believes no status:
/// see [`created`].)
fn http_fault(call: Call, status: u16) -> Option<QueryFault> {
    let misconfigured = |en: &'static str, zh: &'static str| {
        let refusal = Refusal {
            code: i64::from(status),
            message: format!("HTTP {status}"),
            explanation: Some(Explanation::new(en, zh)),
            unapproved: false,
        };
        Some(QueryFault::Misconfigured { call, refusal })
    };
    match status {
        200..=299 => None,
        300..=399 => misconfigured(
            "a redirect, which is not followed: check the address in the configuration",
            "服务器返回重定向，连接器不予跟随：请检查配置中的接口地址",
        ),
        404 | 405 | 410 => misconfigured(
            "nothing answers there: check the address in the configuration",
            "该地址上没有接口：请检查配置中的接口地址",
        ),
        401 | 403 => misconfigured(
            "access is denied before the ERP: check address and network",
            "请求在到达旺店通之前就被拒绝：请检查接口地址和网络",
        ),
        407 => misconfigured(
            "the proxy asks for credentials: check the proxy in the configuration",
            "代理服务器要求身份验证：请检查配置中的代理",
        ),
        429 => Some(QueryFault::Throttled { call, message: "HTTP 429".to_owned() }),
        _ => Some(QueryFault::Unusable { call, reason: format!("it answered HTTP {status}") }),
    }
}

#[cfg(test)]
mod tests;
