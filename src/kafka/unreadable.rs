//! Errors that mean: the log holds a batch here that was not read.
//!
//! librdkafka hands such an error out in the place of the records and may go on behind them, so
//! whoever passes over the error passes over the records as well (`docs/kafka.md#consuming`).

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// Whether a batch could not be read.
///
/// `MessageSizeTooLarge` is not among them: librdkafka also reports it after fetching nothing but
/// empty batches, which compaction leaves behind.
pub(super) fn is_unreadable(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            // The batch's checksum is wrong, or it cannot be parsed.
            RDKafkaErrorCode::BadMessage
                | RDKafkaErrorCode::BadCompression
                // A codec or a message format that this build does not know.
                | RDKafkaErrorCode::NotImplemented
                // The broker says so itself.
                | RDKafkaErrorCode::InvalidMessage
                | RDKafkaErrorCode::InvalidMessageSize
                | RDKafkaErrorCode::InvalidRecord
                | RDKafkaErrorCode::UnsupportedForMessageFormat
                | RDKafkaErrorCode::UnsupportedCompressionType
        )
    )
}

/// What happened, to what, what to do. The client's error names no partition: `places` are those
/// that are being read, each with the offset up to which everything was read, where that is known.
pub(super) fn unreadable(
    topic: &str,
    places: impl IntoIterator<Item = (i32, Option<i64>)>,
    error: &KafkaError,
) -> String {
    let places: Vec<String> = places
        .into_iter()
        .map(|(partition, read_to)| match read_to {
            Some(offset) => format!("{partition} (read up to offset {offset})"),
            None => partition.to_string(),
        })
        .collect();
    let cause =
        error.rdkafka_error_code().map_or_else(|| error.to_string(), |code| code.to_string());
    format!(
        "a batch of {topic} cannot be read ({cause}) in partition {}, and its records are not passed over; compare the replicas with `kafka-dump-log.sh --files <segment> --deep-iteration`, let an intact one lead, or restore the topic from a backup",
        places.join(" or ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_was_not_read_is_told_from_trouble_that_passes() {
        let consumption = KafkaError::MessageConsumption;
        for code in [
            RDKafkaErrorCode::BadMessage,
            RDKafkaErrorCode::BadCompression,
            RDKafkaErrorCode::NotImplemented,
            RDKafkaErrorCode::InvalidMessage,
            RDKafkaErrorCode::InvalidMessageSize,
            RDKafkaErrorCode::InvalidRecord,
            RDKafkaErrorCode::UnsupportedForMessageFormat,
            RDKafkaErrorCode::UnsupportedCompressionType,
        ] {
            assert!(is_unreadable(&consumption(code)), "{code:?}");
        }
        for code in [
            RDKafkaErrorCode::BrokerTransportFailure,
            RDKafkaErrorCode::AllBrokersDown,
            RDKafkaErrorCode::NotLeaderForPartition,
            RDKafkaErrorCode::KafkaStorageError,
            RDKafkaErrorCode::MessageSizeTooLarge,
            RDKafkaErrorCode::TopicAuthorizationFailed,
            RDKafkaErrorCode::UnknownTopicOrPartition,
        ] {
            assert!(!is_unreadable(&consumption(code)), "{code:?}");
        }
        assert!(!is_unreadable(&KafkaError::PartitionEOF(0)));
    }

    #[test]
    fn the_sentence_names_what_was_being_read() {
        let error = KafkaError::MessageConsumption(RDKafkaErrorCode::BadMessage);
        let sentence = unreadable("journal", [(0, Some(12)), (3, None)], &error);
        let place = "a batch of journal cannot be read (";
        assert!(sentence.starts_with(place), "{sentence}");
        assert!(sentence.contains("partition 0 (read up to offset 12) or 3, "), "{sentence}");
    }
}
