//! The records of an answer, taken apart and not yet decoded: most are known already, and their
//! text is hashed and compared only.

use std::sync::Arc;

use bytes::Bytes;

use crate::config::Feed;

use super::{Call, record::Outline, repair::Repaired};

/// One record as the ERP sent it; a part of the answer, not a copy.
#[derive(Clone, Debug)]
pub struct RawRecord {
    /// `return_id` or `stockout_id`, where it can be read without decoding the rest.
    pub id: Option<Arc<str>>,
    /// Perhaps not JSON: a record with a broken byte is as it came.
    pub json: Bytes,
}

impl RawRecord {
    /// Identifies a record of `feed`.
    #[must_use]
    pub fn new(feed: Feed, json: Bytes) -> Self {
        Self::outlined(feed, json).0
    }

    /// The same, and how many lines it has.
    pub(super) fn outlined(feed: Feed, json: Bytes) -> (Self, usize) {
        let outline = Outline::of(feed, &json)
            .or_else(|| Outline::of(feed, &Repaired::of(&json)?.text))
            .unwrap_or_default();
        (Self { id: outline.id.map(|id| id.to_string().into()), json }, outline.lines)
    }
}

/// The feed whose records a query answers with.
pub(super) fn feed_of(call: Call) -> Feed {
    match call {
        Call::CreateOrder | Call::QueryPurchaseReturns => Feed::PurchaseReturns,
        Call::QueryOutbounds | Call::QueryOutboundsEnterprise => Feed::ReturnOutbounds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Edition, erp::record};

    #[test]
    fn ids_are_read_as_the_decoder_reads_them() {
        let read =
            |text: &[u8]| RawRecord::new(Feed::ReturnOutbounds, Bytes::copy_from_slice(text)).id;
        for (text, id) in [
            (r#"{"a":[1.5e900],"stockout_id":"9258"}"#, Some("9258")),
            (r#"{"stockout_id":9258,"order_no":"\ud800"}"#, Some("9258")),
            (r#"{"stockout_id":"007"}"#, Some("7")),
            (r#"{"stockout_id":"7.0000"}"#, Some("7")),
            (r#"{"stockout_id":1,"stockout_id":"2"}"#, Some("2")),
            (r#"{"stockout\u005fid":3}"#, Some("3")),
            (r#"{"details_list":[{"stockout_id":1}],"stockout_id":4}"#, Some("4")),
            (r#"{"return_id":1}"#, None),
            (r#"{"stockout_id":null}"#, None),
            (r#"{"stockout_id":""}"#, None),
            (r#"{"stockout_id":"CK1"}"#, None),
            (r#"{"stockout_id":[1]}"#, None),
            (r#"{"stockout_id":1"#, None),
            ("7", None),
        ] {
            assert_eq!(read(text.as_bytes()).as_deref(), id, "{text}");
            let decoded = record::decode(Feed::ReturnOutbounds, Edition::Flagship, text.as_bytes());
            let decoded = decoded.map_or_else(|misfit| misfit.id, |record| Some(record.id));
            assert_eq!(decoded.as_deref(), id, "{text}");
        }
        // Of what is no JSON the decoder reads nothing; where it goes is known all the same.
        assert_eq!(read(b"{\"remark\":\"\xe7\xa0\",\"stockout_id\":5}").as_deref(), Some("5"));
        assert_eq!(read(b"{\"re\xe7mark\":\"\n\",\"stockout_id\":5}").as_deref(), Some("5"));
        assert_eq!(read(b"{\"stockout_id\":\"5\xe7\xa0\"}"), None);
    }
}
