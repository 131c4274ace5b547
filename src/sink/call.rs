//! Hop 4: call once, or ask whether a call had its effect.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Duration,
};

use crate::{
    clock::{Moment, Timestamp},
    config::CommandSettings,
    crash::{self, Point},
    erp::{
        Call, Class, Erp, OUTBOUND_STATUSES, OrderLine, OrderRequest, OutboundHead, Page,
        PageRequest, QueryFault, Selection, SendGuard,
    },
    kafka::{Group, Lease},
    schema::CreateReturnOutbound,
};

use super::{
    journal::{Finding, both_show, may_send},
    validate::{marker_of, remark_as_sent},
};

pub(super) const PAGE_SIZE: u32 = 100;
/// Orders created this long before the intent are nobody's suspect: clocks differ.
pub(super) const SUSPECT_MARGIN: Duration = Duration::from_secs(300);

/// Holds a call back when its intent ran out or its partition went to another owner.
#[derive(Debug)]
pub(super) struct Guard {
    pub group: Group,
    pub lease: Lease,
    pub send_by: Moment,
}

impl SendGuard for Guard {
    fn may_send(&self) -> bool {
        may_send(self.group.owns(self.lease), self.send_by, Moment::now())
    }
}

/// The order as it is sent.
#[must_use]
pub fn order_request(command: &CreateReturnOutbound, marker: &str) -> OrderRequest {
    OrderRequest {
        return_no: command.return_no.clone(),
        warehouse_no: command.warehouse_no.clone(),
        logistics_code: command.logistics_code.clone(),
        create_mode: command.create_mode.map(|mode| mode.code()),
        remark: remark_as_sent(marker, command.remark.as_deref()),
        details: command
            .details
            .iter()
            .map(|line| OrderLine {
                spec_no: line.spec_no.clone(),
                num: line.num,
                unit_name: line.unit_name.clone(),
                position_no: line.position_no.clone(),
                batch_no: line.batch_no.clone(),
                expire_date: line.expire_date.clone(),
                defect: line.defect,
                remark: line.remark.clone(),
            })
            .collect(),
    }
}

/// What a lookup is about.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub return_no: String,
    pub marker: String,
    /// When the first intent was written; where there is none, when the record was first sent.
    /// `None` when nobody knows.
    pub since: Option<Timestamp>,
    /// Order numbers that the journal gives to other commands of this return.
    pub claimed: HashSet<String>,
}

/// Looks for the marker among the outbound orders of the return: in the listed statuses, and on
/// absence once more without `status`. Answers `Absent` only when both were answered completely.
pub(super) async fn ask(erp: &Erp, question: &Question, settings: &CommandSettings) -> Finding {
    let mut seen = Vec::new();
    let mut first_asked: Option<Moment> = None;
    for status in [Some(OUTBOUND_STATUSES), None] {
        let (heads, asked_at) =
            match orders_of_return(erp, &question.return_no, status, settings.call_timeout).await {
                Ok(answer) => answer,
                Err(reason) => return Finding::Failed(reason),
            };
        let asked_at = *first_asked.get_or_insert(asked_at);
        seen.extend(heads);
        let finding = finding_of(&seen, question, asked_at);
        if matches!(finding, Finding::Found(_)) {
            return finding;
        }
        if status.is_some() {
            crash::point(Point::LookUpHalf);
        }
    }
    first_asked.map_or_else(
        || Finding::Failed("nothing was asked".into()),
        |asked_at| finding_of(&seen, question, asked_at),
    )
}

/// Whether both queries show the order that carries this marker, in this warehouse.
///
/// # Errors
/// Why the ERP could not be asked, as a sentence.
pub(super) async fn shown(
    erp: &Erp,
    return_no: &str,
    marker: &str,
    warehouse_no: &str,
    timeout: Duration,
) -> Result<bool, String> {
    let mut shown = [false; 2];
    for (shown, status) in shown.iter_mut().zip([Some(OUTBOUND_STATUSES), None]) {
        let (heads, _) = orders_of_return(erp, return_no, status, timeout).await?;
        let here = |head: &OutboundHead| {
            head.warehouse_no.as_deref().is_none_or(|its_own| its_own == warehouse_no)
        };
        *shown = heads.iter().any(|head| marker_of(&head.remark) == Some(marker) && here(head));
    }
    let [with_status, without_status] = shown;
    Ok(both_show(with_status, without_status))
}

/// What complete answers say about a command: our marker, else orders that may be ours with the
/// marker stripped, else nothing since the first was asked for.
#[must_use]
pub(super) fn finding_of(seen: &[OutboundHead], question: &Question, asked_at: Moment) -> Finding {
    let numbers = |wanted: &dyn Fn(&OutboundHead) -> bool| -> Vec<String> {
        let found: BTreeSet<&String> =
            seen.iter().filter(|head| wanted(head)).map(|head| &head.order_no).collect();
        found.into_iter().cloned().collect()
    };
    let ours = numbers(&|head| marker_of(&head.remark) == Some(&question.marker));
    if !ours.is_empty() {
        return Finding::Found(ours);
    }
    let suspects = numbers(&|head| suspicious(head, question));
    if suspects.is_empty() { Finding::Absent { asked_at } } else { Finding::Suspects(suspects) }
}

/// An order without any marker of ours, created since the intent (or the record) less a margin,
/// that no other command claims: somebody may have rewritten its remark.
fn suspicious(head: &OutboundHead, question: &Question) -> bool {
    let late = |since: Timestamp| {
        head.create_time.is_none_or(|created| created >= since.minus(SUSPECT_MARGIN))
    };
    marker_of(&head.remark).is_none()
        && !question.claimed.contains(&head.order_no)
        && question.since.is_none_or(late)
}

/// The outbound orders of a return by number, with the marker each carries, whatever their status
/// (for a person's decision).
///
/// # Errors
/// Why the ERP could not be asked, as a sentence.
pub(crate) async fn orders_of(
    erp: &Erp,
    return_no: &str,
    timeout: Duration,
) -> Result<Vec<(String, Option<String>)>, String> {
    let mut found = BTreeMap::new();
    for status in [Some(OUTBOUND_STATUSES), None] {
        for head in orders_of_return(erp, return_no, status, timeout).await?.0 {
            found.insert(head.order_no, marker_of(&head.remark).map(str::to_owned));
        }
    }
    Ok(found.into_iter().collect())
}

/// The orders of one return, complete.
async fn orders_of_return(
    erp: &Erp,
    return_no: &str,
    status: Option<&str>,
    timeout: Duration,
) -> Result<(Vec<OutboundHead>, Moment), String> {
    let selection = Selection {
        window: None,
        time_type: None,
        return_no: Some(return_no.to_owned()),
        status: status.map(str::to_owned),
        warehouse_no: None,
        provider_no: None,
    };
    orders(erp, &selection, u64::MAX, timeout).await
}

/// The orders created in a period, its ends included, in the listed statuses.
pub(super) fn created_between(start: Timestamp, end: Timestamp) -> Selection {
    Selection {
        window: Some((start, end)),
        time_type: Some(2),
        return_no: None,
        status: Some(OUTBOUND_STATUSES.to_owned()),
        warehouse_no: None,
        provider_no: None,
    }
}

/// One page of orders; the first with the count, without which nobody knows whether these are all.
///
/// # Errors
/// Why the ERP could not be asked, or did not count, as a sentence.
pub(super) async fn page_of(
    erp: &Erp,
    selection: &Selection,
    page_no: u32,
    timeout: Duration,
) -> Result<Page, String> {
    let permit = erp.quota().acquire(Call::QueryOutbounds, Class::Lookup).await;
    let request = PageRequest { page_no, page_size: PAGE_SIZE, count: page_no == 0 };
    let page =
        erp.query(permit, selection, request, timeout).await.map_err(|fault| fault.to_string())?;
    if request.count && page.total_count.is_none() {
        return Err("the ERP sent no total_count with the first page of a lookup".into());
    }
    Ok(page)
}

/// All pages of a set that only grows, of at most `most` orders: distinct ids must reach the count,
/// or the lookup is none.
pub(super) async fn orders(
    erp: &Erp,
    selection: &Selection,
    most: u64,
    timeout: Duration,
) -> Result<(Vec<OutboundHead>, Moment), String> {
    let mut heads: BTreeMap<String, OutboundHead> = BTreeMap::new();
    let mut count = 0_u64;
    let mut asked_at = None;
    let mut page_no = 0;
    loop {
        let page = page_of(erp, selection, page_no, timeout).await?;
        asked_at.get_or_insert(page.asked_at);
        if let Some(total) = page.total_count {
            count = total;
            if count > most {
                return Err(format!("{count} orders are too many to be read"));
            }
        }
        for row in &page.rows {
            let head = OutboundHead::read(&row.json)?;
            heads.insert(head.stockout_id.clone(), head);
        }
        page_no += 1;
        if u64::from(page_no) * u64::from(PAGE_SIZE) >= count {
            break;
        }
    }
    if u64::try_from(heads.len()).unwrap_or(u64::MAX) < count {
        return Err(format!("a lookup showed {} of {count} orders", heads.len()));
    }
    Ok((heads.into_values().collect(), asked_at.unwrap_or_else(Moment::now)))
}

/// A signed read that changes nothing and costs one call: tells whether the ERP answers this
/// account again.
///
/// # Errors
/// The reason as a sentence. A throttled answer is an answer.
pub(super) async fn probe(erp: &Erp, timeout: Duration) -> Result<(), String> {
    let now = Timestamp::now().floor_second();
    let selection = Selection {
        window: Some((now.minus(Duration::from_secs(1)), now)),
        time_type: Some(2),
        return_no: None,
        status: None,
        warehouse_no: None,
        provider_no: None,
    };
    let permit = erp.quota().acquire(Call::QueryOutbounds, Class::Lookup).await;
    match erp
        .query(permit, &selection, PageRequest { page_no: 0, page_size: 1, count: false }, timeout)
        .await
    {
        Ok(_)
        | Err(
            QueryFault::Throttled { .. } | QueryFault::TooWide { .. } | QueryFault::Rejected { .. },
        ) => Ok(()),
        Err(
            fault @ (QueryFault::Unreachable { .. }
            | QueryFault::Unusable { .. }
            | QueryFault::Unlisted { .. }
            | QueryFault::TooLong { .. }
            | QueryFault::Misconfigured { .. }),
        ) => Err(fault.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(remark: &str, create_time: Option<Timestamp>) -> OutboundHead {
        OutboundHead {
            stockout_id: "1".into(),
            order_no: "CK1".into(),
            src_order_no: None,
            warehouse_no: None,
            remark: remark.into(),
            create_time,
            status: None,
        }
    }

    #[test]
    fn suspects_are_orders_without_marker_since_the_command_that_nobody_claims() {
        let mut question = Question {
            return_no: "R".into(),
            marker: super::super::validate::marker("R", "c"),
            since: Some(Timestamp(1_000_000)),
            claimed: HashSet::new(),
        };
        assert!(suspicious(&head("rewritten", Some(Timestamp(1_000_000))), &question));
        assert!(suspicious(&head("", None), &question));
        assert!(!suspicious(&head("", Some(Timestamp(699_999))), &question));
        assert!(!suspicious(
            &head(&super::super::validate::marker("R", "other"), Some(Timestamp(1_000_000))),
            &question
        ));
        question.claimed.insert("CK1".into());
        assert!(!suspicious(&head("rewritten", Some(Timestamp(1_000_000))), &question));
        let unknown = Question { since: None, claimed: HashSet::new(), ..question };
        assert!(suspicious(&head("", Some(Timestamp(0))), &unknown), "at any time");
    }
}
