//! Holds `docs/metrics.md` against the docs of each count in `src/metrics.rs`.
//!
//! `UPDATE_DOCS=1 cargo test --test metrics_table` writes the table anew.

use std::fs;
use std::path::Path;

const BEGIN: &str = "<!-- metrics -->\n";
const END: &str = "<!-- /metrics -->\n";

#[test]
fn the_table_in_the_docs_is_that_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let text = fs::read_to_string(&path).expect("docs/metrics.md is readable");
    let (head, rest) = text.split_once(BEGIN).expect("docs/metrics.md marks where the table begins");
    let (written, tail) = rest.split_once(END).expect("docs/metrics.md marks where the table ends");
    let generated = table();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{head}{BEGIN}{generated}{END}{tail}")).expect("docs/metrics.md is writable");
    } else {
        assert!(
            written == generated,
            "docs/metrics.md differs from the code; run UPDATE_DOCS=1 cargo test --test metrics_table\n{generated}"
        );
    }
}

#[test]
fn every_count_is_in_the_table_and_added_up() {
    let source = include_str!("../src/metrics.rs");
    let counts = counts();
    for (name, _) in &counts {
        assert!(source.contains(&format!("self.{name} += {name};")), "{name} is not added up");
    }
    let shown = format!("{:?}", pombo::Stats::default());
    assert_eq!(shown.matches(": ").count(), counts.len(), "each field of {shown} is found in the source");
}

/// Each count with its docs as one line.
fn counts() -> Vec<(String, String)> {
    let source = include_str!("../src/metrics.rs");
    let (_, fields) = source.split_once("pub struct Stats {\n").expect("the counts are there");
    let (fields, _) = fields.split_once("\n}").expect("they end");
    let (mut counts, mut docs) = (Vec::new(), Vec::new());
    for line in fields.lines().map(str::trim) {
        if let Some(doc) = line.strip_prefix("/// ") {
            docs.push(doc);
        } else if let Some(name) = line.strip_prefix("pub ").and_then(|line| line.strip_suffix(": u64,")) {
            counts.push((name.to_owned(), std::mem::take(&mut docs).join(" ")));
        }
    }
    counts
}

fn table() -> String {
    let rows = counts().into_iter().map(|(name, docs)| format!("| `{name}` | {} |\n", docs.trim_end_matches('.')));
    "\n| name | what it counts |\n| --- | --- |\n".to_owned() + &rows.collect::<String>() + "\n"
}
