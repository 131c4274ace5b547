//! Commands that stand in another partition than `commands.partitioner` gives their key: what is
//! written to their right one, and what is said of their senders. Pure, but for the log.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::{
    clock::{Moment, Timestamp},
    config::Partitioner,
    kafka::{Delivered, Outgoing},
    text::shortened,
};

use super::{
    letter::{FIRST_SENT, number},
    settle::Names,
    validate::partition_of,
};

/// The header of a record that was forwarded: `topic:partition:offset` of where its sender wrote
/// it. A record is forwarded once.
pub(crate) const FORWARDED: &str = "wdt-forwarded";

/// So many records that one other partitioner explains are no accident: a partition chosen at
/// random is that partitioner's as well now and then.
const EXPLAINED: u64 = 3;
/// Until a topic that denied the right to write to it is tried again: each try costs an aborted
/// transaction.
const DENIED_FOR: std::time::Duration = std::time::Duration::from_secs(10);
/// Characters of a header that are repeated in an answer.
const MOST_HEADER: usize = 100;

/// Whether the record is a copy that an instance wrote to its key's partition.
#[must_use]
pub(super) fn is_forwarded(record: &Delivered) -> bool {
    record.headers.iter().any(|(name, _)| name == FORWARDED)
}

/// The same record for its right partition: key, value and headers byte for byte, and where and
/// when (`sent`) it was sent first.
#[must_use]
pub(super) fn forwarded(
    names: &Names,
    record: &Delivered,
    to: i32,
    sent: Option<Timestamp>,
) -> Outgoing {
    let mut headers = record.headers.clone();
    if let Some(sent) = sent.filter(|sent| number(&record.headers, FIRST_SENT) != Some(sent.0)) {
        headers.push((FIRST_SENT.to_owned(), Some(sent.0.to_string().into_bytes())));
    }
    let from = format!("{}:{}:{}", names.commands, record.lease.partition, record.offset);
    headers.push((FORWARDED.to_owned(), Some(from.into_bytes())));
    Outgoing {
        topic: Arc::clone(&names.commands),
        partition: Some(to),
        key: record.key.clone(),
        value: record.value.clone(),
        headers,
    }
}

/// What is known of misplaced records: how many there were by what explains their partition, and
/// whether they may be forwarded.
#[derive(Debug, Default)]
pub(super) struct Misplacements {
    /// In the partition that the partitioner which is not configured gives their key.
    other: u64,
    /// In the partition that neither gives it.
    neither: u64,
    denied_at: Option<Moment>,
}

impl Misplacements {
    /// A misplaced record is about to be forwarded. Says so once for each pattern of senders in
    /// this process.
    pub(super) fn seen(
        &mut self,
        topic: &str,
        key: &str,
        partition: i32,
        partitions: i32,
        configured: Partitioner,
    ) {
        static OTHER: AtomicBool = AtomicBool::new(false);
        static NEITHER: AtomicBool = AtomicBool::new(false);
        let said = if explains(key, partition, partitions, configured) {
            self.other += 1;
            if self.other < EXPLAINED {
                return;
            }
            &OTHER
        } else {
            self.neither += 1;
            &NEITHER
        };
        if said.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some(advice) = self.advice(partitions, configured) {
            tracing::warn!(
                kafka.topic = topic,
                forwarded = self.other + self.neither,
                %advice,
                "commands found outside their key's partition; forwarding them"
            );
        }
    }

    /// What sender or operator can do so that nothing has to be forwarded; `None` while there is
    /// nothing to be said.
    #[must_use]
    pub(super) fn advice(&self, partitions: i32, configured: Partitioner) -> Option<String> {
        let other = other(configured)?;
        if self.neither > 0 {
            return Some(format!(
                "neither murmur2 nor crc32 explains the partitions of {} records: have the senders choose partitions as commands.partitioner = \"{}\" says ({})",
                self.neither,
                configured.name(),
                setting(configured)
            ));
        }
        (self.other >= EXPLAINED).then(|| {
            format!(
                "the senders use {}, not commands.partitioner = \"{}\": have them use that ({}), or stop every instance, set commands.partitioner = \"{}\" and run `wdt-connector topics repartition --partitions {partitions}`",
                other.name(),
                configured.name(),
                setting(configured),
                other.name()
            )
        })
    }

    /// The connector may not write to the commands topic.
    pub(super) fn denied(&mut self, now: Moment) {
        self.denied_at = Some(now);
    }

    /// Why a misplaced record is not forwarded; `None` where it is.
    #[must_use]
    pub(super) fn refusal(
        &self,
        record: &Delivered,
        configured: Partitioner,
        now: Moment,
    ) -> Option<String> {
        if let Some((_, from)) = record.headers.iter().rfind(|(name, _)| name == FORWARDED) {
            let from = String::from_utf8_lossy(from.as_deref().unwrap_or_default());
            return Some(format!(
                "it was forwarded before ({FORWARDED}: {}) and is not forwarded again: the instances must agree on commands.partitioner and the partitions must stay as many",
                shortened(&from, MOST_HEADER)
            ));
        }
        self.denied_at.filter(|at| at.until(now) < DENIED_FOR).map(|_| denied(configured))
    }
}

/// Why a record stays where it is without the right to write to its topic.
#[must_use]
pub(super) fn denied(configured: Partitioner) -> String {
    format!(
        "it cannot be forwarded without Write on the commands topic: grant that to the connector, or have the sender choose partitions by {} ({})",
        configured.name(),
        setting(configured)
    )
}

/// Whether the partitioner that is not configured puts the key there.
fn explains(key: &str, partition: i32, partitions: i32, configured: Partitioner) -> bool {
    other(configured).and_then(|other| partition_of(key.as_bytes(), partitions, other))
        == Some(partition)
}

fn other(configured: Partitioner) -> Option<Partitioner> {
    match configured {
        Partitioner::Murmur2 => Some(Partitioner::Crc32),
        Partitioner::Crc32 => Some(Partitioner::Murmur2),
        Partitioner::Any => None,
    }
}

/// As `commands.partitioner` has it.
/// What senders set for it.
fn setting(partitioner: Partitioner) -> &'static str {
    match partitioner {
        Partitioner::Murmur2 => "Java clients' default, partitioner=murmur2_random with librdkafka",
        Partitioner::Crc32 => "librdkafka's default, partitioner=consistent_random",
        Partitioner::Any => "any",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Lease;
    use crate::sink::letter::first_sent;

    const PARTITIONS: i32 = 6;

    fn record(headers: &[(&str, &str)], timestamp: Option<i64>) -> Delivered {
        let header = |(name, value): &(&str, &str)| ((*name).to_owned(), Some((*value).into()));
        Delivered {
            lease: Lease { partition: 3, epoch: 1 },
            offset: 42,
            key: Some(b"R1".to_vec()),
            value: Some(b"v".to_vec()),
            left_out: None,
            unreadable_headers: 0,
            headers: headers.iter().map(header).collect(),
            timestamp,
        }
    }

    /// Keys and where `partitioner` puts them, which is not where murmur2 does.
    fn keys(partitioner: Partitioner) -> impl Iterator<Item = (String, i32)> {
        let of = |key: &str, by| partition_of(key.as_bytes(), PARTITIONS, by).unwrap();
        (0..).map(|number| format!("R{number}")).filter_map(move |key| {
            let stands = of(&key, partitioner);
            (stands != of(&key, Partitioner::Murmur2)).then_some((key, stands))
        })
    }

    fn see(misplacements: &mut Misplacements, key: &str, partition: i32) -> Option<String> {
        misplacements.seen("c", key, partition, PARTITIONS, Partitioner::Murmur2);
        misplacements.advice(PARTITIONS, Partitioner::Murmur2)
    }

    #[test]
    fn a_forwarded_record_keeps_what_it_has_and_its_age() {
        let said = |copy: &Outgoing| -> Vec<(String, String)> {
            let text = |value: &Option<Vec<u8>>| {
                String::from_utf8(value.clone().unwrap_or_default()).unwrap()
            };
            copy.headers.iter().map(|(name, value)| (name.clone(), text(value))).collect()
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let forwarded = |record: &Delivered| {
            forwarded(&Names::short(), record, 5, Some(first_sent(record).unwrap_or(Timestamp(0))))
        };
        let copy = forwarded(&record(&[("traceparent", "00-1")], Some(7000)));
        assert_eq!((&*copy.topic, copy.partition), ("c", Some(5)));
        assert_eq!(
            (copy.key.as_deref(), copy.value.as_deref()),
            (Some(&b"R1"[..]), Some(&b"v"[..]))
        );
        assert_eq!(
            said(&copy),
            [pair("traceparent", "00-1"), pair(FIRST_SENT, "7000"), pair(FORWARDED, "c:3:42")]
        );
        // What a redrive says stays, unless it makes the record younger than the log does.
        let redriven = forwarded(&record(&[(FIRST_SENT, "6000")], Some(7000)));
        assert_eq!(said(&redriven), [pair(FIRST_SENT, "6000"), pair(FORWARDED, "c:3:42")]);
        let younger = forwarded(&record(&[(FIRST_SENT, "8000")], Some(7000)));
        assert_eq!(number(&younger.headers, FIRST_SENT), Some(7000));
        let unknown = forwarded(&record(&[], None));
        assert_eq!(number(&unknown.headers, FIRST_SENT), Some(0), "it does not become young");
    }

    #[test]
    fn three_records_name_the_partitioner_that_explains_them() {
        let mut misplacements = Misplacements::default();
        let advice: Vec<_> = keys(Partitioner::Crc32)
            .take(3)
            .map(|(key, partition)| see(&mut misplacements, &key, partition))
            .collect();
        assert_eq!(advice[..2], [None, None]);
        let said = advice[2].as_deref().unwrap();
        assert!(
            said.contains("commands.partitioner = \"crc32\" and run")
                && said.contains("partitioner=murmur2_random"),
            "{said}"
        );
    }

    #[test]
    fn what_neither_explains_is_said_at_once() {
        let mut misplacements = Misplacements::default();
        let (key, stands) = keys(Partitioner::Crc32)
            .find_map(|(key, stands)| {
                let random = (stands + 1) % PARTITIONS;
                let right = partition_of(key.as_bytes(), PARTITIONS, Partitioner::Murmur2);
                (right != Some(random)).then_some((key, random))
            })
            .unwrap();
        let said = see(&mut misplacements, &key, stands).unwrap();
        assert!(said.starts_with("neither"), "{said}");
    }

    #[test]
    fn a_record_is_forwarded_once_and_not_while_that_is_denied() {
        let mut misplacements = Misplacements::default();
        let refusal = |of: &Misplacements, headers: &[(&str, &str)], at| {
            of.refusal(&record(headers, None), Partitioner::Murmur2, Moment(at))
        };
        assert_eq!(refusal(&misplacements, &[], 0), None);
        let again = refusal(&misplacements, &[(FORWARDED, "c:1:9")], 0).unwrap();
        assert!(again.contains("c:1:9"), "{again}");
        misplacements.denied(Moment(1000));
        let denied = refusal(&misplacements, &[], 10_999).unwrap();
        assert!(denied.contains("Write") && denied.contains("murmur2_random"), "{denied}");
        assert_eq!(refusal(&misplacements, &[], 11_000), None, "it is tried again");
        for sentence in [again, denied] {
            assert!(sentence.chars().count() <= 255, "it is told whole: {sentence}");
        }
    }
}
