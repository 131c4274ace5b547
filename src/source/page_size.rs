//! How many rows a page is asked for: as configured, fewer where the ERP gives fewer or where its
//! answers get too long.

use crate::{config::Feed, erp::Call};

use super::fetch::{Rules, WindowRead};

/// Windows read before a smaller page size is doubled again: an ERP that gives fewer rows costs two
/// calls more each time it is found out.
const BEFORE_DOUBLING: u32 = 50;

/// The page size in force.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageSize {
    configured: u32,
    now: u32,
    longest: u32,
    /// What the latest window suspected to be the ERP's limit.
    suspected: Option<u32>,
    since: u32,
}

impl PageSize {
    /// As configured.
    #[must_use]
    pub(crate) fn new(configured: u32) -> Self {
        Self { configured, now: configured, longest: 0, suspected: None, since: 0 }
    }

    /// Rows to ask for.
    #[must_use]
    pub(crate) fn now(&self) -> u32 {
        self.now
    }

    /// The longest page that was shown, 0 before any.
    #[must_use]
    pub(crate) fn longest(&self) -> u32 {
        self.longest
    }

    /// How a small question is read: whole, whatever it takes.
    #[must_use]
    pub(crate) fn question(&self, call: Call) -> Rules {
        Rules {
            call,
            page_size: self.now,
            longest_page: self.longest,
            budget: None,
            splittable: false,
            closes_at: None,
        }
    }

    /// Asks for half as many rows; `false`: it is one already.
    pub(crate) fn halve(&mut self) -> bool {
        let smaller = self.now > 1;
        (self.now, self.since) = ((self.now / 2).max(1), 0);
        smaller
    }

    /// Learns from pages, whatever became of their window.
    pub(crate) fn seen(&mut self, read: &WindowRead) {
        self.longest = self.longest.max(read.longest_page());
    }

    /// Learns from a window that was read. One page that came short looks like a limit as well, so
    /// only two windows in a row are believed.
    pub(crate) fn accepted(&mut self, feed: Feed, read: &WindowRead) {
        self.seen(read);
        match read.limit() {
            Some(limit) if self.suspected.replace(limit) != Some(limit) => {}
            Some(limit) => {
                if limit < self.now {
                    tracing::warn!(
                        feed = feed.name(),
                        page.size = limit,
                        "ERP returns fewer rows a page than asked for; asking for as many. \
                         Set page_size to that"
                    );
                }
                (self.now, self.since) = (limit, 0);
            }
            None if self.now < self.configured => {
                self.since += 1;
                if self.since >= BEFORE_DOUBLING {
                    self.now = self.now.saturating_mul(2).min(self.configured);
                    self.since = 0;
                }
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_size_is_halved_down_to_one_row_and_grows_back() {
        let rules = Rules {
            call: Call::QueryPurchaseReturns,
            page_size: 5,
            longest_page: 0,
            budget: None,
            splittable: true,
            closes_at: None,
        };
        let read = WindowRead::new(Vec::new(), rules);
        let mut size = PageSize::new(5);
        assert!(size.halve() && size.halve());
        assert_eq!(size.now(), 1);
        assert!(!size.halve());
        let mut sizes = vec![1];
        for _ in 0..4 * BEFORE_DOUBLING {
            size.accepted(Feed::PurchaseReturns, &read);
            if sizes.last() != Some(&size.now()) {
                sizes.push(size.now());
            }
        }
        assert_eq!(sizes, [1, 2, 4, 5]);
    }
}
