//! Settings of the hook, which posts presence events to a service.

use std::path::PathBuf;
use std::time::Duration;

use super::{AuthUrl, Config, Secret};

/// The form of the hook's address, for error messages.
pub(super) const HOOK_URL_EXAMPLE: &str = "http://127.0.0.1:8080/hook";

/// The settings of the hook; see the fields of the same names in [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookSettings {
    /// The service.
    pub url: AuthUrl,
    /// File with the root certificates for the service, in place of the system's.
    pub url_ca: Option<PathBuf>,
    /// Secret that batches are signed with.
    pub secret: Option<Secret>,
    /// File with such secrets.
    pub secret_file: Option<PathBuf>,
    /// How long a uid may be gone before it counts as offline.
    pub grace: Duration,
    /// Whether a return within that time makes an event.
    pub returns: bool,
    /// How long an event waits for others.
    pub delay: Duration,
    /// Most events in a batch.
    pub batch_max: usize,
    /// Time that an attempt may take.
    pub timeout: Duration,
    /// How long a batch is tried.
    pub retry_time: Duration,
    /// Most events that wait.
    pub queue_max: usize,
}

impl Config {
    /// Returns the settings of the hook, if there is one.
    pub(crate) fn hook_settings(&self) -> Option<HookSettings> {
        Some(HookSettings {
            url: self.hook_url.clone()?,
            url_ca: self.hook_url_ca.clone(),
            secret: self.hook_secret.clone(),
            secret_file: self.hook_secret_file.clone(),
            grace: self.hook_grace,
            returns: self.hook_returns,
            delay: self.hook_delay,
            batch_max: self.hook_batch_max,
            timeout: self.hook_timeout,
            retry_time: self.hook_retry_time,
            queue_max: self.hook_queue_max,
        })
    }

    /// Returns the relations between settings of the hook: the key, whether the relation is broken, and the expected value.
    pub(super) fn hook_relations(&self) -> [(&'static str, bool, String); 1] {
        let is_unsigned = self.hook_secret.is_none() && self.hook_secret_file.is_none();
        [(
            "hook_url",
            self.hook_url.is_some() && is_unsigned,
            "a secret to sign with, too: hook_secret_file or hook_secret".to_owned(),
        )]
    }
}
