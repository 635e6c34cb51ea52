//! The text port takes lines of JSON as the inner worker of the Workerman manual does, and holds its bounds.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use pombo::config::{DuplicateLogin, SlowConsumer};
use pombo::{Config, Listen, Problem};
use support::{Ask, Client, DEADLINE, Held, Node, Nodes, Program, eventually, interpreter, nodes, run};

fn text_nodes<'a>() -> Nodes<'a> {
    nodes().with(|config: &mut Config| config.text = Some("127.0.0.1:0".parse().expect("an address")))
}

/// Connects to a node's text port.
#[track_caller]
fn dial(node: &Node) -> Client {
    Client::dial(node.control_addresses().text.as_ref().expect("the text port is on")).named("back end")
}

fn line(uid: &str, number: usize) -> String {
    format!("{{\"uid\":\"{uid}\",\"number\":{number}}}")
}

#[test]
fn line_is_delivered_whole_as_text() {
    text_nodes().each_pair(|node, alice, bob| {
        let (mut alice, mut bob) = (node.log_in(alice), node.log_in(bob));
        let mut back_end = dial(node);
        let line =
            format!(" {{\"x\" : {{\"uid\":\"{}\"}},\t\"uid\" : \"{}\", \"olá\":\"88%\"}} ", bob.name(), alice.name());
        back_end.send_bytes(format!("{line}\n").as_bytes());
        back_end.expect_bytes(b"ok\n");
        alice.expect_text(line);
        bob.converse(&mut alice);
        let stats = node.stats();
        assert_eq!((stats.delivered, stats.offline), (3, 0));
    });
}

#[test]
fn line_may_end_as_in_windows() {
    text_nodes().each(|node| {
        let (mut alice, mut back_end) = (node.log_in("alice"), dial(node));
        back_end.send_bytes(b"{\"uid\":\"alice\"}\r\n{\"uid\":\"bob\"}\r\n{\"uid\":\"alice\"}\r\r\n");
        back_end.expect_bytes(b"ok\nfail\nok\n");
        alice.expect_text("{\"uid\":\"alice\"}");
        alice.expect_text("{\"uid\":\"alice\"}");
        alice.expect_silence();
    });
}

/// Word for word the manual's, but for the address, and for what is pushed.
const MANUALS_CLIENT: &str = r#"
$client = stream_socket_client('tcp://' . $argv[1], $errno, $errmsg, 1);
$data = array('uid' => $argv[2], 'percent' => '88%');
fwrite($client, json_encode($data) . "\n");
echo fread($client, 8192);
"#;

#[test]
fn client_of_the_manual_works() {
    if interpreter("php").is_none() {
        return;
    }
    text_nodes().each(|node| {
        let mut uid1 = node.log_in("uid1");
        let address = node.control_addresses().text.as_ref().expect("the text port is on").to_string();
        let push = |uid| {
            let mut php = interpreter("php").expect("it was there");
            run(php.args(["-r", MANUALS_CLIENT, "--", &address, uid]))
        };
        assert_eq!(push("uid1"), ("ok\n".to_owned(), 0));
        uid1.expect_text("{\"uid\":\"uid1\",\"percent\":\"88%\"}");
        assert_eq!(push("uid2"), ("fail\n".to_owned(), 0));
        uid1.expect_silence();
    });
}

/// What the demo's inner worker does with a line, as far as it finds a receiver: an array's key is looked for.
const MANUALS_WORKER: &str = r#"
foreach (array_slice($argv, 1) as $line) {
    $uid = json_decode($line, true)['uid'] ?? null;
    echo is_int($uid) || is_string($uid) ? "uid $uid" : 'nobody', "\n";
}
"#;

/// A line for alice with so many arrays inside one another.
fn nested(arrays: usize) -> String {
    format!("{{\"uid\":\"alice\",\"x\":{}{}}}", "[".repeat(arrays), "]".repeat(arrays))
}

#[test]
fn receiver_is_the_one_that_php_finds() {
    let Some(mut php) = interpreter("php") else { return };
    let lines = [
        r#"{"uid":"alice"}"#,
        r#"  { "uid" : "alice" , "x" : [1, {"uid":"bob"}] }  "#,
        r#"{"uid":"bob","uid":"alice"}"#,
        r#"{"\u0075id":"\u0061lice"}"#,
        r#"{"uid":"olá \"\\\/\t\ud83d\ude00"}"#,
        r#"{"uid":7}"#,
        r#"{"uid":-7}"#,
        r#"{"uid":"7"}"#,
        r#"{"uid":"07"}"#,
        r#"{"uid":07}"#,
        r#"{"uid":null}"#,
        r#"{"uid":["alice"]}"#,
        r#"{"uid":{"uid":"alice"}}"#,
        r#"{"to":{"uid":"alice"}}"#,
        r#"{"UID":"alice"}"#,
        r#"["uid","alice"]"#,
        r#""uid""#,
        "uid",
        "null",
        "7",
        r#"{"uid":"alice""#,
        r#"{"uid":"alice",}"#,
        r#"{"uid":"alice"} x"#,
        r#"{'uid':'alice'}"#,
        r#"{uid:"alice"}"#,
        r#"{"uid":"\ud83d"}"#,
        "{\"uid\":\"a\u{1}\"}",
        "\u{feff}{\"uid\":\"alice\"}",
        r#"{"uid":"alice","x":"\ud83d"}"#,
        r#"{"uid":"alice","x":"\ude00"}"#,
        r#"{"uid":"alice","x":"\ud83dx"}"#,
        r#"{"uid":"alice","x":"\ud83d\ud83d\ude00"}"#,
        r#"{"uid":"alice","x":["\uDBFF\uE000"]}"#,
        r#"{"uid":"alice","\ud83d":1}"#,
        r#"{"uid":"alice","x":"\uD83D\uDE00 \\ud83d \\\ud83d\ude00"}"#,
        r#"{"uid":"alice","x":"\ud7ff\ue000"}"#,
        r#"{"uid":-0}"#,
        r#"{"uid":"alice","x":TRUE}"#,
        r#"{"uid":"alice","x":-0.0e+7}"#,
        &nested(510),
        &nested(511),
        &nested(5000),
        &format!("{{\"uid\":\"alice\",\"x\":\"{}\\\"{{\"}}", "[".repeat(600)),
        &format!("{{\"uid\":\"alice\",\"x\":[{}0]}}", "[],{},".repeat(600)),
        &format!("{{\"x\":{}1{},\"uid\":\"alice\"}}", "{\"y\":".repeat(510), "}".repeat(510)),
        &format!("{{\"x\":{}1{},\"uid\":\"alice\"}}", "{\"y\":".repeat(511), "}".repeat(511)),
        &format!("{}{{\"uid\":\"alice\"", "[".repeat(600)),
    ];
    let (found, _) = run(php.args(["-r", MANUALS_WORKER, "--"]).args(lines));
    let receivers: Vec<_> = found.lines().map(|line| line.strip_prefix("uid ")).collect();
    assert_eq!(receivers.len(), lines.len());
    text_nodes().each(|node| {
        let mut back_end = dial(node);
        let mut users: Vec<_> =
            ["alice", "bob", "7", "-7", "0", "07", "olá \"\\/\t😀"].map(|uid| node.log_in(uid)).into();
        for (line, receiver) in lines.iter().zip(&receivers) {
            back_end.send_bytes(format!("{line}\n").as_bytes());
            match receiver {
                None => back_end.expect_bytes(b"fail\n"),
                Some(uid) => {
                    back_end.expect_bytes(b"ok\n");
                    let user = users.iter_mut().find(|user| user.name() == *uid);
                    user.unwrap_or_else(|| panic!("{uid:?} is in no list")).expect_text(line);
                }
            }
        }
        users.iter_mut().for_each(Client::expect_silence);
    });
}

/// A web page can have its visitor's browser send a request here, whose body is lines that the page made up: the head
/// was answered line by line with `fail`, and then the page pushed.
#[test]
fn what_another_protocol_begins_with_ends_the_connection() {
    let tls: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    text_nodes().each(|node| {
        let mut alice = node.log_in("alice");
        let begins: [&[u8]; 12] = [
            b"POST / HTTP/1.1",
            b"POST /%7B%22uid%22:%22alice%22%7D HTTP/1.1",
            b"GET /x HTTP/1.0",
            b"OPTIONS * HTTP/1.1",
            b"anything here HTTP/2",
            b"Host: localhost",
            b"HOST:127.0.0.1:5678",
            b"fail\nhost : x",
            b"PRI * HTTP/2.0",
            tls,
            b"\0\x01\0\x08\x21\x12\xa4\x42",
            b"\0{\"uid\":\"alice\"}",
        ];
        for begin in begins {
            for more in ["\r\nHost: localhost\r\n\r\n{\"uid\":\"alice\"}\n", "\n{\"uid\":\"alice\"}\n"] {
                let mut page = dial(node);
                page.send_bytes(&[begin, more.as_bytes()].concat());
                let answers = page.receive_to_end();
                let expected: &[u8] = if begin.starts_with(b"fail") { b"fail\n" } else { b"" };
                assert_eq!(answers, expected, "{}", begin.escape_ascii());
            }
        }
        // The lines in front of it are another matter, and are answered.
        let mut back_end = dial(node);
        back_end.send_bytes(b"{\"uid\":\"nobody\"}\n{\"uid\":\"alice\",\"x\":\"Host: POST / HTTP/1.1\"}\nHost: x\n");
        assert_eq!(back_end.receive_to_end(), b"fail\nok\n");
        alice.expect_text("{\"uid\":\"alice\",\"x\":\"Host: POST / HTTP/1.1\"}");
        alice.expect_silence();
    });
}

/// As many as there may be kept the port to themselves, saying nothing.
#[test]
fn idle_connections_do_not_keep_others_out() {
    let node = text_nodes().start(1);
    let text = node.control_addresses().text.as_ref().expect("the text port is on");
    let idle: Vec<_> = (0..1100).map(|_| Client::dial(text)).collect();
    let mut back_end = dial(&node);
    back_end.send_bytes(b"{\"uid\":\"nobody\"}\n");
    back_end.expect_bytes(b"fail\n");
    drop(idle);
}

#[test]
fn what_names_nobody_who_is_there_fails() {
    text_nodes().each(|node| {
        let (mut alice, mut back_end) = (node.log_in("alice"), dial(node));
        let lines: [&[u8]; 20] = [
            b"",
            b"\r",
            b"alice",
            b"{}",
            b"[]",
            b"null",
            b"{\"uid\":null}",
            b"{\"uid\":true}",
            b"{\"uid\":[\"alice\"]}",
            b"{\"to\":{\"uid\":\"alice\"}}",
            b"{\"uid\":\"alice\"",
            b"{\"uid\":\"alice\"} x",
            b"{\"uid\":\"alice\",\"x\":\"\xff\"}",
            b"{\"uid\":\"alice\",\"x\":\"\0\"}",
            b"{\"uid\":\"bob\"}",
            b"{\"uid\":\"\"}",
            b"{\"uid\":\"ALICE\"}",
            b"{\"uid\":\"a:b\"}",
            // A broadcast is not for who can only write lines: as in the demo, `all` is a uid that nobody has.
            b"{\"uid\":\"all\"}",
            b"{\"uid\":7}",
        ];
        for line in lines {
            back_end.send_bytes(&[line, b"\n"].concat());
            back_end.expect_bytes(b"fail\n");
        }
        back_end.send_bytes(format!("{{\"uid\":\"{}\"}}\n", "x".repeat(5000)).as_bytes());
        back_end.expect_bytes(b"fail\n");
        alice.expect_silence();
        assert_eq!(node.stats().offline, 7);
    });
}

#[test]
fn number_is_the_uid_that_it_is_written_as() {
    let numbers = ["7", "-7", "0", "1.5", "1e3", "123456789012345678901234567890"];
    text_nodes().each(|node| {
        let mut back_end = dial(node);
        for number in numbers {
            let mut user = node.log_in(number);
            let line = format!("{{\"uid\":{number}}}");
            back_end.send_bytes(format!("{line}\n{{\"uid\":{number}0}}\n").as_bytes());
            back_end.expect_bytes(b"ok\nfail\n");
            user.expect_text(line);
            user.expect_silence();
        }
    });
}

#[test]
fn last_of_several_uids_counts() {
    text_nodes().each_pair(|node, alice, bob| {
        let (mut alice, mut bob, mut back_end) = (node.log_in(alice), node.log_in(bob), dial(node));
        let line = format!("{{\"uid\":\"{}\",\"\\u0075id\":\"{}\"}}", alice.name(), bob.name());
        back_end.send_bytes(format!("{line}\n").as_bytes());
        back_end.expect_bytes(b"ok\n");
        bob.expect_text(line);
        alice.converse(&mut bob);
    });
}

#[test]
fn pipelined_lines_are_answered_in_order() {
    const COUNT: usize = 20_000;
    text_nodes().each_pair(|node, alice, bob| {
        let (mut alice, mut bob, mut back_end) = (node.log_in(alice), node.log_in(bob), dial(node));
        let (mut lines, mut answers) = (String::new(), String::new());
        for number in 0..COUNT {
            let (line, answer) = match number % 4 {
                0 => (line(alice.name(), number), "ok\n"),
                1 => (line(bob.name(), number), "ok\n"),
                2 => (line("nobody", number), "fail\n"),
                _ => ("no JSON".to_owned(), "fail\n"),
            };
            lines += &line;
            lines.push('\n');
            answers += answer;
        }
        let mut writer = back_end.twin();
        let writing = thread::spawn(move || writer.send_bytes(lines.as_bytes()));
        back_end.expect_bytes(answers.as_bytes());
        writing.join().expect("all is written");
        for number in (0..COUNT).step_by(4) {
            alice.expect_text(line(alice.name(), number));
            bob.expect_text(line(bob.name(), number + 1));
        }
        let stats = node.stats();
        assert_eq!((stats.delivered, stats.offline), (COUNT as u64 / 2, COUNT as u64 / 4));
        // Of one read the lines go to the shards together.
        assert!(stats.turns < COUNT as u64, "{} turns", stats.turns);
    });
}

#[test]
fn line_may_come_in_pieces() {
    text_nodes().each(|node| {
        let (mut alice, mut back_end) = (node.log_in("alice"), dial(node));
        for byte in b"{\"uid\":\"alice\"}\r\nx\n{\"uid\":\"alice\"}\n" {
            back_end.send_bytes(&[*byte]);
        }
        back_end.expect_bytes(b"ok\nfail\nok\n");
        for _ in 0..2 {
            alice.expect_text("{\"uid\":\"alice\"}");
        }
        // The begin of a line waits for its end, behind lines that are answered.
        back_end.send_bytes(b"{\"uid\":\"alice\"}\n{\"uid\":\"al");
        back_end.expect_bytes(b"ok\n");
        alice.expect_text("{\"uid\":\"alice\"}");
        back_end.send_bytes(b"ice\"}\n");
        back_end.expect_bytes(b"ok\n");
        alice.expect_text("{\"uid\":\"alice\"}");
    });
}

#[test]
fn who_ends_its_sending_is_answered_to_the_end() {
    text_nodes().each(|node| {
        let (mut alice, mut back_end) = (node.log_in("alice"), dial(node));
        let lines = format!("{}\n{}\n", line("alice", 1), line("nobody", 2)).repeat(500);
        back_end.send_bytes(lines.as_bytes());
        back_end.finish_sending();
        let answers = back_end.receive_to_end();
        assert_eq!(String::from_utf8_lossy(&answers), "ok\nfail\n".repeat(500));
        for _ in 0..500 {
            alice.expect_text(line("alice", 1));
        }
    });
}

/// It may be half of a line, whose rest was lost.
#[test]
fn line_without_an_end_is_not_delivered() {
    text_nodes().each(|node| {
        let (mut alice, mut back_end) = (node.log_in("alice"), dial(node));
        back_end.send_bytes(b"{\"uid\":\"alice\"}\n{\"uid\":\"alice\"}");
        back_end.finish_sending();
        assert_eq!(back_end.receive_to_end(), b"ok\nfail\n");
        alice.expect_text("{\"uid\":\"alice\"}");
        alice.expect_silence();
    });
}

#[test]
fn line_that_is_too_long_is_cut() {
    let small = |config: &mut Config| {
        config.push_bytes_max = Some(200_004);
    };
    text_nodes().with(small).each(|node| {
        let (mut alice, mut other) = (node.log_in("alice"), dial(node));
        let padded = |length: usize| format!("{{\"uid\":\"alice\",\"x\":\"{}\"}}", "x".repeat(length - 22));
        other.send_bytes(format!("{}\n", padded(200_004)).as_bytes());
        other.expect_bytes(b"ok\n");
        alice.expect_text(padded(200_004));
        for rest in ["", "\n", "\n{\"uid\":\"alice\"}\n"] {
            let mut cut = dial(node);
            let sent = format!("{}\n{}{rest}", line("alice", 1), padded(200_005));
            cut.send_bytes(sent.as_bytes());
            // Without its end, and more of it: no reset takes the answers away.
            cut.try_send_bytes(&[b'x'; 100_000]).ok();
            cut.expect_bytes(b"ok\nfail\n");
            cut.expect_end();
            alice.expect_text(line("alice", 1));
        }
        alice.expect_silence();
        other.send_bytes(b"{\"uid\":\"alice\"}\n");
        other.expect_bytes(b"ok\n");
    });
}

/// Its line may be delivered yet: neither `ok` nor `fail` would be true. Over HTTP the same is told by a problem.
#[test]
#[cfg(target_os = "linux")]
fn connection_ends_unanswered_when_a_shard_is_stuck() {
    let folder = tempfile::tempdir().expect("a folder");
    let [text, control] = ["text", "control"].map(|name| format!("unix:{}", folder.path().join(name).display()));
    let program = Program::start(&["--control", &control, "--text", &text, "--control-answer-timeout", "200ms"]);
    let [text, control] = [text, control].map(|listen| listen.parse::<Listen>().expect("an address"));
    let mut back_end = Client::dial(&text);
    back_end.send_bytes(b"{\"uid\":\"nobody\"}\n");
    back_end.expect_bytes(b"fail\n");
    let Some(held) = Held::shard(program.id(), 0) else { return };
    back_end.send_bytes(b"oops\n{\"uid\":\"nobody\"}\noops\n");
    back_end.expect_bytes(b"fail\n");
    back_end.expect_end();
    let push = Ask::post("/v1/push/nobody").text("hi");
    push.over(&mut Client::dial(&control)).expect_problem(Problem::ShardSilent, "may have done it");
    let scrape = Ask::get("/metrics").over(&mut Client::dial(&control));
    scrape.expect_problem(Problem::ShardSilent, "");
    drop(held);
    eventually("it answers again", || push.over(&mut Client::dial(&control)).status == 200);
}

/// More than have a place at a time.
#[test]
fn long_lines_wait_for_each_other() {
    text_nodes().each(|node| {
        let mut alice = node.log_in("alice");
        let text = format!("{{\"uid\":\"alice\",\"x\":\"{}\"}}", "x".repeat(150_000));
        let (begin, end) = text.split_at(100_000);
        let mut back_ends: Vec<_> = (0..40).map(|_| dial(node)).collect();
        for back_end in &mut back_ends {
            back_end.send_bytes(begin.as_bytes());
        }
        for back_end in &mut back_ends {
            back_end.send_bytes(end.as_bytes());
            back_end.send_bytes(b"\n");
        }
        for _ in &back_ends {
            alice.expect_text(&text);
        }
        for back_end in &mut back_ends {
            back_end.expect_bytes(b"ok\n");
        }
    });
}

/// What it sends is not taken then, and nothing grows; when it reads, all goes on.
#[test]
fn who_does_not_read_its_answers_is_held_up() {
    // More than the buffers of all sockets hold.
    const WRITES: usize = 2000;
    text_nodes().each(|node| {
        let text = node.control_addresses().text.as_ref().expect("the text port is on");
        let Listen::Tcp(address) = text else { panic!("{text} has no port") };
        let (mut back_end, mut other) = (Client::dial_with_receive_buffer(*address, 8 << 10), dial(node));
        let (mut writer, written) = (back_end.twin(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&written);
        let writing = thread::spawn(move || {
            for _ in 0..WRITES {
                writer.send_bytes(&b"\r\r\r\r\r\r\r\r\r\r\r\r\r\r\r\n".repeat(1000));
                count.fetch_add(1, Ordering::SeqCst);
            }
            writer.finish_sending();
        });
        let mut before = usize::MAX;
        eventually("it writes no more", || {
            for _ in 0..200 {
                other.send_bytes(b"x\n");
                other.expect_bytes(b"fail\n");
            }
            std::mem::replace(&mut before, written.load(Ordering::SeqCst)) == before
        });
        assert!(before < WRITES, "its answers are not read, and all is taken");
        assert!(back_end.receive_to_end() == b"fail\n".repeat(1000 * WRITES));
        writing.join().expect("all is written");
    });
}

#[test]
fn any_session_of_a_uid_counts() {
    let share = |config: &mut Config| config.duplicate_login = DuplicateLogin::Share;
    text_nodes().with(share).each(|node| {
        let (mut first, mut second, mut back_end) = (node.log_in("alice"), node.log_in("alice"), dial(node));
        back_end.send_bytes(b"{\"uid\":\"alice\"}\n");
        back_end.expect_bytes(b"ok\n");
        first.expect_text("{\"uid\":\"alice\"}");
        second.expect_text("{\"uid\":\"alice\"}");
    });
}

#[test]
fn slow_consumer_fails() {
    let small = |config: &mut Config| {
        config.slow_consumer = SlowConsumer::DropNewest;
        config.send_buffer_bytes = Some(4096);
    };
    text_nodes().with(small).each(|node| {
        let (mut slow, mut back_end) = (node.log_in_with_small_buffer("slow"), dial(node));
        let line = format!("{{\"uid\":\"slow\",\"x\":\"{}\"}}", "x".repeat(1_000_000));
        let mut taken = 0;
        loop {
            back_end.send_bytes(format!("{line}\n").as_bytes());
            match back_end.receive_bytes(3).as_slice() {
                b"ok\n" => taken += 1,
                _ => break back_end.expect_bytes(b"l\n"),
            }
            assert!(taken < 100, "nothing ever failed");
        }
        for _ in 0..taken {
            slow.expect_text(&line);
        }
        back_end.send_bytes(b"{\"uid\":\"slow\"}\n");
        back_end.expect_bytes(b"ok\n");
    });
}

#[test]
fn unix_socket_is_a_text_port_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = format!("unix:{}", folder.path().join("text.sock").display());
    nodes().with(|config| config.text = Some(path.parse().expect("an address"))).each(|node| {
        let (mut alice, mut back_end) = (node.log_in("alice"), dial(node));
        back_end.send_bytes(b"{\"uid\":\"alice\"}\n");
        back_end.expect_bytes(b"ok\n");
        alice.expect_text("{\"uid\":\"alice\"}");
    });
}

/// Lines are answered as long as there are sessions, and the port goes with them.
#[test]
fn drain_ends_the_port_with_the_last_session() {
    text_nodes().with(|config| config.drain_timeout = DEADLINE).each(|node| {
        let (mut alice, mut back_end) = (node.log_in("alice"), dial(node));
        let handle = node.handle().clone();
        let draining = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            runtime.block_on(handle.drain());
        });
        alice.expect_close(1001, "");
        back_end.send_bytes(b"{\"uid\":\"alice\"}\n");
        back_end.expect_bytes(b"fail\n");
        alice.finish_sending();
        alice.expect_end();
        assert_eq!(back_end.receive_to_end(), b"");
        draining.join().expect("the drain ends");
        let text = node.control_addresses().text.as_ref().expect("the text port is on");
        Client::try_dial(text).expect_err("nobody listens any more");
    });
}

/// What was taken is answered, in whole answers; then comes the end, or a reset for who still sends.
#[test]
fn drain_amid_lines_leaves_no_half_answer() {
    text_nodes().each(|node| {
        let _alice = node.log_in("alice");
        let text = node.control_addresses().text.as_ref().expect("the text port is on");
        let mut stream = TcpStream::connect(text.to_string()).expect("the port is open");
        let mut writer = stream.try_clone().expect("a descriptor can be doubled");
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket takes deadlines");
        let lines = b"{\"uid\":\"alice\"}\n".repeat(1000);
        let writing = thread::spawn(move || while writer.write_all(&lines).is_ok() {});
        let mut answers = vec![0; 3];
        stream.read_exact(&mut answers).expect("answers come");
        let reading = thread::spawn(move || {
            let ended = stream.read_to_end(&mut answers);
            (answers, ended.err().map(|error| error.kind()))
        });
        node.drain();
        let (answers, error) = reading.join().expect("it reads to the end");
        assert!(matches!(error, None | Some(ErrorKind::ConnectionReset)), "{error:?}");
        let answers = String::from_utf8(answers).expect("answers are ASCII");
        assert!(answers.ends_with('\n') && answers.lines().all(|answer| ["ok", "fail"].contains(&answer)));
        writing.join().expect("it can't send any more");
    });
}
