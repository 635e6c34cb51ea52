//! The HTTP around a WebSocket: requests, good and bad, and the server's answers.

/// Key of the example in RFC 6455, section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The answer that the RFC gives to [`KEY`].
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A request, line by line.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    first_line: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// The opening handshake of RFC 6455, section 1.3.
    pub(crate) fn upgrade() -> Self {
        Self::new("GET / HTTP/1.1")
            .with("Host", "localhost")
            .with("Connection", "Upgrade")
            .with("Upgrade", "websocket")
            .with("Sec-WebSocket-Version", "13")
            .with("Sec-WebSocket-Key", KEY)
    }

    /// A request with no header.
    pub(crate) fn new(first_line: &str) -> Self {
        Self { first_line: first_line.to_owned(), headers: Vec::new() }
    }

    /// With another first line.
    pub(crate) fn first_line(mut self, first_line: &str) -> Self {
        self.first_line = first_line.to_owned();
        self
    }

    /// With one more header line, at the end.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Without any line of this header.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self
    }

    /// With this value in place of every line of the header.
    pub(crate) fn replacing(self, name: &str, value: &str) -> Self {
        self.without(name).with(name, value)
    }

    /// With every header's name passed through `change`.
    pub(crate) fn names(mut self, change: impl Fn(&str) -> String) -> Self {
        for (name, _) in &mut self.headers {
            *name = change(name);
        }
        self
    }

    /// The bytes on the wire.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{}\r\n{headers}\r\n", self.first_line).into_bytes()
    }
}

/// The head of an answer, and the body that its length announces.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    /// Decodes the answer's head at the front of `bytes`; returns it with its length, once it is all there.
    #[track_caller]
    pub(crate) fn decode_head(bytes: &[u8]) -> Option<(Self, usize)> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).expect("an answer's head is text");
        let mut lines = head.split("\r\n");
        let first_line = lines.next().expect("an answer has a first line");
        let status =
            first_line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("expected an HTTP answer, got {first_line:?}"));
        let header = |line: &str| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("expected a header, got {line:?}"));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        Some((Self { status, headers: lines.map(header).collect(), body: String::new() }, end + 4))
    }

    /// The only value of a header, its name in lower case.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(other, _)| other == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "header {name} stands there twice: {self:?}");
        value
    }

    /// How long the body is, which every answer with a body must say.
    pub(crate) fn content_length(&self) -> usize {
        self.header("content-length").map_or(0, |length| length.parse().expect("a length is a number"))
    }
}
