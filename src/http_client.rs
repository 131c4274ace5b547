//! What every HTTP client of ours shares, whomever it speaks to: the authorities it trusts, and
//! errors without addresses.

use std::{fs, path::Path, sync::Once};

use reqwest::{Certificate, ClientBuilder};

use crate::fault::with_causes;

/// Has a client trust the system's authorities and those of `ca_file`, which `key` names in the
/// configuration. Where nothing is `encrypted` and no file is given it trusts nobody: plain HTTP
/// must work where no authorities are installed, and should not pay for loading them.
///
/// # Errors
/// One sentence about a file that cannot be used.
pub(crate) fn trusting(
    builder: ClientBuilder,
    key: &str,
    ca_file: Option<&Path>,
    encrypted: bool,
) -> Result<ClientBuilder, String> {
    install_crypto();
    let Some(path) = ca_file else {
        return Ok(if encrypted { builder } else { builder.tls_certs_only([]) });
    };
    let wrong = |reason: String| format!("{key} {} {reason}", path.display());
    let pem = fs::read(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let certificates = Certificate::from_pem_bundle(&pem)
        .map_err(|error| wrong(format!("is no PEM: {}", cause(error))))?;
    if certificates.is_empty() {
        return Err(wrong("holds no PEM certificate".to_owned()));
    }
    Ok(builder.tls_certs_merge(certificates))
}

/// rustls needs a process-wide provider before the first client is built; whoever installs one
/// first wins.
fn install_crypto() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // Fails only when one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// Whether certificates are checked on the way to an address.
#[must_use]
pub(crate) fn is_https(address: &str) -> bool {
    address.trim_start().get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
}

/// The whole chain of causes without the address, which may hold credentials or a signature.
#[must_use]
pub(crate) fn cause(error: reqwest::Error) -> String {
    with_causes(&error.without_url())
}
