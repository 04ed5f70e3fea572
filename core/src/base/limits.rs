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

/// Bytes of a configuration file. Read whole, so it must be bounded; 10,000 routes with five fields each take about 3 MiB.
pub const CONFIG_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Nesting of a configuration file. The format itself needs 8; the bound keeps recursion off the end of the stack.
pub const CONFIG_DEPTH_MAX: usize = 32;

/// YAML nodes of a configuration file after aliases are expanded: stops a file that doubles itself with each alias.
pub const CONFIG_NODES_MAX: usize = 4_000_000;

/// Errors listed before a report says "and more": a person reads no further.
pub const CONFIG_ERRORS_MAX: usize = 100;

/// Routes, listeners, upstreams and endpoints of one upstream: far above any real file, and they fit a `u32` index.
pub const ROUTES_MAX: usize = 200_000;
pub const LISTENERS_MAX: usize = 1_000;
pub const UPSTREAMS_MAX: usize = 100_000;
pub const ENDPOINTS_MAX: usize = 10_000;

/// Endpoint weight: the ratio of two endpoints stays within what a smooth schedule can hold.
pub const ENDPOINT_WEIGHT_MAX: u32 = 1_000;

/// Characters of one regular expression, and bytes of its compiled program: matching stays linear, this bounds the memory.
pub const REGEX_CHARS_MAX: usize = 1_024;
pub const REGEX_PROGRAM_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a body that a route answers with by itself: it is kept in the snapshot and sent from one buffer.
pub const RESPOND_BODY_BYTES_MAX: usize = 64 * 1024;

/// Characters of a name (listener, upstream, route): it becomes a metric label.
pub const NAME_CHARS_MAX: usize = 128;

/// Header operations of one route and direction, and bytes of one value: they must fit the head's buffer.
pub const HEADER_OPS_MAX: usize = 64;
pub const HEADER_VALUE_BYTES_MAX: usize = 4 * 1024;

/// A setting's duration: longer is a slip of the pen.
pub const DURATION_DAYS_MAX: u64 = 30;

/// Hosts summed over all routes: each pair is an entry of the route table.
pub const ROUTE_HOSTS_MAX: usize = 1_000_000;
