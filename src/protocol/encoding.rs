//! Encodings: a message is protocol-neutral on its way through the node, and is encoded once per encoding that has a receiver.

use crate::message::{Kind, Payload};

/// The wire format of messages; several protocols may share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Encoding {
    /// The payload itself, at no cost.
    Payload,
    /// A JSON object around the payload, for the tests.
    #[cfg(test)]
    Json,
}

impl Encoding {
    /// Every encoding; the index of each is its discriminant.
    pub const ALL: &[Self] = &[
        Self::Payload,
        #[cfg(test)]
        Self::Json,
    ];

    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Encodes a message; [`Encoding::Payload`] is not asked for it.
    ///
    /// Must not panic, whatever the payload holds: it is foreign input, and a panic here ends the shard.
    fn encode(self, kind: Kind, payload: &[u8]) -> (Kind, Payload<'static>) {
        match self {
            Self::Payload => unreachable!("the payload itself is the message ({kind:?}, {} bytes)", payload.len()),
            #[cfg(test)]
            Self::Json => super::json::encode(kind, payload),
        }
    }
}

/// A message on its way to its receivers, which may speak several protocols.
#[derive(Debug)]
pub struct Message<'a> {
    kind: Kind,
    payload: Payload<'a>,
    /// The message in each encoding but the first; `None` until a receiver needs it.
    encoded: [Option<(Kind, Payload<'static>)>; Encoding::COUNT - 1],
}

impl<'a> Message<'a> {
    /// Makes a message that is not encoded yet.
    #[inline]
    pub fn new(kind: Kind, payload: Payload<'a>) -> Self {
        Self { kind, payload, encoded: [const { None }; Encoding::COUNT - 1] }
    }

    /// Returns the kind of message that the sender sent.
    #[inline]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the payload as its sender sent it.
    #[inline]
    pub fn payload(&self) -> &Payload<'a> {
        &self.payload
    }

    /// Returns its kind and payload in an encoding; encodes it at the first call for each encoding.
    #[inline]
    pub fn encoded(&mut self, encoding: Encoding) -> (Kind, &Payload<'_>) {
        if encoding == Encoding::Payload {
            return (self.kind, &self.payload);
        }
        let made = self.encoded[encoding as usize - 1]
            .get_or_insert_with(|| encoding.encode(self.kind, self.payload.as_slice()));
        (made.0, &made.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_encoding_is_made_once() {
        for (place, &encoding) in Encoding::ALL.iter().enumerate() {
            assert_eq!(encoding as usize, place);
        }
        let mut message = Message::new(Kind::Binary, Payload::Borrowed(b"hi"));
        let (kind, payload) = message.encoded(Encoding::Payload);
        assert_eq!((kind, payload.as_slice()), (Kind::Binary, &b"hi"[..]));
        let first = message.encoded(Encoding::Json).1.as_slice().as_ptr();
        let (kind, payload) = message.encoded(Encoding::Json);
        assert_eq!((kind, payload.as_slice().as_ptr()), (Kind::Text, first));
    }
}
