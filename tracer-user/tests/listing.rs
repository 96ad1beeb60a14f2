//! Compares `ls`, `rm` and `mk` with /proc/sysvipc and ipcs, on random objects in an IPC namespace of their own.
//!
//! A thread enters the namespace, which the programs that it starts inherit. The end of the namespace removes all objects.
#![allow(clippy::expect_used, clippy::panic)] // tests

mod program;

use std::collections::BTreeMap;
use std::process::Command;

use program::{ipctrace, text};
use serde_json::Value;

/// Runs `test` in a new IPC namespace, on a thread of the same name; without the privilege it is a skip.
fn in_a_namespace(test: fn()) {
    let name = std::thread::current().name().expect("a test's thread has a name").to_owned();
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        // SAFETY: only the IPC namespace of this thread changes.
        match unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWIPC) } {
            Ok(()) => test(),
            Err(e) => tracer_skip::skip!("no IPC namespace of its own: {e}; needs CAP_SYS_ADMIN"),
        }
    });
    thread.expect("thread").join().expect("test");
}

fn listed(words: &[&str]) -> Value {
    let out = ipctrace(&[&["ls", "--ns", "own", "--format", "json"], words].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("JSON")
}

/// Rows of a file of /proc/sysvipc by id, each a map by the words of the heading.
fn table(kind: &str) -> BTreeMap<i64, BTreeMap<String, String>> {
    let text = std::fs::read_to_string(format!("/proc/sysvipc/{kind}")).expect("sysvipc");
    let mut lines = text.lines();
    let heads: Vec<&str> = lines.next().expect("header").split_whitespace().collect();
    let id_at = heads.iter().position(|h| h.ends_with("id") && h.len() > 3 && *h != "cuid").expect("id");
    lines
        .map(|l| {
            let words: Vec<&str> = l.split_whitespace().collect();
            let row = heads.iter().zip(&words).map(|(h, w)| ((*h).to_owned(), (*w).to_owned())).collect();
            (words[id_at].parse().expect("id"), row)
        })
        .collect()
}

/// A value of `ls` as /proc/sysvipc prints it.
fn as_proc(name: &str, value: &Value) -> String {
    match (name, value) {
        ("key", Value::String(hex)) => {
            u32::from_str_radix(hex.trim_start_matches("0x"), 16).expect("key").cast_signed().to_string()
        }
        ("perms", Value::String(octal)) => octal.trim_start_matches('0').to_owned(),
        // Never, or no process.
        (_, Value::Null) => "0".into(),
        (time, Value::String(at)) if time.ends_with("time") => {
            let out = Command::new("date").args(["-u", "-d", at, "+%s"]).output().expect("date");
            text(&out.stdout).trim().to_owned()
        }
        _ => value.to_string(),
    }
}

/// Numbers that differ from run to run (xorshift), printed with a failure.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn random_objects(dice: &mut Dice) {
    for n in 0..20 + dice.roll(20) {
        let mode = format!("{:o}", 0o400 | dice.roll(0o400));
        let key = format!("{:#x}", 1 + (n << 24) + dice.roll(1 << 20));
        let (nsems, size) = ((1 + dice.roll(70)).to_string(), (1 + dice.roll(1 << 20)).to_string());
        let mut words = match dice.roll(3) {
            0 => vec!["mk", "sem", "--nsems", &nsems],
            1 => vec!["mk", "shm", "--size", &size],
            _ => vec!["mk", "msg"],
        };
        words.extend(["--mode", &mode]);
        if dice.roll(2) == 0 {
            words.extend(["--key", &key]);
        }
        let out = ipctrace(&words);
        assert!(out.status.success(), "{}", text(&out.stderr));
        let id: i32 = text(&out.stdout).trim().parse().expect("an id");
        if words[1] == "sem" && dice.roll(2) == 0 {
            let mut op = libc::sembuf { sem_num: 0, sem_op: 3, sem_flg: 0 };
            // SAFETY: one operation at a valid address.
            unsafe { libc::semop(id, &raw mut op, 1) };
        }
        if words[1] == "msg" && dice.roll(2) == 0 {
            let message = [1_i64, 2];
            // SAFETY: a message is its type and its bytes.
            unsafe { libc::msgsnd(id, message.as_ptr().cast(), 8, libc::IPC_NOWAIT) };
        }
        if words[1] == "shm" && dice.roll(2) == 0 {
            // SAFETY: the kernel chooses an address.
            let at = unsafe { libc::shmat(id, std::ptr::null(), libc::SHM_RDONLY) };
            if dice.roll(2) == 0 {
                // SAFETY: nothing uses the mapping.
                unsafe { libc::shmdt(at) };
            }
        }
    }
}

#[test]
fn every_field_equals_that_of_the_kernel() {
    in_a_namespace(|| {
        let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("clock").as_nanos();
        eprintln!("seed {seed}");
        random_objects(&mut Dice(seed as u64 | 1));
        let ours = listed(&["sem", "shm", "msg"]);
        // (column of `ls`, column of the kernel)
        let ipc = [
            ("key", "key"),
            ("perms", "perms"),
            ("uid", "uid"),
            ("gid", "gid"),
            ("cuid", "cuid"),
            ("cgid", "cgid"),
            ("ctime", "ctime"),
        ];
        let own: [(&str, &[(&str, &str)]); 3] = [
            ("sem", &[("nsems", "nsems"), ("otime", "otime")]),
            (
                "shm",
                &[
                    ("size", "size"),
                    ("cpid", "cpid"),
                    ("lpid", "lpid"),
                    ("nattch", "nattch"),
                    ("atime", "atime"),
                    ("dtime", "dtime"),
                ],
            ),
            (
                "msg",
                &[
                    ("bytes", "cbytes"),
                    ("messages", "qnum"),
                    ("lspid", "lspid"),
                    ("lrpid", "lrpid"),
                    ("stime", "stime"),
                    ("rtime", "rtime"),
                ],
            ),
        ];
        let mut compared = 0;
        for (kind, columns) in own {
            let rows = ours[kind].as_array().expect("rows");
            let kernel = table(kind);
            assert_eq!(rows.len(), kernel.len(), "{kind}");
            for row in rows {
                let theirs = &kernel[&row["id"].as_i64().expect("id")];
                for (name, word) in ipc.iter().chain(columns) {
                    assert_eq!(as_proc(name, &row[*name]), theirs[*word], "{kind} {name} of {row}");
                    compared += 1;
                }
            }
        }
        eprintln!("{compared} fields compared with /proc/sysvipc");
        compare_with_ipcs(&ours);
    });
}

/// Key, id, owner, permissions and the kind's first number, as ipcs prints them.
fn compare_with_ipcs(ours: &Value) {
    for (kind, option, number) in [("sem", "-s", "nsems"), ("shm", "-m", "size"), ("msg", "-q", "bytes")] {
        let Ok(out) = Command::new("ipcs").arg(option).output() else {
            return tracer_skip::skip!("no comparison: ipcs is not installed: apt-get install util-linux");
        };
        let theirs: BTreeMap<String, Vec<String>> = text(&out.stdout)
            .lines()
            .filter(|l| l.starts_with("0x"))
            .map(|l| l.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
            .map(|words| (words[1].clone(), words))
            .collect();
        let rows = ours[kind].as_array().expect("rows");
        assert_eq!(rows.len(), theirs.len(), "{kind}");
        for row in rows {
            let word = |name: &str| row[name].as_str().map_or_else(|| row[name].to_string(), str::to_owned);
            let perms = word("perms").trim_start_matches('0').to_owned();
            let want = [word("key"), word("id"), word("owner"), perms, word(number)];
            assert_eq!(theirs[&word("id")][..5], want, "{kind}");
        }
    }
}

#[test]
fn rm_refuses_used_objects_and_removes_unused_ones() {
    in_a_namespace(|| {
        let make = |words: &[&str]| text(&ipctrace(&[&["mk"], words].concat()).stdout).trim().to_owned();
        let (left, used, segment) = (make(&["sem"]), make(&["sem"]), make(&["shm", "--size", "1"]));
        let (left, used, segment) = (format!("sem:{left}"), format!("sem:{used}"), format!("shm:{segment}"));
        let id = used.strip_prefix("sem:").and_then(|i| i.parse().ok()).expect("id");
        let mut op = libc::sembuf { sem_num: 0, sem_op: 1, sem_flg: 0 };
        // SAFETY: one operation at a valid address; this process stays its last user.
        assert_eq!(unsafe { libc::semop(id, &raw mut op, 1) }, 0);
        let count = || listed(&["sem", "shm"])["sem"].as_array().map(Vec::len);
        for (what, words, code, says) in [
            ("no terminal to ask on", vec!["rm", &left], 2, "--yes"),
            ("in use", vec!["rm", "--yes", &left, &used], 1, "in use"),
            ("no such object", vec!["rm", "--yes", &left, "sem:2147483647"], 1, "does not exist"),
            ("not removable", vec!["rm", "--yes", "pipe:1"], 2, "cannot be removed"),
            ("no object", vec!["rm", "--yes", "sem:x"], 2, "is not an object"),
            ("nothing named", vec!["rm", "--yes"], 2, "required"),
        ] {
            let out = ipctrace(&words);
            assert_eq!(out.status.code(), Some(code), "{what}: {}", text(&out.stderr));
            assert!(text(&out.stderr).contains(says), "{what}: {}", text(&out.stderr));
            assert_eq!(count(), Some(2), "{what}: nothing may be removed");
        }
        let dry = ipctrace(&["rm", "--orphans", "--maybe", "--only", "sem,shm", "--dry-run"]);
        let commands = text(&dry.stdout);
        let want = [left.replace("sem:", "ipcrm -s "), segment.replace("shm:", "ipcrm -m ")];
        assert_eq!(commands.lines().collect::<Vec<_>>(), want, "{}", text(&dry.stderr));
        assert_eq!(count(), Some(2));
        assert_eq!(ipctrace(&["rm", "--yes", &left, &segment]).status.code(), Some(0));
        assert_eq!(ipctrace(&["rm", "--yes", "--force", &used]).status.code(), Some(0));
        assert_eq!(count(), Some(0));
    });
}

#[test]
fn the_capacity_and_contents_of_a_pipe() {
    use std::os::fd::AsRawFd;
    let (reader, writer) = rustix::pipe::pipe().expect("pipe");
    rustix::pipe::fcntl_setpipe_size(&writer, 131_072).expect("F_SETPIPE_SZ");
    rustix::io::write(&writer, &[7; 5_000]).expect("write");
    let all = listed(&["pipe", "-p", &std::process::id().to_string()]);
    let link = std::fs::read_link(format!("/proc/self/fd/{}", reader.as_raw_fd())).expect("link");
    let pipes = all["pipe"].as_array().expect("array");
    let is_it = |p: &&Value| link.to_string_lossy() == format!("pipe:[{}]", p["inode"]);
    let row = pipes.iter().find(is_it).expect("our pipe");
    let problems = all["problems"].to_string();
    if problems.contains("contents of pipes not read") {
        assert_eq!((&row["capacity"], &row["fill"]), (&Value::Null, &Value::Null));
        return tracer_skip::skip!("{problems}");
    }
    assert_eq!((&row["capacity"], &row["fill"], &row["slots"]), (&131_072.into(), &5_000.into(), &"2/32".into()));
}
