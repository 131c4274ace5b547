//! The second half of a window: rows ▶ diff ▶ change ▶ publish, page by page, so that even a huge
//! second takes the memory of a page and a batch, and a kill loses calls only.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{Instrument as _, Span};

use crate::{
    background,
    clock::Timestamp,
    config::Feed,
    crash::{self, Point},
    erp::{
        Selection,
        record::{self, DriftKind, Misfit, Record},
    },
    metrics::Hop,
    schema::Op,
};

use super::{
    PipelineFault,
    change::{Piece, Snapshot, call_of},
    diff::{Change, DiffFault, Differ, Finding, Kept},
    feed::{Stop, learn},
    fetch::{Ended, Row, WindowRead, unidentified},
    publish::{BATCH, Excess, PAUSE, PublishFault},
    query,
    remedy::answers_another_question,
    shipped::consign_time,
    story::Tales,
    tenure::Tenure,
    window::{Cursor, Limits, Pass, Window},
};

/// Changes wait at most this long for more of them: a batch costs as much as a single one, and at
/// the ERP's own pace every page is a batch.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);

/// Names of deviating fields that are remembered, so that each is logged once; past that they are
/// only counted.
const DRIFT_NAMES: usize = 1_000;

/// A window that is being read.
pub(super) struct OpenRead {
    pub pass: Pass,
    pub window: Window,
    /// Those it was chosen with.
    pub limits: Limits,
    pub read: WindowRead,
    pub span: Span,
    /// The first read is over with this window.
    pub ends_snapshot: bool,
    /// An unseen record is `r`.
    pub snapshot: bool,
    /// An unseen record that was modified before this does not belong to the read: shipping days
    /// hold older ones as well.
    pub since: Option<Timestamp>,
    /// How far it has come, once it ended.
    pub reached: Timestamp,
    /// Failures of the same page in a row.
    pub failures: u32,
    /// Shown and not compared yet.
    rows: Vec<Row>,
    /// How it ended, once every page is there.
    pub ended: Option<Ended>,
    /// To be published, by record.
    pending: BTreeMap<Arc<str>, Item>,
    flushed: Instant,
    pub counts: Counts,
    /// Windows to read again: itself, or the seconds of records that could not be asked for; each
    /// with its own `since`.
    pub doubts: Vec<(Window, Option<Timestamp>)>,
    /// Time spent asking.
    pub fetching: Duration,
    /// Time spent waiting for the quota.
    pub waited: Duration,
}

impl OpenRead {
    pub(super) fn new(
        pass: Pass,
        window: Window,
        limits: Limits,
        read: WindowRead,
        span: Span,
        ends_snapshot: bool,
        snapshot: bool,
    ) -> Self {
        Self {
            pass,
            window,
            limits,
            read,
            span,
            ends_snapshot,
            snapshot,
            since: None,
            reached: window.start,
            failures: 0,
            rows: Vec::new(),
            ended: None,
            pending: BTreeMap::new(),
            flushed: Instant::now(),
            counts: Counts::default(),
            doubts: Vec::new(),
            fetching: Duration::ZERO,
            waited: Duration::ZERO,
        }
    }

    /// Nothing is left to compare, and there is more to ask for.
    pub(super) fn wants_a_page(&self) -> bool {
        self.rows.is_empty() && self.ended.is_none()
    }

    /// Records that say what was published before.
    pub(super) fn unchanged(&self) -> u64 {
        let changed = (self.counts.events + self.counts.dead_letters) as u64;
        self.read.records().saturating_sub(changed)
    }

    /// Takes a page's rows.
    pub(super) fn shown(&mut self, rows: Vec<Row>) {
        self.rows.extend(rows);
    }

    /// A batch waits for the end of the first read.
    pub(super) fn holds_back(&self) -> bool {
        self.ends_snapshot && !self.pending.is_empty()
    }
}

/// What came of a window.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub events: usize,
    pub dead_letters: usize,
    pub latest_late_row: Option<Duration>,
    /// Found by an ordered backfill although both passes had been there.
    pub missed: usize,
}

/// What is to be published.
enum Item {
    Change(Box<Change>),
    DeadLetter(Row, Misfit),
}

/// What came of a small question about one record.
enum Asked {
    Shown(Box<Row>),
    /// The whole answer does not hold it.
    NotShown,
    /// This question is not answered, another one may be.
    Refused,
    /// Nothing is answered now.
    Failed,
    /// An operator decided something meanwhile.
    Decided,
}

/// What a piece was made of: it may have to be made again, smaller.
enum Origin {
    Change(Box<Change>, Snapshot),
    DeadLetter(Row, Misfit),
}

impl Tenure<'_> {
    /// Compares the rows that were shown and publishes what is new, a batch at a time. `false`: an
    /// operator decided something meanwhile, and the rest waits.
    pub(super) async fn publish(&mut self, open: &mut OpenRead) -> Result<bool, Stop> {
        let rows = std::mem::take(&mut open.rows);
        if rows.is_empty() {
            return Ok(true);
        }
        let metrics = Arc::clone(&self.task.parts.metrics);
        let findings = self.compare(rows.clone(), open.snapshot).await?;
        for (at, (row, finding)) in rows.iter().zip(findings).enumerate() {
            metrics.hop(Hop::Diff(self.task.feed), finding.word());
            let key = row.id.clone().unwrap_or_else(|| unidentified(&row.hash).into());
            let finding = match finding {
                Finding::AskAgain { kept, record } => {
                    match self.ask_again(kept, &record, row, open).await? {
                        Some(finding) => finding,
                        None => {
                            open.rows = rows.into_iter().skip(at).collect();
                            return Ok(false);
                        }
                    }
                }
                settled => settled,
            };
            match finding {
                Finding::Change(change)
                    if change.op != Op::Update
                        && open.since.is_some_and(|since| change.record.modified < since) =>
                {
                    open.pending.remove(&key);
                }
                Finding::Change(mut change) => {
                    // As the backfill would publish it that has not come there yet.
                    let days = (open.pass == Pass::Shipped).then(|| consign_time(&row.json));
                    if change.op == Op::Create
                        && (self.cursor.to_be_filled(change.record.modified)
                            || self.cursor.shipping_day_is_due(days.flatten()))
                    {
                        change.op = Op::Read;
                    }
                    open.pending.insert(key, Item::Change(change));
                }
                Finding::Misfit { row, misfit } => {
                    let modified = record::instant(&row.json, "modified");
                    if open.since > modified && modified.is_some() {
                        open.pending.remove(&key);
                    } else {
                        open.pending.insert(key, Item::DeadLetter(row, misfit));
                    }
                }
                // Of two versions in one read the later one counts.
                Finding::Told | Finding::AskAgain { .. } => {
                    open.pending.remove(&key);
                }
            }
        }
        // One batch is kept back where only the last knows that it is.
        while open.pending.len() > BATCH {
            self.publish_batch(open).await?;
        }
        if !open.ends_snapshot && open.flushed.elapsed() >= PUBLISH_EVERY {
            self.flush(open).await?;
        }
        Ok(true)
    }

    /// Publishes whatever waits.
    pub(super) async fn flush(&mut self, open: &mut OpenRead) -> Result<(), Stop> {
        while !open.pending.is_empty() {
            self.publish_batch(open).await?;
        }
        open.flushed = Instant::now();
        Ok(())
    }

    async fn publish_batch(&mut self, open: &mut OpenRead) -> Result<(), Stop> {
        let rest = open.pending.keys().nth(BATCH).cloned();
        let rest = rest.map(|key| open.pending.split_off(&key)).unwrap_or_default();
        let items = std::mem::replace(&mut open.pending, rest).into_values().collect();
        let publish = tracing::info_span!(parent: &open.span, "publish");
        self.batch(items, open, None).instrument(publish).await?;
        Ok(())
    }

    /// Publishes the last batch of a window with the checkpoint `next`; gives it as it was written.
    pub(super) async fn publish_last(
        &mut self,
        open: &mut OpenRead,
        next: Cursor,
    ) -> Result<Cursor, Stop> {
        let items = std::mem::take(&mut open.pending).into_values().collect();
        let publish = tracing::info_span!(parent: &open.span, "publish");
        let next = self.batch(items, open, Some(next)).instrument(publish).await?;
        Ok(next.unwrap_or_else(|| self.cursor.clone()))
    }

    /// Compares rows with the state, off the reactor: it hashes, decodes and reads the disk.
    async fn compare(&self, rows: Vec<Row>, snapshot: bool) -> Result<Vec<Finding>, Stop> {
        let (feed, edition) = (self.task.feed, self.settings.edition);
        let unseen = if snapshot { Op::Read } else { Op::Create };
        let rows = Arc::new(rows);
        loop {
            let (store, codec, rows) = (
                self.publisher.store.clone(),
                Arc::clone(&self.task.parts.codec),
                Arc::clone(&rows),
            );
            let compared = background::blocking("diff", move || {
                let state = store.view(feed.partition())?;
                let lookup = |key: &super::change::StateKey| state.get(key.bytes());
                let differ = Differ { feed, edition, codec: &codec, unseen, lookup: &lookup };
                rows.iter().map(|row| differ.compare(row.clone())).collect::<Result<Vec<_>, _>>()
            });
            match compared.await? {
                Ok(findings) => return Ok(findings),
                Err(DiffFault::Learn(id)) => {
                    learn(&self.task.parts.codec, &self.task.cancel, id).await?
                }
                Err(DiffFault::State(reason)) => return Err(PipelineFault::State(reason).into()),
                Err(DiffFault::Store(fault)) => return Err(fault.into()),
            }
        }
    }

    /// A version that looks older than what was published: the ERP is asked about this very record,
    /// and believed. `None`: an operator decided something meanwhile.
    ///
    /// A question that is not answered ends neither the window nor the record: its second is read
    /// again later.
    async fn ask_again(
        &mut self,
        kept: Kept,
        record: &Record,
        row: &Row,
        open: &mut OpenRead,
    ) -> Result<Option<Finding>, Stop> {
        let feed = self.task.feed;
        // A shipped order may be shown by the second it was shipped in only.
        let shipped = consign_time(&row.json).filter(|_| self.shipped.rule.by_shipping_time());
        let by_number = query::of_record(feed, self.settings, record, false);
        let mut answer = match by_number {
            Some(by_number) => self.asked_for(by_number, &record.id, open).await?,
            None => Asked::Refused,
        };
        if let Asked::Refused = answer {
            let by_second = query::of_seconds(feed, self.settings, record.modified, shipped);
            answer = self.asked_for(by_second, &record.id, open).await?;
        }
        let older_than = kept.modified;
        let (finding, result) = match answer {
            Asked::Shown(row) => {
                let codec = &self.task.parts.codec;
                let lookup = |_: &super::change::StateKey| Ok(None);
                let edition = self.settings.edition;
                let finding = Differ { feed, edition, codec, unseen: Op::Create, lookup: &lookup }
                    .confirm(kept, *row);
                let finding = match finding {
                    Finding::Misfit { row, misfit } if self.told(&row, &misfit).await? => {
                        Finding::Told
                    }
                    finding => finding,
                };
                let confirmed = matches!(&finding, Finding::Change(change) if change.record.modified < older_than);
                (finding, if confirmed { "confirmed" } else { "skipped" })
            }
            // It moved on meanwhile, so a later window shows it.
            Asked::NotShown => (Finding::Told, "skipped"),
            Asked::Decided => return Ok(None),
            Asked::Refused | Asked::Failed => {
                // Others of those seconds are none of this window's business.
                let since = Some(self.cursor.checkpoint().start_at);
                let doubts = [Some(record.modified), shipped].into_iter().flatten();
                open.doubts.extend(doubts.map(|at| (Window::second_of(at), since)));
                (Finding::Told, "deferred")
            }
        };
        self.task.parts.metrics.feed_older(feed, result);
        tracing::info!(
            feed = feed.name(),
            record.id,
            record.confirmed = result == "confirmed",
            "row older than the published version; record looked up by its number"
        );
        Ok(Some(finding))
    }

    /// Looks for one record in the answer to a small question.
    async fn asked_for(
        &mut self,
        queries: Vec<Selection>,
        id: &str,
        open: &OpenRead,
    ) -> Result<Asked, Stop> {
        let rules = self.page_size.question(call_of(self.task.feed, self.settings.edition));
        let mut reader = self.reader(open.pass);
        let answer = self.undecided(reader.versions(queries, rules, id)).await?;
        self.note(&reader);
        Ok(match answer {
            None => Asked::Decided,
            Some(Ok((rows, ended))) => {
                // The later of two is the newer one.
                match rows.into_iter().next_back() {
                    Some(row) => Asked::Shown(Box::new(row)),
                    None if ended == Ended::Complete => Asked::NotShown,
                    None => Asked::Refused,
                }
            }
            Some(Err(fault)) if answers_another_question(&fault) => Asked::Refused,
            Some(Err(fault)) => {
                tracing::warn!(
                    feed = self.task.feed.name(),
                    record.id = id,
                    error = %fault,
                    "record looked up in vain; its second is read again later"
                );
                Asked::Failed
            }
        })
    }

    /// Publishes a batch, with `next` as the window's last. What was saved as the checkpoint is
    /// given back.
    async fn batch(
        &mut self,
        items: Vec<Item>,
        open: &mut OpenRead,
        next: Option<Cursor>,
    ) -> Result<Option<Cursor>, Stop> {
        let (window, pass) = (open.window, open.pass);
        let counts = &mut open.counts;
        let now = Timestamp::now();
        let ends_snapshot = next.is_some() && open.ends_snapshot;
        let last_read = items
            .iter()
            .rposition(|item| matches!(item, Item::Change(change) if change.op == Op::Read));
        let mut drafts = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            match item {
                Item::Change(change) => {
                    let snapshot = match change.op {
                        Op::Read if ends_snapshot && Some(index) == last_read => Snapshot::Last,
                        Op::Read => Snapshot::Part,
                        Op::Create | Op::Update => Snapshot::No,
                    };
                    self.drift(&change.record);
                    match self.scribe.change(&change, window, snapshot, now) {
                        Ok(piece) => drafts.push((piece, Origin::Change(change, snapshot))),
                        // What cannot be written as an event is one record's trouble, not the
                        // feed's.
                        Err(misfit) => drafts.extend(self.letter(change.row, misfit).await?),
                    }
                }
                Item::DeadLetter(row, misfit) => {
                    drafts.push((self.dead_letter(&row, &misfit)?, Origin::DeadLetter(row, misfit)))
                }
            }
        }
        crash::point(Point::WindowDiffed);
        let mut pause = PAUSE;
        let (next, save) = loop {
            let events =
                drafts.iter().filter(|(_, origin)| matches!(origin, Origin::Change(..))).count();
            let next = match (pass, next.clone()) {
                (Pass::Backfill, Some(next)) => {
                    let rows = usize::try_from(open.read.records()).unwrap_or(usize::MAX);
                    Some(next.counted(rows, counts.events + events))
                }
                (
                    Pass::Live | Pass::Late | Pass::Shipped | Pass::Backfill | Pass::Unproven,
                    next,
                ) => next,
            };
            let save = match &next {
                Some(next) if !drafts.is_empty() || self.must_save(next) => {
                    Some(self.scribe.checkpoint(next.checkpoint())?.into())
                }
                Some(_) | None => None,
            };
            let (pieces, origins): (Vec<Piece>, Vec<Origin>) = drafts.into_iter().unzip();
            let published = self.publisher.publish(&pieces, save.as_ref()).await;
            drafts = pieces.into_iter().zip(origins).collect();
            match published {
                Ok(()) => break (next, save.is_some()),
                Err(PublishFault::TooLarge { mut pieces, reason }) => {
                    let mut smaller = false;
                    // From the last on: one that is left out moves none that is still to come.
                    pieces.sort_by_key(|excess| std::cmp::Reverse(excess.at()));
                    pieces.dedup_by_key(|excess| excess.at());
                    for excess in pieces
                        .into_iter()
                        .filter(|excess| excess.at() < drafts.len())
                        .collect::<Vec<_>>()
                    {
                        let draft = drafts.remove(excess.at());
                        let (lighter, draft) =
                            self.shrink(draft, excess, &reason, window, now).await?;
                        smaller |= lighter;
                        if let Some(draft) = draft {
                            drafts.insert(excess.at(), draft);
                        }
                    }
                    if !smaller {
                        self.publisher.rest(&mut pause, &reason).await?;
                    }
                }
                Err(fault) => return Err(fault.into()),
            }
        };
        if save {
            self.is_saved();
        }
        self.account(drafts.into_iter().map(|(_, origin)| origin), pass, counts);
        Ok(next)
    }

    /// Something smaller in place of what its topic does not take: the event without `before`, then
    /// a dead letter (none where it was told before), then one without the ERP's JSON. `false`:
    /// nothing is left to be left out.
    async fn shrink(
        &self,
        (mut piece, origin): (Piece, Origin),
        excess: Excess,
        reason: &str,
        window: Window,
        now: Timestamp,
    ) -> Result<(bool, Option<(Piece, Origin)>), Stop> {
        let (mut change, snapshot) = match origin {
            Origin::DeadLetter(..) => return Ok((piece.leave_out_json(), Some((piece, origin)))),
            Origin::Change(change, snapshot) => (change, snapshot),
        };
        let lighter = match excess {
            Excess::Event(_) => change
                .before
                .take()
                .and_then(|_| self.scribe.change(&change, window, snapshot, now).ok()),
            // The state holds no `before`.
            Excess::State(_) => None,
        };
        if let Some(piece) = lighter {
            return Ok((true, Some((piece, Origin::Change(change, snapshot)))));
        }
        let reason = format!("does not fit into a Kafka record: {reason}, then run a backfill");
        let misfit = Misfit { id: Some(change.record.id), field: "record".to_owned(), reason };
        Ok((true, self.letter(change.row, misfit).await?))
    }

    /// A dead letter, unless this content went there before.
    async fn letter(&self, row: Row, misfit: Misfit) -> Result<Option<(Piece, Origin)>, Stop> {
        if self.told(&row, &misfit).await? {
            return Ok(None);
        }
        Ok(Some((self.dead_letter(&row, &misfit)?, Origin::DeadLetter(row, misfit))))
    }

    /// Counts and tells what was published.
    fn account(
        &mut self,
        published: impl Iterator<Item = Origin>,
        pass: Pass,
        counts: &mut Counts,
    ) {
        let (feed, metrics) = (self.task.feed, &self.task.parts.metrics);
        let mut tales = Tales::default();
        let at = Timestamp::now();
        for origin in published {
            match origin {
                Origin::Change(change, _) => {
                    counts.events += 1;
                    tales.change(feed, pass, &change);
                    metrics.hop(Hop::Change(feed), change.op.letter());
                    if !matches!(change.op, Op::Read) {
                        metrics.feed_event_seconds(feed, change.record.modified.until(at));
                    }
                    match pass {
                        Pass::Late
                            if self.cursor.was_read(change.record.modified)
                                && !self.by_shipping_time(&change.record) =>
                        {
                            let late = change.record.modified.until(change.row.asked_at);
                            metrics.feed_late_row(feed, late);
                            counts.latest_late_row = counts.latest_late_row.max(Some(late));
                        }
                        Pass::Live | Pass::Late | Pass::Shipped | Pass::Unproven => {}
                        Pass::Backfill => counts.missed += usize::from(self.was_missed(&change)),
                    }
                }
                Origin::DeadLetter(row, misfit) => {
                    counts.dead_letters += 1;
                    tales.dead_letter(feed, &row, &misfit);
                    metrics.hop(Hop::Change(feed), "dead_letter");
                }
            }
        }
        tales.tell(&self.task.parts.board);
    }

    /// Whether a record found by a backfill lies where both passes had been: not before the feed's
    /// start, not before the end of a skip, not beyond the late pass, and not because other filters
    /// showed it now.
    fn was_missed(&self, change: &Change) -> bool {
        let at = self.cursor.checkpoint();
        let modified = change.record.modified;
        at.backfill_id.is_some()
            && !at.snapshot
            && self.cursor.was_read(modified)
            && at.skipped_to.is_none_or(|to| modified >= to)
            && modified < at.late_watermark
            && !self.by_shipping_time(&change.record)
    }

    /// Whether this content went to the dead letters before.
    async fn told(&self, row: &Row, misfit: &Misfit) -> Result<bool, Stop> {
        let (store, feed) = (&self.publisher.store, self.task.feed);
        loop {
            let lookup = |key: &super::change::StateKey| store.get(feed.partition(), key.bytes());
            let codec = &self.task.parts.codec;
            let told = Differ {
                feed,
                edition: self.settings.edition,
                codec,
                unseen: Op::Create,
                lookup: &lookup,
            }
            .told(row, misfit);
            match told {
                Ok(told) => return Ok(told),
                Err(DiffFault::Learn(id)) => learn(codec, &self.task.cancel, id).await?,
                Err(DiffFault::State(reason)) => return Err(PipelineFault::State(reason).into()),
                Err(DiffFault::Store(fault)) => return Err(fault.into()),
            }
        }
    }

    fn dead_letter(&self, row: &Row, misfit: &Misfit) -> Result<Piece, Stop> {
        tracing::warn!(
            feed = self.task.feed.name(),
            record.id = misfit.id.as_deref().or(row.id.as_deref()),
            record.field = misfit.field,
            error = %misfit.reason,
            "record does not fit the schema; sent to the feed's dead letters"
        );
        Ok(self.scribe.dead_letter(row, misfit)?)
    }

    /// Counts every deviating field, and names each once.
    fn drift(&mut self, record: &Record) {
        let feed: Feed = self.task.feed;
        for drift in &record.drift {
            let kind = match drift.kind {
                DriftKind::Unknown => "unknown",
                DriftKind::Retyped => "retyped",
                DriftKind::Missing => "missing",
            };
            self.task.parts.metrics.drift(feed, kind, &drift.field);
            if self.drift.len() < DRIFT_NAMES && self.drift.insert((drift.field.clone(), kind)) {
                tracing::warn!(
                    feed = feed.name(),
                    record.field = drift.field,
                    record.drift = kind,
                    "schema drift: unknown and retyped ERP fields are kept in `extra`, \
                     missing ones are null"
                );
            }
        }
    }
}
