//! After a crash many intents may be open at once: one query over everything created since the
//! oldest of them comes before single lookups. A marker it shows settles its command; a marker it
//! does not show decides nothing, and the command is looked up by itself.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use crate::{
    clock::{Moment, Timestamp},
    erp::Erp,
    kafka::Lease,
    schema::JournalEntry,
};

use super::{
    call::{PAGE_SIZE, SUSPECT_MARGIN, created_between, orders},
    engine::{ABNORMAL, Engine, Happened, SlotId, Waits, Word},
    journal::{Finding, Sight},
    validate::marker_of,
};

/// Fewer open intents are looked up one by one.
const LEAST: usize = 4;
/// The ERP answers for 30 days at most; what is older is looked up by itself.
const WIDEST: Duration = Duration::from_secs(30 * 24 * 3600 - 3600);

/// Orders by the marker they carry.
pub(super) type Sightings = HashMap<String, Vec<String>>;

/// The period in which the orders of these intents were created, clocks differing by the margin;
/// `None` for too few.
fn period<'a>(
    intents: impl Iterator<Item = &'a JournalEntry>,
    now: Timestamp,
) -> Option<(Timestamp, Timestamp, usize)> {
    let begun: Vec<Timestamp> =
        intents.map(|entry| entry.first_intent_at.unwrap_or(entry.written_at)).collect();
    let oldest = begun.iter().min()?;
    let newest = begun.iter().max()?;
    let end = now.max(*newest).plus(SUSPECT_MARGIN).floor_second();
    let start = oldest.minus(SUSPECT_MARGIN).max(end.minus(WIDEST)).floor_second();
    (begun.len() >= LEAST).then_some((start, end, begun.len()))
}

/// Every order created in the period that carries one of the markers.
async fn sight(
    erp: &Erp,
    (start, end, intents): (Timestamp, Timestamp, usize),
    markers: &HashSet<String>,
    timeout: Duration,
) -> Result<Sightings, String> {
    let selection = created_between(start, end);
    // More pages than intents would cost more than asking for each by itself.
    let most = u64::try_from(intents).unwrap_or(u64::MAX).saturating_mul(u64::from(PAGE_SIZE));
    let (heads, _) = orders(erp, &selection, most, timeout).await?;
    let mut found = Sightings::new();
    for head in heads {
        if let Some(marker) = marker_of(&head.remark).filter(|marker| markers.contains(*marker)) {
            found.entry(marker.to_owned()).or_default().push(head.order_no);
        }
    }
    Ok(found)
}

impl Engine<'_> {
    /// Asks once for all open intents of partitions that were just taken over.
    pub(super) fn ask_for_all(&mut self, leases: &[Lease]) {
        let taken = || {
            leases.iter().filter_map(|lease| {
                self.partitions.get(&lease.partition).filter(|partition| partition.lease == *lease)
            })
        };
        let intents = || taken().flat_map(|partition| partition.open.values());
        let Some(period) = period(intents(), Timestamp::now()) else { return };
        let markers: HashSet<String> = intents().map(|entry| entry.marker.clone()).collect();
        tracing::info!(open_intents = period.2, "looking up all open intents in one query");
        let leases = leases.to_vec();
        for lease in &leases {
            if let Some(partition) = self
                .partitions
                .get_mut(&lease.partition)
                .filter(|partition| partition.lease == *lease)
            {
                partition.sightings = None;
            }
        }
        self.counts.bundles += 1;
        let (erp, timeout) = (self.parts.erp.clone(), self.parts.settings.commands.call_timeout);
        let word = Word::new(
            &self.happened,
            Happened::Sighted { leases: leases.clone(), result: Err(ABNORMAL.to_owned()) },
        );
        word.after(async move {
            let result = sight(&erp, period, &markers, timeout).await;
            Happened::Sighted { leases, result }
        });
    }

    /// The answer for all: what was seen settles, everything else is asked about by itself.
    pub(super) fn sighted(&mut self, leases: &[Lease], result: Result<Sightings, String>) {
        let sightings = result.unwrap_or_else(|reason| {
            tracing::info!(
                error = %reason,
                "bulk lookup failed; looking up open intents one by one"
            );
            Sightings::new()
        });
        for lease in leases {
            if let Some(partition) = self
                .partitions
                .get_mut(&lease.partition)
                .filter(|partition| partition.lease == *lease)
            {
                partition.sightings = Some(sightings.clone());
            }
        }
        let waiting: Vec<SlotId> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.waits == Waits::Sighting && leases.contains(&slot.lease))
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            self.resume(id);
        }
    }

    /// A command whose intent was open at the takeover: seen already, or to be asked about now.
    pub(super) fn resume(&mut self, id: SlotId) {
        let now = Moment::now();
        let circuit_closed = !self.breaker.is_open();
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let Some(partition) = self.partitions.get(&slot.lease.partition) else { return };
        let Some(sightings) = &partition.sightings else {
            slot.waits = Waits::Sighting;
            return;
        };
        match sightings.get(&slot.life.marker).cloned() {
            Some(orders) => {
                let sight = Sight { now, circuit_closed };
                let step = slot.life.looked_up(Finding::Found(orders), sight, &self.timing);
                self.counts.sighted += 1;
                self.step(id, step);
            }
            None => self.wake_at(id, Waits::Ask, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{schema::EntryKind, sink::settle::bare_entry};

    #[test]
    fn the_period_covers_every_intent_and_clocks_that_differ() {
        let intents: Vec<JournalEntry> = [500_000, 400_000, 900_000, 450_000]
            .into_iter()
            .map(|at| JournalEntry {
                first_intent_at: Some(Timestamp(at)),
                ..bare_entry(EntryKind::Intent, 0, "W", Timestamp(at + 1))
            })
            .collect();
        assert_eq!(
            period(intents.iter(), Timestamp(600_000)),
            Some((Timestamp(100_000), Timestamp(1_200_000), 4))
        );
        assert_eq!(
            period(intents.iter().take(3), Timestamp(600_000)),
            None,
            "few are asked about one by one"
        );
        let month_later = Timestamp(600_000).plus(Duration::from_secs(40 * 24 * 3600));
        let (start, end, _) = period(intents.iter(), month_later).unwrap();
        assert!(
            end.minus(Duration::from_secs(30 * 24 * 3600)) < start,
            "no more than the ERP answers for"
        );
    }
}
