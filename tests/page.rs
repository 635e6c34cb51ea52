//! The page in a real browser: two tabs as two users, broadcast, errors, tokens, reconnecting, being replaced.

#[path = "support/browser.rs"]
mod browser;
mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use pombo::config::{Auth, AuthSource, Secret};
use pombo::{Config, Listen, Server};
use serde_json::json;

use browser::{Browser, Tab};
use support::{Reply, Service};

/// One browser at a time: each takes a core and a few hundred megabytes.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A secret, and a token of alice signed with it, good until the year 2100.
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6NDEwMjQ0NDgwMH0.DvdDttFvdgTOXtC2L5P1zfs2bIMtiEwN3al4EAHYyf8";

/// Binds a server and returns it with the page's address.
fn bind(listen: &str) -> (Server, String) {
    bind_with(listen, |_| {})
}

fn bind_with(listen: &str, change: impl FnOnce(&mut Config)) -> (Server, String) {
    let listen = listen.parse().expect("a listen address");
    let mut config = Config { listen: vec![listen], control: None, ..Config::default() };
    change(&mut config);
    let server = Server::bind(config).expect("the server binds");
    let Listen::Tcp(address) = server.addresses()[0].clone() else { panic!("not a TCP address") };
    (server, format!("http://{address}/"))
}

async fn log_in(tab: &Tab<'_>, uid: &str) {
    tab.fill("uid", uid).await;
    tab.press_enter().await;
    online(tab).await;
}

#[track_caller]
fn online(tab: &Tab<'_>) -> impl Future<Output = ()> {
    tab.wait_for("document.getElementById('state').textContent === 'online'")
}

async fn send(tab: &Tab<'_>, to: &str, message: &str) {
    tab.fill("to", to).await;
    tab.fill("message", message).await;
    tab.press_enter().await;
}

/// Counts the log's entries of a kind with a text; `null` counts any text.
fn entries(kind: &str, text: Option<&str>) -> String {
    format!(
        "[...document.querySelectorAll('#log li.{kind} .text')].filter(e => (t => t === null || e.textContent === t)({})).length",
        json!(text)
    )
}

#[track_caller]
fn shows(tab: &Tab<'_>, kind: &str, text: &str) -> impl Future<Output = ()> {
    tab.wait_for(format!("{} === 1", entries(kind, Some(text))))
}

#[tokio::test]
async fn two_users_write_to_each_other_and_to_everybody() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let (server, url) = bind("127.0.0.1:0");
    let node = server.start().expect("the server starts");
    let alice = browser.open(&url).await;
    let bob = browser.open(&format!("{url}?uid=bob")).await;
    assert_eq!(alice.text("state").await, "not logged in");
    assert_eq!(bob.evaluate("document.getElementById('uid').value").await, json!("bob"), "?uid= prefills");
    log_in(&alice, "alice").await;
    bob.click("enter").await;
    online(&bob).await;
    shows(&alice, "note", "Login realizado com sucesso, seu uid é alice").await;

    // Markup stays text, and a colon belongs to the message.
    let message = "olá <b onclick=alert(1)>bob</b>: http://x:80/";
    send(&alice, "bob", message).await;
    shows(&bob, "in", message).await;
    shows(&alice, "out", message).await;
    assert_eq!(bob.evaluate("document.querySelector('#log b')").await, json!(null));
    send(&bob, "alice", "hi").await;
    shows(&alice, "in", "hi").await;

    // By the button; it comes back to who sent it, too.
    alice.fill("message", "to all of you").await;
    alice.click("broadcast").await;
    shows(&alice, "in", "to all of you").await;
    shows(&bob, "in", "to all of you").await;

    // Nobody in the field sends the line as typed: without a colon it is an error, and the connection lives.
    send(&alice, "", "nobody").await;
    alice.wait_for(format!("{} === 1", entries("error", None))).await;
    send(&alice, "", "bob:as typed").await;
    shows(&bob, "in", "as typed").await;

    assert_eq!(alice.evaluate(&entries("in", None)).await, json!(2));
    assert_eq!(bob.evaluate(&entries("in", None)).await, json!(3));
    assert_eq!(browser.complaints(), Vec::<String>::new());
    node.drain().await;
}

#[tokio::test]
async fn binary_is_shown_as_bytes() {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::tungstenite::Message;

    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let (server, url) = bind("127.0.0.1:0");
    let node = server.start().expect("the server starts");
    let alice = browser.open(&url).await;
    log_in(&alice, "alice").await;
    let (mut bob, _) = tokio_tungstenite::connect_async(url.replace("http", "ws")).await.expect("bob connects");
    bob.send(Message::text("bob")).await.expect("bob logs in");
    bob.next().await.expect("an answer").expect("a frame");
    bob.send(Message::binary(b"alice:\xff\x00\x10".to_vec())).await.expect("bob sends");
    shows(&alice, "binary", "3 bytes: ff 00 10").await;
    node.drain().await;
}

#[tokio::test]
async fn log_and_long_messages_are_bounded() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let (server, url) = bind("127.0.0.1:0");
    let node = server.start().expect("the server starts");
    let tab = browser.open(&url).await;
    log_in(&tab, "alice").await;
    tab.evaluate("for (let i = 0; i < 700; i++) socket.send(`alice:${i}`)").await;
    shows(&tab, "in", "699").await;
    assert_eq!(tab.evaluate("document.getElementById('log').childElementCount").await, json!(500));
    assert_eq!(tab.evaluate(&entries("in", Some("199"))).await, json!(0), "the oldest have gone");
    tab.evaluate("socket.send('alice:' + 'x'.repeat(100000))").await;
    tab.wait_for("document.querySelector('#log li:last-child .text').textContent.endsWith('x… (100000 characters)')")
        .await;
    assert_eq!(browser.complaints(), Vec::<String>::new());
    node.drain().await;
}

#[tokio::test]
async fn page_comes_back_after_the_server_does() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let (server, url) = bind("127.0.0.1:0");
    let node = server.start().expect("the server starts");
    let tab = browser.open(&url).await;
    log_in(&tab, "alice").await;
    // Every state is noted, since a short one may pass between two looks.
    tab.evaluate(
        "window.states = []; new MutationObserver(() => states.push(document.getElementById('state').textContent))
         .observe(document.getElementById('state'), { childList: true }), null",
    )
    .await;
    node.drain().await;
    tab.wait_for("states.some(state => /^reconnecting in \\d+ s$/.test(state))").await;
    tab.wait_for("document.querySelector('#log .note:last-child .text').textContent.includes('(100')").await;

    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let (server, _) = bind(address);
    let node = server.start().expect("the server starts again");
    online(&tab).await;
    send(&tab, "alice", "back").await;
    shows(&tab, "in", "back").await;
    // Failed attempts are told by the browser itself; nothing else may be.
    let others = browser.complaints().into_iter().filter(|line| !line.contains("WebSocket connection to"));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<String>::new());
    node.drain().await;
}

/// The program as a process of its own, which can be killed; killed when dropped.
struct Process(Child);

impl Process {
    /// Starts it on this address, and returns it with the page's.
    fn start(listen: &str) -> (Self, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pombo"));
        command.args(["serve", "--control=off", "--listen", listen]).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the program starts");
        let mut first = String::new();
        let stdout = child.stdout.take().expect("stdout is a pipe");
        BufReader::new(stdout).read_line(&mut first).expect("its output is text");
        let address = first.split(' ').find(|word| word.starts_with("http://")).expect("it says where it listens");
        (Self(child), format!("{}/", address.trim_end().trim_end_matches(',')))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn page_comes_back_after_the_server_was_killed() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let (process, url) = Process::start("127.0.0.1:0");
    let tab = browser.open(&url).await;
    log_in(&tab, "alice").await;
    drop(process);
    tab.wait_for("document.getElementById('state').textContent !== 'online'").await;
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let (_process, again) = Process::start(address);
    assert_eq!(again, url);
    online(&tab).await;
    send(&tab, "alice", "back").await;
    shows(&tab, "in", "back").await;
}

#[tokio::test]
async fn replaced_page_says_so_and_does_not_fight_back() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let (server, url) = bind("127.0.0.1:0");
    let node = server.start().expect("the server starts");
    let older = browser.open(&url).await;
    log_in(&older, "alice").await;
    let newer = browser.open(&url).await;
    log_in(&newer, "alice").await;
    older.wait_for("document.getElementById('state').dataset.state === 'closed'").await;
    assert_eq!(older.text("state").await, "closed");
    assert_eq!(older.text("refusal").await, "Closed: replaced by a newer login (4001)");
    assert_eq!(
        older.evaluate("socket === null && Object.values(timers).every(timer => timer === undefined)").await,
        json!(true),
        "nothing is left that could connect"
    );
    send(&newer, "alice", "mine").await;
    shows(&newer, "in", "mine").await;

    // The user may fight back.
    older.click("enter").await;
    online(&older).await;
    newer.wait_for("document.getElementById('state').dataset.state === 'closed'").await;
    assert_eq!(browser.complaints(), Vec::<String>::new());
    node.drain().await;
}

#[tokio::test]
async fn refused_login_says_why_and_can_be_made_again() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let (server, url) = bind("127.0.0.1:0");
    let node = server.start().expect("the server starts");
    let tab = browser.open(&url).await;
    tab.fill("uid", "a:b").await;
    tab.press_enter().await;
    says(&tab, "refusal", "text.startsWith('Refused: uid contains a colon') && text.endsWith('(1008)')").await;
    assert_eq!(tab.text("state").await, "refused");
    // It is said once.
    assert_eq!(tab.evaluate("document.body.innerText.split('contains a colon').length").await, json!(2));
    log_in(&tab, "ab").await;
    assert_eq!(tab.evaluate("document.getElementById('refusal').hidden").await, json!(true));
    assert_eq!(browser.complaints(), Vec::<String>::new());
    node.drain().await;
}

/// The page asked for `/`, where the node upgraded nobody.
#[tokio::test]
async fn page_connects_to_the_first_path_of_the_list() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let (server, url) = bind_with("127.0.0.1:0", |config| {
        config.paths = pombo::config::Paths::List(vec!["/ws".to_owned(), "/chat".to_owned()]);
    });
    let node = server.start().expect("the server starts");
    let tab = browser.open(&url).await;
    log_in(&tab, "alice").await;
    assert_eq!(browser.complaints(), Vec::<String>::new());
    node.drain().await;
}

/// Waits until an element's text is as `condition`, with `text` for it, says.
#[track_caller]
fn says(tab: &Tab<'_>, id: &str, condition: &str) -> impl Future<Output = ()> {
    tab.wait_for(format!("(text => {condition})(document.getElementById('{id}').textContent)"))
}

fn with_tokens(config: &mut Config, sources: &[AuthSource]) {
    config.auth = Auth::Jwt;
    config.jwt_secret = Some(Secret::new(SECRET));
    config.auth_sources = sources.to_vec();
}

#[tokio::test]
async fn token_is_asked_for_where_the_node_wants_one() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    // Each place in which a page can put it.
    for source in [AuthSource::FirstFrame, AuthSource::Subprotocol, AuthSource::Query] {
        let (server, url) = bind_with("127.0.0.1:0", |config| with_tokens(config, &[AuthSource::Header, source]));
        let node = server.start().expect("the server starts");
        let tab = browser.open(&url).await;
        says(&tab, "hint", "text.includes('a signed JWT')").await;
        let fields = "['uid', 'credential'].map(id => document.getElementById(id).offsetParent !== null)";
        assert_eq!(tab.evaluate(fields).await, json!([false, true]));
        let field =
            "[(e => e.type)(document.getElementById('credential')), document.getElementById('credential').maxLength]";
        assert_eq!(tab.evaluate(field).await, json!(["password", 8192]), "it is masked, and as long as a login may be");

        tab.fill("credential", "not.a.token").await;
        tab.press_enter().await;
        tab.wait_for("document.getElementById('state').textContent === 'refused'").await;
        says(&tab, "refusal", "text.startsWith('Refused: ')").await;
        assert_eq!(
            tab.evaluate("timers.retry === undefined && socket === null").await,
            json!(true),
            "it is not repeated"
        );

        tab.fill("credential", TOKEN).await;
        tab.press_enter().await;
        online(&tab).await;
        send(&tab, "alice", "to myself").await;
        shows(&tab, "in", "to myself").await;
        assert_eq!(tab.text("me").await, "You are logged in.");
        assert_eq!(tab.evaluate("document.body.innerHTML.includes('eyJ')").await, json!(false), "it is not shown");
        node.drain().await;
    }
}

#[tokio::test]
async fn longest_token_is_answered_and_not_tried_again() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let (server, url) = bind_with("127.0.0.1:0", |config| {
        with_tokens(config, &[AuthSource::FirstFrame]);
        config.login_bytes_max = 1000;
    });
    let node = server.start().expect("the server starts");
    let tab = browser.open(&url).await;
    tab.fill("credential", &"x".repeat(8192)).await;
    assert_eq!(tab.evaluate("document.getElementById('credential').value.length").await, json!(8192));
    tab.press_enter().await;
    says(&tab, "refusal", "text.startsWith('Refused: ') && text.endsWith('(1009)')").await;
    assert_eq!(tab.evaluate("timers.retry === undefined").await, json!(true));
    node.drain().await;
}

#[tokio::test]
async fn page_says_that_it_has_no_way_to_send_a_header() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let (server, url) = bind_with("127.0.0.1:0", |config| with_tokens(config, &[AuthSource::Header]));
    let node = server.start().expect("the server starts");
    let tab = browser.open(&url).await;
    says(&tab, "hint", "text.includes('auth_sources')").await;
    assert_eq!(tab.evaluate("document.getElementById('enter').disabled").await, json!(true));
    node.drain().await;
}

/// Asks a service that knows one cookie, and takes every other credential for a uid.
fn with_cookie(config: &mut Config, service: &Service, sources: &[AuthSource]) {
    config.auth = Auth::Http;
    config.auth_url = Some(service.url().parse().expect("an address"));
    config.auth_url_login_headers = vec!["cookie".to_owned()];
    config.auth_sources = sources.to_vec();
}

fn knowing_a_cookie() -> Service {
    Service::start(|question| match (question["headers"]["cookie"][0].as_str(), question["credential"].as_str()) {
        (_, Some(credential)) => Reply::json(&json!({"uid": credential})),
        (Some("session=1"), None) => Reply::json(&json!({"uid": "alice"})),
        _ => Reply::Status(403, String::new()),
    })
}

/// The page sent a typed credential as its first message. A cookie had logged it in, so that was a command.
#[tokio::test]
async fn a_typed_credential_is_no_message_when_a_cookie_logs_in() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let service = knowing_a_cookie();
    let sources = [AuthSource::FirstFrame, AuthSource::Subprotocol];
    let (server, url) = bind_with("127.0.0.1:0", |config| with_cookie(config, &service, &sources));
    let node = server.start().expect("the server starts");
    let tab = browser.open(&url).await;
    says(&tab, "hint", "text.includes('if a cookie of this site is enough')").await;
    tab.evaluate("document.cookie = 'session=1'").await;
    tab.fill("credential", "carol").await;
    tab.press_enter().await;
    online(&tab).await;
    send(&tab, "carol", "to myself").await;
    shows(&tab, "in", "to myself").await;

    // Without a credential the cookie decides.
    tab.click("leave").await;
    tab.fill("credential", "").await;
    tab.press_enter().await;
    online(&tab).await;
    send(&tab, "alice", "by cookie").await;
    shows(&tab, "in", "by cookie").await;

    // One that is refused is not tried again.
    tab.click("leave").await;
    tab.evaluate("document.cookie = 'session=2'").await;
    tab.click("enter").await;
    tab.wait_for("document.getElementById('state').textContent === 'refused'").await;
    assert_eq!(tab.evaluate("timers.retry === undefined && socket === null").await, json!(true));
    node.drain().await;
}

#[tokio::test]
async fn a_cookie_logs_in_where_the_page_has_no_place_for_a_credential() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let service = knowing_a_cookie();
    let (server, url) = bind_with("127.0.0.1:0", |config| with_cookie(config, &service, &[AuthSource::Header]));
    let node = server.start().expect("the server starts");
    let tab = browser.open(&url).await;
    says(&tab, "hint", "text.includes('A cookie of this site logs you in')").await;
    tab.evaluate("document.cookie = 'session=1'").await;
    tab.click("enter").await;
    online(&tab).await;
    node.drain().await;
}

#[tokio::test]
async fn messages_have_most_of_a_phone_and_the_input_stands_below_them() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let (server, url) = bind("127.0.0.1:0");
    let node = server.start().expect("the server starts");
    let tab = browser.open(&url).await;
    for (width, height) in [(390, 844), (1024, 768)] {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500});
        tab.call("Emulation.setDeviceMetricsOverride", size).await;
        if width == 390 {
            log_in(&tab, "alice").await;
        }
        tab.evaluate("for (let i = 0; i < 60; i++) socket.send(`alice:message ${i}`)").await;
        tab.wait_for("document.querySelectorAll('#log .in').length >= 60").await;
        let share = "document.getElementById('log').getBoundingClientRect().height / innerHeight";
        let share = tab.evaluate(share).await.as_f64().expect("a number");
        assert!(share > 0.66, "{share} of {width}x{height}");
        let places = "(place => place('log').bottom <= place('compose').top && place('compose').bottom <= innerHeight)
            (id => document.getElementById(id).getBoundingClientRect())";
        assert_eq!(tab.evaluate(places).await, json!(true), "{width}x{height}");
        let fits = "document.documentElement.scrollWidth === innerWidth && document.documentElement.scrollHeight === innerHeight";
        assert_eq!(tab.evaluate(fits).await, json!(true), "{width}x{height}");
        // The newest is in sight.
        let log = "(log => log.scrollHeight - log.scrollTop - log.clientHeight < 40)(document.getElementById('log'))";
        assert_eq!(tab.evaluate(log).await, json!(true));
    }
    // The state with the longest words, and with both buttons.
    for width in [390, 320] {
        let size = json!({"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": true});
        tab.call("Emulation.setDeviceMetricsOverride", size).await;
        tab.evaluate("show('reconnecting', 'reconnecting in 30 s')").await;
        let fits = "document.documentElement.scrollWidth === innerWidth
            && document.querySelector('h1').getBoundingClientRect().width > 60";
        assert_eq!(tab.evaluate(fits).await, json!(true), "{width}");
    }
    assert_eq!(browser.complaints(), Vec::<String>::new());
    node.drain().await;
}

/// Writes the README's pictures: `cargo test --test page -- --ignored picture`.
#[tokio::test]
#[ignore = "writes docs/page.png and docs/page-dark.png"]
async fn picture_of_the_page() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let (server, url) = bind("127.0.0.1:0");
    let node = server.start().expect("the server starts");
    let alice = browser.open(&url).await;
    let bob = browser.open(&url).await;
    let size = json!({"width": 1000, "height": 600, "deviceScaleFactor": 1, "mobile": false});
    alice.call("Emulation.setDeviceMetricsOverride", size).await;
    log_in(&alice, "alice").await;
    log_in(&bob, "bob").await;
    send(&alice, "bob", "Hi Bob! Is the loft open yet?").await;
    shows(&bob, "in", "Hi Bob! Is the loft open yet?").await;
    send(&bob, "alice", "Since sunrise. Come over.").await;
    shows(&alice, "in", "Since sunrise. Come over.").await;
    alice.fill("message", "Fresh seed for everybody!").await;
    alice.click("broadcast").await;
    shows(&alice, "in", "Fresh seed for everybody!").await;
    alice.fill("message", "On my way").await;
    for (scheme, file) in [("light", "page.png"), ("dark", "page-dark.png")] {
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        alice.call("Emulation.setEmulatedMedia", media).await;
        let picture = alice.call("Page.captureScreenshot", json!({"format": "png"})).await;
        let picture = data_encoding::BASE64.decode(picture["data"].as_str().expect("a picture").as_bytes());
        let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        std::fs::create_dir_all(&docs).expect("docs can be written");
        std::fs::write(docs.join(file), picture.expect("valid base64")).expect("docs can be written");
    }
    node.drain().await;
}
