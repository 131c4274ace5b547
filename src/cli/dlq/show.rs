//! `dlq show`.

use std::sync::Arc;

use crate::{config::Settings, sink::letter::Letter};

use super::super::{
    End, memory, output,
    tail::{self, readable},
};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Where `dlq list` shows it: PARTITION:OFFSET
    #[arg(value_parser = memory::place)]
    place: (i32, i64),
    /// Among the feeds' dead letters
    #[arg(long)]
    feeds: bool,
    /// One JSON object, as `tail --dead-letters` prints it
    #[arg(long)]
    json: bool,
}

pub(super) async fn execute(args: Args, settings: &Arc<Settings>) -> anyhow::Result<End> {
    let topic = if args.feeds { &settings.topics.feeds_dlq } else { &settings.topics.commands_dlq };
    let (partition, offset) = args.place;
    let from = memory::around([(partition, offset)]);
    let found = memory::collect(settings, topic, None, from, Some).await?;
    let Some(record) = found.into_iter().next() else {
        output::complain(&format!(
            "{topic} has no record at {partition}:{offset}; `wdt-connector dlq list` shows what there is"
        ));
        return Ok(End::Failed);
    };
    let codec = memory::codec(settings).await?;
    if args.json {
        let _ = output::say(tail::line(&codec, &record, true).await?.get());
        return Ok(End::Done);
    }
    let _ = output::say(&format!("{topic} {partition}:{offset}"));
    let key = record.key.as_deref().map_or_else(|| "none".into(), String::from_utf8_lossy);
    let _ = output::say(&format!("key    {key}"));
    for (name, value) in &record.headers {
        let value = value.as_deref().map_or_else(|| "null".into(), String::from_utf8_lossy);
        let _ = output::say(&format!("{name}  {}", memory::short(&value, 2000)));
    }
    let value = match &record.value {
        Some(bytes) => readable(&codec, bytes).await?.get().to_owned(),
        None if Letter::read(record.clone()).left_out => {
            "left out here; the reason says where it stands".to_owned()
        }
        None => "null (a tombstone)".to_owned(),
    };
    let pretty = serde_json::from_str::<serde_json::Value>(&value)
        .ok()
        .filter(|_| value.len() < 100_000 && !value.contains('.'));
    let value = pretty.and_then(|json| serde_json::to_string_pretty(&json).ok()).unwrap_or(value);
    let _ = output::say(&value);
    Ok(End::Done)
}
