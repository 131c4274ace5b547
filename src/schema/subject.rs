//! What the codec is asked for: which topic's values, which change.

use crate::{clock::Timestamp, config::Topics};

use super::Source;

/// What a topic carries; with a registry the subject is `<topic>-value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    Command,
    Result,
    Journal,
    PurchaseReturnEnvelope,
    ReturnOutboundEnvelope,
    FeedState,
}

impl Subject {
    /// The topic that carries it.
    #[must_use]
    pub fn topic(self, topics: &Topics) -> &str {
        match self {
            Self::Command => &topics.commands,
            Self::Result => &topics.results,
            Self::Journal => &topics.journal,
            Self::PurchaseReturnEnvelope => &topics.purchase_returns,
            Self::ReturnOutboundEnvelope => &topics.return_outbounds,
            Self::FeedState => &topics.feeds_state,
        }
    }

    /// Its name in the registry.
    #[must_use]
    pub fn name(self, topics: &Topics) -> String {
        format!("{}-value", self.topic(topics))
    }
}

/// Debezium's operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// First snapshot or backfill: `r`.
    Read,
    Create,
    Update,
}

impl Op {
    /// Debezium's letter.
    #[must_use]
    pub fn letter(self) -> &'static str {
        match self {
            Self::Read => "r",
            Self::Create => "c",
            Self::Update => "u",
        }
    }
}

/// A change event before it is bytes. `before` and `after` are plain Avro datums of the record's
/// current schema.
#[derive(Clone, Debug)]
pub struct EnvelopeParts<'a> {
    pub before: Option<&'a [u8]>,
    pub after: &'a [u8],
    pub source: &'a Source,
    pub op: Op,
    pub ts_ms: Timestamp,
}
