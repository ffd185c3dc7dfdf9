//! Settings of the server: a flag wins over `ISOPOD_<NAME>` in the environment, that over the TOML file, that over
//! the default. No other room reads configuration.

use crate::failure::{Failure, Outcome};
use serde::Deserialize;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// The file that is read when it exists and `--config` names no other.
const DEFAULT_FILE: &str = "/etc/isopod/isopod.toml";
/// Where sandboxes live unless told otherwise.
const DEFAULT_DATA_DIR: &str = "/var/lib/isopod";

/// What the command line says about settings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flags {
    /// `--config`.
    pub(crate) config: Option<PathBuf>,
    /// `--listen`.
    pub(crate) listen: Option<String>,
    /// `--data-dir`.
    pub(crate) data_dir: Option<PathBuf>,
}

/// The settings in force.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// Address that the API listens on.
    pub(crate) listen: SocketAddr,
    /// Public origin of every URL that is handed out; `http://` and the address listened on when absent.
    pub(crate) base_url: Option<String>,
    /// Everything that must survive a restart.
    pub(crate) data_dir: PathBuf,
    /// What can be made again.
    pub(crate) cache_dir: Option<PathBuf>,
    /// Previews are at `<port>-<id>.<domain>`.
    pub(crate) domain: String,
    /// The template of sandboxes whose creator names none; the platform's default when absent.
    pub(crate) template: Option<String>,
    /// How many sandboxes may live at once; computed from the host when absent.
    pub(crate) max_sandboxes: Option<u64>,
    /// What is logged, in the syntax of `tracing` filters.
    pub(crate) log: String,
    /// Size of the node's volume for sandboxes, in MiB; computed from the free space when absent.
    pub(crate) disk_mib: Option<u64>,
    /// How many namespaces and subvolumes wait ready-made; 0 empties every pool.
    pub(crate) warm_pool: usize,
    /// Where traces go; nowhere when absent.
    pub(crate) otlp_endpoint: Option<String>,
}

/// What the default log filter says: our own rooms at `info`, libraries only when something is wrong.
const DEFAULT_LOG: &str = "info,hyper=warn,h2=warn,sqlx=warn,tower=warn,opentelemetry=warn";
/// How many ready-made namespaces and subvolumes cover a burst without being a burden (each is a few kB).
const DEFAULT_WARM_POOL: usize = 16;

/// The TOML file. Keys are the names of the settings in lower case.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    listen: Option<String>,
    base_url: Option<String>,
    data_dir: Option<PathBuf>,
    cache_dir: Option<PathBuf>,
    domain: Option<String>,
    template: Option<String>,
    auth: Option<String>,
    max_sandboxes: Option<u64>,
    log: Option<String>,
    disk_mib: Option<u64>,
    warm_pool: Option<usize>,
}

/// The environment, as a function so that tests can give their own.
pub(crate) trait Environment: Fn(&str) -> Option<String> {}
impl<F: Fn(&str) -> Option<String>> Environment for F {}

/// A variable of this process; empty counts as unset.
pub(crate) fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Settings {
    /// Reads the settings of this process.
    ///
    /// # Errors
    /// A sentence naming the setting that is wrong, or the file that cannot be read.
    pub(crate) fn load(flags: &Flags) -> Outcome<Self> {
        let file = read_file(flags.config.as_deref(), Path::new(DEFAULT_FILE))?;
        Self::merge(flags, &process_environment, file)
    }

    fn merge(flags: &Flags, environment: &impl Environment, file: File) -> Outcome<Self> {
        let variable = |name: &str| environment(&format!("ISOPOD_{name}")).filter(|value| !value.is_empty());
        let text = |name: &str, in_file: Option<String>| variable(name).or(in_file);

        let auth = text("AUTH", file.auth).unwrap_or_else(|| "none".into());
        check_auth(&auth)?;
        let listen = flags
            .listen
            .clone()
            .or_else(|| text("LISTEN", file.listen))
            .map_or(Ok(SocketAddr::from(([127, 0, 0, 1], 8080))), |value| parse_listen(&value))?;
        if !listen.ip().is_loopback() {
            return Err(Failure::hinted(
                format_args!(
                    "will not listen on {listen}: with AUTH=none whoever reaches it owns this machine's sandboxes"
                ),
                "listen on 127.0.0.1 or [::1], and put a proxy that asks for credentials in front of it",
            ));
        }
        let base_url = text("BASE_URL", file.base_url).map(|value| parse_base_url(&value)).transpose()?;
        Ok(Self {
            listen,
            base_url,
            data_dir: flags
                .data_dir
                .clone()
                .or_else(|| variable("DATA_DIR").map(PathBuf::from))
                .or(file.data_dir)
                .unwrap_or_else(|| DEFAULT_DATA_DIR.into()),
            cache_dir: variable("CACHE_DIR").map(PathBuf::from).or(file.cache_dir),
            domain: text("DOMAIN", file.domain).unwrap_or_else(|| "localhost".into()),
            template: text("TEMPLATE", file.template),
            max_sandboxes: number("MAX_SANDBOXES", &variable)?.or(file.max_sandboxes),
            log: text("LOG", file.log).unwrap_or_else(|| DEFAULT_LOG.into()),
            disk_mib: number("DISK_MIB", &variable)?.or(file.disk_mib),
            warm_pool: number("WARM_POOL", &variable)?.or(file.warm_pool).unwrap_or(DEFAULT_WARM_POOL),
            otlp_endpoint: environment("OTEL_EXPORTER_OTLP_ENDPOINT").filter(|value| !value.is_empty()),
        })
    }
}

fn read_file(named: Option<&Path>, default: &Path) -> Outcome<File> {
    let path = named.unwrap_or(default);
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(File::default());
        }
        Err(error) => return Err(Failure::io(path.display(), &error)),
    };
    parse_file(&text).map_err(|reason| Failure::new(format_args!("{}: {reason}", path.display())))
}

/// The parser's message with its line; without the drawing of the place that it adds below.
fn parse_file(text: &str) -> Result<File, String> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| text[..span.start].lines().count().max(1));
        match line {
            Some(line) => format!("line {line}: {}", error.message()),
            None => error.message().to_owned(),
        }
    })
}

fn check_auth(value: &str) -> Outcome<()> {
    match value {
        "none" => Ok(()),
        "required" => Err(Failure::hinted(
            "AUTH=required is not built yet",
            "leave ISOPOD_AUTH unset: the server then listens on loopback only",
        )),
        other => {
            Err(Failure::new(format_args!("AUTH: {other:?} is not known; it must be `none` or `required`")))
        }
    }
}

fn parse_listen(value: &str) -> Outcome<SocketAddr> {
    let numeric =
        value.strip_prefix("localhost:").map_or(value.to_owned(), |port| format!("127.0.0.1:{port}"));
    numeric.parse().map_err(|_| {
        Failure::new(format_args!("LISTEN: {value:?} is not an address and port such as 127.0.0.1:8080"))
    })
}

fn parse_base_url(value: &str) -> Outcome<String> {
    match reqwest::Url::parse(value) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.host().is_some() => {
            Ok(value.trim_end_matches('/').to_owned())
        }
        _ => Err(Failure::new(format_args!(
            "BASE_URL: {value:?} is not an origin such as https://isopod.example"
        ))),
    }
}

fn number<T: std::str::FromStr>(
    name: &str,
    variable: &impl Fn(&str) -> Option<String>,
) -> Outcome<Option<T>> {
    variable(name)
        .map(|value| {
            value
                .parse()
                .map_err(|_| Failure::new(format_args!("ISOPOD_{name}: {value:?} is not a whole number")))
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &'static [(&'static str, &'static str)]) -> impl Environment {
        move |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    fn merge(
        flags: &Flags,
        pairs: &'static [(&'static str, &'static str)],
        file: &str,
    ) -> Result<Settings, String> {
        let file = parse_file(file)?;
        Settings::merge(flags, &environment(pairs), file).map_err(|failure| failure.to_string())
    }

    #[test]
    fn defaults_need_nothing() {
        let settings = merge(&Flags::default(), &[], "").expect("defaults are valid");
        assert_eq!(settings.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(settings.data_dir, Path::new("/var/lib/isopod"));
        assert_eq!(settings.domain, "localhost");
        assert_eq!(settings.warm_pool, DEFAULT_WARM_POOL);
        assert_eq!((settings.base_url, settings.otlp_endpoint), (None, None));
    }

    #[test]
    fn flag_wins_over_environment_over_file_over_default() {
        let file = "listen = '127.0.0.1:1'\ndata_dir = '/file'\nwarm_pool = 3\nmax_sandboxes = 7";
        let env = &[("ISOPOD_LISTEN", "127.0.0.1:2"), ("ISOPOD_DATA_DIR", "/env"), ("ISOPOD_WARM_POOL", "0")];
        let flags = Flags { listen: Some("[::1]:3".into()), ..Flags::default() };
        let settings = merge(&flags, env, file).expect("valid");
        assert_eq!(settings.listen.to_string(), "[::1]:3");
        assert_eq!(settings.data_dir, Path::new("/env"));
        assert_eq!(settings.warm_pool, 0);
        assert_eq!(settings.max_sandboxes, Some(7));
        let settings = merge(&Flags::default(), &[("ISOPOD_LISTEN", "")], file).expect("valid");
        assert_eq!(settings.listen.to_string(), "127.0.0.1:1", "empty counts as unset");
    }

    #[test]
    fn mistakes_are_named() {
        for (pairs, file, word) in [
            (&[][..], "listne = 'x'", "listne"),
            (&[], "\n\nwarm_pool = 'many'", "line 3"),
            (&[("ISOPOD_WARM_POOL", "-1")], "", "ISOPOD_WARM_POOL"),
            (&[("ISOPOD_LISTEN", "8080")], "", "LISTEN"),
            (&[("ISOPOD_LISTEN", "0.0.0.0:80")], "", "AUTH=none"),
            (&[], "listen = '192.0.2.1:80'", "AUTH=none"),
            (&[("ISOPOD_AUTH", "required")], "", "not built yet"),
            (&[("ISOPOD_AUTH", "maybe")], "", "maybe"),
            (&[("ISOPOD_BASE_URL", "isopod.example")], "", "BASE_URL"),
        ] {
            let text = merge(&Flags::default(), pairs, file).expect_err("refused");
            assert!(text.contains(word), "{text:?} does not name {word}");
        }
    }

    #[test]
    fn localhost_is_loopback() {
        assert_eq!(parse_listen("localhost:80").expect("valid").to_string(), "127.0.0.1:80");
    }

    #[test]
    fn the_file_must_exist_only_when_named() {
        let missing = Path::new("/nonexistent/isopod.toml");
        assert!(read_file(None, missing).is_ok());
        let text = read_file(Some(missing), missing).expect_err("named").to_string();
        assert!(text.contains("/nonexistent/isopod.toml"), "{text}");
    }
}
