//! Everything end to end, on a real Kafka and a real schema registry, in one binary.
//!
//! One test: `cargo test --test it -- <part of its name>`. The parts are fetched through Maven on
//! first use; with `WDT_TEST_KAFKA=host:port` (and `WDT_TEST_REGISTRY=url`) yours are used instead.
//! `WDT_TEST_KAFKA_VERSION=3.9.1` fetches and starts another version of Apache Kafka.

#![allow(unreachable_pub, reason = "the kit's modules are written as a library's")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::large_futures,
    reason = "a test that cannot go on fails where it stands"
)]

#[allow(dead_code, reason = "shared with benches/, which use another share of it")]
mod kit;
#[allow(dead_code, reason = "shared with benches/, which use another share of it")]
mod parts;

mod answers;
mod bad_input;
mod change_route;
mod clocks;
mod command_route;
mod command_rules;
mod corruption;
mod crash_table;
mod decisions;
mod dense_second;
mod drift;
mod feed_tools;
mod ground;
mod host;
mod imperfect_pages;
mod injection;
mod instances;
mod large_topics;
mod layers;
mod limits;
mod locked_down;
mod log_fields;
mod lost_logs;
mod membership;
mod misplaced;
mod odd_answers;
mod operate;
mod orphans;
mod ownership;
mod panics;
mod process;
mod quota;
mod readers;
mod recorded;
mod registry;
mod repartition;
mod repeat_table;
mod restore;
mod secrets;
mod shipped;
mod shutdown;
mod sizing;
mod storm;
mod too_large;
mod tools;
mod unavailable;
mod upgrade;
mod verbs;
mod windows;
