//! The ERP read beside the pipeline, for the operator's commands: what a period costs, and whether
//! what was published is what the ERP holds. Nothing is published here, and no group is joined.

use std::{
    collections::{BTreeMap, HashSet, btree_map::Entry},
    sync::Arc,
};

use serde::Serialize;
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    background,
    clock::Timestamp,
    config::{Feed, FeedSettings, parse_instant},
    erp::{
        Class, Erp, PageRequest, QueryFault, Selection,
        record::{self, Record},
    },
    kafka::{Store, StoreFault},
    metrics::Metrics,
    schema::{Checkpoint, Codec, DecodeFault, FeedState, Op, StateKind},
};

use super::{
    change::{StateKey, call_of},
    diff::{Change, DiffFault, Differ, Finding, subject},
    fetch::{Ended, FetchFault, Row, Rules, Step, WindowRead},
    page_size::PageSize,
    query,
    reader::Reader,
    remedy::{Remedy, answers_another_question, asked_elsewhere, remedy},
    shipped::{Measurement, ShippedRule, measure},
    window::{Limits, OLDER_REACH, Pace, Window, closes_at},
};

/// Why an audit ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuditFault {
    #[error(transparent)]
    Fetch(#[from] FetchFault),
    #[error(transparent)]
    Query(#[from] QueryFault),
    #[error(transparent)]
    Store(#[from] StoreFault),
    #[error("{0}")]
    State(String),
    #[error("the comparison ended abnormally: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// What a period holds and what reading it costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    pub records: u64,
    /// Calls that were made to find out.
    pub asked: u64,
    /// Calls that reading it takes, about.
    pub calls: u64,
    /// Seconds whose records could not be counted.
    pub uncounted: u64,
    /// Shipped orders were counted by their shipping time, from this many days before the period on.
    pub shipping_days: u64,
}

/// What a comparison found.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    pub differences: Vec<Difference>,
    /// Records that were read.
    pub rows: u64,
    /// Records that the ERP counts and does not show to the account.
    pub not_shown: u64,
    /// Windows that no read has proven to be complete: what they hold may differ.
    pub unproven: Vec<Window>,
}

/// What a comparison has read so far.
#[derive(Debug, Default)]
struct Seen {
    /// xxh3-128 of the records' ids.
    ids: HashSet<u128>,
    /// xxh3-128 of the rows' texts.
    contents: HashSet<[u8; 16]>,
}

/// What follows from a window that could not be read.
enum Settled {
    /// Ask once more, perhaps for a shorter window or smaller pages.
    Again,
    /// A single second: go on behind it.
    Passed,
}

/// What came of a window.
enum Compared {
    /// So many pages.
    Read(u32),
    /// It was chosen too long.
    Shorter,
    Unproven,
}

/// Differences that are kept; a state that has more is better rebuilt than listed.
pub(crate) const MOST: usize = 10_000;

/// In what way record and state differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// The ERP holds it, and it was never published.
    Unpublished,
    /// The ERP holds other content than was published last.
    Different,
    /// It was published, and the ERP does not show it any more.
    NotShown,
    /// The ERP holds it, it does not fit the schema, and it is not among the dead letters.
    Unfit,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Difference {
    pub difference: Kind,
    pub id: Option<String>,
    pub number: Option<String>,
    /// Of the ERP's record.
    pub modified: Option<String>,
    /// Of the version that was published last.
    pub published: Option<String>,
    #[serde(skip)]
    key: Option<StateKey>,
    #[serde(skip)]
    content: u128,
    #[serde(skip)]
    at: Timestamp,
}

/// One feed's ERP and state.
#[derive(Debug)]
pub(crate) struct Audit {
    feed: Feed,
    settings: FeedSettings,
    codec: Arc<Codec>,
    store: Store,
    reader: Reader,
    page_size: PageSize,
    /// Of shipped orders; measured where it matters.
    rule: ShippedRule,
}

/// What a stretch of time is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stretch {
    /// Everything modified in it.
    Whole,
    /// Shipping days before a period that records modified in the period may have.
    Shipping,
}

impl Audit {
    /// Reads with the lowest priority; `store` holds the feed's state as the topic has it.
    #[must_use]
    pub(crate) fn new(
        erp: Erp,
        feed: Feed,
        settings: &FeedSettings,
        codec: Arc<Codec>,
        store: Store,
    ) -> Self {
        let call = call_of(feed, settings.edition);
        let reader = Reader::new(erp, Arc::new(Metrics::new()), feed, call, Class::Backfill);
        let page_size = PageSize::new(query::page_size(feed, settings));
        let (settings, rule) = (settings.clone(), ShippedRule::Unknown);
        Self { feed, settings, codec, store, reader, page_size, rule }
    }

    /// Calls made so far.
    #[must_use]
    pub(crate) fn calls(&self) -> u64 {
        self.reader.calls()
    }

    /// The stretches that together hold what was modified in a period. Which window rule the account
    /// follows is measured where that decides.
    async fn stretches(
        &mut self,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<(Stretch, Timestamp, Timestamp)>, AuditFault> {
        let mut stretches = Vec::new();
        if query::shipped_queries(self.feed, &self.settings) > 0 {
            let erp = self.reader.clock();
            let limits = Limits::at(Timestamp::now(), &erp, &self.settings);
            let measurement = Measurement::new(self.feed, &self.settings, limits);
            self.rule = measure(&mut self.reader, measurement).await;
            if self.rule.by_shipping_time() {
                stretches.push((Stretch::Shipping, from.minus(OLDER_REACH), from));
            }
        }
        stretches.push((Stretch::Whole, from, to));
        Ok(stretches)
    }

    fn queries(&self, stretch: Stretch, window: Window) -> Vec<Selection> {
        match stretch {
            Stretch::Whole => query::of_window(self.feed, &self.settings, window),
            Stretch::Shipping => query::of_shipped(self.feed, &self.settings, window),
        }
    }

    /// Asks how many records a period holds: one call per status and 30 days, or per shorter piece
    /// where the ERP does not answer for as long.
    ///
    /// # Errors
    /// [`AuditFault`].
    pub(crate) async fn survey(
        &mut self,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Survey, AuditFault> {
        let before = self.reader.calls();
        let mut survey = Survey::default();
        for (stretch, from, to) in self.stretches(from, to).await? {
            let (mut pages, mut failures) = (0, 0);
            let mut pace = Pace::longest();
            let mut position = from;
            while let Some(window) = pace.window(position, to) {
                match self.count(stretch, window).await {
                    Ok((records, more)) => {
                        (survey.records, pages) = (survey.records + records, pages + more);
                        pace.read(window, 1);
                    }
                    Err(fault) => {
                        match self.settle(fault, &mut failures, window, &mut pace).await? {
                            Settled::Again => continue,
                            Settled::Passed => survey.uncounted += window.seconds().unsigned_abs(),
                        }
                    }
                }
                failures = 0;
                position = window.end;
            }
            let queries = self.queries(stretch, Window { start: from, end: to }).len() as u64;
            let budget = query::page_budget(self.feed, &self.settings);
            survey.calls += estimate(pages, queries, quiet_windows(from, to), budget);
            if stretch == Stretch::Shipping {
                survey.shipping_days = OLDER_REACH.as_secs() / 86_400;
            }
        }
        survey.asked = self.reader.calls() - before;
        Ok(survey)
    }

    /// Records and pages of a window.
    async fn count(&mut self, stretch: Stretch, window: Window) -> Result<(u64, u64), FetchFault> {
        let page_size = self.page_size.now();
        let (mut records, mut pages) = (0, 0);
        for selection in self.queries(stretch, window) {
            let request = PageRequest { page_no: 0, page_size, count: true };
            let answer = self.reader.ask(&selection, request).await?;
            let count = answer.total_count.unwrap_or(0);
            records += count;
            pages += count.div_ceil(u64::from(page_size));
        }
        Ok((records, pages))
    }

    /// What to do about a window that could not be read, as the feed itself would.
    ///
    /// # Errors
    /// An ERP that is away, or refuses: nobody waits for it here.
    async fn settle(
        &mut self,
        fault: FetchFault,
        failures: &mut u32,
        window: Window,
        pace: &mut Pace,
    ) -> Result<Settled, AuditFault> {
        *failures += 1;
        let mut next = remedy(&fault, *failures);
        if next == Remedy::AskElsewhere {
            let start = self.settings.start_at.minus(std::time::Duration::from_secs(86_400));
            let second = Window { start, end: start.plus(std::time::Duration::from_secs(1)) };
            next = asked_elsewhere(&fault, self.count(Stretch::Whole, second).await.is_ok());
        }
        if next == Remedy::SmallerPages && !self.page_size.halve() {
            next = Remedy::Shorten;
        }
        match (next, &fault) {
            (Remedy::SmallerPages, _) => Ok(Settled::Again),
            (
                Remedy::Wait,
                FetchFault::Query(QueryFault::Unusable { .. } | QueryFault::Unlisted { .. }),
            ) if *failures < 2 => Ok(Settled::Again),
            (Remedy::Shorten, _) if window.splittable() => {
                *failures = 0;
                pace.halve(window);
                Ok(Settled::Again)
            }
            (Remedy::Shorten, FetchFault::Query(QueryFault::TooWide { .. })) => Err(fault.into()),
            (Remedy::Shorten, _) => Ok(Settled::Passed),
            (Remedy::Wait | Remedy::AskElsewhere | Remedy::Person { .. }, _) => Err(fault.into()),
        }
    }

    /// The feed's checkpoint as the state has it.
    ///
    /// # Errors
    /// [`AuditFault`].
    pub(crate) async fn checkpoint(&self) -> Result<Option<Checkpoint>, AuditFault> {
        Ok(self.state(&StateKey::checkpoint(self.feed)).await?.and_then(|state| state.checkpoint))
    }

    /// Reads a period and compares it with the state; calls `progress` with every window's end.
    /// What is found may have been published meanwhile: [`Audit::confirm`] it with a fresh state.
    ///
    /// # Errors
    /// [`AuditFault`].
    pub(crate) async fn compare(
        &mut self,
        from: Timestamp,
        to: Timestamp,
        mut progress: impl FnMut(Timestamp, u64),
    ) -> Result<Comparison, AuditFault> {
        let mut found = Comparison::default();
        let mut seen = Seen::default();
        // What was modified after the watermark is on its way: windows over shipping times show it too.
        let watermark = self.checkpoint().await?.map_or(to, |at| at.watermark);
        let mut position = from;
        for (stretch, begin, end) in self.stretches(from, to).await? {
            let mut pace = Pace::new(query::page_budget(self.feed, &self.settings));
            // Shipping days hold what was modified before the period, or after it, as well.
            let period = match stretch {
                Stretch::Whole => (Timestamp(i64::MIN), watermark),
                Stretch::Shipping => (from, to),
            };
            let mut failures = 0;
            position = begin;
            while let Some(window) = pace.window(position, end) {
                let queries = self.queries(stretch, window);
                match self.read(window, queries, period, &mut pace, &mut seen, &mut found).await {
                    Ok(Compared::Read(pages)) => pace.read(window, pages),
                    Ok(Compared::Shorter) => continue,
                    Ok(Compared::Unproven) => found.unproven.push(window),
                    Err(AuditFault::Fetch(fault)) => {
                        match self.settle(fault, &mut failures, window, &mut pace).await? {
                            Settled::Again => continue,
                            Settled::Passed => found.unproven.push(window),
                        }
                    }
                    Err(fault) => return Err(fault),
                }
                failures = 0;
                position = window.end;
                progress(position, found.rows);
                if found.differences.len() >= MOST {
                    break;
                }
            }
            if found.differences.len() >= MOST {
                break;
            }
        }
        self.not_shown(from, position, &seen.ids, &mut found).await?;
        Ok(found)
    }

    /// Reads one window page by page and compares what it shows.
    async fn read(
        &mut self,
        window: Window,
        queries: Vec<Selection>,
        period: (Timestamp, Timestamp),
        pace: &mut Pace,
        seen: &mut Seen,
        found: &mut Comparison,
    ) -> Result<Compared, AuditFault> {
        let rules = Rules {
            call: call_of(self.feed, self.settings.edition),
            page_size: self.page_size.now(),
            longest_page: self.page_size.longest(),
            budget: Some(pace.budget()),
            splittable: window.splittable(),
            closes_at: Some(closes_at(
                window,
                self.settings.max_visibility_lag.min(self.settings.safety_lag),
            )),
        };
        let mut read = WindowRead::new(queries, rules);
        while let Some((selection, request)) = read.request() {
            let page = self.reader.ask(selection, request).await.map_err(FetchFault::from)?;
            let (rows, step) = read.consume(page)?;
            seen.ids.extend(
                rows.iter().filter_map(|row| row.id.as_deref()).map(|id| xxh3_128(id.as_bytes())),
            );
            // Pages and windows overlap: the same version is compared once.
            let new = rows.into_iter().filter(|row| seen.contents.insert(row.hash)).collect();
            self.judge(new, period, found).await?;
            self.page_size.seen(&read);
            match step {
                Step::More => {}
                Step::Again(shortfall) => self.reader.fell_short(shortfall),
                Step::Ended(Ended::Complete) => {
                    self.page_size.accepted(self.feed, &read);
                    found.not_shown += read.not_shown();
                    found.rows += read.records();
                    return Ok(Compared::Read(read.pages()));
                }
                Step::Ended(Ended::Unproven(_)) => {
                    found.rows += read.records();
                    return Ok(Compared::Unproven);
                }
                Step::Ended(Ended::TooLarge { pages }) => {
                    pace.too_large(window, pages);
                    return Ok(Compared::Shorter);
                }
                Step::Ended(Ended::Split) => {
                    pace.halve(window);
                    return Ok(Compared::Shorter);
                }
                Step::Ended(Ended::TooEarly) => {
                    return Err(AuditFault::State(format!(
                        "the ERP's clock has not come to {} yet; end the period earlier",
                        window.end
                    )));
                }
            }
        }
        Ok(Compared::Read(read.pages()))
    }

    async fn judge(
        &self,
        rows: Vec<Row>,
        period: (Timestamp, Timestamp),
        found: &mut Comparison,
    ) -> Result<(), AuditFault> {
        let (feed, edition) = (self.feed, self.settings.edition);
        let rows = Arc::new(rows);
        let findings = loop {
            let (store, codec, rows) =
                (self.store.clone(), Arc::clone(&self.codec), Arc::clone(&rows));
            let compared = background::blocking("diff", move || {
                let state = store.view(feed.partition())?;
                let lookup = |key: &StateKey| state.get(key.bytes());
                let differ =
                    Differ { feed, edition, codec: &codec, unseen: Op::Create, lookup: &lookup };
                rows.iter().map(|row| differ.compare(row.clone())).collect::<Result<Vec<_>, _>>()
            });
            match compared.await? {
                Ok(findings) => break findings,
                Err(DiffFault::Learn(id)) => learn(&self.codec, id).await?,
                Err(DiffFault::State(reason)) => return Err(AuditFault::State(reason)),
                Err(DiffFault::Store(fault)) => return Err(fault.into()),
            }
        };
        for finding in findings {
            let difference = match finding {
                Finding::Told => continue,
                Finding::Change(change) => {
                    let Change { op, record, .. } = *change;
                    let kind = match op {
                        Op::Read | Op::Create => Kind::Unpublished,
                        Op::Update => Kind::Different,
                    };
                    self.of_record(kind, &record)
                }
                Finding::AskAgain { record, .. } => self.of_record(Kind::Different, &record),
                Finding::Misfit { row, misfit } => Difference {
                    difference: Kind::Unfit,
                    id: misfit.id.clone().or_else(|| row.id.as_deref().map(str::to_owned)),
                    number: None,
                    modified: None,
                    published: None,
                    key: Some(StateKey::dead_letter(
                        feed,
                        misfit.id.as_deref().or(row.id.as_deref()),
                        &row.hash,
                    )),
                    content: u128::from_be_bytes(row.hash),
                    // One whose time is what cannot be read may belong to the period.
                    at: record::instant(&row.json, "modified").unwrap_or(period.0),
                },
            };
            if (period.0..=period.1).contains(&difference.at) {
                found.differences.push(difference);
            }
        }
        Ok(())
    }

    fn of_record(&self, difference: Kind, record: &Record) -> Difference {
        Difference {
            difference,
            id: Some(record.id.clone()),
            number: Some(record.number.clone()),
            modified: Some(record.modified.to_string()),
            published: None,
            key: Some(StateKey::record(self.feed, &record.id)),
            content: self.content(record),
            at: record.modified,
        }
    }

    /// Published records of the period that the ERP did not show.
    async fn not_shown(
        &self,
        from: Timestamp,
        to: Timestamp,
        shown: &HashSet<u128>,
        found: &mut Comparison,
    ) -> Result<(), AuditFault> {
        let (found, unproven) = (&mut found.differences, &found.unproven);
        let mut prefix = StateKey::checkpoint(self.feed).bytes().to_vec();
        prefix.pop();
        prefix.push(b',');
        let (mut unread, mut broken) = (None, None);
        loop {
            let codec = &self.codec;
            let before = found.len();
            self.store.scan(self.feed.partition(), &prefix, |_, value| {
                let state = match codec.decode_feed_state(value) {
                    Ok(state) => state,
                    Err(DecodeFault::UnknownSchemaId(id)) => {
                        unread = Some(id);
                        return false;
                    }
                    Err(DecodeFault::Malformed(reason)) => {
                        broken = Some(reason);
                        return false;
                    }
                };
                if let Some(difference) = self.absent(&state, from, to, shown)
                    && !unproven.iter().any(|window| window.holds(difference.at))
                {
                    found.push(difference);
                }
                found.len() < MOST
            })?;
            match (unread.take(), broken.take()) {
                (Some(id), _) => {
                    learn(codec, id).await?;
                    found.truncate(before);
                }
                (None, Some(reason)) => return Err(AuditFault::State(reason)),
                (None, None) => return Ok(()),
            }
        }
    }

    fn absent(
        &self,
        state: &FeedState,
        from: Timestamp,
        to: Timestamp,
        shown: &HashSet<u128>,
    ) -> Option<Difference> {
        let (id, modified) = (state.record_id.as_deref()?, state.modified?);
        // Not the ends: their seconds are shared with what was not asked for.
        let inside = state.kind == StateKind::Record && modified > from && modified < to;
        (inside && !shown.contains(&xxh3_128(id.as_bytes()))).then(|| Difference {
            difference: Kind::NotShown,
            id: Some(id.to_owned()),
            number: state.number.clone(),
            modified: None,
            published: Some(modified.to_string()),
            key: Some(StateKey::record(self.feed, id)),
            content: 0,
            at: modified,
        })
    }

    /// Those that are still there after the state has been read again into the store: the rest were
    /// on their way.
    ///
    /// # Errors
    /// [`AuditFault`].
    pub(crate) async fn confirm(
        &mut self,
        found: Vec<Difference>,
    ) -> Result<Vec<Difference>, AuditFault> {
        let mut confirmed = Vec::new();
        let mut asked: BTreeMap<String, Option<Record>> = BTreeMap::new();
        for mut difference in found {
            let Some(key) = &difference.key else { continue };
            let state = self.state(key).await?;
            let holds = match difference.difference {
                Kind::Unfit => {
                    state.is_none_or(|state| state.content_hash != difference.content.to_be_bytes())
                }
                Kind::Unpublished | Kind::Different => match &state {
                    None => true,
                    Some(state) => {
                        difference.published = state.modified.map(|modified| modified.to_string());
                        let same = self.says(state, difference.content);
                        match state.modified {
                            _ if same => false,
                            // It moved on meanwhile and that was published, or it went back.
                            Some(published) if published > difference.at => {
                                let now = self.ask_once(&mut asked, &difference, state).await?;
                                difference.modified = now.map(|now| now.modified.to_string());
                                now.is_none_or(|now| {
                                    now.modified <= published
                                        && !self.says(state, self.content(now))
                                })
                            }
                            Some(_) | None => true,
                        }
                    }
                },
                Kind::NotShown => match &state {
                    Some(state) if state.modified == Some(difference.at) => {
                        let now = self.ask_once(&mut asked, &difference, state).await?;
                        difference.modified = now.map(|now| now.modified.to_string());
                        // Modified since and on its way, or published as it is: windows over the
                        // shipping time show an order of earlier days nowhere near its change.
                        now.is_none_or(|now| {
                            now.modified <= difference.at && !self.says(state, self.content(now))
                        })
                    }
                    Some(_) | None => false,
                },
            };
            if holds {
                confirmed.push(difference);
            }
        }
        Ok(confirmed)
    }

    /// Whether the version that was published last has this content.
    fn says(&self, state: &FeedState, content: u128) -> bool {
        self.codec
            .current_datum(subject(self.feed), &state.version)
            .is_ok_and(|datum| xxh3_128(&record::content(self.feed, &datum)) == content)
    }

    /// xxh3-128 of what a record says.
    fn content(&self, record: &Record) -> u128 {
        xxh3_128(&record::content(self.feed, &record.datum))
    }

    /// As [`Audit::ask`], once a record.
    async fn ask_once<'a>(
        &mut self,
        asked: &'a mut BTreeMap<String, Option<Record>>,
        difference: &Difference,
        state: &FeedState,
    ) -> Result<Option<&'a Record>, AuditFault> {
        let id = difference.id.clone().unwrap_or_default();
        Ok(match asked.entry(id) {
            Entry::Occupied(known) => known.into_mut().as_ref(),
            Entry::Vacant(place) => {
                let now = self.ask(place.key(), state).await?;
                place.insert(now).as_ref()
            }
        })
    }

    /// A record by its number; `None` when the ERP does not show it.
    async fn ask(&mut self, id: &str, state: &FeedState) -> Result<Option<Record>, AuditFault> {
        let shown = self.codec.to_json(&state.version).unwrap_or_default();
        let record = Record {
            id: id.to_owned(),
            number: state.number.clone().unwrap_or_default(),
            modified: state.modified.unwrap_or_default(),
            return_no: shown
                .get("src_order_no")
                .and_then(serde_json::Value::as_str)
                .map(ToOwned::to_owned),
            status: shown.get("status").and_then(serde_json::Value::as_i64),
            remark: None,
            datum: Vec::new(),
            drift: Vec::new(),
        };
        let (feed, edition) = (self.feed, self.settings.edition);
        let rules = self.page_size.question(call_of(feed, edition));
        let by_number = match query::of_record(feed, &self.settings, &record, true) {
            Some(by_number) => Some(self.reader.versions(by_number, rules, id).await),
            None => None,
        };
        let (rows, ended) = match by_number {
            Some(Err(fault)) if !answers_another_question(&fault) => return Err(fault.into()),
            Some(Ok((rows, ended))) if !rows.is_empty() || ended == Ended::Complete => {
                (rows, ended)
            }
            Some(_) | None => {
                let shipped = shown.get("consign_time").and_then(serde_json::Value::as_str);
                let shipped = shipped.and_then(parse_instant);
                let queries = query::of_seconds(feed, &self.settings, record.modified, shipped);
                self.reader.versions(queries, rules, id).await?
            }
        };
        let Some(row) = rows.last() else {
            return match ended {
                Ended::Complete => Ok(None),
                _ => Err(AuditFault::State(format!(
                    "the ERP's answers about record {id} contradict their counts; run verify again"
                ))),
            };
        };
        // One that does not fit is shown all the same.
        let modified = record::instant(&row.json, "modified").unwrap_or(Timestamp(i64::MAX));
        Ok(Some(record::decode(feed, edition, &row.json).unwrap_or(Record { modified, ..record })))
    }

    async fn state(&self, key: &StateKey) -> Result<Option<FeedState>, AuditFault> {
        let Some(bytes) = self.store.get(self.feed.partition(), key.bytes())? else {
            return Ok(None);
        };
        loop {
            match self.codec.decode_feed_state(&bytes) {
                Ok(state) => return Ok(Some(state)),
                Err(DecodeFault::UnknownSchemaId(id)) => learn(&self.codec, id).await?,
                Err(DecodeFault::Malformed(reason)) => return Err(AuditFault::State(reason)),
            }
        }
    }
}

async fn learn(codec: &Codec, id: u32) -> Result<(), AuditFault> {
    codec.learn(id).await.map_err(|fault| AuditFault::State(fault.to_string()))
}

/// Windows of a period in which nothing happened: they begin small and grow.
fn quiet_windows(from: Timestamp, to: Timestamp) -> u64 {
    let mut pace = Pace::new(1);
    let (mut position, mut count) = (from, 0);
    while let Some(window) = pace.window(position, to) {
        pace.read(window, 0);
        position = window.end;
        count += 1;
    }
    count
}

/// Every page once, the first page of every window and query once more.
fn estimate(pages: u64, queries: u64, quiet_windows: u64, max_pages_per_window: u32) -> u64 {
    let full = pages.div_ceil(u64::from(max_pages_per_window.max(1)) * 4 / 5 + 1);
    pages + queries * quiet_windows.max(full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_counts_pages_and_the_first_pages_once_more() {
        assert_eq!(quiet_windows(Timestamp(0), Timestamp(86_400_000)), 1);
        assert_eq!(estimate(0, 5, 1, 20), 5, "an empty day costs one call per status");
        assert_eq!(estimate(1, 1, 1, 20), 2);
        // 1,000 pages at 17 a window are 59 windows.
        assert_eq!(estimate(1_000, 1, 3, 20), 1_059);
    }
}
