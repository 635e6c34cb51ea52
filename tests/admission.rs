//! How many connections an address and the node may have, and how fast they may come; everything is given back.

mod support;

use std::num::NonZeroUsize;
use std::thread;
use std::time::{Duration, Instant};

use pombo::Config;
use support::{Client, Node, Nodes, Request, Response, Sent, eventually, nodes};

fn most(number: usize) -> Option<NonZeroUsize> {
    Some(NonZeroUsize::new(number).expect("at least one"))
}

fn sessions_max(number: usize) -> Nodes<'static> {
    nodes().with(move |config| config.address_sessions_max = most(number))
}

/// Asks for an upgrade from this address.
#[track_caller]
fn ask(node: &Node, source: &str) -> (Client, Response) {
    let mut client = Client::dial_from(source, node.socket_address()).named(source);
    client.send_request(&Request::upgrade());
    let response = client.receive_head();
    (client, response)
}

#[track_caller]
fn gets_in(node: &Node, source: &str) -> Client {
    let (client, response) = ask(node, source);
    assert_eq!(response.status, 101, "{source}: {response:?}");
    client
}

/// Is refused with this status, and told when to come back; returns after how many seconds.
#[track_caller]
fn is_refused(node: &Node, source: &str, status: u16, words: &str) -> u64 {
    let (mut client, response) = ask(node, source);
    assert_eq!(response.status, status, "{source}: {response:?}");
    let body = client.receive_bytes(response.content_length());
    assert!(String::from_utf8_lossy(&body).contains(words), "{}", body.escape_ascii());
    client.expect_end();
    let retry_after = response.header("retry-after").expect("it says when to come back");
    retry_after.parse().expect("it is in seconds")
}

#[test]
fn sessions_of_an_address_are_bounded() {
    sessions_max(2).each(|node| {
        let mut alice = gets_in(node, "127.0.0.2");
        let bob = gets_in(node, "127.0.0.2");
        alice.log_in("alice");
        assert!(is_refused(node, "127.0.0.2", 429, "too many sessions from this address") >= 1);
        // Others don't notice.
        let mut carol = gets_in(node, "127.0.0.3");
        carol.log_in("carol");
        alice.converse(&mut carol);
        node.expect_refusals(&[("address_full", 1)]);
        assert_eq!(node.handle().connections(), 3);
        drop(bob);
        let mut next = again(node, "127.0.0.2");
        next.log_in("next");
        next.converse(&mut alice);
    });
}

/// Gets in as soon as there is room.
fn again(node: &Node, source: &str) -> Client {
    let mut got_in = None;
    eventually("there is room again", || {
        let (client, response) = ask(node, source);
        got_in = (response.status == 101).then_some(client);
        got_in.is_some()
    });
    got_in.expect("the last one did")
}

#[test]
fn sessions_of_an_ipv6_address_are_bounded() {
    let on_v6 = |config: &mut Config| config.listen = vec!["[::1]:0".parse().expect("an address")];
    sessions_max(1).with(on_v6).each(|node| {
        let mut alice = gets_in(node, "::1");
        alice.log_in("alice");
        is_refused(node, "::1", 429, "too many sessions");
        alice.expect_silence();
        drop(alice);
        again(node, "::1");
    });
}

#[test]
fn every_end_of_a_session_gives_its_place_back() {
    let change = |config: &mut Config| config.login_timeout = Duration::from_millis(500);
    sessions_max(1).with(change).each(|node| {
        let ends: [fn(Client); 6] = [
            drop,
            Client::vanish,
            |mut client| {
                client.log_in("alice");
                client.send(&Sent::close(1000, ""));
                client.expect_close(1000, "");
                client.expect_end();
            },
            |mut client| {
                client.log_in("alice");
                client.send(&Sent::text("x").unmasked());
                client.expect_close(1002, "");
                client.expect_end();
            },
            |mut client| {
                client.send_text("a:b");
                client.expect_error("colon");
                client.expect_close(1008, "colon");
                client.expect_end();
            },
            |mut client| {
                client.expect_close(1008, "no login");
                client.expect_end();
            },
        ];
        for end in ends {
            end(again(node, "127.0.0.2"));
        }
        again(node, "127.0.0.2").log_in("last");
        eventually("all is given back", || node.handle().connections() == 0);
    });
}

#[test]
fn refused_requests_hold_no_place_once_they_ended() {
    sessions_max(1).each(|node| {
        for _ in 0..10 {
            let mut client = Client::dial_from("127.0.0.2", node.socket_address());
            client.send_request(&Request::upgrade().without("Upgrade"));
            assert_eq!(client.receive_head().status, 400);
            drop(client);
            eventually("it has ended", || node.handle().connections() == 0);
        }
        // The page is no session either.
        let mut page = Client::dial_from("127.0.0.2", node.socket_address());
        page.send_request(&Request::new("GET / HTTP/1.1").with("Host", "localhost"));
        assert_eq!(page.receive_head().status, 200);
        drop(page);
        eventually("it has ended", || node.handle().connections() == 0);
        gets_in(node, "127.0.0.2").log_in("alice");
    });
}

#[test]
fn limit_can_change_while_running() {
    sessions_max(1).each(|node| {
        let _first = gets_in(node, "127.0.0.2");
        is_refused(node, "127.0.0.2", 429, "too many sessions");
        node.reload(|config| config.address_sessions_max = most(2));
        let _second = gets_in(node, "127.0.0.2");
        is_refused(node, "127.0.0.2", 429, "too many sessions");
        node.reload(|config| config.address_sessions_max = None);
        let _more: Vec<_> = (0..5).map(|_| gets_in(node, "127.0.0.2")).collect();
    });
}

#[test]
fn logins_of_an_address_are_bounded_in_a_minute() {
    let per_minute = |config: &mut Config| config.address_logins_per_minute = most(3);
    nodes().with(per_minute).each(|node| {
        let began = Instant::now();
        for uid in ["first", "second", "third"] {
            gets_in(node, "127.0.0.2").log_in(uid);
        }
        let retry_after = is_refused(node, "127.0.0.2", 429, "too many logins from this address");
        // The first of them is paid after a third of the minute.
        let passed = began.elapsed().as_secs();
        assert!((20_u64.saturating_sub(passed + 1)..=20).contains(&retry_after), "{retry_after} after {passed}");
        gets_in(node, "127.0.0.3").log_in("other");
        node.expect_refusals(&[("address_rate", 1)]);
    });
}

#[test]
fn storm_of_logins_queues_and_the_rest_is_told_to_come_back() {
    let rate = |config: &mut Config| {
        config.logins_per_second = most(20);
        // Half of it is how long a login waits for its turn.
        config.handshake_timeout = Duration::from_secs(2);
    };
    nodes().with(rate).each(|node| {
        let mut before = node.log_in("before");
        let began = Instant::now();
        let mut storm: Vec<_> = (0..60).map(|_| node.dial()).collect();
        storm.iter_mut().for_each(|client| client.send_request(&Request::upgrade()));
        let answers: Vec<_> = thread::scope(|threads| {
            let asked: Vec<_> = storm
                .iter_mut()
                .map(|client| threads.spawn(move || (client.receive_head(), began.elapsed())))
                .collect();
            asked.into_iter().map(|client| client.join().expect("each is answered")).collect()
        });
        let (let_in, told): (Vec<_>, Vec<_>) = answers.iter().partition(|(response, _)| response.status == 101);
        // Those of a second, and a few at once; more only if the storm itself took longer than that.
        let most = 20 * (1 + began.elapsed().as_secs() as usize + 1);
        assert!((20..=most.min(59)).contains(&let_in.len()), "{} of 60 were let in", let_in.len());
        let last = let_in.iter().map(|(_, elapsed)| *elapsed).max().expect("some were");
        assert!(last >= Duration::from_millis(500), "the last of {} was let in after {last:?}", let_in.len());
        for (response, _) in &told {
            assert_eq!(response.status, 503, "{response:?}");
            let retry_after: u64 = response.header("retry-after").expect("a time").parse().expect("seconds");
            assert!((1..=3).contains(&retry_after), "{retry_after}");
        }
        node.expect_refusals(&[("busy", told.len() as u64)]);
        before.expect_silence();
        // Afterwards it is as before.
        eventually("the queue has gone", || {
            let mut client = node.dial();
            client.send_request(&Request::upgrade());
            client.receive_head().status == 101
        });
    });
}

#[test]
fn who_waits_for_its_turn_and_goes_disturbs_nobody() {
    let rate = |config: &mut Config| config.logins_per_second = most(10);
    nodes().with(rate).each(|node| {
        for _ in 0..10 {
            let mut client = node.dial();
            client.send_request(&Request::upgrade());
            client.vanish();
        }
        node.log_in("alice").expect_silence();
        eventually("all is given back", || node.handle().connections() == 0);
    });
}
