//! Rolling upgrade: a journal and commands as the released versions wrote them, kept byte for byte.

use std::{fs, path::PathBuf};

use wdt_connector::testing::schema::Outcome;

use crate::kit::{
    commands::command,
    records::Sender,
    rig::{PATIENCE, Rig},
    until,
};

fn kept(version: &str, name: &str) -> Vec<u8> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join(format!("tests/schemas/released/{version}/upgrade.{name}.single.bin"));
    fs::read(&file).unwrap_or_else(|fault| panic!("{}: {fault}", file.display()))
}

/// The outcome of one command and the open intent of another, both restored; copies of the commands
/// are recognised by fingerprint and marker as that version computed them.
#[test]
fn a_journal_of_the_previous_version_is_restored() {
    let rig = Rig::with_partitions("upgrade", 1).commands("avro");
    rig.erp.approve(["UP-1", "UP-2", "UP-3"].map(str::to_owned));
    let sender = Sender::new();
    for (key, name) in [(r#"["UP-1","settled"]"#, "outcome"), (r#"["UP-2","open"]"#, "intent")] {
        sender.send(&rig.topics.journal, Some(key.as_bytes()), Some(&kept("1", name)), &[]);
    }
    for (key, name) in [("UP-1", "command-settled"), ("UP-2", "command-open")] {
        sender.send(&rig.topics.commands, Some(key.as_bytes()), Some(&kept("1", name)), &[]);
    }
    sender.flush();
    let _connector = rig.start();
    // What is open is asked about before anything else happens with it; a later order proves that
    // lookups see the warehouse.
    until("a lookup", PATIENCE, || (rig.erp.queries() > 0).then_some(()));
    assert!(
        rig.erp.orders().iter().all(|order| order.return_no != "UP-2"),
        "called before it was asked about"
    );
    rig.send(&[command("UP-3", "herald")]);
    let results = rig.results(3);
    let of = |id: &str| {
        results
            .iter()
            .find(|result| result.command_id == id)
            .unwrap_or_else(|| panic!("no {id} in {results:?}"))
    };
    let settled = of("settled");
    assert_eq!(
        (settled.outcome, settled.duplicate, settled.outbound_no.as_deref(), settled.attempts),
        (Outcome::Created, true, Some("CK-KEPT-1"), 1),
        "{settled:?}"
    );
    assert_eq!(settled.warning.as_deref(), Some("创建成功，但推送仓库失败"), "{settled:?}");
    let open = of("open");
    assert_eq!(
        (open.outcome, open.duplicate, open.attempts),
        (Outcome::Created, false, 2),
        "{open:?}"
    );
    let mut returns: Vec<String> =
        rig.erp.orders().into_iter().map(|order| order.return_no).collect();
    returns.sort();
    assert_eq!(returns, ["UP-2", "UP-3"], "the settled command is answered from the journal");
}
