//! Hop 3: what the journal remembers of a command decides what may happen to it next. Pure: no IO,
//! `now` is an argument.
//!
//! ```text
//!            judge                 intent committed            answered
//! accepted ─────────▶ Intend ──────────────────────▶ Call ───────────────▶ Settle
//!     │                  ▲                             │ unknown, unlisted
//!     │ open intent      │ lookups see our orders      ▼
//!     └────────────────▶ │                            Ask ───────────────▶ Settle (found, several, suspect, limit)
//!                        │                             │ absent, decided
//!                        └──────────────────── AwaitVisibility ──────────▶ Settle (rejected, limit)
//! ```

use std::time::Duration;

use crate::{
    clock::{Moment, Timestamp},
    erp::{Answer, Layer, NotExecuted, Refusal},
    explanation::Explanation,
    schema::{EntryKind, JournalEntry, Outcome},
};

use super::{decision::permits_redrive, validate::Accepted};

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

/// So many unlisted refusals of one command, each followed by a decided absence, are a rejection.
/// One alone may be a passing fault of the ERP.
const MOST_REFUSALS: i32 = 2;

/// The bound of an intent whose call was answered and certainly had no effect.
pub(super) const ANSWERED: i64 = 0;

impl Timing {
    /// From an intent's writing to the last moment its call can still take effect unseen: send-by +
    /// call timeout + settle time.
    #[must_use]
    pub(super) fn bound(&self) -> Duration {
        self.intent_ttl + self.call_timeout + self.apply_grace
    }

    /// The bound of a call of our own whose outcome is unknown since `now`: everything is known but
    /// what happens after send-by. A process that was frozen meanwhile heard of it late, and its
    /// request may have left as late.
    #[must_use]
    pub(super) fn bound_after(&self, send_by: Moment, now: Moment) -> Moment {
        send_by.plus(self.call_timeout).max(now).plus(self.apply_grace)
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
/// what was sent shortly after that as well. `new`: without a credible time it counts as new
/// ([`untimed_is_new`]).
#[must_use]
pub(super) fn may_be_forgotten(
    stamped: Option<Timestamp>,
    now_wall: Timestamp,
    horizon: Duration,
    lost_at: Option<Timestamp>,
    new: bool,
) -> bool {
    let remembered = now_wall.minus(horizon - horizon / 10);
    let lost = lost_at.map(|at| at.plus(LOSS_MARGIN));
    let untimed = lost.is_some() || !new;
    stamped.map_or(untimed, |at| at < remembered || lost.is_some_and(|lost| at < lost))
}

/// Whether a record whose time nobody knows cannot have been read before the journal forgot
/// anything: it stands behind everything that had been read then.
#[must_use]
pub(super) fn untimed_is_new(offset: i64, forgotten_to: Option<i64>) -> bool {
    forgotten_to.is_none_or(|read_to| offset >= read_to)
}

/// Whether a check that was sent at one place in the order of events decides for an absence that
/// was answered at another: only a later one shows that the lookup was not blind.
#[must_use]
pub(super) const fn covers(sent: u64, answered: u64) -> bool {
    sent > answered
}

/// Whether lookups see our orders: a known one has to stand in the answers to both queries, with
/// the listed statuses and without `status`, since either may be filtered alone.
#[must_use]
pub(super) const fn both_show(with_status: bool, without_status: bool) -> bool {
    with_status && without_status
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
        let life = Life::begin(accepted, partition, offset);
        // First: the journal may have forgotten that it was called, and a deadline hides no order.
        if known.old {
            let doubt = Doubt::new(known.restored_at.plus(timing.bound()));
            return Verdict::LookFirst(Life { doubt: Some(doubt), ..life });
        }
        if accepted.command.expires_at.is_some_and(|deadline| deadline < known.now_wall) {
            return Verdict::Expired;
        }
        return Verdict::Fresh(life);
    };
    if entry.fingerprint != accepted.fingerprint {
        let its_place = (entry.source_partition, entry.source_offset);
        return if entry.kind == EntryKind::Intent && its_place == (partition, offset) {
            // The record that was called reads otherwise than it did then.
            Verdict::Resume(orphaned(accepted, &entry, known.restored_at, timing))
        } else {
            Verdict::Conflict
        };
    }
    match (entry.kind, entry.outcome) {
        (EntryKind::Intent, _) => {
            Verdict::Resume(restored(accepted, &entry, known.restored_at, timing))
        }
        (EntryKind::Outcome, Some(Outcome::InDoubt)) => {
            let doubt = Doubt { repeated: true, ..Doubt::new(known.now) };
            Verdict::Repeat(
                Life { doubt: Some(doubt), ..Life::of_entry(accepted, &entry) },
                Box::new(entry),
            )
        }
        // A person found no order and permitted another call, and an operator sends the command
        // again: asked about once more, then called. A sender's own copy gets the decision as its
        // answer. The header of what is sent again permits nothing: any sender can write it.
        (EntryKind::Outcome, _) if permits_redrive(&entry) && known.replayed => {
            let doubt = Doubt { decided: true, ..Doubt::new(known.now.plus(timing.bound())) };
            let life = Life {
                counted: 0,
                refusals: 0,
                warning: None,
                dismissed: entry.candidates.clone(),
                ..Life::of_entry(accepted, &entry)
            };
            Verdict::Resume(Life { doubt: Some(doubt), ..life })
        }
        (EntryKind::Outcome | EntryKind::Barrier, _) => Verdict::Duplicate(Box::new(entry)),
    }
}

/// The life of an intent that somebody wrote and left open.
fn restored(
    accepted: &Accepted,
    entry: &JournalEntry,
    restored_at: Moment,
    timing: &Timing,
) -> Life {
    let written_bound = Duration::from_millis(u64::try_from(entry.bound_ms).unwrap_or(u64::MAX));
    let doubt = Doubt::new(timing.bound_restored(restored_at, written_bound));
    Life { doubt: Some(doubt), ..Life::of_entry(accepted, entry) }
}

/// As of one whose record is gone, or does not say any more what was called: looked for as long as
/// any other, and never called again.
#[must_use]
pub(super) fn orphaned(
    accepted: &Accepted,
    entry: &JournalEntry,
    restored_at: Moment,
    timing: &Timing,
) -> Life {
    let life = restored(accepted, entry, restored_at, timing);
    let doubt = life.doubt.map(|doubt| Doubt { orphaned: true, ..doubt });
    Life { doubt, fingerprint: entry.fingerprint.as_slice().try_into().unwrap_or_default(), ..life }
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
    /// The attempt was answered, and the answer does not count: the next intent keeps its number,
    /// from which a restart tells how many counted.
    pub uncounted: bool,
    /// Unknown answers and unlisted refusals that count against `max_attempts`.
    pub counted: u32,
    /// Unlisted refusals so far.
    pub refusals: i32,
    /// Where the refusal stood, if the last answer was an unlisted one.
    pub unlisted: Option<Layer>,
    /// The ERP said that it made the order, with this text: it is never called again.
    pub warning: Option<String>,
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
        EntryKind::Outcome | EntryKind::Barrier => None,
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
    /// Since when a decided absence waits until lookups are known to see our orders in this
    /// warehouse.
    pub blind_since: Option<Moment>,
    /// What the last check of that showed.
    pub blind: Option<Explanation>,
    /// A copy of a command in doubt: never calls.
    pub repeated: bool,
    /// A person found no order: an absence needs no check that lookups can see one.
    pub decided: bool,
    /// What to call is gone with the record: never calls.
    pub orphaned: bool,
}

impl Doubt {
    fn new(bound: Moment) -> Self {
        Self {
            bound,
            failing_since: None,
            blind_since: None,
            blind: None,
            repeated: false,
            decided: false,
            orphaned: false,
        }
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

/// Whether lookups see our orders in a warehouse (`visibility.rs` asks).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Visibility {
    /// Both queries show the newest order of ours there.
    Seen,
    /// One of them does not, or there is no order of ours to ask for.
    Blind(Explanation),
    /// Throttled, failed or short: no check at all.
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
    /// Wait until lookups are known to see our orders in this warehouse, at most until then.
    AwaitVisibility { until: Moment },
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

    pub(super) fn rejected(reason: Option<Explanation>) -> Self {
        Self {
            outcome: Outcome::Rejected,
            outbound_no: None,
            reason,
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
    /// The circuit breaker is not open: a failure is the lookup's own.
    pub circuit_closed: bool,
}

impl Life {
    fn begin(accepted: &Accepted, partition: i32, offset: i64) -> Self {
        Self {
            marker: accepted.marker.clone(),
            fingerprint: accepted.fingerprint,
            version: 0,
            attempt: 0,
            uncounted: false,
            counted: 0,
            refusals: 0,
            unlisted: None,
            warning: None,
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
            uncounted: entry.kind == EntryKind::Intent && entry.bound_ms == ANSWERED,
            // A crash is no unknown answer; the attempts before this one were.
            counted: attempt.saturating_sub(1),
            refusals: entry.refusals,
            unlisted: None,
            warning: entry.warning.clone(),
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
        self.uncounted = false;
    }

    /// The attempt the next intent stands for: a renewed intent keeps its number, a decided absence
    /// begins a new one where its attempt counts. What follows the first one is a later attempt in
    /// any case: the first may be applied late.
    #[must_use]
    pub(super) fn next_attempt(&self) -> u32 {
        match (self.attempt, &self.doubt) {
            (0, _) => 1,
            (attempt, None) => attempt,
            (attempt, Some(_)) if self.uncounted => attempt.max(2),
            (attempt, Some(_)) => attempt + 1,
        }
    }

    /// Whether taking the intent back leaves nothing to ask about, given that its call never left
    /// or certainly had no effect: of a later attempt, or of an intent that was found, an earlier
    /// call is still in doubt. Nor where the intent took the place of another entry, which may be a
    /// person's decision.
    #[must_use]
    pub(super) fn may_be_withdrawn(&self) -> bool {
        self.attempt == 1 && self.doubt.is_none() && self.version <= 1
    }

    /// Whether what the ERP said has to stand in the journal before the command is settled: after a
    /// restart it must not be called again, or what was answered must not count as unanswered.
    #[must_use]
    pub(super) fn is_noted(&self) -> bool {
        self.warning.is_some() || self.rejection.is_some()
    }

    /// The ERP answered, or did not. `counts`: the answer may count against `max_attempts`, for an
    /// unknown one because the breaker was and stayed closed.
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
        self.unlisted = None;
        self.uncounted = !counts || matches!(answer, Answer::Rejected(_));
        match answer {
            Answer::Created { outbound_no } => {
                self.last_refusal = None;
                Step::Settle(Ending::created(outbound_no, false))
            }
            Answer::Rejected(refusal) if self.attempt >= 2 => {
                // An earlier attempt may have been applied late; the rejection may even be its
                // consequence.
                self.rejection = Some(refusal);
                self.ask_after(send_by, now, timing)
            }
            Answer::Rejected(refusal) if self.waits_for_approval(&refusal, now, timing) => {
                Step::Later { pause: timing.unapproved_pause() }
            }
            Answer::Rejected(_) => Step::Settle(Ending::rejected(None)),
            Answer::Unlisted { layer, .. } => {
                self.counted += u32::from(counts);
                self.refusals += i32::from(counts);
                self.unlisted = Some(layer);
                self.ask_after(send_by, now, timing)
            }
            Answer::ProbablyCreated(refusal) => {
                let said = Some(refusal.message).filter(|message| !message.is_empty());
                self.warning = Some(said.unwrap_or_else(|| format!("status {}", refusal.code)));
                self.ask_after(send_by, now, timing)
            }
            Answer::NotExecuted(
                NotExecuted::Throttled { .. }
                | NotExecuted::Unreachable { .. }
                | NotExecuted::Withheld,
            )
            | Answer::Misconfigured(_) => Step::Again,
            Answer::Unknown { .. } => {
                self.counted += u32::from(counts);
                self.ask_after(send_by, now, timing)
            }
        }
    }

    /// Nobody knows what the call came to. The first lookup goes out at once: found settles.
    fn ask_after(&mut self, send_by: Moment, now: Moment, timing: &Timing) -> Step {
        self.doubt = Some(Doubt::new(timing.bound_after(send_by, now)));
        Step::Ask { at: now }
    }

    /// The circuit opened after the unknown answer that counted last: it was the outage's, not the
    /// command's.
    pub(super) fn uncount(&mut self) {
        self.uncounted = true;
        self.counted = self.counted.saturating_sub(1);
    }

    /// The pipeline was paused after the unlisted refusal that counted last: it was the ERP's, not
    /// the command's.
    pub(super) fn uncount_refusal(&mut self) {
        self.uncount();
        self.refusals = self.refusals.saturating_sub(1);
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
                    "an outbound order without marker was created since this command was sent; compare it in the ERP and resolve the command",
                    "此指令发出之后，出现了一张不带标记的出库单；请在旺店通中核对后裁决此指令",
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
        if let Some(warning) = &self.warning {
            // The lookup is blind, not the ERP: a second call would make a second order.
            return Step::Settle(Ending::in_doubt(
                Explanation::new(
                    format!(
                        "the ERP said that it made the order ({warning}), but no lookup shows one; find it in the ERP and resolve the command"
                    ),
                    format!(
                        "旺店通表示单据已创建（{warning}），但查询不到；请在旺店通中找到该单据后裁决此指令"
                    ),
                ),
                Vec::new(),
            ));
        }
        if doubt.orphaned {
            return Step::Settle(Ending::in_doubt(
                Explanation::new(
                    "the record of this command is gone or can no longer be read, so it cannot be sent again, and no outbound order is found; check the ERP and resolve the command",
                    "此指令的消息已不存在或无法读取，因此无法重新发送，且未找到出库单；请在旺店通中核对后裁决此指令",
                ),
                Vec::new(),
            ));
        }
        if doubt.decided {
            self.decided(sight, timing)
        } else {
            await_visibility(doubt, sight, timing)
        }
    }

    /// A check of the warehouse came back that was sent after the deciding absence, or the time for
    /// one is over.
    #[must_use]
    pub(super) fn checked(
        &mut self,
        visibility: Visibility,
        sight: Sight,
        timing: &Timing,
    ) -> Step {
        let Some(mut doubt) = self.doubt.take() else { return Step::Ask { at: sight.now } };
        let step = match visibility {
            Visibility::Seen => {
                (doubt.blind_since, doubt.blind) = (None, None);
                self.decided(sight, timing)
            }
            Visibility::Blind(reason) => {
                doubt.blind = Some(reason);
                await_visibility(&mut doubt, sight, timing)
            }
            Visibility::Failed(_) => {
                if !sight.circuit_closed {
                    // An outage alone never makes a command in doubt.
                    doubt.blind_since = None;
                }
                await_visibility(&mut doubt, sight, timing)
            }
        };
        self.doubt = Some(doubt);
        step
    }

    /// There is no order of this command, for certain.
    fn decided(&mut self, sight: Sight, timing: &Timing) -> Step {
        if let Some(refusal) = self.rejection.take() {
            if self.waits_for_approval(&refusal, sight.now, timing) {
                return Step::Later { pause: timing.unapproved_pause() };
            }
            return Step::Settle(Ending::rejected(None));
        }
        match self.unlisted {
            Some(Layer::Outer) if self.refusals >= MOST_REFUSALS => {
                return Step::Settle(Ending::rejected(Some(Explanation::new(
                    format!(
                        "the ERP refused it {} times with answers that the connector does not know, and no outbound order was found after any",
                        self.refusals
                    ),
                    format!(
                        "旺店通拒绝了 {} 次，答复均未被连接器收录，且每次之后都未找到出库单",
                        self.refusals
                    ),
                ))));
            }
            Some(Layer::Data) if self.refusals >= MOST_REFUSALS => {
                return Step::Settle(Ending::in_doubt(
                    Explanation::new(
                        format!(
                            "{} answers of the ERP are not known to the connector, the last one a data.status; no outbound order is found; check the ERP and resolve the command",
                            self.refusals
                        ),
                        format!(
                            "旺店通的 {} 次答复均未被连接器收录，最后一次为 data.status，且未找到出库单；请在旺店通中核对后裁决此指令",
                            self.refusals
                        ),
                    ),
                    Vec::new(),
                ));
            }
            Some(Layer::Outer | Layer::Data) | None => {}
        }
        if self.counted >= timing.max_attempts {
            return Step::Settle(Ending::in_doubt(
                Explanation::new(
                    format!(
                        "{} attempts ended without a clear answer and no outbound order is found; check the ERP and resolve the command",
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

/// A permission filter, another account's proxy or a stale replica would make every lookup blind.
fn await_visibility(doubt: &mut Doubt, sight: Sight, timing: &Timing) -> Step {
    let since = *doubt.blind_since.get_or_insert(sight.now);
    let until = since.plus(timing.lookup_timeout);
    if sight.now < until {
        return Step::AwaitVisibility { until };
    }
    let reason = doubt.blind.take().unwrap_or_else(|| {
        Explanation::new(
            "the ERP could not be asked for too long whether its outbound query shows this warehouse's orders; check the ERP and resolve the command",
            "长时间无法确认旺店通的出库单查询能否看到此仓库的单据；请在旺店通中核对后裁决此指令",
        )
    });
    Step::Settle(Ending::in_doubt(reason, Vec::new()))
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
            settle::{intent_entry, noted_entry, outcome_entry},
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
    const SIGHT: Sight = Sight { now: Moment(1_000_000), circuit_closed: true };

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

    /// An absence and, where one is waited for, the check that follows.
    fn absent(life: &mut Life, asked_at: Moment, timing: &Timing) -> Step {
        let sight = Sight { now: asked_at.max(SIGHT.now), ..SIGHT };
        match life.looked_up(Finding::Absent { asked_at }, sight, timing) {
            Step::AwaitVisibility { .. } => life.checked(Visibility::Seen, sight, timing),
            step => step,
        }
    }

    fn blind() -> Visibility {
        Visibility::Blind(Explanation::new("not shown", "查不到"))
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
        let forgotten = Known { old: true, now_wall: Timestamp(DEADLINE.0 + 1), ..known(None) };
        let verdict = judge(&accepted(), 0, 7, forgotten, &TIMING);
        assert!(matches!(verdict, Verdict::LookFirst(_)), "it may have been called");
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
        assert_eq!(absent(&mut life, deciding, &TIMING), Step::Intend);
        assert_eq!(life.next_attempt(), 2);
    }

    #[test]
    fn a_process_that_froze_across_the_call_waits_from_when_it_heard_of_it() {
        let mut life = called();
        // The call timed out at 45 s; the process hears of it at 100 s.
        let heard = Moment(100_000);
        let _ = life.answered(unknown(), Moment(15_000), true, heard, &TIMING);
        let deciding = heard.plus(TIMING.apply_grace).plus(TIMING.lookup_interval);
        assert_eq!(
            life.looked_up(
                Finding::Absent { asked_at: heard },
                Sight { now: heard, ..SIGHT },
                &TIMING
            ),
            Step::Ask { at: deciding }
        );
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
    fn an_absence_decides_only_once_lookups_are_known_to_see_our_orders() {
        let mut life = called();
        let _ = life.answered(unknown(), Moment(0), true, Moment(0), &TIMING);
        let until = SIGHT.now.plus(TIMING.lookup_timeout);
        let waits = Step::AwaitVisibility { until };
        let finding = Finding::Absent { asked_at: SIGHT.now };
        assert_eq!(life.looked_up(finding, SIGHT, &TIMING), waits);
        assert_eq!(life.clone().checked(Visibility::Seen, SIGHT, &TIMING), Step::Intend);
        assert_eq!(life.checked(blind(), SIGHT, &TIMING), waits);
        let failed = || Visibility::Failed("timeout".into());
        assert_eq!(life.checked(failed(), SIGHT, &TIMING), waits);
        // An outage is no blindness: the time begins anew.
        let outage = Sight { now: until, circuit_closed: false };
        let later = Step::AwaitVisibility { until: until.plus(TIMING.lookup_timeout) };
        assert_eq!(life.clone().checked(failed(), outage, &TIMING), later);
        let late = Sight { now: until, ..SIGHT };
        let Step::Settle(ending) = life.checked(failed(), late, &TIMING) else { panic!("settles") };
        assert_eq!(ending.outcome, Outcome::InDoubt);
        let reason = ending.reason.as_ref().map(|reason| (reason.en(), reason.zh()));
        assert_eq!(reason, Some(("not shown", "查不到")), "what the last check showed");
    }

    fn unlisted(layer: Layer, message: &str) -> Answer {
        let refusal = Refusal { message: message.into(), explanation: None, ..refusal() };
        Answer::Unlisted { refusal, layer }
    }

    /// Refused with unlisted texts until it settles; says after how many calls.
    fn refused(layer: Layer, timing: &Timing) -> (u32, Ending, JournalEntry) {
        let mut life = called();
        loop {
            let text = format!("{} {layer:?}", life.attempt);
            let step = life.answered(unlisted(layer, &text), Moment(0), true, Moment(0), timing);
            assert_eq!(step, Step::Ask { at: Moment(0) });
            match absent(&mut life, SIGHT.now, timing) {
                Step::Settle(ending) => {
                    let entry = outcome_entry(&life, &ending, ("R", "c"), "W", Timestamp(9));
                    return (life.attempt, ending, entry);
                }
                step => assert_eq!(step, Step::Intend),
            }
            life.intended(life.next_attempt(), Timestamp(3));
        }
    }

    #[test]
    fn two_unlisted_refusals_with_nothing_found_are_a_rejection() {
        let timing = Timing { max_attempts: 5, ..TIMING };
        let (calls, ending, entry) = refused(Layer::Outer, &timing);
        assert_eq!((calls, ending.outcome), (2, Outcome::Rejected));
        assert_eq!((entry.erp_code, entry.erp_message.as_deref()), (Some(100), Some("2 Outer")));
        assert!(entry.explanation.en().is_some() && entry.explanation.zh().is_some());
        // Of the inner layer nobody knows what the code means: a person decides.
        let (calls, ending, entry) = refused(Layer::Data, &timing);
        assert_eq!((calls, ending.outcome), (2, Outcome::InDoubt));
        assert_eq!((entry.erp_code, entry.erp_message.as_deref()), (Some(100), Some("2 Data")));
        let (calls, ending, _) = refused(Layer::Outer, &Timing { max_attempts: 1, ..TIMING });
        assert_eq!((calls, ending.outcome), (1, Outcome::InDoubt), "no more calls than allowed");
    }

    #[test]
    fn a_restart_keeps_the_count_of_unlisted_refusals() {
        let timing = Timing { max_attempts: 5, ..TIMING };
        let mut life = called();
        let _ = life.answered(unlisted(Layer::Outer, "no"), Moment(0), true, Moment(0), &timing);
        assert_eq!(absent(&mut life, SIGHT.now, &timing), Step::Intend);
        let intent = intent_entry(&life, ("R", "c"), "W", Timestamp(9), &timing);
        assert_eq!((intent.refusals, intent.erp_message.as_deref()), (1, Some("no")));
        let Verdict::Resume(mut life) = judge(&accepted(), 0, 7, known(Some(intent)), &timing)
        else {
            panic!("looked up first")
        };
        // The restored attempt may have been answered or not: it is no second refusal.
        assert_eq!(absent(&mut life, SIGHT.now, &timing), Step::Intend);
        life.intended(life.next_attempt(), Timestamp(3));
        let _ = life.answered(unlisted(Layer::Outer, "no"), Moment(0), true, Moment(0), &timing);
        let Step::Settle(ending) = absent(&mut life, SIGHT.now, &timing) else {
            panic!("the second refusal")
        };
        assert_eq!((ending.outcome, life.attempt), (Outcome::Rejected, 3));
    }

    #[test]
    fn a_refusal_of_a_paused_pipeline_does_not_count() {
        let timing = Timing { max_attempts: 5, ..TIMING };
        let mut life = called();
        let _ = life.answered(unlisted(Layer::Outer, "no"), Moment(0), false, Moment(0), &timing);
        assert_eq!((life.refusals, life.counted), (0, 0));
        life.intended(life.next_attempt(), Timestamp(3));
        let _ = life.answered(unlisted(Layer::Outer, "no"), Moment(0), true, Moment(0), &timing);
        life.uncount_refusal();
        assert_eq!((life.refusals, life.counted), (0, 0));
    }

    #[test]
    fn a_probably_created_order_is_looked_for_and_never_called_again() {
        let made = || {
            Answer::ProbablyCreated(Refusal {
                code: 20,
                message: "check_fail 审核成功, 推送WMS失败".into(),
                ..refusal()
            })
        };
        let mut life = called();
        let step = life.answered(made(), Moment(0), true, Moment(0), &TIMING);
        assert_eq!(step, Step::Ask { at: Moment(0) }, "at once");
        let found = life.clone().looked_up(Finding::Found(vec!["CK1".into()]), SIGHT, &TIMING);
        let entry = entry_of(&life, found);
        assert_eq!(
            (entry.outcome, entry.outbound_no.as_deref(), entry.warning.as_deref()),
            (Some(Outcome::Created), Some("CK1"), Some("check_fail 审核成功, 推送WMS失败"))
        );
        // Also by another owner, which knows it from the journal; no check changes that.
        let noted = noted_entry(&life, ("R", "c"), "W", Timestamp(9), &TIMING);
        assert_eq!((noted.kind, noted.attempt), (EntryKind::Intent, 1));
        let Verdict::Resume(restored) = judge(&accepted(), 0, 7, known(Some(noted)), &TIMING)
        else {
            panic!("looked up first")
        };
        for mut life in [life, restored] {
            assert!(life.is_noted());
            let absent = Finding::Absent { asked_at: SIGHT.now };
            let step = life.looked_up(absent, SIGHT, &TIMING);
            let entry = entry_of(&life, step);
            assert_eq!((entry.outcome, entry.erp_code), (Some(Outcome::InDoubt), Some(20)));
            assert!(entry.explanation.en().is_some_and(|reason| reason.contains("check_fail")));
        }
    }

    #[test]
    fn a_record_of_unknown_time_is_young_only_where_nothing_was_forgotten() {
        let (now, horizon) = (Timestamp(10_000_000), Duration::from_secs(1000));
        let old = |offset, forgotten_to, lost_at| {
            let new = untimed_is_new(offset, forgotten_to);
            may_be_forgotten(None, now, horizon, lost_at, new)
        };
        assert!(!old(0, None, None), "nothing was forgotten");
        assert!(old(6, Some(7), None) && !old(7, Some(7), None));
        assert!(old(7, Some(7), Some(Timestamp(1))), "a declared loss");
        assert!(!may_be_forgotten(Some(now), now, horizon, None, false), "a known time decides");
    }

    #[test]
    fn a_later_rejection_is_final_only_when_nothing_is_found() {
        let mut life = called();
        let _ = life.answered(unknown(), Moment(0), true, Moment(0), &TIMING);
        let _ = absent(&mut life, SIGHT.now, &TIMING);
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
        let Step::Settle(ending) = absent(&mut life, later, &TIMING) else { panic!("settles") };
        assert_eq!(ending.outcome, Outcome::Rejected);
        assert_eq!(
            called().answered(Answer::Rejected(refusal()), Moment(0), true, Moment(0), &TIMING),
            Step::Settle(Ending::rejected(None))
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
        let step = absent(&mut life, SIGHT.now, &TIMING);
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
            let step = absent(&mut life, SIGHT.now, &TIMING);
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
            nonce: resolved.then(|| "redrivable".to_owned()),
            candidates: vec!["CK9".into()],
            ..crate::sink::settle::bare_entry(EntryKind::Outcome, 0, "W", Timestamp(1))
        }
    }

    #[test]
    fn an_intent_that_replaced_a_decision_is_not_withdrawn() {
        // In doubt without ever having been called, found not to exist, and sent again.
        let decided = JournalEntry { attempt: 0, version: 2, ..entry(Outcome::Rejected, true) };
        let replay = Known { replayed: true, ..known(Some(decided)) };
        let Verdict::Resume(mut life) = judge(&accepted(), 0, 7, replay, &TIMING) else {
            panic!("asked about first")
        };
        life.intended(life.next_attempt(), Timestamp(2));
        assert_eq!((life.attempt, life.may_be_withdrawn()), (1, false));
        assert!(called().may_be_withdrawn());
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
        let settled = [(Outcome::Rejected, false), (Outcome::Created, true)];
        let settled = settled.map(|(outcome, resolved)| entry(outcome, resolved));
        let decided_for_good = JournalEntry { nonce: None, ..rejected.clone() };
        for entry in settled.into_iter().chain([decided_for_good]) {
            assert!(
                matches!(
                    judge(&accepted(), 0, 7, replay(entry.clone()), &TIMING),
                    Verdict::Duplicate(_)
                ),
                "{entry:?}"
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
        // Absence decides no earlier than the bound from now on, but needs no check: a person has
        // looked.
        let blind = |at| Sight { now: at, circuit_closed: true };
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
        let _ = absent(&mut life, SIGHT.now, &timing);
        life.intended(life.next_attempt(), Timestamp(2));
        let unapproved = Answer::Rejected(Refusal { unapproved: true, ..refusal() });
        assert_eq!(
            life.answered(unapproved, SIGHT.now, true, SIGHT.now, &timing),
            Step::Ask { at: SIGHT.now }
        );
        let later = SIGHT.now.plus(timing.bound()).plus(timing.lookup_interval);
        let step = absent(&mut life, later, &timing);
        assert_eq!(
            (step, life.next_attempt()),
            (Step::Later { pause: timing.unapproved_pause() }, 2),
            "no attempt is counted"
        );
    }

    #[test]
    fn what_was_answered_and_does_not_count_does_not_count_after_a_restart_either() {
        let timing = Timing { unapproved_retry_timeout: Duration::from_secs(100_000), ..TIMING };
        let restarted = |entry: JournalEntry| {
            let Verdict::Resume(life) = judge(&accepted(), 0, 7, known(Some(entry)), &timing)
            else {
                panic!("resumes")
            };
            life
        };
        let (pair, mut at) = (("R", "c"), SIGHT.now);
        let mut life = called();
        let _ = life.answered(unknown(), at, true, at, &timing);
        for _ in 0..5 {
            at = at.plus(Duration::from_secs(1000));
            assert_ne!(
                absent(&mut life, at, &timing).word(),
                "settle",
                "one attempt is unanswered, and two are allowed"
            );
            assert_eq!(life.next_attempt(), 2);
            life.intended(2, Timestamp(2));
            let unapproved = Answer::Rejected(Refusal { unapproved: true, ..refusal() });
            let _ = life.answered(unapproved, at, true, at, &timing);
            assert!(life.is_noted());
            life = restarted(noted_entry(&life, pair, "W", Timestamp(3), &timing));
            assert_eq!((life.attempt, life.counted), (2, 1));
        }
        // The answer was lost with the process: the attempt counts once it is followed by another.
        life.intended(life.next_attempt(), Timestamp(4));
        let unanswered =
            JournalEntry { attempt: 2, ..intent_entry(&life, pair, "W", Timestamp(4), &timing) };
        life = restarted(unanswered);
        let _ = absent(&mut life, at, &timing);
        assert_eq!((life.next_attempt(), life.counted), (3, 1));
        // Nor do attempts of an outage count, however many there were.
        life.intended(3, Timestamp(5));
        for _ in 0..5 {
            let _ = life.answered(unknown(), at, false, at, &timing);
            at = at.plus(Duration::from_secs(1000));
            assert_eq!(absent(&mut life, at, &timing), Step::Intend);
            assert_eq!(life.next_attempt(), 3);
            life.intended(3, Timestamp(6));
        }
    }

    #[test]
    fn an_orphan_is_looked_for_as_long_as_any_other_and_never_called() {
        let entry = intent_entry(&called(), ("R", "c"), "W", Timestamp(3), &TIMING);
        let (at, decided) = (Moment(1000), Moment(1000 + 15_000 + 30_000 + 90_000 + 30_000));
        let orphan = || orphaned(&accepted(), &entry, at, &TIMING);
        let looked = |finding: Finding, now: Moment| {
            orphan().looked_up(finding, Sight { now, ..SIGHT }, &TIMING)
        };
        let early = Moment(decided.0 - 1);
        assert_eq!(
            looked(Finding::Absent { asked_at: early }, early),
            Step::Ask { at: decided },
            "an early absence decides nothing"
        );
        let Step::Settle(ending) = looked(Finding::Absent { asked_at: decided }, decided) else {
            panic!("settles without a check: no call follows")
        };
        assert_eq!(ending.outcome, Outcome::InDoubt);
        let Step::Settle(ending) = looked(Finding::Found(vec!["CK1".into()]), at) else {
            panic!("settles")
        };
        assert_eq!((ending.outcome, ending.recovered), (Outcome::Created, true));
    }

    #[test]
    fn a_record_that_reads_otherwise_than_when_it_was_called_is_no_conflict_with_itself() {
        let mut entry = intent_entry(&called(), ("R", "c"), "W", Timestamp(3), &TIMING);
        entry.fingerprint[0] ^= 1;
        let verdict = |partition, offset| {
            judge(&accepted(), partition, offset, known(Some(entry.clone())), &TIMING)
        };
        let Verdict::Resume(life) = verdict(0, 7) else { panic!("resumes") };
        assert!(life.doubt.is_some_and(|doubt| doubt.orphaned));
        assert_eq!(life.fingerprint[..], entry.fingerprint);
        assert!(matches!(verdict(0, 8), Verdict::Conflict), "a copy with other content");
        assert!(matches!(verdict(1, 7), Verdict::Conflict));
    }
}
