//! The node: a checked config becomes a bound server; a bound server starts, and returns the handle that drains it.
//!
//! This room alone connects the others: it makes the shards' mailboxes and queues, starts the threads, and keeps
//! the senders to them. Every thread is named: `pombo-gateway`, `pombo-control`, and `pombo-shard-0` onwards.

mod handle;

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

pub use self::handle::Handle;
use crate::clock;
pub use crate::clock::ClockError;
use crate::config::{Config, ControlSettings, Faults, GatewaySettings, Listen, SlowConsumer};
use crate::control::{
    Control, ControlListeners, ControlTokensError, Counts, History, HookEnds, HookError, Hooks, Occupants, Process,
    TokenSet,
};
use crate::descriptors::{self, Reserve};
use crate::dispatcher::{Dispatcher, RequestSender};
pub use crate::gateway::CertificateError;
use crate::gateway::{
    AdmissionControl, Authenticator, Certificate, CertificateFiles, Gateway, HandoverSender, LoginService, Refusals,
    Shortages,
};
pub use crate::listener::PassedSockets;
use crate::listener::{BoundListener, Inherited};
use crate::log_sink::LogSink;
use crate::mailbox::{self, ShardWaker};
use crate::presence::PresenceSender;
use crate::refused_clients::RefusedClients;
use crate::shard::{Admission, LoginNumbers, Parts, Poller, Shard};
use crate::uid::UidHasher;
use crate::vital::Vital;

/// How long a runtime's threads may take to end, after its work is done.
const RUNTIME_SHUTDOWN_TIME: Duration = Duration::from_secs(1);

/// Most logged-in connections that may wait for one shard; the gateway waits while there are as many.
const HANDOVERS_MAX: usize = 1024;

/// Most requests that may wait for one shard; a caller waits while there are as many.
const REQUESTS_MAX: usize = 1024;

/// A node whose listeners are open, and which does not run yet.
///
/// # Examples
/// All faults of the settings are reported together, before anything runs:
/// ```
/// use pombo::{Config, Server, StartError};
///
/// let config = Config { message_bytes_max: 4 << 20, outbox_bytes_max: 1 << 20, ..Config::default() };
/// let error = Server::bind(config).expect_err("an outbox has no room for a message");
/// assert!(matches!(error, StartError::Config(_)));
/// assert!(error.to_string().contains("outbox_bytes_max"));
/// ```
#[derive(Debug)]
pub struct Server {
    config: Config,
    authenticator: Authenticator,
    listeners: Vec<BoundListener>,
    addresses: Vec<Listen>,
    control: ControlListeners,
    control_addresses: ControlAddresses,
    control_tokens: TokenSet,
    certificate: Option<Certificate>,
    hooks: Option<(Hooks, HookEnds)>,
    log: Option<LogSink>,
}

/// The addresses where other programs reach a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlAddresses {
    /// Over HTTP.
    pub control: Option<Listen>,
    /// By lines of JSON.
    pub text: Option<Listen>,
}

/// The senders to a running node's threads, and the counts that they share.
struct Node {
    dispatcher: Dispatcher,
    settings: watch::Sender<Arc<GatewaySettings>>,
    control_settings: watch::Sender<Arc<ControlSettings>>,
    /// How long a drain may take; changed by a reload, read by the drain.
    drain_timeout: watch::Sender<Duration>,
    /// When the drain must be over; `None` before a drain.
    drain_by: watch::Sender<Option<Instant>>,
    admission: Admission,
    logins: LoginNumbers,
    refusals: Refusals,
    counts: Counts,
    /// Descriptors that the node needs for everything except connections of clients.
    other_descriptors: u64,
    /// Asks for the certificate to be read again.
    certificate: Option<Arc<Notify>>,
    /// Disconnected when the last thread of the node has ended; nothing is ever sent.
    ended: flume::Receiver<Infallible>,
}

/// Why a node can't start; the operator must fix it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings are wrong.
    #[error(transparent)]
    Config(#[from] Faults),
    /// An address can't be listened on.
    #[error("cannot listen on {listen}: {}{}", source.kind(), hint(listen, source))]
    Listen {
        /// The address.
        listen: Listen,
        /// What the operating system said.
        source: io::Error,
    },
    /// The service manager passed a socket that no setting names: its clients would wait for ever.
    #[error("the service manager passed a socket on {listen}, expected that address in listen, control or text")]
    Passed {
        /// Its address.
        listen: Listen,
    },
    /// The keys of tokens, or the root certificates for `auth_url`, can't be read.
    #[error("{reason}")]
    Keys {
        /// What is wrong, and in which file.
        reason: String,
    },
    /// The secrets of the hook, or the root certificates for `hook_url`, can't be read.
    #[error("{reason}")]
    Hook {
        /// What is wrong, and in which file.
        reason: String,
    },
    /// The certificate or its key can't be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The tokens of other programs can't be used.
    #[error(transparent)]
    ControlTokens(#[from] ControlTokensError),
    /// The wall clock shows a time outside of 1970 to 9999.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// A thread or a poller can't be made.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

impl From<HookError> for StartError {
    fn from(error: HookError) -> Self {
        Self::Hook { reason: error.to_string() }
    }
}

/// Returns what the operator can do about an address that can't be listened on.
fn hint(listen: &Listen, error: &io::Error) -> String {
    let folder = |path: &Path| match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.display().to_string(),
        _ => ".".to_owned(),
    };
    match (error.kind(), listen) {
        (io::ErrorKind::AddrInUse, _) => {
            " (is another pombo running, or the demo? stop it, or choose another address with --listen, or --control)"
                .to_owned()
        }
        (io::ErrorKind::AlreadyExists, Listen::Unix(_)) => {
            " (that file is no socket, and stays: choose another path)".to_owned()
        }
        (io::ErrorKind::NotFound, Listen::Unix(path)) => {
            format!(" (there is no folder {}: make it, or choose another path)", folder(path))
        }
        (io::ErrorKind::PermissionDenied, Listen::Unix(path)) => {
            format!(" (this user may not make a file in {}: change its owner, or choose another path)", folder(path))
        }
        (io::ErrorKind::PermissionDenied, Listen::Tcp(address)) if address.port() < 1024 => {
            " (a port below 1024 needs a right. Under systemd let the socket unit open it, or set in the service \
             AmbientCapabilities=CAP_NET_BIND_SERVICE, CapabilityBoundingSet=CAP_NET_BIND_SERVICE and PrivateUsers=no; \
             elsewhere use `setcap cap_net_bind_service=+ep` on the program, or choose a port from 1024 on)"
                .to_owned()
        }
        _ => String::new(),
    }
}

impl Server {
    /// Checks the config, reads the keys of tokens and the certificate, and opens every listener; clients can connect from
    /// now on, and wait in the backlog.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn bind(config: Config) -> Result<Self, StartError> {
        Self::bind_with(config, PassedSockets::default())
    }

    /// As [`Server::bind`], but takes a socket that a service manager has passed, instead of opening a new one, wherever a
    /// setting names its address.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn bind_with(config: Config, mut passed: PassedSockets) -> Result<Self, StartError> {
        config.check()?;
        clock::check()?;
        descriptors::make_room(config.connections_max);
        let authenticator = Authenticator::new(&config.gateway().auth)
            .map_err(|error| StartError::Keys { reason: error.to_string() })?;
        let certificate = match (&config.tls_certificate, &config.tls_key) {
            (Some(certificate), Some(key)) => {
                let files = CertificateFiles { certificate: certificate.clone(), key: key.clone() };
                Some(Certificate::load(files)?)
            }
            _ => None,
        };
        let hooks = config.hook_settings().map(Hooks::new).transpose()?;
        let control_tokens = TokenSet::load(&config.control_settings())?;
        let inherited = Inherited {
            send_buffer_bytes: config.send_buffer_bytes,
            // The same time after which the heartbeat closes a silent session. The kernel also counts the time of a zero
            // window, even if the peer answers every probe. So it is set only with `disconnect`: the other policies keep
            // slow readers.
            user_timeout: (config.slow_consumer == SlowConsumer::Disconnect).then_some(config.heartbeat_interval * 2),
        };
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for listen in &config.listen {
            let (address, listener) = bind(listen, inherited, config.unix_socket_mode, &mut passed)?;
            addresses.push(address);
            listeners.push(listener);
        }
        // The kernel ends a connection of control whose peer does not read its answers.
        let inherited = Inherited { user_timeout: Some(config.control_idle_timeout), send_buffer_bytes: None };
        let mut bind = |listen: &Option<Listen>| {
            let bind = |listen| bind(listen, inherited, config.unix_socket_mode, &mut passed);
            listen.as_ref().map(bind).transpose()
        };
        let (control, http) = bind(&config.control)?.unzip();
        let (text_address, text) = bind(&config.text)?.unzip();
        if let Some(listen) = passed.left().next() {
            return Err(StartError::Passed { listen: listen.clone() });
        }
        Ok(Self {
            config,
            authenticator,
            listeners,
            addresses,
            control: ControlListeners { http, text },
            control_addresses: ControlAddresses { control, text: text_address },
            control_tokens,
            certificate,
            hooks,
            log: None,
        })
    }

    /// Sets the sink of the program's log. The node exports the number of its dropped lines to Prometheus, and waits for its
    /// last lines before a panic ends the process.
    #[must_use]
    pub fn with_log(mut self, log: LogSink) -> Self {
        self.log = Some(log);
        self
    }

    /// Returns the real addresses, in the order of the config.
    pub fn addresses(&self) -> &[Listen] {
        &self.addresses
    }

    /// Returns the real addresses where other programs reach the node.
    pub fn control_addresses(&self) -> &ControlAddresses {
        &self.control_addresses
    }

    /// Returns the address of the page for trying the node: that of the first listener that a browser can open.
    fn page_address(&self) -> Option<Arc<str>> {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        let tcp = self.addresses.iter().find(|listen| matches!(listen, Listen::Tcp(_)));
        tcp.map(|listen| format!("{scheme}://{listen}/").into())
    }

    /// Starts the node's threads. May be called inside or outside of an async runtime.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(self) -> Result<Handle, StartError> {
        let page_address = self.page_address();
        let Self { config, authenticator, listeners, control, control_tokens, certificate, hooks, log, .. } = self;
        let (hooks, ends) = hooks.unzip();
        let (presence, progress) = ends.map(|HookEnds { presence, progress }| (presence, progress)).unzip();
        let hasher = UidHasher::random();
        // Each guard is a sender that threads hold until they end; nothing is ever sent. `serving_ended` disconnects when
        // the gateway and all shards have ended. Then control ends, and with it `node_guard`.
        let (serving_guard, serving_ended) = flume::bounded::<Infallible>(0);
        let (node_guard, node_ended) = flume::bounded::<Infallible>(0);
        let (handover_senders, shards) = spawn_shards(&config, &hasher, presence, &serving_guard, log.as_ref())?;
        let dispatcher = Dispatcher::new(hasher.clone(), shards, progress);

        let (settings, gateway_settings) = watch::channel(Arc::new(config.gateway()));
        let (drain_by, gateway_drain_by) = watch::channel(None);
        let (admission, logins, refusals) = (Admission::default(), LoginNumbers::default(), Refusals::new());
        let (shortages, reserve, counts) = (Shortages::default(), Reserve::default(), Counts::default());
        let tls = certificate.as_ref().map(Certificate::in_force);
        let gateway = Gateway {
            settings: gateway_settings,
            handover_senders,
            drain_by: gateway_drain_by,
            admission_control: Arc::new(AdmissionControl::new(admission.clone())),
            login_service: LoginService {
                authenticator: Arc::new(authenticator),
                hasher,
                login_numbers: logins.clone(),
            },
            refusals: refusals.clone(),
            refused_clients: RefusedClients::default(),
            refused_origins: Arc::default(),
            shortages: shortages.clone(),
            reserve: reserve.clone(),
            handshakes: Arc::new(Semaphore::new(config.handshakes_max)),
            tls: tls.clone(),
            vital: Vital::new(log.clone()),
        };
        let certificate_reload = certificate.as_ref().map(Certificate::reload);
        let (gateway_runtime, control_runtime) = (gateway_runtime(&config)?, control_runtime()?);
        let process = Process::open();
        if control.http.is_some() || control.text.is_some() {
            reserve.fill();
        }
        // Now, when everything is open, and no client is connected yet.
        let other_descriptors = process.descriptors_without_clients(config.shards.get());
        spawn_gateway(gateway_runtime, gateway, listeners, certificate, serving_guard)?;
        let (control_settings, settings_of_control) = watch::channel(Arc::new(config.control_settings()));
        let controlling = Control {
            settings: settings_of_control,
            dispatcher: dispatcher.clone(),
            tokens: watch::Sender::new(Arc::new(control_tokens)),
            draining: drain_by.subscribe(),
            started: Instant::now(),
            open: watch::Sender::new(()),
            admission: admission.clone(),
            refusals: refusals.clone(),
            refused_clients: RefusedClients::default(),
            shortages,
            log,
            counts: counts.clone(),
            occupants: Occupants::new(counts.clone()),
            process,
            other_descriptors,
            history: History::default(),
            page_address,
            reserve,
            tls: tls.filter(|_| config.control_speaks_tls()),
        };
        spawn_control(control_runtime, controlling, control, hooks, serving_ended, node_guard)?;
        let drain_timeout = watch::Sender::new(config.drain_timeout);
        Ok(Handle {
            node: Arc::new(Node {
                dispatcher,
                settings,
                control_settings,
                drain_timeout,
                drain_by,
                admission,
                logins,
                refusals,
                counts,
                other_descriptors,
                certificate: certificate_reload,
                ended: node_ended,
            }),
        })
    }
}

/// Opens a listener; returns its real address, too.
fn bind(
    listen: &Listen,
    inherited: Inherited,
    unix_mode: Option<u32>,
    passed: &mut PassedSockets,
) -> Result<(Listen, BoundListener), StartError> {
    let bound =
        BoundListener::open(listen, inherited, unix_mode, passed).and_then(|bound| Ok((bound.address()?, bound)));
    bound.map_err(|source| StartError::Listen { listen: listen.clone(), source })
}

/// Starts a thread for each shard; returns the senders of hand-overs and of requests, by shard.
fn spawn_shards(
    config: &Config,
    hasher: &UidHasher,
    // The hook ends when the last shard has dropped its clone.
    presence: Option<PresenceSender>,
    serving_guard: &flume::Sender<Infallible>,
    log: Option<&LogSink>,
) -> io::Result<(Vec<HandoverSender>, Vec<RequestSender>)> {
    let pollers = (0..config.shards.get()).map(|_| Poller::new()).collect::<io::Result<Vec<_>>>()?;
    let wakers: Vec<_> = pollers.iter().map(|(_, wake)| ShardWaker::new(Arc::clone(wake))).collect();
    let mailboxes = mailbox::wire(&wakers, config.mailbox_bytes_max);
    let settings = Arc::new(config.session());
    let (mut handover_senders, mut shards) = (Vec::new(), Vec::new());
    for (index, (((poller, _), mailbox), waker)) in pollers.into_iter().zip(mailboxes).zip(&wakers).enumerate() {
        let (handover_sender, handovers) = flume::bounded(HANDOVERS_MAX);
        let (request_sender, requests) = flume::bounded(REQUESTS_MAX);
        handover_senders.push(HandoverSender { handovers: handover_sender, waker: waker.clone() });
        shards.push(RequestSender { requests: request_sender, waker: waker.clone() });
        let (hasher, settings) = (hasher.clone(), Arc::clone(&settings));
        let presence = presence.clone();
        let parts = Parts { index, hasher, settings, mailbox, handovers, requests, presence };
        let serving_guard = serving_guard.clone();
        spawn(format!("pombo-shard-{index}"), Vital::new(log.cloned()), move || {
            Shard::new(poller, parts).run();
            drop(serving_guard);
        })?;
    }
    Ok((handover_senders, shards))
}

/// Builds the gateway's runtime; its threads start with it.
fn gateway_runtime(config: &Config) -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.gateway_threads.get())
        .thread_name("pombo-gateway")
        .enable_all()
        .build()
}

/// Builds the runtime of control, which runs on the thread of control.
fn control_runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Starts the gateway's threads, and one that waits for them.
fn spawn_gateway(
    runtime: Runtime,
    gateway: Gateway,
    listeners: Vec<BoundListener>,
    certificate: Option<Certificate>,
    serving_guard: flume::Sender<Infallible>,
) -> io::Result<()> {
    let listeners = {
        let _entered = runtime.enter();
        listeners.into_iter().map(BoundListener::into_listener).collect::<io::Result<Vec<_>>>()?
    };
    let vital = gateway.vital.clone();
    if let Some(certificate) = certificate {
        runtime.spawn(vital.task("certificate", certificate.watch()));
    }
    spawn("pombo-gateway".to_owned(), vital, move || {
        // On a worker thread, so that accepting needs no switch from this thread.
        let run = runtime.spawn(gateway.run(listeners));
        runtime.block_on(run).expect("the gateway does not panic");
        // The listeners, and with them the files of Unix sockets, are gone before the drain counts as done.
        // The shutdown does not wait longer for a thread that reads a file from a dead mount.
        runtime.shutdown_timeout(RUNTIME_SHUTDOWN_TIME);
        drop(serving_guard);
    })
}

/// Starts the thread of control, which ends after the gateway and all shards.
fn spawn_control(
    runtime: Runtime,
    control: Control,
    listeners: ControlListeners,
    hooks: Option<Hooks>,
    serving_ended: flume::Receiver<Infallible>,
    node_guard: flume::Sender<Infallible>,
) -> io::Result<()> {
    let vital = Vital::new(control.log.clone());
    spawn("pombo-control".to_owned(), vital.clone(), move || {
        runtime.block_on(async {
            let hooks = hooks.map(|hooks| tokio::spawn(vital.task("hook", hooks.run(control.settings.clone()))));
            // Nothing is ever sent.
            let run = control.run(listeners, serving_ended.recv_async()).await;
            run.expect("a bound listener moves to the runtime");
            if let Some(hooks) = hooks {
                hooks.await.expect("the hook does not panic");
            }
        });
        runtime.shutdown_timeout(RUNTIME_SHUTDOWN_TIME);
        drop(node_guard);
    })
}

/// Starts a named thread; a panic in it ends the process, because half a node is worse than none.
fn spawn(name: String, vital: Vital, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name).spawn(move || vital.run(body))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_right_says_which() {
        #[track_caller]
        fn check(listen: &str, kind: io::ErrorKind, words: &str) {
            let listen = listen.parse().expect("an address");
            let shown = StartError::Listen { listen, source: kind.into() }.to_string();
            assert!(if words.is_empty() { !shown.contains('(') } else { shown.contains(words) }, "{shown}");
        }
        use io::ErrorKind::{AddrInUse, NotFound, PermissionDenied};
        check("0.0.0.0:443", PermissionDenied, "let the socket unit open it");
        check("0.0.0.0:443", PermissionDenied, "CapabilityBoundingSet=CAP_NET_BIND_SERVICE and PrivateUsers=no");
        check("0.0.0.0:443", PermissionDenied, "setcap cap_net_bind_service=+ep");
        check("0.0.0.0:1024", PermissionDenied, "");
        check("unix:/run/x/p.sock", NotFound, "(there is no folder /run/x: make it");
        check("unix:p.sock", PermissionDenied, "(this user may not make a file in .: ");
        check("127.0.0.1:1", AddrInUse, "is another pombo running, or the demo?");
    }
}
