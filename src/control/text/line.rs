//! A line of the text port: a JSON object whose `uid` names the receiver, as PHP's `json_decode` would find it.

use std::fmt;

use memchr::{memchr, memmem};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Most objects and arrays inside one another: `json_decode` takes a depth of 512, and counts the innermost value, too.
const DEPTH_MAX: usize = 511;

/// Finds the receiver of a line; `None` if the line is no JSON object, or its `uid` is neither a text nor a number.
///
/// Only `uid` members of the outermost object count, and of several the last. A number keeps its written form: `7` is the uid
/// `7`, and `1.5`, `1e3` and numbers of any length are not rounded; `-0` is the integer 0.
pub(super) fn receiver(line: &[u8]) -> Option<Box<str>> {
    let line = simdutf8::basic::from_utf8(line).ok()?;
    let Line { uid } = serde_json::from_str(line).ok()?;
    let uid = uid?.get();
    if !is_taken_by_php(line.as_bytes()) {
        return None;
    }
    match uid.as_bytes().first()? {
        b'"' => serde_json::from_str(uid).ok(),
        _ if uid == "-0" => Some("0".into()),
        b'-' | b'0'..=b'9' => Some(uid.into()),
        _ => None,
    }
}

/// Returns whether a line without a receiver belongs to another protocol: to the head of an HTTP request, or, if it begins with
/// a control character, to a binary protocol such as TLS.
///
/// A line that begins with a brace never does: no HTTP method and no header name begins with one.
///
/// This is a defence. A web page can have its visitor's browser connect to any port of the visitor's machine and send lines
/// of the page's choice behind such a head: by a form, or by a host name that leads to the port together with a TLS ticket.
pub(super) fn is_of_another_protocol(line: &[u8]) -> bool {
    if line.trim_ascii_start().first() == Some(&b'{') {
        return false;
    }
    let begins_no_text = line.first().is_some_and(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace());
    let is_request = || memmem::find(line, b" HTTP/").is_some();
    let is_host = || {
        let name = memchr(b':', line).map(|end| line[..end].trim_ascii());
        name.is_some_and(|name| name.eq_ignore_ascii_case(b"host"))
    };
    begins_no_text || is_request() || is_host()
}

/// Returns whether `json_decode` accepts a text that serde_json has accepted: it is at most [`DEPTH_MAX`] deep, and has no half of
/// a surrogate pair, which serde_json does not check in texts that it skips.
fn is_taken_by_php(json: &[u8]) -> bool {
    let (mut depth, mut is_in_text, mut rest) = (0, false, json);
    while let [byte, behind @ ..] = rest {
        rest = behind;
        match byte {
            b'"' => is_in_text = !is_in_text,
            b'\\' => match behind_escape(behind) {
                Some(behind) => rest = behind,
                None => return false,
            },
            b'{' | b'[' if !is_in_text => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return false;
                }
            }
            b'}' | b']' if !is_in_text => depth -= 1,
            _ => {}
        }
    }
    true
}

/// Returns the rest behind an escape, whose backslash comes before `escape`; `None` if it is half of a surrogate pair.
fn behind_escape(escape: &[u8]) -> Option<&[u8]> {
    let unit = |digits: &[u8]| u16::from_str_radix(str::from_utf8(digits).ok()?, 16).ok();
    let (first, rest) = escape.split_first()?;
    if *first != b'u' {
        return Some(rest);
    }
    let (digits, rest) = rest.split_at_checked(4)?;
    match unit(digits)? {
        0xd800..=0xdbff => {
            let (digits, rest) = rest.strip_prefix(b"\\u")?.split_at_checked(4)?;
            matches!(unit(digits)?, 0xdc00..=0xdfff).then_some(rest)
        }
        0xdc00..=0xdfff => None,
        _ => Some(rest),
    }
}

/// The `uid` of a line. Written by hand, since a derived `Deserialize` would refuse a second `uid`.
struct Line<'a> {
    uid: Option<&'a RawValue>,
}

/// A key of the object, compared without an allocation.
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
    fn pairs_of_surrogates_are_characters() {
        for text in
            [r"\uD83D\uDE00", r"\\ud83d", r"\\\\ude00", r"\ud7ff\ue000", r"\ud83d\ude00\ud83d\ude00", r#"\"\u0022"#]
        {
            check(&format!(r#"{{"uid":"alice","x":"{text}","{text}":7}}"#), "alice");
        }
    }

    #[test]
    fn a_line_may_be_as_deep_as_php_has_it() {
        let arrays = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let objects = |depth: usize| format!("{}0{}", "{\"uid\":".repeat(depth), "}".repeat(depth));
        let side_by_side = format!("[{}0]", "[],{},".repeat(DEPTH_MAX));
        for inner in [arrays(DEPTH_MAX - 1), objects(DEPTH_MAX - 1), side_by_side] {
            check(&format!(r#"{{"x":{inner},"uid":"alice"}}"#), "alice");
        }
        for deeper in [arrays(DEPTH_MAX), objects(DEPTH_MAX), arrays(100_000), "[".repeat(100_000)] {
            refuse(format!(r#"{{"uid":"alice","x":{deeper}}}"#));
        }
        let brackets = "[{".repeat(DEPTH_MAX) + r#"\"[\\"#;
        check(&format!(r#"{{"uid":"alice","x":"{brackets}"}}"#), "alice");
    }

    #[test]
    fn other_protocols_are_known_by_what_they_begin_with() {
        for line in [
            "POST / HTTP/1.1",
            "get /x HTTP/1.0",
            "PRI * HTTP/2.0",
            "Host: x",
            "host:",
            " HOST :x",
            "\0",
            "\x16\x03\x01",
            "\x7f",
        ] {
            assert!(is_of_another_protocol(line.as_bytes()), "{line:?}");
        }
        for line in [
            "",
            " ",
            "\t",
            "alice",
            "{}",
            "POST",
            "GET /",
            "HTTP/1.1",
            "Hosts: x",
            "x: host:",
            "{\"host\":1}",
            "{\"uid\":null,\"request\":\"GET / HTTP/1.1\"}",
            " {\"request\":\"GET / HTTP/1.1\"",
            "\u{feff}",
        ] {
            assert!(!is_of_another_protocol(line.as_bytes()), "{line:?}");
        }
    }

    #[test]
    fn last_of_several_counts() {
        check(r#"{"uid":"bob","uid":"alice"}"#, "alice");
        check(r#"{"uid":null,"u\u0069d":7}"#, "7");
        refuse(r#"{"uid":"alice","uid":null}"#);
    }

    #[test]
    fn numbers_are_taken_as_they_are_written() {
        for number in ["0", "7", "-7", "-0.0", "1.5", "1.0", "1e3", "1E+3", "18446744073709551616", "1e999"] {
            check(&format!("{{\"uid\":{number}}}"), number);
        }
        check(&format!("{{\"uid\":{}}}", "9".repeat(300)), &"9".repeat(300));
        check(r#"{"uid":-0}"#, "0");
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
        // Half of a surrogate pair is no character, wherever it stands.
        for text in
            [r"\ud83d", r"\ude00", r"\ud83dx", r"\ud83d\u0061", r"\ud83d\ud83d\ude00", r"\uDBFF\uE000", r"\\\ud83d"]
        {
            refuse(format!(r#"{{"uid":"{text}"}}"#));
            refuse(format!(r#"{{"uid":"alice","x":"{text}"}}"#));
            refuse(format!(r#"{{"uid":"alice","{text}":[]}}"#));
            refuse(format!(r#"{{"x":["{text}"],"uid":"alice"}}"#));
        }
        refuse("{\"uid\":\"a\tb\"}");
        refuse("{\"uid\":\"a\0b\"}");
        refuse("{\"uid\":\"alice\",\"x\":\"\0\"}");
        refuse(b"{\"uid\":\"\xff\"}");
        refuse(b"{\"uid\":\"alice\",\"x\":\"\xc3\"}");
    }
}
