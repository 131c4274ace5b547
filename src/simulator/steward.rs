//! What is done to the ERP from outside its API: records made up and modified, settings changed.

use std::{collections::HashSet, time::Duration};

use super::{
    record::{Change, Kind, Row as _},
    rng::Rng,
    seed::{self, Seeding},
    time::parse_beijing,
    world::{Adjust, FIRST_OUTBOUND, FIRST_RETURN, SEVEN_DAYS, State, World},
};

/// What one request may ask for: more would only end in a lack of memory.
const MOST_RECORDS: u32 = 5_000_000;
const MOST_LINES: u32 = 1000;

/// Draws before a modification is given up because every record rests.
const MOST_DRAWS: u32 = 100;

impl State {
    /// A record that somebody in the background may modify.
    fn one_that_moves(&mut self) -> Option<(Kind, u32)> {
        let (returns, outbounds) = (self.returns.len() as u64, self.outbounds.len() as u64);
        let resting = self.background.resting_records;
        for _ in 0..MOST_DRAWS {
            let at = self.rng.below(returns + outbounds);
            let (kind, first, at) = if at < returns {
                (Kind::PurchaseReturns, FIRST_RETURN, at)
            } else {
                (Kind::Outbounds, FIRST_OUTBOUND, at - returns)
            };
            let id = first.saturating_add(u32::try_from(at).unwrap_or(u32::MAX));
            // The same ones every time.
            let rests = resting > 0.0 && Rng::new(self.seed ^ u64::from(id)).chance(resting);
            if !rests {
                return Some((kind, id));
            }
        }
        None
    }
}

impl World {
    /// Modifies `count` records at random, returns and outbound orders alike.
    pub(super) fn churn(&self, count: u32) {
        let (now, at_ms) = (self.clock.now(), self.at_ms());
        let mut state = self.lock();
        for _ in 0..count {
            let Some((kind, id)) = state.one_that_moves() else { continue };
            let background = state.background;
            // Nothing is drawn for what cannot happen: a seed gives the same modifications as ever.
            let mut meets = |share: f64| share > 0.0 && state.rng.chance(share);
            let (new, late) = (meets(background.new_records), meets(background.late_records));
            let late_ms = late.then(|| 1 + state.rng.below(background.late_records_ms));
            let done = if new {
                state.make(kind, id, now, at_ms, late_ms)
            } else {
                state.touch(kind, id, now, at_ms, late_ms)
            };
            state.background.done += u64::from(done);
        }
    }

    /// Makes up records.
    pub(super) fn seed(&self, kind: Kind, seeding: &Seeding) -> Result<Vec<String>, String> {
        let now = self.clock.now();
        let read = |text: &Option<String>, default| {
            text.as_deref().map_or(Ok(default), |text| {
                parse_beijing(text).ok_or_else(|| {
                    format!("\"{text}\" is not a time; write yyyy-MM-dd HH:mm:ss, Beijing time")
                })
            })
        };
        let to = read(&seeding.to, now)?;
        let from = read(&seeding.from, to - SEVEN_DAYS)?;
        let count = if seeding.return_no.is_some() { 1 } else { seeding.count };
        if count > MOST_RECORDS || seeding.lines.is_some_and(|lines| lines > MOST_LINES) {
            return Err(format!(
                "count is {count}; at most {MOST_RECORDS} records of {MOST_LINES} lines are made up in one go"
            ));
        }
        let mut state = self.lock();
        let mut numbers = Vec::with_capacity(count as usize);
        for n in 0..count {
            let modified = seed::spread(n, count, from, to);
            let State { returns, outbounds, warehouses, seed: chance, .. } = &mut *state;
            match kind {
                Kind::PurchaseReturns => {
                    let record =
                        seed::purchase_return(*chance, returns.next_id(), seeding, modified);
                    if returns.by_number(record.number()).is_some() {
                        return Err(format!(
                            "there is a return {} already; modify it instead",
                            record.number()
                        ));
                    }
                    numbers.push(record.number().to_owned());
                    if !warehouses.contains(record.warehouse_no()) {
                        warehouses.insert(record.warehouse_no().to_owned());
                    }
                    returns.put(record, None);
                }
                Kind::Outbounds => {
                    let record = seed::outbound(*chance, outbounds.next_id(), seeding, modified);
                    numbers.push(record.number().to_owned());
                    outbounds.put(record, None);
                }
            }
        }
        Ok(numbers)
    }

    /// Changes one record by its number.
    pub(super) fn modify(&self, kind: Kind, number: &str, change: &Change) -> Result<(), String> {
        let times = [&change.modified, &change.consign_time];
        if let Some(text) = times.into_iter().flatten().find(|text| parse_beijing(text).is_none()) {
            return Err(format!(
                "\"{text}\" is not a time; write yyyy-MM-dd HH:mm:ss, Beijing time"
            ));
        }
        let (now, at_ms) = (self.clock.now(), self.at_ms());
        let mut state = self.lock();
        let id = match kind {
            Kind::PurchaseReturns => state.returns.by_number(number).map(|record| record.id),
            Kind::Outbounds => state.outbounds.by_number(number).map(|record| record.id),
        };
        let id = id.ok_or_else(|| format!("there is no record with the number {number}"))?;
        state.change(kind, id, change, now, at_ms);
        Ok(())
    }

    /// Changes settings.
    pub(super) fn adjust(&self, adjust: &Adjust) {
        if let Some(offset_ms) = adjust.clock_offset_ms {
            self.clock.set_offset_ms(offset_ms);
        }
        if let Some(rate) = adjust.modifications_per_second {
            self.churn.send_replace(rate);
        }
        if let Some(outage) = adjust.outage {
            self.outage.send_replace(outage);
        }
        let mut state = self.lock();
        if let Some(latency_ms) = adjust.latency_ms {
            state.latency = Duration::from_millis(latency_ms);
        }
        if let Some(limit) = adjust.quota_per_minute {
            state.quotas.iter_mut().for_each(|quota| quota.set_limit((limit > 0).then_some(limit)));
        }
        state.quota_by_account = adjust.quota_by_account.unwrap_or(state.quota_by_account);
        if let Some(most) = adjust.max_concurrent {
            state.max_concurrent = (most > 0).then_some(most);
        }
        if let Some(order) = adjust.page_order {
            state.returns.set_order(order);
            state.outbounds.set_order(order);
        }
        if let Some(shuffle) = adjust.shuffle_equal {
            state.returns.shuffle_equal(shuffle);
            state.outbounds.shuffle_equal(shuffle);
        }
        if let Some(rule) = adjust.enterprise_window {
            state.enterprise_window = rule;
        }
        if let Some(cap) = adjust.page_cap {
            state.page_cap = (cap > 0).then_some(cap);
        }
        if let Some(statuses) = adjust.default_statuses.clone() {
            state.default_statuses = statuses;
        }
        let background = &mut state.background;
        background.new_records = adjust.new_records.unwrap_or(background.new_records);
        background.resting_records = adjust.resting_records.unwrap_or(background.resting_records);
        background.late_records = adjust.late_records.unwrap_or(background.late_records);
        background.late_records_ms = adjust.late_records_ms.unwrap_or(background.late_records_ms);
        state.visibility_ms = adjust.visibility_ms.or(state.visibility_ms);
        state.auto_returns = adjust.auto_returns.unwrap_or(state.auto_returns);
        state.warehouses.extend(adjust.add_warehouses.iter().cloned());
        state.specs.extend(adjust.add_specs.iter().cloned());
        state.carriers.extend(adjust.add_carriers.iter().cloned());
        if let Some(forbidden) = &adjust.forbidden_warehouses {
            state.forbidden_warehouses = forbidden.iter().cloned().collect();
        }
        if let Some(hidden) = &adjust.hidden_warehouses {
            let hidden: HashSet<String> = hidden.iter().cloned().collect();
            state.returns.hide_warehouses(hidden.clone());
            state.outbounds.hide_warehouses(hidden);
        }
        if let Some(unpermitted) = &adjust.unpermitted_warehouses {
            let unpermitted: HashSet<String> = unpermitted.iter().cloned().collect();
            state.returns.withhold_warehouses(unpermitted.clone());
            state.outbounds.withhold_warehouses(unpermitted);
        }
        if let Some(after) = adjust.unpermitted_after_limit {
            state.returns.withhold_after_limit(after);
            state.outbounds.withhold_after_limit(after);
        }
        if let Some(batches) = &adjust.disabled_batches {
            state.disabled_batches = batches.iter().cloned().collect();
        }
    }
}
