//! Settings come from flags over environment over file over defaults, and all faults are told together.

use std::ffi::OsString;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pombo::config::{
    Auth, AuthSource, Config, ControlTls, DrainCode, DuplicateLogin, Fault, Listen, LogFormat, LogLevel, Origins,
    Paths, Secret, Setting, Settings, SlowConsumer, load,
};
use pombo::rights::Rights;
use tempfile::TempDir;

/// The three layers, each as a user writes it.
struct Layers {
    flags: Settings,
    variables: Vec<(OsString, OsString)>,
    file: Option<PathBuf>,
    directory: TempDir,
}

impl Layers {
    fn new() -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        Self { flags: Settings::default(), variables: Vec::new(), file: None, directory }
    }

    fn flag(mut self, key: &str, values: &[&str]) -> Self {
        let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        self.flags.set_flag(Setting::of(key).expect("a setting"), &values);
        self
    }

    fn variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    fn write(&self, name: &str, toml: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, toml).expect("the temporary directory is writable");
        path
    }

    fn file(mut self, toml: &str) -> Self {
        self.file = Some(self.write("pombo.toml", toml));
        self
    }

    #[track_caller]
    fn load(&self) -> Config {
        load(&self.flags, self.file.as_deref(), &self.variables).expect("sound settings")
    }

    /// The lines of all faults, with the file's directory taken out.
    #[track_caller]
    fn faults(&self) -> Vec<String> {
        let faults = load(&self.flags, self.file.as_deref(), &self.variables).expect_err("faults");
        let directory = format!("{}/", self.directory.path().display());
        faults.iter().map(|fault: &Fault| fault.to_string().replace(&directory, "")).collect()
    }
}

#[test]
fn nothing_written_is_the_default() {
    let layers = Layers::new();
    assert_eq!(layers.load(), Config::default());
    assert_eq!(layers.file("").load(), Config::default());
}

#[test]
fn each_layer_hides_the_one_below() {
    let file = "shards = 1\nuid_bytes_max = 10\nlogin_reply = 'file'\npage = false";
    let layers = Layers::new().file(file);
    assert_eq!(layers.load().shards.get(), 1);

    let layers = layers.variable("POMBO_SHARDS", "2").variable("POMBO_LOGIN_REPLY", "variable, as it is");
    let config = layers.load();
    assert_eq!((config.shards.get(), config.login_reply.as_str()), (2, "variable, as it is"));

    let config = layers.flag("shards", &["3"]).load();
    assert_eq!((config.shards.get(), config.login_reply.as_str()), (3, "variable, as it is"));
    assert_eq!((config.uid_bytes_max, config.page), (10, false));
    assert_eq!(config.close_timeout, Config::default().close_timeout);
}

#[test]
fn a_layer_replaces_a_list_as_a_whole() {
    let layers = Layers::new().file("listen = ['127.0.0.1:1', '127.0.0.1:2']");
    let listen = |text: &str| text.parse::<Listen>().expect("an address");
    assert_eq!(layers.load().listen, [listen("127.0.0.1:1"), listen("127.0.0.1:2")]);

    let layers = layers.variable("POMBO_LISTEN", "127.0.0.1:3, unix:/x");
    assert_eq!(layers.load().listen, [listen("127.0.0.1:3"), listen("unix:/x")]);

    let layers = layers.flag("listen", &["127.0.0.1:4", "127.0.0.1:5,127.0.0.1:6"]);
    assert_eq!(layers.load().listen, ["127.0.0.1:4", "127.0.0.1:5", "127.0.0.1:6"].map(listen));
}

#[test]
fn the_file_is_the_flags_or_else_the_variables() {
    let layers = Layers::new();
    let path = layers.write("other.toml", "shards = 7");
    let layers = layers.variable("POMBO_CONFIG", path);
    assert_eq!(layers.load().shards.get(), 7);
    assert_eq!(layers.file("shards = 8").load().shards.get(), 8);
}

#[test]
fn all_faults_are_told_together() {
    let layers = Layers::new()
        .file("shard = 2\nlogin_timeout = '10'\nslow_consumer = 'drop'")
        .variable("POMBO_OUTBOX_BYTES_MAX", "1000")
        .variable("POMBO_LISTENS", "x")
        .flag("listen", &["127.0.0.1:1", "example.org:80"])
        .flag("shards", &["0"]);
    assert_eq!(
        layers.faults(),
        [
            "POMBO_LISTENS (from the environment): no such setting, did you mean POMBO_LISTEN?",
            "shard (from pombo.toml, line 1): no such setting, did you mean shards?",
            "listen = 127.0.0.1:1,example.org:80 (from --listen): \
             expected one or more of IP:PORT, localhost:PORT, unix:/PATH or, on Linux, unix:@NAME",
            "shards = 0 (from --shards): expected auto, or 1 to 256",
            "login_timeout = 10 (from pombo.toml, line 2): expected a time of 1ms to 1h, as in 5s",
            "slow_consumer = drop (from pombo.toml, line 3): expected disconnect, drop-newest or drop-oldest",
            "outbox_bytes_max = 1000 (from POMBO_OUTBOX_BYTES_MAX): expected message_bytes_max + 14 = 1048590 or more",
        ]
    );
}

#[test]
fn a_missing_file_is_a_fault() {
    let mut layers = Layers::new();
    layers.file = Some(layers.directory.path().join("missing.toml"));
    let faults = layers.variable("POMBO_SHARDS", "x").faults();
    assert!(faults[0].starts_with("cannot read the settings in missing.toml: "), "{faults:?}");
    assert_eq!(faults[1..], ["shards = x (from POMBO_SHARDS): expected auto, or 1 to 256"]);
}

#[test]
fn a_hidden_value_is_not_read() {
    let layers = Layers::new().file("shards = 0").variable("POMBO_SHARDS", "x").flag("shards", &["1"]);
    assert_eq!(layers.load().shards.get(), 1);
}

/// Every field differs from its default, and holds what is hard to write.
fn unusual() -> Config {
    let count = |count| NonZeroUsize::new(count).expect("a count");
    Config {
        listen: vec!["[::1]:0".parse().expect("an address"), Listen::Unix("/run/a,b \"c\".sock".into())],
        unix_socket_mode: Some(0o600),
        tls_certificate: Some("/etc/pombo/c \"h\".pem".into()),
        tls_key: Some("key.pem".into()),
        control: Some(Listen::Unix("/run/control.sock".into())),
        control_tls: ControlTls::Off,
        control_tokens: ["a push+admin 0123456789abcdef0123456789abcdef", "b query fedcba9876543210fedcba9876543210"]
            .map(|token| token.parse().expect("a token"))
            .to_vec(),
        control_tokens_file: Some("/run/a \"b\"".into()),
        control_connections_max: 9,
        control_idle_timeout: Duration::from_millis(61_500),
        control_body_timeout: Duration::from_secs(31),
        control_answer_timeout: Duration::from_secs(6),
        push_bytes_max: Some(12_345),
        push_uids_max: 11,
        idempotency_window: Duration::ZERO,
        idempotency_bytes_max: 1 << 20,
        text: Some("localhost:1".parse().expect("an address")),
        shards: count(200),
        gateway_threads: count(60),
        connections_max: 7,
        handshakes_max: 8,
        address_sessions_max: Some(count(5)),
        address_logins_per_minute: Some(count(6)),
        logins_per_second: Some(count(7)),
        origins: Origins::List(vec!["https://example.com".parse().expect("an origin")]),
        trusted_proxies: ["10.0.0.0/8", "::1", "unix"].map(|proxy| proxy.parse().expect("a proxy")).into(),
        proxy_protocol: true,
        paths: Paths::List(vec!["/ws".to_owned(), "/a,b".to_owned()]),
        login_reply: "olá \"{uid}\"\n\\ 'x' # no comment".to_owned(),
        duplicate_login: DuplicateLogin::Share,
        uid_sessions_max: count(3),
        handshake_timeout: Duration::from_millis(1500),
        login_timeout: Duration::from_micros(1001),
        login_bytes_max: 1000,
        auth: Auth::Http,
        insecure_open: true,
        auth_sources: vec![AuthSource::Query],
        rights: Rights::BROADCAST,
        rights_claim: "a \"b\"".to_owned(),
        jwt_secret: Some(Secret::new("correct horse battery staple, and so on")),
        jwt_secret_file: Some("/run/a \"b\"".into()),
        jwt_key_files: vec!["/run/a,b.pem".into(), "keys.json".into()],
        jwt_issuer: Some("https://issuer/".to_owned()),
        jwt_audience: Some("pombo".to_owned()),
        jwt_leeway: Duration::from_millis(1500),
        auth_url: Some("http://[::1]:8080/who?a=b".parse().expect("an address")),
        auth_url_ca: Some("roots.pem".into()),
        auth_url_timeout: Duration::from_millis(7),
        auth_url_in_flight_max: 9,
        auth_url_headers: vec!["x-tenant".to_owned()],
        auth_url_login_headers: vec!["x-tenant".to_owned()],
        auth_cache_ttl: Duration::ZERO,
        auth_cache_entries_max: 0,
        hook_url: Some("https://hooks.example.org/a?b=c".parse().expect("an address")),
        hook_url_ca: Some("/etc/pombo/hook \"ca\".pem".into()),
        hook_secret: Some(Secret::new("a \"secret\" of the hook, of 32 bytes")),
        hook_secret_file: Some("hook secrets".into()),
        hook_grace: Duration::ZERO,
        hook_returns: true,
        hook_delay: Duration::from_millis(3),
        hook_batch_max: 1,
        hook_timeout: Duration::from_millis(1),
        hook_retry_time: Duration::from_secs(86_400),
        hook_queue_max: 17,
        message_timeout: Duration::from_secs(61),
        message_bytes_max: 12_345,
        message_rate_max: Some(10),
        byte_rate_max: Some(1 << 20),
        rate_patience: Duration::from_secs(90),
        uid_bytes_max: 999,
        outbox_bytes_max: 12_359,
        memory_bytes_max: 3 << 20,
        send_buffer_bytes: Some(65_536),
        slow_consumer: SlowConsumer::DropOldest,
        mailbox_bytes_max: 1024,
        heartbeat_interval: Duration::from_secs(5400),
        close_timeout: Duration::from_secs(3600),
        drain_timeout: Duration::ZERO,
        drain_code: DrainCode::ServiceRestart,
        page: false,
        log_format: LogFormat::Json,
        log_level: LogLevel::Off,
        protocol: pombo::Config::default().protocol,
    }
}

#[test]
fn a_printed_config_loads_back_to_the_same() {
    for config in [Config::default(), unusual()] {
        config.check().expect("sound settings");
        let toml = config.to_toml();
        let config = Config { jwt_secret: None, hook_secret: None, control_tokens: Vec::new(), ..config };
        assert_eq!(Layers::new().file(&toml).load(), config, "{toml}");
    }
}

#[test]
fn every_setting_takes_its_flag_and_its_variable() {
    let (default, unusual) = (Config::default(), unusual());
    for setting in pombo::config::SETTINGS.iter().filter(|setting| !setting.secret) {
        let text = setting.text(&unusual);
        assert_ne!(text, setting.text(&default), "{} is unusual", setting.key);
        // A comma in a list separates, except in a file.
        let text = text.replace("a,b", "ab");
        // The PROXY protocol is spoken with somebody; the unusual outbox is too small for the default's messages; a
        // certificate and its key go together.
        let layers = || match setting.key {
            "proxy_protocol" => Layers::new().flag("trusted_proxies", &["unix"]),
            "outbox_bytes_max" => Layers::new().flag("message_bytes_max", &["1"]),
            "tls_certificate" => Layers::new().flag("tls_key", &["x"]),
            "tls_key" => Layers::new().flag("tls_certificate", &["x"]),
            "auth" => Layers::new().flag("auth_url", &["http://h/"]),
            "hook_url" => Layers::new().flag("hook_secret_file", &["x"]),
            _ => Layers::new(),
        };
        let flag = layers().flag(setting.key, &[&text]).load();
        let variable = layers().variable(&setting.variable(), &text).load();
        assert_eq!(setting.text(&flag), text, "{}", setting.flag());
        assert_eq!(setting.text(&variable), text, "{}", setting.variable());
    }
}

#[test]
fn the_file_is_named_as_it_was_given() {
    let mut layers = Layers::new();
    layers.file = Some(Path::new("no/such/file.toml").to_owned());
    assert!(layers.faults()[0].starts_with("cannot read the settings in no/such/file.toml: "));
}

#[test]
fn a_secret_is_read_and_never_shown() {
    let secret = "correct horse battery staple, and so on";
    let layers = || Layers::new().variable("POMBO_AUTH", "jwt");
    let file = format!("jwt_secret = '{secret}'");
    for layers in
        [layers().flag("jwt_secret", &[secret]), layers().variable("POMBO_JWT_SECRET", secret), layers().file(&file)]
    {
        let config = layers.load();
        assert_eq!(config.jwt_secret.as_ref().map(Secret::reveal), Some(secret));
        let shown = format!("{}{config:?}", config.to_toml());
        assert!(!shown.contains("horse"), "{shown}");
        assert!(shown.contains("# jwt_secret is set, and not shown"), "{shown}");
    }
    let short = &secret[..20];
    let array = format!("jwt_secret = ['{secret}']");
    for layers in
        [layers().flag("jwt_secret", &[short]), layers().variable("POMBO_JWT_SECRET", short), layers().file(&array)]
    {
        let faults = layers.faults().join("\n");
        assert!(faults.starts_with("jwt_secret = (hidden) (from "), "{faults}");
        assert!(!faults.contains("horse"), "{faults}");
    }
}

#[test]
fn a_node_without_authentication_stays_local_unless_it_is_told_otherwise() {
    let open = |text: &str| Layers::new().flag("listen", &["127.0.0.1:0,unix:/x", text]);
    for local in ["[::1]:1", "localhost:1", "127.9.9.9:1"] {
        open(local).load();
    }
    for reachable in ["0.0.0.0:1", "[::]:1", "192.168.0.1:1"] {
        let expected = format!(
            "listen = 127.0.0.1:0,unix:/x,{reachable} (from --listen): expected loopback addresses and Unix sockets \
             only, since auth = none lets everybody log in as anybody; set auth to jwt or http, or allow it with \
             --insecure-open (insecure_open = true)"
        );
        assert_eq!(open(reachable).faults(), [expected]);
        open(reachable).flag("insecure_open", &["true"]).load();
        open(reachable).flag("auth", &["jwt"]).flag("jwt_key_files", &["x"]).load();
    }
}

#[test]
fn a_method_of_authentication_needs_what_it_works_with() {
    let faults = Layers::new().flag("auth", &["jwt"]).faults();
    let keys = "auth = jwt (from --auth): expected a key to go with it: jwt_key_files, jwt_secret_file or jwt_secret";
    assert_eq!(faults, [keys]);
    // A secret that is not valid is one fault, not two.
    for (key, value, secret) in [("auth", "jwt", "jwt_secret"), ("hook_url", "http://127.0.0.1:9/", "hook_secret")] {
        let faults = Layers::new().flag(key, &[value]).flag(secret, &["hallo"]).faults();
        assert!(matches!(&faults[..], [only] if only.starts_with(&format!("{secret} = (hidden)"))), "{faults:?}");
    }
    let faults = Layers::new().flag("auth", &["http"]).faults();
    let url = "auth_url = none (the default): expected an address, since auth = http, such as \
               http://127.0.0.1:8080/login";
    assert_eq!(faults, [url]);
}

/// Some services expect a key in the query of their address; a fault printed it.
#[test]
fn no_fault_shows_the_query_of_an_address() {
    for (key, text) in [
        ("hook_url", "hook_url = 'http://127.0.0.1/?k=SECRET'\n"),
        ("hook_url", "hook_url = http://127.0.0.1/?k=SECRET\n"),
        ("hook_url", "hook_url = ftp://127.0.0.1/?k=SECRET\n"),
        ("hook_url", "hook_url = ['http://127.0.0.1/?k=SECRET']\n"),
        ("auth_url", "auth_url = 'ftp://127.0.0.1/?k=SECRET'\n"),
    ] {
        let faults = Layers::new().file(text).faults().join(
            "
",
        );
        assert!(faults.contains(key) && faults.contains("127.0.0.1/?(hidden)"), "{faults}");
        assert!(!faults.contains("SECRET"), "{faults}");
    }
}
