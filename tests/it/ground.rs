//! The ground the other tests stand on: the parts start, and do what the tests take for granted.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::Duration,
};

use rdkafka::{
    producer::{FutureProducer, FutureRecord, Producer as _},
    util::Timeout,
};

use crate::{
    kit::{
        erp::{Erp, Kind},
        http,
        proxy::Proxy,
        records::{Reader, Sender, read_all},
        topics, unique, until, wait,
    },
    parts::{PrivateBroker, broker, registry},
};

const LIMIT: Duration = Duration::from_secs(30);

/// Produces `values` in one transaction, which is committed or aborted.
fn transaction(producer: &FutureProducer, topic: &str, values: &[&str], commit: bool) {
    producer.begin_transaction().unwrap();
    for value in values {
        wait(producer.send(FutureRecord::to(topic).key("k").payload(*value), Timeout::Never))
            .unwrap();
    }
    if commit {
        producer.commit_transaction(Timeout::Never).unwrap();
    } else {
        producer.abort_transaction(Timeout::Never).unwrap();
    }
}

fn transactional(id: &str) -> FutureProducer {
    let producer: FutureProducer = broker()
        .client()
        .set("transactional.id", id)
        .set("transaction.timeout.ms", "10000")
        .create()
        .unwrap();
    producer.init_transactions(LIMIT).unwrap();
    producer
}

#[test]
fn transactions_are_isolated_and_read_to_the_end() {
    let topic = unique("ground");
    topics::create(&[(&topic, 1, &[("cleanup.policy", "compact")])]);
    assert_eq!(topics::partitions(&topic), Some(1));
    assert_eq!(topics::config_of(&topic, "cleanup.policy").as_deref(), Some("compact"));
    let producer = transactional(&unique("ground"));
    transaction(&producer, &topic, &["a", "b"], true);
    transaction(&producer, &topic, &["never"], false);
    transaction(&producer, &topic, &["c"], true);
    // The log ends with a control record, which no reader is ever given: the position has to pass
    // it.
    let values: Vec<_> = read_all(&topic)
        .into_iter()
        .map(|record| String::from_utf8(record.value.unwrap()).unwrap())
        .collect();
    assert_eq!(values, ["a", "b", "c"]);
}

#[test]
fn topics_are_not_created_by_accident() {
    assert_eq!(topics::partitions(&unique("absent")), None);
}

#[test]
fn records_keep_headers_and_go_where_java_would_put_them() {
    let topic = unique("ground");
    topics::create(&[(&topic, 6, &[])]);
    let sender = Sender::new();
    for number in 0..100 {
        sender.send(
            &topic,
            Some(format!("key-{number}").as_bytes()),
            Some(b"value"),
            &[("traceparent", "00-1-2-01")],
        );
    }
    sender.send_to(&topic, 5, Some(b"anywhere"), None);
    sender.flush();
    let mut reader = Reader::new(&topic);
    let seen = reader.at_least(101, LIMIT);
    let one = seen.iter().find(|record| record.key_text() == "key-1").unwrap();
    // Java: Utils.toPositive(Utils.murmur2("key-1".getBytes())) % 6.
    assert_eq!(one.partition, murmur2_partition(b"key-1", 6));
    assert_eq!(one.header("traceparent").as_deref(), Some("00-1-2-01"));
    let tombstone = seen.iter().find(|record| record.key_text() == "anywhere").unwrap();
    assert_eq!((tombstone.partition, tombstone.value.as_ref()), (5, None));
}

/// Kafka's `DefaultPartitioner`, written from its Java source.
fn murmur2_partition(key: &[u8], partitions: i32) -> i32 {
    const M: i32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c_u32.cast_signed() ^ i32::try_from(key.len()).unwrap();
    let mut chunks = key.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = i32::from_le_bytes(chunk.try_into().unwrap());
        k = k.wrapping_mul(M);
        k ^= (k.cast_unsigned() >> 24).cast_signed();
        k = k.wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = chunks.remainder();
    for (at, byte) in rest.iter().enumerate().rev() {
        hash ^= i32::from(*byte) << (8 * at);
    }
    if !rest.is_empty() {
        hash = hash.wrapping_mul(M);
    }
    hash ^= (hash.cast_unsigned() >> 13).cast_signed();
    hash = hash.wrapping_mul(M);
    hash ^= (hash.cast_unsigned() >> 15).cast_signed();
    (hash & 0x7fff_ffff) % partitions
}

#[test]
fn a_private_broker_survives_being_killed() {
    let Some(mut own) = PrivateBroker::start("a_private_broker_survives_being_killed") else {
        return;
    };
    let topic = unique("private");
    let admin: rdkafka::admin::AdminClient<_> = own.client().create().unwrap();
    let wanted =
        rdkafka::admin::NewTopic::new(&topic, 1, rdkafka::admin::TopicReplication::Fixed(1));
    for result in
        wait(admin.create_topics([&wanted], &rdkafka::admin::AdminOptions::new())).unwrap()
    {
        result.unwrap();
    }
    let sender = Sender::with(own.client());
    sender.send(&topic, Some(b"k"), Some(b"before"), &[]);
    sender.flush();
    own.kill();
    own.restart();
    sender.send(&topic, Some(b"k"), Some(b"after"), &[]);
    sender.flush();
    let mut reader = Reader::with(own.client(), &topic);
    let values: Vec<_> =
        reader.at_least(2, LIMIT).iter().map(|record| record.value.clone().unwrap()).collect();
    assert_eq!(values, [b"before".to_vec(), b"after".to_vec()]);
}

#[test]
fn the_registry_answers_as_confluents_does() {
    let url = registry().url();
    assert!(url.ends_with("/apis/ccompat/v7"), "{url}");
    let subject = unique("ground");
    let schema = serde_json::json!({"schema": r#"{"type":"record","name":"A","fields":[{"name":"a","type":"string"}]}"#});
    let registered = http::post(&format!("{url}/subjects/{subject}/versions"), &schema).unwrap();
    assert_eq!(registered.status, 200, "{}", registered.body);
    let id = registered.json()["id"].as_u64().unwrap();
    let read = http::get(&format!("{url}/schemas/ids/{id}")).unwrap().json();
    assert!(read["schema"].as_str().unwrap().contains("\"A\""), "{read}");
    let unknown = http::get(&format!("{url}/schemas/ids/987654")).unwrap();
    assert_eq!((unknown.status, unknown.json()["error_code"].as_u64()), (404, Some(40403)));
}

#[test]
fn the_simulator_is_seeded_changed_and_read_back() {
    let erp = Erp::start();
    for kind in [Kind::Returns, Kind::FlagshipOutbounds, Kind::EnterpriseOutbounds] {
        let numbers = erp.seed(kind, 3);
        assert_eq!(numbers.len(), 3);
        erp.modify(kind, &numbers[1], &serde_json::json!({"remark": "改"}));
        assert_eq!(erp.record(kind, &numbers[1])["remark"], "改");
    }
    erp.approve(["CT-1".to_owned(), "CT-1".to_owned(), "CT-2".to_owned()]);
    assert_eq!(erp.record(Kind::Returns, "CT-1")["status"].to_string().trim_matches('"'), "40");
    erp.faults("createOrder:applied_timeout=1x");
    assert!(erp.armed("applied_timeout"));
    erp.only_faults("");
    assert!(!erp.armed("applied_timeout"));
    assert_eq!((erp.orders().len(), erp.order_count(), erp.creates().received), (0, 0, 0));
    erp.adjust(&serde_json::json!({"outage": "refuse"}));
    until("the outage", LIMIT, || TcpStream::connect(erp.address()).is_err().then_some(()));
    erp.adjust(&serde_json::json!({"outage": "none"}));
    until("the end of the outage", LIMIT, || TcpStream::connect(erp.address()).ok());
}

#[test]
fn the_proxy_passes_refuses_and_cuts() {
    let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let target = echo.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in echo.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte)).is_ok() {}
            });
        }
    });
    let proxy = Proxy::to(&target);
    let ask = |stream: &mut TcpStream| {
        let mut answer = [0];
        stream.write_all(b"x").and_then(|()| stream.read_exact(&mut answer)).map(|()| answer[0])
    };
    let mut one = TcpStream::connect(proxy.address()).unwrap();
    assert_eq!(ask(&mut one).unwrap(), b'x');
    proxy.refuse(true);
    assert!(
        ask(&mut TcpStream::connect(proxy.address()).unwrap()).is_err(),
        "a refused connection carries nothing"
    );
    assert_eq!(ask(&mut one).unwrap(), b'x', "an open connection goes on");
    proxy.cut();
    assert!(ask(&mut one).is_err(), "a cut connection is over");
    proxy.refuse(false);
    assert_eq!(ask(&mut TcpStream::connect(proxy.address()).unwrap()).unwrap(), b'x');
    assert_eq!(proxy.accepted(), 3);
}
