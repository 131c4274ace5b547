//! Whether lookups see our orders in a warehouse: an absence decides only if, after it was
//! answered, the newest order of ours there is shown by the same queries. A permission that was
//! narrowed, another appkey, a proxy or a replica that stands would make every lookup blind.

use std::{collections::HashMap, time::Duration};

use crate::{
    clock::{Moment, Timestamp},
    erp::{Call, Class, Erp, OutboundHead, PageRequest, Selection},
    explanation::Explanation,
};

use super::{
    breaker::Circuit,
    call::{PAGE_SIZE, STATUSES, shown},
    engine::{ABNORMAL, Engine, Happened, SlotId, Waits, Word},
    journal::{Sight, Visibility, covers},
    validate::marker_of,
};

/// An order of ours that exists for certain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub return_no: String,
    pub marker: String,
    /// At the latest.
    pub created_at: Timestamp,
}

/// By warehouse, the newest order of ours that the ERP must show by now, and one that takes its
/// place once it is as old.
#[derive(Debug, Default)]
pub(super) struct References(HashMap<String, Newest>);

#[derive(Debug, Default)]
struct Newest {
    old: Option<Reference>,
    young: Option<Reference>,
}

impl References {
    /// An order exists for certain. `lag`: `erp.max_visibility_lag`.
    pub(super) fn note(&mut self, warehouse_no: &str, order: Reference, lag: Duration) {
        let Newest { old, young } = self.0.entry(warehouse_no.to_owned()).or_default();
        match young {
            // Between two of them lies the lag, so that few are kept and one is always old enough.
            Some(kept) if order.created_at >= kept.created_at.plus(lag) => {
                *old = young.replace(order);
            }
            Some(kept) if order.created_at >= kept.created_at => {}
            Some(_) if old.as_ref().is_some_and(|old| order.created_at < old.created_at) => {}
            Some(_) => *old = Some(order),
            None => *young = Some(order),
        }
    }

    /// Those of a journal that was restored.
    pub(super) fn merge(&mut self, others: Self, lag: Duration) {
        for (warehouse_no, Newest { old, young }) in others.0 {
            for order in [old, young].into_iter().flatten() {
                self.note(&warehouse_no, order, lag);
            }
        }
    }

    /// The newest order of the warehouse that was made before this.
    fn newest(&self, warehouse_no: &str, before: Timestamp) -> Option<&Reference> {
        let Newest { old, young } = self.0.get(warehouse_no)?;
        young.as_ref().filter(|young| young.created_at <= before).or(old.as_ref())
    }

    /// The only order of the warehouse that is known, made after this.
    fn too_young(&self, warehouse_no: &str, before: Timestamp) -> Option<&Reference> {
        let Newest { old, young } = self.0.get(warehouse_no)?;
        young.as_ref().filter(|young| old.is_none() && young.created_at > before)
    }
}

/// A warehouse's checks, as long as somebody waits for one.
#[derive(Debug, Default)]
pub(super) struct Check {
    /// Where the one on its way stands in the order of events.
    sent: Option<u64>,
    /// Not before.
    next: Moment,
    /// Between the last one and the next one: `commands.lookup_interval`, doubled each time, since
    /// each costs two calls or more.
    pause: Duration,
}

const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What came of a check.
#[derive(Debug)]
pub(super) struct Checked {
    pub visibility: Visibility,
    /// [`Erp::account`] of the check.
    pub account: u64,
}

/// Periods of creation in which an order of ours is looked for where none is known, each one call
/// or some: the ERP answers for 30 days at most.
const PERIODS: [Duration; 3] = [
    Duration::from_secs(24 * 3600),
    Duration::from_secs(7 * 24 * 3600),
    Duration::from_secs(30 * 24 * 3600 - 3600),
];
/// Pages of a period that are read at most: any order of ours will do.
const MOST_PAGES: u32 = 10;

/// An order of ours in the warehouse, created before `before`. The query's own filter for a
/// warehouse shows ordinary warehouses only, so it is not used.
///
/// # Errors
/// Why the ERP could not be asked, as a sentence.
async fn find(
    erp: &Erp,
    warehouse_no: &str,
    before: Timestamp,
    timeout: Duration,
) -> Result<Option<Reference>, String> {
    for period in PERIODS {
        let selection = Selection {
            window: Some((before.minus(period).floor_second(), before.floor_second())),
            time_type: Some(2),
            return_no: None,
            status: Some(STATUSES.to_owned()),
            warehouse_no: None,
            provider_no: None,
        };
        let (mut newest, mut count): (Option<Reference>, u64) = (None, 0);
        for page_no in 0..MOST_PAGES {
            let permit = erp.quota().acquire(Call::QueryOutbounds, Class::Lookup).await;
            let request = PageRequest { page_no, page_size: PAGE_SIZE, count: page_no == 0 };
            let page = erp
                .query(permit, &selection, request, timeout)
                .await
                .map_err(|fault| fault.to_string())?;
            count = page.total_count.unwrap_or(count);
            for row in &page.rows {
                let found = ours(OutboundHead::read(&row.json)?, warehouse_no);
                newest = newest.into_iter().chain(found).max_by_key(|order| order.created_at);
            }
            if u64::from(page_no + 1) * u64::from(PAGE_SIZE) >= count {
                break;
            }
        }
        if newest.is_some() {
            return Ok(newest);
        }
    }
    Ok(None)
}

/// The order as a reference, if it is one of ours in this warehouse.
fn ours(head: OutboundHead, warehouse_no: &str) -> Option<Reference> {
    let marker = marker_of(&head.remark)?.to_owned();
    (head.warehouse_no.as_deref() == Some(warehouse_no)).then_some(())?;
    Some(Reference { return_no: head.src_order_no?, marker, created_at: head.create_time? })
}

/// One check: the known order, or one that is looked for.
async fn visibility(
    erp: &Erp,
    warehouse_no: &str,
    known: Option<Reference>,
    before: Timestamp,
    timeout: Duration,
) -> Visibility {
    let order = match known {
        Some(order) => Ok(Some(order)),
        None => find(erp, warehouse_no, before, timeout).await,
    };
    let order = match order {
        Ok(Some(order)) => order,
        Ok(None) => {
            return Visibility::Blind(Explanation::new(
                format!(
                    "the ERP shows no outbound order with a marker of this connector in warehouse {warehouse_no}, so that it shows none of this command means nothing; check the appkey's warehouse permission, look for the order in the ERP and resolve the command"
                ),
                format!(
                    "在仓库 {warehouse_no} 查不到任何带有本连接器标记的出库单，所以查不到此指令的单据并不说明没有创建；请检查 appkey 的仓库权限，在旺店通中核对后裁决此指令"
                ),
            ));
        }
        Err(reason) => return Visibility::Failed(reason),
    };
    match shown(erp, &order.return_no, &order.marker, timeout).await {
        Ok(true) => Visibility::Seen,
        Ok(false) => Visibility::Blind(Explanation::new(
            format!(
                "the ERP does not show an outbound order of return {} that exists in warehouse {warehouse_no}, so that it shows none of this command means nothing; check the appkey's warehouse permission, look for the order in the ERP and resolve the command",
                order.return_no
            ),
            format!(
                "旺店通查不到仓库 {warehouse_no} 中确实存在的出库单（采购退货单 {}），所以查不到此指令的单据并不说明没有创建；请检查 appkey 的仓库权限，在旺店通中核对后裁决此指令",
                order.return_no
            ),
        )),
        Err(reason) => Visibility::Failed(reason),
    }
}

impl Engine<'_> {
    /// Checks go out for the warehouses in which a decided absence waits.
    pub(super) fn check(&mut self, now: Moment) {
        let open = matches!(self.breaker.circuit(), Circuit::Open { .. });
        if open || self.checks.is_empty() {
            return;
        }
        let slots = &self.slots;
        let waits = |warehouse_no: &str| {
            slots.values().any(|slot| {
                slot.waits == Waits::Visibility
                    && slot.accepted.command.warehouse_no == warehouse_no
            })
        };
        let due = |check: &Check| check.sent.is_none() && check.next <= now;
        self.checks.retain(|warehouse_no, check| !due(check) || waits(warehouse_no));
        for (warehouse_no, check) in self.checks.iter_mut().filter(|(_, check)| due(check)) {
            let settings = &self.parts.settings;
            let before = Timestamp::now().minus(settings.max_visibility_lag);
            if let Some(young) = self.references.too_young(warehouse_no, before) {
                // One call more would find none either.
                let ahead = u64::try_from(young.created_at.0 - before.0).unwrap_or(0);
                check.next = now.plus(Duration::from_millis(ahead));
                continue;
            }
            self.order += 1;
            check.sent = Some(self.order);
            let known = self.references.newest(warehouse_no, before).cloned();
            let (erp, timeout) = (self.parts.erp.clone(), settings.commands.call_timeout);
            let (warehouse_no, account) = (warehouse_no.clone(), erp.account());
            let failed = Visibility::Failed(ABNORMAL.to_owned());
            let word = Word::new(
                &self.happened,
                Happened::Checked {
                    warehouse_no: warehouse_no.clone(),
                    checked: Checked { visibility: failed, account },
                },
            );
            word.after(async move {
                let mut visibility = visibility(&erp, &warehouse_no, known, before, timeout).await;
                if erp.account() != account {
                    visibility =
                        Visibility::Failed("the credentials were replaced meanwhile".into());
                }
                Happened::Checked { warehouse_no, checked: Checked { visibility, account } }
            });
        }
    }

    /// An order of ours exists for certain; who waits for one need not wait longer than until it
    /// must be visible.
    pub(super) fn refer_to(&mut self, warehouse_no: &str, order: Reference) {
        let lag = self.parts.settings.max_visibility_lag;
        self.references.note(warehouse_no, order, lag);
        if let Some(check) = self.checks.get_mut(warehouse_no) {
            check.next = check.next.min(Moment::now().plus(lag));
        }
    }

    /// A check came back: it decides for every absence of the warehouse that was answered before it
    /// was sent.
    pub(super) fn checked(&mut self, warehouse_no: &str, checked: Checked) {
        let now = Moment::now();
        let Some(check) = self.checks.get_mut(warehouse_no) else { return };
        let Some(sent) = check.sent.take() else { return };
        if checked.visibility == Visibility::Seen {
            *check = Check::default();
        } else {
            let interval = self.parts.settings.commands.lookup_interval;
            check.pause = (check.pause * 2).clamp(interval, LONGEST_PAUSE.max(interval));
            check.next = now.plus(check.pause);
        }
        match &checked.visibility {
            Visibility::Seen => {
                tracing::debug!(erp.warehouse_no = warehouse_no, "visibility check passed")
            }
            Visibility::Blind(reason) => tracing::warn!(
                erp.warehouse_no = warehouse_no,
                error = %reason.en(),
                "visibility check found lookups blind; unverified commands wait, retrying"
            ),
            Visibility::Failed(reason) => tracing::info!(
                erp.warehouse_no = warehouse_no,
                error = %reason,
                "visibility check failed; retrying"
            ),
        }
        let waiting: Vec<SlotId> = self
            .slots
            .iter()
            .filter(|(_, slot)| {
                slot.waits == Waits::Visibility
                    && slot.accepted.command.warehouse_no == warehouse_no
                    && slot.absent.is_some_and(|(order, _)| covers(sent, order))
            })
            .map(|(id, _)| *id)
            .collect();
        let sight = Sight { now, circuit_closed: self.breaker.closed() };
        for id in waiting {
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            if slot.absent.is_some_and(|(_, account)| account != checked.account) {
                // The absence was another account's.
                self.wake_at(id, Waits::Ask, now);
                continue;
            }
            let step = slot.life.checked(checked.visibility.clone(), sight, &self.timing);
            tracing::info!(
                command.id = slot.accepted.command.command_id,
                command.return_no = slot.accepted.command.return_no,
                command.attempt = slot.life.attempt,
                command.next_step = step.word(),
                "visibility check finished"
            );
            self.step(id, step);
        }
    }

    /// No check decided in time.
    pub(super) fn no_check_in_time(&mut self, id: SlotId, now: Moment) {
        let sight = Sight { now, circuit_closed: self.breaker.closed() };
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let late = Visibility::Failed("no check in time".to_owned());
        let step = slot.life.checked(late, sight, &self.timing);
        self.step(id, step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAG: Duration = Duration::from_millis(60);

    fn order(at: i64) -> Reference {
        Reference {
            return_no: format!("R{at}"),
            marker: "#m".to_owned(),
            created_at: Timestamp(at),
        }
    }

    fn newest(references: &References, before: i64) -> Option<i64> {
        references.newest("W", Timestamp(before)).map(|order| order.created_at.0)
    }

    #[test]
    fn the_newest_order_that_must_be_visible_is_asked_for() {
        let mut references = References::default();
        assert_eq!(newest(&references, 1000), None);
        for at in [0, 10, 50, 60, 100, 119, 130] {
            references.note("W", order(at), LAG);
        }
        // Of those in between one in every lag is kept.
        assert_eq!(newest(&references, 129), Some(60));
        assert_eq!(newest(&references, 59), Some(60), "better than none");
        references.note("W", order(120), LAG);
        references.note("W", order(180), LAG);
        assert_eq!(newest(&references, 129), Some(120));

        assert_eq!(references.newest("elsewhere", Timestamp(1000)), None);
    }

    #[test]
    fn a_restored_journal_is_noted_in_any_order() {
        for orders in [[0, 500, 1000], [1000, 500, 0], [500, 1000, 0]] {
            let mut references = References::default();
            for at in orders {
                references.note("W", order(at), LAG);
            }
            assert_eq!(newest(&references, 1000), Some(1000), "{orders:?}");
            assert_eq!(newest(&references, 999), Some(500), "{orders:?}");
        }
    }

    #[test]
    fn only_an_order_of_ours_in_the_warehouse_is_a_reference() {
        let marker = super::super::validate::marker("R", "c");
        let head = OutboundHead {
            stockout_id: "1".into(),
            order_no: "CK1".into(),
            src_order_no: Some("R".into()),
            warehouse_no: Some("W".into()),
            remark: format!("{marker} note"),
            create_time: Some(Timestamp(7)),
            status: None,
        };
        let expected = Reference { return_no: "R".into(), marker, created_at: Timestamp(7) };
        assert_eq!(ours(head.clone(), "W"), Some(expected));
        assert_eq!(ours(head.clone(), "V"), None);
        assert_eq!(ours(OutboundHead { remark: "note".into(), ..head.clone() }, "W"), None);
        assert_eq!(ours(OutboundHead { src_order_no: None, ..head }, "W"), None);
    }
}
