//! What is under `deploy/` goes with the program: its settings load, its units are sound, and all name the same addresses.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use pombo::Listen;
use pombo::config::{SETTINGS, Setting};
use support::{Ask, Authority, Client, Program, SECRET, Signer};
use tempfile::TempDir;

mod support;

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file)
}

fn text(file: &str) -> String {
    fs::read_to_string(deploy(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The values of a key in a unit.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

/// The settings in effect with a file of ours.
fn settings(file: &str) -> toml::Table {
    let output = Command::new(env!("CARGO_BIN_EXE_pombo"))
        .args(["serve", "--print-config", "--config"])
        .arg(deploy(file))
        .env_clear()
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).parse().expect("it prints TOML")
}

#[test]
fn the_socket_unit_listens_where_the_settings_say() {
    let settings = settings("systemd/pombo.toml");
    let addresses = ["listen", "control"].map(|key| settings[key].as_str().expect("one address"));
    let socket = text("systemd/pombo.socket");
    assert_eq!(values(&socket, "ListenStream"), addresses);
}

#[test]
fn the_service_gives_a_drain_its_time() {
    let service = text("systemd/pombo.service");
    let seconds = |text: &str| humantime::parse_duration(text).expect("a time");
    let drain_timeout = settings("systemd/pombo.toml").remove("drain_timeout").expect("it has a value");
    let stop = values(&service, "TimeoutStopSec");
    assert!(seconds(stop[0]) > seconds(drain_timeout.as_str().expect("text")), "{stop:?}");
}

/// A file of the project.
fn project(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file))
        .unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[test]
fn the_package_puts_everything_where_the_units_look() {
    let manifest: toml::Table = project("Cargo.toml").parse().expect("a manifest is TOML");
    let deb = &manifest["package"]["metadata"]["deb"];
    let mut installed = Vec::new();
    for asset in deb["assets"].as_array().expect("a list") {
        let [from, to, mode] = [0, 1, 2].map(|index| asset[index].as_str().expect("text"));
        let name = from.rsplit('/').next().expect("a name");
        installed.push((if to.ends_with('/') { format!("/{to}{name}") } else { format!("/{to}") }, mode));
        // What is under `target` is made by `scripts/package`.
        let folder = from.strip_suffix(name).expect("it ends with its name");
        let is_there = if name.contains('*') { folder.to_owned() } else { from.to_owned() };
        let is_made = from.starts_with("target/");
        assert!(is_made || Path::new(env!("CARGO_MANIFEST_DIR")).join(is_there).exists(), "{from}");
    }
    let service = text("systemd/pombo.service");
    let start: Vec<&str> = values(&service, "ExecStart")[0].split(' ').collect();
    let [program, "serve", "--config", settings] = start[..] else { panic!("{start:?}") };
    assert!(installed.contains(&(program.to_owned(), "755")), "{program}: {installed:?}");
    assert!(installed.contains(&(settings.to_owned(), "644")), "{settings}: {installed:?}");
    assert_eq!(deb["conf-files"].as_array().expect("a list")[..], [toml::Value::from(settings)]);
    assert_eq!(deb["systemd-units"]["unit-scripts"].as_str(), Some("deploy/systemd"));
    // Both would refuse who connects during an upgrade; the script restarts the service alone.
    for key in ["restart-after-upgrade", "stop-on-upgrade"] {
        assert_eq!(deb["systemd-units"][key].as_bool(), Some(false), "{key}");
    }
    assert!(text("debian/postinst").contains("restart pombo.service >"));
    // The first entry of Debian's own changelog is of this version.
    let version = env!("CARGO_PKG_VERSION");
    assert!(text("debian/changelog").starts_with(&format!("pombo ({version}-1) ")), "{version}");
}

/// The files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The documents name files under `deploy`, which neither the package nor the tarball had.
#[test]
fn the_package_and_the_tarball_have_what_the_documents_name() {
    let manifest: toml::Table = project("Cargo.toml").parse().expect("a manifest is TOML");
    let assets = manifest["package"]["metadata"]["deb"]["assets"].as_array().expect("a list");
    let script = project("scripts/package");
    let copied = script.lines().find(|line| line.ends_with(r#""$folder/deploy""#) && line.starts_with("cp "));
    for folder in ["fail2ban", "prometheus", "grafana"] {
        for file in files(&deploy(folder)) {
            let file = file.strip_prefix(env!("CARGO_MANIFEST_DIR")).expect("it is of the project");
            let (file, parent) =
                (file.to_str().expect("UTF-8"), file.parent().and_then(Path::to_str).expect("a folder"));
            // So a link of a document leads there, too.
            let to = format!("usr/share/doc/pombo/{parent}/");
            let has = assets.iter().any(|asset| {
                let from = asset[0].as_str().expect("text");
                let all = from
                    .strip_suffix("*.yml")
                    .is_some_and(|front| file.strip_prefix(front).is_some_and(|name| !name.contains('/')));
                (from == file || all) && asset[1].as_str() == Some(&to)
            });
            assert!(has, "the package has no {file} in {to}");
        }
        assert!(copied.is_some_and(|line| line.contains(&format!(" deploy/{folder} "))), "{folder}: {copied:?}");
    }
}

#[test]
fn the_image_and_compose_agree_with_the_settings() {
    let defaults = settings("systemd/pombo.toml");
    let port =
        |key: &str| defaults[key].as_str().and_then(|listen| listen.rsplit(':').next()).expect("a port").to_owned();
    let seconds = |text: &str| humantime::parse_duration(text).expect("a time");
    let drain_timeout = seconds(defaults["drain_timeout"].as_str().expect("text"));

    let image = text("docker/Dockerfile");
    assert!(image.contains(&format!("\nENV POMBO_LISTEN=0.0.0.0:{0}\nEXPOSE {0}\n", port("listen"))));
    assert!(image.contains("\nSTOPSIGNAL SIGTERM\n") && image.contains("\nUSER 65532:65532\n"));
    // What the check needs to find control, it has from the environment that the node has, too.
    assert!(image.contains(r#"CMD ["/usr/bin/pombo", "health"]"#));

    let compose = text("docker/compose.yaml");
    let value = |key: &str| {
        let line = compose.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("compose.yaml has no {key}")).to_owned()
    };
    assert!(compose.contains(&format!(r#"- "127.0.0.1:{0}:{0}""#, port("listen"))));
    assert!(seconds(&value("stop_grace_period")) > drain_timeout);
    let limit = values(&text("systemd/pombo.service"), "LimitNOFILE")[0].to_owned();
    assert_eq!((value("soft"), value("hard")), (limit.clone(), limit));
    // What is built, and what is mounted read-only, is there; each container is without rights.
    let services = compose.matches("\n    image: ").count() + compose.matches("\n    build:\n").count() - 1;
    for line in ["read_only: true", "cap_drop: [ALL]", r#"security_opt: ["no-new-privileges:true"]"#] {
        assert_eq!(compose.matches(line).count(), services, "{line}");
    }
    let mounts = compose.lines().filter_map(|line| line.trim().strip_prefix("- ")?.strip_suffix(":ro"));
    let paths: Vec<&str> = mounts.filter_map(|mount| mount.split(':').next()).collect();
    assert_eq!(paths, ["../prometheus", "../grafana/provisioning", "../grafana/pombo.json"]);
    assert!(deploy("docker").join("../..").join(value("dockerfile")).exists());
}

/// What follows a flag of a command, each time that it stands there.
fn after<'a>(command: &'a str, flag: &str) -> Vec<&'a str> {
    let words: Vec<&str> = command.split_whitespace().collect();
    words.windows(2).filter(|pair| pair[0] == flag).map(|pair| pair[1]).collect()
}

/// The image listened on all addresses with `auth = none`, which no node does: no shown command started one.
#[test]
fn a_node_starts_with_the_environment_that_the_documents_give_a_container() {
    let folder = TempDir::new().expect("a folder");
    let secret = folder.path().join("jwt-secret");
    fs::write(&secret, format!("{SECRET}\n")).expect("the folder is writable");
    let secret = secret.to_str().expect("a path in UTF-8");
    let image = text("docker/Dockerfile");
    let of_image = variables_of(&image);

    let document = project("docs/install.md").replace("\\\n", " ");
    let mut ways = Vec::new();
    for command in document.lines().filter(|line| line.starts_with("docker run ")) {
        let is_local = after(command, "-p") == ["127.0.0.1:1234:1234"];
        let mounted: Vec<&str> = after(command, "-v").iter().filter_map(|mount| mount.split(':').nth(1)).collect();
        let given = after(command, "-e").into_iter().map(|pair| pair.split_once('=').expect("a value"));
        // A file that is mounted is one of ours.
        let given = given.map(|(name, value)| (name, if mounted.contains(&value) { secret } else { value }));
        ways.push((command.to_owned(), is_local, given.collect::<Vec<_>>()));
    }
    assert_eq!(ways.len(), 2, "the trial, and the one for clients elsewhere");
    let compose = text("docker/compose.yaml");
    let given = compose.lines().filter_map(|line| line.strip_prefix("      POMBO_")?.split_once(": "));
    let given: Vec<(String, &str)> =
        given.map(|(name, value)| (format!("POMBO_{name}"), value.trim_matches('"'))).collect();
    let given = given.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    ways.push(("compose.yaml".to_owned(), compose.contains(r#"- "127.0.0.1:1234:1234""#), given));

    for (way, is_local, given) in ways {
        let variables: Vec<_> = of_image.iter().copied().chain(given).collect();
        let (others, listen): (Vec<_>, Vec<_>) = variables.into_iter().partition(|(name, _)| *name != "POMBO_LISTEN");
        let listen = listen[0].1.replace(":1234", ":0");
        let program = Program::start_on_with_control(&listen, &others);
        let Listen::Tcp(address) = program.address() else { panic!("{way}: it listens on TCP") };
        let here = Listen::Tcp((Ipv4Addr::LOCALHOST, address.port()).into());
        let mut client = Client::dial(&here).named(&way).upgraded();
        // Only this machine reaches a node that lets in everybody.
        if is_local {
            client.log_in("alice");
        } else {
            let mut client = client.named("alice");
            client.send_text(Signer::secret().token_for("alice"));
            client.expect_login_reply();
            let mut stranger = Client::dial(&here).named(&way).upgraded();
            stranger.send_text("alice");
            stranger.expect_error("");
        }
    }
}

/// The variables that an image has by itself.
fn variables_of(image: &str) -> Vec<(&str, &str)> {
    image.lines().filter_map(|line| line.strip_prefix("ENV ")?.split_once('=')).collect()
}

/// Each credential of `secrets.conf`: its name, and the setting that gets its path.
fn credentials() -> Vec<(String, &'static Setting)> {
    let drop_in = text("systemd/secrets.conf");
    let loaded: Vec<&str> =
        values(&drop_in, "LoadCredential").into_iter().map(|value| value.split(':').next().expect("a name")).collect();
    let passed = values(&drop_in, "Environment").into_iter().map(|value| {
        let (variable, path) = value.split_once('=').expect("a variable");
        let setting = SETTINGS.iter().find(|setting| setting.variable() == variable).expect(variable);
        (path.strip_prefix("%d/").expect("in the folder of the credentials").to_owned(), setting)
    });
    let passed: Vec<_> = passed.collect();
    assert_eq!(passed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), loaded);
    passed
}

#[test]
fn the_service_gets_its_secrets_as_credentials() {
    let folder = TempDir::new().expect("a folder");
    let authority = Authority::new();
    let token = "token-token-token-token-token-token0";
    let variables = credentials().into_iter().map(|(name, setting)| {
        let path = folder.path().join(&name);
        let content = match setting.key {
            "tls_certificate" => fs::read(authority.certificate_file()).expect("it was written"),
            "tls_key" => fs::read(authority.key_file()).expect("it was written"),
            "control_tokens_file" => format!("backend push+query {token}\n").into_bytes(),
            _ => b"secret-secret-secret-secret-secret-secret\n".to_vec(),
        };
        fs::write(&path, content).expect("the folder is writable");
        (setting.variable(), path.to_str().expect("a path in UTF-8").to_owned())
    });
    let variables: Vec<(String, String)> = variables.collect();
    let variables: Vec<_> = variables.iter().map(|(name, path)| (name.as_str(), path.as_str())).collect();
    let program = Program::start_with_control(&variables, &["--auth", "jwt", "--hook-url", "http://127.0.0.1:9/"]);
    let Listen::Tcp(address) = program.address() else { panic!("it listens on TCP") };
    Client::try_dial_tls(*address, authority.client(rustls::ALL_VERSIONS)).expect("its certificate is the authority's");
    let ask = |ask: Ask| ask.over(&mut Client::dial(program.control())).status;
    assert_eq!([ask(Ask::get("/v1/counts")), ask(Ask::get("/v1/counts").token(token))], [401, 200]);
    // The document shows the same lines.
    let lines: String = text("systemd/secrets.conf")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .fold(String::new(), |text, line| text + line + "\n");
    assert!(
        project("docs/install.md").contains(&format!("```ini\n{lines}```\n")),
        "docs/install.md differs from\n{lines}"
    );
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let folder = TempDir::new().expect("a folder");
    let drop_ins = folder.path().join("pombo.service.d");
    fs::create_dir(&drop_ins).expect("the folder is writable");
    fs::write(drop_ins.join("secrets.conf"), text("systemd/secrets.conf")).expect("a file");
    for unit in ["pombo.service", "pombo.socket"] {
        // The program is not installed, and neither is its manual.
        let unit_text = text(&format!("systemd/{unit}"))
            .replace("/usr/bin/pombo", env!("CARGO_BIN_EXE_pombo"))
            .replace("Documentation=man:pombo(1)\n", "");
        fs::write(folder.path().join(unit), unit_text).expect("a file");
    }
    let units = ["pombo.service", "pombo.socket"].map(|unit| folder.path().join(unit));
    let output = match Command::new("systemd-analyze").arg("verify").args(units).output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            writeln!(std::io::stderr(), "skipped: there is no systemd-analyze").ok();
            return;
        }
        Err(error) => panic!("systemd-analyze does not run: {error}"),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let of_ours: Vec<&str> = said.lines().filter(|line| line.contains("pombo")).collect();
    assert!(output.status.success() && of_ours.is_empty(), "{said}");
}
