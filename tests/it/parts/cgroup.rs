//! A memory cgroup of a test's own: what is in it is killed by the kernel's OOM killer when it
//! needs more than its limit.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Removed when dropped; whoever is in it must have ended by then.
#[derive(Debug)]
pub struct MemoryGroup {
    folder: PathBuf,
    /// cgroup v2.
    unified: bool,
}

impl MemoryGroup {
    /// `None` where this machine lets nobody make one: it takes root and a hierarchy that can be
    /// written.
    pub fn new(name: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let hierarchies = mounts.lines().filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (at, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
            let unified = kind == "cgroup2";
            (unified || (kind == "cgroup" && options.split(',').any(|option| option == "memory")))
                .then_some((at, unified))
        });
        hierarchies.filter_map(|(at, unified)| Self::below(Path::new(at), unified, name)).next()
    }

    fn below(hierarchy: &Path, unified: bool, name: &str) -> Option<Self> {
        let folder = hierarchy.join(name);
        fs::create_dir(&folder).ok()?;
        let group = Self { folder, unified };
        // A hierarchy without the memory controller makes folders as well.
        group.folder.join(group.limit_file()).exists().then_some(group)
    }

    fn limit_file(&self) -> &'static str {
        if self.unified { "memory.max" } else { "memory.limit_in_bytes" }
    }

    /// The file that a process writes its id to.
    pub fn door(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// Whether a process is in it.
    pub fn holds(&self, pid: u32) -> bool {
        fs::read_to_string(self.door())
            .is_ok_and(|text| text.lines().any(|line| line == pid.to_string()))
    }

    /// What its processes have allocated and touched, without files' pages, in bytes.
    pub fn held(&self) -> u64 {
        self.number("memory.stat", if self.unified { "anon" } else { "total_rss" })
    }

    /// The same with files' pages and the kernel's own.
    pub fn used(&self) -> u64 {
        let text = self.read(if self.unified { "memory.current" } else { "memory.usage_in_bytes" });
        text.trim().parse().expect("a number of bytes")
    }

    /// How many processes in it the OOM killer has killed.
    pub fn killed(&self) -> u64 {
        self.number(if self.unified { "memory.events" } else { "memory.oom_control" }, "oom_kill")
    }

    /// Bounds it, without swap.
    ///
    /// # Errors
    /// `ResourceBusy` when it holds more already and cgroup v1 cannot get rid of it.
    pub fn limit(&self, bytes: u64) -> io::Result<()> {
        let no_swap = if self.unified { "memory.swap.max" } else { "memory.swappiness" };
        // Absent where the kernel does not account for swap.
        let _ = fs::write(self.folder.join(no_swap), "0");
        fs::write(self.folder.join(self.limit_file()), bytes.to_string())
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.folder.join(file)).expect("a file of the cgroup")
    }

    fn number(&self, file: &str, name: &str) -> u64 {
        let text = self.read(file);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("no {name} in {file}: {text}"))
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}
