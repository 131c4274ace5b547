//! Builds the clients from the settings, runs both pipelines, and drains them in order.

mod ending;
mod reload;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    background::{self, Running},
    board::Board,
    config::{Edition, Feed, Settings},
    crash::{self, Fault},
    erp::Erp,
    kafka::control::Controls,
    metrics::Metrics,
    ops,
    schema::{Codec, Subject},
    sink, source,
    telemetry::Levels,
};

pub(crate) use ending::Ending;
use reload::Reload;

/// How often the quota's section of the status is renewed.
const QUOTA_STATUS: Duration = Duration::from_secs(1);

/// Runs everything that is enabled until `ending` begins, then drains.
///
/// # Errors
/// What kept the process from starting, or ended it.
pub(crate) async fn run(
    settings: Settings,
    metrics: Arc<Metrics>,
    board: Board,
    levels: Levels,
    ending: Ending,
) -> anyhow::Result<()> {
    let listener = bind(&settings).await?;
    serve(settings, metrics, board, levels, ending, listener).await
}

/// The listener's socket.
///
/// # Errors
/// When the address cannot be used.
pub(crate) async fn bind(settings: &Settings) -> anyhow::Result<TcpListener> {
    let listen = settings.http.listen;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("the listener cannot use http.listen = \"{listen}\"; choose a free address, or end what uses it"))?;
    tracing::info!(http.listen = %listener.local_addr().unwrap_or(listen), "listener started");
    Ok(listener)
}

/// [`run`] on a listener that there is already.
///
/// # Errors
/// What kept it from starting, or ended a pipeline.
pub(crate) async fn serve(
    settings: Settings,
    metrics: Arc<Metrics>,
    board: Board,
    levels: Levels,
    ending: Ending,
    listener: TcpListener,
) -> anyhow::Result<()> {
    // Before anybody can ask: a process whose pipelines have not spoken yet is not ready.
    for (part, enabled) in [(sink::ROLE, settings.commands.enabled), ("feeds", any_feed(&settings))]
    {
        if enabled {
            board.ready(part, Err("starting".to_owned()));
        }
    }
    let token = ops::Token::new(settings.http.token.clone());
    let erp = Erp::new(&settings, Arc::clone(&metrics))?;
    let (publish, live) = watch::channel(Arc::new(settings));
    let listening = CancellationToken::new();
    let shown = ops::Parts {
        board: board.clone(),
        metrics: Arc::clone(&metrics),
        token: token.clone(),
        settings: live.clone(),
        levels,
    };
    let (listener, last_answers) = (Arc::new(listener), listening.clone());
    let serving = background::lasting_task("listener", move || {
        ops::serve(Arc::clone(&listener), shown.clone(), last_answers.clone())
    });
    // Reads the files now, so that what changes while the registry is asked is news.
    let reload = Reload::new(publish, erp.clone(), token, board.clone(), Arc::clone(&metrics));
    let reporting = {
        let (erp, board, metrics) = (erp.clone(), board.clone(), Arc::clone(&metrics));
        background::lasting_task("quota report", move || {
            report_erp(erp.clone(), board.clone(), Arc::clone(&metrics))
        })
    };
    let ended = generations(live, reload, &erp, &metrics, &board, &ending).await;
    drop(reporting);
    // The listener goes last, so that a drain can be watched.
    tracing::info!("pipelines stopped");
    listening.cancel();
    serving.await.context("the listener ended early")?;
    ended
}

/// Runs the pipelines; again, with clients built anew, whenever Kafka's credentials were replaced.
/// Leaving and joining under the same static name keeps the assignment.
///
/// Only the start asks the registry for the ids of our schemas. The codec outlives the pipelines, so
/// that a registry that is away never ends a process that runs.
async fn generations(
    mut live: watch::Receiver<Arc<Settings>>,
    reload: Reload,
    erp: &Erp,
    metrics: &Arc<Metrics>,
    board: &Board,
    ending: &Ending,
) -> anyhow::Result<()> {
    let settings = Arc::clone(&live.borrow());
    let subjects = subjects(&settings);
    let codec = tokio::select! {
        codec = Codec::connect(settings.schema_registry.as_ref(), &settings.topics, &subjects) => {
            Arc::new(codec?)
        }
        () = ending.begun().cancelled() => return Ok(()),
    };
    let _reloading = {
        let (reload, codec) = (Arc::new(reload), Arc::clone(&codec));
        background::lasting_task("reload", move || Arc::clone(&reload).run(Arc::clone(&codec)))
    };
    loop {
        let settings = Arc::clone(&live.borrow_and_update());
        let stop = ending.begun().child_token();
        let replaced = {
            let (mut live, stop, ending) = (live.clone(), stop.clone(), ending.clone());
            async move {
                if live.changed().await.is_ok() {
                    ending.restarting();
                    stop.cancel();
                }
                std::future::pending::<()>().await
            }
        };
        let ended = tokio::select! {
            ended = pipelines(&settings, &codec, erp, metrics, board, &stop, ending) => ended,
            () = replaced => Ok(()),
        };
        if ended.is_err() || ending.begun().is_cancelled() || !live.has_changed().unwrap_or(false) {
            return ended;
        }
        ending.restarted();
        tracing::info!("restarting pipelines with new credentials");
    }
}

async fn pipelines(
    settings: &Arc<Settings>,
    codec: &Arc<Codec>,
    erp: &Erp,
    metrics: &Arc<Metrics>,
    board: &Board,
    shutdown: &CancellationToken,
    ending: &Ending,
) -> anyhow::Result<()> {
    let role = if settings.commands.enabled { sink::ROLE } else { source::ROLE };
    let controls = Controls::follow(&settings.kafka, &settings.topics.control, role)
        .map_err(|reason| anyhow!(reason))?;
    let _pauses = {
        let (controls, board, metrics) = (controls.clone(), board.clone(), Arc::clone(metrics));
        background::lasting_task("pauses", move || {
            show_pauses(controls.clone(), board.clone(), Arc::clone(&metrics))
        })
    };
    let mut pipelines: JoinSet<anyhow::Result<()>> = JoinSet::new();
    if settings.commands.enabled {
        let parts = sink::Parts {
            settings: Arc::clone(settings),
            erp: erp.clone(),
            codec: Arc::clone(codec),
            metrics: Arc::clone(metrics),
            board: board.clone(),
            shutdown: shutdown.clone(),
            controls: controls.clone(),
        };
        pipelines.spawn(async move {
            let _running = Running::named("pipeline commands");
            Ok(sink::run(parts).await?)
        });
    }
    if any_feed(settings) {
        let markers: Arc<dyn source::MarkerIndex> = if settings.return_outbounds.enabled {
            Arc::new(source::JournalMarkers::new(settings, sink::marker)?)
        } else {
            Arc::new(source::NoMarkers)
        };
        let parts = source::Parts {
            settings: Arc::clone(settings),
            erp: erp.clone(),
            codec: Arc::clone(codec),
            metrics: Arc::clone(metrics),
            board: board.clone(),
            shutdown: shutdown.clone(),
            controls: controls.clone(),
            markers,
        };
        pipelines.spawn(async move {
            let _running = Running::named("pipeline feeds");
            Ok(source::run(parts).await?)
        });
    }
    let mut first_fault = Ok(());
    while let Some(ended) = pipelines.join_next().await {
        let ended = ended.context("a pipeline ended abnormally").and_then(|ended| ended);
        if let Err(fault) = ended
            && first_fault.is_ok()
        {
            tracing::error!(error = %fault, "pipeline failed; draining and shutting down");
            first_fault = Err(fault);
            ending.begin();
        }
    }
    first_fault
}

fn any_feed(settings: &Settings) -> bool {
    Feed::ALL.into_iter().any(|feed| source::settings_of(settings, feed).enabled)
}

/// Which pipelines an operator has paused, for the page and the metrics.
async fn show_pauses(mut controls: Controls, board: Board, metrics: Arc<Metrics>) {
    controls.settled().await;
    loop {
        let mut paused = serde_json::Map::new();
        for pipeline in [sink::ROLE].into_iter().chain(Feed::ALL.map(Feed::name)) {
            let decision = controls.pause_of(pipeline);
            metrics.paused(pipeline, decision.is_some());
            paused.extend(decision.map(|decision| (pipeline.to_owned(), decision)));
        }
        board.set("paused", paused.into());
        controls.changed().await;
    }
}

/// What the enabled pipelines write.
fn subjects(settings: &Settings) -> Vec<Subject> {
    let mut subjects = Vec::new();
    if settings.commands.enabled {
        subjects.extend([Subject::Result, Subject::Journal]);
        if settings.commands.format == crate::config::CommandFormat::Avro {
            subjects.push(Subject::Command);
        }
    }
    for (feed, envelope) in [
        (Feed::PurchaseReturns, Subject::PurchaseReturnEnvelope),
        (Feed::ReturnOutbounds, Subject::ReturnOutboundEnvelope),
    ] {
        if source::settings_of(settings, feed).enabled {
            subjects.extend([envelope, Subject::FeedState]);
        }
    }
    subjects.sort_unstable();
    subjects.dedup();
    subjects
}

/// For a test: no task makes progress any more.
fn hang_runtime() {
    for _ in 0..tokio::runtime::Handle::current().metrics().num_workers() {
        background::task(async { crash::hang_if(Fault::RuntimeHang) });
    }
}

async fn report_erp(erp: Erp, board: Board, metrics: Arc<Metrics>) {
    let mut every = tokio::time::interval(QUOTA_STATUS);
    loop {
        every.tick().await;
        if crash::fault(Fault::RuntimeHang) && board.unready().is_empty() {
            hang_runtime();
        }
        crash::panic_once_if(Fault::ReportPanic);
        let budgets = erp.quota().status();
        metrics.quota(&budgets);
        for edition in [Edition::Flagship, Edition::Enterprise] {
            if let Some(ahead_ms) = erp.clock(edition).skew_ms {
                metrics.erp_skew(edition, ahead_ms);
            }
        }
        if let Ok(status) = serde_json::to_value(budgets) {
            board.set("quota", status);
        }
    }
}
