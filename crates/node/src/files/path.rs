//! Paths as callers write them.

use isopod_model::{Error, Result};

/// Longest path that the kernel takes, in bytes.
const LONGEST: usize = 4095;

/// A path below the sandbox's root: its parts without empty ones and `.`, with `..` kept for the kernel to resolve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GuestPath {
    parts: Vec<String>,
    names_directory: bool,
}

impl GuestPath {
    /// Reads a path; a relative one lies below `/`.
    pub(super) fn parse(path: &str) -> Result<Self> {
        if path.contains('\0') {
            return Err(Error::invalid("path", "must not hold a NUL byte"));
        }
        if path.len() > LONGEST {
            return Err(Error::invalid("path", format!("is longer than {LONGEST} bytes")));
        }
        let parts =
            path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned).collect();
        Ok(Self { parts, names_directory: path.ends_with('/') || path.ends_with("/.") })
    }

    /// The root itself.
    pub(super) fn root() -> Self {
        Self { parts: Vec::new(), names_directory: true }
    }

    /// The path for `openat2` relative to the root.
    pub(super) fn relative(&self) -> String {
        if self.parts.is_empty() { ".".to_owned() } else { self.parts.join("/") }
    }

    /// The path as answers and errors show it.
    pub(super) fn shown(&self) -> String {
        format!("/{}", self.parts.join("/"))
    }

    /// The last part; `/` for the root.
    pub(super) fn name(&self) -> &str {
        self.parts.last().map_or("/", String::as_str)
    }

    /// Whether it was written with a slash at the end.
    pub(super) fn names_directory(&self) -> bool {
        self.names_directory
    }

    /// The directory and the name in it.
    pub(super) fn split(&self) -> Result<(Self, &str)> {
        match self.parts.split_last() {
            Some((name, parents)) if name != ".." => {
                Ok((Self { parts: parents.to_vec(), names_directory: true }, name))
            }
            _ => Err(Error::invalid("path", format!("{} does not end in a name", self.shown()))),
        }
    }

    /// Every prefix of it, the shortest first, itself last.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = Self> {
        (1..=self.parts.len())
            .map(|length| Self { parts: self.parts[..length].to_vec(), names_directory: true })
    }

    /// Where a symbolic link in this directory points.
    pub(super) fn link_target(&self, target: &str) -> Result<Self> {
        let mut path = Self::parse(target)?;
        if !target.starts_with('/') {
            path.parts.splice(0..0, self.parts.iter().cloned());
        }
        if path.relative().len() > LONGEST {
            return Err(Error::invalid("path", "leads through links to a path that is too long"));
        }
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lie_below_the_root() {
        for (written, shown, relative) in [
            ("", "/", "."),
            ("/", "/", "."),
            ("a", "/a", "a"),
            ("//a//./b/", "/a/b", "a/b"),
            ("/../a", "/../a", "../a"),
        ] {
            let path = GuestPath::parse(written).unwrap();
            assert_eq!((path.shown().as_str(), path.relative().as_str()), (shown, relative), "{written}");
        }
        assert!(matches!(GuestPath::parse("a\0b"), Err(Error::Invalid { .. })));
        assert!(matches!(GuestPath::parse(&"a/".repeat(3000)), Err(Error::Invalid { .. })));
    }

    #[test]
    fn only_names_can_be_split_off() {
        let path = GuestPath::parse("/a/b/c").unwrap();
        let (parent, name) = path.split().unwrap();
        assert_eq!((parent.shown().as_str(), name), ("/a/b", "c"));
        for nameless in ["/", "", "..", "/a/..", "."] {
            assert!(GuestPath::parse(nameless).unwrap().split().is_err(), "{nameless}");
        }
    }

    #[test]
    fn link_targets_are_absolute_or_beside_the_link() {
        let directory = GuestPath::parse("/a/b").unwrap();
        assert_eq!(directory.link_target("../c").unwrap().relative(), "a/b/../c");
        assert_eq!(directory.link_target("/c").unwrap().relative(), "c");
    }
}
