//! The topics of one test: unique names, and the policies of `docs/architecture.md#topics`.

use std::time::Duration;

use rdkafka::{
    ClientConfig,
    admin::{
        AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, PartitionAssignment,
        ResourceSpecifier, TopicReplication,
    },
    consumer::{BaseConsumer, Consumer as _},
};

use super::{until, wait};
use crate::parts::broker;

/// The names of one connector's topics.
#[derive(Clone, Debug)]
pub struct TopicNames {
    pub commands: String,
    pub results: String,
    pub commands_dlq: String,
    pub journal: String,
    pub purchase_returns: String,
    pub return_outbounds: String,
    pub feeds_state: String,
    pub feeds_dlq: String,
    pub control: String,
}

impl TopicNames {
    /// All under one prefix.
    pub fn under(prefix: &str) -> Self {
        Self {
            commands: format!("{prefix}.commands"),
            results: format!("{prefix}.results"),
            commands_dlq: format!("{prefix}.commands.dlq"),
            journal: format!("{prefix}.journal"),
            purchase_returns: format!("{prefix}.purchase-return.changes"),
            return_outbounds: format!("{prefix}.return-outbound.changes"),
            feeds_state: format!("{prefix}.feeds.state"),
            feeds_dlq: format!("{prefix}.feeds.dlq"),
            control: format!("{prefix}.control"),
        }
    }

    /// Pairs of configuration key and name, as `[topics]` wants them.
    pub fn entries(&self) -> [(&'static str, &str); 9] {
        [
            ("commands", &self.commands),
            ("results", &self.results),
            ("commands_dlq", &self.commands_dlq),
            ("journal", &self.journal),
            ("purchase_returns", &self.purchase_returns),
            ("return_outbounds", &self.return_outbounds),
            ("feeds_state", &self.feeds_state),
            ("feeds_dlq", &self.feeds_dlq),
            ("control", &self.control),
        ]
    }

    /// Creates all of them: `partitions` for commands, journal and what else is keyed. Journal,
    /// feeds' state and control topic are compacted.
    pub fn create(&self, partitions: i32) {
        self.create_at(&broker().client(), partitions);
    }

    /// The same on another broker.
    pub fn create_at(&self, broker: &ClientConfig, partitions: i32) {
        create_at(broker, &self.wanted(partitions));
    }

    /// What [`Self::create`] creates.
    pub fn wanted(&self, partitions: i32) -> Vec<Wanted<'_>> {
        let compact = &[("cleanup.policy", "compact")][..];
        let delete = &[("cleanup.policy", "delete")][..];
        vec![
            (&self.commands, partitions, delete),
            (&self.results, partitions, delete),
            (&self.commands_dlq, partitions, delete),
            (&self.journal, partitions, compact),
            (&self.purchase_returns, partitions, delete),
            (&self.return_outbounds, partitions, delete),
            (&self.feeds_state, 2, compact),
            (&self.feeds_dlq, 2, delete),
            (&self.control, 1, compact),
        ]
    }
}

/// Name, partitions, configuration.
pub type Wanted<'a> = (&'a str, i32, &'a [(&'a str, &'a str)]);

/// Creates topics with one replica each on the shared broker and waits until its metadata show them
/// all.
pub fn create(wanted: &[Wanted<'_>]) {
    create_at(&broker().client(), wanted);
}

/// The same on another broker.
pub fn create_at(broker: &ClientConfig, wanted: &[Wanted<'_>]) {
    create_placed(broker, wanted, |_| None);
}

/// The same with the replicas of some topics placed.
pub fn create_placed<'a>(
    broker: &ClientConfig,
    wanted: &[Wanted<'_>],
    place: impl Fn(&str) -> Option<PartitionAssignment<'a>>,
) {
    let admin: AdminClient<_> = broker.create().expect("an admin client");
    let topics: Vec<NewTopic<'_>> = wanted
        .iter()
        .map(|(name, partitions, config)| {
            let replication =
                place(name).map_or(TopicReplication::Fixed(1), TopicReplication::Variable);
            config
                .iter()
                .fold(NewTopic::new(name, *partitions, replication), |topic, (key, value)| {
                    topic.set(key, value)
                })
        })
        .collect();
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    for result in wait(admin.create_topics(&topics, &options)).expect("the broker answers") {
        if let Err((topic, code)) = result {
            panic!("the topic {topic} could not be created: {code}");
        }
    }
    let client: BaseConsumer = broker.create().expect("a client");
    for (name, partitions, _) in wanted {
        until(&format!("metadata of the topic {name}"), Duration::from_secs(30), || {
            let known = client.fetch_metadata(Some(name), Duration::from_secs(5)).ok()?;
            let topic = known.topics().first()?;
            let led = topic.partitions().iter().filter(|one| one.leader() >= 0).count();
            (topic.error().is_none() && i32::try_from(led) == Ok(*partitions)).then_some(())
        });
    }
}

/// Waits until so many partitions of a topic have a leader.
pub fn wait_led(broker: &ClientConfig, topic: &str, count: usize) {
    let client: BaseConsumer = broker.create().expect("a client");
    until(&format!("{count} leaders of {topic}"), Duration::from_secs(60), || {
        let known = client.fetch_metadata(Some(topic), Duration::from_secs(5)).ok()?;
        let partitions = known.topics().first()?.partitions();
        (partitions.iter().filter(|one| one.leader() >= 0).count() == count).then_some(())
    });
}

/// Gives a topic more partitions and waits until they are there.
pub fn grow(topic: &str, count: usize) {
    let grown = wait(
        broker()
            .admin()
            .create_partitions([&NewPartitions::new(topic, count)], &AdminOptions::new()),
    );
    assert!(grown.expect("the broker answers").iter().all(Result::is_ok));
    until(&format!("{count} partitions of {topic}"), Duration::from_secs(30), || {
        (partitions(topic).and_then(|found| usize::try_from(found).ok()) == Some(count))
            .then_some(())
    });
}

/// Gives a topic on another broker than the shared one more partitions, the new ones on the brokers
/// of `placed`, and waits until they have leaders.
pub fn grow_at(broker: &ClientConfig, topic: &str, count: usize, placed: PartitionAssignment<'_>) {
    let admin: AdminClient<_> = broker.create().expect("an admin client");
    let partitions = NewPartitions::new(topic, count).assign(placed);
    let grown = wait(admin.create_partitions([&partitions], &AdminOptions::new()));
    assert!(grown.expect("the broker answers").iter().all(Result::is_ok));
    wait_led(broker, topic, count);
}

/// Sets options of a topic that exists.
pub fn alter(topic: &str, options: &[(&str, &str)]) {
    let resource = options
        .iter()
        .fold(AlterConfig::new(ResourceSpecifier::Topic(topic)), |config, (key, value)| {
            config.set(key, value)
        });
    let altered = wait(broker().admin().alter_configs([&resource], &AdminOptions::new()))
        .expect("the broker answers");
    assert!(altered.iter().all(Result::is_ok), "{altered:?}");
}

/// Deletes a topic and waits until it is gone.
pub fn delete(topic: &str) {
    let deleted = wait(broker().admin().delete_topics(&[topic], &AdminOptions::new()))
        .expect("the broker answers");
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    until(&format!("the end of {topic}"), Duration::from_secs(30), || {
        partitions(topic).is_none().then_some(())
    });
}

/// How many partitions a topic has; `None` when it does not exist.
pub fn partitions(topic: &str) -> Option<i32> {
    let client: BaseConsumer = broker().client().create().expect("a client");
    let known =
        client.fetch_metadata(Some(topic), Duration::from_secs(10)).expect("the broker answers");
    let found = known.topics().first()?;
    if found.error().is_some() || found.partitions().is_empty() {
        return None;
    }
    i32::try_from(found.partitions().len()).ok()
}

/// A configuration value of a topic as the broker sees it, `cleanup.policy` for example.
pub fn config_of(topic: &str, key: &str) -> Option<String> {
    let admin = broker().admin();
    let asked = [ResourceSpecifier::Topic(topic)];
    let answers =
        wait(admin.describe_configs(&asked, &AdminOptions::new())).expect("the broker answers");
    let resource = answers.into_iter().next()?.ok()?;
    resource.get(key).and_then(|entry| entry.value.clone())
}
