//! A node of a schema registry that lags behind the one a sender registered at.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::http;

#[derive(Debug)]
struct State {
    /// Base address of the registry that knows everything.
    leader: String,
    hidden: Mutex<BTreeSet<u32>>,
    /// How often the schema of an id was asked for.
    asked: Mutex<BTreeMap<u32, u32>>,
    ended: AtomicBool,
}

/// Passes requests on to the registry, but does not know some ids yet.
#[derive(Debug)]
pub struct Follower {
    address: SocketAddr,
    /// The base address without host and port.
    path: String,
    state: Arc<State>,
}

impl Follower {
    /// One that follows the registry at this base address.
    pub fn of(leader: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let rest = leader.trim_start_matches("http://");
        let (host, path) = rest
            .split_once('/')
            .map_or((rest, String::new()), |(host, path)| (host, format!("/{path}")));
        let state = Arc::new(State {
            leader: format!("http://{host}"),
            hidden: Mutex::default(),
            asked: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for incoming in listener.incoming().map_while(Result::ok) {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                let state = Arc::clone(&shared);
                // A client that goes away is none of the test's business.
                thread::spawn(move || drop(answer(&state, &incoming)));
            }
        });
        Self { address, path, state }
    }

    /// Its base address.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.address, self.path)
    }

    /// It does not know this id yet.
    pub fn hide(&self, id: u32) {
        self.state.hidden.lock().unwrap().insert(id);
    }

    /// It knows this id from now on.
    pub fn show(&self, id: u32) {
        self.state.hidden.lock().unwrap().remove(&id);
    }

    /// How often this id was asked for.
    pub fn asked(&self, id: u32) -> u32 {
        self.state.asked.lock().unwrap().get(&id).copied().unwrap_or(0)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
    }
}

/// One request and its answer.
fn answer(state: &State, mut stream: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut words = first.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let id = path.rsplit_once("/schemas/ids/").and_then(|(_, id)| id.parse().ok());
    if let Some(id) = id {
        *state.asked.lock().unwrap().entry(id).or_default() += 1;
    }
    let hidden = id.is_some_and(|id| state.hidden.lock().unwrap().contains(&id));
    let answer = if hidden {
        let body = r#"{"error_code":40403,"message":"Schema not found"}"#.to_owned();
        http::Answer { status: 404, body }
    } else {
        let json = [("Content-Type", "application/vnd.schemaregistry.v1+json")];
        http::exchange(method, &format!("{}{path}", state.leader), &json, Some(&body))?
    };
    let http::Answer { status, body } = answer;
    let head = format!(
        "HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}
