//! The log of one sandbox, within its limits.

use std::time::Instant;

use serde_json::Value;

use crate::call::{LogEntry, LogLevel, LogLimits};

/// Collects lines until a limit is reached, then one marker, then nothing.
pub(crate) struct LogBuffer {
    entries: Vec<LogEntry>,
    bytes: usize,
    limits: LogLimits,
    truncated: bool,
    started: Instant,
}

impl LogBuffer {
    pub(crate) fn new(limits: LogLimits, started: Instant) -> Self {
        Self { entries: Vec::new(), bytes: 0, limits, truncated: false, started }
    }

    /// Adds a line. Of the text, what is not UTF-8 is replaced. The extras are kept as a whole or not at all, since half of
    /// them would be no JSON.
    pub(crate) fn push(&mut self, level: LogLevel, text: &[u8], extras: &[u8]) {
        if self.truncated {
            return;
        }
        if self.entries.len() == self.limits.entries {
            return self.truncate();
        }
        let left = self.limits.bytes - self.bytes;
        let (message, text_fits) = lossy_prefix(text, left);
        let extras_fit = text_fits && extras.len() <= left - message.len();
        let extras_json = if extras_fit { json(extras) } else { String::new() };
        let whole = text_fits && extras_fit;
        if whole || !message.is_empty() {
            self.bytes += message.len() + extras_json.len();
            self.append(level, message, extras_json);
        }
        if !whole {
            self.truncate();
        }
    }

    /// The lines, and whether any were dropped or cut.
    pub(crate) fn finish(self) -> (Vec<LogEntry>, bool) {
        (self.entries, self.truncated)
    }

    /// How many bytes its lines take.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn held_bytes(&self) -> usize {
        let bytes = |entry: &LogEntry| size_of::<LogEntry>() + entry.message.len() + entry.extras_json.len();
        self.entries.iter().map(bytes).sum()
    }

    fn truncate(&mut self) {
        self.truncated = true;
        let LogLimits { entries, bytes } = self.limits;
        let marker = format!("log limit reached ({entries} lines or {bytes} bytes): what follows is dropped");
        self.append(LogLevel::Warn, marker, String::new());
    }

    fn append(&mut self, level: LogLevel, message: String, extras_json: String) {
        self.entries.push(LogEntry { level, message, extras_json, offset: self.started.elapsed() });
    }
}

/// The bytes, if they are JSON that every reader can take: UTF-8, no lone surrogates, not nested beyond measure.
fn json(bytes: &[u8]) -> String {
    match (str::from_utf8(bytes), serde_json::from_slice::<Value>(bytes)) {
        (Ok(text), Ok(_)) => text.to_owned(),
        _ => String::new(),
    }
}

/// At most `limit` bytes of `text` as a string, cut between characters, and whether that is all of it.
pub(crate) fn lossy_prefix(text: &[u8], limit: usize) -> (String, bool) {
    let mut end = text.len().min(limit);
    // Not inside of a character: those have at most three bytes after the first.
    for _ in 0..3 {
        if end > 0 && text.get(end).is_some_and(|byte| byte & 0xC0 == 0x80) {
            end -= 1;
        }
    }
    let mut string = String::from_utf8_lossy(&text[..end]).into_owned();
    // Replacement characters may be longer than what they replace.
    let whole = end == text.len() && string.len() <= limit;
    string.truncate(string.floor_char_boundary(limit));
    (string, whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(entries: usize, bytes: usize) -> LogBuffer {
        LogBuffer::new(LogLimits { entries, bytes }, Instant::now())
    }

    #[test]
    fn keeps_lines_up_to_the_limit_then_one_marker() {
        let mut logs = buffer(2, 1000);
        for line in ["a", "b", "c", "d"] {
            logs.push(LogLevel::Info, line.as_bytes(), b"");
        }
        let (entries, truncated) = logs.finish();
        assert!(truncated);
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[1].message, "b");
        assert!(entries[2].message.contains("log limit reached"));
    }

    #[test]
    fn exactly_the_limit_is_not_truncated() {
        let mut logs = buffer(2, 4);
        logs.push(LogLevel::Info, b"ab", b"");
        logs.push(LogLevel::Info, b"cd", b"");
        assert_eq!(logs.finish().0.len(), 2);
    }

    #[test]
    fn cuts_between_characters() {
        let mut logs = buffer(9, 4);
        logs.push(LogLevel::Info, "aéé".as_bytes(), b"");
        let (entries, truncated) = logs.finish();
        assert_eq!(entries[0].message, "aé");
        assert_eq!(entries.len(), 2);
        assert!(truncated);
    }

    #[test]
    fn extras_count_and_are_whole_or_not_there() {
        let mut logs = buffer(9, 10);
        logs.push(LogLevel::Info, b"ab", b"[1]");
        logs.push(LogLevel::Info, b"cd", b"[12]");
        let (entries, truncated) = logs.finish();
        assert_eq!((&*entries[0].message, &*entries[0].extras_json), ("ab", "[1]"));
        assert_eq!((&*entries[1].message, &*entries[1].extras_json), ("cd", ""), "five bytes were left");
        assert!(truncated && entries.len() == 3);
    }

    #[test]
    fn extras_that_are_no_json_are_dropped() {
        for extras in ["[1", "[1]]", "\u{1}", "x", r#"["\ud800"]"#]
            .map(str::as_bytes)
            .into_iter()
            .chain([&b"[\"\xFF\"]"[..]])
        {
            let mut logs = buffer(9, 100);
            logs.push(LogLevel::Info, b"a", extras);
            let (entries, truncated) = logs.finish();
            assert_eq!((&*entries[0].extras_json, truncated), ("", false), "{extras:?}");
        }
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(json(deep.as_bytes()).is_empty());
    }

    #[test]
    fn replaces_what_is_not_utf8() {
        assert_eq!(lossy_prefix(b"a\xED\xA0\x80b", 100), ("a\u{fffd}\u{fffd}\u{fffd}b".to_owned(), true));
        assert_eq!(
            lossy_prefix(b"\xFF\xFF\xFF", 4),
            ("\u{fffd}".to_owned(), false),
            "a replacement is longer than what it replaces"
        );
    }
}
