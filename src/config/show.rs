//! The settings as a TOML file, and as a list for the console.

use super::form::AUTO;
use super::{Config, Reload, SETTINGS, Setting};

/// A setting as a running node may show it: no secret is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingInForce {
    /// TOML key.
    pub key: &'static str,
    /// Heading of its group.
    pub group: &'static str,
    /// As a flag takes it; `(hidden)` for a secret that is set, and in place of the query of an address.
    pub value: String,
    /// The default, in words where it depends on the machine.
    pub default: String,
    /// Whether the value differs from the default.
    pub is_changed: bool,
    /// Whether a reload can change it.
    pub is_live: bool,
    /// What it does.
    pub help: &'static str,
}

impl SettingInForce {
    fn of(setting: &Setting, config: &Config, default: &Config) -> Self {
        Self {
            key: setting.key,
            group: setting.group,
            value: setting.text(config),
            default: setting.default_text(),
            is_changed: setting.show(config) != setting.show(default),
            is_live: setting.reload == Reload::Live,
            help: setting.help,
        }
    }
}

impl Config {
    /// Returns every setting with its value, without secrets, in the order of the table.
    pub fn in_force(&self) -> Vec<SettingInForce> {
        let default = Self::default();
        SETTINGS.iter().map(|setting| SettingInForce::of(setting, self, &default)).collect()
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn what_is_in_force_holds_no_secret() {
        let secret = "0123456789abcdef0123456789ABCDEF";
        let mut config = Config {
            auth_url: Some(format!("http://127.0.0.1:8080/login?key={secret}").parse().expect("an address")),
            jwt_secret: Some(Secret::new(secret)),
            control_tokens: vec![format!("a push {secret}").parse().expect("a token")],
            ..Config::default()
        };
        config.connections_max = 7;
        let shown = config.in_force();
        assert!(!format!("{shown:?}").contains(&secret[..8]), "{shown:?}");
        assert_eq!(shown.len(), SETTINGS.len());
        let value = |key: &str| {
            let setting = shown.iter().find(|setting| setting.key == key).expect("it is in the table");
            (setting.value.as_str(), setting.is_changed)
        };
        assert_eq!(value("auth_url"), ("http://127.0.0.1:8080/login?(hidden)", true));
        assert_eq!(value("jwt_secret"), ("(hidden)", true));
        assert_eq!(value("control_tokens"), ("(hidden)", true));
        assert_eq!(value("connections_max"), ("7", true));
        assert!(!value("handshakes_max").1);
    }

    /// A secret setting whose form does not say so would be shown.
    #[test]
    fn what_is_named_like_a_secret_is_one() {
        for setting in SETTINGS {
            let is_like_one = ["secret", "token", "password"].iter().any(|word| setting.key.contains(word));
            assert!(!is_like_one || setting.secret || setting.key.contains("file"), "{}", setting.key);
        }
    }
}
