//! The three queries: parameters, the ERP's checks in its words, and a page as it answers it.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Call,
    argument::Argument,
    mischief::{Asking, Hidden},
    page::Found,
    record::Edition,
    render,
    reply::{Refused, UNDOCUMENTED},
    sign::Parameters,
    table::{Over, Selection, Unseen},
    time::parse_beijing,
    world::State,
};

/// Over which time the enterprise query's window goes where shipped orders (status 95 and above) are
/// asked for; below that it is `modified`, without a status the shipping time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EnterpriseWindow {
    /// Clients before V2.4.5.6.
    #[default]
    Modified,
    ConsignTime,
}

const THIRTY_DAYS: i64 = 30 * 86_400;

/// A query whose form is right.
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub call: Call,
    pub selection: Selection,
    /// Statuses are asked for.
    pub with_status: bool,
    pub page_no: u64,
    pub page_size: u64,
    pub total: bool,
}

/// Names of the one argument of each flagship query.
const RETURNS: [&str; 6] =
    ["provider_no", "return_no", "status", "start_time", "end_time", "fuzzy_query"];
const OUTBOUNDS: [&str; 7] = [
    "start_time",
    "end_time",
    "time_type",
    "warehouse_no",
    "stockout_no",
    "src_order_no",
    "status",
];

/// Both ends of a window, at most thirty days apart.
fn window(start: Option<&str>, end: Option<&str>, edition: Edition) -> Result<(i64, i64), Refused> {
    let (Some(start), Some(end)) =
        (start.filter(|text| !text.is_empty()), end.filter(|text| !text.is_empty()))
    else {
        return Err(match edition {
            Edition::Flagship => Refused::new(100, "参数中必须包含起止时间"),
            Edition::Enterprise => Refused::new(UNDOCUMENTED, "start_time和end_time不能为空"),
        });
    };
    let (Some(from), Some(to)) = (parse_beijing(start), parse_beijing(end)) else {
        return Err(match edition {
            Edition::Flagship => Refused::new(100, "日期格式不合法"),
            Edition::Enterprise => Refused::new(UNDOCUMENTED, "start_time或end_time格式错误"),
        });
    };
    if to - from > THIRTY_DAYS {
        return Err(match edition {
            Edition::Flagship => Refused::new(100, "您的查询时间过宽,查询时间不能大于30天"),
            Edition::Enterprise => {
                Refused::new(2104, "start_time与end_time时间跨度不能超过最大范围 30天")
            }
        });
    }
    Ok((from, to))
}

/// Reads a flagship query: paging from the address, the rest from the one positional argument.
pub(super) fn read_flagship(
    call: Call,
    parameters: &Parameters,
    body: &[u8],
    state: &State,
) -> Result<Query, Refused> {
    let number = |name: &str| parameters.get(name).and_then(|text| text.parse::<u64>().ok());
    let (Some(page_no), Some(page_size)) =
        (number("page_no"), number("page_size").filter(|size| *size > 0))
    else {
        return Err(Refused::new(100, "此方法仅支持分页查询"));
    };
    let total = match parameters.get("calc_total") {
        Some("1") => true,
        None | Some("0") => false,
        Some(_) => return Err(Refused::new(1, "calc_total参数类型错误")),
    };
    let selection = if call == Call::PurchaseReturns {
        returns(&argument(body, &RETURNS)?, state)?
    } else {
        outbounds(&argument(body, &OUTBOUNDS)?)?
    };
    let with_status = !selection.statuses.is_empty();
    Ok(Query { call, selection, with_status, page_no, page_size, total })
}

fn argument<'a>(body: &'a [u8], names: &[&str]) -> Result<Argument<'a>, Refused> {
    let arguments: Vec<&RawValue> = serde_json::from_slice(body)
        .map_err(|fault| Refused::new(1, format!("params参数类型错误: {fault}")))?;
    match arguments.as_slice() {
        [argument] => Argument::read(argument, "params", names),
        _ => Err(Refused::new(1, "参数个数不正确,需要1个")),
    }
}

/// The window of a query that names no record.
fn flagship_window(of: &Argument<'_>) -> Result<(i64, i64), Refused> {
    window(of.text("start_time")?.as_deref(), of.text("end_time")?.as_deref(), Edition::Flagship)
}

fn returns(of: &Argument<'_>, state: &State) -> Result<Selection, Refused> {
    let over = match of.filled("return_no")? {
        Some(part) if of.flag("fuzzy_query")? == Some(true) => {
            if state
                .returns
                .all()
                .iter()
                .filter(|known| known.return_no.contains(&part))
                .take(2)
                .count()
                > 1
            {
                return Err(Refused::new(100, "模糊查询匹配到的单据数量大于1条"));
            }
            Over::NumberLike(part)
        }
        Some(number) => Over::Number(number),
        None => {
            let (from, to) = flagship_window(of)?;
            Over::Modified(from, to)
        }
    };
    Ok(Selection {
        over,
        statuses: of.integer("status")?.into_iter().collect(),
        warehouse_no: None,
        provider_no: of.filled("provider_no")?,
        unseen: Unseen::default(),
    })
}

fn outbounds(of: &Argument<'_>) -> Result<Selection, Refused> {
    let statuses = of
        .filled("status")?
        .map(|list| {
            list.split(',')
                .map(|status| status.trim().parse::<i32>())
                .collect::<Result<Vec<_>, _>>()
        })
        .transpose()
        .map_err(|_| Refused::new(100, "状态应该是由逗号分隔开的整数数组"))?
        .unwrap_or_default();
    let over = match (of.filled("stockout_no")?, of.filled("src_order_no")?) {
        (Some(number), _) => Over::Number(number),
        (None, Some(source)) => Over::Source(source),
        (None, None) => {
            let (from, to) = flagship_window(of)?;
            match of.integer("time_type")?.unwrap_or(1) {
                1 => Over::Shipped(from, to),
                2 => Over::Created(from, to),
                3 => Over::Modified(from, to),
                _ => return Err(Refused::new(100, "time_type不正确")),
            }
        }
    };
    Ok(Selection {
        over,
        statuses,
        warehouse_no: of.filled("warehouse_no")?,
        provider_no: None,
        unseen: Unseen::default(),
    })
}

/// Reads an enterprise query: everything is in the form.
pub(super) fn read_enterprise(
    parameters: &Parameters,
    rule: EnterpriseWindow,
) -> Result<Query, Refused> {
    let filled = |name: &str| parameters.get(name).filter(|value| !value.is_empty());
    let number = |name: &str, default: u64| {
        filled(name).map_or(Some(default), |text| text.parse::<u64>().ok())
    };
    let page_no =
        number("page_no", 0).ok_or_else(|| Refused::new(UNDOCUMENTED, "page_no不合法"))?;
    let page_size = number("page_size", 30)
        .filter(|size| (1..=30).contains(size))
        .ok_or_else(|| Refused::new(UNDOCUMENTED, "page_size输入值范围1~30"))?;
    let status = filled("status")
        .map(str::parse::<i32>)
        .transpose()
        .map_err(|_| Refused::new(UNDOCUMENTED, "状态参数格式不正确"))?;
    let over = match (filled("stockout_no"), filled("src_order_no")) {
        (Some(number), _) => Over::Number(number.to_owned()),
        (None, Some(source)) => Over::Source(source.to_owned()),
        (None, None) => {
            let (from, to) = window(filled("start_time"), filled("end_time"), Edition::Enterprise)?;
            match (status, rule) {
                (None, _) => Over::Shipped(from, to),
                (Some(95..), EnterpriseWindow::ConsignTime) => Over::Shipped(from, to),
                (Some(_), _) => Over::Modified(from, to),
            }
        }
    };
    Ok(Query {
        call: Call::EnterpriseOutbounds,
        selection: Selection {
            over,
            statuses: status.map_or_else(|| vec![95, 110], |status| vec![status]),
            warehouse_no: filled("warehouse_no").map(str::to_owned),
            provider_no: None,
            unseen: Unseen::default(),
        },
        with_status: status.is_some(),
        page_no,
        page_size,
        // Counted on the first page only.
        total: page_no == 0,
    })
}

impl Query {
    /// A narrower default of the flagship outbound query without `status`; an empty one is all.
    pub(super) fn narrow(&mut self, default: &[i32]) {
        if self.call == Call::Outbounds && !self.with_status && self.over_window() {
            self.selection.statuses.extend(default);
        }
    }

    /// Leaves out what the script hides from this query, which arrived at Unix second `now`.
    pub(super) fn hide(&mut self, hidden: &[(Hidden, Asking)], now: i64) {
        let unseen = &mut self.selection.unseen;
        for (hidden, _) in hidden.iter().filter(|(_, asking)| asking.meets(self.with_status)) {
            let moment = match hidden {
                Hidden::Warehouse(warehouse) => {
                    unseen.warehouses.push(warehouse.clone());
                    continue;
                }
                Hidden::CreatedAfter(moment) => *moment,
                Hidden::CreatedWithin(span) => now.saturating_sub_unsigned(span.as_secs()),
            };
            unseen.created_after = Some(unseen.created_after.unwrap_or(i64::MAX).min(moment));
        }
    }

    /// Whether it asks for a window, not for a number.
    pub(super) fn over_window(&self) -> bool {
        matches!(self.selection.over, Over::Modified(..) | Over::Created(..) | Over::Shipped(..))
    }

    /// Whether its page is the last one of so many records.
    pub(super) fn is_last_of(&self, records: u64) -> bool {
        self.page_no.saturating_add(1).saturating_mul(self.page_size) >= records
    }

    /// Its page. `steady`: rows of equal `modified` keep their order.
    pub(super) fn find(&self, state: &mut State, steady: bool) -> Found {
        let written = |write: &dyn Fn(&mut String)| {
            let mut row = String::with_capacity(2048);
            write(&mut row);
            row.into_bytes()
        };
        let (page_no, page_size) = (self.page_no, self.page_size);
        if self.call == Call::PurchaseReturns {
            let page = state.returns.page(&self.selection, page_no, page_size, steady);
            let render = |row: &Arc<_>| written(&|out| render::purchase_return(out, row));
            let rows = page.rows.iter().map(render).collect();
            Found { count: page.count, paged: page.paged, rows }
        } else {
            let edition = self.call.edition();
            let page = state.outbounds.page(&self.selection, page_no, page_size, steady);
            let render = |row: &Arc<_>| written(&|out| render::outbound(out, row, edition));
            let rows = page.rows.iter().map(render).collect();
            Found { count: page.count, paged: page.paged, rows }
        }
    }

    /// The count's field with a comma behind it, where it was asked for.
    pub(super) fn total_field(&self, found: &Found) -> String {
        if self.total { format!("\"total_count\":{},", found.count) } else { String::new() }
    }

    /// The answer's body.
    pub(super) fn answer(&self, found: &Found) -> Vec<u8> {
        let total = self.total_field(found);
        let (head, tail) = match self.call.edition() {
            Edition::Flagship => (format!("{{\"status\":0,\"data\":{{{total}\"order\":["), "]}}"),
            Edition::Enterprise => {
                let head = "{\"code\":0,\"message\":\"succeed\",";
                (format!("{head}{total}\"stockout_list\":["), "]}")
            }
        };
        [head.as_bytes(), &found.rows.join(&b','), tail.as_bytes()].concat()
    }
}
