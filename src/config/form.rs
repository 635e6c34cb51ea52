//! The syntax of settings: each form reads a value from text, shows a value as text, and names the expected values.
//!
//! Flags, variables and files all become the same list of texts first, so a value means the same in each of them.
//! A form reads the text that it shows back to the same value: `--print-config`, the check of a
//! config built by hand, and the tests rely on it.

use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::time::Duration;

use bytesize::ByteSize;
use toml::Value;

use super::{Config, ControlTls, DrainCode, DuplicateLogin, Listen, LogFormat, LogLevel, Paths, SlowConsumer};

/// One way to write values of type `T`.
pub(super) trait Form<T> {
    /// Whether several values make up the setting: a flag may be repeated, commas separate.
    const MANY: bool = false;
    /// Whether the value must never be shown.
    const SECRET: bool = false;
    /// The placeholder for the value in help texts.
    const PLACEHOLDER: &'static str;

    /// Reads the value, unless it is malformed or out of range.
    fn read(&self, items: &[String]) -> Option<T>;
    /// Shows the value as TOML, exactly.
    fn show(&self, value: &T) -> Value;
    /// Describes the allowed values, to follow the word "expected".
    fn expected(&self) -> String;
    /// Explains what is wrong with values that can't be read, where there is more to say than what was expected.
    fn explain(&self, _items: &[String]) -> Option<String> {
        None
    }
}

/// A count from the first number to the second.
pub(super) struct Count(pub(super) usize, pub(super) usize);

impl Form<usize> for Count {
    const PLACEHOLDER: &'static str = "NUMBER";

    fn read(&self, items: &[String]) -> Option<usize> {
        let count = one(items)?.parse().ok()?;
        (self.0..=self.1).contains(&count).then_some(count)
    }

    fn show(&self, value: &usize) -> Value {
        number(*value)
    }

    fn expected(&self) -> String {
        format!("{} to {}", self.0, self.1)
    }
}

impl Form<NonZeroUsize> for Count {
    const PLACEHOLDER: &'static str = "NUMBER";

    fn read(&self, items: &[String]) -> Option<NonZeroUsize> {
        Form::<usize>::read(self, items).and_then(NonZeroUsize::new)
    }

    fn show(&self, value: &NonZeroUsize) -> Value {
        number(value.get())
    }

    fn expected(&self) -> String {
        Form::<usize>::expected(self)
    }
}

/// A number of bytes from the first to the second, plain or with a unit.
pub(super) struct Size(pub(super) usize, pub(super) usize);

impl Form<usize> for Size {
    const PLACEHOLDER: &'static str = "SIZE";

    fn read(&self, items: &[String]) -> Option<usize> {
        let size: ByteSize = one(items)?.parse().ok()?;
        let size = usize::try_from(size.as_u64()).ok()?;
        (self.0..=self.1).contains(&size).then_some(size)
    }

    fn show(&self, value: &usize) -> Value {
        let text = size_text(*value);
        if text.ends_with('B') { Value::String(text) } else { number(*value) }
    }

    fn expected(&self) -> String {
        format!("a size of {} to {}", size_text(self.0), size_text(self.1))
    }
}

/// [`Size`], or `auto` for none.
impl Form<Option<usize>> for Size {
    const PLACEHOLDER: &'static str = "SIZE";

    fn read(&self, items: &[String]) -> Option<Option<usize>> {
        if one(items)? == AUTO { Some(None) } else { Form::<usize>::read(self, items).map(Some) }
    }

    fn show(&self, value: &Option<usize>) -> Value {
        match value {
            None => AUTO.into(),
            Some(size) => self.show(size),
        }
    }

    fn expected(&self) -> String {
        format!("{AUTO}, or {}", Form::<usize>::expected(self))
    }
}

/// A value of the form, or `auto` for the default, which depends on the machine and is computed anew at each start.
///
/// The computed value is shown, never `auto`.
pub(super) struct OrAuto<T, F>(pub(super) F, pub(super) fn(&Config) -> T);

impl<T, F: Form<T>> Form<T> for OrAuto<T, F> {
    const PLACEHOLDER: &'static str = F::PLACEHOLDER;

    fn read(&self, items: &[String]) -> Option<T> {
        if one(items)? == AUTO { Some((self.1)(&Config::default())) } else { self.0.read(items) }
    }

    fn show(&self, value: &T) -> Value {
        self.0.show(value)
    }

    fn expected(&self) -> String {
        format!("{AUTO}, or {}", self.0.expected())
    }
}

pub(super) const AUTO: &str = "auto";

/// A value of the other form, or `off` for none.
pub(super) struct OrOff<F>(pub(super) F);

impl<T, F: Form<T>> Form<Option<T>> for OrOff<F> {
    const PLACEHOLDER: &'static str = F::PLACEHOLDER;

    fn read(&self, items: &[String]) -> Option<Option<T>> {
        if one(items)? == OFF { Some(None) } else { self.0.read(items).map(Some) }
    }

    fn show(&self, value: &Option<T>) -> Value {
        value.as_ref().map_or_else(|| OFF.into(), |value| self.0.show(value))
    }

    fn expected(&self) -> String {
        format!("{OFF}, or {}", self.0.expected())
    }
}

const OFF: &str = "off";

/// A time from the first number of milliseconds to the second.
pub(super) struct Time(pub(super) u64, pub(super) u64);

impl Form<Duration> for Time {
    const PLACEHOLDER: &'static str = "TIME";

    fn read(&self, items: &[String]) -> Option<Duration> {
        let time = humantime::parse_duration(one(items)?).ok()?;
        (Duration::from_millis(self.0)..=Duration::from_millis(self.1)).contains(&time).then_some(time)
    }

    fn show(&self, value: &Duration) -> Value {
        time_text(*value).into()
    }

    fn expected(&self) -> String {
        let text = |millis| time_text(Duration::from_millis(millis));
        format!("a time of {} to {}, as in 5s", text(self.0), text(self.1))
    }
}

/// Text of at most so many bytes.
pub(super) struct Text(pub(super) usize);

impl Form<String> for Text {
    const PLACEHOLDER: &'static str = "TEXT";

    fn read(&self, items: &[String]) -> Option<String> {
        one(items).filter(|text| text.len() <= self.0).map(str::to_owned)
    }

    fn show(&self, value: &String) -> Value {
        value.as_str().into()
    }

    fn expected(&self) -> String {
        format!("text of up to {} bytes", self.0)
    }
}

/// `true` or `false`; also `on` or `off`.
pub(super) struct Switch;

impl Form<bool> for Switch {
    const PLACEHOLDER: &'static str = "true|false";

    fn read(&self, items: &[String]) -> Option<bool> {
        match one(items)? {
            "true" | "on" => Some(true),
            "false" | "off" => Some(false),
            _ => None,
        }
    }

    fn show(&self, value: &bool) -> Value {
        (*value).into()
    }

    fn expected(&self) -> String {
        "true or false".to_owned()
    }
}

/// An address to listen on.
pub(super) struct Address;

impl Form<Listen> for Address {
    const PLACEHOLDER: &'static str = "ADDRESS";

    fn read(&self, items: &[String]) -> Option<Listen> {
        one(items)?.parse().ok()
    }

    fn show(&self, value: &Listen) -> Value {
        value.to_string().into()
    }

    fn expected(&self) -> String {
        Listen::FORM.to_owned()
    }
}

/// One or more addresses to listen on.
pub(super) struct Addresses;

impl Form<Vec<Listen>> for Addresses {
    const MANY: bool = true;
    const PLACEHOLDER: &'static str = "ADDRESS";

    fn read(&self, items: &[String]) -> Option<Vec<Listen>> {
        let addresses: Option<Vec<Listen>> = items.iter().map(|item| item.parse().ok()).collect();
        addresses.filter(|addresses| !addresses.is_empty())
    }

    fn show(&self, value: &Vec<Listen>) -> Value {
        let mut texts: Vec<String> = value.iter().map(Listen::to_string).collect();
        if texts.len() == 1 { texts.remove(0).into() } else { texts.into() }
    }

    fn expected(&self) -> String {
        format!("one or more of {}", Listen::FORM)
    }
}

/// `umask`, or the permissions of a file.
///
/// Written with a leading zero, which TOML's numbers can't have: in TOML `0o660` and `660` are different numbers.
pub(super) struct FileMode;

impl Form<Option<u32>> for FileMode {
    const PLACEHOLDER: &'static str = "MODE";

    fn read(&self, items: &[String]) -> Option<Option<u32>> {
        let text = one(items)?;
        if text == UMASK {
            return Some(None);
        }
        let digits = text.strip_prefix('0').filter(|digits| digits.len() == 3)?;
        let is_octal = digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        if is_octal { u32::from_str_radix(digits, 8).ok().map(Some) } else { None }
    }

    fn show(&self, value: &Option<u32>) -> Value {
        value.map_or_else(|| UMASK.into(), |mode| format!("{mode:04o}").into())
    }

    fn expected(&self) -> String {
        format!("{UMASK}, or an octal mode of 0000 to 0777, as in \"0660\"")
    }
}

const UMASK: &str = "umask";

/// `any`, or one or more request paths.
pub(super) struct PathList;

impl Form<Paths> for PathList {
    const MANY: bool = true;
    const PLACEHOLDER: &'static str = "PATH";

    fn read(&self, items: &[String]) -> Option<Paths> {
        if items == [ANY] {
            return Some(Paths::Any);
        }
        let sound = !items.is_empty() && items.iter().all(|path| is_path(path));
        sound.then(|| Paths::List(items.to_vec()))
    }

    fn show(&self, value: &Paths) -> Value {
        match value {
            Paths::Any => ANY.into(),
            Paths::List(paths) => paths.clone().into(),
        }
    }

    fn expected(&self) -> String {
        format!("{ANY}, or paths such as /ws, without a query")
    }
}

const ANY: &str = "any";

/// Returns whether `path` can be the path of a request: printable ASCII, begins with `/`, no query or fragment.
fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#'))
}

/// One word out of a few.
pub(super) struct Word<T>(PhantomData<T>);

impl<T> Word<T> {
    /// The words are [`Words::WORDS`] of `T`.
    pub(super) const ANY: Self = Self(PhantomData);
}

/// A choice whose every value has a word.
pub(super) trait Words: Copy + PartialEq + 'static {
    /// The words as help texts show them.
    const PLACEHOLDER: &'static str;
    /// Each value with its word, in the order in which they are shown.
    const WORDS: &'static [(&'static str, Self)];
}

impl<T: Words> Form<T> for Word<T> {
    const PLACEHOLDER: &'static str = T::PLACEHOLDER;

    fn read(&self, items: &[String]) -> Option<T> {
        let text = one(items)?;
        T::WORDS.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
    }

    fn show(&self, value: &T) -> Value {
        let known = T::WORDS.iter().find(|(_, each)| each == value);
        known.expect("the test `every_choice_has_its_word` finds each").0.into()
    }

    fn expected(&self) -> String {
        let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
        match words.split_last() {
            Some((last, [])) => (*last).to_owned(),
            Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
            None => String::new(),
        }
    }
}

impl Words for ControlTls {
    const PLACEHOLDER: &'static str = "auto|on|off";
    const WORDS: &'static [(&'static str, Self)] = &[("auto", Self::Auto), ("on", Self::On), ("off", Self::Off)];
}

impl Words for DuplicateLogin {
    const PLACEHOLDER: &'static str = "replace|reject|share";
    const WORDS: &'static [(&'static str, Self)] =
        &[("replace", Self::Replace), ("reject", Self::Reject), ("share", Self::Share)];
}

impl Words for SlowConsumer {
    const PLACEHOLDER: &'static str = "disconnect|drop-newest|drop-oldest";
    const WORDS: &'static [(&'static str, Self)] =
        &[("disconnect", Self::Disconnect), ("drop-newest", Self::DropNewest), ("drop-oldest", Self::DropOldest)];
}

impl Words for DrainCode {
    const PLACEHOLDER: &'static str = "going-away|service-restart";
    const WORDS: &'static [(&'static str, Self)] =
        &[("going-away", Self::GoingAway), ("service-restart", Self::ServiceRestart)];
}

impl Words for LogFormat {
    const PLACEHOLDER: &'static str = "human|json";
    const WORDS: &'static [(&'static str, Self)] = &[("human", Self::Human), ("json", Self::Json)];
}

impl Words for LogLevel {
    const PLACEHOLDER: &'static str = "off|error|warn|info|debug|trace";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("off", Self::Off),
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

/// The texts that a shown value reads back from.
pub(super) fn items(value: &Value) -> Vec<String> {
    match value {
        Value::Array(values) => values.iter().flat_map(items).collect(),
        Value::String(text) => vec![text.clone()],
        other => vec![other.to_string()],
    }
}

pub(super) fn one(items: &[String]) -> Option<&str> {
    match items {
        [item] => Some(item),
        _ => None,
    }
}

fn number(count: usize) -> Value {
    // Every range in the table ends far below `i64::MAX`. A larger value, in a config built by hand, is shown as
    // `i64::MAX`, which its range refuses.
    Value::Integer(i64::try_from(count).unwrap_or(i64::MAX))
}

/// Shows a size exactly, in the largest binary unit that divides it.
fn size_text(size: usize) -> String {
    const UNITS: [(u32, &str); 3] = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = UNITS.iter().find(|(bits, _)| size != 0 && size.trailing_zeros() >= *bits);
    unit.map_or_else(|| size.to_string(), |(bits, unit)| format!("{}{unit}", size >> bits))
}

/// Shows a time exactly; a minute stays `60s`, the usual form of time-outs.
fn time_text(time: Duration) -> String {
    let seconds = time.as_secs();
    if time.subsec_nanos() != 0 {
        humantime::format_duration(time).to_string()
    } else if seconds != 0 && seconds.is_multiple_of(3600) {
        format!("{}h", seconds / 3600)
    } else if seconds > 60 && seconds.is_multiple_of(60) {
        format!("{}m", seconds / 60)
    } else {
        format!("{seconds}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `text` and shows what it read; `None` where it is refused.
    #[track_caller]
    fn check<T, F: Form<T>>(form: &F, text: &str, shown: Option<&str>) {
        let read = form.read(&[text.to_owned()]).map(|value| form.show(&value));
        assert_eq!(read.as_ref().map(Value::to_string).as_deref(), shown, "{text}");
        let again = read.as_ref().and_then(|value| form.read(&items(value))).map(|value| form.show(&value));
        assert_eq!(again, read, "{text} read, shown and read again");
    }

    #[test]
    fn counts() {
        let form = Count(1, 64);
        for (text, shown) in [("1", Some("1")), ("64", Some("64")), ("007", Some("7")), ("+5", Some("5"))] {
            check::<usize, _>(&form, text, shown);
            check::<NonZeroUsize, _>(&form, text, shown);
        }
        for text in ["", "0", "65", "-1", "1.0", "x", " 1", "1 ", "99999999999999999999999"] {
            check::<usize, _>(&form, text, None);
            check::<NonZeroUsize, _>(&form, text, None);
        }
        check::<NonZeroUsize, _>(&Count(0, 1), "0", None);
        assert_eq!(Form::<usize>::read(&form, &[]), None);
        assert_eq!(Form::<usize>::read(&form, &["1".to_owned(), "2".to_owned()]), None);
    }

    #[test]
    fn sizes() {
        let form = Size(16, 1 << 31);
        for (text, shown) in [
            ("16", "16"),
            ("1000", "1000"),
            ("1024", "\"1KiB\""),
            ("1 KiB", "\"1KiB\""),
            ("1kib", "\"1KiB\""),
            ("1kB", "1000"),
            ("1.5MiB", "\"1536KiB\""),
            ("1048590", "1048590"),
            ("2GiB", "\"2GiB\""),
        ] {
            check::<usize, _>(&form, text, Some(shown));
            check::<Option<usize>, _>(&form, text, Some(shown));
        }
        for text in ["", "15", "3GiB", "2147483649", "-1", "KiB", "1XiB", "1MiB2", "99999999999999999999EiB"] {
            check::<usize, _>(&form, text, None);
            check::<Option<usize>, _>(&form, text, None);
        }
        check::<Option<usize>, _>(&form, "auto", Some("\"auto\""));
        check::<usize, _>(&form, "auto", None);
    }

    #[test]
    fn times() {
        let form = Time(1, 24 * 3_600_000);
        for (text, shown) in [
            ("5s", "5s"),
            ("250ms", "250ms"),
            ("1500ms", "1s 500ms"),
            ("60s", "60s"),
            ("1m", "60s"),
            ("2m", "2m"),
            ("90s", "90s"),
            ("1h 30m", "90m"),
            ("24h", "24h"),
            ("1day", "24h"),
            ("1001us", "1ms 1us"),
        ] {
            check(&form, text, Some(&format!("\"{shown}\"")));
        }
        for text in ["", "5", "0s", "999us", "25h", "-1s", "s", "5 parsecs", "99999999999999999999s"] {
            check(&form, text, None);
        }
        check(&Time(0, 1), "0s", Some("\"0s\""));
    }

    #[test]
    fn texts_and_switches() {
        check(&Text(4), "", Some("\"\""));
        check(&Text(4), "ção", None);
        check(&Text(5), "ção", Some("\"ção\""));
        for (text, shown) in [("true", "true"), ("on", "true"), ("false", "false"), ("off", "false")] {
            check(&Switch, text, Some(shown));
        }
        for text in ["", "yes", "1", "True"] {
            check(&Switch, text, None);
        }
    }

    #[test]
    fn modes_of_files() {
        for (text, shown) in [("umask", "\"umask\""), ("0660", "\"0660\""), ("0000", "\"0000\""), ("0777", "\"0777\"")]
        {
            check(&FileMode, text, Some(shown));
        }
        for text in ["", "0", "660", "432", "0o660", "0680", "01777", "0+66", "-0660", " 0660", "rw-rw----"] {
            check(&FileMode, text, None);
        }
        assert_eq!(FileMode.read(&["0640".to_owned()]), Some(Some(0o640)));
    }

    #[test]
    fn lists() {
        check(&Addresses, "[::1]:0", Some("\"[::1]:0\""));
        check(&Addresses, "nowhere", None);
        assert_eq!(Addresses.read(&[]), None);
        let two = ["127.0.0.1:1", "unix:/x"].map(str::to_owned);
        let read = Addresses.read(&two).map(|value| items(&Addresses.show(&value)));
        assert_eq!(read.as_deref(), Some(&two[..]));

        check(&PathList, "any", Some("\"any\""));
        check(&PathList, "/ws", Some("[\"/ws\"]"));
        for text in ["", "ws", "/a b", "/a?b", "/a#b", "/é"] {
            check(&PathList, text, None);
        }
        assert_eq!(PathList.read(&[]), None);
        assert_eq!(PathList.read(&["any".to_owned(), "/ws".to_owned()]), None);
    }

    #[test]
    fn every_choice_has_its_word() {
        #[track_caller]
        fn check_words<T: Words + std::fmt::Debug>(values: &[T], expected: &str) {
            assert_eq!(T::WORDS.len(), values.len());
            let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
            assert_eq!(T::PLACEHOLDER, words.join("|"));
            for value in values {
                let shown = Word::<T>::ANY.show(value);
                assert_eq!(Word::<T>::ANY.read(&items(&shown)), Some(*value));
            }
            check(&Word::<T>::ANY, "nothing", None);
            assert_eq!(Word::<T>::ANY.expected(), expected);
        }
        // Each `match` fails to compile when a choice gets a value that is missing in the list beside it.
        use {ControlTls as T, DrainCode as C, DuplicateLogin as D, LogFormat as F, LogLevel as L, SlowConsumer as S};
        let _ = |t, c, d, s, f, l| {
            match t {
                T::Auto | T::On | T::Off => {}
            }
            match c {
                C::GoingAway | C::ServiceRestart => {}
            }
            match d {
                D::Replace | D::Reject | D::Share => {}
            }
            match s {
                S::Disconnect | S::DropNewest | S::DropOldest => {}
            }
            match f {
                F::Human | F::Json => {}
            }
            match l {
                L::Off | L::Error | L::Warn | L::Info | L::Debug | L::Trace => {}
            }
        };
        check_words(&[T::Auto, T::On, T::Off], "auto, on or off");
        check_words(&[D::Replace, D::Reject, D::Share], "replace, reject or share");
        check_words(&[S::Disconnect, S::DropNewest, S::DropOldest], "disconnect, drop-newest or drop-oldest");
        check_words(&[C::GoingAway, C::ServiceRestart], "going-away or service-restart");
        check_words(&[F::Human, F::Json], "human or json");
        check_words(
            &[L::Off, L::Error, L::Warn, L::Info, L::Debug, L::Trace],
            "off, error, warn, info, debug or trace",
        );
    }
}
