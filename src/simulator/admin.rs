//! The admin API: JSON over HTTP on an address of its own. Everything is stable; kinds are
//! `purchase_returns` and `outbounds`.
//!
//! | request | body or query | answer |
//! |---|---|---|
//! | `GET /admin/summary` | | [`Summary`](super::ledger::Summary): orders, markers, duplicates, calls, refusals, faults that struck |
//! | `GET /admin/counters` | | [`Counts`](super::ledger::Counts) by call |
//! | `GET /admin/requests` | `?after=SEQ&limit=N` | the last requests: `seq, call, at_ms, applied, answered, end` |
//! | `GET /admin/orders` | `?return_no=` | [`Order`](super::ledger::Order)s that requests made |
//! | `GET /admin/duplicates` | | markers with more than one order |
//! | `GET /admin/records/{kind}` | `?edition=flagship\|enterprise&skip=N&limit=N` | records as a query answers them, digits untouched; 50 without a limit |
//! | `GET /admin/records/{kind}/{number}` | `?edition=` | one of them |
//! | `POST /admin/seed/{kind}` | [`Seeding`]: `count, from, to, status, edition, lines, return_no, warehouse_no` | `{"numbers":[…]}` |
//! | `POST /admin/records/{kind}/{number}` | [`Change`]: `status, remark, …, modified, consign_time, visible_after_ms, set, omit, restore` | the record |
//! | `POST /admin/churn` | `{"count":N}` | modifies N records at random |
//! | `GET /admin/faults` | | the rules and how often each struck |
//! | `POST /admin/faults` | `{"rules":"createOrder:applied_timeout=3x","replace":false}` | the rules |
//! | `DELETE /admin/faults` | | the (empty) rules |
//! | `POST /admin/settings` | [`Adjust`]: `latency_ms, clock_offset_ms, quota_per_minute, quota_by_account, page_order, shuffle_equal, page_cap, default_statuses, enterprise_window, unpermitted_warehouses, new_records, resting_records, late_records, outage, …` | `{}` |
//!
//! Anything wrong is answered with 400 and `{"error":"one sentence"}`, or 404.

use axum::{
    Router,
    body::Bytes,
    extract::{Path, Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    control::Control,
    mischief::{Script, parse_rules},
    record::{Change, Edition, Kind},
    seed::Seeding,
    world::Adjust,
};

/// Serves until the simulator stops.
pub(super) async fn serve(listener: TcpListener, control: Control, stop: CancellationToken) {
    let router = router(control);
    tokio::select! {
        ended = axum::serve(listener, router) => if let Err(fault) = ended {
            tracing::error!(error = %fault, "simulator admin API stopped; restart the simulator");
        },
        () = stop.cancelled() => {}
    }
}

/// Every request of the table above.
pub(super) fn router(control: Control) -> Router {
    Router::new()
        .route(
            "/admin/summary",
            get(async |State(control): State<Control>| good(&control.summary())),
        )
        .route(
            "/admin/counters",
            get(async |State(control): State<Control>| good(&control.counters())),
        )
        .route("/admin/requests", get(requests))
        .route("/admin/orders", get(orders))
        .route(
            "/admin/duplicates",
            get(async |State(control): State<Control>| good(&control.duplicates())),
        )
        .route("/admin/records/{kind}", get(records))
        .route("/admin/records/{kind}/{number}", get(record).post(modify))
        .route("/admin/seed/{kind}", post(seed))
        .route("/admin/churn", post(churn))
        .route("/admin/faults", get(faults).post(script).delete(clear))
        .route("/admin/settings", post(settings))
        .with_state(control)
}

fn good<T: Serialize>(value: &T) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => raw(text),
        Err(fault) => (StatusCode::INTERNAL_SERVER_ERROR, fault.to_string()).into_response(),
    }
}

fn raw(json: String) -> Response {
    ([(CONTENT_TYPE, "application/json")], json).into_response()
}

fn bad(error: &str) -> Response {
    (
        StatusCode::BAD_REQUEST,
        [(CONTENT_TYPE, "application/json")],
        json!({ "error": error }).to_string(),
    )
        .into_response()
}

fn missing(number: &str) -> Response {
    let error = format!("there is no record with the number {number}");
    (
        StatusCode::NOT_FOUND,
        [(CONTENT_TYPE, "application/json")],
        json!({ "error": error }).to_string(),
    )
        .into_response()
}

/// Reads a body by hand: axum's extractor would answer mistakes in a form of its own.
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Box<Response>> {
    serde_json::from_slice(body)
        .map_err(|fault| Box::new(bad(&format!("the body does not fit: {fault}"))))
}

#[derive(Deserialize)]
struct RequestsQuery {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
}

async fn requests(State(control): State<Control>, Query(query): Query<RequestsQuery>) -> Response {
    good(&control.requests(query.after, query.limit.unwrap_or(1000)))
}

#[derive(Deserialize)]
struct OrdersQuery {
    return_no: Option<String>,
}

async fn orders(State(control): State<Control>, Query(query): Query<OrdersQuery>) -> Response {
    good(&control.orders(query.return_no.as_deref()))
}

/// Records shown where nobody says how many.
const PAGE: usize = 50;

#[derive(Deserialize)]
struct RecordsQuery {
    #[serde(default)]
    edition: Edition,
    #[serde(default)]
    skip: usize,
    limit: Option<usize>,
}

async fn records(
    State(control): State<Control>,
    Path(kind): Path<Kind>,
    Query(query): Query<RecordsQuery>,
) -> Response {
    let records = control.records(kind, query.edition, query.skip, query.limit.unwrap_or(PAGE));
    raw(format!("[{}]", records.join(",\n")))
}

async fn record(
    State(control): State<Control>,
    Path((kind, number)): Path<(Kind, String)>,
    Query(query): Query<RecordsQuery>,
) -> Response {
    control.record(kind, query.edition, &number).map_or_else(|| missing(&number), raw)
}

async fn modify(
    State(control): State<Control>,
    Path((kind, number)): Path<(Kind, String)>,
    body: Bytes,
) -> Response {
    let change: Change = match read(&body) {
        Ok(change) => change,
        Err(response) => return *response,
    };
    if control.record(kind, Edition::Flagship, &number).is_none() {
        return missing(&number);
    }
    match control.modify(kind, &number, &change) {
        Ok(()) => {
            control.record(kind, Edition::Flagship, &number).map_or_else(|| missing(&number), raw)
        }
        Err(error) => bad(&error),
    }
}

async fn seed(State(control): State<Control>, Path(kind): Path<Kind>, body: Bytes) -> Response {
    let seeding: Seeding = match read(&body) {
        Ok(seeding) => seeding,
        Err(response) => return *response,
    };
    match control.seed(kind, &seeding) {
        Ok(numbers) => good(&json!({ "numbers": numbers })),
        Err(error) => bad(&error),
    }
}

/// The ERP stands still while they are modified.
const MOST_CHURN: u32 = 1_000_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Churn {
    count: u32,
}

async fn churn(State(control): State<Control>, body: Bytes) -> Response {
    match read::<Churn>(&body) {
        Ok(Churn { count }) if count > MOST_CHURN => {
            bad(&format!("count is {count}; at most {MOST_CHURN} records are modified in one go"))
        }
        Ok(churn) => {
            control.churn(churn.count);
            good(&json!({}))
        }
        Err(response) => *response,
    }
}

async fn faults(State(control): State<Control>) -> Response {
    good(&control.faults())
}

async fn script(State(control): State<Control>, body: Bytes) -> Response {
    let script: Script = match read(&body) {
        Ok(script) => script,
        Err(response) => return *response,
    };
    // Read before anything is forgotten: a mistake must not disarm the script.
    if let Err(error) = parse_rules(&script.rules) {
        return bad(&error);
    }
    if script.replace {
        control.clear_faults();
    }
    match control.add_faults(&script.rules) {
        Ok(()) => good(&control.faults()),
        Err(error) => bad(&error),
    }
}

async fn clear(State(control): State<Control>) -> Response {
    control.clear_faults();
    good(&control.faults())
}

async fn settings(State(control): State<Control>, body: Bytes) -> Response {
    match read::<Adjust>(&body) {
        Ok(adjust) => {
            control.adjust(&adjust);
            good(&json!({}))
        }
        Err(response) => *response,
    }
}
