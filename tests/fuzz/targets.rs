//! Everything that reads bytes from outside, with the words it may come to.

use wdt_connector::testing::{
    config::{self, CommandFormat},
    erp::{self, Call},
    schema, simulator, sink,
};

/// Takes one input; an error is a broken promise.
pub type Trial = Box<dyn FnMut(&[u8]) -> Result<&'static str, String>>;

pub struct Target {
    pub name: &'static str,
    /// Files and folders beside `Cargo.toml`.
    pub corpus: &'static [&'static str],
    /// Every one of them has to be come to, and nothing else.
    pub words: &'static [&'static str],
    /// A fresh start, which happens every `lifetime` inputs.
    pub trial: fn() -> Trial,
    pub lifetime: u64,
}

const FOR_EVER: u64 = u64::MAX;

const QUERY: [&str; 10] = [
    "no record",
    "a record",
    "a record with drift",
    "a misfit",
    "throttled",
    "unusable",
    "unlisted",
    "misconfigured",
    "too wide",
    "rejected",
];
/// An outbound order that cannot be published may still show whose it is.
const OUTBOUND_QUERY: [&str; 11] = [
    "no record",
    "a record",
    "a record with drift",
    "only its head",
    "a misfit",
    "throttled",
    "unusable",
    "unlisted",
    "misconfigured",
    "too wide",
    "rejected",
];

/// Of what this edition rejects, only windows are documented.
const ENTERPRISE_QUERY: [&str; 10] = [
    "no record",
    "a record",
    "a record with drift",
    "only its head",
    "a misfit",
    "throttled",
    "unusable",
    "unlisted",
    "misconfigured",
    "too wide",
];

pub fn all() -> Vec<Target> {
    vec![
        Target {
            name: "command_avro",
            corpus: &["tests/schemas/golden/*.bin", "tests/fuzz/corpus/command_avro"],
            words: &["poison", "an unknown schema id", "invalid", "a command"],
            trial: || {
                let codec = schema::fuzz::Trial::new().unwrap();
                Box::new(move |bytes| {
                    Ok(sink::fuzz::command(bytes, CommandFormat::Avro, codec.codec()))
                })
            },
            lifetime: FOR_EVER,
        },
        Target {
            name: "command_json",
            corpus: &["tests/fuzz/corpus/command_json"],
            words: &["poison", "invalid fields", "invalid", "a command"],
            trial: || {
                let codec = schema::Codec::single_object();
                Box::new(move |bytes| Ok(sink::fuzz::command(bytes, CommandFormat::Json, &codec)))
            },
            lifetime: FOR_EVER,
        },
        Target {
            name: "record",
            corpus: &["tests/fuzz/corpus/record"],
            words: &[
                "unreadable names",
                "among the commands",
                "a decision",
                "poison",
                "invalid",
                "another key",
                "a command",
            ],
            trial: || Box::new(sink::fuzz::record),
            lifetime: FOR_EVER,
        },
        Target {
            name: "journal_and_state",
            corpus: &["tests/schemas/golden/*.bin", "tests/fuzz/corpus/journal_and_state"],
            words: &[
                "a feed's state",
                "a journal entry",
                "a result",
                "another value",
                "an unknown schema id",
                "malformed",
            ],
            trial: || {
                let codec = schema::fuzz::Trial::new().unwrap();
                Box::new(move |bytes| Ok(codec.entry(bytes)))
            },
            lifetime: FOR_EVER,
        },
        Target {
            name: "offset_metadata",
            corpus: &["tests/fuzz/corpus/offset_metadata"],
            words: &["settled ahead", "nothing ahead"],
            trial: || Box::new(|bytes| Ok(sink::fuzz::offset_metadata(bytes))),
            lifetime: FOR_EVER,
        },
        answers(
            "create_order",
            &["tests/fuzz/corpus/create_order"],
            &[
                "created",
                "rejected",
                "unlisted",
                "probably created",
                "throttled",
                "unknown",
                "misconfigured",
            ],
            || trial_of(Call::CreateOrder),
        ),
        answers(
            "query_purchase_returns",
            &["tests/fuzz/corpus/query_flagship", "tests/fuzz/corpus/query_returns"],
            &QUERY,
            || trial_of(Call::QueryPurchaseReturns),
        ),
        answers(
            "query_outbounds",
            &["tests/fuzz/corpus/query_flagship", "tests/fuzz/corpus/query_outbounds"],
            &OUTBOUND_QUERY,
            || trial_of(Call::QueryOutbounds),
        ),
        answers(
            "query_enterprise",
            &["tests/fuzz/corpus/query_enterprise"],
            &ENTERPRISE_QUERY,
            || trial_of(Call::QueryOutboundsEnterprise),
        ),
        Target {
            name: "configuration",
            corpus: &["tests/fuzz/corpus/configuration"],
            words: &["settings", "mistakes"],
            trial: || Box::new(|bytes| Ok(configuration(bytes))),
            lifetime: FOR_EVER,
        },
        Target {
            name: "registry",
            corpus: &["tests/fuzz/corpus/registry"],
            words: &[
                "an id",
                "a schema",
                "a schema that cannot be read from",
                "no schema for us",
                "not the documented JSON",
            ],
            trial: || Box::new(|bytes| Ok(schema::fuzz::Trial::registry(bytes))),
            lifetime: FOR_EVER,
        },
        Target {
            name: "writer_schema",
            corpus: &["tests/fuzz/corpus/writer_schema"],
            words: &[
                "no datum",
                "no schema",
                "a command",
                "a command that cannot be shown",
                "another value",
                "malformed",
            ],
            trial: || {
                let codec = schema::fuzz::Trial::new().unwrap();
                Box::new(move |bytes| Ok(codec.written(bytes)))
            },
            lifetime: FOR_EVER,
        },
        Target {
            name: "admin",
            corpus: &["tests/fuzz/corpus/admin"],
            words: &[
                "done",
                "a mistake",
                "nothing there",
                "another method",
                "no request",
                "asks for much",
            ],
            trial: || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                let trial = simulator::fuzz::Trial::new().unwrap();
                Box::new(move |bytes| Ok(runtime.block_on(trial.request(bytes))))
            },
            // What is made up stays: a fresh ERP keeps an answer's size a matter of its own
            // request.
            lifetime: 1,
        },
    ]
}

fn answers(
    name: &'static str,
    corpus: &'static [&'static str],
    words: &'static [&'static str],
    trial: fn() -> Trial,
) -> Target {
    Target { name, corpus, words, trial, lifetime: FOR_EVER }
}

/// The first line is the HTTP status.
fn trial_of(call: Call) -> Trial {
    Box::new(move |bytes| {
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        let status = std::str::from_utf8(&bytes[..end])
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(200);
        erp::fuzz::answer(call, status, bytes.get(end + 1..).unwrap_or_default())
    })
}

/// The file as it is, and its lines as an environment.
fn configuration(bytes: &[u8]) -> &'static str {
    let text = String::from_utf8_lossy(bytes);
    // No input may name a file of this machine: what is read has to be decided by the input alone.
    let text = text.replace("_file", "_fil");
    let env = text
        .lines()
        .filter_map(|line| line.strip_prefix("#env ")?.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    match config::from_toml(&text, env) {
        Ok(_) => "settings",
        Err(mistakes) if mistakes.is_empty() => "a defect",
        Err(_) => "mistakes",
    }
}
