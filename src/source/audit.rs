//! The ERP read beside the pipeline, for the operator's commands: what a period costs, and whether
//! what was published is what the ERP holds. Nothing is published here, and no group is joined.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use serde::Serialize;
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    background,
    clock::Timestamp,
    config::{Feed, FeedSettings},
    erp::{Class, Erp, PageRequest, QueryFault, record::Record},
    kafka::{Store, StoreFault},
    metrics::Metrics,
    schema::{Checkpoint, Codec, DecodeFault, FeedState, Op, StateKind},
};

use super::{
    change::{StateKey, call_of},
    diff::{Change, DiffFault, Differ, Finding, decode, subject},
    fetch::{Ask, FetchFault, Gathered, Row, Rules, gather},
    query,
    reader::Reader,
    window::{ErpClock, Pace, Window, closes_at},
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
        let reader = Reader::new(
            erp,
            Arc::new(Metrics::new()),
            feed,
            call,
            Class::Backfill,
            ErpClock::default(),
        );
        Self { feed, settings: settings.clone(), codec, store, reader }
    }

    /// Calls made so far.
    #[must_use]
    pub(crate) fn calls(&self) -> u64 {
        self.reader.calls()
    }

    /// Asks how many records a period holds: one call per status and 30 days.
    ///
    /// # Errors
    /// [`AuditFault`].
    pub(crate) async fn survey(
        &mut self,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Survey, AuditFault> {
        let before = self.reader.calls();
        let page_size = query::page_size(self.feed, &self.settings);
        let (mut records, mut pages) = (0, 0);
        for window in longest(from, to) {
            for selection in query::of_window(self.feed, &self.settings, window) {
                let answer = self
                    .reader
                    .ask(&selection, PageRequest { page_no: 0, page_size, count: true })
                    .await?;
                let count = answer.total_count.unwrap_or(0);
                records += count;
                pages += count.div_ceil(u64::from(page_size));
            }
        }
        let queries = query::of_window(self.feed, &self.settings, Window { start: from, end: to })
            .len() as u64;
        let calls =
            estimate(pages, queries, quiet_windows(from, to), self.settings.max_pages_per_window);
        Ok(Survey { records, asked: self.reader.calls() - before, calls })
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
    ) -> Result<(Vec<Difference>, u64), AuditFault> {
        let mut found = Vec::new();
        let mut shown = HashSet::new();
        let mut rows_seen = 0_u64;
        let mut pace = Pace::new(self.settings.max_pages_per_window);
        let mut position = from;
        while let Some(window) = pace.window(position, to) {
            let Some((rows, pages)) = self.read(window, &mut pace).await? else { continue };
            rows_seen += rows.len() as u64;
            shown.extend(
                rows.iter().filter_map(|row| row.id.as_deref()).map(|id| xxh3_128(id.as_bytes())),
            );
            self.judge(rows, &mut found).await?;
            pace.read(window, pages);
            position = window.end;
            progress(position, rows_seen);
            if found.len() >= MOST {
                break;
            }
        }
        self.not_shown(from, position, &shown, &mut found).await?;
        Ok((found, rows_seen))
    }

    /// One window's rows; `None` when a shorter one has to be chosen.
    async fn read(
        &mut self,
        window: Window,
        pace: &mut Pace,
    ) -> Result<Option<(Vec<Row>, u32)>, AuditFault> {
        let rules = Rules {
            call: call_of(self.feed, self.settings.edition),
            page_size: query::page_size(self.feed, &self.settings),
            budget: Some(pace.budget()),
            splittable: window.splittable(),
            closes_at: Some(closes_at(
                window,
                self.settings.max_visibility_lag.min(self.settings.safety_lag),
            )),
        };
        let queries = query::of_window(self.feed, &self.settings, window);
        match gather(&mut self.reader, &queries, rules).await? {
            Gathered::Rows { rows, pages, .. } => Ok(Some((rows, pages))),
            Gathered::TooLarge { pages } => {
                pace.too_large(window, pages);
                Ok(None)
            }
            Gathered::Split => {
                pace.split(window);
                Ok(None)
            }
            Gathered::TooEarly => Err(AuditFault::State(format!(
                "the ERP's clock has not come to {} yet; end the period earlier",
                window.end
            ))),
        }
    }

    async fn judge(&self, rows: Vec<Row>, found: &mut Vec<Difference>) -> Result<(), AuditFault> {
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
                Err(DiffFault::Answer(fault)) => return Err(fault.into()),
                Err(DiffFault::State(reason)) => return Err(AuditFault::State(reason)),
                Err(DiffFault::Store(fault)) => return Err(fault.into()),
            }
        };
        for finding in findings {
            let difference = match finding {
                Finding::Same(_) | Finding::Told => continue,
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
                    at: Timestamp::default(),
                },
            };
            found.push(difference);
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
            content: xxh3_128(&record.datum),
            at: record.modified,
        }
    }

    /// Published records of the period that the ERP did not show.
    async fn not_shown(
        &self,
        from: Timestamp,
        to: Timestamp,
        shown: &HashSet<u128>,
        found: &mut Vec<Difference>,
    ) -> Result<(), AuditFault> {
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
                if let Some(difference) = self.absent(&state, from, to, shown) {
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
        let mut asked: BTreeMap<String, Option<Timestamp>> = BTreeMap::new();
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
                        let same = self
                            .codec
                            .current_datum(subject(self.feed), &state.version)
                            .is_ok_and(|datum| xxh3_128(&datum) == difference.content);
                        // It moved on meanwhile, and that was published.
                        let later = state.modified > Some(difference.at);
                        !same && !later
                    }
                },
                Kind::NotShown => match state {
                    Some(state) if state.modified == Some(difference.at) => {
                        let id = difference.id.clone().unwrap_or_default();
                        let now = match asked.get(&id) {
                            Some(now) => *now,
                            None => {
                                let now = self.ask(&id, &state).await?;
                                asked.insert(id, now);
                                now
                            }
                        };
                        difference.modified = now.map(|modified| modified.to_string());
                        // Modified since, and on its way.
                        now.is_none_or(|modified| modified <= difference.at)
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

    /// The modified time of a record by its number; `None` when the ERP does not show it.
    async fn ask(&mut self, id: &str, state: &FeedState) -> Result<Option<Timestamp>, AuditFault> {
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
        let (feed, call) = (self.feed, call_of(self.feed, self.settings.edition));
        let page_size = query::page_size(feed, &self.settings);
        let rules = Rules { call, page_size, budget: None, splittable: false, closes_at: None };
        let queries = query::of_record_anywhere(feed, &self.settings, &record);
        let Gathered::Rows { rows, .. } = gather(&mut self.reader, &queries, rules).await? else {
            return Ok(None);
        };
        let Some(row) = rows.into_iter().find(|row| row.id.as_deref() == Some(id)) else {
            return Ok(None);
        };
        Ok(decode(feed, self.settings.edition, &row)?.ok().map(|record| record.modified))
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

/// A period in the longest windows the ERP accepts.
fn longest(from: Timestamp, to: Timestamp) -> Vec<Window> {
    let mut windows = Vec::new();
    let mut position = from;
    while let Some(window) = Pace::longest().window(position, to) {
        position = window.end;
        windows.push(window);
    }
    windows
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
    fn a_period_is_asked_for_in_windows_the_erp_accepts() {
        let day = 86_400_000;
        let windows = longest(Timestamp(0), Timestamp(70 * day));
        assert_eq!(windows.len(), 3);
        assert!(windows.iter().all(|window| window.seconds() < 30 * 86_400));
        assert_eq!((windows[0].start, windows[2].end), (Timestamp(0), Timestamp(70 * day)));
        assert!(
            windows.windows(2).all(|pair| pair[0].end == pair[1].start),
            "no second is left out"
        );
        assert!(longest(Timestamp(5_000), Timestamp(5_000)).is_empty());
    }

    #[test]
    fn an_estimate_counts_pages_and_the_first_pages_once_more() {
        assert_eq!(quiet_windows(Timestamp(0), Timestamp(86_400_000)), 1);
        assert_eq!(estimate(0, 5, 1, 20), 5, "an empty day costs one call per status");
        assert_eq!(estimate(1, 1, 1, 20), 2);
        // 1,000 pages at 17 a window are 59 windows.
        assert_eq!(estimate(1_000, 1, 3, 20), 1_059);
    }
}
