//! Holds `docs/metrics.md` against the tables in `src/metrics.rs`.
//!
//! `UPDATE_DOCS=1 cargo test --test metrics_table` writes the table anew.

use std::fs;
use std::path::Path;

use pombo::metrics::{FAMILIES, Family, FamilyKind, Metric};
use pombo::{NodeCounts, Stats};

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

const HEAD: &str = "| count | for Prometheus | what it counts |\n| --- | --- | --- |\n";

fn table() -> String {
    let shards: String = Stats::ALL.iter().map(row).collect();
    let node: String = NodeCounts::ALL.iter().map(row).collect();
    let families: String = FAMILIES.iter().map(family_row).collect();
    format!(
        "\nEach shard has these counts; the node has their sum:\n\n{HEAD}{shards}\n\
         These counts belong to the node and to no shard:\n\n{HEAD}{node}\n\
         Prometheus also gets these:\n\n| for Prometheus | kind | meaning |\n| --- | --- | --- |\n{families}\n"
    )
}

fn row<C>(metric: &Metric<C>) -> String {
    let label = metric.label.map_or_else(String::new, |(label, value)| format!("{{{label}=\"{value}\"}}"));
    let suffix = if metric.is_gauge { "" } else { "_total" };
    let help = metric.help.trim().trim_end_matches('.');
    format!("| `{}` | `{}{suffix}{label}` | {help} |\n", metric.field, metric.family)
}

fn family_row(Family { name, kind, label, help, .. }: &Family) -> String {
    let (suffix, kind) = match kind {
        FamilyKind::Counter => ("_total", "counter"),
        FamilyKind::Gauge => ("", "gauge"),
        FamilyKind::Histogram => ("", "histogram"),
        FamilyKind::Info => ("_info", "info"),
    };
    let label = label.map_or_else(String::new, |label| format!("{{{label}}}"));
    format!("| `{name}{suffix}{label}` | {kind} | {help} |\n")
}
