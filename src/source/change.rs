//! Hop 4: [`Change`] → the bytes of its event and of its new state. Pure.

use std::sync::Arc;

use crate::{
    clock::Timestamp,
    config::{Edition, Feed, KafkaSettings, Topics},
    erp::{Call, record::Misfit},
    kafka::{Outgoing, largest_record},
    schema::{Checkpoint, Codec, EnvelopeParts, FeedState, SchemaFault, Source, StateKind},
};

use super::{
    MarkerIndex,
    diff::{Change, subject},
    fetch::{Row, unidentified},
    window::Window,
};

/// A key of `wdt.feeds.state`: JSON array text.
///
/// `["<feed>"]` is the checkpoint, `["<feed>","<id>"]` a record's last version,
/// `["<feed>","<id>","#dead"]` what was dead-lettered of it (apart, so that the last good version
/// stays `before` of the next one), `["<feed>","#barrier"]` a new owner's mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateKey(Vec<u8>);

impl StateKey {
    fn of(parts: &[&str]) -> Self {
        // Texts can always be written.
        Self(serde_json::to_vec(parts).unwrap_or_default())
    }

    /// The feed's checkpoint.
    #[must_use]
    pub fn checkpoint(feed: Feed) -> Self {
        Self::of(&[feed.name()])
    }

    /// One record's last published version.
    #[must_use]
    pub fn record(feed: Feed, id: &str) -> Self {
        Self::of(&[feed.name(), id])
    }

    /// What was dead-lettered last of a record; by content where it has no readable id.
    #[must_use]
    pub fn dead_letter(feed: Feed, id: Option<&str>, hash: &[u8; 16]) -> Self {
        match id {
            Some(id) => Self::of(&[feed.name(), id, "#dead"]),
            None => Self::of(&[feed.name(), &unidentified(hash), "#dead"]),
        }
    }

    /// A new owner's barrier.
    #[must_use]
    pub fn barrier(feed: Feed) -> Self {
        Self::of(&[feed.name(), "#barrier"])
    }

    /// As it is written.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What an event says about being part of a snapshot, as Debezium writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshot {
    Part,
    Last,
    No,
}

impl Snapshot {
    fn text(self) -> &'static str {
        match self {
            Self::Part => "true",
            Self::Last => "last",
            Self::No => "false",
        }
    }
}

/// The ERP's query behind a feed.
#[must_use]
pub fn call_of(feed: Feed, edition: Edition) -> Call {
    match (feed, edition) {
        (Feed::PurchaseReturns, Edition::Flagship | Edition::Enterprise) => {
            Call::QueryPurchaseReturns
        }
        (Feed::ReturnOutbounds, Edition::Flagship) => Call::QueryOutbounds,
        (Feed::ReturnOutbounds, Edition::Enterprise) => Call::QueryOutboundsEnterprise,
    }
}

/// Two records that stand or fall together: what the world is told, and the state that says it was
/// told.
#[derive(Clone, Debug)]
pub struct Piece {
    pub event: Arc<Outgoing>,
    pub state: Arc<Outgoing>,
    pub told: Told,
}

impl Piece {
    /// Leaves the ERP's JSON out of a dead letter that is too large for its topic; `false` where
    /// nothing is left to be left out.
    pub fn leave_out_json(&mut self) -> bool {
        let event = Arc::make_mut(&mut self.event);
        let json = match self.told {
            Told::DeadLetter => event.value.take(),
            Told::Event(_) => None,
        };
        event.headers.extend(json.iter().flat_map(|json| left_out(json.len())));
        json.is_some()
    }
}

/// Says how large a record's JSON is that does not stand in its dead letter.
fn left_out(bytes: usize) -> [(String, Option<Vec<u8>>); 2] {
    [
        ("wdt-omitted".to_owned(), Some(b"value".to_vec())),
        ("wdt-record-bytes".to_owned(), Some(bytes.to_string().into_bytes())),
    ]
}

/// What a [`Piece`] tells, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// `r`, `c` or `u`.
    Event(&'static str),
    DeadLetter,
}

/// Writes everything a feed puts into Kafka.
#[derive(Clone, Debug)]
pub struct Scribe {
    feed: Feed,
    edition: Edition,
    codec: Arc<Codec>,
    markers: Arc<dyn MarkerIndex>,
    changes: Arc<str>,
    state: Arc<str>,
    dead_letters: Arc<str>,
    application: String,
    sid: String,
    /// Bytes a value may have, keys and headers allowed for.
    room: usize,
}

/// What a record has besides its value: key, headers, framing.
const AROUND: usize = 4 * 1024;

impl Scribe {
    /// For one feed of the connector that `kafka` names; `sid` is the account that answers its
    /// query.
    #[must_use]
    pub fn new(
        topics: &Topics,
        kafka: &KafkaSettings,
        feed: Feed,
        edition: Edition,
        sid: &str,
        codec: Arc<Codec>,
        markers: Arc<dyn MarkerIndex>,
    ) -> Self {
        let application = &kafka.application_id;
        let largest = largest_record(kafka);
        let changes = match feed {
            Feed::PurchaseReturns => &topics.purchase_returns,
            Feed::ReturnOutbounds => &topics.return_outbounds,
        };
        Self {
            feed,
            edition,
            codec,
            markers,
            changes: changes.as_str().into(),
            state: topics.feeds_state.as_str().into(),
            dead_letters: topics.feeds_dlq.as_str().into(),
            application: application.to_owned(),
            sid: sid.to_owned(),
            room: largest.saturating_sub(AROUND),
        }
    }

    /// Event and state of one change. A `before` that would make the event larger than Kafka takes
    /// is left out.
    ///
    /// # Errors
    /// [`Misfit`] when the record cannot be written as an event: it belongs into the dead letters.
    pub fn change(
        &self,
        change: &Change,
        window: Window,
        snapshot: Snapshot,
        now: Timestamp,
    ) -> Result<Piece, Misfit> {
        let record = &change.record;
        let misfit =
            |reason| Misfit { id: Some(record.id.clone()), field: "record".to_owned(), reason };
        let unwritable = |fault: SchemaFault| misfit(format!("cannot be written: {fault}"));
        let source = self.source(change, window, snapshot);
        let subject = subject(self.feed);
        let encode = |before| {
            let parts = EnvelopeParts {
                before,
                after: &record.datum,
                source: &source,
                op: change.op,
                ts_ms: now,
            };
            self.codec.encode_envelope(subject, &parts).map_err(unwritable)
        };
        let mut value = encode(change.before.as_deref())?;
        if value.len() > self.room && change.before.is_some() {
            value = encode(None)?;
        }
        if value.len() > self.room {
            let bytes = value.len();
            return Err(misfit(format!(
                "does not fit into a Kafka record: its event has {bytes} bytes; raise message.max.bytes in kafka.properties and max.message.bytes of the change topic and {}, then run a backfill",
                self.state
            )));
        }
        let event = Outgoing {
            topic: Arc::clone(&self.changes),
            partition: None,
            key: Some(record.number.clone().into_bytes()),
            value: Some(value),
            headers: Vec::new(),
        };
        let state = FeedState {
            record_id: Some(record.id.clone()),
            number: Some(record.number.clone()),
            modified: Some(record.modified),
            asked_at: Some(change.row.asked_at),
            content_hash: change.row.hash.to_vec(),
            version: self.codec.keep(subject, &record.datum),
            ..self.entry(StateKind::Record)
        };
        let told = Told::Event(change.op.letter());
        let state =
            self.write(&StateKey::record(self.feed, &record.id), &state).map_err(unwritable)?;
        Ok(Piece { event: event.into(), state: state.into(), told })
    }

    /// A record that does not fit: its JSON as the ERP sent it, and its hash, so that it is told
    /// once per content. JSON that is larger than Kafka takes is left out, and the header
    /// `wdt-record-bytes` says how large it is: the ERP still has it.
    ///
    /// # Errors
    /// [`SchemaFault`].
    pub fn dead_letter(&self, row: &Row, misfit: &Misfit) -> Result<Piece, SchemaFault> {
        let id = misfit.id.as_deref().or(row.id.as_deref());
        let shown = id.map_or_else(|| unidentified(&row.hash), ToOwned::to_owned);
        let header = |name: &str, value: String| {
            (format!("__connect.errors.{name}"), Some(value.into_bytes()))
        };
        let json = &row.json;
        let mut event = Outgoing {
            topic: Arc::clone(&self.dead_letters),
            partition: None,
            key: Some(StateKey::record(self.feed, &shown).bytes().to_vec()),
            value: (json.len() <= self.room).then(|| json.to_vec()),
            headers: vec![
                header("topic", self.changes.to_string()),
                header("connector.name", self.application.clone()),
                header("task.id", self.feed.partition().to_string()),
                header("stage", "VALUE_CONVERTER".to_owned()),
                header("class.name", "wdt_connector::source::diff".to_owned()),
                header("exception.class.name", "record_error".to_owned()),
                header("exception.message", misfit.to_string()),
            ],
        };
        if event.value.is_none() {
            event.headers.extend(left_out(json.len()));
        }
        let state = FeedState {
            record_id: id.map(ToOwned::to_owned),
            asked_at: Some(row.asked_at),
            content_hash: row.hash.to_vec(),
            ..self.entry(StateKind::DeadLetter)
        };
        let state = self.write(&StateKey::dead_letter(self.feed, id, &row.hash), &state)?;
        Ok(Piece { event: event.into(), state: state.into(), told: Told::DeadLetter })
    }

    /// How far the feed has been read.
    ///
    /// # Errors
    /// [`SchemaFault`].
    pub fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<Outgoing, SchemaFault> {
        let state =
            FeedState { checkpoint: Some(checkpoint.clone()), ..self.entry(StateKind::Checkpoint) };
        self.write(&StateKey::checkpoint(self.feed), &state)
    }

    /// A new owner's mark; nobody else writes this nonce.
    ///
    /// # Errors
    /// [`SchemaFault`].
    pub fn barrier(&self, nonce: String) -> Result<Outgoing, SchemaFault> {
        let state = FeedState { nonce: Some(nonce), ..self.entry(StateKind::Barrier) };
        self.write(&StateKey::barrier(self.feed), &state)
    }

    fn write(&self, key: &StateKey, state: &FeedState) -> Result<Outgoing, SchemaFault> {
        Ok(Outgoing {
            topic: Arc::clone(&self.state),
            partition: Some(self.feed.partition()),
            key: Some(key.bytes().to_vec()),
            value: Some(self.codec.encode_feed_state(state)?),
            headers: Vec::new(),
        })
    }

    fn entry(&self, kind: StateKind) -> FeedState {
        FeedState {
            kind,
            feed: self.feed.name().to_owned(),
            record_id: None,
            number: None,
            modified: None,
            asked_at: None,
            content_hash: Vec::new(),
            version: Vec::new(),
            checkpoint: None,
            nonce: None,
        }
    }

    fn source(&self, change: &Change, window: Window, snapshot: Snapshot) -> Source {
        let record = &change.record;
        let command = match (self.feed, &record.return_no, &record.remark) {
            (Feed::ReturnOutbounds, Some(return_no), Some(remark)) => {
                self.markers.lookup(return_no, remark)
            }
            (Feed::ReturnOutbounds | Feed::PurchaseReturns, _, _) => None,
        };
        let (command_id, marker) = command.unzip();
        Source {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            connector: "wdt".to_owned(),
            name: self.application.clone(),
            ts_ms: record.modified,
            snapshot: Some(snapshot.text().to_owned()),
            db: self.sid.clone(),
            table: self.feed.name().to_owned(),
            edition: self.edition.name().to_owned(),
            sid: self.sid.clone(),
            query: call_of(self.feed, self.edition).method().to_owned(),
            window_start: Some(window.start),
            window_end: Some(window.end),
            command_id,
            marker,
        }
    }
}
