//! An HTTP server between the connector and the ERP that may answer in its place, or change what it
//! answers, byte for byte.

use std::{
    io::{BufRead, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// What becomes of an answer's body. The request is its first line and its body.
type Rewrite = dyn Fn(&str, Vec<u8>) -> Vec<u8> + Send + Sync;

/// What becomes of a request; it is its first line and its body.
type Door = dyn Fn(&str) -> Passage + Send + Sync;

/// Whether the ERP sees a request.
#[derive(Clone, Debug)]
pub enum Passage {
    Through,
    /// Answered with this status and body instead.
    Answer(u16, String),
    /// The connection ends without an answer.
    Cut,
}

/// Listens on a port of its own and asks the ERP for every request.
#[derive(Debug)]
pub struct Rewriter {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
}

impl Rewriter {
    /// In front of the server at `url`.
    pub fn before(
        url: &str,
        rewrite: impl Fn(&str, Vec<u8>) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        Self::with_door(url, |_| Passage::Through, rewrite)
    }

    /// The same with a door that need not let a request through.
    pub fn with_door(
        url: &str,
        door: impl Fn(&str) -> Passage + Send + Sync + 'static,
        rewrite: impl Fn(&str, Vec<u8>) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let target = url.strip_prefix("http://").expect("an http address");
        let target = target.split('/').next().expect("a host").to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let ended = Arc::new(AtomicBool::new(false));
        let (rewrite, over): (Arc<Rewrite>, _) = (Arc::new(rewrite), Arc::clone(&ended));
        let door: Arc<Door> = Arc::new(door);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (target, rewrite, door) =
                    (target.clone(), Arc::clone(&rewrite), Arc::clone(&door));
                thread::spawn(move || serve(&client, &target, &*door, &*rewrite));
            }
        });
        Self { address, ended }
    }

    /// The address of `url` with this server in the place of its own.
    pub fn url(&self, url: &str) -> String {
        let rest = url.strip_prefix("http://").expect("an http address");
        let path = rest.split_once('/').map_or("", |(_, path)| path);
        format!("http://{}/{path}", self.address)
    }
}

impl Drop for Rewriter {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
    }
}

/// Head and body of one message; `None` at the connection's end.
fn message(from: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok()?;
        }
        head.push_str(&line);
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).ok()?;
    Some((head, body))
}

fn serve(client: &TcpStream, target: &str, door: &Door, rewrite: &Rewrite) -> Option<()> {
    let mut requests = BufReader::new(client.try_clone().ok()?);
    let mut to_client = client;
    while let Some((head, body)) = message(&mut requests) {
        let asked = format!(
            "{}{}",
            head.lines().next().unwrap_or_default(),
            String::from_utf8_lossy(&body)
        );
        match door(&asked) {
            Passage::Through => {}
            Passage::Answer(status, body) => {
                let length = body.len();
                let head = format!("HTTP/1.1 {status} -\r\ncontent-length: {length}\r\n\r\n");
                to_client.write_all(format!("{head}{body}").as_bytes()).ok()?;
                continue;
            }
            Passage::Cut => return None,
        }
        let mut erp = TcpStream::connect(target).ok()?;
        erp.write_all(head.as_bytes()).ok()?;
        erp.write_all(&body).ok()?;
        let (answer_head, answer) = message(&mut BufReader::new(erp))?;
        let answer = rewrite(&asked, answer);
        for line in answer_head.lines().filter(|line| !line.is_empty()) {
            if !line.to_ascii_lowercase().starts_with("content-length") {
                to_client.write_all(format!("{line}\r\n").as_bytes()).ok()?;
            }
        }
        to_client.write_all(format!("content-length: {}\r\n\r\n", answer.len()).as_bytes()).ok()?;
        to_client.write_all(&answer).ok()?;
    }
    Some(())
}

/// `text` with every `from` replaced.
pub fn replaced(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let (mut result, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some(at) = rest.windows(from.len()).position(|part| part == from) {
        result.extend_from_slice(&rest[..at]);
        result.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    result.extend_from_slice(rest);
    result
}
