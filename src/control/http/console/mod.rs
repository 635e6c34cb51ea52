//! The console: a page that watches the node and acts on users, by the API beside it.
//!
//! It is made of three files at the first request, holds no data, and is served to anybody; what it asks for takes a
//! token like any other request. Nothing of a request gets into it. The policy allows exactly its style and its script, by their
//! hashes, and connections to where it came from, so whatever a uid may hold, a browser would run none of it; the page
//! itself puts text in as text.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use axum::body::{Body, Bytes};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;

use crate::frame::close;
use crate::gateway::Reason;

/// Where it is; the addresses that it asks are relative to this.
pub(super) const PATH: &str = "/console";

const MARKUP: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// The page and its headers, which never change while the node runs.
static PAGE: LazyLock<(Bytes, HeaderMap)> = LazyLock::new(|| {
    let script = script();
    let body = MARKUP.replace("{style}", STYLE).replace("{script}", &script);
    let policy = format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; img-src data:; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(&script)
    );
    let fixed: [(HeaderName, &str); 5] = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        // A newer node's page is seen at once.
        (CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    let mut headers: HeaderMap =
        fixed.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::try_from(policy).expect("base64 and words are ASCII"));
    (Bytes::from(body), headers)
});

/// The script, with the meanings of close codes and of refusals, which only the node knows.
fn script() -> String {
    let closes: BTreeMap<_, _> = close::ALL.iter().map(|(code, _, meaning)| (code.to_string(), *meaning)).collect();
    let refusals = Reason::ALL.iter().map(|reason| (reason.name().to_owned(), reason.text())).collect();
    let json = |meanings: BTreeMap<String, &str>| serde_json::to_string(&meanings).expect("texts are JSON");
    SCRIPT.replace("{closes}", &json(closes)).replace("{refusals}", &json(refusals))
}

/// Names a text in a policy (CSP level 3, section 2.3.1).
fn hash(text: &str) -> String {
    format!("sha256-{}", BASE64.encode(digest(&SHA256, text.as_bytes()).as_ref()))
}

/// Shows the page.
pub(super) async fn page() -> Response {
    let (body, headers) = &*PAGE;
    (headers.clone(), Body::from(body.clone())).into_response()
}

/// Leads to the page, also where a proxy has put the node below a path of its own.
pub(super) async fn to_page() -> Response {
    (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, PATH.trim_start_matches('/'))]).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body() -> &'static str {
        std::str::from_utf8(&PAGE.0).expect("the page is UTF-8")
    }

    #[test]
    fn page_is_whole_and_self_contained() {
        let body = body();
        assert!(body.len() < 64 * 1024, "{} bytes", body.len());
        for (tag, text) in [("style", STYLE), ("script", &script())] {
            assert!(body.contains(&format!("<{tag}>{text}</{tag}>")), "{tag} is not as its hash says");
            assert_eq!(body.matches(&format!("<{tag}")).count(), 1, "a second {tag} has no hash");
            assert!(!text.contains("</"), "{tag} would end early");
        }
        for word in
            [" style=\"", " src=", "@import", "url(", "onclick=\"", "{style}", "{script}", "{closes}", "{refusals}"]
        {
            assert!(!body.contains(word), "{word} would be refused by the policy, or was left over");
        }
        for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage"] {
            assert!(!body.contains(word), "{word} could turn a uid into markup, or keep a token");
        }
    }

    #[test]
    fn policy_allows_no_other_style_or_script() {
        let policy = PAGE.1[CONTENT_SECURITY_POLICY].to_str().expect("it is ASCII");
        assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    }

    #[test]
    fn counts_that_it_shows_exist() {
        // Between quotes in the lists of the script, and behind `counts.`.
        let known = |name: &str| crate::metrics::Stats::ALL.iter().any(|metric| metric.field == name);
        for list in ["SHED", "LOST"] {
            let (_, rest) = SCRIPT.split_once(&format!("const {list} = [")).expect("the list");
            let (list, _) = rest.split_once("];").expect("its end");
            let names = list.split('\'').skip(1).step_by(2).filter(|text| !text.contains([' ', ',']));
            for name in names {
                assert!(known(name), "{name}");
            }
        }
        let names = SCRIPT.split("counts.").skip(1).map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').expect("code goes on");
            &rest[..end]
        });
        for name in names.filter(|name| !["forEach", "map", "reduce", "length"].contains(name)) {
            assert!(known(name), "{name}");
        }
    }
}
