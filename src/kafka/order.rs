//! The order in which a partition is taken over, as a pure rule. With another order a stale owner
//! could journal what its successor does not read (`docs/delivery.md#ownership-and-takeover`).

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
