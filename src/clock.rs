//! Two clocks, two types: [`Moment`] for waiting and bounds, [`Timestamp`] for what others read.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jiff::{civil::DateTime, fmt::temporal::DateTimePrinter, tz::Offset};
use serde::{Deserialize, Serialize};

/// Milliseconds on this machine's suspend-proof clock (`CLOCK_BOOTTIME`: runs on while suspended,
/// never set).
///
/// Only comparable within one boot of one machine; never written to Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// The clock now.
    #[must_use]
    pub fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
        Self(seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000))
    }

    /// This moment plus `span`, saturating.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(millis(span)))
    }

    /// How long until `later`; zero when it has passed.
    #[must_use]
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(later.0.saturating_sub(self.0))
    }
}

/// A span in whole milliseconds, saturating.
#[must_use]
pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970-01-01T00:00:00Z: Avro `timestamp-millis`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

/// Beijing is UTC+8 without daylight saving. Every clock string of the ERP is Beijing time
/// (`docs/erp.md#times-and-numbers`).
const BEIJING: Offset = Offset::constant(8);

/// How far the tests have set this process's wall clock, in milliseconds: the content of the file
/// that `WDT_CLOCK_OFFSET_FILE` names, read each time.
#[cfg(debug_assertions)]
fn offset() -> i64 {
    static FILE: std::sync::OnceLock<Option<std::ffi::OsString>> = std::sync::OnceLock::new();
    let file = FILE.get_or_init(|| std::env::var_os("WDT_CLOCK_OFFSET_FILE"));
    file.as_ref()
        .and_then(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(not(debug_assertions))]
const fn offset() -> i64 {
    0
}

impl Timestamp {
    /// The wall clock now.
    #[must_use]
    pub fn now() -> Self {
        let now = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => Self(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
            Err(before) => Self(-i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX)),
        };
        Self(now.0.saturating_add(offset()))
    }

    /// This instant plus `span`, saturating.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add_unsigned(millis(span)))
    }

    /// This instant less `span`, saturating.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub_unsigned(millis(span)))
    }

    /// How long until `later`; zero when it has passed.
    #[must_use]
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0))
    }

    /// The whole second at or before this instant.
    #[must_use]
    pub fn floor_second(self) -> Self {
        Self(self.0.div_euclid(1000) * 1000)
    }

    /// Seconds since 1970, rounded down.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// `yyyy-MM-dd HH:mm:ss` in Beijing time, as the ERP writes and reads it (milliseconds are
    /// cut).
    #[must_use]
    pub fn to_beijing(self) -> String {
        const PRINTER: DateTimePrinter = DateTimePrinter::new().separator(b' ').precision(Some(0));
        PRINTER.datetime_to_string(&BEIJING.to_datetime(self.in_calendar()))
    }

    /// Reads `yyyy-MM-dd HH:mm:ss` in Beijing time; `None` when the text is anything else or no
    /// date of the calendar.
    #[must_use]
    pub fn from_beijing(text: &str) -> Option<Self> {
        // The parser takes other forms as well, and a leap second.
        let [_, _, _, _, b'-', _, _, b'-', _, _, b' ', _, _, b':', _, _, b':', b'0'..=b'5', _] =
            text.as_bytes()
        else {
            return None;
        };
        let time: DateTime = text.parse().ok()?;
        Some(Self(BEIJING.to_timestamp(time).ok()?.as_millisecond()))
    }

    /// The nearest instant of the years -9999 to 9999: a sender may write any number.
    fn in_calendar(self) -> jiff::Timestamp {
        jiff::Timestamp::from_millisecond(self.0).unwrap_or(if self.0 < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        })
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339, UTC, milliseconds.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:.3}", self.in_calendar())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beijing_strings_go_there_and_back() {
        for (text, ms) in [
            ("1970-01-01 08:00:00", 0),
            ("2012-01-01 00:00:00", 1_325_347_200_000),
            ("2016-08-01 16:51:50", 1_470_041_510_000),
            ("2024-02-29 23:59:59", 1_709_222_399_000),
        ] {
            assert_eq!(Timestamp::from_beijing(text), Some(Timestamp(ms)), "{text}");
            assert_eq!(Timestamp(ms).to_beijing(), text);
        }
        for text in [
            "",
            "2023-02-29 00:00:00",
            "2023-13-01 00:00:00",
            "2023-1-1 00:00:00",
            "2023-01-01T00:00:00",
            "0000-00-00 00:00:00",
            "2016-12-31 23:59:60",
            "2023-01-01 24:00:00",
            "2023-01-01 00:00+08",
            "2023-01-01 00:00:0Z",
            "+002023-01 00:00:00",
        ] {
            assert_eq!(Timestamp::from_beijing(text), None, "{text}");
        }
    }

    #[test]
    fn instants_are_shown_as_rfc_3339() {
        for (ms, text) in [
            (1_709_222_399_005, "2024-02-29T15:59:59.005Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (i64::MAX, "9999-12-30T22:00:00.999Z"),
            (i64::MIN, "-009999-01-02T01:59:59.000Z"),
        ] {
            assert_eq!(Timestamp(ms).to_string(), text);
        }
        assert_eq!(Timestamp(-1).to_beijing(), "1970-01-01 07:59:59");
    }

    #[test]
    fn the_suspend_proof_clock_runs() {
        let before = Moment::now();
        assert!(before.0 > 0 && Moment::now() >= before);
    }
}
