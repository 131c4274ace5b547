//! Doors for the fuzz tests: what the value of a command's record comes to, as one word of a closed
//! set.

use crate::{
    config::{CommandFormat, Partitioner},
    kafka::{Delivered, Lease, Prefix},
    schema::Codec,
};

use super::{
    command::{Parsed, parse},
    validate::{check_placement, remark_as_sent, validate},
};

/// A command in one of the formats, read and validated.
#[must_use]
pub fn command(bytes: &[u8], format: CommandFormat, codec: &Codec) -> &'static str {
    let record = Delivered {
        lease: Lease { partition: 0, epoch: 1 },
        offset: 0,
        key: None,
        value: Some(bytes.to_vec()),
        left_out: None,
        unreadable_headers: 0,
        headers: Vec::new(),
        timestamp: None,
    };
    match parse(&record, format, codec) {
        Parsed::Poison(_) => "poison",
        Parsed::Unlearnt(_) => "an unknown schema id",
        Parsed::Invalid { .. } => "invalid fields",
        Parsed::Command(command) => match validate(*command) {
            Err(_) => "invalid",
            Ok(accepted) => {
                let command = &accepted.command;
                let _ = remark_as_sent(&accepted.marker, command.remark.as_deref());
                match check_placement(
                    Some(command.return_no.as_bytes()),
                    &command.return_no,
                    0,
                    1,
                    Partitioner::Murmur2,
                ) {
                    Ok(()) => "a command",
                    Err(_) => "a defect",
                }
            }
        },
    }
}

/// The metadata beside a committed offset.
#[must_use]
pub fn offset_metadata(bytes: &[u8]) -> &'static str {
    let text = String::from_utf8_lossy(bytes);
    let mut prefix = Prefix::restore(0, &text);
    let mut skipped = false;
    for offset in 0..16 {
        skipped |= !prefix.deliver(offset);
        prefix.finish(offset);
    }
    match (prefix.position(), skipped) {
        (None, _) => "does not fit",
        (Some(_), true) => "settled ahead",
        (Some(_), false) => "nothing ahead",
    }
}
