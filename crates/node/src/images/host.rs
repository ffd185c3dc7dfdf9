//! The template `host`: this machine's `/usr`, read-only, below a skeleton of the rest. Nothing is downloaded.
//!
//! What a sandbox can read of the host is the list in [`HostTemplate::exposed`] and nothing else.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

/// Layers of the template, and what they show of the host.
#[derive(Debug, Clone)]
pub struct HostTemplate {
    /// The lower layer of `/`.
    pub root_layer: PathBuf,
    /// The lower layers of `/usr`, the topmost first.
    pub usr_layers: Vec<PathBuf>,
    /// Paths of the host that a sandbox can read; those copied are marked so.
    pub exposed: Vec<String>,
}

/// Form of the skeleton; raised when what is built here changes.
const VERSION: &str = "1";

/// How the extension of a template begins that the host has changed since.
const OUTDATED: &str = "outdated-";

/// Copied from the host as they are, where they exist.
const COPIED: [&str; 13] = [
    "etc/alternatives",
    "etc/ca-certificates",
    "etc/ca-certificates.conf",
    "etc/debian_version",
    "etc/ld.so.cache",
    "etc/ld.so.conf",
    "etc/ld.so.conf.d",
    "etc/mime.types",
    "etc/os-release",
    "etc/protocols",
    "etc/services",
    "etc/ssl/certs",
    "etc/python3",
];

/// Directories with their modes.
const DIRECTORIES: [(&str, u32); 21] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("etc/ssl", 0o755),
    ("home", 0o755),
    ("home/user", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("srv", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
    ("workspace", 0o755),
];

const FILES: [(&str, &str); 10] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/bash\n\
         daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
         bin:x:2:2:bin:/bin:/usr/sbin/nologin\n\
         sys:x:3:3:sys:/dev:/usr/sbin/nologin\n\
         man:x:6:12:man:/var/cache/man:/usr/sbin/nologin\n\
         mail:x:8:8:mail:/var/mail:/usr/sbin/nologin\n\
         www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n\
         _apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n\
         user:x:1000:1000:user:/home/user:/bin/bash\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    (
        "etc/group",
        "root:x:0:\ndaemon:x:1:\nbin:x:2:\nsys:x:3:\nadm:x:4:\ntty:x:5:\ndisk:x:6:\nman:x:12:\nmail:x:8:\n\
         shadow:x:42:\nutmp:x:43:\nstaff:x:50:\nwww-data:x:33:\nuser:x:1000:\nnogroup:x:65534:\n",
    ),
    ("etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"),
    (
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    ),
    ("etc/resolv.conf", "# No name server: this sandbox has a loopback only.\n"),
    ("etc/timezone", "Etc/UTC\n"),
    ("etc/shells", "/bin/sh\n/bin/bash\n"),
    (
        "etc/profile",
        "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPS1='\\u@\\h:\\w\\$ '\n",
    ),
    ("etc/bash.bashrc", "[ -z \"$PS1\" ] || PS1='\\u@\\h:\\w\\$ '\n"),
    ("etc/fstab", "# Mounts are made from outside.\n"),
];

/// Builds the template below `directory`, unless it is there already and the host has not changed since. One that is
/// out of date is moved aside, not removed: it is still the lower layer of sandboxes that outlived their server. See
/// [`remove_outdated`].
///
/// # Errors
/// When the host has no merged `/usr`, or its disk refuses a file.
pub fn build_skeleton(directory: &Path) -> io::Result<HostTemplate> {
    let fingerprint = fingerprint()?;
    let stamp = directory.join("fingerprint");
    if fs::read_to_string(&stamp).ok().as_deref() != Some(&fingerprint) {
        // Built aside and moved into place, the stamp last: a crash leaves no half template.
        let fresh = directory.with_extension("new");
        remove(&fresh)?;
        fs::create_dir_all(&fresh)?;
        build(&fresh)?;
        fs::write(fresh.join("fingerprint"), &fingerprint)?;
        set_aside(directory)?;
        fs::rename(&fresh, directory)?;
    }
    let mut usr_layers = vec![PathBuf::from("/usr")];
    if directory.join("usr").exists() {
        usr_layers.insert(0, directory.join("usr"));
    }
    let copied = COPIED.iter().filter(|path| Path::new("/").join(path).exists());
    let exposed =
        std::iter::once("/usr".to_owned()).chain(copied.map(|path| format!("/{path} (copied)"))).collect();
    Ok(HostTemplate { root_layer: directory.join("root"), usr_layers, exposed })
}

/// Removes the templates that [`build_skeleton`] moved aside. Only for when no sandbox runs that was started before.
///
/// # Errors
/// When the host's disk refuses.
pub fn remove_outdated(directory: &Path) -> io::Result<()> {
    outdated(directory)?.iter().try_for_each(|aside| remove(aside))
}

fn set_aside(directory: &Path) -> io::Result<()> {
    let taken = outdated(directory)?;
    let mut free = (0..).map(|number| directory.with_extension(format!("{OUTDATED}{number}")));
    let aside = free.find(|path| !taken.contains(path)).expect("numbers do not run out");
    match fs::rename(directory, aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn outdated(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let beside = fs::read_dir(directory.parent().unwrap_or(Path::new("/")))?;
    let paths: io::Result<Vec<PathBuf>> = beside.map(|entry| Ok(entry?.path())).collect();
    let is_outdated = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        path.file_stem() == directory.file_name() && extension.is_some_and(|text| text.starts_with(OUTDATED))
    };
    Ok(paths?.into_iter().filter(is_outdated).collect())
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Changes whenever what is copied does.
fn fingerprint() -> io::Result<String> {
    use std::os::unix::fs::MetadataExt;
    let mut text = format!("version {VERSION}\n");
    for path in COPIED.iter().chain(&["bin", "lib", "usr/bin/python", "usr/local/bin/python"]) {
        if let Ok(facts) = fs::metadata(Path::new("/").join(path)) {
            text += &format!("{path} {} {} {}\n", facts.ino(), facts.size(), facts.mtime());
        }
    }
    Ok(text)
}

fn build(directory: &Path) -> io::Result<()> {
    let root = directory.join("root");
    fs::create_dir(&root)?;
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
    for (path, mode) in DIRECTORIES {
        fs::create_dir(root.join(path))?;
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode))?;
    }
    for (path, text) in FILES {
        fs::write(root.join(path), text)?;
    }
    symlink("/usr/share/zoneinfo/Etc/UTC", root.join("etc/localtime"))?;
    symlink("/proc/self/mounts", root.join("etc/mtab"))?;
    symlink("/run", root.join("var/run"))?;
    for link in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
        match fs::read_link(Path::new("/").join(link)) {
            Ok(target) => symlink(target, root.join(link))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => {
                return Err(io::Error::other(format!("/{link} is not a link into /usr: merge /usr first")));
            }
        }
    }
    for path in COPIED {
        copy(&Path::new("/").join(path), &root.join(path))?;
    }
    // `python` is `python3` in every tier.
    let has = |path: &str| Path::new(path).exists();
    if has("/usr/bin/python3") && !has("/usr/bin/python") && !has("/usr/local/bin/python") {
        fs::create_dir_all(directory.join("usr/bin"))?;
        symlink("python3", directory.join("usr/bin/python"))?;
    }
    Ok(())
}

/// Copies files, directories and links; what is not there, or not readable as such, is left out.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let Ok(facts) = fs::symlink_metadata(from) else { return Ok(()) };
    if facts.is_symlink() {
        symlink(fs::read_link(from)?, to)
    } else if facts.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        Ok(())
    } else if facts.is_file() && facts.permissions().mode() & 0o004 != 0 {
        fs::copy(from, to).map(|_| ())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_skeleton_is_built_once_and_shows_nothing_secret() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = place.path().join("host");
        let template = build_skeleton(&directory).expect("a merged /usr");
        let built = fs::metadata(&template.root_layer).expect("there").modified().expect("a time");
        assert_eq!(fs::read_link(template.root_layer.join("bin")).expect("a link"), Path::new("usr/bin"));
        for secret in ["etc/shadow", "etc/ssh", "etc/ssl/private", "etc/machine-id", "etc/hostname"] {
            assert!(!template.root_layer.join(secret).exists(), "{secret}");
        }
        assert!(template.exposed.contains(&"/usr".to_owned()));
        let again = build_skeleton(&directory).expect("still");
        assert_eq!(fs::metadata(&again.root_layer).expect("there").modified().expect("a time"), built);
    }

    #[test]
    fn a_template_in_use_outlives_its_successor() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = place.path().join("host");
        let layer = build_skeleton(&directory).expect("a merged /usr").root_layer;
        let lower = fs::File::open(&layer).expect("held as a running sandbox holds it");
        for _ in 0..2 {
            fs::write(directory.join("fingerprint"), "older").expect("write");
            assert!(build_skeleton(&directory).expect("rebuilt").root_layer.join("etc/passwd").exists());
        }
        let held = format!("/proc/self/fd/{}/etc/passwd", std::os::fd::AsRawFd::as_raw_fd(&lower));
        assert!(fs::exists(&held).expect("can be looked at"), "the layer is whole");
        assert_eq!(fs::read_dir(place.path()).expect("there").count(), 3);
        remove_outdated(&directory).expect("removed");
        assert_eq!(fs::read_dir(place.path()).expect("there").count(), 1);
        assert!(layer.join("etc/passwd").exists());
    }
}
