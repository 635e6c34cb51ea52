//! Reloads: which settings a running node takes from a new config.

use super::{Config, Reload, SETTINGS};

/// The result of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys that differed and were taken over.
    pub taken: Vec<&'static str>,
    /// Keys that differed and keep their old value until the node starts again.
    pub needs_restart: Vec<&'static str>,
}

impl Config {
    /// Takes the settings from `new` that can change while the node runs.
    ///
    /// Returns the config that applies from now on, and the keys that differed. `new` must have been checked; then
    /// the result is valid too: settings that depend on each other are taken together, or not at all.
    #[must_use]
    pub fn reload(&self, new: &Config) -> (Config, Reloaded) {
        let mut next = self.clone();
        let mut reloaded = Reloaded::default();
        for setting in SETTINGS.iter().filter(|setting| setting.show(self) != setting.show(new)) {
            let is_of_another_method = self.auth != new.auth && is_of_a_method(setting.key);
            // The new settings may be for another address, which needs no tokens. A node whose control still listens
            // where other machines can connect must keep its own.
            let is_of_another_address = self.control != new.control && setting.key.starts_with("control_tokens");
            match setting.reload {
                Reload::Live if !is_of_another_method && !is_of_another_address => {
                    setting.take(&mut next, new);
                    reloaded.taken.push(setting.key);
                }
                Reload::Live | Reload::Restart => reloaded.needs_restart.push(setting.key),
            }
        }
        (next, reloaded)
    }
}

/// Returns whether a setting belongs to one method of authentication. The method, `auth`, changes with a restart only. If
/// the new settings name another method, they may lack a key or an address that the running node still needs.
fn is_of_a_method(key: &str) -> bool {
    key.starts_with("jwt_") || key.starts_with("auth_url")
}
