//! `dlq list`.

use std::{collections::BTreeMap, sync::Arc};

use crate::{config::Settings, sink::letter::Letter};

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
        let found = letters(settings, topic, &args.filter).await?;
        any = any || !found.is_empty();
        print(topic, &found, &args);
    }
    if !any && !args.json {
        let _ = output::say("no such dead letter");
    }
    Ok(End::Done)
}

fn print(topic: &str, found: &[Letter], args: &Args) {
    let newest = found.get(found.len().saturating_sub(args.limit)..).unwrap_or_default();
    if args.json {
        for letter in newest {
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
    if found.is_empty() {
        return;
    }
    let kinds = found.iter().fold(BTreeMap::<&str, u64>::new(), |mut kinds, letter| {
        *kinds.entry(&letter.label).or_default() += 1;
        kinds
    });
    let kinds: Vec<String> =
        kinds.into_iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let _ = output::say(&format!("{topic}: {}", kinds.join(", ")));
    let mut table = memory::table(&["WHERE", "WRITTEN", "KEY", "KIND", "REDRIVES", "WHY"]);
    for letter in newest {
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
    if newest.len() < found.len() {
        let _ = output::say(&format!("{} of {}; --limit shows more", newest.len(), found.len()));
    }
}
