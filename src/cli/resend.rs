//! Records are sent again, in their order, with progress.

use futures_util::{StreamExt, stream::FuturesOrdered};

use crate::{
    config::Settings,
    kafka::{Outgoing, tool::Sender},
};

use super::{output, progress};

/// Records that librdkafka holds at once.
const IN_FLIGHT: usize = 500;

/// What became of the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) sent: u64,
    pub(super) refused: u64,
}

/// Sends every record; each comes with the place it was read at. `say` prints old and new place,
/// one line each.
pub(super) async fn all(
    settings: &Settings,
    records: Vec<((i32, i64), Outgoing)>,
    say: bool,
) -> anyhow::Result<Tally> {
    let sender = Sender::connect(&settings.kafka, settings.commands.partitioner)?;
    let (asked, of) = (sender.clone(), settings.topics.commands.clone());
    tokio::task::spawn_blocking(move || asked.verify(&of)).await??;
    let bar = progress::bar(u64::try_from(records.len()).ok(), "sent again");
    let mut tally = Tally::default();
    let mut deliveries = FuturesOrdered::new();
    let mut records = records.into_iter();
    loop {
        while deliveries.len() < IN_FLIGHT {
            let Some((from, record)) = records.next() else { break };
            let queued = sender.queue_whole(&record);
            deliveries.push_back(async move {
                match queued {
                    Ok(delivery) => (from, delivery.await),
                    Err(fault) => (from, Err(fault)),
                }
            });
        }
        let Some((from, delivered)) = deliveries.next().await else { break };
        bar.inc(1);
        match delivered {
            Ok(to) => {
                tally.sent += 1;
                if say {
                    let _ = bar.suspend(|| {
                        output::say(&format!(
                            "{}:{} → {} {}:{}",
                            from.0, from.1, settings.topics.commands, to.0, to.1
                        ))
                    });
                }
            }
            Err(fault) => {
                tally.refused += 1;
                bar.suspend(|| {
                    output::complain(&format!("{}:{} was not sent again: {fault}", from.0, from.1))
                });
            }
        }
    }
    bar.finish_and_clear();
    Ok(tally)
}
