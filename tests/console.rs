//! The console in a real browser: live charts, one user found, pushed to and closed, tokens, restarts, hostile uids.

#[path = "support/browser.rs"]
mod browser;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use pombo::message::Kind;
use pombo::{Config, Handle, Listen, Server};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use browser::{Browser, Tab};

/// One browser at a time: each takes a core and a few hundred megabytes.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const WATCHER: &str = "watch-watch-watch-watch-watch-watch0";
const KEEPER: &str = "keep-keep-keep-keep-keep-keep-keep-0";

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A running node, and where it is reached.
struct Node {
    handle: Handle,
    listen: String,
    control: String,
}

impl Node {
    fn start(change: impl FnOnce(&mut Config)) -> Self {
        let local: Listen = "127.0.0.1:0".parse().expect("an address");
        let mut config = Config {
            listen: vec![local.clone()],
            control: Some(local),
            shards: NonZeroUsize::new(2).expect("not zero"),
            drain_timeout: Duration::ZERO,
            // Clients of these tests answer no pings while they are not read.
            heartbeat_interval: Duration::from_secs(3600),
            ..Config::default()
        };
        change(&mut config);
        let server = Server::bind(config).expect("the server binds");
        let listen = server.addresses()[0].to_string();
        let control = server.control_addresses().control.as_ref().expect("it has one").to_string();
        Self { handle: server.start().expect("the server starts"), listen, control }
    }

    fn console(&self) -> String {
        format!("http://{}/console", self.control)
    }

    async fn log_in(&self, uid: &str) -> Client {
        let connected = tokio_tungstenite::connect_async(format!("ws://{}/", self.listen)).await;
        let (mut client, _) = connected.expect("the client connects");
        client.send(Message::text(uid)).await.expect("the login is sent");
        client.next().await.expect("an answer").expect("a frame");
        client
    }
}

fn with_tokens(config: &mut Config) {
    let tokens = [format!("watcher query {WATCHER}"), format!("keeper push+query+admin {KEEPER}")];
    config.control_tokens = tokens.iter().map(|token| token.parse().expect("a token")).collect();
}

/// Waits until an element's text is as `condition`, with `text` for it, says.
#[track_caller]
fn says(tab: &Tab<'_>, id: &str, condition: &str) -> impl Future<Output = ()> {
    tab.wait_for(format!("(text => {condition})(document.getElementById('{id}').textContent)"))
}

#[track_caller]
fn serving(tab: &Tab<'_>) -> impl Future<Output = ()> {
    says(tab, "state", "text === 'serving'")
}

async fn find(tab: &Tab<'_>, uid: &str) {
    tab.fill("uid", uid).await;
    tab.press_enter().await;
    tab.wait_for(format!(
        "!document.getElementById('found').hidden && document.getElementById('who').textContent === {}",
        json!(uid)
    ))
    .await;
}

/// What the pages complained about, but for answers that are expected to be no success: those the browser tells itself.
fn complaints(browser: &Browser) -> Vec<String> {
    let is_answer = |line: &String| line.contains("Failed to load resource");
    browser.complaints().into_iter().filter(|line| !is_answer(line)).collect()
}

#[tokio::test]
async fn charts_move_while_messages_flow() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let node = Node::start(|_| {});
    // From where the listener's own address is asked for.
    let tab = browser.open(&node.console()).await;
    serving(&tab).await;
    let uids: Vec<String> = (0..2)
        .map(|shard| {
            let mut names = (0..).map(|number| format!("user{number}"));
            names.find(|uid| node.handle.shard_of(uid) == shard).expect("every shard owns some uid")
        })
        .collect();
    let mut clients = Vec::new();
    for uid in &uids {
        clients.push(node.log_in(uid).await);
    }
    let (handle, receivers) = (node.handle.clone(), uids.clone());
    let pushing = tokio::spawn(async move {
        loop {
            for uid in &receivers {
                handle.push(uid, Kind::Text, "x").await;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let receiving: Vec<_> = clients
        .into_iter()
        .map(|mut client| tokio::spawn(async move { while client.next().await.is_some() {} }))
        .collect();
    says(&tab, "total-sessions", "text === '2'").await;
    says(&tab, "total-out", "parseFloat(text) > 1").await;
    says(&tab, "total-turn", "/^[0-9.]+ (µs|ms|s)$/.test(text)").await;
    for (row, chart) in [(1, 1), (2, 1), (1, 2), (2, 2)] {
        // Of each shard the lines of messages and of turn times, which rise above their floor.
        let line = format!(
            "document.querySelectorAll('.row')[{row}].querySelectorAll('.plot')[{}].querySelector('path:not(.grid)').getAttribute('d')",
            chart - 1
        );
        tab.wait_for(format!("{line}.split('L').length > 3 && /L[0-9.]+ [0-8]?[0-9]\\./.test({line})")).await;
        let before = tab.evaluate(&line).await;
        tab.wait_for(format!("{line} !== {before}")).await;
    }
    // An earlier second is read by the keyboard.
    tab.evaluate("document.getElementById('rows').focus()").await;
    tab.evaluate("document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft' }))").await;
    says(&tab, "moment", "/^[1-9][0-9]* s ago$/.test(text)").await;
    tab.evaluate("document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape' }))").await;
    says(&tab, "moment", "text === 'the last two minutes'").await;
    pushing.abort();
    says(&tab, "total-out", "text === '0'").await;
    assert_eq!(complaints(&browser), Vec::<String>::new());
    node.handle.drain().await;
    for client in receiving {
        client.await.expect("it ends with its connection");
    }
}

#[tokio::test]
async fn user_is_found_pushed_to_and_closed() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let node = Node::start(|_| {});
    let tab = browser.open(&node.console()).await;
    find(&tab, "alice").await;
    says(&tab, "presence", "text === 'offline'").await;
    assert_eq!(tab.evaluate("document.getElementById('kick').disabled").await, json!(true));
    tab.fill("message", "anybody?").await;
    tab.click("send").await;
    says(&tab, "result", "text === 'Not delivered: nobody is logged in as alice.'").await;

    let mut alice = node.log_in("alice").await;
    find(&tab, "alice").await;
    says(&tab, "presence", "text === 'online, 1 session'").await;
    says(&tab, "sessions", "text.startsWith('127.0.0.1:') && text.includes('since ')").await;
    tab.fill("message", "olá <b>alice</b>").await;
    tab.click("send").await;
    says(&tab, "result", "text === 'Delivered to 1 session of alice.'").await;
    let received = alice.next().await.expect("a message").expect("a frame");
    assert_eq!(received, Message::text("olá <b>alice</b>"));

    // The close is asked for twice, and can be thought better of.
    tab.click("kick").await;
    tab.wait_for("document.getElementById('sure').open").await;
    tab.click("spare").await;
    tab.wait_for("!document.getElementById('sure').open").await;
    tab.click("kick").await;
    tab.fill("reason", "lunch & more").await;
    tab.click("sure-kick").await;
    says(&tab, "result", "text === 'Closed 1 session of alice.'").await;
    let Message::Close(Some(close)) = alice.next().await.expect("a close").expect("a frame") else {
        panic!("alice was sent something else")
    };
    assert_eq!((u16::from(close.code), close.reason.as_str()), (1008, "lunch & more"));
    says(&tab, "closes", "text.includes('1008 refused by a rule of this server')").await;

    for (uid, words) in [("a:b", "colon"), ("..", "can’t stand in an address")] {
        tab.fill("uid", uid).await;
        tab.press_enter().await;
        says(&tab, "result", &format!("text.includes('{words}')")).await;
        assert_eq!(tab.evaluate("document.getElementById('found').hidden").await, json!(true));
    }
    assert_eq!(complaints(&browser), Vec::<String>::new());
    node.handle.drain().await;
}

#[tokio::test]
async fn who_is_online_is_listed_page_by_page() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let node = Node::start(|_| {});
    let mut clients = Vec::new();
    for number in 0..70 {
        clients.push(node.log_in(&format!("<i>user</i>{number}")).await);
    }
    let tab = browser.open(&node.console()).await;
    let shown = "document.querySelectorAll('#uids button').length";
    tab.wait_for(format!("{shown} === 50")).await;
    let first = tab.evaluate("[...document.querySelectorAll('#uids bdi')].map(e => e.textContent)").await;
    tab.click("next-page").await;
    tab.wait_for(format!("{shown} === 20")).await;
    let second = tab.evaluate("[...document.querySelectorAll('#uids bdi')].map(e => e.textContent)").await;
    // As after the computer's sleep, when all answers before are too old: the list went back to its first page.
    tab.evaluate("samples = []; 0").await;
    tab.wait_for("samples.length > 1").await;
    assert_eq!(tab.evaluate(shown).await, json!(20), "it is still on its second page");
    let uids = |page: &serde_json::Value| page.as_array().expect("a list").clone();
    let mut all: Vec<_> = [uids(&first), uids(&second)].concat().iter().map(ToString::to_string).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 70, "each is on one page");
    assert_eq!(tab.evaluate("document.getElementById('next-page').hidden").await, json!(true), "it was the last");
    assert_eq!(tab.evaluate("document.querySelectorAll('#uids i').length").await, json!(0), "a uid is no markup");

    // One of them is looked at.
    tab.evaluate("document.querySelector('#uids button').click()").await;
    says(&tab, "presence", "text === 'online, 1 session'").await;
    assert_eq!(json!(tab.text("who").await), uids(&second)[0]);
    drop(clients);
    tab.wait_for("document.getElementById('total-sessions').textContent === '0'").await;
    tab.click("first-page").await;
    says(&tab, "online-result", "text === 'Nobody has logged in.'").await;
    assert_eq!(complaints(&browser), Vec::<String>::new());
    node.handle.drain().await;
}

#[tokio::test]
async fn message_to_everybody_is_sent_after_a_second_look() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let node = Node::start(|_| {});
    let (mut alice, mut bob) = (node.log_in("alice").await, node.log_in("bob").await);
    let tab = browser.open(&node.console()).await;
    says(&tab, "total-sessions", "text === '2'").await;
    tab.fill("broadcast-message", "olá <b>all</b>").await;
    tab.click("broadcast-send").await;
    says(&tab, "sure-all-hint", "text === '2 sessions would get it.'").await;
    tab.click("spare-all").await;
    tab.wait_for("!document.getElementById('sure-all').open").await;
    tab.click("broadcast-send").await;
    says(&tab, "sure-all-text", "text === 'olá <b>all</b>'").await;
    tab.click("sure-send").await;
    says(&tab, "broadcast-result", "text === 'Sent to 2 sessions.'").await;
    for client in [&mut alice, &mut bob] {
        assert_eq!(client.next().await.expect("a message").expect("a frame"), Message::text("olá <b>all</b>"));
    }
    // It was sent once.
    node.handle.push("alice", Kind::Text, "next").await;
    assert_eq!(alice.next().await.expect("a message").expect("a frame"), Message::text("next"));
    assert_eq!(complaints(&browser), Vec::<String>::new());
    node.handle.drain().await;
}

#[tokio::test]
async fn settings_ceiling_and_hours_before_are_shown() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let node = Node::start(|config| {
        config.connections_max = 3;
        with_tokens(config);
    });
    let mut stranger = TcpStream::connect(&node.listen).await.expect("it connects");
    stranger.write_all(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("it is sent");
    let tab = browser.open(&node.console()).await;
    for (token, words) in [(WATCHER, "needs the right admin"), (KEEPER, "differ from their default")] {
        says(&tab, "state", "text === 'token needed'").await;
        tab.fill("token", token).await;
        tab.press_enter().await;
        serving(&tab).await;
        tab.evaluate("document.getElementById('settings').open = true").await;
        says(&tab, "settings-result", &format!("text.includes('{words}')")).await;
        tab.evaluate("document.getElementById('settings').open = false").await;
        if token == WATCHER {
            tab.click("forget").await;
        }
    }
    tab.evaluate("document.getElementById('settings').open = true").await;
    let row = "[...document.querySelectorAll('#setting-rows .changed')].map(row => row.innerText).join(' ')";
    tab.wait_for(format!("/connections_max[^]*3[^]*1000000/.test({row})")).await;
    tab.wait_for(format!("/control_tokens[^]*\\(hidden\\)/.test({row})")).await;
    for secret in [WATCHER, KEEPER] {
        let is_shown = format!("document.documentElement.innerText.includes({})", json!(secret));
        assert_eq!(tab.evaluate(&is_shown).await, json!(false));
    }
    tab.wait_for("document.querySelectorAll('#totals div')[1].innerText.includes('of 3 (setting)')").await;
    says(&tab, "refusals", "text.includes('expected GET')").await;
    // Where nothing was counted there is no row.
    assert_eq!(tab.evaluate("document.querySelectorAll('#lost tr, #closes tr').length").await, json!(0));
    tab.wait_for(format!("document.getElementById('page').href === 'http://{}/'", node.listen)).await;

    // A link sends no token, so the description of the API is fetched, and becomes a file.
    tab.evaluate(
        "window.files = []; HTMLAnchorElement.prototype.click = function () { files.push([this.download, this.href]) }",
    )
    .await;
    tab.click("api").await;
    tab.wait_for("files.length === 1 && files[0][0] === 'pombo-openapi.json' && files[0][1].startsWith('blob:')").await;

    // The node takes the second sample ten seconds after its start; a page that opens later has both at once.
    tab.wait_for("!document.getElementById('history').hidden && past.at_ms.length > 1").await;
    tab.call("Page.reload", json!({})).await;
    tab.wait_for("document.readyState === 'complete' && past?.at_ms.length > 1 && samples.length < 4").await;
    let line = "document.querySelector('#hours path:not(.grid)').getAttribute('d')";
    tab.wait_for(format!("{line}.includes('L')")).await;
    // An earlier sample is read by keys, too.
    tab.evaluate("document.getElementById('hours').focus()").await;
    tab.evaluate("document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft' }))").await;
    says(&tab, "history-moment", "text.startsWith('at ')").await;
    tab.evaluate("document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape' }))").await;
    says(&tab, "history-moment", "text.startsWith('the last ')").await;
    // The node's clock is set back: rates were negative.
    assert_eq!(tab.evaluate("past.at_ms.reverse(); figure('cpu_ms', true, 1) >= 0").await, json!(true));

    // With all its connections the node serves those it has, and says that it accepts none.
    let mut clients = Vec::new();
    for number in 0..3 {
        clients.push(TcpStream::connect(&node.listen).await.expect("it connects"));
        says(&tab, "total-connections", &format!("Number(text) > {number}")).await;
    }
    let full = "accepts no connections: 3 connections are open, of connections_max = 3";
    says(&tab, "state", &format!("text === '{full}'")).await;
    assert_eq!(tab.evaluate("document.body.hasAttribute('data-stale')").await, json!(false));
    drop(clients);
    serving(&tab).await;

    // The page is at the node's loopback address, which is not that of a browser elsewhere.
    assert_eq!(tab.evaluate("document.getElementById('page').hidden").await, json!(false));
    let remote = browser.open(&node.console().replace("127.0.0.1", "node.test")).await;
    says(&remote, "state", "text === 'token needed'").await;
    remote.fill("token", WATCHER).await;
    remote.press_enter().await;
    serving(&remote).await;
    assert_eq!(remote.evaluate("document.getElementById('page').hidden").await, json!(true));
    assert_eq!(complaints(&browser), Vec::<String>::new());
    node.handle.drain().await;
}

#[tokio::test]
async fn grid_has_no_holes() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let node = Node::start(|_| {});
    let tab = browser.open(&node.console()).await;
    serving(&tab).await;
    for width in [390, 600, 800, 1024, 1280, 1440, 1920] {
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500});
        tab.call("Emulation.setDeviceMetricsOverride", size).await;
        // Every row of a grid ends where the grid ends.
        let holes = "['totals', 'hours', 'counts'].map(id => {
            const grid = document.getElementById(id);
            if (!grid.offsetParent) return 0;
            const columns = getComputedStyle(grid).gridTemplateColumns.split(' ').length;
            return grid.children.length % columns;
        })";
        assert_eq!(tab.evaluate(holes).await, json!([0, 0, 0]), "{width} wide");
        let overflow = "Math.max(0, document.documentElement.scrollWidth - innerWidth)";
        assert_eq!(tab.evaluate(overflow).await, json!(0), "{width} wide");
    }
    assert_eq!(complaints(&browser), Vec::<String>::new());
    node.handle.drain().await;
}

#[tokio::test]
async fn token_is_asked_for_and_its_rights_hold() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let node = Node::start(with_tokens);
    let mut alice = node.log_in("alice").await;
    let tab = browser.open(&node.console()).await;
    says(&tab, "state", "text === 'token needed'").await;
    says(&tab, "token-hint", "text.startsWith('The node asks for a token.')").await;
    for (token, words) in [("none at all", "letters, digits"), (&WATCHER[1..], "not taken")] {
        tab.fill("token", token).await;
        tab.press_enter().await;
        says(&tab, "token-hint", &format!("text.includes('{words}')")).await;
    }
    tab.fill("token", WATCHER).await;
    tab.press_enter().await;
    serving(&tab).await;
    find(&tab, "alice").await;
    tab.fill("message", "hi").await;
    tab.click("send").await;
    says(&tab, "result", "text.includes('the token needs the right push')").await;
    tab.click("kick").await;
    tab.click("sure-kick").await;
    says(&tab, "result", "text.includes('the token needs the right admin')").await;

    // It is kept for this tab, and nowhere else.
    let place = tab.evaluate("[location.href, document.cookie, localStorage.length]").await;
    assert_eq!(place, json!([node.console(), "", 0]));
    tab.call("Page.reload", json!({})).await;
    tab.wait_for(
        "document.readyState === 'complete' && document.getElementById('total-sessions')?.textContent === '1'",
    )
    .await;
    tab.click("forget").await;
    says(&tab, "state", "text === 'token needed'").await;
    assert_eq!(tab.evaluate("sessionStorage.length").await, json!(0));

    tab.fill("token", KEEPER).await;
    tab.press_enter().await;
    serving(&tab).await;
    find(&tab, "alice").await;
    tab.fill("message", "hi").await;
    tab.click("send").await;
    says(&tab, "result", "text.startsWith('Delivered')").await;
    assert_eq!(alice.next().await.expect("a message").expect("a frame"), Message::text("hi"));
    assert_eq!(complaints(&browser), Vec::<String>::new());
    node.handle.drain().await;
}

#[tokio::test]
async fn hostile_uid_is_shown_as_text() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let node = Node::start(|_| {});
    let tab = browser.open(&node.console()).await;
    tab.evaluate("window.hits = 0").await;
    // One has a path, one a query and a percent sign, and one would turn the line around.
    let uids = [
        "<img src=x onerror=hits++>",
        "<script>hits++</script>/../x",
        "a?b=%41&c#d",
        "\u{202e}drowssap</bdi>",
        "$& {uid}",
    ];
    for uid in uids {
        let _client = node.log_in(uid).await;
        find(&tab, uid).await;
        says(&tab, "presence", "text === 'online, 1 session'").await;
        tab.click("send").await;
        says(&tab, "result", &format!("text === 'Delivered to 1 session of ' + {} + '.'", json!(uid))).await;
        tab.click("kick").await;
        says(&tab, "sure-who", &format!("text === {}", json!(uid))).await;
        tab.click("sure-kick").await;
        says(&tab, "result", "text.startsWith('Closed 1 session')").await;
    }
    let elements = "document.querySelectorAll('img, #user script, bdi *').length + hits";
    assert_eq!(tab.evaluate(elements).await, json!(0));
    assert_eq!(complaints(&browser), Vec::<String>::new());
    node.handle.drain().await;
}

#[tokio::test]
async fn node_that_ends_and_comes_back_is_told() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let node = Node::start(|config| config.drain_timeout = Duration::from_secs(3600));
    // Their turns to go are spread over the time there is.
    let mut clients = Vec::new();
    for uid in ["alice", "bob", "carol", "dave"] {
        clients.push(node.log_in(uid).await);
    }
    let tab = browser.open(&node.console()).await;
    says(&tab, "total-sessions", "text === '4'").await;
    let handle = node.handle.clone();
    let drain = tokio::spawn(async move { handle.drain().await });
    says(&tab, "state", "text === 'draining'").await;
    drop(clients);
    drain.await.expect("it does not panic");
    says(&tab, "state", "/^no answer for .*, (next try in [0-9]+ s|trying)$/.test(text)").await;
    assert_eq!(tab.evaluate("document.body.hasAttribute('data-stale')").await, json!(true));

    let (control, listen) = (node.control.clone(), node.listen.clone());
    let again = Node::start(|config| {
        config.control = Some(control.parse().expect("an address"));
        config.listen = vec![listen.parse().expect("an address")];
        config.shards = NonZeroUsize::new(3).expect("not zero");
    });
    serving(&tab).await;
    assert_eq!(tab.text("announce").await, "serving");
    let _erin = again.log_in("erin").await;
    // Its counts are smaller than those before: no rate is made of that, and nothing is negative.
    says(&tab, "total-sessions", "text === '1'").await;
    assert_eq!(tab.evaluate("document.querySelectorAll('.shard').length").await, json!(3));
    assert_eq!(tab.evaluate("document.body.innerText.includes('-')").await, json!(false), "a negative number");
    let others = complaints(&browser).into_iter().filter(|line| !line.contains("net::ERR"));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<String>::new());
    again.handle.drain().await;
}

#[tokio::test]
async fn page_fits_a_phone() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let node = Node::start(|config| config.shards = NonZeroUsize::new(8).expect("not zero"));
    let uid = "W".repeat(256);
    let _client = node.log_in(&uid).await;
    let tab = browser.open(&node.console()).await;
    let size = json!({"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": true});
    tab.call("Emulation.setDeviceMetricsOverride", size).await;
    says(&tab, "total-sessions", "text === '1'").await;
    find(&tab, &uid).await;
    tab.evaluate("show('stale', 'no answer for 12 min 34 s, next try in 15 s')").await;
    assert_eq!(tab.evaluate("[innerWidth, document.documentElement.scrollWidth]").await, json!([360, 360]));
    assert_eq!(tab.evaluate("document.querySelectorAll('.shard').length").await, json!(8));
    // Whatever can be pressed is as wide as a finger, and every field has its name.
    let small = "[...document.querySelectorAll('main button')].filter(e => e.offsetParent && e.getBoundingClientRect().height < 40).length";
    assert_eq!(tab.evaluate(small).await, json!(0));
    let nameless = "[...document.querySelectorAll('input, textarea')].filter(e => !e.labels.length).length";
    assert_eq!(tab.evaluate(nameless).await, json!(0));
    assert_eq!(complaints(&browser), Vec::<String>::new());
    node.handle.drain().await;
}

/// Keeps a user at writing to the others, more and less by turns, until the future is dropped.
async fn chat(node: &Node, number: usize, users: usize) {
    let (mut sink, mut stream) = node.log_in(&format!("user{number}")).await.split();
    let begun = Instant::now();
    let write = async {
        for count in number.. {
            let phase = (begun.elapsed().as_secs_f64() / 13.0 + number as f64 / 300.0).sin();
            sleep(Duration::from_secs_f64(0.25 / (1.3 + phase))).await;
            let message = format!("user{}:Is the loft open?", (count * 7 + number) % users);
            if sink.send(Message::text(message)).await.is_err() {
                return;
            }
        }
    };
    let read = async { while stream.next().await.is_some() {} };
    tokio::join!(write, read);
}

/// Writes the README's pictures, after two minutes of load: `cargo test --release --test console -- --ignored picture`.
#[tokio::test]
#[ignore = "writes docs/console.png and docs/console-dark.png, and takes two minutes"]
async fn picture_of_the_console() {
    const USERS: usize = 240;
    let _turn = ONE_AT_A_TIME.lock().await;
    let Some(browser) = Browser::start().await else { return };
    let node = Arc::new(Node::start(|config| config.shards = NonZeroUsize::new(4).expect("not zero")));
    let tab = browser.open(&node.console()).await;
    let size = json!({"width": 1280, "height": 1372, "deviceScaleFactor": 1, "mobile": false});
    tab.call("Emulation.setDeviceMetricsOverride", size).await;
    tab.call("Emulation.setScrollbarsHidden", json!({"hidden": true})).await;
    let begun = Instant::now();
    let mut chats = tokio::task::JoinSet::new();
    for number in 0..USERS {
        let node = Arc::clone(&node);
        chats.spawn(async move { chat(&node, number, USERS).await });
    }
    let slow = node.log_in("slow").await;
    let (mut guests, mut gone) = (0, Vec::new());
    while begun.elapsed() < Duration::from_secs(125) {
        sleep(Duration::from_millis(500)).await;
        let (handle, second) = (&node.handle, begun.elapsed().as_secs());
        handle.broadcast(Kind::Text, "Fresh seed for everybody!").await;
        // One reads nothing, some come and go, and some can't be let in.
        if (80..100).contains(&second) {
            handle.push("slow", Kind::Binary, vec![0; 512 << 10]).await;
        }
        guests += 1;
        gone.push(node.log_in(&format!("guest{guests}")).await);
        if gone.len() > 9 {
            gone.remove(0).close(None).await.ok();
        }
        if guests % 47 == 0 {
            let mut stranger = TcpStream::connect(&node.listen).await.expect("it connects");
            stranger.write_all(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("it is sent");
            handle.push("nobody", Kind::Text, "x").await;
        }
    }
    find(&tab, "user7").await;
    tab.fill("message", "Your parcel has arrived").await;
    tab.click("send").await;
    says(&tab, "result", "text.startsWith('Delivered')").await;
    tab.click("first-page").await;
    tab.wait_for("document.querySelectorAll('#uids button').length > 0").await;
    tab.evaluate("scrollTo(0, 0)").await;
    for (scheme, file) in [("light", "console.png"), ("dark", "console-dark.png")] {
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        tab.call("Emulation.setEmulatedMedia", media).await;
        let picture = tab.call("Page.captureScreenshot", json!({"format": "png"})).await;
        let picture = data_encoding::BASE64.decode(picture["data"].as_str().expect("a picture").as_bytes());
        let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        std::fs::write(docs.join(file), picture.expect("valid base64")).expect("docs can be written");
    }
    drop((slow, chats));
    node.handle.drain().await;
}
