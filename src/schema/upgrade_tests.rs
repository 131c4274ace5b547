//! Rolling upgrade and rollback: what a released version wrote is read today, and what is written
//! today can be read with the schemas of that version.
//!
//! Each folder of `tests/schemas/released` keeps the bytes that one version wrote; nobody edits
//! those. Bytes of today are the golden ones.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    Codec,
    catalog::{catalog, load},
    datum::Cursor,
    json::to_json,
    shape::Schema,
    translate::translate,
};

/// What stays in topics that every version has to read: journal, feeds' state, commands that wait
/// or are read again.
const LASTING: [&str; 3] = ["JournalEntry", "FeedState", "CreateReturnOutbound"];
/// Marker and fingerprint of the single-object encoding.
const HEADER: usize = 10;

fn folder(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Version, schema and text of every released schema of what lasts.
fn released() -> Vec<(String, &'static str, String)> {
    let mut found = Vec::new();
    for version in names(&folder("schemas/released")) {
        for name in LASTING {
            if let Ok(text) =
                fs::read_to_string(folder(&format!("schemas/released/{version}/{name}.avsc")))
            {
                found.push((version.clone(), name, text));
            }
        }
    }
    assert!(found.len() >= LASTING.len(), "{found:?}");
    found
}

/// The kept values of a schema: file and bytes.
fn kept(folder: &Path, schema: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let of_schema =
        |name: &String| name.starts_with(&format!("{schema}.")) && name.ends_with(".single.bin");
    let files = names(folder).into_iter().filter(of_schema).map(|name| folder.join(name));
    files.map(|file| (file.clone(), fs::read(file).unwrap())).collect()
}

/// Reads with today's types and writes with today's schema.
fn renewed(codec: &Codec, schema: &str, bytes: &[u8]) -> Vec<u8> {
    match schema {
        "JournalEntry" => codec.encode_journal(&codec.decode_journal(bytes).unwrap()),
        "FeedState" => codec.encode_feed_state(&codec.decode_feed_state(bytes).unwrap()),
        _ => codec.encode_command(&codec.decode_command(bytes).unwrap()),
    }
    .unwrap()
}

/// Every field `had` has is in `has`, with the same value.
fn assert_keeps(had: &Value, has: &Value, what: &str) {
    match (had, has) {
        (Value::Object(had), Value::Object(has)) => {
            for (field, value) in had {
                assert_keeps(
                    value,
                    has.get(field).unwrap_or_else(|| panic!("{what}: {field} is gone")),
                    &format!("{what}.{field}"),
                );
            }
        }
        (had, has) => assert_eq!(had, has, "{what}"),
    }
}

#[test]
fn bytes_of_every_released_version_are_read() {
    let codec = Codec::single_object();
    for (version, schema, _) in released() {
        let values = kept(&folder(&format!("tests/schemas/released/{version}")), schema);
        assert!(
            values.len() >= 3,
            "tests/schemas/released/{version} keeps {} values of {schema}; keep some",
            values.len()
        );
        for (file, bytes) in values {
            let what = file.display().to_string();
            let written: Value = serde_json::from_str(
                &fs::read_to_string(what.replace(".single.bin", ".json")).unwrap(),
            )
            .unwrap();
            let renewed = renewed(&codec, schema, &bytes);
            assert_keeps(&written, &codec.to_json(&renewed).unwrap(), &what);
        }
    }
}

/// A previous version knows today's schema by its own where nothing changed, and through the
/// registry where something did.
#[test]
fn bytes_of_today_are_read_with_the_schemas_of_every_released_version() {
    for (version, schema, text) in released() {
        let today = match schema {
            "JournalEntry" => &catalog().journal,
            "FeedState" => &catalog().feed_state,
            _ => &catalog().command,
        };
        let older = Schema::ours(&text).unwrap();
        let values = kept(&folder("tests/schemas/golden"), schema);
        assert!(values.len() >= 3, "{schema}: {} golden values", values.len());
        for (file, bytes) in values {
            let what = format!("{} with version {version}", file.display());
            assert_eq!(
                bytes[HEADER - today.fingerprint.len()..HEADER],
                today.fingerprint,
                "{what}"
            );
            let datum = &bytes[HEADER..];
            let mut read = Vec::new();
            translate(today.schema.root(), older.root(), &mut Cursor::new(datum), &mut read)
                .unwrap_or_else(|fault| panic!("{what}: {fault:?}"));
            let has = to_json(older.root(), &mut Cursor::new(&read)).unwrap();
            // What the older version does not know is dropped; everything it reads is as it was
            // written.
            assert_keeps(
                &has,
                &to_json(today.schema.root(), &mut Cursor::new(datum)).unwrap(),
                &what,
            );
            if load(today.name, Box::leak(text.clone().into_boxed_str())).fingerprint
                == today.fingerprint
            {
                assert_eq!(read, datum, "{what}");
            }
        }
    }
}

/// Without a registry an older version reads only schemas it has compiled in: the journal must
/// never be the reason why a rollback has to stop. Whoever changes its schema gives up this test,
/// and says so in the changelog.
#[test]
fn a_rollback_needs_no_registry_for_the_journal() {
    let (_, _, text) =
        released().into_iter().rfind(|(_, schema, _)| *schema == "JournalEntry").unwrap();
    assert_eq!(
        load("JournalEntry", Box::leak(text.into_boxed_str())).fingerprint,
        catalog().journal.fingerprint
    );
}
