mod hour;

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::config::QuotaScope;

use super::*;

fn quota(calls_per_minute: u32, burst: u32, max_concurrent_calls: u32) -> Quota {
    Quota::new(&QuotaSettings {
        scope: QuotaScope::Call,
        calls_per_minute,
        burst,
        share: 1.0,
        max_concurrent_calls,
    })
}

fn account_wide(calls_per_minute: u32, burst: u32) -> Quota {
    Quota::new(&QuotaSettings {
        scope: QuotaScope::Account,
        calls_per_minute,
        burst,
        share: 1.0,
        max_concurrent_calls: 64,
    })
}

/// What was called, by whom, when.
type Calls = Arc<Mutex<Vec<(Instant, Class)>>>;

/// Calls again and again, each time `hold` after the permit came; `pause` between calls.
fn caller(quota: &Quota, call: Call, class: Class, hold: Duration, pause: Duration, calls: &Calls) {
    let (quota, calls) = (quota.clone(), Arc::clone(calls));
    tokio::spawn(async move {
        loop {
            let mut permit = quota.acquire(call, class).await;
            tokio::time::sleep(hold).await;
            permit.take_place().await;
            permit.spend();
            calls.lock().unwrap().push((Instant::now(), class));
            tokio::time::sleep(Duration::from_millis(300)).await;
            permit.answered();
            drop(permit);
            tokio::time::sleep(pause).await;
        }
    });
}

fn count(calls: &[(Instant, Class)], class: Class) -> usize {
    calls.iter().filter(|(_, of)| *of == class).count()
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn an_hour_of_mixed_load_stays_below_sixty_a_minute_uses_the_rate_and_starves_nobody() {
    let quota = quota(50, 10, 32);
    let calls = Calls::default();
    for (position, class) in Class::ALL.into_iter().enumerate() {
        for worker in 0..6 {
            let hold = Duration::from_millis(u64::try_from(position * 130 + worker * 370).unwrap());
            caller(&quota, Call::QueryOutbounds, class, hold, Duration::ZERO, &calls);
        }
    }
    tokio::time::sleep(HOUR).await;
    let calls = calls.lock().unwrap().clone();
    for (position, (first, _)) in calls.iter().enumerate() {
        let within = calls
            .iter()
            .skip(position)
            .take_while(|(at, _)| *at < *first + Duration::from_secs(60))
            .count();
        assert!(within <= 60, "{within} calls within a minute");
    }
    assert!(calls.len() >= 50 * 60 * 95 / 100, "{} calls in an hour", calls.len());
    for (class, floor) in [
        (Class::Lookup, 50),
        (Class::Command, 45),
        (Class::Feed, 23),
        (Class::LatePass, 23),
        (Class::Backfill, 23),
    ] {
        assert!(
            count(&calls, class) * 1000 >= calls.len() * floor,
            "{class:?}: {} of {}",
            count(&calls, class),
            calls.len()
        );
    }
    assert!(count(&calls, Class::Lookup) * 2 > calls.len(), "the most urgent class gets most");
}

#[tokio::test(start_paused = true)]
async fn an_urgent_caller_who_comes_late_goes_first() {
    let quota = quota(60, 1, 8);
    let order = Arc::new(Mutex::new(Vec::new()));
    for class in [Class::Backfill, Class::LatePass, Class::Feed, Class::Command, Class::Lookup] {
        let (quota, order) = (quota.clone(), Arc::clone(&order));
        tokio::spawn(async move {
            quota.acquire(Call::QueryOutbounds, class).await.spend();
            order.lock().unwrap().push(class);
        });
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(*order.lock().unwrap(), Class::ALL);
}

#[tokio::test(start_paused = true)]
async fn calls_have_budgets_of_their_own() {
    let quota = quota(60, 1, 8);
    let start = Instant::now();
    for call in Call::ALL {
        quota.acquire(call, Class::Feed).await.spend();
    }
    assert!(start.elapsed() <= Duration::from_millis(1010), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_unused_permit_and_an_abandoned_place_cost_nothing() {
    let quota = quota(60, 1, 8);
    let start = Instant::now();
    for _ in 0..5 {
        drop(quota.acquire(Call::CreateOrder, Class::Command).await);
    }
    assert!(start.elapsed() <= Duration::from_millis(1010), "{:?}", start.elapsed());
    quota.acquire(Call::CreateOrder, Class::Command).await.spend();
    // Gives up before its turn: whoever stands behind gets it.
    let gone = tokio::time::timeout(
        Duration::from_millis(100),
        quota.acquire(Call::CreateOrder, Class::Lookup),
    )
    .await;
    assert!(gone.is_err());
    let now = Instant::now();
    quota.acquire(Call::CreateOrder, Class::Backfill).await.spend();
    assert!(now.elapsed() <= Duration::from_millis(1010), "{:?}", now.elapsed());
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_at_once_than_allowed_and_a_free_place_is_taken_at_once() {
    let quota = quota(6000, 100, 3);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let start = Instant::now();
    let tasks: Vec<_> = (0..12)
        .map(|position| {
            let (quota, now, most) = (quota.clone(), Arc::clone(&now), Arc::clone(&most));
            let call =
                if position % 2 == 0 { Call::CreateOrder } else { Call::QueryPurchaseReturns };
            tokio::spawn(async move {
                let mut permit = quota.acquire(call, Class::Command).await;
                permit.take_place().await;
                permit.spend();
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(1)).await;
                now.fetch_sub(1, Ordering::SeqCst);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
    assert!(start.elapsed() <= Duration::from_millis(4050), "{:?}", start.elapsed());
}

/// One call with a permit, which holds its place for so long.
async fn called(quota: &Quota, class: Class, span: Duration) {
    let mut permit = quota.acquire(Call::QueryOutbounds, class).await;
    permit.take_place().await;
    permit.spend();
    tokio::time::sleep(span).await;
}

#[tokio::test(start_paused = true)]
async fn permits_that_are_held_unspent_keep_nobody_from_leaving() {
    let quota = quota(600, 10, 1);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(quota.acquire(Call::CreateOrder, Class::Command).await);
    }
    for class in Class::ALL {
        let left = called(&quota, class, Duration::ZERO);
        tokio::time::timeout(Duration::from_secs(10), left).await.expect("it leaves");
    }
    assert_eq!(quota.status()[0].out, 0);
    // Nor does one that waits for its place in vain take it with it when it goes.
    let mut first = held.pop().unwrap();
    first.take_place().await;
    assert_eq!(
        (quota.status()[0].out, quota.place_at_once(Call::CreateOrder).is_some()),
        (1, false)
    );
    let mut second = held.pop().unwrap();
    let waited = tokio::time::timeout(Duration::from_secs(1), second.take_place()).await;
    assert!(waited.is_err(), "the only place is taken");
    drop(first);
    assert!(quota.place_at_once(Call::QueryPurchaseReturns).is_some());
    assert_eq!((quota.status()[0].out, quota.status()[0].waiting_for_place), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_place_goes_to_the_most_urgent_and_its_wait_counts() {
    let quota = quota(6000, 100, 1);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let place = quota.place(Call::QueryOutbounds, Class::Backfill).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    for class in [Class::Backfill, Class::LatePass, Class::Feed, Class::Command, Class::Lookup] {
        let (quota, order) = (quota.clone(), Arc::clone(&order));
        tokio::spawn(async move {
            let mut permit = quota.acquire(Call::QueryOutbounds, class).await;
            assert_eq!(permit.waited, Duration::ZERO);
            permit.take_place().await;
            assert!(permit.waited >= Duration::from_secs(5), "{:?}", permit.waited);
            order.lock().unwrap().push(class);
        });
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((quota.status()[0].out, quota.status()[0].waiting_for_place), (1, 5));
    assert_eq!(quota.room(Call::CreateOrder).places, 0);
    drop(place);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(*order.lock().unwrap(), Class::ALL);
    assert_eq!(quota.room(Call::CreateOrder).places, 1);
}

#[tokio::test(start_paused = true)]
async fn where_places_are_short_nobody_starves() {
    let quota = quota(600_000, 1000, 2);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let calls = Calls::default();
    for class in Class::ALL {
        for _ in 0..4 {
            caller(&quota, Call::QueryOutbounds, class, Duration::ZERO, Duration::ZERO, &calls);
        }
    }
    tokio::time::sleep(HOUR / 6).await;
    let calls = calls.lock().unwrap().clone();
    assert!(calls.len() > 3900, "two at once, 300 ms each: {}", calls.len());
    for (class, floor) in [
        (Class::Lookup, 500),
        (Class::Command, 45),
        (Class::Feed, 23),
        (Class::LatePass, 23),
        (Class::Backfill, 23),
    ] {
        assert!(count(&calls, class) * 1000 >= calls.len() * floor, "{class:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_cool_down_slow_down_and_are_made_good() {
    let quota = quota(50, 10, 8);
    let mut permit = quota.acquire(Call::CreateOrder, Class::Command).await;
    permit.spend();
    permit.refused(Limit::Frequency);
    drop(permit);
    let status = |quota: &Quota| {
        quota.status().into_iter().find(|status| status.call == "create_order").unwrap()
    };
    assert!(
        (status(&quota).rate - 25.0).abs() < 0.01,
        "nothing had left before, so half of it goes"
    );
    assert_eq!(status(&quota).refused, 1);
    assert!(status(&quota).cooldown_until.is_some());
    let refused = Instant::now();
    quota.acquire(Call::CreateOrder, Class::Command).await.spend();
    assert!(
        refused.elapsed() >= Duration::from_secs(10) && refused.elapsed() < Duration::from_secs(11),
        "{:?}",
        refused.elapsed()
    );
    // Other calls go on.
    quota.acquire(Call::QueryOutbounds, Class::Lookup).await.spend();
    tokio::time::sleep(Duration::from_secs(130)).await;
    assert!((status(&quota).rate - 26.5).abs() < 0.01, "{}", status(&quota).rate);
    tokio::time::sleep(HOUR).await;
    assert!((status(&quota).rate - 50.0).abs() < 0.01);
    assert_eq!(status(&quota).cooldown_until, None);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_for_concurrency_narrows_and_widens() {
    let quota = quota(600, 10, 10);
    let max_in_flight_calls = |quota: &Quota| quota.status()[0].max_in_flight_calls;
    let mut permit = quota.acquire(Call::CreateOrder, Class::Command).await;
    permit.spend();
    permit.refused(Limit::Concurrency);
    permit.refused(Limit::Concurrency);
    drop(permit);
    assert_eq!(max_in_flight_calls(&quota), 7);
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(max_in_flight_calls(&quota), 10);
}

#[tokio::test(start_paused = true)]
async fn a_share_slows_only_its_call() {
    let quota = quota(60, 6, 8);
    quota.set_share(Call::QueryPurchaseReturns, Work::Feeds, 0.5);
    let rates: BTreeMap<_, _> = quota
        .status()
        .into_iter()
        .map(|status| (status.call, (status.rate, status.burst)))
        .collect();
    assert_eq!(rates["query_purchase_returns"], (30.0, 3));
    assert_eq!(rates["create_order"], (60.0, 6));
}

#[tokio::test(start_paused = true)]
async fn an_account_wide_budget_pays_for_all_calls_of_its_account_and_no_other() {
    let quota = account_wide(60, 1);
    let start = Instant::now();
    for call in [Call::CreateOrder, Call::QueryOutbounds, Call::QueryPurchaseReturns] {
        quota.acquire(call, Class::Feed).await.spend();
    }
    assert!(start.elapsed() >= Duration::from_secs(3), "{:?}", start.elapsed());
    let other = Instant::now();
    quota.acquire(Call::QueryOutboundsEnterprise, Class::Feed).await.spend();
    assert!(other.elapsed() < Duration::from_millis(10), "{:?}", other.elapsed());
    let status = quota.status();
    assert_eq!(
        status.iter().map(|budget| budget.call).collect::<Vec<_>>(),
        ["flagship", "enterprise"]
    );
    assert_eq!((status[0].used["feed"], status[1].used["feed"]), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn patient_classes_leave_the_burst_to_commands_where_both_pay_from_one_budget() {
    let quota = account_wide(50, 10);
    for (call, work) in
        [(Call::CreateOrder, Work::Commands), (Call::QueryPurchaseReturns, Work::Feeds)]
    {
        quota.set_share(call, work, 1.0);
    }
    let calls = Calls::default();
    for _ in 0..3 {
        caller(
            &quota,
            Call::QueryPurchaseReturns,
            Class::Backfill,
            Duration::ZERO,
            Duration::ZERO,
            &calls,
        );
    }
    // The backfill has run for ten minutes on all that would be lost otherwise, and yet the burst
    // is there.
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(calls.lock().unwrap().len() >= 480, "{}", calls.lock().unwrap().len());
    let start = Instant::now();
    for _ in 0..9 {
        quota.acquire(Call::CreateOrder, Class::Command).await.spend();
    }
    assert!(start.elapsed() < Duration::from_millis(10), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn shares_scale_rate_burst_and_concurrency_and_three_instances_stay_within_the_quota() {
    let instances: Vec<Quota> = (0..3).map(|_| account_wide(50, 10)).collect();
    for (ordinal, quota) in instances.iter().enumerate() {
        for call in [Call::CreateOrder, Call::QueryOutbounds] {
            quota.set_share(call, Work::Commands, 1.0 / 3.0);
        }
        quota.set_share(
            Call::QueryPurchaseReturns,
            Work::Feeds,
            if ordinal == 0 { 1.0 } else { 0.0 },
        );
        quota.set_share(Call::QueryOutbounds, Work::Feeds, if ordinal == 1 { 1.0 } else { 0.0 });
    }
    let flagship = |quota: &Quota| quota.status().remove(0);
    let sum: f64 = instances.iter().map(|quota| flagship(quota).rate).sum();
    assert!((sum - 50.0).abs() < 0.05, "{sum}");
    assert_eq!(instances.iter().map(|quota| flagship(quota).burst).collect::<Vec<_>>(), [3, 3, 2]);
    assert_eq!(
        instances.iter().map(|quota| flagship(quota).max_in_flight_calls).collect::<Vec<_>>(),
        [24, 24, 16]
    );
    // One goes; what it had is the others' after the next assignment.
    for call in [Call::CreateOrder, Call::QueryOutbounds] {
        instances[0].set_share(call, Work::Commands, 0.5);
    }
    assert!((flagship(&instances[0]).rate - 25.0).abs() < 0.01, "{}", flagship(&instances[0]).rate);
    // Each draws on its burst at the same moment, and no minute holds more than sixty.
    let calls = Calls::default();
    instances[0].set_share(Call::CreateOrder, Work::Commands, 1.0 / 3.0);
    instances[0].set_share(Call::QueryOutbounds, Work::Commands, 1.0 / 3.0);
    tokio::time::sleep(Duration::from_secs(300)).await;
    for quota in &instances {
        for _ in 0..20 {
            caller(
                quota,
                Call::CreateOrder,
                Class::Command,
                Duration::ZERO,
                Duration::ZERO,
                &calls,
            );
        }
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    let mut calls = calls.lock().unwrap().clone();
    calls.sort();
    let worst = (0..calls.len())
        .map(|first| {
            calls[first..]
                .iter()
                .take_while(|(at, _)| *at < calls[first].0 + Duration::from_secs(60))
                .count()
        })
        .max();
    assert!(worst <= Some(60), "{worst:?}");
    assert!(calls.len() >= 480, "{}", calls.len());
}

#[tokio::test(start_paused = true)]
async fn who_waits_and_who_called_is_shown() {
    let quota = quota(60, 1, 8);
    quota.acquire(Call::QueryOutbounds, Class::Lookup).await.spend();
    let waiting = tokio::spawn({
        let quota = quota.clone();
        async move { quota.acquire(Call::QueryOutbounds, Class::Feed).await.spend() }
    });
    tokio::task::yield_now().await;
    let status =
        quota.status().into_iter().find(|status| status.call == "query_outbounds").unwrap();
    assert_eq!(
        (status.used["lookup"], status.waiting["feed"], status.waiting["lookup"]),
        (1, 1, 0)
    );
    assert_eq!((status.left, status.refused), (60, 0));
    assert!((status.waiting_for_seconds - 1.0).abs() < 0.01, "{status:?}");
    waiting.await.unwrap();
    assert!(serde_json::to_string(&quota.status()).unwrap().contains("\"query_outbounds\""));
}

#[tokio::test(start_paused = true)]
async fn a_rate_for_benchmarks_holds_nobody_up() {
    let quota = quota(6_000_000, 1000, 64);
    let start = Instant::now();
    for _ in 0..20_000 {
        quota.acquire(Call::CreateOrder, Class::Command).await.spend();
    }
    assert!(
        start.elapsed() <= Duration::from_millis(300),
        "{:?} of virtual time for 20,000 permits",
        start.elapsed()
    );
}
