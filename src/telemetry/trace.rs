//! The trace of one command: a root span from its delivery to its settlement, one span for each hop
//! it waits in.

use std::sync::Arc;

use opentelemetry::{
    propagation::{Extractor, TextMapPropagator},
    trace::TraceContextExt,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::{Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::metrics::Hop;

/// By which the spans of commands are told from those of feeds.
pub(super) const TARGET: &str = module_path!();

/// Headers of a Kafka record.
type Headers = [(String, Option<Vec<u8>>)];

/// A command's spans; they end when the last clone is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    root: Span,
    hop: Span,
    id: Option<Arc<str>>,
}

struct Carrier<'a>(&'a Headers);

impl Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(key))?;
        std::str::from_utf8(value.as_deref()?).ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }
}

impl Trace {
    /// Begins where the sender's trace left off, if the record names one.
    #[must_use]
    pub(crate) fn begin((return_no, command_id): (&str, &str), headers: &Headers) -> Self {
        let root = tracing::info_span!(
            "command",
            command.return_no = return_no,
            command.id = command_id,
            command.outcome = Empty,
            trace.id = Empty
        );
        let mut id = None;
        if headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("traceparent")) {
            let context = TraceContextPropagator::new().extract(&Carrier(headers));
            let valid = context.span().span_context().is_valid();
            if valid {
                let text = context.span().span_context().trace_id().to_string();
                root.record("trace.id", text.as_str());
                id = Some(text.into());
                // Without a collector nobody keeps the parent, which is no fault.
                let _ = root.set_parent(context);
            }
        }
        Self { root, hop: Span::none(), id }
    }

    /// Ends the hop before and begins this one.
    pub(crate) fn enter(&mut self, hop: Hop) {
        let root = &self.root;
        self.hop = match hop {
            Hop::Command | Hop::Window(_) => Span::none(),
            Hop::Validate => tracing::info_span!(parent: root, "validate"),
            Hop::Journal => tracing::info_span!(parent: root, "journal"),
            Hop::Call => {
                tracing::info_span!(parent: root, "call", erp.call = Empty, erp.result = Empty)
            }
            Hop::Outcome => tracing::info_span!(parent: root, "outcome"),
            Hop::Settle => tracing::info_span!(parent: root, "settle"),
            Hop::Fetch(_) => tracing::info_span!(parent: root, "fetch"),
            Hop::Diff(_) => tracing::info_span!(parent: root, "diff"),
            Hop::Change(_) => tracing::info_span!(parent: root, "change"),
            Hop::Publish(_) => tracing::info_span!(parent: root, "publish"),
        };
    }

    /// The span of the hop it is in.
    #[must_use]
    pub(crate) fn hop(&self) -> Span {
        self.hop.clone()
    }

    /// Whether nobody wants its spans.
    #[cfg(test)]
    pub(super) fn is_none(&self) -> bool {
        self.root.is_none() && self.hop.is_none()
    }

    /// How the command ended.
    pub(crate) fn ended(&self, outcome: &'static str) {
        self.root.record("command.outcome", outcome);
    }

    /// The sender's trace id, for log lines.
    #[must_use]
    pub(crate) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_valid_traceparent_names_a_trace() {
        let headers =
            |value: &str| vec![("traceparent".to_owned(), Some(value.as_bytes().to_vec()))];
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let id = |headers: &Headers| Trace::begin(("R", "c"), headers).id().map(str::to_owned);
        assert_eq!(id(&headers(good)).as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        for bad in
            ["", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", "ff-4bf92f35", "x\r\ny"]
        {
            assert_eq!(id(&headers(bad)), None, "{bad}");
        }
        assert_eq!(id(&[("traceparent".to_owned(), None)]), None);
    }
}
