//! What something means, in the languages of those who read it.

use std::borrow::Cow;

/// A meaning in English and in Chinese; neither exists without the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Explanation {
    en: Cow<'static, str>,
    zh: Cow<'static, str>,
}

impl Explanation {
    /// The same in both languages.
    pub fn new(en: impl Into<Cow<'static, str>>, zh: impl Into<Cow<'static, str>>) -> Self {
        Self { en: en.into(), zh: zh.into() }
    }

    /// In English.
    #[must_use]
    pub fn en(&self) -> &str {
        &self.en
    }

    /// In Chinese.
    #[must_use]
    pub fn zh(&self) -> &str {
        &self.zh
    }
}
