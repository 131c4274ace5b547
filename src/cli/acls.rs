//! The rights the connector needs on Kafka, no more: printed by `check --acls`, tried one by one by
//! `check`.

use crate::{
    config::{Feed, KafkaSettings, Partitioner, Settings, Topics},
    kafka::rights::{Operation, Resource},
    sink,
};

use super::{End, output};

/// The change pipeline's role in group, client and transactional ids.
const FEEDS: &str = "feeds";

/// One right and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Right {
    pub(super) operation: Operation,
    pub(super) resource: Resource,
    pub(super) why: &'static str,
}

/// A topic, a group or ids with the operations needed, in the order of the walk of a command and of
/// a change.
struct Wanted<'a>(&'a mut Vec<Right>);

impl Wanted<'_> {
    fn add(&mut self, resource: &Resource, operations: &[(Operation, &'static str)]) {
        for (operation, why) in operations {
            let known = self
                .0
                .iter()
                .any(|right| right.operation == *operation && right.resource == *resource);
            if !known {
                self.0.push(Right { operation: *operation, resource: resource.clone(), why });
            }
        }
    }

    fn topic(&mut self, name: &str, operations: &[(Operation, &'static str)]) {
        let topic = Resource::Topic(name.to_owned());
        self.add(&topic, operations);
        self.add(&topic, &[(Operation::DescribeConfigs, "check verifies its options")]);
    }

    fn role(
        &mut self,
        kafka: &KafkaSettings,
        role: &str,
        group: &'static str,
        producer: &'static str,
    ) {
        let name = format!("{}.{role}", kafka.application_id);
        self.add(&Resource::TransactionalIds(format!("{name}.")), &[(Operation::Write, producer)]);
        self.add(&Resource::Group(name), &[(Operation::Read, group)]);
    }
}

/// Every right that `run` and `check` need for the enabled pipelines; of both when none is enabled
/// yet.
pub(super) fn needed(settings: &Settings) -> Vec<Right> {
    use Operation::{Read, Write};
    let feeds: Vec<Feed> =
        Feed::ALL.into_iter().filter(|feed| settings.feed(*feed).enabled).collect();
    let none = !settings.commands.enabled && feeds.is_empty();
    let topics = &settings.topics;
    let mut rights = Vec::new();
    let mut wanted = Wanted(&mut rights);
    wanted.topic(
        &topics.control,
        &[
            (Read, "what is paused for all instances"),
            (Write, "pausing and resuming at the listener; tombstones of decisions"),
        ],
    );
    if settings.commands.enabled || none {
        wanted.topic(&topics.commands, &[(Read, "commands are read, and their offsets committed")]);
        match settings.commands.partitioner {
            Partitioner::Murmur2 | Partitioner::Crc32 => wanted.topic(
                &topics.commands,
                &[(Write, "commands in another partition than their key's are forwarded")],
            ),
            Partitioner::Any => {}
        }
        wanted.topic(
            &topics.journal,
            &[
                (Write, "intents and outcomes are written"),
                (Read, "it is restored when a partition is taken over"),
            ],
        );
        wanted.topic(&topics.results, &[(Write, "results are written")]);
        wanted.topic(&topics.commands_dlq, &[(Write, "what cannot be carried out is written")]);
        wanted.role(
            &settings.kafka,
            sink::ROLE,
            "instances share the partitions of the commands",
            "results and offsets are one transaction",
        );
    }
    if !feeds.is_empty() || none {
        wanted.topic(
            &topics.feeds_state,
            &[(Write, "versions and checkpoints are written"), (Read, "they are restored")],
        );
        for feed in Feed::ALL.into_iter().filter(|feed| none || feeds.contains(feed)) {
            let name = match feed {
                Feed::PurchaseReturns => &topics.purchase_returns,
                Feed::ReturnOutbounds => &topics.return_outbounds,
            };
            wanted.topic(name, &[(Write, "change events are written")]);
        }
        wanted.topic(&topics.feeds_dlq, &[(Write, "records that do not fit are written")]);
        wanted.role(
            &settings.kafka,
            FEEDS,
            "instances share the feeds",
            "events and state are one transaction",
        );
    }
    rights
}

/// Whether any of the rights is about this topic.
pub(super) fn concerns(rights: &[Right], topic: &str) -> bool {
    rights.iter().any(|right| matches!(&right.resource, Resource::Topic(name) if name == topic))
}

/// The topic a group's offsets belong to.
pub(super) fn topic_of(settings: &Settings, resource: &Resource) -> String {
    let feeds = format!("{}.{FEEDS}", settings.kafka.application_id);
    match resource {
        Resource::Topic(name) => name.clone(),
        Resource::Group(name) | Resource::TransactionalIds(name) if name.starts_with(&feeds) => {
            settings.topics.feeds_state.clone()
        }
        Resource::Group(_) | Resource::TransactionalIds(_) => settings.topics.commands.clone(),
    }
}

/// The `kafka-acls` command that grants one right.
pub(super) fn command(kafka: &KafkaSettings, right: &Right) -> String {
    grant(kafka, &right.resource, &[right.operation])
}

/// Prints them: a table as comments, then the commands that grant them, so that the output can be
/// run as it is.
pub(super) fn print(settings: &Settings) -> End {
    let (rights, topics) = (needed(settings), &settings.topics);
    let mut lines = vec![
        format!("# What {} needs on Kafka, and nothing else:", settings.kafka.application_id),
        "#".to_owned(),
    ];
    for right in &rights {
        lines.push(format!(
            "#   {:15}  {:60}  {}",
            right.operation.name(),
            right.resource.to_string(),
            right.why
        ));
    }
    lines.push("#".to_owned());
    lines.extend(others(topics));
    lines.extend(commands(settings, &rights));
    // A reader that has seen enough ends the list, not the verb.
    let _ = lines.iter().try_for_each(|line| output::say(line));
    End::Done
}

/// What other accounts need, as comments: who decides is who may write to the control topic.
fn others(topics: &Topics) -> Vec<String> {
    let (commands, control) = (&topics.commands, &topics.control);
    vec![
        "# Other accounts:".to_owned(),
        format!("#   senders (`send`): Write on topic {commands} and on nothing else. No prefix that {control} or {} begins with.", topics.journal),
        format!("#   operators (`commands resolve`, `pause`, `feeds`, `backfill`): Write on topic {control}. Whoever has it decides about commands in doubt."),
        "#   `tail`, `commands`, `dlq`: Read on what they show. `topics`: Create on the topics it makes.".to_owned(),
    ]
}

/// One `kafka-acls` command per resource.
fn commands(settings: &Settings, rights: &[Right]) -> Vec<String> {
    let mut resources: Vec<&Resource> = Vec::new();
    for right in rights {
        if !resources.contains(&&right.resource) {
            resources.push(&right.resource);
        }
    }
    resources
        .into_iter()
        .map(|resource| {
            let operations: Vec<Operation> = rights
                .iter()
                .filter(|right| right.resource == *resource)
                .map(|right| right.operation)
                .collect();
            grant(&settings.kafka, resource, &operations)
        })
        .collect()
}

fn grant(kafka: &KafkaSettings, resource: &Resource, operations: &[Operation]) -> String {
    let principal = kafka.properties.get("sasl.username").map_or("NAME", String::as_str);
    let operations: String =
        operations.iter().map(|operation| format!(" --operation {}", operation.name())).collect();
    let target = match resource {
        Resource::Topic(name) => format!("--topic {}", quoted(name)),
        Resource::Group(name) => format!("--group {}", quoted(name)),
        Resource::TransactionalIds(prefix) => {
            format!("--transactional-id {} --resource-pattern-type prefixed", quoted(prefix))
        }
    };
    format!(
        "kafka-acls --bootstrap-server {} --command-config admin.properties --add --allow-principal {}{operations} {target}",
        kafka.bootstrap_servers,
        quoted(&format!("User:{principal}"))
    )
}

/// For a shell: a user's name may hold anything.
fn quoted(text: &str) -> String {
    let plain = |ch: char| ch.is_ascii_alphanumeric() || matches!(ch, '.' | '_' | '-' | ':');
    if text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        let env = [("WDT__ERP__FLAGSHIP__SECRET".to_owned(), "x:y".to_owned())];
        let account = "[erp.flagship]\nurl = \"http://e/\"\nsid = \"s\"\nkey = \"k\"\n";
        crate::config::from_toml(&format!("{text}{account}"), env.into_iter()).unwrap().settings
    }

    #[test]
    fn a_feed_alone_needs_nothing_of_the_command_route() {
        let rights = needed(&settings(
            "[feeds.return_outbounds]\nenabled = true\nstart_at = \"2026-01-01T00:00:00Z\"\n",
        ));
        let names: Vec<String> = rights
            .iter()
            .map(|right| format!("{} {}", right.operation.name(), right.resource))
            .collect();
        assert!(names.contains(&"Write topic wdt.return-outbound.changes".to_owned()), "{names:?}");
        assert!(names.contains(&"Read group wdt-connector.feeds".to_owned()), "{names:?}");
        assert!(!names.iter().any(|name| name.contains("purchase-return") || name.contains("connector.commands")), "{names:?}");
    }

    #[test]
    fn the_commands_topic_is_written_where_commands_may_be_forwarded() {
        for (partitioner, writes) in [("murmur2", true), ("crc32", true), ("any", false)] {
            let rights = needed(&settings(&format!(
                "[commands]\nenabled = true\npartitioner = \"{partitioner}\"\n"
            )));
            let commands = Resource::Topic("wdt.purchase-return.commands".to_owned());
            let found = rights
                .iter()
                .any(|right| right.operation == Operation::Write && right.resource == commands);
            assert_eq!(found, writes, "{partitioner}");
        }
    }

    #[test]
    fn senders_and_operators_are_told_apart_by_the_topics_they_write() {
        let settings = settings("[topics]\ncommands = \"to.do\"\ncontrol = \"decided\"\n");
        let lines = others(&settings.topics);
        let of = |who: &str| lines.iter().find(|line| line.contains(who)).unwrap();
        assert!(of("senders").contains("Write on topic to.do and on nothing else"));
        assert!(of("operators").contains("Write on topic decided"));
        assert!(lines.iter().all(|line| line.starts_with('#')), "it is run as a script");
    }

    #[test]
    fn the_commands_can_be_given_to_a_shell() {
        let settings = settings("[kafka.properties]\n\"sasl.username\" = \"it's me\"\n");
        let lines = commands(&settings, &needed(&settings));
        let one =
            lines.iter().find(|line| line.contains("--topic wdt.purchase-return.journal")).unwrap();
        assert!(
            one.contains(r"--allow-principal 'User:it'\''s me' --operation Write --operation Read --operation DescribeConfigs"),
            "{one}"
        );
        assert!(lines.iter().any(|line| line.ends_with(
            "--transactional-id wdt-connector.commands. --resource-pattern-type prefixed"
        )));
    }
}
