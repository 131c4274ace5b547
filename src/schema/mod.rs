//! Avro as both routes see it: embedded `.avsc`, registry, codec, and the Rust shape of every value
//! we write.

mod canonical;
mod catalog;
mod codec;
pub(crate) mod datum;
#[doc(hidden)]
pub mod fuzz;
mod json;
mod learnt;
mod model;
mod registry;
pub(crate) mod shape;
mod standing;
mod subject;
mod translate;

pub(crate) use catalog::{Known, catalog};
pub use catalog::{SchemaInfo, schemas};
pub use codec::{Codec, DecodeFault, LearnFault, SchemaFault};
pub use model::{
    Checkpoint, CommandLine, CommandResult, CreateMode, CreateReturnOutbound, EntryKind, FeedState,
    JournalEntry, Outcome, Source, StateKind,
};
pub use standing::{Standing, register, standing};
pub use subject::{EnvelopeParts, Op, Subject};

#[cfg(test)]
pub(crate) use codec::reference_json;
#[cfg(test)]
mod upgrade_tests;
