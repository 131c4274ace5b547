//! A door for the fuzz tests: one request to the admin API, without a socket.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;

use super::{Kind, Seeding, SimulatorConfig, admin, control::Control, world::World};

/// Made up at the start; a request changes them.
const RECORDS: u32 = 5;
/// What a request may ask for in one go here; more is as legal, and costs as much more.
const MOST: u64 = 20;

/// The admin API on a small ERP of its own.
#[derive(Debug)]
pub struct Trial {
    service: TowerToHyperService<Router>,
}

impl Trial {
    /// Listens nowhere.
    ///
    /// # Errors
    /// One sentence; only a defect makes one.
    pub fn new() -> Result<Self, String> {
        let world = Arc::new(World::new(&SimulatorConfig::default()));
        let control = Control::new(world);
        for kind in [Kind::PurchaseReturns, Kind::Outbounds] {
            control.seed(
                kind,
                &Seeding { from: Some("2026-01-01 00:00:00".into()), ..Seeding::of(RECORDS) },
            )?;
        }
        Ok(Self { service: TowerToHyperService::new(admin::router(control)) })
    }

    /// `bytes`: the request line, a line feed, the body.
    pub async fn request(&self, bytes: &[u8]) -> &'static str {
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        let (line, body) = bytes.split_at(end);
        let body = body.get(1..).unwrap_or_default();
        if serde_json::from_slice::<Value>(body).is_ok_and(|value| asks_for_much(&value)) {
            return "asks for much";
        }
        let line = String::from_utf8_lossy(line);
        let (method, path) = line.split_once(' ').unwrap_or(("GET", &line));
        let Ok(request) =
            Request::builder().method(method).uri(path).body(Body::from(body.to_vec()))
        else {
            return "no request";
        };
        let Ok(response) = self.service.call(request).await;
        match response.status() {
            StatusCode::OK => "done",
            StatusCode::BAD_REQUEST => "a mistake",
            StatusCode::NOT_FOUND => "nothing there",
            StatusCode::METHOD_NOT_ALLOWED => "another method",
            _ => "a defect",
        }
    }
}

fn asks_for_much(body: &Value) -> bool {
    ["count", "lines"]
        .iter()
        .any(|key| body.get(key).and_then(Value::as_u64).is_some_and(|count| count > MOST))
}
