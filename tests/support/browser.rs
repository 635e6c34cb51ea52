//! A real headless Chromium, driven by the Chrome DevTools Protocol over one WebSocket.
//!
//! The browser ends, with all its processes and its profile, when [`Browser`] is dropped. Every wait is on a condition
//! with a deadline. What the pages complain about (console errors, exceptions, policy violations) is kept for
//! [`Browser::complaints`].

use std::collections::HashMap;
use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

/// How long any condition may take: generous, since a loaded machine starts a browser slowly.
const DEADLINE: Duration = Duration::from_secs(60);
/// Pause between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Complaints kept; one is already too many.
const COMPLAINTS_MAX: usize = 100;

/// A running browser.
pub(crate) struct Browser {
    child: Child,
    requests: mpsc::Sender<Request>,
    complaints: Arc<Mutex<Vec<String>>>,
    /// Last, so that it goes after the processes that write into it.
    _profile: tempfile::TempDir,
}

/// One tab of a [`Browser`].
pub(crate) struct Tab<'b> {
    browser: &'b Browser,
    session: String,
}

struct Request {
    message: Value,
    answer: oneshot::Sender<Value>,
}

impl Browser {
    /// Starts a browser, or says why the test is skipped.
    ///
    /// # Panics
    /// If there is no browser under `CI=true`, or if it does not start.
    pub(crate) async fn start() -> Option<Self> {
        let Some(program) = find_program() else {
            assert!(env::var("CI").as_deref() != Ok("true"), "no chromium on PATH, which CI must have");
            // Not by `println!`, which the test harness keeps to itself.
            let _ = writeln!(io::stderr(), "skipped: no chromium, chromium-browser or google-chrome on PATH");
            return None;
        };
        let profile = tempfile::tempdir().expect("a profile directory");
        let child = Command::new(program)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--disable-background-timer-throttling", "--disable-renderer-backgrounding"])
            // A name for pages that are opened as from another machine.
            .arg("--host-resolver-rules=MAP node.test 127.0.0.1")
            .arg("--remote-debugging-port=0")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("the browser starts");
        let (requests, queue) = mpsc::channel(16);
        let mut browser = Self { child, requests, complaints: Arc::default(), _profile: profile };
        let address = browser.debugging_address().await;
        let (socket, _) = tokio_tungstenite::connect_async(&address).await.expect("the browser takes the connection");
        tokio::spawn(exchange(socket, queue, browser.complaints.clone()));
        Some(browser)
    }

    /// Opens a tab and shows `url` in it.
    pub(crate) async fn open(&self, url: &str) -> Tab<'_> {
        let target = self.call(None, "Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = self.call(None, "Target.attachToTarget", attach).await;
        let session = attached["sessionId"].as_str().expect("a session").to_owned();
        let tab = Tab { browser: self, session };
        // Listening comes before the page, so that nothing it says is missed.
        for domain in ["Runtime.enable", "Log.enable", "Page.enable"] {
            tab.call(domain, json!({})).await;
        }
        tab.call("Emulation.setFocusEmulationEnabled", json!({"enabled": true})).await;
        tab.call("Page.navigate", json!({"url": url})).await;
        tab.wait_for(format!("location.href === {} && document.readyState === 'complete'", json!(url))).await;
        tab
    }

    /// Returns what the pages complained about since the start, one line each.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.complaints.lock().expect("no holder panics").clone()
    }

    async fn debugging_address(&mut self) -> String {
        let file = self._profile.path().join("DevToolsActivePort");
        let start = Instant::now();
        loop {
            // Port and path; the file may be seen before it is whole.
            if let Ok(text) = fs::read_to_string(&file)
                && let Some((port, path)) = text.split_once('\n')
                && path.trim_end().starts_with("/devtools/browser/")
            {
                return format!("ws://127.0.0.1:{port}{}", path.trim_end());
            }
            if let Some(status) = self.child.try_wait().expect("the browser is ours") {
                panic!("the browser ended before it listened: {status}");
            }
            assert!(start.elapsed() < DEADLINE, "the browser does not listen after {DEADLINE:?}");
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn call(&self, session: Option<&str>, method: &str, params: Value) -> Value {
        let mut message = json!({"method": method, "params": params});
        if let Some(session) = session {
            message["sessionId"] = json!(session);
        }
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request { message, answer }).await.expect("the browser is connected");
        let answer = timeout(DEADLINE, answered).await.unwrap_or_else(|_| panic!("{method}: no answer"));
        let answer = answer.expect("the browser is connected");
        assert!(answer.get("error").is_none(), "{method}: {}", answer["error"]);
        answer["result"].clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The whole group: a browser is many processes, and none may outlive the test.
        if let Some(group) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Tab<'_> {
    /// Evaluates a JavaScript expression and returns its value.
    ///
    /// # Panics
    /// If it throws.
    pub(crate) async fn evaluate(&self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", params).await;
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    /// Waits until a JavaScript expression is true.
    ///
    /// # Panics
    /// If it is not within the deadline; shows the page's text then.
    #[track_caller]
    pub(crate) fn wait_for(&self, condition: impl Into<String>) -> impl Future<Output = ()> {
        let condition = condition.into();
        let caller = std::panic::Location::caller();
        async move {
            let start = Instant::now();
            while self.evaluate(&condition).await != json!(true) {
                if start.elapsed() > DEADLINE {
                    let text = self.evaluate("document.body.innerText").await;
                    panic!("{caller}: not true after {DEADLINE:?}: {condition}; the page shows {text}");
                }
                sleep(LOOK_AGAIN).await;
            }
        }
    }

    /// Replaces what a field holds, by way of the keyboard.
    pub(crate) async fn fill(&self, id: &str, text: &str) {
        self.evaluate(&format!("document.getElementById('{id}').focus(), document.activeElement.select()")).await;
        if text.is_empty() {
            self.press("Delete", 46, "").await;
        } else {
            self.call("Input.insertText", json!({"text": text})).await;
        }
    }

    /// Presses Enter in the field that has the focus.
    pub(crate) async fn press_enter(&self) {
        self.press("Enter", 13, "\r").await;
    }

    /// Clicks on the middle of an element, scrolled to if need be.
    pub(crate) async fn click(&self, id: &str) {
        let measure = format!(
            "(e => {{ e.scrollIntoView({{block: 'nearest'}}); const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})(document.getElementById('{id}'))"
        );
        // A page that is still being laid out may move the element.
        let mut place = self.evaluate(&measure).await;
        loop {
            let next = self.evaluate(&measure).await;
            if next == place {
                break;
            }
            place = next;
        }
        for kind in ["mousePressed", "mouseReleased"] {
            let params = json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", params).await;
        }
    }

    /// Returns the text of an element.
    pub(crate) async fn text(&self, id: &str) -> String {
        let text = self.evaluate(&format!("document.getElementById('{id}').textContent")).await;
        text.as_str().expect("the element exists").to_owned()
    }

    /// Calls a method of the DevTools protocol on this tab.
    pub(crate) async fn call(&self, method: &str, params: Value) -> Value {
        self.browser.call(Some(&self.session), method, params).await
    }

    async fn press(&self, key: &str, code: u32, text: &str) {
        for kind in ["keyDown", "keyUp"] {
            let params = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
            self.call("Input.dispatchKeyEvent", params).await;
        }
    }
}

/// Carries requests out and answers in until either side has gone; sorts out the complaints.
async fn exchange(
    socket: tokio_tungstenite::WebSocketStream<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>,
    mut requests: mpsc::Receiver<Request>,
    complaints: Arc<Mutex<Vec<String>>>,
) {
    let (mut sink, mut stream) = socket.split();
    let mut waiting: HashMap<u64, oneshot::Sender<Value>> = HashMap::new();
    let mut last_id = 0;
    loop {
        tokio::select! {
            request = requests.recv() => {
                let Some(Request { mut message, answer }) = request else { return };
                last_id += 1;
                message["id"] = json!(last_id);
                waiting.insert(last_id, answer);
                if sink.send(Message::text(message.to_string())).await.is_err() {
                    return;
                }
            }
            received = stream.next() => {
                let Some(Ok(received)) = received else { return };
                let Ok(Ok(message)) = received.to_text().map(serde_json::from_str::<Value>) else { continue };
                if let Some(answer) = message["id"].as_u64().and_then(|id| waiting.remove(&id)) {
                    let _ = answer.send(message);
                } else if let Some(line) = complaint(&message) {
                    let mut complaints = complaints.lock().expect("no holder panics");
                    if complaints.len() < COMPLAINTS_MAX {
                        complaints.push(line);
                    }
                }
            }
        }
    }
}

/// Renders an event that says something is wrong with a page.
fn complaint(event: &Value) -> Option<String> {
    let params = &event["params"];
    match event["method"].as_str()? {
        "Log.entryAdded" if matches!(params["entry"]["level"].as_str(), Some("error" | "warning")) => {
            let entry = &params["entry"];
            Some(format!("{} {}: {} {}", entry["source"], entry["level"], entry["text"], entry["url"]))
        }
        "Runtime.consoleAPICalled" if matches!(params["type"].as_str(), Some("error" | "warning" | "assert")) => {
            Some(format!("console {}: {}", params["type"], params["args"]))
        }
        "Runtime.exceptionThrown" => Some(format!("exception: {}", params["exceptionDetails"])),
        _ => None,
    }
}

fn find_program() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    names.iter().flat_map(|name| env::split_paths(&path).map(move |dir| dir.join(name))).find(|file| is_file(file))
}

fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
}
