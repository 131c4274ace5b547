//! How values are written: durations, instants, addresses, names.

use std::time::Duration;

use axum::http::Uri;

use crate::clock::Timestamp;

const UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Longer is a slip of the pen, and would overflow sums.
const LONGEST: Duration = Duration::from_secs(3650 * 86_400);

/// Reads `"250ms"`, `"5s"`, `"10m"`, `"2h"`, `"30d"`, and several of them in a row (`"1m30s"`);
/// `None` for anything else.
#[must_use]
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = 0_u64;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.find(|ch: char| !ch.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let end = tail.find(|ch: char| ch.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(*scale)?)?;
        parts += 1;
        rest = tail;
    }
    let total = Duration::from_millis(total);
    (parts > 0 && total <= LONGEST).then_some(total)
}

/// Reads a part of a whole, from a hundredth to all of it; `None` for anything else.
#[must_use]
pub(super) fn parse_fraction(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|part| (0.01..=1.0).contains(part))
}

/// A duration as an operator would write it, in one unit.
#[must_use]
pub(crate) fn duration_text(span: Duration) -> String {
    let ms = crate::clock::millis(span);
    let (unit, scale) = UNITS
        .iter()
        .rev()
        .find(|(_, scale)| ms >= *scale && ms.is_multiple_of(*scale))
        .copied()
        .unwrap_or(("s", 1000));
    format!("{}{unit}", ms / scale)
}

/// Reads an RFC 3339 instant; `None` for anything else, a missing offset included.
#[must_use]
pub(crate) fn parse_instant(text: &str) -> Option<Timestamp> {
    text.trim().parse::<jiff::Timestamp>().ok().map(|instant| Timestamp(instant.as_millisecond()))
}

/// Whether a text is an `http://` or `https://` address with a host.
pub(super) fn is_web_address(text: &str) -> bool {
    text.parse::<Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.query().is_none()
    })
}

/// Whether an address carries `user:password@`.
pub(super) fn has_credentials(text: &str) -> bool {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@'))
}

/// `host:port,host:port`; a port is required.
pub(super) fn is_bootstrap(text: &str) -> bool {
    text.split(',').all(|server| {
        let server = server.trim();
        let server = server.split_once("://").map_or(server, |(_, rest)| rest);
        server.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty()
                && !host.contains(char::is_whitespace)
                && port.parse::<u16>().is_ok_and(|port| port > 0)
        })
    })
}

/// Kafka's rule for names of topics.
pub(super) fn is_kafka_name(text: &str) -> bool {
    (1..=249).contains(&text.len())
        && text != "."
        && text != ".."
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, ms) in [
            ("250ms", 250),
            ("5s", 5000),
            ("10m", 600_000),
            ("2h", 7_200_000),
            ("30d", 2_592_000_000),
            ("1m30s", 90_000),
            ("0s", 0),
            ("0", 0),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "5 s",
            "-5s",
            "1.5s",
            "5sec",
            "99999999d",
            "18446744073709551616ms",
            "五s",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_written_in_one_unit() {
        for (ms, text) in [
            (0, "0s"),
            (250, "250ms"),
            (65_000, "65s"),
            (120_000, "2m"),
            (86_400_000, "1d"),
            (1500, "1500ms"),
        ] {
            assert_eq!(duration_text(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn instants_need_an_offset() {
        assert_eq!(parse_instant("2012-01-01T00:00:00+08:00"), Some(Timestamp(1_325_347_200_000)));
        assert_eq!(parse_instant("2011-12-31T16:00:00Z"), Some(Timestamp(1_325_347_200_000)));
        for text in ["2012-01-01", "2012-01-01T00:00:00", "yesterday", ""] {
            assert_eq!(parse_instant(text), None, "{text}");
        }
    }

    #[test]
    fn addresses() {
        for text in ["http://wdt.wangdian.cn/openapi", "https://h:8443/x/", "http://127.0.0.1:80"] {
            assert!(is_web_address(text), "{text}");
        }
        for text in
            ["wdt.wangdian.cn/openapi", "ftp://h/", "http://", "", "http://h/?a=1", "http://h h/"]
        {
            assert!(!is_web_address(text), "{text}");
        }
        assert!(has_credentials("http://u:p@h/x") && !has_credentials("http://h/x@y"));
        for text in ["localhost:9092", "a:1,b:2", "[::1]:9092", "SASL_SSL://k:9093", "a:1, b:2"] {
            assert!(is_bootstrap(text), "{text}");
        }
        for text in ["", "localhost", "a:1,", ":9092", "a:0", "a:70000"] {
            assert!(!is_bootstrap(text), "{text}");
        }
    }
}
