//! `demo`: both pipelines against a simulated ERP with injected faults, and a closing summary that
//! verifies the promises or fails.

mod collect;
mod proof;
mod script;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    app,
    board::Board,
    clock::Timestamp,
    config::{self, Partitioner, Settings, parse_duration},
    kafka::{
        admin::{Admin, TopicPlan},
        mock::MockBroker,
        tool::Sender,
    },
    metrics::Metrics,
    schema::Codec,
    simulator::{Adjust, Simulator, SimulatorConfig, parse_rules},
    telemetry::Levels,
};

use super::{End, output};
use collect::Collector;

/// Run the main job on simulated parts and prove that the promises hold.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// How long commands are sent
    #[arg(long = "for", value_name = "DURATION", default_value = "20s", value_parser = span)]
    span: Duration,
    /// How many records are sent meanwhile; some are copies, some are wrong on purpose
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    commands: u32,
    /// Seed of the data, the commands and the injected faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A real broker instead of the in-process one; topics of its own are created there and stay
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,
}

fn span(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| format!("{text:?} is no duration; write 20s or 1m"))
}

/// What the ERP does to us meanwhile.
const MISCHIEF: &str = "createOrder:applied_timeout=0.02,createOrder:applied_reset=0.03,createOrder:applied_5xx=0.02,createOrder:reset=0.02,\
    createOrder:inner_reject=0.03,createOrder:slow(20ms..200ms)=0.5,query:5xx=0.02,query:modify(1)=0.05";
/// Records of each kind that are there from the start.
const SEEDED: u32 = 300;
const MODIFICATIONS_PER_SECOND: f64 = 8.0;
/// How long what was sent may take to settle, and the last changes to come out.
const PATIENCE: Duration = Duration::from_secs(90);
const PARTITIONS: i32 = 4;
const TOPICS: [&str; 9] = [
    "commands",
    "results",
    "commands_dlq",
    "journal",
    "purchase_returns",
    "return_outbounds",
    "feeds_state",
    "feeds_dlq",
    "control",
];

/// Everything that runs.
struct Stage {
    settings: Settings,
    simulator: Simulator,
    /// Kept until the end: its topics go with it.
    _broker: Option<MockBroker>,
    cache: std::path::PathBuf,
}

pub(super) async fn execute(args: Args) -> anyhow::Result<End> {
    let stage = set_up(&args).await?;
    announce(&args, &stage);
    let ending = app::Ending::new(stage.settings.commands.drain_timeout)?;
    let (listener, settings) = listen(stage.settings.clone()).await?;
    let address = listener.local_addr()?;
    tell(&format!("status page: http://{address}/"));
    let board = Board::default();
    let connector: JoinHandle<anyhow::Result<()>> = tokio::spawn(app::serve(
        settings.clone(),
        Arc::new(Metrics::new()),
        board.clone(),
        Levels::fixed(),
        ending.clone(),
        listener,
    ));
    let stop_reading = CancellationToken::new();
    let collector = Collector::start(&settings, &stop_reading);

    let played = play(&args, &stage, &collector, connector, &board).await;
    let connector = match played {
        Ok(connector) => connector,
        Err(error) => {
            let _ = std::fs::remove_dir_all(&stage.cache);
            return Err(error);
        }
    };
    ending.begin();
    connector.await.context("the connector ended abnormally")??;
    ending.ended();
    stop_reading.cancel();
    let evidence = collector.finish(&stage.simulator).await;
    let held = summary(&evidence, &stage.simulator);
    let _ = std::fs::remove_dir_all(&stage.cache);
    Ok(if held { End::Done } else { End::Failed })
}

fn tell(line: &str) {
    let _ = output::say(line);
}

/// Sends the script, waits until it settled and the last changes came out.
async fn play(
    args: &Args,
    stage: &Stage,
    collector: &Collector,
    mut connector: JoinHandle<anyhow::Result<()>>,
    board: &Board,
) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
    let lines = script::write(usize::try_from(args.commands)?, args.seed, &Codec::single_object())?;
    let sender = Sender::connect(&stage.settings.kafka, Partitioner::Murmur2)?;
    let pause = args.span / args.commands;
    let control = stage.simulator.control();
    let mut next_word = Instant::now();
    for (sent, line) in (1..).zip(&lines) {
        sender.queue(&stage.settings.topics.commands, &line.key, &line.value)?.await?;
        collector.sent(line.sort);
        tokio::select! {
            ended = &mut connector => return Err(early(ended)),
            () = tokio::time::sleep(pause) => {}
        }
        if Instant::now() >= next_word {
            next_word = Instant::now() + Duration::from_secs(1);
            collector.speak(&format!("{sent} of {} records sent", lines.len()));
        }
    }
    control.clear_faults();
    control.adjust(&Adjust { modifications_per_second: Some(0.0), ..Adjust::default() });
    tell(
        "everything is sent, no more faults are injected; waiting until every command has settled",
    );
    let deadline = Instant::now() + PATIENCE;
    while !collector.complete(&stage.simulator) && Instant::now() < deadline {
        tokio::select! {
            ended = &mut connector => return Err(early(ended)),
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
        if Instant::now() >= next_word {
            next_word = Instant::now() + Duration::from_secs(1);
            collector.speak("settling");
        }
    }
    let settled = collector.complete(&stage.simulator);
    collector.speak(if settled { "settled" } else { "not settled" });
    collector.end_of_line();
    if !settled {
        tell(&format!(
            "after {PATIENCE:?} the connector says of itself: {}",
            serde_json::to_string(&board.sections())?
        ));
    }
    Ok(connector)
}

fn early(ended: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok(Ok(())) => anyhow!("the connector ended before the demo did"),
        Ok(Err(error)) => error.context("the connector could not go on"),
        Err(error) => anyhow!("the connector ended abnormally: {error}"),
    }
}

fn announce(args: &Args, stage: &Stage) {
    tell(
        "wdt-connector demo: commands become orders of a simulated ERP, its changes become events, with injected faults in between.",
    );
    tell(
        "Times are short (timeouts of seconds instead of minutes), so that it is over soon; unsafe outside a demo.",
    );
    match &args.kafka {
        None => tell(
            "Kafka is librdkafka's in-process broker: it does not isolate transactions. Everything else runs as on a real one; try --kafka host:port.",
        ),
        Some(address) => tell(&format!(
            "Kafka is {address}; the topics begin with {} and stay.",
            stage.settings.kafka.application_id
        )),
    }
    tell(&format!(
        "ERP: {}, {SEEDED} purchase returns and {SEEDED} outbound orders to begin with, seed {}.",
        stage.simulator.url_flagship(),
        args.seed
    ));
    tell(
        "Injected faults: orders created whose answer is lost (timeout, reset, 502), resets before, refusals, slow answers, records modified while they are read.",
    );
}

/// The listener's usual port, or any free one.
async fn listen(mut settings: Settings) -> anyhow::Result<(tokio::net::TcpListener, Settings)> {
    match app::bind(&settings).await {
        Ok(listener) => Ok((listener, settings)),
        Err(_) => {
            settings.http.listen.set_port(0);
            Ok((app::bind(&settings).await?, settings))
        }
    }
}

async fn set_up(args: &Args) -> anyhow::Result<Stage> {
    let unique = format!("wdt-demo-{}-{}", std::process::id(), Timestamp::now().0);
    let names: Vec<String> = TOPICS.iter().map(|topic| format!("{unique}.{topic}")).collect();
    let partitions = |topic: &str| match topic {
        "feeds_state" => 2,
        "control" => 1,
        _ => PARTITIONS,
    };
    let broker = match &args.kafka {
        Some(_) => None,
        None => {
            let topics: Vec<(&str, i32)> = TOPICS
                .iter()
                .zip(&names)
                .map(|(topic, name)| (name.as_str(), partitions(topic)))
                .collect();
            Some(MockBroker::start(&topics).map_err(anyhow::Error::msg)?)
        }
    };
    let mut simulator = SimulatorConfig {
        seed: args.seed,
        auto_returns: true,
        quota_per_minute: None,
        modifications_per_second: MODIFICATIONS_PER_SECOND,
        ..SimulatorConfig::default()
    };
    simulator.faults = parse_rules(MISCHIEF).map_err(anyhow::Error::msg)?;
    let simulator = Simulator::start(simulator).await?;
    for kind in [crate::simulator::Kind::PurchaseReturns, crate::simulator::Kind::Outbounds] {
        let seeding = serde_json::from_value(serde_json::json!({ "count": SEEDED }))?;
        simulator.control().seed(kind, &seeding).map_err(anyhow::Error::msg)?;
    }
    let bootstrap = match (&broker, &args.kafka) {
        (Some(broker), _) => broker.bootstrap_servers(),
        (None, Some(address)) => address.clone(),
        (None, None) => String::new(),
    };
    let cache = std::env::temp_dir().join(&unique);
    let settings = settings(&unique, &names, &bootstrap, &simulator, &cache)?;
    if args.kafka.is_some() {
        let plans: Vec<TopicPlan> = TOPICS
            .iter()
            .zip(&names)
            .map(|(topic, name)| {
                let policy = if matches!(*topic, "journal" | "feeds_state" | "control") {
                    "compact"
                } else {
                    "delete"
                };
                TopicPlan {
                    name: name.clone(),
                    partitions: partitions(topic),
                    replicas: 1,
                    options: vec![("cleanup.policy", policy.to_owned())],
                }
            })
            .collect();
        let admin = Admin::connect(&settings.kafka)?;
        admin.create(&plans).await?;
    }
    Ok(Stage { settings, simulator, _broker: broker, cache })
}

fn settings(
    unique: &str,
    names: &[String],
    bootstrap: &str,
    simulator: &Simulator,
    cache: &std::path::Path,
) -> anyhow::Result<Settings> {
    let account = simulator.account();
    let start = Timestamp::now().minus(Duration::from_secs(8 * 24 * 3600)).floor_second();
    let topics: Vec<String> =
        TOPICS.iter().zip(names).map(|(topic, name)| format!("{topic} = {name:?}")).collect();
    let feed = format!(
        "enabled = true\nstart_at = \"{start}\"\npoll_interval = \"1s\"\nsafety_lag = \"1s\"\nmax_visibility_lag = \"500ms\"\nlate_pass = {{ interval = \"5s\", lag = \"3s\" }}\n"
    );
    let text = format!(
        "allow_unsafe_timing = true\ncache_dir = {cache:?}\n\
         [kafka]\nbootstrap_servers = {bootstrap:?}\napplication_id = {unique:?}\n\
         [kafka.properties]\n\"session.timeout.ms\" = 10000\n\"heartbeat.interval.ms\" = 1000\n\
         [topics]\n{}\n\
         [erp]\nmax_visibility_lag = \"1s\"\n[erp.flagship]\nurl = {:?}\nsid = {:?}\nkey = {:?}\nconnect_timeout = \"900ms\"\n\
         [quota]\ncalls_per_minute = 60000\nburst = 1000\nmax_concurrent_calls = 128\n\
         [commands]\nenabled = true\nmax_in_flight = 32\ncall_timeout = \"1s\"\nintent_ttl = \"2s\"\napply_grace = \"1500ms\"\nlookup_interval = \"1s\"\n\
         lookup_timeout = \"60s\"\nmax_process_pause = \"1s\"\nmax_apply_delay = \"1s\"\ndrain_timeout = \"10s\"\n\
         [feeds.purchase_returns]\n{feed}[feeds.return_outbounds]\n{feed}edition = \"flagship\"\n",
        topics.join("\n"),
        simulator.url_flagship(),
        account.flagship_sid,
        account.flagship_key,
        cache = cache.display().to_string(),
    );
    let secret = format!("{}:{}", account.flagship_secret, account.flagship_salt);
    let env = [("WDT__ERP__FLAGSHIP__SECRET".to_owned(), secret)];
    match config::from_toml(&text, env.into_iter()) {
        Ok(loaded) => Ok(loaded.settings),
        Err(mistakes) => Err(anyhow!("the demo's own configuration is wrong: {mistakes:?}")),
    }
}

/// Prints every promise with its figures; `true` when all of them held.
fn summary(evidence: &proof::Evidence, simulator: &Simulator) -> bool {
    tell("");
    tell("SUMMARY, from the ERP's ledger and from what was read back from Kafka");
    let outcomes = ["CREATED", "REJECTED", "INVALID", "IN_DOUBT", "EXPIRED"].map(|name| {
        let count = evidence.results.iter().filter(|result| result.outcome.name() == name).count();
        format!("{count} {name}")
    });
    let copies = evidence.results.iter().filter(|result| result.duplicate).count();
    let recovered =
        evidence.results.iter().filter(|result| result.recovered && !result.duplicate).count();
    tell(&format!(
        "  sent        {} commands, {} invalid, {} undecodable",
        evidence.commands, evidence.invalid, evidence.garbage
    ));
    tell(&format!(
        "  results     {}; {copies} were copies and repeat their outcome",
        outcomes.join(", ")
    ));
    tell(&format!(
        "  recovered   {recovered} orders whose answer was lost: asked for, found, not sent again"
    ));
    for (call, counts) in simulator.control().counters() {
        if counts.received > 0 {
            tell(&format!(
                "  ERP calls   {call}: {} received, {} executed, {} of them without an answer, {} refused",
                counts.received, counts.applied, counts.applied_unanswered, counts.rejected
            ));
        }
    }
    let mut held = true;
    for verdict in proof::judge(evidence) {
        tell(&format!(
            "  {} {} ({})",
            if verdict.broken.is_empty() { "✓" } else { "✗" },
            verdict.promise,
            verdict.figures
        ));
        for line in verdict.broken.iter().take(10) {
            tell(&format!("      {line}"));
        }
        held &= verdict.broken.is_empty();
    }
    tell(if held { "Every promise held." } else { "A promise did not hold." });
    held
}
