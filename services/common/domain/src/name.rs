//! How things are named: plain ids, and the resource names that are made of them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A name that does not parse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must look like {expected}")]
pub struct NameError {
    /// The shape that was expected, with an example.
    pub expected: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(text.to_owned())) } else { Err(NameError { expected: $expected }) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// An account (tenant): 1 to 63 letters, digits, `_` and `-`, the first a letter or digit.
    AccountId,
    "an account id of 1 to 63 letters, digits, _ and -, such as acme",
    |text| {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        (1..=63).contains(&text.len())
            && text.bytes().all(word)
            && text.as_bytes()[0].is_ascii_alphanumeric()
    }
);

id!(
    /// A template: two or more lower-case words joined by dots, at most 64 characters.
    TemplateName,
    "a template name such as chat.in_queue",
    |text| {
        let word = |word: &str| {
            word.bytes().next().is_some_and(|first| first.is_ascii_lowercase())
                && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        };
        text.len() <= 64 && text.contains('.') && text.split('.').all(word)
    }
);

id!(
    /// An event, named by its publisher: 1 to 128 letters, digits and `. _ : ~ -`.
    EventId,
    "an event id of 1 to 128 letters, digits and ._:~-",
    is_foreign_id
);

id!(
    /// A conversation, named by the chat platform: 1 to 128 letters, digits and `. _ : ~ -`.
    ConversationId,
    "a conversation id of 1 to 128 letters, digits and ._:~-",
    is_foreign_id
);

id!(
    /// A replay, named by event-ingest: a UUID, in lower case.
    ReplayId,
    "a replay's id, as CreateReplay answered it",
    |text| text.parse::<uuid::Uuid>().is_ok_and(|id| id.to_string() == text)
);

id!(
    /// A secret's key, by which a lambda reads it: 1 to 100 letters, digits, `_` and `-`.
    SecretKey,
    "a secret's key of 1 to 100 letters, digits, _ and -, such as crm-api-key",
    |text| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        (1..=100).contains(&text.len()) && text.bytes().all(allowed)
    }
);

fn is_foreign_id(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:~-".contains(&byte);
    (1..=128).contains(&text.len()) && text.bytes().all(allowed)
}

/// Splits `text` along `pattern`, in which `*` stands for one segment.
fn segments<'a, const N: usize>(text: &'a str, pattern: &str) -> Option<[&'a str; N]> {
    let mut found = [""; N];
    let mut next = 0;
    let (mut segments, mut wanted) = (text.split('/'), pattern.split('/'));
    loop {
        match (segments.next(), wanted.next()) {
            (None, None) => return (next == N).then_some(found),
            (Some(segment), Some("*")) => {
                *found.get_mut(next)? = segment;
                next += 1;
            }
            (Some(segment), Some(literal)) if segment == literal => {}
            _ => return None,
        }
    }
}

macro_rules! resource {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty),+ }, $pattern:literal, $format:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $kind),+
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let parse = || {
                    let [$($field),+] = segments(text, $pattern)?;
                    Some(Self { $($field: $field.parse().ok()?),+ })
                };
                parse().ok_or(NameError { expected: $expected })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let Self { $($field),+ } = self;
                write!(f, $format)
            }
        }
    };
}

resource!(
    /// `accounts/{account}`.
    AccountName {
        /// The account.
        account: AccountId
    },
    "accounts/*",
    "accounts/{account}",
    "accounts/{account}, such as accounts/acme"
);

resource!(
    /// `templates/{template}`.
    TemplateResource {
        /// The template.
        template: TemplateName
    },
    "templates/*",
    "templates/{template}",
    "templates/{template}, such as templates/chat.in_queue"
);

resource!(
    /// `accounts/{account}/functions/{template}`: an account has at most one function per template, so
    /// the two together name it.
    FunctionName {
        /// The account.
        account: AccountId,
        /// The template.
        template: TemplateName
    },
    "accounts/*/functions/*",
    "accounts/{account}/functions/{template}",
    "accounts/{account}/functions/{template}, such as accounts/acme/functions/chat.in_queue"
);

resource!(
    /// `accounts/{account}/functions/{template}/versions/{number}`.
    VersionName {
        /// The account.
        account: AccountId,
        /// The template.
        template: TemplateName,
        /// Number of the version, from 1.
        number: VersionNumber
    },
    "accounts/*/functions/*/versions/*",
    "accounts/{account}/functions/{template}/versions/{number}",
    "accounts/{account}/functions/{template}/versions/{number}, such as accounts/acme/functions/chat.in_queue/versions/3"
);

resource!(
    /// `accounts/{account}/deliveries/{event_id}`.
    DeliveryName {
        /// The account.
        account: AccountId,
        /// The event.
        event_id: EventId
    },
    "accounts/*/deliveries/*",
    "accounts/{account}/deliveries/{event_id}",
    "accounts/{account}/deliveries/{event_id}"
);

resource!(
    /// `accounts/{account}/conversations/{conversation_id}`.
    ConversationName {
        /// The account.
        account: AccountId,
        /// The conversation.
        conversation_id: ConversationId
    },
    "accounts/*/conversations/*",
    "accounts/{account}/conversations/{conversation_id}",
    "accounts/{account}/conversations/{conversation_id}"
);

resource!(
    /// `accounts/{account}/replays/{replay}`.
    ReplayName {
        /// The account.
        account: AccountId,
        /// The replay.
        replay: ReplayId
    },
    "accounts/*/replays/*",
    "accounts/{account}/replays/{replay}",
    "accounts/{account}/replays/{replay}"
);

resource!(
    /// `accounts/{account}/secrets/{key}`.
    SecretName {
        /// The account.
        account: AccountId,
        /// The secret's key.
        key: SecretKey
    },
    "accounts/*/secrets/*",
    "accounts/{account}/secrets/{key}",
    "accounts/{account}/secrets/{key}, such as accounts/acme/secrets/crm-api-key"
);

impl From<uuid::Uuid> for ReplayId {
    fn from(id: uuid::Uuid) -> Self {
        Self(id.to_string())
    }
}

impl VersionName {
    /// The function that the version belongs to.
    pub fn function(&self) -> FunctionName {
        FunctionName { account: self.account.clone(), template: self.template.clone() }
    }
}

/// Number of a version: 1 for a function's first, then rising by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VersionNumber(i64);

impl VersionNumber {
    /// Stands for what is no version, because it is tested before it is deployed. Never parsed and never stored.
    pub const NONE: Self = Self(0);

    /// `number`, when it is at least 1.
    pub fn new(number: i64) -> Option<Self> {
        (number >= 1).then_some(Self(number))
    }

    /// The number.
    pub fn get(self) -> i64 {
        self.0
    }
}

impl FromStr for VersionNumber {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let canonical = !text.starts_with(['0', '+']);
        text.parse()
            .ok()
            .filter(|_| canonical)
            .and_then(Self::new)
            .ok_or(NameError { expected: "a version number from 1" })
    }
}

impl fmt::Display for VersionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn function_names_parse_and_print() {
        let name: FunctionName = "accounts/acme/functions/chat.in_queue".parse().unwrap();
        assert_eq!(name.account.as_str(), "acme");
        assert_eq!(name.template.as_str(), "chat.in_queue");
        assert_eq!(name.to_string(), "accounts/acme/functions/chat.in_queue");
    }

    #[test]
    fn malformed_names_are_refused() {
        for bad in [
            "",
            "accounts/acme",
            "accounts//functions/chat.start",
            "accounts/acme/functions/chat",
            "accounts/acme/functions/Chat.start",
            "accounts/acme/functions/chat.",
            "accounts/acme/functions/chat.start/",
            "/accounts/acme/functions/chat.start",
            "accounts/-acme/functions/chat.start",
            "accounts/ac me/functions/chat.start",
        ] {
            assert!(bad.parse::<FunctionName>().is_err(), "{bad:?} was accepted");
        }
        for bad in ["", "a b", "a/b", "a.b", "ä", &"x".repeat(101)] {
            assert!(bad.parse::<SecretKey>().is_err(), "{bad:?} was accepted");
        }
        assert!("x".repeat(100).parse::<SecretKey>().is_ok());
        for bad in ["0", "-1", "+1", "01", "1.0", "", "99999999999999999999"] {
            assert!(bad.parse::<VersionNumber>().is_err(), "{bad:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn what_parses_prints_as_it_was(text in "accounts/[a-zA-Z0-9_-]{0,70}/deliveries/[ -~]{0,140}") {
            if let Ok(name) = text.parse::<DeliveryName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
