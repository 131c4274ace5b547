//! When the quota is short a feed polls less often: fewer, longer windows cost fewer calls for the
//! same records, and leave the rest to whoever waits behind it. Pure.

use std::time::Duration;

/// A feed polls no less often than this for want of quota, unless it is told to.
const LONGEST: Duration = Duration::from_secs(900);

/// How often a feed polls, given what the quota lets it wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    configured: Duration,
    now: Duration,
}

/// What a read changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turned {
    Short,
    Relaxed,
    Nothing,
}

impl Stretch {
    /// Not stretched.
    #[must_use]
    pub(crate) fn new(configured: Duration) -> Self {
        Self { configured, now: configured }
    }

    /// The interval in force.
    #[must_use]
    pub(crate) fn interval(&self) -> Duration {
        self.now
    }

    /// Whether it is longer than configured.
    #[must_use]
    pub(crate) fn is_stretched(&self) -> bool {
        self.now > self.configured
    }

    /// After a read for whose permits the feed waited so long in all: it may stand in line for half
    /// of the time.
    pub(crate) fn after(&mut self, waited: Duration) -> Turned {
        let before = self.is_stretched();
        self.now = (waited * 2).min(LONGEST).max(self.configured);
        match (before, self.is_stretched()) {
            (false, true) => Turned::Short,
            (true, false) => Turned::Relaxed,
            (true, true) | (false, false) => Turned::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feed_stands_in_line_for_half_of_its_time_at_most() {
        let seconds = Duration::from_secs;
        let mut stretch = Stretch::new(seconds(60));
        assert_eq!(stretch.after(seconds(25)), Turned::Nothing);
        assert_eq!(stretch.interval(), seconds(60));
        assert_eq!(stretch.after(seconds(96)), Turned::Short);
        assert_eq!(stretch.interval(), seconds(192));
        assert_eq!(stretch.after(seconds(3600)), Turned::Nothing);
        assert_eq!(stretch.interval(), LONGEST);
        assert_eq!(stretch.after(seconds(1)), Turned::Relaxed);
        assert!(!stretch.is_stretched());
        let mut rare = Stretch::new(seconds(3600));
        assert_eq!(rare.after(seconds(3600)), Turned::Nothing, "never more often than configured");
        assert_eq!(rare.interval(), seconds(3600));
    }
}
