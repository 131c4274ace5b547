//! How the ERP counts calls: per call over any sixty seconds, and how many run at once. Pure: the
//! time is an argument.

use std::collections::VecDeque;

const MINUTE_MS: u64 = 60_000;

/// Calls of one appkey and call within the last sixty seconds.
///
/// Only executed calls count: a refused one has no effect, not even on the count.
#[derive(Clone, Debug, Default)]
pub(crate) struct MinuteQuota {
    limit: Option<u32>,
    taken_ms: VecDeque<u64>,
}

impl MinuteQuota {
    /// `None` admits everything.
    #[must_use]
    pub(crate) fn new(limit: Option<u32>) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Whether one more call is executed at `now_ms` (any clock that never goes back). The 61st
    /// within sixty seconds is not.
    pub(crate) fn admit(&mut self, now_ms: u64) -> bool {
        let Some(limit) = self.limit else { return true };
        while self.taken_ms.front().is_some_and(|taken| now_ms.saturating_sub(*taken) >= MINUTE_MS)
        {
            self.taken_ms.pop_front();
        }
        let admitted = self.taken_ms.len() < limit as usize;
        if admitted {
            self.taken_ms.push_back(now_ms);
        }
        admitted
    }

    /// From now on another limit; what was already counted stays counted.
    pub(crate) fn set_limit(&mut self, limit: Option<u32>) {
        self.limit = limit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixty_first_call_of_any_sixty_seconds_is_refused() {
        let mut quota = MinuteQuota::new(Some(60));
        for call in 0..60 {
            assert!(quota.admit(30_000 + call * 500), "call {call}");
        }
        // A calendar minute has turned; the window of sixty seconds has not.
        assert!(!quota.admit(60_001));
        assert!(!quota.admit(89_999));
        assert!(quota.admit(90_000), "the first call has left the window");
        assert!(!quota.admit(90_001), "a refused call took nothing, an admitted one did");
        assert!(quota.admit(90_500));
    }

    #[test]
    fn without_a_limit_everything_passes() {
        let mut quota = MinuteQuota::new(None);
        assert!((0..1000).all(|_| quota.admit(0)));
    }
}
