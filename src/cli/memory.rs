//! What `commands` and `dlq` know: the journal's newest entries, a return's results and dead
//! letters, the ERP's orders.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context;
use tokio::runtime::Handle;

use crate::{
    config::Settings,
    kafka::{
        scan::{From, Scan},
        tool::Seen,
    },
    schema::{Codec, DecodeFault, EntryKind, JournalEntry},
};

use super::progress;

/// The codec of a tool that only reads: nothing is registered, schemas are learnt from the ids that
/// are met.
pub(super) async fn codec(settings: &Settings) -> anyhow::Result<Arc<Codec>> {
    Ok(Arc::new(match &settings.schema_registry {
        Some(registry) => Codec::connect(Some(registry), &settings.topics, &[]).await?,
        None => Codec::single_object(),
    }))
}

/// Decodes with `read`, asking the registry for a schema that is met for the first time. Blocks.
pub(super) fn decode<T>(
    codec: &Codec,
    runtime: &Handle,
    bytes: &[u8],
    read: impl Fn(&Codec, &[u8]) -> Result<T, DecodeFault>,
) -> Result<T, String> {
    match read(codec, bytes) {
        Err(DecodeFault::UnknownSchemaId(id)) => match runtime.block_on(codec.learn(id)) {
            Ok(()) => read(codec, bytes).map_err(|fault| fault.to_string()),
            Err(fault) => Err(fault.to_string()),
        },
        read => read.map_err(|fault| fault.to_string()),
    }
}

/// Every record of a topic that `take` makes something of, in the order of reading; `only` chooses
/// partitions.
pub(super) async fn collect<T: Send + 'static>(
    settings: &Settings,
    topic: &str,
    only: Option<Vec<i32>>,
    from: From,
    mut take: impl FnMut(Seen) -> Option<T> + Send + 'static,
) -> anyhow::Result<Vec<T>> {
    let (kafka, topic) = (settings.kafka.clone(), topic.to_owned());
    let work = move || {
        let mut found = Vec::new();
        let scan = Scan::open(&kafka, &topic, only.as_deref(), &from)?;
        let bar = progress::bar(Some(scan.length()), topic);
        scan.run(|record, behind| {
            bar.set_position(behind);
            found.extend(take(record));
            true
        })?;
        bar.finish_and_clear();
        anyhow::Ok(found)
    };
    tokio::task::spawn_blocking(work).await.context("the reading ended early")?
}

/// The newest entry of every command that `keep` wants, by journal key; only those are held in
/// memory.
pub(super) async fn journal(
    settings: &Settings,
    codec: &Arc<Codec>,
    only: Option<Vec<i32>>,
    keep: impl Fn(&JournalEntry) -> bool + Send + 'static,
) -> anyhow::Result<BTreeMap<Vec<u8>, JournalEntry>> {
    let (kafka, topic, codec, runtime) = (
        settings.kafka.clone(),
        settings.topics.journal.clone(),
        Arc::clone(codec),
        Handle::current(),
    );
    let work = move || {
        // By partition as well: a migration writes an entry where it belongs and takes it away
        // where it was, in either order to whoever reads both.
        let mut newest: BTreeMap<(Vec<u8>, i32), JournalEntry> = BTreeMap::new();
        let mut unreadable = None;
        let scan = Scan::open(&kafka, &topic, only.as_deref(), &From::Beginning)?;
        let bar = progress::bar(Some(scan.length()), topic.clone());
        scan.run(|record, behind| {
            bar.set_position(behind);
            let Some(key) = record.key else { return true };
            let place = (key, record.partition);
            let Some(bytes) = record.value else {
                newest.remove(&place);
                return true;
            };
            match decode(&codec, &runtime, &bytes, Codec::decode_journal) {
                Ok(entry) => {
                    if matches!(entry.kind, EntryKind::Intent | EntryKind::Outcome) && keep(&entry)
                    {
                        newest.insert(place, entry);
                    } else {
                        newest.remove(&place);
                    }
                    true
                }
                Err(reason) => {
                    unreadable = Some(format!(
                        "{topic} [{}] at offset {} cannot be read: {reason}",
                        record.partition, record.offset
                    ));
                    false
                }
            }
        })?;
        bar.finish_and_clear();
        match unreadable {
            None => {
                let mut all: BTreeMap<Vec<u8>, JournalEntry> = BTreeMap::new();
                for ((key, _), entry) in newest {
                    if all.get(&key).is_none_or(|known| known.version < entry.version) {
                        all.insert(key, entry);
                    }
                }
                Ok(all)
            }
            Some(reason) => Err(anyhow::anyhow!(reason)),
        }
    };
    tokio::task::spawn_blocking(work).await.context("the reading of the journal ended early")?
}

/// Time as an RFC 3339 instant, or so long ago (`2h`).
pub(super) fn when(text: &str) -> Result<crate::clock::Timestamp, String> {
    crate::config::parse_instant(text)
        .or_else(|| crate::config::parse_duration(text).map(|span| crate::clock::Timestamp::now().minus(span)))
        .ok_or_else(|| format!("{text:?} is neither an instant such as 2026-01-01T00:00:00+08:00 nor a span such as 2h"))
}

/// `partition:offset`.
pub(super) fn place(text: &str) -> Result<(i32, i64), String> {
    text.split_once(':')
        .and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)))
        .filter(|(partition, offset)| *partition >= 0 && *offset >= 0)
        .ok_or_else(|| format!("{text:?} is not PARTITION:OFFSET, such as 3:1200"))
}

/// At most so many characters of a text, on one line.
pub(super) fn short(text: &str, most: usize) -> String {
    let line = text.replace(['\n', '\r', '\t'], " ");
    if line.chars().count() <= most {
        return line;
    }
    let cut: String = line.chars().take(most.saturating_sub(1)).collect();
    format!("{cut}…")
}

/// A table without frames, as wide as it needs to be.
pub(super) fn table(header: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header.to_vec());
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_times_are_read_or_refused_with_an_example() {
        assert_eq!(place("3:1200"), Ok((3, 1200)));
        for text in ["", "3", "a:b", "-1:2", "1:-2"] {
            assert!(place(text).is_err(), "{text}");
        }
        assert_eq!(when("1970-01-01T00:00:01Z"), Ok(crate::clock::Timestamp(1000)));
        assert!(when("2h").unwrap() < crate::clock::Timestamp::now());
        assert!(when("yesterday").unwrap_err().contains("2h"));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(short("一二三四", 3), "一二…");
        assert_eq!(short("a\nb", 9), "a b");
    }
}
