//! The sandbox: QuickJS-NG compiled to WebAssembly, run by Wasmtime.
