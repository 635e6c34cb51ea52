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
    /// the result is sound too, since settings that depend on each other are all taken.
    #[must_use]
    pub fn reload(&self, new: &Config) -> (Config, Reloaded) {
        let mut next = self.clone();
        let mut reloaded = Reloaded::default();
        for setting in SETTINGS.iter().filter(|setting| setting.show(self) != setting.show(new)) {
            match setting.reload {
                Reload::Live => {
                    setting.take(&mut next, new);
                    reloaded.taken.push(setting.key);
                }
                Reload::Restart => reloaded.needs_restart.push(setting.key),
            }
        }
        (next, reloaded)
    }
}
