//! The plain protocol: what a message is split into, who can log in, and what that is answered.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pombo::protocol::{Command, Protocol, Recipient, Span, plain};
use pombo::uid::{Uid, UidHasher};

fuzz_target!(|bytes: &[u8]| {
    let colon = bytes.iter().position(|&byte| byte == b':');
    let expected = |message: &[u8], colon| {
        let uid = Span::new(0, colon);
        let recipient = if &message[..colon] == b"all" { Recipient::Everybody } else { Recipient::Uid(uid) };
        Command::Send { recipient, payload: Span::new(colon + 1, message.len()) }
    };
    assert_eq!(plain::parse(bytes), colon.map(|colon| expected(bytes, colon)));
    let hasher = UidHasher::fixed(1);
    match Uid::new(bytes, 256, &hasher) {
        Ok(uid) => {
            assert!(uid.as_str().as_bytes() == bytes && uid.hash() == hasher.hash(bytes));
            // Whoever can log in can be written to.
            let message = [bytes, b":hi"].concat();
            assert_eq!(plain::parse(&message), Some(expected(&message, bytes.len())));
            let reply = Protocol::Plain.login_reply("seu uid é {uid}", uid.as_str());
            assert_eq!(reply, Some(format!("seu uid é {}", uid.as_str())));
        }
        Err(error) => {
            let is_text = std::str::from_utf8(bytes).is_ok();
            assert!(!is_text || !(1..=256).contains(&bytes.len()) || colon.is_some() || bytes == b"all", "{error}");
        }
    }
});
