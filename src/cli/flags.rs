//! The settings as flags, one for each row of the table of settings.
//!
//! Clap's derive would need every setting a second time, as a field; its traits accept the table. A
//! flag's text is kept as written: [`load`](crate::config::load) parses it, so that faults of flags,
//! variables and file are reported together, and in the same form.
//!
//! There are too many settings for one screen: a short help shows those of [`FIRST`] only.

use std::sync::LazyLock;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

use crate::config::{Reload, SETTINGS, Setting, Settings};

/// The settings given as flags.
#[derive(Clone, Debug, Default)]
pub(super) struct Flags(pub(super) Settings);

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        command.args(SETTINGS.iter().zip(NAMES.iter()).map(|(setting, name)| flag(setting, name)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        for setting in SETTINGS {
            if let Some(values) = matches.get_many::<String>(setting.key) {
                self.0.set_flag(setting, &values.cloned().collect::<Vec<_>>());
            }
        }
        Ok(())
    }
}

/// The settings that a short help shows, each in few words; `pombo serve --help` shows all.
const FIRST: &[(&str, &str)] = &[
    ("listen", "Where clients connect"),
    ("tls_certificate", "Certificate chain, PEM; turns TLS on"),
    ("tls_key", "Private key of the certificate, PEM"),
    ("origins", "Web pages that may connect, by their Origin"),
    ("control", "For other programs, and the console"),
    ("shards", "Threads that serve the sessions"),
    ("auth", "How clients log in"),
];

/// Shortens the help of a command that has these flags: it shows the settings of [`FIRST`], under one heading, and hides the
/// others. Each flag is still accepted.
pub(super) fn shorten(command: Command) -> Command {
    command.mut_args(|flag| match Setting::of(flag.get_id().as_str()) {
        None => flag,
        Some(setting) => {
            let flag = flag.long_help(None::<&str>).hide_short_help(false);
            if few_words(setting).is_some() { flag.help_heading("Settings") } else { flag.hide(true) }
        }
    })
}

fn few_words(setting: &Setting) -> Option<&'static str> {
    FIRST.iter().find(|(key, _)| *key == setting.key).map(|(_, words)| *words)
}

/// Each setting's flag without its dashes, in the order of the table; clap needs `'static` names.
static NAMES: LazyLock<Vec<String>> =
    LazyLock::new(|| SETTINGS.iter().map(|setting| setting.flag().trim_start_matches('-').to_owned()).collect());

/// The placeholder of settings that are on or off: such a flag alone means on.
const SWITCH: &str = "true|false";

fn flag(setting: &'static Setting, name: &'static str) -> Arg {
    let with_default = |help| format!("{help} [default: {}]", setting.default_text());
    let help = with_default(setting.help);
    let reload = match setting.reload {
        Reload::Live => "SIGHUP reloads it",
        Reload::Restart => "needs a restart",
    };
    let many = if setting.many { "; may be repeated" } else { "" };
    let details = format!("Expects {}{many}; {reload} [env: {}]", setting.expected(), setting.variable());
    let flag = Arg::new(setting.key);
    let flag = if setting.placeholder == SWITCH { flag.num_args(0..=1).default_missing_value("true") } else { flag };
    flag.long(name)
        .value_name(setting.placeholder)
        .help_heading(setting.group)
        .action(if setting.many { ArgAction::Append } else { ArgAction::Set })
        // So that `--shards -1` is reported as a number out of range, not as an unknown flag.
        .allow_negative_numbers(true)
        .long_help(format!("{help}\n{details}"))
        .hide_short_help(few_words(setting).is_none())
        .help(few_words(setting).map_or(help, with_default))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_settings_are_settings() {
        for (key, _) in FIRST {
            assert!(Setting::of(key).is_some(), "{key}");
        }
    }
}
