//! The relations between the times (`protocol.md`, section 2): refused when they do not hold,
//! unless unsafe timing is allowed.

use std::time::Duration;

use super::{Feed, Settings, reader::Mistake, values::duration_text as show};

/// The clock error that `safety_lag` and `late_to` cover without a measurement.
pub(crate) const CLOCK_ERROR: Duration = Duration::from_secs(5);

/// librdkafka's default of `max.poll.interval.ms`.
const POLL_INTERVAL: Duration = Duration::from_secs(300);

/// Every relation that does not hold, one sentence each.
pub(super) fn violations(settings: &Settings) -> Vec<Mistake> {
    let mut found = Found::default();
    assumptions(settings, &mut found);
    command_relations(settings, &mut found);
    for feed in Feed::ALL {
        feed_relations(settings, feed, &mut found);
    }
    found.0
}

#[derive(Default)]
struct Found(Vec<Mistake>);

impl Found {
    fn unless(&mut self, holds: bool, key: &str, sentence: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Mistake::about(key, sentence()));
        }
    }

    fn at_least(&mut self, key: &str, value: Duration, least: Duration, why: &str) {
        self.unless(value >= least, key, || {
            format!("{key} = {} must be at least {}; {why}", show(value), show(least))
        });
    }
}

fn assumptions(settings: &Settings, found: &mut Found) {
    let commands = &settings.commands;
    let minute = Duration::from_secs(60);
    let why =
        "it is an assumption about the world, and a smaller one can make two orders of one command";
    found.at_least("commands.max_freeze", commands.max_freeze, Duration::from_secs(10), why);
    found.at_least("commands.max_delay", commands.max_delay, minute, why);
    found.at_least("commands.max_visibility", commands.max_visibility, minute, why);
    for feed in Feed::ALL {
        let key = format!("feeds.{}.max_visibility", feed.name());
        found.at_least(
            &key,
            settings.feed(feed).max_visibility,
            minute,
            "it is an assumption about the world, and a smaller one can miss changes",
        );
    }
}

fn command_relations(settings: &Settings, found: &mut Found) {
    let commands = &settings.commands;
    let waited = commands.call_timeout + commands.settle_time + commands.lookup_spacing;
    let needed = commands.max_freeze + commands.max_delay + commands.max_visibility;
    found.unless(waited > needed, "commands.settle_time", || {
        format!(
            "commands.call_timeout + settle_time + lookup_spacing = {} + {} + {} = {} must be more than max_freeze + max_delay + max_visibility = {}; raise settle_time",
            show(commands.call_timeout),
            show(commands.settle_time),
            show(commands.lookup_spacing),
            show(waited),
            show(needed)
        )
    });
    let deciding = commands.send_by + waited;
    found.unless(commands.lookup_limit > deciding, "commands.lookup_limit", || {
        format!(
            "commands.lookup_limit = {} must be more than send_by + call_timeout + settle_time + lookup_spacing = {}; raise it",
            show(commands.lookup_limit),
            show(deciding)
        )
    });
    if let Some(flagship) = settings.flagship.as_ref().filter(|_| commands.enabled) {
        let connect = flagship.connection.connect_timeout;
        found.unless(connect < commands.max_freeze, "erp.flagship.connect_timeout", || {
            format!(
                "erp.flagship.connect_timeout = {} must be less than commands.max_freeze = {}; lower it",
                show(connect),
                show(commands.max_freeze)
            )
        });
    }
    let poll = settings
        .kafka
        .properties
        .get("max.poll.interval.ms")
        .and_then(|ms| ms.parse().ok())
        .map_or(POLL_INTERVAL, Duration::from_millis);
    found.unless(commands.drain_timeout < poll, "commands.drain_timeout", || {
        format!(
            "commands.drain_timeout = {} must be less than Kafka's max.poll.interval.ms = {}; lower it",
            show(commands.drain_timeout),
            show(poll)
        )
    });
}

fn feed_relations(settings: &Settings, feed: Feed, found: &mut Found) {
    let section = settings.feed(feed);
    let least = CLOCK_ERROR + section.max_visibility;
    for (key, value) in [("safety_lag", section.safety_lag), ("late_to", section.late_to)] {
        let key = format!("feeds.{}.{key}", feed.name());
        found.unless(value >= least, &key, || {
            format!(
                "{key} = {} must be at least the clock error of {} + max_visibility = {}; raise it, or changes can be missed",
                show(value),
                show(CLOCK_ERROR),
                show(least)
            )
        });
    }
}
