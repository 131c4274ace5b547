//! `journal`: what an operator declares about the journal topic.

use crate::{
    clock::Timestamp,
    config::{Loaded, Settings},
    kafka::{admin::Admin, tool::Sender},
    schema::{Codec, Subject},
    sink,
};

use super::{End, output, topics::PATIENCE};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Verb {
    /// Declare the journal lost: every command sent so far is looked up in the ERP before it is
    /// called
    #[command(
        after_help = "Example: wdt-connector journal declare-lost --yes --config connector.toml\n\
        Only for a journal that is gone for good. Every command sent so far, and ten minutes more, costs a lookup before its call."
    )]
    DeclareLost {
        /// Confirm: the journal is gone and cannot be restored
        #[arg(long)]
        yes: bool,
    },
}

pub(super) async fn execute(args: Args, loaded: Loaded) -> anyhow::Result<End> {
    match args.verb {
        Verb::DeclareLost { yes } => declare_lost(&loaded.settings, yes).await,
    }
}

/// Writes into every partition of the journal that everything before was lost.
async fn declare_lost(settings: &Settings, yes: bool) -> anyhow::Result<End> {
    let topic = &settings.topics.journal;
    if !yes {
        output::complain(&format!(
            "nothing was changed: --yes declares {topic} lost, and every command sent until now is then looked for in the ERP before it is called"
        ));
        return Ok(End::Misconfigured);
    }
    let admin = Admin::connect(&settings.kafka)?;
    let cluster = admin.cluster(PATIENCE).await?;
    let Some(shape) = cluster.topics.get(topic) else {
        anyhow::bail!("{topic} does not exist; create it with `wdt-connector topics` first");
    };
    let codec =
        Codec::connect(settings.schema_registry.as_ref(), &settings.topics, &[Subject::Journal])
            .await?;
    let sender = Sender::connect(&settings.kafka, settings.commands.partitioner)?;
    let at = Timestamp::now();
    for partition in 0..shape.partitions {
        let (key, entry) = sink::lost_entry(partition, at);
        sender.queue_to(topic, partition, &key, &codec.encode_journal(&entry)?)?.await?;
    }
    let _ = output::say(&format!(
        "{topic} is declared lost in {} partitions as of {at}; start the connector again",
        shape.partitions
    ));
    Ok(End::Done)
}
