//! Which command is behind an outbound order: an index over the whole journal, read beside the
//! pipeline.
//!
//! The journal's keys alone say it, as a marker follows from the return and the command's id. The
//! index is a disposable cache on disk, so its memory does not grow with the journal; it follows
//! the journal within a fraction of a second, and an intent is committed before its order can
//! exist, so an order is not seen before its command.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use crate::{
    config::{KafkaSettings, Settings},
    kafka::{
        Change, Store, StoreFault, borrowed,
        follow::{Followed, Follower, follow},
    },
};

/// Which command is behind an outbound order. Asked for every outbound event; `None` while it is
/// not known (yet).
pub trait MarkerIndex: Send + Sync + 'static {
    /// The command id and the marker, from the order's return and its remark.
    fn lookup(&self, return_no: &str, remark: &str) -> Option<(String, String)>;

    /// Asked by the owner of the outbound feed before it publishes: begins what has to be begun,
    /// and says whether everything that was journaled by now is known.
    fn ready(&self) -> bool {
        true
    }
}

impl std::fmt::Debug for dyn MarkerIndex {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("MarkerIndex")
    }
}

/// Knows no command: `source.command_id` and `source.marker` stay null.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NoMarkers;

impl MarkerIndex for NoMarkers {
    fn lookup(&self, _return_no: &str, _remark: &str) -> Option<(String, String)> {
        None
    }
}

/// Characters of a marker, `#` included.
const MARKER: usize = 14;
/// Entries collected before they are written; fewer when the journal is quiet.
const BATCH: usize = 1_000;
/// The store's only table.
const TABLE: i32 = 0;

/// The marker of a command, from its return and its id.
pub(crate) type MarkerOf = fn(&str, &str) -> String;

/// The index over the journal.
#[derive(Debug)]
pub(crate) struct JournalMarkers {
    store: Store,
    kafka: KafkaSettings,
    topic: String,
    marker: MarkerOf,
    loaded: Arc<AtomicBool>,
    reader: Mutex<Option<Follower>>,
}

impl JournalMarkers {
    /// An empty index that begins to read when it is first asked whether it is ready.
    ///
    /// # Errors
    /// [`StoreFault`] when the cache cannot be written.
    pub(crate) fn new(settings: &Settings, marker: MarkerOf) -> Result<Self, StoreFault> {
        Ok(Self {
            store: Store::create(&settings.cache_dir, "markers")?,
            kafka: settings.kafka.clone(),
            topic: settings.topics.journal.clone(),
            marker,
            loaded: Arc::default(),
            reader: Mutex::default(),
        })
    }

    fn begin(&self) -> Result<Follower, String> {
        let mut entries = Entries {
            store: self.store.clone(),
            marker: self.marker,
            changes: Vec::new(),
            failed: false,
        };
        let loaded = Arc::clone(&self.loaded);
        follow(&self.kafka, "markers", &self.topic, move |seen| match seen {
            Followed::Begun => {}
            Followed::Record { partition, key, value, .. } => {
                entries.push(partition, key, value.is_some())
            }
            Followed::Quiet(_) => {
                entries.flush();
                loaded.store(true, Ordering::Release);
            }
        })
    }
}

impl MarkerIndex for JournalMarkers {
    fn lookup(&self, return_no: &str, remark: &str) -> Option<(String, String)> {
        let marker = remark.get(..MARKER).filter(|marker| marker.starts_with('#'))?;
        let mut found = None;
        let scanned = self.store.scan(TABLE, &index_key(return_no, marker), |_, command_id| {
            found = Some(command_id.to_vec());
            false
        });
        match scanned {
            Ok(()) => Some((String::from_utf8(found?).ok()?, marker.to_owned())),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "command index unreadable; outbound order published without its command id"
                );
                None
            }
        }
    }

    fn ready(&self) -> bool {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if reader.is_none() {
            match self.begin() {
                Ok(follower) => *reader = Some(follower),
                Err(error) => {
                    tracing::warn!(
                        %error,
                        "failed to read the command index's topic; \
                         outbound orders are published without command ids"
                    );
                    return true;
                }
            }
        }
        self.loaded.load(Ordering::Acquire)
    }
}

/// What the keys of a command's entries begin with; the partition of the journal follows.
fn index_key(return_no: &str, marker: &str) -> Vec<u8> {
    serde_json::json!([return_no, marker]).to_string().into_bytes()
}

/// What the journal says, on its way into the store.
struct Entries {
    store: Store,
    marker: MarkerOf,
    changes: Vec<Change>,
    failed: bool,
}

impl Entries {
    fn push(&mut self, partition: i32, key: &[u8], holds: bool) {
        // Barriers and the like have keys of another shape.
        let Ok((return_no, command_id)) = serde_json::from_slice::<(String, String)>(key) else {
            return;
        };
        let mut key = index_key(&return_no, &(self.marker)(&return_no, &command_id));
        // A migration writes an entry where it belongs and takes it away where it was, read in
        // either order.
        key.extend_from_slice(&partition.to_be_bytes());
        self.changes.push((key, holds.then(|| command_id.into_bytes())));
        if self.changes.len() >= BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.changes.is_empty() {
            return;
        }
        let written = self.store.apply(TABLE, borrowed(&self.changes));
        self.changes.clear();
        if let Err(error) = written
            && !std::mem::replace(&mut self.failed, true)
        {
            tracing::warn!(
                %error,
                "failed to write the command index; \
                 outbound orders may be published without command ids"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(return_no: &str, command_id: &str) -> String {
        format!("#{:>13}", format!("{return_no}{command_id}")).replace(' ', "A")
    }

    #[test]
    fn a_command_is_found_by_return_and_marker_until_the_journal_forgets_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path(), "markers").unwrap();
        let loaded = Arc::new(AtomicBool::new(true));
        let kafka = crate::config::from_toml("", std::iter::empty()).unwrap().settings.kafka;
        let index = JournalMarkers {
            store: store.clone(),
            kafka,
            topic: "j".into(),
            marker,
            loaded,
            reader: Mutex::default(),
        };
        let mut entries = Entries { store, marker, changes: Vec::new(), failed: false };
        entries.push(2, br#"["R\"1","c-1"]"#, true);
        entries.push(2, br##"["#barrier",3]"##, true);
        entries.push(2, b"nonsense", true);
        entries.flush();
        let remark = format!("{} the sender's", marker("R\"1", "c-1"));
        assert_eq!(index.lookup("R\"1", &remark), Some(("c-1".to_owned(), marker("R\"1", "c-1"))));
        assert_eq!(index.lookup("R2", &remark), None, "another return");
        for other in ["", "#", "no marker at all", "#旺店通旺店通旺店通"] {
            assert_eq!(index.lookup("R\"1", other), None, "{other}");
        }
        let mut known_after = |changes: &[(i32, bool)]| {
            changes.iter().for_each(|(partition, holds)| {
                entries.push(*partition, br#"["R\"1","c-1"]"#, *holds)
            });
            entries.flush();
            index.lookup("R\"1", &remark).is_some()
        };
        // It moves from 2 to 5, and later back, seen in any order.
        assert!(known_after(&[(2, false), (5, true)]));
        assert!(known_after(&[(2, true), (5, false)]));
        assert!(known_after(&[(5, true), (2, true), (2, false)]));
        assert!(!known_after(&[(5, false)]));
    }
}
