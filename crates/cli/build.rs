//! Builds the two guest programs (launcher and agent) as static executables into OUT_DIR, so that one `cargo run`
//! suffices and the one binary carries everything.

use std::{env, fs, path::PathBuf, process::Command};

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let guest = manifest.parent().expect("crates/").join("guest");
    println!("cargo::rerun-if-changed={}", guest.join("src").display());
    println!("cargo::rerun-if-changed={}", guest.join("Cargo.toml").display());
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    let target = env::var("TARGET").expect("set by cargo");
    let status = Command::new(env::var_os("CARGO").expect("set by cargo"))
        .args([
            "build",
            "--release",
            "--bins",
            "--offline",
            "--quiet",
            "--target",
            &target,
            "--manifest-path",
        ])
        .arg(guest.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(out.join("guest"))
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static -Cpanic=abort")
        .status()
        .expect("cargo can be run");
    assert!(status.success(), "building the guest programs failed");
    for program in ["launcher", "agent"] {
        fs::copy(out.join("guest").join(&target).join("release").join(program), out.join(program))
            .expect("was just built");
    }
}
