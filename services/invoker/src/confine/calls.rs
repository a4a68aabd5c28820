//! Which system calls the process may make: seccomp.
//!
//! The filter lists what is refused. A list of what is allowed would be tighter, but it depends on the C library and its
//! version, and what it forgets ends in an outage; container runtimes apply such a list already. This one goes further
//! in what a process that only serves has no use for, and refuses what is newer than itself. A refused call fails with
//! EPERM: whatever tried it gets an error, and the runs of everyone else go on.

use std::{collections::BTreeMap, env::consts::ARCH, process};

use libc::{
    AF_INET, AF_INET6, AF_NETLINK, CLONE_THREAD, EPERM, IPPROTO_TCP, IPPROTO_UDP, NETLINK_ROUTE, O_ACCMODE,
    O_CREAT, O_RDONLY, O_TRUNC, PROT_EXEC, SOCK_RAW, c_long,
};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp as Is, SeccompCondition,
    SeccompFilter, SeccompRule, apply_filter_all_threads, sock_filter,
};

/// Refused whatever the arguments are, on every architecture.
const REFUSED: [&[c_long]; 8] = [
    // Other programs and processes.
    &[
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_process_madvise,
        libc::SYS_process_mrelease,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_getfd,
        libc::SYS_pidfd_send_signal,
        libc::SYS_kcmp,
        libc::SYS_tkill,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo,
        libc::SYS_move_pages,
        libc::SYS_migrate_pages,
    ],
    // Namespaces and mounts.
    &[
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_mount_setattr,
        libc::SYS_open_by_handle_at,
        libc::SYS_name_to_handle_at,
        libc::SYS_fanotify_init,
        libc::SYS_quotactl,
        libc::SYS_quotactl_fd,
        libc::SYS_swapon,
        libc::SYS_swapoff,
    ],
    // Memory and messages shared with other processes; `shmat` also makes memory executable.
    &[libc::SYS_shmget, libc::SYS_shmat, libc::SYS_msgget, libc::SYS_semget, libc::SYS_mq_open],
    // Parts of the kernel that have been broken into most often, none of which serving needs.
    &[
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
        libc::SYS_vmsplice,
        libc::SYS_personality,
    ],
    // The machine.
    &[
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_reboot,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_adjtimex,
        libc::SYS_clock_adjtime,
        libc::SYS_sethostname,
        libc::SYS_setdomainname,
        libc::SYS_acct,
        libc::SYS_syslog,
        libc::SYS_vhangup,
        libc::SYS_lookup_dcookie,
        libc::SYS_nfsservctl,
    ],
    // Changes of files: the engine's cache is written before this holds, and must not be changed by what comes after it.
    &[
        libc::SYS_truncate,
        libc::SYS_mknodat,
        libc::SYS_mkdirat,
        libc::SYS_unlinkat,
        libc::SYS_linkat,
        libc::SYS_symlinkat,
        libc::SYS_renameat,
        libc::SYS_renameat2,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        libc::SYS_fchmodat2,
        libc::SYS_fchown,
        libc::SYS_fchownat,
        libc::SYS_utimensat,
        libc::SYS_setxattr,
        libc::SYS_lsetxattr,
        libc::SYS_fsetxattr,
        libc::SYS_removexattr,
        libc::SYS_lremovexattr,
        libc::SYS_fremovexattr,
    ],
    // Ports: the only one is bound already.
    &[libc::SYS_listen],
    OF_THIS_ARCHITECTURE,
];

/// Calls that newer architectures never had.
#[cfg(target_arch = "x86_64")]
const OF_THIS_ARCHITECTURE: &[c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_creat,
    libc::SYS_mknod,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_rename,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
];
#[cfg(not(target_arch = "x86_64"))]
const OF_THIS_ARCHITECTURE: &[c_long] = &[];

/// Calls whose arguments are behind a pointer, where a filter cannot see them. The C library falls back to those that
/// it can see when these do not exist.
const UNSEEN: [c_long; 2] = [libc::SYS_clone3, libc::SYS_openat2];

/// The newest call that is known here, of Linux 6.10; numbers are the same on all architectures since 5.1. Newer ones,
/// and the second set of numbers that some x86 kernels have for 32-bit pointers, do not exist either.
const NEWEST: c_long = libc::SYS_mseal;

/// Installs the filter for all threads. Newer threads inherit it; privileges cannot be gained any more.
pub(super) fn restrict() -> Result<(), seccompiler::Error> {
    apply_filter_all_threads(&program(process::id())?)
}

fn program(own_id: u32) -> Result<BpfProgram, BackendError> {
    let filter = SeccompFilter::new(
        rules(own_id)?,
        SeccompAction::Allow,
        SeccompAction::Errno(EPERM as u32),
        ARCH.try_into()?,
    )?;
    // Jumps are relative, so a program may be put before another.
    let mut program = unknown_calls();
    program.extend(BpfProgram::try_from(filter)?);
    Ok(program)
}

/// Ends with ENOSYS for calls that shall not exist, and otherwise goes on to what follows.
fn unknown_calls() -> BpfProgram {
    let instruction = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    let not_there = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    let mut program = vec![
        // The call's number is the first field of `seccomp_data`.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, 0, 1, NEWEST as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, not_there),
    ];
    for call in UNSEEN {
        program.push(instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call as u32));
        program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, not_there));
    }
    program
}

/// The calls that are refused; those with rules only when one of the rules applies.
fn rules(own_id: u32) -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let mut rules: BTreeMap<_, _> =
        REFUSED.iter().copied().flatten().map(|call| (*call, Vec::new())).collect();

    // A new process is one that shares no thread group.
    rules.insert(libc::SYS_clone, vec![when(&[(0, Is::MaskedEq(CLONE_THREAD as u64), 0)])?]);
    // Signals to others; to itself, as abort does, they are allowed.
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        rules.insert(call, vec![when(&[(0, Is::Ne, own_id.into())])?]);
    }

    for (call, flags) in [
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_open, 1),
        (libc::SYS_openat, 2),
    ] {
        rules.insert(call, opening_to_write(flags)?);
    }

    let executable = Is::MaskedEq(PROT_EXEC as u64);
    for call in [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_pkey_mprotect] {
        rules.insert(call, vec![when(&[(2, executable.clone(), PROT_EXEC as u64)])?]);
    }

    rules.insert(libc::SYS_socket, sockets()?);
    Ok(rules)
}

fn opening_to_write(flags: u8) -> Result<Vec<SeccompRule>, BackendError> {
    // Reading is the one access mode without a bit of its own.
    const { assert!(O_RDONLY == 0) };
    [O_ACCMODE & 1, O_ACCMODE & 2, O_CREAT, O_TRUNC]
        .into_iter()
        .map(|flag| when(&[(flags, Is::MaskedEq(flag as u64), flag as u64)]))
        .collect()
}

/// Only TCP and UDP, and what the C library asks the kernel about its interfaces. In particular no sockets of this
/// machine's own daemons.
fn sockets() -> Result<Vec<SeccompRule>, BackendError> {
    const TYPE: u64 = 0xf;
    let internet = [(0, Is::Ne, AF_NETLINK as u64)];
    let but_not = |more: &[(u8, Is, u64)]| when(&[&internet[..], more].concat());
    Ok(vec![
        but_not(&[(0, Is::Ne, AF_INET as u64), (0, Is::Ne, AF_INET6 as u64)])?,
        but_not(&[(2, Is::Ne, 0), (2, Is::Ne, IPPROTO_TCP as u64), (2, Is::Ne, IPPROTO_UDP as u64)])?,
        // Streams are 1 and datagrams 2. With protocol 0 the other types are raw, SCTP, DCCP and packets.
        but_not(&[(1, Is::MaskedEq(TYPE), SOCK_RAW as u64)])?,
        but_not(&[(1, Is::MaskedEq(4), 4)])?,
        but_not(&[(1, Is::MaskedEq(8), 8)])?,
        when(&[(0, Is::Eq, AF_NETLINK as u64), (2, Is::Ne, NETLINK_ROUTE as u64)])?,
    ])
}

/// Applies when each of the conditions (argument, comparison, value) holds.
fn when(conditions: &[(u8, Is, u64)]) -> Result<SeccompRule, BackendError> {
    // All of these arguments are ints, of which the kernel ignores the upper half of the register.
    let conditions = conditions.iter().map(|(argument, is, value)| {
        SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, is.clone(), *value)
    });
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}
