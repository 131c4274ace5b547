//! The tools' memory does not grow with the topic they work on.

use std::{process::Stdio, time::Duration};

use crate::{
    kit::{
        records::{Sender, read_all},
        rig::Rig,
    },
    parts::guard,
};

/// Of one record; the broker takes up to 1 MB.
const BYTES: usize = 300_000;
const RECORDS: usize = 600;
/// What a tool may need at most: its program and client, 16 MiB read ahead, 16 MiB read again and
/// 16 MiB on their way. The topic has 180 MB.
const MOST_KB: u64 = 120_000;

/// Runs a verb to its end; its highest resident memory in kB, as last seen.
fn peak(rig: &Rig, arguments: &[&str]) -> u64 {
    let mut command = rig.verb_command(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = guard::spawn(&mut command).expect("the program starts");
    let status = format!("/proc/{}/status", process.pid());
    let mut highest = 0;
    let ended = loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        let kb = line.split_whitespace().next().and_then(|number| number.parse().ok());
        highest = highest.max(kb.unwrap_or(0));
        if let Some(status) = process.wait(Duration::from_millis(20)) {
            break status;
        }
    };
    assert!(ended.success(), "{arguments:?}");
    println!("{arguments:?}: {highest} kB");
    highest
}

#[test]
fn a_large_topic_is_listed_redriven_and_replayed_in_bounded_memory() {
    let rig = Rig::with_partitions("large", 2).commands("json");
    let mut value = vec![b'x'; BYTES];
    for topic in [&rig.topics.commands_dlq, &rig.topics.commands] {
        let sender = Sender::new();
        for number in 0..RECORDS {
            value[..8].copy_from_slice(format!("{number:08}").as_bytes());
            sender.send(topic, Some(format!("R{number}").as_bytes()), Some(&value), &[]);
        }
        sender.flush();
    }
    drop(value);
    let mut highest = 0;
    for arguments in [
        &["commands", "replay", "--from-time", "1h"][..],
        &["dlq", "list"],
        &["dlq", "redrive", "--dry-run"],
        &["dlq", "redrive"],
    ] {
        highest = highest.max(peak(&rig, arguments));
    }
    assert!(highest < MOST_KB, "{highest} kB");
    // In the order of the first sending, each once.
    let copies: Vec<_> = read_all(&rig.topics.commands)
        .into_iter()
        .filter(|record| record.header("wdt-redrive-count").as_deref() == Some("1"))
        .collect();
    assert_eq!(copies.len(), RECORDS);
    for partition in [0, 1] {
        let numbers: Vec<&[u8]> = copies
            .iter()
            .filter(|copy| copy.partition == partition)
            .map(|copy| &copy.value.as_deref().unwrap()[..8])
            .collect();
        assert!(numbers.is_sorted(), "partition {partition}");
    }
}
