//! `probe`: one request to a running instance, for container health checks that have no other
//! client.

use std::{
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use anyhow::{Context, bail};

use super::{End, output};

const TIMEOUT: Duration = Duration::from_secs(3);
/// A probe's answer is a few lines.
const MAX_ANSWER: u64 = 64 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address of the probe
    #[arg(default_value = "http://127.0.0.1:9600/readyz")]
    url: String,
}

/// 0 when the instance answers 200, 1 otherwise.
pub(super) fn execute(args: &Args) -> anyhow::Result<End> {
    let (code, body) = get(&args.url, None, MAX_ANSWER)?;
    let _ = output::say(body.trim_end());
    Ok(if code == 200 { End::Done } else { End::Failed })
}

/// Status code and body of an answer of at most `most` bytes, asked for with a bearer token if
/// there is one.
pub(super) fn get(url: &str, token: Option<&str>, most: u64) -> anyhow::Result<(u16, String)> {
    let Some(rest) = url.strip_prefix("http://") else {
        bail!("{url:?} is not an address such as http://127.0.0.1:9600/readyz")
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let authority =
        if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
    let address =
        authority.to_socket_addrs().with_context(|| format!("{authority} is unknown"))?.next();
    let address = address.with_context(|| format!("{authority} has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)
        .with_context(|| format!("nothing answers at {authority}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let authorization =
        token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    write!(stream, "GET /{path} HTTP/1.0\r\nhost: {authority}\r\n{authorization}\r\n")?;
    let mut answer = Vec::new();
    stream
        .take(most)
        .read_to_end(&mut answer)
        .with_context(|| format!("{authority} does not answer in time"))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let code = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("the answer is not HTTP")?;
    Ok((code, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    #[test]
    fn the_code_decides() {
        for (line, code) in [("HTTP/1.0 200 OK", 200), ("HTTP/1.1 503 Service Unavailable", 503)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}/readyz", listener.local_addr().unwrap());
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0_u8];
                    stream.read_exact(&mut byte).unwrap();
                    request.extend(byte);
                }
                assert!(request.starts_with(b"GET /readyz HTTP"));
                write!(stream, "{line}\r\n\r\nfeeds: restoring\n").unwrap();
            });
            assert_eq!(
                get(&url, None, MAX_ANSWER).unwrap(),
                (code, "feeds: restoring\n".to_owned())
            );
            server.join().unwrap();
        }
        assert!(get("https://h/", None, MAX_ANSWER).is_err());
    }
}
