//! `topics repartition` beside an instance that starts at the wrong moment, killed at every step,
//! and over commands that are still open; and what is sent again afterwards.

use std::time::Duration;

use wdt_connector::testing::{
    config::Partitioner,
    schema::{CommandResult, CreateReturnOutbound, Outcome},
    sink::partition_of,
};

use crate::{
    kit::{
        commands::{avro, command},
        records::{Sender, read_all},
        rig::{PATIENCE, Rig},
        topics, until,
    },
    parts::guard::{self, Guarded},
};

fn place(return_no: &str, partitions: i32) -> i32 {
    partition_of(return_no.as_bytes(), partitions, Partitioner::Murmur2).unwrap()
}

/// Commands whose partition changes from 2 partitions to `partitions`.
fn moving(prefix: &str, partitions: i32, count: usize) -> Vec<CreateReturnOutbound> {
    (0..)
        .map(|number| format!("{prefix}-{number:03}"))
        .filter(|return_no| place(return_no, 2) != place(return_no, partitions))
        .take(count)
        .map(|return_no| command(&return_no, "c"))
        .collect()
}

fn repartition(rig: &Rig, partitions: i32, failpoint: &str) -> Guarded {
    let mut command =
        rig.verb_command(&["topics", "repartition", "--partitions", &partitions.to_string()]);
    guard::spawn(command.env("FAILPOINTS", failpoint)).expect("the program starts")
}

/// Waits until the process has stopped itself.
fn wait_stopped(process: &mut Guarded) {
    let stat = format!("/proc/{}/stat", process.pid());
    until("the pause", PATIENCE, || {
        let stat = std::fs::read_to_string(&stat).ok()?;
        let (_, after) = stat.rsplit_once(") ")?;
        assert_eq!(process.exit(), None, "it ended instead of pausing");
        after.starts_with('T').then_some(())
    });
}

/// Copies of settled commands are answered from the journal: no further call, no further order.
fn assert_all_known(rig: &Rig, commands: &[CreateReturnOutbound], before: usize, what: &str) {
    let calls = rig.erp.creates().received;
    rig.send(commands);
    let results = rig.results(before + commands.len());
    assert!(results.iter().all(|result| result.outcome == Outcome::Created), "{what}: {results:?}");
    let first = results.iter().filter(|result| !result.duplicate).count();
    assert_eq!(first, commands.len(), "{what}: {results:?}");
    assert_eq!(rig.erp.creates().received, calls, "{what}");
}

#[test]
fn an_instance_that_starts_amid_a_repartition_leaves_nothing_behind() {
    for step in ["looked", "closed", "read"] {
        let rig = Rig::with_partitions("amid", 2).commands("avro");
        rig.erp.take_anything();
        let mut commands = moving("CT", 5, 3);
        let connector = rig.start();
        rig.send(&commands);
        rig.results(3);
        rig.wait_committed(3);
        assert!(connector.terminate(Duration::from_secs(20)).success());

        let mut tool = repartition(&rig, 5, &format!("repartition.{step}=pause"));
        wait_stopped(&mut tool);
        let late = moving("LATE", 5, 1);
        rig.send(&late);
        let mut instance = rig.spawn();
        let settled = until("its end, or the result", PATIENCE, || {
            let settled = read_all(&rig.topics.results).len() == 4;
            (settled || !instance.running()).then_some(settled)
        });
        if settled {
            rig.wait_committed(4);
            assert!(instance.terminate(Duration::from_secs(20)).success());
        } else {
            assert!(instance.log().contains("topics repartition"), "{}", instance.log());
        }
        assert_eq!(settled, step == "looked", "{step}: the door is closed before the reading");
        tool.signal(rustix::process::Signal::CONT);
        assert!(tool.wait(PATIENCE).is_some_and(|status| status.success()), "{step}");

        let _connector = rig.start();
        rig.results(4);
        commands.extend(late);
        assert_all_known(&rig, &commands, 4, step);
        assert_eq!(rig.erp.order_count(), 4, "{step}");
    }
}

#[test]
fn a_repartition_killed_at_any_step_keeps_instances_out_until_it_is_run_again() {
    let rig = Rig::with_partitions("interrupted", 2).commands("avro");
    rig.erp.take_anything();
    let mut commands: Vec<CreateReturnOutbound> = Vec::new();
    let mut results = 0;
    for (partitions, step) in
        (3..).zip(["looked", "closed", "read", "written", "removed", "counted"])
    {
        let fresh = command(&format!("CT-{step}"), "c");
        commands.push(fresh.clone());
        let connector = rig.start();
        rig.send(&[fresh]);
        results += 1;
        rig.results(results);
        rig.wait_committed(i64::try_from(results).unwrap());
        assert!(connector.terminate(Duration::from_secs(20)).success());

        let mut tool = repartition(&rig, partitions, &format!("repartition.{step}=kill"));
        assert!(tool.wait(PATIENCE).is_some_and(|status| !status.success()), "{step}");
        if step != "looked" {
            let (code, text) = rig.said(&["run"]);
            assert!(code == Some(1) && text.contains("topics repartition"), "{step}: {text}");
        }
        let count = partitions.to_string();
        let (code, text) = rig.said(&["topics", "repartition", "--partitions", &count]);
        assert_eq!(code, Some(0), "{step}: {text}");
        let connector = rig.start();
        assert_all_known(&rig, &commands, results, step);
        results += commands.len();
        rig.wait_committed(i64::try_from(results).unwrap());
        assert_eq!(rig.erp.order_count(), u64::try_from(commands.len()).unwrap(), "{step}");
        assert!(connector.terminate(Duration::from_secs(20)).success());
    }
}

#[test]
fn a_forced_repartition_settles_open_intents_by_what_it_advises() {
    let rig = Rig::with_partitions("forced", 2).commands("avro");
    rig.erp.take_anything();
    let open = moving("OPEN", 5, 2);
    let connector = rig.start();
    rig.erp.only_faults("query:5xx=1,createOrder:applied_timeout=1");
    // One where it belongs, one that its owner forwards before it calls.
    rig.send(&open[..1]);
    let sender = Sender::new();
    let wrong = 1 - place(&open[1].return_no, 2);
    let key = Some(open[1].return_no.as_bytes());
    sender.send_to(&rig.topics.commands, wrong, key, Some(&avro(&open[1])));
    sender.flush();
    until("orders nobody was told of", PATIENCE, || (rig.erp.order_count() == 2).then_some(()));
    connector.kill();
    rig.erp.only_faults("");

    topics::grow(&rig.topics.commands, 5);
    topics::grow(&rig.topics.journal, 5);
    let (code, text) = rig.said(&["run"]);
    assert!(code == Some(1) && text.contains("topics repartition --partitions 5"), "{text}");
    let (code, text) = rig.said(&["topics", "repartition", "--partitions", "5"]);
    assert!(code == Some(0) && text.contains("2 commands are still open"), "{text}");
    assert!(text.contains("`dlq redrive` sends it to the right one"), "{text}");

    let _connector = rig.start();
    let of = |results: Vec<CommandResult>, one: &CreateReturnOutbound| -> Vec<Outcome> {
        let own = results.into_iter().filter(|result| result.return_no == one.return_no);
        own.map(|result| result.outcome).collect()
    };
    let results = rig.results(2);
    assert_eq!(of(results.clone(), &open[0]), [Outcome::Created], "it was forwarded");
    assert_eq!(of(results, &open[1]), [Outcome::Invalid], "it was forwarded before");
    let (code, text) = rig.said(&["dlq", "redrive"]);
    assert!(code == Some(0) && text.contains("1 sent again"), "{text}");
    assert_eq!(of(rig.results(3), &open[1]), [Outcome::Invalid, Outcome::Created]);
    assert_eq!((rig.erp.order_count(), rig.erp.creates().received), (2, 2));
}
