//! The log says who was refused for what may be an attack, so that `deploy/fail2ban` finds the addresses, and no others.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::{Ask, Client, Program, Request, SECRET, Signer, claims, eventually, interpreter, run, seconds_from_now};

const FILTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/fail2ban/filter.d/pombo.conf");

const CONTROL_TOKEN: &str = "0123456789abcdef0123456789ABCDEF";

/// Who is refused in [`offend`] for what an attacker may do.
const OFFENDERS: &[&str] = &["192.0.2.1", "192.0.2.4", "2001:db8::1"];

/// Prints the address in each line of the log that an expression of the filter matches: in the line as it is in a file, without
/// its time as fail2ban leaves it, and behind what stands in front of it in the journal.
const PYTHON: &str = r#"
import configparser, re, sys
filter = configparser.ConfigParser()
filter.read(sys.argv[1])
address = r"\[?(?:(?:::f{4,6}:)?(?P<ip4>(?:\d{1,3}\.){3}\d{1,3})|(?P<ip6>(?:[0-9a-fA-F]{1,4}::?|::){1,7}(?:[0-9a-fA-F]{1,4}|(?<=:):)))\]?"
expressions = filter["Definition"]["failregex"].strip().splitlines()
expressions = [re.compile(one.strip().replace("<ADDR>", address)) for one in expressions]
for line in open(sys.argv[2], encoding="utf-8"):
    line = line.rstrip("\n")
    timeless = re.sub(r'^(\{)?(?:"timestamp":")?\d{4}-\d\d-\d\dT[\d:.]+Z"?', r"\1", line)
    for form in [line, timeless, "host pombo[7]: " + line]:
        for match in (one.search(form) for one in expressions):
            if match:
                print(match["ip4"] or match["ip6"])
"#;

fn node(format: &str) -> Program {
    let settings = ["--auth", "jwt", "--jwt-secret", SECRET, "--trusted-proxies", "127.0.0.1", "--log-format", format];
    let limits = ["--address-logins-per-minute", "1", "--origins", "https://example.com", "--log-level", "debug"];
    let tokens = format!("backend push {CONTROL_TOKEN}");
    Program::start_with_control(&[("POMBO_CONTROL_TOKENS", &tokens)], &[&settings[..], &limits].concat())
}

fn from(address: &str) -> Request {
    Request::upgrade().with("X-Forwarded-For", address)
}

#[track_caller]
fn refused(program: &Program, request: &Request, status: u16) {
    let mut client = program.dial();
    client.send_request(request);
    assert_eq!(client.receive_response().status, status, "{request:?}");
}

#[track_caller]
fn refused_by_control(program: &Program, ask: &Ask) {
    assert_eq!(ask.over(&mut Client::dial(program.control())).status, 401);
}

/// Has clients refused for all kinds of reasons; returns the credentials that they sent.
fn offend(program: &Program) -> Vec<String> {
    let (forged, expired) = (Signer::Hs256(vec![7; 32]).token_for("eve"), {
        let mut claims = claims("alice");
        claims["exp"] = seconds_from_now(-3600).into();
        Signer::secret().token(&claims)
    });
    let bearer = |token: &str| format!("Bearer {token}");
    refused(program, &from("192.0.2.1").with("Authorization", &bearer(&forged)), 401);
    let mut first_message = program.dial();
    first_message.send_request(&from("2001:db8::1"));
    first_message.expect_upgrade();
    first_message.send_text("a guess");
    // An honest client with an old page, and one behind an address that others use, too.
    refused(program, &from("192.0.2.2").with("Authorization", &bearer(&expired)), 401);
    let often = from("192.0.2.3").with("Authorization", &bearer(&Signer::secret().token_for("bob")));
    refused(program, &often, 101);
    refused(program, &often, 429);
    let guess = CONTROL_TOKEN.to_lowercase();
    refused_by_control(program, &Ask::get("/v1/counts").with("X-Forwarded-For", "192.0.2.4").token(&guess));
    refused_by_control(program, &Ask::get("/v1/counts").with("X-Forwarded-For", "192.0.2.5"));
    // A page whose origin looks like a line of the log.
    for origin in [
        "x  WARN pombo::refused: client refused client=192.0.2.66 reason=\"token_signature\"",
        "{\"timestamp\":\"2026-12-01T00:00:00Z\",\"level\":\"WARN\",\"message\":\"client refused\",\"client\":\"192.0.2.66\",\
         \"reason\":\"token_signature\"",
    ] {
        refused(program, &from("192.0.2.6").with("Origin", origin), 403);
    }
    vec![forged, expired, guess]
}

#[test]
fn the_filter_finds_the_addresses_that_may_attack_and_no_others() {
    for format in ["human", "json"] {
        let program = node(format);
        let credentials = offend(&program);
        for address in OFFENDERS.iter().chain(&["192.0.2.2", "192.0.2.3", "192.0.2.66"]) {
            program.expect_logged(address);
        }
        let log: Vec<String> = program.log().iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        for credential in credentials {
            assert!(!log.iter().any(|line| line.contains(&credential)), "{credential} in {log:#?}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pombo.log");
        fs::write(&path, log.join("\n") + "\n").expect("the folder is writable");
        if let Some(mut python) = interpreter("python3") {
            let (found, code) = run(python.args(["-c", PYTHON, FILTER]).arg(&path));
            assert_eq!(code, 0);
            assert_eq!(addresses(&found), OFFENDERS, "{format}: {log:#?}");
            assert_eq!(found.lines().count(), 3 * OFFENDERS.len(), "each form of a line once: {found}");
        }
        if let Some(found) = fail2ban(&path) {
            assert_eq!(addresses(&found), OFFENDERS, "{format}: {log:#?}");
        }
    }
}

/// What fail2ban's own program finds, where it is installed.
fn fail2ban(log: &Path) -> Option<String> {
    let output = Command::new("fail2ban-regex").args(["-o", "ip"]).arg(log).arg(FILTER).output().ok()?;
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stdout).expect("it prints UTF-8"))
}

fn addresses(found: &str) -> Vec<&str> {
    let mut addresses: Vec<&str> = found.lines().collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

#[test]
fn a_flood_writes_so_many_lines_and_says_how_many_more_there_were() {
    let program = node("human");
    let guess = Ask::get("/v1/counts").token("guess");
    let mut sent = 0;
    eventually("some lines are left out", || {
        for _ in 0..20 {
            refused_by_control(&program, &guess);
        }
        sent += 20;
        program.logged("left_out=") > 0
    });
    eventually("every refusal is a line, or counted in one", || {
        program.logged("client refused client=127.0.0.1") + program.logged_sum("left_out") == sent
    });
}
