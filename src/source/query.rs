//! What the ERP is asked: the queries of a window, and the question about one record. Pure.

use crate::{
    clock::Timestamp,
    config::{Edition, Feed, FeedSettings},
    erp::{Selection, record::Record},
};

use super::window::{Identity, Window};

/// Every status of the enterprise edition's outbound orders, ascending with cancelled last: an
/// order moves to the right in this list, so one that changes status between two queries shortens
/// its way into the next window. Sound in any order, as a move stamps a modified time after the
/// window's end.
const ENTERPRISE_STATUSES: [u32; 5] = [50, 55, 95, 110, 5];

/// `last_modified` of the flagship outbound query.
const BY_MODIFIED: u8 = 3;

/// The enterprise edition answers at most this many rows a page.
const ENTERPRISE_PAGE: u32 = 30;

/// The queries that together show everything modified in `window`, in the order they are asked.
#[must_use]
pub(crate) fn of_window(feed: Feed, settings: &FeedSettings, window: Window) -> Vec<Selection> {
    let filters = &settings.filters;
    let base = Selection {
        window: Some((window.start, window.end)),
        time_type: None,
        return_no: None,
        status: None,
        warehouse_no: filters.warehouse_no.clone(),
        provider_no: filters.provider_no.clone(),
    };
    let one_per_status = |statuses: Vec<String>| {
        statuses.into_iter().map(|status| Selection { status: Some(status), ..base.clone() })
    };
    match (feed, settings.edition, &filters.status) {
        (Feed::PurchaseReturns, Edition::Flagship | Edition::Enterprise, None) => vec![base],
        (Feed::PurchaseReturns, Edition::Flagship | Edition::Enterprise, Some(list)) => {
            one_per_status(statuses(list)).collect()
        }
        (Feed::ReturnOutbounds, Edition::Flagship, list) => {
            vec![Selection { time_type: Some(BY_MODIFIED), status: list.clone(), ..base }]
        }
        (Feed::ReturnOutbounds, Edition::Enterprise, None) => {
            one_per_status(ENTERPRISE_STATUSES.iter().map(u32::to_string).collect()).collect()
        }
        (Feed::ReturnOutbounds, Edition::Enterprise, Some(list)) => {
            one_per_status(statuses(list)).collect()
        }
    }
}

/// From this status on an enterprise order has been shipped.
const SHIPPED: u32 = 95;

/// The queries that together show the shipped orders of `window`: over their shipping time where the
/// account follows the newer window rule. Empty where a feed has no such queries.
#[must_use]
pub(crate) fn of_shipped(feed: Feed, settings: &FeedSettings, window: Window) -> Vec<Selection> {
    let status = |query: &Selection| query.status.as_ref()?.parse::<u32>().ok();
    match (feed, settings.edition) {
        (Feed::ReturnOutbounds, Edition::Enterprise) => of_window(feed, settings, window)
            .into_iter()
            .filter(|query| status(query).is_some_and(|status| status >= SHIPPED))
            .collect(),
        (Feed::ReturnOutbounds, Edition::Flagship)
        | (Feed::PurchaseReturns, Edition::Flagship | Edition::Enterprise) => Vec::new(),
    }
}

/// Whether an enterprise order has been shipped: the newer window rule shows it by that time.
#[must_use]
pub(crate) fn is_shipped(record: &Record) -> bool {
    record.status.is_some_and(|status| status >= i64::from(SHIPPED))
}

/// How many queries show the shipped orders of a window.
#[must_use]
pub(crate) fn shipped_queries(feed: Feed, settings: &FeedSettings) -> usize {
    let second = Window { start: settings.start_at, end: settings.start_at };
    of_shipped(feed, settings, second).len()
}

/// Pages a window aims at. Each query of it has one at least where it finds anything: a smaller
/// budget would cut windows to single seconds.
#[must_use]
pub(crate) fn page_budget(feed: Feed, settings: &FeedSettings) -> u32 {
    let second = Window { start: settings.start_at, end: settings.start_at };
    let queries = of_window(feed, settings, second).len();
    settings.max_pages_per_window.max(u32::try_from(queries).unwrap_or(u32::MAX))
}

/// The question about one record by its return's number; `None` where it has none. `anywhere`: its
/// status may be another by now.
#[must_use]
pub(crate) fn of_record(
    feed: Feed,
    settings: &FeedSettings,
    record: &Record,
    anywhere: bool,
) -> Option<Vec<Selection>> {
    let number = match feed {
        Feed::PurchaseReturns => record.number.clone(),
        Feed::ReturnOutbounds => record.return_no.clone().filter(|number| !number.is_empty())?,
    };
    let by_number = |status| Selection {
        window: None,
        time_type: None,
        return_no: Some(number.clone()),
        status,
        warehouse_no: None,
        provider_no: None,
    };
    Some(match (feed, settings.edition) {
        // It takes one status at a time; without one it shows shipped and completed orders only.
        (Feed::ReturnOutbounds, Edition::Enterprise) => match record.status {
            Some(status) if !anywhere => vec![by_number(Some(status.to_string()))],
            _ => {
                let mut all: Vec<String> = ENTERPRISE_STATUSES.iter().map(u32::to_string).collect();
                let filter = settings.filters.status.as_deref().map(statuses);
                all.extend(filter.into_iter().flatten().filter(|one| {
                    !ENTERPRISE_STATUSES.iter().any(|status| status.to_string() == *one)
                }));
                all.into_iter().map(|status| by_number(Some(status))).collect()
            }
        },
        (Feed::ReturnOutbounds, Edition::Flagship)
        | (Feed::PurchaseReturns, Edition::Flagship | Edition::Enterprise) => vec![by_number(None)],
    })
}

/// The question about one record by the second it was modified in, and by the one it was shipped in
/// where shipped orders are shown by that.
#[must_use]
pub(crate) fn of_seconds(
    feed: Feed,
    settings: &FeedSettings,
    modified: Timestamp,
    shipped: Option<Timestamp>,
) -> Vec<Selection> {
    let mut queries = of_window(feed, settings, Window::second_of(modified));
    queries.extend(
        shipped.into_iter().flat_map(|at| of_shipped(feed, settings, Window::second_of(at))),
    );
    queries
}

/// Rows a page may hold.
#[must_use]
pub(crate) fn page_size(feed: Feed, settings: &FeedSettings) -> u32 {
    match (feed, settings.edition) {
        (Feed::ReturnOutbounds, Edition::Enterprise) => {
            settings.page_size.clamp(1, ENTERPRISE_PAGE)
        }
        (Feed::ReturnOutbounds, Edition::Flagship)
        | (Feed::PurchaseReturns, Edition::Flagship | Edition::Enterprise) => {
            settings.page_size.max(1)
        }
    }
}

/// What the state of a feed is of that reads from the account `sid`.
#[must_use]
pub(crate) fn identity(feed: Feed, settings: &FeedSettings, sid: &str) -> Identity {
    Identity {
        account: sid.to_owned(),
        edition: settings.edition.name().to_owned(),
        start_at: settings.start_at,
        filters_hash: filters_hash(feed, settings),
    }
}

/// Names what the state was built with: when it changes, everything is read again.
fn filters_hash(feed: Feed, settings: &FeedSettings) -> String {
    let filters = &settings.filters;
    let text =
        serde_json::json!([feed.name(), filters.warehouse_no, filters.provider_no, filters.status])
            .to_string();
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes()))
}

/// A configured list, ascending, cancelled (5) last.
fn statuses(list: &str) -> Vec<String> {
    let mut statuses: Vec<String> = list
        .split(',')
        .map(|status| status.trim().to_owned())
        .filter(|status| !status.is_empty())
        .collect();
    statuses.sort_by_key(|status| {
        (status == "5", status.parse::<u32>().unwrap_or(u32::MAX), status.clone())
    });
    statuses.dedup();
    statuses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::settings;

    fn window() -> Window {
        Window { start: Timestamp(0), end: Timestamp(60_000) }
    }

    fn asked(feed: Feed, settings: &FeedSettings) -> Vec<Option<String>> {
        of_window(feed, settings, window()).into_iter().map(|query| query.status).collect()
    }

    #[test]
    fn enterprise_asks_once_per_status_with_cancelled_last() {
        let mut settings =
            FeedSettings { edition: Edition::Enterprise, page_size: 100, ..settings() };
        let all = ["50", "55", "95", "110", "5"].map(|status| Some(status.to_owned()));
        assert_eq!(asked(Feed::ReturnOutbounds, &settings), all);
        assert_eq!(page_size(Feed::ReturnOutbounds, &settings), 30);
        settings.filters.status = Some("5, 110,95".to_owned());
        assert_eq!(
            asked(Feed::ReturnOutbounds, &settings),
            ["95", "110", "5"].map(|status| Some(status.to_owned()))
        );
    }

    #[test]
    fn shipped_orders_are_asked_for_by_their_own_statuses() {
        let shipped = |settings: &FeedSettings| {
            of_shipped(Feed::ReturnOutbounds, settings, window())
                .into_iter()
                .filter_map(|query| query.status)
                .collect::<Vec<_>>()
        };
        let mut settings =
            FeedSettings { edition: Edition::Enterprise, max_pages_per_window: 1, ..settings() };
        assert_eq!(shipped(&settings), ["95", "110"]);
        assert_eq!(page_budget(Feed::ReturnOutbounds, &settings), 5, "a page for each query");
        settings.filters.status = Some("5,55,110".to_owned());
        assert_eq!(shipped(&settings), ["110"]);
        settings.filters.status = Some("5,55".to_owned());
        assert_eq!(shipped(&settings), [""; 0]);
        settings.edition = Edition::Flagship;
        settings.filters.status = None;
        assert_eq!(shipped(&settings), [""; 0]);
        assert_eq!(page_budget(Feed::ReturnOutbounds, &settings), 1);
    }

    #[test]
    fn flagship_asks_once_by_modified_time() {
        let mut settings = settings();
        let queries = of_window(Feed::ReturnOutbounds, &settings, window());
        assert_eq!(queries.len(), 1);
        assert_eq!((queries[0].time_type, queries[0].status.clone()), (Some(3), None));
        settings.filters.status = Some("5,110".to_owned());
        assert_eq!(asked(Feed::ReturnOutbounds, &settings), [Some("5,110".to_owned())]);
        assert_eq!(
            asked(Feed::PurchaseReturns, &settings),
            [Some("110".to_owned()), Some("5".to_owned())]
        );
    }

    #[test]
    fn a_record_is_asked_for_by_its_return() {
        let record = Record {
            id: "7".to_owned(),
            number: "CK7".to_owned(),
            modified: Timestamp(1_500),
            return_no: Some("CR1".to_owned()),
            status: Some(95),
            remark: None,
            datum: Vec::new(),
            drift: Vec::new(),
        };
        let enterprise = FeedSettings { edition: Edition::Enterprise, ..settings() };
        let asked = of_record(Feed::ReturnOutbounds, &enterprise, &record, false).unwrap();
        assert_eq!(asked.len(), 1);
        assert_eq!(
            (asked[0].return_no.as_deref(), asked[0].status.as_deref(), asked[0].window),
            (Some("CR1"), Some("95"), None)
        );
        let asked = of_record(Feed::ReturnOutbounds, &enterprise, &record, true).unwrap();
        assert_eq!(asked.len(), 5, "in whatever status it is now");
        let asked = of_record(Feed::PurchaseReturns, &settings(), &record, true).unwrap();
        assert_eq!(
            (asked[0].return_no.as_deref(), asked[0].status.as_deref()),
            (Some("CK7"), None)
        );
        let orphan = Record { return_no: None, ..record };
        assert_eq!(of_record(Feed::ReturnOutbounds, &enterprise, &orphan, false), None);
        let at = |shipped| {
            of_seconds(Feed::ReturnOutbounds, &enterprise, Timestamp(1_500), shipped)
                .into_iter()
                .map(|query| (query.status.unwrap_or_default(), query.window.unwrap().0.0))
                .collect::<Vec<_>>()
        };
        let all = ["50", "55", "95", "110", "5"].map(|status| (status.to_owned(), 1_000));
        assert_eq!(at(None), all);
        let shipped = ["95", "110"].map(|status| (status.to_owned(), 7_000));
        assert_eq!(at(Some(Timestamp(7_900))), [&all[..], &shipped[..]].concat());
    }

    #[test]
    fn filters_make_the_hash() {
        let plain = filters_hash(Feed::ReturnOutbounds, &settings());
        assert_eq!(plain, filters_hash(Feed::ReturnOutbounds, &settings()));
        let mut other = settings();
        other.filters.status = Some("5".to_owned());
        assert_ne!(plain, filters_hash(Feed::ReturnOutbounds, &other));
    }
}
