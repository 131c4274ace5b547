//! What Linux says of this process, for the metrics.

/// CPU time spent, memory in use, files open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process {
    pub cpu_seconds: f64,
    pub memory_bytes: u64,
    pub files: usize,
}

/// Linux tells programs times in hundredths of a second on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// `None` where there is no `/proc`.
pub(super) fn look() -> Option<Process> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name in brackets, which may hold spaces.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    let files = std::fs::read_dir("/proc/self/fd").ok()?.count();
    Some(Process {
        cpu_seconds: (ticks(11)? + ticks(12)?) / TICKS_PER_SECOND,
        memory_bytes: kilobytes * 1024,
        files,
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn this_process_has_memory_and_open_files() {
        let own = super::look().unwrap();
        assert!(own.cpu_seconds >= 0.0 && own.memory_bytes > 1 << 20 && own.files >= 3, "{own:?}");
    }
}
