//! Whether the senders choose partitions as `commands.partitioner` says. A topic whose first
//! records all stand elsewhere is a misconfiguration, not a thousand invalid commands: the pipeline
//! pauses and names the partitioner that would fit. Pure.

use std::{collections::BTreeMap, time::Duration};

use crate::{clock::Moment, config::Partitioner};

use super::validate::partition_of;

/// So many different keys in the wrong partition that one other partitioner explains are no
/// accident.
const EXPLAINED: usize = 3;
/// So many that none explains are none either.
const UNEXPLAINED: usize = 5;
/// Fewer keys are judged after this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is known of the senders.
#[derive(Debug, Default)]
pub(super) enum Placement {
    /// Nothing has shown yet that the configured partitioner is the senders'; what it does not
    /// explain is held back.
    #[default]
    Unknown,
    /// Keys in the wrong partition, and since when.
    Doubtful { misplaced: BTreeMap<String, i32>, since: Moment },
    /// The configured partitioner is the senders': a misplaced command is its sender's mistake.
    Fits,
    /// The configuration does not fit the senders.
    Misfit(String),
}

/// What to do with a misplaced record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Treatment {
    /// Not settled yet: the senders are being judged.
    Hold,
    /// It is invalid.
    Invalid,
}

/// Whether a key in this partition tells the configured partitioner from the other: both would put
/// many keys there.
#[must_use]
pub(super) fn tells(key: &str, partition: i32, partitions: i32, configured: Partitioner) -> bool {
    let chooses = |partitioner| partition_of(key.as_bytes(), partitions, partitioner);
    match configured {
        Partitioner::Any => true,
        Partitioner::Murmur2 => {
            chooses(configured) == Some(partition) && chooses(Partitioner::Crc32) != Some(partition)
        }
        Partitioner::Crc32 => {
            chooses(configured) == Some(partition)
                && chooses(Partitioner::Murmur2) != Some(partition)
        }
    }
}

impl Placement {
    /// Some command stands where only the configured partitioner puts it ([`tells`]), now or in the
    /// journal.
    pub(super) fn fits(&mut self) {
        if matches!(self, Self::Unknown | Self::Doubtful { .. }) {
            *self = Self::Fits;
        }
    }

    /// A record with the right key stands in the wrong partition.
    pub(super) fn misplaced(
        &mut self,
        key: &str,
        partition: i32,
        partitions: i32,
        configured: Partitioner,
        now: Moment,
    ) -> Treatment {
        match self {
            Self::Fits => return Treatment::Invalid,
            Self::Misfit(_) => return Treatment::Hold,
            Self::Unknown => {
                *self = Self::Doubtful {
                    misplaced: BTreeMap::from([(key.to_owned(), partition)]),
                    since: now,
                }
            }
            Self::Doubtful { misplaced, .. } => {
                misplaced.insert(key.to_owned(), partition);
            }
        }
        if let Self::Doubtful { misplaced, .. } = self
            && (misplaced.len() >= UNEXPLAINED
                || misplaced.len() >= EXPLAINED
                    && fitting(misplaced, partitions, configured).is_some())
        {
            *self = Self::Misfit(reason(misplaced, partitions, configured));
        }
        Treatment::Hold
    }

    /// Judges few keys once they have waited long enough: several that another partitioner explains
    /// are a misconfiguration, anything else is the senders' mistake.
    pub(super) fn due(&mut self, partitions: i32, configured: Partitioner, now: Moment) {
        if let Self::Doubtful { misplaced, since } = self
            && now >= since.plus(PATIENCE)
        {
            *self = if misplaced.len() > 1 && fitting(misplaced, partitions, configured).is_some() {
                Self::Misfit(reason(misplaced, partitions, configured))
            } else {
                Self::Fits
            };
        }
    }

    /// Why the pipeline pauses.
    #[must_use]
    pub(super) fn misfit(&self) -> Option<&str> {
        match self {
            Self::Misfit(reason) => Some(reason),
            Self::Unknown | Self::Doubtful { .. } | Self::Fits => None,
        }
    }
}

fn name(partitioner: Partitioner) -> &'static str {
    match partitioner {
        Partitioner::Murmur2 => "murmur2",
        Partitioner::Crc32 => "crc32",
        Partitioner::Any => "any",
    }
}

/// The partitioner that puts every key where it stands.
fn fitting(
    misplaced: &BTreeMap<String, i32>,
    partitions: i32,
    configured: Partitioner,
) -> Option<Partitioner> {
    [Partitioner::Murmur2, Partitioner::Crc32]
        .into_iter()
        .filter(|candidate| *candidate != configured)
        .find(|candidate| {
            misplaced.iter().all(|(key, partition)| {
                partition_of(key.as_bytes(), partitions, *candidate) == Some(*partition)
            })
        })
}

fn reason(misplaced: &BTreeMap<String, i32>, partitions: i32, configured: Partitioner) -> String {
    let advice = match fitting(misplaced, partitions, configured) {
        Some(fits) => format!("{} would fit: set commands.partitioner = \"{}\" and start again", name(fits), name(fits)),
        None => "neither murmur2 nor crc32 would fit, so the senders choose partitions in some other way: have them use one of the two, or set commands.partitioner = \"any\" at your own risk".to_owned(),
    };
    format!(
        "the commands topic's first records do not stand in the partitions that commands.partitioner = \"{}\" gives their keys ({} looked at); {advice}",
        name(configured),
        misplaced.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(partitioner: Partitioner) -> impl Iterator<Item = (String, i32)> {
        (0..).map(|number| format!("R{number}")).filter_map(move |key| {
            let stands = partition_of(key.as_bytes(), 6, partitioner).unwrap();
            (Some(stands) != partition_of(key.as_bytes(), 6, Partitioner::Murmur2))
                .then_some((key, stands))
        })
    }

    fn judge(placement: &mut Placement, key: &str, partition: i32, at: u64) -> Treatment {
        placement.misplaced(key, partition, 6, Partitioner::Murmur2, Moment(at))
    }

    #[test]
    fn three_keys_in_the_wrong_place_name_the_partitioner_that_fits() {
        let mut placement = Placement::default();
        for (key, partition) in keys(Partitioner::Crc32).take(3) {
            assert!(placement.misfit().is_none());
            // The same key again says nothing new.
            for _ in 0..3 {
                assert_eq!(judge(&mut placement, &key, partition, 0), Treatment::Hold);
            }
        }
        assert!(
            placement.misfit().is_some_and(|reason| reason.contains("\"crc32\"")),
            "{placement:?}"
        );
        placement.fits();
        assert!(placement.misfit().is_some(), "nothing is taken back");
    }

    #[test]
    fn only_a_key_the_other_would_put_elsewhere_tells_them_apart() {
        let chooses =
            |key: &str, partitioner| partition_of(key.as_bytes(), 6, partitioner).unwrap();
        for key in (0..100).map(|number| format!("R{number}")) {
            let (murmur2, crc32) =
                (chooses(&key, Partitioner::Murmur2), chooses(&key, Partitioner::Crc32));
            assert_eq!(tells(&key, murmur2, 6, Partitioner::Murmur2), murmur2 != crc32);
            assert!(!tells(&key, (murmur2 + 1) % 6, 6, Partitioner::Murmur2));
        }
    }

    #[test]
    fn nothing_fits_random_partitions() {
        let mut placement = Placement::default();
        for number in 0..6 {
            let key = format!("R{number}");
            let wrong =
                (partition_of(key.as_bytes(), 6, Partitioner::Murmur2).unwrap() + 1 + number % 2)
                    % 6;
            judge(&mut placement, &key, wrong, 0);
        }
        assert!(
            placement.misfit().is_some_and(|reason| reason.contains("neither")),
            "{placement:?}"
        );
    }

    #[test]
    fn one_record_in_its_place_makes_the_others_the_senders_mistake() {
        let mut placement = Placement::default();
        let (key, partition) = keys(Partitioner::Crc32).next().unwrap();
        assert_eq!(judge(&mut placement, &key, partition, 0), Treatment::Hold);
        placement.fits();
        for (key, partition) in keys(Partitioner::Crc32).take(9) {
            assert_eq!(judge(&mut placement, &key, partition, 0), Treatment::Invalid);
        }
    }

    #[test]
    fn few_keys_are_judged_when_nothing_else_comes() {
        let mut placement = Placement::default();
        let mut wrong = keys(Partitioner::Crc32);
        let (key, partition) = wrong.next().unwrap();
        judge(&mut placement, &key, partition, 0);
        placement.due(6, Partitioner::Murmur2, Moment(9_999));
        assert!(matches!(placement, Placement::Doubtful { .. }));
        placement.due(6, Partitioner::Murmur2, Moment(10_000));
        assert!(matches!(placement, Placement::Fits), "one alone may be anything");
        let mut placement = Placement::default();
        for (key, partition) in wrong.take(2) {
            judge(&mut placement, &key, partition, 0);
        }
        placement.due(6, Partitioner::Murmur2, Moment(10_000));
        assert!(placement.misfit().is_some());
    }
}
