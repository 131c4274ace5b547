//! A TCP proxy between the connector and one server, which can cut, refuse and delay.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

#[derive(Debug, Default)]
struct State {
    refuse: AtomicBool,
    delay_ms: AtomicU64,
    accepted: AtomicU64,
    ended: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
    /// What the clients sent, while it is wanted.
    heard: Mutex<Vec<u8>>,
    listening: AtomicBool,
    /// What no client may say.
    forbidden: Mutex<Option<String>>,
}

/// Listens on a port of its own and passes bytes on to `target` both ways.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

impl Proxy {
    /// A proxy in front of `host:port`.
    pub fn to(target: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State::default());
        let (target, shared) = (target.to_owned(), Arc::clone(&state));
        thread::spawn(move || {
            for incoming in listener.incoming().map_while(Result::ok) {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                shared.accepted.fetch_add(1, Ordering::SeqCst);
                if shared.refuse.load(Ordering::SeqCst) {
                    drop(incoming);
                    continue;
                }
                if let Ok(outgoing) = TcpStream::connect(&target) {
                    pass_both_ways(&shared, &incoming, &outgoing);
                }
            }
        });
        Self { address, state }
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Closes every open connection now; new ones pass.
    pub fn cut(&self) {
        for stream in self.state.open.lock().expect("no panic holds this lock").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Whether new connections are closed at once; open ones stay until [`Self::cut`].
    pub fn refuse(&self, yes: bool) {
        self.state.refuse.store(yes, Ordering::SeqCst);
    }

    /// Holds every piece of data back this long, both ways.
    pub fn delay(&self, span: Duration) {
        self.state
            .delay_ms
            .store(u64::try_from(span.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Keeps what clients send from now on.
    pub fn listen_in(&self) {
        self.state.listening.store(true, Ordering::SeqCst);
    }

    /// What was kept, in the order of arrival.
    pub fn heard(&self) -> Vec<u8> {
        self.state.heard.lock().expect("no panic holds this lock").clone()
    }

    /// Answers every request that contains `text` with 401, from now on.
    pub fn forbid(&self, text: &str) {
        *self.state.forbidden.lock().expect("no panic holds this lock") = Some(text.to_owned());
    }

    /// How many connections have arrived, refused ones included.
    pub fn accepted(&self) -> u64 {
        self.state.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        self.cut();
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
    }
}

fn pass_both_ways(state: &Arc<State>, one: &TcpStream, other: &TcpStream) {
    let _ = (one.set_nodelay(true), other.set_nodelay(true));
    let copies = (|| {
        Ok::<_, std::io::Error>([
            (one.try_clone()?, other.try_clone()?),
            (other.try_clone()?, one.try_clone()?),
        ])
    })();
    let Ok(copies) = copies else { return };
    if let (Ok(one), Ok(other)) = (one.try_clone(), other.try_clone()) {
        state.open.lock().expect("no panic holds this lock").extend([one, other]);
    }
    for ((from, to), of_client) in copies.into_iter().zip([true, false]) {
        let state = Arc::clone(state);
        thread::spawn(move || pass(&state, from, to, of_client));
    }
}

fn pass(state: &State, mut from: TcpStream, mut to: TcpStream, of_client: bool) {
    let mut buffer = vec![0_u8; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if of_client && state.listening.load(Ordering::SeqCst) {
            state
                .heard
                .lock()
                .expect("no panic holds this lock")
                .extend_from_slice(&buffer[..length]);
        }
        let forbidden = state.forbidden.lock().expect("no panic holds this lock").clone();
        if of_client
            && forbidden
                .is_some_and(|text| String::from_utf8_lossy(&buffer[..length]).contains(&text))
        {
            let _ = from.write_all(
                b"HTTP/1.1 401 Unauthorized\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            );
            break;
        }
        let delay = state.delay_ms.load(Ordering::SeqCst);
        if delay > 0 {
            thread::sleep(Duration::from_millis(delay));
        }
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
