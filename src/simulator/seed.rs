//! Made-up business content, the same for the same seed.

use serde::Deserialize;

use super::{
    amount::Amount,
    record::{Change, Edition, Outbound, OutboundLine, PurchaseReturn, ReturnLine, Row},
    rng::{Rng, mix},
    time::{beijing, beijing_day},
};

/// Warehouses that exist from the start, number and name.
pub(crate) const WAREHOUSES: [(&str, &str); 5] = [
    ("WH-SH-01", "上海一号仓"),
    ("WH-HZ-01", "杭州残次品仓"),
    ("WH-GZ-02", "广州二仓"),
    ("WH-CD-01", "成都中心仓"),
    ("1001", "华东一仓"),
];
const PROVIDERS: [(&str, &str); 4] = [
    ("GYS001", "秋天服饰有限公司"),
    ("GYS002", "义乌市百货供应商"),
    ("20170808002", "深圳数码贸易行"),
    ("LCJ-88", "绿茶集团"),
];
/// Province, city and district, each with its administrative code.
const PLACES: [[(&str, i64); 3]; 4] = [
    [("上海", 310_000), ("上海市", 310_100), ("浦东新区", 310_115)],
    [("浙江省", 330_000), ("杭州市", 330_100), ("余杭区", 330_110)],
    [("广东省", 440_000), ("广州市", 440_100), ("白云区", 440_111)],
    [("四川省", 510_000), ("成都市", 510_100), ("武侯区", 510_107)],
];
const NAMES: [&str; 6] = ["王小明", "李芳", "张伟", "陈静", "刘洋", "欧阳娜娜"];
const CLERKS: [&str; 4] = ["系统", "外部接口", "赵会计", "孙主管"];
pub(super) const CARRIERS: [&str; 4] = ["", "SF", "YTO", "JD"];
const REMARKS: [&str; 5] =
    ["", "质量问题退货", "换季清仓，退回供应商", "供应商要求召回（第2批）", "外箱破损 \"易碎\""];
const BRANDS: [(&str, &str, &str, &str); 4] = [
    ("BD001", "无", "纯棉短袖T恤", "白色 L"),
    ("BD002", "旺店通", "手持终端", "黑色006型"),
    ("BD003", "绿茶", "龙井茶叶礼盒", "250克"),
    ("BD004", "秋天", "羊毛围巾", "驼色"),
];
const UNITS: [&str; 4] = ["件", "台", "盒", "条"];

/// How many SKUs exist from the start: `SKU-00001` and on.
pub(super) const SPECS: u32 = 500;

/// The number of the n-th SKU.
pub(crate) fn spec_no(n: u32) -> String {
    format!("SKU-{:05}", n % SPECS + 1)
}

fn of<T: Copy + Default>(items: &[T], seed: u64) -> T {
    let at = usize::try_from(seed.checked_rem(items.len() as u64).unwrap_or(0)).unwrap_or(0);
    items.get(at).copied().unwrap_or_default()
}

/// A number that depends on a text alone (FNV-1a).
pub(super) fn fold(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Who is behind a record, and where.
pub(super) struct People {
    pub name: &'static str,
    pub phone: String,
    pub province: &'static str,
    pub city: &'static str,
    pub district: &'static str,
    /// Codes of province, city and district.
    pub codes: [i64; 3],
    pub address: String,
    pub clerk: &'static str,
    pub buyer: &'static str,
    pub carrier: &'static str,
}

pub(super) fn people(flavour: u64) -> People {
    let [(province, in_province), (city, in_city), (district, in_district)] =
        of(&PLACES, flavour >> 3);
    People {
        name: of(&NAMES, flavour >> 5),
        phone: format!("13{:09}", mix(flavour) % 1_000_000_000),
        province,
        city,
        district,
        codes: [in_province, in_city, in_district],
        address: format!("{city}{district}花园路{}号", flavour % 300 + 1),
        clerk: of(&CLERKS, flavour >> 7),
        buyer: of(&NAMES, flavour >> 9),
        carrier: of(&CARRIERS, flavour >> 11),
    }
}

pub(super) fn purchase_no(flavour: u64) -> String {
    if flavour.is_multiple_of(3) {
        String::new()
    } else {
        format!("CG{:010}", mix(flavour) % 10_000_000_000)
    }
}

pub(super) fn outer_no(flavour: u64) -> String {
    if flavour.is_multiple_of(4) {
        String::new()
    } else {
        format!("OPCG{:012}", mix(flavour ^ 1) % 1_000_000_000_000)
    }
}

pub(super) fn provider_name(provider_no: &str) -> &'static str {
    PROVIDERS.iter().find(|(no, _)| *no == provider_no).map_or("其他供应商", |(_, name)| name)
}

pub(super) fn warehouse_name(warehouse_no: &str) -> &str {
    WAREHOUSES.iter().find(|(no, _)| *no == warehouse_no).map_or(warehouse_no, |(_, name)| name)
}

pub(super) fn warehouse_id(warehouse_no: &str) -> u64 {
    fold(warehouse_no) % 1000 + 1
}

/// What is behind a SKU.
pub(super) struct Goods {
    pub spec_id: u64,
    pub goods_no: String,
    pub brand_no: &'static str,
    pub brand: &'static str,
    pub name: &'static str,
    pub spec_name: &'static str,
    pub spec_code: String,
    pub unit: &'static str,
}

pub(super) fn goods(spec_no: &str) -> Goods {
    let seed = fold(spec_no);
    let (brand_no, brand, name, spec_name) = of(&BRANDS, seed >> 8);
    Goods {
        spec_id: seed % 1_000_000 + 1,
        goods_no: format!("SPU{:06}", seed % 1_000_000),
        brand_no,
        brand,
        name,
        spec_name,
        spec_code: format!("C{:04}", seed % 10_000),
        unit: of(&UNITS, seed >> 8),
    }
}

/// Between 1.0000 and 200.9999, fixed for a SKU.
pub(super) fn price(spec_no: &str) -> Amount {
    Amount(10_000 + i128::from(fold(spec_no) % 2_000_000))
}

/// Where in its warehouse a line lies.
pub(super) struct Position {
    pub id: u64,
    pub no: String,
}

pub(super) fn position(line: &OutboundLine) -> Position {
    let id = mix(line.rec_id ^ 7) % 100_000;
    let no = if line.position_no.is_empty() {
        format!("A-{:02}-{:02}", id % 40, id % 9)
    } else {
        line.position_no.to_string()
    };
    Position { id, no }
}

/// What to make up, and over which modified times it is spread evenly.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Seeding {
    pub count: u32,
    /// Beijing time, `yyyy-MM-dd HH:mm:ss`; without it seven days before now.
    #[serde(default)]
    pub from: Option<String>,
    /// Beijing time; without it now.
    #[serde(default)]
    pub to: Option<String>,
    /// All records have this status; without it a mixture.
    #[serde(default)]
    pub status: Option<i32>,
    /// Which statuses outbound orders run through.
    #[serde(default)]
    pub edition: Edition,
    /// Lines of each record; 3 without it.
    #[serde(default)]
    pub lines: Option<u32>,
    /// Makes one record only, with this number (a return's, or the return of an outbound order).
    #[serde(default)]
    pub return_no: Option<String>,
    #[serde(default)]
    pub warehouse_no: Option<String>,
}

impl Seeding {
    /// `count` records over the last seven days.
    #[must_use]
    pub(crate) fn of(count: u32) -> Self {
        Self {
            count,
            from: None,
            to: None,
            status: None,
            edition: Edition::Flagship,
            lines: None,
            return_no: None,
            warehouse_no: None,
        }
    }
}

/// The modified time of the n-th of `count` records.
pub(super) fn spread(n: u32, count: u32, from: i64, to: i64) -> i64 {
    if count < 2 {
        return to;
    }
    // Wider than the product of any two times and counts.
    let share = i128::from((to - from).max(0)) * i128::from(n) / i128::from(count - 1);
    from + i64::try_from(share).unwrap_or(0)
}

fn warehouse(rng: &mut Rng, seeding: &Seeding) -> Box<str> {
    seeding.warehouse_no.as_deref().unwrap_or_else(|| rng.pick(&WAREHOUSES).0).into()
}

fn line_specs(rng: &mut Rng, lines: u32) -> impl Iterator<Item = String> + use<> {
    let first = u32::try_from(rng.below(u64::from(SPECS))).unwrap_or(0);
    (0..lines).map(move |line| spec_no(first + line * 7))
}

pub(super) fn purchase_return(
    seed: u64,
    id: u32,
    seeding: &Seeding,
    modified: i64,
) -> PurchaseReturn {
    let mut rng = Rng::new(seed ^ mix(u64::from(id)));
    let status =
        seeding.status.unwrap_or_else(|| rng.pick(&[40, 40, 40, 40, 40, 40, 30, 20, 60, 10]));
    let flavour = rng.next();
    let lines = line_specs(&mut rng, seeding.lines.unwrap_or(3))
        .enumerate()
        .map(|(at, spec)| {
            let num =
                Amount(i128::from(rng.below(40) + 1) * 10_000 + i128::from(rng.below(4)) * 2500);
            let out_num = if status == 60 { num } else { Amount(0) };
            ReturnLine {
                rec_id: u64::from(id) * 10 + at as u64,
                price: price(&spec),
                spec_no: spec.into(),
                num,
                out_num,
            }
        })
        .collect();
    PurchaseReturn {
        id,
        revision: 0,
        return_no: seeding
            .return_no
            .as_deref()
            .map_or_else(|| format!("CR{}{id:06}", beijing_day(modified)), str::to_owned)
            .into(),
        status,
        warehouse_no: warehouse(&mut rng, seeding),
        provider_no: rng.pick(&PROVIDERS).0.into(),
        remark: rng.pick(&REMARKS).into(),
        created: modified - i64::try_from(rng.below(3600)).unwrap_or(0),
        modified,
        flavour,
        lines,
        overrides: None,
    }
}

pub(super) fn outbound(seed: u64, id: u32, seeding: &Seeding, modified: i64) -> Outbound {
    let mut rng = Rng::new(seed ^ mix(u64::from(id) | 1 << 40));
    let statuses: &[i32] = match seeding.edition {
        Edition::Flagship => &[48, 50, 65, 77, 110, 110, 110, 5],
        Edition::Enterprise => &[50, 55, 95, 110, 110, 110, 110, 5],
    };
    let status = seeding.status.unwrap_or_else(|| rng.pick(statuses));
    let flavour = rng.next();
    let lines = line_specs(&mut rng, seeding.lines.unwrap_or(3))
        .enumerate()
        .map(|(at, spec)| OutboundLine {
            rec_id: u64::from(id) * 10 + at as u64,
            count: Amount(i128::from(rng.below(40) + 1) * 10_000),
            price: price(&spec),
            spec_no: spec.into(),
            defect: rng.chance(0.1),
            unit_name: "".into(),
            position_no: "".into(),
            batch_no: if rng.chance(0.5) {
                format!("PC{:08}", rng.below(100_000_000))
            } else {
                String::new()
            }
            .into(),
            expire_date: "".into(),
            remark: "".into(),
        })
        .collect();
    Outbound {
        id,
        revision: 0,
        edition: seeding.edition,
        order_no: format!("CK{}{id:06}", beijing_day(modified)).into(),
        src_order_no: seeding
            .return_no
            .as_deref()
            .map_or_else(|| format!("CT{}{id:06}", beijing_day(modified)), str::to_owned)
            .into(),
        status,
        warehouse_no: warehouse(&mut rng, seeding),
        provider_no: rng.pick(&PROVIDERS).0.into(),
        logistics_no: rng.pick(&CARRIERS).into(),
        remark: rng.pick(&REMARKS).into(),
        created: modified - i64::try_from(rng.below(3600)).unwrap_or(0),
        modified,
        shipped: matches!(status, 95 | 110).then_some(modified),
        flavour,
        lines,
        by_api: false,
        overrides: None,
    }
}

/// What somebody in the warehouse might do next to a return.
pub(super) fn next_change_of_return(record: &PurchaseReturn, rng: &mut Rng, now: i64) -> Change {
    let status = match record.status {
        20 => Some(30),
        30 => Some(40),
        40 if rng.chance(0.2) => Some(60),
        _ => None,
    };
    Change {
        status,
        remark: Some(note(record.remark.as_ref(), record.revision(), now)),
        ..Change::default()
    }
}

/// What somebody in the warehouse might do next to an outbound order.
pub(super) fn next_change_of_outbound(record: &Outbound, rng: &mut Rng, now: i64) -> Change {
    let status = match (record.edition, record.status) {
        (_, 48) => Some(50),
        (Edition::Flagship, 50) => Some(65),
        (Edition::Flagship, 65) => Some(77),
        (Edition::Flagship, 77) | (Edition::Enterprise, 95) => Some(110),
        (Edition::Enterprise, 50) => Some(55),
        (Edition::Enterprise, 55) => Some(95),
        _ => None,
    };
    let carrier = rng.pick(&CARRIERS);
    Change {
        status,
        logistics_no: Some(format!("{carrier}{:08}", rng.below(100_000_000))),
        remark: appended(record, now),
        ..Change::default()
    }
}

/// People append notes to a remark now and then; the marker in front stays.
fn appended(record: &Outbound, now: i64) -> Option<String> {
    record.revision.is_multiple_of(3).then(|| note(record.remark.as_ref(), record.revision, now))
}

fn note(remark: &str, revision: u32, now: i64) -> String {
    let kept: String = remark.split('｜').next().unwrap_or_default().chars().take(200).collect();
    format!("{kept}｜第{}次修改 {}", revision + 1, beijing(now))
}
