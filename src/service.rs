//! The HTTP client by which services of the operator's are asked: plain, or over TLS.
//!
//! For the gateway, which asks who a connection is, and for control, which tells who comes and goes.

use std::error::Error;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::RootCertStore;

use crate::config::AuthUrl;
use crate::roots::{self, RootsError};

/// How long a connection to a service is kept while it is not used.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Asks a service; its connections are kept and used again.
pub(crate) type ServiceClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Makes the way to a service at `url`, for which those in `ca`, named by `setting`, may vouch; asks nothing yet.
///
/// # Errors
/// When nobody could vouch for a service over TLS.
pub(crate) fn client(
    url: Option<&AuthUrl>,
    setting: &'static str,
    ca: Option<&Path>,
    idle_max: usize,
) -> Result<ServiceClient, RootsError> {
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(roots::client_config(trusted(url, setting, ca)?))
        .https_or_http()
        .enable_http1()
        .build();
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIMEOUT).pool_max_idle_per_host(idle_max);
    Ok(builder.build(connector))
}

/// Reads who may vouch for the service.
///
/// A system that trusts nobody is no fault as long as the address is `http://`; a reload may change that, and the
/// service can't be asked then.
fn trusted(url: Option<&AuthUrl>, setting: &'static str, ca: Option<&Path>) -> Result<RootCertStore, RootsError> {
    let is_secure = url.is_some_and(AuthUrl::is_secure);
    match roots::load(setting, ca) {
        Err(RootsError::NoSystemRoots { .. }) if !is_secure => Ok(RootCertStore::empty()),
        roots => roots,
    }
}

/// Shows an error with all that caused it.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        write!(text, ": {cause}").expect("a String takes all");
        next = cause.source();
    }
    text
}
