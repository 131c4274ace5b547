//! The real binary as a process: started on a configuration, watched through its listener, ended by
//! signals.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{http, until};
use crate::parts::guard::{self, Guarded};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_wdt-connector");

/// How long a start may take before the test fails: a loaded machine, not a promise.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A command line of the program with the configuration given and the caller's own `WDT__…`
/// variables kept out.
pub fn command(config: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WDT__"))
    {
        command.env_remove(name);
    }
    // As the image and the unit set it.
    command.env("MALLOC_ARENA_MAX", "2").arg("--config").arg(config).args(arguments);
    command
}

/// Runs a verb to its end, at most `limit`, with `input` on stdin. Stdout and stderr are taken
/// whole.
pub fn verb(config: &Path, arguments: &[&str], input: &[u8], limit: Duration) -> Output {
    finish(&mut command(config, arguments), input, limit)
}

/// Runs any command to its end, at most `limit`; panics with what it said when it takes longer.
pub fn finish(command: &mut Command, input: &[u8], limit: Duration) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = guard::spawn(command).expect("the program starts");
    let mut stdin = process.child().stdin.take().expect("stdin is piped");
    let mut stdout = process.child().stdout.take().expect("stdout is piped");
    let mut stderr = process.child().stderr.take().expect("stderr is piped");
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || {
        // A program that ends early closes the pipe; its exit code says why.
        let _ = stdin.write_all(&input);
    });
    let out = std::thread::spawn(move || read_all(&mut stdout));
    let errors = std::thread::spawn(move || read_all(&mut stderr));
    let status = process.wait(limit);
    process.kill();
    let _ = feeding.join();
    let stdout = out.join().expect("a reader thread");
    let stderr = errors.join().expect("a reader thread");
    let status = status.unwrap_or_else(|| {
        panic!(
            "{command:?} did not end within {limit:?}; stdout:\n{}\nstderr:\n{}",
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr)
        )
    });
    Output { status, stdout, stderr }
}

fn read_all(pipe: &mut impl std::io::Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = pipe.read_to_end(&mut bytes);
    bytes
}

/// The sum of a metric's samples in a text of `/metrics`, as [`Connector::metric`].
pub fn sample(text: &str, name: &str, labels: &[&str]) -> f64 {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter(|line| line.split(['{', ' ']).next() == Some(name))
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// A running `wdt-connector run`. Killed when dropped; its log goes to stderr when the test is
/// failing.
#[derive(Debug)]
pub struct Connector {
    process: Guarded,
    port: u16,
    log: PathBuf,
    started: Instant,
}

impl Connector {
    /// Starts `run` with this configuration file, whose `http.listen` is `127.0.0.1:<port>`; output
    /// goes to `log`, appended.
    pub fn spawn(config: &Path, port: u16, log: &Path) -> Self {
        Self::spawn_command(command(config, &["run"]), port, log)
    }

    /// The same for a prepared command line.
    pub fn spawn_command(mut command: Command, port: u16, log: &Path) -> Self {
        let out =
            fs::OpenOptions::new().create(true).append(true).open(log).expect("a temporary file");
        let errors = out.try_clone().expect("a file descriptor");
        command.stdin(Stdio::null()).stdout(out).stderr(errors);
        let started = Instant::now();
        let process = guard::spawn(&mut command).expect("the program starts");
        Self { process, port, log: log.to_owned(), started }
    }

    /// Waits until `/readyz` says 200; panics with the log when the process ends first.
    pub fn ready(mut self) -> Self {
        self.wait_ready();
        self
    }

    /// As [`Self::ready`]; says how long it took from the start of the process.
    pub fn wait_ready(&mut self) -> Duration {
        self.wait_ready_within(READY_LIMIT)
    }

    /// The same with a limit of one's own.
    pub fn wait_ready_within(&mut self, limit: Duration) -> Duration {
        let url = self.url("/readyz");
        let deadline = self.started + limit;
        loop {
            if http::get(&url).is_ok_and(|answer| answer.status == 200) {
                return self.started.elapsed();
            }
            if let Some(status) = self.process.exit() {
                panic!("the connector ended before it was ready ({status})");
            }
            assert!(
                Instant::now() < deadline,
                "the connector is not ready after {limit:?}: {}",
                http::get(&url).map_or_else(|fault| fault.to_string(), |answer| answer.body)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Where it listens, for `http.listen`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `http://127.0.0.1:<port><path>`
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// `/status`.
    pub fn status(&self) -> serde_json::Value {
        http::get(&self.url("/status")).expect("the listener answers").json()
    }

    /// The text of `/metrics`.
    pub fn metrics(&self) -> String {
        http::get(&self.url("/metrics")).expect("the listener answers").body
    }

    /// The sum of all samples of a metric whose labels contain every text of `labels`; 0 when there
    /// are none.
    ///
    /// A name that `deploy/metrics.md` does not list is a defect of the test: 0 would pass for a
    /// count.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        const REFERENCE: &str = include_str!("../../../deploy/metrics.md");
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .filter(|family| REFERENCE.contains(&format!("| `{family}` | histogram")))
            .unwrap_or(name);
        assert!(REFERENCE.contains(&format!("| `{family}` |")), "there is no metric {name}");
        sample(&self.metrics(), name, labels)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        self.process.exit().is_none()
    }

    /// Waits until it ends by itself, at most `limit`.
    pub fn wait_end(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.process.wait(limit)
    }

    /// `SIGKILL`, and waits until it is gone.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// `SIGSTOP`: frozen, sockets open.
    pub fn freeze(&mut self) {
        self.process.signal(Signal::STOP);
    }

    /// `SIGCONT`.
    pub fn thaw(&mut self) {
        self.process.signal(Signal::CONT);
    }

    /// `SIGTERM`, without waiting.
    pub fn ask_to_end(&mut self) {
        self.process.signal(Signal::TERM);
    }

    /// `SIGTERM`; returns how it ended, panics when it is still there after `limit`.
    pub fn terminate(mut self, limit: Duration) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.process.wait(limit).unwrap_or_else(|| panic!("still running {limit:?} after SIGTERM"))
    }

    /// Everything it has written so far (all processes on the same log file).
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Waits until its log contains `text`.
    pub fn wait_log(&self, text: &str, limit: Duration) {
        until(&format!("`{text}` in the log"), limit, || self.log().contains(text).then_some(()));
    }

    /// `VmRSS`, `VmHWM`… of `/proc/<pid>/status`, in kilobytes (Linux).
    pub fn memory(&self, field: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("a running process on Linux");
        let line = text
            .lines()
            .find(|line| line.starts_with(field))
            .expect("a field of /proc/<pid>/status");
        line.split_whitespace()
            .nth(1)
            .and_then(|number| number.parse().ok())
            .expect("a number of kB")
    }

    /// User and system CPU seconds spent so far (Linux).
    pub fn cpu_seconds(&self) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid()))
            .expect("a running process on Linux");
        // The second field is the name in brackets, which may hold spaces.
        let rest = text.rsplit_once(')').expect("a stat line").1;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks: f64 =
            [11, 12].iter().map(|at| fields[*at].parse::<f64>().expect("a number of ticks")).sum();
        // Linux reports times to programs in hundredths of a second on every architecture.
        ticks / 100.0
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        self.process.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(80)..].join("\n");
            crate::parts::say(&format!(
                "--- last lines of {} ---\n{tail}\n---",
                self.log.display()
            ));
        }
    }
}
