//! Every value that is in force, with its origin; secrets are masked before they leave this module.

use super::{
    Mistake, Settings,
    document::{PROPERTIES, Place, Value},
    keys::Kind,
    properties,
    reader::Reader,
    values::{has_credentials, parse_fraction},
};

/// What stands in the place of a secret.
const MASK: &str = "***";

/// The whole configuration for showing it.
#[derive(Clone, Debug)]
pub(crate) struct Effective {
    /// In the order of their keys.
    pub values: Vec<Shown>,
    /// One sentence each.
    pub warnings: Vec<String>,
    pub mistakes: Vec<Mistake>,
}

/// One value that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Dotted; below `kafka.properties.` the option's own dots.
    pub key: String,
    /// `***` instead of a secret.
    pub value: String,
    /// Whether it is written without quotes.
    pub bare: bool,
    pub place: Place,
}

/// Every known key that has a value.
pub(super) fn values(reader: &Reader, settings: &Settings) -> Vec<Shown> {
    let entries = &reader.document().entries;
    let mut shown: Vec<Shown> = reader
        .known()
        .iter()
        .filter_map(|(key, kind)| {
            let entry = entries.get(key)?;
            let (value, bare) = text(key, kind, &entry.value);
            Some(Shown { key: key.clone(), value, bare, place: entry.place.clone() })
        })
        .collect();
    // Two defaults depend on something else than the default file.
    if !entries.contains_key("cache_dir") {
        let value = settings.cache_dir.display().to_string();
        shown.push(Shown {
            key: "cache_dir".to_owned(),
            value,
            bare: false,
            place: Place::Default,
        });
    }
    for one in shown
        .iter_mut()
        .filter(|one| one.place == Place::Default && one.key == "feeds.return_outbounds.page_size")
    {
        one.value = settings.return_outbounds.page_size.to_string();
    }
    shown.sort_by(|one, other| one.key.cmp(&other.key));
    shown
}

fn text(key: &str, kind: &Kind, value: &Value) -> (String, bool) {
    let secret =
        *kind == Kind::Secret || key.strip_prefix(PROPERTIES).is_some_and(properties::is_secret);
    if secret {
        return (MASK.to_owned(), false);
    }
    match value {
        Value::Text(text) | Value::Env(text) if has_credentials(text) => {
            (without_credentials(text), false)
        }
        Value::Text(text) => (text.clone(), false),
        Value::Integer(text) | Value::Decimal(text) => (text.clone(), true),
        Value::Bool(value) => (value.to_string(), true),
        Value::Env(text) => (
            text.clone(),
            matches!(kind, Kind::Flag | Kind::Number(_) | Kind::Fraction) && kind_fits(kind, text),
        ),
        Value::Texts(texts) => (serde_json::json!(texts).to_string(), true),
        Value::Other(word) => (format!("({word})"), false),
    }
}

/// Whether a text of the environment may stand without quotes: a wrong one is shown as the text it
/// is.
fn kind_fits(kind: &Kind, text: &str) -> bool {
    match kind {
        Kind::Flag => text.parse::<bool>().is_ok(),
        Kind::Number(_) => text.parse::<u32>().is_ok(),
        Kind::Fraction => parse_fraction(text).is_some(),
        Kind::Texts => serde_json::from_str::<Vec<String>>(text).is_ok(),
        Kind::Duration
        | Kind::DurationOrZero
        | Kind::Instant
        | Kind::Text(_)
        | Kind::TextOrNumber(_)
        | Kind::Choice(_)
        | Kind::Socket
        | Kind::Path
        | Kind::WebAddress
        | Kind::Secret
        | Kind::Property => false,
    }
}

/// `http://user:password@host` → `http://***@host`.
fn without_credentials(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    if scheme.is_empty() { format!("{MASK}@{host}") } else { format!("{scheme}://{MASK}@{host}") }
}

#[cfg(test)]
mod tests {
    use super::super::{inspect, load};
    use super::*;

    fn shown(text: &str, env: &[(&str, &str)]) -> Effective {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        let env: Vec<(String, String)> =
            env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        inspect(Some(&path), env.into_iter()).unwrap()
    }

    fn find<'a>(all: &'a Effective, key: &str) -> &'a Shown {
        all.values.iter().find(|one| one.key == key).unwrap_or_else(|| panic!("{key} is not shown"))
    }

    #[test]
    fn every_value_has_its_origin() {
        let all = shown(
            "[commands]\nmax_in_flight = 3\n",
            &[("WDT__COMMANDS__ENABLED", "true"), ("WDT__CACHE_DIR", "/c")],
        );
        assert!(matches!(
            find(&all, "commands.max_in_flight").place,
            Place::File { line: 2, column: 1, .. }
        ));
        let enabled = find(&all, "commands.enabled");
        assert_eq!((enabled.value.as_str(), enabled.bare), ("true", true));
        assert_eq!(enabled.place, Place::Env("WDT__COMMANDS__ENABLED".to_owned()));
        assert_eq!(find(&all, "commands.intent_ttl").place, Place::Default);
        assert_eq!(find(&all, "cache_dir").value, "/c");
        assert!(
            all.mistakes.iter().any(|mistake| mistake.key == "erp.flagship.url"),
            "{:?}",
            all.mistakes
        );
        assert!(load(None, std::iter::empty()).is_ok(), "mistakes of one file are not another's");
    }

    #[test]
    fn no_secret_is_shown() {
        let all = shown(
            "[kafka.properties]\n\"ssl.keystore.password\" = \"hush\"\n\"some.client.secret\" = \"hush\"\n",
            &[
                ("WDT__ERP__FLAGSHIP__SECRET", "hush:hush"),
                ("WDT__HTTP__TOKEN", "hush"),
                ("WDT__KAFKA__SASL_PASSWORD", "hush"),
                ("WDT__KAFKA__PROPERTIES__SSL_KEY_PEM", "hush"),
                ("WDT__ERP__FLAGSHIP__PROXY", "http://me:hush@proxy:3128"),
            ],
        );
        assert!(!format!("{all:?}").contains("hush"), "{all:?}");
        assert_eq!(find(&all, "erp.flagship.proxy").value, "http://***@proxy:3128");
        assert_eq!(find(&all, "http.token").value, MASK);
    }

    #[test]
    fn a_default_that_depends_on_another_key_is_shown_as_it_is_in_force() {
        let all = shown("[feeds.return_outbounds]\nedition = \"enterprise\"\n", &[]);
        assert_eq!(find(&all, "feeds.return_outbounds.page_size").value, "30");
        assert_eq!(find(&all, "feeds.purchase_returns.page_size").value, "100");
    }
}
