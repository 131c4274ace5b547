//! `decimal(19,4)`: every amount and quantity of the ERP and of our schemas, exact from end to end.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number with at most 15 digits before and exactly 4 digits after the point; the ERP's
/// `decimal(19,4)`.
///
/// Serialises as Avro `bytes` (two's complement, big endian, shortest form) of the unscaled value
/// in binary formats and as a plain decimal string in human-readable ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Decimal(i128);

/// Why a text or a byte string is no `decimal(19,4)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecimalFault {
    /// Not a decimal number at all.
    #[error("is not a decimal number")]
    NotANumber,
    /// More than 15 digits before the point.
    #[error("has more than 15 digits before the decimal point")]
    TooLarge,
    /// Digits other than zero beyond the fourth decimal place; they are never rounded away.
    #[error("has digits beyond the 4th decimal place")]
    TooPrecise,
    /// Binary, and longer without sign bytes than any number with so few digits is written.
    #[error("takes more than 64 bytes")]
    TooWide,
}

/// 10^19: the first unscaled value that does not fit.
const LIMIT: i128 = 10_000_000_000_000_000_000;

/// Significant bytes that are read, at most: 154 digits; SQL's widest decimals have 77.
const MAX_BYTES: usize = 64;

impl Decimal {
    /// Zero.
    pub const ZERO: Self = Self(0);

    /// From the unscaled value (the number × 10⁴).
    ///
    /// # Errors
    /// [`DecimalFault::TooLarge`] beyond 19 digits.
    pub fn from_unscaled(unscaled: i128) -> Result<Self, DecimalFault> {
        if unscaled.abs() < LIMIT { Ok(Self(unscaled)) } else { Err(DecimalFault::TooLarge) }
    }

    /// The number × 10⁴.
    #[must_use]
    pub fn unscaled(self) -> i128 {
        self.0
    }

    /// Whether the number is greater than zero.
    #[must_use]
    pub fn is_positive(self) -> bool {
        self.0 > 0
    }

    /// Reads `[+-]digits[.digits][(e|E)[+-]digits]`, as JSON and the ERP write numbers. Zeros
    /// beyond the fourth decimal place are cut, other digits there are refused. Never passes
    /// through a float.
    ///
    /// # Errors
    /// See [`DecimalFault`].
    pub fn parse(text: &str) -> Result<Self, DecimalFault> {
        let (negative, rest) = match text.as_bytes().split_first() {
            Some((b'-', rest)) => (true, rest),
            Some((b'+', rest)) => (false, rest),
            _ => (false, text.as_bytes()),
        };
        let exponent_at = rest.iter().position(|byte| matches!(byte, b'e' | b'E'));
        let (mantissa, exponent) = match exponent_at {
            Some(at) => {
                let (mantissa, tail) = rest.split_at(at);
                let tail = std::str::from_utf8(tail.get(1..).unwrap_or_default())
                    .map_err(|_| DecimalFault::NotANumber)?;
                (mantissa, tail.parse::<i32>().map_err(|_| DecimalFault::NotANumber)?)
            }
            None => (rest, 0),
        };
        let mut digits = mantissa.splitn(2, |byte| *byte == b'.');
        let whole = digits.next().unwrap_or_default();
        let fraction = digits.next();
        if whole.is_empty() || fraction.is_some_and(<[u8]>::is_empty) {
            return Err(DecimalFault::NotANumber);
        }
        let fraction = fraction.unwrap_or_default();
        if !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
            return Err(DecimalFault::NotANumber);
        }
        // Position of the point, counted in digits from the left of `whole ++ fraction`; 4 more
        // make it unscaled.
        let point = i64::try_from(whole.len())
            .unwrap_or(i64::MAX)
            .saturating_add(i64::from(exponent))
            .saturating_add(4);
        let mut unscaled: i128 = 0;
        let mut seen: i64 = 0;
        for digit in whole.iter().chain(fraction) {
            let digit = i128::from(digit - b'0');
            if seen >= point {
                if digit != 0 {
                    return Err(DecimalFault::TooPrecise);
                }
            } else {
                unscaled = unscaled * 10 + digit;
                if unscaled >= LIMIT {
                    return Err(DecimalFault::TooLarge);
                }
            }
            seen += 1;
        }
        if unscaled != 0 {
            while seen < point {
                unscaled *= 10;
                if unscaled >= LIMIT {
                    return Err(DecimalFault::TooLarge);
                }
                seen += 1;
            }
        }
        Ok(Self(if negative { -unscaled } else { unscaled }))
    }

    /// Big-endian two's complement in as few bytes as hold the sign (Avro specification, logical
    /// type decimal).
    #[must_use]
    pub fn to_avro(self) -> Vec<u8> {
        let bytes = self.0.to_be_bytes();
        let fill = if self.0 < 0 { 0xff } else { 0 };
        let redundant = bytes
            .iter()
            .zip(bytes.iter().skip(1))
            .take_while(|(byte, next)| **byte == fill && (**next ^ fill) & 0x80 == 0)
            .count();
        bytes.iter().skip(redundant).copied().collect()
    }

    /// The inverse of [`Decimal::to_avro`]; accepts redundant sign bytes.
    ///
    /// # Errors
    /// [`DecimalFault::NotANumber`] for an empty string, [`DecimalFault::TooLarge`] beyond 19
    /// digits, [`DecimalFault::TooWide`].
    pub fn from_avro(bytes: &[u8]) -> Result<Self, DecimalFault> {
        Self::from_scaled(bytes, 4)
    }

    /// From the number × 10^`scale` in two's complement, big endian; accepts redundant sign bytes.
    /// Never rounds.
    ///
    /// # Errors
    /// See [`DecimalFault`].
    pub fn from_scaled(bytes: &[u8], scale: i64) -> Result<Self, DecimalFault> {
        let first = bytes.first().ok_or(DecimalFault::NotANumber)?;
        let negative = first & 0x80 != 0;
        let fill: u8 = if negative { 0xff } else { 0 };
        let redundant = bytes.iter().take_while(|byte| **byte == fill).count();
        let significant = bytes.get(redundant..).unwrap_or_default();
        if significant.len() > MAX_BYTES {
            return Err(DecimalFault::TooWide);
        }
        // The magnitude, with a byte for the carry.
        let mut magnitude = [0_u8; MAX_BYTES + 1];
        let (_, magnitude) = magnitude.split_at_mut(MAX_BYTES - significant.len());
        let mut carry = negative;
        for (slot, byte) in
            magnitude.iter_mut().rev().zip(significant.iter().rev().chain(std::iter::once(&fill)))
        {
            (*slot, carry) = (byte ^ fill).overflowing_add(u8::from(carry));
        }
        if magnitude.iter().all(|byte| *byte == 0) {
            return Ok(Self::ZERO);
        }
        // Ends with the digits: what is left is not zero.
        for _ in 4..scale {
            if divide_by_10(magnitude) != 0 {
                return Err(DecimalFault::TooPrecise);
            }
        }
        let below_limit =
            |value: i128| if value < LIMIT { Ok(value) } else { Err(DecimalFault::TooLarge) };
        let mut unscaled = magnitude
            .iter()
            .try_fold(0_i128, |value, byte| below_limit(value * 256 + i128::from(*byte)))?;
        for _ in scale..4 {
            unscaled = below_limit(unscaled * 10)?;
        }
        Ok(Self(if negative { -unscaled } else { unscaled }))
    }
}

/// Divides a big-endian number in its place; the remainder.
fn divide_by_10(number: &mut [u8]) -> u16 {
    number.iter_mut().fold(0, |rest, byte| {
        let part = rest * 256 + u16::from(*byte);
        // A remainder is at most 9: the quotient is below 256.
        *byte = u8::try_from(part / 10).unwrap_or(u8::MAX);
        part % 10
    })
}

impl fmt::Display for Decimal {
    /// All four decimal places: `1.5000`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let magnitude = self.0.unsigned_abs();
        write!(out, "{sign}{}.{:04}", magnitude / 10_000, magnitude % 10_000)
    }
}

impl std::str::FromStr for Decimal {
    type Err = DecimalFault;

    fn from_str(text: &str) -> Result<Self, DecimalFault> {
        Self::parse(text)
    }
}

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.to_avro())
        }
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Decimal;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("the unscaled bytes of a decimal(19,4), or its text")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Decimal, E> {
                Decimal::from_avro(bytes).map_err(E::custom)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Decimal, E> {
                Decimal::parse(text).map_err(E::custom)
            }
        }
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(Visitor)
        } else {
            deserializer.deserialize_bytes(Visitor)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_become_unscaled_values() {
        for (text, unscaled) in [
            ("0", 0),
            ("1", 10_000),
            ("1.5", 15_000),
            ("-0.0001", -1),
            ("9.94240000", 99_424),
            ("999999999999999.9999", 9_999_999_999_999_999_999),
            ("1e3", 10_000_000),
            ("12.5E-1", 12_500),
            ("0e999999", 0),
            ("+2", 20_000),
        ] {
            assert_eq!(Decimal::parse(text).map(Decimal::unscaled), Ok(unscaled), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (text, fault) in [
            ("", DecimalFault::NotANumber),
            (".", DecimalFault::NotANumber),
            ("1.", DecimalFault::NotANumber),
            (".5", DecimalFault::NotANumber),
            ("1,5", DecimalFault::NotANumber),
            ("NaN", DecimalFault::NotANumber),
            ("1e", DecimalFault::NotANumber),
            ("1000000000000000", DecimalFault::TooLarge),
            ("1e999999", DecimalFault::TooLarge),
            ("0.00001", DecimalFault::TooPrecise),
            ("1e-5", DecimalFault::TooPrecise),
        ] {
            assert_eq!(Decimal::parse(text), Err(fault), "{text}");
        }
    }

    #[test]
    fn avro_bytes_are_the_shortest_twos_complement() {
        for (unscaled, bytes) in [
            (0, &[0x00][..]),
            (127, &[0x7f]),
            (128, &[0x00, 0x80]),
            (-1, &[0xff]),
            (-128, &[0x80]),
            (-129, &[0xff, 0x7f]),
            (10_000, &[0x27, 0x10]),
            (9_999_999_999_999_999_999, &[0x00, 0x8a, 0xc7, 0x23, 0x04, 0x89, 0xe7, 0xff, 0xff]),
        ] {
            let decimal = Decimal::from_unscaled(unscaled).unwrap();
            assert_eq!(decimal.to_avro(), bytes, "{unscaled}");
            assert_eq!(Decimal::from_avro(bytes), Ok(decimal), "{unscaled}");
        }
        assert_eq!(Decimal::from_avro(&[0, 0, 0, 5]).map(Decimal::unscaled), Ok(5));
        assert_eq!(Decimal::from_avro(&[0xff, 0xff, 0xfe]).map(Decimal::unscaled), Ok(-2));
        assert_eq!(Decimal::from_avro(&[]), Err(DecimalFault::NotANumber));
        assert_eq!(Decimal::from_avro(&[1; 40]), Err(DecimalFault::TooLarge));
        assert_eq!(Decimal::from_avro(&[1; 65]), Err(DecimalFault::TooWide));
    }

    proptest! {
        #[test]
        fn any_scale_reads_as_the_same_text(number: i128, shift in 0_u32..128, scale in -30_i32..45) {
            let number = number >> shift;
            let parsed = Decimal::parse(&format!("{number}e{}", -scale));
            prop_assert_eq!(Decimal::from_scaled(&number.to_be_bytes(), scale.into()).ok(), parsed.ok());
            // And digits that go away again.
            let digits = number % 1_000_000_000;
            let scaled = digits * 10_i128.pow(28);
            let read = Decimal::from_scaled(&scaled.to_be_bytes(), i64::from(scale) + 28);
            prop_assert_eq!(read, Decimal::from_scaled(&digits.to_be_bytes(), scale.into()));
        }
    }

    #[test]
    fn four_places_are_always_shown() {
        assert_eq!(Decimal::parse("-12.5").unwrap().to_string(), "-12.5000");
    }
}
