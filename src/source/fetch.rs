//! Hop 2: [`Window`](super::window::Window) → rows, page by page, and whether the read is complete.
//!
//! A closed window in the past can only lose members, and they only move to lower positions. So
//! pages are read from the last down to 1, then page 0 once more: nothing that stays can be missed,
//! in any order the ERP sorts by, as long as a page shows what stands on it. Real pages do not
//! always; what follows from that is in `docs/delivery.md#paging`. [`WindowRead`] holds these rules
//! and does no I/O: whoever drives it asks for [`WindowRead::request`] and hands the page to
//! [`WindowRead::consume`].

use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

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

    /// What makes rows of one read the same record: the id, or the content where there is no id.
    ///
    /// A collision of two ids counts one record less: the read is repeated, nothing is lost.
    fn key(&self) -> u64 {
        self.id.as_deref().map_or_else(|| xxh3_64(&self.hash), |id| xxh3_64(id.as_bytes()))
    }
}

/// The key of a record without readable id: `#` and the hash of its content.
#[must_use]
pub fn unidentified(hash: &[u8; 16]) -> String {
    format!("#{}", data_encoding::HEXLOWER.encode(hash))
}

/// Complete reads of one query before its records count as unproven.
const READS: u32 = 3;

/// Empty pages in a row before the end of the rows is sought, and the lowest page where that is
/// worth it: a count that is far too high would cost a call for each page it makes up.
const EMPTY_PAGES: u32 = 2;
const SEEK_ABOVE: u32 = 8;
/// Records for which a read makes room at once: a table that grows is there twice meanwhile. What
/// the ERP counts beyond this (16 MB) has to be shown first.
const MOST_RESERVED: usize = 500_000;

/// What a read must keep to.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub call: Call,
    /// Rows of a page that are asked for.
    pub page_size: u32,
    /// The longest page this ERP has shown; no shorter one is its limit. 0: none yet.
    pub longest_page: u32,
    /// Most pages of all queries together; `None`: read whole, whatever it takes.
    pub budget: Option<u32>,
    /// Whether a shorter window could be asked for instead.
    pub splittable: bool,
    /// The ERP's own clock must have reached this by the first answer: window end + visibility.
    pub closes_at: Option<Timestamp>,
}

/// What a page led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask for the next page.
    More,
    /// The pages contradict the count: the query is read once more.
    Again(Shortfall),
    /// Nothing more to ask.
    Ended(Ended),
}

/// A read that shows fewer records than the ERP counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// Distinct records shown.
    pub shown: u64,
    /// The larger of the first and the last count.
    pub counted: u64,
    /// The count grew: something entered a window that was closed.
    pub entered: bool,
}

/// How the read of a window ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything was shown that the account may see.
    Complete,
    /// Every query was read [`READS`] times and none of these reads proves to be complete.
    Unproven(Shortfall),
    /// More pages than the budget: ask for a shorter window.
    TooLarge { pages: u32 },
    /// Two reads contradict their counts: ask for half the window.
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
        "the ERP gave the same page for every page_no of {call:?} in two reads running; see whether page_size is allowed"
    )]
    PagingIgnored { call: Call },
}

/// One page to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    First,
    Down(u32),
    /// Halfway between a page that has rows and a later one that has none.
    Seek {
        rows: u32,
        none: u32,
    },
    Last,
}

/// One complete pass over the pages of a query: page 0, the last down to 1, page 0 again.
#[derive(Debug)]
struct Pages {
    /// 0, 1, 2: which read of the query this is.
    read: u32,
    page_size: u32,
    at: At,
    /// This page was no page and is asked for again; its length.
    doubtful: Option<usize>,
    /// As first counted; 0 before that and for an empty set.
    pages: u32,
    first_count: u64,
    last_count: u64,
    /// Page 0 came without rows and without a count.
    uncounted: bool,
    /// Empty pages in a row.
    empty: u32,
    /// What page 0 showed first, sorted.
    first_page: Vec<u64>,
    /// Every page so far has been the same page.
    all_alike: bool,
}

impl Pages {
    fn new(read: u32, page_size: u32) -> Self {
        Self {
            read,
            page_size: page_size.max(1),
            at: At::First,
            doubtful: None,
            pages: 0,
            first_count: 0,
            last_count: 0,
            uncounted: false,
            empty: 0,
            first_page: Vec::new(),
            all_alike: true,
        }
    }

    fn bit(&self) -> u8 {
        1 << self.read
    }
}

/// What an earlier read of the same query showed.
#[derive(Clone, Copy, Debug)]
struct Earlier {
    read: u32,
    page_size: u32,
    pages: u32,
    first_count: u64,
    last_count: u64,
    shown: u64,
    uncounted: bool,
    all_alike: bool,
}

impl Earlier {
    fn counted(&self) -> u64 {
        self.first_count.max(self.last_count)
    }

    /// Records that were counted at both ends of the read and not shown; `None` where the counts
    /// differ, so that something moved meanwhile.
    fn not_shown(&self) -> Option<u64> {
        (self.first_count == self.last_count).then(|| self.first_count.saturating_sub(self.shown))
    }
}

/// All queries of a window, or of a question about one record, one after the other.
#[derive(Debug)]
pub struct WindowRead {
    queries: Vec<Selection>,
    rules: Rules,
    query: usize,
    current: Pages,
    earlier: Vec<Earlier>,
    /// Of the current query: by a record's key, a bit for every read that showed it.
    shown: FxHashMap<u64, u8>,
    /// A short page came as short when it was asked for again.
    stays_short: bool,
    /// Read with as many rows a page as the longest one has had.
    tried_limit: Option<u32>,
    pages_before: u32,
    records_before: u64,
    calls: u32,
    not_shown: u64,
    longest_page: u32,
    limit: Option<u32>,
    unproven: Option<Shortfall>,
    /// A query was believed to be empty although nothing was counted.
    uncounted: bool,
    /// An empty answer came with its count.
    counted_empty: bool,
}

impl WindowRead {
    /// A read that has not begun.
    #[must_use]
    pub fn new(queries: Vec<Selection>, rules: Rules) -> Self {
        Self {
            queries,
            rules,
            query: 0,
            current: Pages::new(0, rules.page_size),
            earlier: Vec::new(),
            shown: FxHashMap::default(),
            stays_short: false,
            tried_limit: None,
            pages_before: 0,
            records_before: 0,
            calls: 0,
            not_shown: 0,
            longest_page: rules.longest_page,
            limit: None,
            unproven: None,
            uncounted: false,
            counted_empty: false,
        }
    }

    /// The page to ask for now; `None` when there is no query (left). The count is asked for with
    /// page 0 only: it costs the ERP, and the enterprise edition gives it nowhere else.
    #[must_use]
    pub fn request(&self) -> Option<(&Selection, PageRequest)> {
        let (page_no, count) = match self.current.at {
            At::First | At::Last => (0, true),
            At::Down(page) => (page, false),
            At::Seek { rows, none } => (rows.midpoint(none), false),
        };
        let request = PageRequest { page_no, page_size: self.current.page_size, count };
        Some((self.queries.get(self.query)?, request))
    }

    /// Pages of the window, as far as they have been counted.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.pages_before.saturating_add(self.current.pages)
    }

    /// Pages that were asked for.
    #[must_use]
    pub fn calls(&self) -> u32 {
        self.calls
    }

    /// Distinct records shown.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records_before + self.shown.len() as u64
    }

    /// Records that the ERP counts and never shows: the account may not see them.
    #[must_use]
    pub fn not_shown(&self) -> u64 {
        self.not_shown
    }

    /// Whether something was believed to be empty only because two answers without a count said so.
    #[must_use]
    pub fn uncounted(&self) -> bool {
        self.uncounted
    }

    /// Whether an empty answer came with its count.
    #[must_use]
    pub fn counted_empty(&self) -> bool {
        self.counted_empty
    }

    /// The longest page the ERP has shown.
    #[must_use]
    pub fn longest_page(&self) -> u32 {
        self.longest_page
    }

    /// The rows a page may hold at most: asked for more, the ERP did not show what stood behind
    /// them.
    #[must_use]
    pub fn limit(&self) -> Option<u32> {
        self.limit
    }

    /// Takes the page that was asked for; gives its rows, which are versions of their records
    /// whatever becomes of the read, and what to do next.
    ///
    /// # Errors
    /// [`FetchFault`]: the page says something that no page may say.
    pub fn consume(&mut self, page: Page) -> Result<(Vec<Row>, Step), FetchFault> {
        self.calls = self.calls.saturating_add(1);
        // `Date` is cut to a second, hence the one on top.
        if let (Some(closes), Some(date)) = (self.rules.closes_at, page.erp_date)
            && closes.0 >= date.0.saturating_add(1000)
        {
            return Ok((Vec::new(), Step::Ended(Ended::TooEarly)));
        }
        let counts = matches!(self.current.at, At::First | At::Last);
        if counts && page.total_count.is_none() && !page.rows.is_empty() {
            let reason = "the count of records is missing".to_owned();
            return Err(QueryFault::Unusable { call: self.rules.call, reason }.into());
        }
        let (count, asked_at) = (page.total_count, page.asked_at_wall);
        let rows: Vec<Row> = page.rows.into_iter().map(|raw| Row::new(raw, asked_at)).collect();
        let step = self.note(&rows, count)?;
        Ok((rows, step))
    }

    fn note(&mut self, rows: &[Row], count: Option<u64>) -> Result<Step, FetchFault> {
        let mut keys: Vec<u64> = rows.iter().map(Row::key).collect();
        let mut news = false;
        for key in &keys {
            let reads = self.shown.entry(*key).or_default();
            news |= *reads & self.current.bit() == 0;
            *reads |= self.current.bit();
        }
        keys.sort_unstable();
        let length = keys.len();
        keys.dedup();
        self.longest_page = self.longest_page.max(u32::try_from(keys.len()).unwrap_or(u32::MAX));
        let size = u64::from(self.current.page_size);
        if self.current.at == At::First {
            // Asked for twice, what was counted first stays the first count.
            if self.current.doubtful.is_none() {
                self.current.first_count = count.unwrap_or(0);
                self.current.uncounted = count.is_none();
            }
            self.current.last_count = count.unwrap_or(0);
            self.counted_empty |= rows.is_empty() && count == Some(0);
            // A full page is never the last one, whatever is counted.
            let counted = self.current.first_count.max(self.current.last_count);
            let pages = u32::try_from(counted.div_ceil(size)).unwrap_or(u32::MAX);
            self.current.pages = pages.max(if keys.len() as u64 >= size { 2 } else { 0 });
            let pages = self.pages();
            if self.rules.splittable && self.rules.budget.is_some_and(|budget| pages > budget) {
                return Ok(Step::Ended(Ended::TooLarge { pages }));
            }
            let expected = usize::try_from(counted).unwrap_or(usize::MAX).min(MOST_RESERVED);
            self.shown.reserve(expected.saturating_sub(self.shown.len()));
        }
        // A page holds no record twice, and none but the last one of a read has room left.
        let expected = match self.current.at {
            At::First if self.current.pages > 1 => size,
            At::Down(page) if page + 1 < self.current.pages => size,
            At::Last => size.min(count.unwrap_or(0)),
            At::First | At::Down(_) | At::Seek { .. } => 0,
        };
        let no_page = keys.len() < length || (keys.len() as u64) < expected;
        if no_page && !(self.stays_short && keys.len() == length) {
            match self.current.doubtful.replace(keys.len()) {
                None => return Ok(Step::More),
                // Twice as short, and none has been longer: it looks like the ERP's limit.
                Some(before)
                    if before == keys.len()
                        && self.current.at == At::First
                        && self.current.read == 0
                        && self.may_be_limited() =>
                {
                    self.shown.clear();
                    self.current = Pages::new(0, self.try_limit());
                    return Ok(Step::More);
                }
                // Where a page stays as short, others will: the counts decide.
                Some(before) => self.stays_short |= before == keys.len() && keys.len() == length,
            }
        }
        self.current.doubtful = None;
        match self.current.at {
            At::First => {
                self.current.first_page = keys;
                if self.current.pages <= 1 {
                    return self.end_of_read();
                }
                self.current.at = At::Down(self.current.pages - 1);
            }
            At::Down(page) => {
                // Members only move down, so a later page can't show what page 0 showed.
                self.current.all_alike &= !keys.is_empty() && keys == self.current.first_page;
                self.current.empty = if keys.is_empty() { self.current.empty + 1 } else { 0 };
                if self.current.empty >= EMPTY_PAGES && page > SEEK_ABOVE {
                    self.current.at = At::Seek { rows: 0, none: page };
                    return Ok(Step::More);
                }
                // The last page has no room left, so there may be one more: the count may be too
                // low. What moves down meanwhile is seen on the way back.
                if page + 1 == self.current.pages && keys.len() as u64 >= size && news {
                    self.current.pages = self.current.pages.saturating_add(1);
                    self.current.at = At::Down(page.saturating_add(1));
                    return Ok(Step::More);
                }
                self.current.at = if page > 1 { At::Down(page - 1) } else { At::Last };
            }
            At::Seek { rows, none } => {
                let middle = rows.midpoint(none);
                let (rows, none) = if keys.is_empty() { (rows, middle) } else { (middle, none) };
                self.current.at = match (rows, none) {
                    (0, 0 | 1) => At::Last,
                    // Once more: what stood behind it may have moved there meanwhile.
                    (rows, none) if rows + 1 >= none => At::Down(rows),
                    (rows, none) => At::Seek { rows, none },
                };
            }
            At::Last => {
                self.current.last_count = count.unwrap_or(0);
                return self.end_of_read();
            }
        }
        Ok(Step::More)
    }

    /// No page has ever been as long as asked for, and more is counted than the longest one held:
    /// perhaps the ERP gives no longer ones.
    fn may_be_limited(&self) -> bool {
        let counted = self.current.first_count.max(self.current.last_count);
        self.tried_limit.is_none()
            && (1..self.current.page_size).contains(&self.longest_page)
            && counted > u64::from(self.longest_page)
    }

    fn try_limit(&mut self) -> u32 {
        *self.tried_limit.insert(self.longest_page)
    }

    fn end_of_read(&mut self) -> Result<Step, FetchFault> {
        let bit = self.current.bit();
        let this = Earlier {
            read: self.current.read,
            page_size: self.current.page_size,
            pages: self.current.pages,
            first_count: self.current.first_count,
            last_count: self.current.last_count,
            shown: self.shown.values().filter(|reads| **reads & bit != 0).count() as u64,
            uncounted: self.current.uncounted,
            all_alike: self.current.pages > 1
                && self.current.at == At::Last
                && self.current.all_alike,
        };
        if self.accepts(&this) {
            // Asked for as few rows a page, the ERP shows what stands behind them as well.
            if self.tried_limit == Some(this.page_size)
                && self.longest_page == this.page_size
                && this.shown > u64::from(this.page_size)
            {
                self.limit = self.tried_limit;
            }
            return Ok(self.next_query());
        }
        if this.all_alike && self.earlier.last().is_some_and(|before| before.all_alike) {
            return Err(FetchFault::PagingIgnored { call: self.rules.call });
        }
        let shortfall = Shortfall {
            shown: this.shown,
            counted: this.counted(),
            entered: this.last_count > this.first_count,
        };
        let read = this.read + 1;
        if read >= READS {
            self.unproven = Some(shortfall);
            return Ok(self.next_query());
        }
        if read >= 2 && self.rules.splittable {
            return Ok(Step::Ended(Ended::Split));
        }
        let page_size = if self.may_be_limited() {
            self.try_limit()
        } else {
            another_page_size(&this, self.tried_limit)
        };
        self.earlier.push(this);
        self.current = Pages::new(read, page_size);
        Ok(Step::Again(shortfall))
    }

    /// Whether a read, with those before it, has shown everything that may be seen.
    fn accepts(&mut self, this: &Earlier) -> bool {
        if this.uncounted {
            // An answer without rows and without a count is believed the second time.
            let empty = |before: &Earlier| before.uncounted && before.shown == 0;
            let believed = !self.earlier.is_empty() && self.earlier.iter().all(empty);
            self.uncounted |= believed;
            return believed;
        }
        // What left before it was shown was counted first; what entered is counted last.
        if this.shown >= this.counted() {
            return true;
        }
        if this.all_alike {
            return false;
        }
        if let Some(first) = self.earlier.first()
            && !first.uncounted
            && self.shown.len() as u64 >= first.first_count
            && this.counted() <= first.first_count
            && self.earlier.iter().all(|before| before.counted() <= first.first_count)
        {
            // Nothing entered, so the reads together show what the first one counted.
            return true;
        }
        let Some(missing) = self.lacks_alike(this) else { return false };
        self.not_shown = self.not_shown.saturating_add(missing);
        true
    }

    /// The records that every read lacks alike, whatever the borders between its pages: the account
    /// may not see them.
    ///
    /// A single page is one answer, so that no order of its rows hides one. Of several pages two
    /// reads may lack the same row by chance, so that it takes all of them.
    fn lacks_alike(&self, this: &Earlier) -> Option<u64> {
        let missing = this.not_shown().filter(|missing| *missing > 0)?;
        let single = this.pages <= 1 && self.earlier.iter().all(|before| before.pages <= 1);
        let reads = if single { 1 } else { READS as usize - 1 };
        // An ERP that may give one row a page leaves no other page size.
        let moved = single
            || self.tried_limit == Some(1)
            || self.earlier.iter().any(|before| before.page_size != this.page_size);
        let alike = |before: &Earlier| {
            before.not_shown() == Some(missing)
                && !before.uncounted
                && self.within(this.read, before.read)
        };
        let enough = self.earlier.len() >= reads && moved;
        (enough && self.earlier.iter().all(alike)).then_some(missing)
    }

    /// Whether `earlier` showed every record that `later` did.
    fn within(&self, later: u32, earlier: u32) -> bool {
        let (later, earlier) = (1_u8 << later, 1_u8 << earlier);
        self.shown.values().all(|reads| reads & later == 0 || reads & earlier != 0)
    }

    fn next_query(&mut self) -> Step {
        self.pages_before = self.pages();
        self.records_before = self.records();
        self.shown.clear();
        self.earlier.clear();
        self.tried_limit = None;
        self.query += 1;
        self.current = Pages::new(0, self.limit.unwrap_or(self.rules.page_size));
        if self.query < self.queries.len() {
            return Step::More;
        }
        Step::Ended(self.unproven.map_or(Ended::Complete, Ended::Unproven))
    }
}

/// Another page size moves the borders between pages, so that rows which hide behind one are shown,
/// and is another question, which no cache answers. A single page stays one. Where the ERP may give
/// `limit` rows a page at most, asking for more would show nothing new.
fn another_page_size(this: &Earlier, limit: Option<u32>) -> u32 {
    let size = this.page_size;
    let other = if this.pages <= 1 && u64::from(size) > this.counted() + 1 {
        size - 1
    } else if size >= 4 {
        size - size / 4
    } else {
        size + 1
    };
    match limit {
        Some(limit) if other > limit && size < limit => limit,
        Some(limit) if other > limit => size.saturating_sub(1).max(1),
        Some(_) | None => other,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use super::*;
    use crate::{clock::Moment, config::Feed};

    /// Answers in order: ids and the count, which travels only where it is asked for.
    struct Scripted {
        pages: VecDeque<(Vec<u64>, Option<u64>)>,
        /// Page number and size of every question.
        asked: Vec<(u32, u32)>,
        again: Vec<Shortfall>,
        ids: BTreeSet<u64>,
        read: WindowRead,
    }

    type Answers<'a> = &'a [(&'a [u64], u64)];

    impl Scripted {
        fn new(rules: Rules, pages: Answers<'_>) -> Self {
            let pages = pages.iter().map(|(ids, count)| (ids.to_vec(), Some(*count))).collect();
            Self {
                pages,
                asked: Vec::new(),
                again: Vec::new(),
                ids: BTreeSet::new(),
                read: WindowRead::new(vec![query()], rules),
            }
        }

        fn run(&mut self) -> Result<Ended, FetchFault> {
            loop {
                let (_, request) = self.read.request().unwrap();
                self.asked.push((request.page_no, request.page_size));
                let (ids, count) = self.pages.pop_front().expect("one page more is asked for");
                let raw = |id| {
                    RawRecord::new(Feed::PurchaseReturns, format!(r#"{{"return_id":{id}}}"#).into())
                };
                let page = Page {
                    rows: ids.iter().map(raw).collect(),
                    total_count: count.filter(|_| request.count),
                    erp_date: Some(Timestamp(1_000_000)),
                    asked_at: Moment(0),
                    asked_at_wall: Timestamp(0),
                };
                let (rows, step) = self.read.consume(page)?;
                self.ids.extend(
                    rows.iter().map(|row| row.id.as_deref().unwrap().parse::<u64>().unwrap()),
                );
                match step {
                    Step::More => {}
                    Step::Again(shortfall) => self.again.push(shortfall),
                    Step::Ended(ended) => {
                        assert!(self.pages.is_empty(), "not asked for: {:?}", self.pages);
                        return Ok(ended);
                    }
                }
            }
        }
    }

    fn query() -> Selection {
        Selection {
            window: None,
            time_type: None,
            return_no: None,
            status: None,
            warehouse_no: None,
            provider_no: None,
        }
    }

    fn rules() -> Rules {
        Rules {
            call: Call::QueryPurchaseReturns,
            page_size: 2,
            longest_page: 0,
            budget: Some(3),
            splittable: true,
            closes_at: None,
        }
    }

    fn second() -> Rules {
        Rules { splittable: false, ..rules() }
    }

    /// How it ended, what was shown, which pages were asked for.
    fn read(rules: Rules, pages: Answers<'_>) -> (Ended, Vec<u64>, Vec<(u32, u32)>) {
        let mut scripted = Scripted::new(rules, pages);
        let ended = scripted.run().unwrap();
        (ended, scripted.ids.into_iter().collect(), scripted.asked)
    }

    #[test]
    fn one_page_is_one_call() {
        let large = Rules { page_size: 10, ..rules() };
        assert_eq!(read(large, &[(&[1, 2], 2)]), (Ended::Complete, vec![1, 2], vec![(0, 10)]));
        assert_eq!(read(large, &[(&[], 0)]), (Ended::Complete, vec![], vec![(0, 10)]));
    }

    #[test]
    fn several_pages_are_read_from_the_last_with_page_0_twice() {
        let pages: Answers<'_> = &[(&[1, 2], 5), (&[5], 0), (&[3, 4], 0), (&[1, 2], 5)];
        assert_eq!(
            read(rules(), pages),
            (Ended::Complete, vec![1, 2, 3, 4, 5], vec![(0, 2), (2, 2), (1, 2), (0, 2)])
        );
    }

    #[test]
    fn a_full_page_is_never_the_last_whatever_is_counted() {
        let pages: Answers<'_> =
            &[(&[1, 2], 0), (&[3, 4], 0), (&[5], 0), (&[3, 4], 0), (&[1, 2], 0)];
        assert_eq!(read(rules(), pages).1, [1, 2, 3, 4, 5]);
    }

    /// Its count may have been taken after one had left: 3 slipped to page 0 behind the first look.
    #[test]
    fn a_single_full_page_is_read_as_the_first_of_two() {
        let pages: Answers<'_> = &[(&[1, 2], 2), (&[], 0), (&[2, 3], 2)];
        assert_eq!(
            read(rules(), pages),
            (Ended::Complete, vec![1, 2, 3], vec![(0, 2), (1, 2), (0, 2)])
        );
    }

    #[test]
    fn a_record_that_slips_to_page_0_is_seen() {
        // 2 leaves after page 1 was read: 3 stands on page 0 now.
        let pages: Answers<'_> = &[(&[1, 2], 3), (&[3], 0), (&[1, 3], 2)];
        assert_eq!(read(rules(), pages).0, Ended::Complete);
        // It leaves before: page 1 is empty, the first count is not covered by one read alone.
        let pages: Answers<'_> = &[(&[1, 2], 3), (&[], 0), (&[1, 3], 2)];
        assert_eq!(
            read(rules(), pages),
            (Ended::Complete, vec![1, 2, 3], vec![(0, 2), (1, 2), (0, 2)])
        );
    }

    /// The trace that the last count alone accepts: page 1 lacks 4, and 6 leaves after it was read.
    #[test]
    fn what_left_does_not_pay_for_what_was_not_shown() {
        let first: Answers<'_> = &[
            (&[1, 2], 6),
            (&[5, 6], 0),
            (&[], 0),
            (&[5, 6], 0),
            (&[3, 3], 0),
            (&[3], 0),
            (&[1, 2], 5),
        ];
        let second: Answers<'_> = &[(&[1, 2, 3], 5), (&[4, 5], 0), (&[1, 2, 3], 5)];
        let (ended, ids, asked) =
            read(Rules { budget: Some(9), ..rules() }, &[first, second].concat());
        assert_eq!((ended, ids), (Ended::Complete, vec![1, 2, 3, 4, 5, 6]));
        let pages: Vec<u32> = asked.iter().map(|(page_no, _)| *page_no).collect();
        assert_eq!(pages, [0, 2, 3, 2, 1, 1, 0, 0, 1, 0], "page 2 is full, page 1 no page");
        assert_eq!((asked[6], asked[7]), ((0, 2), (0, 3)), "another page size");
    }

    #[test]
    fn reads_together_show_what_the_first_one_counted() {
        let wide = Rules { page_size: 4, longest_page: 4, ..second() };
        // 3 is not shown.
        let first: Answers<'_> =
            &[(&[1, 2, 4], 6), (&[1, 2, 4], 6), (&[5, 6], 0), (&[1, 2, 4, 5], 6)];
        // 5 is not shown, 3 is.
        let second: Answers<'_> = &[(&[1, 2, 3], 6), (&[4, 6], 0), (&[1, 2, 3], 6)];
        let (ended, ids, asked) = read(wide, &[first, second].concat());
        assert_eq!((ended, ids), (Ended::Complete, vec![1, 2, 3, 4, 5, 6]));
        assert_eq!(asked[4..], [(0, 3), (1, 3), (0, 3)], "another page size");
    }

    #[test]
    fn what_enters_is_told_read_again_and_then_split() {
        let first: Answers<'_> = &[(&[1, 2], 3), (&[3], 0), (&[1, 2], 4)];
        let second: Answers<'_> = &[(&[1, 2, 3], 4), (&[], 0), (&[1, 2, 3], 5)];
        let mut scripted = Scripted::new(rules(), &[first, second].concat());
        assert_eq!(scripted.run(), Ok(Ended::Split));
        assert_eq!(scripted.again, [Shortfall { shown: 3, counted: 4, entered: true }]);
        // Two looks at one page that disagree.
        let large = Rules { page_size: 9, longest_page: 9, ..rules() };
        assert_eq!(read(large, &[(&[1], 2), (&[2], 3)]).0, Ended::Split);
        assert_eq!(read(large, &[(&[1], 2), (&[1, 2], 2)]).0, Ended::Complete);
    }

    #[test]
    fn a_second_that_never_adds_up_is_unproven_after_three_reads() {
        let large = Rules { page_size: 9, longest_page: 9, ..second() };
        let (ended, ids, asked) = read(large, &[(&[1], 3), (&[2], 4), (&[1], 5)]);
        assert_eq!(ended, Ended::Unproven(Shortfall { shown: 1, counted: 5, entered: false }));
        assert_eq!((ids, asked.len()), (vec![1, 2], 3));
    }

    #[test]
    fn what_every_read_lacks_the_account_may_not_see() {
        let large = Rules { page_size: 9, longest_page: 9, ..rules() };
        let mut scripted = Scripted::new(large, &[(&[1, 2], 3), (&[1, 2], 3)]);
        assert_eq!(scripted.run(), Ok(Ended::Complete));
        assert_eq!(scripted.read.not_shown(), 1);
        // All of a page.
        let mut scripted = Scripted::new(large, &[(&[], 1), (&[], 1)]);
        assert_eq!((scripted.run(), scripted.read.not_shown()), (Ok(Ended::Complete), 1));
        // Of several pages two could lack it by chance; 3 is counted, never shown.
        let wide = Rules { page_size: 4, longest_page: 4, ..second() };
        let once_more: Answers<'_> = &[(&[1, 2, 4], 6)];
        let fours: Answers<'_> = &[(&[1, 2, 4], 6), (&[5, 6], 0), (&[1, 2, 4], 6)];
        let threes: Answers<'_> =
            &[(&[1, 2], 6), (&[4, 5, 6], 0), (&[], 0), (&[4, 5, 6], 0), (&[1, 2], 6)];
        let mut scripted = Scripted::new(wide, &[once_more, fours, threes, fours].concat());
        assert_eq!((scripted.run(), scripted.read.not_shown()), (Ok(Ended::Complete), 1));
        assert_eq!(scripted.read.limit(), None);
        // The third read lacks another one.
        let other: Answers<'_> = &[(&[1, 2, 3, 4], 6), (&[5], 0), (&[1, 2, 3, 4], 6)];
        let mut scripted = Scripted::new(wide, &[once_more, fours, threes, other].concat());
        assert_eq!((scripted.run(), scripted.read.not_shown()), (Ok(Ended::Complete), 0));
        assert_eq!(scripted.ids.len(), 6, "together they show all");
    }

    #[test]
    fn fewer_rows_a_page_than_asked_for_is_the_erps_limit() {
        // No page has been longer than two rows: five are counted, so it may be the limit.
        let large = Rules { page_size: 9, ..second() };
        let mut scripted = Scripted::new(
            large,
            &[(&[1, 2], 5), (&[1, 2], 5), (&[5], 0), (&[3, 4], 0), (&[1, 2], 5)],
        );
        assert_eq!(scripted.run(), Ok(Ended::Complete));
        assert_eq!(scripted.read.limit(), Some(2));
        assert_eq!(scripted.asked, [(0, 9), (0, 2), (2, 2), (1, 2), (0, 2)]);
        assert_eq!(scripted.ids.len(), 5);
        // More pages than one: page 0 is asked for twice before.
        let mut scripted = Scripted::new(
            Rules { page_size: 3, ..second() },
            &[(&[1, 2], 5), (&[1, 2], 5), (&[1, 2], 5), (&[5], 0), (&[3, 4], 0), (&[1, 2], 5)],
        );
        assert_eq!(scripted.run(), Ok(Ended::Complete));
        assert_eq!((scripted.read.limit(), scripted.ids.len()), (Some(2), 5));
    }

    #[test]
    fn a_page_that_is_none_is_asked_for_again() {
        // Page 1 holds 3 twice, then comes right.
        let pages: Answers<'_> =
            &[(&[1, 2], 5), (&[5], 0), (&[3, 3], 0), (&[3, 4], 0), (&[1, 2], 5)];
        let (ended, ids, asked) = read(rules(), pages);
        assert_eq!((ended, ids.len()), (Ended::Complete, 5));
        assert_eq!(asked, [(0, 2), (2, 2), (1, 2), (1, 2), (0, 2)]);
    }

    #[test]
    fn an_answer_without_rows_and_count_is_believed_the_second_time() {
        let large = Rules { page_size: 9, ..rules() };
        let run = |pages: &[(&[u64], Option<u64>)]| {
            let mut scripted = Scripted::new(large, &[]);
            scripted.pages = pages.iter().map(|(ids, count)| (ids.to_vec(), *count)).collect();
            (scripted.run(), scripted.ids.len())
        };
        assert_eq!(run(&[(&[], None), (&[], None)]), (Ok(Ended::Complete), 0));
        assert_eq!(run(&[(&[], None), (&[1], Some(1))]), (Ok(Ended::Complete), 1));
        assert!(run(&[(&[1], None)]).0.is_err(), "rows without a count");
    }

    #[test]
    fn a_budget_holds_unless_the_window_cannot_be_shorter() {
        assert_eq!(read(rules(), &[(&[1, 2], 7)]).0, Ended::TooLarge { pages: 4 });
        let pages: Answers<'_> =
            &[(&[1, 2], 7), (&[7], 0), (&[5, 6], 0), (&[3, 4], 0), (&[1, 2], 7)];
        assert_eq!(read(second(), pages).1.len(), 7);
    }

    /// Twenty rows, two a page, and a count of a thousand millions.
    #[test]
    fn a_count_that_is_far_too_high_is_not_paged_to_its_end() {
        let mut read = WindowRead::new(vec![query()], second());
        let mut ids = BTreeSet::new();
        let ended = loop {
            let (_, request) = read.request().unwrap();
            let first = request.page_no.saturating_mul(request.page_size);
            let shown = (first..first.saturating_add(request.page_size)).filter(|id| *id < 20);
            let raw = |id| {
                RawRecord::new(Feed::PurchaseReturns, format!(r#"{{"return_id":{id}}}"#).into())
            };
            let page = Page {
                rows: shown.map(raw).collect(),
                total_count: request.count.then_some(1_000_000_000),
                erp_date: None,
                asked_at: Moment(0),
                asked_at_wall: Timestamp(0),
            };
            let (rows, step) = read.consume(page).unwrap();
            ids.extend(rows.into_iter().map(|row| row.id.unwrap()));
            if let Step::Ended(ended) = step {
                break ended;
            }
        };
        assert_eq!((ended, ids.len()), (Ended::Complete, 20));
        assert_eq!(read.not_shown(), 1_000_000_000 - 20, "as if the account might not see them");
        assert!(read.calls() < 150, "{} calls", read.calls());
    }

    #[test]
    fn a_source_that_ignores_page_no_is_an_error_the_second_time() {
        let wide = Rules { page_size: 4, ..second() };
        let four: (&[u64], u64) = (&[1, 2, 3, 4], 7);
        let fours: Answers<'_> = &[four; 3];
        let three: (&[u64], u64) = (&[1, 2, 3], 7);
        let threes: Answers<'_> = &[three; 4];
        let mut scripted = Scripted::new(wide, &[fours, threes].concat());
        let fault = FetchFault::PagingIgnored { call: Call::QueryPurchaseReturns };
        assert_eq!(scripted.run(), Err(fault));
        let good: Answers<'_> = &[(&[1, 2, 3], 7), (&[7], 0), (&[4, 5, 6], 0), (&[1, 2, 3], 7)];
        let (ended, ids, _) = read(wide, &[fours, good].concat());
        assert_eq!((ended, ids.len()), (Ended::Complete, 7));
    }

    #[test]
    fn a_window_the_erp_has_not_reached_is_not_read() {
        let large = Rules { page_size: 9, ..rules() };
        let early = Rules { closes_at: Some(Timestamp(1_001_000)), ..large };
        assert_eq!(read(early, &[(&[1], 1)]), (Ended::TooEarly, vec![], vec![(0, 9)]));
        let closed = Rules { closes_at: Some(Timestamp(1_000_999)), ..large };
        assert_eq!(read(closed, &[(&[1], 1)]).0, Ended::Complete);
    }
}
