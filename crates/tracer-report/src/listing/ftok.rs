//! The file that a key may come from: ftok(3) of the C library, in reverse.
//!
//! glibc and musl build a key from the lowest 8 bits of the project id, 8 of the device and 16 of the inode
//! (sysvipc/ftok.c). Different files can have the same key, so this is a hint, not a proof.

/// The parts of a key that ftok built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Project id, lowest 8 bits.
    pub proj: u8,
    /// Device number, lowest 8 bits.
    pub dev: u8,
    /// Inode number, lowest 16 bits.
    pub ino: u16,
}

impl Key {
    /// The parts; `None` for a private object.
    pub fn of(key: i32) -> Option<Self> {
        let [proj, dev, hi, lo] = key.to_be_bytes();
        (key != 0).then(|| Self { proj, dev, ino: u16::from_be_bytes([hi, lo]) })
    }

    /// Whether ftok returns the key for this file and some project id.
    pub fn fits(self, dev: u64, ino: u64) -> bool {
        dev & 0xff == u64::from(self.dev) && ino & 0xffff == u64::from(self.ino)
    }
}

/// The parts in words; a printable project id is also shown as a character.
pub fn hint(key: Key) -> String {
    let proj = char::from(key.proj);
    let proj = if proj.is_ascii_graphic() { format!("{} ('{proj}')", key.proj) } else { key.proj.to_string() };
    format!("if by ftok: project id {proj}, device ends in {:#04x}, inode number ends in {:#06x}", key.dev, key.ino)
}
