//! The order in which a transaction is written and a partition is taken over, as pure rules. With
//! another order a stale owner could journal what its successor does not read
//! (`docs/delivery.md#ownership-and-takeover`).
//!
//! `EndTxn` is not checked for the group's generation, so a stale owner whose offsets were accepted
//! before a rebalance can still commit after it. What protects the successor: whoever reads its
//! stable offsets waits for every such transaction, and by the time the offsets were accepted all
//! of its records stood in the log.

/// What a transaction consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    /// Every record, until the broker has confirmed the last one.
    Records,
    /// The input offsets with the group's metadata: the broker checks member and generation here
    /// and nowhere else.
    Offsets,
    /// The commit.
    End,
}

/// A transaction's parts as they are written.
pub(crate) const TRANSACTION: [Part; 3] = [Part::Records, Part::Offsets, Part::End];

/// What a new owner does before it judges a record.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TakeOverPart {
    /// The stable committed offsets: asked for again while a transaction that carries some is
    /// pending. Both logs are held against them: a topic that lost everything is refused before the
    /// barrier, which would make it look like a living one.
    Offsets,
    /// A record of its own, with those same offsets.
    Barrier,
    /// Everything up to the barrier; what was written before it is decided when the barrier can be
    /// read.
    Read,
}

/// A takeover's parts as they are done.
#[cfg(test)]
pub(crate) const TAKE_OVER: [TakeOverPart; 3] =
    [TakeOverPart::Offsets, TakeOverPart::Barrier, TakeOverPart::Read];

/// Every consumer's `isolation.level`: offsets are stable ones, and records those of committed
/// transactions.
pub(crate) const ISOLATION: &str = "read_committed";
