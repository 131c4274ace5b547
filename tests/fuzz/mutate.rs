//! Inputs: mostly valid ones with something changed, byte by byte or by the structure of their
//! JSON.

use std::{fs, path::Path};

use serde_json::{Value, json};

/// Small and decided by its seed: `xorshift64*`.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 0 to `end` - 1; 0 for an `end` of 0.
    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap().max(1);
        usize::try_from((self.next() >> 11) % end).unwrap()
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    fn chance(&mut self, of_hundred: usize) -> bool {
        self.below(100) < of_hundred
    }
}

/// One input.
pub struct Input {
    pub bytes: Vec<u8>,
    /// Made from a kept one.
    pub from_valid: bool,
}

/// Kept inputs: each is tried as it is, then changed ones are made of them.
pub struct Corpus {
    kept: Vec<Vec<u8>>,
}

/// No input grows beyond this, so that a bound on bytes is one on the work as well.
const LARGEST: usize = 256 * 1024;

/// What mistakes and attacks are made of.
const TOKENS: [&[u8]; 34] = [
    b"\0",
    b"\xff",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"\xfe\xff\xff\xff\x0f",
    b"\xc3\x01",
    b"\0\0\0\0\x09",
    b"\r\n",
    b"\x1b[2J",
    b"\xe2\x80\xae",
    b"\xf0\x9f\x98\x80",
    b"\xed\xa0\x80",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b"null",
    b"true",
    b"1e400",
    b"-0",
    b"9223372036854775808",
    b"-1",
    b"0.00001",
    b"\"\"",
    b";",
    b":",
    b"%00",
    b"../",
    b"2026-02-30 25:61:61",
    b"\xef\xbb\xbf",
    b"'''",
];

impl Corpus {
    /// Every file of the folders, which stand beside `Cargo.toml`; `folder/*.bin` takes only those
    /// that end so.
    pub fn read(folders: &[&str]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = Vec::new();
        for folder in folders {
            let (folder, end) = folder.split_once("/*").unwrap_or((folder, ""));
            let path = root.join(folder);
            if path.is_file() {
                files.push(path);
                continue;
            }
            let entries =
                fs::read_dir(&path).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()));
            files.extend(
                entries
                    .map(|entry| entry.unwrap().path())
                    .filter(|path| path.is_file() && path.to_string_lossy().ends_with(end)),
            );
        }
        // A run must not depend on the order in which a file system lists them.
        files.sort();
        assert!(!files.is_empty(), "no corpus in {folders:?}");
        Self { kept: files.iter().map(|path| fs::read(path).unwrap()).collect() }
    }

    /// The next input.
    pub fn next(&self, number: u64, rng: &mut Rng) -> Input {
        if let Some(kept) = usize::try_from(number).ok().and_then(|number| self.kept.get(number)) {
            return Input { bytes: kept.clone(), from_valid: true };
        }
        let seed = rng.pick(&self.kept);
        let mut bytes = match rng.below(100) {
            0..40 => bytewise(seed, &self.kept, rng, 1),
            40..55 => {
                let changes = 2 + rng.below(12);
                bytewise(seed, &self.kept, rng, changes)
            }
            55..88 => structural(seed, rng)
                .or_else(|| by_line(seed, rng))
                .unwrap_or_else(|| bytewise(seed, &self.kept, rng, 2)),
            _ => return Input { bytes: noise(seed, rng), from_valid: false },
        };
        bytes.truncate(LARGEST);
        Input { bytes, from_valid: true }
    }
}

/// Bytes without any sense, often behind the first ones of a valid input.
fn noise(seed: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = if rng.chance(70) {
        seed[..rng.below(seed.len().min(16) + 1)].to_vec()
    } else {
        Vec::new()
    };
    let length = rng.below(200);
    let text = rng.chance(40);
    bytes.extend((0..length).map(|_| {
        let byte = u8::try_from(rng.below(256)).unwrap();
        if text { byte & 0x7f } else { byte }
    }));
    bytes
}

fn bytewise(seed: &[u8], kept: &[Vec<u8>], rng: &mut Rng, changes: usize) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..changes {
        let at = rng.below(bytes.len() + 1);
        let end = (at + 1 + rng.below(24)).min(bytes.len());
        match rng.below(10) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            2 if at < bytes.len() => {
                bytes[at] = *rng.pick(&[0, 1, 0x7f, 0x80, 0xff, b'0', b'9', b'"', b'-'])
            }
            3 if at < end => drop(bytes.drain(at..end)),
            4 if at < end => {
                let again = bytes[at..end].repeat(1 + rng.below(4));
                bytes.splice(at..at, again);
            }
            5 => bytes.truncate(at),
            6 => {
                let other = rng.pick(kept);
                let from = rng.below(other.len() + 1);
                let to = (from + rng.below(64)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            7 => drop(bytes.splice(at..at, rng.pick(&TOKENS).iter().copied())),
            8 if at < end => drop(bytes.splice(at..end, rng.pick(&TOKENS).iter().copied())),
            _ => {
                let byte = u8::try_from(rng.below(256)).unwrap();
                bytes.insert(at, byte);
            }
        }
        bytes.truncate(LARGEST);
    }
    bytes
}

/// The JSON in an input (behind its first line, where it has one) with one place of it changed;
/// `None` without JSON.
fn structural(seed: &[u8], rng: &mut Rng) -> Option<Vec<u8>> {
    let start = seed.iter().position(|byte| matches!(byte, b'{' | b'['))?;
    let mut value: Value = serde_json::from_slice(&seed[start..]).ok()?;
    for _ in 0..1 + rng.below(3) {
        let places = count(&value);
        let mut at = rng.below(places);
        change(&mut value, &mut at, rng);
    }
    let mut bytes = seed[..start].to_vec();
    bytes.extend(serde_json::to_vec(&value).ok()?);
    Some(bytes)
}

/// Lines of `key = value` with some of them given other values, taken away or put elsewhere; `None`
/// for anything else.
fn by_line(seed: &[u8], rng: &mut Rng) -> Option<Vec<u8>> {
    const VALUES: [&str; 16] = [
        "true",
        "false",
        "0",
        "1",
        "-1",
        "4294967296",
        "0x10",
        "1.5",
        "\"\"",
        "\"1s\"",
        "\"3650d\"",
        "\"http://h/\"",
        "\"http://u:p@h/\"",
        "[]",
        "{ a = 1 }",
        "2026-01-01T00:00:00Z",
    ];
    let text = std::str::from_utf8(seed).ok()?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let settings: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].contains(" = ")).collect();
    if settings.is_empty() {
        return None;
    }
    for _ in 0..1 + rng.below(3) {
        let at = (*rng.pick(&settings)).min(lines.len().saturating_sub(1));
        let line = lines.get(at)?.clone();
        let Some((key, value)) = line.split_once(" = ") else { continue };
        match rng.below(8) {
            0 => drop(lines.remove(at)),
            // Into whichever section stands there.
            1 => {
                lines.remove(at);
                let to = rng.below(lines.len() + 1);
                lines.insert(to, line);
            }
            2 => lines[at] = format!("{key}{} = {value}", ["x", "_file", ".x", "s"][rng.below(4)]),
            3 => {
                let other = lines[(*rng.pick(&settings)).min(lines.len() - 1)].clone();
                if let Some((_, value)) = other.split_once(" = ") {
                    lines[at] = format!("{key} = {value}");
                }
            }
            // A default that stands there as a comment is put in force.
            4 | 5 => lines[at] = line.trim_start_matches('#').to_owned(),
            _ => lines[at] = format!("{} = {}", key.trim_start_matches('#'), rng.pick(&VALUES)),
        }
    }
    Some(lines.join("\n").into_bytes())
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// Walks to the `at`-th place and changes it.
fn change(value: &mut Value, at: &mut usize, rng: &mut Rng) -> bool {
    if *at == 0 {
        replace(value, rng);
        return true;
    }
    *at -= 1;
    match value {
        Value::Array(items) => items.iter_mut().any(|item| change(item, at, rng)),
        Value::Object(fields) => fields.values_mut().any(|field| change(field, at, rng)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn replace(value: &mut Value, rng: &mut Rng) {
    match (rng.below(8), &mut *value) {
        (0, Value::Object(fields)) => {
            let names: Vec<String> = fields.keys().cloned().collect();
            if !names.is_empty() {
                fields.remove(rng.pick(&names));
            }
        }
        (1, Value::Object(fields)) => {
            let name = ["status", "remark", "新字段", "__proto__", "a.b", ""][rng.below(6)];
            fields.insert(name.to_owned(), any(rng));
        }
        (0, Value::Array(items)) => items.clear(),
        (1 | 2, Value::Array(items)) => {
            if let Some(item) = items.first().cloned() {
                items.extend((0..1 + rng.below(8)).map(|_| item.clone()));
            }
        }
        (0..3, Value::String(text)) => {
            let end = text
                .char_indices()
                .map(|(at, _)| at)
                .nth(rng.below(text.chars().count() + 1))
                .unwrap_or(text.len());
            text.truncate(end);
            text.push_str(
                ["\u{0}", "\u{202e}", "😀", "\r\nlevel=ERROR", "'; --", "退", "\u{7f}"]
                    [rng.below(7)],
            );
        }
        _ => *value = any(rng),
    }
}

fn any(rng: &mut Rng) -> Value {
    match rng.below(17) {
        0 => Value::Null,
        1 => json!(rng.chance(50)),
        2 => json!(0),
        3 => json!(-1),
        4 => json!(i64::MIN),
        5 => json!(u64::MAX),
        6 => json!(1.5),
        7 => json!("0"),
        8 => json!("12345678901234567890.12345"),
        9 => json!("2026-01-02 03:04:05"),
        10 => json!("x".repeat(1 + rng.below(400))),
        11 => json!([]),
        12 => json!({}),
        13 => json!([[[[[[[[1]]]]]]]]),
        14 => json!(100),
        // A count that somebody may believe.
        15 => json!(4_000_000_000_u64),
        _ => json!("超过每分钟最大调用频率限制"),
    }
}
