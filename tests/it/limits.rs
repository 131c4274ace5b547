//! More than anybody needs: memory stays below its bound, and what is not to blame goes on.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use wdt_connector::testing::schema::Outcome;

use crate::{
    kit::{
        Dice,
        commands::{command, json_bytes},
        connector::Connector,
        journal,
        records::{Sender, read_all},
        rig::{PATIENCE, Rig},
        topics, until,
    },
    parts::broker,
};

/// The stated bound on a process, in kilobytes. The tests run a build without optimisation, of
/// which 80 MB are the program itself.
const MOST_MEMORY: u64 = 256 * 1024;

pub fn assert_small(connector: &Connector) {
    let peak = connector.memory("VmHWM");
    crate::parts::say(&format!("peak memory: {} MB", peak / 1024));
    assert!(peak < MOST_MEMORY, "{} MB", peak / 1024);
}

/// A gigabyte of zeros as lz4 leaves little more than four megabytes; no batch is larger than the
/// topic takes.
#[test]
fn a_gigabyte_of_lz4_bombs_fits_into_memory_and_the_stream_goes_on() {
    let rig = Rig::bare("bombs").commands("json");
    rig.topics.create(1);
    topics::delete(&rig.topics.commands);
    topics::create(&[(&rig.topics.commands, 1, &[("max.message.bytes", "131072")])]);
    rig.erp.take_anything();
    let connector = rig.start();
    let bombs = {
        let mut client = broker().client();
        client
            .set("compression.type", "lz4")
            .set("message.max.bytes", "40000000")
            .set("batch.num.messages", "1");
        Sender::with(client)
    };
    // 255 is what lz4 expands at most; a little less leaves room for the frame.
    let zeros = vec![0_u8; 30_000_000];
    const BOMBS: usize = 34;
    for _ in 0..BOMBS {
        bombs.send(&rig.topics.commands, Some(b"CT-BOMB"), Some(&zeros), &[]);
        bombs.flush();
    }
    let sender = Sender::new();
    for number in 0..10 {
        let return_no = format!("CT-{number}");
        sender.send(
            &rig.topics.commands,
            Some(return_no.as_bytes()),
            Some(&json_bytes(&command(&return_no, "c"))),
            &[],
        );
    }
    sender.flush();
    let results = rig.results(10);
    assert!(results.iter().all(|result| result.outcome == Outcome::Created), "{results:?}");
    let letters = read_all(&rig.topics.commands_dlq);
    assert_eq!(letters.len(), BOMBS);
    let reason = letters[0].header("__connect.errors.exception.message").unwrap();
    assert!(reason.contains("30000000 bytes") && reason.contains("offset 0"), "{reason}");
    assert_eq!(letters[0].header("wdt-omitted").as_deref(), Some("value"));
    assert_small(&connector);
}

#[test]
fn answers_without_end_cost_no_memory_and_others_go_on() {
    let mut rig = Rig::new("flood").commands("json").purchase_returns();
    rig.config.set("commands", "call_timeout", "4s").set("commands", "apply_grace", "4s");
    rig.erp.take_anything();
    rig.erp.seed(crate::kit::erp::Kind::Returns, 5);
    // As many as a page is asked for at most, before the window counts as not read.
    rig.erp.faults("purchaseReturns:flood(104857600)=3x");
    let connector = rig.start();
    // Without commands nobody but the feed asks.
    let longer = |cap: u32| connector.log().matches(&format!("is longer than {cap} bytes")).count();
    until("a window that is not read", PATIENCE, || (longer(32 << 20) > 0).then_some(()));
    for fault in [
        "createOrder:flood(104857600)=2x",
        "createOrder:endless=1x",
        "createOrder:drip=2x",
        "purchaseReturns:drip=1x",
    ] {
        rig.erp.faults(fault);
    }
    let all: Vec<_> = (0..20).map(|number| command(&format!("CT-{number}"), "c")).collect();
    rig.send_json(&all);
    let results = rig.results(all.len());
    assert!(results.iter().all(|result| result.outcome == Outcome::Created), "{results:?}");
    assert_eq!(rig.erp.orders().len(), all.len());
    crate::kit::records::Reader::new(&rig.topics.purchase_returns).at_least(5, PATIENCE);
    // What two such answers take would fit: that none is taken in is told by the reasons.
    assert_eq!(longer(1 << 20), 3, "{}", connector.log());
    assert_small(&connector);
}

/// Answers every request with a schema without end, for as long as somebody reads; counts the
/// requests. Between two pieces it rests for so long.
fn endless_server(rest: Duration) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            count.fetch_add(1, Ordering::Relaxed);
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"schema\": \"",
                );
                let piece = vec![b'x'; 64 * 1024];
                while stream.write_all(&piece).is_ok() {
                    thread::sleep(rest);
                }
            });
        }
    });
    (port, asked)
}

#[test]
fn a_registry_without_end_is_one_sentence() {
    let mut rig = Rig::bare("schema").commands("avro");
    rig.config.set(
        "schema_registry",
        "url",
        format!("http://127.0.0.1:{}", endless_server(Duration::ZERO).0),
    );
    let output = rig.verb(&["run"], b"");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("larger than 1048576 bytes"), "{said}");
}

#[test]
fn a_collector_without_end_costs_no_memory_and_is_sent_the_next_batch() {
    let mut rig = Rig::new("collector").commands("json");
    // Within the time an export may take this is more than a process may have.
    let (port, asked) = endless_server(Duration::from_millis(1));
    rig.config.set("telemetry", "otlp_endpoint", format!("http://127.0.0.1:{port}"));
    rig.erp.take_anything();
    let connector = rig.start();
    for number in 0.. {
        if asked.load(Ordering::Relaxed) >= 3 {
            break;
        }
        rig.send_json(&[command(&format!("CT-{number}"), "c")]);
        rig.results(number + 1);
    }
    assert_small(&connector);
}

/// Gives every subject an id, and under any id a schema of 100 MB.
fn generous_registry() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let subjects = Arc::new(Mutex::new(Vec::new()));
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let subjects = Arc::clone(&subjects);
            thread::spawn(move || {
                let mut asked = [0; 64 * 1024];
                let length = stream.read(&mut asked).unwrap_or(0);
                let asked = String::from_utf8_lossy(&asked[..length]).into_owned();
                let (method, path) = asked.split_once(' ').unwrap();
                let path = path.split(' ').next().unwrap().to_owned();
                let answer = |length: usize| {
                    format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
                    )
                };
                if method == "POST" {
                    let mut known = subjects.lock().unwrap();
                    known.push(path);
                    let body = format!("{{\"id\": {}}}", known.len());
                    let _ = stream.write_all(format!("{}{body}", answer(body.len())).as_bytes());
                    return;
                }
                let _ = stream
                    .write_all(format!("{}{{\"schema\": \"", answer(100 * 1024 * 1024)).as_bytes());
                let piece = vec![b'x'; 64 * 1024];
                while stream.write_all(&piece).is_ok() {}
            });
        }
    });
    port
}

#[test]
fn a_schema_of_100_megabytes_is_refused_by_its_id_and_the_stream_goes_on() {
    let mut rig = Rig::with_partitions("hugeschema", 1).commands("avro");
    rig.config.set("schema_registry", "url", format!("http://127.0.0.1:{}", generous_registry()));
    rig.erp.take_anything();
    let connector = rig.start();
    let sender = Sender::new();
    let unknown = [&[0, 0, 0, 3, 233][..], b"datum"].concat();
    sender.send(&rig.topics.commands, Some(b"CT-0"), Some(&unknown), &[]);
    sender.send(
        &rig.topics.commands,
        Some(b"CT-1"),
        Some(&crate::kit::commands::avro(&command("CT-1", "c"))),
        &[],
    );
    sender.flush();
    rig.wait_committed(2);
    let letters = read_all(&rig.topics.commands_dlq);
    assert_eq!((letters.len(), letters[0].value.as_deref()), (1, Some(&unknown[..])));
    let reason = letters[0].header("__connect.errors.exception.message").unwrap();
    assert!(
        reason.contains("schema 1001") && reason.contains("larger than 1048576 bytes"),
        "{reason}"
    );
    assert_eq!(rig.erp.orders().len(), 1);
    assert_small(&connector);
}

/// The pauses at a bound are seen by nothing more being read; how much was read by then.
fn wait_until_reading_stops(connector: &Connector) -> usize {
    let mut last = 0;
    until("reading to stop", PATIENCE, || {
        let now = connector.metric("wdt_connector_commands_received_total", &[]) as usize;
        let stands = now > 0 && now == last;
        last = now;
        thread::sleep(Duration::from_millis(300));
        stands.then_some(now)
    })
}

/// The short form of `cargo bench --bench limits -- keys`: nothing is settled, so everything waits.
#[test]
fn a_hundred_thousand_keys_that_wait_are_not_held_in_memory() {
    const KEYS: usize = 100_000;
    let rig = Rig::new("keys").commands("json");
    rig.erp.take_anything();
    rig.erp.adjust(&serde_json::json!({"outage": "refuse"}));
    let sender = Sender::new();
    for number in 0..KEYS {
        let return_no = format!("TH{number:08x}");
        sender.send(
            &rig.topics.commands,
            Some(return_no.as_bytes()),
            Some(&json_bytes(&command(&return_no, "c"))),
            &[],
        );
    }
    sender.flush();
    let connector = rig.start();
    connector.wait_log("circuit breaker opened", PATIENCE);
    let held = wait_until_reading_stops(&connector);
    crate::parts::say(&format!("{held} of {KEYS} commands are held"));
    assert!(held <= 10_000, "{held}");
    assert_small(&connector);
    rig.erp.adjust(&serde_json::json!({"outage": "none"}));
    rig.wait_committed(1000);
    assert_small(&connector);
}

/// The short form of `cargo bench --bench limits -- settled`.
#[test]
fn ten_thousand_entries_in_doubt_do_not_hold_up_other_keys() {
    let rig = Rig::new("settled").commands("json");
    rig.erp.take_anything();
    let all = (0..10_000).map(|number| command(&format!("TH{number:08x}"), "c"));
    journal::write_as(rig.broker.clone(), &rig.topics.journal, 4, all, 500, journal::in_doubt);
    let connector = rig.start();
    let others: Vec<_> = (0..20).map(|number| command(&format!("CT-{number}"), "c")).collect();
    rig.send_json(&others);
    let results = rig.results(others.len());
    assert!(results.iter().all(|result| result.outcome == Outcome::Created), "{results:?}");
    assert_small(&connector);
}

/// Few enough to be held by their number, too many by their size: nearly all of them wait for the
/// quota.
#[test]
fn large_commands_that_wait_are_not_held_in_memory() {
    const COMMANDS: usize = 300;
    let mut rig = Rig::new("large").commands("json");
    rig.config.set("quota", "calls_per_minute", 60).set("quota", "burst", 1);
    rig.erp.take_anything();
    let sender = {
        let mut client = broker().client();
        client
            .set("compression.type", "lz4")
            .set("message.max.bytes", "4000000")
            .set("batch.num.messages", "1");
        Sender::with(client)
    };
    // A header is kept for the dead letter there may be; no command is refused for one. lz4 finds
    // nothing in it to save, so that what is fetched is no more than what is handed out: bombs are
    // another test's.
    let mut dice = Dice(1);
    let header: String =
        std::iter::repeat_with(|| char::from(b'!' + u8::try_from(dice.roll(90)).unwrap()))
            .take(900_000)
            .collect();
    for number in 0..COMMANDS {
        let return_no = format!("CT-{number}");
        let value = json_bytes(&command(&return_no, "c"));
        sender.send(
            &rig.topics.commands,
            Some(return_no.as_bytes()),
            Some(&value),
            &[("origin", &header)],
        );
        sender.flush();
    }
    let connector = rig.start();
    let held = wait_until_reading_stops(&connector);
    crate::parts::say(&format!("{held} of {COMMANDS} commands are held"));
    assert!(held <= 100, "{held}");
    // They go on as the quota lets them.
    let results = rig.results(10);
    assert!(results.iter().all(|result| result.outcome == Outcome::Created), "{results:?}");
    assert_small(&connector);
}

#[test]
fn slow_clients_of_the_listener_hold_up_nobody() {
    let rig = Rig::new("slow").commands("json");
    rig.erp.take_anything();
    let connector = rig.start();
    let address = connector.url("/").trim_start_matches("http://").trim_end_matches('/').to_owned();
    // More than the listener takes; each says a byte and then nothing.
    let slow: Vec<TcpStream> = (0..200)
        .filter_map(|_| {
            let mut stream = TcpStream::connect(&address).ok()?;
            stream.write_all(b"G").ok()?;
            Some(stream)
        })
        .collect();
    assert!(slow.len() > 64);
    rig.send_json(&[command("CT-1", "c")]);
    assert_eq!(rig.results(1).len(), 1, "commands go on");
    crate::kit::until("the probe after the slow ones' time is up", PATIENCE, || {
        crate::kit::http::get(&connector.url("/healthz")).ok().filter(|answer| answer.status == 200)
    });
    assert_small(&connector);
    assert_eq!(connector.terminate(Duration::from_secs(30)).code(), Some(0));
}
