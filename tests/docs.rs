//! Holds `docs/protocol.md`, `docs/compatibility.md`, `docs/security.md` and `docs/reliability.md` against the code, the
//! tests, and a running node.

mod support;

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use pombo::config::{Paths, SETTINGS, Setting};
use pombo::frame::{Violation, close};
use pombo::protocol::plain::NO_COLON;
use pombo::protocol::{Protocol, Recipient, Span};
use pombo::uid::{Uid, UidHasher};
use pombo::{Config, Reason, RefusalAnswer};
use support::{Authority, Node, Request, Sent, nodes};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The rows of the tables whose heads begin with these columns, cell by cell.
#[track_caller]
fn rows(document: &str, head: &[&str]) -> Vec<Vec<String>> {
    let text = read(document);
    let cells = |line: &str| -> Vec<String> {
        let inside = line.trim().trim_start_matches('|').trim_end_matches('|');
        inside.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let mut rows = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with('|') && cells(line).iter().zip(head).all(|(cell, name)| cell.starts_with(name)) {
            rows.extend(lines.by_ref().skip(1).take_while(|line| line.starts_with('|')).map(cells));
        }
    }
    assert!(!rows.is_empty(), "{document} has no table with {head:?}");
    rows
}

/// What stands between the backticks of a cell that is nothing else.
#[track_caller]
fn code(cell: &str) -> &str {
    let inside = cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`'));
    inside.unwrap_or_else(|| panic!("expected `…`, got {cell}"))
}

#[test]
fn every_test_named_for_a_difference_an_attack_or_a_promise_exists() {
    let differences = rows("docs/compatibility.md", &["what a client does"]);
    let attacks = rows("docs/security.md", &["class"]);
    let promises = rows("docs/reliability.md", &["promise", "said in", "tests"]);
    for row in differences.iter().chain(&attacks).chain(&promises) {
        let tests = row.last().expect("a row has cells");
        for test in tests.split(", ").map(code) {
            let (module, name) = test.rsplit_once("::").unwrap_or_else(|| panic!("expected file::test, got {test}"));
            let source = read(&match module.strip_suffix("::tests").unwrap_or(module).replace("::", "/") {
                file if file.contains('/') => format!("src/{file}.rs"),
                file => format!("tests/{file}.rs"),
            });
            let lines: Vec<_> = source.lines().map(str::trim).collect();
            let heads = [("#[test]", "fn"), ("#[tokio::test]", "async fn")]
                .map(|(attribute, keyword)| [attribute.to_owned(), format!("{keyword} {name}() {{")]);
            let is_there = lines.windows(2).any(|pair| heads.iter().any(|head| pair == head));
            assert!(is_there, "there is no test {test}");
        }
    }
}

/// How the keys of settings end that bound something.
const LIMITS: [&str; 6] = ["_interval", "_max", "_patience", "_per_minute", "_per_second", "_timeout"];

#[test]
fn every_limit_is_told_with_its_default() {
    let written: Vec<_> = rows("docs/security.md", &["setting", "default", "why"])
        .iter()
        .map(|row| (code(&row[0]).to_owned(), row[1].replace('`', "")))
        .collect();
    for (key, default) in &written {
        let setting = Setting::of(key).unwrap_or_else(|| panic!("{key} is no setting"));
        assert_eq!(*default, setting.default_text(), "{key}");
    }
    for setting in SETTINGS.iter().filter(|setting| LIMITS.iter().any(|end| setting.key.ends_with(end))) {
        let times = written.iter().filter(|(key, _)| key == setting.key).count();
        assert_eq!(times, 1, "{} stands {times} times in the tables of docs/security.md", setting.key);
    }
}

#[test]
fn close_codes_are_those_of_the_code() {
    let written = rows("docs/protocol.md", &["code", "name", "meaning"]);
    let written: Vec<_> = written.iter().map(|row| (row[0].as_str(), code(&row[1]), row[2].as_str())).collect();
    let codes: Vec<_> = close::ALL.iter().map(|(code, ..)| code.to_string()).collect();
    let expected: Vec<_> =
        close::ALL.iter().zip(&codes).map(|((_, name, meaning), code)| (code.as_str(), *name, *meaning)).collect();
    assert_eq!(written, expected);
}

#[test]
fn error_texts_are_those_of_the_code() {
    let written = rows("docs/protocol.md", &["text", "when"]);
    let written: Vec<_> = written.iter().map(|row| code(&row[0])).collect();
    let uid_bytes_max = Config::default().uid_bytes_max;
    let uids = [&b""[..], &[b'x'; 300], b"a:b", b"all", b"\xff"];
    let refused = uids.map(|uid| Uid::new(uid, uid_bytes_max, &UidHasher::fixed(0)).expect_err("no uid"));
    let meanings = [close::UID_TAKEN, close::UID_FULL].map(|code| close::meaning(code).expect("a code of ours"));
    let one = Recipient::Uid(Span::new(0, 3));
    let mut texts = [NO_COLON.0, one.refusal(), Recipient::Everybody.refusal()].map(str::to_owned).to_vec();
    texts.extend(refused.map(|error| error.to_string()));
    texts.extend(meanings.map(str::to_owned));
    let expected: Vec<_> = texts.iter().filter_map(|text| Protocol::Plain.error(text)).collect();
    assert_eq!(written, expected);
}

#[test]
fn close_reasons_are_those_of_the_code() {
    let written = rows("docs/protocol.md", &["code", "reason"]);
    let written: Vec<_> = written.iter().map(|row| (row[0].clone(), code(&row[1]).to_owned())).collect();
    let max = Config::default().message_bytes_max;
    let reasons = [
        Violation::Unmasked,
        Violation::ReservedBits(4),
        Violation::ReservedOpcode(3),
        Violation::FragmentedControl,
        Violation::ControlTooLong,
        Violation::LengthNotMinimal(5),
        Violation::LengthTopBit,
        Violation::ContinuationWithoutStart,
        Violation::DataInsideMessage,
        Violation::CloseBodyTooShort,
        Violation::CloseCodeInvalid(1005),
        Violation::TextNotUtf8,
        Violation::CloseReasonNotUtf8,
        Violation::MessageTooLarge { length: 2_000_000, max },
    ];
    let mut expected: Vec<_> =
        reasons.iter().map(|reason| (reason.close_code().to_string(), reason.to_string())).collect();
    expected.extend(timeouts().map(|reason| (close::POLICY.to_string(), reason)));
    expected.extend(rates().map(|reason| (close::POLICY.to_string(), reason)));
    expected.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(written, expected);
}

/// The reasons of the time-outs, as a node with short ones gives them, with the default times put in.
fn timeouts() -> [String; 2] {
    const SHORT: Duration = Duration::from_millis(100);
    let short = |config: &mut Config| (config.login_timeout, config.message_timeout) = (SHORT, SHORT);
    let (node, default) = (nodes().with(short).start(1), Config::default());
    let stranger = node.connect();
    let mut slow = node.log_in("slow");
    slow.send(&Sent::text("slow:x").unfinished());
    let mut ends = [(stranger, default.login_timeout), (slow, default.message_timeout)];
    ends.each_mut().map(|(client, time)| {
        let frame = client.receive();
        let (_, reason) = frame.as_close().expect("a close frame with its reason");
        reason.replace(&format!("{SHORT:?}"), &format!("{time:?}"))
    })
}

/// The reasons of the rates, as a node with low ones gives them, with the default patience put in.
fn rates() -> [String; 2] {
    const PATIENCE: Duration = Duration::from_millis(50);
    let messages = |config: &mut Config| config.message_rate_max = Some(100);
    let bytes = |config: &mut Config| config.byte_rate_max = Some(10_000);
    let default = Config::default().rate_patience;
    [nodes().with(messages), nodes().with(bytes)].map(|nodes| {
        let node = nodes.with(|config| config.rate_patience = PATIENCE).start(1);
        let mut client = node.log_in("alice");
        client.send_together(&vec![Sent::text("nobody:".to_owned() + &"x".repeat(100)); 1000]);
        let frame = client.receive();
        let (_, reason) = frame.as_close().expect("a close frame with its reason");
        reason.replace(&format!("{PATIENCE:?}"), &format!("{default:?}"))
    })
}

#[test]
fn refusals_are_those_of_the_code() {
    let named = |head: &[&str]| rows("docs/protocol.md", head).into_iter().map(|row| (code(&row[0]).to_owned(), row));
    let mut written: Vec<_> = named(&["reason", "status", "line"])
        .map(|(name, row)| (name, format!("http {} {}", row[1], code(&row[2]))))
        .chain(named(&["reason", "code"]).map(|(name, row)| (name, format!("close {}", row[1]))))
        .chain(named(&["reason", "status or"]).map(|(name, row)| {
            let told = format!("http {} or close {} {}", row[1], row[2], code(&row[3]));
            (name, told)
        }))
        .chain(named(&["reason", "no answer when"]).map(|(name, _)| (name, "not".to_owned())))
        .collect();
    written.sort_unstable();
    let told = |reason: &Reason| match reason.answer() {
        RefusalAnswer::Http(status) => format!("http {status} {}", reason.text()),
        RefusalAnswer::Close(code) => format!("close {code}"),
        RefusalAnswer::Credential(status, code) => format!("http {status} or close {code} {}", reason.text()),
        _ => "not".to_owned(),
    };
    let mut expected: Vec<_> = Reason::ALL.iter().map(|reason| (reason.name().to_owned(), told(reason))).collect();
    expected.sort_unstable();
    assert_eq!(written, expected);
}

#[test]
fn http_answers_are_those_of_a_node() {
    let mut written: Vec<_> = rows("docs/protocol.md", &["reason", "status", "line"])
        .iter()
        .map(|row| (row[1].parse::<u16>().expect("a status"), code(&row[2]).to_owned()))
        .collect();
    // What hyper answers has no line of ours; tests/upgrade.rs has those, and their statuses.
    written.retain(|(_, line)| ![Reason::NotHttp, Reason::HeadTooLarge].map(Reason::text).contains(&line.as_str()));
    written.sort_unstable();
    let mut answers = refused_by_default();
    answers.extend([wrong_path(), no_page(), too_many(), draining(), unfinished(), no_proxy_header(), no_tls()]);
    answers.extend(not_admitted());
    answers.sort_unstable();
    assert_eq!(written, answers);
}

type Answer = (u16, String);

#[track_caller]
fn answer(node: &Node, request: &Request) -> Answer {
    let mut client = node.dial();
    client.send_request(request);
    let response = client.receive_response();
    (response.status, response.body.trim_end().to_owned())
}

fn refused_by_default() -> Vec<Answer> {
    let good = Request::upgrade;
    let plain = |first_line: &str| Request::new(first_line).with("Host", "localhost");
    let node = nodes().start(1);
    [
        good().without("Connection"),
        good().replacing("Upgrade", "h2c"),
        good().without("Sec-WebSocket-Key"),
        good().replacing("Sec-WebSocket-Key", "short"),
        good().without("Sec-WebSocket-Version"),
        good().without("Host"),
        good().first_line("GET / HTTP/1.0"),
        good().with("Content-Length", "1"),
        good().with("Origin", "http://localhost").with("Origin", "http://localhost"),
        good().with("Origin", "https://example.com"),
        plain("GET /favicon.ico HTTP/1.1"),
        good().first_line("PUT / HTTP/1.1"),
        plain("PUT / HTTP/1.1"),
        good().replacing("Sec-WebSocket-Version", "8"),
    ]
    .iter()
    .map(|request| answer(&node, request))
    .collect()
}

fn wrong_path() -> Answer {
    let list = |config: &mut Config| config.paths = Paths::List(vec!["/ws".to_owned()]);
    answer(&nodes().with(list).start(1), &Request::upgrade())
}

fn no_page() -> Answer {
    let get = Request::new("GET / HTTP/1.1").with("Host", "localhost");
    answer(&nodes().with(|config| config.page = false).start(1), &get)
}

fn too_many() -> Answer {
    let node = nodes().with(|config| config.connections_max = 1).start(1);
    let _only = node.log_in("alice");
    answer(&node, &Request::upgrade())
}

fn unfinished() -> Answer {
    let node = nodes().with(|config| config.handshake_timeout = Duration::from_millis(100)).start(1);
    let mut client = node.dial();
    client.send_bytes(b"GET / HTTP/1.1\r\n");
    let response = client.receive_response();
    (response.status, response.body.trim_end().to_owned())
}

fn no_proxy_header() -> Answer {
    let change = |config: &mut Config| {
        config.proxy_protocol = true;
        config.trusted_proxies = vec!["127.0.0.1".parse().expect("an address")];
    };
    answer(&nodes().with(change).start(1), &Request::upgrade())
}

/// A request without TLS, where it is spoken.
fn no_tls() -> Answer {
    let authority = Authority::new();
    answer(&nodes().with(|config| authority.apply(config)).start(1), &Request::upgrade())
}

/// The second upgrade of an address, or of the node, where there may be one.
fn not_admitted() -> [Answer; 3] {
    let limits: [fn(&mut Config); 3] = [
        |config| config.address_sessions_max = NonZeroUsize::new(1),
        |config| config.address_logins_per_minute = NonZeroUsize::new(1),
        |config| {
            config.logins_per_second = NonZeroUsize::new(1);
            config.handshake_timeout = Duration::from_millis(500);
        },
    ];
    limits.map(|limit| {
        let node = nodes().with(limit).start(1);
        let _first = node.connect();
        answer(&node, &Request::upgrade())
    })
}

fn draining() -> Answer {
    let node = nodes().with(|config| config.drain_timeout = Duration::from_secs(3600)).start(1);
    let request = Request::upgrade().bytes();
    let mut client = node.dial();
    client.send_bytes(&request[..1]);
    // Accepted after it, so it is accepted, too.
    let mut later = node.connect();
    thread::scope(|threads| {
        threads.spawn(|| node.drain());
        later.expect_close(close::GOING_AWAY, "");
        drop(later);
        client.send_bytes(&request[1..]);
        let response = client.receive_response();
        drop(client);
        (response.status, response.body.trim_end().to_owned())
    })
}
