//! Calls to the ERP by the tools, beside instances that run: they cannot see each other's calls, so
//! a tool takes a part of what the feeds leave over. One way for all tools.

use std::{fmt, sync::Arc};

use crate::{
    config::{QuotaSettings, Settings},
    erp::{Call, Erp},
    metrics::Metrics,
};

use super::estimate;

/// The part of what is left that a tool takes: the rest is for commands, lookups and changed
/// records.
const PART: f64 = 1.0 / 3.0;

/// How fast a tool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// One or two questions: as an instance would.
    Question,
    /// Many, so many a minute.
    Reading(u32),
}

impl Pace {
    /// Many calls of this kind: as many a minute as the operator says, else a part of what the
    /// configured feeds leave over while nothing changes.
    pub(super) fn of(settings: &Settings, call: Call, wanted: Option<u32>) -> Self {
        let QuotaSettings { calls_per_minute, share, .. } = settings.quota;
        let left = f64::from(calls_per_minute) * share - estimate::idle_per_minute(settings, call);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at least 1, and less than a u32"
        )]
        let part = (left * PART).floor().max(1.0) as u32;
        Self::Reading(wanted.unwrap_or(part))
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Question => out.write_str("one call at a time"),
            Self::Reading(1) => out.write_str("1 call a minute"),
            Self::Reading(calls) => write!(out, "at most {calls} calls a minute"),
        }
    }
}

/// The ERP for a tool.
pub(super) fn erp(settings: &Settings, pace: Pace) -> anyhow::Result<Erp> {
    let mut settings = settings.clone();
    settings.quota.burst = 1;
    if let Pace::Reading(calls_per_minute) = pace {
        settings.quota.calls_per_minute = calls_per_minute;
        settings.quota.share = 1.0;
    }
    Ok(Erp::new(&settings, Arc::new(Metrics::new()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(quota: &str, call: Call, wanted: Option<u32>) -> Pace {
        let feed = "enabled = true\nstart_at = \"2026-01-01T00:00:00Z\"\n";
        let text = format!(
            "[quota]\n{quota}\n[erp.flagship]\nurl = \"http://e/\"\nsid = \"s\"\nkey = \"k\"\n\
             [feeds.purchase_returns]\n{feed}[feeds.return_outbounds]\n{feed}poll_interval = \"10s\"\n"
        );
        let env = [("WDT__ERP__FLAGSHIP__SECRET".to_owned(), "x:y".to_owned())];
        Pace::of(&crate::config::from_toml(&text, env.into_iter()).unwrap().settings, call, wanted)
    }

    #[test]
    fn a_tool_takes_a_third_of_what_the_feeds_leave_over() {
        // 50 − 1 − 0.2, and 50 − 6 − 0.2.
        assert_eq!(pace("", Call::QueryPurchaseReturns, None), Pace::Reading(16));
        assert_eq!(pace("", Call::QueryOutbounds, None), Pace::Reading(14));
        assert_eq!(pace("", Call::QueryOutboundsEnterprise, None), Pace::Reading(16));
        // 25 − 1.2, and all of the account's: 50 − 7.4.
        assert_eq!(pace("share = 0.5", Call::QueryPurchaseReturns, None), Pace::Reading(7));
        let account = "scope = \"account\"";
        assert_eq!(pace(account, Call::QueryPurchaseReturns, None), Pace::Reading(14));
        assert_eq!(pace("calls_per_minute = 5", Call::QueryOutbounds, None), Pace::Reading(1));
        assert_eq!(pace("", Call::QueryOutbounds, Some(40)), Pace::Reading(40));
    }

    #[tokio::test]
    async fn the_budget_of_a_tool_is_its_pace() {
        let text = "[quota]\nshare = 0.5\n";
        let settings = crate::config::from_toml(text, std::iter::empty()).unwrap().settings;
        let rate = |pace| erp(&settings, pace).unwrap().quota().rate(Call::QueryOutbounds);
        assert!((rate(Pace::Reading(7)) - 7.0).abs() < 1e-9);
        assert!((rate(Pace::Question) - 25.0).abs() < 1e-9);
    }
}
