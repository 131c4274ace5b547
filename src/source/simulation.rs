//! The promises of the change pipeline against an ERP in virtual time, whose records are modified
//! while they are read.
//!
//! Everything that decides is the product's own: windows, reading order, comparison, the order of
//! commits. Each rule left out must lead to a broken promise, otherwise these tests would prove
//! nothing. The rules are those of `docs/delivery.md#change-pipeline`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};

use xxhash_rust::xxh3::xxh3_64;

use super::{
    diff::{Judgement, Kept, Seen, judge},
    fetch::{Ended, Row, Rules, Step, WindowRead},
    page_size::PageSize,
    query,
    window::{Cursor, Limits, Pace, Pass, Window, closes_at, window_of},
};
use crate::{
    clock::{Moment, Timestamp},
    config::{Edition, Feed, FeedSettings, LatePass},
    erp::{Call, ErpTime, Page, PageRequest, Selection, page::RawRecord, record::Record},
    schema::{Checkpoint, UnprovenWindow},
};

/// Seconds from stamping to being visible, at most.
const VISIBILITY: i64 = 3;
/// How far back the late pass stays, and what it can still repair.
const LATE_TO: i64 = 12;
const STATUSES: [u32; 5] = [50, 55, 95, 110, 5];
const FEED: Feed = Feed::ReturnOutbounds;
const CALL: Call = Call::QueryOutboundsEnterprise;

/// What happens in the ERP, or to us, before a call is answered.
#[derive(Clone, Copy, Debug)]
enum Action {
    Tick(i64),
    /// A record gets new content, stamped `age` seconds ago: shown late, or committed after a later
    /// stamp.
    Write {
        id: u64,
        age: i64,
        status: usize,
    },
    Crash,
}

/// What is wrong with one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PageFault {
    Nothing,
    /// A row is missing.
    Withheld(usize),
    /// It is missing, and its neighbour stands twice.
    Doubled(usize),
    /// Only so many rows.
    Short(usize),
    /// The rows of another page.
    Neighbour,
    CountHigh,
    CountLow,
}

/// How the ERP answers, beside what happens in it.
#[derive(Clone, Debug, Default)]
struct Manners {
    /// What is wrong with the answers, one after the other; none once they are used up.
    faults: VecDeque<PageFault>,
    /// Rows of one `modified` come in another order with every answer.
    shuffled: bool,
    /// More rows a page are never given.
    cap: Option<usize>,
    /// Counted, never shown: the account may not see them.
    hidden: BTreeSet<u64>,
}

/// A rule left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    DownwardPaging,
    /// Upwards as well, but accepted only when the distinct ids reach the last count.
    TrustInTheOrder,
    /// Accepted when the distinct ids reach the last count, however many were counted first, and
    /// whatever the pages look like.
    FirstCount,
    Lag,
    AskingAgain,
    LateWatermark,
    LatePass,
}

struct Stored {
    modified: i64,
    status: u32,
    content: u64,
}

struct FakeErp {
    now: i64,
    rows: BTreeMap<u64, Stored>,
    contents: u64,
    order: u8,
    script: VecDeque<Vec<Action>>,
    crashed: bool,
    calls: usize,
    manners: Manners,
    /// In the read that is going on: a count was too low, a row was withheld. Both together cannot
    /// be recognised.
    low: bool,
    withheld: bool,
    /// What this read and the one before lost: what two in a row lack alike is taken for a record
    /// that the account may not see.
    lost: BTreeSet<u64>,
    lost_before: BTreeSet<u64>,
}

impl FakeErp {
    fn act(&mut self) {
        for action in self.script.pop_front().unwrap_or_default() {
            match action {
                Action::Tick(seconds) => self.now += seconds,
                Action::Write { id, age, status } => {
                    self.contents += 1;
                    self.rows.insert(
                        id,
                        Stored {
                            modified: self.now - age,
                            status: STATUSES[status],
                            content: self.contents,
                        },
                    );
                }
                Action::Crash => self.crashed = true,
            }
        }
    }

    fn next_read(&mut self) {
        (self.low, self.withheld) = (false, false);
        self.lost_before = std::mem::take(&mut self.lost);
    }

    fn answer(&mut self, selection: &Selection, page: PageRequest) -> Page {
        let asked = self.now;
        self.calls += 1;
        self.act();
        let mut found: Vec<(&u64, &Stored)> = self
            .rows
            .iter()
            .filter(|(id, row)| {
                selection.window.is_none_or(|(start, end)| {
                    (start.seconds()..=end.seconds()).contains(&row.modified)
                }) && selection
                    .status
                    .as_ref()
                    .is_none_or(|status| *status == row.status.to_string())
                    && selection.return_no.as_ref().is_none_or(|number| *number == format!("N{id}"))
            })
            .collect();
        let turn = if self.manners.shuffled { self.calls as u64 } else { 1 };
        let any = |id: u64| xxh3_64(&(id << 32 | turn).to_be_bytes()) as i64;
        found.sort_by_key(|(id, row)| match self.order {
            0 => (0, **id as i64),
            1 => (0, -(**id as i64)),
            2 => (row.modified, any(**id)),
            3 => (-row.modified, any(**id)),
            _ => ((**id as i64 * 7919) % 13, **id as i64),
        });
        let fault = self.manners.faults.pop_front().unwrap_or(PageFault::Nothing);
        let hides =
            !matches!(fault, PageFault::Nothing | PageFault::CountHigh | PageFault::CountLow);
        let fault = match fault {
            // A limit that is not known yet withholds as well.
            PageFault::CountLow
                if self.withheld || self.low || !page.count || self.manners.cap.is_some() =>
            {
                PageFault::Nothing
            }
            _ if hides && self.low => PageFault::Nothing,
            other => other,
        };
        let page_no = match (fault, page.page_no) {
            (PageFault::Neighbour, 0) => 1,
            (PageFault::Neighbour, page_no) => page_no - 1,
            (_, page_no) => page_no,
        };
        let size = self.manners.cap.unwrap_or(usize::MAX).min(page.page_size as usize);
        let visible = |page_no: u32| -> Vec<(u64, RawRecord)> {
            found
                .iter()
                .skip(page_no as usize * size)
                .take(size)
                .filter(|(id, _)| !self.manners.hidden.contains(id))
                .map(|(id, row)| {
                    let text = format!(
                        r#"{{"stockout_id":"{id}","modified":{},"status":{},"content":{}}}"#,
                        row.modified, row.status, row.content
                    );
                    (**id, RawRecord::new(FEED, text.into()))
                })
                .collect()
        };
        let whole = visible(page.page_no);
        // What an unknown limit cuts off is lost to this page as well.
        let cut: BTreeSet<u64> = found
            .iter()
            .skip((page.page_no * page.page_size) as usize)
            .take(page.page_size as usize)
            .map(|(id, _)| **id)
            .filter(|id| !self.manners.hidden.contains(id))
            .filter(|id| !whole.iter().any(|(shown, _)| shown == id))
            .collect();
        let mut rows = visible(page_no);
        let length = rows.len();
        match fault {
            PageFault::Withheld(at) if length > 0 => drop(rows.remove(at % length)),
            PageFault::Doubled(at) if length > 1 => {
                rows[at % length] = rows[(at + 1) % length].clone();
            }
            PageFault::Short(most) => rows.truncate(most),
            _ => {}
        }
        let shown: BTreeSet<u64> = rows.iter().map(|(id, _)| *id).collect();
        let lost: BTreeSet<u64> =
            whole.iter().map(|(id, _)| *id).filter(|id| !shown.contains(id)).collect();
        let again = !lost.is_disjoint(&self.lost_before);
        self.lost.extend(cut);
        let (fault, rows) = if again { (PageFault::Nothing, whole) } else { (fault, rows) };
        if !again {
            self.lost.extend(lost);
        }
        self.low |= fault == PageFault::CountLow;
        self.withheld |= hides && !again;
        let rows = rows.into_iter().map(|(_, row)| row).collect();
        let count = match (fault, found.len() as u64) {
            (PageFault::CountHigh, count) => count + 1,
            (PageFault::CountLow, count) => count.saturating_sub(1),
            (_, count) => count,
        };
        Page {
            rows,
            total_count: page.count.then_some(count),
            erp_date: Some(Timestamp(self.now * 1000)),
            asked_at: Moment(0),
            asked_at_wall: Timestamp(asked * 1000),
        }
    }
}

struct Published {
    id: u64,
    modified: i64,
    content: u64,
    confirmed: bool,
}

struct Connector {
    erp: FakeErp,
    settings: FeedSettings,
    without: Without,
    cursor: Cursor,
    durable: Option<Checkpoint>,
    state: BTreeMap<u64, Kept>,
    events: Vec<Published>,
    live: Pace,
    late: Pace,
    /// Something was published since the last checkpoint.
    published: bool,
    page_size: PageSize,
    doubts: Vec<Window>,
    /// A version that was current from before a live fetch to its end, and was not published by it.
    overlooked: Option<String>,
}

fn parse(row: &Row) -> (u64, i64, u64, u32) {
    let value: serde_json::Value = serde_json::from_slice(&row.json).unwrap();
    let number = |name: &str| value[name].as_i64().unwrap();
    (
        row.id.as_ref().unwrap().parse().unwrap(),
        number("modified"),
        number("content") as u64,
        number("status") as u32,
    )
}

impl Connector {
    fn new(
        script: Vec<Vec<Action>>,
        order: u8,
        edition: Edition,
        without: Without,
        manners: Manners,
    ) -> Self {
        let seconds = |seconds: i64| Duration::from_secs(seconds as u64);
        // One second more than the visibility: what is stamped within the last second of a window
        // may be shown up to a second later than its stamp says.
        let lag = if without == Without::Lag { 0 } else { VISIBILITY + 1 };
        let settings = FeedSettings {
            edition,
            start_at: Timestamp(0),
            safety_lag: seconds(lag),
            max_visibility_lag: seconds(VISIBILITY.min(lag)),
            late_pass: LatePass { lag: seconds(LATE_TO), ..super::tests::settings().late_pass },
            page_size: 2,
            max_pages_per_window: 3,
            ..super::tests::settings()
        };
        let erp = FakeErp {
            now: 30,
            rows: BTreeMap::new(),
            contents: 0,
            order,
            script: script.into(),
            crashed: false,
            calls: 0,
            manners,
            low: false,
            withheld: false,
            lost: BTreeSet::new(),
            lost_before: BTreeSet::new(),
        };
        let cursor = Cursor::resumed(None, settings.start_at, "").0;
        let pace = Pace::new(settings.max_pages_per_window);
        let (state, events) = (BTreeMap::new(), Vec::new());
        Self {
            erp,
            settings,
            without,
            cursor,
            durable: None,
            state,
            events,
            live: pace,
            late: pace,
            published: false,
            page_size: PageSize::new(2),
            doubts: Vec::new(),
            overlooked: None,
        }
    }

    fn pace(&mut self, pass: Pass) -> &mut Pace {
        match pass {
            Pass::Live | Pass::Shipped | Pass::Backfill | Pass::Unproven => &mut self.live,
            Pass::Late => &mut self.late,
        }
    }

    fn restart(&mut self) {
        self.erp.crashed = false;
        self.cursor = Cursor::resumed(self.durable.clone(), self.settings.start_at, "").0;
    }

    fn limits(&self) -> Limits {
        Limits::at(Timestamp(self.erp.now * 1000), &ErpTime::default(), &self.settings)
    }

    fn turn(&mut self, pass: Pass) {
        let limits = self.limits();
        let pace = *self.pace(pass);
        let rolling = pass == Pass::Late && self.without == Without::LateWatermark;
        let window = if rolling {
            Some(Window {
                start: limits.now.minus(Duration::from_secs(LATE_TO as u64 + 6)),
                end: limits.late,
            })
        } else {
            self.cursor.next(pass, limits, &pace)
        };
        let window = match pass {
            Pass::Unproven => self.cursor.unproven().first().map(window_of),
            Pass::Live | Pass::Late | Pass::Shipped | Pass::Backfill => window,
        };
        let Some(window) = window else { return };
        let resting = self.versions(window);
        let old = matches!(
            self.without,
            Without::DownwardPaging | Without::TrustInTheOrder | Without::FirstCount
        );
        let ended = if self.without == Without::FirstCount {
            self.by_the_last_count(window)
        } else if old {
            let rows = self.upwards(window);
            if !self.publish(rows) {
                return;
            }
            Ended::Complete
        } else {
            let whole = rolling || pass == Pass::Unproven;
            let rules = Rules {
                call: CALL,
                page_size: self.page_size.now(),
                longest_page: self.page_size.longest(),
                budget: (!whole).then(|| pace.budget()),
                splittable: !whole && window.splittable(),
                closes_at: (!rolling).then(|| closes_at(window, self.settings.max_visibility_lag)),
            };
            let mut read = WindowRead::new(query::of_window(FEED, &self.settings, window), rules);
            let ended = loop {
                let (selection, request) = read.request().unwrap();
                let (selection, request) = (selection.clone(), request);
                let page = self.erp.answer(&selection, request);
                let (rows, step) =
                    read.consume(page).unwrap_or_else(|_| (Vec::new(), Step::Ended(Ended::Split)));
                if !matches!(step, Step::More) {
                    self.erp.next_read();
                }
                if !self.publish(rows) {
                    return;
                }
                match step {
                    Step::More | Step::Again(_) => {}
                    Step::Ended(ended) => break ended,
                }
            };
            self.page_size.seen(&read);
            if ended == Ended::Complete {
                self.page_size.accepted(FEED, &read);
                self.pace(pass).read(window, read.pages());
            }
            ended
        };
        let mut next =
            if rolling { self.cursor.clone() } else { self.cursor.after(pass, window, limits) };
        match ended {
            Ended::TooLarge { pages } => return self.pace(pass).too_large(window, pages),
            Ended::Split => return self.pace(pass).halve(window),
            Ended::TooEarly => panic!("the clocks agree"),
            Ended::Complete => {}
            Ended::Unproven(_) if pass == Pass::Unproven => return,
            Ended::Unproven(_) => self.doubts.push(window),
        }
        for window in std::mem::take(&mut self.doubts) {
            let listed = UnprovenWindow {
                from: window.start,
                to: window.end,
                since: Timestamp(0),
                snapshot: false,
                records_since: None,
            };
            next = next.listed(listed).unwrap();
        }
        let still = self.versions(window);
        // Records that enter against the assumption may hide others from this pass; the late one
        // finds them.
        if self.finish(next) && pass == Pass::Live && self.without == Without::LatePass {
            let listed = |id: u64| {
                self.cursor.unproven().iter().any(|listed| {
                    let modified = self.erp.rows[&id].modified;
                    (listed.from.seconds()..=listed.to.seconds()).contains(&modified)
                })
            };
            let hidden = &self.erp.manners.hidden;
            self.overlooked = resting
                .into_iter()
                .filter(|(id, _)| !hidden.contains(id) && !listed(*id))
                .find(|version| still.contains(version) && !self.events.iter().any(|event| (event.id, event.content) == *version))
                .map(|(id, content)| format!("version {content} of record {id} rested through a fetch and was not published by it"))
                .or(self.overlooked.take());
        }
    }

    /// The rule of old: last page down to page 0, distinct ids against the last count.
    fn by_the_last_count(&mut self, window: Window) -> Ended {
        for query in query::of_window(FEED, &self.settings, window) {
            let mut before = None;
            loop {
                let mut ids = BTreeSet::new();
                let size = u64::from(self.settings.page_size);
                let mut ask = |this: &mut Self, page_no: u32, count: bool| {
                    let request = PageRequest { page_no, page_size: size as u32, count };
                    let page = this.erp.answer(&query, request);
                    let rows: Vec<Row> = page
                        .rows
                        .into_iter()
                        .map(|raw| Row::new(raw, page.asked_at_wall))
                        .collect();
                    ids.extend(rows.iter().map(|row| row.id.clone()));
                    this.publish(rows);
                    page.total_count.unwrap_or(0)
                };
                let mut count = ask(self, 0, true);
                let pages = count.div_ceil(size) as u32;
                if pages > 1 {
                    for page_no in (1..pages).rev() {
                        ask(self, page_no, false);
                    }
                    count = ask(self, 0, true);
                }
                self.erp.next_read();
                if ids.len() as u64 >= count || before.as_ref() == Some(&ids) {
                    break;
                }
                if before.replace(ids).is_some() && window.splittable() {
                    return Ended::Split;
                }
            }
        }
        Ended::Complete
    }

    /// What the ERP shows of a window now: record and content.
    fn versions(&self, window: Window) -> Vec<(u64, u64)> {
        let inside =
            |row: &Stored| (window.start.seconds()..=window.end.seconds()).contains(&row.modified);
        self.erp
            .rows
            .iter()
            .filter(|(_, row)| inside(row))
            .map(|(id, row)| (*id, row.content))
            .collect()
    }

    /// What every poller does first.
    fn upwards(&mut self, window: Window) -> Vec<Row> {
        let mut rows = BTreeMap::new();
        for query in query::of_window(FEED, &self.settings, window) {
            loop {
                let (read, count) = self.upwards_once(&query);
                let covered = read.len() as u64 >= count;
                rows.extend(read);
                if covered || self.without == Without::DownwardPaging {
                    break;
                }
            }
        }
        rows.into_values().collect()
    }

    fn upwards_once(&mut self, query: &Selection) -> (BTreeMap<Option<Arc<str>>, Row>, u64) {
        let (mut rows, mut count) = (BTreeMap::new(), 0);
        for page_no in 0.. {
            let page = self.erp.answer(
                query,
                PageRequest { page_no, page_size: self.settings.page_size, count: true },
            );
            count = page.total_count.unwrap();
            if page.rows.is_empty() {
                break;
            }
            let asked_at = page.asked_at_wall;
            rows.extend(
                page.rows
                    .into_iter()
                    .map(|raw| Row::new(raw, asked_at))
                    .map(|row| (row.id.clone(), row)),
            );
        }
        (rows, count)
    }

    /// Publishes what is new of a page, in batches of two; a crash may come after any: then `false`.
    fn publish(&mut self, rows: Vec<Row>) -> bool {
        let mut changes = Vec::new();
        for row in rows {
            let (id, modified, content, status) = parse(&row);
            let datum = &row.json[..];
            let kept = self.state.get(&id);
            let same = kept.is_some_and(|kept| kept.datum.as_deref() == Some(datum));
            let seen = Seen { modified: Timestamp(modified * 1000), asked_at: row.asked_at, same };
            match judge(kept, seen) {
                Judgement::Same => {}
                Judgement::Unseen | Judgement::Different => {
                    changes.retain(|(_, known): &(Row, Published)| known.id != id);
                    changes.push((row, Published { id, modified, content, confirmed: false }))
                }
                Judgement::AskAgain if self.without == Without::AskingAgain => {}
                Judgement::AskAgain => {
                    if let Some(answer) = self.ask_again(&row, id, modified, status)
                        && self.state[&id].datum.as_deref() != Some(&answer.json[..])
                    {
                        let (id, modified, content, _) = parse(&answer);
                        changes.retain(|(_, known): &(Row, Published)| known.id != id);
                        changes
                            .push((answer, Published { id, modified, content, confirmed: true }));
                    }
                }
            }
        }
        let mut changes = VecDeque::from(changes);
        while !changes.is_empty() {
            if self.erp.crashed {
                self.restart();
                return false;
            }
            for (row, published) in changes.drain(..changes.len().min(2)) {
                let kept = Kept {
                    modified: Timestamp(published.modified * 1000),
                    asked_at: row.asked_at,
                    datum: Some(row.json.to_vec()),
                };
                self.state.insert(published.id, kept);
                self.events.push(published);
                self.published = true;
            }
            self.erp.act();
        }
        true
    }

    /// The checkpoint, which is written where something was published and now and then.
    fn finish(&mut self, next: Cursor) -> bool {
        if self.erp.crashed {
            self.restart();
            return false;
        }
        let listed = next.unproven() != self.cursor.unproven();
        if std::mem::take(&mut self.published) || listed || self.erp.calls.is_multiple_of(5) {
            self.durable = Some(next.checkpoint().clone());
        }
        self.cursor = next;
        true
    }

    /// A record that looks older, by its number. Where the answer is not to be had, its second is
    /// read again later.
    fn ask_again(&mut self, row: &Row, id: u64, modified: i64, status: u32) -> Option<Row> {
        let record = Record {
            id: id.to_string(),
            number: format!("N{id}"),
            modified: Timestamp(modified * 1000),
            return_no: Some(format!("N{id}")),
            status: Some(i64::from(status)),
            remark: None,
            datum: Vec::new(),
            drift: Vec::new(),
        };
        let rules = Rules {
            call: CALL,
            page_size: self.page_size.now(),
            longest_page: self.page_size.longest(),
            budget: None,
            splittable: false,
            closes_at: None,
        };
        let outer = (std::mem::take(&mut self.erp.low), std::mem::take(&mut self.erp.withheld));
        let mut read =
            WindowRead::new(query::of_record(FEED, &self.settings, &record, false).unwrap(), rules);
        let mut shown = Vec::new();
        let ended = loop {
            let (selection, request) = read.request().unwrap();
            let (selection, request) = (selection.clone(), request);
            let page = self.erp.answer(&selection, request);
            let Ok((rows, step)) = read.consume(page) else {
                break Ended::Split;
            };
            shown.extend(rows);
            match step {
                Step::More => {}
                Step::Again(_) => self.erp.next_read(),
                Step::Ended(ended) => break ended,
            }
        };
        (self.erp.low, self.erp.withheld) = outer;
        let answer = shown.into_iter().rev().find(|answer| answer.id == row.id);
        if answer.is_none() && ended != Ended::Complete {
            let second = Timestamp(modified * 1000);
            self.doubts.push(Window { start: second, end: second });
        }
        answer
    }

    fn run(&mut self) -> Result<(), String> {
        let mut settled_at = None;
        for round in 0..5_000 {
            if self.erp.script.is_empty() && settled_at.is_none() {
                settled_at = Some(self.erp.now);
            }
            let behind =
                |watermark: Timestamp| settled_at.is_none_or(|at| watermark.seconds() <= at);
            let late = !matches!(
                self.without,
                Without::LatePass
                    | Without::LateWatermark
                    | Without::Lag
                    | Without::DownwardPaging
                    | Without::TrustInTheOrder
            );
            let at = self.cursor.checkpoint();
            if !behind(at.watermark)
                && (!late || !behind(at.late_watermark))
                && at.unproven.is_empty()
            {
                return self.check();
            }
            self.turn(Pass::Live);
            if round % 4 == 1 {
                self.turn(Pass::Unproven);
            }
            if round % 4 == 3 && (late || self.without == Without::LateWatermark) {
                self.turn(Pass::Late);
            }
            if self.erp.crashed {
                self.restart();
            }
            self.erp.now += 1;
        }
        Err("the feed never settled".to_owned())
    }

    fn check(&self) -> Result<(), String> {
        if let Some(overlooked) = &self.overlooked {
            return Err(overlooked.clone());
        }
        let mut told = BTreeSet::new();
        let mut last: BTreeMap<u64, &Published> = BTreeMap::new();
        for event in &self.events {
            if !told.insert((event.id, event.content)) {
                return Err(format!("version {} of record {} came twice", event.content, event.id));
            }
            let before = last.insert(event.id, event);
            if before.is_some_and(|before| event.modified < before.modified && !event.confirmed) {
                return Err(format!("record {} went back without being asked for", event.id));
            }
        }
        let hidden = &self.erp.manners.hidden;
        for (id, row) in self.erp.rows.iter().filter(|(id, _)| !hidden.contains(id)) {
            match last.get(id) {
                None => return Err(format!("record {id} was missed")),
                Some(event) if event.content != row.content => {
                    return Err(format!("record {id} rests in another version than published"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

fn script(oldest: i64, crashes: bool) -> impl Strategy<Value = Vec<Vec<Action>>> {
    let write = (0..9_u64, 0..=oldest, 0..STATUSES.len())
        .prop_map(|(id, age, status)| Action::Write { id, age, status });
    let action = prop_oneof![
        8 => write,
        3 => (1..4_i64).prop_map(Action::Tick),
        u32::from(crashes) => Just(Action::Crash),
    ];
    proptest::collection::vec(proptest::collection::vec(action, 0..4), 1..60)
}

/// Perfect pages: one call answers as another one would.
fn perfect() -> impl Strategy<Value = Manners> {
    Just(Manners::default())
}

/// Pages as they are.
fn imperfect() -> impl Strategy<Value = Manners> {
    let fault = prop_oneof![
        12 => Just(PageFault::Nothing),
        1 => (0..4_usize).prop_map(PageFault::Withheld),
        1 => (0..4_usize).prop_map(PageFault::Doubled),
        1 => (0..2_usize).prop_map(PageFault::Short),
        1 => Just(PageFault::Neighbour),
        1 => Just(PageFault::CountHigh),
        1 => Just(PageFault::CountLow),
    ];
    let hidden = proptest::collection::btree_set(0..9_u64, 0..3);
    let hidden = prop_oneof![3 => Just(BTreeSet::new()), 1 => hidden];
    let cap = prop_oneof![3 => Just(None), 1 => Just(Some(2))];
    (proptest::collection::vec(fault, 0..120), any::<bool>(), cap, hidden).prop_map(
        |(faults, shuffled, cap, hidden)| {
            // Where nothing is shown at all, nothing tells a limit from a permission.
            let hidden = if cap.is_some() { BTreeSet::new() } else { hidden };
            Manners { faults: faults.into(), shuffled, cap, hidden }
        },
    )
}

fn hunt(cases: u32, oldest: i64, without: Without) -> Result<(), String> {
    hunt_among(cases, oldest, without, perfect())
}

fn hunt_among(
    cases: u32,
    oldest: i64,
    without: Without,
    manners: impl Strategy<Value = Manners>,
) -> Result<(), String> {
    let config =
        Config { cases, failure_persistence: None, max_shrink_iters: 2_000, ..Config::default() };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let crashes = without == Without::Nothing || without == Without::LatePass;
    let editions = prop_oneof![Just(Edition::Flagship), Just(Edition::Enterprise)];
    runner
        .run(
            &(script(oldest, crashes), 0..5_u8, editions, manners, 2..5_u32),
            |(script, order, edition, manners, page_size)| {
                let mut connector = Connector::new(script, order, edition, without, manners);
                connector.settings.page_size = page_size;
                connector.page_size = PageSize::new(page_size);
                connector.run().map_err(TestCaseError::fail)
            },
        )
        .map_err(|error| error.to_string())
}

#[test]
fn the_live_pass_alone_keeps_every_promise_while_visibility_holds() {
    hunt(3_000, VISIBILITY, Without::LatePass).unwrap();
}

#[test]
fn with_the_late_pass_they_hold_for_whatever_it_reaches() {
    hunt(3_000, LATE_TO - 1, Without::Nothing).unwrap();
}

#[test]
fn imperfect_pages_hide_nothing_from_the_live_pass() {
    hunt_among(6_000, VISIBILITY, Without::LatePass, imperfect()).unwrap();
}

#[test]
fn imperfect_pages_hide_nothing_from_both_passes() {
    hunt_among(6_000, LATE_TO - 1, Without::Nothing, imperfect()).unwrap();
}

#[test]
fn believing_the_last_count_misses_on_imperfect_pages() {
    hunt_among(6_000, VISIBILITY, Without::FirstCount, imperfect()).unwrap_err();
}

#[test]
fn reading_pages_upwards_misses() {
    hunt(3_000, 0, Without::DownwardPaging).unwrap_err();
}

#[test]
fn trusting_the_count_instead_of_the_order_misses() {
    hunt(3_000, 0, Without::TrustInTheOrder).unwrap_err();
}

#[test]
fn a_lag_below_visibility_misses() {
    hunt(3_000, VISIBILITY, Without::Lag).unwrap_err();
}

#[test]
fn never_publishing_an_older_version_ends_with_the_wrong_one() {
    hunt(3_000, LATE_TO - 1, Without::AskingAgain).unwrap_err();
}

#[test]
fn a_late_pass_without_a_watermark_misses() {
    hunt(3_000, LATE_TO - 1, Without::LateWatermark).unwrap_err();
}

#[test]
fn without_a_late_pass_late_rows_are_missed() {
    hunt(3_000, LATE_TO - 1, Without::LatePass).unwrap_err();
}
