//! No credential reaches a log line, however much is logged and whatever becomes of it.
//!
//! Alone in its file: what a process logs goes to one place.

mod support;

use std::io;
use std::sync::{Arc, Mutex};

use pombo::config::{Auth, Secret};
use support::{Reply, Request, SECRET, Service, Signer, eventually, nodes};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Where the log goes.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no holder panics")).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no holder panics").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[test]
fn no_credential_is_logged_and_no_uid_breaks_a_line() {
    let log = Log::default();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(log.clone()).with_ansi(false);
    tracing::subscriber::set_global_default(subscriber.finish()).expect("nobody else logs");

    let node = nodes().with(|config| {
        config.auth = Auth::Jwt;
        config.jwt_secret = Some(Secret::new(SECRET));
    });
    let node = node.start(1);
    let signer = Signer::secret();
    let sly = "sly\n2026-01-01T00Z ERROR forged\u{1b}[2J";
    let good = signer.token_for(sly);
    let bad = Signer::Hs256(vec![7; 32]).token_for("eve");
    for token in [&good, &bad] {
        let mut client = node.dial();
        client.send_request(&Request::upgrade().with("Authorization", &format!("Bearer {token}")));
        client.receive_head();
        drop(client);
        let mut client = node.dial();
        client.send_request(&Request::upgrade().with("Sec-WebSocket-Protocol", &format!("bearer.{token}\t")));
        client.receive_head();
        drop(client);
        let mut client = node.connect();
        client.send_text(token);
        client.receive();
    }

    let service = Service::start(|question| match question["credential"].as_str() {
        Some("opaque-good-credential") => Reply::Status(200, "{\"uid\": \"a\\n\\u001b[2J:\"}".to_owned()),
        Some("opaque-unlucky-credential") => Reply::Status(500, String::new()),
        _ => Reply::Status(403, String::new()),
    });
    let node = nodes().with(|config| {
        config.auth = Auth::Http;
        config.auth_url = service.url().parse().ok();
    });
    let node = node.start(1);
    for credential in ["opaque-good-credential", "opaque-unlucky-credential", "opaque-bad-credential"] {
        let mut client = node.connect();
        client.send_text(credential);
        client.receive();
    }

    eventually("refusals and the service's fault are logged", || {
        let text = log.text();
        let invalid = "a uid that is not valid, this client does not get in";
        ["token_signature", "auth_refused", "the service of auth_url fails", invalid, "contains a colon", "login"]
            .iter()
            .all(|part| text.contains(part))
    });
    let text = log.text();
    for token in [&good, &bad] {
        for part in token.split('.') {
            assert!(!text.contains(part), "{part} is in the log:\n{text}");
        }
    }
    assert!(!text.contains("opaque") && !text.contains(SECRET), "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert!(text.contains("sly\\n"), "the uid is there, escaped: {text}");
    let is_dated = |line: &&str| line.starts_with("20") && line.contains('T') && line.contains('Z');
    assert!(
        text.lines().all(|line| is_dated(&line) && !line.contains(" ERROR forged") || line.contains("sly\\n")),
        "{text}"
    );
}
