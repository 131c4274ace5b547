//! `run`: logging, runtime, the application.

use std::{
    io::{self, IsTerminal},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::{
    app,
    board::Board,
    config::{Loaded, LogFormat, LogSettings},
    metrics::Metrics,
};

use super::{End, misconfigured};

/// What still runs when the application has ended: blocking Kafka calls, which may take this long.
const LAST_TASKS: Duration = Duration::from_secs(2);

pub(super) fn execute(loaded: Loaded) -> anyhow::Result<End> {
    let Loaded { settings, warnings } = loaded;
    if let Err(mistake) = settings.require_route() {
        misconfigured(&[mistake]);
        return Ok(End::Misconfigured);
    }
    start_logging(&settings.log)?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("the runtime cannot be started")?;
    let ended = runtime.block_on(app::run(settings, Arc::new(Metrics::new()), Board::default()));
    runtime.shutdown_timeout(LAST_TASKS);
    ended.map(|()| End::Done)
}

/// Log lines go to standard error, like those of any other tool; standard output belongs to data.
fn start_logging(log: &LogSettings) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(&log.level).with_context(|| format!("log.level = {:?} is no filter", log.level))?;
    // Without internal errors: a closed standard error must not end the process.
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).log_internal_errors(false);
    let started = match log.format {
        LogFormat::Human => {
            let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            lines.with_ansi(colours).try_init()
        }
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))
}
