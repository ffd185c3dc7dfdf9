//! Guests that lay traps for the file API: links and directories are swapped while it reads and writes. Nothing of
//! the host is ever read or written, and nothing hangs.

mod support;

use std::{fs, path::PathBuf};
use support::{Sandbox, Server, json};

const SECRET: &str = "the host's own secret";

/// A directory of the host with a secret, readable by everybody.
struct Outside(tempfile::TempDir);

impl Outside {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let place = support::scratch();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).expect("ours");
        fs::write(place.path().join("file"), SECRET).expect("ours");
        Self(place)
    }

    fn path(&self) -> String {
        self.0.path().to_string_lossy().into_owned()
    }

    /// Checks that nothing was added or changed.
    fn assert_untouched(&self) {
        let names: Vec<PathBuf> = fs::read_dir(self.0.path())
            .expect("there")
            .map(|entry| entry.expect("readable").path())
            .collect();
        assert_eq!(names, [self.0.path().join("file")]);
        assert_eq!(fs::read_to_string(&names[0]).expect("there"), SECRET);
    }
}

async fn sandbox() -> (Server, Sandbox) {
    let server = Server::start().await;
    let sandbox = server.sandbox(json!({ "limits": { "cpus": 1.0 } })).await;
    (server, sandbox)
}

#[tokio::test]
async fn links_lead_nowhere_outside() {
    let (_server, sandbox) = sandbox().await;
    let outside = Outside::new();
    let up = "../".repeat(40);
    let targets = [
        outside.path(),
        format!("{up}{}", outside.path().trim_start_matches('/')),
        format!("/proc/self/root{}", outside.path()),
        format!("/proc/1/root{}", outside.path()),
        format!("/proc/1/cwd/{up}{}", outside.path().trim_start_matches('/')),
        "/proc/self/fd/3".to_owned(),
        "/dev/fd/3".to_owned(),
    ];
    for (number, target) in targets.iter().enumerate() {
        sandbox.root(&format!("ln -sfn '{target}' /workspace/l{number}")).await.fine();
        let answer = sandbox.read(&format!("/workspace/l{number}/file?user=root")).await;
        assert!(matches!(answer.status, 403 | 404 | 409), "{target}: {}", answer.text());
        let answer = sandbox.get(&format!("/ls/workspace/l{number}?user=root")).await;
        assert!(matches!(answer.status, 403 | 404 | 409), "{target}: {}", answer.text());
        // Written through the link, it lands inside or is refused.
        let answer = sandbox.write(&format!("/workspace/l{number}/written?user=root"), "x").await;
        assert!(matches!(answer.status, 201 | 403 | 404 | 409), "{target}: {}", answer.text());
        let delete =
            sandbox.client.delete(&sandbox.path(&format!("/files/workspace/l{number}/file?user=root"))).await;
        assert!(matches!(delete.status, 403 | 404 | 409), "{target}: {}", delete.text());
        outside.assert_untouched();
    }
    // A link inside that leads to the sandbox's own files is followed like any other.
    sandbox.sh("echo own > /workspace/own && ln -s ../../../../workspace/own /workspace/to-own").await.fine();
    assert_eq!(sandbox.read("/workspace/to-own").await.expect(200).text(), "own\n");
    let shadow = sandbox.read("/etc/shadow?user=root").await;
    shadow.problem(404, "file_not_found");
    let machine = fs::read_to_string("/etc/machine-id").unwrap_or_else(|_| "none".into());
    assert!(!sandbox.read("/etc/machine-id?user=root").await.text().contains(machine.trim()));
}

#[tokio::test]
async fn swapping_links_under_the_api_gains_nothing() {
    let (_server, sandbox) = sandbox().await;
    let outside = Outside::new();
    let swap = format!(
        "import os,itertools\nos.chdir('/workspace')\nos.makedirs('real', exist_ok=True)\nopen('real/file','w').write('inside')\n\
         os.symlink('{0}','evil'); os.symlink('{1}{0}','evil2')\nos.symlink('real','x')\nprint('ready', flush=True)\n\
         while True:\n for target in ('real','{0}','{1}{0}','/proc/self/root{0}'):\n  os.symlink(target,'t'); os.rename('t','x')\n \
         os.rename('real','y/real') if os.path.isdir('y') else None\n os.makedirs('y', exist_ok=True)\n \
         os.path.isdir('y/real') and os.rename('y/real','real')\n",
        outside.path(),
        "../".repeat(30),
    );
    let swapping = sandbox.start(json!({ "language": "python", "code": swap, "user": "root" })).await;
    swapping.said("ready").await;
    let (mut inside, mut written) = (0, 0);
    let rounds = async |number: u32| {
        let read = sandbox.read("/workspace/x/file?user=root").await;
        assert!(!read.text().contains(SECRET), "the secret came out");
        assert!(matches!(read.status, 200 | 403 | 404 | 409 | 503), "{}", read.text());
        let write = sandbox.write(&format!("/workspace/x/written-{number}?user=root"), "x").await;
        assert!(matches!(write.status, 201 | 204 | 403 | 404 | 409 | 503), "{}", write.text());
        let make = json!({ "path": format!("/workspace/x/made-{number}"), "user": "root" });
        let make = sandbox.post("/mkdir", make).await;
        assert!(make.status < 500 || make.status == 503, "{}", make.text());
        let from = json!({ "from": "/workspace/x/file", "to": format!("/workspace/x/moved-{number}"), "user": "root" });
        let moved = sandbox.post("/move", from).await;
        assert!(moved.status < 500 || moved.status == 503, "{}", moved.text());
        let list = sandbox.get("/ls/workspace/x?recursive=true&user=root").await;
        assert!(!list.text().contains(&outside.path()), "{}", list.text());
        (u32::from(read.status == 200), u32::from(write.status < 300))
    };
    for number in 0..300 {
        let (reads, writes) = rounds(number).await;
        inside += reads;
        written += writes;
    }
    // It was a race and not a row of refusals.
    assert!(written > 0, "{inside} reads and {written} writes of 300 came through");
    outside.assert_untouched();
    assert_eq!(swapping.record().await["state"], "running");
    sandbox.assert_well().await;
}

#[tokio::test]
async fn pipes_sockets_and_devices_do_not_hang_the_api() {
    let (_server, sandbox) = sandbox().await;
    let make = "import os,socket\nos.chdir('/workspace')\nos.mkfifo('pipe')\ns=socket.socket(socket.AF_UNIX); s.bind('socket')\nos.symlink('pipe','link')";
    sandbox.python_as("user", make).await.fine();
    for name in ["pipe", "socket", "link"] {
        let path = format!("/workspace/{name}");
        sandbox.read(&path).await.problem(409, "wrong_file_kind");
        sandbox.write(&path, "x").await.problem(409, "wrong_file_kind");
    }
    assert_eq!(sandbox.get("/stat/workspace/pipe").await.expect(200).json()["kind"], "other");
    let listed = sandbox.get("/ls/workspace").await.expect(200).json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(3), "{listed}");
    // A file that becomes a pipe at any moment.
    let swap = "import os\nos.chdir('/workspace')\nprint('ready', flush=True)\nwhile True:\n open('t','w').close(); os.rename('t','f'); os.mkfifo('t'); os.rename('t','f')";
    let swapping = sandbox.start(json!({ "language": "python", "code": swap })).await;
    swapping.said("ready").await;
    for _ in 0..200 {
        let answer = sandbox.read("/workspace/f").await;
        assert!(matches!(answer.status, 200 | 404 | 409), "{}", answer.text());
        let answer = sandbox.write("/workspace/f", "x").await;
        assert!(matches!(answer.status, 201 | 204 | 404 | 409), "{}", answer.text());
    }
}

#[tokio::test]
async fn what_the_api_writes_belongs_to_whom_it_says() {
    let (server, sandbox) = sandbox().await;
    sandbox.write("/workspace/deep/er/file", "x").await.expect(201);
    sandbox.write("/workspace/tool?mode=0755&user=root", "#!/bin/sh\necho ran\n").await.expect(201);
    let facts = "stat -c '%n %u:%g %a' deep deep/er deep/er/file tool; ./tool";
    assert_eq!(
        sandbox.sh(facts).await.fine(),
        "deep 1000:1000 755\ndeep/er 1000:1000 755\ndeep/er/file 1000:1000 644\ntool 0:0 755\nran"
    );
    // Overwriting keeps owner and mode, whoever does it.
    sandbox.write("/workspace/tool?user=root", "#!/bin/sh\necho again\n").await.expect(204);
    assert_eq!(sandbox.sh("stat -c '%u %a' tool; ./tool").await.fine(), "0 755\nagain");
    sandbox.write("/root/mine", "x").await.problem(403, "permission_denied");
    // What is mounted over cannot be reached from outside: nothing is written that nobody could see.
    for path in ["/proc/x", "/dev/x", "/dev/shm/x", "/run/x", "/sys/x"] {
        let answer = sandbox.write(&format!("{path}?user=root"), "x").await;
        answer.problem(403, "path_refused");
    }
    // 64 MiB stream in and out without the server growing.
    let before = server.resident_bytes();
    let big: Vec<u8> = (0..64_u32 << 20).map(|number| (number % 251) as u8).collect();
    sandbox.write("/workspace/big", big.clone()).await.expect(201);
    assert!(sandbox.read("/workspace/big").await.expect(200).body == big);
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "the server grew by {grown} bytes");
}
