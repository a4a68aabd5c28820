//! Takes the secrets that a run has read out of what is kept of it.
//!
//! Every value of at least [`MIN_BYTES`] becomes `[secret:KEY]` in logs, errors, the record of outbound calls and the
//! result: as it is, as JSON writes it inside a string (and inside a string inside of that), and as URLs encode it. So do
//! the first part of a value where a text was cut, and all of values that overlap. What a lambda has made of a value
//! otherwise (its hash, its Base64) cannot be recognised. This guards against accidents, not against authors.

use std::{
    borrow::Cow,
    collections::HashSet,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chatfn_domain::name::SecretName;
use chatfn_proto::invoker::v1::{FailureKind, LambdaFailure, RunReport, run_report::Outcome};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use secrecy::{ExposeSecret as _, SecretString, zeroize::Zeroizing};
use serde::de::IgnoredAny;
use url::form_urlencoded;

use super::{SecretError, cache::Value};

/// Shorter values are left alone: they would be found in the middle of words.
const MIN_BYTES: usize = 6;
/// Different secrets that a run may ask for, and different values that it may get: each is looked for in all texts.
const MAX_VALUES: usize = 32;
/// What `encodeURIComponent` encodes.
const URI_COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');
/// Where `console` cuts a long text (guest/prelude/15-inspect.js).
const CUT: char = '…';

/// The secrets that a run has read, with those that it had read by the functions that it invoked.
#[derive(Default)]
pub(crate) struct SecretsRead(Mutex<Read>);

#[derive(Default)]
struct Read {
    /// Found or not: each costs the registry a question.
    asked: HashSet<SecretName>,
    values: Vec<(String, Value)>,
}

impl SecretsRead {
    /// To be called before a secret is read.
    ///
    /// # Errors
    /// The run has asked for as many different ones as it may.
    pub(crate) fn ask(&self, name: &SecretName) -> Result<(), SecretError> {
        let asked = &mut self.lock().asked;
        if asked.len() >= MAX_VALUES && !asked.contains(name) {
            return Err(SecretError::TooMany(MAX_VALUES));
        }
        asked.insert(name.clone());
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Read> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a value. From now on it is taken out of the run's report.
    ///
    /// # Errors
    /// The run has read as many different ones as it may.
    pub(crate) fn add(&self, name: &SecretName, value: &Value) -> Result<(), SecretError> {
        let read = &mut self.lock().values;
        let known = |(key, old): &(String, Value)| {
            key == name.key.as_str() && old.expose_secret() == value.expose_secret()
        };
        if read.iter().any(known) {
            return Ok(());
        }
        if read.len() >= MAX_VALUES {
            return Err(SecretError::TooMany(MAX_VALUES));
        }
        read.push((name.key.to_string(), Arc::clone(value)));
        Ok(())
    }

    /// Takes them out of a report. `max_result_bytes` holds for the result afterwards, too.
    pub(crate) fn redact(&self, report: &mut RunReport, max_result_bytes: usize) {
        let redactor = Redactor::new(self.lock().values.iter().map(|(key, value)| (key.as_str(), &**value)));
        if redactor.needles.is_empty() {
            return;
        }
        for entry in &mut report.logs {
            redactor.text(&mut entry.message);
            if !entry.extras_json.is_empty() {
                redactor.json(&mut entry.extras_json);
            }
        }
        for call in &mut report.outbound_calls {
            redactor.url(&mut call.url);
            redactor.text(&mut call.error_message);
        }
        match &mut report.outcome {
            Some(Outcome::ResultJson(json)) => {
                redactor.json(json);
                if json.len() > max_result_bytes {
                    report.outcome = Some(Outcome::Failure(too_large(json.len(), max_result_bytes)));
                }
            }
            Some(Outcome::Failure(failure)) => {
                for text in [&mut failure.error_name, &mut failure.message, &mut failure.stack] {
                    redactor.text(text);
                }
            }
            None => {}
        }
    }
}

fn too_large(bytes: usize, limit: usize) -> LambdaFailure {
    LambdaFailure {
        kind: FailureKind::ResultTooLarge.into(),
        error_name: "RangeError".to_owned(),
        message: format!(
            "the result is {bytes} bytes of JSON once the secrets in it are replaced; at most {limit} are allowed. \
             Do not return secrets"
        ),
        stack: String::new(),
    }
}

/// Finds values in texts.
struct Redactor {
    needles: Vec<Needle>,
}

/// Whether a text is as its author wrote it. The end of one that may have been cut may be the beginning of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whole {
    Yes,
    Perhaps,
}

/// One way to write one value.
struct Needle {
    key: String,
    text: Zeroizing<Vec<u8>>,
    /// For each length of a beginning of `text`, the longest shorter beginning that ends it (Knuth, Morris, Pratt).
    fallback: Vec<u32>,
}

impl Redactor {
    fn new<'a>(values: impl Iterator<Item = (&'a str, &'a SecretString)>) -> Self {
        let mut needles: Vec<Needle> = Vec::new();
        for (key, value) in values {
            for text in forms(value.expose_secret()) {
                let known = needles.iter().any(|it| it.key == key && *it.text == *text.as_bytes());
                if !known && text.len() >= MIN_BYTES && value.expose_secret().len() >= MIN_BYTES {
                    needles.push(Needle::new(key, &text));
                }
            }
        }
        Self { needles }
    }

    /// Replaces values in plain text.
    fn text(&self, text: &mut String) {
        if let Cow::Owned(redacted) = self.redacted(text, Whole::Perhaps) {
            *text = redacted;
        }
    }

    /// Replaces values in a URL, in which any character may be encoded.
    fn url(&self, url: &mut String) {
        self.text(url);
        let decoded = percent_decode_str(url).decode_utf8_lossy();
        if let Cow::Owned(redacted) = self.redacted(&decoded, Whole::Perhaps) {
            *url = redacted;
        }
    }

    /// Replaces values in JSON, which stays JSON: in the strings, names included, and a number, or another scalar, that
    /// holds one becomes a string.
    fn json(&self, json: &mut String) {
        let mut out = String::with_capacity(json.len());
        let mut rest = json.as_str();
        while let Some(first) = rest.chars().next() {
            let (token, after) = match first {
                '"' => rest.split_at(string_end(rest)),
                '{' | '}' | '[' | ']' | ',' | ':' | ' ' | '\t' | '\r' | '\n' => rest.split_at(1),
                _ => {
                    rest.split_at(rest.find(|it: char| ",:{}[]\" \t\r\n".contains(it)).unwrap_or(rest.len()))
                }
            };
            out.push_str(&self.token(token));
            rest = after;
        }
        *json = out;
    }

    fn token<'a>(&self, token: &'a str) -> Cow<'a, str> {
        if token.len() == 1 {
            return Cow::Borrowed(token);
        }
        let Some(content) = token.strip_prefix('"').and_then(|token| token.strip_suffix('"')) else {
            return match self.redacted(token, Whole::Yes) {
                Cow::Owned(redacted) => Cow::Owned(quote(&redacted)),
                unchanged => unchanged,
            };
        };
        let decoded: Option<String> =
            content.contains('\\').then(|| serde_json::from_str(token).ok()).flatten();
        // A string without escapes, or one with a lone surrogate, which no string of Rust's can hold, is searched as it
        // is written.
        match (self.redacted(decoded.as_deref().unwrap_or(content), Whole::Yes), &decoded) {
            (Cow::Borrowed(_), _) => Cow::Borrowed(token),
            (Cow::Owned(redacted), Some(_)) => Cow::Owned(quote(&redacted)),
            (Cow::Owned(redacted), None) => Cow::Owned(
                Some(format!("\"{redacted}\""))
                    .filter(|it| serde_json::from_str::<IgnoredAny>(it).is_ok())
                    // A value began inside of an escape.
                    .unwrap_or_else(|| quote("[secret]")),
            ),
        }
    }

    fn redacted<'a>(&self, text: &'a str, whole: Whole) -> Cow<'a, str> {
        let mut found: Vec<(Range<usize>, &str)> = Vec::new();
        for needle in &self.needles {
            needle.find(text, whole, |range| found.push((range, &needle.key)));
        }
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        found.sort_by(|(a, _), (b, _)| a.start.cmp(&b.start).then(b.end.cmp(&a.end)));
        let mut out = String::with_capacity(text.len());
        let mut end = 0;
        let mut shown: Vec<&str> = Vec::new();
        for (range, key) in found {
            if range.start >= end {
                out.push_str(&text[end..range.start]);
                shown.clear();
            }
            // One marker for each of the values that overlap.
            if !shown.contains(&key) {
                out.push_str(&format!("[secret:{key}]"));
                shown.push(key);
            }
            end = end.max(range.end);
        }
        out.push_str(&text[end..]);
        Cow::Owned(out)
    }
}

impl Needle {
    fn new(key: &str, text: &str) -> Self {
        let text = Zeroizing::new(text.as_bytes().to_vec());
        let mut fallback = vec![0u32; text.len() + 1];
        let mut length = 0;
        for index in 1..text.len() {
            while length > 0 && text[index] != text[length] {
                length = fallback[length] as usize;
            }
            length += usize::from(text[index] == text[length]);
            fallback[index + 1] = u32::try_from(length).expect("a value is short");
        }
        Self { key: key.to_owned(), text, fallback }
    }

    /// Every place of the value, and of a beginning of it where the text was cut or, perhaps, ends because it was, in time that grows with
    /// the text alone.
    fn find(&self, text: &str, whole: Whole, mut found: impl FnMut(Range<usize>)) {
        let bytes = text.as_bytes();
        let mut matched = 0;
        for (index, byte) in bytes.iter().enumerate() {
            if matched >= MIN_BYTES && text.is_char_boundary(index) && text[index..].starts_with(CUT) {
                found(index - matched..index);
            }
            while matched > 0 && (matched == self.text.len() || *byte != self.text[matched]) {
                matched = self.fallback[matched] as usize;
            }
            matched += usize::from(*byte == self.text[matched]);
            if matched == self.text.len() {
                found(index + 1 - matched..index + 1);
            }
        }
        if whole == Whole::Perhaps && matched >= MIN_BYTES && matched < self.text.len() {
            found(bytes.len() - matched..bytes.len());
        }
    }
}

/// The ways in which a value is written.
fn forms(value: &str) -> [Zeroizing<String>; 10] {
    let json = in_json(value);
    let [console, console_quoted] = in_console(value);
    let [console_json, console_json_quoted] = in_console(&json);
    [
        value.to_owned(),
        in_json(&json),
        json,
        console,
        console_quoted,
        console_json,
        console_json_quoted,
        // As the path of a URL has it.
        value.replace('\\', "/").replace(['\t', '\r', '\n'], ""),
        utf8_percent_encode(value, URI_COMPONENT).to_string(),
        form_urlencoded::byte_serialize(value.as_bytes()).collect(),
    ]
    .map(Zeroizing::new)
}

/// Inside of a JSON string.
fn in_json(text: &str) -> String {
    let quoted = quote(text);
    quoted[1..quoted.len() - 1].to_owned()
}

/// Inside of a string that `console` shows in an object, between double or single quotes.
fn in_console(text: &str) -> [String; 2] {
    let shown = in_json(text).replace("\\\"", "\"");
    [shown.replace('\'', "\\'"), shown]
}

fn quote(text: &str) -> String {
    serde_json::to_string(text).expect("a string is JSON")
}

/// The length of the JSON string that `text` begins with.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_that_do_not_exist_count_too() {
        let read = SecretsRead::default();
        let name =
            |number: usize| format!("accounts/acme/secrets/key-{number}").parse::<SecretName>().unwrap();
        for number in 0..MAX_VALUES {
            read.ask(&name(number)).unwrap();
        }
        assert_eq!(read.ask(&name(MAX_VALUES)), Err(SecretError::TooMany(MAX_VALUES)));
        assert_eq!(read.ask(&name(0)), Ok(()), "again is not another one");
    }

    fn redactor(values: &[(&str, &str)]) -> Redactor {
        let values: Vec<_> = values.iter().map(|(key, value)| (*key, SecretString::from(*value))).collect();
        Redactor::new(values.iter().map(|(key, value)| (*key, value)))
    }

    fn text(values: &[(&str, &str)], text: &str) -> String {
        redactor(values).redacted(text, Whole::Perhaps).into_owned()
    }

    fn json(values: &[(&str, &str)], json: &str) -> String {
        let mut json = json.to_owned();
        redactor(values).json(&mut json);
        json
    }

    #[test]
    fn values_are_found_as_they_are_written() {
        let value = [("crm", "p\"ä\\s s'\n1")];
        for written in [
            "p\"ä\\s s'\n1",
            r#"p\"ä\\s s'\n1"#,
            r#"p\\\"ä\\\\s s'\\n1"#,
            r#"p"ä\\s s\'\n1"#,
            r#"p\\"ä\\\\s s\'\\n1"#,
            "p%22%C3%A4%5Cs%20s'%0A1",
            "p%22%C3%A4%5Cs+s%27%0A1",
        ] {
            assert_eq!(
                text(&value, &format!("<{written}>{written}")),
                "<[secret:crm]>[secret:crm]",
                "{written}"
            );
        }
        assert_eq!(text(&[("pin", "12345")], "12345"), "12345", "too short");
        assert_eq!(text(&[("a", "secret-1"), ("b", "secret-1")], "secret-1"), "[secret:a][secret:b]");
    }

    #[test]
    fn overlapping_values_go_whole() {
        let values = [("a", "abcdef123"), ("b", "123xyz789"), ("c", "f123x1")];
        assert_eq!(text(&values, "<abcdef123xyz789>"), "<[secret:a][secret:b]>");
        assert_eq!(text(&[("a", "abcabcabc")], "<abcabcabcabcabc>"), "<[secret:a]>");
        assert_eq!(text(&[("a", "abcdefgh"), ("b", "cdefgh")], "abcdefgh"), "[secret:a][secret:b]");
    }

    #[test]
    fn a_beginning_goes_where_a_text_was_cut() {
        let value = [("a", "abcdefghij")];
        assert_eq!(text(&value, "token abcdefgh"), "token [secret:a]");
        assert_eq!(text(&value, "'abcdefg… 3 more'"), "'[secret:a]… 3 more'");
        assert_eq!(text(&value, "abcde"), "abcde", "too little to matter");
        assert_eq!(text(&value, "abcdefgh and more"), "abcdefgh and more", "not cut");
    }

    #[test]
    fn a_result_stays_json() {
        let values = [("n", "1234567"), ("s", "a\"b\\cd"), ("t", "\",\"x\":")];
        for (before, after) in [
            (r#"{"n":1234567,"m":[0.1234567,1]}"#, r#"{"n":"[secret:n]","m":["0.[secret:n]",1]}"#),
            (r#"{"1234567":"x1234567"}"#, r#"{"[secret:n]":"x[secret:n]"}"#),
            (r#"["a\"b\\cd","{\"k\":\"a\\\"b\\\\cd\"}"]"#, r#"["[secret:s]","{\"k\":\"[secret:s]\"}"]"#),
            (r#"{"":"","x":""}"#, r#"{"":"","x":""}"#),
            // JSON is never cut.
            (r#"["123456",123456]"#, r#"["123456",123456]"#),
            (r#""\ud800 1234567""#, r#""\ud800 [secret:n]""#),
            (r#"12345678901234567890"#, r#""[secret:n]890[secret:n]890""#),
        ] {
            assert_eq!(json(&values, before), after);
        }
        assert_eq!(
            json(&[("k", "nabcdef")], r#""\ud800\nabcdef""#),
            r#""[secret]""#,
            "it began inside of an escape"
        );
    }

    #[test]
    fn urls_are_searched_decoded() {
        let mut url = "https://crm.example/a%2Fb%2Fc%20d/x".to_owned();
        redactor(&[("k", "a/b/c d")]).url(&mut url);
        assert_eq!(url, "https://crm.example/[secret:k]/x");
    }

    proptest! {
        #[test]
        fn no_value_survives(
            values in proptest::collection::vec("[ab\"\\\\\n ä/😀]{6,12}", 1..4),
            pieces in proptest::collection::vec((any::<prop::sample::Index>(), "[ab\"ä ]{0,4}", 0..14usize), 0..6),
        ) {
            let named: Vec<_> = values.iter().map(|value| ("key", value.as_str())).collect();
            let mut plain = String::new();
            for (index, between, chars) in pieces {
                plain.extend(values[index.index(values.len())].chars().take(chars));
                plain.push_str(&between);
            }
            let redacted = text(&named, &plain);
            for value in &values {
                prop_assert!(!redacted.contains(value.as_str()), "{redacted:?} of {plain:?}");
            }
            let result = serde_json::json!({"a": [plain, 1, null, true], format!("in {plain}"): serde_json::json!([plain]).to_string()});
            let redacted = json(&named, &result.to_string());
            let read: serde_json::Value = serde_json::from_str(&redacted).expect("still JSON");
            prop_assert_eq!(&read["a"][1], 1);
            for value in &values {
                prop_assert!(!read["a"][0].as_str().unwrap().contains(value.as_str()));
            }
        }

        #[test]
        fn what_holds_no_value_stays(plain in "[a-z \"\\\\…]{0,40}") {
            let values = [("k", "0123456789")];
            prop_assert_eq!(text(&values, &plain), plain.as_str());
            let result = serde_json::json!({"a": plain}).to_string();
            prop_assert_eq!(json(&values, &result), result);
        }
    }
}
