//! Places where a test kills the process, and faults a test provokes inside it. Nothing of it is in
//! a release build.
//!
//! `WDT_CRASH_AT=<name>` ends the process by SIGKILL at the first passage of that point, `<name>:3`
//! at the third. `WDT_FAULT=<name>` makes the process do something wrong, so that a test can show
//! that somebody notices. The points are an enumeration, so that the crash table can prove that it
//! has been through all of them.

macro_rules! named {
    ($(#[$about:meta])* $vis:vis $kind:ident { $($(#[$doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        $vis enum $kind { $($(#[$doc])* $variant,)* }

        impl $kind {
            /// Every one of them.
            #[allow(dead_code, reason = "of one of the two only tests want the list")]
            $vis const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// As the environment names it.
            #[must_use]
            $vis fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

named! {
    /// A place in the life of a command, a change or a transaction; each is passed right after what
    /// it says has happened, or, where it ends in -ing, right before.
    pub Point {
        /// The group assigned partitions; the route does not know yet.
        GroupAssigned = "group.assigned",
        /// Partitions are about to be taken away; the route drains.
        GroupRevoking = "group.revoking",
        /// The route has drained; ownership is about to end.
        GroupDrained = "group.drained",

        /// A take-over knows the stable offsets.
        TakeOverOffsets = "takeover.offsets",
        /// Its barriers are committed.
        TakeOverBarrier = "takeover.barrier",
        /// It has read an entry.
        TakeOverRead = "takeover.read",
        /// It is over; nothing has been delivered yet.
        TakeOverDone = "takeover.done",

        TxnInitialising = "txn.initialising",
        TxnInitialised = "txn.initialised",
        TxnBeginning = "txn.beginning",
        TxnBegun = "txn.begun",
        /// One record is on its way.
        TxnSent = "txn.sent",
        /// All records are delivered.
        TxnDelivered = "txn.delivered",
        TxnOffsetsSending = "txn.offsets-sending",
        TxnOffsetsSent = "txn.offsets-sent",
        TxnCommitting = "txn.committing",
        TxnCommitted = "txn.committed",
        TxnAborting = "txn.aborting",
        TxnAborted = "txn.aborted",

        CommandDelivered = "command.delivered",
        CommandRead = "command.read",
        CommandAccepted = "command.accepted",
        CommandJudged = "command.judged",
        CommandPermitted = "command.permitted",
        /// The intent stands in a transaction that is being put together.
        IntentDrafted = "intent.drafted",
        IntentCommitted = "intent.committed",
        CallLeaving = "call.leaving",
        CallAnswered = "call.answered",
        /// The loop has learnt the answer and decided.
        AnswerJudged = "answer.judged",
        LookUpAsking = "lookup.asking",
        /// The listed statuses were asked for, the second query was not.
        LookUpHalf = "lookup.half",
        LookUpAnswered = "lookup.answered",
        FindingJudged = "finding.judged",
        /// The outcome stands in a transaction that is being put together.
        OutcomeDrafted = "outcome.drafted",
        OutcomeCommitted = "outcome.committed",
        /// The local cache knows the outcome as well.
        OutcomeCached = "outcome.cached",

        WindowChosen = "window.chosen",
        WindowFetched = "window.fetched",
        WindowDiffed = "window.diffed",
        ChangesPublished = "changes.published",
        StateCached = "state.cached",
    }
}

named! {
    /// Something done wrong on purpose.
    pub(crate) Fault {
        /// A command in doubt is sent again instead of being asked about: what every connector
        /// without look-ups does.
        Resend = "resend",
        /// The consumer leaves its group behind its owner's back, once.
        LeaveGroup = "leave-group",
        /// The consumer stops fetching behind its owner's back, once.
        StopFetching = "stop-fetching",
        /// The command route panics at an answer, and says everything it has at hand.
        Panic = "panic",
    }
}

/// Whether this build has any of it.
pub const COMPILED: bool = cfg!(debug_assertions);

/// Kills the process if the environment names this point.
#[cfg(debug_assertions)]
pub(crate) fn point(at: Point) {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    };

    static WANTED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static PASSED: AtomicU32 = AtomicU32::new(0);
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("WDT_CRASH_AT").ok()?;
        Some(match text.split_once(':') {
            Some((name, count)) => (name.to_owned(), count.parse().unwrap_or(1)),
            None => (text, 1),
        })
    });
    if let Some((wanted, count)) = wanted
        && wanted == at.name()
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *count
    {
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // Nothing may happen between the signal and its arrival.
        loop {
            std::thread::park();
        }
    }
}

/// Nothing: crash points are compiled out of release builds.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn point(_at: Point) {}

/// Whether the environment asks for this fault.
#[cfg(debug_assertions)]
#[must_use]
pub(crate) fn fault(which: Fault) -> bool {
    static WANTED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    WANTED.get_or_init(|| std::env::var("WDT_FAULT").ok()).as_deref() == Some(which.name())
}

/// Never: faults are compiled out of release builds.
#[cfg(not(debug_assertions))]
#[inline(always)]
#[must_use]
pub(crate) fn fault(_which: Fault) -> bool {
    false
}

/// Panics with everything given, if the environment asks for it: what a defect would say in the
/// worst case.
#[cfg(debug_assertions)]
#[expect(clippy::panic, reason = "a test asks for it")]
pub(crate) fn panic_with(at_hand: &dyn std::fmt::Debug) {
    if fault(Fault::Panic) {
        panic!("on purpose, with {at_hand:?} at hand");
    }
}

/// Nothing: faults are compiled out of release builds.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn panic_with(_at_hand: &dyn std::fmt::Debug) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_points_share_a_name() {
        let names: std::collections::BTreeSet<&str> = (Point::ALL.iter().map(|point| point.name()))
            .chain(Fault::ALL.iter().map(|fault| fault.name()))
            .collect();
        assert_eq!(names.len(), Point::ALL.len() + Fault::ALL.len());
    }
}
