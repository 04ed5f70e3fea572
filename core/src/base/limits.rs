//! Every bound of the engine, its unit and its reason. A setting may lower or raise the ones that say so.

/// Header fields in one head: the size of the stack array that a head is parsed into. Settings may lower it.
pub const HEADER_COUNT_MAX: usize = 128;

/// Bytes of one pooled I/O buffer. A head must fit into one, so it is also the ceiling of `header_bytes`.
pub const BUFFER_BYTES: usize = 16 * 1024;

/// Default for the bytes of a request or response head, start line and all fields included. nginx: 4×8 KiB, `HAProxy`: 16 KiB.
pub const HEADER_BYTES_DEFAULT: usize = 16 * 1024;

/// Default for the bytes of a request target (RFC 9110 section 4.1 asks for at least 8,000).
pub const URI_BYTES_DEFAULT: usize = 8 * 1024;

/// Bytes of one chunk-size line, extensions included (RFC 9112 section 7.1.1 asks for a bound).
pub const CHUNK_LINE_BYTES_MAX: usize = 4 * 1024;

/// Bytes of a whole trailer section.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// Bytes of a request method. The longest registered one (UPDATEREDIRECTREF) has 17; a longer one is no method.
pub const METHOD_BYTES_MAX: usize = 32;

/// Members of all Connection fields of a head together. Each is looked up among the fields, so the product must
/// be bounded; real messages carry one to three.
pub const CONNECTION_OPTION_COUNT_MAX: usize = 32;

/// Empty lines that are skipped before a request line (RFC 9112 section 2.2 asks for at least one).
pub const LEADING_EMPTY_LINE_COUNT_MAX: usize = 2;

/// Bytes of chunk framing beyond what is fair (16 per chunk and twice its data) that one body may pile up before it
/// is refused: bounds extensions and floods of tiny chunks alike. Go's net/http uses the same measure and figure.
pub const CHUNK_EXCESS_BYTES_MAX: u64 = 16 * 1024;
