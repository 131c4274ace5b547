//! An hour of mixed load in virtual time, against the simulator's own model of how the ERP counts;
//! no sockets.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{task::JoinSet, time::sleep};

use crate::{config::QuotaScope, simulator::MinuteQuota};

use super::super::*;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// The ERP's account: sixty calls in any minute, counted when they arrive, whatever the call.
struct Erp {
    began: Instant,
    counts: Mutex<MinuteQuota>,
    waits: Mutex<BTreeMap<Class, Vec<Duration>>>,
    executed: AtomicU64,
    refused: AtomicU64,
    dice: Mutex<u64>,
    /// A call arrives up to so many milliseconds after it has left.
    travel: u64,
}

impl Erp {
    fn new(travel: u64) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            counts: Mutex::new(MinuteQuota::new(Some(60))),
            waits: Mutex::default(),
            executed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            dice: Mutex::new(20_261_124),
            travel,
        })
    }

    fn roll(&self, below: u64) -> u64 {
        let mut dice = self.dice.lock().unwrap();
        *dice =
            dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*dice >> 33) % below
    }

    fn admits(&self) -> bool {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap();
        self.counts.lock().unwrap().admit(now)
    }

    /// One call from its permit to its answer; whether it was executed.
    async fn call(self: &Arc<Self>, quota: &Quota, call: Call, class: Class) -> bool {
        let mut permit = quota.acquire(call, class).await;
        self.waits.lock().unwrap().entry(class).or_default().push(permit.waited);
        if class == Class::Command {
            // Its intent is committed.
            sleep(Duration::from_millis(5 + self.roll(200))).await;
        }
        permit.take_place().await;
        permit.spend();
        // What has left arrives, whatever becomes of who sent it.
        let (erp, travel) = (Arc::clone(self), Duration::from_millis(self.roll(self.travel)));
        let arriving = tokio::spawn(async move {
            sleep(travel).await;
            erp.admits()
        });
        let executed = arriving.await.unwrap();
        if executed {
            self.executed.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(self.roll(300))).await;
            permit.answered();
        } else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            permit.refused(Limit::Frequency);
        }
        executed
    }

    /// Until it is executed, as the command pipeline does.
    async fn insist(self: &Arc<Self>, quota: &Quota, call: Call, class: Class) {
        while !self.call(quota, call, class).await {
            sleep(Duration::from_millis(200)).await;
        }
    }

    fn mean(&self, class: Class) -> f64 {
        let waits = self.waits.lock().unwrap();
        waits.get(&class).map_or(0.0, |waits| {
            waits.iter().map(Duration::as_secs_f64).sum::<f64>() / waits.len() as f64
        })
    }

    fn report(&self, what: &str) {
        let (executed, refused) =
            (self.executed.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed));
        println!("{what}: {executed} calls executed, {refused} refused");
        for (class, waits) in self.waits.lock().unwrap().iter_mut() {
            waits.sort_unstable();
            let (count, at) =
                (waits.len(), |part: usize| waits[(waits.len() - 1) * part / 100].as_secs_f64());
            println!(
                "  {:<9} {count:>5} permits, waited {:.1} s at the median, {:.1} s at 95 %, {:.1} s at most",
                class.name(),
                at(50),
                at(95),
                at(100)
            );
        }
    }
}

fn quota() -> Quota {
    let quota = Quota::new(&QuotaSettings {
        scope: QuotaScope::Account,
        calls_per_minute: 50,
        burst: 10,
        share: 1.0,
        max_concurrent_calls: 64,
    });
    for call in [Call::CreateOrder, Call::QueryOutbounds] {
        quota.set_share(call, Work::Commands, 1.0);
    }
    for call in [Call::QueryPurchaseReturns, Call::QueryOutbounds] {
        quota.set_share(call, Work::Feeds, 1.0);
    }
    quota
}

/// Ends what it holds when it goes.
#[derive(Default)]
struct Load(Vec<tokio::task::AbortHandle>);

impl Load {
    fn start(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.push(tokio::spawn(work).abort_handle());
    }

    /// Two busy feeds, each with a live pass of four pages every ten seconds, a late pass, and a
    /// backfill that never ends.
    fn feeds(&mut self, erp: &Arc<Erp>, quota: &Quota) {
        for call in [Call::QueryPurchaseReturns, Call::QueryOutbounds] {
            for (class, pages, pause) in
                [(Class::Feed, 4, 10), (Class::LatePass, 3, 300), (Class::Backfill, 20, 0)]
            {
                let (erp, quota) = (Arc::clone(erp), quota.clone());
                self.start(async move {
                    loop {
                        for _ in 0..pages {
                            erp.call(&quota, call, class).await;
                        }
                        sleep(Duration::from_secs(pause)).await;
                    }
                });
            }
        }
    }

    /// `count` calls at once, as after a crash or a night without a sender.
    fn wave(
        &mut self,
        erp: &Arc<Erp>,
        quota: &Quota,
        (call, class): (Call, Class),
        count: u32,
        after: Duration,
    ) {
        let (erp, quota) = (Arc::clone(erp), quota.clone());
        self.start(async move {
            sleep(after).await;
            let mut all = JoinSet::new();
            for _ in 0..count {
                let (erp, quota) = (Arc::clone(&erp), quota.clone());
                all.spawn(async move { erp.insist(&quota, call, class).await });
            }
            while all.join_next().await.is_some() {}
        });
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

const ORDER: (Call, Class) = (Call::CreateOrder, Class::Command);
const LOOKUP: (Call, Class) = (Call::QueryOutbounds, Class::Lookup);

#[tokio::test(start_paused = true)]
async fn an_hour_of_mixed_load_is_never_refused_and_uses_the_rate() {
    let erp = Erp::new(2000);
    let quota = quota();
    let mut load = Load::default();
    load.feeds(&erp, &quota);
    // A quiet sender, then a backlog, a crash with a wave of lookups, and again.
    for minute in 0..60 {
        load.wave(&erp, &quota, ORDER, 10, MINUTE * minute);
    }
    for (minute, count) in [(10, 300), (25, 500)] {
        load.wave(&erp, &quota, ORDER, count, MINUTE * minute);
        load.wave(&erp, &quota, LOOKUP, 64, MINUTE * (minute + 2));
    }
    sleep(HOUR).await;
    drop(load);
    erp.report("an hour of mixed load, one account-wide budget of 50 a minute");
    assert_eq!(erp.refused.load(Ordering::Relaxed), 0);
    assert!(erp.executed.load(Ordering::Relaxed) >= 50 * 60 * 95 / 100);
    let waits = erp.waits.lock().unwrap();
    for class in Class::ALL {
        assert!(waits.get(&class).is_some_and(|waits| waits.len() >= 30), "{class:?} starves");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_with_an_empty_bucket_is_not_refused() {
    let erp = Erp::new(2000);
    for _ in 0..30 {
        let quota = quota();
        let mut load = Load::default();
        load.feeds(&erp, &quota);
        load.wave(&erp, &quota, ORDER, 100, Duration::ZERO);
        sleep(Duration::from_secs(20)).await;
    }
    erp.report("a process that is started again every 20 s");
    assert_eq!(erp.refused.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn another_program_that_takes_half_costs_few_refusals_and_nothing_is_lost() {
    let erp = Erp::new(300);
    let mut load = Load::default();
    let thief = Arc::clone(&erp);
    load.start(async move {
        loop {
            thief.admits();
            sleep(Duration::from_secs(2)).await;
        }
    });
    let quota = quota();
    load.feeds(&erp, &quota);
    let mut commands = Load::default();
    for minute in 0..60 {
        commands.wave(&erp, &quota, ORDER, 20, MINUTE * minute);
    }
    for (span, allowed) in [(3, 20), (57, 20)] {
        sleep(MINUTE * span).await;
        let (executed, refused) =
            (erp.executed.load(Ordering::Relaxed), erp.refused.load(Ordering::Relaxed));
        assert!(
            refused * 1000 <= (executed + refused) * allowed,
            "{refused} of {} refused",
            executed + refused
        );
    }
    erp.report("the same beside a program that takes 30 of the 60 calls");
    assert!(
        erp.executed.load(Ordering::Relaxed) >= 60 * 30 * 75 / 100,
        "most of what is left is used"
    );
    // Every command is called until it is executed.
    sleep(HOUR).await;
    assert!(commands.0.iter().all(tokio::task::AbortHandle::is_finished), "nothing is lost");
}

/// Shares of the commands' partitions, of three instances; the feeds go with the first and the
/// second.
fn share(instances: &[Quota; 3], commands: [f64; 3]) {
    for (quota, part) in instances.iter().zip(commands) {
        for call in [Call::CreateOrder, Call::QueryOutbounds] {
            quota.set_share(call, Work::Commands, part);
        }
    }
    for (quota, (returns, outbounds)) in instances.iter().zip([(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
    {
        quota.set_share(Call::QueryPurchaseReturns, Work::Feeds, returns);
        quota.set_share(Call::QueryOutbounds, Work::Feeds, outbounds);
    }
}

const THIRDS: [f64; 3] = [1.0 / 3.0; 3];

/// Three instances with more to do than the quota allows.
fn three_busy(erp: &Arc<Erp>) -> ([Quota; 3], [Load; 3]) {
    let instances = [quota(), quota(), quota()];
    share(&instances, THIRDS);
    let mut loads = [Load::default(), Load::default(), Load::default()];
    for (quota, load) in instances.iter().zip(&mut loads) {
        load.wave(erp, quota, ORDER, 2000, Duration::ZERO);
    }
    (instances, loads)
}

#[tokio::test(start_paused = true)]
async fn ownership_that_moves_in_good_order_is_never_refused() {
    let erp = Erp::new(2000);
    let (instances, mut loads) = three_busy(&erp);
    sleep(MINUTE * 10).await;
    for _ in 0..10 {
        // The third one ends; when its session has run out the others have its partitions.
        loads[2] = Load::default();
        share(&instances, [1.0 / 3.0, 1.0 / 3.0, 0.0]);
        sleep(Duration::from_secs(45)).await;
        share(&instances, [0.5, 0.5, 0.0]);
        sleep(MINUTE * 2).await;
        // It comes back: the others give first, then it takes.
        share(&instances, [1.0 / 3.0, 1.0 / 3.0, 0.0]);
        sleep(Duration::from_secs(1)).await;
        share(&instances, THIRDS);
        loads[2].wave(&erp, &instances[2], ORDER, 2000, Duration::ZERO);
        sleep(MINUTE * 2).await;
    }
    erp.report("three instances, one of which comes and goes");
    assert_eq!(erp.refused.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_does_not_know_yet_costs_a_few_refusals_and_nothing_else() {
    let erp = Erp::new(300);
    let (instances, _loads) = three_busy(&erp);
    sleep(MINUTE * 10).await;
    for _ in 0..6 {
        // Cut off from the group, the first goes on as before while the others have its share
        // already.
        share(&instances, [1.0 / 3.0, 0.5, 0.5]);
        sleep(Duration::from_secs(45)).await;
        share(&instances, THIRDS);
        sleep(MINUTE * 10).await;
    }
    erp.report("three instances, one of which is replaced for 45 s without knowing");
    let (executed, refused) =
        (erp.executed.load(Ordering::Relaxed), erp.refused.load(Ordering::Relaxed));
    assert!(refused > 0 && refused * 100 <= executed * 2, "{refused} beside {executed}");
    assert!(executed >= 50 * 75 * 85 / 100, "it settles again: {executed}");
}

/// How long commands wait on average, alone or beside everything else.
async fn commands_wait(beside: bool, arrivals: &[(u32, Duration)]) -> f64 {
    let erp = Erp::new(2000);
    let quota = quota();
    let mut load = Load::default();
    if beside {
        load.feeds(&erp, &quota);
    }
    for (count, after) in arrivals {
        load.wave(&erp, &quota, ORDER, *count, MINUTE * 2 + *after);
    }
    sleep(HOUR * 2).await;
    assert_eq!(erp.refused.load(Ordering::Relaxed), 0);
    let served = erp.waits.lock().unwrap()[&Class::Command].len();
    assert_eq!(
        served,
        arrivals.iter().map(|(count, _)| *count as usize).sum::<usize>(),
        "every command was served"
    );
    erp.mean(Class::Command)
}

#[tokio::test(start_paused = true)]
async fn commands_beside_two_busy_feeds_and_a_backfill_wait_as_long_as_alone() {
    let minutes = |count: u32, every: u32| {
        (0..60 / every).map(|turn| (count, MINUTE * (turn * every))).collect::<Vec<_>>()
    };
    for (what, arrivals) in [
        ("a backlog of 1500", vec![(1500, Duration::ZERO)]),
        ("40 at once every minute", minutes(40, 1)),
        ("100 at once every five minutes", minutes(100, 5)),
    ] {
        let (alone, beside) =
            (commands_wait(false, &arrivals).await, commands_wait(true, &arrivals).await);
        println!(
            "{what}: {alone:.2} s alone, {beside:.2} s beside two feeds and a backfill ({:+.1} %)",
            (beside / alone - 1.0) * 100.0
        );
        assert!(beside <= alone * 1.1, "{what}: {beside} against {alone}");
    }
    // What never waits alone does not wait beside the others.
    let arrivals = minutes(5, 1);
    let (alone, beside) =
        (commands_wait(false, &arrivals).await, commands_wait(true, &arrivals).await);
    println!("five at once every minute: {alone:.2} s alone, {beside:.2} s beside");
    assert!(beside < 0.01, "{beside}");
}
