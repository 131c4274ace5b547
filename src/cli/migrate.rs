//! `topics repartition`: another number of partitions for commands and journal.
//!
//! An entry of the journal stands in the partition of its command, so more partitions mean that
//! entries move. The order makes it safe to be interrupted at any point and run again. Every
//! partition of the journal says that it is being migrated (from then on every instance refuses to
//! run, whatever the counts are), and only then it is read: nobody writes it any more. The journal
//! grows, entries are written where they belong and only then taken away where they were, then every
//! partition says the new count, and the commands topic grows last, so that senders find the journal
//! prepared.
//!
//! The journal is read for where entries stand, and again for each round of changes: about 100 bytes
//! a command are held in memory, never the entries.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use anyhow::bail;
use tokio::time::Instant;

use crate::{
    clock::Timestamp,
    config::Settings,
    crash::{Point, point},
    kafka::{
        Outgoing,
        admin::Admin,
        scan::{From, Scan},
        tool::Sender,
    },
    schema::{Codec, EntryKind, JournalEntry, Subject},
    sink,
};

use super::{
    End,
    memory::{self, Digest, Entry, Known},
    output,
    topics::PATIENCE,
};

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

/// How long a stopped static member may still be in the group: its session. An open transaction is
/// over sooner.
const LAST_SESSION: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_secs(1);
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

/// Where a command's newest entry stands in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    offset: i64,
    open: bool,
}

/// What is known of a journal.
#[derive(Debug, Default)]
struct Survey {
    places: Known<Place>,
    /// By partition, the number of partitions it says there are.
    counts: BTreeMap<i32, i32>,
    /// When the journal was last declared lost.
    lost: Option<Timestamp>,
}

impl Survey {
    fn open(&self) -> usize {
        self.places.values().filter(|(_, place)| place.open).count()
    }

    /// The newest version of a command's entry. An interrupted run left it in two partitions.
    fn newest(&self, key: Digest) -> Option<i64> {
        let places = self.places.range((key, i32::MIN)..=(key, i32::MAX));
        places.map(|(_, (version, _))| *version).max()
    }
}

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
    let codec = Arc::new(
        Codec::connect(settings.schema_registry.as_ref(), topics, &[Subject::Journal]).await?,
    );
    let found = survey(settings, &plan.from).await?;
    // With these counts no instance runs, so nothing more can be drained or settled.
    let refused = plan.in_place
        && (commands != journal || found.counts.values().any(|count| *count != commands));
    drained(settings, &plan, refused).await?;
    settled(found.open(), refused)?;
    drop(found);
    point(Point::RepartitionLooked);

    let partitions = plan.partitions;
    let mut work = Work {
        settings,
        sender: Sender::connect(&settings.kafka, settings.commands.partitioner)?,
        codec,
        plan,
    };
    let written = work.ends().await?;
    work.close(journal).await?;
    point(Point::RepartitionClosed);
    let mut found = survey(settings, &work.plan.from).await?;
    settled(found.open(), work.plan.in_place)?;
    if work.plan.in_place {
        if journal < partitions {
            admin.grow(&topics.journal, partitions).await?;
            // The earlier client does not know them yet.
            work.sender = Sender::connect(&settings.kafka, settings.commands.partitioner)?;
        }
    } else {
        // What the new journal has learnt since an earlier run is not overwritten with what the old
        // one knew.
        let known = survey(settings, &work.plan.to).await?;
        found.places.retain(|(key, _), (version, _)| known.newest(*key) < Some(*version));
    }
    point(Point::RepartitionRead);
    work.say_count(0, partitions).await?;
    let moved = work.change(&found, |record, place| work.written(&found, record, place)).await?;
    if let Some(at) = found.lost {
        work.say(partitions, |partition| sink::lost_entry(partition, at)).await?;
    }
    point(Point::RepartitionWritten);
    if work.plan.in_place {
        work.change(&found, |record, _| work.removed(record)).await?;
    } else if work.ends().await? != written {
        bail!(
            "{} was written while it was read; stop every instance, and run this again with the same arguments",
            work.plan.from
        );
    }
    point(Point::RepartitionRemoved);
    work.say_count(partitions, partitions).await?;
    point(Point::RepartitionCounted);
    if work.plan.in_place && commands < partitions {
        admin.grow(&topics.commands, partitions).await?;
    }
    let _ = output::say(&format!(
        "{} and {} have {partitions} partitions; {moved} entries moved; start the connector again",
        topics.commands, work.plan.to
    ));
    Ok(End::Done)
}

/// No command is open; `forced`: no instance runs that could settle it, and its entry may move.
fn settled(open: usize, forced: bool) -> anyhow::Result<()> {
    if open > 0 && !forced {
        bail!(
            "{open} commands are still open; start the connector with the commands.partitioner they were begun under, let them settle, and try again once `commands list --open` is empty"
        );
    }
    if open > 0 {
        output::complain(&format!(
            "{open} commands are still open; where their partition changes they are forwarded to the right one, where the ERP is asked about them before anything is called; one that was forwarded before is INVALID, and `dlq redrive` sends it to the right one"
        ));
    }
    Ok(())
}

/// Waits until no instance runs: nobody writes the journal meanwhile. Whether it was so at once.
async fn stopped(settings: &Settings) -> anyhow::Result<bool> {
    let deadline = Instant::now() + LAST_SESSION;
    let mut said = false;
    loop {
        let kafka = settings.kafka.clone();
        let members =
            tokio::task::spawn_blocking(move || Scan::members(&kafka, sink::ROLE)).await??;
        if members == 0 {
            return Ok(!said);
        }
        if Instant::now() >= deadline {
            bail!("{members} instances are running; stop them all first");
        }
        if !said {
            output::complain(&format!(
                "{members} of the group's instances are running, or their sessions have not ended; stop them all: it goes on when the group is empty"
            ));
            said = true;
        }
        tokio::time::sleep(PAUSE).await;
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

/// Reads a journal.
async fn survey(settings: &Settings, journal: &str) -> anyhow::Result<Survey> {
    let codec = memory::codec(settings).await?;
    let mut found = Survey::default();
    let reading = memory::entries(settings, &codec, journal, None, From::Beginning);
    found.places = memory::known(reading, |record, entry| {
        if let Some(count) = entry.partitions {
            found.counts.insert(record.partition, count);
        }
        if sink::declares_lost(entry) {
            found.lost = found.lost.max(Some(entry.written_at));
        }
        Some(Place { offset: record.offset, open: entry.kind == EntryKind::Intent })
    })
    .await?;
    Ok(found)
}

/// The changes of the journal.
struct Work<'a> {
    settings: &'a Settings,
    sender: Sender,
    codec: Arc<Codec>,
    plan: Move,
}

impl Work<'_> {
    fn record(&self, partition: i32, key: Vec<u8>, value: Option<Vec<u8>>) -> Outgoing {
        Outgoing {
            topic: self.plan.to.as_str().into(),
            partition: Some(partition),
            key: Some(key),
            value,
            headers: Vec::new(),
        }
    }

    /// Where the journal that is read ends.
    async fn ends(&self) -> anyhow::Result<BTreeMap<i32, i64>> {
        let (kafka, topic) = (self.settings.kafka.clone(), self.plan.from.clone());
        Ok(tokio::task::spawn_blocking(move || Scan::ends(&kafka, &topic)).await??)
    }

    /// Says in every of these partitions that the journal is being migrated, until no instance runs
    /// that did not hear it, and whatever was written before can be read.
    async fn close(&self, partitions: i32) -> anyhow::Result<()> {
        let mut said = self.say_count(0, partitions).await?;
        // One that ran took its partitions over before, and may have written over what was said.
        while !stopped(self.settings).await? {
            said = self.say_count(0, partitions).await?;
        }
        let deadline = Instant::now() + LAST_SESSION;
        loop {
            let from = memory::around(said.iter().copied());
            let seen =
                memory::collect(self.settings, &self.plan.to, None, from, |_| Some(())).await?;
            if seen.len() >= said.len() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!(
                    "a transaction of {} is still open and holds back what follows it; run this again once its time is over, see kafka-transactions.sh",
                    self.plan.to
                );
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Says in so many partitions what their number is; 0: they are being migrated. Where it is said.
    async fn say_count(&self, count: i32, partitions: i32) -> anyhow::Result<Vec<(i32, i64)>> {
        let by = self.settings.commands.partitioner;
        let entry = |partition| sink::count_entry(partition, count, by, Timestamp::now());
        self.say(partitions, entry).await
    }

    /// Writes one entry into each of so many partitions; where they stand.
    async fn say(
        &self,
        partitions: i32,
        entry: impl Fn(i32) -> (Vec<u8>, JournalEntry),
    ) -> anyhow::Result<Vec<(i32, i64)>> {
        let mut queued = Vec::new();
        for partition in 0..partitions {
            let (key, entry) = entry(partition);
            let value = Some(self.codec.encode_journal(&entry)?);
            queued.push(self.sender.queue_whole(&self.record(partition, key, value))?);
        }
        Ok(futures_util::future::try_join_all(queued).await?)
    }

    /// Writes what `make` makes of every command's newest entry in each partition; how much that was.
    async fn change(
        &self,
        found: &Survey,
        make: impl Fn(Entry, (i64, Place)) -> Option<Outgoing>,
    ) -> anyhow::Result<u64> {
        let from = From::Beginning;
        let mut reading = memory::entries(self.settings, &self.codec, &self.plan.from, None, from);
        let (mut queued, mut changed) = (VecDeque::new(), 0);
        while let Some(record) = reading.next().await? {
            let place = found.places.get(&(memory::digest(&record.key), record.partition)).copied();
            let newest = place.filter(|(_, place)| place.offset == record.offset);
            let Some(change) = newest.and_then(|place| make(record, place)) else { continue };
            if queued.len() == AHEAD
                && let Some(delivery) = queued.pop_front()
            {
                delivery.await?;
            }
            queued.push_back(self.sender.queue_whole(&change)?);
            changed += 1;
        }
        for delivery in queued {
            delivery.await?;
        }
        Ok(changed)
    }

    fn belongs(&self, entry: &JournalEntry) -> Option<i32> {
        let by = self.settings.commands.partitioner;
        sink::partition_of(entry.return_no.as_bytes(), self.plan.partitions, by)
    }

    /// The entry where it belongs, unless that or a newer one stands there.
    fn written(
        &self,
        found: &Survey,
        record: Entry,
        (version, _): (i64, Place),
    ) -> Option<Outgoing> {
        let (bytes, entry) = record.value?;
        let belongs = self.belongs(&entry)?;
        let elsewhere = !self.plan.in_place || record.partition != belongs;
        (elsewhere && found.newest(memory::digest(&record.key)) == Some(version))
            .then(|| self.record(belongs, record.key, Some(bytes)))
    }

    /// Nothing any more where it does not belong.
    fn removed(&self, record: Entry) -> Option<Outgoing> {
        let (_, entry) = record.value?;
        (self.belongs(&entry)? != record.partition)
            .then(|| self.record(record.partition, record.key, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(return_no: &str, version: i64) -> JournalEntry {
        let (_, bare) = sink::lost_entry(0, Timestamp(0));
        JournalEntry { kind: EntryKind::Outcome, return_no: return_no.into(), version, ..bare }
    }

    /// Partition and key.
    type Place = (i32, Vec<u8>);

    /// What is written and what is taken away; `found`: return number, partition and version.
    fn made(
        in_place: bool,
        partitions: i32,
        found: &[(&str, i32, i64)],
    ) -> (Vec<Place>, Vec<Place>) {
        let settings = crate::config::from_toml("", std::iter::empty()).unwrap().settings;
        let plan =
            Move { commands: "c".into(), from: "j".into(), to: "j2".into(), partitions, in_place };
        let sender = Sender::connect(&settings.kafka, settings.commands.partitioner).unwrap();
        let codec = Arc::new(Codec::single_object());
        let work = Work { settings: &settings, sender, codec, plan };
        let record = |(return_no, partition, version): &(&str, i32, i64)| Entry {
            partition: *partition,
            offset: 0,
            key: sink::journal_key(return_no, "c"),
            value: Some((vec![1], outcome(return_no, *version))),
        };
        let place = super::Place { offset: 0, open: false };
        let mut survey = Survey::default();
        for one in found {
            let key = memory::digest(&record(one).key);
            survey.places.insert((key, one.1), (one.2, place));
        }
        let places = |records: Vec<Outgoing>, valued: bool| {
            assert!(records.iter().all(|record| record.value.is_some() == valued));
            let place = |record: Outgoing| (record.partition.unwrap(), record.key.unwrap());
            records.into_iter().map(place).collect()
        };
        let writes =
            found.iter().filter_map(|one| work.written(&survey, record(one), (one.2, place)));
        let removals = found.iter().filter_map(|one| work.removed(record(one)));
        (places(writes.collect(), true), places(removals.collect(), false))
    }

    fn belongs(return_no: &str, partitions: i32) -> i32 {
        let by = crate::config::Partitioner::Murmur2;
        sink::partition_of(return_no.as_bytes(), partitions, by).unwrap()
    }

    #[test]
    fn entries_move_to_the_partition_of_their_command_and_only_those() {
        let names: Vec<String> = (0..50).map(|number| format!("R{number}")).collect();
        let found: Vec<_> = names.iter().map(|name| (name.as_str(), belongs(name, 4), 2)).collect();
        let (writes, removals) = made(true, 6, &found);
        assert!(writes.len() > 10 && writes.len() < 50 && removals.len() == writes.len());
        for name in &names {
            let key = sink::journal_key(name, "c");
            let (old, new) = (belongs(name, 4), belongs(name, 6));
            assert_eq!(writes.contains(&(new, key.clone())), old != new, "{name}");
            assert_eq!(removals.contains(&(old, key)), old != new, "{name}");
        }
        // Into another topic everything is written; nothing is taken away there.
        assert_eq!(made(false, 2, &found).0.len(), 50);
    }

    #[test]
    fn an_interrupted_run_is_finished_with_the_newest_version() {
        let key = sink::journal_key("R1", "c");
        let right = belongs("R1", 6);
        let other = (right + 1) % 6;
        let both = |old, new| made(true, 6, &[("R1", other, old), ("R1", right, new)]);
        assert_eq!(
            both(2, 3),
            (vec![], vec![(other, key.clone())]),
            "the newer one stands where it belongs"
        );
        assert_eq!(
            both(2, 2),
            (vec![(right, key.clone())], vec![(other, key)]),
            "the same again changes nothing"
        );
    }
}
