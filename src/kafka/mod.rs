//! Kafka as both pipelines use it: clients, group membership, partition ownership, transactions,
//! and the restore of compacted topics. Only this module names rdkafka.
//!
//! `docs/kafka.md` has what librdkafka does beyond its own documentation.

pub(crate) mod admin;
mod client;
mod consumer;
pub(crate) mod control;
pub(crate) mod follow;
mod group_state;
pub(crate) mod headers;
mod leaders;
pub(crate) mod members;
mod membership;
pub(crate) mod mock;
mod offsets;
mod ownership;
mod poller;
pub(crate) mod probe;
mod restore;
pub(crate) mod rights;
pub(crate) mod scan;
mod silence;
mod store;
pub(crate) mod tool;
mod topic;
mod topic_reader;
mod transaction;
mod unreadable;
mod watchdog;

#[cfg(test)]
pub(crate) use client::ISOLATION;
pub(crate) use client::largest_record;
pub(crate) use consumer::{Delivered, Group, GroupEvent, GroupFault, GroupOptions, Lease};
pub(crate) use group_state::{Asked, GroupState, GroupView, Offsets};
pub(crate) use leaders::Leaders;
pub(crate) use offsets::{Prefix, begun_anew, nonce_of};
#[cfg(test)]
pub(crate) use ownership::{Ownership, Standing};
pub(crate) use poller::LEAVE;
pub(crate) use restore::{
    Apply, Cancel, Restored, TakeOver, TakeOverFault, commit_fenced, take_over, take_over_each,
    worse,
};
pub(crate) use silence::{POLL_MARGIN, Threads};
pub use store::commit_often;
pub(crate) use store::{Change, Loader, Store, StoreFault, borrowed};
pub(crate) use topic::{Backlog, check_compacted, partition_counts};
pub use transaction::REST;
pub(crate) use transaction::{Batch, CommitFault, Outgoing, Position, Transactor};
