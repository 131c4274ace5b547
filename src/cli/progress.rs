//! Progress on standard error, while somebody looks: without a terminal nothing is drawn.

use std::{borrow::Cow, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

const TICK: Duration = Duration::from_millis(120);

/// A bar over `total` items, or a counter where nobody knows how many there are. Drawn only on a
/// terminal.
pub(super) fn bar(total: Option<u64>, what: impl Into<Cow<'static, str>>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{msg} [{bar:30}] {percent}% {pos}/{len}, {per_sec}, {eta} left",
        ),
        None => (ProgressBar::no_length(), "{spinner} {msg} {pos}, {per_sec}, {elapsed}"),
    };
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("=> "));
    bar.set_message(what);
    bar.enable_steady_tick(TICK);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_templates_are_read() {
        for total in [Some(10), None] {
            let bar = bar(total, "sent");
            bar.inc(3);
            assert_eq!((bar.position(), bar.message().as_str()), (3, "sent"));
            bar.finish_and_clear();
        }
    }
}
