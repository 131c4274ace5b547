//! Does the ERP show records later than the late pass looks? It does where its database's clock
//! lies further behind the clock of its answers (`Date`) than `late_pass.lag`: new records bear
//! times that both passes have read already, and nothing else would tell. A closed window in the
//! past can only lose members, so one that holds more records later than when the late pass had
//! read it was entered behind both passes. As many may leave as enter, so an equal count proves
//! nothing.

use std::{sync::Arc, time::Duration};

use crate::{
    clock::Timestamp,
    config::{Edition, Feed, FeedSettings},
    erp::{PageRequest, QueryFault},
    metrics::Metrics,
};

use super::{query, reader::Reader, status::StatusBoard, window::Window};

/// A window of so many intervals of the late pass is counted, and after as long again: an hour and
/// two calls in it by default.
const INTERVALS: u32 = 12;

/// The window that is counted up to `end`, which the late pass has read.
///
/// `None` where a window tells nothing: the enterprise edition's may be over shipping times, which
/// orders enter when they are shipped.
pub(super) fn window(settings: &FeedSettings, end: Timestamp) -> Option<Window> {
    let end = end.floor_second();
    let start = end.minus(span(settings)).max(settings.start_at).floor_second();
    (settings.edition == Edition::Flagship && start < end).then_some(Window { start, end })
}

/// Between the two counts of a window, which is as long.
#[must_use]
pub(crate) fn span(settings: &FeedSettings) -> Duration {
    settings.late_pass.interval * INTERVALS
}

/// Counts `window` now and later, and says it where it has more records then.
pub(super) async fn look(
    feed: Feed,
    settings: FeedSettings,
    mut reader: Reader,
    window: Window,
    metrics: Arc<Metrics>,
    status: StatusBoard,
) {
    // What cannot be counted now is counted next time.
    let before = count(feed, &settings, &mut reader, window, &status).await;
    let Ok(Some(before)) = before else { return };
    tokio::time::sleep(span(&settings)).await;
    let after = count(feed, &settings, &mut reader, window, &status).await;
    let Ok(Some(after)) = after else { return };
    let rows = after.saturating_sub(before);
    if rows == 0 {
        return;
    }
    metrics.feed_too_late(feed, rows);
    tracing::warn!(
        feed = feed.name(),
        window.start = %window.start,
        window.end = %window.end,
        rows,
        "records entered a window that both passes had read; run a backfill of it, and compare the clocks of the ERP's database and web server"
    );
    status.feed(feed, |status| {
        status.rows_too_late += rows;
        status.advice = Some(advice(feed, rows, window));
    });
}

/// Records of a window; `None` where the ERP does not say.
async fn count(
    feed: Feed,
    settings: &FeedSettings,
    reader: &mut Reader,
    window: Window,
    status: &StatusBoard,
) -> Result<Option<u64>, QueryFault> {
    let mut sum = Some(0);
    for selection in query::of_window(feed, settings, window) {
        let request = PageRequest { page_no: 0, page_size: 1, count: true };
        let made = reader.calls();
        let counted = reader.once(&selection, request).await;
        status.feed(feed, |status| status.calls += reader.calls() - made);
        let counted = counted?.total_count;
        sum = sum.zip(counted).map(|(sum, counted)| sum + counted);
    }
    Ok(sum)
}

fn advice(feed: Feed, rows: u64, window: Window) -> String {
    format!(
        "{rows} records entered the time from {} to {} after both passes had read it: backfill it; then raise feeds.{}.late_pass.lag above what the ERP's database clock lies behind its web server's, or have it set",
        window.start,
        window.end,
        feed.name()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_of_an_hour_that_the_late_pass_has_read() {
        let window = |edition: &str, end: &str| {
            let start = "2026-01-01T00:00:00Z";
            let text = format!(
                "[feeds.return_outbounds]\nedition = \"{edition}\"\nstart_at = \"{start}\"\n"
            );
            let loaded = crate::config::from_toml(&text, std::iter::empty()).unwrap();
            let end = crate::config::parse_instant(end).unwrap();
            window(&loaded.settings.return_outbounds, end).map(Window::seconds)
        };
        assert_eq!(window("flagship", "2026-01-02T00:00:00.5Z"), Some(3600));
        assert_eq!(window("flagship", "2026-01-01T00:10:00Z"), Some(600), "not before its start");
        assert_eq!(window("flagship", "2026-01-01T00:00:00Z"), None);
        assert_eq!(window("enterprise", "2026-01-02T00:00:00Z"), None);
    }
}
