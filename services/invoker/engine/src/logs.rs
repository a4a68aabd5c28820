//! The log of one sandbox, within its limits.

use std::time::Instant;

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

    /// Adds a line. What is not UTF-8 is replaced.
    pub(crate) fn push(&mut self, level: LogLevel, text: &[u8]) {
        if self.truncated {
            return;
        }
        if self.entries.len() == self.limits.entries {
            return self.truncate();
        }
        let left = self.limits.bytes - self.bytes;
        let (message, whole) = lossy_prefix(text, left);
        if whole || !message.is_empty() {
            self.bytes += message.len();
            self.append(level, message);
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
        self.entries.iter().map(|entry| size_of::<LogEntry>() + entry.message.len()).sum()
    }

    fn truncate(&mut self) {
        self.truncated = true;
        let LogLimits { entries, bytes } = self.limits;
        let marker = format!("log limit reached ({entries} lines or {bytes} bytes): what follows is dropped");
        self.append(LogLevel::Warn, marker);
    }

    fn append(&mut self, level: LogLevel, message: String) {
        self.entries.push(LogEntry { level, message, offset: self.started.elapsed() });
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
            logs.push(LogLevel::Info, line.as_bytes());
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
        logs.push(LogLevel::Info, b"ab");
        logs.push(LogLevel::Info, b"cd");
        assert_eq!(logs.finish().0.len(), 2);
    }

    #[test]
    fn cuts_between_characters() {
        let mut logs = buffer(9, 4);
        logs.push(LogLevel::Info, "aéé".as_bytes());
        let (entries, truncated) = logs.finish();
        assert_eq!(entries[0].message, "aé");
        assert_eq!(entries.len(), 2);
        assert!(truncated);
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
