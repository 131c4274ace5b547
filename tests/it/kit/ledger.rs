//! What must hold in the end, read from the ERP's ledger and from the results topic.

use std::collections::{BTreeMap, BTreeSet};

use wdt_connector::testing::schema::{CommandResult, CreateReturnOutbound, Outcome};

use super::rig::Rig;

/// What the ledger says against the commands that were sent, once each.
#[derive(Debug, Default)]
pub struct Verdict {
    pub orders: usize,
    pub results: usize,
    pub recovered: usize,
    /// Markers with more than one order.
    pub duplicates: Vec<String>,
    /// Commands without a result, or `CREATED` without an order.
    pub losses: Vec<String>,
    /// Records with more than one result.
    pub repeated: Vec<String>,
    /// Results other than `CREATED` with an order that exists.
    pub wrong: Vec<String>,
}

impl Verdict {
    /// Of commands that were all sent once, and which the ERP would all take.
    pub fn of(rig: &Rig, commands: &[CreateReturnOutbound], results: &[CommandResult]) -> Self {
        let mut verdict = Self { results: results.len(), ..Self::default() };
        let mut orders: BTreeMap<(String, Option<String>), Vec<String>> = BTreeMap::new();
        for order in rig.erp.orders() {
            verdict.orders += 1;
            orders
                .entry((order.return_no.clone(), order.marker.clone()))
                .or_default()
                .push(order.order_no);
        }
        verdict.duplicates = orders
            .iter()
            .filter(|(_, all)| all.len() > 1)
            .map(|(key, all)| format!("{key:?}: {all:?}"))
            .collect();
        let known: BTreeSet<&String> = orders.values().flatten().collect();
        let mut by_record: BTreeMap<(i32, i64), usize> = BTreeMap::new();
        let mut answered: BTreeSet<(&str, &str)> = BTreeSet::new();
        for result in results {
            *by_record.entry((result.source_partition, result.source_offset)).or_default() += 1;
            answered.insert((&result.return_no, &result.command_id));
            verdict.recovered += usize::from(result.recovered);
            let exists = result.outbound_no.as_ref().is_some_and(|number| known.contains(number));
            if result.outcome != Outcome::Created {
                verdict.wrong.push(format!("{result:?}"));
            } else if !exists {
                verdict.losses.push(format!("created without an order: {result:?}"));
            }
        }
        verdict.repeated = by_record
            .iter()
            .filter(|(_, count)| **count > 1)
            .map(|(at, count)| format!("{at:?}: {count} results"))
            .collect();
        let unanswered = commands
            .iter()
            .filter(|one| !answered.contains(&(one.return_no.as_str(), one.command_id.as_str())));
        verdict.losses.extend(
            unanswered.map(|one| format!("no result: {} {}", one.return_no, one.command_id)),
        );
        verdict
    }

    /// Panics unless every command has exactly one order and one result, which names it.
    pub fn assert_each_once(&self, commands: usize, what: &str) {
        let faults: Vec<&String> = [&self.duplicates, &self.losses, &self.repeated, &self.wrong]
            .into_iter()
            .flatten()
            .collect();
        assert!(faults.is_empty(), "{what}: {faults:#?}");
        assert_eq!((self.orders, self.results), (commands, commands), "{what}: orders and results");
    }
}
