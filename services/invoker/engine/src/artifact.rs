//! The compiled engine, kept on disk between starts.

use std::borrow::Cow;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use sha2::{Digest as _, Sha256};
use wasmtime::Module;

use crate::engine::EngineError;

const MAGIC: &[u8; 8] = b"chatfn01";
const DIGEST_BYTES: usize = 32;
/// Write permission of group and others.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The module that `make` gives, compiled, and whether it came from the cache. The same parts make the same module.
pub(crate) fn load_or_compile(
    engine: &wasmtime::Engine,
    name: &str,
    parts: impl Iterator<Item = &'static [u8]>,
    make: impl FnOnce() -> Result<Cow<'static, [u8]>, EngineError>,
    cache_dir: Option<&Path>,
) -> Result<(Module, bool), EngineError> {
    let compile = || Module::new(engine, make()?).map_err(EngineError::Compile);
    let Some(dir) = cache_dir else { return Ok((compile()?, false)) };
    secure(dir)?;
    let path = dir.join(file_name(engine, name, parts));
    if let Some(module) = load(engine, &path) {
        return Ok((module, true));
    }
    let module = compile()?;
    if let Err(error) = store(&module, &path) {
        tracing::warn!(
            path = %path.display(),
            error = &error as &dyn std::error::Error,
            "cannot cache the compiled engine in {}; the next start compiles it again",
            path.display()
        );
    }
    Ok((module, false))
}

/// The same module for another engine of the same configuration, its slots aside.
pub(crate) fn copy_to(engine: &wasmtime::Engine, module: &Module) -> Result<Module, EngineError> {
    let code = module.serialize().map_err(EngineError::Compile)?;
    // SAFETY: Wasmtime itself has just written this.
    #[expect(unsafe_code, reason = "machine code of a module that this process runs already")]
    unsafe { Module::deserialize(engine, &code) }.map_err(EngineError::Compile)
}

/// Names what the module is made of, and everything of Wasmtime that the machine code depends on.
fn file_name(engine: &wasmtime::Engine, name: &str, parts: impl Iterator<Item = &'static [u8]>) -> String {
    let mut compatibility = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut compatibility);
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let digest = hex::encode(&digest.finalize()[..16]);
    format!("{name}-{digest}-{:016x}.bin", compatibility.finish())
}

/// Makes the folder, or checks that nobody else can put code there.
fn secure(dir: &Path) -> Result<(), EngineError> {
    let io = |source| EngineError::CacheDir { path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
    require_safe(dir, &fs::metadata(dir).map_err(io)?)
}

/// Checks that `dir` could be the cache folder of an engine, without making it.
///
/// # Errors
/// [`EngineError::CacheDir`] or [`EngineError::CacheDirUnsafe`].
pub fn check_cache_dir(dir: &Path) -> Result<(), EngineError> {
    let io = |source| EngineError::CacheDir { path: dir.to_owned(), source };
    // It would be made in the first of those above it that is there.
    let mut there = dir;
    let metadata = loop {
        match (fs::metadata(there), there.parent()) {
            (Err(error), Some(above)) if error.kind() == io::ErrorKind::NotFound => {
                there = if above.as_os_str().is_empty() { Path::new(".") } else { above };
            }
            (metadata, _) => break metadata.map_err(io)?,
        }
    };
    if !metadata.is_dir() {
        return Err(io(io::ErrorKind::NotADirectory.into()));
    }
    if there == dir {
        return require_safe(dir, &metadata);
    }
    access(there, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|error| io(error.into()))
}

fn require_safe(dir: &Path, metadata: &fs::Metadata) -> Result<(), EngineError> {
    let refuse = |why| EngineError::CacheDirUnsafe { path: dir.to_owned(), why };
    if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(refuse("group or others may write to it"));
    }
    if !owned_by_us(metadata) {
        return Err(refuse("it belongs to another user"));
    }
    Ok(())
}

fn owned_by_us(metadata: &fs::Metadata) -> bool {
    metadata.uid() == nix::unistd::geteuid().as_raw()
}

/// The cached module, or `None` if there is none that can be used.
fn load(engine: &wasmtime::Engine, path: &Path) -> Option<Module> {
    let code = read(path).ok()??;
    // SAFETY: machine code is only as trustworthy as who wrote it. The file and its folder belong to our
    // own user, and nobody else may write to them (`secure`, `read`); the digest shows that it is whole; and
    // Wasmtime itself rejects what another version or another configuration of it has made.
    #[expect(unsafe_code, reason = "the one place where compiled code is read from disk")]
    let module = unsafe { Module::deserialize(engine, &code) };
    module
        .inspect_err(|error| tracing::debug!(%error, "the cached engine is of no use and is made again"))
        .ok()
}

/// What follows the digest, if the file is ours and whole.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.mode() & WRITABLE_BY_OTHERS != 0 || !owned_by_us(&metadata) {
        return Ok(None);
    }
    let mut head = [0; MAGIC.len() + DIGEST_BYTES];
    file.read_exact(&mut head)?;
    let mut code = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    file.read_to_end(&mut code)?;
    let (magic, digest) = head.split_at(MAGIC.len());
    Ok((magic == MAGIC && Sha256::digest(&code)[..] == *digest).then_some(code))
}

/// Writes a new file and renames it, so that nobody ever reads half of one.
fn store(module: &Module, path: &Path) -> io::Result<()> {
    let code = module.serialize().map_err(io::Error::other)?;
    let mut unfinished = PathBuf::from(path);
    unfinished.set_extension(format!("{}.tmp", std::process::id()));
    let written = write(&unfinished, &code).and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        // What is left does no harm: it has a name that nobody reads.
        let _ = fs::remove_file(&unfinished);
    }
    written
}

fn write(path: &Path, code: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(MAGIC)?;
    file.write_all(&Sha256::digest(code))?;
    file.write_all(code)?;
    file.sync_all()
}
