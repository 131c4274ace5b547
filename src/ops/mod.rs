//! The small HTTP listener: health, readiness, metrics, status and a page for people.
//!
//! Every connection is bounded: how many there are, how long each lasts, how large a request's head may be. One request
//! per connection, so that an idle browser holds nothing.

mod access;
mod page;
mod process;
mod routes;

use std::{net::IpAddr, sync::Arc, time::Duration};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use secrecy::SecretString;
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{board::Board, metrics::Metrics};

use access::Access;

/// Enough for a scraper, an orchestrator's probes and a few people; further connections are closed at once.
const MAX_CONNECTIONS: usize = 64;
/// A request's head has to be there by then.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Whatever happens, a connection is over by then.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// Head of a request, in bytes and in header lines.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
/// How long answers under way may take once the process stops.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// After a failed accept (no descriptor left): the time in which connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown`; then lets the answers under way finish, for a second at most.
///
/// On a loopback address everything is open. On any other, everything but the probes and `/metrics` needs `token`, as
/// `Authorization: Bearer …` or as the password of HTTP basic authentication (which a browser asks for).
pub async fn serve(listener: TcpListener, board: Board, metrics: Arc<Metrics>, token: Option<SecretString>, shutdown: CancellationToken) {
    let loopback = listener.local_addr().is_ok_and(|address| is_loopback(address.ip()));
    let router = routes::router(board, metrics, Access::new(loopback, token));
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
                tracing::warn!(error = %error, "the listener could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&connections).try_acquire_owned() else { continue };
        let service = TowerToHyperService::new(router.clone());
        tasks.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .keep_alive(false)
                .max_headers(MAX_HEADERS)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), service);
            // A client that goes away or talks nonsense concerns nobody.
            let _ = timeout(CONNECTION_TIMEOUT, connection).await;
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
