//! The ERP's no, in both editions' forms.

use super::{Call, mischief::Refusal, record::Edition, render::quote};

/// The outer code and text of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub code: i64,
    pub text: String,
}

impl Refused {
    pub(super) fn new(code: i64, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// The answer's body.
    pub(super) fn body(&self, edition: Edition) -> String {
        let code_name = match edition {
            Edition::Flagship => "status",
            Edition::Enterprise => "code",
        };
        let mut out = format!("{{\"{code_name}\":{},\"message\":", self.code);
        quote(&mut out, &self.text);
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

/// The body of a scripted refusal.
///
/// The enterprise edition's codes other than 1012 and 2104 are not documented; these are made up
/// and mean "any other".
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
        Refusal::Sid => by_edition(1, 1001, "sid is not exists"),
        Refusal::Signature => by_edition(1, 1003, "签名验证失败"),
        Refusal::Permission => by_edition(100, 1010, "权限不足"),
        Refusal::WarehouseAccess => by_edition(100, 1011, "无仓库访问权限"),
        Refusal::Ip => by_edition(6, 1006, "ip is not allowed"),
        Refusal::Clock => by_edition(7, 1007, "timestamp与服务器时间相差过大"),
        Refusal::Version => by_edition(8, 1008, "接口版本号错误"),
        Refusal::SecondFactor => by_edition(3, 1005, "需要二次验证"),
        Refusal::Database => by_edition(4, 1, "数据库错误"),
        Refusal::Other => by_edition(99, 99, "其他错误"),
        Refusal::NoStatus => "{\"message\":\"系统繁忙\"}".to_owned(),
    }
}
