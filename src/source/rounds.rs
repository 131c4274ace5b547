//! A tenure and shipped enterprise orders: measures which window rule the account follows, and reads
//! shipping days again in rounds while that is not the older one.

use tokio::time::Instant;

use crate::{
    clock::Timestamp,
    config::{Feed, FeedSettings},
    erp::{QueryFault, record::Record},
};

use super::{
    feed::Stop,
    pass::OpenRead,
    query,
    shipped::{Measurement, ShippedRule},
    tenure::Tenure,
    window::{Limits, Pace, Pass, Round, Window},
};

/// What a tenure knows of shipped orders.
#[derive(Debug)]
pub(super) struct Shipped {
    pub rule: ShippedRule,
    /// The round that is being read.
    pub round: Option<Round>,
    /// What was shipped and modified before is no late row: rounds had still to come there.
    pub read_again_to: Option<Timestamp>,
    /// A backfill was ordered since: its shipping days are not skipped by an older measurement.
    anew: bool,
    measuring: Option<Measurement>,
    measured_at: Option<Timestamp>,
    measure_at: Instant,
}

impl Shipped {
    /// Nothing is known: the first thing it does is to measure. A feed that asks for no shipped
    /// orders has windows over `modified` only.
    pub(super) fn new(feed: Feed, settings: &FeedSettings) -> Self {
        let asked_for = query::shipped_queries(feed, settings) > 0;
        Self {
            rule: if asked_for { ShippedRule::Unknown } else { ShippedRule::Modified },
            round: None,
            read_again_to: None,
            anew: false,
            measuring: None,
            measured_at: None,
            measure_at: Instant::now(),
        }
    }

    /// What is asked for from now on depends on the rule as it is now.
    pub(super) fn measure_anew(&mut self) {
        (self.anew, self.measuring, self.measure_at) = (true, None, Instant::now());
    }
}

impl Tenure<'_> {
    pub(super) fn measurement_is_due(&self, now: Instant) -> bool {
        self.shipped.measure_at <= now && query::shipped_queries(self.task.feed, self.settings) > 0
    }

    /// One call of a measurement. One that fails is made again later, and holds nothing up.
    pub(super) async fn measure_window_rule(&mut self) -> Result<(), Stop> {
        let (feed, limits) = (self.task.feed, self.limits());
        let mut measurement = self
            .shipped
            .measuring
            .take()
            .unwrap_or_else(|| Measurement::new(feed, self.settings, limits));
        if let Some((selection, request)) = measurement.question() {
            let mut reader = self.reader(Pass::Shipped);
            let answer = self.undecided(reader.ask(&selection, request)).await?;
            self.note(&reader);
            match answer {
                // An operator decided something meanwhile: the same question once more.
                None => {}
                Some(Ok(page)) => measurement.answer(&page),
                Some(Err(fault)) => {
                    let shortened = measurement.shortened(&fault);
                    if shortened && matches!(fault, QueryFault::TooWide { .. }) {
                        self.shipped.measuring = Some(measurement);
                        return Ok(());
                    }
                    // It took up to three attempts: the next comes after a pause, for less.
                    self.shipped.measuring = shortened.then_some(measurement);
                    tracing::warn!(
                        feed = feed.name(),
                        error = %fault,
                        "failed to measure the window rule of shipped orders; measuring it later"
                    );
                    let pause =
                        (self.longest_pause() * 5).min(self.settings.shipped_pass.older_interval);
                    self.shipped.measure_at = Instant::now() + pause;
                    self.doubt_window_rule(limits.now);
                    return Ok(());
                }
            }
        }
        match measurement.found() {
            None => self.shipped.measuring = Some(measurement),
            Some(rule) => self.measured(rule, measurement.began).await?,
        }
        Ok(())
    }

    /// The older rule is believed for two intervals without another measurement: an ERP that was
    /// upgraded shows changes of shipped orders in rounds only.
    fn doubt_window_rule(&mut self, now: Timestamp) {
        let believed = self.settings.shipped_pass.older_interval * 2;
        if self.shipped.rule != ShippedRule::Modified
            || self.shipped.measured_at.is_none_or(|at| now < at.plus(believed))
        {
            return;
        }
        self.shipped.rule = ShippedRule::Unknown;
        let (feed, rule) = (self.task.feed, self.shipped.rule.name());
        tracing::warn!(
            feed = feed.name(),
            window.rule = rule,
            "window rule of shipped orders is unknown again; reading their shipping days until it is measured"
        );
        self.task.status.feed(feed, |status| status.shipped_window_rule = Some(rule));
    }

    async fn measured(&mut self, rule: ShippedRule, began: Timestamp) -> Result<(), Stop> {
        let feed = self.task.feed;
        self.shipped.anew = false;
        let before = std::mem::replace(&mut self.shipped.rule, rule);
        let first = self.shipped.measured_at.replace(began).is_none();
        self.shipped.measure_at = Instant::now() + self.settings.shipped_pass.older_interval;
        if first || before != rule {
            tracing::info!(
                feed = feed.name(),
                window.rule = rule.name(),
                "measured what the windows of shipped orders go over"
            );
        }
        if !rule.by_shipping_time() {
            self.end_pass(Pass::Shipped).await?;
            if self.cursor.in_shipping_days() {
                self.end_pass(Pass::Backfill).await?;
            }
            self.shipped.round = None;
            if before != ShippedRule::Modified {
                // Rounds had still to come there, and by the modified time the late pass does.
                let limits = self.limits();
                let lag = limits.late.until(limits.now);
                self.shipped.read_again_to = Some(self.cursor.checkpoint().late_watermark);
                self.cursor = self.cursor.clone().late_behind_rounds(lag);
                self.unsaved = true;
            }
            self.cursor = self.cursor.clone().unshipped(began);
        }
        let cursor = &self.cursor;
        self.task.status.feed(feed, |status| {
            status.shipped_window_rule = Some(rule.name());
            status.shipped_window_rule_measured_at = Some(began.to_string());
            status.stand(cursor);
        });
        Ok(())
    }

    /// The next window of the round that is read, or of the one that is due.
    pub(super) fn round_window(&mut self, limits: Limits, pace: &Pace) -> Option<Window> {
        if !self.shipped.rule.by_shipping_time() {
            return None;
        }
        let round = match self.shipped.round {
            Some(round) => round,
            None => self.cursor.round(self.settings.shipped_pass, limits)?,
        };
        let window = pace.window(round.position, round.to.min(limits.live));
        if window.is_none() && round.position < round.to {
            // The clock went back meanwhile.
            self.shipped.round = Some(round);
            return None;
        }
        if window.is_none() {
            // No day of it is left: one that follows a round of the recent days over a long time.
            self.cursor = self.cursor.clone().after_round(round);
            self.unsaved = true;
        }
        self.shipped.round = window.map(|_| round);
        window
    }

    /// Whether an order may have changed after a window that shows it was read: its windows go over
    /// the shipping time, so neither late rows nor missed ones can be told from that.
    pub(super) fn by_shipping_time(&self, record: &Record) -> bool {
        let again = self.shipped.read_again_to.is_some_and(|to| record.modified < to);
        (again || self.shipped.rule.by_shipping_time()) && query::is_shipped(record)
    }

    /// A window of a round was published; whether it was the last.
    pub(super) fn round_moved(&mut self, open: &OpenRead) -> bool {
        let ended = self.shipped.round.is_none_or(|round| open.reached >= round.to);
        self.shipped.round = self
            .shipped
            .round
            .filter(|_| !ended)
            .map(|round| Round { position: open.reached, ..round });
        ended
    }

    /// Where shipped orders are shown by their modified time, the shipping days before a backfill's
    /// period hold nothing that belongs to it.
    pub(super) fn skip_shipping_days(&mut self) {
        let skips = !self.shipped.anew && !self.shipped.rule.by_shipping_time();
        if !skips || !self.cursor.in_shipping_days() {
            return;
        }
        self.cursor = self.cursor.clone().past_shipping_days();
        self.unsaved = true;
        let progress = self.backfill_progress();
        self.task.status.feed(self.task.feed, |status| status.backfill = progress);
    }
}
