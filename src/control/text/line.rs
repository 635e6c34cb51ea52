//! A line of the text port: a JSON object whose `uid` names the receiver, as PHP's `json_decode` would find it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Finds whom a line is for; `None` when it is no JSON object, or its `uid` is neither a text nor a number.
///
/// Of several `uid` the last counts, and only those of the outermost object. A number is taken as it is written: `7` is
/// the uid `7`, and `1.5`, `1e3` and numbers of any length are not rounded.
pub(super) fn receiver(line: &[u8]) -> Option<Box<str>> {
    let line = simdutf8::basic::from_utf8(line).ok()?;
    let Line { uid } = serde_json::from_str(line).ok()?;
    let uid = uid?.get();
    match uid.as_bytes().first()? {
        b'"' => serde_json::from_str(uid).ok(),
        b'-' | b'0'..=b'9' => Some(uid.into()),
        _ => None,
    }
}

/// What of a line matters; serde's own structs would refuse a second `uid`.
struct Line<'a> {
    uid: Option<&'a RawValue>,
}

/// A key of it, compared without being kept.
#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Key {
    Uid,
    #[serde(other)]
    Other,
}

impl<'a> Deserialize<'a> for Line<'a> {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Object)
    }
}

struct Object;

impl<'a> Visitor<'a> for Object {
    type Value = Line<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a uid")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<Line<'a>, M::Error> {
        let mut uid = None;
        while let Some(key) = map.next_key()? {
            match key {
                Key::Uid => uid = Some(map.next_value()?),
                Key::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Line { uid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, uid: &str) {
        assert_eq!(receiver(line.as_bytes()).as_deref(), Some(uid), "{line}");
    }

    #[track_caller]
    fn refuse(line: impl AsRef<[u8]>) {
        let line = line.as_ref();
        assert_eq!(receiver(line), None, "{}", line.escape_ascii());
    }

    #[test]
    fn texts_name_their_receiver() {
        check(r#"{"uid":"alice"}"#, "alice");
        check(r#"{"uid":"uid1","percent":"88%"}"#, "uid1");
        check(r#"{"percent":{"uid":"bob"},"uid":"alice","more":[{"uid":"bob"}]}"#, "alice");
        check("\t {\"uid\" : \"alice\"} \r", "alice");
        check(r#"{"uid":""}"#, "");
        check(r#"{"uid":" alice "}"#, " alice ");
        check(r#"{"uid":"olá"}"#, "olá");
        check(r#"{"uid":"ol\u00e1 \"\\\/\n\ud83d\ude00\u0000"}"#, "olá \"\\/\n😀\0");
        check(r#"{"\u0075id":"alice"}"#, "alice");
        check(r#"{"":1,"UID":"bob","uid ":"bob","uid":"alice","ui":"bob"}"#, "alice");
    }

    #[test]
    fn last_of_several_counts() {
        check(r#"{"uid":"bob","uid":"alice"}"#, "alice");
        check(r#"{"uid":null,"u\u0069d":7}"#, "7");
        refuse(r#"{"uid":"alice","uid":null}"#);
    }

    #[test]
    fn numbers_are_taken_as_they_are_written() {
        for number in ["0", "7", "-7", "-0", "1.5", "1.0", "1e3", "1E+3", "18446744073709551616", "1e999"] {
            check(&format!("{{\"uid\":{number}}}"), number);
        }
        check(&format!("{{\"uid\":{}}}", "9".repeat(300)), &"9".repeat(300));
        for number in ["07", "+7", ".5", "5.", "0x7", "NaN", "1e", "--1"] {
            refuse(format!("{{\"uid\":{number}}}"));
        }
    }

    #[test]
    fn what_names_nobody_is_refused() {
        for line in ["", " ", "alice", "null", "7", "\"uid\"", "[]", r#"["uid","alice"]"#, r#"[{"uid":"alice"}]"#] {
            refuse(line);
        }
        for line in ["{}", r#"{"id":"alice"}"#, r#"{"to":{"uid":"alice"}}"#, r#"{"UID":"alice"}"#] {
            refuse(line);
        }
        for uid in ["null", "true", "false", "[]", "[\"alice\"]", "{}", "{\"uid\":\"alice\"}"] {
            refuse(format!("{{\"uid\":{uid}}}"));
        }
        for line in [r#"{"uid":"alice""#, r#"{"uid":"alice"}}"#, r#"{"uid":"alice"} {}"#, r#"{"uid":"alice",}"#] {
            refuse(line);
        }
        for line in ["{'uid':'alice'}", "{uid:\"alice\"}", "\u{feff}{\"uid\":\"alice\"}", "{\"uid\":\"alice\"}\0"] {
            refuse(line);
        }
        // Half of a surrogate pair is no character.
        refuse(r#"{"uid":"\ud83d"}"#);
        refuse("{\"uid\":\"a\tb\"}");
        refuse("{\"uid\":\"a\0b\"}");
        refuse("{\"uid\":\"alice\",\"x\":\"\0\"}");
        refuse(b"{\"uid\":\"\xff\"}");
        refuse(b"{\"uid\":\"alice\",\"x\":\"\xc3\"}");
    }
}
