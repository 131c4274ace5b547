//! `dlq list`.

use std::{collections::BTreeMap, sync::Arc};

use crate::{clock::Timestamp, config::Settings, sink::letter::Letter};

use super::{
    super::{End, memory, output},
    Filter, letters,
};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    filter: Filter,
    /// Of commands only
    #[arg(long)]
    commands: bool,
    /// Of feeds only
    #[arg(long)]
    feeds: bool,
    /// At most so many of each topic, the newest
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

pub(super) async fn execute(args: Args, settings: &Arc<Settings>) -> anyhow::Result<End> {
    let topics = &settings.topics;
    let counts =
        crate::kafka::partition_counts(&settings.kafka, &[&topics.commands_dlq, &topics.feeds_dlq])
            .await
            .map_err(anyhow::Error::msg)?;
    let both = args.commands == args.feeds;
    let wanted = [(args.commands, &topics.commands_dlq), (args.feeds, &topics.feeds_dlq)];
    let mut any = false;
    for ((asked, topic), count) in wanted.into_iter().zip(counts) {
        if !(asked || both) {
            continue;
        }
        if count.is_none() {
            if asked {
                anyhow::bail!("{topic} does not exist; create it with `wdt-connector topics`");
            }
            continue;
        }
        let found = find(settings, topic, &args).await?;
        any = any || !found.kinds.is_empty();
        print(topic, &found, &args);
    }
    if !any && !args.json {
        let _ = output::say("no such dead letter");
    }
    Ok(End::Done)
}

/// What is told of a topic.
struct Found {
    /// The newest letters, without their values.
    newest: BTreeMap<(Option<Timestamp>, i32, i64), Letter>,
    /// How many there are, by kind.
    kinds: BTreeMap<String, u64>,
}

async fn find(settings: &Settings, topic: &str, args: &Args) -> anyhow::Result<Found> {
    let mut found = Found { newest: BTreeMap::new(), kinds: BTreeMap::new() };
    let mut reading = letters(settings, topic, &args.filter);
    while let Some(letter) = reading.next().await? {
        *found.kinds.entry(letter.label.clone()).or_default() += 1;
        let place = (letter.written_at, letter.partition, letter.offset);
        found.newest.insert(place, Letter { value: None, ..letter });
        if found.newest.len() > args.limit {
            found.newest.pop_first();
        }
    }
    Ok(found)
}

fn print(topic: &str, found: &Found, args: &Args) {
    if args.json {
        for letter in found.newest.values() {
            let mut json = letter.json();
            if let Some(object) = json.as_object_mut() {
                object.insert("topic".to_owned(), topic.into());
            }
            if output::say(&json.to_string()).is_err() {
                return;
            }
        }
        return;
    }
    let total: u64 = found.kinds.values().sum();
    if total == 0 {
        return;
    }
    let kinds: Vec<String> =
        found.kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let _ = output::say(&format!("{topic}: {}", kinds.join(", ")));
    let mut table = memory::table(&["WHERE", "WRITTEN", "KEY", "KIND", "REDRIVES", "WHY"]);
    for letter in found.newest.values() {
        table.add_row([
            format!("{}:{}", letter.partition, letter.offset),
            letter.written_at.map(|at| at.to_string()).unwrap_or_default(),
            memory::short(&String::from_utf8_lossy(letter.key.as_deref().unwrap_or_default()), 40),
            letter.label.clone(),
            letter.replays.unwrap_or(0).to_string(),
            memory::short(&letter.reason, 90),
        ]);
    }
    let _ = output::say(&table.to_string());
    let shown = found.newest.len();
    if u64::try_from(shown).is_ok_and(|shown| shown < total) {
        let _ = output::say(&format!("{shown} of {total}; --limit shows more"));
    }
}
