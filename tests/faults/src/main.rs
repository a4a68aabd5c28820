//! `chatfn-faults`: see the crate's front page.

use std::{
    env, fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use chatfn_faults::{
    checker::{Verdict, check},
    history::now,
    mutants::MUTANTS,
    places::{NAMESPACE, Places},
    plan::{Run, Scale},
    report::Report,
    witness,
};
use clap::{Parser, Subcommand, builder::FalseyValueParser};
use tokio::signal::unix::{SignalKind, signal};

/// Hurts a cluster of real processes and checks what it promises. The last line is JSON
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,

    /// Go on with further rounds of all faults until so many seconds have passed; each is finished once it has begun
    #[arg(long, env = "FAULTS_SECONDS", default_value_t = 0)]
    seconds: u64,

    /// Seed of what is chosen by chance; by default another one each time
    #[arg(long, env = "FAULTS_SEED")]
    seed: Option<u64>,

    /// Leave the mistakes out that the checker is proven by
    #[arg(long)]
    without_mutants: bool,

    /// Fail if a fault is left out, whatever the machine lacks for it
    #[arg(long, env = "FAULTS_STRICT", value_parser = FalseyValueParser::new())]
    strict: bool,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// The process that lambdas call; a part of the program that starts it by itself
    #[command(hide = true)]
    Witness {
        /// Where to write down what it sees
        #[arg(long)]
        ledger: PathBuf,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    if let Some(Part::Witness { ledger }) = cli.part {
        let never = runtime()?.block_on(witness::serve(&ledger))?;
        match never {}
    }
    if env::var_os(NAMESPACE).is_none() {
        enter_namespace()?;
    }
    let parent = env::temp_dir().join(format!("chatfn-faults-{}", std::process::id()));
    fs::create_dir_all(&parent)?;
    let report = runtime()?.block_on(async {
        tokio::select! {
            report = faults(&cli, &parent) => report,
            () = interrupted() => anyhow::bail!("interrupted"),
        }
    });
    match &report {
        Ok(report) if report.passed => {
            fs::remove_dir_all(&parent)?;
        }
        _ => println!("ledger, clients' history and logs are in {}", parent.display()),
    }
    let report = report?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Runtime::new()
}

/// Starts this program anew in a mount namespace of its own, if it may: a disk that is full must be nobody else's, and goes with
/// the processes, whatever ends them.
fn enter_namespace() -> std::io::Result<()> {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--"]);
        command
    };
    // Containers often have a root that may not.
    if nix::unistd::Uid::effective().is_root()
        && unshare().arg("true").output().is_ok_and(|output| output.status.success())
    {
        let mut again = unshare();
        again.arg(env::current_exe()?).args(env::args_os().skip(1)).env(NAMESPACE, "1");
        return Err(again.exec());
    }
    Ok(())
}

/// SIGINT or SIGTERM: nothing that was started is left behind.
async fn interrupted() {
    let Ok(mut terminated) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
}

async fn faults(cli: &Cli, parent: &Path) -> anyhow::Result<Report> {
    let start = Instant::now();
    let program = env::current_exe()?;
    let seed = cli.seed.unwrap_or_else(now);
    let mut report = Report { seed, ..Report::default() };
    println!("seed {seed}");

    let mut caught = 0;
    let mutants: &[_] = if cli.without_mutants { &[] } else { &MUTANTS };
    for mutant in mutants {
        let verdict = mutant.run(&program, parent, seed).await?;
        let is_caught = mutant.is_caught(&verdict);
        let (count, breaks) = (verdict.count(mutant.breaks), mutant.breaks);
        let found = if is_caught { "found" } else { "NOT FOUND" };
        println!("[{:>4} s] mutant {}: {found} ({breaks}: {count})", start.elapsed().as_secs(), mutant.name);
        caught += usize::from(is_caught);
    }
    (report.mutants, report.mutants_caught) = (mutants.len(), caught);

    let places = Places::new(&program, parent, None)?;
    let mut run = Run::start(&places, seed).await?;
    let rounds = Instant::now();
    let scale = if cli.seconds > 0 { Scale::Long } else { Scale::Full };
    loop {
        run.all(scale).await?;
        if rounds.elapsed() >= Duration::from_secs(cli.seconds) {
            break;
        }
    }
    (report.kills, report.faults) = (run.kills, run.faults);
    report.left_out = run.left_out.clone();
    report.recoveries(&run.recoveries);
    let history = run.end(&places.folder, chatfn_faults::plan::SETTLE).await?;
    places.release()?;
    let verdict = check(&history);
    tell(&verdict);
    report.add(&verdict);
    if !report.has_all_kinds() {
        println!(
            "of some kinds there were no events, so nothing is known of these: look for the counts that are 0"
        );
    }
    if !report.has_all_faults(cli.strict) {
        println!("faults were left out, and this is to be strict: look at what is said of them above");
    }
    report.passed = verdict.broken.is_empty()
        && report.has_all_kinds()
        && report.has_all_faults(cli.strict)
        && caught == mutants.len();
    report.seconds = start.elapsed().as_secs();
    Ok(report)
}

/// What is wrong, in words.
fn tell(verdict: &Verdict) {
    for (invariant, broken) in &verdict.broken {
        println!("{invariant} is broken {} times:", broken.len());
        broken.iter().take(20).for_each(|what| println!("  {what}"));
    }
}
