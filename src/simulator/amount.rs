//! The ERP's `decimal(19,4)`, counted in ten-thousandths; shares nothing with the client's
//! decimals.

/// Ten-thousandths of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Amount(pub i128);

/// 15 digits before the point, 4 behind it.
const LIMIT: i128 = 10_i128.pow(19);

impl Amount {
    pub(super) const fn units(whole: i64) -> Self {
        Self(whole as i128 * 10_000)
    }

    /// Reads digits with at most 15 before and 4 behind the point; zeros beyond the fourth place
    /// are cut.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty()
            || !plain(whole)
            || !plain(fraction)
            || digits.ends_with('.')
            || digits.len() > 60
        {
            return None;
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > 4 {
            return None;
        }
        let sum: i128 = format!("{whole}{fraction:0<4}").parse().ok()?;
        (sum < LIMIT).then_some(Self(if negative { -sum } else { sum }))
    }

    /// This amount times another, cut to four places.
    pub(super) fn times(self, other: Self) -> Self {
        Self(self.0.saturating_mul(other.0) / 10_000)
    }

    /// Exactly four places: the enterprise edition's form.
    pub(super) fn fixed(self) -> String {
        let sign = if self.0 < 0 { "-" } else { "" };
        let size = self.0.unsigned_abs();
        format!("{sign}{}.{:04}", size / 10_000, size % 10_000)
    }

    /// Without trailing zeros: the flagship's JSON numbers.
    pub(super) fn short(self) -> String {
        let fixed = self.fixed();
        fixed.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

impl std::iter::Sum for Amount {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        Self(amounts.fold(0, |sum, amount| sum.saturating_add(amount.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact() {
        for (text, fixed, short) in [
            ("1", "1.0000", "1"),
            ("1.5000", "1.5000", "1.5"),
            ("0.33330", "0.3333", "0.3333"),
            ("-10.00", "-10.0000", "-10"),
            ("999999999999999.9999", "999999999999999.9999", "999999999999999.9999"),
        ] {
            let amount = Amount::parse(text).unwrap();
            assert_eq!((amount.fixed().as_str(), amount.short().as_str()), (fixed, short));
        }
        for text in ["", ".5", "1.", "1e3", "+1", "1.00001", "1000000000000000", "一", "0x1", " 1"]
        {
            assert_eq!(Amount::parse(text), None, "{text}");
        }
        assert_eq!(
            Amount::parse("2").unwrap().times(Amount::parse("1.25").unwrap()),
            Amount(25_000)
        );
    }
}
