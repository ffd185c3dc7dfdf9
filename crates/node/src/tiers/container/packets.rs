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
        Ok(Self { fd: watch(fd, Interest::READABLE | Interest::WRITABLE)? })
    }

    /// Sends one frame, waiting while the peer's queue is full.
    ///
    /// # Errors
    /// When the frame is too long or the peer is gone.
    pub(super) async fn send<T: Serialize>(&self, frame: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = frames::encode(frame)?;
        loop {
            match socket::send(self.fd.get_ref().as_fd(), &bytes, fds, false) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut ready = self.fd.writable().await?;
                    match ready.try_io(|fd| socket::send(fd.get_ref().as_fd(), &bytes, fds, false)) {
                        Ok(sent) => return sent,
                        Err(_would_block) => {}
                    }
                }
                sent => return sent,
            }
        }
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
