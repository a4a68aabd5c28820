//! A payload in its two forms, and what makes two of them equal.

use std::io::{self, Write as _};

use chatfn_domain::event::{MAX_PAYLOAD_DEPTH, PayloadError};
use prost_types::{Struct, Value as Wire, value::Kind};
use serde_json::{Map, Number, Value};

/// Beyond these a whole `f64` may stand for several integers.
const EXACT_INTEGERS: f64 = 9_007_199_254_740_992.0;

/// The JSON text of a `Struct`. Whole numbers become integers, because that is what their author typed:
/// a `Struct` holds all numbers as floating point.
///
/// # Errors
/// It is nested too deep, or holds a number that JSON has not.
pub(super) fn struct_to_json(message: &Struct) -> Result<String, PayloadError> {
    let value = object(message, 1)?;
    serde_json::to_string(&value).map_err(|error| PayloadError::NotJson(error.to_string()))
}

fn object(message: &Struct, depth: usize) -> Result<Value, PayloadError> {
    let fields = message.fields.iter().map(|(key, field)| Ok((key.clone(), value(field, depth + 1)?)));
    Ok(Value::Object(fields.collect::<Result<Map<_, _>, _>>()?))
}

fn value(wire: &Wire, depth: usize) -> Result<Value, PayloadError> {
    // One more than is allowed is let through to scalars, which do not count as a level.
    if depth > MAX_PAYLOAD_DEPTH + 1 {
        return Err(PayloadError::TooDeep);
    }
    Ok(match &wire.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(*value),
        Some(Kind::StringValue(text)) => Value::String(text.clone()),
        Some(Kind::NumberValue(number)) => Value::Number(
            whole(*number)
                .map(Number::from)
                .or_else(|| Number::from_f64(*number))
                .ok_or_else(|| PayloadError::NotJson(format!("{number} is not a JSON number")))?,
        ),
        Some(Kind::StructValue(message)) => object(message, depth)?,
        Some(Kind::ListValue(list)) => {
            Value::Array(list.values.iter().map(|item| value(item, depth + 1)).collect::<Result<_, _>>()?)
        }
    })
}

#[expect(clippy::cast_possible_truncation, reason = "the range was checked")]
fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() <= EXACT_INTEGERS).then_some(number as i64)
}

/// Text that is the same for equal payloads, however they were written: keys sorted, whole numbers as
/// integers.
pub(super) fn canonical(payload: &Value) -> Vec<u8> {
    let mut text = Vec::new();
    // Writing into memory does not fail.
    let _ = write(payload, &mut text);
    text
}

fn write(value: &Value, text: &mut Vec<u8>) -> io::Result<()> {
    match value {
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()).and_then(whole) {
            Some(whole) => write!(text, "{whole}")?,
            None => write!(text, "{number}")?,
        },
        Value::Array(items) => {
            text.push(b'[');
            for item in items {
                write(item, text)?;
                text.push(b',');
            }
            text.push(b']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(key, _)| *key);
            text.push(b'{');
            for (key, field) in fields {
                serde_json::to_writer(&mut *text, key)?;
                text.push(b':');
                write(field, text)?;
                text.push(b',');
            }
            text.push(b'}');
        }
        Value::Null | Value::Bool(_) | Value::String(_) => serde_json::to_writer(text, value)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use chatfn_domain::event::parse_payload;
    use proptest::prelude::*;

    use super::*;

    fn number(number: f64) -> Wire {
        Wire { kind: Some(Kind::NumberValue(number)) }
    }

    fn of(fields: impl IntoIterator<Item = (&'static str, Wire)>) -> Struct {
        Struct { fields: fields.into_iter().map(|(key, field)| (key.to_owned(), field)).collect() }
    }

    #[test]
    fn whole_numbers_become_integers() {
        let json =
            struct_to_json(&of([("a", number(3.0)), ("b", number(0.5)), ("c", number(-0.0))])).unwrap();
        assert_eq!(json, r#"{"a":3,"b":0.5,"c":0}"#);
        assert!(matches!(struct_to_json(&of([("a", number(f64::NAN))])), Err(PayloadError::NotJson(_))));
    }

    #[test]
    fn a_struct_may_be_as_deep_as_a_text() {
        for (levels, allowed) in [(MAX_PAYLOAD_DEPTH, true), (MAX_PAYLOAD_DEPTH + 1, false)] {
            let mut message = of([("x", number(1.0))]);
            for _ in 1..levels {
                message = of([("x", Wire { kind: Some(Kind::StructValue(message)) })]);
            }
            let checked = struct_to_json(&message).and_then(|json| parse_payload(&json));
            assert_eq!(checked.is_ok(), allowed, "{levels} levels");
        }
    }

    #[test]
    fn order_of_keys_and_form_of_numbers_do_not_matter() {
        let parse = |text| canonical(&parse_payload(text).unwrap());
        assert_eq!(parse(r#"{"b": 1, "a": [2.0, 1e2]}"#), parse(r#"{"a":[2,100],"b":1.0}"#));
        for (one, other) in [
            (r#"{"a":1}"#, r#"{"a":"1"}"#),
            (r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#),
            (r#"{"a":{}}"#, r#"{"a":[]}"#),
            (r#"{"a":9007199254740993}"#, r#"{"a":9007199254740992}"#),
            (r#"{"a":null}"#, r#"{}"#),
        ] {
            assert_ne!(parse(one), parse(other));
        }
    }

    #[test]
    fn the_text_stays_what_it_was_because_its_hash_is_stored() {
        let payload =
            parse_payload(r#"{"b": ["é\u0001\"", 1.5, 2.0, -3, null], "a\n": {"c": true}}"#).unwrap();
        let text = String::from_utf8(canonical(&payload)).unwrap();
        assert_eq!(text, r#"{"a\n":{"c":true,},"b":["é\u0001\"",1.5,2,-3,null,],}"#);
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-1_000_000i64..1_000_000).prop_map(Value::from),
            (-1e6..1e6f64).prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c]{0,2}", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    fn to_wire(value: &Value) -> Wire {
        let kind = match value {
            Value::Null => Kind::NullValue(0),
            Value::Bool(value) => Kind::BoolValue(*value),
            Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap()),
            Value::String(text) => Kind::StringValue(text.clone()),
            Value::Array(items) => {
                Kind::ListValue(prost_types::ListValue { values: items.iter().map(to_wire).collect() })
            }
            Value::Object(fields) => Kind::StructValue(Struct {
                fields: fields.iter().map(|(key, field)| (key.clone(), to_wire(field))).collect(),
            }),
        };
        Wire { kind: Some(kind) }
    }

    proptest! {
        #[test]
        fn both_forms_of_a_payload_are_equal(value in prop::collection::btree_map(".{0,4}", json(), 0..4)) {
            let value = Value::Object(value.into_iter().collect());
            let Some(Kind::StructValue(message)) = to_wire(&value).kind else { unreachable!() };
            let as_struct = parse_payload(&struct_to_json(&message).unwrap()).unwrap();
            let as_text = parse_payload(&value.to_string()).unwrap();
            prop_assert_eq!(canonical(&as_struct), canonical(&as_text));
        }
    }
}
