//! `topics repartition`: another number of partitions for commands and journal.
//!
//! An entry of the journal stands in the partition of its command, so more partitions mean that
//! entries move. The order makes it safe to be interrupted at any point and run again: the journal
//! grows first, then every partition of it says that it is being migrated (from then on every
//! instance refuses to run, whatever the counts are), then entries are written where they belong
//! and only then taken away where they were, then every partition says the new count, and the
//! commands topic grows last, so that senders find the journal prepared.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::bail;
use tokio::time::Instant;

use crate::{
    clock::Timestamp,
    config::Settings,
    kafka::{
        Outgoing,
        admin::Admin,
        scan::{From, Scan},
        tool::{Seen, Sender},
    },
    schema::{Codec, EntryKind, JournalEntry, Subject},
    sink,
};

use super::{End, memory, output, topics::PATIENCE};

pub(super) const HELP: &str = "Example: wdt-connector topics repartition --partitions 12 --config connector.toml\n\
Every instance must be stopped, and every command read and settled. Safe to interrupt and to run again.\n\
Kafka takes no partitions away. For fewer, name new topics in [topics], create them with `topics --with-commands --partitions N`, and run\n\
`topics repartition --from-journal OLD --from-commands OLD`; the old topics stay as they are.";

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// The new number of partitions, at least the present one
    #[arg(long, value_name = "N", required_unless_present = "from_journal", conflicts_with = "from_journal",
        value_parser = clap::value_parser!(i32).range(1..=10_000))]
    partitions: Option<i32>,
    /// Fill topics.journal from this journal instead
    #[arg(long, value_name = "TOPIC", requires = "from_commands")]
    from_journal: Option<String>,
    /// The commands topic that journal belongs to
    #[arg(long, value_name = "TOPIC", requires = "from_journal")]
    from_commands: Option<String>,
}

/// How long a stopped static member may still be in the group: its session.
const LAST_SESSION: Duration = Duration::from_secs(90);
/// Deliveries awaited together.
const AHEAD: usize = 500;

/// From where to where.
struct Move {
    commands: String,
    from: String,
    to: String,
    partitions: i32,
    /// The journal's partitions are filled with what stood in fewer of its own.
    in_place: bool,
}

/// The newest value of a key in one partition.
type Found = BTreeMap<(Vec<u8>, i32), (Vec<u8>, JournalEntry)>;

pub(super) async fn execute(args: Args, settings: &Settings) -> anyhow::Result<End> {
    let admin = Admin::connect(&settings.kafka)?;
    let topics = &settings.topics;
    if sink::partition_of(b"", 1, settings.commands.partitioner).is_none() {
        bail!(
            "commands.partitioner = \"any\" does not say where a command's entry belongs; set the senders' partitioner first"
        );
    }
    let cluster = admin.cluster(PATIENCE).await?;
    let count = |topic: &str| {
        cluster.topics.get(topic).map(|shape| shape.partitions).ok_or_else(|| {
            anyhow::anyhow!("{topic} does not exist; create it with `wdt-connector topics`")
        })
    };
    let (commands, journal) = (count(&topics.commands)?, count(&topics.journal)?);
    let plan = match (args.partitions, args.from_journal, args.from_commands) {
        (Some(partitions), ..) => {
            if partitions < commands.max(journal) {
                bail!(
                    "Kafka takes no partitions away: {} has {commands} and {} has {journal}; `wdt-connector topics repartition --help` says how to go to fewer",
                    topics.commands,
                    topics.journal
                );
            }
            Move {
                commands: topics.commands.clone(),
                from: topics.journal.clone(),
                to: topics.journal.clone(),
                partitions,
                in_place: true,
            }
        }
        (None, Some(from), Some(old)) => {
            if from == topics.journal || old == topics.commands {
                bail!(
                    "the old topics must be others than topics.journal and topics.commands; --partitions changes those in place"
                );
            }
            if commands != journal {
                bail!(
                    "{} has {commands} partitions and {} has {journal}; create both with the same number",
                    topics.commands,
                    topics.journal
                );
            }
            Move {
                commands: old,
                from,
                to: topics.journal.clone(),
                partitions: journal,
                in_place: false,
            }
        }
        (None, ..) => bail!("--partitions is needed, or --from-journal with --from-commands"),
    };
    stopped(settings).await?;
    let codec =
        Codec::connect(settings.schema_registry.as_ref(), topics, &[Subject::Journal]).await?;
    let mut found = entries(settings, &plan.from).await?;
    // With these counts no instance runs, so nothing more can be drained or settled.
    let refused = plan.in_place
        && (commands != journal
            || found
                .values()
                .any(|(_, entry)| entry.partitions.is_some_and(|count| count != commands)));
    drained(settings, &plan, refused).await?;
    let open = found.values().filter(|(_, entry)| entry.kind == EntryKind::Intent).count();
    if open > 0 && !refused {
        bail!(
            "{open} commands are still open; start the connector with the commands.partitioner they were begun under, let them settle, and try again once `commands list --open` is empty"
        );
    }
    if open > 0 {
        output::complain(&format!(
            "{open} commands are still open; where their partition changes they are forwarded to the right one, where the ERP is asked about them before anything is called; one that was forwarded before is INVALID, and `dlq redrive` sends it to the right one"
        ));
    }
    if !plan.in_place {
        // What the new journal has learnt since an earlier run is not overwritten with what the old
        // one knew.
        let known = entries(settings, &plan.to).await?;
        let known: BTreeSet<Vec<u8>> =
            known.into_keys().map(|(key, _)| key).filter(|key| !key.starts_with(b"[\"#")).collect();
        found.retain(|(key, _), _| !known.contains(key));
    }
    if plan.in_place && journal < plan.partitions {
        admin.grow(&topics.journal, plan.partitions).await?;
    }
    let moved = rewrite(settings, &codec, &plan, found).await?;
    if plan.in_place && commands < plan.partitions {
        admin.grow(&topics.commands, plan.partitions).await?;
    }
    let _ = output::say(&format!(
        "{} and {} have {} partitions; {moved} entries moved; start the connector again",
        topics.commands, plan.to, plan.partitions
    ));
    Ok(End::Done)
}

/// No instance runs: nobody writes the journal meanwhile.
async fn stopped(settings: &Settings) -> anyhow::Result<()> {
    let deadline = Instant::now() + LAST_SESSION;
    let mut said = false;
    loop {
        let kafka = settings.kafka.clone();
        let members =
            tokio::task::spawn_blocking(move || Scan::members(&kafka, sink::ROLE)).await??;
        if members == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("{members} instances are running; stop them all first");
        }
        if !said {
            output::complain(&format!(
                "{members} instances are in the group; waiting until their sessions have ended"
            ));
            said = true;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Every command is read and settled; `refused`: no instance would run, so nothing more can be
/// drained.
async fn drained(settings: &Settings, plan: &Move, refused: bool) -> anyhow::Result<()> {
    let (kafka, topic) = (settings.kafka.clone(), plan.commands.clone());
    let count = move || {
        let mut from = Scan::ends(&kafka, &topic)?;
        let committed = Scan::committed(&kafka, sink::ROLE, &topic)?;
        for (partition, offset) in &mut from {
            *offset = committed.get(partition).copied().unwrap_or(0);
        }
        let mut unread = 0_u64;
        Scan::open(&kafka, &topic, None, &From::Offsets(from))?.run(|_, _| {
            unread += 1;
            true
        })?;
        anyhow::Ok(unread)
    };
    let unread = tokio::task::spawn_blocking(count).await??;
    match (unread, refused) {
        (0, _) => Ok(()),
        (_, true) => {
            output::complain(&format!(
                "{unread} commands of {} are not read yet; those whose partition changes are forwarded to the right one",
                plan.commands
            ));
            Ok(())
        }
        (_, false) => bail!(
            "{unread} commands of {} are not settled yet; stop the senders, let the connector settle them, stop it, and try again",
            plan.commands
        ),
    }
}

/// What a journal holds, by key and partition.
async fn entries(settings: &Settings, journal: &str) -> anyhow::Result<Found> {
    let codec = memory::codec(settings).await?;
    let runtime = tokio::runtime::Handle::current();
    let (kafka, topic) = (settings.kafka.clone(), journal.to_owned());
    let read = move || {
        let mut found = Found::new();
        let mut unreadable = None;
        Scan::open(&kafka, &topic, None, &From::Beginning)?.run(
            |Seen { partition, offset, key, value, .. }, _| {
                let place = (key.unwrap_or_default(), partition);
                let Some(bytes) = value else {
                    found.remove(&place);
                    return true;
                };
                match memory::decode(&codec, &runtime, &bytes, Codec::decode_journal) {
                    Ok(entry) => {
                        found.insert(place, (bytes, entry));
                        true
                    }
                    Err(reason) => {
                        unreadable = Some(format!(
                            "{topic} [{partition}] at offset {offset} cannot be read: {reason}"
                        ));
                        false
                    }
                }
            },
        )?;
        match unreadable {
            None => Ok(found),
            Some(reason) => Err(anyhow::anyhow!(reason)),
        }
    };
    tokio::task::spawn_blocking(read).await?
}

/// What has to be written, one part after the other.
struct Script {
    /// In every partition: this journal is not whole.
    begun: Vec<Outgoing>,
    /// Entries where they belong, and declarations in every partition.
    writes: Vec<Outgoing>,
    tombstones: Vec<Outgoing>,
    /// In every partition: the count from now on.
    counts: Vec<Outgoing>,
    moved: u64,
}

fn script(
    plan: &Move,
    found: Found,
    settings: &Settings,
    codec: &Codec,
    now: Timestamp,
) -> anyhow::Result<Script> {
    let record = |partition: i32, key: Vec<u8>, value: Option<Vec<u8>>| Outgoing {
        topic: plan.to.as_str().into(),
        partition: Some(partition),
        key: Some(key),
        value,
        headers: Vec::new(),
    };
    let (mut writes, mut tombstones, mut moved) = (Vec::new(), Vec::new(), 0);
    let (mut begun, mut counts) = (Vec::new(), Vec::new());
    let mut lost: Option<Timestamp> = None;
    // An interrupted run left an entry in both places: the newest version is the one that counts.
    let mut newest: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
    for ((key, _), (_, entry)) in &found {
        let version = newest.entry(key.clone()).or_insert(entry.version);
        *version = (*version).max(entry.version);
    }
    for ((key, partition), (bytes, entry)) in found {
        match entry.kind {
            EntryKind::Intent | EntryKind::Outcome => {
                let Some(belongs) = sink::partition_of(
                    entry.return_no.as_bytes(),
                    plan.partitions,
                    settings.commands.partitioner,
                ) else {
                    continue;
                };
                let elsewhere = !plan.in_place || partition != belongs;
                if elsewhere && newest.get(&key) == Some(&entry.version) {
                    writes.push(record(belongs, key.clone(), Some(bytes)));
                    moved += 1;
                }
                if plan.in_place && partition != belongs {
                    tombstones.push(record(partition, key, None));
                }
            }
            EntryKind::Barrier if sink::declares_lost(&entry) => {
                lost = lost.max(Some(entry.written_at))
            }
            EntryKind::Barrier => {}
        }
    }
    for partition in 0..plan.partitions {
        if let Some(at) = lost {
            let (key, entry) = sink::lost_entry(partition, at);
            writes.push(record(partition, key, Some(codec.encode_journal(&entry)?)));
        }
        for (records, count) in [(&mut begun, 0), (&mut counts, plan.partitions)] {
            let (key, entry) =
                sink::count_entry(partition, count, settings.commands.partitioner, now);
            records.push(record(partition, key, Some(codec.encode_journal(&entry)?)));
        }
    }
    Ok(Script { begun, writes, tombstones, counts, moved })
}

async fn rewrite(
    settings: &Settings,
    codec: &Codec,
    plan: &Move,
    found: Found,
) -> anyhow::Result<u64> {
    let Script { begun, writes, tombstones, counts, moved } =
        script(plan, found, settings, codec, Timestamp::now())?;
    let sender = Sender::connect(&settings.kafka, settings.commands.partitioner)?;
    // Nothing is taken away before everything stands where it belongs.
    for records in [begun, writes, tombstones, counts] {
        for some in records.chunks(AHEAD) {
            let queued = some
                .iter()
                .map(|record| sender.queue_whole(record))
                .collect::<Result<Vec<_>, _>>()?;
            for delivery in queued {
                delivery.await?;
            }
        }
    }
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        crate::config::from_toml("", std::iter::empty()).unwrap().settings
    }

    fn outcome(return_no: &str, version: i64) -> JournalEntry {
        let (_, bare) = sink::lost_entry(0, Timestamp(0));
        JournalEntry { kind: EntryKind::Outcome, return_no: return_no.into(), version, ..bare }
    }

    fn plan(in_place: bool, partitions: i32) -> Move {
        Move { commands: "c".into(), from: "j".into(), to: "j2".into(), partitions, in_place }
    }

    /// Partition and key.
    type Place = (i32, Vec<u8>);

    fn made(plan: &Move, found: Found) -> (Vec<Place>, Vec<Place>, u64) {
        let Script { begun, writes, tombstones, counts, moved } =
            script(plan, found, &settings(), &Codec::single_object(), Timestamp(9)).unwrap();
        assert_eq!(
            (begun.len(), counts.len()),
            (plan.partitions.unsigned_abs() as usize, plan.partitions.unsigned_abs() as usize)
        );
        let places = |records: Vec<Outgoing>| {
            records
                .into_iter()
                .map(|record| (record.partition.unwrap(), record.key.unwrap()))
                .collect::<Vec<_>>()
        };
        assert!(
            tombstones.iter().all(|record| record.value.is_none())
                && writes.iter().all(|record| record.value.is_some())
        );
        let commands = |places: Vec<(i32, Vec<u8>)>| {
            places.into_iter().filter(|(_, key)| !key.starts_with(b"[\"#")).collect()
        };
        (commands(places(writes)), places(tombstones), moved)
    }

    #[test]
    fn entries_move_to_the_partition_of_their_command_and_only_those() {
        let found: Found = (0..50)
            .map(|number| {
                let return_no = format!("R{number}");
                let old =
                    sink::partition_of(return_no.as_bytes(), 4, settings().commands.partitioner)
                        .unwrap();
                ((sink::journal_key(&return_no, "c"), old), (vec![1], outcome(&return_no, 2)))
            })
            .collect();
        let (writes, tombstones, moved) = made(&plan(true, 6), found.clone());
        assert_eq!(u64::try_from(writes.len()).unwrap(), moved);
        assert!(moved > 10 && writes.len() < 50 && tombstones.len() == writes.len(), "{moved}");
        for number in 0..50 {
            let return_no = format!("R{number}");
            let at = |count| {
                sink::partition_of(return_no.as_bytes(), count, settings().commands.partitioner)
                    .unwrap()
            };
            let key = sink::journal_key(&return_no, "c");
            assert_eq!(writes.contains(&(at(6), key.clone())), at(4) != at(6), "{return_no}");
            assert_eq!(tombstones.contains(&(at(4), key)), at(4) != at(6), "{return_no}");
        }
        // Into another topic everything is written and nothing taken away.
        let (writes, tombstones, _) = made(&plan(false, 2), found);
        assert_eq!((writes.len(), tombstones.len()), (50, 0));
    }

    #[test]
    fn an_interrupted_run_is_finished_with_the_newest_version() {
        let key = sink::journal_key("R1", "c");
        let belongs = sink::partition_of(b"R1", 6, settings().commands.partitioner).unwrap();
        let other = (belongs + 1) % 6;
        let both = |old, new| {
            Found::from([
                ((key.clone(), other), (vec![1], outcome("R1", old))),
                ((key.clone(), belongs), (vec![2], outcome("R1", new))),
            ])
        };
        assert_eq!(
            made(&plan(true, 6), both(2, 3)),
            (vec![], vec![(other, key.clone())], 0),
            "the newer one stands where it belongs"
        );
        let (writes, tombstones, _) = made(&plan(true, 6), both(2, 2));
        assert_eq!(
            (writes, tombstones),
            (vec![(belongs, key.clone())], vec![(other, key.clone())]),
            "the same again changes nothing"
        );
    }
}
