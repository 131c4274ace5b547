//! Two instances under a storm: killed, frozen beyond their session, ended and started again, while the ERP fails in every
//! way. What must hold is read from the ERP's ledger and from Kafka.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use wdt_connector::schema::{CommandResult, CreateReturnOutbound, Outcome};

use crate::kit::{
    commands::command,
    connector::Connector,
    records::{Reader, committed},
    rig::Rig,
    until,
};

/// Faults of `createOrder` and of the queries; about one call in five meets one.
const MISCHIEF: &str = "createOrder:applied_timeout=0.02,createOrder:applied_reset=0.04,createOrder:applied_5xx=0.03,createOrder:applied_garbage=0.02,\
    createOrder:reset=0.04,createOrder:5xx=0.03,createOrder:timeout=0.01,createOrder:delayed_apply(800ms)=0.01,query:5xx=0.08,query:reset=0.08,query:garbage=0.04";
/// After the last disturbance everything settles within this time, on a loaded machine.
const SETTLED: Duration = Duration::from_secs(150);

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

struct Fleet {
    rig: Rig,
    members: Vec<Option<Connector>>,
    counts: BTreeMap<&'static str, u32>,
}

impl Fleet {
    fn start(&mut self, ordinal: usize) {
        self.rig.config.set("kafka", "instance", ordinal);
        self.members[ordinal] = Some(self.rig.spawn());
    }

    /// A supervisor's duty: whoever ended is started again.
    fn supervise(&mut self) {
        for ordinal in 0..self.members.len() {
            if !self.members[ordinal].as_mut().is_some_and(Connector::running) {
                *self.counts.entry("ended by itself").or_default() += 1;
                if let Some(member) = &self.members[ordinal] {
                    let log = member.log();
                    let why = log.lines().rev().find(|line| line.contains("cannot go on")).unwrap_or("without a word");
                    crate::parts::say(&format!("instance {ordinal} ended by itself: {why}"));
                }
                self.start(ordinal);
            }
        }
    }

    fn disturb(&mut self, dice: &mut Dice) {
        let ordinal = usize::try_from(dice.roll(2)).unwrap();
        let member = self.members[ordinal].take().unwrap();
        match dice.roll(8) {
            0 => {
                *self.counts.entry("terminated").or_default() += 1;
                assert!(member.terminate(Duration::from_secs(30)).success());
            }
            1 => {
                *self.counts.entry("frozen").or_default() += 1;
                let mut member = member;
                member.freeze();
                // Longer than the session: peers take over while it still believes to be an owner.
                std::thread::sleep(Duration::from_millis(4500));
                member.thaw();
                self.members[ordinal] = Some(member);
                return;
            }
            _ => {
                *self.counts.entry("killed").or_default() += 1;
                member.kill();
            }
        }
        self.start(ordinal);
    }
}

fn check(rig: &Rig, commands: &[CreateReturnOutbound], results: &[CommandResult]) {
    let mut orders: BTreeMap<(String, Option<String>), Vec<String>> = BTreeMap::new();
    for order in rig.erp.orders() {
        orders.entry((order.return_no.clone(), order.marker.clone())).or_default().push(order.order_no);
    }
    let twice: Vec<_> = orders.iter().filter(|(_, all)| all.len() > 1).collect();
    assert!(twice.is_empty(), "commands with more than one order: {twice:?}");
    let mut by_record: BTreeMap<(i32, i64), Vec<&CommandResult>> = BTreeMap::new();
    for result in results {
        by_record.entry((result.source_partition, result.source_offset)).or_default().push(result);
    }
    let repeated: Vec<_> = by_record.values().filter(|all| all.len() > 1).collect();
    assert!(repeated.is_empty(), "records with more than one result: {repeated:?}");
    assert_eq!(by_record.len(), commands.len(), "every record has a result");
    let undone: Vec<_> = results.iter().filter(|result| result.outcome != Outcome::Created).collect();
    assert!(undone.is_empty(), "nothing here needs a person: {undone:?}");
    let known: Vec<&String> = orders.values().flatten().collect();
    assert_eq!(known.len(), commands.len(), "one order each");
    assert!(results.iter().all(|result| known.contains(&result.outbound_no.as_ref().unwrap())), "CREATED only with an order");
}

fn storm(seed: u64, count: usize, disturbances: u32) {
    let mut rig = Rig::new("storm").commands("avro");
    rig.config.kafka_property("session.timeout.ms", "3000").kafka_property("heartbeat.interval.ms", "300");
    rig.config.set("commands", "max_in_flight", 16);
    let commands: Vec<_> = (0..count).map(|number| command(&format!("ST{number:05}"), &format!("cmd-{number}"))).collect();
    rig.erp.take_anything();
    rig.erp.latency(Duration::from_millis(60));
    rig.erp.faults(MISCHIEF);
    rig.send(&commands);
    let mut fleet = Fleet { rig, members: vec![None, None], counts: BTreeMap::new() };
    fleet.start(0);
    fleet.start(1);
    let mut dice = Dice(seed);
    let mut last = 0;
    for _ in 0..disturbances {
        // Some progress between two disturbances, or none for a while: both happen in the field.
        let patience = Instant::now() + Duration::from_millis(1500 + dice.roll(2500));
        let wanted = last + 10 + dice.roll(40);
        while fleet.rig.erp.order_count() < wanted && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(50));
        }
        last = fleet.rig.erp.order_count();
        fleet.disturb(&mut dice);
        fleet.supervise();
    }
    let before_calm = fleet.rig.erp.order_count();
    fleet.rig.erp.only_faults("query:slow(1ms)=0.01");
    let calm = Instant::now();
    let mut reader = Reader::new(&fleet.rig.topics.results);
    until("every result", SETTLED, || {
        fleet.supervise();
        (reader.finish().len() >= count).then_some(())
    });
    let settled_after = calm.elapsed();
    until("every offset", SETTLED, || {
        fleet.supervise();
        let sum: i64 =
            committed(&format!("{}.commands", fleet.rig.application_id), &fleet.rig.topics.commands).iter().map(|(_, offset)| offset).sum();
        (sum >= i64::try_from(count).unwrap()).then_some(())
    });
    reader.finish();
    let results: Vec<_> = reader.seen.iter().map(|record| fleet.rig.result(record)).collect();
    crate::parts::say(&format!(
        "storm with seed {seed}: {:?}, {before_calm} of {count} orders made in it, {} recovered, settled {settled_after:?} after it",
        fleet.counts,
        results.iter().filter(|result| result.recovered).count()
    ));
    check(&fleet.rig, &commands, &results);
}

#[test]
fn a_storm_leaves_one_order_and_one_result_each() {
    storm(20_261_123, 1200, 20);
}
