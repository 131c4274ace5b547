//! Where each of the simulator's behaviours is known from: `simulate --sources` prints it. Nobody
//! outside the vendor has the whole picture, so a test against the simulator proves as much as its
//! source does.

use std::fmt;

/// How well something is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// A page of the vendor's about this very call.
    Page,
    /// Another page of the vendor's: signing, errors, sister calls.
    Vendor,
    /// Public code that talks to the ERP.
    Clients,
    /// Nobody says so; chosen so that the connector meets the harder case.
    Assumed,
    /// Code or text is made up: it only has to be none of the known ones.
    Invented,
}

impl Source {
    fn word(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Vendor => "vendor",
            Self::Clients => "clients",
            Self::Assumed => "assumed",
            Self::Invented => "invented",
        }
    }
}

use Source::{Assumed, Clients, Invented, Page, Vendor};

type Row = (&'static str, &'static str, Source);

/// What it is about, what the simulator does, and how well that is known. A refusal is named by its
/// code and the beginning of its text, as the code of the simulator writes it.
const ROWS: &[Row] = &[
    ("flagship", "signature over sorted parameters and body; v 1.0; timestamp since 2012", Vendor),
    ("flagship", "1 sid is not exists", Vendor),
    ("flagship", "1 app auth fail", Vendor),
    ("flagship", "1 签名验证失败", Vendor),
    ("flagship", "1 method不存在", Invented),
    ("flagship", "7 timestamp与服务器时间相差", Vendor),
    ("flagship", "8 接口版本号错误", Vendor),
    ("flagship", "3 需要二次验证", Vendor),
    ("flagship", "6 ip is not allowed", Vendor),
    ("flagship", "4 数据库错误", Vendor),
    ("flagship", "99 其他错误", Vendor),
    ("flagship", "100 权限不足", Vendor),
    ("flagship", "100 无仓库访问权限", Vendor),
    ("flagship", "100 无该仓库权限, code right.required", Vendor),
    ("flagship", "100 超过每分钟最大调用频率限制", Vendor),
    ("flagship", "100 超过每分钟最大并发次数限制", Vendor),
    (
        "flagship",
        "60 calls a minute per appkey and call; the 61st is refused without effect",
        Vendor,
    ),
    ("flagship", "an error without status", Page),
    ("flagship", "numbers are taken as JSON numbers and as strings", Clients),
    ("flagship", "1 For input string", Vendor),
    ("flagship", "1 {} must not be null", Vendor),
    ("flagship", "2 {}字段不存在: the code is the vendor's, the text is not", Invented),
    ("flagship", "1 {}参数类型错误", Invented),
    ("flagship", "1 参数不是合法的JSON数组", Invented),
    ("flagship", "1 参数个数不正确", Invented),
    ("flagship", "1 params参数类型错误", Invented),
    ("flagship", "1 orderInfo参数类型错误", Invented),
    ("flagship", "1 detailList参数类型错误", Invented),
    ("flagship", "1 calc_total参数类型错误", Invented),
    ("createOrder", "100 采购退货单不存在", Vendor),
    ("createOrder", "100 出库单对应的采购退换单状态错误: the return is not in state 40", Page),
    ("createOrder", "100 仓库编号为 {} 的仓库不存在", Vendor),
    ("createOrder", "100 仓库编号不可为空", Vendor),
    ("createOrder", "100 不存在物流编码为 {} 的物流公司或业务类型错误", Vendor),
    (
        "createOrder",
        "100 货品列表中货品不存在或者货品重复: the same SKU, position, batch and date",
        Vendor,
    ),
    ("createOrder", "100 批次 {} 不存在或已停用", Vendor),
    ("createOrder", "100 货品{}数量不合法", Vendor),
    ("createOrder", "100 {}不能为空", Vendor),
    ("createOrder", "100 detailList不能为空", Vendor),
    ("createOrder", "100 num不能为空", Vendor),
    ("createOrder", "100 Data truncation: Data too long for column", Vendor),
    ("createOrder", "100 创建模式不正确", Invented),
    ("createOrder", "characters beyond U+FFFF make the database's write fail (code 4)", Vendor),
    ("createOrder", "the same request twice makes two orders", Page),
    ("createOrder", "create_mode 0, 1, 2 makes an order in status 48, 50, 65", Assumed),
    ("createOrder", "data.status 20: the order exists, its approval failed", Vendor),
    ("createOrder", "the remark is kept as sent, unless a fault says otherwise", Assumed),
    ("createOrder", "order numbers are CH, the day and a number", Invented),
    ("createOrder", "an order is visible at once, unless visibility_ms says otherwise", Assumed),
    ("queries", "windows are closed, in whole seconds, at most 30 days", Page),
    ("queries", "100 参数中必须包含起止时间", Vendor),
    ("queries", "100 日期格式不合法", Vendor),
    ("queries", "100 您的查询时间过宽", Vendor),
    ("queries", "100 此方法仅支持分页查询", Vendor),
    ("queries", "100 状态应该是由逗号分隔开的整数数组", Vendor),
    ("queries", "100 模糊查询匹配到的单据数量大于1条", Page),
    ("queries", "100 time_type不正确", Invented),
    (
        "queries",
        "page_no from 0; total_count with calc_total 1 (flagship) or page 0 (enterprise)",
        Page,
    ),
    ("queries", "a return's number takes the place of the window", Page),
    ("queries", "no order of rows is promised (page_order, shuffle_equal)", Assumed),
    ("queries", "a cap on a page is silent (page_cap)", Clients),
    ("queries", "records of warehouses without permission are absent without a word", Page),
    ("queries", "such records are counted all the same (unpermitted_warehouses)", Assumed),
    ("queries", "operator_name is empty for orders made by API", Page),
    ("queries", "consign_time is absent until an order is shipped", Page),
    (
        "queries",
        "without status the flagship's outbound query shows every status (default_statuses)",
        Assumed,
    ),
    (
        "queries",
        "times as milliseconds and as text within one record; numbers as text at places",
        Page,
    ),
    (
        "enterprise",
        "signature over name and value lengths in characters; timestamp of 10 digits",
        Vendor,
    ),
    ("enterprise", "without status: shipped and completed orders, by shipping time", Page),
    ("enterprise", "status 95 and above by modified time (enterprise_window modified)", Page),
    ("enterprise", "the same by shipping time, from client V2.4.5.6 on (consign_time)", Page),
    ("enterprise", "pages of 1 to 30 rows", Page),
    ("enterprise", "1012: the quota", Vendor),
    ("enterprise", "1012 接口调用频率超过限制", Invented),
    ("enterprise", "1012 接口调用并发超过限制", Invented),
    ("enterprise", "2104 start_time与end_time时间跨度不能超过最大范围", Vendor),
    (
        "enterprise",
        "2030, 2060, 2100: account, appkey, signature or clock; which is which is not",
        Clients,
    ),
    ("enterprise", "2030 sid is not exists", Clients),
    ("enterprise", "2060 app auth fail", Clients),
    ("enterprise", "2100 签名验证失败", Clients),
    ("enterprise", "2100 timestamp与服务器时间相差", Clients),
    ("enterprise", "9999: stands for every code that nobody documents", Invented),
    ("enterprise", "9999 start_time和end_time不能为空", Invented),
    ("enterprise", "9999 start_time或end_time格式错误", Invented),
    ("enterprise", "9999 page_no不合法", Invented),
    ("enterprise", "9999 page_size输入值范围1~30", Invented),
    ("enterprise", "9999 状态参数格式不正确: the text is the vendor's, the code is not", Invented),
    ("enterprise", "9999 参数无法解析", Invented),
    (
        "both",
        "an HTTP 5xx, a page that is no JSON, a cut connection say nothing of the effect",
        Clients,
    ),
    ("both", "one connection serves one seller: not simulated", Clients),
];

/// The table, one row a line.
#[derive(Debug)]
pub(crate) struct Sources;

impl fmt::Display for Sources {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "page: the vendor's page of the call; vendor: another page of the vendor's; clients: public code;\n\
             assumed: nobody says so; invented: made up, and none of the known answers\n"
        )?;
        for (what, does, source) in ROWS {
            writeln!(out, "{:<9} {what:<12} {does}", source.word())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes and texts of `Refused::new(…)` in the simulator's own code.
    fn refusals() -> Vec<(String, String)> {
        const NAMES: [(&str, &str); 4] = [
            ("ENTERPRISE_SID", "2030"),
            ("ENTERPRISE_KEY", "2060"),
            ("ENTERPRISE_SIGNATURE", "2100"),
            ("UNDOCUMENTED", "9999"),
        ];
        let files = [
            include_str!("argument.rs"),
            include_str!("create.rs"),
            include_str!("door.rs"),
            include_str!("query.rs"),
            include_str!("reply.rs"),
        ];
        let code = |text: &str| {
            let named = NAMES.iter().find(|(name, _)| *name == text);
            named.map_or(text, |(_, code)| code).to_owned()
        };
        let mut found = Vec::new();
        for file in files {
            let code_only = file.split("#[cfg(test)]").next().unwrap_or_default();
            for (at, _) in code_only.match_indices("::new(") {
                let rest = &code_only[at + "::new(".len()..];
                let Some((first, rest)) = rest.split_once(',') else { continue };
                let Some((_, rest)) = rest.split_once('"') else { continue };
                let text: String = rest.split('"').next().unwrap_or_default().into();
                found.push((code(first.trim()), text));
            }
        }
        found.retain(|(code, _)| code.parse::<i64>().is_ok());
        found
    }

    /// The first piece of a text that is not put in, escapes and colons left out.
    fn begins(text: &str) -> &str {
        let text =
            text.strip_prefix('{').and_then(|rest| Some(rest.split_once('}')?.1)).unwrap_or(text);
        text.split(['{', '\\', ':', ',', '，']).next().unwrap_or_default()
    }

    #[test]
    fn every_refusal_of_the_simulator_names_its_source() {
        let found = refusals();
        assert!(found.len() > 25, "{found:?}");
        for (code, text) in found {
            let begin = begins(&text).trim();
            let known = ROWS.iter().any(|(_, does, _)| {
                let words = does.strip_prefix(&format!("{code} ")).map(begins);
                words.is_some_and(|words| begin.starts_with(words) || words.contains(begin))
            });
            assert!(known, "{code} {text} has no row");
        }
    }

    #[test]
    fn the_table_prints_each_row_once() {
        let text = Sources.to_string();
        for (_, does, source) in ROWS {
            let lines = text.lines().filter(|line| line.ends_with(does)).count();
            assert_eq!(lines, 1, "{does} ({})", source.word());
        }
    }
}
