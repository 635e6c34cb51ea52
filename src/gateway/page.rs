//! The page that answers an ordinary GET on the WebSocket port: one embedded file and its headers.
//!
//! Everything is constant, except for three words of the settings: nothing of a request ever gets into the answer. The policy allows exactly
//! the style and the script of the file, by their hashes, inline pictures, and connections to where the page came
//! from (`'self'` covers `ws:` and `wss:` to the same host and port: CSP level 3, section 6.7.2.8), so
//! whatever a message may hold, a browser would run none of it. The page itself puts text in as text.

use crate::config::{Auth, AuthSettings, AuthSource, Paths};

/// The page, UTF-8, with its style, script and pictures inline, and three places for words of the settings.
const TEMPLATE: &str = include_str!("page.html");

/// Returns the page for a node that authenticates in this way and upgrades these paths.
///
/// The words are attributes of the body: the hashes of style and script stay as they are.
pub(crate) fn body(settings: &AuthSettings, paths: &Paths) -> String {
    let auth = match settings.auth {
        Auth::None => "none",
        Auth::Jwt => "jwt",
        Auth::Http => "http",
    };
    let logs_in_by_header = settings.auth == Auth::Http && !settings.url_login_headers.is_empty();
    let place = place(&settings.sources, logs_in_by_header);
    let header = if logs_in_by_header { "yes" } else { "no" };
    let words = [("{auth}", auth), ("{place}", place), ("{header}", header), ("{path}", &path(paths))];
    words.iter().fold(TEMPLATE.to_owned(), |page, (name, word)| page.replacen(name, word, 1))
}

/// Returns the path that the page connects to, for an attribute in double quotes: `/`, or the first path of a list without it.
fn path(paths: &Paths) -> String {
    let path = match paths {
        Paths::List(list) if !paths.allows("/") => list.first().map_or("/", String::as_str),
        _ => "/",
    };
    path.replace('&', "&amp;").replace('"', "&quot;")
}

/// Returns the place where the page puts a credential: the first of those that are allowed and that a browser can use.
fn place(sources: &[AuthSource], logs_in_by_header: bool) -> &'static str {
    // In the query it may end up in logs.
    let places = [
        (AuthSource::FirstFrame, "first-frame"),
        (AuthSource::Subprotocol, "subprotocol"),
        (AuthSource::Query, "query"),
    ];
    // After a login by header the first message is a command, which may send the credential to another user.
    let is_safe = |source| !(logs_in_by_header && source == AuthSource::FirstFrame);
    let found = places.iter().find(|(source, _)| sources.contains(source) && is_safe(*source));
    found.map_or("none", |(_, place)| place)
}

/// Value of the answer's `Content-Type`.
pub(crate) const CONTENT_TYPE: &str = "text/html; charset=utf-8";

/// The answer's further headers, names in lower case.
///
/// `no-cache` lets a browser keep the page but makes it ask again, so that a newer server's page is seen at once.
pub(crate) const HEADERS: [(&str, &str); 4] = [
    ("content-security-policy", CONTENT_SECURITY_POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-cache"),
];

/// What a browser may do with the page; a test compares the two hashes with the file.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; \
     style-src 'sha256-15a4jSZ0DSL0Y6XDaXKGeN3yQLAOJB/si2KvqCTHdO8='; \
     script-src 'sha256-HKiRAc1eRdCwLjAIx6e8lx0T8UTZwI7+cxzmlIjPVjI='; \
     img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::config::Config;

    /// What stands between the only `<tag>` and its end.
    fn inline(tag: &str) -> &'static str {
        let (_, rest) = TEMPLATE.split_once(&format!("<{tag}>")).expect("the page has the tag");
        let (inside, after) = rest.split_once(&format!("</{tag}>")).expect("the tag ends");
        assert!(!after.contains(&format!("<{tag}")), "a second <{tag}> has no hash");
        inside
    }

    #[track_caller]
    fn check_hash(tag: &str) {
        let hash = data_encoding::BASE64.encode(&Sha256::digest(inline(tag)));
        let expected = format!("{tag}-src 'sha256-{hash}'; ");
        assert!(CONTENT_SECURITY_POLICY.contains(&expected), "page.html has changed, its policy needs {expected}");
    }

    #[test]
    fn policy_allows_exactly_the_pages_style_and_script() {
        check_hash("style");
        check_hash("script");
        assert!(!CONTENT_SECURITY_POLICY.contains("unsafe"));
    }

    #[test]
    fn page_is_self_contained_and_small() {
        assert!(TEMPLATE.len() < 20 * 1024, "{} bytes", TEMPLATE.len());
        for word in
            ["<link rel=\"stylesheet", "<script ", "<style ", " style=\"", " src=", "@import", "url(", "onclick=\""]
        {
            assert!(!TEMPLATE.contains(word), "{word} would be refused by the policy");
        }
        for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!TEMPLATE.contains(word), "{word} could turn a message into markup");
        }
    }

    #[test]
    fn page_knows_what_the_node_asks_for() {
        #[track_caller]
        fn check(auth: Auth, sources: &[AuthSource], expected: &str) {
            check_with(auth, sources, &[], &format!("{expected} data-header=\"no\""));
        }
        #[track_caller]
        fn check_with(auth: Auth, sources: &[AuthSource], login_headers: &[&str], expected: &str) {
            let url_login_headers = login_headers.iter().map(|name| (*name).to_owned()).collect();
            let default = Config::default().gateway().auth;
            let settings = AuthSettings { auth, sources: sources.to_vec(), url_login_headers, ..default };
            let body = body(&settings, &Paths::Any);
            assert!(body.contains(&format!("<body {expected} data-path=\"/\">")), "{expected}");
            assert!(!["{auth}", "{place}", "{header}", "{path}"].iter().any(|word| body.contains(word)));
        }
        use AuthSource::{FirstFrame, Header, Query, Subprotocol};
        check(Auth::None, &[FirstFrame, Header], "data-auth=\"none\" data-place=\"first-frame\"");
        check(Auth::Jwt, &[Query, Subprotocol, FirstFrame], "data-auth=\"jwt\" data-place=\"first-frame\"");
        check(Auth::Http, &[Query, Subprotocol], "data-auth=\"http\" data-place=\"subprotocol\"");
        check(Auth::Jwt, &[Header, Query], "data-auth=\"jwt\" data-place=\"query\"");
        check(Auth::Jwt, &[Header], "data-auth=\"jwt\" data-place=\"none\"");
        // With a login by header the first message may be a command.
        let by_cookie = |auth, sources, expected| check_with(auth, sources, &["cookie"], expected);
        let subprotocol = "data-auth=\"http\" data-place=\"subprotocol\" data-header=\"yes\"";
        by_cookie(Auth::Http, &[FirstFrame, Subprotocol], subprotocol);
        by_cookie(Auth::Http, &[FirstFrame, Header], "data-auth=\"http\" data-place=\"none\" data-header=\"yes\"");
        by_cookie(Auth::Jwt, &[FirstFrame], "data-auth=\"jwt\" data-place=\"first-frame\" data-header=\"no\"");
    }

    #[test]
    fn page_connects_to_a_path_that_is_upgraded() {
        let list = |paths: &[&str]| path(&Paths::List(paths.iter().copied().map(str::to_owned).collect()));
        assert_eq!(path(&Paths::Any), "/");
        assert_eq!(list(&["/ws", "/chat"]), "/ws");
        assert_eq!(list(&["/ws", "/"]), "/");
        assert_eq!(list(&["/a\"b&quot;"]), "/a&quot;b&amp;quot;");
    }

    #[test]
    fn headers_can_be_sent() {
        for (name, value) in HEADERS {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{name}");
            assert!(value.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{value}");
        }
    }
}
