//! `schemas`: the contract of the topics, as text and in the registry.

use anyhow::bail;
use serde_json::json;

use crate::{
    config::{Loaded, RegistrySettings, Settings},
    schema::{self, SchemaInfo, Standing, Subject},
};

use super::{
    End, check, output,
    report::{Finding, Report},
};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Verb {
    /// List the schemas, or print one
    #[command(
        after_help = "Example: wdt-connector schemas print CommandResult > CommandResult.avsc"
    )]
    Print {
        /// Name of a schema, such as CreateReturnOutbound; without it all are listed
        name: Option<String>,
        /// The list as JSON
        #[arg(long, conflicts_with = "name")]
        json: bool,
    },
    /// Register the schemas of the enabled pipelines with the registry
    #[command(
        after_help = "Example: wdt-connector schemas register --config connector.toml\nExits 1 when the registry refuses one."
    )]
    Register,
    /// Compare the schemas of the enabled pipelines with the registry; nothing is written
    #[command(
        after_help = "Example: wdt-connector schemas check --config connector.toml\nExits 1 when one is incompatible."
    )]
    Check,
}

impl Args {
    /// `print` needs no configuration.
    pub(super) fn needs_settings(&self) -> bool {
        !matches!(self.verb, Verb::Print { .. })
    }
}

/// Prints the list, or one schema.
pub(super) fn print(args: &Args) -> anyhow::Result<End> {
    let Verb::Print { name, json } = &args.verb else { bail!("this verb needs a configuration") };
    let all = schema::schemas();
    let Some(name) = name else {
        let _ = output::say(&if *json { list_json(&all) } else { list(&all) });
        return Ok(End::Done);
    };
    let Some(one) = all.iter().find(|one| one.name.eq_ignore_ascii_case(name)) else {
        let names: Vec<&str> = all.iter().map(|one| one.name).collect();
        output::complain(&format!("there is no schema {name:?}; there are {}", names.join(", ")));
        return Ok(End::Misconfigured);
    };
    let _ = output::say(one.text.trim_end());
    Ok(End::Done)
}

fn list(all: &[SchemaInfo]) -> String {
    let rows: Vec<String> = all
        .iter()
        .map(|one| {
            let carried = one.subject.map_or_else(
                || "inside FeedState and its envelope".to_owned(),
                |subject| format!("topics.{}", topic_key(subject)),
            );
            format!("{:24}  {:016x}  {carried}", one.name, one.fingerprint)
        })
        .collect();
    rows.join("\n")
}

fn list_json(all: &[SchemaInfo]) -> String {
    let rows: Vec<serde_json::Value> = all
        .iter()
        .map(|one| json!({ "name": one.name, "fingerprint": format!("{:016x}", one.fingerprint), "topic": one.subject.map(topic_key) }))
        .collect();
    format!("{:#}", serde_json::Value::Array(rows))
}

/// The configuration key that names a subject's topic.
fn topic_key(subject: Subject) -> &'static str {
    match subject {
        Subject::Command => "commands",
        Subject::Result => "results",
        Subject::Journal => "journal",
        Subject::PurchaseReturnEnvelope => "purchase_returns",
        Subject::ReturnOutboundEnvelope => "return_outbounds",
        Subject::FeedState => "feeds_state",
    }
}

/// `register` and `check`.
pub(super) async fn execute(args: Args, loaded: Loaded) -> anyhow::Result<End> {
    let settings = loaded.settings;
    let Some(registry) = &settings.schema_registry else {
        output::complain(
            "there is no schema registry in the configuration; set schema_registry.url, or go on without one: values then carry Avro single-object encoding",
        );
        return Ok(End::Misconfigured);
    };
    let mut report = Report::new();
    for subject in subjects(&settings) {
        let name = subject.name(&settings.topics);
        report.add(&match args.verb {
            Verb::Register => registered(registry, &name, subject).await,
            Verb::Check | Verb::Print { .. } => compared(registry, &name, subject).await,
        });
    }
    Ok(report.end())
}

/// Those of the enabled pipelines; all when none is enabled yet.
fn subjects(settings: &Settings) -> Vec<Subject> {
    let found = check::subjects(settings);
    if found.is_empty() {
        schema::schemas().iter().filter_map(|one| one.subject).collect()
    } else {
        found
    }
}

async fn registered(registry: &RegistrySettings, name: &str, subject: Subject) -> Finding {
    match schema::register(registry, name, subject).await {
        Ok(id) => Finding::good(name, format!("registered with id {id}")),
        Err(fault) => Finding::bad(
            name,
            fault.to_string(),
            "compare the two with: wdt-connector schemas check",
        ),
    }
}

async fn compared(registry: &RegistrySettings, name: &str, subject: Subject) -> Finding {
    match schema::standing(registry, name, subject).await {
        Ok(Standing::Registered(id)) => Finding::good(name, format!("registered with id {id}")),
        Ok(Standing::New) if registry.register => {
            Finding::good(name, "not there yet; run registers it")
        }
        Ok(Standing::New) => Finding::bad(name, "not there", "run: wdt-connector schemas register"),
        Ok(Standing::Compatible) if registry.register => Finding::warning(
            name,
            "an other version is there, to which this one is compatible; run registers this one",
            "nothing has to be done",
        ),
        Ok(Standing::Compatible) => Finding::bad(
            name,
            "an other version is there, to which this one is compatible",
            "run: wdt-connector schemas register",
        ),
        Ok(Standing::Incompatible(reason)) => Finding::bad(
            name,
            format!("the registry holds a version to which this one is not compatible: {reason}"),
            "another program registered it: use a topic of your own, or have that subject deleted",
        ),
        Err(fault) => Finding::bad(
            name,
            fault.to_string(),
            "check schema_registry.url, auth_file and the network",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_is_listed_with_its_topic() {
        let text = list(&schema::schemas());
        assert!(
            text.lines()
                .any(|line| line.starts_with("CommandResult") && line.ends_with("topics.results")),
            "{text}"
        );
        assert!(
            text.lines().any(|line| line.starts_with("ReturnOutbound ") && line.contains("inside")),
            "{text}"
        );
        assert_eq!(text.lines().count(), 8);
    }
}
