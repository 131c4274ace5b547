//! What the brokers say of a consumer group, asked every few seconds: where the partitions end, what
//! the group has committed, and which partitions no instance is assigned.
//!
//! Every instance asks about every partition. An instance that only looked at its own partitions
//! would not see one that nobody owns.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};

use crate::{background, clock::Moment, config::KafkaSettings};

use super::{
    Group, Leaders,
    client::{Quiet, client_id},
    control::Controls,
    members::{Description, describe},
    watchdog::Patience,
};

/// How often the offsets are asked for: one request per partition, one for what is committed.
const EVERY: Duration = Duration::from_secs(5);
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// An answer of a broker as old as this says that it is there.
const ANSWERED_LATELY: Duration = Duration::from_secs(30);
/// Longest pause between two attempts to give partitions an owner.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Where a partition stands; offsets as of a few seconds ago.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offsets {
    pub start: i64,
    /// The offset after the last record that may be read.
    pub end: i64,
    /// `None`: the group has committed nothing for it.
    pub committed: Option<i64>,
    /// Since when this is no older.
    pub asked: Moment,
}

impl Offsets {
    /// Offsets between what is committed, or the beginning of the log, and its end.
    pub(crate) fn lag(&self) -> u64 {
        let next = self.committed.unwrap_or(self.start).max(self.start);
        u64::try_from(self.end - next).unwrap_or(0)
    }
}

/// What is known of the group.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupView {
    /// By topic; `None` before the first answer.
    pub leaders: Option<BTreeMap<String, Leaders>>,
    /// Partitions of which a broker has said where they stand.
    pub offsets: BTreeMap<i32, Offsets>,
    /// Partitions that no instance is assigned, and will not be by the rebalance that is going on.
    pub unowned: BTreeSet<i32>,
    /// When a broker answered last.
    pub answered: Option<Moment>,
}

impl GroupView {
    /// Whether a broker is there.
    pub(crate) fn answered_lately(&self) -> bool {
        self.answered.is_some_and(|at| at.until(Moment::now()) < ANSWERED_LATELY)
    }
}

/// A handle on the asking thread, which ends with it.
pub(crate) struct GroupState(Arc<Shared>);

impl fmt::Debug for GroupState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("GroupState")
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Shared with whoever looks, which is every transaction; a copy is made only when it changes.
    view: Arc<GroupView>,
    /// The handle is gone.
    over: bool,
}

impl Shared {
    /// Changes what is known, unless nobody wants to know any more.
    fn update(&self, change: impl FnOnce(&mut GroupView)) {
        let mut state = self.lock();
        if !state.over {
            change(Arc::make_mut(&mut state.view));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is asked about a group.
pub(crate) struct Asked {
    pub role: &'static str,
    /// Of the group's topic.
    pub partitions: Vec<i32>,
    /// Whether their offsets matter as well. The client must belong to the group.
    pub offsets: bool,
    /// Topics whose leaders matter.
    pub written: Vec<String>,
    /// How long a member may take to give its partitions back.
    pub drain: Duration,
}

impl GroupState {
    /// Begins to ask.
    pub(crate) fn watch(
        kafka: &KafkaSettings,
        controls: &Controls,
        group: &Group,
        asked: Asked,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let patience = Patience::of(kafka);
        let mut asking = Asking {
            shared: Arc::downgrade(&shared),
            client: controls.client(),
            group: group.clone(),
            // Three times within a session of up to 45 s, Kafka's default.
            members_every: (patience.idle / 3)
                .clamp(Duration::from_millis(500), Duration::from_secs(15)),
            ownership: OwnershipWatch::new(
                client_id(kafka, asked.role),
                patience.idle + asked.drain,
            ),
            asked_members: None,
            asked_offsets: None,
            asked,
        };
        let name = format!("group-{}", asking.asked.role);
        if let Err(error) = background::lasting_thread(&name, move || asking.run()) {
            tracing::warn!(
                %error,
                "failed to start the thread that watches the consumer group; its lag stays unknown"
            );
        }
        Self(shared)
    }

    /// Where a partition ended; `None` before the first answer.
    #[must_use]
    pub(crate) fn end(&self, partition: i32) -> Option<i64> {
        self.0.lock().view.offsets.get(&partition).map(|offsets| offsets.end)
    }

    /// What was said last.
    #[must_use]
    pub(crate) fn view(&self) -> Arc<GroupView> {
        Arc::clone(&self.0.lock().view)
    }
}

impl Drop for GroupState {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.changed.notify_all();
    }
}

/// The asking thread.
struct Asking {
    shared: Weak<Shared>,
    client: Weak<BaseConsumer<Quiet>>,
    group: Group,
    asked: Asked,
    members_every: Duration,
    ownership: OwnershipWatch,
    asked_members: Option<Moment>,
    asked_offsets: Option<Moment>,
}

impl Asking {
    fn run(&mut self) {
        while let Some(client) = self.client.upgrade() {
            self.turn(&client);
            drop(client);
            if self.rest() {
                return;
            }
        }
    }

    /// Waits until the next question; `true` when there is none.
    fn rest(&self) -> bool {
        let Some(shared) = self.shared.upgrade() else { return true };
        let pause = self.members_every.min(EVERY);
        let (state, _) = shared
            .changed
            .wait_timeout_while(shared.lock(), pause, |state| !state.over)
            .unwrap_or_else(PoisonError::into_inner);
        state.over
    }

    fn turn(&mut self, client: &BaseConsumer<Quiet>) {
        let due = |asked: Option<Moment>, every| {
            asked.is_none_or(|at: Moment| at.until(Moment::now()) >= every)
        };
        if due(self.asked_offsets, EVERY) {
            self.asked_offsets = Some(Moment::now());
            self.ask_leaders(client);
            if self.asked.offsets {
                self.ask_offsets(client);
            }
        }
        if due(self.asked_members, self.members_every) {
            self.asked_members = Some(Moment::now());
            self.ask_members(client);
        }
    }

    fn ask_leaders(&self, client: &BaseConsumer<Quiet>) {
        let mut found = BTreeMap::new();
        for name in &self.asked.written {
            // A broker that does not answer leaves what was known, and takes no transaction.
            let Ok(metadata) = client.fetch_metadata(Some(name), TIMEOUT) else { continue };
            found.insert(name.clone(), Leaders::of(&metadata, name));
        }
        let Some(shared) = self.shared.upgrade() else { return };
        shared.update(|view| Self::note_leaders(view, found));
    }

    fn note_leaders(view: &mut GroupView, found: BTreeMap<String, Leaders>) {
        let known = view.leaders.get_or_insert_default();
        for (name, leaders) in found {
            let before = known.get(&name).map(|before| before.lost.clone()).unwrap_or_default();
            if before != leaders.lost {
                if leaders.lost.is_empty() {
                    tracing::info!(kafka.topic = name, "every partition has a leader again");
                } else {
                    tracing::error!(
                        kafka.topic = name,
                        kafka.partitions = ?leaders.lost,
                        "partitions have no leader; what goes there waits, the rest goes on; start the brokers that hold their replicas"
                    );
                }
            }
            known.insert(name, leaders);
        }
    }

    fn ask_offsets(&self, client: &BaseConsumer<Quiet>) {
        let topic = self.group.topic();
        let committed = self.committed(client);
        for partition in &self.asked.partitions {
            let asked = Moment::now();
            let answer = client.fetch_watermarks(topic, *partition, TIMEOUT);
            let Some(shared) = self.shared.upgrade().filter(|shared| !shared.lock().over) else {
                return;
            };
            // A broker that does not answer leaves the last figure.
            let Ok((start, end)) = answer else { continue };
            shared.update(|view| {
                view.answered = Some(Moment::now());
                let offsets = view.offsets.entry(*partition).or_default();
                let committed = committed.get(partition).copied().or(offsets.committed);
                *offsets = Offsets { start, end, committed, asked };
            });
        }
    }

    /// What the group has committed; nothing where no broker answers, as while a transaction is
    /// pending.
    fn committed(&self, client: &BaseConsumer<Quiet>) -> BTreeMap<i32, i64> {
        let mut list = TopicPartitionList::new();
        for partition in &self.asked.partitions {
            list.add_partition(self.group.topic(), *partition);
        }
        let Ok(answer) = client.committed_offsets(list, TIMEOUT) else { return BTreeMap::new() };
        answer
            .elements()
            .iter()
            .filter_map(|element| match element.offset() {
                Offset::Offset(offset) => Some((element.partition(), offset)),
                _ => None,
            })
            .collect()
    }

    fn ask_members(&mut self, client: &BaseConsumer<Quiet>) {
        let (id, topic) = (self.group.group_id(), self.group.topic());
        let description = match describe(client, id, topic, TIMEOUT) {
            Ok(description) => description,
            Err(error) => {
                tracing::debug!(%error, kafka.group = id, "failed to describe the group; retrying");
                return;
            }
        };
        let before = self.ownership.unowned.clone();
        let rejoin = self.ownership.look(&description, &self.asked.partitions, Moment::now());
        let unowned = &self.ownership.unowned;
        if *unowned != before {
            if unowned.is_empty() {
                tracing::info!(
                    kafka.group = id,
                    kafka.topic = topic,
                    kafka.partitions = ?before,
                    "these partitions have an owner again, or are being assigned"
                );
            } else {
                tracing::error!(
                    kafka.group = id,
                    kafka.topic = topic,
                    kafka.partitions = ?unowned,
                    reason = self.ownership.reason,
                    "partitions are assigned to no instance"
                );
            }
        }
        if let Some(shared) = self.shared.upgrade() {
            shared.update(|view| {
                view.answered = Some(Moment::now());
                view.unowned.clone_from(unowned);
            });
        }
        if rejoin {
            self.group.rejoin();
        }
    }
}

/// Notices partitions that no instance is assigned, and says when this instance has to do something
/// about it. Pure.
#[derive(Debug)]
struct OwnershipWatch {
    client_id: String,
    /// How long a member that leaves is away at most: a drain and a session.
    away: Duration,
    /// What the last description lacked.
    missing: BTreeSet<i32>,
    /// The same, seen twice in a row: between two rebalances nothing is missing.
    unowned: BTreeSet<i32>,
    /// Why, in words.
    reason: String,
    /// Since when the group has not been stable.
    unstable_since: Option<Moment>,
    /// The instances, as last seen, and since when it is these.
    instances: Vec<String>,
    since: Option<Moment>,
    /// The highest place of this instance among them since something is missing.
    rank: usize,
    attempts: u32,
    /// Nothing is done before.
    not_before: Option<Moment>,
}

impl OwnershipWatch {
    fn new(client_id: String, away: Duration) -> Self {
        Self {
            client_id,
            away,
            missing: BTreeSet::new(),
            unowned: BTreeSet::new(),
            reason: String::new(),
            unstable_since: None,
            instances: Vec::new(),
            since: None,
            rank: 0,
            attempts: 0,
            not_before: None,
        }
    }

    /// Whether a member is an instance of this connector in this role: they differ in their ordinal
    /// alone.
    fn is_instance(&self, client_id: &str) -> bool {
        let digits = |rest: &str| !rest.is_empty() && rest.bytes().all(|one| one.is_ascii_digit());
        let Some((before, role)) = self.client_id.rsplit_once('-') else { return false };
        let Some((application, _)) = before.rsplit_once('-') else { return false };
        client_id
            .strip_prefix(application)
            .and_then(|rest| rest.strip_prefix('-'))
            .and_then(|rest| rest.strip_suffix(role))
            .and_then(|rest| rest.strip_suffix('-'))
            .is_some_and(digits)
    }

    /// Notes what the group looks like; whether this instance has to leave and rejoin it.
    ///
    /// A static member that stays away for a session is removed, which starts a rebalance. The
    /// first instance in the order of client ids does so; each of the others later than the one
    /// before it could be back, and nobody while instances come or go.
    fn look(&mut self, group: &Description, partitions: &[i32], now: Moment) -> bool {
        if group.state != "Stable" {
            self.missing.clear();
            self.since = None;
            let since = *self.unstable_since.get_or_insert(now);
            self.unowned.clear();
            // A rebalance that one member holds open stops all of them.
            if since.until(now) > self.away {
                self.unowned.extend(partitions);
                self.reason = format!("the group has been {} for too long", group.state);
            }
            return false;
        }
        self.unstable_since = None;
        let foreign: BTreeMap<i32, &str> = group
            .owners
            .iter()
            .filter(|(_, owner)| !self.is_instance(&owner.client_id))
            .map(|(partition, owner)| (*partition, owner.client_id.as_str()))
            .collect();
        let unassigned: BTreeSet<i32> = partitions
            .iter()
            .copied()
            .filter(|partition| !group.owners.contains_key(partition))
            .collect();
        let missing: BTreeSet<i32> = partitions
            .iter()
            .copied()
            .filter(|partition| unassigned.contains(partition) || foreign.contains_key(partition))
            .collect();
        self.unowned = missing.intersection(&self.missing).copied().collect();
        self.reason = match foreign.first_key_value() {
            Some((_, other)) => format!(
                "{other:?} is a member of the group and no instance of this connector; end it, or give this connector another kafka.application_id"
            ),
            None => "the group is stable and assigns them to no member; an instance leaves and rejoins to have them assigned".to_owned(),
        };
        self.missing = missing;
        let instances: Vec<String> =
            group.members.iter().filter(|member| self.is_instance(member)).cloned().collect();
        if self.missing.is_empty() {
            (self.since, self.rank, self.attempts, self.not_before) = (None, 0, 0, None);
            self.instances = instances;
            return false;
        }
        if self.instances != instances {
            self.instances = instances;
            self.since = None;
        }
        let since = *self.since.get_or_insert(now);
        let Some(rank) = self.instances.iter().position(|member| *member == self.client_id) else {
            // Not a member: the membership is mended elsewhere.
            return false;
        };
        self.rank = self.rank.max(rank);
        // A foreign owner stays one, whoever leaves.
        if self.unowned.intersection(&unassigned).next().is_none() {
            return false;
        }
        let turn = since.plus(self.away * 3 * u32::try_from(self.rank).unwrap_or(u32::MAX));
        if now < turn || self.not_before.is_some_and(|at| now < at) {
            return false;
        }
        self.attempts += 1;
        let others = u32::try_from(self.instances.len()).unwrap_or(u32::MAX);
        let pause = self.away * others * 2u32.saturating_pow(self.attempts.min(8));
        self.not_before = Some(now.plus(pause.min(LONGEST_PAUSE).max(self.away * 2)));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::members::Member;

    const SESSION: Duration = Duration::from_secs(45);

    fn group(state: &str, owned: &[i32]) -> Description {
        let owner = Member { client_id: "app-1-commands".into(), host: String::new() };
        Description {
            state: state.into(),
            members: vec!["app-0-commands".into(), "app-1-commands".into()],
            owners: owned.iter().map(|partition| (*partition, owner.clone())).collect(),
        }
    }

    fn watch(ordinal: u32) -> OwnershipWatch {
        OwnershipWatch::new(format!("app-{ordinal}-commands"), SESSION)
    }

    /// One look every 15 s; the seconds at which this instance has to rejoin.
    fn rejoins(
        ordinal: u32,
        seconds: u64,
        mut at: impl FnMut(u64) -> Description,
    ) -> (Vec<u64>, OwnershipWatch) {
        let mut watch = watch(ordinal);
        let all = (0..seconds)
            .step_by(15)
            .filter(|second| watch.look(&at(*second), &[0, 1, 2], Moment(second * 1000)))
            .collect();
        (all, watch)
    }

    #[test]
    fn a_group_whose_partitions_have_owners_is_left_alone() {
        let (rejoins, watch) = rejoins(0, 600, |_| group("Stable", &[0, 1, 2]));
        assert!(rejoins.is_empty() && watch.unowned.is_empty());
    }

    #[test]
    fn a_rebalance_owns_nothing_and_is_left_alone_unless_it_lasts() {
        let held = |seconds| rejoins(0, seconds, |_| group("PreparingRebalance", &[]));
        let (rejoins, watch) = held(46);
        assert!(rejoins.is_empty() && watch.unowned.is_empty());
        let (rejoins, watch) = held(90);
        assert!(rejoins.is_empty() && watch.unowned.len() == 3, "it stops everything");
    }

    #[test]
    fn nobody_leaves_while_another_is_away() {
        // The first leaves at 15, is removed at 45 and comes back at 75.
        let (second, _) = rejoins(1, 180, |second| {
            let mut group = group("Stable", &[1]);
            if (45..75).contains(&second) {
                group.members.remove(0);
            }
            group
        });
        assert!(second.is_empty(), "{second:?}");
    }

    #[test]
    fn partitions_of_a_member_that_is_no_instance_are_unowned_and_no_reason_to_leave() {
        let (rejoins, watch) = rejoins(0, 600, |_| {
            let mut group = group("Stable", &[0, 1, 2]);
            let other = Member { client_id: "console-consumer".into(), host: String::new() };
            group.owners.insert(2, other);
            group.members.push("console-consumer".into());
            group
        });
        assert_eq!((rejoins.len(), watch.unowned), (0, BTreeSet::from([2])));
        assert!(watch.reason.contains("\"console-consumer\" is a member"), "{}", watch.reason);
    }

    #[test]
    fn instances_differ_in_their_ordinal_alone() {
        let watch = watch(0);
        for (client_id, is) in [
            ("app-0-commands", true),
            ("app-10-commands", true),
            ("app-1-feeds", false),
            ("other-1-commands", false),
            ("app-x-commands", false),
            ("app--commands", false),
            ("", false),
        ] {
            assert_eq!(watch.is_instance(client_id), is, "{client_id}");
        }
    }

    #[test]
    fn partitions_without_an_owner_are_seen_at_the_second_look_and_mended_by_the_first_member() {
        let (first, watch) = rejoins(0, 300, |_| group("Stable", &[1]));
        assert_eq!(watch.unowned, BTreeSet::from([0, 2]));
        assert_eq!(first, [15, 195], "at once, then with growing pauses");
        let (second, _) = rejoins(1, 300, |_| group("Stable", &[1]));
        assert_eq!(second, [135], "only if the first did not");
    }

    #[test]
    fn an_instance_that_is_no_member_does_nothing() {
        let (rejoins, watch) = rejoins(7, 600, |_| group("Stable", &[1]));
        assert!(rejoins.is_empty(), "its own watchdog brings it back");
        assert!(!watch.unowned.is_empty(), "but it says so");
    }

    #[test]
    fn one_look_between_two_rebalances_proves_nothing() {
        let (rejoins, _) = rejoins(0, 600, |second| match second / 15 % 2 {
            0 => group("Stable", &[1]),
            _ => group("CompletingRebalance", &[]),
        });
        assert!(rejoins.is_empty());
    }

    #[test]
    fn lag_counts_from_what_is_committed_or_from_the_beginning_of_the_log() {
        let lag =
            |start, end, committed| Offsets { start, end, committed, ..Offsets::default() }.lag();
        assert_eq!(lag(0, 10, Some(4)), 6);
        assert_eq!(lag(3, 10, None), 7);
        assert_eq!(lag(6, 10, Some(4)), 4, "what retention has removed is gone");
        assert_eq!(lag(0, 4, Some(10)), 0);
    }
}
