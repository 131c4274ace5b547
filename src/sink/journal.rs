//! Hop 3: what the journal remembers of a command decides what may happen to it next. Pure: no IO,
//! `now` is an argument.
//!
//! ```text
//!            judge                 intent committed            answered
//! accepted ─────────▶ Intend ──────────────────────▶ Call ───────────────▶ Settle
//!     │                  ▲                             │ unknown
//!     │ open intent,     │ absent, decided             ▼
//!     └─────────────────▶└──────────────────────────  Ask ───────────────▶ Settle (found, several, suspect, limit)
//! ```

use std::time::Duration;

use crate::{
    clock::{Moment, Timestamp},
    erp::{Answer, NotExecuted, Refusal},
    explanation::Explanation,
    schema::{EntryKind, JournalEntry, Outcome},
};

use super::validate::Accepted;

/// The times that the rules use (`docs/delivery.md#timing-inequalities`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timing {
    pub intent_ttl: Duration,
    pub call_timeout: Duration,
    pub apply_grace: Duration,
    pub lookup_interval: Duration,
    pub lookup_timeout: Duration,
    pub max_attempts: u32,
    /// How long a command whose return is not approved yet is sent again; zero: never.
    pub unapproved_retry_timeout: Duration,
}

/// The pauses between the tries of a command whose return is not approved yet stay within these:
/// each try costs a call.
const UNAPPROVED_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

impl Timing {
    /// From an intent's writing to the last moment its call can still take effect unseen: send-by +
    /// call timeout + settle time.
    #[must_use]
    pub(super) fn bound(&self) -> Duration {
        self.intent_ttl + self.call_timeout + self.apply_grace
    }

    /// The bound of a call of our own: everything is known but what happens after send-by.
    #[must_use]
    pub(super) fn bound_after(&self, send_by: Moment) -> Moment {
        send_by.plus(self.call_timeout).plus(self.apply_grace)
    }

    /// The bound of an intent somebody else wrote: the whole duration from the end of our restore,
    /// since instants of another process are never compared; the longer of the writer's
    /// configuration and ours.
    #[must_use]
    pub(super) fn bound_restored(&self, restored_at: Moment, written_bound: Duration) -> Moment {
        restored_at.plus(self.bound().max(written_bound))
    }

    /// Whether an "absent" that was asked for at this moment decides.
    #[must_use]
    pub(super) fn decides(&self, asked_at: Moment, bound: Moment) -> bool {
        asked_at >= bound.plus(self.lookup_interval)
    }

    /// Between two tries of a command whose return is not approved yet: twenty tries at most,
    /// unless the time is short.
    #[must_use]
    pub(super) fn unapproved_pause(&self) -> Duration {
        let (least, most) = UNAPPROVED_PAUSE;
        (self.unapproved_retry_timeout / 20).clamp(least, most)
    }
}

/// Whether a call may leave on this intent: only a committed one releases a call, and only before
/// its send-by. One that ran out is renewed, not used.
#[must_use]
pub(super) fn released(send_by: Option<Moment>, now: Moment) -> Option<Moment> {
    send_by.filter(|send_by| now < *send_by)
}

/// The last look before the body goes out, asked as late as the client allows.
#[must_use]
pub(super) fn may_send(owned: bool, send_by: Moment, now: Moment) -> bool {
    owned && released(Some(send_by), now).is_some()
}

/// Whether the journal may have forgotten a record's command: what is older than the dedup window
/// less a tenth, and what was sent before the journal was declared lost. Clocks of senders differ:
/// what was sent shortly after that as well.
#[must_use]
pub(super) fn may_be_forgotten(
    stamped: Option<Timestamp>,
    now_wall: Timestamp,
    horizon: Duration,
    lost_at: Option<Timestamp>,
) -> bool {
    let remembered = now_wall.minus(horizon - horizon / 10);
    let lost = lost_at.map(|at| at.plus(LOSS_MARGIN));
    stamped.map_or(lost.is_some(), |at| at < remembered || lost.is_some_and(|lost| at < lost))
}

/// Records this much younger than a declared loss of the journal are looked for before their first
/// call, too.
const LOSS_MARGIN: Duration = Duration::from_secs(600);

/// How a command's life begins, given what the journal knows.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Nothing is known of it: intent, then call.
    Fresh(Life),
    /// Too old for the journal to know it for certain: look before the first call.
    LookFirst(Life),
    /// Somebody wrote an intent and no outcome: ask, never call blindly.
    Resume(Life),
    /// A copy of a command that is in doubt: the lookups are repeated, nothing is ever called.
    Repeat(Life, Box<JournalEntry>),
    /// A copy: its recorded outcome again.
    Duplicate(Box<JournalEntry>),
    /// The same id with other content; the entry stays as it is.
    Conflict,
    /// The deadline passed before any intent.
    Expired,
}

/// What is known when a command is judged.
#[derive(Debug)]
pub(super) struct Known {
    /// The open intent or the outcome recorded for (`return_no`, `command_id`).
    pub entry: Option<JournalEntry>,
    /// When this owner finished restoring the partition.
    pub restored_at: Moment,
    /// The record is older than the dedup window less its margin.
    pub old: bool,
    /// An operator sent the record again.
    pub replayed: bool,
    pub now: Moment,
    /// The earlier of our clock and the ERP's.
    pub now_wall: Timestamp,
}

/// Judges an accepted command that stands at (`partition`, `offset`).
#[must_use]
pub(super) fn judge(
    accepted: &Accepted,
    partition: i32,
    offset: i64,
    known: Known,
    timing: &Timing,
) -> Verdict {
    let Some(entry) = known.entry else {
        if accepted.command.expires_at.is_some_and(|deadline| deadline < known.now_wall) {
            return Verdict::Expired;
        }
        let life = Life::begin(accepted, partition, offset);
        if known.old {
            let doubt = Doubt::new(known.restored_at.plus(timing.bound()));
            return Verdict::LookFirst(Life { doubt: Some(doubt), ..life });
        }
        return Verdict::Fresh(life);
    };
    if entry.fingerprint != accepted.fingerprint {
        return Verdict::Conflict;
    }
    match (entry.kind, entry.outcome) {
        (EntryKind::Intent, _) => {
            let bound = timing.bound_restored(
                known.restored_at,
                Duration::from_millis(u64::try_from(entry.bound_ms).unwrap_or(u64::MAX)),
            );
            Verdict::Resume(Life {
                doubt: Some(Doubt::new(bound)),
                ..Life::of_entry(accepted, &entry)
            })
        }
        (EntryKind::Outcome, Some(Outcome::InDoubt)) => {
            let doubt = Doubt { repeated: true, ..Doubt::new(known.now) };
            Verdict::Repeat(
                Life { doubt: Some(doubt), ..Life::of_entry(accepted, &entry) },
                Box::new(entry),
            )
        }
        // A person found no order and an operator sends the command again: asked about once more,
        // then called. A sender's own copy gets the decision as its answer.
        (EntryKind::Outcome, Some(Outcome::Rejected)) if entry.resolved && known.replayed => {
            let doubt = Doubt { decided: true, ..Doubt::new(known.now.plus(timing.bound())) };
            let life = Life {
                counted: 0,
                dismissed: entry.candidates.clone(),
                ..Life::of_entry(accepted, &entry)
            };
            Verdict::Resume(Life { doubt: Some(doubt), ..life })
        }
        (EntryKind::Outcome | EntryKind::Barrier | EntryKind::Proof, _) => {
            Verdict::Duplicate(Box::new(entry))
        }
    }
}

/// One command between its acceptance and its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Life {
    pub marker: String,
    pub fingerprint: [u8; 32],
    /// Version of the last entry written.
    pub version: i64,
    /// The attempt an intent stands for; 0 before the first.
    pub attempt: u32,
    /// Unknown answers that count against `max_attempts`.
    pub counted: u32,
    /// Unlisted refusals so far, as the journal has them.
    pub refusals: i32,
    pub first_intent_at: Option<Timestamp>,
    pub first_attempt_at: Option<Timestamp>,
    pub last_attempt_at: Option<Timestamp>,
    /// Where the record stands that wrote the first intent.
    pub source_partition: i32,
    pub source_offset: i64,
    pub doubt: Option<Doubt>,
    /// A rejection of a later attempt, final only once lookups say absent.
    pub rejection: Option<Refusal>,
    /// What the ERP said last, unless that was a success: told with the outcome, whatever it is.
    pub last_refusal: Option<Refusal>,
    /// Orders a person has looked at and found not to be this command's.
    pub dismissed: Vec<String>,
    /// Since when the ERP has refused it because its return is not approved.
    pub unapproved_since: Option<Moment>,
}

/// What the ERP had said last when the entry was written.
fn last_refusal(entry: &JournalEntry) -> Option<Refusal> {
    let explanation = match entry.kind {
        EntryKind::Intent => entry.explanation.both(),
        // That of an outcome may be the connector's own reason.
        EntryKind::Outcome | EntryKind::Barrier | EntryKind::Proof => None,
    };
    let message = entry.erp_message.clone().unwrap_or_default();
    Some(Refusal { code: entry.erp_code?, message, explanation, unapproved: false })
}

/// Called, but nobody knows with what effect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Doubt {
    /// The last moment the call can still take effect unseen.
    pub bound: Moment,
    /// Since when lookups have been impossible with the circuit closed.
    pub failing_since: Option<Moment>,
    /// Since when an "absent" waits for the proof that lookups see our markers in this warehouse.
    pub unproven_since: Option<Moment>,
    /// A copy of a command in doubt: never calls.
    pub repeated: bool,
    /// A person found no order: an absence needs no proof that lookups can see one.
    pub decided: bool,
}

impl Doubt {
    fn new(bound: Moment) -> Self {
        Self { bound, failing_since: None, unproven_since: None, repeated: false, decided: false }
    }
}

/// What a lookup found (`call.rs` asks).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Orders that carry our marker, by number; never empty.
    Found(Vec<String>),
    /// No marker, but orders that may be ours with the marker stripped, by number.
    Suspects(Vec<String>),
    /// Both queries were answered completely and show nothing of ours.
    Absent { asked_at: Moment },
    /// Throttled, failed or short: no lookup at all.
    Failed(String),
}

/// What to do next with a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Write an intent for the next attempt (quota first), then call.
    Intend,
    /// As [`Step::Intend`] or [`Step::Again`], after a pause: the return is not approved yet.
    Later { pause: Duration },
    /// The call certainly had no effect: after a pause call again, with the same intent while it
    /// lasts.
    Again,
    /// Look for the marker at this moment.
    Ask { at: Moment },
    /// Wait until lookups have shown a marker in this warehouse; ask again then, or at this
    /// moment.
    AwaitProof { until: Moment },
    /// It is over.
    Settle(Ending),
}

/// How a command ends; what the ERP said stands in its [`Life::last_refusal`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ending {
    pub outcome: Outcome,
    pub outbound_no: Option<String>,
    /// Why a person must decide.
    pub reason: Option<Explanation>,
    pub candidates: Vec<String>,
    pub recovered: bool,
}

impl Ending {
    fn created(outbound_no: String, recovered: bool) -> Self {
        Self {
            outcome: Outcome::Created,
            outbound_no: Some(outbound_no),
            reason: None,
            candidates: Vec::new(),
            recovered,
        }
    }

    fn rejected() -> Self {
        Self {
            outcome: Outcome::Rejected,
            outbound_no: None,
            reason: None,
            candidates: Vec::new(),
            recovered: false,
        }
    }

    fn in_doubt(reason: Explanation, candidates: Vec<String>) -> Self {
        Self {
            outcome: Outcome::InDoubt,
            outbound_no: None,
            reason: Some(reason),
            candidates,
            recovered: false,
        }
    }
}

/// How a record ends, as far as it decides what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Way {
    /// The end of a life; `copy`: of a copy of a command in doubt, whose lookups were repeated.
    Life { outcome: Outcome, copy: bool },
    /// `INVALID` or `EXPIRED`.
    Plain { outcome: Outcome },
}

/// What the one transaction of a record's end carries besides its result and its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Written {
    pub entry: bool,
    pub letter: bool,
}

/// Only a life writes an entry: `INVALID` and `EXPIRED` never touch one, so that a corrected replay
/// is judged afresh and a good copy stays good; a copy that found nothing new leaves the recorded
/// outcome as it is.
#[must_use]
pub(super) fn written(way: Way) -> Written {
    match way {
        Way::Life { outcome, copy } => {
            let in_doubt = outcome == Outcome::InDoubt;
            Written { entry: !(copy && in_doubt), letter: in_doubt }
        }
        Way::Plain { outcome } => Written { entry: false, letter: outcome == Outcome::Invalid },
    }
}

/// What the world looks like to a lookup's verdict.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    pub now: Moment,
    /// This pair of queries has shown one of our markers for the warehouse before.
    pub proven: bool,
    /// The circuit breaker is closed: a failure is the lookup's own.
    pub circuit_closed: bool,
}

impl Life {
    fn begin(accepted: &Accepted, partition: i32, offset: i64) -> Self {
        Self {
            marker: accepted.marker.clone(),
            fingerprint: accepted.fingerprint,
            version: 0,
            attempt: 0,
            counted: 0,
            refusals: 0,
            first_intent_at: None,
            first_attempt_at: None,
            last_attempt_at: None,
            source_partition: partition,
            source_offset: offset,
            doubt: None,
            rejection: None,
            last_refusal: None,
            dismissed: Vec::new(),
            unapproved_since: None,
        }
    }

    fn of_entry(accepted: &Accepted, entry: &JournalEntry) -> Self {
        let attempt = u32::try_from(entry.attempt).unwrap_or(0);
        Self {
            marker: accepted.marker.clone(),
            fingerprint: accepted.fingerprint,
            version: entry.version,
            attempt,
            // A crash is no unknown answer; the attempts before this one were.
            counted: attempt.saturating_sub(1),
            refusals: entry.refusals,
            first_intent_at: entry.first_intent_at,
            first_attempt_at: entry.first_attempt_at,
            last_attempt_at: entry.last_attempt_at,
            source_partition: entry.source_partition,
            source_offset: entry.source_offset,
            doubt: None,
            rejection: None,
            last_refusal: last_refusal(entry),
            // An intent names what a person dismissed; an outcome's candidates are for a person to
            // look at.
            dismissed: if entry.kind == EntryKind::Intent {
                entry.candidates.clone()
            } else {
                Vec::new()
            },
            unapproved_since: None,
        }
    }

    /// Whether a refusal is waited out: the return may be approved yet.
    fn waits_for_approval(&mut self, refusal: &Refusal, now: Moment, timing: &Timing) -> bool {
        if !refusal.unapproved || timing.unapproved_retry_timeout.is_zero() {
            return false;
        }
        let since = *self.unapproved_since.get_or_insert(now);
        now < since.plus(timing.unapproved_retry_timeout)
    }

    /// An intent was committed for this attempt.
    pub(super) fn intended(&mut self, attempt: u32, written_at: Timestamp) {
        self.attempt = attempt;
        self.version += 1;
        self.first_intent_at.get_or_insert(written_at);
        self.doubt = None;
    }

    /// The attempt the next intent stands for: a renewed intent keeps its number, a decided absence
    /// begins a new one.
    #[must_use]
    pub(super) fn next_attempt(&self) -> u32 {
        if self.attempt == 0 || self.doubt.is_some() { self.attempt + 1 } else { self.attempt }
    }

    /// Whether taking the intent back leaves nothing to ask about, given that its call never left
    /// or certainly had no effect: of a later attempt, or of an intent that was found, an earlier
    /// call is still in doubt.
    #[must_use]
    pub(super) fn may_be_withdrawn(&self) -> bool {
        self.attempt == 1 && self.doubt.is_none()
    }

    /// The ERP answered, or did not. `counts`: the breaker was and stayed closed.
    #[must_use]
    pub(super) fn answered(
        &mut self,
        answer: Answer,
        send_by: Moment,
        counts: bool,
        now: Moment,
        timing: &Timing,
    ) -> Step {
        if let Some(refusal) = answer.refusal() {
            self.last_refusal = Some(refusal.clone());
        }
        match answer {
            Answer::Created { outbound_no } => {
                self.last_refusal = None;
                Step::Settle(Ending::created(outbound_no, false))
            }
            Answer::Rejected(refusal) if self.attempt >= 2 => {
                // An earlier attempt may have been applied late; the rejection may even be its
                // consequence.
                self.rejection = Some(refusal);
                self.doubt = Some(Doubt::new(timing.bound_after(send_by)));
                Step::Ask { at: now }
            }
            Answer::Rejected(refusal) if self.waits_for_approval(&refusal, now, timing) => {
                Step::Later { pause: timing.unapproved_pause() }
            }
            Answer::Rejected(_) => Step::Settle(Ending::rejected()),
            Answer::NotExecuted(
                NotExecuted::Throttled { .. }
                | NotExecuted::Unreachable { .. }
                | NotExecuted::Withheld,
            )
            | Answer::Misconfigured(_) => Step::Again,
            Answer::Unknown { .. } => {
                self.counted += u32::from(counts);
                self.doubt = Some(Doubt::new(timing.bound_after(send_by)));
                // The first lookup goes out at once: found settles.
                Step::Ask { at: now }
            }
        }
    }

    /// The circuit opened after the unknown answer that counted last: it was the outage's, not the
    /// command's.
    pub(super) fn uncount(&mut self) {
        self.counted = self.counted.saturating_sub(1);
    }

    /// A lookup came back.
    #[must_use]
    pub(super) fn looked_up(&mut self, finding: Finding, sight: Sight, timing: &Timing) -> Step {
        let Some(mut doubt) = self.doubt.take() else { return Step::Ask { at: sight.now } };
        let step = match finding {
            Finding::Found(mut orders) => match (orders.len(), orders.pop()) {
                (1, Some(order)) => Step::Settle(Ending::created(order, true)),
                (_, last) => {
                    orders.extend(last);
                    Step::Settle(Ending::in_doubt(
                        Explanation::new(
                            "several outbound orders carry this command's marker; keep one and cancel the others in the ERP",
                            "多张出库单带有此指令的标记；请在旺店通中保留一张，取消其余",
                        ),
                        orders,
                    ))
                }
            },
            Finding::Suspects(orders) => Step::Settle(Ending::in_doubt(
                Explanation::new(
                    "an outbound order without marker was created after this command's intent; compare it in the ERP and resolve the command",
                    "此指令写入意图之后，出现了一张不带标记的出库单；请在旺店通中核对后裁决此指令",
                ),
                orders,
            )),
            Finding::Failed(reason) => failed(&mut doubt, &reason, sight, timing),
            Finding::Absent { asked_at } => {
                doubt.failing_since = None;
                self.absent(&mut doubt, asked_at, sight, timing)
            }
        };
        self.doubt = Some(doubt);
        step
    }

    fn absent(
        &mut self,
        doubt: &mut Doubt,
        asked_at: Moment,
        sight: Sight,
        timing: &Timing,
    ) -> Step {
        if doubt.repeated {
            return Step::Settle(Ending::in_doubt(
                Explanation::new(
                    "still no outbound order carries this command's marker; a person must decide",
                    "仍未找到带有此指令标记的出库单；需要人工裁决",
                ),
                Vec::new(),
            ));
        }
        if !timing.decides(asked_at, doubt.bound) {
            return Step::Ask { at: doubt.bound.plus(timing.lookup_interval).max(sight.now) };
        }
        if !sight.proven && !doubt.decided {
            // A permission filter would make every lookup blind.
            let since = *doubt.unproven_since.get_or_insert(sight.now);
            let until = since.plus(timing.lookup_timeout);
            if sight.now >= until {
                return Step::Settle(Ending::in_doubt(
                    Explanation::new(
                        "lookups have never shown one of our markers in this warehouse, so absence proves nothing; check the appkey's warehouse permission and resolve the command",
                        "在此仓库从未查到过带有本连接器标记的出库单，所以查不到并不说明没有创建；请检查 appkey 的仓库权限，然后裁决此指令",
                    ),
                    Vec::new(),
                ));
            }
            return Step::AwaitProof { until };
        }
        if let Some(refusal) = self.rejection.take() {
            if self.waits_for_approval(&refusal, sight.now, timing) {
                return Step::Later { pause: timing.unapproved_pause() };
            }
            return Step::Settle(Ending::rejected());
        }
        if self.counted >= timing.max_attempts {
            return Step::Settle(Ending::in_doubt(
                Explanation::new(
                    format!(
                        "{} attempts ended without an answer and no outbound order is found; check the ERP and resolve the command",
                        self.counted
                    ),
                    format!(
                        "{} 次调用均未得到明确答复，也未找到出库单；请在旺店通中核对后裁决此指令",
                        self.counted
                    ),
                ),
                Vec::new(),
            ));
        }
        Step::Intend
    }
}

fn failed(doubt: &mut Doubt, reason: &str, sight: Sight, timing: &Timing) -> Step {
    if !sight.circuit_closed {
        // An outage alone never makes a command in doubt.
        doubt.failing_since = None;
        return Step::Ask { at: sight.now.plus(timing.lookup_interval) };
    }
    let since = *doubt.failing_since.get_or_insert(sight.now);
    if sight.now >= since.plus(timing.lookup_timeout) {
        return Step::Settle(Ending::in_doubt(
            Explanation::new(
                format!(
                    "the ERP could not be asked about this command for too long ({reason}); check the ERP and resolve the command"
                ),
                format!("长时间无法向旺店通查询此指令（{reason}）；请在旺店通中核对后裁决此指令"),
            ),
            Vec::new(),
        ));
    }
    Step::Ask { at: sight.now.plus(timing.lookup_interval) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        decimal::Decimal,
        schema::{CommandLine, CreateReturnOutbound},
        sink::{
            settle::{intent_entry, outcome_entry},
            validate::validate,
        },
    };

    const TIMING: Timing = Timing {
        intent_ttl: Duration::from_secs(15),
        call_timeout: Duration::from_secs(30),
        apply_grace: Duration::from_secs(90),
        lookup_interval: Duration::from_secs(30),
        lookup_timeout: Duration::from_secs(1800),
        max_attempts: 2,
        unapproved_retry_timeout: Duration::ZERO,
    };
    const SIGHT: Sight = Sight { now: Moment(1_000_000), proven: true, circuit_closed: true };

    const DEADLINE: Timestamp = Timestamp(1_767_323_045_000);

    fn accepted() -> Accepted {
        validate(CreateReturnOutbound {
            command_id: "c".into(),
            return_no: "R".into(),
            warehouse_no: "W".into(),
            logistics_code: None,
            create_mode: None,
            remark: None,
            details: vec![CommandLine {
                spec_no: "s".into(),
                num: Decimal::parse("1").unwrap(),
                unit_name: None,
                position_no: None,
                batch_no: None,
                expire_date: None,
                defect: None,
                remark: None,
            }],
            issued_at: None,
            expires_at: Some(DEADLINE),
        })
        .unwrap()
    }

    fn known(entry: Option<JournalEntry>) -> Known {
        Known {
            entry,
            restored_at: Moment(1000),
            old: false,
            replayed: false,
            now: Moment(2000),
            now_wall: Timestamp(DEADLINE.0 - 100),
        }
    }

    fn called() -> Life {
        let Verdict::Fresh(mut life) = judge(&accepted(), 0, 7, known(None), &TIMING) else {
            panic!("fresh")
        };
        assert_eq!(life.next_attempt(), 1);
        life.intended(1, Timestamp(1));
        life
    }

    fn unknown() -> Answer {
        Answer::Unknown { reason: "timeout".into(), refusal: None }
    }

    fn refusal() -> Refusal {
        Refusal { code: 100, message: "no".into(), explanation: None, unapproved: false }
    }

    #[test]
    fn a_deadline_counts_only_before_any_intent() {
        let late = Known { now_wall: Timestamp(DEADLINE.0 + 1), ..known(None) };
        assert!(matches!(judge(&accepted(), 0, 7, late, &TIMING), Verdict::Expired));
    }

    #[test]
    fn an_unknown_answer_is_asked_about_at_once_and_decided_only_after_the_bound() {
        let mut life = called();
        let send_by = Moment(15_000);
        assert_eq!(
            life.answered(unknown(), send_by, true, Moment(30_000), &TIMING),
            Step::Ask { at: Moment(30_000) }
        );
        let deciding = Moment(15_000 + 30_000 + 90_000 + 30_000);
        for asked_at in [Moment(30_000), Moment(deciding.0 - 1)] {
            assert_eq!(
                life.looked_up(
                    Finding::Absent { asked_at },
                    Sight { now: asked_at, ..SIGHT },
                    &TIMING
                ),
                Step::Ask { at: deciding }
            );
        }
        assert_eq!(
            life.looked_up(Finding::Absent { asked_at: deciding }, SIGHT, &TIMING),
            Step::Intend
        );
        assert_eq!(life.next_attempt(), 2);
    }

    #[test]
    fn found_settles_at_any_time_and_several_need_a_person() {
        let mut life = called();
        let _ = life.answered(unknown(), Moment(15_000), true, Moment(20_000), &TIMING);
        let Step::Settle(ending) =
            life.clone().looked_up(Finding::Found(vec!["CK1".into()]), SIGHT, &TIMING)
        else {
            panic!("settles")
        };
        assert_eq!(
            (ending.outcome, ending.outbound_no.as_deref(), ending.recovered),
            (Outcome::Created, Some("CK1"), true)
        );
        let Step::Settle(ending) =
            life.looked_up(Finding::Found(vec!["CK1".into(), "CK2".into()]), SIGHT, &TIMING)
        else {
            panic!("settles")
        };
        assert_eq!((ending.outcome, ending.candidates.len()), (Outcome::InDoubt, 2));
    }

    #[test]
    fn absence_proves_nothing_before_a_marker_was_ever_seen() {
        let mut life = called();
        let _ = life.answered(unknown(), Moment(0), true, Moment(0), &TIMING);
        let blind = Sight { proven: false, ..SIGHT };
        let until = SIGHT.now.plus(TIMING.lookup_timeout);
        assert_eq!(
            life.looked_up(Finding::Absent { asked_at: SIGHT.now }, blind, &TIMING),
            Step::AwaitProof { until }
        );
        assert_eq!(
            life.clone().looked_up(Finding::Absent { asked_at: SIGHT.now }, SIGHT, &TIMING),
            Step::Intend
        );
        let Step::Settle(ending) = life.looked_up(
            Finding::Absent { asked_at: until },
            Sight { now: until, ..blind },
            &TIMING,
        ) else {
            panic!("settles")
        };
        assert_eq!(ending.outcome, Outcome::InDoubt);
    }

    #[test]
    fn a_later_rejection_is_final_only_when_nothing_is_found() {
        let mut life = called();
        let _ = life.answered(unknown(), Moment(0), true, Moment(0), &TIMING);
        let _ = life.looked_up(Finding::Absent { asked_at: SIGHT.now }, SIGHT, &TIMING);
        life.intended(life.next_attempt(), Timestamp(2));
        assert_eq!(
            life.answered(Answer::Rejected(refusal()), SIGHT.now, true, SIGHT.now, &TIMING),
            Step::Ask { at: SIGHT.now }
        );
        let Step::Settle(ending) =
            life.clone().looked_up(Finding::Found(vec!["CK".into()]), SIGHT, &TIMING)
        else {
            panic!("settles")
        };
        assert_eq!(ending.outcome, Outcome::Created);
        let later = SIGHT.now.plus(TIMING.bound()).plus(TIMING.lookup_interval);
        let Step::Settle(ending) = life.looked_up(
            Finding::Absent { asked_at: later },
            Sight { now: later, ..SIGHT },
            &TIMING,
        ) else {
            panic!("settles")
        };
        assert_eq!(ending.outcome, Outcome::Rejected);
        assert_eq!(
            called().answered(Answer::Rejected(refusal()), Moment(0), true, Moment(0), &TIMING),
            Step::Settle(Ending::rejected())
        );
    }

    /// A documented answer that leaves open whether an order was made.
    fn unclear() -> Answer {
        let explanation = Some(Explanation::new("the ERP's database failed", "旺店通的数据库出错"));
        let refusal =
            Refusal { code: 4, message: "数据库错误".into(), explanation, unapproved: false };
        Answer::Unknown { reason: "code 4".into(), refusal: Some(refusal) }
    }

    fn entry_of(life: &Life, step: Step) -> JournalEntry {
        match step {
            Step::Settle(ending) => outcome_entry(life, &ending, ("R", "c"), "W", Timestamp(9)),
            Step::Intend => intent_entry(life, ("R", "c"), "W", Timestamp(9), &TIMING),
            other => panic!("{other:?}"),
        }
    }

    fn said(entry: &JournalEntry) -> (Option<i64>, Option<&str>, Option<&str>) {
        (entry.erp_code, entry.erp_message.as_deref(), entry.explanation.zh())
    }

    #[test]
    fn what_the_erp_said_last_stands_beside_every_outcome() {
        let mut life = called();
        let _ = life.answered(unclear(), Moment(0), true, Moment(0), &TIMING);
        let several = Finding::Found(vec!["CK1".into(), "CK2".into()]);
        let step = life.clone().looked_up(several.clone(), SIGHT, &TIMING);
        let entry = entry_of(&life, step);
        assert_eq!(
            (entry.outcome, entry.erp_code, entry.erp_message.as_deref()),
            (Some(Outcome::InDoubt), Some(4), Some("数据库错误"))
        );
        assert!(entry.explanation.en().is_some_and(|reason| reason.contains("several")));
        let step = life.clone().looked_up(Finding::Found(vec!["CK1".into()]), SIGHT, &TIMING);
        let words = (Some(4), Some("数据库错误"), Some("旺店通的数据库出错"));
        assert_eq!(said(&entry_of(&life, step)), words, "the order was found");

        // Through the intent of the next attempt, another owner and an attempt without an answer.
        let step = life.looked_up(Finding::Absent { asked_at: SIGHT.now }, SIGHT, &TIMING);
        let intent = entry_of(&life, step);
        assert_eq!((intent.kind, said(&intent)), (EntryKind::Intent, words));
        let Verdict::Resume(mut life) = judge(&accepted(), 0, 7, known(Some(intent)), &TIMING)
        else {
            panic!("asked about first")
        };
        let _ = life.answered(unknown(), Moment(0), true, Moment(0), &TIMING);
        let step = life.clone().looked_up(Finding::Found(vec!["CK1".into()]), SIGHT, &TIMING);
        assert_eq!(said(&entry_of(&life, step)), words);

        // A reason of the connector's own is no explanation of the ERP's words.
        let step = life.clone().looked_up(several, SIGHT, &TIMING);
        let in_doubt = entry_of(&life, step);
        let Verdict::Repeat(mut copy, _) = judge(&accepted(), 0, 7, known(Some(in_doubt)), &TIMING)
        else {
            panic!("in doubt")
        };
        let step = copy.looked_up(Finding::Found(vec!["CK1".into()]), SIGHT, &TIMING);
        assert_eq!(said(&entry_of(&copy, step)), (Some(4), Some("数据库错误"), None));

        // A success is an answer, too.
        let created = Answer::Created { outbound_no: "CK1".into() };
        let step = life.answered(created, Moment(0), true, Moment(0), &TIMING);
        assert_eq!(said(&entry_of(&life, step)), (None, None, None));
    }

    #[test]
    fn unlisted_refusals_are_carried_through_every_entry() {
        let entry =
            JournalEntry { refusals: 3, kind: EntryKind::Intent, ..entry(Outcome::Created, false) };
        let Verdict::Resume(mut life) = judge(&accepted(), 0, 7, known(Some(entry)), &TIMING)
        else {
            panic!("asked about first")
        };
        assert_eq!(intent_entry(&life, ("R", "c"), "W", Timestamp(9), &TIMING).refusals, 3);
        let step = life.looked_up(Finding::Found(vec!["CK1".into()]), SIGHT, &TIMING);
        assert_eq!(entry_of(&life, step).refusals, 3);
    }

    #[test]
    fn attempts_run_out_only_by_answers_that_count() {
        let mut life = called();
        for counts in [false, true, true] {
            assert!(matches!(
                life.answered(unknown(), Moment(0), counts, Moment(0), &TIMING),
                Step::Ask { .. }
            ));
            let step = life.looked_up(Finding::Absent { asked_at: SIGHT.now }, SIGHT, &TIMING);
            match (life.counted, step) {
                (2, Step::Settle(ending)) => assert_eq!(ending.outcome, Outcome::InDoubt),
                (_, step) => assert_eq!(step, Step::Intend),
            }
            life.intended(life.next_attempt(), Timestamp(3));
        }
    }

    #[test]
    fn an_outage_alone_never_ends_in_doubt() {
        let mut life = called();
        let _ = life.answered(unknown(), Moment(0), true, Moment(0), &TIMING);
        let open = Sight { circuit_closed: false, ..SIGHT };
        let far = SIGHT.now.plus(TIMING.lookup_timeout * 10);
        assert!(matches!(
            life.looked_up(Finding::Failed("x".into()), open, &TIMING),
            Step::Ask { .. }
        ));
        assert!(matches!(
            life.looked_up(Finding::Failed("x".into()), Sight { now: far, ..open }, &TIMING),
            Step::Ask { .. }
        ));
        assert!(matches!(
            life.looked_up(Finding::Failed("x".into()), SIGHT, &TIMING),
            Step::Ask { .. }
        ));
        assert!(matches!(
            life.looked_up(Finding::Failed("x".into()), Sight { now: far, ..SIGHT }, &TIMING),
            Step::Settle(_)
        ));
    }

    #[test]
    fn not_executed_keeps_the_attempt() {
        let mut life = called();
        let answer = Answer::NotExecuted(NotExecuted::Throttled { message: "x".into() });
        assert_eq!(life.answered(answer, Moment(0), true, Moment(0), &TIMING), Step::Again);
        assert_eq!((life.next_attempt(), life.counted), (1, 0));
    }

    fn entry(outcome: Outcome, resolved: bool) -> JournalEntry {
        JournalEntry {
            fingerprint: accepted().fingerprint.to_vec(),
            version: 6,
            attempt: 2,
            outcome: Some(outcome),
            resolved,
            candidates: vec!["CK9".into()],
            ..crate::sink::settle::bare_entry(EntryKind::Outcome, 0, "W", Timestamp(1))
        }
    }

    #[test]
    fn only_an_operators_replay_reopens_what_a_person_found_not_to_exist() {
        let replay = |entry| Known { replayed: true, ..known(Some(entry)) };
        let rejected = entry(Outcome::Rejected, true);
        assert!(
            matches!(
                judge(&accepted(), 0, 7, known(Some(rejected.clone())), &TIMING),
                Verdict::Duplicate(_)
            ),
            "a sender's copy"
        );
        for (outcome, resolved) in [(Outcome::Rejected, false), (Outcome::Created, true)] {
            assert!(
                matches!(
                    judge(&accepted(), 0, 7, replay(entry(outcome, resolved)), &TIMING),
                    Verdict::Duplicate(_)
                ),
                "{outcome:?}"
            );
        }
        assert!(matches!(
            judge(&accepted(), 0, 7, replay(entry(Outcome::InDoubt, false)), &TIMING),
            Verdict::Repeat(..)
        ));
        let Verdict::Resume(mut life) = judge(&accepted(), 0, 7, replay(rejected), &TIMING) else {
            panic!("asked about first")
        };
        assert_eq!(life.dismissed, ["CK9"]);
        // Absence decides no earlier than the bound from now on, but needs no proof: a person has
        // looked.
        let blind = |at| Sight { now: at, proven: false, circuit_closed: true };
        let deciding = Moment(2000).plus(TIMING.bound()).plus(TIMING.lookup_interval);
        assert_eq!(
            life.looked_up(
                Finding::Absent { asked_at: Moment(2000) },
                blind(Moment(2000)),
                &TIMING
            ),
            Step::Ask { at: deciding }
        );
        assert_eq!(
            life.looked_up(Finding::Absent { asked_at: deciding }, blind(deciding), &TIMING),
            Step::Intend
        );
        assert_eq!((life.next_attempt(), life.counted, life.version), (3, 0, 6));
    }

    #[test]
    fn an_unapproved_return_is_waited_for_as_long_as_configured() {
        let timing = Timing { unapproved_retry_timeout: Duration::from_secs(100), ..TIMING };
        let unapproved = || Answer::Rejected(Refusal { unapproved: true, ..refusal() });
        let pause = timing.unapproved_pause();
        assert_eq!(pause, Duration::from_secs(5));
        let mut life = called();
        for second in [0, 50, 99] {
            let now = Moment(1_000 + second * 1_000);
            assert_eq!(life.answered(unapproved(), now, true, now, &timing), Step::Later { pause });
            assert_eq!((life.next_attempt(), life.counted), (1, 0), "no attempt is counted");
        }
        let Step::Settle(ending) =
            life.answered(unapproved(), Moment(0), true, Moment(101_000), &timing)
        else {
            panic!("settles")
        };
        assert_eq!(ending.outcome, Outcome::Rejected);
        // Off, and for any other refusal: at once.
        assert!(matches!(
            called().answered(unapproved(), Moment(0), true, Moment(0), &TIMING),
            Step::Settle(_)
        ));
        assert!(matches!(
            called().answered(Answer::Rejected(refusal()), Moment(0), true, Moment(0), &timing),
            Step::Settle(_)
        ));
    }

    #[test]
    fn a_later_attempt_that_is_unapproved_is_asked_about_before_it_is_sent_again() {
        let timing = Timing { unapproved_retry_timeout: Duration::from_secs(10_000), ..TIMING };
        let mut life = called();
        let _ = life.answered(unknown(), Moment(0), true, Moment(0), &timing);
        let _ = life.looked_up(Finding::Absent { asked_at: SIGHT.now }, SIGHT, &timing);
        life.intended(life.next_attempt(), Timestamp(2));
        let unapproved = Answer::Rejected(Refusal { unapproved: true, ..refusal() });
        assert_eq!(
            life.answered(unapproved, SIGHT.now, true, SIGHT.now, &timing),
            Step::Ask { at: SIGHT.now }
        );
        let later = SIGHT.now.plus(timing.bound()).plus(timing.lookup_interval);
        let step = life.looked_up(
            Finding::Absent { asked_at: later },
            Sight { now: later, ..SIGHT },
            &timing,
        );
        assert_eq!(
            (step, life.next_attempt()),
            (Step::Later { pause: timing.unapproved_pause() }, 3)
        );
    }
}
