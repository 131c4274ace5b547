//! `feeds`: what a feed's state and its owner say, from Kafka alone; pausing, resuming and setting
//! the watermark.

use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    clock::Timestamp,
    config::{Feed, Loaded, Settings, duration_text},
    kafka::{
        control::{decide, pipeline_key},
        members::{self, Member},
    },
    schema::{Checkpoint, UnprovenWindow},
    source::{
        order::{BackfillOrder, WatermarkOrder, watermark_key},
        status::lag,
    },
};

use super::{End, output, state};

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  wdt-connector feeds show\n  wdt-connector feeds pause --feed return_outbounds"
)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, Subcommand)]
enum Verb {
    /// Checkpoint, lag, owner, unproven windows and pending requests, of every enabled feed
    #[command(after_help = "Example: wdt-connector feeds show --json | jq .watermark")]
    Show {
        /// Only this feed: purchase_returns or return_outbounds
        #[arg(long, value_parser = state::feed)]
        feed: Option<Feed>,
        /// One JSON object a line instead of text
        #[arg(long)]
        json: bool,
    },
    /// Stop polling, in whichever instance owns the feed and through restarts
    #[command(after_help = "Example: wdt-connector feeds pause --feed return_outbounds")]
    Pause {
        /// purchase_returns or return_outbounds
        #[arg(long, value_parser = state::feed)]
        feed: Feed,
    },
    /// End a pause; the feed goes on where it stood
    #[command(after_help = "Example: wdt-connector feeds resume --feed return_outbounds")]
    Resume {
        /// purchase_returns or return_outbounds
        #[arg(long, value_parser = state::feed)]
        feed: Feed,
    },
    /// Go on from another moment: an earlier one reads again what the state may lack, a later one
    /// skips
    #[command(
        after_help = "Example: wdt-connector feeds set-watermark --feed return_outbounds --to 2026-01-01T00:00:00+08:00"
    )]
    SetWatermark {
        /// purchase_returns or return_outbounds
        #[arg(long, value_parser = state::feed)]
        feed: Feed,
        /// RFC 3339, for example 2026-01-01T00:00:00+08:00
        #[arg(long, value_name = "INSTANT", value_parser = state::instant)]
        to: Timestamp,
        /// Needed for a later watermark: what was modified in between and not since is then never
        /// published, nor what the late pass would still find there
        #[arg(long)]
        allow_skip: bool,
    },
}

pub(super) async fn execute(args: Args, loaded: Loaded) -> anyhow::Result<End> {
    let settings = loaded.settings;
    match args.verb {
        Verb::Show { feed, json } => show(&settings, feed, json).await,
        Verb::Pause { feed } => turn(&settings, feed, "paused").await,
        Verb::Resume { feed } => turn(&settings, feed, "running").await,
        Verb::SetWatermark { feed, to, allow_skip } => {
            set_watermark(&settings, feed, to, allow_skip).await
        }
    }
}

/// Who gives an order, for whoever reads it later.
pub(super) fn operator() -> String {
    std::env::var("USER")
        .or_else(|_| std::env::var("LOGNAME"))
        .unwrap_or_else(|_| "an operator".to_owned())
}

/// An order's id: nobody else gives the same.
pub(super) fn order_id() -> String {
    format!("{}-{}", Timestamp::now(), std::process::id())
}

async fn turn(settings: &Settings, feed: Feed, to: &str) -> anyhow::Result<End> {
    let value = json!({ "state": to, "by": operator(), "at": Timestamp::now().to_string() });
    decide(&settings.kafka, &settings.topics.control, pipeline_key(feed.name()), Some(&value))
        .await?;
    let _ =
        output::say(&format!("{} is {to}, for every instance and through restarts", feed.name()));
    Ok(End::Done)
}

async fn set_watermark(
    settings: &Settings,
    feed: Feed,
    to: Timestamp,
    allow_skip: bool,
) -> anyhow::Result<End> {
    state::require(settings, feed)?;
    let codec = state::codec(settings).await?;
    let at = state::checkpoint(settings, &codec, feed)
        .await?
        .ok_or_else(|| state::no_checkpoint(feed))?;
    state::owned(settings, feed, &at)?;
    if to > at.watermark && !allow_skip {
        output::complain(&format!(
            "error: {to} is later than the watermark {}; what was modified in between would never be published: allow that with --allow-skip",
            at.watermark
        ));
        return Ok(End::Misconfigured);
    }
    let pending = WatermarkOrder::of(&*state::decisions(settings).await?, feed)
        .filter(|order| at.watermark_id.as_ref() != Some(&order.id));
    let order = WatermarkOrder { id: order_id(), watermark: to, allow_skip };
    decide(&settings.kafka, &settings.topics.control, watermark_key(feed), Some(&order.value()))
        .await?;
    let _ = output::say(&format!(
        "requested: {} goes on from {to} (its watermark is {}); request {}",
        feed.name(),
        at.watermark,
        order.id
    ));
    if let Some(replaced) = pending {
        let _ = output::say(&format!(
            "it replaces request {} ({}), which no instance has carried out yet",
            replaced.id, replaced.watermark
        ));
    }
    Ok(End::Done)
}

/// One feed as `feeds show` prints it.
#[derive(Debug, Serialize)]
struct View {
    feed: &'static str,
    owner: Option<String>,
    host: Option<String>,
    paused: Option<Value>,
    /// What the state is of.
    account: Option<String>,
    edition: Option<String>,
    start_at: Option<String>,
    watermark: Option<String>,
    lag_seconds: Option<u64>,
    late_watermark: Option<String>,
    late_lag_seconds: Option<u64>,
    /// When the last complete reads of shipping days began; enterprise outbound orders only.
    shipped_recent_at: Option<String>,
    shipped_older_at: Option<String>,
    snapshot: Option<bool>,
    backfill: Option<Value>,
    last_backfill: Option<Value>,
    /// Windows that were passed and are read again.
    unproven: Vec<Value>,
    /// Orders that the owner has not carried out yet.
    pending: Vec<String>,
}

async fn show(settings: &Settings, only: Option<Feed>, json: bool) -> anyhow::Result<End> {
    let feeds: Vec<Feed> = Feed::ALL
        .into_iter()
        .filter(|feed| only.map_or(settings.feed(*feed).enabled, |only| only == *feed))
        .collect();
    if feeds.is_empty() {
        output::complain("no feed is enabled in this configuration; name one with --feed");
        return Ok(End::Misconfigured);
    }
    let codec = state::codec(settings).await?;
    let decisions = state::decisions(settings).await?;
    let (kafka, topic) = (settings.kafka.clone(), settings.topics.feeds_state.clone());
    let owners =
        tokio::task::spawn_blocking(move || members::owners(&kafka, "feeds", &topic)).await??;
    for feed in feeds {
        let checkpoint = state::checkpoint(settings, &codec, feed).await?;
        let paused = decisions
            .get(&pipeline_key(feed.name()))
            .filter(|value| value["state"] == "paused")
            .cloned();
        let orders = (BackfillOrder::of(&decisions, feed), WatermarkOrder::of(&decisions, feed));
        let view = view(feed, checkpoint.as_ref(), owners.get(&feed.partition()), paused, orders);
        let line = if json { serde_json::to_string(&view)? } else { text(&view) };
        if output::say(&line).is_err() {
            break;
        }
    }
    Ok(End::Done)
}

fn view(
    feed: Feed,
    at: Option<&Checkpoint>,
    owner: Option<&Member>,
    paused: Option<Value>,
    (backfill, watermark): (Option<BackfillOrder>, Option<WatermarkOrder>),
) -> View {
    let now = Timestamp::now();
    let lag = |position: Timestamp| lag(now, position).as_secs();
    let mut pending = Vec::new();
    if let Some(order) = backfill
        && at.is_none_or(|at| {
            at.backfill_last.as_ref() != Some(&order.id)
                && at.backfill_id.as_ref() != Some(&order.id)
        })
    {
        pending.push(format!("backfill {}", order.id));
    }
    if let Some(order) = watermark
        && at.is_none_or(|at| at.watermark_id.as_ref() != Some(&order.id))
    {
        pending.push(format!("watermark {} ({})", order.watermark, order.id));
    }
    View {
        feed: feed.name(),
        owner: owner.map(|owner| owner.client_id.clone()),
        host: owner.map(|owner| owner.host.clone()),
        paused,
        account: at.map(|at| at.account.clone()),
        edition: at.map(|at| at.edition.clone()),
        start_at: at.map(|at| at.start_at.to_string()),
        watermark: at.map(|at| at.watermark.to_string()),
        lag_seconds: at.map(|at| lag(at.watermark)),
        late_watermark: at.map(|at| at.late_watermark.to_string()),
        late_lag_seconds: at.map(|at| lag(at.late_watermark)),
        shipped_recent_at: at.and_then(|at| at.shipped_recent_at).map(|at| at.to_string()),
        shipped_older_at: at.and_then(|at| at.shipped_older_at).map(|at| at.to_string()),
        snapshot: at.map(|at| at.snapshot),
        backfill: at.and_then(running),
        last_backfill: at.and_then(|at| {
            let id = at.backfill_last.as_ref()?;
            Some(json!({ "id": id, "end": at.backfill_end, "rows": at.backfill_rows, "events": at.backfill_events }))
        }),
        unproven: at.map_or_else(Vec::new, |at| at.unproven.iter().map(unproven).collect()),
        pending,
    }
}

fn unproven(window: &UnprovenWindow) -> Value {
    json!({
        "from": window.from.to_string(),
        "to": window.to.to_string(),
        "since": window.since.to_string(),
    })
}

/// The backfill that runs, as JSON.
fn running(at: &Checkpoint) -> Option<Value> {
    let (from, to, position) = (at.backfill_from?, at.backfill_to?, at.backfill_position?);
    Some(json!({
        "id": at.backfill_id,
        "from": from.to_string(),
        "to": to.to_string(),
        "position": position.to_string(),
        "percent": percent(from, to, position),
        "rows": at.backfill_rows,
        "events": at.backfill_events,
    }))
}

/// How much of a period has been read, in whole percent.
pub(super) fn percent(from: Timestamp, to: Timestamp, position: Timestamp) -> i64 {
    ((position.0 - from.0).saturating_mul(100) / (to.0 - from.0).max(1)).clamp(0, 100)
}

fn text(view: &View) -> String {
    let mut lines = vec![view.feed.to_owned()];
    let span = |seconds: u64| duration_text(Duration::from_secs(seconds));
    let mut say = |name: &str, value: String| lines.push(format!("  {name:<16} {value}"));
    say(
        "owner",
        match (&view.owner, &view.host) {
            (Some(owner), Some(host)) => format!("{owner} at {host}"),
            _ => "none: no instance that runs this feed is in the group now".to_owned(),
        },
    );
    if let Some(paused) = &view.paused {
        let word = |name: &str| paused[name].as_str().unwrap_or("?").to_owned();
        say("paused", format!("by {} at {}; feeds resume ends it", word("by"), word("at")));
    }
    if let (Some(account), Some(edition), Some(start)) =
        (&view.account, &view.edition, &view.start_at)
    {
        say("account", format!("{account} ({edition})"));
        say("start", start.clone());
    }
    match (&view.watermark, view.lag_seconds, &view.late_watermark, view.late_lag_seconds) {
        (Some(watermark), Some(lag), Some(late), Some(late_lag)) => {
            say("watermark", format!("{watermark}, {} behind now", span(lag)));
            say("late watermark", format!("{late}, {} behind now", span(late_lag)));
            say(
                "first read",
                if view.snapshot == Some(true) {
                    "going on".to_owned()
                } else {
                    "finished".to_owned()
                },
            );
        }
        _ => say("checkpoint", "none: the feed has never been read".to_owned()),
    }
    if let (Some(recent), Some(older)) = (&view.shipped_recent_at, &view.shipped_older_at) {
        say(
            "shipped orders",
            format!(
                "changes published up to {recent} where shipped in the last 7 days, up to {older} where in the last 30"
            ),
        );
    }
    if let Some(backfill) = &view.backfill {
        say(
            "backfill",
            format!(
                "{} % of {} to {}, {} records read, {} events; {}",
                backfill["percent"],
                backfill["from"].as_str().unwrap_or_default(),
                backfill["to"].as_str().unwrap_or_default(),
                backfill["rows"],
                backfill["events"],
                backfill["id"].as_str().unwrap_or("without a request: the filters or the start changed, or the first read has its shipping days left")
            ),
        );
    }
    if let Some(last) = &view.last_backfill {
        say(
            "last backfill",
            format!(
                "{} {}",
                last["id"].as_str().unwrap_or_default(),
                last["end"].as_str().unwrap_or_default()
            ),
        );
    }
    for window in &view.unproven {
        let word = |name: &str| window[name].as_str().unwrap_or_default().to_owned();
        say(
            "unproven",
            format!(
                "{} to {}, passed at {}: no read showed all of it; it is read again",
                word("from"),
                word("to"),
                word("since")
            ),
        );
    }
    for order in &view.pending {
        say("requested", format!("{order}, not carried out yet"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::window::Cursor;

    #[test]
    fn a_feed_says_what_it_does_who_owns_it_and_what_waits() {
        let (cursor, _) = Cursor::resumed(None, Timestamp(0), "f");
        let order = BackfillOrder {
            id: "b-1".into(),
            from: Timestamp(0),
            to: Timestamp(100_000),
            cancelled: false,
        };
        let owner = Member { client_id: "wdt-0-feeds".into(), host: "10.0.0.1".into() };
        let waiting = text(&view(
            Feed::ReturnOutbounds,
            Some(cursor.checkpoint()),
            Some(&owner),
            None,
            (Some(order.clone()), None),
        ));
        for part in [
            "wdt-0-feeds at 10.0.0.1",
            "account          account (flagship)",
            "start            1970-01-01T00:00:00.000Z",
            "going on",
            "backfill b-1, not carried out yet",
        ] {
            assert!(waiting.contains(part), "{part}: {waiting}");
        }
        let passed = UnprovenWindow {
            from: Timestamp(50_000),
            to: Timestamp(51_000),
            since: Timestamp(90_000),
            snapshot: false,
            records_since: None,
        };
        let running = cursor.ordered(&order).unwrap().listed(passed).unwrap();
        let paused = Some(json!({"state": "paused", "by": "ann", "at": "now"}));
        let shown = text(&view(
            Feed::ReturnOutbounds,
            Some(running.checkpoint()),
            None,
            paused,
            (Some(order), None),
        ));
        for part in [
            "owner            none",
            "by ann at now",
            "0 % of 1970-01-01T00:00:00.000Z to 1970-01-01T00:01:40.000Z",
            "1970-01-01T00:00:50.000Z to 1970-01-01T00:00:51.000Z, passed at 1970-01-01T00:01:30.000Z",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(!shown.contains("not carried out"), "{shown}");
        assert!(
            text(&view(Feed::ReturnOutbounds, None, None, None, (None, None)))
                .contains("never been read")
        );
    }

    #[test]
    fn percentages_stay_within_bounds() {
        assert_eq!(percent(Timestamp(0), Timestamp(200), Timestamp(50)), 25);
        assert_eq!(percent(Timestamp(0), Timestamp(0), Timestamp(50)), 100);
        assert_eq!(percent(Timestamp(100), Timestamp(200), Timestamp(50)), 0);
    }
}
