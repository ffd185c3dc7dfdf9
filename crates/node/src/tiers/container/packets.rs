//! A SEQPACKET connection on the async runtime: whole frames with descriptors, either way.

use isopod_guest::{frames, socket};
use serde::{Deserialize, Serialize};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Registers a descriptor with the runtime.
///
/// # Errors
/// When it cannot be polled.
pub(super) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` gives the same open descriptor for as long as it lives, and `AsyncFd` owns it.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    registered.map_err(io::Error::from)
}

/// One connection. Sending takes `&self` and may come from many tasks; receiving is for one task.
///
/// It is registered for reading only: for writing too, every frame that the peer takes from its queue would wake the
/// runtime to say that there is room, which nearly nobody waits for.
#[derive(Debug)]
pub(super) struct Packets {
    fd: AsyncFd<OwnedFd>,
}

impl Packets {
    /// Takes over a connected socket. Must be called on the runtime.
    ///
    /// # Errors
    /// When the socket cannot be registered.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { fd: watch(fd, Interest::READABLE)? })
    }

    /// Sends one frame, waiting while the peer's queue is full.
    ///
    /// # Errors
    /// When the frame is too long or the peer is gone.
    pub(super) async fn send<T: Serialize>(&self, frame: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = frames::encode(frame)?;
        loop {
            match socket::send(self.fd.get_ref().as_fd(), &bytes, fds, false) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.room().await?,
                sent => return sent,
            }
        }
    }

    /// Returns when the peer's queue has room, or the peer is gone.
    async fn room(&self) -> io::Result<()> {
        let waiting = watch(self.fd.get_ref().try_clone()?, Interest::WRITABLE)?;
        waiting.writable().await.map(|_| ())
    }

    /// Receives one frame. `Ok(None)` is the end of the connection.
    ///
    /// # Errors
    /// `InvalidData` for anything that is not one whole frame; else the system call's.
    pub(super) async fn receive<T: for<'a> Deserialize<'a>>(
        &self,
        buffer: &mut [u8],
    ) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        loop {
            let mut ready = self.fd.readable().await?;
            match ready.try_io(|fd| socket::receive(fd.get_ref().as_fd(), buffer, false)) {
                Ok(Ok(Some((length, fds)))) => {
                    return frames::decode(&buffer[..length]).map(|frame| Some((frame, fds)));
                }
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isopod_guest::frames::ToAgent;

    #[tokio::test]
    async fn a_full_queue_is_waited_for() {
        let (ours, theirs) = socket::pair().expect("sockets");
        let (ours, theirs) =
            (Packets::new(ours).expect("registers"), Packets::new(theirs).expect("registers"));
        // Far more than a queue takes. On one thread the sender is polled first, and goes on until it must wait.
        const FRAMES: usize = 5000;
        let sending = async {
            for number in 0..FRAMES {
                ours.send(&ToAgent::Acknowledge { exec: number.to_string() }, &[]).await.expect("sends");
            }
        };
        let receiving = async {
            let mut buffer = socket::buffer();
            for number in 0..FRAMES {
                let received = theirs.receive::<ToAgent>(&mut buffer).await.expect("receives");
                match received {
                    Some((ToAgent::Acknowledge { exec }, _)) => assert_eq!(exec, number.to_string()),
                    other => panic!("{other:?}"),
                }
            }
        };
        tokio::join!(sending, receiving);
    }
}
