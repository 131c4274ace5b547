//! `wms.stockout.PurchaseReturn.createOrder`: arguments, the ERP's checks in its order and words,
//! and the new order.

use std::collections::HashSet;

use serde_json::value::RawValue;

use super::{
    amount::Amount,
    argument::Argument,
    ledger::Made,
    mischief::RemarkFate,
    record::{APPROVED, Edition, Outbound, OutboundLine, Row as _},
    reply::Refused,
    rng::mix,
    seed,
    time::beijing_day,
    world::State,
};

/// Names of the first argument, and of an element of the second.
const INFO: [&str; 5] = ["return_no", "warehouse_no", "logistics_code", "create_mode", "remark"];
const LINE: [&str; 8] =
    ["spec_no", "num", "unit_name", "position_no", "batch_no", "expire_date", "defect", "remark"];

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

fn fits(name: &str, value: &str, most: usize) -> Result<(), Refused> {
    if value.chars().count() > most {
        return Err(Refused::new(
            100,
            format!("Data truncation: Data too long for column '{name}' at row 1"),
        ));
    }
    Ok(())
}

fn optional(of: &Argument<'_>, name: &str, most: usize) -> Result<Box<str>, Refused> {
    let value = of.text(name)?.unwrap_or_default();
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
    let info = Argument::read(info, "orderInfo", &INFO)?;
    let details: Vec<&RawValue> = serde_json::from_str(details.get())
        .map_err(|fault| Refused::new(1, format!("detailList参数类型错误: {fault}")))?;

    let return_no = info.required("return_no")?;
    if info.raw("warehouse_no") == Some("\"\"") {
        return Err(Refused::new(100, "仓库编号不可为空"));
    }
    let warehouse_no = info.required("warehouse_no")?;
    fits("return_no", &return_no, 40)?;
    fits("warehouse_no", &warehouse_no, 40)?;
    let logistics_code = optional(&info, "logistics_code", 60)?;
    let remark = optional(&info, "remark", 255)?;
    let status = match info.integer("create_mode")?.unwrap_or(0) {
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

fn line(raw: &RawValue) -> Result<OutboundLine, Refused> {
    let of = Argument::read(raw, "detailList", &LINE)?;
    let spec_no = of.required("spec_no")?;
    fits("spec_no", &spec_no, 40)?;
    let Some(num) = of.filled("num")? else {
        return Err(Refused::new(100, "num不能为空".to_owned()));
    };
    let count = Amount::parse(&num)
        .filter(|count| count.0 > 0)
        .ok_or_else(|| Refused::new(100, format!("货品{spec_no}数量不合法")))?;
    Ok(OutboundLine {
        rec_id: 0,
        count,
        price: seed::price(&spec_no),
        spec_no: spec_no.into(),
        defect: of.flag("defect")?.unwrap_or(false),
        unit_name: optional(&of, "unit_name", 40)?,
        position_no: optional(&of, "position_no", 50)?,
        batch_no: optional(&of, "batch_no", 50)?,
        expire_date: optional(&of, "expire_date", 50)?,
        remark: optional(&of, "remark", 255)?,
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
            return Err(Refused::right_required());
        }
        if !(state.auto_returns
            || self.logistics_code.is_empty()
            || state.carriers.contains(&self.logistics_code))
        {
            return refuse(format!(
                "不存在物流编码为 {} 的物流公司或业务类型错误!",
                self.logistics_code
            ));
        }
        let mut seen = HashSet::with_capacity(self.lines.len());
        for line in &self.lines {
            // One SKU may stand at several positions, in several batches, with several dates.
            let place = (&line.spec_no, &line.position_no, &line.batch_no, &line.expire_date);
            if !seen.insert(place) || !(state.auto_returns || state.specs.contains(&*line.spec_no))
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
            RemarkFate::Cut(most) => self.remark.chars().take(most).collect::<String>().into(),
            RemarkFate::Prefixed => format!("[接口创建出库单]{}", self.remark).into(),
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
            by_api: true,
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
