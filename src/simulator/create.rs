//! `wms.stockout.PurchaseReturn.createOrder`: arguments, the ERP's checks in its order and words,
//! and the new order.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    amount::Amount,
    ledger::Made,
    mischief::RemarkFate,
    record::{APPROVED, Edition, Outbound, OutboundLine, Row as _},
    reply::Refused,
    rng::mix,
    seed,
    time::beijing_day,
    world::State,
};

/// The first argument. Unknown names are refused: a client that misspells one would otherwise lose
/// it unnoticed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderInfo {
    return_no: Option<String>,
    warehouse_no: Option<String>,
    logistics_code: Option<String>,
    create_mode: Option<i64>,
    remark: Option<String>,
}

/// One element of the second argument.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Detail<'a> {
    spec_no: Option<String>,
    #[serde(borrow)]
    num: Option<&'a RawValue>,
    unit_name: Option<String>,
    position_no: Option<String>,
    batch_no: Option<String>,
    expire_date: Option<String>,
    defect: Option<bool>,
    remark: Option<String>,
}

/// A request whose form is right.
#[derive(Debug)]
pub(super) struct OrderRequest {
    return_no: String,
    warehouse_no: String,
    logistics_code: String,
    status: i32,
    remark: String,
    lines: Vec<OutboundLine>,
}

fn required(name: &str, value: Option<String>) -> Result<String, Refused> {
    value
        .filter(|value| !value.is_empty())
        .ok_or_else(|| Refused::new(100, format!("{name}不能为空")))
}

fn fits(name: &str, value: &str, most: usize) -> Result<(), Refused> {
    if value.chars().count() > most {
        return Err(Refused::new(
            100,
            format!("Data truncation: Data too long for column '{name}' at row 1"),
        ));
    }
    Ok(())
}

fn optional(name: &str, value: Option<String>, most: usize) -> Result<Box<str>, Refused> {
    let value = value.unwrap_or_default();
    fits(name, &value, most)?;
    Ok(value.into())
}

/// Reads the body's two positional arguments and checks what can be checked without looking
/// anything up.
pub(super) fn read(body: &[u8]) -> Result<OrderRequest, Refused> {
    let arguments: Vec<&RawValue> = serde_json::from_slice(body)
        .map_err(|fault| Refused::new(1, format!("参数不是合法的JSON数组: {fault}")))?;
    let [info, details] = arguments.as_slice() else {
        return Err(Refused::new(1, format!("参数个数不正确,需要2个,实际{}个", arguments.len())));
    };
    let info: OrderInfo = serde_json::from_str(info.get())
        .map_err(|fault| Refused::new(1, format!("orderInfo参数类型错误: {fault}")))?;
    let details: Vec<Detail<'_>> = serde_json::from_str(details.get())
        .map_err(|fault| Refused::new(1, format!("detailList参数类型错误: {fault}")))?;

    let return_no = required("return_no", info.return_no)?;
    let warehouse_no = required("warehouse_no", info.warehouse_no)?;
    fits("return_no", &return_no, 40)?;
    fits("warehouse_no", &warehouse_no, 40)?;
    let logistics_code = optional("logistics_code", info.logistics_code, 60)?;
    let remark = optional("remark", info.remark, 255)?;
    let status = match info.create_mode.unwrap_or(0) {
        0 => 48,
        1 => 50,
        2 => 65,
        _ => return Err(Refused::new(100, "创建模式不正确".to_owned())),
    };
    if details.is_empty() {
        return Err(Refused::new(100, "detailList不能为空".to_owned()));
    }
    let lines = details.into_iter().map(line).collect::<Result<Vec<_>, _>>()?;
    Ok(OrderRequest {
        return_no,
        warehouse_no,
        logistics_code: logistics_code.into(),
        status,
        remark: remark.into(),
        lines,
    })
}

fn line(detail: Detail<'_>) -> Result<OutboundLine, Refused> {
    let spec_no = required("spec_no", detail.spec_no)?;
    fits("spec_no", &spec_no, 40)?;
    let num = detail.num.map(RawValue::get).unwrap_or_default();
    let num = num.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(num);
    if num.is_empty() || num == "null" {
        return Err(Refused::new(100, "num不能为空".to_owned()));
    }
    let count = Amount::parse(num)
        .filter(|count| count.0 > 0)
        .ok_or_else(|| Refused::new(100, format!("货品{spec_no}数量不合法")))?;
    Ok(OutboundLine {
        rec_id: 0,
        count,
        price: seed::price(&spec_no),
        spec_no: spec_no.into(),
        defect: detail.defect.unwrap_or(false),
        unit_name: optional("unit_name", detail.unit_name, 40)?,
        position_no: optional("position_no", detail.position_no, 50)?,
        batch_no: optional("batch_no", detail.batch_no, 50)?,
        expire_date: optional("expire_date", detail.expire_date, 50)?,
        remark: optional("remark", detail.remark, 255)?,
    })
}

impl OrderRequest {
    /// What the ERP looks up before it makes an order.
    fn check(&self, state: &State) -> Result<(), Refused> {
        let refuse = |text: String| Err(Refused::new(100, text));
        if !state.auto_returns {
            match state.returns.by_number(&self.return_no) {
                None => return refuse("采购退货单不存在".to_owned()),
                Some(known) if known.status() != APPROVED => {
                    return refuse("出库单对应的采购退换单状态错误".to_owned());
                }
                Some(_) => {}
            }
            if !state.warehouses.contains(&self.warehouse_no) {
                return refuse(format!("仓库编号为 {} 的仓库不存在!", self.warehouse_no));
            }
        }
        if state.forbidden_warehouses.contains(&self.warehouse_no) {
            return refuse("无仓库访问权限".to_owned());
        }
        let mut seen = HashSet::with_capacity(self.lines.len());
        for line in &self.lines {
            if !seen.insert(&*line.spec_no)
                || !(state.auto_returns || state.specs.contains(&*line.spec_no))
            {
                return refuse("货品列表中货品不存在或者货品重复".to_owned());
            }
            if state.disabled_batches.contains(&*line.batch_no) {
                return refuse(format!("批次 {} 不存在或已停用", line.batch_no));
            }
        }
        Ok(())
    }

    /// Every text that would be stored.
    fn texts(&self) -> impl Iterator<Item = &str> {
        let lines = self.lines.iter().flat_map(|line| {
            [
                &*line.spec_no,
                &*line.unit_name,
                &*line.position_no,
                &*line.batch_no,
                &*line.expire_date,
                &*line.remark,
            ]
        });
        [&*self.return_no, &*self.warehouse_no, &*self.logistics_code, &*self.remark]
            .into_iter()
            .chain(lines)
    }

    /// Checks and makes the order; its number.
    pub(super) fn apply(self, state: &mut State, doing: &Doing) -> Result<String, Refused> {
        self.check(state)?;
        // The ERP's database stores characters of at most three bytes.
        if self.texts().any(|text| text.chars().any(|character| character.len_utf8() > 3)) {
            return Err(Refused::new(4, "数据库错误"));
        }
        let id = state.outbounds.next_id();
        let order_no =
            format!("CH{}{:03}", beijing_day(doing.now), id - super::world::FIRST_OUTBOUND + 1);
        let provider_no = state
            .returns
            .by_number(&self.return_no)
            .map_or("GYS001".into(), |known| known.provider_no.clone());
        state.ledger.made.push(Made {
            outbound_id: id,
            request: doing.request,
            at_ms: doing.at_ms,
            sent_remark: self.remark.as_str().into(),
        });
        let remark: Box<str> = match doing.remark {
            RemarkFate::Kept => self.remark.into(),
            RemarkFate::Stripped => "".into(),
            RemarkFate::Rewritten => "已由仓库人员改写".into(),
        };
        let mut lines = self.lines;
        for (at, line) in lines.iter_mut().enumerate() {
            line.rec_id = u64::from(id) * 1000 + at as u64;
        }
        let record = Outbound {
            id,
            revision: 0,
            edition: Edition::Flagship,
            order_no: order_no.as_str().into(),
            src_order_no: self.return_no.into(),
            status: self.status,
            warehouse_no: self.warehouse_no.into(),
            provider_no,
            logistics_no: self.logistics_code.into(),
            remark,
            created: doing.now,
            modified: doing.now,
            shipped: None,
            flavour: mix(u64::from(id)),
            lines,
            overrides: None,
        };
        state.outbounds.put(record, doing.visible_at_ms);
        Ok(order_no)
    }
}

/// The circumstances of one execution.
#[derive(Debug)]
pub(super) struct Doing {
    pub now: i64,
    pub at_ms: u64,
    pub request: u64,
    pub remark: RemarkFate,
    pub visible_at_ms: Option<u64>,
}
