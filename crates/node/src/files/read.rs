//! Reading a file.

use super::{GuestRoot, path::GuestPath};
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use isopod_model::{Error, Result};
use isopod_node_api::{ByteRange, FileContext, FileRead};
use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

/// Largest piece of a body, in bytes.
const PIECE: u64 = 256 * 1024;

impl GuestRoot {
    /// Opens a regular file for reading. The body ends after exactly `length` bytes; when the guest shortens the
    /// file meanwhile it ends with an error instead. Memory in use does not depend on the file's size.
    ///
    /// # Errors
    /// Those of [`GuestRoot::stat`]; [`Error::WrongFileKind`] for anything but a regular file;
    /// [`Error::RangeNotSatisfiable`].
    pub async fn read(
        &self,
        path: &str,
        context: &FileContext,
        range: Option<ByteRange>,
    ) -> Result<FileRead> {
        let path = GuestPath::parse(path)?;
        self.run(context.user.as_deref(), move |root| {
            let shown = path.shown();
            let file = root.find(&path, true)?.open_regular(root, &shown)?;
            let stat = rustix::fs::fstat(&file).map_err(Error::internal)?;
            let facts = root.facts(shown, &stat, None);
            let (start, length) = within(range, facts.size_bytes)?;
            Ok(FileRead { stat: facts, start, length, body: body(file, start, length) })
        })
        .await
    }
}

/// The first offset and the length of a range of a file of `size` bytes.
fn within(range: Option<ByteRange>, size: u64) -> Result<(u64, u64)> {
    let refused = Err(Error::RangeNotSatisfiable { size_bytes: size });
    match range {
        None => Ok((0, size)),
        Some(ByteRange::From(first, last)) if first >= size || last.is_some_and(|last| last < first) => {
            refused
        }
        Some(ByteRange::From(first, last)) => {
            Ok((first, last.map_or(size, |last| last.saturating_add(1).min(size)) - first))
        }
        Some(ByteRange::Last(count)) if count == 0 || size == 0 => refused,
        Some(ByteRange::Last(count)) => Ok((size - count.min(size), count.min(size))),
    }
}

fn body(file: File, start: u64, length: u64) -> BoxStream<'static, io::Result<Bytes>> {
    let file = Arc::new(file);
    futures::stream::try_unfold((start, length), move |(offset, left)| {
        let file = Arc::clone(&file);
        async move {
            if left == 0 {
                return Ok(None);
            }
            let piece = tokio::task::spawn_blocking(move || piece(&file, offset, left))
                .await
                .map_err(io::Error::other)??;
            let read = piece.len() as u64;
            Ok(Some((piece, (offset + read, left - read))))
        }
    })
    .boxed()
}

fn piece(file: &File, offset: u64, left: u64) -> io::Result<Bytes> {
    let wanted = usize::try_from(left.min(PIECE)).expect("a piece is small");
    let mut piece = vec![0; wanted];
    let mut filled = 0;
    while filled < wanted {
        match file.read_at(&mut piece[filled..], offset + filled as u64) {
            Ok(0) => {
                let reason = "the file became shorter while it was being read";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
            }
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(piece.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_the_standard() {
        let from = |first, last, size| within(Some(ByteRange::From(first, last)), size).ok();
        assert_eq!(within(None, 0).unwrap(), (0, 0));
        assert_eq!(from(0, None, 10), Some((0, 10)));
        assert_eq!(from(2, Some(3), 10), Some((2, 2)));
        assert_eq!(from(2, Some(u64::MAX), 10), Some((2, 8)));
        assert_eq!(from(10, None, 10), None);
        assert_eq!(from(3, Some(2), 10), None);
        assert_eq!(from(0, None, 0), None);
        let last = |count, size| within(Some(ByteRange::Last(count)), size).ok();
        assert_eq!(last(3, 10), Some((7, 3)));
        assert_eq!(last(u64::MAX, 10), Some((0, 10)));
        assert_eq!(last(0, 10), None);
        assert_eq!(last(1, 0), None);
    }
}
