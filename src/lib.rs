//! `wdt-connector`: one binary between Apache Kafka and the Wangdian (旺店通, WDT) ERP.
//!
//! ```text
//! commands topic ─▶ command ▶ validate ▶ journal ▶ call ▶ outcome ▶ settle ─▶ results topic (+ dead letters)
//! ERP queries    ─▶ window ▶ fetch ▶ diff ▶ change ▶ publish ─▶ change topics
//! ```
//!
//! Imports point one way: `cli → app → {sink, source, ops} → {erp, kafka, schema, telemetry} →
//! {config, board, metrics, http_client, fault, decimal, clock, text, crash}`. The two routes never
//! import each other; the simulator imports nothing of the client.

pub mod app;
pub mod cli;

pub mod sink;
pub mod source;

pub mod ops;

pub mod erp;
pub mod kafka;
pub mod schema;
pub mod telemetry;

pub mod board;
pub mod clock;
pub mod config;
pub mod crash;
pub mod decimal;
pub mod fault;
pub(crate) mod http_client;
pub mod metrics;
pub(crate) mod text;

pub mod simulator;
