//! Reloads: which settings a running node takes from a new config.

use super::{Config, Faults, Origin, Reload, SETTINGS};

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
    /// Returns the config that applies from now on, and the keys that differed. Both configs must have been checked; then
    /// the result is valid too.
    ///
    /// # Errors
    /// When the live settings of `new` contradict old values that only a restart can change. Then nothing may be taken:
    /// the old config stays as a whole.
    pub fn reload(&self, new: &Config) -> Result<(Config, Reloaded), Faults> {
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
        let faults = next.faults(|_| Origin::Reload { kept: reloaded.needs_restart.clone() });
        if faults.is_empty() { Ok((next, reloaded)) } else { Err(Faults(faults)) }
    }
}

/// Returns whether a setting belongs to one method of authentication. The method, `auth`, changes with a restart only. If
/// the new settings name another method, they may lack a key or an address that the running node still needs.
fn is_of_a_method(key: &str) -> bool {
    key.starts_with("jwt_") || key.starts_with("auth_url")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::super::{Auth, Fault, Origins, Setting, Settings, load};
    use super::*;

    /// Settings that depend on each other, with values of which many pairs don't go together.
    const VALUES: &[(&str, &[&str])] = &[
        ("listen", &["127.0.0.1:1", "0.0.0.0:1", "unix:/x", "127.0.0.1:2"]),
        ("origins", &["auto", "any", "https://example.com"]),
        ("trusted_proxies", &["none", "10.0.0.0/8"]),
        ("proxy_protocol", &["false", "true"]),
        ("auth", &["none", "jwt", "http"]),
        ("insecure_open", &["false", "true"]),
        ("auth_url", &["none", "http://127.0.0.1:8080/login"]),
        ("auth_url_login_headers", &["none", "cookie", "x-forwarded-user"]),
        ("jwt_secret_file", &["none", "/secret"]),
        ("control", &["127.0.0.1:3", "0.0.0.0:3", "127.0.0.1:2", "off"]),
        ("control_tls", &["auto", "on"]),
        ("control_tokens_file", &["none", "/tokens"]),
        ("text", &["off", "127.0.0.1:1", "127.0.0.1:4"]),
        ("tls_certificate", &["none", "/chain.pem"]),
        ("tls_key", &["none", "/key.pem"]),
        ("hook_url", &["none", "http://127.0.0.1:8080/hook"]),
        ("hook_secret_file", &["none", "/secret"]),
        ("uid_bytes_max", &["8", "256", "1024"]),
        ("login_bytes_max", &["16", "512", "8192"]),
        ("message_bytes_max", &["128", "1MiB"]),
        ("outbox_bytes_max", &["256", "2MiB"]),
        ("push_bytes_max", &["auto", "128", "1MiB"]),
        ("login_reply", &["hi", "hi {uid}"]),
    ];

    /// A config of random values; those that contradict others become the default until the config is valid.
    fn valid() -> impl Strategy<Value = Config> {
        let texts: Vec<_> = VALUES.iter().map(|(_, values)| select(*values)).collect();
        texts.prop_map(|texts| {
            let mut config = Config::default();
            for ((key, _), text) in VALUES.iter().zip(texts) {
                let setting = Setting::of(key).expect(key);
                let mut next = config.clone();
                assert!(setting.read(&mut next, &[text.to_owned()]), "{key} = {text}");
                config = next;
            }
            while let Err(faults) = config.check() {
                for fault in faults.iter() {
                    let Fault::Value { key, .. } = fault else { unreachable!("{fault}") };
                    Setting::of(key).expect(key).take(&mut config, &Config::default());
                }
                // A fault may name the setting that is the default already; then another one must change.
                if config.check().is_err_and(|again| again == faults) {
                    config = Config::default();
                }
            }
            config
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn what_a_reload_takes_is_valid(old in valid(), new in valid()) {
            match old.reload(&new) {
                Ok((next, Reloaded { taken, needs_restart })) => {
                    prop_assert_eq!(next.check(), Ok(()));
                    prop_assert_eq!(next == new, needs_restart.is_empty());
                    prop_assert_eq!(next == old, taken.is_empty());
                }
                // Without a setting that needs a restart, the merged config is the new one, which is valid.
                Err(faults) => prop_assert!(faults.to_string().contains("(beside "), "{}", faults),
            }
        }
    }

    fn with(file: &[(&str, &str)]) -> Config {
        let mut settings = Settings::default();
        for (key, value) in file {
            settings.set_flag(Setting::of(key).expect(key), &[(*value).to_owned()]);
        }
        load(&settings, None, &[]).expect("it is valid")
    }

    /// The running node kept the login by cookie, took `origins = auto`, and let every site in.
    #[test]
    fn a_reload_opens_no_login_by_cookie_to_every_site() {
        let service = ("auth_url", "http://127.0.0.1:8080/login");
        let cookie = ("auth_url_login_headers", "cookie");
        let origins = ("origins", "https://example.com");
        let old = with(&[("listen", "0.0.0.0:1"), ("auth", "http"), service, cookie, origins]);
        for (new, kept) in [
            (with(&[("listen", "0.0.0.0:1"), ("auth", "jwt"), ("jwt_secret_file", "/secret")]), "auth, "),
            (with(&[("listen", "127.0.0.1:1"), ("auth", "http"), service, cookie]), "listen;"),
        ] {
            assert_eq!((&new.origins, old.auth), (&Origins::Auto, Auth::Http));
            let faults = old.reload(&new).expect_err("it is refused").to_string();
            let told = format!("origins = auto (beside the running node's {kept}");
            assert!(faults.starts_with(&told), "{faults}");
            assert!(
                faults.contains("a restart takes all of the new settings): expected a list of your sites"),
                "{faults}"
            );
        }
    }
}
