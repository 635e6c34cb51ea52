//! The plain protocol: what a message is split into, who can log in, and what that is answered.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pombo::protocol::plain::{self, Recipient};
use pombo::uid::{Uid, UidHasher};

fuzz_target!(|bytes: &[u8]| {
    let colon = bytes.iter().position(|&byte| byte == b':');
    let command = plain::parse(bytes);
    assert_eq!(command.map(|command| command.colon), colon);
    if let Some(command) = command {
        assert_eq!(command.recipient == Recipient::Everybody, &bytes[..command.colon] == b"all");
    }
    let hasher = UidHasher::fixed(1);
    match Uid::new(bytes, 256, &hasher) {
        Ok(uid) => {
            assert!(uid.as_str().as_bytes() == bytes && uid.hash() == hasher.hash(bytes));
            // Whoever can log in can be written to.
            let message = [bytes, b":hi"].concat();
            let command = plain::parse(&message).expect("it has a colon");
            assert!(command.recipient == Recipient::Uid && command.colon == bytes.len());
            assert_eq!(plain::login_reply("seu uid é {uid}", uid.as_str()), format!("seu uid é {}", uid.as_str()));
        }
        Err(error) => {
            let is_text = std::str::from_utf8(bytes).is_ok();
            assert!(!is_text || !(1..=256).contains(&bytes.len()) || colon.is_some() || bytes == b"all", "{error}");
        }
    }
});
