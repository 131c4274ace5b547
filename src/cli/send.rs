//! `send`: JSON lines or CSV → commands topic.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use futures_util::{StreamExt, stream::FuturesUnordered};
use indicatif::ProgressBar;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    config::{CommandFormat, Loaded, parse_duration},
    kafka::tool::Sender,
    schema::{Codec, Subject},
    sink,
};

use super::{End, output, progress, sheet};

/// Records that librdkafka holds at once; far below its own queue's bound.
const IN_FLIGHT: usize = 1000;
/// Commands between the file and the producer.
const AHEAD: usize = 256;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// File with one JSON command a line, or CSV; standard input without it or with -
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The input is CSV; so is a file that ends in .csv
    #[arg(long)]
    csv: bool,
    /// Between the cells of a row
    #[arg(long, value_name = "CHARACTER", default_value = ",", value_parser = delimiter)]
    delimiter: u8,
    /// Read and judge everything, send nothing; needs no broker
    #[arg(long)]
    dry_run: bool,
    /// Time between two commands
    #[arg(long, value_name = "DURATION", value_parser = span)]
    interval: Option<Duration>,
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        [one] if one.is_ascii() && !one.is_ascii_alphanumeric() => Ok(*one),
        _ if text == "\\t" || text == "tab" => Ok(b'\t'),
        _ => Err("it is one character such as , or ; or tab".to_owned()),
    }
}

fn span(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| format!("{text:?} is no duration; write 500ms or 2s"))
}

/// One command as it was read.
#[derive(Debug)]
pub(super) struct Item {
    /// The line of the file where it begins.
    pub(super) line: u64,
    /// The lines of its details, where each has one of its own.
    pub(super) rows: Vec<u64>,
    /// A JSON object.
    pub(super) content: Result<Vec<u8>, Vec<Refusal>>,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) line: u64,
    pub(super) reason: String,
}

/// A command that is ready to go.
#[derive(Debug, PartialEq, Eq)]
struct Ready {
    key: String,
    value: Vec<u8>,
}

pub(super) async fn execute(args: Args, loaded: Loaded) -> anyhow::Result<End> {
    let settings = loaded.settings;
    let topic = settings.topics.commands.clone();
    let format = settings.commands.format;
    let items = open(&args)?;
    let bar = progress::bar(None, if args.dry_run { "read" } else { "sent" });
    let tally = if args.dry_run {
        let codec = Codec::single_object();
        pump(items, args.interval, &bar, |item| {
            prepare(item, format, &codec).map(|ready| ready.map(|_| std::future::ready(Ok(()))))
        })
        .await
    } else {
        let codec = match format {
            CommandFormat::Avro => {
                Codec::connect(
                    settings.schema_registry.as_ref(),
                    &settings.topics,
                    &[Subject::Command],
                )
                .await?
            }
            CommandFormat::Json => Codec::single_object(),
        };
        let sender = Sender::connect(&settings.kafka, settings.commands.partitioner)?;
        let (asked, of) = (sender.clone(), topic.clone());
        tokio::task::spawn_blocking(move || asked.verify(&of)).await??;
        pump(items, args.interval, &bar, |item| {
            let line = item.line;
            let Some(ready) = prepare(item, format, &codec)? else { return Ok(None) };
            let delivery = sender
                .queue(&topic, &ready.key, &ready.value)
                .map_err(|fault| vec![Refusal { line, reason: fault.to_string() }])?;
            Ok(Some(async move { delivery.await.map(|_| ()).map_err(|fault| fault.to_string()) }))
        })
        .await
    };
    bar.finish_and_clear();
    // Closing waits for nothing: every delivery was awaited.
    let noun = if tally.sent == 1 { "command" } else { "commands" };
    let done =
        if args.dry_run { "good, nothing sent".to_owned() } else { format!("sent to {topic}") };
    let _ = output::say(&format!("{} {noun} {done}, {} refused", tally.sent, tally.refused));
    Ok(if tally.refused == 0 && !tally.broken { End::Done } else { End::Failed })
}

/// Reads on a thread of its own: neither a terminal nor a pipe may hold up the deliveries.
fn open(args: &Args) -> anyhow::Result<mpsc::Receiver<Result<Item, String>>> {
    let path = args.file.as_deref().filter(|path| path.as_os_str() != "-");
    let input: Box<dyn Read + Send> = match path {
        None => Box::new(io::stdin()),
        Some(path) => Box::new(File::open(path).with_context(|| {
            format!(
                "{} cannot be read; name a file with one JSON command a line, or a CSV file with a first row of column names",
                path.display()
            )
        })?),
    };
    let csv = args.csv
        || path.and_then(Path::extension).is_some_and(|end| end.eq_ignore_ascii_case("csv"));
    let delimiter = args.delimiter;
    let (sender, receiver) = mpsc::channel(AHEAD);
    std::thread::Builder::new().name("lines".to_owned()).spawn(move || {
        let take = |item| sender.blocking_send(Ok(item)).is_ok();
        if csv {
            if let Err(fault) = sheet::read(BufReader::new(input), delimiter, take) {
                let _ = sender.blocking_send(Err(fault.to_string()));
            }
        } else {
            json_lines(BufReader::new(input), take);
        }
    })?;
    Ok(receiver)
}

/// One item per line that is not empty.
fn json_lines(input: impl BufRead, mut take: impl FnMut(Item) -> bool) {
    for (line, read) in (1_u64..).zip(input.split(b'\n')) {
        let ended = read.is_err();
        let content = read
            .map_err(|error| vec![Refusal { line, reason: format!("cannot be read: {error}") }]);
        let empty = content.as_ref().is_ok_and(|text| text.trim_ascii().is_empty());
        if !empty && !take(Item { line, rows: Vec::new(), content }) || ended {
            return;
        }
    }
}

/// What became of the commands.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    sent: u64,
    refused: u64,
    /// The input is none, so that nothing was read at all.
    broken: bool,
}

async fn pump<D: Future<Output = Result<(), String>>>(
    mut items: mpsc::Receiver<Result<Item, String>>,
    interval: Option<Duration>,
    bar: &ProgressBar,
    queue: impl Fn(Item) -> Result<Option<D>, Vec<Refusal>>,
) -> Tally {
    let mut tally = Tally::default();
    let mut deliveries = FuturesUnordered::new();
    let complain = |text: String| bar.suspend(|| output::complain(&text));
    let refuse = |refusal: &Refusal| complain(format!("line {}: {}", refusal.line, refusal.reason));
    let mut open = true;
    let mut next = Instant::now();
    while open || !deliveries.is_empty() {
        tokio::select! {
            Some((line, delivered)) = deliveries.next(), if !deliveries.is_empty() => match delivered {
                Ok(()) => {
                    tally.sent += 1;
                    bar.inc(1);
                }
                Err(reason) => {
                    tally.refused += 1;
                    refuse(&Refusal { line, reason });
                }
            },
            item = paced(&mut items, next), if open && deliveries.len() < IN_FLIGHT => {
                let item = match item {
                    Some(Ok(item)) => item,
                    Some(Err(reason)) => {
                        complain(format!("error: {reason}"));
                        tally.broken = true;
                        continue;
                    }
                    None => { open = false; continue }
                };
                next = interval.map_or(next, |interval| Instant::now() + interval);
                let line = item.line;
                // Handed over at once, so that commands with one key keep their order.
                match queue(item) {
                    Ok(None) => {}
                    Ok(Some(delivery)) => deliveries.push(async move { (line, delivery.await) }),
                    Err(refusals) => {
                        tally.refused += 1;
                        refusals.iter().for_each(refuse);
                    }
                }
            }
        }
    }
    tally
}

/// The next item, not before its time.
async fn paced(
    items: &mut mpsc::Receiver<Result<Item, String>>,
    at: Instant,
) -> Option<Result<Item, String>> {
    tokio::time::sleep_until(at).await;
    items.recv().await
}

/// The record of a command, or what is wrong with which line.
fn prepare(
    item: Item,
    format: CommandFormat,
    codec: &Codec,
) -> Result<Option<Ready>, Vec<Refusal>> {
    let Item { line, rows, content } = item;
    let text = content?;
    let text = text.trim_ascii();
    let refused = |reason: String| Refusal { line: place(&reason, &rows).unwrap_or(line), reason };
    let command = sink::read_json(text).map_err(|violations| {
        // A JSON line is one line: everything about it in one sentence. A sheet's command has a
        // line for each detail.
        if rows.is_empty() {
            vec![refused(violations.join("; "))]
        } else {
            violations.into_iter().map(refused).collect()
        }
    })?;
    let value = match format {
        CommandFormat::Avro => {
            codec.encode_command(&command).map_err(|fault| vec![refused(fault.to_string())])?
        }
        CommandFormat::Json => text.to_vec(),
    };
    Ok(Some(Ready { key: command.return_no, value }))
}

/// The line of the detail that a violation speaks of.
fn place(reason: &str, rows: &[u64]) -> Option<u64> {
    let (at, _) = reason.strip_prefix("details[")?.split_once(']')?;
    rows.get(at.parse::<usize>().ok()?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] =
        b" {\"command_id\":\"c\",\"return_no\":\"R1\",\"warehouse_no\":\"W\",\"details\":[{\"spec_no\":\"s\",\"num\":1.5}]}\r";

    fn item(text: &[u8]) -> Item {
        Item { line: 7, rows: Vec::new(), content: Ok(text.to_vec()) }
    }

    #[test]
    fn a_line_becomes_a_record_with_the_return_as_key() {
        let codec = Codec::single_object();
        let json = prepare(item(LINE), CommandFormat::Json, &codec).unwrap().unwrap();
        assert_eq!((json.key.as_str(), json.value.as_slice()), ("R1", LINE.trim_ascii()));
        let avro = prepare(item(LINE), CommandFormat::Avro, &codec).unwrap().unwrap();
        assert_eq!(codec.decode_command(&avro.value).unwrap().details[0].num.to_string(), "1.5000");
    }

    #[test]
    fn empty_lines_are_counted_and_skipped() {
        let mut lines = Vec::new();
        json_lines(&b"\r\n{}\n\n {}"[..], |item| {
            lines.push(item.line);
            true
        });
        assert_eq!(lines, [2, 4]);
    }

    #[test]
    fn what_is_no_command_is_refused_with_every_reason() {
        let codec = Codec::single_object();
        assert!(prepare(item(b"{"), CommandFormat::Json, &codec).is_err());
        let text = b"{\"return_no\":\"R1\",\"command_id\":\"c\",\"colour\":1,\"details\":[]}";
        let refusals = prepare(item(text), CommandFormat::Avro, &codec).unwrap_err();
        assert!(refusals.len() == 1 && refusals[0].line == 7, "{refusals:?}");
        assert!(
            refusals[0].reason.contains("warehouse_no") && refusals[0].reason.contains("colour"),
            "{refusals:?}"
        );
    }

    #[test]
    fn a_detail_of_a_sheet_is_named_by_its_own_line() {
        let text = b"{\"command_id\":\"c\",\"return_no\":\"R1\",\"details\":[{\"spec_no\":\"s\",\"num\":\"1\"},{\"spec_no\":\"s\",\"num\":\"many\"}]}";
        let item = Item { line: 2, rows: vec![2, 3], content: Ok(text.to_vec()) };
        let refusals = prepare(item, CommandFormat::Avro, &Codec::single_object()).unwrap_err();
        let lines: Vec<u64> = refusals.iter().map(|refusal| refusal.line).collect();
        assert_eq!(lines, [2, 3], "{refusals:?}");
        assert!(
            refusals[0].reason.contains("warehouse_no") && refusals[1].reason.contains("num"),
            "{refusals:?}"
        );
    }

    #[test]
    fn a_delimiter_is_one_character() {
        assert_eq!(
            (delimiter(";"), delimiter("tab"), delimiter("\\t")),
            (Ok(b';'), Ok(b'\t'), Ok(b'\t'))
        );
        assert!(delimiter("").is_err() && delimiter("ab").is_err() && delimiter("a").is_err());
    }
}
