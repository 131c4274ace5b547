//! What the demo sends: a seeded stream of commands with some that are copies, wrong, or no
//! commands at all. Pure.

use crate::{
    decimal::Decimal,
    schema::{Codec, CommandLine, CreateReturnOutbound, SchemaFault},
    simulator::{WAREHOUSES, spec_no},
};

/// What a record of the script is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Command,
    /// An earlier command once more, byte for byte.
    Copy,
    /// Readable, but its quantity is not positive.
    Invalid,
    /// Bytes that are no command.
    Garbage,
}

/// One record to send.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub sort: Sort,
    pub key: String,
    pub value: Vec<u8>,
}

/// SplitMix64: reproducible, and nothing here needs more.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides.max(1)
    }
}

/// `count` records, the same for the same seed.
pub(super) fn write(count: usize, seed: u64, codec: &Codec) -> Result<Vec<Line>, SchemaFault> {
    let mut dice = Dice(seed);
    let mut lines: Vec<Line> = Vec::with_capacity(count);
    for number in 0..count {
        let roll = dice.roll(100);
        let earlier =
            usize::try_from(dice.roll(u64::try_from(lines.len()).unwrap_or(1))).unwrap_or(0);
        let line = match (roll, lines.get(earlier)) {
            (0..5, Some(copied)) if copied.sort == Sort::Command => {
                Line { sort: Sort::Copy, ..copied.clone() }
            }
            (5..7, _) => {
                let mut wrong = command(number, &mut dice);
                for line in &mut wrong.details {
                    line.num = Decimal::ZERO;
                }
                Line {
                    sort: Sort::Invalid,
                    key: wrong.return_no.clone(),
                    value: codec.encode_command(&wrong)?,
                }
            }
            (7, _) => Line {
                sort: Sort::Garbage,
                key: format!("TH-{number:05}"),
                value: b"no command at all".to_vec(),
            },
            _ => {
                let good = command(number, &mut dice);
                Line {
                    sort: Sort::Command,
                    key: good.return_no.clone(),
                    value: codec.encode_command(&good)?,
                }
            }
        };
        lines.push(line);
    }
    Ok(lines)
}

fn command(number: usize, dice: &mut Dice) -> CreateReturnOutbound {
    let warehouse = usize::try_from(dice.roll(5)).unwrap_or(0);
    // Some returns are shipped in parts: several commands of one return, in order.
    let return_number = if dice.roll(10) == 0 { number / 2 } else { number };
    CreateReturnOutbound {
        command_id: format!("cmd-{number:05}"),
        return_no: format!("TH-{return_number:05}"),
        warehouse_no: WAREHOUSES.get(warehouse).map_or("1001", |(number, _)| number).to_owned(),
        logistics_code: None,
        create_mode: None,
        remark: Some("质量问题退货".to_owned()),
        details: (0..1 + dice.roll(3))
            .map(|line| CommandLine {
                spec_no: spec_no(
                    u32::try_from(number).unwrap_or(0) * 3 + u32::try_from(line).unwrap_or(0),
                ),
                num: Decimal::from_unscaled(i128::from(1 + dice.roll(20)) * 10_000)
                    .unwrap_or(Decimal::ZERO),
                unit_name: None,
                position_no: None,
                batch_no: None,
                expire_date: None,
                defect: Some(line == 0),
                remark: None,
            })
            .collect(),
        issued_at: None,
        expires_at: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_writes_the_same_script_with_every_sort_of_record() {
        let codec = Codec::single_object();
        let first = write(400, 7, &codec).unwrap();
        let again = write(400, 7, &codec).unwrap();
        assert!(first.iter().zip(&again).all(|(a, b)| a.value == b.value && a.sort == b.sort));
        for sort in [Sort::Command, Sort::Copy, Sort::Invalid, Sort::Garbage] {
            assert!(first.iter().any(|line| line.sort == sort), "{sort:?}");
        }
        assert!(write(400, 8, &codec).unwrap().iter().zip(&first).any(|(a, b)| a.value != b.value));
    }
}
