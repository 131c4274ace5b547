//! Does the flagship outbound query without `status` show every status? Its page names no default,
//! and a feed without a filter asks without. So orders of the last days are counted both ways, once
//! per takeover, at the priority of the late pass and beside it; no answer stops nothing.

use std::{fmt, time::Duration};

use crate::{
    clock::Timestamp,
    config::{Edition, Feed, FeedSettings},
    erp::{OUTBOUND_STATUSES, PageRequest, QueryFault, Selection},
};

use super::{query, reader::Reader, status::StatusBoard, window::Window};

/// As long as a window may be: 30 days, less a second (`docs/erp.md#queries`).
const LOOK_BACK: Duration = Duration::from_secs(30 * 86_400 - 1);

/// What both ways of asking count of one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// As many, as far as changes meanwhile let one tell.
    Alike,
    /// There are statuses that the list does not name.
    MoreWithout { without: u64, with: u64 },
    /// Without `status` some of them are not shown.
    FewerWithout { without: u64, with: u64 },
}

/// Judges counts of a window in the past, asked without the list, with it, and without it again: a
/// record may leave the window meanwhile, and a late one may enter it. Whatever left or entered
/// before the second question is missing from or in the third count as well.
pub(super) fn judge(before: u64, with: u64, after: u64) -> Counted {
    if with > before.max(after) {
        Counted::FewerWithout { without: before.max(after), with }
    } else if with < before.min(after) {
        Counted::MoreWithout { without: before.min(after), with }
    } else {
        Counted::Alike
    }
}

/// Whether the question is open for a feed.
pub(super) fn applies(feed: Feed, settings: &FeedSettings) -> bool {
    feed == Feed::ReturnOutbounds
        && settings.edition == Edition::Flagship
        && settings.filters.status.is_none()
}

/// Counts both ways up to `end`, and says a difference in log and status.
pub(super) async fn look(
    feed: Feed,
    settings: FeedSettings,
    mut reader: Reader,
    end: Timestamp,
    status: StatusBoard,
) {
    let window = Window { start: end.minus(LOOK_BACK).floor_second(), end: end.floor_second() };
    let counted = count(feed, &settings, &mut reader, window).await;
    status.feed(feed, |status| {
        status.calls += reader.calls();
        // It may be another account's by now, or the filter was set.
        status.status_default = None;
    });
    match counted {
        Ok(Counted::Alike) => {}
        Err(error) => tracing::info!(
            feed = feed.name(),
            %error,
            "orders could not be counted with and without status; the next takeover tries again"
        ),
        Ok(Counted::MoreWithout { without, with }) => tracing::info!(
            feed = feed.name(),
            erp.total = without,
            rows = with,
            "ERP has orders in statuses beyond the documented ones; the feed reads them too"
        ),
        Ok(Counted::FewerWithout { without, with }) => {
            tracing::warn!(
                feed = feed.name(),
                erp.total = with,
                rows = without,
                "without status the ERP does not show orders of every status; set filters.status"
            );
            let advice = Advice { feed, without, with }.to_string();
            status.feed(feed, |status| status.status_default = Some(advice));
        }
    }
}

async fn count(
    feed: Feed,
    settings: &FeedSettings,
    reader: &mut Reader,
    window: Window,
) -> Result<Counted, QueryFault> {
    // Filters hold for both; the window is one query.
    let Some(without) = query::of_window(feed, settings, window).into_iter().next() else {
        return Ok(Counted::Alike);
    };
    let with = Selection { status: Some(OUTBOUND_STATUSES.to_owned()), ..without.clone() };
    let request = PageRequest { page_no: 0, page_size: 1, count: true };
    let before = reader.once(&without, request).await?.total_count;
    let with = reader.once(&with, request).await?.total_count;
    if before == with {
        return Ok(Counted::Alike);
    }
    let after = reader.once(&without, request).await?.total_count;
    Ok(match (before, with, after) {
        (Some(before), Some(with), Some(after)) => judge(before, with, after),
        _ => Counted::Alike,
    })
}

/// What to do about it.
struct Advice {
    feed: Feed,
    without: u64,
    with: u64,
}

impl fmt::Display for Advice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (feed, Self { without, with, .. }) = (self.feed.name(), self);
        write!(
            out,
            "the ERP counts {with} orders of the last 30 days with every documented status and {without} without one, so the feed misses some: set feeds.{feed}.filters.status = \"{OUTBOUND_STATUSES}\""
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_flagship_outbound_feed_without_a_filter_asks() {
        let ask = |feed, keys: &str| {
            let start = "start_at = \"2026-01-01T00:00:00Z\"";
            let text = format!("[feeds.return_outbounds]\n{start}\n{keys}");
            let loaded = crate::config::from_toml(&text, std::iter::empty()).unwrap();
            applies(feed, loaded.settings.feed(feed))
        };
        assert!(ask(Feed::ReturnOutbounds, "edition = \"flagship\""));
        assert!(!ask(Feed::ReturnOutbounds, "edition = \"enterprise\""));
        assert!(!ask(Feed::PurchaseReturns, "edition = \"flagship\""));
        let filter = "edition = \"flagship\"\nfilters = { status = \"110\" }";
        assert!(!ask(Feed::ReturnOutbounds, filter));
    }

    #[test]
    fn what_leaves_or_enters_between_the_questions_is_no_difference() {
        for (before, with, after, says) in [
            (10, 10, 10, Counted::Alike),
            // Some left, before or after the second question.
            (10, 7, 7, Counted::Alike),
            (10, 10, 7, Counted::Alike),
            // One entered.
            (10, 11, 11, Counted::Alike),
            (10, 11, 10, Counted::FewerWithout { without: 10, with: 11 }),
            (4, 10, 3, Counted::FewerWithout { without: 4, with: 10 }),
            (10, 4, 9, Counted::MoreWithout { without: 9, with: 4 }),
        ] {
            assert_eq!(judge(before, with, after), says, "{before}, {with}, {after}");
        }
    }
}
