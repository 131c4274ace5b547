//! A blocking HTTP/1.1 client of a page: enough for the listener's probes, the registry and the
//! simulator's admin.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|fault| {
            panic!("no JSON ({fault}) in the answer {}: {}", self.status, self.body)
        })
    }
}

/// `GET url`.
pub fn get(url: &str) -> io::Result<Answer> {
    exchange("GET", url, &[], None)
}

/// `GET url` of a process that may be frozen: `limit` for everything.
pub fn get_within(url: &str, limit: Duration) -> io::Result<Answer> {
    exchange_within("GET", url, &[], None, limit)
}

/// `POST url` with a JSON body.
pub fn post(url: &str, body: &serde_json::Value) -> io::Result<Answer> {
    post_text(url, &body.to_string())
}

/// `POST url` with JSON as written, digit for digit.
pub fn post_text(url: &str, body: &str) -> io::Result<Answer> {
    exchange("POST", url, &[("Content-Type", "application/json")], Some(body.as_bytes()))
}

/// Any request to `http://host:port/path`; each on a connection of its own, 30 s for everything.
pub fn exchange(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> io::Result<Answer> {
    exchange_within(method, url, headers, body, Duration::from_secs(30))
}

fn exchange_within(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
    limit: Duration,
) -> io::Result<Answer> {
    let rest = url
        .strip_prefix("http://")
        .ok_or_else(|| io::Error::other(format!("not an http address: {url}")))?;
    let (host, path) = rest
        .split_once('/')
        .map_or((rest, String::from("/")), |(host, path)| (host, format!("/{path}")));
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAccept: */*\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.map_or(0, <[u8]>::len)));
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.unwrap_or_default())?;
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw)?;
    parse(&raw).ok_or_else(|| {
        io::Error::other(format!("not an HTTP answer: {}", String::from_utf8_lossy(&raw)))
    })
}

fn parse(raw: &[u8]) -> Option<Answer> {
    let end = raw.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&raw[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = &raw[end + 4..];
    let body = if chunked { dechunk(body)? } else { body.to_vec() };
    Some(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
}

fn dechunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let line = rest.windows(2).position(|two| two == b"\r\n")?;
        let length = usize::from_str_radix(
            std::str::from_utf8(&rest[..line]).ok()?.split(';').next()?.trim(),
            16,
        )
        .ok()?;
        if length == 0 {
            return Some(whole);
        }
        let start = line + 2;
        whole.extend_from_slice(rest.get(start..start + length)?);
        rest = rest.get(start + length + 2..)?;
    }
}
