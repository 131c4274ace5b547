//! More than anybody needs: memory stays below its bound, and what is not to blame goes on.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use wdt_connector::schema::Outcome;

use crate::{
    kit::{
        commands::{command, json_bytes},
        connector::Connector,
        records::{Sender, read_all},
        rig::{PATIENCE, Rig},
        topics,
    },
    parts::broker,
};

/// The stated bound on a process, in kilobytes. The tests run a build without optimisation, of which 80 MB are the program itself.
const MOST_MEMORY: u64 = 256 * 1024;

fn assert_small(connector: &Connector) {
    let peak = connector.memory("VmHWM");
    crate::parts::say(&format!("peak memory: {} MB", peak / 1024));
    assert!(peak < MOST_MEMORY, "{} MB", peak / 1024);
}

/// A gigabyte of zeros as lz4 leaves little more than four megabytes; no batch is larger than the topic takes.
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
        client.set("compression.type", "lz4").set("message.max.bytes", "40000000").set("batch.num.messages", "1");
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
        sender.send(&rig.topics.commands, Some(return_no.as_bytes()), Some(&json_bytes(&command(&return_no, "c"))), &[]);
    }
    sender.flush();
    let results = rig.results(10);
    assert!(results.iter().all(|result| result.outcome == Outcome::Created), "{results:?}");
    let letters = read_all(&rig.topics.dead_letters);
    assert_eq!(letters.len(), BOMBS);
    let reason = letters[0].header("__connect.errors.exception.message").unwrap();
    assert!(reason.contains("30000000 bytes") && reason.contains("offset 0"), "{reason}");
    assert_small(&connector);
}

#[test]
fn answers_without_end_cost_no_memory_and_others_go_on() {
    let mut rig = Rig::new("flood").commands("json").purchase_returns();
    rig.config.set("commands", "call_timeout", "4s").set("commands", "settle_time", "4s");
    rig.erp.take_anything();
    rig.erp.seed(crate::kit::erp::Kind::Returns, 5);
    for fault in
        ["createOrder:flood(104857600)=2x", "purchaseReturns:flood(104857600)=2x", "createOrder:drip=2x", "purchaseReturns:drip=1x"]
    {
        rig.erp.faults(fault);
    }
    let connector = rig.start();
    let all: Vec<_> = (0..20).map(|number| command(&format!("CT-{number}"), "c")).collect();
    rig.send_json(&all);
    let results = rig.results(all.len());
    assert!(results.iter().all(|result| result.outcome == Outcome::Created), "{results:?}");
    assert_eq!(rig.erp.orders().len(), all.len());
    crate::kit::records::Reader::new(&rig.topics.purchase_returns).at_least(5, PATIENCE);
    assert_small(&connector);
}

/// Answers every request with more than any schema has, for as long as somebody reads.
fn endless_registry() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"schema\": \"");
                let piece = vec![b'x'; 64 * 1024];
                while stream.write_all(&piece).is_ok() {}
            });
        }
    });
    port
}

#[test]
fn a_registry_without_end_is_one_sentence() {
    let mut rig = Rig::bare("schema").commands("avro");
    rig.config.set("schema_registry", "url", format!("http://127.0.0.1:{}", endless_registry()));
    let output = rig.verb(&["run"], b"");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("larger than 1048576 bytes"), "{said}");
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
