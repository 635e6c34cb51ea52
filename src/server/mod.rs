//! The node: a checked config becomes a bound server, which runs and hands back the handle that drains it.
//!
//! The only wiring there is: it makes the shards' mailboxes and queues, starts the threads, and keeps
//! what reaches them from outside. Every thread is named: `pombo-gateway`, `pombo-control`, and `pombo-shard-0` onwards.

mod handle;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

pub use self::handle::Handle;
use crate::clock;
pub use crate::clock::ClockError;
use crate::config::{Config, ControlSettings, Faults, GatewaySettings, Listen, SlowConsumer};
use crate::control::{
    Control, ControlListeners, ControlTokensError, Counts, HookEnds, HookError, Hooks, Process, TokenSet,
};
use crate::descriptors::{self, Reserve};
use crate::dispatcher::{Dispatcher, ShardDoor};
pub use crate::gateway::CertificateError;
use crate::gateway::{
    AdmissionControl, Authenticator, Certificate, CertificateFiles, Gateway, HandoverSender, LoginService, Refusals,
    Shortages,
};
pub use crate::listener::PassedSockets;
use crate::listener::{BoundListener, Inherited};
use crate::log_sink::LogSink;
use crate::mailbox::{self, Bell};
use crate::presence::Teller;
use crate::shard::{Admission, LoginNumbers, Parts, Poller, Shard};
use crate::uid::UidHasher;
use crate::vital::Vital;

/// How long the gateway's threads may take to end, once they have nothing to do any more.
const RUNTIME_END: Duration = Duration::from_secs(1);

/// Logged-in connections that may wait for one shard; past these the gateway waits.
const HANDOVERS_MAX: usize = 1024;

/// Requests that may wait for one shard; past these the caller waits.
const REQUESTS_MAX: usize = 1024;

/// A node whose listeners are open and which does not run yet.
///
/// # Examples
/// What is wrong is said before anything runs, all of it together:
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

/// Where other programs reach a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlAddresses {
    /// Over HTTP.
    pub control: Option<Listen>,
    /// By lines of JSON.
    pub text: Option<Listen>,
}

/// What reaches a running node's threads from outside.
struct Node {
    dispatcher: Dispatcher,
    settings: watch::Sender<Arc<GatewaySettings>>,
    control_settings: watch::Sender<Arc<ControlSettings>>,
    /// How long a drain may take; changed by a reload, read by the drain.
    drain_timeout: watch::Sender<Duration>,
    /// When the drain will be over, from its begin on.
    drain_by: watch::Sender<Option<Instant>>,
    admission: Admission,
    logins: LoginNumbers,
    refusals: Refusals,
    counts: Counts,
    /// Asks for the certificate to be read again.
    certificate: Option<Arc<Notify>>,
    /// Held open by every thread of the node; nothing is ever sent.
    running: flume::Receiver<Infallible>,
}

/// Why a node can't start; the operator's to mend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings are wrong.
    #[error(transparent)]
    Config(#[from] Faults),
    /// An address can't be listened on.
    #[error("cannot listen on {listen}: {}{}", source.kind(), hint(source))]
    Listen {
        /// The address.
        listen: Listen,
        /// What the operating system said.
        source: io::Error,
    },
    /// A socket was passed on that no setting names: its clients would wait for ever.
    #[error("the service manager passed a socket on {listen}, expected that address in listen, control or text")]
    Passed {
        /// Its address.
        listen: Listen,
    },
    /// The keys of tokens, or the certificates that may vouch for `auth_url`, can't be read.
    #[error("{reason}")]
    Keys {
        /// What is wrong, and in which file.
        reason: String,
    },
    /// The secrets of the hook, or the certificates that may vouch for `hook_url`, can't be read.
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
    /// The wall clock shows a time that dates can't hold.
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

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (is another pombo running? choose another with --listen, or --control)",
        _ => "",
    }
}

impl Server {
    /// Checks the config, reads the keys of tokens and the certificate, and opens every listener; clients may connect from
    /// now on and wait.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn bind(config: Config) -> Result<Self, StartError> {
        Self::bind_with(config, PassedSockets::default())
    }

    /// As [`Server::bind`], with the sockets that a service manager passed on in place of new ones, each where a setting
    /// names its address.
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
            // As long as a silent peer is given. The kernel counts from when a peer has no room left, too, even if it
            // answers every probe: a reader that the policy keeps must not end in silence.
            user_timeout: (config.slow_consumer == SlowConsumer::Disconnect).then_some(config.heartbeat_interval * 2),
        };
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for listen in &config.listen {
            let (address, listener) = bind(listen, inherited, config.unix_socket_mode, &mut passed)?;
            addresses.push(address);
            listeners.push(listener);
        }
        // Answers that are not read end their connection.
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

    /// Names the sink that the program's log goes to: the node tells Prometheus how many of its lines were dropped, and lets
    /// the last lines out before a panic ends the process.
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

    /// Starts the node's threads. May be called inside or outside of an async runtime.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(self) -> Result<Handle, StartError> {
        let Self { config, authenticator, listeners, control, control_tokens, certificate, hooks, log, .. } = self;
        let (hooks, ends) = hooks.unzip();
        let (teller, ledger) = ends.map(|HookEnds { teller, ledger }| (teller, ledger)).unzip();
        let hasher = UidHasher::random();
        // Held by every thread that users reach, and by control, which is reached until those have ended.
        let (serving, served) = flume::bounded::<Infallible>(0);
        let (alive, running) = flume::bounded::<Infallible>(0);
        let (handover_senders, shards) = spawn_shards(&config, &hasher, teller, &serving, log.as_ref())?;
        let dispatcher = Dispatcher::new(hasher.clone(), shards, ledger);

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
            shortages: shortages.clone(),
            reserve: reserve.clone(),
            handshakes: Arc::new(Semaphore::new(config.handshakes_max)),
            tls: tls.clone(),
            vital: Vital::new(log.clone()),
        };
        let certificate_asked = certificate.as_ref().map(Certificate::reload);
        spawn_gateway(&config, gateway, listeners, certificate, serving)?;
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
            shortages,
            log,
            counts: counts.clone(),
            process: Process::open(),
            reserve,
            tls,
        };
        spawn_control(controlling, control, hooks, served, alive)?;
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
                certificate: certificate_asked,
                running,
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

/// Starts a thread for each shard; returns the ways in for logged-in connections, and for requests.
fn spawn_shards(
    config: &Config,
    hasher: &UidHasher,
    // Goes with the last shard; then the hook ends.
    presence: Option<Teller>,
    serving: &flume::Sender<Infallible>,
    log: Option<&LogSink>,
) -> io::Result<(Vec<HandoverSender>, Vec<ShardDoor>)> {
    let pollers = (0..config.shards.get()).map(|_| Poller::new()).collect::<io::Result<Vec<_>>>()?;
    let bells: Vec<_> = pollers.iter().map(|(_, wake)| Bell::new(Arc::clone(wake))).collect();
    let mailboxes = mailbox::wire(&bells, config.mailbox_bytes_max);
    let settings = Arc::new(config.session());
    let (mut handover_senders, mut shards) = (Vec::new(), Vec::new());
    for (index, (((poller, _), mailbox), bell)) in pollers.into_iter().zip(mailboxes).zip(&bells).enumerate() {
        let (handover_sender, handovers) = flume::bounded(HANDOVERS_MAX);
        let (request_sender, requests) = flume::bounded(REQUESTS_MAX);
        handover_senders.push(HandoverSender { handovers: handover_sender, bell: bell.clone() });
        shards.push(ShardDoor { requests: request_sender, bell: bell.clone() });
        let (hasher, settings) = (hasher.clone(), Arc::clone(&settings));
        let presence = presence.clone();
        let parts = Parts { index, hasher, settings, mailbox, handovers, requests, presence };
        let serving = serving.clone();
        spawn(format!("pombo-shard-{index}"), Vital::new(log.cloned()), move || {
            Shard::new(poller, parts).run();
            drop(serving);
        })?;
    }
    Ok((handover_senders, shards))
}

/// Starts the gateway's threads, and one that waits for them.
fn spawn_gateway(
    config: &Config,
    gateway: Gateway,
    listeners: Vec<BoundListener>,
    certificate: Option<Certificate>,
    serving: flume::Sender<Infallible>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.gateway_threads.get())
        .thread_name("pombo-gateway")
        .enable_all()
        .build()?;
    let listeners = {
        let _entered = runtime.enter();
        listeners.into_iter().map(BoundListener::into_listener).collect::<io::Result<Vec<_>>>()?
    };
    let vital = gateway.vital.clone();
    if let Some(certificate) = certificate {
        runtime.spawn(vital.task("certificate", certificate.watch()));
    }
    spawn("pombo-gateway".to_owned(), vital, move || {
        // On a worker, so that accepting costs no hop from this thread.
        let run = runtime.spawn(gateway.run(listeners));
        runtime.block_on(run).expect("the gateway does not panic");
        // With it go the listeners, before the drain counts as done: the socket's file is gone by then.
        // A thread that reads a file from a disk that doesn't answer is not waited for.
        runtime.shutdown_timeout(RUNTIME_END);
        drop(serving);
    })
}

/// Starts the thread of control, which ends when all that users reach has.
fn spawn_control(
    control: Control,
    listeners: ControlListeners,
    hooks: Option<Hooks>,
    served: flume::Receiver<Infallible>,
    alive: flume::Sender<Infallible>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let vital = Vital::new(control.log.clone());
    spawn("pombo-control".to_owned(), vital.clone(), move || {
        runtime.block_on(async {
            let hooks = hooks.map(|hooks| tokio::spawn(vital.task("hook", hooks.run(control.settings.clone()))));
            // Nothing is ever sent.
            let run = control.run(listeners, served.recv_async()).await;
            run.expect("a bound listener moves to the runtime");
            if let Some(hooks) = hooks {
                hooks.await.expect("the hook does not panic");
            }
        });
        runtime.shutdown_timeout(RUNTIME_END);
        drop(alive);
    })
}

/// Starts a named thread; a panic in it ends the process, because half a node is worse than none.
fn spawn(name: String, vital: Vital, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name).spawn(move || vital.run(body))?;
    Ok(())
}
