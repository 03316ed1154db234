//! Compiles every `.proto` below this folder with protox, so that no protoc is needed.
//!
//! Without the `grpc` feature only messages are generated: the shim links no HTTP/2.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Packages whose services are spoken over ttrpc: their messages are generated, gRPC stubs are not.
const TTRPC_ONLY: [&str; 4] =
    ["containerd.task.v2", "containerd.task.v3", "containerd.services.events.ttrpc.v1", "longshore.shim.v1"];

fn protos(dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            protos(&path, found)?;
        } else if path.extension().is_some_and(|ext| ext == "proto") {
            found.push(path);
        }
    }
    Ok(())
}

/// Paths of the methods whose request is one message, sorted.
fn unary(descriptors: &prost_types::FileDescriptorSet) -> Vec<String> {
    let mut paths = Vec::new();
    for file in &descriptors.file {
        for service in &file.service {
            let methods = service.method.iter().filter(|method| !method.client_streaming());
            paths.extend(
                methods.map(|method| format!("/{}.{}/{}", file.package(), service.name(), method.name())),
            );
        }
    }
    paths.sort();
    paths
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files = Vec::new();
    for root in ["containerd", "cri", "google", "grpc", "longshore"] {
        if Path::new(root).is_dir() {
            println!("cargo::rerun-if-changed={root}");
            protos(Path::new(root), &mut files)?;
        }
    }
    files.sort();
    let mut descriptors = protox::compile(&files, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    fs::write(out.join("unary.rs"), format!("{:?}", unary(&descriptors)))?;
    for file in &mut descriptors.file {
        if TTRPC_ONLY.contains(&file.package()) {
            file.service.clear();
        }
    }
    if env::var_os("CARGO_FEATURE_GRPC").is_some() {
        tonic_prost_build::configure().include_file("all.rs").compile_fds(descriptors)?;
    } else {
        prost_build::Config::new().include_file("all.rs").compile_fds(descriptors)?;
    }
    Ok(())
}
