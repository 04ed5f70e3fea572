//! Every bound of the engine, its unit and its reason. A setting may lower or raise the ones that say so.

/// Header fields in one head: the size of the stack array that a head is parsed into. Settings may lower it.
pub const HEADER_COUNT_MAX: usize = 128;

/// Bytes of one pooled I/O buffer. A head must fit into one, so it is also the ceiling of `header_bytes`.
pub const BUFFER_BYTES: usize = 16 * 1024;

/// Default for the bytes of a request or response head, start line and all fields included. nginx: 4×8 KiB, HAProxy: 16 KiB.
pub const HEADER_BYTES_DEFAULT: usize = 16 * 1024;

/// Default for the bytes of a request target (RFC 9110 section 4.1 asks for at least 8,000).
pub const URI_BYTES_DEFAULT: usize = 8 * 1024;

/// Bytes of one chunk-size line, extensions included (RFC 9112 section 7.1.1 asks for a bound).
pub const CHUNK_LINE_BYTES_MAX: usize = 4 * 1024;

/// Bytes of a whole trailer section.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;
