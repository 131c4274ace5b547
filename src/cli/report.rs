//! The table of `check` and `topics`: what was looked at, what was found, what to do.

use serde_json::{Value, json};

use crate::telemetry::one_line;

use super::{End, output};

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Good,
    /// Cannot be told from here.
    NotTested,
    /// Works, but somebody should know.
    Warning,
    Bad,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) subject: String,
    pub(super) says: String,
    /// What to do about it.
    pub(super) advice: Option<String>,
}

impl Finding {
    pub(super) fn good(subject: impl Into<String>, says: impl Into<String>) -> Self {
        Self { level: Level::Good, subject: subject.into(), says: says.into(), advice: None }
    }

    pub(super) fn not_tested(
        subject: impl Into<String>,
        says: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { level: Level::NotTested, ..Self::warning(subject, says, advice) }
    }

    pub(super) fn warning(
        subject: impl Into<String>,
        says: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Warning,
            subject: subject.into(),
            says: says.into(),
            advice: Some(advice.into()),
        }
    }

    pub(super) fn bad(
        subject: impl Into<String>,
        says: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Bad,
            subject: subject.into(),
            says: says.into(),
            advice: Some(advice.into()),
        }
    }
}

/// Prints rows as they are found, or as one JSON document at the end, and remembers the worst.
#[derive(Debug)]
pub(super) struct Report {
    worst: Level,
    /// What will be printed at the end.
    kept: Option<Vec<Value>>,
}

/// Subjects are padded to this; longer ones push their row.
const SUBJECT_WIDTH: usize = 36;

impl Report {
    pub(super) fn new() -> Self {
        Self { worst: Level::Good, kept: None }
    }

    /// For programs.
    pub(super) fn json() -> Self {
        Self { worst: Level::Good, kept: Some(Vec::new()) }
    }

    pub(super) fn add(&mut self, finding: &Finding) {
        self.worst = self.worst.max(finding.level);
        if let Some(kept) = &mut self.kept {
            kept.push(document(finding));
            return;
        }
        // A closed pipe does not change what the exit code says.
        let _ = output::say(&row(finding));
    }

    pub(super) fn add_all(&mut self, findings: &[Finding]) {
        for finding in findings {
            self.add(finding);
        }
    }

    /// Warnings do not fail.
    pub(super) fn end(self) -> End {
        if let Some(kept) = self.kept {
            let _ = output::say(&format!(
                "{:#}",
                json!({ "result": word(self.worst), "findings": kept })
            ));
        }
        match self.worst {
            Level::Good | Level::NotTested | Level::Warning => End::Done,
            Level::Bad => End::Failed,
        }
    }
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Good => "good",
        Level::NotTested => "not_tested",
        Level::Warning => "warning",
        Level::Bad => "bad",
    }
}

fn document(finding: &Finding) -> Value {
    json!({ "level": word(finding.level), "subject": finding.subject, "says": finding.says, "advice": finding.advice })
}

fn row(finding: &Finding) -> String {
    let sign = match finding.level {
        Level::Good => '✓',
        Level::NotTested => '?',
        Level::Warning => '⚠',
        Level::Bad => '✗',
    };
    let advice =
        finding.advice.as_deref().map(|advice| format!("\n  → {advice}")).unwrap_or_default();
    format!("{sign} {:SUBJECT_WIDTH$}  {}{advice}", finding.subject, one_line(&finding.says))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failure_fails() {
        let mut report = Report::new();
        report.add(&Finding::good("kafka", "3 brokers"));
        report.add(&Finding::not_tested("createOrder", "check makes no order", "send a command"));
        report.add(&Finding::warning("replicas", "one", "add brokers"));
        assert_eq!(report.end(), End::Done);
        let mut report = Report::json();
        report.add(&Finding::bad("topic", "missing", "create it"));
        report.add(&Finding::good("x", "y"));
        assert_eq!(report.end(), End::Failed);
    }

    #[test]
    fn a_row_names_sign_subject_finding_and_advice() {
        let text = row(&Finding::bad("topic x", "is missing", "create it"));
        assert!(
            text.starts_with("✗ topic x ") && text.ends_with("is missing\n  → create it"),
            "{text}"
        );
    }
}
