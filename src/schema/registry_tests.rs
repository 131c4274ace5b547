//! Against a registry of our own making: Confluent's answers, and those of things that are no
//! registry.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
};
use serde_json::Value;
use tokio::net::TcpListener;

use super::*;
use crate::{
    config::Topics,
    schema::{Codec, DecodeFault, LearnFault, Subject, schemas},
};

/// Method and path, `authorization`, body.
pub(crate) type Asked = (String, Option<String>, String);

/// What was asked, and what is answered to anything.
#[derive(Clone)]
pub(crate) struct Fake {
    asked: Arc<Mutex<Vec<Asked>>>,
    answer: Arc<Mutex<(StatusCode, String)>>,
    /// Comes before `answer`.
    once: Arc<Mutex<Option<(StatusCode, String)>>>,
    /// What is answered to a request that ends so, before both.
    by_end: Arc<Mutex<Vec<(String, StatusCode, String)>>>,
}

impl Fake {
    pub(crate) async fn start(status: StatusCode, answer: &str) -> (Self, RegistrySettings) {
        let fake = Self {
            asked: Arc::default(),
            answer: Arc::new(Mutex::new((status, answer.to_owned()))),
            once: Arc::default(),
            by_end: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/apis/ccompat/v7/", listener.local_addr().unwrap());
        let router = Router::new().fallback(answered).with_state(fake.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (
            fake,
            RegistrySettings {
                url,
                auth: Some("user:pass:word".into()),
                register: true,
                ca_file: None,
            },
        )
    }
    pub(crate) fn answers(&self, status: StatusCode, answer: &str) {
        *self.answer.lock().unwrap() = (status, answer.to_owned());
    }
    pub(crate) fn answers_once(&self, status: StatusCode, answer: &str) {
        *self.once.lock().unwrap() = Some((status, answer.to_owned()));
    }
    fn answers_to(&self, end: &str, status: StatusCode, answer: &str) {
        self.by_end.lock().unwrap().push((end.to_owned(), status, answer.to_owned()));
    }
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn answered(
    State(fake): State<Fake>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    let auth = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    fake.asked.lock().unwrap().push((
        format!("{method} {uri}"),
        auth,
        String::from_utf8(body.to_vec()).unwrap(),
    ));
    let (uri, by_end) = (uri.to_string(), fake.by_end.lock().unwrap());
    if let Some((_, status, answer)) = by_end.iter().rfind(|(end, ..)| uri.ends_with(end)) {
        return (*status, answer.clone());
    }
    let once = fake.once.lock().unwrap().take();
    once.unwrap_or_else(|| fake.answer.lock().unwrap().clone())
}

pub(crate) fn topics() -> Topics {
    let name = |name: &str| name.to_owned();
    Topics {
        commands: name("commands/ä"),
        results: name("results"),
        commands_dlq: name("dlq"),
        journal: name("journal"),
        purchase_returns: name("returns"),
        return_outbounds: name("outbounds"),
        feeds_state: name("state"),
        feeds_dlq: name("feeds.dlq"),
        control: name("control"),
    }
}

#[tokio::test]
async fn schemas_are_registered_under_the_topics_names() {
    let (fake, settings) = Fake::start(StatusCode::OK, r#"{"id":4711}"#).await;
    let codec = Codec::connect(Some(&settings), &topics(), &[Subject::Command]).await.unwrap();
    let (request, auth, body) = fake.asked().remove(0);
    assert_eq!(request, "POST /apis/ccompat/v7/subjects/commands%2F%C3%A4-value/versions");
    assert_eq!(auth.as_deref(), Some("Basic dXNlcjpwYXNzOndvcmQ="));
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["schema"], schemas()[0].text);
    // The id stands in front of values, big endian; a subject that was not registered cannot be
    // written.
    assert_eq!(
        malformed(codec.decode_command(&[0, 0, 0, 0x12, 0x67])),
        "the value cannot be read as CreateReturnOutbound: ends too early"
    );
    assert!(format!("{codec:?}").contains("REDACTED") && !format!("{codec:?}").contains("word"));
}

fn malformed<T: std::fmt::Debug>(read: Result<T, DecodeFault>) -> String {
    match read {
        Err(DecodeFault::Malformed(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn schemas_are_only_looked_up_where_registering_is_off() {
    let (fake, mut settings) =
        Fake::start(StatusCode::OK, r#"{"subject":"s","version":1,"id":3,"schema":"{}"}"#).await;
    settings.register = false;
    Codec::connect(Some(&settings), &topics(), &[Subject::Journal]).await.unwrap();
    assert_eq!(fake.asked()[0].0, "POST /apis/ccompat/v7/subjects/journal-value");
    fake.answers(StatusCode::NOT_FOUND, r#"{"error_code":40403,"message":"Schema not found"}"#);
    let fault = Codec::connect(Some(&settings), &topics(), &[Subject::Journal])
        .await
        .unwrap_err()
        .to_string();
    assert!(
        fault.contains("journal-value")
            && fault.contains("Schema not found")
            && fault.contains("register = true"),
        "{fault}"
    );
}

#[tokio::test]
async fn the_registrys_own_reason_is_told() {
    let (fake, settings) = Fake::start(
        StatusCode::CONFLICT,
        r#"{"error_code":409,"message":"READER_FIELD_MISSING_DEFAULT_VALUE: x"}"#,
    )
    .await;
    let fault = Codec::connect(Some(&settings), &topics(), &[Subject::Result])
        .await
        .unwrap_err()
        .to_string();
    assert!(
        fault.contains("results-value")
            && fault.contains("409")
            && fault.contains("READER_FIELD_MISSING_DEFAULT_VALUE: x"),
        "{fault}"
    );
    fake.answers(StatusCode::UNAUTHORIZED, "<html>");
    let fault = Codec::connect(Some(&settings), &topics(), &[Subject::Result])
        .await
        .unwrap_err()
        .to_string();
    assert!(fault.contains("auth_file") && !fault.contains("word"), "{fault}");
    fake.answers(StatusCode::OK, "<html>");
    let fault = Codec::connect(Some(&settings), &topics(), &[Subject::Result])
        .await
        .unwrap_err()
        .to_string();
    assert!(fault.contains("not the documented JSON"), "{fault}");
    fake.answers(StatusCode::FOUND, "");
    let fault = Codec::connect(Some(&settings), &topics(), &[Subject::Result])
        .await
        .unwrap_err()
        .to_string();
    assert!(fault.contains("redirects"), "{fault}");
}

#[tokio::test]
async fn new_credentials_are_taken_where_the_ids_of_our_schemas_stay_the_same() {
    let (fake, mut settings) = Fake::start(StatusCode::OK, r#"{"id":7}"#).await;
    let codec = Codec::connect(Some(&settings), &topics(), &[Subject::Command]).await.unwrap();
    settings.auth = Some("user:other".into());
    for (status, answer, word) in [
        (StatusCode::UNAUTHORIZED, "", "auth_file"),
        (StatusCode::OK, r#"{"id":8}"#, "the id 8 and gave it 7 before"),
    ] {
        fake.answers(status, answer);
        let fault = codec.replace_registry(&settings, &topics()).await.unwrap_err().to_string();
        assert!(fault.contains(word), "{fault}");
    }
    let auth_of_learning = async |id: u32| {
        let _ = codec.learn(id).await;
        let (request, auth, _) = fake.asked().pop().unwrap();
        assert!(request.ends_with(&format!("/schemas/ids/{id}")), "{request}");
        auth.unwrap()
    };
    assert_eq!(auth_of_learning(1).await, "Basic dXNlcjpwYXNzOndvcmQ=");
    fake.answers(StatusCode::OK, r#"{"id":7}"#);
    codec.replace_registry(&settings, &topics()).await.unwrap();
    assert_eq!(auth_of_learning(2).await, "Basic dXNlcjpvdGhlcg==");
}

#[tokio::test]
async fn ids_met_in_messages_are_learnt_once() {
    let (fake, settings) = Fake::start(StatusCode::OK, r#"{"id":1}"#).await;
    let codec = Codec::connect(Some(&settings), &topics(), &[]).await.unwrap();
    let command = Codec::single_object();
    let value = crate::schema::CreateReturnOutbound {
        command_id: "c".to_owned(),
        return_no: "r".to_owned(),
        warehouse_no: "w".to_owned(),
        logistics_code: None,
        create_mode: None,
        remark: None,
        details: vec![],
        issued_at: None,
        expires_at: None,
    };
    let mut bytes = vec![0, 0, 0, 0, 9];
    bytes.extend_from_slice(&command.encode_command(&value).unwrap()[10..]);
    assert_eq!(codec.decode_command(&bytes), Err(DecodeFault::UnknownSchemaId(9)));
    let stored = json!({ "schema": schemas()[0].text }).to_string();
    fake.answers(StatusCode::OK, &stored);
    assert_eq!(codec.learn(9).await, Ok(()));
    assert_eq!(codec.decode_command(&bytes), Ok(value));
    assert_eq!(codec.learn(9).await, Ok(()));
    assert_eq!(fake.asked().len(), 1);
    assert_eq!(fake.asked()[0].0, "GET /apis/ccompat/v7/schemas/ids/9");
}

#[tokio::test]
async fn a_missing_id_is_remembered_and_an_outage_is_not() {
    let (fake, settings) = Fake::start(
        StatusCode::NOT_FOUND,
        r#"{"error_code":40403,"message":"Schema 5 not found"}"#,
    )
    .await;
    let codec = Codec::connect(Some(&settings), &topics(), &[]).await.unwrap();
    for _ in 0..2 {
        let Err(LearnFault::Missing(reason)) = codec.learn(5).await else { panic!("missing") };
        assert!(reason.contains("Schema 5 not found"), "{reason}");
    }
    assert_eq!(fake.asked().len(), 1, "the second answer comes from memory");
    // A gateway's, which says nothing about the schema.
    fake.answers(StatusCode::NOT_FOUND, "<html>no such pipeline</html>");
    assert!(matches!(codec.learn(6).await, Err(LearnFault::Unavailable(_))));
    fake.answers(StatusCode::BAD_GATEWAY, "");
    assert!(matches!(codec.learn(6).await, Err(LearnFault::Unavailable(_))));
    for (stored, part) in [
        (json!({"schema": "{}", "schemaType": "PROTOBUF"}), "not an Avro schema"),
        (
            json!({"schema": "\"string\"", "references": [{"name": "x"}]}),
            "without its name, subject and version",
        ),
        (json!({"schema": "nonsense"}), "not a valid Avro schema"),
    ]
    .into_iter()
    {
        fake.answers(StatusCode::OK, &stored.to_string());
        let id = 10 + u32::try_from(fake.asked().len()).unwrap();
        let Err(LearnFault::Unusable(reason)) = codec.learn(id).await else { panic!("unusable") };
        assert!(reason.contains(part), "{reason}");
    }
}

/// One id that the registry refuses holds a partition for a bounded time; one that refuses
/// everything is waited for.
#[tokio::test]
async fn a_refusal_is_about_the_id_where_the_registry_gives_another_one() {
    let (fake, settings) = Fake::start(StatusCode::OK, r#"{"id":3}"#).await;
    let codec = Codec::connect(Some(&settings), &topics(), &[Subject::Command]).await.unwrap();
    let own = json!({ "schema": schemas()[0].text }).to_string();
    for status in [400, 401, 403, 406, 409, 422] {
        let refusal = StatusCode::from_u16(status).unwrap();
        let body = format!(r#"{{"error_code":{status}01,"message":"not this one"}}"#);
        let id = u32::from(status);
        fake.answers(refusal, &body);
        fake.answers_to("/schemas/ids/3", refusal, &body);
        let Err(LearnFault::Unavailable(reason)) = codec.learn(id).await else {
            panic!("{status}")
        };
        assert!(reason.contains("not this one"), "{reason}");
        fake.answers_to("/schemas/ids/3", StatusCode::BAD_GATEWAY, "");
        assert!(matches!(codec.learn(id).await, Err(LearnFault::Unavailable(_))), "{status}");
        fake.answers_to("/schemas/ids/3", StatusCode::OK, &own);
        let Err(LearnFault::Missing(reason)) = codec.learn(id).await else { panic!("{status}") };
        assert!(reason.contains("not this one"), "{reason}");
    }
    // Too much was asked, whatever it was.
    for status in [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT] {
        fake.answers(status, "");
        assert!(matches!(codec.learn(9).await, Err(LearnFault::Unavailable(_))), "{status}");
    }
}

#[tokio::test]
async fn an_id_that_no_registry_gives_is_not_asked_for() {
    let (fake, settings) = Fake::start(StatusCode::OK, "").await;
    let codec = Codec::connect(Some(&settings), &topics(), &[]).await.unwrap();
    let unknown = codec.decode_command(&[0, 0x7f, 0xff, 0xff, 0xff, 0]);
    assert_eq!(unknown, Err(DecodeFault::UnknownSchemaId(2_147_483_647)));
    assert_eq!(
        malformed(codec.decode_command(&[0, 0x80, 0, 0, 0, 0])),
        "the value begins with the schema id 2147483648, which no schema registry gives: they end at 2147483647"
    );
    assert!(fake.asked().is_empty());
}

/// What Confluent's serializers register with `references`: the types stand under subjects of their
/// own.
#[tokio::test]
async fn what_a_schema_refers_to_is_fetched_with_it() {
    let (fake, settings) = Fake::start(StatusCode::OK, "").await;
    let registry = Registry::new(&settings).unwrap();
    let stored = |text: &str, references: Value| {
        json!({"schema": text, "schemaType": "AVRO", "references": references}).to_string()
    };
    let to = |subject: &str, version: u32| json!({"name": subject, "subject": subject, "version": version});
    fake.answers_to(
        "/schemas/ids/7",
        StatusCode::OK,
        &stored("C", json!([to("a/b", 1), to("d", 3)])),
    );
    fake.answers_to(
        "/subjects/a%2Fb/versions/1?deleted=true",
        StatusCode::OK,
        &stored("A", json!([to("d", 3)])),
    );
    fake.answers_to(
        "/subjects/d/versions/3?deleted=true",
        StatusCode::OK,
        &stored("D", Value::Null),
    );
    let found = registry.schema(7).await.unwrap();
    assert_eq!(
        (found.text.as_str(), found.references),
        ("C", vec!["D".to_owned(), "A".to_owned()])
    );
    assert_eq!(fake.asked().len(), 3, "each once");

    // One that refers to itself, and to many others.
    fake.answers_to(
        "/subjects/d/versions/3?deleted=true",
        StatusCode::OK,
        &stored("D", json!([to("d", 3)])),
    );
    assert_eq!(registry.schema(7).await.unwrap().references.len(), 2);
    let many: Vec<Value> = (1..=101)
        .map(
            |version| json!({"name": format!("N{version}"), "subject": "many", "version": version}),
        )
        .collect();
    for version in 1..=101 {
        let end = format!("/subjects/many/versions/{version}?deleted=true");
        fake.answers_to(&end, StatusCode::OK, &stored("M", Value::Null));
    }
    fake.answers_to("/schemas/ids/8", StatusCode::OK, &stored("C", many.into()));
    let RegistryFault::Unreadable(reason) = registry.schema(8).await.unwrap_err() else { panic!() };
    assert_eq!(reason, "schema 8 of the registry refers to more than 100 other schemas");
    let large = "x".repeat(MAX_ANSWER / 2);
    fake.answers_to(
        "/subjects/d/versions/3?deleted=true",
        StatusCode::OK,
        &stored(&large, Value::Null),
    );
    fake.answers_to(
        "/subjects/a%2Fb/versions/1?deleted=true",
        StatusCode::OK,
        &stored(&large, Value::Null),
    );
    let RegistryFault::Unreadable(reason) = registry.schema(7).await.unwrap_err() else { panic!() };
    assert_eq!(
        reason,
        "schema 7 of the registry is larger than 1048576 bytes with all it refers to"
    );

    // One that is not there yet, one of another kind.
    let missing = r#"{"error_code":40401,"message":"Subject 'd' not found."}"#;
    fake.answers_to("/subjects/d/versions/3?deleted=true", StatusCode::NOT_FOUND, missing);
    let RegistryFault::Missing(reason) = registry.schema(7).await.unwrap_err() else { panic!() };
    assert_eq!(
        reason,
        "the schema registry could not give version 3 of d, which schema 7 refers to: 404 Not Found: Subject 'd' not found."
    );
    let proto = r#"{"schema":"syntax","schemaType":"PROTOBUF"}"#;
    fake.answers_to("/subjects/d/versions/3?deleted=true", StatusCode::OK, proto);
    let RegistryFault::Unreadable(reason) = registry.schema(7).await.unwrap_err() else { panic!() };
    assert_eq!(reason, "version 3 of d, which schema 7 refers to, is not an Avro schema");
}

#[tokio::test]
async fn a_schema_and_all_it_refers_to_have_one_deadline() {
    let (_fake, mut settings) = Fake::start(StatusCode::OK, "").await;
    // Connects and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    settings.url = format!("http://{}", listener.local_addr().unwrap());
    let mut registry = Registry::new(&settings).unwrap();
    registry.deadline = Duration::from_millis(1);
    assert_eq!(
        registry.schema(7).await,
        Err(RegistryFault::Unavailable(
            "the schema registry could not give schema 7 of the registry and all it refers to within 1ms"
                .to_owned()
        ))
    );
}

/// As Confluent's `AbstractSchemaProvider.resolveReferences` does: depth first, in the order of the
/// lists, the first of a name.
#[tokio::test]
async fn references_of_one_name_and_two_versions_are_the_first_one() {
    let (fake, settings) = Fake::start(StatusCode::OK, "").await;
    let registry = Registry::new(&settings).unwrap();
    let stored = |text: &str, references: &[(&str, u32)]| {
        let references = references.iter().map(|(name, version)| json!({"name": name, "subject": format!("{name}-value"), "version": version}));
        json!({"schema": text, "references": references.collect::<Vec<_>>()}).to_string()
    };
    let gives = |end: &str, text: &str, references: &[(&str, u32)]| {
        fake.answers_to(end, StatusCode::OK, &stored(text, references));
    };
    let version = |name: &str, version: u32| {
        format!("/subjects/{name}-value/versions/{version}?deleted=true")
    };
    gives(&version("Money", 1), "M1", &[("Digits", 1)]);
    gives(&version("Money", 2), "M2", &[]);
    gives(&version("Digits", 1), "D1", &[]);
    gives(&version("B", 1), "B", &[("Money", 1), ("A", 1)]);
    gives(&version("A", 1), "A", &[("B", 1), ("Digits", 1)]);
    for (references, wanted) in [
        (&[("Money", 2), ("B", 1)][..], &["M2", "D1", "A", "B"][..]),
        (&[("B", 1), ("Money", 2)], &["D1", "M1", "A", "B"]),
        (&[("A", 1), ("B", 1), ("Money", 2)], &["D1", "M1", "B", "A"]),
    ] {
        gives("/schemas/ids/7", "C", references);
        let found = registry.schema(7).await.unwrap();
        assert_eq!(
            (found.text.as_str(), &found.references[..]),
            ("C", &wanted.iter().map(ToString::to_string).collect::<Vec<_>>()[..])
        );
    }
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let (_fake, settings) = Fake::start(StatusCode::OK, &"x".repeat(2 * MAX_ANSWER)).await;
    let codec = Codec::connect(Some(&settings), &topics(), &[]).await.unwrap();
    let Err(LearnFault::Unavailable(reason)) = codec.learn(1).await else { panic!("unavailable") };
    assert!(reason.contains("larger than"), "{reason}");
}

#[tokio::test]
async fn a_registered_schema_that_is_too_large_is_refused_by_its_id() {
    let (fake, settings) =
        Fake::start(StatusCode::OK, &format!("{{\"schema\": \"{}\"}}", "x".repeat(2 * MAX_ANSWER)))
            .await;
    let registry = Registry::new(&settings).unwrap();
    let RegistryFault::Unreadable(reason) = registry.schema(7).await.unwrap_err() else {
        panic!("refused for good")
    };
    assert!(
        reason.contains("schema 7") && reason.contains("larger than 1048576 bytes"),
        "{reason}"
    );
    // An answer to a question of ours, a failure, or no JSON at all is nobody's schema.
    assert!(matches!(registry.register("s", "\"int\"").await, Err(RegistryFault::Unavailable(_))));
    fake.answers(StatusCode::BAD_GATEWAY, &format!("{{{}", "x".repeat(2 * MAX_ANSWER)));
    assert!(matches!(registry.schema(7).await, Err(RegistryFault::Unavailable(_))));
    fake.answers(StatusCode::OK, &"x".repeat(2 * MAX_ANSWER));
    assert!(matches!(registry.schema(7).await, Err(RegistryFault::Unavailable(_))));
}

#[tokio::test]
async fn an_unreachable_registry_is_named_without_its_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let settings = RegistrySettings {
        url: format!("http://user:word@{address}"),
        auth: None,
        register: true,
        ca_file: None,
    };
    let fault = Codec::connect(Some(&settings), &topics(), &[Subject::Command])
        .await
        .unwrap_err()
        .to_string();
    assert!(
        fault.contains("schema registry could not register the schema of commands")
            && !fault.contains("word"),
        "{fault}"
    );
}
