//! Faults of settings: each with its key, its value, its origin, and the expected values.

use std::fmt;
use std::path::PathBuf;

/// Where a setting's value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: it is the default.
    Default,
    /// In a [`Config`](super::Config) that was built by hand.
    Code,
    /// On the command line, with this flag.
    Flag(String),
    /// In this environment variable.
    Variable(String),
    /// In an environment variable that is not a setting's.
    Environment,
    /// In a file.
    File {
        /// The file.
        path: PathBuf,
        /// The line of the key, from 1.
        line: usize,
    },
    /// In new settings, of which a reload can't take all.
    Reload {
        /// The settings that differ, and keep their old value until the node starts again.
        kept: Vec<&'static str>,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default"),
            Self::Code => f.write_str("from the program"),
            Self::Environment => f.write_str("from the environment"),
            Self::Flag(name) | Self::Variable(name) => write!(f, "from {name}"),
            Self::File { path, line } => write!(f, "from {}, line {line}", path.display()),
            Self::Reload { kept } => {
                write!(f, "beside the running node's {}; a restart takes all of the new settings", kept.join(", "))
            }
        }
    }
}

/// One fault of the settings; shown as one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A value is malformed or out of range, or contradicts another setting.
    #[error("{key} = {} ({origin}): expected {expected}", line(value))]
    Value {
        /// The setting.
        key: &'static str,
        /// What was written.
        value: String,
        /// Where.
        origin: Origin,
        /// The values that are allowed.
        expected: String,
    },
    /// A key or variable that names no setting.
    #[error("{} ({origin}): no such setting{}", line(name), near.as_ref().map(|name| format!(", did you mean {name}?")).unwrap_or_default())]
    Unknown {
        /// The name as written.
        name: String,
        /// Where.
        origin: Origin,
        /// The name of a setting that is similar.
        near: Option<String>,
    },
    /// A table of TOML, such as `[pombo]`, that names no setting.
    #[error("{} ({origin}): it is a table, expected settings outside of any table, such as shards = 2", line(name))]
    Table {
        /// The name as written.
        name: String,
        /// Where.
        origin: Origin,
    },
    /// The file can't be read.
    #[error("cannot read the settings in {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{}, line {line_number}: {}", path.display(), line(reason))]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line of the error, from 1.
        line_number: usize,
        /// What the parser said.
        reason: String,
    },
}

/// All faults of the settings, at least one; shown as one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub(super) Vec<Fault>);

impl Faults {
    /// Returns the faults in the order of the settings.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Makes a user's text fit into a line: escapes control characters, and cuts it at 200 characters.
fn line(text: &str) -> String {
    const CHARACTERS_MAX: usize = 200;
    let mut shown = String::new();
    for character in text.chars().take(CHARACTERS_MAX) {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    if text.chars().nth(CHARACTERS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_one_line() {
        let fault = Fault::Value {
            key: "shards",
            value: format!("a\n{}", "x".repeat(300)),
            origin: Origin::Flag("--shards".to_owned()),
            expected: "1 to 256".to_owned(),
        };
        let shown = fault.to_string();
        assert!(shown.starts_with("shards = a\\nxxx"), "{shown}");
        assert!(shown.ends_with("x… (from --shards): expected 1 to 256"), "{shown}");
    }

    #[test]
    fn faults_are_a_line_each() {
        let fault = |name: &str, near: Option<&str>| Fault::Unknown {
            name: name.to_owned(),
            origin: Origin::File { path: "p.toml".into(), line: 3 },
            near: near.map(str::to_owned),
        };
        let faults = Faults(vec![fault("shard", Some("shards")), fault("x", None)]);
        let lines = "shard (from p.toml, line 3): no such setting, did you mean shards?\n\
                     x (from p.toml, line 3): no such setting";
        assert_eq!(faults.to_string(), lines);
    }
}
