//! What can be changed through the listener: pause or resume a pipeline, the log's filter.

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

/// The pipelines by name.
const PIPELINES: [&str; 3] = ["commands", "purchase_returns", "return_outbounds"];

/// `POST /pipelines/{pipeline}/pause|resume`: a control record, so it holds for every instance and
/// through restarts. Answers once the broker has it.
pub(super) async fn set_pipeline(
    State(shared): State<Shared>,
    Path((pipeline, action)): Path<(String, String)>,
) -> Response {
    let state = match action.as_str() {
        "pause" => "paused",
        "resume" => "running",
        _ => {
            return (StatusCode::NOT_FOUND, "a pipeline can be asked to pause or to resume\n")
                .into_response();
        }
    };
    let Some(pipeline) = PIPELINES.into_iter().find(|known| *known == pipeline) else {
        return (
            StatusCode::NOT_FOUND,
            format!("there is no such pipeline; there are {}\n", PIPELINES.join(", ")),
        )
            .into_response();
    };
    let value = json!({ "state": state, "by": format!("listener of {}", shared.listener.instance), "at": Timestamp::now().to_string() });
    let settings = Arc::clone(&shared.listener.settings.borrow());
    match control::decide(
        &settings.kafka,
        &settings.topics.control,
        control::pipeline_key(pipeline),
        Some(&value),
    )
    .await
    {
        Ok(_) => {
            if state == "paused" {
                tracing::info!(pipeline = pipeline, "pipeline paused via HTTP");
            } else {
                tracing::info!(pipeline = pipeline, "pipeline resumed via HTTP");
            }
            shared.board.tell(
                Story::Notice,
                json!({ "text": format!("{pipeline} was told to be {state}"), "kind": "pipeline" }),
            );
            Json(json!({ "pipeline": pipeline, "state": state })).into_response()
        }
        Err(reason) => {
            (StatusCode::BAD_GATEWAY, format!("{pipeline} was not told, because {reason}\n"))
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
