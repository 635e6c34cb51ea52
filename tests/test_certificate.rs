//! The certificate for tests that docs/security.md makes: every client takes it, once it trusts its authority.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::{Program, interpreter, run};

/// The commands of the document that make the files: all up to the first one that starts a node.
fn recipe() -> String {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/security.md");
    let document = fs::read_to_string(document).expect("documents are UTF-8");
    let (_, block) = document.split_once("```sh\nopenssl req").expect("the document has the recipe");
    let (commands, _) = block.split_once("\npombo ").expect("it starts a node at last");
    format!("openssl req{commands}")
}

const PYTHON: &str = "
import socket, ssl, sys
context = ssl.create_default_context(cafile='ca.pem')
# As Python does by itself from 3.13 on.
context.verify_flags |= ssl.VERIFY_X509_STRICT
for name in ['chat.example.org', 'localhost', '127.0.0.1']:
    with socket.create_connection(('127.0.0.1', sys.argv[1])) as plain, context.wrap_socket(plain, server_hostname=name):
        print(name)
";

const NODE: &str = "
const [tls, fs] = [require('tls'), require('fs')];
const next = (names) => {
    if (names.length === 0) return;
    const socket = tls.connect({ host: '127.0.0.1', port: process.argv[1], servername: names[0],
        ca: fs.readFileSync('ca.pem'), ALPNProtocols: ['http/1.1'] });
    socket.on('secureConnect', () => { console.log(names[0]); socket.destroy(); next(names.slice(1)); });
};
next(['chat.example.org', 'localhost']);
";

const PHP: &str = "
foreach (['chat.example.org', 'localhost', '127.0.0.1'] as $name) {
    $context = stream_context_create(['ssl' => ['cafile' => 'ca.pem', 'peer_name' => $name]]);
    $address = 'ssl://127.0.0.1:' . $argv[1];
    if (stream_socket_client($address, $number, $error, 10, STREAM_CLIENT_CONNECT, $context)) echo $name, \"\\n\";
}
";

#[test]
fn every_client_takes_the_certificate_for_tests() {
    if interpreter("openssl").is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let within = |mut command: Command| {
        command.current_dir(folder.path());
        run(&mut command)
    };
    let mut shell = Command::new("bash");
    shell.args(["-ec", &recipe()]);
    assert_eq!(within(shell).1, 0, "the recipe works");
    let mut verify = Command::new("openssl");
    verify.args(["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "ca.pem", "chain.pem"]);
    assert_eq!(within(verify), ("chain.pem: OK\n".to_owned(), 0));

    let file = |name: &str| folder.path().join(name).to_str().expect("a path in UTF-8").to_owned();
    let program = Program::start(&["--tls-certificate", &file("chain.pem"), "--tls-key", &file("key.pem")]);
    let address = program.address().to_string();
    let port = address.rsplit(':').next().expect("a port");
    for (arguments, host) in
        [(&[][..], "127.0.0.1"), (&[], "localhost"), (&["--server-name", "chat.example.org"], "127.0.0.1")]
    {
        let mut connect = Command::new(env!("CARGO_BIN_EXE_pombo"));
        connect.args(["connect", &format!("wss://{host}:{port}"), "alice", "--ca", "ca.pem"]).args(arguments);
        connect.stdin(std::process::Stdio::null());
        assert_eq!(within(connect).1, 0, "{host} {arguments:?}");
    }
    let all = "chat.example.org\nlocalhost\n127.0.0.1\n";
    for (program, arguments, names) in [
        ("python3", ["-c", PYTHON], all),
        // Node.js refuses an address as the name of a server.
        ("node", ["-e", NODE], "chat.example.org\nlocalhost\n"),
        ("php", ["-r", PHP], all),
    ] {
        let Some(mut command) = interpreter(program) else { continue };
        command.args(arguments).arg(port);
        assert_eq!(within(command), (names.to_owned(), 0), "{program}");
    }
    if let Some(mut curl) = interpreter("curl") {
        let resolve = format!("chat.example.org:{port}:127.0.0.1");
        curl.args(["-sS", "--noproxy", "*", "--cacert", "ca.pem", "-o", "body", "--resolve", &resolve]);
        curl.args([&format!("https://chat.example.org:{port}/"), "-w", "%{ssl_verify_result}"]);
        assert_eq!(within(curl), ("0".to_owned(), 0));
    }
    assert_eq!(program.logged("certificate"), 0, "a node has nothing against it");
}

/// As `openssl x509 -req` makes one by itself, before OpenSSL 3.2.
#[test]
fn certificate_of_version_1_is_explained() {
    if interpreter("openssl").is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut shell = Command::new("bash");
    shell.current_dir(folder.path()).args([
        "-ec",
        "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout key.pem -out request.pem
         openssl x509 -req -in request.pem -signkey key.pem -out chain.pem
         openssl x509 -in chain.pem -noout -text",
    ]);
    let (text, code) = run(&mut shell);
    assert_eq!(code, 0, "openssl makes a certificate");
    if !text.contains("Version: 1 ") {
        return;
    }
    let mut node = Command::new(env!("CARGO_BIN_EXE_pombo"));
    node.args([
        "--listen",
        "127.0.0.1:0",
        "--control",
        "off",
        "--tls-certificate",
        "chain.pem",
        "--tls-key",
        "key.pem",
    ]);
    let output = node.current_dir(folder.path()).env_clear().output().expect("the program runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("tls_certificate chain.pem holds no certificate of X.509 version 3: "), "{said}");
    assert_eq!(output.status.code(), Some(2));
}
