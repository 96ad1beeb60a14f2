//! What redaction does to one field: nothing to numbers, a token in place of each text.
//!
//! `#[derive(Redact)]` calls this for each field of a record. Text has no [`Redact`], so it cannot be forgotten.

pub(crate) use super::name::Names;

/// Takes the names out of a value.
pub(crate) trait Redact {
    fn redact(&mut self, names: &Names);
}

macro_rules! numbers {
    ($($number:ty)*) => { $(
        impl Redact for $number {
            fn redact(&mut self, _: &Names) {}
        }
    )* };
}

numbers!(bool char u8 u16 u32 u64 usize i16 i32 i64);

impl<T: Redact> Redact for Option<T> {
    fn redact(&mut self, names: &Names) {
        self.iter_mut().for_each(|value| value.redact(names));
    }
}

impl<T: Redact> Redact for Vec<T> {
    fn redact(&mut self, names: &Names) {
        self.iter_mut().for_each(|value| value.redact(names));
    }
}

impl<T: Redact, const N: usize> Redact for [T; N] {
    fn redact(&mut self, names: &Names) {
        self.iter_mut().for_each(|value| value.redact(names));
    }
}

impl<A: Redact, B: Redact> Redact for (A, B) {
    fn redact(&mut self, names: &Names) {
        self.0.redact(names);
        self.1.redact(names);
    }
}

/// A field that holds texts.
pub(crate) trait Texts {
    /// Calls `change` with each text.
    fn each(&mut self, change: &mut impl FnMut(&mut String));
}

impl Texts for String {
    fn each(&mut self, change: &mut impl FnMut(&mut String)) {
        change(self);
    }
}

impl<T: Texts> Texts for Option<T> {
    fn each(&mut self, change: &mut impl FnMut(&mut String)) {
        self.iter_mut().for_each(|value| value.each(change));
    }
}

impl<T: Texts> Texts for Vec<T> {
    fn each(&mut self, change: &mut impl FnMut(&mut String)) {
        self.iter_mut().for_each(|value| value.each(change));
    }
}

/// A number and its text: a descriptor and its link.
impl<T: Texts> Texts for (u32, T) {
    fn each(&mut self, change: &mut impl FnMut(&mut String)) {
        self.1.each(change);
    }
}
