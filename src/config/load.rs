//! Loads a checked config: flags override the environment, which overrides the file, which overrides the defaults.
//!
//! Each layer is first gathered as text, with its origin ([`Settings`]). Only then is the value of the uppermost layer
//! read for each setting, and all faults are reported together. Flags and variables are
//! parameters, so tests never touch the process's own; the file is read here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use toml::{Spanned, Value};

use super::form::{AUTO, items};
use super::{Config, Fault, Faults, Origin, SETTINGS, Setting, VARIABLE_PREFIX};
use crate::bounded_file;

/// The variable that names the file, beside the flag `--config`.
pub const FILE_VARIABLE: &str = "POMBO_CONFIG";

/// The variable with the token of a program that calls a node. It belongs to the caller; it is not a setting of the node.
pub const TOKEN_VARIABLE: &str = "POMBO_CONTROL_TOKEN";

/// The variable with which the programs in `examples/` find control. It belongs to the caller; it is not a setting of the node.
const URL_VARIABLE: &str = "POMBO_URL";

/// Longest file of settings that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The text of one layer, not parsed yet: at most one value for each setting.
#[derive(Clone, Debug, Default)]
pub struct Settings(BTreeMap<&'static str, Written>);

/// A setting's value as written.
#[derive(Clone, Debug)]
struct Written {
    items: Vec<String>,
    origin: Origin,
}

/// Makes a config from the flags, the environment and the file; anything not set there is the default.
///
/// The file is `file`, else the one that [`FILE_VARIABLE`] names, else there is none. Variables that don't begin with
/// [`VARIABLE_PREFIX`] are ignored. A value that is overridden by an upper layer is not parsed.
///
/// # Errors
/// All faults together: an unreadable file, unknown keys and variables, values malformed or out of range,
/// values that contradict each other.
///
/// # Examples
/// ```
/// use pombo::config::{Settings, load};
///
/// let variables = [("POMBO_SHARDS".into(), "2".into()), ("HOME".into(), "/root".into())];
/// let config = load(&Settings::default(), None, &variables).expect("it is sound");
/// assert_eq!(config.shards.get(), 2);
///
/// let faults = load(&Settings::default(), None, &[("POMBO_SHARDS".into(), "many".into())]).expect_err("no number");
/// assert!(faults.to_string().contains("POMBO_SHARDS"));
/// ```
pub fn load(flags: &Settings, file: Option<&Path>, variables: &[(OsString, OsString)]) -> Result<Config, Faults> {
    load_layers(flags, file, variables).map(|(config, _)| config)
}

/// Loads as [`load`] does, and shows the settings in effect as a TOML file; see [`Config::to_toml`].
///
/// A value that a user has set is never a comment, even if it equals the default that this machine has.
///
/// # Errors
/// As [`load`].
pub fn load_toml(flags: &Settings, file: Option<&Path>, variables: &[(OsString, OsString)]) -> Result<String, Faults> {
    let (config, layers) = load_layers(flags, file, variables)?;
    let is_set = |setting: &Setting| layers.0.get(setting.key).is_some_and(|written| written.items != [AUTO]);
    Ok(config.to_toml_with(is_set))
}

/// Returns the config, and the text that it was read from.
fn load_layers(
    flags: &Settings,
    file: Option<&Path>,
    variables: &[(OsString, OsString)],
) -> Result<(Config, Settings), Faults> {
    let mut faults = Vec::new();
    let environment = Settings::from_variables(variables, &mut faults);
    let file = match file_of(file, variables) {
        Some(path) => Settings::from_file(&path, &mut faults),
        None => Settings::default(),
    };
    let mut effective = file.0;
    effective.extend(environment.0);
    effective.extend(flags.0.clone());
    let effective = Settings(effective);
    let config = read(&effective, &mut faults);
    if faults.is_empty() { Ok((config, effective)) } else { Err(Faults(faults)) }
}

/// Finds the text of `setting` in the environment, or else in the file, with its origin.
///
/// For programs that call a node and need one of its settings; faults of other settings don't matter to them. The
/// file is read only if the environment does not have the setting, so that an unreadable file does no harm otherwise.
///
/// # Errors
/// When the file can't be read, or is no TOML.
pub fn find(
    setting: &'static Setting,
    file: Option<&Path>,
    variables: &[(OsString, OsString)],
) -> Result<Option<(String, Origin)>, Faults> {
    let mut ignored = Vec::new();
    let mut found = Settings::from_variables(variables, &mut ignored).0.remove(setting.key);
    if let (None, Some(path)) = (&found, file_of(file, variables)) {
        let mut faults = Vec::new();
        found = Settings::from_file(&path, &mut faults).0.remove(setting.key);
        faults.retain(|fault| matches!(fault, Fault::Unreadable { .. } | Fault::Syntax { .. }));
        if !faults.is_empty() {
            return Err(Faults(faults));
        }
    }
    Ok(found.map(|Written { items, origin }| (items.join(","), origin)))
}

/// Returns the file that a flag or a variable names.
fn file_of(flag: Option<&Path>, variables: &[(OsString, OsString)]) -> Option<PathBuf> {
    let variable = || variables.iter().find(|(name, _)| name == FILE_VARIABLE).map(|(_, value)| PathBuf::from(value));
    flag.map(Path::to_owned).or_else(variable)
}

impl Settings {
    /// Sets the text of the flag `--key`; each of `values` is split at commas if the setting is a list.
    pub fn set_flag(&mut self, setting: &'static Setting, values: &[String]) {
        let items = values.iter().flat_map(|value| split(setting, value)).collect();
        self.0.insert(setting.key, Written { items, origin: Origin::Flag(setting.flag()) });
    }

    fn from_variables(variables: &[(OsString, OsString)], faults: &mut Vec<Fault>) -> Self {
        let mut settings = Self::default();
        for (name, value) in variables {
            let name = name.to_string_lossy();
            let is_ours = name.starts_with(VARIABLE_PREFIX) && !is_service_link(&name, value);
            if !is_ours || [FILE_VARIABLE, TOKEN_VARIABLE, URL_VARIABLE].contains(&name.as_ref()) {
                continue;
            }
            let origin = Origin::Variable(name.to_string());
            let Some(setting) = SETTINGS.iter().find(|setting| setting.variable() == name) else {
                // Compared without the prefix, which would make any two names similar.
                let bare = |name: &str| name.trim_start_matches(VARIABLE_PREFIX).to_owned();
                let names = SETTINGS.iter().map(Setting::variable).chain([FILE_VARIABLE.to_owned()]);
                let near = nearest(&bare(&name), names.map(|name| bare(&name)));
                let near = near.map(|name| format!("{VARIABLE_PREFIX}{name}"));
                faults.push(Fault::Unknown { name: name.into_owned(), origin: Origin::Environment, near });
                continue;
            };
            match value.to_str() {
                Some(value) => {
                    settings.0.insert(setting.key, Written { items: split(setting, value), origin });
                }
                None => {
                    let value = setting.conceal(&value.to_string_lossy());
                    faults.push(Fault::Value { key: setting.key, value, origin, expected: "UTF-8 text".to_owned() });
                }
            }
        }
        settings
    }

    fn from_file(path: &Path, faults: &mut Vec<Fault>) -> Self {
        match bounded_file::read_text(path, FILE_BYTES_MAX) {
            Ok(text) => Self::from_toml(&text, path, faults),
            Err(error) => {
                faults.push(Fault::Unreadable { path: path.to_owned(), reason: error.to_string() });
                Self::default()
            }
        }
    }

    fn from_toml(text: &str, path: &Path, faults: &mut Vec<Fault>) -> Self {
        let line = |offset: usize| 1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
        let keys: BTreeMap<Spanned<String>, Value> = match toml::from_str(text) {
            Ok(keys) => keys,
            Err(error) => {
                let line_number = line(error.span().map_or(0, |span| span.start));
                let reason = unquoted(text, line_number).unwrap_or_else(|| error.message().to_owned());
                faults.push(Fault::Syntax { path: path.to_owned(), line_number, reason });
                return Self::default();
            }
        };
        let mut settings = Self::default();
        for (key, value) in keys {
            let origin = Origin::File { path: path.to_owned(), line: line(key.span().start) };
            let key = key.into_inner();
            let Some(setting) = Setting::of(&key) else {
                if is_table(&value) {
                    faults.push(Fault::Table { name: key, origin });
                    continue;
                }
                let near = nearest(&key, SETTINGS.iter().map(|setting| setting.key.to_owned()));
                faults.push(Fault::Unknown { name: key, origin, near });
                continue;
            };
            if holds(setting, &value) {
                settings.0.insert(setting.key, Written { items: items(&value), origin });
            } else {
                let (value, expected) = (setting.conceal(&value.to_string()), setting.expected());
                faults.push(Fault::Value { key: setting.key, value, origin, expected });
            }
        }
        settings
    }
}

/// Returns whether a value is a table, or a list of them: `[name]`, `[[name]]`.
fn is_table(value: &Value) -> bool {
    value.is_table() || value.as_array().is_some_and(|values| values.iter().any(Value::is_table))
}

/// Says how to write a line of TOML whose value is text without quotes; `None` for any other line.
///
/// The parser says that a string is not quoted for many other faults, too, and for some texts it says something else.
fn unquoted(text: &str, line_number: usize) -> Option<String> {
    let (key, rest) = text.lines().nth(line_number.checked_sub(1)?)?.split_once('=')?;
    let (key, value) = (key.trim(), rest.split(" #").next().unwrap_or_default().trim());
    let is_toml = |value: &str| toml::from_str::<toml::Table>(&format!("key = {value}")).is_ok();
    let Some(setting) = Setting::of(key) else {
        let is_text = !value.is_empty() && !value.starts_with(['"', '\'', '[', '{']) && !is_toml(value);
        return is_text.then(|| "text needs quotes, as in key = \"text\"".to_owned());
    };
    let expected = setting.expected();
    if value.is_empty() {
        return Some(format!("{key} has no value, expected {expected}"));
    }
    if value.starts_with(['"', '\'', '{']) || is_toml(value) {
        return None;
    }
    if let Some(list) = value.strip_prefix('[') {
        // The rest of the list may be on other lines.
        let list = list.strip_suffix(']').filter(|_| !value.contains(['"', '\'']))?;
        let texts: Vec<String> = list.split(',').map(|text| Value::from(text.trim()).to_string()).collect();
        return Some(format!("text needs quotes, in a list, too: {key} = [{}]", setting.conceal(&texts.join(", "))));
    }
    if setting.read(&mut Config::default(), &split(setting, value)) {
        let quoted =
            if setting.secret { "\"…\"".to_owned() } else { Value::from(setting.conceal(value)).to_string() };
        return Some(format!("text needs quotes: {key} = {quoted}"));
    }
    Some(format!(
        "text needs quotes, and {key} = {} is none of its values, expected {expected}",
        setting.conceal(value)
    ))
}

/// Parses every value; a setting with a fault, or with no value, keeps its default.
fn read(effective: &Settings, faults: &mut Vec<Fault>) -> Config {
    let mut config = Config::default();
    let mut value_faults: Vec<Fault> = Vec::new();
    for setting in SETTINGS {
        let Some(Written { items, origin }) = effective.0.get(setting.key) else { continue };
        if !setting.read(&mut config, items) {
            let value = setting.conceal(&items.join(","));
            let (origin, expected) = (origin.clone(), setting.explain(items));
            value_faults.push(Fault::Value { key: setting.key, value, origin, expected });
        }
    }
    faults.append(&mut value_faults);
    let origin = |key: &str| effective.0.get(key).map_or(Origin::Default, |written| written.origin.clone());
    let relations = config.relation_faults(faults, origin);
    faults.extend(relations);
    config
}

/// Returns whether the type of the TOML `value` is one that the setting accepts.
fn holds(setting: &Setting, value: &Value) -> bool {
    match value {
        Value::String(_) | Value::Integer(_) | Value::Boolean(_) => true,
        Value::Array(values) => setting.many && values.iter().all(Value::is_str),
        Value::Float(_) | Value::Datetime(_) | Value::Table(_) => false,
    }
}

fn split(setting: &Setting, value: &str) -> Vec<String> {
    if setting.many { value.split(',').map(|item| item.trim().to_owned()).collect() } else { vec![value.to_owned()] }
}

/// Returns whether Kubernetes or Docker set this variable for a service whose name begins with `pombo`.
///
/// They set `POMBO_SERVICE_HOST`, `POMBO_PORT=tcp://…` and the like in every container beside such a service.
fn is_service_link(name: &str, value: &OsString) -> bool {
    let numbered = name.split("_PORT_").nth(1).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let address = name.ends_with("_PORT") && value.to_string_lossy().contains("://");
    name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || numbered || address
}

/// Finds the name that is most similar to `wrong`.
fn nearest(wrong: &str, names: impl Iterator<Item = String>) -> Option<String> {
    // A name longer than any setting's is not a misspelling; the bound keeps a hostile one cheap.
    const CHARACTERS_MAX: usize = 64;
    let length = wrong.chars().take(CHARACTERS_MAX + 1).count();
    if length > CHARACTERS_MAX {
        return None;
    }
    let (distance, name) = names.map(|name| (strsim::levenshtein(wrong, &name), name)).min()?;
    (distance <= 3 && distance * 3 <= length).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
    }

    /// Loads `toml` as the only layer, and compares the lines of all faults.
    #[track_caller]
    fn check_file(toml: &str, lines: &[&str]) {
        let mut faults = Vec::new();
        let settings = Settings::from_toml(toml, Path::new("p.toml"), &mut faults);
        read(&settings, &mut faults);
        assert_eq!(faults.iter().map(Fault::to_string).collect::<Vec<_>>(), lines);
    }

    #[track_caller]
    fn check_variables(pairs: &[(&str, &str)], lines: &[&str]) {
        let shown = match load(&Settings::default(), None, &variables(pairs)) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.iter().map(Fault::to_string).collect(),
        };
        assert_eq!(shown, lines);
    }

    #[test]
    fn reads_files() {
        check_file("", &[]);
        check_file("# nothing\n", &[]);
        check_file("listen = '127.0.0.1:1'\nshards = 2\npage = false\n", &[]);
        check_file("listen = ['127.0.0.1:1', 'unix:/a,b']\noutbox_bytes_max = '4 MiB'\nshards = '3'", &[]);
    }

    #[test]
    fn tells_that_there_are_no_tables() {
        let expected = "it is a table, expected settings outside of any table, such as shards = 2";
        check_file("shards = 2\n[pombo]\nshards = 3", &[&format!("pombo (from p.toml, line 2): {expected}")]);
        check_file("[[shard]]\nx = 1", &[&format!("shard (from p.toml, line 1): {expected}")]);
    }

    #[test]
    fn tells_every_fault_of_a_file_with_its_line() {
        check_file(
            "\nshards = 0\nlogin_timeout = 5\npage = 1.5\nlisten = [1]\n\
             uid_bytes_max = [1]\nshard = 1\nqqq = 1\n[limits]\na = 1",
            &[
                "limits (from p.toml, line 9): it is a table, expected settings outside of any table, such as shards = 2",
                "listen = [1] (from p.toml, line 5): expected one or more of IP:PORT, localhost:PORT, unix:/PATH or, on Linux, unix:@NAME",
                "page = 1.5 (from p.toml, line 4): expected true or false",
                "qqq (from p.toml, line 8): no such setting",
                "shard (from p.toml, line 7): no such setting, did you mean shards?",
                "uid_bytes_max = [1] (from p.toml, line 6): expected a size of 1 to 1KiB",
                "shards = 0 (from p.toml, line 2): expected auto, or 1 to 256",
                "login_timeout = 5 (from p.toml, line 3): expected a time of 1ms to 1h, as in 5s",
            ],
        );
        check_file(
            "listen = []",
            &[
                "listen =  (from p.toml, line 1): expected one or more of IP:PORT, localhost:PORT, unix:/PATH or, on Linux, unix:@NAME",
            ],
        );
    }

    #[test]
    fn tells_where_a_file_is_not_toml() {
        check_file("shards = 1\nshards = 2", &["p.toml, line 2: duplicate key"]);
        check_file("shards = 1\nlisten", &["p.toml, line 2: key with no value, expected `=`"]);
    }

    #[test]
    fn tells_that_text_needs_quotes() {
        check_file("shards = 1\nauth = jwt", &["p.toml, line 2: text needs quotes: auth = \"jwt\""]);
        check_file("listen = 127.0.0.1:1 # here", &["p.toml, line 1: text needs quotes: listen = \"127.0.0.1:1\""]);
        check_file("login_timeout = 5s", &["p.toml, line 1: text needs quotes: login_timeout = \"5s\""]);
        check_file("tls_key = /a/b.pem", &["p.toml, line 1: text needs quotes: tls_key = \"/a/b.pem\""]);
        check_file(
            "origins = [https://a.b, https://c.d]",
            &["p.toml, line 1: text needs quotes, in a list, too: origins = [\"https://a.b\", \"https://c.d\"]"],
        );
        check_file(
            "page = yes",
            &["p.toml, line 1: text needs quotes, and page = yes is none of its values, expected true or false"],
        );
        check_file("auth = ", &["p.toml, line 1: auth has no value, expected none, jwt or http"]);
        check_file("any = thing", &["p.toml, line 1: text needs quotes, as in key = \"text\""]);
        let secret = "0123456789abcdef0123456789abcdef-x";
        check_file(&format!("jwt_secret = {secret}"), &["p.toml, line 1: text needs quotes: jwt_secret = \"…\""]);
        check_file(
            "hook_secret = short-x",
            &[
                "p.toml, line 1: text needs quotes, and hook_secret = (hidden) is none of its values, expected none, or one \
               line of 32 to 1024 bytes without its end or a byte order mark",
            ],
        );
        // Other faults keep the words of the parser.
        check_file("auth = \"jwt", &["p.toml, line 1: invalid basic string, expected `\"`"]);
    }

    #[test]
    fn what_depends_on_the_machine_is_a_comment_unless_it_was_set() {
        let shown = |pairs: &[(&str, &str)]| {
            let text = load_toml(&Settings::default(), None, &variables(pairs)).expect("sound settings");
            let lines =
                text.lines().filter(|line| ["shards =", "memory_bytes_max ="].iter().any(|key| line.contains(key)));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let here = Config::default();
        let shards = format!("# shards = {}  # auto on this machine: the cores", here.shards);
        assert_eq!(shown(&[])[0], shards);
        assert_eq!(shown(&[("POMBO_SHARDS", "auto")])[0], shards);
        assert!(shown(&[])[1].starts_with("# memory_bytes_max = \""), "{:?}", shown(&[]));
        let same = here.shards.to_string();
        assert_eq!(shown(&[("POMBO_SHARDS", &same)])[0], format!("shards = {same}"), "it was set");
        assert_eq!(shown(&[("POMBO_MEMORY_BYTES_MAX", "3MiB")])[1], "memory_bytes_max = \"3MiB\"");
    }

    #[test]
    fn tells_what_is_wrong_with_a_token() {
        check_variables(
            &[("POMBO_CONTROL_TOKENS", "a push short")],
            &[
                "control_tokens = (hidden) (from POMBO_CONTROL_TOKENS): expected none, or one or more of NAME RIGHTS TOKEN, such \
               as backend push+query and 32 or more letters, digits or -._~+/=; of token 1 the third word, the token, has 5 \
               characters, expected 32 to 1024; `openssl rand -hex 32` makes a good one",
            ],
        );
    }

    #[test]
    fn reads_variables() {
        check_variables(&[("POMBO_SHARDS", "4"), ("HOME", "/"), ("POMBOX", "1"), ("pombo_x", "1")], &[]);
        check_variables(&[("POMBO_LISTEN", "127.0.0.1:0, unix:/x"), ("POMBO_PATHS", "/a,/b")], &[]);
        check_variables(
            &[("POMBO_SHARDS", ""), ("POMBO_SHARD", "4"), ("POMBO_PORT", "80"), ("POMBO_CONFI", "x")],
            &[
                "POMBO_SHARD (from the environment): no such setting, did you mean POMBO_SHARDS?",
                "POMBO_PORT (from the environment): no such setting",
                "POMBO_CONFI (from the environment): no such setting, did you mean POMBO_CONFIG?",
                "shards =  (from POMBO_SHARDS): expected auto, or 1 to 256",
            ],
        );
    }

    #[test]
    fn finds_one_setting_for_who_calls_a_node() {
        #[track_caller]
        fn check(toml: &str, pairs: &[(&str, &str)], expected: Option<&str>) {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("p.toml");
            std::fs::write(&path, toml).expect("the folder is writable");
            let setting = Setting::of("control").expect("a setting");
            let found = find(setting, Some(&path), &variables(pairs)).map(|found| found.map(|(value, _)| value));
            assert_eq!(found.map_err(|faults| faults.to_string()), Ok(expected.map(str::to_owned)), "{toml} {pairs:?}");
        }
        check("", &[], None);
        check("control = 'unix:/x'\nshards = 0\nshard = 1", &[], Some("unix:/x"));
        check("control = '127.0.0.1:1'", &[("POMBO_CONTROL", "https://x:2"), ("POMBO_X", "")], Some("https://x:2"));
        check("control", &[("POMBO_CONTROL", "off")], Some("off"));
        let (setting, none) = (Setting::of("control").expect("a setting"), Path::new("no/such.toml"));
        assert!(find(setting, Some(none), &[]).is_err());
        assert!(find(setting, None, &variables(&[("POMBO_CONFIG", "no/such.toml")])).is_err());
        check_variables(&[("POMBO_CONTROL_TOKEN", "x"), ("POMBO_URL", "http://127.0.0.1:1235")], &[]);
    }

    #[test]
    fn leaves_the_variables_of_an_orchestrator_alone() {
        check_variables(
            &[
                ("POMBO_SERVICE_HOST", "10.0.0.1"),
                ("POMBO_SERVICE_PORT", "1234"),
                ("POMBO_SERVICE_PORT_WS", "1234"),
                ("POMBO_PORT", "tcp://10.0.0.1:1234"),
                ("POMBO_PORT_1234_TCP_ADDR", "10.0.0.1"),
                ("POMBO_EU_SERVICE_HOST", "10.0.0.1"),
            ],
            &[],
        );
    }

    #[test]
    fn tells_relations_with_where_they_were_written() {
        check_variables(
            &[("POMBO_OUTBOX_BYTES_MAX", "1000")],
            &[
                "outbox_bytes_max = 1000 (from POMBO_OUTBOX_BYTES_MAX): expected message_bytes_max + 14 = 1048590 or more",
            ],
        );
        check_variables(
            &[("POMBO_MESSAGE_BYTES_MAX", "4MiB")],
            &["outbox_bytes_max = 2MiB (the default): expected message_bytes_max + 14 = 4194318 or more"],
        );
        // Without a valid bound of messages, the outbox can't be compared with it.
        check_variables(
            &[("POMBO_OUTBOX_BYTES_MAX", "1000"), ("POMBO_MESSAGE_BYTES_MAX", "x")],
            &["message_bytes_max = x (from POMBO_MESSAGE_BYTES_MAX): expected a size of 1 to 1GiB"],
        );
    }

    #[cfg(unix)]
    #[test]
    fn tells_text_that_is_not_utf8() {
        use std::os::unix::ffi::OsStringExt;
        let variables = [("POMBO_SHARDS".into(), OsString::from_vec(b"\xff".to_vec()))];
        let faults = load(&Settings::default(), None, &variables).expect_err("the value is not UTF-8");
        assert_eq!(faults.to_string(), "shards = \u{fffd} (from POMBO_SHARDS): expected UTF-8 text");
    }

    #[test]
    fn finds_near_names() {
        let near = |wrong: &str| nearest(wrong, SETTINGS.iter().map(|setting| setting.key.to_owned()));
        assert_eq!(near("outbox-bytes-max").as_deref(), Some("outbox_bytes_max"));
        assert_eq!(near("log_levle").as_deref(), Some("log_level"));
        assert_eq!(near("hards").as_deref(), Some("shards"));
        assert_eq!(near("shrads").as_deref(), Some("shards"));
        assert_eq!(near("shxyzs"), None, "three of six characters are too many");
        assert_eq!(near("x"), None);
        assert_eq!(near(""), None);
        assert_eq!(near(&"x".repeat(10_000)), None);
        assert_eq!(near(&format!("shards{}", " ".repeat(10_000))), None);
    }
}
