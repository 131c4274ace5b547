//! Client of a schema registry: Confluent's API, four calls, one attempt each.

use std::{collections::HashSet, time::Duration};

use reqwest::{Client, Method, StatusCode, redirect, retry};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;

use crate::{
    config::{RegistrySettings, duration_text},
    http_client::{cause, is_https, trusting},
};

/// For DNS, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For the whole call.
const TIMEOUT: Duration = Duration::from_secs(10);
/// For a schema and all it refers to, call by call: a hundred at half a second each.
const DEADLINE: Duration = Duration::from_secs(60);
/// No schema is larger; an answer that is comes from something that is no registry. Also for a
/// schema and all it refers to together.
const MAX_ANSWER: usize = 1024 * 1024;
/// Schemas that one refers to, also through others.
const MAX_REFERENCES: usize = 100;
/// Characters of a registry's reason that are repeated.
const MAX_REASON: usize = 1000;
/// What Confluent's API calls its JSON.
const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// Why the registry did not do what was asked: one sentence, never with credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RegistryFault {
    /// It does not have what was asked for.
    #[error("{0}")]
    Missing(String),
    /// It has something we can never read from.
    #[error("{0}")]
    Unreadable(String),
    /// It says no: an incompatible schema, credentials, permissions.
    #[error("{0}")]
    Refused(String),
    /// No usable answer: it may work later.
    #[error("{0}")]
    Unavailable(String),
}

/// A schema registry.
#[derive(Debug)]
pub(crate) struct Registry {
    client: Client,
    /// Without the last slash.
    base: String,
    auth: Option<SecretString>,
    /// [`DEADLINE`].
    deadline: Duration,
}

/// An answer to `POST`.
#[derive(Deserialize)]
struct Registered {
    id: u32,
}

/// A schema as the registry keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) text: String,
    /// The texts of all schemas it refers to, also through others; each behind those it refers to.
    pub(crate) references: Vec<String>,
}

impl Stored {
    /// Bytes of all texts.
    pub(crate) fn size(&self) -> usize {
        self.text.len() + self.references.iter().map(String::len).sum::<usize>()
    }
}

/// An answer to `GET /schemas/ids/{id}` and to `GET /subjects/{subject}/versions/{version}`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Given {
    schema: String,
    schema_type: Option<String>,
    #[serde(default)]
    references: Option<Vec<serde_json::Value>>,
}

/// Where a schema stands that another one refers to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Reference {
    /// Of the type, for Avro.
    name: String,
    subject: String,
    version: u32,
}

/// An answer to a question of compatibility.
#[derive(Deserialize)]
struct Compatibility {
    is_compatible: bool,
    #[serde(default)]
    messages: Option<Vec<String>>,
}

/// The registry's own reason.
#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    error_code: i64,
    message: String,
}

impl Registry {
    /// A client; nothing is asked yet.
    ///
    /// # Errors
    /// [`RegistryFault::Unavailable`] when the machine offers no certificates to trust, or
    /// `ca_file` holds none.
    pub(crate) fn new(settings: &RegistrySettings) -> Result<Self, RegistryFault> {
        let unusable = |reason: String| {
            RegistryFault::Unavailable(format!(
                "no HTTP client for the schema registry can be made: {reason}"
            ))
        };
        let builder = Client::builder()
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT);
        let builder = trusting(
            builder,
            "schema_registry.ca_file",
            settings.ca_file.as_deref(),
            is_https(&settings.url),
        )
        .map_err(unusable)?;
        let client = builder.build().map_err(|error| unusable(cause(error)))?;
        Ok(Self {
            client,
            base: settings.url.trim_end_matches('/').to_owned(),
            auth: settings.auth.clone(),
            deadline: DEADLINE,
        })
    }

    /// Registers a schema under a subject, or finds it there; its id.
    ///
    /// # Errors
    /// [`RegistryFault`] with the registry's reason.
    pub(crate) async fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryFault> {
        let what = format!("register the schema of {subject}");
        self.post(&what, &format!("/subjects/{}/versions", percent_encoded(subject)), schema)
            .await
            .map_err(|fault| match fault {
                RegistryFault::Missing(reason) => RegistryFault::Refused(reason),
                fault => fault,
            })
    }

    /// The id of a schema that must be registered under a subject already.
    ///
    /// # Errors
    /// [`RegistryFault`] with the registry's reason.
    pub(crate) async fn verify(&self, subject: &str, schema: &str) -> Result<u32, RegistryFault> {
        let what = format!("find the schema of {subject}");
        self.post(&what, &format!("/subjects/{}", percent_encoded(subject)), schema).await.map_err(
            |fault| match fault {
                RegistryFault::Missing(reason) => RegistryFault::Missing(format!(
                    "{reason}; register it there, or set schema_registry.register = true"
                )),
                fault => fault,
            },
        )
    }

    /// Why the registry would refuse a schema beside the latest of the subject; empty when it would
    /// not.
    ///
    /// # Errors
    /// [`RegistryFault::Missing`] where the subject does not exist.
    pub(crate) async fn compatible(
        &self,
        subject: &str,
        schema: &str,
    ) -> Result<Vec<String>, RegistryFault> {
        let what = format!("compare the schema of {subject}");
        let path = format!(
            "/compatibility/subjects/{}/versions/latest?verbose=true",
            percent_encoded(subject)
        );
        let body = json!({ "schema": schema }).to_string();
        let answer = self.call(&what, Method::POST, &path, Some(body)).await?;
        let found: Compatibility = serde_json::from_slice(&answer).map_err(|_| garbage(&what))?;
        let messages = found.messages.unwrap_or_default();
        Ok(match (found.is_compatible, messages.is_empty()) {
            (true, _) => Vec::new(),
            (false, false) => messages,
            (false, true) => vec!["the registry gives no reason".to_owned()],
        })
    }

    /// Whether it gives the schema with this id now.
    pub(crate) async fn gives(&self, id: u32) -> bool {
        let what = format!("give schema {id} of the registry");
        self.call(&what, Method::GET, &format!("/schemas/ids/{id}"), None).await.is_ok()
    }

    /// The schema with this id and all it refers to.
    ///
    /// Of references with the same name the first one counts, in the order in which Confluent's
    /// clients resolve them: depth first, by the order of each list.
    ///
    /// # Errors
    /// [`RegistryFault::Unreadable`] for what is no Avro schema, is too large or refers to too many
    /// others.
    pub(crate) async fn schema(&self, id: u32) -> Result<Stored, RegistryFault> {
        tokio::time::timeout(self.deadline, self.gather(id)).await.unwrap_or_else(|_| {
            Err(RegistryFault::Unavailable(format!(
                "the schema registry could not give schema {id} of the registry and all it refers to within {}",
                duration_text(self.deadline)
            )))
        })
    }

    async fn gather(&self, id: u32) -> Result<Stored, RegistryFault> {
        let of = format!("schema {id} of the registry");
        let answer = self
            .call(&format!("give {of}"), Method::GET, &format!("/schemas/ids/{id}"), None)
            .await?;
        let (text, referred) = read_stored(&of, &answer)?;
        let mut size = text.len();
        let mut references = Vec::new();
        let (mut names, mut seen) = (HashSet::new(), HashSet::new());
        // Texts whose references are not complete yet, the outermost first.
        let mut open = vec![(text, referred.into_iter())];
        while let Some((_, rest)) = open.last_mut() {
            let Some(next) = rest.next() else {
                references.extend(open.pop().map(|(text, _)| text));
                continue;
            };
            let Reference { name, subject, version } = next;
            if !names.insert(name) || !seen.insert((subject.clone(), version)) {
                continue;
            }
            if seen.len() > MAX_REFERENCES {
                return Err(RegistryFault::Unreadable(format!(
                    "{of} refers to more than {MAX_REFERENCES} other schemas"
                )));
            }
            let referred = format!("version {version} of {subject}, which schema {id} refers to");
            // Also one that was deleted since, as Confluent's clients ask for it.
            let path =
                format!("/subjects/{}/versions/{version}?deleted=true", percent_encoded(&subject));
            let answer = self.call(&format!("give {referred}"), Method::GET, &path, None).await?;
            let (text, more) = read_stored(&format!("{referred},"), &answer)?;
            size += text.len();
            if size > MAX_ANSWER {
                return Err(RegistryFault::Unreadable(format!(
                    "{of} is larger than {MAX_ANSWER} bytes with all it refers to"
                )));
            }
            open.push((text, more.into_iter()));
        }
        let text = references.pop().unwrap_or_default();
        Ok(Stored { text, references })
    }

    async fn post(&self, what: &str, path: &str, schema: &str) -> Result<u32, RegistryFault> {
        let body = json!({ "schema": schema }).to_string();
        let answer = self.call(what, Method::POST, path, Some(body)).await?;
        read_registered(what, &answer)
    }

    /// One call; the body of a 2xx answer.
    async fn call(
        &self,
        what: &str,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Vec<u8>, RegistryFault> {
        let asks = method == Method::GET;
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.base))
            .header("accept", format!("{MEDIA_TYPE}, application/json"));
        if let Some(auth) = &self.auth {
            let (user, password) =
                auth.expose_secret().split_once(':').unwrap_or((auth.expose_secret(), ""));
            request = request.basic_auth(user, Some(password));
        }
        if let Some(body) = body {
            request = request.header("content-type", MEDIA_TYPE).body(body);
        }
        let unavailable = |error| {
            RegistryFault::Unavailable(format!(
                "the schema registry could not {what}: {}",
                cause(error)
            ))
        };
        let mut response = request.send().await.map_err(unavailable)?;
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unavailable)? {
            if answer.len() + chunk.len() > MAX_ANSWER {
                let sentence = format!(
                    "the schema registry could not {what}: its answer is larger than {MAX_ANSWER} bytes"
                );
                let is_json = answer.iter().chain(&chunk).find(|byte| !byte.is_ascii_whitespace())
                    == Some(&b'{');
                // The JSON of a schema that somebody registered is that large for ever; waiting for
                // another one would hold up whatever stands behind the record. Anything else comes
                // from something that is no registry.
                let is_schema = asks && is_json && response.status().is_success();
                return Err(if is_schema {
                    RegistryFault::Unreadable(sentence)
                } else {
                    RegistryFault::Unavailable(sentence)
                });
            }
            answer.extend_from_slice(&chunk);
        }
        if response.status().is_success() {
            Ok(answer)
        } else {
            Err(refusal(what, response.status(), &answer))
        }
    }
}

/// The text of a schema in the answer that gives it, and what it refers to.
pub(super) fn read_stored(
    of: &str,
    answer: &[u8],
) -> Result<(String, Vec<Reference>), RegistryFault> {
    let given: Given =
        serde_json::from_slice(answer).map_err(|_| garbage(&format!("give {of}")))?;
    if given.schema_type.as_deref().is_some_and(|kind| kind != "AVRO") {
        return Err(RegistryFault::Unreadable(format!("{of} is not an Avro schema")));
    }
    let references = given.references.unwrap_or_default().into_iter().map(|reference| {
        serde_json::from_value(reference).map_err(|_| {
            RegistryFault::Unreadable(format!(
                "{of} refers to a schema without its name, subject and version"
            ))
        })
    });
    Ok((given.schema, references.collect::<Result<_, _>>()?))
}

/// The id in an answer to a registration.
pub(super) fn read_registered(what: &str, answer: &[u8]) -> Result<u32, RegistryFault> {
    serde_json::from_slice::<Registered>(answer)
        .map(|registered| registered.id)
        .map_err(|_| garbage(what))
}

/// The registry's own reason, as one line of bounded length: it ends up in a log.
pub(super) fn read_problem(answer: &[u8]) -> String {
    match serde_json::from_slice::<Problem>(answer) {
        Ok(problem) => problem
            .message
            .chars()
            .map(|ch| if ch.is_control() { ' ' } else { ch })
            .take(MAX_REASON)
            .collect(),
        Err(_) => "no reason given".to_owned(),
    }
}

/// What an answer other than 2xx means.
fn refusal(what: &str, status: StatusCode, answer: &[u8]) -> RegistryFault {
    let reason = read_problem(answer);
    let sentence = format!("the schema registry could not {what}: {status}: {reason}");
    match status {
        // Without the registry's own number it is somebody else's 404: a gateway's, for one.
        StatusCode::NOT_FOUND
            if serde_json::from_slice::<Problem>(answer)
                .is_ok_and(|problem| problem.error_code > 0) =>
        {
            RegistryFault::Missing(sentence)
        }
        StatusCode::NOT_FOUND => {
            RegistryFault::Unavailable(format!("{sentence}; check schema_registry.url"))
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            RegistryFault::Unavailable(sentence)
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryFault::Refused(format!(
            "{sentence}; check the credentials in schema_registry.auth_file"
        )),
        status if status.is_redirection() => RegistryFault::Refused(format!(
            "{sentence}; redirects are not followed: set schema_registry.url to where it leads"
        )),
        status if status.is_client_error() => RegistryFault::Refused(sentence),
        _ => RegistryFault::Unavailable(sentence),
    }
}

fn garbage(what: &str) -> RegistryFault {
    RegistryFault::Unavailable(format!(
        "the schema registry could not {what}: its answer is not the documented JSON; check schema_registry.url"
    ))
}

/// One path segment (RFC 3986: everything but the unreserved characters).
fn percent_encoded(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
#[path = "registry_tests.rs"]
pub(crate) mod tests;
