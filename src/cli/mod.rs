//! The command line: one file per subcommand.

mod acls;
mod backfill;
mod beside;
mod check;
mod commands;
mod config;
mod demo;
mod dlq;
mod estimate;
mod feeds;
mod journal;
mod manual;
mod memory;
mod migrate;
mod output;
mod past;
mod probe;
mod progress;
mod report;
mod resend;
mod run;
mod schemas;
mod send;
mod sheet;
mod simulate;
mod state;
mod tail;
mod topics;
mod usage;
mod verify;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::{
    config::{KafkaSettings, Loaded, Mistake, load},
    kafka::admin::unusable_properties,
};

/// What a script can rely on.
const EXIT_CODES: [(&str, &str); 3] = [
    ("0", "done; for run: ended by SIGTERM or SIGINT, drained"),
    (
        "1",
        "failed: a finding marked ✗, a line that was refused, a promise that does not hold, a broker or ERP out of reach; the reason is on standard error",
    ),
    (
        "2",
        "nothing was tried: the configuration or the command line is wrong; every mistake is named",
    ),
];

fn after_help() -> String {
    let codes: Vec<String> =
        EXIT_CODES.iter().map(|(code, meaning)| format!("  {code}  {meaning}")).collect();
    format!(
        "Example: wdt-connector --config connector.toml check\nExit codes:\n{}",
        codes.join("\n")
    )
}

/// Exactly-once connector between Apache Kafka and the Wangdian (旺店通) ERP.
#[derive(Debug, Parser)]
#[command(
    name = "wdt-connector",
    version,
    max_term_width = 110,
    after_help = after_help()
)]
struct Arguments {
    /// The TOML configuration file; any key can be set by environment too (WDT__SECTION__KEY)
    #[arg(long, global = true, value_name = "FILE", env = "WDT_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the pipelines that are enabled until SIGTERM
    #[command(after_help = "Example: wdt-connector run --config connector.toml")]
    Run,
    /// Run both pipelines against a simulated ERP with injected faults and verify the delivery
    /// guarantees
    #[command(
        after_help = "Example: wdt-connector demo --for 20s --commands 300 --seed 7\nExits 1 when a guarantee is violated."
    )]
    Demo(demo::Args),
    /// Run the ERP simulator alone, until SIGTERM
    Simulate(simulate::SimulateArgs),
    /// Check configuration, Kafka, topics, schema registry, ERP accounts and what the configuration
    /// costs in calls
    #[command(
        after_help = "Examples:\n  wdt-connector check --config connector.toml\n  wdt-connector check --json | jq '.findings[] | select(.level != \"good\")'\nNo topic is written to. --acls prints the rights that are needed on Kafka instead, as kafka-acls commands. One signed read call per ERP call in use. Exits 1 on a failure (✗), not on a warning (⚠)."
    )]
    Check(check::Args),
    /// Show the configuration that is in force, its mistakes, its JSON Schema
    #[command(
        after_help = "Examples:\n  wdt-connector config print --config connector.toml\n  wdt-connector config check --config connector.toml"
    )]
    Config(config::Args),
    /// Print, register and compare the Avro schemas
    #[command(
        after_help = "Examples:\n  wdt-connector schemas print CommandResult\n  wdt-connector schemas check --config connector.toml"
    )]
    Schemas(schemas::Args),
    /// Create the topics that are missing and verify the rest
    #[command(
        after_help = "Example: wdt-connector topics --config connector.toml --partitions 12 --with-commands"
    )]
    Topics(topics::Args),
    /// Send commands, JSON lines or CSV, to the commands topic
    #[command(
        after_help = "Examples:\n  wdt-connector send commands.csv --dry-run\n  echo '{\"command_id\":\"c-1\",\"return_no\":\"TH202601010001\",\"warehouse_no\":\"W1\",\"details\":[{\"spec_no\":\"SKU-1\",\"num\":\"2\"}]}' | wdt-connector send --config connector.toml\nCSV: a first row of column names (command_id, return_no, warehouse_no, logistics_code, create_mode, remark, issued_at,\nexpires_at; spec_no, num, unit_name, position_no, batch_no, expire_date, defect, line_remark), then one row per detail line;\nrows of one command stand together."
    )]
    Send(send::Args),
    /// Print change events, results or dead letters as JSON lines
    #[command(
        after_help = "Example: wdt-connector tail --config connector.toml --results --follow | jq .outcome"
    )]
    Tail(tail::Args),
    /// See what became of commands, decide about those in doubt, pause, resume and replay
    #[command(after_help = "Example: wdt-connector commands list --config connector.toml")]
    Commands(commands::Args),
    /// See dead letters and send commands among them again
    #[command(after_help = "Example: wdt-connector dlq list --since 2h --config connector.toml")]
    Dlq(dlq::Args),
    /// Print the completions of a shell
    #[command(
        after_help = "Example: wdt-connector completions bash > /etc/bash_completion.d/wdt-connector"
    )]
    Completions(manual::CompletionArgs),
    /// Print the manual page, or write all of them into a folder
    #[command(
        after_help = "Examples:\n  wdt-connector man | man -l -\n  wdt-connector man --out-dir /usr/local/share/man/man1"
    )]
    Man(manual::ManArgs),
    /// Declare the journal lost
    #[command(
        after_help = "Example: wdt-connector journal declare-lost --yes --config connector.toml"
    )]
    Journal(journal::Args),
    /// Show feeds, pause and resume them, set their watermark
    Feeds(feeds::Args),
    /// Read a period again beside the live feed and publish what the state lacks
    #[command(
        after_help = "Example: wdt-connector backfill --feed return_outbounds --from 2026-01-01T00:00:00+08:00 --to 2026-02-01T00:00:00+08:00 --follow\nSays what it costs before it starts. With --follow it exits 1 when the backfill was called off."
    )]
    Backfill(backfill::Args),
    /// Compare what was published with what the ERP holds; publishes nothing
    #[command(
        after_help = "Example: wdt-connector verify --feed return_outbounds --from 2026-01-01T00:00:00+08:00 --to 2026-02-01T00:00:00+08:00\nOne JSON object a line for each difference. Exits 1 when there are any, or when the ERP's answers about a window contradict its counts."
    )]
    Verify(verify::Args),
    /// Ask a running instance's probe; for container health checks
    #[command(
        hide = true,
        after_help = "Example: wdt-connector probe http://127.0.0.1:9600/readyz"
    )]
    Probe(probe::Args),
}

/// How a verb ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    Failed,
    Misconfigured,
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        Self::from(match end {
            End::Done => 0,
            End::Failed => 1,
            End::Misconfigured => 2,
        })
    }
}

/// Parses the arguments, runs the verb, maps its end to an exit code.
#[must_use]
pub fn main() -> ExitCode {
    crate::background::log_panics();
    crate::kafka::headers::install_panic_hook();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // A closed pipe behind --help is no failure.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let end = match arguments.verb {
        Verb::Probe(args) => probe::execute(&args),
        Verb::Demo(args) => on_runtime(demo::execute(args)),
        Verb::Simulate(args) => {
            on_runtime(async move { simulate::run(args).await.map(|()| End::Done) })
        }
        Verb::Run => with_settings(arguments.config.as_deref(), run::execute),
        Verb::Check(args) => with_settings(arguments.config.as_deref(), |loaded| {
            on_runtime(check::execute(args, loaded))
        }),
        Verb::Config(args) => config::execute(&args, arguments.config.as_deref()),
        Verb::Schemas(args) if !args.needs_settings() => schemas::print(&args),
        Verb::Schemas(args) => with_settings(arguments.config.as_deref(), |loaded| {
            on_runtime(schemas::execute(args, loaded))
        }),
        Verb::Completions(args) => Ok(manual::completions(&args)),
        Verb::Man(args) => manual::man(&args),
        Verb::Topics(args) => with_settings(arguments.config.as_deref(), |loaded| {
            on_runtime(topics::execute(args, loaded))
        }),
        Verb::Journal(args) => with_settings(arguments.config.as_deref(), |loaded| {
            on_runtime(journal::execute(args, loaded))
        }),
        Verb::Commands(args) => with_settings(arguments.config.as_deref(), |loaded| {
            on_runtime(commands::execute(args, loaded))
        }),
        Verb::Dlq(args) => with_settings(arguments.config.as_deref(), |loaded| {
            on_runtime(dlq::execute(args, loaded))
        }),
        Verb::Send(args) => with_settings(arguments.config.as_deref(), |loaded| {
            on_runtime(send::execute(args, loaded))
        }),
        Verb::Feeds(args) => with_settings(arguments.config.as_deref(), |loaded| {
            on_runtime(feeds::execute(args, loaded))
        }),
        Verb::Backfill(args) => with_settings(arguments.config.as_deref(), |loaded| {
            on_runtime(backfill::execute(args, loaded))
        }),
        Verb::Verify(args) => with_settings(arguments.config.as_deref(), |loaded| {
            on_runtime(verify::execute(args, loaded))
        }),
        Verb::Tail(args) => with_settings(arguments.config.as_deref(), |loaded| {
            on_runtime(tail::execute(args, loaded))
        }),
    };
    let end = end.unwrap_or_else(|error| {
        output::complain(&format!("error: {error:#}"));
        End::Failed
    });
    end.into()
}

/// Reads the configuration, or says everything that is wrong with it.
fn with_settings(
    path: Option<&Path>,
    verb: impl FnOnce(Loaded) -> anyhow::Result<End>,
) -> anyhow::Result<End> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let loaded = load(path, environment()).and_then(|loaded| {
        let refused = refused_by_librdkafka(&loaded.settings.kafka);
        if refused.is_empty() { Ok(loaded) } else { Err(refused) }
    });
    match loaded {
        Ok(loaded) => verb(loaded),
        Err(mistakes) => {
            misconfigured(&mistakes);
            Ok(End::Misconfigured)
        }
    }
}

fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| {
        (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
    })
}

/// Options in `[kafka] properties` that librdkafka does not take.
fn refused_by_librdkafka(kafka: &KafkaSettings) -> Vec<Mistake> {
    unusable_properties(kafka)
        .into_iter()
        .map(|(key, reason)| {
            let sentence = format!("kafka.properties.{key} is refused by librdkafka: {reason}; see its list of configuration properties");
            Mistake::about(&format!("kafka.properties.{key}"), sentence)
        })
        .collect()
}

fn misconfigured(mistakes: &[Mistake]) {
    let noun = if mistakes.len() == 1 { "one mistake" } else { "mistakes" };
    output::complain(&format!("the configuration has {noun}:"));
    for mistake in mistakes {
        output::complain(&format!("  {mistake}"));
    }
}

/// Runs a short verb; what blocks past its end is left behind.
fn on_runtime(verb: impl Future<Output = anyhow::Result<End>>) -> anyhow::Result<End> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let end = runtime.block_on(verb);
    runtime.shutdown_background();
    end
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_verb_s_help_shows_an_example() {
        let command = Arguments::command();
        command.clone().debug_assert();
        for verb in command.get_subcommands() {
            let help = verb.clone().render_long_help().to_string();
            assert!(
                help.contains("Example: ")
                    || help.contains("Example:\n")
                    || help.contains("Examples:\n"),
                "{help}"
            );
        }
    }

    #[test]
    fn the_configuration_file_stands_before_or_after_the_verb() {
        for line in [["x", "--config", "a.toml", "check"], ["x", "check", "--config", "a.toml"]] {
            assert_eq!(
                Arguments::try_parse_from(line).unwrap().config,
                Some(PathBuf::from("a.toml"))
            );
        }
    }
}
