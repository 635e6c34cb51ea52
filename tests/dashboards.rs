//! The dashboard and the alerts under `deploy/` name what a node tells, the docs have the same alerts, and Prometheus's
//! own tool finds nothing wrong with any of it.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use support::{Ask, interpreter, nodes, run};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn text(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// What a node tells: each sample's name, with the values that its labels have.
type Told = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// What a scrape of a node with a shard or two has.
fn told() -> (String, Told) {
    let node = nodes().with_control().start(2);
    let scrape = Ask::get("/metrics").to(&node).body;
    let mut told = Told::new();
    for sample in scrape.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = sample.rsplit_once(' ').expect("a value");
        let (name, labels) = selector(series);
        let known = told.entry(name.to_owned()).or_default();
        for (label, _, value) in labels {
            known.entry(label).or_default().insert(value);
        }
    }
    (scrape, told)
}

/// A label of a selector: its name, the operator, and the value.
type Label = (String, String, String);

/// Cuts `name{label="value"}` in parts; the operator between stands in the middle.
fn selector(series: &str) -> (&str, Vec<Label>) {
    let Some((name, labels)) = series.split_once('{') else { return (series, Vec::new()) };
    let labels = labels.trim_end_matches('}').split("\",").map(|label| {
        let (label, value) = label.split_once('"').expect("values are quoted");
        let name = label.trim_end_matches(['=', '~', '!']);
        (name.trim().to_owned(), label[name.len()..].to_owned(), value.trim_end_matches('"').to_owned())
    });
    (name, labels.collect())
}

/// Each metric of ours in an expression, with the labels that it is chosen by.
fn selectors(expression: &str) -> Vec<(&str, Vec<Label>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find(is_name) {
        rest = &rest[start..];
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let word = &rest[..end];
        let end = match rest[end..].starts_with('{') {
            true => end + rest[end..].find('}').expect("braces are in pairs") + 1,
            false => end,
        };
        if word.starts_with("pombo_") || word.starts_with("process_") {
            found.push(selector(&rest[..end]));
        }
        rest = &rest[end..];
    }
    found
}

/// What of an expression no node tells.
fn unknown(expression: &str, told: &Told) -> Vec<String> {
    let mut unknown = Vec::new();
    let selectors = selectors(expression);
    for (name, labels) in &selectors {
        let Some(known) = told.get(*name) else {
            unknown.push((*name).to_owned());
            continue;
        };
        // The scraper's own, on every series.
        for (label, _, values) in labels.iter().filter(|(label, ..)| !["instance", "job"].contains(&label.as_str())) {
            for value in values.split('|') {
                if !known.get(label).is_some_and(|known| known.contains(value)) {
                    unknown.push(format!("{name}{{{label}={value}}}"));
                }
            }
        }
    }
    unknown
}

#[test]
fn expressions_are_taken_apart() {
    let told: Told =
        [("pombo_a_total".to_owned(), [("reason".to_owned(), ["x", "y"].map(str::to_owned).into())].into())].into();
    for (expression, expected) in [
        ("rate(pombo_a_total[5m]) > 0", &[][..]),
        ("sum by (reason) (rate(pombo_a_total{reason=~\"x|y\", instance=\"a\"}[5m]))", &[]),
        ("pombo_a + up", &["pombo_a"]),
        ("pombo_a_total{reason=~\"x|z\"}", &["pombo_a_total{reason=z}"]),
        ("pombo_a_total{kind=\"x\"} / process_b", &["pombo_a_total{kind=x}", "process_b"]),
    ] {
        assert_eq!(unknown(expression, &told), expected, "{expression}");
    }
}

/// The panels of the dashboard but the rows, with their expressions.
fn panels() -> Vec<(String, Value, Vec<String>)> {
    let dashboard: Value = serde_json::from_str(&text("deploy/grafana/pombo.json")).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("it has panels").clone();
    let shown = panels.into_iter().filter(|panel| panel["type"] != "row").map(|panel| {
        let targets = panel["targets"].as_array().expect("a panel has targets").iter();
        let expressions = targets.map(|target| target["expr"].as_str().expect("an expression").to_owned()).collect();
        (panel["title"].as_str().expect("a title").to_owned(), panel, expressions)
    });
    shown.collect()
}

#[test]
fn panels_show_what_a_node_tells_each_with_a_unit_and_a_sentence() {
    let (_, told) = told();
    let panels = panels();
    assert!(panels.len() >= 20, "{} panels", panels.len());
    let (mut titles, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for (title, panel, expressions) in panels {
        assert!(!expressions.is_empty(), "{title} shows nothing");
        for expression in expressions {
            assert_eq!(unknown(&expression, &told), [""; 0], "{title}: {expression}");
            assert!(!selectors(&expression).is_empty(), "{title}: {expression}");
        }
        assert!(panel["fieldConfig"]["defaults"]["unit"].as_str().is_some_and(|unit| !unit.is_empty()), "{title}");
        assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{title}");
        assert!(ids.insert(panel["id"].as_u64()), "{title}: its id is taken");
        assert!(titles.insert(title.clone()), "{title} is there twice");
    }
}

/// An alert: its name, expression, and how long it must hold.
type Alert = (String, String, String);

fn alerts() -> Vec<Alert> {
    let rules = text("deploy/prometheus/alerts.yml");
    let alerts = rules.split("      - alert: ").skip(1).map(|rule| {
        let value = |key: &str| rule.lines().find_map(|line| line.trim().strip_prefix(key));
        let name = rule.lines().next().expect("its name").to_owned();
        (name, value("expr: ").expect("it has one").to_owned(), value("for: ").unwrap_or("at once").to_owned())
    });
    alerts.collect()
}

#[test]
fn alerts_ask_for_what_a_node_tells_and_each_is_tested() {
    let (_, told) = told();
    let (alerts, tested) = (alerts(), text("deploy/prometheus/alerts_test.yml"));
    assert!(alerts.len() >= 12, "{} alerts", alerts.len());
    for (name, expression, _) in alerts {
        assert_eq!(unknown(&expression, &told), [""; 0], "{name}: {expression}");
        assert!(tested.contains(&name), "{name} is not in alerts_test.yml");
    }
}

#[test]
fn alerts_are_those_of_the_docs() {
    let document = text("docs/watching.md");
    let rows = document.lines().skip_while(|line| *line != "| alert | when | for | what it means |").skip(2);
    let rows = rows.take_while(|line| line.starts_with('|')).map(|row| {
        let row = row.replace("\\|", "\u{0}");
        let cell = |place: usize| {
            let cell = row.split('|').nth(place).expect("four cells").trim().trim_matches('`');
            cell.replace('\u{0}', "|")
        };
        (cell(1), cell(2), cell(3))
    });
    assert_eq!(rows.collect::<Vec<Alert>>(), alerts());
}

/// Runs Prometheus's tool where there is one; it must find nothing.
fn promtool(arguments: &[&str], file: &str) {
    let Some(mut promtool) = interpreter("promtool") else { return };
    let (told, code) = run(promtool.args(arguments).arg(Path::new("deploy/prometheus").join(file)));
    assert_eq!(code, 0, "{told}");
}

#[test]
fn prometheus_takes_the_rules() {
    promtool(&["check", "rules"], "alerts.yml");
}

#[test]
fn prometheus_takes_the_settings() {
    promtool(&["check", "config"], "prometheus.yml");
}

#[test]
fn alerts_fire_when_they_should_and_only_then() {
    promtool(&["test", "rules"], "alerts_test.yml");
}

#[test]
fn prometheus_finds_nothing_wrong_with_a_scrape() {
    let Some(mut promtool) = interpreter("promtool") else { return };
    let (scrape, _) = told();
    let mut child = promtool
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    child.stdin.take().expect("a pipe").write_all(scrape.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && complaints.is_empty(), "{complaints}\n{scrape}");
}
