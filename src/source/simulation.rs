//! The promises of the change pipeline against an ERP in virtual time, whose records are modified
//! while they are read.
//!
//! Everything that decides is the product's own: windows, reading order, comparison, the order of
//! commits. Each rule left out must lead to a broken promise, otherwise these tests would prove
//! nothing. The rules are those of `docs/delivery.md#change-pipeline`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::Future,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt as _;
use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};

use super::{
    diff::{Judgement, Kept, Seen, judge},
    fetch::{Ask, Gathered, Row, Rules, gather},
    known::Known,
    query,
    window::{Cursor, ErpClock, Limits, Pace, Pass, Window, closes_at},
};
use crate::{
    clock::{Moment, Timestamp},
    config::{Edition, Feed, FeedSettings, LatePass},
    erp::{Call, Page, PageRequest, QueryFault, Selection, page::RawRecord, record::Record},
    schema::Checkpoint,
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

/// A rule left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    DownwardPaging,
    /// Upwards as well, but accepted only when the distinct ids reach the last count.
    TrustInTheOrder,
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
    /// What the connector knows while it asks; few records, so that some are forgotten.
    known: Known,
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
        found.sort_by_key(|(id, row)| match self.order {
            0 => (0, **id as i64),
            1 => (0, -(**id as i64)),
            2 => (row.modified, **id as i64),
            3 => (-row.modified, **id as i64),
            _ => ((**id as i64 * 7919) % 13, **id as i64),
        });
        let rows = found
            .iter()
            .skip((page.page_no * page.page_size) as usize)
            .take(page.page_size as usize)
            .map(|(id, row)| {
                let text = format!(
                    r#"{{"stockout_id":"{id}","modified":{},"status":{},"content":{}}}"#,
                    row.modified, row.status, row.content
                );
                RawRecord::new(FEED, text.into())
            });
        Page {
            rows: rows.collect(),
            total_count: page.count.then_some(found.len() as u64),
            erp_date: Some(Timestamp(self.now * 1000)),
            asked_at: Moment(0),
            asked_at_wall: Timestamp(asked * 1000),
        }
    }
}

impl Ask for FakeErp {
    fn ask(
        &mut self,
        selection: &Selection,
        page: PageRequest,
    ) -> impl Future<Output = Result<Page, QueryFault>> + Send {
        std::future::ready(Ok(self.answer(selection, page)))
    }

    fn entered(&mut self, _distinct: u64, _count: u64) {}

    fn knows(&self, id: &str, hash: &[u8; 16]) -> bool {
        self.known.holds(id, hash)
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
    fn new(script: Vec<Vec<Action>>, order: u8, edition: Edition, without: Without) -> Self {
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
        let (rows, known) = (BTreeMap::new(), Known::of(2));
        let erp = FakeErp {
            now: 30,
            rows,
            contents: 0,
            order,
            script: script.into(),
            crashed: false,
            calls: 0,
            known,
        };
        let cursor = Cursor::resume(None, settings.start_at, "").0;
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
            overlooked: None,
        }
    }

    fn pace(&mut self, pass: Pass) -> &mut Pace {
        match pass {
            Pass::Live | Pass::Backfill => &mut self.live,
            Pass::Late => &mut self.late,
        }
    }

    fn restart(&mut self) {
        self.erp.crashed = false;
        self.erp.known = Known::of(2);
        self.cursor = Cursor::resume(self.durable.clone(), self.settings.start_at, "").0;
    }

    fn limits(&self) -> Limits {
        Limits::at(Timestamp(self.erp.now * 1000), &ErpClock::default(), &self.settings)
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
        let Some(window) = window else { return };
        let resting = self.versions(window);
        let rows = if matches!(self.without, Without::DownwardPaging | Without::TrustInTheOrder) {
            self.upwards(window)
        } else {
            let rules = Rules {
                call: CALL,
                page_size: self.settings.page_size,
                budget: Some(pace.budget()),
                splittable: window.splittable() && !rolling,
                closes_at: (!rolling).then(|| closes_at(window, self.settings.max_visibility_lag)),
            };
            let queries = query::of_window(FEED, &self.settings, window);
            match gather(&mut self.erp, &queries, rules).now_or_never().unwrap().unwrap() {
                Gathered::Rows { rows, pages, .. } => {
                    self.pace(pass).read(window, pages);
                    rows
                }
                Gathered::TooLarge { pages } => return self.pace(pass).too_large(window, pages),
                Gathered::Split => return self.pace(pass).split(window),
                Gathered::TooEarly => panic!("the clocks agree"),
            }
        };
        let next =
            if rolling { self.cursor.clone() } else { self.cursor.after(pass, window, limits) };
        let still = self.versions(window);
        // Records that enter against the assumption may hide others from this pass; the late one
        // finds them.
        if self.publish(rows, next) && pass == Pass::Live && self.without == Without::LatePass {
            self.overlooked = resting
                .into_iter()
                .find(|version| still.contains(version) && !self.events.iter().any(|event| (event.id, event.content) == *version))
                .map(|(id, content)| format!("version {content} of record {id} rested through a fetch and was not published by it"))
                .or(self.overlooked.take());
        }
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

    /// Batches of two, the checkpoint with the last; a crash may come after any: then `false`.
    fn publish(&mut self, rows: Vec<Row>, next: Cursor) -> bool {
        let mut changes = Vec::new();
        for row in rows {
            let (id, modified, content, status) = parse(&row);
            let datum = &row.json[..];
            let seen = Seen { modified: Timestamp(modified * 1000), asked_at: row.asked_at, datum };
            match judge(self.state.get(&id), seen) {
                Judgement::Same => {}
                Judgement::Unseen | Judgement::Different => {
                    changes.push((row, Published { id, modified, content, confirmed: false }))
                }
                Judgement::AskAgain if self.without == Without::AskingAgain => {}
                Judgement::AskAgain => {
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
                        page_size: 2,
                        budget: None,
                        splittable: false,
                        closes_at: None,
                    };
                    let queries = query::of_record(FEED, &self.settings, &record);
                    let Gathered::Rows { rows, .. } =
                        gather(&mut self.erp, &queries, rules).now_or_never().unwrap().unwrap()
                    else {
                        panic!("no window was asked for")
                    };
                    let answer = rows.into_iter().find(|answer| answer.id == row.id);
                    if let Some(answer) = answer
                        .filter(|answer| self.state[&id].datum.as_deref() != Some(&answer.json[..]))
                    {
                        let (id, modified, content, _) = parse(&answer);
                        changes
                            .push((answer, Published { id, modified, content, confirmed: true }));
                    }
                }
            }
        }
        let durable = !changes.is_empty() || self.erp.calls.is_multiple_of(5);
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
                self.erp.known.keep(&published.id.to_string(), row.hash);
                self.events.push(published);
            }
            if changes.is_empty() {
                self.durable = Some(next.checkpoint().clone());
            }
            self.erp.act();
        }
        if durable {
            self.durable = Some(next.checkpoint().clone());
        }
        self.cursor = next;
        true
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
            if !behind(at.watermark) && (!late || !behind(at.late_watermark)) {
                return self.check();
            }
            self.turn(Pass::Live);
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
        for (id, row) in &self.erp.rows {
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

fn hunt(cases: u32, oldest: i64, without: Without) -> Result<(), String> {
    let config =
        Config { cases, failure_persistence: None, max_shrink_iters: 2_000, ..Config::default() };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let crashes = without == Without::Nothing || without == Without::LatePass;
    let editions = prop_oneof![Just(Edition::Flagship), Just(Edition::Enterprise)];
    runner
        .run(&(script(oldest, crashes), 0..5_u8, editions), |(script, order, edition)| {
            Connector::new(script, order, edition, without).run().map_err(TestCaseError::fail)
        })
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
