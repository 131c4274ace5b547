//! The repeat table: every effect of the command pipeline carried out twice in a row changes
//! nothing the second time.
//!
//! The pure ones have theirs in `src/sink/repeat.rs`; these are the ones that are Kafka
//! transactions, takeovers and questions to the ERP.

use std::{collections::BTreeMap, os::unix::process::ExitStatusExt as _, time::Duration};

use wdt_connector::testing::{
    crash::Point,
    schema::{CommandResult, CreateReturnOutbound, Outcome},
};

use crate::kit::{
    commands::{avro, command},
    records::{self, Sender, read_all},
    rig::{PATIENCE, Rig},
};

/// What is sent after something was repeated, so that everything before it has been looked at.
const HERALD: &str = "HERALD";

/// Everything the pipeline has an effect on, the heralds' own traces left out.
#[derive(Debug, PartialEq)]
struct World {
    /// Return and number.
    orders: Vec<(String, String)>,
    calls: u64,
    /// The last value of every key but those of takeovers.
    journal: BTreeMap<String, Option<Vec<u8>>>,
    /// Offset within its partition, key and value.
    results: Vec<(i32, i64, String, Option<Vec<u8>>)>,
    letters: Vec<(String, Option<Vec<u8>>)>,
    /// Records of the commands topic that are not covered by the committed offset.
    uncommitted: i64,
}

/// A rig with the records sent to it counted.
struct Stage {
    rig: Rig,
    sent: i64,
    heralds: u64,
}

impl Stage {
    fn new(what: &str) -> Self {
        let rig = Rig::with_partitions(what, 1).commands("avro");
        rig.erp.approve(["R-1", "R-2", HERALD].map(str::to_owned));
        Self { rig, sent: 0, heralds: 0 }
    }

    fn send(&mut self, key: &str, value: &[u8]) {
        let sender = Sender::new();
        sender.send(&self.rig.topics.commands, Some(key.as_bytes()), Some(value), &[]);
        sender.flush();
        self.sent += 1;
    }

    fn command(&mut self, one: &CreateReturnOutbound) {
        self.send(&one.return_no, &avro(one));
    }

    /// Runs the pipeline until it passes the point for the first time, and is killed there.
    fn run_until(&self, point: Point) {
        let mut doomed = self.rig.spawn_with(&[("FAILPOINTS", &format!("{}=kill", point.name()))]);
        let status = doomed
            .wait_end(PATIENCE)
            .unwrap_or_else(|| panic!("{} was never reached", point.name()));
        assert_eq!(status.signal(), Some(9), "{}: it ended with {status}", point.name());
    }

    /// Runs the pipeline until it has nothing left to do.
    fn run(&mut self) {
        let connector = self.rig.start();
        self.heralds += 1;
        self.command(&command(HERALD, &format!("herald-{}", self.heralds)));
        records::Reader::new(&self.rig.topics.results).until(
            "the herald's result",
            PATIENCE,
            |seen| {
                u64::try_from(seen.iter().filter(|record| record.key_text() == HERALD).count())
                    == Ok(self.heralds)
            },
        );
        assert!(connector.terminate(Duration::from_secs(30)).success());
    }

    fn world(&self) -> World {
        let rig = &self.rig;
        let mut journal = BTreeMap::new();
        for record in read_all(&rig.topics.journal) {
            journal.insert(record.key_text(), record.value);
        }
        let of_takeovers = ["[\"#barrier\"", "[\"#takeover\""];
        journal.retain(|key, _| {
            !of_takeovers.iter().any(|begin| key.starts_with(begin)) && !key.contains(HERALD)
        });
        let results =
            read_all(&rig.topics.results).into_iter().filter(|record| record.key_text() != HERALD);
        let letters = read_all(&rig.topics.commands_dlq).into_iter();
        let group = format!("{}.commands", rig.application_id);
        let committed: i64 =
            records::committed(&group, &rig.topics.commands).iter().map(|(_, offset)| offset).sum();
        let orders = rig.erp.orders().into_iter().filter(|order| order.return_no != HERALD);
        World {
            orders: orders.map(|order| (order.return_no, order.order_no)).collect(),
            calls: rig.erp.creates().received - self.heralds,
            journal,
            results: results
                .map(|record| (record.partition, record.offset, record.key_text(), record.value))
                .collect(),
            letters: letters.map(|record| (record.key_text(), record.value)).collect(),
            uncommitted: self.sent - committed,
        }
    }

    fn results(&self) -> Vec<CommandResult> {
        let records = read_all(&self.rig.topics.results);
        records
            .iter()
            .filter(|record| record.key_text() != HERALD)
            .map(|record| self.rig.result(record))
            .collect()
    }
}

/// How a record ends, and what it takes.
struct Row {
    name: &'static str,
    key: &'static str,
    value: Vec<u8>,
    faults: &'static str,
    outcome: Option<Outcome>,
    letter: bool,
}

fn rows() -> Vec<Row> {
    let row = |name, key, value, faults, outcome, letter| Row {
        name,
        key,
        value,
        faults,
        outcome,
        letter,
    };
    let invalid = CreateReturnOutbound { details: Vec::new(), ..command("R-1", "empty") };
    vec![
        row("an order", "R-1", avro(&command("R-1", "good")), "", Some(Outcome::Created), false),
        row("a copy", "R-1", avro(&command("R-1", "good")), "", Some(Outcome::Created), false),
        row(
            "a refusal",
            "R-unknown",
            avro(&command("R-unknown", "refused")),
            "",
            Some(Outcome::Rejected),
            false,
        ),
        row("an invalid command", "R-1", avro(&invalid), "", Some(Outcome::Invalid), true),
        row("bytes nobody can read", "R-1", b"\xff\xfe".to_vec(), "", None, true),
        row(
            "a command in doubt",
            "R-2",
            avro(&command("R-2", "doubtful")),
            "createOrder:strip_remark=1x,createOrder:applied_reset=1x",
            Some(Outcome::InDoubt),
            true,
        ),
    ]
}

/// The settlement's transaction is committed and its owner never learns of it: whoever comes next
/// settles nothing again, and sends nothing to the dead letters again.
#[test]
fn what_was_settled_unknowingly_is_not_settled_again() {
    let mut stage = Stage::new("resettle");
    for row in rows() {
        let before = stage.world();
        stage.rig.erp.only_faults(row.faults);
        stage.send(row.key, &row.value);
        stage.run_until(Point::OutcomeCommitted);
        stage.rig.erp.only_faults("");
        let once = stage.world();
        let new: Vec<Outcome> =
            stage.results()[before.results.len()..].iter().map(|result| result.outcome).collect();
        assert_eq!(new, Vec::from_iter(row.outcome), "{}", row.name);
        assert_eq!(
            once.letters.len() - before.letters.len(),
            usize::from(row.letter),
            "{}",
            row.name
        );
        assert_eq!(once.uncommitted, 0, "{}: its offset is part of the transaction", row.name);
        stage.run();
        assert_eq!(stage.world(), once, "{}: settled again", row.name);
    }
}

/// Takeovers and lookups leave no trace, however often they are repeated; what they are for is
/// settled once.
#[test]
fn take_overs_and_look_ups_repeated_change_nothing() {
    let mut stage = Stage::new("relook");
    stage.rig.erp.only_faults("createOrder:applied_reset=1x");
    stage.command(&command("R-1", "lost"));
    stage.run_until(Point::CallAnswered);
    let open = stage.world();
    assert_eq!(
        (open.orders.len(), open.calls, open.journal.len(), open.results.len()),
        (1, 1, 2, 0),
        "the count of partitions, an intent, and its order"
    );
    for point in
        [Point::TakeOverDone, Point::TakeOverDone, Point::LookUpAnswered, Point::LookUpAnswered]
    {
        stage.run_until(point);
        assert_eq!(stage.world(), open, "after {}", point.name());
    }
    stage.run();
    let settled = stage.world();
    let result = stage.results().remove(0);
    assert_eq!(
        (result.outcome, result.recovered, settled.results.len()),
        (Outcome::Created, true, 1),
        "{result:?}"
    );
    assert_eq!((&settled.orders, settled.calls, settled.uncommitted), (&open.orders, 1, 0));
    for _ in 0..2 {
        stage.run();
        let again = stage.world();
        assert_eq!(again, settled, "restored again");
    }
}
