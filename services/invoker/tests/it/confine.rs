//! What is left to the process once it is confined. What is tried is tried in child processes, since there is no way back.

use std::{
    fs::{self, DirBuilder},
    io::{self, Read as _},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::{
        fs::DirBuilderExt as _,
        net::{UnixDatagram, UnixStream},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread,
};

use chatfn_engine::{Engine, EngineConfig};
use chatfn_invoker::{
    Config,
    confine::{Confinement, ConfinementMode},
};
use clap::{Parser as _, ValueEnum as _};
use tempfile::TempDir;
use wasmtime::PoolingAllocationConfig;

/// Says to [`child`] what to do: how it is confined, a folder, a port at 127.0.0.1.
const CHILD: &str = "CHATFN_TEST_CONFINE";
/// Starts the lines of its findings.
const FINDING: &str = "finding: ";

/// What a child process found: a name and an outcome each, in order.
struct Findings(Vec<(String, String)>);

impl Findings {
    /// Of a process that is confined in this way, and tries everything.
    fn of(mode: ConfinementMode) -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("secret"), "secret").unwrap();
        borrow_engines(&folder.path().join("cache"));
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let mode = mode.to_possible_value().unwrap();
        let task = format!(
            "{} {} {}",
            mode.get_name(),
            server.local_addr().unwrap().port(),
            folder.path().display()
        );
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "confine::child", "--ignored", "--nocapture"])
            .env(CHILD, task)
            .output()
            .unwrap();
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out}\n{error}");
        let findings = out.lines().filter_map(|line| line.split_once(FINDING)?.1.split_once(" = "));
        Self(findings.map(|(name, outcome)| (name.to_owned(), outcome.to_owned())).collect())
    }

    /// Names with this outcome.
    fn with(&self, outcome: &str) -> Vec<&str> {
        self.0.iter().filter(|(_, found)| found == outcome).map(|(name, _)| name.as_str()).collect()
    }
}

/// Copies what the other tests have compiled, if anything, since compiling takes long on a busy machine.
fn borrow_engines(cache: &Path) {
    DirBuilder::new().mode(0o700).create(cache).unwrap();
    let shared = Path::new(env!("CARGO_TARGET_TMPDIR")).join("engine-cache");
    for engine in fs::read_dir(shared).into_iter().flatten().flatten() {
        // Another test may be about to rename it.
        let _ = fs::copy(engine.path(), cache.join(engine.file_name()));
    }
}

fn find(name: &str, outcome: io::Result<()>) {
    let outcome = match outcome {
        Ok(()) => "ok".to_owned(),
        Err(error) => error.raw_os_error().map_or_else(|| error.to_string(), errno_name),
    };
    println!("{FINDING}{name} = {outcome}");
}

fn errno_name(errno: i32) -> String {
    match errno {
        libc::EPERM => "EPERM".to_owned(),
        libc::EACCES => "EACCES".to_owned(),
        libc::ENOSYS => "ENOSYS".to_owned(),
        other => other.to_string(),
    }
}

/// What a process that has been broken into would do.
const WANTED: [&str; 14] = [
    "start a program",
    "become a program",
    "read a file",
    "list a folder",
    "write a file",
    "write to the cache",
    "remove from the cache",
    "listen",
    "talk to a daemon",
    "signal its parent",
    "make machine code",
    "start a program in a new thread",
    "start a program in an old thread",
    "read a file in an old thread",
];
/// What it needs to go on serving.
const NEEDED: [&str; 9] = [
    "call a server",
    "make a UDP socket",
    "make a pair of sockets",
    "start a thread",
    "read the cache",
    "read the hosts file",
    "signal itself",
    "resolve a name",
    "scan its pages",
];

#[test]
fn a_confined_process_has_what_it_needs_and_no_more() {
    let free = Findings::of(ConfinementMode::Off);
    let all: Vec<_> = free.0.iter().map(|(name, _)| name.as_str()).filter(|name| !is_call(name)).collect();
    let mut expected = [&WANTED[..], &NEEDED].concat();
    if !PoolingAllocationConfig::is_pagemap_scan_available() {
        expected.retain(|name| *name != "scan its pages");
    }
    assert_eq!(sorted(all), sorted(expected.clone()));
    let possible = free.with("ok");
    for name in &expected {
        assert!(possible.contains(name), "{name} must be possible for a process that is not confined");
    }

    let confined = Findings::of(ConfinementMode::BestEffort);
    let still_possible = confined.with("ok");
    for name in NEEDED {
        assert!(!expected.contains(&name) || still_possible.contains(&name), "{name}: {:?}", confined.0);
    }
    for name in WANTED.iter().filter(|name| landlock() || !needs_landlock(name)) {
        assert!(!still_possible.contains(name), "{name} is still possible: {:?}", confined.0);
    }
    assert!(confined.with("EPERM").contains(&"make a process"), "{:?}", confined.0);
    for (kind, _) in SOCKETS {
        assert!(confined.with("EPERM").contains(&&*socket_name(kind)), "{kind}: {:?}", confined.0);
    }
    // Of both sorts: those that do not exist are those whose arguments cannot be seen.
    let refused = [confined.with("EPERM"), confined.with("ENOSYS")].concat();
    for (name, call) in CALLS {
        assert!(refused.contains(&&*call_name(name)), "{name} ({call}): {:?}", confined.0);
    }
}

#[test]
fn who_insists_gets_it_or_an_error() {
    // A child of this has threads before it is confined, where Landlock cannot hold for all.
    let findings = Findings::of(ConfinementMode::Enforce);
    let [(step, why)] = &findings.0[..] else { panic!("{:?}", findings.0) };
    assert_eq!(step, "begin");
    let expected = if landlock() { "no Landlock for all threads" } else { "no Landlock" };
    assert!(why.contains(expected) && why.contains("--confinement=best-effort"), "{why}");
}

fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort();
    items
}

fn needs_landlock(name: &str) -> bool {
    name.starts_with("read a file") || name == "list a folder"
}

/// Not a test of its own: what a child process does.
#[test]
#[ignore = "run by the other tests here, in a process of its own"]
fn child() {
    let Ok(task) = std::env::var(CHILD) else { return };
    let mut words = task.splitn(3, ' ');
    let mut word = || words.next().unwrap();
    let mode = ConfinementMode::from_str(word(), false).unwrap();
    let (port, folder) = (word().parse().unwrap(), PathBuf::from(word()));
    let cache = folder.join("cache");
    let mut config = Config::parse_from(["chatfn-invoker", &*format!("--cache-dir={}", cache.display())]);
    config.confinement = mode;

    let confinement = match Confinement::begin(&config) {
        Ok(confinement) => confinement,
        Err(error) => return println!("{FINDING}begin = {error}"),
    };
    // As the start-up does.
    let engine = EngineConfig { cache_dir: Some(cache.clone()), max_sandboxes: 1, ..EngineConfig::default() };
    drop(Engine::new(engine.clone()).unwrap());
    fs::write(cache.join("written"), "before").unwrap();
    let (go, old_thread) = {
        let (go, gone) = mpsc::channel();
        let secret = folder.join("secret");
        let thread = thread::spawn(move || {
            gone.recv().unwrap();
            find("start a program in an old thread", start_program());
            find("read a file in an old thread", fs::read(secret).map(drop));
        });
        (go, thread)
    };
    confinement.seal().unwrap();
    go.send(()).unwrap();
    old_thread.join().unwrap();

    find("start a program", start_program());
    // Does not exist, so that this process lives on where it is allowed to.
    let nothing = nix::unistd::execv(c"/nothing", &[c"/nothing"]).unwrap_err();
    find("become a program", if nothing == nix::Error::ENOENT { Ok(()) } else { Err(nothing.into()) });
    find("read a file", fs::read(folder.join("secret")).map(drop));
    find("list a folder", fs::read_dir(&folder).map(drop));
    find("write a file", fs::write(folder.join("new"), "new"));
    find("write to the cache", fs::write(cache.join("written"), "after"));
    find("remove from the cache", fs::remove_file(cache.join("written")));
    find("listen", TcpListener::bind("127.0.0.1:0").map(drop));
    find("talk to a daemon", UnixDatagram::unbound().map(drop));
    find("signal its parent", nix::sys::signal::kill(nix::unistd::getppid(), None).map_err(io::Error::from));
    find("make machine code", Engine::new(engine).map(drop).map_err(io::Error::other));

    find("call a server", TcpStream::connect(("127.0.0.1", port)).map(drop));
    find("make a UDP socket", UdpSocket::bind("127.0.0.1:0").map(drop));
    find("make a pair of sockets", UnixStream::pair().map(drop));
    let in_thread = thread::Builder::new().spawn(|| find("start a program in a new thread", start_program()));
    find("start a thread", in_thread.map(|thread| thread.join().unwrap()));
    find("read the cache", read_any(&cache));
    find("read the hosts file", fs::read("/etc/hosts").map(drop));
    find("signal itself", nix::sys::signal::kill(nix::unistd::getpid(), None).map_err(io::Error::from));
    find("resolve a name", std::net::ToSocketAddrs::to_socket_addrs("localhost:80").map(drop));
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        find("scan its pages", Ok(()));
    }
    if mode != ConfinementMode::Off {
        for (name, call) in CALLS {
            find(&call_name(name), system_call(call));
        }
        find("make a process", make_process());
        for (kind, number) in SOCKETS {
            find(&socket_name(kind), make_socket(number));
        }
    }
}

fn start_program() -> io::Result<()> {
    Command::new("/bin/true").status().map(drop)
}

fn read_any(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        fs::File::open(entry?.path())?.read_exact(&mut [0])?;
    }
    Ok(())
}

fn call_name(name: &str) -> String {
    format!("call {name}")
}

fn is_call(name: &str) -> bool {
    CALLS.iter().any(|(call, _)| name == call_name(call))
}

/// Makes a call with arguments that are none, so that it does nothing where it is not refused.
fn system_call(number: libc::c_long) -> io::Result<()> {
    const NONE: libc::c_long = -1;
    // SAFETY: the kernel refuses pointers to nowhere, and descriptors and flags that do not exist.
    #[expect(unsafe_code, reason = "there are no safe wrappers of most of these")]
    let result = unsafe { libc::syscall(number, NONE, NONE, NONE, NONE, NONE, NONE) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What `fork` does. Where it is not refused, the new process ends at once.
fn make_process() -> io::Result<()> {
    // SAFETY: the new process has memory of its own, and does nothing but end.
    #[expect(unsafe_code, reason = "the C library's own is not the only way to it")]
    unsafe {
        match libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) {
            -1 => Err(io::Error::last_os_error()),
            0 => libc::_exit(0),
            _ => Ok(()),
        }
    }
}

fn socket_name(kind: &str) -> String {
    format!("make a {kind} socket")
}

/// An internet socket of a type, with the type's own protocol.
fn make_socket(kind: libc::c_int) -> io::Result<()> {
    // SAFETY: it takes numbers only; the descriptor lives as long as this process, which ends soon.
    #[expect(unsafe_code, reason = "the standard library makes streams and datagrams only")]
    let descriptor = unsafe { libc::socket(libc::AF_INET, kind, 0) };
    if descriptor < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Internet sockets that nobody may make, by type. Most kernels have no more than the first.
const SOCKETS: [(&str, libc::c_int); 4] =
    [("raw", libc::SOCK_RAW), ("SCTP", libc::SOCK_SEQPACKET), ("DCCP", 6), ("packet", 10)];

/// Whether this kernel has Landlock.
pub(crate) fn landlock() -> bool {
    const VERSION: libc::c_long = 1;
    // SAFETY: this only asks for the version; the null pointer is what it has to be.
    #[expect(unsafe_code, reason = "asked without the product, which is tested here")]
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0_usize, 0_usize, VERSION) };
    abi > 0
}

/// System calls that nobody may make.
const CALLS: [(&str, libc::c_long); 51] = [
    ("execve", libc::SYS_execve),
    ("execveat", libc::SYS_execveat),
    ("clone3", libc::SYS_clone3),
    ("ptrace", libc::SYS_ptrace),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("pidfd_open", libc::SYS_pidfd_open),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("kcmp", libc::SYS_kcmp),
    ("unshare", libc::SYS_unshare),
    ("setns", libc::SYS_setns),
    ("mount", libc::SYS_mount),
    ("umount2", libc::SYS_umount2),
    ("pivot_root", libc::SYS_pivot_root),
    ("chroot", libc::SYS_chroot),
    ("open_tree", libc::SYS_open_tree),
    ("move_mount", libc::SYS_move_mount),
    ("fsopen", libc::SYS_fsopen),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("open_by_handle_at", libc::SYS_open_by_handle_at),
    ("shmget", libc::SYS_shmget),
    ("shmat", libc::SYS_shmat),
    ("msgget", libc::SYS_msgget),
    ("semget", libc::SYS_semget),
    ("mq_open", libc::SYS_mq_open),
    ("bpf", libc::SYS_bpf),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("io_uring_enter", libc::SYS_io_uring_enter),
    ("io_uring_register", libc::SYS_io_uring_register),
    ("add_key", libc::SYS_add_key),
    ("request_key", libc::SYS_request_key),
    ("keyctl", libc::SYS_keyctl),
    ("personality", libc::SYS_personality),
    ("init_module", libc::SYS_init_module),
    ("finit_module", libc::SYS_finit_module),
    ("delete_module", libc::SYS_delete_module),
    ("kexec_load", libc::SYS_kexec_load),
    ("reboot", libc::SYS_reboot),
    ("settimeofday", libc::SYS_settimeofday),
    ("clock_settime", libc::SYS_clock_settime),
    ("swapon", libc::SYS_swapon),
    ("syslog", libc::SYS_syslog),
    ("openat2", libc::SYS_openat2),
    ("linkat", libc::SYS_linkat),
    ("renameat2", libc::SYS_renameat2),
    ("unlinkat", libc::SYS_unlinkat),
    ("fchmodat", libc::SYS_fchmodat),
    // One that is newer than the list, and one with the numbers for 32-bit pointers.
    ("setxattrat", 463),
    ("x32 execve", 0x4000_0000 + 520),
];
