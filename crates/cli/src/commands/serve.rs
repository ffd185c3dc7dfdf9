//! `isopod serve`: wires the rooms together and serves the API until told to end.

use crate::{
    failure::{Failure, Outcome},
    node, server,
    settings::{Flags, Settings},
    signals::{self, Interrupts},
    system::{SystemClock, SystemEntropy},
    telemetry::{self, Telemetry},
};
use clap::Args;
use isopod_api::{ApiSettings, ApiState};
use isopod_control::{Control, ControlSettings};
use isopod_store::SqliteStore;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long requests that are open at the end may go on.
const GRACE: Duration = Duration::from_secs(10);

/// Arguments of `isopod serve`.
#[derive(Debug, Args)]
#[command(
    after_help = "Settings: a flag wins over ISOPOD_<NAME> in the environment, that over the same name in lower \
    case in the TOML file.\n  \
    LISTEN, BASE_URL, DATA_DIR, CACHE_DIR, DOMAIN, TEMPLATE, AUTH (`none`: loopback only),\n  \
    MAX_SANDBOXES, DISK_MIB, WARM_POOL, LOG; traces go to OTEL_EXPORTER_OTLP_ENDPOINT if set.\n\n\
    Sandboxes run on when the server ends, and the next one takes them over.\n\n\
    Examples:\n  \
    sudo isopod serve\n  \
    sudo ISOPOD_LOG=debug isopod serve --listen 127.0.0.1:9000 --data-dir /srv/isopod"
)]
pub(crate) struct Arguments {
    /// Address and port to listen on
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where sandboxes and their records live
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// TOML file with settings (default: /etc/isopod/isopod.toml if there is one)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Stop all sandboxes at a graceful end instead of letting them run on
    #[arg(long)]
    stop_sandboxes: bool,
}

/// Serves until a signal comes. A second one ends the process at once.
pub(crate) async fn run(arguments: Arguments) -> Outcome {
    let flags =
        Flags { config: arguments.config, listen: arguments.listen.clone(), data_dir: arguments.data_dir };
    let settings = Settings::load(&flags)?;
    node::require_root("serve")?;
    let mut interrupts = Interrupts::listen()?;
    let telemetry = Telemetry::install(&settings.log, settings.otlp_endpoint.as_deref())?;
    // Before anything else is made: a port in use is the commonest mistake.
    let listener = TcpListener::bind(settings.listen).await.map_err(|error| {
        Failure::hinted(
            format_args!("cannot listen on {}: {error}", settings.listen),
            "another server may run already; choose another address with --listen",
        )
    })?;
    let stop = CancellationToken::new();
    let serving = serve(listener, &settings, stop.clone(), arguments.stop_sandboxes);
    tokio::pin!(serving);
    let result = tokio::select! {
        result = serving.as_mut() => result,
        signal = interrupts.next() => {
            tracing::info!(signal, "ending; a second signal ends at once");
            stop.cancel();
            tokio::select! {
                result = serving => result,
                signal = interrupts.next() => return Ok(signals::exit_code(signal)),
            }
        }
    };
    telemetry.shutdown().await;
    result.map(|()| 0)
}

/// Opens every room from the bottom up, serves, and closes them from the top down.
async fn serve(
    listener: TcpListener,
    settings: &Settings,
    stop: CancellationToken,
    stop_sandboxes: bool,
) -> Outcome<()> {
    let address = listener.local_addr().map_err(|error| Failure::io("the listening socket", &error))?;
    let base_url = settings.base_url.clone().unwrap_or_else(|| format!("http://{address}"));
    let metrics = telemetry::install_metrics()?;
    isopod_api::describe_metrics();

    if let Some(cache) = &settings.cache_dir {
        tracing::warn!(cache_dir = %cache.display(), "CACHE_DIR is set, and nothing is cached yet");
    }
    make_data_dir(&settings.data_dir)?;
    // The node takes the lock of the data directory, so it comes before the database.
    let node = node::open(node::Options {
        data_dir: settings.data_dir.clone(),
        disk_mib: settings.disk_mib,
        pool: settings.warm_pool,
        max_sandboxes: settings.max_sandboxes,
        ephemeral: false,
    })
    .await?;
    let store = SqliteStore::open(&settings.data_dir)
        .await
        .map_err(|error| Failure::new(format_args!("the database cannot be opened: {error}")))?;
    let store = Arc::new(store);
    let control = Control::open(
        store.clone(),
        node,
        Arc::new(SystemClock),
        Arc::new(SystemEntropy::open()?),
        control_settings(settings),
    )
    .await?;
    let mut api = ApiSettings::new(base_url.clone());
    api.allowed_hosts.push(settings.domain.clone());
    let app = isopod_api::router(ApiState::new(control.clone(), metrics, api));

    tracing::info!(%address, base_url, data_dir = %settings.data_dir.display(), "listening");
    server::serve(listener, app, stop, GRACE).await;
    control.shutdown(stop_sandboxes).await;
    isopod_store::Store::close(store.as_ref()).await;
    tracing::info!("ended");
    Ok(())
}

fn control_settings(settings: &Settings) -> ControlSettings {
    let defaults = ControlSettings::default();
    ControlSettings {
        max_sandboxes: settings.max_sandboxes,
        default_template: settings.template.clone().unwrap_or(defaults.default_template),
        ..defaults
    }
}

/// Makes the data directory, for root alone.
fn make_data_dir(path: &std::path::Path) -> Outcome<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Failure::io(path.display(), &error))
}
