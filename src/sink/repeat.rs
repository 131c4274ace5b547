//! The repeat table of what is pure or local: carried out twice in a row, each changes nothing the
//! second time. What is a Kafka transaction has its rows in `tests/it/repeat_table.rs`.

use std::{collections::HashSet, time::Duration};

use super::{
    call::{Question, finding_of},
    journal::{Finding, Known, Life, Sight, Timing, Verdict, Visibility, judge},
    letter::{Death, dead_letter},
    settle::{Names, intent_entry, journal_key, outcome_entry},
    validate::{Accepted, marker, validate},
};
use crate::{
    clock::{Moment, Timestamp},
    decimal::Decimal,
    erp::{Answer, OutboundHead},
    kafka::{Change, Delivered, Lease, Outgoing, Ownership, Prefix, Standing, Store, borrowed},
    schema::{CommandLine, CreateReturnOutbound},
    sink::journal::Step,
};

const TIMING: Timing = Timing {
    intent_ttl: Duration::from_secs(15),
    call_timeout: Duration::from_secs(30),
    apply_grace: Duration::from_secs(90),
    lookup_interval: Duration::from_secs(30),
    lookup_timeout: Duration::from_secs(1800),
    max_attempts: 2,
    unapproved_retry_timeout: Duration::ZERO,
};
const NOW: Moment = Moment(10_000_000);

fn accepted() -> Accepted {
    validate(CreateReturnOutbound {
        command_id: "c".into(),
        return_no: "R".into(),
        warehouse_no: "W".into(),
        logistics_code: None,
        create_mode: None,
        remark: None,
        details: vec![CommandLine {
            spec_no: "s".into(),
            num: Decimal::parse("1").unwrap(),
            unit_name: None,
            position_no: None,
            batch_no: None,
            expire_date: None,
            defect: None,
            remark: None,
        }],
        issued_at: None,
        expires_at: None,
    })
    .unwrap()
}

fn verdict(entry: Option<crate::schema::JournalEntry>) -> Verdict {
    let known = Known {
        entry,
        restored_at: Moment(1),
        old: false,
        replayed: false,
        now: NOW,
        now_wall: Timestamp(0),
    };
    judge(&accepted(), 0, 7, known, &TIMING)
}

/// Called at the beginning of time, and not answered.
fn in_doubt() -> Life {
    let Verdict::Fresh(mut life) = verdict(None) else { panic!("fresh") };
    life.intended(1, Timestamp(0));
    let _ = life.answered(
        Answer::Unknown { reason: "timeout".into(), refusal: None },
        Moment(15_000),
        true,
        Moment(20_000),
        &TIMING,
    );
    life
}

fn head(remark: &str) -> OutboundHead {
    OutboundHead {
        stockout_id: "1".into(),
        order_no: "CK1".into(),
        src_order_no: None,
        warehouse_no: None,
        remark: remark.into(),
        create_time: Some(Timestamp(0)),
        status: None,
    }
}

/// An effect on a state: carried out once and twice, as text.
fn twice<S: Clone + std::fmt::Debug, R: std::fmt::Debug>(
    state: S,
    effect: impl Fn(&mut S) -> R,
) -> [String; 2] {
    let mut state = state;
    [(); 2].map(|()| {
        let returned = effect(&mut state);
        format!("{returned:?} {state:?}")
    })
}

const SIGHT: Sight = Sight { now: NOW, circuit_closed: true };

fn looked_up(name: &'static str, finding: Finding) -> (String, [String; 2]) {
    (
        format!("lookup: {name}"),
        twice(in_doubt(), |life| life.looked_up(finding.clone(), SIGHT, &TIMING)),
    )
}

#[test]
fn every_pure_effect_twice_in_a_row_changes_nothing() {
    let marked = marker("R", "c");
    let question = Question {
        return_no: "R".into(),
        marker: marked.clone(),
        since: Some(Timestamp(0)),
        claimed: HashSet::new(),
    };
    let lease = Lease { partition: 0, epoch: 1 };
    let mut table = vec![
        looked_up("found", Finding::Found(vec!["CK1".into()])),
        looked_up("several", Finding::Found(vec!["CK1".into(), "CK2".into()])),
        looked_up("suspects", Finding::Suspects(vec!["CK1".into()])),
        looked_up("absent too early", Finding::Absent { asked_at: Moment(20_001) }),
        looked_up("absent", Finding::Absent { asked_at: NOW }),
        looked_up("failed", Finding::Failed("short".into())),
    ];
    for visibility in [Visibility::Seen, Visibility::Failed("short".into())] {
        let mut life = in_doubt();
        let _ = life.looked_up(Finding::Absent { asked_at: NOW }, SIGHT, &TIMING);
        let name = format!("check: {visibility:?}");
        let effect = |life: &mut Life| life.checked(visibility.clone(), SIGHT, &TIMING);
        table.push((name, twice(life, effect)));
    }
    let mut prefix = Prefix::restore(0, "", String::new());
    assert!(prefix.deliver(0) && prefix.deliver(1));
    prefix.finish(1);
    table.push(("finish".into(), twice(prefix.clone(), |prefix| prefix.finish(0))));
    table.push(("commit".into(), twice(prefix.clone(), |prefix| prefix.committed(2))));
    table.push(("read the position".into(), twice(prefix, |prefix| prefix.position())));
    let mut ownership = Ownership::default();
    let leases = ownership.assign(&[0, 1]);
    table.push((
        "give a partition back".into(),
        twice(ownership, |ownership| ownership.release(&leases[..1])),
    ));
    let mut standing: Standing<u8> = Standing::default();
    let _ = standing.assigned(&[0], Some(1));
    table.push(("rejoin".into(), twice(standing, |standing| standing.rejoined(Some(2)))));
    for (name, remark) in [("ours", marked.as_str()), ("no marker", "x")] {
        table.push((
            format!("read an answer: {name}"),
            twice((), |()| finding_of(&[head(remark), head(remark)], &question, NOW)),
        ));
    }
    for (name, [once, again]) in &table {
        assert_eq!(once, again, "{name}");
    }

    // The same record delivered twice is one delivery, here and for a successor.
    let mut prefix = Prefix::restore(0, "", String::new());
    assert_eq!([prefix.deliver(3), prefix.deliver(3)], [true, false]);
    // Rows of the table above that settle must do so both times.
    assert!(matches!(
        in_doubt().looked_up(Finding::Found(vec!["CK1".into()]), SIGHT, &TIMING),
        Step::Settle(_)
    ));

    // Judged from the entry an intent or an outcome left behind, however often: the same life, the
    // same answer.
    let life = in_doubt();
    let intent = intent_entry(&life, ("R", "c"), "W", Timestamp(1), &TIMING);
    let Step::Settle(ending) =
        in_doubt().looked_up(Finding::Found(vec!["CK1".into()]), SIGHT, &TIMING)
    else {
        panic!("settles")
    };
    let outcome = outcome_entry(&life, &ending, ("R", "c"), "W", Timestamp(1));
    for entry in [None, Some(intent), Some(outcome)] {
        assert_eq!(format!("{:?}", verdict(entry.clone())), format!("{:?}", verdict(entry)));
    }

    // A dead letter of a dead letter is the letter: what stood in the headers is replaced, not
    // added to.
    let record = Delivered {
        lease,
        offset: 42,
        key: Some(vec![1]),
        value: Some(vec![2]),
        headers: vec![("mine".into(), None)],
        timestamp: None,
        left_out: None,
        unreadable_headers: 0,
    };
    let names = Names::short();
    let letter =
        |record: &Delivered| dead_letter(&names, record, Death::Undecodable, "not Avro", "app");
    let once = letter(&record);
    let again = letter(&Delivered { headers: once.headers.clone(), ..record });
    assert_eq!(as_text(&once), as_text(&again));
}

fn as_text(outgoing: &Outgoing) -> String {
    format!("{outgoing:?}")
}

/// What a takeover reads and what a commit hands to the cache may come twice: after a restart
/// everything does.
#[test]
fn the_journals_cache_takes_everything_twice() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path(), "journal-0").unwrap();
    let changes: Vec<Change> = vec![
        (journal_key("R", "a"), Some(vec![1])),
        (journal_key("R", "b"), Some(vec![2])),
        (journal_key("R", "a"), None),
    ];
    let all = || {
        let mut found = Vec::new();
        store
            .scan(0, b"[", |key, value| {
                found.push((key.to_vec(), value.to_vec()));
                true
            })
            .unwrap();
        found
    };
    store.apply_all([(0, borrowed(&changes))]).unwrap();
    let once = all();
    assert_eq!(once, [(journal_key("R", "b"), vec![2])]);
    store.apply_all([(0, borrowed(&changes))]).unwrap();
    assert_eq!(all(), once);
    // Another partition's are its own.
    store.clear(1).unwrap();
    assert_eq!(all(), once);
    store.clear(0).unwrap();
    store.clear(0).unwrap();
    assert_eq!(all(), []);
}
