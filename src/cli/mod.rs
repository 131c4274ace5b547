//! The command line: one file per command group.

mod check;
mod demo;
mod estimate;
mod output;
mod probe;
mod report;
mod run;
mod send;
mod simulate;
mod tail;
mod topics;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::{
    config::{self, Loaded, Mistake},
    kafka::admin::unusable_properties,
};

/// Exactly-once connector between Apache Kafka and the Wangdian (旺店通) ERP.
#[derive(Debug, Parser)]
#[command(
    name = "wdt-connector",
    version,
    max_term_width = 110,
    after_help = "Example: wdt-connector --config connector.toml check\nExit codes: 0 done, 1 failed, 2 wrong configuration or usage."
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
    /// Run the routes that are enabled until SIGTERM
    #[command(after_help = "Example: wdt-connector run --config connector.toml")]
    Run,
    /// Run everything on simulated parts, with some mischief, and prove that the promises hold
    #[command(after_help = "Example: wdt-connector demo --for 20s --commands 300 --seed 7\nExits 1 when a promise does not hold.")]
    Demo(demo::Args),
    /// Run the ERP simulator alone, until SIGTERM
    Simulate(simulate::SimulateArgs),
    /// Check configuration, Kafka, topics, schema registry, ERP accounts and what the configuration costs in calls
    #[command(
        after_help = "Example: wdt-connector check --config connector.toml\nNothing is written anywhere. One signed read call per ERP call in use. Exits 1 on a failure (✗), not on a warning (⚠)."
    )]
    Check,
    /// Create the topics that are missing and verify the rest
    #[command(after_help = "Example: wdt-connector topics --config connector.toml --partitions 12 --with-commands")]
    Topics(topics::Args),
    /// Send commands, one JSON object a line, to the commands topic
    #[command(
        after_help = "Example: echo '{\"command_id\":\"c-1\",\"return_no\":\"TH202601010001\",\"warehouse_no\":\"W1\",\"details\":[{\"spec_no\":\"SKU-1\",\"num\":\"2\"}]}' | wdt-connector send --config connector.toml"
    )]
    Send(send::Args),
    /// Print change events, results or dead letters as JSON lines
    #[command(after_help = "Example: wdt-connector tail --config connector.toml --results --follow | jq .outcome")]
    Tail(tail::Args),
    /// Ask a running instance's probe; for container health checks
    #[command(hide = true, after_help = "Example: wdt-connector probe http://127.0.0.1:9600/readyz")]
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
        Verb::Simulate(args) => on_runtime(async move { simulate::run(args).await.map(|()| End::Done) }),
        Verb::Run => with_settings(arguments.config.as_deref(), run::execute),
        Verb::Check => with_settings(arguments.config.as_deref(), |loaded| on_runtime(check::execute(loaded))),
        Verb::Topics(args) => with_settings(arguments.config.as_deref(), |loaded| on_runtime(topics::execute(args, loaded))),
        Verb::Send(args) => with_settings(arguments.config.as_deref(), |loaded| on_runtime(send::execute(args, loaded))),
        Verb::Tail(args) => with_settings(arguments.config.as_deref(), |loaded| on_runtime(tail::execute(args, loaded))),
    };
    let end = end.unwrap_or_else(|error| {
        output::complain(&format!("error: {error:#}"));
        End::Failed
    });
    end.into()
}

/// Reads the configuration, or says everything that is wrong with it.
fn with_settings(path: Option<&Path>, verb: impl FnOnce(Loaded) -> anyhow::Result<End>) -> anyhow::Result<End> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let env = std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()));
    let loaded = config::load(path, env).and_then(|loaded| {
        let refused: Vec<Mistake> = unusable_properties(&loaded.settings.kafka)
            .into_iter()
            .map(|(key, reason)| Mistake {
                sentence: format!("kafka.properties.{key} is refused by librdkafka: {reason}; see its list of configuration properties"),
                key: format!("kafka.properties.{key}"),
            })
            .collect();
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

fn misconfigured(mistakes: &[Mistake]) {
    let noun = if mistakes.len() == 1 { "one mistake" } else { "mistakes" };
    output::complain(&format!("the configuration has {noun}:"));
    for mistake in mistakes {
        output::complain(&format!("  {mistake}"));
    }
}

/// Runs a short verb; what blocks past its end is left behind.
fn on_runtime(verb: impl Future<Output = anyhow::Result<End>>) -> anyhow::Result<End> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
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
            assert!(help.contains("Example: ") || help.contains("Example:\n") || help.contains("Examples:\n"), "{help}");
        }
    }

    #[test]
    fn the_configuration_file_stands_before_or_after_the_verb() {
        for line in [["x", "--config", "a.toml", "check"], ["x", "check", "--config", "a.toml"]] {
            assert_eq!(Arguments::try_parse_from(line).unwrap().config, Some(PathBuf::from("a.toml")));
        }
    }
}
