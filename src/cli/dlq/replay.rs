//! `dlq redrive`: chosen letters go back into the commands topic, byte for byte, once nothing can
//! be created twice by it.
//!
//! The topic is read three times: for the newest letter of each content, to judge those that are
//! chosen, and to send them in the order in which they were first sent. About 100 bytes a letter are
//! held in memory, and the values of one stretch.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use tokio::runtime::Handle;

use crate::{
    clock::Timestamp,
    config::Settings,
    erp::{Call, Erp},
    sink::{
        self,
        letter::{Letter, Replay},
    },
};

use super::{
    super::{
        End,
        beside::{self, Pace},
        commands,
        memory::{self, Digest},
        output,
        resend::Resending,
    },
    Filter, feeds,
    judge::{IfAbsent, Known, Ruling, answered, judge},
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

/// Values of so many bytes are read again together, unless one alone has more.
const STRETCH_BYTES: usize = 16 * 1024 * 1024;
/// Headers are read as well: so many letters at most.
const STRETCH: usize = 1000;

/// The newest letter of a content. One that died again is a letter of its own, with a greater count.
struct Newest {
    at: (Option<Timestamp>, i32, i64),
    chosen: bool,
    /// The journal's key of its command.
    command: Option<Digest>,
}

/// A letter that is sent, in the order of the first sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sending {
    first_sent: Option<Timestamp>,
    source: Option<(i32, i64)>,
    place: (i32, i64),
    bytes: usize,
}

pub(super) async fn execute(args: Args, settings: &Arc<Settings>) -> anyhow::Result<End> {
    if args.feeds {
        return feeds::execute(settings, &args.filter).await;
    }
    let topics = &settings.topics;
    let codec = memory::codec(settings).await?;
    let (format, runtime) = (settings.commands.format, Handle::current());
    // Every letter with its command.
    let read = || {
        let (codec, runtime) = (Arc::clone(&codec), runtime.clone());
        memory::read(
            settings,
            &topics.commands_dlq,
            None,
            Filter::default().from(),
            move |record| {
                let letter = Letter::read(record);
                let identify = |value: &[u8]| sink::identify(value, format, &codec, &runtime);
                let pair: Option<Pair> = letter.value.as_deref().and_then(identify);
                Ok(Some((letter, pair)))
            },
        )
    };
    let key =
        |(return_no, command_id): &Pair| memory::digest(&sink::journal_key(return_no, command_id));
    let takes = |letter: &Letter| {
        args.filter.takes(letter)
            && (args.only.is_empty() || args.only.contains(&(letter.partition, letter.offset)))
    };
    let mut newest = HashMap::new();
    let mut reading = read();
    while let Some((letter, pair)) = reading.next().await? {
        note(&mut newest, &letter, takes(&letter), pair.as_ref().map(key));
    }
    let chosen = newest.values().filter(|letter| letter.chosen);
    let wanted: BTreeSet<Digest> = chosen.filter_map(|letter| letter.command).collect();
    let entries = memory::journal(settings, &codec, None, |record, entry| {
        wanted.contains(&memory::digest(&record.key)).then(|| Known::from(entry))
    })
    .await?;

    let mut judging = Judging { settings, erp: None, failed: false };
    let (mut sending, mut left) = (Vec::new(), 0_u64);
    let mut reading = read();
    while let Some((letter, pair)) = reading.next().await? {
        let place = (letter.partition, letter.offset);
        let Some(newest) = newest.get(&content(&letter)) else { continue };
        let (_, partition, offset) = newest.at;
        if !newest.chosen && takes(&letter) {
            output::complain(&format!(
                "{}:{} left out: the newest letter of the same record is {partition}:{offset}",
                place.0, place.1
            ));
            left += 1;
        }
        if !newest.chosen || (partition, offset) != place {
            continue;
        }
        let entry = pair.as_ref().and_then(|pair| entries.get(&key(pair)));
        let redrives = letter.replays.unwrap_or(0);
        let reason = match judging.rule(&letter, pair.as_ref(), entry).await {
            Ruling::Leave(reason) => reason,
            Ruling::Send | Ruling::Ask(_) if redrives >= args.max_redrives => {
                format!("redriven {redrives} times already; --max-redrives allows more")
            }
            Ruling::Send | Ruling::Ask(_) => {
                sending.push(Sending {
                    first_sent: letter.first_sent,
                    source: letter.source,
                    place,
                    bytes: letter.value.as_ref().map_or(0, Vec::len),
                });
                continue;
            }
        };
        output::complain(&format!("{}:{} left out: {reason}", place.0, place.1));
        left += 1;
    }
    sending.sort_unstable();
    let failed = judging.failed;
    if args.dry_run {
        for Sending { place: (partition, offset), .. } in &sending {
            let _ =
                output::say(&format!("{partition}:{offset} would be sent to {}", topics.commands));
        }
        let _ = output::say(&format!(
            "{} would be sent, {left} left out; nothing was sent",
            sending.len()
        ));
        return Ok(if failed { End::Failed } else { End::Done });
    }
    send(&args, settings, &sending, left, failed).await
}

/// Reads them again, stretch by stretch, and sends them.
async fn send(
    args: &Args,
    settings: &Settings,
    sending: &[Sending],
    left: u64,
    failed: bool,
) -> anyhow::Result<End> {
    let topics = &settings.topics;
    let partitions = commands::partitions(settings, &topics.commands).await?;
    let mut resending = Resending::start(settings, u64::try_from(sending.len()).ok(), true).await?;
    let mut gone = 0_u64;
    for stretch in stretches(sending) {
        let places: BTreeSet<(i32, i64)> = stretch.iter().map(|one| one.place).collect();
        let from = memory::around(places.iter().copied());
        let mut found: BTreeMap<(i32, i64), Letter> =
            memory::collect(settings, &topics.commands_dlq, None, from, move |record| {
                let place = (record.partition, record.offset);
                places.contains(&place).then(|| (place, Letter::read(record)))
            })
            .await?
            .into_iter()
            .collect();
        for Sending { place, .. } in stretch {
            let record = found.remove(place).map(|letter| {
                let was = letter.source.map(|(partition, _)| partition);
                let to = letter.place(partitions, settings.commands.partitioner, was);
                letter.replay(&topics.commands, to, args.max_redrives)
            });
            if let Some(Replay::Of(record)) = record {
                resending.push(*place, &record).await;
            } else {
                gone += 1;
                output::complain(&format!(
                    "{}:{} was not sent again: {} does not hold it any more",
                    place.0, place.1, topics.commands_dlq
                ));
            }
        }
    }
    let tally = resending.finish().await;
    let refused = tally.refused + gone;
    let _ = output::say(&format!("{} sent again, {left} left out, {refused} refused", tally.sent));
    Ok(if failed || refused > 0 { End::Failed } else { End::Done })
}

/// Of the same content only the newest letter counts.
fn note(
    newest: &mut HashMap<Digest, Newest>,
    letter: &Letter,
    chosen: bool,
    command: Option<Digest>,
) {
    let at = (letter.written_at, letter.partition, letter.offset);
    let content = content(letter);
    if newest.get(&content).is_none_or(|known| known.at < at) {
        newest.insert(content, Newest { at, chosen, command });
    }
}

/// Key and value; of a letter that leaves its value out, the record's place.
fn content(letter: &Letter) -> Digest {
    match letter.source.filter(|_| letter.left_out) {
        Some(place) => memory::digest(format!("{place:?}").as_bytes()),
        None => memory::content(letter),
    }
}

/// The letters that are read again together.
fn stretches(sending: &[Sending]) -> impl Iterator<Item = &[Sending]> {
    let (mut count, mut bytes) = (0, 0);
    sending.chunk_by(move |one, next| {
        count += 1;
        bytes += one.bytes;
        let together = count < STRETCH && bytes + next.bytes <= STRETCH_BYTES;
        if !together {
            (count, bytes) = (0, 0);
        }
        together
    })
}

struct Judging<'a> {
    settings: &'a Arc<Settings>,
    erp: Option<Erp>,
    /// The ERP could not be asked about some letter.
    failed: bool,
}

impl Judging<'_> {
    async fn rule(
        &mut self,
        letter: &Letter,
        pair: Option<&Pair>,
        entry: Option<&Known>,
    ) -> Ruling {
        let horizon = self.settings.commands.dedup_window;
        let old = letter
            .first_sent
            .is_none_or(|sent| sent < Timestamp::now().minus(horizon - horizon / 10));
        match (judge(letter, entry, old), pair) {
            (Ruling::Ask(absent), Some(pair)) => match self.ask(pair).await {
                Ok(orders) => answered(&orders, absent, entry),
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
                let built =
                    beside::erp(self.settings, Pace::of(self.settings, Call::QueryOutbounds, None))
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
        let mut kept = HashMap::new();
        for letter in [letter(1, "a", "0"), letter(3, "a", "1"), letter(2, "b", "0")] {
            note(&mut kept, &letter, true, None);
        }
        let offsets: BTreeSet<i64> = kept.values().map(|newest| newest.at.2).collect();
        assert_eq!(offsets, BTreeSet::from([2, 3]));
    }

    #[test]
    fn a_stretch_has_so_many_bytes_and_every_letter_is_in_one() {
        let sending: Vec<Sending> = [1, STRETCH_BYTES - 1, 1, STRETCH_BYTES * 2, 1]
            .into_iter()
            .zip(0..)
            .map(|(bytes, offset)| Sending {
                first_sent: None,
                source: None,
                place: (0, offset),
                bytes,
            })
            .collect();
        let lengths: Vec<usize> = stretches(&sending).map(<[Sending]>::len).collect();
        assert_eq!(lengths, [2, 1, 1, 1]);
    }
}
