//! When the windows on the list of unproven ones are read again.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::schema::UnprovenWindow;

use super::window::{Window, window_of};

/// The longest pause between two reads of a listed window, in poll intervals: an hour at the
/// default of a minute.
const LONGEST: u32 = 60;

/// How often each listed window was read again without success, and when its turn comes. In memory
/// only: a new owner begins with the shortest pause.
#[derive(Debug)]
pub(super) struct Retries {
    poll_interval: Duration,
    windows: HashMap<Window, (u32, Instant)>,
}

impl Retries {
    pub(super) fn new(poll_interval: Duration) -> Self {
        Self { poll_interval, windows: HashMap::new() }
    }

    /// The listed window whose turn it is.
    pub(super) fn due(&mut self, listed: &[UnprovenWindow], now: Instant) -> Option<Window> {
        self.windows.retain(|window, _| listed.iter().any(|listed| window_of(listed) == *window));
        for window in listed.iter().map(window_of) {
            self.windows.entry(window).or_insert((0, now + self.poll_interval));
        }
        let (window, (_, due)) = self.windows.iter().min_by_key(|(_, (_, due))| *due)?;
        (*due <= now).then_some(*window)
    }

    /// It was read again and is not proven yet: the pause doubles.
    pub(super) fn failed(&mut self, window: Window) {
        let tries = self.windows.get(&window).map_or(0, |(tries, _)| *tries).saturating_add(1);
        let pause = self.poll_interval * 2_u32.saturating_pow(tries).min(LONGEST);
        self.windows.insert(window, (tries, Instant::now() + pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[tokio::test(start_paused = true)]
    async fn a_listed_window_is_read_again_after_longer_and_longer_pauses() {
        let listed = UnprovenWindow {
            from: Timestamp(1_000),
            to: Timestamp(2_000),
            since: Timestamp(0),
            snapshot: false,
            records_since: None,
        };
        let window = window_of(&listed);
        let list = [listed];
        let mut retries = Retries::new(Duration::from_secs(60));
        assert_eq!(retries.due(&list, Instant::now()), None);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let began = Instant::now();
            while retries.due(&list, Instant::now()).is_none() {
                tokio::time::advance(Duration::from_secs(60)).await;
            }
            pauses.push(began.elapsed().as_secs() / 60);
            retries.failed(window);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(retries.due(&[], Instant::now()), None);
        assert!(retries.windows.is_empty());
    }
}
