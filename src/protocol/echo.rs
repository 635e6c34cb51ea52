//! The echo protocol: nobody logs in, and each message comes back as it came.

use std::borrow::Cow;

use super::{Command, Encoding, Login, Malformed, Rules};

/// The rules of [`super::Protocol::Echo`].
pub(super) struct Echo;

impl Rules for Echo {
    const SUBPROTOCOL: Option<&'static str> = None;
    const LOGIN: Login = Login::Anonymous;
    const ENCODING: Encoding = Encoding::Payload;

    #[inline]
    fn parse(_message: &[u8]) -> Result<Command, Malformed> {
        Ok(Command::Echo)
    }

    fn login_reply(_template: &str, _uid: &str) -> Option<String> {
        None
    }

    /// None: a test suite counts frames, so it learns of errors by the close code alone.
    fn error(_text: &str) -> Option<Cow<'static, str>> {
        None
    }
}
