//! Where connections come in.

#![allow(dead_code, reason = "the page is served by the listener, which is not in this branch")]

mod page;
