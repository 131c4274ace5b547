//! What the compacted topics say, on disk: a disposable cache that is never the truth.

use std::{
    fs, io,
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};

use redb::{
    Database, Durability, ReadOnlyTable, ReadableDatabase, StorageBackend, TableDefinition,
    TableError, backends::FileBackend,
};

use crate::background;

/// Why the local cache failed: one sentence with the path and what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct StoreFault(pub String);

/// Pages redb keeps in memory; the rest is the operating system's file cache.
const MEMORY: usize = 8 * 1024 * 1024;

/// A key-value store, one table per partition; cheap to clone. Deleted with its last handle.
#[derive(Clone)]
pub(crate) struct Store(Arc<File>);

struct File {
    /// Always there until the drop.
    database: Option<Database>,
    path: PathBuf,
    commits: AtomicU64,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("Store").field(&self.0.path).finish()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.database.take();
        // A left-over file is overwritten by the next start.
        let _ = fs::remove_file(&self.path);
    }
}

/// A key and its value.
pub(super) type Entry = (Vec<u8>, Vec<u8>);

/// A partition as it was at one moment.
pub(crate) struct View {
    store: Store,
    /// `None` while nothing was ever put there.
    table: Option<ReadOnlyTable<&'static [u8], &'static [u8]>>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("View").field(&self.store).finish()
    }
}

/// A file that is never synced: the topic is the truth, and nothing here has to survive the process.
#[derive(Debug)]
struct Unsynced(FileBackend);

impl StorageBackend for Unsynced {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}

/// Commits this often to a cache under `folder`, for `benches/limits.rs`.
///
/// # Errors
/// [`StoreFault`].
pub fn commit_often(folder: &Path, times: u32) -> Result<(), StoreFault> {
    let store = Store::create(folder, "commits")?;
    (0..times).try_for_each(|at| store.apply(0, [(&b"key"[..], Some(&at.to_be_bytes()[..]))]))
}

/// Commits from one that redb takes for durable to the next: it keeps some 40 bytes for each until
/// then.
const DURABLE_EVERY: u64 = 1000;

impl View {
    /// The value of a key.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        let Some(table) = &self.table else { return Ok(None) };
        Ok(table
            .get(key)
            .map_err(|error| self.store.fault(error))?
            .map(|value| value.value().to_vec()))
    }
}

/// One change: a key with its new value, or without one to delete it.
pub(crate) type Change = (Vec<u8>, Option<Vec<u8>>);

/// The same, borrowed.
pub(super) type ChangeRef<'a> = (&'a [u8], Option<&'a [u8]>);

/// Changes as [`Store::apply`] takes them.
pub(crate) fn borrowed(changes: &[Change]) -> impl Iterator<Item = ChangeRef<'_>> {
    changes.iter().map(|(key, value)| (key.as_slice(), value.as_deref()))
}

impl Store {
    /// Opens an empty store `name` under `cache_dir`, deleting what an earlier process left.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub(crate) fn create(cache_dir: &Path, name: &str) -> Result<Self, StoreFault> {
        let path = cache_dir.join(format!("{name}.redb"));
        fs::create_dir_all(cache_dir).map_err(|error| fault(cache_dir, &error))?;
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(fault(&path, &error));
        }
        let file = fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|error| fault(&path, &error))?;
        let database = FileBackend::new(file)
            .and_then(|file| {
                Database::builder().set_cache_size(MEMORY).create_with_backend(Unsynced(file))
            })
            .map_err(|error| fault(&path, &error))?;
        Ok(Self(Arc::new(File { database: Some(database), path, commits: AtomicU64::new(0) })))
    }

    fn database(&self) -> Result<&Database, StoreFault> {
        self.0.database.as_ref().ok_or_else(|| StoreFault("the cache is closed".into()))
    }

    fn fault(&self, error: impl std::fmt::Display) -> StoreFault {
        fault(&self.0.path, &error)
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub(crate) fn get(&self, partition: i32, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        Ok(self.get_many(partition, &[key])?.pop().flatten())
    }

    /// The values of several keys, in their order, as of one moment.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub(crate) fn get_many(
        &self,
        partition: i32,
        keys: &[&[u8]],
    ) -> Result<Vec<Option<Vec<u8>>>, StoreFault> {
        let view = self.view(partition)?;
        keys.iter().map(|key| view.get(key)).collect()
    }

    /// A partition as it is now, for many lookups.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub(crate) fn view(&self, partition: i32) -> Result<View, StoreFault> {
        let name = table(partition);
        let transaction = self.database()?.begin_read().map_err(|error| self.fault(error))?;
        let table = match transaction.open_table(TableDefinition::<&[u8], &[u8]>::new(&name)) {
            Ok(table) => Some(table),
            Err(TableError::TableDoesNotExist(_)) => None,
            Err(error) => return Err(self.fault(error)),
        };
        Ok(View { store: self.clone(), table })
    }

    /// Applies changes at once, the last of a key winning.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub(crate) fn apply<'a>(
        &self,
        partition: i32,
        changes: impl IntoIterator<Item = ChangeRef<'a>>,
    ) -> Result<(), StoreFault> {
        self.apply_all([(partition, changes)])
    }

    /// The same for several partitions in one write transaction.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub(crate) fn apply_all<'a, C>(
        &self,
        partitions: impl IntoIterator<Item = (i32, C)>,
    ) -> Result<(), StoreFault>
    where
        C: IntoIterator<Item = ChangeRef<'a>>,
    {
        let mut transaction = self.database()?.begin_write().map_err(|error| self.fault(error))?;
        // redb remembers every commit until one is durable, which costs nothing here but its pages:
        // see [`Unsynced`].
        if !self.0.commits.fetch_add(1, Ordering::Relaxed).is_multiple_of(DURABLE_EVERY) {
            transaction.set_durability(Durability::None).map_err(|error| self.fault(error))?;
        }
        for (partition, changes) in partitions {
            let name = table(partition);
            let mut table = transaction
                .open_table(TableDefinition::<&[u8], &[u8]>::new(&name))
                .map_err(|error| self.fault(error))?;
            for (key, value) in changes {
                match value {
                    Some(value) => table.insert(key, value).map_err(|error| self.fault(error))?,
                    None => table.remove(key).map_err(|error| self.fault(error))?,
                };
            }
        }
        transaction.commit().map_err(|error| self.fault(error))
    }

    /// Forgets a partition.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub(crate) fn clear(&self, partition: i32) -> Result<(), StoreFault> {
        let name = table(partition);
        let mut transaction = self.database()?.begin_write().map_err(|error| self.fault(error))?;
        transaction.set_durability(Durability::None).map_err(|error| self.fault(error))?;
        transaction
            .delete_table(TableDefinition::<&[u8], &[u8]>::new(&name))
            .map_err(|error| self.fault(error))?;
        transaction.commit().map_err(|error| self.fault(error))
    }

    /// Up to `most` entries in key order, from the first one behind `after`.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub(crate) fn page(
        &self,
        partition: i32,
        after: Option<&[u8]>,
        most: usize,
    ) -> Result<Vec<Entry>, StoreFault> {
        let name = table(partition);
        let transaction = self.database()?.begin_read().map_err(|error| self.fault(error))?;
        let table = match transaction.open_table(TableDefinition::<&[u8], &[u8]>::new(&name)) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(self.fault(error)),
        };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        table
            .range::<&[u8]>((from, Bound::Unbounded))
            .map_err(|error| self.fault(error))?
            .take(most)
            .map(|row| {
                row.map(|(key, value)| (key.value().to_vec(), value.value().to_vec()))
                    .map_err(|error| self.fault(error))
            })
            .collect()
    }

    /// Calls `visit` with every key that begins with `prefix` and its value, in key order, until it
    /// returns `false`.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub(crate) fn scan(
        &self,
        partition: i32,
        prefix: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreFault> {
        let name = table(partition);
        let transaction = self.database()?.begin_read().map_err(|error| self.fault(error))?;
        let table = match transaction.open_table(TableDefinition::<&[u8], &[u8]>::new(&name)) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            Err(error) => return Err(self.fault(error)),
        };
        for row in table.range::<&[u8]>(prefix..).map_err(|error| self.fault(error))? {
            let (key, value) = row.map_err(|error| self.fault(error))?;
            if !key.value().starts_with(prefix) || !visit(key.value(), value.value()) {
                break;
            }
        }
        Ok(())
    }
}

fn table(partition: i32) -> String {
    format!("p{partition}")
}

fn fault(path: &Path, error: &dyn std::fmt::Display) -> StoreFault {
    StoreFault(format!(
        "the local cache {} failed: {error}; make room or set cache_dir to a writable folder, nothing is lost since it is rebuilt from Kafka",
        path.display()
    ))
}

/// Collects changes of several partitions and applies them in batches on a thread of its own, so
/// that a long restore costs few write transactions and reads on while they are written.
#[derive(Debug)]
pub(crate) struct Loader {
    store: Store,
    changes: Collected,
    bytes: usize,
    /// From the first full batch on: a short restore needs no thread.
    writer: Option<Writer>,
}

type Collected = std::collections::BTreeMap<i32, Vec<Change>>;

#[derive(Debug)]
struct Writer {
    batches: mpsc::SyncSender<Collected>,
    thread: JoinHandle<Result<(), StoreFault>>,
}

impl Writer {
    fn start(store: Store) -> Result<Self, StoreFault> {
        // One batch waits while one is written: with the one being collected, that bounds the
        // memory.
        let (batches, waiting) = mpsc::sync_channel::<Collected>(1);
        let write_all = move || waiting.into_iter().try_for_each(|batch| write(&store, batch));
        let thread = background::thread("cache-writer", write_all)
            .map_err(|error| StoreFault(format!("the cache's writer has no thread: {error}")))?;
        Ok(Self { batches, thread })
    }

    fn end(self) -> Result<(), StoreFault> {
        drop(self.batches);
        self.thread
            .join()
            .unwrap_or_else(|_| Err(StoreFault("the cache's writer ended abnormally".into())))
    }
}

/// A restore that is given up leaves nothing behind that is still being written when the next one
/// begins.
impl Drop for Loader {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take()
            && let Err(fault) = writer.end()
        {
            tracing::debug!(error = %fault, "failed to write restored records to the cache");
        }
    }
}

/// In the order of the keys, which touches each page of the tree once; the sort is stable, so the
/// last of a key wins.
fn write(store: &Store, mut batch: Collected) -> Result<(), StoreFault> {
    for changes in batch.values_mut() {
        changes.sort_by(|one, other| one.0.cmp(&other.0));
    }
    store.apply_all(batch.iter().map(|(partition, changes)| (*partition, borrowed(changes))))
}

/// Bytes collected before they are written; bounds the memory of a restore.
const LOAD: usize = 2 * 1024 * 1024;

impl Loader {
    /// Into this store.
    #[must_use]
    pub(crate) fn new(store: Store) -> Self {
        Self { store, changes: Collected::new(), bytes: 0, writer: None }
    }

    /// Adds one change; it may be written later, and a fault of the writing then belongs to a later
    /// call.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub(crate) fn push(
        &mut self,
        partition: i32,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), StoreFault> {
        self.bytes += key.len() + value.map_or(0, <[u8]>::len);
        self.changes.entry(partition).or_default().push((key.to_vec(), value.map(<[u8]>::to_vec)));
        if self.bytes < LOAD {
            return Ok(());
        }
        let batch = self.take();
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => self.writer.insert(Writer::start(self.store.clone())?),
        };
        match writer.batches.send(batch) {
            Ok(()) => Ok(()),
            // The writer ended early: only a fault makes it.
            Err(_) => self.flush(),
        }
    }

    /// Writes what was collected; returns when all of it is in the store.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub(crate) fn flush(&mut self) -> Result<(), StoreFault> {
        if let Some(writer) = self.writer.take() {
            writer.end()?;
        }
        let batch = self.take();
        if batch.is_empty() { Ok(()) } else { write(&self.store, batch) }
    }

    fn take(&mut self) -> Collected {
        self.bytes = 0;
        std::mem::take(&mut self.changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_found_until_it_is_cleared_or_the_store_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path(), "journal").unwrap();
        assert_eq!(store.get(0, b"a").unwrap(), None);
        store
            .apply(
                0,
                [
                    (&b"a"[..], Some(&b"1"[..])),
                    (&b"b"[..], Some(&b"2"[..])),
                    (&b"a"[..], Some(&b"3"[..])),
                ],
            )
            .unwrap();
        store.apply(0, [(&b"b"[..], None)]).unwrap();
        assert_eq!(store.get(0, b"a").unwrap().as_deref(), Some(&b"3"[..]));
        assert_eq!(store.get_many(0, &[b"b", b"a"]).unwrap(), vec![None, Some(b"3".to_vec())]);
        assert_eq!(store.get(1, b"a").unwrap(), None);
        store.apply(0, [(&b"c"[..], Some(&b"4"[..])), (&b"d"[..], Some(&b"5"[..]))]).unwrap();
        let keys = |after: Option<&[u8]>, most| {
            store.page(0, after, most).unwrap().into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(keys(None, 2), [b"a", b"c"]);
        assert_eq!(keys(Some(b"a"), 5), [b"c", b"d"]);
        assert!(keys(Some(b"d"), 5).is_empty() && store.page(7, None, 5).unwrap().is_empty());
        store.clear(0).unwrap();
        assert_eq!(store.get(0, b"a").unwrap(), None);
        let mut loader = Loader::new(store.clone());
        loader.push(0, b"k", Some(b"v")).unwrap();
        loader.flush().unwrap();
        let mut seen = Vec::new();
        store
            .scan(0, b"k", |key, value| {
                seen.push((key.to_vec(), value.to_vec()));
                true
            })
            .unwrap();
        assert_eq!(seen, vec![(b"k".to_vec(), b"v".to_vec())]);
        drop((store, loader));
        assert_eq!(Store::create(folder.path(), "journal").unwrap().get(0, b"k").unwrap(), None);
    }

    #[test]
    fn a_long_load_is_written_whole_and_in_its_order() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path(), "journal").unwrap();
        let mut loader = Loader::new(store.clone());
        let value = vec![7_u8; 4_096];
        // Several batches, and each key twice: deleted or replaced in a later one.
        for turn in [0_u8, 1] {
            for number in 0..1_000_u32 {
                let gone = turn == 1 && number % 2 == 0;
                let value = [&[turn][..], &value].concat();
                loader
                    .push(
                        i32::from(number % 4 == 3),
                        &number.to_be_bytes(),
                        (!gone).then_some(&value),
                    )
                    .unwrap();
            }
        }
        loader.flush().unwrap();
        let held = store.page(0, None, 2_000).unwrap();
        assert_eq!(held.len() + store.page(1, None, 2_000).unwrap().len(), 500);
        assert!(held.iter().all(|(_, value)| value[0] == 1), "the later one counts");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("file");
        fs::write(&blocked, b"").unwrap();
        let error = Store::create(&blocked.join("below"), "journal").unwrap_err().to_string();
        assert!(error.contains("cache_dir") && error.contains("below"), "{error}");
    }
}
