//! What a configuration costs in calls to the ERP, per day.

use crate::{
    config::{Edition, Feed, FeedSettings, QuotaScope, QuotaSettings, Settings, duration_text},
    erp::Call,
    source::{change::call_of, entered, query, window::Window},
};

use super::report::Finding;

const DAY_MS: u64 = 86_400_000;

/// Calls of one measurement of the window rule, by what it finds: one that shows shipped orders, one
/// for the second in which one of them was shipped, and under the older rule one for the second in
/// which it was modified. 8 at most, where the first orders decide nothing.
const BY_MODIFIED: u64 = 3;
const BY_SHIPPING_TIME: u64 = 2;

/// One row per call that is in use, and one per account whose calls share a budget.
pub(super) fn findings(settings: &Settings) -> Vec<Finding> {
    let budget = per_day(settings);
    let mut rows: Vec<Finding> = Feed::ALL
        .into_iter()
        .filter(|feed| settings.feed(*feed).enabled)
        .map(|feed| feed_row(feed, settings.feed(feed), budget))
        .collect();
    if !rows.is_empty() || settings.commands.enabled {
        rows.insert(0, share_row(settings));
    }
    let mut left = budget;
    match settings.quota.scope {
        QuotaScope::Call => {}
        QuotaScope::Account => {
            left = budget.saturating_sub(idle_of(settings, Edition::Flagship));
            rows.extend(
                [Edition::Flagship, Edition::Enterprise]
                    .into_iter()
                    .filter_map(|edition| account_row(settings, edition, budget)),
            );
        }
    }
    if settings.commands.enabled {
        rows.push(Finding::good(
            "calls per day: commands",
            format!(
                "one {} per command, at most {left} a day; lookups only after an unknown answer or a crash (2 to 4 each)",
                call_word(Call::CreateOrder)
            ),
        ));
    }
    rows
}

/// Calls a day that this deployment may make of one budget.
fn per_day(settings: &Settings) -> u64 {
    let QuotaSettings { calls_per_minute, share, .. } = settings.quota;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, and far below the largest u64"
    )]
    let calls = (f64::from(calls_per_minute) * share * 1440.0).round() as u64;
    calls
}

/// The part of the quota that is configured, and what a deployment beside it needs to know.
fn share_row(settings: &Settings) -> Finding {
    let QuotaSettings { calls_per_minute, share, .. } = settings.quota;
    let subject = "quota share";
    if share < 1.0 {
        let rate = (f64::from(calls_per_minute) * share * 10.0).round() / 10.0;
        return Finding::good(
            subject,
            format!(
                "{share} of {calls_per_minute} calls a minute = {rate}; the shares of all deployments that use the appkey are 1 in sum at most"
            ),
        );
    }
    let feeds = Feed::ALL.into_iter().any(|feed| settings.feed(feed).enabled);
    let split = if settings.commands.enabled == feeds {
        ""
    } else {
        "; does another deployment use this appkey (one for commands, one for feeds)? Give each a quota.share"
    };
    Finding::good(subject, format!("all of {calls_per_minute} calls a minute{split}"))
}

/// Calls a minute that the feeds make from the budget of a call while nothing changes.
pub(super) fn idle_per_minute(settings: &Settings, call: Call) -> f64 {
    let pays = |feed: &Feed| {
        let edition = settings.feed(*feed).edition;
        match settings.quota.scope {
            QuotaScope::Call => call_of(*feed, edition) == call,
            QuotaScope::Account => edition == call.edition(),
        }
    };
    let idle = |feed: Feed| {
        // Whichever window rule holds.
        idle(feed, settings.feed(feed)).most() as f64 / 1440.0
    };
    Feed::ALL.into_iter().filter(|feed| settings.feed(*feed).enabled).filter(pays).map(idle).sum()
}

/// Calls a day of a feed while nothing changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Idle {
    live: u64,
    late: u64,
    /// Of counting again what the late pass has read, flagship only.
    counted: u64,
    /// Of measuring the window rule of shipped orders, and of reading their shipping days again,
    /// which only the newer rule takes.
    shipped: Option<Shipped>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shipped {
    /// Measurements.
    measured: u64,
    rounds: u64,
}

impl Idle {
    /// Under the older window rule, and under the newer one.
    fn both(self) -> (u64, u64) {
        let (measured, rounds) =
            self.shipped.map_or((0, 0), |shipped| (shipped.measured, shipped.rounds));
        let passes = self.live + self.late + self.counted;
        (passes + measured * BY_MODIFIED, passes + measured * BY_SHIPPING_TIME + rounds)
    }

    /// The most it can be.
    fn most(self) -> u64 {
        let (older, newer) = self.both();
        older.max(newer)
    }
}

/// What an account's feeds cost while nothing changes.
fn idle_of(settings: &Settings, edition: Edition) -> u64 {
    let feeds = Feed::ALL
        .into_iter()
        .map(|feed| (feed, settings.feed(feed)))
        .filter(|(_, section)| section.enabled && section.edition == edition);
    feeds.map(|(feed, section)| idle(feed, section).most()).sum()
}

/// All calls of an account together, where they share one budget.
fn account_row(settings: &Settings, edition: Edition, budget: u64) -> Option<Finding> {
    let idle = idle_of(settings, edition);
    let commands = edition == Edition::Flagship && settings.commands.enabled;
    if idle == 0 && !commands {
        return None;
    }
    let subject = format!("calls per day: {} account", edition.name());
    let says = format!(
        "{idle} of {budget} while nothing changes; the rest is for commands, changed records and catching up"
    );
    Some(if idle > budget {
        Finding::warning(
            subject,
            says,
            "raise the feeds' poll_interval, or set quota.scope = \"call\": the ERP counts each call on its own",
        )
    } else {
        Finding::good(subject, says)
    })
}

fn idle(feed: Feed, section: &FeedSettings) -> Idle {
    let second = Window { start: section.start_at, end: section.start_at };
    let queries = query::of_window(feed, section, second).len() as u64;
    let shipped = query::shipped_queries(feed, section) as u64;
    let per_day = |interval: std::time::Duration| DAY_MS / crate::clock::millis(interval).max(1);
    let pass = section.shipped_pass;
    let counted = match section.edition {
        // Each window is counted twice.
        Edition::Flagship => 2 * per_day(entered::span(section)) * queries,
        Edition::Enterprise => 0,
    };
    Idle {
        counted,
        live: per_day(section.poll_interval) * queries,
        late: per_day(section.late_pass.interval) * queries,
        shipped: (shipped > 0).then(|| Shipped {
            measured: per_day(pass.older_interval),
            rounds: (per_day(pass.interval) + per_day(pass.older_interval)) * shipped,
        }),
    }
}

fn feed_row(feed: Feed, section: &FeedSettings, budget: u64) -> Finding {
    let cost = idle(feed, section);
    let (Idle { live, late, counted, .. }, idle, (older, newer)) = (cost, cost.most(), cost.both());
    let subject = format!("calls per day: {}", feed.name());
    let (every, rows) = (duration_text(section.poll_interval), section.page_size);
    let says = match cost.shipped {
        None => format!(
            "{idle} while nothing changes ({live} every {every} + {late} of the late pass + {counted} that count its windows again), of {budget} the quota allows; plus one per {rows} changed records"
        ),
        Some(Shipped { measured, rounds }) => format!(
            "{older} while nothing changes under the older window rule ({live} every {every} + {late} of the late pass + about {} that measure the rule), {newer} under the newer one ({rounds} of them for shipping days), of {budget} the quota allows; plus one per {rows} changed records, and under the newer rule in each round one per {rows} orders shipped in its days",
            measured * BY_MODIFIED
        ),
    };
    if idle > budget {
        Finding::warning(
            subject,
            says,
            format!(
                "raise feeds.{0}.poll_interval, or quota.calls_per_minute if your contract allows more",
                feed.name()
            ),
        )
    } else {
        Finding::good(subject, says)
    }
}

/// The ERP's name of a call.
pub(super) fn call_word(call: Call) -> &'static str {
    match call {
        Call::CreateOrder => "wms.stockout.PurchaseReturn.createOrder",
        Call::QueryPurchaseReturns => "purchase.PurchaseReturn.queryWithDetail",
        Call::QueryOutbounds => "wms.stockout.PurchaseReturn.queryWithDetail",
        Call::QueryOutboundsEnterprise => "stockout_order_query_return.php",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::report::Level;

    fn settings(text: &str) -> Settings {
        let env = [("WDT__ERP__ENTERPRISE__APPSECRET", "x"), ("WDT__ERP__FLAGSHIP__SECRET", "x:y")];
        crate::config::from_toml(
            text,
            env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())),
        )
        .unwrap()
        .settings
    }

    #[test]
    fn a_poll_a_minute_is_1440_calls_a_day_and_status() {
        let text = "[erp.enterprise]\nurl = \"http://e/\"\nsid = \"s\"\nappkey = \"k\"\n[feeds.return_outbounds]\nenabled = true\nedition = \"enterprise\"\nstart_at = \"2026-01-01T00:00:00Z\"\n";
        let rows = findings(&settings(text));
        assert!(
            rows[1].says.starts_with(
                "8643 while nothing changes under the older window rule (7200 every 1m + 1440 of the late pass + about 3 that measure the rule), 8740 under the newer one (98 of them"
            ),
            "{}",
            rows[1].says
        );
        assert_eq!(rows[1].level, Level::Good);
        let rows = findings(&settings(&format!("{text}poll_interval = \"5s\"\n")));
        assert_eq!(rows[1].level, Level::Warning);
    }

    #[test]
    fn an_account_wide_budget_is_summed_up() {
        let feeds = "[feeds.purchase_returns]\nenabled = true\nstart_at = \"2026-01-01T00:00:00Z\"\n[feeds.return_outbounds]\nenabled = true\nstart_at = \"2026-01-01T00:00:00Z\"\n";
        let text = format!(
            "[quota]\nscope = \"account\"\n[commands]\nenabled = true\n[erp.flagship]\nurl = \"http://e/\"\nsid = \"s\"\nkey = \"k\"\n{feeds}"
        );
        let rows = findings(&settings(&text));
        let says = |subject: &str| {
            rows.iter()
                .find(|row| row.subject.ends_with(subject))
                .map(|row| row.says.clone())
                .unwrap()
        };
        // Two feeds of 1440 + 288 + 48.
        assert!(
            says("flagship account").starts_with("3552 of 72000 while nothing changes"),
            "{}",
            says("flagship account")
        );
        assert!(says("commands").contains("at most 68448 a day"), "{}", says("commands"));
    }

    #[test]
    fn a_share_scales_what_the_quota_allows() {
        let text = "[erp.flagship]\nurl = \"http://e/\"\nsid = \"s\"\nkey = \"k\"\n[feeds.purchase_returns]\nenabled = true\nstart_at = \"2026-01-01T00:00:00Z\"\n";
        let rows = findings(&settings(&format!("[quota]\nshare = 0.3\n{text}")));
        assert!(rows[0].says.starts_with("0.3 of 50 calls a minute = 15;"), "{}", rows[0].says);
        assert!(rows[1].says.contains("of 21600 the quota allows"), "{}", rows[1].says);
        let split = |text: &str| findings(&settings(text))[0].says.contains("another deployment");
        assert!(split(text), "feeds alone");
        assert!(!split(&format!("[commands]\nenabled = true\n{text}")));
    }

    #[test]
    fn nothing_enabled_costs_nothing() {
        assert!(
            findings(&settings("[commands]\nmax_in_flight = 1\n"))
                .iter()
                .all(|row| row.level == Level::Good)
        );
    }
}
