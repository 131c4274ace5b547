//! The page for people: one self-contained document, whose policy allows exactly its own script and
//! style.

use std::sync::LazyLock;

use axum::{
    http::{HeaderValue, header},
    response::{Html, IntoResponse, Response},
};
use data_encoding::BASE64;
use sha2::{Digest, Sha256};

const STYLE: &str = include_str!("page/page.css");

/// In their own scope, in the order in which they use each other.
static SCRIPT: LazyLock<String> = LazyLock::new(|| {
    let parts =
        [include_str!("page/words.js"), include_str!("page/draw.js"), include_str!("page/main.js")];
    format!("\"use strict\";\n(() => {{\n{}}})();\n", parts.concat())
});

static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    include_str!("page/page.html").replace("/*STYLE*/", STYLE).replace("/*SCRIPT*/", &SCRIPT)
});

/// Hashes instead of `'unsafe-inline'`: whatever else got into the page would not run.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = |text: &str| BASE64.encode(&Sha256::digest(text.as_bytes()));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(&SCRIPT),
        hash(STYLE)
    );
    HeaderValue::from_str(&policy)
        .unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"))
});

pub(super) async fn show() -> Response {
    ([(header::CONTENT_SECURITY_POLICY, POLICY.clone())], Html(DOCUMENT.as_str())).into_response()
}
