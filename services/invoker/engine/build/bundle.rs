//! Bundles the built-in modules and the npm packages behind them into one script.

use std::path::Path;
use std::process::{Command, exit};

/// Bundles a file of the guest: a script that sets a property of `chatfn` to what the file exports. The same
/// inputs give the same bytes.
///
/// Needs the folder `node_modules` as the lock file says, and ends the build with one message without it.
pub(crate) fn bundle(guest: &Path, entry: &str, global: &str) -> String {
    if !guest.join("node_modules/esbuild").exists() {
        give_up("the npm packages of the sandbox are not installed");
    }
    match Command::new("node").current_dir(guest).args(["bundle.mjs", entry, global]).output() {
        Ok(output) if output.status.success() => {
            String::from_utf8(output.stdout).expect("esbuild writes UTF-8")
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            give_up(&format!("cannot bundle the modules of the sandbox:\n{}\n", said.trim()))
        }
        Err(error) => give_up(&format!("node does not start ({error})")),
    }
}

pub(crate) fn give_up(problem: &str) -> ! {
    eprintln!(
        "chatfn-engine: {problem}.\n\
         `make setup` installs Node if it is missing, and the packages that \
         services/invoker/guest/package-lock.json names."
    );
    exit(1);
}
