//! When the log of the commands topic is not the one that the committed offsets belong to: it was made
//! again, it lost its end, or retention removed records that nobody had read.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    clock::Moment,
    kafka::{Lease, Offsets, begun_anew, commit_fenced},
};

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
    /// Where the log began when that was asked last. What was fetched before that is still delivered.
    first: i64,
    /// Offsets that were not delivered between two records that were, from and to, and when that
    /// was noticed: transaction markers mostly.
    gaps: VecDeque<(i64, i64, Moment)>,
}

impl InputLog {
    pub(super) fn from(offset: i64) -> Self {
        Self { read_to: offset, first: offset, gaps: VecDeque::new() }
    }

    /// The offset behind everything that was delivered, or is gone.
    pub(super) fn read_to(&self) -> i64 {
        self.read_to.max(self.first)
    }

    /// Notes a record that was delivered; `false` where it stands before what was read already:
    /// within one assignment that is a record of another log.
    pub(super) fn delivered(&mut self, offset: i64, now: Moment) -> bool {
        if offset < self.read_to {
            return false;
        }
        if offset > self.read_to {
            if self.gaps.len() == MOST_GAPS {
                self.gaps.pop_front();
            }
            self.gaps.push_back((self.read_to, offset, now));
        }
        self.read_to = offset + 1;
        true
    }

    /// Notes that everything before an offset was delivered, or is a transaction marker.
    pub(super) fn passed(&mut self, offset: i64) {
        self.read_to = self.read_to.max(offset);
    }

    /// The log began at this offset when that was asked: how many offsets before it were not read. A
    /// consumer whose place is gone goes on at the first record there is; a gap that ends before that
    /// was none, nor was one that still stood in the log after it was read.
    fn begins_at(&mut self, first: i64, asked: Moment) -> u64 {
        let jumped = self.gaps.iter().find(|(from, to, _)| *from < first && first <= *to);
        let from = jumped.map_or(self.read_to, |(from, ..)| *from).max(self.first);
        self.gaps.retain(|(from, _, noticed)| *from >= first && asked <= *noticed);
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
                let Offsets { start, asked, .. } = *view.offsets.get(number)?;
                Some((*number, partition.log.begins_at(start, asked)))
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
        self.beginning_anew += 1;
        let (group, transactor) = (self.group.clone(), self.transactor.clone());
        let word = Word::new(&self.happened, Happened::BegunAnew(ABNORMAL.to_owned()));
        word.after(async move {
            // Where the partition is another instance's by now, that one finds a log that is shorter;
            // one that is not is read on from the old offset.
            let _ = commit_fenced(&group, &transactor, vec![position], Vec::new()).await;
            Happened::BegunAnew(reason)
        });
    }

    /// The log of a partition is begun anew.
    pub(super) fn log_reset(&self, reason: &str) {
        self.parts.metrics.commands_log_reset();
        tracing::error!(
            kafka.topic = %self.names.commands,
            error = %reason,
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
        let delivered = |log: &mut InputLog, offset| log.delivered(offset, Moment(1));
        assert!(delivered(&mut log, 10) && delivered(&mut log, 12));
        assert!(!delivered(&mut log, 12) && !delivered(&mut log, 0));
        log.passed(20);
        assert!(!delivered(&mut log, 19) && delivered(&mut log, 20));
    }

    #[test]
    fn what_retention_takes_unread_is_counted_once() {
        let mut log = InputLog::from(10);
        // A marker at 11, read long ago when retention comes by.
        assert!(log.delivered(10, Moment(1)) && log.delivered(12, Moment(1)));
        let begins_at = |log: &mut InputLog, first, asked| log.begins_at(first, Moment(asked));
        assert_eq!(begins_at(&mut log, 5, 2), 0);
        assert_eq!([12, 13].map(|first| begins_at(&mut log, first, 3)), [0, 0]);
        // While nothing is fetched.
        assert_eq!([20, 20].map(|first| begins_at(&mut log, first, 4)), [7, 0]);
        assert!(log.delivered(21, Moment(5)));
        // Between two answers of the broker, which is where the consumer's place was gone.
        assert!(log.delivered(40, Moment(6)));
        assert_eq!(begins_at(&mut log, 20, 6), 0, "asked before that");
        assert_eq!([30, 30, 41].map(|first| begins_at(&mut log, first, 7)), [8, 0, 0]);
    }

    #[test]
    fn what_was_fetched_before_retention_took_it_is_of_the_same_log() {
        let mut log = InputLog::from(10);
        assert!(log.delivered(10, Moment(1)));
        assert_eq!((log.begins_at(20, Moment(2)), log.read_to()), (9, 20));
        assert!(log.delivered(11, Moment(3)) && !log.delivered(11, Moment(3)));
        assert!(log.delivered(25, Moment(4)));
        assert_eq!(log.begins_at(20, Moment(4)), 0, "counted once");
    }
}
