//! The relations between the times (`docs/delivery.md#timing-inequalities`). The configuration is
//! refused when one does not hold, unless unsafe timing is allowed.

use std::time::Duration;

use super::{Feed, Settings, reader::Mistake, values::duration_text as show};

/// The clock error that `safety_lag` and `late_pass.lag` cover without a measurement.
pub(crate) const CLOCK_ERROR: Duration = Duration::from_secs(5);

/// librdkafka's default of `max.poll.interval.ms`.
const POLL_INTERVAL: Duration = Duration::from_secs(300);

/// Every relation that does not hold, one sentence each.
pub(super) fn violations(settings: &Settings) -> Vec<Mistake> {
    let mut found = Found::default();
    assumptions(settings, &mut found);
    // What does not run has no times to relate: feeds alone do not have to fit the commands' keys.
    if settings.commands.enabled {
        command_relations(settings, &mut found);
    }
    for feed in Feed::ALL.into_iter().filter(|feed| settings.feed(*feed).enabled) {
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
    found.at_least(
        "commands.max_process_pause",
        commands.max_process_pause,
        Duration::from_secs(10),
        why,
    );
    found.at_least("commands.max_apply_delay", commands.max_apply_delay, minute, why);
    let shared = settings.max_visibility_lag;
    found.at_least("erp.max_visibility_lag", shared, minute, why);
    for feed in Feed::ALL {
        let own = settings.feed(feed).max_visibility_lag;
        // One that is the shared one has been judged.
        if own != shared {
            found.at_least(
                &format!("feeds.{}.max_visibility_lag", feed.name()),
                own,
                minute,
                "it is an assumption about the world, and a smaller one can miss changes",
            );
        }
    }
}

fn command_relations(settings: &Settings, found: &mut Found) {
    let commands = &settings.commands;
    let waited = commands.call_timeout + commands.apply_grace + commands.lookup_interval;
    let needed =
        commands.max_process_pause + commands.max_apply_delay + settings.max_visibility_lag;
    found.unless(waited > needed, "commands.apply_grace", || {
        format!(
            "commands.call_timeout + apply_grace + lookup_interval = {} + {} + {} = {} must be more than max_process_pause + max_apply_delay + erp.max_visibility_lag = {}; raise apply_grace",
            show(commands.call_timeout),
            show(commands.apply_grace),
            show(commands.lookup_interval),
            show(waited),
            show(needed)
        )
    });
    let deciding = commands.intent_ttl + waited;
    found.unless(commands.lookup_timeout > deciding, "commands.lookup_timeout", || {
        format!(
            "commands.lookup_timeout = {} must be more than intent_ttl + call_timeout + apply_grace + lookup_interval = {}; raise it",
            show(commands.lookup_timeout),
            show(deciding)
        )
    });
    if let Some(flagship) = settings.flagship.as_ref() {
        let connect = flagship.connection.connect_timeout;
        found.unless(connect < commands.max_process_pause, "erp.flagship.connect_timeout", || {
            format!(
                "erp.flagship.connect_timeout = {} must be less than commands.max_process_pause = {}; lower it",
                show(connect),
                show(commands.max_process_pause)
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
    let least = CLOCK_ERROR + section.max_visibility_lag;
    let (safety_lag, late) = (section.safety_lag, section.late_pass.lag);
    let key = format!("feeds.{}.late_pass.lag", feed.name());
    found.unless(late > safety_lag, &key, || {
        format!(
            "{key} = {} must be more than safety_lag = {}; raise it, or the late pass never reads anything and what the ERP shows late is missed",
            show(late),
            show(safety_lag)
        )
    });
    for (key, value) in [("safety_lag", safety_lag), ("late_pass.lag", late)] {
        let key = format!("feeds.{}.{key}", feed.name());
        found.unless(value >= least, &key, || {
            format!(
                "{key} = {} must be at least the clock error of {} + max_visibility_lag = {}; raise it, or changes can be missed",
                show(value),
                show(CLOCK_ERROR),
                show(least)
            )
        });
    }
}
