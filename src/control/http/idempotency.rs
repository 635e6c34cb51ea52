//! `Idempotency-Key`: a request that comes again with the same key is not done again; it gets the stored answer
//! (draft-ietf-httpapi-idempotency-key-header).
//!
//! The length of an answer is known only after the request was done, and then the answer must be kept. So a request reserves
//! room for its longest possible answer before it is done, and gives the rest back afterwards.
//!
//! The answer is stored if the request was done or may have been done. The answer to a request that was certainly not done is
//! not stored, because the client uses the key to try again. A request with a key continues when its connection ends, since
//! the client may come again for the answer.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{self, Context, Digest};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::Api;
use super::reply::Reply;
use crate::control::problem::{Failure, Problem};
use crate::control::tokens::Caller;

/// The header with the key.
pub(super) const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Marks a stored answer.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Longest key, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// Upper bound of the memory for an answer beside its body and its key: its entry, and its slots in two tables, each with up
/// to [`SPARE_TIMES`] as many slots as entries. A test adds it up.
const ENTRY_BYTES: usize = 512;

/// Most slots of a table for each entry; a table doubles when it grows.
const SPARE_TIMES: usize = 3;

/// Removed entries that a table may still keep slots for.
const SPARE_ENTRIES: usize = 64;

/// A digest of a request, to notice another request with the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; digest::SHA256_OUTPUT_LEN]);

impl Fingerprint {
    /// Computes the fingerprint of a request with a key; `None` for a request without one.
    pub(super) fn of(parts: &Parts, body: &[u8]) -> Option<Self> {
        if !parts.headers.contains_key(KEY) {
            return None;
        }
        let mut context = Context::new(&digest::SHA256);
        let media_type = parts.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
        for part in [parts.method.as_str().as_bytes(), target.as_bytes(), media_type, body] {
            // With its length, so that the parts can't shift between each other.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        Some(Self::from(context.finish()))
    }
}

impl From<Digest> for Fingerprint {
    fn from(digest: Digest) -> Self {
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

/// A request with a key, before it is done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keyed {
    pub(super) fingerprint: Fingerprint,
    /// Bytes of the longest body that its answer can have.
    pub(super) body_bytes_max: usize,
}

/// The caller's name and its key: two callers may choose the same key.
type Name = (Option<Arc<str>>, Box<str>);

/// Answers by their keys.
#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    entries: HashMap<Name, Box<Entry>>,
    /// The keys of `entries` by age, oldest first.
    ages: VecDeque<(Instant, Name)>,
    /// Memory of all entries. Never over `idempotency_bytes_max`, unless a reload has lowered that.
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    since: Instant,
    fingerprint: Fingerprint,
    /// `None` while the request is being done.
    reply: Option<Reply>,
    /// Its memory; the most that it can become as long as there is no answer.
    bytes: usize,
}

/// The state of a key when a request with it arrives.
#[derive(Debug)]
enum Known {
    /// The key is new, and the caller must do the request.
    New,
    /// The request was answered before.
    Answered(Reply),
}

/// Runs `act`, unless the request has a key with a stored answer.
pub(super) async fn once(
    api: &Api,
    caller: &Caller,
    headers: &HeaderMap,
    keyed: Option<Keyed>,
    act: impl Future<Output = Reply> + Send + 'static,
) -> Result<Response, Failure> {
    let settings = api.settings();
    let key = key(headers)?.filter(|_| !settings.idempotency_window.is_zero());
    let Some((key, keyed)) = key.zip(keyed) else {
        return Ok(act.await.into_response());
    };
    let name = (caller.name.clone(), key);
    let bounds = (settings.idempotency_window, settings.idempotency_bytes_max);
    match api.answers.begin(name.clone(), keyed, bounds, Instant::now())? {
        Known::Answered(reply) => {
            let mut response = reply.into_response();
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
            Ok(response)
        }
        Known::New => {
            let pending = Pending { answers: Arc::clone(&api.answers), name, reply: None };
            let doing = async move {
                let mut pending = pending;
                let reply = act.await;
                pending.reply = Some(reply.to_keep());
                reply
            };
            let done = tokio::spawn(doing.in_current_span());
            match done.await {
                Ok(reply) => Ok(reply.into_response()),
                Err(_) => Err(Problem::Internal.with_detail("the request was cut, it may have been done")),
            }
        }
    }
}

/// A request that is being done. Dropping it stores the answer, or frees the key if there is none.
struct Pending {
    answers: Arc<Answers>,
    name: Name,
    reply: Option<Reply>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.answers.end(&self.name, self.reply.take().filter(Reply::may_be_done));
    }
}

/// Reads the key: a string as structured headers have it (RFC 9651), or the same without its quotes.
fn key(headers: &HeaderMap) -> Result<Option<Box<str>>, Failure> {
    let mut keys = headers.get_all(KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let refused = || {
        Problem::Malformed.with_detail(format!(
            "expected one Idempotency-Key of 1 to {KEY_BYTES_MAX} visible characters of ASCII, in quotes or without"
        ))
    };
    let text = key.to_str().map_err(|_| refused())?.trim();
    let bare = text.strip_prefix('"').map_or(Some(text), |rest| rest.strip_suffix('"')).ok_or_else(refused)?;
    let is_sound = (1..=KEY_BYTES_MAX).contains(&bare.len())
        && bare.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
    if is_sound && keys.next().is_none() { Ok(Some(bare.into())) } else { Err(refused()) }
}

/// Refuses a key on a request whose answer can't be stored.
pub(super) fn refuse(headers: &HeaderMap) -> Result<(), Failure> {
    match headers.contains_key(KEY) {
        true => Err(Problem::Malformed.with_detail("a batch can't be done once by its Idempotency-Key, leave it out")),
        false => Ok(()),
    }
}

impl Answers {
    fn begin(
        &self,
        name: Name,
        Keyed { fingerprint, body_bytes_max }: Keyed,
        bounds: (Duration, usize),
        now: Instant,
    ) -> Result<Known, Failure> {
        let (window, bytes_max) = bounds;
        let mut kept = self.lock();
        kept.forget(now, window);
        if let Some(entry) = kept.entries.get(&name) {
            if entry.fingerprint != fingerprint {
                return Err(
                    Problem::KeyReused.with_detail("the key came with another request before, choose a new one")
                );
            }
            return match &entry.reply {
                Some(reply) => Ok(Known::Answered(reply.clone())),
                None => Err(Problem::KeyInUse
                    .with_detail("a request with this key is being done, ask again for its answer")
                    .retry_after(1)),
            };
        }
        let bytes = entry_bytes(&name, body_bytes_max);
        if bytes > bytes_max {
            return Err(Problem::TooLarge.with_detail(format!(
                "the answer may take {bytes} bytes to keep, expected at most idempotency_bytes_max = {bytes_max}; nothing was done, send less or without a key"
            )));
        }
        if kept.bytes.saturating_add(bytes) > bytes_max {
            let oldest = kept.ages.front().map_or(Duration::ZERO, |(since, _)| now - *since);
            let seconds = window.saturating_sub(oldest).as_secs() + 1;
            return Err(Problem::KeysFull
                .with_detail(
                    "there is no room for the answer to be kept, nothing was done; try again later, or without a key",
                )
                .retry_after(seconds));
        }
        kept.bytes += bytes;
        kept.ages.push_back((now, name.clone()));
        kept.entries.insert(name, Box::new(Entry { since: now, fingerprint, reply: None, bytes }));
        Ok(Known::New)
    }

    /// Stores the answer of a request that was begun, or frees its key.
    fn end(&self, name: &Name, reply: Option<Reply>) {
        let mut kept = self.lock();
        let Kept { entries, bytes, ages } = &mut *kept;
        match (entries.get_mut(name), reply) {
            (Some(entry), Some(reply)) => {
                let cost = entry_bytes(name, reply.body.len());
                debug_assert!(cost <= entry.bytes, "{cost} bytes are more than the {} that had room", entry.bytes);
                *bytes = *bytes - entry.bytes + cost;
                entry.bytes = cost;
                entry.reply = Some(reply);
            }
            (Some(entry), None) => {
                *bytes -= entry.bytes;
                let since = entry.since;
                entries.remove(name);
                // It is among the youngest.
                if let Some(place) = ages.iter().rposition(|(age, other)| *age == since && other == name) {
                    ages.remove(place);
                }
                kept.shrink();
            }
            (None, _) => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the memory of an entry with a body of this length. Its key is stored twice.
fn entry_bytes(name: &Name, body_bytes: usize) -> usize {
    ENTRY_BYTES.saturating_add(2 * name.1.len()).saturating_add(body_bytes)
}

impl Kept {
    /// Frees slots that only a peak needed: a table never shrinks by itself.
    fn shrink(&mut self) {
        let count = self.entries.len() + SPARE_ENTRIES;
        if self.entries.capacity() > SPARE_TIMES * count {
            self.entries.shrink_to(count);
        }
        if self.ages.capacity() > SPARE_TIMES * count {
            self.ages.shrink_to(count);
        }
    }

    /// Forgets what is older than the window; never what is being done.
    fn forget(&mut self, now: Instant, window: Duration) {
        while let Some((since, name)) = self.ages.front() {
            let is_open = self.entries.get(name).is_some_and(|entry| entry.reply.is_none());
            if now - *since < window || is_open {
                return;
            }
            let Some((_, name)) = self.ages.pop_front() else { return };
            if let Some(entry) = self.entries.remove(&name) {
                self.bytes -= entry.bytes;
            }
            self.shrink();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    /// The longest body of an answer in these tests.
    const BODY_MAX: usize = 100;

    fn name(key: &str) -> Name {
        (None, key.into())
    }

    fn keyed(body: &str) -> Keyed {
        let fingerprint = Fingerprint::from(digest::digest(&digest::SHA256, body.as_bytes()));
        Keyed { fingerprint, body_bytes_max: BODY_MAX }
    }

    /// Begins a request so many seconds after the start; returns the length of an answer that is known.
    fn begin(
        answers: &Answers,
        (key, body): (&str, &str),
        at: u64,
        bytes_max: usize,
    ) -> Result<Option<usize>, Problem> {
        static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        let now = *START + Duration::from_secs(at);
        let known = answers.begin(name(key), keyed(body), (WINDOW, bytes_max), now);
        known.map_err(|failure| failure.problem).map(|known| match known {
            Known::New => None,
            Known::Answered(reply) => Some(reply.body.len()),
        })
    }

    #[test]
    fn answers_are_kept_for_the_window() {
        let (answers, max) = (Answers::default(), 10_000);
        assert_eq!(begin(&answers, ("a", "x"), 0, max), Ok(None));
        assert_eq!(begin(&answers, ("a", "x"), 0, max), Err(Problem::KeyInUse));
        assert_eq!(begin(&answers, ("a", "y"), 0, max), Err(Problem::KeyReused));
        answers.end(&name("a"), Some(Reply::json(&1)));
        assert_eq!(begin(&answers, ("a", "x"), 1, max), Ok(Some(2)));
        assert_eq!(begin(&answers, ("a", "y"), 1, max), Err(Problem::KeyReused));
        assert_eq!(begin(&answers, ("a", "x"), 59, max), Ok(Some(2)));
        assert_eq!(begin(&answers, ("a", "y"), 60, max), Ok(None));
        // One that is still being done is not forgotten, however long that takes.
        assert_eq!(begin(&answers, ("a", "y"), 200, max), Err(Problem::KeyInUse));
    }

    #[test]
    fn what_was_not_done_gives_its_key_free() {
        let answers = Answers::default();
        assert_eq!(begin(&answers, ("a", "x"), 0, 1000), Ok(None));
        answers.end(&name("a"), None);
        let bytes_and_keys = {
            let kept = answers.lock();
            (kept.bytes, kept.ages.len())
        };
        assert_eq!(bytes_and_keys, (0, 0));
        assert_eq!(begin(&answers, ("a", "y"), 0, 1000), Ok(None));
    }

    #[test]
    fn bytes_are_bounded_and_come_back() {
        // Room for two answers of two bytes, and in the end for one of the longest beside one of them.
        let (answers, max) = (Answers::default(), 2 * (ENTRY_BYTES + 2 + 2) + BODY_MAX - 2);
        assert_eq!(begin(&answers, ("a", "x"), 0, max), Ok(None));
        answers.end(&name("a"), Some(Reply::json(&1)));
        assert_eq!(begin(&answers, ("b", "x"), 10, max), Ok(None));
        answers.end(&name("b"), Some(Reply::json(&1)));
        assert_eq!(begin(&answers, ("c", "x"), 10, max), Err(Problem::KeysFull));
        assert_eq!(begin(&answers, ("a", "x"), 10, max), Ok(Some(2)), "kept answers are still returned");
        assert_eq!(begin(&answers, ("c", "x"), 60, max), Ok(None));
        answers.end(&name("c"), None);
        assert_eq!(begin(&answers, ("d", "x"), 70, max), Ok(None));
        assert_eq!(answers.lock().bytes, ENTRY_BYTES + 2 + BODY_MAX, "the others are forgotten");
    }

    #[test]
    fn bound_holds_whatever_the_answers_turn_out_to_be() {
        let (answers, max) = (Answers::default(), 10 * (ENTRY_BYTES + BODY_MAX));
        let keys: Vec<String> = (0..20).map(|key| key.to_string()).collect();
        let begun: Vec<&str> = keys
            .iter()
            .map(String::as_str)
            .filter(|key| match begin(&answers, (key, "x"), 0, max) {
                Ok(known) => known.is_none(),
                Err(problem) => {
                    assert_eq!(problem, Problem::KeysFull);
                    false
                }
            })
            .collect();
        assert_eq!(begun.len(), 9, "each has its key beside that");
        for key in &begun {
            let body = Bytes::from(vec![b'x'; BODY_MAX]);
            answers.end(&name(key), Some(Reply { body, ..Reply::json(&1) }));
            assert!(answers.lock().bytes <= max);
        }
        assert_eq!(begin(&answers, ("a", "x"), 0, ENTRY_BYTES + BODY_MAX + 1), Err(Problem::TooLarge));
    }

    #[test]
    fn entry_costs_no_more_than_it_counts() {
        // A table of hashes is at most seven eighths full, and has a byte beside each slot; allocations are rounded up to 16.
        let slots = SPARE_TIMES * (size_of::<(Name, Box<Entry>)>() + 1) * 8 / 7;
        let ages = SPARE_TIMES * size_of::<(Instant, Name)>();
        let cost = slots + ages + size_of::<Entry>().next_multiple_of(16) + 3 * 16;
        assert!(cost <= ENTRY_BYTES, "{cost} bytes");
    }

    #[test]
    fn room_of_a_peak_is_given_back() {
        let answers = Answers::default();
        for key in 0..10_000 {
            assert_eq!(begin(&answers, (&key.to_string(), "x"), 0, usize::MAX), Ok(None));
            answers.end(&name(&key.to_string()), Some(Reply::json(&1)));
        }
        assert_eq!(begin(&answers, ("a", "x"), 60, usize::MAX), Ok(None));
        let kept = answers.lock();
        let room = SPARE_TIMES * (1 + SPARE_ENTRIES);
        assert!(kept.entries.capacity() <= room && kept.ages.capacity() <= room, "{}", kept.entries.capacity());
    }

    #[test]
    fn keys() {
        #[track_caller]
        fn check(values: &[&str], expected: Option<Option<&str>>) {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(KEY, HeaderValue::from_str(value).expect("a header"));
            }
            let found = key(&headers).ok();
            assert_eq!(found.as_ref().map(Option::as_deref), expected, "{values:?}");
        }
        check(&[], Some(None));
        check(&["8e03978e-40d5-43dd-bc93-6894a57f9324"], Some(Some("8e03978e-40d5-43dd-bc93-6894a57f9324")));
        check(&["\"abc\""], Some(Some("abc")));
        check(&[&"x".repeat(255)], Some(Some(&"x".repeat(255))));
        for values in [&[""][..], &["\"\""], &["\"a"], &["a b"], &["a\"b"], &["é"], &["a", "a"], &[&"x".repeat(256)]] {
            check(values, None);
        }
    }
}
