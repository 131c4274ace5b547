//! `commands`: what became of commands, a person's decisions, pause and resume, replays.

mod control;
mod list;
mod replay;
mod resolve;
mod show;

use std::sync::Arc;

use crate::{
    config::{Loaded, Settings},
    schema::{EntryKind, JournalEntry},
    sink,
};

use super::End;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Verb {
    /// List commands the journal knows: those in doubt or still open, or others by filter
    #[command(
        after_help = "Example: wdt-connector commands list --outcome REJECTED --config connector.toml"
    )]
    List(list::Args),
    /// Show one command: journal entry, results, dead letters
    #[command(
        after_help = "Example: wdt-connector commands show TH202601010001 c-1 --config connector.toml"
    )]
    Show(show::Args),
    /// Decide about a command in doubt
    #[command(
        after_help = "Examples:\n  wdt-connector commands resolve TH202601010001 c-1 --order CK202601010001\n  \
        wdt-connector commands resolve TH202601010001 c-1 --no-order\n\
        The owner of the command carries the decision out, in order with the other commands of the return, and writes one more result.\n\
        --no-order ends it as REJECTED, for good. --no-order-redrivable does so too, and `dlq redrive` may then have it created, after looking for it once more.\n\
        The decision is a record of the control topic, so it needs Write there. Exits 1 when it was not carried out."
    )]
    Resolve(resolve::Args),
    /// Begin no new command in any instance until `resume`; lookups of commands in doubt go on
    #[command(after_help = "Example: wdt-connector commands pause --config connector.toml")]
    Pause(control::Args),
    /// End `pause`
    #[command(after_help = "Example: wdt-connector commands resume --config connector.toml")]
    Resume(control::Args),
    /// Send commands again from an offset or a time; the journal answers for those it knows
    #[command(
        after_help = "Example: wdt-connector commands replay --from-time 2h --dry-run --config connector.toml\n\
        Records are sent again as they are, behind everything there is, so nothing has to be stopped and no offset moves back.\n\
        A command with a known outcome yields it again, marked duplicate, without a call."
    )]
    Replay(replay::Args),
}

pub(super) async fn execute(args: Args, loaded: Loaded) -> anyhow::Result<End> {
    let settings = Arc::new(loaded.settings);
    match args.verb {
        Verb::List(args) => list::execute(args, &settings).await,
        Verb::Show(args) => show::execute(args, &settings).await,
        Verb::Resolve(args) => resolve::execute(args, &settings).await,
        Verb::Pause(args) => control::execute(&args, &settings, control::State::Paused).await,
        Verb::Resume(args) => control::execute(&args, &settings, control::State::Running).await,
        Verb::Replay(args) => replay::execute(args, &settings).await,
    }
}

/// The word for where a command stands.
fn state(entry: &JournalEntry) -> &'static str {
    match (entry.kind, entry.outcome) {
        (EntryKind::Outcome, Some(outcome)) => outcome.name(),
        (EntryKind::Intent | EntryKind::Outcome | EntryKind::Barrier, _) => "OPEN",
    }
}

/// The partition in which everything about a return stands, where the partitioner says so.
async fn partition_of(
    settings: &Settings,
    topic: &str,
    return_no: &str,
) -> anyhow::Result<Option<Vec<i32>>> {
    let count = partitions(settings, topic).await?;
    Ok(sink::partition_of(return_no.as_bytes(), count, settings.commands.partitioner)
        .map(|partition| vec![partition]))
}

/// How many partitions a topic has.
pub(super) async fn partitions(settings: &Settings, topic: &str) -> anyhow::Result<i32> {
    let counts = crate::kafka::partition_counts(&settings.kafka, &[topic])
        .await
        .map_err(anyhow::Error::msg)?;
    let Some(Some(count)) = counts.first() else {
        anyhow::bail!(
            "{topic} does not exist; create it with `wdt-connector topics --with-commands`"
        )
    };
    Ok(*count)
}

/// Who is at the keyboard, for the record.
fn operator() -> String {
    let name = |variable| std::env::var(variable).ok().filter(|name| !name.is_empty());
    let user = name("USER").or_else(|| name("LOGNAME")).unwrap_or_else(|| "an operator".to_owned());
    match name("HOSTNAME") {
        Some(host) => format!("{user}@{host}"),
        None => user,
    }
}

/// An entry as JSON for people and programs.
fn json(entry: &JournalEntry) -> serde_json::Value {
    serde_json::json!({
        "return_no": entry.return_no,
        "command_id": entry.command_id,
        "state": state(entry),
        "version": entry.version,
        "warehouse_no": entry.warehouse_no,
        "marker": entry.marker,
        "attempts": entry.attempt,
        "first_intent_at": entry.first_intent_at.map(|at| at.to_string()),
        "first_attempt_at": entry.first_attempt_at.map(|at| at.to_string()),
        "last_attempt_at": entry.last_attempt_at.map(|at| at.to_string()),
        "written_at": entry.written_at.to_string(),
        "source_partition": entry.source_partition,
        "source_offset": entry.source_offset,
        "outbound_no": entry.outbound_no,
        "erp_code": entry.erp_code,
        "erp_message": entry.erp_message,
        "explanation": entry.explanation.en(),
        "explanation_zh": entry.explanation.zh(),
        "warning": entry.warning,
        "candidates": entry.candidates,
        "recovered": entry.recovered,
        "resolved": entry.resolved,
    })
}
