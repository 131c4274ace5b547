//! `wdt-connector`: an exactly-once bridge between Apache Kafka and the Wangdian (旺店通, WDT) ERP.
//!
//! ```text
//! commands topic ─▶ command ▶ validate ▶ journal ▶ call ▶ outcome ▶ settle ─▶ results topic, dead letters
//! ERP queries    ─▶ window ▶ fetch ▶ diff ▶ change ▶ publish ─▶ change topics
//! ```
//!
//! [`sink`] is the command pipeline, [`source`] the change pipeline; `docs/architecture.md` follows
//! one record through each. Both share [`erp`] (signed calls, quota), [`kafka`] (groups,
//! transactions, takeover) and [`schema`] (Avro, registry).
//!
//! Imports point one way: `cli → app → {sink, source, ops} → {erp, kafka, schema, telemetry} →
//! {config, background, board, metrics, http_client, fault, decimal, clock, text, explanation,
//! crash}`. The two pipelines never import each other. The simulator imports nothing of the client,
//! so that a mistake in one cannot be hidden by the same mistake in the other.

mod app;
mod cli;

mod sink;
mod source;

mod ops;

mod erp;
mod kafka;
mod schema;
mod telemetry;

mod background;
mod board;
mod clock;
mod config;
mod crash;
mod decimal;
mod explanation;
mod fault;
mod http_client;
mod metrics;
mod restarts;
mod text;

mod simulator;

pub use cli::main;

/// What the integration tests, fuzz targets and benchmarks use; not an interface for others.
#[doc(hidden)]
pub mod testing {
    pub mod clock {
        pub use crate::clock::Timestamp;
    }
    pub mod config {
        pub use crate::config::{
            CommandFormat, Edition, ErpConnection, Feed, FlagshipSettings, Partitioner,
            RegistrySettings, Topics, from_toml,
        };
    }
    pub mod crash {
        pub use crate::crash::{COMPILED, Point};
    }
    pub mod decimal {
        pub use crate::decimal::Decimal;
    }
    pub mod explanation {
        pub use crate::explanation::Explanation;
    }
    pub mod erp {
        pub use crate::erp::{Call, fuzz, page, record};
    }
    pub mod kafka {
        pub use crate::kafka::{REST, commit_often};
    }
    pub mod schema {
        pub use crate::schema::{
            Codec, CommandLine, CommandResult, CreateMode, CreateReturnOutbound, DecodeFault,
            EntryKind, EnvelopeParts, ExplanationFields, FeedState, JournalEntry, Op, Outcome,
            Source, StateKind, Subject, fuzz,
        };
    }
    pub mod simulator {
        pub use crate::simulator::fuzz;
    }
    pub mod sink {
        pub use crate::sink::{decision, fingerprint, fuzz, marker, order_request, partition_of};
    }
    pub mod source {
        pub use crate::source::{change, diff, fetch};
    }
}
