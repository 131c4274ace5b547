//! Child processes and folders that do not outlive the test run, however it ends.
//!
//! A small shell holds the read end of a pipe whose only writer is this process. When this process
//! ends, even by `SIGKILL`, the shell reads the end of the file, kills every child that is still
//! listed and removes the folders.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Ignores the terminal's signals (they reach the whole group): it must be the last to go.
const REAPER: &str = r#"
trap '' INT TERM HUP
pids=' '
dirs=''
while read -r word rest; do
  case "$word" in
    pid) pids="$pids$rest " ;;
    gone) pids="${pids%% $rest *} ${pids#* $rest }" ;;
    dir) dirs="$dirs$rest
" ;;
  esac
done
for pid in $pids; do kill -9 "$pid" 2>/dev/null; done
printf '%s' "$dirs" | while read -r dir; do rm -rf "$dir" 2>/dev/null || { sleep 1; rm -rf "$dir"; }; done
"#;

fn reaper() -> MutexGuard<'static, ChildStdin> {
    static REAPER_STDIN: OnceLock<Mutex<ChildStdin>> = OnceLock::new();
    #[expect(clippy::zombie_processes, reason = "it ends only after this process has")]
    let pipe = REAPER_STDIN.get_or_init(|| {
        let mut shell = Command::new("sh")
            .args(["-c", REAPER])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a POSIX shell named `sh`");
        Mutex::new(shell.stdin.take().expect("stdin is piped"))
    });
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child process that is killed when this value is dropped or this process ends.
#[derive(Debug)]
pub struct Guarded {
    child: Child,
    ended: Option<ExitStatus>,
}

/// Starts `command` under the guard.
pub fn spawn(command: &mut Command) -> std::io::Result<Guarded> {
    // The list is held while spawning: the shell never misses a child between its start and its
    // line.
    let mut list = reaper();
    let child = command.spawn()?;
    writeln!(list, "pid {}", child.id())?;
    Ok(Guarded { child, ended: None })
}

impl Guarded {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child itself, to take its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal; harmless when the child has already ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.exit().is_none() {
            let pid = i32::try_from(self.child.id())
                .ok()
                .and_then(Pid::from_raw)
                .expect("a child has a pid");
            // It may end between the check and here; as we have not waited for it, the number is
            // still its own.
            let _ = kill_process(pid, signal);
        }
    }

    /// How it ended, `None` while it runs.
    pub fn exit(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("a child can be waited for");
            if self.ended.is_some() {
                let _ = writeln!(reaper(), "gone {}", self.child.id());
            }
        }
        self.ended
    }

    /// Waits until it has ended by itself, at most `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match self.exit() {
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                answer => return answer,
            }
        }
    }

    /// `SIGKILL`, and waits until it is gone.
    pub fn kill(&mut self) {
        if self.exit().is_none() {
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
            let _ = writeln!(reaper(), "gone {}", self.child.id());
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A temporary folder that is removed when this value is dropped or this process ends.
#[derive(Debug)]
pub struct Folder(tempfile::TempDir);

impl Folder {
    /// A new folder whose name starts with `wdt-<what>-`.
    pub fn new(what: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix(&format!("wdt-{what}-"))
            .tempdir()
            .expect("a temporary folder");
        let _ = writeln!(reaper(), "dir {}", folder.path().display());
        Self(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A path inside it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}
