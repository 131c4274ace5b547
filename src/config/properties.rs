//! `[kafka] properties`: any librdkafka option except those that correctness rests on.

use std::collections::BTreeMap;

use secrecy::SecretString;

use super::{document::PROPERTIES, reader::Reader};

/// Refused by name; the last two are older names of options in the list.
const REFUSED: [&str; 16] = [
    "bootstrap.servers",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "transactional.id",
    "transaction.timeout.ms",
    "enable.idempotence",
    "acks",
    "isolation.level",
    "auto.offset.reset",
    "partitioner",
    "partition.assignment.strategy",
    "check.crcs",
    "enable.auto",
    "metadata.broker.list",
    "request.required.acks",
];

/// Refused by how they begin.
const REFUSED_PREFIX: &str = "enable.auto.";

/// Values that are secrets: by environment only.
const SECRET: [&str; 6] = [
    "sasl.password",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.password",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config",
];

/// What is said, at every start and by `check`, of options that let anybody pass for the broker.
pub(super) fn unverified(properties: &BTreeMap<String, String>) -> Vec<String> {
    let is = |key: &str, values: &[&str]| {
        properties
            .get(key)
            .is_some_and(|value| values.contains(&value.trim().to_ascii_lowercase().as_str()))
    };
    let mut said = Vec::new();
    if is("enable.ssl.certificate.verification", &["false", "f", "0"]) {
        said.push(
            "THE BROKER'S CERTIFICATE IS NOT VERIFIED (kafka.properties.enable.ssl.certificate.verification = false): anybody on the way can read and change every record and take the password; remove the option and name the broker's authority in ssl.ca.location".to_owned(),
        );
    }
    if is("ssl.endpoint.identification.algorithm", &["none"]) {
        said.push(
            "THE BROKER'S NAME IS NOT VERIFIED (kafka.properties.ssl.endpoint.identification.algorithm = none): the holder of any certificate of the same authority can pass for the broker; remove the option and use the name in the broker's certificate".to_owned(),
        );
    }
    said
}

/// The options that pass, and the two passwords where they came this way.
#[derive(Debug, Default)]
pub(super) struct Properties {
    pub(super) free: BTreeMap<String, String>,
    pub(super) sasl_password: Option<SecretString>,
    pub(super) ssl_key_password: Option<SecretString>,
}

/// Options that may not be set, for the schema of the file.
pub(super) fn refused() -> impl Iterator<Item = &'static str> {
    REFUSED.into_iter().chain(SECRET)
}

/// Whether an option's value may not be shown: known secrets, and whatever sounds like one.
pub(super) fn is_secret(name: &str) -> bool {
    SECRET.contains(&name)
        || ["password", "passphrase", "secret", "token", ".pem"]
            .iter()
            .any(|word| name.contains(word))
}

/// Takes all of them out of the document.
pub(super) fn read(reader: &mut Reader) -> Properties {
    let mut read = Properties::default();
    for (name, value, by_environment, place) in reader.properties() {
        let key = format!("{PROPERTIES}{name}");
        if REFUSED.contains(&name.as_str()) || name.starts_with(REFUSED_PREFIX) {
            let instead = match name.as_str() {
                "bootstrap.servers" | "metadata.broker.list" => "use kafka.bootstrap_servers",
                "group.id" | "transactional.id" => "it follows from kafka.application_id",
                "group.instance.id" => "it follows from kafka.instance_ordinal",
                "partition.assignment.strategy" => {
                    "the connector sets range: with another assignor partitions can be left without an owner"
                }
                _ => "the connector sets it, because exactly-once rests on it",
            };
            reader.mistake(&key, format!("{key} ({place}) may not be set; {instead}"));
        } else if SECRET.contains(&name.as_str()) && !by_environment {
            let variable =
                format!("WDT__KAFKA__PROPERTIES__{}", name.to_ascii_uppercase().replace('.', "_"));
            let instead = match name.as_str() {
                "sasl.password" => {
                    "use kafka.sasl_password_file or WDT__KAFKA__SASL_PASSWORD".to_owned()
                }
                "ssl.key.password" => {
                    "use kafka.ssl_key_password_file or WDT__KAFKA__SSL_KEY_PASSWORD".to_owned()
                }
                _ => format!("use the environment variable {variable}"),
            };
            reader.mistake(
                &key,
                format!("{key} ({place}) is a secret and may not stand in the file; {instead}"),
            );
        } else {
            match name.as_str() {
                "sasl.password" => read.sasl_password = Some(SecretString::from(value)),
                "ssl.key.password" => read.ssl_key_password = Some(SecretString::from(value)),
                _ => {
                    read.free.insert(name, value);
                }
            }
        }
    }
    read
}
