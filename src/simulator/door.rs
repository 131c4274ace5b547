//! Who is asking for what: account, version, timestamp and signature of both editions.

use super::{
    Account, Call,
    record::Edition,
    reply::{ENTERPRISE_KEY, ENTERPRISE_SID, ENTERPRISE_SIGNATURE, Refused, UNDOCUMENTED},
    sign::{self, Parameters},
    time::FLAGSHIP_EPOCH,
};

const FLAGSHIP_SKEW: u64 = 120;
const ENTERPRISE_SKEW: u64 = 300;

/// What came through the door.
#[derive(Debug)]
pub(super) enum Visitor {
    /// A known call with a good signature.
    Known(Call, Parameters),
    /// A known call that is refused.
    Refused(Call, Refused),
    /// No call of either edition: an HTTP status and a text.
    Stranger(u16, &'static str),
}

/// Judges one complete request by its address, query string and body. `now` is the ERP's clock.
pub(super) fn judge(
    account: &Account,
    method: &str,
    path: &str,
    query: &str,
    body: &[u8],
    now: i64,
) -> Visitor {
    if method != "POST" {
        return Visitor::Stranger(405, "only POST");
    }
    if path == "/openapi" {
        return flagship(account, query, body, now);
    }
    match path.strip_prefix("/openapi2/") {
        Some("stockout_order_query_return.php") => enterprise(account, body, now),
        Some(_) | None => Visitor::Stranger(404, "no such call"),
    }
}

fn flagship(account: &Account, query: &str, body: &[u8], now: i64) -> Visitor {
    let Some(parameters) = Parameters::read(query) else {
        return Visitor::Stranger(400, "the query string cannot be read");
    };
    let call = parameters
        .get("method")
        .and_then(|name| Call::ALL.into_iter().find(|call| call.method() == name));
    let Some(call) = call.filter(|call| call.edition() == Edition::Flagship) else {
        return Visitor::Stranger(200, "{\"status\":1,\"message\":\"method不存在\"}");
    };
    let is = |name: &str, value: &str| parameters.get(name) == Some(value);
    let signed_at =
        parameters.get("timestamp").and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
    let refused = if !is("sid", &account.flagship_sid) {
        Refused::new(1, "sid is not exists")
    } else if !is("key", &account.flagship_key) || !is("salt", &account.flagship_salt) {
        Refused::new(1, "app auth fail")
    } else if !is("v", "1.0") {
        Refused::new(8, "接口版本号错误")
    } else if signed_at.saturating_add(FLAGSHIP_EPOCH).abs_diff(now) > FLAGSHIP_SKEW {
        Refused::new(7, "timestamp与服务器时间相差超过120秒")
    } else if !is("sign", &sign::flagship(&parameters, body, &account.flagship_secret)) {
        Refused::new(1, "签名验证失败")
    } else {
        return Visitor::Known(call, parameters);
    };
    Visitor::Refused(call, refused)
}

/// Refusals with the codes of `docs/erp.md#answer-classification`.
fn enterprise(account: &Account, body: &[u8], now: i64) -> Visitor {
    let call = Call::EnterpriseOutbounds;
    let Some(parameters) = std::str::from_utf8(body).ok().and_then(Parameters::read) else {
        return Visitor::Refused(call, Refused::new(UNDOCUMENTED, "参数无法解析"));
    };
    let is = |name: &str, value: &str| parameters.get(name) == Some(value);
    let stamp = parameters
        .get("timestamp")
        .filter(|text| text.len() == 10)
        .and_then(|text| text.parse::<i64>().ok());
    let refused = if !is("sid", &account.enterprise_sid) {
        Refused::new(ENTERPRISE_SID, "sid is not exists")
    } else if !is("appkey", &account.enterprise_appkey) {
        Refused::new(ENTERPRISE_KEY, "app auth fail")
    } else if stamp.unwrap_or(0).abs_diff(now) > ENTERPRISE_SKEW {
        Refused::new(ENTERPRISE_SIGNATURE, "timestamp与服务器时间相差超过5分钟")
    } else if !is("sign", &sign::enterprise(&parameters, &account.enterprise_appsecret)) {
        Refused::new(ENTERPRISE_SIGNATURE, "签名验证失败")
    } else {
        return Visitor::Known(call, parameters);
    };
    Visitor::Refused(call, refused)
}
