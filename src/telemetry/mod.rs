//! Logs and traces.
//!
//! Log lines go to standard error, through a filter that can be changed while the process runs
//! ([`Levels`]). Traces go to an OTLP collector if one is configured ([`otlp`]); the log filter
//! does not apply to them. `deploy/logs.md` lists the fields of both.

mod lines;
mod otlp;
mod terminal;
mod trace;

use std::{
    fmt,
    io::{self, IsTerminal},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, LevelFilter, Targets, filter_fn},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use crate::config::{LogFormat, LogSettings};

use lines::LogLines;

pub(crate) use lines::one_line;
pub(crate) use otlp::Collector;
pub(crate) use terminal::bar;
pub(crate) use trace::Trace;

/// A filter longer than this is a mistake.
const LONGEST_FILTER: usize = 2000;

type SetFilter = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// The log's filter while the process runs; cheap to clone.
#[derive(Clone)]
pub(crate) struct Levels(Arc<Inner>);

struct Inner {
    configured: String,
    current: Mutex<String>,
    set: SetFilter,
}

impl fmt::Debug for Levels {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Levels").field(&self.filter()).finish()
    }
}

impl Levels {
    /// A log that stays as it is.
    #[must_use]
    pub(crate) fn fixed() -> Self {
        let set: SetFilter =
            Box::new(|_| Err("the log of this process cannot be changed while it runs".to_owned()));
        Self(Arc::new(Inner { configured: String::new(), current: Mutex::default(), set }))
    }

    /// The filter in force.
    #[must_use]
    pub(crate) fn filter(&self) -> String {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts a filter in force, such as `wdt_connector::sink=debug,info`; an empty one brings back
    /// the configured one.
    ///
    /// # Errors
    /// One sentence for a text that is no filter.
    pub(crate) fn set(&self, text: &str) -> Result<String, String> {
        let text = if text.is_empty() { &self.0.configured } else { text };
        if text.len() > LONGEST_FILTER {
            return Err(format!("a log filter has at most {LONGEST_FILTER} characters"));
        }
        let filter = parse(text)?;
        (self.0.set)(filter)?;
        text.clone_into(&mut self.0.current.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(text.to_owned())
    }
}

fn parse(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::builder()
        .parse(text)
        .map_err(|error| format!("{text:?} is no log filter ({error}); one is \"info\" or \"wdt_connector::sink=debug,info\""))
}

/// What was started; traces under way are sent when it ends.
#[derive(Debug)]
pub(crate) struct Telemetry {
    pub levels: Levels,
    collector: Option<Collector>,
}

/// Starts logging, and the export of traces where there is a collector.
///
/// # Errors
/// One sentence when logging was started before.
pub(crate) fn start(log: &LogSettings, collector: Option<Collector>) -> Result<Telemetry, String> {
    let (subscriber, handle) = subscriber(log, collector.as_ref())?;
    subscriber.try_init().map_err(|error| format!("logging cannot be started: {error}"))?;
    let set: SetFilter = Box::new(move |filter| {
        handle.reload(filter).map_err(|error| format!("the filter cannot be changed: {error}"))
    });
    let levels = Levels(Arc::new(Inner {
        configured: log.level.clone(),
        current: Mutex::new(log.level.clone()),
        set,
    }));
    Ok(Telemetry { levels, collector })
}

/// Who hears of lines and spans, and the handle of the log's filter.
fn subscriber(
    log: &LogSettings,
    collector: Option<&Collector>,
) -> Result<(impl Subscriber + use<>, reload::Handle<EnvFilter, Registry>), String> {
    let (filter, handle) = reload::Layer::<EnvFilter, Registry>::new(parse(&log.level)?);
    // Without internal errors: a closed standard error must not end the process.
    let colours = log.format == LogFormat::Human
        && io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(move || LogLines { colours })
        .log_internal_errors(false);
    let lines = match log.format {
        LogFormat::Human => lines.with_ansi(colours).boxed(),
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
        }
    };
    // A command's lines name it in fields of their own, so its spans are the collector's alone, and
    // without one none is made: several for each command, formatted as they are made and kept as
    // long as it waits. The hint keeps levels below the log's from being looked at one by one.
    let lined = filter_fn(|metadata| metadata.is_event() || metadata.target() != trace::TARGET)
        .with_max_level_hint(LevelFilter::TRACE);
    let traces = collector.map(|collector| {
        tracing_opentelemetry::layer().with_tracer(collector.tracer()).with_target(false)
    });
    // Without a collector a filter that lets nothing through: a layer without any counts as one
    // that wants to be asked about every span.
    let traced = match traces {
        Some(_) => Targets::new().with_target(env!("CARGO_CRATE_NAME"), LevelFilter::INFO),
        None => Targets::new(),
    };
    let subscriber = tracing_subscriber::registry()
        .with(lines.with_filter(filter.and(lined)))
        .with(traces.with_filter(traced));
    Ok((subscriber, handle))
}

impl Telemetry {
    /// Sends the traces that are left, within `limit`. Blocks: not to be called from a task.
    pub(crate) fn end(self, limit: Duration) {
        if let Some(collector) = self.collector {
            collector.end(limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_collector_commands_have_no_spans_and_feeds_have_theirs_for_their_lines() {
        for (level, lines) in [("info", true), ("warn", false)] {
            let log = LogSettings { format: LogFormat::Human, level: level.into() };
            let (subscriber, _handle) = subscriber(&log, None).unwrap();
            tracing::subscriber::with_default(subscriber, || {
                let mut trace = Trace::begin(("R", "c"), &[]);
                trace.enter(crate::metrics::Hop::Call);
                assert!(trace.is_none(), "{level}");
                assert_eq!(!tracing::info_span!("window").is_none(), lines, "{level}");
                assert_eq!(tracing::enabled!(tracing::Level::INFO), lines, "{level}");
                assert!(!tracing::enabled!(tracing::Level::DEBUG), "{level}");
            });
        }
    }

    #[test]
    fn a_text_that_is_no_filter_is_refused_and_the_one_in_force_stays() {
        let (_, handle) = reload::Layer::<EnvFilter, Registry>::new(parse("info").unwrap());
        let set: SetFilter =
            Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()));
        let levels = Levels(Arc::new(Inner {
            configured: "info".into(),
            current: Mutex::new("info".into()),
            set,
        }));
        let refused = levels.set("wdt_connector=loud").unwrap_err();
        assert!(refused.contains("loud") && refused.contains("is no log filter"), "{refused}");
        assert!(levels.set(&"a=info,".repeat(1000)).is_err());
        assert_eq!(levels.filter(), "info");
    }
}
