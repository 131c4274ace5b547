//! `topics`: what is missing is created, the rest verified. `check` uses the verification alone.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    config::{Feed, Loaded, Settings},
    kafka::{
        admin::{Admin, Cluster, TopicPlan},
        largest_record,
        probe::{self, Found},
        rights::{Operation, Resource, denial},
    },
};

use super::{
    End, migrate,
    report::{Finding, Report},
};

/// How long the first answer of a broker may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Batches of the commands topic, compressed; lz4 and snappy have no cap on what they expand to.
const MOST_MESSAGE_BYTES: u64 = 131_072;

/// What a broker gives a new topic.
const DEFAULT_MESSAGE_BYTES: u64 = 1_048_588;

/// `wdt.feeds.state` has one partition per feed.
const FEED_PARTITIONS: i32 = 2;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Create the commands topic too, which otherwise is the sender's to create
    #[arg(long)]
    with_commands: bool,
    /// Partitions of new topics; commands and journal always get the same number, fixed for life
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    partitions: i32,
    /// Replicas of new topics [default: 3, or as many as there are brokers]
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=100))]
    replication_factor: Option<i32>,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Verb {
    /// Give commands and journal another number of partitions: every entry moves to the partition
    /// of its command
    #[command(after_help = migrate::HELP)]
    Repartition(migrate::Args),
}

/// What a topic is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Commands,
    Results,
    DeadLetters,
    Journal,
    Changes(Feed),
    FeedsState,
    FeedDeadLetters,
    Control,
}

impl Role {
    fn name(self, settings: &Settings) -> &str {
        let topics = &settings.topics;
        match self {
            Self::Commands => &topics.commands,
            Self::Results => &topics.results,
            Self::DeadLetters => &topics.commands_dlq,
            Self::Journal => &topics.journal,
            Self::Changes(Feed::PurchaseReturns) => &topics.purchase_returns,
            Self::Changes(Feed::ReturnOutbounds) => &topics.return_outbounds,
            Self::FeedsState => &topics.feeds_state,
            Self::FeedDeadLetters => &topics.feeds_dlq,
            Self::Control => &topics.control,
        }
    }

    /// Whether the topic is our memory: compacted, and as durable as the cluster allows.
    fn is_memory(self) -> bool {
        match self {
            Self::Journal | Self::FeedsState | Self::Control => true,
            Self::Commands
            | Self::Results
            | Self::DeadLetters
            | Self::Changes(_)
            | Self::FeedDeadLetters => false,
        }
    }

    /// What a topic we write to has to take, and what becomes of more than it takes; `None` for
    /// what others write.
    fn least_message_bytes(self, settings: &Settings) -> Option<(u64, &'static str)> {
        let largest = u64::try_from(largest_record(&settings.kafka)).unwrap_or(u64::MAX);
        match self {
            Self::Changes(_) | Self::FeedsState => {
                Some((largest, "a larger change goes to the dead letters"))
            }
            Self::DeadLetters | Self::FeedDeadLetters => {
                Some((largest, "a larger dead letter is written without its value"))
            }
            Self::Results | Self::Journal => {
                Some((MOST_MESSAGE_BYTES, "the command pipeline waits in front of a larger one"))
            }
            Self::Commands | Self::Control => None,
        }
    }

    /// Whether compaction would lose records: several of one key belong side by side.
    fn is_stream(self) -> bool {
        match self {
            Self::Commands | Self::Results | Self::DeadLetters | Self::FeedDeadLetters => true,
            Self::Journal | Self::Changes(_) | Self::FeedsState | Self::Control => false,
        }
    }
}

/// The topics of the enabled pipelines; of both when none is enabled yet.
fn roles(settings: &Settings) -> Vec<Role> {
    let feeds: Vec<Feed> =
        Feed::ALL.into_iter().filter(|feed| settings.feed(*feed).enabled).collect();
    let none = !settings.commands.enabled && feeds.is_empty();
    let mut roles = Vec::new();
    if settings.commands.enabled || none {
        roles.extend([Role::Commands, Role::Results, Role::DeadLetters, Role::Journal]);
    }
    if !feeds.is_empty() || none {
        roles.extend(
            Feed::ALL.into_iter().filter(|feed| none || feeds.contains(feed)).map(Role::Changes),
        );
        roles.extend([Role::FeedsState, Role::FeedDeadLetters]);
    }
    roles.push(Role::Control);
    roles
}

pub(super) async fn execute(args: Args, loaded: Loaded) -> anyhow::Result<End> {
    let settings = loaded.settings;
    match args.verb {
        Some(Verb::Repartition(args)) => return migrate::execute(args, &settings).await,
        None => {}
    }
    let admin = Admin::connect(&settings.kafka)?;
    let cluster = admin.cluster(PATIENCE).await?;
    let mut report = Report::new();
    report.add(&judge_cluster(&settings, &cluster));
    let plans = plan(&settings, &cluster, &args);
    admin.create(&plans).await?;
    for plan in &plans {
        report.add(&Finding::good(
            &plan.name,
            format!("created: {}", size(plan.partitions, plan.replicas)),
        ));
    }
    let cluster = if plans.is_empty() { cluster } else { admin.cluster(PATIENCE).await? };
    report.add_all(&verify(&settings, &admin, &cluster, Absence::OthersDuty).await?);
    Ok(report.end())
}

/// What is missing and ours to create.
fn plan(settings: &Settings, cluster: &Cluster, args: &Args) -> Vec<TopicPlan> {
    let brokers = i32::try_from(cluster.brokers).unwrap_or(i32::MAX).max(1);
    let replicas = args.replication_factor.unwrap_or(brokers.min(3));
    let partitions_of = |name: &str| cluster.topics.get(name).map(|shape| shape.partitions);
    // Whichever of the two is there decides for the other.
    let pair = partitions_of(&settings.topics.commands)
        .or_else(|| partitions_of(&settings.topics.journal))
        .unwrap_or(args.partitions);
    roles(settings)
        .into_iter()
        .filter(|role| args.with_commands || *role != Role::Commands)
        .filter(|role| !cluster.topics.contains_key(role.name(settings)))
        .map(|role| {
            let partitions = match role {
                Role::Commands | Role::Journal => pair,
                Role::FeedsState => FEED_PARTITIONS,
                Role::Control => 1,
                Role::Results | Role::DeadLetters | Role::Changes(_) | Role::FeedDeadLetters => {
                    args.partitions
                }
            };
            let mut options = Vec::new();
            if role.is_memory() {
                options.push(("cleanup.policy", "compact".to_owned()));
                options.push(("min.insync.replicas", replicas.min(2).to_string()));
                options.push(("unclean.leader.election.enable", "false".to_owned()));
            } else if role.is_stream() {
                options.push(("cleanup.policy", "delete".to_owned()));
            }
            TopicPlan { name: role.name(settings).to_owned(), partitions, replicas, options }
        })
        .collect()
}

/// Whether a missing commands topic fails: for `run` it does, `topics` leaves it to its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    Fails,
    OthersDuty,
}

/// Looks at every topic in use.
pub(super) async fn verify(
    settings: &Settings,
    admin: &Admin,
    cluster: &Cluster,
    absence: Absence,
) -> anyhow::Result<Vec<Finding>> {
    let present: Vec<&str> = roles(settings)
        .iter()
        .map(|role| role.name(settings))
        .filter(|name| cluster.topics.contains_key(*name))
        .collect();
    let options = admin.options(&present).await?;
    let mut findings = judge(settings, cluster, &options, absence);
    for finding in
        findings.iter_mut().filter(|finding| !cluster.topics.contains_key(&finding.subject))
    {
        let (kafka, topic) = (settings.kafka.clone(), finding.subject.clone());
        let seen = tokio::task::spawn_blocking(move || {
            probe::right(&kafka, Operation::Describe, &Resource::Topic(topic.clone()), &topic, None)
        });
        if let Found::Denied(sentence) = seen.await? {
            *finding = Finding::bad(
                &finding.subject,
                sentence,
                "if it does not exist at all, run: wdt-connector topics",
            );
        }
    }
    Ok(findings)
}

fn judge(
    settings: &Settings,
    cluster: &Cluster,
    options: &BTreeMap<String, BTreeMap<String, String>>,
    absence: Absence,
) -> Vec<Finding> {
    let none = BTreeMap::new();
    roles(settings)
        .into_iter()
        .map(|role| {
            let name = role.name(settings);
            judge_one(role, settings, cluster, options.get(name).unwrap_or(&none), absence)
        })
        .collect()
}

fn judge_one(
    role: Role,
    settings: &Settings,
    cluster: &Cluster,
    options: &BTreeMap<String, String>,
    absence: Absence,
) -> Finding {
    let name = role.name(settings);
    let Some(shape) = cluster.topics.get(name) else {
        return match (role, absence) {
            (Role::Commands, Absence::OthersDuty) => Finding::warning(
                name,
                "is missing",
                "the senders create it, or run: wdt-connector topics --with-commands",
            ),
            (Role::Commands, Absence::Fails) => {
                Finding::bad(name, "is missing", "run: wdt-connector topics --with-commands")
            }
            (Role::Control, Absence::Fails | Absence::OthersDuty) => Finding::warning(
                name,
                "is missing, so no pipeline can be paused and no command resolved",
                "run: wdt-connector topics",
            ),
            (_, Absence::Fails | Absence::OthersDuty) => {
                Finding::bad(name, "is missing", "run: wdt-connector topics")
            }
        };
    };
    if options.is_empty() {
        let denied = denial(Operation::DescribeConfigs, &Resource::Topic(name.to_owned()));
        return Finding::bad(
            name,
            denied,
            "or verify its cleanup.policy and min.insync.replicas yourself",
        );
    }
    let policy = options.get("cleanup.policy").map_or("unknown", String::as_str);
    let says = format!("{}, {policy}", size(shape.partitions, shape.replicas));
    let bad = |says: String, advice: &str| Finding::bad(name, says, advice);
    if role.is_memory() && policy != "compact" {
        return bad(
            format!(
                "{says}: cleanup.policy must be compact and nothing else, or the connector forgets"
            ),
            "kafka-configs --alter --add-config cleanup.policy=compact",
        );
    }
    if let Some(finding) = wrong_partitions(role, settings, cluster, shape.partitions, name) {
        return finding;
    }
    let in_sync: i32 =
        options.get("min.insync.replicas").and_then(|text| text.parse().ok()).unwrap_or(1);
    if role.is_memory() && shape.replicas > 1 && in_sync < 2 {
        return bad(
            format!("{says}: min.insync.replicas = {in_sync} lets one broker's loss lose entries"),
            "kafka-configs --alter --add-config min.insync.replicas=2",
        );
    }
    if role.is_memory()
        && options.get("unclean.leader.election.enable").is_some_and(|value| value == "true")
    {
        return bad(
            format!("{says}: unclean.leader.election.enable = true can lose committed entries"),
            "kafka-configs --alter --add-config unclean.leader.election.enable=false",
        );
    }
    let largest: u64 =
        options.get("max.message.bytes").and_then(|text| text.parse().ok()).unwrap_or(0);
    if role == Role::Commands && largest > MOST_MESSAGE_BYTES {
        return Finding::warning(
            name,
            format!(
                "{says}: max.message.bytes = {largest} lets one batch of lz4 expand to {} MB in the connector's memory",
                largest * 255 / 1_000_000
            ),
            format!(
                "kafka-configs --alter --add-config max.message.bytes={MOST_MESSAGE_BYTES}, which is room for every valid command"
            ),
        );
    }
    if let Some((least, consequence)) =
        role.least_message_bytes(settings).filter(|(least, _)| (1..*least).contains(&largest))
    {
        return Finding::warning(
            name,
            format!(
                "{says}: max.message.bytes = {largest} is less than the {least} a record may have; {consequence}"
            ),
            format!(
                "kafka-configs --alter --add-config max.message.bytes={}",
                least.max(DEFAULT_MESSAGE_BYTES)
            ),
        );
    }
    if role.is_stream() && policy.contains("compact") {
        return Finding::warning(
            name,
            format!("{says}: compaction removes all but the last record of a key"),
            "set cleanup.policy=delete",
        );
    }
    // One broker allows no more; that is said once, of the cluster.
    if shape.replicas < 2 && cluster.brokers > 1 {
        return Finding::warning(
            name,
            format!("{says}: one replica, so one broker's loss loses it"),
            "use three replicas where there are three brokers",
        );
    }
    Finding::good(name, says)
}

fn size(partitions: i32, replicas: i32) -> String {
    let noun =
        |count: i32, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    format!("{}, {}", noun(partitions, "partition"), noun(replicas, "replica"))
}

/// How many brokers there are, and what one alone means.
pub(super) fn judge_cluster(settings: &Settings, cluster: &Cluster) -> Finding {
    let servers = &settings.kafka.bootstrap_servers;
    match cluster.brokers {
        1 => Finding::warning(
            "kafka",
            format!("one broker at {servers}: its loss loses every topic"),
            "use three brokers in production",
        ),
        brokers => Finding::good("kafka", format!("{brokers} brokers at {servers}")),
    }
}

/// Counts that the connector's ownership of partitions rests on.
fn wrong_partitions(
    role: Role,
    settings: &Settings,
    cluster: &Cluster,
    partitions: i32,
    name: &str,
) -> Option<Finding> {
    match role {
        Role::Journal => {
            let commands = cluster.topics.get(&settings.topics.commands)?.partitions;
            (commands != partitions).then(|| {
                Finding::bad(
                    name,
                    format!(
                        "{partitions} partitions, but {} has {commands}; the two must be equal",
                        settings.topics.commands
                    ),
                    "stop every instance and run: wdt-connector topics repartition",
                )
            })
        }
        Role::FeedsState if partitions < FEED_PARTITIONS => Some(Finding::bad(
            name,
            format!("{partitions} partitions, but there must be {FEED_PARTITIONS}, one per feed"),
            "add a partition: kafka-topics --alter --partitions 2",
        )),
        Role::FeedsState if partitions > FEED_PARTITIONS => Some(Finding::warning(
            name,
            format!(
                "{partitions} partitions, of which only {FEED_PARTITIONS} are used, one per feed"
            ),
            "nothing has to be done",
        )),
        Role::Control if partitions > 1 => Some(Finding::bad(
            name,
            format!(
                "{partitions} partitions, but there must be one, so that decisions have an order"
            ),
            "delete it and run: wdt-connector topics",
        )),
        Role::Control
        | Role::FeedsState
        | Role::Commands
        | Role::Results
        | Role::DeadLetters
        | Role::Changes(_)
        | Role::FeedDeadLetters => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::report::Level, kafka::admin::TopicShape};

    fn settings(text: &str) -> Settings {
        let env = [("WDT__ERP__FLAGSHIP__SECRET".to_owned(), "x:y".to_owned())];
        crate::config::from_toml(
            &format!("{text}[erp.flagship]\nurl = \"http://e/\"\nsid = \"s\"\nkey = \"k\"\n"),
            env.into_iter(),
        )
        .unwrap()
        .settings
    }

    fn cluster(brokers: usize, topics: &[(&str, i32, i32)]) -> Cluster {
        let topics = topics.iter().map(|(name, partitions, replicas)| {
            ((*name).to_owned(), TopicShape { partitions: *partitions, replicas: *replicas })
        });
        Cluster { brokers, topics: topics.collect() }
    }

    fn args(with_commands: bool) -> Args {
        Args { verb: None, with_commands, partitions: 6, replication_factor: None }
    }

    const COMMANDS: &str = "[commands]\nenabled = true\n";
    const FEED: &str =
        "[feeds.return_outbounds]\nenabled = true\nstart_at = \"2026-01-01T00:00:00Z\"\n";

    #[test]
    fn everything_but_the_commands_topic_is_created() {
        let plans = plan(&settings(""), &cluster(1, &[]), &args(false));
        let names: Vec<(&str, i32)> =
            plans.iter().map(|plan| (plan.name.as_str(), plan.partitions)).collect();
        assert_eq!(
            names,
            [
                ("wdt.purchase-return.results", 6),
                ("wdt.purchase-return.commands.dlq", 6),
                ("wdt.purchase-return.journal", 6),
                ("wdt.purchase-return.changes", 6),
                ("wdt.return-outbound.changes", 6),
                ("wdt.feeds.state", 2),
                ("wdt.feeds.dlq", 6),
                ("wdt.control", 1),
            ]
        );
        assert!(plans.iter().all(|plan| plan.replicas == 1));
        assert_eq!(plan(&settings(""), &cluster(5, &[]), &args(true)).len(), 9);
        assert_eq!(plan(&settings(""), &cluster(5, &[]), &args(true))[0].replicas, 3);
    }

    #[test]
    fn the_journal_follows_the_commands_topic() {
        let plans = plan(
            &settings(COMMANDS),
            &cluster(3, &[("wdt.purchase-return.commands", 11, 3)]),
            &args(true),
        );
        let journal = plans.iter().find(|plan| plan.name.ends_with("journal")).unwrap();
        assert_eq!(journal.partitions, 11);
        assert_eq!(
            journal.options,
            [
                ("cleanup.policy", "compact".to_owned()),
                ("min.insync.replicas", "2".to_owned()),
                ("unclean.leader.election.enable", "false".to_owned())
            ]
        );
        assert!(!plans.iter().any(|plan| plan.name.contains("feeds")));
    }

    #[test]
    fn feeds_alone_need_no_command_topics() {
        let names: Vec<String> = plan(&settings(FEED), &cluster(1, &[]), &args(true))
            .into_iter()
            .map(|plan| plan.name)
            .collect();
        assert_eq!(
            names,
            ["wdt.return-outbound.changes", "wdt.feeds.state", "wdt.feeds.dlq", "wdt.control"]
        );
    }

    #[track_caller]
    fn journal(partitions: i32, replicas: i32, options: &[(&str, &str)]) -> Finding {
        let cluster = cluster(
            3,
            &[
                ("wdt.purchase-return.commands", 6, 3),
                ("wdt.purchase-return.journal", partitions, replicas),
            ],
        );
        let options =
            options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let options = BTreeMap::from([("wdt.purchase-return.journal".to_owned(), options)]);
        judge(&settings(COMMANDS), &cluster, &options, Absence::Fails)
            .into_iter()
            .find(|row| row.subject.ends_with("journal"))
            .unwrap()
    }

    #[test]
    fn the_journal_is_judged() {
        let compact = ("cleanup.policy", "compact");
        assert_eq!(journal(6, 3, &[compact, ("min.insync.replicas", "2")]).level, Level::Good);
        assert_eq!(journal(6, 1, &[compact, ("min.insync.replicas", "1")]).level, Level::Warning);
        for (partitions, replicas, options, part) in [
            (5, 3, vec![compact], "must be equal"),
            (6, 3, vec![("cleanup.policy", "compact,delete")], "must be compact"),
            (6, 3, vec![("cleanup.policy", "delete")], "must be compact"),
            (6, 3, vec![compact, ("min.insync.replicas", "1")], "min.insync.replicas"),
            (
                6,
                3,
                vec![
                    compact,
                    ("min.insync.replicas", "2"),
                    ("unclean.leader.election.enable", "true"),
                ],
                "unclean",
            ),
        ] {
            let found = journal(partitions, replicas, &options);
            assert!(found.level == Level::Bad && found.says.contains(part), "{found:?}");
        }
    }

    #[test]
    fn topics_that_take_less_than_a_record_are_named_with_what_becomes_of_it() {
        let found = |topic: &str, bytes: &str| {
            let cluster = cluster(3, &[(topic, 6, 3)]);
            let options = [("cleanup.policy", "delete"), ("max.message.bytes", bytes)];
            let options = options
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            let options = BTreeMap::from([(topic.to_owned(), options)]);
            let both = format!("{COMMANDS}{FEED}");
            judge(&settings(&both), &cluster, &options, Absence::Fails)
                .into_iter()
                .find(|row| row.subject == topic)
                .unwrap()
        };
        for (topic, bytes, part) in [
            ("wdt.return-outbound.changes", "2000", "a larger change goes to the dead letters"),
            ("wdt.feeds.dlq", "999999", "without its value"),
            ("wdt.purchase-return.commands.dlq", "2000", "without its value"),
            ("wdt.purchase-return.results", "2000", "waits in front of"),
        ] {
            let row = found(topic, bytes);
            assert!(
                row.level == Level::Warning && row.says.contains(part) && row.says.contains(bytes),
                "{row:?}"
            );
            assert_eq!(found(topic, "1048588").level, Level::Good);
        }
        assert_eq!(found("wdt.purchase-return.results", "131072").level, Level::Good);
    }

    #[test]
    fn what_is_missing_is_said() {
        let commands = |absence| {
            judge(&settings(COMMANDS), &cluster(1, &[]), &BTreeMap::new(), absence).remove(0)
        };
        assert_eq!(commands(Absence::Fails).level, Level::Bad);
        assert_eq!(commands(Absence::OthersDuty).level, Level::Warning);
        let rows = judge(
            &settings(FEED),
            &cluster(1, &[("wdt.feeds.state", 1, 1)]),
            &BTreeMap::new(),
            Absence::Fails,
        );
        let levels: Vec<Level> = rows.iter().map(|row| row.level).collect();
        assert_eq!(
            levels,
            [Level::Bad, Level::Bad, Level::Bad, Level::Warning],
            "the control topic is needed for pausing only"
        );
    }
}
