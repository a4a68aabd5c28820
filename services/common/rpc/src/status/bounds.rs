//! Keeps an error small enough for HTTP headers.
//!
//! Peers and proxies commonly refuse more than 8 KiB of headers, and then the caller sees a protocol error
//! instead of ours. The worst case of everything below: details of 3.5 KiB, which base64 grows to 4.7 KiB,
//! and a message of 256 bytes, which percent-encoding grows to 768.

use super::FieldViolation;

pub(super) const MAX_METADATA: usize = 4;
pub(super) const MAX_PRECONDITIONS: usize = 3;

/// The message is sent twice: as `grpc-message` and inside the details.
const MAX_MESSAGE: usize = 256;
const MAX_NAME: usize = 96;
const MAX_TEXT: usize = 160;
/// Room for all field violations together.
const MAX_FIELDS: usize = 1024;

/// Cuts at a character boundary and marks the cut.
fn cut(text: &str, max: usize) -> String {
    const MARK: &str = "…";
    if text.len() <= max {
        return text.to_owned();
    }
    let mut end = max - MARK.len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{MARK}", &text[..end])
}

pub(super) fn message(text: &str) -> String {
    cut(text, MAX_MESSAGE)
}

pub(super) fn name(text: &str) -> String {
    cut(text, MAX_NAME)
}

pub(super) fn text(text: &str) -> String {
    cut(text, MAX_TEXT)
}

/// As many violations as fit, and one that counts the rest.
pub(super) fn fields(fields: &[FieldViolation]) -> Vec<tonic_types::FieldViolation> {
    let mut room = MAX_FIELDS;
    let mut kept = Vec::new();
    for violation in fields {
        let (field, description) = (name(&violation.field), text(&violation.description));
        // Tags and lengths of the protobuf encoding.
        let size = field.len() + description.len() + violation.reason.len() + 10;
        if size > room {
            let left = fields.len() - kept.len();
            kept.push(tonic_types::FieldViolation::new("", format!("… and {left} more")));
            break;
        }
        room -= size;
        kept.push(tonic_types::FieldViolation {
            reason: violation.reason.clone(),
            ..tonic_types::FieldViolation::new(field, description)
        });
    }
    kept
}
