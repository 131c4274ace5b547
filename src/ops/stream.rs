//! Live updates for the page: server-sent events.
//!
//! `status` every second (stories only where there are new ones), `samples` with the history's
//! figures: all of them first, then what is new. A client that reads slowly is sent less: nothing
//! is prepared before the last event is taken.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::{Lasting, routes::Shared};

const EVERY: Duration = Duration::from_secs(1);

/// What one stream has sent.
struct Sent {
    shared: Shared,
    samples: u64,
    stories: Option<u64>,
    /// What is due before the next pause.
    status_due: bool,
    _place: OwnedSemaphorePermit,
}

pub(super) async fn events(
    State(shared): State<Shared>,
    axum::Extension(lasting): axum::Extension<Lasting>,
) -> Response {
    let Ok(place) = std::sync::Arc::clone(&shared.streams).try_acquire_owned() else {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "too many live pages are open; /status answers all the same\n",
        )
            .into_response();
    };
    lasting.extend();
    let sent = Sent { shared, samples: 0, stories: None, status_due: true, _place: place };
    let events = stream::unfold(sent, |mut sent| async move {
        let event = next(&mut sent).await?;
        Some((Ok::<_, Infallible>(event), sent))
    });
    Sse::new(events).into_response()
}

/// The next event; `None` once the process stops.
async fn next(sent: &mut Sent) -> Option<Event> {
    if !sent.status_due {
        let (samples, new) = sent.shared.history.since(sent.samples);
        sent.samples = samples;
        if !new.is_empty() {
            return event("samples", &json!(new));
        }
        tokio::select! {
            () = sent.shared.shutdown.cancelled() => return None,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
    sent.status_due = false;
    let told = sent.shared.board.told();
    let with_stories = sent.stories != Some(told);
    sent.stories = Some(told);
    event("status", &sent.shared.status(with_stories))
}

fn event(name: &str, value: &Value) -> Option<Event> {
    Event::default().event(name).retry(EVERY).json_data(value).ok()
}
