//! The settings as a TOML file.

use super::form::AUTO;
use super::{Config, SETTINGS, Setting};

impl Config {
    /// Shows every setting as TOML, with its help text. Loading the text gives an equal config, except for secrets.
    ///
    /// A default that depends on the machine is a comment with its value here, so that the text is a file for other machines,
    /// too.
    pub fn to_toml(&self) -> String {
        let default = Self::default();
        self.to_toml_with(|setting| setting.show(self) != setting.show(&default))
    }

    /// As [`to_toml`](Self::to_toml); a setting that depends on the machine is a comment unless `is_set` says that a user has
    /// set it.
    pub(super) fn to_toml_with(&self, is_set: impl Fn(&Setting) -> bool) -> String {
        let mut text = String::new();
        let mut group = "";
        for setting in SETTINGS {
            if setting.group != group {
                let gap = if group.is_empty() { "" } else { "\n" };
                group = setting.group;
                text += &format!("{gap}## {group}\n");
            }
            let (key, value) = (setting.key, setting.show(self));
            let line = match (setting.concealed(self), setting.computed()) {
                (Some(_), _) => format!("# {key} is set, and not shown"),
                (None, Some(words)) if !is_set(setting) => {
                    format!("# {key} = {value}  # {AUTO} on this machine: {words}")
                }
                (None, _) => format!("{key} = {value}"),
            };
            text += &format!("\n# {}.\n# {}.\n{line}\n", setting.help, setting.expected());
        }
        text
    }
}
