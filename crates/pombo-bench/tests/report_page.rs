//! Promise: the page of `pombo-bench --report` needs nothing but itself, and reads in the dark, in the light, and on a phone.

#[allow(dead_code, reason = "this page has nothing to fill in")]
#[path = "../../../tests/support/browser.rs"]
mod browser;
#[path = "../../../tests/support/sibling.rs"]
mod sibling;

use std::path::Path;
use std::process::Command;

use pombo::{Config, Listen, Server};
use serde_json::json;

use browser::{Browser, Tab};

/// One browser at a time: each takes a core and a few hundred megabytes.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The program that is tested.
const BENCH: &str = env!("CARGO_BIN_EXE_pombo-bench");

/// Runs it and writes its page.
#[track_caller]
fn bench(arguments: &[&str], page: &Path) {
    let output = Command::new(BENCH).args(arguments).arg("--report").arg(page).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Text and shapes of a plot that reach beyond its edge, and text that other text covers. A logarithmic axis may have the same
/// mark twice in one place.
const CLIPPED: &str = "[...document.querySelectorAll('svg.plot')].flatMap(plot => {
    const frame = plot.getBoundingClientRect();
    const name = plot.getAttribute('aria-label') + ': ';
    const beyond = [...plot.querySelectorAll('text, rect, polyline')].filter(shape => {
        const box = shape.getBoundingClientRect();
        return box.left < frame.left - 1 || box.right > frame.right + 1
            || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
    });
    const texts = [...plot.querySelectorAll('text')].map(text => [text, text.getBoundingClientRect()]);
    const covered = texts.filter(([one, box], index) => texts.slice(0, index).some(([other, under]) =>
        one.textContent !== other.textContent
        && Math.min(box.right, under.right) - Math.max(box.left, under.left) > 1
        && Math.min(box.bottom, under.bottom) - Math.max(box.top, under.top) > 4));
    return [...beyond.map(shape => name + 'beyond: ' + (shape.textContent.trim() || shape.outerHTML.slice(0, 80))),
        ...covered.map(([text]) => name + 'covered: ' + text.textContent.trim())];
})";

/// Looks at a page that has so many plots.
async fn look(browser: &Browser, page: &Path, plots: usize) {
    let tab = browser.open(&format!("file://{}", page.display())).await;
    assert_eq!(tab.evaluate("document.querySelectorAll('svg.plot').length").await, json!(plots));
    // Each has lines or bars in colour, text, and a size on the screen.
    let drawn = "[...document.querySelectorAll('svg.plot')].every(plot =>
        plot.querySelector('polyline:not([stroke=\"#000000\"]), rect:not([fill=\"#000000\"])') !== null
        && plot.querySelectorAll('text').length > 2
        && plot.getBoundingClientRect().width > 200 && plot.getBoundingClientRect().height > 50)";
    assert_eq!(tab.evaluate(drawn).await, json!(true));
    assert_eq!(tab.evaluate(CLIPPED).await, json!([]), "these do not fit into their plot");
    assert_eq!(tab.evaluate("performance.getEntriesByType('resource').length").await, json!(0), "nothing is fetched");
    let light = colours(&tab, "light").await;
    let dark = colours(&tab, "dark").await;
    assert!(light.0 < 100.0 && light.1 > 200.0, "dark text on light: {light:?}");
    assert!(dark.0 > 200.0 && dark.1 < 60.0, "light text on dark: {dark:?}");
    let phone = json!({"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true});
    tab.call("Emulation.setDeviceMetricsOverride", phone).await;
    tab.wait_for("window.innerWidth === 360 && document.documentElement.scrollWidth <= 360").await;
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// How bright the text of a plot and the page behind it are, from 0 to 255.
async fn colours(tab: &Tab<'_>, scheme: &str) -> (f64, f64) {
    let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
    tab.call("Emulation.setEmulatedMedia", features).await;
    tab.wait_for(format!("matchMedia('(prefers-color-scheme: {scheme})').matches")).await;
    let bright = "(colour => { const [r, g, b] = colour.match(/[0-9.]+/g).map(Number); return (r + g + b) / 3 })";
    let of = async |what: &str| tab.evaluate(&format!("{bright}({what})")).await.as_f64().expect("a colour");
    let text = of("getComputedStyle(document.querySelector('svg.plot text')).fill").await;
    (text, of("getComputedStyle(document.body).backgroundColor").await)
}

#[tokio::test]
async fn a_run_as_a_page() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let listen = "127.0.0.1:0".parse().expect("an address");
    let server =
        Server::bind(Config { listen: vec![listen], control: None, ..Config::default() }).expect("the server binds");
    let Listen::Tcp(address) = server.addresses()[0].clone() else { panic!("not a TCP address") };
    let (address, node) = (address.to_string(), server.start().expect("the server starts"));
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("run.html");
    let length = ["-c", "8", "--seconds", "0.5", "--warmup", "0.1"];
    bench(&[&["unicast", &address], &length[..], &["--pid", &std::process::id().to_string()]].concat(), &page);
    // Latency, throughput, CPU.
    look(&browser, &page, 3).await;
    bench(&[&["broadcast", &address], &length[..]].concat(), &page);
    look(&browser, &page, 2).await;
    node.drain().await;
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_comparison_as_a_page() {
    let Some(pombo) = sibling::sibling(BENCH, "pombo") else { return };
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("comparison.html");
    let server = |name: &str| {
        format!("{name}=exec '{}' --control off --listen 127.0.0.1:{{port}} --shards 1 2> /dev/null", pombo.display())
    };
    // A long name stands above its bar like a short one.
    let (one, two) = (server("one"), server(&"the-second-server".repeat(5)));
    let servers = ["compare", "--server", &one, "--server", &two, "--rounds", "2", "--seconds", "0.3"];
    let scenarios = ["--scenario", "unicast -c 4 -w 2", "--scenario", "connect -c 10"];
    bench(&[&servers[..], &scenarios[..]].concat(), &page);
    // Of the traffic latency, throughput and CPU; of the logins CPU.
    look(&browser, &page, 4).await;
}
