//! Reloads secrets and certificates while the process runs.
//!
//! The folders of their files are watched, because Kubernetes replaces a link in them. SIGHUP and a
//! check every 30 s trigger the same reload. Each part is reloaded on its own. A part whose new
//! files cannot be used keeps its old ones, and the log, `/status` and a metric report it.
//!
//! ```text
//! erp       new clients; calls in flight end with the old ones
//! listener  the new token only
//! kafka     the broker is asked first; then every client is rebuilt, and the pipelines restart
//! registry  it is asked for the ids of our schemas first; calls in flight end with the old client
//! ```
//!
//! What was refused is tried again every 30 s: the broker or the registry may have been away.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use notify::{RecursiveMode, Watcher};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    board::{Board, Story},
    clock::{Timestamp, millis},
    config::{Settings, read_secret},
    erp::Erp,
    kafka::partition_counts,
    metrics::Metrics,
    ops::Token,
    schema::Codec,
};

/// Files that are written one after the other are read together.
const SETTLE: Duration = Duration::from_millis(300);
/// Where nothing can be watched, changes are found this late.
const EVERY: Duration = Duration::from_secs(30);
/// A certificate bundle is no larger.
const LARGEST_FILE: u64 = 4 * 1024 * 1024;

/// librdkafka's options that name a file.
const KAFKA_FILES: [&str; 5] = [
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.keystore.location",
    "ssl.crl.location",
];

/// What is replaced as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Erp,
    Kafka,
    Registry,
    Listener,
}

impl Part {
    const ALL: [Self; 4] = [Self::Erp, Self::Kafka, Self::Registry, Self::Listener];

    fn name(self) -> &'static str {
        match self {
            Self::Erp => "erp",
            Self::Kafka => "kafka",
            Self::Registry => "registry",
            Self::Listener => "listener",
        }
    }

    /// The part a secret's key belongs to.
    fn of(key: &str) -> Option<Self> {
        match key.split('.').next()? {
            "erp" => Some(Self::Erp),
            "kafka" => Some(Self::Kafka),
            "schema_registry" => Some(Self::Registry),
            "http" => Some(Self::Listener),
            _ => None,
        }
    }
}

/// A file's key, where it is, and what it held.
type Contents = BTreeMap<String, Result<[u8; 32], String>>;

pub(super) struct Reload {
    /// Told the settings with the credentials in force, whenever clients have to be built anew.
    publish: watch::Sender<Arc<Settings>>,
    erp: Erp,
    token: Token,
    board: Board,
    metrics: Arc<Metrics>,
    files: Vec<(String, PathBuf)>,
    /// As of the last look that ended: what changed in one that panicked is news to the next run.
    state: Mutex<State>,
}

/// What is in force, and what was refused last.
#[derive(Clone)]
struct State {
    settings: Settings,
    taken: BTreeMap<Part, Contents>,
    /// Content and reason, so that each is said once.
    refused: BTreeMap<Part, (Contents, String)>,
}

impl Reload {
    /// What the files hold now is in force.
    pub(super) fn new(
        publish: watch::Sender<Arc<Settings>>,
        erp: Erp,
        token: Token,
        board: Board,
        metrics: Arc<Metrics>,
    ) -> Self {
        let settings = Settings::clone(&publish.borrow());
        let files = files_of(&settings);
        let state = State {
            taken: Part::ALL.into_iter().map(|part| (part, contents(&files, part))).collect(),
            refused: BTreeMap::new(),
            settings,
        };
        Self { publish, erp, token, board, metrics, files, state: Mutex::new(state) }
    }

    /// Until it is dropped.
    pub(super) async fn run(self: Arc<Self>, codec: Arc<Codec>) {
        let (files, mut state) = (&self.files, self.lock().clone());
        let (changed, mut changes) = mpsc::channel(1);
        let _watching = watch_folders(files.iter().map(|(_, path)| path.as_path()), changed);
        let mut hangup = signal(SignalKind::hangup())
            .inspect_err(|error| {
                tracing::warn!(%error, "SIGHUP cannot be listened for; files are watched all the same");
            })
            .ok();
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                () = asked_by(&mut hangup) => true,
                Some(()) = changes.recv() => {
                    sleep(SETTLE).await;
                    let _ = changes.try_recv();
                    false
                }
                _ = every.tick() => false,
            };
            let mut found = false;
            for part in Part::ALL {
                found |= self.look(&mut state, files, part, &codec).await;
            }
            self.lock().clone_from(&state);
            if asked && !found {
                tracing::info!("reload requested, but no secret or certificate has changed");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a part's files if they have changed; whether they had.
    async fn look(
        &self,
        state: &mut State,
        files: &[(String, PathBuf)],
        part: Part,
        codec: &Codec,
    ) -> bool {
        let now = contents(files, part);
        if state.taken.get(&part) == Some(&now) {
            if state.refused.remove(&part).is_some() {
                self.say(
                    state,
                    part,
                    Ok("files have their previous content again; nothing is refused any more"),
                );
            }
            return false;
        }
        match self.take(&mut state.settings, files, part, codec).await {
            Ok(()) => {
                state.taken.insert(part, now);
                state.refused.remove(&part);
                self.metrics.reloaded(part.name(), true);
                self.say(state, part, Ok("new secrets or certificates in use"));
            }
            Err(reason) => {
                let known = state
                    .refused
                    .get(&part)
                    .is_some_and(|(content, before)| *content == now && *before == reason);
                if !known {
                    self.metrics.reloaded(part.name(), false);
                    state.refused.insert(part, (now, reason.clone()));
                    self.say(state, part, Err(&reason));
                }
            }
        }
        true
    }

    fn say(&self, state: &State, part: Part, result: Result<&str, &str>) {
        let name = part.name();
        let text = match result {
            Ok(text) => {
                tracing::info!(reload.part = name, "{text}");
                format!("{name}: {text}")
            }
            Err(reason) => {
                tracing::error!(
                    reload.part = name,
                    error = %reason,
                    "new secrets or certificates refused; the previous ones stay in use"
                );
                format!("{name}: refused, those before stay in force: {reason}")
            }
        };
        self.metrics.last_reload_successful(state.refused.is_empty());
        self.board.tell(Story::Notice, json!({ "kind": "reload", "text": text }));
        let refused: BTreeMap<&str, &str> = state
            .refused
            .iter()
            .map(|(part, (_, reason))| (part.name(), reason.as_str()))
            .collect();
        self.board.set(
            "reload",
            json!({ "last": text, "at": Timestamp::now().to_string(), "refused": refused }),
        );
    }

    /// Puts a part's files in force, or says why not.
    async fn take(
        &self,
        settings: &mut Settings,
        files: &[(String, PathBuf)],
        part: Part,
        codec: &Codec,
    ) -> Result<(), String> {
        let next = reread(settings, part)?;
        for (key, path) in files.iter().filter(|(key, _)| Part::of(key) == Some(part)) {
            digest(path).map_err(|reason| format!("{key} {reason}"))?;
        }
        match part {
            Part::Erp => self.erp.replace_accounts(&next).map_err(|fault| fault.to_string())?,
            Part::Listener => self.token.replace(next.http.token.clone()),
            Part::Kafka => {
                partition_counts(&next.kafka, &[&next.topics.control]).await?;
                self.publish.send_replace(Arc::new(next.clone()));
            }
            Part::Registry => {
                if let Some(registry) = &next.schema_registry {
                    if registry
                        .auth
                        .as_ref()
                        .is_some_and(|auth| !auth.expose_secret().contains(':'))
                    {
                        return Err(
                            "schema_registry.auth_file does not hold \"user:password\"".to_owned()
                        );
                    }
                    codec
                        .replace_registry(registry, &next.topics)
                        .await
                        .map_err(|fault| fault.to_string())?;
                }
            }
        }
        *settings = next;
        Ok(())
    }
}

/// The next SIGHUP; never, where none can be listened for.
async fn asked_by(hangup: &mut Option<Signal>) {
    match hangup {
        Some(hangup) => drop(hangup.recv().await),
        None => std::future::pending().await,
    }
}

/// Every file that is looked after, by its key.
fn files_of(settings: &Settings) -> Vec<(String, PathBuf)> {
    let mut files: Vec<(String, PathBuf)> =
        settings.secret_files.iter().map(|(key, path)| (key.clone(), path.clone())).collect();
    let (flagship, enterprise) = (&settings.flagship, &settings.enterprise);
    let authorities = [
        (
            "erp.flagship.ca_file",
            flagship.as_ref().and_then(|account| account.connection.ca_file.clone()),
        ),
        (
            "erp.enterprise.ca_file",
            enterprise.as_ref().and_then(|account| account.connection.ca_file.clone()),
        ),
        (
            "schema_registry.ca_file",
            settings.schema_registry.as_ref().and_then(|registry| registry.ca_file.clone()),
        ),
    ];
    files.extend(authorities.into_iter().filter_map(|(key, file)| Some((key.to_owned(), file?))));
    let named =
        KAFKA_FILES.into_iter().filter_map(|key| Some((key, settings.kafka.properties.get(key)?)));
    files.extend(
        named
            .map(|(key, path)| (format!("kafka.properties.{key}"), PathBuf::from(path)))
            .filter(|(_, path)| !path.is_dir()),
    );
    files
}

fn contents(files: &[(String, PathBuf)], part: Part) -> Contents {
    files
        .iter()
        .filter(|(key, _)| Part::of(key) == Some(part))
        .map(|(key, path)| (key.clone(), digest(path)))
        .collect()
}

/// What a file holds, without keeping it.
fn digest(path: &Path) -> Result<[u8; 32], String> {
    let meta = std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?;
    if meta.len() > LARGEST_FILE {
        return Err(format!("is larger than {LARGEST_FILE} bytes"));
    }
    let bytes = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.is_empty() { Err("is empty".to_owned()) } else { Ok(Sha256::digest(&bytes).into()) }
}

/// The settings with a part's secrets read again.
fn reread(settings: &Settings, part: Part) -> Result<Settings, String> {
    let mut next = settings.clone();
    for (key, path) in settings.secret_files.iter().filter(|(key, _)| Part::of(key) == Some(part)) {
        let secret = read_secret(path)
            .map_err(|reason| format!("{key}_file = {:?} {reason}", path.display().to_string()))?;
        put(&mut next, key, secret);
    }
    Ok(next)
}

fn put(settings: &mut Settings, key: &str, secret: SecretString) {
    match key {
        "kafka.sasl_password" => settings.kafka.sasl_password = Some(secret),
        "kafka.ssl_key_password" => settings.kafka.ssl_key_password = Some(secret),
        "http.token" => settings.http.token = Some(secret),
        "schema_registry.auth" => {
            if let Some(registry) = &mut settings.schema_registry {
                registry.auth = Some(secret);
            }
        }
        "erp.flagship.secret" => {
            if let Some(account) = &mut settings.flagship {
                account.secret = secret;
            }
        }
        "erp.enterprise.appsecret" => {
            if let Some(account) = &mut settings.enterprise {
                account.appsecret = secret;
            }
        }
        other => {
            tracing::warn!(
                config.key = other,
                "secret cannot be replaced at runtime; restart the process to use it"
            )
        }
    }
}

/// Watches the folders the files are in; `None` where the system watches nothing, then they are
/// looked at now and then.
fn watch_folders<'a>(
    files: impl Iterator<Item = &'a Path>,
    changed: mpsc::Sender<()>,
) -> Option<notify::RecommendedWatcher> {
    let folders: BTreeSet<PathBuf> = files.filter_map(|path| path.parent().map(folder)).collect();
    if folders.is_empty() {
        return None;
    }
    let told = move |event: notify::Result<notify::Event>| {
        // Reading a file is an event, too: ours would wake us for ever.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // Full: somebody is about to look anyway.
            let _ = changed.try_send(());
        }
    };
    let mut watcher = notify::recommended_watcher(told).inspect_err(unwatched).ok()?;
    for folder in folders {
        if let Err(error) = watcher.watch(&folder, RecursiveMode::NonRecursive) {
            unwatched(&error);
        }
    }
    Some(watcher)
}

fn folder(parent: &Path) -> PathBuf {
    if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() }
}

fn unwatched(error: &notify::Error) {
    tracing::warn!(
        %error,
        poll_interval_ms = millis(EVERY),
        "failed to watch the folder of a secret; polling it instead"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_none_of_ours_is_not_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(LARGEST_FILE).unwrap();
        assert!(digest(file.path()).is_ok());
        file.as_file().set_len(LARGEST_FILE + 1).unwrap();
        assert_eq!(digest(file.path()), Err(format!("is larger than {LARGEST_FILE} bytes")));
    }

    fn settings(folder: &Path, keys: &str) -> Settings {
        let text = format!(
            "[erp.flagship]\nurl = \"http://127.0.0.1:1/\"\nsid = \"s\"\nkey = \"k\"\nsecret_file = {:?}\n{keys}",
            folder.join("flagship").display().to_string()
        );
        crate::config::from_toml(&text, std::iter::empty()).unwrap().settings
    }

    fn reload(settings: &Settings) -> (Reload, watch::Receiver<Arc<Settings>>) {
        let metrics = Arc::new(Metrics::new());
        let erp = Erp::new(settings, Arc::clone(&metrics)).unwrap();
        let (publish, live) = watch::channel(Arc::new(settings.clone()));
        let token = Token::new(settings.http.token.clone());
        (Reload::new(publish, erp, token, Board::default(), metrics), live)
    }

    #[tokio::test]
    async fn what_cannot_be_used_leaves_what_was_and_says_so_once() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("flagship"), "one:salt\n").unwrap();
        std::fs::write(folder.path().join("token"), "hush").unwrap();
        let settings = settings(
            folder.path(),
            &format!(
                "[http]\ntoken_file = {:?}",
                folder.path().join("token").display().to_string()
            ),
        );
        let (reload, _live) = reload(&settings);
        let codec = Codec::single_object();
        let files = files_of(&settings);
        assert_eq!(files.len(), 2);
        let taken = Part::ALL.into_iter().map(|part| (part, contents(&files, part))).collect();
        let mut state = State { taken, refused: BTreeMap::new(), settings };
        assert!(!reload.look(&mut state, &files, Part::Erp, &codec).await);

        for (wrong, word) in [("no-colon", "secret:salt"), ("", "is empty")] {
            std::fs::write(folder.path().join("flagship"), wrong).unwrap();
            assert!(reload.look(&mut state, &files, Part::Erp, &codec).await);
            assert!(reload.look(&mut state, &files, Part::Erp, &codec).await);
            let (_, stories) = reload.board.stories();
            let text = stories["notices"][0]["text"].as_str().unwrap();
            assert!(text.contains(word) && text.contains("stay in force"), "{text}");
            assert_eq!(
                state.settings.flagship.as_ref().unwrap().secret.expose_secret(),
                "one:salt"
            );
        }
        std::fs::remove_file(folder.path().join("flagship")).unwrap();
        assert!(reload.look(&mut state, &files, Part::Erp, &codec).await);
        assert!(
            reload
                .metrics
                .render()
                .contains("wdt_connector_reloads_total{part=\"erp\",result=\"failure\"} 3\n")
        );
        assert!(reload.metrics.render().contains("wdt_connector_last_reload_successful 0\n"));

        std::fs::write(folder.path().join("flagship"), "two:salt").unwrap();
        assert!(reload.look(&mut state, &files, Part::Erp, &codec).await);
        assert_eq!(state.settings.flagship.as_ref().unwrap().secret.expose_secret(), "two:salt");
        assert!(reload.metrics.render().contains("wdt_connector_last_reload_successful 1\n"));
        std::fs::write(folder.path().join("token"), "psst").unwrap();
        assert!(reload.look(&mut state, &files, Part::Listener, &codec).await);
        assert_eq!(state.settings.http.token.as_ref().unwrap().expose_secret(), "psst");
        let said = format!("{:?}", reload.board.sections()) + &reload.board.stories().1.to_string();
        assert!(
            !said.contains("hush") && !said.contains("psst") && !said.contains("two:salt"),
            "{said}"
        );
    }

    #[test]
    fn a_folder_whose_link_is_swapped_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (version, text) in [("v1", "one:salt"), ("v2", "two:salt")] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("secret"), text).unwrap();
        }
        std::os::unix::fs::symlink("v1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/secret", at("secret")).unwrap();
        let (changed, mut changes) = mpsc::channel(1);
        let _watching = watch_folders(std::iter::once(at("secret").as_path()), changed).unwrap();
        let before = digest(&at("secret")).unwrap();
        std::os::unix::fs::symlink("v2", at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!(changes.blocking_recv(), Some(()));
        assert_ne!(digest(&at("secret")).unwrap(), before);
    }
}
