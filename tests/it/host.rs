//! A host that fails: no disk, no memory, no descriptors, no names, a suspended machine. A clear
//! sentence, and nothing lost. (Clocks that are set: `clocks`.)

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    process::{Command, ExitStatus},
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::json;

use crate::{
    kit::{
        commands::command,
        connector::{self, Connector, PROGRAM},
        erp::Kind,
        promises,
        records::{Reader, Sender, read_all},
        rig::{PATIENCE, Rig},
        until,
    },
    parts::{cgroup::MemoryGroup, say},
};

const END: Duration = Duration::from_secs(60);

fn commands(from: usize, to: usize) -> Vec<wdt_connector::testing::schema::CreateReturnOutbound> {
    (from..to).map(|number| command(&format!("CT-{number}"), "c")).collect()
}

/// `run` under a shell that has first set a limit (`ulimit -f 1`).
fn limited(rig: &Rig, limit: &str) -> Connector {
    let (file, port) = rig.write_config();
    // Sockets that librdkafka opened in the test's process are inherited: as many as other tests
    // hold at this moment.
    let close =
        "for fd in /proc/$$/fd/*; do fd=${fd##*/}; ((fd < 3)) || eval \"exec $fd>&-\"; done";
    let mut shell = Command::new("bash");
    shell
        .arg("-c")
        .arg(format!("{close}; {limit}; exec \"$0\" \"$@\""))
        .arg(PROGRAM)
        .arg("--config")
        .arg(file)
        .arg("run");
    Connector::spawn_command(shell, port, &rig.path("connector.log"))
}

/// Everything sent has one order and one result, whatever happened to whom.
fn nothing_lost(rig: &Rig, count: usize) {
    let results = rig.results(count);
    let mut returns: Vec<_> = results.iter().map(|result| result.return_no.clone()).collect();
    returns.sort();
    returns.dedup();
    assert_eq!((results.len(), returns.len()), (count, count), "one result each");
    assert_eq!(rig.erp.orders().len(), count, "one order each");
}

/// A file cannot grow beyond a limit: what a full disk looks like to the cache, from the start or
/// in the middle.
#[test]
fn a_full_disk_ends_with_a_sentence_and_nothing_is_lost() {
    let rig = Rig::new("diskfull").commands("avro");
    rig.erp.take_anything();
    rig.send(&commands(0, COMMANDS));
    for blocks in ["1", "300"] {
        let (file, _) = rig.write_config();
        let mut shell = Command::new("sh");
        // The signal that comes with the limit is ignored: a write then fails as on a full disk.
        shell
            .arg("-c")
            .arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" --config \"$1\" run"));
        let output = connector::finish(shell.arg(PROGRAM).arg(file), b"", PATIENCE);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = said.lines().last().unwrap_or_default();
        assert!(
            !output.status.success() && last.contains("cache_dir") && last.contains("make room"),
            "{blocks}: {last}"
        );
        assert!(!said.contains("panicked"), "{said}");
    }
    let _connector = rig.start();
    nothing_lost(&rig, COMMANDS);
}

/// More than 300 blocks of cache take.
const COMMANDS: usize = 2000;

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let mut rig = Rig::new("readonly").commands("avro");
    // Even root cannot make a folder there.
    rig.config.set("", "cache_dir", "/proc/no-cache-here");
    let output = rig.verb(&["run"], b"");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success()
            && said.contains("/proc/no-cache-here")
            && said.contains("cache_dir"),
        "{said}"
    );
}

/// How a program gets a mount of its own, if this machine lets it: as root, or as somebody who is
/// root for himself.
fn own_mounts() -> Option<&'static [&'static str]> {
    const WAYS: [&[&str]; 2] = [&["--mount"], &["--map-root-user", "--mount"]];
    WAYS.into_iter().find(|way| {
        Command::new("unshare")
            .args(*way)
            .arg("true")
            .output()
            .is_ok_and(|output| output.status.success())
    })
}

#[test]
fn a_cache_on_a_read_only_file_system_is_named() {
    let mut rig = Rig::new("mount").commands("avro").purchase_returns();
    let folder = rig.path("read-only");
    fs::create_dir(&folder).unwrap();
    let (folder, reason) = match own_mounts() {
        Some(_) => (folder.display().to_string(), "Read-only file system"),
        None => {
            say("this machine makes no mounts: /sys stands for a read-only file system");
            ("/sys/no-cache-here".to_owned(), "cache_dir")
        }
    };
    rig.config.set("", "cache_dir", folder.clone());
    for verb in [
        &["run"][..],
        &[
            "verify",
            "--feed",
            "purchase_returns",
            "--from",
            "2026-01-01T00:00:00Z",
            "--to",
            "2026-01-02T00:00:00Z",
        ],
    ] {
        let output = match own_mounts() {
            Some(way) => {
                let (file, _) = rig.write_config();
                let script = "mount -t tmpfs -o ro none \"$1\" && shift && exec \"$@\"";
                let mut shell = Command::new("unshare");
                shell
                    .args(way)
                    .args(["sh", "-c", script, "sh", &folder, PROGRAM, "--config"])
                    .arg(file)
                    .args(verb);
                connector::finish(&mut shell, b"", PATIENCE)
            }
            None => rig.verb(verb, b""),
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = said.lines().last().unwrap_or_default();
        assert_eq!(output.status.code(), Some(1), "{verb:?}: {said}");
        assert!(
            [&folder, "cache_dir", reason].iter().all(|part| last.contains(*part)),
            "{verb:?}: {last}"
        );
        assert!(!said.contains("panicked"), "{said}");
    }
}

/// With calls on the wire memory is taken from it and work is put on top: it ends, and the next one
/// finishes what it left.
fn ends_in_the_middle_and_nothing_is_lost(
    rig: &Rig,
    mut connector: Connector,
    starve: impl FnOnce(&Connector),
) -> ExitStatus {
    rig.erp.take_anything();
    rig.erp.latency(Duration::from_millis(300));
    let all = commands(0, 400);
    rig.send(&all[..200]);
    until("calls on the wire", PATIENCE, || (rig.erp.order_count() >= 20).then_some(()));
    starve(&connector);
    // Larger than what is left to reuse.
    let sender = Sender::new();
    for number in 0..LETTERS {
        sender.send(
            &rig.topics.commands,
            Some(format!("CT-LARGE-{number}").as_bytes()),
            Some(&vec![b'x'; 900_000]),
            &[],
        );
    }
    sender.flush();
    rig.send(&all[200..]);
    let status = connector.wait_end(PATIENCE).expect("it ends rather than goes on without memory");
    assert!(!status.success(), "{status}");
    say(&format!(
        "without memory it ended with {status}, {} of {} orders made",
        rig.erp.order_count(),
        all.len()
    ));
    assert!(rig.erp.order_count() < all.len() as u64, "it died in the middle");
    let _connector = rig.start();
    nothing_lost(rig, all.len());
    Reader::new(&rig.topics.commands_dlq).at_least(LETTERS, PATIENCE);
    assert_eq!(read_all(&rig.topics.commands_dlq).len(), LETTERS, "one dead letter each");
    status
}

/// From some moment on every allocation that needs more memory from the system fails.
#[test]
fn a_process_without_memory_ends_and_nothing_is_lost_or_done_twice() {
    let rig = Rig::new("memory").commands("avro");
    ends_in_the_middle_and_nothing_is_lost(&rig, rig.start(), |connector| {
        let pid = Pid::from_raw(i32::try_from(connector.pid()).unwrap());
        // Not the address space as well: beyond that limit Linux lets memory that is reserved
        // already grow.
        prlimit(pid, Resource::Data, Rlimit { current: Some(1), maximum: None }).unwrap();
    });
}

/// A container's memory limit: the kernel kills the process where it stands, at an allocation that
/// succeeded.
#[test]
fn a_process_that_the_kernel_kills_for_its_memory_loses_nothing_and_does_nothing_twice() {
    let rig = Rig::new("oomkill").commands("avro");
    let Some(group) = MemoryGroup::new(&rig.application_id) else {
        say(
            "this machine makes no memory cgroup (that takes root): SIGKILL at the same moment stands for the OOM killer",
        );
        ends_in_the_middle_and_nothing_is_lost(&rig, rig.start(), |connector| {
            kill_process(
                Pid::from_raw(i32::try_from(connector.pid()).unwrap()).unwrap(),
                Signal::KILL,
            )
            .unwrap();
        });
        return;
    };
    let connector = limited(&rig, &format!("echo $$ > '{}'", group.door().display())).ready();
    assert!(group.holds(connector.pid()), "it runs in the cgroup");
    let status = ends_in_the_middle_and_nothing_is_lost(&rig, connector, |_| {
        // What the kernel holds for it counts as well, and how much that is nobody says.
        let held = group.held();
        let bound = (1..)
            .map(|times| held + times * ROOM)
            .find(|bytes| group.limit(*bytes).is_ok())
            .unwrap();
        say(&format!(
            "{} MB are allocated, {} KB more may be used",
            held >> 20,
            bound.saturating_sub(group.used()) >> 10
        ));
    });
    assert_eq!((status.signal(), group.killed()), (Some(9), 1), "by the kernel");
}

/// What the process may still allocate: less than one record of its next fetch.
const ROOM: u64 = 256 * 1024;

/// Records that cannot be decoded.
const LETTERS: usize = 40;

/// A suspended machine: its feeds have moved on to another instance by the time it wakes up.
#[test]
fn feeds_frozen_beyond_their_session_add_nothing_when_they_come_back() {
    let mut rig = Rig::new("suspended").purchase_returns().return_outbounds("flagship");
    let kinds = [
        (Kind::Returns, rig.topics.purchase_returns.clone()),
        (Kind::FlagshipOutbounds, rig.topics.return_outbounds.clone()),
    ];
    let mut readers: Vec<Reader> = Vec::new();
    for (kind, topic) in &kinds {
        rig.erp.seed(*kind, 60);
        readers.push(Reader::new(topic));
    }
    let mut frozen = rig.start();
    rig.erp.adjust(&json!({ "modifications_per_second": 20 }));
    let mut more = |count: usize| {
        for reader in &mut readers {
            let before = reader.seen.len();
            reader.at_least(before + count, PATIENCE);
        }
    };
    more(80);
    frozen.freeze();
    rig.config.set("kafka", "instance_ordinal", 1);
    let second = rig.spawn_logged(&[], "second.log").ready();
    until("the feeds' next owner", PATIENCE, || {
        let status = second.status();
        let live = |feed| {
            status
                .pointer(&format!("/sections/feeds/{feed}/state"))
                .is_some_and(|state| state == "live")
        };
        (live("purchase_returns") && live("return_outbounds")).then_some(())
    });
    more(20);
    frozen.thaw();
    more(40);
    // The one that woke up is a member again: it takes over from the other.
    assert_eq!(second.terminate(END).code(), Some(0));
    more(40);
    rig.erp.adjust(&json!({ "modifications_per_second": 0 }));
    for ((kind, _), reader) in kinds.iter().zip(&mut readers) {
        let last = rig.erp.add_one(*kind);
        reader.until("the last record", PATIENCE, |seen| {
            seen.iter().any(|record| record.key_text() == last)
        });
        // Records that rested as late as that one come in the same window or the next.
        until("every record", PATIENCE, || {
            reader.finish();
            let last = |number: &str| {
                reader
                    .seen
                    .iter()
                    .rfind(|record| record.key_text() == number)
                    .map(|record| rig.json(record))
            };
            let number = if *kind == Kind::Returns { "return_no" } else { "order_no" };
            let held = promises::all(&rig.erp, *kind);
            let same = |held: &serde_json::Value| {
                last(held[number].as_str().unwrap())
                    .is_some_and(|event| promises::difference(&event["after"], held, "").is_none())
            };
            held.iter().all(same).then_some(())
        });
        promises::judge(&rig, *kind, reader);
    }
    assert!(frozen.running() && !frozen.log().contains("panicked"), "{}", frozen.log());
}

#[test]
fn too_few_descriptors_are_survived_and_nothing_is_lost() {
    let rig = Rig::new("descriptors").commands("avro");
    rig.erp.take_anything();
    rig.erp.latency(Duration::from_millis(50));
    // What the clients, the cache and the runtime hold once a command was called, and little more:
    // most calls find no descriptor.
    let all = commands(0, 200);
    let free = limited(&rig, "true").ready();
    rig.send(&all[..1]);
    rig.wait_committed(1);
    let held = std::fs::read_dir(format!("/proc/{}/fd", free.pid())).unwrap().count();
    assert_eq!(free.terminate(END).code(), Some(0));
    let few = limited(&rig, &format!("ulimit -n {}", held + 12)).ready();
    rig.send(&all[1..]);
    rig.wait_committed(200);
    assert!(!few.log().contains("panicked"), "{}", few.log());
    assert_eq!(few.terminate(END).code(), Some(0));
    nothing_lost(&rig, 200);
}

#[test]
fn a_name_that_is_not_resolved_is_said_and_waited_for() {
    let mut rig = Rig::new("names").commands("avro");
    rig.erp.take_anything();
    let url = rig.erp.flagship_url().to_owned();
    rig.config.set("erp.flagship", "url", "http://no-such-host.invalid/openapi");
    rig.send(&commands(0, 5));
    let output = rig.verb(&["check"], b"");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let row =
        said.lines().find(|line| line.starts_with("✗ erp")).unwrap_or_else(|| panic!("{said}"));
    assert!(row.contains("dns error") || row.contains("lookup"), "{row}");
    let lost = rig.start();
    lost.wait_log("circuit breaker opened", PATIENCE);
    assert_eq!(lost.terminate(END).code(), Some(0));
    assert!(read_all(&rig.topics.results).is_empty(), "an outage decides nothing");
    rig.config.set("erp.flagship", "url", url);
    let _connector = rig.start();
    nothing_lost(&rig, 5);
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let rig = Rig::new("pipe").commands("avro");
    let (file, _) = rig.write_config();
    for verb in ["check --acls", "--help", "check", "tail --results --from-beginning"] {
        let line = format!(
            "\"{PROGRAM}\" --config \"{}\" {verb} | true; echo \"${{PIPESTATUS[0]}}\"",
            file.display()
        );
        let output = connector::finish(Command::new("bash").args(["-c", &line]), b"", PATIENCE);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("panicked") && !said.contains("Broken pipe"), "{verb}: {said}");
        let code = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(code == "0" || code == "1", "{verb} ended with {code}");
    }
}
