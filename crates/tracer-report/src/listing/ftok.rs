//! What a key may come from: ftok(3) of the C library, in reverse.
//!
//! glibc and musl make it of the project id's lowest 8 bits, the device's lowest 8 and the inode's lowest 16
//! (sysvipc/ftok.c). Different files can give the same key, so this is a hint and no proof.

/// The parts of a key, if ftok made it.
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

    /// Whether ftok of this file and some project id gives the key.
    pub fn fits(self, dev: u64, ino: u64) -> bool {
        dev & 0xff == u64::from(self.dev) && ino & 0xffff == u64::from(self.ino)
    }
}

/// The parts in words; a printable project id is shown as the character that programs write.
pub fn hint(key: Key) -> String {
    let proj = char::from(key.proj);
    let proj = if proj.is_ascii_graphic() { format!("{} ('{proj}')", key.proj) } else { key.proj.to_string() };
    format!("if by ftok: project id {proj}, device ends in {:#04x}, inode number ends in {:#06x}", key.dev, key.ino)
}
