//! How much one batch on the wire may hold: less once a topic has refused one, more again by and
//! by, since a topic can be altered. Pure.

/// By so much a step changes it.
const STEP: usize = 4;
/// Commits after which a larger one is tried first. A trial that is refused costs an aborted
/// transaction and a new producer or two, so that each is followed by twice as many commits as the
/// one before.
const PATIENCE: u32 = 10;
const MOST_PATIENCE: u32 = 10_000;

/// Bytes of a batch, before compression.
#[derive(Debug)]
pub(super) struct BatchSize {
    usual: usize,
    now: usize,
    /// Since it changed last.
    commits: u32,
    patience: u32,
    /// Its last change made it larger, and has not proven itself.
    trial: bool,
}

impl BatchSize {
    pub(super) fn new(usual: usize) -> Self {
        Self { usual, now: usual, commits: 0, patience: PATIENCE, trial: false }
    }

    pub(super) fn bytes(&self) -> usize {
        self.now
    }

    /// A topic refused a batch.
    pub(super) fn refused(&mut self) {
        if std::mem::take(&mut self.trial) {
            self.patience = (self.patience * 2).min(MOST_PATIENCE);
        }
        self.now = (self.now / STEP).max(1);
        self.commits = 0;
    }

    /// A transaction was committed; `true` where the next one is made of larger batches.
    pub(super) fn committed(&mut self) -> bool {
        if self.now == self.usual && !self.trial {
            return false;
        }
        self.commits += 1;
        if self.commits < self.patience {
            return false;
        }
        self.commits = 0;
        if self.now == self.usual {
            *self = Self::new(self.usual);
            return false;
        }
        self.now = self.now.saturating_mul(STEP).min(self.usual);
        self.trial = true;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Commits until it grows.
    fn until_growth(size: &mut BatchSize) -> u32 {
        (1..=MOST_PATIENCE * 2).find(|_| size.committed()).unwrap()
    }

    #[test]
    fn what_became_smaller_grows_again_to_what_is_usual() {
        let mut size = BatchSize::new(1_000_000);
        assert!((0..1000).all(|_| !size.committed()), "it is never larger than usual");
        for smaller in [250_000, 62_500] {
            size.refused();
            assert_eq!(size.bytes(), smaller);
        }
        for larger in [250_000, 1_000_000] {
            assert_eq!((until_growth(&mut size), size.bytes()), (PATIENCE, larger));
        }
        assert!((0..1000).all(|_| !size.committed()));
        for _ in 0..20 {
            size.refused();
        }
        assert_eq!(size.bytes(), 1);
        while size.bytes() < 1_000_000 {
            until_growth(&mut size);
        }
        assert_eq!(size.bytes(), 1_000_000);
    }

    #[test]
    fn a_trial_that_is_refused_is_made_half_as_often_until_one_is_not() {
        let mut size = BatchSize::new(100);
        size.refused();
        for patience in [PATIENCE, PATIENCE * 2, PATIENCE * 4] {
            assert_eq!((until_growth(&mut size), size.bytes()), (patience, 100));
            size.refused();
        }
        assert_eq!(until_growth(&mut size), PATIENCE * 8);
        assert!((0..PATIENCE * 8).all(|_| !size.committed()));
        size.refused();
        assert_eq!(until_growth(&mut size), PATIENCE, "what held for as long is forgotten");
    }
}
