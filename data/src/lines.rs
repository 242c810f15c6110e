//! The text of a JSONL record.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Deserializer;

/// Fields that a record has instead of the one that is asked for, of which so many are named.
const FIELDS: usize = 5;
/// Letters of a field's name that are shown.
const LETTERS: usize = 40;

/// The text in a field of an object; everything else in it is passed over. The error says what is wrong with the line.
pub fn text_of(line: &[u8], field: &str) -> Result<String, String> {
    let line = std::str::from_utf8(line)
        .map_err(|error| format!("byte {} is not valid UTF-8, and JSON is UTF-8", error.valid_up_to()))?;
    let mut json = Deserializer::from_str(line);
    let found = json.deserialize_map(Field(field)).and_then(|found| json.end().map(|()| found));
    match found {
        Ok(Some(Some(text))) => Ok(text),
        Ok(Some(None)) => Err(format!("the field {field:?} is no string")),
        Ok(None) => Err(format!("it has no field {field:?}{}", others(line))),
        Err(error) if error.is_data() => Err("it is no JSON object".to_owned()),
        Err(error) => Err(format!("it is no JSON: {}, column {}", reason(&error), error.column())),
    }
}

/// The fields that an object has instead, the first few.
fn others(line: &str) -> String {
    let fields: Vec<String> = serde_json::from_str::<BTreeMap<String, IgnoredAny>>(line)
        .into_iter()
        .flatten()
        .map(|field| format!("{:?}", field.0.chars().take(LETTERS).collect::<String>()))
        .collect();
    match fields.len() {
        0 => ", nor any other".to_owned(),
        1..=FIELDS => format!(", only {}", fields.join(", ")),
        _ => format!(", only {} and more", fields[..FIELDS].join(", ")),
    }
}

/// serde_json's message without the place in it: every record is on line 1 of its own.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

/// Outer `None`: no such field. Inner `None`: it is no string.
struct Field<'a>(&'a str);

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<Option<String>>;

    fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(wanted) = map.next_key_seed(Name(self.0))? {
            if wanted {
                found = Some(map.next_value::<serde_json::Value>()?).map(|value| match value {
                    serde_json::Value::String(text) => Some(text),
                    _ => None,
                });
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Whether a key is the one that is wanted, without a copy of it.
struct Name<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<bool, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = bool;

    fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::text_of;

    #[test]
    fn the_field_is_found() {
        let text = |line: &str| text_of(line.as_bytes(), "text");
        assert_eq!(text(r#"{"id": [1, {"text": 2}], "text": "a\nb\u00e9", "n": null}"#), Ok("a\nb\u{e9}".to_owned()));
        assert_eq!(text(r#"{"te\u0078t": "escaped"}"#), Ok("escaped".to_owned()));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = |line: &[u8]| text_of(line, "text").unwrap_err();
        assert_eq!(error(br#"{"id": 1, "body": "x"}"#), r#"it has no field "text", only "body", "id""#);
        assert_eq!(error(b"{}"), r#"it has no field "text", nor any other"#);
        let many = br#"{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1}"#;
        assert_eq!(error(many), r#"it has no field "text", only "a", "b", "c", "d", "e" and more"#);
        assert_eq!(error(br#"{"text": 3}"#), "the field \"text\" is no string");
        assert_eq!(error(b"[1]"), "it is no JSON object");
        assert_eq!(error(br#"{"text": "x"} y"#), "it is no JSON: trailing characters, column 15");
        assert!(error(br#"{"text": "x"#).starts_with("it is no JSON: EOF while parsing a string, column 11"));
        assert_eq!(error(b"{\"text\": \"\xff\"}"), "byte 10 is not valid UTF-8, and JSON is UTF-8");
    }
}
