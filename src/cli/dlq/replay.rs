//! `dlq redrive`: chosen letters go back into the commands topic, byte for byte, once nothing can
//! be created twice by it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use anyhow::bail;
use tokio::runtime::Handle;

use crate::{
    clock::Timestamp,
    config::Settings,
    erp::Erp,
    kafka::Outgoing,
    metrics::Metrics,
    schema::JournalEntry,
    sink::{
        self,
        letter::{Letter, Replay},
    },
};

use super::{
    super::{End, memory, output, resend},
    Filter, feeds,
    judge::{IfAbsent, Ruling, answered, judge},
    letters,
};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    filter: Filter,
    /// Only this letter, as `dlq list` shows it (repeatable)
    #[arg(long, value_name = "PARTITION:OFFSET", value_parser = memory::place)]
    only: Vec<(i32, i64)>,
    /// Leave out what was redriven so often already
    #[arg(long, value_name = "N", default_value_t = 3)]
    max_redrives: u32,
    /// Say what would be sent, and send nothing
    #[arg(long)]
    dry_run: bool,
    /// The feeds' letters: says how their records are read again
    #[arg(long)]
    feeds: bool,
}

type Pair = (String, String);
/// Key and value; of a letter that leaves its value out, the record's place.
type Content = (Option<Vec<u8>>, Option<Vec<u8>>, Option<(i32, i64)>);

pub(super) async fn execute(args: Args, settings: &Arc<Settings>) -> anyhow::Result<End> {
    if args.feeds {
        return feeds::execute(settings, &args.filter).await;
    }
    let codec = memory::codec(settings).await?;
    let found =
        newest_of_each(letters(settings, &settings.topics.commands_dlq, &Filter::default()).await?);
    let chosen: Vec<Letter> = found
        .into_iter()
        .filter(|letter| {
            args.filter.takes(letter)
                && (args.only.is_empty() || args.only.contains(&(letter.partition, letter.offset)))
        })
        .collect();
    let Some(Some(partitions)) =
        crate::kafka::partition_counts(&settings.kafka, &[&settings.topics.commands])
            .await
            .map_err(anyhow::Error::msg)?
            .pop()
    else {
        bail!(
            "{} does not exist; create it with `wdt-connector topics --with-commands`",
            settings.topics.commands
        );
    };
    let (identified, codec_of) = (chosen.clone(), Arc::clone(&codec));
    let (format, runtime) = (settings.commands.format, Handle::current());
    let pairs: Vec<Option<Pair>> = tokio::task::spawn_blocking(move || {
        identified
            .iter()
            .map(|letter| sink::identify(letter.value.as_deref()?, format, &codec_of, &runtime))
            .collect()
    })
    .await?;
    let wanted: HashSet<Pair> = pairs.iter().flatten().cloned().collect();
    let entries = memory::journal(settings, &codec, None, move |entry| {
        wanted.contains(&(entry.return_no.clone(), entry.command_id.clone()))
    })
    .await?;

    let mut judging = Judging { settings, erp: None, entries, failed: false };
    let mut sending = Vec::new();
    let mut left = BTreeMap::<String, u64>::new();
    for (letter, pair) in chosen.iter().zip(pairs) {
        let verdict = match judging.rule(letter, pair.as_ref()).await {
            Ruling::Send | Ruling::Ask(_) => {
                match letter.replay(
                    &settings.topics.commands,
                    place(letter, settings, partitions),
                    args.max_redrives,
                ) {
                    Replay::Of(record) => Ok(record),
                    Replay::Capped => Err(format!(
                        "redriven {} times already; --max-redrives allows more",
                        letter.replays.unwrap_or(0)
                    )),
                }
            }
            Ruling::Leave(reason) => Err(reason),
        };
        match verdict {
            Ok(record) => sending.push(((letter.partition, letter.offset), record)),
            Err(reason) => {
                output::complain(&format!(
                    "{}:{} left out: {reason}",
                    letter.partition, letter.offset
                ));
                *left.entry(reason).or_default() += 1;
            }
        }
    }
    finish(settings, sending, left.values().sum(), args.dry_run, judging.failed).await
}

async fn finish(
    settings: &Settings,
    sending: Vec<((i32, i64), Outgoing)>,
    left: u64,
    dry_run: bool,
    failed: bool,
) -> anyhow::Result<End> {
    if dry_run {
        for ((partition, offset), _) in &sending {
            let _ = output::say(&format!(
                "{partition}:{offset} would be sent to {}",
                settings.topics.commands
            ));
        }
        let _ = output::say(&format!(
            "{} would be sent, {left} left out; nothing was sent",
            sending.len()
        ));
        return Ok(if failed { End::Failed } else { End::Done });
    }
    let tally = resend::all(settings, sending, true).await?;
    let _ = output::say(&format!(
        "{} sent again, {left} left out, {} refused",
        tally.sent, tally.refused
    ));
    Ok(if failed || tally.refused > 0 { End::Failed } else { End::Done })
}

/// A letter that died again is a letter of its own, with a greater count: only the newest of the
/// same content counts.
fn newest_of_each(letters: Vec<Letter>) -> Vec<Letter> {
    let mut newest: HashMap<Content, Letter> = HashMap::new();
    for letter in letters {
        let place = letter.source.filter(|_| letter.left_out);
        newest.insert((letter.key.clone(), letter.value.clone(), place), letter);
    }
    let mut all: Vec<Letter> = newest.into_values().collect();
    all.sort_by_key(|letter| (letter.first_sent, letter.source, letter.partition, letter.offset));
    all
}

/// Where the partitioner puts the key; a key that is no text goes back to where it was.
fn place(letter: &Letter, settings: &Settings, partitions: i32) -> Option<i32> {
    let of_key = letter
        .key
        .as_deref()
        .and_then(|key| sink::partition_of(key, partitions, settings.commands.partitioner));
    of_key
        .or(letter.source.map(|(partition, _)| partition))
        .filter(|partition| *partition < partitions)
}

struct Judging<'a> {
    settings: &'a Arc<Settings>,
    erp: Option<Erp>,
    entries: BTreeMap<Vec<u8>, JournalEntry>,
    /// The ERP could not be asked about some letter.
    failed: bool,
}

impl Judging<'_> {
    async fn rule(&mut self, letter: &Letter, pair: Option<&Pair>) -> Ruling {
        let horizon = self.settings.commands.dedup_window;
        let old = letter
            .first_sent
            .is_none_or(|sent| sent < Timestamp::now().minus(horizon - horizon / 10));
        let entry = pair
            .and_then(|(return_no, command_id)| {
                self.entries.get(&sink::journal_key(return_no, command_id))
            })
            .cloned();
        match (judge(letter, entry.as_ref(), old), pair) {
            (Ruling::Ask(absent), Some(pair)) => match self.ask(pair).await {
                Ok(orders) => answered(&orders, absent, entry.as_ref()),
                Err(reason) => {
                    self.failed = true;
                    Ruling::Leave(format!("the ERP could not be asked: {reason}"))
                }
            },
            // Nobody can say which command it would be, so no call can come of it before it can be
            // read.
            (Ruling::Ask(IfAbsent::Send | IfAbsent::Leave), None) => Ruling::Send,
            (ruling, _) => ruling,
        }
    }

    /// The orders that carry the command's marker.
    async fn ask(&mut self, (return_no, command_id): &Pair) -> Result<Vec<String>, String> {
        let erp = match &self.erp {
            Some(erp) => erp,
            None => {
                let built = Erp::new(self.settings, Arc::new(Metrics::new()))
                    .map_err(|fault| fault.to_string())?;
                self.erp.insert(built)
            }
        };
        let marker = sink::marker(return_no, command_id);
        let orders = sink::orders_of(erp, return_no, self.settings.commands.call_timeout).await?;
        Ok(orders
            .into_iter()
            .filter(|(_, carried)| carried.as_ref() == Some(&marker))
            .map(|(order, _)| order)
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::tool::Seen;

    #[test]
    fn of_the_same_content_only_the_newest_letter_counts() {
        let letter = |offset, value: &str, replays: &str| {
            let headers = vec![("wdt-redrive-count".to_owned(), Some(replays.as_bytes().to_vec()))];
            Letter::read(Seen {
                topic: "d".into(),
                partition: 0,
                offset,
                timestamp: Some(offset),
                key: None,
                value: Some(value.into()),
                headers,
                unreadable_headers: 0,
            })
        };
        let kept =
            newest_of_each(vec![letter(1, "a", "0"), letter(2, "b", "0"), letter(3, "a", "1")]);
        let places: Vec<_> = kept.iter().map(|letter| (letter.offset, letter.replays)).collect();
        assert_eq!(places, [(2, Some(0)), (3, Some(1))]);
    }
}
