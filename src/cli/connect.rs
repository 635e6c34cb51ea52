//! `pombo connect`: a terminal client of the plain protocol.
//!
//! Messages go to standard output, one line each; everything else (the answer to the login, `error: …` frames, the
//! connection's state) goes to standard error, so that a pipe gets messages only. Each line of standard input is sent
//! unchanged. One thread runs the client on a runtime of its own. Another reads standard input ([`input`]), which can't be
//! interrupted. Receiving and sending never wait for each other, so that a server that stops reading until its own
//! messages are read can't block the client. A line is sent at most once; it is lost if the connection is lost meanwhile.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message, error::ProtocolError, protocol::CloseFrame};

use self::handshake::HandshakeError;
use self::login::Login;
use self::target::Target;
use super::input::{self, InputError};
use super::trust::{Trust, Wire};
use crate::backoff::Backoff;
use crate::roots::RootsError;

mod handshake;
mod login;
mod target;

/// Logs in as a uid, prints what arrives, sends each typed line (`bob:hi`, `all:hi`).
///
/// Works in a pipe: `echo 'bob:hi' | pombo connect localhost:1234 alice` ends after the server has taken everything.
/// At a terminal, a lost connection is made anew. Exit codes: 0 done, 1 connection lost or closed with an error,
/// 2 bad arguments, 3 login refused.
#[derive(Debug, clap::Args)]
pub(crate) struct ConnectArgs {
    /// Where the server listens: `ws://HOST:PORT/PATH`, `wss://…` for TLS, or only `HOST:PORT`.
    url: String,
    /// Who to log in as; not with a token, which says that itself.
    #[arg(required_unless_present = "token_file", conflicts_with = "token_file")]
    uid: Option<String>,
    /// Logs in with the token in this file, sent in the request's header `Authorization`.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Trusts what the certificates in this PEM file have signed, instead of what the system trusts.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Expects the certificate to be for this name, instead of for the host of the address.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Accepts any certificate, for a test: anybody on the way can read and change everything that is sent.
    #[arg(long, conflicts_with_all = ["ca", "server_name"])]
    insecure: bool,
    /// Keeps listening for this long after the end of input, for example `5s`.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "0s")]
    wait: Duration,
    /// Ends when the connection is lost, at a terminal too.
    #[arg(long)]
    no_reconnect: bool,
    /// Gives up when connecting and logging in take longer than this.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "10s")]
    connect_timeout: Duration,
}

impl ConnectArgs {
    /// Returns how the certificate of a server over TLS is checked.
    fn trust(&self) -> Result<Trust, RootsError> {
        if self.insecure {
            Ok(Trust::of_anybody())
        } else {
            Trust::load(self.ca.as_deref(), self.server_name.as_deref())
        }
    }
}

/// Runs the client until its end and returns the process's exit code.
pub(crate) fn run(args: ConnectArgs) -> ExitCode {
    let target = match args.url.parse::<Target>() {
        Ok(target) => target,
        Err(error) => {
            eprintln!("pombo connect: {error}");
            return ExitCode::from(2);
        }
    };
    let trust = match target.is_secure.then(|| args.trust()).transpose() {
        Ok(trust) => trust,
        Err(error) => {
            eprintln!("pombo connect: {error}");
            return ExitCode::from(2);
        }
    };
    let login = match (&args.uid, &args.token_file) {
        (Some(uid), _) => Login::Uid(uid.clone()),
        (None, Some(path)) => Login::TokenFile(path.clone()),
        // The argument parser refuses this.
        (None, None) => return ExitCode::from(2),
    };
    if let Err(error) = login.request(&target.uri) {
        eprintln!("pombo connect: {error}");
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("pombo connect: no event loop: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(async {
        let client = Client { args, target, trust, login, lines: input::lines(), interrupt: Interrupt::listen() };
        client.run().await
    });
    if !matches!(ended, Ended::Finished) {
        eprintln!("pombo connect: {ended}");
    }
    ended.exit_code()
}

/// How long the server may take to answer our close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to stay after the server's close frame, so that the answer to it is sent.
const CLOSE_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Bound of the first wait before the next attempt.
const RETRY: Duration = Duration::from_secs(1);

/// A session that lasted this long resets the backoff.
const STABLE: Duration = Duration::from_secs(10);
/// Lines sent with one flush.
const BATCH_LINES_MAX: usize = 64;

/// Close code of a session that a newer login of its uid has replaced.
const REPLACED: u16 = 4001;
/// Close code of a login refused because its uid is taken.
const UID_TAKEN: u16 = 4002;
/// Close code for an expired credential; when it ends a session, the file may hold a newer one by now.
const EXPIRED: u16 = 4010;
/// Close code of a login whose credential was refused.
const UNAUTHORIZED: u16 = 4011;

type WebSocket = WebSocketStream<Box<dyn Wire>>;

/// How a connection ended. Some ends also end the client.
#[derive(Debug, thiserror::Error)]
enum Ended {
    /// The client closed, and the server agreed; or the reader of standard output has gone.
    #[error("done")]
    Finished,
    /// The server refused the login.
    #[error("login refused: {0}")]
    Refused(String),
    /// The server closed.
    #[error("closed by the server: {code}{}{reason}", if reason.is_empty() { "" } else { " " })]
    Closed { code: u16, reason: String },
    /// The connection could not be made, or is lost.
    #[error("{0}")]
    Lost(String),
    /// Standard input can't be read, or a line of it can't be sent.
    #[error(transparent)]
    Input(#[from] InputError),
}

impl Ended {
    fn lost(error: &Error) -> Self {
        match error {
            Error::ConnectionClosed | Error::AlreadyClosed => Self::Lost("connection lost".to_owned()),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Lost("connection lost".to_owned()),
            other => Self::Lost(format!("connection lost: {other}")),
        }
    }

    fn not_opened(error: &HandshakeError, remark: &str) -> Self {
        // The body is the server's: it may be long, and hold control characters.
        let told: String = error.to_string().chars().take(300).collect();
        let told = format!("{}{remark}", one_line(told.trim_end()));
        match error {
            HandshakeError::Refused { status, .. } if login::is_refusal(*status) => Self::Refused(told),
            _ => Self::Lost(told),
        }
    }

    fn closed(frame: Option<CloseFrame>) -> Self {
        let (code, reason) = frame.map_or((1005, String::new()), |frame| (frame.code.into(), frame.reason.to_string()));
        Self::Closed { code, reason }
    }

    /// Turns a close before the login's answer into a refusal, if the close code is one.
    fn before_login(self) -> Self {
        match self {
            Self::Closed { code: code @ (1008 | UID_TAKEN | EXPIRED | UNAUTHORIZED), reason } => {
                Self::Refused(format!("{code} {reason}"))
            }
            other => other,
        }
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Finished | Self::Closed { code: 1000, .. } => ExitCode::SUCCESS,
            Self::Closed { .. } | Self::Lost(_) | Self::Input(_) => ExitCode::from(1),
            Self::Refused(_) => ExitCode::from(3),
        }
    }

    /// Returns whether another attempt could succeed, and would not replace another session of the uid.
    fn may_reconnect(&self) -> bool {
        match self {
            Self::Lost(_) => true,
            Self::Closed { code, .. } => !matches!(*code, 1000 | 1008 | REPLACED | UID_TAKEN | UNAUTHORIZED),
            Self::Finished | Self::Refused(_) | Self::Input(_) => false,
        }
    }
}

/// The client over all its connections.
struct Client {
    args: ConnectArgs,
    target: Target,
    /// Root certificates for the server; `None` without TLS.
    trust: Option<Trust>,
    login: Login,
    /// Lines from standard input; bounded, filled by a thread.
    lines: mpsc::Receiver<Result<Vec<u8>, InputError>>,
    interrupt: Interrupt,
}

impl Client {
    /// Connects. After a loss it connects again at a terminal; a script gets the exit code instead.
    async fn run(mut self) -> Ended {
        let reconnects = !self.args.no_reconnect && io::stdin().is_terminal();
        let mut backoff = Backoff::new(RETRY);
        let mut ever_online = false;
        loop {
            let (ended, online) = self.session().await;
            ever_online |= online.is_some();
            if !(reconnects && ever_online && ended.may_reconnect()) {
                return ended;
            }
            if online.is_some_and(|online| online >= STABLE) {
                backoff.reset();
            }
            let wait = backoff.next();
            eprintln!("pombo connect: {ended}; next attempt in {:.1} s", wait.as_secs_f64());
            tokio::select! {
                () = sleep(wait) => {}
                () = self.interrupt.wait() => return Ended::Finished,
            }
        }
    }

    /// Holds one connection; returns how it ended, and how long it was logged in, if it was.
    async fn session(&mut self) -> (Ended, Option<Duration>) {
        if self.args.insecure && self.target.is_secure {
            eprintln!(
                "pombo connect: WARNING: --insecure: the certificate of {} is not checked, anybody on the way can read \
                 and change everything",
                self.target.host
            );
        }
        let limit = self.args.connect_timeout;
        let socket = tokio::select! {
            () = self.interrupt.wait() => return (Ended::Finished, None),
            login = timeout(limit, log_in(&self.target, self.trust.as_ref(), &self.login)) => match login {
                Ok(Ok(socket)) => socket,
                Ok(Err(ended)) => return (ended, None),
                Err(_) => {
                    let limit = humantime::format_duration(limit);
                    return (Ended::Lost(format!("not connected and logged in within {limit}")), None);
                }
            },
        };
        let since = Instant::now();
        (self.converse(socket).await, Some(since.elapsed()))
    }

    /// Sends and receives concurrently until either ends, then completes the closing handshake.
    async fn converse(&mut self, socket: WebSocket) -> Ended {
        let (sink, stream) = socket.split();
        let sending = send_lines(sink, &mut self.lines, &mut self.interrupt, self.args.wait);
        let mut receiving = pin!(receive(stream));
        let sent = tokio::select! {
            ended = &mut receiving => return ended,
            sent = sending => sent,
        };
        // A failed send is not reported: messages from the server, perhaps with its reason to close, may still be unread.
        let ended = timeout(CLOSE_TIMEOUT, receiving).await;
        match (sent, ended) {
            (Sent::Unreadable(error), _) => Ended::Input(error),
            // The answer to the client's close frame; some servers answer without a code.
            (Sent::Close, Ok(Ended::Closed { code: 1000 | 1005, .. })) => Ended::Finished,
            (_, Ok(ended)) => ended,
            (Sent::Close, Err(_)) => Ended::Lost("connection lost: our close was not answered".to_owned()),
            (Sent::Failed, Err(_)) => Ended::Lost("connection lost".to_owned()),
        }
    }
}

/// Connects, logs in and prints the server's answer to standard error.
async fn log_in(target: &Target, trust: Option<&Trust>, login: &Login) -> Result<WebSocket, Ended> {
    let request = login.request(&target.uri).map_err(|error| Ended::Lost(error.to_string()))?;
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await.map_err(|error| {
        let remark = target.remark();
        Ended::Lost(format!("can't connect to {}:{}: {error}{remark}", target.host, target.port))
    })?;
    // Without it only small messages may arrive late.
    let _ = stream.set_nodelay(true);
    let stream: Box<dyn Wire> = match trust {
        None => Box::new(stream),
        Some(trust) => {
            let secured = trust.secure(stream, &target.host).await;
            secured.map_err(|error| Ended::Lost(format!("{error}{}", target.remark())))?
        }
    };
    let opened = handshake::open(request, stream).await;
    let mut socket = opened.map_err(|error| Ended::not_opened(&error, &target.remark()))?;
    if let Some(uid) = login.message() {
        socket.send(Message::text(uid)).await.map_err(|error| Ended::lost(&error))?;
    }
    let mut refusal = None;
    loop {
        match (socket.next().await, refusal.take()) {
            (Some(Ok(Message::Text(text))), None) => match text.strip_prefix("error: ") {
                Some(reason) => refusal = Some(reason.to_owned()),
                None => {
                    eprintln!("{}", one_line(&text));
                    return Ok(socket);
                }
            },
            (Some(Ok(Message::Ping(_) | Message::Pong(_))), kept) => refusal = kept,
            (_, Some(reason)) => return Err(Ended::Refused(reason)),
            (Some(Ok(Message::Close(frame))), None) => return Err(Ended::closed(frame).before_login()),
            (Some(Ok(_)), None) => return Err(Ended::Lost("the login was not answered with text".to_owned())),
            (Some(Err(error)), None) => return Err(Ended::lost(&error)),
            (None, None) => return Err(Ended::Lost("connection lost".to_owned())),
        }
    }
}

/// Why sending has ended.
enum Sent {
    /// Input ended, or the user interrupted; the close frame is on its way.
    Close,
    /// Input failed; the close frame is on its way.
    Unreadable(InputError),
    /// The connection takes nothing more.
    Failed,
}

/// Sends every line, waits for `wait`, sends the close frame.
async fn send_lines(
    mut sink: impl Sink<Message, Error = Error> + Unpin,
    lines: &mut mpsc::Receiver<Result<Vec<u8>, InputError>>,
    interrupt: &mut Interrupt,
    wait: Duration,
) -> Sent {
    let mut batch = Vec::with_capacity(BATCH_LINES_MAX);
    let mut unreadable = None;
    while unreadable.is_none() {
        tokio::select! {
            () = interrupt.wait() => break,
            count = lines.recv_many(&mut batch, BATCH_LINES_MAX) => if count == 0 {
                tokio::select! {
                    () = interrupt.wait() => {}
                    () = sleep(wait) => {}
                }
                break;
            },
        }
        for line in batch.drain(..) {
            match line {
                Ok(line) => {
                    if sink.feed(message(line)).await.is_err() {
                        return Sent::Failed;
                    }
                }
                Err(error) => unreadable = Some(error),
            }
        }
        if sink.flush().await.is_err() {
            return Sent::Failed;
        }
    }
    let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    match (sink.send(Message::Close(Some(close))).await, unreadable) {
        (Err(_), _) => Sent::Failed,
        (Ok(()), Some(error)) => Sent::Unreadable(error),
        (Ok(()), None) => Sent::Close,
    }
}

/// Makes a text message if the line is UTF-8, else a binary one: the server delivers either unchanged.
fn message(line: Vec<u8>) -> Message {
    match String::from_utf8(line) {
        Ok(text) => Message::text(text),
        Err(error) => Message::binary(error.into_bytes()),
    }
}

/// Prints messages until the connection ends.
async fn receive(mut stream: impl Stream<Item = Result<Message, Error>> + Unpin) -> Ended {
    loop {
        let printed = match stream.next().await {
            None => return Ended::Lost("connection lost".to_owned()),
            Some(Err(error)) => return Ended::lost(&error),
            Some(Ok(Message::Text(text))) if text.starts_with("error: ") => {
                eprintln!("{}", one_line(&text));
                continue;
            }
            Some(Ok(Message::Text(text))) => print_line(&one_line(&text)),
            Some(Ok(Message::Binary(bytes))) => print_line(&hex(&bytes)),
            Some(Ok(Message::Close(frame))) => {
                // Polling the stream once more sends the answer.
                let _ = timeout(CLOSE_ANSWER_TIMEOUT, stream.next()).await;
                return Ended::closed(frame);
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
        };
        match printed {
            Ok(()) => {}
            // The reader of standard output, `head` perhaps, has gone.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ended::Finished,
            Err(error) => return Ended::Lost(format!("can't write standard output: {error}")),
        }
    }
}

/// Writes one line; a slow reader of standard output stops the client, and through TCP the server.
fn print_line(line: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(line.as_bytes())?;
    output.write_all(b"\n")?;
    output.flush()
}

/// Escapes control characters but the tab, so that a message is one line and can't command the terminal.
fn one_line(text: &str) -> Cow<'_, str> {
    let escaped = |c: char| c.is_control() && c != '\t';
    if !text.contains(escaped) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if escaped(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    Cow::Owned(line)
}

/// Renders a binary message as its size and its bytes in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    let mut line = format!("[binary, {} bytes] ", bytes.len());
    for byte in bytes {
        let _ = write!(line, "{byte:02x}");
    }
    line
}

/// Ctrl-C: the first one requests a clean close, a second one ends the process at once.
struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Starts listening for Ctrl-C, on the client's runtime.
    fn listen() -> Self {
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                sender.send_replace(true);
                if tokio::signal::ctrl_c().await.is_ok() {
                    std::process::exit(130);
                }
            }
            // There are no signals here: the sender must stay alive, or the wait below would end.
            std::future::pending::<()>().await;
        });
        Self(receiver)
    }

    /// Waits for the first Ctrl-C; returns at once if it has happened. Nothing is lost by dropping it.
    async fn wait(&mut self) {
        let _ = self.0.wait_for(|interrupted| *interrupted).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_is_one_line() {
        for (text, line) in [
            ("", ""),
            ("olá\tbob", "olá\tbob"),
            (r#"{"path":"C:\\x"}"#, r#"{"path":"C:\\x"}"#),
            ("a\r\nb", "a\\r\\nb"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("\u{9b}2J\0", "\\u{9b}2J\\u{0}"),
        ] {
            assert_eq!(one_line(text), line);
        }
    }

    #[test]
    fn text_stays_text_and_bytes_stay_bytes() {
        assert_eq!(message(b"bob:ol\xc3\xa1".to_vec()), Message::text("bob:olá"));
        assert_eq!(message(b"bob:\xff".to_vec()), Message::binary(b"bob:\xff".to_vec()));
    }

    #[test]
    fn binary_is_marked() {
        assert_eq!(hex(b""), "[binary, 0 bytes] ");
        assert_eq!(hex(b"\xff\x00a"), "[binary, 3 bytes] ff0061");
    }

    #[test]
    fn attempts_that_would_fail_again_or_push_somebody_out_are_not_made() {
        let closed = |code| Ended::Closed { code, reason: String::new() };
        for code in [1001, 1005, 1009, 1011, 1012, 1013, 4008, EXPIRED] {
            assert!(closed(code).may_reconnect(), "{code}");
        }
        for code in [1000, 1008, REPLACED, UID_TAKEN, UNAUTHORIZED] {
            assert!(!closed(code).may_reconnect(), "{code}");
        }
        assert!(Ended::Lost(String::new()).may_reconnect());
        assert!(!Ended::Refused(String::new()).may_reconnect());
        assert!(!Ended::Finished.may_reconnect());
    }
}
