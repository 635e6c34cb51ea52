//! Brings connections in: accept, TLS handshake, HTTP upgrade, admission, login, hand-over.
//!
//! This is the work that happens once in a connection's life, may have to wait, and meets hostile peers. It runs on a tokio
//! runtime of its own, one task for each connection. After the login the socket leaves tokio and moves to the shard that
//! owns its uid, as one [`Handover`]. No message of a session passes through here.
//!
//! ```text
//!   listener ─accept until EAGAIN─▶ task: TLS ─▶ upgrade ─▶ login ─▶ flume ─▶ shard
//!                                          │       │ auth    │ auth
//!                                          └───────┴─────────┴─▶ refusal: an answer, and an end without RST
//! ```

mod accept;
mod admission;
mod auth;
mod certificate;
mod exchange;
#[cfg(fuzzing)]
pub mod fuzzing;

mod first_message;
mod half_close;
mod page;
mod proxy;
mod refusal;
mod refused_origins;
mod tls;
mod upgrade;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tracing::{debug, error};

pub(crate) use accept::Shortages;
pub(crate) use admission::AdmissionControl;
pub(crate) use auth::{Authenticator, LoginService};
pub use certificate::CertificateError;
pub(crate) use certificate::{Certificate, CertificateFiles};

pub(crate) use proxy::forwarded_client;
use refusal::Refusal;
pub use refusal::{Reason, RefusalAnswer};
pub(crate) use refusal::{Refusals, answer_over_http};
pub(crate) use refused_origins::RefusedOrigins;

use self::auth::{Authentication, Identity, Login, RequestFacts};
use self::upgrade::Upgraded;
use crate::config::GatewaySettings;
use crate::descriptors::Reserve;
use crate::listener::{Connection, Listener};
use crate::mailbox::ShardWaker;
use crate::peer::Peer;
use crate::protocol;
use crate::refused_clients::RefusedClients;
use crate::router;
use crate::shard::{Handover, Permit, Stream};
use crate::vital::Vital;
use crate::watched_files::{Stamps, WatchedFiles};

/// How long a connection that has sent nothing may still send its request after a drain has begun.
const SILENT_PEER_GRACE: Duration = Duration::from_millis(100);

/// Sends hand-overs to one shard, and wakes it.
#[derive(Clone)]
pub(crate) struct HandoverSender {
    /// Queue of connections that have logged in. It is bounded: in a storm of logins the gateway waits, not the shard.
    pub(crate) handovers: flume::Sender<Handover<Stream>>,
    pub(crate) waker: ShardWaker,
}

/// What every connection's task needs.
pub(crate) struct Gateway {
    pub(crate) settings: watch::Receiver<Arc<GatewaySettings>>,
    pub(crate) handover_senders: Vec<HandoverSender>,
    /// End of the drain; `None` while the node doesn't drain.
    pub(crate) drain_by: watch::Receiver<Option<Instant>>,
    pub(crate) admission_control: Arc<AdmissionControl>,
    /// Authenticates clients.
    pub(crate) login_service: LoginService,
    /// Counts refusals by reason.
    pub(crate) refusals: Refusals,
    /// Logs refused clients that may guess credentials, or that come too often.
    pub(crate) refused_clients: RefusedClients,
    /// Logs refused origins.
    pub(crate) refused_origins: Arc<RefusedOrigins>,
    /// Counts listeners that can't accept now.
    pub(crate) shortages: Shortages,
    /// Descriptors reserved for control: the gateway must not take one while control borrows it.
    pub(crate) reserve: Reserve,
    /// Bounds the connections that are not logged in yet.
    pub(crate) handshakes: Arc<Semaphore>,
    /// Configuration of TLS handshakes, the newest; `None` where TCP listeners have no TLS.
    pub(crate) tls: Option<watch::Receiver<Arc<rustls::ServerConfig>>>,
    /// Ends the process when one of the tasks started through it panics.
    pub(crate) vital: Vital,
}

/// A connection between its accept and its login.
struct Handshake {
    client: Client,
    settings: Arc<GatewaySettings>,
    /// When everything before the login must be done.
    deadline: Instant,
    /// Counts it among the connections that have not logged in.
    _handshake_permit: OwnedSemaphorePermit,
    /// Keeps the gateway waiting for this connection at a drain, until dropped.
    _in_progress: mpsc::Sender<()>,
}

/// The connected client: its address, as far as it is known, and its place on the node.
#[derive(Default)]
struct Client {
    /// The peer's address, or the client's as a trusted proxy states it; `None` for a Unix socket.
    peer: Option<Peer>,
    /// Stands for one of the node's `connections_max` places; `None` if the node is full.
    permit: Option<Permit>,
}

/// A stream in tokio, before it moves to a shard.
pub(crate) trait AcceptedStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Waits until the peer has sent something or has ended the connection; consumes no input.
    fn input_arrived(&self) -> impl Future<Output = std::io::Result<()>> + Send;

    /// Takes the stream out of tokio's poller.
    fn into_stream(self) -> std::io::Result<Stream>;
}

impl AcceptedStream for tokio::net::TcpStream {
    async fn input_arrived(&self) -> std::io::Result<()> {
        // `readable` could return before anything has arrived.
        self.peek(&mut [0]).await.map(|_| ())
    }

    fn into_stream(self) -> std::io::Result<Stream> {
        self.into_std().map(|stream| Stream::Tcp(mio::net::TcpStream::from_std(stream)))
    }
}

impl AcceptedStream for tokio::net::UnixStream {
    async fn input_arrived(&self) -> std::io::Result<()> {
        // A Unix socket has no `peek`: a silent local client may delay a drain by its handshake time-out.
        self.readable().await
    }

    fn into_stream(self) -> std::io::Result<Stream> {
        self.into_std().map(|stream| Stream::Unix(mio::net::UnixStream::from_std(stream)))
    }
}

impl Gateway {
    /// Accepts on all listeners until the node drains, then waits for the connections that have not logged in.
    ///
    /// Such a connection is refused at its next step. Those that are left at the end of the drain end with the runtime.
    pub(crate) async fn run(self, listeners: Vec<Listener>) {
        let gateway = Arc::new(self);
        let (in_progress, mut all_done) = mpsc::channel::<()>(1);
        for listener in listeners {
            let accepting = Arc::clone(&gateway).accept(listener, in_progress.clone());
            // Unconstrained: tokio's budget would make the task yield while the backlog overflows.
            tokio::spawn(tokio::task::unconstrained(gateway.vital.task("listener", accepting)));
        }
        drop(in_progress);
        if gateway.login_service.authenticator.has_keys() {
            tokio::spawn(gateway.vital.task("keys of tokens", Arc::clone(&gateway).watch_keys()));
        }
        tokio::select! {
            // Nothing is ever sent; the channel ends with the last task that holds it.
            _ = all_done.recv() => {}
            () = async { sleep_until(gateway.drain().await).await } => debug!("connections left at the end of the drain"),
        }
    }

    /// Waits until the node drains; returns the end of the drain.
    async fn drain(&self) -> Instant {
        let mut drain_by = self.drain_by.clone();
        let begun = drain_by.wait_for(Option::is_some).await.ok().and_then(|by| *by);
        match begun {
            Some(by) => by,
            // The sender is gone, so no drain will ever begin.
            None => pending().await,
        }
    }

    /// Waits until the node drains, and [`SILENT_PEER_GRACE`] longer.
    ///
    /// The request of a connection that was just accepted may not have been read yet, and closing the socket with unread
    /// input would reset the connection.
    async fn drain_of_silent_peers(&self) {
        self.drain().await;
        sleep(SILENT_PEER_GRACE).await;
    }

    /// Serves a connection up to its hand-over or its refusal, and counts a refusal.
    async fn serve(self: Arc<Self>, connection: Connection, mut handshake: Handshake) {
        let outcome = match connection {
            Connection::Tcp(stream, _) => self.serve_tcp(stream, &mut handshake).await,
            Connection::Unix(stream) => self.serve_unix(stream, &mut handshake).await,
        };
        let Err(refusal) = outcome else { return };
        if let Some(reason) = refusal.reason() {
            self.refusals.add(reason);
            let peer = handshake.client.peer;
            if let Some(suspicion) = reason.suspicion() {
                self.refused_clients.log(peer.map(Peer::address), suspicion, reason.name());
            }
            debug!(peer = peer.map(tracing::field::display), reason = reason.name(), error = %refusal, "connection refused");
        }
    }

    async fn serve_unix(&self, mut stream: tokio::net::UnixStream, handshake: &mut Handshake) -> Result<(), Refusal> {
        self.read_proxy_header(&mut stream, handshake).await?;
        self.log_in(stream, handshake).await
    }

    async fn serve_tcp(&self, mut stream: tokio::net::TcpStream, handshake: &mut Handshake) -> Result<(), Refusal> {
        self.read_proxy_header(&mut stream, handshake).await?;
        match &self.tls {
            // Boxed: otherwise the task of a connection without TLS would be as large as one with TLS.
            Some(tls) => Box::pin(self.serve_tls(stream, tls, handshake)).await,
            None => self.log_in(stream, handshake).await,
        }
    }

    async fn serve_tls(
        &self,
        stream: tokio::net::TcpStream,
        tls: &watch::Receiver<Arc<rustls::ServerConfig>>,
        handshake: &mut Handshake,
    ) -> Result<(), Refusal> {
        let config = Arc::clone(&tls.borrow());
        let close_timeout = handshake.settings.close_timeout;
        let stream =
            tls::handshake(stream, config, handshake.deadline, close_timeout, self.drain_of_silent_peers()).await?;
        self.log_in(stream, handshake).await
    }

    /// Reads the client's address from the PROXY header, if the setting is on and the peer is a trusted proxy.
    async fn read_proxy_header<S: AcceptedStream>(
        &self,
        stream: &mut S,
        handshake: &mut Handshake,
    ) -> Result<(), Refusal> {
        let (admission, peer) = (&handshake.settings.admission, handshake.client.peer);
        if !admission.proxy_protocol || !admission.trusts(peer.map(Peer::address)) {
            return Ok(());
        }
        let header = tokio::select! {
            biased;
            header = timeout_at(handshake.deadline, proxy::read_header(stream)) => header,
            () = self.drain_of_silent_peers() => return Err(Refusal::Http(Reason::Draining)),
        };
        match header {
            Ok(Ok(client)) => {
                handshake.client.peer = client.or(peer);
                Ok(())
            }
            Ok(Err(proxy::HeaderError::Malformed)) => {
                timeout(handshake.settings.close_timeout, refusal::answer_over_http(stream, Reason::ProxyHeader))
                    .await
                    .ok();
                Err(Refusal::Http(Reason::ProxyHeader))
            }
            Ok(Err(proxy::HeaderError::Lost(error))) => Err(Refusal::Lost(error)),
            Err(_) => Err(Refusal::Http(Reason::HandshakeTimeout)),
        }
    }

    async fn log_in<S: AcceptedStream>(&self, stream: S, handshake: &mut Handshake) -> Result<(), Refusal> {
        let settings = &handshake.settings;
        let context = upgrade::UpgradeContext {
            settings: Arc::clone(settings),
            deadline: handshake.deadline,
            admission_control: Arc::clone(&self.admission_control),
            drain_by: self.drain_by.clone(),
            login_service: self.login_service.clone(),
            refused_origins: Arc::clone(&self.refused_origins),
        };
        let Upgraded { mut stream, mut received, protocol, authentication } =
            upgrade::upgrade(stream, &context, &mut handshake.client, self.drain_of_silent_peers()).await?;
        let login = match authentication {
            Authentication::LoggedIn(login) => Ok(login),
            Authentication::AwaitsFirstMessage(_) if protocol.login() == protocol::Login::Anonymous => {
                Ok(self.login_service.log_in_anonymously()?)
            }
            Authentication::AwaitsFirstMessage(facts) => tokio::select! {
                biased;
                login = read_login(&mut stream, &mut received, &self.login_service, &facts, settings) => login,
                _ = self.drain() => Err(Refusal::Draining),
            },
        };
        let permit = handshake.client.permit.take();
        let (Login { identity: Identity { uid, rights, expires }, number: login }, permit) = match (login, permit) {
            (Ok(login), Some(permit)) => (login, permit),
            (Err(refusal), _) => {
                refusal::close(&mut stream, &refusal, protocol, settings.close_timeout).await;
                return Err(refusal);
            }
            // A full node has refused the upgrade already.
            (Ok(_), None) => return Err(Refusal::Http(Reason::Full)),
        };
        let sender = &self.handover_senders[router::shard_of(uid.hash(), self.handover_senders.len())];
        let socket = stream.into_stream().map_err(Refusal::Lost)?;
        let peer = handshake.client.peer;
        let handover = Handover { socket, unread: received, uid, protocol, rights, expires, login, peer, permit };
        // Fails only when the shard has drained. The hand-over is dropped then, which closes the connection.
        sender.handovers.send_async(handover).await.map_err(|_| Refusal::Draining)?;
        sender.waker.raise_external_work();
        // In a storm of logins, others that are ready run first, and one wake of the shard serves all of them.
        yield_now().await;
        sender.waker.wake_if_unseen();
        Ok(())
    }

    /// Reads the keys again whenever their files or the settings change, until the node drains.
    async fn watch_keys(self: Arc<Self>) {
        tokio::select! {
            () = self.watch_key_files() => {}
            _ = self.drain() => {}
        }
    }

    async fn watch_key_files(&self) {
        let mut settings = self.settings.clone();
        let mut watched = WatchedFiles::new(Stamps::default());
        loop {
            tokio::select! {
                Ok(()) = settings.changed() => watched.ask(),
                () = watched.next_look() => {}
            }
            let (authenticator, now) =
                (Arc::clone(&self.login_service.authenticator), Arc::clone(&settings.borrow_and_update()));
            let paths = now.auth.key_paths();
            match watched.look(paths, move || authenticator.reread_keys(&now.auth)).await {
                Ok(Some(Some(changed))) => self.login_service.authenticator.replace_keys(changed),
                Ok(_) => {}
                Err(error) => error!(error = %error, "keys of tokens not changed, the old ones stay"),
            }
        }
    }
}

/// Reads the first message, and logs the connection in by it.
async fn read_login<S: AcceptedStream>(
    stream: &mut S,
    received: &mut Vec<u8>,
    login_service: &LoginService,
    facts: &RequestFacts,
    settings: &GatewaySettings,
) -> Result<Login, Refusal> {
    let credential = first_message::read(stream, received, settings).await?;
    Ok(login_service.log_in(Some(&credential), facts, settings).await?)
}
