//! Both editions' signatures (`docs/erp.md#signatures`). A signature authorises its request, so it
//! is a secret.

use std::fmt::{self, Write as _};

use md5::{Digest as _, Md5};

/// The MD5 that authorises one request; never printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Signature([u8; 16]);

impl Signature {
    /// Lower-case hex, as it travels.
    pub(super) fn hex(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.0)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Signature(…)")
    }
}

/// One pass over parameters that are already sorted by name (bytes); `body` stands among them.
pub(super) fn flagship(secret: &str, sorted: &[(&str, &str)]) -> Signature {
    debug_assert!(sorted.is_sorted_by_key(|(name, _)| *name));
    let mut hash = Md5::new();
    hash.update(secret);
    for (name, value) in sorted {
        hash.update(name);
        hash.update(value);
    }
    hash.update(secret);
    Signature(hash.finalize().into())
}

/// One pass over parameters that are already sorted by name; lengths count characters, not bytes.
pub(super) fn enterprise(appsecret: &str, sorted: &[(&str, &str)]) -> Signature {
    debug_assert!(sorted.is_sorted_by_key(|(name, _)| *name));
    let mut hash = Md5::new();
    let mut lead = String::new();
    for (position, (name, value)) in sorted.iter().enumerate() {
        lead.clear();
        let separator = if position == 0 { "" } else { ";" };
        // Writing to a String cannot fail.
        let _ = write!(
            lead,
            "{separator}{:02}-{name}:{:04}-",
            name.chars().count(),
            value.chars().count()
        );
        hash.update(&lead);
        hash.update(value);
    }
    hash.update(appsecret);
    Signature(hash.finalize().into())
}

/// `secret:salt`, split at the first colon; the salt travels, the secret never does.
pub(super) fn split_secret(appsecret: &str) -> Option<(&str, &str)> {
    appsecret.split_once(':').filter(|(secret, _)| !secret.is_empty())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Vectors {
        enterprise: Vec<EnterpriseVector>,
        flagship: Vec<FlagshipVector>,
    }

    #[derive(Deserialize)]
    struct EnterpriseVector {
        params: BTreeMap<String, String>,
        appsecret: String,
        sign: String,
    }

    #[derive(Deserialize)]
    struct FlagshipVector {
        query: BTreeMap<String, String>,
        body: String,
        appsecret: String,
        sign: String,
    }

    fn vectors() -> Vectors {
        serde_json::from_str(include_str!("testdata/sign-vectors.json")).unwrap()
    }

    fn pairs(params: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
        params.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    #[test]
    fn every_flagship_vector_holds() {
        let vectors = vectors().flagship;
        assert_eq!(vectors.len(), 3);
        for mut vector in vectors {
            let (secret, salt) = split_secret(&vector.appsecret).unwrap();
            assert_eq!(salt, vector.query["salt"]);
            vector.query.insert("body".to_owned(), vector.body.clone());
            assert_eq!(flagship(secret, &pairs(&vector.query)).hex(), vector.sign);
        }
    }

    #[test]
    fn every_enterprise_vector_holds() {
        let vectors = vectors().enterprise;
        assert_eq!(vectors.len(), 3);
        for vector in vectors {
            assert_eq!(enterprise(&vector.appsecret, &pairs(&vector.params)).hex(), vector.sign);
        }
    }

    #[test]
    fn long_values_write_their_length_in_full() {
        let long = "退".repeat(10_000);
        let by_hand = Md5::digest(format!("01-a:10000-{long}x"));
        assert_eq!(
            enterprise("x", &[("a", &long)]).hex(),
            data_encoding::HEXLOWER.encode(&by_hand)
        );
    }

    #[test]
    fn the_secret_ends_at_the_first_colon() {
        assert_eq!(split_secret("se:a:b"), Some(("se", "a:b")));
        assert_eq!(split_secret("no colon"), None);
        assert_eq!(split_secret(":salt"), None);
    }

    #[test]
    fn a_signature_does_not_print() {
        let signature = flagship("s", &[]);
        assert!(!format!("{signature:?}").contains(&signature.hex()));
    }
}
