//! Who may ask for what.

use std::sync::{Arc, PoisonError, RwLock};

use axum::http::{HeaderMap, Method, Uri, header};
use data_encoding::BASE64;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

/// The listener's token; it can be replaced while the listener runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Token(Arc<RwLock<Option<SecretString>>>);

impl Token {
    /// With a first token, or none.
    #[must_use]
    pub(crate) fn new(token: Option<SecretString>) -> Self {
        Self(Arc::new(RwLock::new(token)))
    }

    /// Replaces the token: from now on only this one is accepted.
    pub(crate) fn replace(&self, token: Option<SecretString>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = token;
    }

    fn get(&self) -> Option<SecretString> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The listener's rule: on loopback whoever is there may read, and may change things where no token
/// is set; everything else by token.
#[derive(Clone, Debug)]
pub(super) struct Access {
    loopback: bool,
    token: Token,
}

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// 401: no token, or a wrong one.
    Token,
    /// 403: a loopback listener addressed by a foreign name: a web page that pointed its own name
    /// at 127.0.0.1.
    Host,
}

impl Access {
    pub(super) fn new(loopback: bool, token: Token) -> Self {
        Self { loopback, token }
    }

    /// Whether a request for anything but a probe or `/metrics` is answered.
    pub(super) fn allow(&self, headers: &HeaderMap, method: &Method) -> Result<(), Denied> {
        let token = self.token.get();
        if self.loopback {
            if !host_is_local(headers) {
                return Err(Denied::Host);
            }
            if token.is_none() || matches!(*method, Method::GET | Method::HEAD) {
                return Ok(());
            }
        }
        let presented = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(presented_token);
        match (&token, presented) {
            (Some(token), Some(presented))
                if bool::from(token.expose_secret().as_bytes().ct_eq(&presented)) =>
            {
                Ok(())
            }
            (Some(_), Some(_) | None) | (None, _) => Err(Denied::Token),
        }
    }
}

/// Whether a request comes from no page of another origin: browsers say where a request comes from,
/// programs do not.
pub(super) fn same_origin(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let site = text("sec-fetch-site").is_none_or(|site| matches!(site, "same-origin" | "none"));
    let origin = text("origin").is_none_or(|origin| {
        let authority =
            origin.parse::<Uri>().ok().and_then(|uri| uri.authority().map(ToString::to_string));
        authority.is_some() && authority.as_deref() == text("host")
    });
    site && origin
}

/// The token of `Bearer …`, or the password of `Basic …`.
fn presented_token(authorization: &str) -> Option<Vec<u8>> {
    let (scheme, rest) = authorization.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.as_bytes().to_vec());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let decoded = BASE64.decode(rest.as_bytes()).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        return decoded.get(colon + 1..).map(<[u8]>::to_vec);
    }
    None
}

/// No `Host` (HTTP/1.0), `localhost`, or an IP address.
fn host_is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.split(':').next().unwrap_or(""),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}
