//! The folder that keeps fetched jars between runs: `$XDG_CACHE_HOME` or `~/.cache`, then
//! `wdt-connector-tests/<part>-<version>/`.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
};

/// Where fetched parts are kept; `WDT_TEST_CACHE` overrides it.
fn root() -> PathBuf {
    if let Some(own) = env::var_os("WDT_TEST_CACHE").filter(|value| !value.is_empty()) {
        return PathBuf::from(own);
    }
    let base = env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = base.or_else(|| env::home_dir().map(|home| home.join(".cache")));
    let base = base.expect("neither XDG_CACHE_HOME nor a home directory is set: set XDG_CACHE_HOME, so that the test parts have a place");
    base.join("wdt-connector-tests")
}

/// The folder `<cache>/<name>`, built by `build` if it is not there yet.
///
/// `build` fills a temporary folder beside it, which is renamed when complete: a run that was
/// interrupted leaves nothing that looks finished. A lock file makes parallel runs wait for the
/// first one instead of fetching twice.
pub fn once(name: &str, build: impl FnOnce(&Path)) -> PathBuf {
    let root = root();
    let done = root.join(name);
    if done.is_dir() {
        return done;
    }
    fs::create_dir_all(&root).unwrap_or_else(|fault| {
        panic!("cannot create the cache folder {}: {fault}", root.display())
    });
    let lock = File::create(root.join(format!("{name}.lock")))
        .unwrap_or_else(|fault| panic!("cannot write to {}: {fault}", root.display()));
    lock.lock()
        .unwrap_or_else(|fault| panic!("cannot lock {}/{name}.lock: {fault}", root.display()));
    if !done.is_dir() {
        // Left over only by a run that died while it held the lock, which we hold now.
        let half = root.join(format!("{name}.part"));
        let _ = fs::remove_dir_all(&half);
        fs::create_dir_all(&half)
            .unwrap_or_else(|fault| panic!("cannot create {}: {fault}", half.display()));
        build(&half);
        fs::rename(&half, &done).unwrap_or_else(|fault| {
            panic!("cannot rename {} to {}: {fault}", half.display(), done.display())
        });
    }
    done
}
