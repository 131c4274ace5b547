//! A proxy between the connector and its broker that reads Kafka's framing: it can lose the answer
//! of a chosen request after the broker has carried it out, and cut everything, as a network does.
//!
//! The broker has to advertise the proxy's address to whoever comes through it
//! (`PrivateBroker::behind`).

use std::{
    collections::HashSet,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

/// Requests of a transaction, by their numbers in Kafka's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    Produce = 0,
    ListOffsets = 2,
    InitProducerId = 22,
    AddPartitionsToTxn = 24,
    AddOffsetsToTxn = 25,
    EndTxn = 26,
    TxnOffsetCommit = 28,
}

impl Request {
    /// Those of a transaction.
    pub const ALL: [Self; 6] = [
        Self::Produce,
        Self::InitProducerId,
        Self::AddPartitionsToTxn,
        Self::AddOffsetsToTxn,
        Self::EndTxn,
        Self::TxnOffsetCommit,
    ];
}

/// One answer that will be lost.
#[derive(Clone, Debug)]
struct Trap {
    request: Request,
    /// Of clients whose id begins so.
    client: String,
    /// Requests that pass unharmed before it.
    after: u32,
    sprung: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct State {
    traps: Mutex<Vec<Trap>>,
    open: Mutex<Vec<TcpStream>>,
    refuse: AtomicBool,
    cuts: AtomicU64,
    ended: AtomicBool,
}

impl State {
    fn traps(&self) -> MutexGuard<'_, Vec<Trap>> {
        self.traps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the answer to this request is to be lost.
    fn caught(&self, api: i16, client: &str) -> bool {
        let mut traps = self.traps();
        let Some(at) = traps
            .iter()
            .position(|trap| trap.request as i16 == api && client.starts_with(&trap.client))
        else {
            return false;
        };
        if traps[at].after > 0 {
            traps[at].after -= 1;
            return false;
        }
        traps.remove(at).sprung.store(true, Ordering::SeqCst);
        true
    }
}

/// Listens on a port of its own; the target is told later, since the broker has to know this port
/// first.
#[derive(Debug)]
pub struct KafkaProxy {
    address: SocketAddr,
    listener: Option<TcpListener>,
    state: Arc<State>,
}

impl Default for KafkaProxy {
    fn default() -> Self {
        Self::new()
    }
}

impl KafkaProxy {
    /// Takes a port.
    pub fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        Self { address, listener: Some(listener), state: Arc::default() }
    }

    /// The port that the broker advertises.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `host:port`, for the connector's `bootstrap_servers`.
    pub fn bootstrap(&self) -> String {
        self.address.to_string()
    }

    /// Begins to pass requests on to this port.
    pub fn run(&mut self, target: u16) {
        let listener = self.listener.take().expect("a proxy runs once");
        let state = Arc::clone(&self.state);
        thread::spawn(move || {
            for incoming in listener.incoming().map_while(Result::ok) {
                if state.ended.load(Ordering::SeqCst) {
                    return;
                }
                // A broker that is down refuses, and so do we: by closing.
                if !state.refuse.load(Ordering::SeqCst)
                    && let Ok(outgoing) = TcpStream::connect((Ipv4Addr::LOCALHOST, target))
                {
                    let _ = pass_both_ways(&state, &incoming, &outgoing);
                }
            }
        });
    }

    /// Loses one answer: the request of a client whose id begins with `client` reaches the broker,
    /// the broker answers, and the connection ends instead. `after` such requests pass before it.
    /// Says when it has happened.
    pub fn lose_answer(&self, request: Request, client: &str, after: u32) -> Arc<AtomicBool> {
        let sprung = Arc::new(AtomicBool::new(false));
        self.state.traps().push(Trap {
            request,
            client: client.to_owned(),
            after,
            sprung: Arc::clone(&sprung),
        });
        sprung
    }

    /// Ends every open connection; new ones pass.
    pub fn cut(&self) {
        self.state.cuts.fetch_add(1, Ordering::SeqCst);
        for stream in self.state.open().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Whether new connections are closed at once.
    pub fn refuse(&self, yes: bool) {
        self.state.refuse.store(yes, Ordering::SeqCst);
    }
}

impl Drop for KafkaProxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        self.cut();
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
    }
}

fn pass_both_ways(state: &Arc<State>, client: &TcpStream, broker: &TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    state.open().extend([client.try_clone()?, broker.try_clone()?]);
    let doomed: Arc<Mutex<HashSet<i32>>> = Arc::default();
    let requests =
        (Arc::clone(state), Arc::clone(&doomed), client.try_clone()?, broker.try_clone()?);
    let answers = (doomed, broker.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        let (state, doomed, mut from, mut to) = requests;
        while let Ok(frame) = read_frame(&mut from) {
            if let Some((api, correlation, name)) = header(&frame)
                && state.caught(api, &name)
            {
                doomed.lock().unwrap_or_else(PoisonError::into_inner).insert(correlation);
            }
            if write_frame(&mut to, &frame).is_err() {
                break;
            }
        }
        end(&from, &to);
    });
    thread::spawn(move || {
        let (doomed, mut from, mut to) = answers;
        while let Ok(frame) = read_frame(&mut from) {
            let lost = correlation(&frame).is_some_and(|id| {
                doomed.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
            });
            if lost || write_frame(&mut to, &frame).is_err() {
                break;
            }
        }
        end(&from, &to);
    });
    Ok(())
}

fn end(one: &TcpStream, other: &TcpStream) {
    let _ = one.shutdown(Shutdown::Both);
    let _ = other.shutdown(Shutdown::Both);
}

fn read_frame(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut size = [0_u8; 4];
    from.read_exact(&mut size)?;
    let mut frame =
        vec![0_u8; usize::try_from(i32::from_be_bytes(size)).map_err(io::Error::other)?];
    from.read_exact(&mut frame)?;
    Ok(frame)
}

fn write_frame(to: &mut TcpStream, frame: &[u8]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(frame.len() + 4);
    bytes.extend_from_slice(&i32::try_from(frame.len()).map_err(io::Error::other)?.to_be_bytes());
    bytes.extend_from_slice(frame);
    to.write_all(&bytes)
}

/// Request header: api key, api version, correlation id, client id (a 16-bit length in every
/// version in use).
fn header(frame: &[u8]) -> Option<(i16, i32, String)> {
    let api = i16::from_be_bytes(frame.get(..2)?.try_into().ok()?);
    let correlation = i32::from_be_bytes(frame.get(4..8)?.try_into().ok()?);
    let length = i16::from_be_bytes(frame.get(8..10)?.try_into().ok()?);
    let client = frame.get(10..10 + usize::try_from(length).ok()?)?;
    Some((api, correlation, String::from_utf8_lossy(client).into_owned()))
}

fn correlation(frame: &[u8]) -> Option<i32> {
    Some(i32::from_be_bytes(frame.get(..4)?.try_into().ok()?))
}
