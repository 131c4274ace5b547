//! Paths and their answers.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{Next, from_fn_with_state, map_response},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use crate::{
    board::Board,
    clock::{Moment, Timestamp, millis},
    metrics::Metrics,
};

use super::{
    access::{Access, Denied},
    page, process,
};

/// What every answer is made from.
#[derive(Clone, Debug)]
struct Shared {
    board: Board,
    metrics: Arc<Metrics>,
    started: Moment,
    started_at: Timestamp,
}

/// On every answer; the page replaces the policy by its own.
const SECURITY_HEADERS: [(HeaderName, &str); 6] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

pub(super) fn router(board: Board, metrics: Arc<Metrics>, access: Access) -> Router {
    let shared = Shared { board, metrics, started: Moment::now(), started_at: Timestamp::now() };
    let guarded = Router::new().route("/", get(page::show)).route("/status", get(status)).route_layer(from_fn_with_state(access, guard));
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

async fn guard(State(access): State<Access>, request: Request, next: Next) -> Response {
    match access.allow(request.headers()) {
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
    probe(shared.board.stalled().iter().map(|(name, silent)| format!("{name}: no progress for {}", seconds(*silent))))
}

async fn ready(State(shared): State<Shared>) -> Response {
    probe(shared.board.unready().iter().map(|(part, reason)| format!("{part}: {reason}")))
}

/// 200 and `ok`, or 503 and one line per problem.
fn probe(problems: impl Iterator<Item = String>) -> Response {
    let text: String = problems.map(|problem| problem.replace(['\n', '\r'], " ") + "\n").collect();
    if text.is_empty() { "ok\n".into_response() } else { (StatusCode::SERVICE_UNAVAILABLE, text).into_response() }
}

async fn metrics_text(State(shared): State<Shared>) -> Response {
    let (board, metrics) = (&shared.board, &shared.metrics);
    metrics.health(board.unready().is_empty(), board.stalled().is_empty(), &board.silences());
    if let Some(own) = process::look() {
        metrics.process(own.cpu_seconds, own.memory_bytes, own.files);
    }
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], shared.metrics.render()).into_response()
}

async fn status(State(shared): State<Shared>) -> Json<Value> {
    let stalled = shared.board.stalled();
    let unready = shared.board.unready();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "started_at": shared.started_at.to_string(),
        "uptime_seconds": shared.started.until(Moment::now()).as_secs(),
        "healthy": stalled.is_empty(),
        "ready": unready.is_empty(),
        "stalled": stalled.iter().map(|(name, silent)| json!({ "loop": name, "silent_ms": millis(*silent) })).collect::<Vec<_>>(),
        "unready": unready.iter().map(|(part, reason)| json!({ "part": part, "reason": reason })).collect::<Vec<_>>(),
        "sections": shared.board.sections(),
    }))
}

fn seconds(span: Duration) -> String {
    format!("{}.{:03} s", span.as_secs(), span.subsec_millis())
}
