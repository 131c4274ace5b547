//! What a lookup reads of an outbound order.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::clock::Timestamp;

use super::value::{self, Reading, Retyped, optional};

/// Every status of the flagship's outbound query (`docs/erp.md#queries`).
pub(crate) const OUTBOUND_STATUSES: &str = "5,48,50,65,77,110";

/// What a lookup needs of an outbound order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutboundHead {
    pub stockout_id: String,
    pub order_no: String,
    pub src_order_no: Option<String>,
    pub warehouse_no: Option<String>,
    pub remark: String,
    /// Absent in the enterprise edition.
    pub create_time: Option<Timestamp>,
    pub status: Option<i64>,
}

/// The same fields as the ERP sends them; all others are left alone.
#[derive(Deserialize)]
struct Sent<'a> {
    #[serde(borrow, default)]
    stockout_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    order_no: Option<&'a RawValue>,
    #[serde(borrow, default)]
    src_order_no: Option<&'a RawValue>,
    #[serde(borrow, default)]
    warehouse_no: Option<&'a RawValue>,
    #[serde(borrow, default)]
    remark: Option<&'a RawValue>,
    #[serde(borrow, default)]
    create_time: Option<&'a RawValue>,
    #[serde(borrow, default)]
    status: Option<&'a RawValue>,
}

impl OutboundHead {
    /// Reads the head of an outbound order's JSON, either edition's.
    ///
    /// # Errors
    /// The field that does not fit, in one sentence; its value is not quoted.
    pub(crate) fn read(json: &[u8]) -> Result<Self, String> {
        // All of it: a broken byte in the name of a field would hide that field.
        let json = std::str::from_utf8(json)
            .map_err(|_| "an outbound order has broken UTF-8".to_owned())?;
        let sent: Sent<'_> = serde_json::from_str(json)
            .map_err(|_| "an outbound order is not a JSON object".to_owned())?;
        let filled =
            |field, value| Ok::<_, String>(text(field, value)?.filter(|text| !text.is_empty()));
        let stockout_id = read("stockout_id", sent.stockout_id, value::long, "is not an integer")?;
        Ok(Self {
            stockout_id: required("stockout_id", stockout_id)?.to_string(),
            order_no: required("order_no", filled("order_no", sent.order_no)?)?,
            src_order_no: filled("src_order_no", sent.src_order_no)?,
            warehouse_no: filled("warehouse_no", sent.warehouse_no)?,
            remark: text("remark", sent.remark)?.unwrap_or_default(),
            create_time: read("create_time", sent.create_time, value::instant, value::NO_INSTANT)?,
            status: read("status", sent.status, value::long, "is not an integer")?,
        })
    }
}

/// A field by the reader that the feeds use; what they pass over as retyped is a fault here, since
/// an absence or an order is concluded from it.
fn read<'a, T>(
    field: &str,
    json: Option<&'a RawValue>,
    reader: impl FnOnce(&'a RawValue) -> Reading<T>,
    complaint: &str,
) -> Result<Option<T>, String> {
    optional(json, reader).map_err(|Retyped| fault(field, complaint))
}

fn text(field: &str, json: Option<&RawValue>) -> Result<Option<String>, String> {
    let text = read(field, json, value::text, "is neither a text nor a number")?;
    Ok(text.map(Cow::into_owned))
}

fn required<T>(field: &str, value: Option<T>) -> Result<T, String> {
    value.ok_or_else(|| fault(field, "is missing"))
}

fn fault(field: &str, reason: &str) -> String {
    format!("{field} of an outbound order {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<OutboundHead, String> {
        OutboundHead::read(json.as_bytes())
    }

    fn row(sample: &str, path: &str) -> String {
        serde_json::from_str::<serde_json::Value>(sample)
            .unwrap()
            .pointer(path)
            .unwrap()
            .to_string()
    }

    #[test]
    fn both_samples_are_read() {
        let flagship =
            read(&row(include_str!("testdata/flagship-outbound-query.json"), "/data/order/0"))
                .unwrap();
        assert_eq!(
            flagship,
            OutboundHead {
                stockout_id: "1635205".to_owned(),
                order_no: "CH2023020752".to_owned(),
                src_order_no: Some("CT2302070001".to_owned()),
                warehouse_no: Some("234234234".to_owned()),
                remark: String::new(),
                create_time: Some(Timestamp(1_675_751_003_000)),
                status: Some(110),
            }
        );
        let enterprise =
            read(&row(include_str!("testdata/enterprise-outbound-query.json"), "/stockout_list/0"))
                .unwrap();
        assert_eq!(
            (enterprise.stockout_id.as_str(), enterprise.status, enterprise.create_time),
            ("9258", Some(110), None)
        );
        assert_eq!(enterprise.remark, "[接口创建出库单]");
    }

    #[test]
    fn times_and_ids_come_in_any_form() {
        let head = read(r#"{"stockout_id":"7","order_no":8,"create_time":"2023-02-07 14:23:23","remark":null,"status":"50"}"#).unwrap();
        assert_eq!((head.stockout_id.as_str(), head.order_no.as_str()), ("7", "8"));
        assert_eq!(
            (head.create_time, head.status, head.remark.as_str()),
            (Some(Timestamp(1_675_751_003_000)), Some(50), "")
        );
    }

    #[test]
    fn an_id_is_the_feeds_id_and_no_instant_is_none() {
        for (id, wanted) in [(r#""007""#, "7"), ("7", "7"), (r#""7.0000""#, "7")] {
            let head = read(&format!(r#"{{"stockout_id":{id},"order_no":"x","create_time":0}}"#));
            let head = head.unwrap();
            assert_eq!((head.stockout_id.as_str(), head.create_time), (wanted, None), "{id}");
        }
        for time in ["1675751003", r#""2023-02-07""#] {
            // Seconds, a day: taken for an instant they would say when an order was made.
            let head = read(&format!(r#"{{"stockout_id":1,"order_no":"x","create_time":{time}}}"#));
            assert!(head.unwrap_err().contains("create_time"), "{time}");
        }
        let head = read(r#"{"stockout_id":1,"order_no":"x","create_time":"2023-02-07T06:23:23Z"}"#);
        assert_eq!(head.unwrap().create_time, Some(Timestamp(1_675_751_003_000)));
    }

    #[test]
    fn what_does_not_fit_is_named_without_its_value() {
        assert_eq!(
            read(r#"{"order_no":"x"}"#),
            Err("stockout_id of an outbound order is missing".to_owned())
        );
        let fault =
            read(r#"{"stockout_id":1,"order_no":"x","create_time":"tomorrow"}"#).unwrap_err();
        assert!(
            fault.starts_with("create_time of an outbound order ") && !fault.contains("tomorrow"),
            "{fault}"
        );
        assert!(
            read(r#"{"stockout_id":1,"order_no":"x","remark":[]}"#).unwrap_err().contains("remark")
        );
        assert!(read("[]").is_err());
        for broken in [
            &b"{\"stockout_id\":1,\"order_no\":\"x\",\"rem\xe7ark\":\"#marker\"}"[..],
            b"{\"stockout_id\":1,\"order_no\":\"x\",\"consignee\":\"\xe7\xa0\"}",
        ] {
            assert!(OutboundHead::read(broken).is_err(), "{}", broken.escape_ascii());
        }
    }
}
