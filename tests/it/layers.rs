//! Imports point one way: a wrong one is an architecture fault that no other test would notice.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What stands higher may import what stands lower. Equal rank may import each other except where
/// [`APART`] says no.
const RANKS: [(&str, u32); 24] = [
    ("main", 70),
    ("cli", 60),
    ("app", 50),
    // Only the command line and the wiring may start one; it imports nothing itself.
    ("simulator", 45),
    ("sink", 40),
    ("source", 40),
    ("ops", 40),
    ("erp", 30),
    ("kafka", 30),
    ("schema", 30),
    // Names the ERP's calls in its labels.
    ("metrics", 30),
    // Names the hops in its spans.
    ("telemetry", 30),
    ("config", 20),
    ("restarts", 20),
    ("background", 15),
    ("board", 10),
    ("fault", 10),
    ("http_client", 10),
    ("decimal", 10),
    ("text", 10),
    ("explanation", 10),
    ("clock", 10),
    ("crash", 10),
    ("lib", 80),
];

/// These never import each other.
const APART: [(&str, &str); 2] = [("sink", "source"), ("source", "sink")];

/// A crate that only some files may name.
const CONFINED: [(&str, &[&str]); 2] = [
    ("rdkafka::", &["src/kafka/"]),
    ("reqwest::", &["src/erp/", "src/schema/registry", "src/telemetry/otlp", "src/http_client"]),
];

/// Threads and tasks are started in `src/background.rs`, so that a panic of none goes by without a
/// word; these start some themselves.
const SPAWNS: [&str; 6] = [
    "tokio::spawn(",
    "thread::spawn(",
    "thread::Builder",
    "spawn_blocking(",
    "runtime.spawn(",
    "thread::scope(",
];
const SPAWNING: [(&str, &str); 6] = [
    ("src/background.rs", "the one place"),
    ("src/app/ending.rs", "ends the process whatever happens, and needs nobody to do so"),
    ("src/simulator/", "no part of the connector"),
    ("src/cli/", "ends with its command, which waits for it; `run` waits for the application"),
    ("src/telemetry/otlp.rs", "every request is waited for"),
    ("src/schema/", "only tests"),
];
/// [`SPAWNS`] for one task, by who learns of its end.
const ONCE: [(&str, &str); 5] = [
    ("src/sink/engine.rs", "`Word`; leaving is seen by the events' end"),
    ("src/source/mod.rs", "leaving is waited for"),
    ("src/erp/quota/account.rs", "`Alive` sends those who wait into the line again"),
    ("src/source/tenure.rs", "a measurement; the next takeover makes it again"),
    ("src/app.rs", "a failpoint"),
];

/// Rust files below `src`, without those that hold only tests: path and text up to its unit tests,
/// comments left out.
pub fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "tests") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|end| end == "rs")
                && path.file_stem().is_some_and(|name| name != "tests")
            {
                found.push((relative(root, &path), code(&fs::read_to_string(&path).unwrap())));
            }
        }
    }
    assert!(found.len() > 20, "the sources were not found: {found:?}");
    found
}

fn relative(root: &Path, path: &Path) -> String {
    let parts: Vec<_> = path
        .strip_prefix(root)
        .unwrap()
        .components()
        .map(|part| part.as_os_str().to_string_lossy())
        .collect();
    parts.join("/")
}

fn code(text: &str) -> String {
    let before_tests = text.split("\n#[cfg(test)]\nmod ").next().unwrap();
    before_tests
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// `src/kafka/store.rs` → `kafka`; `src/app.rs` → `app`.
fn module_of(path: &str) -> String {
    let inside = path.strip_prefix("src/").unwrap();
    PathBuf::from(inside.split('/').next().unwrap())
        .file_stem()
        .unwrap()
        .to_string_lossy()
        .into_owned()
}

/// The top-level modules named behind `crate::`, braces included: `crate::{a::b, c::{d, e}}` → a,
/// c.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => found.push(name(rest)),
            Some(group) => {
                let mut depth = 1;
                let mut at_start = true;
                for (at, sign) in group.char_indices() {
                    match sign {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 1 => at_start = true,
                        _ if at_start && !sign.is_whitespace() => {
                            found.push(name(&group[at..]));
                            at_start = false;
                        }
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
        }
    }
    found
}

fn name(text: &str) -> String {
    text.chars().take_while(|sign| sign.is_alphanumeric() || *sign == '_').collect()
}

fn rank(module: &str) -> u32 {
    let known = RANKS.iter().find(|(name, _)| *name == module);
    known.unwrap_or_else(|| panic!("src/{module} is new: give it a place in RANKS")).1
}

#[test]
fn imports_point_one_way() {
    let mut wrong = Vec::new();
    for (path, code) in sources() {
        let own = module_of(&path);
        for other in imports(&code)
            .into_iter()
            .filter(|other| *other != own && RANKS.iter().any(|(name, _)| name == other))
        {
            if rank(&other) > rank(&own) || APART.contains(&(own.as_str(), other.as_str())) {
                wrong.push(format!("{path} imports crate::{other}"));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that point the wrong way:\n{}", wrong.join("\n"));
}

#[test]
fn clients_stay_behind_their_ports() {
    let mut wrong = Vec::new();
    for (path, code) in sources() {
        for (client, homes) in CONFINED {
            if code.contains(client) && !homes.iter().any(|home| path.starts_with(home)) {
                wrong.push(format!("{path} names {client}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "these belong behind src/kafka, src/erp or the registry:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_simulator_imports_nothing_of_the_client() {
    let mut wrong = Vec::new();
    for (path, code) in sources().into_iter().filter(|(path, _)| path.starts_with("src/simulator"))
    {
        wrong.extend(
            imports(&code)
                .into_iter()
                .filter(|other| other != "simulator")
                .map(|other| format!("{path} imports crate::{other}")),
        );
        wrong.extend(code.contains("wdt_connector::").then(|| format!("{path} names the library")));
    }
    assert!(
        wrong.is_empty(),
        "a mistake shared with the client would cancel out:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn imports_are_found_in_braces() {
    assert_eq!(
        imports("use crate::a::b; crate::{c::{d, e}, f,\n    g::h}; x(crate::i::J)"),
        ["a", "c", "f", "g", "i"]
    );
}

#[test]
fn threads_and_tasks_are_started_in_one_place() {
    let mut wrong = Vec::new();
    for (path, code) in sources() {
        let allowed = |places: &[(&str, &str)]| places.iter().any(|(at, _)| path.starts_with(at));
        if !allowed(&SPAWNING) {
            let bare = SPAWNS.iter().filter(|spawn| code.contains(**spawn));
            wrong.extend(bare.map(|spawn| format!("{path}: {spawn}…")));
        }
        if code.contains("background::task(") && !allowed(&ONCE) {
            wrong.push(format!("{path}: background::task(…"));
        }
    }
    assert!(wrong.is_empty(), "who learns of a panic there?\n{}", wrong.join("\n"));
}
