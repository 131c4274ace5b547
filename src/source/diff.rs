//! Hop 3: rows × state → [`Finding`]s. Pure but for the lookup it is given.
//!
//! An unchanged row costs a hash and a lookup, never a decode. What is decoded is compared with
//! the version that was published last, and only content counts: other white space or another order
//! of fields or lines is no change.

use crate::{
    clock::Timestamp,
    config::{Edition, Feed},
    erp::record::{self, Misfit, Record},
    kafka::StoreFault,
    schema::{Codec, DecodeFault, FeedState, Op, StateKind, Subject},
};

use super::{change::StateKey, fetch::Row};

/// The version of a record that was published last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub modified: Timestamp,
    pub asked_at: Timestamp,
    /// Plain datum in the current schema; `None` when what was kept can no longer be read.
    pub datum: Option<Vec<u8>>,
}

/// What was just read of a record.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub modified: Timestamp,
    pub asked_at: Timestamp,
    /// Its content is that of the version published last.
    pub same: bool,
}

/// How a version stands to the one published last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    Unseen,
    Same,
    Different,
    /// It looks older than what was published: modified earlier (writers commit out of order), or
    /// asked for earlier (another owner's clock was ahead). Only a fresh answer about this very
    /// record decides.
    AskAgain,
}

/// Compares a version with the one published last.
#[must_use]
pub fn judge(kept: Option<&Kept>, seen: Seen) -> Judgement {
    match kept {
        None => Judgement::Unseen,
        Some(_) if seen.same => Judgement::Same,
        Some(kept) if seen.modified < kept.modified || seen.asked_at < kept.asked_at => {
            Judgement::AskAgain
        }
        Some(_) => Judgement::Different,
    }
}

/// One change to publish.
#[derive(Clone, Debug)]
pub struct Change {
    pub op: Op,
    /// Plain datum in the current schema.
    pub before: Option<Vec<u8>>,
    pub record: Record,
    /// What the record was read from.
    pub row: Row,
}

/// What came of one row.
#[derive(Debug)]
pub enum Finding {
    /// What it says was published already, or this very text is among the dead letters.
    Told,
    Change(Box<Change>),
    AskAgain {
        kept: Kept,
        record: Box<Record>,
    },
    Misfit {
        row: Row,
        misfit: Misfit,
    },
}

/// Why rows could not be compared. Nothing of them was used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DiffFault {
    /// The state was written with a schema of the registry that must be learnt first.
    #[error("schema id {0} of the feed's state is not known yet")]
    Learn(u32),
    #[error(
        "the feed's state holds an entry that cannot be read: {0}; `topics.feeds_state` must belong to this connector alone"
    )]
    State(String),
    #[error(transparent)]
    Store(#[from] StoreFault),
}

/// Gives the state's value of a key.
pub type Lookup<'a> = dyn Fn(&StateKey) -> Result<Option<Vec<u8>>, StoreFault> + 'a;

/// Everything a comparison needs besides the rows.
pub struct Differ<'a> {
    pub feed: Feed,
    pub edition: Edition,
    pub codec: &'a Codec,
    /// What an unseen record is called: `r` in a snapshot or backfill, else `c`.
    pub unseen: Op,
    /// The state's value of a key.
    pub lookup: &'a Lookup<'a>,
}

impl std::fmt::Debug for Differ<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Differ").field("feed", &self.feed).finish_non_exhaustive()
    }
}

/// The subject of a feed's change events and kept versions.
#[must_use]
pub fn subject(feed: Feed) -> Subject {
    match feed {
        Feed::PurchaseReturns => Subject::PurchaseReturnEnvelope,
        Feed::ReturnOutbounds => Subject::ReturnOutboundEnvelope,
    }
}

impl Differ<'_> {
    /// Compares one row with the state.
    ///
    /// # Errors
    /// [`DiffFault`].
    pub fn compare(&self, row: Row) -> Result<Finding, DiffFault> {
        let early = row.id.as_deref().map(|id| StateKey::record(self.feed, id));
        let mut state = match &early {
            Some(key) => self.state(key)?,
            None => None,
        };
        if state
            .as_ref()
            .is_some_and(|state| state.kind == StateKind::Record && state.content_hash == row.hash)
        {
            return Ok(Finding::Told);
        }
        let record = match record::decode(self.feed, self.edition, &row.json) {
            Ok(record) => record,
            Err(misfit) => {
                return Ok(if self.told(&row, &misfit)? {
                    Finding::Told
                } else {
                    Finding::Misfit { row, misfit }
                });
            }
        };
        let key = StateKey::record(self.feed, &record.id);
        if early.as_ref() != Some(&key) {
            state = self.state(&key)?;
        }
        let kept = state
            .as_ref()
            .filter(|state| state.kind == StateKind::Record)
            .map(|state| self.kept(state));
        let same = kept.as_ref().is_some_and(|kept| self.same(kept, &record));
        Ok(
            match judge(
                kept.as_ref(),
                Seen { modified: record.modified, asked_at: row.asked_at, same },
            ) {
                Judgement::Same => Finding::Told,
                Judgement::Unseen => change(self.unseen, None, record, row),
                Judgement::Different => change(Op::Update, kept, record, row),
                Judgement::AskAgain => match kept {
                    Some(kept) => Finding::AskAgain { kept, record: Box::new(record) },
                    None => change(self.unseen, None, record, row),
                },
            },
        )
    }

    /// Whether a record went to the dead letters with this very content before.
    ///
    /// # Errors
    /// [`DiffFault`].
    pub fn told(&self, row: &Row, misfit: &Misfit) -> Result<bool, DiffFault> {
        let key =
            StateKey::dead_letter(self.feed, misfit.id.as_deref().or(row.id.as_deref()), &row.hash);
        Ok(self.state(&key)?.is_some_and(|state| state.content_hash == row.hash))
    }

    /// Judges the fresh answer about a record that looked older: it is believed, whatever its times
    /// say.
    #[must_use]
    pub fn confirm(&self, kept: Kept, answer: Row) -> Finding {
        match record::decode(self.feed, self.edition, &answer.json) {
            Err(misfit) => Finding::Misfit { row: answer, misfit },
            Ok(record) if self.same(&kept, &record) => Finding::Told,
            Ok(record) => change(Op::Update, Some(kept), record, answer),
        }
    }

    fn same(&self, kept: &Kept, record: &Record) -> bool {
        let kept = kept.datum.as_deref();
        kept.is_some_and(|kept| record::same(self.feed, kept, &record.datum))
    }

    fn state(&self, key: &StateKey) -> Result<Option<FeedState>, DiffFault> {
        match (self.lookup)(key)? {
            None => Ok(None),
            Some(bytes) => match self.codec.decode_feed_state(&bytes) {
                Ok(state) => Ok(Some(state)),
                Err(DecodeFault::UnknownSchemaId(id)) => Err(DiffFault::Learn(id)),
                Err(DecodeFault::Malformed(reason)) => Err(DiffFault::State(reason)),
            },
        }
    }

    fn kept(&self, state: &FeedState) -> Kept {
        let datum = match self.codec.current_datum(subject(self.feed), &state.version) {
            Ok(datum) => Some(datum.into_owned()),
            Err(fault) => {
                tracing::warn!(
                    feed = self.feed.name(),
                    error = %fault,
                    "stored version unreadable; next change event will have no `before`"
                );
                None
            }
        };
        let oldest = Timestamp(i64::MIN);
        Kept {
            modified: state.modified.unwrap_or(oldest),
            asked_at: state.asked_at.unwrap_or(oldest),
            datum,
        }
    }
}

fn change(op: Op, kept: Option<Kept>, record: Record, row: Row) -> Finding {
    let before = kept.and_then(|kept| kept.datum);
    Finding::Change(Box::new(Change { op, before, record, row }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_decides_and_what_looks_older_is_asked_for() {
        let kept = Kept {
            modified: Timestamp(5_000),
            asked_at: Timestamp(9_000),
            datum: Some(b"a".to_vec()),
        };
        let seen = |modified, asked_at, same| Seen {
            modified: Timestamp(modified),
            asked_at: Timestamp(asked_at),
            same,
        };
        assert_eq!(judge(None, seen(1, 1, false)), Judgement::Unseen);
        for (modified, asked_at, same, expected) in [
            (5_000, 9_000, true, Judgement::Same),
            (1, 1, true, Judgement::Same),
            (5_000, 9_000, false, Judgement::Different),
            (6_000, 9_001, false, Judgement::Different),
            (4_000, 9_001, false, Judgement::AskAgain),
            (6_000, 8_999, false, Judgement::AskAgain),
        ] {
            assert_eq!(
                judge(Some(&kept), seen(modified, asked_at, same)),
                expected,
                "{modified} {asked_at}"
            );
        }
        let unreadable = Kept { datum: None, ..kept };
        assert_eq!(judge(Some(&unreadable), seen(5_000, 9_000, false)), Judgement::Different);
    }
}
