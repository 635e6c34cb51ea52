//! `GET /metrics`: what the node counts, in OpenMetrics for a scraper that asks for it, else in Prometheus's older text format.
//!
//! Both formats have the same samples and differ in their comments, so the older format is made from OpenMetrics.

use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::response::IntoResponse;

use super::Api;
use super::access::Right;
use super::request::members;
use crate::control::problem::Failure;
use crate::control::prometheus;
use crate::control::tokens::Caller;

/// `Content-Type` of the older format.
const PLAIN_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Returns the node's metrics.
pub(super) async fn metrics(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Failure> {
    caller.require(Right::Query)?;
    let scrape = api.control.scrape().await?;
    let (content_type, text) = match asks_for_openmetrics(&headers) {
        true => (prometheus::CONTENT_TYPE, scrape),
        false => (PLAIN_CONTENT_TYPE, plain(&scrape)),
    };
    Ok(([(CONTENT_TYPE, content_type), (VARY, "accept")], text))
}

/// Returns whether `Accept` names OpenMetrics 1.0.0, and plain text with no higher quality.
///
/// Any other `Accept` (another version, `*/*`, none) gets plain text, which every scraper reads.
fn asks_for_openmetrics(headers: &HeaderMap) -> bool {
    let ranges: Vec<Range> = members(headers, ACCEPT).filter_map(Range::read).collect();
    let quality = |media: &str, version: &str| {
        let matches = |range: &&Range| {
            range.media.eq_ignore_ascii_case(media) && range.version.is_none_or(|asked| asked == version)
        };
        ranges.iter().filter(matches).map(|range| range.quality).max_by(f32::total_cmp)
    };
    let plain = ["text/plain", "text/*", "*/*"].iter().find_map(|media| quality(media, "0.0.4")).unwrap_or(0.0);
    quality("application/openmetrics-text", "1.0.0").is_some_and(|open| open > 0.0 && open >= plain)
}

/// A member of `Accept` (RFC 9110, section 12.5.1).
struct Range<'a> {
    media: &'a str,
    version: Option<&'a str>,
    quality: f32,
}

impl<'a> Range<'a> {
    /// Reads a member; `None` if it is malformed.
    fn read(member: &'a [u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(member).ok()?.split(';').map(str::trim);
        let mut range = Self { media: parts.next()?, version: None, quality: 1.0 };
        for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
            let (name, value) = (name.trim(), value.trim().trim_matches('"'));
            if name.eq_ignore_ascii_case("q") {
                range.quality = value.parse().ok().filter(|quality| (0.0..=1.0).contains(quality))?;
            } else if name.eq_ignore_ascii_case("version") {
                range.version = Some(value);
            }
        }
        Some(range)
    }
}

/// Turns OpenMetrics into plain text: a family gets the name of its samples, and there is no `# EOF`.
fn plain(openmetrics: &str) -> String {
    let mut plain = String::with_capacity(openmetrics.len() + 1024);
    let mut help = "";
    for line in openmetrics.lines() {
        if let Some((_, text)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) {
            help = text;
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                // The older format has no type for infos; a gauge of 1 is its custom.
                "info" => ("_info", "gauge"),
                kind => ("", kind),
            };
            plain.extend(["# HELP ", name, suffix, " ", help, "\n# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            plain.extend([line, "\n"]);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[track_caller]
    fn check(accept: &[&str], expected: bool) {
        let mut headers = HeaderMap::new();
        for line in accept {
            headers.append(ACCEPT, HeaderValue::from_str(line).expect("a header"));
        }
        assert_eq!(asks_for_openmetrics(&headers), expected, "{accept:?}");
    }

    #[test]
    fn openmetrics_is_for_who_asks_for_it() {
        for accept in [
            &["application/openmetrics-text"][..],
            &["application/openmetrics-text; version=1.0.0"],
            &["Application/OpenMetrics-Text; Version=\"1.0.0\"; charset=utf-8"],
            // Prometheus 3, and 2.
            &["application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
               application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
               text/plain;version=0.0.4;q=0.3,*/*;q=0.2"],
            &["application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"],
            &["text/plain", "application/openmetrics-text"],
        ] {
            check(accept, true);
        }
    }

    #[test]
    fn everybody_else_has_plain_text() {
        for accept in [
            &[][..],
            &[""],
            &["*/*"],
            &["text/html,application/xhtml+xml,*/*;q=0.8"],
            &["application/*"],
            &["application/json"],
            &["text/plain;version=0.0.4"],
            &["application/openmetrics-text;q=0"],
            &["application/openmetrics-text;q=0.0,*/*"],
            &["application/openmetrics-text;q=x"],
            &["application/openmetrics-text;q=2"],
            &["application/openmetrics-text;version=0.0.1,text/plain;version=0.0.4;q=0.5"],
            &["application/openmetrics-text;q=0.5,text/plain"],
            &["application/openmetrics-text;q=0.5,*/*"],
            &["application/openmetrics"],
        ] {
            check(accept, false);
        }
    }

    #[test]
    fn plain_text_is_called_as_its_samples_are() {
        let openmetrics = "# HELP a A thing.\n# TYPE a counter\n# UNIT a seconds\na_total{b=\"# c\"} 1\n\
                           # HELP d Other.\n# TYPE d info\nd_info{e=\"f\"} 1\n\
                           # HELP g Third.\n# TYPE g histogram\ng_bucket{le=\"+Inf\"} 2\n# EOF\n";
        let expected = "# HELP a_total A thing.\n# TYPE a_total counter\na_total{b=\"# c\"} 1\n\
                        # HELP d_info Other.\n# TYPE d_info gauge\nd_info{e=\"f\"} 1\n\
                        # HELP g Third.\n# TYPE g histogram\ng_bucket{le=\"+Inf\"} 2\n";
        assert_eq!(plain(openmetrics), expected);
    }
}
