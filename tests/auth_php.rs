//! The examples in PHP that log users in: by a signed token, and by a PHP session.

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use pombo::Reason;
use pombo::config::{Auth, Origins};
use support::{DEADLINE, Node, Request, interpreter, nodes, run};
use tempfile::tempdir;

#[test]
fn token_of_the_example_logs_in_with_its_rights() {
    if interpreter("php").is_none() {
        return;
    }
    let folder = tempdir().expect("a folder");
    let [file, other] = ["jwt.secret", "other.secret"].map(|name| folder.path().join(name));
    fs::write(&file, "the secret of the tokens, 32 bytes\n").expect("the folder is writable");
    fs::write(&other, "another secret of tokens, 32 bytes").expect("the folder is writable");
    let token = |file: &Path, arguments: &[&str]| {
        let mut php = interpreter("php").expect("it was there");
        run(php.arg("examples/jwt.php").args(arguments).env("JWT_SECRET_FILE", file))
    };
    let node = nodes().with(|config| (config.auth, config.jwt_secret_file) = (Auth::Jwt, Some(file.clone()))).start(1);
    let log_in = |uid: &str, arguments: &[&str]| {
        let (token, code) = token(&file, arguments);
        assert_eq!(code, 0);
        let mut client = node.connect().named(uid);
        client.send_text(token.trim_end());
        client.expect_login_reply();
        client
    };
    // A number is a text, and a text of any kind arrives unchanged.
    let mut seven = log_in("7", &["7"]);
    let mut odd = log_in("a/b \"ó\"", &["a/b \"ó\"", "unicast"]);
    odd.converse(&mut seven);
    odd.send_text("all:x");
    odd.expect_error("lacks the right broadcast");

    let mut client = node.connect();
    client.send_text(token(&other, &["alice"]).0.trim_end());
    client.expect_error(Reason::TokenSignature.text());
    for wrong in [&[][..], &["a:b"], &["all"], &[""], &["alice", "unicast", "send"]] {
        assert_eq!(token(&file, wrong), (String::new(), 2), "{wrong:?}");
    }
    assert_eq!(token(Path::new("/absent"), &["alice"]), (String::new(), 1));
}

/// The application with PHP sessions; it ends when dropped.
struct Application {
    child: Child,
    address: SocketAddr,
}

impl Application {
    fn start(sessions: &Path) -> Option<Self> {
        let mut php = interpreter("php")?;
        let save_path = format!("session.save_path={}", sessions.display());
        let arguments = ["-d", &save_path, "-S", "127.0.0.1:0", "examples/auth_session.php"];
        let mut child = php.args(arguments).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        let mut output = BufReader::new(child.stderr.take().expect("it is piped"));
        output.read_line(&mut line).expect("it prints UTF-8");
        // The rest is thrown away, so that it never waits for a reader.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        let address = line.split("http://").nth(1).and_then(|rest| rest.split(')').next());
        let address = address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("got {line:?}"));
        Some(Self { child, address })
    }

    /// Posts a form, with a cookie; returns the cookie that the application sets last.
    fn post(&self, path: &str, cookie: &str, form: &str) -> Option<String> {
        let answer = self.answer(path, cookie, form);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let cookies = answer.lines().filter_map(|line| line.strip_prefix("Set-Cookie: "));
        cookies.filter_map(|cookie| cookie.split(';').next()).next_back().map(str::to_owned)
    }

    fn answer(&self, path: &str, cookie: &str, form: &str) -> String {
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncookie: {cookie}\r\n");
        let form_head =
            format!("content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n", form.len());
        stream.write_all(format!("{head}{form_head}\r\n{form}").as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn php_session_logs_in_by_its_cookie_alone() {
    let sessions = tempdir().expect("a folder");
    let Some(application) = Application::start(sessions.path()) else { return };
    let url = format!("http://{}/pombo", application.address);
    let node = nodes().with(move |config| {
        config.auth = Auth::Http;
        config.auth_url = Some(url.parse().expect("an address"));
        config.auth_url_login_headers = vec!["cookie".to_owned()];
        config.auth_url_timeout = DEADLINE;
        config.auth_cache_ttl = Duration::ZERO;
        config.origins = Origins::Any;
    });
    let node = node.start(1);
    for wrong in ["", "user=", "user=a:b", "user=all", "user[]=alice", "user=%ff"] {
        let answer = application.answer("/login", "", wrong);
        assert!(answer.starts_with("HTTP/1.1 400 ") && !answer.contains("Set-Cookie"), "{wrong}: {answer}");
    }
    let cookie = application.post("/login", "", "user=al%20ice").expect("it sets a cookie");
    let mut alice = node.dial().named("al ice");
    alice.send_request(&Request::upgrade().with("Cookie", &format!("theme=dark; {cookie}; x=y")));
    alice.expect_upgrade();
    alice.expect_login_reply();
    alice.expect_silence();
    alice.send_text("all:x");
    alice.expect_error("lacks the right broadcast");

    let name = cookie.split('=').next().expect("a cookie has a name");
    for other in
        [format!("{name}={}", "0".repeat(26)), format!("{name}=../../etc/passwd"), name.to_owned(), "a=b".to_owned()]
    {
        is_refused(&node, &other);
    }
    // Without a cookie the first message is asked about, and this application takes none.
    let mut client = node.connect();
    client.send_text("al ice");
    client.expect_error(Reason::AuthRefused.text());
    application.post("/logout", &cookie, "");
    is_refused(&node, &cookie);
    // A session of pombo goes on until it is closed.
    alice.expect_silence();
}

#[track_caller]
fn is_refused(node: &Node, cookie: &str) {
    let mut client = node.dial();
    client.send_request(&Request::upgrade().with("Cookie", cookie));
    let response = client.receive_response();
    assert_eq!((response.status, response.body.trim_end()), (401, Reason::LoginHeaderRefused.text()), "{cookie}");
}
