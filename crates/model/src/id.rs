//! Ids issued by the platform: a two-letter kind, then 20 characters of `0-9a-v` (base 32, digits first).
//!
//! The first ten characters hold 48 bits of milliseconds since 1970, the other ten 50 random bits, so ids sort by
//! creation time, are safe as a DNS label and as a file name, and cannot be mistaken for a caller's name.

use crate::{Clock, Entropy};
use std::{fmt, str::FromStr};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
const BODY: usize = 20;

fn body(clock: &dyn Clock, entropy: &dyn Entropy) -> String {
    let millis = u64::try_from(clock.now().as_millisecond()).unwrap_or(0) & ((1 << 48) - 1);
    let random = entropy.bits() & ((1 << 50) - 1);
    let mut text = String::with_capacity(BODY);
    for shift in (0..10).rev() {
        text.push(ALPHABET[((millis >> (shift * 5)) & 31) as usize] as char);
    }
    for shift in (0..10).rev() {
        text.push(ALPHABET[((random >> (shift * 5)) & 31) as usize] as char);
    }
    text
}

fn well_formed(kind: &str, text: &str) -> bool {
    text.len() == kind.len() + BODY
        && text.starts_with(kind)
        && text[kind.len()..].bytes().all(|byte| ALPHABET.contains(&byte))
}

/// The text is not an id of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an id of the form {0} followed by 20 of 0-9a-v")]
pub struct NotAnId(pub &'static str);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String)]
        pub struct $name(String);

        impl $name {
            /// A fresh id; unique because of its random half, sorted by time because of the other.
            pub fn new(clock: &dyn Clock, entropy: &dyn Entropy) -> Self {
                Self(format!("{}{}", $kind, body(clock, entropy)))
            }

            /// Whether `text` has the form of such an id (not whether one exists).
            pub fn is_form(text: &str) -> bool {
                well_formed($kind, text)
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;
            fn from_str(text: &str) -> Result<Self, NotAnId> {
                if Self::is_form(text) { Ok(Self(text.to_owned())) } else { Err(NotAnId($kind)) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NotAnId;
            fn try_from(text: String) -> Result<Self, NotAnId> {
                if Self::is_form(&text) { Ok(Self(text)) } else { Err(NotAnId($kind)) }
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    };
}

id!(
    /// The id of a sandbox: `sb…`; also its hostname.
    SandboxId,
    "sb"
);
id!(
    /// The id of one exec: `ex…`, unique across sandboxes.
    ExecId,
    "ex"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    #[derive(Debug)]
    struct At(i64);
    impl Clock for At {
        fn now(&self) -> Timestamp {
            Timestamp::from_millisecond(self.0).expect("in range")
        }
    }
    impl Entropy for At {
        fn bits(&self) -> u64 {
            u64::MAX
        }
    }

    #[test]
    fn ids_sort_by_time_and_keep_their_form() {
        let early = SandboxId::new(&At(1_000), &At(0));
        let late = SandboxId::new(&At(1_763_000_000_000), &At(0));
        assert!(early < late);
        assert_eq!(late.as_str().len(), 22);
        assert_eq!(late.as_str().parse::<SandboxId>(), Ok(late.clone()));
        assert!(!ExecId::is_form(late.as_str()));
    }

    #[test]
    fn hostile_texts_are_no_ids() {
        for text in [
            "",
            "sb",
            "sb../../../../../../..",
            "SB01jd2m3k4n5p6q7r8s9t",
            "sb01jd2m3k4n5p6q7r8s9z",
            "sb01jd2m3k4n5p6q7r8s9t\n",
        ] {
            assert!(text.parse::<SandboxId>().is_err(), "{text:?}");
        }
    }
}
