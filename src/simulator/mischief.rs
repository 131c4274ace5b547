//! Scripted mischief: which request meets which fault, by seed and count.
//!
//! One rule in one line: `target:fault=chance`, where the chance is a probability (`0.02`), a count
//! (`3x`: the next three) or a place (`@2`: the second from now, and no other).
//!
//! Targets: `createOrder`, `purchaseReturns`, `outbounds`, `enterprise`, `query` (the three
//! queries), `all`.
//!
//! | fault | what happens |
//! |---|---|
//! | `applied_timeout`, `applied_reset`, `applied_5xx`, `applied_garbage` | executed, then no answer until the client gives up; connection reset; 502; a page that is no JSON |
//! | `timeout`, `reset`, `5xx`, `garbage` | the same without being executed |
//! | `truncated` | executed; the answer breaks off in the middle |
//! | `flood(BYTES)`, `endless`, `drip` | executed; an answer of that many bytes, one without end, or one byte a second without end |
//! | `throttle`, `concurrency` | refused as over the quota; not executed |
//! | `slow(100ms)`, `slow(100ms..500ms)` | answered that much later |
//! | `delayed_apply(2s)` | executed that long after it arrived, whether or not the connection still stands |
//! | `late(5s)` | executed at once, seen by queries that much later |
//! | `strip_remark`, `rewrite_remark` | the order is made, without remark or with another one |
//! | `cut_remark(N)`, `prefix_remark` | the order is made with the first N characters of its remark, or with `[接口创建出库单]` before it |
//! | `modify(2)` | before the query answers, two of the records it would find are modified |
//! | `ignore_page` | the query answers with page 0, whatever was asked |
//! | `refuse(CODE,TEXT)`, `applied_refuse(CODE,TEXT)` | refused with this code and text; not executed, or executed all the same |
//! | `inner_refuse(STATUS,TEXT)` | the same in `data`, under an outer status of 0; not executed |
//! | `inner_reject` | `inner_refuse` with 1 and a text of the ERP's |
//! | `created(STATUS,TEXT)` | the order is made, and `data` holds this instead of 0 and its number |
//! | `created_check_fail` | `created` with 20, the status of an order whose approval failed |
//! | `bom` | a byte order mark (EF BB BF) stands before the answer |
//! | `hide_warehouse(NO)` | the query leaves out records of this warehouse |
//! | `stale(MOMENT)` | the query leaves out records created after `yyyy-MM-dd HH:mm:ss` (Beijing), or within the last so long (`10m`), as a replica that lags |
//! | `withhold`, `withhold_double` | one row of the page is left out; its neighbour stands twice |
//! | `short_page(N)` | a page that is not the last has `N` rows |
//! | `neighbour_page` | the rows of the next page, for the last page of the one before |
//! | `count_off(N)` | the count is off by `N`, such as -1 or 1 |
//! | `empty_form(FORM)` | an answer without rows is written in this form: `data_array`, `data_object`, `data_null`, `data_absent`, `order_object`, `order_null`, `order_absent` |
//! | `broken_character`, `raw_newline` | the remark of one record holds half a character (E7 A0), or a line feed as it is; `(NUMBER)` says which record |
//! | `sid`, `signature`, `permission`, `warehouse_access`, `ip`, `clock`, `version`, `second_factor` | misconfigured: the ERP's answer to it |
//! | `database`, `other`, `applied_database` | codes 4 and 99, and 4 after it was executed |
//! | `no_status` | an error without `status` |
//!
//! The faults from `withhold` to `raw_newline` meet queries over a window, one an answer, and count
//! only answers that can show them. A read whose count is too low *and* that lacks a row cannot be
//! told from a good one. So once a rule of low counts was added, each selection (window, statuses,
//! filters) is by the seed one whose counts may be too low or one whose rows may be withheld and
//! shuffled; a low count never takes away a page, and is followed by [`BETWEEN_LOW_COUNTS`] counts of
//! that selection that are not too low.
//!
//! A text may hold commas, and brackets in pairs. `hide_warehouse(NO,with_status)` and
//! `stale(MOMENT,without_status)` strike only queries that ask for statuses, or for none.

use std::{collections::BTreeMap, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Call,
    page::{Found, PageFault, number_of},
    query::Query,
    rng::{Rng, mix},
    table::Selection,
    time::{parse_beijing, parse_span, span_ms},
};

/// Which requests a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    One(Call),
    Queries,
    All,
}

impl Target {
    fn meets(self, call: Call) -> bool {
        match self {
            Self::One(one) => one == call,
            Self::Queries => call != Call::CreateOrder,
            Self::All => true,
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "createOrder" | "create_order" => Ok(Self::One(Call::CreateOrder)),
            "purchaseReturns" | "purchase_returns" => Ok(Self::One(Call::PurchaseReturns)),
            "outbounds" => Ok(Self::One(Call::Outbounds)),
            "enterprise" => Ok(Self::One(Call::EnterpriseOutbounds)),
            "query" => Ok(Self::Queries),
            "all" => Ok(Self::All),
            other => Err(format!(
                "\"{other}\" is no target of faults; use createOrder, purchaseReturns, outbounds, enterprise, query or all"
            )),
        }
    }
}

/// How a request ends when nothing better is scripted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The ERP's own answer.
    Answer,
    /// No answer until the client gives up.
    Hold,
    /// The connection is reset.
    Reset,
    /// This HTTP status with a page of text.
    Http(u16),
    /// HTTP 200 with something that is no JSON.
    Garbage,
    /// The declared length is not reached.
    Truncated,
    /// This many bytes.
    Flood(u64),
    Endless,
    /// One byte a second.
    Drip,
    /// A refusal the ERP itself could give.
    Refusal(Refusal),
}

/// Refusals that are scripted rather than earned; `wire` knows each edition's code and text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Throttle,
    Concurrency,
    /// This code and text.
    Outer(i64, String),
    /// This `data.status` and `data.message`.
    Inner(i64, String),
    Sid,
    Signature,
    Permission,
    WarehouseAccess,
    Ip,
    Clock,
    Version,
    SecondFactor,
    Database,
    Other,
    NoStatus,
}

/// What becomes of an order's remark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RemarkFate {
    #[default]
    Kept,
    Stripped,
    Rewritten,
    /// Its first so many characters.
    Cut(usize),
    /// Behind a text of the ERP's.
    Prefixed,
}

/// Which records a query leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hidden {
    Warehouse(String),
    /// Created after this Unix second.
    CreatedAfter(i64),
    /// Created less than this before the query.
    CreatedWithin(Duration),
}

/// Queries by whether they ask for statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asking {
    Either,
    WithStatus,
    WithoutStatus,
}

impl Asking {
    pub(super) fn meets(self, with_status: bool) -> bool {
        match self {
            Self::Either => true,
            Self::WithStatus => with_status,
            Self::WithoutStatus => !with_status,
        }
    }
}

/// One kind of mischief.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Ends the request in this way, executed before or not at all.
    End {
        end: End,
        applied: bool,
    },
    /// Answered later, between these.
    Slow(Duration, Duration),
    DelayedApply(Duration),
    Late(Duration),
    Remark(RemarkFate),
    Modify(u32),
    IgnorePage,
    /// The order is made; `data.status` and `data.message` of the answer to it.
    Created(i64, String),
    Bom,
    Hide(Hidden, Asking),
    Page(PageFault),
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, argument) = match text.split_once('(') {
            Some((name, rest)) => (
                name,
                Some(
                    rest.strip_suffix(')')
                        .ok_or_else(|| format!("\"{text}\" lacks a closing bracket"))?,
                ),
            ),
            None => (text, None),
        };
        let span =
            || {
                parse_span(argument.ok_or_else(|| {
                    format!("\"{name}\" needs a duration, for example {name}(2s)")
                })?)
            };
        let number = || {
            let digits = argument
                .ok_or_else(|| format!("\"{name}\" needs a number, for example {name}(2)"))?;
            digits
                .parse::<u64>()
                .map_err(|_| format!("\"{digits}\" in \"{text}\" is not a whole number"))
        };
        let code_and_text = || {
            let read = argument.and_then(|both| both.split_once(','));
            let read = read
                .and_then(|(code, text)| Some((code.trim().parse().ok()?, text.trim().to_owned())));
            read.ok_or_else(|| {
                format!("\"{name}\" needs a number and a text, for example {name}(100,无此单据)")
            })
        };
        let hidden = |kind: fn(&str) -> Option<Hidden>| {
            let argument = argument.unwrap_or_default();
            let (what, asking) = match argument.rsplit_once(',') {
                Some((what, "with_status")) => (what, Asking::WithStatus),
                Some((what, "without_status")) => (what, Asking::WithoutStatus),
                _ => (argument, Asking::Either),
            };
            kind(what).map(|hidden| Self::Hide(hidden, asking)).ok_or_else(|| {
                format!("\"{text}\" does not say what to hide; write hide_warehouse(1001), stale(10m) or stale(2026-01-31 10:00:00), and with_status or without_status after a comma")
            })
        };
        let not_applied = |end| Ok(Self::End { end, applied: false });
        let applied = |end| Ok(Self::End { end, applied: true });
        let refusal = |refusal| Ok(Self::End { end: End::Refusal(refusal), applied: false });
        match name {
            "applied_timeout" => applied(End::Hold),
            "applied_reset" => applied(End::Reset),
            "applied_5xx" => applied(End::Http(502)),
            "applied_garbage" => applied(End::Garbage),
            "timeout" => not_applied(End::Hold),
            "reset" => not_applied(End::Reset),
            "5xx" => not_applied(End::Http(502)),
            "garbage" => not_applied(End::Garbage),
            "truncated" => applied(End::Truncated),
            "flood" => applied(End::Flood(number()?)),
            "endless" => applied(End::Endless),
            "drip" => applied(End::Drip),
            "throttle" => refusal(Refusal::Throttle),
            "concurrency" => refusal(Refusal::Concurrency),
            "slow" => {
                let (from, to) = argument.and_then(|range| range.split_once("..")).map_or_else(
                    || span().map(|fixed| (fixed, fixed)),
                    |(from, to)| Ok((parse_span(from)?, parse_span(to)?)),
                )?;
                Ok(Self::Slow(from, to.max(from)))
            }
            "delayed_apply" => Ok(Self::DelayedApply(span()?)),
            "late" => Ok(Self::Late(span()?)),
            "strip_remark" => Ok(Self::Remark(RemarkFate::Stripped)),
            "rewrite_remark" => Ok(Self::Remark(RemarkFate::Rewritten)),
            "cut_remark" => {
                let most = usize::try_from(number()?).unwrap_or(usize::MAX);
                Ok(Self::Remark(RemarkFate::Cut(most)))
            }
            "prefix_remark" => Ok(Self::Remark(RemarkFate::Prefixed)),
            "modify" => Ok(Self::Modify(u32::try_from(number()?).unwrap_or(u32::MAX))),
            "ignore_page" => Ok(Self::IgnorePage),
            "refuse" => {
                code_and_text().and_then(|(code, text)| refusal(Refusal::Outer(code, text)))
            }
            "applied_refuse" => code_and_text()
                .and_then(|(code, text)| applied(End::Refusal(Refusal::Outer(code, text)))),
            "inner_refuse" => {
                code_and_text().and_then(|(code, text)| refusal(Refusal::Inner(code, text)))
            }
            "inner_reject" => {
                refusal(Refusal::Inner(1, "出库单对应的采购退换单状态错误".to_owned()))
            }
            "created" => code_and_text().map(|(status, text)| Self::Created(status, text)),
            "created_check_fail" => {
                Ok(Self::Created(20, "check_fail 审核成功, 推送WMS失败".to_owned()))
            }
            "bom" => Ok(Self::Bom),
            "hide_warehouse" => {
                hidden(|no| (!no.is_empty()).then(|| Hidden::Warehouse(no.to_owned())))
            }
            "stale" => hidden(|moment| {
                parse_beijing(moment)
                    .map(Hidden::CreatedAfter)
                    .or_else(|| parse_span(moment).ok().map(Hidden::CreatedWithin))
            }),
            "sid" => refusal(Refusal::Sid),
            "signature" => refusal(Refusal::Signature),
            "permission" => refusal(Refusal::Permission),
            "warehouse_access" => refusal(Refusal::WarehouseAccess),
            "ip" => refusal(Refusal::Ip),
            "clock" => refusal(Refusal::Clock),
            "version" => refusal(Refusal::Version),
            "second_factor" => refusal(Refusal::SecondFactor),
            "database" => refusal(Refusal::Database),
            "applied_database" => applied(End::Refusal(Refusal::Database)),
            "other" => refusal(Refusal::Other),
            "no_status" => refusal(Refusal::NoStatus),
            other => PageFault::read(other, argument)?.map(Self::Page).ok_or_else(|| {
                format!("\"{other}\" is no fault; `wdt-connector simulate --help` lists them")
            }),
        }
    }
}

/// How often a rule strikes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Chance {
    Probability(f64),
    /// The next so many matching requests.
    Next(u32),
    /// The matching request at this place, counted from 1.
    At(u32),
}

/// One line of the script.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rule {
    /// As it was written.
    pub text: String,
    /// The part of it that names the fault.
    pub name: String,
    pub target: Target,
    pub fault: Fault,
    pub chance: Chance,
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || {
            format!(
                "\"{text}\" is no fault rule; write target:fault=probability or target:fault=3x, for example createOrder:applied_timeout=0.02"
            )
        };
        let (target, rest) = text.trim().split_once(':').ok_or_else(refuse)?;
        // The last one: a text may hold others.
        let (fault, chance) = rest.rsplit_once('=').ok_or_else(refuse)?;
        let chance = match (chance.strip_suffix('x'), chance.strip_prefix('@')) {
            (Some(count), _) => Chance::Next(count.parse().map_err(|_| refuse())?),
            (None, Some(place)) => {
                Chance::At(place.parse::<u32>().ok().filter(|place| *place > 0).ok_or_else(refuse)?)
            }
            (None, None) => {
                let probability: f64 = chance.parse().map_err(|_| refuse())?;
                if !(0.0..=1.0).contains(&probability) {
                    return Err(format!("the probability in \"{text}\" is not between 0 and 1"));
                }
                Chance::Probability(probability)
            }
        };
        Ok(Self {
            text: text.trim().to_owned(),
            name: fault.trim().to_owned(),
            target: target.parse()?,
            fault: fault.parse()?,
            chance,
        })
    }
}

/// Reads rules divided by commas.
///
/// # Errors
/// One sentence naming the rule that cannot be read.
pub(crate) fn parse_rules(text: &str) -> Result<Vec<Rule>, String> {
    let mut depth = 0_usize;
    // Commas within brackets are a fault's own.
    let rules = text.split(|character| {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        character == ',' && depth == 0
    });
    rules.filter(|rule| !rule.trim().is_empty()).map(str::parse).collect()
}

/// What one request will meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub end: End,
    pub applied: bool,
    pub slow: Duration,
    pub apply_after: Option<Duration>,
    pub late_ms: Option<u64>,
    pub remark: RemarkFate,
    pub modify: u32,
    pub ignore_page: bool,
    /// `data.status` and `data.message` of the answer to a new order.
    pub created: Option<(i64, String)>,
    pub bom: bool,
    pub hidden: Vec<(Hidden, Asking)>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            end: End::Answer,
            applied: true,
            slow: Duration::ZERO,
            apply_after: None,
            late_ms: None,
            remark: RemarkFate::Kept,
            modify: 0,
            ignore_page: false,
            created: None,
            bom: false,
            hidden: Vec::new(),
        }
    }
}

#[derive(Debug)]
struct Armed {
    rule: Rule,
    rng: Rng,
    struck: u64,
}

impl Armed {
    /// Whether the rule strikes. `met`: the request has met one of its kind, so that a counted rule
    /// waits for the next.
    fn strikes(&mut self, met: bool) -> bool {
        let strikes = match &mut self.rule.chance {
            Chance::At(place @ 2..) => {
                *place -= 1;
                false
            }
            chance @ Chance::At(_) => {
                if !met {
                    *chance = Chance::Next(0);
                }
                !met
            }
            Chance::Probability(probability) => self.rng.chance(*probability) && !met,
            Chance::Next(0) => false,
            Chance::Next(left) => {
                *left -= u32::from(!met);
                !met
            }
        };
        self.struck += u64::from(strikes);
        strikes
    }
}

/// Counts of a selection between two that are too low: one read asks for two of them.
const BETWEEN_LOW_COUNTS: u32 = 4;

/// The script and its chance; each rule draws from a stream of its own, so that one does not shift
/// another's.
#[derive(Debug)]
pub(super) struct Mischief {
    seed: u64,
    armed: Vec<Armed>,
    added: u64,
    /// How often each fault has struck, by its name.
    struck: BTreeMap<String, u64>,
    /// A rule of low counts was added at some time: a read that is under way may have met it.
    low_counts: bool,
    /// Selections that met a low count, and how many counts they have yet to meet before the next.
    resting: BTreeMap<u64, u32>,
}

/// A rule as the admin API lists it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RuleState {
    pub rule: String,
    /// Requests it has met.
    pub struck: u64,
    /// For counted rules: how many it will still meet.
    pub left: Option<u32>,
}

/// The body of `POST /admin/faults`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Script {
    pub rules: String,
    /// Forget the rules there are.
    #[serde(default)]
    pub replace: bool,
}

impl Mischief {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            armed: Vec::new(),
            added: 0,
            struck: BTreeMap::new(),
            low_counts: false,
            resting: BTreeMap::new(),
        }
    }

    pub(super) fn add(&mut self, rules: Vec<Rule>) {
        for rule in rules {
            self.added += 1;
            self.low_counts |= matches!(&rule.fault, Fault::Page(fault) if fault.counts_low());
            self.armed.push(Armed { rule, rng: Rng::new(self.seed ^ mix(self.added)), struck: 0 });
        }
    }

    pub(super) fn clear(&mut self) {
        self.armed.clear();
    }

    pub(super) fn list(&self) -> Vec<RuleState> {
        let left = |chance| match chance {
            Chance::Probability(_) => None,
            Chance::Next(left) => Some(left),
            Chance::At(_) => Some(1),
        };
        self.armed
            .iter()
            .map(|armed| RuleState {
                rule: armed.rule.text.clone(),
                struck: armed.struck,
                left: left(armed.rule.chance),
            })
            .collect()
    }

    /// What the next request of this call meets. The first rule that ends a request wins; the
    /// others add up.
    pub(super) fn draw(&mut self, call: Call) -> Plan {
        let mut plan = Plan::default();
        let mut ended = false;
        for armed in self.armed.iter_mut().filter(|armed| armed.rule.target.meets(call)) {
            // Decided when the page is known.
            if matches!(armed.rule.fault, Fault::Page(_)) {
                continue;
            }
            let ends = matches!(armed.rule.fault, Fault::End { .. });
            if !armed.strikes(ends && ended) {
                continue;
            }
            *self.struck.entry(armed.rule.name.clone()).or_default() += 1;
            ended |= ends;
            match &armed.rule.fault {
                Fault::End { end, applied } => (plan.end, plan.applied) = (end.clone(), *applied),
                Fault::Slow(from, to) => {
                    let extra = armed.rng.below(span_ms(to.saturating_sub(*from)) + 1);
                    plan.slow += *from + Duration::from_millis(extra);
                }
                Fault::DelayedApply(delay) => plan.apply_after = Some(*delay),
                Fault::Late(late) => plan.late_ms = Some(span_ms(*late)),
                Fault::Remark(fate) => plan.remark = *fate,
                Fault::Modify(count) => plan.modify += count,
                Fault::IgnorePage => plan.ignore_page = true,
                Fault::Created(status, text) => plan.created = Some((*status, text.clone())),
                Fault::Bom => plan.bom = true,
                Fault::Hide(hidden, asking) => plan.hidden.push((hidden.clone(), *asking)),
                Fault::Page(_) => {}
            }
        }
        self.armed.retain(|armed| armed.rule.chance != Chance::Next(0));
        plan
    }

    /// How often each fault has struck.
    pub(super) fn struck(&self) -> BTreeMap<String, u64> {
        self.struck.clone()
    }

    /// Whether counts of this selection may be too low, and none of its rows is withheld or shuffled.
    pub(super) fn takes_low_counts(&self, call: Call, selection: &Selection) -> bool {
        self.low_counts && mix(self.seed ^ number_of(call, selection)) & 1 == 1
    }

    /// What the page of a query over a window meets, and the chance that decides about its row. The
    /// first rule that strikes wins.
    pub(super) fn draw_page(&mut self, query: &Query, found: &Found) -> Option<(PageFault, u64)> {
        let low_counts = self.takes_low_counts(query.call, &query.selection);
        let number = if low_counts { number_of(query.call, &query.selection) } else { 0 };
        let rests = self.resting.contains_key(&number);
        let mut drawn = None;
        for armed in self.armed.iter_mut().filter(|armed| armed.rule.target.meets(query.call)) {
            let Fault::Page(fault) = &armed.rule.fault else { continue };
            if !fault.fits(query, found, low_counts) || fault.counts_low() && rests {
                continue;
            }
            let fault = fault.clone();
            if armed.strikes(drawn.is_some()) {
                *self.struck.entry(armed.rule.name.clone()).or_default() += 1;
                drawn = Some((fault, armed.rng.next()));
            }
        }
        self.armed.retain(|armed| armed.rule.chance != Chance::Next(0));
        if drawn.as_ref().is_some_and(|(fault, _)| fault.counts_low()) {
            self.resting.insert(number, BETWEEN_LOW_COUNTS);
        } else if query.total
            && let Some(left) = self.resting.get_mut(&number)
        {
            *left -= 1;
            if *left == 0 {
                self.resting.remove(&number);
            }
        }
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read() {
        let rules = parse_rules("createOrder:applied_timeout=0.02, query:5xx=3x,all:slow(10ms..2s)=1,outbounds:modify(2)=1x").unwrap();
        assert_eq!(rules.len(), 4);
        assert_eq!(rules[0].fault, Fault::End { end: End::Hold, applied: true });
        assert_eq!(rules[1].chance, Chance::Next(3));
        assert_eq!(parse_rules("query:5xx=@2").unwrap()[0].chance, Chance::At(2));
        assert_eq!(rules[2].fault, Fault::Slow(Duration::from_millis(10), Duration::from_secs(2)));
        let rules = parse_rules("createOrder:refuse(100, 单据 (a=1, b:2) 不存在!)=2x,query:stale(2026-01-31 10:00:00,with_status)=1,query:hide_warehouse(1001)=1").unwrap();
        let refusal = Refusal::Outer(100, "单据 (a=1, b:2) 不存在!".to_owned());
        assert_eq!(rules[0].fault, Fault::End { end: End::Refusal(refusal), applied: false });
        assert_eq!(
            rules[1].fault,
            Fault::Hide(Hidden::CreatedAfter(1_769_824_800), Asking::WithStatus)
        );
        assert_eq!(
            rules[2].fault,
            Fault::Hide(Hidden::Warehouse("1001".to_owned()), Asking::Either)
        );
        let rules = parse_rules("query:count_off(-1)=0.1,query:broken_character(CK1)=1x").unwrap();
        assert_eq!(rules[0].fault, Fault::Page(PageFault::CountOff(-1)));
        assert_eq!(rules[0].name, "count_off(-1)");
        let broken = PageFault::Broken(&[0xe7, 0xa0], Some("CK1".to_owned()));
        assert_eq!(rules[1].fault, Fault::Page(broken));
        for wrong in [
            "createOrder:refuse=1",
            "createOrder:refuse(nothing,x)=1",
            "createOrder:created(20)=1",
            "query:stale(yesterday)=1",
            "query:hide_warehouse()=1",
            "x",
            "createOrder:5xx",
            "nobody:5xx=1",
            "all:nothing=1",
            "all:5xx=2",
            "all:late=1",
            "all:late(2s=1",
            "all:5xx=@0",
            "query:short_page=1",
            "query:count_off(0)=1",
            "query:empty_form(odd)=1",
        ] {
            let text = parse_rules(wrong).unwrap_err();
            assert!(text.contains('"'), "{wrong}: {text}");
        }
    }

    #[test]
    fn counted_rules_strike_in_turn_and_only_their_target() {
        let mut mischief = Mischief::new(1);
        mischief.add(
            parse_rules("createOrder:throttle=2x,createOrder:reset=1x,all:slow(5ms)=1").unwrap(),
        );
        assert_eq!(mischief.draw(Call::Outbounds).end, End::Answer);
        let ends: Vec<End> = (0..4).map(|_| mischief.draw(Call::CreateOrder).end).collect();
        let throttle = End::Refusal(Refusal::Throttle);
        assert_eq!(ends, [throttle.clone(), throttle, End::Reset, End::Answer]);
        assert_eq!(mischief.list().len(), 1, "spent rules are gone");
        mischief.add(parse_rules("createOrder:garbage=@2").unwrap());
        let ends: Vec<End> = (0..3).map(|_| mischief.draw(Call::CreateOrder).end).collect();
        assert_eq!(ends, [End::Answer, End::Garbage, End::Answer]);
        assert_eq!(mischief.draw(Call::CreateOrder).slow, Duration::from_millis(5));
    }

    #[test]
    fn the_same_seed_makes_the_same_mischief() {
        let run = |seed| {
            let mut mischief = Mischief::new(seed);
            mischief.add(parse_rules("createOrder:5xx=0.2").unwrap());
            (0..500)
                .map(|_| mischief.draw(Call::CreateOrder).end == End::Answer)
                .collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        let struck = run(7).iter().filter(|fine| !**fine).count();
        assert!((60..140).contains(&struck), "{struck} of 500 at 20 %");
    }
}
