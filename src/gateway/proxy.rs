//! The client's address as a trusted proxy states it: in a PROXY protocol header, or in `X-Forwarded-For`.
//!
//! Headers from an untrusted peer are ignored. Reading a PROXY header takes some forty lines for each version, and consumes no
//! byte behind the header; the trailing fields of version 2 are skipped. The crates for the PROXY protocol need the whole
//! header in memory first, and the caller would have to find its end.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hyper::header::HeaderMap;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::config::AdmissionSettings;
use crate::peer::Peer;

/// Start of a PROXY header of version 2 (section 2.2 of the specification).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Start of a header of version 1 (section 2.1).
const LINE_START: &[u8; 6] = b"PROXY ";

/// Bytes that distinguish the versions; the shortest header of either version is longer.
const FRONT_BYTES: usize = SIGNATURE.len();

/// Longest header of version 1, with its end of line.
const LINE_BYTES_MAX: usize = 107;

/// Bytes before the addresses in version 2: signature, version and command, family and protocol, and the length of the rest.
const FIXED_BYTES: usize = 16;

/// Most bytes of addresses and trailing fields together, some four times what the specification expects.
const REST_BYTES_MAX: usize = 2048;

/// Why no PROXY header was read.
#[derive(Debug)]
pub(super) enum HeaderError {
    /// The input is no PROXY header, or a malformed one.
    Malformed,
    Lost(io::Error),
}

impl From<io::Error> for HeaderError {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

/// Reads a PROXY header of version 1 or 2, and no byte behind it; returns the client's address, if the header states one.
///
/// Fails at the first byte that can't belong to a header, so that a client without one is refused at once. The caller bounds
/// the time.
pub(super) async fn read_header<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Option<Peer>, HeaderError> {
    let mut front = [0; FRONT_BYTES];
    let mut length = 0;
    while length < FRONT_BYTES {
        length += read_some(stream, &mut front[length..]).await?;
        let matches_start = |start: &[u8]| {
            let known = length.min(start.len());
            front[..known] == start[..known]
        };
        if !matches_start(SIGNATURE) && !matches_start(LINE_START) {
            return Err(HeaderError::Malformed);
        }
    }
    if front == *SIGNATURE { read_binary(stream).await } else { read_line(stream, front).await }
}

/// Reads at least one byte.
async fn read_some<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut [u8]) -> Result<usize, HeaderError> {
    match stream.read(buffer).await? {
        0 => Err(HeaderError::Lost(io::ErrorKind::UnexpectedEof.into())),
        length => Ok(length),
    }
}

/// Reads the rest of a header of version 1, a line that begins with `front`.
///
/// Each read takes at most as many bytes as must still come, which are the two of the line's end.
async fn read_line<S: AsyncRead + Unpin>(
    stream: &mut S,
    front: [u8; FRONT_BYTES],
) -> Result<Option<Peer>, HeaderError> {
    let mut line = [0; LINE_BYTES_MAX];
    line[..FRONT_BYTES].copy_from_slice(&front);
    let mut length = FRONT_BYTES;
    loop {
        match &line[..length] {
            [words @ .., b'\r', b'\n'] => return source_of_line(words).ok_or(HeaderError::Malformed),
            [.., b'\n'] | [.., b'\n', _] => return Err(HeaderError::Malformed),
            unended => {
                let missing = if unended.ends_with(b"\r") { 1 } else { 2 };
                let end = (length + missing).min(LINE_BYTES_MAX);
                if length == end {
                    return Err(HeaderError::Malformed);
                }
                length += read_some(stream, &mut line[length..end]).await?;
            }
        }
    }
}

/// Parses a header of version 1; returns the client's address, `Some(None)` if the header says that it is unknown, and `None`
/// for a malformed header.
fn source_of_line(words: &[u8]) -> Option<Option<Peer>> {
    let words = std::str::from_utf8(words).ok()?;
    let mut words = words.split(' ').skip(1);
    let is_v4 = match words.next()? {
        // The specification has receivers ignore the rest of the line.
        "UNKNOWN" => return Some(None),
        "TCP4" => true,
        "TCP6" => false,
        _ => return None,
    };
    let address = |word: &str| word.parse::<IpAddr>().ok().filter(|address| address.is_ipv4() == is_v4);
    // Rust's `parse` also accepts a leading `+`.
    let port = |word: &str| word.parse::<u16>().ok().filter(|_| word.bytes().all(|byte| byte.is_ascii_digit()));
    let (source, _destination) = (address(words.next()?)?, address(words.next()?)?);
    let (source_port, _destination_port) = (port(words.next()?)?, port(words.next()?)?);
    words.next().is_none().then(|| Some(SocketAddr::new(source, source_port).into()))
}

/// Reads the rest of a header of version 2, behind its signature.
async fn read_binary<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Option<Peer>, HeaderError> {
    let mut fixed = [0; FIXED_BYTES - FRONT_BYTES];
    stream.read_exact(&mut fixed).await?;
    let [command, family, high, low] = fixed;
    let behind = usize::from(u16::from_be_bytes([high, low]));
    let addresses = address_block(command, family).filter(|addresses| addresses.bytes() <= behind);
    let addresses = addresses.filter(|_| behind <= REST_BYTES_MAX).ok_or(HeaderError::Malformed)?;
    let mut body = vec![0; behind];
    stream.read_exact(&mut body).await?;
    Ok(addresses.source(&body))
}

/// The kind of addresses in a header of version 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AddressBlock {
    /// None of the client: the connection is the proxy's own, or the proxy doesn't know the address.
    Unknown,
    V4,
    V6,
}

fn address_block(command: u8, family: u8) -> Option<AddressBlock> {
    match (command, family) {
        // LOCAL: the proxy speaks for itself, as its health checks do.
        (0x20, _) => Some(AddressBlock::Unknown),
        (0x21, 0x11) => Some(AddressBlock::V4),
        (0x21, 0x21) => Some(AddressBlock::V6),
        // Unspecified, and Unix stream sockets.
        (0x21, 0x00 | 0x31) => Some(AddressBlock::Unknown),
        // Another version or command, or datagrams.
        _ => None,
    }
}

impl AddressBlock {
    /// Returns the least length: two addresses and two ports.
    fn bytes(self) -> usize {
        match self {
            Self::Unknown => 0,
            Self::V4 => 12,
            Self::V6 => 36,
        }
    }

    fn source(self, body: &[u8]) -> Option<Peer> {
        let port = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
        match self {
            Self::Unknown => None,
            Self::V4 => {
                let address = Ipv4Addr::from(*body.first_chunk::<4>()?);
                Some(SocketAddr::new(address.into(), port(8)?).into())
            }
            Self::V6 => {
                let address = Ipv6Addr::from(*body.first_chunk::<16>()?);
                Some(SocketAddr::new(address.into(), port(32)?).into())
            }
        }
    }
}

/// Returns the client's address: `peer`, or if that is a trusted proxy, the last hop of `X-Forwarded-For` that is not one.
///
/// Each proxy appends the address of its own peer, so lines and entries are read from the end. Entries before the last
/// untrusted hop may be forged. An entry that is no address comes from a trusted proxy that doesn't know its peer; the
/// client's address is then that proxy's. An empty entry is skipped (RFC 9110, section 5.6.1).
pub(crate) fn forwarded_client(peer: Option<Peer>, headers: &HeaderMap, settings: &AdmissionSettings) -> Option<Peer> {
    let mut known = peer;
    if settings.trusted_proxies.is_empty() {
        return known;
    }
    let lines: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
    let entries = lines.iter().rev().flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    for entry in entries.map(<[u8]>::trim_ascii).filter(|entry| !entry.is_empty()) {
        if !settings.trusts(known.map(Peer::address)) {
            break;
        }
        match std::str::from_utf8(entry).ok().and_then(hop) {
            Some(hop) => known = Some(hop),
            None => break,
        }
    }
    known
}

/// Parses an address with or without a port.
fn hop(entry: &str) -> Option<Peer> {
    let bare = entry.strip_prefix('[').and_then(|entry| entry.strip_suffix(']')).unwrap_or(entry);
    let address = bare.parse::<IpAddr>().map(Peer::from);
    address.or_else(|_| entry.parse::<SocketAddr>().map(Peer::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn header(command: u8, family: u8, behind: &[u8]) -> Vec<u8> {
        let length = u16::try_from(behind.len()).expect("a length");
        [SIGNATURE, &[command, family][..], &length.to_be_bytes(), behind].concat()
    }

    /// Reads `bytes` with a request behind them; returns the address, and checks that the request is left.
    async fn read(bytes: &[u8]) -> Result<Option<String>, ()> {
        let behind = b"GET / HTTP/1.1";
        let all = [bytes, behind].concat();
        let mut stream = &all[..];
        let source = read_header(&mut stream).await.map_err(|_| ())?;
        assert_eq!(stream, behind, "nothing behind the header is taken");
        Ok(source.map(|source| source.to_string()))
    }

    #[tokio::test]
    async fn headers_of_the_specification_are_read() {
        let v4 = [&[192, 0, 2, 1, 10, 0, 0, 1, 0x30, 0x39, 0, 80][..], b"\x03\0\x04tail"].concat();
        assert_eq!(read(&header(0x21, 0x11, &v4[..12])).await, Ok(Some("192.0.2.1:12345".to_owned())));
        assert_eq!(read(&header(0x21, 0x11, &v4)).await, Ok(Some("192.0.2.1:12345".to_owned())));
        let v6 =
            [&"2001:db8::1".parse::<Ipv6Addr>().expect("an address").octets()[..], &[0; 16], &[0, 7, 0, 80]].concat();
        assert_eq!(read(&header(0x21, 0x21, &v6)).await, Ok(Some("[2001:db8::1]:7".to_owned())));
        for (command, family, behind) in [
            (0x20, 0x00, &b""[..]),
            (0x20, 0x11, &v4),
            (0x21, 0x00, b"xyz"),
            (0x21, 0x31, &[0; 216]),
            (0x20, 0xff, b""),
        ] {
            assert_eq!(read(&header(command, family, behind)).await, Ok(None), "{command:x} {family:x}");
        }
        assert_eq!(read(&header(0x20, 0, &[0; REST_BYTES_MAX])).await, Ok(None));
    }

    #[tokio::test]
    async fn lines_of_the_specification_are_read() {
        for (line, expected) in [
            ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535", Some("255.255.255.255:65535")),
            ("PROXY TCP4 0.0.0.0 0.0.0.0 1 0", Some("0.0.0.0:1")),
            ("PROXY TCP4 192.0.2.1 10.0.0.1 0 80", Some("192.0.2.1")),
            ("PROXY TCP6 2001:db8::1 ::1 7 80", Some("[2001:db8::1]:7")),
            ("PROXY TCP6 ::ffff:192.0.2.1 :: 7 80", Some("192.0.2.1:7")),
            ("PROXY UNKNOWN", None),
            ("PROXY UNKNOWN 192.0.2.1 10.0.0.1 1 2", None),
            (&format!("PROXY UNKNOWN {}", "f".repeat(LINE_BYTES_MAX - 16)), None),
        ] {
            assert_eq!(read(format!("{line}\r\n").as_bytes()).await, Ok(expected.map(str::to_owned)), "{line}");
        }
    }

    #[tokio::test]
    async fn lines_that_are_no_header_are_refused() {
        let long = format!("PROXY UNKNOWN {}", "f".repeat(LINE_BYTES_MAX - 15));
        for bad in [
            "PROXY TCP4 192.0.2.1 10.0.0.1 1",
            "PROXY TCP4 192.0.2.1 10.0.0.1 1 2 3",
            "PROXY TCP4 192.0.2.1 10.0.0.1 1 2 ",
            "PROXY TCP4  192.0.2.1 10.0.0.1 1 2",
            "PROXY TCP4 192.0.2.1 10.0.0.1 +1 2",
            "PROXY TCP4 192.0.2.1 10.0.0.1 1 65536",
            "PROXY TCP4 192.0.2.1 10.0.0 1 2",
            "PROXY TCP4 192.0.2.1 ::1 1 2",
            "PROXY TCP4 2001:db8::1 ::1 1 2",
            "PROXY TCP6 192.0.2.1 10.0.0.1 1 2",
            "PROXY UDP4 192.0.2.1 10.0.0.1 1 2",
            "PROXY tcp4 192.0.2.1 10.0.0.1 1 2",
            "PROXY UNKNOWNS",
            "PROXY \u{e4}\u{e4}\u{e4}\u{e4}\u{e4}",
            "PROXY TCP4 192.0.2.1\r10.0.0.1 1 2",
            "PROXY TCP4 192.0.2.1 10.0.0.1 1 2\n",
            "PROXY T\nCP4 192.0.2.1 10.0.0.1 1 2",
            "proxy TCP4 192.0.2.1 10.0.0.1 1 2",
            &long,
        ] {
            assert_eq!(read(format!("{bad}\r\n").as_bytes()).await, Err(()), "{bad:?}");
        }
        // An incomplete header is a lost connection. One byte that can't belong to a header makes it malformed.
        assert!(matches!(read_header(&mut &b"PROXY TCP4 192.0.2.1"[..]).await, Err(HeaderError::Lost(_))));
        assert!(matches!(read_header(&mut &b"PO"[..]).await, Err(HeaderError::Malformed)));
        assert!(matches!(read_header(&mut &b"PROXY\r"[..]).await, Err(HeaderError::Malformed)));
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let long = [0; REST_BYTES_MAX + 1];
        for bad in [
            header(0x11, 0x11, &[0; 12]),
            header(0x22, 0x11, &[0; 12]),
            header(0x21, 0x12, &[0; 12]),
            header(0x21, 0x22, &[0; 36]),
            header(0x21, 0x41, &[0; 36]),
            header(0x21, 0x11, &[0; 11]),
            header(0x21, 0x21, &[0; 35]),
            header(0x20, 0x00, &long),
            b"\r\n\r\n\0\r\nQUIT!!!!!".to_vec(),
        ] {
            assert_eq!(read(&bad).await, Err(()), "{}", bad.escape_ascii());
        }
        // An incomplete header is a lost connection. One byte that can't belong to a header makes it malformed.
        assert!(matches!(read_header(&mut &SIGNATURE[..]).await, Err(HeaderError::Lost(_))));
        assert!(matches!(read_header(&mut &b"G"[..]).await, Err(HeaderError::Malformed)));
    }

    #[track_caller]
    fn check(peer: &str, lines: &[&[u8]], expected: &str) {
        let trusted_proxies = ["10.0.0.0/8", "fd00::/8"].map(|proxy| proxy.parse().expect("a network")).into();
        let settings = Config { trusted_proxies, ..Config::default() }.gateway().admission;
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", line[..].try_into().expect("a header's value"));
        }
        let peer = Some(peer.parse::<SocketAddr>().expect("an address").into());
        let client = forwarded_client(peer, &headers, &settings).expect("there is one");
        assert_eq!(client.to_string(), expected, "{peer:?}");
    }

    #[test]
    fn the_last_hop_that_is_not_trusted_is_the_client() {
        check("10.0.0.1:1", &[], "10.0.0.1:1");
        check("10.0.0.1:1", &[b"192.0.2.1"], "192.0.2.1");
        check("10.0.0.1:1", &[b"6.6.6.6, 192.0.2.1"], "192.0.2.1");
        check("10.0.0.1:1", &[b"6.6.6.6, 192.0.2.1,10.0.0.2 ,\t10.0.0.3"], "192.0.2.1");
        check("10.0.0.1:1", &[b"6.6.6.6", b"192.0.2.1", b"10.0.0.2"], "192.0.2.1");
        check("10.0.0.1:1", &[b"10.0.0.3, 10.0.0.2"], "10.0.0.3");
        check("10.0.0.1:1", &[b"192.0.2.1:443"], "192.0.2.1:443");
        check("10.0.0.1:1", &[b"2001:db8::1"], "2001:db8::1");
        check("10.0.0.1:1", &[b"[2001:db8::1]"], "2001:db8::1");
        check("10.0.0.1:1", &[b"[2001:db8::1]:443"], "[2001:db8::1]:443");
        check("[fd00::1]:1", &[b"::ffff:192.0.2.1"], "192.0.2.1");
        check("[::ffff:10.0.0.1]:1", &[b"192.0.2.1"], "192.0.2.1");
    }

    #[test]
    fn empty_entries_say_nothing() {
        for lines in [
            &[&b"6.6.6.6, 192.0.2.1,"[..]][..],
            &[b"192.0.2.1 ,, ,10.0.0.2,\t"],
            &[b"192.0.2.1", b""],
            &[b"192.0.2.1", b" , ", b"10.0.0.2,"],
        ] {
            check("10.0.0.1:1", lines, "192.0.2.1");
        }
        check("10.0.0.1:1", &[b""], "10.0.0.1:1");
        check("10.0.0.1:1", &[b",", b" "], "10.0.0.1:1");
    }

    #[test]
    fn untrusted_peers_are_not_believed() {
        check("192.0.2.9:1", &[b"1.2.3.4"], "192.0.2.9:1");
        check("192.0.2.9:1", &[b"10.0.0.1"], "192.0.2.9:1");
    }

    #[test]
    fn garbage_counts_as_the_proxy_that_sent_it() {
        for garbage in [&b"unknown"[..], b"1.2.3", b"\xff\xfe", b"[10.0.0.1", b"192.0.2.1:x", b"a\"b", b"192.0.2.1;"] {
            check("10.0.0.1:1", &[b"6.6.6.6", garbage], "10.0.0.1:1");
            check("10.0.0.1:1", &[garbage, b"10.0.0.2"], "10.0.0.2");
            check("10.0.0.1:1", &[garbage, b"192.0.2.1"], "192.0.2.1");
        }
    }
}
