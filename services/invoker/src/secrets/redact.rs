//! Takes the secrets that a run has read out of what is kept of it.
//!
//! Every value of at least 6 bytes becomes `[secret:KEY]` in logs, errors, the record of outbound calls and the result:
//! as it is, as JSON writes it inside a string (and inside a string inside of that), and with any of its characters
//! percent-encoded, as URLs have it. So do its lines of at least 12 bytes, the first part of a value where a text was
//! cut, and all of values that touch or overlap, with a marker for each, but not more than four. What a lambda has made
//! of a value otherwise (its hash, its Base64) cannot be recognised. This guards against accidents, not against authors.
//!
//! A marker may be longer than what it stands for, so all limits of a report hold for what it is afterwards. The work is
//! limited, too, for a report as a whole: what is not searched becomes `[secret]`.

use std::borrow::Cow;

use chatfn_engine::LogLimits;
use chatfn_proto::invoker::v1::{
    FailureKind, LambdaFailure, LogEntry, LogLevel, RunReport, run_report::Outcome,
};
use serde::de::IgnoredAny;

use super::{
    escapes::Unescaped,
    forms::quote,
    needles::{Needles, Region, Steps, Whole, add},
};
use crate::report::CALL_ERROR_BYTES;

/// Most bytes of a failure's name, message and stack, as the engine has them.
const FAILURE_BYTES: [usize; 3] = [256, 8 << 10, 16 << 10];
/// Most bytes of a call's URL, as it is recorded.
const URL_BYTES: usize = 512;

/// What a report may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReportLimits {
    pub(crate) result_bytes: usize,
    pub(crate) logs: LogLimits,
}

/// How many bytes of a report values are looked for in.
pub(super) fn searched_bytes(report: &RunReport) -> usize {
    let logs = report.logs.iter().map(|entry| entry.message.len() + entry.extras_json.len());
    let calls = report.outbound_calls.iter().map(|call| call.url.len() + call.error_message.len());
    let outcome = match &report.outcome {
        Some(Outcome::ResultJson(json)) => json.len(),
        Some(Outcome::Failure(failure)) => {
            failure.error_name.len() + failure.message.len() + failure.stack.len()
        }
        None => 0,
    };
    logs.chain(calls).sum::<usize>() + outcome
}

/// Takes what `needles` finds out of a report.
pub(super) fn redact(needles: &Needles, report: &mut RunReport, limits: ReportLimits) {
    if needles.is_empty() {
        return;
    }
    let mut redactor = Redactor { needles, steps: Steps::for_bytes(searched_bytes(report)) };
    redactor.logs(report, limits.logs);
    for call in &mut report.outbound_calls {
        redactor.text(&mut call.url, URL_BYTES);
        redactor.text(&mut call.error_message, CALL_ERROR_BYTES);
    }
    let fits = match &mut report.outcome {
        Some(Outcome::ResultJson(json)) => redactor.json(json, limits.result_bytes),
        Some(Outcome::Failure(failure)) => {
            let texts = [&mut failure.error_name, &mut failure.message, &mut failure.stack];
            for (text, limit) in texts.into_iter().zip(FAILURE_BYTES) {
                redactor.text(text, limit);
            }
            true
        }
        None => true,
    };
    if !fits {
        report.outcome = Some(Outcome::Failure(too_large(limits.result_bytes)));
    }
}

fn too_large(limit: usize) -> LambdaFailure {
    LambdaFailure {
        kind: FailureKind::ResultTooLarge.into(),
        error_name: "RangeError".to_owned(),
        message: format!(
            "the result is more than {limit} bytes of JSON once the secrets in it are replaced. Do not return secrets"
        ),
        stack: String::new(),
    }
}

/// Replaces values in the texts of one report.
struct Redactor<'a> {
    needles: &'a Needles,
    steps: Steps,
}

impl Redactor<'_> {
    /// Replaces values in a log, and cuts it off where it becomes too long.
    fn logs(&mut self, report: &mut RunReport, LogLimits { bytes, .. }: LogLimits) {
        // What the engine says of a log that it has cut counts towards no limit.
        let said = if report.logs_truncated { report.logs.pop() } else { None };
        let mut left = bytes;
        let mut kept = 0;
        let mut fits = true;
        for entry in &mut report.logs {
            fits = self.text(&mut entry.message, left);
            left -= entry.message.len();
            if !self.json(&mut entry.extras_json, left) {
                fits = false;
                // Half of them would be no JSON.
                entry.extras_json.clear();
            }
            left -= entry.extras_json.len();
            kept += usize::from(fits || !entry.message.is_empty());
            if !fits {
                break;
            }
        }
        report.logs.truncate(kept);
        if fits {
            report.logs.extend(said);
            return;
        }
        report.logs_truncated = true;
        report.logs.push(LogEntry {
            level: LogLevel::Warn.into(),
            message: format!(
                "log limit reached ({bytes} bytes with secrets replaced): what follows is dropped"
            ),
            offset: report.logs.last().and_then(|last| last.offset),
            extras_json: String::new(),
        });
    }

    /// Replaces values in plain text, and cuts what is longer than `limit` bytes. Whether all of it fits.
    fn text(&mut self, text: &mut String, limit: usize) -> bool {
        if let Cow::Owned(redacted) = self.redacted(text, Whole::Perhaps, limit) {
            *text = redacted;
        }
        let fits = text.len() <= limit;
        text.truncate(text.floor_char_boundary(limit));
        fits
    }

    /// Replaces values in JSON, which stays JSON: in the strings, names included, and a number, or another scalar, that
    /// holds one becomes a string. Whether it then fits into `limit` bytes; if not, it is as it was.
    fn json(&mut self, json: &mut String, limit: usize) -> bool {
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
            out.push_str(&self.token(token, limit));
            if out.len() > limit {
                return false;
            }
            rest = after;
        }
        *json = out;
        true
    }

    fn token<'a>(&mut self, token: &'a str, limit: usize) -> Cow<'a, str> {
        if token.len() == 1 {
            return Cow::Borrowed(token);
        }
        let Some(content) = token.strip_prefix('"').and_then(|token| token.strip_suffix('"')) else {
            return match self.redacted(token, Whole::Yes, limit) {
                Cow::Owned(redacted) => Cow::Owned(quote(&redacted)),
                unchanged => unchanged,
            };
        };
        let decoded: Option<String> =
            content.contains('\\').then(|| serde_json::from_str(token).ok()).flatten();
        // A string without escapes, or one with a lone surrogate, which no string of Rust's can hold, is searched as it
        // is written.
        match (self.redacted(decoded.as_deref().unwrap_or(content), Whole::Yes, limit), &decoded) {
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

    /// The text without values, or, when that is longer than `limit`, its beginning, which is longer, too.
    fn redacted<'a>(&mut self, text: &'a str, whole: Whole, limit: usize) -> Cow<'a, str> {
        let regions = self.find(text, whole);
        if regions.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut out = String::with_capacity(text.len().min(limit));
        let mut end = 0;
        for region in regions {
            out.push_str(&text[end..region.range.start]);
            self.needles.mark(&region, &mut out);
            end = region.range.end;
            if out.len() > limit {
                return Cow::Owned(out);
            }
        }
        out.push_str(&text[end..]);
        Cow::Owned(out)
    }

    /// Where values are in a text, as it is and without its percent-encoding.
    fn find(&mut self, text: &str, whole: Whole) -> Vec<Region> {
        let mut regions = self.needles.find(text.as_bytes(), whole, &mut self.steps);
        let Some(unescaped) = Unescaped::of(text, whole) else { return regions };
        for mut region in self.needles.find(&unescaped.bytes, whole, &mut self.steps) {
            region.range = unescaped.origin(&region.range);
            regions.push(region);
        }
        regions.sort_by_key(|region| region.range.end);
        let mut apart = Vec::with_capacity(regions.len());
        regions.into_iter().for_each(|region| add(&mut apart, region));
        apart
    }
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

    /// Longer than any text of these tests.
    const NO_LIMIT: usize = 1 << 20;

    fn needles(values: &[(&str, &str)]) -> Needles {
        Needles::new(values.iter().copied())
    }

    fn redactor(needles: &Needles) -> Redactor<'_> {
        Redactor { needles, steps: Steps::for_bytes(0) }
    }

    fn text(values: &[(&str, &str)], text: &str) -> String {
        redactor(&needles(values)).redacted(text, Whole::Perhaps, NO_LIMIT).into_owned()
    }

    fn json(values: &[(&str, &str)], json: &str) -> String {
        let mut json = json.to_owned();
        assert!(redactor(&needles(values)).json(&mut json, NO_LIMIT));
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
    fn a_beginning_goes_where_a_text_was_cut_inside_of_a_character() {
        let emoji = [("a", "abcdefgh😀")];
        assert_eq!(text(&emoji, "token abcdefgh\u{FFFD}… 3 more"), "token [secret:a]\u{FFFD}… 3 more");
        assert_eq!(text(&emoji, "token abcdefgh\u{FFFD}"), "token [secret:a]\u{FFFD}");
        assert_eq!(text(&emoji, "abcdefgh\u{FFFD} is not cut"), "abcdefgh\u{FFFD} is not cut");
        assert_eq!(json(&emoji, r#"["abcdefgh\ud83d…"]"#), r#"["[secret:a]\ud83d…"]"#);
        let path = [("a", "abc/defgh ä")];
        for cut in ["%", "%2", "%20", "%20%", "%20%C", "%20%C3", "%20%C3%", "%20%C3%A"] {
            assert_eq!(text(&path, &format!("https://x/abc/defgh{cut}")), "https://x/[secret:a]", "{cut}");
            assert_eq!(text(&path, &format!("'abc%2Fdefgh{cut}…'")), "'[secret:a]…'", "{cut}");
        }
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

    /// A URL that `console` shows, with a value in each of its parts.
    #[test]
    fn values_are_found_in_all_parts_of_a_url() {
        for value in ["p@ss wörd/x=1!", "a$b&c@d+e:f", "100% \"of\" `{it}`", "<a|b>^c[d]", "a/b\\c d'"] {
            let mut url = url::Url::parse("https://crm.example/").unwrap();
            url.set_username(value).unwrap();
            url.set_password(Some(value)).unwrap();
            url.path_segments_mut().unwrap().push(value).push("x");
            url.query_pairs_mut().append_pair("key", value);
            let segments = url.to_string();
            assert_eq!(
                text(&[("k", value)], &segments),
                "https://[secret:k]:[secret:k]@crm.example/[secret:k]/x?key=[secret:k]",
                "{segments}"
            );
            url.set_path(&format!("a/{value}/x"));
            url.set_query(Some(value));
            url.set_fragment(Some(value));
            let raw = text(&[("k", value)], url.as_ref());
            assert!(raw.ends_with("@crm.example/a/[secret:k]/x?[secret:k]#[secret:k]"), "{url}: {raw}");
        }
        let json = json(&[("k", "a/b cd")], r#"{"url":"https://crm.example/?%61%2Fb%20cd","rate":"100%"}"#);
        assert_eq!(json, r#"{"url":"https://crm.example/?[secret:k]","rate":"100%"}"#);
    }

    #[test]
    fn the_lines_of_a_value_are_found_by_themselves() {
        let body = "MIIEvQIBADANBgkqhkiG\r\nAASCBKcwggSjAgEAAoIB\r\nc2hvcnQ=";
        let pem = format!("-----BEGIN PRIVATE KEY-----\r\n{body}\r\n-----END PRIVATE KEY-----\r\n");
        let value = [("pem", &*pem)];
        let indented = format!("  [Error: no {}]", pem.replace('\n', "\n    "));
        assert_eq!(
            text(&value, &indented),
            "  [Error: no -----BEGIN PRIVATE KEY-----\r\n    [secret:pem]\r\n    [secret:pem]\r\n    c2hvcnQ=\r\n    -----END PRIVATE KEY-----\r\n    ]"
        );
        assert_eq!(
            text(&value, "-----END PRIVATE KEY----- of another"),
            "-----END PRIVATE KEY----- of another"
        );
        assert_eq!(text(&value, &format!("<{pem}>")), "<[secret:pem]>", "as a whole");
    }

    #[test]
    fn a_value_that_was_taken_for_a_host_is_found() {
        let values = [("k", "Sk_LIVE-4bCdEf==/aB\\c:9")];
        for (shown, after) in [
            ("https://sk_live-4bcdef==/aB/c:9/x", "https://[secret:k]/x"),
            ("host sk_live-4bcdef== is not in", "host [secret:k] is not in"),
            ("HTTPS://SK_LIVE", "HTTPS://SK_LIVE"),
        ] {
            assert_eq!(text(&values, shown), after);
        }
        assert_eq!(text(&[("k", "TokenTok")], "https://tokentok/x"), "https://[secret:k]/x");
        assert_eq!(
            text(&[("k", "{\"Type\":1}")], "{\"type\":2}"),
            "{\"type\":2}",
            "no word that any text may hold"
        );
    }

    /// With those characters percent-encoded that `pattern` says, again and again.
    fn encoded(text: &str, pattern: &[bool]) -> String {
        let mut encoded = String::new();
        for (char, encode) in text.chars().zip(pattern.iter().cycle()) {
            if *encode {
                encoded.extend(char.to_string().bytes().map(|byte| format!("%{byte:02X}")));
            } else {
                encoded.push(char);
            }
        }
        encoded
    }

    fn report(entries: &[(&str, &str)], outcome: Outcome) -> RunReport {
        let entry = |(message, extras): &(&str, &str)| LogEntry {
            message: (*message).to_owned(),
            extras_json: (*extras).to_owned(),
            ..LogEntry::default()
        };
        RunReport {
            logs: entries.iter().map(entry).collect(),
            outcome: Some(outcome),
            ..RunReport::default()
        }
    }

    fn redacted(values: &[(&str, &str)], mut report: RunReport, bytes: usize) -> RunReport {
        let limits = ReportLimits { result_bytes: bytes, logs: LogLimits { entries: 100, bytes } };
        redact(&needles(values), &mut report, limits);
        report
    }

    #[test]
    fn the_limits_hold_once_values_are_replaced() {
        let key = "k".repeat(100);
        let values = [(&*key, "aaaaaa")];
        let full = "aaaaaa,".repeat(30);
        let failure = Outcome::Failure(LambdaFailure {
            error_name: full.clone(),
            message: full.repeat(30),
            stack: full.repeat(70),
            ..LambdaFailure::default()
        });
        let mut before = report(&[("first", ""), (&full, ""), ("last", "")], failure);
        let call = chatfn_proto::invoker::v1::OutboundCall {
            url: full.clone(),
            error_message: full.clone(),
            ..Default::default()
        };
        before.outbound_calls = vec![call];
        let after = redacted(&values, before, 1000);
        let Some(Outcome::Failure(failure)) = &after.outcome else { panic!("{after:?}") };
        for (text, limit) in
            [&failure.error_name, &failure.message, &failure.stack].into_iter().zip(FAILURE_BYTES)
        {
            assert!(text.starts_with("[secret:kkk") && text.len() <= limit, "{}", text.len());
        }
        assert!(after.outbound_calls[0].url.len() <= URL_BYTES);
        assert!(after.outbound_calls[0].error_message.len() <= CALL_ERROR_BYTES);
        let [first, cut, marker] = &after.logs[..] else { panic!("{:?}", after.logs) };
        assert_eq!((first.message.len() + cut.message.len(), after.logs_truncated), (1000, true));
        assert!(marker.message.starts_with("log limit reached (1000 bytes"), "{}", marker.message);
    }

    #[test]
    fn extras_are_kept_as_a_whole_or_not_at_all() {
        let values = [("token", "aaaaaa")];
        let done = || Outcome::ResultJson("null".to_owned());
        let after = redacted(&values, report(&[("m", r#"["aaaaaa"]"#), ("n", "")], done()), 19);
        assert_eq!(
            (&*after.logs[0].extras_json, after.logs.len()),
            (r#"["[secret:token]"]"#, 2),
            "{after:?}"
        );
        assert!(after.logs_truncated && after.logs[1].message.starts_with("log limit"));
        let after = redacted(&values, report(&[("m", r#"["aaaaaa"]"#), ("n", "")], done()), 18);
        assert_eq!((&*after.logs[0].message, &*after.logs[0].extras_json), ("m", ""));
        // What the engine said of a log that it cut stays the last word.
        let mut cut = report(&[("aaaaaa", ""), ("limit reached", "")], done());
        cut.logs_truncated = true;
        let after = redacted(&values, cut, 14);
        let said: Vec<_> = after.logs.iter().map(|entry| &*entry.message).collect();
        assert_eq!(said, ["[secret:token]", "limit reached"]);
    }

    #[test]
    fn a_result_that_markers_make_too_large_is_none() {
        let json = format!("[\"{}\"]", "aaaaaa,".repeat(10));
        let after = redacted(&[("token", "aaaaaa")], report(&[], Outcome::ResultJson(json)), 100);
        let Some(Outcome::Failure(failure)) = after.outcome else { panic!("{after:?}") };
        assert_eq!(failure.kind(), FailureKind::ResultTooLarge);
    }

    #[test]
    fn a_report_is_searched_as_far_as_its_steps_go() {
        let values = [("a", &*format!("{}b", "a".repeat(300)))];
        let tokens = |number: usize| {
            format!("[{}\"no value\",true]", format!("\"{}\",", "a".repeat(250)).repeat(number))
        };
        let searched = |number| {
            let after = redacted(&values, report(&[], Outcome::ResultJson(tokens(number))), NO_LIMIT);
            let Some(Outcome::ResultJson(json)) = after.outcome else { panic!("{after:?}") };
            json
        };
        assert_eq!(searched(1), tokens(1));
        let json = searched(1000);
        assert!(json.starts_with("[\"aaaaaa"), "at first there are enough");
        assert!(json.ends_with(r#","[secret]","[secret]",true]"#), "{}", &json[json.len() - 100..]);
    }

    proptest! {
        #[test]
        fn no_value_survives(
            values in proptest::collection::vec("[ab\"\\\\\n ä/😀]{6,12}", 1..4),
            pieces in proptest::collection::vec((any::<prop::sample::Index>(), "[ab\"ä ]{0,4}", 0..14usize), 0..6),
            encode in proptest::collection::vec(any::<bool>(), 1..8),
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
            let redacted = text(&named, &encoded(&plain, &encode));
            let decoded = Unescaped::of(&format!("%20{redacted}"), Whole::Yes).unwrap().bytes;
            for value in &values {
                prop_assert!(!String::from_utf8_lossy(&decoded).contains(value.as_str()), "{redacted:?} of {plain:?}");
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
