//! TLS at the control address: where it is spoken, and that the commands of the node's own machine work in any case.

mod support;

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::process::{Command, Stdio};

use pombo::config::ControlTls;
use pombo::{Config, Listen};
use support::{Ask, Authority, Client, Node, Program, nodes};

/// The name that the certificate is for: no address of this machine.
const NAME: &str = "chat.example.org";

const TOKEN: &str = "token-token-token-token-token-token0";

/// An authority that has issued a chain for [`NAME`]: from the server's certificate by an intermediate one to its root.
fn authority() -> Authority {
    let authority = Authority::new();
    authority.issue_by_intermediate(NAME);
    authority
}

/// Runs the command with no environment but `variables`; returns its standard output, standard error and exit code.
#[track_caller]
fn pombo(arguments: &[&str], variables: &[(&str, &str)]) -> (String, String, i32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pombo"));
    command.args(arguments).env_clear().envs(variables.iter().copied()).stdin(Stdio::null());
    let output = command.output().expect("the program runs");
    let text = |bytes| String::from_utf8(bytes).expect("it prints UTF-8");
    (text(output.stdout), text(output.stderr), output.status.code().expect("it exits"))
}

/// Runs each command with the node's own settings, and no flag.
#[track_caller]
fn check_commands(variables: &[(&str, &str)], arguments: &[&str]) {
    for (command, printed, code) in [
        (&["health"][..], "healthy\n", 0),
        (&["health", "--ready"], "ready\n", 0),
        (&["push", "alice", "hi"], "alice is offline\n", 3),
        (&["online", "alice"], "alice is offline\n", 3),
        (&["kick", "alice"], "alice is offline\n", 3),
    ] {
        let ended = pombo(&[command, arguments].concat(), variables);
        assert_eq!(ended, (printed.to_owned(), String::new(), code), "{command:?} {variables:?}");
    }
}

/// Starts a node with a certificate for [`NAME`], and control on `control`.
fn start(authority: &Authority, control: &str, control_tls: ControlTls) -> Node {
    let control: Listen = control.parse().expect("an address");
    let tokens = vec![format!("a push+query+admin {TOKEN}").parse().expect("a token")];
    let change = |config: &mut Config| {
        authority.apply(config);
        config.control = Some(control.clone());
        config.control_tls = control_tls;
        config.control_tokens = if control.is_local() { Vec::new() } else { tokens.clone() };
    };
    nodes().with(change).start(1)
}

/// An address of this machine that is not a loopback one; `None` if there is no network.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // This sends nothing; it only chooses a route.
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

#[test]
fn commands_of_the_machine_need_no_flag() {
    let authority = authority();
    let (certificate, key) = (authority.certificate_file(), authority.key_file());
    let [certificate, key] = [&certificate, &key].map(|path| path.to_str().expect("a path in UTF-8"));
    let mut ways = vec![
        ("127.0.0.1:0".to_owned(), ControlTls::Auto, "auto"),
        ("127.0.0.1:0".to_owned(), ControlTls::On, "on"),
        ("0.0.0.0:0".to_owned(), ControlTls::Auto, "auto"),
        ("0.0.0.0:0".to_owned(), ControlTls::Off, "off"),
    ];
    ways.extend(own_address().map(|ip| (format!("{ip}:0"), ControlTls::Auto, "auto")));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pombo.toml");
    let file_name = file.to_str().expect("a path in UTF-8");
    for (control, control_tls, word) in ways {
        let node = start(&authority, &control, control_tls);
        let control = node.control_listen().to_string();
        check_commands(
            &[
                ("POMBO_CONTROL", &control),
                ("POMBO_CONTROL_TLS", word),
                ("POMBO_TLS_CERTIFICATE", certificate),
                ("POMBO_TLS_KEY", key),
                ("POMBO_CONTROL_TOKEN", TOKEN),
            ],
            &[],
        );
        // The file has the settings of the node, and the key, which the caller may not read, is not needed.
        let settings = format!(
            "control = '{control}'\ncontrol_tls = '{word}'\ntls_certificate = '{certificate}'\ntls_key = '/no/such'\n"
        );
        fs::write(&file, settings).expect("it can be written");
        check_commands(&[("POMBO_CONTROL_TOKEN", TOKEN)], &["--config", file_name]);
        check_commands(&[("POMBO_CONTROL_TOKEN", TOKEN), ("POMBO_CONFIG", file_name)], &[]);
    }
}

/// A node reads new files when they have not changed for a second.
#[test]
fn commands_of_the_machine_wait_for_a_node_that_reads_its_new_certificate() {
    let authority = authority();
    let node = start(&authority, "127.0.0.1:0", ControlTls::On);
    authority.issue_by_intermediate(NAME);
    let (control, certificate) = (node.control_listen().to_string(), authority.certificate_file());
    let certificate = certificate.to_str().expect("a path in UTF-8");
    let variables = [("POMBO_CONTROL", &*control), ("POMBO_CONTROL_TLS", "on"), ("POMBO_TLS_CERTIFICATE", certificate)];
    assert_eq!(pombo(&["health", "--timeout", "1m"], &variables), ("healthy\n".to_owned(), String::new(), 0));
}

/// They trusted every server at an address that looked like one of this machine, and sent it the token.
#[test]
fn commands_of_the_machine_trust_no_certificate_but_the_node_s() {
    let (authority, stranger) = (authority(), Authority::new());
    let node = start(&stranger, "127.0.0.1:0", ControlTls::On);
    let (control, other) = (node.control_listen().to_string(), authority.certificate_file());
    let other = other.to_str().expect("a path in UTF-8");
    let refused = "its certificate leads to no authority that is trusted here; \
                   name the root certificate of its authority with --ca";
    for (certificate, remark) in [
        (other, format!("it is not the one in tls_certificate {other}")),
        ("/no/such", "it can't be compared with tls_certificate /no/such, which can't be read: ".to_owned()),
        ("none", "the settings here name no tls_certificate to compare it with".to_owned()),
    ] {
        let variables =
            [("POMBO_CONTROL", &*control), ("POMBO_CONTROL_TLS", "on"), ("POMBO_TLS_CERTIFICATE", certificate)];
        let (stdout, stderr, code) = pombo(&["health", "--timeout", "1m"], &variables);
        assert_eq!((stdout.as_str(), code), ("", 1), "{stderr}");
        assert!(stderr.contains(&format!(": no TLS with 127.0.0.1: {refused}; {remark}")), "{stderr}");
    }
}

#[test]
fn a_certificate_leaves_loopback_and_unix_sockets_plain() {
    let authority = authority();
    let folder = tempfile::tempdir().expect("a folder");
    let socket = format!("unix:{}", folder.path().join("control").display());
    for control in ["127.0.0.1:0", "[::1]:0", &socket] {
        let node = start(&authority, control, ControlTls::Auto);
        for path in ["/healthz", "/readyz", "/metrics"] {
            assert_eq!(Ask::get(path).to(&node).status, 200, "{path} at {control}");
        }
    }
}

/// As the image's health check does: no setting but the environment of its container.
#[test]
fn health_check_of_a_container_with_a_certificate_is_green() {
    let authority = authority();
    let (certificate, key) = (authority.certificate_file(), authority.key_file());
    let [certificate, key] = [&certificate, &key].map(|path| path.to_str().expect("a path in UTF-8"));
    let variables = [("POMBO_TLS_CERTIFICATE", certificate), ("POMBO_TLS_KEY", key)];
    let program = Program::start_with_control(&variables, &[]);
    let control = program.control().to_string();
    let (stdout, stderr, code) = pombo(&["health"], &[&variables[..], &[("POMBO_CONTROL", &control)]].concat());
    assert_eq!((stdout.as_str(), stderr.as_str(), code), ("healthy\n", "", 0));
}

#[test]
fn elsewhere_the_certificate_is_checked() {
    let authority = authority();
    let node = start(&authority, "127.0.0.1:0", ControlTls::On);
    let address = format!("https://{}", node.control_listen());
    let (root, stranger) = (authority.root_file(), Authority::new());
    let other = stranger.root_file();
    let [root, other] = [&root, &other].map(|path| path.to_str().expect("a path in UTF-8"));
    let health = |arguments: &[&str]| pombo(&[&["health", "--control", &address], arguments].concat(), &[]);

    let (stdout, stderr, code) = health(&["--ca", root, "--server-name", NAME]);
    assert_eq!((stdout.as_str(), stderr.as_str(), code), ("healthy\n", "", 0));
    for (arguments, why) in [
        (&["--ca", root][..], "its certificate is for chat.example.org, not for 127.0.0.1; "),
        (&["--ca", root, "--server-name", "localhost"], "its certificate is for chat.example.org, not for localhost; "),
        (&["--ca", other, "--server-name", NAME], "its certificate leads to no authority that is trusted here; "),
    ] {
        let (stdout, stderr, code) = health(arguments);
        assert_eq!((stdout.as_str(), code), ("", 1), "{arguments:?}");
        assert!(stderr.contains(&format!(": no TLS with 127.0.0.1: {why}")), "{stderr}");
    }
    // A root that was named is checked at the address of the settings, too.
    let control = node.control_listen().to_string();
    let certificate = authority.certificate_file();
    let certificate = certificate.to_str().expect("a path in UTF-8");
    let variables = [("POMBO_CONTROL", &*control), ("POMBO_CONTROL_TLS", "on"), ("POMBO_TLS_CERTIFICATE", certificate)];
    assert_eq!(pombo(&["health", "--ca", other], &variables).2, 1);
    assert_eq!(pombo(&["health", "--ca", root, "--server-name", NAME], &variables).2, 0);
}

#[test]
fn who_speaks_the_other_protocol_hears_of_it() {
    let authority = authority();
    let node = start(&authority, "127.0.0.1:0", ControlTls::On);
    let mut plain = Client::dial(node.control_listen());
    let answer = Ask::get("/healthz").over(&mut plain);
    assert_eq!((answer.status, answer.body.trim_end()), (400, "this port speaks TLS, expected https:// or wss://"));
    plain.expect_end();
    let at = |scheme: &str, node: &Node| format!("{scheme}://{}", node.control_listen());
    let (_, stderr, code) = pombo(&["health", "--control", &at("http", &node)], &[]);
    let told = "pombo health: 400 Bad Request: this port speaks TLS, expected https:// or wss://\n";
    assert_eq!((stderr.as_str(), code), (told, 1));

    let node = start(&authority, "127.0.0.1:0", ControlTls::Off);
    let root = authority.root_file();
    let root = root.to_str().expect("a path in UTF-8");
    let (_, stderr, code) = pombo(&["health", "--ca", root, "--control", &at("https", &node)], &[]);
    assert!(stderr.ends_with("the server doesn't speak TLS there, expected an address where it does\n"), "{stderr}");
    assert_eq!(code, 1);
}

#[test]
fn wrong_word_is_told_with_its_place() {
    let (_, stderr, code) = pombo(&["health"], &[("POMBO_CONTROL_TLS", "yes")]);
    let told = "pombo health: control_tls = yes (from POMBO_CONTROL_TLS): expected auto, on or off\n";
    assert_eq!((stderr.as_str(), code), (told, 2));
}
