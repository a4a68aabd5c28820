//! Takes the module that erases the types of TypeScript out of its npm package.

use std::fs;
use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// The WebAssembly module inside of `@swc/wasm-typescript`, which comes as one text in the package's only script.
pub(crate) fn module(guest: &Path) -> Vec<u8> {
    let script = guest.join("node_modules/@swc/wasm-typescript/wasm.js");
    let Ok(script) = fs::read_to_string(script) else {
        crate::bundle::give_up("the package @swc/wasm-typescript is not installed");
    };
    let text = script.split_once("Buffer.from('").and_then(|(_, rest)| rest.split_once('\''));
    let (text, _) = text.expect("a release of @swc/wasm-typescript that keeps its module where it was");
    STANDARD.decode(text).expect("a module in base64")
}
