//! Wiring: settings → clients → routes → ordered drain.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    board::Board,
    config::{Edition, Feed, Settings},
    erp::Erp,
    kafka::control::Controls,
    metrics::Metrics,
    ops,
    schema::{Codec, Subject},
    sink, source,
};

/// How often the quota's section of the status is renewed.
const QUOTA_STATUS: Duration = Duration::from_secs(1);

/// Runs everything that is enabled until SIGTERM or SIGINT, then drains; a second signal ends the process at once.
///
/// # Errors
/// What kept the process from starting, or ended it.
pub async fn run(settings: Settings, metrics: Arc<Metrics>, board: Board) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be listened for")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be listened for")?;
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let signals = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("ending: what is in flight is finished first; a second signal ends at once");
        stop.cancel();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let listener = bind(&settings).await?;
    tokio::select! {
        ended = serve(settings, metrics, board, shutdown, listener) => ended,
        () = signals => Err(anyhow!("ended at once by a second signal; open intents are asked about at the next start")),
    }
}

/// The listener's socket.
///
/// # Errors
/// When the address cannot be used.
pub async fn bind(settings: &Settings) -> anyhow::Result<TcpListener> {
    let listen = settings.http.listen;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("the listener cannot use http.listen = \"{listen}\"; choose a free address, or end what uses it"))?;
    tracing::info!(http.listen = %listener.local_addr().unwrap_or(listen), "listening");
    Ok(listener)
}

/// Runs everything that is enabled until `shutdown`, then drains.
///
/// # Errors
/// What kept it from starting, or ended a route.
pub async fn serve(
    settings: Settings,
    metrics: Arc<Metrics>,
    board: Board,
    shutdown: CancellationToken,
    listener: TcpListener,
) -> anyhow::Result<()> {
    let settings = Arc::new(settings);
    let listening = CancellationToken::new();
    let token = settings.http.token.clone();
    let serving = tokio::spawn(ops::serve(listener, board.clone(), Arc::clone(&metrics), token, listening.clone()));
    let ended = routes(&settings, &metrics, &board, &shutdown).await;
    // The listener goes last, so that a drain can be watched.
    tracing::info!("the routes have ended");
    listening.cancel();
    serving.await.context("the listener ended early")?;
    ended
}

async fn routes(settings: &Arc<Settings>, metrics: &Arc<Metrics>, board: &Board, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let codec = Arc::new(Codec::connect(settings.schema_registry.as_ref(), &settings.topics, &subjects(settings)).await?);
    let erp = Erp::new(settings, Arc::clone(metrics))?;
    let controls = Controls::follow(&settings.kafka, &settings.topics.control).map_err(|reason| anyhow!(reason))?;
    let mut routes: JoinSet<anyhow::Result<()>> = JoinSet::new();
    if settings.commands.enabled {
        let parts = sink::Parts {
            settings: Arc::clone(settings),
            erp: erp.clone(),
            codec: Arc::clone(&codec),
            metrics: Arc::clone(metrics),
            board: board.clone(),
            shutdown: shutdown.clone(),
            controls: controls.clone(),
        };
        routes.spawn(async move { Ok(sink::run(parts).await?) });
    }
    if Feed::ALL.into_iter().any(|feed| source::settings_of(settings, feed).enabled) {
        let parts = source::Parts {
            settings: Arc::clone(settings),
            erp: erp.clone(),
            codec,
            metrics: Arc::clone(metrics),
            board: board.clone(),
            shutdown: shutdown.clone(),
            controls: controls.clone(),
            markers: Arc::new(source::NoMarkers),
        };
        routes.spawn(async move { Ok(source::run(parts).await?) });
    }
    let reporting = tokio::spawn(report_erp(erp, board.clone(), Arc::clone(metrics)));
    let mut first_fault = Ok(());
    while let Some(ended) = routes.join_next().await {
        let ended = ended.context("a route ended abnormally").and_then(|ended| ended);
        if let Err(fault) = ended
            && first_fault.is_ok()
        {
            tracing::error!(error = %fault, "a route cannot go on; the process drains and ends");
            first_fault = Err(fault);
            shutdown.cancel();
        }
    }
    reporting.abort();
    first_fault
}

/// What the enabled routes write.
fn subjects(settings: &Settings) -> Vec<Subject> {
    let mut subjects = Vec::new();
    if settings.commands.enabled {
        subjects.extend([Subject::Result, Subject::Journal]);
        if settings.commands.format == crate::config::CommandFormat::Avro {
            subjects.push(Subject::Command);
        }
    }
    for (feed, envelope) in
        [(Feed::PurchaseReturns, Subject::PurchaseReturnEnvelope), (Feed::ReturnOutbounds, Subject::ReturnOutboundEnvelope)]
    {
        if source::settings_of(settings, feed).enabled {
            subjects.extend([envelope, Subject::FeedState]);
        }
    }
    subjects.sort_unstable();
    subjects.dedup();
    subjects
}

async fn report_erp(erp: Erp, board: Board, metrics: Arc<Metrics>) {
    let mut every = tokio::time::interval(QUOTA_STATUS);
    loop {
        every.tick().await;
        let budgets = erp.quota().status();
        metrics.quota(&budgets);
        for edition in [Edition::Flagship, Edition::Enterprise] {
            if let Some(ahead_ms) = erp.skew(edition) {
                metrics.erp_skew(edition, ahead_ms);
            }
        }
        if let Ok(status) = serde_json::to_value(budgets) {
            board.set("quota", status);
        }
    }
}
