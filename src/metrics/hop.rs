//! The hops of both pipelines, as labels.

use crate::config::Feed;

/// One stage of a pipeline; the words are those of the source tree, the spans and the status page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    Command,
    Validate,
    Journal,
    Call,
    Outcome,
    Settle,
    Window(Feed),
    Fetch(Feed),
    Diff(Feed),
    Change(Feed),
    Publish(Feed),
}

impl Hop {
    /// `commands`, or the feed's name.
    #[must_use]
    pub(crate) fn pipeline(self) -> &'static str {
        match self {
            Self::Command
            | Self::Validate
            | Self::Journal
            | Self::Call
            | Self::Outcome
            | Self::Settle => "commands",
            Self::Window(feed)
            | Self::Fetch(feed)
            | Self::Diff(feed)
            | Self::Change(feed)
            | Self::Publish(feed) => feed.name(),
        }
    }

    /// The stage's word.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Validate => "validate",
            Self::Journal => "journal",
            Self::Call => "call",
            Self::Outcome => "outcome",
            Self::Settle => "settle",
            Self::Window(_) => "window",
            Self::Fetch(_) => "fetch",
            Self::Diff(_) => "diff",
            Self::Change(_) => "change",
            Self::Publish(_) => "publish",
        }
    }
}
