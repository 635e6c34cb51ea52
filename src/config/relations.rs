//! Relations between settings: values that contradict each other.

use super::{Config, Fault, Listen, Origin};

/// Longest header of a frame that a server sends or receives (RFC 6455, section 5.2).
pub(super) const FRAME_HEADER_BYTES_MAX: usize = 14;

impl Config {
    /// Returns the faults of values that contradict each other, except of settings that already have one of `faults`.
    pub(super) fn relation_faults(&self, faults: &[Fault], origin: impl Fn(&str) -> Origin) -> Vec<Fault> {
        let sound = |key| !faults.iter().any(|fault| matches!(fault, Fault::Value { key: at, .. } if *at == key));
        let frame_bytes_max = self.message_bytes_max.saturating_add(FRAME_HEADER_BYTES_MAX);
        let uids = self.login_reply.matches("{uid}").count();
        let login_reply_bytes_max = (self.login_reply.len() - uids * "{uid}".len() + FRAME_HEADER_BYTES_MAX)
            .saturating_add(uids.saturating_mul(self.uid_bytes_max));
        let mut pairs = self.listen.iter().enumerate();
        let twice = pairs.find(|(index, listen)| self.listen[..*index].iter().any(|other| listen.overlaps(other)));
        let shown = |twice: Option<(usize, &Listen)>| twice.map(|(_, listen)| listen.to_string()).unwrap_or_default();
        let relations = [
            (
                "outbox_bytes_max",
                self.outbox_bytes_max < frame_bytes_max && sound("message_bytes_max"),
                format!("message_bytes_max + {FRAME_HEADER_BYTES_MAX} = {frame_bytes_max} or more"),
            ),
            (
                "login_reply",
                self.outbox_bytes_max < login_reply_bytes_max && sound("outbox_bytes_max") && sound("uid_bytes_max"),
                format!(
                    "a text that fits an outbox: with the longest uid its frame takes {login_reply_bytes_max} bytes, and \
                     outbox_bytes_max is {}",
                    self.outbox_bytes_max
                ),
            ),
            (
                "login_bytes_max",
                self.login_bytes_max < self.uid_bytes_max && sound("uid_bytes_max"),
                format!("uid_bytes_max = {} or more", self.uid_bytes_max),
            ),
            ("listen", twice.is_some(), format!("{} once: it can't be listened on twice", shown(twice))),
            (
                "tls_certificate",
                self.tls_certificate.is_none() && self.tls_key.is_some(),
                "a file, since tls_key is set".to_owned(),
            ),
            (
                "tls_key",
                self.tls_key.is_none() && self.tls_certificate.is_some(),
                "a file, since tls_certificate is set".to_owned(),
            ),
            (
                "trusted_proxies",
                self.proxy_protocol && self.trusted_proxies.is_empty(),
                "the proxies that proxy_protocol is spoken with".to_owned(),
            ),
        ];
        let others = self.auth_relations().into_iter().chain(self.control_relations()).chain(self.hook_relations());
        let relations = relations.into_iter().chain(others);
        let broken =
            relations.filter(|(key, broken, _)| *broken && sound(key) && needs(key).iter().all(|key| sound(key)));
        broken.map(|(key, _, expected)| self.fault(key, origin(key), expected)).collect()
    }
}

/// Returns the settings that `key` may lack: one of them that has a fault is not set, and its fault says so already.
fn needs(key: &str) -> &'static [&'static str] {
    match key {
        "auth" => &["jwt_key_files", "jwt_secret_file", "jwt_secret"],
        "hook_url" => &["hook_secret_file", "hook_secret"],
        _ => &[],
    }
}
