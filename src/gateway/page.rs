//! The page that answers an ordinary GET on the WebSocket port: one embedded file and its headers.
//!
//! Everything is constant: nothing of a request ever gets into the answer. The policy allows exactly
//! the style and the script of the file, by their hashes, inline pictures, and connections to where the page came
//! from (`'self'` covers `ws:` and `wss:` to the same host and port: CSP level 3, section 6.7.2.8), so
//! whatever a message may hold, a browser would run none of it. The page itself puts text in as text.

/// The page, UTF-8, with its style, script and pictures inline.
pub(crate) const BODY: &str = include_str!("page.html");

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
     style-src 'sha256-PTtUMW9egKOfaWjxPZHw7aUleA5JXiT04DqEJNj5YQU='; \
     script-src 'sha256-ffn878x9pYBkWt0Rf6ACIQCf7IVYTs0OZnmhw3PY7d4='; \
     img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// What stands between the only `<tag>` and its end.
    fn inline(tag: &str) -> &'static str {
        let (_, rest) = BODY.split_once(&format!("<{tag}>")).expect("the page has the tag");
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
        assert!(BODY.len() < 20 * 1024, "{} bytes", BODY.len());
        for word in
            ["<link rel=\"stylesheet", "<script ", "<style ", " style=\"", " src=", "@import", "url(", "onclick=\""]
        {
            assert!(!BODY.contains(word), "{word} would be refused by the policy");
        }
        for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!BODY.contains(word), "{word} could turn a message into markup");
        }
    }

    #[test]
    fn headers_can_be_sent() {
        for (name, value) in HEADERS {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{name}");
            assert!(value.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{value}");
        }
    }
}
