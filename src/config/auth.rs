//! Settings of authentication: their types, how each is written, and which go together.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use hyper::Uri;
use hyper::header::HeaderName;
use toml::Value;

use super::form::{Form, Words, one};
use super::{Config, Listen, Origins};
use crate::rights::Rights;

/// How a client authenticates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Not at all: the first frame is the uid.
    None,
    /// By a signed token, whose subject is the uid.
    Jwt,
    /// By a credential that an HTTP service checks; the service answers with the uid.
    Http,
}

/// Where a client may put its credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthSource {
    /// In the first message.
    FirstFrame,
    /// In the request's header `Authorization: Bearer`.
    Header,
    /// In `Sec-WebSocket-Protocol`, as `bearer.` followed by the token.
    Subprotocol,
    /// In the request's query, as `access_token`.
    Query,
}

/// A text that is never shown or logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Fewest bytes of a secret: the length of the hash that it keys (RFC 7518, section 3.2).
    pub const BYTES_MIN: usize = 32;
    /// Most bytes of a secret.
    pub const BYTES_MAX: usize = 1024;
    /// A byte order mark, which some editors write at the start of a file (RFC 3629, section 6).
    pub(crate) const MARK: &[u8] = b"\xef\xbb\xbf";

    /// Makes a secret of `text`; the check of the config refuses one that is too short.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the content of a file without a byte order mark at its start, and without line ends at its end.
    pub(crate) fn bare(bytes: &[u8]) -> &[u8] {
        let bytes = bytes.strip_prefix(Self::MARK).unwrap_or(bytes);
        let end = bytes.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |last| last + 1);
        &bytes[..end]
    }

    /// Returns whether a text can be a secret: long enough, without a line end, without a byte order mark.
    fn is_sound(text: &str) -> bool {
        let is_long_enough = (Self::BYTES_MIN..=Self::BYTES_MAX).contains(&text.len());
        is_long_enough && !text.contains(['\r', '\n']) && !text.as_bytes().starts_with(Self::MARK)
    }

    /// Returns the text of the secret, which must not be shown.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Address of a service of the operator: `http://` or `https://`, a host, and optionally a port and a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthUrl(Uri);

impl AuthUrl {
    /// Returns the address for a request.
    pub fn uri(&self) -> &Uri {
        &self.0
    }

    /// Returns whether the service is reached over TLS.
    pub fn is_secure(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }
}

/// The form of such an address, for error messages.
pub(super) const URL_EXAMPLE: &str = "http://127.0.0.1:8080/login";

/// The error for a text that is not an [`AuthUrl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an address such as {URL_EXAMPLE}")]
pub struct AuthUrlError;

impl FromStr for AuthUrl {
    type Err = AuthUrlError;

    fn from_str(text: &str) -> Result<Self, AuthUrlError> {
        let uri: Uri = text.parse().map_err(|_| AuthUrlError)?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        // A name and a password would be shown with the settings. The parser drops a port that is not a number.
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or(AuthUrlError)?;
        let port_is_sound = authority.port_u16().is_some() || authority.as_str().len() == authority.host().len();
        if is_http && port_is_sound && !authority.host().is_empty() { Ok(Self(uri)) } else { Err(AuthUrlError) }
    }
}

/// The settings by which the gateway authenticates; see the fields of the same names in [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthSettings {
    /// How clients authenticate.
    pub auth: Auth,
    /// Where clients may put their credentials.
    pub sources: Vec<AuthSource>,
    /// Rights of a client whose credential does not name any.
    pub rights: Rights,
    /// The claim with the client's rights.
    pub rights_claim: String,
    /// Secret of tokens signed with HS256.
    pub jwt_secret: Option<Secret>,
    /// File with such a secret.
    pub jwt_secret_file: Option<PathBuf>,
    /// Files with public keys.
    pub jwt_key_files: Vec<PathBuf>,
    /// The issuer that a token must have.
    pub jwt_issuer: Option<String>,
    /// The audience that a token must have.
    pub jwt_audience: Option<String>,
    /// How far the clocks of issuer and node may differ.
    pub jwt_leeway: Duration,
    /// The service that authenticates.
    pub url: Option<AuthUrl>,
    /// File with the root certificates for the service, in place of the system's.
    pub url_ca: Option<PathBuf>,
    /// Time that an answer of the service may take.
    pub url_timeout: Duration,
    /// Most requests to the service at a time.
    pub url_in_flight_max: usize,
    /// Headers of the client's request that are passed on to the service.
    pub url_headers: Vec<String>,
    /// Headers that log a client in without a credential; they are passed on, too.
    pub url_login_headers: Vec<String>,
    /// How long an answer of the service is used again.
    pub cache_ttl: Duration,
    /// Most answers kept.
    pub cache_entries_max: usize,
}

impl AuthSettings {
    /// Returns whether clients may put their credentials at `source`.
    pub fn takes_from(&self, source: AuthSource) -> bool {
        self.sources.contains(&source)
    }

    /// Returns the files that hold keys of tokens.
    pub(crate) fn key_paths(&self) -> Vec<PathBuf> {
        self.jwt_secret_file.iter().chain(&self.jwt_key_files).cloned().collect()
    }
}

impl Config {
    /// Returns the settings of authentication.
    pub(super) fn auth_settings(&self) -> AuthSettings {
        AuthSettings {
            auth: self.auth,
            sources: self.auth_sources.clone(),
            rights: self.rights,
            rights_claim: self.rights_claim.clone(),
            jwt_secret: self.jwt_secret.clone(),
            jwt_secret_file: self.jwt_secret_file.clone(),
            jwt_key_files: self.jwt_key_files.clone(),
            jwt_issuer: self.jwt_issuer.clone(),
            jwt_audience: self.jwt_audience.clone(),
            jwt_leeway: self.jwt_leeway,
            url: self.auth_url.clone(),
            url_ca: self.auth_url_ca.clone(),
            url_timeout: self.auth_url_timeout,
            url_in_flight_max: self.auth_url_in_flight_max,
            url_headers: self.auth_url_headers.clone(),
            url_login_headers: self.auth_url_login_headers.clone(),
            cache_ttl: self.auth_cache_ttl,
            cache_entries_max: self.auth_cache_entries_max,
        }
    }

    /// Returns whether headers of an upgrade request log its client in, which a browser may add for any page.
    pub(super) fn logs_in_by_header(&self) -> bool {
        self.auth == Auth::Http && !self.auth_url_login_headers.is_empty()
    }

    /// Returns the relations between settings of authentication: the key, whether the relation is broken, and the expected
    /// value.
    pub(super) fn auth_relations(&self) -> [(&'static str, bool, String); 4] {
        let is_open = self.auth == Auth::None && !self.insecure_open && !self.listen.iter().all(Listen::is_local);
        // Any page that a visitor opens can connect with the visitor's cookie, or with a header that a proxy makes of it, so
        // the pages must be chosen on purpose.
        let is_hijackable =
            self.logs_in_by_header() && self.admission().origins == Origins::Any && self.origins == Origins::Auto;
        let is_keyless = self.jwt_secret.is_none() && self.jwt_secret_file.is_none() && self.jwt_key_files.is_empty();
        [
            (
                "listen",
                is_open,
                "loopback addresses and Unix sockets only, since auth = none lets everybody log in as anybody; \
                 set auth to jwt or http, or allow it with --insecure-open (insecure_open = true)"
                    .to_owned(),
            ),
            (
                "auth",
                self.auth == Auth::Jwt && is_keyless,
                "a key to go with it: jwt_key_files, jwt_secret_file or jwt_secret".to_owned(),
            ),
            (
                "auth_url",
                self.auth == Auth::Http && self.auth_url.is_none(),
                format!("an address, since auth = http, such as {URL_EXAMPLE}"),
            ),
            (
                "origins",
                is_hijackable,
                "a list of your sites, since headers log in (auth_url_login_headers) and browsers send cookies and passwords \
                 for any page; or any, if the service of auth_url checks the origin"
                    .to_owned(),
            ),
        ]
    }
}

const NONE: &str = "none";
const ANY: &str = "any";

impl Words for Auth {
    const PLACEHOLDER: &'static str = "none|jwt|http";
    const WORDS: &'static [(&'static str, Self)] = &[(NONE, Self::None), ("jwt", Self::Jwt), ("http", Self::Http)];
}

impl Words for AuthSource {
    const PLACEHOLDER: &'static str = "SOURCE";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("first-frame", Self::FirstFrame),
        ("header", Self::Header),
        ("subprotocol", Self::Subprotocol),
        ("query", Self::Query),
    ];
}

/// One or more [`AuthSource`]s.
pub(super) struct Sources;

impl Form<Vec<AuthSource>> for Sources {
    const MANY: bool = true;
    const PLACEHOLDER: &'static str = "SOURCE";

    fn read(&self, items: &[String]) -> Option<Vec<AuthSource>> {
        let named = |text: &String| AuthSource::WORDS.iter().find(|(word, _)| word == text).map(|(_, source)| *source);
        let sources: Option<Vec<AuthSource>> = items.iter().map(named).collect();
        sources.filter(|sources| !sources.is_empty())
    }

    fn show(&self, value: &Vec<AuthSource>) -> Value {
        let shown = AuthSource::WORDS.iter().filter(|(_, source)| value.contains(source));
        shown.map(|(word, _)| Value::from(*word)).collect::<Vec<_>>().into()
    }

    fn expected(&self) -> String {
        format!("one or more of {}", AuthSource::WORDS.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", "))
    }
}

/// The rights of a client.
pub(super) struct Granted;

const RECEIVE: &str = "receive";

impl Form<Rights> for Granted {
    const MANY: bool = true;
    const PLACEHOLDER: &'static str = "RIGHT";

    fn read(&self, items: &[String]) -> Option<Rights> {
        let is_known = |item: &String| Rights::WORDS.iter().any(|(word, _)| word == item);
        match items {
            [] => None,
            [receive] if receive == RECEIVE => Some(Rights::RECEIVE),
            items => items.iter().all(is_known).then(|| Rights::granted(items.iter().map(String::as_str))),
        }
    }

    fn show(&self, value: &Rights) -> Value {
        let words: Vec<Value> = value.words().map(Value::from).collect();
        if words.is_empty() { RECEIVE.into() } else { words.into() }
    }

    fn expected(&self) -> String {
        let words: Vec<&str> = Rights::WORDS.iter().map(|(word, _)| *word).collect();
        format!("{RECEIVE}, or one or more of {}", words.join(", "))
    }
}

/// `none`, or a file.
pub(super) struct File;

impl Form<Option<PathBuf>> for File {
    const PLACEHOLDER: &'static str = "FILE";

    fn read(&self, items: &[String]) -> Option<Option<PathBuf>> {
        match one(items)? {
            "" => None,
            NONE => Some(None),
            path => Some(Some(path.into())),
        }
    }

    fn show(&self, value: &Option<PathBuf>) -> Value {
        value.as_ref().map_or(NONE.into(), |path| path.display().to_string().into())
    }

    fn expected(&self) -> String {
        format!("{NONE}, or the path of a file")
    }
}

/// `none`, or files.
impl Form<Vec<PathBuf>> for File {
    const MANY: bool = true;
    const PLACEHOLDER: &'static str = "FILE";

    fn read(&self, items: &[String]) -> Option<Vec<PathBuf>> {
        if items == [NONE] {
            return Some(Vec::new());
        }
        let sound = !items.is_empty() && items.iter().all(|path| !path.is_empty() && path != NONE);
        sound.then(|| items.iter().map(PathBuf::from).collect())
    }

    fn show(&self, value: &Vec<PathBuf>) -> Value {
        match &value[..] {
            [] => NONE.into(),
            paths => paths.iter().map(|path| Value::from(path.display().to_string())).collect::<Vec<_>>().into(),
        }
    }

    fn expected(&self) -> String {
        format!("{NONE}, or paths of files")
    }
}

/// `none`, or a secret; never shown.
pub(super) struct Hidden;

impl Form<Option<Secret>> for Hidden {
    const SECRET: bool = true;
    const PLACEHOLDER: &'static str = "SECRET";

    fn read(&self, items: &[String]) -> Option<Option<Secret>> {
        match one(items)? {
            NONE => Some(None),
            text => Secret::is_sound(text).then(|| Some(Secret::new(text))),
        }
    }

    fn show(&self, value: &Option<Secret>) -> Value {
        value.as_ref().map_or(NONE, Secret::reveal).into()
    }

    fn expected(&self) -> String {
        let (least, most) = (Secret::BYTES_MIN, Secret::BYTES_MAX);
        format!("{NONE}, or one line of {least} to {most} bytes without its end or a byte order mark")
    }
}

/// `none`, or the address of a service, with an example of one.
pub(super) struct Url(pub(super) &'static str);

impl Form<Option<AuthUrl>> for Url {
    const PLACEHOLDER: &'static str = "URL";

    fn read(&self, items: &[String]) -> Option<Option<AuthUrl>> {
        match one(items)? {
            NONE => Some(None),
            text => text.parse().ok().map(Some),
        }
    }

    fn show(&self, value: &Option<AuthUrl>) -> Value {
        value.as_ref().map_or(NONE.into(), |url| url.0.to_string().into())
    }

    fn expected(&self) -> String {
        format!("{NONE}, or an address such as {}", self.0)
    }
}

/// `none`, or names of headers.
pub(super) struct HeaderNames;

impl Form<Vec<String>> for HeaderNames {
    const MANY: bool = true;
    const PLACEHOLDER: &'static str = "HEADER";

    fn read(&self, items: &[String]) -> Option<Vec<String>> {
        if items == [NONE] {
            return Some(Vec::new());
        }
        let name = |item: &String| HeaderName::from_str(item).ok().map(|name| name.as_str().to_owned());
        let names: Option<Vec<String>> = items.iter().map(name).collect();
        names.filter(|names| !names.is_empty())
    }

    fn show(&self, value: &Vec<String>) -> Value {
        if value.is_empty() { NONE.into() } else { value.clone().into() }
    }

    fn expected(&self) -> String {
        format!("{NONE}, or names of headers")
    }
}

/// `any`, or a text that another must equal.
pub(super) struct Exactly;

impl Form<Option<String>> for Exactly {
    const PLACEHOLDER: &'static str = "TEXT";

    fn read(&self, items: &[String]) -> Option<Option<String>> {
        match one(items)? {
            ANY => Some(None),
            text => (1..=1024).contains(&text.len()).then(|| Some(text.to_owned())),
        }
    }

    fn show(&self, value: &Option<String>) -> Value {
        value.as_deref().unwrap_or(ANY).into()
    }

    fn expected(&self) -> String {
        format!("{ANY}, or a text of 1 to 1024 bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::form::items;

    /// Reads `texts` and shows what it read; `None` where it is refused.
    #[track_caller]
    fn check<T, F: Form<T>>(form: &F, texts: &[&str], shown: Option<&str>) {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        let read = form.read(&texts).map(|value| form.show(&value));
        assert_eq!(read.as_ref().map(Value::to_string).as_deref(), shown, "{texts:?}");
        let again = read.as_ref().and_then(|value| form.read(&items(value))).map(|value| form.show(&value));
        assert_eq!(again, read, "{texts:?} read, shown and read again");
    }

    #[test]
    fn lists() {
        check(&Sources, &["query", "header"], Some(r#"["header", "query"]"#));
        check(&Sources, &["Header"], None);
        check(&Sources, &[], None);
        check(&Granted, &["broadcast", "unicast"], Some(r#"["unicast", "broadcast"]"#));
        check(&Granted, &["receive"], Some(r#""receive""#));
        check(&Granted, &["receive", "unicast"], None);
        check(&Granted, &["all"], None);
        check(&HeaderNames, &["Cookie", "user-agent"], Some(r#"["cookie", "user-agent"]"#));
        check(&HeaderNames, &["none"], Some(r#""none""#));
        check(&HeaderNames, &["a b"], None);
        check::<Vec<PathBuf>, _>(&File, &["/a", "b"], Some(r#"["/a", "b"]"#));
        check::<Vec<PathBuf>, _>(&File, &["none"], Some(r#""none""#));
        check::<Vec<PathBuf>, _>(&File, &[""], None);
        check::<Option<PathBuf>, _>(&File, &["/a"], Some(r#""/a""#));
        check::<Option<PathBuf>, _>(&File, &[""], None);
    }

    #[test]
    fn addresses_of_a_service() {
        for text in
            ["http://127.0.0.1:8080/login", "http://auth.example.org/", "http://[::1]/?a=b", "https://h:8443/who"]
        {
            check(&Url(URL_EXAMPLE), &[text], Some(&format!("{text:?}")));
        }
        check(&Url(URL_EXAMPLE), &["http://h"], Some(r#""http://h/""#));
        for text in [
            "",
            "h",
            "/login",
            "ftp://h/",
            "https://",
            "HTTPS//h",
            "http://",
            "http://u:p@h/",
            "http://h:x/",
            "http://h:/",
            "http:///",
        ] {
            check(&Url(URL_EXAMPLE), &[text], None);
        }
    }

    #[test]
    fn texts_and_secrets() {
        check(&Exactly, &["any"], Some(r#""any""#));
        check(&Exactly, &["https://issuer/"], Some(r#""https://issuer/""#));
        check(&Exactly, &[""], None);
        check(&Hidden, &["none"], Some(r#""none""#));
        check(&Hidden, &[&"x".repeat(31)], None);
        check(&Hidden, &[&"x".repeat(32)], Some(&format!("{:?}", "x".repeat(32))));
        check(&Hidden, &[&"x".repeat(1025)], None);
        for (front, behind) in [("", "\n"), ("", "\r\n"), ("x\n", ""), ("\u{feff}", "")] {
            check(&Hidden, &[&format!("{front}{}{behind}", "x".repeat(32))], None);
        }
        assert_eq!(format!("{:?}", Some(Secret::new("s".repeat(32)))), "Some((hidden))");
    }
}
