//! SOCK_SEQPACKET messages with file descriptors.

use crate::frames::{MAX_FDS, MAX_FRAME};
use std::{
    io,
    mem::{size_of, zeroed},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

const CONTROL: usize = 24 + MAX_FDS * size_of::<RawFd>();

#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// A pair of connected, close-on-exec SEQPACKET sockets.
///
/// # Errors
/// The system call's.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` is an array of two ints, as socketpair(2) fills.
    let result = unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr())
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: socketpair succeeded, so both are open descriptors that nobody else owns.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Sends one message with descriptors.
///
/// # Errors
/// The system call's; `WouldBlock` when `blocking` is false and the peer's queue is full.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>], blocking: bool) -> io::Result<()> {
    if fds.len() > MAX_FDS {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut io_vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = Control([0; CONTROL]);
    // SAFETY: an all-zero msghdr is a valid empty one.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut io_vector;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        let payload = u32::try_from(size_of_val(fds) / size_of::<BorrowedFd<'_>>() * size_of::<RawFd>())
            .expect("at most 128");
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE only computes a size.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(payload) } as usize;
        // SAFETY: msg_control points to CONTROL bytes, enough for one header and MAX_FDS descriptors.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(payload) as usize;
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            for (index, fd) in fds.iter().enumerate() {
                ptr::write_unaligned(data.add(index), fd.as_raw_fd());
            }
        }
    }
    let flags = libc::MSG_NOSIGNAL | if blocking { 0 } else { libc::MSG_DONTWAIT };
    loop {
        // SAFETY: `message` points to `io_vector` and `control`, which outlive the call.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Receives one message into `buffer` (at least [`MAX_FRAME`] bytes) and takes the descriptors that came with it.
/// `Ok(None)` is the end of the connection.
///
/// # Errors
/// The system call's; `InvalidData` for a message or descriptors that were cut off (the descriptors that did come
/// are closed).
pub fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    blocking: bool,
) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut io_vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = Control([0; CONTROL]);
    // SAFETY: an all-zero msghdr is a valid empty one.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut io_vector;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL;
    let flags = libc::MSG_CMSG_CLOEXEC | if blocking { 0 } else { libc::MSG_DONTWAIT };
    let length = loop {
        // SAFETY: `message` points to `io_vector` and `control`, which outlive the call.
        let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
        if length >= 0 {
            break length.cast_unsigned();
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    };
    let mut fds = Vec::new();
    // SAFETY: recvmsg filled msg_control and msg_controllen; the CMSG macros stay within them, and each descriptor in
    // an SCM_RIGHTS message is open and ours.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                for index in 0..bytes / size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(ptr::read_unaligned(data.add(index))));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the message was cut off"));
    }
    if length == 0 && fds.is_empty() {
        return Ok(None);
    }
    Ok(Some((length, fds)))
}

/// A buffer that [`receive`] can use.
pub fn buffer() -> Vec<u8> {
    vec![0; MAX_FRAME]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn messages_carry_descriptors_and_oversized_ones_are_refused() {
        let (left, right) = pair().expect("socketpair");
        send(left.as_fd(), b"hi", &[left.as_fd(), right.as_fd()], true).expect("send");
        let mut space = buffer();
        let (length, fds) = receive(right.as_fd(), &mut space, false).expect("receive").expect("a message");
        assert_eq!((&space[..length], fds.len()), (&b"hi"[..], 2));
        send(left.as_fd(), &vec![7; 4096], &[left.as_fd()], true).expect("send");
        let mut small = [0; 16];
        assert_eq!(
            receive(right.as_fd(), &mut small, false).expect_err("cut").kind(),
            io::ErrorKind::InvalidData
        );
        drop((left, fds));
        assert!(receive(right.as_fd(), &mut space, false).expect("end").is_none());
    }
}
