//! `commands replay`: records of the commands topic are sent again, as they are, behind everything
//! there is.
//!
//! Sent again rather than read again from a moved offset: nothing has to be stopped, committed
//! offsets never move back, and what was settled ahead of them stays settled. Every copy says that
//! it is one and when it was first sent, so that the journal, or beyond its horizon the ERP, is
//! asked before anything could be created twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    clock::Timestamp,
    config::Settings,
    kafka::{scan::From, tool::Seen},
    sink::letter::Letter,
};

use super::super::{
    End,
    memory::{self, Digest},
    output,
    resend::Resending,
};

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
    let wanted = move |record: &Seen| {
        until.is_none_or(|until| record.timestamp.is_none_or(|at| Timestamp(at) < until))
            && return_no
                .as_ref()
                .is_none_or(|return_no| record.key.as_deref() == Some(return_no.as_bytes()))
    };
    let chosen = wanted.clone();
    // Records that were forwarded, by place, with their content: the copy is sent. The content must
    // be the same, because the header that names the place is anybody's.
    let of = topic.clone();
    let origins: BTreeSet<((i32, i64), Digest)> =
        memory::collect(settings, &topic, None, from.clone(), move |record| {
            let letter = chosen(&record).then(|| Letter::read(record))?;
            let (_, partition, offset) =
                letter.forwarded_from().filter(|(topic, ..)| *topic == of)?;
            Some(((partition, offset), memory::content(&letter)))
        })
        .await?
        .into_iter()
        .collect();
    let partitions = super::partitions(settings, &topic).await?;
    let (mut left, mut unreadable, mut forwarded, mut again) = (0_usize, 0_usize, 0_usize, 0_usize);
    let mut sending =
        if args.dry_run { None } else { Some(Resending::start(settings, None, false).await?) };
    let mut reading =
        memory::read(settings, &topic, None, from, move |record| Ok(Some(record).filter(&wanted)));
    while let Some(record) = reading.next().await? {
        if record.unreadable_headers > 0 {
            // A copy would lack those headers.
            unreadable += 1;
            continue;
        }
        let place = (record.partition, record.offset);
        let letter = Letter::read(record);
        // What is a copy already has its original somewhere; a decision is made anew, not repeated.
        if letter.replays.is_some() || letter.control {
            left += 1;
        } else if origins.contains(&(place, memory::content(&letter))) {
            forwarded += 1;
        } else {
            again += 1;
            if let Some(sending) = &mut sending {
                let to = letter.place(partitions, settings.commands.partitioner, Some(place.0));
                sending.push(place, &letter.copy(&topic, to)).await;
            }
        }
    }
    let skipped = skipped(forwarded, unreadable);
    let Some(sending) = sending else {
        let _ = output::say(&format!(
            "{again} commands would be sent again, {left} redriven records and resolutions left out{skipped}; nothing was sent"
        ));
        return Ok(End::Done);
    };
    let tally = sending.finish().await;
    let _ = output::say(&format!(
        "{} commands sent again, {} refused, {left} redriven records and resolutions left out{skipped}",
        tally.sent, tally.refused
    ));
    Ok(if tally.refused == 0 { End::Done } else { End::Failed })
}

/// What is said about records that were forwarded, whose copies are sent, and about records whose
/// headers cannot all be read; their dead letters hold the rest.
fn skipped(forwarded: usize, unreadable: usize) -> String {
    [
        (forwarded, "forwarded ones left out for their copies"),
        (unreadable, "with header names that are not UTF-8 left out"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!(", {count} {what}"))
    .collect()
}
