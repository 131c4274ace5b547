//! Grants rights on a broker: Kafka's `CreateAcls` request, version 1, since the client library has
//! none.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

/// One right of one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub user: String,
    /// `Read`, `Write`…, as `kafka-acls --operation` has it.
    pub operation: String,
    /// `topic`, `group`, `transactional-id`.
    pub kind: String,
    pub name: String,
    pub prefixed: bool,
}

impl Grant {
    /// The rights in one `kafka-acls --add` command, for `user` instead of its own principal.
    pub fn parse(command: &str, user: &str) -> Vec<Self> {
        let words: Vec<&str> = command.split(' ').collect();
        let after = |flag: &str| {
            words.iter().position(|word| *word == flag).and_then(|at| words.get(at + 1)).copied()
        };
        let (kind, name) = ["topic", "group", "transactional-id"]
            .iter()
            .find_map(|kind| Some((*kind, after(&format!("--{kind}"))?)))
            .unwrap_or_else(|| panic!("no resource in {command}"));
        let prefixed = after("--resource-pattern-type") == Some("prefixed");
        words
            .windows(2)
            .filter(|pair| pair[0] == "--operation")
            .map(|pair| Self {
                user: user.to_owned(),
                operation: pair[1].to_owned(),
                kind: kind.to_owned(),
                name: name.to_owned(),
                prefixed,
            })
            .collect()
    }
}

/// Grants all of them; the caller talks to a door where it is a super user.
pub fn create(address: &str, grants: &[Grant]) {
    let mut body = Vec::new();
    put_i32(&mut body, i32::try_from(grants.len()).expect("few"));
    for grant in grants {
        body.push(match grant.kind.as_str() {
            "topic" => 2,
            "group" => 3,
            "transactional-id" => 5,
            other => panic!("unknown kind of resource {other}"),
        });
        put_text(&mut body, &grant.name);
        body.push(if grant.prefixed { 4 } else { 3 });
        put_text(&mut body, &format!("User:{}", grant.user));
        put_text(&mut body, "*");
        body.push(match grant.operation.as_str() {
            "Read" => 3,
            "Write" => 4,
            "Create" => 5,
            "Describe" => 8,
            "DescribeConfigs" => 10,
            other => panic!("unknown operation {other}"),
        });
        // Allow.
        body.push(3);
    }
    let mut request = Vec::new();
    for number in [30_i16, 1] {
        request.extend(number.to_be_bytes());
    }
    put_i32(&mut request, 7);
    put_text(&mut request, "test");
    request.extend(body);
    let mut stream = TcpStream::connect(address).expect("the broker listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket option");
    let mut framed = Vec::new();
    put_i32(&mut framed, i32::try_from(request.len()).expect("small"));
    framed.extend(request);
    stream.write_all(&framed).expect("the broker listens");
    let mut size = [0; 4];
    stream.read_exact(&mut size).expect("the broker answers");
    let mut answer = vec![0; usize::try_from(i32::from_be_bytes(size)).expect("a size")];
    stream.read_exact(&mut answer).expect("the broker answers");
    // Correlation id, throttle time, count; then an error code and a nullable text each.
    let mut rest = &answer[12..];
    for grant in grants {
        let code = i16::from_be_bytes([rest[0], rest[1]]);
        assert_eq!(code, 0, "the broker refused {grant:?}");
        let length = i16::from_be_bytes([rest[2], rest[3]]);
        rest = &rest[4 + usize::try_from(length.max(0)).expect("not negative")..];
    }
}

fn put_i32(out: &mut Vec<u8>, number: i32) {
    out.extend(number.to_be_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend(i16::try_from(text.len()).expect("a short text").to_be_bytes());
    out.extend(text.as_bytes());
}
