//! `commands show`: everything that is known of one command.

use std::sync::Arc;

use tokio::runtime::Handle;

use crate::{
    config::Settings,
    kafka::{scan::From, tool::Seen},
    schema::{Codec, CommandResult, EntryKind, JournalEntry, Outcome},
    sink,
};

use super::{
    super::{End, memory, output},
    json, partition_of, state,
};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Number of the purchase return
    return_no: String,
    /// The sender's id of the command
    command_id: String,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What the topics hold of one command.
struct Found {
    entry: Option<JournalEntry>,
    results: Vec<CommandResult>,
    letters: Vec<sink::letter::Letter>,
}

pub(super) async fn execute(args: Args, settings: &Arc<Settings>) -> anyhow::Result<End> {
    let found = find(&args, settings).await?;
    if args.json {
        let letters: Vec<_> = found.letters.iter().map(sink::letter::Letter::json).collect();
        let all = serde_json::json!({ "entry": found.entry.as_ref().map(json), "results": found.results, "dead_letters": letters });
        let _ = output::say(&all.to_string());
    } else {
        print(&args, &found);
    }
    let known = found.entry.is_some() || !found.results.is_empty() || !found.letters.is_empty();
    Ok(if known { End::Done } else { End::Failed })
}

async fn find(args: &Args, settings: &Arc<Settings>) -> anyhow::Result<Found> {
    let codec = memory::codec(settings).await?;
    let only = partition_of(settings, &settings.topics.journal, &args.return_no).await?;
    let key = sink::journal_key(&args.return_no, &args.command_id);
    let pair = (args.return_no.clone(), args.command_id.clone());
    let wanted = pair.clone();
    let entry = memory::journal(settings, &codec, only, move |_, entry| {
        (entry.return_no == wanted.0 && entry.command_id == wanted.1).then(|| entry.clone())
    })
    .await?
    .remove(&memory::digest(&key));

    let (reading, runtime, wanted) = (Arc::clone(&codec), Handle::current(), pair.clone());
    // Results are keyed by the return, whatever partitioner the topic's other writers use: read
    // them all.
    let results = memory::collect(
        settings,
        &settings.topics.results,
        None,
        From::Beginning,
        move |record: Seen| {
            if record.key.as_deref() != Some(wanted.0.as_bytes()) {
                return None;
            }
            let result =
                memory::decode(&reading, &runtime, record.value.as_deref()?, Codec::decode_result)
                    .ok()?;
            (result.command_id == wanted.1).then_some(result)
        },
    )
    .await?;

    let (reading, runtime, format) =
        (Arc::clone(&codec), Handle::current(), settings.commands.format);
    let letters = memory::collect(
        settings,
        &settings.topics.commands_dlq,
        None,
        From::Beginning,
        move |record: Seen| {
            let letter = sink::letter::Letter::read(record);
            let named = letter
                .value
                .as_deref()
                .and_then(|value| sink::identify(value, format, &reading, &runtime));
            let letter = sink::letter::Letter { value: None, ..letter };
            (named.as_ref() == Some(&pair)).then_some(letter)
        },
    )
    .await?;
    Ok(Found { entry, results, letters })
}

fn print(args: &Args, found: &Found) {
    let say = |line: &str| {
        let _ = output::say(line);
    };
    let row = |name: &str, value: &str| {
        if !value.is_empty() {
            say(&format!("  {name:<16} {value}"));
        }
    };
    say(&format!("{} {}", args.return_no, args.command_id));
    match &found.entry {
        None => say(
            "  the journal knows no such command: never accepted, or forgotten after the dedup window",
        ),
        Some(entry) => {
            row("state", state(entry));
            row("since", &entry.written_at.to_string());
            row("order", entry.outbound_no.as_deref().unwrap_or_default());
            row("candidates", &entry.candidates.join(", "));
            row("explanation", entry.explanation.en().unwrap_or_default());
            row(
                "ERP says",
                &entry
                    .erp_message
                    .as_ref()
                    .map(|text| format!("{} {text}", entry.erp_code.unwrap_or_default()))
                    .unwrap_or_default(),
            );
            row("warning", entry.warning.as_deref().unwrap_or_default());
            row("warehouse", &entry.warehouse_no);
            row("marker", &entry.marker);
            row("attempts", &entry.attempt.to_string());
            row(
                "first intent",
                &entry.first_intent_at.map(|at| at.to_string()).unwrap_or_default(),
            );
            row(
                "last attempt",
                &entry.last_attempt_at.map(|at| at.to_string()).unwrap_or_default(),
            );
            row(
                "record",
                &format!("partition {}, offset {}", entry.source_partition, entry.source_offset),
            );
            row("version", &entry.version.to_string());
            if entry.kind == EntryKind::Outcome && entry.outcome == Some(Outcome::InDoubt) {
                row(
                    "decide",
                    &format!(
                        "wdt-connector commands resolve {} {} --order <order_no> | --no-order | --no-order-redrivable",
                        args.return_no, args.command_id
                    ),
                );
            }
        }
    }
    if !found.results.is_empty() {
        say("results");
    }
    for result in &found.results {
        let marks: Vec<&str> = [
            ("duplicate", result.duplicate),
            ("recovered", result.recovered),
            ("resolved", result.resolved),
        ]
        .into_iter()
        .filter(|(_, set)| *set)
        .map(|(name, _)| name)
        .collect();
        let detail = [
            result.outbound_no.clone().unwrap_or_default(),
            marks.join(" "),
            result.explanation.en().unwrap_or_default().to_owned(),
            result.warning.clone().unwrap_or_default(),
            result.violations.join("; "),
        ]
        .into_iter()
        .filter(|text| !text.is_empty())
        .collect::<Vec<_>>()
        .join(", ");
        say(&format!(
            "  {} {:<9} {}:{} {detail}",
            result.settled_at,
            result.outcome.name(),
            result.source_partition,
            result.source_offset
        ));
    }
    if !found.letters.is_empty() {
        say("dead letters");
    }
    for letter in &found.letters {
        say(&format!(
            "  {}:{} {} {}",
            letter.partition, letter.offset, letter.label, letter.reason
        ));
    }
}
