//! What `deploy/` says fits what the programs are: settings, ports, probes, shutdowns, names and the image.
//!
//! The overlays are rendered as they are applied, by `kubectl`; `make test` installs it.

mod image;
mod manifests;
mod network;
mod programs;
mod settings;
