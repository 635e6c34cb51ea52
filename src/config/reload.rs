//! What a running node takes over from settings that were read again.

use super::{Config, Reload, SETTINGS};

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys that differed and were taken over.
    pub taken: Vec<&'static str>,
    /// Keys that differed and keep their old value until the node starts again.
    pub needs_restart: Vec<&'static str>,
}

impl Config {
    /// Takes over from `new` what can change while the node runs.
    ///
    /// Returns the settings that hold from now on, and which keys differed. `new` must have been checked; then
    /// the result is sound too: settings that depend on each other are taken together, or not at all.
    #[must_use]
    pub fn reload(&self, new: &Config) -> (Config, Reloaded) {
        let mut next = self.clone();
        let mut reloaded = Reloaded::default();
        for setting in SETTINGS.iter().filter(|setting| setting.show(self) != setting.show(new)) {
            let is_of_another_method = self.auth != new.auth && is_of_a_method(setting.key);
            // A node whose control still listens where others can connect must not lose its tokens to settings for
            // another address.
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

/// Whether a setting belongs to one method of authentication, which changes with a restart only: what `auth` names in
/// the new settings may have no use for a key or an address that the node still lives by.
fn is_of_a_method(key: &str) -> bool {
    key.starts_with("jwt_") || key.starts_with("auth_url")
}
