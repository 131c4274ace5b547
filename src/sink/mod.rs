//! The command pipeline: each command creates exactly one outbound order in the ERP.
//!
//! ```text
//! record ─▶ command ─▶ validate ─▶ journal ─▶ call ─▶ outcome ─▶ settle ─▶ result, journal, dead letter, offset
//!                                                    (journal)            in one transaction
//! ```
//!
//! [`engine`] is one task that owns all state; slow work returns to it as events. [`intake`] queues
//! commands by key, [`flow`] dispatches calls, [`asking`] looks up commands whose outcome is
//! unknown, [`commit`] assembles transactions, and [`partition`] takes partitions over. [`journal`]
//! holds the decisions as pure functions, which the model checker calls too.
//!
//! The guarantees and their assumptions are in `docs/delivery.md#command-pipeline`.

mod asking;
mod breaker;
mod bundle;
mod call;
mod command;
mod commit;
pub mod decision;
mod engine;
mod flow;
#[doc(hidden)]
pub mod fuzz;
mod input_log;
mod intake;
mod journal;
pub(crate) mod letter;
mod orphan;
mod partition;
mod patience;
mod placement;
mod retry;
mod settle;
mod status;
mod story;
mod sweep;
mod validate;
mod visibility;

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    board::Board,
    clock::Moment,
    config::Settings,
    erp::Erp,
    kafka::{
        Group, GroupOptions, LEAVE, POLL_MARGIN, Store, Transactor, check_compacted,
        control::Controls, partition_counts,
    },
    metrics::Metrics,
    restarts::{Next, Restarts},
    schema::{Codec, CreateReturnOutbound},
};

use command::Parsed;
use engine::{Ended, Engine};
use journal::Timing;
use retry::Pauses;

pub use call::order_request;
pub(crate) use call::orders_of;
pub(crate) use command::identify;
pub(crate) use partition::{count_entry, declares_lost, lost_entry};
pub(crate) use settle::journal_key;
pub use validate::{fingerprint, marker, partition_of};

/// What the pipeline needs from the outside.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub settings: Arc<Settings>,
    pub erp: Erp,
    pub codec: Arc<Codec>,
    pub metrics: Arc<Metrics>,
    pub board: Board,
    pub shutdown: CancellationToken,
    /// What an operator decided for all instances.
    pub controls: Controls,
}

/// Reads one JSON object as the pipeline reads a JSON command; business rules are left to the
/// pipeline (used by `send`).
///
/// # Errors
/// Everything that is wrong with it, one sentence each, naming the field.
pub(crate) fn read_json(bytes: &[u8]) -> Result<CreateReturnOutbound, Vec<String>> {
    match command::parse_json(bytes) {
        Parsed::Command(command) => Ok(*command),
        Parsed::Invalid { violations, .. } => Err(violations),
        Parsed::Poison(reason) => Err(vec![reason]),
        Parsed::Unlearnt(id) => Err(vec![format!("schema id {id} is not known")]),
    }
}

/// Why the pipeline ended by itself: one sentence.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct PipelineFault(pub String);

/// The role of this pipeline in group, client and transactional ids.
pub(crate) const ROLE: &str = "commands";

/// Records of one partition that are delivered and not settled; what settles ahead of the first of
/// them has to fit into the offset's metadata.
const PENDING: usize = 1000;

/// Before the first of several restarts in a row; the pauses grow to half a minute.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// A session that lasted this long ends such a row.
const QUIET: Duration = Duration::from_secs(60);

/// Runs the pipeline until the shutdown, beginning again from the log whenever nobody knows what
/// was committed.
///
/// # Errors
/// [`PipelineFault`] when it cannot go on: fenced by another process, a journal that was lost,
/// topics that do not fit.
pub(crate) async fn run(parts: Parts) -> Result<(), PipelineFault> {
    let pulse = parts.board.pulse(ROLE, Duration::from_secs(30));
    parts.board.ready(ROLE, Err("starting".into()));
    let mut restarts = Restarts::new(&parts.settings);
    let mut pauses = Pauses::from(FIRST_PAUSE);
    loop {
        let began = Moment::now();
        let silence = restarts.silence_limit(parts.settings.commands.drain_timeout + POLL_MARGIN);
        let (reason, pause) = match session(&parts, &pulse, silence).await? {
            Ended::Shutdown => return Ok(()),
            Ended::Failed(reason) => return Err(PipelineFault(reason)),
            Ended::Restart(reason) => {
                if began.until(Moment::now()) > QUIET {
                    pauses.reset();
                }
                (reason, pauses.next_pause())
            }
            Ended::Stopped { reason, standstill } => {
                let now = Moment::now();
                match restarts.after(began.until(now), standstill, now) {
                    Next::Restart(pause) => (reason, pause),
                    Next::EndProcess => return Err(PipelineFault(reason)),
                }
            }
        };
        tracing::warn!(error = %reason, "command pipeline restarting from committed offsets");
        parts.board.ready(ROLE, Err(reason));
        pulse.beat();
        tokio::select! {
            () = parts.shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// From joining the group to leaving it. The polling thread may be silent for `silence`.
async fn session(
    parts: &Parts,
    pulse: &crate::board::Pulse,
    silence: Duration,
) -> Result<Ended, PipelineFault> {
    let settings = &parts.settings;
    let Some(partition_count) = wait_for_topics(parts, pulse).await? else {
        return Ok(Ended::Shutdown);
    };
    tracing::debug!(kafka.partition_count = partition_count, "topics verified");
    // Known before the first command is begun: a pause holds through restarts.
    let mut tries = 0;
    while tokio::time::timeout(Duration::from_secs(1), parts.controls.settled()).await.is_err() {
        pulse.beat();
        let reason = format!("{} is not read to its end yet", settings.topics.control);
        // A broker that is only slow is not worth a line.
        tries += 1;
        if tries == 10 {
            tracing::warn!(error = %reason, "command pipeline waiting for the control topic");
        }
        parts.board.ready(ROLE, Err(reason));
        if parts.shutdown.is_cancelled() {
            return Ok(Ended::Shutdown);
        }
    }
    let store =
        Store::create(&settings.cache_dir, &format!("journal-{}", settings.kafka.instance_ordinal))
            .map_err(|fault| PipelineFault(fault.to_string()))?;
    let transactor = Transactor::start(&settings.kafka, ROLE, &settings.topics.journal, true)
        .map_err(PipelineFault)?;
    let options = GroupOptions {
        role: ROLE.into(),
        topic: settings.topics.commands.clone(),
        pending_limit: PENDING,
    };
    let (group, events) =
        Group::join(&settings.kafka, options).map_err(|fault| PipelineFault(fault.to_string()))?;
    let (happened, receiver) = mpsc::unbounded_channel();
    let commands = &settings.commands;
    let timing = Timing {
        intent_ttl: commands.intent_ttl,
        call_timeout: commands.call_timeout,
        apply_grace: commands.apply_grace,
        lookup_interval: commands.lookup_interval,
        lookup_timeout: commands.lookup_timeout,
        max_attempts: commands.max_attempts,
        unapproved_retry_timeout: commands.unapproved_retry_timeout,
    };
    let engine =
        Engine::new(parts, timing, partition_count, group.clone(), transactor, store, happened);
    // Answered before the first partition is taken over, by a broker that answers such questions.
    let compacted = check_compacted(&settings.kafka, &settings.topics.journal);
    let ended = tokio::select! {
        ended = engine.run(events, receiver, pulse, silence) => ended,
        Err(reason) = compacted => Ended::Failed(reason),
    };
    group.abandon(LEAVE).await;
    Ok(ended)
}

/// Commands and journal must exist and have the same number of partitions: an entry stands in the
/// partition of its command.
async fn wait_for_topics(
    parts: &Parts,
    pulse: &crate::board::Pulse,
) -> Result<Option<i32>, PipelineFault> {
    let topics = &parts.settings.topics;
    let mut said = String::new();
    loop {
        pulse.beat();
        let names = [&*topics.commands, &topics.journal, &topics.results, &topics.commands_dlq];
        let counts = tokio::select! {
            counts = partition_counts(&parts.settings.kafka, &names) => counts,
            () = parts.shutdown.cancelled() => return Ok(None),
        };
        let reason = match counts {
            Err(reason) => reason,
            Ok(counts) => match counts.as_slice() {
                [Some(commands), Some(journal), Some(_), Some(_)] if commands == journal => {
                    return Ok(Some(*commands));
                }
                [Some(commands), Some(journal), ..] if commands != journal => {
                    return Err(PipelineFault(format!(
                        "{} has {commands} partitions and {} has {journal}; they must be equal: stop every instance and run `wdt-connector topics repartition --partitions {}`",
                        topics.commands,
                        topics.journal,
                        commands.max(journal)
                    )));
                }
                _ => {
                    let missing = names.iter().zip(&counts).filter(|(_, count)| count.is_none());
                    let missing: Vec<&str> = missing.map(|(name, _)| *name).collect();
                    format!(
                        "{} missing; create what is missing with `wdt-connector topics --with-commands`",
                        missing.join(", ")
                    )
                }
            },
        };
        if said != reason {
            tracing::warn!(error = %reason, "command pipeline waiting for its topics");
            said.clone_from(&reason);
        }
        parts.board.ready(ROLE, Err(reason));
        tokio::select! {
            () = parts.shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod repeat;
