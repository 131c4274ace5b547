//! What the ERP's answers to `createOrder` come to: refusals nobody lists, orders that were made
//! although the answer says otherwise, lookups that are blind.

use std::{collections::BTreeSet, time::Duration};

use rdkafka::{
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use serde_json::json;
use wdt_connector::testing::{
    clock::Timestamp,
    schema::{CommandResult, CreateReturnOutbound, Outcome},
};

use crate::kit::{
    commands::{WAREHOUSE, avro, command},
    connector::Connector,
    erp::Kind,
    records::{Reader, Sender, read_all},
    rig::{PATIENCE, Rig},
    until, wait,
};

fn approved(rig: &Rig, prefix: &str, count: usize) -> Vec<CreateReturnOutbound> {
    let all: Vec<_> =
        (0..count).map(|number| command(&format!("{prefix}-{number:03}"), "c")).collect();
    rig.erp.approve(all.iter().map(|one| one.return_no.clone()));
    all
}

/// A pipeline whose lookups have an order to be checked with.
fn with_known_order(rig: &Rig) -> Connector {
    let connector = rig.start();
    let known = approved(rig, "KNOWN", 1);
    assert_eq!(known[0].warehouse_no, WAREHOUSE);
    rig.send(&known);
    assert_eq!(rig.results(1)[0].outcome, Outcome::Created);
    connector
}

fn circuit(connector: &Connector) -> String {
    connector.status()["sections"]["commands"]["circuit"].to_string()
}

/// The newest result of a return.
fn result_of(results: &[CommandResult], command: &CreateReturnOutbound) -> CommandResult {
    let own = results.iter().rfind(|result| result.return_no == command.return_no);
    own.expect("a result").clone()
}

fn orders_of(rig: &Rig, command: &CreateReturnOutbound) -> usize {
    rig.erp.orders().iter().filter(|order| order.return_no == command.return_no).count()
}

/// Waits for the next whole second, the ERP's resolution; the last instant before it.
fn pass_second(after: Timestamp) -> String {
    let next = after.floor_second().plus(Duration::from_secs(1));
    until("the next second", PATIENCE, || (Timestamp::now() >= next).then_some(()));
    after.floor_second().to_beijing()
}

const NO_CARRIER: &str = "快递公司“MR001”未启用";

#[test]
fn an_unlisted_refusal_costs_two_calls_and_ends_rejected_with_its_text() {
    let rig = Rig::with_partitions("unlisted", 1).commands("avro");
    let connector = with_known_order(&rig);
    let refused = approved(&rig, "REFUSED", 1);
    let (calls, queries) = (rig.erp.creates().received, rig.erp.outbound_queries());
    rig.erp.only_faults(&format!("createOrder:refuse(100,{NO_CARRIER})=1"));
    rig.send(&refused);
    let result = result_of(&rig.results(2), &refused[0]);
    assert_eq!(
        (result.outcome, result.attempts, result.erp_code, result.erp_message.as_deref()),
        (Outcome::Rejected, 2, Some(100), Some(NO_CARRIER)),
        "{result:?}"
    );
    assert!(result.explanation.en().is_some() && result.explanation.zh().is_some());
    let (calls, queries) =
        (rig.erp.creates().received - calls, rig.erp.outbound_queries() - queries);
    println!("{calls} calls, {queries} queries");
    assert_eq!(calls, 2);
    assert!(queries <= 12, "{queries} queries");
    assert_eq!(circuit(&connector), "\"closed\"", "the ERP answered");
}

#[test]
fn an_unlisted_refusal_holds_nobody_up() {
    let rig = Rig::with_partitions("unlistedmany", 1).commands("avro");
    let connector = with_known_order(&rig);
    let (refused, good) = (approved(&rig, "REFUSED", 10), approved(&rig, "GOOD", 5));
    // More than the failures that open a circuit, fewer than the refusals that do.
    rig.erp.only_faults(&format!("createOrder:refuse(100,{NO_CARRIER})=10x"));
    rig.send(&refused);
    until("ten refusals", PATIENCE, || (rig.erp.creates().received == 11).then_some(()));
    rig.send(&good);
    let results = rig.results(1 + 15);
    for one in refused.iter().chain(&good) {
        let result = result_of(&results, one);
        assert_eq!((result.outcome, orders_of(&rig, one)), (Outcome::Created, 1), "{result:?}");
    }
    assert!(!connector.log().contains("circuit breaker opened"));
}

#[test]
fn a_text_that_the_operator_lists_is_rejected_at_once() {
    let mut rig = Rig::with_partitions("listed", 1).commands("avro");
    rig.config.set("erp.flagship", "rejected_texts", json!(["未启用"]));
    let _connector = with_known_order(&rig);
    let refused = approved(&rig, "REFUSED", 1);
    rig.erp.only_faults(&format!("createOrder:refuse(100,{NO_CARRIER})=1"));
    rig.send(&refused);
    let result = result_of(&rig.results(2), &refused[0]);
    assert_eq!(
        (result.outcome, result.attempts, result.erp_message.as_deref()),
        (Outcome::Rejected, 1, Some(NO_CARRIER))
    );
    assert_eq!(rig.erp.creates().received, 2);
}

#[test]
fn an_unlisted_inner_status_ends_in_doubt_after_two_calls() {
    let rig = Rig::with_partitions("inner", 1).commands("avro");
    let connector = with_known_order(&rig);
    let refused = approved(&rig, "REFUSED", 1);
    rig.erp.only_faults("createOrder:inner_refuse(7,单据已被他人锁定)=1");
    rig.send(&refused);
    let result = result_of(&rig.results(2), &refused[0]);
    assert_eq!(
        (result.outcome, result.attempts, result.erp_code, result.erp_message.as_deref()),
        (Outcome::InDoubt, 2, Some(7), Some("单据已被他人锁定"))
    );
    assert_eq!((rig.erp.creates().received, circuit(&connector)), (3, "\"closed\"".into()));
}

#[test]
fn an_order_that_was_made_and_not_approved_is_created_with_the_erps_warning() {
    let rig = Rig::with_partitions("checkfail", 1).commands("avro");
    let _connector = with_known_order(&rig);
    let made = approved(&rig, "MADE", 3);
    for (one, faults) in made.iter().zip([
        "createOrder:created_check_fail=1x",
        "createOrder:created(0,创建成功)=1x",
        "createOrder:applied_refuse(100,创建成功，但物流公司不存在)=1x",
    ]) {
        rig.erp.only_faults(faults);
        let before = rig.erp.creates().received;
        rig.send(std::slice::from_ref(one));
        until("its result", PATIENCE, || {
            read_all(&rig.topics.results)
                .iter()
                .any(|record| record.key_text() == one.return_no)
                .then_some(())
        });
        let result = result_of(&rig.results(1), one);
        assert_eq!(
            (result.outcome, result.recovered, result.attempts),
            (Outcome::Created, true, 1),
            "{result:?}"
        );
        assert!(result.outbound_no.is_some());
        let (warning, message) = (result.warning.clone(), result.erp_message.clone());
        assert!(warning.is_some() && warning == message, "{result:?}");
        assert_eq!((rig.erp.creates().received - before, orders_of(&rig, one)), (1, 1));
    }
}

#[test]
fn an_order_that_was_made_where_no_lookup_shows_it_is_in_doubt_also_after_a_kill() {
    let rig = Rig::with_partitions("madeelsewhere", 1).commands("avro");
    let connector = with_known_order(&rig);
    let made = approved(&rig, "MADE", 1);
    // Everything made from now on is hidden: as a document of another kind would be.
    let from = pass_second(Timestamp::now());
    rig.erp.only_faults(&format!("createOrder:created_check_fail=1,outbounds:stale({from})=1"));
    rig.send(&made);
    until("the answer in the journal", PATIENCE, || {
        read_all(&rig.topics.journal)
            .iter()
            .filter(|record| record.value.is_some())
            .map(|record| rig.journal(record))
            .any(|entry| entry.return_no == made[0].return_no && entry.warning.is_some())
            .then_some(())
    });
    connector.kill();
    let _connector = rig.start();
    let result = result_of(&rig.results(2), &made[0]);
    assert_eq!(
        (result.outcome, result.erp_code, result.attempts),
        (Outcome::InDoubt, Some(20), 1),
        "{result:?}"
    );
    assert!(result.erp_message.is_some_and(|message| message.contains("check_fail")));
    assert_eq!((rig.erp.creates().received, orders_of(&rig, &made[0])), (2, 1), "never again");
}

#[test]
fn a_command_that_the_database_refuses_ends_with_the_databases_words() {
    let rig = Rig::with_partitions("database", 1).commands("avro");
    let connector = with_known_order(&rig);
    let refused = approved(&rig, "REFUSED", 1);
    rig.erp.only_faults("createOrder:refuse(4,数据库错误)=1");
    rig.send(&refused);
    let result = result_of(&rig.results(2), &refused[0]);
    assert_eq!(
        (result.outcome, result.attempts, result.erp_code, result.erp_message.as_deref()),
        (Outcome::InDoubt, 5, Some(4), Some("数据库错误")),
        "{result:?}"
    );
    assert!(!connector.log().contains("circuit breaker opened"), "it alone opens nothing");
}

#[test]
fn refusals_of_many_commands_in_a_row_pause_the_pipeline_and_count_for_none() {
    let rig = Rig::with_partitions("upgrading", 2).commands("avro");
    let connector = with_known_order(&rig);
    let refused = approved(&rig, "REFUSED", 30);
    rig.erp.only_faults("createOrder:refuse(100,系统升级中)=1");
    rig.send(&refused);
    until("the pause that names the text", PATIENCE, || {
        let commands = &connector.status()["sections"]["commands"];
        let named =
            commands["circuit_reason"].as_str().is_some_and(|said| said.contains("系统升级中"));
        (named && commands["circuit"] != "closed").then_some(())
    });
    let calls = rig.erp.creates().received;
    until("single calls", PATIENCE, || (rig.erp.creates().received >= calls + 3).then_some(()));
    rig.erp.only_faults("");
    let results = rig.results(1 + refused.len());
    for one in &refused {
        let result = result_of(&results, one);
        assert_eq!((result.outcome, orders_of(&rig, one)), (Outcome::Created, 1), "{result:?}");
    }
}

/// An outage, and then maintenance: the refusals come while the circuit is half open.
#[test]
fn refusals_after_an_outage_pause_the_pipeline_as_well() {
    let rig = Rig::with_partitions("outageupgrade", 1).commands("avro");
    let connector = with_known_order(&rig);
    let all = approved(&rig, "CMD", 30);
    rig.erp.only_faults("createOrder:5xx=1");
    rig.send(&all);
    until("an open circuit", PATIENCE, || (circuit(&connector) != "\"closed\"").then_some(()));
    rig.erp.only_faults("createOrder:refuse(100,系统升级中)=1");
    until("the pause that names the text", PATIENCE, || {
        let commands = &connector.status()["sections"]["commands"];
        let reason = commands["circuit_reason"].as_str()?;
        reason.contains("系统升级中").then_some(())
    });
    rig.erp.only_faults("");
    let results = rig.results(1 + all.len());
    assert!(results.iter().all(|result| result.outcome == Outcome::Created), "{results:?}");
}

/// The second refusal of a command is one of many in a row, found while it waits for its check.
#[test]
fn refusals_of_an_account_do_not_count_for_who_waits_for_a_check() {
    let rig = Rig::with_partitions("refusedwaiting", 1).commands("avro");
    let connector = with_known_order(&rig);
    let (first, others) = (approved(&rig, "FIRST", 1), approved(&rig, "OTHER", 25));
    rig.erp.only_faults("createOrder:refuse(100,系统升级中)=1");
    rig.send(&first);
    until("the second refusal", PATIENCE, || (rig.erp.creates().received == 3).then_some(()));
    rig.erp.only_faults(&format!(
        "createOrder:refuse(100,系统升级中)=1,outbounds:hide_warehouse({WAREHOUSE})=1"
    ));
    until("the reason in /status", PATIENCE, || {
        let waits = &connector.status()["sections"]["commands"]["unverified_commands"][0];
        waits["explanation"].as_str().is_some_and(|why| why.contains("permission")).then_some(())
    });
    rig.send(&others);
    connector.wait_log("circuit breaker opened", PATIENCE);
    rig.erp.only_faults("");
    let results = rig.results(1 + 26);
    assert!(results.iter().all(|result| result.outcome == Outcome::Created), "{results:?}");
}

/// A text of the table behind a success of the outer layer, of an order that was made.
#[test]
fn a_listed_text_of_the_inner_layer_repeats_no_call_unasked() {
    for (name, text) in [("innerright", "权限不足"), ("innerquota", "超过每分钟最大调用频率限制")]
    {
        let rig = Rig::with_partitions(name, 1).commands("avro");
        let _connector = with_known_order(&rig);
        let made = approved(&rig, "MADE", 1);
        rig.erp.only_faults(&format!("createOrder:created(21,单据已保存，审核失败：{text})=4x"));
        rig.send(&made);
        let result = result_of(&rig.results(2), &made[0]);
        assert_eq!(
            (result.outcome, result.recovered, orders_of(&rig, &made[0])),
            (Outcome::Created, true, 1),
            "{result:?}"
        );
    }
}

#[test]
fn a_byte_order_mark_before_every_answer_changes_nothing() {
    let rig = Rig::with_partitions("mark", 1).commands("avro");
    rig.erp.only_faults("all:bom=1");
    let _connector = with_known_order(&rig);
    let lost = approved(&rig, "LOST", 1);
    rig.erp.only_faults("all:bom=1,createOrder:applied_timeout=1x");
    rig.send(&lost);
    let result = result_of(&rig.results(2), &lost[0]);
    assert_eq!((result.outcome, result.recovered), (Outcome::Created, true), "{result:?}");
}

/// Whichever query is filtered, and since when: no second order.
#[test]
fn a_permission_that_was_narrowed_makes_no_second_order() {
    for (name, filter) in [
        ("both", format!("hide_warehouse({WAREHOUSE})")),
        ("listed", format!("hide_warehouse({WAREHOUSE},with_status)")),
        ("unlisted", format!("hide_warehouse({WAREHOUSE},without_status)")),
    ] {
        let mut rig = Rig::with_partitions(&format!("narrowed{name}"), 1).commands("avro");
        rig.config.set("commands", "lookup_timeout", "8s");
        let _connector = with_known_order(&rig);
        let (seen, lost) = (approved(&rig, "SEEN", 1), approved(&rig, "LOST", 1));
        // Lookups have shown an order of the warehouse.
        rig.erp.only_faults("createOrder:applied_timeout=1x");
        rig.send(&seen);
        let seen = result_of(&rig.results(2), &seen[0]);
        assert!(seen.recovered, "{name}");
        let from = pass_second(seen.settled_at);
        // The answer is lost, and nothing shows the order from then on.
        rig.erp.only_faults(&format!(
            "createOrder:applied_timeout=1x,outbounds:{filter}=1,outbounds:stale({from})=1"
        ));
        rig.send(&lost);
        let result = result_of(&rig.results(3), &lost[0]);
        assert_eq!((rig.erp.creates().received, orders_of(&rig, &lost[0])), (3, 1), "{name}");
        assert_eq!(result.outcome, Outcome::InDoubt, "{name}: {result:?}");
        let reason = result.explanation.en().unwrap_or_default();
        assert!(reason.contains("of return") && reason.contains("permission"), "{name}: {reason}");
    }
}

/// The known order has moved: that it is shown says nothing about its former warehouse.
#[test]
fn an_order_of_another_warehouse_shows_nothing() {
    let mut rig = Rig::with_partitions("moved", 1).commands("avro");
    rig.config.set("commands", "lookup_timeout", "8s");
    let _connector = with_known_order(&rig);
    let known = rig.results(1)[0].clone();
    let number = known.outbound_no.clone().expect("an order");
    let elsewhere = json!({"set": {"warehouse_no": "ELSEWHERE"}});
    rig.erp.modify(Kind::FlagshipOutbounds, &number, &elsewhere);
    let lost = approved(&rig, "LOST", 1);
    let from = pass_second(known.settled_at);
    rig.erp.only_faults(&format!("createOrder:applied_timeout=1x,outbounds:stale({from})=1"));
    rig.send(&lost);
    let result = result_of(&rig.results(2), &lost[0]);
    assert_eq!((result.outcome, orders_of(&rig, &lost[0])), (Outcome::InDoubt, 1), "{result:?}");
}

/// Orders of strangers, and remarks of all kinds.
#[test]
fn an_order_is_found_among_many_of_others() {
    let rig = Rig::with_partitions("busy", 1).commands("avro");
    let connector = rig.start();
    let one = approved(&rig, "ONE", 1);
    let ago = |seconds: u64| Timestamp::now().minus(Duration::from_secs(seconds)).to_beijing();
    rig.erp.made(
        Kind::FlagshipOutbounds,
        &json!({"count": 1500, "warehouse_no": "OTHER", "from": ago(7200), "to": ago(3700)}),
    );
    let ours = |return_no: &str| {
        let seeding = json!({
            "return_no": return_no, "count": 1, "warehouse_no": WAREHOUSE,
            "from": ago(120), "to": ago(60),
        });
        rig.erp.made(Kind::FlagshipOutbounds, &seeding).remove(0)
    };
    for (return_no, remark) in
        [("BY-HAND", "外箱破损 6"), ("EMOJI", "📦📦📦 x"), ("OF-US", "#ABCDEFGHIJKLM by hand")]
    {
        let number = ours(return_no);
        rig.erp.modify(Kind::FlagshipOutbounds, &number, &json!({"remark": remark}));
    }
    let queries = rig.erp.outbound_queries();
    rig.erp.only_faults("createOrder:reset=1x");
    rig.send(&one);
    let result = result_of(&rig.results(1), &one[0]);
    assert_eq!((result.outcome, result.attempts), (Outcome::Created, 2), "{result:?}");
    let queries = rig.erp.outbound_queries() - queries;
    println!("{queries} queries");
    assert!(queries <= 2 + 2 + 1 + 2, "{queries} queries");
    drop(connector);
}

#[test]
fn where_no_order_is_known_one_is_looked_for() {
    let rig = Rig::with_partitions("sought", 1).commands("avro");
    let connector = rig.start();
    let refused = approved(&rig, "REFUSED", 1);
    // Of another application: this one has never seen it.
    let numbers = rig.erp.made(
        Kind::FlagshipOutbounds,
        &json!({"return_no": "OTHER", "count": 1, "warehouse_no": WAREHOUSE}),
    );
    rig.erp.modify(
        Kind::FlagshipOutbounds,
        &numbers[0],
        &json!({"remark": "#ABCDEFGHIJKLM by hand"}),
    );
    let queries = rig.erp.outbound_queries();
    rig.erp.only_faults("createOrder:reset=1x");
    rig.send(&refused);
    let result = result_of(&rig.results(1), &refused[0]);
    assert_eq!((result.outcome, result.attempts), (Outcome::Created, 2), "{result:?}");
    // The lookup at once and the deciding one, the order in up to three periods, and the check.
    let queries = rig.erp.outbound_queries() - queries;
    println!("{queries} queries");
    assert!(queries <= 2 + 2 + 3 + 2, "{queries} queries");
    drop(connector);
}

/// The unmarked order of a person may be the command's, also where no intent tells since when.
#[test]
fn an_old_record_with_an_unmarked_order_since_then_is_in_doubt() {
    let rig = Rig::with_partitions("oldsuspect", 1).commands("avro");
    let connector = with_known_order(&rig);
    let old = approved(&rig, "OLD", 1);
    rig.erp.made(
        Kind::FlagshipOutbounds,
        &json!({"return_no": old[0].return_no, "count": 1, "warehouse_no": WAREHOUSE}),
    );
    let sent = Timestamp::now().minus(Duration::from_secs(200 * 24 * 3600));
    Sender::new().send_at(
        &rig.topics.commands,
        0,
        Some(old[0].return_no.as_bytes()),
        Some(&avro(&old[0])),
        sent,
    );
    let result = result_of(&rig.results(2), &old[0]);
    assert_eq!((result.outcome, result.attempts), (Outcome::InDoubt, 0), "{result:?}");
    assert_eq!((result.candidates.len(), rig.erp.creates().received), (1, 1));
    drop(connector);
}

/// Seconds taken for milliseconds: a record of 1970 is of unknown time.
#[test]
fn a_record_without_a_credible_time_is_called_where_nothing_was_forgotten() {
    let rig = Rig::with_partitions("untimed", 1).commands("avro");
    let connector = rig.start();
    let commands = approved(&rig, "UNTIMED", 2);
    for (one, at) in commands.iter().zip([Timestamp(Timestamp::now().0 / 1000), Timestamp(1)]) {
        let key = Some(one.return_no.as_bytes());
        Sender::new().send_at(&rig.topics.commands, 0, key, Some(&avro(one)), at);
    }
    for result in rig.results(2) {
        assert_eq!((result.outcome, result.attempts), (Outcome::Created, 1), "{result:?}");
    }
    assert_eq!(rig.erp.outbound_queries(), 0, "nothing is looked up first");
    drop(connector);
}

/// Records of 1970 whose outcomes are forgotten, and whose offsets come back.
fn untimed_and_forgotten(name: &str, lose_offsets: impl Fn(&Rig)) {
    let mut rig = Rig::with_partitions(name, 1).commands("avro");
    let commands = approved(&rig, "UNTIMED", 3);
    let connector = rig.start();
    for one in &commands {
        let (key, at) = (Some(one.return_no.as_bytes()), Timestamp(1_700_000_000));
        Sender::new().send_at(&rig.topics.commands, 0, key, Some(&avro(one)), at);
    }
    rig.results(3);
    rig.wait_committed(3);
    connector.kill();
    rig.config.set("commands", "dedup_window", "1s");
    let connector = rig.start();
    // Its answer tells the ERP's clock, without which nothing is forgotten.
    rig.send(&approved(&rig, "CLOCK", 1));
    Reader::new(&rig.topics.journal).until("three tombstones", PATIENCE, |seen| {
        let gone = seen.iter().filter(|record| record.value.is_none());
        gone.map(|record| record.key.clone()).collect::<BTreeSet<_>>().len() >= 3
    });
    assert!(connector.terminate(PATIENCE).success());
    assert_eq!(rig.erp.order_count(), 4);
    lose_offsets(&rig);
    let _connector = rig.start();
    let results = rig.results(7);
    assert_eq!(rig.erp.order_count(), 4, "nothing is created twice: {results:?}");
}

#[test]
fn records_of_unknown_time_are_looked_for_after_their_offsets_were_reset() {
    untimed_and_forgotten("untimedreset", |rig| {
        rig.reset_offset(0, 0);
    });
}

#[test]
fn records_of_unknown_time_are_looked_for_by_every_owner_after_their_offsets_were_lost() {
    untimed_and_forgotten("untimedlost", |rig| {
        let group = format!("{}.commands", rig.application_id);
        let admin: AdminClient<DefaultClientContext> = rig.broker.create().unwrap();
        until("the end of the group", PATIENCE, || {
            let deleted = wait(admin.delete_groups(&[&group], &AdminOptions::new())).unwrap();
            deleted.into_iter().all(|one| one.is_ok()).then_some(())
        });
        // The first owner commits an offset and dies before it has settled anything.
        rig.erp.only_faults("query:5xx=1");
        let connector = rig.start();
        connector.wait_log("lookup failed", PATIENCE);
        connector.kill();
        rig.erp.only_faults("");
    });
}
