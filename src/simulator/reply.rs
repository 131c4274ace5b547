//! The ERP's no, in both editions' forms.

use super::{Call, mischief::Refusal, record::Edition, render::quote};

/// The outer code and text of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub code: i64,
    pub text: String,
    /// The flagship's `code` beside `status`, where an answer has one.
    pub word: Option<&'static str>,
}

impl Refused {
    pub(super) fn new(code: i64, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), word: None }
    }

    /// The appkey has no right to this warehouse.
    pub(super) fn right_required() -> Self {
        Self { word: Some("right.required"), ..Self::new(100, "无该仓库权限") }
    }

    /// The answer's body.
    pub(super) fn body(&self, edition: Edition) -> String {
        let code_name = match edition {
            Edition::Flagship => "status",
            Edition::Enterprise => "code",
        };
        let mut out = format!("{{\"{code_name}\":{},\"message\":", self.code);
        quote(&mut out, &self.text);
        if let Some(word) = self.word {
            out.push_str(&format!(",\"code\":\"{word}\""));
        }
        out.push('}');
        out
    }

    pub(super) fn frequency(edition: Edition) -> Self {
        match edition {
            Edition::Flagship => Self::new(100, "超过每分钟最大调用频率限制,请稍后重试"),
            Edition::Enterprise => Self::new(1012, "接口调用频率超过限制,请稍后重试"),
        }
    }

    pub(super) fn concurrency(edition: Edition) -> Self {
        match edition {
            Edition::Flagship => Self::new(100, "超过每分钟最大并发次数限制，请稍后重试"),
            Edition::Enterprise => Self::new(1012, "接口调用并发超过限制,请稍后重试"),
        }
    }
}

/// The body of an answer to `createOrder` whose outer status is 0.
pub(super) fn data(status: i64, message: &str) -> String {
    let mut out = "{\"status\":0,\"data\":{\"message\":".to_owned();
    quote(&mut out, message);
    out.push_str(&format!(",\"status\":{status}}}}}"));
    out
}

/// Enterprise codes for a wrong account, key and signature (or clock). Integrators' code knows the
/// three; which of them stands for what is not documented.
pub(super) const ENTERPRISE_SID: i64 = 2030;
pub(super) const ENTERPRISE_KEY: i64 = 2060;
pub(super) const ENTERPRISE_SIGNATURE: i64 = 2100;
/// Stands for the enterprise codes that nobody documents.
pub(super) const UNDOCUMENTED: i64 = 9999;

/// The body of a scripted refusal.
pub(super) fn scripted(refusal: Refusal, call: Call) -> String {
    let edition = call.edition();
    let by_edition = |flagship: i64, enterprise: i64, text: &str| {
        let code = match edition {
            Edition::Flagship => flagship,
            Edition::Enterprise => enterprise,
        };
        Refused::new(code, text).body(edition)
    };
    match refusal {
        Refusal::Throttle => Refused::frequency(edition).body(edition),
        Refusal::Concurrency => Refused::concurrency(edition).body(edition),
        Refusal::Outer(code, text) => Refused::new(code, text).body(edition),
        Refusal::Inner(status, text) => data(status, &text),
        Refusal::Sid => by_edition(1, ENTERPRISE_SID, "sid is not exists"),
        Refusal::Signature => by_edition(1, ENTERPRISE_SIGNATURE, "签名验证失败"),
        Refusal::Permission => by_edition(100, UNDOCUMENTED, "权限不足"),
        Refusal::WarehouseAccess => by_edition(100, UNDOCUMENTED, "无仓库访问权限"),
        Refusal::Ip => by_edition(6, UNDOCUMENTED, "ip is not allowed"),
        Refusal::Clock => by_edition(7, ENTERPRISE_SIGNATURE, "timestamp与服务器时间相差过大"),
        Refusal::Version => by_edition(8, UNDOCUMENTED, "接口版本号错误"),
        Refusal::SecondFactor => by_edition(3, UNDOCUMENTED, "需要二次验证"),
        Refusal::Database => by_edition(4, UNDOCUMENTED, "数据库错误"),
        Refusal::Other => by_edition(99, UNDOCUMENTED, "其他错误"),
        Refusal::NoStatus => "{\"message\":\"系统繁忙\"}".to_owned(),
    }
}
