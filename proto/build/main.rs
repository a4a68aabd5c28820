//! Compiles the contract: types and services (tonic, prost), validators from the protovalidate
//! annotations, which accounts a request names, and the descriptor set that reflection serves. Needs no `protoc`.

mod names;
mod packages;
mod validators;

use std::{env, fs, path::PathBuf};

use anyhow::Context;
use prost_reflect::{DescriptorPool, FieldDescriptor, Value};

fn main() -> anyhow::Result<()> {
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=chatfn");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let includes = packages::proto_includes(&out)?;

    let mut compiler = protox::Compiler::new([PathBuf::from(".")].iter().chain(&includes))?;
    compiler.include_imports(true).include_source_info(true);
    for file in contract_files("chatfn".into())? {
        compiler.open_file(&file).with_context(|| format!("compiling {}", file.display()))?;
    }

    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    fs::write(out.join("validators.rs"), validators::generate(&compiler.descriptor_pool())?)?;
    fs::write(out.join("names.rs"), names::generate(&compiler.descriptor_pool())?)?;

    // Without `connect`: clients are made from the one in chatfn-rpc.
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".chatfn")
        // Sorted, so that equal messages have equal bytes: the registry recognises repeated requests by them.
        .btree_map(".chatfn")
        .skip_debug(redacted(&compiler.descriptor_pool()))
        .extern_path(".google.rpc.Status", "::tonic_types::Status")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

/// The messages with a field that the contract marks `debug_redact`; `src/redacted.rs` says what their `Debug` shows.
fn redacted(pool: &DescriptorPool) -> Vec<String> {
    let is_marked = |field: FieldDescriptor| {
        field.options().get_field_by_name("debug_redact").is_some_and(|value| *value == Value::Bool(true))
    };
    let marked = pool.all_messages().filter(|message| message.fields().any(is_marked));
    marked.map(|message| format!(".{}", message.full_name())).collect()
}

fn contract_files(folder: PathBuf) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(contract_files(path)?);
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
