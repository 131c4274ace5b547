//! Records as the ERP writes them: fields, order and types of `erp/samples/`, in both editions.

use std::fmt::Write as _;

use super::{
    amount::Amount,
    record::{Edition, Outbound, OutboundLine, Overrides, PurchaseReturn, ReturnLine},
    rng::mix,
    seed,
    time::beijing,
};

/// Writes `text` as a JSON string.
pub(super) fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if u32::from(c) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// One JSON object being written, with a record's overrides.
struct Object<'a> {
    out: &'a mut String,
    edition: Edition,
    overrides: Option<&'a Overrides>,
    written: Vec<&'static str>,
    first: bool,
}

impl<'a> Object<'a> {
    fn open(out: &'a mut String, edition: Edition, overrides: Option<&'a Overrides>) -> Self {
        out.push('{');
        Self { out, edition, overrides, written: Vec::new(), first: true }
    }

    fn name(&mut self, name: &str) {
        if !self.first {
            self.out.push(',');
        }
        self.first = false;
        quote(self.out, name);
        self.out.push(':');
    }

    /// Writes the field's name and then its value by `value`, unless an override says otherwise.
    fn field(&mut self, name: &'static str, value: impl FnOnce(&mut String)) -> &mut Self {
        if let Some(overrides) = self.overrides
            && let Some(instead) = overrides.get(name)
        {
            self.written.push(name);
            if let Some(json) = instead {
                self.name(name);
                self.out.push_str(json.get());
            }
            return self;
        }
        self.name(name);
        value(self.out);
        self
    }

    fn text(&mut self, name: &'static str, text: &str) -> &mut Self {
        self.field(name, |out| quote(out, text))
    }

    /// A whole number: a JSON number in the flagship, a string in the enterprise edition.
    fn int(&mut self, name: &'static str, value: impl Into<i128>) -> &mut Self {
        let value = value.into();
        let edition = self.edition;
        self.field(name, |out| {
            let _ = match edition {
                Edition::Flagship => write!(out, "{value}"),
                Edition::Enterprise => write!(out, "\"{value}\""),
            };
        })
    }

    /// A decimal: a JSON number without trailing zeros, or a string with four places.
    fn amount(&mut self, name: &'static str, value: Amount) -> &mut Self {
        let edition = self.edition;
        self.field(name, |out| {
            let _ = match edition {
                Edition::Flagship => write!(out, "{}", value.short()),
                Edition::Enterprise => write!(out, "\"{}\"", value.fixed()),
            };
        })
    }

    fn flag(&mut self, name: &'static str, value: bool) -> &mut Self {
        self.field(name, |out| out.push_str(if value { "true" } else { "false" }))
    }

    /// Epoch milliseconds.
    fn millis(&mut self, name: &'static str, second: i64) -> &mut Self {
        self.field(name, |out| {
            let _ = write!(out, "{second}000");
        })
    }

    fn list<T>(
        &mut self,
        name: &'static str,
        items: &[T],
        write: impl Fn(&mut String, &T),
    ) -> &mut Self {
        self.field(name, |out| {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write(out, item);
            }
            out.push(']');
        })
    }

    /// Writes the overrides that replaced nothing (fields the ERP never sent before) and closes the
    /// object.
    fn close(&mut self) {
        if let Some(overrides) = self.overrides {
            for (name, json) in overrides {
                if let Some(json) = json
                    && !self.written.contains(&name.as_str())
                {
                    self.name(name);
                    self.out.push_str(json.get());
                }
            }
        }
        self.out.push('}');
    }
}

/// A purchase return as `purchase.PurchaseReturn.queryWithDetail` answers it.
pub(super) fn purchase_return(out: &mut String, record: &PurchaseReturn) {
    let people = seed::people(record.flavour);
    let checked = record.status >= 40;
    let count: Amount = record.lines.iter().map(|line| line.num).sum();
    let out_count: Amount = record.lines.iter().map(|line| line.out_num).sum();
    let fee: Amount = record.lines.iter().map(|line| line.num.times(line.price)).sum();
    let stockout_status = if out_count.0 == 0 { 0 } else { 1 + i32::from(out_count >= count) };
    Object::open(out, Edition::Flagship, record.overrides.as_deref())
        .text("purchase_no", &seed::purchase_no(record.flavour))
        .amount("post_fee", Amount(i128::from(record.flavour % 40) * 2500))
        .text("city", people.city)
        .list("detail_list", &record.lines, |out, line| return_line(out, record, line))
        .int("goods_type_count", record.lines.len() as i64)
        .int("return_id", record.id)
        .text("remark", &record.remark)
        .amount("goods_count", count)
        .int("type", 1 + i32::from(record.flavour.is_multiple_of(9)))
        .text("telno", &people.phone)
        .int("logistics_id", (record.flavour >> 8) % 50)
        .flag("is_reserved", record.status == 40)
        .text("province", people.province)
        .text("warehouse_no", &record.warehouse_no)
        .int("stockout_status", stockout_status)
        .text("outer_no", &seed::outer_no(record.flavour))
        .text("contact", people.name)
        .text("purchaser_name", people.buyer)
        .millis("modified", record.modified)
        .text("provider_name", seed::provider_name(&record.provider_no))
        .int("logistics_type", (record.flavour >> 16) % 5)
        .text("receive_address", &people.address)
        .amount("other_fee", Amount((i128::from(record.flavour) >> 24) % 100 * 100))
        .int("note_count", record.revision)
        .text("provider_no", &record.provider_no)
        .text("check_operator_name", if checked { people.clerk } else { "" })
        .amount("goods_out_count", out_count)
        .text("logistics_no", people.carrier)
        .millis("created", record.created)
        .int("settle_status", i32::from(record.status == 60) * 3)
        .text("return_no", &record.return_no)
        .text("warehouse_name", seed::warehouse_name(&record.warehouse_no))
        .text("district", people.district)
        .amount("goods_fee", fee)
        .text("creator_name", people.clerk)
        .int("status", record.status)
        .int("warehouse_id", seed::warehouse_id(&record.warehouse_no))
        .millis("check_time", if checked { record.created + 600 } else { record.created })
        .close();
}

fn return_line(out: &mut String, record: &PurchaseReturn, line: &ReturnLine) {
    let goods = seed::goods(&line.spec_no);
    let amount = line.num.times(line.price);
    Object::open(out, Edition::Flagship, None)
        .int("rec_id", line.rec_id)
        .int("return_id", record.id)
        .int("spec_id", goods.spec_id)
        .text("spec_no", &line.spec_no)
        .flag("defect", line.rec_id.is_multiple_of(11))
        .text("provider_goods_no", &goods.goods_no)
        .amount("num", line.num)
        .amount("num2", Amount(line.num.0 / 3))
        .amount("out_num", line.out_num)
        .amount("settle_num", Amount(0))
        .int("unit_ratio", 3)
        .amount("price", line.price)
        .amount("discount", Amount::units(1))
        .amount("tax_rate", Amount(1300))
        .amount("tax_price", line.price.times(Amount(11_300)))
        .amount("amount", amount)
        .amount("out_amount", line.out_num.times(line.price))
        .text("remark", if line.rec_id.is_multiple_of(4) { "外箱破损" } else { "" })
        .text("prop1", "")
        .text("prop2", "")
        .millis("modified", record.modified)
        .millis("created", record.created)
        .text("unit_name", goods.unit)
        .text("base_unit_name", "箱")
        .close();
}

/// An outbound order in an edition's form.
pub(super) fn outbound(out: &mut String, record: &Outbound, edition: Edition) {
    match edition {
        Edition::Flagship => flagship_outbound(out, record),
        Edition::Enterprise => enterprise_outbound(out, record),
    }
}

struct Totals {
    count: Amount,
    amount: Amount,
    cost: Amount,
}

fn totals(record: &Outbound) -> Totals {
    Totals {
        count: record.lines.iter().map(|line| line.count).sum(),
        amount: record.lines.iter().map(|line| line.count.times(line.price)).sum(),
        cost: record.lines.iter().map(|line| line.count.times(cost_of(line))).sum(),
    }
}

/// Goods cost four fifths of what they sell for.
fn cost_of(line: &OutboundLine) -> Amount {
    line.price.times(Amount(8000))
}

fn flagship_outbound(out: &mut String, record: &Outbound) {
    let people = seed::people(record.flavour);
    // Numbers as text, as in the page's example.
    let [province, city, district] = people.codes.map(|code| code.to_string());
    let totals = totals(record);
    let mut object = Object::open(out, Edition::Flagship, record.overrides.as_deref());
    object
        .text("order_no", &record.order_no)
        .list("details_list", &record.lines, |out, line| flagship_outbound_line(out, record, line));
    // Absent until shipped (`docs/erp.md#record-fields`); an override may still add it.
    if let Some(at) = record.shipped {
        object.millis("consign_time", at);
    }
    object
        .amount("post_fee", Amount(i128::from(record.flavour % 40) * 2500))
        .text("receiver_city", &city)
        .int("goods_type_count", record.lines.len() as i64)
        .text("remark", &record.remark)
        .amount("goods_count", totals.count)
        .int("stockout_id", record.id)
        .text("src_order_no", &record.src_order_no)
        .text("warehouse_no", &record.warehouse_no)
        .text("receiver_telno", &people.phone)
        .amount("checked_goods_total_cost", totals.cost)
        .text("receiver_name", people.name)
        .text("modified", &beijing(record.modified))
        .text("provider_name", seed::provider_name(&record.provider_no))
        .text("provider_no", &record.provider_no)
        .int("seq_no", i64::from(record.revision) + 1)
        .millis("create_time", record.created)
        .text("receiver_province", &province)
        .text("logistics_no", &record.logistics_no)
        .text("receiver_district", &district)
        .amount("weight", Amount(i128::from(record.flavour % 97) * 1250))
        .amount("goods_total_amount", totals.amount)
        .text("operator_name", if record.by_api { "" } else { people.clerk })
        .text("goods_total_cost", &format!("{}0000", totals.cost.fixed()))
        .text("last_load_purchase_no", "")
        .text("receiver_address", &people.address)
        .text("prop1", if record.flavour.is_multiple_of(5) { "换季退仓" } else { "" })
        .text("prop2", "")
        .int("status", record.status)
        .close();
}

fn flagship_outbound_line(out: &mut String, record: &Outbound, line: &OutboundLine) {
    let goods = seed::goods(&line.spec_no);
    Object::open(out, Edition::Flagship, None)
        .int("rec_id", line.rec_id)
        .int("stockout_id", record.id)
        .text("spec_no", &line.spec_no)
        .flag("defect", line.defect)
        .amount("goods_count", line.count)
        .amount("total_amount", line.count.times(line.price))
        .amount("sell_price", line.price)
        .text("remark", &line.remark)
        .text("brand_no", goods.brand_no)
        .text("brand_name", goods.brand)
        .text("goods_name", goods.name)
        .text("goods_no", &goods.goods_no)
        .text("spec_name", goods.spec_name)
        .text("spec_code", &goods.spec_code)
        .amount("cost_price", cost_of(line))
        .amount("weight", Amount(2000))
        .int("goods_type", 1)
        .text("goods_unit", if line.unit_name.is_empty() { goods.unit } else { &line.unit_name })
        .text("batch_no", &line.batch_no)
        .text("expire_date", &line.expire_date)
        .text("position_no", &line.position_no)
        .amount("total_checked_cost_price", line.count.times(cost_of(line)))
        .list("position_details_list", &[line], |out, line| {
            let position = seed::position(line);
            Object::open(out, Edition::Flagship, None)
                .int("rec_id", mix(line.rec_id) % 1_000_000)
                .int("stockout_detail_id", line.rec_id)
                .int("position_id", position.id)
                .text("position_no", &position.no)
                .text("batch_no", &line.batch_no)
                .text("expire_date", &line.expire_date)
                .amount("position_goods_count", line.count)
                .close();
        })
        .text("prop1", "")
        .text("prop2", "")
        .close();
}

fn enterprise_outbound(out: &mut String, record: &Outbound) {
    let people = seed::people(record.flavour);
    let totals = totals(record);
    let outer_no = seed::outer_no(record.flavour);
    let mut object = Object::open(out, Edition::Enterprise, record.overrides.as_deref());
    object
        .int("stockout_id", record.id)
        .text("order_no", &record.order_no)
        .text("src_order_no", &record.src_order_no)
        .text("warehouse_no", &record.warehouse_no);
    if let Some(at) = record.shipped {
        object.text("consign_time", &beijing(at));
    }
    object
        .int("status", record.status)
        .int("order_type", 3)
        .amount("goods_count", totals.count)
        .amount("goods_total_amount", totals.amount)
        .amount("goods_total_cost", totals.cost)
        .amount("post_fee", Amount(i128::from(record.flavour % 40) * 2500))
        .text("logistics_no", &record.logistics_no)
        .amount("package_fee", Amount(0))
        .text("receiver_name", "")
        .int("receiver_country", 0)
        .int("receiver_province", 0)
        .int("receiver_city", 0)
        .int("receiver_district", 0)
        .text("receiver_address", "")
        .text("receiver_mobile", "")
        .text("receiver_telno", "")
        .text("receiver_zip", "")
        .text("remark", &record.remark)
        .amount("weight", Amount(i128::from(record.flavour % 97) * 1250))
        .text("stockout_reason", "")
        .text("subtype", "")
        .text("outer_no", &outer_no)
        .text("operator_name", if record.by_api { "" } else { people.clerk })
        .text("receiver_area", &format!("{} {} {}", people.province, people.city, people.district))
        .text("return_no", &record.src_order_no)
        .text("provider_no", &record.provider_no)
        .text("provider_name", seed::provider_name(&record.provider_no))
        .text("pr_api_outer_no", &outer_no)
        .text("last_load_purchase_no", "")
        .text("modified", &beijing(record.modified))
        .text("order_type_name", "采购退货出库")
        .list("details_list", &record.lines, |out, line| {
            enterprise_outbound_line(out, record, line)
        })
        .close();
}

fn enterprise_outbound_line(out: &mut String, record: &Outbound, line: &OutboundLine) {
    let goods = seed::goods(&line.spec_no);
    Object::open(out, Edition::Enterprise, None)
        .int("rec_id", line.rec_id)
        .int("stockout_id", record.id)
        .text("spec_no", &line.spec_no)
        .amount("goods_count", line.count)
        .amount("total_amount", line.count.times(line.price))
        .amount("sell_price", line.price)
        .text("remark", &line.remark)
        .text("brand_no", goods.brand_no)
        .text("brand_name", goods.brand)
        .text("goods_name", goods.name)
        .text("goods_no", &goods.goods_no)
        .text("goods_unit", if line.unit_name.is_empty() { goods.unit } else { &line.unit_name })
        .text("batch_no", &line.batch_no)
        .text("spec_name", goods.spec_name)
        .text("spec_code", &goods.spec_code)
        .amount("cost_price", cost_of(line))
        .amount("weight", Amount(2000))
        .int("goods_type", 1)
        .close();
}
