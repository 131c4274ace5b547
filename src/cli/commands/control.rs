//! `commands pause` and `commands resume`: a record for all instances, which holds through
//! restarts.

use serde_json::json;

use crate::{
    clock::Timestamp,
    config::Settings,
    kafka::control::{decide, pipeline_key},
};

use super::{
    super::{End, output},
    operator,
};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Who asks for it, shown in /status [default: $USER]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Paused,
    Running,
}

/// The name of the command pipeline in the control topic.
const PIPELINE: &str = "commands";

pub(super) async fn execute(args: &Args, settings: &Settings, state: State) -> anyhow::Result<End> {
    let (word, says) = match state {
        State::Paused => (
            "paused",
            "no instance begins a new command; lookups go on; `wdt-connector commands resume` ends that",
        ),
        State::Running => ("running", "every instance goes on"),
    };
    let by = args.by.clone().unwrap_or_else(operator);
    let decision = json!({ "state": word, "by": by, "at": Timestamp::now().to_string() });
    decide(&settings.kafka, &settings.topics.control, pipeline_key(PIPELINE), Some(&decision))
        .await?;
    let _ = output::say(&format!("the command pipeline is {word}: {says}"));
    Ok(End::Done)
}
