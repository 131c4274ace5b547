//! Where a topic's partitions end, for the lag: asked for, because a paused consumer is told
//! nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::Duration,
};

use rdkafka::consumer::{BaseConsumer, Consumer};

use super::control::{Controls, Quiet};

/// How often the ends are asked for. One request per partition; nothing depends on it but a figure.
const EVERY: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(5);

/// A handle on the asking thread, which ends with it.
pub(crate) struct EndOffsets(Arc<Shared>);

impl fmt::Debug for EndOffsets {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("EndOffsets")
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    watched: BTreeSet<i32>,
    ends: BTreeMap<i32, i64>,
    /// No thread could be had, or the handle is gone.
    over: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EndOffsets {
    /// Watches no partition yet. The client that follows the control topic asks.
    #[must_use]
    pub(crate) fn of(controls: &Controls, topic: &str) -> Self {
        let shared = Arc::new(Shared::default());
        let (weak, client, topic) = (Arc::downgrade(&shared), controls.client(), topic.to_owned());
        let asking =
            thread::Builder::new().name("ends".into()).spawn(move || ask(&weak, &client, &topic));
        if let Err(error) = asking {
            tracing::warn!(%error, "failed to start the consumer lag thread; lag stays unknown");
        }
        Self(shared)
    }

    /// Which partitions to ask about from now on.
    pub(crate) fn watch(&self, partitions: impl Iterator<Item = i32>) {
        let wanted: BTreeSet<i32> = partitions.collect();
        let mut state = self.0.lock();
        if state.watched != wanted {
            state.ends.retain(|partition, _| wanted.contains(partition));
            state.watched = wanted;
            self.0.changed.notify_all();
        }
    }

    /// The offset after the last record of a partition, as of a few seconds ago; `None` before the
    /// first answer.
    #[must_use]
    pub(crate) fn end(&self, partition: i32) -> Option<i64> {
        self.0.lock().ends.get(&partition).copied()
    }
}

impl Drop for EndOffsets {
    fn drop(&mut self) {
        self.0.lock().over = true;
        self.0.changed.notify_all();
    }
}

fn ask(shared: &Weak<Shared>, client: &Weak<BaseConsumer<Quiet>>, topic: &str) {
    let mut asked = BTreeSet::new();
    while let Some(shared) = shared.upgrade() {
        let watched = {
            let state = shared.lock();
            let waits = |state: &mut State| {
                !state.over && (state.watched.is_empty() || state.watched == asked)
            };
            let (state, _) = shared
                .changed
                .wait_timeout_while(state, EVERY, waits)
                .unwrap_or_else(PoisonError::into_inner);
            if state.over {
                return;
            }
            state.watched.clone()
        };
        if watched.is_empty() {
            asked = watched;
            continue;
        }
        for partition in &watched {
            let Some(consumer) = client.upgrade() else { return };
            // A broker that does not answer leaves the last figure.
            if let Ok((_, end)) = consumer.fetch_watermarks(topic, *partition, TIMEOUT) {
                let mut state = shared.lock();
                if state.over {
                    return;
                }
                if state.watched.contains(partition) {
                    state.ends.insert(*partition, end);
                }
            }
        }
        asked = watched;
    }
}
