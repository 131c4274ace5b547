//! The server's side of both signatures, written from `docs/erp.md#signatures` and not from the
//! client.

use md5::{Digest, Md5};

/// Decodes percent signs and `+` of a query string or form; `None` when a percent sign has no two
/// hex digits behind it or the bytes are not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            plain => plain,
        });
    }
    String::from_utf8(out).ok()
}

/// Parameters as they came, sorted by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads `a=b&c=d`; `None` when it cannot be decoded or a name comes twice (which value was
    /// signed, nobody could say).
    pub(super) fn read(text: &str) -> Option<Self> {
        let mut pairs = Vec::with_capacity(12);
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((decode(name)?, decode(value)?));
        }
        pairs.sort();
        let twice = pairs.iter().zip(pairs.iter().skip(1)).any(|(a, b)| a.0 == b.0);
        (!twice).then_some(Self(pairs))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn signed(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .filter(|(name, _)| name != "sign")
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

fn hex(digest: &[u8]) -> String {
    digest
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(u32::from(digit), 16))
        .collect()
}

/// The flagship's signature over the query parameters and the body that came.
pub(super) fn flagship(parameters: &Parameters, body: &[u8], secret: &str) -> String {
    let mut md5 = Md5::new();
    md5.update(secret);
    let mut body_left = true;
    for (name, value) in parameters.signed() {
        if body_left && name > "body" {
            md5.update("body");
            md5.update(body);
            body_left = false;
        }
        md5.update(name);
        md5.update(value);
    }
    if body_left {
        md5.update("body");
        md5.update(body);
    }
    md5.update(secret);
    hex(&md5.finalize())
}

/// The enterprise edition's signature over the form's parameters.
pub(super) fn enterprise(parameters: &Parameters, appsecret: &str) -> String {
    let text: Vec<String> = parameters
        .signed()
        .map(|(name, value)| {
            format!("{:02}-{name}:{:04}-{value}", name.chars().count(), value.chars().count())
        })
        .collect();
    let mut md5 = Md5::new();
    md5.update(text.join(";"));
    md5.update(appsecret);
    hex(&md5.finalize())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn encode(pairs: &Value) -> String {
        let quoted =
            |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let pairs = pairs.as_object().unwrap();
        pairs
            .iter()
            .map(|(name, value)| format!("{name}={}", quoted(value.as_str().unwrap())))
            .collect::<Vec<_>>()
            .join("&")
    }

    /// The simulator's own copy of the test vectors for signatures: its tests use no file of the
    /// client.
    const VECTORS: &str = include_str!("vectors.json");

    #[test]
    fn flagship_vectors() {
        let vectors: Value = serde_json::from_str(VECTORS).unwrap();
        for vector in vectors["flagship"].as_array().unwrap() {
            let parameters = Parameters::read(&encode(&vector["query"])).unwrap();
            let secret = vector["appsecret"].as_str().unwrap().split_once(':').unwrap().0;
            assert_eq!(
                flagship(&parameters, vector["body"].as_str().unwrap().as_bytes(), secret),
                vector["sign"].as_str().unwrap()
            );
        }
    }

    #[test]
    fn enterprise_vectors() {
        let vectors: Value = serde_json::from_str(VECTORS).unwrap();
        for vector in vectors["enterprise"].as_array().unwrap() {
            let parameters = Parameters::read(&encode(&vector["params"])).unwrap();
            assert_eq!(
                enterprise(&parameters, vector["appsecret"].as_str().unwrap()),
                vector["sign"].as_str().unwrap()
            );
        }
    }

    #[test]
    fn parameters_that_could_be_read_two_ways_are_refused() {
        assert_eq!(Parameters::read("a=1&a=2"), None);
        assert_eq!(Parameters::read("a=%2"), None);
        assert_eq!(Parameters::read("a=%FF"), None);
        assert_eq!(Parameters::read("a=b+c%2B&empty=").unwrap().get("a"), Some("b c+"));
    }
}
