//! `run`: logging, runtime, the application.

use std::{
    io::{self, IsTerminal},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};

use crate::{
    app,
    board::Board,
    config::{Loaded, LogFormat},
    metrics::Metrics,
    telemetry::{self, Collector},
};

use super::{End, misconfigured, past};

/// What still runs when the application has ended: blocking Kafka calls, which may take this long.
const LAST_TASKS: Duration = Duration::from_secs(2);
/// How long the collector may take for the last traces.
const LAST_TRACES: Duration = Duration::from_secs(3);

pub(super) fn execute(loaded: Loaded) -> anyhow::Result<End> {
    let Loaded { settings, warnings } = loaded;
    if let Err(mistake) = settings.require_pipeline() {
        misconfigured(&[mistake]);
        return Ok(End::Misconfigured);
    }
    let ending =
        app::Ending::new(settings.commands.drain_timeout).context("no thread can be started")?;
    ending.begin_at_signals()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let instance = settings.kafka.instance_name();
    let collector = settings
        .traces
        .as_ref()
        .map(|traces| Collector::at(traces, &instance, runtime.handle().clone()));
    let telemetry =
        telemetry::start(&settings.log, collector.transpose().map_err(|fault| anyhow!(fault))?)
            .map_err(|fault| anyhow!(fault))?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let board = Board::default();
    if io::stderr().is_terminal() && settings.log.format == LogFormat::Human {
        runtime.spawn(past::watch(board.clone()));
    }
    // A task: a panic of it is an error here, and unwinds nothing of the runtime.
    let running = runtime.spawn(app::run(
        settings,
        Arc::new(Metrics::new()),
        board,
        telemetry.levels.clone(),
        ending.clone(),
    ));
    let ended = runtime.block_on(running).context("the process ended abnormally");
    let ended = ended.and_then(|ended| ended);
    // What is left to do has to end as well.
    ending.begin();
    if ended.is_ok() {
        ending.drained();
    }
    telemetry.end(LAST_TRACES);
    runtime.shutdown_timeout(LAST_TASKS);
    ended.map(|()| End::Done)
}
