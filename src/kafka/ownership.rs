//! Who owns which partition, as pure rules: every assignment of a partition has an epoch of its
//! own.

use std::collections::BTreeMap;

use super::Lease;

/// The partitions this member owns right now; see [`Standing`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Ownership {
    owned: BTreeMap<i32, u64>,
    last_epoch: u64,
}

impl Ownership {
    /// Takes partitions; one that is owned already gets a new epoch, so that its old lease is over.
    pub(crate) fn assign(&mut self, partitions: &[i32]) -> Vec<Lease> {
        self.last_epoch += 1;
        let epoch = self.last_epoch;
        partitions
            .iter()
            .map(|partition| {
                self.owned.insert(*partition, epoch);
                Lease { partition: *partition, epoch }
            })
            .collect()
    }

    /// The leases on these partitions, still held.
    #[must_use]
    pub(crate) fn leases(&self, partitions: &[i32]) -> Vec<Lease> {
        partitions
            .iter()
            .filter_map(|partition| {
                self.owned
                    .get(partition)
                    .map(|epoch| Lease { partition: *partition, epoch: *epoch })
            })
            .collect()
    }

    /// Every lease held.
    #[must_use]
    pub(crate) fn all(&self) -> Vec<Lease> {
        self.owned
            .iter()
            .map(|(partition, epoch)| Lease { partition: *partition, epoch: *epoch })
            .collect()
    }

    /// Ends these leases.
    pub(crate) fn release(&mut self, leases: &[Lease]) {
        for lease in leases {
            if self.owns(*lease) {
                self.owned.remove(&lease.partition);
            }
        }
    }

    /// Whether this very assignment still holds.
    #[must_use]
    pub(crate) fn owns(&self, lease: Lease) -> bool {
        self.owned.get(&lease.partition) == Some(&lease.epoch)
    }

    /// Those of `leases` that are over.
    #[must_use]
    pub(crate) fn ended(&self, leases: impl IntoIterator<Item = Lease>) -> Vec<Lease> {
        leases.into_iter().filter(|lease| !self.owns(*lease)).collect()
    }
}

/// Ownership together with the group's metadata: what lets a transaction speak for a partition.
/// Both change under one lock only, so that no transaction can pair fresh metadata with a partition
/// that was lost.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Standing<M> {
    pub ownership: Ownership,
    metadata: Option<M>,
}

impl<M> Default for Standing<M> {
    fn default() -> Self {
        Self { ownership: Ownership::default(), metadata: None }
    }
}

impl<M> Standing<M> {
    /// A rebalance gave these partitions (none is possible: the generation has changed all the
    /// same).
    pub(crate) fn assigned(&mut self, partitions: &[i32], metadata: Option<M>) -> Vec<Lease> {
        self.metadata = metadata;
        self.ownership.assign(partitions)
    }

    /// A rebalance took partitions whose leases were released before it.
    pub(crate) fn rejoined(&mut self, metadata: Option<M>) {
        self.metadata = metadata;
    }

    /// The metadata to send offsets with, if every one of these leases still holds.
    ///
    /// # Errors
    /// The leases that are over; all of them while the group was never joined, since metadata from
    /// before the first join passes the broker unchecked.
    pub(crate) fn fence(&self, leases: &[Lease]) -> Result<&M, Vec<Lease>> {
        let ended = self.ownership.ended(leases.iter().copied());
        match &self.metadata {
            Some(metadata) if ended.is_empty() => Ok(metadata),
            Some(_) => Err(ended),
            None => Err(leases.to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_given_only_with_every_lease() {
        let mut standing: Standing<u64> = Standing::default();
        let unjoined = Lease { partition: 0, epoch: 1 };
        assert_eq!(standing.fence(&[unjoined]), Err(vec![unjoined]));
        let leases = standing.assigned(&[0, 1], Some(1));
        assert_eq!(standing.fence(&leases), Ok(&1));
        standing.ownership.release(&leases[1..]);
        standing.rejoined(Some(2));
        assert_eq!(standing.fence(&leases[..1]), Ok(&2));
        assert_eq!(
            standing.fence(&leases),
            Err(vec![leases[1]]),
            "fresh metadata never goes with a partition that was lost"
        );
    }

    #[test]
    fn a_lease_ends_with_its_assignment() {
        let mut ownership = Ownership::default();
        let first = ownership.assign(&[0, 1]);
        assert!(first.iter().all(|lease| ownership.owns(*lease)));
        ownership.release(&ownership.leases(&[1]));
        assert!(!ownership.owns(first[1]));
        let again = ownership.assign(&[1]);
        assert!(
            !ownership.owns(first[1]),
            "the old lease stays over although the partition came back"
        );
        assert!(ownership.owns(again[0]));
        assert_eq!(ownership.ended(first.clone()), vec![first[1]]);
        assert_eq!(ownership.all().len(), 2);
    }
}
