//! A real schema registry: Apicurio, whose Confluent interface the connector speaks.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Stdio,
    sync::OnceLock,
    time::{Duration, Instant},
};

use super::{
    cache,
    guard::{self, Folder, Guarded},
    java, ports, say,
};
use crate::kit::http;

const VERSION: &str = "3.0.9";
const STARTS: u32 = 5;
const START_LIMIT: Duration = Duration::from_secs(90);

/// The registry shared by all tests of this run; started by the first who asks.
///
/// `WDT_TEST_REGISTRY=url` (the base of the Confluent interface) makes it somebody else's.
pub fn registry() -> &'static Registry {
    static SHARED: OnceLock<Option<Registry>> = OnceLock::new();
    super::once(&SHARED, "the schema registry", || {
        match std::env::var("WDT_TEST_REGISTRY").ok().filter(|value| !value.is_empty()) {
            Some(url) => {
                say(&format!("testing against the schema registry at {url} (WDT_TEST_REGISTRY)"));
                Registry { url, _process: None, _folder: None }
            }
            None => Registry::start(),
        }
    })
}

/// The shared registry. Subjects are named after topics, which are a test's own, so tests do not
/// meet there.
#[derive(Debug)]
pub struct Registry {
    url: String,
    _process: Option<Guarded>,
    _folder: Option<Folder>,
}

fn prepare() -> PathBuf {
    cache::once(&format!("apicurio-{VERSION}"), |folder| {
        // Apicurio's parent POM is not on Maven Central: later versions of the plugin insist on it,
        // 2.8 does not.
        let plugin = "org.apache.maven.plugins:maven-dependency-plugin:2.8";
        let arguments = [
            format!("{plugin}:get"),
            format!("{plugin}:unpack"),
            "-Dtransitive=false".to_owned(),
            format!("-Dartifact=io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"),
            format!("-DoutputDirectory={}", folder.join("app").display()),
        ];
        java::maven(folder, &format!("Apicurio Registry {VERSION} (115 MB)"), &arguments);
    })
}

/// The runnable jar, which stands in the archive's root or one folder below.
fn runner(app: &std::path::Path) -> PathBuf {
    let mut folders = vec![app.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the cache can be read").flatten() {
            if entry.file_name().to_string_lossy().ends_with("-runner.jar") {
                return entry.path();
            }
            if entry.path().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    panic!(
        "no *-runner.jar in {}: remove the folder above it, the tests fetch it again",
        app.display()
    );
}

impl Registry {
    /// The base address of the Confluent interface, ending in `/apis/ccompat/v7`.
    pub fn url(&self) -> &str {
        &self.url
    }

    fn start() -> Self {
        let runner = runner(&prepare().join("app"));
        for _ in 0..STARTS {
            let port = ports::free_port();
            let folder = Folder::new("registry");
            let log = folder.join("registry.log");
            let out = fs::File::create(&log).expect("a temporary file");
            let errors = out.try_clone().expect("a file descriptor");
            let mut command = java::java();
            command
                .current_dir(folder.path())
                .args(["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
                .arg("-Dquarkus.http.host=127.0.0.1")
                .arg(format!("-Dquarkus.http.port={port}"))
                .arg("-jar")
                .arg(&runner)
                .stdin(Stdio::null())
                .stdout(out)
                .stderr(errors);
            let mut process = guard::spawn(&mut command).expect("Java starts");
            let url = format!("http://127.0.0.1:{port}/apis/ccompat/v7");
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let deadline = Instant::now() + START_LIMIT;
            while process.exit().is_none() {
                if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
                    && http::get(&format!("{url}/subjects"))
                        .is_ok_and(|answer| answer.status == 200)
                    && process.exit().is_none()
                {
                    return Self { url, _process: Some(process), _folder: Some(folder) };
                }
                assert!(
                    Instant::now() < deadline,
                    "the schema registry does not answer after {START_LIMIT:?}; its log:\n{}",
                    fs::read_to_string(&log).unwrap_or_default()
                );
                std::thread::sleep(Duration::from_millis(100));
            }
            let log = fs::read_to_string(&log).unwrap_or_default();
            assert!(
                log.contains("already in use") || log.contains("Port"),
                "the schema registry did not start; its log:\n{log}"
            );
        }
        panic!("the schema registry found its port taken {STARTS} times running");
    }
}
