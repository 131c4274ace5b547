//! The order in which the model writes a transaction and takes a partition over, and tests that the
//! product has the same one. With another order a stale owner could journal what its successor does
//! not read (`docs/delivery.md#ownership-and-takeover`).

use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use crate::{
    config::KafkaSettings,
    crash::{self, Point},
    kafka::{
        Batch, Group, GroupEvent, GroupOptions, LEAVE, Lease, Outgoing, Position, TakeOver,
        Transactor, mock::MockBroker, take_over,
    },
};

/// What a transaction consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// Every record, until the broker has confirmed the last one.
    Records,
    /// The input offsets with the group's metadata: the broker checks member and generation here
    /// and nowhere else.
    Offsets,
    /// The commit.
    End,
}

/// A transaction's parts as they are written.
pub(super) const TRANSACTION: [Part; 3] = [Part::Records, Part::Offsets, Part::End];

impl Part {
    /// The points that are passed within it, where there is one record.
    fn points(self) -> [Point; 2] {
        match self {
            Self::Records => [Point::TxnSent, Point::TxnDelivered],
            Self::Offsets => [Point::TxnOffsetsSending, Point::TxnOffsetsSent],
            Self::End => [Point::TxnCommitting, Point::TxnCommitted],
        }
    }
}

/// What a new owner does before it judges a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum TakeOverPart {
    /// The stable committed offsets: asked for again while a transaction that carries some is
    /// pending. Both logs are held against them: a topic that lost everything is refused before the
    /// barrier, which would make it look like a living one.
    Offsets,
    /// A record of its own, with those same offsets.
    Barrier,
    /// Everything up to the barrier; what was written before it is decided when the barrier can be
    /// read.
    Read,
}

/// A takeover's parts as they are done.
pub(super) const TAKE_OVER: [TakeOverPart; 3] =
    [TakeOverPart::Offsets, TakeOverPart::Barrier, TakeOverPart::Read];

impl TakeOverPart {
    fn point(self) -> Point {
        match self {
            Self::Offsets => Point::TakeOverOffsets,
            Self::Barrier => Point::TakeOverBarrier,
            Self::Read => Point::TakeOverRead,
        }
    }
}

/// A member of a group that owns the only partition of a topic, and a topic to write to.
/// librdkafka's in-process broker is enough: it takes transactions, whatever it does with them.
struct Member {
    kafka: KafkaSettings,
    role: &'static str,
    group: Group,
    lease: Lease,
    transactor: Transactor,
    /// A membership lasts as long as somebody listens.
    _events: mpsc::UnboundedReceiver<GroupEvent>,
    _broker: MockBroker,
}

impl Member {
    async fn join(role: &'static str) -> Self {
        let broker = MockBroker::start(&[("in", 1), ("out", 1)]).unwrap();
        let text = format!(
            "[kafka]\nbootstrap_servers = \"{}\"\napplication_id = \"order\"\ninstance_ordinal = 0",
            broker.bootstrap_servers()
        );
        let kafka = crate::config::from_toml(&text, std::iter::empty()).unwrap().settings.kafka;
        let options = GroupOptions { role: role.into(), topic: "in".into(), pending_limit: 10 };
        let (group, mut events) = Group::join(&kafka, options).unwrap();
        let lease = loop {
            if let GroupEvent::Assigned(leases) = events.recv().await.unwrap() {
                break leases[0];
            }
        };
        let transactor = Transactor::start(&kafka, role, "out", false).unwrap();
        Self { kafka, role, group, lease, transactor, _events: events, _broker: broker }
    }

    fn record(value: &[u8]) -> Outgoing {
        Outgoing {
            topic: "out".into(),
            partition: Some(0),
            key: Some(b"key".to_vec()),
            value: Some(value.to_vec()),
            headers: Vec::new(),
        }
    }

    async fn commit(&self) {
        let batch = Batch {
            group: self.group.clone(),
            positions: vec![Position { lease: self.lease, offset: 0, metadata: String::new() }],
            records: vec![Arc::new(Self::record(b"value"))],
        };
        self.transactor.commit(batch).await.unwrap();
    }
}

#[tokio::test]
async fn a_transaction_is_written_in_the_models_order() {
    let member = Member::join("order-of-a-transaction").await;
    member.commit().await;
    member.group.abandon(LEAVE).await;
    let passed: Vec<_> = crash::trail(&format!("txn-{}", member.role))
        .into_iter()
        .skip_while(|point| *point != Point::TxnBegun)
        .skip(1)
        .collect();
    assert_eq!(passed, TRANSACTION.map(Part::points).concat());
}

#[tokio::test]
async fn a_partition_is_taken_over_in_the_models_order() {
    let member = Member::join("order-of-a-takeover").await;
    member.commit().await;
    // The runtime of this test has one thread, and reads on another one.
    let here = std::thread::current().name().unwrap().to_owned();
    let before = crash::trail(&here).len();
    let passed: Arc<Mutex<Vec<Point>>> = Arc::default();
    let seen = Arc::clone(&passed);
    let apply = Box::new(move |_: i32, _: i64, _: &[u8], _: Option<&[u8]>| {
        let mut seen = seen.lock().unwrap();
        *seen = crash::trail(&here).split_off(before);
        seen.push(Point::TakeOverRead);
        Ok(())
    });
    let wanted = TakeOver { lease: member.lease, barrier: Member::record(b"barrier") };
    let restored =
        take_over(&member.kafka, &member.group, &member.transactor, vec![wanted], apply).await;
    member.group.abandon(LEAVE).await;
    assert_eq!(restored.unwrap()[0].entries, 1);
    assert_eq!(*passed.lock().unwrap(), TAKE_OVER.map(TakeOverPart::point));
}
