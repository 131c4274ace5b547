//! Two and three instances under a storm: killed, frozen beyond their session, ended and started
//! again, one by one and in the middle of a rebalance, while their broker is killed, their
//! connections are cut, and one call to the ERP in five fails in some way. What must hold is read
//! from the ERP's ledger, from Kafka, and from what the instances say they own: nothing stands
//! still for longer than [`bound`]. `benches/storm.rs` runs the same for as long as one likes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use wdt_connector::testing::{
    config::Partitioner, schema::CreateReturnOutbound, sink::partition_of,
};

use crate::{
    kit::{
        Dice,
        clash::{Blow, Clash, Opening, REBALANCE},
        commands::{Stream, numbered},
        erp::Kind,
        fleet::Fleet,
        group::{GroupProbe, Phase},
        kafka_proxy::KafkaProxy,
        ledger::Verdict,
        records::{Reader, Record},
        rig::Rig,
        watch::bound,
    },
    parts::{PrivateBroker, say},
};

/// Faults of `createOrder` and of the queries; one call in five meets one. None is a refusal for
/// the quota, none a query without an answer: the ten seconds or the minute that are then waited
/// would pass for a standstill.
const MISCHIEF: &str = "createOrder:applied_timeout=0.015,createOrder:applied_reset=0.03,createOrder:applied_5xx=0.02,createOrder:applied_garbage=0.015,\
    createOrder:applied_database=0.01,createOrder:truncated=0.01,createOrder:reset=0.02,createOrder:5xx=0.025,createOrder:garbage=0.01,\
    createOrder:timeout=0.01,createOrder:database=0.005,createOrder:other=0.005,createOrder:no_status=0.005,\
    createOrder:clock=0.002,createOrder:delayed_apply(800ms)=0.01,createOrder:late(800ms)=0.01,\
    query:5xx=0.06,query:reset=0.06,query:garbage=0.03,query:truncated=0.03,query:database=0.02";
/// After the last disturbance everything settles within this time, on a loaded machine.
const SETTLED: Duration = Duration::from_secs(150);
/// Commands sent before each disturbance.
const SUPPLY: usize = 60;
/// What a call takes: work is in flight whenever something strikes.
const LATENCY: Duration = Duration::from_millis(60);
/// Between two commands while something happens: 25 a second are less than is settled in a storm.
const STREAM: Duration = Duration::from_millis(40);
/// Of the commands topic.
const PARTITIONS: i32 = 6;
/// Of every member: short, since most troubles wait for its end.
const SESSION: Duration = Duration::from_secs(3);
/// Records of each feed before it begins.
const RECORDS: usize = 100;
/// Troubles and how often each strikes in one round.
pub type Troubles = &'static [(Trouble, usize)];

/// What happens to instances, broker and network one after the other.
pub const STORM: Troubles = &[
    (Trouble::Kill, 20),
    (Trouble::Freeze, 2),
    (Trouble::Terminate, 2),
    (Trouble::Rolling, 1),
    (Trouble::BrokerKill, 2),
    (Trouble::Cut, 5),
    (Trouble::Unreachable, 2),
];

/// What happens to instances while their groups rebalance.
pub const REBALANCES: Troubles = &[(Trouble::AsSeen, 1), (Trouble::Rebalance, 6)];

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trouble {
    /// SIGKILL, and a new start.
    Kill,
    /// SIGSTOP for longer than the session, then SIGCONT.
    Freeze,
    /// SIGTERM, and a new start.
    Terminate,
    /// SIGTERM and a new start of each, one after the other.
    Rolling,
    /// SIGKILL of the broker, and a new start on its data.
    BrokerKill,
    /// Every connection to the broker ends.
    Cut,
    /// The same, and for a while no new one is made.
    Unreachable,
    /// One instance makes the group rebalance; a [`Blow`] falls in the middle of it.
    Rebalance,
    /// Freezes, then restarts, in the order that left partitions without an owner where static
    /// members and the cooperative assignor met.
    AsSeen,
}

impl Trouble {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "killed",
            Self::Freeze => "frozen",
            Self::Terminate => "terminated",
            Self::Rolling => "rolling restarts",
            Self::BrokerKill => "broker killed",
            Self::Cut => "connections cut",
            Self::Unreachable => "broker unreachable",
            Self::Rebalance => "rebalances provoked",
            Self::AsSeen => "freezes, then restarts",
        }
    }
}

/// One round of troubles in an order of chance.
fn round(troubles: &[Troubles], dice: &mut Dice) -> Vec<Trouble> {
    let mut all: Vec<Trouble> = troubles
        .iter()
        .copied()
        .flatten()
        .flat_map(|(trouble, times)| std::iter::repeat_n(*trouble, *times))
        .collect();
    for at in (1..all.len()).rev() {
        let other = usize::try_from(dice.roll(at as u64 + 1)).expect("an index");
        all.swap(at, other);
    }
    all
}

/// What a storm is to be.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub instances: usize,
    /// What one round is made of.
    pub troubles: &'static [Troubles],
    /// Rounds go on until this much time has passed; at least one is made.
    pub at_least: Duration,
    /// Lookups are replaced by resends; the storm ends with the first duplicate.
    pub unsound: bool,
}

/// What became of it.
#[derive(Debug)]
pub struct Report {
    pub seed: u64,
    pub instances: usize,
    pub commands: usize,
    /// How often each trouble struck.
    pub counts: BTreeMap<&'static str, u32>,
    /// Instances that ended without being told to.
    pub ended_by_themselves: Vec<String>,
    /// What had no owner, or did not move, for longer than [`Report::bound`].
    pub stood_still: Vec<String>,
    pub bound: Duration,
    /// Longest time something had no owner, at all and from the last disturbance on.
    pub longest_unowned: Duration,
    pub longest_unowned_undisturbed: Duration,
    /// Longest time from the last disturbance until everything had moved again.
    pub longest_until_moving: Duration,
    pub verdict: Verdict,
    /// From the last trouble to the last result.
    pub settled_after: Duration,
    pub took: Duration,
    pub creates: u64,
}

struct Storm {
    fleet: Fleet,
    broker: PrivateBroker,
    proxy: KafkaProxy,
    /// Of commands and feeds.
    groups: [GroupProbe; 2],
    results: Reader,
    /// Returns whose results have been read.
    answered: BTreeSet<String>,
    commands: Vec<CreateReturnOutbound>,
    counts: BTreeMap<&'static str, u32>,
    longest_until_moving: Duration,
}

impl Storm {
    fn begin(plan: &Plan) -> Option<Self> {
        let mut proxy = KafkaProxy::new();
        let broker = PrivateBroker::behind(proxy.port(), "the storm")?;
        proxy.run(broker.proxied_port());
        let mut rig = Rig::on("storm", &proxy.bootstrap(), broker.client(), PARTITIONS)
            .commands("avro")
            .purchase_returns()
            .return_outbounds("flagship");
        rig.config
            .kafka_property("session.timeout.ms", &SESSION.as_millis().to_string())
            .kafka_property("heartbeat.interval.ms", "300");
        // The machine is shared: what the ERP may take to apply and to show an order is more than
        // on one of its own.
        rig.config.set("commands", "max_in_flight", 16).set("commands", "apply_grace", "3s");
        rig.erp.seed(Kind::Returns, RECORDS);
        rig.erp.seed(Kind::FlagshipOutbounds, RECORDS);
        rig.erp.take_anything();
        rig.erp.latency(LATENCY);
        rig.erp.faults(MISCHIEF);
        let groups = ["commands", "feeds"].map(|role| Fleet::probe(&rig, role));
        let results = rig.reader(&rig.topics.results);
        let variables: &[(&str, &str)] =
            if plan.unsound { &[("FAILPOINTS", "resend=inject")] } else { &[] };
        Some(Self {
            fleet: Fleet::start(rig, plan.instances, PARTITIONS, bound(SESSION), variables),
            broker,
            proxy,
            groups,
            results,
            answered: BTreeSet::new(),
            commands: Vec::new(),
            counts: BTreeMap::new(),
            longest_until_moving: Duration::ZERO,
        })
    }

    fn rig(&self) -> &Rig {
        &self.fleet.rig
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn ordinal(&self, dice: &mut Dice) -> usize {
        usize::try_from(dice.roll(self.fleet.size as u64)).expect("an ordinal")
    }

    fn strike(&mut self, trouble: Trouble, dice: &mut Dice) {
        self.count(trouble.name());
        let ordinal = self.ordinal(dice);
        match trouble {
            Trouble::Kill => {
                self.fleet.kill(ordinal);
                self.fleet.launch(ordinal);
            }
            // Longer than the session: peers take over while it still believes to be an owner.
            Trouble::Freeze => self.freeze(ordinal, SESSION * 3 / 2),
            Trouble::Terminate => self.terminate(ordinal, Duration::ZERO),
            Trouble::Rolling => {
                (0..self.fleet.size).for_each(|ordinal| self.terminate(ordinal, Duration::ZERO))
            }
            Trouble::BrokerKill => {
                self.fleet.watch.cut_off(true);
                self.broker.restart();
                self.fleet.watch.cut_off(false);
            }
            Trouble::Cut => {
                self.fleet.watch.disturb();
                self.proxy.cut();
            }
            Trouble::Unreachable => {
                self.fleet.watch.cut_off(true);
                self.proxy.refuse(true);
                self.proxy.cut();
                std::thread::sleep(Duration::from_millis(500) + dice.up_to(3000));
                self.proxy.refuse(false);
                self.fleet.watch.cut_off(false);
            }
            Trouble::Rebalance => self.among_commands(dice, Self::rebalance),
            Trouble::AsSeen => self.among_commands(dice, Self::as_seen),
        }
    }

    fn freeze(&mut self, ordinal: usize, span: Duration) {
        self.fleet.freeze(ordinal);
        std::thread::sleep(span);
        self.fleet.thaw(ordinal);
    }

    fn terminate(&mut self, ordinal: usize, away: Duration) {
        self.fleet.end(ordinal);
        std::thread::sleep(away);
        self.fleet.launch(ordinal);
    }

    /// Something during which commands keep coming, and a calm after it.
    fn among_commands(
        &mut self,
        dice: &mut Dice,
        what: impl FnOnce(&mut Self, &mut Dice) -> String,
    ) {
        let stream = Stream::into(self.rig(), self.commands.len(), STREAM);
        let happened = what(self, dice);
        self.commands.extend(stream.end());
        self.fleet.supervise();
        self.calm(&happened);
    }

    /// Spans are those that were seen to fail, as shares of the session.
    fn as_seen(&mut self, dice: &mut Dice) -> String {
        let session = u64::try_from(SESSION.as_millis()).expect("a short span");
        for turn in 0..6 {
            let span = if dice.roll(2) == 0 {
                SESSION * 8 / 5
            } else {
                SESSION / 6 + dice.up_to(session / 2)
            };
            self.count("frozen in turn");
            self.freeze(turn % self.fleet.size, span);
        }
        for turn in 0..3 * self.fleet.size {
            let away = Duration::from_millis(500) + dice.up_to(1500);
            self.count("terminated in turn");
            self.terminate(turn % self.fleet.size, away);
        }
        "six freezes, and three restarts of each".to_owned()
    }

    /// Makes one of the groups rebalance and strikes in the middle of it.
    fn rebalance(&mut self, dice: &mut Dice) -> String {
        let clash = Clash::roll(dice, self.fleet.size);
        self.open(&clash, dice);
        let caught = clash.caught(&self.groups[clash.group], dice);
        self.count(caught.map_or("rebalances missed", |_| clash.blow.name()));
        self.count(match caught {
            Some(Phase::Preparing) => "blows while members joined",
            Some(Phase::Completing) => "blows before the assignment",
            Some(Phase::Stable | Phase::Empty) => "blows after the assignment",
            None => "blows outside of a rebalance",
        });
        let pause = dice.up_to(2000);
        match clash.blow {
            Blow::Kill => {
                self.fleet.kill(clash.struck);
                std::thread::sleep(pause);
                self.fleet.launch(clash.struck);
            }
            Blow::Terminate => self.terminate(clash.struck, pause),
            Blow::ShortFreeze => self.freeze(clash.struck, SESSION / 10 + pause),
            Blow::LongFreeze => self.freeze(clash.struck, SESSION * 6 / 5 + pause),
            Blow::Start => self.fleet.launch(clash.struck),
        }
        match clash.opening {
            Opening::Start | Opening::Thaw => {}
            Opening::StoppedGone => self.fleet.launch(clash.first),
            Opening::FrozenGone => self.fleet.thaw(clash.first),
        }
        format!("{clash:?}, caught: {caught:?}")
    }

    /// Does what the group will rebalance for.
    fn open(&mut self, clash: &Clash, dice: &mut Dice) {
        let starts = matches!(clash.blow, Blow::Start);
        if starts {
            self.fleet.kill(clash.struck);
        }
        let frozen = matches!(clash.opening, Opening::Thaw | Opening::FrozenGone);
        match (frozen, dice.roll(2)) {
            (true, _) => self.fleet.freeze(clash.first),
            (false, 0) => self.fleet.kill(clash.first),
            (false, _) => self.fleet.end(clash.first),
        }
        if clash.opening.by_absence() {
            return;
        }
        let left = self.fleet.size - 1 - usize::from(starts);
        let forgotten = self.groups.iter().all(|group| {
            group.wait(REBALANCE, |now| {
                now.members == left && matches!(now.phase, Phase::Stable | Phase::Empty)
            })
        });
        assert!(forgotten, "the groups did not forget who was gone: {clash:?}");
        if frozen {
            self.fleet.thaw(clash.first);
        } else {
            self.fleet.launch(clash.first);
        }
    }

    /// Without any fault of the ERP, every partition settles a command and every feed moves on
    /// before the time is over that the last disturbance excuses.
    fn calm(&mut self, after: &str) {
        self.rig().erp.only_faults("query:slow(1ms)=0.01");
        self.rig().erp.latency(LATENCY);
        let first = self.commands.len();
        let mut fresh: BTreeMap<i32, String> = BTreeMap::new();
        while i32::try_from(fresh.len()).expect("a count") < PARTITIONS {
            let one = numbered(self.commands.len());
            let number = one.return_no.clone();
            let partition = partition_of(number.as_bytes(), PARTITIONS, Partitioner::Murmur2);
            fresh.insert(partition.expect("a partition"), number);
            self.commands.push(one);
        }
        self.rig().send(&self.commands[first..]);
        let watermarks = self.fleet.watch.watermarks();
        loop {
            self.fleet.supervise();
            self.read_results();
            let mut left: Vec<String> = fresh
                .iter()
                .filter(|(_, number)| !self.answered.contains(*number))
                .map(|(partition, _)| format!("partition {partition} of commands"))
                .collect();
            let moved = self.fleet.watch.watermarks();
            left.extend(
                watermarks
                    .iter()
                    .filter(|(feed, before)| moved[*feed] <= **before)
                    .map(|(feed, _)| format!("the feed {feed}")),
            );
            let now = Instant::now();
            if left.is_empty() {
                let took = now - self.fleet.watch.disturbed_at();
                self.longest_until_moving = self.longest_until_moving.max(took);
                break;
            }
            // What the watch has to tell is more, and comes first.
            if now >= self.fleet.watch.deadline() + Duration::from_secs(1) {
                let left = left.join(", ");
                self.fleet
                    .watch
                    .fault(format!("{left} did not move for {:?} after: {after}", bound(SESSION)));
                break;
            }
        }
        self.rig().erp.faults(MISCHIEF);
    }
}

impl Storm {
    /// Some progress between two troubles, or none for a while: both happen in the field.
    fn breathe(&self, dice: &mut Dice) {
        let patience = Instant::now() + Duration::from_millis(500 + dice.roll(2500));
        let wanted = self.rig().erp.order_count() + 10 + dice.roll(40);
        while self.rig().erp.order_count() < wanted && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until nothing is left to be done; panics with what is left, and what the instances say
    /// of themselves.
    fn settle(&mut self, what: &str, mut left: impl FnMut(&mut Self) -> Vec<String>) {
        let deadline = Instant::now() + SETTLED;
        loop {
            self.fleet.supervise();
            let left = left(self);
            if left.is_empty() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "waited {SETTLED:?} in vain: {what}; left: {left:#?}; they say:\n{}",
                self.fleet.statuses()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn read_results(&mut self) {
        let already = self.results.seen.len();
        self.results.read_on(Duration::from_millis(50));
        self.answered.extend(self.results.seen[already..].iter().map(Record::key_text));
    }

    /// Commands without a result so far.
    fn unanswered(&mut self) -> Vec<String> {
        self.read_results();
        let missing = self.commands.iter().map(|one| &one.return_no);
        missing.filter(|number| !self.answered.contains(*number)).cloned().collect()
    }

    /// Markers that more than one order carries.
    fn duplicated(&self) -> bool {
        let orders = self.rig().erp.orders();
        let markers: BTreeSet<_> =
            orders.iter().map(|order| (&order.return_no, &order.marker)).collect();
        markers.len() < orders.len()
    }

    /// Commands with numbers of their own, sent while the broker can be reached.
    fn supply(&mut self) {
        let first = self.commands.len();
        self.commands.extend((first..first + SUPPLY).map(numbered));
        self.rig().send(&self.commands[first..]);
    }
}

/// Runs a storm to its end, which comes early with the first standstill. `None` where no broker may
/// be killed.
pub fn storm(plan: &Plan) -> Option<Report> {
    say(&format!(
        "storm with seed {} over {} instances{}",
        plan.seed,
        plan.instances,
        if plan.unsound { ", unsound on purpose" } else { "" }
    ));
    let mut storm = Storm::begin(plan)?;
    let (mut dice, begun) = (Dice(plan.seed), Instant::now());
    storm.calm("the start");
    'rounds: loop {
        for trouble in round(plan.troubles, &mut dice) {
            storm.supply();
            storm.breathe(&mut dice);
            storm.strike(trouble, &mut dice);
            storm.fleet.supervise();
            if (plan.unsound && storm.duplicated()) || !storm.fleet.watch.faults().is_empty() {
                break 'rounds;
            }
        }
        if begun.elapsed() >= plan.at_least {
            break;
        }
    }
    storm.rig().erp.only_faults("query:slow(1ms)=0.01");
    let calm = Instant::now();
    // What stands still would be waited for in vain.
    let whole = storm.fleet.watch.faults().is_empty();
    if whole {
        storm.settle("every result", Storm::unanswered);
    }
    let settled_after = calm.elapsed();
    // No partition is left behind: every offset is committed, on both sides of every gap.
    let count = i64::try_from(storm.commands.len()).expect("a count");
    if whole {
        storm.settle("every offset", |storm| match storm.rig().committed_sum() {
            sum if sum >= count => Vec::new(),
            sum => vec![format!("{} offsets of {count}", count - sum)],
        });
    }
    storm.results.finish();
    let results: Vec<_> =
        storm.results.seen.iter().map(|record| storm.rig().result(record)).collect();
    let verdict = Verdict::of(storm.rig(), &storm.commands, &results);
    let (longest_unowned, longest_unowned_undisturbed) = storm.fleet.watch.longest();
    let report = Report {
        seed: plan.seed,
        instances: plan.instances,
        commands: storm.commands.len(),
        counts: std::mem::take(&mut storm.counts),
        ended_by_themselves: std::mem::take(&mut storm.fleet.ended_by_themselves),
        stood_still: storm.fleet.watch.faults(),
        bound: bound(SESSION),
        longest_unowned,
        longest_unowned_undisturbed,
        longest_until_moving: storm.longest_until_moving,
        verdict,
        settled_after,
        took: begun.elapsed(),
        creates: storm.rig().erp.creates().received,
    };
    report.tell();
    Some(report)
}

impl Report {
    fn tell(&self) {
        say(&format!(
            "seed {}, {} instances: {} commands, {:?}, {} orders, {} recovered, {} duplicates, \
             {} losses, {} calls; longest without an owner {:?}, {:?} after the last disturbance; \
             all moved {:?} after it; allowed {:?}, {} faults; settled {:?} after the last \
             trouble, {:?} in all",
            self.seed,
            self.instances,
            self.commands,
            self.counts,
            self.verdict.orders,
            self.verdict.recovered,
            self.verdict.duplicates.len(),
            self.verdict.losses.len(),
            self.creates,
            self.longest_unowned,
            self.longest_unowned_undisturbed,
            self.longest_until_moving,
            self.bound,
            self.stood_still.len(),
            self.settled_after,
            self.took
        ));
    }

    /// Blows that fell in the middle of a rebalance.
    pub fn in_rebalances(&self) -> u32 {
        let among = self.counts.iter().filter(|(name, _)| name.ends_with("in a rebalance"));
        among.map(|(_, count)| *count).sum()
    }

    fn assert_sound(&self) {
        assert!(self.stood_still.is_empty(), "{:#?}\n{self:#?}", self.stood_still);
        assert!(self.ended_by_themselves.is_empty(), "{:#?}", self.ended_by_themselves);
        self.verdict.assert_each_once(self.commands, "the storm");
    }
}

/// One storm at a time: each has a broker of its own.
static ONE: Mutex<()> = Mutex::new(());
const SEED: u64 = 20_261_123;

fn one_round(
    seed: u64,
    instances: usize,
    troubles: &'static [Troubles],
    unsound: bool,
) -> Option<Report> {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    storm(&Plan { seed, instances, troubles, at_least: Duration::ZERO, unsound })
}

#[test]
fn a_storm_leaves_one_order_and_one_result_each() {
    let Some(report) = one_round(SEED, 2, &[STORM], false) else { return };
    report.assert_sound();
    assert!(report.counts["killed"] >= 20 && report.commands >= 2000, "{report:?}");
}

fn rebalances(instances: usize) {
    // Blows of every kind, and a standstill with the cooperative assignor at the first.
    let Some(report) = one_round(2, instances, &[REBALANCES], false) else { return };
    report.assert_sound();
    assert!(report.in_rebalances() >= 4, "{report:?}");
}

#[test]
fn a_storm_of_rebalances_of_two_instances_leaves_nothing_without_an_owner() {
    rebalances(2);
}

#[test]
fn a_storm_of_rebalances_of_three_instances_leaves_nothing_without_an_owner() {
    rebalances(3);
}

#[test]
fn the_same_storm_with_resends_in_place_of_lookups_makes_duplicates() {
    let Some(report) = one_round(SEED, 2, &[STORM], true) else { return };
    assert!(!report.verdict.duplicates.is_empty(), "the check would not notice: {report:?}");
}
