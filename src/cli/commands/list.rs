//! `commands list`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    clock::Timestamp,
    config::Settings,
    schema::{Codec, EntryKind, JournalEntry, Outcome},
};

use super::{
    super::{End, memory, output},
    json, partition_of, state,
};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Commands that ended in doubt and wait for a decision
    #[arg(long)]
    in_doubt: bool,
    /// Commands with an intent and no outcome yet
    #[arg(long)]
    open: bool,
    /// Commands that ended so: CREATED, REJECTED, IN_DOUBT (repeatable; INVALID and EXPIRED leave
    /// no entry)
    #[arg(long, value_name = "OUTCOME", value_parser = ["CREATED", "REJECTED", "IN_DOUBT"], ignore_case = true)]
    outcome: Vec<String>,
    /// Everything the journal knows
    #[arg(long, conflicts_with_all = ["in_doubt", "open", "outcome"])]
    all: bool,
    /// Commands of this return only
    #[arg(long, value_name = "RETURN_NO")]
    return_no: Option<String>,
    /// At most so many, the newest
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// What a list shows.
#[derive(Clone, Debug)]
struct Wanted {
    in_doubt: bool,
    open: bool,
    outcomes: Vec<String>,
    all: bool,
    return_no: Option<String>,
}

impl Wanted {
    fn of(args: &Args) -> Self {
        let outcomes: Vec<String> = args.outcome.iter().map(|name| name.to_uppercase()).collect();
        let filtered = args.in_doubt || args.open || !outcomes.is_empty();
        Self {
            in_doubt: args.in_doubt || (!filtered && args.return_no.is_none()),
            open: args.open || (!filtered && args.return_no.is_none()),
            all: args.all || (!filtered && args.return_no.is_some()),
            outcomes,
            return_no: args.return_no.clone(),
        }
    }

    fn shows(&self, entry: &JournalEntry) -> bool {
        let kind = self.all
            || (self.open && entry.kind == EntryKind::Intent)
            || entry.outcome.is_some_and(|outcome| {
                (self.in_doubt && outcome == Outcome::InDoubt)
                    || self.outcomes.iter().any(|name| name == outcome.name())
            });
        kind && self.return_no.as_ref().is_none_or(|return_no| *return_no == entry.return_no)
    }
}

pub(super) async fn execute(args: Args, settings: &Arc<Settings>) -> anyhow::Result<End> {
    let codec = memory::codec(settings).await?;
    let only = match &args.return_no {
        Some(return_no) => partition_of(settings, &settings.topics.journal, return_no).await?,
        None => None,
    };
    let wanted = Wanted::of(&args);
    let places = memory::journal(settings, &codec, only, |record, entry| {
        wanted.shows(entry).then_some((entry.written_at, record.partition, record.offset))
    })
    .await?;
    let total = places.len();
    let mut newest: Vec<_> = places.into_values().collect();
    newest.sort_unstable_by_key(|place| std::cmp::Reverse(*place));
    newest.truncate(args.limit);
    let found = entries_at(settings, &codec, newest).await?;
    if args.json {
        for entry in &found {
            if output::say(&json(entry).to_string()).is_err() {
                break;
            }
        }
        return Ok(End::Done);
    }
    let mut table =
        memory::table(&["RETURN", "COMMAND", "STATE", "SINCE", "TRIES", "ORDERS", "WHY"]);
    for entry in &found {
        let orders = entry.outbound_no.clone().unwrap_or_else(|| entry.candidates.join(" "));
        let why = entry.explanation.en().or(entry.erp_message.as_deref()).unwrap_or_default();
        table.add_row([
            entry.return_no.as_str(),
            entry.command_id.as_str(),
            state(entry),
            &entry.written_at.to_string(),
            &entry.attempt.to_string(),
            &orders,
            &memory::short(why, 80),
        ]);
    }
    if found.is_empty() {
        let _ = output::say("no such command in the journal");
        return Ok(End::Done);
    }
    let _ = output::say(&table.to_string());
    if total > found.len() {
        let _ = output::say(&format!("{} of {total}; --limit shows more", found.len()));
    }
    Ok(End::Done)
}

/// The entries at these places, in their order.
async fn entries_at(
    settings: &Settings,
    codec: &Arc<Codec>,
    places: Vec<(Timestamp, i32, i64)>,
) -> anyhow::Result<Vec<JournalEntry>> {
    let order: HashMap<(i32, i64), usize> =
        places.into_iter().map(|(_, partition, offset)| (partition, offset)).zip(0..).collect();
    let from = memory::around(order.keys().copied());
    let mut reading = memory::entries(settings, codec, &settings.topics.journal, None, from);
    let mut found = BTreeMap::new();
    while let Some(record) = reading.next().await? {
        let number = order.get(&(record.partition, record.offset));
        if let (Some(number), Some((_, entry))) = (number, record.value) {
            found.insert(*number, entry);
        }
    }
    Ok(found.into_values().collect())
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

    fn shown(switches: &[&str]) -> Vec<&'static str> {
        let wanted = Wanted::of(&Line::parse_from(std::iter::once(&"list").chain(switches)).args);
        let entry = |kind, outcome| {
            let (_, bare) = crate::sink::lost_entry(0, Timestamp(0));
            JournalEntry { kind, outcome, return_no: "R1".into(), ..bare }
        };
        [
            entry(EntryKind::Intent, None),
            entry(EntryKind::Outcome, Some(Outcome::InDoubt)),
            entry(EntryKind::Outcome, Some(Outcome::Created)),
            entry(EntryKind::Outcome, Some(Outcome::Rejected)),
        ]
        .iter()
        .filter(|entry| wanted.shows(entry))
        .map(state)
        .collect()
    }

    #[test]
    fn filters_choose_what_is_listed() {
        assert_eq!(
            shown(&[]),
            ["OPEN", "IN_DOUBT"],
            "what somebody may have to do something about"
        );
        assert_eq!(shown(&["--open"]), ["OPEN"]);
        assert_eq!(shown(&["--in-doubt", "--outcome", "created"]), ["IN_DOUBT", "CREATED"]);
        assert_eq!(shown(&["--all"]).len(), 4);
        assert_eq!(shown(&["--return-no", "R1"]).len(), 4);
        assert!(shown(&["--return-no", "R2"]).is_empty());
    }
}
