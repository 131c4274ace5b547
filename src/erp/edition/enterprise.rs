//! Enterprise (企业版): every parameter in a form-encoded body, one file per call under a base
//! address.

use std::{fmt, time::Duration};

use bytes::Bytes;
use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    clock::{Moment, Timestamp},
    config::EnterpriseSettings,
};

use super::{
    super::{
        Call, Page, PageRequest, QueryFault, Selection, answer::Judged, client::BuildFault,
        clock::ErpTime, http::Outgoing, sign,
    },
    Line, QUERY_CAP, Signed, no_filter, query_failure,
};

/// One enterprise account.
pub(in super::super) struct Enterprise {
    line: Line,
    endpoint: Url,
    sid: String,
    appkey: String,
    appsecret: SecretString,
}

impl fmt::Debug for Enterprise {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Enterprise").field("sid", &self.sid).finish_non_exhaustive()
    }
}

impl Enterprise {
    pub(in super::super) fn new(settings: &EnterpriseSettings) -> Result<Self, BuildFault> {
        let line = Line::new("enterprise", &settings.connection)?;
        let mut endpoint = line.address.clone();
        match endpoint.path_segments_mut() {
            Ok(mut segments) => {
                segments.pop_if_empty().push(Call::QueryOutboundsEnterprise.method())
            }
            Err(()) => {
                return Err(BuildFault("erp.enterprise.url cannot be a base address".to_owned()));
            }
        };
        Ok(Self {
            line,
            endpoint,
            sid: settings.sid.clone(),
            appkey: settings.appkey.clone(),
            appsecret: settings.appsecret.expose_secret().trim().into(),
        })
    }

    pub(in super::super) fn sid(&self) -> &str {
        &self.sid
    }

    pub(in super::super) fn clock(&self) -> ErpTime {
        self.line.clock.at(Moment::now())
    }

    /// One attempt at one page.
    pub(in super::super) async fn query(
        &self,
        selection: &Selection,
        page: PageRequest,
        most_lines: usize,
        timeout: Duration,
    ) -> Judged<Result<Page, QueryFault>> {
        let call = Call::QueryOutboundsEnterprise;
        if selection.provider_no.is_some() {
            return Judged::plain(Err(no_filter(call, "provider_no")));
        }
        let signed = self.signed(selection, page, Timestamp::now(), timeout);
        match self.line.exchange(signed).await {
            Ok(exchange) => self.line.page(&exchange, call, page, most_lines),
            Err(failure) => query_failure(call, failure),
        }
    }

    fn signed(
        &self,
        selection: &Selection,
        page: PageRequest,
        now: Timestamp,
        timeout: Duration,
    ) -> Signed {
        let window = selection.window.map(|(start, end)| (start.to_beijing(), end.to_beijing()));
        let (page_no, page_size, timestamp) =
            (page.page_no.to_string(), page.page_size.to_string(), now.seconds().to_string());
        // Sorted by name, as the signature wants them.
        let parameters: Vec<(&str, &str)> = [
            Some(("appkey", self.appkey.as_str())),
            window.as_ref().map(|(_, end)| ("end_time", end.as_str())),
            Some(("page_no", page_no.as_str())),
            Some(("page_size", page_size.as_str())),
            Some(("sid", self.sid.as_str())),
            selection.return_no.as_deref().map(|number| ("src_order_no", number)),
            window.as_ref().map(|(start, _)| ("start_time", start.as_str())),
            selection.status.as_deref().map(|status| ("status", status)),
            Some(("timestamp", timestamp.as_str())),
            selection.warehouse_no.as_deref().map(|warehouse_no| ("warehouse_no", warehouse_no)),
        ]
        .into_iter()
        .flatten()
        .collect();
        let signature = sign::enterprise(self.appsecret.expose_secret(), &parameters).hex();
        // Signed raw, sent percent-encoded.
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(parameters)
            .append_pair("sign", &signature)
            .finish();
        let outgoing = Outgoing {
            url: self.endpoint.clone(),
            content_type: "application/x-www-form-urlencoded",
            body: Bytes::from(body),
            guard: None,
            timeout,
            cap: QUERY_CAP,
        };
        Signed { outgoing, signature }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ErpConnection;

    fn account(url: &str, sid: &str, appkey: &str, secret: &str) -> Enterprise {
        let connection = ErpConnection {
            url: url.to_owned(),
            connect_timeout: Duration::from_secs(1),
            ca_file: None,
            proxy: None,
        };
        Enterprise::new(&EnterpriseSettings {
            connection,
            sid: sid.to_owned(),
            appkey: appkey.to_owned(),
            appsecret: secret.into(),
        })
        .unwrap()
    }

    #[test]
    fn the_request_is_signed_raw_and_sent_encoded() {
        let account = account("http://127.0.0.1:1/openapi2/", "apidevnew2", "demo-ot", "s3cr3t");
        let selection = Selection {
            window: Timestamp::from_beijing("2023-11-01 00:00:00")
                .zip(Timestamp::from_beijing("2023-11-15 06:13:20")),
            time_type: None,
            return_no: None,
            status: Some("55".to_owned()),
            warehouse_no: Some("华东一仓".to_owned()),
            provider_no: None,
        };
        let page = PageRequest { page_no: 0, page_size: 30, count: true };
        let signed =
            account.signed(&selection, page, Timestamp(1_700_000_000_000), Duration::from_secs(1));
        assert_eq!(signed.signature, "2a8d1a1f7774206a316216b8bd474b93");
        let body = String::from_utf8(signed.outgoing.body.to_vec()).unwrap();
        assert!(body.contains("end_time=2023-11-15+06%3A13%3A20"), "{body}");
        assert!(body.contains("warehouse_no=%E5%8D%8E%E4%B8%9C%E4%B8%80%E4%BB%93"), "{body}");
        assert!(body.ends_with("&sign=2a8d1a1f7774206a316216b8bd474b93"), "{body}");
    }

    #[test]
    fn the_file_stands_under_the_base_with_or_without_slash() {
        for base in ["http://127.0.0.1:1/openapi2", "http://127.0.0.1:1/openapi2/"] {
            assert_eq!(
                account(base, "s", "k", "x").endpoint.path(),
                "/openapi2/stockout_order_query_return.php"
            );
        }
    }
}
