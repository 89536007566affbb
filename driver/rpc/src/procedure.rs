//! What a procedure and an event are, and the macro that makes the table of them.

use crate::xdr::Xdr;

/// Who may call a procedure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anyone, before authentication too.
    Anyone,
    /// Read-only connections too.
    Read,
    /// Only connections that may change things.
    Write,
}

/// A procedure, with the types of what it takes and gives.
pub trait Procedure {
    /// Number on the wire.
    const NUMBER: i32;
    /// Name, as in libvirt's protocol.
    const NAME: &'static str;
    /// Arguments.
    type Args: Xdr;
    /// Reply.
    type Reply: Xdr;
}

/// A message that a daemon sends without being asked; implemented by its content.
pub trait Event: Xdr {
    /// Number on the wire, from the same range as procedures.
    const NUMBER: i32;
    /// Name, as in libvirt's protocol.
    const NAME: &'static str;
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcedureInfo {
    /// Number on the wire.
    pub number: i32,
    /// Name, as in libvirt's protocol.
    pub name: &'static str,
    /// Who may call it.
    pub access: Access,
}

/// Makes a module for each procedure and event, with `Args`, `Reply` and `Call` or `Message`, and the list of all.
macro_rules! protocol {
    (
        procedures { $($number:literal $name:ident $access:ident
            ($($arg:ident: $arg_type:ty),*) -> ($($ret:ident: $ret_type:ty),*);)* }
        events { $($event_number:literal $event_name:ident ($($field:ident: $field_type:ty),*);)* }
    ) => {
        /// Every procedure, by ascending number.
        pub const PROCEDURES: &[ProcedureInfo] = &[
            $(ProcedureInfo { number: $number, name: stringify!($name), access: Access::$access },)*
        ];

        $(
            #[doc = concat!("Procedure ", stringify!($number), ".")]
            pub mod $name {
                use super::*;

                protocol!(@structure "Arguments." Args { $($arg: $arg_type,)* });
                protocol!(@structure "Reply." Reply { $($ret: $ret_type,)* });

                /// The procedure itself.
                #[derive(Debug, Clone, Copy)]
                pub struct Call;

                impl Procedure for Call {
                    const NUMBER: i32 = $number;
                    const NAME: &'static str = stringify!($name);
                    type Args = Args;
                    type Reply = Reply;
                }
            }
        )*

        $(
            #[doc = concat!("Message ", stringify!($event_number), ".")]
            pub mod $event_name {
                use super::*;

                protocol!(@structure "Content." Message { $($field: $field_type,)* });

                impl Event for Message {
                    const NUMBER: i32 = $event_number;
                    const NAME: &'static str = stringify!($event_name);
                }
            }
        )*

        /// Decodes the arguments, and replies too, of whichever procedure, and encodes them again: for tests.
        #[cfg(any(test, feature = "fuzzing"))]
        pub(crate) fn round_trip(number: i32, bytes: &[u8]) -> Option<RoundTrip> {
            match number {
                $($number => Some(RoundTrip { args: again::<$name::Args>(bytes), reply: again::<$name::Reply>(bytes) }),)*
                $($event_number => Some(RoundTrip { args: again::<$event_name::Message>(bytes), reply: None }),)*
                _ => None,
            }
        }
    };

    (@structure $doc:literal $name:ident { $($field:ident: $type:ty,)* }) => {
        #[doc = $doc]
        #[allow(missing_docs, reason = "the row of the table is the description")]
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $(pub $field: $type,)*
        }

        impl Xdr for $name {
            #[allow(unused_variables, reason = "some have no fields")]
            fn encode(&self, out: &mut Encoder) {
                $(self.$field.encode(out);)*
            }

            #[allow(unused_variables, reason = "some have no fields")]
            fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {
                Ok(Self { $($field: Xdr::decode(input)?,)* })
            }
        }
    };
}

pub(crate) use protocol;
