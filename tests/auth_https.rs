//! Authentication by a service that is asked over TLS: who it must be, and that nobody gets in when it is another.
//!
//! Alone in its file: what a process logs goes to one place.

mod support;

use std::io::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pombo::config::Auth;
use pombo::{Config, Reason, Server};
use rustls::ServerConfig;
use serde_json::json;
use support::{Authority, LOCAL, Nodes, Reply, Request, Service, nodes};
use tracing_subscriber::filter::LevelFilter;

/// What must not be in the log.
const CREDENTIAL: &str = "opaque-credential";

/// A service that lets everybody in as alice.
fn service(config: Arc<ServerConfig>) -> Service {
    Service::start_tls(config, |_| Reply::json(&json!({"uid": "alice"})))
}

/// Nodes that ask at `url`, and trust `authority`.
fn asking<'a>(url: String, authority: &Authority) -> Nodes<'a> {
    let roots = authority.root_file();
    nodes().with(move |config| {
        config.auth = Auth::Http;
        config.auth_url = Some(url.parse().expect("an address"));
        config.auth_url_ca = Some(roots.clone());
        config.auth_cache_ttl = Duration::ZERO;
        config.auth_url_timeout = Duration::from_secs(60);
    })
}

fn request() -> Request {
    Request::upgrade().with("Authorization", &format!("Bearer {CREDENTIAL}"))
}

#[test]
fn service_that_is_vouched_for_lets_in() {
    let authority = Authority::new();
    let service = service(authority.server(&LOCAL));
    let by_name = service.url().replace("127.0.0.1", "localhost");
    for url in [service.url(), by_name] {
        let node = asking(url, &authority).start(1);
        for _ in 0..2 {
            let mut client = node.dial().named("alice");
            client.send_request(&request());
            client.expect_upgrade();
            client.expect_login_reply();
        }
    }
    assert_eq!(service.questions().len(), 4);
    assert_eq!(service.questions()[0]["credential"], CREDENTIAL);
}

/// The service is told nothing, nobody gets in, and the log says why.
#[test]
fn nobody_gets_in_when_the_service_is_another() {
    let log = Arc::new(Mutex::new(Vec::<u8>::new()));
    let sink = Arc::clone(&log);
    let writer = move || Sink(Arc::clone(&sink));
    let subscriber = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(writer).with_ansi(false);
    tracing::subscriber::set_global_default(subscriber.finish()).expect("nobody else logs");
    let text = || String::from_utf8_lossy(&log.lock().expect("no holder panics")).into_owned();

    let (ours, foreign) = (Authority::new(), Authority::new());
    let untrusted = service(foreign.server(&LOCAL));
    let misnamed = service(ours.server(&["elsewhere.example.org"]));
    for (url, why) in [
        // Its authority bears the name of ours, and has another key.
        (untrusted.url(), "invalid peer certificate: BadSignature"),
        (misnamed.url(), "invalid peer certificate: certificate not valid for name"),
    ] {
        let node = asking(url, &ours).start(1);
        let mut client = node.dial();
        client.send_request(&request());
        let response = client.receive_response();
        assert_eq!((response.status, response.body.trim_end()), (503, Reason::AuthUnavailable.text()));
        drop(client);
        node.expect_refusals(&[(Reason::AuthUnavailable.name(), 1)]);
        let said = |line: &str| line.contains("the service of auth_url fails, nobody gets in") && line.contains(why);
        assert!(text().lines().any(said), "{why}: {}", text());
    }
    for service in [&untrusted, &misnamed] {
        assert!(service.questions().is_empty(), "told nothing");
    }
    assert!(!text().contains(CREDENTIAL), "{}", text());
}

#[test]
fn file_that_vouches_for_nobody_stops_the_start() {
    let empty = tempfile::NamedTempFile::new().expect("a file");
    (&empty).write_all(b"no certificate").expect("it can be written");
    let absent = PathBuf::from("no/such/file");
    for (file, said) in [(empty.path().to_owned(), "holds no certificate in PEM"), (absent, "cannot read auth_url_ca")]
    {
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        let config = Config {
            listen: vec!["127.0.0.1:0".parse().expect("an address")],
            auth: Auth::Http,
            auth_url: Some(format!("https://{port}/").parse().expect("an address")),
            auth_url_ca: Some(file.clone()),
            ..Config::default()
        };
        let error = Server::bind(config).expect_err("nobody could be trusted").to_string();
        assert!(error.contains(said) && error.contains(&file.display().to_string()), "{error}");
    }
}

/// Writes to the log.
struct Sink(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no holder panics").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
