//! Failpoints: places where a test kills the process, and faults that a test injects. Release
//! builds have none of it.
//!
//! `FAILPOINTS=<point>=kill` ends the process by SIGKILL at the first passage of that point,
//! `<point>=2*off->kill` at the third; `<point>=pause` stops it there by SIGSTOP. `FAILPOINTS=<fault>=inject` makes the process do something
//! wrong, so that a test can show that it is noticed. The syntax is that of the `fail` crate.
//! The points are an enumeration, so that the crash table can prove that it covers all of them.

macro_rules! named {
    ($(#[$about:meta])* $vis:vis $kind:ident { $($(#[$doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        $vis enum $kind { $($(#[$doc])* $variant,)* }

        impl $kind {
            /// Every one of them.
            #[cfg_attr(not(debug_assertions), allow(dead_code, reason = "no failpoints"))]
            $vis const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// As the environment names it.
            #[must_use]
            #[cfg_attr(not(debug_assertions), allow(dead_code, reason = "no failpoints"))]
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
        /// The group assigned partitions; the pipeline does not know yet.
        GroupAssigned = "group.assigned",
        /// Partitions are about to be taken away; the pipeline drains.
        GroupRevoking = "group.revoking",
        /// The pipeline has drained; ownership is about to end.
        GroupDrained = "group.drained",

        /// A takeover knows the stable offsets.
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
        /// The copy for its key's partition stands in a transaction that is being put together.
        CommandForwarded = "command.forwarded",
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

        /// `topics repartition` has found no instance and nothing unsettled.
        RepartitionLooked = "repartition.looked",
        /// Every partition of the journal says that it is being migrated, and no instance runs.
        RepartitionClosed = "repartition.closed",
        /// The journal is read.
        RepartitionRead = "repartition.read",
        /// Every entry stands where it belongs.
        RepartitionWritten = "repartition.written",
        /// No entry stands anywhere else.
        RepartitionRemoved = "repartition.removed",
        /// Every partition says the new count; the commands topic does not have it yet.
        RepartitionCounted = "repartition.counted",
    }
}

named! {
    /// Something done wrong on purpose.
    pub(crate) Fault {
        /// A command in doubt is sent again instead of being asked about: what every connector
        /// without lookups does.
        Resend = "resend",
        /// The consumer leaves its group behind its owner's back, once.
        LeaveGroup = "leave-group",
        /// The consumer stops fetching behind its owner's back, once.
        StopFetching = "stop-fetching",
        /// The first reader of a takeover stops fetching after one entry.
        RestoreStandsStill = "restore-stands-still",
        /// The first reader of a topic stops fetching after one record.
        ReadingStandsStill = "reading-stands-still",
        /// The consumer's thread panics, once.
        PollPanic = "poll-panic",
        /// The consumer's thread panics whenever it has something to read.
        PollPanicAlways = "poll-panic-always",
        /// The command pipeline panics at an answer, and says everything it has at hand.
        Panic = "panic",
        /// The reader of operators' decisions panics at a record, once.
        ControlPanic = "control-panic",
        /// What serves the quota's lines panics, once.
        QuotaPanic = "quota-panic",
        /// What waits for a command's permit panics, once.
        PermitPanic = "permit-panic",
        /// The listener panics at a connection, once.
        ListenerPanic = "listener-panic",
        /// What reports the quota panics, once.
        ReportPanic = "report-panic",
        /// The producer's thread panics within a transaction, once.
        TransactionPanic = "transaction-panic",
        /// The producer's thread panics within every transaction.
        TransactionPanicAlways = "transaction-panic-always",
        /// The consumer's thread hangs once it has something to read.
        PollHang = "poll-hang",
        /// The same, but of the first such thread alone.
        PollHangOnce = "poll-hang-once",
        /// The consumer's thread panics, and hangs in the unwinding.
        UnwindHang = "unwind-hang",
        /// The producer's thread hangs within a transaction.
        TransactionHang = "transaction-hang",
        /// A restore hangs on its thread.
        RestoreHang = "restore-hang",
        /// The first restore of the process does.
        RestoreHangOnce = "restore-hang-once",
        /// Every worker thread of the runtime hangs once the pipelines are ready.
        RuntimeHang = "runtime-hang",
    }
}

/// Whether this build has failpoints.
pub const COMPILED: bool = cfg!(debug_assertions);

/// What `FAILPOINTS` asks for.
#[cfg(debug_assertions)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// SIGKILL at this passage of the point, counted from 1.
    Kill(Point, u32),
    /// SIGSTOP at every passage of the point, until somebody sends SIGCONT.
    Pause(Point),
    Inject(Fault),
}

/// The action of this process; `None` without the variable.
#[cfg(debug_assertions)]
#[expect(clippy::panic, reason = "a test that injects nothing would pass for the wrong reason")]
fn action() -> Option<Action> {
    static ACTION: std::sync::OnceLock<Option<Action>> = std::sync::OnceLock::new();
    *ACTION.get_or_init(|| {
        let text = std::env::var("FAILPOINTS").ok()?;
        let Some(action) = parse(&text) else { panic!("FAILPOINTS={text} names no failpoint") };
        Some(action)
    })
}

#[cfg(debug_assertions)]
fn parse(text: &str) -> Option<Action> {
    let (name, action) = text.split_once('=')?;
    if action == "inject" {
        return Some(Action::Inject(*Fault::ALL.iter().find(|fault| fault.name() == name)?));
    }
    let point = *Point::ALL.iter().find(|point| point.name() == name)?;
    if action == "pause" {
        return Some(Action::Pause(point));
    }
    let passed = match action.split_once("*off->") {
        Some((passed, "kill")) => passed.parse().ok()?,
        None if action == "kill" => 0,
        Some(_) | None => return None,
    };
    Some(Action::Kill(point, passed + 1))
}

/// What threads have passed, by their names.
#[cfg(test)]
static TRAIL: std::sync::Mutex<Vec<(String, Point)>> = std::sync::Mutex::new(Vec::new());

/// The points that the threads of this name have passed so far.
#[cfg(test)]
pub(crate) fn trail(thread: &str) -> Vec<Point> {
    let trail = TRAIL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    trail.iter().filter(|(name, _)| name == thread).map(|(_, point)| *point).collect()
}

/// Kills or stops the process if `FAILPOINTS` names this point.
#[cfg(debug_assertions)]
pub(crate) fn point(at: Point) {
    use std::sync::atomic::{AtomicU32, Ordering};

    #[cfg(test)]
    if let Some(name) = std::thread::current().name() {
        let mut trail = TRAIL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        trail.push((name.to_owned(), at));
    }
    static PASSED: AtomicU32 = AtomicU32::new(0);
    if action() == Some(Action::Pause(at)) {
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
    }
    if let Some(Action::Kill(wanted, passage)) = action()
        && wanted == at
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == passage
    {
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // Nothing may happen between the signal and its arrival.
        loop {
            std::thread::park();
        }
    }
}

/// Nothing: failpoints are compiled out of release builds.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn point(_at: Point) {}

/// Whether `FAILPOINTS` asks for this fault.
#[cfg(debug_assertions)]
#[must_use]
pub(crate) fn fault(which: Fault) -> bool {
    action() == Some(Action::Inject(which))
}

/// Never: failpoints are compiled out of release builds.
#[cfg(not(debug_assertions))]
#[inline(always)]
#[must_use]
pub(crate) fn fault(_which: Fault) -> bool {
    false
}

/// As [`fault`], the first time: a process has one fault.
#[must_use]
pub(crate) fn once(which: Fault) -> bool {
    static STRUCK: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    fault(which) && !STRUCK.swap(true, std::sync::atomic::Ordering::AcqRel)
}

/// Panics with everything given, if `FAILPOINTS` asks for this fault: what a defect would say in the
/// worst case.
#[cfg(debug_assertions)]
#[expect(clippy::panic, reason = "a test asks for it")]
pub(crate) fn panic_if(which: Fault, at_hand: &dyn std::fmt::Debug) {
    if fault(which) {
        panic!("on purpose, with {at_hand:?} at hand");
    }
}

/// Nothing: failpoints are compiled out of release builds.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn panic_if(_which: Fault, _at_hand: &dyn std::fmt::Debug) {}

/// As [`panic_if`], the first time.
#[cfg(debug_assertions)]
pub(crate) fn panic_once_if(which: Fault) {
    if once(which) {
        panic_if(which, &());
    }
}

/// Nothing: failpoints are compiled out of release builds.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn panic_once_if(_which: Fault) {}

/// Blocks this thread for good, if `FAILPOINTS` asks for this fault.
#[cfg(debug_assertions)]
pub(crate) fn hang_if(which: Fault) {
    if fault(which) {
        tracing::info!("injected fault: thread hangs");
        loop {
            std::thread::park();
        }
    }
}

/// Nothing: failpoints are compiled out of release builds.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn hang_if(_which: Fault) {}

/// The same, the first time only.
pub(crate) fn hang_once_if(which: Fault) {
    if once(which) {
        hang_if(which);
    }
}

/// Panics if `FAILPOINTS` asks for this fault, and never gets to the end of the unwinding: as when
/// a client that is dropped waits for its broker.
#[cfg(debug_assertions)]
pub(crate) fn hang_unwinding_if(which: Fault) {
    struct Hangs(Fault);

    impl Drop for Hangs {
        fn drop(&mut self) {
            hang_if(self.0);
        }
    }

    if fault(which) {
        let _hangs = Hangs(which);
        panic_if(which, &());
    }
}

/// Nothing: failpoints are compiled out of release builds.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn hang_unwinding_if(_which: Fault) {}

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

    #[test]
    fn failpoints_are_read_or_refused() {
        assert_eq!(parse("txn.begun=kill"), Some(Action::Kill(Point::TxnBegun, 1)));
        assert_eq!(parse("txn.begun=2*off->kill"), Some(Action::Kill(Point::TxnBegun, 3)));
        assert_eq!(parse("txn.begun=pause"), Some(Action::Pause(Point::TxnBegun)));
        assert_eq!(parse("resend=inject"), Some(Action::Inject(Fault::Resend)));
        for text in [
            "txn.begun",
            "txn.begun=inject",
            "resend=kill",
            "txn.gone=kill",
            "=kill",
            "txn.begun=off->kill",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
