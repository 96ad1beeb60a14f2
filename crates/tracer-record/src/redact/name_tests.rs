//! Names and their tokens.

use super::*;

fn names() -> Names {
    Names::new(b"sixteen bytes...")
}

#[test]
fn tokens_have_their_shape() {
    let names = names();
    let part = names.part("worker-1.log");
    let (word, digits) = part.split_once('-').expect("a dash");
    assert!(word.len() == LETTERS && word.bytes().all(|b| b.is_ascii_lowercase()), "{part}");
    assert!(digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit()), "{part}");
    assert_eq!(names.comm("nginx").len(), 15);
    assert!(names.part("2024.log").starts_with("000000-"));
    for empty in ["", "/"] {
        assert_eq!(names.link(empty), empty);
    }
    assert_eq!((names.comm(""), names.socket("@")), (String::new(), "@".to_owned()));
}

#[test]
fn equal_names_are_equal_wherever_they_stand() {
    let names = names();
    let part = names.part("secret");
    assert_eq!(names.path("/opt/secret/bin/secret"), format!("/opt/{part}/bin/{part}"));
    assert_eq!(names.link("/srv/secret (deleted)"), format!("/srv/{part} (deleted)"));
    assert_eq!(names.posix("/secret"), format!("/{part}"));
    assert_eq!(names.path("/dev/shm/sem.secret"), format!("/dev/shm/sem.{part}"));
    // The digits alone distinguish a process from a file of its name.
    assert_eq!(names.comm("secret").rsplit('-').next(), part.rsplit('-').next());
    assert_ne!(part, names.part("Secret"));
    assert_ne!(part, Names::new(b"another key.....").part("secret"));
}

#[test]
fn what_everybody_has_stays() {
    let names = names();
    for link in [
        "/dev/null",
        "/dev/zero (deleted)",
        "/SYSV0056a4d5 (deleted)",
        "pipe:[8812]",
        "socket:[1]",
        "anon_inode:[eventpoll]",
        "anon_inode:inotify",
        "[vdso]",
        "/usr/lib/x86_64-linux-gnu/libc.so.6",
        "/lib64/ld-linux-x86-64.so.2",
        "/lib/libc-2.31.so (deleted)",
        "/lib/ld-musl-x86_64.so.1",
        "/dev/shm/",
    ] {
        assert_eq!(names.link(link), link);
    }
    for (link, begins) in [
        ("/memfd:secret (deleted)", "/memfd:"),
        ("/dev/shm/sem.secret", "/dev/shm/sem."),
        ("/rustc/59807616/library/core/mod.rs", "/rustc/"),
        ("/lib/libc-secret.so", "/lib/libc-"),
        ("anon_inode:[secret]", "anon_inode:"),
        ("pipe:[secret]", ""),
        ("secret:[1]", ""),
        ("/SYSVsecret12", "/"),
        ("/libcsecret.so.6", "/"),
    ] {
        let token = names.link(link);
        assert!(token.starts_with(begins) && !token.contains("secret"), "{link}: {token}");
        assert_eq!(token.ends_with(" (deleted)"), link.ends_with(" (deleted)"), "{link}: {token}");
    }
}

#[test]
fn the_cut_name_of_the_kernel_half_still_fits_the_whole_one() {
    let names = names();
    for prefix in ["", "memfd:", "sem.", "libc-"] {
        for len in 1..60 {
            // A byte that is no UTF-8 is one character of three bytes here.
            for unit in ["x", "é", "\u{fffd}"] {
                let whole = format!("{prefix}{}", unit.repeat(len));
                let width = if unit == "\u{fffd}" { 1 } else { unit.len() };
                let room = (CUT - prefix.len()) / width;
                let sent = format!("{prefix}{}", unit.repeat(len.min(room)));
                let sent_bytes = prefix.len() + len.min(room) * width;
                let (token, part) = (names.part(&whole), names.part(&sent));
                assert!(part.len() <= CUT, "{sent}: {part}");
                // The model takes one that has all bytes that fit for the beginning of a longer one.
                assert_eq!(part.len() == CUT, sent_bytes == CUT, "{sent}: {part}");
                if sent_bytes == CUT || sent == whole {
                    assert!(token.starts_with(&part), "{whole}: {token}, {part}");
                }
                assert_eq!(token == part, sent == whole, "{whole}");
            }
        }
    }
}

#[test]
fn names_of_one_first_word_stay_alike() {
    let names = names();
    let word = |name: &str| names.posix(name).split('-').next().map(str::to_owned);
    assert_eq!(word("/worker-1"), word("/worker.lock"));
    assert_eq!(word("/worker-1"), word("/worker"));
    assert_ne!(word("/worker-1"), word("/work"));
    assert_eq!(word("/tmp"), word("/tmp-1"));
}

#[test]
fn functions_stay_unless_they_hold_a_path() {
    let names = names();
    for name in
        ["main", "core::fmt::write", "a::operator/(a const&)", "std::vector<int>::push_back(int&&)", "+0x10", ""]
    {
        assert_eq!(names.function(name), name);
    }
    for (name, begins) in [
        ("github.com/secret/pkg.(*T).Run", "fn-"),
        ("(anonymous struct at /src/My secret/x.c:1)::run", "fn-"),
        ("std::sort<(lambda at /secret.cc:3:4)>", "std::fn-"),
        ("operator/secret.c", "fn-"),
        ("a::operator//secret(int)", "fn-"),
        ("LazyCompile:~run C:\\secret.js:1", "fn-"),
    ] {
        let token = names.function(name);
        assert!(token.starts_with(begins) && !token.contains("secret"), "{name}: {token}");
    }
}

#[test]
fn sockets_fit_their_address() {
    let names = names();
    let long = "/a".repeat(50);
    for name in ["@secret", "/run/secret/s", "secret", "@a\0b/c", &long, "@\u{fffd}\n"] {
        let token = names.socket(name);
        assert!(token.len() <= SUN_PATH && !token.contains("secret"), "{name}: {token}");
        assert_eq!(token.starts_with('@'), name.starts_with('@'));
        assert_eq!(token, names.socket(name));
    }
}

#[test]
fn releases_of_kernels_do_not_say_who_built_them() {
    let names = names();
    for release in ["6.12.117+deb13-cloud-amd64", "5.14.0-427.13.1.el9_4.x86_64", "6.8.0-45-generic", "6.18.0-rc3"] {
        let token = names.kernel(release);
        assert!(token.starts_with(release.get(..5).unwrap_or(release)), "{token}");
    }
    assert_eq!(names.kernel("6.12.117+deb13-cloud-amd64"), "6.12.117+deb13-cloud-amd64");
    assert!(!names.kernel("6.1.0-secretcorp-7").contains("secret"));
}

#[test]
fn sentences_keep_their_own_words_only() {
    let names = names();
    for sentence in [
        "blocked: io_uring workers and 32-bit programs",
        "POSIX message queues not listed: their file system is not mounted (mount -t mqueue none /dev/mqueue), and cannot \
         be read otherwise: Permission denied (os error 13)",
        "descriptors of 3 processes not read (first: pid 17): needs CAP_SYS_PTRACE over them",
    ] {
        assert_eq!(names.sentence(sentence), sentence);
    }
    let token = names
        .sentence("callers in the stacks of 3 events: the unwind tables of /opt/My Secret/x: its tables are broken");
    assert!(token.starts_with("callers in the stacks of 3 events: the unwind tables of /opt/"), "{token}");
    assert!(!token.contains("My") && !token.contains("Secret") && token.ends_with("its tables are broken"), "{token}");
    assert_eq!(
        names.sentence("invalid type: string \"secret\" \u{1b}"),
        "[redacted] type: [redacted] \"[redacted]\" [redacted]"
    );
}

#[test]
fn hostile_names_end() {
    let names = names();
    for name in ["sem.".repeat(100_000), " (deleted)".repeat(100_000), "/".repeat(100_000), "\u{fffd}".repeat(100_000)]
    {
        for token in [names.link(&name), names.socket(&name), names.function(&name), names.sentence(&name)] {
            assert!(token.len() <= name.len() * 4);
        }
    }
}
