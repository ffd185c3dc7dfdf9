//! A proxy that cuts connections in the middle.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
};

/// Passes connections on to a server; the first ones break after some bytes of the answer.
pub(crate) struct CuttingProxy {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicU64>,
}

impl CuttingProxy {
    /// Cuts the first `cuts` connections after `after` bytes from the server each.
    pub(crate) async fn start(server: SocketAddr, cuts: u64, after: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let connections = Arc::new(AtomicU64::new(0));
        let count = connections.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let cut = count.fetch_add(1, Ordering::Relaxed) < cuts;
                tokio::spawn(pass(client, server, if cut { after } else { u64::MAX }));
            }
        });
        Self { address, connections }
    }

    /// How many connections there were.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn pass(client: TcpStream, server: SocketAddr, budget: u64) {
    let server = TcpStream::connect(server).await.expect("the server is there");
    let (mut from_client, mut to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    let up = async {
        let _ = copy(&mut from_client, &mut to_server).await;
        let _ = to_server.shutdown().await;
        std::future::pending::<()>().await;
    };
    let down = async {
        let _ = copy(&mut from_server.take(budget), &mut to_client).await;
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}
