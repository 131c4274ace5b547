//! Who may ask for what.

use axum::http::{HeaderMap, header};
use data_encoding::BASE64;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

/// The listener's rule: open on loopback, by token elsewhere.
#[derive(Clone, Debug)]
pub(super) struct Access {
    loopback: bool,
    token: Option<SecretString>,
}

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// 401: no token, or a wrong one.
    Token,
    /// 403: a loopback listener addressed by a foreign name: a web page that pointed its own name at 127.0.0.1.
    Host,
}

impl Access {
    pub(super) fn new(loopback: bool, token: Option<SecretString>) -> Self {
        Self { loopback, token }
    }

    /// Whether a request for anything but a probe or `/metrics` is answered.
    pub(super) fn allow(&self, headers: &HeaderMap) -> Result<(), Denied> {
        if self.loopback {
            return if host_is_local(headers) { Ok(()) } else { Err(Denied::Host) };
        }
        let presented = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(presented_token);
        match (&self.token, presented) {
            (Some(token), Some(presented)) if bool::from(token.expose_secret().as_bytes().ct_eq(&presented)) => Ok(()),
            (Some(_), Some(_) | None) | (None, _) => Err(Denied::Token),
        }
    }
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
