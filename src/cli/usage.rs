//! `check`: what of the quota is used now, as a running instance tells it, and how long the backlog
//! needs.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use secrecy::ExposeSecret;
use serde::Deserialize;

use crate::{
    config::{Settings, duration_text},
    kafka::Backlog,
    sink,
};

use super::{probe, report::Finding};

/// `/status` of a large instance: hundreds of partitions.
const MAX_STATUS: u64 = 4 << 20;

/// One row per budget of the instance that listens at `http.listen`, and one for the commands that
/// wait.
pub(super) async fn findings(settings: &Settings) -> Vec<Finding> {
    let mut listen = settings.http.listen;
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => listen.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => listen.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    let token = settings.http.token.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let token = token.as_ref().map(ExposeSecret::expose_secret);
        probe::get(&format!("http://{listen}/status"), token, MAX_STATUS)
    });
    let budgets = match asked.await {
        Ok(Ok((200, body))) => serde_json::from_str::<Status>(&body)
            .map(|status| status.sections.quota)
            .unwrap_or_default(),
        Ok(Ok(_) | Err(_)) | Err(_) => Vec::new(),
    };
    let mut rows: Vec<Finding> = budgets.iter().filter_map(Budget::finding).collect();
    if budgets.is_empty() {
        rows.push(Finding::good(
            "quota in use",
            format!("no instance answers at http.listen = {listen}, so the calls of the last minute are not known here"),
        ));
    }
    if settings.commands.enabled {
        let rate = budgets
            .iter()
            .find_map(Budget::commands_a_minute)
            .unwrap_or(f64::from(settings.quota.calls_per_minute) * settings.quota.share);
        rows.extend(backlog(settings, rate).await);
    }
    rows
}

/// The part of `/status` that is shown here.
#[derive(Deserialize)]
struct Status {
    sections: Sections,
}

#[derive(Deserialize)]
struct Sections {
    #[serde(default)]
    quota: Vec<Budget>,
}

/// One budget, as [`crate::erp::BudgetStatus`] is written.
#[derive(Deserialize)]
struct Budget {
    call: String,
    share: f64,
    rate: f64,
    used: BTreeMap<String, u64>,
    left: u64,
    refused: u64,
    waiting: BTreeMap<String, u64>,
    waiting_for_seconds: f64,
}

impl Budget {
    /// Of all instances, as far as one can tell for the others; `None` for a budget that does not
    /// pay for commands.
    fn commands_a_minute(&self) -> Option<f64> {
        let pays = matches!(self.call.as_str(), "create_order" | "flagship");
        Some(self.rate / self.share).filter(|rate| pays && rate.is_finite() && *rate > 0.0)
    }

    /// `None` for one that was never used.
    fn finding(&self) -> Option<Finding> {
        let (sum, waiting) = (self.used.values().sum::<u64>(), self.waiting.values().sum::<u64>());
        if sum + self.refused + waiting == 0 {
            return None;
        }
        let classes: Vec<String> = self
            .used
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(class, count)| format!("{class} {count}"))
            .collect();
        let says = format!(
            "{sum} calls in the last minute ({}) at {} a minute, {} left, {} refused since the start; {waiting} wait and need {}",
            if classes.is_empty() { "none".to_owned() } else { classes.join(", ") },
            self.rate,
            self.left,
            self.refused,
            about(self.waiting_for_seconds),
        );
        let subject = format!("quota: {}", self.call);
        Some(if self.refused == 0 {
            Finding::good(subject, says)
        } else {
            let advice = "other programs use this appkey: lower quota.calls_per_minute to what they leave, or ask for an appkey of its own";
            Finding::warning(subject, says, advice)
        })
    }
}

/// How long the commands that wait in Kafka need, and whether their log is what the group read;
/// nothing when Kafka does not answer, which another row says.
async fn backlog(settings: &Settings, rate: f64) -> Vec<Finding> {
    let topic = &settings.topics.commands;
    let Ok(backlog) = Backlog::of(&settings.kafka, sink::ROLE, topic) else { return Vec::new() };
    let Ok(unsettled) = backlog.count().await else { return Vec::new() };
    let says = format!(
        "{} commands wait in {topic} and need {} at {rate:.0} calls a minute",
        unsettled.records,
        about(unsettled.records as f64 * 60.0 / rate)
    );
    let mut rows = vec![Finding::good("backlog", says)];
    if unsettled.removed > 0 {
        rows.push(Finding::warning(
            "backlog",
            format!(
                "retention removed up to {} records of {topic} before they were read",
                unsettled.removed
            ),
            "have their senders send them again, and raise retention.ms of the topic",
        ));
    }
    rows.extend(unsettled.shorter.iter().map(|(partition, committed, end)| {
        Finding::bad(
            "backlog",
            format!("partition {partition} of {topic} ends at offset {end} although offset {committed} is committed: its log lost records, or was made again"),
            "restore the topic; otherwise run reads it from its beginning: known commands end as duplicates, others are processed",
        )
    }));
    rows
}

/// For people: hours and minutes, or seconds.
fn about(seconds: f64) -> String {
    let whole = std::time::Duration::from_secs_f64(seconds.clamp(0.0, 1e9)).as_secs();
    match whole {
        0..120 => duration_text(std::time::Duration::from_secs(whole)),
        120..7200 => format!("{} min", whole.div_ceil(60)),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::report::Level;

    #[test]
    fn a_budget_in_use_is_a_sentence_and_refusals_are_a_warning() {
        let read = |refused: u64, used: u64| -> Budget {
            serde_json::from_value(serde_json::json!({
                "call": "create_order", "share": 0.5, "rate": 25.0, "left": 9, "refused": refused, "waiting_for_seconds": 144.0,
                "used": {"command": used, "lookup": 0}, "waiting": {"command": used},
            }))
            .unwrap()
        };
        let found = read(0, 25).finding().unwrap();
        assert_eq!(found.level, Level::Good);
        assert_eq!(
            found.says,
            "25 calls in the last minute (command 25) at 25 a minute, 9 left, 0 refused since the start; 25 wait and need 3 min"
        );
        assert_eq!(read(2, 25).finding().unwrap().level, Level::Warning);
        assert!(read(0, 0).finding().is_none());
        assert_eq!(read(0, 0).commands_a_minute(), Some(50.0));
    }

    #[test]
    fn spans_are_for_people() {
        assert_eq!(
            [about(0.0), about(45.2), about(1440.0), about(86_400.0)],
            ["0s", "45s", "24 min", "24.0 h"].map(str::to_owned)
        );
    }
}
