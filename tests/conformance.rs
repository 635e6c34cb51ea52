//! RFC 6455, case by case, against a node that echoes: what the Autobahn Testsuite asks, for machines that can't run it,
//! and what it leaves out. A case's number is Autobahn's where it has one.

mod support;

use pombo::protocol::Protocol;
use support::{Client, Frame, Node, Nodes, Request, Sent, nodes};

/// Longest message of these nodes.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

fn echoing() -> Nodes<'static> {
    nodes().with(|config| {
        config.protocol = Protocol::Echo;
        config.message_bytes_max = MESSAGE_BYTES_MAX;
        config.outbox_bytes_max = 4 * MESSAGE_BYTES_MAX;
    })
}

/// How a case ends, behind the frames that it is answered with.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The session lives: it answers a close.
    Lives,
    /// It is closed with this code.
    Closed(u16),
}

use End::{Closed, Lives};

/// What is sent, what comes back, and how it ends.
struct Case<'a> {
    number: &'a str,
    sent: Vec<Sent>,
    echoed: Vec<Frame>,
    end: End,
}

fn case(number: &str, sent: impl Into<Vec<Sent>>, echoed: impl Into<Vec<Frame>>, end: End) -> Case<'_> {
    Case { number, sent: sent.into(), echoed: echoed.into(), end }
}

/// How many bytes a case is sent in at a time.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Whole,
    Pieces(usize),
}

/// Runs every case in one piece, and in pieces: of one byte where that is not too many.
#[track_caller]
fn check(cases: &[Case<'_>]) {
    echoing().each(|node| {
        for case in cases {
            let length: usize = case.sent.iter().map(|frame| frame.bytes().len()).sum();
            let small = if length <= 300 { 1 } else { length / 100 };
            for cut in [Cut::Whole, Cut::Pieces(small), Cut::Pieces(length / 2 + 1)] {
                run(node, case, cut);
            }
        }
    });
}

#[track_caller]
fn run(node: &Node, case: &Case<'_>, cut: Cut) {
    let mut client = node.connect().named(&format!("{} {cut:?}", case.number));
    let mut bytes: Vec<u8> = case.sent.iter().flat_map(Sent::bytes).collect();
    if let Lives = case.end {
        bytes.extend(Sent::close(1000, "").bytes());
    }
    let size = match cut {
        Cut::Whole => bytes.len().max(1),
        Cut::Pieces(size) => size,
    };
    for piece in bytes.chunks(size) {
        // A node that has found the fault need not take the rest.
        if client.try_send_bytes(piece).is_err() {
            break;
        }
    }
    for echoed in &case.echoed {
        client.expect(echoed);
    }
    match case.end {
        Lives => client.expect_close(1000, ""),
        Closed(code) => client.expect_close(code, ""),
    }
    client.expect_end();
}

fn text(payload: impl AsRef<[u8]>) -> Sent {
    Sent::text(payload)
}

fn more(payload: impl AsRef<[u8]>) -> Sent {
    Sent::continuation(payload).unfinished()
}

fn last(payload: impl AsRef<[u8]>) -> Sent {
    Sent::continuation(payload)
}

#[test]
fn framing() {
    // Around each form of the length.
    let lengths = [0, 1, 125, 126, 127, 128, 65_535, 65_536, 70_000];
    let numbers = ["1.1.1", "(1 byte)", "1.1.2", "1.1.3", "1.1.4", "1.1.5", "1.1.6", "1.1.7", "(past 64 KiB)"];
    let payloads = lengths.map(|length| vec![b'*'; length]);
    let cases: Vec<_> = (numbers.iter().zip(&payloads))
        .flat_map(|(number, payload)| {
            let binary = case(number, [Sent::binary(payload)], [Frame::binary(payload)], Lives);
            [case(number, [text(payload)], [Frame::text(payload)], Lives), binary]
        })
        .collect();
    check(&cases);
}

#[test]
fn pings_and_pongs() {
    let (long, bytes) = ([b'p'; 125], [0, 0xFF, 0xFE, 0xFD]);
    let ten: Vec<_> = (0..10).map(|number| Sent::ping(format!("ping {number}"))).collect();
    let answers: Vec<_> = (0..10).map(|number| Frame::pong(format!("ping {number}"))).collect();
    check(&[
        case("2.1", [Sent::ping("")], [Frame::pong("")], Lives),
        case("2.2", [Sent::ping("hello")], [Frame::pong("hello")], Lives),
        case("2.3", [Sent::ping(bytes)], [Frame::pong(bytes)], Lives),
        case("2.4", [Sent::ping(long)], [Frame::pong(long)], Lives),
        case("2.5", [Sent::ping([b'p'; 126])], [], Closed(1002)),
        case("2.7", [Sent::pong("")], [], Lives),
        case("2.8", [Sent::pong("unasked")], [], Lives),
        case("2.9", [Sent::pong("unasked"), Sent::ping("asked")], [Frame::pong("asked")], Lives),
        case("2.10", ten, answers, Lives),
    ]);
}

#[test]
fn reserved_bits() {
    for bits in 1..=7 {
        let number = format!("3.{bits}");
        let echo = [Frame::text("hi")];
        check(&[
            case(&number, [text("hi"), text("x").reserved(bits), Sent::ping("")], echo.clone(), Closed(1002)),
            case(&number, [Sent::binary("x").reserved(bits)], [], Closed(1002)),
            case(&number, [text("hi"), Sent::ping("x").reserved(bits)], echo, Closed(1002)),
            case(&number, [Sent::close(1000, "").reserved(bits)], [], Closed(1002)),
            case(&number, [text("x").unfinished(), last("y").reserved(bits)], [], Closed(1002)),
        ]);
    }
}

#[test]
fn reserved_opcodes() {
    for opcode in (3..8).chain(11..16) {
        let number = if opcode < 8 { format!("4.1 {opcode}") } else { format!("4.2 {opcode}") };
        check(&[
            case(&number, [Sent::opcode(opcode, ""), Sent::ping("")], [], Closed(1002)),
            case(&number, [text("hi"), Sent::opcode(opcode, "x"), Sent::ping("")], [Frame::text("hi")], Closed(1002)),
            case(&number, [text("x").unfinished(), Sent::opcode(opcode, "")], [], Closed(1002)),
        ]);
    }
}

#[test]
fn fragmentation() {
    let joined = [Frame::text("fragment1fragment2")];
    let with_pong = [Frame::pong("in between"), Frame::text("fragment1fragment2")];
    let ping = || Sent::ping("in between");
    let (first, second) = (|| text("fragment1").unfinished(), || last("fragment2"));
    check(&[
        case("5.1", [ping().unfinished(), last("x")], [], Closed(1002)),
        case("5.2", [Sent::pong("x").unfinished(), last("x")], [], Closed(1002)),
        case("5.3", [first(), second()], joined.clone(), Lives),
        case("5.6", [first(), ping(), second()], with_pong, Lives),
        case("5.9", [last("x"), text("hi")], [], Closed(1002)),
        case("5.12", [more("x"), text("hi")], [], Closed(1002)),
        case("5.15", [first(), second(), more("x"), text("hi")], joined, Closed(1002)),
        case("5.18", [first(), text("fragment2")], [], Closed(1002)),
        case(
            "5.19",
            [text("a").unfinished(), more("b"), ping(), more("c"), ping(), last("d"), Sent::ping("end")],
            [Frame::pong("in between"), Frame::pong("in between"), Frame::text("abcd"), Frame::pong("end")],
            Lives,
        ),
        case("(empty)", [text("").unfinished(), more(""), last("")], [Frame::text("")], Lives),
        case("(close within)", [first(), Sent::close(1000, "")], [], Closed(1000)),
    ]);
}

#[test]
fn text_is_utf8() {
    let greek = "κόσμε";
    let bytes = greek.as_bytes();
    let fragments: Vec<_> = std::iter::once(text("").unfinished())
        .chain(bytes.iter().map(|byte| more([*byte])))
        .chain([last("")])
        .collect();
    let mut cases = vec![
        case("6.1.1", [text("")], [Frame::text("")], Lives),
        case("6.2.1", [text("Hello-µ@ßöäüàá-UTF-8!!")], [Frame::text("Hello-µ@ßöäüàá-UTF-8!!")], Lives),
        case("6.2.4", fragments, [Frame::text(greek)], Lives),
        case("6.4.1", [text("ok").unfinished(), more([0xF4, 0x90, 0x80, 0x80]), last("")], [], Closed(1007)),
        // Told with the first bad byte: the message's end never comes.
        case("6.4.3", [text(b"\xCE\xBA\xF4\x90").unfinished()], [], Closed(1007)),
        case("(not told of binary)", [Sent::binary(b"\xFF")], [Frame::binary(b"\xFF")], Lives),
    ];
    // The last and the first of each length, and what is no character but may be sent.
    for good in ["\0", "\u{7F}", "\u{80}", "\u{7FF}", "\u{800}", "\u{D7FF}", "\u{E000}", "\u{FFFD}", "\u{FFFF}"] {
        cases.push(case("6.5 to 6.23", [text(good)], [Frame::text(good)], Lives));
    }
    for good in ["\u{10000}", "\u{1FFFE}", "\u{10FFFF}"] {
        cases.push(case("6.22", [text(good)], [Frame::text(good)], Lives));
    }
    let bad: &[(&str, &[u8])] = &[
        ("6.3.1", b"\xCE\xBA\xE1\xBD\xB9\xCF\x83\xCE\xBC\xCE\xB5\xED\xA0\x80edited"),
        ("6.6.1", b"\xCE"),
        ("6.6.3", b"\xCE\xBA\xE1"),
        ("6.8.1", b"\xF8\x88\x80\x80\x80"),
        ("6.10.1", b"\xF7\xBF\xBF\xBF"),
        ("6.11.5", b"\xF4\x90\x80\x80"),
        ("6.12.1", b"\x80"),
        ("6.14.1", b"\xC0 \xC1 "),
        ("6.15.1", b"\xC0"),
        ("6.16.1", b"\xC3\xE0\x80"),
        ("6.17.1", b"\xFE"),
        ("6.17.2", b"\xFF"),
        ("6.18.1", b"\xC0\xAF"),
        ("6.18.2", b"\xE0\x80\xAF"),
        ("6.19.1", b"\xC1\xBF"),
        ("6.20.1", b"\xC0\x80"),
        ("6.21.1", b"\xED\xA0\x80"),
        ("6.21.8", b"\xED\xAF\xBF\xED\xBF\xBF"),
    ];
    for (number, bytes) in bad {
        cases.push(case(number, [text(bytes)], [], Closed(1007)));
        cases.push(case(number, [text("x").unfinished(), last(bytes)], [], Closed(1007)));
    }
    check(&cases);
}

#[test]
fn closing() {
    let hi = [Frame::text("hi")];
    let reason = "r".repeat(123);
    check(&[
        case("7.1.1", [text("hi")], hi, Lives),
        case("7.1.2", [Sent::close(1000, ""), Sent::close(1000, "")], [], Closed(1000)),
        case("7.1.3", [Sent::close(1000, ""), Sent::ping("late")], [], Closed(1000)),
        case("7.1.4", [Sent::close(1000, ""), text("late")], [], Closed(1000)),
        case("7.1.5", [text("begun").unfinished(), Sent::close(1000, ""), last("late")], [], Closed(1000)),
        case("7.3.2", [Sent::close_body("a")], [], Closed(1002)),
        case("7.3.4", [Sent::close(1000, "done")], [], Closed(1000)),
        case("7.3.5", [Sent::close(1000, &reason)], [], Closed(1000)),
        case("7.3.6", [Sent::close(1000, &(reason.clone() + "x"))], [], Closed(1002)),
        case("7.5.1", [Sent::close_body(b"\x03\xE8\xCE\xBA\xED\xA0\x80")], [], Closed(1007)),
    ]);
}

/// A close without a code is answered by one.
#[test]
fn closing_without_a_code() {
    echoing().each(|node| {
        let mut client = node.connect().named("7.3.1");
        client.send(&Sent::close_body(""));
        client.expect_bare_close();
        client.expect_end();
    });
}

/// Every close code that there is room for on the wire: 7.7 and 7.9, and 7.13 for those that Autobahn leaves open.
#[test]
fn every_close_code() {
    let is_valid = |code: u16| matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    echoing().each(|node| {
        let edges = [0, 1, 999, 1000, 1016, 1100, 2000, 2999, 3000, 3999, 4000, 4999, 5000, 32_767, 32_768, 65_535];
        for code in edges.into_iter().chain(1001..=1015) {
            let mut client = node.connect().named(&format!("close code {code}"));
            client.send(&Sent::close(code, ""));
            client.expect_close(if is_valid(code) { code } else { 1002 }, "");
            client.expect_end();
        }
    });
}

#[test]
fn limits() {
    let payload: Vec<u8> = (0..MESSAGE_BYTES_MAX).map(|index| b'a' + (index % 26) as u8).collect();
    let whole = [Frame::text(&payload)];
    let in_fragments = |size: usize| {
        let mut frames: Vec<_> = payload.chunks(size).map(more).collect();
        frames[0] = text(&payload[..size]).unfinished();
        frames.push(last(""));
        frames
    };
    check(&[
        case("9.1.4", [text(&payload)], whole.clone(), Lives),
        case("9.2.4", [Sent::binary(&payload)], [Frame::binary(&payload)], Lives),
        case("9.3.3", in_fragments(1024), whole.clone(), Lives),
        case("9.3.7", in_fragments(256 << 10), whole, Lives),
        case("(one byte more)", [text([&payload[..], b"x"].concat())], [], Closed(1009)),
    ]);
}

/// 9.7 and 9.8, and pipelining: a thousand messages in one write come back in order.
#[test]
fn many_messages_in_one_segment() {
    echoing().each(|node| {
        for length in [0, 16, 64, 256] {
            let mut client = node.connect().named(&format!("9.7, {length} bytes"));
            let messages: Vec<_> = (0..1000).map(|index| format!("{index:0length$}")).collect();
            client.send_together(&messages.iter().map(text).collect::<Vec<_>>());
            for message in &messages {
                client.expect_text(message);
            }
        }
    });
}

/// A request, frames and the end of sending in one segment: all of it is answered before the end.
#[test]
fn half_closed_behind_the_request() {
    echoing().each(|node| {
        let mut client: Client = node.dial();
        let mut bytes = support::Request::upgrade().bytes();
        bytes.extend([text("one"), Sent::ping("two"), Sent::binary("three")].iter().flat_map(Sent::bytes));
        client.send_bytes(&bytes);
        client.finish_sending();
        client.expect_upgrade();
        client.expect_text("one");
        client.expect(&Frame::pong("two"));
        client.expect_binary("three");
        while client.receive_or_end().is_some_and(|frame| frame.as_close().is_some()) {}
    });
}

/// What looks like a command or a login is echoed as well: an echo knows no uids.
#[test]
fn nothing_means_anything() {
    let words = ["alice", "alice:hi", "all:hi", ":", "0:x", "1:x"];
    echoing().each(|node| {
        let (mut alice, mut bob) = (node.connect(), node.connect());
        for word in words {
            alice.send_text(word);
            alice.expect_text(word);
        }
        bob.send_text("bob");
        bob.expect_text("bob");
    });
}

/// Echo is no setting: what a flag, a variable or a file says can't turn it on.
#[test]
fn no_setting_reaches_it() {
    assert_eq!(pombo::Config::default().protocol, Protocol::Plain);
    assert!(pombo::config::SETTINGS.iter().all(|setting| setting.key != "protocol"));
}

/// A session's protocol is chosen at its upgrade: sessions of several live on one node.
#[test]
fn client_that_offers_the_plain_protocol_speaks_it_beside_sessions_that_echo() {
    echoing().each(|node| {
        let mut echo = node.dial().upgraded();
        let mut alice = node.dial();
        alice.send_request(&Request::upgrade().with("Sec-WebSocket-Protocol", "chat, pombo.plain"));
        assert_eq!(alice.expect_upgrade().header("sec-websocket-protocol"), Some("pombo.plain"));
        alice.log_in("alice");

        echo.send_text("alice:hi");
        echo.expect_text("alice:hi");
        alice.send_text("all:hello");
        alice.expect_text("hello");
        echo.expect_text("hello");
        alice.send_text("no colon");
        alice.expect_error("got no colon");
    });
}
