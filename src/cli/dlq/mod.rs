//! `dlq`: the dead letters of commands and feeds.

mod feeds;
mod judge;
mod list;
mod replay;
mod show;

use std::sync::Arc;

use crate::{
    clock::Timestamp,
    config::{Loaded, Settings},
    kafka::{scan::From, tool::Seen},
    sink::letter::Letter,
};

use super::{
    End,
    memory::{self, Reading},
};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Verb {
    /// List dead letters with their reasons
    #[command(
        after_help = "Example: wdt-connector dlq list --reason invalid --since 2h --config connector.toml"
    )]
    List(list::Args),
    /// Show one dead letter: value, headers, reason
    #[command(after_help = "Example: wdt-connector dlq show 3:120 --config connector.toml")]
    Show(show::Args),
    /// Redrive commands from the dead letter topic, byte for byte, after asking journal and ERP
    #[command(
        after_help = "Example: wdt-connector dlq redrive --reason invalid --since 1d --dry-run --config connector.toml\n\
        Left out, each with its reason: what has an outcome meanwhile, what is still being worked on (but not an invalid letter of it), what a person has to decide,\n\
        what was redriven --max-redrives times, older letters of the same content, letters whose value was left out as too large. Exits 1 when something could not be asked or sent."
    )]
    Redrive(replay::Args),
}

/// Which letters.
#[derive(Clone, Debug, Default, clap::Args)]
struct Filter {
    /// The kind (undecodable, invalid, in_doubt, resolution_rejected), or any part of the reason's
    /// text
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Written since an instant (RFC 3339) or so long ago (2h)
    #[arg(long, value_name = "TIME", value_parser = memory::when)]
    since: Option<Timestamp>,
    /// Written before an instant, or so long ago
    #[arg(long, value_name = "TIME", value_parser = memory::when)]
    until: Option<Timestamp>,
    /// Of this key: the return's number
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

impl Filter {
    fn takes(&self, letter: &Letter) -> bool {
        let at = letter.written_at.unwrap_or(Timestamp(0));
        self.reason
            .as_ref()
            .is_none_or(|reason| letter.label == *reason || letter.reason.contains(reason.as_str()))
            && self.since.is_none_or(|since| at >= since)
            && self.until.is_none_or(|until| at < until)
            && self.key.as_ref().is_none_or(|key| letter.key.as_deref() == Some(key.as_bytes()))
    }

    fn from(&self) -> From {
        self.since.map_or(From::Beginning, |since| From::Time(since.0))
    }
}

pub(super) async fn execute(args: Args, loaded: Loaded) -> anyhow::Result<End> {
    let settings = Arc::new(loaded.settings);
    match args.verb {
        Verb::List(args) => list::execute(args, &settings).await,
        Verb::Show(args) => show::execute(args, &settings).await,
        Verb::Redrive(args) => replay::execute(args, &settings).await,
    }
}

/// The letters of a topic that the filter takes, while they are read.
fn letters(settings: &Settings, topic: &str, filter: &Filter) -> Reading<Letter> {
    let chosen = filter.clone();
    memory::read(settings, topic, None, filter.from(), move |record: Seen| {
        Ok(Some(Letter::read(record)).filter(|letter| chosen.takes(letter)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(label: &str, reason: &str, at: i64, key: &str) -> Letter {
        let header = |name: &str, value: &str| {
            (format!("__connect.errors.{name}"), Some(value.as_bytes().to_vec()))
        };
        Letter::read(Seen {
            topic: "d".into(),
            partition: 0,
            offset: 0,
            timestamp: Some(at),
            key: Some(key.as_bytes().to_vec()),
            value: None,
            headers: vec![
                header("exception.class.name", label),
                header("exception.message", reason),
            ],
            unreadable_headers: 0,
        })
    }

    #[test]
    fn letters_are_chosen_by_kind_text_time_and_key() {
        let invalid = letter("invalid", "num is 0; it must be greater", 1000, "R1");
        let takes = |filter: Filter| filter.takes(&invalid);
        assert!(takes(Filter::default()));
        assert!(takes(Filter { reason: Some("invalid".into()), ..Filter::default() }));
        assert!(takes(Filter {
            reason: Some("num is".into()),
            key: Some("R1".into()),
            ..Filter::default()
        }));
        assert!(!takes(Filter { reason: Some("in_doubt".into()), ..Filter::default() }));
        assert!(!takes(Filter { key: Some("R2".into()), ..Filter::default() }));
        assert!(takes(Filter {
            since: Some(Timestamp(1000)),
            until: Some(Timestamp(1001)),
            ..Filter::default()
        }));
        assert!(!takes(Filter { since: Some(Timestamp(1001)), ..Filter::default() }));
        assert!(!takes(Filter { until: Some(Timestamp(1000)), ..Filter::default() }));
    }
}
