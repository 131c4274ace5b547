//! `tail`: committed change events, results and dead letters as JSON lines.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde::Serialize;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Timestamp,
    config::{Loaded, Settings},
    kafka::{
        scan::{self, From},
        tool::Seen,
    },
    schema::{Codec, DecodeFault},
};

use super::{End, memory, output};

/// Records between the readers and the printer.
const AHEAD: usize = 256;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Change events of the enabled feeds (the default)
    #[arg(long)]
    changes: bool,
    /// Results of commands
    #[arg(long)]
    results: bool,
    /// Dead letters of commands and feeds, with their headers
    #[arg(long)]
    dead_letters: bool,
    /// Go on with what is written from now on, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Begin with the oldest record instead of the last ones
    #[arg(long)]
    from_beginning: bool,
    /// So many offsets before the end of each partition; a transaction takes one besides its records
    #[arg(long, value_name = "N", default_value_t = 10, conflicts_with = "from_beginning")]
    last: u32,
    /// Begin with what was written since an instant (RFC 3339) or so long ago (2h)
    #[arg(long, value_name = "TIME", value_parser = memory::when, conflicts_with_all = ["from_beginning", "last"])]
    since: Option<Timestamp>,
    /// Only records with this key: the return's or the order's number
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Stop after so many lines
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Print topic, partition, offset, time, key and headers around each value
    #[arg(long)]
    print_offsets: bool,
}

/// Whether a topic's records are printed with everything around them: without its headers a dead
/// letter says little.
type Topics = BTreeMap<String, bool>;

fn topics(settings: &Settings, args: &Args) -> Topics {
    let names = &settings.topics;
    let mut topics = Topics::new();
    if args.changes || !(args.results || args.dead_letters) {
        for (enabled, name) in [
            (settings.purchase_returns.enabled, &names.purchase_returns),
            (settings.return_outbounds.enabled, &names.return_outbounds),
        ] {
            if enabled || !(settings.purchase_returns.enabled || settings.return_outbounds.enabled)
            {
                topics.insert(name.clone(), args.print_offsets);
            }
        }
    }
    if args.results {
        topics.insert(names.results.clone(), args.print_offsets);
    }
    if args.dead_letters {
        let feeds = settings.purchase_returns.enabled || settings.return_outbounds.enabled;
        for (enabled, name) in
            [(settings.commands.enabled, &names.commands_dlq), (feeds, &names.feeds_dlq)]
        {
            if enabled || !(settings.commands.enabled || feeds) {
                topics.insert(name.clone(), true);
            }
        }
    }
    topics
}

pub(super) async fn execute(args: Args, loaded: Loaded) -> anyhow::Result<End> {
    let settings = loaded.settings;
    let topics = topics(&settings, &args);
    let codec = match &settings.schema_registry {
        // No subjects: nothing is registered, schemas are learnt from the ids that are met.
        Some(registry) => Codec::connect(Some(registry), &settings.topics, &[]).await?,
        None => Codec::single_object(),
    };
    let from = match args.since {
        Some(at) => From::Time(at.0),
        None if args.from_beginning => From::Beginning,
        None => From::Last(args.last),
    };
    let mut terminated = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let (sender, mut records) = mpsc::channel(AHEAD);
    let mut readers = JoinSet::new();
    for topic in topics.keys() {
        let (topic, from) = (topic.clone(), from.clone());
        let (kafka, sender, stop) = (settings.kafka.clone(), sender.clone(), stop.clone());
        readers
            .spawn_blocking(move || scan::read(&kafka, &topic, &from, args.follow, &sender, &stop));
    }
    drop(sender);
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let record = tokio::select! {
            record = records.recv() => record,
            _ = tokio::signal::ctrl_c() => None,
            _ = terminated.recv() => None,
        };
        let Some(record) = record else { break };
        if args.key.as_ref().is_some_and(|key| record.key.as_deref() != Some(key.as_bytes())) {
            continue;
        }
        let around = topics.get(&record.topic).copied().unwrap_or(true);
        if output::say(line(&codec, &record, around).await?.get()).is_err() {
            break;
        }
        left -= 1;
    }
    stop.cancel();
    drop(records);
    let mut end = End::Done;
    while let Some(reader) = readers.join_next().await {
        if let Err(fault) = reader? {
            output::complain(&format!("error: {fault}"));
            end = End::Failed;
        }
    }
    Ok(end)
}

/// One record for people and programs, on one line.
pub(super) async fn line(
    codec: &Codec,
    record: &Seen,
    around: bool,
) -> serde_json::Result<Box<RawValue>> {
    let value = match &record.value {
        None => to_raw_value(&Value::Null)?,
        Some(bytes) => readable(codec, bytes).await?,
    };
    if !around {
        return Ok(value);
    }
    let text = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(Value::Null, |bytes| plain(bytes));
    // Kafka allows a header's name several times; the last one is the one Connect wrote last.
    let headers: serde_json::Map<String, Value> =
        record.headers.iter().map(|(name, value)| (name.clone(), text(value))).collect();
    to_raw_value(&Line {
        topic: &record.topic,
        partition: record.partition,
        offset: record.offset,
        timestamp: record.timestamp.map(|ms| Timestamp(ms).to_string()),
        key: text(&record.key),
        headers,
        value,
    })
}

/// A record with everything around its value.
#[derive(Debug, Serialize)]
struct Line<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp: Option<String>,
    key: Value,
    headers: serde_json::Map<String, Value>,
    value: Box<RawValue>,
}

/// Ours by its schema; else JSON as it is written, every digit kept; else text or base64.
pub(super) async fn readable(codec: &Codec, bytes: &[u8]) -> serde_json::Result<Box<RawValue>> {
    let mut decoded = codec.to_json(bytes);
    if let Err(DecodeFault::UnknownSchemaId(id)) = decoded {
        match codec.learn(id).await {
            Ok(()) => decoded = codec.to_json(bytes),
            Err(fault) => {
                tracing::debug!(schema.id = id, error = %fault, "failed to fetch a schema");
            }
        }
    }
    match decoded {
        Ok(value) => to_raw_value(&value),
        Err(DecodeFault::UnknownSchemaId(_) | DecodeFault::Malformed(_)) => {
            match std::str::from_utf8(bytes) {
                // Inside strings JSON escapes them: these line ends stand between tokens.
                Ok(text) => RawValue::from_string(text.trim().replace(['\n', '\r'], " "))
                    .or_else(|_| to_raw_value(&plain(bytes))),
                Err(_) => to_raw_value(&plain(bytes)),
            }
        }
    }
}

/// Text where it is text; otherwise `{"base64": …}`.
fn plain(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "base64": BASE64.encode(bytes) }),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn names(switches: &[&str], text: &str) -> Vec<String> {
        let args = Line::parse_from(std::iter::once(&"tail").chain(switches)).args;
        let env = [("WDT__ERP__FLAGSHIP__SECRET".to_owned(), "x:y".to_owned())];
        let text = format!("{text}[erp.flagship]\nurl = \"http://e/\"\nsid = \"s\"\nkey = \"k\"\n");
        topics(&crate::config::from_toml(&text, env.into_iter()).unwrap().settings, &args)
            .into_keys()
            .collect()
    }

    #[test]
    fn switches_choose_topics() {
        assert_eq!(names(&[], ""), ["wdt.purchase-return.changes", "wdt.return-outbound.changes"]);
        assert_eq!(names(&["--results"], ""), ["wdt.purchase-return.results"]);
        assert_eq!(
            names(&["--dead-letters"], "[commands]\nenabled = true\n"),
            ["wdt.purchase-return.commands.dlq"]
        );
        let feed =
            "[feeds.return_outbounds]\nenabled = true\nstart_at = \"2026-01-01T00:00:00Z\"\n";
        assert_eq!(
            names(&["--changes", "--results"], feed),
            ["wdt.purchase-return.results", "wdt.return-outbound.changes"]
        );
    }

    fn seen(value: &[u8]) -> Seen {
        Seen {
            topic: "t".to_owned(),
            partition: 1,
            offset: 7,
            timestamp: Some(0),
            key: Some(b"R1".to_vec()),
            value: Some(value.to_vec()),
            headers: vec![("__connect.errors.topic".to_owned(), Some(b"c".to_vec()))],
            unreadable_headers: 0,
        }
    }

    #[tokio::test]
    async fn what_is_not_ours_is_shown_as_it_is() {
        let codec = Codec::single_object();
        for (bytes, shown) in [
            (&b"{\"a\":\n 12345678901234567.8900}"[..], "{\"a\":  12345678901234567.8900}"),
            (b"no\njson", "\"no\\njson\""),
            (b"", "\"\""),
        ] {
            assert_eq!(line(&codec, &seen(bytes), false).await.unwrap().get(), shown);
        }
        let around: Value =
            serde_json::from_str(line(&codec, &seen(&[0xff, 0]), true).await.unwrap().get())
                .unwrap();
        assert_eq!(around["value"], json!({ "base64": "/wA=" }));
        assert_eq!(around["key"], "R1");
        assert_eq!(around["timestamp"], "1970-01-01T00:00:00.000Z");
        assert_eq!(around["headers"]["__connect.errors.topic"], "c");
    }
}
