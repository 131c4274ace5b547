//! What an operator may order a feed to do, through the control topic: records for whoever owns the
//! feed, now or later.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    clock::Timestamp,
    config::{Feed, parse_instant},
    kafka::control::Decisions,
};

/// Read a period again beside the live feed and publish what the state lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BackfillOrder {
    /// Carried out once by this id.
    pub id: String,
    pub from: Timestamp,
    pub to: Timestamp,
    /// Called off, whether it has begun or not.
    pub cancelled: bool,
}

/// Go on from another watermark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WatermarkOrder {
    /// Carried out once by this id.
    pub id: String,
    pub watermark: Timestamp,
    /// A later watermark than the feed's skips what lies between; without this it moves nothing.
    pub allow_skip: bool,
}

/// A backfill as it stands in the topic; instants are RFC 3339.
#[derive(Debug, Serialize, Deserialize)]
struct WrittenBackfill {
    id: String,
    from: String,
    to: String,
    #[serde(default)]
    cancelled: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct WrittenWatermark {
    id: String,
    watermark: String,
    #[serde(default)]
    allow_skip: bool,
}

/// The control record's key of a feed's backfill.
#[must_use]
pub(crate) fn backfill_key(feed: Feed) -> Vec<String> {
    vec!["backfill".to_owned(), feed.name().to_owned()]
}

/// The control record's key of a feed's watermark.
#[must_use]
pub(crate) fn watermark_key(feed: Feed) -> Vec<String> {
    vec!["watermark".to_owned(), feed.name().to_owned()]
}

impl BackfillOrder {
    /// The order that stands for a feed, if one does that can be read.
    #[must_use]
    pub(crate) fn of(decisions: &Decisions, feed: Feed) -> Option<Self> {
        let written: WrittenBackfill =
            serde_json::from_value(decisions.get(&backfill_key(feed))?.clone()).ok()?;
        Some(Self {
            id: written.id,
            from: parse_instant(&written.from)?,
            to: parse_instant(&written.to)?,
            cancelled: written.cancelled,
        })
    }

    /// As it is written.
    #[must_use]
    pub(crate) fn value(&self) -> Value {
        serde_json::json!({ "id": self.id, "from": self.from.to_string(), "to": self.to.to_string(), "cancelled": self.cancelled })
    }
}

impl WatermarkOrder {
    /// The order that stands for a feed, if one does that can be read.
    #[must_use]
    pub(crate) fn of(decisions: &Decisions, feed: Feed) -> Option<Self> {
        let written: WrittenWatermark =
            serde_json::from_value(decisions.get(&watermark_key(feed))?.clone()).ok()?;
        Some(Self {
            id: written.id,
            watermark: parse_instant(&written.watermark)?,
            allow_skip: written.allow_skip,
        })
    }

    /// As it is written.
    #[must_use]
    pub(crate) fn value(&self) -> Value {
        serde_json::json!({ "id": self.id, "watermark": self.watermark.to_string(), "allow_skip": self.allow_skip })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_come_back_as_they_were_written_and_nonsense_is_none() {
        let feed = Feed::ReturnOutbounds;
        let backfill = BackfillOrder {
            id: "b".into(),
            from: Timestamp(1_000),
            to: Timestamp(9_000),
            cancelled: true,
        };
        let watermark =
            WatermarkOrder { id: "w".into(), watermark: Timestamp(5_000), allow_skip: true };
        let mut decisions = Decisions::new();
        decisions.insert(backfill_key(feed), backfill.value());
        decisions.insert(watermark_key(feed), watermark.value());
        assert_eq!(BackfillOrder::of(&decisions, feed), Some(backfill));
        assert_eq!(WatermarkOrder::of(&decisions, feed), Some(watermark));
        assert_eq!(BackfillOrder::of(&decisions, Feed::PurchaseReturns), None);
        decisions.insert(
            backfill_key(feed),
            serde_json::json!({ "id": "b", "from": "yesterday", "to": "now" }),
        );
        assert_eq!(BackfillOrder::of(&decisions, feed), None);
    }
}
