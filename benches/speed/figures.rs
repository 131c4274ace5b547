//! Rounding, quantiles, exponents.

use std::time::Duration;

use crate::kit::{connector::Connector, erp::Erp, rig::Rig};

/// How the connector that is measured is configured. The rate of calls is out of the way in both:
/// with the default of 50 calls a minute nothing else would be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Configuration {
    /// The defaults: log level `info`, `max_concurrent_calls` 64.
    Default,
    /// Log level `warn`, `max_concurrent_calls` 2,000.
    Tuned,
}

impl Configuration {
    /// For the JSON line of a case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Tuned => "tuned",
        }
    }

    pub fn rig(self, what: &str) -> Rig {
        let mut rig = Rig::around(what, Erp::start());
        rig.topics.create(4);
        let config = &mut rig.config;
        // Tests have short times, many lines and a quota of their own; those of feeds stay.
        config
            .remove("erp", None)
            .remove("commands", None)
            .remove("log", None)
            .remove("quota", None)
            .remove_kafka_property("session.timeout.ms")
            .remove_kafka_property("heartbeat.interval.ms");
        match self {
            Self::Default => {}
            Self::Tuned => {
                config.set("log", "level", "warn").set("quota", "max_concurrent_calls", 2000);
            }
        }
        config.set("quota", "burst", 100_000).set("quota", "calls_per_minute", 6_000_000);
        rig
    }
}

/// A rig of the tuned configuration.
pub fn rig(what: &str) -> Rig {
    Configuration::Tuned.rig(what)
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Three decimals.
pub fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Seconds per thousand.
pub fn per_1000(seconds: f64, count: usize) -> f64 {
    (seconds / count as f64 * 1_000_000.0).round() / 1000.0
}

/// Milliseconds at a share of a sorted list, `permille` of 1000.
pub fn quantile_ms(sorted: &[Duration], permille: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((sorted.len() * permille / 1000).min(last))
        .map_or(0.0, |took| round(took.as_secs_f64() * 1000.0))
}

/// How the cost grows with the size: 1 is linear.
pub fn exponent(small: (usize, f64), large: (usize, f64)) -> f64 {
    round((large.1 / small.1).ln() / (large.0 as f64 / small.0 as f64).ln())
}

/// Peak resident memory in MB.
pub fn peak_mb(connector: &Connector) -> f64 {
    round(connector.memory("VmHWM") as f64 / 1024.0)
}

/// Ends a connector in good order.
pub fn finish(connector: Connector) {
    let status = connector.terminate(Duration::from_secs(60));
    if !status.success() {
        crate::parts::say(&format!("the connector ended with {status}"));
    }
}
