//! Hop 2: [`Window`](super::window::Window) → rows, all pages or none.
//!
//! A closed window in the past can only lose members, and they only move to lower positions. So
//! pages are read from the last down to 1, then page 0 once more: nothing that stays can be missed,
//! in any order the ERP sorts by (`docs/delivery.md#paging`). [`Plan`] is that order as a pure
//! state machine; [`gather`] drives it.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
};

use bytes::Bytes;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::{
    clock::Timestamp,
    erp::{Call, Page, PageRequest, QueryFault, Selection, page::RawRecord},
};

/// One record as the ERP sent it.
#[derive(Clone, Debug)]
pub struct Row {
    /// `return_id` or `stockout_id`, where it can be read without decoding the rest.
    pub id: Option<Arc<str>>,
    /// Perhaps not JSON: that shows when it is decoded.
    pub json: Bytes,
    /// xxh3-128 of the text.
    pub hash: [u8; 16],
    /// When the answer with this row was asked for, on our wall clock.
    pub asked_at: Timestamp,
}

impl Row {
    /// A record and when it was asked for.
    #[must_use]
    pub fn new(record: RawRecord, asked_at: Timestamp) -> Self {
        let hash = xxh3_128(&record.json).to_be_bytes();
        Self { id: record.id, json: record.json, hash, asked_at }
    }

    /// What makes rows of one read the same row: the id, or the content where there is no id.
    fn key(&self) -> Arc<str> {
        self.id.clone().unwrap_or_else(|| unidentified(&self.hash).into())
    }
}

/// The key of a record without readable id: `#` and the hash of its content.
#[must_use]
pub fn unidentified(hash: &[u8; 16]) -> String {
    format!("#{}", data_encoding::HEXLOWER.encode(hash))
}

/// How one complete read of one query ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Complete,
    /// Fewer distinct records than the ERP last counted: something entered a window that was
    /// closed.
    Entered {
        distinct: u64,
        count: u64,
    },
    /// Every page was the same page.
    PagingIgnored,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    First,
    Down(u32),
    Last,
}

/// The order in which the pages of one query are read. Ask for [`Plan::request`], hand the page to
/// [`Plan::consume`], until that gives a verdict.
#[derive(Debug)]
pub struct Plan<R> {
    page_size: u32,
    step: Step,
    pages: u32,
    rows: BTreeMap<Arc<str>, R>,
    first: BTreeSet<Arc<str>>,
    all_alike: bool,
}

impl<R> Plan<R> {
    /// A read that has not begun.
    #[must_use]
    pub fn new(page_size: u32) -> Self {
        Self {
            page_size: page_size.max(1),
            step: Step::First,
            pages: 0,
            rows: BTreeMap::new(),
            first: BTreeSet::new(),
            all_alike: true,
        }
    }

    /// The page to ask for now. The count is asked for with page 0 only: it costs the ERP, and the
    /// enterprise edition gives it nowhere else.
    #[must_use]
    pub fn request(&self) -> PageRequest {
        let (page_no, count) = match self.step {
            Step::First | Step::Last => (0, true),
            Step::Down(page) => (page, false),
        };
        PageRequest { page_no, page_size: self.page_size, count }
    }

    /// Pages of the set as first counted; 0 before that and for an empty set.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// Takes the page that was asked for. `count` is the ERP's, where it was asked for. The same
    /// record twice: the later read wins.
    pub fn consume(&mut self, page: Vec<(Arc<str>, R)>, count: u64) -> Option<Verdict> {
        // Of no use once two pages have differed.
        let keys: BTreeSet<Arc<str>> =
            page.iter().filter(|_| self.all_alike).map(|(key, _)| Arc::clone(key)).collect();
        self.rows.extend(page);
        let next = match self.step {
            Step::First => {
                self.pages =
                    u32::try_from(count.div_ceil(u64::from(self.page_size))).unwrap_or(u32::MAX);
                self.first = keys;
                if self.pages <= 1 {
                    return Some(self.verdict(count));
                }
                Step::Down(self.pages - 1)
            }
            Step::Down(page) => {
                // Members only move down, so a later page can't show what page 0 showed.
                self.all_alike &= !keys.is_empty() && keys == self.first;
                if page > 1 { Step::Down(page - 1) } else { Step::Last }
            }
            Step::Last => return Some(self.verdict(count)),
        };
        self.step = next;
        None
    }

    fn verdict(&self, count: u64) -> Verdict {
        let distinct = self.rows.len() as u64;
        if self.pages > 1 && self.all_alike {
            Verdict::PagingIgnored
        } else if distinct < count {
            Verdict::Entered { distinct, count }
        } else {
            Verdict::Complete
        }
    }

    /// What was read.
    #[must_use]
    pub fn into_rows(self) -> BTreeMap<Arc<str>, R> {
        self.rows
    }
}

/// One attempt at one page; whoever implements it waits for the quota, repeats what may be repeated
/// and counts.
pub trait Ask {
    /// Asks for one page; failing means that the window is given up for now.
    fn ask(
        &mut self,
        selection: &Selection,
        page: PageRequest,
    ) -> impl Future<Output = Result<Page, QueryFault>> + Send;

    /// The count alarm: something entered a closed window.
    fn entered(&mut self, distinct: u64, count: u64);

    /// Whether this is the content of record `id` that was published last; then nothing but its id
    /// is kept of it.
    fn knows(&self, _id: &str, _hash: &[u8; 16]) -> bool {
        false
    }
}

/// What a read must keep to.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub call: Call,
    pub page_size: u32,
    /// Most pages of all queries together; `None`: read whole, whatever it takes.
    pub budget: Option<u32>,
    /// Whether a shorter window could be asked for instead.
    pub splittable: bool,
    /// The ERP's own clock must have reached this by the first answer: window end + visibility.
    pub closes_at: Option<Timestamp>,
}

/// What came of a read.
#[derive(Debug)]
pub enum Gathered {
    /// Everything, one row per record, but for `known` more records that were recognised
    /// ([`Ask::knows`]).
    Rows { rows: Vec<Row>, known: usize, pages: u32, calls: u32 },
    /// More pages than the budget: ask for a shorter window.
    TooLarge { pages: u32 },
    /// Something entered twice: ask for half the window.
    Split,
    /// By the ERP's clock the window isn't closed yet: choose it anew.
    TooEarly,
}

/// Why a read was given up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchFault {
    #[error(transparent)]
    Query(#[from] QueryFault),
    #[error(
        "the ERP gave the same page for every page_no of {call:?} in two reads running; nothing is published from it, see whether page_size is allowed"
    )]
    PagingIgnored { call: Call },
}

/// Reads every query of a window, one after the other, each as [`Plan`] says.
///
/// # Errors
/// [`FetchFault`]; then nothing of the window is used.
pub async fn gather<A: Ask>(
    ask: &mut A,
    queries: &[Selection],
    rules: Rules,
) -> Result<Gathered, FetchFault> {
    let mut rows = BTreeMap::new();
    let (mut pages, mut calls) = (0_u32, 0_u32);
    for query in queries {
        match read(ask, query, rules, pages, &mut calls).await? {
            Read::Rows { rows: more, pages: read } => {
                pages = pages.saturating_add(read);
                rows.extend(more);
            }
            Read::Other(other) => return Ok(other),
        }
    }
    let records = rows.len();
    let rows: Vec<Row> = rows.into_values().flatten().collect();
    Ok(Gathered::Rows { known: records - rows.len(), rows, pages, calls })
}

enum Read {
    /// Without a row where the record was recognised.
    Rows {
        rows: BTreeMap<Arc<str>, Option<Row>>,
        pages: u32,
    },
    Other(Gathered),
}

/// One query, repeated while the answers contradict themselves.
async fn read<A: Ask>(
    ask: &mut A,
    query: &Selection,
    rules: Rules,
    before: u32,
    calls: &mut u32,
) -> Result<Read, FetchFault> {
    let mut entered_with: Option<u128> = None;
    let mut ignored = false;
    loop {
        let mut plan = Plan::new(rules.page_size);
        let verdict = loop {
            let request = plan.request();
            let page = ask.ask(query, request).await?;
            *calls = calls.saturating_add(1);
            // `Date` is cut to a second, hence the one on top.
            if let (Some(closes), Some(date)) = (rules.closes_at, page.erp_date)
                && closes.0 >= date.0.saturating_add(1000)
            {
                return Ok(Read::Other(Gathered::TooEarly));
            }
            let count = match page.total_count {
                Some(count) => count,
                None if request.count => {
                    let reason = "the count of records is missing".to_owned();
                    return Err(QueryFault::Unusable { call: rules.call, reason }.into());
                }
                None => 0,
            };
            let asked_at = page.asked_at_wall;
            let row = |record| {
                let row = Row::new(record, asked_at);
                let known = row.id.as_deref().is_some_and(|id| ask.knows(id, &row.hash));
                (row.key(), (!known).then_some(row))
            };
            let rows = page.rows.into_iter().map(row).collect();
            let verdict = plan.consume(rows, count);
            let pages = before.saturating_add(plan.pages());
            if rules.splittable && rules.budget.is_some_and(|budget| pages > budget) {
                return Ok(Read::Other(Gathered::TooLarge { pages }));
            }
            if let Some(verdict) = verdict {
                break verdict;
            }
        };
        let pages = plan.pages();
        match verdict {
            Verdict::Complete => return Ok(Read::Rows { rows: plan.into_rows(), pages }),
            Verdict::PagingIgnored if ignored => {
                return Err(FetchFault::PagingIgnored { call: rules.call });
            }
            Verdict::PagingIgnored => ignored = true,
            Verdict::Entered { distinct, count } => {
                ask.entered(distinct, count);
                let rows = plan.into_rows();
                let seen = fingerprint(rows.keys());
                match entered_with.replace(seen) {
                    None => {}
                    Some(_) if rules.splittable => return Ok(Read::Other(Gathered::Split)),
                    // A step that cannot be split: two reads in a row that show the same records
                    // are all there is to see; the late pass looks once more.
                    Some(earlier) if earlier == seen => return Ok(Read::Rows { rows, pages }),
                    Some(_) => {}
                }
            }
        }
    }
}

fn fingerprint<'a>(keys: impl Iterator<Item = &'a Arc<str>>) -> u128 {
    let mut hash = Xxh3::new();
    for key in keys {
        hash.update(key.as_bytes());
        hash.update(&[0xff]);
    }
    hash.digest128()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::{clock::Moment, config::Feed};

    /// Answers in order: ids and the count.
    struct Scripted {
        pages: VecDeque<(Vec<u64>, u64)>,
        asked: Vec<(u32, bool)>,
        alarms: usize,
    }

    impl Scripted {
        fn new(pages: &[(&[u64], u64)]) -> Self {
            Self {
                pages: pages.iter().map(|(ids, count)| (ids.to_vec(), *count)).collect(),
                asked: Vec::new(),
                alarms: 0,
            }
        }

        fn read(&mut self, rules: Rules) -> Result<Gathered, FetchFault> {
            let query = Selection {
                window: None,
                time_type: None,
                return_no: None,
                status: None,
                warehouse_no: None,
                provider_no: None,
            };
            gather(self, &[query], rules).now_or_never().unwrap()
        }
    }

    impl Ask for Scripted {
        fn ask(
            &mut self,
            _: &Selection,
            page: PageRequest,
        ) -> impl Future<Output = Result<Page, QueryFault>> + Send {
            self.asked.push((page.page_no, page.count));
            let (ids, count) = self.pages.pop_front().unwrap();
            let rows = ids
                .iter()
                .map(|id| {
                    RawRecord::new(Feed::PurchaseReturns, format!(r#"{{"return_id":{id}}}"#).into())
                })
                .collect();
            let total_count = page.count.then_some(count);
            let erp_date = Some(Timestamp(1_000_000));
            std::future::ready(Ok(Page {
                rows,
                total_count,
                erp_date,
                asked_at: Moment(0),
                asked_at_wall: Timestamp(0),
            }))
        }

        fn entered(&mut self, _: u64, _: u64) {
            self.alarms += 1;
        }
    }

    fn rules() -> Rules {
        Rules {
            call: Call::QueryPurchaseReturns,
            page_size: 2,
            budget: Some(3),
            splittable: true,
            closes_at: None,
        }
    }

    fn ids(gathered: Result<Gathered, FetchFault>) -> Vec<String> {
        match gathered {
            Ok(Gathered::Rows { rows, .. }) => {
                rows.into_iter().map(|row| row.id.unwrap().to_string()).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_page_is_one_call() {
        let mut erp = Scripted::new(&[(&[1, 2], 2)]);
        assert_eq!(ids(erp.read(rules())), ["1", "2"]);
        assert_eq!(erp.asked, [(0, true)]);
    }

    #[test]
    fn several_pages_are_read_from_the_last_with_page_0_twice() {
        let mut erp = Scripted::new(&[(&[1, 2], 5), (&[5], 0), (&[3, 4], 0), (&[1, 2], 5)]);
        assert_eq!(ids(erp.read(rules())).len(), 5);
        assert_eq!(erp.asked, [(0, true), (2, false), (1, false), (0, true)]);
    }

    #[test]
    fn a_record_that_slips_to_page_0_is_seen() {
        let mut erp = Scripted::new(&[(&[1, 2], 3), (&[], 0), (&[1, 3], 2)]);
        assert_eq!(ids(erp.read(rules())), ["1", "2", "3"]);
    }

    #[test]
    fn what_enters_is_counted_read_again_and_then_split() {
        let short: &[(&[u64], u64)] = &[(&[1], 2), (&[1], 2)];
        let mut erp = Scripted::new(short);
        assert!(matches!(erp.read(rules()), Ok(Gathered::Split)));
        assert_eq!(erp.alarms, 2);
        let mut erp = Scripted::new(&[(&[1], 2), (&[1, 2], 2)]);
        assert_eq!(ids(erp.read(rules())), ["1", "2"]);
        // Nothing to split: two reads that agree are taken.
        let mut erp = Scripted::new(short);
        assert_eq!(ids(erp.read(Rules { splittable: false, ..rules() })), ["1"]);
    }

    #[test]
    fn a_budget_holds_unless_the_window_cannot_be_shorter() {
        let mut erp = Scripted::new(&[(&[1, 2], 7)]);
        assert!(matches!(erp.read(rules()), Ok(Gathered::TooLarge { pages: 4 })));
        let mut erp =
            Scripted::new(&[(&[1, 2], 7), (&[7], 0), (&[5, 6], 0), (&[3, 4], 0), (&[1, 2], 7)]);
        assert_eq!(ids(erp.read(Rules { splittable: false, ..rules() })).len(), 7);
    }

    #[test]
    fn a_source_that_ignores_page_no_is_an_error_the_second_time() {
        let alike: (&[u64], u64) = (&[1, 2], 3);
        let good: [(&[u64], u64); 3] = [(&[1, 2], 3), (&[3], 0), (&[1, 2], 3)];
        let mut erp = Scripted::new(&[&[alike; 3][..], &good].concat());
        assert_eq!(ids(erp.read(rules())), ["1", "2", "3"]);
        let mut erp = Scripted::new(&[alike; 6]);
        assert_eq!(
            erp.read(rules()).unwrap_err(),
            FetchFault::PagingIgnored { call: Call::QueryPurchaseReturns }
        );
    }

    #[test]
    fn a_window_the_erp_has_not_reached_is_not_read() {
        let early = Rules { closes_at: Some(Timestamp(1_001_000)), ..rules() };
        assert!(matches!(Scripted::new(&[(&[1], 1)]).read(early), Ok(Gathered::TooEarly)));
        let closed = Rules { closes_at: Some(Timestamp(1_000_999)), ..rules() };
        assert_eq!(ids(Scripted::new(&[(&[1], 1)]).read(closed)), ["1"]);
    }
}
