//! What the compacted topics say, on disk: a disposable cache that is never the truth.

use std::{
    fs,
    ops::Bound,
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{Database, Durability, ReadableDatabase, TableDefinition, TableError};

/// Why the local cache failed: one sentence with the path and what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct StoreFault(pub String);

/// Pages redb keeps in memory; the rest is the operating system's file cache.
const MEMORY: usize = 8 * 1024 * 1024;

/// A key-value store, one table per partition; cheap to clone. Deleted with its last handle.
#[derive(Clone)]
pub struct Store(Arc<File>);

struct File {
    /// Always there until the drop.
    database: Option<Database>,
    path: PathBuf,
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
pub type Entry = (Vec<u8>, Vec<u8>);

/// One change: a key with its new value, or without one to delete it.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

impl Store {
    /// Opens an empty store `name` under `cache_dir`, deleting what an earlier process left.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub fn create(cache_dir: &Path, name: &str) -> Result<Self, StoreFault> {
        let path = cache_dir.join(format!("{name}.redb"));
        fs::create_dir_all(cache_dir).map_err(|error| fault(cache_dir, &error))?;
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(fault(&path, &error));
        }
        let database = Database::builder().set_cache_size(MEMORY).create(&path).map_err(|error| fault(&path, &error))?;
        Ok(Self(Arc::new(File { database: Some(database), path })))
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
    pub fn get(&self, partition: i32, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        Ok(self.get_many(partition, &[key])?.pop().flatten())
    }

    /// The values of several keys, in their order, as of one moment.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub fn get_many(&self, partition: i32, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StoreFault> {
        let name = table(partition);
        let transaction = self.database()?.begin_read().map_err(|error| self.fault(error))?;
        let table = match transaction.open_table(TableDefinition::<&[u8], &[u8]>::new(&name)) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(vec![None; keys.len()]),
            Err(error) => return Err(self.fault(error)),
        };
        keys.iter().map(|key| Ok(table.get(*key).map_err(|error| self.fault(error))?.map(|value| value.value().to_vec()))).collect()
    }

    /// Applies changes at once, the last of a key winning.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub fn apply(&self, partition: i32, changes: &[Change]) -> Result<(), StoreFault> {
        self.apply_all([(partition, changes)])
    }

    /// The same for several partitions in one write transaction.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub fn apply_all<'a>(&self, partitions: impl IntoIterator<Item = (i32, &'a [Change])>) -> Result<(), StoreFault> {
        let mut transaction = self.database()?.begin_write().map_err(|error| self.fault(error))?;
        // The topic is the truth; nothing here has to survive the process.
        transaction.set_durability(Durability::None).map_err(|error| self.fault(error))?;
        for (partition, changes) in partitions {
            let name = table(partition);
            let mut table = transaction.open_table(TableDefinition::<&[u8], &[u8]>::new(&name)).map_err(|error| self.fault(error))?;
            for (key, value) in changes {
                match value {
                    Some(value) => table.insert(key.as_slice(), value.as_slice()).map_err(|error| self.fault(error))?,
                    None => table.remove(key.as_slice()).map_err(|error| self.fault(error))?,
                };
            }
        }
        transaction.commit().map_err(|error| self.fault(error))
    }

    /// Forgets a partition.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub fn clear(&self, partition: i32) -> Result<(), StoreFault> {
        let name = table(partition);
        let mut transaction = self.database()?.begin_write().map_err(|error| self.fault(error))?;
        transaction.set_durability(Durability::None).map_err(|error| self.fault(error))?;
        transaction.delete_table(TableDefinition::<&[u8], &[u8]>::new(&name)).map_err(|error| self.fault(error))?;
        transaction.commit().map_err(|error| self.fault(error))
    }

    /// Up to `most` entries in key order, from the first one behind `after`.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub fn page(&self, partition: i32, after: Option<&[u8]>, most: usize) -> Result<Vec<Entry>, StoreFault> {
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
            .map(|row| row.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())).map_err(|error| self.fault(error)))
            .collect()
    }

    /// Calls `visit` with every key that begins with `prefix` and its value, in key order, until it returns `false`.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub fn scan(&self, partition: i32, prefix: &[u8], mut visit: impl FnMut(&[u8], &[u8]) -> bool) -> Result<(), StoreFault> {
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

/// Collects changes of several partitions and applies them in batches, so that a restore costs few write transactions.
#[derive(Debug)]
pub struct Loader {
    store: Store,
    changes: std::collections::BTreeMap<i32, Vec<Change>>,
    bytes: usize,
}

/// Bytes collected before they are written; bounds the memory of a restore.
const LOAD: usize = 2 * 1024 * 1024;

impl Loader {
    /// Into this store.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, changes: std::collections::BTreeMap::new(), bytes: 0 }
    }

    /// Adds one change.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub fn push(&mut self, partition: i32, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreFault> {
        self.bytes += key.len() + value.map_or(0, <[u8]>::len);
        self.changes.entry(partition).or_default().push((key.to_vec(), value.map(<[u8]>::to_vec)));
        if self.bytes >= LOAD { self.flush() } else { Ok(()) }
    }

    /// Writes what was collected.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub fn flush(&mut self) -> Result<(), StoreFault> {
        self.bytes = 0;
        let changes = std::mem::take(&mut self.changes);
        if changes.is_empty() {
            return Ok(());
        }
        self.store.apply_all(changes.iter().map(|(partition, changes)| (*partition, changes.as_slice())))
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
            .apply(0, &[(b"a".to_vec(), Some(b"1".to_vec())), (b"b".to_vec(), Some(b"2".to_vec())), (b"a".to_vec(), Some(b"3".to_vec()))])
            .unwrap();
        store.apply(0, &[(b"b".to_vec(), None)]).unwrap();
        assert_eq!(store.get(0, b"a").unwrap().as_deref(), Some(&b"3"[..]));
        assert_eq!(store.get_many(0, &[b"b", b"a"]).unwrap(), vec![None, Some(b"3".to_vec())]);
        assert_eq!(store.get(1, b"a").unwrap(), None);
        store.apply(0, &[(b"c".to_vec(), Some(b"4".to_vec())), (b"d".to_vec(), Some(b"5".to_vec()))]).unwrap();
        let keys = |after: Option<&[u8]>, most| store.page(0, after, most).unwrap().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
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
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("file");
        fs::write(&blocked, b"").unwrap();
        let error = Store::create(&blocked.join("below"), "journal").unwrap_err().to_string();
        assert!(error.contains("cache_dir") && error.contains("below"), "{error}");
    }
}
