//! The names that the closed lists of the record have in the machine-readable form, taken from the
//! derived code, so that a new variant cannot be forgotten.

use serde::de::value::{Error, StrDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::finding::{FindingKind, Severity};
use super::record::{Kind, Method, RefusalClass};

macro_rules! named {
    ($list:ty) => {
        impl $list {
            /// Its name in the machine-readable form.
            pub fn name(self) -> &'static str {
                let is_own = |name: &&&'static str| Self::named(name) == Some(self);
                names::<Self>().iter().find(is_own).copied().unwrap_or("")
            }

            /// The one of that name.
            pub fn named(name: &str) -> Option<Self> {
                named(name)
            }

            /// All names.
            pub fn names() -> &'static [&'static str] {
                names::<Self>()
            }
        }
    };
}

named!(FindingKind);
named!(Severity);
named!(RefusalClass);
named!(Kind);
named!(Method);

fn named<T: DeserializeOwned>(name: &str) -> Option<T> {
    let deserializer: StrDeserializer<'_, Error> = name.into_deserializer();
    T::deserialize(deserializer).ok()
}

/// The variants' names of an enum, which its derived reader hands to any deserialiser.
fn names<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut asked = Asked(&[]);
    // Always an error: the question is all that is wanted.
    let _ = T::deserialize(&mut asked);
    asked.0
}

struct Asked(&'static [&'static str]);

impl<'de> Deserializer<'de> for &mut Asked {
    type Error = Error;

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.0 = variants;
        Err(Error::custom("names only"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("names only"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_machine_readable_form() {
        assert!(FindingKind::names().contains(&"zero_update"));
        for &name in FindingKind::names() {
            let kind = FindingKind::named(name).unwrap();
            assert_eq!(kind.name(), name);
            assert_eq!(serde_json::to_value(kind).unwrap(), name);
        }
        assert!(Kind::names().contains(&"linear"));
        for &name in Kind::names() {
            let kind = Kind::named(name).unwrap();
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
        assert_eq!(FindingKind::named("zero"), None);
    }
}
