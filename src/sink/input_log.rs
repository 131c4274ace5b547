//! When the log of the commands topic is not the one that the committed offsets belong to: it was made
//! again, it lost its end, or retention removed records that nobody had read.

use std::collections::{BTreeMap, VecDeque};

use crate::kafka::{Lease, begun_anew, commit_fenced};

use super::{
    engine::{ABNORMAL, Engine, Happened, Word},
    partition::Partition,
};

/// Gaps that are remembered of one partition.
const MOST_GAPS: usize = 1000;

/// What was read of a partition's log, within one assignment.
#[derive(Debug)]
pub(super) struct InputLog {
    /// The offset behind the last record that was delivered.
    read_to: i64,
    /// Offsets that were not delivered between two records that were, from and to: transaction
    /// markers mostly.
    gaps: VecDeque<(i64, i64)>,
    /// Where the log began when that was heard of last. Records before it may still come, which the
    /// consumer had fetched before.
    first: i64,
}

impl InputLog {
    pub(super) fn from(offset: i64) -> Self {
        Self { read_to: offset, gaps: VecDeque::new(), first: 0 }
    }

    /// The offset behind the last record that was delivered.
    pub(super) fn read_to(&self) -> i64 {
        self.read_to
    }

    /// The offset behind everything that was delivered, or will not be.
    pub(super) fn gone_to(&self) -> i64 {
        self.read_to.max(self.first)
    }

    /// Notes a record that was delivered; `false` where it stands before what was read already:
    /// within one assignment that is a record of another log.
    pub(super) fn delivered(&mut self, offset: i64) -> bool {
        if offset < self.read_to {
            return false;
        }
        if offset > self.read_to {
            if self.gaps.len() == MOST_GAPS {
                self.gaps.pop_front();
            }
            self.gaps.push_back((self.read_to, offset));
        }
        self.read_to = offset + 1;
        true
    }

    /// Notes that everything before an offset was delivered, or is a transaction marker.
    pub(super) fn passed(&mut self, offset: i64) {
        self.read_to = self.read_to.max(offset);
    }

    /// The log begins at this offset now: how many offsets before it were not read. A consumer whose
    /// place is gone goes on at the first record there is; a gap that ends before that was none.
    fn begins_at(&mut self, first: i64) -> u64 {
        let jumped = self.gaps.iter().find(|(from, to)| *from < first && first <= *to);
        let from = jumped.map_or(self.read_to, |(from, _)| *from).max(self.first);
        self.gaps.retain(|(from, _)| *from >= first);
        self.first = self.first.max(first);
        u64::try_from(first - from).unwrap_or(0)
    }
}

impl Engine<'_> {
    /// Records of a partition were removed before anybody had read them.
    pub(super) fn removed(&self, partition: i32, records: u64) {
        if records == 0 {
            return;
        }
        self.parts.metrics.commands_removed_unread(records);
        tracing::error!(
            kafka.topic = %self.names.commands,
            kafka.partition = partition,
            records,
            "records removed by retention before they were read; have their senders send them again, and raise retention.ms"
        );
    }

    /// Looks whether the logs begin behind what was read of them.
    pub(super) fn look_for_removed(&mut self) {
        let view = self.group_state.view();
        let removed: BTreeMap<i32, u64> = self
            .partitions
            .iter_mut()
            .filter_map(|(number, partition)| {
                let first = view.offsets.get(number)?.start;
                Some((*number, partition.log.begins_at(first)))
            })
            .collect();
        for (partition, records) in removed {
            self.removed(partition, records);
        }
    }

    /// A record of another log was delivered: nothing that is known of the offsets holds. That they
    /// begin anew is committed, and then everything begins again.
    pub(super) fn begin_anew(&mut self, lease: Lease, offset: i64, read_to: i64) {
        let reason = format!(
            "partition {} of {} delivered offset {offset} after {read_to}: its log was made again, or lost its end; it is read from its beginning",
            lease.partition, self.names.commands
        );
        let Some(Partition { prefix, .. }) = self.partitions.get(&lease.partition) else { return };
        let position = begun_anew(lease, 0, Some(prefix.nonce()));
        self.drop_partition(lease);
        self.log_reset(&reason);
        let (group, transactor) = (self.group.clone(), self.transactor.clone());
        let word = Word::new(&self.happened, Happened::BegunAnew(ABNORMAL.to_owned()));
        word.after(async move {
            // Where the partition is another instance's by now, that one finds the same.
            let _ = commit_fenced(&group, &transactor, vec![position], Vec::new()).await;
            Happened::BegunAnew(reason)
        });
    }

    /// The log of a partition is begun anew.
    pub(super) fn log_reset(&self, reason: &str) {
        self.parts.metrics.commands_log_reset();
        tracing::error!(
            kafka.topic = %self.names.commands,
            error = reason,
            "commands log replaced or truncated; known commands end as duplicates, others are processed"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_before_what_was_read_is_of_another_log() {
        let mut log = InputLog::from(10);
        assert!(log.delivered(10) && log.delivered(12));
        assert!(!log.delivered(12) && !log.delivered(0));
        log.passed(20);
        assert!(!log.delivered(19) && log.delivered(20));
    }

    #[test]
    fn what_retention_takes_unread_is_counted_once() {
        let mut log = InputLog::from(10);
        // A marker at 11, read long ago when retention comes by.
        assert!(log.delivered(10) && log.delivered(12));
        assert_eq!([log.begins_at(5), log.begins_at(13)], [0, 0]);
        // While nothing is fetched.
        assert_eq!([log.begins_at(20), log.begins_at(20)], [7, 0]);
        assert_eq!([log.read_to(), log.gone_to()], [13, 20]);
        assert!(log.delivered(19), "it was fetched before");
        assert!(log.delivered(21));
        assert_eq!(log.begins_at(20), 0);
        // Between two answers of the broker, which is where the consumer's place was gone.
        assert!(log.delivered(40));
        assert_eq!([log.begins_at(30), log.begins_at(30), log.begins_at(41)], [8, 0, 0]);
    }
}
