//! A producer that writes what librdkafka's bindings and Java's client cannot: header names that are
//! not UTF-8, any time. Produce v3 and record batch v2 of Kafka's protocol guide, one record a request.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{SystemTime, UNIX_EPOCH},
};

/// A record as the protocol has it: any bytes anywhere.
#[derive(Clone, Debug, Default)]
pub struct Raw {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Milliseconds since 1970; -1 is none.
    pub timestamp: i64,
}

/// Appends one record of now to a partition; the broker at `address` has to lead it.
pub fn send(
    address: &str,
    topic: &str,
    partition: i32,
    key: &[u8],
    value: &[u8],
    headers: &[(&[u8], &[u8])],
) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    let record = Raw {
        key: Some(key.to_vec()),
        value: Some(value.to_vec()),
        headers: headers
            .iter()
            .map(|(name, value)| (name.to_vec(), Some(value.to_vec())))
            .collect(),
        timestamp: i64::try_from(now).expect("before the year 292,000,000"),
    };
    assert_eq!(try_send(address, topic, partition, &record), 0, "the broker refused {record:?}");
}

/// Appends any record; Kafka's error code, 0 for none.
pub fn try_send(address: &str, topic: &str, partition: i32, raw: &Raw) -> i16 {
    let batch = batch(&record(raw), raw.timestamp);
    let mut body = Vec::new();
    body.extend(0_i16.to_be_bytes()); // Produce
    body.extend(3_i16.to_be_bytes()); // version
    body.extend(1_i32.to_be_bytes()); // correlation id
    body.extend((-1_i16).to_be_bytes()); // no client id
    body.extend((-1_i16).to_be_bytes()); // no transactional id
    body.extend((-1_i16).to_be_bytes()); // acks=all
    body.extend(30_000_i32.to_be_bytes()); // timeout, ms
    body.extend(1_i32.to_be_bytes()); // topics
    body.extend(i16::try_from(topic.len()).expect("a topic's name").to_be_bytes());
    body.extend(topic.as_bytes());
    body.extend(1_i32.to_be_bytes()); // partitions
    body.extend(partition.to_be_bytes());
    body.extend(size(&batch));
    body.extend(batch);

    let mut stream = TcpStream::connect(address).expect("the broker listens");
    stream.write_all(&size(&body)).expect("the broker reads");
    stream.write_all(&body).expect("the broker reads");
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("the broker answers");
    let mut answer = vec![0; usize::try_from(i32::from_be_bytes(length)).expect("a length")];
    stream.read_exact(&mut answer).expect("the whole answer");
    // Correlation id, topics, name, partitions, partition, then the error code.
    let at = 4 + 4 + 2 + topic.len() + 4 + 4;
    i16::from_be_bytes([answer[at], answer[at + 1]])
}

fn size(bytes: &[u8]) -> [u8; 4] {
    i32::try_from(bytes.len()).expect("a small request").to_be_bytes()
}

fn varint(out: &mut Vec<u8>, value: usize) {
    let mut zigzag = u64::try_from(value).expect("a small number") << 1;
    while zigzag >= 0x80 {
        out.push(u8::try_from(zigzag & 0x7f).expect("seven bits") | 0x80);
        zigzag >>= 7;
    }
    out.push(u8::try_from(zigzag).expect("seven bits"));
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    varint(out, bytes.len());
    out.extend(bytes);
}

fn nullable(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        Some(value) => bytes(out, value),
        None => out.push(1), // a length of -1
    }
}

fn record(raw: &Raw) -> Vec<u8> {
    let mut record = vec![0, 0, 0]; // attributes, timestamp delta, offset delta
    nullable(&mut record, raw.key.as_deref());
    nullable(&mut record, raw.value.as_deref());
    varint(&mut record, raw.headers.len());
    for (name, value) in &raw.headers {
        bytes(&mut record, name);
        nullable(&mut record, value.as_deref());
    }
    let mut whole = Vec::new();
    bytes(&mut whole, &record);
    whole
}

fn batch(record: &[u8], timestamp: i64) -> Vec<u8> {
    let timestamp = timestamp.to_be_bytes();
    let mut covered = Vec::new(); // what the CRC covers
    covered.extend(0_i16.to_be_bytes()); // attributes
    covered.extend(0_i32.to_be_bytes()); // last offset delta
    covered.extend(timestamp); // base timestamp
    covered.extend(timestamp); // max timestamp
    covered.extend((-1_i64).to_be_bytes()); // producer id
    covered.extend((-1_i16).to_be_bytes()); // producer epoch
    covered.extend((-1_i32).to_be_bytes()); // base sequence
    covered.extend(1_i32.to_be_bytes()); // records
    covered.extend(record);
    let mut rest = Vec::new();
    rest.extend((-1_i32).to_be_bytes()); // partition leader epoch
    rest.push(2); // magic
    rest.extend(crc32c(&covered).to_be_bytes());
    rest.extend(covered);
    let mut batch = 0_i64.to_be_bytes().to_vec(); // base offset
    batch.extend(size(&rest));
    batch.extend(rest);
    batch
}

/// Castagnoli's polynomial, reflected.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

#[test]
fn the_check_value_of_crc32c() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}
