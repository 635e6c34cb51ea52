//! How a peer can break RFC 6455, with the close code and reason for each.

use super::close;

/// An act of the peer that RFC 6455 or the message limit forbids.
///
/// Its text is the close frame's reason: at most 123 bytes, with the value that came and the values that are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A frame without a mask (section 5.1).
    #[error("frame is not masked, expected every client frame masked")]
    Unmasked,
    /// A reserved bit that no extension gave a meaning (section 5.2).
    #[error("reserved bits are {0:#05b}, expected 0 as no extension was negotiated")]
    ReservedBits(u8),
    /// An opcode without a meaning (section 5.2).
    #[error("opcode {0:#x} is reserved, expected 0x0, 0x1, 0x2, 0x8, 0x9 or 0xa")]
    ReservedOpcode(u8),
    /// A control frame that is not final (section 5.5).
    #[error("control frame is fragmented, expected it whole")]
    FragmentedControl,
    /// A control frame that announces more than 125 bytes (section 5.5).
    #[error("control frame is longer than 125 bytes, expected 0 to 125")]
    ControlTooLong,
    /// A length written with more bytes than it needs (section 5.2).
    #[error("payload length {0} is not in its shortest form, expected the fewest bytes")]
    LengthNotMinimal(u64),
    /// A 64-bit length with its top bit set (section 5.2).
    #[error("payload length has its top bit set, expected at most 63 bits")]
    LengthTopBit,
    /// A continuation with no message to continue (section 5.4).
    #[error("continuation frame outside a message, expected a text or binary frame first")]
    ContinuationWithoutStart,
    /// A new message before the fragmented one ended (section 5.4).
    #[error("new message inside a fragmented one, expected a continuation frame")]
    DataInsideMessage,
    /// A message, its fragments added up, over the limit.
    #[error("message has at least {length} bytes, expected at most {max}")]
    MessageTooLarge {
        /// Bytes announced so far.
        length: u64,
        /// The limit, `message_bytes_max`.
        max: usize,
    },
    /// A text message that is not UTF-8 (section 8.1).
    #[error("text message is not valid utf-8")]
    TextNotUtf8,
    /// A close frame with half a code (section 5.5.1).
    #[error("close frame has a body of 1 byte, expected 0 or at least 2")]
    CloseBodyTooShort,
    /// A close code that may not be sent (section 7.4).
    #[error("close code {0} is not allowed, expected 1000-1003, 1007-1014 or 3000-4999")]
    CloseCodeInvalid(u16),
    /// A close reason that is not UTF-8 (section 5.5.1).
    #[error("close reason is not valid utf-8")]
    CloseReasonNotUtf8,
}

impl Violation {
    /// Returns the close code for the peer (RFC 6455, section 7.4.1).
    pub fn close_code(&self) -> u16 {
        match self {
            Self::MessageTooLarge { .. } => close::TOO_BIG,
            Self::TextNotUtf8 | Self::CloseReasonNotUtf8 => close::NOT_UTF8,
            Self::Unmasked
            | Self::ReservedBits(_)
            | Self::ReservedOpcode(_)
            | Self::FragmentedControl
            | Self::ControlTooLong
            | Self::LengthNotMinimal(_)
            | Self::LengthTopBit
            | Self::ContinuationWithoutStart
            | Self::DataInsideMessage
            | Self::CloseBodyTooShort
            | Self::CloseCodeInvalid(_) => close::PROTOCOL_ERROR,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(violation: Violation, code: u16) {
        let reason = violation.to_string();
        assert_eq!(violation.close_code(), code, "{reason}");
        assert!(reason.len() <= 123, "{} bytes: {reason}", reason.len());
        assert!(!reason.ends_with('.') && reason.starts_with(char::is_lowercase), "{reason}");
    }

    #[test]
    fn every_violation_has_its_code_and_a_reason_that_fits_a_close_frame() {
        check(Violation::Unmasked, 1002);
        check(Violation::ReservedBits(7), 1002);
        check(Violation::ReservedOpcode(15), 1002);
        check(Violation::FragmentedControl, 1002);
        check(Violation::ControlTooLong, 1002);
        check(Violation::LengthNotMinimal(65535), 1002);
        check(Violation::LengthTopBit, 1002);
        check(Violation::ContinuationWithoutStart, 1002);
        check(Violation::DataInsideMessage, 1002);
        check(Violation::MessageTooLarge { length: u64::MAX, max: usize::MAX }, 1009);
        check(Violation::TextNotUtf8, 1007);
        check(Violation::CloseBodyTooShort, 1002);
        check(Violation::CloseCodeInvalid(u16::MAX), 1002);
        check(Violation::CloseReasonNotUtf8, 1007);
    }
}
