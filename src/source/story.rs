//! What happens to a record, told: metrics per hop, the last changes and dead letters.

use serde_json::{Value, json};

use crate::{
    board::Story,
    config::Feed,
    erp::{QueryFault, record::Misfit},
};

use super::{
    diff::{Change, Finding},
    fetch::{Ended, FetchFault, Row},
    window::Pass,
};

/// Stories of one batch, at most: more would push each other off the board at once.
const MOST: usize = 50;

impl Finding {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Told => "same",
            Self::Change(_) => "changed",
            Self::AskAgain { .. } => "requery",
            Self::Misfit { .. } => "record_error",
        }
    }
}

/// How the read of a window ended, in a word.
pub(super) fn ended(ended: Ended) -> &'static str {
    match ended {
        Ended::Complete => "rows",
        Ended::Unproven(_) => "unproven",
        Ended::TooLarge { .. } => "too_large",
        Ended::Split => "split",
        Ended::TooEarly => "too_early",
    }
}

/// Why a page was not read, in a word.
pub(super) fn failed(fault: &FetchFault) -> &'static str {
    match fault {
        FetchFault::PagingIgnored { .. } => "paging_ignored",
        FetchFault::Query(fault) => match fault {
            QueryFault::Throttled { .. } => "throttled",
            QueryFault::Unreachable { .. } => "unreachable",
            QueryFault::Unusable { .. } => "unusable",
            QueryFault::Unlisted { .. } => "unlisted",
            QueryFault::TooWide { .. } => "too_wide",
            QueryFault::TooLong { .. } => "too_long",
            QueryFault::Misconfigured { .. } => "misconfigured",
            QueryFault::Rejected { .. } => "rejected",
        },
    }
}

/// What a batch has to tell once it is committed.
#[derive(Debug, Default)]
pub(super) struct Tales(Vec<(Story, Value)>);

impl Tales {
    pub(super) fn change(&mut self, feed: Feed, pass: Pass, change: &Change) {
        let record = &change.record;
        self.push(Story::Change, || {
            json!({
                "feed": feed.name(), "pass": pass.name(), "op": change.op.letter(), "id": record.id, "number": record.number,
                "status": record.status, "return_no": record.return_no, "modified": record.modified.to_string(),
            })
        });
    }

    pub(super) fn dead_letter(&mut self, feed: Feed, row: &Row, misfit: &Misfit) {
        self.push(Story::DeadLetter, || {
            json!({
                "pipeline": feed.name(), "reason": "record_error", "detail": format!("{}: {}", misfit.field, misfit.reason),
                "key": misfit.id.as_deref().or(row.id.as_deref()),
            })
        });
    }

    /// A first read has hundreds in a batch, and what is not shown need not be written.
    fn push(&mut self, story: Story, value: impl FnOnce() -> Value) {
        if self.0.len() < MOST {
            self.0.push((story, value()));
        }
    }

    pub(super) fn tell(self, board: &crate::board::Board) {
        for (story, value) in self.0 {
            board.tell(story, value);
        }
    }
}
