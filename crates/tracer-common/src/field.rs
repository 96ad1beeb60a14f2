//! Kernel structure fields that the programs read, by name.
//!
//! Userspace looks each one up in the running kernel's BTF and writes its byte offset into the global `OFFSETS`;
//! Rust eBPF has no CO-RE relocations. Nothing is guessed: an absent field stays [`ABSENT`].

/// Offset of a field that the running kernel does not have, or that its BTF lacks.
pub const ABSENT: u32 = u32::MAX;

macro_rules! fields {
    ($($id:ident = [$($path:literal),+];)*) => {
        /// One kernel structure field.
        #[repr(usize)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(clippy::upper_case_acronyms)]
        pub enum Field { $($id),* }

        /// All fields with their candidates (`struct.member.member`, first that exists wins).
        pub const FIELDS: &[(Field, &[&str])] = &[$((Field::$id, &[$($path),+])),*];

        /// Number of fields: the length of `OFFSETS`.
        pub const COUNT: usize = FIELDS.len();
    };
}

fields! {
    TaskState = ["task_struct.__state", "task_struct.state"];
    TaskFlags = ["task_struct.flags"];
    TaskStack = ["task_struct.stack"];
    TaskThreadStatus = ["task_struct.thread_info.status"];
    TaskPid = ["task_struct.pid"];
    TaskTgid = ["task_struct.tgid"];
    TaskStart = ["task_struct.start_boottime", "task_struct.real_start_time"];
    TaskGroupLeader = ["task_struct.group_leader"];
    TaskRealParent = ["task_struct.real_parent"];
    TaskExitCode = ["task_struct.exit_code"];
    TaskSignal = ["task_struct.signal"];
    TaskFiles = ["task_struct.files"];
    TaskNsproxy = ["task_struct.nsproxy"];
    TaskComm = ["task_struct.comm"];
    TaskRuntime = ["task_struct.se.sum_exec_runtime"];
    TaskRunDelay = ["task_struct.sched_info.run_delay"];
    TaskLastArrival = ["task_struct.sched_info.last_arrival"];
    TaskRealCred = ["task_struct.real_cred"];
    SignalLive = ["signal_struct.live"];
    NsproxyIpc = ["nsproxy.ipc_ns"];
    IpcNsInum = ["ipc_namespace.ns.inum"];
    FilesFdt = ["files_struct.fdt"];
    FdtableMaxFds = ["fdtable.max_fds"];
    FdtableFd = ["fdtable.fd"];
    FilePrivate = ["file.private_data"];
    FileInode = ["file.f_inode"];
    FileOp = ["file.f_op"];
    FileCred = ["file.f_cred"];
    FileDentry = ["file.f_path.dentry"];
    DentryName = ["dentry.d_name.name"];
    InodeMode = ["inode.i_mode"];
    InodeIno = ["inode.i_ino"];
    InodePipe = ["inode.i_pipe"];
    InodeSb = ["inode.i_sb"];
    SbDev = ["super_block.s_dev"];
    SbMagic = ["super_block.s_magic"];
    KiocbFilp = ["kiocb.ki_filp"];
    MsghdrControlLen = ["msghdr.msg_controllen"];
    PipeHead = ["pipe_inode_info.head"];
    PipeTail = ["pipe_inode_info.tail"];
    PipeMaxUsage = ["pipe_inode_info.max_usage"];
    PipeBufs = ["pipe_inode_info.bufs"];
    PipeRingSize = ["pipe_inode_info.ring_size"];
    PipeBufferLen = ["pipe_buffer.len"];
    EventfdCount = ["eventfd_ctx.count"];
    EventfdId = ["eventfd_ctx.id"];
    IpcPermId = ["kern_ipc_perm.id"];
    SocketSk = ["socket.sk"];
    SocketInode = ["socket_alloc.vfs_inode"];
    SockFamily = ["sock.__sk_common.skc_family"];
    SockSocket = ["sock.sk_socket"];
    SockReceiveQueue = ["sock.sk_receive_queue"];
    UnixPeer = ["unix_sock.peer"];
    SkbCb = ["sk_buff.cb"];
    UnixSkbFp = ["unix_skb_parms.fp"];
    ScmFp = ["scm_cookie.fp"];
    FpCount = ["scm_fp_list.count"];
    FileMode = ["file.f_mode"];
    DentryInode = ["dentry.d_inode"];
    MqInode = ["mqueue_inode_info.vfs_inode"];
    MqMessages = ["mqueue_inode_info.attr.mq_curmsgs"];
    MqMax = ["mqueue_inode_info.attr.mq_maxmsg"];
    SockType = ["sock.sk_type"];
    SockSndbuf = ["sock.sk_sndbuf"];
    SockWmem = ["sock.sk_wmem_alloc"];
    SockQueued = ["sock.sk_receive_queue.qlen"];
    SockBacklog = ["sock.sk_max_ack_backlog"];
}
