//! When the ERP is down or misconfigured nothing is given up: consumption pauses, probes go out,
//! the pipeline resumes. Pure.

use std::{collections::HashSet, time::Duration};

use crate::{clock::Moment, erp::Refusal};

use super::{engine::SlotId, retry::Pauses};

/// Calls in a row without a usable answer after which the circuit opens.
const FAILURES: u32 = 5;

/// Unlisted refusals in a row, of different commands, after which they are taken for the account's
/// and not for the commands' own.
const REFUSALS: usize = 20;

/// Whether calls may leave.
#[derive(Debug)]
pub(super) enum Circuit {
    /// As many as the configuration allows.
    Closed { failures: u32 },
    /// None but probes: a signed read, or a lookup that is due.
    Open { probe_at: Moment, reason: String },
    /// Reads work again: one command at a time until one succeeds.
    Half { reason: String, trying: bool },
}

/// The breaker of one account's `createOrder`.
#[derive(Debug)]
pub(super) struct Breaker {
    circuit: Circuit,
    pauses: Pauses,
    /// Grows whenever the circuit opens: an answer counts as an attempt only if this has not
    /// changed since its call left.
    epoch: u64,
    /// Commands whose failure was counted since the last usable answer: each is counted once, since
    /// a command's own content can be what the ERP fails at.
    failed: HashSet<SlotId>,
    /// Commands that were refused with an unlisted text since the last usable answer.
    refused: HashSet<SlotId>,
    /// Opened by these refusals, and no usable answer since.
    refusing: bool,
    /// How often that happened.
    refusals: u64,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            circuit: Circuit::Closed { failures: 0 },
            pauses: Pauses::from(Duration::from_millis(500)),
            epoch: 0,
            failed: HashSet::new(),
            refused: HashSet::new(),
            refusing: false,
            refusals: 0,
        }
    }
}

impl Breaker {
    /// The circuit, for the status.
    #[must_use]
    pub(super) fn circuit(&self) -> &Circuit {
        &self.circuit
    }

    /// Whether it is closed.
    #[must_use]
    pub(super) fn closed(&self) -> bool {
        matches!(self.circuit, Circuit::Closed { .. })
    }

    /// Whether nothing but probes may leave.
    #[must_use]
    pub(super) fn is_open(&self) -> bool {
        matches!(self.circuit, Circuit::Open { .. })
    }

    /// Of the current closed stretch; `None` while not closed.
    #[must_use]
    pub(super) fn epoch(&self) -> Option<u64> {
        self.closed().then_some(self.epoch)
    }

    /// Grows whenever the circuit opens.
    #[must_use]
    pub(super) fn stretch(&self) -> u64 {
        self.epoch
    }

    /// How many more calls may leave now, of `most` with `flying` on the wire already.
    #[must_use]
    pub(super) fn room(&self, flying: usize, most: usize) -> usize {
        match &self.circuit {
            Circuit::Closed { .. } => most.saturating_sub(flying),
            Circuit::Open { .. } => 0,
            Circuit::Half { trying, .. } => usize::from(!trying && flying == 0),
        }
    }

    /// A call left.
    pub(super) fn left(&mut self) {
        if let Circuit::Half { trying, .. } = &mut self.circuit {
            *trying = true;
        }
    }

    /// The ERP gave a usable answer to a `createOrder`: created or rejected.
    pub(super) fn success(&mut self) {
        self.pauses.reset();
        self.circuit = Circuit::Closed { failures: 0 };
        self.failed.clear();
        self.refused.clear();
        self.refusing = false;
    }

    /// As [`Breaker::failure`], of an answer that the command itself may be the reason of: while
    /// the circuit is closed each command counts once.
    pub(super) fn failure_of(&mut self, command: SlotId, reason: &str, now: Moment) {
        if self.failed.insert(command) || !self.closed() {
            self.failure(reason, now);
        }
    }

    /// The ERP refused a command with an unlisted text. It answered, so this is no failure; but
    /// many commands in a row are not all wrong.
    pub(super) fn refused(&mut self, command: SlotId, refusal: &Refusal, now: Moment) {
        self.refused.insert(command);
        match &self.circuit {
            Circuit::Open { .. } | Circuit::Closed { .. } if self.refused.len() < REFUSALS => {}
            Circuit::Open { .. } => {}
            Circuit::Half { .. } if self.refused.len() < REFUSALS => self.neutral(),
            Circuit::Half { .. } | Circuit::Closed { .. } => {
                if !self.refusing {
                    self.refusing = true;
                    self.refusals += 1;
                }
                self.open(
                    &format!(
                        "the ERP refused {} commands in a row with a text that is not in the table of known answers, the last with {}: {}; put the text into erp.flagship.rejected_texts if it rejects a command for good",
                        self.refused.len(), refusal.code, refusal.message
                    ),
                    now,
                );
            }
        }
    }

    /// Whether an unlisted refusal counts as its command's own.
    #[must_use]
    pub(super) fn refusals_count(&self) -> bool {
        !self.refusing
    }

    /// Grows whenever unlisted refusals opened the circuit.
    #[must_use]
    pub(super) fn refusals(&self) -> u64 {
        self.refusals
    }

    /// A call got no usable answer.
    pub(super) fn failure(&mut self, reason: &str, now: Moment) {
        match &mut self.circuit {
            Circuit::Closed { failures } => {
                *failures += 1;
                if *failures >= FAILURES {
                    self.open(reason, now);
                }
            }
            Circuit::Open { .. } => {}
            Circuit::Half { .. } => self.open(reason, now),
        }
    }

    /// Account, signature, clock, address or permission: at once.
    pub(super) fn misconfigured(&mut self, reason: &str, now: Moment) {
        if !matches!(self.circuit, Circuit::Open { .. }) {
            self.open(reason, now);
        }
    }

    /// A call was not executed for a reason of no meaning here (throttled, withheld).
    pub(super) fn neutral(&mut self) {
        if let Circuit::Half { trying, .. } = &mut self.circuit {
            *trying = false;
        }
    }

    /// Whether a probe is due.
    #[must_use]
    pub(super) fn probe_at(&self) -> Option<Moment> {
        match &self.circuit {
            Circuit::Open { probe_at, .. } => Some(*probe_at),
            Circuit::Closed { .. } | Circuit::Half { .. } => None,
        }
    }

    /// A read was answered, or not.
    pub(super) fn probed(&mut self, answered: Result<(), String>, now: Moment) {
        if let Circuit::Open { probe_at, reason } = &mut self.circuit {
            match answered {
                Ok(()) => {
                    self.circuit = Circuit::Half { reason: std::mem::take(reason), trying: false }
                }
                Err(why) => {
                    *reason = why;
                    *probe_at = now.plus(self.pauses.next_pause());
                }
            }
        }
    }

    fn open(&mut self, reason: &str, now: Moment) {
        self.epoch += 1;
        self.circuit = Circuit::Open {
            probe_at: now.plus(self.pauses.next_pause()),
            reason: reason.to_owned(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_failures_in_a_row_open_and_one_success_closes() {
        let mut breaker = Breaker::default();
        for _ in 0..4 {
            breaker.failure("refused", Moment(0));
        }
        breaker.success();
        let epoch = breaker.epoch();
        for _ in 0..5 {
            assert_eq!(breaker.room(3, 64), 61);
            breaker.failure("refused", Moment(0));
        }
        assert_eq!((breaker.room(0, 64), breaker.epoch()), (0, None));
        assert!(breaker.probe_at().is_some());
        breaker.probed(Err("still refused".into()), Moment(10));
        assert!(!breaker.closed() && breaker.probe_at().is_some());
        breaker.probed(Ok(()), Moment(20));
        assert_eq!(breaker.room(0, 64), 1, "one at a time");
        breaker.left();
        assert_eq!(breaker.room(1, 64), 0);
        breaker.success();
        assert!(breaker.closed() && breaker.epoch() != epoch);
    }

    fn refusal() -> Refusal {
        let message = "系统升级中".to_owned();
        Refusal { code: 100, message, explanation: None, unapproved: false }
    }

    #[test]
    fn a_command_that_upsets_the_database_again_and_again_counts_once() {
        let mut breaker = Breaker::default();
        for _ in 0..20 {
            breaker.failure_of(1, "code 4", Moment(0));
        }
        assert!(breaker.closed());
        breaker.success();
        for command in 1..=4 {
            breaker.failure_of(command, "code 4", Moment(0));
        }
        assert!(breaker.closed(), "each counts anew after a usable answer");
        breaker.failure_of(5, "code 4", Moment(0));
        assert!(!breaker.closed());
        breaker.probed(Ok(()), Moment(0));
        breaker.left();
        breaker.failure_of(5, "code 4", Moment(0));
        assert!(breaker.probe_at().is_some(), "a trial that failed has failed");
    }

    #[test]
    fn refusals_of_twenty_commands_in_a_row_open_the_circuit() {
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            breaker.refused(0, &refusal(), Moment(0));
        }
        for command in 0..19 {
            breaker.refused(command, &refusal(), Moment(0));
        }
        assert!(breaker.closed() && breaker.refusals_count(), "one command refused often is one");
        breaker.success();
        for command in 0..19 {
            breaker.refused(command, &refusal(), Moment(0));
        }
        assert!(breaker.closed(), "in a row");
        let before = breaker.refusals();
        breaker.refused(19, &refusal(), Moment(0));
        let Circuit::Open { reason, .. } = breaker.circuit() else { panic!("open") };
        assert!(
            reason.contains("100: 系统升级中") && reason.contains("rejected_texts"),
            "{reason}"
        );
        assert!(!breaker.refusals_count() && breaker.refusals() == before + 1);
        for _ in 0..3 {
            breaker.probed(Ok(()), Moment(0));
            assert_eq!(breaker.room(0, 64), 1, "one at a time");
            breaker.left();
            breaker.refused(3, &refusal(), Moment(0));
            assert!(breaker.probe_at().is_some(), "and a pause after each");
        }
        assert_eq!(breaker.refusals(), before + 1, "one stretch");
        breaker.probed(Ok(()), Moment(0));
        breaker.success();
        assert!(breaker.closed() && breaker.refusals_count());
    }

    #[test]
    fn a_refusal_after_an_outage_lets_the_next_command_through() {
        let mut breaker = Breaker::default();
        breaker.misconfigured("app auth fail", Moment(0));
        breaker.probed(Ok(()), Moment(0));
        breaker.left();
        for command in 0..19 {
            breaker.left();
            breaker.refused(command, &refusal(), Moment(0));
            assert_eq!(breaker.room(0, 64), 1);
            assert!(breaker.refusals_count(), "it is the command's own");
        }
        breaker.left();
        breaker.refused(19, &refusal(), Moment(0));
        assert!(!breaker.refusals_count() && breaker.room(0, 64) == 0, "so many are the account's");
    }

    #[test]
    fn probes_of_a_long_outage_are_paced() {
        let mut breaker = Breaker::default();
        breaker.misconfigured("app auth fail", Moment(0));
        let mut at = 0;
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let next = breaker.probe_at().unwrap().0;
            pauses.push(next - at);
            at = next;
            breaker.probed(Err("still refused".into()), Moment(at));
        }
        assert!((350..=650).contains(&pauses[0]), "{pauses:?}");
        assert!(pauses.iter().skip(8).all(|pause| (21_000..=39_000).contains(pause)), "{pauses:?}");
    }

    #[test]
    fn a_misconfiguration_opens_at_once_and_a_failing_trial_opens_again() {
        let mut breaker = Breaker::default();
        breaker.misconfigured("app auth fail", Moment(0));
        breaker.probed(Ok(()), Moment(0));
        breaker.left();
        breaker.neutral();
        assert_eq!(breaker.room(0, 64), 1);
        breaker.left();
        breaker.failure("refused", Moment(0));
        assert_eq!(breaker.room(0, 64), 0);
    }
}
