//! Records are sent again, in their order, with progress.

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesOrdered};
use indicatif::ProgressBar;

use crate::{
    config::Settings,
    kafka::{
        Outgoing,
        tool::{Sender, ToolFault},
    },
};

use super::{output, progress};

/// Records that librdkafka holds at once.
const IN_FLIGHT: usize = 500;
/// Bytes of their values, unless one alone has more: a record may be as large as the broker takes it.
const IN_FLIGHT_BYTES: usize = 16 * 1024 * 1024;

/// What became of the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) sent: u64,
    pub(super) refused: u64,
}

/// The place a record was read at, the bytes of its value, and where it stands now.
type Delivery = ((i32, i64), usize, Result<(i32, i64), ToolFault>);

/// Sends records of the commands topic.
pub(super) struct Resending {
    sender: Sender,
    topic: String,
    deliveries: FuturesOrdered<BoxFuture<'static, Delivery>>,
    bytes: usize,
    bar: ProgressBar,
    tally: Tally,
    say: bool,
}

impl Resending {
    /// Asks whether the topic is there. `total`: how many there will be; `say` prints old and new
    /// place, one line each.
    pub(super) async fn start(
        settings: &Settings,
        total: Option<u64>,
        say: bool,
    ) -> anyhow::Result<Self> {
        let sender = Sender::connect(&settings.kafka, settings.commands.partitioner)?;
        let topic = settings.topics.commands.clone();
        let (asked, of) = (sender.clone(), topic.clone());
        tokio::task::spawn_blocking(move || asked.verify(&of)).await??;
        Ok(Self {
            sender,
            topic,
            deliveries: FuturesOrdered::new(),
            bytes: 0,
            bar: progress::bar(total, "sent again"),
            tally: Tally::default(),
            say,
        })
    }

    /// Sends one that was read at this place.
    pub(super) async fn push(&mut self, from: (i32, i64), record: &Outgoing) {
        let bytes = record.value.as_ref().map_or(0, Vec::len);
        while self.deliveries.len() >= IN_FLIGHT
            || (self.bytes > 0 && self.bytes + bytes > IN_FLIGHT_BYTES)
        {
            self.settle().await;
        }
        self.bytes += bytes;
        let queued = self.sender.queue_whole(record);
        self.deliveries.push_back(Box::pin(async move {
            match queued {
                Ok(delivery) => (from, bytes, delivery.await),
                Err(fault) => (from, bytes, Err(fault)),
            }
        }));
    }

    /// Waits for the oldest on its way.
    async fn settle(&mut self) {
        let Some((from, bytes, delivered)) = self.deliveries.next().await else { return };
        self.bytes -= bytes;
        self.bar.inc(1);
        match delivered {
            Ok(to) => {
                self.tally.sent += 1;
                if self.say {
                    let _ = self.bar.suspend(|| {
                        output::say(&format!(
                            "{}:{} → {} {}:{}",
                            from.0, from.1, self.topic, to.0, to.1
                        ))
                    });
                }
            }
            Err(fault) => {
                self.tally.refused += 1;
                self.bar.suspend(|| {
                    output::complain(&format!("{}:{} was not sent again: {fault}", from.0, from.1))
                });
            }
        }
    }

    /// Waits for all.
    pub(super) async fn finish(mut self) -> Tally {
        while !self.deliveries.is_empty() {
            self.settle().await;
        }
        self.bar.finish_and_clear();
        self.tally
    }
}
