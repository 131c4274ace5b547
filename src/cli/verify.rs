//! `verify`: is what was published last what the ERP holds? Reads both, publishes nothing.

use anyhow::bail;

use crate::{
    clock::Timestamp,
    config::{Feed, Loaded, Settings},
    kafka::Store,
    source::{
        audit::{Audit, MOST},
        change::call_of,
    },
};

use super::{
    End,
    beside::{self, Pace},
    feeds::percent,
    output,
    past::Bar,
    state,
};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// purchase_returns or return_outbounds
    #[arg(long, value_parser = state::feed)]
    feed: Feed,
    /// Records modified from here on, RFC 3339
    #[arg(long, value_name = "INSTANT", value_parser = state::instant)]
    from: Timestamp,
    /// … up to here; never beyond the feed's watermark
    #[arg(long, value_name = "INSTANT", value_parser = state::instant)]
    to: Timestamp,
    /// How many calls of the ERP a minute to read with; default: a third of what the feeds leave
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    calls_per_minute: Option<u32>,
}

pub(super) async fn execute(args: Args, loaded: Loaded) -> anyhow::Result<End> {
    let settings = loaded.settings;
    state::require(&settings, args.feed)?;
    let folder = settings.cache_dir.join(format!("verify-{}", std::process::id()));
    let store = Store::create(&folder, "state")?;
    let end = verify(&settings, &args, store).await;
    let _ = std::fs::remove_dir_all(&folder);
    end
}

async fn verify(settings: &Settings, args: &Args, store: Store) -> anyhow::Result<End> {
    let feed = args.feed;
    let codec = state::codec(settings).await?;
    let bar = Bar::new(feed.name());
    state::load(settings, feed, &store).await?;
    let call = call_of(feed, settings.feed(feed).edition);
    let pace = Pace::of(settings, call, args.calls_per_minute);
    let erp = beside::erp(settings, pace)?;
    let mut audit = Audit::new(erp, feed, settings.feed(feed), codec, store.clone());
    let Some(at) = audit.checkpoint().await? else {
        bail!("{} has never been read, so there is nothing to verify", feed.name())
    };
    state::owned(settings, feed, &at)?;
    let (from, to) = (args.from.floor_second(), args.to.min(at.watermark).floor_second());
    if from >= to {
        bail!(
            "nothing to verify: --from must be earlier than --to, and than the feed's watermark {}",
            at.watermark
        );
    }
    if to < args.to.floor_second() {
        bar.say(&format!(
            "verified up to the feed's watermark {to}: what comes after it is on its way"
        ));
    }
    bar.say(&format!("asking the ERP with {pace}, beside the instances that run"));
    let found = audit
        .compare(from, to, |position, rows| {
            bar.at(percent(from, to, position), &format!("at {position}, {rows} records read"))
        })
        .await?;
    let (rows, not_shown, unproven) = (found.rows, found.not_shown, found.unproven);
    let stopped = found.differences.len() >= MOST;
    let differences = if found.differences.is_empty() {
        found.differences
    } else {
        // Published between the reading of the state and that of the ERP: no difference.
        state::load(settings, feed, &store).await?;
        audit.confirm(found.differences).await?
    };
    for difference in &differences {
        if output::say(&serde_json::to_string(difference)?).is_err() {
            break;
        }
    }
    for window in &unproven {
        bar.say(&format!(
            "not verified: from {} to {} the ERP's answers contradict its counts, or it does not answer",
            window.start, window.end
        ));
    }
    if not_shown > 0 {
        bar.say(&format!(
            "not verified: {not_shown} records that the ERP counts and does not show to this account (仓库权限)"
        ));
    }
    let more = if stopped { " so far; it stopped there" } else { "" };
    bar.end(&format!(
        "{rows} records compared with {} calls, {} differences{more}",
        audit.calls(),
        differences.len()
    ));
    Ok(if differences.is_empty() && unproven.is_empty() { End::Done } else { End::Failed })
}
