//! What `commands` and `dlq` know: the journal's newest entries, a return's results and dead
//! letters, the ERP's orders.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, anyhow};
use sha2::{Digest as _, Sha256};
use tokio::{runtime::Handle, sync::mpsc, task::JoinHandle};

use crate::{
    config::Settings,
    kafka::{
        scan::{From, Scan},
        tool::Seen,
    },
    schema::{Codec, DecodeFault, EntryKind, JournalEntry},
    sink::letter::Letter,
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

/// Records read ahead of whoever works on them: each may be as large as the broker takes one.
const AHEAD: usize = 16;

/// What `take` made of a topic's records, while they are read: a topic is never held in memory.
pub(super) struct Reading<T> {
    records: mpsc::Receiver<T>,
    work: Option<JoinHandle<anyhow::Result<()>>>,
}

impl<T> Reading<T> {
    /// The next one, in the order of reading; `None` at the end.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<T>> {
        if let Some(one) = self.records.recv().await {
            return Ok(Some(one));
        }
        match self.work.take() {
            Some(work) => work.await.context("the reading ended early")?.map(|()| None),
            None => Ok(None),
        }
    }
}

/// Begins to read a topic; `only` chooses partitions. `take` leaves records out, or ends the reading
/// with what is wrong with one.
pub(super) fn read<T: Send + 'static>(
    settings: &Settings,
    topic: &str,
    only: Option<Vec<i32>>,
    from: From,
    mut take: impl FnMut(Seen) -> anyhow::Result<Option<T>> + Send + 'static,
) -> Reading<T> {
    let (kafka, topic) = (settings.kafka.clone(), topic.to_owned());
    let (sender, records) = mpsc::channel(AHEAD);
    let work = move || {
        let mut wrong = None;
        let scan = Scan::open(&kafka, &topic, only.as_deref(), &from)?;
        let bar = progress::bar(Some(scan.length()), topic);
        scan.run(|record, behind| {
            bar.set_position(behind);
            match take(record) {
                Ok(None) => true,
                Ok(Some(one)) => sender.blocking_send(one).is_ok(),
                Err(error) => {
                    wrong = Some(error);
                    false
                }
            }
        })?;
        bar.finish_and_clear();
        wrong.map_or(Ok(()), Err)
    };
    Reading { records, work: Some(tokio::task::spawn_blocking(work)) }
}

/// All that `take` makes of a topic's records at once: for what is few and small.
pub(super) async fn collect<T: Send + 'static>(
    settings: &Settings,
    topic: &str,
    only: Option<Vec<i32>>,
    from: From,
    mut take: impl FnMut(Seen) -> Option<T> + Send + 'static,
) -> anyhow::Result<Vec<T>> {
    let mut reading = read(settings, topic, only, from, move |record| Ok(take(record)));
    let mut found = Vec::new();
    while let Some(one) = reading.next().await? {
        found.push(one);
    }
    Ok(found)
}

/// What stands for a key or a content of any size: 128 bits of its SHA-256.
pub(super) type Digest = [u8; 16];

/// The digest of some bytes.
pub(super) fn digest(bytes: &[u8]) -> Digest {
    let mut digest = Digest::default();
    digest.iter_mut().zip(Sha256::digest(bytes)).for_each(|(to, from)| *to = from);
    digest
}

/// The digest of a record's key and value.
pub(super) fn content(letter: &Letter) -> Digest {
    let mut bytes = Vec::new();
    for part in [&letter.key, &letter.value] {
        bytes.extend(part.as_deref().map_or([0; 16], digest));
    }
    digest(&bytes)
}

/// One record of a journal.
pub(super) struct Entry {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) key: Vec<u8>,
    /// As it stands there, and read; `None` is a tombstone.
    pub(super) value: Option<(Vec<u8>, JournalEntry)>,
}

/// Begins to read a journal.
pub(super) fn entries(
    settings: &Settings,
    codec: &Arc<Codec>,
    journal: &str,
    only: Option<Vec<i32>>,
    from: From,
) -> Reading<Entry> {
    let (codec, runtime, topic) = (Arc::clone(codec), Handle::current(), journal.to_owned());
    read(settings, journal, only, from, move |Seen { partition, offset, key, value, .. }| {
        let Some(key) = key else { return Ok(None) };
        let value = value
            .map(|bytes| {
                decode(&codec, &runtime, &bytes, Codec::decode_journal).map(|entry| (bytes, entry))
            })
            .transpose()
            .map_err(|reason| {
                anyhow!("{topic} [{partition}] at offset {offset} cannot be read: {reason}")
            })?;
        Ok(Some(Entry { partition, offset, key, value }))
    })
}

/// By key and partition, version of a command's newest entry and what is kept of it. By partition as
/// well: a repartition writes an entry where it belongs and takes it away where it was, in either
/// order to whoever reads both.
pub(super) type Known<T> = BTreeMap<(Digest, i32), (i64, T)>;

/// What `keep` makes of every command's newest entry.
pub(super) async fn known<T>(
    mut reading: Reading<Entry>,
    mut keep: impl FnMut(&Entry, &JournalEntry) -> Option<T>,
) -> anyhow::Result<Known<T>> {
    let mut known = Known::new();
    while let Some(record) = reading.next().await? {
        let place = (digest(&record.key), record.partition);
        let kept = record.value.as_ref().and_then(|(_, entry)| {
            let of_command = matches!(entry.kind, EntryKind::Intent | EntryKind::Outcome);
            Some((entry.version, keep(&record, entry).filter(|_| of_command)?))
        });
        match kept {
            Some(kept) => known.insert(place, kept),
            None => known.remove(&place),
        };
    }
    Ok(known)
}

/// What `keep` makes of the newest entry of every command of topics.journal, by the digest of its
/// key.
pub(super) async fn journal<T>(
    settings: &Settings,
    codec: &Arc<Codec>,
    only: Option<Vec<i32>>,
    keep: impl FnMut(&Entry, &JournalEntry) -> Option<T>,
) -> anyhow::Result<BTreeMap<Digest, T>> {
    let reading = entries(settings, codec, &settings.topics.journal, only, From::Beginning);
    let mut newest: BTreeMap<Digest, (i64, T)> = BTreeMap::new();
    for ((key, _), (version, kept)) in known(reading, keep).await? {
        if newest.get(&key).is_none_or(|(known, _)| *known < version) {
            newest.insert(key, (version, kept));
        }
    }
    Ok(newest.into_iter().map(|(key, (_, kept))| (key, kept)).collect())
}

/// The ranges that hold these places.
pub(super) fn around(places: impl IntoIterator<Item = (i32, i64)>) -> From {
    let mut ranges: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
    for (partition, offset) in places {
        let (begin, end) = ranges.entry(partition).or_insert((offset, offset + 1));
        (*begin, *end) = ((*begin).min(offset), (*end).max(offset + 1));
    }
    From::Ranges(ranges)
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
    fn the_ranges_around_places_hold_each_and_no_partition_more() {
        assert_eq!(
            around([(1, 7), (0, 3), (1, 5)]),
            From::Ranges(BTreeMap::from([(0, (3, 4)), (1, (5, 8))]))
        );
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(short("一二三四", 3), "一二…");
        assert_eq!(short("a\nb", 9), "a b");
    }
}
