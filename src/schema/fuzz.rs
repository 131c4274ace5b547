//! Doors for the fuzz tests: what bytes from outside come to, as one word of a closed set.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use crate::config::RegistrySettings;

use super::{
    Codec, DecodeFault, Subject,
    catalog::catalog,
    learnt::{Learnt, Lesson},
    registry::{Registry, RegistryFault, read_problem, read_registered, read_stored},
    shape::Schema,
};

/// Registry ids the trial knows: our command's schema, and one a sender wrote otherwise.
const OWN_ID: u32 = 7;
const FOREIGN_ID: u32 = 8;

/// A sender's older, looser schema of a command: other order, other types, fields of its own.
const FOREIGN: &str = r#"{"type":"record","name":"Order","fields":[
  {"name":"note","type":["null","string"]},{"name":"return_no","type":"string"},{"name":"command_id","type":"string"},
  {"name":"warehouse_no","type":"string"},{"name":"flags","type":{"type":"map","values":"boolean"}},
  {"name":"create_mode","type":["null",{"type":"enum","name":"CreateMode","symbols":["APPROVED","DRAFT","LATER","SUBMITTED"]}]},
  {"name":"details","type":{"type":"array","items":{"type":"record","name":"Line","fields":[
    {"name":"num","type":{"type":"bytes","logicalType":"decimal","precision":12,"scale":2}},{"name":"spec_no","type":"string"},
    {"name":"weight","type":"double"}]}}}]}"#;

/// A codec as it is in the middle of a run: with a registry, some of whose ids it knows.
#[derive(Debug)]
pub struct Trial(Codec);

impl Trial {
    /// Connects to nothing.
    ///
    /// # Errors
    /// One sentence; only a defect makes one.
    pub fn new() -> Result<Self, String> {
        let settings = RegistrySettings {
            url: "http://127.0.0.1:9".to_owned(),
            auth: None,
            register: false,
            ca_file: None,
        };
        let registry = Registry::new(&settings).map_err(|fault| fault.to_string())?;
        let mut learnt = Learnt::default();
        let lesson = Lesson::Readable(Arc::new(Schema::parse(FOREIGN, &[])?));
        learnt.insert(FOREIGN_ID, lesson, FOREIGN.len());
        let own = HashMap::from([(OWN_ID, Arc::clone(catalog().of(Subject::Command)))]);
        Ok(Self(Codec {
            registry: Some(RwLock::new(Arc::new(registry))),
            ids: BTreeMap::new(),
            own,
            learnt: RwLock::new(learnt),
        }))
    }

    /// The codec, for what stands above it.
    #[must_use]
    pub fn codec(&self) -> &Codec {
        &self.0
    }

    /// A journal entry, a feed's state, a result, and any value as `tail` shows it.
    #[must_use]
    pub fn entry(&self, bytes: &[u8]) -> &'static str {
        let state = self.0.decode_feed_state(bytes);
        let journal = self.0.decode_journal(bytes);
        let result = self.0.decode_result(bytes);
        let shown = self.0.to_json(bytes);
        if let Ok(state) = &state {
            for subject in [Subject::PurchaseReturnEnvelope, Subject::ReturnOutboundEnvelope] {
                // What becomes `before` of a kept record whose bytes are not ours.
                let _ = self.0.current_datum(subject, &state.version);
            }
        }
        match (&state, &journal, &result, &shown) {
            (Ok(_), ..) => "a feed's state",
            (_, Ok(_), ..) => "a journal entry",
            (_, _, Ok(_), _) => "a result",
            (.., Ok(_)) => "another value",
            (.., Err(DecodeFault::UnknownSchemaId(_))) => "an unknown schema id",
            (.., Err(DecodeFault::Malformed(_))) => "malformed",
        }
    }

    /// A schema somebody writes commands with, behind a line with a datum of it in hexadecimal.
    #[must_use]
    pub fn written(&self, bytes: &[u8]) -> &'static str {
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        let (datum, text) = bytes.split_at(end);
        let Ok(datum) = data_encoding::HEXLOWER_PERMISSIVE.decode(datum) else {
            return "no datum";
        };
        let Ok(schema) = Schema::parse(&String::from_utf8_lossy(text), &[]) else {
            return "no schema";
        };
        let lesson = Lesson::Readable(Arc::new(schema));
        let mut learnt = self.0.learnt.write().unwrap_or_else(PoisonError::into_inner);
        learnt.insert(FOREIGN_ID, lesson, text.len());
        drop(learnt);
        let framed = [&[0][..], &FOREIGN_ID.to_be_bytes(), &datum].concat();
        match (self.0.decode_command(&framed), self.0.to_json(&framed)) {
            (Ok(_), Ok(_)) => "a command",
            (Ok(_), Err(_)) => "a command that cannot be shown",
            (Err(_), Ok(_)) => "another value",
            (Err(_), Err(_)) => "malformed",
        }
    }

    /// An answer of the registry: to a registration, with a schema, or with a reason.
    #[must_use]
    pub fn registry(bytes: &[u8]) -> &'static str {
        let _ = read_problem(bytes);
        if read_registered("register", bytes).is_ok() {
            return "an id";
        }
        match read_stored("schema 7 of the registry", bytes) {
            Ok((text, _)) => match Schema::parse(&text, &[]) {
                Ok(_) => "a schema",
                Err(_) => "a schema that cannot be read from",
            },
            Err(RegistryFault::Missing(_) | RegistryFault::Unreadable(_)) => "no schema for us",
            Err(RegistryFault::Refused(_)) => "refused",
            Err(RegistryFault::Unavailable(_)) => "not the documented JSON",
        }
    }
}
