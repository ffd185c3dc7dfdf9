//! The HTTP server below the API: connections, their limits, and an end that lets open requests finish.

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use std::{io, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a client may take to begin to speak, and to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How many bytes the head of a request may have.
const HEAD_LIMIT: usize = 64 * 1024;
/// How many header fields a request may have.
const HEADER_FIELDS: usize = 100;
/// How long to wait when no connection can be accepted for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` is cancelled, then stops accepting and gives open requests `grace` to finish.
///
/// Idle connections are closed at once. What is still open after `grace` is cut.
pub(crate) async fn serve(listener: TcpListener, app: Router, stop: CancellationToken, grace: Duration) {
    let builder = builder();
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(builder.clone(), stream, app.clone(), stop.clone()));
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept connections");
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
    drop(listener);
    connections.close();
    if timeout(grace, connections.wait()).await.is_err() {
        tracing::warn!(open = connections.len(), "connections were still open at the end and are cut");
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADER_FIELDS)
        .max_buf_size(HEAD_LIMIT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(HEAD_LIMIT).expect("64 KiB fit"))
        .keep_alive_interval(HEAD_TIMEOUT)
        .keep_alive_timeout(HEAD_TIMEOUT);
    builder
}

async fn connection(
    builder: auto::Builder<TokioExecutor>,
    stream: TcpStream,
    app: Router,
    stop: CancellationToken,
) {
    // Frames are small and somebody waits for each of them.
    let _ = stream.set_nodelay(true);
    let begun = tokio::select! {
        begun = timeout(HEAD_TIMEOUT, stream.readable()) => matches!(begun, Ok(Ok(()))),
        () = stop.cancelled() => false,
    };
    if !begun {
        return;
    }
    let connection =
        builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(app));
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(error, "a connection ended badly");
    }
}

/// Whether accepting failed for one client only.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use std::{net::SocketAddr, sync::Arc};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::Notify,
        task::JoinHandle,
    };

    struct Running {
        address: SocketAddr,
        stop: CancellationToken,
        task: JoinHandle<()>,
        entered: Arc<Notify>,
        go_on: Arc<Notify>,
    }

    async fn start(grace: Duration) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (entered, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (enter, wait) = (entered.clone(), go_on.clone());
        let app = Router::new().route("/fast", get(|| async { "fast" })).route(
            "/slow",
            get(move || async move {
                enter.notify_one();
                wait.notified().await;
                "slow"
            }),
        );
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(listener, app, stop.clone(), grace));
        Running { address, stop, task, entered, go_on }
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(request.as_bytes()).await.expect("sends");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn open_requests_finish_and_idle_connections_close() {
        let server = start(Duration::from_secs(60)).await;
        let mut idle = TcpStream::connect(server.address).await.expect("connects");
        let address = server.address;
        let slow = tokio::spawn(async move { ask(address, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await });
        server.entered.notified().await;
        server.stop.cancel();
        assert_eq!(idle.read(&mut [0; 1]).await.expect("closed"), 0);
        server.go_on.notify_one();
        assert!(slow.await.expect("ran").ends_with("slow"));
        server.task.await.expect("ended");
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }

    #[tokio::test]
    async fn what_never_finishes_is_cut() {
        let server = start(Duration::ZERO).await;
        let address = server.address;
        let request =
            tokio::spawn(async move { ask(address, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await });
        server.entered.notified().await;
        server.stop.cancel();
        server.task.await.expect("ended although a request is open");
        request.abort();
    }

    #[tokio::test]
    async fn heads_are_limited() {
        let server = start(Duration::from_secs(60)).await;
        let long = format!("GET /fast HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(2 * HEAD_LIMIT));
        let many = format!("GET /fast HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(2 * HEADER_FIELDS));
        for head in [long, many] {
            let answer = ask(server.address, &head).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
        }
        let fine = ask(server.address, "GET /fast HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(fine.ends_with("fast"), "{fine}");
    }
}
