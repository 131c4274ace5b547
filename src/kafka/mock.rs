//! librdkafka's in-process broker, for the demo alone: it does not isolate transactions and never
//! stores their offsets.

use rdkafka::{mocking::MockCluster, producer::DefaultProducerContext};

/// A broker inside this process; gone when it is dropped.
pub(crate) struct MockBroker(MockCluster<'static, DefaultProducerContext>);

impl std::fmt::Debug for MockBroker {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("MockBroker")
    }
}

impl MockBroker {
    /// One broker with these topics and partition counts (it has no CreateTopics).
    ///
    /// # Errors
    /// librdkafka's reason as a sentence.
    pub(crate) fn start(topics: &[(&str, i32)]) -> Result<Self, String> {
        let cluster = MockCluster::new(1)
            .map_err(|error| format!("the in-process broker cannot be started: {error}"))?;
        for (topic, partitions) in topics {
            cluster
                .create_topic(topic, *partitions, 1)
                .map_err(|error| format!("the in-process broker cannot create {topic}: {error}"))?;
        }
        Ok(Self(cluster))
    }

    /// `host:port`
    #[must_use]
    pub(crate) fn bootstrap_servers(&self) -> String {
        self.0.bootstrap_servers()
    }

    /// The next requests of this kind are answered with these errors, one each.
    #[cfg(test)]
    pub(crate) fn refuse(
        &self,
        request: rdkafka::types::RDKafkaApiKey,
        errors: &[rdkafka::types::RDKafkaRespErr],
    ) {
        self.0.request_errors(request, errors);
    }
}
