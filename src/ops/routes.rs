//! Paths and their answers. Nothing is changed by GET.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Query, Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn, from_fn_with_state, map_response},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    board::Board,
    clock::{Moment, Timestamp, millis},
    metrics::Metrics,
};

use super::{
    Listener,
    access::{Denied, same_origin},
    change,
    history::History,
    page, process, stream,
};

/// What every answer is made from.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub board: Board,
    metrics: Arc<Metrics>,
    pub listener: Listener,
    pub history: History,
    /// Live pages.
    pub streams: Arc<Semaphore>,
    pub shutdown: CancellationToken,
    started: Moment,
    started_at: Timestamp,
}

/// A page is for people: more of them share a screen.
pub(super) const MAX_STREAMS: usize = 16;
/// The only bodies there are: a log filter, nothing.
const MAX_BODY: usize = 4 * 1024;

/// On every answer; the page replaces the policy by its own.
const SECURITY_HEADERS: [(HeaderName, &str); 6] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

pub(super) fn router(listener: &Listener, history: History, shutdown: CancellationToken) -> Router {
    let shared = Shared {
        board: listener.board.clone(),
        metrics: Arc::clone(&listener.metrics),
        listener: listener.clone(),
        history,
        streams: Arc::new(Semaphore::new(MAX_STREAMS)),
        shutdown,
        started: Moment::now(),
        started_at: Timestamp::now(),
    };
    let guarded = Router::new()
        .route("/", get(page::show))
        .route("/status", get(status))
        .route("/events", get(stream::events))
        .route("/commands", get(command))
        .route("/log", get(change::log_filter).put(change::set_log_filter))
        .route("/pipelines/{pipeline}/{action}", post(change::set_pipeline))
        .route_layer(DefaultBodyLimit::max(MAX_BODY))
        .route_layer(from_fn(only_own_pages))
        .route_layer(from_fn_with_state(shared.clone(), guard));
    Router::new()
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .merge(guarded)
        .fallback(async || (StatusCode::NOT_FOUND, "there is nothing here; try / or /status\n"))
        .with_state(shared)
        .layer(map_response(secure))
}

async fn secure(mut response: Response) -> Response {
    for (name, value) in SECURITY_HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// A browser would send a stranger's page's POST with the credentials it knows: nothing is changed
/// for one.
async fn only_own_pages(request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) || same_origin(request.headers()) {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, "nothing is changed on behalf of another page; ask from the connector's own page or without a browser\n")
        .into_response()
}

async fn guard(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    match shared.listener.access.allow(request.headers(), request.method()) {
        Ok(()) => next.run(request).await,
        Err(Denied::Token) => {
            let challenge =
                [(header::WWW_AUTHENTICATE, "Basic realm=\"wdt-connector\", charset=\"UTF-8\", Bearer realm=\"wdt-connector\"")];
            (StatusCode::UNAUTHORIZED, challenge, "this needs the token of http.token_file, as Authorization: Bearer or as a password\n")
                .into_response()
        }
        Err(Denied::Host) => {
            (StatusCode::FORBIDDEN, "a loopback listener is addressed as localhost or by its IP address, not by another name\n")
                .into_response()
        }
    }
}

async fn health(State(shared): State<Shared>) -> Response {
    probe(
        shared
            .board
            .stalled()
            .iter()
            .map(|(name, silent)| format!("{name}: no progress for {}", seconds(*silent))),
    )
}

async fn ready(State(shared): State<Shared>) -> Response {
    probe(shared.board.unready().iter().map(|(part, reason)| format!("{part}: {reason}")))
}

/// 200 and `ok`, or 503 and one line per problem.
fn probe(problems: impl Iterator<Item = String>) -> Response {
    let text: String = problems.map(|problem| problem.replace(['\n', '\r'], " ") + "\n").collect();
    if text.is_empty() {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

async fn metrics_text(State(shared): State<Shared>) -> Response {
    let (board, metrics) = (&shared.board, &shared.metrics);
    // Sections measure ages as they are made, and set their gauges.
    let _ = board.sections();
    metrics.health(board.unready().is_empty(), board.stalled().is_empty(), &board.silences());
    if let Some(own) = process::look() {
        metrics.process(own.cpu_seconds, own.memory_bytes, own.files);
    }
    (
        [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
        shared.metrics.render(),
    )
        .into_response()
}

async fn status(State(shared): State<Shared>) -> Json<Value> {
    Json(shared.status(true))
}

impl Shared {
    /// `/status`; `recent` (the last results, changes, dead letters, notices) only where asked for.
    pub(super) fn status(&self, with_stories: bool) -> Value {
        let stalled = self.board.stalled();
        let unready = self.board.unready();
        let mut status = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "instance": &*self.listener.instance,
            "now": Timestamp::now().to_string(),
            "started_at": self.started_at.to_string(),
            "uptime_seconds": self.started.until(Moment::now()).as_secs(),
            "healthy": stalled.is_empty(),
            "ready": unready.is_empty(),
            "stalled": stalled.iter().map(|(name, silent)| json!({ "loop": name, "heartbeat_age_ms": millis(*silent) })).collect::<Vec<_>>(),
            "unready": unready.iter().map(|(part, reason)| json!({ "part": part, "reason": reason })).collect::<Vec<_>>(),
            "sections": self.board.sections(),
        });
        if let (true, Some(fields)) = (with_stories, status.as_object_mut()) {
            fields.insert("recent".to_owned(), self.board.stories().1);
        }
        status
    }
}

/// Which command.
#[derive(Debug, Deserialize)]
struct Pair {
    return_no: String,
    command_id: String,
}

/// The way of one command through this instance.
async fn command(State(shared): State<Shared>, pair: Query<Pair>) -> Response {
    match shared.board.way(&pair.return_no, &pair.command_id) {
        Some(way) => Json(way).into_response(),
        None => (StatusCode::NOT_FOUND, "this instance has not seen the command lately; `wdt-connector commands show` reads the journal\n")
            .into_response(),
    }
}

fn seconds(span: Duration) -> String {
    format!("{}.{:03} s", span.as_secs(), span.subsec_millis())
}
