//! The rules of style that neither rustfmt nor clippy knows, and the direction of imports.
//!
//! Reads the sources as lines of text: rustfmt has put them into one shape. Each breach is told as `file:line`.

use std::fmt::Write;
use std::fs;
use std::iter;
use std::path::Path;

/// Each room, and the rooms that it may import; what is below knows nothing of what is above.
///
/// `docs/architecture.md` says what each holds.
const ROOMS: &[(&str, &[&str])] = &[
    ("uid", &[]),
    ("message", &[]),
    ("peer", &[]),
    ("rights", &[]),
    ("roots", &["bounded_file"]),
    ("sync", &[]),
    ("frame", &["message", "uid"]),
    ("protocol", &["frame", "message", "rights", "uid"]),
    ("mailbox", &["message", "sync", "uid"]),
    ("router", &["mailbox", "message", "uid"]),
    ("config", &["bounded_file", "message", "protocol", "rights", "uid"]),
    ("metrics", &["frame"]),
    ("presence", &[]),
    ("backoff", &[]),
    ("blocking", &[]),
    ("bounded_file", &[]),
    ("linger", &[]),
    ("watched_files", &["blocking"]),
    ("clock", &[]),
    ("log_sink", &[]),
    ("vital", &["log_sink"]),
    ("descriptors", &[]),
    ("host", &[]),
    ("refused_clients", &[]),
    ("trace", &[]),
    ("service", &["config", "roots"]),
    (
        "shard",
        &[
            "clock", "config", "frame", "mailbox", "message", "metrics", "peer", "presence", "protocol", "rights",
            "router", "uid",
        ],
    ),
    ("listener", &["config", "peer"]),
    ("dispatcher", &["config", "frame", "mailbox", "message", "metrics", "presence", "router", "shard", "uid"]),
    (
        "gateway",
        &[
            "bounded_file",
            "clock",
            "config",
            "descriptors",
            "frame",
            "host",
            "linger",
            "listener",
            "mailbox",
            "message",
            "metrics",
            "peer",
            "protocol",
            "refused_clients",
            "rights",
            "roots",
            "router",
            "service",
            "shard",
            "trace",
            "uid",
            "vital",
            "watched_files",
        ],
    ),
    (
        "control",
        &[
            "backoff",
            "bounded_file",
            "clock",
            "config",
            "descriptors",
            "dispatcher",
            "frame",
            "gateway",
            "host",
            "linger",
            "listener",
            "log_sink",
            "message",
            "metrics",
            "presence",
            "refused_clients",
            "roots",
            "service",
            "shard",
            "trace",
            "uid",
            "vital",
            "watched_files",
        ],
    ),
    (
        "server",
        &[
            "blocking",
            "clock",
            "config",
            "control",
            "descriptors",
            "dispatcher",
            "frame",
            "gateway",
            "listener",
            "log_sink",
            "mailbox",
            "message",
            "metrics",
            "presence",
            "protocol",
            "refused_clients",
            "rights",
            "router",
            "shard",
            "uid",
            "vital",
        ],
    ),
    (
        "cli",
        &[
            "backoff",
            "blocking",
            "bounded_file",
            "clock",
            "config",
            "descriptors",
            "frame",
            "gateway",
            "log_sink",
            "message",
            "metrics",
            "roots",
            "router",
            "server",
            "service",
            "uid",
        ],
    ),
];

/// Crates that some rooms only may import, and these rooms.
const CRATES: &[(&str, &[&str])] = &[
    // The reader and writer of frames are our own; tungstenite has the accept key, and a client's handshake.
    ("tungstenite", &["cli", "gateway"]),
];

/// Longest file of a program, without its tests, and longest function, in lines.
const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 90;

/// Names of files and modules that say nothing: a thing lives with its owner, or earns a room with a name.
const EMPTY_NAMES: &[&str] = &["common", "helper", "helpers", "manager", "misc", "types", "util", "utils"];

/// How many lines above a weak ordering its reason may stand.
const REASON_LINES: usize = 6;

struct Source {
    /// Relative to the root.
    path: String,
    lines: Vec<String>,
    /// How many lines come before the file's tests.
    untested: usize,
}

impl Source {
    /// First part of the path below `src`.
    fn room(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        Some(inside.split_once('/').map_or(inside.trim_end_matches(".rs"), |(room, _)| room))
    }

    /// Whether it is part of a program, and not of its tests, benches or examples.
    fn is_of_a_program(&self) -> bool {
        self.path.starts_with("src/") || self.path.split('/').nth(2) == Some("src")
    }

    /// Lines of code without their comments, numbered from one.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines.iter().enumerate().map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
    }
}

/// Every Rust file of the workspace, but this one.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    let mut folders: Vec<_> = ["benches", "crates", "examples", "src", "tests"].map(|folder| root.join(folder)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the package") {
            let path = entry.expect("an entry of it").path();
            if path.ends_with("target") {
                // What a build left there is not ours.
                continue;
            } else if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with(file!()) {
                let text = fs::read_to_string(&path).expect("sources are UTF-8");
                let lines: Vec<_> = text.lines().map(str::to_owned).collect();
                let tests = lines.windows(2).position(|pair| pair[0].starts_with("#[cfg(") && pair[1] == "mod tests {");
                let path = path.strip_prefix(root).expect("found below it").to_str().expect("ASCII names").to_owned();
                sources.push(Source { path, untested: tests.unwrap_or(lines.len()), lines });
            }
        }
    }
    sources
}

/// Fails with every breach that `find` told.
#[track_caller]
fn check(find: impl Fn(&Source, &mut dyn FnMut(usize, &str))) {
    let mut breaches = String::new();
    for source in sources() {
        find(&source, &mut |line, what| {
            writeln!(breaches, "{}:{line}: {what}", source.path).expect("a String takes all");
        });
    }
    assert!(breaches.is_empty(), "\n{breaches}");
}

#[test]
fn rooms_import_in_one_direction() {
    check(|source, breach| {
        let Some(room) = source.room().filter(|room| !["lib", "main"].contains(room)) else { return };
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            return breach(1, &format!("room `{room}` is not in the table of tests/tidy.rs"));
        };
        for (number, line) in source.code().take(source.untested) {
            for after in line.split("crate::").skip(1) {
                let imported = after.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
                if imported.is_empty() {
                    breach(number, "imports several rooms in one line, or all: one line for each");
                } else if imported != room && !allowed.contains(&imported) {
                    breach(number, &format!("`{room}` may not import `{imported}`"));
                }
                if room == "gateway" && after.strip_prefix("shard::").is_some_and(|item| item.contains("::")) {
                    breach(number, "`gateway` may not import the insides of `shard`");
                }
            }
        }
    });
}

#[test]
fn rooms_of_the_table_exist() {
    let sources = sources();
    let is_room = |name: &str| sources.iter().any(|source| source.room() == Some(name));
    let named = ROOMS.iter().flat_map(|(room, allowed)| iter::once(room).chain(*allowed));
    let unknown: Vec<_> =
        named.chain(CRATES.iter().flat_map(|(_, rooms)| *rooms)).filter(|name| !is_room(name)).collect();
    assert!(unknown.is_empty(), "tests/tidy.rs names rooms that src/ does not have: {unknown:?}");
}

#[test]
fn crates_stay_in_their_rooms() {
    check(|source, breach| {
        let Some(room) = source.room() else { return };
        for (number, line) in source.code().take(source.untested) {
            for (name, rooms) in CRATES {
                if line.contains(&format!("{name}::")) && !rooms.contains(&room) {
                    breach(number, &format!("`{room}` may not import the crate `{name}`"));
                }
            }
        }
    });
}

#[test]
fn every_file_says_what_it_holds() {
    check(|source, breach| {
        if !source.lines.first().is_some_and(|line| line.starts_with("//! ")) {
            breach(1, "does not open with `//!` and a sentence");
        }
    });
}

#[test]
fn files_and_functions_are_short() {
    check(|source, breach| {
        // One flat struct, a field with its docs for each setting: there is no seam in it.
        let is_the_settings = source.path == "src/config/mod.rs";
        if source.is_of_a_program() && source.untested > FILE_LINES_MAX && !is_the_settings {
            let length = source.untested;
            breach(1, &format!("has {length} lines without tests, split it at a seam (at most {FILE_LINES_MAX})"));
        }
        for (start, line) in source.lines.iter().enumerate() {
            let code = line.trim_start();
            let indent = &line[..line.len() - code.len()];
            if code.starts_with("//") || !(code.starts_with("fn ") || code.contains(" fn ")) {
                continue;
            }
            let end = format!("{indent}}}");
            let length = source.lines[start..].iter().position(|line| *line == end).map_or(1, |last| last + 1);
            let declared = source.lines[start..].iter().find(|line| line.ends_with(['{', ';', '}']));
            if length > FUNCTION_LINES_MAX && declared.is_some_and(|line| line.ends_with('{')) {
                breach(start + 1, &format!("function has {length} lines (at most {FUNCTION_LINES_MAX})"));
            }
        }
    });
}

#[test]
fn names_say_something() {
    check(|source, breach| {
        for part in source.path.trim_end_matches(".rs").split('/') {
            if EMPTY_NAMES.contains(&part) {
                breach(1, &format!("`{part}` names nothing"));
            }
        }
        for (number, line) in source.code() {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            while let Some(word) = words.next() {
                if !["fn", "mod", "struct", "enum", "trait"].contains(&word) {
                    continue;
                }
                let name = words.next().unwrap_or_default();
                let lower = name.to_lowercase();
                if lower.ends_with("manager") || (word == "mod" && EMPTY_NAMES.contains(&name)) {
                    breach(number, &format!("`{name}` names nothing"));
                }
                if name.starts_with("get_") && word == "fn" {
                    breach(number, &format!("`{name}`: without `get_`"));
                }
            }
        }
    });
}

#[test]
fn what_is_left_to_do_is_an_issue() {
    check(|source, breach| {
        for (number, line) in source.lines.iter().enumerate() {
            if ["TODO", "FIXME", "XXX"].iter().any(|mark| line.contains(mark)) && !line.contains('#') {
                breach(number + 1, "something is left to do without the number of an issue");
            }
        }
    });
}

#[test]
fn nothing_locks_on_the_way_of_a_message() {
    check(|source, breach| {
        if !source.room().is_some_and(|room| ["frame", "mailbox", "protocol", "router", "shard"].contains(&room)) {
            return;
        }
        let is_test = source.path.starts_with("src/shard/tests/");
        for (number, line) in source.code().take(source.untested) {
            if ["Condvar", "Mutex", "OnceLock", "RwLock"].iter().any(|lock| line.contains(lock)) {
                breach(number, "a lock on the way of a message: send mail to the state's owner");
            }
            // Those of flume have a lock inside. The mailbox's rings are crossbeam's, which have none.
            let receives = [".try_recv(", ".recv(", ".is_disconnected("].iter().any(|call| line.contains(call));
            if source.room() == Some("shard") && receives && !is_test && source.path != "src/shard/inlet.rs" {
                breach(
                    number,
                    "a shard receives from a queue with a lock: only shard/inlet.rs does, after an entry was announced",
                );
            }
        }
    });
}

/// Ways to read or write the time of day that panic at times which they were not made for.
const CLOCK_READERS: &[&str] =
    &["SystemTime::now", "UNIX_EPOCH", "UnixTime::now", "get_current_timestamp", "format_rfc3339"];

#[test]
fn one_room_reads_the_wall_clock() {
    check(|source, breach| {
        let is_test = source.path.starts_with("src/shard/tests/");
        if is_test || source.room().is_none_or(|room| room == "clock") {
            return;
        }
        for (number, line) in source.code().take(source.untested) {
            for reader in CLOCK_READERS.iter().filter(|reader| line.contains(**reader)) {
                breach(number, &format!("`{reader}` may panic, by what the clock shows: ask the room `clock`"));
            }
        }
    });
}

#[test]
fn weak_orderings_say_why() {
    const WEAK: [&str; 4] = ["Relaxed", "Acquire", "Release", "AcqRel"];
    check(|source, breach| {
        if source.room().is_none() {
            return;
        }
        for (number, line) in source.code().take(source.untested) {
            if !WEAK.iter().any(|weak| line.contains(&format!("Ordering::{weak}"))) {
                continue;
            }
            let above = &source.lines[number.saturating_sub(REASON_LINES)..number];
            let reasons: Vec<_> = above.iter().filter_map(|line| line.split_once("//")).collect();
            let says = |word: &str| reasons.iter().any(|(_, reason)| reason.to_lowercase().contains(word));
            if !["relaxed", "acquire", "release"].iter().any(|word| says(word)) {
                breach(
                    number,
                    "an ordering weaker than SeqCst without a comment that says why, and what it pairs with",
                );
            }
        }
    });
}
