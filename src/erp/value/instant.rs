//! The forms of a time that mean one instant.

use jiff::{civil::Date, tz::Offset};

use super::Reading;
use crate::clock::Timestamp;

/// 2000-01-01 and 2100-01-01 in milliseconds since 1970. A number outside is no count of
/// milliseconds: seconds of today would be January 1970, microseconds the year 56000. A written
/// date before the first is what someone else's reader made of such a number.
const FIRST: i64 = 946_684_800_000;
const LAST: i64 = 4_102_444_800_000;

/// Where a text names no offset.
const BEIJING: i32 = 8 * 3600;

/// Epoch milliseconds; 0 is none.
pub(super) fn of_number(number: i64) -> Reading<Timestamp> {
    match number {
        0 => Reading::Null,
        FIRST..LAST => Reading::Value(Timestamp(number)),
        _ => Reading::Retyped,
    }
}

/// A written time. A date alone is no instant, nor is a time with the name of a zone that is not
/// known to be one offset.
pub(super) fn of_text(text: &str) -> Reading<Timestamp> {
    // `0000-00-00`, with a time of zeros or none.
    let zero = text.starts_with("0000-00-00") || text.starts_with("0000/00/00");
    if zero && text.bytes().all(|byte| !matches!(byte, b'1'..=b'9')) {
        return Reading::Null;
    }
    let mut rest = Rest(text);
    let Some((clock, offset)) = rest.iso().or_else(|| Rest(text).java()) else {
        return Reading::Retyped;
    };
    let (Ok(offset), Some(date)) = (Offset::from_seconds(offset), clock.date()) else {
        return Reading::Retyped;
    };
    match offset.to_timestamp(date).map(jiff::Timestamp::as_millisecond) {
        // What becomes of the instant 0 when it is written out.
        Ok(0) => Reading::Null,
        Ok(millis) if millis >= FIRST => Reading::Value(Timestamp(millis)),
        Ok(_) | Err(_) => Reading::Retyped,
    }
}

/// Date and time of day as written.
#[derive(Default)]
struct Clock {
    year: i16,
    month: i8,
    day: i8,
    hour: i8,
    minute: i8,
    second: i8,
    nanos: i32,
}

impl Clock {
    fn date(&self) -> Option<jiff::civil::DateTime> {
        let time = jiff::civil::Time::new(self.hour, self.minute, self.second, self.nanos).ok()?;
        Some(Date::new(self.year, self.month, self.day).ok()?.to_datetime(time))
    }
}

/// English months, as Java abbreviates them.
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const WEEKDAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// What is left of a text.
struct Rest<'a>(&'a str);

impl Rest<'_> {
    /// `yyyy-MM-dd HH:mm:ss[.fraction][offset]`, with `/` for `-` and `T` for the blank; Java's
    /// Chinese form leaves the zeros before month, day and hour out.
    fn iso(&mut self) -> Option<(Clock, i32)> {
        let year = self.number(4, 4)?;
        let separator = if self.skip("-") { "-" } else { "/" };
        if separator == "/" {
            self.must("/")?;
        }
        let month = self.digits(1)?;
        self.must(separator)?;
        let day = self.digits(1)?;
        if !self.skip("T") {
            self.must(" ")?;
        }
        let mut clock = Clock { year, month, day, ..Clock::default() };
        self.time(&mut clock)?;
        clock.nanos = if self.skip(".") { self.fraction()? } else { 0 };
        let offset = if self.0.is_empty() { BEIJING } else { self.offset()? };
        self.0.is_empty().then_some((clock, offset))
    }

    /// `Nov 30, 2026 10:11:12 AM` (`DateFormat`; since Java 9 with a second comma, since Java 20
    /// with a narrow blank) or `Mon Nov 30 10:11:12 CST 2026` (`Date.toString`).
    fn java(&mut self) -> Option<(Clock, i32)> {
        let mut clock = Clock::default();
        if WEEKDAYS.iter().any(|day| self.skip(day)) {
            self.must(" ")?;
            self.month(&mut clock)?;
            clock.day = self.digits(2)?;
            self.must(" ")?;
            self.time(&mut clock)?;
            self.must(" ")?;
            let offset = self.zone()?;
            self.must(" ")?;
            clock.year = self.number(4, 4)?;
            return self.0.is_empty().then_some((clock, offset));
        }
        self.month(&mut clock)?;
        clock.day = self.digits(1)?;
        self.must(", ")?;
        clock.year = self.number(4, 4)?;
        self.skip(",");
        self.must(" ")?;
        self.time(&mut clock)?;
        if !self.skip("\u{202f}") && !self.skip("\u{a0}") {
            self.must(" ")?;
        }
        let afternoon = self.skip("PM");
        if !afternoon {
            self.must("AM")?;
        }
        if !(1..=12).contains(&clock.hour) {
            return None;
        }
        clock.hour = clock.hour % 12 + if afternoon { 12 } else { 0 };
        self.0.is_empty().then_some((clock, BEIJING))
    }

    fn month(&mut self, clock: &mut Clock) -> Option<()> {
        let at = MONTHS.iter().position(|month| self.skip(month))?;
        clock.month = i8::try_from(at + 1).ok()?;
        self.must(" ")
    }

    /// `HH:mm:ss`; no leap second, which no clock of these has.
    fn time(&mut self, clock: &mut Clock) -> Option<()> {
        clock.hour = self.digits(1)?;
        self.must(":")?;
        clock.minute = self.digits(2)?;
        self.must(":")?;
        clock.second = self.digits(2)?;
        Some(())
    }

    /// Up to nine digits after the point; beyond the millisecond they are cut, as the schema's unit
    /// is that.
    fn fraction(&mut self) -> Option<i32> {
        let before = self.0.len();
        let digits: i32 = self.number(1, 9)?;
        let places = u32::try_from(before - self.0.len()).ok()?;
        digits.checked_mul(10_i32.checked_pow(9_u32.checked_sub(places)?)?)
    }

    /// `Z`, `+08:00`, `+0800`, `+08`, in seconds; a blank may stand before it.
    fn offset(&mut self) -> Option<i32> {
        self.skip(" ");
        if self.skip("Z") {
            return Some(0);
        }
        let sign = if self.skip("-") { -1 } else { 1 };
        if sign == 1 {
            self.must("+")?;
        }
        let hours: i32 = self.number(2, 2)?;
        let minutes: i32 = if self.skip(":") || !matches!(self.0.as_bytes(), [] | [b' ', ..]) {
            self.number(2, 2)?
        } else {
            0
        };
        (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
    }

    /// The zone of `Date.toString`. `CST` is China's: a name that America has too, but no server of
    /// this ERP.
    fn zone(&mut self) -> Option<i32> {
        if self.skip("CST") {
            return Some(BEIJING);
        }
        if self.skip("GMT") {
            return if self.0.starts_with(' ') { Some(0) } else { self.offset() };
        }
        self.skip("UTC").then_some(0)
    }

    /// One or two digits; two when `least` is 2.
    fn digits(&mut self, least: usize) -> Option<i8> {
        self.number(least, 2)
    }

    /// As many digits as there are, at most `most`.
    fn number<T: std::str::FromStr>(&mut self, least: usize, most: usize) -> Option<T> {
        let count = self.0.bytes().take(most).take_while(u8::is_ascii_digit).count();
        if count < least {
            return None;
        }
        let (digits, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        digits.parse().ok()
    }

    fn must(&mut self, text: &str) -> Option<()> {
        self.skip(text).then_some(())
    }

    fn skip(&mut self, text: &str) -> bool {
        let rest = self.0.strip_prefix(text);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    fn read(json: &str) -> Reading<Timestamp> {
        super::super::instant(&RawValue::from_string(json.to_owned()).unwrap())
    }

    #[test]
    fn one_instant_comes_in_many_forms() {
        for text in [
            "1796004672000",
            "1.796004672e12",
            r#""1796004672000""#,
            r#""2026-11-30 10:11:12""#,
            r#"" 2026-11-30 10:11:12 ""#,
            r#""2026-11-30 10:11:12.0""#,
            r#""2026-11-30 10:11:12.000""#,
            r#""2026-11-30 10:11:12.000000""#,
            r#""2026-11-30T10:11:12""#,
            r#""2026-11-30T10:11:12.000""#,
            r#""2026-11-30T02:11:12Z""#,
            r#""2026-11-30T02:11:12.000Z""#,
            r#""2026-11-30T10:11:12+08:00""#,
            r#""2026-11-30T10:11:12.000+0800""#,
            r#""2026-11-30T02:11:12.000+00:00""#,
            r#""2026-11-30T10:11:12+08""#,
            r#""2026-11-29T21:11:12-05:00""#,
            r#""2026-11-30 10:11:12 +0800""#,
            r#""2026/11/30 10:11:12""#,
            r#""2026\/11\/30 10:11:12""#,
            r#""Nov 30, 2026 10:11:12 AM""#,
            r#""Nov 30, 2026, 10:11:12 AM""#,
            "\"Nov 30, 2026, 10:11:12\u{202f}AM\"",
            r#""Nov 30, 2026, 10:11:12\u202fAM""#,
            r#""Mon Nov 30 10:11:12 CST 2026""#,
            r#""Mon Nov 30 02:11:12 UTC 2026""#,
            r#""Mon Nov 30 02:11:12 GMT 2026""#,
            r#""Mon Nov 30 10:11:12 GMT+08:00 2026""#,
        ] {
            assert_eq!(read(text), Reading::Value(Timestamp(1_796_004_672_000)), "{text}");
        }
        let millis = |json| read(json).value().map(|instant| instant.0 % 1000);
        assert_eq!(millis(r#""2026-11-30 10:11:12.5""#), Some(500));
        assert_eq!(millis(r#""2026-11-30T10:11:12.123987Z""#), Some(123));
        let short = read(r#""2026-1-5 9:01:02""#);
        assert_eq!(short, read(r#""2026-01-05 09:01:02""#));
        assert_eq!(short, read(r#""Jan 5, 2026 9:01:02 AM""#));
        assert_eq!(read(r#""Jan 5, 2026 12:01:02 AM""#), read(r#""2026-01-05 00:01:02""#));
        assert_eq!(read(r#""Jan 5, 2026 12:01:02 PM""#), read(r#""2026-01-05 12:01:02""#));
        assert_eq!(read(r#""Jan 5, 2026 1:01:02 PM""#), read(r#""2026-01-05 13:01:02""#));
    }

    #[test]
    fn what_stands_for_no_instant_is_absent() {
        for text in [
            "0",
            "0.0",
            "null",
            r#""0""#,
            r#""""#,
            r#""  ""#,
            r#""0000-00-00""#,
            r#""0000-00-00 00:00:00""#,
            r#""0000-00-00 00:00:00.0""#,
            r#""0000-00-00T00:00:00Z""#,
            r#""1970-01-01 08:00:00""#,
            r#""1970-01-01T00:00:00Z""#,
            r#""Jan 1, 1970 8:00:00 AM""#,
        ] {
            assert_eq!(read(text), Reading::Null, "{text}");
        }
    }

    #[test]
    fn what_would_be_a_guess_is_no_instant() {
        for text in [
            // Seconds, microseconds, a fraction.
            "1796004672",
            "1796004672000000",
            "1.5",
            "1796004672000.5",
            "-1",
            "9223372036854775807",
            "99999999999999999999",
            // A day has no hour.
            r#""2026-11-30""#,
            r#""20261130""#,
            r#""2026-11-30 10:11""#,
            // Another order of day and month.
            r#""30/11/2026 10:11:12""#,
            r#""11/30/2026 10:11:12""#,
            // No date of the calendar, no time of a day.
            r#""2026-02-29 00:00:00""#,
            r#""2026-13-01 00:00:00""#,
            r#""2026-11-30 24:00:00""#,
            r#""2026-11-30 10:11:60""#,
            r#""2016-12-31 23:59:60""#,
            r#""Nov 30, 2026 13:11:12 PM""#,
            r#""Nov 30, 2026 0:11:12 AM""#,
            r#""0000-00-00 10:11:12""#,
            // Zones that are more than one, or none.
            r#""Mon Nov 30 10:11:12 EST 2026""#,
            r#""2026-11-30T10:11:12+25:00""#,
            r#""2026-11-30T10:11:12 CST""#,
            r#""2026-11-30T10:11:12z""#,
            // What someone made of a number of another unit.
            r#""1970-01-21 18:53:24""#,
            r#""1970-01-01 00:00:00""#,
            r#""-2026-11-30 10:11:12""#,
            r#""+2026-11-30 10:11:12""#,
            r#""2026-11-30 10:11:12.""#,
            r#""2026-11-30 10:11:12.0000000001""#,
            r#""2026-11/30 10:11:12""#,
            r#""yesterday""#,
            "false",
            "[]",
            "{}",
        ] {
            assert_eq!(read(text), Reading::Retyped, "{text}");
        }
        // The calendar's last days are no instant in some offset.
        let last = read(r#""9999-12-30 23:59:59""#);
        assert!(matches!(last, Reading::Value(_)), "{last:?}");
        for end in ["Z", "-23:59", "+00:00"] {
            let last = of_text(&format!("9999-12-31T23:59:59.999{end}"));
            assert_eq!(last, Reading::Retyped, "{end}");
        }
    }

    proptest! {
        #[test]
        fn any_second_is_read_as_it_is_written(second in FIRST / 1000..LAST / 1000) {
            let instant = Timestamp(second * 1000);
            prop_assert_eq!(of_number(instant.0), Reading::Value(instant));
            prop_assert_eq!(of_text(&instant.to_beijing()), Reading::Value(instant));
            prop_assert_eq!(of_text(&instant.to_string()), Reading::Value(instant));
        }

        #[test]
        fn any_text_is_an_instant_or_none(text in "([A-Z][a-z]{2} )?[0-9]{0,5}[-/, ]{0,2}[0-9]{0,3}[-/]?[0-9]{0,2}[T ]?[0-9:.]{0,12}[ Z+-]?.{0,6}") {
            if let Reading::Value(instant) = of_text(&text) {
                prop_assert!(instant.0 >= FIRST, "{}", instant);
            }
        }
    }
}
