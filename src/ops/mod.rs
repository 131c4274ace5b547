//! The HTTP listener: health, readiness, metrics, status, and the status page.
//!
//! The number of connections, their lifetime and the size of a request head are bounded. A
//! connection serves one request, so an idle browser occupies nothing.

mod access;
mod change;
mod history;
mod page;
mod process;
mod routes;
mod stream;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::Extension;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    background,
    board::Board,
    config::Settings,
    crash::{self, Fault},
    metrics::Metrics,
    telemetry::Levels,
};

use access::Access;
pub(crate) use access::Token;

/// Enough for a scraper, an orchestrator's probes and a few people; further connections are closed
/// at once.
const MAX_CONNECTIONS: usize = 64;
/// A request's head has to be there by then.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Whatever happens, a connection is over by then; one with live updates later, and its page then
/// opens the next.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
const STREAM_TIMEOUT: Duration = Duration::from_secs(600);
/// Head of a request, in bytes and in header lines.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
/// How long answers under way may take once the process stops.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// After a failed accept (no descriptor left): the time in which connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the listener shows and changes; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub board: Board,
    pub metrics: Arc<Metrics>,
    pub token: Token,
    /// With the Kafka credentials in force: pausing a pipeline is written there.
    pub settings: watch::Receiver<Arc<Settings>>,
    pub levels: Levels,
}

/// [`Parts`], with the rule that the listener's address brings.
#[derive(Clone, Debug)]
struct Listener {
    board: Board,
    metrics: Arc<Metrics>,
    settings: watch::Receiver<Arc<Settings>>,
    levels: Levels,
    instance: Arc<str>,
    access: Access,
}

/// Says that an answer goes on for longer than others: live updates.
#[derive(Clone, Debug, Default)]
struct Lasting(Arc<AtomicBool>);

impl Lasting {
    fn extend(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Ends when the connection's time is over.
    async fn over(self) {
        let begun = Instant::now();
        sleep_until(begun + CONNECTION_TIMEOUT).await;
        if self.0.load(Ordering::Relaxed) {
            sleep_until(begun + STREAM_TIMEOUT).await;
        }
    }
}

/// Serves until `shutdown`; then lets the answers under way finish, for a second at most.
///
/// On a loopback address everything may be read, and changed where there is no token. On any other,
/// everything but the probes and `/metrics` needs the token, as `Authorization: Bearer …` or as the
/// password of HTTP basic authentication (which a browser asks for).
pub(crate) async fn serve(listener: Arc<TcpListener>, parts: Parts, shutdown: CancellationToken) {
    let loopback = listener.local_addr().is_ok_and(|address| is_loopback(address.ip()));
    let Parts { board, metrics, token, settings, levels } = parts;
    let instance = settings.borrow().kafka.instance_name().into();
    let shown = Listener {
        board,
        metrics,
        settings,
        levels,
        instance,
        access: Access::new(loopback, token),
    };
    let history = history::History::default();
    let _sampling = {
        let (history, board) = (history.clone(), shown.board.clone());
        background::lasting_task("history", move || history.clone().run(board.clone()))
    };
    let router = routes::router(&shown, history, shutdown.clone());
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "listener failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        crash::panic_once_if(Fault::ListenerPanic);
        let Ok(place) = Arc::clone(&connections).try_acquire_owned() else { continue };
        let lasting = Lasting::default();
        let service = TowerToHyperService::new(router.clone().layer(Extension(lasting.clone())));
        tasks.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .keep_alive(false)
                .max_headers(MAX_HEADERS)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), service);
            // A client that goes away or talks nonsense concerns nobody.
            tokio::select! {
                _ = connection => {}
                () = lasting.over() => {}
            }
            drop(place);
        });
    }
    tasks.close();
    let _ = timeout(LAST_ANSWERS, tasks.wait()).await;
}

/// IPv4 loopback in IPv6 clothes counts as well.
fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests;
