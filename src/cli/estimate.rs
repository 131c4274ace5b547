//! What a configuration costs in calls to the ERP, per day.

use crate::{
    config::{Edition, Feed, FeedSettings, Settings, duration_text},
    erp::Call,
};

use super::report::Finding;

const DAY_MS: u64 = 86_400_000;

/// The enterprise edition's query takes one status at a time; without a filter all five are asked for.
const ENTERPRISE_STATUSES: u64 = 5;

/// One row per call that is in use.
pub(super) fn findings(settings: &Settings) -> Vec<Finding> {
    let budget = u64::from(settings.quota.calls_per_minute) * 1440;
    let mut rows: Vec<Finding> =
        Feed::ALL.into_iter().filter(|feed| settings.feed(*feed).enabled).map(|feed| feed_row(feed, settings.feed(feed), budget)).collect();
    if settings.commands.enabled {
        rows.push(Finding::good(
            "calls per day: commands",
            format!(
                "one {} per command, at most {budget} a day; look-ups only after an unknown answer or a crash (2 to 4 each)",
                call_word(Call::CreateOrder)
            ),
        ));
    }
    rows
}

fn feed_row(feed: Feed, section: &FeedSettings, budget: u64) -> Finding {
    let queries = match section.edition {
        Edition::Flagship => 1,
        Edition::Enterprise => section.filters.status.as_ref().map_or(ENTERPRISE_STATUSES, |list| list.split(',').count() as u64),
    };
    let per_day = |interval: std::time::Duration| DAY_MS / crate::clock::millis(interval).max(1) * queries;
    let (live, late) = (per_day(section.poll_interval), per_day(section.late_interval));
    let idle = live + late;
    let subject = format!("calls per day: {}", feed.name());
    let says = format!(
        "{idle} while nothing changes ({live} every {} + {late} of the late pass), of {budget} the quota allows; plus one per {} changed records",
        duration_text(section.poll_interval),
        section.page_size
    );
    if idle > budget {
        Finding::warning(
            subject,
            says,
            format!("raise feeds.{0}.poll_interval, or quota.calls_per_minute if your contract allows more", feed.name()),
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
        crate::config::from_toml(text, env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()))).unwrap().settings
    }

    #[test]
    fn a_poll_a_minute_is_1440_calls_a_day_and_status() {
        let text = "[erp.enterprise]\nurl = \"http://e/\"\nsid = \"s\"\nappkey = \"k\"\n[feeds.return_outbounds]\nenabled = true\nedition = \"enterprise\"\nstart = \"2026-01-01T00:00:00Z\"\n";
        let rows = findings(&settings(text));
        assert!(rows[0].says.starts_with("8640 while nothing changes (7200 every 1m + 1440"), "{}", rows[0].says);
        assert_eq!(rows[0].level, Level::Good);
        let rows = findings(&settings(&format!("{text}poll_interval = \"5s\"\n")));
        assert_eq!(rows[0].level, Level::Warning);
    }

    #[test]
    fn nothing_enabled_costs_nothing() {
        assert!(findings(&settings("[commands]\nmax_in_flight = 1\n")).iter().all(|row| row.level == Level::Good));
    }
}
