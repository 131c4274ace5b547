//! Cursors under everything that may happen to them, in any order: no second is passed unread, and
//! none gets behind the late watermark that was not read once more than the late pass stays back,
//! unless an order skipped it. What has still to be read by a backfill, or is listed, may be passed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    clock::Timestamp,
    schema::{Checkpoint, UnprovenWindow},
};

use super::{
    order::{BackfillOrder, WatermarkOrder},
    window::{Cursor, Limits, Pace, Pass, Resumed, Window, window_of},
};

/// How far windows of both passes stay behind now, in seconds.
const LIVE: i64 = 10;
const LATE: i64 = 40;

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * 1000)
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: i64) -> i64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from(self.0 >> 33).unwrap() % sides
    }
}

/// What may happen besides windows and restarts.
#[derive(Clone, Copy, Default)]
struct Happens {
    orders: bool,
    skips: bool,
    filters: bool,
    starts: bool,
    clock_goes_back: bool,
    unproven: bool,
}

/// How a second was read with the filters in force.
#[derive(Clone, Copy, Default)]
struct Second {
    read: bool,
    late: bool,
}

struct Model {
    happens: Happens,
    now: i64,
    cursor: Cursor,
    stored: Checkpoint,
    filters: i64,
    start: i64,
    /// The earliest start since the filters changed last.
    wanted: i64,
    seconds: BTreeMap<i64, Second>,
    skipped: BTreeSet<i64>,
    story: Vec<String>,
}

impl Model {
    fn new(happens: Happens, dice: &mut Dice) -> Self {
        let now = 100_000;
        let start = now - dice.roll(200);
        let (cursor, _) = Cursor::resumed(None, at(start), "f0");
        Self {
            happens,
            now,
            stored: cursor.checkpoint().clone(),
            cursor,
            filters: 0,
            start,
            wanted: start,
            seconds: BTreeMap::new(),
            skipped: BTreeSet::new(),
            story: vec![format!("start {start}, now {now}")],
        }
    }

    fn limits(&self) -> Limits {
        Limits { now: at(self.now), live: at(self.now - LIVE), late: at(self.now - LATE) }
    }

    fn moves(&mut self, cursor: Cursor, what: String) {
        self.stored = cursor.checkpoint().clone();
        self.cursor = cursor;
        self.story.push(what);
    }

    fn read(&mut self, window: Window) {
        for second in window.start.seconds()..=window.end.seconds() {
            let read = self.seconds.entry(second).or_default();
            read.read = true;
            read.late |= second <= self.now - LATE;
        }
    }

    fn step(&mut self, dice: &mut Dice, turn: usize) {
        let happens = self.happens;
        match dice.roll(14) {
            0 | 1 => self.now += dice.roll(30),
            2..=4 => self.pass(Pass::Live, dice),
            5 | 6 => self.pass(Pass::Late, dice),
            7 => self.pass(Pass::Backfill, dice),
            8 if happens.orders => self.set_watermark(dice, turn),
            9 if happens.filters => {
                self.filters += 1;
                if happens.starts {
                    self.start = self.now - dice.roll(150);
                }
                self.restart();
            }
            10 if happens.starts => {
                self.start = self.now - dice.roll(200);
                self.restart();
            }
            11 => self.restart(),
            12 if happens.clock_goes_back => self.clock_goes_back(dice),
            13 if happens.unproven => self.read_listed(dice),
            _ if happens.filters && dice.roll(4) == 0 => self.order_backfill(dice, turn),
            _ => {}
        }
    }

    fn pass(&mut self, pass: Pass, dice: &mut Dice) {
        let mut pace = Pace::new(10);
        pace.halve(Window { start: at(0), end: at(2 + 2 * dice.roll(60)) });
        let limits = self.limits();
        let Some(window) = self.cursor.next(pass, limits, &pace) else { return };
        let mut next = self.cursor.after(pass, window, limits);
        let proven = !self.happens.unproven || dice.roll(4) > 0;
        if proven {
            self.read(window);
        } else {
            let listed = UnprovenWindow {
                from: window.start,
                to: window.end,
                since: at(0),
                snapshot: false,
                records_since: None,
            };
            match next.listed(listed) {
                Some(listed) => next = listed,
                None => return,
            }
        }
        let (from, to) = (window.start.seconds(), window.end.seconds());
        self.moves(next, format!("{} {from} to {to}, proven: {proven}", pass.name()));
    }

    fn set_watermark(&mut self, dice: &mut Dice, turn: usize) {
        let to = self.now - LIVE - dice.roll(120);
        let allow_skip = self.happens.skips && dice.roll(2) == 0;
        let order = WatermarkOrder { id: turn.to_string(), watermark: at(to), allow_skip };
        let before = self.cursor.checkpoint().clone();
        if allow_skip && at(to) > before.watermark {
            self.skipped.extend(before.late_watermark.seconds()..=to);
        }
        let next = self.cursor.set(&order, self.limits()).unwrap();
        self.moves(next, format!("watermark to {to}, skip allowed: {allow_skip}"));
    }

    fn order_backfill(&mut self, dice: &mut Dice, turn: usize) {
        let from = self.now - dice.roll(300);
        let order = BackfillOrder {
            id: format!("b{turn}"),
            from: at(from),
            to: at(from + dice.roll(100)),
            cancelled: dice.roll(4) == 0,
        };
        if let Some(next) = self.cursor.ordered(&order) {
            self.moves(next, format!("backfill {order:?}"));
        }
    }

    fn read_listed(&mut self, dice: &mut Dice) {
        let at = usize::try_from(dice.roll(3)).unwrap();
        let Some(window) = self.cursor.unproven().get(at).map(window_of) else { return };
        self.read(window);
        let next = self.cursor.after(Pass::Unproven, window, self.limits());
        self.moves(next, format!("listed {window:?} read"));
    }

    fn clock_goes_back(&mut self, dice: &mut Dice) {
        self.now -= dice.roll(60);
        // What is written from now on bears these seconds.
        for (_, second) in self.seconds.range_mut(self.now..) {
            *second = Second::default();
        }
        let start = self.cursor.checkpoint().start_at;
        let behind = self.cursor.behind(at(self.now), Duration::ZERO, self.limits(), start, false);
        if let Some(Ok(next)) = behind {
            self.moves(next, format!("clock back to {}", self.now));
        }
    }

    fn restart(&mut self) {
        let filters = format!("f{}", self.filters);
        if self.stored.filters_hash == filters {
            self.wanted = self.wanted.min(self.start);
        } else {
            self.seconds.clear();
            self.wanted = self.start;
        }
        let (mut cursor, resumed) =
            Cursor::resumed(Some(self.stored.clone()), at(self.start), &filters);
        if matches!(resumed, Resumed::FiltersChanged | Resumed::EarlierStart) {
            cursor = cursor.late_from(self.limits().late);
        }
        self.moves(cursor, format!("restart, {filters}, start {}: {resumed:?}", self.start));
    }

    /// What is wrong now.
    fn fault(&self) -> Option<String> {
        let checkpoint = self.cursor.checkpoint();
        let backfill = checkpoint.backfill_position.zip(checkpoint.backfill_to);
        let excused = |second: i64| {
            let listed = |listed: &UnprovenWindow| window_of(listed).holds(at(second));
            self.skipped.contains(&second)
                || self.cursor.unproven().iter().any(listed)
                || backfill.is_some_and(|(position, to)| {
                    checkpoint.backfill_id.is_none() && (position..=to).contains(&at(second))
                })
        };
        let (live, late) = (checkpoint.watermark.seconds(), checkpoint.late_watermark.seconds());
        (self.wanted..live).filter(|second| !excused(*second)).find_map(|second| {
            let was = self.seconds.get(&second).copied().unwrap_or_default();
            if !was.read {
                Some(format!("{second} was passed unread: {checkpoint:?}"))
            } else if second < late && !was.late {
                Some(format!("{second} was never read late: {checkpoint:?}"))
            } else {
                None
            }
        })
    }
}

fn holds_under(happens: Happens) {
    for seed in 0..2_000 {
        let mut dice = Dice(seed * 7_919 + 1);
        let mut model = Model::new(happens, &mut dice);
        for turn in 0..60 {
            model.step(&mut dice, turn);
            if let Some(fault) = model.fault() {
                panic!("seed {seed}:\n{}\n{fault}", model.story.join("\n"));
            }
        }
    }
}

#[test]
fn nothing_is_passed_under_orders_about_the_watermark() {
    holds_under(Happens { orders: true, skips: true, ..Happens::default() });
}

#[test]
fn nothing_is_passed_when_the_erps_clock_goes_back() {
    holds_under(Happens { orders: true, clock_goes_back: true, ..Happens::default() });
}

#[test]
fn nothing_is_passed_under_other_filters_and_starts() {
    holds_under(Happens { starts: true, ..Happens::default() });
    holds_under(Happens { filters: true, ..Happens::default() });
    holds_under(Happens { filters: true, starts: true, ..Happens::default() });
}

#[test]
fn nothing_is_passed_beside_windows_that_are_read_again() {
    holds_under(Happens { filters: true, unproven: true, ..Happens::default() });
}

#[test]
fn nothing_is_passed_whatever_happens_in_whatever_order() {
    holds_under(Happens {
        orders: true,
        skips: true,
        filters: true,
        starts: true,
        unproven: true,
        clock_goes_back: false,
    });
}
