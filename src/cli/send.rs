//! `send`: JSON lines → commands topic.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::PathBuf,
};

use anyhow::Context;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::mpsc;

use crate::{
    config::{CommandFormat, Loaded},
    kafka::tool::Sender,
    schema::{Codec, Subject},
    sink,
};

use super::{End, output};

/// Records that librdkafka holds at once; far below its own queue's bound.
const IN_FLIGHT: usize = 1000;
/// Lines between the file and the producer.
const AHEAD: usize = 256;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// File with one JSON command a line; standard input without it or with -
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// A line that is ready to go.
#[derive(Debug, PartialEq, Eq)]
struct Ready {
    key: String,
    value: Vec<u8>,
}

pub(super) async fn execute(args: Args, loaded: Loaded) -> anyhow::Result<End> {
    let settings = loaded.settings;
    let topic = settings.topics.commands.clone();
    let codec = match settings.commands.format {
        CommandFormat::Avro => Codec::connect(settings.schema_registry.as_ref(), &settings.topics, &[Subject::Command]).await?,
        CommandFormat::Json => Codec::single_object(),
    };
    let lines = open(args.file)?;
    let sender = Sender::connect(&settings.kafka, settings.commands.partitioner)?;
    let (asked, of) = (sender.clone(), topic.clone());
    tokio::task::spawn_blocking(move || asked.verify(&of)).await??;
    let tally = pump(lines, &sender, &topic, |line| prepare(line, settings.commands.format, &codec)).await;
    // Closing waits for nothing: every delivery was awaited.
    let noun = if tally.sent == 1 { "command" } else { "commands" };
    let _ = output::say(&format!("{} {noun} sent to {topic}, {} refused", tally.sent, tally.refused));
    Ok(if tally.refused == 0 { End::Done } else { End::Failed })
}

/// Reads lines on a thread of its own: neither a terminal nor a pipe may hold up the deliveries.
fn open(file: Option<PathBuf>) -> anyhow::Result<mpsc::Receiver<(u64, io::Result<Vec<u8>>)>> {
    let reader: Box<dyn BufRead + Send> = match file.filter(|path| path.as_os_str() != "-") {
        None => Box::new(BufReader::new(io::stdin())),
        Some(path) => Box::new(BufReader::new(
            File::open(&path).with_context(|| format!("{} cannot be read; name a file with one JSON command a line", path.display()))?,
        )),
    };
    let (sender, receiver) = mpsc::channel(AHEAD);
    std::thread::Builder::new().name("lines".to_owned()).spawn(move || {
        for (number, line) in (1_u64..).zip(reader.split(b'\n')) {
            let ended = line.is_err();
            if sender.blocking_send((number, line)).is_err() || ended {
                break;
            }
        }
    })?;
    Ok(receiver)
}

/// What became of the lines.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    sent: u64,
    refused: u64,
}

async fn pump(
    mut lines: mpsc::Receiver<(u64, io::Result<Vec<u8>>)>,
    sender: &Sender,
    topic: &str,
    prepare: impl Fn(&[u8]) -> Result<Option<Ready>, String>,
) -> Tally {
    let mut tally = Tally::default();
    let mut deliveries = FuturesUnordered::new();
    let refuse = |number: u64, reason: &str| output::complain(&format!("line {number}: {reason}"));
    let mut open = true;
    while open || !deliveries.is_empty() {
        tokio::select! {
            Some((number, delivered)) = deliveries.next(), if !deliveries.is_empty() => match delivered {
                Ok(_) => tally.sent += 1,
                Err(fault) => {
                    tally.refused += 1;
                    refuse(number, &format!("{fault}"));
                }
            },
            line = lines.recv(), if open && deliveries.len() < IN_FLIGHT => {
                let Some((number, line)) = line else { open = false; continue };
                // Handed over at once, so that lines with one key keep their order.
                let queued = line.map_err(|error| format!("cannot be read: {error}")).and_then(|line| prepare(&line)).and_then(|ready| {
                    ready.map(|ready| sender.queue(topic, &ready.key, &ready.value).map_err(|fault| fault.to_string())).transpose()
                });
                match queued {
                    Ok(None) => {}
                    Ok(Some(delivery)) => deliveries.push(async move { (number, delivery.await) }),
                    Err(reason) => {
                        tally.refused += 1;
                        refuse(number, &reason);
                    }
                }
            }
        }
    }
    tally
}

/// `None` for an empty line.
fn prepare(line: &[u8], format: CommandFormat, codec: &Codec) -> Result<Option<Ready>, String> {
    let line = line.trim_ascii();
    if line.is_empty() {
        return Ok(None);
    }
    let command = sink::read_json(line).map_err(|violations| violations.join("; "))?;
    let value = match format {
        CommandFormat::Avro => codec.encode_command(&command).map_err(|fault| fault.to_string())?,
        CommandFormat::Json => line.to_vec(),
    };
    Ok(Some(Ready { key: command.return_no, value }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] =
        b" {\"command_id\":\"c\",\"return_no\":\"R1\",\"warehouse_no\":\"W\",\"details\":[{\"spec_no\":\"s\",\"num\":1.5}]}\r";

    #[test]
    fn a_line_becomes_a_record_with_the_return_as_key() {
        let codec = Codec::single_object();
        let json = prepare(LINE, CommandFormat::Json, &codec).unwrap().unwrap();
        assert_eq!((json.key.as_str(), json.value.as_slice()), ("R1", LINE.trim_ascii()));
        let avro = prepare(LINE, CommandFormat::Avro, &codec).unwrap().unwrap();
        assert_eq!(codec.decode_command(&avro.value).unwrap().details[0].num.to_string(), "1.5000");
        assert_eq!(prepare(b" \r", CommandFormat::Json, &codec).unwrap(), None);
    }

    #[test]
    fn what_is_no_command_is_refused_with_every_reason() {
        let codec = Codec::single_object();
        assert!(prepare(b"{", CommandFormat::Json, &codec).is_err());
        let reason =
            prepare(b"{\"return_no\":\"R1\",\"command_id\":\"c\",\"colour\":1,\"details\":[]}", CommandFormat::Avro, &codec).unwrap_err();
        assert!(reason.contains("warehouse_no") && reason.contains("colour"), "{reason}");
    }
}
