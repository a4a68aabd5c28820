//! Labels, whose values are known beforehand.

/// A label of a metric, as it is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// All its values; empty if `origin` says where they come from.
    pub values: &'static [&'static str],
    /// What bounds the values that are not listed here.
    pub origin: &'static str,
}

impl Label {
    /// A label whose values are written down somewhere else: in the contract, say. Nothing that a caller chooses.
    pub const fn of(name: &'static str, origin: &'static str) -> Self {
        Self { name, values: &[], origin }
    }

    /// A label with these values.
    pub const fn among(name: &'static str, values: &'static [&'static str]) -> Self {
        Self { name, values, origin: "" }
    }
}

/// An enum whose variants are the values of a label; made by [`label_values!`](crate::label_values).
pub trait LabelValue: Copy + 'static {
    /// The label.
    const LABEL: Label;

    /// The variant's place in [`Label::values`].
    fn index(self) -> usize;
}

/// Makes an enum whose variants are the values of a label.
///
/// ```
/// chatfn_telemetry::label_values! {
///     /// How a run ended.
///     pub enum Ending: "outcome" {
///         /// It returned.
///         Returned = "returned",
///         /// It threw.
///         Threw = "threw",
///     }
/// }
/// use chatfn_telemetry::LabelValue as _;
/// assert_eq!(Ending::LABEL.values[Ending::Threw.index()], "threw");
/// ```
#[macro_export]
macro_rules! label_values {
    (
        $(#[$meta:meta])*
        $visibility:vis enum $name:ident: $label:literal {
            $($(#[$value_meta:meta])* $variant:ident = $value:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $visibility enum $name {
            $($(#[$value_meta])* $variant,)+
        }

        impl $crate::LabelValue for $name {
            const LABEL: $crate::Label = $crate::Label::among($label, &[$($value),+]);

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}
