//! Bundles the built-in modules and the npm packages behind them into one script.

use std::path::Path;
use std::process::{Command, exit};

/// What packages ask for by name, and get from us.
const ALIASES: [(&str, &str); 6] = [
    ("buffer", "./modules/buffer.js"),
    ("crypto", "./modules/crypto/index.js"),
    ("qs", "./modules/qs.js"),
    ("querystring", "./modules/querystring.js"),
    ("stream", "./modules/stream.js"),
    ("util", "./modules/util"),
];

/// The bundle of `modules/index.js`: a script that sets `chatfn.modules`. The same inputs give the same bytes.
///
/// Needs the folder `node_modules` as the lock file says, and ends the build with one message without it.
pub(crate) fn modules(guest: &Path) -> String {
    let esbuild = guest.join("node_modules/.bin/esbuild");
    if !esbuild.exists() {
        give_up("the npm packages of the sandbox are not installed");
    }
    let mut command = Command::new(esbuild);
    command
        .current_dir(guest)
        .arg("modules/index.js")
        .args(["--bundle", "--format=iife", "--global-name=chatfn.modules", "--target=es2023"])
        // Not Node, not a browser: packages get what they name, in their ES form where they have one.
        .args(["--platform=neutral", "--main-fields=module,main", "--define:global=globalThis"])
        // The line numbers of packages help nobody, and names of functions and classes must stay.
        .args(["--minify-whitespace", "--minify-syntax", "--legal-comments=none"])
        .args(["--log-level=warning", "--log-override:direct-eval=silent"])
        .args(ALIASES.map(|(name, path)| format!("--alias:{name}={path}")));
    match command.output() {
        Ok(output) if output.status.success() => {
            String::from_utf8(output.stdout).expect("esbuild writes UTF-8")
        }
        Ok(output) => {
            eprintln!(
                "chatfn-engine: cannot bundle the modules of the sandbox:\n{}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
            exit(1);
        }
        Err(error) => give_up(&format!("esbuild does not start ({error})")),
    }
}

fn give_up(problem: &str) -> ! {
    eprintln!(
        "chatfn-engine: {problem}.\n\
         Run `make setup`, which installs Node if it is missing and then the packages that \
         services/invoker/guest/package-lock.json names."
    );
    exit(1);
}
