//! `dlq redrive --feeds`: a feed's record is not sent again but read again from the ERP, so what is
//! said is the backfill that does it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{clock::Timestamp, config::Settings, erp::record, sink::letter::Letter};

use super::{
    super::{End, output},
    Filter, letters,
};

/// The records of one feed and when they were modified.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    records: u64,
    modified: Option<(Timestamp, Timestamp)>,
    /// Records whose own `modified` cannot be read.
    undated: u64,
}

/// The feed a letter belongs to; its key is `["feed","record id"]`.
fn feed_of(letter: &Letter) -> Option<String> {
    let (feed, _) = serde_json::from_slice::<(String, Value)>(letter.key.as_deref()?).ok()?;
    Some(feed)
}

/// The record's modified time, as the feeds read it.
fn modified(letter: &Letter) -> Option<Timestamp> {
    record::instant(letter.value.as_deref()?, "modified")
}

/// Counts a letter into its feed's span.
fn add(spans: &mut BTreeMap<String, Span>, letter: &Letter) {
    let Some(feed) = feed_of(letter) else { return };
    let span = spans.entry(feed).or_insert(Span { records: 0, modified: None, undated: 0 });
    span.records += 1;
    match (modified(letter), &mut span.modified) {
        (None, _) => span.undated += 1,
        (Some(at), Some((first, last))) => (*first, *last) = ((*first).min(at), (*last).max(at)),
        (Some(at), none) => *none = Some((at, at)),
    }
}

pub(super) async fn execute(settings: &Settings, filter: &Filter) -> anyhow::Result<End> {
    let mut found = letters(settings, &settings.topics.feeds_dlq, filter);
    let mut spans = BTreeMap::new();
    while let Some(letter) = found.next().await? {
        add(&mut spans, &letter);
    }
    if spans.is_empty() {
        let _ = output::say("no such dead letter");
    }
    for (feed, span) in spans {
        let undated = if span.undated == 0 {
            String::new()
        } else {
            format!(", {} of them without a readable time", span.undated)
        };
        let _ = output::say(&format!(
            "{feed}: {} records{undated}; nothing was sent, they are read again from the ERP by",
            span.records
        ));
        match span.modified {
            Some((first, last)) => {
                let _ = output::say(&format!(
                    "  wdt-connector backfill --feed {feed} --from {first} --to {last}"
                ));
            }
            None => {
                let _ = output::say(
                    "  wdt-connector backfill over the period in which they were modified, see `dlq show --feeds`",
                );
            }
        }
    }
    Ok(End::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::tool::Seen;

    fn letter(key: &str, value: impl AsRef<[u8]>) -> Letter {
        let (key, value) = (Some(key.as_bytes().to_vec()), Some(value.as_ref().to_vec()));
        Letter::read(Seen {
            topic: "d".into(),
            partition: 0,
            offset: 0,
            timestamp: None,
            key,
            value,
            headers: vec![],
            unreadable_headers: 0,
        })
    }

    #[test]
    fn the_period_covers_every_record_of_a_feed_in_any_form_of_time() {
        let mut found = BTreeMap::new();
        for letter in [
            letter(r#"["purchase_returns","1"]"#, r#"{"modified":1796004672000}"#),
            letter(r#"["purchase_returns","2"]"#, r#"{"modified":"2026-11-30T10:11:13+08:00"}"#),
            letter(
                r#"["purchase_returns","3"]"#,
                b"{\"remark\":\"\xe7\xa0\",\"modified\":\"2026-11-30 10:11:14\"}",
            ),
            letter(r#"["purchase_returns","4"]"#, r#"{"modified":1796004672}"#),
            letter(r#"["return_outbounds","1"]"#, "no json"),
            letter("foreign", "{}"),
        ] {
            add(&mut found, &letter);
        }
        assert_eq!(found.len(), 2);
        let returns = Span {
            records: 4,
            modified: Some((Timestamp(1_796_004_672_000), Timestamp(1_796_004_674_000))),
            undated: 1,
        };
        assert_eq!(found.get("purchase_returns"), Some(&returns));
        assert_eq!(
            found.get("return_outbounds"),
            Some(&Span { records: 1, modified: None, undated: 1 })
        );
    }
}
