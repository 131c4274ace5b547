//! Whether lookups see our orders in a warehouse: an absence decides only if, after it was
//! answered, the newest order of ours there is shown by the same queries. A permission that was
//! narrowed, another appkey, a proxy or a replica that stands would make every lookup blind.

use std::{collections::HashMap, time::Duration};

use crate::{
    clock::{Moment, Timestamp},
    erp::{Erp, OutboundHead},
    explanation::Explanation,
};

use super::{
    call::{PAGE_SIZE, created_between, page_of, shown},
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

/// By warehouse, the newest orders of ours: the last one, and earlier ones for while it is too
/// young to be visible for certain.
#[derive(Debug, Default)]
pub(super) struct References(HashMap<String, Vec<Reference>>);

impl References {
    /// An order exists for certain. `lag`: `erp.max_visibility_lag`.
    pub(super) fn note(&mut self, warehouse_no: &str, order: Reference, lag: Duration) {
        // Of an owner whose clock is ahead: it exists now.
        let created_at = order.created_at.min(Timestamp::now());
        let order = Reference { created_at, ..order };
        // A restore notes every order of its journal: most are of warehouses that are known.
        let Some(kept) = self.0.get_mut(warehouse_no) else {
            self.0.insert(warehouse_no.to_owned(), vec![order]);
            return;
        };
        kept.push(order);
        kept.sort_by_key(|order| order.created_at);
        // Whatever the moment, one of three is as old as the lag and less than two lags older than
        // the newest that is: the last before the lag, the first after it, and the newest.
        let Some(newest) = kept.last().map(|order| order.created_at) else { return };
        let old = kept.iter().rposition(|order| order.created_at <= newest.minus(lag));
        kept.drain(..old.unwrap_or(0));
        if let Some(between) = kept.len().checked_sub(1).filter(|last| *last > 2) {
            kept.drain(2..between);
        }
    }

    /// Those of a journal that was restored, or that a search has shown.
    pub(super) fn merge(&mut self, others: Self, lag: Duration) {
        for (warehouse_no, orders) in others.0 {
            for order in orders {
                self.note(&warehouse_no, order, lag);
            }
        }
    }

    /// The newest order of the warehouse that was made before this.
    fn newest(&self, warehouse_no: &str, before: Timestamp) -> Option<&Reference> {
        self.0.get(warehouse_no)?.iter().rfind(|order| order.created_at <= before)
    }

    /// The first order of a warehouse, if all that are known were made after this.
    fn too_young(&self, warehouse_no: &str, before: Timestamp) -> Option<&Reference> {
        self.0.get(warehouse_no)?.first().filter(|order| order.created_at > before)
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

/// Also between two searches for an order to ask for, which cost more.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What came of a check.
#[derive(Debug)]
pub(super) struct Checked {
    pub visibility: Visibility,
    /// Orders of ours that a search has shown, of whatever warehouse.
    pub found: References,
    pub searched: bool,
    /// [`Erp::account`] of the check.
    pub account: u64,
}

/// Periods of creation in which an order of ours is looked for where none is known, the shortest
/// first: the ERP answers for 30 days at most.
const PERIODS: [Duration; 4] = [
    Duration::from_secs(3600),
    Duration::from_secs(24 * 3600),
    Duration::from_secs(7 * 24 * 3600),
    Duration::from_secs(30 * 24 * 3600 - 3600),
];
/// Pages of a period that are read at most. Where that is not all of it, a longer period would show
/// the same pages again.
const MOST_PAGES: u32 = 5;

/// Looks for an order of ours in the warehouse, created before `before`; `found` keeps those of
/// other warehouses, too. The query's own filter for a warehouse shows ordinary warehouses only, so
/// it is not used. Answers how many orders were read, and whether those were all.
///
/// # Errors
/// Why the ERP could not be asked, as a sentence.
async fn find(
    erp: &Erp,
    warehouse_no: &str,
    before: Timestamp,
    timeout: Duration,
    found: &mut References,
) -> Result<(u64, bool), String> {
    let mut read = 0;
    for period in PERIODS {
        let selection = created_between(before.minus(period).floor_second(), before.floor_second());
        let (mut count, mut all) = (0, false);
        read = 0;
        for page_no in 0..MOST_PAGES {
            let page = page_of(erp, &selection, page_no, timeout).await?;
            count = page.total_count.unwrap_or(count);
            read += u64::try_from(page.rows.len()).unwrap_or(u64::MAX);
            // A row that cannot be read is no order of ours.
            let heads = page.rows.iter().filter_map(|row| OutboundHead::read(&row.json).ok());
            for (of_warehouse, order) in heads.filter_map(ours) {
                found.note(&of_warehouse, order, Duration::ZERO);
            }
            all = u64::from(page_no + 1) * u64::from(PAGE_SIZE) >= count;
            if all {
                break;
            }
        }
        if found.newest(warehouse_no, before).is_some() || !all {
            return Ok((read, all));
        }
    }
    Ok((read, true))
}

/// Warehouse and reference of an order, if it is one of ours.
fn ours(head: OutboundHead) -> Option<(String, Reference)> {
    let marker = marker_of(&head.remark)?.to_owned();
    let (return_no, created_at) = (head.src_order_no?, head.create_time?);
    Some((head.warehouse_no?, Reference { return_no, marker, created_at }))
}

/// One check: the known order, or one that is looked for and then in `found`.
async fn visibility(
    erp: &Erp,
    warehouse_no: &str,
    known: Option<Reference>,
    before: Timestamp,
    timeout: Duration,
    found: &mut References,
) -> Visibility {
    let order = match known {
        Some(order) => order,
        None => match find(erp, warehouse_no, before, timeout, found).await {
            Err(reason) => return Visibility::Failed(reason),
            Ok((read, all)) => match found.newest(warehouse_no, before) {
                Some(order) => order.clone(),
                None => return nothing_found(warehouse_no, read, all),
            },
        },
    };
    match shown(erp, &order.return_no, &order.marker, warehouse_no, timeout).await {
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

fn nothing_found(warehouse_no: &str, read: u64, all: bool) -> Visibility {
    let (among, among_zh) = if all {
        ("the orders of the last 30 days".to_owned(), "近 30 天的出库单".to_owned())
    } else {
        (format!("the {read} orders that were read"), format!("已读取的 {read} 张出库单"))
    };
    Visibility::Blind(Explanation::new(
        format!(
            "no order with a marker of this connector is known in warehouse {warehouse_no}, and none is among {among}, so that the ERP shows none of this command means nothing; check the appkey's warehouse permission, look for the order in the ERP and resolve the command"
        ),
        format!(
            "仓库 {warehouse_no} 中没有已知的带有本连接器标记的出库单，{among_zh}中也没有，所以查不到此指令的单据并不说明没有创建；请检查 appkey 的仓库权限，在旺店通中核对后裁决此指令"
        ),
    ))
}

impl Engine<'_> {
    /// Checks go out for the warehouses in which a decided absence waits.
    pub(super) fn check(&mut self, now: Moment) {
        if self.breaker.is_open() || self.checks.is_empty() {
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
            let searched = known.is_none();
            let failed = Checked {
                visibility: Visibility::Failed(ABNORMAL.to_owned()),
                found: References::default(),
                searched,
                account,
            };
            let word = Word::new(
                &self.happened,
                Happened::Checked { warehouse_no: warehouse_no.clone(), checked: failed },
            );
            word.after(async move {
                let mut found = References::default();
                let asking = visibility(&erp, &warehouse_no, known, before, timeout, &mut found);
                let mut visibility = asking.await;
                if erp.account() != account {
                    visibility =
                        Visibility::Failed("the credentials were replaced meanwhile".into());
                }
                let checked = Checked { visibility, found, searched, account };
                Happened::Checked { warehouse_no, checked }
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
    pub(super) fn checked(&mut self, warehouse_no: &str, mut checked: Checked) {
        let now = Moment::now();
        let lag = self.parts.settings.max_visibility_lag;
        self.references.merge(std::mem::take(&mut checked.found), lag);
        let Some(check) = self.checks.get_mut(warehouse_no) else { return };
        let Some(sent) = check.sent.take() else { return };
        if checked.visibility == Visibility::Seen {
            *check = Check::default();
        } else {
            let interval = self.parts.settings.commands.lookup_interval;
            let longest = LONGEST_PAUSE.max(interval);
            check.pause = (check.pause * 2).clamp(interval, longest);
            check.next = now.plus(if checked.searched { longest } else { check.pause });
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
        let sight = Sight { now, circuit_closed: !self.breaker.is_open() };
        for id in waiting {
            self.uncount(id);
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
        let sight = Sight { now, circuit_closed: !self.breaker.is_open() };
        self.uncount(id);
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
        assert_eq!(newest(&references, 130), Some(130), "the last one, once it is old enough");
        assert_eq!(newest(&references, 129), Some(119), "or one before it");
        assert_eq!(newest(&references, 70), Some(60));
        assert_eq!(newest(&references, 59), None, "too young to be visible for certain");
        assert_eq!(
            references.too_young("W", Timestamp(59)).map(|order| order.created_at.0),
            Some(60)
        );
        assert_eq!(references.too_young("W", Timestamp(60)), None);
        assert_eq!(references.newest("elsewhere", Timestamp(1000)), None);
        assert!((0..1000).all(|at| {
            references.note("W", order(200 + at), LAG);
            references.0.get("W").is_some_and(|kept| kept.len() <= 3)
        }));
    }

    #[test]
    fn an_order_of_the_future_is_one_of_now() {
        let mut references = References::default();
        let now = Timestamp::now();
        references.note("W", order(now.0 + 86_400_000), LAG);
        assert!(newest(&references, now.0 + 1000).is_some());
        for at in (1000..3000).step_by(10) {
            references.note("W", order(at), LAG);
        }
        assert!(newest(&references, 2930).is_none_or(|at| at <= 2930));
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
    fn only_an_order_of_ours_is_a_reference() {
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
        assert_eq!(ours(head.clone()), Some(("W".into(), expected)));
        assert_eq!(ours(OutboundHead { remark: "note".into(), ..head.clone() }), None);
        assert_eq!(ours(OutboundHead { src_order_no: None, ..head.clone() }), None);
        assert_eq!(ours(OutboundHead { warehouse_no: None, ..head }), None);
    }
}
