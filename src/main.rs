//! Entry point: hands over to the library's command line.

fn main() {}
