//! What the documents point at is there: files, and headings in them. Addresses elsewhere are not looked up.

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_relative_link_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut broken = Vec::new();
    for document in documents(root) {
        let text = fs::read_to_string(&document).expect("documents are UTF-8");
        for (number, line) in prose(&text) {
            for link in links(line).filter(|link| !link.contains("://")) {
                if !leads_somewhere(&document, link) {
                    let document = document.strip_prefix(root).expect("found below it").display();
                    broken.push(format!("{document}:{number}: {link}"));
                }
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

/// Read one after the other, the pages are all of them, in the order of the README's table.
#[test]
fn every_page_leads_to_the_next() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &Path| fs::read_to_string(path).expect("documents are UTF-8");
    let readme = read(&root.join("README.md"));
    let table = readme.split("## Read on\n").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("it is there");
    let listed: Vec<&str> = table.lines().flat_map(links).map(|link| link.trim_start_matches("docs/")).collect();
    let mut visited = vec![listed[0].to_owned()];
    while visited.len() <= listed.len() {
        let text = read(&root.join("docs").join(visited.last().expect("it has one")));
        let next = text.trim_end().lines().last().filter(|line| line.starts_with("**Next:** "));
        let Some(next) = next.and_then(|line| links(line).next()) else { break };
        visited.push(next.to_owned());
    }
    assert_eq!(visited, listed);
    let pages = documents(root).into_iter().filter(|path| path.starts_with(root.join("docs"))).count();
    assert_eq!(listed.len(), pages, "each page of docs is in the README's table");
}

/// The documents at the top and in `docs`.
fn documents(root: &Path) -> Vec<PathBuf> {
    let entries = [root.to_owned(), root.join("docs")].map(|folder| fs::read_dir(folder).expect("a folder"));
    let paths = entries.into_iter().flatten().map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// Lines outside of code blocks, numbered from one.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    text.lines().enumerate().map(|(index, line)| (index + 1, line)).filter(move |(_, line)| {
        is_code ^= line.trim_start().starts_with("```");
        !is_code
    })
}

/// The targets of inline links, `[text](target)`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next())
}

fn leads_somewhere(document: &Path, link: &str) -> bool {
    let (file, heading) = link.split_once('#').unwrap_or((link, ""));
    let target = if file.is_empty() { document.to_owned() } else { document.with_file_name(file) };
    if heading.is_empty() {
        return target.exists();
    }
    let text = fs::read_to_string(target).unwrap_or_default();
    prose(&text).any(|(_, line)| line.starts_with('#') && anchor(line) == heading)
}

/// A heading's anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_and_anchors_are_found() {
    let found: Vec<_> = links("see [a](b.md#c), ![d](e.png \"f\") and [g]: (h)").collect();
    assert_eq!(found, ["b.md#c", "e.png"]);
    assert_eq!(anchor("## What is *promised*, and to `whom`?"), "what-is-promised-and-to-whom");
    let text = "a\n```sh\n[b](c)\n```\nd";
    assert_eq!(prose(text).map(|(number, _)| number).collect::<Vec<_>>(), [1, 4, 5]);
}
