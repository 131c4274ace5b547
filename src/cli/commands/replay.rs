//! `commands replay`: records of the commands topic are sent again, as they are, behind everything
//! there is.
//!
//! Sent again rather than read again from a moved offset: nothing has to be stopped, committed
//! offsets never move back, and what was settled ahead of them stays settled. Every copy says that
//! it is one and when it was first sent, so that the journal, or beyond its horizon the ERP, is
//! asked before anything could be created twice.

use std::{collections::BTreeMap, sync::Arc};

use crate::{clock::Timestamp, config::Settings, kafka::scan::From, sink::letter::Letter};

use super::super::{End, memory, output, resend};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// From this offset of a partition on (repeatable; other partitions are left alone)
    #[arg(long, value_name = "PARTITION:OFFSET", value_parser = memory::place, required_unless_present = "from_time", conflicts_with = "from_time")]
    from_offset: Vec<(i32, i64)>,
    /// Everything sent since an instant (RFC 3339) or so long ago (2h)
    #[arg(long, value_name = "TIME", value_parser = memory::when)]
    from_time: Option<Timestamp>,
    /// Only what was sent before an instant, or so long ago
    #[arg(long, value_name = "TIME", value_parser = memory::when)]
    until: Option<Timestamp>,
    /// Only commands of this return
    #[arg(long, value_name = "RETURN_NO")]
    return_no: Option<String>,
    /// Say what would be sent, and send nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn execute(args: Args, settings: &Arc<Settings>) -> anyhow::Result<End> {
    let topic = settings.topics.commands.clone();
    let from = match args.from_time {
        Some(at) => From::Time(at.0),
        None => From::Offsets(args.from_offset.iter().copied().collect::<BTreeMap<_, _>>()),
    };
    let (until, return_no) = (args.until, args.return_no.clone());
    let found = memory::collect(settings, &topic, None, from, move |record| {
        let in_time =
            until.is_none_or(|until| record.timestamp.is_none_or(|at| Timestamp(at) < until));
        let wanted = return_no
            .as_ref()
            .is_none_or(|return_no| record.key.as_deref() == Some(return_no.as_bytes()));
        (in_time && wanted).then_some(record)
    })
    .await?;
    let (mut left, mut unreadable) = (0_usize, 0_usize);
    let mut again = Vec::new();
    for record in found {
        if record.unreadable_headers > 0 {
            // A copy would lack those headers.
            unreadable += 1;
            continue;
        }
        let partition = record.partition;
        let letter = Letter::read(record);
        // What is a copy already has its original somewhere; a decision is made anew, not repeated.
        if letter.replays.is_some() || letter.control {
            left += 1;
        } else {
            again.push(((letter.partition, letter.offset), letter.copy(&topic, partition)));
        }
    }
    if args.dry_run {
        let _ = output::say(&format!(
            "{} commands would be sent again, {left} redriven records and resolutions left out{}; nothing was sent",
            again.len(),
            skipped(unreadable)
        ));
        return Ok(End::Done);
    }
    let tally = resend::all(settings, again, false).await?;
    let _ = output::say(&format!(
        "{} commands sent again, {} refused, {left} redriven records and resolutions left out{}",
        tally.sent,
        tally.refused,
        skipped(unreadable)
    ));
    Ok(if tally.refused == 0 { End::Done } else { End::Failed })
}

/// What is said about records whose headers cannot all be read; their dead letters hold the rest.
fn skipped(unreadable: usize) -> String {
    match unreadable {
        0 => String::new(),
        some => format!(", {some} with header names that are not UTF-8 left out"),
    }
}
