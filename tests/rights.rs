//! What a client may do: send to a uid, send to everybody, or only receive.

mod support;

use pombo::config::{Auth, Secret};
use pombo::rights::Rights;
use serde_json::{Value, json};
use support::{Client, Node, Nodes, SECRET, Sent, Signer, claims, nodes};

const NO_UNICAST: &str = "error: not allowed to send to a uid, this login lacks the right unicast";
const NO_BROADCAST: &str = "error: not allowed to send to all, this login lacks the right broadcast";

fn with_tokens<'a>() -> Nodes<'a> {
    nodes().with(|config| {
        config.auth = Auth::Jwt;
        config.jwt_secret = Some(Secret::new(SECRET));
    })
}

/// Logs in with a token whose claim `name` is this; null leaves it out.
#[track_caller]
fn log_in(node: &Node, uid: &str, name: &str, may: &Value) -> Client {
    let mut claims = claims(uid);
    if !may.is_null() {
        claims[name] = may.clone();
    }
    let mut client = node.connect().named(uid);
    client.send_text(Signer::secret().token(&claims));
    client.expect_login_reply();
    client
}

/// Tries both, in one segment, and takes what comes of it; others get what is allowed, and nothing else.
#[track_caller]
fn may(client: &mut Client, other: &mut Client, unicast: bool, broadcast: bool) {
    client.send_together(&[Sent::text(format!("{}:u", other.name())), Sent::text("all:b")]);
    if unicast {
        other.expect_text("u");
    } else {
        client.expect_text(NO_UNICAST);
    }
    if broadcast {
        client.expect_text("b");
        other.expect_text("b");
    } else {
        client.expect_text(NO_BROADCAST);
    }
}

#[test]
fn claim_says_what_its_bearer_may() {
    with_tokens().each_pair(|node, alice, bob| {
        let mut bob = log_in(node, bob, "may", &Value::Null);
        for (claim, unicast, broadcast) in [
            (json!(["unicast", "broadcast"]), true, true),
            (json!(["unicast"]), true, false),
            (json!(["broadcast"]), false, true),
            (json!([]), false, false),
            (json!(["receive", "Unicast"]), false, false),
            (Value::Null, true, true),
        ] {
            let mut client = log_in(node, alice, "may", &claim);
            may(&mut client, &mut bob, unicast, broadcast);
            // The session lives, and still receives.
            bob.send_text(format!("{alice}:still there"));
            client.expect_text("still there");
            client.send_text("no colon");
            client.expect_error("got no colon");
        }
        let stats = node.stats();
        assert_eq!((stats.forbidden_unicasts, stats.forbidden_broadcasts, stats.invalid), (3, 3, 6));
    });
}

#[test]
fn setting_says_what_those_may_who_do_not_say() {
    for (rights, unicast, broadcast) in
        [(Rights::RECEIVE, false, false), (Rights::UNICAST, true, false), (Rights::BROADCAST, false, true)]
    {
        let node = with_tokens().with(|config| config.rights = rights).start(1);
        let mut bob = log_in(&node, "bob", "may", &Value::Null);
        may(&mut log_in(&node, "alice", "may", &Value::Null), &mut bob, unicast, broadcast);
        let all = json!(["unicast", "broadcast"]);
        may(&mut log_in(&node, "carol", "may", &all), &mut bob, true, true);

        let node = nodes().with(|config| config.rights = rights).start(1);
        let mut bob = node.log_in("bob");
        may(&mut node.log_in("alice"), &mut bob, unicast, broadcast);
        // Who holds the node's handle is no client.
        node.push("bob", pombo::message::Kind::Text, "pushed");
        bob.expect_text("pushed");
    }
}

#[test]
fn claim_has_the_name_that_is_set() {
    let node = with_tokens().with(|config| config.rights_claim = "https://pombo/may".to_owned()).start(1);
    let mut bob = log_in(&node, "bob", "may", &Value::Null);
    may(&mut log_in(&node, "alice", "https://pombo/may", &json!([])), &mut bob, false, false);
    may(&mut log_in(&node, "alice", "may", &json!([])), &mut bob, true, true);
}

#[test]
fn claim_that_is_no_list_lets_nobody_in() {
    let node = with_tokens().start(1);
    for claim in [json!("unicast broadcast"), json!({"unicast": true}), json!([1]), json!(true)] {
        let mut claims = claims("alice");
        claims["may"] = claim;
        let mut client = node.connect();
        client.send_text(Signer::secret().token(&claims));
        client.expect_error("no list of words");
        client.expect_close(4011, "no list of words");
        client.expect_end();
    }
}

#[test]
fn large_message_that_is_not_allowed_goes_nowhere() {
    let node = with_tokens().start(1);
    let mut bob = log_in(&node, "bob", "may", &Value::Null);
    let mut alice = log_in(&node, "alice", "may", &json!([]));
    // Received past the scratch buffer, and joined of fragments.
    let large = [b"bob:", &vec![b'x'; 300 << 10][..]].concat();
    alice.send_text(&large);
    alice.expect_text(NO_UNICAST);
    alice.send_binary(&large);
    alice.expect_text(NO_UNICAST);
    bob.expect_silence();
}
