//! The simulator's own clock and calendar; shares nothing with the client's.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Beijing is UTC+8 all year.
const BEIJING_SECONDS: i64 = 28_800;
/// Julian day number of 1970-01-01.
const EPOCH_JULIAN_DAY: i64 = 2_440_588;
/// 2012-01-01 00:00:00 in Beijing, from which flagship timestamps count.
pub(super) const FLAGSHIP_EPOCH: i64 = 1_325_347_200;

/// The ERP's wall clock: this machine's, shifted by a settable offset.
#[derive(Debug, Default)]
pub(super) struct Clock {
    offset_ms: AtomicI64,
}

impl Clock {
    /// A clock that runs `offset_ms` ahead of this machine's.
    pub(super) fn new(offset_ms: i64) -> Self {
        Self { offset_ms: AtomicI64::new(offset_ms) }
    }

    pub(super) fn set_offset_ms(&self, offset_ms: i64) {
        self.offset_ms.store(offset_ms, Ordering::Relaxed);
    }

    pub(super) fn offset_ms(&self) -> i64 {
        self.offset_ms.load(Ordering::Relaxed)
    }

    /// Whole seconds since 1970: the resolution of everything the ERP stores.
    pub(super) fn now(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let now_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        now_ms.saturating_add(self.offset_ms()).div_euclid(1000)
    }
}

/// Year, month and day of a day number since 1970 (Fliegel and Van Flandern, 1968).
fn date_of(days: i64) -> (i64, i64, i64) {
    let mut l = days + EPOCH_JULIAN_DAY + 68_569;
    let n = 4 * l / 146_097;
    l -= (146_097 * n + 3) / 4;
    let i = 4000 * (l + 1) / 1_461_001;
    l = l - 1461 * i / 4 + 31;
    let j = 80 * l / 2447;
    let day = l - 2447 * j / 80;
    l = j / 11;
    (100 * (n - 49) + i + l, j + 2 - 12 * l, day)
}

/// Day number since 1970 of a Gregorian date (Fliegel and Van Flandern, 1968).
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let a = (month - 14) / 12;
    let julian = 1461 * (year + 4800 + a) / 4 + 367 * (month - 2 - 12 * a) / 12
        - 3 * ((year + 4900 + a) / 100) / 4
        + day
        - 32_075;
    julian - EPOCH_JULIAN_DAY
}

/// `yyyy-MM-dd HH:mm:ss` in Beijing time.
pub(super) fn beijing(second: i64) -> String {
    let local = second + BEIJING_SECONDS;
    let (year, month, day) = date_of(local.div_euclid(86_400));
    let rest = local.rem_euclid(86_400);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}",
        rest / 3600,
        rest % 3600 / 60,
        rest % 60
    )
}

/// `yyyyMMdd` in Beijing time, as document numbers carry it.
pub(super) fn beijing_day(second: i64) -> String {
    let (year, month, day) = date_of((second + BEIJING_SECONDS).div_euclid(86_400));
    format!("{year:04}{month:02}{day:02}")
}

/// Reads what [`beijing`] writes; `None` for any other text and for dates the calendar does not
/// have.
pub(super) fn parse_beijing(text: &str) -> Option<i64> {
    let shape = text.len() == 19
        && text.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            10 => byte == b' ',
            13 | 16 => byte == b':',
            _ => byte.is_ascii_digit(),
        });
    if !shape {
        return None;
    }
    let part =
        |from: usize, to: usize| text.get(from..to).and_then(|digits| digits.parse::<i64>().ok());
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = days_of(year, month, day);
    // A date that does not come back as it went in is not in the calendar.
    (date_of(days) == (year, month, day))
        .then_some(days * 86_400 + hour * 3600 + minute * 60 + second - BEIJING_SECONDS)
}

/// The form of an HTTP `Date` header.
pub(super) fn http_date(second: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let days = second.div_euclid(86_400);
    let rest = second.rem_euclid(86_400);
    let (year, month, day) = date_of(days);
    let name = |names: &[&'static str], at: i64| {
        usize::try_from(at).ok().and_then(|at| names.get(at).copied()).unwrap_or_default()
    };
    format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        name(&DAYS, days.rem_euclid(7)),
        name(&MONTHS, month - 1),
        rest / 3600,
        rest % 3600 / 60,
        rest % 60
    )
}

/// Reads a span: digits with `ms`, `s`, `m`, `h` or `d` behind them (`50ms`, `1.5s`).
///
/// # Errors
/// One sentence naming the text.
pub(crate) fn parse_span(text: &str) -> Result<Duration, String> {
    let refuse = || format!("\"{text}\" is not a duration; write for example 50ms, 2s or 10m");
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(refuse)?;
    let (amount, unit) = text.split_at(unit_at);
    let amount: f64 = amount.parse().map_err(|_| refuse())?;
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(refuse()),
    };
    Duration::try_from_secs_f64(amount * seconds).map_err(|_| refuse())
}

/// A span in whole milliseconds.
pub(super) fn span_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beijing_time_goes_there_and_back() {
        for (text, second) in [
            ("1970-01-01 08:00:00", 0),
            ("2012-01-01 00:00:00", FLAGSHIP_EPOCH),
            ("2023-02-07 14:23:27", 1_675_751_007),
            ("2024-02-29 23:59:59", 1_709_222_399),
        ] {
            assert_eq!(beijing(second), text);
            assert_eq!(parse_beijing(text), Some(second));
        }
        for text in [
            "",
            "2023-02-29 00:00:00",
            "2023-00-01 00:00:00",
            "2023-01-01 24:00:00",
            "2023-01-01T00:00:00",
            "一二三四-01-01 00:00:00",
        ] {
            assert_eq!(parse_beijing(text), None, "{text}");
        }
    }

    #[test]
    fn http_dates_have_the_fixed_form() {
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn spans_are_read() {
        assert_eq!(parse_span("50ms"), Ok(Duration::from_millis(50)));
        assert_eq!(parse_span("1.5s"), Ok(Duration::from_millis(1500)));
        assert!(parse_span("5").is_err() && parse_span("x").is_err() && parse_span("-1s").is_err());
    }
}
