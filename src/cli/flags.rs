//! The settings as flags, one for each row of the table of settings.
//!
//! Clap's derive would need every setting a second time, as a field; its traits accept the table. A
//! flag's text is kept as written: [`load`](crate::config::load) parses it, so that faults of flags,
//! variables and file are reported together, and in the same form.

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

/// Each setting's flag without its dashes, in the order of the table; clap needs `'static` names.
static NAMES: LazyLock<Vec<String>> =
    LazyLock::new(|| SETTINGS.iter().map(|setting| setting.flag().trim_start_matches('-').to_owned()).collect());

/// The placeholder of settings that are on or off: such a flag alone means on.
const SWITCH: &str = "true|false";

fn flag(setting: &'static Setting, name: &'static str) -> Arg {
    let help = format!("{} [default: {}]", setting.help, setting.default_text());
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
        .help(help)
}
