//! What to ask for next when a page could not be read. Pure.
//!
//! Every way leads on: the page is read later, the window becomes shorter, or the ERP is down; a
//! second that cannot be read although the ERP answers is listed and passed.

use crate::erp::QueryFault;

use super::fetch::FetchFault;

/// Failures of one page in a row (each up to three attempts) before the window itself is suspected.
const SUSPECTED: u32 = 2;

/// What follows from a failed page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// The same page once more, after a pause.
    Wait,
    /// Another second shows whether the ERP is down ([`Remedy::Wait`]) or the window is at fault
    /// ([`Remedy::Shorten`]).
    AskElsewhere,
    /// Half the window; a single second is listed and passed.
    Shorten,
    /// Fewer rows a page.
    SmallerPages,
    /// A person must act; `anew`: on what the window asks for.
    Person { anew: bool },
}

/// What follows from the `failures`-th failure in a row of one page.
#[must_use]
pub(super) fn remedy(fault: &FetchFault, failures: u32) -> Remedy {
    match fault {
        FetchFault::Query(fault) => match fault {
            QueryFault::Throttled { .. } | QueryFault::Unreachable { .. } => Remedy::Wait,
            QueryFault::Unusable { .. } | QueryFault::Unlisted { .. } if failures < SUSPECTED => {
                Remedy::Wait
            }
            QueryFault::Unusable { .. } | QueryFault::Unlisted { .. } => Remedy::AskElsewhere,
            QueryFault::TooWide { .. } => Remedy::Shorten,
            QueryFault::TooLong { .. } => Remedy::SmallerPages,
            QueryFault::Misconfigured { .. } => Remedy::Person { anew: false },
            QueryFault::Rejected { .. } => Remedy::Person { anew: true },
        },
        FetchFault::PagingIgnored { .. } => Remedy::Person { anew: true },
    }
}

/// What follows once another second was asked for: `answered`, or not either.
#[must_use]
pub(super) fn asked_elsewhere(fault: &FetchFault, answered: bool) -> Remedy {
    match fault {
        _ if answered => Remedy::Shorten,
        // It is up, and refuses whatever it is asked.
        FetchFault::Query(QueryFault::Unlisted { .. }) => Remedy::Person { anew: false },
        FetchFault::Query(_) | FetchFault::PagingIgnored { .. } => Remedy::Wait,
    }
}

/// Whether a question about one record is better put another way; else the ERP is away, or refuses
/// the account.
#[must_use]
pub(super) fn answers_another_question(fault: &FetchFault) -> bool {
    match fault {
        FetchFault::Query(fault) => match fault {
            QueryFault::Rejected { .. }
            | QueryFault::Unlisted { .. }
            | QueryFault::Unusable { .. }
            | QueryFault::TooWide { .. }
            | QueryFault::TooLong { .. } => true,
            QueryFault::Throttled { .. }
            | QueryFault::Unreachable { .. }
            | QueryFault::Misconfigured { .. } => false,
        },
        FetchFault::PagingIgnored { .. } => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::erp::{Call, Refusal};

    #[test]
    fn an_outage_shortens_nothing_and_a_window_too_wide_at_once() {
        let call = Call::QueryPurchaseReturns;
        let reason = || "gone".to_owned();
        let refusal = || Refusal {
            code: 100,
            message: "no".to_owned(),
            explanation: None,
            unapproved: false,
        };
        let unusable = FetchFault::Query(QueryFault::Unusable { call, reason: reason() });
        assert_eq!(remedy(&unusable, 1), Remedy::Wait);
        assert_eq!(remedy(&unusable, 2), Remedy::AskElsewhere);
        assert_eq!(remedy(&unusable, 99), Remedy::AskElsewhere);
        assert_eq!(asked_elsewhere(&unusable, true), Remedy::Shorten);
        assert_eq!(asked_elsewhere(&unusable, false), Remedy::Wait);
        let unlisted = FetchFault::Query(QueryFault::Unlisted { call, refusal: refusal() });
        assert_eq!(remedy(&unlisted, 1), Remedy::Wait);
        assert_eq!(remedy(&unlisted, 2), Remedy::AskElsewhere);
        assert_eq!(asked_elsewhere(&unlisted, true), Remedy::Shorten);
        assert_eq!(asked_elsewhere(&unlisted, false), Remedy::Person { anew: false });
        for (fault, expected) in [
            (QueryFault::Unreachable { call, reason: reason() }, Remedy::Wait),
            (QueryFault::Throttled { call, message: reason() }, Remedy::Wait),
            (QueryFault::TooWide { call, refusal: refusal() }, Remedy::Shorten),
            (QueryFault::TooLong { call, reason: reason() }, Remedy::SmallerPages),
            (
                QueryFault::Misconfigured { call, refusal: refusal() },
                Remedy::Person { anew: false },
            ),
            (QueryFault::Rejected { call, refusal: refusal() }, Remedy::Person { anew: true }),
        ] {
            for failures in [1, 2, 99] {
                assert_eq!(remedy(&fault.clone().into(), failures), expected, "{fault:?}");
            }
        }
    }
}
