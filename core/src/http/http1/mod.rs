//! The HTTP/1.x wire format: heads are parsed strictly on the way in and written afresh on the way out.

pub mod encode;
pub mod parse;

#[cfg(test)]
mod tests;
