//! Flagship (旗舰版): public parameters in the query string, the body a JSON array of positional
//! arguments.

use std::{fmt, time::Duration};

use bytes::Bytes;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

use crate::{
    clock::{Moment, Timestamp},
    config::FlagshipSettings,
};

use super::{
    super::{
        Answer, Call, NotExecuted, OrderLine, OrderRequest, Page, PageRequest, QueryFault,
        Selection, SharedGuard,
        answer::{self, Judged},
        client::BuildFault,
        clock::ErpTime,
        http::{Failure, Outgoing},
        sign,
    },
    CREATE_CAP, Line, QUERY_CAP, Signed, no_filter, query_failure,
};

/// Timestamps count from here: 2012-01-01 00:00:00 Beijing.
const EPOCH: i64 = 1_325_347_200;

/// One flagship account.
pub(in super::super) struct Flagship {
    line: Line,
    sid: String,
    key: String,
    secret: SecretString,
    salt: SecretString,
    rejected_texts: Vec<String>,
}

impl fmt::Debug for Flagship {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Flagship").field("sid", &self.sid).finish_non_exhaustive()
    }
}

impl Flagship {
    pub(in super::super) fn new(settings: &FlagshipSettings) -> Result<Self, BuildFault> {
        let (secret, salt) = sign::split_secret(settings.secret.expose_secret().trim())
            .ok_or_else(|| {
                BuildFault(
                    "the secret of [erp.flagship] is not of the form `secret:salt`".to_owned(),
                )
            })?;
        Ok(Self {
            line: Line::new("flagship", &settings.connection)?,
            sid: settings.sid.clone(),
            key: settings.key.clone(),
            secret: secret.into(),
            salt: salt.into(),
            rejected_texts: settings.rejected_texts.clone(),
        })
    }

    pub(in super::super) fn sid(&self) -> &str {
        &self.sid
    }

    pub(in super::super) fn clock(&self) -> ErpTime {
        self.line.clock.at(Moment::now())
    }

    /// One attempt. The caller has asked the guard once; the body asks it again.
    pub(in super::super) async fn create_order(
        &self,
        order: &OrderRequest,
        timeout: Duration,
        guard: SharedGuard,
    ) -> Judged<Answer> {
        let body = match order_body(order) {
            Ok(body) => body,
            Err(error) => {
                return Judged::plain(unreachable_order(format!(
                    "the order cannot be written as JSON: {error}"
                )));
            }
        };
        let signed = self.signed(
            Call::CreateOrder,
            body,
            None,
            Timestamp::now(),
            Some(guard),
            timeout,
            CREATE_CAP,
        );
        match self.line.exchange(signed).await {
            Ok(exchange) => {
                let judged =
                    answer::created(&exchange.reply, &exchange.context(&self.rejected_texts));
                let accepted = matches!(judged.outcome, Answer::Created { .. });
                self.line.learn(&exchange, &judged, accepted);
                judged
            }
            Err(Failure::Withheld) => Judged::plain(Answer::NotExecuted(NotExecuted::Withheld)),
            Err(Failure::Unreachable(reason)) => Judged::plain(unreachable_order(reason)),
            Err(Failure::Lost(reason) | Failure::TooLong(reason)) => {
                Judged::plain(Answer::Unknown { reason, refusal: None })
            }
        }
    }

    /// One attempt at one page.
    pub(in super::super) async fn query(
        &self,
        call: Call,
        selection: &Selection,
        page: PageRequest,
        most_lines: usize,
        timeout: Duration,
    ) -> Judged<Result<Page, QueryFault>> {
        let body = match query_body(call, selection) {
            Ok(body) => body,
            Err(fault) => return Judged::plain(Err(fault)),
        };
        let signed =
            self.signed(call, body, Some(page), Timestamp::now(), None, timeout, QUERY_CAP);
        match self.line.exchange(signed).await {
            Ok(exchange) => self.line.page(&exchange, call, page, most_lines),
            Err(failure) => query_failure(call, failure),
        }
    }

    /// Writes and signs a request that is not sent; its bytes.
    pub(in super::super) fn write_order(&self, order: &OrderRequest) -> serde_json::Result<usize> {
        let body = order_body(order)?;
        let Signed { outgoing, .. } = self.signed(
            Call::CreateOrder,
            body,
            None,
            Timestamp::now(),
            None,
            Duration::ZERO,
            CREATE_CAP,
        );
        Ok(outgoing.url.as_str().len() + outgoing.body.len())
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one request, put together in one place"
    )]
    fn signed(
        &self,
        call: Call,
        body: String,
        page: Option<PageRequest>,
        now: Timestamp,
        guard: Option<SharedGuard>,
        timeout: Duration,
        cap: usize,
    ) -> Signed {
        let timestamp = (now.seconds() - EPOCH).to_string();
        let paging = page.map(|page| {
            (
                page.page_no.to_string(),
                page.page_size.to_string(),
                if page.count { "1" } else { "0" },
            )
        });
        // Sorted by name, as the signature wants them; `body` is signed but travels as the body.
        let mut parameters: Vec<(&str, &str)> = Vec::with_capacity(10);
        parameters.push(("body", &body));
        if let Some((_, _, calc_total)) = &paging {
            parameters.push(("calc_total", calc_total));
        }
        parameters.push(("key", &self.key));
        parameters.push(("method", call.method()));
        if let Some((page_no, page_size, _)) = &paging {
            parameters.push(("page_no", page_no));
            parameters.push(("page_size", page_size));
        }
        parameters.push(("salt", self.salt.expose_secret()));
        parameters.push(("sid", &self.sid));
        parameters.push(("timestamp", &timestamp));
        parameters.push(("v", "1.0"));
        let signature = sign::flagship(self.secret.expose_secret(), &parameters).hex();
        let mut url = self.line.address.clone();
        url.query_pairs_mut()
            .extend_pairs(parameters.iter().skip(1))
            .append_pair("sign", &signature);
        let content_type = "application/json; charset=utf-8";
        Signed {
            outgoing: Outgoing { url, content_type, body: Bytes::from(body), guard, timeout, cap },
            signature,
        }
    }
}

fn unreachable_order(reason: String) -> Answer {
    Answer::NotExecuted(NotExecuted::Unreachable { reason })
}

#[derive(Serialize)]
struct OrderInfo<'a> {
    return_no: &'a str,
    warehouse_no: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    logistics_code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    create_mode: Option<i32>,
    #[serde(skip_serializing_if = "str::is_empty")]
    remark: &'a str,
}

#[derive(Serialize)]
struct Detail<'a> {
    spec_no: &'a str,
    /// A decimal string: no float on either side.
    num: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position_no: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_no: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expire_date: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    defect: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remark: Option<&'a str>,
}

impl<'a> Detail<'a> {
    fn of(line: &'a OrderLine) -> Self {
        let num = line.num.to_string();
        Self {
            spec_no: &line.spec_no,
            num: num.trim_end_matches('0').trim_end_matches('.').to_owned(),
            unit_name: line.unit_name.as_deref(),
            position_no: line.position_no.as_deref(),
            batch_no: line.batch_no.as_deref(),
            expire_date: line.expire_date.as_deref(),
            defect: line.defect,
            remark: line.remark.as_deref(),
        }
    }
}

/// `[orderInfo, detailList]`
fn order_body(order: &OrderRequest) -> serde_json::Result<String> {
    let info = OrderInfo {
        return_no: &order.return_no,
        warehouse_no: &order.warehouse_no,
        logistics_code: order.logistics_code.as_deref(),
        create_mode: order.create_mode,
        remark: &order.remark,
    };
    serde_json::to_string(&(info, order.details.iter().map(Detail::of).collect::<Vec<_>>()))
}

/// Both queries' parameters; absent ones are left out.
#[derive(Default, Serialize)]
struct Parameters<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_type: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    return_no: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_order_no: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warehouse_no: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_no: Option<&'a str>,
}

/// A number for purchase returns, a comma-separated list for outbound orders.
#[derive(Serialize)]
#[serde(untagged)]
enum Status<'a> {
    One(i64),
    List(&'a str),
}

/// `[params]`
fn query_body(call: Call, selection: &Selection) -> Result<String, QueryFault> {
    let window = selection.window.map(|(start, end)| (start.to_beijing(), end.to_beijing()));
    let (start_time, end_time) = window.unzip();
    let common = Parameters { start_time, end_time, ..Parameters::default() };
    let number = selection.return_no.as_deref();
    let warehouse_no = selection.warehouse_no.as_deref();
    let provider_no = selection.provider_no.as_deref();
    let parameters = match call {
        Call::QueryPurchaseReturns => {
            if warehouse_no.is_some() {
                return Err(no_filter(call, "warehouse_no"));
            }
            let status = selection.status.as_deref().map(|status| match status.trim().parse() {
                Ok(number) => Status::One(number),
                Err(_) => Status::List(status),
            });
            Parameters { return_no: number, status, provider_no, ..common }
        }
        Call::QueryOutbounds => {
            if provider_no.is_some() {
                return Err(no_filter(call, "provider_no"));
            }
            let status = selection.status.as_deref().map(Status::List);
            Parameters {
                time_type: selection.time_type,
                src_order_no: number,
                status,
                warehouse_no,
                ..common
            }
        }
        Call::CreateOrder | Call::QueryOutboundsEnterprise => {
            let reason = format!("{} is no query of the flagship edition", call.method());
            return Err(QueryFault::Unusable { call, reason });
        }
    };
    serde_json::to_string(&[parameters]).map_err(|error| QueryFault::Unusable {
        call,
        reason: format!("the query cannot be written as JSON: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::ErpConnection, decimal::Decimal};

    fn account(secret: &str) -> Result<Flagship, BuildFault> {
        let url = "http://127.0.0.1:1/openapi".to_owned();
        let connection = ErpConnection {
            url,
            connect_timeout: Duration::from_secs(1),
            ca_file: None,
            proxy: None,
        };
        Flagship::new(&FlagshipSettings {
            connection,
            sid: "wdtapi3".to_owned(),
            key: "demo-ot".to_owned(),
            secret: secret.into(),
            rejected_texts: Vec::new(),
        })
    }

    fn line(num: &str) -> OrderLine {
        OrderLine {
            spec_no: "daba1".to_owned(),
            num: Decimal::parse(num).unwrap(),
            unit_name: None,
            position_no: None,
            batch_no: None,
            expire_date: None,
            defect: None,
            remark: None,
        }
    }

    fn order(remark: &str, details: Vec<OrderLine>) -> OrderRequest {
        OrderRequest {
            return_no: "1001".to_owned(),
            warehouse_no: "1001".to_owned(),
            logistics_code: None,
            create_mode: Some(0),
            remark: remark.to_owned(),
            details,
        }
    }

    #[test]
    fn the_order_is_written_as_in_the_sample() {
        let sample: serde_json::Value =
            serde_json::from_str(include_str!("../testdata/flagship-create-outbound-request.json"))
                .unwrap();
        let body = order_body(&order("", vec![line("1")])).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&body).unwrap(), sample);
        assert_eq!(
            body,
            r#"[{"return_no":"1001","warehouse_no":"1001","create_mode":0},[{"spec_no":"daba1","num":"1"}]]"#
        );
    }

    #[test]
    fn every_field_of_an_order_is_sent_and_numbers_stay_exact() {
        let full = OrderLine {
            unit_name: Some("箱".to_owned()),
            position_no: Some("p".to_owned()),
            batch_no: Some("b".to_owned()),
            expire_date: Some("2027-01-01".to_owned()),
            defect: Some(true),
            remark: Some("破损 \"外箱\"".to_owned()),
            ..line("999999999999999.9999")
        };
        let mut order = order("#ABCDEFGHIJKLM note", vec![full, line("100"), line("0.0500")]);
        order.logistics_code = Some("SF".to_owned());
        let body = order_body(&order).unwrap();
        assert!(body.starts_with(
            r##"[{"return_no":"1001","warehouse_no":"1001","logistics_code":"SF","create_mode":0,"remark":"#ABCDEFGHIJKLM note"},[{"##
        ));
        assert!(body.contains(
            r#"{"spec_no":"daba1","num":"999999999999999.9999","unit_name":"箱","position_no":"p","batch_no":"b","expire_date":"2027-01-01","defect":true,"remark":"破损 \"外箱\""}"#
        ));
        assert!(body.contains(r#""num":"100""#) && body.contains(r#""num":"0.05""#), "{body}");
    }

    #[test]
    fn the_request_is_signed_and_sent_as_in_the_vectors() {
        let account = account("se:a:b").unwrap();
        let body = r#"[{"start_time":"2020-01-01 00:00:00","end_time":"2020-01-20 00:00:00"}]"#;
        let selection = Selection {
            window: Timestamp::from_beijing("2020-01-01 00:00:00")
                .zip(Timestamp::from_beijing("2020-01-20 00:00:00")),
            time_type: Some(3),
            return_no: None,
            status: None,
            warehouse_no: None,
            provider_no: None,
        };
        assert_eq!(query_body(Call::QueryPurchaseReturns, &selection).unwrap(), body);
        let page = PageRequest { page_no: 0, page_size: 100, count: true };
        let now = Timestamp((374_652_800 + EPOCH) * 1000);
        let signed = account.signed(
            Call::QueryPurchaseReturns,
            body.to_owned(),
            Some(page),
            now,
            None,
            Duration::from_secs(1),
            1,
        );
        assert_eq!(signed.signature, "8f10780a2eeb8efb2415bf57cc84ea6b");
        assert_eq!(signed.outgoing.body, body.as_bytes());
        let query: Vec<(String, String)> = signed.outgoing.url.query_pairs().into_owned().collect();
        let expected = [
            ("calc_total", "1"),
            ("key", "demo-ot"),
            ("method", "purchase.PurchaseReturn.queryWithDetail"),
            ("page_no", "0"),
            ("page_size", "100"),
            ("salt", "a:b"),
            ("sid", "wdtapi3"),
            ("timestamp", "374652800"),
            ("v", "1.0"),
            ("sign", "8f10780a2eeb8efb2415bf57cc84ea6b"),
        ];
        assert_eq!(query, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn queries_send_only_what_their_page_documents() {
        let selection = Selection {
            window: None,
            time_type: Some(3),
            return_no: Some("CR1".to_owned()),
            status: Some("40".to_owned()),
            warehouse_no: None,
            provider_no: Some("P".to_owned()),
        };
        assert_eq!(
            query_body(Call::QueryPurchaseReturns, &selection).unwrap(),
            r#"[{"return_no":"CR1","status":40,"provider_no":"P"}]"#
        );
        assert!(matches!(
            query_body(Call::QueryOutbounds, &selection),
            Err(QueryFault::Rejected { .. })
        ));
        let selection = Selection {
            provider_no: None,
            warehouse_no: Some("W".to_owned()),
            status: Some("5,48".to_owned()),
            ..selection
        };
        assert_eq!(
            query_body(Call::QueryOutbounds, &selection).unwrap(),
            r#"[{"time_type":3,"src_order_no":"CR1","status":"5,48","warehouse_no":"W"}]"#
        );
        assert!(matches!(
            query_body(Call::QueryPurchaseReturns, &selection),
            Err(QueryFault::Rejected { .. })
        ));
    }

    #[test]
    fn a_secret_without_salt_is_refused_without_showing_it() {
        let fault = account("topsecret").unwrap_err().to_string();
        assert!(fault.contains("secret:salt") && !fault.contains("topsecret"), "{fault}");
    }
}
