//! What was asked, what was done, and what the ERP now holds because of it.

use std::collections::{BTreeMap, HashSet, VecDeque};

use serde::Serialize;

use super::{Call, record::Outbound, time::beijing};

/// Requests of one call, by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    /// Complete requests that arrived.
    pub received: u64,
    /// Executed: an order made, a query run.
    pub applied: u64,
    /// Answered with anything at all.
    pub answered: u64,
    /// Executed, and no usable answer of the ERP left: the "maybe happened" of the client.
    pub applied_unanswered: u64,
    /// Refused because of the frequency quota.
    pub refused_frequency: u64,
    /// Refused because too many ran at once.
    pub refused_concurrency: u64,
    /// Refused because of account, signature, timestamp or version.
    pub refused_account: u64,
    /// The ERP said no to the content.
    pub rejected: u64,
    /// Met an ending fault of the script.
    pub faulted: u64,
}

/// One request, for the log.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Request {
    pub seq: u64,
    pub call: Call,
    /// Milliseconds since the simulator started.
    pub at_ms: u64,
    pub applied: bool,
    pub answered: bool,
    pub end: &'static str,
}

/// One outbound order that a request made.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub outbound_id: u32,
    pub request: u64,
    pub at_ms: u64,
    /// As the client sent it, whatever became of the order's remark.
    pub sent_remark: Box<str>,
}

/// An order as the ledger tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Order {
    pub order_no: String,
    pub return_no: String,
    pub warehouse_no: String,
    /// What the ERP holds now.
    pub remark: String,
    /// What the client sent.
    pub sent_remark: String,
    /// The first 14 characters of the sent remark when it starts with `#`.
    pub marker: Option<String>,
    pub status: i32,
    pub created: String,
    pub modified: String,
    /// The request that made it.
    pub request: u64,
    /// When it was made, in milliseconds since the simulator started.
    pub at_ms: u64,
}

/// Orders that carry the same marker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Duplicate {
    pub marker: String,
    pub orders: Vec<String>,
}

/// The short form of the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Summary {
    /// Orders made by requests.
    pub orders: u64,
    pub distinct_markers: u64,
    /// Orders beyond the first of their marker.
    pub duplicates: u64,
    /// Orders whose remark was sent without a marker.
    pub without_marker: u64,
    pub calls: BTreeMap<&'static str, Counts>,
    /// Refusals for the quota, of both kinds and all calls.
    pub refused: u64,
    pub purchase_returns: u64,
    /// All outbound orders, seeded ones included.
    pub outbounds: u64,
    /// Records that somebody in the background has modified or made.
    pub modifications: u64,
    /// How often each fault has struck, spent and forgotten rules included.
    pub faults: BTreeMap<String, u64>,
    /// Changes that no query sees yet.
    pub not_visible_yet: u64,
}

#[derive(Debug)]
pub(super) struct Ledger {
    pub made: Vec<Made>,
    counts: [Counts; 4],
    log: VecDeque<Request>,
    keep: usize,
    next: u64,
}

/// The marker a remark starts with.
pub(super) fn marker(remark: &str) -> Option<&str> {
    let end = remark.char_indices().nth(14).map_or(remark.len(), |(at, _)| at);
    remark.get(..end).filter(|marker| marker.starts_with('#'))
}

impl Ledger {
    /// Keeps the last `keep` requests one by one, and all of them as counts.
    pub(super) fn new(keep: usize) -> Self {
        Self {
            made: Vec::new(),
            counts: [Counts::default(); 4],
            log: VecDeque::new(),
            keep,
            next: 1,
        }
    }

    pub(super) fn count(&mut self, call: Call) -> &mut Counts {
        let [create, returns, outbounds, enterprise] = &mut self.counts;
        match call {
            Call::CreateOrder => create,
            Call::PurchaseReturns => returns,
            Call::Outbounds => outbounds,
            Call::EnterpriseOutbounds => enterprise,
        }
    }

    pub(super) fn counts(&self) -> BTreeMap<&'static str, Counts> {
        Call::ALL.into_iter().zip(self.counts).map(|(call, counts)| (call.name(), counts)).collect()
    }

    /// Notes a request; its number.
    pub(super) fn receive(&mut self, call: Call, at_ms: u64) -> u64 {
        self.count(call).received += 1;
        let seq = self.next;
        self.next += 1;
        if self.log.len() >= self.keep {
            self.log.pop_front();
        }
        if self.keep > 0 {
            self.log.push_back(Request {
                seq,
                call,
                at_ms,
                applied: false,
                answered: false,
                end: "open",
            });
        }
        seq
    }

    /// The log's line of a request, while it is kept.
    pub(super) fn line(&mut self, seq: u64) -> Option<&mut Request> {
        let first = self.log.front()?.seq;
        self.log.get_mut(usize::try_from(seq.checked_sub(first)?).ok()?)
    }

    /// The kept requests after `seq`, oldest first.
    pub(super) fn requests(&self, after: u64, limit: usize) -> Vec<Request> {
        self.log.iter().filter(|request| request.seq > after).take(limit).cloned().collect()
    }

    /// An order as the ledger tells it.
    pub(super) fn order(made: &Made, outbound: &Outbound) -> Order {
        Order {
            order_no: outbound.order_no.to_string(),
            return_no: outbound.src_order_no.to_string(),
            warehouse_no: outbound.warehouse_no.to_string(),
            remark: outbound.remark.to_string(),
            sent_remark: made.sent_remark.to_string(),
            marker: marker(&made.sent_remark).map(str::to_owned),
            status: outbound.status,
            created: beijing(outbound.created),
            modified: beijing(outbound.modified),
            request: made.request,
            at_ms: made.at_ms,
        }
    }

    /// Fills in what the orders say.
    pub(super) fn sum_up(&self, summary: &mut Summary) {
        let mut markers = HashSet::new();
        for made in &self.made {
            summary.orders += 1;
            match marker(&made.sent_remark) {
                None => summary.without_marker += 1,
                Some(marker) if markers.insert(marker) => summary.distinct_markers += 1,
                Some(_) => summary.duplicates += 1,
            }
        }
        summary.calls = self.counts();
        summary.refused = self
            .counts
            .iter()
            .map(|counts| counts.refused_frequency + counts.refused_concurrency)
            .sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_the_first_fourteen_characters() {
        assert_eq!(marker("#ABCDEFGHIJKLM 破损"), Some("#ABCDEFGHIJKLM"));
        assert_eq!(marker("#退货退货退货退货退货退货退 x"), Some("#退货退货退货退货退货退货退"));
        assert_eq!(marker("#short"), Some("#short"));
        assert_eq!((marker(""), marker("no #")), (None, None));
    }

    #[test]
    fn the_log_keeps_the_last_requests() {
        let mut ledger = Ledger::new(2);
        let last = (0..5).map(|at| ledger.receive(Call::Outbounds, at)).last().unwrap();
        assert_eq!(last, 5);
        assert!(ledger.line(3).is_none());
        ledger.line(5).unwrap().applied = true;
        assert_eq!(ledger.requests(4, 10).len(), 1);
        assert_eq!(ledger.counts()["outbounds"].received, 5);
    }
}
