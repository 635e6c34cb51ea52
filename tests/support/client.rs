//! A blocking WebSocket client that sends any bytes and looks at every byte it receives.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pombo::Listen;
use rustls::ClientConfig;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::frame::{self, Frame, Sent};
use super::http::{ACCEPT, Request, Response};
use super::patience::DEADLINE;
use super::tls::{self, Secured};

/// One connection to a node; its reads and writes fail the test at the deadline.
#[derive(Debug)]
pub(crate) struct Client {
    stream: Stream,
    /// Received and not looked at yet, from `at` on.
    received: Vec<u8>,
    at: usize,
    /// Who it is in a test's failure, and the uid once it is logged in.
    name: String,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<Secured>),
}

/// What a read found.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Bytes,
    End,
}

impl Client {
    /// Connects and says nothing.
    #[track_caller]
    pub(crate) fn dial(listen: &Listen) -> Self {
        Self::try_dial(listen).unwrap_or_else(|error| panic!("cannot connect to {listen}: {error}"))
    }

    /// Connects where the node may refuse.
    pub(crate) fn try_dial(listen: &Listen) -> io::Result<Self> {
        match listen {
            Listen::Tcp(address) => TcpStream::connect_timeout(address, DEADLINE).and_then(Self::over_tcp),
            Listen::Unix(path) => UnixStream::connect(path).and_then(|stream| Self::over(Stream::Unix(stream))),
            Listen::Abstract(name) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                socket.connect(&SockAddr::unix(format!("\0{name}"))?)?;
                Self::over(Stream::Unix(socket.into()))
            }
        }
    }

    /// Connects with this much room for what it does not read.
    #[track_caller]
    pub(crate) fn dial_with_receive_buffer(address: SocketAddr, bytes: usize) -> Self {
        let connect = || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_recv_buffer_size(bytes)?;
            socket.connect(&address.into())?;
            Self::over_tcp(socket.into())
        };
        connect().unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    /// Connects and makes the TLS handshake, where the node may refuse.
    pub(crate) fn try_dial_tls(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<Self> {
        let socket = TcpStream::connect_timeout(&address, DEADLINE)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.set_write_timeout(Some(DEADLINE))?;
        Self::over(Stream::Tls(Box::new(tls::secure(socket, config)?)))
    }

    /// Goes on with a TLS connection that a test has made itself.
    pub(crate) fn over_tls(stream: Secured) -> Self {
        Self::over(Stream::Tls(Box::new(stream))).expect("the socket takes deadlines")
    }

    /// The stream under a client over TLS.
    pub(crate) fn tls(&mut self) -> &mut Secured {
        match &mut self.stream {
            Stream::Tls(stream) => stream,
            Stream::Tcp(_) | Stream::Unix(_) => panic!("{} does not speak TLS", self.name),
        }
    }

    /// Connects from this address of the machine.
    #[track_caller]
    pub(crate) fn dial_from(source: &str, address: SocketAddr) -> Self {
        let connect = || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(source.parse().expect("an address"), 0).into())?;
            socket.connect(&address.into())?;
            Self::over_tcp(socket.into())
        };
        connect().unwrap_or_else(|error| panic!("cannot connect from {source} to {address}: {error}"))
    }

    fn over_tcp(stream: TcpStream) -> io::Result<Self> {
        // What is sent in two writes shall go out in two segments.
        stream.set_nodelay(true)?;
        Self::over(Stream::Tcp(stream))
    }

    fn over(stream: Stream) -> io::Result<Self> {
        stream.set_deadlines()?;
        Ok(Self { stream, received: Vec::new(), at: 0, name: "client".to_owned() })
    }

    /// Gives it another name in a test's failure.
    pub(crate) fn named(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Asks for the upgrade and gets it.
    #[track_caller]
    pub(crate) fn upgraded(mut self) -> Self {
        self.send_request(&Request::upgrade());
        self.expect_upgrade();
        self
    }

    /// Logs in, and takes the default reply.
    #[track_caller]
    pub(crate) fn log_in(&mut self, uid: &str) {
        self.name = uid.to_owned();
        self.send_text(uid);
        self.expect_login_reply();
    }

    /// Its own address, as the server should see it.
    #[track_caller]
    pub(crate) fn local_address(&self) -> SocketAddr {
        match &self.stream {
            Stream::Tcp(stream) => stream.local_addr(),
            Stream::Tls(stream) => stream.sock.local_addr(),
            Stream::Unix(_) => panic!("{} has no address", self.name),
        }
        .expect("a connected socket has an address")
    }

    /// A second handle on the same connection, to write by while this one reads.
    #[track_caller]
    pub(crate) fn twin(&self) -> Self {
        let stream = match &self.stream {
            Stream::Tcp(stream) => stream.try_clone().map(Stream::Tcp),
            Stream::Unix(stream) => stream.try_clone().map(Stream::Unix),
            Stream::Tls(_) => panic!("{}: a TLS connection has one owner", self.name),
        };
        let stream = stream.expect("a descriptor can be doubled");
        Self { stream, received: Vec::new(), at: 0, name: self.name.clone() }
    }

    /// Ends its sending, and may still receive.
    #[track_caller]
    pub(crate) fn finish_sending(&mut self) {
        self.stream.shut_down(Shutdown::Write).unwrap_or_else(|error| self.fail("cannot end its sending", &error));
    }

    /// Goes as a crashed machine does: no close frame, no end of sending, a reset.
    pub(crate) fn vanish(self) {
        let socket = match &self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
            Stream::Unix(_) => return,
        };
        SockRef::from(socket).set_linger(Some(Duration::ZERO)).expect("a socket can linger");
    }
}

/// Sending.
impl Client {
    #[track_caller]
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.try_send_bytes(bytes).unwrap_or_else(|error| self.fail("cannot send", &error));
    }

    /// Sends where the node may have closed.
    pub(crate) fn try_send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    #[track_caller]
    pub(crate) fn send(&mut self, frame: &Sent) {
        self.send_bytes(&frame.bytes());
    }

    /// Sends the frames in one write.
    #[track_caller]
    pub(crate) fn send_together(&mut self, frames: &[Sent]) {
        self.send_bytes(&frames.iter().flat_map(Sent::bytes).collect::<Vec<_>>());
    }

    #[track_caller]
    pub(crate) fn send_text(&mut self, message: impl AsRef<[u8]>) {
        self.send(&Sent::text(message));
    }

    #[track_caller]
    pub(crate) fn send_binary(&mut self, message: impl AsRef<[u8]>) {
        self.send(&Sent::binary(message));
    }

    #[track_caller]
    pub(crate) fn send_request(&mut self, request: &Request) {
        self.send_bytes(&request.bytes());
    }
}

/// Receiving frames.
impl Client {
    /// Takes the next frame.
    #[track_caller]
    pub(crate) fn receive(&mut self) -> Frame {
        match self.receive_or_end() {
            Some(frame) => frame,
            None => panic!("{}: expected a frame, the node closed", self.name),
        }
    }

    /// Takes the next frame, or finds the connection's end between two frames.
    #[track_caller]
    pub(crate) fn receive_or_end(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, length)) = Frame::decode(&self.received[self.at..]) {
                self.at += length;
                return Some(frame);
            }
            if self.fill() == Outcome::End {
                let rest = &self.received[self.at..];
                assert!(rest.is_empty(), "{}: the node closed inside a frame: {}", self.name, rest.escape_ascii());
                return None;
            }
        }
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, expected: &Frame) {
        let frame = self.receive();
        assert_eq!(frame, *expected, "{}", self.name);
    }

    #[track_caller]
    pub(crate) fn expect_text(&mut self, message: impl AsRef<[u8]>) {
        self.expect(&Frame::text(message));
    }

    #[track_caller]
    pub(crate) fn expect_binary(&mut self, message: impl AsRef<[u8]>) {
        self.expect(&Frame::binary(message));
    }

    /// Takes the text that answers a login under its name.
    #[track_caller]
    pub(crate) fn expect_login_reply(&mut self) {
        self.expect_text(login_reply(&self.name));
    }

    /// Takes a text that begins with `error: ` and contains `words`.
    #[track_caller]
    pub(crate) fn expect_error(&mut self, words: &str) {
        let frame = self.receive();
        let text = frame.as_text();
        assert!(text.starts_with("error: ") && text.contains(words), "{}: expected {words:?} in {text:?}", self.name);
    }

    /// Takes a close frame with this code, and a reason that contains `words`.
    #[track_caller]
    pub(crate) fn expect_close(&mut self, code: u16, words: &str) {
        let frame = self.receive();
        assert!(frame.is_close(code, words), "{}: expected close {code} with {words:?}, got {frame:?}", self.name);
    }

    /// Takes a close frame without a code.
    #[track_caller]
    pub(crate) fn expect_bare_close(&mut self) {
        self.expect(&Frame { opcode: frame::CLOSE, payload: Vec::new() });
    }

    /// Finds the end of the connection, and nothing in front of it; a reset is no end.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        let frame = self.receive_or_end();
        assert_eq!(frame, None, "{}: expected the end", self.name);
    }

    /// Proves that nothing was sent to this session: what it sends to itself is the next that it receives.
    ///
    /// Whatever another shard had in hand for it may still come; [`Self::expect_nothing_from`] proves that, too.
    #[track_caller]
    pub(crate) fn expect_silence(&mut self) {
        let marker = marker();
        self.send_text(format!("{}:{marker}", self.name));
        self.expect_text(marker);
    }

    /// Proves that `sender` has sent nothing to this session: what it sends now is the next that is received.
    #[track_caller]
    pub(crate) fn expect_nothing_from(&mut self, sender: &mut Self) {
        let marker = marker();
        sender.send_text(format!("{}:{marker}", self.name));
        self.expect_text(marker);
    }

    /// Sends a message to each other and takes it: both are alive, and nothing else was sent to either.
    #[track_caller]
    pub(crate) fn converse(&mut self, other: &mut Self) {
        other.expect_nothing_from(self);
        self.expect_nothing_from(other);
    }
}

/// Receiving HTTP and bytes.
impl Client {
    /// Takes an answer's head and the body that its length announces.
    #[track_caller]
    pub(crate) fn receive_response(&mut self) -> Response {
        let mut response = self.receive_head();
        let length = response.content_length();
        response.body = String::from_utf8(self.receive_bytes(length)).expect("an answer's body is text");
        response
    }

    /// Takes an answer's head only.
    #[track_caller]
    pub(crate) fn receive_head(&mut self) -> Response {
        loop {
            if let Some((response, length)) = Response::decode_head(&self.received[self.at..]) {
                self.at += length;
                return response;
            }
            let outcome = self.fill();
            assert_eq!(outcome, Outcome::Bytes, "{}: the node closed before its answer's end", self.name);
        }
    }

    /// Takes the answer that begins a WebSocket.
    #[track_caller]
    pub(crate) fn expect_upgrade(&mut self) -> Response {
        let response = self.receive_head();
        assert_eq!(response.status, 101, "{}: {response:?}", self.name);
        assert_eq!(response.header("sec-websocket-accept"), Some(ACCEPT));
        response
    }

    #[track_caller]
    pub(crate) fn receive_bytes(&mut self, length: usize) -> Vec<u8> {
        while self.received.len() - self.at < length {
            let outcome = self.fill();
            assert_eq!(outcome, Outcome::Bytes, "{}: the node closed before {length} bytes", self.name);
        }
        self.at += length;
        self.received[self.at - length..self.at].to_vec()
    }

    /// Takes every byte up to the connection's end.
    #[track_caller]
    pub(crate) fn receive_to_end(&mut self) -> Vec<u8> {
        while self.fill() == Outcome::Bytes {}
        self.received.split_off(std::mem::take(&mut self.at))
    }

    /// Takes exactly these bytes.
    #[track_caller]
    pub(crate) fn expect_bytes(&mut self, expected: &[u8]) {
        let received = self.receive_bytes(expected.len());
        assert_eq!(received.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{}", self.name);
    }

    /// Tells whether something has been received, or the end, without waiting.
    #[track_caller]
    pub(crate) fn has_received(&mut self) -> bool {
        if self.at < self.received.len() {
            return true;
        }
        let Stream::Tcp(stream) = &self.stream else { panic!("{}: not over TCP", self.name) };
        stream.set_nonblocking(true).expect("a socket can be changed");
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false).expect("a socket can be changed");
        !peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Receives once.
    #[track_caller]
    fn fill(&mut self) -> Outcome {
        self.received.drain(..std::mem::take(&mut self.at));
        let before = self.received.len();
        self.received.resize(before + (64 << 10), 0);
        let length = loop {
            match self.stream.read(&mut self.received[before..]) {
                Ok(length) => break length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.fail("cannot receive", &error),
            }
        };
        self.received.truncate(before + length);
        if length == 0 { Outcome::End } else { Outcome::Bytes }
    }

    #[track_caller]
    fn fail(&self, what: &str, error: &io::Error) -> ! {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => panic!("{}: {what} within {DEADLINE:?}", self.name),
            _ => panic!("{}: {what}: {error}", self.name),
        }
    }
}

impl Stream {
    fn set_deadlines(&self) -> io::Result<()> {
        match self {
            Self::Tls(stream) => {
                let socket = &stream.sock;
                socket.set_read_timeout(Some(DEADLINE)).and_then(|()| socket.set_write_timeout(Some(DEADLINE)))
            }
            Self::Tcp(stream) => {
                stream.set_read_timeout(Some(DEADLINE)).and_then(|()| stream.set_write_timeout(Some(DEADLINE)))
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(Some(DEADLINE)).and_then(|()| stream.set_write_timeout(Some(DEADLINE)))
            }
        }
    }

    fn shut_down(&mut self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tls(stream) => {
                stream.conn.send_close_notify();
                stream.flush()?;
                stream.sock.shutdown(how)
            }
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
            // All of it: what rustls has taken is not sent before a flush.
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()).map(|()| bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the node answers to a login, with its default template.
fn login_reply(uid: &str) -> String {
    format!("Login realizado com sucesso, seu uid é {uid}")
}

/// A text that no other message has.
fn marker() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("marker {}", NEXT.fetch_add(1, Ordering::Relaxed))
}
