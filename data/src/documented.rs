//! Structs of settings whose documentation can be read by the program: what it prints of a key is what
//! the key's docstring says.

/// What the fields of a struct are called and what their documentation says.
pub trait Documented {
    /// Name and documentation of every field, in order.
    const FIELDS: &'static [(&'static str, &'static str)];
}

/// Declares a struct of public fields and implements [`Documented`] for it.
///
/// ```
/// use rankwise_data::{Documented, documented};
/// documented! {
/// /// Settings.
/// pub struct Settings {
///     /// How often,
///     /// at most.
///     pub times: usize,
/// }
/// }
/// assert_eq!(Settings::FIELDS, [("times", " How often, at most.")]);
/// ```
#[macro_export]
macro_rules! documented {
    ($(#[$meta:meta])* pub struct $name:ident {
        $($(#[doc = $doc:literal])* $(#[serde($($serde:tt)*)])? pub $field:ident: $type:ty,)*
    }) => {
        $(#[$meta])*
        pub struct $name {
            $($(#[doc = $doc])* $(#[serde($($serde)*)])? pub $field: $type,)*
        }

        impl $crate::Documented for $name {
            const FIELDS: &'static [(&'static str, &'static str)] =
                &[$((stringify!($field), concat!($($doc),*)),)*];
        }
    };
}
