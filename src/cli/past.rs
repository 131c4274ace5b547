//! Progress of long work: a bar on a terminal, lines elsewhere. On standard error, which is not for
//! data.

use std::{
    io::{self, IsTerminal},
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::{board::Board, config::duration_text, telemetry};

use super::output;

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// One piece of work from 0 to 100 percent.
#[derive(Debug)]
pub(super) struct Bar {
    name: &'static str,
    bar: Option<ProgressBar>,
    told: Mutex<Option<Instant>>,
}

impl Bar {
    /// Begins; nothing is drawn before the first [`Bar::at`].
    pub(super) fn new(name: &'static str) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(100);
            bar.set_style(style());
            bar.set_prefix(name);
            bar
        });
        Self { name, bar, told: Mutex::default() }
    }

    /// So far, and what to say about it.
    pub(super) fn at(&self, percent: i64, says: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(percent.unsigned_abs());
            bar.set_message(says.to_owned());
            return;
        }
        let mut told = self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= LINE_EVERY) {
            *told = Some(Instant::now());
            output::complain(&format!("{}: {percent} %, {says}", self.name));
        }
    }

    /// A line above the bar.
    pub(super) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::complain(line)),
            None => output::complain(line),
        }
    }

    /// The last word.
    pub(super) fn end(&self, says: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        output::complain(&format!("{}: {says}", self.name));
    }
}

/// Name, bar, percent, words.
pub(super) fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix} {bar:30} {pos:>3} % {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// How often the bar of a running instance is drawn anew.
const DRAW_EVERY: Duration = Duration::from_millis(500);

/// Draws a bar while a feed reads the past, as long as this runs; for a person who watches `run` on
/// a terminal.
pub(super) async fn watch(board: Board) {
    loop {
        tokio::time::sleep(DRAW_EVERY).await;
        let feeds = board.sections().remove("feeds").unwrap_or_default();
        let mut shown = telemetry::bar();
        match reading_the_past(&feeds) {
            Some((name, percent, says)) => {
                let bar = shown.get_or_insert_with(|| {
                    let bar = ProgressBar::new(100);
                    bar.set_style(style());
                    bar
                });
                bar.set_prefix(name);
                bar.set_position(percent);
                bar.set_message(says);
            }
            None => {
                if let Some(bar) = shown.take() {
                    bar.finish_and_clear();
                }
            }
        }
    }
}

/// The first feed that reads the past: its name, how far it is, rate and estimated end.
fn reading_the_past(feeds: &Value) -> Option<(String, u64, String)> {
    feeds.as_object()?.iter().find_map(|(name, feed)| {
        let (word, progress) = [("first read", &feed["progress"]), ("backfill", &feed["backfill"])]
            .into_iter()
            .find(|(_, progress)| progress.is_object())?;
        let remaining = progress["remaining_seconds"].as_u64().map_or_else(
            || "end not known yet".to_owned(),
            |seconds| format!("about {} left", duration_text(Duration::from_secs(seconds))),
        );
        let says = format!(
            "{word}, at {}, {} records a second, {remaining}",
            progress["position"].as_str().unwrap_or_default(),
            progress["rows_per_second"].as_f64().unwrap_or_default()
        );
        let percent = progress["percent"].as_f64().unwrap_or_default().clamp(0.0, 100.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and 100"
        )]
        let percent = percent as u64;
        Some((name.clone(), percent, says))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_read_shows_rate_and_end_and_a_live_feed_nothing() {
        let progress = serde_json::json!({"position": "2026-01-02T00:00:00.000Z", "percent": 41.9, "rows_per_second": 250.5, "remaining_seconds": 90});
        let feeds = serde_json::json!({"purchase_returns": {"progress": null, "backfill": null}, "return_outbounds": {"progress": progress, "backfill": null}});
        let (name, percent, says) = reading_the_past(&feeds).unwrap();
        assert_eq!((name.as_str(), percent), ("return_outbounds", 41));
        assert_eq!(
            says,
            "first read, at 2026-01-02T00:00:00.000Z, 250.5 records a second, about 90s left"
        );
        assert_eq!(
            reading_the_past(
                &serde_json::json!({"purchase_returns": {"progress": null, "backfill": null}})
            ),
            None
        );
        assert_eq!(reading_the_past(&Value::Null), None);
    }
}
