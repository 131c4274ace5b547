//! The pauses between tries. The only module that names the `backoff` crate (unmaintained,
//! RUSTSEC-2025-0012), and only for its arithmetic.

use std::time::Duration;

use backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff};

/// Growing pauses with jitter, without an end: giving up is decided elsewhere.
#[derive(Debug)]
pub(super) struct Pauses(ExponentialBackoff);

/// Longest pause.
const MOST: Duration = Duration::from_secs(30);

impl Pauses {
    /// From `first`, doubling, up to half a minute.
    #[must_use]
    pub(super) fn from(first: Duration) -> Self {
        Self(
            ExponentialBackoffBuilder::new()
                .with_initial_interval(first)
                .with_multiplier(2.0)
                .with_randomization_factor(0.3)
                .with_max_interval(MOST)
                .with_max_elapsed_time(None)
                .build(),
        )
    }

    /// The next pause.
    pub(super) fn next_pause(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(MOST)
    }

    /// Begins again at the first pause.
    pub(super) fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_a_minute_and_never_end() {
        let mut pauses = Pauses::from(Duration::from_millis(100));
        let all: Vec<Duration> = (0..50).map(|_| pauses.next_pause()).collect();
        assert!(all[0] <= Duration::from_millis(130));
        assert!(all[49] >= Duration::from_secs(21) && all[49] <= Duration::from_secs(39));
        pauses.reset();
        assert!(pauses.next_pause() <= Duration::from_millis(130));
    }
}
