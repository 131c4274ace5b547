//! The log as both routes see it: clients, group membership, ownership, transactions, compacted
//! state.

pub mod admin;
mod batch_size;
mod client;
mod consumer;
pub mod control;
mod ends;
pub mod follow;
pub mod members;
mod membership;
pub mod mock;
mod offsets;
mod order;
mod ownership;
mod poller;
pub mod probe;
mod restore;
pub mod rights;
pub mod scan;
mod store;
pub mod tool;
mod topic;
mod transaction;
mod watchdog;

pub use client::largest_record;
pub use consumer::{Delivered, Group, GroupEvent, GroupFault, GroupOptions, Lease};
pub use ends::EndOffsets;
pub use offsets::Prefix;
pub use order::{ISOLATION, Part, TAKE_OVER, TRANSACTION, TakeOverPart};
pub use ownership::{Ownership, Standing};
pub use restore::{Apply, Restored, TakeOver, TakeOverFault, commit_fenced, take_over};
pub use store::{Change, Loader, Store, StoreFault, View, borrowed};
pub use topic::{Backlog, partition_counts};
pub use transaction::{Batch, CommitFault, Outgoing, Position, REST, Transactor};
