//! The default of each setting.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::{
    Auth, AuthSource, Config, ControlTls, DrainCode, DuplicateLogin, Listen, LogFormat, LogLevel, Origins, Paths,
    SlowConsumer, memory,
};
use crate::protocol::Protocol;
use crate::rights::Rights;

impl Default for Config {
    fn default() -> Self {
        let cores = num_cpus::get();
        Self {
            listen: vec![Listen::LOOPBACK],
            tls_certificate: None,
            tls_key: None,
            shards: at_least_one(cores.min(256)),
            gateway_threads: at_least_one((cores / 4).min(64)),
            connections_max: 1_000_000,
            handshakes_max: 16_384,
            control: Some(Listen::CONTROL),
            control_tls: ControlTls::Auto,
            control_tokens: Vec::new(),
            control_tokens_file: None,
            control_connections_max: 256,
            control_idle_timeout: Duration::from_secs(60),
            control_body_timeout: Duration::from_secs(30),
            control_answer_timeout: Duration::from_secs(5),
            push_bytes_max: None,
            push_uids_max: 10_000,
            idempotency_window: Duration::from_secs(600),
            idempotency_bytes_max: 64 * 1024 * 1024,
            text: None,
            address_sessions_max: None,
            address_logins_per_minute: None,
            logins_per_second: None,
            origins: Origins::Auto,
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            unix_socket_mode: None,
            paths: Paths::Any,
            login_reply: "Login realizado com sucesso, seu uid é {uid}".to_owned(),
            duplicate_login: DuplicateLogin::Replace,
            uid_sessions_max: at_least_one(16),
            handshake_timeout: Duration::from_secs(5),
            login_timeout: Duration::from_secs(10),
            login_bytes_max: 8 * 1024,
            auth: Auth::None,
            insecure_open: false,
            auth_sources: vec![AuthSource::FirstFrame, AuthSource::Header, AuthSource::Subprotocol],
            rights: Rights::ALL,
            rights_claim: "may".to_owned(),
            jwt_secret: None,
            jwt_secret_file: None,
            jwt_key_files: Vec::new(),
            jwt_issuer: None,
            jwt_audience: None,
            jwt_leeway: Duration::from_secs(5),
            auth_url: None,
            auth_url_ca: None,
            auth_url_timeout: Duration::from_secs(3),
            auth_url_in_flight_max: 64,
            auth_url_headers: ["cookie", "user-agent"].map(str::to_owned).into(),
            auth_url_login_headers: Vec::new(),
            auth_cache_ttl: Duration::from_secs(10),
            auth_cache_entries_max: 10_000,
            hook_url: None,
            hook_url_ca: None,
            hook_secret: None,
            hook_secret_file: None,
            hook_grace: Duration::from_secs(5),
            hook_returns: false,
            hook_delay: Duration::from_millis(100),
            hook_batch_max: 1000,
            hook_timeout: Duration::from_secs(5),
            hook_retry_time: Duration::from_secs(600),
            hook_queue_max: 100_000,
            message_timeout: Duration::from_secs(60),
            message_bytes_max: 1024 * 1024,
            message_rate_max: None,
            byte_rate_max: None,
            rate_patience: Duration::from_secs(10),
            uid_bytes_max: 256,
            outbox_bytes_max: 2 * 1024 * 1024,
            memory_bytes_max: memory::half(),
            send_buffer_bytes: None,
            slow_consumer: SlowConsumer::Disconnect,
            mailbox_bytes_max: 1024 * 1024,
            heartbeat_interval: Duration::from_secs(25),
            close_timeout: Duration::from_secs(2),
            drain_timeout: Duration::from_secs(10),
            drain_code: DrainCode::GoingAway,
            page: true,
            log_format: LogFormat::Human,
            log_level: LogLevel::Info,
            protocol: Protocol::Plain,
        }
    }
}

pub(super) fn at_least_one(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN)
}
