//! `commands resolve`: a person's decision, checked against journal and ERP, sent to the owner, and
//! waited for.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use tokio::{runtime::Handle, time::Instant};

use crate::{
    clock::Timestamp,
    config::{Settings, parse_duration},
    kafka::{
        control::{PARTITION, decide},
        scan::{From, Scan},
        tool::Seen,
    },
    schema::{Codec, CommandResult, JournalEntry, Outcome},
    sink::{
        self,
        decision::{self, Decision, Verdict},
        letter::Letter,
    },
};

use super::{
    super::{
        End,
        beside::{self, Pace},
        memory, output,
    },
    operator, partition_of, state,
};

/// The markers of one transaction reach its topics one after the other, each within moments.
const SAME_TRANSACTION: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Number of the purchase return
    return_no: String,
    /// The sender's id of the command
    command_id: String,
    #[command(flatten)]
    found: Found,
    /// Do not check the resolution against the ERP
    #[arg(long)]
    skip_erp_check: bool,
    /// Who decides, for the record [default: $USER]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// How long to wait until it is carried out; 0 does not wait
    #[arg(long, value_name = "SPAN", default_value = "60s", value_parser = span)]
    wait: Duration,
}

/// What was found in the ERP; exactly one.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Found {
    /// The command created this outbound order
    #[arg(long, value_name = "ORDER_NO", value_parser = order_no)]
    order: Option<String>,
    /// The command created no order, and none is to be created
    #[arg(long)]
    no_order: bool,
    /// The command created no order, and `dlq redrive` may have it created
    #[arg(long)]
    no_order_redrivable: bool,
}

impl Found {
    fn verdict(&self) -> Verdict {
        // Without an order clap has seen to it that one of the others is there.
        let none =
            if self.no_order_redrivable { Verdict::NoOrderRedrivable } else { Verdict::NoOrder };
        self.order.clone().map_or(none, Verdict::Created)
    }
}

fn order_no(text: &str) -> Result<String, String> {
    let order = text.trim();
    if order.is_empty() {
        Err("it is the number of an outbound order".to_owned())
    } else {
        Ok(order.to_owned())
    }
}

fn span(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| format!("{text:?} is no duration such as 30s"))
}

pub(super) async fn execute(args: Args, settings: &Arc<Settings>) -> anyhow::Result<End> {
    let codec = memory::codec(settings).await?;
    let entry = entry_of(&args, settings, &codec).await?;
    if !args.skip_erp_check {
        check(&args, &entry, settings).await?;
    }
    let decision = Decision {
        return_no: args.return_no.clone(),
        command_id: args.command_id.clone(),
        partition: entry.1,
        version: entry.0.version,
        found: decision::Found {
            verdict: args.found.verdict(),
            by: args.by.clone().unwrap_or_else(operator),
            at: Timestamp::now().to_string(),
        },
    };
    let before = Ends::now(settings).await?;
    let (control, value) = (&settings.topics.control, decision.value());
    let offset = decide(&settings.kafka, control, decision.key(), Some(&value)).await?;
    if args.wait.is_zero() {
        let _ = output::say(&format!(
            "the decision stands in {control} at offset {offset}; the command's owner carries it out"
        ));
        return Ok(End::Done);
    }
    wait(settings, &codec, before, (&decision, offset), args.wait).await
}

/// The command's entry and its partition, if a person has to decide about it.
async fn entry_of(
    args: &Args,
    settings: &Settings,
    codec: &Arc<Codec>,
) -> anyhow::Result<(JournalEntry, i32)> {
    let only = partition_of(settings, &settings.topics.journal, &args.return_no).await?;
    let key = sink::journal_key(&args.return_no, &args.command_id);
    let (reading, runtime, topic) =
        (Arc::clone(codec), Handle::current(), settings.topics.journal.clone());
    let all = memory::collect(
        settings,
        &settings.topics.journal,
        only,
        From::Beginning,
        move |record: Seen| {
            (record.key.as_deref() == Some(&key)).then(|| {
                let entry = record
                    .value
                    .as_deref()
                    .map(|bytes| memory::decode(&reading, &runtime, bytes, Codec::decode_journal));
                (entry, record.partition)
            })
        },
    )
    .await?;
    let Some((Some(entry), partition)) = all.into_iter().next_back() else {
        bail!(
            "{topic} knows no command {} of {}; `wdt-connector commands list --return-no {}` shows what it knows",
            args.command_id,
            args.return_no,
            args.return_no
        );
    };
    let entry =
        entry.map_err(anyhow::Error::msg).with_context(|| format!("{topic} cannot be read"))?;
    if entry.outcome != Some(Outcome::InDoubt) {
        let order = entry
            .outbound_no
            .as_deref()
            .map(|order| format!(" with the order {order}"))
            .unwrap_or_default();
        bail!("nothing is to be decided: the command is {}{order}", state(&entry));
    }
    Ok((entry, partition))
}

/// A typing error must not become an outcome: the ERP is asked for the orders of the return.
async fn check(
    args: &Args,
    (entry, _): &(JournalEntry, i32),
    settings: &Arc<Settings>,
) -> anyhow::Result<()> {
    let erp = beside::erp(settings, Pace::Question)?;
    let orders = sink::orders_of(&erp, &args.return_no, settings.commands.call_timeout)
        .await
        .map_err(|reason| {
            anyhow::anyhow!(
                "the ERP could not be asked ({reason}); try again, or resolve with --skip-erp-check"
            )
        })?;
    let known: Vec<&str> = orders.iter().map(|(order, _)| order.as_str()).collect();
    let list = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    match &args.found.verdict() {
        Verdict::Created(order) if !known.contains(&order.as_str()) => {
            bail!(
                "the ERP shows no outbound order {order} for {}; it shows: {list}. Resolve with --skip-erp-check if it exists all the same",
                args.return_no
            )
        }
        Verdict::NoOrder | Verdict::NoOrderRedrivable => {
            match orders.iter().find(|(_, marker)| marker.as_deref() == Some(&entry.marker)) {
                Some((order, _)) => {
                    bail!(
                        "the outbound order {order} carries this command's marker {}: resolve with --order {order}",
                        entry.marker
                    )
                }
                None => Ok(()),
            }
        }
        Verdict::Created(order) => {
            match orders.iter().find(|(known, _)| known == order).and_then(|(_, of)| of.as_ref()) {
                Some(marker) if *marker != entry.marker => bail!(
                    "the outbound order {order} carries another command's marker {marker}; this command's is {}. Resolve with --skip-erp-check if it is this command's all the same",
                    entry.marker
                ),
                _ => Ok(()),
            }
        }
    }
}

/// Where results and dead letters ended before the decision was sent.
struct Ends {
    results: BTreeMap<i32, i64>,
    letters: BTreeMap<i32, i64>,
}

impl Ends {
    async fn now(settings: &Settings) -> anyhow::Result<Self> {
        let (kafka, topics) = (settings.kafka.clone(), settings.topics.clone());
        let ends = move || {
            anyhow::Ok(Self {
                results: Scan::ends(&kafka, &topics.results)?,
                letters: Scan::ends(&kafka, &topics.commands_dlq)?,
            })
        };
        tokio::task::spawn_blocking(ends).await?
    }
}

/// Looks for the decision's result, or the dead letter that says why there is none.
async fn wait(
    settings: &Settings,
    codec: &Arc<Codec>,
    before: Ends,
    (decision, offset): (&Decision, i64),
    patience: Duration,
) -> anyhow::Result<End> {
    let mut deadline = Instant::now() + patience;
    let mut passed = false;
    let control = &settings.topics.control;
    loop {
        let (reading, runtime, name) = (Arc::clone(codec), Handle::current(), control.clone());
        let results: Vec<CommandResult> = memory::collect(
            settings,
            &settings.topics.results,
            None,
            From::Offsets(before.results.clone()),
            move |record: Seen| {
                let result = memory::decode(
                    &reading,
                    &runtime,
                    record.value.as_deref()?,
                    Codec::decode_result,
                )
                .ok()?;
                (result.source_topic == name && result.source_offset == offset).then_some(result)
            },
        )
        .await?;
        if let Some(result) = results.first() {
            let order =
                result.outbound_no.as_deref().map(|order| format!(" {order}")).unwrap_or_default();
            let _ = output::say(&format!(
                "carried out: {} {} is {}{order}",
                result.return_no,
                result.command_id,
                result.outcome.name()
            ));
            if decision.found.verdict == Verdict::NoOrderRedrivable {
                let _ = output::say(&format!(
                    "to have it created: wdt-connector dlq redrive --reason in_doubt --key {}",
                    result.return_no
                ));
            }
            return Ok(End::Done);
        }
        let name = control.clone();
        let letters: Vec<Letter> = memory::collect(
            settings,
            &settings.topics.commands_dlq,
            None,
            From::Offsets(before.letters.clone()),
            move |record: Seen| {
                let letter = Letter::read(record);
                let ours = letter.source_topic.as_ref() == Some(&name)
                    && letter.source == Some((PARTITION, offset));
                ours.then_some(letter)
            },
        )
        .await?;
        if let Some(letter) = letters.first() {
            output::complain(&letter.reason);
            return Ok(End::Failed);
        }
        if Instant::now() >= deadline {
            output::complain(&if passed {
                format!(
                    "the decision was not carried out: the command was decided about already, or settled otherwise; `wdt-connector commands show {} {}` shows how",
                    decision.return_no, decision.command_id
                )
            } else {
                format!(
                    "the decision stands in {control} at offset {offset} and was not carried out within {}; the command's owner does so when it gets there: see that an instance runs",
                    crate::config::duration_text(patience)
                )
            });
            return Ok(End::Failed);
        }
        if !passed && taken_back(settings, decision, offset).await? {
            // Its result or dead letter, if there is one, is of the same transaction.
            passed = true;
            deadline = deadline.min(Instant::now() + SAME_TRANSACTION);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Whether the decision's tombstone is there.
async fn taken_back(settings: &Settings, decision: &Decision, offset: i64) -> anyhow::Result<bool> {
    let key = decision.key().to_string().into_bytes();
    let from = From::Offsets(BTreeMap::from([(PARTITION, offset)]));
    let gone = move |record: Seen| {
        (record.key.as_deref() == Some(&key) && record.value.is_none()).then_some(())
    };
    let found = memory::collect(settings, &settings.topics.control, None, from, gone).await?;
    Ok(!found.is_empty())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        found: Found,
    }

    fn read(words: &[&str]) -> Option<Verdict> {
        let line = Line::try_parse_from(std::iter::once(&"resolve").chain(words)).ok()?;
        Some(line.found.verdict())
    }

    #[test]
    fn resolutions_are_read_or_refused() {
        assert_eq!(read(&["--order", " CK1 "]), Some(Verdict::Created("CK1".into())));
        assert_eq!(read(&["--no-order"]), Some(Verdict::NoOrder));
        assert_eq!(read(&["--no-order-redrivable"]), Some(Verdict::NoOrderRedrivable));
        for words in [
            &[][..],
            &["--order"],
            &["--order", " "],
            &["--order", "CK1", "--no-order"],
            &["--no-order", "--no-order-redrivable"],
            &["CK1"],
        ] {
            assert_eq!(read(words), None, "{words:?}");
        }
    }
}
