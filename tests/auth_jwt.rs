//! Authentication by signed tokens: who gets in, where a token may stand, and until when.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use pombo::config::{Auth, AuthSource, Secret};
use pombo::{Config, Reason};
use serde_json::{Value, json};
use support::{Client, Node, Nodes, Request, SECRET, Signer, claims, eventually, nodes, seconds_from_now};
use tempfile::TempDir;

/// Nodes that take tokens signed with [`SECRET`].
fn with_secret<'a>() -> Nodes<'a> {
    nodes().with(|config| {
        config.auth = Auth::Jwt;
        config.jwt_secret = Some(Secret::new(SECRET));
    })
}

/// Nodes that take tokens signed with the keys in a file.
fn with_keys<'a>(file: &'a Path) -> Nodes<'a> {
    nodes().with(move |config| {
        config.auth = Auth::Jwt;
        config.jwt_key_files = vec![file.to_owned()];
    })
}

fn file(directory: &TempDir, name: &str, content: &str) -> PathBuf {
    let path = directory.path().join(name);
    fs::write(&path, content).expect("the directory is writable");
    path
}

fn bearer(token: &str) -> Request {
    Request::upgrade().with("Authorization", &format!("Bearer {token}"))
}

/// Logs in by the request alone.
#[track_caller]
fn log_in_by(node: &Node, request: &Request, uid: &str) -> Client {
    let mut client = node.dial().named(uid);
    client.send_request(request);
    client.expect_upgrade();
    client.expect_login_reply();
    client
}

/// Logs in by the first message.
#[track_caller]
fn log_in_with(node: &Node, token: &str, uid: &str) -> Client {
    let mut client = node.connect().named(uid);
    client.send_text(token);
    client.expect_login_reply();
    client
}

/// Is refused for this reason in both ways: by the status, and by the close code.
#[track_caller]
fn is_refused(node: &Node, token: &str, status: u16, code: u16, reason: Reason) {
    let count = || node.handle().refusals().find(|(other, _)| *other == reason).map_or(0, |(_, count)| count);
    let before = count();
    let mut client = node.dial().named(token);
    client.send_request(&bearer(token));
    let response = client.receive_response();
    assert_eq!((response.status, response.body.trim_end()), (status, reason.text()), "{token}");
    assert_eq!(response.header("www-authenticate"), Some("Bearer error=\"invalid_token\""), "{token}");
    assert_eq!(response.header("connection"), Some("close"));
    client.expect_end();
    // A refusal is counted when the connection has ended on both sides.
    drop(client);

    let mut client = node.connect().named(token);
    client.send_text(token);
    client.expect_text(format!("error: {}", reason.text()));
    client.expect_close(code, reason.text());
    client.expect_end();
    drop(client);
    eventually("both are counted", || count() == before + 2);
}

#[test]
fn token_of_each_algorithm_logs_in() {
    let directory = TempDir::new().expect("a directory");
    for signer in [Signer::rsa(), Signer::p256(), Signer::ed25519()] {
        let pem = file(&directory, "key.pem", &signer.pem());
        let jwks = file(&directory, "keys.json", &json!({"keys": [signer.jwk("main")]}).to_string());
        for keys in [&pem, &jwks] {
            let node = with_keys(keys).start(1);
            let token = signer.token_for("alice");
            let mut alice = log_in_by(&node, &bearer(&token), "alice");
            let mut bob = log_in_with(&node, &signer.token_for("bob"), "bob");
            alice.converse(&mut bob);
        }
    }
    let secret = file(&directory, "secret", &format!("{SECRET}\n"));
    let from_file = |config: &mut Config| (config.jwt_secret, config.jwt_secret_file) = (None, Some(secret.clone()));
    for nodes in [with_secret(), with_secret().with(from_file)] {
        nodes.each(|node| {
            let mut alice = log_in_with(node, &Signer::secret().token_for("alice"), "alice");
            alice.expect_silence();
        });
    }
}

#[test]
fn credential_with_the_upgrade_logs_in_at_once_and_the_first_frame_is_a_command() {
    with_secret().each_pair(|node, alice, bob| {
        let mut bob = log_in_by(node, &bearer(&Signer::secret().token_for(bob)), bob);
        let mut alice = node.dial().named(alice);
        let token = Signer::secret().token_for(alice.name());
        // All in one segment: the command doesn't wait for the answer.
        let mut bytes = bearer(&token).bytes();
        bytes.extend(support::Sent::text(format!("{}:hi", bob.name())).bytes());
        alice.send_bytes(&bytes);
        alice.expect_upgrade();
        alice.expect_login_reply();
        bob.expect_text("hi");
    });
}

#[test]
fn each_source_can_be_switched_off() {
    let token = Signer::secret().token_for("alice");
    let protocols = format!("pombo.plain, bearer.{token}");
    let ways: [(AuthSource, Request); 3] = [
        (AuthSource::Header, bearer(&token)),
        (AuthSource::Subprotocol, Request::upgrade().with("Sec-WebSocket-Protocol", &protocols)),
        (AuthSource::Query, Request::upgrade().first_line(&format!("GET /?a=b&access_token={token} HTTP/1.1"))),
    ];
    for (source, request) in &ways {
        let node = with_secret().with(|config| config.auth_sources = vec![*source]).start(1);
        log_in_by(&node, request, "alice").expect_silence();
        for (other, request) in ways.iter().filter(|(other, _)| other != source) {
            let mut client = node.dial();
            client.send_request(request);
            let response = client.receive_response();
            assert_eq!((response.status, response.header("www-authenticate")), (401, Some("Bearer")), "{other:?}");
            assert_eq!(response.body.trim_end(), Reason::CredentialMissing.text());
        }
    }
    // The first message may be a token only if that is switched on; then a request without one is upgraded.
    let node = with_secret().with(|config| config.auth_sources = vec![AuthSource::FirstFrame]).start(1);
    for (_, request) in &ways {
        let mut client = node.dial().named("alice");
        client.send_request(request);
        client.expect_upgrade();
        client.send_text(&token);
        client.expect_login_reply();
    }
    // By default an address is no place for a token.
    let node = with_secret().start(1);
    let mut client = node.dial();
    client.send_request(&ways[2].1);
    client.expect_upgrade();
    client.send_text("alice");
    client.expect_error(Reason::TokenMalformed.text());
    client.expect_close(4011, Reason::TokenMalformed.text());
}

#[test]
fn subprotocol_is_answered_and_the_token_is_not() {
    let token = Signer::secret().token_for("alice");
    let offer = |offers: &str| Request::upgrade().with("Sec-WebSocket-Protocol", offers);
    let node = with_secret().start(1);
    for (offers, chosen) in [
        (format!("pombo.plain, bearer.{token}"), Some("pombo.plain")),
        (format!("bearer.{token},other,pombo.plain"), Some("pombo.plain")),
        (format!("bearer.{token}"), None),
    ] {
        let mut client = node.dial().named("alice");
        client.send_request(&offer(&offers));
        assert_eq!(client.expect_upgrade().header("sec-websocket-protocol"), chosen, "{offers}");
        client.expect_login_reply();
    }
    let node = nodes().start(1);
    for (offers, chosen) in
        [("pombo.plain", Some("pombo.plain")), ("other, pombo.plain", Some("pombo.plain")), ("x", None)]
    {
        let mut client = node.dial();
        client.send_request(&offer(offers));
        assert_eq!(client.expect_upgrade().header("sec-websocket-protocol"), chosen, "{offers}");
        client.log_in("alice");
    }
}

#[test]
fn several_credentials_are_refused() {
    let token = Signer::secret().token_for("alice");
    let node = with_secret().start(1);
    let mut client = node.dial();
    client.send_request(&bearer(&token).with("Sec-WebSocket-Protocol", &format!("bearer.{token}")));
    let response = client.receive_response();
    assert_eq!((response.status, response.body.trim_end()), (400, Reason::CredentialsSeveral.text()));
}

#[test]
fn token_that_chooses_its_algorithm_is_refused() {
    let directory = TempDir::new().expect("a directory");
    let rsa = Signer::rsa();
    let pem = file(&directory, "key.pem", &rsa.pem());
    let node = with_keys(&pem).start(1);
    let refused = |token: &str, reason| is_refused(&node, token, 401, 4011, reason);
    // Signed with what everybody may know, as if it were a secret.
    for known in [rsa.pem().into_bytes(), rsa.pem().trim_end().as_bytes().to_vec()] {
        refused(&Signer::Hs256(known).token_for("alice"), Reason::TokenSignature);
    }
    // Signed with the right key, under another name.
    for algorithm in ["HS256", "RS384", "PS256", "ES256", "EdDSA"] {
        refused(&rsa.token_with(&json!({"alg": algorithm}), &claims("alice")), Reason::TokenSignature);
    }
    // Not signed.
    for algorithm in ["none", "None", "NONE", ""] {
        let token = rsa.token_with(&json!({"alg": algorithm}), &claims("alice"));
        let unsigned = &token[..=token.rfind('.').expect("three parts")];
        refused(unsigned, Reason::TokenMalformed);
        refused(&token, Reason::TokenMalformed);
    }
    // With a key of its own.
    let stranger = Signer::rsa();
    let header = json!({"alg": "RS256", "jwk": stranger.jwk("x"), "jku": "http://127.0.0.1/", "kid": "../key.pem"});
    refused(&stranger.token_with(&header, &claims("alice")), Reason::TokenSignature);
    // With an extension that must be understood.
    refused(
        &rsa.token_with(&json!({"alg": "RS256", "crit": ["b64"], "b64": false}), &claims("a")),
        Reason::TokenCritical,
    );
    log_in_with(&node, &rsa.token_for("alice"), "alice").expect_silence();
}

#[test]
fn header_members_of_a_provider_are_passed_over_whatever_they_hold() {
    let node = with_secret().start(1);
    let token = |more: Value| {
        let mut header = json!({"alg": "HS256", "typ": "JWT"});
        header.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        Signer::secret().token_with(&header, &claims("alice"))
    };
    for more in [
        // Auth0, Clerk, and what others may think of.
        json!({"gty": ["client-credentials"]}),
        json!({"oiat": 1}),
        json!({"typ": 1, "cty": [], "nonce": {"a": [null]}, "x5c": "x", "x5t#S256": 7, "jwk": 1, "zip": null, "url": {}}),
        json!({"b64": true, "enc": 1, "iat": 1.5}),
        json!({"kid": null}),
    ] {
        log_in_with(&node, &token(more), "alice").expect_silence();
    }
    for unknown in [json!(["b64"]), json!([]), json!("exp"), json!(1), Value::Null] {
        is_refused(&node, &token(json!({"crit": unknown})), 401, 4011, Reason::TokenCritical);
    }
    for no_name in [json!(1), json!(["a"])] {
        is_refused(&node, &token(json!({"kid": no_name})), 401, 4011, Reason::TokenMalformed);
    }
}

#[test]
fn token_that_names_a_key_is_checked_with_that_one() {
    let directory = TempDir::new().expect("a directory");
    let (one, two) = (Signer::ed25519(), Signer::ed25519());
    let jwks = json!({"keys": [one.jwk("one"), two.jwk("two")]}).to_string();
    let keys = file(&directory, "keys.json", &jwks);
    let node = with_keys(&keys).start(1);
    let token = |signer: &Signer, id: &str| signer.token_with(&json!({"alg": "EdDSA", "kid": id}), &claims("alice"));
    log_in_with(&node, &token(&one, "one"), "alice");
    log_in_with(&node, &token(&two, "two"), "alice");
    log_in_with(&node, &two.token_for("alice"), "alice");
    for token in [token(&one, "two"), token(&two, "one"), token(&one, "three"), token(&one, "")] {
        is_refused(&node, &token, 401, 4011, Reason::TokenSignature);
    }
}

#[test]
fn token_that_never_ends_or_is_out_of_its_time_is_refused() {
    let node = with_secret().start(1);
    let with = |name: &str, value: Value| {
        let mut claims = claims("alice");
        claims[name] = value;
        Signer::secret().token(&claims)
    };
    for endless in [Value::Null, json!("tomorrow"), json!(seconds_from_now(60).to_string()), json!(-1), json!([1])] {
        is_refused(&node, &with("exp", endless), 401, 4011, Reason::TokenEndless);
    }
    is_refused(&node, &with("exp", json!(seconds_from_now(-60))), 401, 4010, Reason::CredentialExpired);
    is_refused(&node, &with("exp", json!(0)), 401, 4010, Reason::CredentialExpired);
    is_refused(&node, &with("nbf", json!(seconds_from_now(60))), 401, 4011, Reason::TokenEarly);
    is_refused(&node, &with("nbf", json!("2100")), 401, 4011, Reason::TokenEarly);
    // Clocks differ a little.
    log_in_with(&node, &with("nbf", json!(seconds_from_now(2))), "alice");
    log_in_with(&node, &with("exp", json!(seconds_from_now(0))), "alice");
}

#[test]
fn token_of_another_issuer_or_for_another_service_is_refused() {
    let node = with_secret().with(|config| {
        config.jwt_issuer = Some("https://issuer".to_owned());
        config.jwt_audience = Some("pombo".to_owned());
    });
    let node = node.start(1);
    let token = |issuer: Value, audience: Value| {
        let mut claims = claims("alice");
        (claims["iss"], claims["aud"]) = (issuer, audience);
        Signer::secret().token(&claims)
    };
    let issuer = json!("https://issuer");
    log_in_with(&node, &token(issuer.clone(), json!("pombo")), "alice");
    log_in_with(&node, &token(issuer.clone(), json!(["x", "pombo"])), "alice");
    for other in [json!("https://issuer/"), Value::Null, json!(1)] {
        is_refused(&node, &token(other, json!("pombo")), 401, 4011, Reason::TokenIssuer);
    }
    for other in [json!("x"), json!(["x"]), json!([]), Value::Null] {
        is_refused(&node, &token(issuer.clone(), other), 401, 4011, Reason::TokenAudience);
    }
}

#[test]
fn subject_must_be_a_uid() {
    let node = with_secret().start(1);
    for sub in [json!(""), json!("a:b"), json!("all"), json!("x".repeat(257)), json!(7), Value::Null] {
        let token = Signer::secret().token(&json!({"sub": sub, "exp": seconds_from_now(60)}));
        is_refused(&node, &token, 401, 4011, Reason::TokenSubject);
    }
}

#[test]
fn text_that_is_no_token_is_refused() {
    let node = with_secret().start(1);
    let good = Signer::secret().token_for("alice");
    let cut = &good[..good.len() - 40];
    for text in ["alice", "a.b", "a.b.c", "a.b.c.d", "....", "eyJ9.e30.", &"x".repeat(8000)] {
        is_refused(&node, text, 401, 4011, Reason::TokenMalformed);
    }
    is_refused(&node, &format!("{cut}{}", "A".repeat(40)), 401, 4011, Reason::TokenSignature);
    // By a binary message, not even text.
    let mut client = node.connect();
    client.send_binary(b"\xff.\xff.\xff");
    client.expect_error(Reason::TokenMalformed.text());
    client.expect_close(4011, Reason::TokenMalformed.text());
}

#[test]
fn keys_that_change_are_taken_while_the_node_runs() {
    let directory = TempDir::new().expect("a directory");
    let (old, new) = (Signer::p256(), Signer::ed25519());
    let keys = file(&directory, "keys", &old.pem());
    let node = with_keys(&keys).start(1);
    let mut alice = log_in_with(&node, &old.token_for("alice"), "alice");

    let is_taken = |token: &str| {
        let mut client = node.dial();
        client.send_request(&bearer(token));
        client.receive_head().status == 101
    };
    let next = file(&directory, "next", &json!({"keys": [new.jwk("new"), old.jwk("old")]}).to_string());
    fs::rename(next, &keys).expect("a file can be replaced");
    eventually("the new key is taken", || is_taken(&new.token_for("bob")));
    assert!(is_taken(&old.token_for("carol")), "both hold for a while");

    file(&directory, "keys", &new.pem());
    eventually("the old key is no longer taken", || !is_taken(&old.token_for("carol")));
    alice.expect_silence();
}

#[test]
fn node_does_not_start_with_keys_that_it_cannot_use() {
    let directory = TempDir::new().expect("a directory");
    let missing = directory.path().join("missing");
    let empty = file(&directory, "empty", "");
    let short = file(&directory, "short", "s3cret");
    let pem = file(&directory, "pem", &Signer::ed25519().pem());
    type Change<'a> = &'a dyn Fn(&mut Config);
    let cases: [(Change<'_>, &str); 4] = [
        (&|config| config.jwt_key_files = vec![missing.clone()], "missing: No such file"),
        (&|config| config.jwt_key_files = vec![empty.clone()], "empty: no key for RS256, ES256 or EdDSA"),
        (&|config| config.jwt_secret_file = Some(short.clone()), "short: the secret has 6 bytes, expected at least 32"),
        (&|config| config.jwt_secret_file = Some(pem.clone()), "pem: expected a secret, got PEM"),
    ];
    for (change, words) in cases {
        let error = why_no_start(change);
        assert!(error.starts_with("cannot use the keys in ") && error.contains(words), "{error}");
    }
}

/// Starts no node; returns what it says.
#[track_caller]
fn why_no_start(change: &dyn Fn(&mut Config)) -> String {
    let listen = vec!["127.0.0.1:0".parse().expect("an address")];
    let mut config = Config { listen, auth: Auth::Jwt, ..Config::default() };
    change(&mut config);
    pombo::Server::bind(config).expect_err("it must not start").to_string()
}

#[test]
fn members_of_a_key_are_heeded() {
    let directory = TempDir::new().expect("a directory");
    let with = |key: &Value, more: Value| {
        let mut key = key.clone();
        key.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        json!({"keys": [key]}).to_string()
    };
    let padded = |key: &Value, name: &str| {
        let number = BASE64URL_NOPAD.decode(key[name].as_str().expect("a text").as_bytes()).expect("base64");
        json!({name: BASE64URL_NOPAD.encode(&[&[0, 0], &number[..]].concat())})
    };
    let rsa = Signer::rsa();
    let key = rsa.jwk("main");
    for more in [
        // A zero in front says that the number is positive, to some libraries.
        padded(&key, "n"),
        padded(&key, "e"),
        json!({"key_ops": ["verify"], "use": "sig"}),
        json!({"key_ops": ["sign", "verify", "other"], "alg": "RS256", "other": {"a": 1}}),
    ] {
        let keys = file(&directory, "keys.json", &with(&key, more.clone()));
        let node = with_keys(&keys).start(1);
        log_in_with(&node, &rsa.token_for("alice"), "alice");
    }
    let marked = [&b"\xef\xbb\xbf"[..], with(&key, json!({})).as_bytes()].concat();
    let keys = directory.path().join("marked.json");
    fs::write(&keys, marked).expect("the directory is writable");
    log_in_with(&with_keys(&keys).start(1), &rsa.token_for("alice"), "alice");
    for more in [
        json!({"key_ops": ["encrypt"]}),
        json!({"key_ops": ["sign"]}),
        json!({"key_ops": []}),
        json!({"key_ops": "verify"}),
        json!({"key_ops": ["verify", "verify"]}),
        json!({"key_ops": ["verify"], "use": "enc"}),
        json!({"use": "SIG"}),
        json!({"alg": "PS256"}),
        json!({"kid": 7}),
        json!({"e": "AA"}),
        json!({"e": "Ag"}),
        json!({"e": ""}),
        json!({"n": ""}),
        json!({"d": "AQAB"}),
        json!({"x5c": ["no certificate"]}),
    ] {
        let keys = file(&directory, "keys.json", &with(&key, more.clone()));
        let error = why_no_start(&|config| config.jwt_key_files = vec![keys.clone()]);
        assert!(error.contains("keys.json: no key"), "{more}: {error}");
    }
    // A coordinate has all its bytes, though both together may have enough.
    let p256 = Signer::p256();
    let key = p256.jwk("main");
    let part = |name: &str| BASE64URL_NOPAD.decode(key[name].as_str().expect("a text").as_bytes()).expect("base64");
    let both = [part("x"), part("y")].concat();
    let moved = json!({"x": BASE64URL_NOPAD.encode(&both[..31]), "y": BASE64URL_NOPAD.encode(&both[31..])});
    let keys = file(&directory, "keys.json", &with(&key, moved));
    let error = why_no_start(&|config| config.jwt_key_files = vec![keys.clone()]);
    assert!(error.contains("keys.json: no key"), "{error}");
}

#[test]
fn secret_with_a_mark_or_the_ends_of_lines_is_the_secret() {
    let directory = TempDir::new().expect("a directory");
    for text in [format!("\u{feff}{SECRET}"), format!("{SECRET}\n\n"), format!("\u{feff}{SECRET}\r\n\r\n\n")] {
        let secret = file(&directory, "secret", &text);
        let node = with_secret().with(|config| {
            (config.jwt_secret, config.jwt_secret_file) = (None, Some(secret.clone()));
        });
        log_in_with(&node.start(1), &Signer::secret().token_for("alice"), "alice");
    }
    let lines = file(&directory, "secret", &format!("{SECRET}\n{SECRET}\n"));
    let error = why_no_start(&|config| config.jwt_secret_file = Some(lines.clone()));
    assert!(error.contains("secret: expected a secret on one line, got several"), "{error}");
    // Where it stands in the settings nobody can tell what was meant.
    for text in
        [format!("{SECRET}\n"), format!("\u{feff}{SECRET}"), format!("{SECRET}\r\n"), format!("{SECRET}\n{SECRET}")]
    {
        let error = why_no_start(&|config| config.jwt_secret = Some(Secret::new(text.as_str())));
        assert!(error.contains("jwt_secret") && error.contains("line") && !error.contains(SECRET), "{error}");
    }
}

#[test]
fn session_ends_with_its_token_and_others_notice_nothing() {
    let nodes = with_secret().with(|config| config.jwt_leeway = Duration::ZERO);
    nodes.each_pair(|node, alice, bob| {
        let mut alice = log_in_with(node, &Signer::secret().token_for(alice), alice);
        let mut claims = claims(bob);
        claims["exp"] = json!(seconds_from_now(2));
        let mut short = log_in_by(node, &bearer(&Signer::secret().token(&claims)), bob);
        short.converse(&mut alice);
        short.expect_close(4010, "credential has expired");
        assert!(seconds_from_now(0) >= claims["exp"].as_i64().expect("a time"), "not before its time");
        short.expect_end();
        let stats = node.eventually("the session is gone", |stats| stats.sessions == 1);
        assert_eq!((stats.expired, stats.timeouts, stats.violations), (1, 0, 0));
        // The uid is free, and the others go on.
        let mut again = log_in_with(node, &Signer::secret().token_for(bob), bob);
        again.converse(&mut alice);
    });
}
