//! The ERP client of both pipelines: one signed attempt per call, every answer classified.
//!
//! ```text
//! Quota ─▶ Permit ─▶ Erp ─▶ place on the wire ─▶ edition (parameters, body) ─▶ sign ─▶ http (one attempt) ─▶ answer (table) ─▶ Answer | Page
//! ```
//!
//! The client never retries: whether a call may be repeated is the pipeline's decision. The ERP's
//! protocol is described in `docs/erp.md`.

use std::{fmt, sync::Arc};

use page::RawRecord;

use crate::{
    clock::{Moment, Timestamp},
    config::Edition,
    decimal::Decimal,
    explanation::Explanation,
};

/// The calls the connector makes; the quota counts each on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Call {
    /// `wms.stockout.PurchaseReturn.createOrder`
    CreateOrder,
    /// `purchase.PurchaseReturn.queryWithDetail`
    QueryPurchaseReturns,
    /// `wms.stockout.PurchaseReturn.queryWithDetail`
    QueryOutbounds,
    /// `stockout_order_query_return.php`
    QueryOutboundsEnterprise,
}

impl Call {
    /// Every call there is.
    pub const ALL: [Self; 4] = [
        Self::CreateOrder,
        Self::QueryPurchaseReturns,
        Self::QueryOutbounds,
        Self::QueryOutboundsEnterprise,
    ];

    /// The word for metrics and the status page.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CreateOrder => "create_order",
            Self::QueryPurchaseReturns => "query_purchase_returns",
            Self::QueryOutbounds => "query_outbounds",
            Self::QueryOutboundsEnterprise => "query_outbounds_enterprise",
        }
    }

    /// The ERP's own name of the call: `method` in the flagship edition, the file name in the
    /// enterprise one.
    #[must_use]
    pub fn method(self) -> &'static str {
        match self {
            Self::CreateOrder => "wms.stockout.PurchaseReturn.createOrder",
            Self::QueryPurchaseReturns => "purchase.PurchaseReturn.queryWithDetail",
            Self::QueryOutbounds => "wms.stockout.PurchaseReturn.queryWithDetail",
            Self::QueryOutboundsEnterprise => "stockout_order_query_return.php",
        }
    }

    /// Whose account pays for the call.
    #[must_use]
    pub fn edition(self) -> Edition {
        match self {
            Self::CreateOrder | Self::QueryPurchaseReturns | Self::QueryOutbounds => {
                Edition::Flagship
            }
            Self::QueryOutboundsEnterprise => Edition::Enterprise,
        }
    }
}

/// Who wants a call made, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Class {
    Lookup,
    Command,
    Feed,
    LatePass,
    Backfill,
}

impl Class {
    /// Every class, most urgent first.
    pub(crate) const ALL: [Self; 5] =
        [Self::Lookup, Self::Command, Self::Feed, Self::LatePass, Self::Backfill];

    /// The word for metrics and the status page.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Command => "command",
            Self::Feed => "feed",
            Self::LatePass => "late_pass",
            Self::Backfill => "backfill",
        }
    }
}

/// Asked as late as the client allows whether a `createOrder` may still leave: once before sending
/// and once when its body is first polled. `false` after a first `true` ends the request
/// incomplete, so that nobody executes it.
pub(crate) trait SendGuard: Send + Sync + 'static {
    /// Whether the intent's send-by has not passed and its partition is still owned.
    fn may_send(&self) -> bool;
}

/// One outbound order to create; field names are the ERP's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderRequest {
    pub return_no: String,
    pub warehouse_no: String,
    pub logistics_code: Option<String>,
    /// 0 draft, 1 submitted, 2 approved.
    pub create_mode: Option<i32>,
    /// As sent: marker, space, the sender's remark.
    pub remark: String,
    pub details: Vec<OrderLine>,
}

/// One line of an [`OrderRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderLine {
    pub spec_no: String,
    pub num: Decimal,
    pub unit_name: Option<String>,
    pub position_no: Option<String>,
    pub batch_no: Option<String>,
    pub expire_date: Option<String>,
    pub defect: Option<bool>,
    pub remark: Option<String>,
}

/// Where in an answer to `createOrder` a refusal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Layer {
    /// `status` and `message`.
    Outer,
    /// `data.status` and `data.message`.
    Data,
}

/// What came of one `createOrder` (`docs/erp.md#answer-classification`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The ERP made an outbound order with this number.
    Created { outbound_no: String },
    /// The ERP said no, for good.
    Rejected(Refusal),
    /// The ERP said no in a documented answer, with a code or text that the table does not list: in
    /// all likelihood nothing was made, but nobody documents it.
    Unlisted { refusal: Refusal, layer: Layer },
    /// The ERP says that the order was made, and that something failed after that.
    ProbablyCreated(Refusal),
    /// It certainly had no effect and may be sent again.
    NotExecuted(NotExecuted),
    /// Nobody knows whether an order was made; `refusal` is what the ERP said, where it said
    /// something.
    Unknown { reason: String, refusal: Option<Refusal> },
    /// Account, signature, clock, address or permission: a person must act; it had no effect.
    Misconfigured(Refusal),
}

impl Answer {
    /// The word for metrics and the status page.
    #[must_use]
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Created { .. } => "ok",
            Self::Rejected(_) => "rejected",
            Self::Unlisted { .. } => "unlisted",
            Self::ProbablyCreated(_) => "probably_created",
            Self::NotExecuted(NotExecuted::Throttled { .. }) => "throttled",
            Self::NotExecuted(NotExecuted::Unreachable { .. }) => "unreachable",
            Self::NotExecuted(NotExecuted::Withheld) => "withheld",
            Self::Unknown { .. } => "unknown",
            Self::Misconfigured(_) => "misconfigured",
        }
    }

    /// What a person wants to know beside the word: order number, the ERP's text, the reason.
    #[must_use]
    pub(crate) fn detail(&self) -> Option<String> {
        match self {
            Self::Created { outbound_no } => Some(outbound_no.clone()),
            Self::Rejected(refusal)
            | Self::Unlisted { refusal, .. }
            | Self::ProbablyCreated(refusal)
            | Self::Misconfigured(refusal) => Some(format!("{} {}", refusal.code, refusal.message)),
            Self::NotExecuted(NotExecuted::Throttled { message }) => Some(message.clone()),
            Self::NotExecuted(NotExecuted::Unreachable { reason })
            | Self::Unknown { reason, .. } => Some(reason.clone()),
            Self::NotExecuted(NotExecuted::Withheld) => None,
        }
    }

    /// The ERP's code and words, where it gave some. A refusal for the quota says nothing about the
    /// command.
    #[must_use]
    pub(crate) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Rejected(refusal)
            | Self::Unlisted { refusal, .. }
            | Self::ProbablyCreated(refusal)
            | Self::Misconfigured(refusal) => Some(refusal),
            Self::Unknown { refusal, .. } => refusal.as_ref(),
            Self::Created { .. } | Self::NotExecuted(_) => None,
        }
    }
}

/// The ERP's own words for a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// The ERP's `status` or `code`.
    pub code: i64,
    /// The ERP's own text.
    pub message: String,
    /// What it means; `None` for a text the table does not know.
    pub explanation: Option<Explanation>,
    /// The return is not approved yet: the same command may succeed later.
    pub unapproved: bool,
}

/// Why a call certainly had no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotExecuted {
    /// The ERP's quota refused it.
    Throttled { message: String },
    /// It never left: refused connection, DNS, TLS, timeout before the request left.
    Unreachable { reason: String },
    /// The [`SendGuard`] said no.
    Withheld,
}

/// Why a query gave no rows. None of them has an effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryFault {
    #[error("the ERP's quota refused {call:?}: {message}; the connector slows down by itself")]
    Throttled { call: Call, message: String },
    #[error("the ERP could not be reached for {call:?}: {reason}")]
    Unreachable { call: Call, reason: String },
    /// HTTP 5xx, a reset, a timeout, a body that is not the documented JSON, codes 4, 5, 99.
    #[error("the ERP gave no usable answer to {call:?}: {reason}")]
    Unusable { call: Call, reason: String },
    /// Account, signature, clock, address or permission.
    #[error("the ERP refuses {call:?} with {}: {}{}", .refusal.code, .refusal.message, .refusal.explanation.as_ref().map(|explanation| format!(" ({})", explanation.en())).unwrap_or_default())]
    Misconfigured { call: Call, refusal: Refusal },
    /// The window or the conditions let too many records through.
    #[error("the ERP finds the query {call:?} too wide ({}: {}); ask for a shorter window, or set filters", .refusal.code, .refusal.message)]
    TooWide { call: Call, refusal: Refusal },
    /// More than is held in memory, in bytes or in lines.
    #[error(
        "the ERP's answer to {call:?} is too long to be read: {reason}; ask with a smaller page_size"
    )]
    TooLong { call: Call, reason: String },
    /// The query itself is wrong (window, paging, filter): a defect of the connector or of the
    /// filters.
    #[error("the ERP rejects the query {call:?} with {}: {}", .refusal.code, .refusal.message)]
    Rejected { call: Call, refusal: Refusal },
    /// The ERP says no in words that are in no table: for now, for good, or for this window.
    #[error("the ERP refuses {call:?} with {}: {} (not in the table of known answers)", .refusal.code, .refusal.message)]
    Unlisted { call: Call, refusal: Refusal },
}

/// One page of a query, rows as the ERP sent them.
#[derive(Clone, Debug)]
pub struct Page {
    /// The records' own JSON, every digit kept.
    pub rows: Vec<RawRecord>,
    /// Only where the count was asked for.
    pub total_count: Option<u64>,
    /// The answer's `Date` header.
    pub erp_date: Option<Timestamp>,
    /// When the request was about to leave, on our suspend-proof clock.
    pub asked_at: Moment,
    /// The same on our wall clock.
    pub asked_at_wall: Timestamp,
}

/// Which rows a query asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Closed interval, whole seconds, Beijing time on the wire.
    pub window: Option<(Timestamp, Timestamp)>,
    /// Flagship outbound query only: 1 shipped, 2 created, 3 last modified.
    pub time_type: Option<u8>,
    /// `return_no` (purchase returns) or `src_order_no` (outbound orders).
    pub return_no: Option<String>,
    /// Comma-separated list (flagship outbound), one status elsewhere.
    pub status: Option<String>,
    pub warehouse_no: Option<String>,
    pub provider_no: Option<String>,
}

/// Which page of a [`Selection`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    pub page_no: u32,
    pub page_size: u32,
    /// Ask for `total_count` (flagship `calc_total`; the enterprise edition gives it with page 0
    /// only).
    pub count: bool,
}

impl fmt::Debug for dyn SendGuard {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("SendGuard")
    }
}

/// A guard shared between the pipeline and the request body.
pub(crate) type SharedGuard = Arc<dyn SendGuard>;

mod answer;
mod budget;
pub(crate) mod client;
pub(crate) mod clock;
mod edition;
mod elements;
#[doc(hidden)]
pub mod fuzz;
mod http;
mod outbound;
pub mod page;
pub(crate) mod quota;
pub mod record;
mod repair;
mod sign;
mod value;

pub(crate) use client::{BuildFault, Erp};
pub(crate) use clock::ErpTime;
pub(crate) use outbound::{OUTBOUND_STATUSES, OutboundHead};
pub(crate) use quota::{BudgetStatus, Permit, Place, Quota, Work};
