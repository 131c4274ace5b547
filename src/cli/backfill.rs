//! `backfill`: order a period to be read again beside the live feed, follow it, call it off.

use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Timestamp,
    config::{Feed, Loaded, Settings},
    kafka::{
        Store,
        control::decide,
        scan::{self, From},
    },
    schema::Checkpoint,
    source::{
        audit::{Audit, Survey},
        change::{StateKey, call_of},
        order::{BackfillOrder, backfill_key},
    },
};

use super::{
    End,
    beside::{self, Pace},
    feeds::{order_id, percent},
    output,
    past::Bar,
    state,
};

/// Records between the reader and the printer.
const AHEAD: usize = 64;
/// A checkpoint of a running backfill is never far from the end.
const NEAR_THE_END: u32 = 200;
/// After this long without a sign of the order somebody should hear that nobody took it.
const TAKEN_BY: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// purchase_returns or return_outbounds
    #[arg(long, value_parser = state::feed)]
    feed: Feed,
    /// Records modified from here on, RFC 3339
    #[arg(long, value_name = "INSTANT", value_parser = state::instant, required_unless_present_any = ["cancel", "follow"])]
    from: Option<Timestamp>,
    /// … up to here
    #[arg(long, value_name = "INSTANT", value_parser = state::instant, required_unless_present_any = ["cancel", "follow"])]
    to: Option<Timestamp>,
    /// How many calls of the ERP a minute to count with; default: a third of what the feeds leave.
    /// The backfill itself has the lowest priority of the quota
    #[arg(long, value_name = "N", conflicts_with_all = ["cancel"], value_parser = clap::value_parser!(u32).range(1..))]
    calls_per_minute: Option<u32>,
    /// Only say what it would cost
    #[arg(long, conflicts_with_all = ["cancel", "follow"])]
    dry_run: bool,
    /// Call off the one that was ordered last
    #[arg(long, conflicts_with_all = ["from", "to", "follow"])]
    cancel: bool,
    /// Show progress until it ends; without --from and --to that of the one that was ordered last
    #[arg(long)]
    follow: bool,
}

pub(super) async fn execute(args: Args, loaded: Loaded) -> anyhow::Result<End> {
    let settings = loaded.settings;
    state::require(&settings, args.feed)?;
    if args.cancel {
        return cancel(&settings, args.feed).await;
    }
    let order = match (args.from, args.to) {
        (Some(from), Some(to)) => match begin(&settings, &args, from, to).await? {
            Some(order) => order,
            None => return Ok(End::Done),
        },
        _ => standing(&settings, args.feed).await?,
    };
    if args.follow { follow(&settings, args.feed, &order).await } else { Ok(End::Done) }
}

async fn standing(settings: &Settings, feed: Feed) -> anyhow::Result<BackfillOrder> {
    match BackfillOrder::of(&*state::decisions(settings).await?, feed) {
        Some(order) => Ok(order),
        None => bail!("no backfill of {} was ordered; order one with --from and --to", feed.name()),
    }
}

/// Says what it costs and orders it; `None` for a dry run.
async fn begin(
    settings: &Settings,
    args: &Args,
    from: Timestamp,
    to: Timestamp,
) -> anyhow::Result<Option<BackfillOrder>> {
    let feed = args.feed;
    if from >= to {
        bail!("--from must be earlier than --to");
    }
    let codec = state::codec(settings).await?;
    let at = state::checkpoint(settings, &codec, feed).await?;
    if let Some(id) = unfinished(settings, feed, at.as_ref()).await? {
        bail!(
            "backfill {id} of {} is not finished; wait for it (--follow) or call it off (--cancel) first",
            feed.name()
        );
    }
    match &at {
        Some(at) => state::owned(settings, feed, at)?,
        // A feed that begins carries out no order: it stands for a state that is gone.
        None if !args.dry_run => return Err(state::no_checkpoint(feed)),
        None => {}
    }
    // The first pass has not been beyond its watermark, and will come there by itself.
    let to = at.map_or(to, |at| to.min(at.watermark.max(from)));
    if from >= to {
        bail!("the feed itself has not come to {from} yet, so there is nothing to fill");
    }
    let folder = settings.cache_dir.join(format!("backfill-{}", std::process::id()));
    let store = Store::create(&folder, "state")?;
    let call = call_of(feed, settings.feed(feed).edition);
    let pace = Pace::of(settings, call, args.calls_per_minute);
    let erp = beside::erp(settings, pace)?;
    let mut audit = Audit::new(erp, feed, settings.feed(feed), codec, store);
    let survey = audit.survey(from.floor_second(), to.floor_second()).await;
    drop(audit);
    let _ = std::fs::remove_dir_all(&folder);
    let rate = f64::from(settings.quota.calls_per_minute) * settings.quota.share;
    let _ = output::say(&costs(survey?, from, to, pace, rate));
    if args.dry_run {
        return Ok(None);
    }
    let order = BackfillOrder { id: order_id(), from, to, cancelled: false };
    decide(&settings.kafka, &settings.topics.control, backfill_key(feed), Some(&order.value()))
        .await?;
    let _ = output::say(&format!(
        "requested: backfill {}; the owner of {} reads it beside the live feed",
        order.id,
        feed.name()
    ));
    Ok(Some(order))
}

fn costs(survey: Survey, from: Timestamp, to: Timestamp, pace: Pace, rate: f64) -> String {
    let minutes = (survey.calls as f64 / rate).ceil();
    let uncounted = if survey.uncounted == 0 {
        String::new()
    } else {
        format!("; {} s of it could not be counted", survey.uncounted)
    };
    let shipping = match survey.shipping_days {
        0 => String::new(),
        days => format!(
            ", shipped orders counted by their shipping time from {days} days before on, as this account's windows go over that"
        ),
    };
    format!(
        "{} records were modified from {from} to {to} (asked with {} calls, {pace}{uncounted}{shipping}); reading them takes about {} calls, at least {minutes} min at {rate} calls a minute, more beside the live feed",
        survey.records, survey.asked, survey.calls
    )
}

/// The id of an order that is neither finished nor called off.
async fn unfinished(
    settings: &Settings,
    feed: Feed,
    at: Option<&Checkpoint>,
) -> anyhow::Result<Option<String>> {
    let order = BackfillOrder::of(&*state::decisions(settings).await?, feed)
        .filter(|order| !order.cancelled);
    Ok(order
        .filter(|order| at.is_none_or(|at| at.backfill_last.as_ref() != Some(&order.id)))
        .map(|order| order.id))
}

async fn cancel(settings: &Settings, feed: Feed) -> anyhow::Result<End> {
    let codec = state::codec(settings).await?;
    let at = state::checkpoint(settings, &codec, feed).await?;
    let Some(id) = unfinished(settings, feed, at.as_ref()).await? else {
        let _ = output::say(&format!("no backfill of {} is ordered or running", feed.name()));
        return Ok(End::Done);
    };
    let order = BackfillOrder { cancelled: true, ..standing(settings, feed).await? };
    decide(&settings.kafka, &settings.topics.control, backfill_key(feed), Some(&order.value()))
        .await?;
    let _ = output::say(&format!("called off: {id}; what it has published stays"));
    Ok(End::Done)
}

/// Prints progress until the order is finished or called off.
async fn follow(settings: &Settings, feed: Feed, order: &BackfillOrder) -> anyhow::Result<End> {
    let codec = state::codec(settings).await?;
    let key = StateKey::checkpoint(feed);
    let stop = CancellationToken::new();
    let (sender, mut records) = mpsc::channel(AHEAD);
    let (kafka, topic, stopped) =
        (settings.kafka.clone(), settings.topics.feeds_state.clone(), stop.clone());
    let reader = tokio::task::spawn_blocking(move || {
        scan::read(&kafka, &topic, &From::Last(NEAR_THE_END), true, &sender, &stopped)
    });
    let bar = Bar::new(feed.name());
    let asked = Instant::now();
    let (mut taken, mut warned) = (false, false);
    let end = loop {
        let record = tokio::select! {
            record = records.recv() => record,
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                if !taken && !warned && asked.elapsed() > TAKEN_BY {
                    warned = true;
                    bar.say("no instance has taken the request yet; does an instance run with this feed enabled, and is it not paused?");
                }
                continue;
            }
            _ = tokio::signal::ctrl_c() => {
                bar.say("the backfill goes on; --follow shows it again, --cancel calls it off");
                break End::Done;
            }
        };
        let Some(record) = record else { break End::Failed };
        if record.partition != feed.partition() || record.key.as_deref() != Some(key.bytes()) {
            continue;
        }
        let Some(bytes) = record.value else { continue };
        let at = state::decode(&codec, &bytes).await?;
        if at.backfill_last.as_ref() == Some(&order.id) {
            let finished = at.backfill_end.as_deref() == Some("finished");
            bar.end(&ending(&at));
            break if finished { End::Done } else { End::Failed };
        }
        if at.backfill_id.as_ref() == Some(&order.id)
            && let Some(position) = at.backfill_position
        {
            taken = true;
            let (rows, events) = (at.backfill_rows.unwrap_or(0), at.backfill_events.unwrap_or(0));
            bar.at(
                percent(order.from, order.to, position),
                &format!("at {position}, {rows} records read, {events} events"),
            );
        }
    };
    stop.cancel();
    drop(records);
    reader.await??;
    Ok(end)
}

fn ending(at: &Checkpoint) -> String {
    format!(
        "{}: {} records read, {} events published",
        at.backfill_end.as_deref().unwrap_or("ended"),
        at.backfill_rows.unwrap_or(0),
        at.backfill_events.unwrap_or(0)
    )
}
