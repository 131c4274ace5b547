//! The tables of `docs/erp.md#answer-classification`: codes and texts to a [`Row`], and every row's
//! meaning as one exhaustive match, [`judge`].

use crate::{
    erp::{Layer, quota::Limit},
    explanation::Explanation,
};

/// The rows of the table of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    FrequencyQuota,
    ConcurrencyQuota,
    Account,
    Arguments,
    SecondFactor,
    AddressNotAllowed,
    Version,
    Clock,
    Database,
    Other,
    Permission,
    WarehouseAccess,
    NoSuchReturn,
    ReturnNotApproved,
    NoSuchWarehouse,
    NoSuchDocument,
    Carrier,
    OutsourcedWarehouse,
    Goods,
    BatchStopped,
    BatchRequired,
    Quantity,
    FieldMissing,
    FieldTooLong,
    WindowMissing,
    WindowTooWide,
    PagingMissing,
    UnknownField,
    /// Statuses or dates of a query that cannot be read.
    QueryParameter,
    /// Of the enterprise edition: codes whose exact meaning nobody documents, and the texts.
    EnterpriseAccount,
    EnterpriseWarehouse,
    /// A success whose message is no order number.
    NoNumber,
    /// The order exists; its approval or its push to the warehouse failed.
    CreatedNotApproved,
    /// A text of `erp.flagship.rejected_texts`.
    OperatorListed,
    /// A code or text the table does not hold.
    Unseen,
}

/// What a row means for the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Throttled(Limit),
    Misconfigured,
    Rejected,
    /// Rejected, and the same command may succeed once somebody has approved the return.
    Unapproved,
    /// May have been executed.
    Ambiguous,
    /// Says itself that an order was made.
    ProbablyCreated,
    /// It stands where it stands: see [`Layer`].
    Unseen,
}

/// The table: every row's meaning and its explanation.
pub(super) fn judge(row: Row) -> (Meaning, Option<Explanation>) {
    use Meaning::{
        Ambiguous, Misconfigured, ProbablyCreated, Rejected, Throttled, Unapproved, Unseen,
    };
    let (meaning, en, zh) = match row {
        Row::FrequencyQuota => (
            Throttled(Limit::Frequency),
            "more calls a minute than the ERP allows",
            "每分钟调用次数超过旺店通的限制",
        ),
        Row::ConcurrencyQuota => (
            Throttled(Limit::Concurrency),
            "more calls at once than the ERP allows",
            "并发调用数超过旺店通的限制",
        ),
        Row::Account => (
            Misconfigured,
            "wrong account or signature: check sid, key and secret",
            "账号或签名错误：请检查 sid、key 和 secret",
        ),
        Row::Arguments => (
            Rejected,
            "the call's arguments have the wrong number or type",
            "接口参数的个数或类型不正确",
        ),
        Row::SecondFactor => (
            Misconfigured,
            "a second factor is switched on for this account: it must be off for the API",
            "该账号开启了二次验证：调用接口的账号必须关闭",
        ),
        Row::AddressNotAllowed => (
            Misconfigured,
            "this machine's IP address is not allowed: add it to the ERP's list",
            "本机 IP 不在白名单内：请在旺店通中添加",
        ),
        Row::Version => (
            Misconfigured,
            "the ERP does not accept this version of the API",
            "旺店通不支持该接口版本",
        ),
        Row::Clock => (
            Misconfigured,
            "this machine's clock differs from the ERP's by more than 120 s: set the clock",
            "本机时间与旺店通相差超过 120 秒：请校准本机时间",
        ),
        Row::Database => (Ambiguous, "the ERP's database failed", "旺店通的数据库出错"),
        Row::Other => (Ambiguous, "something failed inside the ERP", "旺店通内部出错"),
        Row::Permission => (
            Misconfigured,
            "the appkey lacks the permission for this call: grant it in the ERP",
            "appkey 没有该接口的权限：请在旺店通中授权",
        ),
        Row::WarehouseAccess => (Rejected, "no access to this warehouse", "没有该仓库的访问权限"),
        Row::NoSuchReturn => (Rejected, "there is no such purchase return", "采购退货单不存在"),
        Row::ReturnNotApproved => (
            Unapproved,
            "the purchase return is not approved (state 40)",
            "采购退货单不是“已审核”状态（40）",
        ),
        Row::NoSuchWarehouse => (Rejected, "there is no such warehouse", "仓库不存在"),
        Row::NoSuchDocument => (Rejected, "there is no such document", "单据不存在"),
        Row::Carrier => (
            Rejected,
            "there is no such carrier, or it does not serve this kind of order",
            "物流公司不存在或业务类型错误",
        ),
        Row::OutsourcedWarehouse => (
            Rejected,
            "the warehouse is an outsourced one: the provider's consignee and address must be complete",
            "出库仓库为外部仓库：收货人和地址必须填写完整",
        ),
        Row::Goods => {
            (Rejected, "a SKU of the lines is unknown or repeated", "明细中有货品不存在或重复")
        }
        Row::BatchStopped => {
            (Rejected, "the batch does not exist or is stopped", "批次不存在或已停用")
        }
        Row::BatchRequired => {
            (Rejected, "batch and expiry date are required", "必须填写批次和有效期")
        }
        Row::Quantity => (
            Rejected,
            "a quantity is not valid, or decimals are not enabled for the account",
            "数量不合法，或账号未开启小数",
        ),
        Row::FieldMissing => (Rejected, "a required field is empty", "必填字段为空"),
        Row::FieldTooLong => (Rejected, "a field is too long", "字段内容超长"),
        Row::WindowMissing => {
            (Rejected, "the query lacks its start and end time", "查询缺少起止时间")
        }
        Row::WindowTooWide => {
            (Rejected, "the query's window is wider than 30 days", "查询的时间跨度超过 30 天")
        }
        Row::PagingMissing => {
            (Rejected, "the query lacks its paging parameters", "查询缺少分页参数")
        }
        Row::UnknownField => (Rejected, "a field is unknown or not valid", "字段未知或无效"),
        Row::QueryParameter => (
            Rejected,
            "a status or a date of the query cannot be read",
            "查询的状态或日期格式不正确",
        ),
        Row::EnterpriseAccount => (
            Misconfigured,
            "wrong account, signature, clock or permission: check sid, appkey and appsecret, this machine's clock (at most 5 min off) and the appkey's permissions",
            "账号、签名、时间或权限错误：请检查 sid、appkey、appsecret、本机时间（误差不超过 5 分钟）和 appkey 的权限",
        ),
        Row::EnterpriseWarehouse => (
            Misconfigured,
            "the appkey has no access to the warehouse: grant it in the ERP",
            "appkey 没有仓库访问权限：请在旺店通中授权",
        ),
        Row::NoNumber => (
            Ambiguous,
            "the ERP reported success without an order number",
            "旺店通返回成功，但没有给出出库单号",
        ),
        Row::CreatedNotApproved => (
            ProbablyCreated,
            "the ERP says that it made the order; approving it or passing it on failed",
            "旺店通表示单据已创建，但审核或推送失败",
        ),
        Row::OperatorListed => (
            Rejected,
            "a rejection by the operator's list erp.flagship.rejected_texts",
            "运维人员在 erp.flagship.rejected_texts 中列为拒绝的文本",
        ),
        Row::Unseen => return (Unseen, None),
    };
    (meaning, Some(Explanation::new(en, zh)))
}

/// Texts of code 100, in the order they are tried: a row matches when all its pieces occur one
/// after the other. Rows that quote the caller's own values come first, so that no value (a
/// warehouse named like another row) decides the class.
const TEXTS: &[(Row, &[&str])] = &[
    (Row::NoSuchWarehouse, &["仓库编号为", "的仓库不存在"]),
    (Row::Carrier, &["不存在物流编码为", "的物流公司或业务类型错误"]),
    (Row::NoSuchReturn, &["采购退货单号为", "的单据不存在"]),
    (Row::BatchStopped, &["批次", "不存在或已停用"]),
    (Row::Goods, &["货品列表中货品不存在或者货品重复"]),
    (Row::Goods, &["货品列表中有相同商家编码"]),
    (Row::Goods, &["货品", "重复"]),
    (Row::FrequencyQuota, &["超过每分钟最大调用频率限制"]),
    (Row::ConcurrencyQuota, &["超过每分钟最大并发次数限制"]),
    (Row::Permission, &["权限不足"]),
    (Row::WarehouseAccess, &["无仓库访问权限"]),
    (Row::WarehouseAccess, &["无该仓库权限"]),
    (Row::NoSuchReturn, &["采购退货单不存在"]),
    (Row::NoSuchReturn, &["采购退货单号不存在"]),
    (Row::ReturnNotApproved, &["出库单对应的采购退换单状态错误"]),
    (Row::BatchRequired, &["非销售出、入库单批次、有效期必传"]),
    (Row::Quantity, &["数量不合法"]),
    (Row::FieldMissing, &["不能为空"]),
    (Row::FieldMissing, &["不可为空"]),
    (Row::FieldMissing, &["must not be null"]),
    (Row::Carrier, &["物流公司不存在或类型错误"]),
    (Row::OutsourcedWarehouse, &["出库仓库为外部仓库", "填写完整"]),
    (Row::Goods, &["商家编码不存在"]),
    (Row::Goods, &["商家编码全不存在"]),
    (Row::Goods, &["单品", "不存在"]),
    (Row::NoSuchWarehouse, &["仓库不存在"]),
    (Row::NoSuchDocument, &["单据不存在"]),
    (Row::NoSuchDocument, &["未找到对应的单据信息"]),
    (Row::FieldTooLong, &["Data truncation: Data too long for column"]),
    (Row::WindowMissing, &["参数中必须包含起止时间"]),
    (Row::WindowTooWide, &["您的查询时间过宽"]),
    (Row::WindowTooWide, &["查询时间不能大于30天"]),
    (Row::WindowTooWide, &["您的查询条件太过宽"]),
    (Row::PagingMissing, &["此方法仅支持分页查询"]),
    (Row::QueryParameter, &["状态应该是由逗号分隔开的整数数组"]),
    (Row::QueryParameter, &["状态参数格式不正确"]),
    (Row::QueryParameter, &["日期格式不合法"]),
    (Row::Database, &["数据库错误"]),
    (Row::Other, &["其他错误"]),
];

/// Texts of code 1.
const ACCOUNT_TEXTS: &[&str] = &["sid is not", "验证失败", "app auth fail"];
const ARGUMENT_TEXTS: &[&str] =
    &["argument", "parameter", "must not be null", "for input string", "参数"];

/// Texts of the enterprise edition about the account, in lower case (public integrators' code).
const ENTERPRISE_ACCOUNT_TEXTS: &[&str] =
    &["签名", "sid is not", "appkey", "验证失败", "app auth fail"];

/// Texts by which the ERP says that the document exists, whatever failed after that (sister calls'
/// pages of the ERP document; `docs/erp.md#answer-classification`).
const CREATED_TEXTS: &[&str] = &["成功", "check_fail", "已创建"];
/// `data.status` of a document that was created and not approved or not pushed to the warehouse.
const CREATED_NOT_APPROVED: i64 = 20;

/// Whether the ERP says itself that an order was made. `data.status` 20 says so in the inner layer
/// only.
pub(super) fn says_created(layer: Layer, code: Option<i64>, text: &str) -> bool {
    (layer == Layer::Data && code == Some(CREATED_NOT_APPROVED))
        || CREATED_TEXTS.iter().any(|part| text.contains(part))
}

fn holds(text: &str, pieces: &[&str]) -> bool {
    let mut rest = text;
    pieces.iter().all(|piece| match rest.find(piece) {
        Some(at) => {
            rest = rest.get(at + piece.len()..).unwrap_or_default();
            true
        }
        None => false,
    })
}

pub(super) fn row_of_text(text: &str) -> Row {
    TEXTS.iter().find(|(_, pieces)| holds(text, pieces)).map_or(Row::Unseen, |(row, _)| *row)
}

fn row_of_account_text(text: &str) -> Row {
    let lower = text.to_lowercase();
    let any = |texts: &[&str]| texts.iter().any(|part| lower.contains(part));
    match (any(ACCOUNT_TEXTS), any(ARGUMENT_TEXTS)) {
        (true, _) => Row::Account,
        (false, true) => Row::Arguments,
        (false, false) => Row::Unseen,
    }
}

/// The row of a flagship answer's outer layer. The code may be missing on a wrong call: then the
/// text alone decides.
pub(super) fn flagship_row(code: Option<i64>, text: &str) -> Row {
    match code {
        Some(1) => row_of_account_text(text),
        Some(2) => Row::UnknownField,
        Some(3) => Row::SecondFactor,
        Some(4 | 1064) => Row::Database,
        Some(5 | 99) => Row::Other,
        Some(6) => Row::AddressNotAllowed,
        Some(7) => Row::Clock,
        Some(8) => Row::Version,
        Some(100) => row_of_text(text),
        None => match row_of_text(text) {
            Row::Unseen => row_of_account_text(text),
            row => row,
        },
        Some(_) => Row::Unseen,
    }
}

/// The row of an enterprise answer. A text that says "too often" comes first: waiting mends it,
/// whatever else the text names.
pub(super) fn enterprise_row(code: Option<i64>, text: &str) -> Row {
    let lower = text.to_lowercase();
    match code {
        Some(1012) => Row::FrequencyQuota,
        _ if text.contains("频率超限") => Row::FrequencyQuota,
        Some(2104) => Row::WindowTooWide,
        // 2180 stands for the window in places only.
        _ if text.contains("时间跨度") => Row::WindowTooWide,
        _ if text.contains("无仓库访问权限") => Row::EnterpriseWarehouse,
        _ if text.contains("权限不足") => Row::Permission,
        Some(2030 | 2060 | 2100) => Row::EnterpriseAccount,
        _ if ENTERPRISE_ACCOUNT_TEXTS.iter().any(|part| lower.contains(part)) => {
            Row::EnterpriseAccount
        }
        Some(_) | None => Row::Unseen,
    }
}
