//! What can be changed through the listener: pause or resume a route, the log's filter.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{board::Story, clock::Timestamp, kafka::control};

use super::routes::Shared;

/// The routes by name.
const ROUTES: [&str; 3] = ["commands", "purchase_returns", "return_outbounds"];

/// `POST /routes/{route}/pause|resume`: a control record, so it holds for every instance and
/// through restarts. Answers once the broker has it.
pub(super) async fn set_route(
    State(shared): State<Shared>,
    Path((route, action)): Path<(String, String)>,
) -> Response {
    let state = match action.as_str() {
        "pause" => "paused",
        "resume" => "running",
        _ => {
            return (StatusCode::NOT_FOUND, "a route can be asked to pause or to resume\n")
                .into_response();
        }
    };
    let Some(route) = ROUTES.into_iter().find(|known| *known == route) else {
        return (
            StatusCode::NOT_FOUND,
            format!("there is no such route; there are {}\n", ROUTES.join(", ")),
        )
            .into_response();
    };
    let value = json!({ "state": state, "by": format!("listener of {}", shared.listener.instance), "at": Timestamp::now().to_string() });
    let settings = Arc::clone(&shared.listener.settings.borrow());
    match control::decide(
        &settings.kafka,
        &settings.topics.control,
        &control::route_key(route),
        Some(&value),
    )
    .await
    {
        Ok(()) => {
            if state == "paused" {
                tracing::info!(pipeline = route, "pipeline paused via HTTP");
            } else {
                tracing::info!(pipeline = route, "pipeline resumed via HTTP");
            }
            shared.board.tell(
                Story::Notice,
                json!({ "text": format!("{route} was told to be {state}"), "kind": "route" }),
            );
            Json(json!({ "route": route, "state": state })).into_response()
        }
        Err(reason) => {
            (StatusCode::BAD_GATEWAY, format!("{route} was not told, because {reason}\n"))
                .into_response()
        }
    }
}

/// `GET /log`: the filter in force.
pub(super) async fn log_filter(State(shared): State<Shared>) -> Response {
    Json(json!({ "filter": shared.listener.levels.filter() })).into_response()
}

/// `PUT /log` with a filter such as `wdt_connector::sink=debug,info` as its body; an empty one
/// brings back the configured one.
pub(super) async fn set_log_filter(State(shared): State<Shared>, filter: String) -> Response {
    match shared.listener.levels.set(filter.trim()) {
        Ok(filter) => {
            tracing::info!(log.filter = filter, "log filter changed via HTTP");
            shared.board.tell(
                Story::Notice,
                json!({ "text": format!("log filter: {filter}"), "kind": "log" }),
            );
            Json(json!({ "filter": filter })).into_response()
        }
        Err(reason) => (StatusCode::BAD_REQUEST, format!("{reason}\n")).into_response(),
    }
}
