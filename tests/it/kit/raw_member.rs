//! A member of a consumer group that speaks Kafka's protocol itself, to do what no client does: lead
//! a group and leave partitions out of the assignment. FindCoordinator v1, JoinGroup
//! v5, SyncGroup v3, Heartbeat v3 and
//! LeaveGroup v1 of Kafka's protocol guide.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

const FIND_COORDINATOR: (i16, i16) = (10, 1);
const JOIN_GROUP: (i16, i16) = (11, 5);
const HEARTBEAT: (i16, i16) = (12, 3);
const LEAVE_GROUP: (i16, i16) = (13, 1);
const SYNC_GROUP: (i16, i16) = (14, 3);
const REBALANCE_IN_PROGRESS: i16 = 27;

/// A static member that joined first and so leads the group. Leaves when dropped.
pub struct Leader {
    over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Leader {
    /// Joins the group of a topic at the broker that coordinates it. To each of the other members,
    /// in the order of their instance ids, it assigns the partitions of `shares`; to itself none.
    pub fn join(address: &str, group: &str, topic: &str, shares: &[&[i32]]) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut member = Member {
            stream: TcpStream::connect(address).expect("the broker listens"),
            group: group.to_owned(),
            topic: topic.to_owned(),
            shares: shares.iter().map(|share| share.to_vec()).collect(),
            id: String::new(),
            generation: -1,
        };
        member.join();
        let ended = Arc::clone(&over);
        let thread = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                if member.heartbeat() == REBALANCE_IN_PROGRESS {
                    member.join();
                }
                thread::sleep(Duration::from_millis(200));
            }
            member.leave();
        });
        Self { over, thread: Some(thread) }
    }

    /// Leaves the group.
    pub fn leave(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.end();
    }
}

struct Member {
    stream: TcpStream,
    group: String,
    topic: String,
    shares: Vec<Vec<i32>>,
    id: String,
    generation: i32,
}

const INSTANCE: &str = "leader-of-a-test";

impl Member {
    /// Joins the next generation and assigns its partitions.
    fn join(&mut self) {
        let mut subscription = Writer::default();
        subscription.short(0).int(1).text(&self.topic).int(-1);
        let mut body = Writer::default();
        body.text(&self.group).int(30_000).int(30_000).text(&self.id).text(INSTANCE);
        body.text("consumer").int(1).text("range").bytes(&subscription.0);
        let answer = super::until("a coordinator", Duration::from_secs(30), || {
            let answer = self.ask(JOIN_GROUP, &body.0);
            match i16::from_be_bytes([answer[4], answer[5]]) {
                0 => Some(answer),
                // The first question creates the topic of the groups' offsets.
                14..=16 => {
                    let mut body = Writer::default();
                    body.text(&self.group);
                    body.0.push(0);
                    self.ask(FIND_COORDINATOR, &body.0);
                    None
                }
                error => panic!("JoinGroup: {error}"),
            }
        });
        let mut answer = Reader(&answer);
        answer.int();
        answer.short();
        self.generation = answer.int();
        answer.text();
        let leader = answer.text();
        self.id = answer.text();
        assert_eq!(leader, self.id, "it joined first");
        let mut others = BTreeMap::new();
        for _ in 0..answer.int() {
            let (id, instance) = (answer.text(), answer.text());
            answer.bytes();
            if instance != INSTANCE {
                others.insert(instance, id);
            }
        }
        let mut body = Writer::default();
        body.text(&self.group).int(self.generation).text(&self.id).text(INSTANCE);
        body.int(i32::try_from(others.len()).expect("a few members"));
        for (at, id) in others.values().enumerate() {
            let share = self.shares.get(at).map_or(&[][..], Vec::as_slice);
            let mut assignment = Writer::default();
            assignment.short(0).int(1).text(&self.topic);
            assignment.int(i32::try_from(share.len()).expect("a few partitions"));
            share.iter().for_each(|partition| {
                assignment.int(*partition);
            });
            assignment.int(-1);
            body.text(id).bytes(&assignment.0);
        }
        let answer = self.ask(SYNC_GROUP, &body.0);
        let mut answer = Reader(&answer);
        answer.int();
        let error = answer.short();
        assert!(error == 0 || error == REBALANCE_IN_PROGRESS, "SyncGroup: {error}");
    }

    fn heartbeat(&mut self) -> i16 {
        let mut body = Writer::default();
        body.text(&self.group).int(self.generation).text(&self.id).text(INSTANCE);
        let answer = self.ask(HEARTBEAT, &body.0);
        let mut answer = Reader(&answer);
        answer.int();
        answer.short()
    }

    fn leave(&mut self) {
        let mut body = Writer::default();
        body.text(&self.group).text(&self.id);
        self.ask(LEAVE_GROUP, &body.0);
    }

    /// The response without its correlation id.
    fn ask(&mut self, (api, version): (i16, i16), body: &[u8]) -> Vec<u8> {
        let mut request = Writer::default();
        request.short(api).short(version).int(1).short(-1);
        request.0.extend(body);
        let length = i32::try_from(request.0.len()).expect("a small request");
        self.stream.write_all(&length.to_be_bytes()).expect("the broker reads");
        self.stream.write_all(&request.0).expect("the broker reads");
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).expect("the broker answers");
        let mut answer = vec![0; usize::try_from(i32::from_be_bytes(length)).expect("a length")];
        self.stream.read_exact(&mut answer).expect("the whole answer");
        answer.split_off(4)
    }
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn short(&mut self, value: i16) -> &mut Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn int(&mut self, value: i32) -> &mut Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.short(i16::try_from(text.len()).expect("a short text"));
        self.0.extend(text.as_bytes());
        self
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.int(i32::try_from(bytes.len()).expect("a few bytes"));
        self.0.extend(bytes);
        self
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self, count: usize) -> &[u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn short(&mut self) -> i16 {
        i16::from_be_bytes(self.take(2).try_into().expect("two bytes"))
    }

    fn int(&mut self) -> i32 {
        i32::from_be_bytes(self.take(4).try_into().expect("four bytes"))
    }

    /// Empty where it is null.
    fn text(&mut self) -> String {
        let length = usize::try_from(self.short()).unwrap_or(0);
        String::from_utf8(self.take(length).to_vec()).expect("text")
    }

    fn bytes(&mut self) {
        let length = usize::try_from(self.int()).unwrap_or(0);
        self.take(length);
    }
}
