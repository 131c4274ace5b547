//! The feeds' state as the operator's commands read it: from the topic alone, without joining a
//! group.

use std::sync::Arc;

use anyhow::{anyhow, bail};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Timestamp,
    config::{Edition, Feed, Settings, parse_instant},
    kafka::{
        Loader, Store,
        control::{Controls, Decisions},
        scan::{self, From},
        tool::Seen,
    },
    schema::{Checkpoint, Codec, DecodeFault, StateKind},
    source::{
        change::{StateKey, call_of},
        query,
        window::Foreign,
    },
};

/// Records between the reader and whoever uses them.
const AHEAD: usize = 1_024;
/// A checkpoint stands among the last records of a feed that runs; a state that is large is then
/// not read whole.
const NEAR_THE_END: u32 = 2_000;

/// The feed of this name, as `clap` reads it.
pub(super) fn feed(name: &str) -> Result<Feed, String> {
    Feed::ALL.into_iter().find(|feed| feed.name() == name).ok_or_else(|| {
        format!(
            "there is no feed of that name; there are {}",
            Feed::ALL.map(Feed::name).join(" and ")
        )
    })
}

/// An instant, as `clap` reads it.
pub(super) fn instant(text: &str) -> Result<Timestamp, String> {
    parse_instant(text).ok_or_else(|| {
        "write an instant with its offset, for example 2026-01-01T00:00:00+08:00".to_owned()
    })
}

/// Feeds are asked for only where they are configured: their accounts, filters and start stand
/// there.
pub(super) fn require(settings: &Settings, feed: Feed) -> anyhow::Result<()> {
    if settings.feed(feed).enabled {
        return Ok(());
    }
    bail!(
        "feeds.{} is not enabled in this configuration; use the one its instances run with",
        feed.name()
    )
}

/// Refuses the state of another account than the configured one.
pub(super) fn owned(settings: &Settings, feed: Feed, at: &Checkpoint) -> anyhow::Result<()> {
    of_account(settings, feed, at).map_err(|foreign| anyhow!("{}: {foreign}", feed.name()))
}

/// Whether a state is of the configured account.
pub(super) fn of_account(settings: &Settings, feed: Feed, at: &Checkpoint) -> Result<(), Foreign> {
    let section = settings.feed(feed);
    let sid = match call_of(feed, section.edition).edition() {
        Edition::Flagship => settings.flagship.as_ref().map(|account| &account.sid),
        Edition::Enterprise => settings.enterprise.as_ref().map(|account| &account.sid),
    };
    let identity = query::identity(feed, section, sid.map_or("", String::as_str));
    identity.owns(at)
}

/// A codec that reads and registers nothing.
pub(super) async fn codec(settings: &Settings) -> anyhow::Result<Arc<Codec>> {
    Ok(Arc::new(match &settings.schema_registry {
        Some(registry) => Codec::connect(Some(registry), &settings.topics, &[]).await?,
        None => Codec::single_object(),
    }))
}

/// What operators decided, as of now.
pub(super) async fn decisions(settings: &Settings) -> anyhow::Result<Arc<Decisions>> {
    let controls = Controls::follow(&settings.kafka, &settings.topics.control, crate::source::ROLE)
        .map_err(|reason| anyhow!(reason))?;
    tokio::time::timeout(std::time::Duration::from_secs(20), controls.settled()).await.map_err(
        |_| {
            anyhow!(
                "no broker answers at {}; see wdt-connector check",
                settings.kafka.bootstrap_servers
            )
        },
    )
}

/// Hands every record of a feed's state to `each`, oldest first.
pub(super) async fn read(
    settings: &Settings,
    feed: Feed,
    from: From,
    mut each: impl FnMut(Seen) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (sender, mut records) = mpsc::channel(AHEAD);
    let (kafka, topic) = (settings.kafka.clone(), settings.topics.feeds_state.clone());
    let reader = tokio::task::spawn_blocking(move || {
        scan::read(&kafka, &topic, &from, false, &sender, &CancellationToken::new())
    });
    while let Some(record) = records.recv().await {
        if record.partition == feed.partition() {
            each(record)?;
        }
    }
    Ok(reader.await??)
}

/// Fills a store with a feed's state as the topic has it now.
pub(super) async fn load(settings: &Settings, feed: Feed, store: &Store) -> anyhow::Result<u64> {
    store.clear(feed.partition())?;
    let mut loader = Loader::new(store.clone());
    let mut count = 0_u64;
    read(settings, feed, From::Beginning, |record| {
        count += 1;
        Ok(loader.push(
            record.partition,
            record.key.as_deref().unwrap_or_default(),
            record.value.as_deref(),
        )?)
    })
    .await?;
    loader.flush()?;
    Ok(count)
}

/// A feed's last checkpoint; `None` when it was never read.
pub(super) async fn checkpoint(
    settings: &Settings,
    codec: &Codec,
    feed: Feed,
) -> anyhow::Result<Option<Checkpoint>> {
    let key = StateKey::checkpoint(feed);
    for from in [From::Last(NEAR_THE_END), From::Beginning] {
        let mut latest = None;
        read(settings, feed, from, |record| {
            if record.key.as_deref() == Some(key.bytes()) {
                latest = record.value;
            }
            Ok(())
        })
        .await?;
        if let Some(bytes) = latest {
            return Ok(Some(decode(codec, &bytes).await?));
        }
    }
    Ok(None)
}

/// Nothing can be ordered of a feed that has never been read.
pub(super) fn no_checkpoint(feed: Feed) -> anyhow::Error {
    let name = feed.name();
    anyhow!("{name} has no checkpoint yet; set feeds.{name}.start_at instead")
}

/// The checkpoint in a state record.
pub(super) async fn decode(codec: &Codec, bytes: &[u8]) -> anyhow::Result<Checkpoint> {
    loop {
        match codec.decode_feed_state(bytes) {
            Ok(state) if state.kind == StateKind::Checkpoint => {
                return state
                    .checkpoint
                    .ok_or_else(|| anyhow!("a checkpoint of the feeds' state is empty"));
            }
            Ok(_) => bail!(
                "a checkpoint's key holds something else; topics.feeds_state must belong to this connector alone"
            ),
            Err(DecodeFault::UnknownSchemaId(id)) => {
                codec.learn(id).await.map_err(|fault| anyhow!(fault.to_string()))?
            }
            Err(DecodeFault::Malformed(reason)) => bail!(reason),
        }
    }
}
