//! The second half of a window: rows ▶ diff ▶ change ▶ publish, chunk by chunk, so that memory is
//! given back as it goes and even a huge second is never held twice.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use crate::{
    background,
    clock::Timestamp,
    config::Feed,
    crash::{self, Point},
    erp::{
        QueryFault,
        record::{DriftKind, Misfit, Record},
    },
    metrics::Hop,
    schema::Op,
};

use super::{
    PipelineFault,
    change::{Piece, Snapshot, call_of},
    diff::{Change, DiffFault, Differ, Finding, Kept},
    feed::{Stop, beating, learn},
    fetch::{FetchFault, Gathered, Row, Rules, gather},
    publish::{BATCH, Excess, PAUSE, PublishFault},
    query,
    story::{SAME, Tales, since},
    tenure::Tenure,
    window::{Cursor, Limits, Pass, Window},
};

/// Names of deviating fields that are remembered, so that each is logged once; past that they are
/// only counted.
const DRIFT_NAMES: usize = 1_000;

/// A window that was read, and where the passes stand once it is published.
pub(super) struct Reading {
    pub pass: Pass,
    pub window: Window,
    pub limits: Limits,
    pub rows: usize,
    pub next: Cursor,
}

/// What came of a window.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub unchanged: usize,
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

/// What a piece was made of: it may have to be made again, smaller.
enum Origin {
    Change(Box<Change>, Snapshot),
    DeadLetter(Row, Misfit),
}

impl Tenure<'_> {
    /// Publishes what is new in `rows`, which are all but the `known` ones; the checkpoint goes
    /// with the last batch. An inner error is the ERP's, met when it was asked about single
    /// records: the window is then read again, and nothing published comes twice.
    pub(super) async fn publish(
        &mut self,
        rows: Vec<Row>,
        known: usize,
        reading: &mut Reading,
    ) -> Result<Result<Counts, FetchFault>, Stop> {
        let metrics = Arc::clone(&self.task.parts.metrics);
        metrics.hops(Hop::Diff(self.task.feed), SAME, known);
        let mut counts = Counts { unchanged: known, ..Counts::default() };
        let mut items: VecDeque<Item> = VecDeque::new();
        let mut rows = rows.into_iter();
        loop {
            let chunk: Vec<Row> = rows.by_ref().take(BATCH).collect();
            if chunk.is_empty() {
                break;
            }
            self.pulse.beat();
            let findings = match self.compare(chunk, reading.pass).await? {
                Ok(findings) => findings,
                Err(fault) => return self.stopped(items, reading, counts, fault).await,
            };
            for finding in findings {
                metrics.hop(Hop::Diff(self.task.feed), finding.word());
                let finding = match finding {
                    Finding::AskAgain { kept, record } => {
                        match self.ask_again(kept, &record, reading).await? {
                            Ok(finding) => finding,
                            Err(fault) => return self.stopped(items, reading, counts, fault).await,
                        }
                    }
                    settled => settled,
                };
                match finding {
                    Finding::Change(change) => items.push_back(Item::Change(change)),
                    Finding::Misfit { row, misfit } => {
                        items.push_back(Item::DeadLetter(row, misfit))
                    }
                    Finding::Same(row) => {
                        counts.unchanged += 1;
                        if let Some(id) = &row.id {
                            self.known.keep(id, row.hash);
                        }
                    }
                    Finding::Told | Finding::AskAgain { .. } => counts.unchanged += 1,
                }
            }
            // One batch is kept back: only the last knows that it is.
            while items.len() > BATCH {
                let batch = items.drain(..BATCH).collect();
                self.batch(batch, reading, false, &mut counts).await?;
            }
        }
        let batch = items.into_iter().collect();
        self.batch(batch, reading, true, &mut counts).await?;
        Ok(Ok(counts))
    }

    /// Whether the first read is over with this window.
    fn ends_snapshot(&self, reading: &Reading) -> bool {
        self.cursor.checkpoint().snapshot && !reading.next.checkpoint().snapshot
    }

    /// Publishes what is known before the window is given up: it need not be found out again.
    async fn stopped(
        &mut self,
        mut items: VecDeque<Item>,
        reading: &mut Reading,
        mut counts: Counts,
        fault: FetchFault,
    ) -> Result<Result<Counts, FetchFault>, Stop> {
        // The last read of a snapshot says that it is the last, and that is known at the end of its
        // window only.
        while !items.is_empty() && !self.ends_snapshot(reading) {
            let batch = items.drain(..items.len().min(BATCH)).collect();
            self.batch(batch, reading, false, &mut counts).await?;
        }
        self.told_of(reading.pass, &counts);
        if reading.pass == Pass::Backfill {
            self.cursor = self.cursor.clone().counted(0, counts.events);
        }
        Ok(Err(fault))
    }

    /// Compares rows with the state, off the reactor: it hashes, decodes and reads the disk.
    async fn compare(
        &self,
        rows: Vec<Row>,
        pass: Pass,
    ) -> Result<Result<Vec<Finding>, FetchFault>, Stop> {
        let (feed, edition) = (self.task.feed, self.settings.edition);
        let unseen = match pass {
            Pass::Backfill => Op::Read,
            Pass::Live | Pass::Late if self.cursor.checkpoint().snapshot => Op::Read,
            Pass::Live | Pass::Late => Op::Create,
        };
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
                Ok(findings) => return Ok(Ok(findings)),
                Err(DiffFault::Answer(fault)) => return Ok(Err(fault)),
                Err(DiffFault::Learn(id)) => {
                    learn(&self.task.parts.codec, &self.task.cancel, id).await?
                }
                Err(DiffFault::State(reason)) => return Err(PipelineFault::State(reason).into()),
                Err(DiffFault::Store(fault)) => return Err(fault.into()),
            }
        }
    }

    /// A version that looks older than what was published: the ERP is asked about this very record,
    /// and believed.
    async fn ask_again(
        &mut self,
        kept: Kept,
        record: &Record,
        reading: &Reading,
    ) -> Result<Result<Finding, FetchFault>, Stop> {
        let (feed, edition) = (self.task.feed, self.settings.edition);
        let call = call_of(feed, edition);
        let rules = Rules {
            call,
            page_size: query::page_size(feed, self.settings),
            budget: None,
            splittable: false,
            closes_at: None,
        };
        let queries = query::of_record(feed, self.settings, record);
        let mut reader = self.reader(reading.pass);
        let gathered = self
            .task
            .cancel
            .run_until_cancelled(beating(self.pulse, gather(&mut reader, &queries, rules)))
            .await;
        self.note(&reader);
        let rows = match gathered {
            None => return Err(Stop::Over),
            Some(Err(fault)) => return Ok(Err(fault)),
            Some(Ok(Gathered::Rows { rows, .. })) => rows,
            Some(Ok(Gathered::TooLarge { .. } | Gathered::Split | Gathered::TooEarly)) => {
                let reason =
                    "a question about one record was answered as if it were a window".to_owned();
                return Ok(Err(QueryFault::Unusable { call, reason }.into()));
            }
        };
        let older_than = kept.modified;
        let finding =
            match rows.into_iter().find(|row| row.id.as_deref() == Some(record.id.as_str())) {
                // It moved on meanwhile, so a later window shows it.
                None => Finding::Told,
                Some(answer) => {
                    let lookup = |_: &super::change::StateKey| Ok(None);
                    let judged = Differ {
                        feed,
                        edition,
                        codec: &self.task.parts.codec,
                        unseen: Op::Create,
                        lookup: &lookup,
                    }
                    .confirm(kept, answer);
                    match judged {
                        Ok(finding) => finding,
                        Err(fault) => return Ok(Err(fault)),
                    }
                }
            };
        let confirmed =
            matches!(&finding, Finding::Change(change) if change.record.modified < older_than);
        self.task.parts.metrics.feed_older(feed, confirmed);
        tracing::info!(
            feed = feed.name(),
            record.id,
            record.confirmed = confirmed,
            "row older than the published version; record looked up by its number"
        );
        Ok(Ok(finding))
    }

    async fn batch(
        &mut self,
        items: Vec<Item>,
        reading: &mut Reading,
        last: bool,
        counts: &mut Counts,
    ) -> Result<(), Stop> {
        let now = Timestamp::now();
        let ends_snapshot = last && self.ends_snapshot(reading);
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
                    match self.scribe.change(&change, reading.window, snapshot, now) {
                        Ok(piece) => drafts.push((piece, Origin::Change(change, snapshot))),
                        // What cannot be written as an event is one record's trouble, not the
                        // feed's.
                        Err(misfit) => {
                            drafts.extend(self.letter(change.row, misfit, counts).await?)
                        }
                    }
                }
                Item::DeadLetter(row, misfit) => {
                    drafts.push((self.dead_letter(&row, &misfit)?, Origin::DeadLetter(row, misfit)))
                }
            }
        }
        crash::point(Point::WindowDiffed);
        let mut pause = PAUSE;
        let save = loop {
            let events =
                drafts.iter().filter(|(_, origin)| matches!(origin, Origin::Change(..))).count();
            let next = if last && reading.pass == Pass::Backfill {
                reading.next.clone().counted(reading.rows, counts.events + events)
            } else {
                reading.next.clone()
            };
            let save = last && (!drafts.is_empty() || self.must_save(&next));
            let checkpoint =
                if save { Some(self.scribe.checkpoint(next.checkpoint())?.into()) } else { None };
            let (pieces, origins): (Vec<Piece>, Vec<Origin>) = drafts.into_iter().unzip();
            let published = self.publisher.publish(&pieces, checkpoint.as_ref()).await;
            drafts = pieces.into_iter().zip(origins).collect();
            match published {
                Ok(()) => {
                    reading.next = next;
                    break save;
                }
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
                        let (lighter, draft) = self
                            .shrink(draft, excess, &reason, reading.window, now, counts)
                            .await?;
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
        self.account(drafts.into_iter().map(|(_, origin)| origin), reading.pass, counts);
        Ok(())
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
        counts: &mut Counts,
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
        Ok((true, self.letter(change.row, misfit, counts).await?))
    }

    /// A dead letter, unless this content went there before.
    async fn letter(
        &self,
        row: Row,
        misfit: Misfit,
        counts: &mut Counts,
    ) -> Result<Option<(Piece, Origin)>, Stop> {
        if self.told(&row, &misfit).await? {
            counts.unchanged += 1;
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
                    self.known.keep(&change.record.id, change.row.hash);
                    tales.change(feed, pass, &change);
                    metrics.hop(Hop::Change(feed), change.op.letter());
                    if !matches!(change.op, Op::Read) {
                        metrics.feed_event_seconds(feed, since(change.record.modified, at));
                    }
                    match pass {
                        Pass::Late => {
                            let late = since(change.record.modified, change.row.asked_at);
                            metrics.feed_late_row(feed, late);
                            counts.latest_late_row = counts.latest_late_row.max(Some(late));
                        }
                        Pass::Live => {}
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
    /// start, not beyond the late pass, and not because other filters showed it now.
    fn was_missed(&self, change: &Change) -> bool {
        let at = self.cursor.checkpoint();
        let modified = change.record.modified;
        at.backfill_id.is_some()
            && !at.snapshot
            && modified >= self.settings.start_at
            && modified < at.late_watermark
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
                Err(DiffFault::Answer(fault)) => {
                    return Err(PipelineFault::State(fault.to_string()).into());
                }
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
