//! Avro as both pipelines use it: the embedded `.avsc` files, the schema registry, the codec, and
//! the Rust type of every value that is written.

mod canonical;
mod catalog;
mod codec;
pub(crate) mod datum;
#[doc(hidden)]
pub mod fuzz;
mod json;
mod learnt;
mod model;
mod parser;
mod registry;
pub(crate) mod shape;
mod standing;
mod subject;
mod translate;

pub(crate) use catalog::{Known, catalog};
pub(crate) use catalog::{SchemaInfo, schemas};
pub use codec::{Codec, DecodeFault};
pub(crate) use codec::{LearnFault, SchemaFault};
pub(crate) use model::{Checkpoint, UnprovenWindow};
pub use model::{
    CommandLine, CommandResult, CreateMode, CreateReturnOutbound, EntryKind, ExplanationFields,
    FeedState, JournalEntry, Outcome, Source, StateKind,
};
pub(crate) use standing::{Standing, register, standing};
pub use subject::{EnvelopeParts, Op, Subject};

#[cfg(test)]
pub(crate) use codec::reference_json;
#[cfg(test)]
mod upgrade_tests;
#[cfg(test)]
mod writer_tests;
