//! Who owns which partition in a consumer group, asked from outside.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
};

use crate::config::KafkaSettings;

use super::{
    client::{consumer_config, group_id},
    tool::ToolFault,
};

const REQUEST: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);

/// One member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// `application_id-instance-role`.
    pub client_id: String,
    pub host: String,
}

/// A group as its coordinator describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Description {
    /// `Stable`, `PreparingRebalance`, `CompletingRebalance`, `Empty`, `Dead`; empty when no
    /// coordinator knows the group.
    pub state: String,
    /// Client ids, in order.
    pub members: Vec<String>,
    /// By partition of the topic that was asked about.
    pub owners: BTreeMap<i32, Member>,
}

/// Asks for a group's description. Blocks for up to `timeout`.
///
/// # Errors
/// When a broker does not answer, or is still loading its groups.
pub(super) fn describe<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    group: &str,
    topic: &str,
    timeout: Duration,
) -> Result<Description, KafkaError> {
    let list = consumer.fetch_group_list(Some(group), timeout)?;
    let mut described = Description::default();
    for found in list.groups().iter().filter(|found| found.name() == group) {
        found.state().clone_into(&mut described.state);
        for member in found.members() {
            let who = Member {
                client_id: member.client_id().to_owned(),
                // The broker writes a slash in front of an address without a name.
                host: member.client_host().trim_start_matches('/').to_owned(),
            };
            described.members.push(who.client_id.clone());
            for partition in
                assigned(member.assignment().unwrap_or_default(), topic).unwrap_or_default()
            {
                described.owners.insert(partition, who.clone());
            }
        }
    }
    described.members.sort_unstable();
    Ok(described)
}

/// The owners of a topic's partitions in the group of `role`. Blocks: call it from a blocking task.
///
/// # Errors
/// [`ToolFault`] when no broker answers.
pub(crate) fn owners(
    kafka: &KafkaSettings,
    role: &str,
    topic: &str,
) -> Result<BTreeMap<i32, Member>, ToolFault> {
    let group = group_id(kafka, role);
    let consumer: BaseConsumer = consumer_config(kafka, "ask", &group)
        .create()
        .map_err(|error| ToolFault(format!("the Kafka client cannot be created: {error}")))?;
    let deadline = Instant::now() + PATIENCE;
    // A broker that has just started reads its groups first, and says so.
    loop {
        match describe(&consumer, &group, topic, REQUEST) {
            Ok(described) => return Ok(described.owners),
            Err(error) if Instant::now() >= deadline => {
                return Err(ToolFault(format!(
                    "the members of group {group} could not be asked for: {error}"
                )));
            }
            Err(error) => {
                tracing::debug!(
                    %error,
                    kafka.group = group,
                    "failed to list group members; retrying"
                );
                thread::sleep(PAUSE);
            }
        }
    }
}

/// The partitions of a topic in a member's assignment (Kafka's consumer protocol), which rdkafka
/// gives as bytes only; `None` for bytes that are none.
fn assigned(bytes: &[u8], topic: &str) -> Option<Vec<i32>> {
    let mut cursor = Bytes(bytes);
    cursor.take(2)?;
    let mut partitions = Vec::new();
    for _ in 0..cursor.int()? {
        let length = u16::from_be_bytes(cursor.take(2)?.try_into().ok()?);
        let name = cursor.take(usize::from(length))?;
        let ours = name == topic.as_bytes();
        for _ in 0..cursor.int()? {
            let partition = cursor.int()?;
            if ours {
                partitions.push(partition);
            }
        }
    }
    Some(partitions)
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn int(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_read() {
        let mut bytes = vec![0, 1, 0, 0, 0, 2];
        for (topic, partitions) in [("a", vec![7]), ("feeds", vec![0, 1])] {
            bytes.extend((topic.len() as u16).to_be_bytes());
            bytes.extend(topic.as_bytes());
            bytes.extend((partitions.len() as i32).to_be_bytes());
            partitions.iter().for_each(|partition: &i32| bytes.extend(partition.to_be_bytes()));
        }
        bytes.extend((-1_i32).to_be_bytes());
        assert_eq!(assigned(&bytes, "feeds"), Some(vec![0, 1]));
        assert_eq!(assigned(&bytes, "other"), Some(vec![]));
        for length in 0..bytes.len() - 4 {
            assert_eq!(assigned(&bytes[..length], "feeds"), None, "cut at {length}");
        }
    }
}
