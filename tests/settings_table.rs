//! Holds what is written about the settings against the code: `docs/settings.md`, and the docs of `Config`.
//!
//! `UPDATE_DOCS=1 cargo test --test settings_table` writes the table of `docs/settings.md` anew.

use std::fs;
use std::path::Path;

use pombo::config::{Reload, SETTINGS, Setting};

const BEGIN: &str = "<!-- settings -->\n";
const END: &str = "<!-- /settings -->\n";

#[test]
fn the_table_in_the_docs_is_that_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md");
    let text = fs::read_to_string(&path).expect("docs/settings.md is readable");
    let (head, rest) = text.split_once(BEGIN).expect("docs/settings.md marks where the table begins");
    let (written, tail) = rest.split_once(END).expect("docs/settings.md marks where the table ends");
    let generated = table();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{head}{BEGIN}{generated}{END}{tail}")).expect("docs/settings.md is writable");
    } else {
        assert!(
            written == generated,
            "docs/settings.md differs from the code; run UPDATE_DOCS=1 cargo test --test settings_table\n{generated}"
        );
    }
}

#[test]
fn the_docs_of_each_field_tell_its_range_and_default() {
    let source = include_str!("../src/config/mod.rs");
    for setting in SETTINGS {
        let docs = field_docs(source, setting.key);
        let text = |text: &str| text.replace('`', "");
        let end = format!("Range: {}. Default: {}.", setting.expected(), setting.default_text());
        assert!(text(&docs).starts_with(&format!("{}. ", setting.help)), "{}: {docs}\n{}", setting.key, setting.help);
        assert!(text(&docs).ends_with(&end), "{}: {docs}\n{end}", setting.key);
    }
}

/// The doc comment of the config's field `key`, as one line.
fn field_docs(source: &str, key: &str) -> String {
    let (before, _) = source.split_once(&format!("    pub {key}: ")).expect("each setting is a field of the config");
    let lines: Vec<&str> = before.lines().rev().map_while(|line| line.trim().strip_prefix("///")).collect();
    lines.into_iter().rev().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

fn table() -> String {
    let mut text = String::new();
    let mut group = "";
    for setting in SETTINGS {
        if setting.group != group {
            group = setting.group;
            text += &format!("\n## {group}\n\n| key | default | values | change | what it does |\n");
            text += "| --- | --- | --- | --- | --- |\n";
        }
        text += &row(setting);
    }
    text + "\n"
}

fn row(setting: &Setting) -> String {
    let default = setting.default_text();
    let default = if setting.default_varies() { default } else { format!("`{default}`") };
    let change = match setting.reload {
        Reload::Live => "live",
        Reload::Restart => "restart",
    };
    format!("| `{}` | {default} | {} | {change} | {} |\n", setting.key, setting.expected(), setting.help)
}
