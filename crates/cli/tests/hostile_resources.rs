//! Guests that want everything: processes, memory, disk, files, output. They get their share; a neighbour and the
//! host go on, and whoever dies is told why.

mod support;

use std::time::Duration;
use support::{Sandbox, Server, json, until, until_within};

/// A hostile sandbox and a neighbour, on a server of their own.
async fn pair() -> (Server, Sandbox, Sandbox) {
    let server = Server::start().await;
    let hostile = server.sandbox(json!({ "limits": { "cpus": 1.0, "disk_mib": 256, "pids": 64 } })).await;
    let neighbour = server.sandbox(json!({})).await;
    (server, hostile, neighbour)
}

#[tokio::test]
async fn a_fork_bomb_reaches_its_limit_and_can_be_ended() {
    let (server, hostile, neighbour) = pair().await;
    let bomb = hostile.start(json!({ "shell": "bomb() { bomb | bomb & }; bomb; sleep 1000" })).await;
    let full = async || {
        let stats = hostile.get("/stats").await.expect(200).json();
        let pids = stats["pids"].as_u64()?;
        assert!(pids <= 64, "{stats}");
        (pids >= 60).then_some(())
    };
    until("fork bomb at its limit", full).await;
    neighbour.assert_well().await;
    // A new command finds no room, and its end says so.
    let crowded = hostile.sh("true").await;
    assert!(crowded.code() == Some(0) || crowded.detail().contains("limits.pids"), "{}", crowded.brief());
    // The file API is not inside, and works.
    hostile.write("/workspace/file", "x").await.expect(201);
    let _ = bomb.signal("SIGKILL", true).await;
    assert_eq!(bomb.ended().await["reason"], "killed");
    // Orphans that belong to nobody's tree end with the shell.
    hostile.post("/stop", json!({})).await.expect(200);
    hostile.assert_well().await;
    assert_eq!(server.host().agents().len(), 2);
}

#[tokio::test]
async fn a_memory_bomb_dies_of_it_and_says_so() {
    let (server, hostile, neighbour) = pair().await;
    let other = hostile.start(json!({ "shell": "echo up; sleep 1000" })).await;
    other.said("up").await;
    let bomb = "x = []\nwhile True: x.append(bytearray(b'x') * (8 << 20))";
    let done = hostile.python_as("user", bomb).await;
    assert_eq!((done.reason(), done.code()), ("oom", Some(137)), "{}", done.brief());
    assert!(done.detail().contains("limits.memory_mib"), "{}", done.brief());
    // As root inside it is the same, and so it is through the page cache of a tmpfs.
    assert_eq!(hostile.python_as("root", bomb).await.reason(), "oom");
    let shm = hostile.sh("head -c 1G /dev/zero > /dev/shm/fill; echo $?").await;
    assert!(shm.reason() == "oom" || shm.fine() != "0", "{}", shm.brief());
    hostile.root("rm -f /dev/shm/fill").await;
    // Only who took the memory died; the agent and the others live.
    assert_eq!(other.record().await["state"], "running");
    hostile.assert_well().await;
    neighbour.assert_well().await;
    let stats = hostile.get("/stats").await.expect(200).json();
    assert!(stats["oom_kills"].as_u64() >= Some(2), "{stats}");
    assert!(server.resident_bytes() < 300 << 20);
}

#[tokio::test]
async fn a_full_disk_is_the_sandboxes_own() {
    let (_server, hostile, neighbour) = pair().await;
    for user in ["user", "root"] {
        let fill = "for i in 1 2 3; do head -c 400M /dev/zero > /tmp/fill.$i || echo refused; done; sync -f /tmp; ls /tmp";
        let done = hostile.exec(json!({ "shell": fill, "user": user })).await;
        assert!(done.stdout().contains("refused"), "{}", done.brief());
        assert!(
            done.stderr().contains("quota exceeded") || done.stderr().contains("No space left"),
            "{}",
            done.brief()
        );
        let answer = hostile.write("/workspace/more", vec![7_u8; 64 << 20]).await;
        assert_eq!(answer.problem(507, "disk_full")["code"], "disk_full");
        hostile.read("/workspace/more").await.problem(404, "file_not_found");
        assert_eq!(
            neighbour.sh("head -c 100M /dev/zero > /workspace/big && stat -c %s /workspace/big").await.fine(),
            "104857600"
        );
        // It is told, can look and clean up, and goes on.
        assert_eq!(
            hostile.exec(json!({ "shell": "rm -f /tmp/fill.*; echo rid", "user": user })).await.fine(),
            "rid"
        );
        until("room after cleaning up", async || {
            (hostile.sh("echo x > /workspace/small").await.code() == Some(0)).then_some(())
        })
        .await;
    }
    let stats = hostile.get("/stats").await.expect(200).json();
    assert!(stats["disk_bytes"].as_u64().is_some_and(|bytes| bytes <= 257 << 20), "{stats}");
}

#[tokio::test]
async fn a_million_files_stay_within_the_quota() {
    let (server, hostile, neighbour) = pair().await;
    let code = "import os\nn=0\ntry:\n while n < 1000000:\n  os.mkdir(f'/tmp/{n}') if n % 1000 == 0 else None\n  \
                open(f'/tmp/{n//1000*1000}/{n}','w').close(); n+=1\nexcept OSError as e: print(e.errno)\nprint(n)";
    let hostile_run = hostile.exec(json!({ "language": "python", "code": code, "timeout_ms": 20_000 })).await;
    // Either the quota stops it or its time does: metadata is counted like data.
    assert!(matches!(hostile_run.reason(), "timeout" | "exited"), "{}", hostile_run.brief());
    assert_eq!(
        neighbour.sh("mkdir d && for i in $(seq 200); do echo x > d/$i; done; ls d | wc -l").await.fine(),
        "200"
    );
    let stats = hostile.get("/stats").await.expect(200).json();
    assert!(stats["disk_bytes"].as_u64().is_some_and(|bytes| bytes <= 257 << 20), "{stats}");
    hostile.delete().await;
    let host = server.host();
    until("removal of all the files", async || (host.state().subvolumes <= 5).then_some(())).await;
    neighbour.assert_well().await;
}

#[tokio::test]
async fn endless_output_costs_the_server_nothing() {
    const BYTES: u64 = 10_000_000_000;
    let (server, _, neighbour) = pair().await;
    let loud = server.sandbox(json!({ "limits": { "cpus": 2.0 } })).await;
    loud.sh("true").await;
    let before = server.resident_bytes();
    let exec = loud.start(json!({ "shell": format!("yes 0123456789abcdef | head -c {BYTES}") })).await;
    let mut most = before;
    until_within(Duration::from_secs(300), "end of the output", async || {
        most = most.max(server.resident_bytes());
        neighbour.get("").await.expect(200);
        (exec.record().await["state"] == "ended").then_some(())
    })
    .await;
    neighbour.assert_well().await;
    let ended = exec.record().await;
    assert_eq!((&ended["stdout_bytes"], &ended["exit_code"]), (&BYTES.into(), &0.into()));
    assert!(most < before + (48 << 20), "the server grew from {before} to {most} bytes");
    // The last bytes are there: the tail is kept.
    let tail = exec.output(BYTES - 100).await;
    let line = "0123456789abcdef\n";
    let expected: String = line.chars().cycle().skip(((BYTES - 100) % 17) as usize).take(100).collect();
    assert_eq!(tail["stdout"], expected.as_str());
}

#[tokio::test]
async fn a_million_tiny_writes_are_all_counted() {
    let (server, _, neighbour) = pair().await;
    let busy = server.sandbox(json!({ "limits": { "cpus": 2.0 } })).await;
    let code = "import os\nfor i in range(1000000): os.write(1 + (i & 1), b'x')";
    let exec = busy.start(json!({ "language": "python", "code": code })).await;
    neighbour.assert_well().await;
    let ended = exec.ended().await;
    let counts = (&ended["stdout_bytes"], &ended["stderr_bytes"], &ended["exit_code"]);
    assert_eq!(counts, (&500_000.into(), &500_000.into(), &0.into()));
}
