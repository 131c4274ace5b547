//! The order in which the model writes a transaction, and a test that the product has the same one.

use std::sync::Arc;

use crate::{
    crash::{self, Point},
    kafka::{
        Batch, Group, GroupEvent, GroupOptions, LEAVE, Outgoing, Position, Transactor,
        mock::MockBroker,
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

/// librdkafka's in-process broker is enough: it takes transactions, whatever it does with them.
#[tokio::test]
async fn a_transaction_is_written_in_the_models_order() {
    const ROLE: &str = "models-order";
    let broker = MockBroker::start(&[("in", 1), ("out", 1)]).unwrap();
    let text = format!(
        "[kafka]\nbootstrap_servers = \"{}\"\napplication_id = \"order\"\ninstance_ordinal = 0",
        broker.bootstrap_servers()
    );
    let kafka = crate::config::from_toml(&text, std::iter::empty()).unwrap().settings.kafka;
    let options = GroupOptions { role: ROLE.into(), topic: "in".into(), pending_limit: 10 };
    let (group, mut events) = Group::join(&kafka, options).unwrap();
    let lease = loop {
        if let GroupEvent::Assigned(leases) = events.recv().await.unwrap() {
            break leases[0];
        }
    };
    let record = Outgoing {
        topic: "out".into(),
        partition: Some(0),
        key: None,
        value: Some(b"value".to_vec()),
        headers: Vec::new(),
    };
    let batch = Batch {
        group: group.clone(),
        positions: vec![Position { lease, offset: 1, metadata: String::new() }],
        records: vec![Arc::new(record)],
    };
    Transactor::start(&kafka, ROLE).unwrap().commit(batch).await.unwrap();
    group.abandon(LEAVE).await;
    let passed: Vec<_> = crash::trail(&format!("txn-{ROLE}"))
        .into_iter()
        .skip_while(|point| *point != Point::TxnBegun)
        .skip(1)
        .collect();
    assert_eq!(passed, TRANSACTION.map(Part::points).concat());
}
