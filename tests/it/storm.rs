//! Two instances under a storm: killed, frozen beyond their session, ended and started again one by
//! one, while their broker is killed, their connections are cut, and one call to the ERP in five
//! fails in some way. What must hold is read from the ERP's ledger and from Kafka.
//! `benches/storm.rs` runs the same for as long as one likes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use wdt_connector::testing::schema::CreateReturnOutbound;

use crate::{
    kit::{
        Dice, commands::command, connector::Connector, kafka_proxy::KafkaProxy, ledger::Verdict,
        records::Record, rig::Rig,
    },
    parts::{PrivateBroker, say},
};

/// Faults of `createOrder` and of the queries; one call in five meets one.
const MISCHIEF: &str = "createOrder:applied_timeout=0.015,createOrder:applied_reset=0.03,createOrder:applied_5xx=0.02,createOrder:applied_garbage=0.015,\
    createOrder:applied_database=0.01,createOrder:truncated=0.01,createOrder:reset=0.02,createOrder:5xx=0.02,createOrder:garbage=0.01,\
    createOrder:timeout=0.01,createOrder:database=0.005,createOrder:other=0.005,createOrder:no_status=0.005,createOrder:throttle=0.005,\
    createOrder:clock=0.002,createOrder:delayed_apply(800ms)=0.01,createOrder:late(800ms)=0.01,\
    query:5xx=0.05,query:reset=0.05,query:garbage=0.03,query:truncated=0.03,query:database=0.02,query:throttle=0.01,query:timeout=0.01";
/// After the last disturbance everything settles within this time, on a loaded machine.
const SETTLED: Duration = Duration::from_secs(150);
/// Commands sent before each disturbance.
const SUPPLY: usize = 60;

/// What happens to the fleet, and how often in one round.
const ROUND: [(Trouble, usize); 7] = [
    (Trouble::Kill, 20),
    (Trouble::Freeze, 2),
    (Trouble::Terminate, 2),
    (Trouble::Rolling, 1),
    (Trouble::BrokerKill, 2),
    (Trouble::Cut, 5),
    (Trouble::Unreachable, 2),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
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
        }
    }
}

/// One round of troubles in an order of chance.
fn round(dice: &mut Dice) -> Vec<Trouble> {
    let mut all: Vec<Trouble> =
        ROUND.iter().flat_map(|(trouble, times)| std::iter::repeat_n(*trouble, *times)).collect();
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
    /// Rounds go on until this much time has passed; at least one is made.
    pub at_least: Duration,
    /// Lookups are replaced by resends; the storm ends with the first duplicate.
    pub unsound: bool,
}

/// What became of it.
#[derive(Debug)]
pub struct Report {
    pub seed: u64,
    pub commands: usize,
    /// How often each trouble struck.
    pub counts: BTreeMap<&'static str, u32>,
    /// Instances that ended without being told to.
    pub ended_by_themselves: Vec<String>,
    pub verdict: Verdict,
    /// From the last trouble to the last result.
    pub settled_after: Duration,
    pub took: Duration,
    pub creates: u64,
}

struct Fleet {
    /// Before the rig, whose folder holds their logs: what they said last is read when they are
    /// dropped.
    members: Vec<Option<Connector>>,
    rig: Rig,
    broker: PrivateBroker,
    proxy: KafkaProxy,
    counts: BTreeMap<&'static str, u32>,
    ended_by_themselves: Vec<String>,
    unsound: bool,
}

impl Fleet {
    fn start(&mut self, ordinal: usize) {
        let cache = self.rig.path(&format!("cache-{ordinal}")).display().to_string();
        self.rig.config.set("kafka", "instance_ordinal", ordinal).set("", "cache_dir", cache);
        let faults: &[(&str, &str)] =
            if self.unsound { &[("FAILPOINTS", "resend=inject")] } else { &[] };
        self.members[ordinal] =
            Some(self.rig.spawn_logged(faults, &format!("connector-{ordinal}.log")));
    }

    /// A supervisor's duty: whoever ended is started again. Nobody should have.
    fn supervise(&mut self) {
        for ordinal in 0..self.members.len() {
            if !self.members[ordinal].as_mut().is_some_and(Connector::running) {
                let log = self.members[ordinal].as_ref().map(Connector::log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let why = lines[lines.len().saturating_sub(25)..].join("\n");
                say(&format!("instance {ordinal} ended by itself:\n{why}"));
                self.ended_by_themselves.push(format!(
                    "instance {ordinal}: {}",
                    lines.last().unwrap_or(&"without a word")
                ));
                self.start(ordinal);
            }
        }
    }

    fn terminate(&mut self, ordinal: usize) {
        let member = self.members[ordinal].take().expect("supervised");
        let status = member.terminate(Duration::from_secs(60));
        if !status.success() {
            self.ended_by_themselves
                .push(format!("instance {ordinal} did not end in good order: {status}"));
        }
        self.start(ordinal);
    }

    fn strike(&mut self, trouble: Trouble, dice: &mut Dice) {
        *self.counts.entry(trouble.name()).or_default() += 1;
        let ordinal = usize::try_from(dice.roll(self.members.len() as u64)).expect("an ordinal");
        match trouble {
            Trouble::Kill => {
                self.members[ordinal].take().expect("supervised").kill();
                self.start(ordinal);
            }
            Trouble::Freeze => {
                let member = self.members[ordinal].as_mut().expect("supervised");
                member.freeze();
                // Longer than the session: peers take over while it still believes to be an owner.
                std::thread::sleep(Duration::from_millis(4500));
                member.thaw();
            }
            Trouble::Terminate => self.terminate(ordinal),
            Trouble::Rolling => (0..self.members.len()).for_each(|ordinal| self.terminate(ordinal)),
            Trouble::BrokerKill => self.broker.restart(),
            Trouble::Cut => self.proxy.cut(),
            Trouble::Unreachable => {
                self.proxy.refuse(true);
                self.proxy.cut();
                std::thread::sleep(Duration::from_millis(500 + dice.roll(3000)));
                self.proxy.refuse(false);
            }
        }
    }

    /// Some progress between two troubles, or none for a while: both happen in the field.
    fn breathe(&self, dice: &mut Dice) {
        let patience = Instant::now() + Duration::from_millis(500 + dice.roll(2500));
        let wanted = self.rig.erp.order_count() + 10 + dice.roll(40);
        while self.rig.erp.order_count() < wanted && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until nothing is left to be done; panics with what is left, and what the instances say
    /// of themselves.
    fn settle(&mut self, what: &str, mut left: impl FnMut(&Self) -> Vec<String>) {
        let deadline = Instant::now() + SETTLED;
        loop {
            self.supervise();
            let left = left(self);
            if left.is_empty() {
                return;
            }
            if Instant::now() >= deadline {
                let statuses =
                    self.members.iter().flatten().map(|member| format!("{:#}", member.status()));
                let statuses: Vec<String> = statuses.collect();
                panic!(
                    "waited {SETTLED:?} in vain: {what}; left: {left:#?}; they say:\n{}",
                    statuses.join("\n")
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Markers that more than one order carries.
    fn duplicated(&self) -> bool {
        let orders = self.rig.erp.orders();
        let markers: BTreeSet<_> =
            orders.iter().map(|order| (&order.return_no, &order.marker)).collect();
        markers.len() < orders.len()
    }
}

fn fleet(plan: &Plan) -> Option<Fleet> {
    let mut proxy = KafkaProxy::new();
    let broker = PrivateBroker::behind(proxy.port(), "the storm")?;
    proxy.run(broker.proxied_port());
    let mut rig = Rig::on("storm", &proxy.bootstrap(), broker.client(), 4).commands("avro");
    rig.config
        .kafka_property("session.timeout.ms", "3000")
        .kafka_property("heartbeat.interval.ms", "300");
    // The machine is shared: what the ERP may take to apply and to show an order is more than on
    // one of its own.
    rig.config.set("commands", "max_in_flight", 16).set("commands", "apply_grace", "3s");
    rig.erp.take_anything();
    rig.erp.latency(Duration::from_millis(60));
    rig.erp.faults(MISCHIEF);
    let (counts, ended_by_themselves) = (BTreeMap::new(), Vec::new());
    let mut fleet = Fleet {
        members: vec![None, None],
        rig,
        broker,
        proxy,
        counts,
        ended_by_themselves,
        unsound: plan.unsound,
    };
    fleet.start(0);
    fleet.start(1);
    Some(fleet)
}

/// Commands with numbers of their own, sent while the broker can be reached.
fn supply(rig: &Rig, all: &mut Vec<CreateReturnOutbound>) {
    let fresh: Vec<_> = (all.len()..all.len() + SUPPLY)
        .map(|number| command(&format!("ST{number:06}"), &format!("cmd-{number}")))
        .collect();
    rig.send(&fresh);
    all.extend(fresh);
}

/// Runs a storm to its end. `None` where no broker may be killed.
pub fn storm(plan: &Plan) -> Option<Report> {
    say(&format!(
        "storm with seed {}{}",
        plan.seed,
        if plan.unsound { ", unsound on purpose" } else { "" }
    ));
    let mut fleet = fleet(plan)?;
    let (mut dice, mut commands, begun) = (Dice(plan.seed), Vec::new(), Instant::now());
    'rounds: loop {
        for trouble in round(&mut dice) {
            supply(&fleet.rig, &mut commands);
            fleet.breathe(&mut dice);
            fleet.strike(trouble, &mut dice);
            fleet.supervise();
            if plan.unsound && fleet.duplicated() {
                break 'rounds;
            }
        }
        if begun.elapsed() >= plan.at_least {
            break;
        }
    }
    fleet.rig.erp.only_faults("query:slow(1ms)=0.01");
    let calm = Instant::now();
    let mut reader = fleet.rig.reader(&fleet.rig.topics.results);
    fleet.settle("every result", |_| {
        let answered: BTreeSet<String> = reader.finish().iter().map(Record::key_text).collect();
        commands
            .iter()
            .filter(|one| !answered.contains(&one.return_no))
            .map(|one| one.return_no.clone())
            .collect()
    });
    let settled_after = calm.elapsed();
    // No partition is left behind: every offset is committed, on both sides of every gap.
    let count = i64::try_from(commands.len()).expect("a count");
    fleet.settle("every offset", |fleet| match fleet.rig.committed_sum() {
        sum if sum >= count => Vec::new(),
        sum => vec![format!("{} offsets of {count}", count - sum)],
    });
    reader.finish();
    let results: Vec<_> = reader.seen.iter().map(|record| fleet.rig.result(record)).collect();
    let verdict = Verdict::of(&fleet.rig, &commands, &results);
    let creates = fleet.rig.erp.creates().received;
    let report = Report {
        seed: plan.seed,
        commands: commands.len(),
        counts: std::mem::take(&mut fleet.counts),
        ended_by_themselves: std::mem::take(&mut fleet.ended_by_themselves),
        verdict,
        settled_after,
        took: begun.elapsed(),
        creates,
    };
    say(&format!(
        "seed {}: {} commands, {:?}, {} orders, {} recovered, {} calls, settled {:?} after it, {:?} in all",
        report.seed,
        report.commands,
        report.counts,
        report.verdict.orders,
        report.verdict.recovered,
        report.creates,
        report.settled_after,
        report.took
    ));
    Some(report)
}

/// One storm at a time: each has a broker of its own.
static ONE: Mutex<()> = Mutex::new(());
const SEED: u64 = 20_261_123;

#[test]
fn a_storm_leaves_one_order_and_one_result_each() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(report) = storm(&Plan { seed: SEED, at_least: Duration::ZERO, unsound: false }) else {
        return;
    };
    assert!(report.counts["killed"] >= 20 && report.commands >= 2000, "{report:?}");
    assert!(report.ended_by_themselves.is_empty(), "{:#?}", report.ended_by_themselves);
    report.verdict.assert_each_once(report.commands, "the storm");
}

#[test]
fn the_same_storm_with_resends_in_place_of_lookups_makes_duplicates() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(report) = storm(&Plan { seed: SEED, at_least: Duration::ZERO, unsound: true }) else {
        return;
    };
    assert!(!report.verdict.duplicates.is_empty(), "the check would not notice: {report:?}");
}
