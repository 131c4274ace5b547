//! What the ERP holds: purchase returns and outbound orders.
//!
//! Only what varies is stored; the rest of a record's fields is derived from its `flavour` when it
//! is written out.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::amount::Amount;

/// The product line a record or request belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Edition {
    #[default]
    Flagship,
    Enterprise,
}

/// The two kinds of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    PurchaseReturns,
    Outbounds,
}

/// Fields written out differently from what the record says: raw JSON by name, `None` leaves the
/// field out.
///
/// They change what queries answer, never by what they filter.
pub(super) type Overrides = BTreeMap<String, Option<Box<RawValue>>>;

/// Return status 40: approved, the only one out of which outbound orders are made.
pub(super) const APPROVED: i32 = 40;

/// A purchase return (采购退货单).
#[derive(Clone, Debug)]
pub(super) struct PurchaseReturn {
    pub id: u32,
    pub revision: u32,
    pub return_no: Box<str>,
    /// 10 cancelled, 20 editing, 30 submitted, 40 approved, 60 completed.
    pub status: i32,
    pub warehouse_no: Box<str>,
    pub provider_no: Box<str>,
    pub remark: Box<str>,
    pub created: i64,
    pub modified: i64,
    pub flavour: u64,
    pub lines: Vec<ReturnLine>,
    pub overrides: Option<Box<Overrides>>,
}

/// One line of a [`PurchaseReturn`].
#[derive(Clone, Debug)]
pub(super) struct ReturnLine {
    pub rec_id: u64,
    pub spec_no: Box<str>,
    pub num: Amount,
    pub out_num: Amount,
    pub price: Amount,
}

/// An outbound order (采购退货出库单).
#[derive(Clone, Debug)]
pub(super) struct Outbound {
    pub id: u32,
    pub revision: u32,
    pub edition: Edition,
    pub order_no: Box<str>,
    /// The return's number.
    pub src_order_no: Box<str>,
    /// Flagship 5, 48, 50, 65, 77, 110; enterprise 5, 50, 55, 95, 110.
    pub status: i32,
    pub warehouse_no: Box<str>,
    pub provider_no: Box<str>,
    pub logistics_no: Box<str>,
    pub remark: Box<str>,
    pub created: i64,
    pub modified: i64,
    /// Set when it is shipped.
    pub shipped: Option<i64>,
    pub flavour: u64,
    /// Made by `createOrder`: nobody operated it.
    pub by_api: bool,
    pub lines: Vec<OutboundLine>,
    pub overrides: Option<Box<Overrides>>,
}

/// One line of an [`Outbound`].
#[derive(Clone, Debug)]
pub(super) struct OutboundLine {
    pub rec_id: u64,
    pub spec_no: Box<str>,
    pub count: Amount,
    pub price: Amount,
    pub defect: bool,
    pub unit_name: Box<str>,
    pub position_no: Box<str>,
    pub batch_no: Box<str>,
    pub expire_date: Box<str>,
    pub remark: Box<str>,
}

/// A change made to a record through the admin API or the in-process handle. What is absent stays.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Change {
    /// New status; shipping statuses (95, 110) set the shipping time.
    pub status: Option<i32>,
    pub remark: Option<String>,
    pub warehouse_no: Option<String>,
    pub provider_no: Option<String>,
    pub logistics_no: Option<String>,
    /// The stamp in Beijing time, `yyyy-MM-dd HH:mm:ss`; without it, now.
    pub modified: Option<String>,
    /// The shipping time of an outbound order, written the same way.
    pub consign_time: Option<String>,
    /// Seen by queries this many milliseconds later; without it, at once.
    pub visible_after_ms: Option<u64>,
    /// Fields to answer as this JSON, digit for digit.
    pub set: BTreeMap<String, Box<RawValue>>,
    /// Fields to leave out of answers.
    pub omit: Vec<String>,
    /// Fields to answer again as the record says.
    pub restore: Vec<String>,
}

impl Change {
    /// Carries the overrides of this change into a record's.
    pub(crate) fn override_fields(&self, overrides: &mut Option<Box<Overrides>>) {
        if self.set.is_empty() && self.omit.is_empty() && self.restore.is_empty() {
            return;
        }
        let mut fields = overrides.take().map_or_else(Overrides::new, |fields| *fields);
        for name in &self.restore {
            fields.remove(name);
        }
        fields.extend(self.omit.iter().map(|name| (name.clone(), None)));
        fields.extend(self.set.iter().map(|(name, json)| (name.clone(), Some(json.clone()))));
        *overrides = (!fields.is_empty()).then(|| Box::new(fields));
    }
}

/// What a [`super::table::Table`] must know of a record.
pub(super) trait Row: Clone {
    fn id(&self) -> u32;
    fn revision(&self) -> u32;
    fn number(&self) -> &str;
    /// The return an outbound order was made from; empty for returns.
    fn source(&self) -> &str;
    fn status(&self) -> i32;
    fn warehouse_no(&self) -> &str;
    fn provider_no(&self) -> &str;
    fn created(&self) -> i64;
    fn modified(&self) -> i64;
    fn shipped(&self) -> Option<i64>;
    /// A copy with the next revision, changed; `now` stamps it unless the change says when.
    fn changed(&self, change: &Change, now: i64) -> Self;
}

fn replace(field: &mut Box<str>, value: Option<&str>) {
    if let Some(value) = value {
        *field = value.into();
    }
}

fn stamp(change: &Change, now: i64) -> i64 {
    change.modified.as_deref().and_then(super::time::parse_beijing).unwrap_or(now)
}

impl Row for PurchaseReturn {
    fn id(&self) -> u32 {
        self.id
    }
    fn revision(&self) -> u32 {
        self.revision
    }
    fn number(&self) -> &str {
        &self.return_no
    }
    fn source(&self) -> &'static str {
        ""
    }
    fn status(&self) -> i32 {
        self.status
    }
    fn warehouse_no(&self) -> &str {
        &self.warehouse_no
    }
    fn provider_no(&self) -> &str {
        &self.provider_no
    }
    fn created(&self) -> i64 {
        self.created
    }
    fn modified(&self) -> i64 {
        self.modified
    }
    fn shipped(&self) -> Option<i64> {
        None
    }

    fn changed(&self, change: &Change, now: i64) -> Self {
        let mut next = self.clone();
        next.revision += 1;
        next.status = change.status.unwrap_or(self.status);
        replace(&mut next.remark, change.remark.as_deref());
        replace(&mut next.warehouse_no, change.warehouse_no.as_deref());
        replace(&mut next.provider_no, change.provider_no.as_deref());
        next.modified = stamp(change, now);
        change.override_fields(&mut next.overrides);
        next
    }
}

impl Row for Outbound {
    fn id(&self) -> u32 {
        self.id
    }
    fn revision(&self) -> u32 {
        self.revision
    }
    fn number(&self) -> &str {
        &self.order_no
    }
    fn source(&self) -> &str {
        &self.src_order_no
    }
    fn status(&self) -> i32 {
        self.status
    }
    fn warehouse_no(&self) -> &str {
        &self.warehouse_no
    }
    fn provider_no(&self) -> &str {
        &self.provider_no
    }
    fn created(&self) -> i64 {
        self.created
    }
    fn modified(&self) -> i64 {
        self.modified
    }
    fn shipped(&self) -> Option<i64> {
        self.shipped
    }

    fn changed(&self, change: &Change, now: i64) -> Self {
        let mut next = self.clone();
        next.revision += 1;
        next.status = change.status.unwrap_or(self.status);
        replace(&mut next.remark, change.remark.as_deref());
        replace(&mut next.warehouse_no, change.warehouse_no.as_deref());
        replace(&mut next.provider_no, change.provider_no.as_deref());
        replace(&mut next.logistics_no, change.logistics_no.as_deref());
        next.modified = stamp(change, now);
        if let Some(at) = change.consign_time.as_deref().and_then(super::time::parse_beijing) {
            next.shipped = Some(at);
        }
        if matches!(next.status, 95 | 110) && next.shipped.is_none() {
            next.shipped = Some(next.modified);
        }
        change.override_fields(&mut next.overrides);
        next
    }
}
