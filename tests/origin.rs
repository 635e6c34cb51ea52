//! Which web pages may connect: a browser says where a page is from, and its page can't change that.

mod support;

use pombo::config::Origins;
use pombo::{Config, Listen};
use support::{Node, Nodes, Program, Request, Response, nodes};

fn listening_on(listen: &'static str) -> Nodes<'static> {
    nodes().with(move |config| config.listen = vec![listen.parse().expect("an address")])
}

fn allowing(origins: &'static [&'static str]) -> Nodes<'static> {
    nodes().with(move |config| config.origins = list(origins))
}

fn list(origins: &[&str]) -> Origins {
    Origins::List(origins.iter().map(|origin| origin.parse().expect("an origin")).collect())
}

#[track_caller]
fn lets_in(node: &Node, origin: &str) {
    let mut client = node.dial().named(origin);
    client.send_request(&Request::upgrade().with("Origin", origin));
    client.expect_upgrade();
    client.log_in("alice");
    client.expect_silence();
}

#[track_caller]
fn refuses(node: &Node, request: &Request, status: u16) -> Response {
    let mut client = node.dial();
    client.send_request(request);
    let response = client.receive_response();
    client.expect_end();
    assert_eq!(response.status, status, "{request:?}: {response:?}");
    response
}

#[track_caller]
fn refuses_page(node: &Node, origin: &str) {
    let response = refuses(node, &Request::upgrade().with("Origin", origin), 403);
    assert_eq!(response.body, "pages of this origin may not connect, see the setting origins\n");
}

/// Cordova's pages and Electron's are opened from files, and their browsers say so in a word of its own.
#[test]
fn pages_opened_from_files_can_be_listed() {
    allowing(&["file://", "https://example.com"]).each(|node| {
        lets_in(node, "file://");
        lets_in(node, "FILE://");
        for origin in ["null", "file:///", "file://example.com", "file:", "file"] {
            refuses_page(node, origin);
        }
    });
    allowing(&["null"]).each(|node| refuses_page(node, "file://"));
}

#[test]
fn loopback_node_lets_in_pages_of_this_machine_only() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        listening_on(listen).each(|node| {
            for origin in [
                "http://localhost:3000",
                "http://127.0.0.1:8080",
                "https://[::1]",
                "http://a.localhost",
                "null",
                "file://",
            ] {
                lets_in(node, origin);
            }
            for origin in ["https://example.com", "http://localhost.example.com", "http://127.0.0.1.example.com", ""] {
                refuses_page(node, origin);
            }
            node.expect_refusals(&[("origin", 4)]);
        });
    }
}

#[test]
fn name_that_was_bound_to_this_machine_is_foreign() {
    nodes().each(|node| {
        // The browser believes to be talking to the page's own host: only the name in `Origin` tells.
        let port = node.socket_address().port();
        let host = format!("rebound.example.com:{port}");
        let request = Request::upgrade().replacing("Host", &host).with("Origin", &format!("http://{host}"));
        refuses(node, &request, 403);
    });
}

#[test]
fn built_in_page_gets_in() {
    for listen in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
        listening_on(listen).each(|node| {
            let mut client = node.dial();
            client.send_request(&Request::new("GET / HTTP/1.1").with("Host", &node.address().to_string()));
            assert_eq!(client.receive_response().status, 200);
            lets_in(node, &format!("http://{}", node.address()));
        });
    }
}

#[test]
fn what_is_no_browser_is_not_asked() {
    for nodes in [nodes(), allowing(&["https://example.com"])] {
        nodes.each(|node| drop(node.log_in("alice")));
    }
}

#[test]
fn node_that_others_can_reach_lets_in_all_pages() {
    listening_on("0.0.0.0:0").each(|node| {
        for origin in ["https://example.com", "null", "http://localhost", "garbage"] {
            lets_in(node, origin);
        }
    });
    let both = |config: &mut Config| config.listen = ["127.0.0.1:0", "0.0.0.0:0"].map(address).into();
    nodes().with(both).each(|node| lets_in(node, "https://example.com"));
}

fn address(text: &str) -> Listen {
    text.parse().expect("an address")
}

#[test]
fn list_holds_everywhere() {
    let on_all = allowing(&["https://example.com", "https://*.example.org"]);
    let on_all = on_all.with(|config| config.listen = vec![address("0.0.0.0:0")]);
    for nodes in [allowing(&["https://example.com", "https://*.example.org"]), on_all] {
        nodes.each(|node| {
            lets_in(node, "https://example.com");
            lets_in(node, "https://chat.example.org");
            for origin in ["http://example.com", "https://example.com.evil.net", "http://localhost", "null", "\x7f"] {
                let status = if origin == "\x7f" { 400 } else { 403 };
                refuses(node, &Request::upgrade().with("Origin", origin), status);
            }
        });
    }
}

#[test]
fn doubled_origin_is_refused() {
    nodes().each(|node| {
        let request = Request::upgrade().with("Origin", "http://localhost").with("Origin", "http://localhost");
        refuses(node, &request, 400);
        node.expect_refusals(&[("origin_header", 1)]);
    });
}

#[test]
fn list_can_change_while_running() {
    nodes().each(|node| {
        refuses_page(node, "https://example.com");
        node.reload(|config| config.origins = list(&["https://example.com"]));
        lets_in(node, "https://example.com");
        refuses_page(node, "http://localhost");
        node.reload(|config| config.origins = Origins::Any);
        lets_in(node, "http://localhost");
    });
}

#[test]
fn a_refused_page_is_logged_with_its_origin_and_the_setting() {
    const LINE: &str = "web page refused, add its origin to the setting origins to let it in";
    let program = Program::start(&[]);
    let long = format!("https://{}.example", "x".repeat(1000));
    for origin in ["https://chat.example.org", "https://chat.example.org", "https://\u{9b}2J", &long] {
        let mut client = program.dial();
        client.send_request(&Request::upgrade().with("Origin", origin));
        let response = client.receive_response();
        assert_eq!((response.status, response.header("content-type")), (403, Some("text/plain; charset=utf-8")));
        assert_eq!(response.body, "pages of this origin may not connect, see the setting origins\n");
    }
    let cut = format!("origin=\"https://{}…\"", "x".repeat(192));
    for shown in ["origin=\"https://chat.example.org\"", "origin=\"https://\\u{9b}2J\"", &cut] {
        program.expect_logged(shown);
    }
    // The second of the same origin came before the last that has its line by now.
    assert_eq!((program.logged(LINE), program.logged("WARN pombo")), (3, 3));
    assert_eq!(program.logged("peer=127.0.0.1:"), 3);
}

#[test]
fn letting_in_all_pages_is_said_at_the_start() {
    const SAID: &str = "pages of every web site may connect";
    let open = Program::start_on("0.0.0.0:0", &["--insecure-open"]);
    open.expect_logged(SAID);
    for arguments in [&[][..], &["--origins", "https://example.com"]] {
        let listen = if arguments.is_empty() { "127.0.0.1:0" } else { "0.0.0.0:0" };
        let program = Program::start_on(listen, &[arguments, &["--insecure-open", "--log-level", "debug"]].concat());
        // What is logged at the start is there before the first login is.
        let mut client = program.dial().upgraded();
        client.log_in("alice");
        program.expect_logged("login");
        assert_eq!(program.logged(SAID), 0);
    }
}
