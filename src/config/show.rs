//! The settings as a TOML file.

use super::{Config, SETTINGS};

impl Config {
    /// Shows every setting as TOML, with its help text. Loading the text gives an equal config, except for secrets.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut group = "";
        for setting in SETTINGS {
            if setting.group != group {
                let gap = if group.is_empty() { "" } else { "\n" };
                group = setting.group;
                text += &format!("{gap}## {group}\n");
            }
            let (key, value) = (setting.key, setting.show(self));
            let line = match setting.concealed(self) {
                Some(_) => format!("# {key} is set, and not shown"),
                None => format!("{key} = {value}"),
            };
            text += &format!("\n# {}.\n# {}.\n{line}\n", setting.help, setting.expected());
        }
        text
    }
}
