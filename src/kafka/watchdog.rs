//! Notices a member that has left its group, or fetches no more, although nobody said so. Pure.
//!
//! librdkafka recovers from most failures of a membership. It does not tell the application about
//! the others (`docs/kafka.md#stalled-consumers`). Its statistics do: the state of the join, and
//! where each partition's fetching stands. What stays wrong for longer than any regular cause takes
//! is mended by a new consumer.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::Statistics;

use crate::{clock::Moment, config::KafkaSettings};

/// How a consumer stands, by its own statistics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sight {
    /// Some broker answers: without one nothing is expected of the consumer.
    pub connected: bool,
    pub join: Join,
    pub partitions: BTreeMap<i32, Progress>,
}

/// Where the member stands in its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Join {
    /// Not in the group, and not on the way into it.
    #[default]
    Out,
    /// A rebalance is going on; others may be draining.
    Between,
    Steady,
}

/// Where a partition's fetching stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// The next offset to be fetched.
    pub next: i64,
    /// The offset after the last record handed out.
    pub handed: i64,
    /// The end of what may be read, as the last fetch told it.
    pub end: i64,
    /// Records fetched and not handed out.
    pub queued: i64,
}

impl Sight {
    /// What these statistics say about the membership of one topic.
    pub(super) fn of(statistics: &Statistics, topic: &str) -> Self {
        let connected = statistics.brokers.values().any(|broker| broker.state == "UP");
        let join = match statistics.cgrp.as_ref().map(|group| group.join_state.as_str()) {
            Some("steady") => Join::Steady,
            Some("init") | None => Join::Out,
            Some(_) => Join::Between,
        };
        let partitions = statistics
            .topics
            .get(topic)
            .into_iter()
            .flat_map(|topic| &topic.partitions)
            .filter(|(partition, _)| **partition >= 0)
            .map(|(partition, seen)| {
                let progress = Progress {
                    next: seen.next_offset,
                    handed: seen.app_offset,
                    end: seen.ls_offset,
                    queued: seen.fetchq_cnt,
                };
                (*partition, progress)
            })
            .collect();
        Self { connected, join, partitions }
    }
}

/// How long each state may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience {
    /// Outside of the group, or without progress.
    pub idle: Duration,
    /// In a rebalance: every other member may take its whole poll interval.
    pub rebalance: Duration,
}

impl Patience {
    /// From the group's own times, which the operator may have changed.
    pub(super) fn of(kafka: &KafkaSettings) -> Self {
        let millis = |key: &str, default: u64| {
            kafka.properties.get(key).and_then(|value| value.parse().ok()).unwrap_or(default)
        };
        let session = Duration::from_millis(millis("session.timeout.ms", 45_000));
        Self {
            idle: session,
            rebalance: session + Duration::from_millis(millis("max.poll.interval.ms", 300_000)),
        }
    }

    /// How often the statistics are wanted.
    pub(super) fn interval(&self) -> Duration {
        (self.idle / 3).clamp(Duration::from_millis(500), Duration::from_secs(5))
    }
}

/// Remembers since when something has been wrong.
#[derive(Debug)]
pub(super) struct Watchdog {
    patience: Patience,
    out_since: Option<Moment>,
    between_since: Option<Moment>,
    still: BTreeMap<i32, Still>,
    looked: Option<Moment>,
}

/// A partition since it moved last.
#[derive(Clone, Copy, Debug)]
struct Still {
    progress: Progress,
    since: Moment,
    /// Since when there has been something to fetch.
    idle_since: Option<Moment>,
}

/// What a look says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Fine,
    /// These have not moved for a while. Who does not fetch does not hear of the end, so the broker
    /// must be asked for it ([`Watchdog::heard`]).
    Ask(Vec<i32>),
    /// A new consumer is needed, for this reason.
    Replace(String),
}

impl Watchdog {
    pub(super) fn new(patience: Patience) -> Self {
        Self {
            patience,
            out_since: None,
            between_since: None,
            still: BTreeMap::new(),
            looked: None,
        }
    }

    /// Looks at one sight; `wanted` are the partitions that are to be fetched.
    pub(super) fn look(&mut self, sight: &Sight, wanted: &[i32], now: Moment) -> Look {
        // A process that was frozen, or a broker that was away, has proven nothing in that time.
        let gap = self
            .looked
            .replace(now)
            .is_some_and(|before| before.until(now) > self.patience.interval() * 3);
        if gap || !sight.connected {
            self.forget();
            return Look::Fine;
        }
        for (state, since) in
            [(Join::Out, &mut self.out_since), (Join::Between, &mut self.between_since)]
        {
            *since = (sight.join == state).then(|| since.unwrap_or(now));
        }
        self.still.retain(|partition, _| wanted.contains(partition));
        for partition in wanted {
            let Some(seen) = sight.partitions.get(partition).copied() else { continue };
            let fresh = Still { progress: seen, since: now, idle_since: None };
            let still = self.still.entry(*partition).or_insert(fresh);
            if (still.progress.next, still.progress.handed) != (seen.next, seen.handed) {
                *still = fresh;
            }
            // What the broker was asked for counts as well.
            let end = seen.end.max(still.progress.end);
            still.progress = Progress { end, ..seen };
            let waiting = seen.next < end || seen.queued > 0;
            still.idle_since = waiting.then(|| still.idle_since.unwrap_or(now));
        }
        if let Some(reason) = self.verdict(now) {
            return Look::Replace(reason);
        }
        let quiet = |still: &Still| {
            still.idle_since.is_none() && still.since.until(now) > self.patience.idle / 2
        };
        let unknown: Vec<i32> = self
            .still
            .iter()
            .filter(|(_, still)| quiet(still))
            .map(|(partition, _)| *partition)
            .collect();
        if unknown.is_empty() { Look::Fine } else { Look::Ask(unknown) }
    }

    /// The end of a quiet partition, as the broker tells it.
    pub(super) fn heard(&mut self, partition: i32, end: i64, now: Moment) {
        if let Some(still) = self.still.get_mut(&partition) {
            still.progress.end = still.progress.end.max(end);
            // Asked again only after the next quiet while.
            still.since = now;
        }
    }

    fn verdict(&self, now: Moment) -> Option<String> {
        let late = |since: Option<Moment>, patience| {
            since.map(|since| since.until(now)).filter(|span| *span > patience)
        };
        if let Some(span) = late(self.out_since, self.patience.idle) {
            return Some(format!("it has been outside of its group for {span:?}"));
        }
        if let Some(span) = late(self.between_since, self.patience.rebalance) {
            return Some(format!("its rebalance has not ended for {span:?}"));
        }
        self.still.iter().find_map(|(partition, still)| {
            let span = late(still.idle_since, self.patience.idle)?;
            let Progress { next, end, .. } = still.progress;
            Some(format!(
                "partition {partition} has stood still at offset {next} of {end} for {span:?}"
            ))
        })
    }

    /// Begins to watch anew.
    pub(super) fn forget(&mut self) {
        self.out_since = None;
        self.between_since = None;
        self.still.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience =
        Patience { idle: Duration::from_secs(45), rebalance: Duration::from_secs(345) };

    fn sight(join: Join, next: i64, end: i64) -> Sight {
        Sight {
            connected: true,
            join,
            partitions: BTreeMap::from([(0, Progress { next, handed: next, end, queued: 0 })]),
        }
    }

    /// One look every five seconds, until a verdict; after how many seconds it came.
    fn watch(spans: u64, wanted: &[i32], mut at: impl FnMut(u64) -> Sight) -> Option<u64> {
        let mut watchdog = Watchdog::new(PATIENCE);
        (0..spans).map(|turn| turn * 5).find(|second| {
            matches!(watchdog.look(&at(*second), wanted, Moment(second * 1000)), Look::Replace(_))
        })
    }

    #[test]
    fn a_steady_member_that_moves_or_has_nothing_to_do_is_left_alone() {
        assert_eq!(
            watch(1000, &[0], |second| sight(
                Join::Steady,
                i64::try_from(second).unwrap(),
                i64::MAX
            )),
            None
        );
        assert_eq!(watch(1000, &[0], |_| sight(Join::Steady, 7, 7)), None);
        assert_eq!(watch(1000, &[], |_| sight(Join::Steady, 7, 9)), None, "held back on purpose");
    }

    #[test]
    fn who_is_out_of_the_group_is_noticed_after_a_session() {
        assert_eq!(watch(1000, &[], |_| sight(Join::Out, 0, 0)), Some(50));
    }

    #[test]
    fn a_rebalance_may_take_as_long_as_its_slowest_member() {
        assert_eq!(watch(1000, &[], |_| sight(Join::Between, 0, 0)), Some(350));
        assert_eq!(
            watch(1000, &[], |second| sight(
                if second % 300 == 0 { Join::Steady } else { Join::Between },
                0,
                0
            )),
            None
        );
    }

    #[test]
    fn a_partition_that_stands_still_before_its_end_is_noticed() {
        assert_eq!(watch(1000, &[0], |_| sight(Join::Steady, 7, 9)), Some(50));
        let queued = |_| Sight {
            partitions: BTreeMap::from([(0, Progress { next: 9, handed: 7, end: 9, queued: 2 })]),
            ..sight(Join::Steady, 9, 9)
        };
        assert_eq!(watch(1000, &[0], queued), Some(50));
    }

    #[test]
    fn an_outage_or_a_freeze_proves_nothing() {
        assert_eq!(
            watch(1000, &[0], |second| Sight {
                connected: second % 40 != 0,
                ..sight(Join::Out, 7, 9)
            }),
            None
        );
        let mut watchdog = Watchdog::new(PATIENCE);
        assert_eq!(watchdog.look(&sight(Join::Out, 7, 9), &[0], Moment(0)), Look::Fine);
        assert_eq!(watchdog.look(&sight(Join::Out, 7, 9), &[0], Moment(600_000)), Look::Fine);
    }

    #[test]
    fn a_quiet_partition_is_asked_about_now_and_then_because_who_does_not_fetch_hears_of_no_end() {
        let mut watchdog = Watchdog::new(PATIENCE);
        let mut asked = Vec::new();
        let mut replaced = None;
        for second in (0..200).step_by(5) {
            match watchdog.look(&sight(Join::Steady, 7, 7), &[0], Moment(second * 1000)) {
                Look::Ask(partitions) => {
                    asked.push(second);
                    // Something arrives after a minute.
                    partitions.iter().for_each(|one| {
                        watchdog.heard(*one, if second > 60 { 8 } else { 7 }, Moment(second * 1000))
                    });
                }
                Look::Replace(reason) => {
                    replaced = Some((second, reason));
                    break;
                }
                Look::Fine => {}
            }
        }
        let (second, reason) = replaced.unwrap();
        assert_eq!((asked, second), (vec![25, 50, 75], 130));
        assert!(reason.contains("partition 0 has stood still at offset 7 of 8"), "{reason}");
    }
}
