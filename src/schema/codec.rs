//! Datum bytes and their framing: Confluent with a registry, single-object without one.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use crate::{
    background,
    clock::Moment,
    config::{RegistrySettings, Topics},
};

use super::{
    CommandResult, CreateReturnOutbound, EnvelopeParts, FeedState, JournalEntry, Subject,
    catalog::{Known, RELEASED, catalog, load},
    datum::{Broken, Cursor, Datum, put_bytes, put_long},
    json::to_json,
    learnt::{Learnt, Lesson, Next},
    registry::{Registry, RegistryFault},
    shape::{Node, Schema},
    translate::translate,
};

/// Why the codec could not be made: the registry's own reason, named.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SchemaFault(pub String);

/// Why bytes could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeFault {
    /// The schema of this registry id is not known yet: [`Codec::learn`] it, then decode again.
    #[error("schema id {0} is not known yet")]
    UnknownSchemaId(u32),
    /// It will never be readable.
    #[error("{0}")]
    Malformed(String),
}

/// Why a schema id could not be learnt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LearnFault {
    /// The registry does not know it or refuses it, and has for 30 s, or it is no schema we can
    /// read from: the record is poison.
    #[error("{0}")]
    Unusable(String),
    /// The registry does not know it yet: try again soon.
    #[error("{0}")]
    Missing(String),
    /// The registry did not answer, or refuses everything: try again later, the record is not to
    /// blame.
    #[error("{0}")]
    Unavailable(String),
}

/// First byte of the Confluent framing; a big-endian `u32` id follows.
const CONFLUENT: u8 = 0;
/// Registries count in Java's `int`.
const MAX_ID: u32 = i32::MAX.cast_unsigned();
/// First bytes of the single-object encoding; 8 bytes of fingerprint follow.
const SINGLE_OBJECT: [u8; 2] = [0xc3, 0x01];

/// Encodes and decodes every value; shared, cheap to clone behind an `Arc`.
#[derive(Debug)]
pub struct Codec {
    /// The client that was accepted last ([`Codec::replace_registry`]).
    pub(super) registry: Option<RwLock<Arc<Registry>>>,
    /// The ids we write.
    pub(super) ids: BTreeMap<Subject, u32>,
    /// Our own schemas by id, current and released.
    pub(super) own: HashMap<u32, Arc<Known>>,
    pub(super) learnt: RwLock<Learnt>,
}

/// Whose schema a value was written with.
enum Writer {
    /// One of ours, current or released.
    Known(Arc<Known>),
    /// One from the registry.
    Learnt(Arc<Schema>),
}

impl Writer {
    fn root(&self) -> Node<'_> {
        match self {
            Self::Known(known) => known.schema.root(),
            Self::Learnt(schema) => schema.root(),
        }
    }
}

impl Codec {
    /// Registers (or verifies) every subject with the registry, where one is configured.
    ///
    /// # Errors
    /// [`SchemaFault`] with the registry's own reason when it is unreachable or refuses a schema.
    pub async fn connect(
        registry: Option<&RegistrySettings>,
        topics: &Topics,
        subjects: &[Subject],
    ) -> Result<Self, SchemaFault> {
        Self::connect_with(registry, topics, subjects, &RELEASED).await
    }

    /// [`Codec::connect`] with the schemas of `released` versions by name: what they wrote carries
    /// ids of their own, and whoever restores a compacted topic cannot stop to learn them.
    async fn connect_with(
        registry: Option<&RegistrySettings>,
        topics: &Topics,
        subjects: &[Subject],
        released: &[(&'static str, &'static str)],
    ) -> Result<Self, SchemaFault> {
        let Some(settings) = registry else { return Ok(Self::single_object()) };
        let registry = Registry::new(settings).map_err(told)?;
        let mut codec = Self::single_object();
        for subject in subjects {
            let name = subject.name(topics);
            let current = catalog().of(*subject);
            for (_, text) in released
                .iter()
                .filter(|(name, text)| *name == current.name && *text != current.text)
            {
                match registry.verify(&name, text).await {
                    Ok(id) => {
                        codec.own.insert(id, load(current.name, text));
                    }
                    // That version never ran here.
                    Err(RegistryFault::Missing(_)) => {}
                    Err(fault) => return Err(told(fault)),
                }
            }
            let id = registered_id(&registry, settings, &name, current.text).await?;
            codec.own.insert(id, Arc::clone(current));
            codec.ids.insert(*subject, id);
        }
        codec.registry = Some(RwLock::new(Arc::new(registry)));
        Ok(codec)
    }

    /// Takes new credentials and authorities of the same registry, once it has given the ids of our
    /// schemas to them.
    ///
    /// # Errors
    /// [`SchemaFault`] with the registry's own reason; those before stay in use.
    pub(crate) async fn replace_registry(
        &self,
        settings: &RegistrySettings,
        topics: &Topics,
    ) -> Result<(), SchemaFault> {
        let Some(current) = &self.registry else { return Ok(()) };
        let candidate = Registry::new(settings).map_err(told)?;
        for (subject, ours) in &self.ids {
            let (name, text) = (subject.name(topics), catalog().of(*subject).text);
            let id = registered_id(&candidate, settings, &name, text).await?;
            if id != *ours {
                return Err(SchemaFault(format!(
                    "the schema registry gives the schema of {name} the id {id} and gave it {ours} before; check that these credentials are of the same registry"
                )));
            }
        }
        *current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(candidate);
        Ok(())
    }

    /// Single-object encoding only, no registry.
    #[must_use]
    pub fn single_object() -> Self {
        Self {
            registry: None,
            ids: BTreeMap::new(),
            own: HashMap::new(),
            learnt: RwLock::new(Learnt::default()),
        }
    }

    /// Framed bytes of a command (used by `send` and tests).
    ///
    /// # Errors
    /// [`SchemaFault`] when the value does not fit the schema, or its subject is none of those
    /// [`Codec::connect`] was given.
    pub fn encode_command(&self, value: &CreateReturnOutbound) -> Result<Vec<u8>, SchemaFault> {
        self.encode(Subject::Command, value, 0)
    }

    /// Framed bytes of a result.
    ///
    /// # Errors
    /// As above.
    pub fn encode_result(&self, value: &CommandResult) -> Result<Vec<u8>, SchemaFault> {
        self.encode(Subject::Result, value, 0)
    }

    /// Framed bytes of a journal entry.
    ///
    /// # Errors
    /// As above.
    pub fn encode_journal(&self, value: &JournalEntry) -> Result<Vec<u8>, SchemaFault> {
        self.encode(Subject::Journal, value, 0)
    }

    /// Framed bytes of a feed state.
    ///
    /// # Errors
    /// As above.
    pub fn encode_feed_state(&self, value: &FeedState) -> Result<Vec<u8>, SchemaFault> {
        self.encode(Subject::FeedState, value, value.version.len())
    }

    /// Framed bytes of a change event; the record datums are embedded as they are.
    ///
    /// # Errors
    /// As above, and for a subject that is no envelope.
    pub fn encode_envelope(
        &self,
        subject: Subject,
        parts: &EnvelopeParts<'_>,
    ) -> Result<Vec<u8>, SchemaFault> {
        match subject {
            Subject::PurchaseReturnEnvelope | Subject::ReturnOutboundEnvelope => {}
            Subject::Command | Subject::Result | Subject::Journal | Subject::FeedState => {
                return Err(SchemaFault(format!(
                    "{subject:?} carries no change events: a defect of the connector"
                )));
            }
        }
        let mut out =
            self.header(subject, 256 + parts.after.len() + parts.before.map_or(0, <[u8]>::len))?;
        match parts.before {
            None => put_long(&mut out, 0),
            Some(before) => {
                put_long(&mut out, 1);
                out.extend_from_slice(before);
            }
        }
        put_long(&mut out, 1);
        out.extend_from_slice(parts.after);
        parts.source.put(&mut out);
        put_bytes(&mut out, parts.op.letter().as_bytes());
        put_long(&mut out, 1);
        parts.ts_ms.put(&mut out);
        Ok(out)
    }

    /// Reads a command in either framing, written with any released or registered schema.
    ///
    /// # Errors
    /// [`DecodeFault`].
    pub fn decode_command(&self, bytes: &[u8]) -> Result<CreateReturnOutbound, DecodeFault> {
        self.decode(Subject::Command, bytes)
    }

    /// Reads a result.
    ///
    /// # Errors
    /// [`DecodeFault`].
    pub fn decode_result(&self, bytes: &[u8]) -> Result<CommandResult, DecodeFault> {
        self.decode(Subject::Result, bytes)
    }

    /// Reads a journal entry.
    ///
    /// # Errors
    /// [`DecodeFault`].
    pub fn decode_journal(&self, bytes: &[u8]) -> Result<JournalEntry, DecodeFault> {
        self.decode(Subject::Journal, bytes)
    }

    /// Reads a feed state.
    ///
    /// # Errors
    /// [`DecodeFault`].
    pub fn decode_feed_state(&self, bytes: &[u8]) -> Result<FeedState, DecodeFault> {
        self.decode(Subject::FeedState, bytes)
    }

    /// Any value of ours as JSON for people (`tail`, `dlq show`): decimals as strings, instants as
    /// RFC 3339.
    ///
    /// Debezium's `ts_ms` are plain numbers by its rules, so they stay numbers.
    ///
    /// # Errors
    /// [`DecodeFault`].
    pub fn to_json(&self, bytes: &[u8]) -> Result<serde_json::Value, DecodeFault> {
        let (writer, datum) = self.unframe(bytes)?;
        let mut cursor = Cursor::new(datum);
        let json = to_json(writer.root(), &mut cursor);
        json.and_then(|json| cursor.end().map(|()| json))
            .map_err(|broken| DecodeFault::Malformed(format!("the value cannot be read: {broken}")))
    }

    /// Asks the registry for a schema id met in a message; the answers kept are bounded.
    ///
    /// An id the registry does not know is missing for 30 s and unusable then; it is asked for
    /// again a minute later. So is one that it refuses while it gives a schema of ours.
    ///
    /// # Errors
    /// [`LearnFault`].
    pub async fn learn(&self, id: u32) -> Result<(), LearnFault> {
        if let Next::Told(told) = self.lessons().next(id, Moment::now()) {
            return told;
        }
        let Some(registry) = &self.registry else {
            return Err(LearnFault::Unusable(no_registry(id)));
        };
        let registry = Arc::clone(&registry.read().unwrap_or_else(PoisonError::into_inner));
        let (text, found) = match registry.schema(id).await {
            Ok(stored) => {
                let text = stored.size();
                // A large one takes a while, in which other work of the thread would wait.
                let parsed = background::blocking("schema", move || {
                    Schema::parse(&stored.text, &stored.references)
                });
                let found = match parsed.await {
                    Ok(found) => found,
                    Err(panic) if panic.is_panic() => {
                        Err("could not be read, which is a defect of the connector".to_owned())
                    }
                    Err(_) => {
                        return Err(LearnFault::Unavailable("the process ends".to_owned()));
                    }
                };
                (text, found.map_err(|reason| format!("schema {id} of the registry {reason}")))
            }
            Err(RegistryFault::Unreadable(reason)) => (0, Err(reason)),
            Err(RegistryFault::Missing(reason)) => {
                return Err(self.lessons_mut().missing(id, reason, Moment::now()));
            }
            Err(RegistryFault::Refused(reason)) => {
                // Of everything, or of this id? A message must not hold what stands behind it for
                // ever.
                let gives = match self.ids.values().next() {
                    Some(own) => registry.gives(*own).await,
                    None => false,
                };
                let (mut lessons, now) = (self.lessons_mut(), Moment::now());
                if gives {
                    return Err(lessons.missing(id, reason, now));
                }
                lessons.unanswered(id, now);
                return Err(LearnFault::Unavailable(reason));
            }
            Err(RegistryFault::Unavailable(reason)) => {
                self.lessons_mut().unanswered(id, Moment::now());
                return Err(LearnFault::Unavailable(reason));
            }
        };
        self.lessons_mut().found(id, text, found, Moment::now())
    }

    /// A record's datum in the current schema from its kept single-object encoding, re-encoded when
    /// the schema has changed since; used for `before`.
    ///
    /// # Errors
    /// [`DecodeFault`].
    pub fn current_datum<'a>(
        &self,
        subject: Subject,
        kept: &'a [u8],
    ) -> Result<Cow<'a, [u8]>, DecodeFault> {
        let current = catalog().record_of(subject);
        let (writer, datum) = self.unframe(kept)?;
        current_form(&writer, current, datum)
    }

    /// A record's datum with the single-object header in front, as the state keeps it.
    #[must_use]
    pub fn keep(&self, subject: Subject, datum: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(datum.len() + 10);
        single_object_header(&mut out, catalog().record_of(subject));
        out.extend_from_slice(datum);
        out
    }

    /// `large`: bytes of what is known to be large in it.
    fn encode(
        &self,
        subject: Subject,
        value: &impl Datum,
        large: usize,
    ) -> Result<Vec<u8>, SchemaFault> {
        let mut out = self.header(subject, 256 + large)?;
        value.put(&mut out);
        Ok(out)
    }

    /// An empty buffer but for the framing.
    fn header(&self, subject: Subject, capacity: usize) -> Result<Vec<u8>, SchemaFault> {
        let mut out = Vec::with_capacity(capacity);
        match (&self.registry, self.ids.get(&subject)) {
            (None, _) => single_object_header(&mut out, catalog().of(subject)),
            (Some(_), Some(id)) => {
                out.push(CONFLUENT);
                out.extend_from_slice(&id.to_be_bytes());
            }
            (Some(_), None) => {
                return Err(SchemaFault(format!(
                    "the schema of {subject:?} was not registered at the start: a defect of the connector"
                )));
            }
        }
        Ok(out)
    }

    fn decode<T: Datum>(&self, subject: Subject, bytes: &[u8]) -> Result<T, DecodeFault> {
        let (writer, datum) = self.unframe(bytes)?;
        let current = catalog().of(subject);
        let datum = current_form(&writer, current, datum)?;
        let mut cursor = Cursor::new(&datum);
        T::take(&mut cursor)
            .and_then(|value| cursor.end().map(|()| value))
            .map_err(|broken| unreadable(current, &broken))
    }

    /// The writer's schema and the datum of a framed value.
    fn unframe<'a>(&self, bytes: &'a [u8]) -> Result<(Writer, &'a [u8]), DecodeFault> {
        match bytes {
            [CONFLUENT, a, b, c, d, datum @ ..] => {
                Ok((self.registered(u32::from_be_bytes([*a, *b, *c, *d]))?, datum))
            }
            [0xc3, 0x01, rest @ ..] if rest.len() >= 8 => {
                let (fingerprint, datum) = rest.split_first_chunk::<8>().ok_or_else(unframed)?;
                let known = catalog().find(*fingerprint).ok_or_else(|| {
                    DecodeFault::Malformed(format!(
                        "the value was written with a schema of fingerprint {:016x}, which this version does not know: it comes from a newer version or another program",
                        u64::from_le_bytes(*fingerprint)
                    ))
                })?;
                Ok((Writer::Known(Arc::clone(known)), datum))
            }
            _ => Err(unframed()),
        }
    }

    fn registered(&self, id: u32) -> Result<Writer, DecodeFault> {
        if let Some(known) = self.own.get(&id) {
            return Ok(Writer::Known(Arc::clone(known)));
        }
        match (self.lessons().by_id.get(&id), &self.registry) {
            (Some(Lesson::Readable(schema)), _) => Ok(Writer::Learnt(Arc::clone(schema))),
            (_, Some(_)) if id > MAX_ID => Err(DecodeFault::Malformed(format!(
                "the value begins with the schema id {id}, which no schema registry gives: they end at {MAX_ID}"
            ))),
            (_, Some(_)) => Err(DecodeFault::UnknownSchemaId(id)),
            (_, None) => Err(DecodeFault::Malformed(no_registry(id))),
        }
    }

    fn lessons(&self) -> RwLockReadGuard<'_, Learnt> {
        self.learnt.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lessons_mut(&self) -> RwLockWriteGuard<'_, Learnt> {
        self.learnt.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The datum in the current schema: as it is where the writer's is the same.
fn current_form<'a>(
    writer: &Writer,
    current: &Arc<Known>,
    datum: &'a [u8],
) -> Result<Cow<'a, [u8]>, DecodeFault> {
    match writer {
        Writer::Known(known) if known.fingerprint == current.fingerprint => {
            return Ok(Cow::Borrowed(datum));
        }
        Writer::Known(known) if known.name != current.name => {
            return Err(DecodeFault::Malformed(format!(
                "the value is a {}, but a {} belongs here",
                known.name, current.name
            )));
        }
        Writer::Known(_) | Writer::Learnt(_) => {}
    }
    let mut cursor = Cursor::new(datum);
    let mut out = Vec::with_capacity(datum.len());
    translate(writer.root(), current.schema.root(), &mut cursor, &mut out)
        .and_then(|()| cursor.end())
        .map_err(|broken| unreadable(current, &broken))?;
    Ok(Cow::Owned(out))
}

fn single_object_header(out: &mut Vec<u8>, known: &Known) {
    out.extend_from_slice(&SINGLE_OBJECT);
    out.extend_from_slice(&known.fingerprint);
}

fn unreadable(current: &Known, broken: &Broken) -> DecodeFault {
    DecodeFault::Malformed(format!("the value cannot be read as {}: {broken}", current.name))
}

fn unframed() -> DecodeFault {
    DecodeFault::Malformed(
        "the value begins neither with a schema registry's id (0x00 and 4 bytes) nor with Avro's single-object header (0xC301 and 8 bytes)"
            .to_owned(),
    )
}

fn told(fault: RegistryFault) -> SchemaFault {
    SchemaFault(fault.to_string())
}

/// The id of a schema of ours, registered first where that is allowed.
async fn registered_id(
    registry: &Registry,
    settings: &RegistrySettings,
    subject: &str,
    schema: &str,
) -> Result<u32, SchemaFault> {
    let id = if settings.register {
        registry.register(subject, schema).await
    } else {
        registry.verify(subject, schema).await
    };
    id.map_err(told)
}

fn no_registry(id: u32) -> String {
    format!(
        "the value was written with schema id {id} of a schema registry, but none is configured: set schema_registry.url"
    )
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;

#[cfg(test)]
pub(crate) use tests::reference_json;
