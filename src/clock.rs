//! Two clocks, two types: [`Moment`] for waiting and bounds, [`Timestamp`] for what others read.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

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
const BEIJING_OFFSET_MS: i64 = 8 * 3_600_000;

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
        let (days, second_of_day) = {
            let seconds = self.0.saturating_add(BEIJING_OFFSET_MS).div_euclid(1000);
            (seconds.div_euclid(86_400), seconds.rem_euclid(86_400))
        };
        let (year, month, day) = civil_from_days(days);
        format!(
            "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}",
            second_of_day / 3600,
            second_of_day / 60 % 60,
            second_of_day % 60
        )
    }

    /// Reads `yyyy-MM-dd HH:mm:ss` in Beijing time; `None` when the text is anything else or no
    /// date of the calendar.
    #[must_use]
    pub fn from_beijing(text: &str) -> Option<Self> {
        let bytes: &[u8; 19] = text.as_bytes().try_into().ok()?;
        let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1, b' ', h0, h1, b':', n0, n1, b':', s0, s1] =
            bytes
        else {
            return None;
        };
        let number = |digits: &[&u8]| {
            digits.iter().try_fold(0_i64, |sum, digit| {
                digit.is_ascii_digit().then(|| sum * 10 + i64::from(**digit - b'0'))
            })
        };
        let (year, month, day) =
            (number(&[y0, y1, y2, y3])?, number(&[m0, m1])?, number(&[d0, d1])?);
        let (hour, minute, second) = (number(&[h0, h1])?, number(&[n0, n1])?, number(&[s0, s1])?);
        if !(1..=12).contains(&month)
            || day < 1
            || day > days_in_month(year, month)
            || hour > 23
            || minute > 59
            || second > 59
        {
            return None;
        }
        let days = days_from_civil(year, month, day);
        Some(Self((days * 86_400 + hour * 3600 + minute * 60 + second) * 1000 - BEIJING_OFFSET_MS))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339, UTC, milliseconds.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.div_euclid(1000);
        let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
        let second_of_day = seconds.rem_euclid(86_400);
        write!(
            out,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            second_of_day / 3600,
            second_of_day / 60 % 60,
            second_of_day % 60,
            self.0.rem_euclid(1000)
        )
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
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
        ] {
            assert_eq!(Timestamp::from_beijing(text), None, "{text}");
        }
    }

    #[test]
    fn instants_are_shown_as_rfc_3339() {
        assert_eq!(Timestamp(1_709_222_399_005).to_string(), "2024-02-29T15:59:59.005Z");
    }

    #[test]
    fn the_suspend_proof_clock_runs() {
        let before = Moment::now();
        assert!(before.0 > 0 && Moment::now() >= before);
    }
}
