//! Many connections kept busy by one thread, so that the load itself needs little of the machine.

use crate::{Outcome, http};
use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

struct Busy {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    sent: Instant,
}

impl Busy {
    fn send(&mut self, request: &[u8]) -> Outcome<()> {
        self.filled = 0;
        self.sent = Instant::now();
        // A request is far shorter than a socket's buffer, which is empty here.
        Ok(self.stream.write_all(request)?)
    }

    /// Reads what is there; the time of the answer when it is whole.
    fn read(&mut self) -> Outcome<Option<Duration>> {
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => {
                let before = String::from_utf8_lossy(&self.buffer[..self.filled]);
                return Err(format!(
                    "{:?} closed a connection, having said {before:?}",
                    self.stream.peer_addr()
                )
                .into());
            }
            Ok(bytes) => self.filled += bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        Ok(http::end(&self.buffer[..self.filled])?.map(|_| self.sent.elapsed()))
    }
}

/// Sends a request on each connection as soon as the one before is answered, for `length`; the times of all answers.
pub(crate) fn keep_busy(
    address: SocketAddr,
    connections: usize,
    length: Duration,
    request: &[u8],
) -> Outcome<Vec<Duration>> {
    let mut all = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        all.push(Busy { stream, buffer: vec![0; 16 * 1024], filled: 0, sent: Instant::now() });
    }
    let mut polls: Vec<libc::pollfd> = all
        .iter()
        .map(|busy| libc::pollfd { fd: busy.stream.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    let mut times = Vec::new();
    let begun = Instant::now();
    for busy in &mut all {
        busy.send(request)?;
    }
    let mut open = connections;
    while open > 0 {
        // SAFETY: `polls` holds initialised pollfds.
        if unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, 60_000) } <= 0 {
            return Err("the server does not answer".into());
        }
        for (poll, busy) in polls.iter_mut().zip(&mut all).filter(|(poll, _)| poll.revents != 0) {
            let Some(time) = busy.read()? else { continue };
            times.push(time);
            if begun.elapsed() < length {
                busy.send(request)?;
            } else {
                poll.fd = -1;
                open -= 1;
            }
        }
    }
    Ok(times)
}
