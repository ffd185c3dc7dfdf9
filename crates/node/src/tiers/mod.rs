//! The shells a sandbox can live in. Today one: the container. `wasm` and `microvm` say that they are not built.

pub mod container;
